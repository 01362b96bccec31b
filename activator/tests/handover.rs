//! Two activators: one that may run no call of a function hands it to the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{
    Client, Controller, Origin, Running,
    client::{get, post},
    function, instance, until,
};
use dormouse_core::record::Outcome;
use dormouse_proto::v1::{self, InstanceState::Ready};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
};
use tokio::sync::Notify;

/// A controller and two activators that take calls over.
struct Two {
    controller: Controller,
    one: Running,
    two: Running,
    _folders: [tempfile::TempDir; 2],
}

impl Two {
    async fn new() -> Self {
        let controller = Controller::start().await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let start = async |folder: &tempfile::TempDir, name: &str| {
            let any = "127.0.0.1:0".parse().unwrap();
            let url = controller.url();
            Running::start(&url, folder.path(), |c| (c.peer_listen, c.name) = (Some(any), name.to_owned())).await
        };
        let (one, two) = (start(&folders[0], "one").await, start(&folders[1], "two").await);
        until("both are known", || (controller.peers().len() == 2).then_some(())).await;
        Self { controller, one, two, _folders: folders }
    }

    /// Tells each its slots of one open instance, and who holds some.
    async fn share(&self, addr: SocketAddr, slots: [u32; 2], reserved: Option<[u32; 2]>) {
        let ids = [&self.one, &self.two].map(|a| a.identity.activator);
        let holds = |n: usize| slots[n] > 0 && reserved.is_none_or(|r| r[n] > 0);
        let holders: Vec<u64> = (0..2).filter(|n| holds(*n)).map(|n| ids[n]).collect();
        // Who loses slots is told first.
        let mut order = [0, 1];
        order.sort_by_key(|n| slots[*n]);
        for n in order {
            let told = v1::Function {
                instances: vec![instance("i1", addr, Ready, slots[n])],
                holders: holders.clone(),
                reserved: reserved.map(|r| r[n]),
                ..function("hello")
            };
            let version = self.controller.set_of(ids[n], told);
            self.controller.applied_by(ids[n], version).await;
        }
    }

    /// Waits until there are so many records.
    async fn recorded(&self, count: usize) {
        until("the records", || (self.controller.records().len() == count).then_some(())).await;
    }

    fn all_records_are_of(&self, who: &Running) {
        assert!(self.controller.epochs().iter().all(|(activator, ..)| *activator == who.identity.activator));
    }

