//! Who is to have how many slots of one function: proportional to need, the rest even, and no flapping.
//!
//! A function has slots on each of its instances and perhaps a limit on all its calls. Free slots go at once to who has
//! calls waiting, else to who has fewest. Slots that somebody has are taken back only when somebody else needs them
//! more, at most every [`REST`]; so the messages that a function causes are bounded by time, not by its calls.

use super::Pool;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest time between two revocations for need: a function costs at most 20 rounds of messages a second, and a member
/// that got slots has them for several calls of a few milliseconds each.
pub const REST: Duration = Duration::from_millis(50);

/// How long a member keeps its last slot while others wait for a first one: they take turns.
pub const TURN: Duration = Duration::from_millis(250);

/// Shortest time between any revocation and one that nobody waits for.
pub const EVEN_REST: Duration = Duration::from_secs(1);

/// Calls of a function at one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wants {
    /// Waiting.
    pub queued: u32,
    /// Running.
    pub running: u32,
}

/// When slots were last moved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Turns<M> {
    /// The last revocation.
    pub(super) moved: Option<Duration>,
    /// When each member last got a slot while it had none.
    pub(super) gained: BTreeMap<M, Duration>,
}

impl<M> Default for Turns<M> {
    fn default() -> Self {
        Self { moved: None, gained: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Seat<M> {
    pub(super) pool: Pool<M>,
    /// It takes new calls: its slots are worth having.
    pub(super) taking: bool,
}

/// The slots of one function. `I` names an instance, `M` a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Deal<I, M> {
    pub(super) seats: BTreeMap<I, Seat<M>>,
    pub(super) reserved: Option<Pool<M>>,
    pub(super) slot_turns: Turns<M>,
    pub(super) reserved_turns: Turns<M>,
    /// See [`Deal::hold_reserved`].
    pub(super) reserved_held: bool,
}

impl<I, M> Default for Deal<I, M> {
    fn default() -> Self {
        let (slot_turns, reserved_turns) = (Turns::default(), Turns::default());
        Self { seats: BTreeMap::new(), reserved: None, slot_turns, reserved_turns, reserved_held: false }
    }
}

impl<I: Ord + Clone, M: Ord + Clone> Deal<I, M> {
    /// The instances there are now, each with its slots and whether it takes new calls. One that is not named takes none
    /// for now: it is forgotten only by [`Deal::retain`].
    pub fn set_instances(&mut self, told: impl IntoIterator<Item = (I, u32, bool)>) {
        self.seats.values_mut().for_each(|seat| seat.taking = false);
        for (id, total, taking) in told {
            let seat = self.seats.entry(id).or_insert_with(|| Seat { pool: Pool::new(total), taking });
            seat.pool.set_total(total);
            seat.taking = taking;
        }
    }

    /// Forgets instances that are gone, and with them every call that ran there.
    pub fn retain(&mut self, is_there: impl Fn(&I) -> bool) {
        self.seats.retain(|id, _| is_there(id));
    }

    /// Most calls of the function at once. A limit that is new finds members that act by some share of it (known from
    /// them), or by no limit at all (`None`): such a one may be using all of it until it acts by what it is told now.
    pub fn set_reserved(&mut self, reserved: Option<u32>, members: impl IntoIterator<Item = (M, Option<u32>)>) {
        match (reserved, &mut self.reserved) {
            (None, _) => self.reserved = None,
            (Some(total), Some(pool)) => pool.set_total(total),
            (Some(total), None) => {
                let mut pool = Pool::new(total);
                for (member, acts_by) in members {
                    pool.found(&member, acts_by.unwrap_or(total));
                    if acts_by.is_none() {
                        pool.revoke(&member, total);
                    }
                }
                self.reserved = Some(pool);
            }
        }
    }

    /// Nobody gets more of the limit for now, or again: at the start of who deals, members may be using some of it that
    /// have not been heard yet.
    pub fn hold_reserved(&mut self, held: bool) {
        self.reserved_held = held;
    }

    /// The slots of an instance.
    #[must_use]
    pub fn instance(&self, id: &I) -> Option<&Pool<M>> {
        self.seats.get(id).map(|seat| &seat.pool)
    }

    /// The slots of an instance, to be told what members say of it. Made when it is not known yet.
    pub fn instance_mut(&mut self, id: &I, total: u32) -> &mut Pool<M> {
        &mut self.seats.entry(id.clone()).or_insert_with(|| Seat { pool: Pool::new(total), taking: false }).pool
    }

    /// The limit on all calls, when there is one.
    #[must_use]
    pub fn reserved(&self) -> Option<&Pool<M>> {
        self.reserved.as_ref()
    }

    /// The limit on all calls, to be told what members say of it.
    pub fn reserved_mut(&mut self) -> Option<&mut Pool<M>> {
        self.reserved.as_mut()
    }

    /// Every pool.
    pub fn pools_mut(&mut self) -> impl Iterator<Item = &mut Pool<M>> {
        self.seats.values_mut().map(|seat| &mut seat.pool).chain(self.reserved.as_mut())
    }

    /// Every pool.
    pub fn pools(&self) -> impl Iterator<Item = &Pool<M>> {
        self.seats.values().map(|seat| &seat.pool).chain(self.reserved.as_ref())
    }

    /// Every instance and its slots.
    pub fn instances(&self) -> impl Iterator<Item = (&I, &Pool<M>)> {
        self.seats.iter().map(|(id, seat)| (id, &seat.pool))
    }

    /// Most slots that a member may be using on all instances together.
    #[must_use]
    pub fn held(&self, member: &M) -> u32 {
        super::sum(self.seats.values().map(|seat| seat.pool.held(member)))
    }

    /// Frees what was blocked until now; answers when more will be.
    pub fn expire(&mut self, now: Duration) -> Option<Duration> {
        self.pools_mut().for_each(|pool| {
            pool.expire(now);
        });
        self.pools().flat_map(|pool| pool.blocked.iter().map(|b| b.until)).min()
    }

    /// Moves slots between the members that live; answers when to look again although nothing happens. While the limit is
    /// held nobody gets more of it: not all who may be using some of it have been heard.
    pub fn balance(&mut self, now: Duration, live: &BTreeMap<M, Wants>) -> Option<Duration> {
        let mut later = None;
        let mut wants = live.clone();
        if let Some(pool) = &mut self.reserved {
            if !self.reserved_held {
                later = Round::new(vec![&mut *pool], &wants, &mut self.reserved_turns, now).play();
            }
            // Slots are no use to who may not run a call: without this, two members could hold one half each for ever.
            for (member, wants) in &mut wants {
                wants.queued = wants.queued.min(pool.goal(member).saturating_sub(wants.running));
            }
        }
        let pools = self.seats.values_mut().filter(|seat| seat.taking).map(|seat| &mut seat.pool).collect();
        let slots = Round::new(pools, &wants, &mut self.slot_turns, now).play();
        [later, slots].into_iter().flatten().min()
    }
}

/// One member within a round.
struct Hand<M> {
    member: M,
    /// Calls queued and running.
    calls: u64,
    /// Waiting calls beyond the slots that stand empty.
    need: u32,
    /// Its shares together.
    goal: u32,
}

/// One look at all pools of a function.
struct Round<'a, M> {
    pools: Vec<&'a mut Pool<M>>,
    hands: Vec<Hand<M>>,
    scale: Scale,
    turns: &'a mut Turns<M>,
    now: Duration,
}

impl<'a, M: Ord + Clone> Round<'a, M> {
    fn new(pools: Vec<&'a mut Pool<M>>, live: &BTreeMap<M, Wants>, turns: &'a mut Turns<M>, now: Duration) -> Self {
        let hands = live.iter().map(|(member, wants)| {
            let unused = super::sum(pools.iter().map(|p| p.goal(member).saturating_sub(p.running(member))));
            Hand {
                member: member.clone(),
                calls: u64::from(wants.queued) + u64::from(wants.running),
                need: wants.queued.saturating_sub(unused),
                goal: super::sum(pools.iter().map(|p| p.goal(member))),
            }
        });
        let hands: Vec<Hand<M>> = hands.collect();
        let slots = pools.iter().map(|p| i128::from(p.shared_by(|m| live.contains_key(m)))).sum();
        let calls = hands.iter().map(|h| i128::from(h.calls)).sum();
        let scale = Scale::new(calls, slots, i128::try_from(hands.len()).unwrap_or(1));
        Self { pools, hands, scale, turns, now }
    }

