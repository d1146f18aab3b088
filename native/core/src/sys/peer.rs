//! Who is at the other end of a unix socket.
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::check;

/// A process as the kernel vouches for it (SO_PEERCRED, unix(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its process id, seen from our pid namespace; 0 from outside it.
    pub pid: i32,
    /// Its effective user when the connection was made.
    pub uid: u32,
}

/// The process that connected to, or that listens at, the other end.
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `len` bytes to `credentials`, which has that size and outlives the call.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut len,
        )
    })?;
    Ok(Peer {
        pid: credentials.pid,
        uid: credentials.uid,
    })
}

/// The effective user of this process.
pub fn own_uid() -> u32 {
    // SAFETY: geteuid only answers.
    unsafe { libc::geteuid() }
}

/// Makes this process the one that listens, which is whom `peer` tells of at the other end.
pub fn listen_again(listener: &UnixListener) -> io::Result<()> {
    // SAFETY: listen takes two numbers.
    check(unsafe { libc::listen(listener.as_raw_fd(), 128) })?;
    Ok(())
}
