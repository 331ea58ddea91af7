//! outsock-lab: several sites on one machine, each with a gateway and real guests.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use outsock_lab::control::{self, Ask, Door};
use outsock_lab::{Lab, Topology, limits};
use outsock_site::{Interrupt, Programs};

/// Boots labs: sites with a gateway and guests each, and networks between them.
///
/// As root each site has a network namespace of its own, and links have a rate; else all share this
/// machine's loopback. Delay and losses are made in user space. Nothing outlives `up`, whatever ends it.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Example, in two terminals:
  outsock-lab up configs/two-sites.toml
  outsock-lab exec tokyo/web -- curl http://www.osaka.peer/

configs/two-sites.toml explains every key of a topology. OUTSOCK_LAB names another control socket, for
a second lab at the same time.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up and keep it up until Ctrl-C, SIGTERM or `outsock-lab down`.
    Up {
        /// The topology.
        file: PathBuf,
    },
    /// Run a command in a guest, under `outsock run`. Prints what it prints, ends with its code.
    Exec {
        /// SITE/GUEST.
        guest: String,
        /// The command. Standard input is passed on when it is not a terminal.
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Show each site's gateway: guests, peers, connections.
    Status,
    /// Show a gateway's log (SITE) or a guest's console (SITE/GUEST).
    Logs {
        /// Which.
        of: String,
    },
    /// Cut the link between two sites; `heal` joins them again.
    Cut {
        /// One site.
        one: String,
        /// The other.
        other: String,
    },
    /// Join two sites again.
    Heal {
        /// One site.
        one: String,
        /// The other.
        other: String,
    },
    /// End the lab.
    Down,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up { file } => up(&file).map(|()| 0),
        Command::Exec { guest, argv } => exec(guest, argv),
        Command::Status => control::ask(&control::socket(), &Ask::Status),
        Command::Logs { of } => control::ask(&control::socket(), &Ask::Logs { of }),
        Command::Cut { one, other } => link(one, other, false),
        Command::Heal { one, other } => link(one, other, true),
        Command::Down => control::ask(&control::socket(), &Ask::Down),
    };
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("outsock-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn link(one: String, other: String, up: bool) -> anyhow::Result<i32> {
    control::ask(&control::socket(), &Ask::Link { between: [one, other], up })
}

fn exec(guest: String, argv: Vec<String>) -> anyhow::Result<i32> {
    use base64::Engine as _;
    let mut stdin = Vec::new();
    if !std::io::stdin().is_terminal() {
        let most = limits::QUESTION_BYTES_MAX / 2;
        std::io::stdin().take(most).read_to_end(&mut stdin)?;
    }
    let stdin = base64::engine::general_purpose::STANDARD.encode(stdin);
    control::ask(&control::socket(), &Ask::Exec { guest, argv, stdin })
}

fn up(file: &std::path::Path) -> anyhow::Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let topology = Topology::load(file)?;
    let door = Door::open(control::socket())?;
    let began = Instant::now();
    let mut progress = |line: &str| {
        // Who reads no longer does not stop the lab.
        let _ = writeln!(std::io::stdout(), "[{:6.1} s] {line}", began.elapsed().as_secs_f32());
    };
    progress("building the gateway and the static agent (minutes the first time)");
    let programs = Programs::build(&interrupt, &mut |_| {})?;
    let lab = Arc::new(Lab::up(topology, &programs, &interrupt, &mut progress)?);
    let down = Arc::new(AtomicBool::new(false));
    door.serve(&lab, &down)?;
    progress("up; try: outsock-lab status (Ctrl-C ends it)");
    while !interrupt.is_set() && !down.load(Ordering::Acquire) {
        std::thread::sleep(limits::POLL);
    }
    progress("ending guests, gateways and networks");
    drop(door);
    drop(lab);
    progress("nothing is left running");
    Ok(())
}
