//! Process: one run of the program, from its start to its end.
//!
//! in: settings and a mode; out: where it is ready, and how it ended
//! owner: the supervisor's task; dropped, the process is killed
//! keeps: what it says is read until it ends, so that it never waits for us; it gets three pipes, a few
//!        variables and its own folder, nothing else
//! bound: [`limits::START_TIME`], [`limits::LINE_BYTES_MAX`], [`limits::LINES_MAX`],
//!        [`limits::LOGGED_PER_SECOND`]

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::contract::{self, Line};
use crate::limits;
use crate::settings::{ExternalSettings, Mode, arguments};

/// A process that said that it is ready.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Closing it asks the process to end.
    stdin: Option<ChildStdin>,
    pub(crate) ready: Ready,
}

/// Where it is ready.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) at: SocketAddr,
    /// What a client of a listener has to say.
    pub(crate) arguments: String,
    pub(crate) life: Arc<Life>,
}

/// Whether the process lives.
#[derive(Debug)]
pub(crate) struct Life {
    pid: u32,
    ended: AtomicBool,
}

impl Life {
    /// Whether it has ended or is about to: its sockets close before anybody hears of its end.
    pub(crate) fn is_over(&self) -> bool {
        /// `PF_EXITING`, include/linux/sched.h: set before a process closes its files.
        const EXITING: u64 = 0x4;
        if self.ended.load(Ordering::Acquire) {
            return true;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return true;
        };
        // Behind the name: the state, and five numbers on the flags (proc_pid_stat(5), 3 and 9).
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let state = fields.next().unwrap_or("X");
        let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(EXITING);
        matches!(state, "Z" | "X" | "x") || flags & EXITING != 0
    }
}

/// Starts the program and waits until it is ready.
pub(crate) async fn start(settings: &ExternalSettings, mode: &Mode) -> Result<Running, String> {
    let mut child = spawn(settings, mode)
        .map_err(|error| format!("cannot start {}: {error}", settings.program.display()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err("no pipes".to_owned());
    };
    let (sender, mut lines) = mpsc::channel(16);
    let name = settings.method.clone();
    tokio::spawn(log_all(BufReader::new(stderr), name.clone()));
    tokio::spawn(tell_all(BufReader::new(stdout), sender, name));
    let life = Arc::new(Life { pid: child.id().unwrap_or(0), ended: AtomicBool::new(false) });
    let handshake = handshake(&mut lines, &settings.method, mode);
    let (at, arguments) = match timeout(settings.start_time, handshake).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(format!("was not ready after {:?}", settings.start_time)),
    };
    // From here on its lines are only logged: nobody takes them any more.
    drop(lines);
    Ok(Running { child, stdin, ready: Ready { at, arguments, life } })
}

fn spawn(settings: &ExternalSettings, mode: &Mode) -> io::Result<Child> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.state)?;
    let state = std::path::absolute(&settings.state)?;
    let mut command = match settings.launcher.split_first() {
        Some((launcher, rest)) => {
            let mut command = Command::new(launcher);
            command.args(rest).arg(&settings.program);
            command
        }
        None => Command::new(&settings.program),
    };
    command
        .args(&settings.arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &state)
        .env("TOR_PT_MANAGED_TRANSPORT_VER", "1")
        .env("TOR_PT_STATE_LOCATION", &state)
        .env("TOR_PT_EXIT_ON_STDIN_CLOSE", "1")
        .current_dir(&state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let method = &settings.method;
    match mode {
        Mode::Client => {
            command.env("TOR_PT_CLIENT_TRANSPORTS", method);
        }
        Mode::Server { at, to } => {
            command
                .env("TOR_PT_SERVER_TRANSPORTS", method)
                .env("TOR_PT_SERVER_BINDADDR", format!("{method}-{at}"))
                .env("TOR_PT_ORPORT", to.to_string())
                .env("TOR_PT_EXTENDED_SERVER_PORT", "");
            if !settings.server_options.is_empty() {
                let one = |(key, value): &(String, String)| {
                    format!("{method}:{}", arguments(&[(key.clone(), value.clone())]))
                };
                let all: Vec<_> = settings.server_options.iter().map(one).collect();
                command.env("TOR_PT_SERVER_TRANSPORT_OPTIONS", all.join(";"));
            }
        }
    }
    command.spawn()
}

