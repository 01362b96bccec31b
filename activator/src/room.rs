//! The waiting room at work: calls wait here without their bodies being read, until they get a slot, their time is over,
//! their client leaves, or their function does.

use crate::{
    answer::Refusal,
    func::{Func, Inner},
    instance::Instance,
    purse::Gate,
    shared::Shared,
    spool::SpoolError,
    wire::Peer,
};
use dormouse_core::admit::{Entry, Ticket, Turn};
use parking_lot::MutexGuard;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Wakes one waiting call.
#[derive(Debug)]
pub(crate) struct Waker {
    sender: oneshot::Sender<Result<Seat, Out>>,
    /// It may be handed over to another activator.
    movable: bool,
}

impl Waker {
    /// Tells calls that were taken out of the room why. Never under the room's lock.
    pub(crate) fn refuse(wakers: Vec<Self>, refusal: &Refusal) {
        for waker in wakers {
            // An error means that the call left at this very moment.
            let _ = waker.sender.send(Err(Out::Refused(refusal.clone())));
        }
    }
}

/// Why a call left the room without a slot.
#[derive(Debug)]
pub(crate) enum Out {
    /// It is told why.
    Refused(Refusal),
    /// There is nobody to tell.
    Gone,
    /// Another activator may run it and this one not; the place that it had here, if it waited.
    Elsewhere(Option<Place>),
}

/// The place of a call that was taken out of the room to be handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    ticket: Ticket,
    arrived: Duration,
}

impl From<Refusal> for Out {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SpoolError> for Out {
    fn from(error: SpoolError) -> Self {
        Self::Refused(error.into())
    }
}

/// A slot on an instance, held until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    func: Arc<Func>,
    shared: Arc<Shared>,
    pub(crate) turn: Turn<Arc<Instance>>,
    /// No call was given to its instance before, as far as this activator knows.
    pub(crate) first: bool,
    /// It is handed back when dropped; false once that was done otherwise.
    held: bool,
}

impl Seat {
    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.turn.instance
    }

    pub(crate) fn func(&self) -> &Arc<Func> {
        &self.func
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The instance could not be reached: the call goes back to where it stood, and the instance gets none before its
    /// port was seen open again.
    pub(crate) async fn put_back(self, peer: &Peer, held: usize) -> Result<Self, Out> {
        let (waiting, receiver) = self.wait_again(held)?;
        waiting.result(receiver, peer).await
    }

    fn wait_again(mut self, held: usize) -> Result<(Waiting, Receiver), Refusal> {
        self.held = false;
        let (func, shared, turn) = (&self.func, &self.shared, &self.turn);
        func.metrics.running.dec();
        let (sender, receiver) = oneshot::channel();
        let mut inner = func.inner.lock();
        if inner.room.finish(turn.seat) {
            inner.forget(turn.seat);
        }
        inner.room.shut(turn.seat);
        if let Some(refusal) = func.refusal(&inner, shared) {
            // It may have been the last open instance: whoever else waits is told as well.
            func.settle_or_refuse(inner, shared);
            func.note(shared, true);
            return Err(refusal);
        }
        // It stays: its slot was here a moment ago.
        inner.room.put_back(turn.ticket, turn.arrived, Waker { sender, movable: false });
        let waiting = Waiting::new(func, shared, turn.ticket, held);
        func.watch_deadlines(&mut inner, shared);
        func.settle(inner, shared);
        func.note(shared, true);
        crate::dial::watch_port(func, turn.seat, &turn.instance, shared);
        Ok((waiting, receiver))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.held {
            self.func.hand_back(&self.turn, &self.shared);
        }
    }
}

type Receiver = oneshot::Receiver<Result<Seat, Out>>;

/// A call in the queue; leaves it when dropped.
struct Waiting {
    func: Arc<Func>,
    shared: Arc<Shared>,
    ticket: Ticket,
    held: usize,
}

impl Waiting {
    fn new(func: &Arc<Func>, shared: &Arc<Shared>, ticket: Ticket, held: usize) -> Self {
        shared.metrics.waiting.inc();
        shared.metrics.waiting_bytes.inc_by(signed(held));
        func.metrics.queued.inc();
        func.metrics.held(held);
        Self { func: func.clone(), shared: shared.clone(), ticket, held }
    }

