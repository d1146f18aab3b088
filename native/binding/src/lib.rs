//! The border to JavaScript: handles and conversions, no decisions.
#![cfg_attr(
    test,
    allow(dead_code, reason = "a test build leaves out the Node-API exports")
)]

mod bench;
mod certificate;
mod checksum;
mod claim;
mod engine;
mod firewall;
mod handover;
mod netlink;
mod notify;
mod probe;
mod tun;
mod value;
