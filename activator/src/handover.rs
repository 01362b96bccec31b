//! A call that another activator takes over: sent on as it is, its answer streamed back, nothing recorded here.

use crate::{
    answer::Refusal,
    body::{Cut, SentBody},
    clock::Clock,
    func::Func,
    headers,
    peer::{Line, Link, Lost, Peers},
    room::Out,
    shared::Shared,
    wire::Peer,
};
use bytes::Bytes;
use http::{Request, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Sleep;

/// What the other activator has beyond the longest wait and the longest run of a call. It keeps both; we only see to it
/// that one which is lost without a word does not hold the call for ever.
const MARGIN: Duration = Duration::from_secs(5);

/// How a hand-over went.
pub(crate) enum Handed {
    /// It was answered.
    Answer(response::Parts, HandedBody),
    /// Nobody took it, and no byte of it left.
    Nobody(Request<SentBody>),
}

/// Hands a call to one of those that may run it.
pub(crate) async fn hand_over(
    shared: &Arc<Shared>,
    func: &Func,
    peer: &Peer,
    mut request: Request<SentBody>,
    (call, ends): (u64, bool),
) -> Result<Handed, Out> {
    let (links, most) = {
        let plan = func.plan();
        (shared.peers.of(&plan.holders, call, shared.clock), plan.limits.max_wait + plan.timeout + MARGIN)
    };
    if shared.peers.sign(request.headers_mut(), &func.uid, ends).is_none() {
        return Ok(Handed::Nobody(request));
    }
    let mut deadline = Box::pin(tokio::time::sleep(most));
    peer.set_deadline(shared.clock.now() + most);
    for link in links {
        let sent = tokio::select! {
            biased;
            sent = link.send(request, shared.clock) => sent,
            // Dropped with the connection: the other side drops the call if it still waits, else lets it end.
            () = peer.gone() => return Err(Out::Gone),
            () = &mut deadline => return Err(Refusal::peer_lost().into()),
            () = shared.hard_stop.cancelled() => return Err(Refusal::shutting_down().into()),
        };
        match sent {
            Ok((response, line)) => {
                shared.metrics.handed_over.inc();
                let (mut head, incoming) = response.into_parts();
                headers::from_peer(&mut head.headers);
                head.extensions.clear();
                let over = incoming.is_end_stream();
                let body = HandedBody { incoming, line: Some(line), link, clock: shared.clock, deadline, over };
                return Ok(Handed::Answer(head, body));
            }
            Err(Lost::NotSent(unsent)) => request = *unsent,
            Err(Lost::Sent) => return Err(Refusal::peer_lost().into()),
        }
    }
    Peers::unsign(request.headers_mut());
    Ok(Handed::Nobody(request))
}

/// The body of an answer that comes from another activator. Dropped before its end, the connection ends with it.
pub(crate) struct HandedBody {
    incoming: Incoming,
    line: Option<Line>,
    link: Arc<Link>,
    clock: Clock,
    deadline: Pin<Box<Sleep>>,
    /// It came whole.
    over: bool,
}

impl HandedBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending if self.deadline.as_mut().poll(cx).is_ready() => {
                self.line = None;
                Poll::Ready(Some(Err(Cut::Timeout)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Err(_))) => {
                self.line = None;
                Poll::Ready(Some(Err(Cut::Died)))
            }
            Poll::Ready(other) => {
                self.over = other.is_none() || self.incoming.is_end_stream();
                Poll::Ready(other.map(|frame| frame.map_err(|_| Cut::Died)))
            }
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for HandedBody {
    fn drop(&mut self) {
        if self.over
            && let Some(line) = self.line.take()
        {
            self.link.keep(line, self.clock);
        }
    }
}
