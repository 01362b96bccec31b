//! Capacity that was kept warm, as time spans of instances: each is counted once, however often it is told.

use super::Level;
use super::times::{HOUR_US, MINUTE_US, hour_of, minute_of};
use dormouse_core::record::Subject;
use dormouse_core::usage::Warm;

/// A time in which one instance was kept warm and ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmSpan {
    /// The instance.
    pub subject: Subject,
    /// It goes on from what was counted of the instance before, if anything was: who told of that ended in between.
    pub resumes: bool,
    /// Its beginning, microseconds since 1970 UTC. What was counted of the instance before is not counted again.
    pub from_us: i64,
    /// Its end, not included.
    pub to_us: i64,
}

/// Most minutes of a span that are counted one by one: they are for who looks at what is going on, and 1,000 spans that
/// waited for the ledger are 60,000 rows then.
const MINUTES: i64 = 60;

impl WarmSpan {
    /// Where it begins to count, when the instance was counted up to a time before (0: not at all).
    pub(super) fn begins(&self, counted_us: i64) -> i64 {
        if self.resumes && counted_us > 0 { counted_us } else { self.from_us.max(counted_us) }
    }
}

/// What a span adds to which rows. Milliseconds are those that begin within it: spans that touch add up to what one
/// span over both would be.
pub(super) fn rows(from_us: i64, to_us: i64, (memory_mib, cpu_millis): (u32, u32)) -> Vec<(Level, u32, Warm)> {
    let warm = |from: i64, to: i64| {
        let ms = u128::from((to.div_euclid(1000) - from.div_euclid(1000)).unsigned_abs());
        Warm { mib_ms: ms * u128::from(memory_mib), mcpu_ms: ms * u128::from(cpu_millis), ..Warm::default() }
    };
    let mut rows = Vec::new();
    let minutes_from = from_us.max(to_us.saturating_sub(MINUTES * MINUTE_US));
    for (level, from, step) in [(Level::Hour, from_us, HOUR_US), (Level::Minute, minutes_from, MINUTE_US)] {
        let mut at = from;
        while at < to_us {
            let end = at.div_euclid(step).saturating_add(1).saturating_mul(step).min(to_us);
            let time = if level == Level::Hour { hour_of(at) } else { minute_of(at) };
            rows.push((level, time, warm(at, end)));
            at = end;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(rows: &[(Level, u32, Warm)], level: Level) -> Warm {
        let mut sum = Warm::default();
        rows.iter().filter(|row| row.0 == level).for_each(|row| sum.merge(&row.2));
        sum
    }

    #[test]
    fn a_span_is_cut_at_hours_and_minutes() {
        let from = 7 * HOUR_US - 1_500_000;
        let found: Vec<_> = rows(from, from + 3_000_000, (512, 250)).iter().map(|r| (r.0, r.1, r.2.mib_ms)).collect();
        let (hour, minute) = (|h| (Level::Hour, h, 1500 * 512), |m| (Level::Minute, m, 1500 * 512));
        assert_eq!(found, [hour(6), hour(7), minute(419), minute(420)]);
        assert_eq!(rows(5, 5, (1, 1)), []);
    }

    proptest! {
        #[test]
        fn parts_add_up(from in 0i64..10 * HOUR_US, cut in 0i64..2 * HOUR_US, len in 0i64..2 * HOUR_US) {
            let (middle, to) = (from + cut.min(len), from + len);
            let whole = rows(from, to, (512, 100));
            let parts = [rows(from, middle, (512, 100)), rows(middle, to, (512, 100))].concat();
            prop_assert_eq!(sum(&whole, Level::Hour), sum(&parts, Level::Hour));
            if len <= MINUTES * MINUTE_US {
                prop_assert_eq!(sum(&whole, Level::Minute), sum(&parts, Level::Minute));
            }
            let ms = to.div_euclid(1000) - from.div_euclid(1000);
            prop_assert_eq!(sum(&whole, Level::Hour).mib_ms, ms.unsigned_abs() as u128 * 512);
        }
    }
}
