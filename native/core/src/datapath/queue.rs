//! Datagrams on their way out: runs of equal size to one peer are sent as one message.
use std::net::IpAddr;

use super::shared::Shared;
use crate::forward::drop::DropReason;
use crate::forward::table::Table;
use crate::port::{DatagramPort, Message, Outgoing, Piece, Wake};

/// UDP_MAX_SEGMENTS of the oldest kernels that have UDP_SEGMENT.
const MAX_SEGMENTS: usize = 64;
/// What fits one IPv4 datagram: 65,535 less IP and UDP headers. IPv6 could carry 20 more.
const MAX_MESSAGE_BYTES: usize = 65_507;
/// Room for the headers of segments; a full one is flushed.
const HEADERS_BYTES: usize = 64 << 10;
/// A full socket is waited for this long at a time, and so often in one flush: 100 ms of back-pressure.
const WAIT_MS: i32 = 10;
const MAX_WAITS: usize = 10;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Which socket sends it; all packets of a flow use the same.
    pub lane: usize,
    /// Outer destination.
    pub endpoint: IpAddr,
    /// Outer TOS.
    pub tos: u8,
    /// Whose it is, for the counters.
    pub peer: u32,
}

/// Messages per sending socket, and headers that were written for them.
#[derive(Debug)]
pub struct SendQueue {
    lanes: Vec<Lane>,
    headers: Vec<u8>,
    headers_used: usize,
    max_segments: usize,
    /// Of the packet queued last.
    fragment: bool,
}

#[derive(Debug, Default)]
struct Lane {
    messages: Vec<Message>,
    pieces: Vec<Piece>,
}

impl SendQueue {
    /// An empty queue for `lanes` sockets, at least one.
    pub fn new(lanes: usize, gso: bool) -> Self {
        Self {
            lanes: (0..lanes.max(1)).map(|_| Lane::default()).collect(),
            headers: vec![0; HEADERS_BYTES],
            headers_used: 0,
            max_segments: if gso { MAX_SEGMENTS } else { 1 },
            fragment: false,
        }
    }

    /// Whether a packet, a `fragment` or not, must wait until the queue is flushed: fragments have no ports, so they go
    /// by another socket than the rest of their flow, and neither shall overtake the other. Asked once for each.
    pub fn must_wait(&mut self, fragment: bool) -> bool {
        let turned = std::mem::replace(&mut self.fragment, fragment) != fragment;
        turned && self.lanes.iter().any(|lane| !lane.messages.is_empty())
    }

    /// The lane of a flow.
    pub fn lane(&self, spread: usize) -> usize {
        spread % self.lanes.len().max(1)
    }

    /// Room for `len` bytes of headers, and where it begins in `Area::Headers`; it stays in use until the next
    /// flush. None when there is too little left.
    pub fn headers(&mut self, len: usize) -> Option<(usize, &mut [u8])> {
        let start = self.headers_used;
        let room = self.headers.get_mut(start..start + len)?;
        self.headers_used += len;
        Some((start, room))
    }

    /// Appends a datagram made of `pieces`.
    pub fn push(&mut self, target: &Target, pieces: &[Piece]) {
        let Some(lane) = self.lanes.get_mut(target.lane) else {
            return;
        };
        let len: usize = pieces.iter().map(|piece| piece.span.len).sum();
        let first = lane.pieces.len();
        lane.pieces.extend_from_slice(pieces);
        let after = lane.pieces.len();
        match lane.messages.last_mut() {
            Some(last) if joins(last, target, len, self.max_segments) => {
                last.segments += 1;
                last.bytes += len;
                last.pieces.end = after;
            }
            _ => lane.messages.push(Message {
                endpoint: target.endpoint,
                tos: target.tos,
                peer: target.peer,
                segment: len,
                segments: 1,
                bytes: len,
                pieces: first..after,
            }),
        }
    }

