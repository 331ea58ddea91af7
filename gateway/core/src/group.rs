//! Group: several ways to one end, and which of them to try first.
//!
//! in: how checks and dials ended, and the time; out: the order in which to try the members. Plain
//! data; the daemon dials. Keeps: a member that fails is left in peace for a while that grows
//! ([`limits::GROUP_BACK_OFF_MS`]); where members are not checked by the gateway itself, one guest's
//! failures count for that guest only, so that nobody can talk a member down for others; the
//! fastest member changes only for one that is faster by more than the tolerance.

use std::collections::HashMap;

use crate::address::Instant;
use crate::limits;

/// How the members are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As they stand in the configuration.
    Failover,
    /// The fastest first; it stays first while no other is faster by more than this.
    Latency {
        /// Milliseconds.
        tolerance_ms: u64,
    },
}

/// A member, by its place in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(pub usize);

/// How long something that failed is left in peace.
#[derive(Clone, Copy, Debug, Default)]
struct BackOff {
    failures: u32,
    until: Instant,
}

impl BackOff {
    fn fail(&mut self, now: Instant) {
        let pause = limits::GROUP_BACK_OFF_MS << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        self.until = now.after_ms(pause.min(limits::GROUP_BACK_OFF_MS_MAX));
    }

    fn blocks(&self, now: Instant) -> bool {
        self.failures > 0 && self.until > now
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    back_off: BackOff,
    /// Smoothed, milliseconds.
    latency: Option<u64>,
}

/// A group of ways.
#[derive(Debug)]
pub struct Group {
    policy: Policy,
    checked: bool,
    members: Vec<Health>,
    /// The fastest, by [`Policy::Latency`].
    fastest: Member,
    /// What a guest's own dials say, where nobody checks.
    per_guest: HashMap<(u64, Member), BackOff>,
}

impl Group {
    /// A group of `members`; `checked` when the gateway checks them itself.
    pub fn new(policy: Policy, members: usize, checked: bool) -> Self {
        Self {
            policy,
            checked,
            members: vec![Health::default(); members],
            fastest: Member(0),
            per_guest: HashMap::new(),
        }
    }

    /// In which order to try the members for a guest. All of them: when every one has failed, one
    /// that failed is better than none.
    pub fn order(&self, guest: u64, now: Instant) -> Vec<Member> {
        let mut order: Vec<Member> = (0..self.members.len()).map(Member).collect();
        match self.policy {
            Policy::Failover => {}
            Policy::Latency { .. } => order.sort_by_key(|member| {
                let latency = self.members.get(member.0).and_then(|health| health.latency);
                (*member != self.fastest, latency.unwrap_or(u64::MAX))
            }),
        }
        order.sort_by_key(|member| self.is_blocked(*member, guest, now));
        order
    }

    /// Whether a member is left in peace now.
    pub fn is_blocked(&self, member: Member, guest: u64, now: Instant) -> bool {
        let by_check = self.members.get(member.0).is_some_and(|h| h.back_off.blocks(now));
        let by_guest = self.per_guest.get(&(guest, member)).is_some_and(|b| b.blocks(now));
        by_check || by_guest
    }

    /// What is known of a member's speed.
    pub fn latency_ms(&self, member: Member) -> Option<u64> {
        self.members.get(member.0)?.latency
    }

    /// A check ended: the time that it took, or `None` when it failed.
    pub fn checked(&mut self, member: Member, latency_ms: Option<u64>, now: Instant) {
        let Some(health) = self.members.get_mut(member.0) else { return };
        match latency_ms {
            None => {
                health.back_off.fail(now);
                health.latency = None;
            }
            Some(latency) => {
                health.back_off = BackOff::default();
                // As TCP smooths its round-trip time (RFC 6298), a little faster.
                health.latency =
                    Some(health.latency.map_or(latency, |old| (3 * old + latency) / 4));
            }
        }
        self.choose_fastest();
    }

