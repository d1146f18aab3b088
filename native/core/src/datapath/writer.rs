//! Hands packets to the TUN and counts those that it refuses.
use std::io::IoSlice;

use crate::forward::counters::ThreadCounters;
use crate::forward::drop::DropReason;
use crate::port::PacketPort;
use crate::wire::virtio::VnetHeader;

/// How often a write is repeated that the kernel had no memory for.
const RETRIES: usize = 3;

/// The TUN with the counters of the thread that writes to it.
#[derive(Debug)]
pub struct Writer<'a, P> {
    /// Where packets go.
    pub tun: &'a P,
    /// Where refusals are counted.
    pub counters: &'a ThreadCounters,
}

impl<P: PacketPort> Writer<'_, P> {
    /// Writes one packet that stands for `packets` received ones.
    pub fn write(&self, parts: &[IoSlice<'_>], packets: usize) {
        for _ in 0..=RETRIES {
            let Err(error) = self.tun.write(parts) else {
                return;
            };
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::ENOBUFS) => {}
                Some(libc::EIO) => return self.counters.drop(DropReason::TunDown, packets as u64),
                _ => break,
            }
        }
        self.counters.drop(DropReason::TunError, packets as u64);
    }

    /// Writes one packet as it is, but for what `vnet` says about it.
    pub fn write_whole(&self, vnet: &VnetHeader, packet: &[u8]) {
        self.write(&[IoSlice::new(&vnet.encode()), IoSlice::new(packet)], 1);
    }
}
