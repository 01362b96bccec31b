//! The office: one task that owns everything known of every function. Fleet events, activators' reports, timers and
//! answers to effects come in; each touches functions; a touched function is planned anew and the plan applied.
//!
//! There is one writer and no lock: two things can never be decided at once. Nothing is delayed on purpose: what one
//! message touches is planned before the next message is read.

use crate::backoff;
use crate::budgets::Budgets;
use crate::demand::{Begun, Calls, Demand, Touched};
use crate::fires::asked::{Asked, Wanted};
use crate::fires::{self, Takers};
use crate::fleet::{Code, Event, Fit, Fleet, FleetError, FunctionUid, Instance, InstanceId, Phase, PoolKey, Trouble};
use crate::ledger::WarmSpan;
use crate::metrics::{Dues, Metrics, Replicas};
use crate::pools::{self, Pools};
use crate::reconcile::apply::{self, Answer, Hands};
use crate::reconcile::observe::{InstanceSeen, Lane, LaneState, Moment, Observed, WorkloadSeen, function_of};
use crate::reconcile::plan::{self, Context, Urls};
use crate::routes::Routes;
use crate::shares::{Process, SHARES_HOLD, Shares};
use crate::tenants::Tenants;
use crate::through::Through;
use crate::warm_meter::{self, WarmMeter};
use dormouse_core::price::Durability;
use dormouse_core::record::Subject;
use dormouse_core::valid::ValidFunction;
use dormouse_daemon::Health;
use dormouse_proto::v1;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod fires_read;

/// What time it is, by the clock on the wall.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Readiness check: everything that existed at the start is known.
pub const CHECK: &str = "functions";

/// Reports and answers that wait for the office.
const MAX_MAIL: usize = 1024;

/// For how long after the start the instances found are left alone, so that activators can call back first.
const HOLD: Duration = Duration::from_secs(30);

/// Until a plan is made again that asked for a moment that is over.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// First pause after a failed effect; it doubles to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Longest pause between two dials of a port that is not open yet.
const MAX_PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What reaches the office from the doors.
#[derive(Debug)]
pub enum Mail {
    /// An activator is about to be told the routes.
    Watch {
        /// Which.
        process: Process,
        /// It takes calls over from others.
        takes_over: bool,
    },
    /// An activator that takes calls over watches no longer.
    Unwatch {
        /// Its id.
        activator: u64,
    },
    /// An activator's demand stream began.
    Join {
        /// Which.
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// The process's own number of it; 0 when it does not say.
        number: u32,
    },
    /// A report.
    Report {
        /// Whose.
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// What it says.
        report: v1::DemandReport,
    },
    /// Whose functions are kept warm no longer, and whose calls are refused: their budgets are used up.
    Stopped {
        /// All of them.
        tenants: BTreeSet<Arc<str>>,
    },
    /// Of calls that are ordered from activators.
    Fires(fires::Letter),
    /// Somebody asks for an event.
    Invoke(Wanted),
    /// The stream ended.
    Leave {
        /// Whose.
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// Whether it ended properly.
        clean: bool,
    },
}

/// An instance that is kept warm so soon after the opening was so before it: activators tell within seconds which ports
/// are open.
const RESUME: Duration = Duration::from_secs(120);

/// The office and what it owns.
pub struct Office<F> {
    hands: Hands<F>,
    routes: Routes,
    metrics: Metrics,
    replicas: Replicas,
    dues: Dues,
    health: Health,
    urls: Urls,
    durability: Durability,
    events: mpsc::Receiver<Event>,
    mail: mpsc::Receiver<Mail>,
    answers: mpsc::Receiver<Answer>,
    functions: HashMap<FunctionUid, Observed>,
    /// Which function an instance is of.
    owners: HashMap<InstanceId, FunctionUid>,
    /// Functions that have seen a drain that not every activator acts by yet.
    unacknowledged: BTreeSet<FunctionUid>,
    /// When to look at whom; one entry per function.
    timers: BTreeSet<(Moment, FunctionUid)>,
    due: HashMap<FunctionUid, Moment>,
    pools: Pools,
    pool_answers: mpsc::Receiver<pools::Answer>,
    /// When to look at which pool.
    pools_due: HashMap<PoolKey, Moment>,
    /// Claims made in this life.
    claims: u64,
    demand: Demand,
    shares: Shares,
    began: Instant,
    /// Set when everything that existed at the start is known.
    opened: Option<Moment>,
    warm_meter: WarmMeter,
    /// What the meter was last told is kept warm of each function; of those of which something is.
    warm: HashMap<FunctionUid, Warm>,
    /// Who pays for which namespace.
    tenants: Tenants,
    through: Through,
    /// Who is told of activators that have ended, too.
    budgets: Option<Budgets>,
    /// Tenants whose budgets are used up.
    stopped: BTreeSet<Arc<str>>,
    /// Who takes orders for calls by the clock.
    takers: Takers,
    /// Events that are waited for.
    asked: Asked,
    wall: Wall,
}

