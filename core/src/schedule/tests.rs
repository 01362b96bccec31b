mod model;

use super::*;
use crate::function::Fired;
use std::time::Duration;

pub(super) fn planned(cron: &str, zone: Option<&str>, overlap: Overlap, deadline: Option<i32>) -> Arc<Planned> {
    let schedule = Schedule {
        name: "s".into(),
        cron: cron.into(),
        time_zone: zone.map(Into::into),
        event: "schedule".into(),
        body: None,
        starting_deadline_seconds: deadline,
        overlap,
    };
    Schedules::read(&[schedule]).unwrap().get("s").unwrap().clone()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The due times after an instant.
fn due(cron: &str, zone: &str, after: &str, n: usize) -> Vec<String> {
    let planned = planned(cron, Some(zone), Overlap::Allow, None);
    let times = std::iter::successors(planned.after(at(after)), |at| planned.after(*at));
    times.take(n).map(|at| at.to_string()).collect()
}

#[test]
fn five_fields_six_and_names() {
    for (cron, expected) in [
        ("*/20 * * * *", ["2026-01-01T00:20:00Z", "2026-01-01T00:40:00Z"]),
        ("*/2 * * * * *", ["2026-01-01T00:00:02Z", "2026-01-01T00:00:04Z"]),
        ("30 15 3 * * *", ["2026-01-01T03:15:30Z", "2026-01-02T03:15:30Z"]),
        ("@hourly", ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"]),
        ("@daily", ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]),
        ("@midnight", ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]),
        ("@weekly", ["2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"]),
        ("@monthly", ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
        ("@yearly", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        ("@annually", ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
    ] {
        assert_eq!(due(cron, "UTC", "2026-01-01T00:00:00Z", 2), expected, "{cron}");
    }
}

/// On the days on which clocks are set.
#[test]
fn days_of_23_and_25_hours() {
    let berlin = |cron, after| due(cron, "Europe/Berlin", after, 3);
    // 02:30 does not exist on 2026-03-29: its call is at 03:00, when the gap is over.
    let expected = ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
    assert_eq!(berlin("30 2 * * *", "2026-03-28T12:00:00Z"), expected);
    // 02:30 comes twice on 2026-10-25: one call, at the first.
    let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"];
    assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z"), expected);
    // Each hour is each hour, by whatever name.
    let expected = ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(berlin("@hourly", "2026-10-24T23:00:00Z"), expected);
    // Half an hour is put back on 2026-04-05 at 02:00.
    let expected = ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z", "2026-04-06T15:15:00Z"];
    assert_eq!(due("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 3), expected);
}

#[test]
fn what_cannot_be_read_is_told_all_at_once() {
    let schedule = |name: &str, cron: &str, zone: &str, event: &str| Schedule {
        name: name.into(),
        cron: cron.into(),
        time_zone: Some(zone.into()),
        event: event.into(),
        ..Schedule::default()
    };
    let bad = [
        schedule("a", "nonsense", "Mars/Base", "schedule"),
        schedule("a", "0 0 30 2 *", "UTC", "wärm"),
        schedule("b c", "0 0 * * * 2026", "UTC", ""),
    ];
    let faults: Vec<String> = Schedules::read(&bad).unwrap_err().iter().map(ToString::to_string).collect();
    let begins = [
        "spec.schedules[0].cron: \"nonsense\" is no cron expression",
        "spec.schedules[0].timeZone: \"Mars/Base\" is no IANA time zone",
        "spec.schedules[1].name: \"a\" is there twice",
        "spec.schedules[1].event: \"wärm\" goes into a header",
        "spec.schedules[1].cron: \"0 0 30 2 *\" is never due",
        "spec.schedules[2].name: \"b c\" goes into a header",
        "spec.schedules[2].event: \"\" goes into a header",
        "spec.schedules[2].cron: \"0 0 * * * 2026\" is no cron expression",
    ];
    assert_eq!(faults.len(), begins.len(), "{faults:#?}");
    for (fault, begin) in faults.iter().zip(begins) {
        assert!(fault.starts_with(begin), "{fault}");
    }
    for (body, kind) in
        [("{\"a\": 1}", "application/json"), ("1", "application/json"), ("a: b", "text/plain; charset=utf-8")]
    {
        assert_eq!(content_type(body), kind);
    }
}

/// A state, and a world in which `a` is heard.
struct Bench {
    planned: Arc<Planned>,
    state: State,
    written: Option<crate::function::ScheduleStatus>,
}

impl Bench {
    fn new(overlap: Overlap, now: &str) -> Self {
        let planned = planned("0 * * * *", None, overlap, Some(600));
        let state = State::new(&planned, None, at(now));
        Self { planned, state, written: None }
    }

    fn look(&mut self, now: &str, present: &[&str]) -> Vec<Do> {
        let choice = present.first().map(|name| Arc::from(*name));
        let now = at(now);
        let world = World {
            now,
            moment: Duration::try_from(now.duration_since(at("2026-01-01T00:00:00Z"))).unwrap(),
            present: &|holder| present.contains(&holder),
            choice: choice.as_ref(),
            written: self.written.as_ref(),
            fires: true,
        };
        let look = self.state.look(Some(&self.planned.clone()), &world);
        assert!(look.again_in.is_some_and(|wait| !wait.is_zero()), "{look:?}");
        look.todo
    }

    fn write(&mut self) {
        self.written = Some(self.state.status());
    }

    fn decided(&mut self) -> Vec<(String, Fired, String, u64)> {
        let all = self.state.decided().into_iter();
        all.map(|d| (d.due.to_string(), d.outcome, d.reason.to_string(), d.count)).collect()
    }
}

fn skipped(due: &str, reason: &str, count: u64) -> (String, Fired, String, u64) {
    (due.into(), Fired::Skipped, reason.into(), count)
}

#[test]
fn nothing_is_sent_before_it_is_written() {
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    assert_eq!(bench.look("2026-01-01T00:59:59Z", &["a"]), []);
    assert_eq!(bench.look("2026-01-01T01:00:00Z", &["a"]), []);
    assert!(bench.state.is_to_be_written(bench.written.as_ref()));
    assert_eq!(bench.look("2026-01-01T01:00:01Z", &["a"]), []);
    bench.write();
    let fire = Do::Fire { due: at("2026-01-01T01:00:00Z"), holder: "a".into() };
    assert_eq!(bench.look("2026-01-01T01:00:02Z", &["a"]), [fire]);
    assert_eq!(bench.look("2026-01-01T01:00:03Z", &["a"]), [], "once");
    assert!(!bench.state.is_to_be_written(bench.written.as_ref()));
}

#[test]
fn of_those_that_were_missed_only_the_last_one_may_be_late() {
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    assert_eq!(bench.look("2026-01-01T05:09:00Z", &["a"]), []);
    assert_eq!(bench.decided(), [skipped("2026-01-01T04:00:00Z", "Missed", 4)]);
    assert_eq!(bench.state.open()[0].due, at("2026-01-01T05:00:00Z"));
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    assert_eq!(bench.look("2026-01-01T05:10:01Z", &["a"]), []);
    let both = [skipped("2026-01-01T04:00:00Z", "Missed", 4), skipped("2026-01-01T05:00:00Z", "TooLate", 1)];
    assert_eq!(bench.decided(), both);
    // Years of them cost no more than the last thousand.
    assert_eq!(bench.look("2036-01-01T05:00:00Z", &["a"]), []);
    assert_eq!(bench.decided()[0].3, 1000);
    assert_eq!(bench.state.open()[0].due, at("2036-01-01T05:00:00Z"));
}

#[test]
fn who_is_not_there_is_waited_for_and_another_takes_its_place() {
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    assert_eq!(bench.look("2026-01-01T01:00:00Z", &[]), []);
    assert!(bench.state.open().is_empty());
    bench.look("2026-01-01T01:00:01Z", &["a"]);
    bench.write();
    assert_eq!(bench.look("2026-01-01T01:00:02Z", &["b"]), [], "it is b's now, which is not written");
    bench.write();
    let fire = Do::Fire { due: at("2026-01-01T01:00:00Z"), holder: "b".into() };
    assert_eq!(bench.look("2026-01-01T01:00:03Z", &["b"]), [fire]);
    // Claimed and not sent in time.
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    bench.look("2026-01-01T01:00:01Z", &["a"]);
    assert_eq!(bench.look("2026-01-01T01:10:01Z", &["a"]), []);
    assert_eq!(bench.decided(), [skipped("2026-01-01T01:00:00Z", "TooLate", 1)]);
}

#[test]
fn another_rule_begins_after_now_and_a_schedule_that_is_gone_ends() {
    let mut bench = Bench::new(Overlap::Allow, "2026-01-01T00:30:00Z");
    bench.look("2026-01-01T01:00:00Z", &["a"]);
    let status = bench.state.status();
    let other = planned("0 * * * *", Some("Asia/Kolkata"), Overlap::Allow, None);
    let state = State::new(&other, Some(&status), at("2026-01-05T00:00:00Z"));
    assert_eq!((state.next(), state.open().len()), (Some(at("2026-01-05T00:30:00Z")), 1));
    let same = State::new(&bench.planned, Some(&status), at("2026-01-05T00:00:00Z"));
    assert_eq!(same.next(), Some(at("2026-01-01T02:00:00Z")));
    let world = World {
        now: at("2026-01-01T01:00:01Z"),
        moment: Duration::ZERO,
        present: &|_| true,
        choice: None,
        written: None,
        fires: true,
    };
    assert_eq!(bench.state.look(None, &world), Look::default());
    assert_eq!(bench.decided(), [skipped("2026-01-01T01:00:00Z", "Removed", 1)]);
    assert_eq!(bench.state.next(), None);
}
