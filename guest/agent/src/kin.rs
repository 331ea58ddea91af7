//! Kin: whether a relative of a process has the same socket, which was then shared by fork before it
//! was connected.
//!
//! in: a process that connects a socket; out: whether its ancestors or descendants have that socket at
//! the same number, as fork leaves it. Owner: the supervisor's thread. Kept: the descendants are looked up
//! again only when a process or thread was made anywhere since, which one read of a file that is open tells;
//! so a process that has none costs that read, whatever else it has. Bound: [`limits::KIN_MAX`] relatives.
//! What this does not find: a sibling whose parent has closed the socket, a number that one of them
//! has changed, and sockets that were passed over a Unix socket.

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::{limits, proc};

/// The ancestors of a process, nearest first, up to the supervisor.
pub(crate) fn ancestors(process: u32) -> Vec<u32> {
    let supervisor = std::process::id();
    let mut found = Vec::new();
    let mut at = process;
    while let Some(parent) = proc::parent(at)
        && parent > 1
        && parent != supervisor
        && found.len() < limits::KIN_MAX
    {
        found.push(parent);
        at = parent;
    }
    found
}

/// The descendants of a process, as they were last looked up.
#[derive(Debug, Default)]
pub(crate) struct Descendants {
    /// Who had made the last process or thread then. The numbers come round after tens of thousands.
    last_born: Option<u32>,
    /// Whose call it was: the kernel lists children by the thread that has made them.
    thread: u32,
    known: Vec<u32>,
}

impl Descendants {
    /// Those that there are now, or were.
    fn of(&mut self, process: u32, thread: u32) -> &[u32] {
        // Before the look: who is born while it goes on makes it worthless next time.
        let last_born = last_born();
        if last_born.is_none() || self.last_born != last_born || self.thread != thread {
            *self = Self { last_born, thread, known: look_up(process, thread) };
        }
        &self.known
    }
}

fn look_up(process: u32, thread: u32) -> Vec<u32> {
    let mut open = proc::children(process, process);
    if thread != process {
        open.extend(proc::children(process, thread));
    }
    let mut found = Vec::new();
    while let Some(descendant) = open.pop()
        && found.len() < limits::KIN_MAX
    {
        found.push(descendant);
        open.extend(proc::children(descendant, descendant));
    }
    found
}

/// The number of the process or thread that was made last, in the supervisor's view: the last word of
/// /proc/loadavg.
fn last_born() -> Option<u32> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let file = FILE.get_or_init(|| File::open("/proc/loadavg").ok()).as_ref()?;
    let mut text = [0u8; LOADAVG_BYTES];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.split_whitespace().last()?.parse().ok()
}

/// Three decimals, two counts of processes and the last number are shorter by far.
const LOADAVG_BYTES: usize = 128;

/// Whether one of these ancestors, or a descendant, has the socket of `inode` at `number`.
pub(crate) fn share(
    ancestors: &[u32],
    descendants: &mut Descendants,
    (process, thread): (u32, u32),
    number: RawFd,
    inode: u64,
) -> bool {
    let has = |relative: &u32| proc::socket_inode(*relative, number) == Some(inode);
    ancestors.iter().any(has) || descendants.of(process, thread).iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    #[test]
    fn who_was_born_last_is_known() {
        let before = last_born().unwrap();
        let thread = std::thread::spawn(|| std::fs::read_link("/proc/thread-self").unwrap());
        assert!(thread.join().unwrap().file_name().is_some());
        assert_ne!(last_born().unwrap(), before);
    }

    #[test]
    fn a_child_that_has_it_is_found_and_one_that_has_not_is_not() {
        let me = std::process::id();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = crate::sys::file::identity(socket.as_fd()).unwrap().inode;
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        let thread: u32 = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let mut descendants = Descendants::default();
        let mut shares = |number| share(&[], &mut descendants, (me, thread), number, inode);
        assert!(!shares(socket.as_raw_fd()));
        let input = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
        let starting = crate::sys::process::CHILDREN.write();
        let mut child = Command::new("sleep").arg("60").stdin(input).spawn().unwrap();
        drop(starting);
        assert!(shares(0), "at the number that the child has, which was born since");
        assert!(shares(0), "at the number that the child has");
        assert!(!shares(socket.as_raw_fd()), "which is closed on exec");
        assert_eq!(ancestors(child.id()), Vec::<u32>::new(), "this process is the supervisor");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
