//! Legacy iptables, which sends no notifications: the shape of a table, by one system call.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

use super::check;

/// IPT_SO_GET_INFO and IP6T_SO_GET_INFO (linux/netfilter_ipv4/ip_tables.h).
const GET_INFO: c_int = 64;
/// XT_TABLE_MAXNAMELEN, terminator included.
const NAME_LEN: usize = 32;

/// Internet protocol versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// iptables.
    Ipv4,
    /// ip6tables.
    Ipv6,
}

/// Where each hook's rules begin and end in a table, and how many and how long all are (struct ipt_getinfo).
/// Two different tables may have the same shape: a rule replaced by one of the same length.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableShape {
    name: [u8; NAME_LEN],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    /// Number of entries, the chains' ends included.
    pub entries: u32,
    /// Their length in bytes.
    pub bytes: u32,
}

/// The shape of `table` in the network namespace of the thread. The kernel makes a table that is asked for;
/// ENOENT where it cannot, EINVAL for a name that is too long.
pub fn table_shape(family: Family, table: &str) -> io::Result<TableShape> {
    let (domain, level) = match family {
        Family::Ipv4 => (libc::AF_INET, libc::SOL_IP),
        Family::Ipv6 => (libc::AF_INET6, libc::SOL_IPV6),
    };
    let mut shape = TableShape {
        name: [0; NAME_LEN],
        valid_hooks: 0,
        hook_entry: [0; 5],
        underflow: [0; 5],
        entries: 0,
        bytes: 0,
    };
    match shape.name.get_mut(..table.len()) {
        Some(name) if table.len() < NAME_LEN => name.copy_from_slice(table.as_bytes()),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
    // SAFETY: socket takes no pointers; its result is checked.
    let fd = check(unsafe {
        libc::socket(
            domain,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_RAW,
        )
    })?;
    // SAFETY: `fd` was just opened and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut len = size_of::<TableShape>() as libc::socklen_t;
    // SAFETY: getsockopt reads and writes at most `len` bytes of `shape`, which has that size, is plain integers
    // without padding, and outlives the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            GET_INFO,
            (&raw mut shape).cast(),
            &mut len,
        )
    })?;
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<TableShape>(), 84);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        for name in ["x".repeat(32), "x".repeat(500)] {
            let error = table_shape(Family::Ipv4, &name).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
