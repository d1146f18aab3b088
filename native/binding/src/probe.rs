//! The native packet loops for the differential test, without TUN or socket. The daemon does not use it.
use std::collections::BTreeMap;

use flannel_lite_core::datapath::probe as core;
use flannel_lite_core::wire::virtio;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::engine::{ForwardingTable, table_spec};
use crate::value::{address, reason};

/// A packet as a TUN gives it.
#[napi(object)]
pub struct ProbePacket {
    /// The virtio header.
    pub vnet: Buffer,
    /// The IP packet.
    pub packet: Buffer,
}

/// A received buffer: one datagram, or with `segment` several of that size.
#[napi(object)]
pub struct ProbeDatagram {
    /// Outer source address.
    pub source: String,
    /// Outer TOS or traffic class.
    pub tos: u32,
    /// Bytes of each datagram in it; 0 for a single one.
    pub segment: u32,
    /// UDP payload.
    pub payload: Buffer,
}

/// A datagram that was sent.
#[napi(object)]
pub struct ProbeSent {
    /// UDP payload.
    pub payload: Buffer,
    /// Outer destination address.
    pub endpoint: String,
    /// Outer TOS or traffic class.
    pub tos: u32,
    /// Which of the sending sockets, that is which source port.
    pub lane: u32,
}

/// What the outbound loop did.
#[napi(object)]
pub struct ProbeOutbound {
    /// Lane after lane, each in the order of sending.
    pub sent: Vec<ProbeSent>,
    /// What was written to the TUN: answers.
    pub answers: Vec<ProbePacket>,
    /// Dropped packets by reason; reasons never met are present with 0.
    pub drops: BTreeMap<String, u32>,
}

/// What the inbound loop did.
#[napi(object)]
pub struct ProbeInbound {
    /// What was written to the TUN.
    pub written: Vec<ProbePacket>,
    /// Dropped packets by reason; reasons never met are present with 0.
    pub drops: BTreeMap<String, u32>,
}

/// Runs the outbound loop over `packets` and gives what it sent.
#[napi(catch_unwind)]
pub fn probe_outbound(
    table: ForwardingTable,
    mtu_bytes: u32,
    packets: Vec<ProbePacket>,
) -> Result<ProbeOutbound> {
    let join = |packet: ProbePacket| [&packet.vnet[..], &packet.packet].concat();
    let packets = packets.into_iter().map(join).collect();
    let outcome =
        core::probe_outbound(&table_spec(&table)?, mtu_bytes as usize, packets).map_err(reason)?;
    let mut sent = Vec::new();
    for message in outcome.sent {
        for payload in message.datagrams {
            sent.push(ProbeSent {
                payload: payload.into(),
                endpoint: message.endpoint.to_string(),
                tos: message.tos.into(),
                lane: message.sender as u32,
            });
        }
    }
    Ok(ProbeOutbound {
        sent,
        answers: outcome.answers.into_iter().map(split).collect(),
        drops: named(outcome.drops),
    })
}

/// Runs the inbound loop over `datagrams` and gives what it wrote.
#[napi(catch_unwind)]
pub fn probe_inbound(
    table: ForwardingTable,
    mtu_bytes: u32,
    datagrams: Vec<ProbeDatagram>,
) -> Result<ProbeInbound> {
    let incoming = |datagram: ProbeDatagram| {
        let source = address(&datagram.source)?;
        let segment = datagram.segment as usize;
        Ok((
            source,
            datagram.tos as u8,
            segment,
            datagram.payload.to_vec(),
        ))
    };
    let datagrams = datagrams.into_iter().map(incoming).collect::<Result<_>>()?;
    let (written, drops) =
        core::probe_inbound(&table_spec(&table)?, mtu_bytes as usize, datagrams).map_err(reason)?;
    Ok(ProbeInbound {
        written: written.into_iter().map(split).collect(),
        drops: named(drops),
    })
}

fn split(mut vnet: Vec<u8>) -> ProbePacket {
    let packet = vnet.split_off(virtio::HEADER_LEN.min(vnet.len()));
    ProbePacket {
        vnet: vnet.into(),
        packet: packet.into(),
    }
}

fn named(drops: core::Drops) -> BTreeMap<String, u32> {
    drops
        .into_iter()
        .map(|(name, count)| (name.to_owned(), u32::try_from(count).unwrap_or(u32::MAX)))
        .collect()
}
