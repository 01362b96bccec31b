//! Instances as child processes of this one, for `dormouse dev`: no containers, no cluster.
//!
//! A function's command is the annotation `dormouse.dev/local-command`; it runs in the manifest's folder with a free
//! loopback port in `$PORT`. Handler code runs on the language runtimes that are in this program, by the protocol that is used in
//! a cluster. The command takes the place of the image's: as `spec.command` it is part of the revision,
//! so that a changed one rolls as a changed image does. Memory and cpu are not limited here; the bill counts the
//! configured memory all the same.

pub mod command;
mod instance;
pub mod leftover;
mod object;
mod queue;
mod runtimes;
mod schedules;
mod seen;

pub use seen::{Seen, Shown, ToldAt};

use super::{Event, Fleet, FleetError, FunctionUid, InstanceId, MAX_EVENTS, Note, Phase, Target, Victim, Workload};
use crate::budgets::BudgetEvent;
use crate::load::{KeyError, LoadKey};
use dormouse_core::function::{Function, FunctionStatus, Protocol, SLEEP, Source};
use dormouse_core::revision::Revision;
use dormouse_core::source::PACKAGES;
use dormouse_core::valid::ValidFunction;
use dormouse_core::{Budget, FunctionKey, quantity};
use instance::{Handle, Handler, Life, Runnable};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use object::{key, prepared, same, versioned};
use parking_lot::Mutex;
use queue::Queue;
use runtimes::Parked;
use schedules::Kept;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Most notes of a function that are kept to be shown.
const MAX_NOTES: usize = 16;

/// What the fleet needs to know of the program that it is in.
#[derive(Clone, Debug)]
pub struct Config {
    /// This program: what `dormouse` as first word of a command means.
    pub program: PathBuf,
    /// The mark that instances carry, see [`leftover`].
    pub mark: String,
    /// Folder that the language runtimes are written to when one of them is needed.
    pub runtimes: PathBuf,
    /// The file that keeps what is known of schedules; `None`: a restart forgets it.
    pub schedules: Option<PathBuf>,
    /// What happens, for the console. Output of functions waits when it is full; everything else is dropped.
    pub seen: mpsc::Sender<Seen>,
}

/// A function as its manifest has it.
#[derive(Clone, Debug)]
pub struct Local {
    /// The object; `metadata.uid`, `name` and `namespace` are set.
    pub function: Function,
    /// Its command's words.
    pub command: Vec<String>,
    /// The manifest's folder, where its processes run.
    pub folder: PathBuf,
}

struct Known {
    function: Arc<Function>,
    folder: PathBuf,
    status: Option<FunctionStatus>,
    notes: VecDeque<ToldAt>,
}

/// A revision and its instances.
struct Carried {
    key: FunctionKey,
    run: Arc<Runnable>,
    replicas: u32,
    instances: BTreeMap<InstanceId, Handle>,
    /// To be told as gone when its last instance is.
    removed: bool,
}

#[derive(Default)]
struct State {
    functions: HashMap<FunctionUid, Known>,
    workloads: HashMap<(FunctionUid, Revision), Carried>,
    /// Number of the next instance; never used twice.
    next: u64,
    /// No instance is started any more.
    closed: bool,
}

struct Shared {
    config: Config,
    state: Mutex<State>,
    ports: Mutex<HashSet<u16>>,
    queue: Queue,
    ended: Notify,
    /// What loads are signed with.
    load_key: LoadKey,
    parked: Mutex<Parked>,
    schedules: Kept,
}

/// Budgets as they were told.
struct Budgets {
    known: tokio::sync::Mutex<BTreeMap<String, Arc<Budget>>>,
    told: mpsc::Sender<BudgetEvent>,
    events: Mutex<Option<mpsc::Receiver<BudgetEvent>>>,
}

/// The fleet of local processes. A clone is the same fleet.
#[derive(Clone)]
pub struct Processes {
    shared: Arc<Shared>,
    budgets: Arc<Budgets>,
    events: Arc<Mutex<Option<mpsc::Receiver<Event>>>>,
}

impl Processes {
    /// A fleet with these functions. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When this machine has no randomness.
    pub fn new(config: Config, functions: Vec<Local>) -> Result<Self, KeyError> {
        let load_key = LoadKey::random()?;
        let (out, events) = mpsc::channel(MAX_EVENTS);
        let shared = Arc::new(Shared {
            schedules: Kept::open(config.schedules.clone()),
            config,
            state: Mutex::default(),
            ports: Mutex::default(),
            queue: Queue::default(),
            ended: Notify::new(),
            load_key,
            parked: Mutex::default(),
        });
        let (told, seen) = mpsc::channel(MAX_EVENTS);
        let budgets = Arc::new(Budgets { known: Default::default(), told, events: Mutex::new(Some(seen)) });
        let fleet = Self { shared: shared.clone(), budgets, events: Arc::new(Mutex::new(Some(events))) };
        fleet.set(functions);
        shared.queue.push(Event::Synced);
        tokio::spawn(async move { shared.queue.pump(out).await });
        Ok(fleet)
    }

