//! The function of the suites with several activators: one thread, and a log of when each call began and ended, so that
//! a suite can count how many ran at once, on one instance and over all of them.
//!
//! Like most servers it works on when its client has gone: a call that began is logged as ended only when its work is
//! done. All instances of a function append to one file; the kernel keeps one append whole and puts it at one place, so
//! the order of the lines is an order in which things did happen.

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use dormouse_tests::client::NUMBER;
use futures::StreamExt;
use futures::channel::mpsc;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

#[derive(Parser)]
struct Args {
    /// Where it serves.
    #[arg(long, env = "PORT")]
    port: u16,
    /// The file that calls are logged in; without one they are not.
    #[arg(long, env = "CALLS_LOG")]
    log: Option<PathBuf>,
    /// A file to which each instance adds a line as its port opens: when, in microseconds since 1970.
    #[arg(long)]
    opened: Option<PathBuf>,
    /// The port opens that late, as of a function that takes its time to start.
    #[arg(long, env = "START_AFTER_MS", default_value_t = 0)]
    start_after_ms: u64,
}

/// Chunks of a stream that are made before the client has taken them.
const AHEAD: usize = 16;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let file = args.log.as_ref().map(|path| File::options().create(true).append(true).open(path));
    let file = file.transpose().context("the log cannot be opened")?;
    // A process id comes again one day: with the number it does not.
    let log = Arc::new(Log { file, instance: format!("{}-{:08x}", std::process::id(), rand::random::<u32>()) });
    tokio::time::sleep(Duration::from_millis(args.start_after_ms)).await;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    if let Some(path) = &args.opened {
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{}\n", jiff::Timestamp::now().as_microsecond()).as_bytes())?;
    }
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, log.clone()));
        }
    }
}

async fn serve(stream: TcpStream, log: Arc<Log>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, log.clone()));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Where calls are logged: `+ INSTANCE NUMBER` as one begins, `- INSTANCE NUMBER` as it ends.
struct Log {
    file: Option<File>,
    instance: String,
}

impl Log {
    #[expect(clippy::print_stderr, reason = "the last words of a process")]
    fn write(&self, sign: char, number: u64) {
        let Some(mut file) = self.file.as_ref() else { return };
        // One write for one line. A log that cannot be written would count too few: no answer is better.
        if let Err(error) = file.write_all(format!("{sign} {} {number}\n", self.instance).as_bytes()) {
            eprintln!("the log cannot be written: {error}");
            std::process::abort();
        }
    }
}

/// A call under way; ends when dropped.
struct Call {
    log: Arc<Log>,
    number: u64,
}

impl Call {
    fn begin(log: Arc<Log>, number: u64) -> Self {
        log.write('+', number);
        Self { log, number }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.log.write('-', self.number);
    }
}

async fn answer(request: Request<Incoming>, log: Arc<Log>) -> Result<Response<Body>, Infallible> {
    let number = request.headers().get(NUMBER).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
    let instance = log.instance.clone();
    let call = Call::begin(log, number);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let ms = Duration::from_millis(number_of(&query, "ms"));
    let mut response = match request.uri().path() {
        // A task of its own: the work goes on when the client, and with it this future, has gone.
        "/" | "/work" | "/delay" => match tokio::spawn(work(call, ms)).await {
            Ok(()) => text(StatusCode::OK, format!("{number}\n")),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        "/stream" => streamed(call, number_of(&query, "chunks"), ms, number_of(&query, "bytes")),
        other => text(StatusCode::NOT_FOUND, format!("no route {other}\n")),
    };
    if let Ok(value) = instance.parse() {
        response.headers_mut().insert("x-instance", value);
    }
    Ok(response)
}

async fn work(call: Call, ms: Duration) {
    if !ms.is_zero() {
        tokio::time::sleep(ms).await;
    }
    drop(call);
}

/// Lines of a known number, with a pause between two; to the end whether somebody reads them or not, but no further
/// ahead of a reader than [`AHEAD`].
fn streamed(call: Call, chunks: u64, pause: Duration, bytes: u64) -> Response<Body> {
    let (mut out, lines) = mpsc::channel::<Bytes>(AHEAD);
    tokio::spawn(async move {
        let padding = ".".repeat(usize::try_from(bytes).unwrap_or(0));
        for n in 1..=chunks {
            if n > 1 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let line = Bytes::from(format!("{n} of {chunks}{padding}\n"));
            if futures::SinkExt::send(&mut out, line).await.is_err() && pause.is_zero() {
                break;
            }
        }
        // The end of the call comes before the end of the body, as for a call without one.
        drop(call);
        drop(out);
    });
    let body = StreamBody::new(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))));
    Response::new(BodyExt::boxed_unsync(body))
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A number of the query string; 0 when it is not there.
fn number_of(query: &str, name: &str) -> u64 {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    values.filter(|(n, _)| *n == name).find_map(|(_, v)| v.parse().ok()).unwrap_or(0)
}
