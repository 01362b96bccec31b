//! Other activators: which there are, and the connections over which calls are handed to them.
//!
//! One that may run none of a function's calls hands them to one that may: one hop more, never two. What goes over is
//! the request as the instance is to get it, the function's uid and the shared token in headers of our own; the other
//! side dispatches, records, and keeps every rule about the caller, who is us.

use crate::{answer::Refusal, body::SentBody, clock::Clock, server::Limits};
use dormouse_daemon::Token;
use dormouse_proto::v1;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpStream, task::AbortHandle};

/// Carries the shared token.
const TOKEN: HeaderName = HeaderName::from_static("dormouse-peer");
/// Names the function by its uid.
const FUNCTION: HeaderName = HeaderName::from_static("dormouse-function");
/// The call ends with its caller: see [`crate::event::Event::ends`].
const ENDS: HeaderName = HeaderName::from_static("dormouse-ends");

/// A peer that does not answer a connect for so long is passed over; the network between activators is one hop.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For so long after that it is not tried again: a waiting call pays for a lost peer once.
const DOWN: Duration = Duration::from_secs(1);
/// How long a connection may idle: less than the least that the other side can be told to keep one (1 s) is not worth
/// having, and usually it keeps them 75 s.
const IDLE: Duration = Duration::from_millis(900);
/// Most idle connections to one peer: 64 x ~16 KiB of buffers = 1 MiB.
const MAX_IDLE: usize = 64;
/// Most bytes of a response head, and what is buffered of a body in each direction.
const MAX_BUFFER: usize = 128 * 1024;
/// Most header lines of a response: those of an instance ([`Limits::LINES`]) and ours.
const MAX_HEADERS: usize = Limits::LINES + 20;

/// All peers.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Our own id.
    me: u64,
    token: Token,
    /// As a header shows it.
    shown: HeaderValue,
    /// Where we take calls over; empty: nowhere.
    address: String,
    links: RwLock<BTreeMap<u64, Arc<Link>>>,
}

impl Peers {
    /// The peers of one that has this token; `None` when no header could carry it.
    pub(crate) fn new(me: u64, token: Token, address: String) -> Option<Self> {
        let mut shown = HeaderValue::from_str(token.as_str()).ok()?;
        shown.set_sensitive(true);
        Some(Self { me, token, shown, address, links: RwLock::default() })
    }

    pub(crate) fn me(&self) -> u64 {
        self.me
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Acts by what the controller says now; connections to a peer that is as before stay.
    pub(crate) fn update(&self, told: &[v1::Peer]) {
        let mut links = BTreeMap::new();
        let mut known = self.links.write();
        for peer in told.iter().filter(|p| p.activator != self.me) {
            let Ok(addr) = peer.address.parse() else {
                tracing::warn!(peer = peer.name, address = peer.address, "not an address");
                continue;
            };
            let link = known.remove(&peer.activator).filter(|link| link.addr == addr);
            links.insert(peer.activator, link.unwrap_or_else(|| Arc::new(Link::new(addr))));
        }
        *known = links;
    }

    /// The peers of a list that may be tried now, beginning with another one for each call.
    pub(crate) fn of(&self, holders: &[u64], call: u64, clock: Clock) -> Vec<Arc<Link>> {
        let links = self.links.read();
        let now = clock.now_ms();
        let mut found: Vec<_> =
            holders.iter().filter_map(|h| links.get(h)).filter(|link| link.down_until.load(Relaxed) <= now).collect();
        if !found.is_empty() {
            let first = usize::try_from(call).unwrap_or(0) % found.len();
            found.rotate_left(first);
        }
        found.into_iter().cloned().collect()
    }

    /// Puts on what makes a request a handed-over one, and whether its call ends with its caller.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, uid: &str, ends: bool) -> Option<()> {
        headers.insert(FUNCTION, HeaderValue::from_str(uid).ok()?);
        headers.insert(TOKEN, self.shown.clone());
        if ends {
            headers.insert(ENDS, HeaderValue::from_static("1"));
        }
        Some(())
    }

    /// Takes it off again.
    pub(crate) fn unsign(headers: &mut HeaderMap) {
        for name in [FUNCTION, TOKEN, ENDS] {
            headers.remove(name);
        }
    }

    /// Whether the call of a handed-over request ends with its caller.
    pub(crate) fn ends(headers: &HeaderMap) -> bool {
        headers.contains_key(ENDS)
    }

    /// The uid that a handed-over request names, if it carries the token.
    pub(crate) fn open<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
        if !headers.get(&TOKEN).is_some_and(|shown| self.token.is(shown.as_bytes())) {
            return Err(Refusal::no_peer());
        }
        headers.get(&FUNCTION).and_then(|uid| uid.to_str().ok()).ok_or_else(Refusal::no_peer)
    }
}

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    addr: SocketAddr,
    idle: Mutex<Vec<Idle>>,
    /// Not to be tried before, in milliseconds of the clock.
    down_until: AtomicU64,
}

#[derive(Debug)]
struct Idle {
    line: Line,
    until: Duration,
}

/// A connection to a peer. Dropping it ends the connection, by which the peer sees that the caller left.
#[derive(Debug)]
pub(crate) struct Line {
    sender: SendRequest<SentBody>,
    driver: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a peer did not answer.
pub(crate) enum Lost {
    /// No byte of the call left us.
    NotSent(Box<Request<SentBody>>),
    /// It may have taken the call.
    Sent,
}

impl Link {
    fn new(addr: SocketAddr) -> Self {
        Self { addr, idle: Mutex::default(), down_until: AtomicU64::new(0) }
    }

