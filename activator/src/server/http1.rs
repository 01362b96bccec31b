//! A connection of HTTP/1.1: one call at a time.

use super::{LOOK, Limits, OVERDUE};
use crate::{
    answer::Refusal,
    forward,
    shared::Shared,
    wire::{Peer, Phase, Wire},
};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, StatusCode, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

/// Serves one connection, `first` of which was read already; true when it came to its own end.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    shared: &Arc<Shared>,
    limits: &Limits,
    stop: &CancellationToken,
    first: Bytes,
) -> bool {
    let service = service_fn(async |request| {
        let mut response = forward::serve(shared.clone(), peer.clone(), request).await?;
        if shared.leaving.load(Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, forward::Hangup>(response)
    });
    let mut builder = http1::Builder::new();
    // Not `pipeline_flush`: with it hyper closes without flushing its own 400 while unparsed bytes are left.
    builder.max_buf_size(limits.head_bytes).max_header_size(limits.head_bytes);
    // A bound that is told costs hyper a cleared list of that length for each head; its own is of a fixed length.
    if limits.header_lines != Limits::LINES {
        builder.max_headers(limits.header_lines);
    }
    let mut connection = builder.serve_connection(TokioIo::new(Wire::new(peer.clone(), first)), service);
    // Looked at only when one of them has happened: a call wakes the connection several times, and a token that all
    // connections share has a lock.
    let mut beside = FuturesUnordered::from_iter([event(stop, true, shared)]);
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            result = std::pin::Pin::new(&mut connection) => {
                let tunnel = peer.take_tunnel();
                match (result, tunnel) {
                    (Ok(()), Some(tunnel)) => {
                        let parts = connection.into_parts();
                        let client = parts.io.into_inner().after(parts.read_buf);
                        // In a box: the task of a connection without a tunnel stays small.
                        return Box::pin(tunnel.run(peer, client, shared)).await;
                    }
                    (Ok(()), None) => {}
                    (Err(e), tunnel) => {
                        tracing::debug!(peer = %peer.addr, "connection: {e}");
                        if let Some(tunnel) = tunnel {
                            tunnel.abandon();
                        }
                    }
                }
                return true;
            }
            Some(happened) = beside.next() => match happened {
                Event::Stop => {
                    stopping = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    beside.push(event(stop, !stopping, shared));
                }
                Event::HardStop => return false,
                Event::Look => {
                    let phase = peer.phase().0;
                    let full = shared.memory.check().err().filter(|_| phase != Phase::Call);
                    let late = overstayed(peer, limits);
                    if let Some(why) = late.or(full.as_ref().map(|_| "memory is over its bound")) {
                        tracing::debug!(peer = %peer.addr, "connection closed: {why}");
                        // Only who has begun to ask can be answered.
                        let asked = phase == Phase::Head;
                        if asked {
                            peer.tell_last(&full.unwrap_or_else(Refusal::slow_head));
                        }
                        return asked;
                    }
                    beside.push(event(stop, !stopping, shared));
                }
            },
        }
    }
}

/// What happens to a connection besides its calls.
enum Event {
    /// It is to end with the call that runs.
    Stop,
    /// It is to end at once.
    HardStop,
    /// Its deadlines are to be looked at.
    Look,
}

/// The next event; a stop only where it is still waited for.
async fn event(stop: &CancellationToken, may_stop: bool, shared: &Shared) -> Event {
    tokio::select! {
        biased;
        () = shared.hard_stop.cancelled() => Event::HardStop,
        () = stop.cancelled(), if may_stop => Event::Stop,
        () = tokio::time::sleep(LOOK) => Event::Look,
    }
}

/// Why a connection is to be ended, if it is.
fn overstayed(peer: &Peer, limits: &Limits) -> Option<&'static str> {
    let (phase, lasts) = peer.phase();
    match phase {
        Phase::Fresh if lasts > limits.first_byte => Some("nothing came"),
        Phase::Head if lasts > limits.head => Some("the request head did not come whole"),
        Phase::Idle if lasts > limits.idle => Some("idle"),
        Phase::Call if peer.overdue() > OVERDUE => Some("the call's time is over and its response not read"),
        _ => None,
    }
}
