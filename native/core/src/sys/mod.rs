//! The system-call edge: the only place with `unsafe`.
pub mod burst;
pub mod clock;
pub mod control;
pub mod ethtool;
pub mod handed;
pub mod peer;
pub mod poll;
pub mod rights;
pub mod thread;
pub mod tun;
pub mod udp;
pub mod xtables;

use std::ffi::c_int;
use std::io;

/// The error behind a system call's -1, or its result.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
