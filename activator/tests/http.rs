//! HTTP as callers write it: bodies and none, old clients, slow clients, too many clients.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{
    Client, House, Origin,
    client::{get, post},
    function, ready, until,
};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};

/// Answers by the path: with a body of unknown length, with none, early.
async fn by_path() -> Origin {
    Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            match path.as_str() {
                "/none" => line.send("HTTP/1.1 204 No Content\r\n\r\n").await,
                "/same" => line.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n").await,
                "/head" => line.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await,
                "/empty" => line.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await,
                "/until-close" => {
                    line.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it").await;
                    return;
                }
                "/early" => {
                    line.send("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
                }
                "/internal" => {
                    line.send("HTTP/1.1 200 OK\r\nDormouse-Reason: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n").await;
                }
                _ => line.answer(b"hello").await,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_and_without_bodies_pass_as_they_are() {
    let house = House::new().await;
    let origin = by_path().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    for (path, status, body) in [
        ("/none", 204, ""),
        ("/same", 304, ""),
        ("/empty", 200, ""),
        ("/until-close", 200, "all of it"),
        ("/", 200, "hello"),
    ] {
        client.send(get(path)).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text(), answer.whole), (status, body, true), "{path} {answer:?}");
    }
    client.send(get("/head").replace("GET", "HEAD")).await;
    let head = client.head().await;
    assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "5"));
    client.send(get("/internal")).await;
    let answer = client.answer().await;
    assert_eq!(answer.headers["x-a"], "1");
    assert!(!answer.headers.contains_key("x-hop") && answer.reason().is_none());
    assert_eq!(answer.headers["via"], "1.1 dormouse");
    assert_eq!(house.records(7).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_passed_on_and_its_connection_not_used_again() {
    let house = House::new().await;
    let origin = by_path().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(post("/early", &"x".repeat(100)).split_at(100).0).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (413, "big"));
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    assert_eq!(origin.seen.connections.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_get_requests_reach_the_function() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let sized = post("/", "ping").replace("POST", "GET");
    let chunked =
        "GET / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n0\r\n\r\n";
    for request in [sized.as_str(), chunked] {
        assert_eq!(house.activator.call(request).await.text(), "ping");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_are_served_by_path() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send("GET /fn/ns/hello HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let seen = origin.seen.requests.lock()[0].to_lowercase();
    assert!(seen.starts_with("get / http/1.1\r\n") && seen.contains("\r\nhost: hello.ns\r\n"), "{seen}");
    assert!(client.is_closed().await);
    assert_eq!(house.activator.call("GET / HTTP/1.0\r\n\r\n").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_when_it_can_go_on() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = house.activator.client().await;
    let head = "POST / HTTP/1.1\r\nHost: hello.ns.example.com\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let early = tokio::time::timeout(Duration::from_millis(100), client.head()).await;
    assert!(early.is_err(), "nothing is asked for while it waits");
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(client.head().await.status, 100);
    client.send("ping").await;
    assert_eq!(client.answer().await.text(), "ping");
    assert!(!origin.seen.requests.lock()[0].to_lowercase().contains("expect"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let body = "0123456789abcdef".repeat(256 * 1024);
    let answer = house.activator.call(&post("/", &body)).await;
    assert!(answer.whole && answer.body == body.as_bytes());
    let record = house.records(1).await[0].1;
    assert_eq!((record.request_bytes, record.response_bytes), (body.len() as u64, body.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_dripping_and_idle_connections_are_closed() {
    let house = House::with(|c| {
        let short = Duration::from_millis(100);
        (c.limits.first_byte, c.limits.head, c.limits.idle) = (short, short, short);
    })
    .await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut silent = house.activator.client().await;
    let mut dripping = house.activator.client().await;
    dripping.send("GET / HT").await;
    let mut idle = house.activator.client().await;
    idle.send(get("/")).await;
    assert_eq!(idle.answer().await.status, 200);
    let answer = dripping.answer().await;
    assert_eq!((answer.status, answer.reason()), (408, Some("RequestTimeout")));
    for client in [&mut silent, &mut dripping, &mut idle] {
        assert!(client.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_gives_its_slot_back_in_time() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        let Some(head) = line.head().await else { return };
        if head.contains("/flood") {
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            for _ in 0..1000 {
                line.send(&chunk).await;
            }
        } else {
            line.answer(b"hello").await;
        }
    })
    .await;
    house.publish(dormouse_proto::v1::Function { timeout_ms: 300, ..ready("hello", origin.addr, 1) }).await;
    let mut client = house.activator.client().await;
    client.send(get("/flood")).await;
    until("it runs", || (origin.seen.requests.lock().len() == 1).then_some(())).await;
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    let record = house.records(1).await[0].1;
    assert_eq!(record.outcome, dormouse_core::record::Outcome::ClientGone);
    assert!(house.controller.instance("i1").is_none_or(|i| !i.retired), "the instance is not to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_cap_are_turned_away() {
    let house = House::with(|c| c.limits.connections_per_address = 3).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut client = house.activator.client().await;
        client.send(get("/")).await;
        assert_eq!(client.answer().await.status, 200);
        inside.push(client);
    }
    let answer = Client::connect(house.activator.addr).await.answer().await;
    assert_eq!((answer.status, answer.reason()), (503, Some("Connections")));
    drop(inside.pop());
    let mut tries = 0;
    loop {
        let mut client = house.activator.client().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, get("/").as_bytes()).await;
        if client.answer().await.status == 200 {
            break;
        }
        tries += 1;
        assert!(tries < 1000, "a place is free again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_and_headers_pass_byte_for_byte_and_in_order() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    for target in ["//a", "/a%2fb", "/?", "/a?b=%20&&c", "/%E2%82%AC", "/a;b=c/../d/./e"] {
        client.send(get(target)).await;
        assert_eq!(client.answer().await.status, 200, "{target}");
        let head = origin.seen.requests.lock().last().unwrap().clone();
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {head}");
    }
    client.send(get("*").replace("GET", "OPTIONS")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send("GET /fn/ns/hello//x%2f?y HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    let more = "X-A: 1\r\nX_B: 2\r\nX-A:  3\r\nX_Forwarded_For: 9.9.9.9\r\nDormouse_Reason: x\r\nX-A: 4";
    client.send(get("/").replace("\r\n\r\n", &format!("\r\n{more}\r\n\r\n"))).await;
    assert_eq!(client.answer().await.status, 200);
    let seen = origin.seen.requests.lock();
    let [.., options, by_path, repeated] = &seen[..] else { panic!("{seen:?}") };
    assert!(options.starts_with("OPTIONS * HTTP/1.1\r\n"), "{options}");
    assert!(by_path.starts_with("GET //x%2f?y HTTP/1.1\r\n"), "{by_path}");
    let values: Vec<_> = repeated.lines().filter_map(|l| l.strip_prefix("x-a: ")).collect();
    assert_eq!(values, ["1", "3", "4"]);
    assert!(repeated.contains("x_b: 2\r\n") && !repeated.contains("9.9.9.9") && !repeated.contains("dormouse_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_round_in_circles_is_stopped() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let via = |times: usize| {
        let via = ["1.1 dormouse"; 9][..times].join(", ");
        get("/").replace("\r\n\r\n", &format!("\r\nVia: 1.1 edge, {via}\r\n\r\n"))
    };
    assert_eq!(house.activator.call(&via(4)).await.status, 200);
    let answer = house.activator.call(&via(5)).await;
    assert_eq!((answer.status, answer.reason()), (508, Some("LoopDetected")));
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_passed_on_as_they_come_and_outlast_idle_timers() {
    let house = House::with(|c| {
        let short = Duration::from_millis(200);
        (c.limits.first_byte, c.limits.head, c.limits.idle) = (short, short, short);
    })
    .await;
    let more = std::sync::Arc::new(tokio::sync::Notify::new());
    let gate = more.clone();
    let origin = Origin::start(move |mut line| {
        let more = gate.clone();
        async move {
            line.request().await;
            line.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for _ in 0..3 {
                line.send("9\r\ndata: x\n\n\r\n").await;
                more.notified().await;
            }
            line.send("0\r\n\r\n").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    assert_eq!(client.head().await.headers["content-type"], "text/event-stream");
    for pause in [0, 0, 2300] {
        assert_eq!(client.chunk().await.unwrap(), b"data: x\n\n", "before the next one is made");
        // The last one is longer than every limit and two looks.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        more.notify_one();
    }
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_both_ways_at_once() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        line.head().await;
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while let Some(chunk) = line.chunk().await {
            line.send(format!("{:x}\r\n", chunk.len())).await;
            line.send([&chunk[..], b"\r\n"].concat()).await;
            if chunk.is_empty() {
                return;
            }
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send("POST / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(client.chunk().await.unwrap(), word.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
    let record = house.records(1).await[0].1;
    assert_eq!((record.request_bytes, record.response_bytes), (11, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_the_clients_fault() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(dormouse_proto::v1::Function { timeout_ms: 200, ..ready("hello", origin.addr, 1) }).await;
    let answer = house.activator.call(&post("/", "0123456789").replace("6789", "")).await;
    assert_eq!((answer.status, answer.reason()), (408, Some("RequestTimeout")));
    until("the instance sees it break", || (origin.seen.broken.load(SeqCst) == 1).then_some(())).await;
    assert!(house.controller.instance("i1").is_none_or(|i| !i.retired), "the instance is not to blame");
    assert_eq!(house.records(1).await[0].1.outcome, dormouse_core::record::Outcome::ClientGone);
}
