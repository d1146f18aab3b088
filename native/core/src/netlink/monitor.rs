//! Notifications of the kernel, folded: which tables changed, what in them, and who asked for it.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};

use super::attribute::{attribute, text};
use super::owner::Owner;
use super::value::{Mac, Prefix};
use crate::error::Error;

/// What arrives this soon after the first notification joins its batch.
const FOLD_WITHIN: Duration = Duration::from_millis(5);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// Enough for the headers that are read; the rest of a longer datagram is cut off.
const DATAGRAM_LEN: usize = 8192;
const HEADER_LEN: usize = 16;

/// Changes named one by one in a batch, and processes looked up for them; what is more is only `unnamed`.
const CHANGES_MAX: usize = 256;
const LOOKUPS_MAX: usize = 8;

// Attributes of linux/if_link.h, if_addr.h, rtnetlink.h and neighbour.h.
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// What changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Events {
    /// A link appeared, changed or went.
    pub link: bool,
    /// An address, either family.
    pub address: bool,
    /// A neighbour or forwarding entry.
    pub neighbour: bool,
    /// A route of any table, either family.
    pub route: bool,
    /// The kernel had to drop notifications: anything may have changed.
    pub overrun: bool,
    /// The changes one by one, in order, at most [`CHANGES_MAX`].
    pub changes: Vec<Change>,
    /// Some changes are not in `changes`.
    pub unnamed: bool,
    /// Who made them, by the port that asked for it.
    owners: BTreeMap<u32, Owner>,
}

impl Events {
    /// The process that asked for `change`, as it was when the kernel told of it.
    pub fn owner(&self, change: &Change) -> Owner {
        self.owners.get(&change.port).cloned().unwrap_or_default()
    }
}

/// Where a change was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Table {
    /// A link.
    Link,
    /// An address of a link.
    Address,
    /// A neighbour of a link.
    Neighbour,
    /// A forwarding entry of a link.
    Fdb,
    /// A route of the main table.
    Route,
}

/// One notification.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Where it was made.
    pub table: Table,
    /// Index of the link, 0 for a route.
    pub link: u32,
    /// The link's name, the address with its length, the neighbour's IP, the entry's MAC, the destination.
    pub subject: String,
    /// Whether it is gone; else it appeared or changed.
    pub gone: bool,
    /// Of a link: whether it is set up.
    pub up: bool,
    /// Netlink port of whoever asked for it; 0 where the kernel acted by itself or does not say.
    pub port: u32,
}

/// A socket that has joined the groups of all tables.
pub(super) struct Monitor {
    socket: TokioSocket,
    datagram: Vec<u8>,
}

impl Monitor {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = GROUPS
            .iter()
            .fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM_LEN),
        })
    }

    /// Waits for something that matters, then takes what follows within [`FOLD_WITHIN`].
    /// Cancelling loses at most what it had folded.
    pub(super) async fn next(&mut self, watches: impl Fn(u32) -> bool) -> Result<Events, Error> {
        let mut events = Events::default();
        while events == Events::default() {
            self.receive(&mut events, &watches).await?;
        }
        let more = async {
            loop {
                self.receive(&mut events, &watches).await?;
            }
        };
        match tokio::time::timeout(FOLD_WITHIN, more).await {
            Ok(Err::<Infallible, Error>(error)) => Err(error),
            Err(_elapsed) => Ok(events),
        }
    }

    async fn receive(
        &mut self,
        events: &mut Events,
        watches: impl Fn(u32) -> bool,
    ) -> Result<(), Error> {
        self.datagram.clear();
        match poll_fn(|cx| self.socket.poll_recv(cx, &mut self.datagram)).await {
            Ok(()) => {
                note(events, &self.datagram, watches);
                find_owners(events);
                drop_own(events, std::process::id());
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.overrun = true,
            Err(error) => return Err(Error::from_io(&error, "receive notifications")),
        }
        Ok(())
    }
}

