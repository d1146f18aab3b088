# Datagrams that know themselves, sent many at a time by UDP_SEGMENT and taken whole or joined (UDP_GRO).
#   send FAMILY TARGET PORT SEED      prints what it sent, one "number length" a line
#   receive FAMILY PORT JOINED        prints what it got, in order, until the last one or five idle seconds
use strict; use warnings;
use Socket qw(:all);

my ($udp, $segment, $joined) = (17, 103, 104); # SOL_UDP, UDP_SEGMENT, UDP_GRO of linux/udp.h
my $last = 0xffffffff;
$| = 1;

# Number and length stand first, so that joined ones can be told apart; the rest follows from the number.
sub datagram {
    my ($number, $length) = @_;
    my $body = '';
    my $state = ($number * 2654435761 + $length) & 0xffffffff;
    while (length($body) < $length - 6) {
        $state = ($state * 1664525 + 1013904223) & 0xffffffff;
        $body .= pack('N', $state);
    }
    return pack('Nn', $number, $length) . substr($body, 0, $length - 6);
}

sub open_socket {
    my $family = shift eq '6' ? AF_INET6 : AF_INET;
    socket(my $socket, $family, SOCK_DGRAM, 0) or die "socket: $!";
    return ($socket, $family);
}

sub address {
    my ($family, $text, $port) = @_;
    return $family == AF_INET6 ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $text)) : pack_sockaddr_in($port, inet_pton(AF_INET, $text));
}

my ($mode, $version, @rest) = @ARGV;
my ($socket, $family) = open_socket($version);
if ($mode eq 'send') {
    my ($target, $port, $seed) = @rest;
    my $to = address($family, $target, $port);
    srand($seed);
    my $number = 0;
    my $send = sub {
        my ($size, @lengths) = @_;
        setsockopt($socket, $udp, $segment, pack('i', $size)) or die "UDP_SEGMENT: $!";
        my $bytes = join '', map { print "$number $_\n"; datagram($number++, $_) } @lengths;
        defined(send($socket, $bytes, 0, $to)) or die "send: $!";
        select(undef, undef, undef, 0.004);
    };
    for (1 .. 60) {
        my $size = 8 + int(rand(1370)); # up to what fits 1430 bytes over IPv6
        my $count = 2 + int(rand(30));
        my $rest = 6 + int(rand($size - 6));
        $send->($size, ($size) x $count, $rest);
        $send->(0, 6 + int(rand(1300))) if rand() < 0.5;
        # More than the MTU: the host cuts it into fragments.
        $send->(0, 1500 + int(rand(7000))) if rand() < 0.2;
    }
    for (1 .. 3) { $number = $last; $send->(0, 6) }
} else {
    my ($port, $whole) = @rest;
    setsockopt($socket, SOL_SOCKET, SO_RCVBUF, pack('i', 4 << 20)) or die "SO_RCVBUF: $!";
    if ($whole) { setsockopt($socket, $udp, $joined, pack('i', 1)) or die "UDP_GRO: $!" }
    bind($socket, address($family, $family == AF_INET6 ? '::' : '0.0.0.0', $port)) or die "bind: $!";
    print "listening\n";
    my $longest = 0;
    RECEIVE: while (1) {
        my $ready = ''; vec($ready, fileno($socket), 1) = 1;
        last unless select($ready, undef, undef, 5);
        defined(recv($socket, my $bytes, 65536, 0)) or die "recv: $!";
        while (length $bytes) {
            my ($number, $length) = length($bytes) >= 6 ? unpack('Nn', $bytes) : (0, 0);
            last RECEIVE if $number == $last;
            # Without joining, one datagram is all there is.
            if ($length < 6 || $length > length($bytes) || (!$whole && $length != length($bytes)) || substr($bytes, 0, $length) ne datagram($number, $length)) {
                print "broken ", length($bytes), "\n";
                last;
            }
            print "$number $length\n";
            $bytes = substr($bytes, $length);
        }
    }
}
