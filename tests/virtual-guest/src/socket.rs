//! Socket: one guest socket as Linux keeps it, without I/O.
//!
//! in: what packets say, what programs read; out: how much may be sent, what is broken. Owned by
//! the stack, under the guest's lock. Kept: counters are 64 bits wide inside, and cut to 32 only
//! in headers, so that every comparison is exact. Bound: the queue holds at most `buf_alloc` bytes
//! of a gateway that keeps the rules; of one that breaks them nothing is queued. Source: Linux
//! `net/vmw_vsock/virtio_transport_common.c`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};
use std::time::Instant;

use outsock_core::address::ConnectionKey;
use outsock_core::packet::Shutdown;

use crate::event::Ready;
use crate::limits;
use crate::options::CreditRule;
use crate::violation::ViolationKind;

/// Neither half is shut down.
pub(crate) const OPEN: Shutdown = Shutdown { rcv: false, send: false };
/// Both halves are.
pub(crate) const BOTH: Shutdown = Shutdown { rcv: true, send: true };

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// REQUEST is sent.
    Connecting {
        /// When to give up.
        deadline: Instant,
    },
    /// RESPONSE came.
    Connected,
    /// The program closed it; waits for the peer's RST.
    Closing {
        /// When to send our own.
        deadline: Instant,
    },
    /// The tuple is gone. Data that is still queued can be read.
    Done,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Connected => "connected",
            Self::Closing { .. } => "closing",
            Self::Done => "done",
        }
    }
}

/// Why a socket ended in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// RST instead of RESPONSE.
    Refused,
    /// No answer to REQUEST.
    TimedOut,
    /// An answer that is none.
    Protocol,
    /// Too much in the receive queue.
    NoBufferSpace,
    /// The device was reset, or TRANSPORT_RESET came.
    TransportReset,
    /// The backend is gone.
    Gone,
}

/// Both directions' credit.
#[derive(Clone, Debug)]
pub(crate) struct Credit {
    buf_alloc: u32,
    received: u64,
    forwarded: u64,
    told: u64,
    /// The highest `fwd_cnt + buf_alloc` that the peer was ever told: a promise that holds.
    promised: u64,
    sent: u64,
    peer_buf_alloc: u32,
    peer_forwarded: u64,
}

impl Credit {
    pub(crate) fn new(buf_alloc: u32) -> Self {
        Self {
            buf_alloc,
            received: 0,
            forwarded: 0,
            told: 0,
            promised: 0,
            sent: 0,
            peer_buf_alloc: 0,
            peer_forwarded: 0,
        }
    }

    /// Bytes that may be sent now: the window is the smaller of the two buffers (Linux since the
    /// fix of CVE-2026-23086).
    #[inline]
    pub(crate) fn space(&self) -> u64 {
        let window = u64::from(self.peer_buf_alloc.min(self.buf_alloc));
        window.saturating_sub(self.sent - self.peer_forwarded)
    }

    /// Counts bytes sent.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// What the next header says: `buf_alloc`, `fwd_cnt`.
    #[inline]
    pub(crate) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        self.promised = self.promised.max(self.forwarded + u64::from(self.buf_alloc));
        (self.buf_alloc, low(self.forwarded))
    }

    /// Takes what a header says.
    #[inline]
    pub(crate) fn peer_told(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), ViolationKind> {
        self.peer_buf_alloc = buf_alloc;
        let ahead = fwd_cnt.wrapping_sub(low(self.peer_forwarded));
        if ahead > u32::MAX / 2 {
            return Err(ViolationKind::FwdCntBack { by: ahead.wrapping_neg() });
        }
        let forwarded = self.peer_forwarded + u64::from(ahead);
        if forwarded > self.sent {
            return Err(ViolationKind::FwdCntAhead { by: low(forwarded - self.sent) });
        }
        self.peer_forwarded = forwarded;
        Ok(())
    }

    /// Counts bytes received, and checks them against everything that was promised.
    #[inline]
    pub(crate) fn received(&mut self, bytes: u64) -> Result<(), ViolationKind> {
        let received = self.received + bytes;
        if received > self.promised {
            return Err(ViolationKind::BeyondCredit { beyond: received - self.promised });
        }
        self.received = received;
        Ok(())
    }

    /// Counts bytes that left the queue for the program.
    #[inline]
    pub(crate) fn forwarded(&mut self, bytes: u64) {
        self.forwarded += bytes;
    }

    /// Whether a reader that has just read sends CREDIT_UPDATE.
    #[inline]
    pub(crate) fn update_due(&self, rule: CreditRule, queued: usize) -> bool {
        let untold = self.forwarded - self.told;
        let free = u64::from(self.buf_alloc).saturating_sub(untold);
        let low = free < limits::CREDIT_UPDATE_FREE_BYTES;
        untold > 0 && (low || (rule == CreditRule::FreeBelow64KOrEmpty && queued == 0))
    }

    pub(crate) fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    pub(crate) fn set_buf_alloc(&mut self, bytes: u32) {
        self.buf_alloc = bytes;
    }

    /// Bytes sent and received in the connection's life.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.sent, self.received)
    }
}

