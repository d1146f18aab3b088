//! What flannel-lite needs from Linux: netlink and the packet path. Knows nothing of JavaScript.
pub mod netlink;
pub mod sys;