/// Listens to the process until it is ready or says why not.
async fn handshake(
    lines: &mut mpsc::Receiver<Line>,
    method: &str,
    mode: &Mode,
) -> Result<(SocketAddr, String), String> {
    let mut found = None;
    for _ in 0..limits::LINES_MAX {
        let Some(line) = lines.recv().await else {
            return Err("ended before it was ready".to_owned());
        };
        match line {
            Line::Version(version) if version != "1" => {
                return Err(format!("speaks version {version:?} of the contract, not 1"));
            }
            Line::Failed(why) => return Err(format!("says {why:?}")),
            Line::Method { name, protocol, at, arguments } if name == method => {
                let fits = match mode {
                    Mode::Client => protocol.as_deref() == Some("socks5"),
                    Mode::Server { .. } => true,
                };
                match at {
                    // Another machine's port would be a way out that no rule knows.
                    Some(at) if fits && (at.ip().is_loopback() || *mode != Mode::Client) => {
                        found = Some((at, arguments));
                    }
                    _ => return Err("offers no SOCKS5 on this machine's loopback".to_owned()),
                }
            }
            Line::Done => {
                return found.ok_or_else(|| format!("does not know the method {method:?}"));
            }
            Line::Version(_) | Line::Method { .. } | Line::Log(_) | Line::Unknown => {}
        }
    }
    Err("says too much before it is ready".to_owned())
}

impl Running {
    /// Until it ends by itself.
    pub(crate) async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        self.ready.life.ended.store(true, Ordering::Release);
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Asks it to end, then makes it.
    pub(crate) async fn stop(mut self) {
        let group = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        drop(self.stdin.take());
        if timeout(limits::STOP_TIME, self.ended()).await.is_ok() {
            return;
        }
        for signal in [Signal::TERM, Signal::KILL] {
            // It may have ended in between.
            let _ = group.map(|group| kill_process_group(group, signal));
            if timeout(limits::STOP_TIME, self.ended()).await.is_ok() {
                return;
            }
        }
    }
}

/// Reads standard output to its end: to whoever listens, and to the log.
async fn tell_all(mut from: impl AsyncBufRead + Unpin, to: mpsc::Sender<Line>, name: String) {
    let mut quota = Quota::new();
    while let Some(text) = next_line(&mut from).await {
        let line = contract::line(&text);
        if let Line::Log(text) = &line {
            quota.log(&name, text);
        }
        if !to.is_closed() {
            // A handshake that is given up closes the channel.
            let _ = to.send(line).await;
        }
    }
}

/// Reads standard error to its end.
async fn log_all(mut from: impl AsyncBufRead + Unpin, name: String) {
    let mut quota = Quota::new();
    while let Some(text) = next_line(&mut from).await {
        quota.log(&name, &text);
    }
}

/// A line, without what is too long of it; `None` at the end.
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let bytes = from.fill_buf().await.ok()?;
        if bytes.is_empty() {
            return (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let room = limits::LINE_BYTES_MAX - line.len();
        line.extend_from_slice(&piece[..piece.len().min(room)]);
        let used = piece.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }
}

/// So many lines a second.
struct Quota {
    since: Instant,
    logged: u32,
    left_out: u64,
}

impl Quota {
    fn new() -> Self {
        Self { since: Instant::now(), logged: 0, left_out: 0 }
    }

    fn log(&mut self, external: &str, text: &str) {
        if self.since.elapsed() > Duration::from_secs(1) {
            (self.since, self.logged) = (Instant::now(), 0);
        }
        if self.logged >= limits::LOGGED_PER_SECOND {
            self.left_out += 1;
            return;
        }
        self.logged += 1;
        let left_out = std::mem::take(&mut self.left_out);
        // Whatever it says is made harmless for a terminal.
        tracing::debug!(external, left_out, said = %text.escape_debug());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_cut_and_the_next_one_is_whole() {
        let text = format!("{}\r\nCMETHODS DONE\nlast", "x".repeat(100_000));
        let mut from = BufReader::new(text.as_bytes());
        assert_eq!(next_line(&mut from).await.unwrap().len(), limits::LINE_BYTES_MAX);
        assert_eq!(next_line(&mut from).await.unwrap(), "CMETHODS DONE");
        assert_eq!(next_line(&mut from).await.unwrap(), "last");
        assert_eq!(next_line(&mut from).await, None);
    }

    #[test]
    fn our_own_process_lives_and_none_of_that_number_does_not() {
        let life = |pid| Life { pid, ended: AtomicBool::new(false) };
        assert!(!life(std::process::id()).is_over());
        // Above the kernel's highest number.
        assert!(life(4_194_305).is_over());
    }
}
