//! Calls that become tunnels: WebSocket and the like, over HTTP/1.1.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{
    Client, House, Origin,
    client::get,
    h2c::{H2Client, H2Origin},
    ready, ready_h2c, until, within,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::Function;
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HELLO: &str = "GET /chat HTTP/1.1\r\nHost: hello.ns.example.com\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: y\r\n\r\n";

/// Agrees to every upgrade, says "hi" at once, then sends back what comes, in capital letters, until its client ends;
/// then says "bye". `/sticks` never ends its side, `/breaks` resets it, `/refuses` does not agree.
async fn echo() -> Origin {
    Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            if !head.contains("upgrade: websocket") || head.contains("/refuses") {
                line.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await;
                continue;
            }
            line.begin();
            line.send(format!("{AGREED}hi ")).await;
            if head.contains("/breaks") {
                let _ = line.stream.read_u8().await;
                socket2::SockRef::from(&line.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                line.end();
                return;
            }
            let mut chunk = [0; 1024];
            while let Ok(n @ 1..) = line.stream.read(&mut chunk).await {
                line.send(chunk[..n].to_ascii_uppercase()).await;
            }
            if head.contains("/sticks") {
                std::future::pending::<()>().await;
            }
            line.send(" bye").await;
            line.end();
            return;
        }
    })
    .await
}

/// Opens a tunnel.
async fn tunnel(house: &House, hello: &str) -> Client {
    let mut client = house.activator.client().await;
    client.send(hello).await;
    let head = client.head().await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!((head.headers["connection"].as_str(), head.headers["upgrade"].as_str()), ("upgrade", "websocket"));
    assert_eq!(head.headers["sec-websocket-accept"], "y");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_until_both_sides_have_ended() {
    let house = House::new().await;
    let origin = echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    // Its first words come with the head.
    let mut client = tunnel(&house, &format!("{HELLO}early ")).await;
    assert_eq!(client.exactly(9).await, b"hi EARLY ");
    client.send("more").await;
    assert_eq!(client.exactly(4).await, b"MORE");
    let mut other = house.activator.client().await;
    other.send(get("/")).await;
    until("another call waits for the slot", || (house.controller.demand("uid-hello") == Some((1, 1))).then_some(()))
        .await;
    // Half closed: the instance still has something to say.
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.exactly(4).await, b" bye");
    assert!(client.is_closed().await);
    assert_eq!(other.answer().await.status, 426);
    let record = house.records(2).await[0].1;
    assert_eq!((record.status, record.outcome), (101, Outcome::Ok));
    assert_eq!((record.request_bytes, record.response_bytes), (10, 17));
    let head = origin.seen.requests.lock()[0].clone();
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-key: x\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_an_ordinary_answer_and_both_connections_go_on() {
    let house = House::new().await;
    let origin = echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    for _ in 0..2 {
        client.send(HELLO.replace("/chat", "/refuses")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (426, "no"));
    }
    assert_eq!(origin.seen.connections.load(SeqCst), 1);
    client.send(HELLO).await;
    assert_eq!(client.head().await.status, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_or_cannot_be_is_no_tunnel() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.send(AGREED).await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    // Without a wish, with one for HTTP/2, with a body in the way.
    let h2c = HELLO.replace("websocket", "h2c");
    let body = HELLO.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nxy");
    for request in [get("/"), h2c, body] {
        let answer = house.activator.call(&request).await;
        assert_eq!((answer.status, answer.reason()), (502, Some("InstanceDied")), "{request}");
    }
    assert!(origin.seen.requests.lock().iter().all(|head| !head.to_lowercase().contains("upgrade: ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_breaks_breaks_the_other_and_is_recorded() {
    let house = House::new().await;
    let origin = echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = tunnel(&house, &HELLO.replace("/chat", "/breaks")).await;
    assert_eq!(client.exactly(3).await, b"hi ");
    client.send("x").await;
    let broken = within("its end", client.stream.read_u8()).await.unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::FunctionError);

    let client = tunnel(&house, HELLO).await;
    socket2::SockRef::from(&client.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    // The instance sees its client end, and ends.
    assert_eq!(house.records(2).await[1].1.outcome, Outcome::ClientGone);
    until("its handler ended", || (origin.seen.running.load(SeqCst) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_its_time_and_only_a_stuck_instance_is_retired() {
    let house = House::new().await;
    let origin = echo().await;
    house.publish(Function { timeout_ms: 300, ..ready("hello", origin.addr, 1) }).await;
    for (path, retired) in [("/chat", false), ("/sticks", true)] {
        let mut client = tunnel(&house, &HELLO.replace("/chat", path)).await;
        assert_eq!(client.exactly(3).await, b"hi ");
        assert!(client.is_closed_after_rest().await, "an orderly end");
        let record = house.records(1 + usize::from(retired)).await[usize::from(retired)].1;
        assert_eq!((record.status, record.outcome), (101, Outcome::Timeout), "{path}");
        if retired {
            until("it is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
        } else {
            assert!(house.controller.instance("i1").is_none_or(|i| !i.retired));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_a_tunnel_in_order_when_the_limit_is_over() {
    let house = House::with(|c| c.drain_limit = std::time::Duration::from_millis(1500)).await;
    let origin = echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = tunnel(&house, HELLO).await;
    assert_eq!(client.exactly(3).await, b"hi ");
    house.activator.ask_to_stop();
    client.send("still").await;
    assert_eq!(client.exactly(5).await, b"STILL");
    assert!(client.is_closed_after_rest().await);
    house.activator.stop().await;
    let records = house.controller.records();
    assert_eq!((records.len(), records[0].1.outcome), (1, Outcome::Aborted));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_http_2_is_not_asked_to_change() {
    let house = House::new().await;
    let origin = H2Origin::echo().await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    assert_eq!(house.activator.call(HELLO).await.text(), "hello");
    assert!(!origin.requests.lock()[0].headers.contains_key("upgrade"));
    // Nor can a stream become a tunnel.
    let connect = http::Request::builder().method("CONNECT").uri("hello.ns.example.com:80").body(()).unwrap();
    let answer = H2Client::connect(house.activator.addr).await.call(connect, b"").await;
    assert_eq!((answer.status, answer.header("dormouse-reason")), (400, Some("BadRequest")));
}
