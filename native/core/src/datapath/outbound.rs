//! From the TUN to the peers.
use std::io;

use super::batch::Batch;
use super::queue::{SendQueue, Target};
use super::segment::{MAX_HEADERS_LEN, Segments};
use super::shared::Shared;
use super::transport::{self, FlowKey};
use super::writer::Writer;
use crate::forward::decide;
use crate::forward::drop::DropReason;
use crate::forward::table::{Encapsulation, Peer, Table};
use crate::port::{Area, DatagramPort, PacketPort, Piece, Span, Wake};
use crate::wire::icmp::{self, ANSWER_BYTES};
use crate::wire::ip::{self, IpHeader};
use crate::wire::virtio::{self, VnetHeader};
use crate::wire::vxlan;

/// A batch ends after so many packets or bytes, whichever is first.
const BATCH_PACKETS: usize = 64;
const BATCH_BYTES: usize = 128 << 10;
/// The longest packet, with its virtio header.
const READ_BYTES: usize = virtio::HEADER_LEN + 65_536;
/// In front of each read: the tunnel's headers, if any, then end where the IP packet begins, in place of the virtio
/// header.
const HEAD_ROOM: usize = vxlan::HEADER_LEN - virtio::HEADER_LEN;

const _: () = assert!(
    vxlan::HEADER_LEN + MAX_HEADERS_LEN < 64 << 10,
    "headers fit an empty queue"
);

/// Carries packets until the engine closes. An error is the TUN's and final: its device is gone.
pub fn run(tun: &impl PacketPort, udp: &impl DatagramPort, shared: &Shared) -> io::Result<()> {
    let mut outbound = Outbound::new(udp, shared);
    let mut batch = Batch::Drained;
    while !tun.stopped() {
        if batch != Batch::More && tun.wait_readable()? == Wake::Stopped {
            break;
        }
        batch = outbound.batch(tun, udp, shared)?;
    }
    Ok(())
}

/// What the outbound direction keeps from batch to batch: buffers, no packets.
#[derive(Debug)]
pub struct Outbound {
    arena: Vec<u8>,
    queue: SendQueue,
}

impl Outbound {
    /// With its buffers, for the sockets of `udp`.
    pub fn new(udp: &impl DatagramPort, shared: &Shared) -> Self {
        Self {
            arena: vec![0; BATCH_BYTES + HEAD_ROOM + READ_BYTES],
            queue: SendQueue::new(udp.senders(), shared.udp_gso()),
        }
    }

    /// Reads until there is nothing more or the batch is full, and sends it. An error is the TUN's and final.
    pub fn batch(
        &mut self,
        tun: &impl PacketPort,
        udp: &impl DatagramPort,
        shared: &Shared,
    ) -> io::Result<Batch> {
        let Self { arena, queue } = self;
        let table = shared.table.load();
        let mut batch = Batch::More;
        let mut at = 0;
        for _ in 0..BATCH_PACKETS {
            let room = arena
                .get_mut(at + HEAD_ROOM..at + HEAD_ROOM + READ_BYTES)
                .unwrap_or_default();
            match tun.read(room) {
                Ok(len) => {
                    let slot = Span {
                        start: at,
                        len: HEAD_ROOM + len,
                    };
                    forward(arena, slot, queue, udp, &table, shared).unwrap_or_else(|reason| {
                        shared.outbound.drop(reason, 1);
                        if reason == DropReason::NoRoute {
                            answer(arena, slot, tun, &table, shared);
                        }
                    });
                    at += slot.len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    batch = if at == 0 {
                        Batch::Empty
                    } else {
                        Batch::Drained
                    };
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel could not describe the packet, and has dropped it.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    shared.outbound.drop(DropReason::TunError, 1);
                }
                Err(error) => return Err(error),
            }
            if at >= BATCH_BYTES {
                break;
            }
        }
        queue.flush(udp, arena, &table, shared);
        Ok(batch)
    }
}

