//! Waiting: epoll sets, event counters, signals as a file.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::check;

pub(crate) const READABLE: u32 = libc::EPOLLIN.cast_unsigned();
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT.cast_unsigned();
pub(crate) const PEER_CLOSED: u32 = libc::EPOLLRDHUP.cast_unsigned();
pub(crate) const FAILED: u32 = libc::EPOLLERR.cast_unsigned();
pub(crate) const HUNG_UP: u32 = libc::EPOLLHUP.cast_unsigned();
pub(crate) const EDGE: u32 = libc::EPOLLET.cast_unsigned();

/// One event of an epoll set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

/// An epoll set.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn add(&self, file: BorrowedFd<'_>, events: u32, data: u64) -> io::Result<()> {
        control(self.as_fd(), libc::EPOLL_CTL_ADD, file, events, data)
    }

    pub(crate) fn modify(&self, file: BorrowedFd<'_>, events: u32, data: u64) -> io::Result<()> {
        control(self.as_fd(), libc::EPOLL_CTL_MOD, file, events, data)
    }

    pub(crate) fn delete(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        control(self.as_fd(), libc::EPOLL_CTL_DEL, file, 0, 0)
    }

    /// Waits for events, at most `timeout` (rounded up to milliseconds). Being stopped and continued
    /// ends the wait early, with none.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Event>> {
        const BATCH: usize = 64;
        let milliseconds = timeout.map_or(-1, |timeout| {
            let up = timeout.as_nanos().div_ceil(1_000_000);
            i32::try_from(up).unwrap_or(i32::MAX)
        });
        let mut events = [const { MaybeUninit::<libc::epoll_event>::uninit() }; BATCH];
        // SAFETY: the kernel writes at most as many events as the array has room for.
        let result = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                i32::try_from(BATCH).unwrap_or(1),
                milliseconds,
            )
        };
        let n = match check(result) {
            Ok(n) => usize::try_from(n).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let read = |event: &MaybeUninit<libc::epoll_event>| {
            // SAFETY: the kernel has filled the first `n` events.
            let event = unsafe { event.assume_init() };
            Event { events: event.events, data: event.u64 }
        };
        Ok(events.iter().take(n).map(read).collect())
    }
}

/// Adds to an epoll set that belongs to someone else.
pub(crate) fn add_to(
    set: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    events: u32,
    data: u64,
) -> io::Result<()> {
    control(set, libc::EPOLL_CTL_ADD, file, events, data)
}

/// Removes from an epoll set that belongs to someone else.
pub(crate) fn delete_from(set: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    control(set, libc::EPOLL_CTL_DEL, file, 0, 0)
}

fn control(
    set: BorrowedFd<'_>,
    operation: i32,
    file: BorrowedFd<'_>,
    events: u32,
    data: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: the kernel reads one live `epoll_event`.
    let result =
        unsafe { libc::epoll_ctl(set.as_raw_fd(), operation, file.as_raw_fd(), &raw mut event) };
    check(result).map(drop)
}

/// What is ready on one file right now.
pub(crate) fn ready(file: BorrowedFd<'_>, events: u32) -> io::Result<u32> {
    // poll and epoll share the low sixteen event bits.
    let wanted = i16::try_from(events & 0x7fff).unwrap_or(0);
    let mut one = libc::pollfd { fd: file.as_raw_fd(), events: wanted, revents: 0 };
    // SAFETY: one live `pollfd`, and the count says one.
    check(unsafe { libc::poll(&raw mut one, 1, 0) })?;
    Ok(u32::from(one.revents.cast_unsigned()))
}

/// Waits until one of `events` is ready on one file. `false` when the time is over.
pub(crate) fn wait_for(file: BorrowedFd<'_>, events: u32, timeout: Duration) -> io::Result<bool> {
    let set = Epoll::new()?;
    set.add(file, events, 0)?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !set.wait(Some(left))?.is_empty() {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// A counter that wakes an epoll set.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct Signals(libc::sigset_t);

impl Signals {
    pub(crate) fn none() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset writes the whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: written just above; the call cannot fail with a valid pointer.
        Self(unsafe { set.assume_init() })
    }

    pub(crate) fn all() -> Self {
        let mut set = Self::none();
        // SAFETY: sigfillset writes the whole live set.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    pub(crate) fn without(mut self, signals: &[i32]) -> Self {
        for signal in signals {
            // SAFETY: the set is live; a bad number is refused, not used.
            unsafe { libc::sigdelset(&raw mut self.0, *signal) };
        }
        self
    }

    pub(crate) fn with(mut self, signal: i32) -> Self {
        // SAFETY: the set is live; a bad number is refused, not used.
        unsafe { libc::sigaddset(&raw mut self.0, signal) };
        self
    }

    /// Blocks exactly these signals in this thread; returns what was blocked before.
    pub(crate) fn block(self) -> io::Result<Self> {
        let mut before = Self::none();
        // SAFETY: both sets are live for the call.
        let result = unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0)
        };
        if result == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// A file that becomes readable when one of these signals, blocked, is pending.
    pub(crate) fn as_file(self) -> io::Result<OwnedFd> {
        // SAFETY: the set is live; -1 asks for a new descriptor.
        let fd = check(unsafe {
            libc::signalfd(-1, &raw const self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        })?;
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
