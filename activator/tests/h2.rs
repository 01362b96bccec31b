//! HTTP/2 as callers speak it: streams that wait, leave, break and are refused one by one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use bytes::Bytes;
use common::{
    House, Origin,
    client::get,
    function,
    h2c::{H2Client, request, whole},
    ready, until, within,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::Function;
use h2::Reason;
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::sync::Notify;

/// The function "hello" with one instance of HTTP/1.1 that echoes.
async fn house() -> (House, Origin) {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 10)).await;
    (house, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_a_stream_reaches_an_instance_of_http_1() {
    let (house, origin) = house().await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let answer = client.get("/a//b%2f?x=1&&").await;
    assert_eq!((answer.status, answer.text(), answer.broke.is_none()), (200, "hello", true));
    assert!(answer.header("dormouse-request-id").is_some() && answer.header("via") == Some("1.1 dormouse"));
    let answer = client.call(request("POST", "/"), b"ping").await;
    assert_eq!(answer.text(), "ping");
    let seen = origin.seen.requests.lock().clone();
    assert!(seen[0].starts_with("GET /a//b%2f?x=1&& HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].contains("host: hello.ns.example.com\r\n") && seen[0].contains("via: 2.0 dormouse\r\n"));
    assert!(seen[1].contains("transfer-encoding: chunked\r\n"), "no length was told: {}", seen[1]);
    let records = house.records(2).await;
    assert_eq!((records[1].1.request_bytes, records[1].1.response_bytes), (4, 4));
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello", "HTTP/1.1 on the same port");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_run_at_once_and_each_is_recorded() {
    let (house, go) = (House::new().await, Arc::new(tokio::sync::Semaphore::new(0)));
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            while line.request().await.is_some() {
                line.begin();
                go.acquire().await.unwrap().forget();
                line.end();
                line.answer(b"ok").await;
            }
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 20)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(client.start(request("GET", "/"), true).await.0);
    }
    until("as many run as there are slots", || (origin.seen.running.load(SeqCst) == 20).then_some(())).await;
    until("the others wait", || (house.controller.demand("uid-hello") == Some((10, 20))).then_some(())).await;
    go.add_permits(30);
    for call in calls {
        assert_eq!(whole(call).await.text(), "ok");
    }
    assert_eq!(origin.seen.most.load(SeqCst), 20);
    assert_eq!(house.records(30).await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_stream_that_is_reset_is_dropped_and_the_others_wait_on() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (_first, mut leaves) = client.start(request("POST", "/leaves"), false).await;
    let (second, mut body) = client.start(request("POST", "/stays"), false).await;
    body.send_data(Bytes::from_static(b"mine"), true).unwrap();
    until("both wait", || (house.controller.demand("uid-hello") == Some((2, 0))).then_some(())).await;
    leaves.send_reset(Reason::CANCEL);
    until("one is dropped", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(whole(second).await.text(), "mine");
    assert_eq!(origin.seen.requests.lock().len(), 1, "the call that left was never sent");
    assert!(house.records(1).await[0].1.cold);
}

/// However soon its reset comes: before the request is looked at, while it is sent, or within its body.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_reset_within_its_body_is_whole_for_nobody() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 100)).await;
    for n in 0..300 {
        let mut client = H2Client::connect(house.activator.addr).await;
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        let (_answer, mut stream) = client.start(request(method, "/"), false).await;
        if n % 3 == 0 {
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
        }
        if n % 5 == 0 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(Reason::CANCEL);
    }
    let mut client = H2Client::connect(house.activator.addr).await;
    let (last, _) = client.start(request("GET", "/last"), true).await;
    assert_eq!(whole(last).await.text(), "hello");
    assert_eq!(origin.seen.whole.load(SeqCst), 1, "only the last one ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_streams_leave_with_their_connection() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    for _ in 0..3 {
        drop(client.start(request("GET", "/"), true).await.0);
    }
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(client.start(request("GET", "/"), true).await.0);
    }
    until("three wait", || (house.controller.demand("uid-hello") == Some((3, 0))).then_some(())).await;
    client.end.abort();
    until("all are dropped", || (house.controller.demand("uid-hello") == Some((0, 0))).then_some(())).await;
    assert!(house.controller.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_that_is_reset_keeps_its_slot_until_the_instance_has_answered() {
    let (house, go) = (House::new().await, Arc::new(Notify::new()));
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            while line.request().await.is_some() {
                line.begin();
                go.notified().await;
                line.end();
                line.answer(b"late").await;
            }
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (first, mut stream) = client.start(request("GET", "/"), true).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    stream.send_reset(Reason::CANCEL);
    drop(first);
    let (second, _) = client.start(request("GET", "/second"), true).await;
    until("the second waits", || (house.controller.demand("uid-hello") == Some((1, 1))).then_some(())).await;
    go.notify_one();
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::ClientGone);
    go.notify_one();
    assert_eq!(whole(second).await.text(), "late");
    assert_eq!(origin.seen.most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_proxy_must_not_pass_are_refused() {
    let (house, origin) = house().await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let mut two_hosts = request("GET", "/");
    two_hosts.headers_mut().insert("host", "other.ns.example.com".parse().unwrap());
    let mut many = request("GET", "/");
    for n in 0..101 {
        many.headers_mut().insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    let mut large = request("GET", "/");
    large.headers_mut().insert("x-large", "x".repeat(33 * 1024).parse().unwrap());
    let user = http::Request::builder().uri("http://u@hello.ns.example.com/").body(()).unwrap();
    let connect = http::Request::builder().method("CONNECT").uri("hello.ns.example.com:80").body(()).unwrap();
    let mut circles = request("GET", "/");
    circles.headers_mut().insert("via", ["2.0 dormouse"; 5].join(", ").parse().unwrap());
    for (request, status) in [
        (two_hosts, 400),
        (many, 431),
        (large, 431),
        (user, 400),
        (connect, 400),
        (circles, 508),
        (request("GET", "/"), 200),
    ] {
        let answer = client.call(request, b"").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.headers.contains_key("connection"));
    }
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(origin.seen.requests.lock().len(), 2);
}

/// A frame: its type, flags, stream and content.
fn frame(kind: u8, flags: u8, stream: u8, content: &[u8]) -> Vec<u8> {
    let len = u8::try_from(content.len()).unwrap();
    [&[0, 0, len, kind, flags, 0, 0, 0, stream], content].concat()
}

/// Header lines as literals (RFC 7541 6.2.2).
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let text = |t: &str| [&[u8::try_from(t.len()).unwrap()], t.as_bytes()].concat();
    lines.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_the_protocol_forbids_are_reset_and_the_others_answered() {
    let (house, origin) = house().await;
    let mut client = house.activator.client().await;
    client.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat()).await;
    let good = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "hello.ns.example.com")];
    let bad = [
        ("connection", "x"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("upgrade", "h2c"),
        ("keep-alive", "1"),
        ("proxy-connection", "x"),
        (":path", "/again"),
    ];
    // The streams' numbers are odd; the last one is as it should be.
    let heads = bad.iter().map(|line| [&good[..], &[*line]].concat()).chain([good.to_vec()]);
    for (n, lines) in (0..).zip(heads) {
        client.send(frame(1, 0x5, 2 * n + 1, &block(&lines))).await;
    }
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < 8 {
        let head = client.exactly(9).await;
        client.exactly(usize::from(head[1]) << 8 | usize::from(head[2])).await;
        // HEADERS answer, RST_STREAM refuses.
        if matches!(head[3], 1 | 3) {
            ends.entry(head[8]).or_insert(head[3]);
        }
    }
    let ends: Vec<_> = ends.into_iter().collect();
    assert_eq!(ends, [(1, 3), (3, 3), (5, 3), (7, 3), (9, 3), (11, 3), (13, 3), (15, 1)]);
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_a_lone_host_header_are_written_for_http_1() {
    let (house, origin) = house().await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let mut cookies = request("GET", "/");
    for crumb in ["a=1", "b=2"] {
        cookies.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    assert_eq!(client.call(cookies, b"").await.status, 200);
    assert!(origin.seen.requests.lock()[0].contains("cookie: a=1; b=2\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_preface_silence_and_idle_connections_are_closed_in_time() {
    let house = House::with(|c| {
        let short = Duration::from_millis(100);
        (c.limits.first_byte, c.limits.head, c.limits.idle) = (short, short, short);
    })
    .await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut half = house.activator.client().await;
    half.send("PRI * HTTP/2.0\r\n\r\n").await;
    let mut no_settings = house.activator.client().await;
    no_settings.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let no_request = H2Client::connect(house.activator.addr).await;
    let mut idle = H2Client::connect(house.activator.addr).await;
    assert_eq!(idle.get("/").await.status, 200);
    assert!(half.is_closed().await);
    while within("its end", tokio::io::AsyncReadExt::read_u8(&mut no_settings.stream)).await.is_ok() {}
    for client in [no_request, idle] {
        // A farewell, not a broken connection.
        within("its end", client.end).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_an_open_stream_is_not_idle() {
    let house = House::with(|c| {
        let short = Duration::from_millis(100);
        (c.limits.first_byte, c.limits.head, c.limits.idle) = (short, short, short);
    })
    .await;
    house.publish(function("hello")).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (call, _) = client.start(request("GET", "/"), true).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    // Longer than every limit and a look.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(whole(call).await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_its_client_leaves_no_room_for_is_given_up() {
    let house = House::with(|c| c.limits.head = Duration::from_millis(100)).await;
    house.publish(function("hello")).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let mut client = H2Client::with(house.activator.addr, builder).await;
    let nowhere = http::Request::get("http://nowhere.example.com/").body(()).unwrap();
    let (refusal, _) = client.start(nowhere, true).await;
    let mut refusal = within("its head", refusal).await.unwrap();
    assert_eq!(refusal.status(), 404);
    let ended = within("its end", refusal.body_mut().data()).await.unwrap();
    assert!(ended.is_err_and(|e| e.is_reset() && e.is_remote()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_does_not_read_is_reset_alone() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            if head.contains("/flood") {
                line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                for _ in 0..1000 {
                    line.send(&chunk).await;
                }
            } else {
                line.answer(b"hello").await;
            }
        }
    })
    .await;
    house.publish(Function { timeout_ms: 300, ..ready("hello", origin.addr, 1) }).await;
    // The connection's window is larger than what one stream can fill: the others have room.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let mut client = H2Client::with(house.activator.addr, builder).await;
    let (unread, _) = client.start(request("GET", "/flood"), true).await;
    let mut unread = within("its head", unread).await.unwrap();
    let record = house.records(1).await[0].1;
    assert_eq!(record.outcome, Outcome::ClientGone);
    assert!(house.controller.instance("i1").is_none_or(|i| !i.retired), "the instance is not to blame");
    // The other streams go on.
    assert_eq!(client.get("/").await.text(), "hello");
    let broke = loop {
        match within("its end", unread.body_mut().data()).await {
            Some(Ok(data)) => unread.body_mut().flow_control().release_capacity(data.len()).unwrap(),
            Some(Err(e)) => break e,
            None => panic!("it looks whole"),
        }
    };
    assert!(broke.is_reset() && broke.is_remote(), "{broke}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_says_farewell_and_lets_running_streams_finish() {
    let (house, go) = (House::new().await, Arc::new(Notify::new()));
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            line.request().await;
            line.begin();
            go.notified().await;
            line.answer(b"late").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (call, _) = client.start(request("GET", "/"), true).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    house.activator.ask_to_stop();
    let addr = house.activator.addr;
    until("no new connections", || std::net::TcpStream::connect(addr).is_err().then_some(())).await;
    go.notify_one();
    assert_eq!(whole(call).await.text(), "late");
    within("its end", client.end).await.unwrap().unwrap();
    house.activator.stop().await;
    assert_eq!(house.controller.records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_breaks_within_its_response_breaks_the_stream() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        line.request().await;
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text()), (200, "one"));
    assert!(answer.broke.is_some_and(|e| e.is_reset()));
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::FunctionError);
}
