//! An HTTP/1.1 client that knows, for every call, whether it was answered, never sent, or neither is known.

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Longest time that one call of a test may take: above any `maxWaitSeconds` + `timeoutSeconds` used by a suite.
pub const MAX_CALL: Duration = Duration::from_secs(400);

/// Longest time to open a connection.
const MAX_CONNECT: Duration = Duration::from_secs(5);

/// Header that carries the caller's own number, so that a call can be found in a function's answer.
pub const NUMBER: HeaderName = HeaderName::from_static("x-test-number");

/// Where calls go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address that is dialled.
    pub addr: SocketAddr,
    /// The Host header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Each call carries a key of its own: see [`key`].
    pub keyed: bool,
}

/// The `Idempotency-Key` of a caller's call of that number, by which its record can be found: records carry its hash.
#[must_use]
pub fn key(number: u64) -> String {
    format!("call-{number}")
}

impl Target {
    /// A target by address, Host header and path.
    pub fn new(addr: SocketAddr, host: impl Into<String>, path: impl Into<String>) -> Self {
        Self { addr, host: host.into(), path: path.into(), keyed: false }
    }

    /// The same place with another path.
    #[must_use]
    pub fn at(&self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self.clone() }
    }

    /// The same place, called with keys.
    #[must_use]
    pub fn keyed(self) -> Self {
        Self { keyed: true, ..self }
    }

    /// A GET without body that carries the caller's number.
    #[must_use]
    pub fn get(&self, number: u64) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&self.host).unwrap_or(HeaderValue::from_static("invalid")));
        headers.insert(NUMBER, HeaderValue::from(number));
        if self.keyed
            && let Ok(key) = HeaderValue::from_str(&key(number))
        {
            headers.insert("idempotency-key", key);
        }
        request
    }

    /// A POST with a body.
    #[must_use]
    pub fn post(&self, number: u64, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = self.get(number);
        *request.method_mut() = Method::POST;
        *request.body_mut() = Full::new(body.into());
        request
    }

    /// One GET on a connection of its own.
    ///
    /// # Errors
    /// When there was no whole answer.
    pub async fn call(&self, number: u64) -> Result<Answer, CallError> {
        self.send(self.get(number)).await
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When there was no whole answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        Connection::open(self.addr).await?.call(request).await
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// From the request's first byte to the answer's last one.
    pub took: Duration,
}

impl Answer {
    /// A header as text; empty when absent or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The id under which the call was recorded; empty when none was given.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.header("dormouse-request-id")
    }

    /// The code of a refusal or platform error; empty for an answer of the function.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.header("dormouse-reason")
    }

    /// Milliseconds of one part of `Server-Timing` (`wait`, `claim`, `start`, `connect`, `run`).
    #[must_use]
    pub fn timing(&self, part: &str) -> Option<f64> {
        let metrics = self.header("server-timing").split(',');
        let mut found = metrics.filter_map(|metric| {
            let mut fields = metric.trim().split(';');
            (fields.next()?.trim() == part).then(|| fields.find_map(|f| f.trim().strip_prefix("dur="))?.parse().ok())?
        });
        found.next()
    }

    /// True when the call waited for an instance to start.
    #[must_use]
    pub fn cold(&self) -> bool {
        ["claim", "start"].into_iter().filter_map(|part| self.timing(part)).any(|ms| ms > 0.0)
    }

    /// The body as text, for messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] {}", self.status, self.reason(), self.text().trim())
    }
}

/// Why a call has no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No byte of it left: it certainly was not carried out.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It left and no whole answer came: it may or may not have been carried out.
    #[error("no whole answer: {0}")]
    Indeterminate(String),
}

/// One kept connection; one call at a time.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Dials.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when nobody accepts.
    pub async fn open(addr: SocketAddr) -> Result<Self, CallError> {
        let not_sent = |e: &dyn fmt::Display| CallError::NotSent(format!("{addr}: {e}"));
        let stream = tokio::time::timeout(MAX_CONNECT, TcpStream::connect(addr)).await;
        let stream = stream.map_err(|e| not_sent(&e))?.map_err(|e| not_sent(&e))?;
        stream.set_nodelay(true).map_err(|e| not_sent(&e))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| not_sent(&e))?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// True while another call can be made on it.
    #[must_use]
    pub fn usable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// One call.
    ///
    /// # Errors
    /// When there was no whole answer.
    pub async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        let started = Instant::now();
        self.sender.ready().await.map_err(|e| CallError::NotSent(e.to_string()))?;
        match tokio::time::timeout(MAX_CALL, self.exchange(request, started)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Indeterminate(format!("no answer within {} s", MAX_CALL.as_secs()))),
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>, started: Instant) -> Result<Answer, CallError> {
        let response = self.sender.try_send_request(request).await.map_err(|mut e| {
            // hyper hands the message back exactly when none of it was written.
            let unsent = e.take_message().is_some();
            let text = e.into_error().to_string();
            if unsent { CallError::NotSent(text) } else { CallError::Indeterminate(text) }
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| CallError::Indeterminate(e.to_string()))?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body, took: started.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_read_by_part() {
        let mut headers = HeaderMap::new();
        headers
            .insert("server-timing", HeaderValue::from_static("wait;dur=1.250, start;dur=230.5, run;dur=3;desc=\"x\""));
        let answer = Answer { status: StatusCode::OK, headers, body: Bytes::new(), took: Duration::ZERO };
        assert_eq!(
            (answer.timing("wait"), answer.timing("start"), answer.timing("run")),
            (Some(1.25), Some(230.5), Some(3.0))
        );
        assert_eq!(answer.timing("db"), None);
        assert!(answer.cold());
    }

    #[tokio::test]
    async fn nobody_listening_is_told_as_not_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let error = Target::new(addr, "a", "/").call(1).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_after_the_request_is_indeterminate() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 16];
            let _ = stream.read(&mut some).await;
        });
        let error = Target::new(addr, "a", "/").call(1).await.unwrap_err();
        assert!(matches!(error, CallError::Indeterminate(_)), "{error}");
    }
}
