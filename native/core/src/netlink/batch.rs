//! Many changes in one system call, each with a result of its own.
use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::Netlink;
use super::request::{error_attributes, extended_text, is_gone};
use crate::error::Error;

/// Messages in one system call, so few that the refusal of each fits the socket's receive buffer: by default
/// 208 KiB, of which one answer takes less than 1 KiB.
const MESSAGES_MAX: usize = 128;

/// The answers to changes are short: a header, the errno, the kernel's words.
const DATAGRAM_LEN: usize = 4096;

/// One change of neighbours, forwarding entries or routes.
#[derive(Clone, Debug)]
pub struct Edit {
    pub(super) message: RouteNetlinkMessage,
    /// Beside NLM_F_REQUEST and NLM_F_ACK.
    pub(super) flags: u16,
    /// What is tried on what, for errors.
    pub(super) operation: String,
    /// Whether there may be nothing to remove.
    pub(super) removes: bool,
    /// The link whose neighbours or forwarding entries somebody wants to hear of from now on.
    pub(super) watches: Option<u32>,
}

impl Netlink {
    /// Makes one change; resolves when the kernel has acknowledged it.
    pub(super) async fn edit(&self, edit: Edit) -> Result<(), Error> {
        if let Some(link) = edit.watches {
            self.watch(link);
        }
        if edit.removes {
            self.remove(edit.message, &edit.operation).await
        } else {
            self.change(edit.message, edit.flags, &edit.operation).await
        }
    }

    /// Makes changes in their order and gives the result of each; what comes after one that fails is tried
    /// all the same. ENOBUFS: the kernel's answer to this one was lost, and it may or may not have been made.
    pub async fn apply(&self, edits: Vec<Edit>) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(edits.len());
        let mut batch = self.batch.lock().await;
        for chunk in edits.chunks(MESSAGES_MAX) {
            for link in chunk.iter().filter_map(|edit| edit.watches) {
                self.watch(link);
            }
            match batch.as_mut().filter(|_| !*self.closed.borrow()) {
                Some(batch) => results.extend(batch.apply(chunk)),
                None => results.extend(chunk.iter().map(|edit| {
                    let detail = "the netlink socket is closed";
                    Err(Error::with_detail(libc::EBADF, &*edit.operation, detail))
                })),
            }
            // The kernel works while it is asked: others on this thread get their turn between two calls.
            tokio::task::yield_now().await;
        }
        if *self.closed.borrow() {
            batch.take();
        }
        results
    }
}

/// Where batches go: the kernel takes one whole, does what it says, and has answered when it is taken.
pub(super) trait Wire {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The next answer, behind what `datagram` holds. WouldBlock: there is none; ENOBUFS: some were lost.
    fn receive(&mut self, datagram: &mut Vec<u8>) -> io::Result<()>;
}

/// An rtnetlink socket that never waits.
pub(super) struct RouteSocket(Socket);

impl RouteSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self(socket))
    }
}

impl Wire for RouteSocket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send(bytes, 0).map(drop)
    }

    fn receive(&mut self, datagram: &mut Vec<u8>) -> io::Result<()> {
        datagram.reserve(DATAGRAM_LEN);
        self.0.recv(datagram, 0).map(drop)
    }
}

/// A socket for batches, and what its messages were numbered with so far.
pub(super) struct Batch<W> {
    wire: W,
    sequence: u32,
}

impl<W: Wire> Batch<W> {
    pub(super) fn new(wire: W) -> Self {
        Self { wire, sequence: 0 }
    }

