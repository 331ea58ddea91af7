//! Keeper: a process that holds a client's pinned pages until the gateway has let go of them.
//!
//! in: memory files to hold; out: their numbers, once their pages are pinned. Owner: the client; the
//! process is [`process`]. Kept: pages that the gateway may write to belong to the keeper as well, so
//! the end of the client, also by SIGKILL, gives none of them back. When the client is gone the
//! keeper half-closes its stream, waits until the gateway has closed the other half, which it does
//! after its last access, and only then ends. Bound: [`limits::QUEUES_PER_STREAM_MAX`] memories.

mod process;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use super::check;
#[cfg(any(doc, test))]
use crate::limits;

/// A message to the keeper: what to do, with which slot, how many bytes.
type Message = [u32; 3];

/// Hold the memory file that comes along; the answer is its slot.
const HOLD: u32 = 1;
/// The same for a file of huge pages, which stay in place by themselves.
const HOLD_HUGE: u32 = 2;
/// Give the memory of a slot back. No answer.
const LET_GO: u32 = 3;
/// The answer when a memory cannot be held.
const REFUSED: u32 = u32::MAX;

/// How the pages of a memory are kept in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pin {
    /// By an io_uring buffer of the keeper's.
    IoUring,
    /// They are huge pages.
    HugePage,
}

/// Names a memory that the keeper holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// The client's end. Closing it is what tells the keeper that the client is gone.
#[derive(Debug)]
pub(super) struct Keeper {
    control: OwnedFd,
    /// Held from a question to its answer.
    asking: Mutex<()>,
    process: u32,
}

impl Keeper {
    /// Starts the process. It shares `stream` with this one.
    pub(super) fn start(stream: &OwnedFd) -> io::Result<Self> {
        let (control, theirs) = socket_pair()?;
        process::start(theirs.as_raw_fd(), stream.as_raw_fd())?;
        drop(theirs);
        let mut keeper = Self { control, asking: Mutex::default(), process: 0 };
        // It says its number when it is ready, and hangs up when it cannot be.
        keeper.process = keeper.answer()?;
        Ok(keeper)
    }

    /// Has it hold a memory file of so many bytes. The pages are pinned when this returns.
    pub(super) fn hold(&self, memory: &OwnedFd, bytes: usize, pin: Pin) -> io::Result<Slot> {
        let what = match pin {
            Pin::IoUring => HOLD,
            Pin::HugePage => HOLD_HUGE,
        };
        let bytes = u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        send(&self.control, [what, 0, bytes], Some(memory.as_raw_fd()))?;
        match self.answer()? {
            REFUSED => Err(io::ErrorKind::Unsupported.into()),
            slot => Ok(Slot(slot)),
        }
    }

    /// The gateway does not touch this memory any more.
    pub(super) fn let_go(&self, slot: Slot) {
        // A keeper that is gone holds nothing.
        let _ = send(&self.control, [LET_GO, slot.0, 0], None);
    }

    fn answer(&self) -> io::Result<u32> {
        let mut answer = [0; 4];
        loop {
            // SAFETY: the call writes at most four bytes to the live array.
            let n = unsafe {
                libc::recv(self.control.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
            };
            match check(n) {
                Ok(4) => return Ok(u32::from_ne_bytes(answer)),
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A memory file of `bytes` zeros.
pub(super) fn memory_file(bytes: usize, pin: Pin) -> io::Result<OwnedFd> {
    let flags = match pin {
        Pin::IoUring => libc::MFD_CLOEXEC,
        Pin::HugePage => libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
    };
    // SAFETY: the name is a live string that ends in zero.
    let fd = check(unsafe { libc::memfd_create(c"outsock-queue".as_ptr(), flags) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(bytes as u64)?;
    Ok(file.into())
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the call writes two descriptors to the live array of two.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let one = unsafe { OwnedFd::from_raw_fd(pair[0]) };
    // SAFETY: the call returned a new descriptor that nobody else owns.
    let other = unsafe { OwnedFd::from_raw_fd(pair[1]) };
    Ok((one, other))
}

/// Room for one descriptor beside a message: `CMSG_SPACE(4)`, aligned as its header.
#[repr(C, align(8))]
struct Beside([u8; 24]);

fn send(to: &OwnedFd, message: Message, file: Option<RawFd>) -> io::Result<()> {
    let mut parts = libc::iovec {
        iov_base: ptr::from_ref(&message).cast_mut().cast(),
        iov_len: size_of::<Message>(),
    };
    let mut beside = Beside([0; 24]);
    let mut header = empty_header();
    header.msg_iov = &raw mut parts;
    header.msg_iovlen = 1;
    if let Some(file) = file {
        header.msg_control = (&raw mut beside).cast();
        header.msg_controllen = size_of::<Beside>();
        // SAFETY: the header names a control buffer that has room for one control message.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        let control = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<RawFd>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `first` points to the aligned, live buffer, which is larger than a header.
        unsafe { first.write(control) };
        // SAFETY: the header was just written, and room for one descriptor follows it.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: the buffer has four bytes there.
        unsafe { data.cast::<RawFd>().write_unaligned(file) };
    }
    loop {
        // SAFETY: every pointer in the header is to a live value of the length beside it.
        let sent = unsafe { libc::sendmsg(to.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        match check(sent) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome.map(drop),
        }
    }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: all zero is a header without name, data and control.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use super::*;

    /// Held by whichever means this machine has.
    fn hold(keeper: &Keeper) -> io::Result<Slot> {
        let by = |pin| {
            let bytes = 2 * 1024 * 1024;
            let memory = memory_file(bytes, pin)?;
            keeper.hold(&memory, bytes, pin)
        };
        by(Pin::IoUring).or_else(|_| by(Pin::HugePage))
    }

    fn started() -> (Keeper, UnixStream, PathBuf) {
        let (stream, gateway) = UnixStream::pair().unwrap();
        let keeper = Keeper::start(&stream.into()).unwrap();
        let process = PathBuf::from(format!("/proc/{}", keeper.process));
        (keeper, gateway, process)
    }

    #[test]
    fn it_ends_after_the_gateway_and_not_before() {
        let (keeper, mut gateway, process) = started();
        assert!(process.exists());
        gateway.write_all(b"what nobody reads any more").unwrap();
        drop(keeper);
        // It asks for the end ...
        assert_eq!(gateway.read(&mut [0; 8]).unwrap(), 0);
        gateway.write_all(&[7; 10_000]).unwrap();
        // ... and waits for it. It cannot have ended: it reads until the other half is closed.
        assert!(process.exists());
        drop(gateway);
        while process.join("exe").read_link().is_ok() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_keeps_no_file_of_the_client_open() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (_keeper, _gateway, _) = started();
        drop(writer);
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn slots_are_given_back_and_bounded() {
        let (keeper, _gateway, _) = started();
        let Ok(first) = hold(&keeper) else {
            eprintln!("skipped: neither io_uring nor a free huge page here");
            return;
        };
        keeper.let_go(first);
        let all: Vec<_> =
            (0..limits::QUEUES_PER_STREAM_MAX).map_while(|_| hold(&keeper).ok()).collect();
        assert_eq!(all.first(), Some(&first));
        if all.len() == limits::QUEUES_PER_STREAM_MAX {
            assert_eq!(hold(&keeper).unwrap_err().kind(), io::ErrorKind::Unsupported);
        }
        all.into_iter().for_each(|slot| keeper.let_go(slot));
        // Nonsense harms nobody.
        keeper.let_go(Slot(77));
        keeper.let_go(Slot(0));
        assert_eq!(hold(&keeper).unwrap(), first);
    }
}
