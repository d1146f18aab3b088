//! Ancillary data of a message (cmsg(3)), written and read as plain bytes.

/// Room for what one datagram needs: a TOS and a segment size, with their headers.
pub type Control = Ancillary<64>;

/// Room for that many bytes of entries with their headers.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Ancillary<const CAPACITY: usize> {
    bytes: [u8; CAPACITY],
    len: usize,
}

const WORD: usize = size_of::<usize>();
/// Length (a word), level and type (four bytes each), padded to a word.
const HEADER: usize = (WORD + 8).next_multiple_of(WORD);

impl<const CAPACITY: usize> Ancillary<CAPACITY> {
    /// No entries, all room free.
    pub const EMPTY: Self = Self {
        bytes: [0; CAPACITY],
        len: 0,
    };

    /// Appends an entry; one that does not fit is left out.
    pub fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let end = self.len + length.next_multiple_of(WORD);
        let Some(entry) = self.bytes.get_mut(self.len..end) else {
            return;
        };
        let fields = length.to_ne_bytes().into_iter().chain(level.to_ne_bytes());
        for (to, from) in entry.iter_mut().zip(fields.chain(kind.to_ne_bytes())) {
            *to = from;
        }
        for (to, from) in entry.iter_mut().skip(HEADER).zip(data) {
            *to = *from;
        }
        self.len = end;
    }

    /// The buffer for the kernel to read (`len` bytes) or to write (`capacity` bytes).
    pub fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes there are.
    pub const fn capacity() -> usize {
        CAPACITY
    }

    /// The entries (level, type, data) in the first `len` bytes, as the kernel wrote them.
    pub fn entries(&self, len: usize) -> impl Iterator<Item = (i32, i32, &[u8])> {
        let mut rest = self.bytes.get(..len).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<WORD>()?;
            let (level, after) = after.split_first_chunk::<4>()?;
            let (kind, _) = after.split_first_chunk::<4>()?;
            let length = usize::from_ne_bytes(*length);
            let data = rest.get(HEADER..length)?;
            rest = rest
                .get(length.next_multiple_of(WORD)..)
                .unwrap_or_default();
            Some((i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read() {
        let mut control = Control::EMPTY;
        control.push(17, 103, &1400u16.to_ne_bytes());
        control.push(0, 1, &2i32.to_ne_bytes());
        let entries: Vec<_> = control.entries(control.len()).collect();
        assert_eq!(
            entries,
            [
                (17, 103, &1400u16.to_ne_bytes()[..]),
                (0, 1, &2i32.to_ne_bytes()[..])
            ]
        );
        assert_eq!(
            control.entries(control.len() - 8).count(),
            1,
            "a cut entry is no entry"
        );
    }

    #[test]
    fn the_layout_is_that_of_libc() {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute.
        assert_eq!(HEADER, unsafe { libc::CMSG_LEN(0) } as usize);
        let mut control = Control::EMPTY;
        control.push(0, 0, &[1, 2]);
        // SAFETY: as above.
        assert_eq!(control.len(), unsafe { libc::CMSG_SPACE(2) } as usize);
    }

    #[test]
    fn too_much_is_left_out() {
        let mut control = Control::EMPTY;
        control.push(0, 0, &[0; 49]);
        assert!(control.is_empty());
    }
}
