//! The rules of admission under any order of events.

use super::*;

mod model;

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LIMITS: Limits = Limits { max_calls: 4, max_wait: Duration::from_secs(10) };

fn at(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn start_is_the_wait_for_the_port_and_wait_is_the_rest() {
    let mut room: Room<&str, u32> = Room::new(LIMITS);
    let Entry::Wait(_) = room.enter(at(1), || 7) else { panic!("nothing is open") };
    let seat = room.add("a", 1, true);
    assert_eq!(room.grant(at(2)), None);
    room.open(seat, at(3));
    let (who, turn) = room.grant(at(5)).unwrap();
    assert_eq!((who, turn.start, turn.wait), (7, at(2), at(2)));
    // It was open when this one came: all of it is waiting.
    assert!(matches!(room.enter(at(6), || 8), Entry::Wait(_)));
    assert!(!room.finish(turn.seat));
    let (_, turn) = room.grant(at(8)).unwrap();
    assert_eq!((turn.start, turn.wait), (at(0), at(2)));
}

#[test]
fn a_call_put_back_is_first_again() {
    let mut room: Room<&str, u32> = Room::new(LIMITS);
    let seat = room.add("a", 1, true);
    room.open(seat, at(0));
    let Entry::Go(turn) = room.enter(at(1), || 1) else { panic!("a slot is free") };
    assert!(matches!(room.enter(at(2), || 2), Entry::Wait(_)));
    room.finish(turn.seat);
    room.shut(seat);
    room.put_back(turn.ticket, turn.arrived, 1);
    assert_eq!(room.grant(at(3)), None);
    room.open(seat, at(4));
    assert_eq!(room.grant(at(4)).map(|(who, t)| (who, t.start)), Some((1, at(3))));
}

#[test]
fn an_instance_that_is_gone_keeps_its_calls_and_takes_none() {
    let mut room: Room<&str, u32> = Room::new(LIMITS);
    let seat = room.add("a", 2, true);
    room.open(seat, at(0));
    let Entry::Go(turn) = room.enter(at(1), || 1) else { panic!("a slot is free") };
    room.remove(seat);
    assert!(matches!(room.enter(at(2), || 2), Entry::Wait(_)));
    assert_eq!((room.in_flight(seat), room.running()), (1, 1));
    assert!(room.finish(turn.seat), "forgotten with its last call");
    assert!(!room.knows(seat));
    assert_eq!((room.running(), room.grant(at(3))), (0, None));
}

#[test]
fn a_limit_on_all_calls_holds_whatever_slots_there_are() {
    let mut room: Room<&str, u32> = Room::new(LIMITS);
    room.set_most(Some(1));
    let seat = room.add("a", 5, true);
    room.open(seat, at(0));
    let Entry::Go(turn) = room.enter(at(1), || 1) else { panic!("one may run") };
    assert!(matches!(room.enter(at(1), || 2), Entry::Wait(_)));
    assert!(room.is_at_most() && room.grant(at(1)).is_none() && room.is_of_use());
    room.finish(turn.seat);
    assert_eq!(room.grant(at(2)).map(|(who, _)| who), Some(2));
    room.set_most(Some(0));
    assert!(!room.is_of_use());
    assert_eq!((room.running(), room.is_at_most()), (1, true), "what runs is untouched");
    room.set_most(None);
    assert!(matches!(room.enter(at(3), || 3), Entry::Go(_)));
}

#[test]
fn some_of_those_who_wait_are_taken_out_with_their_places() {
    let mut room: Room<&str, u32> = Room::new(LIMITS);
    let tickets: Vec<Ticket> = (0..4)
        .map(|n| match room.enter(at(n.into()), || n) {
            Entry::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    room.leave(tickets[2]);
    let out = room.take_out(|who| who % 2 == 0);
    assert_eq!(out, [(tickets[0], at(0), 0)]);
    assert_eq!(room.queued(), 2);
    assert_eq!(room.leave(tickets[0]), None, "it waits no longer");
    room.put_back(tickets[0], at(0), 0);
    let seat = room.add("a", 4, true);
    room.open(seat, at(5));
    let served: Vec<u32> = std::iter::from_fn(|| room.grant(at(5))).map(|(who, _)| who).collect();
    assert_eq!(served, [0, 1, 3], "where it stood");
}

#[derive(Clone, Debug)]
enum Step {
    Enter,
    Leave(usize),
    Finish(usize),
    PutBack(usize),
    Add(u32),
    Open(usize),
    Shut(usize),
    Set(usize, u32, bool),
    Remove(usize),
    Tick(u64),
    Clear,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Enter),
        3 => any::<usize>().prop_map(Step::Leave),
        6 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::PutBack),
        2 => (0u32..4).prop_map(Step::Add),
        3 => any::<usize>().prop_map(Step::Open),
        1 => any::<usize>().prop_map(Step::Shut),
        2 => (any::<usize>(), 0u32..4, any::<bool>()).prop_map(|(i, slots, taking)| Step::Set(i, slots, taking)),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => (0u64..6).prop_map(Step::Tick),
        1 => Just(Step::Clear),
    ]
}

/// What the room is held against: the plainest model of the same rules.
#[derive(Default)]
struct Model {
    now: u64,
    seats: BTreeMap<SeatNo, (u32, bool, bool, bool)>,
    waiting: BTreeSet<Ticket>,
    tickets: BTreeMap<Ticket, u64>,
    running: Vec<Turn<u32>>,
    over: u32,
}

