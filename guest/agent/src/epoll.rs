//! Epoll: a program's registrations follow its socket to the new file.
//!
//! A registration belongs to a pair (file, descriptor number), so replacing the file behind a number
//! silently loses it. It is moved by a helper thread with a descriptor table of its own, where the
//! socket can have the same number as in the program.
//!
//! in: the supervisor's numbers of the old file, the new file and the program's epoll sets; out: the
//! registrations, moved. Owner: the helper thread owns its table and nothing else. Kept: between
//! requests the helper holds no file. Bound: one request at a time, the supervisor waits for it
//! (about 30 us).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use crate::proc::{self, Registration};
use crate::processes::Process;
use crate::sys;

/// A registration, with the supervisor's copy of the set that it stands in.
#[derive(Debug)]
pub(crate) struct Registered {
    set: OwnedFd,
    registration: Registration,
}

/// All registrations of a socket in the epoll sets that its process knows.
///
/// `number` is the only descriptor of the socket, or `None` when there may be more.
pub(crate) fn registrations(
    process: &Process,
    number: Option<RawFd>,
    inode: u64,
    now: Instant,
) -> Vec<Registered> {
    let mut found = Vec::new();
    for set_number in process.epoll_sets(now) {
        // The kernel compares in one call where it can; else read the list of registrations.
        let surely_not = number.is_some_and(|number| {
            sys::process::is_in_epoll_set(process.id, number, set_number).is_ok_and(|is| !is)
        });
        if surely_not {
            continue;
        }
        let Ok(info) = proc::fd_info(process.id, set_number) else { continue };
        for registration in info.registrations {
            if registration.inode != inode {
                continue;
            }
            if let Ok(set) = process.copy_descriptor(set_number) {
                found.push(Registered { set, registration });
            }
        }
    }
    found
}

#[derive(Debug)]
struct Request {
    old: RawFd,
    new: RawFd,
    set: RawFd,
    registration: Registration,
}

/// The helper thread.
#[derive(Debug)]
pub(crate) struct Mover {
    requests: SyncSender<Request>,
    outcomes: Receiver<io::Result<()>>,
}

impl Mover {
    /// Starts the helper. Call it from the main thread, whose descriptors the helper copies from.
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, inbox) = sync_channel(1);
        let (outbox, outcomes) = sync_channel(1);
        std::thread::Builder::new().name("epoll-mover".to_owned()).spawn(move || {
            let mut supervisor = match own_table() {
                Ok(supervisor) => supervisor,
                Err(error) => return drop(outbox.send(Err(error))),
            };
            if outbox.send(Ok(())).is_err() {
                return;
            }
            while let Ok(request) = inbox.recv() {
                if outbox.send(perform(&mut supervisor, &request)).is_err() {
                    return;
                }
            }
        })?;
        let mover = Self { requests, outcomes };
        mover.outcome()?;
        Ok(mover)
    }

    /// Moves registrations from the old file to the new one. Those that fail are lost; the program
    /// would then not be woken, so the first failure is reported.
    pub(crate) fn move_all(
        &self,
        old: BorrowedFd<'_>,
        new: BorrowedFd<'_>,
        registered: &[Registered],
    ) -> io::Result<()> {
        let mut result = Ok(());
        for Registered { set, registration } in registered {
            let request = Request {
                old: old.as_raw_fd(),
                new: new.as_raw_fd(),
                set: set.as_raw_fd(),
                registration: *registration,
            };
            let moved = match self.requests.send(request) {
                Ok(()) => self.outcome(),
                Err(_) => Err(gone()),
            };
            result = result.and(moved);
        }
        result
    }

    fn outcome(&self) -> io::Result<()> {
        self.outcomes.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> io::Error {
    io::Error::other("the helper thread is gone")
}

/// Leaves the shared descriptor table; returns the only descriptor in the new one: a handle of the
/// supervisor, through which files come in.
fn own_table() -> io::Result<OwnedFd> {
    sys::process::unshare_descriptors()?;
    sys::file::close_from(0)?;
    sys::process::open_process(std::process::id())
}

fn perform(supervisor: &mut OwnedFd, request: &Request) -> io::Result<()> {
    let number = request.registration.target;
    step_aside(supervisor, number)?;
    let mut set = sys::process::copy_descriptor(supervisor.as_fd(), request.set)?;
    step_aside(&mut set, number)?;
    {
        let old = sys::process::copy_descriptor(supervisor.as_fd(), request.old)?;
        let old = at(old, number)?;
        match sys::poll::delete_from(set.as_fd(), old.as_fd()) {
            Ok(()) => {}
            // The program took it out itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    let new = sys::process::copy_descriptor(supervisor.as_fd(), request.new)?;
    let new = at(new, number)?;
    let Registration { events, data, .. } = request.registration;
    sys::poll::add_to(set.as_fd(), new.as_fd(), events, data)
}

/// Moves one of the helper's own descriptors away from a number that is needed.
fn step_aside(file: &mut OwnedFd, number: RawFd) -> io::Result<()> {
    if file.as_raw_fd() == number {
        *file = sys::file::duplicate_above(file.as_fd(), number.saturating_add(1))?;
    }
    Ok(())
}

/// The same file at exactly this number.
fn at(file: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    if file.as_raw_fd() == number {
        return Ok(file);
    }
    sys::file::duplicate_onto(file.as_fd(), number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{Epoll, READABLE};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_moved_registration_reports_the_new_file_under_the_old_data() {
        // The mover copies from the table of the process's first thread; tests run in others, but
        // share that table.
        let mover = Mover::start().unwrap();
        let set = Epoll::new().unwrap();
        let (old, _old_peer) = UnixStream::pair().unwrap();
        let (new, mut new_peer) = UnixStream::pair().unwrap();
        set.add(old.as_fd(), READABLE, 99).unwrap();
        let inode = sys::file::identity(old.as_fd()).unwrap().inode;
        let registration = proc::own_fd_info(set.as_fd().as_raw_fd()).unwrap().registrations[0];
        assert_eq!((registration.inode, registration.target), (inode, old.as_raw_fd()));
        let copy = sys::file::duplicate_above(set.as_fd(), 0).unwrap();
        let registered = [Registered { set: copy, registration }];
        mover.move_all(old.as_fd(), new.as_fd(), &registered).unwrap();
        new_peer.write_all(b"x").unwrap();
        let events = set.wait(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].data, 99);
        // Moving again finds nothing under the old file and leaves the set alone.
        mover.move_all(old.as_fd(), new.as_fd(), &registered).unwrap();
    }
}