/// Queues the packet in `slot`, in segments if it is a super-packet.
fn forward(
    arena: &mut [u8],
    slot: Span,
    queue: &mut SendQueue,
    udp: &impl DatagramPort,
    table: &Table,
    shared: &Shared,
) -> Result<(), DropReason> {
    let read = Span {
        start: slot.start + HEAD_ROOM,
        len: slot.len - HEAD_ROOM,
    };
    let (vnet, packet) = VnetHeader::decode(read.of(arena)).ok_or(DropReason::Truncated)?;
    let verdict = decide::outbound(packet, table)?;
    let peer = table.peer(verdict.peer).ok_or(DropReason::NoRoute)?;
    if queue.must_wait(verdict.ip.fragment) {
        queue.flush(udp, arena, table, shared);
    }
    let target = Target {
        lane: queue.lane(FlowKey::of(packet, &verdict.ip).spread()),
        endpoint: peer.endpoint,
        tos: decide::outer_tos(verdict.ip.traffic_class, &table.encapsulation),
        peer: verdict.peer,
    };
    let tunnel = Head::new(&table.encapsulation, peer, &verdict.ip);
    let packet_start = slot.start + vxlan::HEADER_LEN;
    if let Encapsulation::Bare { .. } = table.encapsulation {
        decide::can_hop(packet, &verdict.ip)?;
        ip::lower_hop_limit(
            arena.get_mut(packet_start..).unwrap_or_default(),
            &verdict.ip,
        );
    }
    if vnet.gso_type & !virtio::GSO_ECN == virtio::GSO_NONE {
        return queue_whole(
            arena,
            packet_start,
            queue,
            &target,
            &tunnel,
            &vnet,
            &verdict.ip,
        );
    }
    let packet = arena.get(packet_start..).unwrap_or_default();
    let segments = Segments::plan(packet, &vnet, &verdict.ip).ok_or(DropReason::BadOffload)?;
    for index in 0..segments.count() {
        let len = tunnel.bytes().len() + segments.headers_len();
        let (start, headers) = match queue.headers(len) {
            Some(room) => room,
            None => {
                queue.flush(udp, arena, table, shared);
                queue.headers(len).ok_or(DropReason::BadOffload)?
            }
        };
        let packet = arena.get(packet_start..).unwrap_or_default();
        let (outer, inner) = headers.split_at_mut(tunnel.bytes().len());
        outer.copy_from_slice(tunnel.bytes());
        let mut payload = segments.cut(packet, index, inner);
        payload.start += packet_start;
        let headers = Piece {
            area: Area::Headers,
            span: Span { start, len },
        };
        queue.push(
            &target,
            &[
                headers,
                Piece {
                    area: Area::Packets,
                    span: payload,
                },
            ],
        );
    }
    Ok(())
}

/// What goes in front of each packet to a peer; nothing, where packets travel bare.
struct Head {
    room: [u8; vxlan::HEADER_LEN],
    len: usize,
}

