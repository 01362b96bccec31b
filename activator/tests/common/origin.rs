//! An instance: a server whose every connection runs a script of the test.

use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Default)]
pub struct Seen {
    /// Heads of requests, as they came.
    pub requests: Mutex<Vec<String>>,
    pub connections: AtomicUsize,
    pub running: AtomicUsize,
    /// Most requests at once.
    pub most: AtomicUsize,
    /// Requests whose body came whole.
    pub whole: AtomicUsize,
    /// Connections that ended within a request.
    pub broken: AtomicUsize,
    /// Connections that ended with a reset.
    pub reset: AtomicUsize,
}

pub struct Origin {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, as a script sees it.
pub struct Line {
    pub stream: TcpStream,
    pub seen: Arc<Seen>,
    buffer: Vec<u8>,
}

impl Origin {
    pub async fn start<F>(script: impl Fn(Line) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub async fn start_at<F>(addr: SocketAddr, script: impl Fn(Line) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let for_task = seen.clone();
        let task = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                for_task.connections.fetch_add(1, SeqCst);
                lines.spawn(script(Line { stream, seen: for_task.clone(), buffer: Vec::new() }));
            }
        });
        Self { addr, seen, task }
    }

    /// Answers every request with its own body, or "hello".
    pub async fn echo() -> Self {
        Self::start(echo).await
    }
}

/// Answers every request on a connection with its own body, or "hello".
pub async fn echo(mut line: Line) {
    while let Some(body) = line.request().await {
        line.begin();
        let body = if body.is_empty() { b"hello".to_vec() } else { body };
        line.answer(&body).await;
        line.end();
    }
}

impl Line {
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let n = self.stream.read(&mut chunk).await.unwrap_or_else(|_| {
            self.seen.reset.fetch_add(1, SeqCst);
            0
        });
        self.buffer.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// The head of the next request; `None` at the end of the connection.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer.drain(..at + 4).collect()).unwrap();
                self.seen.requests.lock().push(head.clone());
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The body of the next request, read whole; `None` at the end of the connection, be it within a body.
    pub async fn request(&mut self) -> Option<Vec<u8>> {
        let head = self.head().await?.to_lowercase();
        let body = self.body(&head).await;
        let count = if body.is_some() { &self.seen.whole } else { &self.seen.broken };
        count.fetch_add(1, SeqCst);
        body
    }

    async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if let Some(at) = head.find("content-length: ") {
            let len: usize = head[at + 16..].split("\r\n").next().unwrap().parse().unwrap();
            while self.buffer.len() < len {
                if !self.more().await {
                    return None;
                }
            }
            return Some(self.buffer.drain(..len).collect());
        }
        if !head.contains("transfer-encoding: chunked") {
            return Some(Vec::new());
        }
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                return Some(body);
            }
            body.extend(chunk);
        }
    }

    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let len = usize::from_str_radix(std::str::from_utf8(&self.buffer[..at]).unwrap(), 16).unwrap();
                if len == 0 {
                    // Trailers may stand between the last chunk and the end.
                    if let Some(end) = self.buffer[at..].windows(4).position(|w| w == b"\r\n\r\n") {
                        self.buffer.drain(..at + end + 4);
                        return Some(Vec::new());
                    }
                } else if self.buffer.len() >= at + 2 + len + 2 {
                    let chunk = self.buffer[at + 2..at + 2 + len].to_vec();
                    self.buffer.drain(..at + 2 + len + 2);
                    return Some(chunk);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub async fn answer(&mut self, body: &[u8]) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send([head.as_bytes(), body].concat()).await;
    }

    pub fn begin(&self) {
        let now = self.seen.running.fetch_add(1, SeqCst) + 1;
        self.seen.most.fetch_max(now, SeqCst);
    }

    pub fn end(&self) {
        self.seen.running.fetch_sub(1, SeqCst);
    }
}
