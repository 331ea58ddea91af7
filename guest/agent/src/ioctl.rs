//! ioctl(): the questions about a stream that vsock sockets of some kernels do not answer.
//!
//! in: FIONREAD, SIOCOUTQ and SIOCATMARK notifications; out: what TCP says. Owner: the supervisor's
//! loop. The filter traps the first two only where the running kernel's vsock lacks them (`probe`),
//! because programs ask them of pipes and terminals too. Bound: [`limits::PEEK_BYTES_MAX`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use outsock_vmrpc::Errno;

use crate::inquiry::Inquiry;
use crate::notify::{Answer, Notification};
use crate::supervisor::Supervisor;
use crate::table::State;
use crate::{limits, sys};

/// SIOCATMARK of `include/uapi/asm-generic/sockios.h`.
pub(crate) const AT_MARK: u32 = 0x8905;
/// FIONREAD, which is SIOCINQ.
pub(crate) const IN_QUEUE: u32 = 0x541b;
/// TIOCOUTQ, which is SIOCOUTQ.
pub(crate) const OUT_QUEUE: u32 = 0x5411;

/// Which of them the running kernel's vsock answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) in_queue: bool,
    pub(crate) out_queue: bool,
}

impl Answered {
    /// What a filter traps that knows nothing of the kernel.
    pub(crate) const NONE: Self = Self { in_queue: false, out_queue: false };

    /// As one byte, to the child that installs the filter.
    pub(crate) fn encode(self) -> u8 {
        u8::from(self.in_queue) | u8::from(self.out_queue) << 1
    }

    pub(crate) fn decode(byte: u8) -> Self {
        Self { in_queue: byte & 1 != 0, out_queue: byte & 2 != 0 }
    }
}

/// Asks the kernel, on a connected stream of the family that data connections have.
pub(crate) fn probe(stream: BorrowedFd<'_>) -> Answered {
    let has = |request| sys::socket::queued(stream, request).is_ok();
    Answered { in_queue: has(IN_QUEUE), out_queue: has(OUT_QUEUE) }
}

impl Supervisor {
    pub(crate) fn on_ioctl(
        &mut self,
        notification: &Notification,
        now: Instant,
    ) -> io::Result<Answer> {
        if self.table.is_empty() {
            return Ok(Answer::Native);
        }
        let subject = self.subject(notification)?;
        let Some(socket) = self.entry(&subject) else { return Ok(Answer::Native) };
        let state = socket.state;
        Ok(match notification.int(1).cast_unsigned() {
            // There is no urgent data, so never a mark.
            AT_MARK => write_int(notification, 0),
            IN_QUEUE => match in_queue(subject.file.as_fd()) {
                Ok(bytes) => write_int(notification, bytes),
                Err(error) => Answer::Fail(Errno::of(&error)),
            },
            OUT_QUEUE if matches!(state, State::Connected { .. }) => self
                .inquire(notification, subject.inode, Inquiry::OutQueue, now)
                .unwrap_or_else(|| write_int(notification, 0)),
            OUT_QUEUE => write_int(notification, 0),
            _ => Answer::Native,
        })
    }
}

/// Bytes that can be read at once, by looking at them.
fn in_queue(socket: BorrowedFd<'_>) -> io::Result<u32> {
    if let Ok(bytes) = sys::socket::queued(socket, IN_QUEUE) {
        return Ok(bytes);
    }
    let mut size = limits::PEEK_BYTES_MIN;
    loop {
        let mut buffer = vec![0u8; size];
        match sys::socket::peek(socket, &mut buffer) {
            Ok(bytes) if bytes < size || size >= limits::PEEK_BYTES_MAX => {
                return Ok(u32::try_from(bytes).unwrap_or(u32::MAX));
            }
            Ok(_) => size = limits::PEEK_BYTES_MAX,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            // Not connected: TCP has nothing to read then.
            Err(error) if Errno::of(&error) == Errno::ENOTCONN => return Ok(0),
            Err(error) => return Err(error),
        }
    }
}

/// Writes an int where the call's argument 2 wants it.
pub(crate) fn write_int(notification: &Notification, value: u32) -> Answer {
    let bytes = value.min(i32::MAX.cast_unsigned()).to_ne_bytes();
    match sys::memory::write(notification.thread, notification.pointer(2), &bytes) {
        Ok(()) => Answer::Value(0),
        Err(_) => Answer::Fail(Errno::EFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_queued_is_counted() {
        let (mut near, far) = UnixStream::pair().unwrap();
        assert_eq!(in_queue(far.as_fd()).unwrap(), 0);
        near.write_all(&[1; 12_345]).unwrap();
        assert_eq!(in_queue(far.as_fd()).unwrap(), 12_345);
        assert_eq!(sys::socket::peek(far.as_fd(), &mut [0; 100]).unwrap(), 100);
        let answered = probe(far.as_fd());
        assert!(answered.in_queue && answered.out_queue);
        assert_eq!(Answered::decode(answered.encode()), answered);
        assert_eq!(Answered::decode(Answered::NONE.encode()), Answered::NONE);
    }
}
