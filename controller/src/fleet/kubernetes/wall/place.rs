//! What is known of one namespace's policy, and what follows from it: no clock, no API.

use crate::backoff;
use std::time::Duration;
use tokio::time::Instant;

/// Pause after a write: the first one, and the longest. It doubles with each write that did not last, so that somebody
/// who removes the policy again and again is answered once a minute in the end.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A write that lasted for so long is forgotten: more than the longest pause, or two that fight would count as calm.
pub(super) const CALM: Duration = Duration::from_secs(120);

/// One namespace.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Functions, Deployments and pods of ours in it.
    pub(super) users: usize,
    /// Its policy as it was last seen.
    seen: Option<Seen>,
    /// Its policy was seen as it should be: what is missing now was taken away by somebody.
    pub(super) stood: bool,
    /// That its policy is somebody else's was told.
    told: bool,
    /// A write is under way.
    busy: bool,
    /// When the last write was answered, and how many there were without a calm time between them.
    last: Option<Instant>,
    writes: u32,
    /// No write before.
    not_before: Option<Instant>,
}

/// A policy that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) stands: Stands,
}

/// How a policy of our name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// It is ours and says what it should say.
    AsWanted,
    /// It is ours and says something else.
    Otherwise,
    /// Somebody else made it.
    Foreign,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// The policy as it should be. By force only where there is one of ours: what somebody else makes in the same moment
    /// is theirs.
    Apply { force: bool },
    /// The policy of that uid is to go.
    Remove(String),
}

/// When.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now(Write),
    At(Instant),
    /// That somebody else's policy stands where ours should be is to be told.
    Tell,
    Nothing,
}

/// What is known of all namespaces together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    /// Policies are to be made where they are needed; else all of them are to go.
    pub(super) make: bool,
    /// Every policy of ours that exists was told.
    pub(super) policies: bool,
    /// Everything else that exists was told: what has no users now needs no policy.
    pub(super) users: bool,
}

impl Place {
    pub(super) fn see(&mut self, seen: Seen) {
        self.stood |= seen.stands == Stands::AsWanted;
        self.told &= seen.stands == Stands::Foreign;
        self.seen = Some(seen);
    }

    /// It is being told.
    pub(super) fn tell(&mut self) {
        self.told = true;
    }

    pub(super) fn lose(&mut self) {
        self.seen = None;
        self.told = false;
    }

    /// True when there is nothing to remember of it.
    pub(super) fn is_empty(&self) -> bool {
        self.users == 0 && self.seen.is_none() && !self.busy
    }

