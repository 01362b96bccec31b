//! Connections of HTTP/2 to an instance: each carries as many calls as the instance allows, up to [`MAX_STREAMS`], and is
//! driven by a task of its own. A call's upload is driven by whoever awaits its response, and by a task only when it goes
//! on while the response comes (a stream in both directions).
//!
//! The library of the protocol is used directly, not through hyper: what was refused unseen must be told from what broke,
//! and whatever is dropped before its end must be a reset on the wire, never a clean end.

mod received;
mod upload;

pub(crate) use received::Received;

use super::{IDLE, Live};
use crate::{
    body::{InBody, SentBody},
    clock::Clock,
    instance::Instance,
};
use bytes::Bytes;
use h2::{
    Reason,
    client::{Connection, ResponseFuture, SendRequest},
};
use http::{Request, Response, Uri, header, request, uri};
use http_body::Body;
use parking_lot::Mutex;
use received::length;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{net::TcpStream, task::AbortHandle};
use upload::Upload;

/// Calls at once on one connection; the instance may allow fewer. Seats beyond it (up to 1000) get more connections.
const MAX_STREAMS: usize = 100;
/// Bytes of a response that come ahead of what its caller reads.
const STREAM_WINDOW: u32 = 64 * 1024;
/// All streams at their full windows, 6.25 MiB: a caller that does not read must not stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// Most bytes of a response head, counted as the protocol does: as many as on HTTP/1.1.
const MAX_HEAD: u32 = 128 * 1024;
/// Upload bytes of a stream that wait in the connection for the instance's window.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection, shared by the calls on it.
struct Conn {
    /// `None` once it takes no more calls; it then ends with the last of them.
    sender: Mutex<Option<SendRequest<Bytes>>>,
    calls: AtomicUsize,
    /// When `calls` became zero last, in milliseconds of the clock.
    idle_since_ms: AtomicU64,
    /// It has answered a call.
    used: AtomicBool,
    clock: Clock,
}

/// The task that drives a connection gets to write within this, on a loaded machine as well.
const LAST_WORDS: Duration = Duration::from_millis(10);

impl Conn {
    /// It takes no more calls, and ends when those that run have ended.
    fn shut(&self) {
        let Some(sender) = self.sender.lock().take() else { return };
        // The connection says farewell as soon as nobody can send on it, and then writes nothing more: the resets of calls
        // that are given up at this moment go out first.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            drop(sender);
        });
    }

    fn is_open(&self) -> bool {
        self.sender.lock().is_some()
    }

    /// When it will have idled its time, from now on; `None` when that is over.
    fn idles_until(&self) -> Option<Duration> {
        let now = self.clock.now();
        let since =
            if self.calls.load(Relaxed) > 0 { now } else { Duration::from_millis(self.idle_since_ms.load(Relaxed)) };
        Some(since + IDLE).filter(|until| *until > now)
    }
}

/// The connections of one instance.
#[derive(Default)]
pub(in crate::pool) struct Pool {
    conns: Mutex<Conns>,
    /// Held by the call that makes a connection.
    pub(in crate::pool) turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Conns {
    open: Vec<Arc<Conn>>,
    closed: bool,
}

impl Pool {
    /// A place on the first connection that has one: the others can age.
    pub(in crate::pool) fn take(&self) -> Option<Lane> {
        let mut conns = self.conns.lock();
        conns.open.retain(|conn| conn.is_open());
        conns.open.iter().find_map(Lane::on)
    }

    fn add(&self, conn: Arc<Conn>) {
        let mut conns = self.conns.lock();
        if !conns.closed {
            conns.open.push(conn);
        }
    }

    /// Shuts the connection if it has idled its time. Under the lock of the list: no call takes it meanwhile.
    fn shut_idle(&self, conn: &Conn) -> Option<Duration> {
        let _conns = self.conns.lock();
        let until = conn.idles_until();
        if until.is_none() {
            conn.shut();
        }
        until
    }

    pub(in crate::pool) fn close(&self) {
        self.conns.lock().closed = true;
        self.clear();
    }

    pub(in crate::pool) fn clear(&self) {
        let open = std::mem::take(&mut self.conns.lock().open);
        open.iter().for_each(|conn| conn.shut());
    }
}

/// A place for one call on a connection.
pub(crate) struct Lane {
    conn: Arc<Conn>,
    sender: SendRequest<Bytes>,
    sending: Sending,
}

/// The rest of a call's upload.
enum Sending {
    /// There is none.
    Done,
    /// Driven with the lane.
    Here(Upload),
    /// Driven by a task.
    Elsewhere(AbortHandle),
}

impl Lane {
    pub(in crate::pool) async fn new(stream: TcpStream, instance: &Arc<Instance>, clock: Clock) -> io::Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(SEND_BUFFER);
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        let conn = Arc::new(Conn {
            sender: Mutex::new(Some(sender.clone())),
            calls: AtomicUsize::new(1),
            idle_since_ms: AtomicU64::new(0),
            used: AtomicBool::new(false),
            clock,
        });
        instance.pool.http2.add(conn.clone());
        tokio::spawn(drive(connection, conn.clone(), Live::new(instance), Arc::downgrade(instance)));
        Ok(Self { conn, sender, sending: Sending::Done })
    }

    /// A place on a connection, if it has one.
    fn on(conn: &Arc<Conn>) -> Option<Self> {
        let mut sender = conn.sender.lock().clone()?;
        let most = sender.current_max_send_streams().min(MAX_STREAMS);
        let is_alive = matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if !is_alive || conn.calls.load(Relaxed) >= most {
            return None;
        }
        conn.calls.fetch_add(1, Relaxed);
        Some(Self { conn: conn.clone(), sender, sending: Sending::Done })
    }

