//! seccomp user notification: install a filter, receive calls, answer them, plant descriptors.
//!
//! in: a BPF program and the listener; out: notifications. The structures are those of
//! `include/uapi/linux/seccomp.h`; a newer kernel may append fields, which it then takes as zero.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{check, check_syscall};

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) value: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// What the filter and the supervisor see of a system call (`struct seccomp_data`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) number: i32,
    pub(crate) arch: u32,
    pub(crate) instruction_pointer: u64,
    pub(crate) arguments: [u64; 6],
}

/// One held system call (`struct seccomp_notif`). `thread` is in the supervisor's pid namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawNotification {
    pub(crate) id: u64,
    pub(crate) thread: u32,
    pub(crate) flags: u32,
    pub(crate) data: Data,
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

const IOCTL_RECEIVE: libc::c_ulong = 0xc050_2100;
const IOCTL_SEND: libc::c_ulong = 0xc018_2101;
const IOCTL_ID_VALID: libc::c_ulong = 0x4008_2102;
const IOCTL_ADD_FD: libc::c_ulong = 0x4018_2103;

// The size is part of an ioctl's number, so these pin the layouts above.
const _: () = assert!(size_of::<RawNotification>() == 0x50 && size_of::<Response>() == 0x18);
const _: () = assert!(size_of::<AddFd>() == 0x18 && size_of::<Instruction>() == 8);

const FLAG_SPEC_ALLOW: libc::c_uint = 1 << 2;
const FLAG_NEW_LISTENER: libc::c_uint = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_uint = 1 << 5;
const RESPONSE_CONTINUE: u32 = 1;
const ADD_FD_SETFD: u32 = 1;

/// Installs a filter for this thread and what it forks and execs; returns its listener.
///
/// Without `killable_wait` a signal can interrupt a call that the supervisor already works on;
/// kernels before 5.19 refuse the flag with `EINVAL`.
pub(crate) fn install(program: &[Instruction], killable_wait: bool) -> io::Result<OwnedFd> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { length, instructions: program.as_ptr() };
    // SPEC_ALLOW: the filter is no sandbox, so the programs keep their native speed on kernels
    // before 5.16, where a filter otherwise turns on speculation mitigations.
    let wait = if killable_wait { FLAG_WAIT_KILLABLE_RECV } else { 0 };
    let flags = FLAG_SPEC_ALLOW | FLAG_NEW_LISTENER | wait;
    // SAFETY: `program` points to a live `sock_fprog` whose pointer and length describe a live
    // slice; the kernel only reads both, during the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let fd = check_syscall(result)?;
    // SAFETY: with NEW_LISTENER a non-negative result is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the next held call. `ENOENT` when it went away before it could be taken.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<RawNotification> {
    let mut notification = RawNotification::default();
    // SAFETY: the kernel wants a zeroed `seccomp_notif` and writes at most the size that the
    // ioctl's number states, which is the size of `notification` (asserted above).
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_RECEIVE, &raw mut notification) };
    check(result).map(|_| notification)
}

/// How a held call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The call returns this value.
    Value(i64),
    /// The call fails with this errno (positive), or a kernel-internal restart code.
    Error(i32),
    /// The kernel runs the call itself.
    Continue,
}

/// Ends a held call. `ENOENT` when the caller is gone.
pub(crate) fn respond(listener: BorrowedFd<'_>, id: u64, ending: Ending) -> io::Result<()> {
    let mut response = match ending {
        Ending::Value(value) => Response { id, value, error: 0, flags: 0 },
        Ending::Error(errno) => Response { id, value: 0, error: -errno, flags: 0 },
        Ending::Continue => Response { id, value: 0, error: 0, flags: RESPONSE_CONTINUE },
    };
    // SAFETY: `response` is a live `seccomp_notif_resp` of the size in the ioctl's number.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SEND, &raw mut response) };
    check(result).map(drop)
}

/// Whether the caller still waits. After a `true`, what was read through its pid was its own.
pub(crate) fn id_is_valid(listener: BorrowedFd<'_>, mut id: u64) -> bool {
    // SAFETY: the kernel reads one u64 from a live variable.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ID_VALID, &raw mut id) };
    result == 0
}

/// Puts `source` into the caller's descriptor table at `target`, closing what was there.
pub(crate) fn replace_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    target: RawFd,
    close_on_exec: bool,
) -> io::Result<()> {
    let bad = |_| io::Error::from_raw_os_error(libc::EBADF);
    let source = u32::try_from(source.as_raw_fd()).map_err(bad)?;
    let target = u32::try_from(target).map_err(bad)?;
    let target_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
    let mut request = AddFd { id, flags: ADD_FD_SETFD, source, target, target_flags };
    // SAFETY: `request` is a live `seccomp_notif_addfd` of the size in the ioctl's number.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ADD_FD, &raw mut request) };
    check(result).map(drop)
}

/// Puts `source` into the caller's descriptor table at its lowest free number, which is returned.
pub(crate) fn add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<RawFd> {
    let bad = |_| io::Error::from_raw_os_error(libc::EBADF);
    let source = u32::try_from(source.as_raw_fd()).map_err(bad)?;
    let target_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
    let mut request = AddFd { id, flags: 0, source, target: 0, target_flags };
    // SAFETY: `request` is a live `seccomp_notif_addfd` of the size in the ioctl's number.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ADD_FD, &raw mut request) })
}
