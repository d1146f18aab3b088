//! Joins TCP segments that follow each other, and UDP datagrams of one size, into super-packets, within one batch (what
//! the kernel calls GRO).
use std::array;
use std::collections::VecDeque;
use std::io::IoSlice;

use super::transport::{self, FlowKey, UDP_HEADER_LEN};
use super::writer::Writer;
use crate::port::{PacketPort, Span};
use crate::wire::ip::{self, IpHeader};
use crate::wire::virtio::{self, VnetHeader};
use crate::wire::{TCP, UDP, checksum, get_u16, get_u32, put_u16};

/// Flows that grow at the same time; one more sends the oldest off.
const FLOWS: usize = 8;
/// Segments of one super-packet: each is a part of one gathering write.
const MAX_SEGMENTS: usize = 128;
/// The IP total length that 16 bits can say.
const MAX_PACKET_BYTES: usize = 65_535;
/// IPv6 40 and TCP 60 bytes.
const MAX_HEADERS_LEN: usize = 100;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Super-packets in the making, oldest first. Refers to the batch's arena by number: flush before that is refilled.
#[derive(Debug, Default)]
pub struct Coalescer {
    flows: VecDeque<Flow>,
    /// Emptied lists, kept for their allocation.
    spare: Vec<Vec<Span>>,
}

#[derive(Debug)]
struct Flow {
    key: FlowKey,
    ip: IpHeader,
    /// The first packet, whose headers the others share.
    first: Span,
    headers_len: usize,
    /// Of all segments: their checksums were unfinished, not verified.
    unfinished: bool,
    /// Payload bytes of every segment but the last.
    size: usize,
    /// Of TCP; 0 where there is none.
    next_sequence: u32,
    payload_bytes: usize,
    payloads: Vec<Span>,
}

/// A TCP segment or UDP datagram that may be joined to others.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    key: FlowKey,
    ip: IpHeader,
    packet: Span,
    headers_len: usize,
    unfinished: bool,
    sequence: u32,
    next_sequence: u32,
    pushed: bool,
    payload: Span,
}

impl Segment {
    /// The segment in `packet` of `arena`, whose transport checksum is right or (`unfinished`) to be completed.
    /// None for whatever must be passed alone: other flags, no payload, fragments, IPv4 options, UDP without checksum.
    pub fn of(arena: &[u8], packet: Span, ip: &IpHeader, unfinished: bool) -> Option<Self> {
        let bytes = packet.of(arena);
        let plain = !ip.fragment && (!ip.is_v4() || ip.header_len == 20);
        if !plain || !ip::header_is_intact(bytes, ip) {
            return None;
        }
        let transport = match ip.protocol {
            TCP => Transport::tcp(bytes, ip)?,
            UDP => Transport::udp(bytes, ip)?,
            _ => return None,
        };
        let headers_len = ip.header_len + transport.header_len;
        let len = ip.total_len.checked_sub(headers_len)?;
        let advance = if ip.protocol == TCP { len as u32 } else { 0 };
        (len > 0).then(|| Self {
            key: FlowKey::of(bytes, ip),
            ip: *ip,
            packet,
            headers_len,
            unfinished,
            sequence: transport.sequence,
            next_sequence: transport.sequence.wrapping_add(advance),
            pushed: transport.pushed,
            payload: Span {
                start: packet.start + headers_len,
                len,
            },
        })
    }
}

/// What joining needs to know of a transport header.
struct Transport {
    header_len: usize,
    sequence: u32,
    pushed: bool,
}

impl Transport {
    fn tcp(packet: &[u8], ip: &IpHeader) -> Option<Self> {
        let flags = *packet.get(ip.header_len + 13)?;
        if flags & !PSH != ACK {
            return None;
        }
        Some(Self {
            header_len: transport::tcp_header_len(packet, ip.header_len)?,
            sequence: get_u32(packet, ip.header_len + 4)?,
            pushed: flags & PSH != 0,
        })
    }

    fn udp(packet: &[u8], ip: &IpHeader) -> Option<Self> {
        let length = get_u16(packet, ip.header_len + 4)?;
        let checksum = get_u16(packet, ip.header_len + 6)?;
        let whole = usize::from(length) == ip.transport_len() && checksum != 0;
        whole.then_some(Self {
            header_len: UDP_HEADER_LEN,
            sequence: 0,
            pushed: false,
        })
    }
}

