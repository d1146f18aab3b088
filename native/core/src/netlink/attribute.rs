//! Attributes of netlink messages (struct nlattr), read from bytes that may lie.

/// The value of the first attribute `wanted`.
pub(super) fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, _)) = rest.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        // The two upper bits say how the value is coded.
        if u16::from_ne_bytes([k0, k1]) & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A value that is text, up to its terminating zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}