    /// Sends a call; the head of the answer and the connection on which its body comes.
    pub(crate) async fn send(
        &self,
        mut request: Request<SentBody>,
        clock: Clock,
    ) -> Result<(Response<Incoming>, Line), Lost> {
        loop {
            let pooled = self.take(clock.now());
            let was_pooled = pooled.is_some();
            let mut line = match pooled {
                Some(line) => line,
                None => match self.connect().await {
                    Ok(line) => line,
                    Err(e) => {
                        tracing::debug!(peer = %self.addr, "not reached: {e}");
                        self.down_until.store(clock.now_ms() + DOWN.as_millis() as u64, Relaxed);
                        return Err(Lost::NotSent(Box::new(request)));
                    }
                },
            };
            match line.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, line)),
                Err(mut error) => match error.take_message() {
                    // The connection had ended meanwhile: the next one is tried, in the end a new one.
                    Some(unsent) if was_pooled => request = unsent,
                    Some(unsent) => return Err(Lost::NotSent(Box::new(unsent))),
                    None => {
                        tracing::debug!(peer = %self.addr, "broke off: {}", error.error());
                        return Err(Lost::Sent);
                    }
                },
            }
        }
    }

    async fn connect(&self) -> io::Result<Line> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.addr)).await??;
        stream.set_nodelay(true)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BUFFER).max_headers(MAX_HEADERS);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // Its end is told to whoever uses it.
            let _ = connection.await;
        })
        .abort_handle();
        let ready = sender.ready().await;
        let line = Line { sender, driver };
        ready.map(|()| line).map_err(io::Error::other)
    }

    fn take(&self, now: Duration) -> Option<Line> {
        loop {
            let idle = self.idle.lock().pop()?;
            if idle.until > now && idle.line.sender.is_ready() {
                return Some(idle.line);
            }
        }
    }

    /// Keeps a connection whose call is over.
    pub(crate) fn keep(&self, line: Line, clock: Clock) {
        let now = clock.now();
        let mut idle = self.idle.lock();
        idle.retain(|i| i.until > now);
        if idle.len() < MAX_IDLE && !line.sender.is_closed() {
            idle.push(Idle { line, until: now + IDLE });
        }
    }
}

/// Where others reach a port: what was said, or the port's own address.
pub(crate) fn advertised(bound: SocketAddr, said: Option<&str>) -> Option<String> {
    let Some(said) = said else { return (!bound.ip().is_unspecified()).then(|| bound.to_string()) };
    let whole: Option<SocketAddr> = said.parse().ok();
    let ip = || said.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, bound.port()));
    whole.or_else(ip).map(|addr| addr.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let peers = Peers::new(1, Token::new("secret").unwrap(), String::new()).unwrap();
        let with = |token: &'static str| {
            let mut headers = HeaderMap::new();
            peers.sign(&mut headers, "uid-f", false).unwrap();
            headers.insert(TOKEN, HeaderValue::from_static(token));
            peers.open(&headers).map(str::to_owned)
        };
        assert_eq!(with("secret").as_deref(), Ok("uid-f"));
        for other in ["", "secre", "secrets", "Secret"] {
            assert_eq!(with(other), Err(Refusal::no_peer()), "{other:?}");
        }
        assert!(peers.open(&HeaderMap::new()).is_err());
    }

    #[test]
    fn an_address_is_the_one_said_or_the_ports_own() {
        let of = |bound: &str, said| advertised(bound.parse().unwrap(), said);
        assert_eq!(of("10.0.0.1:8082", None).as_deref(), Some("10.0.0.1:8082"));
        assert_eq!(of("0.0.0.0:8082", None), None, "nobody can dial it");
        assert_eq!(of("0.0.0.0:8082", Some("10.0.0.2")).as_deref(), Some("10.0.0.2:8082"));
        assert_eq!(of("[::]:8082", Some("fd00::1")).as_deref(), Some("[fd00::1]:8082"));
        assert_eq!(of("0.0.0.0:8082", Some("10.0.0.2:9")).as_deref(), Some("10.0.0.2:9"));
        assert_eq!(of("0.0.0.0:8082", Some("a.b")), None);
    }

    #[test]
    fn peers_are_tried_in_turn_and_never_ourselves() {
        let peers = Peers::new(1, Token::new("t").unwrap(), String::new()).unwrap();
        let told = |activator, address: &str| v1::Peer { activator, name: "p".into(), address: address.into() };
        peers.update(&[told(1, "10.0.0.1:1"), told(2, "10.0.0.2:1"), told(3, "10.0.0.3:1"), told(4, "nowhere")]);
        let clock = Clock::start();
        let first = |call| peers.of(&[1, 2, 3, 4], call, clock).iter().map(|l| l.addr.to_string()).collect::<Vec<_>>();
        assert_eq!(first(0), ["10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(first(1), ["10.0.0.3:1", "10.0.0.2:1"]);
        let kept = peers.links.read()[&2].clone();
        peers.update(&[told(2, "10.0.0.2:1")]);
        assert!(Arc::ptr_eq(&kept, &peers.links.read()[&2]), "its connections stay");
        assert_eq!(first(0).len(), 1);
    }
}
