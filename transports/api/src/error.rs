//! Errors of transports, one enum per operation, each mapped to an errno by an exhaustive match.
//!
//! in:  what a kernel, a library or a peer said
//! out: one value per failure, and the errno that a program in the guest gets
//! owner: nobody; plain values
//! keeps: every error has exactly one errno, and the compiler checks that none was forgotten
//! bound: the texts are a transport's own words, never a peer's bytes of unknown length

use outsock_vmrpc::Errno;

/// Why a dial failed. The guest's program sees [`DialError::errno`] as if it had called
/// `connect()` itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The far host answered that nobody listens there.
    #[error("the far end refused the connection")]
    Refused,
    /// No answer in the time allowed.
    #[error("no answer in time")]
    TimedOut,
    /// There is no way to the host.
    #[error("no route to the host")]
    HostUnreachable,
    /// There is no way to the network.
    #[error("the network is unreachable")]
    NetworkUnreachable,
    /// The network on this host is down.
    #[error("the network is down")]
    NetworkDown,
    /// The connection was reset before it stood.
    #[error("the far end reset the connection")]
    Reset,
    /// A policy of the far side or of this host forbids it.
    #[error("not permitted: {0}")]
    Denied(String),
    /// The local address asked for is taken.
    #[error("the local address is in use")]
    AddressInUse,
    /// The local address asked for is not this host's, or no ports are left.
    #[error("the local address is not available")]
    AddressNotAvailable,
    /// The transport cannot reach this kind of destination.
    #[error("this transport cannot reach {0}")]
    UnsupportedDestination(&'static str),
    /// Too many open files or no memory on this host.
    #[error("the gateway is out of {0}")]
    OutOfResources(&'static str),
    /// The peer speaks another protocol, or breaks it.
    #[error("the peer broke the protocol: {0}")]
    PeerMisbehaved(String),
    /// The peer is not who it should be (wrong certificate or key).
    #[error("the peer could not be authenticated: {0}")]
    NotAuthenticated(String),
    /// Some other error of the kernel, passed on as it is.
    #[error("{0}")]
    Os(Errno),
    /// What a gateway further on said.
    #[error("the peer gateway says {errno}: {reason}")]
    Relayed {
        /// What the program gets.
        errno: Errno,
        /// Its words.
        reason: String,
    },
}

impl DialError {
    /// The errno that the program in the guest gets.
    ///
    /// ```
    /// use outsock_transport::{DialError, Errno};
    /// assert_eq!(DialError::Refused.errno(), Errno::ECONNREFUSED);
    /// ```
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused => Errno::ECONNREFUSED,
            Self::TimedOut => Errno::ETIMEDOUT,
            Self::HostUnreachable => Errno::EHOSTUNREACH,
            Self::NetworkUnreachable => Errno::ENETUNREACH,
            Self::NetworkDown => Errno::ENETDOWN,
            Self::Reset | Self::PeerMisbehaved(_) => Errno::ECONNRESET,
            Self::Denied(_) | Self::NotAuthenticated(_) => Errno::EACCES,
            Self::AddressInUse => Errno::EADDRINUSE,
            Self::AddressNotAvailable => Errno::EADDRNOTAVAIL,
            Self::UnsupportedDestination(_) => Errno::EAFNOSUPPORT,
            Self::OutOfResources(_) => Errno::ENOBUFS,
            Self::Os(errno) | Self::Relayed { errno, .. } => *errno,
        }
    }

    /// The error of a kernel's `connect()`.
    pub fn from_io(error: &std::io::Error) -> Self {
        Self::of_errno(Errno::of(error))
    }

    /// The error that a kernel's `connect()` means by an errno.
    pub fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ETIMEDOUT => Self::TimedOut,
            Errno::EHOSTUNREACH => Self::HostUnreachable,
            Errno::ENETUNREACH => Self::NetworkUnreachable,
            Errno::ENETDOWN => Self::NetworkDown,
            Errno::ECONNRESET => Self::Reset,
            Errno::EADDRINUSE => Self::AddressInUse,
            Errno::EADDRNOTAVAIL => Self::AddressNotAvailable,
            Errno::EMFILE | Errno::ENFILE => Self::OutOfResources("file descriptors"),
            Errno::ENOMEM | Errno::ENOBUFS => Self::OutOfResources("memory"),
            _ => Self::Os(errno),
        }
    }
}

/// Why a transport cannot listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The address is taken.
    #[error("the address is in use")]
    AddressInUse,
    /// The address is not this host's.
    #[error("the address is not available on this host")]
    AddressNotAvailable,
    /// The host does not let the gateway listen there.
    #[error("not permitted: {0}")]
    Denied(String),
    /// The transport cannot listen, or not on this kind of address.
    #[error("this transport cannot listen on {0}")]
    Unsupported(&'static str),
    /// Some other error of the kernel.
    #[error("{0}")]
    Os(Errno),
}

impl ListenError {
    /// The errno that `bind()` or `listen()` in the guest reports.
    pub fn errno(&self) -> Errno {
        match self {
            Self::AddressInUse => Errno::EADDRINUSE,
            Self::AddressNotAvailable => Errno::EADDRNOTAVAIL,
            Self::Denied(_) => Errno::EACCES,
            Self::Unsupported(_) => Errno::EOPNOTSUPP,
            Self::Os(errno) => *errno,
        }
    }

    /// The error of a kernel's `bind()` or `listen()`.
    pub fn from_io(error: &std::io::Error) -> Self {
        let errno = Errno::of(error);
        match errno {
            Errno::EADDRINUSE => Self::AddressInUse,
            Errno::EADDRNOTAVAIL => Self::AddressNotAvailable,
            Errno::EACCES | Errno::EPERM => Self::Denied(errno.to_string()),
            _ => Self::Os(errno),
        }
    }
}

/// Why a listener gives no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// This one connection failed; the next accept may work.
    #[error("a connection failed before it was accepted: {0}")]
    Connection(Errno),
    /// The listener is dead.
    #[error("the listener ended: {0}")]
    Ended(Errno),
}
