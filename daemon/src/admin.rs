//! The admin port: `/livez` (the process turns), `/readyz` (each named check), `/metrics` (OpenMetrics text).

use crate::Health;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::{encoding::text, registry::Registry};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Page {
    health: Health,
    registry: Arc<Registry>,
}

/// Serves until the token is cancelled.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    registry: Registry,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let page = Page { health, registry: Arc::new(registry) };
    axum::serve(listener, router(page)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(page: Page) -> axum::Router {
    axum::Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(page)
}

async fn ready(State(page): State<Page>) -> impl IntoResponse {
    let status = if page.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, page.health.lines())
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &page.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_follows_the_checks_and_stops_by_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (health, stop) = (Health::default(), CancellationToken::new());
        health.expect("ledger");
        let server = tokio::spawn(serve(listener, health.clone(), Registry::default(), stop.clone()));
        assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(addr, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("[-]ledger not yet\n"), "{answer}");
        health.pass("ledger");
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(addr, "/metrics").await.ends_with("# EOF\n"));
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
