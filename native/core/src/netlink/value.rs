//! Ethernet addresses and IP networks: values with one text each.
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A 48-bit Ethernet address; its text is lower-case with colons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address in `bytes`, unless they are not six (InfiniBand, tunnels).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut octets = [0; 6];
        let mut groups = text.split(':');
        for octet in &mut octets {
            let group = groups
                .next()
                .filter(|group| group.len() == 2)
                .ok_or(NotAMac)?;
            // from_str_radix would take a sign.
            if !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *octet = u8::from_str_radix(group, 16).map_err(|_| NotAMac)?;
        }
        if groups.next().is_some() {
            Err(NotAMac)
        } else {
            Ok(Self(octets))
        }
    }
}

/// The text is no Ethernet address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a MAC address")]
pub struct NotAMac;

/// An IP network: an address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    /// Any address of the network; the kernel wants the first.
    pub address: IpAddr,
    /// In bits, at most the family's 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// `None` where `length` exceeds the family's bits.
    pub fn new(address: IpAddr, length: u32) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(length).ok().filter(|length| *length <= bits)?;
        Some(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, length) = text.split_once('/').ok_or(NotAPrefix)?;
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotAPrefix);
        }
        let address = address.parse().map_err(|_| NotAPrefix)?;
        Self::new(address, length.parse().map_err(|_| NotAPrefix)?).ok_or(NotAPrefix)
    }
}

/// The text is no prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a prefix")]
pub struct NotAPrefix;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_six_groups_of_two_hexadecimal_digits() {
        let mac: Mac = "0A:1b:2c:3d:4e:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:1b:2c:3d:4e:ff");
        for text in [
            "",
            "0a:1b:2c:3d:4e",
            "0a:1b:2c:3d:4e:ff:00",
            "+a:1b:2c:3d:4e:ff",
            "a:1b:2c:3d:4e:ff",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_an_address_and_a_length_within_its_family() {
        for text in ["10.5.0.0/16", "0.0.0.0/0", "fd00::/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.5.0.0",
            "10.5.0.0/33",
            "fd00::/129",
            "10.5.0.0/+8",
            "10.5.0/8",
            "/8",
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(NotAPrefix), "{text}");
        }
    }
}
