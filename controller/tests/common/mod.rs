//! The office between a scripted fleet and a real gRPC client.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "each suite uses a part of it")]

use dormouse_controller::budgets::Budgets;
use dormouse_controller::doors::Doors;
use dormouse_controller::fleet::{
    Event, Fleet, FleetError, FunctionUid, Instance, InstanceId, Note, Parked, Phase, PoolKey, Target, Victim, Workload,
};
use dormouse_controller::ledger::{LedgerDoor, Place};
use dormouse_controller::metrics::Metrics;
use dormouse_controller::office::{Office, Parts};
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::routes::Routes;
use dormouse_controller::tenants::Tenants;
use dormouse_controller::through::Through;
use dormouse_controller::warm_meter::WarmMeter;
use dormouse_core::function::{Function, FunctionStatus, ScheduleStatus, State};
use dormouse_core::price::{Durability, PricePlan};
use dormouse_core::revision::Revision;
use dormouse_daemon::Health;
use dormouse_daemon::Token;
use dormouse_proto::v1::demand_client::DemandClient;
use dormouse_proto::v1::routes_client::RoutesClient;
use dormouse_proto::v1::{self, InstanceState};
use prometheus_client::registry::Registry;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

/// A fleet that writes down what it is asked and answers that it is done.
pub struct Scripted {
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    asked: mpsc::Sender<Asked>,
    tenants: Tenants,
    unanswered: Arc<AtomicBool>,
}

#[derive(Debug, PartialEq)]
pub enum Asked {
    Adopt,
    Prepare,
    Mend,
    Scale(u32, Vec<String>),
    Retire(String),
    Graft(String),
    LookInto(String),
    Remove,
    Report(Option<State>),
    /// What the status says of schedules, where that is something.
    Schedules(Vec<ScheduleStatus>),
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
    fn tenants(&self) -> Tenants {
        self.tenants.clone()
    }
    async fn adopt(&self, _: &Arc<Function>) -> Result<(), FleetError> {
        self.ask(Asked::Adopt).await
    }
    async fn prepare(&self, _: &Arc<Function>, _: &Target) -> Result<(), FleetError> {
        self.ask(Asked::Prepare).await
    }
    async fn mend(&self, _: &Arc<Function>, _: &Target) -> Result<(), FleetError> {
        self.ask(Asked::Mend).await
    }
    async fn scale(&self, _: &Target, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        self.ask(Asked::Scale(replicas, victims.iter().map(|v| v.name.clone()).collect())).await
    }
    async fn retire(&self, _: &Target, instance: &Victim, _: Duration) -> Result<(), FleetError> {
        self.ask(Asked::Retire(instance.name.clone())).await
    }
    async fn graft(&self, _: &Arc<Function>, _: &Target, pod: &Parked, _: u64) -> Result<(), FleetError> {
        self.ask(Asked::Graft(pod.name.clone())).await
    }
    async fn look_into_claim(&self, instance: &Instance) -> Result<(), FleetError> {
        self.ask(Asked::LookInto(instance.name.clone())).await?;
        Err(FleetError::Failed("it was never sent its code".into()))
    }
    async fn remove(&self, _: &Target) -> Result<(), FleetError> {
        self.ask(Asked::Remove).await
    }
    async fn report(&self, _: &Arc<Function>, status: &FunctionStatus) -> Result<(), FleetError> {
        match status.schedules.as_slice() {
            [] => self.ask(Asked::Report(status.state)).await?,
            schedules => self.ask(Asked::Schedules(schedules.to_vec())).await?,
        }
        match self.unanswered.load(Ordering::Relaxed) {
            true => Err(FleetError::TimedOut(Duration::from_secs(1))),
            false => Ok(()),
        }
    }
    async fn note(&self, _: &Arc<Function>, _: &Note) -> Result<(), FleetError> {
        Ok(())
    }
    async fn release(&self, _: &Arc<Function>) -> Result<(), FleetError> {
        self.ask(Asked::Release).await
    }
}

/// One house: the test speaks as the fleet and as the activator.
pub struct House {
    pub events: mpsc::Sender<Event>,
    pub asked: mpsc::Receiver<Asked>,
    pub channel: Channel,
    pub through: Through,
    /// While it is set, statuses are written and nobody is told so.
    pub unanswered: Arc<AtomicBool>,
    registry: Registry,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl House {
    pub async fn new() -> Self {
        Self::with(Tenants::of_themselves()).await
    }

    /// One in which these tenants pay.
    pub async fn with(tenants: Tenants) -> Self {
        let (events, receiver) = mpsc::channel(64);
        let (asked_in, asked) = mpsc::channel(64);
        let unanswered = Arc::<AtomicBool>::default();
        let (events_out, told) = (Mutex::new(Some(receiver)), unanswered.clone());
        let fleet = Arc::new(Scripted { events: events_out, asked: asked_in, tenants, unanswered: told });
        let (routes, stop, folder) = (Routes::default(), CancellationToken::new(), tempfile::tempdir().unwrap());
        // Never opened: waking does not depend on it.
        let ledger = LedgerDoor::new(Place::folder(folder.path()), PricePlan::default());
        let mut registry = Registry::default();
        let warm_meter = WarmMeter::default();
        let (office, post) = Office::new(Parts {
            events: fleet.events().unwrap(),
            fleet,
            routes: routes.clone(),
            urls: Urls { domain: "localhost".into(), activator: "http://localhost".into() },
            durability: Durability::Disk,
            health: Health::default(),
            metrics: Metrics::register(&mut registry),
            warm_meter: warm_meter.clone(),
            through: ledger.through().clone(),
            wall: wall(),
        });
        tokio::spawn(office.run(stop.clone()));
        let through = ledger.through().clone();
        let budgets = Budgets::none();
        let doors = Doors { token: Token::new("secret").unwrap(), routes, post, ledger, budgets, stop: stop.clone() };
        let (client, server) = tokio::io::duplex(1 << 16);
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(server));
        tokio::spawn(doors.router().serve_with_incoming(incoming));
        let mut client = Some(hyper_util::rt::TokioIo::new(client));
        let connector = tower::service_fn(move |_| {
            let client = client.take().ok_or_else(|| std::io::Error::other("one connection only"));
            async move { client }
        });
        let channel = Endpoint::from_static("http://office").connect_with_connector(connector).await.unwrap();
        Self { events, asked, channel, through, unanswered, registry, _folder: folder, _stop: stop.drop_guard() }
    }

