//! One owner for a name in a network namespace. The claim is an abstract unix socket: the kernel keeps such names
//! per network namespace, as it does devices, and frees them with the process, however it ends.
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use crate::error::Error;
use crate::sys::peer::{self, Peer};

/// Goes on with the claim of `name` that its holder handed to us. Whoever asks is told of us from now on.
///
/// Errors: EBADF it is the claim of something else.
pub fn adopt(name: &str, fd: OwnedFd) -> Result<Claim, Error> {
    let failed = |error| Error::from_io(&error, format!("take over the claim {name}"));
    let listener = UnixListener::from(fd);
    let bound = listener.local_addr().map_err(failed)?;
    if bound.as_abstract_name() != Some(full_name(name).as_bytes()) {
        return Err(Error::new(
            libc::EBADF,
            format!("take over the claim {name}"),
        ));
    }
    // The kernel notes who listens when it is told to.
    peer::listen_again(&listener).map_err(failed)?;
    Ok(Claim { listener })
}

fn full_name(name: &str) -> String {
    format!("flannel-lite/{name}")
}

/// A name that is ours until this is dropped.
#[derive(Debug)]
pub struct Claim {
    listener: UnixListener,
}

impl Claim {
    /// Its number, for handing it over.
    pub fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
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
    let address = SocketAddr::from_abstract_name(full_name(name)).map_err(failed)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Claimed::Ours(Claim { listener })),
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

    #[test]
    fn a_claim_handed_over_is_never_free_and_one_of_another_name_is_refused() {
        let name = format!("test-handed-{}", std::process::id());
        let Claimed::Ours(first) = claim(&name).unwrap() else {
            panic!("nobody else has it");
        };
        let copy = || first.listener.try_clone().unwrap().into();
        let error = adopt("test-other", copy()).unwrap_err().to_string();
        assert!(error.starts_with("EBADF: "), "{error}");
        let second = adopt(&name, copy()).unwrap();
        drop(first);
        assert!(matches!(claim(&name).unwrap(), Claimed::Taken(_)));
        drop(second);
        assert!(matches!(claim(&name).unwrap(), Claimed::Ours(_)));
    }
}
