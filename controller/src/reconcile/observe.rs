//! What is known of one function: the object, its revisions, its instances, its demand, and what was asked for.

use super::claims::{Claimed, Claiming, SETTLE, TAKE};
use super::schedules::Timetable;
use crate::fleet::{Claim, Event, FunctionUid, Instance, InstanceId, Parked, Phase, Trouble, Workload};
use dormouse_core::function::{Function, FunctionStatus, Protocol, SLEEP};
use dormouse_core::revision::Revision;
use dormouse_core::scale::{MAX_INSTANCES, Policy, Scaler};
use dormouse_core::valid::{Fault, ValidFunction};
use dormouse_core::warm::Starts;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Time since the office opened. It never runs backwards.
pub type Moment = Duration;

/// How long a number of replicas that was written counts against an older one that is still seen: the watch is behind
/// the write by milliseconds; after 2 s somebody else has changed it.
const WRITTEN_COUNTS: Duration = Duration::from_secs(2);

/// A function with windows looks at the wall clock at least that often: somebody may have set it.
const CLOCK: Duration = Duration::from_secs(600);

/// Instances that are kept ready without calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// How many.
    pub instances: u32,
    /// When that may change.
    pub until: Option<Moment>,
    /// The generation and the lead that it was worked out by.
    read_by: Option<(Option<i64>, Duration)>,
}

/// What is known of one function.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its uid.
    pub uid: FunctionUid,
    /// The object; `None` while only instances of it were seen.
    pub object: Option<Object>,
    /// Who pays for its calls, as last known; `None`: nothing of it is routed yet.
    pub tenant: Option<Arc<str>>,
    /// Its workloads by revision.
    pub workloads: BTreeMap<Revision, WorkloadSeen>,
    /// Its instances.
    pub instances: BTreeMap<InstanceId, InstanceSeen>,
    /// The revision that takes traffic, once one has opened its port.
    pub serving: Option<Revision>,
    /// Demand over the last window.
    pub scaler: Scaler,
    /// Instances that are kept ready without calls.
    pub floor: Floor,
    /// The budget of whoever pays is used up: nothing is kept warm.
    pub stopped: bool,
    /// How long its instances took to start.
    pub starts: Starts,
    /// Calls that wait in activators.
    pub queued: u32,
    /// When the revision that is not serving yet was first to be started.
    pub checking: Option<(Revision, Moment)>,
    /// When it was first seen being deleted.
    pub closing_since: Option<Moment>,
    /// Its schedules.
    pub schedules: Timetable,
    /// Its status as last written or read.
    pub status: FunctionStatus,
    /// Whether it makes claims of parked pods.
    pub claiming: Claiming,
    /// Why the fleet refuses to make its workload or its instances.
    pub refused: Option<(Revision, Trouble)>,
    /// What was asked of the fleet and not answered yet, and what has to wait after a failure.
    pub lanes: BTreeMap<Lane, LaneState>,
}

/// The object and what its spec means.
#[derive(Clone, Debug)]
pub struct Object {
    /// As it was read.
    pub function: Arc<Function>,
    /// The last spec that was valid; what is served.
    pub valid: Option<Arc<ValidFunction>>,
    /// The object that `valid` was read from: its spec is what gets built.
    pub valid_function: Arc<Function>,
    /// The revision of `valid`.
    pub revision: Revision,
    /// What is wrong with the spec as it is now.
    pub faults: Vec<Fault>,
}

/// A workload and what was last written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSeen {
    /// How many instances it is to have.
    pub number: Number,
    /// Why it cannot make instances.
    pub trouble: Option<Trouble>,
}

impl WorkloadSeen {
    /// A workload with so many replicas.
    #[must_use]
    pub fn new(replicas: u32) -> Self {
        Self { number: Number::new(replicas), trouble: None }
    }
}

/// A number of replicas that is written by us and seen by a watch, which is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// As it was last seen.
    seen: u32,
    /// What was written and is not seen yet.
    written: Option<(u32, Moment)>,
}

impl Number {
    /// A number that was seen.
    #[must_use]
    pub fn new(seen: u32) -> Self {
        Self { seen, written: None }
    }

    /// What it is, as far as is known.
    #[must_use]
    pub fn at(&self, now: Moment) -> u32 {
        match self.written {
            Some((replicas, at)) if now < at + WRITTEN_COUNTS => replicas,
            _ => self.seen,
        }
    }

    /// When [`Number::at`] changes by itself.
    #[must_use]
    pub fn unsure_until(&self, now: Moment) -> Option<Moment> {
        self.written.map(|(_, at)| at + WRITTEN_COUNTS).filter(|at| now < *at)
    }

