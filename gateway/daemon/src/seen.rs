//! Seen: which name a guest just resolved to an address.
//!
//! in: answers that were given to the guest; out: the name for an address it connects to. Owner: one
//! per guest, under a short lock. Kept: the latest answer counts, and only for as long as it is
//! valid and a little longer. It is what DNS said, so a rule by domain means as much as DNS does.
//! Bound: [`limits::SEEN_PER_GUEST_MAX`] addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use outsock_core::address::Instant;
use outsock_core::route::canonical;

use crate::limits;

/// Names by address.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: Mutex<HashMap<IpAddr, (Arc<str>, Instant)>>,
}

impl Seen {
    /// The guest was told these addresses for a name.
    pub(crate) fn note(&self, name: &str, answers: &[(IpAddr, u32)], now: Instant) {
        let name: Arc<str> = name.into();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        for (ip, ttl_seconds) in answers {
            if names.len() >= limits::SEEN_PER_GUEST_MAX {
                names.retain(|_, (_, until)| *until > now);
            }
            if names.len() >= limits::SEEN_PER_GUEST_MAX {
                // All valid: the one that ends first makes room.
                let first = names.iter().min_by_key(|(_, (_, until))| *until);
                if let Some(first) = first.map(|(ip, _)| *ip) {
                    names.remove(&first);
                }
            }
            let until = now.after_ms(u64::from(*ttl_seconds) * 1000 + limits::SEEN_GRACE_MS);
            names.insert(canonical(*ip), (Arc::clone(&name), until));
        }
    }

    /// The name of an address.
    pub(crate) fn name_of(&self, ip: IpAddr, now: Instant) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&ip).filter(|(_, until)| *until > now).map(|(name, _)| name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_name_counts_for_as_long_as_it_is_valid() {
        let seen = Seen::default();
        let ip: IpAddr = "203.0.113.1".parse().unwrap();
        seen.note("old.example", &[(ip, 10)], Instant(0));
        seen.note("new.example", &[(ip, 10)], Instant(1_000));
        let end = 1_000 + 10_000 + limits::SEEN_GRACE_MS;
        assert_eq!(seen.name_of(ip, Instant(end - 1)).as_deref(), Some("new.example"));
        assert_eq!(seen.name_of(ip, Instant(end)), None);
    }

    #[test]
    fn a_flood_of_names_stays_within_its_bound() {
        let seen = Seen::default();
        for n in 0..2 * u32::try_from(limits::SEEN_PER_GUEST_MAX).unwrap() {
            seen.note("n.example", &[(IpAddr::V4(n.into()), 60)], Instant(u64::from(n)));
        }
        assert_eq!(seen.names.lock().unwrap().len(), limits::SEEN_PER_GUEST_MAX);
    }
}