/// Instances of a function that are kept warm, and who pays for them.
type Warm = (Option<Arc<str>>, BTreeSet<InstanceId>);

/// What an office is made of.
pub struct Parts<F> {
    /// The fleet.
    pub fleet: Arc<F>,
    /// Its events.
    pub events: mpsc::Receiver<Event>,
    /// Where plans are told to activators.
    pub routes: Routes,
    /// How addresses are made.
    pub urls: Urls,
    /// What the price plan in force has responses wait for.
    pub durability: Durability,
    /// Where readiness is told.
    pub health: Health,
    /// Where numbers go.
    pub metrics: Metrics,
    /// Where it is told what is kept warm.
    pub warm_meter: WarmMeter,
    /// Where it is told whose records are lost.
    pub through: Through,
    /// The clock.
    pub wall: Wall,
}

impl<F: Fleet> Office<F> {
    /// An office, and the letter box of the doors.
    #[must_use]
    pub fn new(parts: Parts<F>) -> (Self, mpsc::Sender<Mail>) {
        let (post, mail) = mpsc::channel(MAX_MAIL);
        let (answer, answers) = mpsc::channel(MAX_MAIL);
        let (pool_answer, pool_answers) = mpsc::channel(MAX_MAIL);
        let Parts { fleet, events, routes, urls, durability, health, metrics, warm_meter, through, wall } = parts;
        let parking = metrics.parking.clone();
        health.expect(CHECK);
        let office = Self {
            tenants: fleet.tenants(),
            through,
            hands: Hands::new(fleet, answer),
            routes,
            replicas: Replicas::new(metrics.clone()),
            dues: Dues::new(metrics.clone()),
            metrics,
            health,
            urls,
            durability,
            events,
            mail,
            answers,
            functions: HashMap::new(),
            owners: HashMap::new(),
            unacknowledged: BTreeSet::new(),
            timers: BTreeSet::new(),
            due: HashMap::new(),
            pools: Pools::new(pool_answer, parking),
            pool_answers,
            pools_due: HashMap::new(),
            claims: 0,
            demand: Demand::default(),
            shares: Shares::default(),
            began: Instant::now(),
            opened: None,
            warm_meter,
            warm: HashMap::new(),
            budgets: None,
            stopped: BTreeSet::new(),
            takers: Takers::default(),
            asked: Asked::default(),
            wall,
        };
        (office, post)
    }

    /// Who has to know which activators have ended.
    pub fn tell_of_ends(&mut self, budgets: Budgets) {
        self.budgets = Some(budgets);
    }

