//! Addresses of links.
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, Prefix};
use crate::error::Error;

/// One address of one link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// The link it is on.
    pub link_index: u32,
    /// The local address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
    /// `global`, `site`, `link`, `host` or the number.
    pub scope: String,
    /// Its preferred lifetime is over.
    pub deprecated: bool,
    /// An IPv6 privacy address (RFC 8981).
    pub temporary: bool,
    /// Set by hand, without a lifetime.
    pub permanent: bool,
}

impl Netlink {
    /// Addresses of all links, both families.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(message, "list addresses", |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => address(message),
            _ => None,
        })
        .await
    }

    /// Adds an address of global scope; EEXIST where the link has it. IPv6 without duplicate address
    /// detection: that the address is ours alone is what a lease says, and it works at once.
    pub async fn add_address(&self, link_index: u32, address: Prefix) -> Result<(), Error> {
        let mut message = address_message(link_index, address);
        if address.address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        let operation = format!("add address {address} to link {link_index}");
        let message = RouteNetlinkMessage::NewAddress(message);
        self.change(message, NLM_F_CREATE | NLM_F_EXCL, &operation)
            .await
    }

    /// Deletes exactly this address of exactly this length.
    pub async fn delete_address(&self, link_index: u32, address: Prefix) -> Result<(), Error> {
        let operation = format!("delete address {address} of link {link_index}");
        let message = RouteNetlinkMessage::DelAddress(address_message(link_index, address));
        self.remove(message, &operation).await
    }
}

fn address_message(link_index: u32, Prefix { address, length }: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = length;
    message.header.scope = AddressScope::Universe;
    message.header.index = link_index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// The address family of `address`.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn address(message: AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    // On a point-to-point link IFA_ADDRESS is the other end.
    let (mut local, mut other) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => other = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    let address = local.or(other)?;
    Some(Address {
        link_index: message.header.index,
        address,
        length: message.header.prefix_len,
        scope: scope_text(message.header.scope),
        deprecated: flags.contains(AddressFlags::Deprecated),
        // The same bit means "secondary" for IPv4.
        temporary: address.is_ipv6() && flags.contains(AddressFlags::Secondary),
        permanent: flags.contains(AddressFlags::Permanent),
    })
}

fn scope_text(scope: AddressScope) -> String {
    match scope {
        AddressScope::Universe => "global".to_owned(),
        AddressScope::Nowhere => u8::from(scope).to_string(),
        named => named.to_string(),
    }
}
