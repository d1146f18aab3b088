//! How much there is to do, and whether it is worth looking for more before sleeping. Time is an argument.
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::port::{Poller, Ports};

/// What is judged: windows of at least this length.
const WINDOW: Duration = Duration::from_millis(10);
/// From this share of one thread's time on, in percent, a second one pays; but only if packets wait for each other.
/// A ping-pong may be busy all the time and gains nothing.
const HEAVY_PERCENT: u64 = 60;
const HEAVY_BATCH: u64 = 4;
/// Up to either of these one thread is enough, with room to spare so that the two states do not alternate.
const LIGHT_PERCENT: u64 = 25;
const LIGHT_BATCH: u64 = 1;

/// What both directions have done so far. The numbers may wrap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Work {
    /// Nanoseconds spent on batches.
    pub busy: u64,
    /// Batches that were not empty.
    pub batches: u64,
    /// Packets in them, segments one by one.
    pub packets: u64,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// One thread does it easily.
    Light,
    /// Either will do.
    Medium,
    /// Two threads do it better.
    Heavy,
}

/// Measures how busy the packet threads are.
#[derive(Debug)]
pub struct Load {
    begun: Instant,
    before: Work,
}

impl Load {
    /// Begins a window at `now`, with `work` done before.
    pub fn new(now: Instant, work: Work) -> Self {
        Self {
            begun: now,
            before: work,
        }
    }

    /// Judges the window that ends `now`; None while it is too short.
    pub fn level(&mut self, now: Instant, work: Work) -> Option<Level> {
        let window = now.saturating_duration_since(self.begun);
        if window < WINDOW {
            return None;
        }
        let busy = u128::from(work.busy.wrapping_sub(self.before.busy));
        let percent = (busy * 100 / window.as_nanos()) as u64;
        let packets = work.packets.wrapping_sub(self.before.packets);
        let batch = packets / work.batches.wrapping_sub(self.before.batches).max(1);
        *self = Self::new(now, work);
        Some(if percent <= LIGHT_PERCENT || batch <= LIGHT_BATCH {
            Level::Light
        } else if percent >= HEAVY_PERCENT && batch >= HEAVY_BATCH {
            Level::Heavy
        } else {
            Level::Medium
        })
    }
}

/// How long a thread looks for packets before it sleeps: a wake-up costs several microseconds.
const SPIN: Duration = Duration::from_micros(60);
/// An answer within this time would have been met by looking, had both ends looked.
const NEAR: Duration = Duration::from_micros(200);
/// How many times in a row without an answer end the looking; one answer begins it again.
const PATIENCE: u8 = 4;

/// Looks for answers while looking has been paying. A stream that goes one way is better slept through: what comes in
/// the meantime is carried in one batch.
#[derive(Debug, Default)]
pub struct Spin {
    patience: u8,
}

impl Spin {
    /// Waits for a packet on either port, since `idle`; the one before came on `last`.
    pub fn wait(&mut self, poller: &impl Poller, idle: Instant, last: Ports) -> io::Result<Ports> {
        if self.patience > 0 {
            loop {
                let ready = poller.poll(Ports::BOTH, false)?;
                let waited = idle.elapsed();
                if ready.any() {
                    self.learn(is_answer(ready, last));
                    return Ok(ready);
                }
                if waited >= SPIN {
                    break;
                }
                // Whoever is to answer may need this processor.
                thread::yield_now();
            }
        }
        let ready = poller.poll(Ports::BOTH, true)?;
        if ready.any() {
            self.learn(is_answer(ready, last) && idle.elapsed() <= NEAR);
        }
        Ok(ready)
    }

    fn learn(&mut self, paid: bool) {
        self.patience = if paid {
            PATIENCE
        } else {
            self.patience.saturating_sub(1)
        };
    }
}

/// Whether something came from the other side than before.
fn is_answer(ready: Ports, last: Ports) -> bool {
    ready.tun && !last.tun || ready.udp && !last.udp
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const MS: u64 = 1_000_000;

    /// The level after 10 ms with so much done in them, on top of `before`.
    fn level(before: Work, percent: u64, batches: u64, packets: u64) -> Option<Level> {
        let begin = Instant::now();
        let work = Work {
            busy: before.busy.wrapping_add(percent * MS / 10),
            batches: before.batches.wrapping_add(batches),
            packets: before.packets.wrapping_add(packets),
        };
        Load::new(begin, before).level(begin + WINDOW, work)
    }

    #[test]
    fn heavy_is_a_busy_thread_with_packets_in_a_queue() {
        use Level::{Heavy, Light, Medium};
        let end = Work {
            busy: u64::MAX - MS,
            batches: u64::MAX,
            packets: u64::MAX - 9,
        };
        for before in [Work::default(), end] {
            for (percent, packets, expected) in [
                (60, 400, Heavy),
                (200, 40_000, Heavy),
                (59, 40_000, Medium),
                (60, 399, Medium),
                (100, 199, Light),
                (25, 40_000, Light),
            ] {
                assert_eq!(level(before, percent, 100, packets), Some(expected));
            }
            assert_eq!(level(before, 0, 0, 0), Some(Light));
        }
    }

    #[test]
    fn every_window_is_judged_by_itself() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let work = |ms: u64| Work {
            busy: ms * MS,
            batches: ms,
            packets: ms * 9,
        };
        let mut load = Load::new(begin, Work::default());
        assert_eq!(load.level(at(9), work(9)), None);
        assert_eq!(load.level(at(20), work(20)), Some(Level::Heavy));
        assert_eq!(load.level(at(30), work(24)), Some(Level::Medium));
        assert_eq!(load.level(at(1_030), work(30)), Some(Level::Light));
    }

    /// Answers looks with nothing, and notes the sleeps.
    #[derive(Default)]
    struct Quiet {
        looks: RefCell<usize>,
        sleeps: RefCell<usize>,
    }

    impl Poller for Quiet {
        fn poll(&self, ports: Ports, sleep: bool) -> io::Result<Ports> {
            *if sleep { &self.sleeps } else { &self.looks }.borrow_mut() += 1;
            Ok(if sleep { ports } else { Ports::default() })
        }
    }

    const TUN: Ports = Ports {
        tun: true,
        udp: false,
    };

    #[test]
    fn looking_stops_when_it_does_not_pay_and_starts_again_when_it_would_have() {
        let (poller, mut spin) = (Quiet::default(), Spin::default());
        let long_ago = Instant::now() - NEAR * 2;
        spin.wait(&poller, long_ago, TUN).unwrap();
        assert_eq!(*poller.looks.borrow(), 0, "nothing is known to be near");
        spin.learn(true);
        for _ in 0..PATIENCE * 3 {
            spin.wait(&poller, long_ago, TUN).unwrap();
        }
        assert_eq!(*poller.looks.borrow(), usize::from(PATIENCE));
        assert_eq!(*poller.sleeps.borrow(), 1 + usize::from(PATIENCE) * 3);
        let later = Instant::now() + Duration::from_secs(3_600); // it is not over yet: no time has passed
        spin.wait(&poller, later, TUN).unwrap();
        assert_eq!(spin.patience, PATIENCE, "the answer was near");
    }

    #[test]
    fn only_the_other_side_answers() {
        let udp = Ports {
            tun: false,
            udp: true,
        };
        assert!(is_answer(udp, TUN) && is_answer(TUN, udp));
        assert!(is_answer(Ports::BOTH, TUN));
        assert!(!is_answer(TUN, TUN) && !is_answer(udp, Ports::BOTH));
    }
}
