//! A connection of HTTP/2 without TLS: many calls at once, each on a stream.

use super::{
    LOOK, Limits,
    streams::{Quiet, Runner, Streams},
};
use crate::{
    forward,
    shared::Shared,
    wire::{Peer, Wire},
};
use bytes::Bytes;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection on which nothing came for that long is asked whether its client is still there.
const PING: Duration = Duration::from_secs(20);
/// It is ended when the answer takes longer. Also what ends a client that stops within a frame.
const PONG: Duration = Duration::from_secs(10);
/// Streams that a client has reset before they were looked at; more of them at once are an attack (rapid reset).
const RESET_UNSEEN: usize = 20;
/// Streams that we have reset for errors of the client, over the connection's life.
const RESET_FOR_ERRORS: usize = 256;
/// After the farewell (GOAWAY) a client without open streams has that long to close.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves one connection, `first` of which was read already; true when it came to its own end.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    shared: &Arc<Shared>,
    limits: &Limits,
    stop: &CancellationToken,
    first: Bytes,
) -> bool {
    let streams = Streams::new(shared);
    let peer = &peer.with_streams(streams.clone());
    let service = service_fn(|request| forward::serve(shared.clone(), peer.clone(), request));
    let builder = builder(limits, Runner(streams.clone()));
    let io = TokioIo::new(Wire::new(peer.clone(), first));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let mut farewell = None;
    let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(e) = result {
                    tracing::debug!(peer = %peer.addr, "connection: {e}");
                }
                return true;
            }
            () = stop.cancelled(), if farewell.is_none() => {
                farewell = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            () = shared.hard_stop.cancelled() => return false,
            _ = look.tick() => {
                let overdue = streams.end_overdue();
                if overdue > 0 {
                    tracing::debug!(peer = %peer.addr, streams = overdue, "reset: their time is over and their responses not read");
                }
                // Told while we still serve: its next calls go to another activator.
                let leaving = shared.leaving.load(Relaxed).then_some("the activator is going");
                let full = (shared.memory.check().is_err() && streams.quiet().is_some()).then_some("memory is over its bound");
                match (leaving.or(full).or_else(|| overstayed(&streams, limits)), farewell) {
                    (Some(why), None) => {
                        tracing::debug!(peer = %peer.addr, "connection closed: {why}");
                        farewell = Some(Instant::now());
                        connection.as_mut().graceful_shutdown();
                    }
                    (_, Some(at)) if at.elapsed() > FAREWELL && streams.quiet().is_some() => return false,
                    _ => {}
                }
            }
        }
    }
}

fn builder(limits: &Limits, runner: Runner) -> http2::Builder<Runner> {
    let mut builder = http2::Builder::new(runner);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .initial_stream_window_size(Limits::STREAM_WINDOW)
        .initial_connection_window_size(limits.http2_streams * Limits::STREAM_WINDOW)
        .max_send_buf_size(Limits::SEND_BUFFER)
        .max_header_list_size(limits.http2_head_bytes)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(RESET_FOR_ERRORS);
    builder
}

/// Why a connection is to be ended, if it is.
fn overstayed(streams: &Streams, limits: &Limits) -> Option<&'static str> {
    match streams.quiet()? {
        Quiet::Fresh(lasts) if lasts > limits.head => Some("no request came"),
        Quiet::Idle(lasts) if lasts > limits.idle => Some("idle"),
        _ => None,
    }
}
