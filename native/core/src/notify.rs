//! Service notifications (sd_notify(3)): datagrams to the socket that the service manager names.
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use crate::error::Error;
use crate::sys::{clock, rights};

/// The service manager has handled all that was sent before within this time.
const BARRIER_WAIT_MS: i32 = 2_000;

/// Sends `message` to the unix datagram socket `path`; `@` first means the abstract namespace. Never
/// waits: EAGAIN where the receiver's queue is full, ENOENT or ECONNREFUSED where nobody listens.
pub fn notify(path: &str, message: &str) -> Result<(), Error> {
    notify_with(path, message, &[])
}

/// As `notify`, with the time behind `message` by which the manager orders what it asks for and what we do.
pub fn notify_timed(path: &str, message: &str) -> Result<(), Error> {
    let now = clock::monotonic_us();
    notify(path, &format!("{message}\nMONOTONIC_USEC={now}"))
}

/// As `notify`, with copies of descriptors: `FDSTORE=1` lets the manager keep them for our next run.
pub fn notify_with(path: &str, message: &str, descriptors: &[RawFd]) -> Result<(), Error> {
    let failed = |error| Error::from_io(&error, format!("notify {path}"));
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
    .map_err(failed)?;
    let socket = UnixDatagram::unbound().map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.connect_addr(&address).map_err(failed)?;
    rights::send(socket.as_fd(), message.as_bytes(), descriptors).map_err(failed)?;
    Ok(())
}

/// Waits until the manager has handled what was sent before (sd_notify_barrier(3)). ETIMEDOUT: it did not.
pub fn barrier(path: &str) -> Result<(), Error> {
    let failed = |error| Error::from_io(&error, format!("notify {path} and wait"));
    let (here, there) = UnixStream::pair().map_err(failed)?;
    notify_with(path, "BARRIER=1", &[there.as_raw_fd()])?;
    drop(there);
    rights::wait_closed(here.as_fd(), BARRIER_WAIT_MS).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_an_abstract_socket_as_one_datagram() {
        let name = format!("flannel-lite-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        notify(&format!("@{name}"), "READY=1\nSTATUS=up").unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=up");
    }

    #[test]
    fn a_timed_message_ends_in_the_time() {
        let name = format!("flannel-lite-timed-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        let before = clock::monotonic_us();
        notify_timed(&format!("@{name}"), "RELOADING=1").unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let time = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!((before..=clock::monotonic_us()).contains(&time.parse().unwrap()));
    }

    #[test]
    fn a_missing_or_impossible_socket_is_an_error_by_name() {
        assert!(
            notify("/nowhere/notify", "READY=1")
                .unwrap_err()
                .to_string()
                .starts_with("ENOENT: ")
        );
        assert!(
            notify(&"x".repeat(200), "READY=1")
                .unwrap_err()
                .to_string()
                .starts_with("EINVAL: ")
        );
    }

    #[test]
    fn a_barrier_is_passed_once_the_receiver_lets_go_of_what_it_got() {
        let name = format!("flannel-lite-barrier-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        let waiting = std::thread::spawn(move || barrier(&format!("@{name}")));
        let mut buffer = [0; 64];
        let (length, descriptors) = rights::receive(receiver.as_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], descriptors.len()),
            (&b"BARRIER=1"[..], 1)
        );
        assert!(!waiting.is_finished());
        drop(descriptors);
        waiting.join().unwrap().unwrap();
    }
}
