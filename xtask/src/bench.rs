//! Bench: hands over to the crate `outsock-bench`.
//!
//! in: arguments; out: the bench's own output and exit code. Owner: the bench. Kept: nothing is
//! measured here.

use std::process::ExitCode;

use anyhow::{Context, bail};
use outsock_site::{Interrupt, cargo, workspace};

use crate::cli;

const PACKAGE: &str = "outsock-bench";

pub(crate) fn run(bench: &cli::Bench, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    if !workspace().join("tests/bench/Cargo.toml").exists() {
        bail!("this tree has no bench crate (tests/bench)");
    }
    let mut child = cargo()
        .args(["run", "--release", "--quiet", "--package", PACKAGE, "--features", "ttrpc", "--"])
        .args(&bench.arguments)
        .spawn()
        .context("cannot start cargo")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if interrupt.is_set() {
            child.kill()?;
            child.wait()?;
            bail!("interrupted");
        }
        std::thread::sleep(outsock_site::limits::POLL);
    }
}
