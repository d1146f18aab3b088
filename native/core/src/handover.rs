//! Passing TUN queues, sockets and the claim of a device to the next process, so that packets wait in the kernel
//! meanwhile: through systemd's descriptor store, or straight from the running daemon to its successor.
//!
//! A take-over is one connection. The successor says `take over`, the daemon answers `yes` with descriptors and
//! their names, or `no` with the reason; the successor says `ok` and waits for the end, by which the daemon has let
//! go of its own copies.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::error::Error;
use crate::port::Wake;
use crate::sys::peer::{self, Peer};
use crate::sys::poll::Stop;
use crate::sys::udp::Layout;
use crate::sys::{handed, rights, tun, udp};

/// Names of one engine's descriptors, by which both sides know them.
pub mod name {
    /// The TUN queue of `device`.
    pub fn tun(device: &str) -> String {
        format!("{device}-tun")
    }

    /// The socket that receives.
    pub fn receiver(device: &str) -> String {
        format!("{device}-udp-receive")
    }

    /// A socket that sends.
    pub fn sender(device: &str, number: usize) -> String {
        format!("{device}-udp-send-{number}")
    }

    /// Whether an engine on `device` gives this name.
    pub fn is_of(name: &str, device: &str) -> bool {
        name == tun(device)
            || name == receiver(device)
            || (0..super::udp::SENDERS).any(|number| name == sender(device, number))
    }

    /// The claim of the device.
    pub fn claim(device: &str) -> String {
        format!("{device}-claim")
    }
}

/// Each step of a take-over that the other side is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// The longest message: the names of all descriptors.
const MESSAGE_BYTES: usize = 2048;
const ASK: &[u8] = b"take over\n";
const CONFIRM: &[u8] = b"ok\n";

/// A descriptor that is not used, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// What it was called.
    pub name: String,
    /// Why.
    pub reason: &'static str,
}

/// Descriptors that another process handed down, by name. Nothing is believed of them before `verify`.
#[derive(Debug, Default)]
pub struct Descriptors(Mutex<Vec<(String, OwnedFd)>>);

impl Descriptors {
    /// Those that systemd passed to this process, in the order of `names`. None the second time.
    pub fn inherited(names: &[String]) -> Self {
        let taken = handed::inherited(names.len().min(64)).into_iter();
        let named = taken.filter_map(|(at, fd)| Some((names.get(at)?.clone(), fd)));
        Self(Mutex::new(named.collect()))
    }

    /// What there is.
    pub fn names(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Takes one out.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(one, _)| one == name)?;
        Some(all.swap_remove(at).1)
    }

    /// Closes what belongs to none of `devices`, and tells it.
    pub fn keep_only(&self, devices: &[String]) -> Vec<Refused> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, rest) = std::mem::take(&mut *all)
            .into_iter()
            .partition(|(name, _)| devices.iter().any(|device| name::is_of(name, device)));
        *all = kept;
        let refused = rest.into_iter().map(|(name, _)| Refused {
            name,
            reason: "nothing here has this name",
        });
        refused.collect()
    }

    /// Of what belongs to `device`, closes what an engine with these options could not go on with, and tells it.
    pub fn verify(&self, device: &str, local: IpAddr, port: u16, layout: Layout) -> Vec<Refused> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for (name, fd) in std::mem::take(&mut *all) {
            let verdict = if !self::name::is_of(&name, device) {
                Ok(())
            } else if kept.iter().any(|(one, _)| *one == name) {
                Err("there is another one of this name")
            } else if name == self::name::tun(device) {
                tun::check_handed(fd.as_fd(), device)
            } else if name == self::name::receiver(device) {
                udp::check_receiver(fd.as_fd(), local, port, layout)
            } else if layout != Layout::Spread {
                Err("nothing here has this name")
            } else {
                udp::check_sender(fd.as_fd(), local)
            };
            match verdict {
                Ok(()) => kept.push((name, fd)),
                Err(reason) => refused.push(Refused { name, reason }),
            }
        }
        *all = kept;
        refused
    }

    /// Closes all of them.
    pub fn close(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Where a running daemon waits for its successor. The socket vanishes with it, unless it was handed over.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
    stop: Stop,
    visitor: Mutex<Option<UnixStream>>,
    handed_over: Mutex<bool>,
}

