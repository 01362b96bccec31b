//! Which protocol a new connection speaks. HTTP/2 without TLS begins with a preface that no request of HTTP/1 begins with.

use super::Limits;
use crate::{
    shared::Shared,
    wire::{Peer, Phase},
};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a client of HTTP/2 sends first (RFC 9113 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read before the protocol is known: most request heads of HTTP/1.1 come whole with the first read.
const FIRST_READ: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The protocol, and the bytes that told it; `None` when the connection ended or did not say in time: its first byte is
/// awaited as long as any, the rest of a preface as long as the rest of a request head.
pub(super) async fn protocol(
    peer: &Peer,
    shared: &Shared,
    limits: &Limits,
    stop: &CancellationToken,
) -> Option<(Protocol, Bytes)> {
    let mut first = BytesMut::new();
    let mut deadline = Instant::now() + limits.first_byte;
    loop {
        tokio::select! {
            biased;
            more = peer.read_first(&mut first, FIRST_READ) => match more {
                Ok(0) if first.is_empty() => return None,
                // It ended within what could be a preface: the parser says what is wrong with it.
                Ok(0) => return Some((Protocol::Http1, first.freeze())),
                Ok(_) => {}
                Err(_) => return None,
            },
            // Whoever serves it ends it in order.
            () = stop.cancelled() => return Some((Protocol::Http1, first.freeze())),
            () = shared.hard_stop.cancelled() => return None,
            () = tokio::time::sleep_until(deadline) => {
                tracing::debug!(peer = %peer.addr, bytes = first.len(), "connection closed: it did not say what it speaks");
                return None;
            }
        }
        if let Some(protocol) = told(&first) {
            peer.enter(Phase::Head, shared.clock.now());
            return Some((protocol, first.freeze()));
        }
        if peer.phase().0 == Phase::Fresh {
            peer.enter(Phase::Head, shared.clock.now());
            deadline = Instant::now() + limits.head;
        }
    }
}

/// What the first bytes say; `None` while they are the beginning of a preface.
fn told(first: &[u8]) -> Option<Protocol> {
    let len = first.len().min(PREFACE.len());
    if first[..len] != PREFACE[..len] {
        return Some(Protocol::Http1);
    }
    (len == PREFACE.len()).then_some(Protocol::Http2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_preface_is_http_2() {
        for len in 0..PREFACE.len() {
            assert_eq!(told(&PREFACE[..len]), None, "{len}");
        }
        assert_eq!(told(PREFACE), Some(Protocol::Http2));
        assert_eq!(told(&[&PREFACE[..], b"more"].concat()), Some(Protocol::Http2));
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/1.1\r\n", b"PRX", b"\r\n", b"P R", b"PRI * HTTP/2.0\r\n\r\nSN"]
        {
            assert_eq!(told(other), Some(Protocol::Http1), "{other:?}");
        }
    }
}
