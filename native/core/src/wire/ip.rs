//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers as one value.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{checksum, get_u16, put_u16};

/// Length of an IPv6 header, in bytes.
pub const V6_HEADER_LEN: usize = 40;

/// What the engine needs of an IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IpHeader {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol or, in IPv6, the first next-header number: extension headers are not walked.
    pub protocol: u8,
    /// Bytes before what `protocol` names.
    pub header_len: usize,
    /// Bytes of the whole packet by its own account; never more than there were.
    pub total_len: usize,
    /// TOS or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Part of a fragmented packet, the first one included: the rest of the flow has no ports.
    pub fragment: bool,
}

impl IpHeader {
    /// Whether the packet is IPv4.
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Bytes from the transport header to the packet's end.
    pub fn transport_len(&self) -> usize {
        self.total_len.saturating_sub(self.header_len)
    }
}

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Shorter than the header, or than the header says the packet is.
    Truncated,
    /// Neither version 4 nor 6, or header lengths that contradict each other.
    NotIp,
}

/// Reads the IP header at the start of `packet`. Bytes after the packet's own length are allowed: Ethernet pads.
pub fn parse(packet: &[u8]) -> Result<IpHeader, Malformed> {
    match packet.first().ok_or(Malformed::Truncated)? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => Err(Malformed::NotIp),
    }
}

fn parse_v4(packet: &[u8]) -> Result<IpHeader, Malformed> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Malformed::Truncated)?;
    let [
        first,
        tos,
        len0,
        len1,
        _,
        _,
        frag0,
        frag1,
        _,
        protocol,
        _,
        _,
        rest @ ..,
    ] = *header;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = rest;
    let header_len = usize::from(first & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([len0, len1]));
    if header_len < 20 || total_len < header_len {
        return Err(Malformed::NotIp);
    }
    if total_len > packet.len() {
        return Err(Malformed::Truncated);
    }
    Ok(IpHeader {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        header_len,
        total_len,
        traffic_class: tos,
        fragment: u16::from_be_bytes([frag0, frag1]) & 0x3fff != 0,
    })
}

fn parse_v6(packet: &[u8]) -> Result<IpHeader, Malformed> {
    const FRAGMENT: u8 = 44;
    let (fixed, rest) = packet
        .split_first_chunk::<8>()
        .ok_or(Malformed::Truncated)?;
    let (source, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let destination = rest.first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let [first, second, _, _, len0, len1, protocol, _] = *fixed;
    let total_len = V6_HEADER_LEN + usize::from(u16::from_be_bytes([len0, len1]));
    if total_len > packet.len() {
        return Err(Malformed::Truncated);
    }
    Ok(IpHeader {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination).into(),
        protocol,
        header_len: V6_HEADER_LEN,
        total_len,
        traffic_class: first << 4 | second >> 4,
        fragment: protocol == FRAGMENT,
    })
}

/// Makes `header`, the start of a packet, say `total_len` bytes and, in IPv4, `identification`; sets the header
/// checksum. `header` is at least as long as the IP header it holds.
pub fn set_length(header: &mut [u8], ip: &IpHeader, total_len: usize, identification: Option<u16>) {
    if ip.is_v4() {
        put_u16(header, 2, total_len as u16);
        if let Some(identification) = identification {
            put_u16(header, 4, identification);
        }
        set_v4_checksum(header, ip.header_len);
    } else {
        put_u16(header, 4, total_len.saturating_sub(V6_HEADER_LEN) as u16);
    }
}

/// IPv4's identification field.
pub fn identification(header: &[u8]) -> u16 {
    get_u16(header, 4).unwrap_or(0)
}

/// Replaces the ECN bits of the packet's header. IPv4's checksum follows by difference (RFC 1624 §3), so that one
/// that was wrong stays wrong.
pub fn set_ecn(packet: &mut [u8], ip: &IpHeader, ecn: u8) {
    let Some(before) = get_u16(packet, 0) else {
        return;
    };
    if !ip.is_v4() {
        put_u16(packet, 0, before & !0x0030 | u16::from(ecn & 0x03) << 4);
        return;
    }
    let after = before & !0x0003 | u16::from(ecn & 0x03);
    put_u16(packet, 0, after);
    let old = !get_u16(packet, 10).unwrap_or(0);
    put_u16(
        packet,
        10,
        !checksum::add(checksum::add(old, !before), after),
    );
}

/// TTL or hop limit: how many more hops the packet may take.
pub fn hop_limit(packet: &[u8], ip: &IpHeader) -> u8 {
    packet.get(hop_limit_at(ip)).copied().unwrap_or(0)
}

/// Lowers TTL or hop limit by one; 0 stays. IPv4's checksum follows by difference (RFC 1624 §3), so that one that was
/// wrong stays wrong.
pub fn lower_hop_limit(packet: &mut [u8], ip: &IpHeader) {
    let Some(left) = packet.get_mut(hop_limit_at(ip)).filter(|left| **left > 0) else {
        return;
    };
    *left -= 1;
    if ip.is_v4() {
        // TTL is the high byte of its word: 0x100 less there is ~m + m' = 0xfeff.
        let old = !get_u16(packet, 10).unwrap_or(0);
        put_u16(packet, 10, !checksum::add(old, 0xfeff));
    }
}

