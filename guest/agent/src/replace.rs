//! Replace: the program's socket becomes the data connection, and back.
//!
//! in: an old and a new file; out: the new one at every number of the old one, in the same epoll
//! sets, with the same flags. Owner: the supervisor's loop. Kept: after the answer the supervisor has
//! no reference on what the program got, only a weak one (`weak`); the old socket lives on as the
//! shadow.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::connect::bound_name;
use crate::held::First;
use crate::inquiry::Inquiry;
use crate::notify::{Answer, Notification};
use crate::options::has_ended;
use crate::outward::Queue;
use crate::processes::Process;
use crate::supervisor::{Subject, Supervisor, socket_cookie};
use crate::table::{Socket, State};
use crate::{epoll, options, proc, sys};

impl Supervisor {
    /// Puts the data connection where the program's socket was, enters it into the table, and lets
    /// go of it. The old socket becomes the shadow, or gives its shadow on.
    pub(crate) fn hand_over(
        &mut self,
        notification: &Notification,
        first: First,
        state: State,
        now: Instant,
    ) -> io::Result<u64> {
        let First { process, number, old, old_inode, new, token, flags, family, peer, .. } = first;
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
        let socket = Socket {
            cookie,
            token,
            family,
            bound: bound_name(&shadow),
            shadow,
            peer,
            state,
            reset_told: false,
            outward: Queue::default(),
            home,
        };
        self.table.insert(inode, socket);
        Ok(inode)
    }

    /// Gives the program its own TCP socket back.
    pub(crate) fn restore(
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
        options::copy_all(&subject.file, &socket.shadow, flags, self.seen);
        let Subject { process, file, inode } = subject;
        self.replace(notification, &process, &file, inode, &socket.shadow, now)
    }

    /// connect(AF_UNSPEC).
    pub(crate) fn disassociate(
        &mut self,
        notification: &Notification,
        subject: Subject,
        now: Instant,
    ) -> io::Result<Answer> {
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let stands = matches!(socket.state, State::Connected { .. }) && !has_ended(&subject.file);
        if stands && self.link.has_options() {
            let inode = subject.inode;
            let inquiry = Inquiry::Disassociate(subject);
            return Ok(self.inquire(notification, inode, inquiry, now).unwrap_or(Answer::Native));
        }
        self.restore(notification, subject, now)?;
        Ok(Answer::Value(0))
    }

    /// Puts `new` at every number at which the process has `old`.
    fn replace(
        &mut self,
        notification: &Notification,
        process: &Process,
        old: &OwnedFd,
        old_inode: u64,
        new: &OwnedFd,
        now: Instant,
    ) -> io::Result<()> {
        let (thread, number) = (notification.thread, notification.descriptor(0));
        let numbers = self.duplicated.numbers(thread, number, old_inode);
        self.replace_at(&numbers, notification, process, (old, old_inode), new, now)
    }

    /// Puts `new` at these numbers, all that the process has of `old`, with the same close-on-exec flags
    /// and the same places in epoll sets.
    pub(crate) fn replace_at(
        &mut self,
        numbers: &[RawFd],
        notification: &Notification,
        process: &Process,
        (old, old_inode): (&OwnedFd, u64),
        new: &OwnedFd,
        now: Instant,
    ) -> io::Result<()> {
        let thread = notification.thread;
        let only = numbers.first().copied().filter(|_| numbers.len() == 1);
        let registered = epoll::registrations(process, only, old_inode, now);
        self.mover.move_all(old.as_fd(), new.as_fd(), &registered).map_err(not_the_caller)?;
        let mut replaced = false;
        for &number in numbers {
            // Another thread may have closed one of several numbers just now.
            let Ok(info) = proc::fd_info(thread, number) else { continue };
            let close_on_exec = info.close_on_exec();
            let listener = self.listener.as_fd();
            let id = notification.id;
            sys::seccomp::replace_fd(listener, id, new.as_fd(), number, close_on_exec)?;
            replaced = true;
        }
        self.duplicated.forget(old_inode);
        if replaced { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}

/// ENOENT says that the caller is gone, when it comes of a notification. Of anything else it says that another
/// thread was faster.
fn not_the_caller(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT) => io::Error::from_raw_os_error(libc::EBADF),
        _ => error,
    }
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

/// Blocking or not, and SIGIO, as the program has set it on its own socket. The data connection comes
/// non-blocking, so for a non-blocking program there is nothing to do.
fn set_flags(new: &OwnedFd, flags: i32) -> io::Result<()> {
    let shared = flags & (libc::O_NONBLOCK | libc::O_ASYNC);
    if shared == libc::O_NONBLOCK {
        return Ok(());
    }
    sys::file::set_status_flags(new.as_fd(), libc::O_RDWR | shared)
}
