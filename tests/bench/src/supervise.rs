//! The outermost process: nothing outlives it.
//!
//! in: signals; out: the exit status of the process that measures. Owner: the main thread. Kept: all
//! processes below are in one group and all files in one folder; both are gone at the end, also after
//! Ctrl-C or when a process below is killed, and the processes when this one is. Bound: one process,
//! one folder.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often signals and the end of the process are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Exit status after Ctrl-C, as shells give it.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs this program again with `--supervised`, and cleans up behind it.
pub(crate) fn supervise() -> ExitCode {
    match run() {
        Ok(Some(status)) => {
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        Ok(None) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => {
            eprintln!("outsock-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: a signal came.
fn run() -> Result<Option<ExitStatus>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let keep = std::env::args().any(|argument| argument == "--keep");
    let mut folder = tempfile::Builder::new().prefix("outsock-bench-").tempdir()?;
    if keep {
        folder.disable_cleanup(true);
        eprintln!("files are in {}", folder.path().display());
    }
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--supervised")
        .args(std::env::args_os().skip(1))
        // Every temporary file of this and of the libraries below goes there.
        .env("TMPDIR", folder.path())
        .process_group(0)
        .spawn()
        .context("cannot start the measuring process")?;
    let outcome = wait(&mut child, &interrupted);
    // Also after an orderly end: what it started and forgot must not stay. The group's name cannot
    // be anybody else's yet: it is the child's, which is waited for only here.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails when the group is empty, which is the usual case.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    outcome?;
    Ok((!interrupted.load(Ordering::Relaxed)).then_some(status))
}

/// In the measuring process: ends its group when the supervisor was killed and cannot do it.
pub(crate) fn end_with_supervisor() -> Result<()> {
    let supervisor = rustix::process::getppid();
    let body = move || {
        while rustix::process::getppid() == supervisor {
            std::thread::sleep(POLL_INTERVAL);
        }
        // Includes this process, so there is nobody to tell when it fails.
        let _ = rustix::process::kill_current_process_group(Signal::KILL);
    };
    std::thread::Builder::new().name("end".to_owned()).spawn(body)?;
    Ok(())
}

fn wait(child: &mut Child, interrupted: &AtomicBool) -> Result<()> {
    while !interrupted.load(Ordering::Relaxed) && child.try_wait()?.is_none() {
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
