//! What flannel-lite needs from Linux: netlink and the packet path. Knows nothing of JavaScript.
pub mod bench;
pub mod certificate;
pub mod claim;
pub mod datapath;
pub mod error;
pub mod forward;
pub mod handover;
pub mod knock;
pub mod netlink;
pub mod notify;
pub mod port;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod wire;
