//! cargo xtask: the demo, the tests, the bench.
//!
//! in: a command line; out: lines with the elapsed time, an exit code. Owner: the main thread starts
//! every process, so each of them ends with it. Kept: nothing that a command started outlives it.
//!
//! | Module | What it holds |
//! |---|---|
//! | `cli` | the command line |
//! | `demo` | one guest, one gateway, one curl |
//! | `test` | every check, its parts and their count |
//! | `bench` | hands over to the bench crate |
//! | `report` | lines with the elapsed time |
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod demo;
mod report;
mod test;

use std::process::ExitCode;

use clap::Parser;
use outsock_site::Interrupt;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done =
        Interrupt::on_signals().map_err(Into::into).and_then(|interrupt| match cli.command {
            cli::Command::Demo(demo) => demo::run(&demo, &interrupt),
            cli::Command::Test(test) => test::run(&test, &interrupt),
            cli::Command::Bench(bench) => bench::run(&bench, &interrupt),
        });
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
