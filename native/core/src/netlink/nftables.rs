//! Notifications of nf_tables, folded: which of the watched chains were touched, and by whom.
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use tokio::sync::{Mutex, watch};

use super::attribute::{attribute, text};
use crate::error::Error;

/// What arrives this soon after the first notification joins its batch.
const FOLD_WITHIN: Duration = Duration::from_millis(5);
/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;
/// The kernel packs notifications into less; a longer one is cut off.
const DATAGRAM_LEN: usize = 32 * 1024;
const HEADER_LEN: usize = 16;
/// struct nfgenmsg.
const GENERIC_LEN: usize = 4;
/// NFNL_SUBSYS_NFTABLES, in the upper byte of a message's type.
const SUBSYSTEM: u8 = 10;

// Message types and attributes of linux/netfilter/nf_tables.h.
const NEW_CHAIN: u8 = 3;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
const NEW_GENERATION: u8 = 15;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const GENERATION_PID: u16 = 2;
const GENERATION_PROCESS: u16 = 3;

/// What happened to the watched chains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NftablesChange {
    /// Which of them, or of their rules, came, changed or went, in whatever table.
    pub chains: BTreeSet<String>,
    /// The last process that did so, 0 when unknown, as seen from the first pid namespace.
    pub pid: u32,
    /// Its name, at most 15 bytes.
    pub process: String,
    /// The kernel had to drop notifications: anything may have changed.
    pub overrun: bool,
    /// Chains touched by the transaction whose end was not heard yet.
    open: bool,
}

/// A socket that hears of every transaction of nf_tables in one network namespace.
pub struct NftablesMonitor {
    /// `None` once closed.
    socket: Mutex<Option<(TokioSocket, Vec<u8>)>>,
    watched: BTreeSet<String>,
    closed: watch::Sender<bool>,
}

impl NftablesMonitor {
    /// Listens in the network namespace of the calling thread. Must run on a tokio runtime.
    pub fn open(watched: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let failed = |error| Error::from_io(&error, "open nf_tables notifications");
        let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(failed)?;
        let address = SocketAddr::new(0, 1 << (GROUP - 1));
        socket.socket_mut().bind(&address).map_err(failed)?;
        Ok(Self {
            socket: Mutex::new(Some((socket, Vec::with_capacity(DATAGRAM_LEN)))),
            watched: watched.into_iter().collect(),
            closed: watch::Sender::new(false),
        })
    }