    /// At most [`MESSAGES_MAX`] changes. Of all of them only the last is acknowledged, which says that the others
    /// were taken too: the kernel answers in order, and answers a refusal always.
    fn apply(&mut self, edits: &[Edit]) -> Vec<Result<(), Error>> {
        let first = self.sequence;
        self.sequence = first.wrapping_add(edits.len() as u32);
        let bytes = encode(edits, first);
        let mut answers = vec![None; edits.len()];
        let sent = self.wire.send(&bytes);
        let heard = sent.and_then(|()| self.hear(first, &mut answers));
        let complete = matches!(heard, Ok(false)) && answers.last().is_some_and(Option::is_some);
        edits
            .iter()
            .zip(answers)
            .map(|(edit, answer)| match (answer, &heard) {
                (Some(Answer { errno: 0, .. }), _) => Ok(()),
                (Some(Answer { errno, .. }), _) if edit.removes && is_gone(errno) => Ok(()),
                (Some(Answer { errno, text: None }), _) => Err(Error::new(errno, &*edit.operation)),
                (Some(Answer { errno, text }), _) => Err(Error::with_detail(
                    errno,
                    &*edit.operation,
                    &text.unwrap_or_default(),
                )),
                (None, _) if complete => Ok(()),
                (None, Err(error)) => Err(Error::from_io(error, &*edit.operation)),
                (None, Ok(_)) => Err(Error::with_detail(
                    libc::ENOBUFS,
                    &*edit.operation,
                    "the kernel's answer was lost",
                )),
            })
            .collect()
    }

