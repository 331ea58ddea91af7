//! Test: every check, in parts, with one count at the end.
//!
//! in: which parts; out: each part's own output, then `N passed, N failed, N skipped`. Owner: the main
//! thread. Kept: a part that could not be run counts as failed, a test that could not be run as
//! skipped, with what is missing. Bound: each test's own limits.

mod count;
mod packages;
mod purity;

use std::process::{Command, ExitCode};

use anyhow::bail;
use outsock_site::{Interrupt, cargo, run_lines};

use crate::cli::{self, Part};
use crate::report::Report;
use count::Count;

const PARTS: [Part; 6] = [Part::Purity, Part::Unit, Part::Doc, Part::Ebpf, Part::Boot, Part::E2e];
/// They boot real guests: parts of their own.
const BOOT: &str = "outsock-boot";
const E2E: &str = "outsock-e2e";

pub(crate) fn run(test: &cli::Test, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let report = Report::new();
    let parts = PARTS.into_iter().filter(|part| test.only.is_empty() || test.only.contains(part));
    let mut total = Count::default();
    let mut summary = Vec::new();
    for part in parts {
        let began = report.elapsed();
        report.step(format!("part {}", name(part)));
        let mut count = run_part(part, test, interrupt, &report)?;
        if count.is_empty() {
            count.skipped.push(format!("{}: no test has such a name", name(part)));
        }
        let took = report.elapsed().saturating_sub(began).as_secs();
        summary.push(format!("  {:<8} {:>4} s  {count}", name(part), took));
        total.add(count);
    }
    println!("\nSummary after {} s:", report.elapsed().as_secs());
    for line in summary {
        println!("{line}");
    }
    for reason in &total.skipped {
        println!("  SKIPPED {reason}");
    }
    for reason in &total.failures {
        println!("  FAILED {reason}");
    }
    println!("{total}");
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Purity => "purity",
        Part::Unit => "unit",
        Part::Doc => "doc",
        Part::Ebpf => "ebpf",
        Part::Boot => "boot",
        Part::E2e => "e2e",
    }
}

fn run_part(
    part: Part,
    test: &cli::Test,
    interrupt: &Interrupt,
    report: &Report,
) -> anyhow::Result<Count> {
    let mut count = Count::default();
    for missing in packages::install(part, report) {
        count.skip(format!("{}: {missing}", name(part)));
    }
    if part == Part::Ebpf && !count.is_empty() {
        return Ok(count);
    }
    let mut command = cargo();
    command.env("CARGO_TERM_COLOR", "never").args(["test", "--release", "--no-fail-fast"]);
    match part {
        Part::Purity => {
            purity::check(interrupt, &mut count)?;
            return Ok(count);
        }
        Part::Unit => {
            command.args(["--workspace", "--exclude", BOOT, "--exclude", E2E]);
            command.args(["--lib", "--bins", "--tests", "--examples"]);
        }
        Part::Doc => {
            command.args(["--workspace", "--doc"]);
        }
        Part::Ebpf => {
            command.args(["-p", "outsock-gateway", "--features", "ebpf"]);
            // The rest of the gateway was tested without.
            command.args(["--bin", "outsock-gateway", "ebpf"]);
        }
        Part::Boot => {
            command.args(["-p", BOOT, "--lib", "--bins", "--tests"]);
        }
        Part::E2e => {
            command.args(["-p", E2E, "--lib", "--bins", "--tests"]);
            let kernels: Vec<&str> = test.kernel.iter().map(|kernel| kernel.name()).collect();
            command.env("OUTSOCK_E2E_KERNELS", kernels.join(","));
            if test.long {
                command.env("OUTSOCK_E2E_LONG", "1");
            }
        }
    }
    if let Some(word) = &test.name {
        command.args(["--", word]);
    }
    run_tests(name(part), &mut command, interrupt, &mut count)?;
    Ok(count)
}

/// Shows what a test run prints and counts it.
fn run_tests(
    part: &str,
    command: &mut Command,
    interrupt: &Interrupt,
    count: &mut Count,
) -> anyhow::Result<()> {
    let ended = run_lines(command, interrupt, &mut |line| {
        println!("{line}");
        count.read(line);
    })?;
    if interrupt.is_set() {
        bail!("interrupted");
    }
    // It did not compile, or a test program died without a word.
    if !ended.status.success() && count.failed == 0 {
        count.fail(format!("{part}: cargo test ended with {}", ended.status));
    }
    Ok(())
}
