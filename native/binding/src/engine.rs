//! The userspace datapath, in JavaScript's types.
use std::collections::BTreeMap;
use std::net::IpAddr;

use flannel_lite_core::datapath::engine as core;
use flannel_lite_core::datapath::shared::RefusedPacket as CoreRefused;
use flannel_lite_core::forward::table::{Encapsulation, PeerSpec, Strict, TableSpec};
use flannel_lite_core::sys::udp::Layout;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::handover::{Descriptors, NamedDescriptor, named};
use crate::value::{address, invalid, latency, layout, optional_mac, prefixes, reason};

/// What an engine is opened with.
#[napi(object)]
pub struct EngineOptions {
    /// Name of the TUN device, at most 15 bytes.
    pub device: String,
    /// UDP port to receive on and to send to; of `ipip` the protocol, 4.
    pub port: u32,
    /// Source address of what is sent; it must be on this host.
    pub local: String,
    /// The device's MTU in bytes.
    pub mtu_bytes: u32,
    /// What it is to be good at; `auto` where it is not said.
    #[napi(ts_type = "'auto' | 'latency' | 'throughput'")]
    pub latency: Option<String>,
    /// How packets are carried; `vxlan` where it is not said.
    #[napi(ts_type = "'vxlan' | 'udp' | 'ipip'")]
    pub encapsulation: Option<String>,
}

/// Everything the engine decides by.
#[napi(object)]
pub struct ForwardingTable {
    /// How packets are carried: `vxlan`, with `vni` and `vtep_mac`, `udp`, with `answer_from`, or `ipip`.
    #[napi(ts_type = "'vxlan' | 'udp' | 'ipip'")]
    pub encapsulation: String,
    /// VXLAN network.
    pub vni: Option<u32>,
    /// Our VTEP's Ethernet address.
    pub vtep_mac: Option<String>,
    /// Our addresses, at most one of each family, from which ICMP answers come.
    pub answer_from: Option<Vec<String>>,
    /// The overlay networks as prefixes.
    pub overlay: Vec<String>,
    /// Which senders are believed: `off`, `overlay` or `full`.
    #[napi(ts_type = "'off' | 'overlay' | 'full'")]
    pub strict: String,
    /// Prefixes of outer sources believed although no peer has them.
    pub allow_sources: Vec<String>,
    /// All peers.
    pub peers: Vec<ForwardingPeer>,
}

/// One peer.
#[napi(object)]
pub struct ForwardingPeer {
    /// Prefixes reached through it.
    pub subnets: Vec<String>,
    /// Outer destination address.
    pub endpoint: String,
    /// Inner destination MAC; of no use to `udp`.
    pub mac: Option<String>,
}

/// A moment's view of an engine.
#[napi(object)]
pub struct EngineStats {
    /// What the probes found, by name.
    pub offloads: BTreeMap<String, bool>,
    /// To all peers.
    pub sent: TrafficCounters,
    /// Accepted from the tunnel.
    pub received: TrafficCounters,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, f64>,
    /// In the order of the table.
    pub peers: Vec<PeerStats>,
    /// The last packet refused by a sender check.
    pub last_refused: Option<RefusedPacket>,
    /// Why a packet thread ended before `close`.
    pub failure: Option<String>,
}

/// Inner packets and their bytes from the IP header on.
#[napi(object)]
pub struct TrafficCounters {
    /// Packets; the segments of a super-packet one by one.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
}

/// Traffic with one peer.
#[napi(object)]
pub struct PeerStats {
    /// Its endpoint.
    pub endpoint: String,
    /// Towards it.
    pub sent: TrafficCounters,
    /// From it.
    pub received: TrafficCounters,
}

/// A packet refused by a sender check.
#[napi(object)]
pub struct RefusedPacket {
    /// The name of the reason in `drops`.
    pub reason: String,
    /// Outer source address.
    pub outer_source: String,
    /// Inner source address.
    pub inner_source: String,
    /// Inner destination address.
    pub inner_destination: String,
}

/// A running userspace datapath.
#[napi]
pub struct Engine {
    inner: core::Engine,
}

#[napi]
impl Engine {
    /// Attaches to the TUN (making it, persistent, where it is missing) and binds the sockets, or goes on with those
    /// that were handed down. The first table starts the packet threads. On an error nothing is left behind.
    #[napi(constructor)]
    pub fn new(options: EngineOptions, handed: Option<ClassInstance<Descriptors>>) -> Result<Self> {
        let options = core::EngineOptions {
            port: options
                .port
                .try_into()
                .map_err(|_| invalid("port", &options.port.to_string()))?,
            local: address(&options.local)?,
            device: options.device,
            mtu_bytes: options.mtu_bytes as usize,
            latency: latency(options.latency.as_deref())?,
            layout: layout(options.encapsulation.as_deref())?,
        };
        Ok(Self {
            inner: core::Engine::open(&options, handed.as_ref().map(|handed| &handed.inner))
                .map_err(reason)?,
        })
    }