impl Flow {
    fn accepts(&self, segment: &Segment, arena: &[u8]) -> bool {
        let total = self.headers_len + self.payload_bytes + segment.payload.len;
        segment.sequence == self.next_sequence
            && segment.payload.len <= self.size
            && segment.unfinished == self.unfinished
            && self.payloads.len() < MAX_SEGMENTS
            && total <= MAX_PACKET_BYTES
            && segment.headers_len == self.headers_len
            && self.numbers_on(segment.packet.of(arena), self.first.of(arena))
            && same_headers(
                self.first.of(arena),
                segment.packet.of(arena),
                &self.ip,
                self.headers_len,
            )
    }

    /// Whether cutting gives the segment the IPv4 identification it has. Where DF is set nothing looks at that
    /// (RFC 6864 §4.1); else a fragment of it could meet one of another packet.
    fn numbers_on(&self, packet: &[u8], first: &[u8]) -> bool {
        const DONT_FRAGMENT: u8 = 0x40;
        let next = ip::identification(first).wrapping_add(self.payloads.len() as u16);
        !self.ip.is_v4()
            || packet
                .get(6)
                .is_some_and(|flags| flags & DONT_FRAGMENT != 0)
            || ip::identification(packet) == next
    }

    fn append(&mut self, segment: &Segment) {
        self.payloads.push(segment.payload);
        self.payload_bytes += segment.payload.len;
        self.next_sequence = segment.next_sequence;
    }

    fn write(&self, arena: &[u8], pushed: bool, out: &Writer<'_, impl PacketPort>) {
        let at = self.ip.header_len;
        let protocol = self.ip.protocol;
        let checksum_offset = transport::checksum_offset(protocol).unwrap_or(0);
        let mut vnet = VnetHeader {
            flags: virtio::NEEDS_CHECKSUM,
            gso_type: virtio::GSO_NONE,
            header_len: self.headers_len as u16,
            gso_size: 0,
            checksum_start: at as u16,
            checksum_offset: checksum_offset as u16,
        };
        if self.payloads.len() < 2 {
            let vnet = if self.unfinished {
                vnet
            } else {
                VnetHeader::default()
            };
            return out.write_whole(&vnet, self.first.of(arena));
        }
        vnet.gso_type = match (protocol, self.ip.is_v4()) {
            (UDP, _) => virtio::GSO_UDP,
            (_, true) => virtio::GSO_TCP4,
            (_, false) => virtio::GSO_TCP6,
        };
        vnet.gso_size = self.size as u16;
        let mut scratch = [0; MAX_HEADERS_LEN];
        for (to, from) in scratch.iter_mut().zip(self.first.of(arena)) {
            *to = *from;
        }
        let headers = scratch.get_mut(..self.headers_len).unwrap_or_default();
        let total = self.headers_len + self.payload_bytes;
        ip::set_length(headers, &self.ip, total, None);
        if protocol == UDP {
            put_u16(headers, at + 4, (total - at) as u16);
        } else if let Some(flags) = headers.get_mut(at + 13).filter(|_| pushed) {
            *flags |= PSH;
        }
        let (source, destination) = (self.ip.source, self.ip.destination);
        let pseudo = checksum::pseudo_header(source, destination, protocol, total - at);
        put_u16(headers, at + checksum_offset, pseudo);
        let vnet = vnet.encode();
        let mut parts: [IoSlice<'_>; MAX_SEGMENTS + 2] = array::from_fn(|_| IoSlice::new(&[]));
        let bodies = self.payloads.iter().map(|payload| payload.of(arena));
        let all = [&vnet[..], headers].into_iter().chain(bodies);
        for (part, bytes) in parts.iter_mut().zip(all) {
            *part = IoSlice::new(bytes);
        }
        let used = self.payloads.len() + 2;
        out.write(parts.get(..used).unwrap_or(&parts), self.payloads.len());
    }
}

impl Coalescer {
    /// Takes a segment: joined to its flow, or as the begin of a new super-packet. Whatever ends by that is written.
    pub fn join(&mut self, arena: &[u8], segment: &Segment, out: &Writer<'_, impl PacketPort>) {
        let found = self.flows.iter().position(|flow| flow.key == segment.key);
        let index = match found {
            Some(index)
                if self
                    .flows
                    .get(index)
                    .is_some_and(|f| f.accepts(segment, arena)) =>
            {
                index
            }
            _ => {
                if let Some(index) = found {
                    self.finish(index, arena, false, out);
                } else if self.flows.len() >= FLOWS {
                    self.finish(0, arena, false, out);
                }
                self.flows.push_back(Flow {
                    key: segment.key,
                    ip: segment.ip,
                    first: segment.packet,
                    headers_len: segment.headers_len,
                    unfinished: segment.unfinished,
                    size: segment.payload.len,
                    next_sequence: segment.sequence,
                    payload_bytes: 0,
                    payloads: self.spare.pop().unwrap_or_default(),
                });
                self.flows.len() - 1
            }
        };
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.append(segment);
        // A pushed or a shorter segment is the last one.
        if segment.pushed || segment.payload.len < flow.size {
            self.finish(index, arena, segment.pushed, out);
        }
    }

