//! The office between a scripted fleet and a real gRPC client, in one process and in paused time: what an activator says
//! becomes effects, what the fleet says becomes routes.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use dormouse_controller::doors::{Doors, Token};
use dormouse_controller::fleet::{
    Event, Fleet, FleetError, FunctionUid, Instance, InstanceId, Note, Phase, Target, Victim, Workload,
};
use dormouse_controller::ledger::{Filesystem, LedgerDoor};
use dormouse_controller::metrics::Metrics;
use dormouse_controller::office::{Office, Parts};
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::routes::Routes;
use dormouse_core::function::{Function, FunctionStatus, State};
use dormouse_core::price::PricePlan;
use dormouse_core::revision::Revision;
use dormouse_daemon::Health;
use dormouse_proto::v1::demand_client::DemandClient;
use dormouse_proto::v1::ledger_client::LedgerClient;
use dormouse_proto::v1::routes_client::RoutesClient;
use dormouse_proto::v1::{self, InstanceState};
use prometheus_client::registry::Registry;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};

/// A fleet that writes down what it is asked and answers that it is done.
struct Scripted {
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    asked: mpsc::Sender<Asked>,
}

#[derive(Debug, PartialEq)]
enum Asked {
    Adopt,
    Prepare,
    Scale(u32, Vec<String>),
    Retire(String),
    Remove,
    Report(Option<State>),
    Release,
}

impl Scripted {
    async fn ask(&self, asked: Asked) -> Result<(), FleetError> {
        self.asked.send(asked).await.map_err(|e| FleetError::Failed(e.to_string()))
    }
}

impl Fleet for Scripted {
    fn events(&self) -> Option<mpsc::Receiver<Event>> {
        self.events.lock().unwrap().take()
    }
    async fn adopt(&self, _: &Arc<Function>) -> Result<(), FleetError> {
        self.ask(Asked::Adopt).await
    }
    async fn prepare(&self, _: &Arc<Function>, _: &Target) -> Result<(), FleetError> {
        self.ask(Asked::Prepare).await
    }
    async fn scale(&self, _: &Target, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        self.ask(Asked::Scale(replicas, victims.iter().map(|v| v.name.clone()).collect())).await
    }
    async fn retire(&self, _: &Target, instance: &Victim, _: Duration) -> Result<(), FleetError> {
        self.ask(Asked::Retire(instance.name.clone())).await
    }
    async fn remove(&self, _: &Target) -> Result<(), FleetError> {
        self.ask(Asked::Remove).await
    }
    async fn report(&self, _: &Arc<Function>, status: &FunctionStatus) -> Result<(), FleetError> {
        self.ask(Asked::Report(status.state)).await
    }
    async fn note(&self, _: &Arc<Function>, _: &Note) -> Result<(), FleetError> {
        Ok(())
    }
    async fn release(&self, _: &Arc<Function>) -> Result<(), FleetError> {
        self.ask(Asked::Release).await
    }
}

/// One house: the test speaks as the fleet and as the activator.
struct House {
    events: mpsc::Sender<Event>,
    asked: mpsc::Receiver<Asked>,
    channel: Channel,
    registry: Registry,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl House {
    async fn new() -> Self {
        let (events, receiver) = mpsc::channel(64);
        let (asked_in, asked) = mpsc::channel(64);
        let fleet = Arc::new(Scripted { events: Mutex::new(Some(receiver)), asked: asked_in });
        let (routes, stop, folder) = (Routes::default(), CancellationToken::new(), tempfile::tempdir().unwrap());
        let mut registry = Registry::default();
        let (office, post) = Office::new(Parts {
            events: fleet.events().unwrap(),
            fleet,
            routes: routes.clone(),
            urls: Urls { domain: "localhost".into(), activator: "http://localhost".into() },
            health: Health::default(),
            metrics: Metrics::register(&mut registry),
        });
        tokio::spawn(office.run(stop.clone()));
        // Never opened: waking does not depend on it.
        let ledger = LedgerDoor::new(folder.path(), PricePlan::default(), Filesystem::Checked);
        let doors = Doors { token: Token::new("secret").unwrap(), routes, post, ledger, stop: stop.clone() };
        let (client, server) = tokio::io::duplex(1 << 16);
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server));
        tokio::spawn(doors.router().serve_with_incoming(incoming));
        let mut client = Some(hyper_util::rt::TokioIo::new(client));
        let connector = tower::service_fn(move |_| {
            let client = client.take().ok_or_else(|| std::io::Error::other("one connection only"));
            async move { client }
        });
        let channel = Endpoint::from_static("http://office").connect_with_connector(connector).await.unwrap();
        Self { events, asked, channel, registry, _folder: folder, _stop: stop.drop_guard() }
    }

    /// The metrics' lines that have `part` in them.
    fn metrics(&self, part: &str) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    async fn see(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(3600), self.asked.recv()).await.expect("nothing is asked").unwrap()
    }

    async fn routes(&self) -> Streaming<v1::RouteUpdate> {
        let request = v1::WatchRequest { activator: 1, name: "a".into() };
        RoutesClient::new(self.channel.clone()).watch(with_token(request)).await.unwrap().into_inner()
    }

    async fn report(&self) -> mpsc::Sender<v1::DemandReport> {
        let (sender, receiver) = mpsc::channel(8);
        sender.send(v1::DemandReport { whole: true, name: "a".into(), ..Default::default() }).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut client = DemandClient::new(self.channel.clone());
        tokio::spawn(async move { client.report(with_token(stream)).await });
        sender
    }
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request
}

