//! Links, and the vxlan and ipip devices as flannel makes them.
use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};

use super::{Mac, Netlink};
use crate::error::Error;

/// One link.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// ifindex.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `vxlan`, `tun`, `bridge` …; empty for physical devices.
    pub kind: String,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// `None` on links without an Ethernet address.
    pub mac: Option<Mac>,
    /// IFF_UP.
    pub up: bool,
    /// IFLA_CARRIER.
    pub carrier: bool,
    /// IFF_LOOPBACK.
    pub loopback: bool,
    /// IFLA_IFALIAS, empty when unset.
    pub alias: String,
    /// Of vxlan links.
    pub vxlan: Option<Vxlan>,
    /// Of ipip links.
    pub ipip: Option<IpIp>,
}

/// How an ipip link is set up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct IpIp {
    /// Source address of what it sends.
    pub local: Option<IpAddr>,
    /// Where it sends everything; `None` where routes say.
    pub remote: Option<IpAddr>,
}

/// How a vxlan link is set up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of what it sends.
    pub local: Option<IpAddr>,
    /// The link beneath, 0 when unset.
    pub link_index: u32,
    /// Whether senders of frames become forwarding entries.
    pub learning: bool,
    /// Group policy extension.
    pub gbp: bool,
    /// Whether it sends UDP checksums over IPv4.
    pub udp_checksum: bool,
    /// Multicast group or default destination.
    pub group: Option<IpAddr>,
}

/// A vxlan link to make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VxlanSpec {
    /// Interface name.
    pub name: String,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of what it sends; decides the family of the tunnel.
    pub local: IpAddr,
    /// The link beneath.
    pub link_index: u32,
    /// Whether senders of frames become forwarding entries.
    pub learning: bool,
    /// Group policy extension.
    pub gbp: bool,
    /// IFLA_IFALIAS.
    pub alias: String,
}

/// An ipip link to make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IpIpSpec {
    /// Interface name.
    pub name: String,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// Source address of what it sends.
    pub local: Ipv4Addr,
    /// IFLA_IFALIAS.
    pub alias: String,
}

/// What to change about a link; `None` stays as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LinkChanges {
    /// MTU in bytes.
    pub mtu_bytes: Option<u32>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// IFF_UP.
    pub up: Option<bool>,
    /// IFLA_IFALIAS; empty removes it.
    pub alias: Option<String>,
    /// Transmit queue length in packets.
    pub tx_queue_length: Option<u32>,
}

impl Netlink {
    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let message = RouteNetlinkMessage::GetLink(message);
        self.dump(message, "list links", |answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        })
        .await
    }

    /// Makes a vxlan link, down. EEXIST where a link has the name, or another one the VNI and port.
    pub async fn add_vxlan(&self, spec: &VxlanSpec) -> Result<(), Error> {
        let operation = format!("add vxlan {}", spec.name);
        self.add_link(vxlan_message(spec), &spec.name, &spec.alias, &operation)
            .await
    }

    /// Makes an ipip link, down. EEXIST where a link has the name, or another one the address.
    pub async fn add_ipip(&self, spec: &IpIpSpec) -> Result<(), Error> {
        let operation = format!("add ipip {}", spec.name);
        self.add_link(ipip_message(spec), &spec.name, &spec.alias, &operation)
            .await
    }

    /// The kernel takes no alias while it makes a link; if giving it fails, the link goes again.
    async fn add_link(
        &self,
        message: LinkMessage,
        name: &str,
        alias: &str,
        operation: &str,
    ) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewLink(message);
        self.change(message, NLM_F_CREATE | NLM_F_EXCL, operation)
            .await?;
        let by_name = vec![LinkAttribute::IfName(name.to_owned())];
        let mut naming = LinkMessage::default();
        naming.attributes = by_name.clone();
        naming
            .attributes
            .push(LinkAttribute::IfAlias(alias.to_owned()));
        let result = self
            .change(RouteNetlinkMessage::SetLink(naming), 0, operation)
            .await;
        if result.is_err() {
            let mut message = LinkMessage::default();
            message.attributes = by_name;
            // The first failure tells more than one of cleaning up.
            let _ = self
                .remove(RouteNetlinkMessage::DelLink(message), operation)
                .await;
        }
        result
    }

    /// Changes a link, in one message. ENODEV where it is gone.
    pub async fn set_link(&self, link_index: u32, changes: &LinkChanges) -> Result<(), Error> {
        if *changes == LinkChanges::default() {
            return Ok(());
        }
        let operation = format!("set link {link_index}");
        let message = RouteNetlinkMessage::SetLink(changes_message(link_index, changes));
        self.change(message, 0, &operation).await
    }

    /// Deletes a link with all that is on it.
    pub async fn delete_link(&self, link_index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = link_index;
        let operation = format!("delete link {link_index}");
        self.remove(RouteNetlinkMessage::DelLink(message), &operation)
            .await?;
        self.unwatch(link_index);
        Ok(())
    }
}

fn vxlan_message(spec: &VxlanSpec) -> LinkMessage {
    let mut data = vec![
        InfoVxlan::Id(spec.vni),
        match spec.local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        },
        InfoVxlan::Ttl(0),
        InfoVxlan::Tos(0),
        InfoVxlan::Learning(spec.learning),
        InfoVxlan::Proxy(false),
        InfoVxlan::Rsc(false),
        InfoVxlan::L2Miss(false),
        InfoVxlan::L3Miss(false),
        InfoVxlan::Port(spec.port),
        InfoVxlan::UDPCsum(true),
        InfoVxlan::UDPZeroCsumTX(false),
        InfoVxlan::UDPZeroCsumRX(false),
    ];
    if spec.link_index != 0 {
        data.push(InfoVxlan::Link(spec.link_index));
    }
    if spec.gbp {
        data.push(InfoVxlan::Gbp);
    }
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.clone()),
        LinkAttribute::Mtu(spec.mtu_bytes),
        LinkAttribute::Address(spec.mac.0.to_vec()),
        LinkAttribute::TxQueueLen(0),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]),
    ];
    message
}