    pub(super) fn due(&self, known: Known, now: Instant) -> Due {
        if self.busy || !known.policies {
            return Due::Nothing;
        }
        let needed = known.make && self.users > 0;
        let write = match &self.seen {
            Some(Seen { stands: Stands::Foreign, .. }) if needed && !self.told => return Due::Tell,
            Some(Seen { stands: Stands::Foreign, .. }) => return Due::Nothing,
            Some(Seen { stands: Stands::AsWanted, .. }) if needed => return Due::Nothing,
            seen if needed => Write::Apply { force: seen.is_some() },
            // Functions that are not told yet may need it.
            Some(seen) if known.users || !known.make => Write::Remove(seen.uid.clone()),
            _ => return Due::Nothing,
        };
        match self.not_before {
            Some(at) if now < at => Due::At(at),
            _ => Due::Now(write),
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.busy = true;
        if self.last.is_some_and(|last| now >= last + CALM) {
            self.writes = 0;
        }
    }

    /// A write was answered; with `hopeless` the same again is of no use soon.
    pub(super) fn answered(&mut self, hopeless: bool, now: Instant) {
        self.busy = false;
        let pause = if hopeless { PAUSE.1 } else { backoff::pause(self.writes, PAUSE) };
        self.writes = self.writes.saturating_add(1);
        self.last = Some(now);
        self.not_before = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Known = Known { make: true, policies: true, users: true };

    fn seen(stands: Stands) -> Seen {
        Seen { uid: "p".into(), stands }
    }

    fn place(users: usize, policy: Option<Stands>) -> Place {
        let mut place = Place { users, ..Place::default() };
        policy.into_iter().for_each(|stands| place.see(seen(stands)));
        place
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_from_what_is_known() {
        use Stands::{AsWanted, Foreign, Otherwise};
        let (make, mend) = (Due::Now(Write::Apply { force: false }), Due::Now(Write::Apply { force: true }));
        let (remove, nothing) = (Due::Now(Write::Remove("p".into())), Due::Nothing);
        let off = Known { make: false, ..ALL };
        let early = Known { users: false, ..ALL };
        let blind = Known { policies: false, ..ALL };
        for (users, policy, known, due) in [
            (1, None, ALL, &make),
            (1, Some(Otherwise), ALL, &mend),
            (1, Some(AsWanted), ALL, &nothing),
            (1, Some(Foreign), ALL, &Due::Tell),
            (0, Some(AsWanted), ALL, &remove),
            (0, Some(Otherwise), ALL, &remove),
            (0, Some(Foreign), ALL, &nothing),
            (0, None, ALL, &nothing),
            // Not everything is known yet.
            (1, None, early, &make),
            (0, Some(AsWanted), early, &nothing),
            (1, None, blind, &nothing),
            // Opted out.
            (1, None, off, &nothing),
            (1, Some(AsWanted), off, &remove),
            (1, Some(Foreign), off, &nothing),
            (0, Some(AsWanted), Known { users: false, ..off }, &remove),
        ] {
            assert_eq!(place(users, policy).due(known, Instant::now()), *due, "{users} {policy:?} {known:?}");
        }
        assert!(place(0, None).is_empty() && !place(1, None).is_empty() && !place(0, Some(AsWanted)).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_elses_is_told_once_and_replaced_when_it_goes() {
        let (mut place, now) = (place(1, Some(Stands::Foreign)), Instant::now());
        place.tell();
        place.see(seen(Stands::Foreign));
        assert_eq!(place.due(ALL, now), Due::Nothing);
        place.lose();
        assert_eq!(place.due(ALL, now), Due::Now(Write::Apply { force: false }));
        place.see(seen(Stands::Foreign));
        assert_eq!(place.due(ALL, now), Due::Tell);
    }

    #[tokio::test(start_paused = true)]
    async fn one_write_at_a_time_and_none_while_it_stands() {
        let (mut place, now) = (place(1, None), Instant::now());
        assert_eq!(place.due(ALL, now), Due::Now(Write::Apply { force: false }));
        place.begin(now);
        assert_eq!(place.due(ALL, now), Due::Nothing);
        place.answered(false, now);
        assert_eq!(place.due(ALL, now), Due::At(now + PAUSE.0), "asked again if it never shows");
        place.see(seen(Stands::AsWanted));
        assert_eq!(place.due(ALL, now), Due::Nothing);
        // Taken away much later: at once.
        let later = now + CALM;
        place.lose();
        assert!(place.stood);
        assert_eq!(place.due(ALL, later), Due::Now(Write::Apply { force: false }));
    }

    #[tokio::test(start_paused = true)]
    async fn who_fights_is_answered_more_and_more_rarely() {
        let (mut place, mut now) = (place(1, None), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(place.due(ALL, now), Due::Now(Write::Apply { force: false }));
            place.begin(now);
            place.answered(false, now);
            place.see(seen(Stands::AsWanted));
            place.lose();
            let Due::At(at) = place.due(ALL, now) else { panic!("a write without a pause") };
            pauses.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        place.begin(now + CALM);
        place.answered(false, now + CALM);
        assert_eq!(place.due(ALL, now + CALM), Due::At(now + CALM + PAUSE.0), "calm since");
        place.begin(now + CALM + PAUSE.0);
        place.answered(true, now);
        assert_eq!(place.due(ALL, now), Due::At(now + PAUSE.1), "refused");
    }
}