    /// Makes these the functions there are: new ones are told, changed ones get a new generation, those that are no
    /// longer there are deleted. Nothing that stayed the same is touched.
    pub fn set(&self, functions: Vec<Local>) {
        let mut state = self.shared.state.lock();
        let mut wanted: HashSet<FunctionUid> = HashSet::new();
        for local in functions {
            let uid = FunctionUid::from(local.function.metadata.uid.clone().unwrap_or_default());
            wanted.insert(uid.clone());
            let function = prepared(local.function, local.command);
            let old = state.functions.get(&uid);
            if old.is_some_and(|k| same(&k.function, &function) && k.folder == local.folder) {
                continue;
            }
            let mut function = versioned(function, old.map(|k| &*k.function));
            if old.is_none() {
                // As if an API server had kept it.
                let schedules = self.shared.schedules.of(&uid);
                function.status = Some(FunctionStatus { schedules, ..FunctionStatus::default() });
            }
            let function = Arc::new(function);
            self.shared.queue.push(Event::Function(function.clone()));
            match state.functions.get_mut(&uid) {
                Some(known) => (known.function, known.folder) = (function, local.folder),
                None => {
                    let known = Known { function, folder: local.folder, status: None, notes: VecDeque::new() };
                    state.functions.insert(uid, known);
                }
            }
        }
        for (uid, known) in &mut state.functions {
            if !wanted.contains(uid) && known.function.metadata.deletion_timestamp.is_none() {
                let mut function = Function::clone(&known.function);
                function.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
                known.function = Arc::new(function);
                self.shared.queue.push(Event::Function(known.function.clone()));
            }
        }
    }

    /// Makes these the budgets there are.
    pub async fn set_budgets(&self, budgets: Vec<Budget>) {
        let mut known = self.budgets.known.lock().await;
        let mut now = BTreeMap::new();
        let mut events = Vec::new();
        for mut budget in budgets {
            let name = budget.metadata.name.clone().unwrap_or_default();
            // As if it had never been in a cluster: what was spent is of the name.
            budget.metadata.uid = Some(name.clone());
            let before = known.remove(&name).filter(|before| before.spec == budget.spec);
            let budget = before.unwrap_or_else(|| {
                let budget = Arc::new(budget);
                events.push(BudgetEvent::There(budget.clone()));
                budget
            });
            now.insert(name, budget);
        }
        events.extend(std::mem::replace(&mut *known, now).into_keys().map(BudgetEvent::Gone));
        for event in events {
            // Nobody receives only when the controller ends.
            let _ = self.budgets.told.send(event).await;
        }
    }

    /// Every budget that there is at the start was told.
    pub async fn budgets_known(&self) {
        let _ = self.budgets.told.send(BudgetEvent::Synced).await;
    }

    /// The functions as they are now, by namespace and name.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let state = self.shared.state.lock();
        let mut shown: Vec<Shown> = state
            .functions
            .iter()
            .map(|(uid, known)| {
                let mut function = Function::clone(&known.function);
                function.status = known.status.clone();
                let carried = state.workloads.iter().filter(|((owner, _), _)| owner == uid);
                let instances = carried.flat_map(|(_, c)| c.instances.values()).map(|h| (h.state.clone(), h.pid));
                let mut instances: Vec<_> = instances.collect();
                instances.sort_by(|a, b| a.0.name.cmp(&b.0.name));
                Shown { function, instances, notes: known.notes.iter().cloned().collect() }
            })
            .collect();
        shown.sort_by_cached_key(|s| key(&s.function));
        shown
    }

    /// Puts a function to sleep, as its annotation does in a cluster; false when there is none of that name.
    #[must_use]
    pub fn put_to_sleep(&self, wanted: &FunctionKey) -> bool {
        let mut state = self.shared.state.lock();
        let Some(known) = state.functions.values_mut().find(|known| key(&known.function) == *wanted) else {
            return false;
        };
        let function = Arc::make_mut(&mut known.function);
        let annotations = function.metadata.annotations.get_or_insert_default();
        annotations.insert(SLEEP.into(), Timestamp::now().to_string());
        self.shared.queue.push(Event::Function(known.function.clone()));
        true
    }

    /// Ends every instance and waits until all are gone. None is started afterwards. A second call with a shorter
    /// grace shortens the first one's.
    pub async fn close(&self, grace: Duration) {
        self.shared.unpark().await;
        loop {
            let ended = self.shared.ended.notified();
            {
                let mut state = self.shared.state.lock();
                state.closed = true;
                let handles = state.workloads.values_mut().flat_map(|c| c.instances.values_mut());
                let left = handles.map(|handle| self.shared.end(handle, grace)).count();
                if left == 0 {
                    return;
                }
            }
            ended.await;
        }
    }
}

