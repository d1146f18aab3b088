//! What a failed operation says: the errno's name, the operation with its subject, the kernel's words.
use std::borrow::Cow;
use std::io;

/// An operation that the kernel refused. Its text begins with the errno's name, by which the other
/// side of the border tells failures apart: `EEXIST: add vxlan flannel.1: File exists`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {operation}: {reason}", errno_name(*.errno))]
pub struct Error {
    /// The errno, positive.
    pub errno: i32,
    /// What was tried on what.
    pub operation: String,
    /// The errno in words, with the kernel's extended acknowledgement where it sent one.
    pub reason: String,
}

impl Error {
    /// The refusal `errno` (its sign does not matter).
    pub fn new(errno: i32, operation: impl Into<String>) -> Self {
        let errno = errno.saturating_abs();
        Self {
            errno,
            operation: operation.into(),
            reason: errno_text(errno),
        }
    }

    /// As [`Error::new`], with `detail` said after the errno's own words.
    pub fn with_detail(errno: i32, operation: impl Into<String>, detail: &str) -> Self {
        let mut error = Self::new(errno, operation);
        error.reason = format!("{} ({detail})", error.reason);
        error
    }

    /// EINVAL for an argument that cannot be meant.
    pub fn invalid(operation: impl Into<String>, detail: &str) -> Self {
        Self::with_detail(libc::EINVAL, operation, detail)
    }

    /// A failed system call; one that carries no errno becomes EIO with its text.
    pub fn from_io(error: &io::Error, operation: impl Into<String>) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::new(errno, operation),
            None if error.kind() == io::ErrorKind::InvalidInput => {
                Self::invalid(operation, &error.to_string())
            }
            None => Self::with_detail(libc::EIO, operation, &error.to_string()),
        }
    }
}

/// The errno in words, as the C library has them.
fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

macro_rules! names {
    ($errno:expr, $($name:ident)*) => {
        match $errno {
            $(libc::$name => Cow::Borrowed(stringify!($name)),)*
            other => Cow::Owned(format!("E{other}")),
        }
    };
}

/// The symbolic name of `errno`, `E<number>` for one without a name here.
pub fn errno_name(errno: i32) -> Cow<'static, str> {
    names!(errno,
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENOMSG EIDRM ENODATA ETIME ENOLINK EPROTO EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG
        EILSEQ EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
        ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN
        ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
        ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE
        EDQUOT ECANCELED EOWNERDEAD ENOTRECOVERABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_begins_with_the_name_of_the_errno() {
        let error = Error::new(-libc::EEXIST, "add vxlan flannel.1");
        assert_eq!(
            error.to_string(),
            "EEXIST: add vxlan flannel.1: File exists"
        );
    }

    #[test]
    fn an_errno_without_a_name_is_a_number() {
        assert!(
            Error::new(4095, "try")
                .to_string()
                .starts_with("E4095: try: ")
        );
        assert_eq!(Error::new(i32::MIN, "try").errno, i32::MAX);
    }

    #[test]
    fn an_io_error_without_errno_keeps_its_words() {
        let error = Error::from_io(&io::Error::other("broken"), "notify x");
        assert_eq!(
            error.to_string(),
            "EIO: notify x: Input/output error (broken)"
        );
    }
}
