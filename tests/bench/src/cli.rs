//! The command line.
//!
//! in: arguments; out: what to measure, and with what. The hidden commands are this program's other
//! processes.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::case::Case;

const TEACHES: &str = "\
Parts:
  streams   throughput each way, round trips, connects, processor time: a virtual guest with the
            buffer layouts of Linux 6.1, 6.12 and 7.2 against native loopback TCP
  peer      the same against another vsock backend (--peer), both with the same Unix-socket server
  idle      10,000 connections at a time, and the memory that an idle one takes
  stalled   what a reader that stops costs the other flows, and the processor while 1,000 wait
  uml       a real guest (User Mode Linux 7.2) with the agent against native loopback TCP
  calls     single calls in such a guest, with the agent, without it, and natively
  names     addresses of names from the gateway's pool, in such a guest, against a server on loopback
  ways      TLS by rule, SOCKS5 and obfs4proxy against plain TCP, one stream and 64
  quic      a peer's streams against quinn alone, connects, 5,000 streams, their memory when they stall
            (cargo bench -p outsock-transport-quic)
  rules     one decision among 10,000 rules (cargo bench -p outsock-core)
  rpc       VM RPC calls against a plain vsock echo and (feature ttrpc) against ttrpc, event queues in
            shared memory against those over the stream; a virtual guest and User Mode Linux 7.2

Each figure is the median of its rounds; within a round all contestants take turns. Threads are not
pinned. The figures of one run compare with one another, not with those of another day.

Needs the release builds of outsock-gateway and, for uml, of outsock as a static binary:
  RUSTFLAGS='-C target-feature=+crt-static' \\
    cargo build --release -p outsock-agent --target x86_64-unknown-linux-gnu
A peer: cargo install vhost-device-vsock --version 0.3.0 --root DIR";

/// Measures outsock and prints a Markdown table; progress goes to standard error.
#[derive(Debug, Parser)]
#[command(name = "outsock-bench", version, after_help = TEACHES, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Measure only these parts (all, unless named)
    #[arg(value_enum, value_name = "PART")]
    pub(crate) parts: Vec<Part>,

    /// The gateway's binary
    #[arg(long, value_name = "PATH", default_value = "target/release/outsock-gateway")]
    pub(crate) gateway: PathBuf,

    /// The agent's static binary, for the parts uml, calls and names
    #[arg(
        long,
        value_name = "PATH",
        default_value = "target/x86_64-unknown-linux-gnu/release/outsock"
    )]
    pub(crate) agent: PathBuf,

    /// Another vhost-user vsock backend with the command line of vhost-device-vsock, for the part
    /// peer
    #[arg(long, value_name = "PATH")]
    pub(crate) peer: Option<PathBuf>,

    /// Only the cases whose names contain this, such as "256 B" or "round trip" (parts streams, peer
    /// and uml)
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,

    /// Rounds
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Two short rounds: shows that everything runs, not how fast
    #[arg(long)]
    pub(crate) quick: bool,

    /// Write all samples to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Keep the folder with configuration and logs
    #[arg(long)]
    pub(crate) keep: bool,

    /// Do the work, below the supervisor
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,

    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Against native TCP, in a virtual guest.
    Streams,
    /// Against another backend.
    Peer,
    /// Many connections.
    Idle,
    /// Readers that stop.
    Stalled,
    /// A real guest.
    Uml,
    /// Single calls in a real guest.
    Calls,
    /// Names in a real guest.
    Names,
    /// TLS, proxies and external transports.
    Ways,
    /// QUIC between gateways.
    Quic,
    /// Decisions by rules.
    Rules,
    /// VM RPC.
    Rpc,
}

/// This program's other processes.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Be the far end.
    #[command(hide = true)]
    Serve {
        /// Where to listen, beside TCP.
        unix: PathBuf,
        /// A certificate and its key, to open the other doors, too.
        doors: Vec<PathBuf>,
    },
    /// Be the near end.
    #[command(hide = true)]
    Client {
        /// tcp:ADDRESS, unix:PATH, or vsock:PORT of the host.
        to: String,
        /// A case, as JSON.
        case: String,
    },
    /// Be a program that uses VM RPC.
    #[command(hide = true)]
    RpcClient {
        /// The work, as JSON.
        work: String,
    },
}

impl Cli {
    /// Rounds to go.
    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 2 } else { self.rounds }
    }

    /// How much smaller than usual each measurement is.
    pub(crate) fn shrink(&self) -> u64 {
        if self.quick { 8 } else { 1 }
    }

    /// What every contestant has to do, so many times smaller than usual.
    pub(crate) fn cases(&self, shrink: u64) -> Vec<Case> {
        let shrink = shrink * self.shrink();
        let all = Case::streams(shrink).into_iter().chain(Case::moments(shrink));
        all.filter(|case| case.to_string().contains(&self.only)).collect()
    }

    /// The parts to do, in their order.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| self.parts.is_empty() || self.parts.contains(part)).collect()
    }
}