    /// Works until it is told to stop or the fleet ends.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let next = [
                self.timers.first().map(|(at, _)| *at),
                self.demand.expires_at(),
                self.shares.expires_at(self.now()),
                self.pools_due.values().min().copied(),
            ];
            let next = next.into_iter().flatten().min();
            let wake = next.map(|at| self.began + at);
            // No order of preference: while calls queue there is always mail, and what was started must still be seen.
            tokio::select! {
                () = stop.cancelled() => break,
                mail = self.mail.recv() => if let Some(mail) = mail { self.read(mail) },
                answer = self.answers.recv() => if let Some(answer) = answer { self.answered(answer) },
                answer = self.pool_answers.recv() => if let Some(answer) = answer {
                    let now = self.now();
                    let pool = self.pools.answered(answer, now);
                    self.look_at(pool, now);
                },
                event = self.events.recv() => match event {
                    Some(event) => self.saw(event),
                    None => {
                        self.health.fail(CHECK, "the fleet ended");
                        break;
                    }
                },
                () = sleep_until(wake), if wake.is_some() => self.look_again(),
            }
        }
        self.hands.finish().await;
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// An event of the fleet.
    fn saw(&mut self, event: Event) {
        let now = self.now();
        let found = self.opened.is_none();
        if let Event::Synced = event {
            return self.open(now);
        }
        if let Event::ActivatorGone { name, lost } = event {
            return self.activator_gone(&name, lost, now);
        }
        if let Event::Tenant { namespace } = event {
            let there = self.functions.values().filter(|o| o.namespace() == Some(namespace.as_str()));
            let there: Vec<FunctionUid> = there.map(|o| o.uid.clone()).collect();
            return self.plan_all(there, now);
        }
        let Some(event) = self.saw_pool(event, now) else { return };
        let uid = match &event {
            Event::InstanceGone(id) => self.owners.get(id).cloned(),
            other => function_of(other),
        };
        let Some(uid) = uid else { return };
        let observed = self.functions.entry(uid.clone()).or_insert_with(|| Observed::new(uid.clone()));
        match event {
            Event::Function(function) => {
                let first = observed.object.is_none();
                observed.function(function, |f| self.hands.fleet.revision(f), !found, now);
                if first {
                    self.said(&uid, Calls::default(), now);
                }
            }
            Event::FunctionGone(_) => {
                observed.object = None;
                self.demand.function_gone(&uid);
            }
            Event::Instance(instance) if !observed.is_of(&instance) => {
                tracing::warn!(pod = instance.name, namespace = instance.namespace, function = %uid,
                    "a pod says that it is of a function in another namespace: ignored");
                return;
            }
            Event::Instance(instance) => {
                let restarted = observed
                    .instances
                    .get(&instance.id)
                    .is_some_and(|i| instance.restarts > i.seen.restarts || instance.phase == Phase::Starting);
                if restarted {
                    self.demand.instance_restarted(&instance.id);
                }
                self.owners.insert(instance.id.clone(), uid.clone());
                let id = instance.id.clone();
                observed.instance(instance, found, now);
                observed.instance_demand(&id, self.demand.instance(&id), now);
            }
            Event::InstanceGone(id) => {
                observed.instance_gone(&id);
                self.owners.remove(&id);
                self.demand.instance_gone(&id);
            }
            Event::Workload(workload) => observed.workload(workload),
            Event::WorkloadGone(_, revision) => observed.workload_gone(&revision),
            _ => {}
        }
        self.plan(&uid, now);
    }

    /// A process of an activator has certainly ended.
    fn activator_gone(&mut self, name: &str, lost: bool, now: Moment) {
        if lost {
            self.through.lost(name);
        }
        if let Some(budgets) = &self.budgets {
            budgets.gone(name);
        }
        tracing::info!(activator = %name, "an activator's process has ended");
        self.taker_gone(name, now);
        let touched = self.demand.gone(name);
        self.touched(touched, now);
        let touched = self.shares.gone(name, now, timeout_of(&self.functions));
        self.plan_all(touched, now);
    }

    /// What an event says of warm pools; answers what it says of functions.
    fn saw_pool(&mut self, event: Event, now: Moment) -> Option<Event> {
        let (pool, rest) = match event {
            Event::Pool(object) => (Some(self.pools.object(object, now)), None),
            Event::PoolGone(key, uid) => {
                if self.pools.gone(&key, &uid) {
                    self.pools_due.remove(&key);
                    self.metrics.parked(&key, None);
                }
                (None, None)
            }
            Event::PoolWorkload { pool, replicas, trouble } => {
                self.pools.workload(&pool, Some((replicas, trouble)));
                (Some(pool), None)
            }
            Event::PoolWorkloadGone(pool) => {
                self.pools.workload(&pool, None);
                (Some(pool), None)
            }
            // What is still told of a pod that is being claimed is older than its claim.
            Event::Parked(parked) if self.owners.contains_key(&parked.id) => (None, None),
            Event::Parked(parked) => (Some(self.pools.parked(parked, now)), None),
            Event::Unparked(id) => (self.pools.unparked(&id), None),
            Event::Instance(instance) => (self.claim_seen(&instance, now), Some(Event::Instance(instance))),
            Event::InstanceGone(id) => {
                let owner = self.owners.get(&id).and_then(|uid| self.functions.get(uid));
                let claim = owner.and_then(|o| o.instances.get(&id)).and_then(|i| i.seen.claim.clone());
                let left = claim.and_then(|claim| self.pools.in_pool(&claim.pool, &id, false, now));
                (left.or_else(|| self.pools.unparked(&id)), Some(Event::InstanceGone(id)))
            }
            other => (None, Some(other)),
        };
        self.look_at(pool, now);
        rest
    }

    fn claim_seen(&mut self, instance: &Instance, now: Moment) -> Option<PoolKey> {
        let claim = instance.claim.as_ref()?;
        let still = !claim.owned && instance.phase != Phase::Ending;
        self.pools.in_pool(&claim.pool, &instance.id, still, now)
    }

    /// Does what is to be done about a pool.
    fn look_at(&mut self, pool: Option<PoolKey>, now: Moment) {
        let Some(key) = pool.filter(|_| self.opened.is_some()) else { return };
        self.metrics.parked(&key, self.pools.count(&key));
        match self.pools.look(&key, &self.hands.fleet, now, (self.wall)()) {
            Some(at) => self.pools_due.insert(key, at),
            None => self.pools_due.remove(&key),
        };
    }

    /// Everything that existed at the start is known.
    fn open(&mut self, now: Moment) {
        if self.opened.is_some() {
            return;
        }
        self.opened = Some(now);
        let uids: Vec<FunctionUid> = self.functions.keys().cloned().collect();
        for uid in &uids {
            if let Some(observed) = self.functions.get_mut(uid) {
                observed.opened(now);
            }
            self.plan(uid, now);
        }
        for key in self.pools.keys() {
            self.look_at(Some(key), now);
        }
        self.pools.look_into(&self.hands.fleet);
        tracing::info!(functions = uids.len(), instances = self.owners.len(), "everything that exists is known");
        self.routes.open();
        self.health.pass(CHECK);
    }

    /// A message from an activator.
    fn read(&mut self, mail: Mail) {
        let now = self.now();
        match mail {
            Mail::Watch { process, takes_over } => {
                self.demand.expect(&process.name, now);
                if takes_over {
                    let touched = self.shares.set_peer(process.activator, true);
                    self.plan_all(touched, now);
                }
            }
            Mail::Unwatch { activator } => {
                let touched = self.shares.set_peer(activator, false);
                self.plan_all(touched, now);
            }
            Mail::Join { process, stream, number } => self.joined(&process, stream, number),
            Mail::Report { process, stream, report } => self.reported(&process, stream, report, now),
            Mail::Stopped { tenants } => {
                let changed: Vec<Arc<str>> = tenants.symmetric_difference(&self.stopped).cloned().collect();
                self.stopped = tenants;
                let theirs = |o: &&Observed| o.tenant.as_ref().is_some_and(|tenant| changed.contains(tenant));
                let theirs: Vec<FunctionUid> = self.functions.values().filter(theirs).map(|o| o.uid.clone()).collect();
                self.plan_all(theirs, now);
            }
            Mail::Fires(letter) => self.read_fires(letter, now),
            Mail::Invoke(wanted) => self.invoke(wanted),
            Mail::Leave { process, stream, clean } => {
                tracing::info!(activator = %process, clean, "activator left");
                if !self.demand.is_present(&process.name, stream) {
                    return;
                }
                let touched = self.demand.leave(&process.name, stream, clean, now);
                self.touched(touched, now);
                let touched = self.shares.leave(&process, clean, now, timeout_of(&self.functions));
                self.plan_all(touched, now);
            }
        }
    }

    fn joined(&mut self, process: &Process, stream: u64, number: u32) {
        if self.shares.is_over(process) {
            tracing::warn!(activator = %process, "not heard: a later life of it was heard already");
            return;
        }
        let begun = Begun { activator: process.activator, epoch: process.epoch, number };
        if self.demand.is_late(&process.name, begun) {
            tracing::info!(activator = %process, number, "not heard: a later stream of it was heard already");
            return;
        }
        match self.demand.join(&process.name, stream) {
            Ok(()) => self.demand.began(&process.name, begun),
            Err(error) => tracing::warn!(activator = %process, %error, "activator not heard"),
        }
    }

    fn reported(&mut self, process: &Process, stream: u64, mut report: v1::DemandReport, now: Moment) {
        if !self.demand.is_present(&process.name, stream) {
            return;
        }
        if report.applied_life != 0 && report.applied_life != self.routes.life() {
            // It acts by what another life of the controller told it.
            report.applied_version = 0;
        }
        let mut deal = BTreeSet::new();
        if report.whole {
            // Not before: what it holds is not known until it says so.
            deal = self.shares.join(process, now, timeout_of(&self.functions));
        }
        deal.append(&mut self.shares.report(process, &report));
        let touched = self.demand.report(&process.name, stream, report);
        deal.retain(|uid| !touched.functions.contains_key(uid));
        self.touched(touched, now);
        self.plan_all(deal, now);
    }

    fn plan_all(&mut self, uids: impl IntoIterator<Item = FunctionUid>, now: Moment) {
        for uid in uids {
            self.plan(&uid, now);
        }
    }

    fn touched(&mut self, touched: Touched, now: Moment) {
        let mut plan: BTreeSet<FunctionUid> = BTreeSet::new();
        for (uid, calls) in touched.functions {
            self.said(&uid, calls, now);
            plan.insert(uid);
        }
        for (_, id) in touched.instances {
            let said = self.demand.instance(&id);
            if let Some(uid) = self.owners.get(&id)
                && let Some(observed) = self.functions.get_mut(uid)
            {
                observed.instance_demand(&id, said, now);
                plan.insert(uid.clone());
            }
        }
        if touched.applied {
            plan.append(&mut self.unacknowledged);
        }
        for uid in plan {
            self.plan(&uid, now);
        }
    }

    /// The calls that a function has now.
    fn said(&mut self, uid: &FunctionUid, calls: Calls, now: Moment) {
        let Calls { queued, running, peak } = self.demand.calls(uid, calls);
        if let Some(observed) = self.functions.get_mut(uid) {
            observed.demand(queued, running, peak, now);
        }
    }

    /// What is due by the clock.
    fn look_again(&mut self) {
        let now = self.now();
        let touched = self.demand.expire(now);
        self.touched(touched, now);
        let touched = self.shares.expire(now);
        self.plan_all(touched, now);
        let due: Vec<PoolKey> = self.pools_due.iter().filter(|(_, at)| **at <= now).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.pools_due.remove(&key);
            self.look_at(Some(key), now);
        }
        let due: Vec<FunctionUid> =
            self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, uid)| uid.clone()).collect();
        for uid in due {
            self.set_timer(&uid, None);
            self.plan(&uid, now);
        }
    }

    /// The outcome of an effect.
    fn answered(&mut self, answer: Answer) {
        let now = self.now();
        let Answer { uid, lane, result } = answer;
        let Some(observed) = self.functions.get_mut(&uid) else { return };
        let failures = match observed.lanes.remove(&lane) {
            Some(LaneState::Busy { failures }) => failures,
            _ => 0,
        };
        match result {
            Ok(done) => succeeded(observed, &lane, done, now),
            Err(error) if let Lane::Graft(id) = &lane => {
                self.metrics.effect_failed(&lane, &error);
                tracing::warn!(function = %uid, pod = %id, %error, "a parked pod could not be claimed");
                self.not_claimed(&uid, id, error, now);
            }
            Err(error) => {
                self.metrics.effect_failed(&lane, &error);
                if !matches!(lane, Lane::Probe(_)) {
                    tracing::warn!(function = %uid, ?lane, %error, failures, "an effect failed");
                }
                refused(observed, &lane, &error);
                failed(observed, lane, &error, failures, now);
            }
        }
        self.plan(&uid, now);
    }

    /// A claim did not work out.
    fn not_claimed(&mut self, uid: &FunctionUid, id: &InstanceId, error: FleetError, now: Moment) {
        let Some(observed) = self.functions.get_mut(uid) else { return };
        let Some(instance) = observed.instances.get_mut(id) else { return };
        let Some((claimed, claim)) = instance.claimed.as_mut().zip(instance.seen.claim.as_ref()) else { return };
        let (pool, left) = (claim.pool.clone(), !matches!(error, FleetError::Refused(_)));
        match error {
            FleetError::Refused(why) => {
                let revision = instance.seen.revision.clone();
                if let Some(parked) = claimed.parked.take() {
                    self.pools.give_back(parked);
                }
                observed.claiming.refused = Some((revision, why));
            }
            // The code was tried and does not work: who waits is told, and the function's own pods are what is tried next.
            FleetError::Broken(trouble) => {
                instance.seen.trouble = Some(trouble);
                claimed.given_up = true;
                observed.claiming.failed(now);
                return;
            }
            // It is somebody else's, or gone.
            FleetError::Conflict(_) | FleetError::Gone(_) => {}
            // Nobody knows: it may be ours by now.
            FleetError::TimedOut(_) | FleetError::Failed(_) => {
                claimed.given_up = true;
                observed.claiming.failed(now);
                return;
            }
        }
        observed.instance_gone(id);
        let mut pool = Some(pool);
        if self.owners.get(id) == Some(uid) {
            self.owners.remove(id);
            if left {
                pool = pool.and_then(|pool| self.pools.in_pool(&pool, id, false, now));
            }
        }
        self.look_at(pool, now);
    }

    /// Tells the meter when other instances of a function are kept warm than before, or somebody else pays for them.
    fn meter_warm(&mut self, uid: &FunctionUid, now: Moment) {
        let observed = self.functions.get(uid);
        let warm = observed.map(Observed::warm).unwrap_or_default();
        let tenant = observed.and_then(|observed| observed.tenant.clone());
        let same = |(payer, ids): &Warm| *payer == tenant && ids.iter().eq(warm.iter().copied());
        if self.warm.get(uid).map_or(warm.is_empty(), same) {
            return;
        }
        let at_us = (self.wall)().as_microsecond();
        let told = warm.iter().copied().filter_map(|id| {
            let observed = observed?;
            let (seen, valid) = (observed.instances.get(id)?, observed.object.as_ref()?.valid.as_ref()?);
            let span = WarmSpan {
                subject: subject(observed, seen, valid)?,
                // An earlier controller kept it warm, too, if the ledger says so.
                resumes: seen.found && now < self.opened.unwrap_or_default() + RESUME,
                open: true,
                from_us: at_us,
                to_us: at_us,
            };
            Some((id.clone(), span))
        });
        let change = warm_meter::Change { function: uid.clone(), warm: told.collect(), at_us };
        let told: BTreeSet<InstanceId> = warm.into_iter().cloned().collect();
        if told.is_empty() {
            self.warm.remove(uid);
        } else {
            self.warm.insert(uid.clone(), (tenant, told));
        }
        self.warm_meter.see(change);
    }

    /// Plans one function and applies the plan.
    fn plan(&mut self, uid: &FunctionUid, now: Moment) {
        if self.opened.is_none() {
            return;
        }
        let Some(observed) = self.functions.get_mut(uid) else { return };
        if observed.is_gone() {
            return self.forget(uid, now);
        }
        let began = std::time::Instant::now();
        observed.settle(now);
        // The last one known stays when the namespace is gone before what is in it.
        if let Some(tenant) = observed.namespace().and_then(|namespace| self.tenants.of(namespace)) {
            observed.tenant = Some(tenant);
        }
        let wall = (self.wall)();
        observed.look_at_clock(wall, now);
        let ordered = observed.look_at_schedules((wall, now), &mut self.takers);
        observed.stopped = observed.tenant.as_ref().is_some_and(|tenant| self.stopped.contains(tenant));
        for (id, instance) in &mut observed.instances {
            instance.lost = self.shares.is_lost(uid, id, now);
            instance.blocked_until = self.shares.blocked_until(uid, id).filter(|until| now < *until);
        }
        let policy = observed.policy();
        let decision = policy.map_or(plan::NOTHING, |policy| observed.scaler.decide(now, &policy));
        let valid = observed.object.as_ref().and_then(|o| o.valid.as_ref());
        let needed = policy.map_or(0, |policy| policy.needed(observed.scaler.calls()));
        let parked = valid.filter(|_| needed > 0).map_or(Vec::new(), |valid| self.pools.fitting(valid, needed));
        let context = Context {
            now,
            wall,
            applied: self.demand.applied(),
            watched: self.demand.is_watched(),
            hold_until: self.opened.unwrap_or_default() + HOLD,
            urls: &self.urls,
            durability: self.durability,
            parked: &parked,
        };
        let mut plan = plan::plan(observed, decision, &context);
        if !plan.effects.claim.is_empty() {
            let (claim, context) = (std::mem::take(&mut plan.effects.claim), Context { parked: &[], ..context });
            for parked in claim {
                self.claims += 1;
                self.metrics.claimed();
                self.pools.claimed(&parked, now);
                self.pools.in_pool(&parked.pool, &parked.id, true, now);
                self.owners.insert(parked.id.clone(), uid.clone());
                observed.reserve(parked, self.routes.life().wrapping_add(self.claims), now);
            }
            plan = plan::plan(observed, decision, &context);
        }
        let hold_until = self.opened.unwrap_or_default() + SHARES_HOLD;
        let desk = apply::Desk { routes: &self.routes, shares: &mut self.shares, demand: &self.demand, hold_until };
        let applied = apply::apply(plan, observed, desk, &mut self.hands, now);
        self.replicas.note(observed, now);
        self.dues.note(observed);
        let due_again = observed.schedules.again();
        self.metrics.planned(&applied, began.elapsed());
        self.meter_warm(uid, now);
        if applied.unacknowledged {
            self.unacknowledged.insert(uid.clone());
        }
        let look = [applied.look_again_at, due_again]
            .into_iter()
            .flatten()
            .min()
            .map(|at| if at > now { at } else { again(uid, at, now) });
        self.set_timer(uid, look);
        self.order(uid, ordered);
    }

    /// Nothing of a function is left to look after.
    fn forget(&mut self, uid: &FunctionUid, now: Moment) {
        self.functions.remove(uid);
        self.routes.remove(uid);
        self.shares.function_gone(uid);
        self.unacknowledged.remove(uid);
        self.dues.forget(uid);
        self.replicas.forget(uid);
        self.set_timer(uid, None);
        self.meter_warm(uid, now);
    }

    fn set_timer(&mut self, uid: &FunctionUid, at: Option<Moment>) {
        if let Some(before) = self.due.remove(uid) {
            self.timers.remove(&(before, uid.clone()));
        }
        if let Some(at) = at {
            self.timers.insert((at, uid.clone()));
            self.due.insert(uid.clone(), at);
        }
    }
}

