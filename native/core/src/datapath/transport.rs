//! TCP and UDP as far as both loops look at them.
use std::net::IpAddr;

use crate::wire::ip::IpHeader;
use crate::wire::{TCP, UDP, checksum, get_u16, get_u32, put_u16};

/// Length of a UDP header, in bytes.
pub const UDP_HEADER_LEN: usize = 8;

/// Where the checksum field is, from the transport header on; None for other protocols.
pub fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// Length in bytes of the TCP header at `at`, where it is a possible one.
pub fn tcp_header_len(packet: &[u8], at: usize) -> Option<usize> {
    let len = usize::from(packet.get(at + 12)? >> 4) * 4;
    (len >= 20).then_some(len)
}

/// The value of a checksum field whose covered bytes, pseudo-header included, add up to `sum`.
pub fn finish(sum: u16, protocol: u8) -> u16 {
    // In UDP a zero says that there is no checksum (RFC 768).
    if protocol == UDP && sum == 0xffff {
        0xffff
    } else {
        !sum
    }
}

/// Completes the checksum whose field, `offset` bytes after `start`, holds the pseudo-header's sum. False when the
/// field is not within the packet.
pub fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> bool {
    const UDP_OFFSET: usize = 6;
    let Some(covered) = packet
        .get_mut(start..)
        .filter(|covered| covered.len() >= offset + 2)
    else {
        return false;
    };
    let protocol = if offset == UDP_OFFSET { UDP } else { TCP };
    let value = finish(checksum::sum(covered), protocol);
    put_u16(covered, offset, value);
    true
}

/// What the transport checksum of a whole packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// Right, or absent where it may be.
    Valid,
    /// The field holds the pseudo-header's sum: the sender left the rest to its network device, but a virtual link
    /// between the two did not need it. One broken packet in 65,536 looks the same.
    Unfinished,
    /// Wrong, or not within the packet: the host's stack shall judge and count it.
    Wrong,
    /// Not TCP or UDP, or a fragment.
    Unknown,
}

/// Verifies the transport checksum of `packet`, which has no bytes beyond its length. With `hurry` an unfinished
/// one is recognised without adding up the packet.
pub fn verify(packet: &[u8], ip: &IpHeader, hurry: bool) -> Checksum {
    let Some(offset) = checksum_offset(ip.protocol).filter(|_| !ip.fragment) else {
        return Checksum::Unknown;
    };
    let covered = packet.get(ip.header_len..ip.total_len).unwrap_or_default();
    let Some(field) = get_u16(covered, offset) else {
        return Checksum::Wrong;
    };
    if ip.protocol == UDP && field == 0 {
        return if ip.is_v4() {
            Checksum::Valid
        } else {
            Checksum::Wrong
        };
    }
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, covered.len());
    if hurry && field == pseudo {
        Checksum::Unfinished
    } else if checksum::add(pseudo, checksum::sum(covered)) == 0xffff {
        Checksum::Valid
    } else if field == pseudo {
        Checksum::Unfinished
    } else {
        Checksum::Wrong
    }
}

/// What tells one flow from another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Both ports as they stand in the header; 0 where there are none or not every packet has them.
    ports: u32,
}

impl FlowKey {
    /// The flow of a packet.
    pub fn of(packet: &[u8], ip: &IpHeader) -> Self {
        let has_ports = checksum_offset(ip.protocol).is_some() && !ip.fragment;
        let ports = if has_ports {
            get_u32(packet, ip.header_len).unwrap_or(0)
        } else {
            0
        };
        Self {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            ports,
        }
    }

    /// A number that spreads flows; nobody gains by guessing it.
    pub fn spread(&self) -> usize {
        let address = |address: IpAddr| match address {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                (bits >> 64) as u64 ^ (bits as u64).rotate_left(29)
            }
        };
        let mut hash = address(self.source);
        for part in [
            address(self.destination),
            u64::from(self.protocol) << 32 | u64::from(self.ports),
        ] {
            hash = (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        hash as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Random};
    use crate::wire::ip;

    #[test]
    fn the_four_states_are_told_apart() {
        for packet in [
            testing::udp4(33),
            testing::udp6(33),
            testing::tcp(false, 1, 0x10, b"abc"),
            testing::tcp(true, 1, 0x10, b"abc"),
        ] {
            let header = ip::parse(&packet).unwrap();
            let state = |packet: &[u8]| verify(packet, &header, false);
            assert_eq!(state(&packet), Checksum::Valid);
            let mut unfinished = packet.clone();
            testing::unfinish(&mut unfinished);
            assert_eq!(state(&unfinished), Checksum::Unfinished);
            assert_eq!(verify(&unfinished, &header, true), Checksum::Unfinished);
            let offset = checksum_offset(header.protocol).unwrap();
            assert!(complete_checksum(
                &mut unfinished,
                header.header_len,
                offset
            ));
            assert_eq!(unfinished, packet);
            let mut wrong = packet.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(state(&wrong), Checksum::Wrong);
            let fragment = IpHeader {
                fragment: true,
                ..header
            };
            assert_eq!(verify(&packet, &fragment, false), Checksum::Unknown);
        }
    }

    #[test]
    fn an_absent_udp_checksum_is_fine_in_ipv4_only() {
        let (mut v4, mut v6) = (testing::udp4(9), testing::udp6(9));
        put_u16(&mut v4, 26, 0);
        put_u16(&mut v6, 46, 0);
        assert_eq!(
            verify(&v4, &ip::parse(&v4).unwrap(), false),
            Checksum::Valid
        );
        assert_eq!(
            verify(&v6, &ip::parse(&v6).unwrap(), false),
            Checksum::Wrong
        );
    }

    #[test]
    fn a_finished_udp_checksum_is_never_zero() {
        assert_eq!(
            (finish(0xffff, UDP), finish(0xffff, TCP), finish(1, UDP)),
            (0xffff, 0, 0xfffe)
        );
    }

    #[test]
    fn flows_spread_over_all_sockets() {
        let mut random = Random::new(5);
        let mut counts = [0; 8];
        for _ in 0..8_000 {
            let mut packet = testing::udp4(4);
            put_u16(&mut packet, 20, random.next() as u16);
            let header = ip::parse(&packet).unwrap();
            counts[FlowKey::of(&packet, &header).spread() % 8] += 1;
        }
        assert!(
            counts.iter().all(|count| (700..1_300).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn all_fragments_of_a_flow_have_one_key() {
        let whole = testing::udp4(64);
        let mut first = whole.clone();
        put_u16(&mut first, 6, 0x2000);
        let mut second = whole.clone();
        put_u16(&mut second, 6, 0x0008);
        put_u16(&mut second, 20, 0xabcd);
        let key = |packet: &[u8]| FlowKey::of(packet, &ip::parse(packet).unwrap());
        assert_eq!(key(&first), key(&second));
        assert_ne!(key(&first), key(&whole));
    }
}
