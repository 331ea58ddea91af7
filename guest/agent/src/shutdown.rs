//! shutdown() of listeners and of outsourced connections.
//!
//! in: notifications; out: answers as TCP gives them. Owner: the supervisor's loop. Kept: the gateway tells
//! a program's shutdown() of both halves from its close() by the packets, for the kernel sends one for each
//! shutdown() and one for both halves at close(): so a shutdown() of both is made in two steps, and bytes
//! that nobody has read are a reset only at close(), as TCP's are.

use std::io;
use std::os::fd::AsFd;

use outsock_vmrpc::Errno;

use crate::names::is_closed;
use crate::notify::{Answer, Notification};
use crate::supervisor::Supervisor;
use crate::sys::socket::shutdown;
use crate::table::State;

impl Supervisor {
    pub(crate) fn on_shutdown(&mut self, notification: &Notification) -> io::Result<Answer> {
        if self.listeners.is_empty() && self.table.is_empty() {
            return Ok(Answer::Native);
        }
        let how = notification.int(1);
        let subject = self.subject(notification)?;
        if self.listening(&subject).is_some() {
            let done = shutdown(subject.file.as_fd(), how);
            if done.is_ok() {
                self.forget_listener(subject.inode);
            }
            return Ok(answer(done));
        }
        let steps: &[i32] = match how {
            libc::SHUT_RDWR => &[libc::SHUT_WR, libc::SHUT_RD],
            libc::SHUT_RD => &[libc::SHUT_RD],
            libc::SHUT_WR => &[libc::SHUT_WR],
            _ => return Ok(Answer::Native),
        };
        match self.entry(&subject).map(|socket| (socket.state, socket.reset_told)) {
            Some((State::Connected { .. }, reset_told)) => {
                let is_over = reset_told || is_closed(&subject.file);
                let file = subject.file.as_fd();
                let done = steps.iter().try_for_each(|step| shutdown(file, *step));
                Ok(if is_over { Answer::Fail(Errno::ENOTCONN) } else { answer(done) })
            }
            Some((State::Connecting(_) | State::Failed(_) | State::Idle, _)) | None => {
                Ok(Answer::Native)
            }
        }
    }
}

fn answer(done: io::Result<()>) -> Answer {
    done.map_or_else(|error| Answer::Fail(Errno::of(&error)), |()| Answer::Value(0))
}
