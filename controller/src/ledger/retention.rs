//! How long what is kept.

/// Rows of minutes are kept for so many hours.
pub const MINUTES_KEPT_HOURS: u32 = 48;

/// For how long an installation keeps the fine grains of its ledger. Sums by the day, and statements, are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Sums by the hour are kept for so many days; then they are added to their days.
    pub hour_days: u32,
    /// Single records are kept for so many days.
    pub record_days: u32,
}

/// Days that may be asked for: a statement can be explained as long as its month's records are there, and corrected for
/// as long as a person remembers it. 27 years: nobody needs a bound, but every number has one.
const DAYS: std::ops::RangeInclusive<u32> = 1..=9_999;

/// A retention that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} are kept for {days} days: it must be from {} to {}", DAYS.start(), DAYS.end())]
pub struct BadRetention {
    what: &'static str,
    days: u32,
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
    fn default() -> Self {
        Self { hour_days: 400, record_days: 35 }
    }
}

impl Retention {
    /// Checks what an operator wrote.
    ///
    /// # Errors
    /// When it cannot be had: the message says what and why.
    pub fn new(hour_days: u32, record_days: u32) -> Result<Self, BadRetention> {
        for (what, days) in [("sums by the hour", hour_days), ("records", record_days)] {
            if !DAYS.contains(&days) {
                return Err(BadRetention { what, days });
            }
        }
        Ok(Self { hour_days, record_days })
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
        let retention = Retention::new(3, 2).unwrap();
        assert_eq!(retention.bounds(10), Bounds::default());
        assert_eq!(retention.bounds(100 * 24 + 23), Bounds { minute: 98 * 1440 + 1380, hour: 97 * 24, record_hour: 98 * 24 });
        assert_eq!(Retention::default().bounds(u32::MAX).hour % 24, 0);
        let error = Retention::new(0, 35).unwrap_err();
        assert_eq!(error.to_string(), "sums by the hour are kept for 0 days: it must be from 1 to 9999");
        assert!(Retention::new(400, 10_000).is_err());
    }
}
