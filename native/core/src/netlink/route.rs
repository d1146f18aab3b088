//! Routes of the main table, and the kernel's choice for one destination.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{Edit, Netlink, Prefix};
use crate::error::Error;

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// One route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Destination; length 0 for default routes.
    pub to: Prefix,
    /// Gateway, possibly of the other family (RTA_VIA).
    pub via: Option<IpAddr>,
    /// Output link, 0 for none (multipath, blackhole).
    pub link_index: u32,
    /// RTNH_F_ONLINK: the gateway is taken to be on the link.
    pub on_link: bool,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// rtm_protocol: who made it.
    pub protocol: u8,
    /// Metric, 0 when unset.
    pub metric: u32,
    /// Whether it has several next hops.
    pub multipath: bool,
    /// `unicast`, `blackhole` … or the number.
    pub kind: String,
}

/// A unicast route of the main table to make or delete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteSpec {
    /// Destination, host bits clear.
    pub to: Prefix,
    /// Gateway, of the family of `to`.
    pub via: Option<IpAddr>,
    /// Output link.
    pub link_index: u32,
    /// Take the gateway to be on the link although no address of the link says so.
    pub on_link: bool,
    /// rtm_protocol.
    pub protocol: u8,
}

/// A route of the main table that discards, to make or delete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlackholeSpec {
    /// Destination, host bits clear.
    pub to: Prefix,
    /// Other routes to the same destination with a lower metric go before it.
    pub metric: u32,
    /// rtm_protocol.
    pub protocol: u8,
}

impl Netlink {
    /// Routes of the main table, both families.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let mut routes = self.routes_of(AddressFamily::Inet, None).await?;
        routes.extend(self.routes_of(AddressFamily::Inet6, None).await?);
        Ok(routes)
    }

    /// The route the kernel would take to `address` (its `to` is that one address). ENETUNREACH
    /// where there is none, EINVAL, EACCES or EHOSTUNREACH where a route says to refuse.
    pub async fn route_to(&self, address: IpAddr) -> Result<Route, Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = length;
        message.attributes = vec![RouteAttribute::Destination(address.into())];
        let operation = format!("look up the route to {address}");
        let message = RouteNetlinkMessage::GetRoute(message);
        let found = self.lookup(message, &operation, |answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => route(message),
            _ => None,
        });
        found
            .await?
            .ok_or_else(|| Error::new(libc::ENETUNREACH, operation))
    }

    /// Adds a route, or replaces the one of the same destination and metric.
    pub async fn put_route(&self, spec: &RouteSpec) -> Result<(), Error> {
        self.edit(Edit::put_route(spec)?).await
    }

    /// Deletes the route with this destination, gateway, link and protocol, and no other.
    pub async fn delete_route(&self, spec: &RouteSpec) -> Result<(), Error> {
        let mut message = delete_message(spec)?;
        if needs_metric(spec) {
            let held = self.routes_of(AddressFamily::Inet6, Some(spec)).await?;
            let ours = held
                .into_iter()
                .find(|route| route.to == spec.to && route.via.is_none());
            let Some(ours) = ours else { return Ok(()) };
            message
                .attributes
                .push(RouteAttribute::Priority(ours.metric));
        }
        self.edit(delete_edit(spec, message)).await
    }

    /// Adds a route that discards. EEXIST where there is a route of this destination and metric.
    pub async fn put_blackhole(&self, spec: &BlackholeSpec) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewRoute(blackhole_message(spec));
        let operation = format!("put blackhole route {}", spec.to);
        self.change(message, NLM_F_CREATE | NLM_F_EXCL, &operation)
            .await
    }

    /// Deletes the route with this destination, metric and protocol.
    pub async fn delete_blackhole(&self, spec: &BlackholeSpec) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelRoute(blackhole_message(spec));
        let operation = format!("delete blackhole route {}", spec.to);
        self.remove(message, &operation).await
    }

    /// Routes of the main table; with `like` only those of its link and protocol.
    async fn routes_of(
        &self,
        family: AddressFamily,
        like: Option<&RouteSpec>,
    ) -> Result<Vec<Route>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes = vec![RouteAttribute::Table(MAIN)];
        if let Some(like) = like {
            message.header.protocol = RouteProtocol::from(like.protocol);
            message
                .attributes
                .push(RouteAttribute::Oif(like.link_index));
        }
        let message = RouteNetlinkMessage::GetRoute(message);
        let result = self.dump(message, "list routes", |answer| match answer {
            RouteNetlinkMessage::NewRoute(message) if is_main(&message, family) => route(message),
            _ => None,
        });
        match result.await {
            // The table comes into being with its first route; a family may be switched off.
            Err(error) if is_absent(error.errno) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(mut routes) => {
                routes.retain(|route| like.is_none_or(|like| is_like(route, like)));
                Ok(routes)
            }
        }
    }
}

