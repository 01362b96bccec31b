//! Schedules in the office, between a scripted fleet and scripted activators, in paused time: a call is ordered once its
//! claim is written, and a new life of the controller makes of what it finds what is right.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Asked, BEGAN, House, function_with, with_token};
use dormouse_controller::fleet::Event;
use dormouse_core::function::{Fired, Function, FunctionStatus, ScheduleStatus};
use dormouse_proto::v1::fires_client::FiresClient;
use dormouse_proto::v1::{self, FateState};
use jiff::Timestamp;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Streaming;

/// An activator that takes orders.
struct Taker {
    id: u64,
    reports: mpsc::Sender<v1::FireReport>,
    orders: Streaming<v1::FireOrder>,
}

impl Taker {
    async fn new(house: &House, id: u64, fates: Vec<v1::Fate>) -> Self {
        let (reports, receiver) = mpsc::channel(8);
        let mut taker = v1::FireReport { activator: id, name: format!("a{id}"), fates, ..Default::default() };
        taker.epoch = 1;
        reports.send(taker).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let orders = FiresClient::new(house.channel.clone()).take(with_token(stream)).await.unwrap().into_inner();
        Self { id, reports, orders }
    }

    async fn order(&mut self) -> v1::FireOrder {
        tokio::time::timeout(Duration::from_secs(7200), self.orders.message()).await.unwrap().unwrap().unwrap()
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(5), self.orders.message()).await.is_err()
    }

    async fn say(&self, order: &v1::FireOrder, state: FateState, status: u32, reason: &str) {
        let fate = fate(order.due_us, state, status, reason);
        let (activator, name) = (self.id, format!("a{}", self.id));
        let report = v1::FireReport { activator, name, epoch: 1, fates: vec![fate], ..Default::default() };
        self.reports.send(report).await.unwrap();
    }
}

fn fate(due_us: i64, state: FateState, status: u32, reason: &str) -> v1::Fate {
    v1::Fate {
        function_uid: "f".into(),
        schedule: "s".into(),
        due_us,
        state: state.into(),
        status,
        reason: reason.into(),
        again: true,
    }
}

fn scheduled(more: serde_json::Value) -> Arc<Function> {
    let mut schedule = json!({"name": "s", "cron": "0 * * * *", "body": "{}"});
    schedule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    function_with(json!({"schedules": [schedule]}))
}

/// The next word of the status on the one schedule.
async fn schedule(house: &mut House) -> ScheduleStatus {
    loop {
        let asked = tokio::time::timeout(Duration::from_secs(7200), house.asked.recv()).await;
        if let Asked::Schedules(mut all) = asked.expect("nothing is asked").unwrap() {
            assert_eq!(all.len(), 1);
            return all.remove(0);
        }
    }
}

/// The status, once it says that nothing of the schedule is open.
async fn settled(house: &mut House) -> (Timestamp, Fired, String) {
    loop {
        let status = schedule(house).await;
        if let (true, Some(last)) = (status.open.is_empty(), status.last) {
            return (last.due.0, last.outcome, last.reason);
        }
    }
}

fn hour(n: i64) -> Timestamp {
    Timestamp::from_second(BEGAN.as_second() + n * 3600).unwrap()
}

/// The function with the status that a former life has left.
fn left(function: &Arc<Function>, status: &ScheduleStatus) -> Event {
    let mut function = Function::clone(function);
    function.status = Some(FunctionStatus { schedules: vec![status.clone()], ..FunctionStatus::default() });
    Event::Function(Arc::new(function))
}

fn counts(house: &House) -> Vec<String> {
    let mut lines = house.metrics("dormouse_schedule_due_total{");
    lines.sort();
    let part = |line: String| line.split("outcome=").nth(1).unwrap().to_owned();
    lines.into_iter().map(part).collect()
}

