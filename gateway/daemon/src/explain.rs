//! Explain: which rules a connection would meet, and which one would decide.
//!
//! in: a guest and a destination, of a file or of the running gateway; out: the rules tried with a
//! word about each, and the decision. Kept: the decision is the one that a connect would get, by the
//! same code. Nothing is dialled. Bound: [`limits::EXPLAIN_RULES_MAX`] rules are listed.

use std::net::IpAddr;

use outsock_core::route::{Protocol, RuleAction, canonical};
use outsock_vmrpc::socket::Asserted;
use serde::{Deserialize, Serialize};

use crate::choose::{Asker, Chosen, Refused, Wanted, choose};
use crate::config::{Guest, HostPort, Target};
use crate::limits;
use crate::names::{Found, Names};
use crate::own::OwnAddresses;
use crate::policy::Policy;
use crate::registry::Way;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) guest: String,
    /// NAME:PORT or ADDRESS:PORT.
    pub(crate) destination: String,
    pub(crate) program: Option<String>,
    pub(crate) user_id: Option<u32>,
    pub(crate) user_name: Option<String>,
    pub(crate) udp: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    pub(crate) guest: String,
    pub(crate) destination: String,
    /// The name by which the rules were asked.
    pub(crate) name: Option<String>,
    /// The address by which they were asked.
    pub(crate) address: Option<String>,
    /// The rules tried, in order; the last one decided, unless the default did.
    pub(crate) tried: Vec<TriedRule>,
    /// Earlier rules that are not listed; none of them matched.
    pub(crate) left_out: usize,
    /// The rule that decided.
    pub(crate) rule: String,
    /// `via NAME` or `refuse ERRNO`.
    pub(crate) action: String,
    /// `tls` where the rule encrypts.
    pub(crate) encryption: Option<String>,
    /// What is dialled, where that is not the destination.
    pub(crate) target: Option<String>,
    /// What else there is to know.
    pub(crate) notes: Vec<String>,
}

/// One rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TriedRule {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// `matches`, or what it asks for that is not so.
    pub(crate) verdict: String,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("there is no guest named {0:?}; there are: {1}")]
    NoSuchGuest(String, String),
    #[error("{0}")]
    Destination(String),
    #[error("cannot ask the kernel for the host's own addresses: {0}")]
    Own(outsock_vmrpc::Errno),
}

/// Explains. Without `names` and leave to `resolve`, as from a file, a name has no address.
pub(crate) async fn explain(
    policy: &Policy,
    own: &OwnAddresses,
    names: Option<&Names>,
    question: &Question,
) -> Result<Explanation, ExplainError> {
    let guest = guest(policy, &question.guest)?;
    let destination: HostPort = question.destination.parse().map_err(ExplainError::Destination)?;
    let asserted = Asserted {
        program: question.program.clone(),
        pid: None,
        user_id: question.user_id,
        user_name: question.user_name.clone(),
    };
    let mut notes = Vec::new();
    let (name, address, port) = match destination {
        HostPort::Name(name, port) => (Some(name), None, port),
        HostPort::Address(address) => {
            let ip = canonical(address.ip());
            match names.map_or(Found::Outside, |names| names.find(ip)) {
                Found::Name(name) => {
                    notes.push(format!("{ip} is the synthetic address of {name}"));
                    (Some(name), None, address.port())
                }
                Found::Unassigned => {
                    notes.push(format!(
                        "{ip} is a synthetic address that no name has: EHOSTUNREACH"
                    ));
                    (None, Some(ip), address.port())
                }
                Found::Outside => (None, Some(ip), address.port()),
            }
        }
    };
    let protocol = if question.udp { Protocol::Udp } else { Protocol::Tcp };
    let asker = Asker::Guest(guest);
    let wanted = Wanted { asker, asserted: &asserted, protocol, name, address, port };
    let outcome = match names {
        Some(_) => Some(choose(policy, own, &wanted).await),
        None => None,
    };
    let address = asked_address(policy, &wanted, outcome.as_ref(), &mut notes).await;
    lay_out(policy, own, &wanted, address, question, notes)
}

