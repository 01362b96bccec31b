//! One call from its head to the head of its response: check, route, admit, connect, send, answer.

use crate::{
    answer::{Asker, REQUEST_ID, Refusal},
    body::{InBody, OutBody, Progress, SentBody},
    check, clock, dial,
    flight::{Flight, Lost, Parts},
    func::Func,
    grpc,
    headers::{self, Caller},
    meter::{Meter, Received},
    metered::{self, Metered, outcome_of},
    pool::Lane,
    room::{Out, Seat},
    route,
    server::Limits,
    shared::Shared,
    tunnel::{self, Tunnel},
    wire::Peer,
};
use bytes::Bytes;
use dormouse_core::record::Outcome;
use http::{HeaderValue, Request, Response, StatusCode, Version, header::UPGRADE};
use http_body::Body;
use hyper::body::Incoming;
use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// There is nobody to answer, or no answer may be given: the connection ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client is gone")]
pub(crate) struct Hangup;

/// A request that has passed through here so often goes round in circles. Five: an ingress that sends a function's own
/// calls back here, four deep, is still an architecture.
const MAX_PASSES: usize = 5;

/// Serves one call.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<OutBody>, Hangup> {
    let in_call = peer.begin_call();
    let asker = Asker { grpc: grpc::is_grpc(request.headers()), http2: request.version() == Version::HTTP_2 };
    let received = Received { call: shared.next_call(), at_us: clock::wall_us(), grpc: asker.grpc, seen: None };
    let id = shared.request_id(received.call);
    let mut func = None;
    match call(&shared, &peer, request, received, &mut func).await {
        Ok(Answer { mut head, body }) => {
            if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
                head.headers.insert(REQUEST_ID, value);
            }
            let body = match body {
                Some(body) => OutBody::metered(body, in_call, asker.grpc && asker.http2),
                None => OutBody::whole(Bytes::new(), in_call),
            };
            Ok(Response::from_parts(head, body))
        }
        Err(Out::Refused(refusal)) => {
            shared
                .metrics
                .refused(func.as_deref().filter(|f: &&Func| !f.metrics.is_retired()).map(|f| &f.key), &refusal.code);
            Ok(refusal.response(id, in_call, asker))
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
    let http2 = head.version == Version::HTTP_2;
    bounded(&head, shared)?;
    let host = check::host(&head)?;
    let found = shared.routes.load().find(host, head.uri.path())?;
    let found_func = func.insert(found.func);
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
    let caller = Caller { addr: peer.addr, trusted, host: host.as_deref(), prefix: prefix.as_deref(), http2 };
    let chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
    let upgrade = tunnel::wanted(&head, !body.is_end_stream());
    let upgrades = upgrade.is_some();
    headers::to_instance(&mut head.headers, &caller, chunked);
    if let Some(protocol) = upgrade {
        tunnel::tell(&mut head.headers, protocol);
    }
    // While it waits, its head is held, and what was read along with it or may come ahead.
    let held = if http2 { head_bytes(&head) + ahead_bytes(&body) } else { head_bytes(&head).max(peer.held()) };
    head.uri = target;
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let (body, upload) = SentBody::new(body);
    let mut request = Request::from_parts(head, body);

    let timeout = found_func.plan().timeout;
    let mut seat = found_func.admit(shared, peer, held).await?;
    loop {
        if peer.is_gone() {
            return Err(Out::Gone);
        }
        let reservation = shared.spool.reserve()?;
        let Some(lane) = lane(&seat, shared).await else {
            seat = seat.put_back(peer, held).await?;
            continue;
        };
        let meter = Meter::start(shared, received, seat, reservation, upload.clone());
        let deadline = Box::pin(tokio::time::sleep(timeout));
        peer.set_deadline(shared.clock.now() + timeout);
        match Flight::start(Parts { lane, meter, deadline, upgrades }, request, shared).await {
            Ok((response, parts)) => return answer(response, parts, peer, shared).await,
            Err(lost) => {
                let again = retry(*lost)?;
                (request, received, seat) = (again.request, again.received, again.seat);
                if again.was_fresh {
                    seat.instance().note_unreachable();
                    seat = seat.put_back(peer, held).await?;
                }
            }
        }
    }
}

/// Refuses a request whose head has too many lines, or that goes round in circles.
fn bounded(head: &http::request::Parts, shared: &Shared) -> Result<(), Refusal> {
    // HTTP/1.1 counts them as it parses.
    if head.version == Version::HTTP_2 && head.headers.len() > shared.limits.header_lines {
        return Err(Refusal::header_lines());
    }
    if headers::passes(&head.headers) >= MAX_PASSES {
        return Err(Refusal::loop_detected());
    }
    Ok(())
}

