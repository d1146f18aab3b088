//! What the packet loops need of the world: a TUN side and a UDP side.
pub mod memory;

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::ops::Range;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wake {
    /// There may be something to do.
    Ready,
    /// The time given is over.
    TimedOut,
    /// The engine is closing.
    Stopped,
}

/// The TUN side. Packets have the header of `wire::virtio` in front. One thread reads; both write, each write a packet.
pub trait PacketPort {
    /// Waits until there is something to read.
    fn wait_readable(&self) -> io::Result<Wake>;
    /// Whether the engine is closing; costs no system call.
    fn stopped(&self) -> bool;
    /// Reads one packet into `buffer` and gives its length; `WouldBlock` when there is none.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes one packet, gathered from `parts`. EIO: the device is down.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()>;
}

/// The UDP side. One thread receives, one sends.
pub trait DatagramPort {
    /// Waits until there is something to receive.
    fn wait_readable(&self) -> io::Result<Wake>;
    /// Receives up to `slots` buffers, at most `INBOX_SLOTS`, into `arena` of `INBOX_BYTES` and describes them in
    /// `received`, which it clears first. `WouldBlock` when there is nothing.
    fn receive(
        &self,
        arena: &mut [u8],
        slots: usize,
        received: &mut Vec<Received>,
    ) -> io::Result<()>;
    /// How many sockets there are to send from, each with its own source port.
    fn senders(&self) -> usize;
    /// Waits up to `timeout_ms` until socket `sender` can send again.
    fn wait_writable(&self, sender: usize, timeout_ms: i32) -> io::Result<Wake>;
    /// Sends messages from socket `sender`, the first ones in order, and gives how many: at least one. An error
    /// is about the first message.
    fn send(&self, sender: usize, outgoing: &Outgoing<'_>) -> io::Result<usize>;
}

/// Both sides at once, for a thread that serves both. Every thread has its own.
pub trait Poller {
    /// Says which of `ports` have something to read. Waits for that with `sleep`, or until somebody nudges or the
    /// engine closes: then there may be none.
    fn poll(&self, ports: Ports, sleep: bool) -> io::Result<Ports>;
}

/// A choice of ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ports {
    /// The TUN.
    pub tun: bool,
    /// The receiving UDP socket.
    pub udp: bool,
}

impl Ports {
    /// Both.
    pub const BOTH: Self = Self {
        tun: true,
        udp: true,
    };

    /// Whether there is one at all.
    pub fn any(self) -> bool {
        self.tun || self.udp
    }
}

/// How many buffers one `receive` fills at most.
pub const INBOX_SLOTS: usize = 64;
/// Bytes of one such buffer: any UDP payload, joined by GRO or not, fits.
pub const INBOX_SLOT_BYTES: usize = 65_536;
/// Bytes of all buffers, side by side. What no datagram reached costs no memory.
pub const INBOX_BYTES: usize = INBOX_SLOTS * INBOX_SLOT_BYTES;

/// A part of an arena: kept by number, so that batches outlive no borrow and need no allocation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Span {
    /// The bytes; empty where they are not within `arena`.
    pub fn of(self, arena: &[u8]) -> &[u8] {
        let end = self.start.saturating_add(self.len);
        arena.get(self.start..end).unwrap_or_default()
    }
}

/// One received buffer: a datagram, or with `segment` several of that size (the last may be shorter).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// Where its bytes are.
    pub span: Span,
    /// Who sent it.
    pub source: IpAddr,
    /// TOS or traffic class it came with.
    pub tos: u8,
    /// Bytes of each datagram in it; 0 for a single one.
    pub segment: usize,
}

/// Which of two arenas a piece lies in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Area {
    /// Packets as they were read.
    Packets,
    /// Headers written for segments.
    Headers,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    /// In which arena.
    pub area: Area,
    /// Where in it.
    pub span: Span,
}

/// Datagrams of equal size (the last may be shorter) to one destination, sent as one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Destination address; the port is the socket's own affair.
    pub endpoint: IpAddr,
    /// Outer TOS or traffic class.
    pub tos: u8,
    /// Whose packets these are, for the counters.
    pub peer: u32,
    /// Bytes of each datagram but the last.
    pub segment: usize,
    /// Number of datagrams.
    pub segments: usize,
    /// Bytes of all.
    pub bytes: usize,
    /// Its pieces; each belongs to one datagram.
    pub pieces: Range<usize>,
}

/// Messages with what their pieces refer to.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// `Area::Packets`.
    pub packets: &'a [u8],
    /// `Area::Headers`.
    pub headers: &'a [u8],
    /// Pieces of all messages.
    pub pieces: &'a [Piece],
    /// In the order of sending.
    pub messages: &'a [Message],
}

impl<'a> Outgoing<'a> {
    /// The bytes of one message, in order.
    pub fn parts(&self, message: &Message) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (packets, headers) = (self.packets, self.headers);
        let pieces = self.pieces.get(message.pieces.clone()).unwrap_or_default();
        pieces.iter().map(move |piece| match piece.area {
            Area::Packets => piece.span.of(packets),
            Area::Headers => piece.span.of(headers),
        })
    }
}
