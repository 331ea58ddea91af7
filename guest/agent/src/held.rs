//! Held connects: from the start of a wait to its answer.
//!
//! in: connects that cannot be answered yet; verdicts, readiness, time, signals; out: their answers.
//! Owner: the supervisor's loop. Kept: a call is answered once, whatever comes first of: verdict and
//! open connection, failure, SO_SNDTIMEO, a signal, the caller's death. A call that is interrupted
//! leaves its attempt going on in the background, as TCP does. The list itself is `waiting`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::{ConnectReply, Token};

use crate::address::Family;
use crate::connect::not_replaced;
use crate::filter::Call;
use crate::notify::{Answer, Notification};
use crate::processes::Process;
use crate::sending::send_now;
use crate::supervisor::{Attempt, Owner, Progress, Subject, Supervisor, progress};
use crate::sys::poll::{EDGE, WRITABLE};
use crate::table::State;
use crate::waiting::{Interruption, Reason, Waiting};
use crate::{limits, proc, sys};

/// A blocking connect() under way.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) process: Rc<Process>,
    pub(crate) number: RawFd,
    /// The program's socket, as it is.
    pub(crate) old: OwnedFd,
    pub(crate) old_inode: u64,
    /// The data connection, non-blocking.
    pub(crate) new: OwnedFd,
    /// Names the attempt, and the connection later.
    pub(crate) token: Token,
    /// The file status flags that the program's socket has.
    pub(crate) flags: i32,
    pub(crate) family: Family,
    pub(crate) peer: SocketAddr,
    pub(crate) verdict: Option<ConnectReply>,
    /// The data connection has ended without a verdict so far.
    pub(crate) lost: bool,
    /// Other processes have the socket too: it is relayed, not replaced.
    pub(crate) is_shared: bool,
}

impl Supervisor {
    /// A blocking connect: the call is held.
    pub(crate) fn wait_first(
        &mut self,
        notification: &Notification,
        first: First,
        now: Instant,
    ) -> io::Result<Answer> {
        let (timeout, token) = (send_timeout(&first.old), first.token);
        let reason = Reason::First(Box::new(first));
        let deadline = timeout.map(|timeout| now + timeout);
        let mut waiting = Waiting::new(*notification, Some(token), reason, deadline, now);
        waiting.never_restart = timeout.is_some();
        let key = self.waiting.insert(waiting, now);
        self.attempts.insert(token, Attempt { started: now, owner: Owner::Call(key) });
        self.watch_socket(key)?;
        Ok(Answer::Later)
    }

    /// Another connect() while the first is under way.
    pub(crate) fn connect_again(
        &mut self,
        notification: &Notification,
        subject: Subject,
        token: Option<Token>,
        now: Instant,
    ) -> io::Result<Answer> {
        if sys::file::status_flags(subject.file.as_fd())? & libc::O_NONBLOCK != 0 {
            return Ok(Answer::Fail(Errno::EALREADY));
        }
        let timeout = send_timeout(&subject.file);
        let deadline = timeout.map(|timeout| now + timeout);
        let reason = Reason::Again(subject.file);
        let mut waiting = Waiting::new(*notification, token, reason, deadline, now);
        waiting.never_restart = timeout.is_some();
        let key = self.waiting.insert(waiting, now);
        self.watch_socket(key)?;
        Ok(Answer::Later)
    }

    /// Has the loop woken when the socket of a waiting call opens or fails.
    pub(crate) fn watch_socket(&mut self, key: u64) -> io::Result<()> {
        let socket = match self.waiting.get(key).map(|waiting| &waiting.reason) {
            Some(Reason::First(first)) => &first.new,
            Some(Reason::Again(file)) => file,
            Some(
                Reason::Question { .. }
                | Reason::Accept(_)
                | Reason::Listen { .. }
                | Reason::Inquiry(_),
            )
            | None => {
                return Ok(());
            }
        };
        self.poll.add(socket.as_fd(), WRITABLE | EDGE, key)
    }

    /// Takes a call out of the list of waiting ones.
    pub(crate) fn stop_waiting(&mut self, key: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        // The file stays open in the program, so it must be taken out of the loop's set here.
        match &waiting.reason {
            Reason::First(first) => drop(self.poll.delete(first.new.as_fd())),
            Reason::Again(file) => drop(self.poll.delete(file.as_fd())),
            Reason::Accept(accepting) => self.leave_queue(accepting.inode, key),
            Reason::Question { .. } | Reason::Listen { .. } | Reason::Inquiry(_) => {}
        }
        Some(waiting)
    }

