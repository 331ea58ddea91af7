//! Ends: processes whose end has to be noticed at once.
//!
//! in: processes that listen or accept; out: an event in the supervisor's set when one has ended, also
//! by SIGKILL: its listeners are closed then unless others have them too. Owner: the supervisor's
//! thread. Bound: [`limits::PROCESSES_MAX`]; the end of one beyond it is noticed a little later.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use crate::limits;
use crate::processes::Process;
use crate::sys::poll::{Epoll, READABLE};

/// Keys of these events in the supervisor's set: this and the process's number.
pub(crate) const PROCESS_KEYS: u64 = 3 << 60;

/// The processes that are watched, by key.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    watched: HashMap<u64, Rc<Process>>,
}

impl Ends {
    /// Watches a process from now on.
    pub(crate) fn watch(&mut self, poll: &Epoll, process: &Rc<Process>) -> io::Result<()> {
        let key = PROCESS_KEYS | u64::from(process.id);
        if let Some(known) = self.watched.get(&key) {
            if known.is_alive() || Rc::ptr_eq(known, process) {
                return Ok(());
            }
            self.forget(poll, key);
        }
        if self.watched.len() >= limits::PROCESSES_MAX {
            return Ok(());
        }
        poll.add(process.handle(), READABLE, key)?;
        self.watched.insert(key, Rc::clone(process));
        Ok(())
    }

    /// It has ended.
    pub(crate) fn forget(&mut self, poll: &Epoll, key: u64) {
        if let Some(process) = self.watched.remove(&key) {
            // Others may hold the handle, so closing it is not enough.
            let _ = poll.delete(process.handle());
        }
    }
}
