//! Waiting: who waits for a queue, and how a thread or a task does.
//!
//! in: wakers; out: their wake-ups. Kept: who is added before the last look is woken by whatever
//! comes after it. Bound: as many as there are waiting threads and tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Form;
use crate::limits;

/// The data under the lock is whole between statements, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<Vec<Waker>>);

impl Waiters {
    pub(super) fn add(&self, waker: &Waker) {
        let mut wakers = lock(&self.0);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread until `poll` is ready; `None` when the deadline came first.
pub(super) fn block_on<T>(
    deadline: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(ready) = poll(&mut context) {
            return Some(ready);
        }
        match deadline {
            None => std::thread::park(),
            Some(deadline) => {
                let left = deadline.checked_duration_since(Instant::now())?;
                std::thread::park_timeout(left);
            }
        }
    }
}

const SPIN: Duration = Duration::from_micros(limits::QUEUE_SPIN_US);
/// Looks between two glances at the clock.
const LOOKS: u32 = 64;

/// Looks again and again for a moment: the other side of a queue in shared memory may be busy, and
/// then neither has to wake the other.
pub(super) fn spin<T>(form: Form, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    // Most looks of a busy side succeed at once, and the clock costs more than they do.
    if let Some(found) = look() {
        return Some(found);
    }
    if form == Form::Stream {
        return None;
    }
    let begun = Instant::now();
    loop {
        if let Some(found) = look_often(&mut look) {
            return Some(found);
        }
        if begun.elapsed() > SPIN {
            return None;
        }
        // Where both sides share one processor, the other one needs it.
        std::thread::yield_now();
    }
}

fn look_often<T>(look: &mut impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..LOOKS {
        let found = look();
        if found.is_some() {
            return found;
        }
        std::hint::spin_loop();
    }
    None
}

/// As [`spin`], giving other tasks their turn.
pub(super) async fn spin_async<T>(form: Form, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    // Most looks of a busy side succeed at once, and the clock costs more than they do.
    if let Some(found) = look() {
        return Some(found);
    }
    if form == Form::Stream {
        return None;
    }
    let begun = Instant::now();
    loop {
        if let Some(found) = look_often(&mut look) {
            return Some(found);
        }
        if begun.elapsed() > SPIN {
            return None;
        }
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