    fn play(mut self) -> Option<Duration> {
        if self.hands.is_empty() {
            return None;
        }
        self.shrink();
        for at in 0..self.pools.len() {
            self.deal_out(at);
        }
        self.turns.gained.retain(|member, _| self.hands.iter().any(|h| h.member == *member));
        if self.needed() == 0 {
            return self.even_out();
        }
        self.expect();
        match self.needed() {
            0 => None,
            missing => self.move_for_need(missing),
        }
    }

    /// Waiting calls for which nobody has an empty slot.
    fn needed(&self) -> u32 {
        super::sum(self.hands.iter().map(|h| h.need))
    }

    /// Slots that are on their way back count as of those who will get them: nothing is taken twice for the same need.
    fn expect(&mut self) {
        let mut coming = self.coming();
        while coming > 0 && self.needed() > 0 {
            let Some((to, amount)) = self.next_hand(0, coming) else { return };
            let hand = &mut self.hands[to];
            hand.goal += amount;
            hand.need = hand.need.saturating_sub(amount);
            coming -= amount.min(coming);
        }
    }

    /// A total that became smaller: what was told too much is revoked from who has most.
    fn shrink(&mut self) {
        for pool in &mut self.pools {
            let mut told = super::sum(pool.members.values().map(super::Stake::goal));
            while told > pool.total {
                let most = self.hands.iter_mut().max_by_key(|h| pool.goal(&h.member));
                let Some(most) = most.filter(|h| pool.goal(&h.member) > 0) else { break };
                let less = pool.revoke(&most.member, (told - pool.total).min(pool.goal(&most.member).div_ceil(2)));
                most.goal -= less;
                told -= less;
            }
        }
    }