/// Notes the tables that the messages of `datagram` speak of; neighbours only of links that `watches`.
fn note(events: &mut Events, datagram: &[u8], watches: impl Fn(u32) -> bool) {
    let mut rest = datagram;
    while let Some((header, body)) = rest.split_first_chunk::<HEADER_LEN>() {
        let [l0, l1, l2, l3, k0, k1, _, _, _, _, _, _, p0, p1, p2, p3] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let kind = u16::from_ne_bytes([k0, k1]);
        let body = &body[..length.saturating_sub(HEADER_LEN).min(body.len())];
        note_message(
            events,
            kind,
            u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
            &watches,
        );
        match rest.get(length.max(HEADER_LEN).next_multiple_of(4)..) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

fn note_message(
    events: &mut Events,
    kind: u16,
    port: u32,
    body: &[u8],
    watches: impl Fn(u32) -> bool,
) {
    let change = match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => {
            events.link = true;
            link_change(body)
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            events.address = true;
            address_change(body)
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            events.route = true;
            route_change(body)
        }
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH if word(body, 4).is_some_and(&watches) => {
            events.neighbour = true;
            neighbour_change(body)
        }
        _ => return,
    };
    let gone = matches!(
        kind,
        libc::RTM_DELLINK | libc::RTM_DELADDR | libc::RTM_DELROUTE | libc::RTM_DELNEIGH
    );
    match change.filter(|_| events.changes.len() < CHANGES_MAX) {
        Some(change) => events.changes.push(Change {
            gone,
            port,
            ..change
        }),
        None => events.unnamed = true,
    }
}

fn changed(table: Table, link: u32, subject: String) -> Change {
    Change {
        table,
        link,
        subject,
        gone: false,
        up: false,
        port: 0,
    }
}

/// struct ifinfomsg; what bridges tell of their ports is left out.
fn link_change(body: &[u8]) -> Option<Change> {
    let (index, flags) = (word(body, 4)?, word(body, 8)?);
    let name = text(attribute(body.get(16..)?, IFLA_IFNAME)?);
    (body[0] == 0).then(|| Change {
        up: flags & 1 != 0,
        ..changed(Table::Link, index, name)
    })
}

/// struct ifaddrmsg.
fn address_change(body: &[u8]) -> Option<Change> {
    let index = word(body, 4)?;
    let attributes = body.get(8..)?;
    let value = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let prefix = Prefix::new(ip(value)?, u32::from(body[1]))?;
    Some(changed(Table::Address, index, prefix.to_string()))
}

/// struct rtmsg, of the main table.
fn route_change(body: &[u8]) -> Option<Change> {
    let (family, length, table) = (*body.first()?, *body.get(1)?, *body.get(4)?);
    let address = match attribute(body.get(12..)?, RTA_DST) {
        Some(value) => ip(value)?,
        None if i32::from(family) == libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let prefix = Prefix::new(address, u32::from(length))?;
    (table == libc::RT_TABLE_MAIN).then(|| changed(Table::Route, 0, prefix.to_string()))
}

/// struct ndmsg: AF_BRIDGE has forwarding entries, the IP families neighbours.
fn neighbour_change(body: &[u8]) -> Option<Change> {
    let (family, index) = (i32::from(*body.first()?), word(body, 4)?);
    let attributes = body.get(12..)?;
    if family == libc::AF_BRIDGE {
        let mac = Mac::from_bytes(attribute(attributes, NDA_LLADDR)?)?;
        return Some(changed(Table::Fdb, index, mac.to_string()));
    }
    let address = ip(attribute(attributes, NDA_DST)?)?;
    Some(changed(Table::Neighbour, index, address.to_string()))
}

fn word(body: &[u8], at: usize) -> Option<u32> {
    let bytes = body.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(octets.into());
    }
    Some(<[u8; 16]>::try_from(value).ok()?.into())
}

/// Looks at once for those who made the changes: `ip` is gone a moment later.
fn find_owners(events: &mut Events) {
    for change in &events.changes {
        if change.port == 0 || events.owners.contains_key(&change.port) {
            continue;
        }
        if events.owners.len() == LOOKUPS_MAX {
            return;
        }
        let owner = Owner::find(Path::new("/proc"), change.port);
        events.owners.insert(change.port, owner);
    }
}

/// Forgets what this process did itself: it knows, and thousands of routes must not hide what others did.
/// The tables stay named, since somebody may keep a copy of one.
fn drop_own(events: &mut Events, own: u32) {
    let Events {
        changes, owners, ..
    } = events;
    changes.retain(|change| {
        owners
            .get(&change.port)
            .is_none_or(|owner| owner.pid != own)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes
    }

    fn neighbour(link: u32) -> Vec<u8> {
        let body = [[0; 4], link.to_ne_bytes(), [0; 4]].concat();
        message(libc::RTM_NEWNEIGH, &body)
    }

    fn noted(datagram: &[u8]) -> Events {
        let mut events = Events::default();
        note(&mut events, datagram, |link| link == 7);
        events
    }

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn from_port(port: u32, mut message: Vec<u8>) -> Vec<u8> {
        message[12..16].copy_from_slice(&port.to_ne_bytes());
        message
    }

    fn route_gone(table: u8, port: u32) -> Vec<u8> {
        let fixed = [2, 24, 0, 0, table, 241, 0, 1, 0, 0, 0, 0];
        let body = [fixed.to_vec(), attr(RTA_DST, &[10, 5, 34, 0])].concat();
        from_port(port, message(libc::RTM_DELROUTE, &body))
    }

    #[test]
    fn every_message_of_a_datagram_counts() {
        let both = [
            message(libc::RTM_DELLINK, &[0; 16]),
            message(libc::RTM_NEWROUTE, &[]),
        ]
        .concat();
        let events = noted(&both);
        assert!(events.link && events.route && events.unnamed);
        assert!(!events.address && !events.neighbour && events.changes.is_empty());
    }

    #[test]
    fn a_change_names_its_table_subject_and_port() {
        let mut fixed = [0; 16];
        fixed[4] = 7;
        let link = [fixed.to_vec(), attr(IFLA_IFNAME, b"flannel.1\0")].concat();
        let address = [
            vec![2, 32, 0, 0, 7, 0, 0, 0],
            attr(IFA_LOCAL, &[10, 5, 1, 0]),
        ]
        .concat();
        let ndm = |family| vec![family, 0, 0, 0, 7, 0, 0, 0, 0x80, 0, 0, 0];
        let neighbour = [ndm(2), attr(NDA_DST, &[10, 5, 34, 0])].concat();
        let fdb = [ndm(7), attr(NDA_LLADDR, &[2, 0, 0, 0, 0, 9])].concat();
        let all = [
            message(libc::RTM_NEWLINK, &link),
            message(libc::RTM_DELADDR, &address),
            message(libc::RTM_NEWNEIGH, &neighbour),
            message(libc::RTM_DELNEIGH, &fdb),
            route_gone(libc::RT_TABLE_MAIN, 4711),
        ]
        .concat();
        let change = |table, link, subject: &str, gone| Change {
            gone,
            ..changed(table, link, subject.to_owned())
        };
        let events = noted(&all);
        assert_eq!(
            events.changes,
            [
                change(Table::Link, 7, "flannel.1", false),
                change(Table::Address, 7, "10.5.1.0/32", true),
                change(Table::Neighbour, 7, "10.5.34.0", false),
                change(Table::Fdb, 7, "02:00:00:00:00:09", true),
                Change {
                    port: 4711,
                    ..change(Table::Route, 0, "10.5.34.0/24", true)
                },
            ]
        );
        assert!(!events.unnamed);
    }

    #[test]
    fn routes_of_other_tables_and_a_flood_are_told_without_names() {
        let events = noted(&route_gone(100, 1));
        assert!(events.route && events.unnamed && events.changes.is_empty());
        let events = noted(&route_gone(libc::RT_TABLE_MAIN, 1).repeat(CHANGES_MAX + 1));
        assert!(events.unnamed);
        assert_eq!(events.changes.len(), CHANGES_MAX);
    }

    #[test]
    fn neighbours_count_only_on_watched_links() {
        assert!(noted(&neighbour(7)).neighbour);
        assert_eq!(noted(&neighbour(8)), Events::default());
    }

    #[test]
    fn a_cut_or_lying_datagram_ends_quietly() {
        let whole = [
            neighbour(7),
            route_gone(libc::RT_TABLE_MAIN, 1),
            message(libc::RTM_NEWADDR, &[0; 8]),
        ]
        .concat();
        for end in 0..whole.len() {
            noted(&whole[..end]);
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut lying = whole.clone();
                lying[at] = byte;
                noted(&lying);
            }
        }
        let mut lying = message(libc::RTM_NEWADDR, &[0; 8]);
        lying[..4].fill(0);
        assert!(noted(&lying).address);
        lying[..4].fill(0xff);
        assert!(noted(&lying).address);
    }
}
