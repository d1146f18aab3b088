//! The system-call edge: the only place with `unsafe`.
pub mod tun;
