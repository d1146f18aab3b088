//! Features of a network device that only ethtool's ioctl switches.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM (linux/ethtool.h).
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
/// SIOCETHTOOL (linux/sockios.h).
const ETHTOOL: libc::c_ulong = 0x8946;

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// struct ifreq as this call reads it: a name and a pointer, padded to the whole union's size.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    padding: [u64; 2],
}

/// Whether the kernel leaves checksums of what `device` sends to be finished further on. ENODEV: there is none.
pub fn tx_checksum(device: &str) -> io::Result<bool> {
    Ok(call(device, GET_TX_CHECKSUM, 0)? != 0)
}

/// Switches that, and with it what depends on it. ENODEV: there is no such device; EPERM: not CAP_NET_ADMIN.
pub fn set_tx_checksum(device: &str, on: bool) -> io::Result<()> {
    call(device, SET_TX_CHECKSUM, u32::from(on)).map(|_| ())
}

fn call(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        padding: [0; 2],
    };
    match request.name.get_mut(..device.len()) {
        Some(name) if device.len() < libc::IFNAMSIZ => name.copy_from_slice(device.as_bytes()),
        _ => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
    }
    // SAFETY: socket takes no pointers; its result is checked.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` and the `value` that it points to outlive the call, and both commands read and write no
    // more than a struct ethtool_value there.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) })?;
    Ok(value.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_or_cannot_be_is_enodev() {
        for name in ["fl-none", "a-name-that-is-too-long"] {
            let error = tx_checksum(name).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
    }

    #[test]
    fn every_kernel_finishes_what_loopback_sends_later() {
        assert!(tx_checksum("lo").unwrap());
    }
}
