//! Faults: what goes wrong on the path to one destination, as data.
//!
//! in:  a test's wish
//! out: what dials and pipes obey from the next call on, also on connections that already stand
//! owner: the [`Network`](crate::Network); a value here is a copy
//! keeps: the default is a path without faults, so putting it back heals
//! bound: none; plain values

use std::num::NonZeroUsize;

use outsock_transport::DialError;

/// Everything that goes wrong on the path to one destination.
///
/// ```
/// use outsock_transport_memory::{Faults, Lane};
/// // Downloads break off after a kilobyte; everything else works.
/// let faults = Faults {
///     to_dialer: Lane { reset_after: Some(1024), ..Lane::default() },
///     ..Faults::default()
/// };
/// # let _ = faults;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// What happens to dials.
    pub dial: DialFault,
    /// The cable is pulled: nothing arrives in either direction, no byte, no FIN and no reset, and
    /// nobody is told. Dials wait. What was on its way arrives once the cable is back.
    pub cut: bool,
    /// The direction from the dialer to the listener.
    pub to_listener: Lane,
    /// The direction from the listener to the dialer.
    pub to_dialer: Lane,
}

/// What happens to dials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DialFault {
    /// They work.
    #[default]
    None,
    /// They fail at once, with or without a listener.
    Fail(DialError),
    /// They wait until this fault is replaced, or until their timeout.
    Hold,
}

/// What happens to the bytes of one direction, on each connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// A read gives at most this many bytes.
    pub read_bytes_max: Option<NonZeroUsize>,
    /// A write takes at most this many bytes.
    pub write_bytes_max: Option<NonZeroUsize>,
    /// The connection is reset when its reader has got this many bytes and asks for more: the
    /// reader gets exactly these, both ends then get `ECONNRESET`.
    pub reset_after: Option<u64>,
    /// Reads wait; the writer fills the pipe and then waits too.
    pub stalled: bool,
}
