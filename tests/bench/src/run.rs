//! The measuring process: part by part.

use std::io::Write;

use anyhow::{Context, Result};

use crate::cli::{Cli, Part};
use crate::machine::{self, Machine};
use crate::report::{PartReport, Report};
use crate::{parts, supervise, table};

/// Measures what the command line asks for and prints it.
pub(crate) fn run(cli: &Cli) -> Result<()> {
    supervise::end_with_supervisor()?;
    machine::raise_descriptor_limit()?;
    let mut machine = Machine::look();
    let mut done = Vec::new();
    for part in cli.parts() {
        eprintln!("{part:?}");
        match measure(cli, part) {
            Ok(Some(report)) => done.push(report),
            Ok(None) => {}
            // The other parts' figures are worth as much without this one.
            Err(error) => {
                eprintln!("  the part fails: {error:#}");
                let title = format!("{part:?}: failed, {error:#}");
                done.push(PartReport { title, ..PartReport::default() });
            }
        }
    }
    machine.look_again();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        rounds: cli.rounds(),
        quick: cli.quick,
        parts: done,
    };
    if let Some(path) = &cli.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::io::stdout().write_all(table::markdown(&report).as_bytes())?;
    Ok(())
}

fn measure(cli: &Cli, part: Part) -> Result<Option<PartReport>> {
    match part {
        Part::Streams => parts::streams::measure(cli).map(Some),
        Part::Peer => match &cli.peer {
            Some(peer) => parts::peer::measure(cli, peer).map(Some),
            None => {
                eprintln!("  left out: no --peer");
                Ok(None)
            }
        },
        Part::Idle => parts::idle::measure(cli).map(Some),
        Part::Stalled => parts::stalled::measure(cli).map(Some),
        Part::Uml => parts::uml::measure(cli).map(Some),
        Part::Calls => parts::calls::measure(cli).map(Some),
        Part::Names => parts::names::measure(cli).map(Some),
        Part::Ways => parts::ways::measure(cli).map(Some),
        Part::Quic => parts::quic::measure(cli).map(Some),
        Part::Rules => parts::rules::measure().map(Some),
        Part::Rpc => parts::rpc::measure(cli).map(Some),
    }
}
