//! Notifications: held system calls and their answers.
//!
//! in: the listener of a filter; out: typed [`Notification`]s to the supervisor's loop, answers back
//! to the kernel. Owner: the supervisor's thread. Kept: every notification is answered exactly once
//! or its caller is gone. The arguments are a copy; memory they point to is not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use outsock_vmrpc::Errno;

use crate::filter::{self, Call};
use crate::sys;
use crate::sys::seccomp::{Ending, RawNotification};

/// One held call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The calling thread.
    pub(crate) thread: u32,
    pub(crate) call: Call,
    arguments: [u64; 6],
}

impl Notification {
    /// An argument that is an address in the caller's memory.
    pub(crate) fn pointer(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// An argument that is an int: the kernel looks at the low half only.
    pub(crate) fn int(&self, index: usize) -> i32 {
        let low = u32::try_from(self.arguments[index] & 0xffff_ffff).unwrap_or(0);
        low.cast_signed()
    }

    /// An argument that is a descriptor.
    pub(crate) fn descriptor(&self, index: usize) -> RawFd {
        self.int(index)
    }
}

/// How a handler wants a call to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(i64),
    Fail(Errno),
    /// As the kernel's own interruptible waits end: EINTR or a restart, as the handler of the
    /// pending signal was installed. Only when a signal is surely pending for the thread.
    Restart,
    /// The guest's kernel runs the call, as if nobody had looked.
    Native,
    /// Not now: the call is kept in the list of waiting calls, or has ended already.
    Later,
}

/// `ERESTARTSYS` of `include/linux/errno.h`: never seen by programs, understood at the exit of a
/// system call.
const RESTART: i32 = 512;

/// The listener.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Listener {
    fn from(listener: OwnedFd) -> Self {
        Self(listener)
    }
}

impl Listener {
    /// The next held call; `None` when it went away meanwhile, or is not understood.
    pub(crate) fn receive(&self) -> io::Result<Option<Notification>> {
        let raw = match sys::seccomp::receive(self.as_fd()) {
            Ok(raw) => raw,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let notification = typed(&raw);
        if notification.is_none() {
            self.answer(raw.id, Answer::Native);
        }
        Ok(notification)
    }

    /// Ends a call. A caller that is gone needs no answer.
    pub(crate) fn answer(&self, id: u64, answer: Answer) {
        let ending = match answer {
            Answer::Value(value) => Ending::Value(value),
            Answer::Fail(errno) => Ending::Error(errno.raw()),
            Answer::Restart => Ending::Error(RESTART),
            Answer::Native => Ending::Continue,
            Answer::Later => return,
        };
        let _ = sys::seccomp::respond(self.as_fd(), id, ending);
    }

    pub(crate) fn is_waiting(&self, id: u64) -> bool {
        sys::seccomp::id_is_valid(self.as_fd(), id)
    }
}

fn typed(raw: &RawNotification) -> Option<Notification> {
    let call = filter::call_of(raw.data.arch, raw.data.number.cast_unsigned())?;
    let (id, thread, arguments) = (raw.id, raw.thread, raw.data.arguments);
    match call {
        Call::Multiplexed => socket_call(id, thread, arguments),
        Call::Connect
        | Call::Listen
        | Call::Accept
        | Call::AcceptWith
        | Call::Shutdown
        | Call::SocketName
        | Call::PeerName
        | Call::GetOption
        | Call::SetOption
        | Call::Duplicate
        | Call::EpollCreate
        | Call::Bind
        | Call::SendTo
        | Call::SendMessage
        | Call::SecondListener
        | Call::Ioctl => Some(Notification { id, thread, call, arguments }),
    }
}

/// Unpacks `socketcall(2)`: the arguments are 32-bit words in memory, read once here.
fn socket_call(id: u64, thread: u32, outer: [u64; 6]) -> Option<Notification> {
    let (call, count) = match outer[0] & 0xffff_ffff {
        2 => (Call::Bind, 3),
        3 => (Call::Connect, 3),
        4 => (Call::Listen, 2),
        5 => (Call::Accept, 3),
        6 => (Call::SocketName, 3),
        7 => (Call::PeerName, 3),
        11 => (Call::SendTo, 6),
        13 => (Call::Shutdown, 2),
        14 => (Call::SetOption, 5),
        15 => (Call::GetOption, 5),
        18 => (Call::AcceptWith, 4),
        _ => return None,
    };
    let mut bytes = [0u8; 24];
    sys::memory::read(thread, outer[1] & 0xffff_ffff, &mut bytes[..4 * count]).ok()?;
    let mut arguments = [0u64; 6];
    for (argument, word) in arguments.iter_mut().zip(bytes.chunks_exact(4)) {
        *argument = u64::from(word.first_chunk().copied().map_or(0, u32::from_ne_bytes));
    }
    Some(Notification { id, thread, call, arguments })
}
