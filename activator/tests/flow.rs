//! A call from its client to its record: cold, warm, streamed, refused.

mod common;

use common::{
    House, Origin,
    client::{get, post},
    free_addr, function, instance, ready, until,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::InstanceState::{Draining, Ready, Starting};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_wakes_its_function_and_leaves_one_record() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let addr = free_addr();
    let mut client = house.activator.client().await;
    let asked = Instant::now();
    client.send(post("/path?q=1", "ping")).await;
    until("demand is told", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    // Each part of its time has a length of its own.
    let (claim, start) = (Duration::from_millis(70), Duration::from_millis(30));
    tokio::time::sleep(claim).await;
    let starting = instance("i1", addr, Starting, 1);
    house.publish(dormouse_proto::v1::Function { instances: vec![starting], ..function("hello") }).await;
    tokio::time::sleep(start).await;
    let origin = Origin::start_at(addr, common::origin::echo).await;
    let answer = client.answer().await;
    let whole = asked.elapsed();
    assert_eq!((answer.status, answer.text()), (200, "ping"), "{answer:?}");
    let id: dormouse_core::RequestId = answer.headers["dormouse-request-id"].parse().unwrap();
    assert_eq!((id.activator, id.epoch), (house.activator.identity.activator, 1));
    assert!(answer.headers["server-timing"].starts_with("wait;dur="), "{answer:?}");
    assert_eq!(origin.seen.connections.load(SeqCst), 1, "the connection that opened is the one used");

    let records = house.records(1).await;
    let (subject, record) = &records[0];
    assert_eq!((subject.name.as_str(), subject.revision.as_str(), subject.memory_mib), ("hello", "r1", 256));
    assert_eq!((record.status, record.outcome, record.cold), (200, Outcome::Ok, true));
    assert_eq!((record.request_bytes, record.response_bytes, record.call), (4, 4, id.call));
    let us = Duration::from_micros;
    assert!(us(record.claim_us) >= claim && us(record.start_us) >= start && record.run_us > 0, "{record:?}");
    assert!(record.wait_us < record.claim_us, "{record:?}");
    let sum = record.wait_us + record.claim_us + record.start_us + record.connect_us + record.run_us;
    assert!(us(sum) <= whole, "{record:?} took {whole:?} in all");
    let told = until("the end is told", || house.controller.instance("i1").filter(|i| i.in_flight == 0)).await;
    assert!(told.port_open && told.first_call_sent && !told.retired);
    until("idle", || (house.controller.demand("uid-hello") == Some((0, 0))).then_some(())).await;

    client.send(get("/again")).await;
    assert_eq!(client.answer().await.text(), "hello");
    let records = house.records(2).await;
    assert_eq!((records[1].1.cold, records[1].1.start_us), (false, 0));
    assert_eq!(origin.seen.connections.load(SeqCst), 1, "a warm connection is used again");
    house.activator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_opens_is_told_though_no_call_waits() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    let starting = instance("i1", origin.addr, Starting, 1);
    house.publish(dormouse_proto::v1::Function { instances: vec![starting], ..function("hello") }).await;
    let told = until("open", || house.controller.instance("i1").filter(|i| i.port_open)).await;
    assert!(!told.first_call_sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_function_sees_is_what_was_meant() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let request = "GET /fn/ns/hello/a//b%2f?x=%20& HTTP/1.1\r\nHost: 127.0.0.1:80\r\nX-A: 1\r\nX-A: 2\r\n\
        Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nDormouse-Reason: x\r\nX-Forwarded-For: 6.6.6.6\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n";
    assert_eq!(house.activator.call(request).await.status, 200);
    let seen = origin.seen.requests.lock()[0].to_lowercase();
    assert!(seen.starts_with("get /a//b%2f?x=%20& http/1.1\r\n"), "{seen}");
    for there in [
        "host: 127.0.0.1:80\r\n",
        "x-a: 1\r\nx-a: 2\r\n",
        "x-forwarded-prefix: /fn/ns/hello\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "forwarded: for=127.0.0.1;host=\"127.0.0.1:80\";proto=http\r\n",
        "via: 1.1 dormouse\r\n",
    ] {
        assert!(seen.contains(there), "{there} is not in {seen}");
    }
    for gone in ["x-hop", "dormouse", "6.6.6.6", "upgrade", "settings"].iter().filter(|g| **g != "dormouse") {
        assert!(!seen.contains(gone), "{gone} is in {seen}");
    }
    assert!(!seen.contains("dormouse-reason"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_at_once() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        line.head().await;
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while let Some(chunk) = line.chunk().await {
            let text = format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(&chunk));
            line.send(text).await;
            if chunk.is_empty() {
                break;
            }
        }
        while line.head().await.is_some() {}
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send("GET / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(client.chunk().await.unwrap(), word.as_bytes());
    }
    assert!(house.controller.records().is_empty(), "no record before the end");
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
    let record = house.records(1).await[0].1;
    assert_eq!((record.request_bytes, record.response_bytes, record.outcome), (11, 11, Outcome::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_reach_no_function() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let many = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let long = "x".repeat(100_000);
    let h = "Host: hello.ns.example.com\r\n";
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{h}{h}\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: me@hello.ns.example.com\r\n\r\n".to_owned(), 400),
        (format!("GET http://other/ HTTP/1.1\r\n{h}\r\n"), 400),
        (format!("CONNECT hello.ns.example.com:80 HTTP/1.1\r\n{h}\r\n"), 400),
        (format!("POST / HTTP/1.1\r\n{h}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
        (format!("POST / HTTP/1.1\r\n{h}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 400),
        (format!("GET / HTTP/1.1\r\n{h}{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\n{h}X: {long}\r\n\r\n"), 431),
        ("GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n".to_owned(), 404),
        ("GET /fn/ns/nobody/x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
    ];
    for (request, status) in cases {
        let answer = house.activator.call(&request).await;
        assert_eq!(answer.status, status, "{}", &request[..request.len().min(120)]);
        let reason = match status {
            404 => "UnknownFunction",
            431 => "HeadersTooLarge",
            501 => "UnsupportedTransferCoding",
            _ => "BadRequest",
        };
        assert_eq!(answer.reason(), Some(reason));
        assert!(answer.text().contains(&answer.headers["dormouse-request-id"]), "{answer:?}");
        if status == 404 {
            assert!(answer.text().contains("nobody") && !answer.text().contains("hello"), "{answer:?}");
        }
    }
    assert_eq!(origin.seen.connections.load(SeqCst), 0);
    assert!(house.controller.records().is_empty(), "refusals are not recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(format!("{}{}", post("/1", "one"), post("/2", "two"))).await;
    assert_eq!(client.answer().await.text(), "one");
    assert_eq!(client.answer().await.text(), "two");
    assert_eq!(house.records(2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_runs_more_than_its_slots_and_all_are_served() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.begin();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            line.end();
            line.answer(b"ok").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 2)).await;
    let calls = (0..40).map(|_| async {
        let answer = house.activator.call(&get("/")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    });
    futures::future::join_all(calls).await;
    assert!(origin.seen.most.load(SeqCst) <= 2);
    assert_eq!(house.records(40).await.len(), 40);
    until("idle", || (house.controller.demand("uid-hello") == Some((0, 0))).then_some(())).await;
    let told: Vec<_> = house.controller.reports().into_iter().flat_map(|r| r.functions).collect();
    assert!(told.iter().all(|f| f.running <= 2));
    assert!(told.iter().any(|f| f.peak >= 30), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_instance_takes_no_new_calls() {
    let house = House::new().await;
    let (old, new) = (Origin::echo().await, Origin::echo().await);
    let both = |state| dormouse_proto::v1::Function {
        instances: vec![instance("i1", old.addr, state, 4), instance("i2", new.addr, Ready, 4)],
        ..function("hello")
    };
    house.publish(both(Ready)).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    assert_eq!(old.seen.requests.lock().len(), 1, "the older one is used first");
    house.publish(both(Draining)).await;
    for _ in 0..5 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    assert_eq!((old.seen.requests.lock().len(), new.seen.requests.lock().len()), (1, 5));
}
