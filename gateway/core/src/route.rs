//! Routes: which way a connection takes, or why it is refused.
//!
//! in: who wants to go where ([`Query`]); out: a [`Decision`] that names the rule. Pure data, no
//! names of transports: the daemon gives them numbers. First match wins; no match is the default.
//! Keeps: an address of the host itself, or of its neighbourhood (loopback, link-local, metadata
//! services, multicast, in every spelling), is reached only by a rule that names such a range
//! itself, never by one that merely covers it, such as `0.0.0.0/0`. Bound:
//! [`crate::limits::ROUTES_MAX`].
//!
//! | Module | What it holds |
//! |---|---|
//! | `cidr`, `ports`, `pattern` | what a condition compares with |
//! | `condition` | lists with `!` |
//! | `rule` | one rule, one question |
//! | `protect` | the ranges of the host and its neighbourhood |
//! | `index`, `table` | all rules, in order, found fast |

mod cidr;
mod condition;
mod index;
mod pattern;
mod ports;
mod protect;
mod rule;
mod table;
#[cfg(test)]
mod tests;

pub use cidr::{BadCidr, Cidr};
pub use condition::{Condition, Entry};
pub use pattern::{BadPattern, DomainPattern, Glob, GuestPattern, UserPattern, canonical_name};
pub use ports::{BadPortRange, PortRange};
pub use protect::{canonical, embedded, protected_range};
pub use rule::{Mismatch, Protocol, Query, Rule, RuleAction, WayId};
pub use table::{Decision, RouteTable, Tried};
