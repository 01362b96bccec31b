//! The client's socket, shared between the HTTP server that reads it and the waiting room that watches it.
//!
//! hyper does not look at a socket while the body of a call is unread, so that a client which leaves a waiting room would
//! not be noticed. The stream stands behind an [`Arc`]: the room awaits the socket's read-closed state on it.

use crate::{answer, shared::Shared, trail};
use futures::FutureExt;
use socket2::SockRef;
use std::{
    io::{self, Read},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
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

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: Arc<TcpStream>,
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    phase: AtomicU8,
    /// When the phase began, in milliseconds of the clock.
    since_ms: AtomicU64,
    /// When the call in this phase must be over, in milliseconds of the clock; [`u64::MAX`] while none is known.
    until_ms: AtomicU64,
}

impl Peer {
    pub(crate) fn new(stream: Arc<TcpStream>, addr: SocketAddr, shared: Arc<Shared>) -> Arc<Self> {
        let since_ms = AtomicU64::new(shared.clock.now_ms());
        let (phase, until_ms) = (AtomicU8::new(Phase::Fresh as u8), AtomicU64::new(u64::MAX));
        Arc::new(Self { stream, addr, shared, phase, since_ms, until_ms })
    }

    /// The phase and how long it lasts already.
    pub(crate) fn phase(&self) -> (Phase, Duration) {
        let phase = match self.phase.load(Relaxed) {
            0 => Phase::Fresh,
            1 => Phase::Idle,
            2 => Phase::Head,
            _ => Phase::Call,
        };
        let lasts = self.shared.clock.now_ms().saturating_sub(self.since_ms.load(Relaxed));
        (phase, Duration::from_millis(lasts))
    }

    fn enter(&self, phase: Phase) {
        self.since_ms.store(self.shared.clock.now_ms(), Relaxed);
        self.until_ms.store(u64::MAX, Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    /// The call must be over by then.
    pub(crate) fn set_deadline(&self, at: Duration) {
        self.until_ms.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long the call is over its time.
    pub(crate) fn overdue(&self) -> Duration {
        Duration::from_millis(self.shared.clock.now_ms().saturating_sub(self.until_ms.load(Relaxed)))
    }

    /// Marks that a call is served until the guard is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> InCall {
        self.enter(Phase::Call);
        InCall(self.clone())
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
        self.0.enter(Phase::Idle);
    }
}

/// Reads and writes the shared stream for hyper.
pub(crate) struct Wire(pub(crate) Arc<Peer>);

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let peer = &self.0;
        loop {
            ready!(peer.stream.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            if space.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut read = 0;
            // A read that does not fill the space has emptied the socket: saying "would block" inside the same call
            // clears the readiness, and spares the read that would only find this out.
            let result = peer.stream.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(&*peer.stream)).read(space)?;
                if 0 < read && read < space.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match result {
                Err(e) if read == 0 && e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if read == 0 => return Poll::Ready(Err(e)),
                _ => {
                    if read > 0 && matches!(peer.phase().0, Phase::Fresh | Phase::Idle) {
                        peer.enter(Phase::Head);
                    }
                    buf.advance(read);
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
        Poll::Ready(SockRef::from(&*self.0.stream).shutdown(std::net::Shutdown::Write))
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
        let shared = &self.0.shared;
        let Some(refusal) = answer::of_parser(data).filter(|_| self.0.phase().0 == Phase::Head) else { return false };
        shared.metrics.refused(None, &refusal.code);
        let id = shared.request_id(shared.next_call());
        trail::unread(shared, self.0.addr, id, &refusal);
        let _ = self.0.stream.try_write(refusal.raw(id).as_bytes());
        true
    }

    fn write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match write(&self.0.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}
