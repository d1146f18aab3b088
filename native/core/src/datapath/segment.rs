//! Cuts a super-packet of the kernel's into the packets that go on the wire, as its own GSO would.
use crate::port::Span;
use crate::wire::ip::{self, IpHeader, V6_HEADER_LEN};
use crate::wire::virtio::{self, VnetHeader};
use crate::wire::{TCP, UDP, checksum, get_u32, put_u16, put_u32};

use super::transport::{self, UDP_HEADER_LEN};

/// The longest IP and transport headers together, in bytes, that are cut.
pub const MAX_HEADERS_LEN: usize = 256;

const FIN_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// How one super-packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    ip: IpHeader,
    protocol: u8,
    /// Where the transport header begins: behind IPv6's extension headers too.
    transport: usize,
    headers_len: usize,
    size: usize,
    count: usize,
}

impl Segments {
    /// Reads from `vnet` and the headers how to cut `packet`. None when they contradict each other.
    pub fn plan(packet: &[u8], vnet: &VnetHeader, ip: &IpHeader) -> Option<Self> {
        let protocol = match (vnet.gso_type & !virtio::GSO_ECN, ip.is_v4()) {
            (virtio::GSO_TCP4, true) | (virtio::GSO_TCP6, false) => TCP,
            (virtio::GSO_UDP, _) => UDP,
            _ => return None,
        };
        let extended = !ip.is_v4() && vnet.needs_checksum();
        let transport = if extended {
            usize::from(vnet.checksum_start)
        } else {
            ip.header_len
        };
        let direct = transport == ip.header_len && ip.protocol == protocol;
        if ip.fragment || !(direct || extended && transport > V6_HEADER_LEN) {
            return None;
        }
        let transport_len = match protocol {
            TCP => transport::tcp_header_len(packet, transport)?,
            _ => UDP_HEADER_LEN,
        };
        let headers_len = transport + transport_len;
        let payload = ip.total_len.checked_sub(headers_len)?;
        let size = usize::from(vnet.gso_size);
        if size == 0 || headers_len > MAX_HEADERS_LEN {
            return None;
        }
        let count = payload.div_ceil(size).max(1);
        Some(Self {
            ip: *ip,
            protocol,
            transport,
            headers_len,
            size,
            count,
        })
    }

    /// How many packets come of it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of IP and transport headers in front of each one's payload.
    pub fn headers_len(&self) -> usize {
        self.headers_len
    }

    /// Writes the headers of packet number `index` to `headers` (`headers_len` bytes) and gives where in `packet`
    /// its payload is.
    pub fn cut(&self, packet: &[u8], index: usize, headers: &mut [u8]) -> Span {
        for (to, from) in headers.iter_mut().zip(packet) {
            *to = *from;
        }
        let start = self.headers_len + index * self.size;
        let len = self.size.min(self.ip.total_len.saturating_sub(start));
        let payload = Span { start, len };
        let identification = ip::identification(packet).wrapping_add(index as u16);
        ip::set_length(
            headers,
            &self.ip,
            self.headers_len + len,
            Some(identification),
        );
        match self.protocol {
            TCP => self.fix_tcp(packet, index, headers),
            _ => put_u16(headers, self.transport + 4, (UDP_HEADER_LEN + len) as u16),
        }
        self.fill_checksum(headers, payload.of(packet));
        payload
    }

    fn fix_tcp(&self, packet: &[u8], index: usize, headers: &mut [u8]) {
        let sequence = get_u32(packet, self.transport + 4).unwrap_or(0);
        put_u32(
            headers,
            self.transport + 4,
            sequence.wrapping_add((index * self.size) as u32),
        );
        if let Some(flags) = headers.get_mut(self.transport + 13) {
            if index + 1 < self.count {
                *flags &= !FIN_PSH;
            }
            if index > 0 {
                *flags &= !CWR;
            }
        }
    }

    fn fill_checksum(&self, headers: &mut [u8], payload: &[u8]) {
        let Some(offset) = transport::checksum_offset(self.protocol) else {
            return;
        };
        let Some(header) = headers.get_mut(self.transport..) else {
            return;
        };
        put_u16(header, offset, 0);
        let length = header.len() + payload.len();
        let (source, destination) = (self.ip.source, self.ip.destination);
        let pseudo = checksum::pseudo_header(source, destination, self.protocol, length);
        // The header's length is even, so the payload's words are aligned in the sum.
        let sum = checksum::add(
            pseudo,
            checksum::add(checksum::sum(header), checksum::sum(payload)),
        );
        put_u16(header, offset, transport::finish(sum, self.protocol));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Random};
    use crate::wire::get_u16;

    /// A super-packet and what the kernel says about it.
    pub fn super_packet(random: &mut Random, v6: bool, tcp: bool) -> (VnetHeader, Vec<u8>) {
        let length = 1 + random.below(65_535 - 200);
        let payload = random.bytes(length);
        let mut packet = match (tcp, v6) {
            (true, _) => testing::tcp(v6, random.next() as u32, 0x99, &payload),
            (false, false) => testing::udp4(payload.len()),
            (false, true) => testing::udp6(payload.len()),
        };
        testing::unfinish(&mut packet);
        let start = if v6 { 40 } else { 20 };
        let header_len = start + if tcp { 32 } else { 8 };
        let gso_type = match (tcp, v6) {
            (true, false) => virtio::GSO_TCP4 | virtio::GSO_ECN,
            (true, true) => virtio::GSO_TCP6,
            (false, _) => virtio::GSO_UDP,
        };
        let vnet = VnetHeader {
            flags: virtio::NEEDS_CHECKSUM,
            gso_type,
            header_len: header_len as u16,
            gso_size: (500 + random.below(1_000)) as u16,
            checksum_start: start as u16,
            checksum_offset: if tcp { 16 } else { 6 },
        };
        (vnet, packet)
    }

