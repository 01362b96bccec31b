//! A call whose client left runs to its end all the same (or to the end of its time): its slot stays taken until the
//! instance has answered, the answer is thrown away, and the record says so.

use crate::{
    body::{InBody, Progress},
    flight::{self, Parts},
    metered,
    metrics::Trouble,
    pool::Reply,
    shared::Shared,
};
use dormouse_core::record::Outcome;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

/// The client left before the head of the response.
pub(crate) fn before_head(parts: Box<Parts>, reply: Reply, shared: &Arc<Shared>) {
    run(Draining { parts: Some(parts), stage: Stage::Head(reply) }, shared);
}

/// The client left within the response.
pub(crate) fn after_head(mut parts: Box<Parts>, incoming: InBody, shared: &Arc<Shared>) {
    if parts.alarm.is_over() {
        // It did not read its response in time: the instance is not to blame for that.
        parts.lane.reset();
        let _ = parts.meter.finish(Outcome::ClientGone);
        return;
    }
    run(Draining { parts: Some(parts), stage: Stage::Body(incoming) }, shared);
}

fn run(mut draining: Draining, shared: &Arc<Shared>) {
    // Without a runtime the process is ending: the meter's own drop records the call.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let stop = shared.hard_stop.clone();
    // Unless it ends with its caller: then it is ended as if its time were over.
    let ends = draining.parts.as_mut().is_some_and(|parts| parts.meter.is_to_end());
    let task = async move {
        if ends {
            let _ = draining.late();
            return;
        }
        tokio::select! {
            () = poll_fn(|cx| draining.poll(cx)) => {}
            () = stop.cancelled() => {}
        }
    };
    runtime.spawn(shared.tracker.track_future(task));
}

/// After as many frames others get their turn on the thread: at most 128 KiB each (the read buffer of a connection), so
/// 4 MiB or about a millisecond.
const FRAMES: usize = 32;

struct Draining {
    parts: Option<Box<Parts>>,
    stage: Stage,
}

enum Stage {
    Head(Reply),
    Body(InBody),
}

impl Draining {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES {
            let Some(parts) = &mut self.parts else { return Poll::Ready(()) };
            let step = match &mut self.stage {
                Stage::Head(reply) => match flight::poll_reply(parts, reply, cx) {
                    Poll::Ready(Ok(response)) => {
                        self.stage = Stage::Body(response.into_body());
                        continue;
                    }
                    Poll::Ready(Err(_)) => Step::Broken,
                    Poll::Pending => Step::Wait,
                },
                Stage::Body(incoming) => poll_body(parts, incoming, cx),
            };
            match step {
                // An instance that sends without a pause is never waited for.
                Step::Again if parts.alarm.is_over() => return self.late(),
                Step::Again => {}
                Step::Wait if parts.alarm.poll(cx).is_pending() => return Poll::Pending,
                Step::Wait => return self.late(),
                Step::Whole => return self.whole(cx),
                Step::Broken => return self.broken(),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn whole(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(parts) = self.parts.take() {
            let _ = metered::finish(parts, Outcome::ClientGone, cx);
        }
        Poll::Ready(())
    }

    fn broken(&mut self) -> Poll<()> {
        if let Some(parts) = self.parts.take() {
            let Parts { lane, mut meter, .. } = *parts;
            meter.trouble(if meter.upload.progress() == Progress::Whole {
                Trouble::Died
            } else {
                Trouble::UploadBroke
            });
            // Half a body went out: the instance must not take it for a whole one.
            if meter.upload.progress() == Progress::Whole {
                drop(lane)
            } else {
                lane.reset()
            }
            let _ = meter.finish(Outcome::ClientGone);
        }
        Poll::Ready(())
    }

    fn late(&mut self) -> Poll<()> {
        if let Some(parts) = self.parts.take() {
            let Parts { lane, mut meter, .. } = *parts;
            if meter.upload.progress() != Progress::Starved {
                meter.retire_instance();
                meter.trouble(Trouble::Timeout);
            }
            lane.reset();
            let _ = meter.finish(Outcome::ClientGone);
        }
        Poll::Ready(())
    }
}

enum Step {
    Again,
    Wait,
    Whole,
    Broken,
}

fn poll_body(parts: &mut Parts, incoming: &mut InBody, cx: &mut Context<'_>) -> Step {
    parts.lane.drive(cx);
    match incoming.poll_frame(cx) {
        Poll::Pending => Step::Wait,
        Poll::Ready(None) => Step::Whole,
        Poll::Ready(Some(Err(_))) => Step::Broken,
        Poll::Ready(Some(Ok(frame))) => {
            parts.meter.response_bytes += frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
            Step::Again
        }
    }
}