    /// Free slots of one pool: to who needs them, then to who has fewest.
    fn deal_out(&mut self, at: usize) {
        let mut free = self.pools[at].free();
        while free > 0 {
            let Some((to, amount)) = self.next_hand(at, free) else { return };
            let got = self.pools[at].grant(&self.hands[to].member.clone(), amount);
            if got == 0 {
                return;
            }
            let hand = &mut self.hands[to];
            if hand.goal == 0 {
                self.turns.gained.insert(hand.member.clone(), self.now);
            }
            hand.goal += got;
            hand.need = hand.need.saturating_sub(got);
            free = self.pools[at].free();
        }
    }

    /// Who gets free slots next, and how many.
    fn next_hand(&self, at: usize, free: u32) -> Option<(usize, u32)> {
        let n = self.hands.len();
        // Of equals the first one turns with the instance, so that odd slots do not all go to one member.
        let turned = |i: usize| (i + n - at % n) % n;
        let needy = (0..n).filter(|i| self.hands[*i].need > 0);
        let first = needy.max_by_key(|i| {
            let hand = &self.hands[*i];
            let last = self.turns.gained.get(&hand.member).copied().unwrap_or_default();
            // Who has none comes first; of several the one that has waited longest for its turn.
            let turn = if hand.goal == 0 { std::cmp::Reverse(last) } else { std::cmp::Reverse(Duration::MAX) };
            (hand.goal == 0, turn, self.scale.gap(hand), n - turned(*i))
        });
        if let Some(i) = first {
            let part = u32::try_from(self.scale.gap(&self.hands[i]) / self.scale.unit).unwrap_or(0);
            return Some((i, self.hands[i].need.min(part.max(1)).min(free)));
        }
        let least = (0..n).min_by_key(|i| (self.hands[*i].goal, turned(*i)))?;
        let next = self.hands.iter().enumerate().filter(|(i, _)| *i != least).map(|(_, h)| h.goal).min();
        let even = free / u32::try_from(n).unwrap_or(u32::MAX);
        let up_to = next.map_or(free, |next| next - self.hands[least].goal);
        Some((least, up_to.max(even).max(1)))
    }

    /// Slots that were revoked and are on their way back.
    fn coming(&self) -> u32 {
        let of = |p: &Pool<M>, h: &Hand<M>| p.held(&h.member).saturating_sub(p.goal(&h.member));
        super::sum(self.pools.iter().map(|p| super::sum(self.hands.iter().map(|h| of(p, h)))))
    }

    /// Takes slots back for those whose calls wait, as far as their part is larger than what they have.
    fn move_for_need(&mut self, mut missing: u32) -> Option<Duration> {
        if let Some(later) = self.rests(REST) {
            return Some(later);
        }
        let mut later = None;
        let unit = self.scale.unit;
        let mut needy: Vec<usize> = (0..self.hands.len()).filter(|i| self.hands[*i].need > 0).collect();
        needy.sort_by_key(|i| (self.hands[*i].goal > 0, std::cmp::Reverse(self.hands[*i].need)));
        for to in needy {
            while missing > 0 && self.hands[to].need > 0 {
                let gap = |i: usize| self.scale.gap(&self.hands[i]);
                let from =
                    (0..self.hands.len()).filter(|i| *i != to && self.hands[*i].goal > 0).min_by_key(|i| gap(*i));
                let Some(from) = from else { break };
                let better = gap(to) - gap(from);
                let first = self.hands[to].goal == 0;
                let amount = if better > unit {
                    // Half of the difference, so that the two do not change places.
                    u32::try_from((better / (2 * unit)).max(1)).unwrap_or(u32::MAX)
                } else if first {
                    // Moving one only changes who waits: they take turns.
                    match self.turn_of() {
                        Ok(_) => 1,
                        Err(at) => {
                            later = [later, at].into_iter().flatten().min();
                            break;
                        }
                    }
                } else {
                    break;
                };
                let from = if better > unit { from } else { self.turn_of().unwrap_or(from) };
                let moved = self.take(from, amount.min(self.hands[to].need).min(missing), false);
                if moved == 0 {
                    break;
                }
                // Not to be counted again: the slots are on their way to it.
                let hand = &mut self.hands[to];
                hand.need -= moved.min(hand.need);
                hand.goal += moved;
                missing -= moved.min(missing);
            }
        }
        later
    }

