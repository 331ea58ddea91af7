//! Bucket: so many per second, with a burst.
//!
//! in: how many are wanted, and the time; out: yes, no, or how long to wait. Plain data. Kept: over
//! any stretch of time no more passes than the burst and the rate allow ([`Bucket::take`]), or no
//! more than one order beyond it ([`Bucket::take_in_debt`]).

use crate::address::Instant;

/// A token bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: u64,
    burst: u64,
    /// Thousandths of what may pass now; below zero, what has passed too early.
    level: i128,
    at: Instant,
}

impl Bucket {
    /// A full bucket. A burst of 0 would never let anything pass, so it is at least 1.
    pub fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        let burst = burst.max(1);
        Self { per_second, burst, level: i128::from(burst) * 1000, at: now }
    }

    /// Takes one, if it is there.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.level >= 1000;
        if there {
            self.level -= 1000;
        }
        there
    }

    /// Takes `n` in any case, and says how many milliseconds to wait before the next time.
    pub fn take_in_debt(&mut self, now: Instant, n: u64) -> u64 {
        self.refill(now);
        self.level -= i128::from(n) * 1000;
        if self.level >= 0 {
            return 0;
        }
        let per_ms = i128::from(self.per_second.max(1));
        u64::try_from((-self.level + per_ms - 1) / per_ms).unwrap_or(u64::MAX)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.0.saturating_sub(self.at.0);
        self.at = self.at.max(now);
        // Thousandths per millisecond are units per second.
        let more = i128::from(passed) * i128::from(self.per_second);
        self.level = (self.level + more).min(i128::from(self.burst) * 1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 3, Instant(0));
        assert_eq!((0..5).filter(|_| bucket.take(Instant(0))).count(), 3);
        assert!(!bucket.take(Instant(99)));
        assert!(bucket.take(Instant(100)));
        assert_eq!((0..50).filter(|_| bucket.take(Instant(60_000))).count(), 3);
        // A clock that stands still or is read out of order gives nothing away.
        assert!(!bucket.take(Instant(10)));
    }

    #[test]
    fn debt_is_waited_for() {
        let mut bucket = Bucket::new(1000, 100, Instant(0));
        assert_eq!(bucket.take_in_debt(Instant(0), 100), 0);
        assert_eq!(bucket.take_in_debt(Instant(0), 500), 500);
        assert_eq!(bucket.take_in_debt(Instant(500), 1), 1);
    }
}
