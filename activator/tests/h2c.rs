//! HTTP/2 as instances speak it: calls that share a connection, are refused unseen, break, and never look whole when they
//! are not.

mod common;

use bytes::Bytes;
use common::{
    House,
    client::{get, post},
    function,
    h2c::{self, H2Client, H2Origin, request, whole},
    instance, ready_h2c, until, within,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{self, Function, InstanceState::Starting};
use h2::Reason;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_http_2_carries_calls_of_both_kinds_of_client_on_one_connection() {
    let house = House::new().await;
    let origin = H2Origin::echo().await;
    house.publish(ready_h2c("hello", origin.addr, 50)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    assert_eq!(client.call(request("POST", "/x?y"), b"ping").await.text(), "ping");
    let answer = house.activator.call(&post("/z", "pong")).await;
    assert_eq!((answer.status, answer.text()), (200, "pong"));
    let head = house.activator.call(&get("/h").replace("GET", "OPTIONS")).await;
    assert_eq!(head.text(), "hello");
    let seen = origin.requests.lock();
    assert_eq!(seen[0].uri.to_string(), "http://hello.ns.example.com/x?y");
    assert_eq!((seen[1].uri.path(), seen[1].headers["content-length"].to_str().unwrap()), ("/z", "4"));
    assert!(seen.iter().all(|h| !h.headers.contains_key("host") && !h.headers.contains_key("transfer-encoding")));
    assert_eq!(origin.connections.load(SeqCst), 1);
}

/// Who has the last byte is done, and would cancel a stream that has not ended: servers count that as an attack.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_ends_after_its_last_byte_is_not_reset() {
    let (house, resets) = (House::new().await, Arc::new(AtomicUsize::new(0)));
    let count = resets.clone();
    let origin = H2Origin::start(move |mut call| {
        let resets = count.clone();
        async move {
            let head = http::Response::builder().header("content-length", "5").body(()).unwrap();
            let mut stream = call.respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
            let reset =
                tokio::time::timeout(Duration::from_millis(100), std::future::poll_fn(|cx| stream.poll_reset(cx)));
            resets.fetch_add(usize::from(reset.await.is_ok()), SeqCst);
            let _ = stream.send_data(Bytes::new(), true);
        }
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 5)).await;
    for _ in 0..3 {
        assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    }
    assert_eq!(resets.load(SeqCst), 0);
    assert!(house.records(3).await.iter().all(|(_, r)| r.outcome == Outcome::Ok && r.response_bytes == 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_at_once_share_connections_up_to_what_the_instance_allows() {
    let (house, go) = (House::new().await, Arc::new(tokio::sync::Semaphore::new(0)));
    let gate = go.clone();
    let origin = H2Origin::start(move |mut call| {
        let go = gate.clone();
        async move {
            go.acquire().await.unwrap().forget();
            call.answer(b"ok");
        }
    })
    .await;
    house.publish(Function { queue_max_calls: 1000, ..ready_h2c("hello", origin.addr, 150) }).await;
    let (mut one, mut two) =
        (H2Client::connect(house.activator.addr).await, H2Client::connect(house.activator.addr).await);
    let mut calls = Vec::new();
    for _ in 0..80 {
        calls.push(one.start(request("GET", "/"), true).await.0);
        calls.push(two.start(request("GET", "/"), true).await.0);
    }
    until("all slots are taken", || (origin.running.load(SeqCst) == 150).then_some(())).await;
    until("the others wait", || (house.controller.demand("uid-hello") == Some((10, 150))).then_some(())).await;
    assert_eq!(origin.connections.load(SeqCst), 2, "100 on the first, 50 on the second");
    go.add_permits(160);
    for call in calls {
        assert_eq!(whole(call).await.text(), "ok");
    }
    assert_eq!(house.records(160).await.len(), 160);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_call_waits_for_the_port_of_an_instance_of_http_2() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (response, mut body) = client.start(request("POST", "/"), false).await;
    body.send_data(Bytes::from_static(b"early"), true).unwrap();
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let origin = H2Origin::echo().await;
    let starting = v1::Instance { h2c: true, ..instance("i1", origin.addr, Starting, 1) };
    house.publish(Function { instances: vec![starting], ..function("hello") }).await;
    assert_eq!(whole(response).await.text(), "early");
    assert_eq!(origin.connections.load(SeqCst), 1, "the connection that opened the port serves the call");
}

/// An instance that refuses its first stream unseen, and echoes the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_refused_unseen_goes_again_with_its_body() {
    let house = House::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let origin = H2Origin::start(move |mut call| {
        let first = count.fetch_add(1, SeqCst) == 1;
        async move {
            if first {
                // Some of the body has left by then.
                let _ = call.request.body_mut().data().await;
                call.respond.send_reset(Reason::REFUSED_STREAM);
            } else if let Some(body) = call.body().await {
                call.answer(&body);
            }
        }
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    assert_eq!(client.call(request("POST", "/"), b"one").await.text(), "one");
    let answer = client.call(request("POST", "/"), b"two").await;
    assert_eq!((answer.status, answer.text()), (200, "two"), "{answer:?}");
    let records = house.records(2).await;
    assert_eq!(records.len(), 2);
    assert_eq!((records[1].1.request_bytes, records[1].1.outcome), (3, Outcome::Ok));
    assert_eq!(origin.connections.load(SeqCst), 2, "the one that refuses gets no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_not_sent_again() {
    let house = House::new().await;
    let origin = H2Origin::start(|mut call| async move {
        call.body().await;
        call.respond.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    let answer = house.activator.call(&post("/", "once")).await;
    assert_eq!((answer.status, answer.reason()), (502, Some("InstanceDied")));
    assert_eq!(origin.requests.lock().len(), 1);
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::FunctionError);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_http_2_never_sees_half_a_body_as_whole() {
    let house = House::new().await;
    let (whole_ones, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (whole_ones.clone(), broken.clone());
    let origin = H2Origin::start(move |mut call| {
        let (whole, broken) = counts.clone();
        async move {
            let count = if call.body().await.is_some() { whole } else { broken };
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 10)).await;
    // Broken off by a client of HTTP/1.1, and by a stream.
    let mut client = house.activator.client().await;
    client.send(post("/", "0123456789").replace("6789", "")).await;
    until("it runs", || (origin.requests.lock().len() == 1).then_some(())).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    until("it breaks", || (broken.load(SeqCst) == 1).then_some(())).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (_response, mut body) = client.start(request("POST", "/"), false).await;
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    until("it runs", || (origin.requests.lock().len() == 2).then_some(())).await;
    body.send_reset(Reason::CANCEL);
    until("it breaks", || (broken.load(SeqCst) == 2).then_some(())).await;
    assert_eq!(whole_ones.load(SeqCst), 0);
    let records = house.records(2).await;
    assert!(records.iter().all(|(_, r)| r.outcome == Outcome::ClientGone), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timed_out_stream_is_reset_at_the_instance_and_the_instance_retired() {
    let house = House::new().await;
    let reset = Arc::new(Notify::new());
    let seen = reset.clone();
    let origin = H2Origin::start(move |mut call| {
        let seen = seen.clone();
        async move {
            let reason = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), Reason::CANCEL);
            seen.notify_one();
        }
    })
    .await;
    house.publish(Function { timeout_ms: 200, ..ready_h2c("hello", origin.addr, 1) }).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("dormouse-reason")), (504, Some("Timeout")));
    within("the reset", reset.notified()).await;
    until("it is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_at_once_and_trailers_end_them() {
    let house = House::new().await;
    let origin = H2Origin::start(|mut call| async move {
        let mut out = call.head(200);
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            out.send_data(data, false).unwrap();
        }
        let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
        trailers.insert("x-end", "1".parse().unwrap());
        trailers.insert("content-length", "9".parse().unwrap());
        out.send_trailers(trailers).unwrap();
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (response, mut body) = client.start(request("POST", "/"), false).await;
    let mut response = within("its head", response).await.unwrap();
    for word in ["one", "two", "three"] {
        body.send_data(Bytes::from(word), false).unwrap();
        let data = within("an echo", response.body_mut().data()).await.unwrap().unwrap();
        assert_eq!(data, word);
        response.body_mut().flow_control().release_capacity(data.len()).unwrap();
    }
    let sent = http::HeaderMap::from_iter([
        (http::HeaderName::from_static("x-sum"), "7".parse().unwrap()),
        (http::header::AUTHORIZATION, "secret".parse().unwrap()),
    ]);
    body.send_trailers(sent).unwrap();
    let answer = h2c::rest(response).await;
    assert_eq!((answer.trailer("x-sum"), answer.trailer("x-end")), (Some("7"), Some("1")));
    assert!(answer.trailer("authorization").is_none() && answer.trailer("content-length").is_none());
    let record = house.records(1).await[0].1;
    assert_eq!((record.request_bytes, record.response_bytes, record.outcome), (11, 11, Outcome::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways_within_the_windows() {
    let house = House::new().await;
    let origin = H2Origin::start(|mut call| async move {
        let mut out = call.head(200);
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            out.send_data(data, false).unwrap();
        }
        out.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 3)).await;
    let body = "0123456789abcdef".repeat(128 * 1024);
    let answer = house.activator.call(&post("/", &body)).await;
    assert!(answer.whole && answer.body == body.as_bytes());
    let mut client = H2Client::connect(house.activator.addr).await;
    let answer = client.call(request("POST", "/"), body.as_bytes()).await;
    assert!(answer.broke.is_none() && answer.body == body.as_bytes());
    let len = body.len() as u64;
    assert!(house.records(2).await.iter().all(|(_, r)| (r.request_bytes, r.response_bytes) == (len, len)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_while_its_client_reads_nothing_of_the_response() {
    let house = House::new().await;
    let took = Arc::new(AtomicUsize::new(0));
    let taken = took.clone();
    let origin = H2Origin::start(move |mut call| {
        let taken = taken.clone();
        async move {
            let mut out = call.head(200);
            // More than every window on the way.
            out.send_data(Bytes::from(vec![b'x'; 1 << 20]), true).unwrap();
            let len = call.body().await.map_or(0, |body| body.len());
            taken.store(len, SeqCst);
        }
    })
    .await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (response, mut body) = client.start(request("POST", "/"), false).await;
    let response = within("its head", response).await.unwrap();
    body.send_data(Bytes::from(vec![b'y'; 1 << 20]), true).unwrap();
    until("the upload came whole", || (took.load(SeqCst) == 1 << 20).then_some(())).await;
    assert_eq!(h2c::rest(response).await.body.len(), 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_an_instance_idles_no_longer_than_is_safe() {
    let house = House::new().await;
    let origin = H2Origin::echo().await;
    house.publish(ready_h2c("hello", origin.addr, 1)).await;
    for _ in 0..3 {
        assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    }
    assert_eq!(origin.connections.load(SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    assert_eq!(origin.connections.load(SeqCst), 2);
}
