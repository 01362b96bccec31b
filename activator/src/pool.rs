//! Connections to an instance: one call at a time each, kept for the next one only as long as the instance surely keeps
//! them too.
//!
//! A [`Lane`] is a connection together with the machine that drives it: whoever holds it polls it. No task of its own, so
//! a warm call wakes nobody but itself, and dropping the lane ends the connection.

use crate::{body::SentBody, clock::Clock, instance::Instance};
use http::{Request, Response};
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
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::net::TcpStream;

/// How long a connection may idle when the instance advertises nothing: below the shortest default of known servers
/// (gunicorn: 2 s), so that the race with the server's own close is not lost.
const IDLE: Duration = Duration::from_secs(1);
/// Longest idling, whatever is advertised.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Most bytes of a response head, and what is buffered of a body in each direction.
const MAX_BUFFER: usize = 128 * 1024;
/// Most header lines of a response.
const MAX_HEADERS: usize = 200;

type Connection = http1::Connection<TokioIo<TcpStream>, SentBody>;

/// What hyper gives back for a call: a response, or an error with the request when none of it was sent.
pub(crate) type Sent = Result<Response<Incoming>, TrySendError<Request<SentBody>>>;

/// A connection to an instance.
pub(crate) struct Lane {
    sender: http1::SendRequest<SentBody>,
    /// Here until the lane goes, be it over: how its socket closes is still to be said.
    connection: Option<Box<Connection>>,
    /// The connection has ended.
    over: bool,
    /// How long it may idle after this call; zero: not at all.
    pub(crate) keep: Duration,
    /// The instance said that it closes after this call, or we do: the end is no breakage.
    pub(crate) ends_orderly: bool,
    /// It has carried a call.
    pub(crate) used: bool,
    instance: Weak<Instance>,
    live: Arc<AtomicUsize>,
}

impl Lane {
    pub(crate) async fn new(stream: TcpStream, instance: &Arc<Instance>) -> io::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BUFFER).max_headers(MAX_HEADERS);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let live = instance.pool.live.clone();
        live.fetch_add(1, Relaxed);
        Ok(Self {
            sender,
            connection: Some(Box::new(connection)),
            over: false,
            keep: IDLE,
            ends_orderly: false,
            used: false,
            instance: Arc::downgrade(instance),
            live,
        })
    }

    /// Moves the connection on. Whoever awaits something from it must call this first.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.over) {
            self.over = Pin::new(connection).poll(cx).is_ready();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.over
    }

    /// True when the next request can be sent.
    pub(crate) fn is_free(&self) -> bool {
        !self.is_closed() && self.sender.is_ready()
    }

    /// Waits until a request can be sent; false when the connection ended instead.
    pub(crate) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.drive(cx);
        self.sender.poll_ready(cx).map(|r| r.is_ok())
    }

    pub(crate) fn send(&mut self, request: Request<SentBody>) -> impl Future<Output = Sent> + Send + 'static {
        self.sender.try_send_request(request)
    }

    /// Breaks the connection so that the instance sees a reset, never the clean end of something half sent; also when a
    /// body that broke off has ended the connection already. A WSGI application takes a clean end for the body's own.
    pub(crate) fn reset(mut self) {
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
        let last = self.live.fetch_sub(1, Relaxed) == 1;
        let broke = self.is_closed() && !self.ends_orderly;
        if let (true, true, Some(instance)) = (last, broke, self.instance.upgrade()) {
            instance.broken.store(true, Relaxed);
        }
    }
}

struct Idle {
    lane: Lane,
    until: Duration,
}

/// The idle connections of one instance.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    live: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("live", &self.live).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    swept: bool,
    closed: bool,
}

impl Pool {
    /// The connection used last that may still be used: it is the likeliest to be alive, and the others can age.
    pub(crate) fn take(&self, now: Duration) -> Option<Lane> {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut idle = self.state.lock().idle.pop()?;
            if idle.until <= now {
                continue;
            }
            // An end that arrived meanwhile is seen here.
            idle.lane.drive(&mut cx);
            if idle.lane.is_free() {
                return Some(idle.lane);
            }
        }
    }

    /// Keeps a connection for the next call.
    pub(crate) fn put(&self, lane: Lane, instance: &Arc<Instance>, clock: Clock) {
        let keep = lane.keep.min(MAX_IDLE);
        if keep.is_zero() || lane.is_closed() || lane.ends_orderly {
            return;
        }
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.idle.push(Idle { lane, until: clock.now() + keep });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(instance), clock));
        }
    }

    /// True when no connection is open at all.
    pub(crate) fn is_bare(&self) -> bool {
        self.live.load(Relaxed) == 0
    }

    /// Ends the idle connections, and keeps none any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.clear();
    }

    /// Ends the idle connections.
    pub(crate) fn clear(&self) {
        let idle = std::mem::take(&mut self.state.lock().idle);
        drop(idle);
    }

    /// Ends what has idled its time. Says when to look again; `None` when nothing is left.
    fn prune(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        let (keep, old): (Vec<_>, Vec<_>) = std::mem::take(&mut state.idle).into_iter().partition(|i| i.until > now);
        state.idle = keep;
        let next = state.idle.iter().map(|i| i.until).min();
        state.swept = next.is_some();
        drop(state);
        for mut idle in old {
            // An end that arrived meanwhile counts as a breakage, ours does not.
            idle.lane.drive(&mut Context::from_waker(Waker::noop()));
        }
        next
    }
}

/// Runs while an instance has idle connections.
async fn sweep(instance: Weak<Instance>, clock: Clock) {
    loop {
        let Some(next) = instance.upgrade().and_then(|i| i.pool.prune(clock.now())) else { return };
        tokio::time::sleep_until(clock.instant(next)).await;
    }
}

/// How long a connection may idle by what the instance says.
pub(crate) fn keep_for(advertised_seconds: Option<u64>) -> Duration {
    advertised_seconds.map_or(IDLE, |s| Duration::from_secs(s.saturating_sub(1)))
}
