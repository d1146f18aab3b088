//! Waiting for descriptors, and the signal that ends all waiting.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;
use crate::port::Wake;

/// Ends the waits of every thread that shares it, for good.
#[derive(Debug)]
pub struct Stop {
    event: OwnedFd,
    requested: AtomicBool,
}

impl Stop {
    /// A signal not yet given.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two numbers and touches no memory of ours.
        let event = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        Ok(Self {
            event,
            requested: AtomicBool::new(false),
        })
    }

    /// Gives the signal; repeating it changes nothing.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        let one = 1u64.to_ne_bytes();
        // SAFETY: write reads the eight bytes of `one`, which outlives the call. It can only fail when the
        // counter is full, and then it is readable already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Whether the signal was given.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until `fd` has `events` (or an error), the signal is given or `timeout_ms` are over (-1: never).
    pub fn wait(&self, fd: BorrowedFd<'_>, events: i16, timeout_ms: i32) -> io::Result<Wake> {
        let entry = |fd: i32, events: i16| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut entries = [
            entry(self.event.as_raw_fd(), libc::POLLIN),
            entry(fd.as_raw_fd(), events),
        ];
        loop {
            // SAFETY: poll reads and writes the two entries, which outlive the call.
            let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, timeout_ms) };
            match check(ready) {
                _ if self.requested() => return Ok(Wake::Stopped),
                Ok(0) => return Ok(Wake::TimedOut),
                Ok(_) => return Ok(Wake::Ready),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_request_ends_a_wait_that_would_never_end() {
        let (stop, quiet) = (Stop::new().unwrap(), Stop::new().unwrap());
        let quiet = quiet.event.as_fd();
        assert_eq!(stop.wait(quiet, libc::POLLIN, 0).unwrap(), Wake::TimedOut);
        assert_eq!(stop.wait(quiet, libc::POLLOUT, -1).unwrap(), Wake::Ready);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.wait(quiet, libc::POLLIN, -1).unwrap());
            stop.request();
            stop.request();
            assert_eq!(waiting.join().unwrap(), Wake::Stopped);
        });
        assert!(stop.requested());
    }
}
