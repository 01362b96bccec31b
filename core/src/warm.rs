//! Warm capacity by the clock: windows that open by a cron expression, and how long before an opening instances are to be
//! started so that they are ready by it.
//!
//! Cron is the five fields that crontab(5) has, in the window's own time zone: see [`crate::cron`].

use crate::cron::Rule;
use crate::function::WarmWindow;
use crate::valid::Fault;
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// The windows of one function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Windows(Vec<Window>);

#[derive(Clone, Debug, PartialEq)]
struct Window {
    rule: Rule,
    lasts: SignedDuration,
    calls: u32,
}

/// How many calls at once are to be warm, and until when that is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Calls at once.
    pub calls: u32,
    /// When to ask again; `None`: it never changes.
    pub until: Option<Timestamp>,
}

impl Windows {
    /// Reads what a manifest says.
    ///
    /// # Errors
    /// Every fault, by its path below `spec`.
    pub fn read(windows: &[WarmWindow]) -> Result<Self, Vec<Fault>> {
        let (mut read, mut faults, mut names) = (Vec::new(), Vec::new(), HashSet::new());
        for (i, window) in windows.iter().enumerate() {
            let path = |field: &str| format!("spec.warmUp[{i}].{field}");
            if !names.insert(window.name.as_str()) {
                faults.push(Fault::new(path("name"), format!("{:?} is there twice: rename one", window.name)));
            }
            match Rule::read(&window.cron, window.time_zone.as_deref(), false) {
                Ok(rule) => {
                    let lasts = SignedDuration::from_secs(window.duration_seconds.into());
                    read.push(Window { rule, lasts, calls: u32::try_from(window.concurrency).unwrap_or(0) });
                }
                Err((cron, zone)) => {
                    faults.extend(cron.map(|why| Fault::new(path("cron"), why)));
                    faults.extend(zone.map(|why| Fault::new(path("timeZone"), why)));
                }
            }
        }
        if faults.is_empty() { Ok(Self(read)) } else { Err(faults) }
    }

    /// The level at `now`, when instances are started so long before an opening. Windows that overlap give the highest.
    #[must_use]
    pub fn level(&self, now: Timestamp, lead: Duration) -> Level {
        let lead = SignedDuration::try_from(lead).unwrap_or(SignedDuration::ZERO);
        let ahead = now.saturating_add(lead).unwrap_or(now);
        let (mut calls, mut until) = (0, None::<Timestamp>);
        for window in &self.0 {
            let begun = window.rule.before(ahead);
            let ends = begun.and_then(|begun| begun.checked_add(window.lasts).ok()).filter(|ends| now < *ends);
            if ends.is_some() {
                calls = calls.max(window.calls);
            }
            let next = window.rule.after(ahead).and_then(|at| at.checked_sub(lead).ok());
            until = [until, ends, next].into_iter().flatten().min();
        }
        Level { calls, until }
    }

