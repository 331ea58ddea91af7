//! Worker: the driver thread, and the lock that it shares with the guest's programs.
//!
//! in: interrupts (call eventfds), wake-ups from programs, the backend's hang-up; out: turns of
//! the stack. Owns nothing alone: programs work on the rings themselves under the same lock, as
//! Linux does in process context, and this thread does what Linux does in interrupts and timers.
//! Kept: it sleeps only after asking for interrupts and looking once more; it never holds the lock
//! while it sleeps. Bound: one thread per guest.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::driver::kick;
use crate::frontend::Frontend;
use crate::socket::Failure;
use crate::stack::{CallError, SocketId, Stack};

const TOKEN_WAKE: u64 = 100;
const TOKEN_BACKEND: u64 = 101;

/// What the guest's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    stack: Mutex<Stack>,
    /// Programs that want the lock: the driver thread steps aside for them between turns.
    contenders: AtomicUsize,
    wake: EventFd,
    pub(crate) events: Arc<Condvar>,
    pub(crate) frontend: Mutex<Frontend>,
    pub(crate) kicks: Vec<EventFd>,
    pub(crate) calls: Vec<EventFd>,
}

/// The data under these locks is whole between statements; a panicking test thread does not spoil
/// it for the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        stack: Stack,
        frontend: Frontend,
        wake: EventFd,
        kicks: Vec<EventFd>,
        calls: Vec<EventFd>,
        events: Arc<Condvar>,
    ) -> Self {
        Self {
            stack: Mutex::new(stack),
            contenders: AtomicUsize::new(0),
            wake,
            events,
            frontend: Mutex::new(frontend),
            kicks,
            calls,
        }
    }

    /// Takes the lock for a program.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Stack> {
        self.contenders.fetch_add(1, Ordering::Relaxed);
        let guard = lock(&self.stack);
        self.contenders.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    pub(crate) fn wake(&self) {
        kick(&self.wake);
    }

    /// After a program's call: kicks the device, and the driver thread if it must sleep shorter.
    pub(crate) fn settle(&self, stack: &mut Stack) {
        stack.driver.kick_tx();
        if stack.oversleeps() {
            self.wake();
        }
    }

    /// Tries `attempt` until it does not block, at most until `deadline`.
    pub(crate) fn block_on<T>(
        &self,
        id: SocketId,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut Stack) -> Result<T, CallError>,
    ) -> Result<T, BlockError> {
        let mut stack = self.lock();
        loop {
            match attempt(&mut stack) {
                Err(CallError::WouldBlock) => {}
                other => {
                    self.settle(&mut stack);
                    return other.map_err(BlockError::Call);
                }
            }
            self.settle(&mut stack);
            if stack.driver.arm_tx() && stack.reclaim() {
                continue;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(BlockError::TimedOut);
            }
            let Some(socket) = stack.get(id) else {
                return Err(BlockError::Call(CallError::NotConnected));
            };
            socket.waiters += 1;
            let changed = Arc::clone(&socket.changed);
            stack = match left {
                Some(left) => {
                    changed.wait_timeout(stack, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => changed.wait(stack).unwrap_or_else(PoisonError::into_inner),
            };
            if let Some(socket) = stack.get(id) {
                socket.waiters -= 1;
            }
        }
    }

    /// The driver thread.
    pub(crate) fn run(&self, epoll: &Epoll) {
        let mut events = [EpollEvent::default(); 8];
        loop {
            let timeout = {
                let mut stack = lock(&self.stack);
                stack.sleeps_until = None;
                if stack.stopping {
                    stack.gone = Some(Failure::Gone);
                    stack.fail_all(Failure::Gone);
                    return;
                }
                if stack.pass(Instant::now()) || stack.arm() {
                    None
                } else {
                    let deadline = stack.next_deadline().filter(|_| stack.gone.is_none());
                    stack.sleeps_until = Some(deadline);
                    Some(deadline)
                }
            };
            match timeout {
                None => self.step_aside(),
                Some(deadline) => self.sleep(epoll, deadline, &mut events),
            }
        }
    }

    fn step_aside(&self) {
        if self.contenders.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
    }

    fn sleep(&self, epoll: &Epoll, deadline: Option<Instant>, events: &mut [EpollEvent]) {
        // Rounded up: waking early would only mean one more turn, but many of them.
        let timeout = deadline.map_or(-1, |deadline| {
            let ms = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            i32::try_from(ms).unwrap_or(i32::MAX)
        });
        // An interrupted wait is a wake-up without a reason; the turn that follows finds nothing.
        let count = epoll.wait(timeout, events).unwrap_or(0);
        if events[..count].iter().any(|event| event.data() == TOKEN_BACKEND) {
            let mut stack = lock(&self.stack);
            stack.gone = Some(Failure::Gone);
            stack.fail_all(Failure::Gone);
        }
    }
}

/// Why a blocking call ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockError {
    Call(CallError),
    TimedOut,
}

/// What wakes the driver thread. Edge-triggered: every write to an eventfd is an edge, so that
/// nobody has to read them.
pub(crate) fn epoll(
    wake: &EventFd,
    calls: &[EventFd],
    backend: &UnixStream,
) -> std::io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |fd, events, token| {
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token);
        epoll.ctl(ControlOperation::Add, fd, event)
    };
    for (token, call) in (0u64..).zip(calls) {
        add(call.as_raw_fd(), EventSet::IN, token)?;
    }
    add(wake.as_raw_fd(), EventSet::IN, TOKEN_WAKE)?;
    add(backend.as_raw_fd(), EventSet::READ_HANG_UP, TOKEN_BACKEND)?;
    Ok(epoll)
}
