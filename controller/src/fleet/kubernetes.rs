//! Functions as custom resources, instances as pods of one Deployment per revision.
//!
//! `watch` turns watches into events, `codes` finds handler code, `namespaces` who pays for each, [`instance`] reads a pod, `effects` writes,
//! `history` keeps what was run before, [`gate`] lets pods through,
//! [`wall`] keeps others than activators away from them, [`activators`] tells which activators have ended. Two field
//! managers: what a Deployment is belongs to [`MANAGER`], how many instances it has to [`SCALER`].

pub mod activators;
mod budgets;
mod codes;
mod effects;
pub mod gate;
mod history;
pub mod instance;
mod named;
mod namespaces;
mod pools;
pub mod wall;
mod watch;

use super::{Claim, Event, Fit, Fleet, FleetError, Instance, MAX_EVENTS, Note, Parked, PoolKey, Target, Victim};
use crate::budgets::BudgetEvent;
use crate::load::{self, LoadKey};
use crate::reconcile::build::deployment::PodRules;
use crate::reconcile::build::network_policy::Platform;
use crate::tenants::Tenants;
use codes::Codes;
use dormouse_core::function::{Function, FunctionStatus};
use dormouse_core::{Budget, BudgetStatus, WarmPool, WarmPoolStatus};
use gate::Gate;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wall::Policies;

/// Field manager of what we make.
pub const MANAGER: &str = "dormouse";
/// Field manager of `spec.replicas`.
pub const SCALER: &str = "dormouse-scaler";

/// How the fleet is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only namespace to look at; `None`: all.
    pub namespace: Option<String>,
    /// What every pod must keep.
    pub rules: PodRules,
    /// Name of this process for events: the pod's name.
    pub reporter: String,
    /// Where activators run as pods; `None`: they do not, or nobody said.
    pub platform: Option<Platform>,
    /// Image of the program that parks pods; `None`: there are no warm pools here.
    pub parker: Option<String>,
    /// Warm pools to make.
    pub pools: Vec<WarmPool>,
    /// What is to become of NetworkPolicies around functions.
    pub policies: Policies,
    /// What loads are signed with.
    pub load_key: LoadKey,
}

/// The fleet.
pub struct Kubernetes {
    client: Client,
    options: Options,
    recorder: Recorder,
    gate: Gate,
    restarts: watch::Restarts,
    tenants: Tenants,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    budgets: Mutex<Option<mpsc::Receiver<BudgetEvent>>>,
    /// Ends the watches when the fleet goes.
    stop: CancellationToken,
}

