//! How the two directions share threads. The functions here return when the engine closes; an error is final.
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::batch::Batch;
use super::inbound::Inbound;
use super::load::{Level, Load, Spin, Work};
use super::outbound::Outbound;
use super::shared::Shared;
use crate::forward::counters::Counter;
use crate::port::{DatagramPort, PacketPort, Poller, Ports};

/// What the engine is to be good at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Latency {
    /// One thread while there is little to do, two under load.
    #[default]
    Auto,
    /// One thread, which looks for packets for a moment before it sleeps.
    Latency,
    /// Two threads, which sleep whenever there is nothing.
    Throughput,
}

impl FromStr for Latency {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "latency" => Ok(Self::Latency),
            "throughput" => Ok(Self::Throughput),
            _ => Err(()),
        }
    }
}

/// The ports and what else a thread works with.
#[derive(Debug)]
pub struct World<'a, T, U, P> {
    /// The TUN side.
    pub tun: &'a T,
    /// The UDP side.
    pub udp: &'a U,
    /// This thread's own.
    pub poller: &'a P,
    /// Table and counters.
    pub shared: &'a Shared,
}

impl<T: PacketPort, U: DatagramPort, P: Poller> World<'_, T, U, P> {
    /// Serves both directions in this thread.
    pub fn serve_both(&self) -> io::Result<()> {
        let mut outbound = Outbound::new(self.udp, self.shared);
        let mut inbound = Inbound::new();
        self.both(&mut outbound, &mut inbound, |_| true)
    }

    /// Serves the outbound direction, and the inbound one too while there is little to do.
    pub fn serve_outbound(&self, handover: &Handover) -> io::Result<()> {
        let mut outbound = Outbound::new(self.udp, self.shared);
        let mut load = Load::new(Instant::now(), Work::default());
        let tun = Ports {
            tun: true,
            udp: false,
        };
        while !self.tun.stopped() {
            if !handover.apart() {
                let mut inbound = handover.inbound();
                self.both(&mut outbound, &mut inbound, |turn| {
                    handover.outbound_work.add(&turn);
                    let work = handover.work(self.shared);
                    load.level(turn.ended, work) != Some(Level::Heavy)
                })?;
                drop(inbound);
                handover.set_apart(true);
            }
            self.one(tun, &handover.outbound_work, handover, &mut load, || {
                outbound.batch(self.tun, self.udp, self.shared)
            })?;
        }
        Ok(())
    }

    /// Serves the inbound direction while there is much to do.
    pub fn serve_inbound(&self, handover: &Handover) -> io::Result<()> {
        let udp = Ports {
            tun: false,
            udp: true,
        };
        while !self.tun.stopped() {
            if !handover.apart() {
                self.poller.poll(Ports::default(), true)?;
                continue;
            }
            let mut inbound = handover.inbound();
            let mut load = Load::new(Instant::now(), handover.work(self.shared));
            self.one(udp, &handover.inbound_work, handover, &mut load, || {
                inbound.batch(self.tun, self.udp, self.shared)
            })?;
        }
        Ok(())
    }

    /// Both directions, while `go_on`, told of each turn that did something, says so.
    fn both(
        &self,
        outbound: &mut Outbound,
        inbound: &mut Inbound,
        mut go_on: impl FnMut(Turn) -> bool,
    ) -> io::Result<()> {
        let mut spin = Spin::default();
        let (mut ready, mut last) = (Ports::BOTH, Ports::default());
        while !self.tun.stopped() {
            let begun = Instant::now();
            let mut batches = [Batch::Empty; 2];
            let [out, inn] = &mut batches;
            if ready.tun {
                *out = outbound.batch(self.tun, self.udp, self.shared)?;
            }
            if ready.udp {
                *inn = inbound.batch(self.tun, self.udp, self.shared)?;
            }
            let turn = Turn::ending_now(begun, &batches);
            if turn.batches > 0 {
                last = ready;
                if !go_on(turn) {
                    return Ok(());
                }
            }
            ready = if turn.more {
                self.poller.poll(Ports::BOTH, false)?
            } else {
                spin.wait(self.poller, turn.ended, last)?
            };
        }
        Ok(())
    }

    /// One direction, while the two are apart. Whichever thread sees that there is little to do joins them.
    fn one(
        &self,
        port: Ports,
        done: &WorkCounters,
        handover: &Handover,
        load: &mut Load,
        mut batch: impl FnMut() -> io::Result<Batch>,
    ) -> io::Result<()> {
        while handover.apart() && !self.tun.stopped() {
            let begun = Instant::now();
            let turn = Turn::ending_now(begun, &[batch()?]);
            done.add(&turn);
            if load.level(turn.ended, handover.work(self.shared)) == Some(Level::Light) {
                handover.set_apart(false);
            } else if !turn.more {
                self.poller.poll(port, true)?;
            }
        }
        Ok(())
    }
}

/// Who serves the inbound direction: the thread that holds its buffers. A batch ends with nothing kept back, so
/// changing hands between two keeps every flow in order.
pub struct Handover {
    inbound: Mutex<Inbound>,
    apart: AtomicBool,
    outbound_work: WorkCounters,
    inbound_work: WorkCounters,
    nudge: Box<dyn Fn() + Send + Sync>,
}

