//! Connections to an instance, by what it speaks: HTTP/1.1, one call at a time each, or HTTP/2, many at once.

mod http1;
mod http2;

use crate::{
    alarm::Alarm,
    body::{InBody, SentBody},
    clock::Clock,
    instance::Instance,
};
use bytes::Bytes;
use http::{Request, Response, response};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{net::TcpStream, sync::MutexGuard, time::Instant};

pub(crate) use http2::Received;

/// How long a connection may idle when the instance advertises nothing: below the shortest default of known servers
/// (gunicorn: 2 s), so that the race with the server's own close is not lost.
const IDLE: Duration = Duration::from_secs(1);

/// A place for one call on a connection to an instance.
pub(crate) enum Lane {
    /// The connection itself.
    Http1(Box<http1::Lane>),
    /// A stream of a connection that others use too.
    Http2(Box<http2::Lane>),
}

impl Lane {
    /// The first one of a new connection.
    pub(crate) async fn new(stream: TcpStream, instance: &Arc<Instance>, clock: Clock) -> io::Result<Self> {
        if instance.http2 {
            http2::Lane::new(stream, instance, clock).await.map(|lane| Self::Http2(Box::new(lane)))
        } else {
            http1::Lane::new(stream, instance).await.map(|lane| Self::Http1(Box::new(lane)))
        }
    }

    /// Moves it on. Whoever awaits something from it must call this first.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(lane) => lane.drive(cx),
            Self::Http2(lane) => lane.drive(cx),
        }
    }

    /// True when nothing of its last call is left.
    pub(crate) fn is_free(&self) -> bool {
        match self {
            Self::Http1(lane) => lane.is_free(),
            Self::Http2(lane) => lane.is_free(),
        }
    }

    /// Waits until a request can be sent; false when the connection ended instead.
    pub(crate) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Http1(lane) => lane.poll_free(cx),
            Self::Http2(lane) => lane.poll_free(cx),
        }
    }

    /// Its connection has answered a call before.
    pub(crate) fn is_used(&self) -> bool {
        match self {
            Self::Http1(lane) => lane.used,
            Self::Http2(lane) => lane.is_used(),
        }
    }

    /// What ends its next call at an instant.
    pub(crate) fn alarm(&mut self, at: Instant) -> Alarm {
        match self {
            Self::Http1(lane) => lane.alarm(at),
            Self::Http2(_) => Alarm::new(at),
        }
    }

    /// Keeps it for the call after that.
    pub(crate) fn keep_alarm(&mut self, alarm: Alarm) {
        if let Self::Http1(lane) = self {
            lane.alarm = Some(alarm);
        }
    }

    pub(crate) fn send(&mut self, request: Request<SentBody>) -> Reply {
        match self {
            Self::Http1(lane) => Reply::Http1(Box::pin(lane.send(request))),
            Self::Http2(lane) => Reply::Http2(Box::new(lane.send(request))),
        }
    }

    /// The response to its call has come.
    pub(crate) fn note_response(&mut self, head: &response::Parts) {
        match self {
            Self::Http1(lane) => lane.note_response(head),
            Self::Http2(lane) => lane.note_response(),
        }
    }

    /// The connection itself, for what it has become, and what was read of it already.
    pub(crate) fn take_stream(&mut self) -> Option<(TcpStream, Bytes)> {
        match self {
            Self::Http1(lane) => lane.take_stream(),
            Self::Http2(_) => None,
        }
    }

    /// Breaks it so that the instance sees a reset, never the clean end of something half sent.
    pub(crate) fn reset(self) {
        match self {
            Self::Http1(lane) => lane.reset(),
            // A stream that is dropped before its end is reset.
            Self::Http2(lane) => drop(lane),
        }
    }
}

/// The response to come.
pub(crate) enum Reply {
    Http1(Pin<Box<dyn Future<Output = http1::Sent> + Send>>),
    Http2(Box<http2::Reply>),
}

impl Reply {
    /// The response, or an error with the request if none of it was sent. The lane must have been driven.
    pub(crate) fn poll(
        &mut self,
        lane: &mut Lane,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<InBody>, Option<Request<SentBody>>>> {
        match (self, lane) {
            (Self::Http1(reply), _) => match ready!(reply.as_mut().poll(cx)) {
                Ok(response) => Poll::Ready(Ok(response.map(InBody::Http1))),
                Err(mut error) => {
                    tracing::debug!("an instance broke off: {}", error.error());
                    Poll::Ready(Err(error.take_message()))
                }
            },
            (Self::Http2(reply), Lane::Http2(lane)) => reply.poll(lane, cx),
            // A reply of one protocol never meets a lane of the other: the lane has made it.
            (Self::Http2(_), Lane::Http1(_)) => Poll::Ready(Err(None)),
        }
    }
}

/// The connections of one instance.
#[derive(Default)]
pub(crate) struct Pool {
    http1: http1::Pool,
    http2: http2::Pool,
    live: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Pool {
    /// A place on a connection that is there already.
    pub(crate) fn take(&self, http2: bool, now: Duration) -> Option<Lane> {
        if http2 {
            self.http2.take().map(|lane| Lane::Http2(Box::new(lane)))
        } else {
            self.http1.take(now).map(Lane::Http1)
        }
    }

    /// Keeps a connection for the next call.
    pub(crate) fn put(&self, lane: Lane, instance: &Arc<Instance>, clock: Clock, now: Duration) {
        match lane {
            Lane::Http1(lane) => self.http1.put(lane, instance, clock, now),
            // Its connection was never out of the pool.
            Lane::Http2(lane) => drop(lane),
        }
    }

    /// The right to make a connection that others may use too: one call makes it, the others wait for it.
    pub(crate) async fn turn(&self, http2: bool) -> Option<MutexGuard<'_, ()>> {
        if http2 { Some(self.http2.turn.lock().await) } else { None }
    }

    /// True when no connection is open at all.
    pub(crate) fn is_bare(&self) -> bool {
        self.live.load(Relaxed) == 0
    }

    /// Ends the idle connections, and keeps none any more.
    pub(crate) fn close(&self) {
        self.http1.close();
        self.http2.close();
    }

    /// Ends the idle connections.
    pub(crate) fn clear(&self) {
        self.http1.clear();
        self.http2.clear();
    }
}

/// Counts an open connection of an instance.
struct Live {
    instance: Weak<Instance>,
    count: Arc<AtomicUsize>,
    /// It ended, and neither was that told before nor was it us.
    broke: bool,
}

impl Live {
    fn new(instance: &Arc<Instance>) -> Self {
        let count = instance.pool.live.clone();
        count.fetch_add(1, Relaxed);
        Self { instance: Arc::downgrade(instance), count, broke: false }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let last = self.count.fetch_sub(1, Relaxed) == 1;
        if let (true, true, Some(instance)) = (last, self.broke, self.instance.upgrade()) {
            instance.broken.store(true, Relaxed);
        }
    }
}
