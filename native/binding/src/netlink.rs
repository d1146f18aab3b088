//! The handle on rtnetlink and the shapes of what crosses, which src/native/ports.ts describes.
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use flannel_lite_core::error::Error as CoreError;
use flannel_lite_core::netlink::{self as core, Netlink, Prefix};
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Opens rtnetlink in the network namespace of the process.
#[napi]
pub async fn open_kernel() -> Result<Kernel> {
    Ok(Kernel {
        netlink: Netlink::open().map_err(failed)?,
    })
}

/// rtnetlink of one network namespace.
#[napi]
pub struct Kernel {
    netlink: Netlink,
}

#[napi]
impl Kernel {
    /// All links.
    #[napi]
    pub async fn links(&self) -> Result<Vec<KernelLink>> {
        collect(self.netlink.links().await)
    }

    /// Addresses of all links, both families.
    #[napi]
    pub async fn addresses(&self) -> Result<Vec<KernelAddress>> {
        collect(self.netlink.addresses().await)
    }

    /// IP neighbours of one link, both families, in any state.
    #[napi]
    pub async fn neighbours(&self, link_index: u32) -> Result<Vec<KernelNeighbour>> {
        collect(self.netlink.neighbours(link_index).await)
    }

    /// Forwarding entries of one vxlan link.
    #[napi]
    pub async fn fdb(&self, link_index: u32) -> Result<Vec<KernelFdbEntry>> {
        collect(self.netlink.fdb(link_index).await)
    }

    /// Routes of the main table, both families.
    #[napi]
    pub async fn routes(&self) -> Result<Vec<KernelRoute>> {
        collect(self.netlink.routes().await)
    }

    /// The route the kernel would take to `address`.
    #[napi]
    pub async fn route_to(&self, address: String) -> Result<KernelRoute> {
        let address = parse("look up a route", &address)?;
        self.netlink
            .route_to(address)
            .await
            .map(KernelRoute::from)
            .map_err(failed)
    }

    /// Makes a vxlan link, down.
    #[napi]
    pub async fn add_vxlan(&self, spec: VxlanSpec) -> Result<()> {
        let spec = spec.into_core().map_err(failed)?;
        self.netlink.add_vxlan(&spec).await.map_err(failed)
    }

    /// Makes an ipip link, down.
    #[napi]
    pub async fn add_ipip(&self, spec: IpIpSpec) -> Result<()> {
        let spec = spec.into_core().map_err(failed)?;
        self.netlink.add_ipip(&spec).await.map_err(failed)
    }

    /// Changes what is present in `changes`.
    #[napi]
    pub async fn set_link(&self, link_index: u32, changes: LinkChanges) -> Result<()> {
        let changes = core::LinkChanges {
            mtu_bytes: changes.mtu_bytes,
            mac: changes.mac.map(|mac| parse("set link", &mac)).transpose()?,
            up: changes.up,
            alias: changes.alias,
            tx_queue_length: changes.tx_queue_length,
        };
        self.netlink
            .set_link(link_index, &changes)
            .await
            .map_err(failed)
    }

    /// Deletes a link; one that is gone is no error.
    #[napi]
    pub async fn delete_link(&self, link_index: u32) -> Result<()> {
        self.netlink.delete_link(link_index).await.map_err(failed)
    }

    /// Adds an address.
    #[napi]
    pub async fn add_address(&self, link_index: u32, address: String, length: u32) -> Result<()> {
        let address = prefix("add address", &address, length)?;
        self.netlink
            .add_address(link_index, address)
            .await
            .map_err(failed)
    }

    /// Deletes an address; one that is gone is no error.
    #[napi]
    pub async fn delete_address(
        &self,
        link_index: u32,
        address: String,
        length: u32,
    ) -> Result<()> {
        let address = prefix("delete address", &address, length)?;
        self.netlink
            .delete_address(link_index, address)
            .await
            .map_err(failed)
    }

    /// Adds or replaces a permanent neighbour.
    #[napi]
    pub async fn put_neighbour(&self, link_index: u32, ip: String, mac: String) -> Result<()> {
        let (ip, mac) = (parse("put neighbour", &ip)?, parse("put neighbour", &mac)?);
        self.netlink
            .put_neighbour(link_index, ip, mac)
            .await
            .map_err(failed)
    }

