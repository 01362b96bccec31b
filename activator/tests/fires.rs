//! Calls that the controller orders: once, with what makes them events, recorded as any call and explained as ordered.

mod common;

use common::{House, Origin, ready, until};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{self, FateState};
use std::sync::{Arc, atomic::Ordering::SeqCst};
use tokio::{io::AsyncWriteExt, sync::Notify};

/// 2026-01-01T00:00:00Z.
const DUE: i64 = 1_767_225_600_000_000;

fn order(due_us: i64) -> v1::FireOrder {
    v1::FireOrder {
        function_uid: "uid-hello".into(),
        schedule: "nightly".into(),
        due_us,
        event: "schedule".into(),
        ..Default::default()
    }
}

impl House {
    async fn order(&self, order: v1::FireOrder) {
        self.controller.order(self.activator.identity.activator, order).await;
    }
}

/// Answers each request when it is told to.
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
async fn an_order_is_one_call_with_its_headers_and_one_record() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let told = v1::FireOrder { body: "{\"a\":1}".into(), content_type: "application/json".into(), ..order(DUE) };
    for _ in 0..2 {
        house.order(told.clone()).await;
    }
    let fate = house.controller.fate(DUE, FateState::Ended).await;
    assert_eq!((fate.status, fate.reason.as_str(), fate.schedule.as_str()), (200, "", "nightly"));
    house.order(told).await;
    house.order(order(DUE + 1)).await;
    house.controller.fate(DUE + 1, FateState::Ended).await;
    let records = house.records(2).await;
    let timed = records[0].1.timed.unwrap();
    assert_eq!((timed.due_us, timed.schedule.as_str(), timed.replaced), (DUE, "nightly", false));
    assert_eq!((records[0].1.outcome, records[0].1.status, records[0].1.request_bytes), (Outcome::Ok, 200, 7));
    let requests = origin.seen.requests.lock().clone();
    assert_eq!(requests.len(), 2, "the same order is the same call: {requests:?}");
    let seen = requests[0].to_lowercase();
    assert!(seen.starts_with("post / http/1.1\r\nhost: hello.ns\r\n"), "{seen}");
    let lines = [
        "content-type: application/json",
        "content-length: 7",
        "dormouse-event: schedule",
        "dormouse-event-time: 2026-01-01t00:00:00z",
        "dormouse-event-name: nightly",
    ];
    for line in lines {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line}: {seen}");
    }
    assert_eq!(seen.matches("\r\ndormouse-").count(), 4, "those and the request's id: {seen}");
    assert!(!seen.contains("forwarded") && seen.contains("\r\ntraceparent: "), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_outside_is_none() {
    let house = House::new().await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let lies = "Dormouse-Event: schedule\r\nDormouse-Event-Time: 2026-01-01T00:00:00Z\r\nDormouse-Event-Name: a\r\n\
                Dormouse_Event: schedule\r\nDormouse-Ends: 1\r\nDormouse-Request-Id: x";
    let answer = house
        .activator
        .call(&format!("POST /fn/ns/hello/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{lies}\r\n\r\n"))
        .await;
    assert_eq!(answer.status, 200);
    let seen = origin.seen.requests.lock()[0].clone();
    assert_eq!(seen.matches("dormouse").count(), 2, "Via, and the request's own id: {seen}");
    assert!(seen.contains(&format!("dormouse-request-id: {}\r\n", answer.headers["dormouse-request-id"])), "{seen}");
    assert_eq!(house.records(1).await[0].1.timed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_why_and_is_no_call() {
    let house = House::new().await;
    let unknown = v1::FireOrder { function_uid: "uid-nobody".into(), ..order(DUE) };
    house.order(unknown).await;
    let fate = house.controller.fate(DUE, FateState::Refused).await;
    assert_eq!((fate.reason.as_str(), fate.again), ("UnknownFunction", true));
    house.publish(v1::Function { closing: true, ..common::function("hello") }).await;
    house.order(order(DUE + 1)).await;
    let fate = house.controller.fate(DUE + 1, FateState::Refused).await;
    assert_eq!((fate.reason.as_str(), fate.again), ("FunctionDeleted", false));
    // Refused is not made: the same order may be given again.
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.order(order(DUE + 1)).await;
    house.controller.fate(DUE + 1, FateState::Ended).await;
    assert_eq!(house.records(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_to_end_is_ended_with_its_instance() {
    let house = House::new().await;
    let origin = patient(Arc::default()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.order(v1::FireOrder { ends_early: true, ..order(DUE) }).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    house.controller.fate(DUE, FateState::Held).await;
    // Another one waits for the slot.
    house.order(v1::FireOrder { ends_early: true, ..order(DUE + 1) }).await;
    house.controller.told(0, "uid-hello", (1, 1)).await;
    for due in [DUE + 1, DUE] {
        house.order(v1::FireOrder { end: true, ..order(due) }).await;
        let fate = house.controller.fate(due, FateState::Ended).await;
        assert_eq!((fate.status, fate.reason.as_str()), (0, "Replaced"));
    }
    let records = house.records(1).await;
    let (record, timed) = (records[0].1, records[0].1.timed.unwrap());
    assert_eq!((record.outcome, record.status, timed.due_us, timed.replaced), (Outcome::ClientGone, 0, DUE, true));
    until("its instance is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
    house.controller.told(0, "uid-hello", (0, 0)).await;
    assert_eq!(house.controller.records().len(), 1, "the one that waited was never dispatched");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_says_so_and_refuses_for_now() {
    let house = House::with(|config| config.drain_delay = std::time::Duration::from_secs(1)).await;
    house.order(order(DUE)).await;
    house.controller.fate(DUE, FateState::Refused).await;
    house.activator.ask_to_stop();
    until("it says so", || house.controller.fires().last().filter(|report| report.leaving).cloned()).await;
    let origin = Origin::echo().await;
    house.publish(ready("hello", origin.addr, 1)).await;
    house.order(order(DUE + 1)).await;
    let fate = house.controller.fate(DUE + 1, FateState::Refused).await;
    assert_eq!((fate.reason.as_str(), fate.again), ("ShuttingDown", true));
    // What is no order is refused for good, and the stream goes on.
    house.order(v1::FireOrder { event: "a b".into(), ..order(DUE + 2) }).await;
    let fate = house.controller.fate(DUE + 2, FateState::Refused).await;
    assert_eq!((fate.reason.as_str(), fate.again), ("BadOrder", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_says_whose_failure_it_is() {
    for (code, status, outcome) in [
        ("HandlerError", "500 Internal Server Error", Outcome::FunctionError),
        // Any image may say so: it is believed where it answers with an error.
        ("HandlerError", "404 Not Found", Outcome::FunctionError),
        ("HandlerError", "200 OK", Outcome::Ok),
        ("BadEvent", "400 Bad Request", Outcome::Ok),
    ] {
        let house = House::new().await;
        let head = format!("HTTP/1.1 {status}\r\ndormouse-error: {code}\r\ncontent-length: 2\r\n\r\nhi");
        let origin = Origin::start(move |mut line| {
            let head = head.clone();
            async move {
                while line.request().await.is_some() {
                    line.stream.write_all(head.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        house.publish(ready("hello", origin.addr, 1)).await;
        let answer = house.activator.call(&common::client::get("/fn/ns/hello/")).await;
        assert!(answer.text() == "hi" && !answer.headers.contains_key("dormouse-error"), "{answer:?}");
        assert_eq!(house.records(1).await[0].1.outcome, outcome, "{code} {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_of_the_controller_is_told_everything() {
    let mut house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    for due in [DUE, DUE + 1] {
        house.order(order(due)).await;
        house.controller.fate(due, FateState::Held).await;
        until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
        if due == DUE {
            go.notify_one();
            house.controller.fate(due, FateState::Ended).await;
        }
    }
    house.controller.down().await;
    house.controller.up().await;
    let first = until("the first report", || house.controller.fires().into_iter().next()).await;
    let known: Vec<_> = first.fates.iter().map(|f| (f.due_us, f.state(), f.status)).collect();
    assert_eq!(known, [(DUE, FateState::Ended, 200), (DUE + 1, FateState::Held, 0)]);
    assert_eq!(first.forgot_through_us, 0);
    go.notify_one();
    house.controller.fate(DUE + 1, FateState::Ended).await;
    assert_eq!(house.records(2).await.len(), 2);
}
