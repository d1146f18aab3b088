//! Whether a datagram arrives intact: a host answers one for a port that nobody has with "port unreachable".
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::error::Error;

/// A few bytes; what they are does not matter.
const PAYLOAD: [u8; 32] = [0; 32];

/// Sends one datagram and waits for what comes of it: true where the host has answered, be it that the port is
/// unreachable, which it only says of a datagram whose checksum is right. False after `wait`.
pub fn knock(address: IpAddr, port: u16, wait: Duration) -> Result<bool, Error> {
    let failed = |error| Error::from_io(&error, format!("knock on {address}"));
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(failed)?;
    socket.connect((address, port)).map_err(failed)?;
    socket.set_read_timeout(Some(wait)).map_err(failed)?;
    socket.send(&PAYLOAD).map_err(failed)?;
    match socket.recv(&mut [0; 1]) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(true),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::HostUnreachable => Ok(false),
            _ => Err(failed(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_nobody_has_answers_and_one_that_stays_silent_does_not() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(!knock(local, port, Duration::from_millis(20)).unwrap());
        drop(silent);
        assert!(knock(local, port, Duration::from_secs(5)).unwrap());
    }
}
