//! The command line of `network`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use outsock_peer::PeerKey;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Network {
    #[command(subcommand)]
    pub(crate) command: NetworkCommand,
}

const AFTER_HELP: &str = "\
The folder holds the authority's key: who has it decides who belongs to the network. Keep it off the
gateways. They need only what `init` and `sign` print, and the list that `revoke` writes.

Example:
  outsock-gateway network init acme.network
  outsock-gateway network sign acme.network osaka 12D3KooW... > osaka.certificate
  outsock-gateway network revoke acme.network osaka";

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network: its authority's key, in a new folder. Prints the public half.
    Init {
        /// The folder.
        folder: PathBuf,
    },
    /// Certify that a gateway belongs to the network, under a name. Prints the certificate.
    ///
    /// A name that another gateway has is refused until that one's certificate has ended or was revoked.
    /// The same name and key again renew the certificate.
    Sign {
        /// The network's folder.
        folder: PathBuf,
        /// What the gateway is called: SERVICE.NAME.peer. 1 to 63 of a-z, 0-9 and '-'.
        name: String,
        /// Its key: what `outsock-gateway keygen` printed there.
        key: PeerKey,
        /// For how many days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
        days: u16,
    },
    /// Take a gateway's certificates back. Rewrites the list of revocations, and prints it.
    ///
    /// Gateways that have the list, or hear of it from another, end their connections to the revoked one
    /// and refuse it from then on, until it is certified anew.
    Revoke {
        /// The network's folder.
        folder: PathBuf,
        /// The gateway: its name or its key.
        member: String,
    },
    /// Show who belongs to the network.
    Show {
        /// The network's folder.
        folder: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