fn function() -> Arc<Function> {
    let function = json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default", "uid": "f", "generation": 1,
            "finalizers": ["dormouse.dev/drain"]},
        "spec": {"image": "registry/hello:1", "startCheck": "Never", "idleTimeoutSeconds": 10, "concurrency": 5}
    });
    Arc::new(serde_json::from_value(function).unwrap())
}

fn instance(phase: Phase) -> Instance {
    Instance {
        id: InstanceId::from("i"),
        name: "pod".into(),
        function: FunctionUid::from("f"),
        revision: Revision::of(&function().spec),
        address: (phase != Phase::Starting).then(|| "10.0.0.1:8080".parse().unwrap()),
        phase,
        trouble: None,
        restarts: 0,
        image_digest: None,
        memory_mib: 256,
        cpu_millis: 100,
    }
}

fn workload(replicas: u32) -> Event {
    Event::Workload(Workload {
        function: FunctionUid::from("f"),
        revision: Revision::of(&function().spec),
        replicas,
        trouble: None,
    })
}

fn calls(queued: u32, running: u32) -> v1::DemandReport {
    let peak = queued + running;
    v1::DemandReport {
        functions: vec![v1::FunctionDemand { uid: "f".into(), queued, running, peak }],
        ..Default::default()
    }
}