/// Bytes of a request line and its headers, as they would be written.
fn head_bytes(head: &http::request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |t| t.as_str().len());
    // Two spaces, the version and a line end; then ": " and a line end each.
    let line = head.method.as_str().len() + target + " HTTP/1.1\r\n".len() + 1;
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    line + headers.sum::<usize>()
}

/// Bytes of an unread body that a stream of HTTP/2 may hold here; on HTTP/1.1 they stay with the kernel.
fn ahead_bytes(body: &Incoming) -> usize {
    let window = u64::from(Limits::STREAM_WINDOW);
    let ahead = if body.is_end_stream() { 0 } else { body.size_hint().exact().map_or(window, |len| len.min(window)) };
    usize::try_from(ahead).unwrap_or(usize::MAX)
}

/// A connection that is free for this call; `None` when the instance cannot be reached.
async fn lane(seat: &Seat, shared: &Arc<Shared>) -> Option<Lane> {
    let instance = seat.instance();
    if let Some(lane) = instance.pool.take(instance.http2, shared.clock.now()) {
        return Some(lane);
    }
    let failures = instance.failures.load(Relaxed);
    let turn = instance.pool.turn(instance.http2).await;
    if turn.is_some() {
        if let Some(lane) = instance.pool.take(instance.http2, shared.clock.now()) {
            return Some(lane);
        }
        if instance.failures.load(Relaxed) != failures {
            // Who had the turn before could not connect: the others do not try one after another.
            return None;
        }
    }
    if !shared.may_dial(instance) {
        return None;
    }
    match dial::connect(instance, shared.clock).await {
        Ok(mut lane) => {
            if poll_fn(|cx| lane.poll_free(cx)).await {
                return Some(lane);
            }
            tracing::debug!(function = %seat.func().key, instance = instance.id, "closed at once");
        }
        Err(e) => tracing::debug!(function = %seat.func().key, instance = instance.id, "not reached: {e}"),
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
            let was_fresh = !parts.lane.is_used();
            let (received, seat, _) = parts.meter.undo().ok_or(Out::Gone)?;
            return Ok(Again { request, received, seat, was_fresh });
        }
        Lost::Died(parts) => (parts.meter, parts.lane, Outcome::FunctionError, Refusal::instance_died()),
        Lost::UploadBroke(parts) => {
            let refusal = Refusal::bad_request("the request body broke off");
            (parts.meter, parts.lane, Outcome::ClientGone, refusal)
        }
        Lost::Late(parts) if parts.meter.upload.progress() == Progress::Starved => {
            (parts.meter, parts.lane, Outcome::ClientGone, Refusal::slow_body())
        }
        Lost::Late(parts) => {
            parts.meter.retire_instance();
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
async fn answer(
    response: Response<InBody>,
    mut parts: Parts,
    peer: &Peer,
    shared: &Arc<Shared>,
) -> Result<Answer, Out> {
    let (mut head, incoming) = response.into_parts();
    let upgrade = head.headers.get(UPGRADE).filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    if head.status == StatusCode::SWITCHING_PROTOCOLS && (upgrade.is_none() || !parts.upgrades) {
        // Nobody asked for it.
        return Err(retry(Lost::Died(parts)).err().unwrap_or(Out::Gone));
    }
    parts.lane.note_response(&head);
    parts.meter.note_response();
    headers::to_client(&mut head.headers, head.version == Version::HTTP_2);
    server_timing(&mut head.headers, parts.meter.times());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    parts.meter.status = head.status.as_u16();
    if let Some(protocol) = upgrade {
        tunnel::tell(&mut head.headers, protocol);
        drop(incoming);
        return match Tunnel::new(parts) {
            Ok(tunnel) => {
                peer.set_tunnel(tunnel);
                Ok(Answer { head, body: None })
            }
            Err(parts) => Err(retry(Lost::Died(*parts)).err().unwrap_or(Out::Gone)),
        };
    }
    if !incoming.is_end_stream() {
        return Ok(Answer { head, body: Some(Metered::new(parts, incoming, shared)) });
    }
    drop(incoming);
    let failed = parts.meter.is_grpc() && grpc::is_failure(&head.headers);
    let outcome = if failed { Outcome::FunctionError } else { outcome_of(parts.meter.status) };
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