    fn cut_all(packet: &[u8], segments: &Segments) -> Vec<Vec<u8>> {
        (0..segments.count())
            .map(|index| {
                let mut headers = vec![0; segments.headers_len()];
                let payload = segments.cut(packet, index, &mut headers);
                [&headers, payload.of(packet)].concat()
            })
            .collect()
    }

    #[test]
    fn segments_are_valid_packets_whose_payloads_make_up_the_original() {
        let mut random = Random::new(6);
        for round in 0..60 {
            let (v6, tcp) = (round % 2 == 1, round % 4 < 2);
            let (vnet, packet) = super_packet(&mut random, v6, tcp);
            let header = ip::parse(&packet).unwrap();
            let segments = Segments::plan(&packet, &vnet, &header).unwrap();
            let cut = cut_all(&packet, &segments);
            let at = segments.headers_len();
            let joined: Vec<u8> = cut
                .iter()
                .flat_map(|segment| &segment[at..])
                .copied()
                .collect();
            assert_eq!(joined, packet[at..]);
            for (index, segment) in cut.iter().enumerate() {
                let last = index + 1 == cut.len();
                let inner = ip::parse(segment).unwrap();
                assert_eq!(inner.total_len, segment.len());
                assert!(last || segment.len() == at + usize::from(vnet.gso_size));
                assert_eq!(testing::transport_sum(segment), 0xffff, "segment {index}");
                assert!(ip::header_is_intact(segment, &inner));
                if !v6 {
                    assert_eq!(
                        ip::identification(segment),
                        0xfffeu16.wrapping_add(index as u16)
                    );
                }
                let transport = inner.header_len;
                if tcp {
                    let offset = (index * usize::from(vnet.gso_size)) as u32;
                    let first = get_u32(&packet, transport + 4).unwrap();
                    assert_eq!(
                        get_u32(segment, transport + 4),
                        Some(first.wrapping_add(offset))
                    );
                    let expected =
                        0x10 | if index == 0 { 0x80 } else { 0 } | if last { 0x09 } else { 0 };
                    assert_eq!(segment[transport + 13], expected);
                } else {
                    let length = (segment.len() - transport) as u16;
                    assert_eq!(get_u16(segment, transport + 4), Some(length));
                }
            }
        }
    }

    #[test]
    fn extension_headers_go_into_every_segment() {
        let plain = testing::tcp(true, 7, 0x10, &[5; 3_000]);
        let mut packet = plain[..40].to_vec();
        packet[6] = 60;
        put_u16(&mut packet, 4, 8 + 32 + 3_000);
        packet.extend([TCP, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend(&plain[40..]);
        let vnet = VnetHeader {
            flags: virtio::NEEDS_CHECKSUM,
            gso_type: virtio::GSO_TCP6,
            header_len: 80,
            gso_size: 1_000,
            checksum_start: 48,
            checksum_offset: 16,
        };
        let header = ip::parse(&packet).unwrap();
        let segments = Segments::plan(&packet, &vnet, &header).unwrap();
        for segment in cut_all(&packet, &segments) {
            assert_eq!(segment.len(), 1_080);
            let sum = checksum::sum(&segment[48..]);
            let pseudo = checksum::pseudo_header(header.source, header.destination, TCP, 1_032);
            assert_eq!(checksum::add(sum, pseudo), 0xffff);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let packet = testing::tcp(false, 1, 0x10, &[0; 3_000]);
        let header = ip::parse(&packet).unwrap();
        let good = VnetHeader {
            gso_type: virtio::GSO_TCP4,
            gso_size: 1_000,
            ..VnetHeader::default()
        };
        let plan = |vnet: VnetHeader| Segments::plan(&packet, &vnet, &header);
        assert!(plan(good).is_some());
        assert!(
            plan(VnetHeader {
                gso_size: 0,
                ..good
            })
            .is_none()
        );
        assert!(
            plan(VnetHeader {
                gso_type: virtio::GSO_TCP6,
                ..good
            })
            .is_none()
        );
        assert!(
            plan(VnetHeader {
                gso_type: virtio::GSO_UDP,
                ..good
            })
            .is_none()
        );
        assert!(
            plan(VnetHeader {
                gso_type: 3,
                ..good
            })
            .is_none()
        );
        let mut short = packet.clone();
        short[32] = 0x40;
        assert!(Segments::plan(&short, &good, &header).is_none());
        let header = IpHeader {
            total_len: 40,
            ..header
        };
        assert!(Segments::plan(&packet, &good, &header).is_none());
    }

    #[test]
    fn hostile_headers_never_panic() {
        let mut random = Random::new(7);
        let packet = testing::tcp(true, 1, 0x10, &[0; 200]);
        for _ in 0..100_000 {
            let mut bytes = packet.clone();
            for _ in 0..random.below(6) {
                let at = random.below(80);
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(random.below(bytes.len() + 50));
            let vnet = random.bytes(10);
            let (mut vnet, _) = VnetHeader::decode(&vnet).unwrap();
            vnet.gso_type = [1, 4, 5][random.below(3)];
            vnet.checksum_start %= 300;
            let Ok(header) = ip::parse(&bytes) else {
                continue;
            };
            if let Some(segments) = Segments::plan(&bytes, &vnet, &header) {
                assert!(segments.count() <= 65_536);
                let last = segments.count() - 1;
                let mut headers = vec![0; segments.headers_len()];
                segments.cut(&bytes, last, &mut headers);
            }
        }
    }
}
