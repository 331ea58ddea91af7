//! The keeper's process: a fork that runs nothing but this file.
//!
//! in: messages of the client, then the client's end; out: answers. Owner: itself; it is in a session of
//! its own, blocks all signals, and is a child of init, so nobody has to wait for it. Kept: the client may
//! have any number of threads, one of which may hold any lock at the fork: so nothing here allocates,
//! panics or calls more than the kernel. Bound: [`limits::QUEUES_PER_STREAM_MAX`] memories; of the
//! client's own memory it keeps no copy that is worth mentioning ([`Ranges`]).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use super::super::check;
use super::{Beside, HOLD, HOLD_HUGE, LET_GO, Message, REFUSED, empty_header};
use crate::limits;

const CONTROL_MIN: libc::c_int = 16;

/// Forks twice, so that the process is nobody's child here.
pub(super) fn start(control: RawFd, stream: RawFd) -> io::Result<()> {
    let ranges = Ranges::of_this_process();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call writes a whole set to the live variable.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // No handler of the program's may run in the fork.
    // SAFETY: `all` was just written; the call writes a whole set to `old`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
    let child = fork();
    if matches!(child, Ok(0)) {
        if matches!(fork(), Ok(0)) {
            run(control, stream, &ranges);
        }
        exit();
    }
    // SAFETY: the call above wrote it.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), ptr::null_mut()) };
    let child = child?;
    loop {
        // SAFETY: no status is asked for.
        match check(unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WALL) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else may have waited for all children.
            _ => return Ok(()),
        }
    }
}

/// Without `pthread_atfork` handlers, and without a signal to the parent at the end.
fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: no flags, no stack of its own: a fork. The child does nothing but system calls.
    let child = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    let child = check(child)?;
    Ok(libc::pid_t::try_from(child).unwrap_or(-1))
}

fn exit() -> ! {
    // SAFETY: ends the process at once; nothing of it is run or flushed.
    unsafe { libc::_exit(0) }
}

fn run(control: RawFd, stream: RawFd, ranges: &Ranges) -> ! {
    // SAFETY: no pointer is passed.
    unsafe { libc::setsid() };
    // SAFETY: the name is a live string that ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"outsock-pages".as_ptr()) };
    // So that no file system stays busy.
    // SAFETY: the path is a live string that ends in zero.
    unsafe { libc::chdir(c"/".as_ptr()) };
    ranges.give_back();
    let (Some(control), Some(stream)) = (duplicate(control), duplicate(stream)) else { exit() };
    if !close_all_but(control, stream) {
        exit();
    }
    // SAFETY: the call has no precondition.
    let number = unsafe { libc::getpid() };
    answer(control, number.unsigned_abs());
    serve(control);
    end_stream(stream);
    // Its exit gives all pages back.
    exit()
}

fn duplicate(fd: RawFd) -> Option<RawFd> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, CONTROL_MIN) };
    (fd >= 0).then_some(fd)
}

/// Whoever waits for the end of a pipe or a socket of the client's must not wait for the keeper.
fn close_all_but(one: RawFd, other: RawFd) -> bool {
    let (low, high) = (one.min(other), one.max(other));
    let close = |first: RawFd, last: RawFd| {
        // SAFETY: no pointer is passed; nothing in this process uses the descriptors.
        first > last || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0
    };
    close(0, low - 1) && close(low + 1, high - 1) && close(high + 1, RawFd::MAX)
}

fn answer(control: RawFd, value: u32) {
    let value = value.to_ne_bytes();
    // SAFETY: four live bytes. A client that is gone needs no answer.
    unsafe { libc::send(control, value.as_ptr().cast(), value.len(), libc::MSG_NOSIGNAL) };
}

/// A memory that is held: its file, and the ring that pins its pages.
#[derive(Clone, Copy)]
struct Held {
    memory: RawFd,
    ring: RawFd,
    base: *mut libc::c_void,
    bytes: usize,
}

const SLOTS: usize = limits::QUEUES_PER_STREAM_MAX;

