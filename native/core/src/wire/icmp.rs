//! ICMP answers of a tunnel that has nowhere to send a packet (RFC 792, RFC 4443 §3.1).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ip::{self, IpHeader, V6_HEADER_LEN};
use super::{TCP, UDP, checksum, put_u16};

/// No answer is longer: what IPv6 allows (RFC 4443 §2.4 c).
pub const ANSWER_BYTES: usize = 1280;

/// flannel's, and enough: answers go no further than this host's own subnet.
const TTL: u8 = 8;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const HEADER_LEN: usize = 8;
/// An IPv4 header with every option it can have; flannel does not answer those.
const V4_HEADER_LEN_MAX: usize = 60;

/// Writes to `buffer` the answer that there is no route for `packet`, whose header is `ip`, from our address of its
/// family, and gives the bytes. None where there must be none: to ICMP, to fragments but the first, and without an
/// address of ours. Of IPv6 packets only plain TCP and UDP are answered: behind other headers an ICMP error may hide.
pub fn unreachable<'a>(
    buffer: &'a mut [u8; ANSWER_BYTES],
    packet: &[u8],
    ip: &IpHeader,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
) -> Option<&'a [u8]> {
    match ip.source {
        IpAddr::V4(asker) => unreachable_v4(buffer, packet, ip, v4?, asker),
        IpAddr::V6(asker) => unreachable_v6(buffer, packet, ip, v6?, asker),
    }
}

/// Type 3, code 0: 20 bytes of IP and 8 of ICMP, the packet's own header and the 8 bytes behind it.
fn unreachable_v4<'a>(
    buffer: &'a mut [u8; ANSWER_BYTES],
    packet: &[u8],
    ip: &IpHeader,
    from: Ipv4Addr,
    asker: Ipv4Addr,
) -> Option<&'a [u8]> {
    let named = !asker.is_unspecified() && !asker.is_multicast() && !asker.is_broadcast();
    if ip.protocol == ICMP
        || ip.header_len >= V4_HEADER_LEN_MAX
        || !ip::is_first_part(packet, ip)
        || !named
    {
        return None;
    }
    let quoted = packet.get(..ip.total_len.min(ip.header_len + 8))?;
    let total = 20 + HEADER_LEN + quoted.len();
    let answer = buffer.get_mut(..total)?;
    let (header, icmp) = answer.split_at_mut_checked(20)?;
    let [l0, l1] = (total as u16).to_be_bytes();
    let fixed = [0x45, 0, l0, l1, 0, 0, 0, 0, TTL, ICMP, 0, 0];
    write(header, &[&fixed, &from.octets(), &asker.octets()]);
    put_u16(header, 10, !checksum::sum(header));
    write(icmp, &[&[3, 0, 0, 0, 0, 0, 0, 0], quoted]);
    put_u16(icmp, 2, !checksum::sum(icmp));
    Some(answer)
}

/// Type 1, code 0: as much of the packet as fits.
fn unreachable_v6<'a>(
    buffer: &'a mut [u8; ANSWER_BYTES],
    packet: &[u8],
    ip: &IpHeader,
    from: Ipv6Addr,
    asker: Ipv6Addr,
) -> Option<&'a [u8]> {
    let named = !asker.is_unspecified() && !asker.is_multicast();
    if !matches!(ip.protocol, TCP | UDP) || !named {
        return None;
    }
    let quoted = packet.get(..ip.total_len.min(ANSWER_BYTES - V6_HEADER_LEN - HEADER_LEN))?;
    let length = HEADER_LEN + quoted.len();
    let answer = buffer.get_mut(..V6_HEADER_LEN + length)?;
    let (header, icmp) = answer.split_at_mut_checked(V6_HEADER_LEN)?;
    let [l0, l1] = (length as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, ICMP_V6, TTL];
    write(header, &[&fixed, &from.octets(), &asker.octets()]);
    write(icmp, &[&[1, 0, 0, 0, 0, 0, 0, 0], quoted]);
    let pseudo = checksum::pseudo_header(from.into(), asker.into(), ICMP_V6, length);
    put_u16(icmp, 2, !checksum::add(pseudo, checksum::sum(icmp)));
    Some(answer)
}

