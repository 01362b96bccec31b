//! A load generator that costs little: prebuilt bytes out, whole answers in, over plain sockets.
//!
//! [`crate::load`] knows everything about every call; on a machine with two cores such a client is the limit of what it
//! measures. This one knows a call's status and time. Any call without a whole answer ends the run with an error.

use crate::quantiles::Times;
use anyhow::{Context, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes that one read takes.
const READ: usize = 64 << 10;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Longest time until a call has its whole answer.
const MAX_CALL: Duration = Duration::from_secs(60);

/// What a thread may be late for a call by itself: a wake-up on a busy core. Less is not counted as part of the call's
/// time; more is a stall of this machine or of the call before, and is.
const LATE: Duration = Duration::from_micros(200);

/// Where calls go, and the bytes of each.
#[derive(Clone, Debug)]
pub struct Lean {
    /// The address that is dialled.
    pub addr: SocketAddr,
    /// A whole request.
    pub request: Bytes,
}

impl Lean {
    /// A GET.
    #[must_use]
    pub fn get(addr: SocketAddr, host: &str, path: &str) -> Self {
        Self { addr, request: head("GET", host, path, None).into() }
    }

    /// A POST with a body of that many bytes.
    #[must_use]
    pub fn post(addr: SocketAddr, host: &str, path: &str, body: usize) -> Self {
        let mut request = head("POST", host, path, Some(body)).into_bytes();
        request.resize(request.len() + body, b'x');
        Self { addr, request: request.into() }
    }
}

/// The head of a request, with the headers that any client sends.
#[must_use]
pub fn head(method: &str, host: &str, path: &str, body: Option<usize>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n");
    if let Some(body) = body {
        let _ = write!(head, "content-length: {body}\r\n");
    }
    head + "\r\n"
}

/// How the calls of a run went.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Times of all calls.
    pub times: Times,
    /// How often each status came.
    pub statuses: BTreeMap<u16, u64>,
    /// From the first call to the last end.
    pub lasted: Duration,
}

impl Sample {
    /// Calls made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Fails unless every call, and at least one, had this status.
    ///
    /// # Errors
    /// What came instead.
    pub fn all(&self, status: u16) -> Result<()> {
        let wanted = self.statuses.get(&status).copied().unwrap_or(0);
        anyhow::ensure!(wanted > 0 && wanted == self.calls(), "not all {status}: {:?}", self.statuses);
        Ok(())
    }

    /// Adds another one that ran beside it or after it.
    pub fn merge(&mut self, other: &Self) {
        self.times.merge(&other.times);
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        self.lasted = self.lasted.max(other.lasted);
    }

