//! Slots that several activators share, and who may use which: revoke, acknowledge, grant.
//!
//! A [`Pool`] is a number of slots (an instance's `concurrency`, or a function's `reservedConcurrency`) and what each
//! member was told it may use of them. Messages take time and get lost with their streams, so what a member *may still
//! use* is not what it was told last: it is the most of every share told and not acknowledged, of the share it
//! acknowledged, and of the calls that it runs. The sum of that over all members never passes the total, and that is
//! the whole of rule 2: a share is raised only out of what nobody may use.
//!
//! [`Deal`] decides who is to have how much; this module makes sure that no decision can be wrong.

mod deal;

pub use deal::{Deal, EVEN_REST, REST, TURN, Wants};

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What one member was told, says that it acts by, and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Stake {
    /// The share that it acknowledged last.
    applied: u32,
    /// Shares told after that one, with the version in which each was told. Only falling ones: an older one that is not
    /// larger than a later one says nothing of what may be used, so that there are never more than the total.
    told: VecDeque<(u64, u32)>,
    /// The share that goes out with the next version.
    staged: Option<u32>,
    /// Calls that it said to run, at or after what it acknowledged.
    running: u32,
}

impl Stake {
    /// The share that it has once everything told has arrived.
    fn goal(&self) -> u32 {
        self.staged.or(self.told.back().map(|(_, share)| *share)).unwrap_or(self.applied)
    }

    /// The most slots that it may be using.
    fn held(&self) -> u32 {
        let told = self.told.front().map_or(0, |(_, share)| *share);
        self.applied.max(told).max(self.staged.unwrap_or(0)).max(self.running)
    }
}

/// Slots that nobody may be given because a member that ended badly may have left calls in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Blocked {
    until: Duration,
    slots: u32,
}

/// Slots and who may use them. `M` names a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool<M> {
    total: u32,
    members: BTreeMap<M, Stake>,
    blocked: Vec<Blocked>,
}

