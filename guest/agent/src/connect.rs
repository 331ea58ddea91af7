//! connect(): decide, start the attempt, replace the socket, answer.
//!
//! in: connect() notifications, verdicts, readiness; out: answers, and the program's socket replaced
//! by the data connection. Owner: the supervisor's loop. Kept:
//! * the address is copied once; the decision and the dial use that copy;
//! * a blocking connect keeps the program's own TCP socket until it succeeds (or is interrupted), so
//!   a failure leaves nothing to undo; a non-blocking one is replaced at once, because the program
//!   will wait for the new file;
//! * after the answer the supervisor holds no reference on the new file.
//!
//! How connect() ends in each state is `table::State`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::{ConnectReply, ConnectRequest, Destination, Token};

use crate::address::{self, Family, Passed};
use crate::notify::{Answer, Notification};
use crate::processes::Process;
use crate::supervisor::{Attempt, Owner, Progress, Subject, Supervisor, progress, socket_cookie};
use crate::sys::poll::{EDGE, WRITABLE};
use crate::table::{Again, Socket, State};
use crate::waiting::{Interruption, Reason, Waiting};
use crate::{limits, log, options, proc, sys};

/// A blocking connect() under way.
#[derive(Debug)]
pub(crate) struct First {
    process: Rc<Process>,
    number: RawFd,
    /// The program's socket, as it is.
    old: OwnedFd,
    old_inode: u64,
    /// The data connection, non-blocking.
    new: OwnedFd,
    /// The file status flags that the program's socket has.
    flags: i32,
    family: Family,
    peer: SocketAddr,
    verdict: Option<ConnectReply>,
    /// The data connection has ended without a verdict so far.
    lost: bool,
}

