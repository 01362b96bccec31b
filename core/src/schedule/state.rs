//! One schedule's due times: claimed, sent, and what became of them. Pure, and the same after a controller's restart.
//!
//! A due time is decided once. First it is *claimed*: the status names it and the one activator that is to have it.
//! Only when that is written is the call sent. So a new life of the controller knows of each claim who may have it: an
//! activator that does not know of it never had it (it tells whole what it had, and how far back it remembers), and the
//! call is sent again; one whose process is lost takes with it what became of it, which is then unknown for ever.

use super::Planned;
use super::fire::{Decided, Do, Look, Open, Said, Stage, World};
use crate::function::{Fired, LastFired, OpenFire, Overlap, ScheduleStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;

/// Most calls of one schedule whose end is not known: each is some 100 bytes of the status, and 32 schedules have it.
pub const MAX_OPEN: usize = 16;

/// How long an activator may be silent that has a call: then what became of that is unknown. As long as one that is cut
/// off keeps its slots.
pub const HOLD_UNKNOWN: Duration = Duration::from_secs(120);

/// Pause before a call is sent again that was refused without having been dispatched.
const PAUSE: Duration = Duration::from_secs(1);

/// Due times that are counted one by one when many were missed; what is beyond counts as one. Each takes microseconds.
const MAX_MISSED: u64 = 1_000;

/// Decisions that wait to be counted: as many as one look and the answers before the next one make.
const MAX_DECIDED: usize = 64;

/// What is known of one schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    name: String,
    /// See [`Planned::written`].
    rule: String,
    /// The first due time of which nothing is decided.
    next: Option<Timestamp>,
    open: Vec<Open>,
    last: Option<LastFired>,
    decided: Vec<Decided>,
}

/// What is to become of a due time that has come.
enum Verdict {
    Wait,
    Skip(&'static str),
    Claim(Arc<str>),
}

impl State {
    /// A schedule as it is seen for the first time in this life: as the status has it, else it is due first after now.
    #[must_use]
    pub fn new(planned: &Planned, status: Option<&ScheduleStatus>, now: Timestamp) -> Self {
        let mut state = Self {
            name: planned.name.clone(),
            rule: String::new(),
            next: None,
            open: Vec::new(),
            last: None,
            decided: Vec::new(),
        };
        if let Some(status) = status {
            state = Self::left(status);
        }
        state.replan(planned, now);
        state
    }

    /// A schedule that the manifest has no more, as a status has it: it may have calls that are not over.
    #[must_use]
    pub fn left(status: &ScheduleStatus) -> Self {
        let ScheduleStatus { name, rule, next_due, last, open } = status.clone();
        let known = |open: OpenFire| Open::new(open.due.0, open.activator.into(), Stage::Sent);
        Self {
            name,
            rule,
            next: next_due.map(|at| at.0),
            open: open.into_iter().take(MAX_OPEN).map(known).collect(),
            last,
            decided: Vec::new(),
        }
    }

    /// Acts by what the manifest says now: with another expression or zone the next due time is the first one after now.
    pub fn replan(&mut self, planned: &Planned, now: Timestamp) {
        if self.rule != planned.written || self.next.is_none() {
            self.rule.clone_from(&planned.written);
            self.next = planned.after(now);
        }
    }

    /// As the status keeps it.
    #[must_use]
    pub fn status(&self) -> ScheduleStatus {
        let open = |open: &Open| OpenFire { due: Time(open.due), activator: open.holder.to_string() };
        ScheduleStatus {
            name: self.name.clone(),
            rule: self.rule.clone(),
            next_due: self.next.map(Time),
            last: self.last.clone(),
            open: self.open.iter().map(open).collect(),
        }
    }

    /// When it is due next.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Due times whose end is not known.
    #[must_use]
    pub fn open(&self) -> &[Open] {
        &self.open
    }

    /// What was decided since this was last asked.
    pub fn decided(&mut self) -> Vec<Decided> {
        std::mem::take(&mut self.decided)
    }

    /// Whether the status has to be written before something can be sent.
    #[must_use]
    pub fn is_to_be_written(&self, written: Option<&ScheduleStatus>) -> bool {
        self.open.iter().any(|open| open.stage == Stage::Claimed && !open.is_written(written))
    }

