//! Processes: whose call it is, and what is known of its descriptors.
//!
//! in: thread ids from notifications; out: [`Process`] handles. Owner: the supervisor's thread.
//! Kept: a handle is a pidfd, so a reused number is never taken for the process that had it before.
//! Bounds: [`limits::PROCESSES_MAX`], [`limits::THREADS_MAX`].

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Instant;

use crate::sys;
use crate::{kin, limits, proc};

/// One process, by its pidfd.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
    handle: OwnedFd,
    epoll_sets: RefCell<EpollSets>,
    ancestors: OnceCell<Vec<u32>>,
    descendants: RefCell<kin::Descendants>,
}

/// The numbers of a process's epoll sets, as far as it had them when they were looked for.
#[derive(Debug, Default)]
struct EpollSets {
    /// `None`: not looked for yet, or it made one since.
    known: Option<Vec<RawFd>>,
    /// It is making one: what is found before this time may not be all.
    unsure_until: Option<Instant>,
}

impl Process {
    /// A copy of one of its descriptors, which is then the supervisor's own.
    pub(crate) fn copy_descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        sys::process::copy_descriptor(self.handle.as_fd(), number)
    }

    /// Whether a relative has the same socket at the same number.
    pub(crate) fn shares(&self, thread: u32, number: RawFd, inode: u64) -> bool {
        // Those that it was born under: who dies is no relative any more, and a reused number of one
        // would need the same socket at the same place.
        let ancestors = self.ancestors.get_or_init(|| kin::ancestors(self.id));
        let mut descendants = self.descendants.borrow_mut();
        kin::share(ancestors, &mut descendants, (self.id, thread), number, inode)
    }

    /// The numbers that are (or were) epoll sets. Looks through all descriptors only the first time
    /// and after the process made another set: a program with 1000 open descriptors pays for that
    /// once, not at every connect.
    pub(crate) fn epoll_sets(&self, now: Instant) -> Vec<RawFd> {
        let mut sets = self.epoll_sets.borrow_mut();
        let sure = sets.unsure_until.is_none_or(|until| until <= now);
        if let Some(known) = sets.known.as_ref().filter(|_| sure) {
            return known.clone();
        }
        let found = self.find_epoll_sets();
        sets.known = sure.then(|| found.clone());
        found
    }

    /// It is about to make (or copy) an epoll set: look again, from now on.
    pub(crate) fn forget_epoll_sets(&self, now: Instant) {
        let unsure_until = Some(now + limits::EPOLL_CREATION);
        self.epoll_sets.replace(EpollSets { known: None, unsure_until });
    }

    fn find_epoll_sets(&self) -> Vec<RawFd> {
        let is_set = |number: &RawFd| {
            proc::link(self.id, *number)
                .is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]")
        };
        proc::descriptors(self.id).unwrap_or_default().into_iter().filter(is_set).collect()
    }

    /// Becomes readable when the process has ended.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    pub(crate) fn is_alive(&self) -> bool {
        sys::poll::ready(self.handle.as_fd(), sys::poll::READABLE).is_ok_and(|ready| ready == 0)
    }
}

/// The processes that have made calls.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    known: HashMap<u32, Rc<Process>>,
    order: VecDeque<u32>,
    process_of: HashMap<u32, u32>,
}

impl Processes {
    /// The process of a thread that is held in a call right now.
    pub(crate) fn of(&mut self, thread: u32) -> io::Result<Rc<Process>> {
        if let Some(process) = self.recall(thread) {
            return Ok(process);
        }
        let (id, handle) = open(thread)?;
        let process = Rc::new(Process {
            id,
            handle,
            epoll_sets: RefCell::default(),
            ancestors: OnceCell::new(),
            descendants: RefCell::default(),
        });
        if self.known.insert(id, Rc::clone(&process)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > limits::PROCESSES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.process_of.len() >= limits::THREADS_MAX {
            self.process_of.clear();
        }
        self.process_of.insert(thread, id);
        Ok(process)
    }

    fn recall(&self, thread: u32) -> Option<Rc<Process>> {
        let id = *self.process_of.get(&thread)?;
        let process = self.known.get(&id)?;
        let still = process.is_alive() && (id == thread || sys::process::is_thread_of(id, thread));
        still.then(|| Rc::clone(process))
    }

    /// Lets go of processes that have ended.
    pub(crate) fn forget_dead(&mut self) {
        self.known.retain(|_, process| process.is_alive());
        self.order.retain(|id| self.known.contains_key(id));
        self.process_of.retain(|_, id| self.known.contains_key(id));
    }
}

fn open(thread: u32) -> io::Result<(u32, OwnedFd)> {
    if let Ok(handle) = sys::process::open_process(thread) {
        return Ok((thread, handle));
    }
    // Not the leader of its process. A leader that has ended has no descriptors any more; then the
    // thread itself must do, where the kernel can (6.9).
    let id = proc::status(thread)?.process;
    let handle = sys::process::open_process(id)?;
    let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ESRCH);
    match sys::process::copy_descriptor(handle.as_fd(), RawFd::MAX) {
        Err(error) if gone(&error) => Ok((id, sys::process::open_thread(thread)?)),
        _ => Ok((id, handle)),
    }
}
