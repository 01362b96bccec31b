//! Ends of responses that wait until the record of their call is on the disk, or in the ledger.

mod common;

use common::{
    Controller, House, Origin, Running,
    client::get,
    function,
    h2c::{self, H2Client, H2Origin},
    instance, ready, ready_h2c, until, within,
};
use dormouse_activator::Syncer;
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{Durability, Function, InstanceState::Ready};
use http::{HeaderMap, HeaderName};
use parking_lot::{Condvar, Mutex};
use std::{
    fs::File,
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::sync::Notify;

/// A disk whose syncs begin, and end when the gate is open.
#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    open: bool,
    /// Syncs fail.
    broken: bool,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { open: false, broken: false }), changed: Condvar::new() })
    }

    fn set(&self, open: bool, broken: bool) {
        *self.state.lock() = State { open, broken };
        self.changed.notify_all();
    }

    fn open(&self) {
        self.set(true, false);
    }
}

impl Syncer for Gate {
    fn sync(&self, _: &File) -> io::Result<()> {
        let mut state = self.state.lock();
        while !state.open {
            // Not for ever: a test that fails must end.
            if self.changed.wait_for(&mut state, Duration::from_secs(20)).timed_out() {
                break;
            }
        }
        if state.open && !state.broken { Ok(()) } else { Err(io::Error::other("scripted")) }
    }
}

fn promising(durability: Durability, function: Function) -> Function {
    Function { durability: durability.into(), ..function }
}

/// A house whose disk is behind a gate, with a function of mode `disk`.
async fn at_disk(function: Function) -> (House, Arc<Gate>) {
    let gate = Gate::closed();
    let syncer = gate.clone();
    let house = House::with(|c| c.syncer = syncer).await;
    house.publish(promising(Durability::Disk, function)).await;
    (house, gate)
}

/// Answers each request with two pieces, the second when it is told to.
async fn in_two(head: &'static str, pieces: [&'static str; 2], go: Arc<Notify>) -> Origin {
    Origin::start(move |mut line| {
        let go = go.clone();
        async move {
            while line.request().await.is_some() {
                line.begin();
                line.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{}", pieces[0])).await;
                go.notified().await;
                line.end();
                line.send(pieces[1]).await;
            }
        }
    })
    .await
}