/// Until the client is gone.
fn serve(control: RawFd) {
    let mut held: [Option<Held>; SLOTS] = [None; SLOTS];
    while let Some(([what, slot, bytes], memory)) = receive(control) {
        match (what, memory) {
            (HOLD | HOLD_HUGE, Some(memory)) => {
                let free = held.iter().position(Option::is_none);
                let new = free.and_then(|_| hold(memory, bytes as usize, what == HOLD));
                match (free, new) {
                    (Some(slot), Some(new)) => {
                        held[slot] = Some(new);
                        answer(control, u32::try_from(slot).unwrap_or(REFUSED));
                    }
                    _ => {
                        close(memory);
                        answer(control, REFUSED);
                    }
                }
            }
            (LET_GO, None) => {
                if let Some(old) = held.get_mut(slot as usize).and_then(Option::take) {
                    let_go(old);
                }
            }
            _ => answer(control, REFUSED),
        }
    }
}

fn receive(control: RawFd) -> Option<(Message, Option<RawFd>)> {
    let mut message: Message = [0; 3];
    let mut parts =
        libc::iovec { iov_base: (&raw mut message).cast(), iov_len: size_of::<Message>() };
    let mut beside = Beside([0; 24]);
    let mut header = empty_header();
    header.msg_iov = &raw mut parts;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut beside).cast();
    header.msg_controllen = size_of::<Beside>();
    // SAFETY: every pointer in the header is to a live value of the length beside it.
    let n = unsafe { libc::recvmsg(control, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    // A whole message, or the client's end. Signals are blocked.
    if usize::try_from(n) != Ok(size_of::<Message>()) {
        return None;
    }
    // SAFETY: the kernel filled the control buffer and its length in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if first.is_null() {
        return Some((message, None));
    }
    // SAFETY: the client sends no control message but one with one descriptor; its data is there.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: as above: four bytes.
    let file = unsafe { data.cast::<RawFd>().read_unaligned() };
    Some((message, Some(file)))
}

fn close(fd: RawFd) {
    // SAFETY: a descriptor of this process that nothing uses any more.
    unsafe { libc::close(fd) };
}