    /// Deletes a neighbour; one that is gone is no error.
    #[napi]
    pub async fn delete_neighbour(&self, link_index: u32, ip: String) -> Result<()> {
        let ip = parse("delete neighbour", &ip)?;
        self.netlink
            .delete_neighbour(link_index, ip)
            .await
            .map_err(failed)
    }

    /// Adds a permanent forwarding entry or turns that of the same MAC.
    #[napi]
    pub async fn put_fdb(&self, link_index: u32, mac: String, via: String) -> Result<()> {
        let operation = "put forwarding entry";
        let (mac, via) = (parse(operation, &mac)?, parse(operation, &via)?);
        self.netlink
            .put_fdb(link_index, mac, via)
            .await
            .map_err(failed)
    }

    /// Deletes a forwarding entry; one that is gone is no error.
    #[napi]
    pub async fn delete_fdb(&self, link_index: u32, mac: String, via: String) -> Result<()> {
        let operation = "delete forwarding entry";
        let (mac, via) = (parse(operation, &mac)?, parse(operation, &via)?);
        self.netlink
            .delete_fdb(link_index, mac, via)
            .await
            .map_err(failed)
    }

    /// Adds or replaces a unicast route of the main table.
    #[napi]
    pub async fn put_route(&self, route: RouteSpec) -> Result<()> {
        let route = route.into_core("put route").map_err(failed)?;
        self.netlink.put_route(&route).await.map_err(failed)
    }

    /// Deletes exactly this route; one that is gone is no error.
    #[napi]
    pub async fn delete_route(&self, route: RouteSpec) -> Result<()> {
        let route = route.into_core("delete route").map_err(failed)?;
        self.netlink.delete_route(&route).await.map_err(failed)
    }

    /// Adds a route of the main table that discards.
    #[napi]
    pub async fn put_blackhole(&self, route: BlackholeSpec) -> Result<()> {
        let route = route.into_core("put blackhole route").map_err(failed)?;
        self.netlink.put_blackhole(&route).await.map_err(failed)
    }

    /// Deletes exactly this route; one that is gone is no error.
    #[napi]
    pub async fn delete_blackhole(&self, route: BlackholeSpec) -> Result<()> {
        let route = route.into_core("delete blackhole route").map_err(failed)?;
        self.netlink.delete_blackhole(&route).await.map_err(failed)
    }

    /// Makes changes in their order; the result of each is empty, or why it failed.
    #[napi]
    pub async fn apply(&self, edits: Vec<KernelEdit>) -> Result<Vec<String>> {
        let parsed = edits.into_iter().map(KernelEdit::into_core);
        let (mut texts, mut good) = (Vec::new(), Vec::new());
        for edit in parsed {
            texts.push(edit.as_ref().err().map(ToString::to_string));
            good.extend(edit.ok());
        }
        let mut results = self.netlink.apply(good).await.into_iter();
        let text = |refused: Option<String>| match refused {
            Some(refused) => refused,
            None => text(results.next().and_then(std::result::Result::err)),
        };
        Ok(texts.into_iter().map(text).collect())
    }

    /// The next batch of changes, null after `close`.
    #[napi]
    pub async fn next_events(&self) -> Result<Option<KernelEvents>> {
        let events = self.netlink.next_events().await.map_err(failed)?;
        Ok(events.map(KernelEvents::from))
    }

    /// Has neighbours and forwarding entries told of exactly these links.
    #[napi]
    pub fn watch_neighbours(&self, link_indexes: Vec<u32>) {
        self.netlink.watch_only(link_indexes);
    }

    /// Ends `nextEvents` and gives the sockets back; may be called twice.
    #[napi]
    pub fn close(&self) {
        self.netlink.close();
    }
}

/// One link.
#[napi(object)]
pub struct KernelLink {
    pub index: u32,
    pub name: String,
    pub kind: String,
    pub mtu_bytes: u32,
    pub mac: String,
    pub up: bool,
    pub carrier: bool,
    pub loopback: bool,
    pub alias: String,
    pub vxlan: Option<KernelVxlan>,
    pub ipip: Option<KernelIpIp>,
}

