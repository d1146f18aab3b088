//! Packet formats: slices in, values and slices out. Pure and total: any bytes give a value or a reason.
pub mod checksum;
pub mod ecn;
pub mod icmp;
pub mod ip;
pub mod virtio;
pub mod vxlan;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// The big-endian 16-bit number at `at`, if `bytes` reaches that far.
pub fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The big-endian 32-bit number at `at`, if `bytes` reaches that far.
pub fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes `value` big-endian at `at`; does nothing where `bytes` does not reach that far.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}

/// Writes `value` big-endian at `at`; does nothing where `bytes` does not reach that far.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value.to_be_bytes();
    }
}
