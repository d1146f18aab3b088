//! Congestion marks through a tunnel (RFC 6040), as Linux does it (include/net/inet_ecn.h).

const MASK: u8 = 0b11;
const ECT1: u8 = 0b01;
const ECT0: u8 = 0b10;
const CE: u8 = 0b11;

/// The outer TOS for an inner traffic class: DSCP 0, ECN copied, CE becomes ECT(0) (`INET_ECN_encapsulate`).
pub fn encapsulate(inner: u8) -> u8 {
    match inner & MASK {
        CE => ECT0,
        ecn => ecn,
    }
}

/// What decapsulation does to the inner packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decapsulation {
    /// Pass as it is.
    Keep,
    /// Pass with these ECN bits.
    Mark(u8),
    /// Congestion was met and the inner packet cannot carry the mark: drop.
    Drop,
}

/// Combines the outer and inner marks (`INET_ECN_decapsulate`; only the low two bits of both matter).
pub fn decapsulate(outer: u8, inner: u8) -> Decapsulation {
    match (outer & MASK, inner & MASK) {
        (CE, 0) => Decapsulation::Drop,
        (_, 0) | (_, CE) => Decapsulation::Keep,
        (CE, _) => Decapsulation::Mark(CE),
        (ECT1, ECT0) => Decapsulation::Mark(ECT1),
        _ => Decapsulation::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encapsulation_copies_all_but_ce_and_no_dscp() {
        assert_eq!([0xb8, 0xb9, 0xba, 0xbb].map(encapsulate), [0, 1, 2, 2]);
    }

    #[test]
    fn decapsulation_is_the_table_of_rfc_6040_section_4_2() {
        use Decapsulation::{Drop, Keep, Mark};
        // Columns: outer Not-ECT, ECT(1), ECT(0), CE.
        let table = [
            (0, [Keep, Keep, Keep, Drop]),
            (ECT1, [Keep, Keep, Keep, Mark(CE)]),
            (ECT0, [Keep, Mark(ECT1), Keep, Mark(CE)]),
            (CE, [Keep, Keep, Keep, Keep]),
        ];
        for (inner, row) in table {
            for (outer, expected) in row.into_iter().enumerate() {
                assert_eq!(decapsulate(outer as u8 | 0xb8, inner | 0x20), expected);
            }
        }
    }
}