    /// Takes note of a write that was answered.
    pub fn wrote(&mut self, replicas: u32, now: Moment) {
        self.written = (replicas != self.seen).then_some((replicas, now));
    }

    /// Takes note of what the watch tells.
    pub fn see(&mut self, replicas: u32) {
        self.seen = replicas;
        if self.written.is_some_and(|(written, _)| written == replicas) {
            self.written = None;
        }
    }
}

/// An instance, what activators say of it, and what they were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSeen {
    /// As the fleet last told it.
    pub seen: Instance,
    /// When it was first seen.
    pub since: Moment,
    /// Its port was seen open since its process last started.
    pub open: bool,
    /// Calls running on it, over all activators.
    pub in_flight: u32,
    /// When it last became idle.
    pub idle_since: Moment,
    /// A call on it timed out: it is to be replaced.
    pub retired: bool,
    /// No activator that is heard may use any of its slots: it counts as missing.
    pub lost: bool,
    /// Until then, calls of an activator that ended badly may run on it.
    pub blocked_until: Option<Moment>,
    /// What activators were last told of it.
    pub published: Option<Published>,
    /// It was named as a victim of a scale-down that was written.
    pub condemned: bool,
    /// It was named as a victim of a scale-down that was asked and is not answered: it may be ending already.
    pub asked: bool,
    /// It was there before this controller started: activators that have not called back yet may be using it.
    pub found: bool,
    /// It was claimed from a warm pool.
    pub claimed: Option<Claimed>,
}

/// What activators were last told of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// That it takes no new calls.
    pub draining: bool,
    /// Since this version of the routes.
    pub since: u64,
}

impl InstanceSeen {
    /// Memory in MiB and cpu in thousandths that it is billed by. A quantity that somebody rewrote into a form that cannot
    /// be read is billed as the function says.
    #[must_use]
    pub fn size(&self, valid: &ValidFunction) -> (u32, u32) {
        let or = |seen: u32, valid: u32| if seen == 0 { valid } else { seen };
        (or(self.seen.memory_mib, valid.memory_mib), or(self.seen.cpu_millis, valid.cpu_millis))
    }

    /// True until it was told to end.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.seen.phase != Phase::Ending
    }

    /// True when it takes calls.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.seen.phase == Phase::Running && self.open && self.seen.address.is_some()
    }

    /// True when it is to be replaced.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.retired || self.lost || self.claimed.as_ref().is_some_and(|c| c.given_up)
    }

    /// False while its node has not begun with it, as far as is known: an open port is proof as well as its pod's status.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.open || self.seen.claim.as_ref().is_none_or(|claim| claim.taken)
    }

    /// True when a terminal reason keeps it from running.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.seen.trouble.as_ref().is_some_and(|t| t.code.terminal())
    }
}

/// One thing at a time may be asked of the fleet for each of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The finalizer.
    Adopt,
    /// Making a revision's workload.
    Prepare(Revision),
    /// Making again what its instances need.
    Mend(Revision),
    /// Its number of instances.
    Scale(Revision),
    /// Adding a function's container to a parked pod.
    Graft(InstanceId),
    /// Asking a claimed pod that was found whether it has its code.
    LookInto(InstanceId),
    /// Taking a claimed pod out of its pool.
    Own(InstanceId),
    /// Ending one instance.
    Retire(InstanceId),
    /// Removing a revision's workload.
    Remove(Revision),
    /// Dialling an instance while no activator does.
    Probe(InstanceId),
    /// The status.
    Report,
    /// Taking the finalizer off.
    Release,
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Asked, not answered.
    Busy {
        /// Failures in a row before it.
        failures: u32,
    },
    /// Failed; not to be asked before a moment.
    Paused {
        /// When.
        until: Moment,
        /// Failures in a row.
        failures: u32,
    },
    /// Done for good; not to be asked again.
    Done,
}

impl Observed {
    /// Nothing known yet but the uid.
    #[must_use]
    pub fn new(uid: FunctionUid) -> Self {
        Self {
            uid,
            object: None,
            tenant: None,
            workloads: BTreeMap::new(),
            instances: BTreeMap::new(),
            serving: None,
            scaler: Scaler::default(),
            floor: Floor::default(),
            stopped: false,
            starts: Starts::default(),
            queued: 0,
            checking: None,
            closing_since: None,
            schedules: Timetable::default(),
            status: FunctionStatus::default(),
            claiming: Claiming::default(),
            refused: None,
            lanes: BTreeMap::new(),
        }
    }

