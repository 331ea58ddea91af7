//! A real guest with the agent against native loopback TCP: the same unmodified client in both.

use std::path::Path;

use anyhow::{Context, Result};
use outsock_boot::{BootOptions, Guest, Images, Kernel};

use crate::case::{Case, Direction};
use crate::cli::Cli;
use crate::contestant::{AGENT, CLIENT, Contestant, Native, RealGuest, compete};
use crate::lab::{self, Server, Way};
use crate::report::{Pair, PartReport};

/// The guest's name in the gateway's configuration, and its CID.
const GUEST: (&str, u64) = ("uml", 3);
/// Of native TCP, from the guest, with the largest messages.
const RATIO_MIN_OUT: f64 = 0.45;
/// To the guest.
const RATIO_MIN_IN: f64 = 0.35;

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let gateway = lab::gateway(cli, &server, &[(GUEST.0.to_owned(), GUEST.1)])?;
    let image =
        Images::in_target_directory().prepare(Kernel::Uml72, &mut |line| eprintln!("  {line}"))?;
    let share = tempfile::tempdir()?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, share.path().join(name))
            .with_context(|| format!("cannot copy {}: see --help", from.display()))
    };
    copy(&cli.agent, AGENT)?;
    copy(&std::env::current_exe()?, CLIENT)?;
    let guest = Guest::boot(BootOptions {
        vsock_socket: Some(gateway.socket(GUEST.0)),
        share: Some(share.path().to_owned()),
        ..BootOptions::new(image)
    })?;
    let native = Native::name_of(Way::Tcp);
    let ours = RealGuest::new(&guest, &gateway, &server);
    let ours_name = ours.name().to_owned();
    let mut contestants: Vec<Box<dyn Contestant + '_>> =
        vec![Box::new(Native::new(&server, Way::Tcp)), Box::new(ours)];
    let mut cases = Case::streams(cli.shrink());
    cases.extend(Case::moments(cli.shrink()));
    let results = compete(&mut contestants, &cases, cli.rounds());
    let release = format!("UML {}", guest.release());
    let pair = Pair { guest: &release, ours: &ours_name, theirs: native };
    let mut rows = Vec::new();
    for &case in &cases {
        let target = match case {
            Case::Stream { message: 65_536, direction: Direction::Out, .. } => Some(RATIO_MIN_OUT),
            Case::Stream { message: 65_536, direction: Direction::In, .. } => Some(RATIO_MIN_IN),
            Case::Stream { .. } | Case::RoundTrips { .. } | Case::Connects { .. } => None,
        };
        rows.extend(pair.rows(&results, case, target));
    }
    let title = "Real guest with the agent against native loopback TCP".to_owned();
    Ok(PartReport { title, rows, samples: results.into_series(), ..PartReport::default() })
}
