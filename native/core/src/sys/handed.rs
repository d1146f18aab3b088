//! Descriptors that another process opened: what they really are.
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;

/// The first descriptor that systemd passes (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST: RawFd = 3;
/// /dev/net/tun (Documentation/admin-guide/devices.txt).
const TUN_DEVICE: (u32, u32) = (10, 200);

/// What a descriptor can be that we have a use for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A queue of some TUN or TAP device.
    Tun,
    /// A UDP socket over IPv4 or IPv6.
    Udp,
    /// A raw socket for IP in IPv4.
    IpIp,
}

/// What `fd` is; none where we have no use for it.
pub fn kind(fd: BorrowedFd<'_>) -> Option<Kind> {
    let stat = stat(fd).ok()?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFCHR {
        let device = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
        return (device == TUN_DEVICE).then_some(Kind::Tun);
    }
    let protocol = option(fd, libc::SO_PROTOCOL).ok()?;
    let domain = option(fd, libc::SO_DOMAIN).ok()?;
    let inet = [libc::AF_INET, libc::AF_INET6].contains(&domain);
    match protocol {
        libc::IPPROTO_UDP if inet => Some(Kind::Udp),
        libc::IPPROTO_IPIP if domain == libc::AF_INET => Some(Kind::IpIp),
        _ => None,
    }
}

/// Takes the descriptors from 3 on, of which `count` were passed to this process; programs that we start do not
/// inherit them. Only TUN queues and such sockets are taken, each with its position: the count comes from outside,
/// and anything else may be the runtime's own. Gives none the second time.
///
/// To be called before this process opens such descriptors of its own.
pub fn inherited(count: usize) -> Vec<(usize, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let passed = (FIRST..).take(count).enumerate();
    passed
        .filter_map(|(at, number)| {
            // SAFETY: F_SETFD on a number that is no descriptor fails.
            check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).ok()?;
            // SAFETY: it is open, as the call before has shown, and nothing closes it meanwhile.
            kind(unsafe { BorrowedFd::borrow_raw(number) })?;
            // SAFETY: by its kind it is one that was passed to us, and the flag above lets it be taken once.
            Some((at, unsafe { OwnedFd::from_raw_fd(number) }))
        })
        .collect()
}

/// Whether the network namespace that `request` (TUNGETDEVNETNS, SIOCGSKNS) tells of `fd` is the one we are in.
pub fn is_in_our_namespace(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<bool> {
    const SIOCGSKNS: libc::c_ulong = 0x894c;
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    let ours = stat(namespace(socket.as_fd(), SIOCGSKNS)?.as_fd())?;
    let theirs = stat(namespace(fd, request)?.as_fd())?;
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}

/// As above, for a socket.
pub fn socket_is_in_our_namespace(fd: BorrowedFd<'_>) -> io::Result<bool> {
    is_in_our_namespace(fd, 0x894c)
}

fn namespace(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<OwnedFd> {
    // SAFETY: both requests take no argument and open a descriptor.
    let opened = check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// An option of SOL_SOCKET that is a number.
pub fn option(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `len` bytes to the int, which outlives the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &mut len,
        )
    })?;
    Ok(value)
}

/// Where a UDP socket is bound, and to whom it is connected.
pub fn addresses(fd: BorrowedFd<'_>) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
    let socket = UdpSocket::from(fd.try_clone_to_owned()?);
    Ok((socket.local_addr()?, socket.peer_addr().ok()))
}

fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes one stat, which outlives the call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and so filled it.
    Ok(unsafe { stat.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_descriptor_is_what_the_kernel_says_it_is() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(kind(udp.as_fd()), Some(Kind::Udp));
        assert_eq!(kind(File::open("/dev/null").unwrap().as_fd()), None);
        assert_eq!(kind(UnixDatagram::unbound().unwrap().as_fd()), None);
        assert_eq!(
            kind(TcpListener::bind("127.0.0.1:0").unwrap().as_fd()),
            None
        );
    }

    #[test]
    fn addresses_are_told_apart() {
        let (one, other) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let own = one.local_addr().unwrap();
        assert_eq!(addresses(one.as_fd()).unwrap(), (own, None));
        one.connect(other.local_addr().unwrap()).unwrap();
        let connected = addresses(one.as_fd()).unwrap();
        assert_eq!(connected, (own, Some(other.local_addr().unwrap())));
    }
}
