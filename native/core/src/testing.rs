//! Packets and random numbers for the unit tests.
use crate::wire::{TCP, UDP, checksum, ip, put_u16, put_u32};

/// A small deterministic generator (splitmix64), so that a failing test fails again.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number from 0 up to, not including, `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// An IPv4 UDP packet from 10.5.1.2 to 10.5.2.3 with a payload of `length` bytes and valid checksums.
pub fn udp4(length: usize) -> Vec<u8> {
    let mut packet = ip4(UDP, 8 + length);
    fill_udp(&mut packet, 20);
    packet
}

/// The same over IPv6, from fd00:1::2 to fd00:2::3.
pub fn udp6(length: usize) -> Vec<u8> {
    let mut packet = ip6(UDP, 8 + length);
    fill_udp(&mut packet, 40);
    packet
}

/// A TCP segment from 10.5.1.2 to 10.5.2.3 (or IPv6) with a timestamp option and valid checksums.
pub fn tcp(v6: bool, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = 32 + payload.len();
    let mut packet = if v6 {
        ip6(TCP, length)
    } else {
        ip4(TCP, length)
    };
    let at = if v6 { 40 } else { 20 };
    put_u16(&mut packet, at, 40_000);
    put_u16(&mut packet, at + 2, 5_001);
    put_u32(&mut packet, at + 4, sequence);
    put_u32(&mut packet, at + 8, 0x1234_5678);
    packet[at + 12] = 0x80;
    packet[at + 13] = flags;
    put_u16(&mut packet, at + 14, 512);
    packet[at + 20..at + 32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
    packet[at + 32..].copy_from_slice(payload);
    complete(&mut packet);
    packet
}

/// An IPv4 packet around `inner`, with `options` bytes of options.
pub fn in_ip4(inner: &[u8], options: usize) -> Vec<u8> {
    let mut packet = ip4(4, options + inner.len());
    packet[0] = 0x40 | (5 + options / 4) as u8;
    packet[20 + options..].copy_from_slice(inner);
    packet
}

/// Recomputes every checksum of a TCP or UDP packet.
pub fn complete(packet: &mut [u8]) {
    let header = ip::parse(packet).unwrap();
    if header.is_v4() {
        put_u16(packet, 10, 0);
        let sum = checksum::sum(&packet[..20]);
        put_u16(packet, 10, !sum);
    }
    let at = header.header_len + if header.protocol == TCP { 16 } else { 6 };
    put_u16(packet, at, 0);
    let sum = transport_sum(packet);
    put_u16(
        packet,
        at,
        if header.protocol == UDP && sum == 0xffff {
            0xffff
        } else {
            !sum
        },
    );
}

/// Leaves in the checksum field what a sender that leaves the work to others leaves: the pseudo-header's sum.
pub fn unfinish(packet: &mut [u8]) {
    let header = ip::parse(packet).unwrap();
    let at = header.header_len + if header.protocol == TCP { 16 } else { 6 };
    let length = header.transport_len();
    let sum = checksum::pseudo_header(header.source, header.destination, header.protocol, length);
    put_u16(packet, at, sum);
}

/// Pseudo-header and transport summed up: 0xffff when the checksum in it is right.
pub fn transport_sum(packet: &[u8]) -> u16 {
    let header = ip::parse(packet).unwrap();
    let length = header.transport_len();
    let pseudo =
        checksum::pseudo_header(header.source, header.destination, header.protocol, length);
    checksum::add(
        pseudo,
        checksum::sum(&packet[header.header_len..header.total_len]),
    )
}

fn ip4(protocol: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![0; 20 + length];
    packet[0] = 0x45;
    put_u16(&mut packet, 2, (20 + length) as u16);
    put_u16(&mut packet, 4, 0xfffe);
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[10, 5, 1, 2, 10, 5, 2, 3]);
    packet
}

fn ip6(protocol: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + length];
    packet[0] = 0x60;
    put_u16(&mut packet, 4, length as u16);
    packet[6] = protocol;
    packet[7] = 64;
    packet[8..12].copy_from_slice(&[0xfd, 0, 0, 1]);
    packet[23] = 2;
    packet[24..28].copy_from_slice(&[0xfd, 0, 0, 2]);
    packet[39] = 3;
    packet
}

fn fill_udp(packet: &mut [u8], at: usize) {
    let length = packet.len() - at;
    put_u16(packet, at, 30_000);
    put_u16(packet, at + 2, 53);
    put_u16(packet, at + 4, length as u16);
    for (index, byte) in packet[at + 8..].iter_mut().enumerate() {
        *byte = index as u8;
    }
    complete(packet);
}
