//! What can go wrong with a call, by who is to blame.

use crate::Errno;

/// A fault that the framework on the host reports, as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
pub enum Fault {
    /// The guest speaks no version of the frames that the host speaks.
    #[error("host and guest speak no common VM RPC protocol version: upgrade the older one")]
    UnsupportedProtocol = 1,
    /// No module of that name is registered.
    #[error("the gateway has no host module of that name")]
    NoSuchModule = 2,
    /// The module exists, but serves none of the versions asked for.
    #[error("the host module serves none of the versions asked for")]
    UnsupportedVersion = 3,
    /// The gateway's configuration does not give this guest that module.
    #[error("this guest is not allowed to use that host module")]
    NotAllowed = 4,
    /// The handle was never bound, or was unbound.
    #[error("no module is bound under that handle")]
    NoSuchHandle = 5,
    /// The module has no such function.
    #[error("the host module has no function of that number")]
    NoSuchFunction = 6,
    /// Arguments that do not parse.
    #[error("the arguments do not have the form that the function takes")]
    BadArguments = 7,
    /// One of the limits of this stream is reached.
    #[error("too many calls or bindings on this stream: wait for replies, or unbind")]
    TooMany = 8,
    /// The module went away while the call was under way.
    #[error("the host module was unregistered")]
    ModuleGone = 9,
    /// A result larger than a frame may be.
    #[error("the result does not fit into one frame")]
    ResultTooLarge = 10,
    /// The module is registered, but what runs it is away. A call that was under way has an unknown
    /// outcome.
    #[error("the host module's process is not running: try again later")]
    ModuleUnavailable = 11,
    /// There is no event queue of that number on this stream, or it was deleted.
    #[error("there is no event queue of that number")]
    NoSuchQueue = 12,
    /// The queue cannot lie in the pages that the guest named: it has to use the stream.
    #[error("the gateway does not put this event queue into shared memory")]
    QueueNotShared = 13,
    /// The module has its process.
    #[error("another process serves that host module")]
    AlreadyServed = 14,
}

impl Fault {
    /// Every fault, in wire order.
    pub const ALL: [Self; 14] = [
        Self::UnsupportedProtocol,
        Self::NoSuchModule,
        Self::UnsupportedVersion,
        Self::NotAllowed,
        Self::NoSuchHandle,
        Self::NoSuchFunction,
        Self::BadArguments,
        Self::TooMany,
        Self::ModuleGone,
        Self::ResultTooLarge,
        Self::ModuleUnavailable,
        Self::NoSuchQueue,
        Self::QueueNotShared,
        Self::AlreadyServed,
    ];

    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The fault of a number on the wire.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.code() == code)
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The module ran the function and it failed: this is the function's own error.
    #[error("{0}")]
    Function(Errno),
    /// The framework on the host refused the call.
    #[error("{0}")]
    Host(#[from] Fault),
    /// The stream to the host ended. Calls in flight have an unknown outcome.
    #[error("the connection to the gateway is gone")]
    Disconnected,
    /// The host sent something that is no frame.
    #[error("the gateway sent a malformed frame: {0}")]
    Protocol(&'static str),
    /// The caller passed more than [`crate::limits::PAYLOAD_BYTES_MAX`].
    #[error("the arguments do not fit into one frame")]
    ArgumentsTooLarge,
}
