//! Runs a program to its end, line by line.
//!
//! in: a command; out: its lines while it works, its exit status. Owner: the caller's thread, and one
//! reading thread per output. Kept: the program is killed when the user interrupts, and by the kernel
//! when the starting thread ends. Bound: [`limits::LINES_IN_FLIGHT`].

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::interrupt::Interrupt;
use crate::limits;

/// How often the interrupt flag is looked at while a program is silent.
const INTERRUPT_POLL: Duration = Duration::from_millis(100);

/// Why a program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It does not start.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's word.
        source: io::Error,
    },
    /// The user wanted to stop.
    #[error("interrupted")]
    Interrupted,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its last lines, both outputs.
    pub last_lines: Vec<String>,
}

/// A command whose program dies with the thread that starts it, whatever kills that. In a process
/// group of its own, so that Ctrl-C in a terminal reaches only us and we end it in order.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
    command
}

/// Runs `command` and hands each line of both outputs to `on_line`.
///
/// # Errors
/// [`RunError`]; an exit code other than 0 is none.
pub fn run_lines(
    command: &mut Command,
    interrupt: &Interrupt,
    on_line: &mut dyn FnMut(&str),
) -> Result<Ended, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| RunError::Start { program, source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    let (sender, lines) = sync_channel(limits::LINES_IN_FLIGHT);
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
        child.stderr.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || read(output, &sender));
    }
    drop(sender);
    let followed = follow(&lines, interrupt, on_line);
    let Some(last_lines) = followed else {
        end(&mut child);
        return Err(RunError::Interrupted);
    };
    let status = child
        .wait()
        .map_err(|source| RunError::Start { program: "the waiting for it".to_owned(), source })?;
    Ok(Ended { status, last_lines })
}

fn read(output: Box<dyn Read + Send>, lines: &SyncSender<String>) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// `None` when interrupted.
fn follow(
    lines: &Receiver<String>,
    interrupt: &Interrupt,
    on_line: &mut dyn FnMut(&str),
) -> Option<Vec<String>> {
    let mut last: Vec<String> = Vec::new();
    loop {
        if interrupt.is_set() {
            return None;
        }
        match lines.recv_timeout(INTERRUPT_POLL) {
            Ok(line) => {
                on_line(&line);
                if last.len() == limits::LINES_IN_ERROR {
                    last.remove(0);
                }
                last.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Some(last),
        }
    }
}

fn end(child: &mut Child) {
    // Its own group (see `tied`): what it started ends too. Errors say that it has ended already.
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_outputs_and_the_status_come_back() {
        let mut lines = Vec::new();
        let mut shell = tied("sh");
        shell.args(["-c", "echo one; echo two >&2; exit 3"]);
        let ended =
            run_lines(&mut shell, &Interrupt::default(), &mut |line| lines.push(line.to_owned()))
                .unwrap();
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.last_lines.len(), 2);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let mut missing = Command::new("no-such-program");
        let error = run_lines(&mut missing, &Interrupt::default(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
