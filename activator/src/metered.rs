//! A response on its way to the client: its end is handed out only after the call's record is written, and as safe as the
//! price plan has it.
//!
//! "End" is the last byte when the length is known, else the end of the stream: never a data frame before it.

use crate::{
    body::{Cut, InBody, Progress},
    drain,
    durable::{Wait, Written},
    flight::Parts,
    grpc, headers,
    metrics::Trouble,
    shared::Shared,
};
use bytes::Bytes;
use dormouse_core::record::Outcome;
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// A client that takes the next frame that long after the last one let the time pass itself, not the instance. A client
/// that reads asks again within microseconds; the rest is for a loaded machine.
const READER_PAUSE: Duration = Duration::from_millis(100);
/// What was handed out is written within microseconds to a client that reads; the rest is for a loaded machine.
const FLUSH: Duration = Duration::from_millis(10);

/// The body of a response that is still coming. Dropped before its end (the client left) the call goes on to its end.
pub(crate) struct Metered {
    running: Option<(Box<Parts>, InBody)>,
    /// Bytes still to come, when the length is known.
    remaining: Option<u64>,
    /// Until the record is safe. In a box: most calls wait for nothing, and every call in flight has room for this.
    held: Option<Box<Held>>,
    /// Breaks off with it once what came before has been written.
    breaks: Option<(Cut, Pin<Box<Sleep>>)>,
    /// When the last frame was handed out, if nothing was waited for since.
    handed: Option<Instant>,
    /// Its head or its trailers said that the function failed.
    failed: bool,
    shared: Arc<Shared>,
}

/// An end that waits.
struct Held {
    wait: Wait,
    /// The frame that it comes with.
    last: Option<Frame<Bytes>>,
}

/// Whether an answer is the function's success or its failure.
pub(crate) fn outcome_of(status: u16) -> Outcome {
    if status < 500 { Outcome::Ok } else { Outcome::FunctionError }
}

impl Metered {
    pub(crate) fn new(parts: Box<Parts>, incoming: InBody, (failed, shared): (bool, &Arc<Shared>)) -> Self {
        let remaining = incoming.exact();
        Self {
            running: Some((parts, incoming)),
            remaining,
            held: None,
            breaks: None,
            handed: None,
            failed,
            shared: shared.clone(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.running.is_none() && self.held.is_none() && self.breaks.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.remaining {
            _ if self.is_over() => SizeHint::with_exact(0),
            Some(exact) => {
                let held = self.held.as_ref().and_then(|held| held.last.as_ref()?.data_ref());
                SizeHint::with_exact(exact + held.map_or(0, Bytes::len) as u64)
            }
            None => SizeHint::new(),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(held) = &mut self.held {
            let safe = ready!(Pin::new(&mut held.wait).poll(cx));
            return self.let_go(safe, cx);
        }
        if let Some((cut, pause)) = &mut self.breaks {
            let cut = *cut;
            ready!(pause.as_mut().poll(cx));
            self.breaks = None;
            return Poll::Ready(Some(Err(cut)));
        }
        let handed = self.handed.take();
        let Some((parts, incoming)) = &mut self.running else { return Poll::Ready(None) };
        parts.lane.drive(cx);
        match incoming.poll_frame(cx) {
            Poll::Pending if parts.alarm.poll(cx).is_ready() => self.cut(Cut::Timeout, cx),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) if self.remaining.is_some_and(|r| r > 0) => self.cut(Cut::Died, cx),
            Poll::Ready(None) => self.end(None, cx),
            Poll::Ready(Some(Err(_))) => self.cut(Cut::Died, cx),
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    self.failed |= parts.meter.is_grpc() && grpc::is_failure(trailers);
                    headers::trailers(trailers);
                }
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.remaining = self.remaining.map(|r| r.saturating_sub(len));
                let last = self.remaining == Some(0) || frame.is_trailers();
                // With every frame: an instance that sends without a pause is never pending.
                if !last && parts.alarm.is_over() {
                    let reader_slept = handed.is_some_and(|at| at.elapsed() > READER_PAUSE);
                    return self.cut(if reader_slept { Cut::Unread } else { Cut::Timeout }, cx);
                }
                parts.meter.response_bytes += len;
                self.handed = (!last).then(Instant::now);
                if last { self.end(Some(frame), cx) } else { Poll::Ready(Some(Ok(frame))) }
            }
        }
    }