    /// The metrics' lines that have `part` in them.
    pub fn metrics(&self, part: &str) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    pub async fn see(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    pub async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(3600), self.asked.recv()).await.expect("nothing is asked").unwrap()
    }

    pub async fn routes(&self) -> Streaming<v1::RouteUpdate> {
        self.routes_of(1, "a").await
    }

    pub async fn routes_of(&self, activator: u64, name: &str) -> Streaming<v1::RouteUpdate> {
        let request = v1::WatchRequest { activator, name: name.into(), ..Default::default() };
        RoutesClient::new(self.channel.clone()).watch(with_token(request)).await.unwrap().into_inner()
    }

    pub async fn report(&self) -> mpsc::Sender<v1::DemandReport> {
        let (sender, receiver) = mpsc::channel(8);
        let whole = v1::DemandReport { whole: true, activator: 1, name: "a".into(), ..Default::default() };
        sender.send(whole).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut client = DemandClient::new(self.channel.clone());
        tokio::spawn(async move { client.report(with_token(stream)).await });
        sender
    }
}

/// The clock on the wall goes as tokio's does, and begins at [`BEGAN`].
fn wall() -> dormouse_controller::office::Wall {
    let began = tokio::time::Instant::now();
    Arc::new(move || BEGAN.checked_add(jiff::SignedDuration::try_from(began.elapsed()).unwrap()).unwrap())
}

/// 2026-01-01T00:00:00Z.
pub const BEGAN: jiff::Timestamp = jiff::Timestamp::constant(1_767_225_600, 0);

pub fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request
}

pub fn function() -> Arc<Function> {
    function_with(json!({}))
}

pub fn function_with(spec: serde_json::Value) -> Arc<Function> {
    let mut function = json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "hello", "namespace": "default", "uid": "f", "generation": 1,
            "finalizers": ["dormouse.dev/drain"]},
        "spec": {"image": "registry/hello:1", "startCheck": "Never", "idleTimeoutSeconds": 10, "concurrency": 5}
    });
    function["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(function).unwrap())
}

pub fn instance(phase: Phase) -> Instance {
    Instance {
        id: InstanceId::from("i"),
        name: "pod".into(),
        namespace: "default".into(),
        function: FunctionUid::from("f"),
        revision: Revision::of(&function().spec),
        address: (phase != Phase::Starting).then(|| "10.0.0.1:8080".parse().unwrap()),
        phase,
        trouble: None,
        restarts: 0,
        h2c: false,
        claim: None,
        started_at_us: None,
        image_digest: None,
        memory_mib: 256,
        cpu_millis: 100,
    }
}

/// A warm pool and the one pod that is parked in it, with the id of [`instance`].
pub fn pool() -> [Event; 2] {
    let pool = PoolKey { namespace: "default".into(), name: "small".into() };
    let parked = Parked {
        id: InstanceId::from("i"),
        name: "parked".into(),
        pool: pool.clone(),
        ip: "10.0.0.1".parse().unwrap(),
        size: (512, 500),
        runtime: None,
        restarts: 0,
    };
    let object = json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool",
        "metadata": {"name": pool.name, "namespace": pool.namespace, "uid": "p"}, "spec": {}
    });
    [Event::Pool(Arc::new(serde_json::from_value(object).unwrap())), Event::Parked(parked)]
}

pub fn workload(replicas: u32) -> Event {
    Event::Workload(Workload {
        function: FunctionUid::from("f"),
        revision: Revision::of(&function().spec),
        replicas,
        trouble: None,
    })
}

pub fn calls(queued: u32, running: u32) -> v1::DemandReport {
    let peak = queued + running;
    v1::DemandReport {
        functions: vec![v1::FunctionDemand { uid: "f".into(), queued, running, peak, reserved: None }],
        ..Default::default()
    }
}

pub fn on_instance(in_flight: u32) -> v1::DemandReport {
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

pub fn states(update: &v1::RouteUpdate) -> Vec<InstanceState> {
    update.functions.iter().flat_map(|f| f.instances.iter().map(v1::Instance::state)).collect()
}

/// The next update that says something of instances.
pub async fn next(routes: &mut Streaming<v1::RouteUpdate>) -> (u64, Vec<InstanceState>) {
    let update = routes.message().await.unwrap().unwrap();
    (update.version, states(&update))
}
