//! The immutable forwarding table that both packet threads look at.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::counters::PeerTraffic;
use super::prefix::{Overlap, Prefix, PrefixMap};
use crate::wire::vxlan::{self, Mac};

/// Which senders are believed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Strict {
    /// Anybody, as the kernel's device does.
    Off,
    /// Known senders; an inner source inside the overlay must be the sender's own.
    #[default]
    Overlay,
    /// As `Overlay`, and no inner source outside the overlay unless allowed by name.
    Full,
}

/// How inner packets are carried; the same for all peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encapsulation {
    /// VXLAN with the inner Ethernet header.
    Vxlan {
        /// VXLAN network.
        vni: u32,
        /// Our VTEP's Ethernet address.
        vtep_mac: Mac,
    },
    /// The IP packet alone, as in flannel's udp backend: both ends are hops, which lower TTLs, and who sends where
    /// there is no peer is told so from our addresses.
    Bare {
        /// Source of IPv4 answers.
        v4: Option<Ipv4Addr>,
        /// Source of IPv6 answers.
        v6: Option<Ipv6Addr>,
    },
    /// An IPv4 packet in IPv4 (RFC 2003). The kernel writes the outer header, and leaves it on what is received.
    IpIp,
}

impl Encapsulation {
    /// Bytes that we put in front of the inner IP packet.
    pub fn header_len(&self) -> usize {
        match self {
            Self::Vxlan { .. } => vxlan::HEADER_LEN,
            Self::Bare { .. } | Self::IpIp => 0,
        }
    }
}

impl Default for Encapsulation {
    fn default() -> Self {
        Self::Vxlan {
            vni: 0,
            vtep_mac: Mac::default(),
        }
    }
}

/// What a table is built from.
#[derive(Clone, Debug, Default)]
pub struct TableSpec {
    /// How packets are carried.
    pub encapsulation: Encapsulation,
    /// The overlay's networks.
    pub overlay: Vec<Prefix>,
    /// Which senders are believed.
    pub strict: Strict,
    /// Outer sources believed although no peer has them.
    pub allow_sources: Vec<Prefix>,
    /// All peers.
    pub peers: Vec<PeerSpec>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Prefixes reached through it.
    pub subnets: Vec<Prefix>,
    /// Outer destination.
    pub endpoint: IpAddr,
    /// Inner Ethernet destination; of no meaning where there is none.
    pub mac: Mac,
}

/// A peer in a table.
#[derive(Debug)]
pub struct Peer {
    /// Outer destination.
    pub endpoint: IpAddr,
    /// Inner Ethernet destination.
    pub mac: Mac,
    /// Shared with the tables before and after this one.
    pub traffic: Arc<PeerTraffic>,
}

/// A peer's position in its table.
pub type PeerIndex = u32;

/// Who sent a datagram, as far as its outer source tells.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Outer source address.
    pub address: IpAddr,
    /// The peer with this endpoint.
    pub peer: Option<PeerIndex>,
    /// Named by allowSources.
    pub allowed: bool,
}

/// Prefixes, peers and settings; replaced as a whole.
#[derive(Debug)]
pub struct Table {
    /// How packets are carried.
    pub encapsulation: Encapsulation,
    /// Which senders are believed.
    pub strict: Strict,
    peers: Vec<Peer>,
    routes: PrefixMap<PeerIndex>,
    endpoints: HashMap<IpAddr, PeerIndex>,
    overlay: PrefixMap<()>,
    allow_sources: PrefixMap<()>,
}

/// Two peers claim overlapping subnets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("subnets of peers {0} and {1} overlap")]
pub struct PeersOverlap(pub IpAddr, pub IpAddr);

impl Table {
    /// A table that sends and accepts nothing.
    pub fn empty() -> Self {
        Self {
            encapsulation: Encapsulation::default(),
            strict: Strict::Full,
            peers: Vec::new(),
            routes: PrefixMap::default(),
            endpoints: HashMap::new(),
            overlay: PrefixMap::default(),
            allow_sources: PrefixMap::default(),
        }
    }