    /// The most calls of any window.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.0.iter().map(|window| window.calls).max().unwrap_or(0)
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How long a function's instances took to start, and what follows for the next opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts(VecDeque<Duration>);

/// Starts that are remembered.
const MAX_STARTS: usize = 32;
/// What is expected of a function that was never started: its image may have to be pulled.
const UNKNOWN: Duration = Duration::from_secs(15);
/// On top of twice the longest (a busy node, an image that is pulled anew): the controller's and the scheduler's own time.
const MARGIN: Duration = Duration::from_secs(1);
/// The longest lead: an instance that takes longer than this is not waited for by a clock.
const MAX_LEAD: Duration = Duration::from_secs(600);

impl Starts {
    /// An instance took so long from when it was asked for until its port was open.
    pub fn took(&mut self, time: Duration) {
        if self.0.len() == MAX_STARTS {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// How long before an opening instances are to be asked for.
    #[must_use]
    pub fn lead(&self) -> Duration {
        let longest = self.0.iter().max().copied().unwrap_or(UNKNOWN);
        (longest * 2 + MARGIN).min(MAX_LEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(name: &str, cron: &str, zone: &str, seconds: i32, concurrency: i32) -> WarmWindow {
        let (name, cron, time_zone) = (name.into(), cron.into(), Some(zone.into()));
        WarmWindow { name, cron, time_zone, duration_seconds: seconds, concurrency }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next openings after an instant.
    fn openings(cron: &str, zone: &str, after: &str, n: usize) -> Vec<String> {
        let windows = Windows::read(&[window("w", cron, zone, 1, 1)]).unwrap();
        let mut now = at(after);
        let mut found = Vec::new();
        while found.len() < n {
            let level = windows.level(now, Duration::ZERO);
            now = level.until.unwrap();
            if level.calls == 0 {
                found.push(now.to_string());
            }
        }
        found
    }

    /// Around the days on which clocks were put forward and back, or never are.
    #[test]
    fn ten_zones() {
        for (zone, cron, after, expected) in [
            // 02:30 does not exist on 2026-03-29: the window opens at 03:00, when the gap is over.
            ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
            // 02:30 comes twice on 2026-10-25: the first one counts.
            ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
            ("Europe/London", "30 1 * * *", "2026-03-28T12:00:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
            (
                "America/New_York",
                "30 2 * * *",
                "2026-03-07T12:00:00Z",
                ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
            ),
            (
                "America/Sao_Paulo",
                "0 9 * * *",
                "2026-10-17T00:00:00Z",
                ["2026-10-17T12:00:00Z", "2026-10-18T12:00:00Z"],
            ),
            ("Asia/Shanghai", "0 8 * * *", "2026-03-28T12:00:00Z", ["2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"]),
            ("Asia/Kolkata", "0 8 * * *", "2026-03-28T12:00:00Z", ["2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"]),
            // Half an hour of summer time, back on 2026-04-05 at 02:00 (11:00 -> 10:30).
            (
                "Australia/Lord_Howe",
                "0 9 * * *",
                "2026-04-03T00:00:00Z",
                ["2026-04-03T22:00:00Z", "2026-04-04T22:30:00Z"],
            ),
            (
                "Pacific/Auckland",
                "30 2 * * *",
                "2026-09-26T00:00:00Z",
                ["2026-09-26T14:00:00Z", "2026-09-27T13:30:00Z"],
            ),
            ("America/Phoenix", "30 2 * * *", "2026-03-07T12:00:00Z", ["2026-03-08T09:30:00Z", "2026-03-09T09:30:00Z"]),
            ("UTC", "0 0 29 2 *", "2026-03-01T00:00:00Z", ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
        ] {
            assert_eq!(openings(cron, zone, after, 2), expected, "{zone} {cron}");
        }
    }

    #[test]
    fn it_opens_ahead_and_closes_on_time() {
        let windows = Windows::read(&[window("day", "0 8 * * *", "UTC", 3600, 5)]).unwrap();
        let lead = Duration::from_secs(30);
        let level = |t: &str| windows.level(at(t), lead);
        assert_eq!(level("2026-01-01T07:00:00Z"), Level { calls: 0, until: Some(at("2026-01-01T07:59:30Z")) });
        assert_eq!(level("2026-01-01T07:59:29Z").calls, 0);
        assert_eq!(level("2026-01-01T07:59:30Z"), Level { calls: 5, until: Some(at("2026-01-01T09:00:00Z")) });
        assert_eq!(level("2026-01-01T08:59:59Z").calls, 5);
        assert_eq!(level("2026-01-01T09:00:00Z"), Level { calls: 0, until: Some(at("2026-01-02T07:59:30Z")) });
        assert_eq!(Windows::default().level(at("2026-01-01T09:00:00Z"), lead), Level { calls: 0, until: None });
    }

    #[test]
    fn the_highest_of_several_counts() {
        let both = [window("a", "0 8 * * *", "UTC", 7200, 2), window("b", "0 9 * * *", "UTC", 7200, 5)];
        let windows = Windows::read(&both).unwrap();
        let calls = |t: &str| windows.level(at(t), Duration::ZERO).calls;
        assert_eq!(["08:30", "09:30", "10:30", "11:30"].map(|t| calls(&format!("2026-01-01T{t}:00Z"))), [2, 5, 5, 0]);
        assert_eq!(windows.most(), 5);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let bad = [window("a", "nonsense", "UTC", 1, 1), window("a", "0 8 * * *", "Mars/Base", 1, 1)];
        let faults: Vec<String> = Windows::read(&bad).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("spec.warmUp[0].cron: \"nonsense\" is no cron expression"), "{faults:?}");
        assert!(faults[1].starts_with("spec.warmUp[1].name: \"a\" is there twice"), "{faults:?}");
        assert!(faults[2].starts_with("spec.warmUp[1].timeZone: \"Mars/Base\" is no IANA time zone"), "{faults:?}");
        for more in ["* * * * * *", "0 8 * * * 2026", ""] {
            assert!(Windows::read(&[window("a", more, "UTC", 1, 1)]).is_err(), "{more:?}");
        }
    }

    proptest! {
        /// Starts of one function vary by some factor about what they usually take; now and then one is much longer.
        #[test]
        fn openings_are_met(usual_ms in 50_u64..20_000, spread in 1.0_f64..3.0, seed in any::<u64>()) {
            let mut state = seed;
            let mut random = || {
                // SplitMix64.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) as f64 / u64::MAX as f64
            };
            let mut starts = Starts::default();
            let mut met = 0;
            for _ in 0..2000 {
                let rare = if random() < 0.01 { 2.0 } else { 1.0 };
                let took = Duration::from_secs_f64(usual_ms as f64 / 1000.0 * spread.powf(random()) * rare);
                met += u32::from(took <= starts.lead());
                starts.took(took);
            }
            prop_assert!(met >= 1990, "{met} of 2000 openings were met");
        }
    }
}
