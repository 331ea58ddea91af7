//! sendto() and sendmsg(): what a vsock stream does not do by itself.
//!
//! in: notifications of sendto() with an address, and of MSG_FASTOPEN; out: what TCP does. TCP ignores the
//! address of a connected socket, vsock says EISCONN, so the supervisor sends for the program.
//! MSG_FASTOPEN is a connect() with data behind it, as TCP does it without a cookie: a blocking call
//! returns when the data is on its way, a non-blocking one is in progress and has sent nothing. Owner:
//! the supervisor's loop. Kept: the loop never waits for room; a blocking call does (`waiting`). Bound:
//! [`limits::SEND_BYTES_MAX`] per call, so that a longer blocking one returns a short count.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;

use crate::address::Passed;
use crate::connect::address_at;
use crate::filter::Call;
use crate::held;
use crate::notify::{Answer, Notification};
use crate::supervisor::{Progress, Subject, Supervisor, progress};
use crate::table::{Again, State};
use crate::waiting::{Reason, Waiting};
use crate::{limits, sys};

/// What of a call's flags reaches the stream. The others are the supervisor's to act on.
const PASSED_ON: i32 = libc::MSG_MORE | libc::MSG_OOB | libc::MSG_EOR;
/// `struct msghdr` of a 64-bit program: name, its length, pieces, their number.
const MESSAGE_BYTES: usize = 32;
/// `struct iovec` of a 64-bit program.
const PIECE_BYTES: usize = 16;

/// What a call wants to send, and where to.
#[derive(Clone, Debug)]
struct Sending {
    flags: i32,
    address: (u64, usize),
    pieces: Vec<(u64, usize)>,
}

impl Supervisor {
    pub(crate) fn on_send(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        let flags = match notification.call {
            Call::SendMessage => notification.int(2),
            _ => notification.int(3),
        };
        if flags & libc::MSG_FASTOPEN != 0 {
            return self.on_fast_open(notification, now);
        }
        if !self.table.is_empty() {
            let subject = self.subject(notification)?;
            if let Some(socket) = self.entry(&subject) {
                let state = socket.state;
                return self.send_for(notification, subject, state, now);
            }
        }
        self.on_send_to(notification, now)
    }

    /// MSG_FASTOPEN.
    fn on_fast_open(&mut self, notification: &Notification, now: Instant) -> io::Result<Answer> {
        let sending = sending(notification)?;
        let passed = address_at(notification.thread, sending.address.0, sending.address.1)?;
        let Passed::Internet(peer) = passed else { return Ok(Answer::Native) };
        if self.is_nameserver(notification.thread, peer) {
            // musl then connects, which leads to the resolver.
            return Ok(Answer::Fail(Errno::EOPNOTSUPP));
        }
        let subject = self.subject(notification)?;
        if self.entry(&subject).is_none() {
            return self.connect_own(notification, subject, peer, now);
        }
        let progress = progress(&subject.file);
        match self.entry(&subject).map(|socket| socket.state.connect(progress.is_some())) {
            None => Ok(Answer::Native),
            Some(Again::Done) => {
                Ok(send_now(notification, subject.file.as_fd())
                    .unwrap_or(Answer::Fail(Errno::EAGAIN)))
            }
            Some(Again::IsConnected) => Ok(Answer::Fail(Errno::EISCONN)),
            Some(Again::Fails(errno)) => Ok(Answer::Fail(errno)),
            Some(Again::InProgress(Some(token))) if progress.is_some() => {
                let lost = progress == Some(Progress::Failed);
                Ok(self.wait_for_verdict(notification, token, lost, now))
            }
            Some(Again::InProgress(token)) => self.connect_again(notification, subject, token, now),
            Some(Again::Fresh) => self.connect_anew(notification, subject, peer, now),
        }
    }

