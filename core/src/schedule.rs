//! Calls made by the clock: what a manifest's schedules say, and ([`state`]) what is to be done about their due times.
//!
//! Cron is that of [`crate::cron`], with a field for seconds where six are written. Nothing here reads a clock.

mod fire;
mod state;
#[cfg(test)]
mod tests;

pub use fire::{Decided, Do, Look, Open, Said, Stage, World};
pub use state::{HOLD_UNKNOWN, MAX_OPEN, State};

use crate::cron::Rule;
use crate::function::{Overlap, Schedule};
use crate::valid::Fault;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::sync::Arc;

/// How late a call may be made when the manifest does not say: what a restart of the controller takes, and no more.
pub const DEFAULT_DEADLINE: SignedDuration = SignedDuration::from_secs(60);

/// Longest zone and longest expression, with a space between them, are 64 + 128 + 1 bytes of ASCII.
const UTC: &str = "UTC";

/// An instant before which no due time is looked for.
const FIRST: Timestamp = Timestamp::constant(1_700_000_000, 0);

/// The schedules of one function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedules(Vec<Arc<Planned>>);

/// A schedule that keeps every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its name: 1 to 63 letters, digits and '-'.
    pub name: String,
    /// Type of the event, written alike.
    pub event: String,
    /// Body of the call.
    pub body: Option<Arc<str>>,
    /// What that is; empty without one.
    pub content_type: &'static str,
    /// How late it may start.
    pub deadline: SignedDuration,
    /// What happens when the call before it still runs.
    pub overlap: Overlap,
    /// Expression and zone as they were written: a state that was worked out by others begins anew.
    pub written: String,
    rule: Rule,
}

impl Schedules {
    /// Reads what a manifest says.
    ///
    /// # Errors
    /// Every fault, by its path below `spec`.
    pub fn read(schedules: &[Schedule]) -> Result<Self, Vec<Fault>> {
        let (mut read, mut faults, mut names) = (Vec::new(), Vec::new(), HashSet::new());
        for (i, schedule) in schedules.iter().enumerate() {
            let path = |field: &str| format!("spec.schedules[{i}].{field}");
            if !names.insert(schedule.name.as_str()) {
                faults.push(Fault::new(path("name"), format!("{:?} is there twice: rename one", schedule.name)));
            }
            for (field, text) in [("name", &schedule.name), ("event", &schedule.event)] {
                if !is_word(text) {
                    let why = format!("{text:?} goes into a header: write 1 to 63 letters, digits and '-'");
                    faults.push(Fault::new(path(field), why));
                }
            }
            match Rule::read(&schedule.cron, schedule.time_zone.as_deref(), true) {
                Ok(rule) if rule.after(FIRST).is_none() => {
                    let why = format!("{:?} is never due: there is no such day", schedule.cron);
                    faults.push(Fault::new(path("cron"), why));
                }
                Ok(rule) => read.push(Arc::new(Planned::new(schedule, rule))),
                Err((cron, zone)) => {
                    faults.extend(cron.map(|why| Fault::new(path("cron"), why)));
                    faults.extend(zone.map(|why| Fault::new(path("timeZone"), why)));
                }
            }
        }
        if faults.is_empty() { Ok(Self(read)) } else { Err(faults) }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Planned>> {
        self.0.iter()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Planned>> {
        self.0.iter().find(|planned| planned.name == name)
    }
}

impl Planned {
    fn new(schedule: &Schedule, rule: Rule) -> Self {
        let Schedule { name, cron, time_zone, event, body, starting_deadline_seconds, overlap } = schedule;
        let deadline = starting_deadline_seconds.map_or(DEFAULT_DEADLINE, |s| SignedDuration::from_secs(s.into()));
        Self {
            name: name.clone(),
            event: event.clone(),
            content_type: body.as_deref().map_or("", content_type),
            body: body.as_deref().map(Arc::from),
            deadline,
            overlap: *overlap,
            written: format!("{cron} {}", time_zone.as_deref().unwrap_or(UTC)),
            rule,
        }
    }

    /// The first due time after an instant; `None`: never again.
    #[must_use]
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        self.rule.after(at)
    }

    /// The newest due time at or before an instant.
    #[must_use]
    pub fn before(&self, at: Timestamp) -> Option<Timestamp> {
        self.rule.before(at)
    }
}

/// What a body is taken for.
#[must_use]
pub fn content_type(body: &str) -> &'static str {
    let json = serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
    if json { "application/json" } else { "text/plain; charset=utf-8" }
}

/// Whether a text may be an event's type or a schedule's name.
#[must_use]
pub fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
