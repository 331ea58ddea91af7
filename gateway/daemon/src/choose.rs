//! Choose: from what a guest asks to the way that its connection takes.
//!
//! in: a guest's wish ([`Wanted`]); out: a [`Chosen`] way, or a refusal with the rule that said so.
//! Kept: an address is decided about before it is dialled, and that very address is dialled; a name
//! is resolved at most once per connection, and each address that it has is decided about by all
//! rules again, so that a name which suddenly leads to the host itself leads nowhere. A name goes to
//! a transport that takes names without being resolved here at all. Bound:
//! [`limits::ADDRESSES_MAX`](crate::limits::ADDRESSES_MAX) addresses.

use std::net::IpAddr;

use outsock_core::route::{Decision, Protocol, Query, RouteTable, RuleAction, WayId};
use outsock_vmrpc::Errno;
use outsock_vmrpc::socket::Asserted;

use crate::config::{Guest, PeerConfig, RouteDetail, Target};
use crate::own::OwnAddresses;
use crate::policy::Policy;

/// Whose rules are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker<'a> {
    /// A guest: the routes.
    Guest(&'a Guest),
    /// Another gateway: what it may dial from here.
    Peer(&'a PeerConfig),
}

impl<'a> Asker<'a> {
    /// Its name in the configuration.
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Guest(guest) => &guest.name,
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Its tags.
    pub(crate) fn tags(self) -> &'a [String] {
        match self {
            Self::Guest(guest) => &guest.tags,
            Self::Peer(_) => &[],
        }
    }

    /// Its rules.
    pub(crate) fn routes(self, policy: &'a Policy) -> &'a RouteTable {
        match self {
            Self::Guest(_) => &policy.config.routes,
            Self::Peer(peer) => &peer.exit,
        }
    }

    fn detail(self, policy: &'a Policy, rule: usize) -> Option<&'a RouteDetail> {
        match self {
            Self::Guest(_) => policy.config.route_details.get(rule),
            Self::Peer(peer) => peer.exit_details.get(rule),
        }
    }

    /// How to call a rule of its.
    pub(crate) fn rule_name(self, policy: &'a Policy, rule: Option<usize>) -> &'a str {
        let detail = rule.and_then(|rule| self.detail(policy, rule));
        detail.map_or("the default", |detail| detail.name.as_str())
    }
}

/// Who wants to go where. At least one of name and address is there.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) asker: Asker<'a>,
    pub(crate) asserted: &'a Asserted,
    pub(crate) protocol: Protocol,
    /// Canonical.
    pub(crate) name: Option<String>,
    /// Canonical.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

/// A way that the rules allow.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The rule.
    pub(crate) rule: usize,
    pub(crate) way: WayId,
    /// What the rule dials instead.
    pub(crate) target: Option<Target>,
    pub(crate) name: Option<String>,
    /// The addresses that this rule allows; `None` = not looked up yet.
    pub(crate) addresses: Option<Vec<IpAddr>>,
    pub(crate) port: u16,
}

/// No way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The rule; `None` = the default.
    pub(crate) rule: Option<usize>,
    pub(crate) errno: Errno,
}

impl Wanted<'_> {
    /// The question that the rules answer, for an address or for the name alone.
    pub(crate) fn query(
        &self,
        address: Option<IpAddr>,
        own: &OwnAddresses,
    ) -> Result<Query<'_>, Errno> {
        let is_own = match address {
            None => false,
            Some(ip) => own.holds(ip).map_err(|error| {
                // Not to know is no permission.
                tracing::error!(%error, "cannot ask the kernel for the host's own addresses");
                Errno::ENETUNREACH
            })?,
        };
        Ok(Query {
            guest: self.asker.name(),
            tags: self.asker.tags(),
            program: self.asserted.program.as_deref(),
            user_id: self.asserted.user_id,
            user_name: self.asserted.user_name.as_deref(),
            protocol: self.protocol,
            name: self.name.as_deref(),
            address,
            own: is_own,
            port: self.port,
        })
    }

    fn decide(
        &self,
        policy: &Policy,
        own: &OwnAddresses,
        address: Option<IpAddr>,
    ) -> Result<Decision, Errno> {
        Ok(self.asker.routes(policy).decide(&self.query(address, own)?))
    }
}

/// Finds the way.
pub(crate) async fn choose(
    policy: &Policy,
    own: &OwnAddresses,
    wanted: &Wanted<'_>,
) -> Result<Chosen, Refused> {
    let failed = |errno| Refused { rule: None, errno };
    let decision = wanted.decide(policy, own, wanted.address).map_err(failed)?;
    let chosen = follow(policy, wanted, &decision);
    let name = match (&chosen, wanted.address, &wanted.name) {
        (Ok(chosen), None, Some(_)) if needs_no_address(policy, chosen) => None,
        (Err(_), None, Some(_)) if !decision.open => None,
        (Ok(_) | Err(_), None, Some(name)) => Some(name),
        (Ok(_) | Err(_), _, _) => None,
    };
    match name {
        Some(name) => by_addresses(policy, own, wanted, name, chosen).await,
        None => chosen,
    }
}

/// Whether the way can be dialled without an address.
fn needs_no_address(policy: &Policy, chosen: &Chosen) -> bool {
    chosen.target.is_some() || policy.way(chosen.way).is_some_and(|way| way.takes_names())
}

fn follow(policy: &Policy, wanted: &Wanted<'_>, decision: &Decision) -> Result<Chosen, Refused> {
    match (decision.action, decision.rule) {
        (RuleAction::Refuse(errno), rule) => Err(Refused { rule, errno }),
        // The default never opens anything.
        (RuleAction::Via(_), None) => Err(Refused { rule: None, errno: Errno::EACCES }),
        (RuleAction::Via(way), Some(rule)) => {
            let detail = wanted.asker.detail(policy, rule);
            Ok(Chosen {
                rule,
                way,
                target: detail.and_then(|detail| detail.target.clone()),
                name: wanted.name.clone(),
                addresses: wanted.address.map(|address| vec![address]),
                port: wanted.port,
            })
        }
    }
}

/// Decides about every address of the name. The first that may be dialled decides the way; others
/// of the same rule are there to fall back on.
async fn by_addresses(
    policy: &Policy,
    own: &OwnAddresses,
    wanted: &Wanted<'_>,
    name: &str,
    by_name: Result<Chosen, Refused>,
) -> Result<Chosen, Refused> {
    let addresses = policy.upstream.addresses(name).await;
    let mut found: Option<Chosen> = None;
    let mut refused: Option<Refused> = None;
    for address in &addresses {
        let failed = |errno| Refused { rule: None, errno };
        let decision = wanted.decide(policy, own, Some(*address)).map_err(failed)?;
        match (follow(policy, wanted, &decision), &mut found) {
            (Ok(mut chosen), None) => {
                chosen.addresses = Some(vec![*address]);
                found = Some(chosen);
            }
            (Ok(chosen), Some(found)) if chosen.rule == found.rule => {
                found.addresses.get_or_insert_default().push(*address);
            }
            (Ok(_), Some(_)) => {}
            (Err(refusal), _) => refused = refused.or(Some(refusal)),
        }
    }
    match (found, refused, by_name) {
        (Some(chosen), _, _) => Ok(chosen),
        (None, Some(refusal), _) => Err(refusal),
        // The name has no address here. A group may still have a member that takes it.
        (None, None, Ok(chosen)) => Ok(Chosen { addresses: Some(Vec::new()), ..chosen }),
        (None, None, Err(refusal)) => Err(refusal),
    }
}
