//! A dispatched call becomes one record, whatever happens to it.

use crate::{
    SeenCall,
    body::Upload,
    clock::micros,
    durable::{Promise, Written},
    event::Event,
    metrics::Trouble,
    pool::Lane,
    room::Seat,
    shared::Shared,
    spool::{Reservation, SpoolError},
    text,
    through::Mark,
    trace::TraceId,
    trail::{Run, Trail},
};
use dormouse_core::record::{CallRecord, Outcome};
use http::HeaderValue;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// What is known of a call before it is dispatched.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Its number in the epoch.
    pub(crate) call: u64,
    /// Wall clock at its first byte, microseconds since 1970.
    pub(crate) at_us: i64,
    /// The same by the process's clock.
    pub(crate) at: Duration,
    /// For the logs.
    pub(crate) trace: TraceId,
    /// What is told of it when it is over, if anybody wants that.
    pub(crate) trail: Option<Arc<Trail>>,
    /// It is a call of gRPC.
    pub(crate) grpc: bool,
    /// Who pays for it: the function's tenant when it came; `None` before the function is known.
    pub(crate) tenant: Option<Arc<str>>,
    /// Held until its record is written.
    #[expect(dead_code, reason = "what counts is how many hold it")]
    pub(crate) mark: Arc<Mark>,
    /// Hash of its `Idempotency-Key`; 0 without one.
    pub(crate) key: u64,
    /// For who watches calls go by: method and path.
    pub(crate) seen: Option<(http::Method, String)>,
    /// The platform made it.
    pub(crate) event: Option<Box<Event>>,
}

impl Received {
    /// Its call ends with its caller.
    pub(crate) fn ends(&self) -> bool {
        self.event.as_ref().is_some_and(|event| event.ends)
    }
}

/// Where a call's time went before it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    /// Waited for a slot on open instances.
    pub(crate) wait: Duration,
    /// Until there was an instance for it, with an address.
    pub(crate) claim: Duration,
    /// Until that had opened its port.
    pub(crate) start: Duration,
    /// Until it had a connection.
    pub(crate) connect: Duration,
}

impl Before {
    fn of(seat: &Seat, dispatched: Duration) -> Self {
        let turn = &seat.turn;
        let claim = seat.instance().told.saturating_sub(turn.arrived).min(turn.start);
        let granted = turn.arrived + turn.wait + turn.start;
        Self { wait: turn.wait, claim, start: turn.start - claim, connect: dispatched.saturating_sub(granted) }
    }
}

/// The meter of one call, from dispatch on. Dropped without an end it records the call as aborted.
#[derive(Debug)]
pub(crate) struct Meter {
    shared: Arc<Shared>,
    /// Taken with the record: the slot is free after it.
    rest: Option<Rest>,
    dispatched: Duration,
    promise: Promise,
    /// When the head of its response came.
    answered: Option<Duration>,
    pub(crate) upload: Arc<Upload>,
    pub(crate) response_bytes: u64,
    /// The status that the caller was given; 0 before.
    pub(crate) status: u16,
}

#[derive(Debug)]
struct Rest {
    received: Received,
    seat: Seat,
    reservation: Reservation,
}

