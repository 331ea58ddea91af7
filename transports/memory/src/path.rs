//! Path: what lies between the dialers of one destination and its listener.
//!
//! in:  faults of a test, doors of listeners, links of connections
//! out: the faults that hold now; the door that is open now
//! owner: the network's table, and whoever dials or talks over it
//! keeps: whoever waits because of a fault is woken when the faults change
//! bound: the connections that live, and as many dead ones at most

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outsock_transport::{DialError, Errno};
use tokio::sync::watch;

use crate::door::Door;
use crate::faults::{DialFault, Faults};
use crate::limits;
use crate::link::Link;

#[derive(Debug, Default)]
pub(crate) struct Path {
    faults: watch::Sender<Faults>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    door: Option<Arc<Door>>,
    links: Vec<Weak<Link>>,
    /// How long `links` may get before the dead ones are swept out.
    sweep_at: usize,
}

impl Path {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The faults that hold now. The guard must not be held over another call of this path.
    pub(crate) fn faults(&self) -> watch::Ref<'_, Faults> {
        self.faults.borrow()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
        for link in self.links() {
            link.wake();
        }
    }

    /// Waits until dials pass, or fails as the faults say.
    pub(crate) async fn passable(&self) -> Result<(), DialError> {
        let mut faults = self.faults.subscribe();
        let open = faults.wait_for(|faults| !faults.cut && faults.dial != DialFault::Hold).await;
        match open.as_deref() {
            Ok(Faults { dial: DialFault::Fail(error), .. }) => Err(error.clone()),
            // The sender lives in `self`, so there is no closed channel.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn door(&self) -> Option<Arc<Door>> {
        self.lock().door.clone()
    }

    /// Opens a door; `None` if one is open.
    pub(crate) fn open_door(&self) -> Option<Arc<Door>> {
        let mut state = self.lock();
        if state.door.is_some() {
            return None;
        }
        let door = Arc::new(Door::default());
        state.door = Some(Arc::clone(&door));
        Some(door)
    }

    /// Closes whatever door is open.
    pub(crate) fn close_door(&self) {
        let door = self.lock().door.take();
        if let Some(door) = door {
            door.close();
        }
    }

    /// Closes this door; one that was opened since stays open.
    pub(crate) fn close_this_door(&self, door: &Arc<Door>) {
        let mut state = self.lock();
        if state.door.as_ref().is_some_and(|open| Arc::ptr_eq(open, door)) {
            state.door = None;
        }
        drop(state);
        door.close();
    }

    /// Nobody listens and nothing is wrong: a path that need not be remembered.
    pub(crate) fn is_plain(&self) -> bool {
        self.lock().door.is_none() && *self.faults() == Faults::default()
    }

    pub(crate) fn remember(&self, link: &Arc<Link>) {
        let mut state = self.lock();
        if state.links.len() >= state.sweep_at {
            state.links.retain(|link| link.strong_count() > 0);
            state.sweep_at = (state.links.len() * 2).max(limits::DEAD_LINKS_MIN);
        }
        state.links.push(Arc::downgrade(link));
    }

    /// The connections of which at least one end lives.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.lock().links.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn reset(&self, errno: Errno) {
        for link in self.links() {
            link.reset(errno);
        }
    }
}
