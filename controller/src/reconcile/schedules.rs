//! A function's schedules: the state of each, and what the status says of them.

use super::observe::{Lane, LaneState, Moment, Observed};
use crate::fires::Takers;
use crate::fleet::{Note, NoteKind};
use dormouse_core::function::{Fired, FunctionStatus, ScheduleStatus};
use dormouse_core::schedule::{Decided, Do, Said, Schedules, State, World};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The clock on the wall is looked at at least that often: somebody may have set it, and a due time may be late by 60 s
/// unless its manifest says otherwise. A look takes microseconds: 1,000 functions with schedules make 33 of them a second.
const CLOCK: Duration = Duration::from_secs(30);

/// Events that wait to be told: as many as all schedules that a function can have (32, and as many that were removed)
/// make at one look. What is beyond stands in the log and the metrics.
const MAX_NOTES: usize = 64;

/// Schedules that were removed while their calls run are looked after, so many: with the 32 of a spec the status holds them.
const MAX_REMOVED: usize = 32;

/// A look that is due within less comes no sooner: timers are as coarse.
const SOON: Duration = Duration::from_millis(1);

/// The states of a function's schedules, by name.
#[derive(Clone, Debug, Default)]
pub struct Timetable {
    states: BTreeMap<String, State>,
    again: Option<Moment>,
    /// The status of a former life was read.
    read: bool,
    /// What was decided, and not counted yet: at most what the states keep, for it is counted after each look.
    decided: Vec<(String, Decided)>,
    /// What its owner is to be told of that, by schedule.
    notes: Vec<(String, Note)>,
}

impl Timetable {
    /// True while there is nothing to look after.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// When to look again.
    #[must_use]
    pub fn again(&self) -> Option<Moment> {
        self.again
    }

    /// As the status says it; the order is that of names. While no valid spec was seen it stays as it was.
    #[must_use]
    pub fn status(&self, before: &FunctionStatus) -> Vec<ScheduleStatus> {
        if self.read { self.states.values().map(State::status).collect() } else { before.schedules.clone() }
    }

    /// The earliest due time to come.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.states.values().filter_map(State::next).min().map(Time)
    }

    /// Whether a call waits for the status to be written.
    #[must_use]
    pub fn is_to_be_written(&self, written: &[ScheduleStatus]) -> bool {
        self.states.iter().any(|(name, state)| state.is_to_be_written(of(written, name)))
    }

    /// What was decided since the last time, by schedule.
    pub fn decided(&mut self) -> Vec<(String, Decided)> {
        std::mem::take(&mut self.decided)
    }

    /// What the owner is to be told since the last time, by schedule.
    pub fn notes(&mut self) -> Vec<(String, Note)> {
        std::mem::take(&mut self.notes)
    }

    /// Takes from the states what they have decided, before any of them is forgotten.
    fn gather(&mut self) {
        for (name, state) in &mut self.states {
            for decided in state.decided() {
                let note = told(name, &decided).filter(|_| self.notes.len() < MAX_NOTES);
                self.notes.extend(note.map(|note| (name.clone(), note)));
                self.decided.push((name.clone(), decided));
            }
        }
    }

    /// An activator says something of a due time.
    pub fn heard(&mut self, schedule: &str, (due, said): (Timestamp, Said), holder: &str, now: Moment) {
        if let Some(state) = self.states.get_mut(schedule) {
            state.heard(due, holder, said, now);
        }
    }

    /// An activator is heard anew: `knows` is what it says of a due time of a schedule.
    pub fn joined(
        &mut self,
        holder: &str,
        knows: impl Fn(&str, Timestamp) -> Option<Said>,
        forgot: Timestamp,
        now: Moment,
    ) {
        for (name, state) in &mut self.states {
            state.joined(holder, |due| knows(name, due), forgot, now);
        }
    }

    /// Processes of activators have ended.
    pub fn lost(&mut self, is: impl Fn(&str) -> bool) {
        self.states.values_mut().for_each(|state| state.lost(&is));
    }

    /// Takes the states of a former life, and those of schedules that are new. Answers who may have calls by what the
    /// status says, when that was read now: whatever those have said before was not heard.
    fn read(&mut self, schedules: &Schedules, status: &FunctionStatus, now: Timestamp) -> BTreeSet<Arc<str>> {
        for planned in schedules.iter() {
            match self.states.get_mut(&planned.name) {
                Some(state) => state.replan(planned, now),
                None => {
                    let before = of(&status.schedules, &planned.name).filter(|_| !self.read);
                    self.states.insert(planned.name.clone(), State::new(planned, before, now));
                }
            }
        }
        if std::mem::replace(&mut self.read, true) {
            return BTreeSet::new();
        }
        let gone = status.schedules.iter().filter(|status| schedules.get(&status.name).is_none());
        self.states.extend(gone.map(|status| (status.name.clone(), State::left(status))));
        self.states.values().flat_map(State::open).map(|open| open.holder.clone()).collect()
    }
}

