//! A TUN for JavaScript: one packet a call, for the reference engine.
use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError, RwLock};

use flannel_lite_core::error::Error as CoreError;
use flannel_lite_core::port::{PacketPort, Wake};
use flannel_lite_core::sys::poll::Stop;
use flannel_lite_core::sys::tun as core;
use flannel_lite_core::wire::virtio;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// An attached TUN device with all offloads off.
#[napi]
pub struct Tun {
    handle: Arc<Handle>,
}

/// Emptied by `close`, which waits until no read holds it: then the descriptor is closed.
struct Handle {
    name: String,
    stop: Arc<Stop>,
    tun: RwLock<Option<core::Tun>>,
}

#[napi]
impl Tun {
    /// Attaches to the TUN `device`, making it where it is missing.
    #[napi(constructor)]
    pub fn new(device: String) -> Result<Self> {
        let failed = |error: io::Error| reason(&error, "attach tun", &device);
        let stop = Arc::new(Stop::new().map_err(failed)?);
        let tun = core::Tun::open_plain(&device, Arc::clone(&stop)).map_err(failed)?;
        let handle = Handle {
            name: device,
            stop,
            tun: RwLock::new(Some(tun)),
        };
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// The next packet that the kernel routes into the device; null after `close`.
    #[napi]
    pub async fn read(&self) -> Result<Option<Buffer>> {
        let handle = Arc::clone(&self.handle);
        let read = tokio::task::spawn_blocking(move || handle.read()).await;
        let packet = read.map_err(|error| Error::from_reason(error.to_string()))?;
        packet
            .map(|packet| packet.map(Buffer::from))
            .map_err(|error| reason(&error, "read tun", &self.handle.name))
    }

    /// Hands the host a packet. EIO: the device is down.
    #[napi]
    pub fn write(&self, packet: Uint8Array) -> Result<()> {
        let vnet = virtio::VnetHeader::default().encode();
        self.handle
            .with(|tun| tun.write(&[IoSlice::new(&vnet), IoSlice::new(&packet)]))
            .map_err(|error| reason(&error, "write tun", &self.handle.name))
    }

    /// Makes the device outlive this handle.
    #[napi]
    pub fn persist(&self) -> Result<()> {
        self.handle
            .with(core::Tun::persist)
            .map_err(|error| reason(&error, "persist tun", &self.handle.name))
    }

    /// Ends `read` and closes the descriptor before it returns. May be called twice.
    #[napi]
    pub fn close(&self) {
        self.handle.close();
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.handle.close();
    }
}

impl Handle {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let guard = self.tun.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tun) = guard.as_ref() else {
            return Ok(None);
        };
        let mut buffer = vec![0; virtio::HEADER_LEN + usize::from(u16::MAX)];
        while !tun.stopped() {
            match tun.read(&mut buffer) {
                Ok(len) => {
                    buffer.truncate(len);
                    return Ok(Some(buffer.split_off(virtio::HEADER_LEN.min(len))));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if tun.wait_readable()? == Wake::Stopped {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn with(&self, call: impl FnOnce(&core::Tun) -> io::Result<()>) -> io::Result<()> {
        let guard = self.tun.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || io::Error::from_raw_os_error(9); // EBADF
        guard.as_ref().map_or_else(|| Err(closed()), call)
    }

    fn close(&self) {
        self.stop.request();
        self.tun
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn reason(error: &io::Error, operation: &str, device: &str) -> Error {
    Error::from_reason(CoreError::from_io(error, format!("{operation} {device}")).to_string())
}
