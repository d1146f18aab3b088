//! One owner for a name in a network namespace. The claim is an abstract unix socket: the kernel keeps such names
//! per network namespace, as it does devices, and frees them with the process, however it ends.
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::error::Error;
use crate::sys::peer::{self, Peer};

/// A name that is ours until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _listener: UnixListener,
}

/// How a claim went.
#[derive(Debug)]
pub enum Claimed {
    /// The name is ours.
    Ours(Claim),
    /// This process holds it.
    Taken(Peer),
}

/// Claims `name`, at most 100 bytes.
pub fn claim(name: &str) -> Result<Claimed, Error> {
    let failed = |error| Error::from_io(&error, format!("claim {name}"));
    let address = SocketAddr::from_abstract_name(format!("flannel-lite/{name}")).map_err(failed)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Claimed::Ours(Claim {
            _listener: listener,
        })),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let stream = UnixStream::connect_addr(&address).map_err(failed)?;
            Ok(Claimed::Taken(peer::peer(&stream).map_err(failed)?))
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_owner_and_is_free_when_dropped() {
        let name = format!("test-{}", std::process::id());
        let Claimed::Ours(first) = claim(&name).unwrap() else {
            panic!("nobody else has it");
        };
        let Claimed::Taken(holder) = claim(&name).unwrap() else {
            panic!("it is taken");
        };
        assert_eq!(holder.pid as u32, std::process::id());
        drop(first);
        assert!(matches!(claim(&name).unwrap(), Claimed::Ours(_)));
    }

    #[test]
    fn an_impossible_name_is_an_error() {
        assert!(
            claim(&"x".repeat(200))
                .unwrap_err()
                .to_string()
                .starts_with("EINVAL: ")
        );
    }
}
