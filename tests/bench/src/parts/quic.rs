//! Quic: streams between two gateways' endpoints against quinn alone.
//!
//! in: the lines that the transport's own bench prints; out: rows. Nothing is measured here.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::Cli;
use crate::report::{PartReport, Row, Target};

/// Measures the part.
pub(crate) fn measure(cli: &Cli) -> Result<PartReport> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--quiet", "-p", "outsock-transport-quic", "--bench", "quic", "--"]);
    command.args(cli.quick.then_some("--quick"));
    let output = command.output().context("cannot start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Row> = text.lines().filter_map(row).collect();
    if rows.is_empty() || !output.status.success() {
        bail!("the bench of quic says: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let note = "Both gateways and both ends of quinn are in one process with two threads, on loopback; the \
                windows are the defaults. The connect is a dial over a warm connection against one byte \
                there and back on a stream of quinn's. Memory is that of both gateways.";
    let title = "QUIC between gateways against quinn alone".to_owned();
    Ok(PartReport { title, notes: vec![note.to_owned()], rows, samples: Vec::new() })
}

/// What, ours, theirs, ratio, limit; divided by tabs.
fn row(line: &str) -> Option<Row> {
    let mut fields = line.split('\t').map(str::to_owned);
    let (what, outsock, against) = (fields.next()?, fields.next()?, fields.next()?);
    let found: f64 = fields.next()?.parse().ok()?;
    let limit = fields.next()?;
    let of = |sign: &str| limit.strip_prefix(sign).and_then(|limit| limit.trim().parse().ok());
    let target = match (of(">="), of("<=")) {
        (Some(least), _) => Some(Target::at_least(least, found)),
        (_, Some(most)) => Some(Target::at_most(most, "", found)),
        (None, None) => None,
    };
    let ratio = target.is_some().then_some(found);
    Some(Row { what, outsock, against, ratio, target, ..Row::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_bench_are_rows() {
        let found = row("1 streams\t300 MB/s\t310 MB/s\t0.97\t>= 0.9").unwrap();
        assert_eq!((found.what.as_str(), found.ratio), ("1 streams", Some(0.97)));
        assert!(found.target.unwrap().met);
        assert!(row("many\t9 /s\t-\t9\t-").unwrap().target.is_none());
        assert!(row("something else").is_none());
    }
}
