//! The system's clocks.

/// Microseconds on CLOCK_MONOTONIC, which other programs of this machine read alike.
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a live timespec, the only thing that is written. The clock always exists, so the call
    // cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_does_not_go_back() {
        let first = monotonic_us();
        assert!(first > 0);
        assert!(monotonic_us() >= first);
    }
}
