//! Waiting for descriptors, and the signal that ends all waiting.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;
use crate::port::{Poller, Ports, Wake};

/// Wakes whoever waits for it, now or next time.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// One that has not happened.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two numbers and touches no memory of ours.
        let event = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(event) }))
    }

    /// Makes it happen; repeating that changes nothing.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: write reads the eight bytes of `one`, which outlives the call. It can only fail when the
        // counter is full, and then it is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it not have happened.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: read writes the eight bytes of `count`, which outlives the call. It fails when there is nothing
        // to clear.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Ends the waits of every thread that shares it.
#[derive(Debug)]
pub struct Stop {
    event: Event,
    requested: AtomicBool,
}

impl Stop {
    /// A signal not yet given.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: Event::new()?,
            requested: AtomicBool::new(false),
        })
    }

    /// Gives the signal; repeating it changes nothing.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.event.signal();
    }

    /// Takes the signal back, once nobody waits any more.
    pub fn reset(&self) {
        self.event.clear();
        self.requested.store(false, Ordering::Release);
    }

    /// Whether the signal was given.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until `fd` has `events` (or an error), the signal is given or `timeout_ms` are over (-1: never).
    pub fn wait(&self, fd: BorrowedFd<'_>, events: i16, timeout_ms: i32) -> io::Result<Wake> {
        let mut entries = [entry(self.event.0.as_fd(), libc::POLLIN), entry(fd, events)];
        match wait(&mut entries, timeout_ms)? {
            _ if self.requested() => Ok(Wake::Stopped),
            0 => Ok(Wake::TimedOut),
            _ => Ok(Wake::Ready),
        }
    }
}

/// What one packet thread waits for: its ports (a TUN `T` and sockets `U`), a nudge from the other thread and the end.
#[derive(Debug)]
pub struct PortPoller<T, U> {
    tun: Arc<T>,
    udp: Arc<U>,
    stop: Arc<Stop>,
    nudge: Arc<Event>,
}

impl<T: AsFd, U: AsFd> PortPoller<T, U> {
    /// For the thread that `nudge` is meant for.
    pub fn new(tun: &Arc<T>, udp: &Arc<U>, stop: &Arc<Stop>, nudge: &Arc<Event>) -> Self {
        Self {
            tun: Arc::clone(tun),
            udp: Arc::clone(udp),
            stop: Arc::clone(stop),
            nudge: Arc::clone(nudge),
        }
    }
}

impl<T: AsFd, U: AsFd> Poller for PortPoller<T, U> {
    fn poll(&self, ports: Ports, sleep: bool) -> io::Result<Ports> {
        let mut entries = [
            self.tun.as_fd(),
            self.udp.as_fd(),
            self.nudge.0.as_fd(),
            self.stop.event.0.as_fd(),
        ]
        .map(|fd| entry(fd, libc::POLLIN));
        for (entry, wanted) in entries.iter_mut().zip([ports.tun, ports.udp]) {
            if !wanted {
                entry.fd = -1; // The kernel passes over it.
            }
        }
        wait(&mut entries, if sleep { -1 } else { 0 })?;
        let [tun, udp, nudge, _] = entries.map(|entry| entry.revents != 0);
        if nudge {
            self.nudge.clear();
        }
        Ok(Ports { tun, udp })
    }
}

fn entry(fd: BorrowedFd<'_>, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }
}

/// poll(2), begun anew when a signal ends it.
fn wait(entries: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<usize> {
    loop {
        // SAFETY: poll reads and writes the entries, which outlive the call.
        let ready = unsafe {
            libc::poll(
                entries.as_mut_ptr(),
                entries.len() as libc::nfds_t,
                timeout_ms,
            )
        };
        match check(ready) {
            Ok(count) => return Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_a_wait_that_would_never_end() {
        let (stop, quiet) = (Stop::new().unwrap(), Stop::new().unwrap());
        let quiet = quiet.event.0.as_fd();
        assert_eq!(stop.wait(quiet, libc::POLLIN, 0).unwrap(), Wake::TimedOut);
        assert_eq!(stop.wait(quiet, libc::POLLOUT, -1).unwrap(), Wake::Ready);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.wait(quiet, libc::POLLIN, -1).unwrap());
            stop.request();
            stop.request();
            assert_eq!(waiting.join().unwrap(), Wake::Stopped);
        });
        assert!(stop.requested());
        stop.reset();
        assert_eq!(stop.wait(quiet, libc::POLLIN, 0).unwrap(), Wake::TimedOut);
    }
}
