//! From the peers to the TUN.
use std::io::{self, IoSlice};

use super::batch::Batch;
use super::coalesce::{Coalescer, Segment};
use super::segment::{MAX_HEADERS_LEN, Segments};
use super::shared::{RefusedPacket, Shared};
use super::transport::{self, Checksum, FlowKey, UDP_HEADER_LEN};
use super::writer::Writer;
use crate::forward::decide;
use crate::forward::drop::DropReason;
use crate::forward::table::{Encapsulation, Sender, Table};
use crate::port::{DatagramPort, INBOX_BYTES, INBOX_SLOTS, PacketPort, Received, Span, Wake};
use crate::wire::ip::{self, IpHeader};
use crate::wire::virtio::{self, VnetHeader};
use crate::wire::{TCP, UDP, checksum, put_u16, vxlan};

/// Slots offered when little came last time, and when messages are long: those fill the cache.
const FEW_SLOTS: usize = 8;
const LONG_SLOTS: usize = 16;
/// From this mean length on, in bytes, messages are long.
const LONG_BYTES: usize = 8 << 10;

/// Carries packets until the engine closes. An error is the socket's and final.
pub fn run(tun: &impl PacketPort, udp: &impl DatagramPort, shared: &Shared) -> io::Result<()> {
    let mut inbound = Inbound::new();
    let mut batch = Batch::Drained;
    while !tun.stopped() {
        if batch != Batch::More && udp.wait_readable()? == Wake::Stopped {
            break;
        }
        batch = inbound.batch(tun, udp, shared)?;
    }
    Ok(())
}

/// What the inbound direction keeps from batch to batch: buffers, no packets.
#[derive(Debug)]
pub struct Inbound {
    arena: Vec<u8>,
    received: Vec<Received>,
    coalescer: Coalescer,
    slots: usize,
}

impl Inbound {
    /// With its buffers.
    pub fn new() -> Self {
        Self {
            arena: vec![0; INBOX_BYTES],
            received: Vec::with_capacity(INBOX_SLOTS),
            coalescer: Coalescer::default(),
            slots: FEW_SLOTS,
        }
    }

    /// Carries what one receive gives. An error is the socket's and final.
    pub fn batch(
        &mut self,
        tun: &impl PacketPort,
        udp: &impl DatagramPort,
        shared: &Shared,
    ) -> io::Result<Batch> {
        let offered = self.slots;
        if let Err(error) = udp.receive(&mut self.arena, offered, &mut self.received) {
            return match error.raw_os_error() {
                Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL) => Err(error),
                Some(libc::EAGAIN | libc::EINTR) => Ok(Batch::Empty),
                None if error.kind() == io::ErrorKind::WouldBlock => Ok(Batch::Empty),
                // What some ICMP message said about another datagram.
                _ => {
                    shared.inbound.drop(DropReason::SocketError, 1);
                    Ok(Batch::Drained)
                }
            };
        }
        self.slots = next_slots(offered, &self.received);
        self.deliver_all(tun, shared);
        Ok(if self.received.len() < offered {
            Batch::Drained
        } else {
            Batch::More
        })
    }

    fn deliver_all(&mut self, tun: &impl PacketPort, shared: &Shared) {
        let Self {
            arena,
            received,
            coalescer,
            ..
        } = self;
        let out = Writer {
            tun,
            counters: &shared.inbound,
        };
        let table = shared.table.load();
        let mut refused = None;
        for message in received.iter() {
            let sender = table.sender(message.source);
            let joined = joined_inside(message, arena, &table);
            for datagram in datagrams(message, joined.is_some()) {
                match accept(arena, datagram, message.tos, &sender, &table, shared) {
                    Ok((packet, inbound)) => {
                        let ip = &inbound.ip;
                        deliver(arena, packet, ip, joined, shared, coalescer, &out);
                    }
                    Err(why) => refused = why.or(refused),
                }
            }
        }
        coalescer.flush(arena, &out);
        if let Some(refused) = refused {
            shared.set_last_refused(refused);
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new()
    }
}

