//! One call from its head to the head of its response: check, route, admit, connect, send, answer.

use crate::{
    answer::{REQUEST_ID, Refusal},
    body::{OutBody, Progress, SentBody},
    check, clock, dial,
    flight::{Flight, Lost, Parts},
    func::Func,
    headers::{self, Caller},
    meter::{Meter, Received},
    metered::{self, Metered, outcome_of},
    metrics::Trouble,
    pool::{self, Lane},
    room::{Out, Seat},
    route,
    shared::Shared,
    trace,
    trail::Trail,
    wire::Peer,
};
use bytes::Bytes;
use dormouse_core::record::Outcome;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use std::{future::poll_fn, sync::Arc, time::Duration};

/// There is nobody to answer, or no answer may be given: the connection ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client is gone")]
pub(crate) struct Hangup;

/// Serves one call.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    mut request: Request<Incoming>,
) -> Result<Response<OutBody>, Hangup> {
    let in_call = peer.begin_call();
    let (call_no, at_us, at) = (shared.next_call(), clock::wall_us(), shared.clock.now());
    let id = shared.request_id(call_no);
    let context = trace::enter(request.headers_mut(), shared.outlets.sampling);
    let trail = Trail::begin(&shared, peer.addr, &request, (id, at_us, at), context);
    let received = Received { call: call_no, at_us, at, trace: context.trace, trail: trail.clone(), seen: None };
    let mut func = None;
    match call(&shared, &peer, request, received, &mut func).await {
        Ok(Answer { mut head, body }) => {
            if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
                head.headers.insert(REQUEST_ID, value);
            }
            let body = match body {
                Some(body) => OutBody::metered(body, in_call),
                None => OutBody::whole(Bytes::new(), in_call),
            };
            Ok(Response::from_parts(head, body))
        }
        Err(Out::Refused(refusal)) => {
            let key = func.as_deref().map(|f: &Func| &f.key);
            let (namespace, function) = key.map(|k| (&*k.namespace, &*k.name)).unzip();
            let reason = &*refusal.code;
            tracing::debug!(request_id = %id, trace_id = %context.trace, namespace, function, reason, "a call is refused");
            shared.metrics.refused(key.filter(|_| !func.as_deref().is_some_and(|f| f.metrics.is_retired())), reason);
            if let Some(trail) = &trail {
                trail.refused(refusal.status.as_u16(), &refusal.code);
            }
            Ok(refusal.response(id, in_call))
        }
        Err(Out::Gone) => Err(Hangup),
    }
}

struct Answer {
    head: http::response::Parts,
    /// `None`: the call is over with the head.
    body: Option<Metered>,
}

/// Everything up to the head of the response; `func` is told as soon as it is known.
async fn call(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
    mut received: Received,
    func: &mut Option<Arc<Func>>,
) -> Result<Answer, Out> {
    let (mut head, body) = request.into_parts();
    let host = check::host(&head)?;
    let found = shared.routes.load().find(host, head.uri.path())?;
    let found_func = func.insert(found.func);
    if let Some(trail) = &received.trail {
        trail.found(found_func);
    }
    let target =
        route::target(&head.uri, found.prefix).ok_or(Refusal::bad_request("the request target has no path"))?;
    if shared.seen.is_some() {
        received.seen = Some((head.method.clone(), head.uri.path().to_owned()));
    }
    // Refused before anything is woken for it; reserved again with the slot in hand.
    shared.spool.check()?;
    let prefix = head.uri.path().get(..found.prefix).filter(|p| !p.is_empty()).map(str::to_owned);
    let host = host.map(str::to_owned);
    let trusted = shared.is_trusted(peer.addr.ip());
    let caller = Caller { addr: peer.addr, trusted, host: host.as_deref(), prefix: prefix.as_deref() };
    let chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
    headers::to_instance(&mut head.headers, &caller, chunked);
    let head_bytes = held_bytes(&head);
    head.uri = target;
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    let (body, upload) = SentBody::new(body);
    let mut request = Request::from_parts(head, body);

    let timeout = found_func.plan().timeout;
    let mut seat = found_func.admit(shared, peer, head_bytes).await?;
    loop {
        if peer.is_gone() {
            return Err(Out::Gone);
        }
        let reservation = shared.spool.reserve()?;
        let Some(lane) = lane(&seat, shared).await else {
            seat = seat.put_back(peer, head_bytes).await?;
            continue;
        };
        let meter = Meter::start(shared, received, seat, reservation, upload.clone());
        let deadline = Box::pin(tokio::time::sleep(timeout));
        peer.set_deadline(shared.clock.now() + timeout);
        match Flight::start(Parts { lane, meter, deadline }, request, shared).await {
            Ok((response, parts)) => return answer(response, parts, shared).await,
            Err(lost) => {
                let again = retry(*lost)?;
                (request, received, seat) = (again.request, again.received, again.seat);
                if again.was_fresh {
                    seat.instance().note_unreachable();
                    seat = seat.put_back(peer, head_bytes).await?;
                }
            }
        }
    }
}

