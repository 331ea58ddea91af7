//! UnixTime: seconds since 1970, for what is signed and lives longer than a process.
//!
//! in: the host's clock, read by the caller; out: comparisons that forgive a wrong clock. Plain data.
//! Kept: a clock that is wrong by [`limits::SKEW_S`](crate::limits::SKEW_S) makes no difference; one that
//! is wrong by more is named in the error.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::limits::SKEW_S;

/// A moment of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// So many seconds later.
    #[must_use]
    pub fn after_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` until this; 0 where it is not earlier.
    #[must_use]
    pub fn since_s(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this lies in the future, also for a clock that is somewhat slow.
    #[must_use]
    pub fn is_future(self, now: Self) -> bool {
        self.since_s(now) > SKEW_S
    }

    /// Whether this has passed, also for a clock that is somewhat fast.
    #[must_use]
    pub fn has_passed(self, now: Self) -> bool {
        now.since_s(self) > SKEW_S
    }
}

impl From<SystemTime> for UnixTime {
    /// A clock before 1970 is 1970: everything is in its future, and says so.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs()))
    }
}

impl fmt::Display for UnixTime {
    /// As `2026-11-24 14:05:09 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        // Days since 0000-03-01, in eras of 400 years; the source is Hinnant's civil_from_days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_800_000_000, "2027-01-15 08:00:00 UTC"),
        ] {
            assert_eq!(UnixTime(seconds).to_string(), text);
        }
        let _ = UnixTime(u64::MAX).to_string();
    }

    #[test]
    fn five_minutes_are_forgiven() {
        let now = UnixTime(1_000_000);
        assert!(!now.after_s(300).is_future(now) && now.after_s(301).is_future(now));
        assert!(!now.has_passed(now.after_s(300)) && now.has_passed(now.after_s(301)));
    }
}