/// How many slots to offer next: all when the last offer was used up, fewer when long messages used it up.
fn next_slots(offered: usize, received: &[Received]) -> usize {
    let bytes: usize = received.iter().map(|message| message.span.len).sum();
    if bytes / received.len().max(1) >= LONG_BYTES {
        LONG_SLOTS
    } else if received.len() >= offered {
        INBOX_SLOTS
    } else if received.len() < FEW_SLOTS {
        FEW_SLOTS
    } else {
        offered
    }
}

/// The payload bytes of each inner datagram, where `message` is one VXLAN packet around joined UDP datagrams. Over a
/// virtual link a kernel peer hands on whole what its host sent with UDP_SEGMENT, and the size of a segment that our
/// kernel then tells is that of the inner ones (net/ipv4/udp.c, udp_cmsg_recv).
fn joined_inside(message: &Received, arena: &[u8], table: &Table) -> Option<usize> {
    if !(1..message.span.len).contains(&message.segment) {
        return None;
    }
    let Encapsulation::Vxlan { .. } = table.encapsulation else {
        return None; // no kernel makes them
    };
    let (_, packet) = vxlan::decode(message.span.of(arena)).ok()?;
    let ip = ip::parse(packet).ok()?;
    let is_whole = ip.protocol == UDP && vxlan::HEADER_LEN + ip.total_len == message.span.len;
    is_whole.then_some(message.segment)
}

/// The datagrams that the kernel had joined; `whole` says that it had not.
fn datagrams(message: &Received, whole: bool) -> impl Iterator<Item = Span> + use<> {
    let Span { start, len } = message.span;
    let size = if whole || message.segment == 0 {
        len
    } else {
        message.segment
    }
    .max(1);
    let count = len.div_ceil(size).max(1);
    (0..count).map(move |index| {
        let before = index * size;
        Span {
            start: start + before,
            len: size.min(len - before),
        }
    })
}

/// Decides about one datagram and counts it; gives the inner packet's place, its congestion mark set or TTL lowered.
fn accept(
    arena: &mut [u8],
    datagram: Span,
    outer_tos: u8,
    sender: &Sender,
    table: &Table,
    shared: &Shared,
) -> Result<(Span, decide::Inbound), Option<RefusedPacket>> {
    let inbound = match decide::inbound(datagram.of(arena), outer_tos, sender, table) {
        Ok(inbound) => inbound,
        Err(refused) => {
            shared.inbound.drop(refused.reason, 1);
            return Err(refused
                .inner
                .map(|(inner_source, inner_destination)| RefusedPacket {
                    reason: refused.reason,
                    outer_source: sender.address,
                    inner_source,
                    inner_destination,
                }));
        }
    };
    let len = inbound.ip.total_len;
    let packet = Span {
        start: datagram.start + inbound.offset,
        len,
    };
    if let (Some(ecn), Some(bytes)) = (inbound.mark, bytes_mut(arena, packet)) {
        ip::set_ecn(bytes, &inbound.ip, ecn);
    }
    if let (Encapsulation::Bare { .. }, Some(bytes)) =
        (table.encapsulation, bytes_mut(arena, packet))
    {
        ip::lower_hop_limit(bytes, &inbound.ip);
    }
    shared.inbound.traffic.add(1, len as u64);
    if let Some(peer) = sender.peer.and_then(|index| table.peer(index)) {
        peer.traffic.received.add(1, len as u64);
    }
    Ok((packet, inbound))
}