fn on_instance(in_flight: u32) -> v1::DemandReport {
    v1::DemandReport {
        instances: vec![v1::InstanceDemand {
            function_uid: "f".into(),
            id: "i".into(),
            port_open: true,
            in_flight,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn states(update: &v1::RouteUpdate) -> Vec<InstanceState> {
    update.functions.iter().flat_map(|f| f.instances.iter().map(v1::Instance::state)).collect()
}

/// The next update that says something of instances.
async fn next(routes: &mut Streaming<v1::RouteUpdate>) -> (u64, Vec<InstanceState>) {
    let update = routes.message().await.unwrap().unwrap();
    (update.version, states(&update))
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_becomes_an_instance_and_silence_ends_it() {
    let mut house = House::new().await;
    let mut routes = house.routes().await;
    let demand = house.report().await;
    house.see(Event::Function(function())).await;
    house.see(Event::Synced).await;
    let first = routes.message().await.unwrap().unwrap();
    assert!(first.snapshot);
    assert_eq!(first.functions[0].hosts, ["hello.default.localhost", "hello.default"]);
    assert_eq!([house.asked().await, house.asked().await], [Asked::Prepare, Asked::Report(Some(State::Idle))]);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)), "prepared: no longer Unknown");
    house.see(workload(0)).await;

    demand.send(calls(3, 0)).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(1, vec![]));
    house.see(workload(1)).await;
    house.see(Event::Instance(instance(Phase::Starting))).await;
    assert_eq!(house.asked().await, Asked::Report(Some(State::Waking)));
    house.see(Event::Instance(instance(Phase::Running))).await;
    assert_eq!(next(&mut routes).await.1, [InstanceState::Starting], "activators dial it themselves");
    demand.send(on_instance(3)).await.unwrap();
    assert_eq!(next(&mut routes).await.1, [InstanceState::Ready]);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Active)));
    let of = |state: &str| format!("dormouse_replicas{{namespace=\"default\",function=\"hello\",state=\"{state}\"}}");
    let mut lines = house.metrics("dormouse_replicas{");
    lines.sort();
    assert_eq!(lines, [format!("{} 1", of("ready")), format!("{} 0", of("starting"))]);
    for phase in ["start", "ready"] {
        let line = format!("dormouse_cold_start_duration_seconds_count{{phase=\"{phase}\"}} 1");
        assert_eq!(house.metrics("seconds_count{").iter().filter(|l| **l == line).count(), 1, "{line}");
    }
    assert!(house.metrics("dormouse_reconcile_duration_seconds_count")[0].ends_with(|c: char| c != '0'));

    demand.send(calls(0, 3)).await.unwrap();
    demand.send(on_instance(0)).await.unwrap();
    demand.send(calls(0, 0)).await.unwrap();
    let (version, draining) = next(&mut routes).await;
    assert_eq!(draining, [InstanceState::Draining], "the window is over");
    assert_eq!(house.asked().await, Asked::Report(Some(State::Draining)));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(house.asked.try_recv().is_err(), "not before the activator acts by it");
    demand.send(v1::DemandReport { applied_version: version, ..Default::default() }).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(0, vec!["pod".into()]));
    house.see(workload(0)).await;
    house.see(Event::Instance(instance(Phase::Ending))).await;
    assert_eq!(house.asked().await, Asked::Retire("pod".into()));
    house.see(Event::InstanceGone("i".into())).await;
    assert_eq!(next(&mut routes).await.1, []);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let left: Vec<_> = house.metrics("dormouse_replicas{").into_iter().filter(|l| !l.ends_with(" 0")).collect();
    assert_eq!(left, [""; 0]);
    house.see(Event::FunctionGone("f".into())).await;
    house.see(Event::WorkloadGone("f".into(), Revision::of(&function().spec))).await;
    assert_eq!(routes.message().await.unwrap().unwrap().removed, ["f"]);
    assert_eq!(house.metrics("hello"), [""; 0], "the series go with the function");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_routed_before_all_is_known_and_nothing_without_the_token() {
    let house = House::new().await;
    let mut routes = house.routes().await;
    house.see(Event::Function(function())).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), routes.message()).await.is_err(), "not synced");
    house.see(Event::Synced).await;
    assert_eq!(routes.message().await.unwrap().unwrap().functions.len(), 1);
    let request = v1::WatchRequest { activator: 1, name: "a".into() };
    let refused = RoutesClient::new(house.channel.clone()).watch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut ledger = LedgerClient::new(house.channel.clone());
    let frame = v1::Frame { activator: 1, epoch: 1, first_seq: 1, ..Default::default() };
    let code = ledger.append(with_token(frame.clone())).await.unwrap_err().code();
    assert!(matches!(code, Code::Unavailable | Code::InvalidArgument), "{code:?}");
    assert_eq!(ledger.append(frame).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn an_activator_that_comes_back_is_believed_whole() {
    let mut house = House::new().await;
    house.see(Event::Function(function())).await;
    house.see(workload(0)).await;
    house.see(Event::Synced).await;
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let demand = house.report().await;
    demand.send(calls(0, 9)).await.unwrap();
    assert_eq!(house.asked().await, Asked::Scale(2, vec![]));
    assert_eq!(house.asked().await, Asked::Report(Some(State::Waking)));
    house.see(workload(2)).await;
    // It comes back with nothing: its calls are over, and the two that never ran are not wanted after the window.
    let again = house.report().await;
    assert_eq!(house.asked().await, Asked::Scale(0, vec![]));
    drop((demand, again));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_function_is_let_go_when_nothing_is_left() {
    let mut house = House::new().await;
    let mut routes = house.routes().await;
    house.see(Event::Function(function())).await;
    house.see(workload(0)).await;
    house.see(Event::Synced).await;
    assert!(!routes.message().await.unwrap().unwrap().functions[0].closing);
    assert_eq!(house.asked().await, Asked::Report(Some(State::Idle)));
    let mut deleted = Function::clone(&function());
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    house.see(Event::Function(Arc::new(deleted))).await;
    assert!(routes.message().await.unwrap().unwrap().functions[0].closing);
    assert_eq!([house.asked().await, house.asked().await], [Asked::Remove, Asked::Report(Some(State::Draining))]);
    house.see(Event::WorkloadGone("f".into(), Revision::of(&function().spec))).await;
    assert_eq!(house.asked().await, Asked::Release);
    house.see(Event::FunctionGone("f".into())).await;
    assert_eq!(routes.message().await.unwrap().unwrap().removed, ["f"]);
}
