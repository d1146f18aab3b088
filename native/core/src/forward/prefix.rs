//! Prefixes, and maps from disjoint prefixes to values.
use std::net::IpAddr;
use std::str::FromStr;

/// Addresses that share their first `length` bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl FromStr for Prefix {
    type Err = ();

    /// Reads `10.5.0.0/16` or `fd00::/8`; bits beyond the length do not matter.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let length: u8 = length.parse().map_err(|_| ())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if length <= bits {
            Ok(Self { address, length })
        } else {
            Err(())
        }
    }
}

/// A map from disjoint prefixes to values, looked up by address in logarithmic time.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    v4: Vec<Range<u32, V>>,
    v6: Vec<Range<u128, V>>,
}

#[derive(Clone, Copy, Debug)]
struct Range<K, V> {
    first: K,
    last: K,
    value: V,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

/// Two prefixes that overlap have these different values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Overlap<V>(pub V, pub V);

impl<V: Copy + PartialEq> PrefixMap<V> {
    /// Builds the map; prefixes of equal value may overlap.
    pub fn build(entries: impl IntoIterator<Item = (Prefix, V)>) -> Result<Self, Overlap<V>> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (Prefix { address, length }, value) in entries {
            match address {
                IpAddr::V4(address) => {
                    let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
                    let bits = u32::from(address);
                    v4.push(Range {
                        first: bits & !host,
                        last: bits | host,
                        value,
                    });
                }
                IpAddr::V6(address) => {
                    let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
                    let bits = u128::from(address);
                    v6.push(Range {
                        first: bits & !host,
                        last: bits | host,
                        value,
                    });
                }
            }
        }
        Ok(Self {
            v4: disjoint(v4)?,
            v6: disjoint(v6)?,
        })
    }

    /// The value of the prefix that holds `address`.
    pub fn get(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => find(&self.v4, u32::from(address)),
            IpAddr::V6(address) => find(&self.v6, u128::from(address)),
        }
    }
}

/// Sorts the ranges and leaves out those inside an earlier one: prefixes are nested or disjoint.
fn disjoint<K: Ord + Copy, V: Copy + PartialEq>(
    mut ranges: Vec<Range<K, V>>,
) -> Result<Vec<Range<K, V>>, Overlap<V>> {
    ranges.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    let mut kept: Vec<Range<K, V>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match kept.last() {
            Some(previous) if range.first <= previous.last => {
                if range.value != previous.value {
                    return Err(Overlap(previous.value, range.value));
                }
            }
            _ => kept.push(range),
        }
    }
    Ok(kept)
}

fn find<K: Ord + Copy, V: Copy>(ranges: &[Range<K, V>], key: K) -> Option<V> {
    let after = ranges.partition_point(|range| range.first <= key);
    let range = ranges.get(after.checked_sub(1)?)?;
    (key <= range.last).then_some(range.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn finds_what_a_linear_search_finds() {
        let mut random = Random::new(3);
        let entries: Vec<(Prefix, usize)> = (0..200)
            .filter(|_| random.below(3) > 0)
            .map(|index| (prefix(&format!("10.5.{index}.0/24")), index))
            .collect();
        let map = PrefixMap::build(entries.iter().rev().copied()).unwrap();
        for _ in 0..20_000 {
            let third = random.below(256);
            let address = format!("10.{}.{third}.{}", 4 + random.below(3), random.below(256));
            let address: IpAddr = address.parse().unwrap();
            let expected = entries
                .iter()
                .find(|(_, index)| address.to_string().starts_with(&format!("10.5.{index}.")))
                .map(|(_, index)| *index);
            assert_eq!(map.get(address), expected, "{address}");
        }
    }

    #[test]
    fn the_ends_of_a_prefix_are_inside_and_their_neighbours_are_not() {
        let map = PrefixMap::build([(prefix("fd00:0:0:5::/64"), 1), (prefix("10.0.0.5/32"), 2)]);
        let map = map.unwrap();
        let get = |text: &str| map.get(text.parse().unwrap());
        assert_eq!(get("fd00:0:0:5::"), Some(1));
        assert_eq!(get("fd00:0:0:5:ffff:ffff:ffff:ffff"), Some(1));
        assert_eq!(get("fd00:0:0:6::"), None);
        assert_eq!(get("fd00:0:0:4:ffff:ffff:ffff:ffff"), None);
        assert_eq!(
            (get("10.0.0.4"), get("10.0.0.5"), get("10.0.0.6")),
            (None, Some(2), None)
        );
        let all = PrefixMap::build([(prefix("0.0.0.0/0"), ()), (prefix("::/0"), ())]).unwrap();
        assert!(all.get("255.255.255.255".parse().unwrap()).is_some());
        assert!(all.get("ffff::".parse().unwrap()).is_some());
    }

    #[test]
    fn overlap_is_refused_between_different_values_only() {
        let wide = prefix("10.5.0.0/16");
        let narrow = prefix("10.5.9.0/24");
        let other = prefix("10.5.10.0/24");
        let overlap = PrefixMap::build([(narrow, 1), (wide, 2)]).unwrap_err();
        assert_eq!(overlap, Overlap(2, 1));
        let map = PrefixMap::build([(narrow, 2), (wide, 2), (other, 2), (wide, 2)]).unwrap();
        assert_eq!(map.get("10.5.200.1".parse().unwrap()), Some(2));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "x/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(()), "{text}");
        }
    }
}
