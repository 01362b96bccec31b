//! What several activators may still spend of one budget: give, acknowledge, take back.
//!
//! An [`Account`] is a limit, what the ledger has of the period (the *base*), and what each member was told it may spend
//! in all (its *allowance*) and says that it has spent. Amounts only grow: a member dispatches a call while what it has
//! spent is less than its allowance, and adds the call's cost when that is over. So it passes its allowance by the calls
//! that run at that moment, and by no others.
//!
//! What a member *may have spent* is the most of every allowance told and not acknowledged, of the one that it acts by,
//! and of what it says. The base has a part of that already, the *settled* one. The sum of the rest over all members and
//! the base never passes the limit by an allowance: that is the whole rule. What members say they spent is an upper bound
//! (see [`crate::price::PricePlan::dearest`]), so only the base says that a budget is used up.

use std::collections::{BTreeMap, VecDeque};

/// An amount in the smallest unit that is counted: see [`crate::budget::Limit`].
pub type Amount = u128;

/// Allowances told to one member and not acknowledged; behind them nothing new is told until it speaks. A report follows
/// each within milliseconds.
const MAX_TOLD: usize = 64;

/// What a member says of its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The number of the newest allowance that it acts by.
    pub acts_by: u64,
    /// What it may spend in all.
    pub allowed: Amount,
    /// What it spent in all.
    pub spent: Amount,
    /// The part of that which the ledger has.
    pub settled: Amount,
    /// Calls wait for it to be given more.
    pub wants: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Stake {
    /// The allowance that it acts by.
    applied: Amount,
    /// Those told after it, by number.
    told: VecDeque<(u64, Amount)>,
    spent: Amount,
    /// The part of that which the base has.
    settled: Amount,
    /// The part of it which the ledger has by now.
    settled_said: Amount,
    wants: bool,
    /// It spent something since something was last taken back from it.
    active: bool,
    /// It can be told something.
    listens: bool,
    /// It has ended: what it spent is held until the base has it.
    ended: bool,
    /// The ledger was asked since.
    asked: bool,
}

impl Stake {
    /// The allowance that it has once everything told has arrived.
    fn goal(&self) -> Amount {
        self.told.back().map_or(self.applied, |(_, allowed)| *allowed)
    }

    /// The most that it may have spent when everything told is used.
    fn most(&self) -> Amount {
        let told = self.told.iter().map(|(_, allowed)| *allowed).max().unwrap_or(0);
        self.applied.max(told).max(self.spent)
    }

    /// The same without what the base has.
    fn held(&self) -> Amount {
        self.most().saturating_sub(self.settled)
    }

    /// What it spent that the base does not have.
    fn unsettled(&self) -> Amount {
        self.spent.saturating_sub(self.settled)
    }

    fn left(&self) -> Amount {
        self.goal().saturating_sub(self.spent)
    }
}

/// One budget's period, and who spends of it. `M` names a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account<M: Ord> {
    limit: Amount,
    base: Amount,
    /// Number of the newest allowance.
    number: u64,
    /// Whether anybody is given anything.
    hold: Hold,
    members: BTreeMap<M, Stake>,
}

/// Whether an account gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Hold {
    /// It does.
    #[default]
    None,
    /// Not while others may hold allowances that are not known yet.
    Held,
    /// Those who come back have come. Who does not come back has ended, and what he spent is in the ledger, which is to be
    /// asked once more.
    Stale,
    /// It is being asked.
    Asked,
}

/// An allowance to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Grows with every allowance of the account.
    pub number: u64,
    /// What the member may spend in all, from now on.
    pub allowed: Amount,
}

impl<M: Ord + Clone> Account<M> {
    /// An account of which nobody may spend anything yet.
    #[must_use]
    pub fn new(limit: Amount, base: Amount) -> Self {
        Self { limit, base, number: 0, hold: Hold::None, members: BTreeMap::new() }
    }

    /// Another limit: what is told too much is taken back, what is free is given, with the next [`Account::deal`].
    pub fn set_limit(&mut self, limit: Amount) {
        self.limit = limit;
    }

