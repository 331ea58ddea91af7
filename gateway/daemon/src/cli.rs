//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod network;

pub(crate) use network::{Network, NetworkCommand};

use crate::config::{ADMIN_SOCKET, KEY_FILE};
use crate::explain::Question;

/// The host's side of outsock: serves the outsourced sockets of virtual machines.
///
/// Each guest gets a vhost-user socket; its VMM connects a vsock device to it. In the guest, run
/// programs with `outsock run -- PROGRAM`. Their TCP connections leave from here, by the transport
/// that the configuration's routes name.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 64 a mistake in the configuration or on the command line.
Logs go to standard error; RUST_LOG=debug shows each connection. SIGHUP is a reload.

Example:
  outsock-gateway run --config gateway.toml
  qemu-system-x86_64 ... \\
    -object memory-backend-memfd,id=mem,size=512M,share=on -machine q35,memory-backend=mem \\
    -chardev socket,id=c,path=/run/outsock/web.sock -device vhost-user-vsock-pci,chardev=c
  guest$ outsock run -- curl http://192.0.2.1/";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the guests of a configuration until SIGTERM or Ctrl-C, which let connections finish;
    /// a second one ends at once.
    Run(Run),
    /// Make this gateway's key, by which peers know it, and print the public half.
    ///
    /// The file (mode 0600) goes into `[identity] key_file`; what is printed goes into the peers'
    /// `[[peer]] key`. It is a libp2p PeerId. A file that exists is never overwritten.
    Keygen(Keygen),
    /// Make a private network of gateways, and say who belongs to it.
    Network(Network),
    /// Check a configuration file and say what is wrong with it.
    Check(Check),
    /// Show the guests and connections of a running gateway.
    Status(Status),
    /// Have a running gateway read its configuration again: all of it or, if it is bad, nothing.
    Reload(Reload),
    #[command(hide = true)]
    Become(Become),
    /// Say which rules a connection would meet, and which one would decide.
    ///
    /// Asks the running gateway, or with --config evaluates that file, without looking names up.
    Explain(Explain),
    /// Show the host modules of a running gateway, who has bound them, calls, errors, event queues.
    Modules(Modules),
    /// Ask a running gateway about the overlay: whom it is connected to, and how.
    #[command(subcommand)]
    Overlay(Overlay),
}

/// About the overlay.
#[derive(Debug, Subcommand)]
pub(crate) enum Overlay {
    /// Show every connection: direct or through whom, carrier, round trip, streams.
    Peers(Status),
    /// Show the supernodes by which others reach this gateway.
    Relays(Status),
    /// Ask the network's directory where a gateway is.
    Lookup(Lookup),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file (TOML). configs/reference.toml shows every key.
    #[arg(long, short)]
    pub(crate) config: PathBuf,
    /// Write logs as JSON lines.
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// What the gateway starts in place of an external transport's program.
#[derive(Debug, Args)]
pub(crate) struct Become {
    /// The user to be.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    pub(crate) program: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// The key file to make.
    #[arg(default_value = KEY_FILE)]
    pub(crate) file: PathBuf,
    /// Make nothing: print the public half of a file that exists.
    #[arg(long)]
    pub(crate) show: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file.
    #[arg(long, short)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The admin socket of the gateway.
    #[arg(long, default_value = ADMIN_SOCKET, conflicts_with = "config")]
    pub(crate) admin_socket: PathBuf,
    /// Take the admin socket from this configuration file.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Lookup {
    /// SERVICE.SITE.peer, a site's name, or a key.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) asked: Status,
}

#[derive(Debug, Args)]
pub(crate) struct Modules {
    #[command(flatten)]
    pub(crate) asked: Status,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// The admin socket of the gateway.
    #[arg(long, default_value = ADMIN_SOCKET, conflicts_with = "config")]
    pub(crate) admin_socket: PathBuf,
    /// Take the admin socket from this configuration file.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Where the connection goes: NAME:PORT or ADDRESS:PORT, an IPv6 address in brackets.
    pub(crate) destination: String,
    /// The guest that it comes from.
    #[arg(long, short)]
    pub(crate) guest: String,
    /// The program in the guest.
    #[arg(long)]
    pub(crate) program: Option<String>,
    /// The user in the guest: a number, or a name.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Datagrams instead of a TCP connection.
    #[arg(long)]
    pub(crate) udp: bool,
    /// The admin socket of the gateway.
    #[arg(long, default_value = ADMIN_SOCKET, conflicts_with = "config")]
    pub(crate) admin_socket: PathBuf,
    /// Evaluate this configuration file instead of asking a gateway.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Explain {
    /// As it is asked.
    pub(crate) fn question(&self) -> Question {
        let user_id = self.user.as_deref().and_then(|user| user.parse().ok());
        Question {
            guest: self.guest.clone(),
            destination: self.destination.clone(),
            program: self.program.clone(),
            user_id,
            user_name: self.user.clone().filter(|_| user_id.is_none()),
            udp: self.udp,
        }
    }
}