impl Supervisor {
    pub(crate) fn on_connect(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let passed = passed_address(notification)?;
        if passed == Passed::Foreign {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        if !self.listener.is_waiting(notification.id) {
            return Ok(Answer::Later);
        }
        match passed {
            Passed::Foreign => Ok(Answer::Native),
            Passed::Unspecified => self.disassociate(notification, subject, now),
            Passed::Internet(peer) => {
                if self.entry(&subject).is_none() {
                    return self.connect_own(notification, subject, peer, now);
                }
                let progress = progress(&subject.file);
                let open = progress == Some(Progress::Open);
                match self.entry(&subject).map(|socket| socket.state.connect(open)) {
                    None => Ok(Answer::Native),
                    Some(Again::Done) => Ok(Answer::Value(0)),
                    Some(Again::IsConnected) => Ok(Answer::Fail(Errno::EISCONN)),
                    Some(Again::Fails(errno)) => Ok(Answer::Fail(errno)),
                    Some(Again::InProgress(Some(token))) if progress.is_some() => {
                        Ok(self.wait_for_verdict(notification, token, !open, now))
                    }
                    Some(Again::InProgress(token)) => {
                        self.connect_again(notification, subject, token, now)
                    }
                    Some(Again::Fresh) => self.connect_anew(notification, subject, peer, now),
                }
            }
        }
    }

    /// A socket that is still the guest's own.
    fn connect_own(
        &mut self,
        notification: &Notification,
        subject: Subject,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        let own = match self.outsourceable(&subject.file) {
            Some(own) if !self.stays_in_guest(&subject.file, family_of(own), peer)? => own,
            Some(_) | None => return Ok(Answer::Native),
        };
        self.start(notification, subject, own, peer, now)
    }

    /// A socket whose last attempt failed.
    fn connect_anew(
        &mut self,
        notification: &Notification,
        subject: Subject,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let family = socket.family;
        let shadow = socket.shadow.try_clone()?;
        if self.stays_in_guest(&shadow, family, peer)? {
            self.restore(notification, subject, now)?;
            return Ok(Answer::Native);
        }
        let own = bound_name(&shadow).unwrap_or_else(|| address::unspecified(family, 0));
        self.start(notification, subject, own, peer, now)
    }

    /// The name of a TCP socket of the supervisor's own network namespace that has nothing under way.
    /// The networks of containers are left alone.
    fn outsourceable(&self, file: &OwnedFd) -> Option<SocketAddr> {
        const TCP_CLOSE: u8 = 7;
        let file_ = file.as_fd();
        // Only TCP and what is made of it (MPTCP) answers this.
        let mut state = [0u8];
        sys::socket::option(file_, libc::SOL_TCP, libc::TCP_INFO, &mut state).ok()?;
        let cookie = sys::socket::NETNS_COOKIE;
        let network = sys::socket::wide_option(file_, libc::SOL_SOCKET, cookie).ok();
        if state[0] != TCP_CLOSE || network != self.network {
            return None;
        }
        bound_name(file)
    }

    /// Whether a destination is the guest's own, or one that the guest's TCP refuses by itself.
    fn stays_in_guest(
        &mut self,
        socket: &OwnedFd,
        family: Family,
        peer: SocketAddr,
    ) -> io::Result<bool> {
        let mapped = match (family, peer) {
            (Family::V4, SocketAddr::V4(_)) => false,
            (Family::V6, SocketAddr::V6(v6)) => v6.ip().to_ipv4_mapped().is_some(),
            (Family::V4, SocketAddr::V6(_)) | (Family::V6, SocketAddr::V4(_)) => return Ok(true),
        };
        let only = |socket: &OwnedFd| {
            sys::socket::int_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
        };
        if mapped && only(socket)? != 0 {
            return Ok(true);
        }
        Ok(self.routes.is_guests_own(peer.ip()))
    }

    /// Starts an attempt.
    fn start(
        &mut self,
        notification: &Notification,
        subject: Subject,
        own: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.table.is_full() {
            log::say(format_args!("{} sockets are outsourced: no more", limits::SOCKETS_MAX));
            return Ok(Answer::Fail(Errno::ENFILE));
        }
        let token = self.fresh_token()?;
        let request = ConnectRequest {
            token,
            destination: Destination::Address(address::canonical(peer)),
            source: (own.port() != 0 || !own.ip().is_unspecified()).then_some(own),
        };
        log::note(format_args!("thread {} connects to {peer}", notification.thread));
        let new = match self.link.connect(&request) {
            Ok(new) => new,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        let flags = sys::file::status_flags(subject.file.as_fd())?;
        options::copy_all(&subject.file, &new, flags);
        let first = First {
            process: subject.process,
            number: notification.descriptor(0),
            old: subject.file,
            old_inode: subject.inode,
            new,
            flags,
            family: family_of(own),
            peer,
            verdict: None,
            lost: false,
        };
        if flags & libc::O_NONBLOCK == 0 {
            return self.wait_first(notification, first, token, now);
        }
        match self.hand_over(notification, first, State::Connecting(token), now) {
            Ok(inode) => {
                self.attempts.insert(token, Attempt { started: now, owner: Owner::Socket(inode) });
                Ok(Answer::Fail(Errno::EINPROGRESS))
            }
            Err(error) => {
                self.link.cancel(token);
                Ok(not_replaced(&error))
            }
        }
    }

    /// A blocking connect: the call is held.
    fn wait_first(
        &mut self,
        notification: &Notification,
        first: First,
        token: Token,
        now: Instant,
    ) -> io::Result<Answer> {
        let timeout = send_timeout(&first.old);
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
    fn connect_again(
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
    fn watch_socket(&mut self, key: u64) -> io::Result<()> {
        let socket = match self.waiting.get(key).map(|waiting| &waiting.reason) {
            Some(Reason::First(first)) => &first.new,
            Some(Reason::Again(file)) => file,
            Some(Reason::Question { .. }) | None => return Ok(()),
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
            Reason::Question { .. } => {}
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
            (Reason::Again(_), Some(_)) | (Reason::Question { .. }, _) => {}
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
                self.end_first(key, state, Answer::Value(0), now);
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

    /// Puts the data connection where the program's socket was, enters it into the table, and lets
    /// go of it. The old socket becomes the shadow, or gives its shadow on.
    fn hand_over(
        &mut self,
        notification: &Notification,
        first: First,
        state: State,
        now: Instant,
    ) -> io::Result<u64> {
        let First { process, number, old, old_inode, new, flags, family, peer, .. } = first;
        // A moment has passed only for a call that was held.
        if flags & libc::O_NONBLOCK == 0 {
            still_there(&process, number, old_inode)?;
        }
        self.replace(notification, &process, &old, old_inode, &new, now)?;
        set_flags(&new, flags)?;
        let inode = sys::file::identity(new.as_fd())?.inode;
        self.weak.watch(new.as_fd(), inode, now)?;
        if matches!(state, State::Connecting(_)) {
            self.weak.hurry(inode);
        }
        let shadow = self.table.remove(old_inode).map_or(old, |socket| socket.shadow);
        let cookie = socket_cookie(&new);
        let home = (process, number);
        self.table.insert(inode, Socket { cookie, family, shadow, peer, state, home });
        Ok(inode)
    }

    /// Gives the program its own TCP socket back.
    fn restore(
        &mut self,
        notification: &Notification,
        subject: Subject,
        now: Instant,
    ) -> io::Result<()> {
        let Some(socket) = self.table.remove(subject.inode) else { return Ok(()) };
        if let State::Connecting(token) = socket.state {
            self.attempts.remove(&token);
            self.link.cancel(token);
        }
        let flags = sys::file::status_flags(subject.file.as_fd())?;
        let now_set = sys::file::status_flags(socket.shadow.as_fd())?;
        if now_set != flags {
            sys::file::set_status_flags(socket.shadow.as_fd(), flags)?;
        }
        options::copy_all(&subject.file, &socket.shadow, flags);
        let Subject { process, file, inode } = subject;
        self.replace(notification, &process, &file, inode, &socket.shadow, now)
    }

    /// connect(AF_UNSPEC).
    fn disassociate(
        &mut self,
        notification: &Notification,
        subject: Subject,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.entry(&subject).is_none() {
            return Ok(Answer::Native);
        }
        self.restore(notification, subject, now)?;
        Ok(Answer::Value(0))
    }

    /// Puts `new` at every number at which the process has `old`, with the same close-on-exec flags
    /// and the same places in epoll sets.
    fn replace(
        &mut self,
        notification: &Notification,
        process: &Process,
        old: &OwnedFd,
        old_inode: u64,
        new: &OwnedFd,
        now: Instant,
    ) -> io::Result<()> {
        let number = notification.descriptor(0);
        let thread = notification.thread;
        let numbers = self.duplicated.numbers(thread, number, old_inode);
        let only = (numbers.len() == 1).then_some(number);
        let registered = crate::epoll::registrations(process, only, old_inode, now);
        self.mover.move_all(old.as_fd(), new.as_fd(), &registered)?;
        for number in numbers {
            let close_on_exec = proc::fd_info(thread, number)?.close_on_exec();
            let listener = self.listener.as_fd();
            let id = notification.id;
            sys::seccomp::replace_fd(listener, id, new.as_fd(), number, close_on_exec)?;
        }
        self.duplicated.forget(old_inode);
        Ok(())
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
        if matches!(waiting.reason, Reason::Question { .. }) {
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
        let Some(token) = waiting.token else {
            // The verdict is there and the socket will open at any moment.
            return;
        };
        match &waiting.reason {
            Reason::First(first) if first.verdict.is_some() => {}
            Reason::First(_) => self.end_first(key, State::Connecting(token), answer, now),
            Reason::Again(_) | Reason::Question { .. } => {
                if let Some(waiting) = self.stop_waiting(key) {
                    self.listener.answer(waiting.notification.id, answer);
                }
            }
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

/// The address that a connect() passes, copied once.
fn passed_address(notification: &Notification) -> io::Result<Passed> {
    let length = usize::try_from(notification.int(2)).unwrap_or(usize::MAX);
    if length > limits::ADDRESS_BYTES_MAX {
        return Ok(Passed::Foreign);
    }
    let mut bytes = [0u8; limits::ADDRESS_BYTES_MAX];
    let bytes = &mut bytes[..length];
    sys::memory::read(notification.thread, notification.pointer(1), bytes)?;
    Ok(Passed::parse(bytes))
}

/// Whether a process still has a socket at a number. Another thread may have closed it meanwhile, and
/// opened something else there.
fn still_there(process: &Process, number: RawFd, inode: u64) -> io::Result<()> {
    let present = process.copy_descriptor(number)?;
    if sys::file::identity(present.as_fd())?.inode == inode {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EBADF))
}

fn family_of(name: SocketAddr) -> Family {
    if name.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The name that a socket has been bound to (all zeros when it has not).
pub(crate) fn bound_name(socket: &OwnedFd) -> Option<SocketAddr> {
    match Passed::parse(&sys::socket::local_name(socket.as_fd()).ok()?) {
        Passed::Internet(name) => Some(name),
        Passed::Unspecified | Passed::Foreign => None,
    }
}

/// SO_SNDTIMEO, which is also the time limit of connect().
fn send_timeout(socket: &OwnedFd) -> Option<Duration> {
    let mut value = [0u8; sys::socket::OPTION_BYTES_SMALL];
    sys::socket::option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, &mut value).ok()?;
    let number = |at: usize| {
        let bytes = value.get(at..)?.first_chunk::<8>()?;
        u64::try_from(i64::from_ne_bytes(*bytes)).ok()
    };
    let timeout = Duration::from_secs(number(0)?) + Duration::from_micros(number(8)?);
    (!timeout.is_zero()).then_some(timeout)
}

/// Blocking or not, and SIGIO, as the program has set it on its own socket. The data connection comes
/// non-blocking, so for a non-blocking program there is nothing to do.
fn set_flags(new: &OwnedFd, flags: i32) -> io::Result<()> {
    let shared = flags & (libc::O_NONBLOCK | libc::O_ASYNC);
    if shared == libc::O_NONBLOCK {
        return Ok(());
    }
    sys::file::set_status_flags(new.as_fd(), libc::O_RDWR | shared)
}

/// The answer when the socket could not be replaced.
fn not_replaced(error: &io::Error) -> Answer {
    log::note(format_args!("a socket could not be replaced: {error}"));
    match Errno::of(error) {
        // The caller is gone.
        Errno::ENOENT => Answer::Later,
        errno => Answer::Fail(errno),
    }
}
