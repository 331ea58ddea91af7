//! Routes: the rules, and what the daemon knows of each beside its matching.
//!
//! in: the `[[route]]` tables; out: rules for the core's table, and a [`RouteDetail`] for each.
//! Bound: [`outsock_core::limits::ROUTES_MAX`].

use std::collections::HashMap;
use std::path::Path;

use outsock_core::route::{Condition, Entry, Rule, RuleAction, WayId};
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::raw;
use super::text::{Target, Text};
use super::tls::{self, TlsConfig};
use super::ways::list;

/// A rule beside its matching: how to call it, and where its connections really go.
#[derive(Clone, Debug)]
pub(crate) struct RouteDetail {
    pub(crate) name: String,
    pub(crate) target: Option<Target>,
    pub(crate) tls: Option<TlsConfig>,
    /// For the transport.
    pub(crate) options: std::sync::Arc<[(String, String)]>,
}

/// Checks the rules. `own` are the gateway's own socket files, which no rule opens.
pub(super) fn check(
    raw: &[Spanned<raw::Route>],
    ways: &HashMap<&str, WayId>,
    own: &[&Path],
    place: Place<'_>,
) -> Result<(Vec<Rule>, Vec<RouteDetail>), ConfigError> {
    if let Some(extra) = raw.get(outsock_core::limits::ROUTES_MAX) {
        return Err(place.at(extra.span(), "too many routes"));
    }
    let mut rules = Vec::new();
    let mut details = Vec::new();
    for (number, spanned) in raw.iter().enumerate() {
        let route = spanned.get_ref();
        rules.push(rule(route, action(spanned, ways, place)?));
        let target = target(route, own, place)?;
        let name = route.name.clone().unwrap_or_else(|| format!("route {}", number + 1));
        let tls = tls::check(route, place)?;
        details.push(RouteDetail {
            name,
            target,
            tls,
            options: route.options.clone().into_iter().collect(),
        });
    }
    Ok((rules, details))
}

fn rule(route: &raw::Route, action: RuleAction) -> Rule {
    fn all<T: Clone>(entries: &[Text<Entry<T>>]) -> Condition<T> {
        entries.iter().map(|entry| entry.0.clone()).collect()
    }
    Rule {
        guests: all(&route.guests),
        programs: all(&route.programs),
        users: all(&route.users),
        protocol: route.protocol.as_ref().map(|protocol| protocol.0),
        to: all(&route.to),
        domains: all(&route.domains),
        ports: all(&route.ports),
        action,
    }
}

fn action(
    spanned: &Spanned<raw::Route>,
    ways: &HashMap<&str, WayId>,
    place: Place<'_>,
) -> Result<RuleAction, ConfigError> {
    let route = spanned.get_ref();
    match (&route.via, &route.refuse) {
        (Some(via), None) => match ways.get(via.get_ref().as_str()) {
            Some(&id) => Ok(RuleAction::Via(id)),
            None => {
                let mut names: Vec<_> = ways.iter().collect();
                names.sort_by_key(|(_, id)| id.0);
                let message = format!(
                    "there is no transport named {:?}, and no group; there are: {}",
                    via.get_ref(),
                    list(names.into_iter().map(|(name, _)| *name))
                );
                Err(place.at(via.span(), &message))
            }
        },
        (None, Some(errno)) => Ok(RuleAction::Refuse(errno.get_ref().0)),
        (None, None) => {
            let message = "a route needs via = \"TRANSPORT\" or refuse = \"ERRNO\"";
            Err(place.at(spanned.span(), message))
        }
        (Some(_), Some(refuse)) => {
            Err(place.at(refuse.span(), "a route has either via or refuse, not both"))
        }
    }
}

fn target(
    route: &raw::Route,
    own: &[&Path],
    place: Place<'_>,
) -> Result<Option<Target>, ConfigError> {
    let Some(target) = &route.target else { return Ok(None) };
    if route.refuse.is_some() {
        return Err(place.at(target.span(), "a route that refuses has no target"));
    }
    match &target.get_ref().0 {
        Target::Unix(path) if own.contains(&path.as_path()) => {
            Err(place.at(target.span(), "this is the gateway's own socket: no guest may reach it"))
        }
        found => Ok(Some(found.clone())),
    }
}