    /// Writes what there is of one flow: a packet of it that cannot be joined comes next.
    pub fn flush_flow(&mut self, key: &FlowKey, arena: &[u8], out: &Writer<'_, impl PacketPort>) {
        if let Some(index) = self.flows.iter().position(|flow| flow.key == *key) {
            self.finish(index, arena, false, out);
        }
    }

    /// Writes everything, oldest flow first.
    pub fn flush(&mut self, arena: &[u8], out: &Writer<'_, impl PacketPort>) {
        while !self.flows.is_empty() {
            self.finish(0, arena, false, out);
        }
    }

    fn finish(
        &mut self,
        index: usize,
        arena: &[u8],
        pushed: bool,
        out: &Writer<'_, impl PacketPort>,
    ) {
        let Some(mut flow) = self.flows.remove(index) else {
            return;
        };
        flow.write(arena, pushed, out);
        flow.payloads.clear();
        self.spare.push(flow.payloads);
    }
}

/// Whether two segments' headers differ only in what segmentation makes anew: lengths, identification, sequence
/// number, PSH and checksums.
fn same_headers(one: &[u8], other: &[u8], ip: &IpHeader, headers_len: usize) -> bool {
    let same = |from: usize, to: usize| one.get(from..to) == other.get(from..to);
    let network = if ip.is_v4() {
        // Version and TOS; fragment field, TTL and protocol; addresses.
        same(0, 2) && same(6, 10) && same(12, 20)
    } else {
        // Version, class and flow label; next header, hop limit and addresses.
        same(0, 4) && same(6, 40)
    };
    let at = ip.header_len;
    // Ports; of TCP also acknowledgement and header length, window, urgent pointer and options. The flags were compared
    // before.
    network
        && same(at, at + 4)
        && (ip.protocol == UDP
            || same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, headers_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::segment::Segments;
    use crate::forward::counters::ThreadCounters;
    use crate::port::memory::MemoryTun;
    use crate::testing::{self, Random};

    /// Offers packets as one batch and gives what is written.
    fn coalesce(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
        let (tun, counters) = (MemoryTun::default(), ThreadCounters::default());
        let out = Writer {
            tun: &tun,
            counters: &counters,
        };
        let mut coalescer = Coalescer::default();
        let arena = packets.concat();
        let mut start = 0;
        for packet in packets {
            let span = Span {
                start,
                len: packet.len(),
            };
            start += packet.len();
            let ip = ip::parse(packet).unwrap();
            match Segment::of(&arena, span, &ip, false) {
                Some(segment) => coalescer.join(&arena, &segment, &out),
                None => {
                    coalescer.flush_flow(&FlowKey::of(packet, &ip), &arena, &out);
                    out.write_whole(&VnetHeader::default(), packet);
                }
            }
        }
        coalescer.flush(&arena, &out);
        let written = tun.written.take();
        written
            .iter()
            .map(|bytes| {
                VnetHeader::decode(bytes)
                    .map(|(vnet, packet)| (vnet, packet.to_vec()))
                    .unwrap()
            })
            .collect()
    }

    /// Cuts what was coalesced.
    fn cut(written: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (vnet, packet) in written {
            if vnet.gso_type == virtio::GSO_NONE {
                packets.push(packet.clone());
                continue;
            }
            let ip = ip::parse(packet).unwrap();
            let segments = Segments::plan(packet, vnet, &ip).unwrap();
            for index in 0..segments.count() {
                let mut headers = vec![0; segments.headers_len()];
                let payload = segments.cut(packet, index, &mut headers);
                packets.push([&headers, payload.of(packet)].concat());
            }
        }
        packets
    }

    /// A packet without what segmentation makes anew.
    fn essence(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        if packet[0] >> 4 == 4 {
            put_u16(&mut packet, 4, 0);
            put_u16(&mut packet, 10, 0);
        }
        packet
    }

    fn stream(v6: bool, first: u32, sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut sequence = first;
        let segment = |(index, size): (usize, &usize)| {
            let packet = testing::tcp(v6, sequence, ACK, &vec![index as u8; *size]);
            sequence = sequence.wrapping_add(*size as u32);
            packet
        };
        sizes.iter().enumerate().map(segment).collect()
    }

    #[test]
    fn a_stream_becomes_one_super_packet_and_cutting_it_gives_the_stream() {
        for v6 in [false, true] {
            let packets = stream(v6, 0xffff_f000, &[1_398, 1_398, 1_398, 700]);
            let written = coalesce(&packets);
            assert_eq!(written.len(), 1);
            let (vnet, packet) = &written[0];
            assert_eq!(usize::from(vnet.gso_size), 1_398);
            let mut expected = packet.clone();
            testing::unfinish(&mut expected);
            assert_eq!(
                packet, &expected,
                "the checksum field holds the pseudo-header's sum"
            );
            let ip = ip::parse(packet).unwrap();
            assert!(ip::header_is_intact(packet, &ip) && ip.total_len == packet.len());
            let again: Vec<_> = cut(&written).iter().map(|packet| essence(packet)).collect();
            assert_eq!(
                again,
                packets
                    .iter()
                    .map(|packet| essence(packet))
                    .collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn any_mix_of_flows_keeps_every_packet_and_the_order_within_each_flow() {
        let mut random = Random::new(8);
        for _ in 0..300 {
            let mut sequences = [0u32; 12];
            let packets: Vec<Vec<u8>> = (0..120)
                .map(|_| {
                    let flow = random.below(12);
                    let size = [0, 1, 500, 1_000, 1_000, 1_000, 1_000][random.below(7)];
                    let flags = [ACK, ACK, ACK, ACK, ACK | PSH, ACK | 1, ACK | 2][random.below(7)];
                    let payload = random.bytes(size);
                    let mut packet = testing::tcp(flow % 2 == 1, sequences[flow], flags, &payload);
                    let ports = if flow % 2 == 1 { 40 } else { 20 };
                    put_u16(&mut packet, ports, flow as u16);
                    if random.below(20) == 0 {
                        packet[ports + 15] ^= 1; // another window
                    }
                    testing::complete(&mut packet);
                    sequences[flow] = sequences[flow].wrapping_add(size as u32);
                    packet
                })
                .collect();
            let after = cut(&coalesce(&packets));
            let flow = |wanted: u16, packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let of = |packet: &&Vec<u8>| {
                    let at = if packet[0] >> 4 == 6 { 40 } else { 20 };
                    crate::wire::get_u16(packet, at) == Some(wanted)
                };
                packets
                    .iter()
                    .filter(of)
                    .map(|packet| essence(packet))
                    .collect()
            };
            for wanted in 0..12 {
                assert_eq!(flow(wanted, &after), flow(wanted, &packets));
            }
        }
    }

    #[test]
    fn datagrams_of_one_size_become_one_super_packet_and_a_shorter_one_ends_it() {
        for v6 in [false, true] {
            let packets: Vec<_> = [300, 300, 300, 120, 300]
                .map(|len| {
                    if v6 {
                        testing::udp6(len)
                    } else {
                        testing::udp4(len)
                    }
                })
                .into();
            // The identifications of a sender that counts: they must be those that cutting makes.
            let packets: Vec<_> = packets
                .into_iter()
                .zip(7..)
                .map(|(mut packet, identification)| {
                    if !v6 {
                        put_u16(&mut packet, 4, identification);
                        testing::complete(&mut packet);
                    }
                    packet
                })
                .collect();
            let written = coalesce(&packets);
            assert_eq!(written.len(), 2);
            assert_eq!(
                (written[0].0.gso_type, written[0].0.gso_size),
                (virtio::GSO_UDP, 300)
            );
            assert_eq!(cut(&written), packets);
        }
    }

    #[test]
    fn datagrams_without_checksum_of_other_ports_or_longer_than_the_first_are_not_joined() {
        let count = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packets = vec![testing::udp4(100), testing::udp4(100)];
            packets.iter_mut().for_each(|packet| packet[6] = 0x40);
            change(&mut packets[1]);
            testing::complete(&mut packets[0]);
            testing::complete(&mut packets[1]);
            coalesce(&packets).len()
        };
        assert_eq!(count(&|_| ()), 1);
        assert_eq!(count(&|packet| packet[21] ^= 1), 2);
        assert_eq!(count(&|packet| packet[8] -= 1), 2);
        assert_eq!(
            count(&|packet| {
                *packet = testing::udp4(101);
                packet[6] = 0x40;
            }),
            2
        );
        let mut unchecked = testing::udp4(100);
        put_u16(&mut unchecked, 26, 0);
        assert_eq!(coalesce(&[unchecked.clone(), unchecked]).len(), 2);
    }

    #[test]
    fn what_differs_in_more_than_segmentation_makes_is_not_joined() {
        let packets = stream(false, 1_000, &[100, 100]);
        assert_eq!(coalesce(&packets).len(), 1);
        // TOS, TTL, acknowledgement, reserved bits, window, urgent pointer, timestamp.
        for at in [1, 8, 31, 32, 35, 39, 47] {
            let mut changed = packets.clone();
            changed[1][at] ^= 1;
            testing::complete(&mut changed[1]);
            assert_eq!(coalesce(&changed).len(), 2, "byte {at}");
        }
        let gap = [
            packets[0].clone(),
            testing::tcp(false, 1_101, ACK, &[1; 100]),
        ];
        assert_eq!(coalesce(&gap).len(), 2);
        let longer = stream(false, 1_000, &[100, 101]);
        assert_eq!(coalesce(&longer).len(), 2);
        let mut broken = packets.clone();
        broken[1][10] ^= 1;
        assert_eq!(
            coalesce(&broken).len(),
            2,
            "an IPv4 header that does not add up"
        );
    }

    #[test]
    fn what_may_be_fragmented_keeps_its_identification() {
        let joined = |fragmentable: bool, identification: u16| {
            let mut packets = stream(false, 1, &[100, 100]);
            for (packet, identification) in packets.iter_mut().zip([0xffff, identification]) {
                packet[6] = if fragmentable { 0 } else { 0x40 };
                put_u16(packet, 4, identification);
                testing::complete(packet);
            }
            let written = coalesce(&packets);
            if fragmentable {
                assert_eq!(cut(&written), packets);
            }
            written.len() == 1
        };
        assert!(joined(true, 0) && !joined(true, 0xffff) && !joined(true, 1));
        assert!(
            joined(false, 0) && joined(false, 0xffff),
            "nothing looks at it where DF is set"
        );
    }

    #[test]
    fn a_pushed_segment_ends_its_super_packet_and_keeps_the_flag() {
        let mut packets = stream(false, 1, &[100, 100, 100]);
        packets[1] = testing::tcp(false, 101, ACK | PSH, &[9; 100]);
        let written = coalesce(&packets);
        assert_eq!(written.len(), 2);
        assert_eq!(written[0].1[33], ACK | PSH);
        assert_eq!(written[1].1, packets[2]);
    }

    #[test]
    fn a_super_packet_never_outgrows_its_length_field() {
        let packets = stream(false, 1, &[1_000; 150]);
        let written = coalesce(&packets);
        assert_eq!(written.len(), 3);
        assert!(
            written
                .iter()
                .all(|(_, packet)| packet.len() <= MAX_PACKET_BYTES)
        );
        let packets = stream(false, 1, &[10; 300]);
        assert_eq!(
            coalesce(&packets).len(),
            3,
            "{MAX_SEGMENTS} segments at most"
        );
    }
}
