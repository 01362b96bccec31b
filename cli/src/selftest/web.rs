//! One GET over HTTP/1.1 on a connection of its own, bounded in time and bytes.

use crate::exit::Failure;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest answer: a page of 1000 records is below 1 MiB.
const MAX_BODY: usize = 4 << 20;

/// An answer, read whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Gets a URL, with a bearer token where there is one.
pub(super) async fn get(url: &str, token: Option<&str>, limit: Duration) -> Result<Answer, Failure> {
    match tokio::time::timeout(limit, ask(url, token)).await {
        Ok(answer) => answer.map_err(|e| Failure::failed(format!("GET {url}: {e:#}"))),
        Err(_) => Err(Failure::timed_out(format!("GET {url}: no answer within {} s", limit.as_secs()))),
    }
}

async fn ask(url: &str, token: Option<&str>) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse()?;
    anyhow::ensure!(uri.scheme_str() == Some("http"), "only http:// is spoken here");
    let host = uri.host().unwrap_or_default();
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map_or(host, |a| a.as_str());
    let mut request = Request::get(path).header(header::HOST, authority);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the answer's last byte; what it held is read all the same.
        _ = &mut connection => answer.await,
    }
}

/// A duration of a Server-Timing header in milliseconds.
pub(super) fn duration(timing: &str, name: &str) -> Option<f64> {
    let entry = timing.split(',').map(str::trim).find(|entry| entry.split(';').next() == Some(name))?;
    entry.split(';').find_map(|part| part.trim().strip_prefix("dur="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn server_timing_is_read_by_name() {
        let timing = "wait;dur=1.5, start;dur=203.125, run;dur=0.8";
        assert_eq!(duration(timing, "start"), Some(203.125));
        assert_eq!(duration(timing, "run"), Some(0.8));
        assert_eq!(duration(timing, "art"), None);
        assert_eq!(duration("start", "start"), None);
        assert_eq!(duration("start;dur=x", "start"), None);
    }
}
