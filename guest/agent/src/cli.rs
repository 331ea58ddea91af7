//! The command line.
//!
//! in: arguments; out: what to do, checked. Nothing here touches the system.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::dial::{Dialer, UnixStandIn, Vsock};

const TEACHES: &str = "\
The TCP connections that CMD and its children open do not go through this machine's network: \
outsock-gateway on the host makes them, by the rules in its configuration, and the programs read and \
write them as their own sockets. Names are the gateway's, too, and as root UDP and ping. Programs need no change and no network \
here. Connections to loopback and to this machine's own addresses stay here.

Examples:
  outsock run curl http://example.com/
  outsock run -- git clone https://example.com/some/repository.git
  outsock run bash             everything that is started from this shell
  outsock -v run -- nc 192.0.2.1 80

Exit status: that of CMD; or 64 for a wrong command line, 69 when the gateway or the kernel's seccomp \
notification is not available, 126 when CMD cannot be executed, 127 when it is not found.";

/// Runs programs whose sockets live on the host.
#[derive(Debug, Parser)]
#[command(name = "outsock", version, after_help = TEACHES)]
pub(crate) struct Cli {
    /// Say on standard error what happens to each connection
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,

    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a program with its TCP connections outsourced to the host
    #[command(after_help = TEACHES)]
    Run(Run),
    /// List the host modules that this guest may use, and who in it uses them
    Modules(Modules),
}

#[derive(Debug, Args)]
pub(crate) struct Modules {
    #[command(flatten)]
    pub(crate) way: Way,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The way to the gateway.
#[derive(Debug, Args)]
pub(crate) struct Way {
    /// The vsock CID of the gateway (2 is the host)
    #[arg(long, default_value_t = 2, value_name = "CID")]
    cid: u32,

    /// The vsock port where the gateway serves VM RPC
    #[arg(long, default_value_t = outsock_vmrpc::limits::VMRPC_PORT, value_name = "PORT")]
    port: u32,

    /// unix:PATH: a stand-in for the gateway on this machine. For tests and experiments without a
    /// virtual machine
    #[arg(long, hide = true, value_name = "unix:PATH", conflicts_with_all = ["cid", "port"])]
    gateway: Option<StandIn>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    way: Way,

    /// Leave names to this machine's own resolver. Else the programs' nameservers are the gateway,
    /// whatever /etc/resolv.conf says
    #[arg(long)]
    pub(crate) no_resolver: bool,

    /// Whose UDP and ping go to the gateway, for the whole machine: "auto" what it has no route for
    /// itself, "always" all that is not for this machine, "off" none. It takes root, because a network
    /// device has to be made
    #[arg(long, value_enum, default_value_t = Udp::Auto, value_name = "WHICH")]
    pub(crate) udp: Udp,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// See [`Run::udp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Udp {
    Auto,
    Always,
    Off,
}

#[derive(Clone, Debug)]
struct StandIn(PathBuf);

impl FromStr for StandIn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err("expected unix:PATH".to_owned()),
        }
    }
}

impl Run {
    /// Which datagrams go to the gateway. A stand-in carries none, unless told to.
    pub(crate) fn udp(&self) -> Udp {
        match (self.udp, &self.way.gateway) {
            (Udp::Auto, Some(_)) => Udp::Off,
            (udp, _) => udp,
        }
    }

    /// The way to the gateway.
    pub(crate) fn dialer(&self) -> Arc<dyn Dialer> {
        self.way.dialer()
    }
}

impl Way {
    pub(crate) fn dialer(&self) -> Arc<dyn Dialer> {
        match &self.gateway {
            Some(StandIn(path)) => Arc::new(UnixStandIn { path: path.clone() }),
            None => Arc::new(Vsock { cid: self.cid, port: self.port }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words)
    }

    #[test]
    fn options_of_the_command_are_the_commands() {
        let cli = parse(&["outsock", "run", "curl", "-v", "--port", "7"]).unwrap();
        let Task::Run(run) = cli.task else { panic!("run") };
        assert!(!cli.verbose && !run.no_resolver);
        assert_eq!(run.command, ["curl", "-v", "--port", "7"]);
        assert_eq!((run.way.cid, run.way.port), (2, 1042));
        let cli = parse(&["outsock", "-v", "run", "--cid", "1", "--", "-x"]).unwrap();
        let Task::Run(run) = cli.task else { panic!("run") };
        assert!(cli.verbose);
        assert_eq!((run.command, run.way.cid), (vec!["-x".into()], 1));
    }

    #[test]
    fn wrong_lines_are_refused() {
        assert!(parse(&["outsock"]).is_err());
        assert!(parse(&["outsock", "run"]).is_err());
        assert!(parse(&["outsock", "run", "--cid", "x", "ls"]).is_err());
        assert!(parse(&["outsock", "run", "--gateway", "tcp:x", "ls"]).is_err());
        assert!(parse(&["outsock", "run", "--gateway", "unix:/x", "--cid", "3", "ls"]).is_err());
    }
}
