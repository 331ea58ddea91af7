//! Errno: a POSIX error number as a value that crosses the wire.
//!
//! The numbers are Linux's (`include/uapi/asm-generic/errno.h`), the same on every architecture
//! that outsock runs on. One table holds number, name and meaning; a number that is not in it is
//! still carried, it only has no name.

use std::fmt;

/// A Linux error number. Never zero.
///
/// ```
/// use outsock_vmrpc::Errno;
/// assert_eq!(Errno::ECONNREFUSED.raw(), 111);
/// assert_eq!("EACCES".parse(), Ok(Errno::EACCES));
/// assert_eq!(Errno::EACCES.to_string(), "EACCES (permission denied)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(u16);

/// A name that is in no table of error numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an errno name that outsock knows (such as ECONNREFUSED or EACCES)")]
pub struct UnknownErrno(String);

macro_rules! table {
    ($($name:ident $number:literal $meaning:literal)*) => {
        impl Errno {
            $(#[doc = $meaning] pub const $name: Self = Self($number);)*

            /// Number, name and meaning of every errno that has a name here.
            pub const TABLE: &'static [(Self, &'static str, &'static str)] =
                &[$((Self($number), stringify!($name), $meaning)),*];
        }
    };
}

table! {
    EPERM 1 "operation not permitted"
    ENOENT 2 "no such file or directory"
    EINTR 4 "interrupted system call"
    EIO 5 "input/output error"
    EBADF 9 "bad file descriptor"
    EAGAIN 11 "resource temporarily unavailable"
    ENOMEM 12 "cannot allocate memory"
    EACCES 13 "permission denied"
    EFAULT 14 "bad address"
    EBUSY 16 "device or resource busy"
    ENODEV 19 "no such device"
    EINVAL 22 "invalid argument"
    ENFILE 23 "too many open files in system"
    EMFILE 24 "too many open files"
    EPIPE 32 "broken pipe"
    ENOSYS 38 "function not implemented"
    ELOOP 40 "too many levels of symbolic links"
    EPROTO 71 "protocol error"
    EMSGSIZE 90 "message too long"
    ENOPROTOOPT 92 "protocol not available"
    EPROTONOSUPPORT 93 "protocol not supported"
    EOPNOTSUPP 95 "operation not supported"
    EAFNOSUPPORT 97 "address family not supported by protocol"
    EADDRINUSE 98 "address already in use"
    EADDRNOTAVAIL 99 "cannot assign requested address"
    ENETDOWN 100 "network is down"
    ENETUNREACH 101 "network is unreachable"
    ECONNABORTED 103 "software caused connection abort"
    ECONNRESET 104 "connection reset by peer"
    ENOBUFS 105 "no buffer space available"
    EISCONN 106 "transport endpoint is already connected"
    ENOTCONN 107 "transport endpoint is not connected"
    ETIMEDOUT 110 "connection timed out"
    ECONNREFUSED 111 "connection refused"
    EHOSTDOWN 112 "host is down"
    EHOSTUNREACH 113 "no route to host"
    EALREADY 114 "operation already in progress"
    EINPROGRESS 115 "operation now in progress"
    ECANCELED 125 "operation canceled"
}

impl Errno {
    /// Takes a raw number; `None` for 0 and for what no kernel returns (above 4095).
    pub fn new(raw: i32) -> Option<Self> {
        match u16::try_from(raw) {
            Ok(number @ 1..=4095) => Some(Self(number)),
            _ => None,
        }
    }

    /// The positive number, as in `errno.h`.
    pub fn raw(self) -> i32 {
        i32::from(self.0)
    }

    /// The name, such as `ECONNREFUSED`.
    pub fn name(self) -> Option<&'static str> {
        Self::TABLE.iter().find(|entry| entry.0 == self).map(|entry| entry.1)
    }

    /// The errno of an I/O error; `EIO` when the error did not come from the kernel.
    pub fn of(error: &std::io::Error) -> Self {
        error.raw_os_error().and_then(Self::new).unwrap_or_else(|| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::ECONNREFUSED,
            std::io::ErrorKind::ConnectionReset => Self::ECONNRESET,
            std::io::ErrorKind::ConnectionAborted => Self::ECONNABORTED,
            std::io::ErrorKind::TimedOut => Self::ETIMEDOUT,
            std::io::ErrorKind::BrokenPipe => Self::EPIPE,
            std::io::ErrorKind::UnexpectedEof => Self::ECONNRESET,
            _ => Self::EIO,
        })
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.raw())
    }
}

impl std::str::FromStr for Errno {
    type Err = UnknownErrno;

    fn from_str(name: &str) -> Result<Self, UnknownErrno> {
        Self::TABLE
            .iter()
            .find(|entry| entry.1 == name)
            .map(|entry| entry.0)
            .ok_or_else(|| UnknownErrno(name.to_owned()))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::TABLE.iter().find(|entry| entry.0 == *self) {
            Some((_, name, meaning)) => write!(f, "{name} ({meaning})"),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_system() {
        for (errno, name, _) in Errno::TABLE {
            assert_eq!(name.parse(), Ok(*errno));
            let text = std::io::Error::from(*errno).to_string();
            assert!(text.ends_with(&format!("(os error {})", errno.raw())), "{name}: {text}");
            assert!(!text.starts_with("Unknown"), "{name}");
        }
    }

    #[test]
    fn zero_and_nonsense_are_no_errno() {
        assert_eq!(Errno::new(0), None);
        assert_eq!(Errno::new(-5), None);
        assert_eq!(Errno::new(70_000), None);
        assert!("EWHATEVER".parse::<Errno>().is_err());
    }
}
