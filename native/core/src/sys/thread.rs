//! What a packet thread does first.

/// Blocks every signal on the calling thread but those a fault of its own raises: signals are the runtime's.
pub fn block_signals() {
    // SAFETY: sigset_t is plain data for which all zeroes is a valid value.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigfillset writes the set, which outlives the call.
    unsafe { libc::sigfillset(&mut all) };
    for fault in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
    ] {
        // SAFETY: sigdelset writes the set, which outlives the call.
        unsafe { libc::sigdelset(&mut all, fault) };
    }
    // SAFETY: pthread_sigmask reads the set; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut()) };
}
