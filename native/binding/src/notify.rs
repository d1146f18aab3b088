//! Service notifications.
use flannel_lite_core::notify as core;
use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::handover::NamedDescriptor;
use crate::value::reason;

/// Sends one datagram to the systemd notification socket `path` (`@` first: abstract).
#[napi]
pub fn notify(path: String, message: String) -> Result<()> {
    core::notify(&path, &message).map_err(reason)
}

/// As `notify`, with `MONOTONIC_USEC=` and the time behind `message`.
#[napi]
pub fn notify_timed(path: String, message: String) -> Result<()> {
    core::notify_timed(&path, &message).map_err(reason)
}

/// As `notify`, with a copy of each descriptor in a message of its own, which ends in `FDNAME=` and its name.
#[napi]
pub fn notify_descriptors(
    path: String,
    message: String,
    descriptors: Vec<NamedDescriptor>,
) -> Result<()> {
    for NamedDescriptor { name, number } in descriptors {
        core::notify_with(&path, &format!("{message}\nFDNAME={name}"), &[number])
            .map_err(reason)?;
    }
    Ok(())
}

/// Waits until the manager has handled what was sent before.
#[napi]
pub fn notify_barrier(path: String) -> Result<()> {
    core::barrier(&path).map_err(reason)
}
