//! A client that sends exactly the bytes it is told to.

use super::within;
use std::{collections::HashMap, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// False when the transfer broke off.
    pub whole: bool,
}

impl Answer {
    pub fn reason(&self) -> Option<&str> {
        self.headers.get("dormouse-reason").map(String::as_str)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(addr)).await.unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads more; false at the end of the stream or when it breaks.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let n = within("bytes", self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// True when nothing has come that was not taken. Proves something only while whatever could come is held up.
    pub fn is_silent(&self) -> bool {
        let would_block = |e: std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
        self.buffer.is_empty() && self.stream.try_read(&mut [0]).is_err_and(would_block)
    }

    /// True when the other side has closed and nothing is left to read.
    pub async fn is_closed(&mut self) -> bool {
        while self.more().await {}
        self.buffer.is_empty()
    }

    /// The next bytes.
    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.more().await, "closed after {so_far:?}");
        }
        self.buffer.drain(..len).collect()
    }

    /// Reads to the end; true when the other side has ended in order.
    pub async fn is_closed_after_rest(&mut self) -> bool {
        within("the end", tokio::io::copy(&mut self.stream, &mut tokio::io::sink())).await.is_ok()
    }

    pub async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
            assert!(self.more().await, "closed before a head: {so_far:?}");
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
        Answer { status, headers, body: Vec::new(), whole: false }
    }

    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        self.body(&mut answer).await;
        answer
    }

    pub async fn body(&mut self, answer: &mut Answer) {
        let bodiless = answer.status == 204 || answer.status == 304;
        if let Some(len) = answer.headers.get("content-length").map(|l| l.parse::<usize>().unwrap()) {
            while self.buffer.len() < len && self.more().await {}
            answer.whole = self.buffer.len() >= len;
            answer.body = self.buffer.drain(..len.min(self.buffer.len())).collect();
        } else if answer.headers.contains_key("transfer-encoding") {
            answer.whole = loop {
                match self.chunk().await {
                    Some(chunk) if chunk.is_empty() => break true,
                    Some(chunk) => answer.body.extend(chunk),
                    None => break false,
                }
            };
        } else {
            answer.whole = bodiless;
        }
    }

    /// The next chunk; empty for the last one; `None` when the transfer broke off.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let len = usize::from_str_radix(std::str::from_utf8(&self.buffer[..at]).unwrap(), 16).unwrap();
                if self.buffer.len() >= at + 2 + len + 2 {
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
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: hello.ns.example.com\r\n\r\n")
}

pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: hello.ns.example.com\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
