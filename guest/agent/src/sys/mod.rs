//! Raw system calls: the only code of the agent that may say `unsafe`.
//!
//! in: typed arguments; out: `io::Result`. No state and no policy. Every wrapper makes one system
//! call; what it needs to be sound is stated at its block.
#![allow(unsafe_code)]

use std::io;

pub(crate) mod datagram;
pub(crate) mod file;
pub(crate) mod memory;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod socket;
pub(crate) mod tun;

/// The C convention: negative means "look at errno".
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a size.
fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The same for `syscall(2)`, where the result is known to fit into an `int`.
fn check_syscall(result: libc::c_long) -> io::Result<libc::c_int> {
    match libc::c_int::try_from(result) {
        Ok(result) => check(result),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
    }
}

/// The size of a structure as the kernel's `socklen_t`. Every structure here is small.
fn socklen_of<T>() -> libc::socklen_t {
    const { assert!(size_of::<T>() < 65_536) };
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