    /// What the ledger has of the period.
    #[must_use]
    pub fn base(&self) -> Amount {
        self.base
    }

    /// The ledger says that all of it is used.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.base >= self.limit
    }

    /// A member begins to listen; with what it says by itself, as [`Account::hear`] takes it.
    pub fn join(&mut self, member: &M, said: Said) {
        let stake = self.members.entry(member.clone()).or_default();
        // What was told on another way may still arrive, or never: what it acts by is what it says.
        *stake = Stake { applied: said.allowed, listens: true, settled: stake.settled, ..Stake::default() };
        self.hear(member, said);
    }

    /// A member says how things stand.
    pub fn hear(&mut self, member: &M, said: Said) {
        let Some(stake) = self.members.get_mut(member) else { return };
        stake.active |= said.spent > stake.spent;
        // It is one process: what it spent only grows.
        stake.spent = stake.spent.max(said.spent);
        stake.settled_said = stake.settled_said.max(said.settled.min(said.spent));
        stake.wants = said.wants;
        while let Some((_, allowed)) = stake.told.front().copied().filter(|(number, _)| *number <= said.acts_by) {
            stake.applied = allowed;
            stake.told.pop_front();
        }
    }

    /// A member can be told nothing for now, and spends on by what it was told.
    pub fn mute(&mut self, member: &M) {
        if let Some(stake) = self.members.get_mut(member) {
            stake.listens = false;
        }
    }

    /// A member says that it spends no more: all but what it spent is others'.
    pub fn quit(&mut self, member: &M) {
        if let Some(stake) = self.members.get_mut(member) {
            stake.told.clear();
            (stake.applied, stake.listens, stake.wants) = (stake.spent, false, false);
        }
    }

    /// Everything begins anew, for the same members: nobody has spent anything, or may.
    pub fn restart(&mut self) {
        self.base = 0;
        for stake in self.members.values_mut() {
            *stake = Stake { listens: stake.listens, ended: stake.ended, ..Stake::default() };
        }
    }

    /// Who takes part.
    pub fn members(&self) -> impl Iterator<Item = &M> {
        self.members.iter().filter(|(_, stake)| !stake.ended).map(|(member, _)| member)
    }

    /// Nobody takes part any more.
    pub fn clear(&mut self) {
        self.members.clear();
    }

    /// What a member was told last, or acts by.
    #[must_use]
    pub fn standing(&self, member: &M) -> Told {
        let stake = self.members.get(member);
        let told = stake.and_then(|stake| stake.told.back().copied());
        let (number, allowed) = told.unwrap_or((0, stake.map_or(0, |stake| stake.applied)));
        Told { number, allowed }
    }

    /// A member is known to have ended. What it may have spent is held until the ledger was asked, which has by then what
    /// was shipped; what it did not spend belongs to the others.
    pub fn left(&mut self, member: &M) {
        if let Some(stake) = self.members.get_mut(member) {
            (stake.ended, stake.listens, stake.wants) = (true, false, false);
        }
    }

    /// Whether nobody is to be given anything for now: others may hold allowances that are not known yet. After it the
    /// ledger has to be asked before anybody is.
    pub fn hold(&mut self, held: bool) {
        self.hold = match (held, self.hold) {
            (true, _) => Hold::Held,
            (false, Hold::Held) => Hold::Stale,
            (false, as_it_is) => as_it_is,
        };
    }

    /// The ledger is about to be asked for a new base: what each member has in it by its own words.
    pub fn ask(&mut self) -> BTreeMap<M, Amount> {
        self.members.values_mut().for_each(|stake| stake.asked = stake.ended);
        if self.hold == Hold::Stale {
            self.hold = Hold::Asked;
        }
        self.members.iter().map(|(member, stake)| (member.clone(), stake.settled_said)).collect()
    }

    /// The ledger's sum, which has at least that of each member.
    pub fn rebase(&mut self, base: Amount, settled: &BTreeMap<M, Amount>) {
        self.base = base;
        if self.hold == Hold::Asked {
            self.hold = Hold::None;
        }
        for (member, stake) in &mut self.members {
            let known = settled.get(member).copied().unwrap_or_default();
            stake.settled = stake.settled.max(known);
        }
        self.members.retain(|_, stake| !(stake.ended && stake.asked));
    }

    /// What nobody may spend yet.
    #[must_use]
    pub fn free(&self) -> Amount {
        let held = sum(self.members.values().map(Stake::held));
        self.limit.saturating_sub(self.base).saturating_sub(held)
    }

    /// What is spent as far as is known: an upper bound.
    #[must_use]
    pub fn spent(&self) -> Amount {
        self.base.saturating_add(sum(self.members.values().map(Stake::unsettled)))
    }

    /// True when the ledger is to be asked: all is spent as far as is known and it has not said so, or nobody is given
    /// anything before.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.hold == Hold::Stale || !self.is_used_up() && self.spent() >= self.limit
    }

    /// Gives what is free, and takes back from those who do not need it when somebody does; answers what to tell whom.
    ///
    /// Half of what is left is shared evenly, the other half by those who spend. So one busy member of many has at least
    /// half of it, and an idle one can begin without asking.
    pub fn deal(&mut self) -> Vec<(M, Told)> {
        let rest = self.limit.saturating_sub(self.spent());
        let listening = self.members.values().filter(|stake| stake.listens);
        let (all, busy) = listening.fold((0, 0), |(all, busy), s| (all + 1, busy + Amount::from(s.active || s.wants)));
        if all == 0 {
            return Vec::new();
        }
        let even = if all == busy || all == 1 { rest / all } else { rest / 2 / all };
        let extra = if busy == 0 || even == rest / all { 0 } else { rest / 2 / busy };
        let fair = |stake: &Stake| match (stake.wants, stake.active) {
            // The last unit goes to whoever waits.
            (true, _) => (even + extra).max(1),
            (false, true) => even + extra,
            (false, false) => even,
        };
        // Whoever waits and would get nothing needs what others hold.
        let free = self.free();
        let starving = free == 0 && rest > 0 && self.members.values().any(|s| s.listens && s.wants && s.left() == 0);
        // The base has grown by what no allowance is for: capacity that is kept warm, a former life's records.
        let over = self.base.saturating_add(sum(self.members.values().map(Stake::held))) > self.limit;
        let mut told = Vec::new();
        for (member, stake) in self.members.iter_mut().filter(|(_, stake)| stake.listens) {
            let (left, fair) = (stake.left(), fair(stake));
            if ((starving || over) && left > fair || left > fair.saturating_mul(2)) && stake.told.len() < MAX_TOLD {
                self.number += 1;
                let next = Told { number: self.number, allowed: stake.spent + fair };
                stake.told.push_back((next.number, next.allowed));
                told.push((member.clone(), next));
                stake.active = false;
            }
        }
        if self.hold == Hold::None {
            self.give(fair, &mut told);
        }
        told
    }

    /// Raises those who have little, out of what is free: whoever waits first.
    fn give(&mut self, fair: impl Fn(&Stake) -> Amount, told: &mut Vec<(M, Told)>) {
        let mut order: Vec<(bool, Amount, M)> = self
            .members
            .iter()
            .filter(|(_, stake)| stake.listens)
            .map(|(member, stake)| (!stake.wants, stake.left(), member.clone()))
            .collect();
        order.sort();
        for (_, left, member) in order {
            let free = self.free();
            let Some(stake) = self.members.get_mut(&member) else { continue };
            let fair = fair(stake);
            let little = left <= fair / 2 || stake.wants && left == 0;
            // What it may have spent already costs nothing, free or not.
            let most = stake.most().saturating_add(free);
            let allowed = stake.spent.saturating_add(fair).min(most);
            if !little || allowed <= stake.goal() || stake.told.len() >= MAX_TOLD {
                continue;
            }
            self.number += 1;
            let next = Told { number: self.number, allowed };
            stake.told.push_back((next.number, allowed));
            told.push((member, next));
        }
    }
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(0, Amount::saturating_add)
}

#[cfg(test)]
mod tests;