    /// A guest's dial by this member failed in a way that speaks of the path. `true` when the
    /// member should be checked at once.
    pub fn dial_failed(&mut self, member: Member, guest: u64, now: Instant) -> bool {
        if !self.checked {
            if self.per_guest.len() >= limits::GROUP_GUESTS_MAX {
                self.per_guest.retain(|_, back_off| back_off.blocks(now));
            }
            if self.per_guest.len() < limits::GROUP_GUESTS_MAX {
                self.per_guest.entry((guest, member)).or_default().fail(now);
            }
        }
        self.checked
    }

    /// A guest's dial by this member succeeded.
    pub fn dial_succeeded(&mut self, member: Member, guest: u64) {
        self.per_guest.remove(&(guest, member));
    }

    fn choose_fastest(&mut self) {
        let Policy::Latency { tolerance_ms } = self.policy else { return };
        let by_latency = |(place, health): (usize, &Health)| Some((health.latency?, Member(place)));
        let best = self.members.iter().enumerate().filter_map(by_latency).min();
        let Some((latency, best)) = best else { return };
        let current = self.members.get(self.fastest.0).and_then(|health| health.latency);
        if current.is_none_or(|current| latency.saturating_add(tolerance_ms) < current) {
            self.fastest = best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(group: &Group, guest: u64, now: u64) -> Vec<usize> {
        group.order(guest, Instant(now)).into_iter().map(|member| member.0).collect()
    }

    #[test]
    fn a_failed_member_comes_last_until_its_time_is_over() {
        let mut group = Group::new(Policy::Failover, 3, false);
        assert_eq!(order(&group, 3, 0), [0, 1, 2]);
        assert!(!group.dial_failed(Member(0), 3, Instant(0)));
        assert_eq!(order(&group, 3, 1), [1, 2, 0]);
        assert_eq!(order(&group, 4, 1), [0, 1, 2], "another guest has not seen it fail");
        assert_eq!(order(&group, 3, limits::GROUP_BACK_OFF_MS), [0, 1, 2]);
        // The second failure is waited for twice as long; a success forgives.
        group.dial_failed(Member(0), 3, Instant(0));
        assert_eq!(order(&group, 3, limits::GROUP_BACK_OFF_MS), [1, 2, 0]);
        group.dial_succeeded(Member(0), 3);
        assert_eq!(order(&group, 3, 1), [0, 1, 2]);
        for _ in 0..100 {
            group.dial_failed(Member(0), 3, Instant(0));
        }
        assert_eq!(order(&group, 3, limits::GROUP_BACK_OFF_MS_MAX), [0, 1, 2], "never for ever");
    }

    #[test]
    fn where_members_are_checked_a_guest_cannot_talk_them_down() {
        let mut group = Group::new(Policy::Failover, 2, true);
        assert!(group.dial_failed(Member(0), 3, Instant(0)), "but it is looked after at once");
        assert_eq!(order(&group, 3, 1), [0, 1]);
        group.checked(Member(0), None, Instant(1));
        assert_eq!(order(&group, 3, 2), [1, 0]);
        group.checked(Member(0), Some(5), Instant(3));
        assert_eq!(order(&group, 3, 4), [0, 1]);
    }

    #[test]
    fn the_fastest_changes_only_beyond_the_tolerance() {
        let mut group = Group::new(Policy::Latency { tolerance_ms: 50 }, 3, true);
        group.checked(Member(0), Some(100), Instant(0));
        group.checked(Member(1), Some(60), Instant(0));
        assert_eq!(order(&group, 3, 0), [0, 1, 2], "40 ms are no reason");
        for _ in 0..50 {
            group.checked(Member(2), Some(20), Instant(0));
        }
        assert_eq!(order(&group, 3, 0), [2, 1, 0]);
        // Noise within the tolerance changes nothing.
        for n in 0..100 {
            group.checked(Member(1), Some(5 + n % 30), Instant(0));
            assert_eq!(order(&group, 3, 0)[0], 2);
        }
        group.checked(Member(2), None, Instant(0));
        assert_eq!(order(&group, 3, 1), [1, 0, 2]);
    }
}