    /// The data connection of a waiting connect() has opened or failed.
    pub(crate) fn on_socket_ready(&mut self, key: u64, now: Instant) {
        let Some(waiting) = self.waiting.get(key) else { return };
        match (&waiting.reason, waiting.token) {
            (Reason::First(_), _) => self.advance_first(key, now),
            (Reason::Again(_), None) => self.dispatch_again(key, now),
            // The verdict, which is still out, will dispatch it.
            (Reason::Again(_), Some(_))
            | (
                Reason::Question { .. }
                | Reason::Accept(_)
                | Reason::Listen { .. }
                | Reason::Inquiry(_),
                _,
            ) => {}
        }
    }

    pub(crate) fn on_first_verdict(
        &mut self,
        key: u64,
        verdict: Result<ConnectReply, Errno>,
        now: Instant,
    ) {
        match verdict {
            Ok(reply) => {
                if let Some(Waiting { reason: Reason::First(first), .. }) = self.waiting.get(key) {
                    first.verdict = Some(reply);
                }
                self.advance_first(key, now);
            }
            Err(errno) => {
                if let Some(waiting) = self.stop_waiting(key) {
                    self.listener.answer(waiting.notification.id, Answer::Fail(errno));
                }
            }
        }
    }

    /// Ends a blocking connect() when both its verdict and its data connection are there.
    fn advance_first(&mut self, key: u64, now: Instant) {
        let Some(waiting) = self.waiting.get(key) else { return };
        let Reason::First(first) = &mut waiting.reason else { return };
        match (first.verdict, progress(&first.new)) {
            (_, None) => {}
            (Some(reply), Some(Progress::Open | Progress::Failed)) => {
                let state = State::Connected { local: reply.local, told: true };
                let answer = match waiting.notification.call {
                    // MSG_FASTOPEN: the data goes with the connect.
                    Call::SendTo | Call::SendMessage => {
                        let sent = send_now(&waiting.notification, first.new.as_fd());
                        sent.unwrap_or(Answer::Fail(Errno::EAGAIN))
                    }
                    _ => Answer::Value(0),
                };
                self.end_first(key, state, answer, now);
            }
            // The verdict travels on another stream and may be a moment late.
            (None, Some(progress)) => {
                first.lost = progress == Progress::Failed;
                let patience = now + limits::VERDICT_GRACE;
                let deadline = waiting.deadline.map_or(patience, |other| other.min(patience));
                waiting.deadline = Some(deadline);
                self.waiting.reschedule(key, now);
            }
        }
    }

    /// Replaces the program's socket, then answers its connect().
    fn end_first(&mut self, key: u64, state: State, answer: Answer, now: Instant) {
        let Some(waiting) = self.stop_waiting(key) else { return };
        let Reason::First(first) = waiting.reason else { return };
        let notification = &waiting.notification;
        let token = waiting.token;
        if first.is_shared {
            return self.end_shared(notification, *first, state, answer, now);
        }
        match self.hand_over(notification, *first, state, now) {
            Ok(inode) => {
                if let (Some(token), State::Connecting(_)) = (token, state)
                    && let Some(attempt) = self.attempts.get_mut(&token)
                {
                    attempt.owner = Owner::Socket(inode);
                }
                self.listener.answer(notification.id, answer);
            }
            Err(error) => {
                if let Some(token) = token.filter(|token| self.attempts.remove(token).is_some()) {
                    self.link.cancel(token);
                }
                self.listener.answer(notification.id, not_replaced(&error));
            }
        }
    }

    /// Ends a connect() of a socket that other processes have too.
    fn end_shared(
        &mut self,
        notification: &Notification,
        first: First,
        state: State,
        answer: Answer,
        now: Instant,
    ) {
        let State::Connected { local, .. } = state else {
            // Interrupted, or out of time: nothing goes on in the background, a later call begins anew.
            if self.attempts.remove(&first.token).is_some() {
                self.link.cancel(first.token);
            }
            return self.listener.answer(notification.id, answer);
        };
        let names = (first.family, first.peer, local);
        let added = self
            .weak
            .watch(first.old.as_fd(), first.old_inode, now)
            .and_then(|()| self.relays.add(first.old_inode, &first.old, first.new, names));
        // Before the answer: the program's close() must be the last one.
        drop(first.old);
        let answer = added.map_or_else(|error| not_replaced(&error), |()| answer);
        self.listener.answer(notification.id, answer);
    }

    /// The time of a waiting call has come: is its caller still there, is it interrupted, is its
    /// patience over?
    pub(crate) fn on_wait_time(&mut self, key: u64, now: Instant) {
        let Some(waiting) = self.waiting.get(key) else { return };
        let id = waiting.notification.id;
        if !self.listener.is_waiting(id) {
            return self.abandon(key);
        }
        if waiting.is_overdue(now) {
            return self.on_overdue(key, now);
        }
        if matches!(
            waiting.reason,
            Reason::Question { .. } | Reason::Listen { .. } | Reason::Inquiry(_)
        ) {
            return;
        }
        let Ok(status) = proc::status(waiting.notification.thread) else { return };
        let answer = match waiting.interruption(&status) {
            None => return,
            Some(Interruption::Sure) if !waiting.never_restart => Answer::Restart,
            Some(Interruption::Sure | Interruption::Likely) => Answer::Fail(Errno::EINTR),
        };
        self.leave_in_background(key, answer, now);
    }