impl Edit {
    /// As [`Netlink::put_route`].
    pub fn put_route(spec: &RouteSpec) -> Result<Self, Error> {
        let mut message = route_message(spec)?;
        message.header.kind = RouteType::Unicast;
        if spec.on_link {
            message.header.flags = RouteFlags::Onlink;
        }
        Ok(Self {
            message: RouteNetlinkMessage::NewRoute(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            operation: operation("put", spec),
            removes: false,
            watches: None,
        })
    }

    /// As [`Netlink::delete_route`]. EINVAL for an IPv6 route without a gateway, which takes a look first.
    pub fn delete_route(spec: &RouteSpec) -> Result<Self, Error> {
        if needs_metric(spec) {
            let detail = "an IPv6 route without a gateway is not deleted blindly";
            return Err(Error::invalid(operation("delete", spec), detail));
        }
        Ok(delete_edit(spec, delete_message(spec)?))
    }
}

/// Asked without a gateway, the kernel's IPv6 side would delete a route with one as well.
fn needs_metric(spec: &RouteSpec) -> bool {
    spec.via.is_none() && spec.to.address.is_ipv6()
}

fn delete_message(spec: &RouteSpec) -> Result<RouteMessage, Error> {
    let mut message = route_message(spec)?;
    message.header.kind = RouteType::Unicast;
    Ok(message)
}

fn delete_edit(spec: &RouteSpec, message: RouteMessage) -> Edit {
    Edit {
        message: RouteNetlinkMessage::DelRoute(message),
        flags: 0,
        operation: operation("delete", spec),
        removes: true,
        watches: None,
    }
}

fn is_absent(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
}

fn is_like(route: &Route, like: &RouteSpec) -> bool {
    route.link_index == like.link_index && route.protocol == like.protocol
}

fn operation(verb: &str, spec: &RouteSpec) -> String {
    match spec.via {
        Some(via) => format!(
            "{verb} route {} via {via} on link {}",
            spec.to, spec.link_index
        ),
        None => format!("{verb} route {} on link {}", spec.to, spec.link_index),
    }
}

/// What identifies a route of ours, in both directions.
fn route_message(spec: &RouteSpec) -> Result<RouteMessage, Error> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(spec.to.address);
    message.header.destination_prefix_length = spec.to.length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(spec.protocol);
    // A gateway makes the scope global; without one it distinguishes the route from those with one.
    message.header.scope = if spec.via.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes = vec![
        RouteAttribute::Destination(spec.to.address.into()),
        RouteAttribute::Oif(spec.link_index),
    ];
    if let Some(via) = spec.via {
        if via.is_ipv4() != spec.to.address.is_ipv4() {
            return Err(Error::invalid(
                operation("change", spec),
                "gateway of the other family",
            ));
        }
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    Ok(message)
}

fn blackhole_message(spec: &BlackholeSpec) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(spec.to.address);
    message.header.destination_prefix_length = spec.to.length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(spec.protocol);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::BlackHole;
    message.attributes = vec![
        RouteAttribute::Destination(spec.to.address.into()),
        RouteAttribute::Priority(spec.metric),
    ];
    message
}

/// Linux before 4.20 sends all tables, and all families for one that it lacks.
fn is_main(message: &RouteMessage, family: AddressFamily) -> bool {
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    message.header.address_family == family
        && table.unwrap_or(u32::from(message.header.table)) == MAIN
        && !message.header.flags.contains(RouteFlags::Cloned)
}

fn route(message: RouteMessage) -> Option<Route> {
    let header = message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        to: Prefix {
            address: unspecified,
            length: header.destination_prefix_length,
        },
        via: None,
        link_index: 0,
        on_link: header.flags.contains(RouteFlags::Onlink),
        source: None,
        protocol: header.protocol.into(),
        metric: 0,
        multipath: false,
        kind: kind_text(header.kind),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.to.address = ip(&address)?,
            RouteAttribute::Gateway(address) => route.via = ip(&address),
            RouteAttribute::Via(RouteVia::Inet(address)) => route.via = Some(address.into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.via = Some(address.into()),
            RouteAttribute::Oif(index) => route.link_index = index,
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::MultiPath(_) => route.multipath = true,
            _ => {}
        }
    }
    // IPv6 names the loopback link for routes that lead nowhere.
    if route.multipath || is_refusal(header.kind) {
        route.link_index = 0;
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn is_refusal(kind: RouteType) -> bool {
    use RouteType::{BlackHole, Prohibit, Throw, Unreachable};
    matches!(kind, BlackHole | Prohibit | Throw | Unreachable)
}

/// As ip-route(8) names them.
fn kind_text(kind: RouteType) -> String {
    let name = match kind {
        RouteType::Unicast => "unicast",
        RouteType::Local => "local",
        RouteType::Broadcast => "broadcast",
        RouteType::Anycast => "anycast",
        RouteType::Multicast => "multicast",
        RouteType::BlackHole => "blackhole",
        RouteType::Unreachable => "unreachable",
        RouteType::Prohibit => "prohibit",
        RouteType::Throw => "throw",
        RouteType::Nat => "nat",
        other => return u8::from(other).to_string(),
    };
    name.to_owned()
}
