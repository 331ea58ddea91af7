//! Inquiries: held calls whose answer the gateway has.
//!
//! in: calls about a connection that stands, whose answer only the host's kernel knows; out: their
//! answers. Owner: the supervisor's loop. Kept: the gateway's answer is waited for at most
//! [`limits::INQUIRY_PATIENCE`], then the guest's own kernel must do. Bound: one inquiry is one
//! waiting thread of the supervised programs.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::options::{Inspection, SocketOption};

use crate::connect::not_replaced;
use crate::notify::{Answer, Notification};
use crate::options::{self, write_option, write_value};
use crate::supervisor::{Subject, Supervisor};
use crate::waiting::{Reason, Waiting};
use crate::{limits, sys};

/// What a program wants to know.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// A TCP-level option; `value` is what the shadow says, as long as the program's kernel makes it.
    Option { name: i32, value: Vec<u8> },
    /// SO_ERROR, of a connection that has ended.
    Error { inode: u64 },
    /// SIOCOUTQ.
    OutQueue,
    /// connect(AF_UNSPEC): the far side is to see a reset, as TCP's does.
    Disassociate(Subject),
    /// Whether the host takes an option: then the program's kernel gets it too, on `file`.
    Set { option: SocketOption, file: OwnedFd, level: i32, name: i32, value: Vec<u8> },
}

/// Sets an option that the host has taken. A congestion control is the host's: the guest's kernel may
/// not have it.
fn set_here(file: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Answer {
    let is_hosts = (level, name) == (libc::SOL_TCP, libc::TCP_CONGESTION);
    if is_hosts && !options::is_loaded(value) {
        return Answer::Value(0);
    }
    match sys::socket::set_option(file.as_fd(), level, name, value) {
        Ok(()) => Answer::Value(0),
        Err(error) => Answer::Fail(Errno::of(&error)),
    }
}

impl Supervisor {
    /// Holds a call until the gateway has answered for the socket's connection. `None` when it cannot
    /// be asked.
    pub(crate) fn inquire(
        &mut self,
        notification: &Notification,
        inode: u64,
        inquiry: Inquiry,
        now: Instant,
    ) -> Option<Answer> {
        if !self.link.has_options() {
            return None;
        }
        let token = self.table.get(inode)?.token;
        let option = match &inquiry {
            Inquiry::Set { option, .. } => Some(option.clone()),
            Inquiry::Disassociate(_) => Some(SocketOption::AbortOnClose(true)),
            Inquiry::Option { .. } | Inquiry::Error { .. } | Inquiry::OutQueue => None,
        };
        let deadline = Some(now + limits::INQUIRY_PATIENCE);
        let reason = Reason::Inquiry(inquiry);
        let waiting = Waiting::new(*notification, None, reason, deadline, now);
        let key = self.waiting.insert(waiting, now);
        match option {
            Some(option) => self.link.set_option(token, option, key),
            None => self.link.inspect(token, key),
        }
        Some(Answer::Later)
    }

    /// The gateway has answered, or will not any more.
    pub(crate) fn on_answer(&mut self, key: u64, outcome: Result<Inspection, Errno>, now: Instant) {
        let Some(waiting) = self.stop_waiting(key) else { return };
        let Reason::Inquiry(inquiry) = waiting.reason else { return };
        let notification = &waiting.notification;
        let answer = match inquiry {
            Inquiry::Option { name, mut value } => {
                options::refine(name, &mut value, outcome.ok().as_ref());
                write_value(notification, &value).unwrap_or(Answer::Native)
            }
            Inquiry::Error { inode } => self.tell_reset(notification, inode, outcome),
            Inquiry::OutQueue => {
                let bytes = outcome.ok().and_then(|it| it.out_queue).unwrap_or(0);
                crate::ioctl::write_int(notification, bytes)
            }
            Inquiry::Disassociate(subject) => match self.restore(notification, subject, now) {
                Ok(()) => Answer::Value(0),
                Err(error) => not_replaced(&error),
            },
            Inquiry::Set { file, level, name, value, .. } => match outcome {
                // Gone: there is nothing that the option could change any more.
                Ok(_) | Err(Errno::ENOTCONN) => set_here(&file, level, name, &value),
                Err(errno) => Answer::Fail(errno),
            },
        };
        self.listener.answer(notification.id, answer);
    }

    /// Reports a reset by the far side, once.
    fn tell_reset(
        &mut self,
        notification: &Notification,
        inode: u64,
        outcome: Result<Inspection, Errno>,
    ) -> Answer {
        let reset = outcome.ok().and_then(|inspection| inspection.reset);
        let (Some(errno), Some(socket)) = (reset, self.table.get(inode)) else {
            return Answer::Native;
        };
        if std::mem::replace(&mut socket.reset_told, true) {
            return Answer::Native;
        }
        write_option(notification, &errno.raw().to_ne_bytes())
    }
}
