//! RouteTable: the ordered rules and the default, and their decision about one connection.
//!
//! in: a [`Query`]; out: a [`Decision`] that names the rule, or every rule tried ([`Tried`]). Built
//! once, then only read: the daemon replaces it as a whole. Kept: first match wins; no match is the
//! default. Bound: [`limits::ROUTES_MAX`](crate::limits::ROUTES_MAX).

use outsock_vmrpc::Errno;

use super::index::Index;
use super::rule::{Mismatch, Query, Rule, RuleAction};

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule that decided, by its place; `None` = the default.
    pub rule: Option<usize>,
    /// What it said.
    pub action: RuleAction,
    /// No address was known, and a rule before this one asks for one: with an address, it might
    /// have decided instead.
    pub open: bool,
}

/// One rule that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its place.
    pub rule: usize,
    /// Why it did not decide; `None` = it did.
    pub mismatch: Option<Mismatch>,
}

/// The ordered rules and the default.
#[derive(Clone, Debug)]
pub struct RouteTable {
    rules: Vec<Rule>,
    index: Index,
    /// The first rule with an address condition.
    first_by_address: usize,
    default: Errno,
}

impl RouteTable {
    /// A table; what no rule matches is refused with `default`.
    pub fn new(rules: Vec<Rule>, default: Errno) -> Self {
        let index = Index::new(&rules);
        let by_address = rules.iter().position(|rule| !rule.to.is_empty());
        let first_by_address = by_address.unwrap_or(usize::MAX);
        Self { rules, index, first_by_address, default }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides about a connection.
    pub fn decide(&self, query: &Query<'_>) -> Decision {
        self.decision(query, self.index.find(&self.rules, query))
    }

    /// The same by a walk over the rules, with a word about each.
    pub fn explain(&self, query: &Query<'_>) -> (Vec<Tried>, Decision) {
        let protected = query.protected();
        let mut tried = Vec::new();
        for (place, rule) in self.rules.iter().enumerate() {
            let mismatch = rule.check(query, protected).err();
            tried.push(Tried { rule: place, mismatch });
            if mismatch.is_none() {
                return (tried, self.decision(query, Some(place)));
            }
        }
        (tried, self.decision(query, None))
    }

    /// Whether some rule picks connections of this guest by this name.
    pub fn routes_by_name(&self, guest: &str, tags: &[String], name: &str) -> bool {
        self.index.names(&self.rules, guest, tags, name)
    }

    fn decision(&self, query: &Query<'_>, place: Option<usize>) -> Decision {
        let found = place.and_then(|place| self.rules.get(place));
        let action = found.map_or(RuleAction::Refuse(self.default), |rule| rule.action);
        let before = place.unwrap_or(self.rules.len());
        let open = query.address.is_none() && self.first_by_address < before;
        Decision { rule: place, action, open }
    }
}
