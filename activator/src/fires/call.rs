//! One ordered call: a request through a pair of sockets to ourselves.
//!
//! The server's end is served as a connection of another activator is, so nothing on the way knows that no caller is
//! behind it. The pair has no address: nobody else can be at its other end.

use super::book::Fate;
use crate::{
    answer::REASON,
    event, server,
    shared::Shared,
    wire::{Kind, Peer},
};
use bytes::Bytes;
use dormouse_core::record::Word;
use dormouse_proto::v1;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use socket2::{Domain, Socket, Type};
use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Codes with which a call ends that was dispatched; with any other one it was not.
const DISPATCHED: [&str; 5] = ["InstanceDied", "Timeout", "RequestTimeout", "PeerLost", "BadRequest"];
/// Codes of what may pass: another attempt, here or elsewhere, may be served.
const PASSES: [&str; 6] = ["NotReady", "UnknownFunction", "SpoolFull", "Memory", "ShuttingDown", "QueueFull"];

/// A body that is there whole.
pub(super) struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// The request that an order means; none while its function is not known here.
pub(super) fn request(shared: &Shared, order: &v1::FireOrder) -> Result<Option<Request<Whole>>, &'static str> {
    let Ok(found) = shared.routes.load().by_uid(&order.function_uid) else { return Ok(None) };
    let word = |text: &str| Word::new(text.as_bytes()).and_then(|_| HeaderValue::from_str(text).ok());
    let kind = word(&order.event).filter(|kind| !kind.is_empty()).ok_or("an event has a type of letters and digits")?;
    let name = word(&order.schedule).ok_or("a schedule has a name of letters and digits")?;
    let due = Timestamp::from_microsecond(order.due_us).map_err(|_| "a due time is none")?;
    let due = HeaderValue::from_str(&due.to_string()).map_err(|_| "a due time is none")?;
    let mut request = Request::new(Whole(Some(order.body.clone()).filter(|body| !body.is_empty())));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(header::HOST, found.func.host.clone());
    if !order.content_type.is_empty() {
        let kind = HeaderValue::from_str(&order.content_type).map_err(|_| "a content type is none")?;
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(event::TYPE, kind);
    headers.insert(event::TIME, due);
    if !name.is_empty() {
        headers.insert(event::NAME, name);
    }
    shared.peers.sign(headers, &order.function_uid, order.ends_early).ok_or("a function's uid is no header")?;
    Ok(Some(request))
}

/// Makes the call; with `end` its caller leaves.
pub(super) async fn make(shared: &Arc<Shared>, request: Request<Whole>, end: CancellationToken) -> Fate {
    match end.run_until_cancelled(sent(shared, request)).await {
        Some(Ok(fate)) => fate,
        Some(Err(e)) => {
            tracing::debug!("an ordered call got no answer: {e}");
            Fate::Ended { status: 0, reason: "NoAnswer".into() }
        }
        None => Fate::Ended { status: 0, reason: "Replaced".into() },
    }
}

async fn sent(shared: &Arc<Shared>, request: Request<Whole>) -> io::Result<Fate> {
    let (client, served) = match pair() {
        Ok(pair) => pair,
        // Too many files are open: nothing was sent.
        Err(e) => {
            tracing::warn!("no sockets for an ordered call: {e}");
            return Ok(Fate::Refused { reason: "NoSockets".into(), again: true });
        }
    };
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peer = Peer::new(Arc::new(served), nowhere, shared.clone(), Kind::Own);
    let limits = server::Limits::default().of_peers();
    shared.tracker.spawn(server::connection(peer, shared.clone(), limits, CancellationToken::new()));
    let (mut sender, connection) = http1::handshake(TokioIo::new(client)).await.map_err(io::Error::other)?;
    let mut connection = pin!(connection);
    let answer = async {
        let mut response = sender.send_request(request).await.map_err(io::Error::other)?;
        // Its end is the call's end. What it says is for nobody.
        while let Some(frame) = poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await {
            frame.map_err(io::Error::other)?;
        }
        let reason = response.headers().get(REASON).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
        Ok(fate(response.status(), reason))
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It ends with the answer read, or before there is one.
        _ = &mut connection => answer.await,
    }
}

fn fate(status: StatusCode, reason: &str) -> Fate {
    let refused = !reason.is_empty() && !DISPATCHED.contains(&reason);
    match refused {
        true => {
            // The function's own limits, and what is wrong with it, do not pass by trying elsewhere.
            let again = PASSES.contains(&reason) && status != StatusCode::TOO_MANY_REQUESTS;
            Fate::Refused { reason: reason.to_owned(), again }
        }
        false => Fate::Ended { status: status.as_u16(), reason: reason.to_owned() },
    }
}

/// Two ends of one connection.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let (a, b) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
    let stream = |socket: Socket| {
        socket.set_nonblocking(true)?;
        // Reads and writes of a stream are the same on any socket; what only TCP has is not asked of it.
        TcpStream::from_std(OwnedFd::from(socket).into())
    };
    Ok((stream(a)?, stream(b)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_is_what_was_not_dispatched() {
        let of = |status, reason| fate(StatusCode::from_u16(status).unwrap(), reason);
        let ended = |status, reason: &str| Fate::Ended { status, reason: reason.into() };
        let refused = |reason: &str, again| Fate::Refused { reason: reason.into(), again };
        assert_eq!(of(204, ""), ended(204, ""));
        assert_eq!(of(500, ""), ended(500, ""));
        assert_eq!(of(504, "Timeout"), ended(504, "Timeout"));
        assert_eq!(of(429, "QueueFull"), refused("QueueFull", false));
        assert_eq!(of(503, "QueueFull"), refused("QueueFull", true));
        assert_eq!(of(503, "CrashLoop"), refused("CrashLoop", false));
        assert_eq!(of(503, "ShuttingDown"), refused("ShuttingDown", true));
    }
}
