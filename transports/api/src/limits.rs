//! Bounds that every transport shares, with unit and reason.

use std::time::Duration;

/// How long a dial may take when the configuration does not say. Linux gives up on a TCP connect
/// after about 130 s (`tcp_syn_retries` = 6); a program must see the same patience.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(130);

/// How long a flow of datagrams may take to stand when nobody says: a name, a connection to a peer
/// and its answer. A program asks again after a few seconds.
pub const FLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a datagram's payload: what a 16-bit length leaves beside the headers of UDP and IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Bytes that wait in one [`Inbox`](crate::Inbox), overhead included: what Linux gives a socket
/// (`net.core.rmem_default`), and any one datagram fits.
pub const INBOX_BYTES_MAX: usize = 212_992;

/// Connections that wait in a listener until they are accepted.
pub const ACCEPT_BACKLOG_MAX: u32 = 1024;

/// Bounds of the conformance suite. They make a broken transport fail by name instead of hanging;
/// none is a measure of speed.
#[cfg(feature = "conformance")]
pub mod conformance {
    use std::time::Duration;

    /// One case may take this long. The longest takes about 1 s on two slow cores; the rest is
    /// for an overlay under a loaded machine.
    pub const CASE_TIME_MAX: Duration = Duration::from_secs(30);

    /// What a dial in a case that expects success is given: less than [`CASE_TIME_MAX`], so that
    /// the case can say that it was the dial.
    pub const DIAL_TIME_MAX: Duration = Duration::from_secs(10);

    /// An answer that needs no network (an unsupported destination) comes within this.
    pub const AT_ONCE: Duration = Duration::from_secs(1);

    /// What the dial to a silent host is given: long enough to tell it from an error at once.
    pub const SILENT_DIAL_TIME: Duration = Duration::from_millis(500);

    /// By how much a dial may overrun its timeout: one timer tick and a busy machine.
    pub const DIAL_OVERRUN_MAX: Duration = Duration::from_secs(2);

    /// Bytes each way in the big transfer: many times any window, and over 2^24, so that a short
    /// counter would wrap.
    pub const BIG_TRANSFER_BYTES: u64 = 64 << 20;

    /// Bytes each way that are written one by one: more than 2^14 messages and one full queue of
    /// small packets, but no load test.
    pub const SMALL_WRITES_BYTES: u64 = 20_000;

    /// Bytes of the replies after a half-close: what a program fetches after `shutdown(SHUT_WR)`.
    pub const REPLY_BYTES: u64 = 10 << 20;

    /// Bytes that a slow reader must still get after the writer has gone.
    pub const FLUSH_BYTES: u64 = 8 << 20;

    /// Bytes that every transport takes without a reader: what the smallest transport window holds.
    pub const UNREAD_BYTES: u64 = 16 << 10;

    /// Bytes read before an end breaks in the middle of a transfer.
    pub const BEFORE_RESET_BYTES: u64 = 1 << 20;

    /// A writer whose progress stands still this long counts as stopped.
    pub const STALL_TIME: Duration = Duration::from_millis(400);

    /// Bytes between a writer and a peer that does not read, if the set-up says nothing: Linux
    /// grows a TCP pair to about 4 MiB + 6 MiB (`tcp_wmem`, `tcp_rmem`), and a relay may sit in
    /// between with another pair.
    pub const BUFFERED_BYTES_MAX: u64 = 32 << 20;

    /// Bytes that a stopped writer sends once its peer reads again.
    pub const RESUMED_BYTES: u64 = 8 << 20;

    /// Connections dialled at the same time: a browser with many tabs, and more than the 128
    /// entries of a default virtqueue.
    pub const CONCURRENT_DIALS: u32 = 200;

    /// Dials and accepts given up, each at another point.
    pub const CANCELLED: u32 = 50;

    /// A connection that was left behind by a cancelled dial would have come up by then.
    pub const QUIET_TIME: Duration = Duration::from_millis(300);
}
