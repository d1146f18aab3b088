//! Service notifications.
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Sends one datagram to the systemd notification socket `path` (`@` first: abstract).
#[napi]
pub fn notify(path: String, message: String) -> Result<()> {
    flannel_lite_core::notify::notify(&path, &message)
        .map_err(|error| Error::from_reason(error.to_string()))
}
