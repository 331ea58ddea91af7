//! Rules: how long one decision takes among as many rules as a gateway may have.
//!
//! in: the lines that the core's own bench prints; out: rows. Nothing is measured here.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::report::{PartReport, Row, Target};

/// What a decision may add to a connect, microseconds.
const US_MAX: f64 = 20.0;

/// Measures the part.
pub(crate) fn measure() -> Result<PartReport> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "-p", "outsock-core", "--bench", "route"])
        .output()
        .context("cannot start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Row> = text.lines().filter_map(row).collect();
    if rows.is_empty() {
        bail!("the bench of routes says: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let note =
        "The best of 20 batches; no rule matches, so every one that cannot be looked up is tried.";
    let title = "Decisions by rules".to_owned();
    Ok(PartReport { title, notes: vec![note.to_owned()], rows, samples: Vec::new() })
}

/// `10000 rules, networks       no match:      123 ns per decision`
fn row(line: &str) -> Option<Row> {
    let (what, time) = line.split_once("no match:")?;
    let nanoseconds: u32 = time.trim().strip_suffix(" ns per decision")?.trim().parse().ok()?;
    let us = f64::from(nanoseconds) / 1e3;
    Some(Row {
        what: format!("one decision, {}", what.trim()),
        outsock: format!("{us:.2} us"),
        target: Some(Target::at_most(US_MAX, "us", us)),
        ..Row::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_bench_are_rows() {
        let found = row("10000 rules, networks       no match:      1230 ns per decision").unwrap();
        assert_eq!(found.what, "one decision, 10000 rules, networks");
        assert_eq!(found.outsock, "1.23 us");
        assert!(found.target.unwrap().met);
        assert!(row("something else").is_none());
    }
}
