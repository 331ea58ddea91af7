//! Contestant: somebody who can carry out any case.

use anyhow::Result;

use crate::case::{Case, Samples};
use crate::results::Results;

mod native;
mod real_guest;
mod virtual_guest;

pub(crate) use native::Native;
pub(crate) use real_guest::{AGENT, CLIENT, RealGuest};
pub(crate) use virtual_guest::VirtualContestant;

/// Somebody who can carry out any case.
pub(crate) trait Contestant {
    /// Unique in its part.
    fn name(&self) -> &str;

    /// Carries out a case once.
    fn measure(&mut self, case: Case) -> Result<Samples>;

    /// Starts afresh, after a failure.
    fn recover(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Lets all contestants do all cases, taking turns in each round.
pub(crate) fn compete(
    contestants: &mut [Box<dyn Contestant + '_>],
    cases: &[Case],
    rounds: u32,
) -> Results {
    let mut results = Results::default();
    for round in 1..=rounds {
        for &case in cases {
            eprintln!("  round {round}/{rounds}: {case}");
            for contestant in &mut *contestants {
                if results.failure(contestant.name(), case).is_some() {
                    continue;
                }
                match contestant.measure(case) {
                    Ok(samples) => results.add(contestant.name(), case, samples),
                    Err(error) => {
                        eprintln!("  {} fails: {error:#}", contestant.name());
                        results.fail(contestant.name(), case, format!("{error:#}"));
                        if let Err(error) = contestant.recover() {
                            eprintln!("  {} does not recover: {error:#}", contestant.name());
                        }
                    }
                }
            }
        }
    }
    results
}