impl From<core::Link> for KernelLink {
    fn from(link: core::Link) -> Self {
        Self {
            index: link.index,
            name: link.name,
            kind: link.kind,
            mtu_bytes: link.mtu_bytes,
            mac: text(link.mac),
            up: link.up,
            carrier: link.carrier,
            loopback: link.loopback,
            alias: link.alias,
            vxlan: link.vxlan.map(KernelVxlan::from),
            ipip: link.ipip.map(KernelIpIp::from),
        }
    }
}

/// How a vxlan link is set up.
#[napi(object)]
pub struct KernelVxlan {
    pub vni: u32,
    pub port: u32,
    pub local: String,
    pub link_index: u32,
    pub learning: bool,
    pub gbp: bool,
    pub udp_checksum: bool,
    pub group: String,
}

impl From<core::Vxlan> for KernelVxlan {
    fn from(vxlan: core::Vxlan) -> Self {
        Self {
            vni: vxlan.vni,
            port: vxlan.port.into(),
            local: text(vxlan.local),
            link_index: vxlan.link_index,
            learning: vxlan.learning,
            gbp: vxlan.gbp,
            udp_checksum: vxlan.udp_checksum,
            group: text(vxlan.group),
        }
    }
}

/// How an ipip link is set up.
#[napi(object)]
pub struct KernelIpIp {
    pub local: String,
    pub remote: String,
}

impl From<core::IpIp> for KernelIpIp {
    fn from(ipip: core::IpIp) -> Self {
        Self {
            local: text(ipip.local),
            remote: text(ipip.remote),
        }
    }
}

/// One address of one link.
#[napi(object)]
pub struct KernelAddress {
    pub link_index: u32,
    pub address: String,
    pub length: u32,
    pub scope: String,
    pub deprecated: bool,
    pub temporary: bool,
    pub permanent: bool,
}

impl From<core::Address> for KernelAddress {
    fn from(address: core::Address) -> Self {
        Self {
            link_index: address.link_index,
            address: address.address.to_string(),
            length: address.length.into(),
            scope: address.scope,
            deprecated: address.deprecated,
            temporary: address.temporary,
            permanent: address.permanent,
        }
    }
}

/// One IP neighbour.
#[napi(object)]
pub struct KernelNeighbour {
    pub link_index: u32,
    pub ip: String,
    pub mac: String,
    pub permanent: bool,
}

impl From<core::Neighbour> for KernelNeighbour {
    fn from(neighbour: core::Neighbour) -> Self {
        Self {
            link_index: neighbour.link_index,
            ip: neighbour.ip.to_string(),
            mac: text(neighbour.mac),
            permanent: neighbour.permanent,
        }
    }
}

/// One forwarding entry of a vxlan link.
#[napi(object)]
pub struct KernelFdbEntry {
    pub link_index: u32,
    pub mac: String,
    pub via: String,
    pub permanent: bool,
}

impl From<core::FdbEntry> for KernelFdbEntry {
    fn from(entry: core::FdbEntry) -> Self {
        Self {
            link_index: entry.link_index,
            mac: entry.mac.to_string(),
            via: text(entry.via),
            permanent: entry.permanent,
        }
    }
}

/// One route.
#[napi(object)]
pub struct KernelRoute {
    pub to: String,
    pub via: String,
    pub link_index: u32,
    pub on_link: bool,
    pub source: String,
    pub protocol: u32,
    pub metric: u32,
    pub multipath: bool,
    #[napi(js_name = "type")]
    pub kind: String,
}

impl From<core::Route> for KernelRoute {
    fn from(route: core::Route) -> Self {
        Self {
            to: route.to.to_string(),
            via: text(route.via),
            link_index: route.link_index,
            on_link: route.on_link,
            source: text(route.source),
            protocol: route.protocol.into(),
            metric: route.metric,
            multipath: route.multipath,
            kind: route.kind,
        }
    }
}

