//! IP neighbours: which MAC an address on a link has.
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{Edit, Mac, Netlink};
use crate::error::Error;

const NUD_PERMANENT: u16 = libc::NUD_PERMANENT;

/// One IP neighbour.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// The link it is on.
    pub link_index: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC, unless it is not known or no Ethernet address.
    pub mac: Option<Mac>,
    /// Never resolved, never aged out.
    pub permanent: bool,
}

impl Netlink {
    /// Neighbours of one link, both families, in any state.
    pub async fn neighbours(&self, link_index: u32) -> Result<Vec<Neighbour>, Error> {
        self.watch(link_index);
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::IfIndex(link_index)];
        let operation = format!("list neighbours of link {link_index}");
        let message = RouteNetlinkMessage::GetNeighbour(message);
        self.dump(message, &operation, |answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
            _ => None,
        })
        .await
        .map(|mut found| {
            found.retain(|neighbour| neighbour.link_index == link_index);
            found
        })
    }

    /// Adds a permanent neighbour, or makes the one of this address so.
    pub async fn put_neighbour(&self, link_index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        self.edit(Edit::put_neighbour(link_index, ip, mac)).await
    }

    /// Deletes the neighbour of this address.
    pub async fn delete_neighbour(&self, link_index: u32, ip: IpAddr) -> Result<(), Error> {
        self.edit(Edit::delete_neighbour(link_index, ip)).await
    }
}

impl Edit {
    /// As [`Netlink::put_neighbour`].
    pub fn put_neighbour(link_index: u32, ip: IpAddr, mac: Mac) -> Self {
        let mut message = neighbour_message(link_index, ip);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        Self {
            message: RouteNetlinkMessage::NewNeighbour(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            operation: format!("put neighbour {ip} {mac} on link {link_index}"),
            removes: false,
            watches: Some(link_index),
        }
    }

    /// As [`Netlink::delete_neighbour`].
    pub fn delete_neighbour(link_index: u32, ip: IpAddr) -> Self {
        Self {
            message: RouteNetlinkMessage::DelNeighbour(neighbour_message(link_index, ip)),
            flags: 0,
            operation: format!("delete neighbour {ip} of link {link_index}"),
            removes: true,
            watches: None,
        }
    }
}

fn neighbour_message(link_index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = link_index;
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    message
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    if !matches!(
        message.header.family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                ip = Some(IpAddr::V4(address));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                ip = Some(IpAddr::V6(address));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::from_bytes(&bytes),
            _ => {}
        }
    }
    Some(Neighbour {
        link_index: message.header.ifindex,
        ip: ip?,
        mac,
        permanent: is_permanent(message.header.state),
    })
}

/// Whether NUD_PERMANENT is among the bits of `state`.
pub(super) fn is_permanent(state: NeighbourState) -> bool {
    u16::from(state) & NUD_PERMANENT != 0
}
