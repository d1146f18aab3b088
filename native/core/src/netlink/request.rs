//! One request and all of its answer: acknowledgements, interrupted dumps, the kernel's own words.
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::Netlink;
use crate::error::Error;

/// A dump during which the table changed may lack entries; it is repeated this often at most.
const DUMP_ATTEMPTS: usize = 8;

/// The kernel answers while it is asked. A longer silence means that the answer was lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER_LEN: usize = 16;

impl Netlink {
    /// Asks for a change; resolves when the kernel has acknowledged it.
    pub(super) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<(), Error> {
        self.request(message, NLM_F_ACK | flags, operation, |_| {})
            .await
    }

    /// As [`Netlink::change`], where it does not matter that there was nothing to remove.
    pub(super) async fn remove(
        &self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<(), Error> {
        match self.change(message, 0, operation).await {
            Err(error) if is_gone(error.errno) => Ok(()),
            result => result,
        }
    }

    /// The answer to a question about one object.
    pub(super) async fn lookup<T>(
        &self,
        message: RouteNetlinkMessage,
        operation: &str,
        convert: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        self.request(message, NLM_F_ACK, operation, |answer| {
            found = found.take().or_else(|| convert(answer));
        })
        .await?;
        Ok(found)
    }

    /// Every entry of a table, as far as `convert` takes it.
    pub(super) async fn dump<T>(
        &self,
        message: RouteNetlinkMessage,
        operation: &str,
        convert: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut attempt = 1;
        loop {
            let mut found = Vec::new();
            let result = self
                .request(message.clone(), NLM_F_DUMP, operation, |answer| {
                    found.extend(convert(answer));
                })
                .await;
            match result {
                Ok(()) => return Ok(found),
                Err(error) if error.errno == libc::EINTR && attempt < DUMP_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Error> {
        let closed = || Error::with_detail(libc::EBADF, operation, "the netlink socket is closed");
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let _turn = self.turn.lock().await;
        let answers = self.handle.clone().request(request).map_err(|_| closed())?;
        let mut answers = pin!(answers);
        let mut interrupted = false;
        loop {
            let answer = tokio::time::timeout(ANSWER_WITHIN, answers.next())
                .await
                .map_err(|_| Error::new(libc::ETIMEDOUT, operation))?
                .ok_or_else(closed)?;
            let (header, payload) = answer.into_parts();
            interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            let (code, attributes) = match payload {
                NetlinkPayload::InnerMessage(message) => {
                    each(message);
                    continue;
                }
                NetlinkPayload::Error(error) => {
                    let attributes = error_attributes(header.flags, &error.header).to_vec();
                    (error.raw_code(), attributes)
                }
                NetlinkPayload::Done(done) => (done.code, done.extended_ack),
                NetlinkPayload::Overrun(_) => (-libc::ENOBUFS, Vec::new()),
                _ => continue,
            };
            return match extended_text(&attributes) {
                _ if code >= 0 && interrupted => Err(Error::new(libc::EINTR, operation)),
                _ if code >= 0 => Ok(()),
                Some(text) => Err(Error::with_detail(code, operation, &text)),
                None => Err(Error::new(code, operation)),
            };
        }
    }
}

/// What the kernel answers when the object to delete, or the device it was on, is not there.
pub(super) fn is_gone(errno: i32) -> bool {
    matches!(
        errno,
        libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ENODEV
    )
}

/// Attributes stand behind the echoed request, of which NETLINK_CAP_ACK leaves only the header.
pub(super) fn error_attributes(flags: u16, echoed: &[u8]) -> &[u8] {
    if flags & NLM_F_ACK_TLVS == 0 {
        &[]
    } else {
        echoed.get(HEADER_LEN..).unwrap_or_default()
    }
}

/// The text of an extended acknowledgement (include/uapi/linux/netlink.h, nlmsgerr_attrs).
pub(super) fn extended_text(mut attributes: &[u8]) -> Option<String> {
    while let Some(([l0, l1, k0, k1], body)) = attributes.split_first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = body.get(..length.checked_sub(4)?)?;
        if u16::from_ne_bytes([*k0, *k1]) == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(value)
                .trim_end_matches('\0')
                .to_owned();
            return (!text.is_empty()).then_some(text);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = (length as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_extended_text_is_found_behind_other_attributes() {
        let bytes = [
            attribute(2, &[1, 2, 3, 4]),
            attribute(1, b"No such thing\0"),
        ]
        .concat();
        assert_eq!(extended_text(&bytes).as_deref(), Some("No such thing"));
    }

    #[test]
    fn a_broken_extended_acknowledgement_is_none() {
        let good = attribute(1, b"text\0");
        for end in 0..8 {
            assert_eq!(extended_text(&good[..end]), None, "{end}");
        }
        assert_eq!(extended_text(&[0; 8]), None);
        assert_eq!(extended_text(&[3, 0, 1, 0]), None);
        assert_eq!(extended_text(&attribute(1, b"\0")), None);
        assert!(error_attributes(0, &[0; 40]).is_empty());
        assert!(error_attributes(NLM_F_ACK_TLVS, &[0; 3]).is_empty());
    }
}
