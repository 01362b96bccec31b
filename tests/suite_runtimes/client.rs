//! A client that sends the bytes that it is told to, and says what came back.

use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for anything that must happen; never a measure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(LIMIT, future).await.with_context(|| format!("never happened: {what}"))
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// False when the transfer broke off.
    pub(crate) whole: bool,
}

impl Reply {
    /// The values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The first value of a header; empty without one.
    pub(crate) fn one(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    /// Fails unless it is this error of a runtime.
    pub(crate) fn is(&self, status: u16, code: &str) -> Result<()> {
        ensure!(
            self.status == status && self.json()?["error"] == code,
            "not {status} {code}: {self:?} {}",
            self.text()
        );
        Ok(())
    }
}

impl Client {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = within("a connection", TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        within("a write", self.stream.write_all(bytes.as_ref())).await??;
        Ok(())
    }

    /// Sends a request whole and reads what comes back.
    pub(crate) async fn call(&mut self, request: &Request<'_>) -> Result<Reply> {
        self.send(request.bytes()).await?;
        self.reply(request.method == "HEAD").await
    }

    /// False at the end of what is sent.
    async fn more(&mut self) -> Result<bool> {
        let read = within("bytes of a reply", self.stream.read_buf(&mut self.buffer)).await?;
        // Whoever ends at once resets: bytes that came before are read before.
        Ok(read.is_ok_and(|n| n > 0))
    }

    /// Waits until something has come.
    pub(crate) async fn begun(&mut self) -> Result<()> {
        ensure!(self.more().await?, "the connection has ended");
        Ok(())
    }

    /// True when the peer has closed the connection and sent nothing before.
    pub(crate) async fn is_closed(&mut self) -> Result<bool> {
        Ok(self.buffer.is_empty() && !self.more().await?)
    }

    /// Reads a reply.
    pub(crate) async fn reply(&mut self, to_head: bool) -> Result<Reply> {
        let mut reply = loop {
            match self.take_head()? {
                Some(reply) if reply.status >= 200 => break reply,
                Some(_) => {}
                None => ensure!(self.more().await?, "no reply: {:?}", String::from_utf8_lossy(&self.buffer)),
            }
        };
        if to_head || [204, 304].contains(&reply.status) {
            return Ok(reply);
        }
        match (reply.all("transfer-encoding").as_slice(), reply.all("content-length").as_slice()) {
            (["chunked"], []) => while self.chunk(&mut reply).await? {},
            ([], [length]) => reply.whole = self.take(length.parse()?, &mut reply.body).await?,
            ([], []) if reply.one("connection") == "close" => {
                while self.more().await? {}
                reply.body.append(&mut self.buffer);
            }
            framing => bail!("the body has no clear end: {framing:?}"),
        }
        Ok(reply)
    }

    fn take_head(&mut self) -> Result<Option<Reply>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(bytes) = head.parse(&self.buffer)? else { return Ok(None) };
        let header = |h: &httparse::Header<'_>| {
            let value = h.value.iter().map(|&b| char::from(b)).collect();
            (h.name.to_ascii_lowercase(), value)
        };
        let (status, headers) = (head.code.context("no status")?, head.headers.iter().map(header).collect());
        self.buffer.drain(..bytes);
        Ok(Some(Reply { status, headers, body: Vec::new(), whole: true }))
    }

    /// Moves that many bytes; false when the peer ends before.
    async fn take(&mut self, bytes: usize, into: &mut Vec<u8>) -> Result<bool> {
        while self.buffer.len() < bytes {
            if !self.more().await? {
                into.append(&mut self.buffer);
                return Ok(false);
            }
        }
        into.extend(self.buffer.drain(..bytes));
        Ok(true)
    }

    /// Reads a chunk; false after the last one, or where the transfer breaks off.
    async fn chunk(&mut self, reply: &mut Reply) -> Result<bool> {
        let (line, size) = loop {
            match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete(found)) => break found,
                Ok(httparse::Status::Partial) => {}
                Err(_) => bail!("no chunk: {:?}", String::from_utf8_lossy(&self.buffer)),
            }
            if !self.more().await? {
                reply.whole = false;
                return Ok(false);
            }
        };
        self.buffer.drain(..line);
        reply.whole = self.take(usize::try_from(size)?, &mut reply.body).await?;
        let mut end = Vec::new();
        reply.whole = reply.whole && self.take(2, &mut end).await?;
        Ok(reply.whole && size > 0)
    }
}

/// Who is asked, if nobody is named.
pub(crate) const HOST: &str = "a.b";

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) host: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) body: Vec<u8>,
    pub(crate) chunks: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn get(path: &'a str) -> Self {
        Self { host: HOST, method: "GET", path, headers: Vec::new(), body: Vec::new(), chunks: false }
    }

    pub(crate) fn post(path: &'a str, body: Vec<u8>) -> Self {
        Self { method: "POST", body, ..Self::get(path) }
    }

    pub(crate) fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// As it is sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.host);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.chunks {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            let pieces = self.body.chunks(50_000);
            let chunks = pieces.flat_map(|p| [format!("{:x}\r\n", p.len()).as_bytes(), p, b"\r\n"].concat());
            return head.into_bytes().into_iter().chain(chunks).chain(*b"0\r\nx-trailer: y\r\n\r\n").collect();
        }
        if !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}
