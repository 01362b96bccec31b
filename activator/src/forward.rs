//! One call from its head to the head of its response: check, route, admit, connect, send, answer.

use crate::{
    answer::{Asker, REQUEST_ID, Refusal},
    body::{InBody, OutBody, Progress, SentBody, Upload},
    check, clock, dial,
    durable::{Promise, Written},
    event::Event,
    flight::{Flight, Lost, Parts},
    func::Func,
    grpc,
    handover::{self, Handed, HandedBody},
    headers::{self, Caller},
    meter::{self, Meter, Received},
    metered::{self, Metered, outcome_of},
    metrics::Trouble,
    pool::Lane,
    room::{Out, Seat},
    route,
    server::Limits,
    shared::Shared,
    text, trace,
    trail::Trail,
    tunnel::{self, Tunnel},
    wire::Peer,
};
use bytes::Bytes;
use dormouse_core::record::{Outcome, key_of};
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{HOST, UPGRADE},
};
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

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// By which a caller says that attempts are of one piece of work.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Serves one call.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    mut request: Request<Incoming>,
) -> Result<Response<OutBody>, Hangup> {
    let at = shared.clock.now();
    let in_call = peer.begin_call(at);
    let asker = Asker { grpc: grpc::is_grpc(request.headers()), http2: request.version() == Version::HTTP_2 };
    let mark = shared.through.hold();
    let (call_no, at_us) = (shared.next_call(), clock::wall_us());
    let id = shared.request_id(call_no);
    request.headers_mut().reserve(headers::ADDED);
    let context = trace::enter(request.headers_mut(), shared.outlets.sampling);
    let trail = Trail::begin(&shared, peer.addr, &request, (id, at_us, at), context);
    let (trace, grpc) = (context.trace, asker.grpc);
    let key = request.headers().get(IDEMPOTENCY_KEY).map_or(0, |value| key_of(value.as_bytes()));
    let (trail_too, tenant, seen, event) = (trail.clone(), None, None, None);
    let received = Received { call: call_no, at_us, at, trace, trail: trail_too, grpc, tenant, mark, key, seen, event };
    let (mut func, shown) = (None, text::request_id(id));
    match call(&shared, &peer, request, (received, shown.clone()), &mut func).await {
        Ok(Answer { mut head, body }) => {
            // One that was handed over has the id under which it was recorded.
            if !matches!(body, AnswerBody::Handed(_)) {
                head.headers.insert(REQUEST_ID, shown);
            }
            let body = match body {
                AnswerBody::Metered(body) => OutBody::metered(body, in_call, asker.grpc && asker.http2),
                AnswerBody::Handed(body) => OutBody::handed(body, in_call),
                AnswerBody::Over => OutBody::whole(Bytes::new(), in_call),
            };
            Ok(Response::from_parts(head, body))
        }
        Err(Out::Refused(refusal)) => {
            let key = func.as_deref().map(|f: &Func| &f.key);
            let (namespace, function) = key.map(|k| (&*k.namespace, &*k.name)).unzip();
            let reason = &*refusal.code;
            tracing::debug!(request_id = %id, trace_id = %trace, namespace, function, reason, "a call is refused");
            shared.metrics.refused(key.filter(|_| !func.as_deref().is_some_and(|f| f.metrics.is_retired())), reason);
            if let Some(trail) = &trail {
                trail.refused(refusal.status.as_u16(), refusal.code.clone());
            }
            // A client of HTTP/2 may let it wait for its window.
            peer.set_deadline(shared.clock.now() + shared.limits.unread);
            Ok(refusal.response(id, in_call, asker))
        }
        Err(Out::Gone | Out::Elsewhere(_)) => Err(Hangup),
    }
}

struct Answer {
    head: http::response::Parts,
    body: AnswerBody,
}

enum AnswerBody {
    /// The call is over with the head.
    Over,
    Metered(Metered),
    /// Another activator took the call over.
    Handed(HandedBody),
}

