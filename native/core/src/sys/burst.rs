//! Small datagrams by the batch, sent and counted: what the bench loads an overlay with.
use std::ffi::c_int;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use super::check;

/// Datagrams of one system call.
pub const BURST: usize = 64;

/// Sends `payload` once to each of the first [`BURST`] targets, waiting for room. Returns how many went.
pub fn send(socket: &UdpSocket, targets: &[SocketAddrV4], payload: &[u8]) -> io::Result<usize> {
    // The kernel only reads through this pointer.
    let mut iovec = libc::iovec {
        iov_base: payload.as_ptr().cast_mut().cast(),
        iov_len: payload.len(),
    };
    // SAFETY: sockaddr_in is plain data for which all zeroes is a valid value.
    let mut names: [libc::sockaddr_in; BURST] = unsafe { std::mem::zeroed() };
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
    let mut headers: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((target, name), header) in targets.iter().zip(&mut names).zip(&mut headers) {
        name.sin_family = libc::AF_INET as _;
        name.sin_port = target.port().to_be();
        name.sin_addr.s_addr = u32::from(*target.ip()).to_be();
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as _;
        header.msg_hdr.msg_iov = &raw mut iovec;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: the first `count` headers point to names and to the one iovec, whose bytes the kernel only reads;
    // all outlive the call, and it writes only `msg_len` of the headers.
    let sent = check(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, 0) })?;
    Ok(sent as usize)
}

/// Takes up to [`BURST`] datagrams and drops them; waits for the first as long as the socket's read timeout says.
/// Returns how many there were.
pub fn drain(socket: &UdpSocket) -> io::Result<usize> {
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value; without a buffer the kernel drops the
    // whole datagram.
    let mut headers: [libc::mmsghdr; BURST] = unsafe { std::mem::zeroed() };
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_WAITFORONE);
    // SAFETY: the headers name no buffers; they outlive the call.
    let taken = check(unsafe {
        libc::recvmmsg(
            fd,
            headers.as_mut_ptr(),
            BURST as _,
            flags as _,
            std::ptr::null_mut(),
        )
    })?;
    Ok(taken as usize)
}

/// Asks for a receive buffer of `bytes`, beyond the system's limit where we may.
pub fn grow_receive_buffer(socket: &UdpSocket, bytes: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    let set = |option: c_int| {
        // SAFETY: setsockopt reads the int, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                len,
            )
        })
    };
    set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::*;

    fn bound() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else {
            panic!("bound to IPv4");
        };
        (socket, address)
    }

    #[test]
    fn a_burst_goes_to_each_target_in_turn_and_at_most_its_length() {
        let ((sender, _), (one, to_one), (two, to_two)) = (bound(), bound(), bound());
        grow_receive_buffer(&one, 1 << 20).unwrap();
        let targets: Vec<_> = [to_one, to_two].into_iter().cycle().take(100).collect();
        assert_eq!(send(&sender, &targets, &[7; 64]).unwrap(), BURST);
        assert_eq!(
            (drain(&one).unwrap(), drain(&two).unwrap()),
            (BURST / 2, BURST / 2)
        );
        assert_eq!(drain(&one).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
