//! A function's schedules: the state of each, and what the status says of them.

use super::observe::{Moment, Observed};
use crate::fires::Takers;
use crate::fleet::{Note, NoteKind};
use dormouse_core::function::{Fired, FunctionStatus, LastFired, ScheduleStatus};
use dormouse_core::schedule::{Decided, Do, Said, Schedules, State, World};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// The clock on the wall is looked at at least that often: somebody may have set it.
const CLOCK: Duration = Duration::from_secs(600);

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
    pub fn is_to_be_written(&self, written: &FunctionStatus) -> bool {
        self.states.iter().any(|(name, state)| state.is_to_be_written(of(&written.schedules, name)))
    }

    /// What was decided since the last time, by schedule.
    pub fn decided(&mut self) -> Vec<(String, Decided)> {
        let all = self.states.iter_mut();
        all.flat_map(|(name, state)| state.decided().into_iter().map(|decided| (name.clone(), decided))).collect()
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

    /// Takes the states of a former life, and those of schedules that are new.
    fn read(&mut self, schedules: &Schedules, status: &FunctionStatus, now: Timestamp) {
        for planned in schedules.iter() {
            match self.states.get_mut(&planned.name) {
                Some(state) => state.replan(planned, now),
                None => {
                    let before = of(&status.schedules, &planned.name).filter(|_| !self.read);
                    self.states.insert(planned.name.clone(), State::new(planned, before, now));
                }
            }
        }
        if !std::mem::replace(&mut self.read, true) {
            let gone = status.schedules.iter().filter(|status| schedules.get(&status.name).is_none());
            self.states.extend(gone.map(|status| (status.name.clone(), State::left(status))));
        }
    }
}

fn of<'a>(schedules: &'a [ScheduleStatus], name: &str) -> Option<&'a ScheduleStatus> {
    schedules.iter().find(|status| status.name == name)
}

impl Observed {
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
        self.schedules.read(&valid.schedules, &self.status, wall);
        let (mut todo, mut again) = (Vec::new(), None::<Duration>);
        for (name, state) in &mut self.schedules.states {
            let choice = takers.choose();
            let present = |holder: &str| takers.is_present(holder);
            let world = World {
                now: wall,
                moment: now,
                present: &present,
                choice: choice.as_ref(),
                written: of(&self.status.schedules, name),
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
pub fn told(before: &FunctionStatus, after: &ScheduleStatus) -> Option<Note> {
    let LastFired { due, outcome, reason } = after.last.as_ref()?;
    if of(&before.schedules, &after.name).and_then(|before| before.last.as_ref()) == after.last.as_ref() {
        return None;
    }
    let (word, what) = match outcome {
        Fired::Ran => return None,
        Fired::Failed => ("ScheduleFailed", "its call failed"),
        Fired::Skipped => ("ScheduleSkipped", "no call was made"),
        Fired::Unknown => ("ScheduleUnknown", "whether its call ran is not known, and it is not made again"),
    };
    let kind = match reason.as_str() {
        "Replaced" => return None,
        "Overlap" | "Removed" => NoteKind::Normal,
        _ => NoteKind::Warning,
    };
    let message = format!("schedule {}, due {}: {what} ({reason})", after.name, due.0);
    Some(Note { kind, reason: word, action: "Call", message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(last: Option<(i64, Fired, &str)>) -> ScheduleStatus {
        let last = last.map(|(due, outcome, reason)| LastFired {
            due: Time(Timestamp::from_second(due).unwrap()),
            outcome,
            reason: reason.into(),
        });
        ScheduleStatus { name: "s".into(), rule: "* * * * * UTC".into(), next_due: None, last, open: Vec::new() }
    }

    #[test]
    fn what_did_not_run_is_told_once() {
        let before = FunctionStatus {
            schedules: vec![status(Some((60, Fired::Failed, "Status500")))],
            ..FunctionStatus::default()
        };
        let kind = |due, outcome, reason| {
            let note = told(&before, &status(Some((due, outcome, reason))))?;
            Some((note.kind, note.reason))
        };
        assert_eq!(told(&before, &status(None)), None);
        assert_eq!(kind(60, Fired::Failed, "Status500"), None, "it was told");
        assert_eq!(kind(120, Fired::Ran, "Status200"), None);
        assert_eq!(kind(120, Fired::Failed, "Status500"), Some((NoteKind::Warning, "ScheduleFailed")));
        assert_eq!(kind(120, Fired::Failed, "Replaced"), None);
        assert_eq!(kind(120, Fired::Skipped, "Overlap"), Some((NoteKind::Normal, "ScheduleSkipped")));
        assert_eq!(kind(120, Fired::Skipped, "Missed"), Some((NoteKind::Warning, "ScheduleSkipped")));
        let note = told(&before, &status(Some((120, Fired::Unknown, "ActivatorLost")))).unwrap();
        let words = "schedule s, due 1970-01-01T00:02:00Z: whether its call ran is not known, and it is not made again \
                     (ActivatorLost)";
        assert_eq!((note.reason, note.message.as_str()), ("ScheduleUnknown", words));
    }
}