impl Handover {
    /// With both directions in one thread. `nudge` wakes both of them.
    pub fn new(nudge: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            inbound: Mutex::new(Inbound::new()),
            apart: AtomicBool::new(false),
            outbound_work: WorkCounters::default(),
            inbound_work: WorkCounters::default(),
            nudge: Box::new(nudge),
        }
    }

    /// Waits until the other thread has let go.
    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether each direction has its own thread.
    pub fn apart(&self) -> bool {
        self.apart.load(Ordering::Acquire)
    }

    fn set_apart(&self, apart: bool) {
        self.apart.store(apart, Ordering::Release);
        (self.nudge)();
    }

    /// What both threads together have done.
    fn work(&self, shared: &Shared) -> Work {
        let sum = |a: &Counter, b: &Counter| a.get().wrapping_add(b.get());
        Work {
            busy: sum(&self.outbound_work.busy, &self.inbound_work.busy),
            batches: sum(&self.outbound_work.batches, &self.inbound_work.batches),
            packets: sum(
                &shared.outbound.traffic.packets,
                &shared.inbound.traffic.packets,
            ),
        }
    }
}

/// What one thread has done.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkCounters {
    busy: Counter,
    batches: Counter,
}

impl WorkCounters {
    fn add(&self, turn: &Turn) {
        self.busy.add(turn.busy);
        self.batches.add(turn.batches);
    }
}

/// One time through a loop.
#[derive(Clone, Copy, Debug)]
struct Turn {
    ended: Instant,
    /// Nanoseconds it took.
    busy: u64,
    /// Batches that were not empty.
    batches: u64,
    /// Whether one of them left something behind.
    more: bool,
}

impl Turn {
    fn ending_now(begun: Instant, batches: &[Batch]) -> Self {
        let ended = Instant::now();
        let filled = batches.iter().filter(|batch| **batch != Batch::Empty);
        Self {
            ended,
            busy: ended.saturating_duration_since(begun).as_nanos() as u64,
            batches: filled.count() as u64,
            more: batches.contains(&Batch::More),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::table::{Encapsulation, PeerSpec, Table, TableSpec};
    use crate::port::memory::{MemoryPoller, MemoryTun, MemoryUdp};
    use crate::testing;
    use crate::wire::virtio::VnetHeader;
    use crate::wire::vxlan;

    const MAC: vxlan::Mac = [2, 0, 0, 0, 0, 1];

    fn shared() -> Shared {
        let peer = PeerSpec {
            subnets: vec!["10.5.0.0/16".parse().unwrap()],
            endpoint: [192, 0, 2, 2].into(),
            mac: MAC,
        };
        let spec = TableSpec {
            encapsulation: Encapsulation::Vxlan {
                vni: 7,
                vtep_mac: MAC,
            },
            peers: vec![peer],
            ..TableSpec::default()
        };
        let shared = Shared::new(1_450, true);
        let table = Table::build(&spec, &Table::empty()).unwrap();
        shared.table.store(table.into());
        shared
    }

    /// Ports with packets waiting on both sides, more than one batch takes.
    fn loaded() -> (MemoryTun, MemoryUdp, Vec<Vec<u8>>) {
        let (tun, udp) = (MemoryTun::default(), MemoryUdp::default());
        let packets: Vec<Vec<u8>> = (0..300).map(|len| testing::udp4(400 + len)).collect();
        for packet in &packets {
            let vnet = VnetHeader::default().encode();
            tun.to_read
                .borrow_mut()
                .push_back([&vnet[..], packet].concat());
            let tunnel = vxlan::encode(7, MAC, MAC, false);
            let incoming = ([192, 0, 2, 2].into(), 0, 0, [&tunnel[..], packet].concat());
            udp.to_receive.borrow_mut().push_back(incoming);
        }
        (tun, udp, packets)
    }

    fn carried(tun: &MemoryTun, udp: &MemoryUdp) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let sent = udp.sent.take().into_iter().flat_map(|m| m.datagrams);
        let sent = sent.map(|bytes| bytes[vxlan::HEADER_LEN..].to_vec());
        let written = tun.written.take().into_iter();
        let written = written.map(|bytes| bytes[crate::wire::virtio::HEADER_LEN..].to_vec());
        (sent.collect(), written.collect())
    }

    #[test]
    fn one_thread_carries_both_directions_in_order() {
        let (shared, (tun, udp, packets)) = (shared(), loaded());
        let poller = MemoryPoller(&tun, &udp);
        let world = World {
            tun: &tun,
            udp: &udp,
            poller: &poller,
            shared: &shared,
        };
        world.serve_both().unwrap();
        assert_eq!(carried(&tun, &udp), (packets.clone(), packets));
    }

    #[test]
    fn apart_each_thread_carries_its_own_direction_and_only_that() {
        for inward in [false, true] {
            let (shared, (tun, udp, packets)) = (shared(), loaded());
            let poller = MemoryPoller(&tun, &udp);
            let world = World {
                tun: &tun,
                udp: &udp,
                poller: &poller,
                shared: &shared,
            };
            let handover = Handover::new(|| {});
            handover.set_apart(true);
            let expected = if inward {
                world.serve_inbound(&handover).unwrap();
                (vec![], packets)
            } else {
                world.serve_outbound(&handover).unwrap();
                (packets, vec![])
            };
            assert_eq!(carried(&tun, &udp), expected);
        }
    }

    #[test]
    fn a_change_of_hands_wakes_both_threads() {
        let nudges = std::sync::Arc::new(AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&nudges);
        let handover = Handover::new(move || nudges.store(true, Ordering::Relaxed));
        assert!(!handover.apart());
        handover.set_apart(true);
        assert!(handover.apart() && seen.load(Ordering::Relaxed));
    }

    #[test]
    fn modes_have_names_and_the_first_is_the_default() {
        let modes = ["auto", "latency", "throughput"].map(|name| name.parse::<Latency>().unwrap());
        assert_eq!(
            modes,
            [Latency::Auto, Latency::Latency, Latency::Throughput]
        );
        assert_eq!(Latency::default(), Latency::Auto);
        assert_eq!("fast".parse::<Latency>(), Err(()));
    }
}
