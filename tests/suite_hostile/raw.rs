//! A client that sends exactly the bytes it is told to, and hears everything that comes back.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for an answer that must come.
const LIMIT: Duration = Duration::from_secs(20);
/// So long nothing more comes: nothing will.
const QUIET: Duration = Duration::from_millis(400);

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    /// The other side has closed, or broken the connection.
    pub(crate) closed: bool,
}

impl Heard {
    /// The statuses in order. Instances of this suite have no body in which one could stand.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
        lines.collect()
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) answers: usize,
    pub(crate) close: bool,
    /// How long it may take; whatever came by then is told.
    pub(crate) limit: Duration,
}

impl Wanted {
    pub(crate) fn new(answers: usize, close: bool) -> Self {
        Self { answers, close, limit: LIMIT }
    }
}

/// Sends the bytes on a connection of their own. Ends when what is wanted came and then nothing more, or with the
/// connection.
pub(crate) async fn exchange(addr: SocketAddr, bytes: Vec<u8>, wanted: Wanted) -> Heard {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.into_split();
    // A server that has seen enough closes before everything is written.
    let writer = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut heard = Heard::default();
    let limit = tokio::time::Instant::now() + wanted.limit;
    let mut chunk = [0; 4096];
    loop {
        let complete = heard.statuses().len() >= wanted.answers && (!wanted.close || heard.closed);
        let until = if complete { tokio::time::Instant::now() + QUIET } else { limit };
        match tokio::time::timeout_at(until, read.read(&mut chunk)).await {
            Ok(Ok(n)) if n > 0 => heard.bytes.extend_from_slice(&chunk[..n]),
            Ok(_) => {
                heard.closed = true;
                break;
            }
            Err(_) => break,
        }
    }
    writer.abort();
    heard
}
