//! Event: what happened on watched connections, for programs that serve thousands with one thread.
//!
//! in: changes of sockets; out: events, each connection at most once in the queue. Values only.
//! Kept: edges are merged, never lost: an event says everything that became true since the last.
//! Bound: one queue entry per watched connection.

/// What became true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// RESPONSE came.
    pub connected: bool,
    /// The connection ended in an error; the next read or write says which.
    pub failed: bool,
    /// There are bytes to read, or the end of the stream.
    pub readable: bool,
    /// There is credit and room to write.
    pub writable: bool,
    /// The connection is gone, in order or not.
    pub closed: bool,
}

impl Ready {
    pub(crate) const READABLE: Self = Self { readable: true, ..Self::NOTHING };
    pub(crate) const WRITABLE: Self = Self { writable: true, ..Self::NOTHING };
    pub(crate) const CONNECTED: Self = Self { connected: true, writable: true, ..Self::NOTHING };
    pub(crate) const FAILED: Self = Self { failed: true, closed: true, ..Self::NOTHING };
    pub(crate) const CLOSED: Self = Self { closed: true, readable: true, ..Self::NOTHING };

    const NOTHING: Self =
        Self { connected: false, failed: false, readable: false, writable: false, closed: false };

    /// Whether nothing became true.
    pub fn is_empty(self) -> bool {
        self == Self::NOTHING
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.connected |= other.connected;
        self.failed |= other.failed;
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.closed |= other.closed;
    }
}

/// One connection's news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name that the connection was given in `watch`.
    pub token: u64,
    /// What became true.
    pub ready: Ready,
}