/// The low 32 bits: what stands in a header.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "counters on the wire wrap")]
fn low(counter: u64) -> u32 {
    counter as u32
}

/// A packet in the receive queue.
#[derive(Clone, Copy, Debug)]
struct Queued {
    /// Bytes that `fwd_cnt` moves by when it is read to its end.
    len: usize,
    unread: usize,
    /// Room behind it in its RX buffer.
    room: usize,
}

/// Bytes that wait for the program, with the borders of the packets that carried them.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    bytes: VecDeque<u8>,
    packets: VecDeque<Queued>,
}

impl ReceiveQueue {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn packets(&self) -> usize {
        self.packets.len()
    }

    /// Whether Linux's new kernels would still take one more packet.
    pub(crate) fn packet_fits(&self, buf_alloc: u32) -> bool {
        (self.packets.len() as u64 + 1) * limits::SKB_OVERHEAD_BYTES <= u64::from(buf_alloc)
    }

    /// Queues a payload that came in a buffer of `capacity` bytes.
    pub(crate) fn push(&mut self, payload: &[u8], capacity: usize) {
        self.bytes.extend(payload);
        let len = payload.len();
        if len <= limits::GOOD_COPY_BYTES
            && let Some(last) = self.packets.back_mut().filter(|last| last.room >= len)
        {
            last.len += len;
            last.unread += len;
            last.room -= len;
            return;
        }
        self.packets.push_back(Queued { len, unread: len, room: capacity.saturating_sub(len) });
    }

    /// Reads; the answer is bytes read, and bytes of packets that are now read to their end.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> (usize, u64) {
        let len = to.len().min(self.bytes.len());
        let (front, back) = self.bytes.as_slices();
        let split = front.len().min(len);
        to[..split].copy_from_slice(&front[..split]);
        to[split..len].copy_from_slice(&back[..len - split]);
        (len, self.skip(len))
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.skip(self.bytes.len());
    }

    fn skip(&mut self, len: usize) -> u64 {
        self.bytes.drain(..len);
        let mut left = len;
        let mut forwarded = 0;
        while let Some(first) = self.packets.front_mut() {
            let now = first.unread.min(left);
            first.unread -= now;
            left -= now;
            if first.unread > 0 {
                break;
            }
            forwarded += first.len as u64;
            self.packets.pop_front();
        }
        forwarded
    }
}

/// One socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub key: ConnectionKey,
    pub generation: u32,
    pub state: State,
    pub failure: Option<Failure>,
    pub credit: Credit,
    pub queue: ReceiveQueue,
    /// What we gave up.
    pub shut: Shutdown,
    /// What the peer gave up.
    pub peer_shut: Shutdown,
    /// The tuple was used before: packets of its former life may still arrive.
    pub reused: bool,
    /// A program holds it.
    pub held: bool,
    /// The job that reads from it instead of a program.
    pub job: Option<usize>,
    /// Threads that wait on `changed`.
    pub waiters: usize,
    pub changed: Arc<Condvar>,
    /// The program's name for it in events.
    pub watch: Option<u64>,
    /// Events that it was not told yet.
    pub ready: Ready,
    /// It is in the queue of watched sockets that have events.
    pub announced: bool,
    /// It is in the list of those that wait for room in the TX ring.
    pub waits_for_room: bool,
}

