//! What the packet threads share with whoever started them.
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::forward::counters::ThreadCounters;
use crate::forward::drop::DropReason;
use crate::forward::table::Table;

/// The current table, the counters and what was learnt on the way.
#[derive(Debug)]
pub struct Shared {
    /// Taken once per batch.
    pub table: ArcSwap<Table>,
    /// Written by the outbound thread.
    pub outbound: ThreadCounters,
    /// Written by the inbound thread.
    pub inbound: ThreadCounters,
    /// The device's MTU in bytes.
    pub mtu_bytes: usize,
    /// Whether the TUN takes joined UDP datagrams.
    pub tun_uso: bool,
    udp_gso: AtomicBool,
    last_refused: Mutex<Option<RefusedPacket>>,
    failure: Mutex<Option<String>>,
}

/// A packet that a sender check refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RefusedPacket {
    /// Which check.
    pub reason: DropReason,
    /// Outer source address.
    pub outer_source: IpAddr,
    /// Inner source address.
    pub inner_source: IpAddr,
    /// Inner destination address.
    pub inner_destination: IpAddr,
}

impl Shared {
    /// With an empty table.
    pub fn new(mtu_bytes: usize, udp_gso: bool) -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::empty()),
            outbound: ThreadCounters::default(),
            inbound: ThreadCounters::default(),
            mtu_bytes,
            tun_uso: true,
            udp_gso: AtomicBool::new(udp_gso),
            last_refused: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    /// Whether several datagrams may be sent as one message.
    pub fn udp_gso(&self) -> bool {
        self.udp_gso.load(Ordering::Relaxed)
    }

    /// The route's device cannot do it: not tried again.
    pub fn give_up_udp_gso(&self) {
        self.udp_gso.store(false, Ordering::Relaxed);
    }

    /// The last packet that a sender check refused.
    pub fn last_refused(&self) -> Option<RefusedPacket> {
        *self
            .last_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the last one of a batch.
    pub fn set_last_refused(&self, packet: RefusedPacket) {
        *self
            .last_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(packet);
    }

    /// Why a packet thread ended by itself; the first one to do so counts.
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says that a packet thread has ended by itself.
    pub fn fail(&self, why: String) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
    }
}