    /// Its namespace, once the object was seen.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.object.as_ref()?.function.metadata.namespace.as_deref()
    }

    /// Takes note of an object; `revision_of` names the revision of a spec. Before the office opened (`opened` false)
    /// the status that the object carries says what was serving.
    pub fn function(
        &mut self,
        function: Arc<Function>,
        revision_of: impl Fn(&Function) -> Revision,
        opened: bool,
        now: Moment,
    ) {
        if function.metadata.deletion_timestamp.is_some() && self.closing_since.is_none() {
            self.closing_since = Some(now);
        }
        if self.object.is_none() {
            self.status = function.status.clone().unwrap_or_default();
            if !opened {
                self.serving = self.status.revision.as_deref().map(Revision::from);
            }
        }
        if self.object.is_none() {
            let namespace = function.metadata.namespace.as_deref().unwrap_or_default();
            self.instances.retain(|_, i| i.seen.namespace == namespace);
        }
        let before = self.object.take();
        let asked = revision_of(&function);
        self.refused.take_if(|(of, _)| *of != asked);
        let sleep = |f: &Function| f.metadata.annotations.as_ref().and_then(|a| a.get(SLEEP)).cloned();
        if let (Some(before), Some(now)) = (&before, sleep(&function))
            && sleep(&before.function) != Some(now)
        {
            self.scaler.forget_window();
        }
        self.object = Some(match ValidFunction::from_function(&function) {
            Ok(valid) => Object {
                revision: revision_of(&function),
                valid: Some(Arc::new(valid)),
                valid_function: function.clone(),
                function,
                faults: Vec::new(),
            },
            Err(faults) => match before {
                Some(before) => Object { function, faults, ..before },
                None => Object {
                    revision: revision_of(&function),
                    valid: None,
                    valid_function: function.clone(),
                    function,
                    faults,
                },
            },
        });
    }

    /// The instances that are kept warm: of those that take calls of the serving revision the oldest, as many as the floor
    /// has. Claimed pods are there for calls only.
    #[must_use]
    pub fn warm(&self) -> BTreeSet<&InstanceId> {
        if self.floor() == 0 {
            // As most functions are, at each of their plans.
            return BTreeSet::new();
        }
        let serving = |i: &InstanceSeen| self.serving.as_ref() == Some(&i.seen.revision);
        let kept = |i: &InstanceSeen| serving(i) && i.is_open() && i.claimed.is_none() && !i.is_spent() && !i.condemned;
        // By the start of their processes, where that is known: after a controller's restart they are the same ones.
        let age = |i: &InstanceSeen| (i.seen.started_at_us.unwrap_or(i64::MAX), i.since);
        let mut warm: Vec<_> = self.instances.iter().filter(|(_, i)| kept(i)).map(|(id, i)| (age(i), id)).collect();
        warm.sort_unstable();
        warm.into_iter().map(|(_, id)| id).take(self.floor() as usize).collect()
    }

    /// Whether an instance is in the function's namespace, as far as that is known: what a pod says of itself is not
    /// believed across namespaces.
    #[must_use]
    pub fn is_of(&self, instance: &Instance) -> bool {
        let namespace = self.object.as_ref().and_then(|o| o.function.metadata.namespace.as_deref());
        namespace.is_none_or(|namespace| namespace == instance.namespace)
    }

    /// Takes note of an instance.
    pub fn instance(&mut self, seen: Instance, found: bool, now: Moment) {
        match self.instances.get_mut(&seen.id) {
            Some(known) => {
                if let Some(claimed) = &mut known.claimed {
                    claimed.grafted = true;
                    let ended = seen.phase == Phase::Ending && known.seen.phase != Phase::Ending;
                    if ended && seen.trouble.is_some() {
                        self.claiming.failed(now);
                    }
                }
                if seen.restarts > known.seen.restarts || seen.phase == Phase::Starting {
                    known.open = false;
                }
                known.seen = seen;
            }
            None => {
                let id = seen.id.clone();
                let claimed = seen.claim.is_some().then(|| Claimed::found(now));
                let known = InstanceSeen {
                    seen,
                    claimed,
                    since: now,
                    open: false,
                    in_flight: 0,
                    idle_since: now,
                    retired: false,
                    lost: false,
                    blocked_until: None,
                    published: None,
                    condemned: false,
                    asked: false,
                    found,
                };
                self.instances.insert(id, known);
            }
        }
    }

    /// A parked pod becomes an instance of the revision that the spec has: it is to be grafted. `number` tells the claim
    /// from others.
    pub fn reserve(&mut self, parked: Parked, number: u64, now: Moment) {
        let Some((revision, valid)) = self.object.as_ref().and_then(|o| Some((o.revision.clone(), o.valid.clone()?)))
        else {
            return;
        };
        let seen = Instance {
            id: parked.id.clone(),
            name: parked.name.clone(),
            namespace: parked.pool.namespace.clone(),
            function: self.uid.clone(),
            revision,
            address: Some((parked.ip, valid.port).into()),
            phase: Phase::Running,
            trouble: None,
            restarts: 0,
            image_digest: None,
            memory_mib: valid.memory_mib,
            cpu_millis: valid.cpu_millis,
            h2c: valid.protocol == Protocol::H2c,
            claim: Some(Claim {
                pool: parked.pool.clone(),
                // A runtime that is loaded runs already.
                taken: parked.runtime.is_some(),
                owned: false,
                shrunk: false,
                loaded: parked.runtime.map(|_| parked.restarts),
                sent: false,
            }),
            started_at_us: None,
        };
        let id = seen.id.clone();
        self.instance(seen, false, now);
        if let Some(known) = self.instances.get_mut(&id) {
            known.claimed = Some(Claimed::reserved(parked, number, now));
        }
    }

    /// Takes note that an instance is gone.
    pub fn instance_gone(&mut self, id: &InstanceId) {
        self.instances.remove(id);
        self.lanes.retain(
            |lane, _| !matches!(lane, Lane::Graft(of) | Lane::LookInto(of) | Lane::Own(of) | Lane::Retire(of) | Lane::Probe(of) if of == id),
        );
    }

    /// Takes note of a workload.
    pub fn workload(&mut self, seen: Workload) {
        let Workload { function: _, revision, replicas, trouble } = seen;
        let known = self.workloads.entry(revision).or_insert_with(|| WorkloadSeen::new(replicas));
        known.number.see(replicas);
        known.trouble = trouble;
    }

    /// Takes note that a workload is gone.
    pub fn workload_gone(&mut self, revision: &Revision) {
        self.workloads.remove(revision);
        self.lanes.retain(
            |lane, _| !matches!(lane, Lane::Prepare(of) | Lane::Mend(of) | Lane::Scale(of) | Lane::Remove(of) if of == revision),
        );
    }

    /// Takes note of the calls there are and of the most there were since the last time.
    pub fn demand(&mut self, queued: u32, running: u32, peak: u32, now: Moment) {
        let Some(policy) = self.policy() else { return };
        self.queued = queued;
        let calls = queued.saturating_add(running);
        if peak > calls.max(self.scaler.calls()) {
            self.scaler.observe(now, peak, &policy);
        }
        self.scaler.observe(now, calls, &policy);
        // A call that is shorter than the time between two reports is in the peak alone.
        if calls.max(peak) > 0 {
            let claimed = self.instances.values_mut().filter_map(|i| i.claimed.as_mut());
            claimed.filter(|c| now >= c.at + SETTLE).for_each(|c| c.settles = true);
        }
    }

    /// Takes note of what activators say of an instance.
    pub fn instance_demand(&mut self, id: &InstanceId, said: InstanceSaid, now: Moment) {
        let policy = self.policy();
        let Some(known) = self.instances.get_mut(id) else { return };
        let opened = said.open && !known.open && known.seen.phase == Phase::Running;
        known.open = (known.open || said.open) && known.seen.phase != Phase::Starting;
        known.retired |= said.retired;
        if let Some(claimed) = &mut known.claimed {
            claimed.first_call |= said.first_call;
            if opened {
                self.claiming.worked(now);
            }
        }
        if said.in_flight == 0 && known.in_flight > 0 {
            known.idle_since = now;
        }
        known.in_flight = said.in_flight;
        if opened && known.claimed.is_none() && !known.found {
            self.starts.took(now.saturating_sub(known.since));
        }
        // Whatever it was started for, it idles out like one that took a call when its port opened.
        if let (true, Some(policy)) = (opened, policy) {
            self.scaler.touch(now, 1, &policy);
        }
    }

    /// A scale-down of a revision was answered: who ends is known from now on.
    pub fn answered(&mut self, revision: &Revision) {
        self.instances.values_mut().filter(|i| i.seen.revision == *revision).for_each(|i| i.asked = false);
    }

    /// Makes what follows from several observations together true: victims that outlived their scale-down are none, and
    /// claims that no node has begun with are given up.
    pub fn settle(&mut self, now: Moment) {
        for instance in self.instances.values_mut().filter(|i| i.is_live()) {
            let taken = instance.is_taken();
            // What its node cannot start there it may start in a pod of the function's own.
            let stuck = !instance.open && instance.is_stuck();
            let Some(claimed) = instance.claimed.as_mut().filter(|c| !c.given_up) else { continue };
            if stuck || !taken && now >= claimed.at + TAKE {
                claimed.given_up = true;
                self.claiming.failed(now);
            }
        }
        for (revision, workload) in &self.workloads {
            let is_made = |i: &InstanceSeen| i.is_live() && i.seen.revision == *revision && i.claimed.is_none();
            let live = self.instances.values().filter(|i| is_made(i)).count();
            if live <= usize::try_from(workload.number.at(now)).unwrap_or(usize::MAX) {
                self.instances.values_mut().filter(|i| is_made(i)).for_each(|i| i.condemned = false);
            }
        }
    }

    /// The instances found when the office opens count as wanted at that moment: their calls are not known yet.
    pub fn opened(&mut self, now: Moment) {
        let Some(policy) = self.policy() else { return };
        let live = self.instances.values().filter(|i| i.is_live()).count();
        let calls = u32::try_from(live).unwrap_or(u32::MAX).saturating_mul(policy.concurrency);
        self.scaler.touch(now, calls, &policy);
    }

    /// Works out how many instances are to be ready without calls, when that may have changed.
    pub fn look_at_clock(&mut self, wall: Timestamp, now: Moment) {
        let Some((valid, object)) = self.object.as_ref().and_then(|o| Some((o.valid.clone()?, &o.function))) else {
            self.floor = Floor::default();
            return;
        };
        let read_by = (object.metadata.generation, self.starts.lead());
        if self.floor.read_by == Some(read_by) && self.floor.until.is_none_or(|until| now < until) {
            return;
        }
        let level = valid.windows.level(wall, self.starts.lead());
        let calls = valid.warm_up_concurrency.max(level.calls).min(valid.reserved_concurrency.unwrap_or(u32::MAX));
        let instances = calls.div_ceil(valid.concurrency.max(1)).min(MAX_INSTANCES);
        let wait = level.until.map(|at| Duration::try_from(at.duration_since(wall)).unwrap_or_default());
        let until = wait.map(|wait| now + wait.min(CLOCK));
        self.floor = Floor { instances, until, read_by: Some(read_by) };
    }

    /// Instances that are kept ready without calls.
    #[must_use]
    pub fn floor(&self) -> u32 {
        if self.stopped { 0 } else { self.floor.instances }
    }

    /// The scaling rule's part of the spec.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        let valid = self.object.as_ref()?.valid.as_ref()?;
        Some(Policy {
            concurrency: valid.concurrency,
            reserved: valid.reserved_concurrency,
            idle_timeout: valid.idle_timeout,
        })
    }

    /// True when nothing of it is left to look after.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.object.is_none() && self.workloads.is_empty() && self.instances.is_empty()
    }

    /// Whether a lane may be asked now; else when, if that is known.
    #[must_use]
    pub fn lane(&self, lane: &Lane, now: Moment) -> LaneOpen {
        match self.lanes.get(lane) {
            Some(LaneState::Busy { .. } | LaneState::Done) => LaneOpen::Later(None),
            Some(LaneState::Paused { until, .. }) if now < *until => LaneOpen::Later(Some(*until)),
            Some(LaneState::Paused { .. }) | None => LaneOpen::Now,
        }
    }
}