impl Socket {
    pub(crate) fn new(
        key: ConnectionKey,
        generation: u32,
        deadline: Instant,
        buf_alloc: u32,
    ) -> Self {
        Self {
            key,
            generation,
            state: State::Connecting { deadline },
            failure: None,
            credit: Credit::new(buf_alloc),
            queue: ReceiveQueue::default(),
            shut: OPEN,
            peer_shut: OPEN,
            reused: false,
            held: true,
            job: None,
            waiters: 0,
            changed: Arc::new(Condvar::new()),
            watch: None,
            ready: Ready::default(),
            announced: false,
            waits_for_room: false,
        }
    }

    /// Whether a read ends at once with the end of the stream.
    pub(crate) fn at_end(&self) -> bool {
        self.queue.bytes() == 0
            && (self.shut.rcv || self.peer_shut.send || self.state == State::Done)
    }

    /// Whether a write fails at once.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.shut.send || self.peer_shut.rcv || self.state == State::Done
    }

    /// What is the case now, for somebody who starts to watch.
    pub(crate) fn readiness(&self) -> Ready {
        let connected = matches!(self.state, State::Connected | State::Closing { .. });
        Ready {
            connected,
            failed: self.failure.is_some(),
            readable: self.queue.bytes() > 0 || (self.at_end() && self.failure.is_none()),
            writable: connected && !self.is_broken_pipe() && self.credit.space() > 0,
            closed: self.state == State::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_the_smaller_buffer() {
        let mut credit = Credit::new(1000);
        assert_eq!(credit.space(), 0);
        credit.peer_told(5000, 0).unwrap();
        assert_eq!(credit.space(), 1000);
        credit.sent(900);
        assert_eq!(credit.space(), 100);
        credit.peer_told(400, 600).unwrap();
        assert_eq!(credit.space(), 100);
    }

    #[test]
    fn fwd_cnt_neither_runs_ahead_nor_goes_back_nor_minds_the_wrap() {
        let mut credit = Credit::new(1000);
        credit.sent(u64::from(u32::MAX));
        credit.peer_told(1000, u32::MAX / 2).unwrap();
        credit.peer_told(1000, u32::MAX - 1).unwrap();
        credit.sent(11);
        credit.peer_told(1000, 5).unwrap();
        assert_eq!(credit.peer_told(1000, 4), Err(ViolationKind::FwdCntBack { by: 1 }));
        assert_eq!(credit.peer_told(1000, 20), Err(ViolationKind::FwdCntAhead { by: 10 }));
    }

    #[test]
    fn a_promise_holds_when_the_buffer_shrinks() {
        let mut credit = Credit::new(1000);
        credit.tell();
        credit.set_buf_alloc(10);
        credit.tell();
        credit.received(1000).unwrap();
        assert_eq!(credit.received(1), Err(ViolationKind::BeyondCredit { beyond: 1 }));
        credit.forwarded(1000);
        credit.tell();
        credit.received(10).unwrap();
    }

    #[test]
    fn fwd_cnt_moves_by_whole_packets_and_small_ones_merge() {
        let mut queue = ReceiveQueue::default();
        queue.push(&[1; 1000], 4096);
        queue.push(&[2; 100], 4096);
        queue.push(&[3; 200], 4096);
        assert_eq!(queue.packets(), 2);
        let mut to = [0; 1050];
        assert_eq!(queue.read(&mut to), (1050, 0));
        assert_eq!(queue.read(&mut to[..50]), (50, 1100));
        assert_eq!(queue.read(&mut to), (200, 200));
        assert_eq!((queue.bytes(), queue.packets()), (0, 0));
    }

    #[test]
    fn updates_are_due_as_in_linux() {
        let mut credit = Credit::new(256 * 1024);
        credit.tell();
        credit.received(200 * 1024).unwrap();
        credit.forwarded(100 * 1024);
        assert!(!credit.update_due(CreditRule::FreeBelow64K, 0));
        assert!(!credit.update_due(CreditRule::FreeBelow64KOrEmpty, 1));
        assert!(credit.update_due(CreditRule::FreeBelow64KOrEmpty, 0));
        credit.forwarded(100 * 1024);
        assert!(credit.update_due(CreditRule::FreeBelow64K, 1));
        credit.tell();
        assert!(!credit.update_due(CreditRule::FreeBelow64KOrEmpty, 0));
    }
}
