//! The border to JavaScript: handles and conversions, no decisions.
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Names of all links of this network namespace.
#[napi]
pub async fn link_names() -> Result<Vec<String>> {
    flannel_lite_core::netlink::link_names().await.map_err(|error| Error::from_reason(error.to_string()))
}

/// Counts what a TUN device hands to userspace.
#[napi]
pub struct TunCounter {
    packets: Arc<AtomicU32>,
}

#[napi]
impl TunCounter {
    /// Opens the device and starts the thread that reads it.
    #[napi(constructor)]
    pub fn new(name: String) -> Result<Self> {
        let mut file = flannel_lite_core::sys::tun::open(&name).map_err(|error| Error::from_reason(error.to_string()))?;
        let packets = Arc::new(AtomicU32::new(0));
        let counted = packets.clone();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 65536];
            while file.read(&mut buffer).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { packets })
    }

    /// Packets read so far.
    #[napi(getter)]
    pub fn packets(&self) -> u32 {
        self.packets.load(Ordering::Relaxed)
    }
}