impl Head {
    fn new(encapsulation: &Encapsulation, peer: &Peer, ip: &IpHeader) -> Self {
        let room = match *encapsulation {
            Encapsulation::Vxlan { vni, vtep_mac } => {
                vxlan::encode(vni, peer.mac, vtep_mac, !ip.is_v4())
            }
            Encapsulation::Bare { .. } | Encapsulation::IpIp => [0; vxlan::HEADER_LEN],
        };
        Self {
            room,
            len: encapsulation.header_len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.room.get(..self.len).unwrap_or_default()
    }
}

/// Queues an ordinary packet: its tunnel headers go right in front of it.
fn queue_whole(
    arena: &mut [u8],
    packet_start: usize,
    queue: &mut SendQueue,
    target: &Target,
    tunnel: &Head,
    vnet: &VnetHeader,
    ip: &IpHeader,
) -> Result<(), DropReason> {
    let start = packet_start - tunnel.bytes().len();
    let len = tunnel.bytes().len() + ip.total_len;
    let bytes = arena
        .get_mut(start..start + len)
        .ok_or(DropReason::Truncated)?;
    let (outer, packet) = bytes.split_at_mut(tunnel.bytes().len());
    if vnet.needs_checksum() {
        let (from, offset) = (vnet.checksum_start.into(), vnet.checksum_offset.into());
        if !transport::complete_checksum(packet, from, offset) {
            return Err(DropReason::BadOffload);
        }
    }
    outer.copy_from_slice(tunnel.bytes());
    queue.push(
        target,
        &[Piece {
            area: Area::Packets,
            span: Span { start, len },
        }],
    );
    Ok(())
}

/// Tells the sender of a packet that no peer gets, where the encapsulation wants that.
fn answer(arena: &mut [u8], slot: Span, tun: &impl PacketPort, table: &Table, shared: &Shared) {
    let Encapsulation::Bare { v4, v6 } = table.encapsulation else {
        return;
    };
    let read = slot.start + HEAD_ROOM..slot.start + slot.len;
    let Some((vnet, _)) = arena.get(read).and_then(VnetHeader::decode) else {
        return;
    };
    let packet = slot.start + vxlan::HEADER_LEN..slot.start + slot.len;
    let packet = arena.get_mut(packet).unwrap_or_default();
    let Ok(ip) = ip::parse(packet) else {
        return;
    };
    if vnet.needs_checksum() && vnet.gso_type & !virtio::GSO_ECN == virtio::GSO_NONE {
        // What is quoted is the packet as it would have left.
        let whole = packet.get_mut(..ip.total_len).unwrap_or_default();
        transport::complete_checksum(
            whole,
            vnet.checksum_start.into(),
            vnet.checksum_offset.into(),
        );
    }
    let mut buffer = [0; ANSWER_BYTES];
    if let Some(bytes) = icmp::unreachable(&mut buffer, packet, &ip, v4, v6) {
        let counters = &shared.outbound;
        Writer { tun, counters }.write_whole(&VnetHeader::default(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::forward::table::{PeerSpec, TableSpec};
    use crate::port::memory::{MemoryTun, MemoryUdp};
    use crate::testing::{self, Random};
    use crate::wire::put_u16;

    const PEER_MAC: vxlan::Mac = [2, 0, 0, 0, 0, 9];
    const OWN_MAC: vxlan::Mac = [2, 0, 0, 0, 0, 1];

    fn shared() -> Shared {
        shared_with(Encapsulation::Vxlan {
            vni: 7,
            vtep_mac: OWN_MAC,
        })
    }

    fn bare() -> Shared {
        shared_with(Encapsulation::Bare {
            v4: Some([10, 5, 1, 0].into()),
            v6: None,
        })
    }

    fn shared_with(encapsulation: Encapsulation) -> Shared {
        let peer = PeerSpec {
            subnets: vec![
                "10.5.2.0/24".parse().unwrap(),
                "fd00:2::/32".parse().unwrap(),
            ],
            endpoint: [192, 0, 2, 2].into(),
            mac: PEER_MAC,
        };
        let spec = TableSpec {
            encapsulation,
            peers: vec![peer],
            ..TableSpec::default()
        };
        let shared = Shared::new(1_450, true);
        shared
            .table
            .store(Table::build(&spec, &Table::empty()).unwrap().into());
        shared
    }

    fn carry(packets: &[(VnetHeader, Vec<u8>)], udp: &MemoryUdp, shared: &Shared) {
        let tun = MemoryTun::default();
        for (vnet, packet) in packets {
            tun.to_read
                .borrow_mut()
                .push_back([&vnet.encode()[..], packet].concat());
        }
        run(&tun, udp, shared).unwrap();
    }

    fn plain(packet: Vec<u8>) -> (VnetHeader, Vec<u8>) {
        (VnetHeader::default(), packet)
    }

    /// The inner packets in the order of sending, each stripped of its checked tunnel header.
    fn inner(udp: &MemoryUdp) -> Vec<Vec<u8>> {
        let sent = udp.sent.borrow();
        let datagrams = sent.iter().flat_map(|message| &message.datagrams);
        datagrams
            .map(|datagram| {
                let v6 = datagram[vxlan::HEADER_LEN] >> 4 == 6;
                assert_eq!(
                    datagram[..vxlan::HEADER_LEN],
                    vxlan::encode(7, PEER_MAC, OWN_MAC, v6)
                );
                datagram[vxlan::HEADER_LEN..].to_vec()
            })
            .collect()
    }

    #[test]
    fn packets_of_equal_size_travel_as_one_message() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let packets: Vec<_> = [100, 100, 100, 60, 100].map(testing::udp4).into();
        let queue: Vec<_> = packets.iter().cloned().map(plain).collect();
        carry(&queue, &udp, &shared);
        assert_eq!(inner(&udp), packets);
        let counts: Vec<usize> = udp
            .sent
            .borrow()
            .iter()
            .map(|message| message.datagrams.len())
            .collect();
        assert_eq!(counts, [4, 1], "a shorter one ends a run");
        let endpoint: IpAddr = [192, 0, 2, 2].into();
        assert!(
            udp.sent
                .borrow()
                .iter()
                .all(|message| message.endpoint == endpoint)
        );
        let traffic = &shared.outbound.traffic;
        let bytes: usize = packets.iter().map(Vec::len).sum();
        assert_eq!(
            (traffic.packets.get(), traffic.bytes.get()),
            (5, bytes as u64)
        );
        assert_eq!(
            shared.table.load().peers()[0].traffic.sent.bytes.get(),
            bytes as u64
        );
    }

    #[test]
    fn a_bare_packet_is_the_datagram_with_its_ttl_lowered() {
        let (udp, shared) = (MemoryUdp::default(), bare());
        let mut marked = testing::udp4(60);
        marked[1] = 3;
        testing::complete(&mut marked);
        let packets = [testing::udp4(100), marked, testing::udp6(40)];
        let queue: Vec<_> = packets.iter().cloned().map(plain).collect();
        carry(&queue, &udp, &shared);
        let sent = udp.sent.borrow();
        assert!(sent.iter().all(|message| message.tos == 0));
        let datagrams: Vec<_> = sent.iter().flat_map(|m| &m.datagrams).cloned().collect();
        let expected = packets.map(|mut packet| {
            let header = ip::parse(&packet).unwrap();
            packet[if header.is_v4() { 8 } else { 7 }] = 63;
            testing::complete(&mut packet);
            packet
        });
        let sorted = |mut all: Vec<Vec<u8>>| {
            all.sort();
            all
        };
        assert_eq!(sorted(datagrams), sorted(expected.to_vec()));
        let bytes: usize = expected.iter().map(Vec::len).sum();
        assert_eq!(shared.outbound.traffic.bytes.get(), bytes as u64);
    }

    #[test]
    fn bare_segments_of_a_super_packet_have_lowered_ttls_and_right_checksums() {
        let (udp, shared) = (MemoryUdp::default(), bare());
        let mut packet = testing::tcp(false, 7, 0x10, &[5; 9_000]);
        testing::unfinish(&mut packet);
        let vnet = VnetHeader {
            flags: virtio::NEEDS_CHECKSUM,
            gso_type: virtio::GSO_TCP4,
            header_len: 52,
            gso_size: 1_400,
            checksum_start: 20,
            checksum_offset: 16,
        };
        carry(&[(vnet, packet)], &udp, &shared);
        let sent = udp.sent.borrow();
        let datagrams: Vec<_> = sent.iter().flat_map(|m| &m.datagrams).collect();
        assert_eq!(datagrams.len(), 7);
        for datagram in datagrams {
            let header = ip::parse(datagram).unwrap();
            assert_eq!(ip::hop_limit(datagram, &header), 63);
            assert!(ip::header_is_intact(datagram, &header));
            assert_eq!(testing::transport_sum(datagram), 0xffff);
        }
    }

    #[test]
    fn a_bare_packet_at_its_last_hop_is_dropped_and_one_to_nowhere_answered() {
        let (tun, udp, shared) = (MemoryTun::default(), MemoryUdp::default(), bare());
        let mut last = testing::udp4(10);
        last[8] = 1;
        let mut lost = testing::udp4(10);
        lost[18] = 9;
        testing::complete(&mut lost);
        for packet in [&last, &lost] {
            let vnet = VnetHeader::default().encode();
            tun.to_read
                .borrow_mut()
                .push_back([&vnet[..], packet].concat());
        }
        run(&tun, &udp, &shared).unwrap();
        assert!(udp.sent.borrow().is_empty());
        assert_eq!(shared.outbound.dropped(DropReason::TtlExceeded), 1);
        assert_eq!(shared.outbound.dropped(DropReason::NoRoute), 1);
        let written = tun.written.borrow();
        assert_eq!(written.len(), 1, "there is no time exceeded, as in flannel");
        let (_, answer) = VnetHeader::decode(&written[0]).unwrap();
        assert_eq!(answer[20..22], [3, 0]);
        assert_eq!(answer[28..], lost[..28]);
    }

    #[test]
    fn vxlan_answers_nobody() {
        let (tun, udp, shared) = (MemoryTun::default(), MemoryUdp::default(), shared());
        let mut lost = testing::udp4(10);
        lost[18] = 9;
        let vnet = VnetHeader::default().encode();
        tun.to_read
            .borrow_mut()
            .push_back([&vnet[..], &lost].concat());
        run(&tun, &udp, &shared).unwrap();
        assert_eq!(shared.outbound.dropped(DropReason::NoRoute), 1);
        assert!(tun.written.borrow().is_empty());
    }

    #[test]
    fn without_segmentation_every_datagram_is_a_message() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        shared.give_up_udp_gso();
        let packets: Vec<_> = [100, 100, 60].map(testing::udp4).into();
        let queue: Vec<_> = packets.iter().cloned().map(plain).collect();
        carry(&queue, &udp, &shared);
        assert_eq!(inner(&udp), packets);
        assert!(udp.sent.borrow().iter().all(|m| m.datagrams.len() == 1));
    }

    #[test]
    fn counters_count_on_beyond_32_bits_and_survive_the_end_of_64() {
        for start in [u64::from(u32::MAX), (1 << 53) - 1, u64::MAX] {
            let (udp, shared) = (MemoryUdp::default(), shared());
            let table = shared.table.load();
            let peer = &table.peers()[0].traffic.sent;
            for traffic in [&shared.outbound.traffic, peer] {
                traffic.add(start, start);
            }
            shared.outbound.drop(DropReason::NotIp, start);
            let packet = testing::udp4(100);
            let bytes = 2 * packet.len() as u64;
            let queue = [
                plain(packet.clone()),
                plain(packet),
                plain(vec![0; 60]),
                plain(vec![0; 60]),
            ];
            carry(&queue, &udp, &shared);
            for traffic in [&shared.outbound.traffic, peer] {
                assert_eq!(traffic.packets.get(), start.wrapping_add(2));
                assert_eq!(traffic.bytes.get(), start.wrapping_add(bytes));
            }
            let dropped = shared.outbound.dropped(DropReason::NotIp);
            assert_eq!(dropped, start.wrapping_add(2));
        }
    }

    #[test]
    fn fragments_and_the_rest_of_their_flow_leave_in_the_order_they_came() {
        let packets: Vec<Vec<u8>> = (0..20u8)
            .map(|number| {
                let mut packet = testing::udp4(100);
                packet[6] = if number / 3 % 2 == 1 { 0x20 } else { 0 };
                packet[30] = number;
                packet
            })
            .collect();
        let udp = MemoryUdp::default();
        let queue: Vec<_> = packets.into_iter().map(plain).collect();
        carry(&queue, &udp, &shared());
        let numbers: Vec<_> = inner(&udp).iter().map(|packet| packet[30]).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_super_packet_leaves_as_valid_segments() {
        for v6 in [false, true] {
            let (udp, shared) = (MemoryUdp::default(), shared());
            let payload = Random::new(9).bytes(64_000);
            let mut packet = testing::tcp(v6, 1, 0x18, &payload);
            testing::unfinish(&mut packet);
            let start = if v6 { 40 } else { 20 };
            let vnet = VnetHeader {
                flags: virtio::NEEDS_CHECKSUM,
                gso_type: if v6 {
                    virtio::GSO_TCP6
                } else {
                    virtio::GSO_TCP4
                },
                header_len: start + 32,
                gso_size: 1_398 - start,
                checksum_start: start,
                checksum_offset: 16,
            };
            carry(&[(vnet, packet)], &udp, &shared);
            let segments = inner(&udp);
            assert!(
                segments
                    .iter()
                    .all(|segment| testing::transport_sum(segment) == 0xffff)
            );
            let at = usize::from(start) + 32;
            let joined: Vec<u8> = segments.iter().flat_map(|s| &s[at..]).copied().collect();
            assert_eq!(joined, payload);
            assert_eq!(
                udp.sent.borrow().len(),
                2,
                "with all headers more than one message holds"
            );
            assert_eq!(shared.outbound.traffic.packets.get(), segments.len() as u64);
        }
    }

    #[test]
    fn tiny_segments_overflow_the_headers_and_all_leave() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let payload = Random::new(10).bytes(30_000);
        let packet = testing::tcp(false, 1, 0x10, &payload);
        let vnet = VnetHeader {
            gso_type: virtio::GSO_TCP4,
            gso_size: 10,
            ..VnetHeader::default()
        };
        carry(&[(vnet, packet)], &udp, &shared);
        let joined: Vec<u8> = inner(&udp).iter().flat_map(|s| &s[52..]).copied().collect();
        assert_eq!(joined, payload);
        assert_eq!(shared.outbound.traffic.packets.get(), 3_000);
    }

    #[test]
    fn an_unfinished_checksum_is_completed() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let packets = [
            testing::udp4(33),
            testing::udp6(33),
            testing::tcp(true, 1, 2, &[]),
        ];
        let queue: Vec<_> = packets
            .iter()
            .map(|packet| {
                let mut unfinished = packet.clone();
                testing::unfinish(&mut unfinished);
                let start = if packet[0] >> 4 == 6 { 40 } else { 20 };
                let tcp = packet.len() == 72;
                let vnet = VnetHeader {
                    flags: virtio::NEEDS_CHECKSUM,
                    checksum_start: start,
                    checksum_offset: if tcp { 16 } else { 6 },
                    ..VnetHeader::default()
                };
                (vnet, unfinished)
            })
            .collect();
        carry(&queue, &udp, &shared);
        let (mut sent, mut expected) = (inner(&udp), packets.to_vec());
        sent.sort();
        expected.sort();
        assert_eq!(sent, expected, "flows may pass each other");
    }

    #[test]
    fn the_outer_class_carries_the_inner_congestion_bits() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let queue: Vec<_> = [0xb8, 0xb9, 0xba, 0xbb]
            .map(|tos| {
                let mut packet = testing::udp4(10);
                packet[1] = tos;
                plain(packet)
            })
            .into();
        carry(&queue, &udp, &shared);
        let toses: Vec<u8> = udp
            .sent
            .borrow()
            .iter()
            .map(|message| message.tos)
            .collect();
        assert_eq!(
            toses,
            [0, 1, 2],
            "CE leaves as ECT(0) and joins the run before it"
        );
    }

