//! What happens to one packet. Pure: bytes and a table in, a verdict out.
use std::net::IpAddr;

use super::drop::DropReason;
use super::table::{Encapsulation, PeerIndex, Sender, Strict, Table};
use crate::wire::ecn::{self, Decapsulation};
use crate::wire::ip::{self, IpHeader};
use crate::wire::vxlan::{self, Mac, Payload};

/// An IP packet from the TUN that a peer gets.
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    /// Who gets it.
    pub peer: PeerIndex,
    /// Its IP header.
    pub ip: IpHeader,
}

/// Decides about an IP packet from the TUN.
pub fn outbound(packet: &[u8], table: &Table) -> Result<Outbound, DropReason> {
    let ip = ip::parse(packet)?;
    match table.route(ip.destination) {
        Some(peer) => Ok(Outbound { peer, ip }),
        None if carries_nowhere(ip.destination) => Err(DropReason::Multicast),
        None => Err(DropReason::NoRoute),
    }
}

/// An inner packet that the host gets.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// Its IP header.
    pub ip: IpHeader,
    /// Bytes of the datagram in front of it.
    pub offset: usize,
    /// ECN bits to set first.
    pub mark: Option<u8>,
}

/// A datagram that the host does not get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub reason: DropReason,
    /// Inner source and destination, where a sender check refused it.
    pub inner: Option<(IpAddr, IpAddr)>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            inner: None,
        }
    }
}

impl From<ip::Malformed> for DropReason {
    fn from(malformed: ip::Malformed) -> Self {
        match malformed {
            ip::Malformed::Truncated => Self::Truncated,
            ip::Malformed::NotIp => Self::NotIp,
        }
    }
}

/// Decides about a datagram from `sender` whose outer header had TOS `outer_tos`.
pub fn inbound(
    datagram: &[u8],
    outer_tos: u8,
    sender: &Sender,
    table: &Table,
) -> Result<Inbound, Refused> {
    let (packet, offset) = match table.encapsulation {
        Encapsulation::Vxlan { vni, vtep_mac } => {
            (frame_for(datagram, vni, vtep_mac)?, vxlan::HEADER_LEN)
        }
        Encapsulation::Bare { .. } => (datagram, 0),
        Encapsulation::IpIp => inside_ip(datagram)?,
    };
    let ip = ip::parse(packet).map_err(DropReason::from)?;
    check_sender(sender, ip.source, table).map_err(|reason| Refused {
        reason,
        inner: Some((ip.source, ip.destination)),
    })?;
    if let Encapsulation::Bare { .. } = table.encapsulation {
        // Nobody marks the outer header (see `outer_tos`), so it says nothing.
        can_hop(packet, &ip)?;
        return Ok(Inbound {
            ip,
            offset,
            mark: None,
        });
    }
    let mark = match ecn::decapsulate(outer_tos, ip.traffic_class) {
        Decapsulation::Keep => None,
        Decapsulation::Mark(ecn) => Some(ecn),
        Decapsulation::Drop => return Err(DropReason::EcnCe.into()),
    };
    Ok(Inbound { ip, offset, mark })
}

/// Whether a packet lives on when its TTL is lowered.
pub fn can_hop(packet: &[u8], ip: &IpHeader) -> Result<(), DropReason> {
    if ip::hop_limit(packet, ip) > 1 {
        Ok(())
    } else {
        Err(DropReason::TtlExceeded)
    }
}

/// The outer TOS of a packet with traffic class `inner`. flannel's udp backend does not look at the outer header when
/// it decapsulates, so congestion met on the way would be forgotten: such packets leave as Not-ECT (RFC 6040 §4.1).
pub fn outer_tos(inner: u8, encapsulation: &Encapsulation) -> u8 {
    match encapsulation {
        Encapsulation::Vxlan { .. } | Encapsulation::IpIp => ecn::encapsulate(inner),
        Encapsulation::Bare { .. } => 0,
    }
}

/// The IPv4 packet in an IPv4 packet of protocol 4, and where it begins.
fn inside_ip(outer: &[u8]) -> Result<(&[u8], usize), DropReason> {
    const IN_IPV4: u8 = 4;
    let header = ip::parse(outer)?;
    let packet = outer
        .get(header.header_len..header.total_len)
        .unwrap_or_default();
    match packet.first().map(|first| first >> 4) {
        None => Err(DropReason::Truncated),
        Some(4) if header.is_v4() && header.protocol == IN_IPV4 => Ok((packet, header.header_len)),
        Some(_) => Err(DropReason::NotIp),
    }
}

