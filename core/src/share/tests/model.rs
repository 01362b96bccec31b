//! Every order of events in a small world: two or three activators, one instance with one or two slots, messages that
//! take their time in both directions. Each reachable state is looked at once; versions are told apart by order only, so
//! that there are finitely many.
//!
//! What must hold in every state: no more calls run than there are slots, whoever ran or runs them. And from every state
//! on, when nothing new comes, whoever waits is served and every slot has an owner again.

use super::*;
use std::collections::{HashMap, HashSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    /// Not there.
    Away,
    /// Connected.
    Up,
    /// Its stream is broken, it works on.
    Cut,
    /// It was killed, and nobody knows.
    Killed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    life: Life,
    /// What it acts by.
    version: u64,
    share: u32,
    queued: u32,
    running: u32,
    /// Updates on their way to it.
    down: Vec<(u64, u32)>,
    /// A report on its way: version, queued, running.
    up: Option<(u64, u32, u32)>,
    /// What it reported last.
    said: (u64, u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    deal: Deal<u8, u8>,
    known: BTreeMap<u8, Wants>,
    version: u64,
    nodes: Vec<Node>,
    /// Calls that run on although whoever sent them was killed.
    orphans: u32,
}

const AWAY: Node =
    Node { life: Life::Away, version: 0, share: 0, queued: 0, running: 0, down: Vec::new(), up: None, said: (0, 0, 0) };

/// Calls of a killed one are over by then.
const OVER: Duration = Duration::from_secs(30);

/// States of the short form: a few seconds.
const SHORT: usize = 12_000;

#[derive(Clone, Copy, Debug)]
enum Move {
    Join(usize),
    Leave(usize),
    Kill(usize),
    Cut(usize),
    Call(usize),
    // From here on the world only comes to rest.
    Deliver(usize),
    Send(usize),
    Hear(usize),
    End(usize),
    Back(usize),
    OrphanEnds,
    Notice(usize),
    Unblock,
    TimePasses,
}

impl World {
    fn new(nodes: usize, slots: u32) -> Self {
        let mut deal = Deal::default();
        deal.set_instances([(0, slots, true)]);
        Self { deal, known: BTreeMap::new(), version: 0, nodes: vec![AWAY; nodes], orphans: 0 }
    }

    fn pool(&mut self) -> &mut Pool<u8> {
        self.deal.instance_mut(&0, 0)
    }

    /// Everything that can happen, what brings new things first.
    fn moves(&self, disturb: bool) -> Vec<Move> {
        let mut moves = Vec::new();
        let calm_kill = self.nodes.iter().all(|n| n.life != Life::Killed)
            && self.orphans == 0
            && self.deal.pools().all(|p| p.blocked() == 0);
        for (i, n) in self.nodes.iter().enumerate().filter(|_| disturb) {
            match n.life {
                Life::Away => moves.push(Move::Join(i)),
                Life::Up => {
                    if n.running + n.queued == 0 {
                        moves.push(Move::Leave(i));
                    }
                    if calm_kill {
                        moves.push(Move::Kill(i));
                    }
                    moves.push(Move::Cut(i));
                }
                Life::Cut | Life::Killed => {}
            }
            if matches!(n.life, Life::Up | Life::Cut) && n.queued == 0 {
                moves.push(Move::Call(i));
            }
        }
        for (i, n) in self.nodes.iter().enumerate() {
            if !n.down.is_empty() {
                moves.push(Move::Deliver(i));
            }
            if n.up.is_some() {
                moves.push(Move::Hear(i));
            } else if n.life == Life::Up && n.said != (n.version, n.queued, n.running) {
                moves.push(Move::Send(i));
            }
        }
        moves.extend((0..self.nodes.len()).filter(|i| self.nodes[*i].running > 0).map(Move::End));
        if self.orphans > 0 {
            moves.push(Move::OrphanEnds);
        }
        for (i, n) in self.nodes.iter().enumerate() {
            match n.life {
                Life::Cut => moves.push(Move::Back(i)),
                Life::Killed => moves.push(Move::Notice(i)),
                Life::Away | Life::Up => {}
            }
        }
        if self.orphans == 0 && self.deal.pools().any(|p| p.blocked() > 0) {
            moves.push(Move::Unblock);
        }
        if self.deal.slot_turns.moved.is_some() || !self.deal.slot_turns.gained.is_empty() {
            moves.push(Move::TimePasses);
        }
        moves
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::Join(i) => {
                self.nodes[i] = Node { life: Life::Up, ..AWAY };
                self.known.insert(i as u8, Wants::default());
                self.decide();
            }
            Move::Leave(i) => {
                self.nodes[i] = AWAY;
                self.known.remove(&(i as u8));
                self.pool().left(&(i as u8));
                self.decide();
            }
            Move::Kill(i) => {
                self.orphans += self.nodes[i].running;
                self.nodes[i] = Node { life: Life::Killed, ..AWAY };
            }
            Move::Cut(i) => {
                let n = &mut self.nodes[i];
                (n.life, n.up) = (Life::Cut, None);
                n.down.clear();
                self.known.remove(&(i as u8));
                self.decide();
            }
            Move::Call(i) => {
                self.nodes[i].queued += 1;
                self.nodes[i].serve();
            }
            Move::Deliver(i) => {
                let n = &mut self.nodes[i];
                (n.version, n.share) = n.down.remove(0);
                n.serve();
            }
            Move::Send(i) => {
                let n = &mut self.nodes[i];
                n.said = (n.version, n.queued, n.running);
                n.up = Some(n.said);
            }
            Move::Hear(i) => {
                let (version, queued, running) = self.nodes[i].up.take().unwrap();
                self.known.insert(i as u8, Wants { queued, running });
                self.pool().runs(&(i as u8), running);
                self.pool().acknowledged(&(i as u8), version);
                self.decide();
            }
            Move::End(i) => {
                self.nodes[i].running -= 1;
                self.nodes[i].serve();
            }
            Move::Back(i) => self.back(i),
            Move::OrphanEnds => self.orphans -= 1,
            Move::Notice(i) => {
                self.nodes[i] = AWAY;
                self.known.remove(&(i as u8));
                self.pool().lost(&(i as u8), OVER);
                self.decide();
            }
            Move::Unblock => {
                self.deal.expire(OVER);
                self.decide();
            }
            Move::TimePasses => {
                self.deal.slot_turns = deal::Turns::default();
                self.decide();
            }
        }
    }

    /// It comes back: says all, is told all.
    fn back(&mut self, i: usize) {
        let n = &mut self.nodes[i];
        n.life = Life::Up;
        n.said = (n.version, n.queued, n.running);
        let (said, share) = (n.said, n.share);
        let member = i as u8;
        self.known.insert(member, Wants { queued: said.1, running: said.2 });
        self.pool().found(&member, share);
        self.pool().runs(&member, said.2);
        self.pool().acknowledged(&member, said.0);
        let goal = self.pool().goal(&member);
        let version = self.version;
        self.nodes[i].down = vec![(version, goal)];
        self.decide();
    }

    fn decide(&mut self) {
        let known = self.known.clone();
        self.deal.balance(Duration::ZERO, &known);
        if !self.pool().has_staged() {
            return;
        }
        self.version += 1;
        let version = self.version;
        for member in self.pool().sent(version) {
            let goal = self.pool().goal(&member);
            let down = &mut self.nodes[usize::from(member)].down;
            // One update is on the wire; what waits behind it is told as it is by then.
            down.truncate(1);
            down.push((version, goal));
        }
    }

    fn check(&self) {
        let pool = self.deal.instance(&0).unwrap();
        let running: u32 = self.nodes.iter().map(|n| n.running).sum::<u32>() + self.orphans;
        assert!(running <= pool.total(), "{running} calls at once: {self:?}");
        assert!(held(pool) <= pool.total(), "{self:?}");
    }

    fn check_rest(&self) {
        let pool = self.deal.instance(&0).unwrap();
        assert!(self.nodes.iter().all(|n| n.queued == 0), "somebody waits for ever: {self:?}");
        let owned: u32 = self.nodes.iter().map(|n| n.share).sum();
        let anybody = self.nodes.iter().any(|n| n.life == Life::Up);
        assert_eq!(owned, if anybody { pool.total() } else { 0 }, "a slot is lost: {self:?}");
    }

    /// Versions by their order, so that states that differ by history alone are one.
    fn normal(mut self) -> Self {
        let mut versions: Vec<u64> = vec![0, self.version];
        for n in &self.nodes {
            versions.extend([n.version, n.said.0]);
            versions.extend(n.down.iter().map(|d| d.0).chain(n.up.map(|u| u.0)));
        }
        for stake in self.deal.pools().flat_map(|p| p.members.values()) {
            versions.extend(stake.told.iter().map(|t| t.0));
        }
        versions.sort_unstable();
        versions.dedup();
        let rank = |v: &mut u64| *v = versions.binary_search(v).unwrap() as u64;
        rank(&mut self.version);
        for n in &mut self.nodes {
            rank(&mut n.version);
            rank(&mut n.said.0);
            n.down.iter_mut().for_each(|d| rank(&mut d.0));
            n.up.iter_mut().for_each(|u| rank(&mut u.0));
        }
        for pool in self.deal.pools_mut() {
            pool.members.values_mut().flat_map(|s| s.told.iter_mut()).for_each(|t| rank(&mut t.0));
        }
        self
    }

    fn after(&self, step: Move) -> Self {
        let mut next = self.clone();
        next.make(step);
        next.check();
        next.normal()
    }
}