    /// sendto() with an address that TCP would ignore.
    fn send_for(
        &mut self,
        notification: &Notification,
        subject: Subject,
        state: State,
        now: Instant,
    ) -> io::Result<Answer> {
        let waits = sys::file::status_flags(subject.file.as_fd())? & libc::O_NONBLOCK == 0
            && notification.int(3) & libc::MSG_DONTWAIT == 0;
        match state {
            State::Connected { .. } => {
                if let Some(answer) = send_now(notification, subject.file.as_fd()) {
                    return Ok(answer);
                }
            }
            State::Connecting(_) => {}
            State::Failed(_) | State::Idle => return Ok(broken_pipe(notification)),
        }
        if !waits {
            return Ok(Answer::Fail(Errno::EAGAIN));
        }
        let deadline = held::send_timeout(&subject.file).map(|timeout| now + timeout);
        let token = match state {
            State::Connecting(token) => Some(token),
            State::Connected { .. } | State::Failed(_) | State::Idle => None,
        };
        let reason = Reason::Again(subject.file);
        let mut waiting = Waiting::new(*notification, token, reason, deadline, now);
        waiting.never_restart = deadline.is_some();
        let key = self.waiting.insert(waiting, now);
        self.watch_socket(key)?;
        Ok(Answer::Later)
    }
}

/// Sends what a call passes, as much as there is room for. `None` without any room.
pub(crate) fn send_now(notification: &Notification, stream: BorrowedFd<'_>) -> Option<Answer> {
    let Ok(sending) = sending(notification) else { return Some(Answer::Fail(Errno::EFAULT)) };
    let Ok(bytes) = gather(notification.thread, &sending.pieces) else {
        return Some(Answer::Fail(Errno::EFAULT));
    };
    match sys::socket::send_with(stream, &bytes, sending.flags & PASSED_ON) {
        Ok(sent) => Some(Answer::Value(i64::try_from(sent).unwrap_or(i64::MAX))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) if Errno::of(&error) == Errno::EPIPE => Some(broken_pipe(notification)),
        Err(error) => Some(Answer::Fail(Errno::of(&error))),
    }
}

/// EPIPE, with the signal that goes with it.
fn broken_pipe(notification: &Notification) -> Answer {
    let at = if notification.call == Call::SendMessage { 2 } else { 3 };
    if notification.int(at) & libc::MSG_NOSIGNAL == 0 {
        // Fails only when the caller is gone.
        let _ = sys::process::signal_thread(notification.thread, libc::SIGPIPE);
    }
    Answer::Fail(Errno::EPIPE)
}

fn gather(thread: u32, pieces: &[(u64, usize)]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (address, length) in pieces {
        let length = (*length).min(limits::SEND_BYTES_MAX - bytes.len());
        let at = bytes.len();
        bytes.resize(at + length, 0);
        sys::memory::read(thread, *address, &mut bytes[at..])?;
    }
    Ok(bytes)
}

fn sending(notification: &Notification) -> io::Result<Sending> {
    let long = |length: u64| usize::try_from(length).unwrap_or(usize::MAX);
    if notification.call != Call::SendMessage {
        let length = usize::try_from(notification.int(5)).unwrap_or(usize::MAX);
        return Ok(Sending {
            flags: notification.int(3),
            address: (notification.pointer(4), length),
            pieces: vec![(notification.pointer(1), long(notification.pointer(2)))],
        });
    }
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u64::from_ne_bytes)
    };
    let mut message = [0u8; MESSAGE_BYTES];
    sys::memory::read(notification.thread, notification.pointer(1), &mut message)?;
    let count = long(word(&message, 24));
    if count > limits::PIECES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let mut list = vec![0u8; count * PIECE_BYTES];
    sys::memory::read(notification.thread, word(&message, 16), &mut list)?;
    let pieces = list.chunks_exact(PIECE_BYTES);
    Ok(Sending {
        flags: notification.int(2),
        address: (word(&message, 0), long(word(&message, 8) & 0xffff_ffff)),
        pieces: pieces.map(|piece| (word(piece, 0), long(word(piece, 8)))).collect(),
    })
}