impl Shared {
    /// Tells the console, unless it is behind.
    fn see(&self, seen: Seen) {
        let _ = self.config.seen.try_send(seen);
    }

    /// Tells an instance to end within `grace`, or sooner than it was told.
    fn end(&self, handle: &mut Handle, grace: Duration) {
        handle.stop.send_if_modified(|stop| {
            let sooner = stop.is_none_or(|given| grace < given);
            if sooner {
                *stop = Some(grace);
            }
            sooner
        });
        if handle.state.phase != Phase::Ending {
            handle.state.phase = Phase::Ending;
            self.queue.push(Event::Instance(handle.state.clone()));
        }
    }

    /// An instance and all its processes are gone.
    fn instance_ended(&self, function: &FunctionUid, revision: &Revision, id: &InstanceId) {
        let mut state = self.state.lock();
        let owner = (function.clone(), revision.clone());
        let Some(carried) = state.workloads.get_mut(&owner) else { return };
        if let Some(handle) = carried.instances.remove(id) {
            self.see(Seen::Stopped { key: carried.key.clone(), name: handle.state.name });
            self.queue.push(Event::InstanceGone(id.clone()));
        }
        if carried.removed && carried.instances.is_empty() {
            state.workloads.remove(&owner);
            self.queue.push(Event::WorkloadGone(owner.0, owner.1));
        }
        self.ended.notify_waiters();
    }

    fn tell_workload(&self, target: &Target, replicas: u32) {
        let (function, revision) = (target.uid.clone(), target.revision.clone());
        self.queue.push(Event::Workload(Workload { function, revision, replicas, trouble: None }));
    }
}

