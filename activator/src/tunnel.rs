//! A call that has become something else (WebSocket, for one): after a 101, bytes go both ways until both sides have
//! ended.
//!
//! It is one call to the meter, from its dispatch to the tunnel's end, and holds its slot as long. `timeoutSeconds` ends
//! it: both sides see an orderly end of the stream, and only an instance that does not end its side then is retired.

use crate::{
    body::Upload,
    flight::Parts,
    shared::Shared,
    wire::{Peer, Wire},
};
use bytes::{Buf, Bytes};
use dormouse_core::record::Outcome;
use http::{HeaderMap, HeaderValue, Version, header, request};
use socket2::SockRef;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// What is read at once, in each direction: 16 KiB for a tunnel.
const BUFFER: usize = 8 * 1024;
/// How long an instance may take to end its side when the tunnel's time is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// The protocol that a request asks to change to. None for HTTP/2 (`h2c`): that is spoken from the first byte on, or not
/// at all. None with a body: it would stand between the head and the tunnel.
pub(crate) fn wanted(head: &request::Parts, has_body: bool) -> Option<HeaderValue> {
    let protocol = head.headers.get(header::UPGRADE)?;
    let names = |name: header::HeaderName, token: &str| {
        let values = head.headers.get_all(name).iter();
        let mut tokens = values.flat_map(|value| value.as_bytes().split(|&b| b == b','));
        tokens.any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    let asks = head.version == Version::HTTP_11 && !has_body && names(header::CONNECTION, "upgrade");
    (asks && !names(header::UPGRADE, "h2c")).then(|| protocol.clone())
}

/// Says in a head that the connection is to change, or changes, to a protocol.
pub(crate) fn tell(headers: &mut HeaderMap, protocol: HeaderValue) {
    // `TE` may be named there, and stays so.
    headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// A tunnel whose instance has agreed.
pub(crate) struct Tunnel {
    parts: Box<Parts>,
    instance: Side,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("meter", &self.parts.meter).finish_non_exhaustive()
    }
}

/// How a tunnel ended.
enum End {
    Whole,
    InstanceBroke,
    ClientBroke,
    Late,
    Stopped,
}

impl Tunnel {
    /// Takes the connection over from its lane; gives the call back when there is none to take.
    pub(crate) fn new(mut parts: Box<Parts>) -> Result<Self, Box<Parts>> {
        let Some((stream, first)) = parts.lane.take_stream() else { return Err(parts) };
        let instance = Side { stream, first, upload: parts.meter.upload.clone(), received: 0, broke: false };
        Ok(Self { parts, instance })
    }

    /// The client left before it was told.
    pub(crate) fn abandon(mut self) {
        self.instance.reset();
        let _ = self.parts.meter.finish(Outcome::ClientGone);
    }

    /// Carries bytes until the end; false when it is to look broken to the client.
    pub(crate) async fn run(mut self, peer: &Arc<Peer>, mut client: Wire, shared: &Shared) -> bool {
        let _in_call = peer.begin_call(shared.clock.now());
        let instance = &mut self.instance;
        let alarm = &mut self.parts.alarm;
        let end = tokio::select! {
            copied = tokio::io::copy_bidirectional_with_sizes(&mut client, instance, BUFFER, BUFFER) => match copied {
                Ok(_) => End::Whole,
                Err(_) if instance.broke => End::InstanceBroke,
                Err(_) => End::ClientBroke,
            },
            () = poll_fn(|cx| alarm.poll(cx)) => End::Late,
            () = shared.hard_stop.cancelled() => End::Stopped,
        };
        let outcome = match end {
            End::Whole => Outcome::Ok,
            End::InstanceBroke => {
                // A broken transfer, never a clean end.
                peer.reset();
                Outcome::FunctionError
            }
            End::ClientBroke => {
                let _ = instance.shutdown().await;
                // It runs to its end all the same, within its time.
                tokio::select! {
                    () = instance.ended() => {}
                    () = poll_fn(|cx| alarm.poll(cx)) => instance.reset(),
                    () = shared.hard_stop.cancelled() => {}
                }
                Outcome::ClientGone
            }
            End::Late => {
                let _ = tokio::join!(client.shutdown(), instance.shutdown());
                if tokio::time::timeout(FAREWELL, instance.ended()).await.is_err() {
                    instance.reset();
                    self.parts.meter.retire_instance();
                }
                Outcome::Timeout
            }
            End::Stopped => {
                let _ = tokio::join!(client.shutdown(), instance.shutdown());
                Outcome::Aborted
            }
        };
        self.parts.meter.response_bytes = self.instance.received;
        let _ = self.parts.meter.finish(outcome);
        outcome != Outcome::FunctionError
    }
}

/// The instance's side: its bytes are counted.
struct Side {
    stream: TcpStream,
    /// Came with the head of the response.
    first: Bytes,
    upload: Arc<Upload>,
    received: u64,
    /// It was this side that failed.
    broke: bool,
}

impl Side {
    fn reset(&self) {
        if let Err(e) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!("no reset: {e}");
        }
    }

    /// Reads what still comes, until the instance has ended its side.
    async fn ended(&mut self) {
        let mut scratch = [0; 1024];
        while let Ok(1..) = self.read(&mut scratch).await {}
    }

    fn note<T>(&mut self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.broke |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }
}

impl AsyncRead for Side {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = if self.first.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            self.note(polled)
        } else {
            let len = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..len]);
            self.first.advance(len);
            Poll::Ready(Ok(()))
        };
        self.received += (buf.filled().len() - before) as u64;
        polled
    }
}

impl AsyncWrite for Side {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(len)) = &polled {
            self.upload.add(*len as u64);
        }
        self.note(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn only_a_whole_wish_without_body_is_one() {
        let of = |upgrade: &str, connection: &str, version: Version, has_body: bool| {
            let request = Request::builder().header("upgrade", upgrade).header("connection", connection);
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            head.version = version;
            wanted(&head, has_body).is_some()
        };
        assert!(of("websocket", "keep-alive, Upgrade", Version::HTTP_11, false));
        assert!(of("TLS/1.0, foo", "upgrade", Version::HTTP_11, false));
        assert!(!of("websocket", "keep-alive", Version::HTTP_11, false));
        assert!(!of("websocket", "upgrade", Version::HTTP_11, true));
        assert!(!of("websocket", "upgrade", Version::HTTP_10, false));
        assert!(!of("h2c", "upgrade, http2-settings", Version::HTTP_11, false));
        assert!(!of("websocket, H2C", "upgrade", Version::HTTP_11, false));
    }
}