    async fn result(self, receiver: Receiver, peer: &Peer) -> Result<Seat, Out> {
        tokio::select! {
            biased;
            result = receiver => match result {
                Ok(told) => told,
                // The room was dropped with its function.
                Err(_) => Err(Out::Refused(Refusal::deleted())),
            },
            () = peer.gone() => Err(Out::Gone),
            () = self.shared.hard_stop.cancelled() => Err(Out::Refused(Refusal::shutting_down())),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.metrics.waiting.dec();
        self.shared.metrics.waiting_bytes.dec_by(signed(self.held));
        self.func.metrics.queued.dec();
        self.func.metrics.let_go(self.held);
        // Whoever was granted a slot meanwhile has it in its channel: dropping that hands it back.
        if self.func.inner.lock().room.leave(self.ticket).is_some() {
            self.func.note(&self.shared, false);
        }
    }
}

impl Func {
    /// Gets a slot for a call, at once or after waiting; so many bytes are held of it while it waits.
    pub(crate) async fn admit(self: &Arc<Self>, shared: &Arc<Shared>, peer: &Peer, held: usize) -> Result<Seat, Out> {
        self.admitted(shared, peer, held, peer.hands_on()).await
    }

    /// No other activator took a call that was to be handed over: it waits here, where it stood.
    pub(crate) async fn admit_here(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        peer: &Peer,
        held: usize,
        place: Option<Place>,
    ) -> Result<Seat, Out> {
        let Some(Place { ticket, arrived }) = place else {
            return self.admitted(shared, peer, held, false).await;
        };
        let (waiting, receiver) = {
            let mut inner = self.inner.lock();
            if let Some(refusal) = self.refusal(&inner, shared) {
                return Err(refusal.into());
            }
            let (sender, receiver) = oneshot::channel();
            inner.room.put_back(ticket, arrived, Waker { sender, movable: false });
            let waiting = Waiting::new(self, shared, ticket, held);
            self.watch_deadlines(&mut inner, shared);
            self.settle(inner, shared);
            (waiting, receiver)
        };
        self.note(shared, true);
        waiting.result(receiver, peer).await
    }

    async fn admitted(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        peer: &Peer,
        held: usize,
        movable: bool,
    ) -> Result<Seat, Out> {
        let (waiting, receiver) = match self.enter(shared, held, movable)? {
            Entered::Seat(seat) => return Ok(seat),
            Entered::Waiting(waiting, receiver) => (waiting, receiver),
            Entered::Elsewhere => return Err(Out::Elsewhere(None)),
        };
        waiting.result(receiver, peer).await
    }

    fn enter(self: &Arc<Self>, shared: &Arc<Shared>, held: usize, movable: bool) -> Result<Entered, Refusal> {
        let mut inner = self.inner.lock();
        let plan = self.plan();
        if inner.gone || plan.closing {
            return Err(Refusal::deleted());
        }
        // Asked only where several activators share the function.
        if movable && !plan.holders.is_empty() && !inner.room.is_of_use() {
            return Ok(Entered::Elsewhere);
        }
        // Before the room counts it: a call that is refused for good wakes nothing.
        let gate = shared.purses.gate(&plan.tenant);
        if gate == Gate::Shut {
            return Err(Refusal::budget());
        }
        inner.room.set_paused(gate == Gate::Held);
        drop(plan);
        let mut receiver = None;
        let entry = inner.room.enter(shared.clock.now(), || {
            let (sender, r) = oneshot::channel();
            receiver = Some(r);
            Waker { sender, movable }
        });
        match (entry, receiver) {
            (Entry::Go(turn), _) => {
                let first = turn.instance.note_first_call();
                drop(inner);
                self.note(shared, first);
                Ok(Entered::Seat(self.seat(turn, first, shared)))
            }
            (Entry::Wait(ticket), Some(receiver)) => self.wait(inner, (ticket, held), receiver, shared),
            _ => Err(Refusal::function_queue_full()),
        }
    }

    fn wait(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        (ticket, held): (Ticket, usize),
        receiver: Receiver,
        shared: &Arc<Shared>,
    ) -> Result<Entered, Refusal> {
        let (calls, bytes) = (&shared.metrics.waiting, &shared.metrics.waiting_bytes);
        let most = (signed(shared.limits.max_waiting), signed(shared.limits.max_waiting_bytes));
        let over = |(calls, bytes), most: (i64, i64)| calls >= most.0 || bytes + signed(held) > most.1;
        // One function has at most half of it: whatever it allows itself, others find room.
        let full = over((calls.get(), bytes.get()), most)
            || over(self.metrics.waiting(), ((most.0 + 1) / 2, (most.1 + 1) / 2));
        let refusal = self.refusal(&inner, shared).or_else(|| full.then(Refusal::platform_queue_full));
        if let Some(refusal) = refusal {
            inner.room.leave(ticket);
            drop(inner);
            // It is told as a peak: the controller sees that somebody asked.
            self.note(shared, true);
            return Err(refusal);
        }
        let waiting = Waiting::new(self, shared, ticket, held);
        self.watch_deadlines(&mut inner, shared);
        drop(inner);
        self.note(shared, true);
        Ok(Entered::Waiting(waiting, receiver))
    }

