//! The sample function: a small HTTP/1.1 server, also the program of the image `dormouse/sample`.

use crate::args::SampleArgs;
use crate::exit::{Failure, Outcome};
use crate::say;
use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest /delay, and pause between chunks: a minute.
const MAX_DELAY: u64 = 60_000;
/// Most chunks of /stream.
const MAX_CHUNKS: u64 = 1000;

/// Most memory that a call takes, in MiB.
const MAX_MIB: u64 = 1024;
/// A client has this long to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: &SampleArgs) -> Outcome {
    let _held = pages(args.hold_mib);
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Failure::failed(format!("cannot listen on {address}: {e}; choose another port with --port")))?;
    say::out(format_args!("sample: serving on {address}"));
    let stop = CancellationToken::new();
    let calls = TaskTracker::new();
    let ended = stop.clone();
    tokio::spawn(async move {
        ended_by_signal().await;
        ended.cancel();
    });
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                calls.spawn(serve(stream, stop.clone()));
            },
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    calls.close();
    calls.wait().await;
    say::out(format_args!("sample: ended"));
    Ok(())
}

async fn ended_by_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// One connection; told to stop, it answers what it has begun and closes.
async fn serve(stream: TcpStream, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Calls that this process is in the middle of, up to the head of their answer.
static RUNNING: AtomicU32 = AtomicU32::new(0);

/// Which process answers: host name and process id.
static INSTANCE: LazyLock<Option<HeaderValue>> =
    LazyLock::new(|| HeaderValue::from_str(&format!("{}/{}", host(), std::process::id())).ok());

/// One call of [`RUNNING`]; a client that leaves drops it in the middle.
struct Running(u32);

impl Running {
    fn begin() -> Self {
        Self(RUNNING.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers, and says in headers which process did and how many calls it was in the middle of: `concurrency` at work.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let running = Running::begin();
    let mut response = route(request).await?;
    let headers = response.headers_mut();
    headers.insert("x-sample-running", HeaderValue::from(running.0));
    if let Some(instance) = &*INSTANCE {
        headers.insert("x-sample-instance", instance.clone());
    }
    Ok(response)
}

async fn route(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = Query::of(&request);
    Ok(match path.split('/').nth(1).unwrap_or_default() {
        "" => text(StatusCode::OK, greeting()),
        "echo" => echo(request),
        "delay" => {
            let ms = query.number("ms", 100, MAX_DELAY);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            text(StatusCode::OK, format!("waited {ms} ms\n"))
        }
        "status" => status(&path),
        "stream" => streamed(query.number("chunks", 5, MAX_CHUNKS), query.number("ms", 100, MAX_DELAY)),
        "env" => text(StatusCode::OK, environment()),
        "memory" => memory(query.number("mib", 16, MAX_MIB)),
        "crash" => crash(),
        _ => text(StatusCode::NOT_FOUND, format!("no route {path}: see `dormouse sample --help`\n")),
    })
}

/// Takes memory, uses all of it, and lets it go with the answer.
fn memory(mib: u64) -> Response<Body> {
    let taken = pages(mib);
    let used: u64 = taken.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    text(StatusCode::OK, format!("{mib} MiB, {used} pages\n"))
}

/// So much memory, all of it written to.
fn pages(mib: u64) -> Vec<u8> {
    // Nobody reads most of it: the compiler is not to leave it out.
    std::hint::black_box(vec![1_u8; usize::try_from(mib).unwrap_or(0) << 20])
}

/// Ends the process before it answers, as a function with a fault does.
#[expect(clippy::exit, reason = "this is what the route is for")]
fn crash() -> ! {
    say::out(format_args!("sample: /crash was called: exit status 1"));
    std::process::exit(1)
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "-".into())
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| var("HOSTNAME"), |h| h.trim().into())
}

fn greeting() -> String {
    let (service, revision) = (var("K_SERVICE"), var("K_REVISION"));
    format!("Hello from {service}, revision {revision}, instance {} (process {})\n", host(), std::process::id())
}

fn environment() -> String {
    let mut lines = String::new();
    for name in ["PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "GREETING"] {
        let _ = writeln!(lines, "{name}={}", var(name));
    }
    lines
}

/// The request's own body, streamed back as it comes; the rest in headers.
fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    let kind = head.headers.get(CONTENT_TYPE).cloned();
    headers.insert(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/octet-stream")));
    let mut tell = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    tell("x-echo-method", head.method.as_str());
    tell("x-echo-path", head.uri.path_and_query().map_or("/", |p| p.as_str()));
    for (name, value) in head.headers.iter().take(64) {
        if let Ok(name) = HeaderName::from_bytes(format!("x-echo-{name}").as_bytes()) {
            headers.append(name, value.clone());
        }
    }
    if head.method == Method::HEAD {
        *response.body_mut() = empty();
    }
    response
}

fn status(path: &str) -> Response<Body> {
    let code = path.rsplit('/').next().and_then(|c| c.parse::<u16>().ok());
    match code.filter(|c| (200..600).contains(c)).and_then(|c| StatusCode::from_u16(c).ok()) {
        Some(code) => text(code, format!("{code}\n")),
        None => text(StatusCode::BAD_REQUEST, "write /status/200 to /status/599\n".into()),
    }
}

fn streamed(chunks: u64, pause_ms: u64) -> Response<Body> {
    let chunks = stream::unfold(0, move |n| async move {
        if n >= chunks {
            return None;
        }
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        let line = Bytes::from(format!("chunk {} of {chunks}\n", n + 1));
        Some((Ok::<_, hyper::Error>(Frame::data(line)), n + 1))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn empty() -> Body {
    Full::default().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A query string's numbers.
struct Query(String);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        Self(request.uri().query().unwrap_or_default().into())
    }

    fn number(&self, name: &str, default: u64, max: u64) -> u64 {
        let values = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let value = values.filter(|(n, _)| *n == name).find_map(|(_, v)| v.parse::<u64>().ok());
        value.unwrap_or(default).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_query_are_bounded() {
        let query = Query("ms=20&chunks=x&more=99999999".into());
        assert_eq!(query.number("ms", 1, 100), 20);
        assert_eq!(query.number("chunks", 5, 100), 5);
        assert_eq!(query.number("none", 7, 100), 7);
        assert_eq!(query.number("more", 7, 100), 100);
    }
}
