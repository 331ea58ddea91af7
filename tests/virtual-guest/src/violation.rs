//! Violation: what a gateway did that it must not do.
//!
//! in: findings of the ring, the driver and the sockets; out: a list that a test asserts to be
//! empty. Owned by the guest, under its lock. Kept: the first findings with all details, the rest
//! as a number. Bound: [`limits::VIOLATIONS_KEPT_MAX`].

use std::fmt;

use outsock_core::address::{Cid, ConnectionKey, VsockPort};
use outsock_core::packet::Op;

use crate::limits;

/// A rule that the gateway broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViolationKind {
    /// The used index moved by more than the ring has entries.
    #[error("the used index jumped by {by}")]
    UsedIndexJump {
        /// By how much.
        by: u16,
    },
    /// A used entry names a chain that is not out: made up, or returned twice.
    #[error("used id {id} is not outstanding (never made available, or returned twice)")]
    UsedIdNotOutstanding {
        /// The id.
        id: u32,
    },
    /// The device says that it wrote more than the chain has room for.
    #[error("used length {len} beyond the buffer's {buffer} bytes")]
    UsedLenBeyondBuffer {
        /// The used length.
        len: u32,
        /// Writable bytes of the chain.
        buffer: u32,
        /// The driver's token of the buffer.
        token: u32,
    },
    /// Bytes behind what the device may write have changed.
    #[error("the device wrote outside the buffer's descriptors")]
    WroteOutsideBuffer,
    /// A used RX buffer that does not even hold a header.
    #[error("RX buffer returned with {len} bytes: no header fits")]
    NoHeader {
        /// The used length.
        len: u32,
    },
    /// The header does not parse.
    #[error("bad header: {0}")]
    BadHeader(String),
    /// The used length and the header's `len` disagree.
    #[error("used length {used}, but the header says 44 + {len}")]
    LengthMismatch {
        /// The used length.
        used: u32,
        /// The header's `len`.
        len: u32,
    },
    /// Payload in a packet that has none.
    #[error("{len} bytes of payload in {op:?}")]
    PayloadWithoutRw {
        /// The op.
        op: Op,
        /// The header's `len`.
        len: u32,
    },
    /// An RW packet without payload.
    #[error("RW without payload")]
    EmptyRw,
    /// A packet that is not from the host.
    #[error("src_cid {0} is not the host's")]
    WrongSource(Cid),
    /// A packet for another guest.
    #[error("dst_cid {0} is not ours")]
    WrongDestination(Cid),
    /// A packet for a connection that never was.
    #[error("{0:?} for a connection that never was")]
    NeverOpened(Op),
    /// A packet for a connection that the gateway itself has reset.
    #[error("{0:?} after the gateway's own RST")]
    AfterRst(Op),
    /// An op that the connection's state does not allow.
    #[error("{op:?} while {state}")]
    UnexpectedOp {
        /// The op.
        op: Op,
        /// The connection's state.
        state: &'static str,
    },
    /// More bytes than our `buf_alloc` and `fwd_cnt` ever allowed.
    #[error("{beyond} bytes beyond the credit")]
    BeyondCredit {
        /// How many too many.
        beyond: u64,
    },
    /// So many packets in the queue that a new kernel resets with ENOBUFS.
    #[error("{queued} packets queued: a new kernel resets the connection with ENOBUFS")]
    TooManyPackets {
        /// Packets in the queue.
        queued: usize,
    },
    /// Data after the gateway's own SHUTDOWN(send).
    #[error("data after SHUTDOWN(send)")]
    DataAfterShutdown,
    /// `fwd_cnt` is ahead of what was sent.
    #[error("fwd_cnt is {by} ahead of what was sent")]
    FwdCntAhead {
        /// By how much.
        by: u32,
    },
    /// `fwd_cnt` went backwards.
    #[error("fwd_cnt went back by {by}")]
    FwdCntBack {
        /// By how much.
        by: u32,
    },
    /// An event that the specification does not have.
    #[error("unknown event {0}")]
    UnknownEvent(u32),
    /// The backend did not consume what was made available before it stopped a ring.
    #[error("ring {queue} stopped at avail index {base}, {ahead} beyond what was made available")]
    BaseAhead {
        /// The queue's index.
        queue: usize,
        /// What the backend answered.
        base: u16,
        /// By how much.
        ahead: u16,
    },
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The connection, where the finding has one.
    pub connection: Option<ConnectionKey>,
    /// What happened.
    pub kind: ViolationKind,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connection {
            Some(ConnectionKey { guest: VsockPort(guest), host: VsockPort(host) }) => {
                write!(f, "[{guest} -> host:{host}] {}", self.kind)
            }
            None => write!(f, "{}", self.kind),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Violations {
    kept: Vec<Violation>,
    total: u64,
}

impl Violations {
    pub(crate) fn add(&mut self, connection: Option<ConnectionKey>, kind: ViolationKind) {
        self.total += 1;
        if self.kept.len() < limits::VIOLATIONS_KEPT_MAX {
            self.kept.push(Violation { connection, kind });
        }
    }

    pub(crate) fn list(&self) -> Vec<Violation> {
        self.kept.clone()
    }

    pub(crate) fn take(&mut self) -> Vec<Violation> {
        self.total = 0;
        std::mem::take(&mut self.kept)
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}