fn of<'a>(schedules: &'a [ScheduleStatus], name: &str) -> Option<&'a ScheduleStatus> {
    schedules.iter().find(|status| status.name == name)
}

fn certain<'a>(lanes: &BTreeMap<Lane, LaneState>, status: &'a FunctionStatus) -> &'a [ScheduleStatus] {
    if lanes.contains_key(&Lane::Report) { &[] } else { &status.schedules }
}

impl Observed {
    /// What the status says of schedules for certain: nothing while a write is under way, or has failed and may have been
    /// done all the same. What names one activator now may name another one then, and a crash would call both.
    #[must_use]
    pub fn schedules_written(&self) -> &[ScheduleStatus] {
        certain(&self.lanes, &self.status)
    }

    /// Decides of the due times of its schedules; answers what is to be ordered.
    pub fn look_at_schedules(&mut self, (wall, now): (Timestamp, Moment), takers: &mut Takers) -> Vec<(String, Do)> {
        self.schedules.again = None;
        let Some((valid, faults)) = self.object.as_ref().and_then(|o| Some((o.valid.clone()?, &o.faults))) else {
            return Vec::new();
        };
        if valid.schedules.is_empty() && self.schedules.is_empty() && self.status.schedules.is_empty() {
            return Vec::new();
        }
        let fires = faults.is_empty() && self.closing_since.is_none();
        for holder in self.schedules.read(&valid.schedules, &self.status, wall) {
            takers.ask_anew(&holder);
        }
        let certain = certain(&self.lanes, &self.status);
        let (mut todo, mut again) = (Vec::new(), None::<Duration>);
        for (name, state) in &mut self.schedules.states {
            let choice = takers.choose();
            let present = |holder: &str| takers.is_present(holder);
            let world = World {
                now: wall,
                moment: now,
                present: &present,
                choice: choice.as_ref(),
                written: of(certain, name),
                fires,
            };
            let open = state.open().len();
            let look = state.look(valid.schedules.get(name).map(|planned| &**planned), &world);
            if let Some(choice) = choice.filter(|_| state.open().len() > open) {
                takers.took(choice);
            }
            todo.extend(look.todo.into_iter().map(|order| (name.clone(), order)));
            again = [again, look.again_in].into_iter().flatten().min();
        }
        self.schedules.gather();
        let mut removed = 0;
        self.schedules.states.retain(|name, state| {
            let there = valid.schedules.get(name).is_some();
            removed += usize::from(!there && !state.open().is_empty());
            there || !state.open().is_empty() && removed <= MAX_REMOVED
        });
        self.schedules.again = again.map(|wait| now + wait.clamp(SOON, CLOCK));
        todo
    }
}