    pub(in crate::pool) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Sending::Here(upload) = &mut self.sending
            && upload.poll(cx).is_ready()
            && upload.kept.is_none()
        {
            self.sending = Sending::Done;
        }
    }

    pub(in crate::pool) fn is_free(&self) -> bool {
        match &self.sending {
            Sending::Done => true,
            Sending::Here(upload) => upload.over,
            Sending::Elsewhere(task) => task.is_finished(),
        }
    }

    pub(in crate::pool) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.sender.poll_ready(cx).map(|ready| ready.is_ok())
    }

    pub(in crate::pool) fn is_used(&self) -> bool {
        self.conn.used.load(Relaxed)
    }

    /// Nothing is sent again from here on. An upload that goes on does so by itself: a caller that does not read its
    /// response does not stop it.
    pub(in crate::pool) fn note_response(&mut self) {
        self.conn.used.store(true, Relaxed);
        if let Sending::Here(mut upload) = std::mem::replace(&mut self.sending, Sending::Done)
            && !upload.over
        {
            upload.kept = None;
            let task = tokio::spawn(std::future::poll_fn(move |cx| upload.poll(cx)));
            self.sending = Sending::Elsewhere(task.abort_handle());
        }
    }

    pub(in crate::pool) fn send(&mut self, request: Request<SentBody>) -> Reply {
        let (head, body) = request.into_parts();
        let whole = body.is_end_stream();
        let state = match self.sender.send_request(on_wire(&head), whole) {
            Ok((response, stream)) => {
                self.sending = Sending::Here(Upload::new(stream, body, whole));
                State::Sent(response)
            }
            Err(error) => {
                tracing::debug!("not sent: {error}");
                State::NotSent(Some(body))
            }
        };
        Reply { state, head: Some(head) }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Sending::Elsewhere(task) = &self.sending {
            task.abort();
        }
        self.conn.idle_since_ms.store(self.conn.clock.now_ms(), Relaxed);
        self.conn.calls.fetch_sub(1, Relaxed);
    }
}

/// A request head as HTTP/2 writes it. The host stands in the pseudo-header, what belongs to a connection nowhere.
fn on_wire(head: &request::Parts) -> Request<()> {
    let mut wire = Request::new(());
    *wire.method_mut() = head.method.clone();
    *wire.headers_mut() = head.headers.clone();
    let headers = wire.headers_mut();
    headers.remove(header::CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    let host = headers.remove(header::HOST);
    let mut parts = uri::Parts::default();
    parts.path_and_query = head.uri.path_and_query().cloned();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = host.and_then(|h| uri::Authority::try_from(h.as_bytes()).ok());
    if parts.authority.is_none() {
        // HTTP/1.0 may leave it out.
        parts.scheme = None;
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *wire.uri_mut() = uri;
    }
    *wire.version_mut() = http::Version::HTTP_2;
    wire
}

/// The response to come.
pub(crate) struct Reply {
    state: State,
    /// What goes again when the instance refuses it unseen.
    head: Option<request::Parts>,
}

enum State {
    Sent(ResponseFuture),
    NotSent(Option<SentBody>),
}

impl Reply {
    pub(in crate::pool) fn poll(
        &mut self,
        lane: &mut Lane,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<InBody>, Option<Request<SentBody>>>> {
        let error = match &mut self.state {
            State::NotSent(body) => return Poll::Ready(Err(self.head.take().zip(body.take()).map(joined))),
            State::Sent(response) => match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => {
                    let length = self.head.as_ref().and_then(|head| length(&head.method, &response));
                    return Poll::Ready(Ok(response.map(|stream| InBody::Http2(Received::new(stream, length)))));
                }
                Err(error) => error,
            },
        };
        tracing::debug!("an instance broke off: {error}");
        let body = if was_refused(&error) {
            // It would refuse the next one too.
            lane.conn.shut();
            match std::mem::replace(&mut lane.sending, Sending::Done) {
                Sending::Here(upload) => upload.again(),
                _ => None,
            }
        } else {
            None
        };
        Poll::Ready(Err(self.head.take().zip(body).map(joined)))
    }
}

fn joined((head, body): (request::Parts, SentBody)) -> Request<SentBody> {
    Request::from_parts(head, body)
}

/// True when the instance says that it has not looked at the call (RFC 9113 8.7): a refused stream, or one behind the last
/// one of its farewell. Streams before that one break with the connection, as an error of the socket.
fn was_refused(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Drives a connection to its end, and ends it when it has idled its time.
async fn drive(
    mut connection: Connection<TcpStream, Bytes>,
    conn: Arc<Conn>,
    mut live: Live,
    instance: Weak<Instance>,
) {
    let mut look = Some(conn.clock.now() + IDLE);
    loop {
        let idle = async {
            match look {
                Some(at) => tokio::time::sleep_until(conn.clock.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!("a connection to an instance ended: {error}");
                }
                break;
            }
            () = idle => match instance.upgrade() {
                Some(instance) => look = instance.pool.http2.shut_idle(&conn),
                None => {
                    conn.shut();
                    look = None;
                }
            },
        }
    }
    // That it broke is known before it is out of the pool: who finds none there must not dial.
    let sender = conn.sender.lock().clone();
    live.broke = sender.is_some_and(|sender| !said_farewell(sender));
    drop(live);
    conn.sender.lock().take();
}

/// True when the instance had said that it would end the connection.
fn said_farewell(mut sender: SendRequest<Bytes>) -> bool {
    match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => error.is_go_away() && error.is_remote(),
        _ => false,
    }
}
