//! Ways: transports and groups of them, what a route's `via` may name.
//!
//! in: the `[[group]]` tables, and the transports; out: checked values, numbered in one row: transports
//! first, then groups. Bounds: [`limits::GROUPS_MAX`], [`limits::GROUP_MEMBERS_MAX`].

use std::collections::HashMap;
use std::time::Duration;

use outsock_core::group::Policy;
use outsock_core::route::WayId;

use super::error::{ConfigError, Place};
use super::raw;
use super::text::HostPort;
use super::transports::TransportConfig;
use crate::limits;

/// Several transports to one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupConfig {
    pub(crate) name: String,
    /// Places in the list of transports.
    pub(crate) members: Vec<usize>,
    pub(crate) policy: Policy,
    /// How long one member may take before the next is tried.
    pub(crate) member_timeout: Duration,
    /// What to dial to see whether a member works.
    pub(crate) check: Option<HostPort>,
    pub(crate) check_interval: Duration,
}

/// The numbers of all ways, by name.
pub(super) fn numbers<'a>(
    transports: &'a [TransportConfig],
    groups: &'a [GroupConfig],
) -> HashMap<&'a str, WayId> {
    let transports = transports.iter().map(|transport| transport.name.as_str());
    let names = transports.chain(groups.iter().map(|group| group.name.as_str()));
    names.zip(0..).map(|(name, number)| (name, WayId(number))).collect()
}

pub(super) fn groups(
    raw: &[raw::Group],
    transports: &[TransportConfig],
    place: Place<'_>,
) -> Result<Vec<GroupConfig>, ConfigError> {
    let mut groups: Vec<GroupConfig> = Vec::new();
    if let Some(extra) = raw.get(limits::GROUPS_MAX) {
        return Err(place.at(extra.name.span(), "too many groups"));
    }
    for group in raw {
        let name = group.name.get_ref();
        let taken = transports.iter().any(|transport| transport.name == *name);
        if taken || groups.iter().any(|other| other.name == *name) {
            let message = "a transport or another group has the same name";
            return Err(place.at(group.name.span(), message));
        }
        groups.push(one_group(group, transports, place)?);
    }
    Ok(groups)
}

fn one_group(
    group: &raw::Group,
    transports: &[TransportConfig],
    place: Place<'_>,
) -> Result<GroupConfig, ConfigError> {
    let mut members = Vec::new();
    for member in group.members.get_ref() {
        let found = transports.iter().position(|transport| transport.name == *member.get_ref());
        let Some(found) = found else {
            let message = format!(
                "there is no transport named {:?} for this group; there are: {}",
                member.get_ref(),
                list(transports.iter().map(|transport| transport.name.as_str()))
            );
            return Err(place.at(member.span(), &message));
        };
        if members.contains(&found) {
            return Err(place.at(member.span(), "the group has this member already"));
        }
        members.push(found);
    }
    if !(1..=limits::GROUP_MEMBERS_MAX).contains(&members.len()) {
        let message = format!("a group has 1 to {} members", limits::GROUP_MEMBERS_MAX);
        return Err(place.at(group.members.span(), &message));
    }
    let check = group.check.as_ref().map(|check| check.get_ref().0.clone());
    let policy = match group.policy {
        raw::Policy::Failover => Policy::Failover,
        raw::Policy::Latency if check.is_none() => {
            let message = "policy = \"latency\" needs check = \"NAME:PORT\" to measure against";
            return Err(place.at(group.name.span(), message));
        }
        raw::Policy::Latency => Policy::Latency { tolerance_ms: group.tolerance_ms },
    };
    let interval = *group.check_interval_ms.get_ref();
    if interval < limits::GROUP_CHECK_INTERVAL_MS_MIN {
        let least = limits::GROUP_CHECK_INTERVAL_MS_MIN;
        let message = format!("checks are at least {least} ms apart");
        return Err(place.at(group.check_interval_ms.span(), &message));
    }
    Ok(GroupConfig {
        name: group.name.get_ref().clone(),
        members,
        policy,
        member_timeout: Duration::from_millis(group.member_timeout_ms),
        check,
        check_interval: Duration::from_millis(interval),
    })
}

/// Names for a message.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