fn write(to: &mut [u8], parts: &[&[u8]]) {
    for (to, from) in to.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Random};

    const V4: Option<Ipv4Addr> = Some(Ipv4Addr::new(10, 5, 1, 0));
    const V6: Option<Ipv6Addr> = Some(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0));

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let ip = ip::parse(packet).unwrap();
        let mut buffer = [0xee; ANSWER_BYTES];
        unreachable(&mut buffer, packet, &ip, V4, V6).map(<[u8]>::to_vec)
    }

    #[test]
    fn an_ipv4_packet_is_answered_as_flannel_does() {
        let packet = testing::udp4(100);
        let got = answer(&packet).unwrap();
        assert_eq!(got[..10], [0x45, 0, 0, 56, 0, 0, 0, 0, 8, 1]);
        assert_eq!(got[12..20], [10, 5, 1, 0, 10, 5, 1, 2]);
        assert_eq!(got[20..22], [3, 0]);
        assert_eq!(got[24..28], [0; 4]);
        assert_eq!(got[28..], packet[..28]);
        assert_eq!(checksum::sum(&got[..20]), 0xffff);
        assert_eq!(checksum::sum(&got[20..]), 0xffff);
    }

    #[test]
    fn an_ipv6_answer_quotes_all_that_fits() {
        for (length, quoted) in [(100, 148), (1_400, 1_232)] {
            let packet = testing::udp6(length);
            let got = answer(&packet).unwrap();
            assert_eq!(got.len(), 48 + quoted);
            assert_eq!(got[6..8], [58, 8]);
            assert_eq!(got[8..24], V6.unwrap().octets());
            assert_eq!(got[24..40], packet[8..24]);
            assert_eq!(got[40..42], [1, 0]);
            assert_eq!(got[48..], packet[..quoted]);
            let (from, to) = (V6.unwrap().into(), ip::parse(&packet).unwrap().source);
            let pseudo = checksum::pseudo_header(from, to, 58, 8 + quoted);
            assert_eq!(checksum::add(pseudo, checksum::sum(&got[40..])), 0xffff);
        }
    }

    #[test]
    fn there_is_no_answer_to_icmp_later_fragments_many_options_or_nobody() {
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = testing::udp4(100);
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            answer(&packet)
        };
        assert!(with(9, &[1]).is_none(), "ICMP");
        assert!(with(6, &[0x00, 0x01]).is_none(), "a later fragment");
        assert!(with(6, &[0x20, 0x00]).is_some(), "the first fragment");
        assert!(with(6, &[0x40, 0x00]).is_some(), "DF");
        assert!(with(0, &[0x4f]).is_none(), "60 bytes of header");
        assert_eq!(with(0, &[0x4e]).unwrap().len(), 28 + 56 + 8);
        assert!(with(12, &[0; 4]).is_none());
        assert!(with(12, &[224, 0, 0, 1]).is_none());
        let mut packet = testing::udp6(10);
        for next_header in [58, 0, 44, 60] {
            packet[6] = next_header;
            assert!(answer(&packet).is_none(), "next header {next_header}");
        }
        let (packet, mut buffer) = (testing::udp4(1), [0; ANSWER_BYTES]);
        let ip = ip::parse(&packet).unwrap();
        assert!(unreachable(&mut buffer, &packet, &ip, None, V6).is_none());
    }

    #[test]
    fn any_packet_gets_a_sound_answer_or_none() {
        let mut random = Random::new(21);
        for round in 0..100_000 {
            let mut bytes = match round % 3 {
                0 => testing::udp6(random.below(1_400)),
                1 => testing::udp4(random.below(40)),
                _ => random.bytes(80),
            };
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            let Ok(ip) = ip::parse(&bytes) else {
                continue;
            };
            let mut buffer = [0; ANSWER_BYTES];
            if let Some(answer) = unreachable(&mut buffer, &bytes, &ip, V4, V6) {
                let header = ip::parse(answer).unwrap();
                assert_eq!(header.total_len, answer.len());
                assert_eq!(header.destination, ip.source);
                assert!(ip::header_is_intact(answer, &header));
            }
        }
    }
}
