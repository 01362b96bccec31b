//! The traffic port: connections are accepted, counted, given deadlines, and ended in order.
//!
//! hyper's own timers do not see a silent client, a drip-fed head and an idle connection as different things; a watch
//! per connection does, by the phase that [`Peer`] keeps. It looks at most every [`LOOK`], so a deadline is kept within
//! that.

use crate::{
    forward,
    shared::Shared,
    wire::{Peer, Phase, Wire},
};
use http::{HeaderValue, StatusCode, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Bounds of the traffic port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Each takes about 10 KiB while it idles: 200 MiB at the default of 20,000.
    pub connections: usize,
    /// Connections at once from one address. Behind an ingress all callers have one address: the default is the total.
    pub connections_per_address: usize,
    /// From the connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request head to its last one.
    pub head: Duration,
    /// Between two calls on a connection.
    pub idle: Duration,
    /// Bytes of a request head; a connection buffers no more of a body either. At least 8 KiB.
    pub head_bytes: usize,
    /// Header lines of a request.
    pub header_lines: usize,
    /// Calls that wait, over all functions.
    pub waiting: usize,
    /// Bytes of the heads (request line and headers) of calls that wait, over all functions. The default is 64 MiB:
    /// 20,000 waiting calls with 3.2 KiB each, which is twice a browser's usual head; of the largest heads (64 KiB) no
    /// more than 1,024 wait.
    pub waiting_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 20_000,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            head_bytes: 64 * 1024,
            header_lines: 100,
            waiting: 20_000,
            waiting_bytes: 64 << 20,
        }
    }
}

/// How often a connection's deadlines are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A client that does not read its response is cut off that long after the call's time is over.
const OVERDUE: Duration = Duration::from_secs(1);
/// After a failed accept (too many open files): no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\
    retry-after: 1\r\ndormouse-reason: Connections\r\n\r\n";

/// Serves until `stop` is cancelled; connections then end with the call that runs on them. `inner`: the clients are other
/// activators.
pub(crate) async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    limits: Limits,
    inner: bool,
    stop: CancellationToken,
) {
    let doors = Arc::new(Doors { limits, open: Mutex::new(HashMap::new()) });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(pass) = doors.enter(addr.ip(), &shared) else {
            shared.metrics.refused(None, "Connections");
            // As far as it goes without waiting.
            let _ = stream.try_write(TOO_MANY);
            continue;
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        let tracker = shared.tracker.clone();
        tracker.spawn(async move {
            let _pass = pass;
            let _ = stream.set_nodelay(true);
            let peer = Peer::new(Arc::new(stream), addr, shared.clone(), inner);
            connection(peer, shared, limits, stop).await;
        });
    }
}

async fn connection(peer: Arc<Peer>, shared: Arc<Shared>, limits: Limits, stop: CancellationToken) {
    if serve(&peer, &shared, &limits, &stop).await {
        peer.linger().await;
    }
}

/// Serves one connection; true when it came to its own end.
async fn serve(peer: &Arc<Peer>, shared: &Arc<Shared>, limits: &Limits, stop: &CancellationToken) -> bool {
    let service = service_fn(async |request| {
        let mut response = forward::serve(shared.clone(), peer.clone(), request).await?;
        if shared.leaving.load(Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, forward::Hangup>(response)
    });
    let mut builder = http1::Builder::new();
    // Not `pipeline_flush`: with it hyper closes without flushing its own 400 while unparsed bytes are left.
    builder.max_headers(limits.header_lines).max_buf_size(limits.head_bytes).max_header_size(limits.head_bytes);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(Wire(peer.clone())), service));
    let mut stopping = false;
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(e) = result {
                    tracing::debug!(peer = %peer.addr, "connection: {e}");
                }
                return true;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = shared.hard_stop.cancelled() => return false,
            _ = look.tick() => if let Some(why) = overstayed(peer, limits) {
                tracing::debug!(peer = %peer.addr, "connection closed: {why}");
                return false;
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

/// Counts who is inside.
#[derive(Debug)]
struct Doors {
    limits: Limits,
    open: Mutex<HashMap<IpAddr, usize>>,
}

struct Pass {
    doors: Arc<Doors>,
    shared: Arc<Shared>,
    ip: IpAddr,
}

impl Doors {
    fn enter(self: &Arc<Self>, ip: IpAddr, shared: &Arc<Shared>) -> Option<Pass> {
        let total = usize::try_from(shared.metrics.connections.get()).unwrap_or(0);
        let mut open = self.open.lock();
        let from_here = open.get(&ip).copied().unwrap_or(0);
        if total >= self.limits.connections || from_here >= self.limits.connections_per_address {
            return None;
        }
        open.insert(ip, from_here + 1);
        shared.metrics.connections.inc();
        Some(Pass { doors: self.clone(), shared: shared.clone(), ip })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
        let mut open = self.doors.open.lock();
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}