/// A plan that asks for this moment again has a fault, which is not to keep everybody else from being planned.
fn again(uid: &FunctionUid, at: Moment, now: Moment) -> Moment {
    tracing::warn!(function = %uid, ?at, ?now, "its plan asks for a moment that is over: please report this");
    now + LEAST_PAUSE
}

/// What the records of an instance's calls are about, and so its warm time.
fn subject(observed: &Observed, seen: &InstanceSeen, valid: &ValidFunction) -> Option<Subject> {
    let (memory_mib, cpu_millis) = seen.size(valid);
    Some(Subject {
        function_uid: observed.uid.to_string(),
        namespace: valid.key.namespace.clone(),
        name: valid.key.name.clone(),
        revision: seen.seen.revision.to_string(),
        tenant: observed.tenant.as_deref()?.to_owned(),
        memory_mib,
        cpu_millis,
        instance: seen.seen.id.to_string(),
    })
}

/// How long a call of a function may run.
fn timeout_of(functions: &HashMap<FunctionUid, Observed>) -> impl Fn(&FunctionUid) -> Duration {
    let of = |uid: &FunctionUid| functions.get(uid)?.object.as_ref()?.valid.as_ref().map(|valid| valid.timeout);
    move |uid| of(uid).unwrap_or_default()
}

