//! Notifications of the kernel, folded: which tables changed, not what changed in them.
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};

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

/// Which tables changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
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
            Ok(()) => note(events, &self.datagram, watches),
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
        let [l0, l1, l2, l3, k0, k1, ..] = *header;
        match u16::from_ne_bytes([k0, k1]) {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => events.link = true,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => events.address = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => events.route = true,
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                events.neighbour |= neighbour_link(body).is_some_and(&watches);
            }
            _ => {}
        }
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        match rest.get(length.max(HEADER_LEN).next_multiple_of(4)..) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

/// ndm_ifindex of struct ndmsg.
fn neighbour_link(body: &[u8]) -> Option<u32> {
    let bytes = body.get(4..8)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
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

    #[test]
    fn every_message_of_a_datagram_counts() {
        let both = [
            message(libc::RTM_DELLINK, &[0; 16]),
            message(libc::RTM_NEWROUTE, &[]),
        ]
        .concat();
        assert_eq!(
            noted(&both),
            Events {
                link: true,
                route: true,
                ..Events::default()
            }
        );
    }

    #[test]
    fn neighbours_count_only_on_watched_links() {
        assert!(noted(&neighbour(7)).neighbour);
        assert_eq!(noted(&neighbour(8)), Events::default());
    }

    #[test]
    fn a_cut_or_lying_datagram_ends_quietly() {
        let whole = [neighbour(7), message(libc::RTM_NEWADDR, &[0; 8])].concat();
        for end in 0..whole.len() {
            noted(&whole[..end]);
        }
        let mut lying = message(libc::RTM_NEWADDR, &[0; 8]);
        lying[..4].fill(0);
        assert!(noted(&lying).address);
        lying[..4].fill(0xff);
        assert!(noted(&lying).address);
    }
}
