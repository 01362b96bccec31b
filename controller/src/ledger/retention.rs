//! How long what is kept.

/// Rows of minutes are kept for so many hours.
pub const MINUTES_KEPT_HOURS: u32 = 48;

/// For how long an installation keeps the fine grains of its ledger, and when it closes months. Sums by the day, and
/// statements, are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Sums by the hour are kept for so many days; then they are added to their days.
    pub hour_days: u32,
    /// Single records are kept for so many days.
    pub record_days: u32,
    /// So many days after its end a month is closed: what comes to it later is corrected by the next statement.
    pub close_after_days: u32,
}

/// Days that may be asked for: a statement can be explained as long as its month's records are there, and corrected for
/// as long as a person remembers it. 27 years: nobody needs a bound, but every number has one.
const DAYS: std::ops::RangeInclusive<u32> = 1..=9_999;

/// A retention that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRetention {
    /// A number of days.
    #[error("{what}: {days} must be from {} to {}", DAYS.start(), DAYS.end())]
    Days {
        /// Of what.
        what: &'static str,
        /// How many.
        days: u32,
    },
    /// Records whose hours are gone cannot be explained by sums.
    #[error("sums by the hour are kept for {hour_days} days: records must not be kept for longer ({record_days})")]
    Hours {
        /// Days of hours.
        hour_days: u32,
        /// Days of records.
        record_days: u32,
    },
}

/// What is kept no longer: nothing of what lies before. All are kept by who says so: they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Sums by the minute, minutes since 1970 UTC.
    pub(super) minute: u32,
    /// Sums by the hour, hours since 1970 UTC: the beginning of a day.
    pub(super) hour: u32,
    /// Single records, by the hour they are billed in: the beginning of a day.
    pub(super) record_hour: u32,
}

impl Default for Retention {
    /// Thirteen months of hours, with the longest month twice: 365 + 31 + 4 days to close the first. Five weeks of records.
    /// Three days to close a month: an activator whose node is away for a weekend is in time.
    fn default() -> Self {
        Self { hour_days: 400, record_days: 35, close_after_days: 3 }
    }
}

impl Retention {
    /// Checks what an operator wrote.
    ///
    /// # Errors
    /// When it cannot be had: the message says what and why.
    pub fn checked(self) -> Result<Self, BadRetention> {
        let Self { hour_days, record_days, close_after_days } = self;
        let all = [
            ("days for which sums by the hour are kept", hour_days),
            ("days for which records are kept", record_days),
            ("days after which a month is closed", close_after_days),
        ];
        match all.into_iter().find(|(_, days)| !DAYS.contains(days)) {
            Some((what, days)) => Err(BadRetention::Days { what, days }),
            None if hour_days < record_days => Err(BadRetention::Hours { hour_days, record_days }),
            None => Ok(self),
        }
    }

    /// What is kept no longer, seen from an hour since 1970 UTC.
    pub(super) fn bounds(self, now: u32) -> Bounds {
        let days_before = |days: u32| (now / 24).saturating_sub(days) * 24;
        Bounds {
            minute: now.saturating_sub(MINUTES_KEPT_HOURS).saturating_mul(60),
            hour: days_before(self.hour_days),
            record_hour: days_before(self.record_days),
        }
    }
}

impl Bounds {
    /// The later of each: what is gone stays gone.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            minute: self.minute.max(other.minute),
            hour: self.hour.max(other.hour),
            record_hour: self.record_hour.max(other.record_hour),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_whole_days_and_never_before_1970() {
        let retention = Retention { hour_days: 3, record_days: 2, ..Retention::default() };
        assert_eq!(retention.bounds(10), Bounds::default());
        assert_eq!(
            retention.bounds(100 * 24 + 23),
            Bounds { minute: 98 * 1440 + 1380, hour: 97 * 24, record_hour: 98 * 24 }
        );
        assert_eq!(Retention::default().bounds(u32::MAX).hour % 24, 0);
        let error = Retention { hour_days: 0, ..retention }.checked().unwrap_err();
        assert_eq!(error.to_string(), "days for which sums by the hour are kept: 0 must be from 1 to 9999");
        assert!(Retention { record_days: 10_000, ..retention }.checked().is_err());
        assert!(Retention { record_days: 4, ..retention }.checked().is_err());
        assert_eq!(Retention::default().checked(), Ok(Retention::default()));
    }
}
