//! Counters that one thread writes and any thread reads.
use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use super::drop::DropReason;

/// A counter with a single writer: no locked instruction per packet.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread calls this.
    pub fn add(&self, more: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(more),
            Ordering::Relaxed,
        );
    }

    /// The value some moment ago.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Inner packets and their bytes from the IP header on. Own cache lines: two threads count side by side.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Traffic {
    /// Packets; the segments of a super-packet count one by one.
    pub packets: Counter,
    /// Bytes, IP headers included.
    pub bytes: Counter,
}

impl Traffic {
    /// Counts `packets` packets of `bytes` bytes altogether.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// Traffic with one peer: `sent` belongs to the outbound thread, `received` to the inbound one.
#[derive(Debug, Default)]
pub struct PeerTraffic {
    /// Handed to the UDP socket.
    pub sent: Traffic,
    /// Accepted from the peer's endpoint.
    pub received: Traffic,
}

/// What one packet thread counts.
#[derive(Debug)]
#[repr(align(128))]
pub struct ThreadCounters {
    /// Everything that passed.
    pub traffic: Traffic,
    drops: [Counter; DropReason::ALL.len()],
}

impl ThreadCounters {
    /// Counts `packets` dropped packets.
    pub fn drop(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(packets);
        }
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }
}

impl Default for ThreadCounters {
    fn default() -> Self {
        Self {
            traffic: Traffic::default(),
            drops: array::from_fn(|_| Counter::default()),
        }
    }
}
