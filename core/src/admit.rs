//! Admission: which call runs now, on which instance, and which one waits.
//!
//! A [`Room`] is one function's waiting room and slots in one activator: pure, no clock and no waking. A call enters and
//! is given a slot, a ticket in the queue, or is refused; everything that may free room is followed by
//! [`Room::grant`] until it gives nothing more. Queued calls are served in the order of their arrival; an instance never
//! holds more calls than its slots.

use std::{collections::VecDeque, time::Duration};

/// Bounds of a waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most calls that wait.
    pub max_calls: u32,
    /// Longest wait.
    pub max_wait: Duration,
}

/// Place of a waiting call; earlier arrivals have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Number of an instance within a room; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatNo(u64);

/// A slot given to a call. It must be handed back with [`Room::finish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn<I> {
    /// The call's ticket, for [`Room::put_back`].
    pub ticket: Ticket,
    /// The instance's number.
    pub seat: SeatNo,
    /// The instance.
    pub instance: I,
    /// When the call came.
    pub arrived: Duration,
    /// Waited for a slot on instances that were open.
    pub wait: Duration,
    /// Waited for the instance to open its port; 0 when it was open as the call came.
    pub start: Duration,
}

/// What became of a call that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<I> {
    /// It runs now.
    Go(Turn<I>),
    /// It waits.
    Wait(Ticket),
    /// The room holds all the calls it may.
    Full,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Seat<I> {
    number: SeatNo,
    instance: I,
    slots: u32,
    busy: u32,
    taking: bool,
    gone: bool,
    opened: Option<Duration>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Waiter<W> {
    ticket: Ticket,
    arrived: Duration,
    /// Taken out when its call left: removing from the middle would cost the length of the queue each time.
    payload: Option<W>,
}

/// One function's slots and queue in one activator. `I` names an instance, `W` wakes a waiting call.
/// Times are of any one monotonic clock.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Room<I, W> {
    limits: Limits,
    /// Most calls that may run at once, however many slots there are.
    most: Option<u32>,
    /// Nobody is given a slot, whatever is free.
    paused: bool,
    seats: Vec<Seat<I>>,
    queue: VecDeque<Waiter<W>>,
    queued: u32,
    running: u32,
    peak: u32,
    next_ticket: u64,
    next_seat: u64,
}