impl<M: Ord + Clone> Pool<M> {
    /// Slots that nobody has yet.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self { total, members: BTreeMap::new(), blocked: Vec::new() }
    }

    /// Another number of slots. When it is smaller, what is told too much has to be revoked: until then nothing is free.
    pub fn set_total(&mut self, total: u32) {
        self.total = total;
    }

    /// How many slots there are.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The share that a member has once everything told has arrived.
    #[must_use]
    pub fn goal(&self, member: &M) -> u32 {
        self.members.get(member).map_or(0, Stake::goal)
    }

    /// The most slots that a member may be using.
    #[must_use]
    pub fn held(&self, member: &M) -> u32 {
        self.members.get(member).map_or(0, Stake::held)
    }

    /// The share that a member has acknowledged.
    #[must_use]
    pub fn applied(&self, member: &M) -> u32 {
        self.members.get(member).map_or(0, |s| s.applied)
    }

    /// Calls that a member said to run.
    #[must_use]
    pub fn running(&self, member: &M) -> u32 {
        self.members.get(member).map_or(0, |s| s.running)
    }

    /// Slots that nobody may be using: only these are granted.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.total.saturating_sub(sum(self.members.values().map(Stake::held))).saturating_sub(self.blocked())
    }

    /// Slots blocked by members that ended badly.
    #[must_use]
    pub fn blocked(&self) -> u32 {
        sum(self.blocked.iter().map(|b| b.slots))
    }

    /// When the last of them is free again.
    #[must_use]
    pub fn blocked_until(&self) -> Option<Duration> {
        self.blocked.iter().map(|b| b.until).max()
    }

    /// Raises a member's share by as much as is free, at most by `more`; answers by how much.
    pub fn grant(&mut self, member: &M, more: u32) -> u32 {
        let free = self.free();
        let stake = self.members.entry(member.clone()).or_default();
        // What it may be using already costs nothing, free or not.
        let (goal, held) = (stake.goal(), stake.held());
        let raised = goal.saturating_add(more).min(held.saturating_add(free));
        if raised > goal {
            stake.staged = Some(raised);
        }
        raised.saturating_sub(goal)
    }

    /// Lowers a member's share by at most `less`; answers by how much. Others get it when it is free.
    pub fn revoke(&mut self, member: &M, less: u32) -> u32 {
        let Some(stake) = self.members.get_mut(member) else { return 0 };
        let goal = stake.goal();
        let lowered = goal.saturating_sub(less);
        if lowered < goal {
            stake.staged = Some(lowered);
        }
        goal - lowered
    }

    /// Everything decided since the last time goes out with this version; answers to whom.
    pub fn sent(&mut self, version: u64) -> Vec<M> {
        let mut to = Vec::new();
        for (member, stake) in &mut self.members {
            // Decided to and fro within one round: nothing to tell.
            let known = stake.told.back().map_or(stake.applied, |(_, share)| *share);
            let Some(share) = stake.staged.take().filter(|share| *share != known) else { continue };
            while stake.told.back().is_some_and(|(_, older)| *older <= share) {
                stake.told.pop_back();
            }
            stake.told.push_back((version, share));
            to.push(member.clone());
        }
        to
    }

    /// Something was decided that was not sent.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.members.values().any(|s| s.staged.is_some())
    }

    /// A member acts by this version. Its calls as of then must have been told before, by [`Pool::runs`].
    pub fn acknowledged(&mut self, member: &M, version: u64) {
        let Some(stake) = self.members.get_mut(member) else { return };
        while let Some((_, share)) = stake.told.front().copied().filter(|(told, _)| *told <= version) {
            stake.applied = share;
            stake.told.pop_front();
        }
        self.forget_empty();
    }

    /// A member runs so many calls.
    pub fn runs(&mut self, member: &M, calls: u32) {
        match self.members.get_mut(member) {
            Some(stake) => stake.running = calls,
            None if calls == 0 => return,
            None => {
                let stake = self.members.entry(member.clone()).or_default();
                stake.running = calls;
            }
        }
        self.forget_empty();
    }

    /// A member says what it acts by: after a new connection, or when this pool was made anew and it was not.
    pub fn found(&mut self, member: &M, share: u32) {
        self.members.entry(member.clone()).or_default().applied = share;
        self.forget_empty();
    }

    /// A member ended with nothing running: what it held is free.
    pub fn left(&mut self, member: &M) {
        self.members.remove(member);
    }

    /// A member ended and its calls may run on: what it held belongs to nobody until `until`.
    pub fn lost(&mut self, member: &M, until: Duration) {
        let held = self.members.remove(member).map_or(0, |stake| stake.held());
        if held > 0 {
            self.blocked.push(Blocked { until, slots: held });
        }
    }

    /// A member that is silent is known to use at most so many: it has nowhere else to run calls.
    pub fn at_most(&mut self, member: &M, most: u32) {
        if let Some(stake) = self.members.get_mut(member)
            && stake.held() > most
        {
            *stake = Stake { applied: most, running: stake.running.min(most), ..Stake::default() };
        }
        self.forget_empty();
    }

    /// Frees what was blocked until now; answers whether anything was.
    pub fn expire(&mut self, now: Duration) -> bool {
        let before = self.blocked.len();
        self.blocked.retain(|b| b.until > now);
        self.blocked.len() < before
    }

    /// Slots that these members share: all but those blocked, and those that others hold.
    #[must_use]
    fn shared_by(&self, is_one: impl Fn(&M) -> bool) -> u32 {
        let others = sum(self.members.iter().filter(|(m, _)| !is_one(m)).map(|(_, stake)| stake.held()));
        self.total.saturating_sub(others).saturating_sub(self.blocked())
    }

    /// Everyone who may be using slots.
    pub fn members(&self) -> impl Iterator<Item = &M> {
        self.members.keys()
    }

    fn forget_empty(&mut self) {
        self.members.retain(|_, stake| *stake != Stake::default());
    }
}

fn sum(numbers: impl Iterator<Item = u32>) -> u32 {
    numbers.fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests;