    fn add(&mut self, status: u16, took: Duration) {
        self.times.record(took);
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// Connections that are open, each with one call behind it: what is between them and the function is open as well.
#[derive(Debug)]
pub struct Lines(Vec<Line>);

impl Lines {
    /// Opens `n` connections and makes one call on each; they take the calls of `lean` by turns.
    ///
    /// # Errors
    /// When one is not answered.
    pub async fn open(lean: &[Lean], n: usize) -> Result<Self> {
        let mut lines = Vec::with_capacity(n);
        for lean in lean.iter().cycle().take(n) {
            let stream = TcpStream::connect(lean.addr).await.with_context(|| format!("connecting to {}", lean.addr))?;
            stream.set_nodelay(true)?;
            let mut line = Line { stream, request: lean.request.clone(), buffer: vec![0; READ] };
            tokio::time::timeout(MAX_CALL, line.call()).await.context("no answer")??;
            lines.push(line);
        }
        Ok(Self(lines))
    }

    /// A closed loop: each connection makes one call after the other for so long.
    ///
    /// # Errors
    /// When a call has no whole answer.
    pub async fn run(&mut self, length: Duration) -> Result<Sample> {
        let mut loops = JoinSet::new();
        let began = Instant::now();
        for mut line in self.0.drain(..) {
            loops.spawn(async move {
                let mut sample = Sample::default();
                let mut now = Instant::now();
                while now.duration_since(began) < length {
                    let status = line.call().await?;
                    let ended = Instant::now();
                    sample.add(status, ended - now);
                    now = ended;
                }
                sample.lasted = began.elapsed();
                anyhow::Ok((line, sample))
            });
        }
        let mut all = Sample::default();
        let ended = async {
            while let Some(done) = loops.join_next().await {
                let (line, sample) = done??;
                all.merge(&sample);
                self.0.push(line);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(length + MAX_CALL, ended).await.context("a call was never answered")??;
        Ok(all)
    }
}

/// One call on a connection of its own, which must be answered with 200: whether what is behind an address is up.
///
/// # Errors
/// What came instead.
pub async fn answers(lean: &Lean) -> Result<()> {
    let status = begin(lean, MAX_CALL).await?.await?;
    anyhow::ensure!(status == 200, "{} answers {status}", lean.addr);
    Ok(())
}

/// Opens a connection for one call, whose answer may take up to `limit`: for thousands that wait at once. Answers when
/// it is connected; the call goes on in the future that it gives.
///
/// # Errors
/// When the connection is refused.
pub async fn begin(lean: &Lean, limit: Duration) -> Result<impl Future<Output = Result<u16>> + use<>> {
    let stream = TcpStream::connect(lean.addr).await.with_context(|| format!("connecting to {}", lean.addr))?;
    stream.set_nodelay(true)?;
    // Small: an answer that is waited for by thousands has a small head.
    let mut line = Line { stream, request: lean.request.clone(), buffer: vec![0; 2048] };
    Ok(async move { tokio::time::timeout(limit, line.call()).await.context("no answer")? })
}

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    request: Bytes,
    buffer: Vec<u8>,
}

impl Line {
    /// One call: its status.
    async fn call(&mut self) -> Result<u16> {
        self.stream.write_all(&self.request).await?;
        let mut have = 0;
        let (status, mut rest) = loop {
            let n = self.stream.read(self.buffer.get_mut(have..).context("the head is too long")?).await?;
            anyhow::ensure!(n > 0, "the connection ended before the answer");
            have += n;
            if let Some(found) = answered(self.buffer.get(..have).unwrap_or_default())? {
                break found;
            }
        };
        while rest > 0 {
            let n = self.stream.read(&mut self.buffer).await?;
            anyhow::ensure!(n > 0, "the connection ended within the answer");
            rest = rest.checked_sub(n).context("more came than was said")?;
        }
        Ok(status)
    }
}

/// Status, and how many bytes of the body are still to come; `None` while the head is not whole.
fn answered(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
    let status = answer.code.context("no status")?;
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length: usize = std::str::from_utf8(length.context("an answer without content-length")?.value)?.parse()?;
    let rest = (head + length).checked_sub(bytes.len()).context("more came than was said")?;
    Ok(Some((status, rest)))
}

/// An open loop: `rate` calls per second for so long, by `threads` connections with a thread each (blocking calls wake
/// up within microseconds of their time, timers of the runtime within milliseconds). Times count from when a call was
/// due, but see [`LATE`].
///
/// # Errors
/// When a call has no whole answer.
pub fn paced(lean: &[Lean], rate: u32, length: Duration, threads: u32) -> Result<Sample> {
    let every = Duration::from_secs(1) / rate.max(1) * threads;
    let began = Instant::now() + Duration::from_millis(20);
    let lean: Arc<[Lean]> = lean.into();
    let workers: Vec<_> = (0..threads)
        .map(|n| {
            let lean = lean.clone();
            let first = began + every / threads * n;
            std::thread::spawn(move || pace(&lean, n, first, every, began + length))
        })
        .collect();
    let mut all = Sample::default();
    for worker in workers {
        all.merge(&worker.join().map_err(|_| anyhow::anyhow!("a thread of the load failed"))??);
    }
    all.lasted = began.elapsed();
    Ok(all)
}

fn pace(lean: &[Lean], number: u32, first: Instant, every: Duration, end: Instant) -> Result<Sample> {
    // A timer of this thread is late by a microsecond, not by the 50 that are usual.
    nix::sys::prctl::set_timerslack(1)?;
    let mut sample = Sample::default();
    let mut buffer = vec![0; READ];
    let lean = lean.get(number as usize % lean.len().max(1)).context("no call")?;
    let mut stream = std::net::TcpStream::connect(lean.addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(MAX_CALL))?;
    let mut due = first;
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = if due.elapsed() < LATE { Instant::now() } else { due };
        let status = blocking(&mut stream, &lean.request, &mut buffer)?;
        sample.add(status, began.elapsed());
        due += every;
    }
    Ok(sample)
}

fn blocking(stream: &mut std::net::TcpStream, request: &[u8], buffer: &mut [u8]) -> Result<u16> {
    stream.write_all(request)?;
    let mut have = 0;
    let (status, mut rest) = loop {
        let n = stream.read(buffer.get_mut(have..).context("the head is too long")?)?;
        anyhow::ensure!(n > 0, "the connection ended before the answer");
        have += n;
        if let Some(found) = answered(buffer.get(..have).unwrap_or_default())? {
            break found;
        }
    };
    while rest > 0 {
        let n = stream.read(buffer)?;
        anyhow::ensure!(n > 0, "the connection ended within the answer");
        rest = rest.checked_sub(n).context("more came than was said")?;
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Answers every request of `head` bytes with a body that comes in two writes; counts them.
    async fn server(request: usize, count: Arc<AtomicU64>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; request];
                    while stream.read_exact(&mut buffer).await.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await;
                        tokio::task::yield_now().await;
                        let _ = stream.write_all(b"llo").await;
                    }
                });
            }
        });
        addr
    }

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let whole = b"HTTP/1.1 429 Too Many\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(answered(&whole[..20]).unwrap(), None);
        assert_eq!(answered(&whole[..whole.len() - 2]).unwrap(), Some((429, 2)));
        assert_eq!(answered(whole).unwrap(), Some((429, 0)));
        for bad in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", b"SSH-2.0\r\n"]
        {
            assert!(answered(bad).is_err());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_loops_count_what_the_server_saw() {
        let count = Arc::new(AtomicU64::new(0));
        let lean = Lean::post("127.0.0.1:0".parse().unwrap(), "a", "/", 10);
        let addr = server(lean.request.len(), count.clone()).await;
        let lean = [Lean { addr, ..lean }];
        answers(&lean[0]).await.unwrap();
        let mut lines = Lines::open(&lean, 3).await.unwrap();
        let sample = lines.run(Duration::from_millis(50)).await.unwrap();
        sample.all(200).unwrap();
        assert_eq!(sample.calls() + 4, count.swap(0, Ordering::Relaxed));
        let paced = tokio::task::spawn_blocking(move || paced(&lean, 1000, Duration::from_millis(100), 4));
        let sample = paced.await.unwrap().unwrap();
        sample.all(200).unwrap();
        assert_eq!((sample.calls(), count.load(Ordering::Relaxed)), (100, 100));
    }
}