    /// Decides what can be decided now. Without `planned` the manifest has it no more.
    pub fn look(&mut self, planned: Option<&Planned>, world: &World<'_>) -> Look {
        let mut todo = Vec::new();
        self.give_up(world);
        match planned {
            Some(planned) if world.fires => {
                self.come_due(planned, world, &mut todo);
                self.send(planned, world, &mut todo);
            }
            Some(_) => {}
            None => {
                self.next = None;
                self.drop_claims("Removed");
            }
        }
        Look { todo, again_in: self.again_in(planned.filter(|_| world.fires), world) }
    }

    /// An activator says something of a due time that it was sent.
    pub fn heard(&mut self, due: Timestamp, holder: &str, said: Said, moment: Duration) {
        let Some(at) = self.open.iter().position(|open| open.due == due && &*open.holder == holder) else { return };
        let Some(open) = self.open.get_mut(at).filter(|open| open.stage != Stage::Claimed) else { return };
        match said {
            Said::Held => open.stage = Stage::Held,
            Said::Ended { outcome, reason } => self.close(at, outcome, &reason),
            Said::Refused { .. } if open.ending => self.close(at, Fired::Skipped, "Replaced"),
            Said::Refused { again: true, .. } => {
                (open.stage, open.not_before) = (Stage::Claimed, Some(moment + PAUSE));
            }
            Said::Refused { reason, again: false } => self.close(at, Fired::Failed, &reason),
        }
    }

    /// An activator is heard anew and has told all it knows: of a due time `knows` says it, and of none up to `forgot`
    /// it can say that it never had it.
    pub fn joined(
        &mut self,
        holder: &str,
        knows: impl Fn(Timestamp) -> Option<Said>,
        forgot: Timestamp,
        moment: Duration,
    ) {
        let its: Vec<Timestamp> =
            self.open.iter().filter(|open| &*open.holder == holder).map(|open| open.due).collect();
        for due in its {
            let Some(at) = self.open.iter().position(|open| open.due == due && &*open.holder == holder) else {
                continue;
            };
            let Some(open) = self.open.get_mut(at).filter(|open| open.stage != Stage::Claimed) else { continue };
            (open.ending, open.missing) = (false, None);
            match knows(due) {
                Some(said) => self.heard(due, holder, said, moment),
                None if open.stage == Stage::Held || due <= forgot => self.close(at, Fired::Unknown, "Forgotten"),
                None => open.stage = Stage::Claimed,
            }
        }
    }

    /// Processes of activators have ended: what they had is unknown.
    pub fn lost(&mut self, is: impl Fn(&str) -> bool) {
        while let Some(at) = self.open.iter().position(|open| open.stage != Stage::Claimed && is(&open.holder)) {
            self.close(at, Fired::Unknown, "ActivatorLost");
        }
    }

    /// An activator that is silent for too long may have ended.
    fn give_up(&mut self, world: &World<'_>) {
        for open in &mut self.open {
            let silent = open.stage != Stage::Claimed && !(world.present)(&open.holder);
            open.missing = silent.then(|| open.missing.unwrap_or(world.moment));
        }
        let over = |open: &Open| open.missing.is_some_and(|since| world.moment >= since + HOLD_UNKNOWN);
        while let Some(at) = self.open.iter().position(over) {
            self.close(at, Fired::Unknown, "ActivatorSilent");
        }
    }

    /// Decides of the due times that have come: of several only the newest may be late.
    fn come_due(&mut self, planned: &Planned, world: &World<'_>, todo: &mut Vec<Do>) {
        let Some(first) = self.next.filter(|next| *next <= world.now) else { return };
        let (newest, missed, before) = newest(planned, first, world.now);
        if missed > 0 {
            self.decide(Decided { due: before, outcome: Fired::Skipped, reason: "Missed".into(), count: missed });
            self.next = Some(newest);
        }
        match self.verdict(planned, newest, world, todo) {
            Verdict::Wait => return,
            Verdict::Skip(reason) => {
                self.decide(Decided { due: newest, outcome: Fired::Skipped, reason: reason.into(), count: 1 });
            }
            Verdict::Claim(holder) => self.open.push(Open::new(newest, holder, Stage::Claimed)),
        }
        self.next = planned.after(newest);
    }