    /// The open descriptors, by name.
    #[napi]
    pub fn descriptors(&self) -> Vec<NamedDescriptor> {
        named(self.inner.descriptors())
    }

    /// Stops the threads, with nothing lost; gives the descriptors, which stay open.
    #[napi]
    pub fn pause(&self) -> Vec<NamedDescriptor> {
        named(self.inner.pause())
    }

    /// Goes on after `pause`.
    #[napi]
    pub fn resume(&self) -> Result<()> {
        self.inner.resume().map_err(reason)
    }

    /// Goes on with threads of another use, with nothing lost.
    #[napi(ts_args_type = "latency: 'auto' | 'latency' | 'throughput'")]
    pub fn set_latency(&self, latency: String) -> Result<()> {
        let latency = crate::value::latency(Some(&latency))?;
        self.inner.set_latency(latency).map_err(reason)
    }

    /// Replaces the whole forwarding table between two batches.
    #[napi]
    pub fn set_table(&self, table: ForwardingTable) -> Result<()> {
        self.inner.set_table(&table_spec(&table)?).map_err(reason)
    }

    /// Counters and state, also after `close`.
    #[napi]
    pub fn stats(&self) -> EngineStats {
        let stats = self.inner.stats();
        let peer = |peer: &core::PeerStats| PeerStats {
            endpoint: peer.endpoint.to_string(),
            sent: traffic(peer.sent),
            received: traffic(peer.received),
        };
        EngineStats {
            offloads: stats
                .offloads
                .iter()
                .map(|(name, on)| ((*name).to_owned(), *on))
                .collect(),
            sent: traffic(stats.sent),
            received: traffic(stats.received),
            drops: stats
                .drops
                .iter()
                .map(|(name, n)| ((*name).to_owned(), *n as f64))
                .collect(),
            peers: stats.peers.iter().map(peer).collect(),
            last_refused: stats.last_refused.map(refused),
            failure: stats.failure,
        }
    }

    /// Why a packet thread has ended before `close`, null while none has.
    #[napi]
    pub fn failure(&self) -> Option<String> {
        self.inner.failure()
    }

    /// Stops and joins the threads and closes the descriptors; the device stays. May be called twice.
    #[napi]
    pub fn close(&self) {
        self.inner.close();
    }
}

/// Reads a table's texts.
pub fn table_spec(table: &ForwardingTable) -> Result<TableSpec> {
    let peer = |peer: &ForwardingPeer| {
        Ok(PeerSpec {
            subnets: prefixes(&peer.subnets)?,
            endpoint: address(&peer.endpoint)?,
            mac: optional_mac(peer.mac.as_deref())?,
        })
    };
    Ok(TableSpec {
        encapsulation: encapsulation(table)?,
        overlay: prefixes(&table.overlay)?,
        strict: match table.strict.as_str() {
            "off" => Strict::Off,
            "overlay" => Strict::Overlay,
            "full" => Strict::Full,
            other => return Err(invalid("strict", other)),
        },
        allow_sources: prefixes(&table.allow_sources)?,
        peers: table.peers.iter().map(peer).collect::<Result<_>>()?,
    })
}

fn encapsulation(table: &ForwardingTable) -> Result<Encapsulation> {
    match layout(Some(&table.encapsulation))? {
        Layout::Spread => {
            return Ok(Encapsulation::Vxlan {
                vni: table.vni.unwrap_or(0),
                vtep_mac: optional_mac(table.vtep_mac.as_deref())?,
            });
        }
        Layout::Raw => return Ok(Encapsulation::IpIp),
        Layout::Single => {}
    }
    let (mut v4, mut v6) = (None, None);
    for text in table.answer_from.iter().flatten() {
        match address(text)? {
            IpAddr::V4(address) => v4 = Some(address),
            IpAddr::V6(address) => v6 = Some(address),
        }
    }
    Ok(Encapsulation::Bare { v4, v6 })
}

fn traffic(stats: core::TrafficStats) -> TrafficCounters {
    TrafficCounters {
        packets: stats.packets as f64,
        bytes: stats.bytes as f64,
    }
}

fn refused(packet: CoreRefused) -> RefusedPacket {
    RefusedPacket {
        reason: packet.reason.name().to_owned(),
        outer_source: packet.outer_source.to_string(),
        inner_source: packet.inner_source.to_string(),
        inner_destination: packet.inner_destination.to_string(),
    }
}
