//! Descriptors as such: identity, flags, duplication.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Device and inode: who a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

pub(crate) fn identity(file: BorrowedFd<'_>) -> io::Result<Identity> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `stat` into memory of that size.
    check(unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded, so the whole structure has been written.
    let stat = unsafe { stat.assume_init() };
    Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// The flags of the open file (`F_GETFL`), which all its descriptors share.
pub(crate) fn status_flags(file: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })
}

pub(crate) fn set_status_flags(file: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// A copy of the descriptor at the lowest free number that is at least `lowest`.
pub(crate) fn duplicate_above(file: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: a successful F_DUPFD_CLOEXEC returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes descriptor `number` a copy of `file`; whatever was there is closed.
pub(crate) fn duplicate_onto(file: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed. The caller owns the whole table or knows `number` to be free.
    let fd = check(unsafe { libc::dup3(file.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    // SAFETY: dup3 made this descriptor just now for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Points one of the standard streams to another file.
pub(crate) fn redirect_standard_stream(stream: RawFd, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointer is passed; streams 0 to 2 are never owned by an `OwnedFd` of ours.
    check(unsafe { libc::dup2(file.as_raw_fd(), stream) }).map(drop)
}

/// Closes all descriptors from `first` on in this thread's table.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).unwrap_or(0);
    // SAFETY: no pointer is passed. Only the owner of a fresh private table calls this (see
    // `process::unshare_descriptors`), so no `OwnedFd` in use by it is closed.
    super::check_syscall(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) })
        .map(drop)
}

// `include/uapi/asm-generic/fcntl.h`; the libc crate lacks them.
const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;
const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;

/// Who gets SIGIO for this file.
pub(crate) fn copy_signal_owner(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut owner = [0i32; 2];
    // SAFETY: F_GETOWN_EX writes one `f_owner_ex`, which is two ints.
    check(unsafe { libc::fcntl(from.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) })?;
    // SAFETY: F_SETOWN_EX reads one `f_owner_ex`, which is two ints.
    check(unsafe { libc::fcntl(to.as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) })?;
    // SAFETY: no pointer is passed.
    let signal = check(unsafe { libc::fcntl(from.as_raw_fd(), F_GETSIG) })?;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fcntl(to.as_raw_fd(), F_SETSIG, signal) }).map(drop)
}