/// Bytes of a request line and its headers, as they would be written.
fn held_bytes(head: &http::request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |t| t.as_str().len());
    // Two spaces, the version and a line end; then ": " and a line end each.
    let line = head.method.as_str().len() + target + " HTTP/1.1\r\n".len() + 1;
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    line + headers.sum::<usize>()
}

/// A connection that is free for this call; `None` when the instance cannot be reached.
async fn lane(seat: &Seat, shared: &Arc<Shared>) -> Option<Lane> {
    let instance = seat.instance();
    if let Some(lane) = instance.pool.take(shared.clock.now()) {
        return Some(lane);
    }
    if !shared.may_dial(instance) {
        return None;
    }
    match dial::connect(instance).await {
        Ok(mut lane) => {
            if poll_fn(|cx| lane.poll_free(cx)).await {
                return Some(lane);
            }
            seat.func().metrics.trouble(Trouble::ClosedAtOnce);
            let (namespace, function) = (&seat.func().key.namespace, &seat.func().key.name);
            tracing::debug!(namespace, function, instance = instance.id, "closed at once");
        }
        Err(e) => {
            seat.func().metrics.trouble(Trouble::Connect);
            let (namespace, function) = (&seat.func().key.namespace, &seat.func().key.name);
            tracing::debug!(namespace, function, instance = instance.id, "not reached: {e}");
        }
    }
    instance.note_unreachable();
    None
}

/// A call of which no byte left.
struct Again {
    request: Request<SentBody>,
    received: Received,
    seat: Seat,
    /// The connection was a new one: the next one would do the same.
    was_fresh: bool,
}

/// What follows from a call that got no response: it goes again if no byte of it left, else its caller is told.
fn retry(lost: Lost) -> Result<Again, Out> {
    let (mut meter, lane, outcome, refusal) = match lost {
        Lost::NotSent(request, parts) => {
            let was_fresh = !parts.lane.used;
            let (received, seat, _) = parts.meter.undo().ok_or(Out::Gone)?;
            return Ok(Again { request, received, seat, was_fresh });
        }
        Lost::Died(parts) => {
            parts.meter.trouble(Trouble::Died);
            (parts.meter, parts.lane, Outcome::FunctionError, Refusal::instance_died())
        }
        Lost::UploadBroke(parts) => {
            parts.meter.trouble(Trouble::UploadBroke);
            let refusal = Refusal::bad_request("the request body broke off");
            (parts.meter, parts.lane, Outcome::ClientGone, refusal)
        }
        Lost::Late(parts) if parts.meter.upload.progress() == Progress::Starved => {
            parts.meter.trouble(Trouble::UploadBroke);
            (parts.meter, parts.lane, Outcome::ClientGone, Refusal::slow_body())
        }
        Lost::Late(parts) => {
            parts.meter.retire_instance();
            parts.meter.trouble(Trouble::Timeout);
            (parts.meter, parts.lane, Outcome::Timeout, Refusal::timeout())
        }
    };
    if outcome == Outcome::FunctionError {
        drop(lane)
    } else {
        lane.reset()
    }
    meter.status = refusal.status.as_u16();
    match meter.finish(outcome) {
        Ok(()) => Err(refusal.into()),
        // Whatever is answered is recorded: so nothing is answered.
        Err(_) => Err(Out::Gone),
    }
}

/// The head of a response is there.
async fn answer(response: Response<Incoming>, mut parts: Parts, shared: &Arc<Shared>) -> Result<Answer, Out> {
    let (mut head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it: the request's Upgrade was stripped.
        return Err(retry(Lost::Died(parts)).err().unwrap_or(Out::Gone));
    }
    let closes =
        head.headers.get(http::header::CONNECTION).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    parts.lane.ends_orderly = closes || head.version == http::Version::HTTP_10;
    parts.lane.used = true;
    parts.meter.note_response();
    parts.lane.keep = pool::keep_for(headers::keep_alive_seconds(&head.headers));
    headers::to_client(&mut head.headers);
    server_timing(&mut head.headers, parts.meter.times());
    head.version = http::Version::HTTP_11;
    head.extensions.clear();
    parts.meter.status = head.status.as_u16();
    if !incoming.is_end_stream() {
        return Ok(Answer { head, body: Some(Metered::new(parts, incoming, shared)) });
    }
    drop(incoming);
    let outcome = outcome_of(parts.meter.status);
    let mut parts = Some(parts);
    let finished =
        poll_fn(|cx| std::task::Poll::Ready(parts.take().map_or(Ok(()), |parts| metered::finish(parts, outcome, cx))));
    finished.await.map_err(|_| Out::Gone)?;
    Ok(Answer { head, body: None })
}

fn server_timing(headers: &mut http::HeaderMap, (wait, start, run): (Duration, Duration, Duration)) {
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let text = format!("wait;dur={:.3}, start;dur={:.3}, run;dur={:.3}", ms(wait), ms(start), ms(run));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append("server-timing", value);
    }
}