    fn seat(self: &Arc<Self>, turn: Turn<Arc<Instance>>, first: bool, shared: &Arc<Shared>) -> Seat {
        self.metrics.running.inc();
        Seat { func: self.clone(), shared: shared.clone(), turn, first, held: true }
    }

    fn hand_back(self: &Arc<Self>, turn: &Turn<Arc<Instance>>, shared: &Arc<Shared>) {
        self.metrics.running.dec();
        let mut inner = self.inner.lock();
        if inner.room.finish(turn.seat) {
            inner.forget(turn.seat);
        }
        let idle = inner.room.in_flight(turn.seat) == 0;
        let leaving = !inner.room.is_taking(turn.seat);
        self.settle(inner, shared);
        // Somebody waits for the end of the last call on an instance that is being taken away.
        self.note(shared, idle && leaving);
    }

    /// Serves those who wait, as far as there are slots; the lock is released before anyone is woken.
    pub(crate) fn settle(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, shared: &Arc<Shared>) {
        if inner.room.queued() == 0 {
            return;
        }
        inner.room.set_paused(shared.purses.gate(&self.plan().tenant) != Gate::Open);
        let mut granted = Vec::new();
        let now = shared.clock.now();
        while let Some(grant) = inner.room.grant(now) {
            granted.push(grant);
        }
        drop(inner);
        let mut first = false;
        for (waker, turn) in granted {
            let first_there = turn.instance.note_first_call();
            first |= first_there;
            // A call that left at this very moment drops the seat, which hands it on.
            let _ = waker.sender.send(Ok(self.seat(turn, first_there, shared)));
        }
        if first {
            self.note(shared, true);
        }
    }

    /// Tells those who wait why nobody may by now, else serves them as far as there are slots.
    pub(crate) fn settle_or_refuse(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, shared: &Arc<Shared>) {
        let Some(refusal) = self.refusal(&inner, shared) else { return self.settle(inner, shared) };
        let refused = inner.room.clear();
        drop(inner);
        if !refused.is_empty() {
            // Nobody waits any more, and the controller counts on those who did.
            self.note(shared, true);
            Waker::refuse(refused, &refusal);
        }
    }

    /// Other activators may run calls and this one not: those who wait are handed over.
    pub(crate) fn send_elsewhere(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, shared: &Arc<Shared>) {
        let moved = inner.room.take_out(|waker| waker.movable);
        drop(inner);
        if moved.is_empty() {
            return;
        }
        for (ticket, arrived, waker) in moved {
            let _ = waker.sender.send(Err(Out::Elsewhere(Some(Place { ticket, arrived }))));
        }
        self.note(shared, false);
    }

    /// One task per function with waiting calls ends those whose time is over: no timer per call.
    fn watch_deadlines(self: &Arc<Self>, inner: &mut Inner, shared: &Arc<Shared>) {
        if std::mem::replace(&mut inner.watched, true) {
            return;
        }
        let (func, shared) = (self.clone(), shared.clone());
        tokio::spawn(async move {
            while let Some(wake) = func.release_expired(&shared) {
                tokio::time::sleep_until(shared.clock.instant(wake)).await;
            }
        });
    }

    /// Refuses those whose time is over. Says when to look again; `None` when nobody waits.
    fn release_expired(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Duration> {
        let mut inner = self.inner.lock();
        let now = shared.clock.now();
        let mut expired = Vec::new();
        while let Some(waker) = inner.room.expire(now) {
            expired.push(waker);
        }
        let reserved = inner.room.is_at_most();
        let next = inner.room.next_deadline();
        inner.watched = next.is_some();
        drop(inner);
        if !expired.is_empty() {
            let plan = self.plan();
            let why = match reserved {
                _ if shared.purses.is_out(&plan.tenant) => Refusal::budget_unknown(),
                true => Refusal::reserved(),
                false => Refusal::wait_timeout(&plan.waiting_reason),
            };
            Waker::refuse(expired, &why);
            self.note(shared, false);
        }
        // At least once a second: the longest wait may have been made shorter.
        next.map(|at| at.min(now + Duration::from_secs(1)))
    }
}

enum Entered {
    Seat(Seat),
    Waiting(Waiting, Receiver),
    Elsewhere,
}

/// A number of calls or bytes as the gauges count.
fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
