//! What is said of a due time: by its activator, by the status, and to those who act by it.

use crate::function::{Fired, OpenFire, ScheduleStatus};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How far a claimed due time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was sent of it.
    Claimed,
    /// It was sent, or a former life of the controller may have done so.
    Sent,
    /// Its activator has said that it has it.
    Held,
}

/// A due time whose end is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub due: Timestamp,
    /// The one activator that may have it.
    pub holder: Arc<str>,
    /// How far it is.
    pub stage: Stage,
    /// Its activator was told to end it.
    pub(super) ending: bool,
    /// Since when its activator is not heard.
    pub(super) missing: Option<Duration>,
    /// It is not sent before that.
    pub(super) not_before: Option<Duration>,
}

/// What an activator says of a due time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has it: its call waits or runs.
    Held,
    /// Its call is over.
    Ended {
        /// How.
        outcome: Fired,
        /// Why, as one word.
        reason: Arc<str>,
    },
    /// No call of it was dispatched, nor will be.
    Refused {
        /// Why, as one word.
        reason: Arc<str>,
        /// Another attempt may help.
        again: bool,
    },
}

/// What became of a due time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Which; of several the last one.
    pub due: Timestamp,
    /// What.
    pub outcome: Fired,
    /// Why, as one word.
    pub reason: Arc<str>,
    /// Of so many due times.
    pub count: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Send the call.
    Fire {
        /// Of this due time.
        due: Timestamp,
        /// To this activator.
        holder: Arc<str>,
    },
    /// End its call.
    End {
        /// Of this due time.
        due: Timestamp,
        /// Which this activator has.
        holder: Arc<str>,
    },
}

/// The outcome of a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What to do.
    pub todo: Vec<Do>,
    /// When to look again.
    pub again_in: Option<Duration>,
}

/// What a look goes by.
pub struct World<'a> {
    /// The clock on the wall.
    pub now: Timestamp,
    /// A clock that never runs backwards.
    pub moment: Duration,
    /// Whether an activator is heard now, and has said all it knows.
    pub present: &'a dyn Fn(&str) -> bool,
    /// Who is to have the next call.
    pub choice: Option<&'a Arc<str>>,
    /// The status as it was written last; none while another one may be written, or may have been.
    pub written: Option<&'a ScheduleStatus>,
    /// The function may be called: it is valid and not being deleted.
    pub fires: bool,
}

impl Open {
    pub(super) fn new(due: Timestamp, holder: Arc<str>, stage: Stage) -> Self {
        Self { due, holder, stage, ending: false, missing: None, not_before: None }
    }

    pub(super) fn is_written(&self, written: Option<&ScheduleStatus>) -> bool {
        let same = |open: &OpenFire| open.due.0 == self.due && open.activator == *self.holder;
        written.is_some_and(|written| written.open.iter().any(same))
    }
}
