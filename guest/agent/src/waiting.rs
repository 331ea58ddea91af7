//! Waiting calls: held system calls whose answer is not known yet.
//!
//! in: notifications that a handler cannot answer, with the reason; out: those whose time has come.
//! Owner: the supervisor's thread; time is an argument. Kept: the loop never blocks for a waiting
//! call, so no connect delays another. Bound: a waiting call is a waiting thread of the supervised
//! programs; a look at one costs 15 us and the looks are limited to
//! [`limits::SIGNAL_CHECKS_PER_SECOND`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use outsock_vmrpc::socket::Token;

use crate::accept::Accepting;
use crate::held::First;
use crate::inquiry::Inquiry;
use crate::limits;
use crate::notify::Notification;
use crate::proc::Status;

/// What a call waits for.
#[derive(Debug)]
pub(crate) enum Reason {
    /// A blocking connect() that has started its attempt; the program still has its own socket.
    First(Box<First>),
    /// Another blocking connect() on a socket that is being connected. The socket is kept open
    /// while the call is held, as the kernel does for any call.
    Again(OwnedFd),
    /// A question (SO_ERROR, a name) that the verdict will answer at any moment. `lost`: the data
    /// connection has failed.
    Question { lost: bool },
    /// A blocking accept() with nothing to accept yet.
    Accept(Accepting),
    /// A listen() that the gateway has not answered yet. The socket listens already.
    Listen {
        file: OwnedFd,
        address: SocketAddr,
        /// How often the kernel has chosen another port.
        tries: u32,
    },
    /// What the gateway will answer.
    Inquiry(Inquiry),
}

/// One waiting call.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) notification: Notification,
    /// The attempt whose verdict ends the wait, if it is still out.
    pub(crate) token: Option<Token>,
    pub(crate) reason: Reason,
    /// SO_SNDTIMEO of a connect(), or the end of patience with the gateway.
    pub(crate) deadline: Option<Instant>,
    /// A signal cannot restart the call: SO_SNDTIMEO is set (`sock_intr_errno`).
    pub(crate) never_restart: bool,
    watch: Watch,
    key: u64,
    next: Instant,
}

impl Waiting {
    pub(crate) fn new(
        notification: Notification,
        token: Option<Token>,
        reason: Reason,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Self {
        Self {
            notification,
            token,
            reason,
            deadline,
            never_restart: false,
            watch: Watch { interval: limits::SIGNAL_CHECK_MIN, shared_seen: 0 },
            key: 0,
            next: now,
        }
    }

    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Looks at the signals of the waiting thread.
    pub(crate) fn interruption(&mut self, status: &Status) -> Option<Interruption> {
        self.watch.interruption(status)
    }
}

/// How a signal ends a waiting call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// A signal is pending that only this thread can take: the kernel will see it at the end of the
    /// call and decide between EINTR and a restart.
    Sure,
    /// A signal of the process has been pending for a while, so probably this thread was chosen for
    /// it. Not sure: a restart code would reach the program if another thread took it after all.
    Likely,
}

#[derive(Debug)]
struct Watch {
    interval: Duration,
    /// Looks in a row at which a signal of a process with several threads was pending.
    shared_seen: u32,
}

/// A signal of the process that no other thread takes within this many looks is this thread's.
const SHARED_LOOKS: u32 = 3;

impl Watch {
    fn interruption(&mut self, status: &Status) -> Option<Interruption> {
        if status.pending_own & !status.blocked != 0 {
            return Some(Interruption::Sure);
        }
        if status.pending_shared & !status.blocked == 0 {
            self.shared_seen = 0;
            return None;
        }
        if status.threads <= 1 {
            return Some(Interruption::Sure);
        }
        self.interval = limits::SIGNAL_CHECK_MIN;
        self.shared_seen += 1;
        (self.shared_seen > SHARED_LOOKS).then_some(Interruption::Likely)
    }
}

/// The lowest key of a waiting call: a key is also the data of its events in the supervisor's epoll
/// set, where the numbers below are taken. (Notification ids start at random.)
pub(crate) const KEY_MIN: u64 = 16;

