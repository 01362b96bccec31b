//! The filter of the logs is changed over the admin port while the process runs. A process of its own: logs are begun
//! once.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use dormouse_daemon::admin::Admin;
use dormouse_daemon::telemetry::{LogFormat, init_to};
use dormouse_daemon::{Health, telemetry::LogFilter};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Paper {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    /// What is logged by three events, without what the process itself says.
    fn said(&self) -> Vec<String> {
        self.0.lock().unwrap().clear();
        tracing::info!(target: "a", "info of a");
        tracing::debug!(target: "a", "debug of a");
        tracing::debug!(target: "b", "debug of b");
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["msg"].as_str().unwrap().to_owned()).collect()
    }
}

async fn put(addr: SocketAddr, filter: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let head =
        format!("PUT /loglevel HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n", filter.len());
    stream.write_all(format!("{head}\r\n{filter}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_filter_changes_while_running_and_only_to_a_filter() {
    let paper = Paper::default();
    let writer = paper.clone();
    let logs: LogFilter = init_to(LogFormat::Json, "info", move || writer.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let admin = Admin { health: Health::default(), registry: Arc::default(), logs: logs.clone() };
    let server = tokio::spawn(admin.serve(listener, stop.clone()));
    assert_eq!(paper.said(), ["info of a"]);
    assert!(put(addr, " info,a=debug\n").await.ends_with("\r\n\r\ninfo,a=debug\n"));
    assert_eq!(logs.text(), "info,a=debug");
    assert_eq!(paper.said(), ["info of a", "debug of a"]);
    for bad in ["", "inof", "a=loud", "info,,debug", "a=["] {
        assert!(put(addr, bad).await.starts_with("HTTP/1.1 400"), "{bad:?}");
    }
    assert_eq!(paper.said(), ["info of a", "debug of a"]);
    assert!(put(addr, "warn").await.starts_with("HTTP/1.1 200"));
    assert_eq!(paper.said(), [""; 0]);
    let second = init_to(LogFormat::Text, "trace", std::io::sink);
    assert!(second.set("debug").is_err_and(|e| e.to_string().contains("cannot be changed")));
    assert_eq!(paper.said(), [""; 0]);
    stop.cancel();
    server.await.unwrap().unwrap();
}