/// What an owner is told of a due time, when that is worth an event. That it gave way to another one is its own wish.
#[must_use]
pub fn told(schedule: &str, decided: &Decided) -> Option<Note> {
    let Decided { due, outcome, reason, .. } = decided;
    let (word, what) = match outcome {
        Fired::Ran => return None,
        Fired::Failed => ("ScheduleFailed", "its call failed"),
        Fired::Skipped => ("ScheduleSkipped", "no call was made"),
        Fired::Unknown => ("ScheduleUnknown", "whether its call ran is not known, and it is not made again"),
    };
    let kind = match &**reason {
        "Replaced" => return None,
        "Overlap" | "Removed" => NoteKind::Normal,
        _ => NoteKind::Warning,
    };
    let message = format!("schedule {schedule}, due {due}: {what} ({reason})");
    Some(Note { kind, reason: word, action: "Call", message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::revision::Revision;
    use serde_json::json;
    use tokio::sync::mpsc;

    #[test]
    fn what_did_not_run_is_told() {
        let note = |outcome, reason: &str| {
            let due = Timestamp::from_second(120).unwrap();
            told("s", &Decided { due, outcome, reason: reason.into(), count: 1 })
        };
        let kind = |outcome, reason| note(outcome, reason).map(|note| (note.kind, note.reason));
        assert_eq!(kind(Fired::Ran, "Status200"), None);
        assert_eq!(kind(Fired::Failed, "Status500"), Some((NoteKind::Warning, "ScheduleFailed")));
        assert_eq!(kind(Fired::Failed, "Replaced"), None);
        assert_eq!(kind(Fired::Skipped, "Overlap"), Some((NoteKind::Normal, "ScheduleSkipped")));
        assert_eq!(kind(Fired::Skipped, "Missed"), Some((NoteKind::Warning, "ScheduleSkipped")));
        let note = note(Fired::Unknown, "ActivatorLost").unwrap();
        let words = "schedule s, due 1970-01-01T00:02:00Z: whether its call ran is not known, and it is not made again \
                     (ActivatorLost)";
        assert_eq!((note.reason, note.message.as_str()), ("ScheduleUnknown", words));
    }

    /// A function with schedules, between activators that come and go.
    struct Bench {
        observed: Observed,
        takers: Takers,
        out: mpsc::Sender<dormouse_proto::v1::FireOrder>,
        now: Moment,
    }

    impl Bench {
        fn new(schedules: &serde_json::Value) -> Self {
            let (out, _) = mpsc::channel(1);
            let mut bench =
                Self { observed: Observed::new("f".into()), takers: Takers::default(), out, now: Moment::ZERO };
            bench.spec(schedules);
            bench
        }

        fn spec(&mut self, schedules: &serde_json::Value) {
            let function = json!({
                "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": "hello", "namespace": "default", "uid": "f", "generation": 1},
                "spec": {"image": "registry/hello:1", "schedules": schedules}
            });
            let function = Arc::new(serde_json::from_value(function).unwrap());
            self.observed.function(function, |f| Revision::of(&f.spec), true, self.now);
        }

        fn join(&mut self, holder: &str) {
            self.takers.join(holder.into(), 1, false, self.out.clone());
        }

        /// A look at so many seconds after 1970.
        fn look(&mut self, second: u32) -> Vec<Do> {
            self.now = Moment::from_secs(second.into());
            let wall = Timestamp::from_second(second.into()).unwrap();
            let orders = self.observed.look_at_schedules((wall, self.now), &mut self.takers);
            orders.into_iter().map(|(_, order)| order).collect()
        }

        /// A write of the status as it is now begins.
        fn write(&mut self) -> FunctionStatus {
            self.observed.lanes.insert(Lane::Report, LaneState::Busy { failures: 0 });
            let schedules = self.observed.schedules.status(&self.observed.status);
            FunctionStatus { schedules, ..FunctionStatus::default() }
        }

        fn wrote(&mut self, status: FunctionStatus) {
            self.observed.lanes.remove(&Lane::Report);
            self.observed.status = status;
        }
    }

    #[test]
    fn nothing_is_ordered_while_another_claim_may_be_written() {
        let mut bench = Bench::new(&json!([{"name": "s", "cron": "* * * * *"}]));
        bench.join("a/1/1");
        assert_eq!(bench.look(1), []);
        assert_eq!(bench.look(60), [], "claimed by a");
        let by_a = bench.write();
        bench.wrote(by_a.clone());
        bench.takers.leave("a/1/1", 1);
        bench.join("b/1/1");
        assert_eq!(bench.look(61), [], "b's now");
        let by_b = bench.write();
        assert_ne!(by_a.schedules, by_b.schedules);
        bench.takers.leave("b/1/1", 1);
        bench.join("a/1/1");
        assert_eq!(bench.look(62), [], "a's again, but the status that names b is under way");
        assert_eq!(bench.observed.schedules.status(&by_b), by_a.schedules);
        assert_eq!(bench.look(63), []);
        let paused = LaneState::Paused { until: Moment::from_secs(64), failures: 1 };
        bench.observed.lanes.insert(Lane::Report, paused);
        assert_eq!(bench.look(64), [], "it has failed, and may be done all the same");
        assert!(bench.observed.schedules.is_to_be_written(bench.observed.schedules_written()), "so it is written anew");
        let again = bench.write();
        bench.wrote(again);
        let due = Timestamp::from_second(60).unwrap();
        assert_eq!(bench.look(65), [Do::Fire { due, holder: "a/1/1".into() }]);
        assert!(!bench.observed.schedules.is_to_be_written(bench.observed.schedules_written()));
    }

    #[test]
    fn what_is_decided_of_a_schedule_that_is_removed_is_told_and_counted() {
        let two = json!([{"name": "s", "cron": "* * * * *"}, {"name": "t", "cron": "* * * * *"}]);
        let mut bench = Bench::new(&two);
        bench.join("a/1/1");
        bench.look(1);
        bench.look(60);
        let claims = bench.write();
        bench.wrote(claims);
        assert_eq!(bench.look(61).len(), 2);
        bench.spec(&json!([]));
        bench.look(62);
        assert!(!bench.observed.schedules.is_empty(), "their calls are not over");
        bench.observed.schedules.lost(|_| true);
        bench.look(63);
        assert!(bench.observed.schedules.is_empty());
        let counted = bench.observed.schedules.decided();
        assert_eq!(
            counted.iter().map(|(name, d)| (&**name, d.outcome)).collect::<Vec<_>>(),
            [("s", Fired::Unknown), ("t", Fired::Unknown)]
        );
        let notes = bench.observed.schedules.notes();
        assert_eq!(
            notes.iter().map(|(name, note)| (&**name, note.reason)).collect::<Vec<_>>(),
            [("s", "ScheduleUnknown"), ("t", "ScheduleUnknown")]
        );
        assert!(bench.observed.schedules.notes().is_empty() && bench.observed.schedules.decided().is_empty());
    }
}