#[tokio::test(start_paused = true)]
async fn a_due_time_is_claimed_then_ordered_once_and_its_end_told() {
    let mut house = House::new().await;
    let mut taker = Taker::new(&house, 1, Vec::new()).await;
    house.see(Event::Function(scheduled(json!({"event": "warm-up"})))).await;
    house.see(Event::Synced).await;
    let first = schedule(&mut house).await;
    assert_eq!((first.next_due.unwrap().0, first.last, first.open.len()), (hour(1), None, 0));
    assert_eq!(first.rule, "0 * * * * UTC");
    let claim = loop {
        let status = schedule(&mut house).await;
        if !status.open.is_empty() {
            break status;
        }
    };
    assert_eq!((claim.open[0].due.0, claim.open[0].activator.as_str()), (hour(1), "a1/0000000000000001/1"));
    assert_eq!(claim.next_due.unwrap().0, hour(2));
    let order = taker.order().await;
    assert_eq!(
        (order.due_us, order.schedule.as_str(), order.event.as_str()),
        (hour(1).as_microsecond(), "s", "warm-up")
    );
    assert_eq!(
        (&order.body[..], order.content_type.as_str(), order.ends_early),
        (&b"{}"[..], "application/json", false)
    );
    taker.say(&order, FateState::Held, 0, "").await;
    assert!(taker.is_silent().await);
    taker.say(&order, FateState::Ended, 204, "").await;
    assert_eq!(settled(&mut house).await, (hour(1), Fired::Ran, "Status204".into()));
    assert_eq!(counts(&house), ["\"ran\"} 1"]);
    let order = taker.order().await;
    assert_eq!(order.due_us, hour(2).as_microsecond());
    taker.say(&order, FateState::Ended, 500, "").await;
    assert_eq!(settled(&mut house).await, (hour(2), Fired::Failed, "Status500".into()));
    assert_eq!(counts(&house), ["\"failed\"} 1", "\"ran\"} 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_now_goes_to_somebody_else() {
    let mut house = House::new().await;
    let mut one = Taker::new(&house, 1, Vec::new()).await;
    house.see(Event::Function(scheduled(json!({})))).await;
    house.see(Event::Synced).await;
    let order = one.order().await;
    let mut two = Taker::new(&house, 2, Vec::new()).await;
    one.say(&order, FateState::Refused, 0, "ShuttingDown").await;
    assert_eq!(two.order().await, order, "the same due time");
    two.say(&order, FateState::Ended, 200, "").await;
    while settled(&mut house).await != (hour(1), Fired::Ran, "Status200".into()) {}
}

/// The status, once it says that this activator may have the one due time.
async fn claimed_by(house: &mut House, activator: &str) {
    while schedule(house).await.open.iter().all(|open| !open.activator.starts_with(activator)) {}
}

#[tokio::test(start_paused = true)]
async fn after_a_write_that_nobody_answered_a_claim_is_written_anew() {
    let mut house = House::new().await;
    let mut one = Taker::new(&house, 1, Vec::new()).await;
    house.see(Event::Function(scheduled(json!({"startingDeadlineSeconds": 600})))).await;
    house.see(Event::Synced).await;
    claimed_by(&mut house, "a1/").await;
    let order = one.order().await;
    let mut two = Taker::new(&house, 2, Vec::new()).await;
    house.unanswered.store(true, Relaxed);
    one.say(&order, FateState::Refused, 0, "NotReady").await;
    claimed_by(&mut house, "a2/").await;
    assert!(two.is_silent().await, "its claim may be none");
    drop(two);
    house.unanswered.store(false, Relaxed);
    // As the last status of which something is known says it; but another one may stand.
    claimed_by(&mut house, "a1/").await;
    assert_eq!(one.order().await, order);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_sent_anew_only_to_who_never_had_it() {
    for (knows, expected) in
        [(None, None), (Some((FateState::Held, 0)), Some("held")), (Some((FateState::Ended, 200)), Some("ran"))]
    {
        let function = scheduled(json!({}));
        let mut house = House::new().await;
        let _one = Taker::new(&house, 1, Vec::new()).await;
        house.see(Event::Function(function.clone())).await;
        house.see(Event::Synced).await;
        let claim = loop {
            let status = schedule(&mut house).await;
            if !status.open.is_empty() {
                break status;
            }
        };
        // The next life, in which it is the beginning again: the due time is ahead by the clock, and claimed all the same.
        let mut house = House::new().await;
        house.see(left(&function, &claim)).await;
        house.see(Event::Synced).await;
        let due_us = hour(1).as_microsecond();
        let fates = knows.map(|(state, status)| fate(due_us, state, status, "")).into_iter().collect();
        let mut one = Taker::new(&house, 1, fates).await;
        match expected {
            None => assert_eq!(one.order().await.due_us, due_us),
            Some("held") => assert!(one.is_silent().await),
            _ => assert_eq!(settled(&mut house).await, (hour(1), Fired::Ran, "Status200".into())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_before_a_status_is_read_is_asked_anew() {
    for knows in [false, true] {
        let claim = ScheduleStatus {
            name: "s".into(),
            rule: "0 * * * * UTC".into(),
            next_due: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hour(1))),
            last: None,
            open: vec![dormouse_core::function::OpenFire {
                due: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hour(0)),
                activator: "a1/0000000000000001/1".into(),
            }],
        };
        let due_us = hour(0).as_microsecond();
        let fates =
            || -> Vec<v1::Fate> { knows.then(|| fate(due_us, FateState::Ended, 200, "")).into_iter().collect() };
        let mut house = House::new().await;
        let mut early = Taker::new(&house, 1, fates()).await;
        let mut other = Taker::new(&house, 2, Vec::new()).await;
        assert!(early.is_silent().await);
        house.see(left(&scheduled(json!({"overlap": "Forbid"})), &claim)).await;
        house.see(Event::Synced).await;
        let ended = tokio::time::timeout(Duration::from_secs(60), early.orders.message()).await.unwrap();
        assert!(matches!(ended, Ok(None)), "{ended:?}");
        let mut again = Taker::new(&house, 1, fates()).await;
        if knows {
            while settled(&mut house).await != (hour(0), Fired::Ran, "Status200".into()) {}
        } else {
            let order = again.order().await;
            assert_eq!(order.due_us, due_us, "it never had it");
            again.say(&order, FateState::Ended, 204, "").await;
            while settled(&mut house).await != (hour(0), Fired::Ran, "Status204".into()) {}
        }
        // The next one is not held up; each has its turn.
        let next = tokio::select! {
            order = again.order() => order,
            order = other.order() => order,
        };
        assert_eq!(next.due_us, hour(1).as_microsecond());
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_activator_had_is_unknown_and_not_sent_anew() {
    for how in ["gone", "next", "silent"] {
        let function = scheduled(json!({}));
        let claim = ScheduleStatus {
            name: "s".into(),
            rule: "0 * * * * UTC".into(),
            next_due: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hour(1))),
            last: None,
            open: vec![dormouse_core::function::OpenFire {
                due: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hour(0)),
                activator: "a1/0000000000000001/1".into(),
            }],
        };
        let mut house = House::new().await;
        house.see(left(&function, &claim)).await;
        house.see(Event::Synced).await;
        let mut two = Taker::new(&house, 2, Vec::new()).await;
        let expected = match how {
            "gone" => {
                house.see(Event::ActivatorGone { name: "a1".into(), lost: false }).await;
                "ActivatorLost"
            }
            "next" => {
                let (reports, receiver) = mpsc::channel(8);
                let next = v1::FireReport { activator: 1, epoch: 2, name: "a1".into(), ..Default::default() };
                reports.send(next).await.unwrap();
                let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
                let mut client = FiresClient::new(house.channel.clone());
                std::mem::forget((client.take(with_token(stream)).await.unwrap(), reports));
                "ActivatorLost"
            }
            _ => "ActivatorSilent",
        };
        assert_eq!(settled(&mut house).await, (hour(0), Fired::Unknown, expected.into()), "{how}");
        assert!(two.is_silent().await, "{how}");
        assert_eq!(counts(&house), ["\"unknown\"} 1"], "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_one_before_runs_the_next_is_skipped_or_ends_it() {
    for overlap in ["Forbid", "Replace"] {
        let mut house = House::new().await;
        let mut taker = Taker::new(&house, 1, Vec::new()).await;
        house.see(Event::Function(scheduled(json!({"overlap": overlap})))).await;
        house.see(Event::Synced).await;
        let first = taker.order().await;
        taker.say(&first, FateState::Held, 0, "").await;
        if overlap == "Forbid" {
            let skipped = loop {
                if let Some(last) = schedule(&mut house).await.last {
                    break (last.due.0, last.outcome, last.reason);
                }
            };
            assert_eq!(skipped, (hour(2), Fired::Skipped, "Overlap".into()));
            assert!(taker.is_silent().await);
            continue;
        }
        let end = taker.order().await;
        assert!(end.end && end.due_us == first.due_us && first.ends_early, "{end:?}");
        assert!(taker.is_silent().await, "not before the former one has ended");
        taker.say(&first, FateState::Ended, 0, "Replaced").await;
        let second = taker.order().await;
        assert_eq!((second.due_us, second.end), (hour(2).as_microsecond(), false));
        assert_eq!(counts(&house), ["\"failed\"} 1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_function_that_is_wrong_or_deleted_is_not_called() {
    for deleted in [false, true] {
        let mut house = House::new().await;
        let mut taker = Taker::new(&house, 1, Vec::new()).await;
        let good = scheduled(json!({"startingDeadlineSeconds": 60}));
        house.see(Event::Function(good.clone())).await;
        house.see(Event::Synced).await;
        let order = taker.order().await;
        taker.say(&order, FateState::Ended, 200, "").await;
        while settled(&mut house).await.0 != hour(1) {}
        let mut bad = Function::clone(&good);
        if deleted {
            let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hour(1));
            bad.metadata.deletion_timestamp = Some(at);
        } else {
            bad.spec.schedules[0].cron = "nonsense".into();
        }
        house.see(Event::Function(Arc::new(bad))).await;
        let late = tokio::time::timeout(Duration::from_secs(3 * 3600 + 1800), taker.orders.message()).await;
        assert!(late.is_err(), "{late:?}");
        if deleted {
            continue;
        }
        // Mended, it goes on with the last one that is not too late: none is.
        house.see(Event::Function(good)).await;
        let order = taker.order().await;
        assert_eq!(order.due_us, hour(5).as_microsecond());
        assert_eq!(counts(&house), ["\"ran\"} 1", "\"skipped\"} 3"]);
    }
}
