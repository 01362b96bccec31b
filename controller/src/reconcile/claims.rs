//! Claims of parked pods: what is known of one, and when a function makes none.
//!
//! A claim goes in three steps, and after each one the pod alone says how far it is: reserved (in memory only), grafted
//! (its container is there and names the function), owned (the pool has let it go). A pod whose claim did not work out
//! is deleted, never given back; only one that was refused before anything was changed stays in its pool.

use super::observe::Moment;
use crate::backoff;
use crate::fleet::Parked;
use dormouse_core::revision::Revision;
use std::time::Duration;

/// How long a node may take until it has begun with a claimed pod; it takes some 20 ms. After it the pod is given up.
pub const TAKE: Duration = Duration::from_secs(3);

/// A claimed pod without a call is taken out of its pool that long after its claim.
pub const OWN: Duration = Duration::from_secs(10);

/// For so long after a claim nothing is written that is not needed for its first call: a load and a short call take some
/// 20 ms, in which the API server and a pod that is started would take the processor from them on a small machine.
pub const CALM: Duration = Duration::from_millis(250);

/// A claim that is found is asked for its code that long afterwards: by then activators have said which are open.
pub const LOOK_INTO: Duration = Duration::from_secs(1);

/// Calls that come that long after a claim have outlived it: the function's workload is to serve them.
pub const SETTLE: Duration = Duration::from_secs(30);

/// First pause after a claimed instance failed; it doubles to the longest. Meanwhile the workload is what starts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// What is known of an instance's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The pod as it was parked; `None` when the claim was found at the start.
    pub parked: Option<Parked>,
    /// Tells this claim from others.
    pub number: u64,
    /// When it was made or found.
    pub at: Moment,
    /// The pod says whose it is.
    pub grafted: bool,
    /// A call is on its way to it, or was.
    pub first_call: bool,
    /// Its node did not begin with it in time, or the claim failed: it is to be deleted.
    pub given_up: bool,
    /// Calls have outlived it: it goes once the workload's instances take them.
    pub settles: bool,
}

impl Claimed {
    /// A claim that was found.
    #[must_use]
    pub fn found(now: Moment) -> Self {
        Self { parked: None, number: 0, at: now, grafted: true, first_call: true, given_up: false, settles: false }
    }

    /// A claim that is to be made.
    #[must_use]
    pub fn reserved(parked: Parked, number: u64, now: Moment) -> Self {
        Self { parked: Some(parked), number, grafted: false, first_call: false, ..Self::found(now) }
    }
}

/// Whether a function makes claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claiming {
    failures: u32,
    paused_until: Option<Moment>,
    /// The cluster refuses grafts of a revision, and why.
    pub refused: Option<(Revision, String)>,
    /// Claimed pods keep the pool's size, and why.
    pub unfit: Option<String>,
}

impl Claiming {
    /// A claimed instance ended by its own fault.
    pub fn failed(&mut self, now: Moment) {
        self.paused_until = Some(now + backoff::pause(self.failures, PAUSE));
        self.failures = self.failures.saturating_add(1);
    }

    /// One has opened its port. Failures are forgotten when the last of them was followed by as long a pause again.
    pub fn worked(&mut self, now: Moment) {
        let calm = |until: Moment| now >= until + backoff::pause(self.failures.saturating_sub(1), PAUSE);
        if self.paused_until.is_none_or(calm) {
            (self.failures, self.paused_until) = (0, None);
        }
    }

    /// Whether a revision may be claimed for.
    #[must_use]
    pub fn may(&self, revision: &Revision, now: Moment) -> bool {
        let refused = self.refused.as_ref().is_some_and(|(of, _)| of == revision);
        !refused && self.paused_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_pause_for_longer_and_longer() {
        let (mut claiming, revision) = (Claiming::default(), Revision::from("r"));
        let mut now = Duration::ZERO;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert!(claiming.may(&revision, now));
            claiming.failed(now);
            assert!(!claiming.may(&revision, now + Duration::from_secs(pause - 1)));
            now += Duration::from_secs(pause);
        }
    }

    #[test]
    fn failures_are_forgotten_after_a_calm_time() {
        let s = Duration::from_secs;
        let mut claiming = Claiming::default();
        claiming.failed(s(0));
        claiming.failed(s(10));
        claiming.worked(s(31));
        assert_eq!(claiming.failures, 2, "a pause of 20 s ended just now");
        claiming.worked(s(50));
        assert_eq!(claiming, Claiming::default());
    }

    #[test]
    fn a_refusal_is_of_one_revision() {
        let claiming = Claiming { refused: Some((Revision::from("a"), "no".into())), ..Claiming::default() };
        assert!(!claiming.may(&Revision::from("a"), Duration::ZERO));
        assert!(claiming.may(&Revision::from("b"), Duration::ZERO));
    }
}
