//! The traffic port: connections are accepted, counted, given deadlines, and ended in order.
//!
//! hyper's own timers do not see a silent client, a drip-fed head and an idle connection as different things; a watch
//! per connection does, by the phase that [`Peer`] keeps (HTTP/1.1) or by its open streams (HTTP/2). It looks at most
//! every [`LOOK`], so a deadline is kept within that.

mod detect;
mod http1;
mod http2;
mod streams;

pub(crate) use streams::Streams;

use crate::{
    shared::Shared,
    wire::{Kind, Peer},
};
use detect::Protocol;
use parking_lot::Mutex;
use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc, time::Duration};
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
    /// Header lines of a request. Any other number than [`Limits::LINES`] costs each call a few microseconds.
    pub header_lines: usize,
    /// Calls at once on one connection of HTTP/2; further streams are refused by the protocol. A stream holds no more
    /// than its head, [`Limits::STREAM_WINDOW`] of its body and [`Limits::SEND_BUFFER`] of its response, 160 KiB in all:
    /// 16 MiB for a connection whose 100 calls all wait with a body or are not read.
    pub http2_streams: u32,
    /// Bytes of a request head on HTTP/2, counted as the protocol does: names, values and 32 for each header. Longer
    /// ones get 431.
    pub http2_head_bytes: u32,
    /// Calls that wait, over all functions; of one function at most half as many, and half of the bytes.
    pub waiting: usize,
    /// Bytes buffered of calls that wait, over all functions: their heads, and of their bodies what was read along with
    /// them (HTTP/1.1) or may be sent ahead ([`Limits::STREAM_WINDOW`] on HTTP/2, less when they are shorter). The default
    /// is 256 MiB: 20,000 waiting calls with 12.8 KiB each, where the first read of a connection takes 2 KiB and of a
    /// later call 8 KiB; of the largest heads or bodies (64 KiB) no more than 4,096 wait.
    pub waiting_bytes: usize,
}

impl Limits {
    /// Body bytes that a stream of HTTP/2 may send ahead of what its instance takes: 64 KiB for each round trip, so 64
    /// MiB/s within a zone (1 ms). A call that waits holds no more of its body than this.
    ///
    /// The window of a connection is that of all its streams together (6.25 MiB for 100): with less, the unread bodies
    /// of calls that wait for one function would stop the uploads to another one.
    pub const STREAM_WINDOW: u32 = 64 * 1024;
    /// Response bytes of a stream that are buffered for a client that does not read: hyper's own default of 400 KiB would
    /// be 40 MiB for a connection.
    pub const SEND_BUFFER: usize = 64 * 1024;
    /// Header lines of a request or a response that are read at no extra cost.
    pub const LINES: usize = 100;

    /// Those of the port on which other activators hand calls over: a request of the largest head has a few more lines by
    /// then (`Forwarded`, `X-Forwarded-*`, `Via`, the trace and ours), and an activator is no client that needs a bound of
    /// its own on its connections.
    pub(crate) fn of_peers(self) -> Self {
        Self {
            header_lines: self.header_lines + 20,
            head_bytes: self.head_bytes + 8 * 1024,
            connections_per_address: usize::MAX,
            ..self
        }
    }
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
            header_lines: Self::LINES,
            http2_streams: 100,
            http2_head_bytes: 32 * 1024,
            waiting: 20_000,
            waiting_bytes: 256 << 20,
        }
    }
}

/// How often a connection's deadlines are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A client that does not read its response is cut off that long after the call's time is over.
pub(crate) const OVERDUE: Duration = Duration::from_secs(1);
/// After a failed accept (too many open files): no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection hears that is not let in.
fn no_entry(reason: &str) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\
         dormouse-reason: {reason}\r\n\r\n"
    )
}

/// Serves until `stop` is cancelled; connections then end with the call that runs on them. `inner`: the clients are other
/// activators.
pub(crate) async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    limits: Limits,
    inner: bool,
    stop: CancellationToken,
) {
    let doors = Arc::new(Doors { limits, open: Mutex::default() });
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
        let pass = match doors.enter(addr.ip(), &shared) {
            Ok(pass) => pass,
            Err(reason) => {
                shared.metrics.refused(None, &reason);
                // As far as it goes without waiting.
                let _ = stream.try_write(no_entry(&reason).as_bytes());
                continue;
            }
        };
        let (shared, stop) = (shared.clone(), stop.clone());
        let tracker = shared.tracker.clone();
        tracker.spawn(async move {
            let _pass = pass;
            let _ = stream.set_nodelay(true);
            let kind = if inner { Kind::Activator } else { Kind::Client };
            let peer = Peer::new(Arc::new(stream), addr, shared.clone(), kind);
            connection(peer, shared, limits, stop).await;
        });
    }
}

/// Serves one connection to its end.
pub(crate) async fn connection(peer: Arc<Peer>, shared: Arc<Shared>, limits: Limits, stop: CancellationToken) {
    let Some((protocol, first)) = detect::protocol(&peer, &shared, &limits, &stop).await else { return };
    let own_end = match protocol {
        Protocol::Http1 => http1::serve(&peer, &shared, &limits, &stop, first).await,
        // In a box: the task of a connection of HTTP/1.1 stays small.
        Protocol::Http2 => Box::pin(http2::serve(&peer, &shared, &limits, &stop, first)).await,
    };
    if own_end {
        // In a box as well: what it reads into would be part of every connection.
        Box::pin(peer.linger()).await;
    }
}

/// Counts who is inside.
#[derive(Debug)]
struct Doors {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

struct Pass {
    doors: Arc<Doors>,
    shared: Arc<Shared>,
    ip: IpAddr,
}

impl Doors {
    /// Lets a connection in, or says by its code why not.
    fn enter(self: &Arc<Self>, ip: IpAddr, shared: &Arc<Shared>) -> Result<Pass, Cow<'static, str>> {
        shared.memory.check().map_err(|refusal| refusal.code)?;
        let mut open = self.open.lock();
        let from_here = open.by_address.get(&ip).copied().unwrap_or(0);
        if open.total >= self.limits.connections || from_here >= self.limits.connections_per_address {
            return Err("Connections".into());
        }
        open.total += 1;
        open.by_address.insert(ip, from_here + 1);
        shared.metrics.connections.inc();
        Ok(Pass { doors: self.clone(), shared: shared.clone(), ip })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
        let mut open = self.doors.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.ip);
            }
        }
    }
}
