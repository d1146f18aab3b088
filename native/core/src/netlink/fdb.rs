//! Forwarding entries of vxlan links: which host a MAC is behind (bridge-fdb(8)).
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::neighbour::is_permanent;
use super::{Edit, Mac, Netlink};
use crate::error::Error;

/// One forwarding entry of a vxlan link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FdbEntry {
    /// The vxlan link.
    pub link_index: u32,
    /// The destination of the frames; all zero for the entry of unknown destinations.
    pub mac: Mac,
    /// The host they are sent to.
    pub via: Option<IpAddr>,
    /// Neither learnt nor aged out.
    pub permanent: bool,
}

impl Netlink {
    /// The forwarding entries that the vxlan link itself holds.
    pub async fn fdb(&self, link_index: u32) -> Result<Vec<FdbEntry>, Error> {
        self.watch(link_index);
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = link_index;
        let operation = format!("list forwarding entries of link {link_index}");
        let message = RouteNetlinkMessage::GetNeighbour(message);
        self.dump(message, &operation, |answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => entry(message, link_index),
            _ => None,
        })
        .await
    }

    /// Adds a permanent entry, or turns the one of this MAC to `via`: the kernel keeps one
    /// destination for a unicast MAC (vxlan_fdb_replace in drivers/net/vxlan/vxlan_core.c).
    pub async fn put_fdb(&self, link_index: u32, mac: Mac, via: IpAddr) -> Result<(), Error> {
        self.edit(Edit::put_fdb(link_index, mac, via)).await
    }

    /// Deletes exactly this destination of this MAC.
    pub async fn delete_fdb(&self, link_index: u32, mac: Mac, via: IpAddr) -> Result<(), Error> {
        self.edit(Edit::delete_fdb(link_index, mac, via)).await
    }
}

impl Edit {
    /// As [`Netlink::put_fdb`].
    pub fn put_fdb(link_index: u32, mac: Mac, via: IpAddr) -> Self {
        Self {
            message: RouteNetlinkMessage::NewNeighbour(entry_message(link_index, mac, via)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            operation: format!("put forwarding entry {mac} via {via} on link {link_index}"),
            removes: false,
            watches: Some(link_index),
        }
    }

    /// As [`Netlink::delete_fdb`].
    pub fn delete_fdb(link_index: u32, mac: Mac, via: IpAddr) -> Self {
        Self {
            message: RouteNetlinkMessage::DelNeighbour(entry_message(link_index, mac, via)),
            flags: 0,
            operation: format!("delete forwarding entry {mac} via {via} of link {link_index}"),
            removes: true,
            watches: None,
        }
    }
}

fn entry_message(link_index: u32, mac: Mac, via: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link_index;
    message.header.state = NeighbourState::Other(libc::NUD_PERMANENT | libc::NUD_NOARP);
    message.header.flags = NeighbourFlags::Own; // NTF_SELF: the link's own table, not its bridge's
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Destination(via.into()),
    ];
    message
}

fn entry(message: NeighbourMessage, link_index: u32) -> Option<FdbEntry> {
    let header = &message.header;
    let own = header.family == AddressFamily::Bridge
        && header.ifindex == link_index
        && header.flags.contains(NeighbourFlags::Own);
    let (mut mac, mut via) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::from_bytes(bytes),
            NeighbourAttribute::Destination(address) => via = remote(address),
            _ => {}
        }
    }
    let permanent = is_permanent(header.state);
    own.then_some(FdbEntry {
        link_index,
        mac: mac?,
        via,
        permanent,
    })
}

/// Entries are AF_BRIDGE; the family of their remote shows only in its length.
fn remote(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or(v6).ok()
        }
        _ => None,
    }
}