/// Everything up to the head of the response; `func` is told as soon as it is known.
async fn call(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request<Incoming>,
    (mut received, request_id): (Received, HeaderValue),
    func: &mut Option<Arc<Func>>,
) -> Result<Answer, Out> {
    let (mut head, body) = request.into_parts();
    let http2 = head.version == Version::HTTP_2;
    bounded(&head, shared)?;
    let host = check::host(&head)?;
    let found = if peer.is_inner() {
        let found = shared.routes.load().by_uid(shared.peers.open(&head.headers)?)?;
        received.event = Event::of(&head.headers);
        found
    } else {
        shared.routes.load().find(host, head.uri.path())?
    };
    let nameless = host.is_none() && !http2;
    let found_func = func.insert(found.func);
    received.tenant = Some(found_func.plan().tenant.clone());
    if let Some(trail) = &received.trail {
        trail.found(found_func);
    }
    let target =
        route::target(&head.uri, found.prefix).ok_or(Refusal::bad_request("the request target has no path"))?;
    if shared.seen.is_some() {
        received.seen = Some((head.method.clone(), head.uri.path().to_owned()));
    }
    // Refused before anything is woken for it; a place in the spool is reserved with the slot in hand.
    shared.memory.check()?;
    shared.spool.check()?;
    let said = peer.introductions.to(peer.addr, host);
    let trusted = shared.is_trusted(peer.addr.ip());
    let prefix = (found.prefix > 0).then_some(&found_func.prefix);
    let caller = Caller { said: &said, trusted, inner: peer.is_inner(), prefix, http2 };
    let chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
    let upgrade = tunnel::wanted(&head, !body.is_end_stream());
    let upgrades = upgrade.is_some();
    let reads_trailers = headers::to_instance(&mut head.headers, &caller, chunked) || received.grpc;
    head.headers.insert(REQUEST_ID, request_id);
    if let Some(event) = &received.event {
        event.put(&mut head.headers);
    }
    if nameless {
        // HTTP/1.0 may leave it out, HTTP/1.1 may not: the function gets its own name.
        head.headers.insert(HOST, found_func.host.clone());
    }
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

    let seat = match found_func.admit(shared, peer, held).await {
        Err(Out::Elsewhere(place)) => {
            // A tunnel over two hops would be metered at one and held open by the other, and the hop of HTTP/1.1 loses
            // trailers that no head has announced, as gRPC's: such a call waits for a share here.
            if !upgrades && !reads_trailers {
                match handover::hand_over(shared, found_func, peer, request, (received.call, received.ends())).await? {
                    Handed::Answer(head, body) => {
                        if let Some(trail) = &received.trail {
                            trail.handed_over(head.status.as_u16());
                        }
                        return Ok(Answer { head, body: AnswerBody::Handed(body) });
                    }
                    Handed::Nobody(unsent) => request = unsent,
                }
            }
            found_func.admit_here(shared, peer, held, place).await?
        }
        admitted => admitted?,
    };
    dispatch(shared, peer, request, received, (seat, upload), (held, upgrades)).await
}

