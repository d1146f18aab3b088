//! Service notifications (sd_notify(3)): one datagram to the socket that the service manager names.
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::error::Error;

/// Sends `message` to the unix datagram socket `path`; `@` first means the abstract namespace. Never
/// waits: EAGAIN where the receiver's queue is full, ENOENT or ECONNREFUSED where nobody listens.
pub fn notify(path: &str, message: &str) -> Result<(), Error> {
    let failed = |error| Error::from_io(&error, format!("notify {path}"));
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
    .map_err(failed)?;
    let socket = UnixDatagram::unbound().map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket
        .send_to_addr(message.as_bytes(), &address)
        .map_err(failed)?;
    Ok(())
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
}
