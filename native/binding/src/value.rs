//! Values as JavaScript writes them, and errors as it reads them.
use std::fmt::Display;
use std::net::IpAddr;

use flannel_lite_core::datapath::driver::Latency;
use flannel_lite_core::forward::prefix::Prefix;
use flannel_lite_core::sys::udp::Layout;
use napi::bindgen_prelude::*;

/// Reads an IP address.
pub fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| invalid("address", text))
}

pub fn prefixes(texts: &[String]) -> Result<Vec<Prefix>> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|()| invalid("prefix", text)))
        .collect()
}

pub fn mac(text: &str) -> Result<[u8; 6]> {
    let byte = |part: &str| {
        u8::from_str_radix(part, 16)
            .ok()
            .filter(|_| part.len() == 2)
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid("mac", text))
}

pub fn optional_mac(text: Option<&str>) -> Result<[u8; 6]> {
    text.map_or(Ok([0; 6]), mac)
}

pub fn latency(text: Option<&str>) -> Result<Latency> {
    text.map_or(Ok(Latency::default()), |text| {
        text.parse().map_err(|()| invalid("latency", text))
    })
}

/// The sockets of an encapsulation.
pub fn layout(encapsulation: Option<&str>) -> Result<Layout> {
    match encapsulation {
        None | Some("vxlan") => Ok(Layout::Spread),
        Some("udp") => Ok(Layout::Single),
        Some("ipip") => Ok(Layout::Raw),
        Some(other) => Err(invalid("encapsulation", other)),
    }
}

pub fn invalid(what: &str, value: &str) -> Error {
    Error::from_reason(format!("EINVAL: {what} {value}"))
}

/// The text by which the other side tells failures apart.
pub fn reason(error: impl Display) -> Error {
    Error::from_reason(error.to_string())
}