    /// The next change to what is watched; `None` after [`NftablesMonitor::close`].
    pub async fn next(&self) -> Result<Option<NftablesChange>, Error> {
        let mut closed = self.closed.subscribe();
        let ended = async {
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let next = async {
            match self.socket.lock().await.as_mut() {
                Some((socket, datagram)) => gather(socket, datagram, &self.watched).await.map(Some),
                None => Ok(None),
            }
        };
        if let Either::Right((change, _)) = select(pin!(ended), pin!(next)).await {
            return change;
        }
        self.socket.lock().await.take();
        Ok(None)
    }

    /// Ends [`NftablesMonitor::next`] and gives the socket back. May be called twice.
    pub fn close(&self) {
        self.closed.send_replace(true);
        // While it is locked somebody waits for changes, is woken by `closed` and takes it.
        if let Ok(mut socket) = self.socket.try_lock() {
            socket.take();
        }
    }
}

/// Waits for something that matters, then takes what follows within [`FOLD_WITHIN`].
async fn gather(
    socket: &mut TokioSocket,
    datagram: &mut Vec<u8>,
    watched: &BTreeSet<String>,
) -> Result<NftablesChange, Error> {
    let mut change = NftablesChange::default();
    while change.chains.is_empty() && !change.overrun {
        receive(socket, datagram, &mut change, watched).await?;
    }
    let more = async {
        loop {
            receive(socket, datagram, &mut change, watched).await?;
        }
    };
    match tokio::time::timeout(FOLD_WITHIN, more).await {
        Ok(Err::<Infallible, Error>(error)) => Err(error),
        Err(_elapsed) => Ok(change),
    }
}

async fn receive(
    socket: &mut TokioSocket,
    datagram: &mut Vec<u8>,
    change: &mut NftablesChange,
    watched: &BTreeSet<String>,
) -> Result<(), Error> {
    datagram.clear();
    match poll_fn(|cx| socket.poll_recv(cx, datagram)).await {
        Ok(()) => note(change, datagram, watched),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => change.overrun = true,
        Err(error) => return Err(Error::from_io(&error, "receive nf_tables notifications")),
    }
    Ok(())
}

/// Notes what the messages of `datagram` say of `watched` chains. A transaction ends with who made it.
fn note(change: &mut NftablesChange, datagram: &[u8], watched: &BTreeSet<String>) {
    let mut rest = datagram;
    while let Some((header, body)) = rest.split_first_chunk::<HEADER_LEN>() {
        let [l0, l1, l2, l3, k0, k1, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body_len = length.saturating_sub(HEADER_LEN).min(body.len());
        let attributes = body.get(GENERIC_LEN..body_len).unwrap_or_default();
        let [kind, subsystem] = u16::from_ne_bytes([k0, k1]).to_le_bytes();
        if subsystem == SUBSYSTEM {
            note_message(change, kind, attributes, watched);
        }
        match rest.get(length.max(HEADER_LEN).next_multiple_of(4)..) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

fn note_message(
    change: &mut NftablesChange,
    kind: u8,
    attributes: &[u8],
    watched: &BTreeSet<String>,
) {
    let chain = match kind {
        NEW_CHAIN | DELETE_CHAIN => attribute(attributes, CHAIN_NAME),
        NEW_RULE | DELETE_RULE => attribute(attributes, RULE_CHAIN),
        NEW_GENERATION if change.open => {
            let pid = attribute(attributes, GENERATION_PID).and_then(|value| value.try_into().ok());
            change.pid = pid.map(u32::from_be_bytes).unwrap_or_default();
            change.process = attribute(attributes, GENERATION_PROCESS)
                .map(text)
                .unwrap_or_default();
            change.open = false;
            None
        }
        _ => None,
    };
    if let Some(name) = chain.map(text).filter(|name| watched.contains(name)) {
        change.chains.insert(name);
        change.open = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [vec![0; GENERIC_LEN], attributes.concat()].concat();
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(u16::from_le_bytes([kind, SUBSYSTEM]).to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes
    }

    fn rule_gone(chain: &str) -> Vec<u8> {
        let chain = format!("{chain}\0");
        message(
            DELETE_RULE,
            &[attr(1, b"nat\0"), attr(RULE_CHAIN, chain.as_bytes())],
        )
    }

    fn generation(pid: u32, process: &str) -> Vec<u8> {
        let process = format!("{process}\0");
        message(
            NEW_GENERATION,
            &[
                attr(1, &[0, 0, 0, 9]),
                attr(GENERATION_PID, &pid.to_be_bytes()),
                attr(GENERATION_PROCESS, process.as_bytes()),
            ],
        )
    }

    fn noted(datagram: &[u8]) -> NftablesChange {
        let mut change = NftablesChange::default();
        note(
            &mut change,
            datagram,
            &BTreeSet::from(["FORWARD".into(), "postrtg".into()]),
        );
        change
    }

    #[test]
    fn a_change_is_known_by_its_chain_and_whoever_made_it() {
        let change = noted(&[rule_gone("FORWARD"), generation(706, "nft")].concat());
        assert_eq!(change.chains, BTreeSet::from(["FORWARD".to_owned()]));
        assert_eq!((change.pid, change.process.as_str()), (706, "nft"));
    }

    #[test]
    fn a_transaction_elsewhere_is_nobodys_business_and_takes_no_blame() {
        let elsewhere = [rule_gone("KUBE-SERVICES"), generation(1, "kube-proxy")].concat();
        assert_eq!(noted(&elsewhere), NftablesChange::default());
        let both = [rule_gone("postrtg"), generation(7, "nft"), elsewhere].concat();
        assert_eq!(noted(&both).pid, 7);
    }

    #[test]
    fn a_chain_that_goes_counts_like_its_rules() {
        let gone = message(
            DELETE_CHAIN,
            &[attr(1, b"t\0"), attr(CHAIN_NAME, b"postrtg\0")],
        );
        assert!(noted(&gone).chains.contains("postrtg"));
    }

    #[test]
    fn other_subsystems_are_passed_over() {
        let mut other = rule_gone("FORWARD");
        let kind = u16::from_le_bytes([DELETE_RULE, SUBSYSTEM + 1]).to_ne_bytes();
        other[4..6].copy_from_slice(&kind);
        assert_eq!(noted(&other), NftablesChange::default());
    }

    #[test]
    fn a_cut_or_lying_datagram_ends_quietly() {
        let whole = [rule_gone("FORWARD"), generation(706, "nft")].concat();
        for end in 0..whole.len() {
            noted(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut lying = whole.clone();
            for byte in [0, 1, 0x7f, 0xff] {
                lying[at] = byte;
                noted(&lying);
            }
        }
    }
}
