//! Once: a connect() is one dial to where it was decided to go, whatever signals and threads do meanwhile.
//!
//! in: a world; out: a verdict each. Owner: the caller. Kept: what the program says is compared with what the
//! gateway has counted. Bound: [`ROUNDS`].

use crate::Verdict;
use crate::host::{missing, program};
use crate::net::{ECHO, HOST, REFUSED_BY_RULE};
use crate::programs::need;
use crate::world::World;

const ROUNDS: u64 = 300;

/// Dials that ended well, and connects that a rule has refused.
fn counted(world: &World) -> [u64; 2] {
    let status = world.gateway().status().unwrap();
    [status.guests[0].dialled, status.guests[0].refused_by_rule]
}

fn run(world: &World, words: &[&str]) -> [u64; 2] {
    let text = world.succeed(&[&["/usr/bin/python3", "/mnt/share/once.py"], words].concat());
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

/// 1 kHz of signals.
pub(crate) fn signals(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let before = counted(world);
    let (port, rounds) = (ECHO.to_string(), ROUNDS.to_string());
    let [begun, interrupted] = run(world, &["storm", HOST, &port, &rounds]);
    let after = counted(world);
    println!("{begun} connects, {interrupted} of them interrupted");
    assert_eq!(after[0] - before[0], begun, "dials: {before:?} {after:?}");
    Verdict::Passed
}

/// A thread writes another address while the call is decided on.
pub(crate) fn rewriting(world: &mut World) -> Verdict {
    need!("python3", "python3");
    let (denied, _) = REFUSED_BY_RULE.iter().find(|(_, errno)| *errno == "EACCES").unwrap();
    let before = counted(world);
    let (port, denied, rounds) = (ECHO.to_string(), denied.to_string(), ROUNDS.to_string());
    let [connected, refused] = run(world, &["rewrite", HOST, &port, &denied, &rounds]);
    let after = counted(world);
    println!("{connected} connected, {refused} refused");
    assert_eq!(after[0] - before[0], connected, "{before:?} {after:?}");
    assert_eq!(after[1] - before[1], refused, "{before:?} {after:?}");
    assert_eq!(connected + refused, ROUNDS);
    assert!(connected > 0 && refused > 0, "nothing was rewritten: {connected}, {refused}");
    Verdict::Passed
}