    /// Sends everything and forgets it; what cannot be sent is counted as dropped. `packets` is what the pieces of
    /// `Area::Packets` refer to, and `table` the one by which they were addressed.
    pub fn flush(
        &mut self,
        udp: &impl DatagramPort,
        packets: &[u8],
        table: &Table,
        shared: &Shared,
    ) {
        for (sender, lane) in self.lanes.iter_mut().enumerate() {
            let outgoing = Outgoing {
                packets,
                headers: &self.headers,
                pieces: &lane.pieces,
                messages: &lane.messages,
            };
            send_all(udp, sender, outgoing, table, shared);
            lane.messages.clear();
            lane.pieces.clear();
        }
        self.headers_used = 0;
        if !shared.udp_gso() {
            self.max_segments = 1;
        }
    }
}

/// Whether a datagram of `len` bytes may follow `last` in one message: all but the last are of one size.
fn joins(last: &Message, target: &Target, len: usize, max_segments: usize) -> bool {
    let full = last.bytes == last.segments * last.segment;
    full && len <= last.segment
        && last.endpoint == target.endpoint
        && last.peer == target.peer
        && last.tos == target.tos
        && last.segments < max_segments
        && last.bytes + len <= MAX_MESSAGE_BYTES
}

fn send_all(
    udp: &impl DatagramPort,
    sender: usize,
    outgoing: Outgoing<'_>,
    table: &Table,
    shared: &Shared,
) {
    let mut rest = outgoing.messages;
    let mut waits = 0;
    while let Some((message, others)) = rest.split_first() {
        let error = match udp.send(
            sender,
            &Outgoing {
                messages: rest,
                ..outgoing
            },
        ) {
            Ok(sent) => {
                let (done, left) = rest.split_at_checked(sent.max(1)).unwrap_or((rest, &[]));
                done.iter()
                    .for_each(|message| count_sent(message, table, shared));
                rest = left;
                continue;
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EINTR) => continue,
            Some(libc::EAGAIN | libc::ENOBUFS) if waits < MAX_WAITS => {
                waits += 1;
                if !matches!(udp.wait_writable(sender, WAIT_MS), Ok(Wake::Stopped)) {
                    continue;
                }
                waits = MAX_WAITS;
                drop_message(message, DropReason::SendQueueFull, shared);
            }
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                drop_message(message, DropReason::SendQueueFull, shared);
            }
            Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if message.segments > 1 => {
                // EIO: the route's device cannot do it. The others: this size is more than the route's MTU, which
                // somebody's ICMP may have lowered; the datagrams are then sent one by one, and fragmented.
                if error.raw_os_error() == Some(libc::EIO) {
                    shared.give_up_udp_gso();
                }
                let single = split(message, outgoing.pieces);
                send_all(
                    udp,
                    sender,
                    Outgoing {
                        messages: &single,
                        ..outgoing
                    },
                    table,
                    shared,
                );
            }
            _ => drop_message(message, DropReason::SocketError, shared),
        }
        rest = others;
    }
}

fn count_sent(message: &Message, table: &Table, shared: &Shared) {
    let packets = message.segments as u64;
    let bytes = message
        .bytes
        .saturating_sub(message.segments * table.encapsulation.header_len()) as u64;
    shared.outbound.traffic.add(packets, bytes);
    if let Some(peer) = table.peer(message.peer) {
        peer.traffic.sent.add(packets, bytes);
    }
}

fn drop_message(message: &Message, reason: DropReason, shared: &Shared) {
    shared.outbound.drop(reason, message.segments as u64);
}

/// The datagrams of a message as messages of their own.
fn split(message: &Message, pieces: &[Piece]) -> Vec<Message> {
    let mut single: Vec<Message> = Vec::with_capacity(message.segments);
    for index in message.pieces.clone() {
        let len = pieces.get(index).map_or(0, |piece| piece.span.len);
        match single.last_mut() {
            Some(last) if last.bytes < message.segment => {
                last.bytes += len;
                last.segment = last.bytes;
                last.pieces.end = index + 1;
            }
            _ => single.push(Message {
                segment: len,
                segments: 1,
                bytes: len,
                pieces: index..index + 1,
                ..message.clone()
            }),
        }
    }
    single
}
