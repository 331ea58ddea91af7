//! `outsock run`: three processes, one behind the other.
//!
//! ```text
//!  front       what the user started: passes signals on, ends as the command ends
//!    supervisor   answers the held calls; lives as long as any supervised process
//!      command       the user's program, with the filter
//! ```
//!
//! in: the command line; out: the command's exit status. Kept: the supervisor is an ancestor of
//! everything that it supervises; the front has the terminal's signals to itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::command::{self, Prepared};
use crate::dial::Dialer;
use crate::gateway::Link;
use crate::ioctl::{self, Answered};
use crate::mailbox::Mailbox;
use crate::supervisor::Supervisor;
use crate::sys::poll::{Epoll, READABLE, Signals};
use crate::sys::process::{Exit, Fork};
use crate::tun::{Reach, Tun};
use crate::{cli, limits, log, resolver, sys};

/// Exit codes of outsock itself, by `sysexits.h` and by what shells do.
pub(crate) const EX_USAGE: i32 = 64;
pub(crate) const EX_UNAVAILABLE: i32 = 69;
pub(crate) const NOT_EXECUTABLE: i32 = 126;
pub(crate) const NOT_FOUND: i32 = 127;

/// Signals that keep their meaning for the front process itself: job control, its child, its faults.
const NOT_PASSED_ON: &[i32] = &[
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
    libc::SIGCHLD,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// How the command has ended, from the supervisor to the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report(Exit);

impl From<Exit> for Report {
    fn from(exit: Exit) -> Self {
        Self(exit)
    }
}

impl Report {
    pub(crate) fn encode(self) -> [u8; 2] {
        let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(0);
        match self.0 {
            Exit::Code(code) => [0, byte(code)],
            Exit::Signal(signal) => [1, byte(signal)],
        }
    }

    fn decode([kind, value]: [u8; 2]) -> Self {
        let value = i32::from(value);
        Self(if kind == 0 { Exit::Code(value) } else { Exit::Signal(value) })
    }
}

/// How to run the command, apart from its words.
#[derive(Debug)]
struct How {
    dialer: Arc<dyn Dialer>,
    with_resolver: bool,
    udp: cli::Udp,
}

/// Runs a command; returns its exit code, or ends this process as the command's was ended.
pub(crate) fn run(task: &cli::Run) -> io::Result<i32> {
    let how = How { dialer: task.dialer(), with_resolver: !task.no_resolver, udp: task.udp() };
    let passed_on = Signals::all().without(NOT_PASSED_ON);
    let mask = passed_on.block()?;
    let (front, back) = UnixStream::pair()?;
    match sys::process::fork()? {
        Fork::Child => {
            drop(front);
            std::process::exit(supervise(&how, &task.command, mask, back))
        }
        Fork::Parent(_) => {
            drop(back);
            let Report(exit) = wait(front, passed_on)?;
            Ok(match exit {
                Exit::Code(code) => code,
                Exit::Signal(signal) => end_by(signal),
            })
        }
    }
}

/// The front process: passes signals on until the command's end is reported.
fn wait(mut supervisor: UnixStream, passed_on: Signals) -> io::Result<Report> {
    let mut signals = File::from(passed_on.as_file()?);
    let poll = Epoll::new()?;
    poll.add(supervisor.as_fd(), READABLE, 0)?;
    poll.add(signals.as_fd(), READABLE, 1)?;
    loop {
        for event in poll.wait(None)? {
            if event.data == 1 {
                if let Some(signal) = next_signal(&mut signals) {
                    // Fails only when the supervisor is gone, which the other event tells.
                    let _ = supervisor.write_all(&[signal]);
                }
                continue;
            }
            let mut report = [0u8; 2];
            return match supervisor.read_exact(&mut report) {
                Ok(()) => Ok(Report::decode(report)),
                // The supervisor has said why.
                Err(_) => Ok(Report(Exit::Code(EX_UNAVAILABLE))),
            };
        }
    }
}

/// The next signal that the command has not got by itself: the terminal's go to the whole foreground
/// group, of which the command is a part.
fn next_signal(signals: &mut File) -> Option<u8> {
    const SENT_BY_KERNEL: i32 = 0x80;
    let mut info = [0u8; 128];
    if signals.read(&mut info).ok()? != info.len() {
        return None;
    }
    let number = u32::from_ne_bytes(*info.first_chunk()?);
    let code = i32::from_ne_bytes(*info.get(8..)?.first_chunk()?);
    if code == SENT_BY_KERNEL { None } else { u8::try_from(number).ok() }
}

/// Ends this process by the signal that has ended the command, so that whoever waits sees the same.
fn end_by(signal: i32) -> i32 {
    sys::process::no_core_file();
    sys::process::default_action(signal);
    let me = std::process::id().cast_signed();
    let _ = sys::process::kill(me, signal);
    let _ = Signals::none().block();
    // Only when the signal's default is not to end.
    128 + signal
}

/// The supervisor process. Returns its exit code, which nobody looks at.
fn supervise(how: &How, command: &[OsString], mask: Signals, front: UnixStream) -> i32 {
    match prepare_and_serve(how, command, mask, front) {
        Ok(()) => 0,
        Err(error) => {
            log::say(format_args!("{error}"));
            EX_UNAVAILABLE
        }
    }
}

fn prepare_and_serve(
    how: &How,
    command: &[OsString],
    mask: Signals,
    front: UnixStream,
) -> io::Result<()> {
    // All: SIGCHLD is read from a file, and the others are none of the supervisor's business.
    Signals::all().block()?;
    // Before the first thread: the child of a process with threads could not do much.
    let resolver = how.with_resolver.then(|| resolver::prepare(&how.dialer)).transpose()?;
    let prepared = command::prepare(command, mask)?;
    sys::process::leave_session();
    sys::process::adopt_orphans()?;
    sys::process::raise_descriptor_limit(limits::DESCRIPTORS_WANTED);
    serve(how, prepared, resolver, front)
}

fn serve(
    how: &How,
    prepared: Prepared,
    resolver: Option<resolver::Prepared>,
    front: UnixStream,
) -> io::Result<()> {
    let dialer = &how.dialer;
    let mailbox = Mailbox::new()?;
    let link = Link::open(Arc::clone(dialer), mailbox.clone())
        .map_err(|error| io::Error::other(format!("no gateway at {}: {error}", dialer.place())))?;
    if let Some(hello) = link.session().map(crate::gateway::Session::hello) {
        log::note(format_args!(
            "gateway {} at {} knows this guest as {:?}",
            hello.gateway_version,
            dialer.place(),
            hello.guest
        ));
    }
    let resolver = resolver.and_then(|resolver| {
        let why_not = |error: &_| {
            log::say(format_args!(
                "names are resolved as without outsock, because there is no resolver: {error}. With \
                 --no-resolver this is not said"
            ));
        };
        resolver.ready().inspect_err(why_not).ok()
    });
    let tun = start_tun(how)?;
    let answered = link.watch().map_or(Answered::NONE, ioctl::probe);
    let (command, listener) = prepared.start(front, answered)?;
    match listener {
        Some(listener) => {
            let mut supervisor = Supervisor::new(listener, link, mailbox, command, resolver)?;
            supervisor.tun = tun;
            supervisor.serve()
        }
        None => command.wait(),
    }
}

/// UDP and ping, where they can be had.
fn start_tun(how: &How) -> io::Result<Option<Tun>> {
    let reach = match how.udp {
        cli::Udp::Off => return Ok(None),
        cli::Udp::Auto => Reach::Rest,
        cli::Udp::Always => Reach::All,
    };
    let error = match Tun::start(reach, Arc::clone(&how.dialer)) {
        Ok(tun) => return Ok(Some(tun)),
        Err(error) => error,
    };
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it takes root (CAP_NET_ADMIN)",
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "load the module tun (modprobe tun)",
        _ => "see the error",
    };
    if how.udp == cli::Udp::Always {
        let text = format!("no device for UDP and ping: {error}; {advice}");
        return Err(io::Error::new(error.kind(), text));
    }
    log::note(format_args!("UDP and ping are not outsourced: {error}; {advice}"));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_keep_how_it_ended() {
        for exit in [Exit::Code(0), Exit::Code(255), Exit::Signal(15), Exit::Signal(64)] {
            assert_eq!(Report::decode(Report::from(exit).encode()), Report(exit));
        }
    }
}
