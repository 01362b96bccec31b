//! The client's socket, shared between the HTTP server that reads it and the waiting room that watches it.
//!
//! hyper does not look at a socket while the body of a call is unread, so that a client which leaves a waiting room would
//! not be noticed. The stream stands behind an [`Arc`]: the room awaits the socket's read-closed state on it.

use crate::{
    answer::{self, Refusal},
    clock,
    introduce::Introductions,
    server::Streams,
    shared::Shared,
    trail,
    tunnel::Tunnel,
};
use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use parking_lot::Mutex;
use socket2::SockRef;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nothing came yet.
    Fresh = 0,
    /// Between two calls.
    Idle = 1,
    /// Some bytes of a request head came.
    Head = 2,
    /// A call is being served.
    Call = 3,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anybody.
    Client,
    /// Another activator, or who says so: its calls are not handed on.
    Activator,
    /// This process, for calls that the platform makes.
    Own,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: Arc<TcpStream>,
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    kind: Kind,
    phase: AtomicU8,
    /// When the phase began, in milliseconds of the clock.
    since_ms: AtomicU64,
    /// Bytes that the HTTP server may hold unread: see [`Peer::note_read`].
    held: AtomicUsize,
    /// When the call in this phase must be over, in milliseconds of the clock; [`u64::MAX`] while none is known.
    until_ms: AtomicU64,
    /// HTTP/2: its calls, each with times of its own; the phase says nothing then.
    streams: Option<Arc<Streams>>,
    /// What it becomes once the answer is written that says so.
    tunnel: Mutex<Option<Box<Tunnel>>>,
    /// What its functions are told about it.
    pub(crate) introductions: Introductions,
}

impl Peer {
    pub(crate) fn new(stream: Arc<TcpStream>, addr: SocketAddr, shared: Arc<Shared>, kind: Kind) -> Arc<Self> {
        let since_ms = AtomicU64::new(shared.clock.now_ms());
        let (phase, until_ms) = (AtomicU8::new(Phase::Fresh as u8), AtomicU64::new(u64::MAX));
        let (held, tunnel, introductions) = (AtomicUsize::new(0), Mutex::new(None), Introductions::default());
        Arc::new(Self {
            stream,
            addr,
            shared,
            kind,
            phase,
            since_ms,
            held,
            until_ms,
            streams: None,
            tunnel,
            introductions,
        })
    }

    /// It is no client's: its calls name their function by its uid, and say by the token that they may.
    pub(crate) fn is_inner(&self) -> bool {
        self.kind != Kind::Client
    }

    /// Its calls may be handed on to another activator.
    pub(crate) fn hands_on(&self) -> bool {
        self.kind != Kind::Activator
    }

    /// The same connection as one of HTTP/2.
    pub(crate) fn with_streams(&self, streams: Arc<Streams>) -> Arc<Self> {
        let Self { stream, addr, shared, kind, .. } = self;
        let mut peer = Self::new(stream.clone(), *addr, shared.clone(), *kind);
        if let Some(peer) = Arc::get_mut(&mut peer) {
            peer.streams = Some(streams);
        }
        peer
    }

