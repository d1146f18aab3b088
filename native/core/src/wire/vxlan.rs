//! VXLAN (RFC 7348 §5) with the inner Ethernet header, which flannel's overlay always has.

/// Bytes in front of the inner IP packet: VXLAN 8, Ethernet 14.
pub const HEADER_LEN: usize = 22;

const FLAG_VNI_VALID: u8 = 0x08;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What precedes the inner packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// VXLAN network, 24 bits.
    pub vni: u32,
    /// Inner Ethernet destination.
    pub destination: Mac,
    /// What the inner frame carries.
    pub payload: Payload,
}

/// What the inner Ethernet frame carries, by its type field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP: flannel's peers are configured, nobody has to ask.
    Arp,
    /// Anything else.
    Other,
}

/// Why a datagram is not VXLAN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Shorter than the VXLAN and Ethernet headers.
    TooShort,
    /// The flag I is clear. Other flags and reserved bits are ignored, as RFC 7348 says.
    VniFlagClear,
}

/// Splits a UDP payload into its headers and what the inner frame carries (which it borrows, with any padding).
pub fn decode(datagram: &[u8]) -> Result<(Header, &[u8]), Malformed> {
    let (header, payload) = datagram
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Malformed::TooShort)?;
    let [
        flags,
        _,
        _,
        _,
        v0,
        v1,
        v2,
        _,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        _,
        _,
        _,
        _,
        _,
        _,
        t0,
        t1,
    ] = *header;
    if flags & FLAG_VNI_VALID == 0 {
        return Err(Malformed::VniFlagClear);
    }
    let kind = match u16::from_be_bytes([t0, t1]) {
        ETHERTYPE_IPV4 => Payload::V4,
        ETHERTYPE_IPV6 => Payload::V6,
        ETHERTYPE_ARP => Payload::Arp,
        _ => Payload::Other,
    };
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    Ok((
        Header {
            vni,
            destination: [d0, d1, d2, d3, d4, d5],
            payload: kind,
        },
        payload,
    ))
}

/// The headers for an IPv4 packet, or with `v6` for an IPv6 packet.
pub fn encode(vni: u32, destination: Mac, source: Mac, v6: bool) -> [u8; HEADER_LEN] {
    let [_, v0, v1, v2] = vni.to_be_bytes();
    let [d0, d1, d2, d3, d4, d5] = destination;
    let [s0, s1, s2, s3, s4, s5] = source;
    let [t0, t1] = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes();
    [
        FLAG_VNI_VALID,
        0,
        0,
        0,
        v0,
        v1,
        v2,
        0,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        t0,
        t1,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERS: Mac = [2, 0, 0, 0, 0, 1];
    const MINE: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn what_is_encoded_is_decoded() {
        for (v6, payload) in [(false, Payload::V4), (true, Payload::V6)] {
            let mut datagram = encode(0x00ab_cdef, HERS, MINE, v6).to_vec();
            datagram.extend(b"inner");
            let header = Header {
                vni: 0x00ab_cdef,
                destination: HERS,
                payload,
            };
            assert_eq!(decode(&datagram), Ok((header, &b"inner"[..])));
            assert_eq!(datagram[14..20], MINE);
        }
    }

    #[test]
    fn the_flag_is_required_and_the_reserved_bits_are_not_looked_at() {
        let mut datagram = encode(1, HERS, MINE, false);
        datagram[0] = 0xff;
        datagram[7] = 0xff;
        assert!(decode(&datagram).is_ok());
        datagram[0] = 0xf7;
        assert_eq!(decode(&datagram), Err(Malformed::VniFlagClear));
        assert_eq!(decode(&datagram[..21]), Err(Malformed::TooShort));
    }

    #[test]
    fn the_ethernet_type_is_named() {
        let mut datagram = encode(1, HERS, MINE, false);
        datagram[20..].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(decode(&datagram).unwrap().0.payload, Payload::Arp);
        datagram[20..].copy_from_slice(&[0x88, 0xcc]);
        assert_eq!(decode(&datagram).unwrap().0.payload, Payload::Other);
    }
}