/// Hands one packet to the TUN, or to the coalescer. Packets of one flow stay in order. `joined` is the payload size
/// of the datagrams that the packet stands for, where that is known.
fn deliver(
    arena: &mut [u8],
    packet: Span,
    ip: &IpHeader,
    joined: Option<usize>,
    shared: &Shared,
    coalescer: &mut Coalescer,
    out: &Writer<'_, impl PacketPort>,
) {
    let long = ip.total_len > shared.mtu_bytes || joined.is_some();
    let state = transport::verify(packet.of(arena), ip, long);
    let sound = matches!(state, Checksum::Valid | Checksum::Unfinished);
    let unfinished = state == Checksum::Unfinished;
    if sound && !long && (ip.protocol == TCP || shared.tun_uso) {
        if let Some(segment) = Segment::of(arena, packet, ip, unfinished) {
            return coalescer.join(arena, &segment, out);
        }
    }
    if ip.fragment {
        coalescer.flush(arena, out); // It has no ports, so any flow may be its own.
    } else if ip.protocol == TCP || ip.protocol == UDP {
        coalescer.flush_flow(&FlowKey::of(packet.of(arena), ip), arena, out);
    }
    // A finished UDP datagram has crossed a wire as what it is.
    let joined_udp = unfinished && (shared.tun_uso || joined.is_some());
    let super_packet = long && sound && (ip.protocol == TCP || joined_udp);
    let vnet = bytes_mut(arena, packet)
        .filter(|_| super_packet)
        .and_then(|bytes| segmentable(bytes, ip, joined, shared.mtu_bytes));
    match vnet {
        Some(vnet) if vnet.gso_type == virtio::GSO_UDP && !shared.tun_uso => {
            write_cut(&vnet, packet.of(arena), ip, out);
        }
        Some(vnet) => out.write_whole(&vnet, packet.of(arena)),
        None if unfinished => out.write_whole(&to_be_finished(ip), packet.of(arena)),
        None => out.write_whole(&VnetHeader::default(), packet.of(arena)),
    }
}

/// Writes the datagrams of a super-packet one by one, for a TUN that takes no joined ones.
fn write_cut(vnet: &VnetHeader, packet: &[u8], ip: &IpHeader, out: &Writer<'_, impl PacketPort>) {
    let Some(segments) = Segments::plan(packet, vnet, ip) else {
        return out.write_whole(&to_be_finished(ip), packet);
    };
    let mut scratch = [0; MAX_HEADERS_LEN];
    let headers = scratch
        .get_mut(..segments.headers_len())
        .unwrap_or_default();
    for index in 0..segments.count() {
        let payload = segments.cut(packet, index, headers).of(packet);
        let plain = VnetHeader::default().encode();
        let parts = [&plain[..], headers, payload].map(IoSlice::new);
        out.write(&parts, 1);
    }
}

fn bytes_mut(arena: &mut [u8], span: Span) -> Option<&mut [u8]> {
    arena.get_mut(span.start..span.start + span.len)
}

/// Says that the packet's transport checksum is to be completed.
fn to_be_finished(ip: &IpHeader) -> VnetHeader {
    VnetHeader {
        flags: virtio::NEEDS_CHECKSUM,
        checksum_start: ip.header_len as u16,
        checksum_offset: transport::checksum_offset(ip.protocol).unwrap_or(0) as u16,
        ..VnetHeader::default()
    }
}