    /// The connection becomes a tunnel with the end of the answer that is being given.
    pub(crate) fn set_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.lock() = Some(Box::new(tunnel));
    }

    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.lock().take()
    }

    /// Whoever closes it last resets it.
    pub(crate) fn reset(&self) {
        if let Err(e) = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!("no reset: {e}");
        }
    }

    /// Reads what comes before it is known who parses it: at most `most` bytes at once.
    pub(crate) async fn read_first(&self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            buffer.reserve(most);
            match self.stream.try_read_buf(&mut bytes::BufMut::limit(&mut *buffer, most)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// The phase and how long it lasts already.
    pub(crate) fn phase(&self) -> (Phase, Duration) {
        let lasts = self.shared.clock.now_ms().saturating_sub(self.since_ms.load(Relaxed));
        (self.is_at(), Duration::from_millis(lasts))
    }

    fn is_at(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Fresh,
            1 => Phase::Idle,
            2 => Phase::Head,
            _ => Phase::Call,
        }
    }

    pub(crate) fn enter(&self, phase: Phase, now: Duration) {
        self.since_ms.store(clock::millis(now), Relaxed);
        self.until_ms.store(u64::MAX, Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    /// Counts what the HTTP server has read and may not have passed on. It reads ahead only for a head, and within a
    /// call only when it holds nothing: so that is what it read since a head began, or what the last read gave.
    fn note_read(&self, read: usize) {
        if self.streams.is_some() {
            return;
        }
        match self.is_at() {
            Phase::Fresh | Phase::Idle => {
                self.held.store(read, Relaxed);
                self.enter(Phase::Head, self.shared.clock.now());
            }
            Phase::Head => {
                self.held.fetch_add(read, Relaxed);
            }
            Phase::Call => {
                self.held.fetch_max(read, Relaxed);
            }
        }
    }

    /// Most bytes that are buffered of the call that has just begun: its head, and what came along with it.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The call must be over by then.
    pub(crate) fn set_deadline(&self, at: Duration) {
        if let Some(streams) = &self.streams {
            return streams.set_deadline(at);
        }
        self.until_ms.store(clock::millis(at), Relaxed);
    }

    /// The call is not dispatched after all: nothing says when it must be over.
    pub(crate) fn clear_deadline(&self) {
        if let Some(streams) = &self.streams {
            return streams.clear_deadline();
        }
        self.until_ms.store(u64::MAX, Relaxed);
    }

    /// How long the call is over its time.
    pub(crate) fn overdue(&self) -> Duration {
        Duration::from_millis(self.shared.clock.now_ms().saturating_sub(self.until_ms.load(Relaxed)))
    }

    /// Marks that a call is served from `now` until the guard is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>, now: Duration) -> InCall {
        if self.streams.is_none() {
            self.enter(Phase::Call, now);
        }
        InCall(self.clone())
    }

    /// Answers a request of which there is no whole head, as far as it goes without waiting: the connection ends with
    /// it.
    pub(crate) fn tell_last(&self, refusal: &Refusal) {
        self.shared.metrics.refused(None, &refusal.code);
        let id = self.shared.request_id(self.shared.next_call());
        trail::unread(&self.shared, self.addr, id, refusal);
        let _ = self.stream.try_write(refusal.raw(id).as_bytes());
    }

    /// Ends when the client has closed its sending side or broken the connection.
    pub(crate) async fn gone(&self) {
        loop {
            // Readable data must not wake us again and again: PRIORITY stands for "out of band data or read closed".
            match self.stream.ready(Interest::PRIORITY).await {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => return,
            }
        }
    }

    /// True when the client has closed its sending side, as far as the reactor knows at this instant.
    pub(crate) fn is_gone(&self) -> bool {
        match self.stream.ready(Interest::PRIORITY).now_or_never() {
            Some(Ok(ready)) => ready.is_read_closed(),
            Some(Err(_)) => true,
            None => false,
        }
    }
}

/// What is still read from a connection after its last answer.
const LINGER_BYTES: usize = 1 << 20;
/// For how long.
const LINGER: Duration = Duration::from_secs(1);

impl Peer {
    /// Ends our side and reads what the client still sends: closing with unread bytes would reset the connection, and
    /// the client would lose the answer that tells it what was wrong.
    pub(crate) async fn linger(&self) {
        if SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let mut scratch = [0; 4096];
        let mut left = LINGER_BYTES;
        let read_all = async {
            while left > 0 && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut scratch) {
                    Ok(0) => return,
                    Ok(n) => left = left.saturating_sub(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, read_all).await;
    }
}

/// While it lives, the connection serves a call.
#[derive(Debug)]
pub(crate) struct InCall(Arc<Peer>);

impl Drop for InCall {
    fn drop(&mut self) {
        if self.0.streams.is_none() {
            self.0.enter(Phase::Idle, self.0.shared.clock.now());
        }
    }
}

/// Reads and writes the shared stream for hyper.
pub(crate) struct Wire {
    peer: Arc<Peer>,
    /// Read already, and to be read first.
    first: Bytes,
}

impl Wire {
    pub(crate) fn new(peer: Arc<Peer>, first: Bytes) -> Self {
        Self { peer, first }
    }

    /// The same, with what was read of it already and is to be read again.
    pub(crate) fn after(mut self, read: Bytes) -> Self {
        self.first = if self.first.is_empty() { read } else { [read, self.first].concat().into() };
        self
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let len = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..len]);
            self.first.advance(len);
            self.peer.note_read(len);
            if self.first.is_empty() {
                // What is left of it is its memory.
                self.first = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let peer = &self.peer;
        loop {
            ready!(peer.stream.poll_read_ready(cx))?;
            let space = buf.remaining();
            if space == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut read = 0;
            // A read that does not fill the space has emptied the socket: saying "would block" around it clears the
            // readiness that was there before it, and spares the read that would only find this out. Read into memory
            // that nobody has cleared: hyper's buffer is a hundred times as large as a request.
            let result = peer.stream.try_io(Interest::READABLE, || {
                read = peer.stream.try_read_buf(buf)?;
                if 0 < read && read < space { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match result {
                Err(e) if read == 0 && e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if read == 0 => return Poll::Ready(Err(e)),
                _ => {
                    if read > 0 {
                        peer.note_read(read);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.tell_in_our_words(data) {
            return Poll::Ready(Ok(data.len()));
        }
        self.write_with(cx, |stream| stream.try_write(data))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.peer.stream).shutdown(std::net::Shutdown::Write))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [data] = parts
            && self.tell_in_our_words(data)
        {
            return Poll::Ready(Ok(data.len()));
        }
        self.write_with(cx, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Wire {
    /// hyper answers a request that it cannot parse on its own, without a reason: ours is sent in its place, as far as
    /// it goes without waiting (the connection ends with it). True when it was such an answer.
    fn tell_in_our_words(&self, data: &[u8]) -> bool {
        let refusal = answer::of_parser(data).filter(|_| self.peer.is_at() == Phase::Head);
        refusal.map(|refusal| self.peer.tell_last(&refusal)).is_some()
    }

    fn write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.peer.stream.poll_write_ready(cx))?;
            match write(&self.peer.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}
