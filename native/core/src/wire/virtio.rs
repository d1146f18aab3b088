//! The header a TUN device with IFF_VNET_HDR puts before each packet (virtio 1.2 §5.1.6, native byte order).

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

/// `flags`: the transport checksum field holds the pseudo-header sum only; somebody has to complete it.
pub const NEEDS_CHECKSUM: u8 = 1;
/// `gso_type`: an ordinary packet.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4, to be segmented.
pub const GSO_TCP4: u8 = 1;
/// `gso_type`: TCP over IPv6, to be segmented.
pub const GSO_TCP6: u8 = 4;
/// `gso_type`: UDP datagrams of equal size, joined.
pub const GSO_UDP: u8 = 5;
/// `gso_type`, as a bit: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// What the kernel says, or is told, about the packet that follows. Lengths and offsets in bytes from its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VnetHeader {
    /// `NEEDS_CHECKSUM` or 0.
    pub flags: u8,
    /// One of the `GSO_` constants.
    pub gso_type: u8,
    /// Length of all headers; a hint.
    pub header_len: u16,
    /// Payload of each segment.
    pub gso_size: u16,
    /// Where checksumming begins: the transport header.
    pub checksum_start: u16,
    /// The checksum field, from `checksum_start`.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Reads the header in front of a packet, and gives the packet.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = *header;
        let header = Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        };
        Some((header, packet))
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [s0, s1] = self.gso_size.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1]
    }

    /// Whether `flags` asks for the checksum to be completed.
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CHECKSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_TCP4 | GSO_ECN,
            header_len: 52,
            gso_size: 1398,
            checksum_start: 20,
            checksum_offset: 16,
        };
        let mut bytes = header.encode().to_vec();
        bytes.push(7);
        assert_eq!(VnetHeader::decode(&bytes), Some((header, &[7][..])));
        assert_eq!(VnetHeader::decode(&bytes[..9]), None);
    }
}