/// The IP packet in a VXLAN datagram that is for us.
fn frame_for(datagram: &[u8], vni: u32, vtep_mac: Mac) -> Result<&[u8], DropReason> {
    let (header, packet) = vxlan::decode(datagram).map_err(|_| DropReason::BadVxlan)?;
    if header.vni != vni {
        return Err(DropReason::WrongVni);
    }
    if header.payload == Payload::Arp {
        return Err(DropReason::Arp);
    }
    if header.destination != vtep_mac {
        return Err(DropReason::WrongMac);
    }
    let version = packet.first().map(|first| first >> 4);
    match (header.payload, version) {
        (Payload::V4, Some(4)) | (Payload::V6, Some(6)) => Ok(packet),
        (Payload::V4 | Payload::V6, None) => Err(DropReason::Truncated),
        _ => Err(DropReason::NotIpFrame),
    }
}

/// Whether `sender` may send from `source`.
fn check_sender(sender: &Sender, source: IpAddr, table: &Table) -> Result<(), DropReason> {
    if table.strict == Strict::Off {
        return Ok(());
    }
    if sender.peer.is_none() && !sender.allowed {
        return Err(DropReason::UnknownSender);
    }
    if table.in_overlay(source) {
        // An allowed sender without a lease holds no overlay address.
        return if table.holds(sender, source) {
            Ok(())
        } else {
            Err(DropReason::SpoofedSource)
        };
    }
    if table.strict == Strict::Full && !sender.allowed {
        return Err(DropReason::OutsideOverlay);
    }
    Ok(())
}