impl Door {
    /// Listens at `path`, in a directory that only we can enter; a socket that is there is taken for a leftover.
    pub fn open(path: &str) -> Result<Self, Error> {
        let failed = |error| Error::from_io(&error, format!("listen at {path}"));
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener,
            path: Path::new(path).to_owned(),
            stop: Stop::new().map_err(failed)?,
            visitor: Mutex::default(),
            handed_over: Mutex::default(),
        })
    }

    /// The next process of our own user that asks; none after `close`. Others are sent away without an answer.
    pub fn next(&self) -> Result<Option<Peer>, Error> {
        let failed = |error| Error::from_io(&error, "wait for a successor");
        loop {
            if self
                .stop
                .wait(self.listener.as_fd(), libc::POLLIN, -1)
                .map_err(failed)?
                == Wake::Stopped
            {
                return Ok(None);
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(failed(error)),
            };
            if let Ok(peer) = greet(&stream) {
                *self.visitor() = Some(stream);
                return Ok(Some(peer));
            }
        }
    }

    /// Tells whoever asked why not.
    pub fn refuse(&self, reason: &str) {
        if let Some(mut stream) = self.visitor().take() {
            // Whoever has gone needs no answer.
            let _ = stream.write_all(format!("no {}\n", one_line(reason)).as_bytes());
        }
    }

    /// Hands copies of the descriptors to whoever asked. False: it did not confirm, and all stays as it was.
    /// After true it waits for `close`.
    pub fn grant(&self, descriptors: &[(String, RawFd)]) -> Result<bool, Error> {
        let failed = |error| Error::from_io(&error, "hand over");
        let Some(mut stream) = self.visitor().take() else {
            return Ok(false);
        };
        let names: Vec<_> = descriptors.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("yes {}\n", names.join(" "));
        let numbers: Vec<_> = descriptors.iter().map(|(_, fd)| *fd).collect();
        if message.len() > MESSAGE_BYTES {
            return Err(Error::invalid("hand over", "too many descriptors"));
        }
        match rights::send(stream.as_fd(), message.as_bytes(), &numbers) {
            Ok(sent) if sent == message.len() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let mut answer = [0; CONFIRM.len()];
        let confirmed = stream.read_exact(&mut answer).is_ok() && answer == CONFIRM;
        if confirmed {
            *self.visitor() = Some(stream);
            *self
                .handed_over
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = true;
        }
        Ok(confirmed)
    }

    /// Ends `next`, and lets a successor go on. May be called twice.
    pub fn close(&self) {
        self.stop.request();
        if let Some(stream) = self.visitor().take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let mut handed_over = self
            .handed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !*handed_over {
            // The path is the successor's otherwise.
            let _ = std::fs::remove_file(&self.path);
        }
        *handed_over = true;
    }

    fn visitor(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.visitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes sure that it is one of ours, and that it wants what we can do.
fn greet(mut stream: &UnixStream) -> io::Result<Peer> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    let peer = own_peer(stream)?;
    let mut asked = [0; ASK.len()];
    stream.read_exact(&mut asked)?;
    if asked == ASK {
        Ok(peer)
    } else {
        Err(ErrorKind::InvalidData.into())
    }
}

fn own_peer(stream: &UnixStream) -> io::Result<Peer> {
    let peer = peer::peer(stream)?;
    if peer.uid == peer::own_uid() {
        Ok(peer)
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// What a daemon answered.
#[derive(Debug)]
pub enum Answer {
    /// It has let go of these.
    Granted(Descriptors),
    /// It goes on, for this reason.
    Refused(String),
}

/// Asks the daemon behind `path` for what it holds.
///
/// Errors: ENOENT or ECONNREFUSED nobody is there; EPERM another user is; EAGAIN it does not answer; EPROTO it
/// answers nonsense. After an error the other has what it had, unless it was about to end.
pub fn take_over(path: &str) -> Result<Answer, Error> {
    let failed = |error| Error::from_io(&error, format!("take over from {path}"));
    let nonsense = || Error::new(libc::EPROTO, format!("take over from {path}"));
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    own_peer(&stream).map_err(failed)?;
    // It may have to wait for the visitor before us.
    stream
        .set_read_timeout(Some(ANSWER_WAIT * 3))
        .map_err(failed)?;
    stream
        .set_write_timeout(Some(ANSWER_WAIT))
        .map_err(failed)?;
    stream.write_all(ASK).map_err(failed)?;
    let mut buffer = [0; MESSAGE_BYTES];
    let (len, descriptors) = rights::receive(stream.as_fd(), &mut buffer).map_err(failed)?;
    let text = buffer
        .get(..len)
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text
        .and_then(|text| text.strip_suffix('\n'))
        .ok_or_else(nonsense)?;
    if let Some(reason) = text.strip_prefix("no ") {
        return Ok(Answer::Refused(reason.to_owned()));
    }
    let names: Vec<_> = text
        .strip_prefix("yes ")
        .ok_or_else(nonsense)?
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    if names.len() != descriptors.len() {
        return Err(nonsense());
    }
    stream.write_all(CONFIRM).map_err(failed)?;
    // The end says that it reads no more and has closed its copies; that it is slow to do so changes nothing.
    let _ = stream.read(&mut buffer);
    let all = names.into_iter().zip(descriptors).collect();
    Ok(Answer::Granted(Descriptors(Mutex::new(all))))
}

fn one_line(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MESSAGE_BYTES / 8).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn path(label: &str) -> String {
        let name = format!("flannel-lite-door-{label}-{}", std::process::id());
        std::env::temp_dir().join(name).to_str().unwrap().to_owned()
    }

    #[test]
    fn descriptors_pass_by_name_and_the_old_copies_are_closed_before_the_new_ones_are_used() {
        let path = path("pass");
        let door = Arc::new(Door::open(&path).unwrap());
        let asking = thread::spawn({
            let path = path.clone();
            move || take_over(&path)
        });
        let visitor = door.next().unwrap().unwrap();
        assert_eq!(visitor.pid as u32, std::process::id());
        let (mut reader, writer) = UnixStream::pair().unwrap();
        assert!(
            door.grant(&[("a-tun".to_owned(), writer.as_raw_fd())])
                .unwrap()
        );
        assert!(!asking.is_finished());
        drop(writer);
        door.close();
        let Answer::Granted(descriptors) = asking.join().unwrap().unwrap() else {
            panic!("refused");
        };
        assert_eq!(descriptors.names(), ["a-tun"]);
        assert!(descriptors.take("b-tun").is_none());
        drop(descriptors.take("a-tun").unwrap());
        assert!(descriptors.take("a-tun").is_none());
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        assert!(Path::new(&path).exists(), "the path is the successor's now");
        Door::open(&path).unwrap().close();
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn a_refusal_says_why_and_the_door_stays_open() {
        let path = path("refuse");
        let door = Door::open(&path).unwrap();
        for _ in 0..2 {
            let asking = thread::spawn({
                let path = path.clone();
                move || take_over(&path)
            });
            door.next().unwrap().unwrap();
            door.refuse("not\nyet");
            let answer = asking.join().unwrap().unwrap();
            assert!(matches!(answer, Answer::Refused(why) if why == "not yet"));
        }
    }

    #[test]
    fn a_successor_that_dies_before_it_confirms_has_taken_nothing() {
        let path = path("die");
        let door = Door::open(&path).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(ASK).unwrap();
        door.next().unwrap().unwrap();
        drop(stream);
        assert!(!door.grant(&[]).unwrap());
        let mut rude = UnixStream::connect(&path).unwrap();
        rude.write_all(b"give me all\n").unwrap();
        let mut polite = UnixStream::connect(&path).unwrap();
        polite.write_all(ASK).unwrap();
        door.next().unwrap().unwrap();
        assert_eq!(rude.read(&mut [0; 9]).unwrap_or(0), 0, "no answer");
        polite.write_all(b"no!").unwrap();
        assert!(!door.grant(&[]).unwrap());
        door.close();
        assert!(door.next().unwrap().is_none());
        assert!(
            take_over(&path)
                .unwrap_err()
                .to_string()
                .starts_with("ENOENT: ")
        );
    }

    #[test]
    fn only_what_fits_the_engine_is_kept() {
        let local: IpAddr = [127, 0, 0, 1].into();
        let socket = || OwnedFd::from(std::net::UdpSocket::bind((local, 0)).unwrap());
        let named = |name: &str| (name.to_owned(), socket());
        let all = [
            "x-tun",
            "x-udp-send-0",
            "x-udp-send-0",
            "x-udp-send-8",
            "y-udp-send-0",
            "z-tun",
            "",
        ];
        let descriptors = Descriptors(Mutex::new(all.map(named).into()));
        let (x, z) = ("x".to_owned(), "z".to_owned());
        let mut refused = descriptors.keep_only(&[x.clone(), z.clone()]);
        refused.extend(descriptors.verify(&x, local, 8472, Layout::Spread));
        let of = |name| -> Vec<_> {
            let same = refused.iter().filter(|one| one.name == name);
            same.map(|one| one.reason).collect()
        };
        assert_eq!(of("x-tun"), ["it is no TUN"]);
        for name in ["x-udp-send-8", "y-udp-send-0", ""] {
            assert_eq!(of(name), ["nothing here has this name"]);
        }
        assert!(
            of("z-tun").is_empty(),
            "another engine's, which is yet to come"
        );
        assert!(descriptors.names().contains(&"z-tun".to_owned()));
        assert_eq!(descriptors.keep_only(&[x]).len(), 1);
        // Telling the namespace takes CAP_NET_ADMIN.
        if descriptors.names().is_empty() {
            assert_eq!(
                of("x-udp-send-0"),
                ["it does not tell its network namespace"; 2]
            );
        } else {
            assert_eq!(of("x-udp-send-0"), ["there is another one of this name"]);
            assert_eq!(descriptors.names(), ["x-udp-send-0"]);
        }
        descriptors.close();
        assert!(descriptors.names().is_empty());
    }
}
