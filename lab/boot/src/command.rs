//! A command in the guest: what to run, and what came of it.
//!
//! Enters: an argument vector, an environment, standard input, a time limit. Leaves: an [`Output`] or a
//! [`GuestProcess`]. A [`GuestProcess`] owns its command: dropping it kills the whole process group in the guest.
//! Invariant: outputs are the exact bytes. Bound: `limits.rs` has those of input, output and time.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::{Channel, ChannelError, End, Progress};
use crate::console::Console;
use crate::frame::Start;
use crate::limits::{
    COMMAND_TIMEOUT, COMMANDS_MAX, KILL_TIMEOUT, OUTPUT_BYTES_MAX, STDIN_BYTES_MAX,
};

/// What every command finds set; a caller's own values come on top.
const DEFAULT_ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
];

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The guest has no such program, or may not run it.
    #[error(
        "cannot start {program} in the guest: {message}; the guest sees the host's programs, so install it on the host (PATH there is the system's, not a user's)"
    )]
    NotStarted {
        /// What was to be run.
        program: String,
        /// The guest's errno, 0 if it had none.
        errno: i32,
        /// The guest's words.
        message: String,
    },
    /// It ran longer than it may and was killed.
    #[error("{program} did not end within {timeout:?} and was killed; it had printed {} and {} bytes{}", stdout.len(), stderr.len(), quoted(stderr))]
    TimedOut {
        /// What was run.
        program: String,
        /// The limit.
        timeout: Duration,
        /// Its output so far.
        stdout: Vec<u8>,
        /// Its error output so far.
        stderr: Vec<u8>,
    },
    /// It printed more than is kept.
    #[error(
        "{0} printed more than {OUTPUT_BYTES_MAX} bytes and was killed: let it write into the share directory instead"
    )]
    TooMuchOutput(String),
    /// More standard input than the guest keeps.
    #[error(
        "more than {STDIN_BYTES_MAX} bytes of standard input: put a file into the share directory instead"
    )]
    TooMuchInput,
    /// Arguments and environment do not fit into one frame.
    #[error(
        "the arguments and the environment of {0} are too large for the command channel: use a file in the share directory"
    )]
    TooLarge(String),
    /// [`COMMANDS_MAX`] commands run.
    #[error("{COMMANDS_MAX} commands run in this guest: wait for some of them, or drop them")]
    TooManyCommands,
    /// The guest died or hangs.
    #[error("the guest is gone while it ran {program}; its console ends:\n{console}")]
    GuestGone {
        /// What was run.
        program: String,
        /// The console's last lines.
        console: String,
    },
}

