//! Links, addresses, neighbours, forwarding entries and routes over rtnetlink (rtnetlink(7)).
mod address;
mod attribute;
mod batch;
mod fdb;
mod link;
mod monitor;
mod neighbour;
mod nftables;
mod owner;
mod request;
mod route;
mod value;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures_util::future::{Either, select};
use rtnetlink::sys::AsyncSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::Error;

pub use address::Address;
pub use batch::Edit;
pub use fdb::FdbEntry;
pub use link::{IpIp, IpIpSpec, Link, LinkChanges, Vxlan, VxlanSpec};
pub use monitor::{Change, Events, Table};
pub use neighbour::Neighbour;
pub use nftables::{NftablesChange, NftablesMonitor};
pub use owner::Owner;
pub use route::{BlackholeSpec, Route, RouteSpec};
pub use value::{Mac, NotAMac, NotAPrefix, Prefix};

/// rtnetlink of one network namespace: a socket for requests, driven by a task of the runtime it was
/// opened on, one for batches of changes, and one for notifications, read only while somebody waits for them.
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: AbortHandle,
    /// Held from question to answer. The kernel refuses a second dump on a socket (EBUSY), and the
    /// connection sends without reading when many ask at once, until answers are lost (ENOBUFS).
    turn: tokio::sync::Mutex<()>,
    /// `None` once closed.
    batch: tokio::sync::Mutex<Option<batch::Batch<batch::RouteSocket>>>,
    /// `None` once closed.
    monitor: tokio::sync::Mutex<Option<monitor::Monitor>>,
    closed: watch::Sender<bool>,
    /// Links whose neighbours or forwarding entries somebody has read or written. Only theirs are
    /// reported: on a busy host the kernel tells of every change of every ARP entry.
    watched: Mutex<BTreeSet<u32>>,
}

impl Netlink {
    /// Opens rtnetlink in the network namespace of the calling thread. Must run on a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let failed = |error| Error::from_io(&error, "open rtnetlink");
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        // Linux before 4.20 cannot filter dumps; what it sends too much is dropped here.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let monitor = monitor::Monitor::open().map_err(failed)?;
        let batch = batch::Batch::new(batch::RouteSocket::open().map_err(failed)?);
        Ok(Self {
            handle,
            connection: tokio::spawn(connection).abort_handle(),
            turn: tokio::sync::Mutex::default(),
            batch: tokio::sync::Mutex::new(Some(batch)),
            monitor: tokio::sync::Mutex::new(Some(monitor)),
            closed: watch::Sender::new(false),
            watched: Mutex::default(),
        })
    }

    /// The next batch of changes; `None` after [`Netlink::close`]. What happens between two calls
    /// waits in the socket's buffer, and shows as `overrun` when that was too small.
    pub async fn next_events(&self) -> Result<Option<Events>, Error> {
        let mut closed = self.closed.subscribe();
        let ended = async {
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let next = async {
            match self.monitor.lock().await.as_mut() {
                Some(monitor) => monitor.next(|link| self.watches(link)).await.map(Some),
                None => Ok(None),
            }
        };
        if let Either::Right((events, _)) = select(pin!(ended), pin!(next)).await {
            return events;
        }
        self.monitor.lock().await.take();
        Ok(None)
    }

    /// Ends the task, every pending request (EBADF) and [`Netlink::next_events`], and gives the
    /// sockets back. May be called twice.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.connection.abort();
        // While it is locked somebody waits for events, is woken by `closed` and takes it.
        if let Ok(mut monitor) = self.monitor.try_lock() {
            monitor.take();
        }
        // While it is locked a batch is under way, sees `closed` and takes it.
        if let Ok(mut batch) = self.batch.try_lock() {
            batch.take();
        }
    }

    fn watches(&self, link: u32) -> bool {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&link)
    }

    fn watch(&self, link: u32) {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(link);
    }

    /// Has neighbours and forwarding entries told of exactly these links.
    pub fn watch_only(&self, links: impl IntoIterator<Item = u32>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = links.into_iter().collect();
    }

    fn unwatch(&self, link: u32) {
        self.watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&link);
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.close();
    }
}