/// TTL and TOS 0 are those of the inner packet. DF is its too: path MTU discovery would set it on each.
fn ipip_message(spec: &IpIpSpec) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.clone()),
        LinkAttribute::Mtu(spec.mtu_bytes),
        LinkAttribute::TxQueueLen(0),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpIp),
            LinkInfo::Data(InfoData::IpTunnel(vec![
                InfoIpTunnel::Local(spec.local.into()),
                InfoIpTunnel::PMtuDisc(false),
                InfoIpTunnel::Ttl(0),
                InfoIpTunnel::Tos(0),
            ])),
        ]),
    ];
    message
}

fn changes_message(link_index: u32, changes: &LinkChanges) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link_index;
    if let Some(up) = changes.up {
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up {
            LinkFlags::Up
        } else {
            LinkFlags::empty()
        };
    }
    let attributes = [
        changes.mtu_bytes.map(LinkAttribute::Mtu),
        changes
            .mac
            .map(|mac| LinkAttribute::Address(mac.0.to_vec())),
        changes.alias.clone().map(LinkAttribute::IfAlias),
        changes.tx_queue_length.map(LinkAttribute::TxQueueLen),
    ];
    message.attributes = attributes.into_iter().flatten().collect();
    message
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(bytes) => link.mtu_bytes = bytes,
            LinkAttribute::Address(bytes) => link.mac = Mac::from_bytes(&bytes),
            LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(vxlan(data)),
                        // IPv6's tunnels have the same attributes.
                        LinkInfo::Data(InfoData::IpTunnel(data)) if link.kind == "ipip" => {
                            link.ipip = Some(ipip(data));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn vxlan(data: Vec<InfoVxlan>) -> Vxlan {
    let mut vxlan = Vxlan::default();
    for item in data {
        match item {
            InfoVxlan::Id(vni) => vxlan.vni = vni,
            InfoVxlan::Port(port) => vxlan.port = port,
            InfoVxlan::Local(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Local6(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Link(index) => vxlan.link_index = index,
            InfoVxlan::Learning(learning) => vxlan.learning = learning,
            InfoVxlan::Gbp => vxlan.gbp = true,
            InfoVxlan::UDPCsum(checksum) => vxlan.udp_checksum = checksum,
            InfoVxlan::Group(address) => vxlan.group = Some(address.into()),
            InfoVxlan::Group6(address) => vxlan.group = Some(address.into()),
            _ => {}
        }
    }
    vxlan
}

fn ipip(data: Vec<InfoIpTunnel>) -> IpIp {
    let mut ipip = IpIp::default();
    for item in data {
        match item {
            InfoIpTunnel::Local(address) => ipip.local = specified(address),
            InfoIpTunnel::Remote(address) => ipip.remote = specified(address),
            _ => {}
        }
    }
    ipip
}

/// The kernel writes 0.0.0.0 where there is none.
fn specified(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

    use super::*;

    const HEADER: usize = 16;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// The numbers are those of include/uapi/linux/{if_link,if_tunnel}.h.
    fn attributes(data: &[Vec<u8>]) -> Vec<u8> {
        [
            attr(3, b"flannel.ipip\0"),
            attr(4, &1480_u32.to_ne_bytes()),
            attr(13, &0_u32.to_ne_bytes()),
            attr(18, &[attr(1, b"ipip\0"), attr(2, &data.concat())].concat()),
        ]
        .concat()
    }

    #[test]
    fn the_ipip_message_is_flannels_byte_for_byte() {
        let message = ipip_message(&IpIpSpec {
            name: "flannel.ipip".to_owned(),
            mtu_bytes: 1480,
            local: Ipv4Addr::new(192, 0, 2, 1),
            alias: "ours".to_owned(),
        });
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewLink(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        assert_eq!(bytes[4..6], 16_u16.to_ne_bytes(), "RTM_NEWLINK");
        let info = [0; 16];
        let data = [
            attr(2, &[192, 0, 2, 1]),
            attr(10, &[0]),
            attr(4, &[0]),
            attr(5, &[0]),
        ];
        assert_eq!(bytes[HEADER..], [&info[..], &attributes(&data)].concat());
    }

    #[test]
    fn an_ipip_link_is_read_as_the_kernel_tells_it() {
        let read = |remote: [u8; 4]| {
            let data = [
                attr(1, &0_u32.to_ne_bytes()),
                attr(2, &[192, 0, 2, 1]),
                attr(3, &remote),
                attr(4, &[0]),
                attr(5, &[0]),
                attr(9, &[4]),
                attr(10, &[0]),
                attr(20, &0_u32.to_ne_bytes()),
            ];
            let body = [vec![0; 16], attributes(&data)].concat();
            let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
            bytes.extend(16_u16.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes.extend(body);
            match NetlinkMessage::deserialize(&bytes)
                .expect("a message")
                .payload
            {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                    link(message)
                }
                other => panic!("{other:?}"),
            }
        };
        let found = read([0; 4]);
        assert_eq!((found.kind.as_str(), found.mtu_bytes), ("ipip", 1480));
        let local = Some(Ipv4Addr::new(192, 0, 2, 1).into());
        assert_eq!(
            found.ipip,
            Some(IpIp {
                local,
                remote: None
            })
        );
        let remote = Some(Ipv4Addr::new(192, 0, 2, 9).into());
        assert_eq!(read([192, 0, 2, 9]).ipip, Some(IpIp { local, remote }));
    }
}
