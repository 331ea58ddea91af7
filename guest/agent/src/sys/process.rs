//! Processes: fork, exec, wait, signals, and looking into another process's descriptors.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use super::{check, check_syscall};

/// What `fork` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    Child,
    Parent(i32),
}

/// Written by a test that starts a child, read by tests that look whether a file is closed: from fork() to exec() the child has a copy of
/// every descriptor.
#[cfg(test)]
pub(crate) static CHILDREN: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// Forks. Refuses when this process has more than one thread, because then the child could only
/// make async-signal-safe calls.
pub(crate) fn fork() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: this is the only thread (checked above), so the child's memory is consistent.
    Ok(match check(unsafe { libc::fork() })? {
        0 => Fork::Child,
        child => Fork::Parent(child),
    })
}

/// Replaces this process by a program found by `PATH`. Returns only on failure.
pub(crate) fn exec(command: &[OsString]) -> io::Error {
    let nul = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let copies: Result<Vec<CString>, _> =
        command.iter().map(|word| CString::new(word.clone().into_vec()).map_err(nul)).collect();
    let copies = match copies {
        Ok(copies) if !copies.is_empty() => copies,
        Ok(_) => return io::Error::from_raw_os_error(libc::EINVAL),
        Err(error) => return error,
    };
    let mut pointers: Vec<_> = copies.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: `pointers` is a null-terminated array of pointers to live C strings.
    unsafe { libc::execvp(copies[0].as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives a signal its default action again. The Rust runtime ignores SIGPIPE, programs must not
/// inherit that.
pub(crate) fn default_action(signal: i32) {
    // SAFETY: SIG_DFL is no function of ours; a bad number is refused.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// Reaps one ended child, if there is any.
pub(crate) fn reap() -> io::Result<Option<(i32, Exit)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    match check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })? {
        0 => Ok(None),
        pid if libc::WIFSIGNALED(status) => Ok(Some((pid, Exit::Signal(libc::WTERMSIG(status))))),
        pid => Ok(Some((pid, Exit::Code(libc::WEXITSTATUS(status))))),
    }
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Sends a signal to one thread.
pub(crate) fn signal_thread(thread: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check_syscall(unsafe { libc::syscall(libc::SYS_tkill, thread, signal) }).map(drop)
}

/// Whether `thread` is (still) a thread of `process`.
pub(crate) fn is_thread_of(process: u32, thread: u32) -> bool {
    // SAFETY: no pointer is passed; signal 0 only checks.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
    result == 0
}

/// No core file from this process: it ends by a signal only to report its child's end.
pub(crate) fn no_core_file() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads one live `rlimit`. Failure leaves the limit, which is harmless.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// Raises this process's limit of open descriptors to `wanted`, or as far as it may.
pub(crate) fn raise_descriptor_limit(wanted: u64) {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one live `rlimit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now) } != 0 {
        return;
    }
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: wanted.max(now.rlim_max) };
    // SAFETY: the kernel reads one live `rlimit`.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        let to_hard_limit = libc::rlimit { rlim_cur: now.rlim_max, rlim_max: now.rlim_max };
        // SAFETY: as above. Raising to one's own hard limit is always allowed.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const to_hard_limit) };
    }
}

/// Leaves the terminal's session: its signals are for the command, not for its supervisor.
pub(crate) fn leave_session() {
    // SAFETY: no pointer is passed. Fails only for a process group leader, which no fork is.
    unsafe { libc::setsid() };
}

fn control(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here (NO_NEW_PRIVS, CHILD_SUBREAPER) take plain numbers.
    check(unsafe { libc::prctl(option, argument, zero, zero, zero) }).map(drop)
}

pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Makes orphans below this process its children: the supervisor stays an ancestor of every
/// supervised process, which is what a strict ptrace policy (Yama) asks for.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    control(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Moves this process, which must have one thread only, into a new network namespace; without the
/// privilege for that into a new user namespace, too, in which it has it.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    match check(unsafe { libc::unshare(libc::CLONE_NEWNET) }) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            // SAFETY: no pointer is passed.
            check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }).map(drop)
        }
        result => result.map(drop),
    }
}

/// Gives this thread a descriptor table of its own, a copy of the shared one.
pub(crate) fn unshare_descriptors() -> io::Result<()> {
    // SAFETY: no pointer is passed. The calling thread afterwards uses only descriptors that it
    // makes itself (see `epoll::Mover`).
    check(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

const PIDFD_THREAD: libc::c_uint = libc::O_EXCL.cast_unsigned();

/// A handle of a process (its leader's thread id).
pub(crate) fn open_process(process: u32) -> io::Result<OwnedFd> {
    open(process, 0)
}

/// A handle of one thread; kernels before 6.9 answer `EINVAL`.
pub(crate) fn open_thread(thread: u32) -> io::Result<OwnedFd> {
    open(thread, PIDFD_THREAD)
}

fn open(id: u32, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check_syscall(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })?;
    // SAFETY: the call returned a new descriptor (close-on-exec) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of another process's descriptor.
pub(crate) fn copy_descriptor(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check_syscall(unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0u32)
    })?;
    // SAFETY: the call returned a new descriptor (close-on-exec) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether `descriptor` is registered under its own number in epoll set `set`, both of `process`.
/// An error when the kernel cannot tell (`ENOSYS` without CONFIG_KCMP).
pub(crate) fn is_in_epoll_set(process: u32, descriptor: RawFd, set: RawFd) -> io::Result<bool> {
    const EPOLL_TARGET: libc::c_int = 7;
    let slot = [set.cast_unsigned(), descriptor.cast_unsigned(), 0u32];
    // SAFETY: the kernel reads one `kcmp_epoll_slot`, which is three u32.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            process,
            process,
            EPOLL_TARGET,
            libc::c_ulong::from(descriptor.cast_unsigned()),
            slot.as_ptr(),
        )
    };
    match check_syscall(result) {
        Ok(order) => Ok(order == 0),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
