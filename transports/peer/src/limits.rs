//! Bounds of the peer protocol, with unit and reason.

use std::time::Duration;

/// Bytes of an open header after its length: a name of 253 characters, a guest's name of 64
/// characters of 4 bytes, and room for a later version.
pub const OPEN_BYTES_MAX: usize = 1024;

/// Bytes of a reply after its length: two addresses, or an errno with [`REASON_BYTES_MAX`].
pub const REPLY_BYTES_MAX: usize = 512;

/// Bytes of a destination's name (RFC 1035: 253).
pub const NAME_BYTES_MAX: usize = 253;

/// Bytes of the name of the guest that a stream comes from.
pub const ORIGIN_BYTES_MAX: usize = 256;

/// Bytes of the reason in a refusal. It is logged, so it is short.
pub const REASON_BYTES_MAX: usize = 256;

/// Gateways that a connection may pass, the first one included. Real chains have two or three; a
/// loop of routes ends here.
pub const HOPS_MAX: u8 = 8;

/// How long a peer may take from opening a stream to the end of its header. It sends both in one go.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Payload bytes of one frame of [`Framed`](crate::Framed).
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a control message after its length.
pub const CONTROL_BYTES_MAX: usize = 256;

/// Bytes of a key file: a PEM block has about 120.
pub const KEY_FILE_BYTES_MAX: u64 = 4096;