    /// Who gives up a slot for a member that has none: one with several, else the one that has had its only one longest,
    /// when that is long enough.
    fn turn_of(&self) -> Result<usize, Option<Duration>> {
        let with = (0..self.hands.len()).filter(|i| self.hands[*i].goal > 0);
        let Some(most) = with.clone().max_by_key(|i| self.hands[*i].goal) else { return Err(None) };
        if self.hands[most].goal > 1 {
            return Ok(most);
        }
        let since = |i: &usize| self.turns.gained.get(&self.hands[*i].member).copied().unwrap_or_default();
        let Some(longest) = with.min_by_key(since) else { return Err(None) };
        let at = since(&longest) + TURN;
        if self.now >= at { Ok(longest) } else { Err(Some(at)) }
    }

    /// Nobody waits. Who has less than half of an even part gets it from those who have more than theirs and use it not.
    fn even_out(&mut self) -> Option<Duration> {
        let n = i128::try_from(self.hands.len()).unwrap_or(1);
        let even = u32::try_from(self.scale.slots / n).unwrap_or(u32::MAX);
        let poor = |h: &Hand<M>| u64::from(h.goal) * 2 < u64::from(even);
        let most = even.saturating_add(u32::from(self.scale.slots % n > 0));
        let missing = super::sum(self.hands.iter().filter(|h| poor(h)).map(|h| even - h.goal));
        let mut left = missing.saturating_sub(self.coming());
        if left == 0 {
            return None;
        }
        let rich: Vec<usize> =
            (0..self.hands.len()).filter(|i| self.hands[*i].goal > most && self.unused(*i) > 0).collect();
        if rich.is_empty() {
            return None;
        }
        if let Some(later) = self.rests(EVEN_REST) {
            return Some(later);
        }
        for from in rich {
            left -= self.take(from, left.min(self.hands[from].goal - most), true).min(left);
        }
        None
    }

    fn unused(&self, i: usize) -> u32 {
        let member = &self.hands[i].member;
        super::sum(self.pools.iter().map(|p| p.goal(member).saturating_sub(p.running(member))))
    }

    /// When slots may be taken back again, if that is later than now.
    fn rests(&self, rest: Duration) -> Option<Duration> {
        self.turns.moved.map(|at| at + rest).filter(|at| self.now < *at)
    }

    /// Revokes slots of one member: those that stand empty first, and only those when asked so.
    fn take(&mut self, from: usize, amount: u32, empty_only: bool) -> u32 {
        let member = self.hands[from].member.clone();
        let mut left = amount;
        while left > 0 {
            let empty = |p: &Pool<M>| p.goal(&member).saturating_sub(p.running(&member));
            let Some(pool) = self.pools.iter_mut().max_by_key(|p| (empty(p), p.goal(&member))) else { break };
            let there = match empty(pool) {
                0 if empty_only => 0,
                0 => 1,
                empty => empty,
            };
            let took = pool.revoke(&member, left.min(there));
            if took == 0 {
                break;
            }
            left -= took;
        }
        let took = amount - left;
        if took > 0 {
            self.hands[from].goal -= took;
            self.turns.moved = Some(self.now);
        }
        took
    }
}

/// What part of all slots each member should have, in whole numbers: fractions of a slot have `unit` as denominator.
struct Scale {
    calls: i128,
    slots: i128,
    unit: i128,
    /// There is a slot for each call: each member has those, and the rest is even.
    ample: bool,
}

impl Scale {
    fn new(calls: i128, slots: i128, members: i128) -> Self {
        let ample = calls <= slots;
        Self { calls, slots, unit: if ample { members } else { calls }, ample }
    }

    /// A member's part less what it has.
    fn gap<M>(&self, hand: &Hand<M>) -> i128 {
        let calls = i128::from(hand.calls);
        let part = if self.ample { calls * self.unit + (self.slots - self.calls) } else { self.slots * calls };
        part - i128::from(hand.goal) * self.unit
    }
}