/// All waiting calls, by key.
#[derive(Debug, Default)]
pub(crate) struct WaitingCalls {
    made: u64,
    calls: HashMap<u64, Waiting>,
    of_token: HashMap<Token, Vec<u64>>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl WaitingCalls {
    /// Keeps a call; returns its key.
    pub(crate) fn insert(&mut self, mut waiting: Waiting, now: Instant) -> u64 {
        let key = KEY_MIN + self.made;
        self.made += 1;
        waiting.key = key;
        if let Some(token) = waiting.token {
            self.of_token.entry(token).or_default().push(key);
        }
        Self::set_timer(&mut self.timers, &mut waiting, now);
        self.calls.insert(key, waiting);
        key
    }

    pub(crate) fn get(&mut self, key: u64) -> Option<&mut Waiting> {
        self.calls.get_mut(&key)
    }

    /// The keys of all of them.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.calls.keys().copied().collect()
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<Waiting> {
        let waiting = self.calls.remove(&key)?;
        if let Some(token) = waiting.token
            && let Some(keys) = self.of_token.get_mut(&token)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.of_token.remove(&token);
            }
        }
        Some(waiting)
    }

    /// The calls that wait for this verdict.
    pub(crate) fn of(&self, token: Token) -> Vec<u64> {
        self.of_token.get(&token).cloned().unwrap_or_default()
    }

    /// When the next call has to be looked at.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((time, _))| *time)
    }

    /// A call whose time has come, and its next time is set. Call until `None`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u64> {
        while let Some(Reverse((time, key))) = self.timers.peek().copied() {
            if time > now {
                return None;
            }
            self.timers.pop();
            let count = self.calls.len();
            if let Some(waiting) = self.calls.get_mut(&key)
                && waiting.next == time
            {
                let longest = match waiting.reason {
                    Reason::Accept(_) => limits::SIGNAL_CHECK_ACCEPT_MAX,
                    Reason::First(_)
                    | Reason::Again(_)
                    | Reason::Question { .. }
                    | Reason::Listen { .. }
                    | Reason::Inquiry(_) => limits::SIGNAL_CHECK_MAX,
                };
                waiting.watch.interval = next_interval(waiting.watch.interval, longest, count);
                Self::set_timer(&mut self.timers, waiting, now);
                return Some(key);
            }
        }
        None
    }

    /// Sets a call's timer again, after its deadline has changed.
    pub(crate) fn reschedule(&mut self, key: u64, now: Instant) {
        if let Some(waiting) = self.calls.get_mut(&key) {
            Self::set_timer(&mut self.timers, waiting, now);
        }
    }

    fn set_timer(
        timers: &mut BinaryHeap<Reverse<(Instant, u64)>>,
        waiting: &mut Waiting,
        now: Instant,
    ) {
        let look = now + waiting.watch.interval;
        // A deadline in the past has been acted on, or waits for something else.
        let deadline = waiting.deadline.filter(|deadline| *deadline > now);
        waiting.next = deadline.map_or(look, |deadline| deadline.min(look));
        timers.push(Reverse((waiting.next, waiting.key)));
    }
}

/// Twice as long each time; longer for everyone when many wait.
fn next_interval(interval: Duration, longest: Duration, waiting: usize) -> Duration {
    let doubled = (interval * 2).min(longest);
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    doubled.max(Duration::from_secs(1) * waiting / limits::SIGNAL_CHECKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch { interval: limits::SIGNAL_CHECK_MIN, shared_seen: 0 }
    }

    #[test]
    fn a_signal_of_the_thread_is_sure() {
        let status = Status { threads: 9, pending_own: 2, ..Status::default() };
        assert_eq!(watch().interruption(&status), Some(Interruption::Sure));
        let blocked = Status { blocked: 2, ..status };
        assert_eq!(watch().interruption(&blocked), None);
    }

    #[test]
    fn a_signal_of_the_process_is_sure_only_for_its_one_thread() {
        let one = Status { threads: 1, pending_shared: 4, ..Status::default() };
        assert_eq!(watch().interruption(&one), Some(Interruption::Sure));
        let many = Status { threads: 2, ..one };
        let mut watch = watch();
        for _ in 0..SHARED_LOOKS {
            assert_eq!(watch.interruption(&many), None);
        }
        assert_eq!(watch.interruption(&many), Some(Interruption::Likely));
        let taken = Status { pending_shared: 0, ..many };
        assert_eq!(watch.interruption(&taken), None);
        assert_eq!(watch.interruption(&many), None, "counts anew");
    }

    #[test]
    fn looks_become_rarer_and_are_limited_over_all() {
        let mut interval = limits::SIGNAL_CHECK_MIN;
        for _ in 0..10 {
            interval = next_interval(interval, limits::SIGNAL_CHECK_MAX, 1);
        }
        assert_eq!(interval, limits::SIGNAL_CHECK_MAX);
        let crowded = next_interval(interval, limits::SIGNAL_CHECK_MAX, 15_000);
        assert_eq!(crowded, Duration::from_secs(10));
    }
}
