//! Connections of HTTP/1.1 to an instance: one call at a time each, kept for the next one only as long as the instance
//! surely keeps them too.
//!
//! A [`Lane`] is a connection together with the machine that drives it: whoever holds it polls it. No task of its own, so
//! a warm call wakes nobody but itself, and dropping the lane ends the connection.

use super::{IDLE, Live};
use crate::{alarm::Alarm, body::SentBody, clock::Clock, headers, instance::Instance};
use bytes::Bytes;
use http::{Request, Response, Version, header::CONNECTION, response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::SockRef;
use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// Longest idling, whatever is advertised.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Most bytes of a response head, and what is buffered of a body in each direction.
const MAX_BUFFER: usize = 128 * 1024;

type Connection = http1::Connection<TokioIo<TcpStream>, SentBody>;

/// What hyper gives back for a call: a response, or an error with the request when none of it was sent.
pub(crate) type Sent = Result<Response<Incoming>, TrySendError<Request<SentBody>>>;

/// A connection to an instance.
pub(crate) struct Lane {
    sender: http1::SendRequest<SentBody>,
    /// `None` once it was taken.
    connection: Option<Box<Connection>>,
    /// How long it may idle after this call; zero: not at all.
    keep: Duration,
    /// The instance said that it closes after this call, or we do: the end is no breakage.
    ends_orderly: bool,
    /// The machine that drives the connection has ended. The connection stays until the lane goes: it may have become a
    /// tunnel, and how its socket closes is still to be said.
    over: bool,
    /// It has carried a call.
    pub(in crate::pool) used: bool,
    /// What ended its last call in time, if need had been.
    pub(in crate::pool) alarm: Option<Alarm>,
    live: Live,
}

impl Lane {
    pub(in crate::pool) async fn new(stream: TcpStream, instance: &Arc<Instance>) -> io::Result<Self> {
        let mut builder = http1::Builder::new();
        // Header lines of a response: hyper's own bound, 100. Another one costs a cleared list of that length each time.
        builder.max_buf_size(MAX_BUFFER);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self {
            sender,
            connection: Some(Box::new(connection)),
            keep: IDLE,
            ends_orderly: false,
            over: false,
            used: false,
            alarm: None,
            live: Live::new(instance),
        })
    }

    /// Moves the connection on. Whoever awaits something from it must call this first.
    pub(in crate::pool) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.over)
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.over = true;
        }
    }

    pub(in crate::pool) fn is_closed(&self) -> bool {
        self.over || self.connection.is_none()
    }

    /// True when the next request can be sent.
    pub(in crate::pool) fn is_free(&self) -> bool {
        !self.is_closed() && self.sender.is_ready()
    }

    /// Waits until a request can be sent; false when the connection ended instead.
    pub(in crate::pool) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.drive(cx);
        self.sender.poll_ready(cx).map(|r| r.is_ok())
    }

    /// Its response has come.
    pub(in crate::pool) fn note_response(&mut self, head: &response::Parts) {
        let closes = head.headers.get(CONNECTION).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
        self.ends_orderly = closes || head.version == Version::HTTP_10;
        self.used = true;
        self.keep = keep_for(headers::keep_alive_seconds(&head.headers));
    }

    /// What ends its next call at an instant.
    pub(in crate::pool) fn alarm(&mut self, at: Instant) -> Alarm {
        match self.alarm.take() {
            Some(mut alarm) => {
                alarm.set(at);
                alarm
            }
            None => Alarm::new(at),
        }
    }

    pub(in crate::pool) fn send(&mut self, request: Request<SentBody>) -> impl Future<Output = Sent> + Send + 'static {
        self.sender.try_send_request(request)
    }

    pub(in crate::pool) fn take_stream(&mut self) -> Option<(TcpStream, Bytes)> {
        self.ends_orderly = true;
        let parts = self.connection.take()?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }

    /// Breaks the connection so that the instance sees a reset, never the clean end of something half sent.
    pub(in crate::pool) fn reset(mut self) {
        self.ends_orderly = true;
        if let Some(connection) = self.connection.take() {
            let stream = connection.into_parts().io.into_inner();
            if let Err(e) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
                tracing::debug!("no reset: {e}");
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.live.broke = self.is_closed() && !self.ends_orderly;
    }
}

struct Idle {
    lane: Box<Lane>,
    until: Duration,
}

/// The idle connections of one instance.
#[derive(Default)]
pub(in crate::pool) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    swept: bool,
    closed: bool,
}

impl Pool {
    /// The connection used last that may still be used: it is the likeliest to be alive, and the others can age.
    ///
    /// An end that arrived meanwhile is seen here, and under the lock: whoever comes next and finds none must know by then
    /// that the last one broke, or would dial an address that may be another's.
    pub(in crate::pool) fn take(&self, now: Duration) -> Option<Box<Lane>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut state = self.state.lock();
        loop {
            let mut idle = state.idle.pop()?;
            idle.lane.drive(&mut cx);
            if idle.until > now && idle.lane.is_free() {
                return Some(idle.lane);
            }
        }
    }

    /// Keeps a connection for the next call.
    pub(in crate::pool) fn put(&self, lane: Box<Lane>, instance: &Arc<Instance>, clock: Clock, now: Duration) {
        let keep = lane.keep.min(MAX_IDLE);
        if keep.is_zero() || lane.is_closed() || lane.ends_orderly {
            return;
        }
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.idle.push(Idle { lane, until: now + keep });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(instance), clock));
        }
    }

    /// Ends the idle connections, and keeps none any more.
    pub(in crate::pool) fn close(&self) {
        self.state.lock().closed = true;
        self.clear();
    }

    /// Ends the idle connections.
    pub(in crate::pool) fn clear(&self) {
        let idle = std::mem::take(&mut self.state.lock().idle);
        drop(idle);
    }

    /// Ends what has idled its time. Says when to look again; `None` when nothing is left.
    fn prune(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        state.idle.retain_mut(|idle| {
            let keep = idle.until > now;
            if !keep {
                // An end that arrived meanwhile counts as a breakage, ours does not. Under the lock, as in `take`.
                idle.lane.drive(&mut Context::from_waker(Waker::noop()));
            }
            keep
        });
        let next = state.idle.iter().map(|i| i.until).min();
        state.swept = next.is_some();
        next
    }
}

/// Runs while an instance has idle connections.
async fn sweep(instance: Weak<Instance>, clock: Clock) {
    loop {
        let Some(next) = instance.upgrade().and_then(|i| i.pool.http1.prune(clock.now())) else { return };
        tokio::time::sleep_until(clock.instant(next)).await;
    }
}

/// How long a connection may idle by what the instance says.
fn keep_for(advertised_seconds: Option<u64>) -> Duration {
    advertised_seconds.map_or(IDLE, |s| Duration::from_secs(s.saturating_sub(1)))
}