    /// How many calls of the function each was last told to have waiting and running.
    fn demand(&self, of: &Running) -> Vec<(u32, u32)> {
        let reports = self.controller.reports();
        let reports = reports.iter().filter(|r| r.activator == of.identity.activator);
        reports.flat_map(|r| &r.functions).map(|f| (f.queued, f.running)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_call_is_handed_over_with_what_it_says() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 1], None).await;
    let order = v1::FireOrder {
        function_uid: "uid-hello".into(),
        schedule: "nightly".into(),
        due_us: 1_767_225_600_000_000,
        event: "schedule".into(),
        ends_early: true,
        ..Default::default()
    };
    house.controller.order(house.one.identity.activator, order).await;
    let fate = house.controller.fate(1_767_225_600_000_000, v1::FateState::Ended).await;
    assert_eq!((fate.status, fate.reason.as_str()), (200, ""));
    house.recorded(1).await;
    house.all_records_are_of(&house.two);
    let timed = house.controller.records()[0].1.timed.unwrap();
    assert_eq!((timed.due_us, timed.schedule.as_str(), timed.replaced), (1_767_225_600_000_000, "nightly", false));
    let seen = origin.seen.requests.lock()[0].to_lowercase();
    for line in
        ["dormouse-event: schedule", "dormouse-event-time: 2026-01-01t00:00:00z", "dormouse-event-name: nightly"]
    {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{seen}");
    }
    // Those three and the request's id.
    assert_eq!(seen.matches("\r\ndormouse-").count(), 4, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handed_over_order_is_ended_where_it_runs() {
    let house = Two::new().await;
    let origin = patient(Arc::default()).await;
    house.share(origin.addr, [0, 1], None).await;
    let order = |end| v1::FireOrder {
        function_uid: "uid-hello".into(),
        schedule: "nightly".into(),
        due_us: 1,
        event: "schedule".into(),
        ends_early: true,
        end,
        ..Default::default()
    };
    house.controller.order(house.one.identity.activator, order(false)).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    house.controller.order(house.one.identity.activator, order(true)).await;
    house.controller.fate(1, v1::FateState::Ended).await;
    house.recorded(1).await;
    house.all_records_are_of(&house.two);
    let record = house.controller.records()[0].1;
    assert_eq!((record.outcome, record.timed.map(|timed| timed.replaced)), (Outcome::ClientGone, Some(true)));
    until("its instance is retired", || house.controller.instance("i1").filter(|i| i.retired)).await;
}

/// Answers the requests on a connection one by one, each when it is told to.
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
async fn who_has_no_slot_hands_the_call_over_and_records_nothing() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 1], None).await;
    let mut client = house.one.client().await;
    let mut ids = Vec::new();
    for body in ["ping", "pong"] {
        client.send(post("/fn/ns/hello/a%2f/b?q=1", body)).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (200, body), "{answer:?}");
        let id: dormouse_core::RequestId = answer.headers["dormouse-request-id"].parse().unwrap();
        assert_eq!(id.activator, house.two.identity.activator, "who dispatches it records it");
        ids.push(id);
        assert!(answer.headers["server-timing"].starts_with("wait;dur="));
    }
    let seen = origin.seen.requests.lock()[0].to_lowercase();
    // Host is a function's, so the path is the function's own too.
    assert!(seen.starts_with("post /fn/ns/hello/a%2f/b?q=1 http/1.1\r\n"), "{seen}");
    assert_eq!(seen.matches("dormouse-").count(), 1, "{seen}");
    let second = origin.seen.requests.lock()[1].clone();
    assert!(second.contains(&format!("dormouse-request-id: {}\r\n", ids[1])), "{second}");
    assert_eq!(seen.matches("x-forwarded-for: 127.0.0.1\r\n").count(), 1, "{seen}");
    assert_eq!(seen.matches("via: 1.1 dormouse\r\n").count(), 1, "{seen}");
    house.recorded(2).await;
    assert!(house.demand(&house.one).iter().all(|d| *d == (0, 0)), "it is the other's demand");
    house.all_records_are_of(&house.two);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_and_its_prefix_are_as_without_the_hop() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 1], None).await;
    // With a trace of its own: one that is begun here has another id each time.
    let request = "GET /fn/ns/hello/x//y?z HTTP/1.1\r\nHost: other\r\nX-Forwarded-For: 6.6.6.6\r\n\
        Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
        Dormouse-Peer: x\r\nDormouse-Function: y\r\n\r\n";
    assert_eq!(house.one.call(request).await.status, 200);
    assert_eq!(house.two.call(request).await.status, 200);
    let seen = origin.seen.requests.lock().clone();
    let lines = |head: &str| {
        let lines = head.to_lowercase();
        // Each call has an id of its own.
        let mut lines: Vec<String> =
            lines.lines().filter(|line| !line.starts_with("dormouse-request-id: ")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&seen[0]), lines(&seen[1]), "the instance cannot tell");
    assert!(seen[0].starts_with("GET /x//y?z ") && seen[0].to_lowercase().contains("x-forwarded-prefix: /fn/ns/hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_handed_over_when_the_other_gets_the_slots() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 0], None).await;
    let mut client = house.one.client().await;
    client.send(post("/", "later")).await;
    until("it waits", || house.demand(&house.one).contains(&(1, 0)).then_some(())).await;
    house.share(origin.addr, [0, 1], None).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "later"), "{answer:?}");
    until("it waits no longer", || (house.demand(&house.one).last() == Some(&(0, 0))).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handed_over_call_is_not_handed_on() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    // Each believes that the other has the slot.
    let ids = [house.one.identity.activator, house.two.identity.activator];
    for (n, id) in ids.into_iter().enumerate() {
        let told = v1::Function {
            instances: vec![instance("i1", origin.addr, Ready, 0)],
            holders: vec![ids[1 - n]],
            ..function("hello")
        };
        let version = house.controller.set_of(id, told);
        house.controller.applied_by(id, version).await;
    }
    let mut client = house.one.client().await;
    client.send(get("/")).await;
    until("it waits at the second", || house.demand(&house.two).contains(&(1, 0)).then_some(())).await;
    house.share(origin.addr, [1, 0], None).await;
    house.share(origin.addr, [0, 1], None).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_reached_leaves_the_call_here() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    let id = house.one.identity.activator;
    let told = |slots| v1::Function {
        instances: vec![instance("i1", origin.addr, Ready, slots)],
        holders: vec![house.two.identity.activator],
        ..function("hello")
    };
    let version = house.controller.set_of(id, told(0));
    house.controller.applied_by(id, version).await;
    let Two { controller, one, two, _folders } = house;
    two.stop().await;
    let mut client = one.client().await;
    client.send(post("/", "here")).await;
    until("it waits", || {
        let told = controller.reports();
        let mut mine = told.iter().filter(|r| r.activator == id).flat_map(|r| &r.functions);
        mine.any(|f| f.queued == 1).then_some(())
    })
    .await;
    controller.set_of(id, v1::Function { instances: vec![instance("i1", origin.addr, Ready, 1)], ..function("hello") });
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_lost_within_a_call_is_told_as_such() {
    let house = Two::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.share(origin.addr, [0, 1], None).await;
    let mut client = house.one.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    let Two { one, two, controller: _controller, _folders } = house;
    // Its drain limit is over before the call is.
    two.stop().await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("PeerLost")), "{answer:?}");
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_seen_by_the_peer() {
    let house = Two::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.share(origin.addr, [0, 1], None).await;
    let mut client = house.one.client().await;
    client.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    let mut second = house.one.client().await;
    second.send(get("/second")).await;
    until("the second one waits at the peer", || house.demand(&house.two).contains(&(1, 1)).then_some(())).await;
    drop(second);
    until("it is dropped", || (house.demand(&house.two).last() == Some(&(0, 1))).then_some(())).await;
    drop(client);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(origin.seen.running.load(SeqCst), 1, "a dispatched call runs to its end");
    go.notify_one();
    house.recorded(1).await;
    assert_eq!(house.controller.records()[0].1.outcome, Outcome::ClientGone);
    assert_eq!(origin.seen.requests.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_through_the_hop() {
    let house = Two::new().await;
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
    house.share(origin.addr, [0, 1], None).await;
    let mut client = house.one.client().await;
    client.send("POST / HTTP/1.1\r\nHost: hello.ns.example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(client.chunk().await.unwrap(), word.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
    house.recorded(1).await;
    assert_eq!(house.controller.records()[0].1.response_bytes, 11);
}

/// gRPC says how a call went in trailers that no head has announced.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_trailers_waits_for_a_share_here() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 1], None).await;
    let mut client = house.one.client().await;
    client.send(get("/").replace("\r\n\r\n", "\r\nTE: trailers\r\nConnection: te\r\n\r\n")).await;
    until("it waits here", || house.demand(&house.one).contains(&(1, 0)).then_some(())).await;
    assert!(origin.seen.requests.lock().is_empty());
    house.share(origin.addr, [1, 0], None).await;
    assert_eq!(client.answer().await.status, 200);
    house.recorded(1).await;
    house.all_records_are_of(&house.one);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_header_lines_as_a_client_may_send_are_handed_over() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [0, 1], None).await;
    let lines: String = (0..99).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let answer = house.one.call(&get("/").replace("\r\n\r\n", &format!("\r\n{lines}\r\n"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The port is where its former life was: others hand calls there until they are told.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_connects_to_one_that_knows_no_routes_yet() {
    let mut controller = Controller::start().await;
    let url = controller.url();
    controller.down().await;
    let folder = tempfile::tempdir().unwrap();
    let port: SocketAddr = common::free_addr();
    let one = Running::start(&url, folder.path(), |c| c.peer_listen = Some(port)).await;
    let connects = || std::net::TcpStream::connect(port).is_ok();
    for _ in 0..20 {
        assert!(!connects());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    controller.up().await;
    until("it takes calls over", || connects().then_some(())).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_activators_is_for_activators() {
    let house = Two::new().await;
    let origin = Origin::echo().await;
    house.share(origin.addr, [1, 0], None).await;
    let address: SocketAddr = house.controller.peers()[0].address.parse().unwrap();
    for headers in ["", "Dormouse-Peer: wrong\r\nDormouse-Function: uid-hello\r\n", "Dormouse-Peer: secret\r\n"] {
        let mut client = Client::connect(address).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: hello.ns.example.com\r\n{headers}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (401, Some("Unauthorized")), "{headers}");
    }
    assert!(origin.seen.requests.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_calls_run_than_the_share_of_reserved_ones() {
    let house = Two::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    house.share(origin.addr, [5, 5], Some([2, 0])).await;
    let clients = futures_of(&house, 5).await;
    until("two run", || (origin.seen.running.load(SeqCst) == 2).then_some(())).await;
    until("the others wait", || house.demand(&house.one).contains(&(3, 2)).then_some(())).await;
    for _ in 0..5 {
        let ended = origin.seen.whole.load(SeqCst);
        go.notify_one();
        until("the next", || (origin.seen.whole.load(SeqCst) > ended || ended == 5).then_some(())).await;
    }
    for mut client in clients {
        go.notify_one();
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(origin.seen.most.load(SeqCst), 2);
}

/// Calls by both activators in turn.
async fn futures_of(house: &Two, n: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for i in 0..n {
        let mut client = if i % 2 == 0 { house.one.client().await } else { house.two.client().await };
        client.send(get("/")).await;
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_kept_waiting_by_the_reserved_ones_is_told_so() {
    let house = Two::new().await;
    let go = Arc::new(Notify::new());
    let origin = patient(go.clone()).await;
    let id = house.one.identity.activator;
    let told = v1::Function {
        instances: vec![instance("i1", origin.addr, Ready, 5)],
        reserved: Some(1),
        queue_max_wait_ms: 50,
        ..function("hello")
    };
    let version = house.controller.set_of(id, told);
    house.controller.applied_by(id, version).await;
    let mut first = house.one.client().await;
    first.send(get("/")).await;
    until("it runs", || (origin.seen.running.load(SeqCst) == 1).then_some(())).await;
    let answer = house.one.call(&get("/")).await;
    assert_eq!((answer.status, answer.reason()), (429, Some("ReservedConcurrency")), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"));
    go.notify_one();
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_not_dealt_yet_are_kept_and_told_back_whole() {
    let mut house = common::House::new().await;
    let origin = Origin::echo().await;
    house.publish(v1::Function { reserved: Some(3), ..common::ready("hello", origin.addr, 4) }).await;
    house.controller.down().await;
    // The next life of the controller knows nothing of shares.
    house.controller.set(v1::Function {
        keep_shares: true,
        reserved: Some(0),
        ..common::ready("hello", origin.addr, 0)
    });
    house.controller.up().await;
    let whole = until("a whole report", || house.controller.reports().into_iter().find(|r| r.whole)).await;
    assert_eq!(whole.instances.iter().map(|i| i.slots).collect::<Vec<_>>(), [Some(4)]);
    assert_eq!(whole.functions.iter().map(|f| f.reserved).collect::<Vec<_>>(), [Some(3)]);
    assert_eq!(house.activator.call(&get("/")).await.status, 200, "what it held goes on to hold");
}