    /// Lets go of a waiting call if its caller was killed.
    pub(crate) fn abandon_if_gone(&mut self, key: u64) {
        let Some(waiting) = self.waiting.get(key) else { return };
        if !self.listener.is_waiting(waiting.notification.id) {
            self.abandon(key);
        }
    }

    /// The caller of a waiting call was killed.
    fn abandon(&mut self, key: u64) {
        let Some(waiting) = self.stop_waiting(key) else { return };
        if let (Reason::First(_), Some(token)) = (&waiting.reason, waiting.token)
            && self.attempts.remove(&token).is_some()
        {
            self.link.cancel(token);
        }
    }

    /// A blocking connect() returns before it has ended; the attempt goes on.
    fn leave_in_background(&mut self, key: u64, answer: Answer, now: Instant) {
        let Some(waiting) = self.waiting.get(key) else { return };
        if matches!(waiting.reason, Reason::Accept(_)) {
            return self.end_waiting(key, answer);
        }
        let Some(token) = waiting.token else {
            // The verdict is there and the socket will open at any moment.
            return;
        };
        match &waiting.reason {
            Reason::First(first) if first.verdict.is_some() => {}
            Reason::First(_) => self.end_first(key, State::Connecting(token), answer, now),
            Reason::Again(_)
            | Reason::Question { .. }
            | Reason::Accept(_)
            | Reason::Listen { .. }
            | Reason::Inquiry(_) => self.end_waiting(key, answer),
        }
    }

    /// Answers a waiting call.
    pub(crate) fn end_waiting(&mut self, key: u64, answer: Answer) {
        if let Some(waiting) = self.stop_waiting(key) {
            self.listener.answer(waiting.notification.id, answer);
        }
    }

    fn on_overdue(&mut self, key: u64, now: Instant) {
        let Some(waiting) = self.waiting.get(key) else { return };
        let token = waiting.token;
        match (&waiting.reason, token) {
            // The data connection has ended and nobody has said why.
            (Reason::First(first), Some(token)) if first.lost => {
                self.settle(token, Err(Errno::ECONNREFUSED), now);
            }
            (Reason::First(first), Some(token)) if progress(&first.new).is_some() => {
                self.settle(token, Ok(ConnectReply { local: None }), now);
            }
            (Reason::First(_), _) => {
                self.leave_in_background(key, Answer::Fail(Errno::EINPROGRESS), now);
            }
            (Reason::Again(_), _) => {
                self.leave_in_background(key, Answer::Fail(Errno::EALREADY), now);
            }
            (Reason::Question { lost }, Some(token)) => {
                let open = Ok(ConnectReply { local: None });
                let verdict = if *lost { Err(Errno::ECONNREFUSED) } else { open };
                self.settle(token, verdict, now);
            }
            (Reason::Question { .. }, None) => self.dispatch_again(key, now),
            (Reason::Accept(_), _) => self.end_waiting(key, Answer::Fail(Errno::EAGAIN)),
            // The gateway takes its time; what it says later still counts for others.
            (Reason::Listen { .. }, _) => self.end_waiting(key, Answer::Value(0)),
            (Reason::Inquiry(_), _) => self.on_answer(key, Err(Errno::ETIMEDOUT), now),
        }
    }

    /// Holds a question until the verdict is there, which is about to come.
    pub(crate) fn wait_for_verdict(
        &mut self,
        notification: &Notification,
        token: Token,
        lost: bool,
        now: Instant,
    ) -> Answer {
        let deadline = Some(now + limits::VERDICT_GRACE);
        let reason = Reason::Question { lost };
        let waiting = Waiting::new(*notification, Some(token), reason, deadline, now);
        self.waiting.insert(waiting, now);
        Answer::Later
    }
}

/// SO_SNDTIMEO, which is also the time limit of connect().
pub(crate) fn send_timeout(socket: &OwnedFd) -> Option<Duration> {
    timeout_option(socket, libc::SO_SNDTIMEO)
}

/// A time limit that is set on a socket.
pub(crate) fn timeout_option(socket: &OwnedFd, name: i32) -> Option<Duration> {
    let mut value = [0u8; sys::socket::OPTION_BYTES_SMALL];
    sys::socket::option(socket.as_fd(), libc::SOL_SOCKET, name, &mut value).ok()?;
    let number = |at: usize| {
        let bytes = value.get(at..)?.first_chunk::<8>()?;
        u64::try_from(i64::from_ne_bytes(*bytes)).ok()
    };
    let timeout = Duration::from_secs(number(0)?) + Duration::from_micros(number(8)?);
    (!timeout.is_zero()).then_some(timeout)
}
