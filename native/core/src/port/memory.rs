//! Ports over queues: what the loops read is put there before, what they write is looked at afterwards.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::IpAddr;

use super::{
    DatagramPort, INBOX_SLOT_BYTES, Outgoing, PacketPort, Poller, Ports, Received, Span, Wake,
};

/// A TUN side. A wait with nothing left to read ends as if the engine were closing.
#[derive(Default)]
pub struct MemoryTun {
    /// What the loop reads.
    pub to_read: RefCell<VecDeque<Vec<u8>>>,
    /// What the loop wrote.
    pub written: RefCell<Vec<Vec<u8>>>,
    /// Errors (errno) that the next writes give.
    pub write_errors: RefCell<VecDeque<i32>>,
    /// Whether the engine is closing.
    pub stopped: Cell<bool>,
}

impl PacketPort for MemoryTun {
    fn wait_readable(&self) -> io::Result<Wake> {
        Ok(if self.to_read.borrow().is_empty() {
            Wake::Stopped
        } else {
            Wake::Ready
        })
    }

    fn stopped(&self) -> bool {
        self.stopped.get()
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.to_read.borrow_mut().pop_front();
        let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok(packet.len())
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(errno) = self.write_errors.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.written
            .borrow_mut()
            .push(parts.iter().flat_map(|part| part.iter()).copied().collect());
        Ok(())
    }
}

/// One message as it was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// From which socket.
    pub sender: usize,
    /// Where to.
    pub endpoint: IpAddr,
    /// Outer TOS.
    pub tos: u8,
    /// Taken apart.
    pub datagrams: Vec<Vec<u8>>,
}

/// A received buffer to be: source, TOS, segment size (0 for none), bytes.
pub type Incoming = (IpAddr, u8, usize, Vec<u8>);

/// A UDP side. A wait with nothing left to receive ends as if the engine were closing.
#[derive(Default)]
pub struct MemoryUdp {
    /// What the loop receives.
    pub to_receive: RefCell<VecDeque<Incoming>>,
    /// What the loop sent.
    pub sent: RefCell<Vec<Sent>>,
    /// Errors (errno) that the next sends give.
    pub send_errors: RefCell<VecDeque<i32>>,
    /// Errno for every message of more than one datagram, if any.
    pub segments_refused: Cell<Option<i32>>,
}

impl DatagramPort for MemoryUdp {
    fn wait_readable(&self) -> io::Result<Wake> {
        Ok(if self.to_receive.borrow().is_empty() {
            Wake::Stopped
        } else {
            Wake::Ready
        })
    }

    fn receive(
        &self,
        arena: &mut [u8],
        slots: usize,
        received: &mut Vec<Received>,
    ) -> io::Result<()> {
        received.clear();
        let mut queue = self.to_receive.borrow_mut();
        for slot in 0..slots {
            let Some((source, tos, segment, bytes)) = queue.pop_front() else {
                break;
            };
            let span = Span {
                start: slot * INBOX_SLOT_BYTES,
                len: bytes.len(),
            };
            arena[span.start..span.start + span.len].copy_from_slice(&bytes);
            received.push(Received {
                span,
                source,
                tos,
                segment,
            });
        }
        if received.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    }

    fn senders(&self) -> usize {
        4
    }

    fn wait_writable(&self, _: usize, _: i32) -> io::Result<Wake> {
        Ok(Wake::TimedOut)
    }

    fn send(&self, sender: usize, outgoing: &Outgoing<'_>) -> io::Result<usize> {
        if let Some(errno) = self.send_errors.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let message = &outgoing.messages[0];
        if let Some(errno) = self.segments_refused.get().filter(|_| message.segments > 1) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let bytes: Vec<u8> = outgoing.parts(message).flatten().copied().collect();
        assert_eq!(bytes.len(), message.bytes);
        let datagrams: Vec<Vec<u8>> = bytes.chunks(message.segment).map(<[u8]>::to_vec).collect();
        assert_eq!(datagrams.len(), message.segments);
        assert!(
            bytes.len() <= 65_507 && message.segments <= 64,
            "one UDP_SEGMENT send"
        );
        let sent = Sent {
            sender,
            endpoint: message.endpoint,
            tos: message.tos,
            datagrams,
        };
        self.sent.borrow_mut().push(sent);
        Ok(1)
    }
}

/// Looks at both queues. A wait with nothing left ends as if the engine were closing.
pub struct MemoryPoller<'a>(pub &'a MemoryTun, pub &'a MemoryUdp);

impl Poller for MemoryPoller<'_> {
    fn poll(&self, ports: Ports, sleep: bool) -> io::Result<Ports> {
        let ready = Ports {
            tun: ports.tun && !self.0.to_read.borrow().is_empty(),
            udp: ports.udp && !self.1.to_receive.borrow().is_empty(),
        };
        if sleep && !ready.any() {
            self.0.stopped.set(true);
        }
        Ok(ready)
    }
}
