//! Bounds of proxies, with unit and reason.

/// Bytes of a user name, of a password and of a destination's name: each has one byte of length in
/// SOCKS5.
pub const FIELD_BYTES_MAX: usize = 255;

/// Bytes of a proxy's answer to CONNECT, interim answers included. Error pages come behind it and are
/// never read.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// Header lines of it.
pub const HEADERS_MAX: usize = 64;
