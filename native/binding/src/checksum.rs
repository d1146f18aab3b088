//! Who finishes the checksums of what a device sends, and whether packets arrive with them.
use std::time::Duration;

use flannel_lite_core::error::Error as CoreError;
use flannel_lite_core::knock as core;
use flannel_lite_core::sys::ethtool;
use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::task::spawn_blocking;

use crate::value::{self, reason};

/// Whether the kernel leaves checksums of what `device` sends to be finished further on.
#[napi]
pub fn tx_checksum(device: String) -> Result<bool> {
    ethtool::tx_checksum(&device)
        .map_err(|error| reason(CoreError::from_io(&error, format!("features of {device}"))))
}

/// Switches that.
#[napi]
pub fn set_tx_checksum(device: String, on: bool) -> Result<()> {
    ethtool::set_tx_checksum(&device, on)
        .map_err(|error| reason(CoreError::from_io(&error, format!("features of {device}"))))
}

/// Whether a host answers a datagram to a port of its within `wait_ms`.
#[napi]
pub async fn knock(address: String, port: u16, wait_ms: u32) -> Result<bool> {
    let target = value::address(&address)?;
    let wait = Duration::from_millis(u64::from(wait_ms.max(1)));
    spawn_blocking(move || core::knock(target, port, wait))
        .await
        .map_err(reason)?
        .map_err(reason)
}