fn carries_nowhere(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::table::{PeerSpec, TableSpec};
    use crate::testing::{self, Random};

    const MINE: vxlan::Mac = [2, 0, 0, 0, 0, 1];

    fn table(strict: Strict) -> Table {
        let vxlan = Encapsulation::Vxlan {
            vni: 1,
            vtep_mac: MINE,
        };
        table_of(strict, vxlan)
    }

    fn table_of(strict: Strict, encapsulation: Encapsulation) -> Table {
        let peer = |subnets: &[&str], endpoint: &str| PeerSpec {
            subnets: subnets
                .iter()
                .map(|subnet| subnet.parse().unwrap())
                .collect(),
            endpoint: endpoint.parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 2],
        };
        let spec = TableSpec {
            encapsulation,
            overlay: vec!["10.5.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
            strict,
            allow_sources: vec!["198.51.100.0/24".parse().unwrap()],
            peers: vec![
                peer(&["10.5.1.0/24", "fd00:1::/32"], "192.0.2.1"),
                peer(&["10.5.2.0/24", "fd00:2::/32"], "192.0.2.2"),
            ],
        };
        Table::build(&spec, &Table::empty()).unwrap()
    }

    fn datagram(packet: &[u8]) -> Vec<u8> {
        let v6 = packet[0] >> 4 == 6;
        [&vxlan::encode(1, MINE, [2; 6], v6), packet].concat()
    }

    fn verdict(datagram: &[u8], outer: &str, strict: Strict) -> Option<DropReason> {
        let table = table(strict);
        let sender = table.sender(outer.parse().unwrap());
        inbound(datagram, 0, &sender, &table)
            .err()
            .map(|refused| refused.reason)
    }

    #[test]
    fn a_packet_goes_to_the_peer_whose_subnet_holds_its_destination() {
        let table = table(Strict::Overlay);
        assert_eq!(outbound(&testing::udp4(4), &table).unwrap().peer, 1);
        assert_eq!(outbound(&testing::udp6(4), &table).unwrap().peer, 1);
        let to = |destination: [u8; 4]| {
            let mut packet = testing::udp4(4);
            packet[16..20].copy_from_slice(&destination);
            outbound(&packet, &table).unwrap_err()
        };
        assert_eq!(to([10, 5, 3, 1]), DropReason::NoRoute);
        assert_eq!(to([224, 0, 0, 251]), DropReason::Multicast);
        assert_eq!(outbound(&[0; 40], &table).unwrap_err(), DropReason::NotIp);
        assert_eq!(
            outbound(&[0x45; 3], &table).unwrap_err(),
            DropReason::Truncated
        );
    }

    #[test]
    fn who_may_send_is_the_table_of_the_strict_setting() {
        use DropReason::{OutsideOverlay, SpoofedSource, UnknownSender};
        let (own, foreign, outside) = ([10, 5, 1, 2], [10, 5, 2, 2], [172, 16, 0, 1]);
        let unleased = [10, 5, 77, 1];
        let (peer, stranger, named) = ("192.0.2.1", "203.0.113.9", "198.51.100.7");
        // Columns: off, overlay, full.
        let rows = [
            (peer, own, [None, None, None]),
            (
                peer,
                foreign,
                [None, Some(SpoofedSource), Some(SpoofedSource)],
            ),
            (
                peer,
                unleased,
                [None, Some(SpoofedSource), Some(SpoofedSource)],
            ),
            (peer, outside, [None, None, Some(OutsideOverlay)]),
            (
                stranger,
                own,
                [None, Some(UnknownSender), Some(UnknownSender)],
            ),
            (
                stranger,
                outside,
                [None, Some(UnknownSender), Some(UnknownSender)],
            ),
            (named, own, [None, Some(SpoofedSource), Some(SpoofedSource)]),
            (named, outside, [None, None, None]),
        ];
        for (outer, source, expected) in rows {
            let mut packet = testing::udp4(4);
            packet[12..16].copy_from_slice(&source);
            let datagram = datagram(&packet);
            let got = [Strict::Off, Strict::Overlay, Strict::Full]
                .map(|strict| verdict(&datagram, outer, strict));
            assert_eq!(got, expected, "{outer} {source:?}");
        }
    }

    #[test]
    fn a_refused_sender_is_told_with_its_inner_addresses() {
        let table = table(Strict::Overlay);
        let sender = table.sender("192.0.2.2".parse().unwrap());
        let refused = inbound(&datagram(&testing::udp6(4)), 0, &sender, &table).unwrap_err();
        let inner = ("fd00:1::2".parse().unwrap(), "fd00:2::3".parse().unwrap());
        assert_eq!(
            refused,
            Refused {
                reason: DropReason::SpoofedSource,
                inner: Some(inner)
            }
        );
    }

    #[test]
    fn each_malformed_datagram_has_its_own_reason() {
        let good = datagram(&testing::udp4(4));
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            verdict(&bad, "192.0.2.1", Strict::Overlay)
        };
        assert_eq!(verdict(&good, "192.0.2.1", Strict::Overlay), None);
        assert_eq!(
            verdict(&good[..21], "192.0.2.1", Strict::Overlay),
            Some(DropReason::BadVxlan)
        );
        assert_eq!(with(0, 0), Some(DropReason::BadVxlan));
        assert_eq!(with(6, 2), Some(DropReason::WrongVni));
        assert_eq!(with(8, 0xff), Some(DropReason::WrongMac));
        assert_eq!(with(21, 0x06), Some(DropReason::Arp));
        assert_eq!(with(20, 0x88), Some(DropReason::NotIpFrame));
        assert_eq!(with(22, 0x65), Some(DropReason::NotIpFrame));
        assert_eq!(with(22, 0x41), Some(DropReason::NotIp));
        assert_eq!(with(24, 0xff), Some(DropReason::Truncated));
        assert_eq!(
            verdict(&good[..22], "192.0.2.1", Strict::Off),
            Some(DropReason::Truncated)
        );
    }

    #[test]
    fn congestion_outside_is_carried_in_or_the_packet_dropped() {
        let table = table(Strict::Overlay);
        let sender = table.sender("192.0.2.1".parse().unwrap());
        let mut packet = testing::udp4(4);
        let refused = inbound(&datagram(&packet), 3, &sender, &table).unwrap_err();
        assert_eq!(refused.reason, DropReason::EcnCe);
        packet[1] = 2;
        assert_eq!(
            inbound(&datagram(&packet), 3, &sender, &table)
                .unwrap()
                .mark,
            Some(3)
        );
        assert_eq!(
            inbound(&datagram(&packet), 2, &sender, &table)
                .unwrap()
                .mark,
            None
        );
    }

    #[test]
    fn a_bare_packet_is_judged_by_sender_and_ttl() {
        let table = table_of(Strict::Overlay, Encapsulation::Bare { v4: None, v6: None });
        let verdict = |packet: &[u8], outer: &str| {
            let sender = table.sender(outer.parse().unwrap());
            inbound(packet, 3, &sender, &table).map_err(|refused| refused.reason)
        };
        for mut packet in [testing::udp4(4), testing::udp6(4)] {
            let accepted = verdict(&packet, "192.0.2.1").unwrap();
            assert_eq!((accepted.offset, accepted.mark), (0, None));
            assert_eq!(
                verdict(&packet, "192.0.2.2").unwrap_err(),
                DropReason::SpoofedSource
            );
            assert_eq!(
                verdict(&packet, "203.0.113.9").unwrap_err(),
                DropReason::UnknownSender
            );
            let at = if packet[0] == 0x45 { 8 } else { 7 };
            for (left, expected) in [
                (2, None),
                (1, Some(DropReason::TtlExceeded)),
                (0, Some(DropReason::TtlExceeded)),
            ] {
                packet[at] = left;
                assert_eq!(verdict(&packet, "192.0.2.1").err(), expected);
            }
            let short = &packet[..packet.len() - 1];
            assert_eq!(
                verdict(short, "192.0.2.1").unwrap_err(),
                DropReason::Truncated
            );
        }
        assert_eq!(
            verdict(&[], "192.0.2.1").unwrap_err(),
            DropReason::Truncated
        );
        assert_eq!(
            verdict(&[0x15; 40], "192.0.2.1").unwrap_err(),
            DropReason::NotIp
        );
    }

    #[test]
    fn a_packet_in_ip_begins_behind_the_outer_header() {
        let table = table_of(Strict::Overlay, Encapsulation::IpIp);
        let sender = table.sender("192.0.2.1".parse().unwrap());
        let verdict = |datagram: &[u8], tos| {
            inbound(datagram, tos, &sender, &table).map_err(|refused| refused.reason)
        };
        let inner = testing::udp4(4);
        for options in [0, 8] {
            let outer = testing::in_ip4(&inner, options);
            let accepted = verdict(&outer, 0).unwrap();
            assert_eq!((accepted.offset, accepted.mark), (20 + options, None));
            assert_eq!(accepted.ip.total_len, inner.len());
        }
        let outer = testing::in_ip4(&inner, 0);
        assert_eq!(verdict(&outer, 3).unwrap_err(), DropReason::EcnCe);
        assert_eq!(verdict(&outer[..30], 0).unwrap_err(), DropReason::Truncated);
        let other = testing::in_ip4(&testing::udp6(4), 0);
        assert_eq!(verdict(&other, 0).unwrap_err(), DropReason::NotIp);
        let empty = testing::in_ip4(&[], 0);
        assert_eq!(verdict(&empty, 0).unwrap_err(), DropReason::Truncated);
        let mut udp = outer.clone();
        udp[9] = 17;
        assert_eq!(verdict(&udp, 0).unwrap_err(), DropReason::NotIp);
    }

    #[test]
    fn random_bytes_get_a_verdict() {
        let mut random = Random::new(4);
        let table = table(Strict::Off);
        let bare = table_of(Strict::Off, Encapsulation::Bare { v4: None, v6: None });
        let ipip = table_of(Strict::Off, Encapsulation::IpIp);
        let sender = table.sender("192.0.2.1".parse().unwrap());
        let good = datagram(&testing::tcp(false, 1, 0x10, b"x"));
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(random.below(bytes.len() + 20));
            let _ = outbound(bytes.get(22..).unwrap_or(&bytes), &table);
            if let Ok(accepted) = inbound(&bytes, random.next() as u8, &sender, &table) {
                assert!(accepted.offset + accepted.ip.total_len <= bytes.len());
            }
            let wrapped = testing::in_ip4(&bytes, 4 * random.below(10));
            let cut = random.below(wrapped.len() + 1);
            for outer in [&wrapped[..], &wrapped[..cut], &bytes] {
                if let Ok(accepted) = inbound(outer, 0, &sender, &ipip) {
                    assert!(accepted.offset + accepted.ip.total_len <= outer.len());
                }
            }
            if let Ok(accepted) = inbound(&bytes, 0, &sender, &bare) {
                assert!(accepted.ip.total_len <= bytes.len());
            }
        }
    }
}
