//! Load and meters for the bench: UDP sent and counted, TCP round trips. IPv4; everything blocks its thread.
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::sys::burst;

/// So much may wait for a counter that gets no CPU, in bytes of the kernel's accounting.
const COUNTER_BUFFER_BYTES: i32 = 32 << 20;
/// Round trips that only warm up.
const WARM_UP: usize = 100;

/// What was offered.
#[derive(Clone, Copy, Debug)]
pub struct Blasted {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// From the first to the last.
    pub duration: Duration,
}

/// Sends datagrams of `payload_bytes` from one socket to `targets` in turn, as fast as they are taken.
pub fn blast(
    targets: &[SocketAddrV4],
    payload_bytes: usize,
    duration: Duration,
) -> io::Result<Blasted> {
    if targets.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let payload = vec![0x5a; payload_bytes];
    // The targets over and over, so that every burst is one slice of them.
    let around: Vec<_> = targets
        .iter()
        .cycle()
        .take(targets.len() + burst::BURST)
        .copied()
        .collect();
    let (started, mut sent, mut next) = (Instant::now(), 0, 0);
    while started.elapsed() < duration {
        match burst::send(&socket, &around[next..], &payload) {
            Ok(count) => {
                sent += count as u64;
                next = (next + count) % targets.len();
            }
            // A full device queue, or the answer to an earlier one.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Blasted {
        sent,
        duration: started.elapsed(),
    })
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR))
        || error.kind() == io::ErrorKind::ConnectionRefused
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Datagrams.
    pub packets: u64,
    /// From the first batch to the last.
    pub duration: Duration,
}

/// A socket that counts what is sent to any address of this host.
#[derive(Debug)]
pub struct Counter {
    socket: UdpSocket,
}

impl Counter {
    /// Binds it.
    pub fn open(port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        burst::grow_receive_buffer(&socket, COUNTER_BUFFER_BYTES)?;
        Ok(Self { socket })
    }

    /// Counts until nothing has come for `idle`; for the first one it waits as long as `first`.
    pub fn count(&self, first: Duration, idle: Duration) -> io::Result<Counted> {
        let mut counted = Counted::default();
        let mut first_at = None;
        self.socket.set_read_timeout(Some(first))?;
        loop {
            match burst::drain(&self.socket) {
                Ok(count) => {
                    let now = Instant::now();
                    if first_at.is_none() {
                        self.socket.set_read_timeout(Some(idle))?;
                    }
                    counted.packets += count as u64;
                    counted.duration = now - *first_at.get_or_insert(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(counted),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Answers one TCP connection byte for byte until it ends.
pub fn echo(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Sends single bytes to an [`echo`], each after the answer to the one before. Returns how long each took.
pub fn round_trips(target: SocketAddrV4, duration: Duration) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut byte = [0];
    let mut trip = || {
        let started = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut byte)?;
        Ok::<_, io::Error>(started.elapsed())
    };
    for _ in 0..WARM_UP {
        trip()?;
    }
    let started = Instant::now();
    let mut trips = vec![];
    while started.elapsed() < duration {
        trips.push(trip()?);
    }
    Ok(trips)
}

/// The value below which the share `part` (0 to 1) of `trips` lies; zero where there is none. Sorts them.
pub fn percentile(trips: &mut [Duration], part: f64) -> Duration {
    trips.sort_unstable();
    let at = (trips.len() as f64 * part) as usize;
    trips
        .get(at.min(trips.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn what_is_blasted_is_counted() {
        let counter = Counter::open(0).unwrap();
        let port = counter.socket.local_addr().unwrap().port();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let blasted = blast(&[target; 3], 64, Duration::from_millis(1)).unwrap();
        let counted = counter
            .count(Duration::from_secs(5), Duration::from_millis(10))
            .unwrap();
        assert!(blasted.sent >= burst::BURST as u64);
        assert_eq!(counted.packets, blasted.sent);
    }

    #[test]
    fn nothing_counted_is_an_answer_and_no_target_an_error() {
        let counter = Counter::open(0).unwrap();
        let short = Duration::from_millis(1);
        assert_eq!(counter.count(short, short).unwrap().packets, 0);
        assert!(blast(&[], 64, short).is_err());
    }

    #[test]
    fn every_byte_comes_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(target) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4");
        };
        std::thread::scope(|scope| {
            let echoing = scope.spawn(|| echo(&listener));
            let trips = round_trips(target, Duration::from_millis(1)).unwrap();
            assert!(!trips.is_empty());
            echoing.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut trips: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&mut trips, 0.5), Duration::from_micros(51));
        assert_eq!(percentile(&mut trips, 1.0), Duration::from_micros(100));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
