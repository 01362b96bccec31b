//! Whatever the filter of the logs: no secret of a caller or of ours is in them. A process of its own: logs are begun once.

mod common;

use common::{House, Origin, TOKEN, client::get, ready};
use dormouse_daemon::telemetry::{LogFormat, init_to};
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Paper {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_has_a_secret_and_lines_of_a_call_name_it() {
    let paper = Paper::default();
    let writer = paper.clone();
    // Everything, also what the libraries say.
    let logs = init_to(LogFormat::Json, "trace", move || writer.clone());
    logs.set("trace").unwrap();
    let house = House::new().await;
    let dies = Origin::start(|mut line| async move {
        if line.head().await.is_some_and(|head| head.starts_with("GET /dies")) {
            return;
        }
        line.answer(b"ok").await;
    })
    .await;
    house.publish(ready("hello", dies.addr, 1)).await;
    let secrets =
        "Authorization: Bearer caller-s3cret\r\nCookie: id=caller-s3cret\r\nProxy-Authorization: caller-s3cret";
    let call = |path: &str| get(path).replace("\r\n\r\n", &format!("\r\n{secrets}\r\n\r\n"));
    assert_eq!(house.activator.call(&call("/fine")).await.status, 200);
    let answer = house.activator.call(&call("/dies")).await;
    assert_eq!(answer.reason(), Some("InstanceDied"));
    assert_eq!(house.activator.call(&call("/fn").replace("hello", "nobody")).await.status, 404);
    house.records(2).await;
    house.activator.stop().await;
    let text = String::from_utf8(paper.0.lock().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["target"].as_str().is_some_and(|t| t.starts_with("h2"))), "libraries speak");
    for secret in ["caller-s3cret", &format!("Bearer {TOKEN}"), &format!("\"{TOKEN}\"")] {
        let found: Vec<_> = text.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{secret} is in {found:#?}");
    }
    let id = answer.headers["dormouse-request-id"].as_str();
    let of_call: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
    let refused = of_call.iter().find(|line| line["reason"] == "InstanceDied").expect("the refusal is said");
    assert_eq!((&refused["namespace"], &refused["function"]), (&"ns".into(), &"hello".into()));
    assert_eq!(refused["trace_id"].as_str().map(str::len), Some(32));
    for name in ["ts", "level", "target", "msg"] {
        assert!(refused[name].is_string(), "{name} in {refused}");
    }
}
