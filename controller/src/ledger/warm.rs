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
    /// Who told of the instance before has ended: if its last span was open then, this one goes on from there.
    pub resumes: bool,
    /// It goes on behind its end.
    pub open: bool,
    /// Its beginning, microseconds since 1970 UTC. What was counted of the instance before is not counted again.
    pub from_us: i64,
    /// Its end, not included.
    pub to_us: i64,
}

/// Most minutes of a span that are counted one by one: they are for who looks at what is going on, and 1,000 spans that
/// waited for the ledger are 60,000 rows then.
const MINUTES: i64 = 60;

/// Longest time that is bridged between two controllers: nobody can say whether an instance was kept warm in it.
const BRIDGE_US: i64 = HOUR_US;

/// Up to when an instance has been counted, and whether it was kept warm behind that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) until_us: i64,
    pub(super) open: bool,
}

impl WarmSpan {
    /// Where it begins to count, and what is counted with it; `None` when nothing of it is new.
    pub(super) fn count(&self, before: Counted) -> Option<(i64, Counted)> {
        let bridged = self.resumes && before.open && self.from_us - before.until_us <= BRIDGE_US;
        let from_us = if bridged { before.until_us } else { self.from_us.max(before.until_us) };
        let now = Counted { until_us: self.to_us.max(before.until_us), open: self.open };
        (from_us < self.to_us || (before.open && !self.open)).then_some((from_us.min(self.to_us), now))
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
    fn a_span_resumes_only_what_was_open_and_not_long_ago() {
        let text = |text: &str| text.to_owned();
        let subject = Subject {
            function_uid: text("f"),
            namespace: text("n"),
            name: text("n"),
            revision: text("r"),
            tenant: text("n"),
            memory_mib: 1,
            cpu_millis: 1,
            instance: text("i"),
        };
        let span = |resumes, from_us, to_us| WarmSpan { subject: subject.clone(), resumes, open: true, from_us, to_us };
        let counted = |until_us, open| Counted { until_us, open };
        let begins = |span: WarmSpan, before| span.count(before).map(|(from_us, _)| from_us);
        assert_eq!(begins(span(true, 90, 100), counted(50, true)), Some(50));
        assert_eq!(begins(span(true, 90, 100), counted(50, false)), Some(90), "it was not kept any longer");
        assert_eq!(begins(span(true, 90, 100), Counted::default()), Some(90), "it was never counted");
        assert_eq!(begins(span(false, 90, 100), counted(50, true)), Some(90));
        assert_eq!(begins(span(false, 90, 100), counted(95, true)), Some(95), "each moment once");
        assert_eq!(begins(span(false, 90, 100), counted(100, true)), None);
        let later = BRIDGE_US + 51;
        assert_eq!(
            begins(span(true, later, later + 9), counted(50, true)),
            Some(later),
            "nobody can say what was between"
        );
        let ended = WarmSpan { open: false, ..span(false, 90, 100) };
        assert_eq!(ended.count(counted(100, true)), Some((100, counted(100, false))), "its end is noted");
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