impl Kubernetes {
    /// Begins to watch.
    #[must_use]
    pub fn start(client: Client, options: Options) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        let stop = CancellationToken::new();
        // Synced is told once each of the four has listed.
        let missing = Arc::new(AtomicUsize::new(4));
        let reporter = Reporter { controller: "dormouse-controller".into(), instance: Some(options.reporter.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let (wall, keeper) = wall::wall(&options.policies, &client, &recorder);
        let restarts = watch::Restarts::default();
        let codes = Codes::new(client.clone());
        let restarts_too = restarts.clone();
        let port =
            watch::Port { sender: sender.clone(), missing, restarts: restarts_too, wall, codes: Some(codes.clone()) };
        let gate = Gate::new(client.clone());
        let namespace = options.namespace.as_deref();
        let functions = watch::written(
            api::<DeserializeGuard<Function>>(&client, namespace),
            client.clone(),
            port.clone(),
            gate.clone(),
        );
        let deployments =
            watch::owned(api::<Deployment>(&client, namespace), client.clone(), port.clone(), gate.clone());
        if options.parker.is_some() {
            // Nobody waits for it: where the kind is not installed functions wake all the same.
            let apart = watch::Port { missing: Arc::new(AtomicUsize::new(usize::MAX)), ..port.clone() };
            let pools = watch::written(
                api::<DeserializeGuard<WarmPool>>(&client, namespace),
                client.clone(),
                apart,
                gate.clone(),
            );
            tokio::spawn(stop.clone().run_until_cancelled_owned(pools));
            let named = named::keep(client.clone(), options.pools.clone(), options.namespace.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(named));
        }
        let config_maps = codes.clone().watch(api::<PartialObjectMeta<ConfigMap>>(&client, namespace), port.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(config_maps));
        let (budget, budgets) = mpsc::channel(MAX_EVENTS);
        let watched = budgets::watch(client.clone(), budget);
        tokio::spawn(stop.clone().run_until_cancelled_owned(watched));
        let tenants = Tenants::labelled();
        let only = options.namespace.clone();
        let namespaces = namespaces::watch(client.clone(), only, tenants.clone(), port.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(namespaces));
        let pods = watch::owned(api::<Pod>(&client, namespace), client.clone(), port, gate.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(functions));
        tokio::spawn(stop.clone().run_until_cancelled_owned(deployments));
        tokio::spawn(stop.clone().run_until_cancelled_owned(pods));
        if let Some(keeper) = keeper {
            let policies = api::<NetworkPolicy>(&client, namespace);
            tokio::spawn(stop.clone().run_until_cancelled_owned(keeper.run(policies)));
        }
        if let Some(Platform { namespace, activators, .. }) = options.platform.clone() {
            let ended = activators::watch(client.clone(), namespace, activators, sender);
            tokio::spawn(stop.clone().run_until_cancelled_owned(ended));
        }
        Self {
            client,
            options,
            recorder,
            gate,
            restarts,
            tenants,
            events: Mutex::new(Some(receiver)),
            budgets: Mutex::new(Some(budgets)),
            stop,
        }
    }

    /// Puts what is counted of the watches into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Watches that broke and began anew, by kind of object";
        registry.register("dormouse_watch_restarts", help, self.restarts.clone());
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

impl Fleet for Kubernetes {
    fn events(&self) -> Option<mpsc::Receiver<Event>> {
        self.events.lock().take()
    }

    fn tenants(&self) -> Tenants {
        self.tenants.clone()
    }

    fn budgets(&self) -> Option<mpsc::Receiver<BudgetEvent>> {
        self.budgets.lock().take()
    }

    async fn report_budget(&self, budget: &Arc<Budget>, status: &BudgetStatus) -> Result<(), FleetError> {
        self.write_status(&**budget, Api::all(self.client.clone()), status).await
    }

    async fn note_budget(&self, budget: &Arc<Budget>, note: &Note) -> Result<(), FleetError> {
        self.write_event(&**budget, note).await
    }

    async fn adopt(&self, function: &Arc<Function>) -> Result<(), FleetError> {
        self.put_finalizer(function).await
    }

    async fn prepare(&self, function: &Arc<Function>, target: &Target) -> Result<(), FleetError> {
        let wanted = self.make_ready(function, target).await?;
        // Before the Deployment, whose being there says that all of this was done.
        match self.keep_revision(function, target).await {
            // A function runs where one cannot go back to this revision, too.
            Err(FleetError::Refused(why)) => {
                let (function, revision) = (&target.key, &target.revision);
                tracing::warn!(%function, %revision, why, "the revision is not kept: no rollback will find it");
            }
            kept => kept?,
        }
        self.make_deployment(target, &wanted).await
    }

    async fn mend(&self, function: &Arc<Function>, target: &Target) -> Result<(), FleetError> {
        self.mend_code(function, target).await
    }

    async fn scale(&self, target: &Target, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        self.set_replicas(target, replicas, victims).await
    }

    async fn retire(&self, target: &Target, instance: &Victim, grace: Duration) -> Result<(), FleetError> {
        self.end_pod(&target.key.namespace, instance, grace).await
    }

    async fn graft(
        &self,
        function: &Arc<Function>,
        target: &Target,
        parked: &Parked,
        claim: u64,
    ) -> Result<(), FleetError> {
        self.claim(function, target, parked, claim).await
    }

    async fn look_into(&self, parked: &Parked) -> Result<(), FleetError> {
        self.let_go_if_held(parked).await
    }

    async fn look_into_claim(&self, instance: &Instance) -> Result<(), FleetError> {
        let Some(address) = instance.address else { return Ok(()) };
        match load::is_parked((address.ip(), load::PORT).into()).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(FleetError::Failed(format!("{} was never sent its code", instance.name))),
            Err(error) => Err(FleetError::Failed(error.to_string())),
        }
    }

    async fn own(
        &self,
        function: &Arc<Function>,
        target: &Target,
        instance: &Victim,
        claim: (&Claim, (u32, u32)),
    ) -> Result<Fit, FleetError> {
        self.take_out_of_pool(function, target, instance, claim).await
    }

    async fn prepare_pool(&self, pool: &Arc<WarmPool>) -> Result<(), FleetError> {
        self.make_pool(pool).await
    }

    async fn scale_pool(&self, pool: &PoolKey, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        self.set_parked(pool, replicas, victims).await
    }

    async fn report_pool(&self, pool: &Arc<WarmPool>, status: &WarmPoolStatus) -> Result<(), FleetError> {
        self.write_status(&**pool, self.in_namespace(&pool.namespace().unwrap_or_default()), status).await
    }

    async fn remove(&self, target: &Target) -> Result<(), FleetError> {
        self.remove_deployment(target).await
    }

    async fn report(&self, function: &Arc<Function>, status: &FunctionStatus) -> Result<(), FleetError> {
        self.write_status(&**function, self.in_namespace(&function.namespace().unwrap_or_default()), status).await
    }

    async fn note(&self, function: &Arc<Function>, note: &Note) -> Result<(), FleetError> {
        self.write_event(&**function, note).await
    }

    async fn release(&self, function: &Arc<Function>) -> Result<(), FleetError> {
        self.take_finalizer_off(function).await
    }
}