    #[test]
    fn a_refused_message_is_sent_in_single_datagrams() {
        for (errno, remembered) in [
            (libc::EIO, true),
            (libc::EINVAL, false),
            (libc::EMSGSIZE, false),
        ] {
            let (udp, shared) = (MemoryUdp::default(), shared());
            udp.segments_refused.set(Some(errno));
            let packets: Vec<_> = [100, 100, 60].map(testing::udp4).into();
            let queue: Vec<_> = packets.iter().cloned().map(plain).collect();
            carry(&queue, &udp, &shared);
            assert_eq!(inner(&udp), packets);
            assert_eq!(shared.udp_gso(), !remembered);
            assert_eq!(shared.outbound.traffic.packets.get(), 3);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_counted_by_reason() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let (mut nowhere, mut group) = (testing::udp4(1), testing::udp6(1));
        nowhere[18] = 77;
        group[24] = 0xff;
        let bad = VnetHeader {
            gso_type: 3,
            gso_size: 100,
            ..VnetHeader::default()
        };
        let lost = VnetHeader {
            flags: virtio::NEEDS_CHECKSUM,
            checksum_start: 60_000,
            ..VnetHeader::default()
        };
        let queue = [
            plain(nowhere),
            plain(group),
            plain(vec![0x45; 7]),
            plain(vec![0; 60]),
            (bad, testing::udp4(1)),
            (lost, testing::udp4(1)),
        ];
        carry(&queue, &udp, &shared);
        assert_eq!(udp.sent.borrow().len(), 0);
        let dropped = |reason| shared.outbound.dropped(reason);
        assert_eq!(dropped(DropReason::NoRoute), 1);
        assert_eq!(dropped(DropReason::Multicast), 1);
        assert_eq!(dropped(DropReason::Truncated), 1);
        assert_eq!(dropped(DropReason::NotIp), 1);
        assert_eq!(dropped(DropReason::BadOffload), 2);
    }

    #[test]
    fn a_full_socket_is_waited_for_and_then_given_up() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        udp.send_errors
            .borrow_mut()
            .extend([libc::EAGAIN, libc::ENOBUFS, libc::EINTR]);
        carry(&[plain(testing::udp4(1))], &udp, &shared);
        assert_eq!(udp.sent.borrow().len(), 1);
        udp.send_errors.borrow_mut().extend([libc::EAGAIN; 11]);
        carry(
            &[plain(testing::udp4(1)), plain(testing::udp4(9))],
            &udp,
            &shared,
        );
        assert_eq!(shared.outbound.dropped(DropReason::SendQueueFull), 1);
        assert_eq!(udp.sent.borrow().len(), 2, "the next one is tried");
        udp.send_errors.borrow_mut().push_back(libc::EHOSTUNREACH);
        carry(
            &[plain(testing::udp4(1)), plain(testing::udp4(1))],
            &udp,
            &shared,
        );
        assert_eq!(shared.outbound.dropped(DropReason::SocketError), 2);
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let (udp, shared) = (MemoryUdp::default(), shared());
        let mut random = Random::new(11);
        let good = [
            testing::tcp(false, 1, 0x10, &[1; 500]),
            testing::tcp(true, 1, 0x10, &[1; 500]),
        ];
        for _ in 0..1_000 {
            let queue: Vec<_> = (0..100)
                .map(|_| {
                    let mut packet = good[random.below(2)].clone();
                    for _ in 0..random.below(4) {
                        let at = random.below(60);
                        packet[at] = random.next() as u8;
                    }
                    packet.truncate(random.below(packet.len() * 2));
                    let header = random.bytes(10);
                    let (mut vnet, _) = VnetHeader::decode(&header).unwrap();
                    vnet.gso_type = [0, 1, 4, 5, 0x81][random.below(5)];
                    vnet.gso_size %= 600;
                    vnet.checksum_start %= 120;
                    vnet.checksum_offset %= 40;
                    (vnet, packet)
                })
                .collect();
            carry(&queue, &udp, &shared);
            udp.sent.borrow_mut().clear();
        }
        assert!(
            shared.outbound.traffic.packets.get() > 1_000,
            "some were good enough"
        );
        let mut short = testing::udp4(1);
        put_u16(&mut short, 2, 10);
        carry(&[plain(short)], &udp, &shared);
    }
}
