//! Two activators and one function: who is told which share when, by the real wire and in paused time.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{Asked, House, function_with, instance, with_token, workload};
use dormouse_controller::fleet::{Event, Phase};
use dormouse_core::function::Function;
use dormouse_core::revision::Revision;
use dormouse_proto::v1;
use dormouse_proto::v1::demand_client::DemandClient;
use dormouse_proto::v1::routes_client::RoutesClient;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Streaming;

/// One activator, as the test plays it.
struct Activator {
    who: (u64, u32, &'static str),
    routes: Streaming<v1::RouteUpdate>,
    reports: mpsc::Sender<v1::DemandReport>,
    stream: JoinHandle<()>,
    /// As it was told last.
    life: u64,
    version: u64,
    function: v1::Function,
    peers: Vec<String>,
}

impl Activator {
    async fn start(house: &House, who: (u64, u32, &'static str)) -> Self {
        Self::start_with(house, who, v1::DemandReport::default()).await
    }

    /// It is told its routes, then says all that it holds.
    async fn start_with(house: &House, who: (u64, u32, &'static str), whole: v1::DemandReport) -> Self {
        let request = v1::WatchRequest {
            activator: who.0,
            epoch: who.1,
            name: who.2.into(),
            peer_address: format!("10.0.0.{}:8082", who.0),
        };
        let routes = RoutesClient::new(house.channel.clone()).watch(with_token(request)).await.unwrap().into_inner();
        let (reports, receiver) = mpsc::channel(8);
        let mut client = DemandClient::new(house.channel.clone());
        let stream = tokio::spawn(async move {
            let _ = client.report(with_token(tokio_stream::wrappers::ReceiverStream::new(receiver))).await;
        });
        let mut activator = Self {
            who,
            routes,
            reports,
            stream,
            life: 0,
            version: 0,
            function: v1::Function::default(),
            peers: Vec::new(),
        };
        activator.next().await;
        activator.say(v1::DemandReport { whole: true, ..whole }).await;
        activator
    }

    /// The next update, acted by but not acknowledged.
    async fn next(&mut self) {
        let update = self.routes.message();
        let update = tokio::time::timeout(Duration::from_secs(3600), update).await.expect("nothing is told");
        let update = update.unwrap().unwrap();
        (self.life, self.version) = (update.life, update.version);
        if let Some(function) = update.functions.into_iter().next() {
            self.function = function;
        }
        if let Some(peers) = update.peers {
            self.peers = peers.peers.into_iter().map(|p| p.name).collect();
        }
    }

    /// Until it is told so.
    async fn until(&mut self, what: impl Fn(&v1::Function) -> bool) {
        while !what(&self.function) {
            self.next().await;
        }
    }

    /// No other share of its own is told, however long it waits. Who else has some may be.
    async fn is_told_nothing(&mut self) {
        while let Ok(update) = tokio::time::timeout(Duration::from_secs(3), self.routes.message()).await {
            let update = update.unwrap().unwrap();
            self.version = update.version;
            for told in update.functions {
                let shares = |f: &v1::Function| (f.instances.iter().map(|i| i.slots).collect::<Vec<_>>(), f.reserved);
                assert_eq!(shares(&told), shares(&self.function), "{} is told another share", self.who.2);
                self.function = told;
            }
        }
    }

    async fn say(&self, report: v1::DemandReport) {
        let (activator, epoch, name) = self.who;
        let report = v1::DemandReport {
            activator,
            epoch,
            name: name.into(),
            applied_version: self.version,
            applied_life: self.life,
            ..report
        };
        self.reports.send(report).await.unwrap();
    }

    /// It acts by what it was told, with so many calls.
    async fn acts(&self, queued: u32, running: u32) {
        self.say(calls(queued, running)).await;
    }

    /// Its process is killed.
    async fn kill(self) {
        self.stream.abort();
        let _ = self.stream.await;
    }

    fn slots(&self) -> Vec<u32> {
        self.function.instances.iter().map(|i| i.slots).collect()
    }
}

fn calls(queued: u32, running: u32) -> v1::DemandReport {
    let functions =
        vec![v1::FunctionDemand { uid: "f".into(), queued, running, peak: queued + running, reserved: None }];
    let instances = vec![v1::InstanceDemand {
        function_uid: "f".into(),
        id: "i".into(),
        port_open: true,
        in_flight: running,
        ..Default::default()
    }];
    v1::DemandReport { functions, instances, ..Default::default() }
}

fn of(spec: serde_json::Value) -> Arc<Function> {
    function_with(spec)
}

async fn next_scale(house: &mut House) -> (u32, Vec<String>) {
    loop {
        if let Asked::Scale(replicas, victims) = house.asked().await {
            return (replicas, victims);
        }
    }
}

/// A house with an instance that runs and two activators, the first of which has a call waiting.
async fn shared(spec: serde_json::Value) -> (House, Activator, Activator) {
    let house = House::new().await;
    house.see(Event::Function(of(spec.clone()))).await;
    house.see(workload_of(&spec, 1)).await;
    house.see(Event::Synced).await;
    let a = Activator::start(&house, (1, 1, "a")).await;
    let b = Activator::start(&house, (2, 1, "b")).await;
    a.acts(1, 0).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    house.see(Event::Instance(running(&spec, "i"))).await;
    (house, a, b)
}

fn running(spec: &serde_json::Value, id: &str) -> dormouse_controller::fleet::Instance {
    let revision = Revision::of(&of(spec.clone()).spec);
    let address = Some(format!("10.0.1.{}:8080", id.len()).parse().unwrap());
    dormouse_controller::fleet::Instance {
        id: id.into(),
        name: id.into(),
        revision,
        address,
        ..instance(Phase::Running)
    }
}

fn workload_of(spec: &serde_json::Value, replicas: u32) -> Event {
    match workload(replicas) {
        Event::Workload(w) => Event::Workload(dormouse_controller::fleet::Workload {
            revision: Revision::of(&of(spec.clone()).spec),
            ..w
        }),
        other => other,
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_moves_by_revoke_acknowledge_grant() {
    let (_house, mut a, mut b) = shared(json!({"concurrency": 1})).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    assert_eq!((a.slots(), b.slots()), (vec![1], vec![0]), "who waits has the first one");
    a.acts(0, 1).await;
    a.acts(0, 0).await;
    b.acts(1, 0).await;
    a.until(|f| f.instances[0].slots == 0).await;
    b.is_told_nothing().await;
    a.acts(0, 0).await;
    b.until(|f| f.instances[0].slots == 1).await;
    b.acts(0, 1).await;
    a.until(|f| f.holders == [2]).await;
    assert_eq!(a.slots(), [0]);
    a.is_told_nothing().await;
    assert_eq!(a.peers, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn calls_that_still_run_hold_their_slots_after_the_acknowledgement() {
    let (_house, mut a, mut b) = shared(json!({"concurrency": 2})).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    assert_eq!((a.slots(), b.slots()), (vec![1], vec![1]), "one for the call that waits, the other is even");
    b.acts(0, 0).await;
    a.acts(3, 1).await;
    b.until(|f| f.instances[0].slots == 0).await;
    // A call of its own came before that was heard.
    b.acts(0, 1).await;
    a.is_told_nothing().await;
    b.acts(0, 0).await;
    a.until(|f| f.instances[0].slots == 2).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_left_cleanly_leaves_its_slots_at_once() {
    let (_house, mut a, b) = shared(json!({"concurrency": 4})).await;
    a.until(|f| !f.instances.is_empty()).await;
    a.acts(0, 1).await;
    assert!(a.slots()[0] < 4);
    b.say(v1::DemandReport { farewell: true, ..v1::DemandReport::default() }).await;
    drop(b.reports);
    a.until(|f| f.instances[0].slots == 4).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_hands_calls_to_one_that_leaves() {
    let (_house, mut a, mut b) = shared(json!({"concurrency": 4})).await;
    b.until(|f| !f.instances.is_empty()).await;
    b.acts(0, 0).await;
    a.until(|f| f.holders.contains(&2)).await;
    let slots = a.slots();
    b.say(v1::DemandReport { leaving: true, ..calls(0, 0) }).await;
    a.until(|f| !f.holders.contains(&2)).await;
    assert_eq!(a.slots(), slots, "it serves its own callers until it has left");
}

/// Who has calls may be heard after the controller's start later than who waits.
#[tokio::test(start_paused = true)]
async fn after_a_start_reserved_calls_are_granted_only_when_all_have_been_heard() {
    let spec = json!({"concurrency": 5, "reservedConcurrency": 1});
    let house = House::new().await;
    house.see(Event::Function(of(spec.clone()))).await;
    house.see(workload_of(&spec, 1)).await;
    house.see(Event::Instance(running(&spec, "i"))).await;
    house.see(Event::Synced).await;
    let mut a = Activator::start_with(&house, (1, 1, "a"), calls(1, 0)).await;
    a.until(|f| !f.instances.is_empty()).await;
    assert_eq!(a.function.reserved, Some(0));
    a.is_told_nothing().await;
    let mut runs = calls(0, 1);
    runs.functions[0].reserved = Some(1);
    runs.instances[0].slots = Some(1);
    let mut b = Activator::start_with(&house, (2, 1, "b"), runs).await;
    b.until(|f| f.reserved == Some(1)).await;
    // Past the time in which all are heard: the one call that may run does.
    for _ in 0..5 {
        a.acts(1, 0).await;
        while let Ok(update) = tokio::time::timeout(Duration::from_secs(3), a.routes.message()).await {
            let update = update.unwrap().unwrap();
            a.version = update.version;
            assert!(update.functions.iter().all(|f| f.reserved == Some(0)), "{:?}", update.functions);
        }
    }
    b.until(|f| f.reserved == Some(0)).await;
    b.acts(0, 0).await;
    a.until(|f| f.reserved == Some(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_without_a_farewell_frees_no_slot() {
    let (_house, mut a, b) = shared(json!({"concurrency": 4})).await;
    a.until(|f| !f.instances.is_empty()).await;
    a.acts(4, 1).await;
    let before = a.slots()[0];
    assert!(before < 4);
    drop(b.reports);
    a.is_told_nothing().await;
    assert_eq!(a.slots()[0], before);
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_keeps_its_share_until_the_same_process_is_back() {
    let (house, mut a, mut b) = shared(json!({"concurrency": 1})).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    a.acts(0, 1).await;
    a.kill().await;
    b.acts(1, 0).await;
    b.is_told_nothing().await;
    // It was only cut off, and says what it holds.
    let mut whole = calls(0, 0);
    whole.instances[0].slots = Some(1);
    let mut a = Activator::start_with(&house, (1, 1, "a"), whole).await;
    a.until(|f| !f.keep_shares && f.instances[0].slots == 0).await;
    a.acts(0, 0).await;
    b.until(|f| f.instances[0].slots == 1).await;
}

#[tokio::test(start_paused = true)]
async fn slots_of_one_that_was_killed_are_blocked_and_its_instance_is_replaced() {
    let spec = json!({"concurrency": 1, "timeoutSeconds": 30});
    let (mut house, mut a, mut b) = shared(spec.clone()).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    a.acts(0, 1).await;
    b.acts(1, 0).await;
    a.kill().await;
    house.see(Event::ActivatorGone { name: "a".into(), lost: false }).await;
    let began = tokio::time::Instant::now();
    let (replicas, victims) = loop {
        let (replicas, victims) = next_scale(&mut house).await;
        if replicas > 1 {
            break (replicas, victims);
        }
    };
    assert_eq!((replicas, victims), (2, vec![]), "nobody waits for the killed one's calls");
    house.see(workload_of(&spec, 2)).await;
    house.see(Event::Instance(running(&spec, "ii"))).await;
    b.until(|f| f.instances.len() == 2 && f.instances[1].slots == 1).await;
    assert_eq!(b.slots(), [0, 1], "what the killed one ran there may still run");
    let mut there = calls(0, 1);
    there.instances[0].id = "ii".into();
    b.say(there).await;
    // What was wanted at most within the idle time counts on; then the blocked one is all that is too much.
    let victims = loop {
        let (_, victims) = next_scale(&mut house).await;
        if !victims.is_empty() {
            break victims;
        }
    };
    assert_eq!(victims, ["i"]);
    assert!(began.elapsed() >= Duration::from_secs(30), "not before its calls are over");
}

#[tokio::test(start_paused = true)]
async fn another_life_in_the_same_place_ends_the_one_before() {
    let (house, mut a, mut b) = shared(json!({"concurrency": 4, "timeoutSeconds": 30})).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    a.acts(0, 2).await;
    let (mine, its) = (b.slots()[0], a.slots()[0]);
    assert_eq!(mine + its, 4);
    a.kill().await;
    let began = tokio::time::Instant::now();
    let mut a = Activator::start(&house, (1, 2, "a")).await;
    a.until(|f| !f.keep_shares).await;
    a.acts(0, 0).await;
    // Something runs, so that the instance stays.
    b.acts(0, 1).await;
    assert_eq!(a.slots(), [0], "what it had belongs to nobody for now");
    a.until(|f| f.instances[0].slots > 0).await;
    assert!(began.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn reserved_calls_are_shared_out_the_same_way_and_changed_under_load() {
    let spec = |reserved: u32| json!({"concurrency": 5, "reservedConcurrency": reserved});
    let (house, mut a, mut b) = shared(spec(3)).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    let sum = |a: &Activator, b: &Activator| (a.function.reserved.unwrap(), b.function.reserved.unwrap());
    // Raised, then lowered: the sum comes to what is in force.
    for reserved in [3, 6, 2] {
        house.see(Event::Function(of(spec(reserved)))).await;
        for _ in 0..6 {
            for activator in [&mut a, &mut b] {
                if let Ok(Ok(Some(update))) =
                    tokio::time::timeout(Duration::from_secs(2), activator.routes.message()).await
                {
                    activator.version = update.version;
                    if let Some(function) = update.functions.into_iter().next() {
                        activator.function = function;
                    }
                }
                activator.acts(0, 0).await;
            }
        }
        assert_eq!(sum(&a, &b).0 + sum(&a, &b).1, reserved);
    }
}

#[tokio::test(start_paused = true)]
async fn versions_of_another_controllers_life_acknowledge_nothing() {
    let (_house, mut a, mut b) = shared(json!({"concurrency": 1})).await;
    a.until(|f| !f.instances.is_empty()).await;
    b.until(|f| !f.instances.is_empty()).await;
    b.acts(1, 0).await;
    a.acts(0, 0).await;
    a.until(|f| f.instances[0].slots == 0).await;
    let (activator, epoch, name) = a.who;
    let stale = v1::DemandReport {
        activator,
        epoch,
        name: name.into(),
        applied_version: u64::MAX,
        applied_life: a.life ^ 1,
        ..calls(0, 0)
    };
    a.reports.send(stale).await.unwrap();
    b.is_told_nothing().await;
    a.acts(0, 0).await;
    b.until(|f| f.instances[0].slots == 1).await;
}
