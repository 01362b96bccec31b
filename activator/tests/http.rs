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
