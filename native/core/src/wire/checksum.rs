//! The Internet checksum (RFC 1071). A `u16` here is a folded ones' complement sum, not yet inverted.
use std::net::IpAddr;

/// Sum of `bytes` as big-endian 16-bit words; an odd last byte counts as the high half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on byte order (RFC 1071 §2B), so wide native words do, and they vectorise.
    let mut words = bytes.chunks_exact(4);
    let mut total = 0u64;
    for word in &mut words {
        total += word
            .first_chunk()
            .map_or(0, |word| u64::from(u32::from_ne_bytes(*word)));
    }
    let mut tail = [0u8; 4];
    for (to, from) in tail.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    total += u64::from(u32::from_ne_bytes(tail));
    u16::from_be(fold(total))
}

/// Ones' complement addition.
pub fn add(left: u16, right: u16) -> u16 {
    fold(u64::from(left) + u64::from(right))
}

/// Sum of the pseudo-header that TCP and UDP prepend (RFC 9293 §3.1, RFC 8200 §8.1); `length` in bytes, from
/// the transport header on. Zero when the addresses are of different families.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            add(sum(&source.octets()), sum(&destination.octets()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            add(sum(&source.octets()), sum(&destination.octets()))
        }
        _ => return 0,
    };
    add(addresses, fold(u64::from(protocol) + length as u64))
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// Word by word, as RFC 1071 §1 says it.
    pub fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn agrees_with_the_word_by_word_sum_at_every_length() {
        let mut random = Random::new(1);
        for length in 0..600 {
            let bytes = random.bytes(length);
            assert_eq!(sum(&bytes), slow(&bytes), "length {length}");
        }
        assert_eq!(sum(&[0xff; 65_535]), slow(&[0xff; 65_535]));
    }

    #[test]
    fn the_pseudo_header_is_the_sum_of_its_bytes() {
        let v4 = [10, 5, 1, 2, 10, 5, 2, 3, 0, 6, 0x05, 0xdc];
        let sum4 = pseudo_header([10, 5, 1, 2].into(), [10, 5, 2, 3].into(), 6, 1500);
        assert_eq!(sum4, slow(&v4));
        let mut v6 = [0u8; 40];
        v6[..2].copy_from_slice(&[0xfd, 0x01]);
        v6[15] = 9;
        v6[16..18].copy_from_slice(&[0xfd, 0x02]);
        v6[34..36].copy_from_slice(&[0x10, 0x00]);
        v6[33] = 1;
        v6[39] = 17;
        let source: [u8; 16] = v6[..16].try_into().unwrap();
        let destination: [u8; 16] = v6[16..32].try_into().unwrap();
        assert_eq!(
            pseudo_header(source.into(), destination.into(), 17, 0x0001_1000),
            slow(&v6)
        );
    }
}