/// Sends a call to the instance that it has a slot on, or to the next one while no byte of it has left.
async fn dispatch(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    mut request: Request<SentBody>,
    mut received: Received,
    (mut seat, upload): (Seat, Arc<Upload>),
    (held, upgrades): (usize, bool),
) -> Result<Answer, Out> {
    let (timeout, durability) = {
        let plan = seat.func().plan();
        (plan.timeout, plan.durability)
    };
    loop {
        if peer.is_gone() {
            return Err(Out::Gone);
        }
        let mut reservation = shared.spool.reserve()?;
        let mut now = shared.clock.now();
        let Some(mut lane) = lane(&seat, shared, &mut now).await else {
            seat = seat.put_back(peer, held).await?;
            continue;
        };
        // A connect takes its time: the client may have left meanwhile.
        if !lane.is_used() && peer.is_gone() {
            seat.instance().pool.put(lane, seat.instance(), shared.clock, now);
            return Err(Out::Gone);
        }
        if let Err(e) = meter::intend(shared, (&received, &seat), now, &mut reservation) {
            seat.instance().pool.put(lane, seat.instance(), shared.clock, now);
            return Err(e.into());
        }
        let promise = Promise { durability, until: now + timeout };
        let meter = Meter::start(shared, received, seat, reservation, upload.clone(), (now, promise));
        let alarm = lane.alarm(shared.clock.instant(now + timeout));
        peer.set_deadline(now + timeout);
        let parts = Box::new(Parts { lane, meter, alarm, upgrades });
        match Flight::start(parts, request, shared).await {
            Ok((response, parts)) => return answer(response, parts, peer, shared).await,
            Err(lost) => {
                let again = match retry(*lost) {
                    Ok(again) => again,
                    Err(ended) => return Err(told(ended, shared).await),
                };
                (request, received, seat) = (again.request, again.received, again.seat);
                peer.clear_deadline();
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

/// A connection that is free for this call; `None` when the instance cannot be reached. `now` becomes the time when it
/// was had.
async fn lane(seat: &Seat, shared: &Arc<Shared>, now: &mut Duration) -> Option<Lane> {
    let instance = seat.instance();
    if let Some(lane) = instance.pool.take(instance.http2, *now) {
        return Some(lane);
    }
    let failures = instance.failures.load(Relaxed);
    let turn = instance.pool.turn(instance.http2).await;
    if turn.is_some() {
        *now = shared.clock.now();
        if let Some(lane) = instance.pool.take(instance.http2, *now) {
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
                *now = shared.clock.now();
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
fn retry(lost: Lost) -> Result<Again, Ended> {
    let (parts, outcome, refusal) = match lost {
        Lost::NotSent(request, parts) => {
            let was_fresh = !parts.lane.is_used();
            let (received, seat) = parts.meter.undo().ok_or((Out::Gone, None))?;
            return Ok(Again { request, received, seat, was_fresh });
        }
        Lost::Died(parts) => {
            parts.meter.trouble(Trouble::Died);
            (parts, Outcome::FunctionError, Refusal::instance_died())
        }
        Lost::UploadBroke(parts) => {
            parts.meter.trouble(Trouble::UploadBroke);
            (parts, Outcome::ClientGone, Refusal::bad_request("the request body broke off"))
        }
        Lost::Late(parts) if parts.meter.upload.progress() == Progress::Starved => {
            parts.meter.trouble(Trouble::UploadBroke);
            (parts, Outcome::ClientGone, Refusal::slow_body())
        }
        Lost::Late(parts) => {
            parts.meter.retire_instance();
            parts.meter.trouble(Trouble::Timeout);
            (parts, Outcome::Timeout, Refusal::timeout())
        }
    };
    let Parts { lane, mut meter, .. } = *parts;
    if outcome == Outcome::FunctionError {
        drop(lane)
    } else {
        lane.reset()
    }
    meter.status = refusal.status.as_u16();
    match meter.finish(outcome) {
        Ok(written) => Err((refusal.into(), written)),
        // Whatever is answered is recorded: so nothing is answered.
        Err(_) => Err((Out::Gone, None)),
    }
}

/// The instance broke off before its response, or gave one that is none.
fn died(parts: Box<Parts>) -> Ended {
    retry(Lost::Died(parts)).err().unwrap_or((Out::Gone, None))
}

/// How a call without a response ended, and what its caller's answer waits for.
type Ended = (Out, Option<Written>);

/// What the caller of such a call is told, when it may be.
async fn told((out, written): Ended, shared: &Arc<Shared>) -> Out {
    safe(written, shared).await.err().unwrap_or(out)
}

/// Holds the head of a response back that has nothing else, until the record is as safe as it is to be.
async fn safe(written: Option<Written>, shared: &Arc<Shared>) -> Result<(), Out> {
    match written {
        Some(written) => written.wait(shared).await.map_err(|_| Out::Gone),
        None => Ok(()),
    }
}

/// The head of a response is there.
async fn answer(
    response: Response<InBody>,
    mut parts: Box<Parts>,
    peer: &Peer,
    shared: &Arc<Shared>,
) -> Result<Answer, Out> {
    let (mut head, incoming) = response.into_parts();
    let upgrade = head.headers.get(UPGRADE).filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    if head.status == StatusCode::SWITCHING_PROTOCOLS && (upgrade.is_none() || !parts.upgrades) {
        // Nobody asked for it.
        return Err(told(died(parts), shared).await);
    }
    parts.lane.note_response(&head);
    head.headers.reserve(headers::ADDED_TO_ANSWERS);
    parts.meter.note_response();
    let failed = headers::to_client(&mut head.headers, head.status, head.version == Version::HTTP_2);
    head.headers.append(SERVER_TIMING, parts.meter.server_timing());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    parts.meter.status = head.status.as_u16();
    if let Some(protocol) = upgrade {
        tunnel::tell(&mut head.headers, protocol);
        drop(incoming);
        return match Tunnel::new(parts) {
            Ok(tunnel) => {
                peer.set_tunnel(tunnel);
                Ok(Answer { head, body: AnswerBody::Over })
            }
            Err(parts) => Err(told(died(parts), shared).await),
        };
    }
    if !incoming.is_end_stream() {
        return Ok(Answer { head, body: AnswerBody::Metered(Metered::new(parts, incoming, (failed, shared))) });
    }
    drop(incoming);
    let failed = failed || parts.meter.is_grpc() && grpc::is_failure(&head.headers);
    let outcome = if failed { Outcome::FunctionError } else { outcome_of(parts.meter.status) };
    let mut parts = Some(parts);
    let finished = poll_fn(|cx| {
        std::task::Poll::Ready(parts.take().map_or(Ok(None), |parts| metered::finish(parts, outcome, cx)))
    });
    safe(finished.await.map_err(|_| Out::Gone)?, shared).await?;
    Ok(Answer { head, body: AnswerBody::Over })
}
