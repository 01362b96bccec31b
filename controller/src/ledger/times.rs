//! When a call is counted.

/// Microseconds in an hour.
pub(super) const HOUR_US: i64 = 3_600_000_000;
/// Microseconds in a minute.
pub(super) const MINUTE_US: i64 = 60_000_000;
/// Hours from 1970 to the end of the year 9999 (253,402,300,800 s / 3600): what a calendar can show.
pub(super) const MAX_HOUR: u32 = 70_389_528 - 1;

/// The hour a call is billed in. A clock far off is counted in the first or last hour rather than refused: a refused
/// frame would hold up everything behind it.
pub(super) fn hour_of(received_at_us: i64) -> u32 {
    let hour = received_at_us.div_euclid(HOUR_US).clamp(0, i64::from(MAX_HOUR));
    u32::try_from(hour).unwrap_or(MAX_HOUR)
}

/// The day with that hour, days since 1970 UTC.
pub(super) fn day_of(received_at_us: i64) -> u32 {
    hour_of(received_at_us) / 24
}

/// The day that it is.
pub(super) fn today() -> u32 {
    day_of(jiff::Timestamp::now().as_microsecond())
}

/// The minute, by the same rule.
pub(super) fn minute_of(received_at_us: i64) -> u32 {
    let hour = hour_of(received_at_us);
    let within = received_at_us.div_euclid(MINUTE_US).clamp(i64::from(hour) * 60, i64::from(hour) * 60 + 59);
    u32::try_from(within).unwrap_or(hour.saturating_mul(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_an_hour() {
        assert_eq!(hour_of(0), 0);
        assert_eq!(hour_of(HOUR_US - 1), 0);
        assert_eq!(hour_of(HOUR_US), 1);
        assert_eq!(hour_of(-1), 0);
        assert_eq!((hour_of(i64::MIN), hour_of(i64::MAX)), (0, MAX_HOUR));
    }

    #[test]
    fn every_time_has_a_minute_of_its_hour() {
        assert_eq!((minute_of(0), minute_of(MINUTE_US - 1), minute_of(MINUTE_US)), (0, 0, 1));
        for at in [i64::MIN, -1, HOUR_US - 1, HOUR_US, 7 * HOUR_US + 59 * MINUTE_US, i64::MAX] {
            assert_eq!(minute_of(at) / 60, hour_of(at), "{at}");
        }
    }
}