    /// Builds a table. A peer that `previous` has too, by endpoint and MAC, keeps its counters.
    pub fn build(spec: &TableSpec, previous: &Self) -> Result<Self, PeersOverlap> {
        let counted: HashMap<(IpAddr, Mac), &Arc<PeerTraffic>> = previous
            .peers
            .iter()
            .map(|p| ((p.endpoint, p.mac), &p.traffic))
            .collect();
        let mut peers = Vec::with_capacity(spec.peers.len());
        let mut endpoints = HashMap::with_capacity(spec.peers.len());
        let mut routes = Vec::new();
        for (index, peer) in (0..).zip(&spec.peers) {
            let known = counted
                .get(&(peer.endpoint, peer.mac))
                .map(|traffic| Arc::clone(traffic));
            let traffic = known.unwrap_or_default();
            peers.push(Peer {
                endpoint: peer.endpoint,
                mac: peer.mac,
                traffic,
            });
            endpoints.entry(peer.endpoint).or_insert(index);
            routes.extend(peer.subnets.iter().map(|subnet| (*subnet, index)));
        }
        let endpoint = |index: PeerIndex| {
            spec.peers
                .get(index as usize)
                .map_or(IpAddr::from([0; 4]), |peer| peer.endpoint)
        };
        let routes = PrefixMap::build(routes)
            .map_err(|Overlap(a, b)| PeersOverlap(endpoint(a), endpoint(b)))?;
        Ok(Self {
            encapsulation: spec.encapsulation,
            strict: spec.strict,
            peers,
            routes,
            endpoints,
            overlay: set_of(&spec.overlay),
            allow_sources: set_of(&spec.allow_sources),
        })
    }

    /// All peers, in the order of their indexes.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The peer at `index`.
    pub fn peer(&self, index: PeerIndex) -> Option<&Peer> {
        self.peers.get(index as usize)
    }

    /// The peer whose subnets hold `address`.
    pub fn route(&self, address: IpAddr) -> Option<PeerIndex> {
        self.routes.get(address)
    }

    /// What is known of an outer source.
    pub fn sender(&self, address: IpAddr) -> Sender {
        let peer = self.endpoints.get(&address).copied();
        Sender {
            address,
            peer,
            allowed: self.allow_sources.get(address).is_some(),
        }
    }

    /// Whether `address` lies in an overlay network.
    pub fn in_overlay(&self, address: IpAddr) -> bool {
        self.overlay.get(address).is_some()
    }

    /// Whether the sender holds the overlay address `inner`. Two peers may share an endpoint.
    pub fn holds(&self, sender: &Sender, inner: IpAddr) -> bool {
        let owner = self.route(inner).and_then(|index| self.peer(index));
        owner.is_some_and(|peer| peer.endpoint == sender.address)
    }
}

/// A set cannot fail: all values are equal.
fn set_of(prefixes: &[Prefix]) -> PrefixMap<()> {
    PrefixMap::build(prefixes.iter().map(|prefix| (*prefix, ()))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(subnet: &str, endpoint: &str, last: u8) -> PeerSpec {
        PeerSpec {
            subnets: vec![subnet.parse().unwrap()],
            endpoint: endpoint.parse().unwrap(),
            mac: [2, 0, 0, 0, 0, last],
        }
    }

    fn build(peers: Vec<PeerSpec>, previous: &Table) -> Result<Table, PeersOverlap> {
        Table::build(
            &TableSpec {
                peers,
                ..TableSpec::default()
            },
            previous,
        )
    }

    #[test]
    fn counters_survive_a_swap_while_endpoint_and_mac_stay() {
        let specs = vec![
            peer("10.5.2.0/24", "192.0.2.2", 2),
            peer("10.5.3.0/24", "192.0.2.3", 3),
        ];
        let first = build(specs, &Table::empty()).unwrap();
        for peer in first.peers() {
            peer.traffic.sent.add(1, 100);
        }
        let specs = vec![
            peer("10.5.3.0/24", "192.0.2.3", 9),
            peer("10.5.4.0/24", "192.0.2.2", 2),
        ];
        let second = build(specs, &first).unwrap();
        let counted: Vec<u64> = second
            .peers()
            .iter()
            .map(|peer| peer.traffic.sent.bytes.get())
            .collect();
        assert_eq!(counted, [0, 100]);
    }

    #[test]
    fn overlapping_peers_are_named() {
        let specs = vec![
            peer("10.5.2.0/24", "192.0.2.2", 2),
            peer("10.5.2.128/25", "192.0.2.3", 3),
        ];
        let error = build(specs, &Table::empty()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnets of peers 192.0.2.2 and 192.0.2.3 overlap"
        );
    }

    #[test]
    fn two_peers_behind_one_endpoint_hold_what_either_holds() {
        let specs = vec![
            peer("10.5.2.0/24", "192.0.2.2", 2),
            peer("10.5.3.0/24", "192.0.2.2", 3),
        ];
        let table = build(specs, &Table::empty()).unwrap();
        let sender = table.sender("192.0.2.2".parse().unwrap());
        assert!(table.holds(&sender, "10.5.2.1".parse().unwrap()));
        assert!(table.holds(&sender, "10.5.3.1".parse().unwrap()));
        assert!(!table.holds(&sender, "10.5.4.1".parse().unwrap()));
    }
}
