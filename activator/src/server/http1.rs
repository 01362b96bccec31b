//! A connection of HTTP/1.1: one call at a time.

use super::{LOOK, Limits, OVERDUE};
use crate::{
    answer::Refusal,
    forward,
    shared::Shared,
    wire::{Peer, Phase, Wire},
};
use bytes::Bytes;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves one connection, `first` of which was read already; true when it came to its own end.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    shared: &Arc<Shared>,
    limits: &Limits,
    stop: &CancellationToken,
    first: Bytes,
) -> bool {
    let service = service_fn(|request| forward::serve(shared.clone(), peer.clone(), request));
    let mut builder = http1::Builder::new();
    // Not `pipeline_flush`: with it hyper closes without flushing its own 400 while unparsed bytes are left.
    builder.max_headers(limits.header_lines).max_buf_size(limits.head_bytes).max_header_size(limits.head_bytes);
    let mut connection = builder.serve_connection(TokioIo::new(Wire::new(peer.clone(), first)), service);
    let mut stopping = false;
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
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
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = shared.hard_stop.cancelled() => return false,
            _ = look.tick() => if let Some(why) = overstayed(peer, limits) {
                tracing::debug!(peer = %peer.addr, "connection closed: {why}");
                // Only who has begun to ask can be answered.
                let asked = peer.phase().0 == Phase::Head;
                if asked {
                    peer.tell_last(&Refusal::slow_head());
                }
                return asked;
            },
        }
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
