//! Results: every sample of a comparison, by contestant, case and metric.
//!
//! in: one measurement after the other; out: medians. Kept: a contestant that failed a case once has no
//! result for it, only a reason.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::{Case, Metric, Samples};

/// All samples of a part.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(String, Case, Metric), Vec<f64>>,
    failures: BTreeMap<(String, Case), String>,
}

/// The samples of one contestant, case and metric, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    contestant: String,
    case: Case,
    metric: Metric,
    samples: Vec<f64>,
}

impl Results {
    /// Keeps one measurement.
    pub(crate) fn add(&mut self, contestant: &str, case: Case, samples: Samples) {
        for (metric, value) in samples {
            let key = (contestant.to_owned(), case, metric);
            self.samples.entry(key).or_default().push(value);
        }
    }

    /// Keeps a failure.
    pub(crate) fn fail(&mut self, contestant: &str, case: Case, reason: String) {
        self.failures.insert((contestant.to_owned(), case), reason);
    }

    /// Why there is no result.
    pub(crate) fn failure(&self, contestant: &str, case: Case) -> Option<&str> {
        self.failures.get(&(contestant.to_owned(), case)).map(String::as_str)
    }

    /// The median of the rounds.
    pub(crate) fn median(&self, contestant: &str, case: Case, metric: Metric) -> Option<f64> {
        if self.failure(contestant, case).is_some() {
            return None;
        }
        median(self.samples.get(&(contestant.to_owned(), case, metric))?)
    }

    /// Everything.
    pub(crate) fn into_series(self) -> Vec<Series> {
        let series =
            |((contestant, case, metric), samples)| Series { contestant, case, metric, samples };
        self.samples.into_iter().map(series).collect()
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => sorted.get(middle).copied(),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_failure_hides_the_samples() {
        let (case, mut results) = (Case::RoundTrips { count: 1 }, Results::default());
        results.add("one", case, vec![(Metric::Median, 1.0)]);
        assert_eq!(results.median("one", case, Metric::Median), Some(1.0));
        results.fail("one", case, "it broke".to_owned());
        assert_eq!(results.median("one", case, Metric::Median), None);
    }
}
