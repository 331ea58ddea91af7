//! Open descriptors: their limit, which is the limit of connections, and their end.

use std::io;

/// Raises this process's soft limit of open descriptors to its hard limit.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid and only read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Closes every descriptor but the three standard ones, for a process that is about to become a program
/// which may have nothing of ours. The files of guest memory that a VMM sends are not closed by an exec.
///
/// Whatever of this process still uses one of them is broken after this.
pub fn close_descriptors() -> io::Result<()> {
    // SAFETY: no memory is involved; the caller's promise covers what uses the descriptors.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
