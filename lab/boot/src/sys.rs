//! The system calls that std does not have.
//!
//! Enters: descriptors, paths and process ids of this crate. Leaves: plain values and `io::Error`.
//! Owns nothing. Invariant: all `unsafe` of the library is here. Bound: no call blocks but [`lock_exclusive`].

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Makes `command`'s process die when the thread that spawns it does, and leader of its own process group.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id().cast_signed();
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and makes two async-signal-safe system calls only.
    unsafe {
        command.pre_exec(move || arm_parent_death_signal(parent));
    }
}

fn arm_parent_death_signal(parent: i32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getppid has no precondition.
    if unsafe { libc::getppid() } != parent {
        // The parent died before the signal was armed.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Kills every process of the group that `leader` leads. A group that is gone is no error.
pub(crate) fn kill_group(leader: u32) {
    let Ok(group) = i32::try_from(leader) else { return };
    if group > 1 {
        // SAFETY: no memory is involved. The caller owns the group: it started the leader.
        let _ = unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Whether a process with this id exists (also as a zombie).
pub(crate) fn process_exists(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// Waits until this process has the file's exclusive lock; closing the file gives it back.
pub(crate) fn lock_exclusive(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether this process has root's user id.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no precondition and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Bytes free for this user in the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero and `stat` has room for one statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs returned 0, so it filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
