//! Clients that leave, instances that die, rooms that fill, controllers that are away.

mod common;

use common::{
    House, Origin,
    client::{get, post},
    free_addr, function, instance, ready, until,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{
    Failure, Function,
    InstanceState::{Draining, Ready, Starting},
};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use tokio::{io::AsyncWriteExt, sync::Notify};

/// An instance that answers when it is told to.
async fn patient(go: Arc<Notify>) -> Origin {
    Origin::start(move |mut line| {
        let go = go.clone();
        async move {
            while line.request().await.is_some() {
                line.begin();
                go.notified().await;
                line.end();
                line.answer(b"late").await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_call_whose_client_leaves_is_dropped() {
    let house = House::new().await;
    house.publish(function("hello")).await;
    let mut client = house.activator.client().await;
    // A body that is not read while the call waits. No more of it than the sockets hold: the end of a larger one stays
    // behind it in the client's kernel, and is seen only when the wait is over.
    client.send(post("/", &"x".repeat(1_000_000)).split_at(20_000).0).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    drop(client);
    until("it is dropped", || (house.controller.demand("uid-hello") == Some((0, 0))).then_some(())).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    assert_eq!(house.activator.call(&get("/mine")).await.status, 200);
    assert_eq!(origin.seen.requests.lock().len(), 1, "the call that left was never sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_call_whose_client_leaves_runs_to_its_end() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    drop(client);
    let mut second = house.activator.client().await;
    second.send(get("/second")).await;
    until("the second waits", || (house.controller.demand("uid-hello") == Some((1, 1))).then_some(())).await;
    assert_eq!(origin.seen.most.load(SeqCst), 1, "its slot stays taken");
    go.notify_one();
    until("the second runs", || (origin.seen.requests.lock().len() == 2).then_some(())).await;
    let record = house.records(1).await[0].1;
    assert_eq!((record.outcome, record.status, record.response_bytes), (Outcome::ClientGone, 0, 4));
    go.notify_one();
    assert_eq!(second.answer().await.text(), "late");
    assert_eq!(origin.seen.connections.load(SeqCst), 1, "the connection was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_within_the_response_is_recorded() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            line.request().await;
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
            go.notified().await;
            line.send("3\r\ntwo\r\n0\r\n\r\n").await;
            while line.head().await.is_some() {}
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.unwrap(), b"one");
    drop(client);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(house.controller.records().is_empty());
    go.notify_one();
    let record = house.records(1).await[0].1;
    assert_eq!((record.outcome, record.status, record.response_bytes), (Outcome::ClientGone, 200, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_never_looks_whole() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let chunked = "POST / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    let halves = [
        post("/", "0123456789").replace("6789", ""),
        format!("{chunked}5\r\nhello\r\n"),
        format!("{chunked}5\r\nhello\r\nzz\r\n"),
    ];
    for (i, half) in halves.iter().enumerate() {
        let mut client = house.activator.client().await;
        client.send(half).await;
        until("it runs", || (origin.seen.requests.lock().len() == i + 1).then_some(())).await;
        client.stream.shutdown().await.unwrap();
        let record = house.records(i + 1).await[i].1;
        assert_eq!(record.outcome, Outcome::ClientGone, "{half}");
        until("it breaks", || (origin.seen.broken.load(SeqCst) == i + 1).then_some(())).await;
        // A clean end of the connection would be one of the body for servers that do not count.
        assert_eq!(origin.seen.reset.load(SeqCst), i + 1, "{half}");
    }
    assert_eq!(origin.seen.whole.load(SeqCst), 0);
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_before_the_first_byte_is_a_502_and_no_second_try() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        line.request().await;
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let answer = house.activator.call(&post("/", "once")).await;
    assert_eq!((answer.status, answer.reason()), (502, Some("InstanceDied")));
    let record = house.records(1).await[0].1;
    assert_eq!((record.status, record.outcome, record.request_bytes), (502, Outcome::FunctionError, 4));
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_within_its_response_is_a_broken_transfer() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        let head = line.head().await.unwrap();
        if head.contains("/chunked") {
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        } else {
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    for (i, path) in ["/chunked", "/sized"].iter().enumerate() {
        let answer = house.activator.call(&get(path)).await;
        assert_eq!((answer.status, answer.whole), (200, false), "{path}");
        let record = house.records(i + 1).await[i].1;
        assert_eq!((record.status, record.outcome), (200, Outcome::FunctionError));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_over_is_a_504_and_its_instance_is_retired() {
    let house = House::new().await;
    let stuck = Origin::start(|mut line| async move {
        line.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    house.publish(Function { timeout_ms: 50, ..ready("hello", stuck.addr, 2) }).await;
    let answer = house.activator.call(&get("/")).await;
    assert_eq!((answer.status, answer.reason()), (504, Some("Timeout")));
    let record = house.records(1).await[0].1;
    assert_eq!((record.status, record.outcome), (504, Outcome::Timeout));
    until("it is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
    let good = Origin::echo().await;
    let instances = vec![instance("i1", stuck.addr, Ready, 2), instance("i2", good.addr, Ready, 2)];
    house.publish(Function { instances, ..function("hello") }).await;
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    assert_eq!(stuck.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_too_slow_with_its_body_is_told_so_and_the_instance_stays() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(Function { timeout_ms: 100, ..ready("hello", origin.addr, 1) }).await;
    let answer = house.activator.call(post("/", "0123456789").trim_end_matches("6789")).await;
    assert_eq!((answer.status, answer.reason()), (408, Some("RequestTimeout")));
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::ClientGone);
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_room_refuses_and_the_longest_wait_ends() {
    let house = House::with(|c| c.limits.waiting = 3).await;
    house.publish(Function { queue_max_calls: 2, queue_max_wait_ms: 300, ..function("hello") }).await;
    house
        .publish(Function { queue_max_wait_ms: 300, waiting_reason: "Unschedulable".into(), ..function("other") })
        .await;
    let (mut a, mut b) = (house.activator.client().await, house.activator.client().await);
    a.send(get("/")).await;
    b.send(get("/")).await;
    until("two wait", || (house.controller.demand("uid-hello") == Some((2, 0))).then_some(())).await;
    let answer = house.activator.call(&get("/")).await;
    assert_eq!((answer.status, answer.reason()), (429, Some("QueueFull")));
    assert!(answer.headers.contains_key("retry-after"));
    let other = get("/").replace("hello", "other");
    let mut c = house.activator.client().await;
    c.send(&other).await;
    until("three wait", || (house.controller.demand("uid-other") == Some((1, 0))).then_some(())).await;
    let answer = house.activator.call(&other).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("QueueFull")));
    assert_eq!(a.answer().await.reason(), Some("WaitTimeout"));
    assert_eq!(b.answer().await.status, 503);
    assert_eq!(c.answer().await.reason(), Some("Unschedulable"));
    assert!(house.controller.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_waiting_calls_have_a_bound_in_bytes() {
    // Half of it for one function.
    let house = House::with(|c| c.limits.waiting_bytes = 20_000).await;
    house.publish(function("hello")).await;
    house.publish(function("other")).await;
    let large = get("/").replace("\r\n\r\n", &format!("\r\nX-Large: {}\r\n\r\n", "x".repeat(6_000)));
    let mut first = house.activator.client().await;
    first.send(&large).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let answer = house.activator.call(&large).await;
    assert_eq!((answer.status, answer.reason()), (503, Some("QueueFull")));
    assert!(answer.headers.contains_key("retry-after"));
    let mut other = house.activator.client().await;
    other.send(large.replace("hello", "other")).await;
    until("another function has room", || (house.controller.demand("uid-other") == Some((1, 0))).then_some(())).await;
    let mut small = house.activator.client().await;
    small.send(get("/")).await;
    until("a small one waits", || (house.controller.demand("uid-hello") == Some((2, 0))).then_some(())).await;
    drop(first);
    until("the first left", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let mut second = house.activator.client().await;
    second.send(&large).await;
    until("there is room again", || (house.controller.demand("uid-hello") == Some((2, 0))).then_some(())).await;
}

/// An instance that sends for ever, without a pause.
async fn endless() -> Origin {
    Origin::start(|mut line| async move {
        line.request().await;
        line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while line.stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_end_is_cut_in_time() {
    for (leaves, outcome) in [(false, Outcome::Timeout), (true, Outcome::ClientGone)] {
        let house = House::new().await;
        let origin = endless().await;
        house.publish(Function { timeout_ms: 300, ..ready("hello", origin.addr, 1) }).await;
        let mut client = house.activator.client().await;
        client.send(get("/")).await;
        assert_eq!(client.head().await.status, 200);
        if !leaves {
            let _ = tokio::io::copy(&mut client.stream, &mut tokio::io::sink()).await;
        }
        drop(client);
        assert_eq!(house.records(1).await[0].1.outcome, outcome);
        until("it is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_trailers_leaves_its_connection_in_use() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    for _ in 0..3 {
        client
            .send(
                "POST / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
            )
            .await;
        assert_eq!(client.answer().await.text(), "hello");
    }
    assert_eq!(origin.seen.connections.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_deletion_and_closing_release_who_waits_at_once() {
    let house = House::new().await;
    let answers = [
        (
            Function { failure: Some(Failure { code: "ImagePullFailed".into(), status: 502 }), ..function("hello") },
            502,
            "ImagePullFailed",
        ),
        (Function { closing: true, ..function("hello") }, 503, "FunctionDeleted"),
    ];
    for (change, status, reason) in answers {
        house.publish(function("hello")).await;
        let mut client = house.activator.client().await;
        let mark = house.controller.mark();
        client.send(get("/")).await;
        house.controller.told(mark, "uid-hello", (1, 0)).await;
        let mark = house.controller.mark();
        house.publish(change).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (status, Some(reason)));
        house.controller.told(mark, "uid-hello", (0, 0)).await;
        assert_eq!(house.activator.call(&get("/")).await.reason(), Some(reason), "new ones too");
    }
    house.publish(function("hello")).await;
    let mut client = house.activator.client().await;
    let mark = house.controller.mark();
    client.send(get("/")).await;
    house.controller.told(mark, "uid-hello", (1, 0)).await;
    house.controller.remove("uid-hello");
    assert_eq!(client.answer().await.reason(), Some("FunctionDeleted"));
    assert_eq!(house.activator.call(&get("/")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_vanishes_keeps_its_running_call() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    house.publish(function("hello")).await;
    house.controller.remove("uid-hello");
    go.notify_one();
    assert_eq!(client.answer().await.text(), "late");
    assert_eq!(house.records(1).await[0].1.outcome, Outcome::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_only_as_long_as_the_instance_surely_keeps_it() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while let Some(head) = line.head().await {
            let more = if head.contains("/short") { "Keep-Alive: timeout=1\r\n" } else { "" };
            line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{more}\r\nok")).await;
        }
    })
    .await;
    house.publish(ready("hello", origin.addr, 1)).await;
    for (path, connections) in [("/short", 1), ("/short", 2), ("/long", 3), ("/long", 3)] {
        assert_eq!(house.activator.call(&get(path)).await.status, 200);
        assert_eq!(origin.seen.connections.load(SeqCst), connections, "{path}");
    }
    // Nothing is advertised: kept for less than a second.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(house.activator.call(&get("/long")).await.status, 200);
    assert_eq!(origin.seen.connections.load(SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connect_sends_the_call_back_to_the_room() {
    let house = House::new().await;
    let addr = free_addr();
    house.publish(ready("hello", addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(post("/", "kept")).await;
    until("it waits again", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let origin = Origin::start_at(addr, common::origin::echo).await;
    assert_eq!(client.answer().await.text(), "kept");
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_sent_back_is_refused_at_once_when_nothing_can_start() {
    let house = House::new().await;
    let failure = Some(Failure { code: "CrashLoop".into(), status: 503 });
    // Ready by the routes, which holds the failure back, but nothing listens there.
    house.publish(Function { failure, queue_max_wait_ms: 600_000, ..ready("hello", free_addr(), 1) }).await;
    let mark = house.controller.mark();
    let (mut a, mut b) = (house.activator.client().await, house.activator.client().await);
    a.send(get("/")).await;
    b.send(get("/")).await;
    for answer in [a.answer().await, b.answer().await] {
        assert_eq!((answer.status, answer.reason()), (503, Some("CrashLoop")));
    }
    house.controller.told(mark, "uid-hello", (0, 0)).await;
    assert!(house.controller.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_controller_it_serves_on_and_tells_all_on_return() {
    let mut house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.publish(Function { queue_max_wait_ms: 60_000, ..function("other") }).await;
    let mut waiter = house.activator.client().await;
    waiter.send(get("/").replace("hello", "other")).await;
    until("it waits", || (house.controller.demand("uid-other") == Some((1, 0))).then_some(())).await;
    house.controller.down().await;
    for _ in 0..10 {
        assert_eq!(house.activator.call(&get("/")).await.status, 200);
    }
    house.controller.up().await;
    until("demand is whole", || (house.controller.demand("uid-other") == Some((1, 0))).then_some(())).await;
    assert!(house.controller.reports()[0].whole);
    assert_eq!(house.records(10).await.len(), 10);
    house
        .publish(Function {
            uid: "uid-other".into(),
            name: "other".into(),
            hosts: vec![],
            ..ready("other", origin.addr, 1)
        })
        .await;
    assert_eq!(waiter.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_broke_while_the_controller_is_away_is_not_dialled_again() {
    let mut house = House::new().await;
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let origin = Origin::start(move |mut line| {
        let go = gate.clone();
        async move {
            line.request().await;
            go.notified().await;
        }
    })
    .await;
    let addr = origin.addr;
    house.publish(ready("hello", addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.requests.lock().len() == 1).then_some(())).await;
    house.controller.down().await;
    go.notify_one();
    assert_eq!(client.answer().await.reason(), Some("InstanceDied"));
    drop(origin);
    // Somebody else has the address now.
    let stranger = until("the port is free", || std::net::TcpListener::bind(addr).ok()).await;
    drop(stranger);
    let stranger = Origin::start_at(addr, common::origin::echo).await;
    client.send(get("/second")).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(stranger.seen.connections.load(SeqCst), 0);
    house.controller.up().await;
    assert_eq!(client.answer().await.status, 200, "confirmed by the new snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_runs_and_ships_what_is_spooled() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    house.activator.ask_to_stop();
    let addr = house.activator.addr;
    until("no new connections", || std::net::TcpStream::connect(addr).is_err().then_some(())).await;
    go.notify_one();
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.headers["connection"].as_str()), ("late", "close"));
    house.activator.stop().await;
    assert_eq!(house.controller.records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_anew_gets_no_call_before_its_port_is_open_again() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    let addr = origin.addr;
    house.publish(ready("hello", addr, 1)).await;
    assert_eq!(house.activator.call(&get("/")).await.status, 200);
    drop(origin);
    house.publish(Function { instances: vec![instance("i1", addr, Starting, 1)], ..function("hello") }).await;
    until("it is told", || house.controller.instance("i1").filter(|i| !i.port_open)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    until("it waits", || (house.controller.demand("uid-hello") == Some((1, 0))).then_some(())).await;
    let _again = Origin::start_at(addr, common::origin::echo).await;
    assert_eq!(client.answer().await.status, 200);
    let records = house.records(2).await;
    assert!(records[1].1.cold);
    until("it is told", || house.controller.instance("i1").filter(|i| i.port_open)).await;
}

/// Calls come, leave, and are served while the instance is drained and brought back: nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_calls_leaves_no_slot_taken_and_no_call_behind() {
    let house = House::new().await;
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.begin();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            line.end();
            line.answer(b"ok").await;
        }
    })
    .await;
    let with = |state| Function {
        instances: vec![instance("i1", origin.addr, state, 3)],
        queue_max_calls: 1000,
        ..function("hello")
    };
    house.publish(with(Ready)).await;
    let calls = (0..300_u64).map(|i| {
        let house = &house;
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(i % 50)).await;
            let mut client = house.activator.client().await;
            client.send(get("/")).await;
            if i % 3 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(i % 7)).await;
                return None;
            }
            Some(client.answer().await.status)
        }
    });
    let flaps = async {
        for state in [Draining, Ready].into_iter().cycle().take(20) {
            house.controller.set(with(state));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (statuses, ()) = tokio::join!(futures::future::join_all(calls), flaps);
    assert!(statuses.iter().flatten().all(|s| *s == 200), "{statuses:?}");
    assert_eq!(statuses.iter().flatten().count(), 200);
    assert!(origin.seen.most.load(SeqCst) <= 3);
    until("idle", || (house.controller.demand("uid-hello") == Some((0, 0))).then_some(())).await;
    let sent = origin.seen.requests.lock().len();
    let records = house.records(sent).await;
    assert_eq!(records.len(), sent, "one record for each call that was sent");
    assert!(records.iter().filter(|(_, r)| r.outcome == Outcome::Ok).count() >= 200);
    assert_eq!(house.controller.instance("i1").map(|i| i.in_flight), Some(0));
}
