//! The command line.
//!
//! in: words; out: [`Cli`]. Owner: `main`. Kept: `--help` teaches what each command needs and leaves.

use clap::{Args, Parser, Subcommand, ValueEnum};
use outsock_boot::Kernel;

/// Runs, tests and measures outsock.
///
/// Each command installs the Debian packages that it needs (as root; else it says which), shows what
/// it does while it works, and ends everything that it started, also after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  cargo xtask demo     see a program without a network reach a server outside its virtual machine
  cargo xtask test     check everything

Guest kernels: qemu-6.1 and qemu-6.12 (Debian 12's and 13's kernel under QEMU), uml-7.2 (Debian
unstable's User Mode Linux). None of them needs KVM; QEMU uses it where it truly works.
Images are made once, below target/guests (OUTSOCK_GUESTS names another place).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a guest without a network card and fetch a page from outside with an unmodified curl.
    Demo(Demo),
    /// Run every test; the last line counts them.
    Test(Test),
    /// Measure; the arguments behind `--` go to the bench.
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The guest's kernel. Default: uml-7.2 where it runs (it boots in a second), else qemu-6.1.
    #[arg(long, value_parser = kernel)]
    pub(crate) guest: Option<Kernel>,
    /// Show the gateway's whole log at the end.
    #[arg(long)]
    pub(crate) gateway_log: bool,
}

#[derive(Debug, Args)]
#[command(after_help = TEST_AFTER_HELP)]
pub(crate) struct Test {
    /// Only these parts (may be repeated, or a list with commas).
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    pub(crate) only: Vec<Part>,
    /// End-to-end tests only in guests of these kernels (may be repeated).
    #[arg(long, value_parser = kernel)]
    pub(crate) kernel: Vec<Kernel>,
    /// Only tests whose name holds this word (parts unit, boot, e2e).
    #[arg(long, value_name = "WORD")]
    pub(crate) name: Option<String>,
    /// End-to-end tests of churn and slow readers in full: 100,000 connections each way. Takes an hour on
    /// emulated kernels, minutes on uml-7.2.
    #[arg(long)]
    pub(crate) long: bool,
}

const TEST_AFTER_HELP: &str = "\
Examples:
  cargo xtask test
  cargo xtask test --only unit
  cargo xtask test --only e2e --kernel uml-7.2 --name curl
  cargo xtask test --only e2e --kernel uml-7.2 --name churn --long

A test that cannot run says what is missing and is counted as skipped.
Exit codes: 0 all passed or skipped, 1 a test failed.";

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The core depends on nothing that can do I/O.
    Purity,
    /// Unit, integration, conformance, fuzz and tidy tests of all crates, without real guests.
    Unit,
    /// The examples in the documentation.
    Doc,
    /// Host modules in the kernel.
    Ebpf,
    /// Booting real guests.
    Boot,
    /// Unmodified programs in real guests, through the gateway.
    E2e,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Arguments of the bench itself; `cargo xtask bench -- --help` shows them.
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

fn kernel(name: &str) -> Result<Kernel, String> {
    name.parse().map_err(|error: outsock_boot::kernel::UnknownKernel| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let error = Cli::try_parse_from(["cargo xtask", "demo", "--guest", "vax"]).unwrap_err();
        assert!(error.to_string().contains("qemu-6.12"), "{error}");
    }
}
