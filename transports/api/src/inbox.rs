//! Inbox: datagrams that have come and wait to be read, for transports without a socket of the kernel.
//!
//! in:  datagrams, and news of the far end, from whoever has them
//! out: the same, in order, to the flow's holder
//! owner: shared by the two sides, under a short lock
//! keeps: nobody waits to put one in; what finds no room is refused, and the caller counts it
//! bound: [`limits::INBOX_BYTES_MAX`] per inbox, and a [`Budget`] for all that share one
//!
//! ```
//! use outsock_transport::{Budget, Inbox};
//! let inbox = Inbox::new(&Budget::new(1 << 20));
//! assert!(inbox.put(b"hello"));
//! let mut buffer = [0; 16];
//! assert_eq!(inbox.take(&mut buffer).unwrap(), 5);
//! assert_eq!(inbox.take(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outsock_vmrpc::Errno;
use tokio::sync::Notify;

use crate::limits;

/// What a datagram costs beside its bytes, as the kernel counts a packet of its own.
const OVERHEAD_BYTES: usize = 256;

/// Bytes that several inboxes may hold together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// So many.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    changed: Notify,
    budget: Budget,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Box<[u8]>>,
    bytes: usize,
    news: Option<Errno>,
    ended: bool,
}

impl Inbox {
    /// Empty.
    pub fn new(budget: &Budget) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), budget: budget.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a datagram in. `false`: there is no room, or nobody will read it.
    pub fn put(&self, datagram: &[u8]) -> bool {
        let cost = datagram.len() + OVERHEAD_BYTES;
        {
            let mut state = self.state();
            let fits = !state.ended && state.bytes + cost <= limits::INBOX_BYTES_MAX;
            if !fits || !self.budget.take(cost) {
                return false;
            }
            state.bytes += cost;
            state.waiting.push_back(datagram.into());
        }
        self.changed.notify_one();
        true
    }

    /// News of the far end: told once, before what waits. Later news take the place of earlier ones.
    pub fn tell(&self, errno: Errno) {
        self.state().news = Some(errno);
        self.changed.notify_one();
    }

    /// No more will come; what waits can still be taken.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// Takes the next one, as [`Flow::try_receive`](crate::Flow::try_receive).
    ///
    /// # Errors
    /// `WouldBlock`: none waits. `UnexpectedEof`: none will. Others are news.
    pub fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        if let Some(errno) = state.news.take() {
            return Err(errno.into());
        }
        let Some(datagram) = state.waiting.pop_front() else {
            let kind =
                if state.ended { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WouldBlock };
            return Err(kind.into());
        };
        let cost = datagram.len() + OVERHEAD_BYTES;
        state.bytes -= cost;
        drop(state);
        self.budget.give(cost);
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }

    /// Waits until [`Self::take`] is worth a try. Cancel-safe; for one reader.
    pub async fn readable(&self) {
        loop {
            // Kept when it comes between the look and the wait.
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.ended || state.news.is_some() || !state.waiting.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.budget.give(self.state().bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_refused_and_room_comes_back() {
        let budget = Budget::new(3 * (100 + OVERHEAD_BYTES));
        let (one, other) = (Inbox::new(&budget), Inbox::new(&budget));
        assert!(one.put(&[1; 100]) && one.put(&[2; 100]) && other.put(&[3; 100]));
        assert!(!other.put(&[4; 100]), "the budget is all used");
        let mut buffer = [0; 200];
        assert_eq!(one.take(&mut buffer).unwrap(), 100);
        assert_eq!(buffer[0], 1);
        assert!(other.put(&[5; 100]));
        drop(one);
        assert!(other.put(&[6; 100]), "an inbox that is gone holds nothing");
        let alone = Inbox::new(&Budget::new(usize::MAX));
        let fitted = (0..10_000).take_while(|_| alone.put(&[0; 1000])).count();
        assert_eq!(fitted, limits::INBOX_BYTES_MAX / (1000 + OVERHEAD_BYTES));
    }

    #[tokio::test]
    async fn news_come_first_and_the_end_last() {
        let inbox = Inbox::new(&Budget::new(1 << 20));
        assert!(inbox.put(b"") && inbox.put(b"ab"));
        inbox.tell(Errno::ECONNREFUSED);
        inbox.end();
        assert!(!inbox.put(b"late"));
        inbox.readable().await;
        let mut buffer = [0; 1];
        assert_eq!(Errno::of(&inbox.take(&mut buffer).unwrap_err()), Errno::ECONNREFUSED);
        assert_eq!(inbox.take(&mut buffer).unwrap(), 0);
        assert_eq!(inbox.take(&mut buffer).unwrap(), 1, "cut to the buffer");
        inbox.readable().await;
        let error = inbox.take(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