fn hop_limit_at(ip: &IpHeader) -> usize {
    if ip.is_v4() { 8 } else { 7 }
}

/// Whether an IPv4 packet is whole or the first fragment. Of IPv6 packets those that are no fragment at all.
pub fn is_first_part(packet: &[u8], ip: &IpHeader) -> bool {
    if !ip.is_v4() {
        return !ip.fragment;
    }
    get_u16(packet, 6).is_some_and(|field| field & 0x1fff == 0)
}

/// Whether the header's own checksum is right; IPv6 has none.
pub fn header_is_intact(packet: &[u8], ip: &IpHeader) -> bool {
    !ip.is_v4()
        || packet
            .get(..ip.header_len)
            .is_some_and(|bytes| checksum::sum(bytes) == 0xffff)
}

fn set_v4_checksum(packet: &mut [u8], header_len: usize) {
    put_u16(packet, 10, 0);
    let sum = packet.get(..header_len).map_or(0, checksum::sum);
    put_u16(packet, 10, !sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Random};

    #[test]
    fn a_packet_may_be_padded_but_not_cut() {
        for mut packet in [testing::udp4(30), testing::udp6(30)] {
            let whole = parse(&packet).unwrap();
            assert_eq!(whole.total_len, packet.len());
            assert_eq!(
                parse(&packet[..packet.len() - 1]),
                Err(Malformed::Truncated)
            );
            packet.extend([0; 18]);
            assert_eq!(parse(&packet), Ok(whole));
        }
    }

    #[test]
    fn contradicting_lengths_are_no_packet() {
        let mut packet = testing::udp4(30);
        packet[0] = 0x44;
        assert_eq!(parse(&packet), Err(Malformed::NotIp));
        packet[0] = 0x45;
        put_u16(&mut packet, 2, 19);
        assert_eq!(parse(&packet), Err(Malformed::NotIp));
        packet[0] = 0x50;
        assert_eq!(parse(&packet), Err(Malformed::NotIp));
        assert_eq!(parse(&[]), Err(Malformed::Truncated));
    }

    #[test]
    fn both_families_give_class_and_fragment() {
        let mut v4 = testing::udp4(8);
        v4[1] = 0xb9;
        put_u16(&mut v4, 6, 0x2000);
        let header = parse(&v4).unwrap();
        assert_eq!((header.traffic_class, header.fragment), (0xb9, true));
        put_u16(&mut v4, 6, 0x4000);
        assert!(!parse(&v4).unwrap().fragment, "DF is not a fragment");
        let mut v6 = testing::udp6(8);
        v6[0] = 0x6b;
        v6[1] = 0x90;
        v6[6] = 44;
        let header = parse(&v6).unwrap();
        assert_eq!((header.traffic_class, header.fragment), (0xb9, true));
    }

    #[test]
    fn setting_ecn_keeps_the_dscp_and_a_valid_checksum() {
        for mut packet in [testing::udp4(8), testing::udp6(8)] {
            for ecn in [0, 1, 2, 3] {
                let header = parse(&packet).unwrap();
                set_ecn(&mut packet, &header, ecn);
                let after = parse(&packet).unwrap();
                assert_eq!(after.traffic_class, header.traffic_class & !3 | ecn);
                if after.is_v4() {
                    assert_eq!(checksum::sum(&packet[..20]), 0xffff);
                }
            }
        }
        let mut broken = testing::udp4(8);
        broken[10] ^= 0x40;
        let header = parse(&broken).unwrap();
        set_ecn(&mut broken, &header, 3);
        assert!(
            !header_is_intact(&broken, &header),
            "a wrong checksum is not repaired"
        );
    }

    #[test]
    fn a_lowered_hop_limit_keeps_a_checksum_as_right_or_wrong_as_it_was() {
        let mut random = Random::new(31);
        for _ in 0..20_000 {
            let mut packet = testing::udp4(8);
            let (ttl, identification) = (1 + random.below(255) as u8, random.next() as u16);
            packet[8] = ttl;
            put_u16(&mut packet, 4, identification);
            testing::complete(&mut packet);
            let damage = if random.below(2) == 0 {
                0
            } else {
                random.next() as u8
            };
            packet[11] ^= damage;
            let header = parse(&packet).unwrap();
            lower_hop_limit(&mut packet, &header);
            assert_eq!(hop_limit(&packet, &header), ttl - 1);
            assert_eq!(header_is_intact(&packet, &header), damage == 0);
        }
        let mut packet = testing::udp6(8);
        let mut expected = packet.clone();
        expected[7] -= 1;
        let header = parse(&packet).unwrap();
        lower_hop_limit(&mut packet, &header);
        assert_eq!(packet, expected);
        packet[7] = 0;
        lower_hop_limit(&mut packet, &header);
        assert_eq!(packet[7], 0);
    }

    #[test]
    fn random_bytes_never_claim_more_than_there_is() {
        let mut random = Random::new(2);
        for _ in 0..100_000 {
            let length = random.below(80);
            let bytes = random.bytes(length);
            if let Ok(header) = parse(&bytes) {
                assert!(header.header_len <= header.total_len && header.total_len <= bytes.len());
            }
        }
    }
}
