//! The command: the supervised program, from fork to exit.
//!
//! in: a command line; out: its process, started only when the supervisor can serve it; later its end
//! to the front process. The child waits, installs the filter, sends the listener to the supervisor,
//! and becomes the program. Owner: the supervisor's main thread. Kept: whoever supervises is forked
//! before the filter exists, so it can never wait for itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::ioctl::Answered;
use crate::notify::Listener;
use crate::run::{self, Report};
use crate::sys::poll::{Epoll, Signals};
use crate::sys::process::{Exit, Fork};
use crate::{filter, log, sys};

/// The command's process, before the program runs in it.
#[derive(Debug)]
pub(crate) struct Prepared {
    process: i32,
    stream: UnixStream,
}

/// The running command.
#[derive(Debug)]
pub(crate) struct Command {
    /// `None` when it has ended.
    process: Option<i32>,
    front: UnixStream,
    children: File,
}

/// Forks the command's process, which waits for [`Prepared::start`]. `mask`: the signals that the
/// program shall find blocked.
pub(crate) fn prepare(command: &[OsString], mask: Signals) -> io::Result<Prepared> {
    let (stream, child) = UnixStream::pair()?;
    match sys::process::fork()? {
        Fork::Child => {
            drop(stream);
            std::process::exit(become_program(command, mask, child))
        }
        Fork::Parent(process) => Ok(Prepared { process, stream }),
    }
}

/// Runs in the child. Returns the exit code of a failure.
fn become_program(command: &[OsString], mask: Signals, mut stream: UnixStream) -> i32 {
    // The end of the stream instead of a byte: the supervisor has found no gateway and said so.
    let mut answered = [0u8];
    if !matches!(stream.read(&mut answered), Ok(1)) {
        return run::EX_UNAVAILABLE;
    }
    let listener = match install(Answered::decode(answered[0])) {
        Ok(listener) => listener,
        Err(error) => {
            log::say(format_args!("cannot intercept system calls: {error}"));
            return run::EX_UNAVAILABLE;
        }
    };
    if let Err(error) = sys::socket::send_descriptor(stream.as_fd(), 1, listener.as_fd()) {
        log::say(format_args!("cannot reach the supervisor: {error}"));
        return run::EX_UNAVAILABLE;
    }
    drop((listener, stream));
    sys::process::default_action(libc::SIGPIPE);
    if mask.block().is_err() {
        return run::EX_UNAVAILABLE;
    }
    let error = sys::process::exec(command);
    let name = command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    log::say(format_args!("cannot run {name}: {error}"));
    if error.kind() == io::ErrorKind::NotFound { run::NOT_FOUND } else { run::NOT_EXECUTABLE }
}

/// Why the filter cannot be installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error(
        "this process already has a seccomp listener (a container runtime or another outsock run \
         supervises it), and the kernel allows one: start outsock outside of it"
    )]
    AlreadySupervised,
    #[error(
        "the kernel refuses seccomp user notification: it needs Linux 5.14 with \
         CONFIG_SECCOMP_FILTER, and a sandbox that allows the seccomp system call"
    )]
    NotSupported,
    #[error("{0}")]
    Other(#[from] io::Error),
}

fn install(answered: Answered) -> Result<OwnedFd, InstallError> {
    let program = filter::program(answered);
    let explained = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY) => InstallError::AlreadySupervised,
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => InstallError::NotSupported,
        _ => InstallError::Other(error),
    };
    let try_install = || match sys::seccomp::install(&program, true) {
        // Before 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::seccomp::install(&program, false)
        }
        other => other,
    };
    match try_install() {
        // Without CAP_SYS_ADMIN the kernel wants the promise that no set-user-id program below
        // gains privileges; with it, sudo and su keep working.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            sys::process::set_no_new_privileges()?;
            try_install().map_err(explained)
        }
        other => other.map_err(explained),
    }
}

impl Prepared {
    /// Has the program started; returns the listener of its filter. `None` when it could not be
    /// started: the child has said why and ends by itself. `answered`: what need not be trapped.
    pub(crate) fn start(
        mut self,
        front: UnixStream,
        answered: Answered,
    ) -> io::Result<(Command, Option<Listener>)> {
        self.stream.write_all(&[answered.encode()])?;
        let listener = sys::socket::receive_descriptor(self.stream.as_fd())?.map(Listener::from);
        let children = Signals::none().with(libc::SIGCHLD).as_file()?;
        let command =
            Command { process: Some(self.process), front, children: File::from(children) };
        Ok((command, listener))
    }
}

impl Command {
    /// Signals from the front process come here.
    pub(crate) fn front(&self) -> BorrowedFd<'_> {
        self.front.as_fd()
    }

    /// Becomes readable when a child has ended.
    pub(crate) fn children(&self) -> BorrowedFd<'_> {
        self.children.as_fd()
    }

    /// Passes a signal on. When the front process is gone (killed: nothing else ends it before the
    /// command), so is the command.
    pub(crate) fn on_front(&mut self, poll: &Epoll) {
        let mut signal = [0u8];
        let signal = match self.front.read(&mut signal) {
            Ok(1) => i32::from(signal[0]),
            _ => {
                let _ = poll.delete(self.front.as_fd());
                libc::SIGKILL
            }
        };
        if let Some(process) = self.process {
            // Not yet reaped, so the number is still this child's.
            let _ = sys::process::kill(process, signal);
        }
    }

    /// Reaps; tells the front process when it was the command.
    pub(crate) fn on_children(&mut self) {
        // Signals merge: one notice may stand for many children.
        while matches!(self.children.read(&mut [0u8; 128]), Ok(1..)) {}
        while let Ok(Some((process, exit))) = sys::process::reap() {
            if self.process == Some(process) {
                self.process = None;
                self.report(exit);
            }
        }
    }

    /// Waits for the end of a command that makes no calls any more, or never could.
    pub(crate) fn wait(mut self) -> io::Result<()> {
        let poll = Epoll::new()?;
        poll.add(self.children(), sys::poll::READABLE, 0)?;
        self.on_children();
        while self.process.is_some() {
            poll.wait(None)?;
            self.on_children();
        }
        Ok(())
    }

    fn report(&mut self, exit: Exit) {
        // Fails only when nobody waits for it any more.
        let _ = self.front.write_all(&Report::from(exit).encode());
        // Daemons that the command has left behind are still supervised, but whoever reads the
        // command's output must see its end.
        release_standard_streams();
    }
}

/// Points the standard streams to nowhere.
pub(crate) fn release_standard_streams() {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    for stream in 0..=2 {
        let _ = sys::file::redirect_standard_stream(stream, null.as_fd());
    }
}