/// Waits until so many records are written, which is when their ends begin to wait.
async fn written(activator: &Running, count: u32) {
    activator.shows(&format!("dormouse_metering_records_total {count}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_byte_waits_for_the_disk_and_the_instance_does_not() {
    let go = Arc::new(Notify::new());
    let origin = in_two("Content-Length: 10", ["first", " last"], go.clone()).await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    assert_eq!(client.head().await.headers["content-length"], "10");
    assert_eq!(client.exactly(5).await, b"first", "what comes before the end is not held back");
    go.notify_one();
    written(&house.activator, 1).await;
    // The only slot is free, and the connection with it: the next call takes both.
    let mut second = house.activator.client().await;
    second.send(get("/")).await;
    second.head().await;
    assert_eq!(second.exactly(5).await, b"first");
    go.notify_one();
    written(&house.activator, 2).await;
    assert_eq!(origin.seen.connections.load(SeqCst), 1);
    assert!(client.is_silent() && second.is_silent());
    gate.open();
    assert_eq!((client.exactly(5).await, second.exactly(5).await), (b" last".to_vec(), b" last".to_vec()));
    house.activator.shows("dormouse_record_wait_seconds_count{mode=\"disk\"} 2").await;
    assert!(house.activator.metric("dormouse_spool_syncs_total").unwrap() >= 1.0);
    assert!(house.records(2).await.iter().all(|(_, r)| (r.outcome, r.response_bytes) == (Outcome::Ok, 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_length_only_the_end_of_the_stream_waits() {
    let go = Arc::new(Notify::new());
    let origin = in_two("Transfer-Encoding: chunked", ["5\r\nfirst\r\n", "4\r\nlast\r\n0\r\n\r\n"], go.clone()).await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap(), b"first");
    go.notify_one();
    assert_eq!(client.chunk().await.unwrap(), b"last", "it may be the last one or not");
    written(&house.activator, 1).await;
    assert!(client.is_silent());
    gate.open();
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_body_the_head_waits() {
    let origin = Origin::start(|mut line| async move {
        while line.request().await.is_some() {
            line.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    written(&house.activator, 1).await;
    assert!(client.is_silent());
    // One that leaves while it waits is nothing special.
    let mut other = house.activator.client().await;
    other.send(get("/")).await;
    written(&house.activator, 2).await;
    drop(other);
    gate.open();
    assert_eq!(client.answer().await.status, 204);
    client.send(get("/")).await;
    assert_eq!(client.answer().await.status, 204, "the connection goes on");
    assert_eq!(house.records(3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_functions_place_waits_as_well() {
    let origin = Origin::start(|mut line| async move {
        // Breaks off before it has answered.
        line.request().await;
    })
    .await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    written(&house.activator, 1).await;
    assert!(client.is_silent());
    gate.open();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("InstanceDied")));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_http_2_trailers_are_the_end() {
    let origin = H2Origin::start(|mut call| async move {
        let mut out = call.head(200);
        out.send_data("data".into(), false).unwrap();
        let status = [(HeaderName::from_static("grpc-status"), "0".parse().unwrap())];
        out.send_trailers(HeaderMap::from_iter(status)).unwrap();
    })
    .await;
    let (house, gate) = at_disk(ready_h2c("hello", origin.addr, 1)).await;
    let mut client = H2Client::connect(house.activator.addr).await;
    let (response, _) = client.start(h2c::request("GET", "/"), true).await;
    let mut body = within("a head", response).await.unwrap().into_body();
    assert_eq!(within("data", body.data()).await.unwrap().unwrap(), "data");
    written(&house.activator, 1).await;
    let mut end = tokio::spawn(async move { (body.data().await.is_none(), body.trailers().await.unwrap()) });
    tokio::task::yield_now().await;
    assert!(!end.is_finished());
    gate.open();
    let (over, trailers) = within("the end", &mut end).await.unwrap();
    assert!(over);
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_call_that_is_handed_over_who_runs_it_holds_the_end_back() {
    let (controller, gate) = (Controller::start().await, Gate::closed());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let url = controller.url();
    let any = Some("127.0.0.1:0".parse().unwrap());
    let one = Running::start(&url, folders[0].path(), |c| c.peer_listen = any).await;
    let syncer = gate.clone();
    let two = Running::start(&url, folders[1].path(), |c| (c.peer_listen, c.syncer) = (any, syncer)).await;
    until("both are known", || (controller.peers().len() == 2).then_some(())).await;
    let go = Arc::new(Notify::new());
    let origin = in_two("Content-Length: 10", ["first", " last"], go.clone()).await;
    let told = |slots| Function {
        instances: vec![instance("i1", origin.addr, Ready, slots)],
        holders: vec![two.identity.activator],
        ..promising(Durability::Disk, function("hello"))
    };
    for (activator, slots) in [(&one, 0), (&two, 1)] {
        let id = activator.identity.activator;
        controller.applied_by(id, controller.set_of(id, told(slots))).await;
    }
    let mut client = one.client().await;
    client.send(get("/fn/ns/hello/")).await;
    client.head().await;
    assert_eq!(client.exactly(5).await, b"first");
    go.notify_one();
    written(&two, 1).await;
    assert!(client.is_silent());
    gate.open();
    assert_eq!(client.exactly(5).await, b" last");
    assert_eq!(
        (one.metric("dormouse_handed_over_total"), one.metric("dormouse_metering_records_total")),
        (Some(1.0), Some(0.0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_breaks_the_response_off_and_the_spool_recovers() {
    let origin = Origin::echo().await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    written(&house.activator, 1).await;
    gate.set(true, true);
    let mut answer = client.head().await;
    client.body(&mut answer).await;
    assert!(!answer.whole, "{answer:?}");
    house
        .activator
        .shows("dormouse_proxy_errors_total{namespace=\"ns\",function=\"hello\",kind=\"not_recorded\"} 1")
        .await;
    gate.open();
    // As often as it takes: calls are refused until a new segment was begun.
    until("it takes calls again", || house.activator.health.is_ready().then_some(())).await;
    let answer = loop {
        let answer = house.activator.call(&get("/")).await;
        if answer.reason() != Some("SpoolFull") {
            break answer;
        }
    };
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(house.records(2).await.len(), 2, "the record of the call that broke off stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_the_ledger() {
    let (house, origin) = (House::new().await, Origin::echo().await);
    house.publish(promising(Durability::Ledger, ready("hello", origin.addr, 1))).await;
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    assert_eq!(house.controller.records().len(), 1, "acknowledged before the response ended");
    house.controller.deaf(true);
    let mut client = house.activator.client().await;
    client.send(get("/")).await;
    let head = client.head().await;
    until("its frame came", || (house.controller.unheard() > 0).then_some(())).await;
    assert!(client.is_silent(), "{head:?}");
    // Whoever waits does not hold the instance.
    let mut second = house.activator.client().await;
    second.send(get("/")).await;
    second.head().await;
    written(&house.activator, 3).await;
    house.controller.deaf(false);
    assert_eq!((client.exactly(5).await, second.exactly(5).await), (b"hello".to_vec(), b"hello".to_vec()));
    assert_eq!(house.records(3).await.len(), 3);
    house.activator.shows("dormouse_record_wait_seconds_count{mode=\"ledger\"} 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_ledger_is_away_ends_break_off_in_time_and_records_stay() {
    let (house, origin) = (House::new().await, Origin::echo().await);
    let short = Function { timeout_ms: 200, ..ready("hello", origin.addr, 1) };
    house.publish(promising(Durability::Ledger, short)).await;
    house.controller.deaf(true);
    let broken = house.activator.call(&get("/")).await;
    assert_eq!((broken.status, broken.whole, broken.body.len()), (200, false, 0));
    let line = "dormouse_proxy_errors_total{namespace=\"ns\",function=\"hello\",kind=\"not_recorded\"} 1";
    house.activator.shows(line).await;
    house.controller.deaf(false);
    house.records(1).await;
    let answer = house.activator.call(&get("/")).await;
    assert_eq!((answer.status, answer.whole), (200, true));
    let records = house.records(2).await;
    assert_eq!(records.iter().map(|(_, r)| r.outcome).collect::<Vec<_>>(), [Outcome::Ok, Outcome::Ok]);
    assert_eq!(house.controller.epochs(), [(house.activator.identity.activator, 1, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_breaks_the_response_off_in_time() {
    let origin = Origin::echo().await;
    let (house, gate) = at_disk(Function { timeout_ms: 200, ..ready("hello", origin.addr, 1) }).await;
    let broken = house.activator.call(&get("/")).await;
    assert_eq!((broken.status, broken.whole, broken.body.len()), (200, false, 0));
    gate.open();
    assert_eq!(house.activator.call(&get("/")).await.text(), "hello");
    assert_eq!(house.records(2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_may_change_and_process_waits_for_nothing() {
    let origin = Origin::echo().await;
    let (house, gate) = at_disk(ready("hello", origin.addr, 1)).await;
    for durability in [Durability::Process, Durability::Unspecified] {
        house.publish(promising(durability, ready("hello", origin.addr, 1))).await;
        assert_eq!(house.activator.call(&get("/")).await.text(), "hello", "with the gate shut");
    }
    assert!(!house.activator.metrics().contains("dormouse_record_wait_seconds_count{"));
    gate.open();
}
