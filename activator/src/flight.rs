//! A call on its way: from the first byte to an instance until the head of its response.

use crate::{
    alarm::Alarm,
    body::{InBody, Progress, SentBody},
    drain,
    meter::Meter,
    pool::{Lane, Reply},
    shared::Shared,
};
use http::{Request, Response};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// What a call holds while an instance works on it.
pub(crate) struct Parts {
    pub(crate) lane: Lane,
    pub(crate) meter: Meter,
    /// The end of the call's time.
    pub(crate) alarm: Alarm,
    /// It asks for a change of protocol.
    pub(crate) upgrades: bool,
}

/// How a flight ended without a response.
#[expect(clippy::large_enum_variant, reason = "only handed on in a box")]
pub(crate) enum Lost {
    /// No byte left us: the call may be sent again.
    NotSent(Request<SentBody>, Box<Parts>),
    /// The instance broke off.
    Died(Box<Parts>),
    /// The client broke its body off, so the instance was cut off too.
    UploadBroke(Box<Parts>),
    /// The call's time is over.
    Late(Box<Parts>),
}

/// A call on its way. Dropped before its end (the client left) the call goes on to its end without an audience.
pub(crate) struct Flight {
    flying: Option<(Box<Parts>, Reply)>,
    shared: Arc<Shared>,
}

impl Flight {
    pub(crate) fn start(mut parts: Box<Parts>, request: Request<SentBody>, shared: &Arc<Shared>) -> Self {
        let reply = parts.lane.send(request);
        Self { flying: Some((parts, reply)), shared: shared.clone() }
    }
}

impl Future for Flight {
    type Output = Result<(Response<InBody>, Box<Parts>), Box<Lost>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((parts, reply)) = &mut self.flying else { return Poll::Pending };
        let result = match poll_reply(parts, reply, cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending if parts.alarm.poll(cx).is_ready() => None,
            Poll::Pending => return Poll::Pending,
        };
        let Some((parts, _)) = self.flying.take() else { return Poll::Pending };
        Poll::Ready(match result {
            Some(Ok(response)) => Ok((response, parts)),
            Some(Err(Some(request))) => Err(Box::new(Lost::NotSent(request, parts))),
            Some(Err(None)) if parts.meter.upload.progress() == Progress::Broken => {
                Err(Box::new(Lost::UploadBroke(parts)))
            }
            Some(Err(None)) => Err(Box::new(Lost::Died(parts))),
            None => Err(Box::new(Lost::Late(parts))),
        })
    }
}

/// The response, or an error with the request if none of it was sent.
pub(crate) fn poll_reply(
    parts: &mut Parts,
    reply: &mut Reply,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<InBody>, Option<Request<SentBody>>>> {
    parts.lane.drive(cx);
    let polled = reply.poll(&mut parts.lane, cx);
    if let Poll::Ready(Err(_)) = &polled {
        parts.meter.note_breakage();
    }
    polled
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some((parts, reply)) = self.flying.take() {
            drain::before_head(parts, reply, &self.shared);
        }
    }
}