impl Node {
    fn serve(&mut self) {
        while self.queued > 0 && self.running < self.share {
            self.queued -= 1;
            self.running += 1;
        }
    }
}

/// Every state that can be reached, nearest first; the short form looks at so many and no further.
fn explore(nodes: usize, slots: u32) -> HashSet<World> {
    let most = if std::env::var_os("DORMOUSE_LONG").is_some() { usize::MAX } else { SHORT };
    let first = World::new(nodes, slots).normal();
    let mut seen = HashSet::from([first.clone()]);
    let mut todo = VecDeque::from([first]);
    while let Some(world) = todo.pop_front().filter(|_| seen.len() < most) {
        for step in world.moves(true) {
            let next = world.after(step);
            if !seen.contains(&next) {
                seen.insert(next.clone());
                todo.push_back(next);
            }
        }
    }
    seen
}

/// From every state the world comes to rest, and at rest all is well.
fn comes_to_rest(states: &HashSet<World>) {
    let mut good: HashSet<World> = HashSet::new();
    for state in states {
        let mut path: HashMap<World, Move> = HashMap::new();
        let mut at = state.clone();
        while !good.contains(&at) {
            let Some(step) = at.moves(false).first().copied() else {
                at.check_rest();
                break;
            };
            let next = at.after(step);
            assert!(path.insert(at, step).is_none(), "it goes on for ever: {next:?}");
            at = next;
        }
        good.extend(path.into_keys());
        good.insert(at);
    }
}

fn world(nodes: usize, slots: u32, least: usize) {
    let states = explore(nodes, slots);
    assert!(states.len() >= least, "{} states only", states.len());
    comes_to_rest(&states);
}

#[test]
fn two_members_and_one_slot() {
    world(2, 1, 1000);
}

#[test]
fn two_members_and_two_slots() {
    world(2, 2, 1000);
}

#[test]
fn three_members_and_one_slot() {
    world(3, 1, 10_000);
}
