//! Throttle: how many bytes a second a supernode passes on.
//!
//! in: a peer, a count of bytes, the time; out: how long to wait before the next ones. Owner: the
//! relay. Kept: over time no peer passes more than its rate, nor all together more than theirs, by at most
//! one order each. Bound: [`limits::THROTTLED_PEERS_MAX`].

use std::collections::HashMap;

use outsock_core::address::Instant;
use outsock_core::bucket::Bucket;
use outsock_peer::PeerKey;

use crate::limits;

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    per_peer: Option<u64>,
    total: Option<Bucket>,
    peers: HashMap<PeerKey, (Bucket, Instant)>,
}

/// A second's worth at once, so that a short message never waits.
fn bucket(rate: u64, now: Instant) -> Bucket {
    Bucket::new(rate, rate, now)
}

impl Throttle {
    /// By rates in bytes per second; `None` = as fast as it goes.
    #[must_use]
    pub fn new(per_peer: Option<u64>, total: Option<u64>, now: Instant) -> Self {
        let total = total.map(|rate| bucket(rate, now));
        Self { per_peer, total, peers: HashMap::new() }
    }

    /// Counts bytes that a peer has passed on; says how many milliseconds to wait.
    pub fn take(&mut self, peer: PeerKey, bytes: u64, now: Instant) -> u64 {
        let all = self.total.as_mut().map_or(0, |total| total.take_in_debt(now, bytes));
        let Some(rate) = self.per_peer else { return all };
        if self.peers.len() >= limits::THROTTLED_PEERS_MAX && !self.peers.contains_key(&peer) {
            let quiet = self.peers.iter().min_by_key(|(key, (_, at))| (*at, **key));
            if let Some(quiet) = quiet.map(|(key, _)| *key) {
                self.peers.remove(&quiet);
            }
        }
        let (own, at) = self.peers.entry(peer).or_insert_with(|| (bucket(rate, now), now));
        *at = now;
        own.take_in_debt(now, bytes).max(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerKey = PeerKey::new([1; 32]);
    const OTHER: PeerKey = PeerKey::new([2; 32]);

    #[test]
    fn a_peer_has_its_rate_and_all_have_theirs() {
        let mut throttle = Throttle::new(Some(1000), Some(1500), Instant(0));
        assert_eq!(throttle.take(ONE, 1000, Instant(0)), 0);
        assert_eq!(throttle.take(ONE, 100, Instant(0)), 100);
        // The other has all of its own, but together they are over.
        assert_eq!(throttle.take(OTHER, 700, Instant(0)), 200);
        assert_eq!(throttle.take(OTHER, 1, Instant(10_000)), 0);
        assert_eq!(Throttle::new(None, None, Instant(0)).take(ONE, u64::MAX, Instant(0)), 0);
    }

    #[test]
    fn over_a_minute_exactly_the_rate_passes() {
        let mut throttle = Throttle::new(Some(1000), None, Instant(0));
        let (mut now, mut passed) = (Instant(0), 0);
        while now < Instant(60_000) {
            passed += 300;
            now = now.after_ms(throttle.take(ONE, 300, now).max(1));
        }
        assert!((60_000..=61_300).contains(&passed), "{passed}");
    }

    #[test]
    fn many_peers_are_bounded() {
        let mut throttle = Throttle::new(Some(1), None, Instant(0));
        for number in 0..limits::THROTTLED_PEERS_MAX as u64 + 3 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            throttle.take(PeerKey::new(key), 1, Instant(number));
        }
        assert_eq!(throttle.peers.len(), limits::THROTTLED_PEERS_MAX);
    }
}