/// What an answered effect makes known before any event tells it.
fn succeeded(observed: &mut Observed, lane: &Lane, done: apply::Done, now: Moment) {
    match (lane, done) {
        (Lane::Retire(_) | Lane::Release | Lane::LookInto(_), _) => {
            observed.lanes.insert(lane.clone(), LaneState::Done);
        }
        (Lane::Prepare(revision), _) => {
            observed.refused.take_if(|(of, _)| of == revision);
            observed.workloads.entry(revision.clone()).or_insert_with(|| WorkloadSeen::new(0));
        }
        (Lane::Scale(revision), apply::Done::Scaled { replicas, victims }) => {
            observed.refused.take_if(|(of, _)| of == revision);
            if let Some(workload) = observed.workloads.get_mut(revision) {
                workload.number.wrote(replicas, now);
            }
            observed.answered(revision);
            for id in victims {
                if let Some(instance) = observed.instances.get_mut(&id) {
                    instance.condemned = true;
                }
            }
        }
        (Lane::Adopt | Lane::Remove(_) | Lane::Mend(_), _) => {
            // What follows is seen by an event; it is asked for again only if that never comes, or is undone.
            let until = now + MAX_PAUSE;
            observed.lanes.insert(lane.clone(), LaneState::Paused { until, failures: 0 });
        }
        (Lane::Probe(id), _) => {
            let said = crate::reconcile::observe::InstanceSaid { open: true, ..Default::default() };
            observed.instance_demand(id, said, now);
        }
        (Lane::Report, apply::Done::Reported(status)) => observed.status = *status,
        (Lane::Graft(id), _) => {
            if let Some(claimed) = observed.instances.get_mut(id).and_then(|i| i.claimed.as_mut()) {
                claimed.grafted = true;
            }
        }
        (Lane::Own(_), apply::Done::Owned(fit)) => {
            observed.lanes.insert(lane.clone(), LaneState::Done);
            observed.claiming.unfit = match fit {
                Fit::Own => None,
                Fit::Pools(why) => Some(why),
            };
        }
        (Lane::Scale(_) | Lane::Report | Lane::Own(_), _) => {}
    }
}

