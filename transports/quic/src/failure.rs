//! Failure: quinn's errors as errnos, and errnos as QUIC's codes.
//!
//! in:  an error of a stream or connection; out: what a program in the guest gets
//! owner: nobody
//! keeps: a peer that is silent is `ETIMEDOUT`, one that has gone or reset is `ECONNRESET`
//! bound: an errno is 1 to 4095

use outsock_transport::{DialError, Errno};
use quinn::{ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};

/// The gateway is about to end.
pub(crate) const CLOSE_ENDING: u32 = 1;
/// The peer was removed from the configuration.
pub(crate) const CLOSE_REMOVED: u32 = 2;
/// The peer's gateway has started anew, or has enough other connections.
pub(crate) const CLOSE_REPLACED: u32 = 3;
/// The peer does not speak the protocol.
pub(crate) const CLOSE_PROTOCOL: u32 = 4;

/// TLS alerts by which a peer says that our certificate is not one it knows (RFC 8446, 6; RFC 9001,
/// 4.8: the code is 0x100 and the alert).
const ALERTS_OF_IDENTITY: std::ops::RangeInclusive<u64> = 0x12a..=0x131;

/// The code of a reset.
pub(crate) fn code(errno: Errno) -> VarInt {
    VarInt::from_u32(u32::try_from(errno.raw()).unwrap_or(0))
}

/// What a peer's code means. Errnos that speak of a call and not of a connection are not taken from it.
pub(crate) fn errno_of_code(code: VarInt) -> Errno {
    let errno = i32::try_from(code.into_inner()).ok().and_then(Errno::new);
    match errno {
        Some(Errno::EAGAIN | Errno::EINTR) | None => Errno::ECONNRESET,
        Some(errno) => errno,
    }
}

/// Why a connection to a peer is gone, for streams on it.
pub(crate) fn of_connection(error: &ConnectionError) -> Errno {
    match error {
        ConnectionError::TimedOut => Errno::ETIMEDOUT,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Errno::ECONNRESET,
    }
}

/// Why a read gives nothing.
pub(crate) fn of_read(error: &ReadError) -> Errno {
    match error {
        ReadError::Reset(code) => errno_of_code(*code),
        ReadError::ConnectionLost(error) => of_connection(error),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            Errno::ECONNRESET
        }
    }
}

/// Why a write takes nothing.
pub(crate) fn of_write(error: &WriteError) -> Errno {
    match error {
        WriteError::Stopped(code) => errno_of_code(*code),
        WriteError::ConnectionLost(error) => of_connection(error),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => Errno::ECONNRESET,
    }
}

/// Why there is no connection to a peer.
pub(crate) fn of_handshake(error: &ConnectionError) -> DialError {
    match error {
        ConnectionError::TransportError(error) => DialError::NotAuthenticated(error.reason.clone()),
        ConnectionError::ConnectionClosed(close)
            if ALERTS_OF_IDENTITY.contains(&u64::from(close.error_code)) =>
        {
            let text = "it does not know this gateway's key: it needs a [[peer]] with it";
            DialError::NotAuthenticated(text.to_owned())
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            let reason = "it takes no connections now: it is busy or about to end".to_owned();
            DialError::Relayed { errno: Errno::EHOSTUNREACH, reason }
        }
        ConnectionError::ConnectionClosed(close) => {
            DialError::PeerMisbehaved(escaped(&close.to_string()))
        }
        ConnectionError::ApplicationClosed(close) => {
            let text = format!("the peer closed the connection: {}", escaped(&close.to_string()));
            DialError::Relayed { errno: Errno::EHOSTUNREACH, reason: text }
        }
        ConnectionError::VersionMismatch => {
            DialError::PeerMisbehaved("it speaks another version of QUIC".to_owned())
        }
        ConnectionError::TimedOut | ConnectionError::Reset => DialError::HostUnreachable,
        ConnectionError::LocallyClosed => DialError::NetworkDown,
        ConnectionError::CidsExhausted => DialError::OutOfResources("connection ids"),
    }
}

fn escaped(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
