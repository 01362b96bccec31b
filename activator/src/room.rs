//! The waiting room at work: calls wait here without their bodies being read, until they get a slot, their time is over,
//! their client leaves, or their function does.

use crate::{
    answer::Refusal,
    func::{Func, Inner},
    instance::Instance,
    shared::Shared,
    spool::SpoolError,
    wire::Peer,
};
use dormouse_core::admit::{Entry, Ticket, Turn};
use parking_lot::MutexGuard;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Wakes one waiting call.
#[derive(Debug)]
pub(crate) struct Waker(oneshot::Sender<Result<Seat, Refusal>>);

impl Waker {
    /// Tells calls that were taken out of the room why. Never under the room's lock.
    pub(crate) fn refuse(wakers: Vec<Self>, refusal: &Refusal) {
        for waker in wakers {
            // An error means that the call left at this very moment.
            let _ = waker.0.send(Err(refusal.clone()));
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
    pub(crate) async fn put_back(self, peer: &Peer, head_bytes: usize) -> Result<Self, Out> {
        let (waiting, receiver) = self.wait_again(head_bytes)?;
        waiting.result(receiver, peer).await
    }

    fn wait_again(mut self, head_bytes: usize) -> Result<(Waiting, Receiver), Refusal> {
        self.held = false;
        let (func, shared, turn) = (&self.func, &self.shared, &self.turn);
        func.metrics.running.dec();
        let (sender, receiver) = oneshot::channel();
        let mut inner = func.inner.lock();
        if inner.room.finish(turn.seat) {
            inner.forget(turn.seat);
        }
        inner.room.shut(turn.seat);
        if let Some(refusal) = func.refusal(&inner) {
            // It may have been the last open instance: whoever else waits is told as well.
            func.settle_or_refuse(inner, shared);
            func.note(shared, true);
            return Err(refusal);
        }
        inner.room.put_back(turn.ticket, turn.arrived, Waker(sender));
        let waiting = Waiting::new(func, shared, turn.ticket, head_bytes);
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

type Receiver = oneshot::Receiver<Result<Seat, Refusal>>;

/// A call in the queue; leaves it when dropped.
struct Waiting {
    func: Arc<Func>,
    shared: Arc<Shared>,
    ticket: Ticket,
    head_bytes: usize,
}

impl Waiting {
    fn new(func: &Arc<Func>, shared: &Arc<Shared>, ticket: Ticket, head_bytes: usize) -> Self {
        shared.waiting.fetch_add(1, Relaxed);
        shared.waiting_bytes.fetch_add(head_bytes, Relaxed);
        func.metrics.queued.inc();
        func.metrics.held(head_bytes);
        Self { func: func.clone(), shared: shared.clone(), ticket, head_bytes }
    }

    async fn result(self, receiver: Receiver, peer: &Peer) -> Result<Seat, Out> {
        tokio::select! {
            biased;
            result = receiver => match result {
                Ok(Ok(seat)) => Ok(seat),
                Ok(Err(refusal)) => Err(Out::Refused(refusal)),
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
        self.shared.waiting.fetch_sub(1, Relaxed);
        self.shared.waiting_bytes.fetch_sub(self.head_bytes, Relaxed);
        self.func.metrics.queued.dec();
        self.func.metrics.let_go(self.head_bytes);
        // Whoever was granted a slot meanwhile has it in its channel: dropping that hands it back.
        if self.func.inner.lock().room.leave(self.ticket).is_some() {
            self.func.note(&self.shared, false);
        }
    }
}

impl Func {
    /// Gets a slot for a call, at once or after waiting; the bytes of its head are held while it waits.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        peer: &Peer,
        head_bytes: usize,
    ) -> Result<Seat, Out> {
        let (waiting, receiver) = match self.enter(shared, head_bytes)? {
            Entered::Seat(seat) => return Ok(seat),
            Entered::Waiting(waiting, receiver) => (waiting, receiver),
        };
        waiting.result(receiver, peer).await
    }

    fn enter(self: &Arc<Self>, shared: &Arc<Shared>, head_bytes: usize) -> Result<Entered, Refusal> {
        let mut inner = self.inner.lock();
        if inner.gone || self.plan().closing {
            return Err(Refusal::deleted());
        }
        let mut receiver = None;
        let entry = inner.room.enter(shared.clock.now(), || {
            let (sender, r) = oneshot::channel();
            receiver = Some(r);
            Waker(sender)
        });
        match (entry, receiver) {
            (Entry::Go(turn), _) => {
                let first = turn.instance.note_first_call();
                drop(inner);
                self.note(shared, first);
                Ok(Entered::Seat(self.seat(turn, shared)))
            }
            (Entry::Wait(ticket), Some(receiver)) => self.wait(inner, (ticket, head_bytes), receiver, shared),
            _ => Err(Refusal::function_queue_full()),
        }
    }

    fn wait(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        (ticket, head_bytes): (Ticket, usize),
        receiver: Receiver,
        shared: &Arc<Shared>,
    ) -> Result<Entered, Refusal> {
        let full = shared.waiting.load(Relaxed) >= shared.limits.max_waiting
            || shared.waiting_bytes.load(Relaxed) + head_bytes > shared.limits.max_waiting_bytes;
        let refusal = self.refusal(&inner).or_else(|| full.then(Refusal::platform_queue_full));
        if let Some(refusal) = refusal {
            inner.room.leave(ticket);
            drop(inner);
            // It is told as a peak: the controller sees that somebody asked.
            self.note(shared, true);
            return Err(refusal);
        }
        let waiting = Waiting::new(self, shared, ticket, head_bytes);
        self.watch_deadlines(&mut inner, shared);
        drop(inner);
        self.note(shared, true);
        Ok(Entered::Waiting(waiting, receiver))
    }

    fn seat(self: &Arc<Self>, turn: Turn<Arc<Instance>>, shared: &Arc<Shared>) -> Seat {
        self.metrics.running.inc();
        Seat { func: self.clone(), shared: shared.clone(), turn, held: true }
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
        let mut granted = Vec::new();
        let now = shared.clock.now();
        while let Some(grant) = inner.room.grant(now) {
            granted.push(grant);
        }
        drop(inner);
        let mut first = false;
        for (waker, turn) in granted {
            first |= turn.instance.note_first_call();
            // A call that left at this very moment drops the seat, which hands it on.
            let _ = waker.0.send(Ok(self.seat(turn, shared)));
        }
        if first {
            self.note(shared, true);
        }
    }

    /// Tells those who wait why nobody may by now, else serves them as far as there are slots.
    pub(crate) fn settle_or_refuse(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, shared: &Arc<Shared>) {
        let Some(refusal) = self.refusal(&inner) else { return self.settle(inner, shared) };
        let refused = inner.room.clear();
        drop(inner);
        if !refused.is_empty() {
            // Nobody waits any more, and the controller counts on those who did.
            self.note(shared, true);
            Waker::refuse(refused, &refusal);
        }
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
        let next = inner.room.next_deadline();
        inner.watched = next.is_some();
        drop(inner);
        if !expired.is_empty() {
            Waker::refuse(expired, &Refusal::wait_timeout(&self.plan().waiting_reason));
            self.note(shared, false);
        }
        // At least once a second: the longest wait may have been made shorter.
        next.map(|at| at.min(now + Duration::from_secs(1)))
    }
}

enum Entered {
    Seat(Seat),
    Waiting(Waiting, Receiver),
}

/// Calls that wait, or bytes of their heads, over all functions.
pub(crate) type WaitingTotal = AtomicUsize;
