//! Who pays for a call, and how far records are complete while calls run.

mod common;

use common::{
    House, Origin,
    client::{get, post},
    ready, until,
};
use dormouse_proto::v1;
use std::sync::Arc;
use tokio::sync::Notify;

fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// An instance that answers a POST when it may, and everything else at once.
async fn held(go: Arc<Notify>) -> Origin {
    Origin::start(move |mut line| {
        let go = go.clone();
        async move {
            while let Some(head) = line.head().await {
                line.begin();
                if head.starts_with("POST") {
                    go.notified().await;
                }
                line.answer(b"done").await;
                line.end();
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_paid_for_by_the_tenant_of_when_it_came() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = held(go.clone()).await;
    let paid =
        |tenant: &str| v1::Function { tenant: tenant.to_owned(), concurrency: 2, ..ready("hello", origin.addr, 2) };
    house.publish(paid("ns")).await;
    let mut long = house.activator.client().await;
    long.send(post("/", "")).await;
    until("it runs", || house.controller.demand("uid-hello").filter(|demand| *demand == (0, 1))).await;
    let mut short = house.activator.client().await;
    short.send(get("/")).await;
    assert_eq!(short.answer().await.status, 200);
    house.publish(paid("team")).await;
    short.send(get("/")).await;
    assert_eq!(short.answer().await.status, 200);
    go.notify_one();
    assert_eq!(long.answer().await.status, 200);
    house.publish(paid("ns")).await;
    short.send(get("/")).await;
    assert_eq!(short.answer().await.status, 200);

    let records = house.records(4).await;
    let payers: Vec<(u64, &str)> = records.iter().map(|(s, r)| (r.call, s.tenant.as_str())).collect();
    assert_eq!(payers, [(2, "ns"), (3, "team"), (1, "ns"), (4, "ns")], "whatever was true when it ended");
    assert!(records.iter().all(|(s, _)| s.instance == "i1"), "nothing was started anew");
    assert_eq!(origin.seen.connections.load(std::sync::atomic::Ordering::SeqCst), 2);
    house.activator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_holds_back_how_far_records_are_complete() {
    let house = House::new().await;
    let go = Arc::new(Notify::new());
    let origin = held(go.clone()).await;
    house.publish(ready("hello", origin.addr, 1)).await;
    let before = now_us();
    let last = || house.controller.progress().last().map(|told| told.complete_through_us).unwrap_or_default();
    until("an idle activator's goes with the clock", || (last() > before).then_some(())).await;
    let mut client = house.activator.client().await;
    client.send(post("/", "")).await;
    until("it runs", || house.controller.demand("uid-hello").filter(|demand| *demand == (0, 1))).await;
    let came = now_us();
    let told = house.controller.progress().len();
    until("it is told again", || (house.controller.progress().len() >= told + 2).then_some(())).await;
    assert!(last() <= came, "the call has no record yet");
    go.notify_one();
    assert_eq!(client.answer().await.status, 200);
    until("it has its record", || (last() > came).then_some(())).await;
    let records = house.records(1).await;
    assert!(records[0].1.received_at_us >= before && records[0].1.received_at_us <= came);
    assert!(house.controller.progress().iter().all(|told| !told.over), "it is not over");
    let House { controller, activator, .. } = house;
    activator.stop().await;
    let told = controller.progress();
    assert!(told.last().is_some_and(|told| told.over), "its last word");
    assert!(told.is_sorted_by_key(|told| told.complete_through_us), "{told:?}");
}