impl<I: Clone, W> Room<I, W> {
    /// An empty room with no instance.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            most: None,
            paused: false,
            seats: Vec::new(),
            queue: VecDeque::new(),
            queued: 0,
            running: 0,
            peak: 0,
            next_ticket: 0,
            next_seat: 0,
        }
    }

    /// A call comes: a free slot, else a place in the queue, else nothing. `waker` is asked for only when it waits.
    pub fn enter(&mut self, now: Duration, waker: impl FnOnce() -> W) -> Entry<I> {
        // Whoever waits goes first, even when a slot is free at this instant.
        let pick = if self.queued == 0 { self.pick() } else { None };
        if pick.is_none() && self.queued >= self.limits.max_calls {
            return Entry::Full;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(at) = pick {
            return Entry::Go(self.take(at, ticket, now, now));
        }
        self.queue.push_back(Waiter { ticket, arrived: now, payload: Some(waker()) });
        self.queued += 1;
        self.note_peak();
        Entry::Wait(ticket)
    }

    /// Serves the call that waits longest, when an instance has a slot for it.
    pub fn grant(&mut self, now: Duration) -> Option<(W, Turn<I>)> {
        if self.queued == 0 {
            return None;
        }
        let at = self.pick()?;
        let (ticket, arrived, payload) = self.pop()?;
        Some((payload, self.take(at, ticket, arrived, now)))
    }

    /// A waiting call's client left. `None` when the call no longer waits.
    pub fn leave(&mut self, ticket: Ticket) -> Option<W> {
        let at = self.queue.binary_search_by_key(&ticket, |w| w.ticket).ok()?;
        let payload = self.queue[at].payload.take()?;
        self.queued -= 1;
        // At most as many empty places as living ones (and a few): amortised one step per call.
        if self.queue.len() > 2 * self.queued as usize + 16 {
            self.queue.retain(|w| w.payload.is_some());
        }
        Some(payload)
    }

    /// Puts a call that had a slot, but reached no instance, back where it stood. Its slot must have been handed back.
    /// It passes the bound: it was admitted already.
    pub fn put_back(&mut self, ticket: Ticket, arrived: Duration, waker: W) {
        let at = self.queue.partition_point(|w| w.ticket < ticket);
        self.queue.insert(at, Waiter { ticket, arrived, payload: Some(waker) });
        self.queued += 1;
        self.note_peak();
    }

    /// Takes out a call that has waited its time.
    pub fn expire(&mut self, now: Duration) -> Option<W> {
        self.next_deadline().filter(|&deadline| deadline <= now)?;
        self.pop().map(|(_, _, payload)| payload)
    }

    /// When the next waiting call has waited its time.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        self.drop_empty_places();
        self.queue.front().map(|w| w.arrived + self.limits.max_wait)
    }

    /// Takes out every waiting call.
    pub fn clear(&mut self) -> Vec<W> {
        self.queued = 0;
        self.queue.drain(..).filter_map(|w| w.payload).collect()
    }

    /// A call that had a slot is over. True when that was the last one on an instance that is gone: the instance is
    /// forgotten with it.
    pub fn finish(&mut self, seat: SeatNo) -> bool {
        let Some(at) = self.seats.iter().position(|s| s.number == seat) else { return false };
        let found = &mut self.seats[at];
        debug_assert!(found.busy > 0, "a slot is handed back once");
        found.busy = found.busy.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        let ended = found.gone && found.busy == 0;
        if ended {
            self.seats.remove(at);
        }
        ended
    }

    /// An instance that may hold `slots` calls at once. It gets none before [`Room::open`].
    pub fn add(&mut self, instance: I, slots: u32, taking: bool) -> SeatNo {
        let number = SeatNo(self.next_seat);
        self.next_seat += 1;
        self.seats.push(Seat { number, instance, slots, busy: 0, taking, gone: false, opened: None });
        number
    }

    /// Changes an instance's slots, and whether it takes new calls. Calls that run on it are untouched.
    pub fn set(&mut self, seat: SeatNo, slots: u32, taking: bool) {
        if let Some(found) = self.seat_mut(seat) {
            found.slots = slots;
            found.taking = taking && !found.gone;
        }
    }

    /// Its port is open. The first time counts until [`Room::shut`].
    pub fn open(&mut self, seat: SeatNo, now: Duration) {
        if let Some(found) = self.seat_mut(seat) {
            found.opened.get_or_insert(now);
        }
    }

    /// Its port is not open: it takes no calls until [`Room::open`].
    pub fn shut(&mut self, seat: SeatNo) {
        if let Some(found) = self.seat_mut(seat) {
            found.opened = None;
        }
    }

    /// It is gone: no new calls; forgotten with the end of the last one on it.
    pub fn remove(&mut self, seat: SeatNo) {
        if let Some(found) = self.seat_mut(seat) {
            found.taking = false;
            found.gone = true;
        }
        self.seats.retain(|s| !(s.gone && s.busy == 0));
    }

    /// New bounds; they hold for those who wait as well, except that nobody is sent away for the number alone.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Most calls that may run at once, on all instances together; those that run are untouched.
    pub fn set_most(&mut self, most: Option<u32>) {
        self.most = most;
    }

    /// Most calls that may run at once.
    #[must_use]
    pub fn most(&self) -> Option<u32> {
        self.most
    }

    /// Whether those who come and those who wait stay in the queue, whatever is free; those that run are untouched.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// True when as many calls run as may: who waits does so for that reason, whatever slots there are.
    #[must_use]
    pub fn is_at_most(&self) -> bool {
        self.most.is_some_and(|most| self.running >= most)
    }

    /// Takes out those of the waiting calls that `which` names, with their places.
    pub fn take_out(&mut self, which: impl Fn(&W) -> bool) -> Vec<(Ticket, Duration, W)> {
        let mut out = Vec::new();
        for waiter in &mut self.queue {
            if let Some(payload) = waiter.payload.take_if(|w| which(w)) {
                out.push((waiter.ticket, waiter.arrived, payload));
            }
        }
        self.queue.retain(|w| w.payload.is_some());
        self.queued -= u32::try_from(out.len()).unwrap_or(self.queued);
        out
    }

    /// Calls that wait.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// Calls that hold a slot.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Most calls at once, waiting and running, since this was last asked.
    pub fn take_peak(&mut self) -> u32 {
        std::mem::replace(&mut self.peak, self.queued + self.running)
    }

    /// Calls on one instance; 0 for one that is forgotten.
    #[must_use]
    pub fn in_flight(&self, seat: SeatNo) -> u32 {
        self.seats.iter().find(|s| s.number == seat).map_or(0, |s| s.busy)
    }

    /// True while the room knows the instance.
    #[must_use]
    pub fn knows(&self, seat: SeatNo) -> bool {
        self.seats.iter().any(|s| s.number == seat)
    }

    /// True when the instance's port is open.
    #[must_use]
    pub fn is_open(&self, seat: SeatNo) -> bool {
        self.seats.iter().any(|s| s.number == seat && s.opened.is_some())
    }

    /// True when the instance takes new calls, be it full or not open yet.
    #[must_use]
    pub fn is_taking(&self, seat: SeatNo) -> bool {
        self.seats.iter().any(|s| s.number == seat && s.taking)
    }

    /// An instance's slots; 0 for one that is forgotten.
    #[must_use]
    pub fn slots(&self, seat: SeatNo) -> u32 {
        self.seats.iter().find(|s| s.number == seat).map_or(0, |s| s.slots)
    }

    /// True when a call could run here, be it after others.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.most != Some(0) && self.has_open()
    }

    /// True when an instance is open and takes calls, be it full.
    #[must_use]
    pub fn has_open(&self) -> bool {
        self.seats.iter().any(|s| s.taking && s.opened.is_some() && s.slots > 0)
    }

    fn seat_mut(&mut self, seat: SeatNo) -> Option<&mut Seat<I>> {
        self.seats.iter_mut().find(|s| s.number == seat)
    }

    /// The least busy instance with a free slot; of equals the oldest, so that the others become idle and can be let go.
    fn pick(&self) -> Option<usize> {
        if self.paused || self.is_at_most() {
            return None;
        }
        let free = self.seats.iter().enumerate().filter(|(_, s)| s.taking && s.opened.is_some() && s.busy < s.slots);
        free.min_by_key(|(_, s)| s.busy).map(|(at, _)| at)
    }

    fn take(&mut self, at: usize, ticket: Ticket, arrived: Duration, now: Duration) -> Turn<I> {
        let seat = &mut self.seats[at];
        seat.busy += 1;
        let waited = now.saturating_sub(arrived);
        let start = seat.opened.map_or(Duration::ZERO, |at| at.saturating_sub(arrived)).min(waited);
        let turn =
            Turn { ticket, seat: seat.number, instance: seat.instance.clone(), arrived, wait: waited - start, start };
        self.running += 1;
        self.note_peak();
        turn
    }

    fn pop(&mut self) -> Option<(Ticket, Duration, W)> {
        self.drop_empty_places();
        let waiter = self.queue.pop_front()?;
        self.queued -= 1;
        Some((waiter.ticket, waiter.arrived, waiter.payload?))
    }

    fn drop_empty_places(&mut self) {
        while self.queue.front().is_some_and(|w| w.payload.is_none()) {
            self.queue.pop_front();
        }
    }

    fn note_peak(&mut self) {
        self.peak = self.peak.max(self.queued + self.running);
    }
}

#[cfg(test)]
mod tests;