/// What the cluster refuses is told to the function's owner and, when their time is over, to its callers.
fn refused(observed: &mut Observed, lane: &Lane, error: &FleetError) {
    match (lane, error) {
        (Lane::Prepare(revision) | Lane::Scale(revision), FleetError::Refused(why)) => {
            let trouble = Trouble::new(Code::AdmissionRefused, why.clone());
            observed.refused = Some((revision.clone(), trouble));
        }
        (Lane::Prepare(revision) | Lane::Scale(revision), FleetError::Broken(trouble)) => {
            observed.refused = Some((revision.clone(), trouble.clone()));
        }
        // It would stay in its pool, which waits for it.
        (Lane::Own(id), FleetError::Refused(why)) => {
            if let Some(instance) = observed.instances.get_mut(id) {
                observed.claiming.refused = Some((instance.seen.revision.clone(), why.clone()));
                instance.claimed.iter_mut().for_each(|claimed| claimed.given_up = true);
            }
        }
        _ => {}
    }
}

fn failed(observed: &mut Observed, lane: Lane, error: &FleetError, failures: u32, now: Moment) {
    if let Lane::Scale(revision) = &lane {
        observed.answered(revision);
    }
    match (&lane, error) {
        // What was to be ended is gone: that is what was wanted.
        (Lane::Own(_) | Lane::Retire(_) | Lane::Release, FleetError::Gone(_)) => {
            observed.lanes.insert(lane, LaneState::Done);
            return;
        }
        // It waits for what nobody sends it. No fault of the function's: its claims go on.
        (Lane::LookInto(id), _) => {
            let claimed = observed.instances.get_mut(id).and_then(|i| i.claimed.as_mut());
            claimed.into_iter().for_each(|claimed| claimed.given_up = true);
            observed.lanes.insert(lane, LaneState::Done);
            return;
        }
        (Lane::Scale(revision) | Lane::Remove(revision), FleetError::Gone(_)) => {
            let revision = revision.clone();
            observed.workload_gone(&revision);
            return;
        }
        _ => {}
    }
    let pause = backoff::pause(failures, (MIN_PAUSE, MAX_PAUSE));
    let pause = match (&lane, error) {
        (Lane::Probe(_), _) => pause.min(MAX_PROBE_PAUSE),
        (_, FleetError::Refused(_) | FleetError::Broken(_)) => MAX_PAUSE,
        _ => pause,
    };
    observed.lanes.insert(lane, LaneState::Paused { until: now + pause, failures: failures + 1 });
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
