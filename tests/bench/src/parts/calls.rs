//! What the agent costs: single calls of a program in a real guest, with the agent and without it,
//! and natively.

use anyhow::Result;
use outsock_boot::{BootOptions, Guest, Images, Kernel};

use crate::calls::Call;
use crate::case::Case;
use crate::cli::Cli;
use crate::contestant::{Contestant, Native, RealGuest, compete};
use crate::lab::{self, Server, Way};
use crate::limits;
use crate::report::{Pair, PartReport};

const GUEST: (&str, u64) = ("uml", 3);

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let server = Server::start()?;
    let gateway = lab::gateway(cli, &server, &[(GUEST.0.to_owned(), GUEST.1)])?;
    let image =
        Images::in_target_directory().prepare(Kernel::Uml72, &mut |line| eprintln!("  {line}"))?;
    let share = super::uml::share(cli)?;
    let guest = Guest::boot(BootOptions {
        vsock_socket: Some(gateway.socket(GUEST.0)),
        share: Some(share.path().to_owned()),
        ..BootOptions::new(image)
    })?;
    let mut contestants: Vec<Box<dyn Contestant + '_>> = vec![
        Box::new(Native::new(&server, Way::Tcp)),
        Box::new(RealGuest::alone(&guest, &server)),
        Box::new(RealGuest::of_gateway(&guest, &gateway, &server)),
    ];
    let count = limits::CALLS / cli.shrink();
    let cases = Call::ALL.map(|call| Case::Calls { call, count });
    let results = compete(&mut contestants, &cases, cli.rounds());
    let release = format!("UML {}", guest.release());
    let mut rows = Vec::new();
    for case in cases {
        for theirs in [RealGuest::ALONE, Native::name_of(Way::Tcp)] {
            let pair = Pair { guest: &release, ours: RealGuest::OURS, theirs };
            rows.extend(pair.rows(&results, case, None));
        }
    }
    let notes = vec![
        "The guest has one processor. Without the agent its program talks to a server of its own, over \
         the guest's loopback."
            .to_owned(),
    ];
    let title = "Real guest: what the agent costs, call by call".to_owned();
    Ok(PartReport { title, notes, rows, samples: results.into_series() })
}