impl Model {
    fn busy(&self, seat: SeatNo) -> u32 {
        self.running.iter().filter(|t| t.seat == seat).count() as u32
    }

    fn a_slot_is_free(&self) -> bool {
        self.seats.iter().any(|(&n, &(slots, taking, open, gone))| taking && open && !gone && self.busy(n) < slots)
    }

    fn took(&mut self, turn: Turn<u32>) -> Result<(), TestCaseError> {
        let &(slots, taking, open, gone) = &self.seats[&turn.seat];
        prop_assert!(taking && open && !gone);
        prop_assert!(self.busy(turn.seat) < slots, "never above the limit");
        prop_assert!(self.waiting.iter().next().is_none_or(|first| *first > turn.ticket), "first come, first served");
        prop_assert_eq!(turn.wait + turn.start, at(self.now) - turn.arrived);
        self.running.push(turn);
        Ok(())
    }

    fn seat(&self, i: usize) -> Option<SeatNo> {
        self.seats.keys().nth(i % self.seats.len().max(1)).copied()
    }

    fn step(&mut self, room: &mut Room<u32, Ticket>, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Enter => {
                let free = self.a_slot_is_free();
                let next = Ticket(room.next_ticket);
                match room.enter(at(self.now), || next) {
                    Entry::Go(turn) => self.took(turn)?,
                    Entry::Wait(ticket) => {
                        prop_assert_eq!(ticket, next);
                        prop_assert!(!free, "nobody waits beside a free slot");
                        prop_assert!(self.waiting.len() < LIMITS.max_calls as usize + self.over as usize);
                        self.waiting.insert(ticket);
                        self.tickets.insert(ticket, self.now);
                    }
                    Entry::Full => prop_assert!(self.waiting.len() >= LIMITS.max_calls as usize && !free),
                }
            }
            Step::Leave(i) => {
                let any = self.tickets.keys().nth(i % self.tickets.len().max(1)).copied();
                if let Some(ticket) = any {
                    prop_assert_eq!(room.leave(ticket).is_some(), self.waiting.remove(&ticket));
                }
            }
            Step::Finish(i) if !self.running.is_empty() => {
                let turn = self.running.remove(i % self.running.len());
                room.finish(turn.seat);
            }
            Step::PutBack(i) if !self.running.is_empty() => {
                let turn = self.running.remove(i % self.running.len());
                room.finish(turn.seat);
                room.put_back(turn.ticket, turn.arrived, turn.ticket);
                self.waiting.insert(turn.ticket);
                self.tickets.insert(turn.ticket, turn.arrived.as_secs());
                self.over += 1;
            }
            Step::Add(slots) => {
                self.seats.insert(room.add(0, slots, true), (slots, true, false, false));
            }
            Step::Tick(s) => {
                self.now += s;
                while let Some(ticket) = room.expire(at(self.now)) {
                    prop_assert!(self.waiting.remove(&ticket));
                    prop_assert!(self.tickets[&ticket] + 10 <= self.now);
                }
                prop_assert!(self.waiting.iter().all(|t| self.tickets[t] + 10 > self.now), "nobody stays too long");
            }
            Step::Clear => {
                let cleared: BTreeSet<_> = room.clear().into_iter().collect();
                prop_assert_eq!(cleared, std::mem::take(&mut self.waiting));
            }
            _ => self.seat_step(room, step),
        }
        Ok(())
    }

    fn seat_step(&mut self, room: &mut Room<u32, Ticket>, step: &Step) {
        let (Step::Open(i) | Step::Shut(i) | Step::Set(i, ..) | Step::Remove(i)) = *step else { return };
        let Some(number) = self.seat(i) else { return };
        let Some(seat) = self.seats.get_mut(&number) else { return };
        match *step {
            Step::Open(_) => {
                room.open(number, at(self.now));
                seat.2 = true;
            }
            Step::Shut(_) => {
                room.shut(number);
                seat.2 = false;
            }
            Step::Set(_, slots, taking) => {
                room.set(number, slots, taking);
                (seat.0, seat.1) = (slots, taking);
            }
            Step::Remove(_) => {
                room.remove(number);
                seat.3 = true;
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn slots_order_and_bounds_hold_in_any_order_of_events(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut room: Room<u32, Ticket> = Room::new(LIMITS);
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut room, step)?;
            while let Some((ticket, turn)) = room.grant(at(model.now)) {
                prop_assert!(model.waiting.remove(&ticket));
                prop_assert_eq!(ticket, turn.ticket);
                model.took(turn)?;
            }
            prop_assert!(model.waiting.is_empty() || !model.a_slot_is_free(), "no lost wake-up");
            prop_assert_eq!(room.queued() as usize, model.waiting.len());
            prop_assert_eq!(room.running() as usize, model.running.len());
            prop_assert!(room.take_peak() >= room.queued() + room.running());
            for &number in model.seats.keys() {
                prop_assert_eq!(room.in_flight(number), model.busy(number));
            }
        }
        for turn in std::mem::take(&mut model.running) {
            room.finish(turn.seat);
        }
        prop_assert_eq!(room.running(), 0);
        for &number in model.seats.keys() {
            prop_assert_eq!(room.in_flight(number), 0, "no slot leaks");
        }
    }
}
