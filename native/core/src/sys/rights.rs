//! Descriptors that travel over unix sockets (SCM_RIGHTS, unix(7)).
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;
use super::control::Ancillary;

/// Descriptors of one message at most: the claims, queues and sockets of two devices.
pub const DESCRIPTORS_MAX: usize = 28;

/// Room for them, with the header.
type Rights = Ancillary<128>;

/// Sends `bytes` with copies of `descriptors`, and gives how many bytes went. EBADF: one of them is not open;
/// EINVAL: they are too many.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let data: Vec<u8> = descriptors.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
    let mut control = Rights::EMPTY;
    if !data.is_empty() {
        control.push(libc::SOL_SOCKET, libc::SCM_RIGHTS, &data);
    }
    let mut piece = libc::iovec {
        // The kernel only reads through this pointer.
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut header = message(&mut piece);
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr();
        header.msg_controllen = control.len() as _;
    }
    // SAFETY: the header points to one iovec over `bytes` and to the control block, of the lengths given; all
    // outlive the call, which only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    length(sent)
}

/// Receives into `buffer`: how many bytes came, and the descriptors that came with them, which are ours to close.
/// They are not inherited by programs that we start. EMSGSIZE: more came than a message may have.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Rights::EMPTY;
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut header = message(&mut piece);
    header.msg_control = control.as_mut_ptr();
    header.msg_controllen = Rights::capacity() as _;
    // SAFETY: the header points to one iovec over `buffer` and to the control block, of the lengths given, both
    // exclusively ours; all outlive the call.
    let came = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
    let came = length(came)?;
    let mut descriptors = Vec::new();
    for (level, kind, data) in control.entries(header.msg_controllen) {
        if (level, kind) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            continue;
        }
        for bytes in data.chunks_exact(size_of::<RawFd>()) {
            let number = bytes.first_chunk().map_or(-1, |b| RawFd::from_ne_bytes(*b));
            if number >= 0 {
                // SAFETY: the kernel has just opened it for us, and nobody else knows it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    if header.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((came, descriptors))
}

fn message(piece: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    header
}

fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Waits up to `timeout_ms` until every copy of the other end of `stream` is closed. ETIMEDOUT: it was not.
pub fn wait_closed(stream: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<()> {
    let mut entry = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: poll reads and writes one entry, which outlives the call.
    match check(unsafe { libc::poll(&mut entry, 1, timeout_ms) })? {
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_as_one_of_our_own() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = UnixStream::pair().unwrap();
        send(here.as_fd(), b"hello", &[writer.as_raw_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (len, mut descriptors) = receive(there.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..len], descriptors.len()), (&b"hello"[..], 1));
        let descriptor = descriptors.pop().unwrap();
        // SAFETY: F_GETFD takes no argument.
        let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        std::fs::File::from(descriptor).write_all(b"x").unwrap();
        writer.write_all(b"y").unwrap();
        let mut both = [0; 2];
        reader.read_exact(&mut both).unwrap();
        assert_eq!(&both, b"xy");
    }

    #[test]
    fn as_many_as_fit_and_no_more() {
        let (here, there) = UnixStream::pair().unwrap();
        let own = here.as_raw_fd();
        send(here.as_fd(), b"x", &[own; DESCRIPTORS_MAX]).unwrap();
        let (_, descriptors) = receive(there.as_fd(), &mut [0; 4]).unwrap();
        assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
        let error = send(here.as_fd(), b"x", &[own; DESCRIPTORS_MAX + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let error = send(here.as_fd(), b"x", &[-1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_closed_end_is_noticed_and_an_open_one_is_not_waited_for_forever() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let error = wait_closed(reader.as_fd(), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        drop(writer);
        wait_closed(reader.as_fd(), 0).unwrap();
    }
}