    /// The response came whole, with this frame or after it: the record is written, the connection kept.
    fn end(&mut self, last: Option<Frame<Bytes>>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some((parts, incoming)) = self.running.take() else { return Poll::Ready(None) };
        let outcome = if self.failed { Outcome::FunctionError } else { outcome_of(parts.meter.status) };
        // Its end is read by now, and the connection is told so.
        drop(incoming);
        match finish(parts, outcome, cx) {
            Ok(None) => Poll::Ready(last.map(Ok)),
            Ok(Some(written)) => {
                self.held = Some(Box::new(Held { wait: written.wait(&self.shared), last }));
                self.poll_frame(cx)
            }
            Err(_) => Poll::Ready(Some(Err(Cut::NotRecorded))),
        }
    }

    /// The record is safe, or will not be in time: what waited for that goes its way.
    fn let_go(&mut self, safe: Result<(), Cut>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let last = self.held.take().and_then(|held| held.last);
        match (safe, &mut self.breaks) {
            (Ok(()), None) => Poll::Ready(last.map(Ok)),
            (Err(cut), None) => Poll::Ready(Some(Err(cut))),
            (safe, Some((cut, _))) => {
                *cut = safe.err().unwrap_or(*cut);
                self.poll_frame(cx)
            }
        }
    }

    /// The response breaks off: the client sees a broken transfer, after what came before. The server would throw away
    /// what it has not written yet, the head included: so it is let write first. On HTTP/2 another task writes.
    fn cut(&mut self, cut: Cut, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Some((parts, incoming)) = self.running.take() else { return Poll::Ready(None) };
        let Parts { lane, mut meter, .. } = *parts;
        drop(incoming);
        let (outcome, trouble) = match (cut, meter.upload.progress()) {
            (Cut::Unread, _) => (Outcome::ClientGone, Trouble::ResponseUnread),
            (Cut::Timeout, Progress::Starved) => (Outcome::ClientGone, Trouble::UploadBroke),
            (Cut::Timeout, _) => {
                meter.retire_instance();
                (Outcome::Timeout, Trouble::Timeout)
            }
            (_, Progress::Broken) => (Outcome::ClientGone, Trouble::UploadBroke),
            _ => (Outcome::FunctionError, Trouble::ResponseBroke),
        };
        meter.trouble(trouble);
        if matches!(outcome, Outcome::FunctionError) {
            drop(lane)
        } else {
            lane.reset()
        }
        let recorded = meter.finish(outcome);
        let pause = Box::pin(tokio::time::sleep(FLUSH));
        self.breaks = Some((if recorded.is_ok() { cut } else { Cut::NotRecorded }, pause));
        // A caller of gRPC is told in trailers: that is an end.
        let written = recorded.ok().flatten();
        self.held = written.map(|written| Box::new(Held { wait: written.wait(&self.shared), last: None }));
        self.poll_frame(cx)
    }
}

/// A call whose response came whole: writes the record; keeps the connection if nothing more is on its way.
pub(crate) fn finish(
    mut parts: Box<Parts>,
    outcome: Outcome,
    cx: &mut Context<'_>,
) -> Result<Option<Written>, crate::spool::SpoolError> {
    let mut lane = parts.lane;
    let now = parts.meter.now();
    if parts.meter.upload.progress() == Progress::Whole {
        lane.drive(cx);
        if lane.is_free() {
            lane.keep_alarm(parts.alarm);
            // Before the record: the call that gets the slot finds it.
            parts.meter.keep(lane, now);
        }
    } else {
        // An early answer: the instance did not want the rest of the body.
        lane.reset();
    }
    parts.meter.finish_at(outcome, now)
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some((parts, incoming)) = self.running.take() {
            drain::after_head(parts, incoming, &self.shared);
        }
    }
}
