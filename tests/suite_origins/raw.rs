//! A client that sends exactly the bytes it is told to, and says exactly what came back.

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for anything that must happen; never a measure. Starts of real servers on a busy machine are within it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(LIMIT, future).await.with_context(|| format!("never happened: {what}"))
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// The values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The first value of a header; empty without one.
    pub(crate) fn one(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }
}

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: u64,
    /// Every byte is the one that [`block`], again and again, has there.
    pub(crate) patterned: bool,
    /// The first 64 KiB of it.
    pub(crate) start: Vec<u8>,
    /// Data chunks, if it came in chunks.
    pub(crate) chunks: usize,
    /// Trailers, if it came in chunks.
    pub(crate) trailers: Vec<(String, String)>,
    /// False when the transfer broke off.
    pub(crate) whole: bool,
}

impl Body {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }
}

/// What of a body is kept as it is.
const KEPT: usize = 64 << 10;

impl Raw {
    pub(crate) async fn open(addr: SocketAddr) -> Result<Self> {
        let stream = within("a connection", TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(within("the request is taken", self.stream.write_all(bytes.as_ref())).await??)
    }

    /// Reads more; false at the end of the stream or when it breaks.
    async fn more(&mut self) -> Result<bool> {
        self.buffer.reserve(KEPT);
        Ok(within("more bytes", self.stream.read_buf(&mut self.buffer)).await?.is_ok_and(|n| n > 0))
    }

    /// Reads until `n` bytes of what follows are there.
    pub(crate) async fn has(&mut self, n: usize) -> Result<()> {
        while self.buffer.len() < n {
            ensure!(self.more().await?, "the stream ends after {} bytes", self.buffer.len());
        }
        Ok(())
    }

    /// The next line without its end; `None` when the stream ends within it.
    async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Ok(Some(line[..at].iter().map(|&b| char::from(b)).collect()));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Lines up to an empty one, as headers.
    async fn fields(&mut self) -> Result<Option<Vec<(String, String)>>> {
        let mut fields = Vec::new();
        while let Some(line) = self.line().await? {
            if line.is_empty() {
                return Ok(Some(fields));
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            fields.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Ok(None)
    }

    /// The head of a response, interim ones included.
    pub(crate) async fn any_head(&mut self) -> Result<Head> {
        let line = self.line().await?.with_context(|| format!("closed before a response: {:?}", self.buffer))?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.with_context(|| format!("no status line: {line:?}"))?;
        Ok(Head { status, headers: self.fields().await?.context("closed within a head")? })
    }

    /// The head of the final response.
    pub(crate) async fn head(&mut self) -> Result<Head> {
        loop {
            let head = self.any_head().await?;
            if head.status != 100 {
                return Ok(head);
            }
        }
    }

    /// The body that belongs to a head; `bodiless` when the request was one whose response has none.
    pub(crate) async fn body(&mut self, head: &Head, bodiless: bool) -> Result<Body> {
        let mut taken = Taken::new();
        let (length, coded) = (head.one("content-length"), head.one("transfer-encoding"));
        if bodiless || matches!(head.status, 204 | 304) {
            return Ok(taken.end(true, Vec::new()));
        }
        if coded == "chunked" {
            while let Some(chunk) = self.chunk().await? {
                if chunk.is_empty() {
                    let trailers = self.fields().await?;
                    return Ok(taken.end(trailers.is_some(), trailers.unwrap_or_default()));
                }
                taken.chunks += 1;
                taken.add(&chunk);
            }
            return Ok(taken.end(false, Vec::new()));
        }
        let mut left: usize = length.parse().with_context(|| format!("a body without an end: {head:?}"))?;
        while left > 0 {
            if self.buffer.is_empty() && !self.more().await? {
                return Ok(taken.end(false, Vec::new()));
            }
            let some = self.buffer.split_to(left.min(self.buffer.len()));
            left -= some.len();
            taken.add(&some);
        }
        Ok(taken.end(true, Vec::new()))
    }

    /// The next chunk; empty for the last one, whose trailers are still to be read; `None` when the transfer broke off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
        let size = size.with_context(|| format!("no chunk size: {line:?}"))?;
        if size == 0 {
            return Ok(Some(Bytes::new()));
        }
        while self.buffer.len() < size + 2 {
            if !self.more().await? {
                return Ok(None);
            }
        }
        let chunk = self.buffer.split_to(size).freeze();
        let end = self.buffer.split_to(2);
        ensure!(&end[..] == b"\r\n", "a chunk ends with {end:?}");
        Ok(Some(chunk))
    }

    /// Sends a request and reads its response whole.
    pub(crate) async fn call(&mut self, request: impl AsRef<[u8]>) -> Result<(Head, Body)> {
        self.send(request.as_ref()).await?;
        let head = self.head().await?;
        let body = self.body(&head, request.as_ref().starts_with(b"HEAD ")).await?;
        Ok((head, body))
    }
}

struct Taken {
    bytes: u64,
    block: Vec<u8>,
    patterned: bool,
    start: Vec<u8>,
    chunks: usize,
}

impl Taken {
    fn new() -> Self {
        Self { bytes: 0, block: block(), patterned: true, start: Vec::new(), chunks: 0 }
    }

    fn add(&mut self, mut some: &[u8]) {
        self.start.extend(some.iter().take(KEPT - self.start.len()));
        while !some.is_empty() {
            let at = usize::try_from(self.bytes % KEPT as u64).unwrap_or_default();
            let (now, later) = some.split_at(some.len().min(KEPT - at));
            self.patterned &= self.block[at..].starts_with(now);
            self.bytes += now.len() as u64;
            some = later;
        }
    }

    fn end(self, whole: bool, trailers: Vec<(String, String)>) -> Body {
        let Self { bytes, patterned, start, chunks, .. } = self;
        Body { bytes, patterned, start, chunks, trailers, whole }
    }
}

/// The sha256 of bytes, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What every origin sends for `down`: each byte says where it stands in its 64 KiB.
pub(crate) fn block() -> Vec<u8> {
    (0..KEPT).map(|i| u8::try_from((i * 31 + (i >> 8)) & 255).unwrap_or_default()).collect()
}
