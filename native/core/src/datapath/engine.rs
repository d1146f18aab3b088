//! Starts the packet threads, swaps their table, stops them.
use std::any::Any;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::driver::{Handover, Latency, World};
use super::kernel_drops::{KernelDrops, queue_drops};
use super::shared::{RefusedPacket, Shared};
use super::{inbound, outbound};
use crate::error::Error;
use crate::forward::drop::DropReason;
use crate::forward::table::{Encapsulation, Table, TableSpec};
use crate::handover::{Descriptors, name};
use crate::sys::poll::{Event, PortPoller, Stop};
use crate::sys::thread::block_signals;
use crate::sys::tun::Tun;
use crate::sys::udp::{self, Layout, OpenError, Udp};

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Name of the TUN device, at most 15 bytes.
    pub device: String,
    /// UDP port to receive on and to send to; of `Layout::Raw` the protocol, which the kernel takes for one.
    pub port: u16,
    /// Source address of what is sent; its family is that of the tunnel.
    pub local: IpAddr,
    /// The device's MTU in bytes.
    pub mtu_bytes: usize,
    /// What it is to be good at.
    pub latency: Latency,
    /// Which sockets it has: a table must carry packets accordingly.
    pub layout: Layout,
}

/// Packets and their bytes from the IP header on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TrafficStats {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Traffic with one peer of the current table.
#[derive(Clone, Copy, Debug)]
pub struct PeerStats {
    /// Its endpoint.
    pub endpoint: IpAddr,
    /// Towards it.
    pub sent: TrafficStats,
    /// From it.
    pub received: TrafficStats,
}

