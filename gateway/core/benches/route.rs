//! How long one decision takes among as many rules as a gateway may have.
//!
//! `cargo bench -p outsock-core` prints nanoseconds per decision for several kinds of tables, and
//! fails when one takes longer than a connection should wait for it.
#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use outsock_core::limits::ROUTES_MAX;
use outsock_core::route::{Condition, Entry, Query, RouteTable, Rule, RuleAction, WayId};
use outsock_vmrpc::Errno;

/// What a decision may add to a connect, nanoseconds.
const DECISION_NS_MAX: u128 = 20_000;

const ROUNDS: u32 = 2_000;

const BATCHES: u32 = 20;

fn one<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Condition<T> {
    [text.parse::<Entry<T>>().expect("a good entry")].into_iter().collect()
}

fn rule(number: usize, kind: usize) -> Rule {
    let all = Rule::all(RuleAction::Via(WayId(0)));
    let (high, low) = (number / 256, number % 256);
    match kind {
        0 => Rule { to: one(&format!("10.{high}.{low}.0/24")), ..all },
        1 => Rule { domains: one(&format!("*.site-{number}.example")), ..all },
        2 => Rule { ports: one(&format!("{}", 1 + number % 60_000)), ..all },
        3 => Rule { guests: one(&format!("vm-{number}")), ..all },
        // These cannot be looked up: every rule is walked over.
        5 => Rule { ports: one("20000-30000"), ..all },
        4 => Rule { programs: one(&format!("*/tool-{number}")), ports: one("1-1000"), ..all },
        _ => Rule { domains: one(&format!("host-{number}.*")), ports: one("1-1000"), ..all },
    }
}

/// Nanoseconds per decision; the best of several batches leaves the machine's other work out.
fn batch(table: &RouteTable) -> u128 {
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let query = Query {
            name: Some("www.nowhere.test"),
            program: Some("/usr/bin/curl"),
            address: Some(IpAddr::V4(Ipv4Addr::from(0xc000_0200 + round % 256))),
            ..Query::tcp("web", 700)
        };
        black_box(table.decide(black_box(&query)));
    }
    begun.elapsed().as_nanos() / u128::from(ROUNDS)
}

fn main() {
    let kinds =
        ["networks", "domains", "ports", "guests", "programs", "port ranges", "domain globs"];
    let mut slow = false;
    let tables = kinds
        .iter()
        .enumerate()
        .map(|(kind, name)| (*name, (0..ROUTES_MAX).map(|n| rule(n, kind)).collect::<Vec<_>>()));
    let mixed = (0..ROUTES_MAX).map(|n| rule(n, n % 4)).collect();
    for (name, rules) in tables.chain([("mixed", mixed)]) {
        let table = RouteTable::new(rules, Errno::EACCES);
        let each = (0..BATCHES).map(|_| batch(&table)).min().unwrap_or_default();
        println!("{ROUTES_MAX} rules, {name:<14} no match: {each:>8} ns per decision");
        slow |= each > DECISION_NS_MAX;
    }
    assert!(!slow, "a decision took longer than {DECISION_NS_MAX} ns");
}