    /// Reads all answers there are. True: some were lost.
    fn hear(&mut self, first: u32, answers: &mut [Option<Answer>]) -> io::Result<bool> {
        let mut overrun = false;
        let mut datagram = Vec::new();
        loop {
            datagram.clear();
            match self.wire.receive(&mut datagram) {
                Ok(()) => note(&datagram, first, answers),
                // Told once; what did fit comes behind it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overrun = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(overrun),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the kernel says of one message.
#[derive(Clone, Debug)]
struct Answer {
    /// Positive; 0: it is done.
    errno: i32,
    text: Option<String>,
}

fn encode(edits: &[Edit], first: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(edits.len() * 128);
    for (at, edit) in edits.iter().enumerate() {
        let mut message = NetlinkMessage::from(edit.message.clone());
        let last = at + 1 == edits.len();
        message.header.flags = NLM_F_REQUEST | edit.flags | if last { NLM_F_ACK } else { 0 };
        message.header.sequence_number = first.wrapping_add(at as u32);
        message.finalize();
        let begin = bytes.len();
        bytes.resize(begin + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[begin..]);
    }
    bytes
}

/// Notes the answers in `datagram`; what belongs to an earlier batch is passed over.
fn note(datagram: &[u8], first: u32, answers: &mut [Option<Answer>]) {
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let (header, payload) = message.into_parts();
        let at = header.sequence_number.wrapping_sub(first) as usize;
        if let (NLMSG_ERROR, NetlinkPayload::Error(error), Some(answer)) =
            (header.message_type, payload, answers.get_mut(at))
        {
            *answer = Some(Answer {
                errno: error.raw_code().saturating_abs(),
                text: extended_text(error_attributes(header.flags, &error.header)),
            });
        }
        let length = (header.length as usize).max(1).next_multiple_of(4);
        match rest.get(length..) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::netlink::Mac;

    /// A kernel that refuses messages by their place in all that it was sent.
    #[derive(Default)]
    struct FakeKernel {
        refusals: BTreeMap<usize, i32>,
        /// Answers that fit its socket; of more it says that they are lost.
        room: usize,
        done: Vec<RouteNetlinkMessage>,
        taken: usize,
        sends: usize,
        answers: VecDeque<Vec<u8>>,
        overrun: bool,
    }

    impl Wire for FakeKernel {
        fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
            self.sends += 1;
            while !bytes.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
                let (header, payload) = message.into_parts();
                let errno = self.refusals.get(&self.taken).copied().unwrap_or(0);
                self.taken += 1;
                if let (NetlinkPayload::InnerMessage(inner), 0) = (payload, errno) {
                    self.done.push(inner);
                }
                if errno != 0 || header.flags & NLM_F_ACK != 0 {
                    self.answer(header.sequence_number, errno);
                }
                bytes = &bytes[(header.length as usize).next_multiple_of(4)..];
            }
            Ok(())
        }

        fn receive(&mut self, datagram: &mut Vec<u8>) -> io::Result<()> {
            if std::mem::take(&mut self.overrun) {
                return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            }
            let answer = self.answers.pop_front();
            datagram.extend(answer.ok_or(io::ErrorKind::WouldBlock)?);
            Ok(())
        }
    }

    impl FakeKernel {
        fn answer(&mut self, sequence: u32, errno: i32) {
            if self.answers.len() == self.room {
                self.overrun = true;
                return;
            }
            self.answers.push_back(answer(sequence, errno));
        }
    }

    /// struct nlmsghdr and struct nlmsgerr with the header of what it answers.
    fn answer(sequence: u32, errno: i32) -> Vec<u8> {
        let header = |length: u32, kind: u16| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(0x100_u16.to_ne_bytes()); // NLM_F_CAPPED
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes
        };
        let mut bytes = header(36, NLMSG_ERROR);
        bytes.extend((-errno).to_ne_bytes());
        bytes.extend(header(16, libc::RTM_NEWNEIGH));
        bytes
    }

    fn batch(refusals: &[(usize, i32)], room: usize) -> Batch<FakeKernel> {
        Batch::new(FakeKernel {
            refusals: refusals.iter().copied().collect(),
            room,
            ..FakeKernel::default()
        })
    }

    fn ip(at: usize) -> IpAddr {
        Ipv4Addr::from(0x0a05_0000 + at as u32).into()
    }

    fn puts(count: usize) -> Vec<Edit> {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        (0..count)
            .map(|at| Edit::put_neighbour(7, ip(at), mac))
            .collect()
    }

    fn errnos(results: &[Result<(), Error>]) -> Vec<(usize, i32)> {
        let errors = results.iter().enumerate();
        errors
            .filter_map(|(at, result)| Some((at, result.as_ref().err()?.errno)))
            .collect()
    }

    #[test]
    fn what_fails_is_told_by_its_own_item_and_the_rest_is_made_in_order() {
        let mut batch = batch(&[(3, libc::ENODEV), (9, libc::EINVAL)], 100);
        let edits = puts(10);
        let results = batch.apply(&edits);
        assert_eq!(errnos(&results), [(3, libc::ENODEV), (9, libc::EINVAL)]);
        let error = results[3].as_ref().unwrap_err();
        assert_eq!(
            error.to_string(),
            "ENODEV: put neighbour 10.5.0.3 02:00:00:00:00:01 on link 7: No such device"
        );
        let made: Vec<_> = [0, 1, 2, 4, 5, 6, 7, 8]
            .map(|at: usize| edits[at].message.clone())
            .to_vec();
        assert_eq!(batch.wire.done, made);
        assert_eq!(batch.wire.sends, 1);
    }

    #[test]
    fn what_was_gone_already_is_removed() {
        let edits: Vec<_> = (0..4).map(|at| Edit::delete_neighbour(7, ip(at))).collect();
        let mut batch = batch(&[(0, libc::ENOENT), (2, libc::EPERM), (3, libc::ENODEV)], 9);
        assert_eq!(errnos(&batch.apply(&edits)), [(2, libc::EPERM)]);
    }

    #[test]
    fn after_lost_answers_nothing_counts_as_made_that_was_not_told_and_the_next_batch_is_well() {
        let refusals: Vec<_> = (0..5).map(|at| (at, libc::EPERM)).collect();
        let mut batch = batch(&refusals, 3);
        let mut expected: Vec<_> = (0..3).map(|at| (at, libc::EPERM)).collect();
        expected.extend((3..8).map(|at| (at, libc::ENOBUFS)));
        assert_eq!(errnos(&batch.apply(&puts(8))), expected);
        assert_eq!(errnos(&batch.apply(&puts(8))), []);
    }

    #[test]
    fn without_the_last_answer_nothing_is_known() {
        let mut batch = batch(&[], 0);
        let results = batch.apply(&puts(2));
        assert_eq!(errnos(&results), [(0, libc::ENOBUFS), (1, libc::ENOBUFS)]);
    }

    #[test]
    fn answers_to_an_earlier_batch_and_nonsense_are_passed_over() {
        let mut batch = batch(&[], 100);
        batch.sequence = u32::MAX - 1; // it may turn over
        let strays = [
            answer(5, libc::EPERM),
            vec![0xff; 40],
            vec![0; 40],
            vec![1],
            Vec::new(),
        ];
        batch.wire.answers.extend(strays);
        assert_eq!(errnos(&batch.apply(&puts(4))), []);
        assert_eq!(batch.sequence, 2);
    }
}