/// A moment's view; the numbers are read one after the other while packets go on.
#[derive(Clone, Debug)]
pub struct EngineStats {
    /// What is in use, by name.
    pub offloads: Vec<(&'static str, bool)>,
    /// To all peers.
    pub sent: TrafficStats,
    /// Accepted from the tunnel; the TUN may still refuse them, which `drops` says.
    pub received: TrafficStats,
    /// Every reason, also those never met.
    pub drops: Vec<(&'static str, u64)>,
    /// In the order of the table.
    pub peers: Vec<PeerStats>,
    /// The last packet that a sender check refused.
    pub last_refused: Option<RefusedPacket>,
    /// Why a packet thread ended before `close`.
    pub failure: Option<String>,
}

/// The packet threads with their TUN and sockets. Dropping it closes it.
#[derive(Debug)]
pub struct Engine {
    device: String,
    latency: Mutex<Latency>,
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    ports: Mutex<Ports>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    tun_offloads: [(&'static str, bool); 5],
    udp_gro: bool,
    local: IpAddr,
    kernel_drops: Mutex<KernelDrops>,
    layout: Layout,
}

/// What the threads work on, and whether they do.
#[derive(Debug)]
enum Ports {
    /// No thread reads; what comes waits in the kernel.
    Idle(Arc<Tun>, Arc<Udp>),
    /// The same until `resume`, whatever else happens.
    Paused(Arc<Tun>, Arc<Udp>),
    Served(Arc<Tun>, Arc<Udp>),
    Closed,
}

impl Engine {
    /// Opens everything. The threads start with the first table: what comes before waits in the kernel. The device
    /// becomes persistent last: after an error, one that was not there before is gone again.
    ///
    /// From `handed`, whose `verify` was called, it takes what it finds of its own.
    ///
    /// Errors: those of `Tun::open`; EADDRINUSE the port is taken; EADDRNOTAVAIL `local` is not on this host.
    pub fn open(options: &EngineOptions, handed: Option<&Descriptors>) -> Result<Self, Error> {
        let EngineOptions {
            device,
            port,
            local,
            mtu_bytes,
            latency,
            layout,
        } = options;
        if *port == 0 || !(68..=65_535).contains(mtu_bytes) || local.is_unspecified() {
            let subject = format!("open engine {device}");
            return Err(Error::invalid(
                subject,
                "port, local address or MTU out of range",
            ));
        }
        let start = |error: io::Error| Error::from_io(&error, format!("start engine {device}"));
        let stop = Arc::new(Stop::new().map_err(start)?);
        let attach = |error: io::Error| Error::from_io(&error, format!("attach tun {device}"));
        let take = |name: String| handed.and_then(|handed| handed.take(&name));
        let tun = match take(name::tun(device)) {
            Some(queue) => Tun::adopt(queue, Arc::clone(&stop)),
            None => Tun::open(device, Arc::clone(&stop)),
        }
        .map_err(attach)?;
        let sockets = udp::Handed {
            receiver: take(name::receiver(device)),
            senders: (0..udp::SENDERS)
                .filter_map(|number| take(name::sender(device, number)))
                .collect(),
        };
        let udp = Udp::open_or_adopt(*local, *port, *layout, sockets, Arc::clone(&stop));
        let udp = udp.map_err(|error| match error {
            OpenError::Receiver(error) => Error::from_io(&error, format!("bind udp port {port}")),
            OpenError::Sender(error) => Error::from_io(&error, format!("bind udp address {local}")),
        })?;
        let mut shared = Shared::new(*mtu_bytes, udp.gso());
        shared.tun_uso = tun.offloads().udp_segmentation();
        tun.persist()
            .map_err(|error| Error::from_io(&error, format!("persist tun {device}")))?;
        let mut kernel_drops = KernelDrops::default();
        kernel_drops.look(queue_drops(device), udp.receive_drops().ok());
        Ok(Self {
            device: device.clone(),
            latency: Mutex::new(*latency),
            shared: Arc::new(shared),
            stop,
            threads: Mutex::default(),
            tun_offloads: tun.offloads().named(),
            udp_gro: udp.gro(),
            local: *local,
            kernel_drops: Mutex::new(kernel_drops),
            layout: *layout,
            ports: Mutex::new(Ports::Idle(Arc::new(tun), Arc::new(udp))),
        })
    }

    /// Starts the threads, unless they run, are paused or were closed.
    fn start(&self) -> Result<(), Error> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let Ports::Idle(tun, udp) = &*ports else {
            return Ok(());
        };
        let (tun, udp) = (Arc::clone(tun), Arc::clone(udp));
        self.stop.reset();
        let latency = *self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match latency {
            Latency::Auto => self.spawn_auto(&tun, &udp),
            Latency::Latency => self.spawn_one(&tun, &udp),
            Latency::Throughput => self.spawn_two(&tun, &udp),
        };
        if let Err(error) = started {
            self.stop_threads();
            let subject = format!("start engine {}", self.device);
            return Err(Error::from_io(&error, subject));
        }
        *ports = Ports::Served(tun, udp);
        Ok(())
    }

    /// Stops the threads, after what they have read is on its way; what comes then waits in the kernel. Gives the
    /// descriptors with their names, which stay open until `close`.
    pub fn pause(&self) -> Vec<(String, RawFd)> {
        self.stop_threads();
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        *ports = match std::mem::replace(&mut *ports, Ports::Closed) {
            Ports::Idle(tun, udp) | Ports::Paused(tun, udp) | Ports::Served(tun, udp) => {
                Ports::Paused(tun, udp)
            }
            Ports::Closed => Ports::Closed,
        };
        self.descriptors_of(&ports)
    }

    /// Goes on after `pause`.
    pub fn resume(&self) -> Result<(), Error> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        *ports = match std::mem::replace(&mut *ports, Ports::Closed) {
            Ports::Paused(tun, udp) => Ports::Idle(tun, udp),
            other => other,
        };
        drop(ports);
        self.start()
    }

    /// Goes on with threads of another use; what comes meanwhile waits in the kernel. Before the first table, while
    /// paused and after `close` it counts from the next start on.
    pub fn set_latency(&self, latency: Latency) -> Result<(), Error> {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
        let is_served = matches!(
            *self.ports.lock().unwrap_or_else(PoisonError::into_inner),
            Ports::Served(..)
        );
        if !is_served {
            return Ok(());
        }
        self.pause();
        self.resume()
    }

    /// Numbers of the open descriptors, with the names by which a later process takes them from `Descriptors`.
    pub fn descriptors(&self) -> Vec<(String, RawFd)> {
        self.descriptors_of(&self.ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn descriptors_of(&self, ports: &Ports) -> Vec<(String, RawFd)> {
        let (Ports::Idle(tun, udp) | Ports::Paused(tun, udp) | Ports::Served(tun, udp)) = ports
        else {
            return Vec::new();
        };
        let (receiver, senders) = udp.sockets();
        let device = &self.device;
        let mut all = vec![
            (name::tun(device), tun.as_fd().as_raw_fd()),
            (name::receiver(device), receiver.as_raw_fd()),
        ];
        let numbered = senders.enumerate();
        all.extend(numbered.map(|(number, fd)| (name::sender(device, number), fd.as_raw_fd())));
        all
    }

    /// One thread for both directions.
    fn spawn_one(&self, tun: &Arc<Tun>, udp: &Arc<Udp>) -> io::Result<()> {
        let poller = PortPoller::new(tun, udp, &self.stop, &Arc::new(Event::new()?));
        self.spawn_in_world("fl-packets", tun, udp, poller, |world| world.serve_both())
    }

    /// Two threads, of which one serves both directions while there is little to do.
    fn spawn_auto(&self, tun: &Arc<Tun>, udp: &Arc<Udp>) -> io::Result<()> {
        let nudges = [Arc::new(Event::new()?), Arc::new(Event::new()?)];
        let [out_poller, in_poller] = nudges
            .each_ref()
            .map(|nudge| PortPoller::new(tun, udp, &self.stop, nudge));
        let handover = Arc::new(Handover::new(move || {
            nudges.iter().for_each(|nudge| nudge.signal());
        }));
        let other = Arc::clone(&handover);
        self.spawn_in_world("fl-outbound", tun, udp, out_poller, move |world| {
            world.serve_outbound(&other)
        })?;
        self.spawn_in_world("fl-inbound", tun, udp, in_poller, move |world| {
            world.serve_inbound(&handover)
        })
    }

    fn spawn_in_world(
        &self,
        name: &'static str,
        tun: &Arc<Tun>,
        udp: &Arc<Udp>,
        poller: PortPoller<Tun, Udp>,
        serve: impl FnOnce(&World<'_, Tun, Udp, PortPoller<Tun, Udp>>) -> io::Result<()>
        + Send
        + 'static,
    ) -> io::Result<()> {
        let (tun, udp, shared) = (Arc::clone(tun), Arc::clone(udp), Arc::clone(&self.shared));
        self.spawn(name, move || {
            serve(&World {
                tun: &tun,
                udp: &udp,
                poller: &poller,
                shared: &shared,
            })
        })
    }

    /// A thread for each direction.
    fn spawn_two(&self, tun: &Arc<Tun>, udp: &Arc<Udp>) -> io::Result<()> {
        let (out_tun, out_udp, out_shared) =
            (Arc::clone(tun), Arc::clone(udp), Arc::clone(&self.shared));
        self.spawn("fl-outbound", move || {
            outbound::run(&*out_tun, &*out_udp, &out_shared)
        })?;
        let (in_tun, in_udp, in_shared) =
            (Arc::clone(tun), Arc::clone(udp), Arc::clone(&self.shared));
        self.spawn("fl-inbound", move || {
            inbound::run(&*in_tun, &*in_udp, &in_shared)
        })
    }

    fn spawn(
        &self,
        name: &'static str,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&self.stop));
        let body = move || {
            block_signals();
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => shared.fail(Error::from_io(&error, name).to_string()),
                Err(panic) => shared.fail(format!("{name}: panic: {}", panic_text(&*panic))),
            }
            // One alone is no engine.
            stop.request();
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// Replaces the whole table between two batches; the first one starts the threads. Peers known by endpoint and MAC keep their counters.
    ///
    /// Errors (the old table stays): EINVAL a VNI beyond 24 bits, another encapsulation than the engine was opened for,
    /// or subnets of two peers overlap; EAFNOSUPPORT an
    /// endpoint of another family than `local`.
    pub fn set_table(&self, spec: &TableSpec) -> Result<(), Error> {
        let operation = "set forwarding table";
        let layout = match spec.encapsulation {
            Encapsulation::Vxlan { vni, .. } if vni >= 1 << 24 => {
                let detail = format!("vni {vni} is beyond 24 bits");
                return Err(Error::invalid(operation, &detail));
            }
            Encapsulation::Vxlan { .. } => Layout::Spread,
            Encapsulation::Bare { .. } => Layout::Single,
            Encapsulation::IpIp => Layout::Raw,
        };
        if layout != self.layout {
            let detail = "the engine was opened for another encapsulation";
            return Err(Error::invalid(operation, detail));
        }
        let foreign = |endpoint: IpAddr| endpoint.is_ipv4() != self.local.is_ipv4();
        if let Some(peer) = spec.peers.iter().find(|peer| foreign(peer.endpoint)) {
            let detail = format!("endpoint {} beside local {}", peer.endpoint, self.local);
            return Err(Error::with_detail(libc::EAFNOSUPPORT, operation, &detail));
        }
        let table = Table::build(spec, &self.shared.table.load())
            .map_err(|error| Error::invalid(operation, &error.to_string()))?;
        self.shared.table.store(Arc::new(table));
        self.start()
    }

    /// Counters and state, also after `close`.
    pub fn stats(&self) -> EngineStats {
        let shared = &self.shared;
        let mut offloads = self.tun_offloads.to_vec();
        offloads.extend([("udpGso", shared.udp_gso()), ("udpGro", self.udp_gro)]);
        let kernel = self.look_at_kernel_drops();
        let drops = DropReason::ALL.iter().map(|reason| {
            let ours = shared.outbound.dropped(*reason) + shared.inbound.dropped(*reason);
            (reason.name(), ours + kernel.dropped(*reason))
        });
        let peers = shared.table.load();
        let peers = peers.peers().iter().map(|peer| PeerStats {
            endpoint: peer.endpoint,
            sent: (&peer.traffic.sent).into(),
            received: (&peer.traffic.received).into(),
        });
        EngineStats {
            offloads,
            sent: (&shared.outbound.traffic).into(),
            received: (&shared.inbound.traffic).into(),
            drops: drops.collect(),
            peers: peers.collect(),
            last_refused: shared.last_refused(),
            failure: shared.failure(),
        }
    }

    /// Why a packet thread has ended, as in the stats, without counting anything.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    fn look_at_kernel_drops(&self) -> MutexGuard<'_, KernelDrops> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let mut drops = self
            .kernel_drops
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Ports::Idle(_, udp) | Ports::Paused(_, udp) | Ports::Served(_, udp) = &*ports {
            drops.look(queue_drops(&self.device), udp.receive_drops().ok());
        }
        drops
    }

    /// Stops and joins the threads; their descriptors are then closed, and the device stays. May be called twice.
    pub fn close(&self) {
        drop(self.look_at_kernel_drops());
        self.stop_threads();
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = Ports::Closed;
    }

    fn stop_threads(&self) {
        self.stop.request();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic was caught and noted inside.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl From<&crate::forward::counters::Traffic> for TrafficStats {
    fn from(traffic: &crate::forward::counters::Traffic) -> Self {
        Self {
            packets: traffic.packets.get(),
            bytes: traffic.bytes.get(),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Engine {
        Engine {
            device: "fl-never".to_owned(),
            latency: Mutex::new(Latency::Auto),
            ports: Mutex::new(Ports::Closed),
            shared: Arc::new(Shared::new(1_450, true)),
            stop: Arc::new(Stop::new().unwrap()),
            threads: Mutex::default(),
            tun_offloads: [("tunChecksum", true); 5],
            udp_gro: true,
            local: [192, 0, 2, 1].into(),
            kernel_drops: Mutex::default(),
            layout: Layout::Spread,
        }
    }

    #[test]
    fn a_panic_is_reported_and_stops_the_other_thread() {
        let engine = idle();
        let stop = Arc::clone(&engine.stop);
        engine
            .spawn("fl-one", move || {
                while !stop.requested() {
                    thread::yield_now();
                }
                Ok(())
            })
            .unwrap();
        engine.spawn("fl-two", || panic!("deliberate")).unwrap();
        let threads = std::mem::take(&mut *engine.threads.lock().unwrap());
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(engine.stats().failure.unwrap(), "fl-two: panic: deliberate");
    }

    #[test]
    fn a_failed_thread_says_why_and_closing_twice_is_fine() {
        let engine = idle();
        engine
            .spawn("fl-one", || Err(io::Error::from_raw_os_error(libc::EBADFD)))
            .unwrap();
        engine.close();
        engine.close();
        assert!(
            engine
                .stats()
                .failure
                .unwrap()
                .starts_with("EBADFD: fl-one: ")
        );
    }

    #[test]
    fn a_refused_table_leaves_the_old_one() {
        let engine = idle();
        let peer = |endpoint: &str| crate::forward::table::PeerSpec {
            subnets: vec!["10.5.2.0/24".parse().unwrap()],
            endpoint: endpoint.parse().unwrap(),
            mac: [2; 6],
        };
        let spec = |vni, endpoints: &[&str]| TableSpec {
            encapsulation: Encapsulation::Vxlan {
                vni,
                vtep_mac: [2; 6],
            },
            peers: endpoints.iter().map(|endpoint| peer(endpoint)).collect(),
            ..TableSpec::default()
        };
        engine.set_table(&spec(1, &["192.0.2.2"])).unwrap();
        let text = |spec: &TableSpec| engine.set_table(spec).unwrap_err().to_string();
        assert!(text(&spec(1 << 24, &[])).starts_with("EINVAL: "));
        let bare = TableSpec {
            encapsulation: Encapsulation::Bare { v4: None, v6: None },
            ..TableSpec::default()
        };
        assert!(text(&bare).contains("another encapsulation"));
        assert!(text(&spec(1, &["2001:db8::2"])).starts_with("EAFNOSUPPORT: "));
        assert!(text(&spec(1, &["192.0.2.2", "192.0.2.3"])).contains("192.0.2.3 overlap"));
        assert_eq!(engine.stats().peers.len(), 1);
    }

    #[test]
    fn what_the_sockets_cannot_do_is_said_also_when_it_is_learnt_late() {
        let mut engine = idle();
        engine.udp_gro = false;
        let on = |name| engine.stats().offloads.contains(&(name, true));
        assert_eq!(
            ["udpGro", "udpGso", "tunChecksum"].map(on),
            [false, true, true]
        );
        engine.shared.give_up_udp_gso();
        assert!(!on("udpGso"));
    }

    #[test]
    fn another_latency_starts_nothing_by_itself_and_counts_from_the_next_start_on() {
        let engine = idle();
        engine.set_latency(Latency::Throughput).unwrap();
        assert!(engine.threads.lock().unwrap().is_empty());
        assert_eq!(*engine.latency.lock().unwrap(), Latency::Throughput);
    }

    #[test]
    fn options_out_of_range_open_nothing() {
        let good = EngineOptions {
            device: "fl-never".to_owned(),
            port: 8472,
            local: [192, 0, 2, 1].into(),
            mtu_bytes: 1_450,
            latency: Latency::Auto,
            layout: Layout::Spread,
        };
        for bad in [
            EngineOptions {
                port: 0,
                ..good.clone()
            },
            EngineOptions {
                mtu_bytes: 67,
                ..good.clone()
            },
            EngineOptions {
                mtu_bytes: 65_536,
                ..good.clone()
            },
            EngineOptions {
                local: [0; 4].into(),
                ..good.clone()
            },
            EngineOptions {
                device: "a/b".to_owned(),
                ..good
            },
        ] {
            assert!(
                Engine::open(&bad, None)
                    .unwrap_err()
                    .to_string()
                    .starts_with("EINVAL: ")
            );
        }
    }
}
