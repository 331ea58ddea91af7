//! A real guest with the agent against native loopback TCP: the same unmodified client in both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use outsock_boot::{BootOptions, Guest, Images, Kernel};
use tempfile::TempDir;

use crate::case::{Case, Direction};
use crate::cli::Cli;
use crate::contestant::{AGENT, CLIENT, Contestant, Native, RealGuest, compete};
use crate::lab::{self, Server, Way};
use crate::limits;
use crate::peer::Peer;
use crate::report::{Pair, PartReport};

/// The guest's name in the gateway's configuration, and its CID.
const GUEST: (&str, u64) = ("uml", 3);
/// Of native TCP, from the guest, with the largest messages.
const RATIO_MIN_OUT: f64 = 0.45;
/// To the guest.
const RATIO_MIN_IN: f64 = 0.35;

/// A guest without hardware virtualization takes longer for everything small.
const SHRINK: u64 = 4;

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let gateway = lab::gateway(cli, &server, &[(GUEST.0.to_owned(), GUEST.1)])?;
    let image =
        Images::in_target_directory().prepare(Kernel::Uml72, &mut |line| eprintln!("  {line}"))?;
    let share = share(cli)?;
    let boot = |socket: PathBuf| {
        Guest::boot(BootOptions {
            vsock_socket: Some(socket),
            share: Some(share.path().to_owned()),
            ..BootOptions::new(image.clone())
        })
    };
    let guest = boot(gateway.socket(GUEST.0))?;
    let peer = match &cli.peer {
        Some(binary) => Some(Peer::start(binary, GUEST.1 + 1, &server.hybrid_prefix())?),
        None => None,
    };
    let peers_guest = peer.as_ref().map(|peer| boot(peer.socket())).transpose()?;
    let native = Native::name_of(Way::Tcp);
    let mut contestants: Vec<Box<dyn Contestant + '_>> = vec![
        Box::new(Native::new(&server, Way::Tcp)),
        Box::new(RealGuest::of_gateway(&guest, &gateway, &server)),
    ];
    let mut theirs = vec![native];
    if let Some((peer, guest)) = peer.as_ref().zip(peers_guest.as_ref()) {
        contestants.push(Box::new(RealGuest::of_peer(guest, peer, &server)));
        theirs.push(RealGuest::THEIRS);
    }
    let cases = cli.cases(SHRINK);
    let results = compete(&mut contestants, &cases, cli.rounds());
    let release = format!("UML {}", guest.release());
    let mut rows = Vec::new();
    for &case in &cases {
        for &theirs in &theirs {
            let target = target(case).filter(|_| theirs == native);
            let pair = Pair { guest: &release, ours: RealGuest::OURS, theirs };
            rows.extend(pair.rows(&results, case, target));
        }
    }
    let mut notes = vec!["The guest has one processor.".to_owned()];
    if peer.is_some() {
        notes.push(format!(
            "The peer has no agent: its client opens vsock connections itself, to a Unix socket of \
             the server, with messages of at most {} B from the guest.",
            limits::PEER_MESSAGE_BYTES_MAX
        ));
    }
    let title = "Real guest with the agent against native loopback TCP".to_owned();
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}

fn target(case: Case) -> Option<f64> {
    match case {
        Case::Stream { message: 65_536, direction: Direction::Out, .. } => Some(RATIO_MIN_OUT),
        Case::Stream { message: 65_536, direction: Direction::In, .. } => Some(RATIO_MIN_IN),
        Case::Stream { .. }
        | Case::RoundTrips { .. }
        | Case::Connects { .. }
        | Case::Lookups { .. }
        | Case::Calls { .. } => None,
    }
}

/// What the guest has to see, wherever it is on the host.
pub(super) fn share(cli: &Cli) -> Result<TempDir> {
    let share = tempfile::tempdir()?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, share.path().join(name))
            .with_context(|| format!("cannot copy {}: see --help", from.display()))
    };
    copy(&cli.agent, AGENT)?;
    copy(&std::env::current_exe()?, CLIENT)?;
    Ok(share)
}
