//! The packet loops over in-memory ports. This is the door of the differential test, which compares them with the
//! reference engine; the daemon does not use it.
use std::sync::Arc;

use super::shared::Shared;
use super::{inbound, outbound};
use crate::error::Error;
use crate::forward::counters::ThreadCounters;
use crate::forward::drop::DropReason;
use crate::forward::table::{Table, TableSpec};
use crate::port::INBOX_SLOT_BYTES;
use crate::port::memory::{Incoming, MemoryTun, MemoryUdp, Sent};
use crate::wire::virtio;

/// How many packets were dropped for each reason, those never met included.
pub type Drops = Vec<(&'static str, u64)>;

/// What the outbound loop did.
#[derive(Debug)]
pub struct Outcome {
    /// Messages to peers.
    pub sent: Vec<Sent>,
    /// Packets to the TUN: answers, virtio headers included.
    pub answers: Vec<Vec<u8>>,
    /// Dropped packets.
    pub drops: Drops,
}

/// Runs the outbound loop over `packets`, each with a virtio header in front.
///
/// Errors: EINVAL subnets of two peers overlap, or a packet is longer than a TUN's can be.
pub fn probe_outbound(
    spec: &TableSpec,
    mtu_bytes: usize,
    packets: Vec<Vec<u8>>,
) -> Result<Outcome, Error> {
    let too_long = |packet: &Vec<u8>| packet.len() > virtio::HEADER_LEN + usize::from(u16::MAX);
    if packets.iter().any(too_long) {
        return Err(Error::invalid("probe outbound", "a packet is too long"));
    }
    let shared = shared(spec, mtu_bytes)?;
    let (tun, udp) = (MemoryTun::default(), MemoryUdp::default());
    tun.to_read.replace(packets.into());
    outbound::run(&tun, &udp, &shared).map_err(|error| Error::from_io(&error, "probe outbound"))?;
    Ok(Outcome {
        sent: udp.sent.take(),
        answers: tun.written.take(),
        drops: drops(&shared.outbound),
    })
}

/// Runs the inbound loop over `datagrams` and gives what it wrote, virtio headers included.
///
/// Errors: EINVAL subnets of two peers overlap, or a datagram is longer than UDP's can be.
pub fn probe_inbound(
    spec: &TableSpec,
    mtu_bytes: usize,
    datagrams: Vec<Incoming>,
) -> Result<(Vec<Vec<u8>>, Drops), Error> {
    if datagrams
        .iter()
        .any(|(.., bytes)| bytes.len() > INBOX_SLOT_BYTES)
    {
        return Err(Error::invalid("probe inbound", "a datagram is too long"));
    }
    let shared = shared(spec, mtu_bytes)?;
    let (tun, udp) = (MemoryTun::default(), MemoryUdp::default());
    udp.to_receive.replace(datagrams.into());
    inbound::run(&tun, &udp, &shared).map_err(|error| Error::from_io(&error, "probe inbound"))?;
    Ok((tun.written.take(), drops(&shared.inbound)))
}

fn shared(spec: &TableSpec, mtu_bytes: usize) -> Result<Shared, Error> {
    let shared = Shared::new(mtu_bytes, true);
    let table = Table::build(spec, &Table::empty())
        .map_err(|error| Error::invalid("set forwarding table", &error.to_string()))?;
    shared.table.store(Arc::new(table));
    Ok(shared)
}

fn drops(counters: &ThreadCounters) -> Drops {
    DropReason::ALL
        .iter()
        .map(|reason| (reason.name(), counters.dropped(*reason)))
        .collect()
}
