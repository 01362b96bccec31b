//! The instance behind every arm: a static server that is never the bottleneck. Whole answers are prebuilt and leave in
//! one write; a request costs it one read and one write.
//!
//! `GET /N` answers N bytes. `POST /N` reads its body (with a known length) to the end, then answers N bytes.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that one read takes.
const READ: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Answers up to this size are prebuilt per connection; larger ones are written in pieces of it.
const WHOLE: usize = 1 << 20;

/// Serves until it is ended.
pub(crate) async fn run(addr: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(addr).await?;
    let piece: Arc<[u8]> = vec![b'x'; WHOLE].into();
    loop {
        let (stream, _) = listener.accept().await?;
        let piece = piece.clone();
        tokio::spawn(async move {
            // An end in the middle is the client's: a bench fails by what the client sees.
            let _ = serve(stream, &piece).await;
        });
    }
}

/// What a request wants: bytes of its head, of its body and of the answer.
struct Wanted {
    head: usize,
    body: usize,
    answer: usize,
}

async fn serve(mut stream: TcpStream, piece: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut whole: HashMap<usize, Vec<u8>> = HashMap::new();
    let (mut buffer, mut have) = (vec![0; READ], 0);
    loop {
        let n = stream.read(buffer.get_mut(have..).context("the head is too long")?).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        while let Some(wanted) = wanted(buffer.get(..have).unwrap_or_default())? {
            let here = (have - wanted.head).min(wanted.body);
            swallow(&mut stream, wanted.body - here).await?;
            if wanted.answer <= WHOLE {
                let answer = whole.entry(wanted.answer).or_insert_with(|| {
                    [head(wanted.answer).as_bytes(), piece.get(..wanted.answer).unwrap_or_default()].concat()
                });
                stream.write_all(answer).await?;
            } else {
                stream.write_all(head(wanted.answer).as_bytes()).await?;
                let mut left = wanted.answer;
                while left > 0 {
                    let n = left.min(WHOLE);
                    stream.write_all(piece.get(..n).unwrap_or_default()).await?;
                    left -= n;
                }
            }
            buffer.copy_within(wanted.head + here..have, 0);
            have -= wanted.head + here;
        }
    }
}

/// Reads so many bytes of a body that is wanted for nothing.
async fn swallow(stream: &mut TcpStream, mut left: usize) -> Result<()> {
    if left == 0 {
        return Ok(());
    }
    let mut sink = vec![0; READ];
    while left > 0 {
        let most = left.min(READ);
        let n = stream.read(sink.get_mut(..most).unwrap_or_default()).await?;
        anyhow::ensure!(n > 0, "the body ended early");
        left -= n;
    }
    Ok(())
}

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n")
}

/// `None` while the head is not whole.
fn wanted(bytes: &[u8]) -> Result<Option<Wanted>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(None) };
    let path = request.path.context("no path")?;
    let answer = path.strip_prefix('/').context("no size")?.parse()?;
    let value = |name: &str| request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    anyhow::ensure!(value("transfer-encoding").is_none(), "a body of unknown length");
    let body = value("content-length").map_or(Ok("0"), std::str::from_utf8)?.parse()?;
    Ok(Some(Wanted { head, body, answer }))
}