    fn verdict(&mut self, planned: &Planned, due: Timestamp, world: &World<'_>, todo: &mut Vec<Do>) -> Verdict {
        if is_late(planned, due, world.now) {
            return Verdict::Skip("TooLate");
        }
        match planned.overlap {
            Overlap::Forbid if self.open.iter().any(|open| open.missing.is_some()) => return Verdict::Wait,
            Overlap::Forbid if !self.open.is_empty() => return Verdict::Skip("Overlap"),
            Overlap::Replace => {
                self.drop_claims("Replaced");
                for open in self.open.iter_mut().filter(|open| !open.ending && open.missing.is_none()) {
                    open.ending = true;
                    todo.push(Do::End { due: open.due, holder: open.holder.clone() });
                }
                if !self.open.is_empty() {
                    return Verdict::Wait;
                }
            }
            Overlap::Allow if self.open.len() >= MAX_OPEN => return Verdict::Skip("TooManyRunning"),
            Overlap::Forbid | Overlap::Allow => {}
        }
        world.choice.map_or(Verdict::Wait, |choice| Verdict::Claim(choice.clone()))
    }

    /// Sends what is claimed for certain; gives what nobody can have to somebody else.
    fn send(&mut self, planned: &Planned, world: &World<'_>, todo: &mut Vec<Do>) {
        let late = |open: &Open| open.stage == Stage::Claimed && is_late(planned, open.due, world.now);
        while let Some(at) = self.open.iter().position(late) {
            self.close(at, Fired::Skipped, "TooLate");
        }
        let waits = |open: &Open| open.not_before.is_some_and(|at| world.moment < at);
        for open in self.open.iter_mut().filter(|open| open.stage == Stage::Claimed && !waits(open)) {
            let elsewhere = world.choice.filter(|choice| **choice != open.holder);
            match (elsewhere, (world.present)(&open.holder)) {
                // Who has refused it a moment ago is asked again only where there is nobody else.
                (Some(choice), here) if !here || open.not_before.is_some() => {
                    (open.holder, open.not_before) = (choice.clone(), None);
                }
                (_, true) if open.is_written(world.written) => {
                    open.stage = Stage::Sent;
                    todo.push(Do::Fire { due: open.due, holder: open.holder.clone() });
                }
                _ => {}
            }
        }
    }

    /// Ends what nothing was sent of.
    fn drop_claims(&mut self, reason: &str) {
        while let Some(at) = self.open.iter().position(|open| open.stage == Stage::Claimed) {
            self.close(at, Fired::Skipped, reason);
        }
    }

    fn close(&mut self, at: usize, outcome: Fired, reason: &str) {
        let due = self.open.remove(at).due;
        self.decide(Decided { due, outcome, reason: reason.into(), count: 1 });
    }

    fn decide(&mut self, decided: Decided) {
        let Decided { due, outcome, reason, .. } = &decided;
        self.last = Some(LastFired { due: Time(*due), outcome: *outcome, reason: reason.to_string() });
        if self.decided.len() < MAX_DECIDED {
            self.decided.push(decided);
        }
    }

    /// When something changes by itself.
    fn again_in(&self, planned: Option<&Planned>, world: &World<'_>) -> Option<Duration> {
        let until = |at: Timestamp| Duration::try_from(at.duration_since(world.now)).unwrap_or_default();
        let after = |due: Timestamp, planned: &Planned| {
            // The last instant at which it may still start is one of them.
            due.checked_add(planned.deadline + SignedDuration::from_millis(1)).ok().map(until)
        };
        let mut all = Vec::new();
        if let (Some(planned), Some(next)) = (planned, self.next) {
            if next > world.now {
                all.push(Some(until(next)));
            } else {
                all.extend([after(next, planned), planned.after(next).map(until)]);
            }
        }
        for open in &self.open {
            let wait = |at: Duration| at.saturating_sub(world.moment);
            all.push(open.missing.map(|since| wait(since + HOLD_UNKNOWN)));
            if let (Some(planned), Stage::Claimed) = (planned, open.stage) {
                all.extend([after(open.due, planned), open.not_before.filter(|at| *at > world.moment).map(wait)]);
            }
        }
        all.into_iter().flatten().min()
    }
}

fn is_late(planned: &Planned, due: Timestamp, now: Timestamp) -> bool {
    now.duration_since(due) > planned.deadline
}

/// The newest due time up to now, how many come before it from `first` on, and the last of those.
fn newest(planned: &Planned, first: Timestamp, now: Timestamp) -> (Timestamp, u64, Timestamp) {
    let (mut newest, mut before, mut missed) = (first, first, 0);
    while let Some(next) = planned.after(newest).filter(|next| *next <= now) {
        (before, newest, missed) = (newest, next, missed + 1);
        if missed == MAX_MISSED {
            newest = planned.before(now).unwrap_or(newest).max(newest);
            break;
        }
    }
    (newest, missed, before)
}
