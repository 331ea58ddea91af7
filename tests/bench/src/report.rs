//! Report: rows of a table, each a figure with what it is compared with and what it should be.
//!
//! in: results of parts; out: rows. Kept: a ratio is that of the medians that stand in its row. Values
//! only.

use serde::Serialize;

use crate::case::{Case, Metric};
use crate::machine::Machine;
use crate::results::{Results, Series};

/// All that a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    pub(crate) parts: Vec<PartReport>,
}

/// What one part found out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PartReport {
    pub(crate) title: String,
    /// Paragraphs below the table.
    pub(crate) notes: Vec<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) samples: Vec<Series>,
}

/// One line of the table.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) guest: String,
    /// With its unit, or why there is none.
    pub(crate) outsock: String,
    pub(crate) against: String,
    pub(crate) ratio: Option<f64>,
    pub(crate) target: Option<Target>,
}

/// What was promised.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) text: String,
    pub(crate) met: bool,
}

impl Target {
    /// A value, or a ratio, of at least this.
    pub(crate) fn at_least(limit: f64, found: f64) -> Self {
        Self { text: format!(">= {limit}"), met: found >= limit }
    }

    /// A value, with its unit, of at most this.
    pub(crate) fn at_most(limit: f64, unit: &str, found: f64) -> Self {
        Self { text: format!("<= {limit} {unit}"), met: found <= limit }
    }
}

/// Two contestants of one part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) guest: &'a str,
    pub(crate) ours: &'a str,
    pub(crate) theirs: &'a str,
}

impl Pair<'_> {
    /// The rows of a case. `target`, for the first metric, is the least ratio.
    pub(crate) fn rows(self, results: &Results, case: Case, target: Option<f64>) -> Vec<Row> {
        let metrics = case.metrics().iter().enumerate();
        metrics
            .map(|(index, &metric)| {
                let ours = results.median(self.ours, case, metric);
                let theirs = results.median(self.theirs, case, metric);
                let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
                let limit = target.filter(|_| index == 0);
                let target = limit.map(|limit| Target::at_least(limit, ratio.unwrap_or(0.0)));
                Row {
                    what: format!("{case}{}", metric.suffix()),
                    guest: self.guest.to_owned(),
                    outsock: shown(results, self.ours, case, metric),
                    against: against(results, self.theirs, case, metric),
                    ratio,
                    target,
                }
            })
            .collect()
    }
}

fn against(results: &Results, contestant: &str, case: Case, metric: Metric) -> String {
    let short = contestant.split(',').next().unwrap_or(contestant);
    match (metric, results.median(contestant, case, metric)) {
        // There is no gateway in native TCP.
        (Metric::GatewayCpu, None) if results.failure(contestant, case).is_none() => String::new(),
        _ => format!("{short}: {}", shown(results, contestant, case, metric)),
    }
}

fn shown(results: &Results, contestant: &str, case: Case, metric: Metric) -> String {
    match results.median(contestant, case, metric) {
        Some(value) => metric.show(value),
        None if results.failure(contestant, case).is_some() => "failed".to_owned(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_contestant_misses_its_target() {
        let case = Case::Connects { count: 1, parallel: 1 };
        let mut results = Results::default();
        results.add("them", case, vec![(Metric::Connects, 100.0)]);
        results.fail("us", case, "no".to_owned());
        let pair = Pair { guest: "any", ours: "us", theirs: "them" };
        let rows = pair.rows(&results, case, Some(0.5));
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].outsock, "failed");
        assert!(!rows[0].target.as_ref().unwrap().met);
    }

    #[test]
    fn the_ratio_is_of_the_medians() {
        let case = Case::Connects { count: 1, parallel: 1 };
        let mut results = Results::default();
        for value in [1.0, 50.0, 99.0] {
            results.add("us, here", case, vec![(Metric::Connects, value)]);
            results.add("them, there", case, vec![(Metric::Connects, 100.0)]);
        }
        let pair = Pair { guest: "any", ours: "us, here", theirs: "them, there" };
        let rows = pair.rows(&results, case, Some(0.5));
        assert_eq!(rows[0].ratio, Some(0.5));
        assert_eq!(rows[0].against, "them: 100 /s");
        assert!(rows[0].target.as_ref().unwrap().met);
    }
}