/// What a connection by a peer, or to a guest of this gateway, asks for.
fn peer_note(policy: &Policy, way: &Way<'_>, wanted: &Wanted<'_>) -> Option<String> {
    let Way::Transport(named) = way else { return None };
    let (name, via) = (wanted.name.as_deref(), &named.name);
    match named.transport.kind() {
        "peer" => {
            let service = name.and_then(|name| name.strip_suffix(&format!(".{via}.peer")));
            Some(match service {
                Some(service) => format!("peer {via} is asked for its service {service}"),
                None => format!("peer {via} is asked to dial it: its own exit rules decide"),
            })
        }
        "local" => Some(match name.and_then(|name| policy.peers.service(name)) {
            Some(service) => {
                let offers = policy
                    .config
                    .publishes
                    .iter()
                    .find(|publish| publish.offers(&service, wanted.protocol));
                match offers {
                    Some(publish) => {
                        format!("the service {service} is offered by {}", publish.name)
                    }
                    None => format!("no [[publish]] offers a service {service}"),
                }
            }
            None => "this is no name of a service here: write SERVICE.local.peer".to_owned(),
        }),
        _ => None,
    }
}

fn guest<'a>(policy: &'a Policy, name: &str) -> Result<&'a Guest, ExplainError> {
    policy.guest(name).ok_or_else(|| {
        let names: Vec<_> = policy.config.guests.iter().map(|guest| guest.name.as_str()).collect();
        ExplainError::NoSuchGuest(name.to_owned(), names.join(", "))
    })
}

/// The address by which the rules are laid out: the one that a connect would dial first.
async fn asked_address(
    policy: &Policy,
    wanted: &Wanted<'_>,
    outcome: Option<&Result<Chosen, Refused>>,
    notes: &mut Vec<String>,
) -> Option<IpAddr> {
    if wanted.address.is_some() {
        return wanted.address;
    }
    let name = wanted.name.as_deref()?;
    match outcome {
        None => {
            notes.push(format!(
                "{name} is not looked up from a file: rules with `to` do not match; a running \
                 gateway knows more, and so does this command with an address"
            ));
            None
        }
        // By name alone.
        Some(Ok(Chosen { addresses: None, .. })) => None,
        Some(Ok(Chosen { addresses: Some(addresses), .. })) if !addresses.is_empty() => {
            let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            notes.push(format!("{name} has {}", all.join(", ")));
            addresses.first().copied()
        }
        Some(Ok(_) | Err(_)) => {
            // Refused by name, by each address, or it has none.
            let addresses = policy.upstream.addresses(name).await;
            if addresses.is_empty() {
                notes.push(format!("{name} has no address: the host's resolvers know none"));
            }
            addresses.first().copied()
        }
    }
}

fn lay_out(
    policy: &Policy,
    own: &OwnAddresses,
    wanted: &Wanted<'_>,
    address: Option<IpAddr>,
    question: &Question,
    mut notes: Vec<String>,
) -> Result<Explanation, ExplainError> {
    let query = wanted.query(address, own).map_err(ExplainError::Own)?;
    if query.own {
        notes
            .push("the address is this host's own: only a rule for exactly it opens it".to_owned());
    } else if let Some(range) = query.protected() {
        notes.push(format!(
            "the address is protected: only a rule with `to` inside {range} opens it"
        ));
    }
    let (tried, decision) = policy.config.routes.explain(&query);
    let left_out = tried.len().saturating_sub(limits::EXPLAIN_RULES_MAX);
    let listed = tried.into_iter().skip(left_out).map(|tried| TriedRule {
        number: tried.rule + 1,
        name: policy.config.rule_name(Some(tried.rule)).to_owned(),
        verdict: tried.mismatch.map_or_else(|| "matches".to_owned(), |why| why.to_string()),
    });
    let detail = decision.rule.and_then(|rule| policy.config.route_details.get(rule));
    let target = detail.and_then(|detail| detail.target.as_ref()).map(|target| match target {
        Target::Address(address) => address.to_string(),
        Target::Unix(path) => format!("unix:{}", path.display()),
    });
    let action = match decision.action {
        RuleAction::Via(way) => {
            let way = policy.way(way);
            notes.extend(way.as_ref().and_then(|way| peer_note(policy, way, wanted)));
            format!("via {}", way.as_ref().map_or("nothing", |way| way.name()))
        }
        RuleAction::Refuse(errno) => format!("refuse {errno}"),
    };
    if !question.udp && wanted.name.is_some() {
        let by_name = wanted.name.as_deref().is_some_and(|name| {
            policy.config.routes.routes_by_name(wanted.asker.name(), wanted.asker.tags(), name)
        });
        if by_name {
            notes.push("the guest resolves this name to a synthetic address".to_owned());
        }
    }
    Ok(Explanation {
        guest: question.guest.clone(),
        destination: question.destination.clone(),
        name: wanted.name.clone(),
        address: address.map(|address| address.to_string()),
        tried: listed.collect(),
        left_out,
        rule: policy.config.rule_name(decision.rule).to_owned(),
        action,
        encryption: detail.and_then(|detail| detail.tls.as_ref()).map(|_| "tls".to_owned()),
        target,
        notes,
    })
}