/// How handler code runs here: loaded as it was read; or booted in its folder, where what it depends on is beside it.
fn runs(function: &Function, source: &Source, folder: &Path) -> Result<Handler, FleetError> {
    let valid = ValidFunction::from_function(function)
        .map_err(|faults| FleetError::Refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let beside = PACKAGES.iter().any(|name| folder.join(name).is_dir());
    let boots = source.inline.is_none() && (valid.image.is_some() || beside);
    Ok(Handler { valid: Arc::new(valid), boots })
}

/// Which instances to end so that `replicas` are left: the victims, then those in trouble, then the newest.
fn surplus(carried: &Carried, replicas: u32, victims: &[Victim]) -> Vec<InstanceId> {
    let mut running: Vec<&Handle> = carried.instances.values().filter(|h| h.state.phase != Phase::Ending).collect();
    let named = |h: &Handle| victims.iter().any(|v| v.id == h.state.id);
    running.sort_by_key(|h| (!named(h), h.state.trouble.is_none(), std::cmp::Reverse(number(&h.state.name))));
    let count = running.len().saturating_sub(usize::try_from(replicas).unwrap_or(usize::MAX));
    running.iter().take(count).map(|h| h.state.id.clone()).collect()
}

fn number(name: &str) -> u64 {
    name.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

impl Fleet for Processes {
    fn events(&self) -> Option<mpsc::Receiver<Event>> {
        self.events.lock().take()
    }

    fn budgets(&self) -> Option<mpsc::Receiver<BudgetEvent>> {
        self.budgets.events.lock().take()
    }

    async fn adopt(&self, _: &Arc<Function>) -> Result<(), FleetError> {
        Ok(())
    }

    async fn prepare(&self, function: &Arc<Function>, target: &Target) -> Result<(), FleetError> {
        let mut state = self.shared.state.lock();
        let Some(known) = state.functions.get(&target.uid) else {
            return Err(FleetError::Gone(target.key.to_string()));
        };
        let folder = known.folder.clone();
        let spec = &function.spec;
        let handler = match &spec.source {
            None => None,
            Some(source) => Some(runs(function, source, &folder)?),
        };
        if let Some(handler) = &handler {
            self.shared.refill(handler.runtime());
        }
        let refused = |e: quantity::QuantityError| FleetError::Refused(e.to_string());
        let run = Arc::new(Runnable {
            command: spec.command.clone(),
            handler,
            folder,
            env: spec.env.iter().map(|e| (e.name.clone(), e.value.clone().unwrap_or_default())).collect(),
            grace: Duration::from_secs(u64::try_from(spec.timeout_seconds).unwrap_or(0)),
            memory_mib: quantity::memory_mib(&spec.resources.memory).map_err(refused)?,
            cpu_millis: quantity::cpu_millis(&spec.resources.cpu).map_err(refused)?,
            h2c: spec.protocol == Protocol::H2c,
        });
        let carried = state.workloads.entry((target.uid.clone(), target.revision.clone())).or_insert_with(|| Carried {
            key: target.key.clone(),
            run,
            replicas: 0,
            instances: BTreeMap::new(),
            removed: false,
        });
        if carried.removed {
            return Err(FleetError::Conflict(format!("{} revision {}", target.key, target.revision)));
        }
        self.shared.tell_workload(target, carried.replicas);
        Ok(())
    }

    async fn scale(&self, target: &Target, replicas: u32, victims: &[Victim]) -> Result<(), FleetError> {
        let mut state = self.shared.state.lock();
        let State { workloads, next, closed, .. } = &mut *state;
        if *closed {
            return Err(FleetError::Refused("the fleet is closed".into()));
        }
        let carried = workloads.get_mut(&(target.uid.clone(), target.revision.clone())).filter(|c| !c.removed);
        let Some(carried) = carried else {
            return Err(FleetError::Gone(format!("{} revision {}", target.key, target.revision)));
        };
        let grace = carried.run.grace;
        for id in surplus(carried, replicas, victims) {
            if let Some(handle) = carried.instances.get_mut(&id) {
                self.shared.end(handle, grace);
            }
        }
        let running = carried.instances.values().filter(|h| h.state.phase != Phase::Ending).count();
        for _ in running..usize::try_from(replicas).unwrap_or(usize::MAX) {
            *next += 1;
            let (handle, life) = Life::new(target, carried.run.clone(), *next, self.shared.clone());
            self.shared.queue.push(Event::Instance(handle.state.clone()));
            carried.instances.insert(handle.state.id.clone(), handle);
            tokio::spawn(life.live());
        }
        carried.replicas = replicas;
        self.shared.tell_workload(target, replicas);
        Ok(())
    }

    async fn retire(&self, target: &Target, instance: &Victim, grace: Duration) -> Result<(), FleetError> {
        let mut state = self.shared.state.lock();
        let carried = state.workloads.get_mut(&(target.uid.clone(), target.revision.clone()));
        match carried.and_then(|c| c.instances.get_mut(&instance.id)) {
            Some(handle) => {
                self.shared.end(handle, grace);
                Ok(())
            }
            None => Err(FleetError::Gone(instance.name.clone())),
        }
    }

    async fn remove(&self, target: &Target) -> Result<(), FleetError> {
        let mut state = self.shared.state.lock();
        let owner = (target.uid.clone(), target.revision.clone());
        let Some(carried) = state.workloads.get_mut(&owner) else {
            return Err(FleetError::Gone(format!("{} revision {}", target.key, target.revision)));
        };
        carried.removed = true;
        let grace = carried.run.grace;
        for handle in carried.instances.values_mut() {
            self.shared.end(handle, grace);
        }
        if carried.instances.is_empty() {
            state.workloads.remove(&owner);
            self.shared.queue.push(Event::WorkloadGone(owner.0, owner.1));
        }
        Ok(())
    }

    async fn report(&self, function: &Arc<Function>, status: &FunctionStatus) -> Result<(), FleetError> {
        let uid = FunctionUid::from(function.metadata.uid.clone().unwrap_or_default());
        self.shared.schedules.keep(&uid, &status.schedules).await?;
        match self.shared.state.lock().functions.get_mut(&uid) {
            Some(known) => {
                known.status = Some(status.clone());
                Ok(())
            }
            None => Err(FleetError::Gone(key(function).to_string())),
        }
    }

    async fn note(&self, function: &Arc<Function>, note: &Note) -> Result<(), FleetError> {
        let uid = FunctionUid::from(function.metadata.uid.clone().unwrap_or_default());
        if let Some(known) = self.shared.state.lock().functions.get_mut(&uid) {
            if known.notes.len() == MAX_NOTES {
                known.notes.pop_front();
            }
            known.notes.push_back(ToldAt { at: Timestamp::now(), note: note.clone() });
        }
        self.shared.see(Seen::Told { key: key(function), note: note.clone() });
        Ok(())
    }

    async fn release(&self, function: &Arc<Function>) -> Result<(), FleetError> {
        let uid = FunctionUid::from(function.metadata.uid.clone().unwrap_or_default());
        self.shared.schedules.keep(&uid, &[]).await?;
        if self.shared.state.lock().functions.remove(&uid).is_some() {
            self.shared.queue.push(Event::FunctionGone(uid));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