fn hold(memory: RawFd, bytes: usize, pin: bool) -> Option<Held> {
    if !pin {
        return Some(Held { memory, ring: -1, base: ptr::null_mut(), bytes: 0 });
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping of the file, wherever the kernel likes.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, memory, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    match pinned(base, bytes) {
        Some(ring) => Some(Held { memory, ring, base, bytes }),
        None => {
            unmap(base, bytes);
            None
        }
    }
}

/// A ring with the range as a registered buffer, which keeps the pages in place (`FOLL_LONGTERM`).
fn pinned(base: *mut libc::c_void, bytes: usize) -> Option<RawFd> {
    /// `struct io_uring_params`, all zero: no option of it is needed.
    const PARAMS_BYTES: usize = 120;
    const IORING_REGISTER_BUFFERS: libc::c_long = 0;
    let mut params = [0u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel reads and writes one `io_uring_params` at the live array of its size.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let ring = RawFd::try_from(ring).ok().filter(|ring| *ring >= 0)?;
    let buffer = libc::iovec { iov_base: base, iov_len: bytes };
    let register = libc::SYS_io_uring_register;
    // SAFETY: one live `iovec`, whose range is the mapping that was just made.
    let registered =
        unsafe { libc::syscall(register, ring, IORING_REGISTER_BUFFERS, &raw const buffer, 1) };
    if registered == 0 {
        return Some(ring);
    }
    close(ring);
    None
}

fn unmap(base: *mut libc::c_void, bytes: usize) {
    // SAFETY: the range is a mapping of this file's, and nothing looks into it.
    unsafe { libc::munmap(base, bytes) };
}

fn let_go(old: Held) {
    if old.bytes > 0 {
        close(old.ring);
        unmap(old.base, old.bytes);
    }
    close(old.memory);
}

/// Ends the client's half of the stream, and waits for the end of the gateway's.
fn end_stream(stream: RawFd) {
    // SAFETY: no pointer is passed.
    if unsafe { libc::shutdown(stream, libc::SHUT_WR) } != 0 && errno() == libc::ENOSYS {
        // Under an agent that is gone, too. What is no frame ends the stream as well.
        no_frames(stream);
    }
    let mut bytes = [0u8; 4096];
    loop {
        // SAFETY: the call writes at most as many bytes as the live array has.
        let n = unsafe { libc::read(stream, bytes.as_mut_ptr().cast(), bytes.len()) };
        match (n, errno()) {
            (1.., _) | (-1, libc::EINTR) => {}
            (-1, libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS) => wait_for(stream, libc::POLLIN),
            // Its end, or a reset.
            _ => return,
        }
    }
}

fn no_frames(stream: RawFd) {
    let bytes = [0xff_u8; 4096];
    let mut left = limits::PAYLOAD_BYTES_MAX + bytes.len();
    while left > 0 {
        // SAFETY: as many live bytes as the array has; no signal for a stream that is dead.
        let n =
            unsafe { libc::send(stream, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        match (usize::try_from(n), errno()) {
            (Ok(n), _) => left = left.saturating_sub(n),
            (Err(_), libc::EINTR) => {}
            (Err(_), libc::EAGAIN) => wait_for(stream, libc::POLLOUT),
            (Err(_), _) => return,
        }
    }
}

fn wait_for(fd: RawFd, events: libc::c_short) {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one live `pollfd`. A second at most: memory that was short has no event.
    unsafe { libc::poll(&raw mut poll, 1, 1000) };
}

fn errno() -> libc::c_int {
    // SAFETY: the call has no precondition.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own variable.
    unsafe { *place }
}

/// Large ranges of the client's memory that the fork can do without. A page that client and keeper
/// share is copied when the client writes to it, so the keeper would come to hold a copy of each.
struct Ranges {
    all: [(usize, usize); Self::MAX],
    count: usize,
}

impl Ranges {
    /// The rest stays: that costs memory and nothing else.
    const MAX: usize = 128;
    const BYTES_MIN: usize = 1024 * 1024;

    /// Private, writable, anonymous; not this thread's stack and not its variables.
    fn of_this_process() -> Self {
        let mut ranges = Self { all: [(0, 0); Self::MAX], count: 0 };
        let on_the_stack = (&raw const ranges).addr();
        // SAFETY: the call has no precondition.
        let of_the_thread = unsafe { libc::__errno_location() }.addr();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for (start, end) in maps.lines().filter_map(anonymous) {
            let needed = [on_the_stack, of_the_thread];
            let is_needed = needed.iter().any(|address| (start..end).contains(address));
            if end - start >= Self::BYTES_MIN && !is_needed && ranges.count < Self::MAX {
                ranges.all[ranges.count] = (start, end);
                ranges.count += 1;
            }
        }
        ranges
    }

    fn give_back(&self) {
        for (start, end) in self.all.iter().take(self.count) {
            let start = ptr::without_provenance_mut::<libc::c_void>(*start);
            // SAFETY: in this process nothing uses that memory: this file uses its own stack only.
            unsafe { libc::madvise(start, end - start.addr(), libc::MADV_DONTNEED) };
        }
    }
}

/// Such a range in a line of `/proc/self/maps`.
fn anonymous(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let access = words.next()?;
    let is_file = words.nth(2)? != "0";
    let number = |text| usize::from_str_radix(text, 16).ok();
    (access == "rw-p" && !is_file).then_some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::anonymous;

    #[test]
    fn only_anonymous_memory_is_given_back() {
        let heap = "55d0c0000000-55d0c0200000 rw-p 00000000 00:00 0      [heap]";
        assert_eq!(anonymous(heap), Some((0x55d0_c000_0000, 0x55d0_c020_0000)));
        for line in [
            "7f0000000000-7f0000200000 r--p 00000000 00:00 0",
            "7f0000000000-7f0000200000 rw-s 00000000 00:00 0",
            "7f0000000000-7f0000200000 rw-p 00000000 08:01 1234   /usr/lib/libc.so.6",
            "",
        ] {
            assert_eq!(anonymous(line), None, "{line}");
        }
    }
}