/// A vxlan link to make.
#[napi(object)]
pub struct VxlanSpec {
    pub name: String,
    pub mtu_bytes: u32,
    pub mac: String,
    pub vni: u32,
    pub port: u32,
    pub local: String,
    pub link_index: u32,
    pub learning: bool,
    pub gbp: bool,
    pub alias: String,
}

impl VxlanSpec {
    fn into_core(self) -> std::result::Result<core::VxlanSpec, CoreError> {
        let operation = format!("add vxlan {}", self.name);
        Ok(core::VxlanSpec {
            mtu_bytes: self.mtu_bytes,
            mac: value(&operation, &self.mac)?,
            vni: self.vni,
            port: u16::try_from(self.port)
                .map_err(|_| CoreError::invalid(&operation, &format!("no port: {}", self.port)))?,
            local: value(&operation, &self.local)?,
            link_index: self.link_index,
            learning: self.learning,
            gbp: self.gbp,
            alias: self.alias,
            name: self.name,
        })
    }
}

/// An ipip link to make.
#[napi(object)]
pub struct IpIpSpec {
    pub name: String,
    pub mtu_bytes: u32,
    pub local: String,
    pub alias: String,
}

impl IpIpSpec {
    fn into_core(self) -> std::result::Result<core::IpIpSpec, CoreError> {
        let operation = format!("add ipip {}", self.name);
        Ok(core::IpIpSpec {
            mtu_bytes: self.mtu_bytes,
            local: value(&operation, &self.local)?,
            alias: self.alias,
            name: self.name,
        })
    }
}

/// Absent members stay as they are.
#[napi(object)]
pub struct LinkChanges {
    pub mtu_bytes: Option<u32>,
    pub mac: Option<String>,
    pub up: Option<bool>,
    pub alias: Option<String>,
    pub tx_queue_length: Option<u32>,
}

/// A unicast route of the main table.
#[napi(object)]
pub struct RouteSpec {
    pub to: String,
    pub via: String,
    pub link_index: u32,
    pub on_link: bool,
    pub protocol: u32,
}

impl RouteSpec {
    fn into_core(self, operation: &str) -> std::result::Result<core::RouteSpec, CoreError> {
        let via = (!self.via.is_empty()).then_some(self.via);
        Ok(core::RouteSpec {
            to: value(operation, &self.to)?,
            via: via.map(|via| value(operation, &via)).transpose()?,
            link_index: self.link_index,
            on_link: self.on_link,
            protocol: protocol(operation, self.protocol)?,
        })
    }
}

/// One change of a batch; which members it has follows from `table`.
#[napi(object)]
pub struct KernelEdit {
    pub table: String,
    pub gone: bool,
    pub link_index: u32,
    pub ip: Option<String>,
    pub mac: Option<String>,
    pub to: Option<String>,
    pub via: Option<String>,
    pub on_link: Option<bool>,
    pub protocol: Option<u32>,
}

impl KernelEdit {
    fn into_core(self) -> std::result::Result<core::Edit, CoreError> {
        match self.table.as_str() {
            "neighbour" => self.into_neighbour(),
            "fdb" => self.into_fdb(),
            "route" => self.into_route(),
            _ => Err(CoreError::invalid("apply", "no such table")),
        }
    }

    fn into_neighbour(self) -> std::result::Result<core::Edit, CoreError> {
        let operation = "change neighbour";
        let ip = value(operation, &self.ip.unwrap_or_default())?;
        if self.gone {
            return Ok(core::Edit::delete_neighbour(self.link_index, ip));
        }
        let mac = value(operation, &self.mac.unwrap_or_default())?;
        Ok(core::Edit::put_neighbour(self.link_index, ip, mac))
    }

    fn into_fdb(self) -> std::result::Result<core::Edit, CoreError> {
        let operation = "change forwarding entry";
        let mac = value(operation, &self.mac.unwrap_or_default())?;
        let via = value(operation, &self.via.unwrap_or_default())?;
        Ok(if self.gone {
            core::Edit::delete_fdb(self.link_index, mac, via)
        } else {
            core::Edit::put_fdb(self.link_index, mac, via)
        })
    }