impl Meter {
    /// The call is dispatched at this time of the clock, its end promised to wait for this.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        received: Received,
        seat: Seat,
        reservation: Reservation,
        upload: Arc<Upload>,
        (dispatched, promise): (Duration, Promise),
    ) -> Self {
        Self {
            shared: shared.clone(),
            rest: Some(Rest { received, seat, reservation }),
            dispatched,
            promise,
            answered: None,
            upload,
            response_bytes: 0,
            status: 0,
        }
    }

    /// The call was not dispatched after all: no byte of it left.
    pub(crate) fn undo(mut self) -> Option<(Received, Seat)> {
        let Rest { received, seat, reservation } = self.rest.take()?;
        self.shared.spool.withdraw(reservation);
        Some((received, seat))
    }

    /// The head of the response is there: where the call's time went.
    pub(crate) fn server_timing(&mut self) -> HeaderValue {
        let now = self.shared.clock.now();
        self.answered = Some(now);
        let before = self.rest.as_ref().map(|rest| Before::of(&rest.seat, self.dispatched)).unwrap_or_default();
        text::server_timing(before, now.saturating_sub(self.dispatched))
    }

    /// Its instance broke off, or the connection to it did.
    pub(crate) fn note_breakage(&self) {
        let Some(rest) = &self.rest else { return };
        let (received, key, instance) = (&rest.received, &rest.seat.func().key, &rest.seat.instance().id);
        let (request_id, namespace, function) = (self.shared.request_id(received.call), &key.namespace, &key.name);
        tracing::debug!(%request_id, trace_id = %received.trace, namespace, function, instance, "its instance broke off");
    }

    /// Something went wrong on its way.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        if let Some(rest) = &self.rest {
            rest.seat.func().metrics.trouble(trouble);
        }
    }

    /// It ends with its caller, who has left: its record says so.
    pub(crate) fn is_to_end(&mut self) -> bool {
        let event = self.rest.as_mut().and_then(|rest| rest.received.event.as_mut());
        let Some(event) = event.filter(|event| event.ends) else { return false };
        event.timed.replaced = true;
        true
    }

    /// It is a call of gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.received.grpc)
    }

    /// The instance let the call's time pass: it gets no more calls, and is to be replaced.
    pub(crate) fn retire_instance(&self) {
        let Some(rest) = &self.rest else { return };
        rest.seat.retire_instance();
    }

    /// Its instance answered.
    pub(crate) fn note_response(&self) {
        if let Some(rest) = &self.rest {
            rest.seat.instance().note_response();
        }
    }

    /// The time by the clock that it goes by.
    pub(crate) fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// Keeps a connection that the call is done with.
    pub(crate) fn keep(&self, lane: Lane, now: Duration) {
        if let Some(rest) = &self.rest {
            let instance = rest.seat.instance();
            instance.pool.put(lane, instance, self.shared.clock, now);
        }
    }

    /// Writes the record, then frees the slot; says what the end of the response waits for, if there is anything. The first
    /// end counts; a second one does nothing.
    pub(crate) fn finish(&mut self, outcome: Outcome) -> Result<Option<Written>, SpoolError> {
        self.finish_at(outcome, self.now())
    }

    /// The same for a call that ended at this time of the clock.
    pub(crate) fn finish_at(&mut self, outcome: Outcome, now: Duration) -> Result<Option<Written>, SpoolError> {
        let Some(Rest { received, seat, reservation }) = self.rest.take() else { return Ok(None) };
        let before = Before::of(&seat, self.dispatched);
        let record = CallRecord {
            run_us: micros(now.saturating_sub(self.dispatched)),
            request_bytes: self.upload.bytes(),
            response_bytes: self.response_bytes,
            status: self.status,
            outcome,
            ..begun(&received, &seat, before)
        };
        let subject = seat.instance().subject_for(received.tenant.as_deref());
        let written = self.shared.spool.append(&subject, &record, reservation);
        // Behind the record, before the slot is free: whoever gets it finds what was spent.
        self.shared.purses.spend(&subject, &record);
        let metrics = &seat.func().metrics;
        metrics.answered(self.status, outcome);
        metrics.took(now.saturating_sub(received.at), before.wait + seat.turn.start);
        if record.cold {
            metrics.cold(before, self.answered.map(|at| at.saturating_sub(self.dispatched)));
        }
        if let Some(trail) = &received.trail {
            let (arrived, dispatched, answered) = (seat.turn.arrived, self.dispatched, self.answered);
            let (subject, instance) = (subject.clone(), seat.instance().addr);
            trail.ran(Run { subject, instance, record, arrived, dispatched, answered });
        }
        match &written {
            Ok(_) => self.shared.metrics.records.inc(),
            Err(_) => {
                metrics.trouble(Trouble::NotRecorded);
                self.shared.metrics.records_lost.inc()
            }
        };
        if let (Some(watcher), Some((method, path))) = (&self.shared.seen, received.seen) {
            let request_id = self.shared.request_id(received.call);
            // Full: it is a view, not an account.
            let _ = watcher.try_send(SeenCall { request_id, subject: subject.clone(), record, method, path });
        }
        if let Err(e) = &written {
            let (request_id, key) = (self.shared.request_id(received.call), &seat.func().key);
            let (namespace, function) = (&key.namespace, &key.name);
            tracing::error!(%request_id, trace_id = %received.trace, namespace, function, "a call could not be recorded: {e}");
        }
        written.map(|seq| self.promise.written(seq, seat.func(), now))
    }
}

/// The record of a call as it stands at its dispatch.
fn begun(received: &Received, seat: &Seat, before: Before) -> CallRecord {
    let cold = !seat.turn.start.is_zero();
    CallRecord {
        subject: 0,
        call: received.call,
        received_at_us: received.at_us,
        wait_us: micros(before.wait),
        claim_us: micros(before.claim),
        start_us: micros(before.start),
        connect_us: micros(before.connect),
        run_us: 0,
        request_bytes: 0,
        response_bytes: 0,
        status: 0,
        outcome: Outcome::Aborted,
        cold,
        first: seat.first && cold,
        warm_slots: seat.instance().warm_slots.load(Relaxed),
        key: received.key,
        timed: received.event.as_ref().map(|event| event.timed),
    }
}

/// A call is about to be dispatched at this time of the clock: the spool is told, so that it has a record even if this
/// process does not live to write it.
pub(crate) fn intend(
    shared: &Shared,
    (received, seat): (&Received, &Seat),
    dispatched: Duration,
    reservation: &mut Reservation,
) -> Result<(), SpoolError> {
    let subject = seat.instance().subject_for(received.tenant.as_deref());
    shared.spool.intend(reservation, &subject, &begun(received, seat, Before::of(seat, dispatched)))
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.rest.is_some() {
            // The process ends with calls in flight: they are explained, and billed nothing.
            let _ = self.finish(Outcome::Aborted);
        }
    }
}

impl Seat {
    /// Takes its instance out of routing for ever, and tells.
    pub(crate) fn retire_instance(&self) {
        if self.instance().retired.swap(true, Relaxed) {
            return;
        }
        let (func, seat) = (self.func(), self.turn.seat);
        let mut inner = func.inner.lock();
        inner.room.set(seat, 0, false);
        // It may have been what held a failure back.
        func.settle_or_refuse(inner, self.shared());
        self.instance().pool.close();
        self.tell_soon();
    }
}