/// Whether a lane may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneOpen {
    /// At once.
    Now,
    /// Later: at a moment, or when its answer is there.
    Later(Option<Moment>),
}

/// What all activators together say of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceSaid {
    /// One of them saw its port open.
    pub open: bool,
    /// Calls running on it.
    pub in_flight: u32,
    /// A call on it timed out.
    pub retired: bool,
    /// A first call is on its way to it.
    pub first_call: bool,
}

/// The function that an event is about; `None` for events about none or (an instance gone) known by its id only.
#[must_use]
pub fn function_of(event: &Event) -> Option<FunctionUid> {
    match event {
        Event::Function(function) => function.metadata.uid.as_deref().map(FunctionUid::from),
        Event::FunctionGone(uid) | Event::WorkloadGone(uid, _) => Some(uid.clone()),
        Event::Instance(instance) => Some(instance.function.clone()),
        Event::Workload(workload) => Some(workload.function.clone()),
        Event::InstanceGone(_) | Event::Tenant { .. } | Event::ActivatorGone { .. } | Event::Synced => None,
        Event::Pool(_) | Event::PoolGone(..) | Event::PoolWorkload { .. } | Event::PoolWorkloadGone(_) => None,
        Event::Parked(_) | Event::Unparked(_) => None,
    }
}
