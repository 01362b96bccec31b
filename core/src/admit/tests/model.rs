//! Every order of events of a small room: two instances with at most two slots each, two places to wait, four calls at
//! once, a limit that comes and goes. Each reachable state is looked at once; tickets and numbers of instances are told apart by order only.

use super::*;
use std::collections::{HashSet, VecDeque};

const SMALL: Limits = Limits { max_calls: 2, max_wait: Duration::from_secs(10) };

/// Before every wait is over, and after.
const EARLY: Duration = Duration::ZERO;
const LATE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    room: Room<u8, Ticket>,
    waiting: Vec<Ticket>,
    /// Those that have a slot: their tickets and where.
    running: Vec<(Ticket, SeatNo)>,
    /// Taken out to be handed over, and not back yet.
    moved: Option<Ticket>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Enter,
    Leave(usize),
    Finish(usize),
    PutBack(usize),
    TakeOut,
    ComeBack,
    Expire,
    Clear,
    Add(u32),
    Set(usize, u32, bool),
    Open(usize),
    Shut(usize),
    Remove(usize),
    Most(Option<u32>),
    Pause(bool),
}

impl World {
    fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Expire, Event::Clear];
        if self.waiting.len() + self.running.len() + usize::from(self.moved.is_some()) < 4 {
            events.push(Event::Enter);
        }
        events.extend((0..self.waiting.len()).map(Event::Leave));
        events.extend((0..self.running.len()).map(Event::Finish));
        // Calls put back pass the bound: not so often that there are ever more of them.
        if self.waiting.len() < 3 {
            events.extend((0..self.running.len()).map(Event::PutBack));
            events.extend(self.moved.map(|_| Event::ComeBack));
        }
        if self.moved.is_none() && self.waiting.len() == 1 {
            events.push(Event::TakeOut);
        }
        let seats = self.room.seats.len();
        if seats < 2 {
            events.push(Event::Add(1));
        }
        for seat in 0..seats {
            events.extend([Event::Open(seat), Event::Shut(seat), Event::Remove(seat)]);
            events.extend([0, 2].map(|slots| Event::Set(seat, slots, true)));
            events.push(Event::Set(seat, 1, false));
        }
        events.extend([None, Some(1)].map(Event::Most));
        events.push(Event::Pause(!self.room.paused));
        events
    }

    fn seat(&self, at: usize) -> SeatNo {
        self.room.seats[at].number
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Enter => self.enter(),
            Event::Leave(at) => {
                let ticket = self.waiting.remove(at);
                assert_eq!(self.room.leave(ticket), Some(ticket));
                assert_eq!(self.room.leave(ticket), None);
            }
            Event::Finish(at) => {
                let (_, seat) = self.running.remove(at);
                self.room.finish(seat);
            }
            Event::PutBack(at) => {
                let (ticket, seat) = self.running.remove(at);
                self.room.finish(seat);
                self.room.shut(seat);
                self.wait(ticket);
            }
            Event::TakeOut => {
                let first = self.waiting.remove(0);
                let out = self.room.take_out(|ticket| *ticket == first);
                assert_eq!(out, [(first, EARLY, first)]);
                self.moved = Some(first);
            }
            Event::ComeBack => {
                if let Some(ticket) = self.moved.take() {
                    self.wait(ticket);
                }
            }
            Event::Expire => {
                let out: Vec<Ticket> = std::iter::from_fn(|| self.room.expire(LATE)).collect();
                assert_eq!(out, std::mem::take(&mut self.waiting), "all of them, in their order");
            }
            Event::Clear => assert_eq!(self.room.clear(), std::mem::take(&mut self.waiting)),
            Event::Add(slots) => {
                self.room.add(0, slots, true);
            }
            Event::Set(at, slots, taking) => self.room.set(self.seat(at), slots, taking),
            Event::Open(at) => self.room.open(self.seat(at), EARLY),
            Event::Shut(at) => self.room.shut(self.seat(at)),
            Event::Remove(at) => self.room.remove(self.seat(at)),
            Event::Most(most) => self.room.set_most(most),
            Event::Pause(paused) => self.room.set_paused(paused),
        }
        self.serve();
    }

    fn wait(&mut self, ticket: Ticket) {
        self.room.put_back(ticket, EARLY, ticket);
        let at = self.waiting.partition_point(|t| *t < ticket);
        self.waiting.insert(at, ticket);
    }

    fn enter(&mut self) {
        let (next, free) = (Ticket(self.room.next_ticket), self.a_slot_is_free());
        match self.room.enter(EARLY, || next) {
            Entry::Go(turn) => self.took(&turn),
            Entry::Wait(ticket) => {
                assert!(!free && self.waiting.len() < 2, "nobody waits beside a free slot, or beyond the bound");
                assert_eq!(ticket, next);
                self.waiting.push(ticket);
            }
            Entry::Full => assert!(!free && self.waiting.len() >= 2),
        }
    }

    fn serve(&mut self) {
        while let Some((ticket, turn)) = self.room.grant(EARLY) {
            assert_eq!((ticket, ticket), (turn.ticket, self.waiting.remove(0)), "first come, first served");
            self.took(&turn);
        }
    }

    fn busy(&self, seat: SeatNo) -> u32 {
        self.running.iter().filter(|(_, at)| *at == seat).count() as u32
    }

    fn a_slot_is_free(&self) -> bool {
        let within = self.room.most.is_none_or(|most| (self.running.len() as u32) < most);
        let free = |s: &Seat<u8>| s.taking && !s.gone && s.opened.is_some() && self.busy(s.number) < s.slots;
        within && !self.room.paused && self.room.seats.iter().any(free)
    }

    fn took(&mut self, turn: &Turn<u8>) {
        assert!(self.running.iter().all(|(ticket, _)| *ticket != turn.ticket), "a slot is given once");
        let seat = self.room.seats.iter().find(|s| s.number == turn.seat).unwrap();
        assert!(seat.taking && !seat.gone && seat.opened.is_some() && self.busy(turn.seat) < seat.slots);
        assert!(!self.room.paused && self.room.most.is_none_or(|most| (self.running.len() as u32) < most));
        self.running.push((turn.ticket, turn.seat));
    }

    fn check(&self) {
        assert!(self.waiting.is_empty() || !self.a_slot_is_free(), "a wake-up is lost: {self:?}");
        assert_eq!(self.room.queued() as usize, self.waiting.len());
        assert_eq!(self.room.running() as usize, self.running.len());
        for seat in &self.room.seats {
            assert_eq!(seat.busy, self.busy(seat.number), "a slot leaked or was doubled: {self:?}");
            assert!(!seat.gone || seat.busy > 0, "forgotten with its last call");
        }
        let known = |seat: SeatNo| self.room.seats.iter().any(|s| s.number == seat);
        assert!(self.running.iter().all(|(_, seat)| known(*seat)));
    }

    /// Numbers by their order, so that states that differ by history alone are one.
    fn normal(mut self) -> Self {
        self.room.take_peak();
        self.room.drop_empty_places();
        self.room.queue.retain(|w| w.payload.is_some());
        let mut tickets: Vec<Ticket> =
            self.waiting.iter().chain(self.running.iter().map(|(t, _)| t)).copied().collect();
        tickets.extend(self.moved);
        tickets.sort_unstable();
        let ticket = |t: &mut Ticket| *t = Ticket(tickets.binary_search(t).unwrap() as u64);
        let numbers: Vec<SeatNo> = self.room.seats.iter().map(|s| s.number).collect();
        let number = |n: &mut SeatNo| *n = SeatNo(numbers.iter().position(|m| m == n).unwrap() as u64);
        self.waiting.iter_mut().for_each(ticket);
        self.moved.iter_mut().for_each(ticket);
        for (t, seat) in &mut self.running {
            ticket(t);
            number(seat);
        }
        for waiter in &mut self.room.queue {
            ticket(&mut waiter.ticket);
            waiter.payload.iter_mut().for_each(ticket);
        }
        self.room.seats.iter_mut().for_each(|s| number(&mut s.number));
        self.running.sort_unstable();
        (self.room.next_ticket, self.room.next_seat) = (tickets.len() as u64, numbers.len() as u64);
        self
    }
}

#[test]
fn no_slot_leaks_and_no_wake_up_is_lost_in_any_order() {
    let first = World { room: Room::new(SMALL), waiting: vec![], running: vec![], moved: None };
    // The short form looks at the nearest states only.
    let most = if std::env::var_os("DORMOUSE_LONG").is_some() { usize::MAX } else { 15_000 };
    let mut seen = HashSet::from([first.clone()]);
    let mut todo = VecDeque::from([first]);
    while let Some(world) = todo.pop_front().filter(|_| seen.len() < most) {
        for event in world.events() {
            let mut next = world.clone();
            next.happen(event);
            next.check();
            // More than the slots of both instances never run, unless slots were taken away meanwhile.
            assert!(next.running.len() <= 4);
            let next = next.normal();
            if seen.insert(next.clone()) {
                todo.push_back(next);
            }
        }
    }
    assert!(seen.len() > 1000, "{} states only", seen.len());
}