    fn into_route(self) -> std::result::Result<core::Edit, CoreError> {
        let spec = RouteSpec {
            to: self.to.unwrap_or_default(),
            via: self.via.unwrap_or_default(),
            link_index: self.link_index,
            on_link: self.on_link.unwrap_or_default(),
            protocol: self.protocol.unwrap_or_default(),
        };
        let spec = spec.into_core("change route")?;
        if self.gone {
            core::Edit::delete_route(&spec)
        } else {
            core::Edit::put_route(&spec)
        }
    }
}

/// A route of the main table that discards.
#[napi(object)]
pub struct BlackholeSpec {
    pub to: String,
    pub metric: u32,
    pub protocol: u32,
}

impl BlackholeSpec {
    fn into_core(self, operation: &str) -> std::result::Result<core::BlackholeSpec, CoreError> {
        Ok(core::BlackholeSpec {
            to: value(operation, &self.to)?,
            metric: self.metric,
            protocol: protocol(operation, self.protocol)?,
        })
    }
}

fn protocol(operation: &str, number: u32) -> std::result::Result<u8, CoreError> {
    u8::try_from(number)
        .map_err(|_| CoreError::invalid(operation, &format!("no route protocol: {number}")))
}

/// What changed: each table at most once, and the changes one by one.
#[napi(object)]
pub struct KernelEvents {
    pub changed: Vec<String>,
    pub overrun: bool,
    pub changes: Vec<KernelChange>,
    pub unnamed: bool,
}

/// One change and who asked for it.
#[napi(object)]
pub struct KernelChange {
    pub table: String,
    pub link_index: u32,
    pub subject: String,
    pub gone: bool,
    pub up: bool,
    pub port: u32,
    pub pid: u32,
    pub process: String,
}

impl From<core::Events> for KernelEvents {
    fn from(events: core::Events) -> Self {
        let tables = [
            (events.link, "link"),
            (events.address, "address"),
            (events.neighbour, "neighbour"),
            (events.route, "route"),
        ];
        let changed = tables.into_iter().filter(|(changed, _)| *changed);
        let change = |change: &core::Change| {
            let core::Owner { pid, process } = events.owner(change);
            KernelChange {
                table: table_name(change.table).to_owned(),
                link_index: change.link,
                subject: change.subject.clone(),
                gone: change.gone,
                up: change.up,
                port: change.port,
                pid,
                process,
            }
        };
        Self {
            changed: changed.map(|(_, name)| name.to_owned()).collect(),
            overrun: events.overrun,
            changes: events.changes.iter().map(change).collect(),
            unnamed: events.unnamed,
        }
    }
}

fn table_name(table: core::Table) -> &'static str {
    match table {
        core::Table::Link => "link",
        core::Table::Address => "address",
        core::Table::Neighbour => "neighbour",
        core::Table::Fdb => "fdb",
        core::Table::Route => "route",
    }
}

fn failed(error: CoreError) -> Error {
    Error::from_reason(error.to_string())
}

fn collect<T, U: From<T>>(found: std::result::Result<Vec<T>, CoreError>) -> Result<Vec<U>> {
    Ok(found.map_err(failed)?.into_iter().map(U::from).collect())
}

/// The empty string stands for what is not there.
fn text(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn parse<T: FromStr<Err: Display>>(operation: &str, text: &str) -> Result<T> {
    value(operation, text).map_err(failed)
}

/// `text` as a value, or EINVAL with at most the beginning of it.
fn value<T: FromStr<Err: Display>>(
    operation: &str,
    text: &str,
) -> std::result::Result<T, CoreError> {
    text.parse().map_err(|error| {
        let start: String = text.chars().take(64).collect();
        CoreError::invalid(operation, &format!("{error}: {start:?}"))
    })
}

fn prefix(operation: &str, address: &str, length: u32) -> Result<Prefix> {
    let address: IpAddr = parse(operation, address)?;
    Prefix::new(address, length).ok_or_else(|| {
        failed(CoreError::invalid(
            operation,
            &format!("no prefix length of {address}: {length}"),
        ))
    })
}