/// Says how to segment a packet longer than the MTU: over a virtual link a kernel peer hands its super-packets on
/// whole, without a word about their segments. TCP does not care where it is cut. UDP datagrams are cut as they were
/// `joined`; where that is not known, the MTU is a guess. None where the headers leave nothing to cut.
fn segmentable(
    packet: &mut [u8],
    ip: &IpHeader,
    joined: Option<usize>,
    mtu_bytes: usize,
) -> Option<VnetHeader> {
    let at = ip.header_len;
    let (transport_len, gso_type) = match (ip.protocol, ip.is_v4()) {
        (TCP, true) => (transport::tcp_header_len(packet, at)?, virtio::GSO_TCP4),
        (TCP, false) => (transport::tcp_header_len(packet, at)?, virtio::GSO_TCP6),
        _ => (UDP_HEADER_LEN, virtio::GSO_UDP),
    };
    let headers_len = at + transport_len;
    let payload = ip.total_len.checked_sub(headers_len)?;
    let size = joined
        .or_else(|| mtu_bytes.checked_sub(headers_len))
        .filter(|size| (1..payload).contains(size))?;
    let mut vnet = to_be_finished(ip);
    vnet.gso_size = size.min(usize::from(u16::MAX)) as u16;
    vnet.header_len = headers_len as u16;
    const CWR: u8 = 0x80;
    let reduced = ip.protocol == TCP && packet.get(at + 13).is_some_and(|flags| flags & CWR != 0);
    vnet.gso_type = gso_type | if reduced { virtio::GSO_ECN } else { 0 };
    let length = ip.transport_len();
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
    put_u16(packet, at + usize::from(vnet.checksum_offset), pseudo);
    Some(vnet)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::forward::table::{PeerSpec, TableSpec};
    use crate::port::memory::{Incoming, MemoryTun, MemoryUdp};
    use crate::testing::{self, Random};

    const OWN_MAC: vxlan::Mac = [2, 0, 0, 0, 0, 1];
    const MTU: usize = 1_450;

    fn shared() -> Shared {
        shared_with(Encapsulation::Vxlan {
            vni: 7,
            vtep_mac: OWN_MAC,
        })
    }

    fn shared_with(encapsulation: Encapsulation) -> Shared {
        let peer = PeerSpec {
            subnets: vec![
                "10.5.1.0/24".parse().unwrap(),
                "fd00:1::/32".parse().unwrap(),
            ],
            endpoint: [192, 0, 2, 1].into(),
            mac: [2; 6],
        };
        let spec = TableSpec {
            encapsulation,
            overlay: vec!["10.5.0.0/16".parse().unwrap()],
            peers: vec![peer],
            ..TableSpec::default()
        };
        let shared = Shared::new(MTU, true);
        shared
            .table
            .store(Table::build(&spec, &Table::empty()).unwrap().into());
        shared
    }

    fn wrap(packet: &[u8]) -> Vec<u8> {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        [&vxlan::encode(7, OWN_MAC, [2; 6], v6), packet].concat()
    }

    fn from_peer(packet: &[u8]) -> Incoming {
        ([192, 0, 2, 1].into(), 0, 0, wrap(packet))
    }

    /// Receives in one go and gives what the TUN got.
    fn carry(incoming: Vec<Incoming>, shared: &Shared) -> Vec<(VnetHeader, Vec<u8>)> {
        let (tun, udp) = (MemoryTun::default(), MemoryUdp::default());
        udp.to_receive.borrow_mut().extend(incoming);
        run(&tun, &udp, shared).unwrap();
        let written = tun.written.take();
        let decode = |bytes: &Vec<u8>| {
            VnetHeader::decode(bytes)
                .map(|(vnet, packet)| (vnet, packet.to_vec()))
                .unwrap()
        };
        written.iter().map(decode).collect()
    }

    #[test]
    fn packets_arrive_as_they_were_sent_without_padding() {
        let shared = shared();
        let mut padded = testing::udp4(1);
        padded.extend([0xee; 17]);
        let got = carry(
            vec![from_peer(&padded), from_peer(&testing::udp6(99))],
            &shared,
        );
        let plain = |packet| (VnetHeader::default(), packet);
        assert_eq!(got, [plain(testing::udp4(1)), plain(testing::udp6(99))]);
        assert_eq!(shared.inbound.traffic.packets.get(), 2);
        assert_eq!(
            shared.table.load().peers()[0].traffic.received.bytes.get(),
            29 + 147
        );
    }

    #[test]
    fn bare_packets_lose_a_hop_and_tcp_goes_up_as_one() {
        let shared = shared_with(Encapsulation::Bare { v4: None, v6: None });
        let segments: Vec<Vec<u8>> = (0..40)
            .map(|i| testing::tcp(false, i * 1_000, 0x10, &[i as u8; 1_000]))
            .collect();
        let size = segments[0].len();
        let from = [192, 0, 2, 1].into();
        let mut last = testing::udp4(9);
        last[8] = 1;
        let incoming = vec![
            (from, 0, size, segments.concat()),
            (from, 3, 0, testing::udp6(99)),
            (from, 0, 0, last),
        ];
        let got = carry(incoming, &shared);
        assert_eq!(got.len(), 2);
        let whole = got.iter().find(|(_, packet)| packet[0] == 0x45).unwrap();
        assert_eq!(
            (whole.0.gso_type, whole.0.gso_size, whole.1.len()),
            (virtio::GSO_TCP4, 1_000, 52 + 40_000)
        );
        for (_, packet) in &got {
            let header = ip::parse(packet).unwrap();
            assert_eq!(ip::hop_limit(packet, &header), 63);
            assert!(ip::header_is_intact(packet, &header));
        }
        assert_eq!(shared.inbound.dropped(DropReason::TtlExceeded), 1);
        assert_eq!(shared.inbound.traffic.packets.get(), 41);
    }

    #[test]
    fn joined_datagrams_are_taken_apart_and_tcp_goes_up_as_one() {
        let shared = shared();
        let segments: Vec<Vec<u8>> = (0..40)
            .map(|i| wrap(&testing::tcp(false, i * 1_000, 0x10, &[i as u8; 1_000])))
            .collect();
        let size = segments[0].len();
        let got = carry(
            vec![([192, 0, 2, 1].into(), 0, size, segments.concat())],
            &shared,
        );
        assert_eq!(got.len(), 1);
        assert_eq!(
            (got[0].0.gso_type, got[0].0.gso_size),
            (virtio::GSO_TCP4, 1_000)
        );
        assert_eq!(got[0].1.len(), 52 + 40_000);
        assert_eq!(shared.inbound.traffic.packets.get(), 40);
    }

    #[test]
    fn an_unfinished_checksum_is_passed_on_as_unfinished() {
        for (packet, start, offset) in [
            (testing::udp4(50), 20, 6),
            (testing::udp6(50), 40, 6),
            (testing::tcp(false, 1, 0x02, &[]), 20, 16),
            (testing::tcp(true, 1, 0x10, &[1; 50]), 40, 16),
        ] {
            let mut packet = packet;
            testing::unfinish(&mut packet);
            let got = carry(vec![from_peer(&packet)], &shared());
            assert_eq!(got[0].1, packet);
            assert!(got[0].0.needs_checksum());
            assert_eq!(
                (got[0].0.checksum_start, got[0].0.checksum_offset),
                (start, offset)
            );
            assert_eq!(got[0].0.gso_type, virtio::GSO_NONE);
        }
    }

    #[test]
    fn a_wrong_checksum_goes_up_alone_and_unmended_in_its_place() {
        let mut broken = testing::tcp(false, 1_000, 0x10, &[2; 1_000]);
        broken[60] ^= 1;
        let packets = [
            testing::tcp(false, 0, 0x10, &[1; 1_000]),
            broken.clone(),
            testing::tcp(false, 2_000, 0x10, &[3; 1_000]),
        ];
        let got = carry(
            packets.iter().map(|packet| from_peer(packet)).collect(),
            &shared(),
        );
        let bodies: Vec<_> = got.iter().map(|(_, packet)| packet.clone()).collect();
        assert_eq!(bodies, packets);
        assert!(got.iter().all(|(vnet, _)| *vnet == VnetHeader::default()));
    }

    #[test]
    fn a_peers_whole_super_packet_gets_told_how_to_be_cut() {
        for (v6, finished) in [(false, false), (true, false), (false, true)] {
            let whole = testing::tcp(v6, 5, 0x98, &[7; 20_000]);
            let mut unfinished = whole.clone();
            testing::unfinish(&mut unfinished);
            let sent = if finished { &whole } else { &unfinished };
            let got = carry(vec![from_peer(sent)], &shared());
            let (vnet, packet) = &got[0];
            assert_eq!(packet, &unfinished);
            let at = if v6 { 40 } else { 20 };
            let gso_type = if v6 {
                virtio::GSO_TCP6
            } else {
                virtio::GSO_TCP4
            };
            let expected = VnetHeader {
                flags: virtio::NEEDS_CHECKSUM,
                gso_type: gso_type | virtio::GSO_ECN,
                header_len: at + 32,
                gso_size: MTU as u16 - at - 32,
                checksum_start: at,
                checksum_offset: 16,
            };
            assert_eq!(*vnet, expected);
        }
        let mut joined = testing::udp4(5_000);
        testing::unfinish(&mut joined);
        let got = carry(vec![from_peer(&joined)], &shared());
        assert_eq!(
            (got[0].0.gso_type, got[0].0.gso_size),
            (virtio::GSO_UDP, MTU as u16 - 28)
        );
        let mut plain = shared();
        plain.tun_uso = false;
        let got = carry(vec![from_peer(&joined)], &plain);
        assert!(got[0].0.needs_checksum() && got[0].0.gso_type == virtio::GSO_NONE);
        let mut other = testing::udp4(5_000);
        other[9] = 50;
        let got = carry(vec![from_peer(&other)], &shared());
        assert_eq!(got[0], (VnetHeader::default(), other));
    }

    #[test]
    fn datagrams_joined_inside_are_cut_where_they_were_joined() {
        for uso in [true, false] {
            for (v6, size, payload) in [(false, 300, 1_000), (true, 1_200, 9_000), (false, 50, 120)]
            {
                let mut shared = shared();
                shared.tun_uso = uso;
                let mut joined = if v6 {
                    testing::udp6(payload)
                } else {
                    testing::udp4(payload)
                };
                let headers_len = joined.len() - payload;
                let body = joined[headers_len..].to_vec();
                testing::unfinish(&mut joined);
                let message = ([192, 0, 2, 1].into(), 0, size, wrap(&joined));
                let got = carry(vec![message], &shared);
                if uso {
                    let [(vnet, packet)] = &got[..] else {
                        panic!("one super-packet")
                    };
                    assert_eq!(
                        (vnet.gso_type, vnet.gso_size),
                        (virtio::GSO_UDP, size as u16)
                    );
                    assert_eq!(packet, &joined);
                } else {
                    let bodies: Vec<_> = got
                        .iter()
                        .map(|(_, packet)| &packet[headers_len..])
                        .collect();
                    assert_eq!(bodies, body.chunks(size).collect::<Vec<_>>());
                    for (vnet, packet) in &got {
                        let ip = ip::parse(packet).unwrap();
                        assert_eq!(*vnet, VnetHeader::default());
                        assert_eq!(transport::verify(packet, &ip, false), Checksum::Valid);
                    }
                }
            }
        }
    }

    #[test]
    fn a_finished_datagram_beyond_the_mtu_is_one_datagram() {
        let mut unchecked = testing::udp4(5_000);
        put_u16(&mut unchecked, 26, 0);
        for packet in [testing::udp4(5_000), testing::udp6(5_000), unchecked] {
            let got = carry(vec![from_peer(&packet)], &shared());
            assert_eq!(got, [(VnetHeader::default(), packet)]);
        }
    }

    #[test]
    fn what_is_unfinished_and_cannot_be_cut_is_still_finished() {
        let mut packet = testing::tcp(false, 1, 0x10, &[1; 5_000]);
        packet[32] = 0x40; // a header of 16 bytes
        testing::unfinish(&mut packet);
        let got = carry(vec![from_peer(&packet)], &shared());
        assert_eq!(got.len(), 1);
        assert!(got[0].0.needs_checksum() && got[0].0.gso_type == virtio::GSO_NONE);
    }

    #[test]
    fn fragments_wait_for_nobody_and_overtake_nobody() {
        let first = testing::tcp(false, 0, 0x10, &[1; 1_000]);
        let mut fragment = testing::tcp(false, 1_000, 0x10, &[2; 1_000]);
        fragment[6] = 0x20;
        let last = testing::tcp(false, 2_000, 0x10, &[3; 1_000]);
        let packets = [first, fragment, last];
        let got = carry(
            packets.iter().map(|packet| from_peer(packet)).collect(),
            &shared(),
        );
        assert_eq!(
            got.into_iter()
                .map(|(_, packet)| packet)
                .collect::<Vec<_>>(),
            packets
        );
    }

    #[test]
    fn congestion_outside_is_marked_inside() {
        let shared = shared();
        let mut capable = testing::udp4(10);
        capable[1] = 0xba;
        testing::complete(&mut capable);
        let outer: IpAddr = [192, 0, 2, 1].into();
        let incapable = (outer, 3, 0, wrap(&testing::udp4(10)));
        let got = carry(vec![(outer, 3, 0, wrap(&capable)), incapable], &shared);
        capable[1] = 0xbb;
        testing::complete(&mut capable);
        assert_eq!(got, [(VnetHeader::default(), capable)]);
        assert_eq!(shared.inbound.dropped(DropReason::EcnCe), 1);
    }

    #[test]
    fn a_refused_sender_is_counted_and_remembered() {
        let shared = shared();
        let stranger: IpAddr = [203, 0, 113, 5].into();
        let got = carry(vec![(stranger, 0, 0, wrap(&testing::udp4(1)))], &shared);
        assert!(got.is_empty());
        assert_eq!(shared.inbound.dropped(DropReason::UnknownSender), 1);
        let expected = RefusedPacket {
            reason: DropReason::UnknownSender,
            outer_source: stranger,
            inner_source: [10, 5, 1, 2].into(),
            inner_destination: [10, 5, 2, 3].into(),
        };
        assert_eq!(shared.last_refused(), Some(expected));
        assert_eq!(shared.inbound.traffic.packets.get(), 0);
    }

    #[test]
    fn what_the_tun_refuses_is_counted_segment_by_segment() {
        let refuse = |errnos: &[i32]| {
            let (shared, tun, udp) = (shared(), MemoryTun::default(), MemoryUdp::default());
            let packet = |i: u32| from_peer(&testing::tcp(false, i * 100, 0x10, &[0; 100]));
            udp.to_receive.borrow_mut().extend((0..5).map(packet));
            tun.write_errors.borrow_mut().extend(errnos);
            run(&tun, &udp, &shared).unwrap();
            let dropped = |reason| shared.inbound.dropped(reason);
            (
                dropped(DropReason::TunDown),
                dropped(DropReason::TunError),
                tun.written.take().len(),
            )
        };
        assert_eq!(refuse(&[libc::EIO]), (5, 0, 0));
        assert_eq!(refuse(&[libc::EINVAL]), (0, 5, 0));
        assert_eq!(refuse(&[libc::EAGAIN, libc::ENOBUFS]), (0, 0, 1));
        assert_eq!(refuse(&[libc::EAGAIN; 4]), (0, 5, 0));
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let shared = shared();
        let mut random = Random::new(12);
        let good = [
            testing::tcp(false, 1, 0x10, &[1; 300]),
            testing::tcp(true, 1, 0x10, &[1; 2_000]),
            testing::udp4(2_000),
        ];
        for _ in 0..3_000 {
            let incoming: Vec<Incoming> = (0..40)
                .map(|_| {
                    let mut bytes = wrap(&good[random.below(3)]);
                    for _ in 0..random.below(4) {
                        let at = 22 + random.below(60);
                        bytes[at] = random.next() as u8;
                    }
                    if random.below(4) == 0 {
                        let length = random.below(100);
                        bytes = random.bytes(length);
                    }
                    let segment = [0, 1, 22, 60, 500][random.below(5)];
                    ([192, 0, 2, 1].into(), random.next() as u8, segment, bytes)
                })
                .collect();
            for (vnet, packet) in carry(incoming, &shared) {
                let ip = ip::parse(&packet).unwrap();
                assert_eq!(ip.total_len, packet.len());
                assert!(usize::from(vnet.checksum_start) <= packet.len());
            }
        }
        assert!(
            shared.inbound.traffic.packets.get() > 1_000,
            "some were good enough"
        );
    }
}
