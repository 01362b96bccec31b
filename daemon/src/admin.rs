//! The admin port, away from the traffic: how the process is, what it counts, what it logs.
//!
//! | path | answers |
//! |---|---|
//! | `/livez`, `/healthz` | 200 while the process turns; nothing else is asked, so that no liveness probe ends a process whose controller or API server is away |
//! | `/readyz` | 200 when every check passes, else 503 and the names of those that do not; with `?verbose` a line for each check and its reason |
//! | `/startupz` | 200 once every check has passed once, whatever fails later |
//! | `/metrics` | OpenMetrics text |
//! | `GET /loglevel` | the filter of the logs |
//! | `PUT /loglevel` | changes it until the process ends: a level (`debug`) or `info,dormouse_activator=debug`, as `RUST_LOG` |
//!
//! Nobody is asked who they are: who reaches the port may read all of it and change the logs.

use crate::Health;
use crate::telemetry::{BadFilter, LogFilter, MAX_FILTER};
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::{encoding::text, registry::Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Largest body: a filter and a line end.
const MAX_BODY: usize = MAX_FILTER + 2;

/// What the port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The checks.
    pub health: Health,
    /// What is counted.
    pub registry: Arc<Registry>,
    /// What is logged.
    pub logs: LogFilter,
}

/// A reader that has begun to ask and never ends does not keep the process.
const LAST_ANSWER: Duration = Duration::from_secs(1);

impl Admin {
    /// Serves until the token is cancelled, and no longer than [`LAST_ANSWER`] after that.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let server = axum::serve(listener, self.router()).with_graceful_shutdown(stop.clone().cancelled_owned());
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! { ended = server.into_future() => ended, () = over => Ok(()) }
    }

    fn router(self) -> axum::Router {
        axum::Router::new()
            .route("/livez", get(live))
            .route("/healthz", get(live))
            .route("/readyz", get(ready))
            .route("/startupz", get(started))
            .route("/metrics", get(metrics))
            .route("/loglevel", get(log_level).put(set_log_level))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(admin): State<Admin>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let verbose = query.is_some_and(|q| q.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let failing = admin.health.failing();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = match (verbose, failing.is_empty()) {
        (true, _) => admin.health.lines(),
        (false, true) => "ok\n".to_owned(),
        (false, false) => format!("not ready: {}\n", failing.join(", ")),
    };
    (status, text)
}

async fn started(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.health.has_started() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {e}\n")).into_response(),
    }
}

async fn log_level(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.logs.text())
}

async fn set_log_level(State(admin): State<Admin>, filter: String) -> (StatusCode, String) {
    let before = admin.logs.text();
    match admin.logs.set(&filter) {
        Ok(()) => {
            let now = admin.logs.text();
            // As a warning, so that it is seen by most filters: who reads the logs must know why they change.
            tracing::warn!(before, now, "the filter of the logs was changed");
            (StatusCode::OK, format!("{now}\n"))
        }
        Err(e @ BadFilter::Fixed(_)) => (StatusCode::CONFLICT, format!("{e}\n")),
        Err(e) => (StatusCode::BAD_REQUEST, format!("{e}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(addr: std::net::SocketAddr, what: &str, body: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let length = body.len();
        let request =
            format!("{what} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn parts(answer: &str) -> (&str, &str) {
        (&answer[9..12], answer.split_once("\r\n\r\n").unwrap().1)
    }

    #[tokio::test]
    async fn ready_follows_the_checks_and_stops_by_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (health, stop) = (Health::default(), CancellationToken::new());
        health.expect("ledger");
        health.expect("routes");
        let admin = Admin { health: health.clone(), registry: Arc::default(), logs: LogFilter::unused("info") };
        let server = tokio::spawn(admin.serve(listener, stop.clone()));
        assert_eq!(parts(&ask(addr, "GET /livez", "").await), ("200", "ok\n"));
        assert_eq!(parts(&ask(addr, "GET /readyz", "").await), ("503", "not ready: ledger, routes\n"));
        assert_eq!(parts(&ask(addr, "GET /startupz", "").await), ("503", "starting\n"));
        health.pass("ledger");
        health.fail("routes", "no routes yet");
        let lines = "[+]ledger ok\n[-]routes no routes yet\n";
        assert_eq!(parts(&ask(addr, "GET /readyz?verbose", "").await), ("503", lines));
        health.pass("routes");
        assert_eq!(parts(&ask(addr, "GET /readyz", "").await), ("200", "ok\n"));
        assert_eq!(parts(&ask(addr, "GET /readyz?x&verbose=1", "").await), ("200", "[+]ledger ok\n[+]routes ok\n"));
        health.fail("routes", "shutting down");
        assert_eq!(parts(&ask(addr, "GET /startupz", "").await), ("200", "ok\n"), "it has started");
        assert_eq!(parts(&ask(addr, "GET /healthz", "").await), ("200", "ok\n"), "it still turns");
        assert!(ask(addr, "GET /metrics", "").await.ends_with("# EOF\n"));
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_filter_that_is_none_or_too_long_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let logs = LogFilter::unused("info");
        let admin = Admin { health: Health::default(), registry: Arc::default(), logs: logs.clone() };
        let server = tokio::spawn(admin.serve(listener, stop.clone()));
        assert_eq!(parts(&ask(addr, "GET /loglevel", "").await), ("200", "info\n"));
        assert!(parts(&ask(addr, "PUT /loglevel", "inof").await).1.contains("no level"));
        assert_eq!(parts(&ask(addr, "PUT /loglevel", "").await).0, "400");
        assert_eq!(parts(&ask(addr, "PUT /loglevel", &"x".repeat(MAX_BODY + 1)).await).0, "413");
        assert_eq!(parts(&ask(addr, "POST /loglevel", "info").await).0, "405");
        assert_eq!(logs.text(), "info");
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