fn quoted(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().last().unwrap_or_default();
    if last.is_empty() {
        String::new()
    } else {
        format!(", the last line of its error output: {last}")
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl Status {
    /// Whether it ended with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The exit code, if it ended by itself.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::Signaled(_) => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exit code {code}"),
            Self::Signaled(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// What a command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// Its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Its standard error, byte for byte.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The standard output as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A command to run in a guest.
#[derive(Clone, Debug)]
pub struct GuestCommand {
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: OsString,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl GuestCommand {
    /// A command with a plain environment (PATH, HOME, USER, LANG, TERM), in `/`, without standard input.
    pub fn new<S: AsRef<OsStr>>(argv: &[S]) -> Self {
        let pair = |(name, value): (&str, &str)| (OsString::from(name), OsString::from(value));
        Self {
            argv: argv.iter().map(|argument| argument.as_ref().to_owned()).collect(),
            environment: DEFAULT_ENVIRONMENT.map(pair).to_vec(),
            directory: OsString::from("/"),
            stdin: Vec::new(),
            timeout: COMMAND_TIMEOUT,
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(known, _)| known != name.as_ref());
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<OsStr>) -> Self {
        directory.as_ref().clone_into(&mut self.directory);
        self
    }

    /// Sets the standard input, at most [`STDIN_BYTES_MAX`] bytes.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets how long it may run ([`COMMAND_TIMEOUT`] unless set). Counts for `run`, not for `spawn`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn program(&self) -> String {
        self.argv.first().map_or_else(
            || "(nothing)".to_owned(),
            |program| program.to_string_lossy().into_owned(),
        )
    }

    fn to_start(&self) -> Start {
        let bytes = |text: &OsString| text.clone().into_vec();
        Start {
            argv: self.argv.iter().map(bytes).collect(),
            environment: self
                .environment
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            directory: self.directory.as_bytes().to_vec(),
        }
    }
}

/// A command that runs in the guest. Dropping it kills it.
#[derive(Debug)]
pub struct GuestProcess {
    channel: Arc<Channel>,
    console: Console,
    command: u32,
    program: String,
    stdin_bytes: usize,
    detached: bool,
}

/// Starts `command`; its standard input stays open if `keep_stdin`.
pub(crate) fn spawn(
    channel: &Arc<Channel>,
    console: &Console,
    command: &GuestCommand,
    keep_stdin: bool,
) -> Result<GuestProcess, RunError> {
    let program = command.program();
    let number = channel.start(&command.to_start()).map_err(|error| match error {
        ChannelError::TooLarge => RunError::TooLarge(program.clone()),
        ChannelError::Full => RunError::TooManyCommands,
        ChannelError::Closed => {
            RunError::GuestGone { program: program.clone(), console: console.tail() }
        }
    })?;
    let mut process = GuestProcess {
        channel: Arc::clone(channel),
        console: console.clone(),
        command: number,
        program,
        stdin_bytes: 0,
        detached: false,
    };
    process.write_stdin(&command.stdin)?;
    if !keep_stdin {
        process.close_stdin()?;
    }
    Ok(process)
}

/// Starts `command` and waits for its end within its own time limit.
pub(crate) fn run(
    channel: &Arc<Channel>,
    console: &Console,
    command: &GuestCommand,
) -> Result<Output, RunError> {
    spawn(channel, console, command, false)?.wait(command.timeout)
}

impl GuestProcess {
    fn gone(&self) -> RunError {
        RunError::GuestGone { program: self.program.clone(), console: self.console.tail() }
    }

    /// Sends bytes to its standard input.
    ///
    /// # Errors
    /// [`RunError::TooMuchInput`] over the limit, [`RunError::GuestGone`] without a guest.
    pub fn write_stdin(&mut self, bytes: &[u8]) -> Result<(), RunError> {
        self.stdin_bytes = self.stdin_bytes.saturating_add(bytes.len());
        if self.stdin_bytes > STDIN_BYTES_MAX {
            return Err(RunError::TooMuchInput);
        }
        self.channel.write_stdin(self.command, bytes).map_err(|_| self.gone())
    }

    /// Ends its standard input.
    ///
    /// # Errors
    /// [`RunError::GuestGone`] without a guest.
    pub fn close_stdin(&mut self) -> Result<(), RunError> {
        self.channel.close_stdin(self.command).map_err(|_| self.gone())
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// [`RunError::GuestGone`] without a guest.
    pub fn signal(&self, signal: i32) -> Result<(), RunError> {
        self.channel.signal(self.command, signal).map_err(|_| self.gone())
    }

    /// Kills its process group (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// [`RunError::GuestGone`] without a guest or if it does not answer.
    pub fn kill(self) -> Result<Output, RunError> {
        self.signal(libc::SIGKILL)?;
        self.wait(KILL_TIMEOUT)
    }

    /// Lets it run on when this handle is dropped; what it prints is lost then.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.channel.is_closed() && self.channel.end_of(self.command).is_none()
    }

    /// What it has printed so far: standard output and standard error.
    #[must_use]
    pub fn output_so_far(&self) -> (Vec<u8>, Vec<u8>) {
        let progress = self.channel.progress(self.command);
        (progress.stdout, progress.stderr)
    }

    /// Waits until its standard output or its standard error holds `text`, for servers that say when they listen.
    /// `false` if it ended, or the time passed, before that.
    ///
    /// # Errors
    /// [`RunError::GuestGone`] without a guest.
    pub fn wait_for_text(&self, text: &str, timeout: Duration) -> Result<bool, RunError> {
        let has = |output: &[u8]| {
            output.windows(text.len().max(1)).any(|window| window == text.as_bytes())
        };
        let found = self.channel.wait(self.command, Instant::now() + timeout, |progress| {
            let found = has(&progress.stdout) || has(&progress.stderr);
            (found || progress.end.is_some()).then_some(found)
        });
        found.map(|found| found == Some(true)).map_err(|_| self.gone())
    }

    /// Waits for its end; kills it when `timeout` has passed.
    ///
    /// # Errors
    /// [`RunError`], with what it printed where the time ran out.
    pub fn wait(self, timeout: Duration) -> Result<Output, RunError> {
        let over =
            |progress: &Progress| (progress.end.is_some() || progress.overflowed).then_some(());
        let waited = self
            .channel
            .wait(self.command, Instant::now() + timeout, over)
            .map_err(|_| self.gone())?;
        let in_time = waited.is_some();
        if self.channel.end_of(self.command).is_none() {
            self.signal(libc::SIGKILL)?;
            let deadline = Instant::now() + KILL_TIMEOUT;
            let ended = self.channel.wait(self.command, deadline, |progress| progress.end.clone());
            ended.ok().flatten().ok_or_else(|| self.gone())?;
        }
        let progress = self.channel.take(self.command);
        let program = self.program.clone();
        if !in_time {
            return Err(RunError::TimedOut {
                program,
                timeout,
                stdout: progress.stdout,
                stderr: progress.stderr,
            });
        }
        if progress.overflowed {
            return Err(RunError::TooMuchOutput(program));
        }
        let status = match progress.end {
            Some(End::NotStarted { errno, message }) => {
                return Err(RunError::NotStarted { program, errno, message });
            }
            Some(End::Exited { code, signal: -1 }) => Status::Exited(code),
            Some(End::Exited { signal, .. }) => Status::Signaled(signal),
            None => return Err(self.gone()),
        };
        Ok(Output { status, stdout: progress.stdout, stderr: progress.stderr })
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        if !self.detached && self.is_running() {
            // The guest may be gone by now, then so is the command.
            let _ = self.channel.signal(self.command, libc::SIGKILL);
        }
        self.channel.forget(self.command);
    }
}
