//! Warm pools: which pods are parked, who may have which, and how many there are to be.
//!
//! Part of the office: one writer, no lock. A pool is neither scaled nor rolled while a claimed pod is still in it: what
//! a ReplicaSet does then would compete with a start, or choose that pod.

use crate::backoff;
use crate::fleet::{Fleet, FleetError, InstanceId, Parked, PoolKey, Trouble, Victim};
use crate::load;
use crate::parking::Parking;
use crate::reconcile::observe::{Moment, Number};
use crate::reconcile::report::{Says, condition};
use dormouse_core::function::Runtime;
use dormouse_core::pool::{Claims, Sized, Why};
use dormouse_core::valid::ValidFunction;
use dormouse_core::warm_pool::{Security, WarmPool, WarmPoolStatus};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a pod that was claimed takes to be replaced, as long as nothing is known: a bare pod starts in half a second
/// on a busy machine, and its image is there.
const REFILL: Duration = Duration::from_secs(3);

/// Most refills that are remembered; the longest of them counts.
const MAX_REFILLS: usize = 16;

/// A refill that takes longer is no refill: the cluster has no room.
const LONGEST_REFILL: Duration = Duration::from_secs(60);

/// A size that follows the claims is looked at that often; nothing else makes it smaller.
const LOOK: Duration = Duration::from_secs(60);

/// First and longest pause after a write that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// All pools.
#[derive(Debug)]
pub struct Pools {
    pools: BTreeMap<PoolKey, Pool>,
    /// Which pool a parked pod is of.
    parked: HashMap<InstanceId, PoolKey>,
    answer: mpsc::Sender<Answer>,
    parking: Parking,
    /// Runtimes that were parked before this life: one may be held by a function already.
    unsure: BTreeSet<InstanceId>,
}

/// The outcome of a write.
#[derive(Debug)]
pub struct Answer {
    pool: PoolKey,
    what: What,
    result: Result<(), FleetError>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
enum What {
    /// The Deployment of the pool as of a generation.
    Prepare(i64),
    /// The number of pods.
    Scale(u32),
    /// The status.
    Report(Box<WarmPoolStatus>),
    /// Nothing: it was looked whether this one is held.
    Look(InstanceId),
}

#[derive(Debug, Default)]
struct Pool {
    object: Option<Arc<WarmPool>>,
    parked: BTreeMap<InstanceId, Parked>,
    /// Parked ones that are being ended: nobody claims them, whatever is still told of them.
    ending: BTreeMap<InstanceId, Parked>,
    /// Claimed pods that are still in it.
    unowned: BTreeSet<InstanceId>,
    claims: Claims,
    /// When pods left that nothing has taken the place of yet.
    refilling: VecDeque<Moment>,
    refills: VecDeque<Duration>,
    /// The generation that its Deployment was made by.
    prepared: Option<i64>,
    /// How many pods its Deployment is to have, once there is one.
    number: Option<Number>,
    trouble: Option<Trouble>,
    status: WarmPoolStatus,
    /// What was wanted before this life: claims of that time are known to nobody.
    before: u32,
    busy: bool,
    failures: u32,
    not_before: Moment,
}

impl Pools {
    /// No pools yet, where outcomes come in, and who counts what is parked.
    #[must_use]
    pub fn new(answer: mpsc::Sender<Answer>, parking: Parking) -> Self {
        Self { pools: BTreeMap::new(), parked: HashMap::new(), answer, parking, unsure: BTreeSet::new() }
    }

    /// What is parked of a pool has changed.
    fn meter(&self, key: &PoolKey) {
        if let Some(pool) = self.pools.get(key) {
            self.parking.see(key, pool.parked.values().map(|pod| pod.size));
        }
    }

    /// All of them.
    #[must_use]
    pub fn keys(&self) -> Vec<PoolKey> {
        self.pools.keys().cloned().collect()
    }

    /// Looks into the runtimes that were parked before this life: none of them is claimed before it has said that it is free.
    pub fn look_into<F: Fleet>(&mut self, fleet: &Arc<F>) {
        let parked =
            self.pools.values().flat_map(|pool| pool.parked.values()).filter(|parked| parked.runtime.is_some());
        for parked in parked.cloned() {
            self.unsure.insert(parked.id.clone());
            let (fleet, answer) = (fleet.clone(), self.answer.clone());
            tokio::spawn(async move {
                let result = fleet.look_into(&parked).await;
                if let Err(error) = &result {
                    tracing::warn!(pod = parked.name, %error, "a parked runtime that is held could not be let go");
                }
                // Nobody listens only when the office has closed.
                let _ = answer.send(Answer { pool: parked.pool, what: What::Look(parked.id), result }).await;
            });
        }
    }

    /// How many pods of a pool can be claimed; `None` when there is no such pool.
    #[must_use]
    pub fn count(&self, key: &PoolKey) -> Option<usize> {
        self.pools.get(key).filter(|pool| pool.object.is_some()).map(|pool| pool.parked.len())
    }

    /// A pool as it is now.
    pub fn object(&mut self, object: Arc<WarmPool>, now: Moment) -> PoolKey {
        let key = PoolKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        let pool = self.pools.entry(key.clone()).or_default();
        if pool.object.is_none() {
            pool.status = object.status.clone().unwrap_or_default();
            pool.before = u32::try_from(pool.status.wanted).unwrap_or(0);
            pool.claims = Claims::new(now);
        }
        pool.object = Some(object);
        key
    }

    /// The pool of a uid is gone: what it owned is collected. False when there is another of that name by now.
    pub fn gone(&mut self, key: &PoolKey, uid: &str) -> bool {
        let object = self.pools.get(key).and_then(|pool| pool.object.as_ref());
        if object.is_some_and(|object| object.uid().as_deref() != Some(uid)) {
            return false;
        }
        self.pools.remove(key);
        self.parking.forget(key);
        self.parked.retain(|_, of| of != key);
        true
    }

    /// What carries a pool's pods; `None`: it is gone.
    pub fn workload(&mut self, key: &PoolKey, seen: Option<(u32, Option<Trouble>)>) {
        let pool = self.pools.entry(key.clone()).or_default();
        match seen {
            Some((replicas, trouble)) => {
                pool.number.get_or_insert(Number::new(replicas)).see(replicas);
                pool.trouble = trouble;
            }
            None => (pool.number, pool.prepared) = (None, None),
        }
    }

    /// A pod that can be claimed.
    pub fn parked(&mut self, parked: Parked, now: Moment) -> PoolKey {
        let key = parked.pool.clone();
        let pool = self.pools.entry(key.clone()).or_default();
        if pool.ending.contains_key(&parked.id) {
            return key;
        }
        // What nothing has taken the place of for so long, nothing will.
        while pool.refilling.front().is_some_and(|left| *left + LONGEST_REFILL < now) {
            pool.refilling.pop_front();
        }
        if pool.parked.insert(parked.id.clone(), parked.clone()).is_none()
            && let Some(left) = pool.refilling.pop_front()
        {
            if pool.refills.len() == MAX_REFILLS {
                pool.refills.pop_front();
            }
            pool.refills.push_back(now.saturating_sub(left).min(LONGEST_REFILL));
        }
        self.parked.insert(parked.id, key.clone());
        self.meter(&key);
        key
    }

    /// A pod that cannot be claimed, or is gone. Answers its pool, if that is to be looked at.
    pub fn unparked(&mut self, id: &InstanceId) -> Option<PoolKey> {
        let key = self.parked.remove(id)?;
        let pool = self.pools.get_mut(&key)?;
        pool.parked.remove(id);
        pool.ending.remove(id);
        self.meter(&key);
        Some(key)
    }

    /// A parked pod was reserved for a function.
    pub fn claimed(&mut self, parked: &Parked, now: Moment) {
        self.unparked(&parked.id);
        if let Some(pool) = self.pools.get_mut(&parked.pool) {
            pool.claims.claimed(now);
        }
    }

    /// A pod whose claim was refused before anything was changed: it can be claimed by others.
    pub fn give_back(&mut self, parked: Parked) {
        if let Some(pool) = self.pools.get_mut(&parked.pool) {
            pool.unowned.remove(&parked.id);
            let key = parked.pool.clone();
            self.parked.insert(parked.id.clone(), key.clone());
            pool.parked.insert(parked.id.clone(), parked);
            self.meter(&key);
        }
    }

    /// A claim that is still in its pool, or (`false`) is no longer. Answers the pool, if it is to be looked at.
    pub fn in_pool(&mut self, key: &PoolKey, id: &InstanceId, still: bool, now: Moment) -> Option<PoolKey> {
        self.unparked(id);
        let pool = self.pools.get_mut(key)?;
        if still {
            pool.unowned.insert(id.clone());
            return None;
        }
        pool.unowned.remove(id).then(|| {
            pool.refilling.push_back(now);
            key.clone()
        })
    }

    /// Parked pods that a function fits into: those that keep its runtime before others, the smallest first.
    #[must_use]
    pub fn fitting(&self, valid: &ValidFunction, most: u32) -> Vec<Parked> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let pools = self.pools.iter().filter(|(key, pool)| key.namespace == valid.key.namespace && pool.fits(valid));
        let pods = pools.flat_map(|(_, pool)| pool.parked.values());
        // By what they are themselves: the pool may have changed since they were made.
        let runs = |pod: &Parked| match pod.runtime {
            Some(runtime) => may_load(valid, runtime) && !self.unsure.contains(&pod.id),
            None => may_graft(valid),
        };
        let holds = |pod: &Parked| valid.memory_mib <= pod.size.0 && valid.cpu_millis <= pod.size.1;
        let mut fitting: Vec<&Parked> = pods.filter(|pod| runs(pod) && holds(pod)).collect();
        fitting.sort_by_key(|pod| (pod.runtime.is_none(), pod.size));
        fitting.into_iter().take(most).cloned().collect()
    }

    /// Does what is to be done about a pool. Answers when to look again.
    pub fn look<F: Fleet>(&mut self, key: &PoolKey, fleet: &Arc<F>, now: Moment, wall: Timestamp) -> Option<Moment> {
        let pool = self.pools.get_mut(key)?;
        let object = pool.object.clone()?;
        let sized = pool.size(&object, now);
        let look_again_at = (sized.why != Why::Fixed && sized.why != Why::Least).then_some(now + LOOK);
        if pool.busy {
            return look_again_at;
        }
        if now < pool.not_before {
            return Some(pool.not_before);
        }
        let Some(what) = pool.next(&object, sized, now, wall) else {
            return [look_again_at, pool.number.and_then(|number| number.unsure_until(now))]
                .into_iter()
                .flatten()
                .min();
        };
        pool.busy = true;
        let mut victims = Vec::new();
        if let What::Scale(replicas) = what {
            // Pods that are not up yet are the ReplicaSet's to choose from.
            let surplus = pool.parked.len().saturating_sub(usize::try_from(replicas).unwrap_or(usize::MAX));
            let ids: Vec<InstanceId> = pool.parked.keys().take(surplus).cloned().collect();
            for (id, parked) in ids.into_iter().filter_map(|id| pool.parked.remove_entry(&id)) {
                victims.push(Victim { id: id.clone(), name: parked.name.clone() });
                pool.ending.insert(id, parked);
            }
            pool.refilling.clear();
            self.meter(key);
        }
        let (fleet, answer, key) = (fleet.clone(), self.answer.clone(), key.clone());
        tokio::spawn(async move {
            let result = match &what {
                What::Prepare(_) => fleet.prepare_pool(&object).await,
                What::Scale(replicas) => fleet.scale_pool(&key, *replicas, &victims).await,
                What::Report(status) => fleet.report_pool(&object, status).await,
                What::Look(_) => Ok(()),
            };
            // Nobody listens only when the office has closed.
            let _ = answer.send(Answer { pool: key, what, result }).await;
        });
        look_again_at
    }

    /// The outcome of a write. Answers the pool, which is to be looked at.
    pub fn answered(&mut self, answer: Answer, now: Moment) -> Option<PoolKey> {
        let Answer { pool: key, what, result } = answer;
        if let What::Look(id) = &what {
            self.unsure.remove(id);
            return Some(key);
        }
        let pool = self.pools.get_mut(&key)?;
        pool.busy = false;
        match result {
            Ok(()) => {
                pool.failures = 0;
                match what {
                    What::Prepare(generation) => {
                        pool.prepared = Some(generation);
                        pool.number.get_or_insert(Number::new(0));
                    }
                    What::Scale(replicas) => {
                        pool.number.iter_mut().for_each(|number| number.wrote(replicas, now));
                    }
                    What::Report(status) => pool.status = *status,
                    What::Look(_) => {}
                }
            }
            Err(error) => {
                tracing::warn!(pool = %key, %error, failures = pool.failures, "a warm pool could not be written");
                let pause = backoff::pause(pool.failures, PAUSE);
                pool.failures = pool.failures.saturating_add(1);
                pool.not_before = now + pause;
                // What was to be ended is tried again, or was ended and is told so.
                let ending = std::mem::take(&mut pool.ending);
                pool.parked.extend(ending);
                match (what, error) {
                    (What::Scale(_), FleetError::Gone(_)) => pool.prepared = None,
                    (What::Prepare(_), FleetError::Refused(why)) => {
                        pool.trouble = Some(Trouble::new(crate::fleet::Code::AdmissionRefused, why));
                    }
                    _ => {}
                }
                self.meter(&key);
            }
        }
        Some(key)
    }
}

impl Pool {
    /// Whether a function's instances may run in its pods.
    fn fits(&self, valid: &ValidFunction) -> bool {
        let Some(object) = &self.object else { return false };
        let spec = &object.spec;
        let pulls = |name: &String| spec.image_pull_secrets.iter().any(|s| s.name == *name);
        let root = valid.security_context.as_ref().is_some_and(|s| s.run_as_user == Some(0));
        valid.service_account_name.is_none()
            && valid.image_pull_secrets.iter().all(|s| pulls(&s.name))
            && !(spec.security == Security::Restricted && root)
    }

    fn refill(&self) -> Duration {
        self.refills.iter().max().copied().unwrap_or(REFILL).max(Duration::from_millis(1))
    }

    fn size(&mut self, object: &WarmPool, now: Moment) -> Sized {
        let bound = |n: i32| u32::try_from(n).unwrap_or(0);
        let refill = self.refill();
        let (min, max) = (bound(object.spec.size.min), bound(object.spec.size.max));
        let sized = self.claims.size(now, refill, (min, max));
        let before = self.before.clamp(min.min(max), max);
        // An hour after a restart the claims since then say enough.
        if sized.why != Why::Fixed && sized.wanted < before && !self.claims.is_whole(now) {
            return Sized { wanted: before, why: Why::Claims { refill } };
        }
        sized
    }

    /// The next write, if one is due.
    fn next(&self, object: &WarmPool, sized: Sized, now: Moment, wall: Timestamp) -> Option<What> {
        let generation = object.meta().generation.unwrap_or(0);
        let calm = self.unowned.is_empty();
        let ending = object.meta().deletion_timestamp.is_some();
        if !ending && (self.number.is_none() || calm && self.prepared != Some(generation)) {
            return Some(What::Prepare(generation));
        }
        if !ending && calm && self.number.map(|number| number.at(now)) != Some(sized.wanted) {
            return Some(What::Scale(sized.wanted));
        }
        let status = self.status(object, sized, wall);
        (status != self.status).then(|| What::Report(Box::new(status)))
    }

    fn status(&self, object: &WarmPool, sized: Sized, wall: Timestamp) -> WarmPoolStatus {
        let wanted = i32::try_from(sized.wanted).unwrap_or(i32::MAX);
        let parked = i32::try_from(self.parked.len()).unwrap_or(i32::MAX);
        let seconds = |d: Duration| format!("{}.{} s", d.as_secs(), d.subsec_millis() / 100);
        let reason = match sized.why {
            Why::Fixed => "a fixed size".to_owned(),
            Why::Least => "size.min: fewer claims than that within a refill".to_owned(),
            Why::Claims { refill } => format!("claims within a refill of {}", seconds(refill)),
            Why::Most { claims, refill } => {
                format!("size.max: there were {claims} claims within a refill of {}", seconds(refill))
            }
        };
        let (is, why, message) = match &self.trouble {
            Some(trouble) => ("False", trouble.code.name(), trouble.message.clone()),
            None if parked >= wanted => ("True", "Parked", "pods are parked as wanted".to_owned()),
            None => ("Unknown", "Refilling", "pods are being started".to_owned()),
        };
        let generation = object.meta().generation;
        let ready = Says::new("Ready", is, why, message);
        let ready = condition(ready, &self.status.conditions, generation, wall);
        WarmPoolStatus {
            observed_generation: generation,
            wanted,
            parked,
            reason: Some(reason),
            conditions: vec![ready],
        }
    }
}

/// Whether a function's code can be loaded into a runtime that runs already: nothing of it is the kubelet's to give out
/// or the container's to be.
fn may_load(valid: &ValidFunction, runtime: Runtime) -> bool {
    let Some(handler) = &valid.source else { return false };
    let values_only = valid.env_from.is_empty() && valid.env.iter().all(|var| var.value_from.is_none());
    // The kubelet makes something else of these, and a load does not.
    let as_written = |value: &String| !value.contains("$(") && !value.contains("$$");
    let as_written = valid.env.iter().filter_map(|var| var.value.as_ref()).all(as_written);
    let environment: usize =
        valid.env.iter().map(|var| var.name.len() + var.value.as_ref().map_or(0, String::len)).sum();
    let options = valid.env.iter().any(|var| OPTIONS.contains(&var.name.as_str()));
    handler.runtime == runtime
        && handler.code.is_some()
        && values_only
        && as_written
        && environment <= MAX_ENVIRONMENT
        && !options
        && valid.security_context.is_none()
        && valid.image_pull_secrets.is_empty()
        && valid.port == load::CALLS
}

/// Most bytes of variables in a load: its body has at most 1 MiB, of which the files take 350 KiB as base64 and a byte of text
/// as JSON at most six.
const MAX_ENVIRONMENT: usize = 100 * 1024;

/// Whether its container can run in a pod that is parked. Code that is loaded needs a place to write to, which nobody can
/// mount there any more, and the load port.
fn may_graft(valid: &ValidFunction) -> bool {
    let read_only = valid.security_context.as_ref().and_then(|s| s.read_only_root_filesystem) == Some(true);
    !valid.brings_code() || !read_only && valid.port != load::PORT
}

/// Variables that an interpreter reads when it starts.
const OPTIONS: [&str; 4] = ["NODE_OPTIONS", "NODE_PATH", "PYTHONPATH", "PYTHONHASHSEED"];

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::function::Function;
    use serde_json::{Map, Value, json};

    const S: fn(u64) -> Moment = Moment::from_secs;

    fn key() -> PoolKey {
        PoolKey { namespace: "default".into(), name: "small".into() }
    }

    fn object(spec: Value) -> Arc<WarmPool> {
        let metadata = json!({"name": "small", "namespace": "default", "uid": "u", "generation": 1});
        let pool =
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "WarmPool", "metadata": metadata, "spec": spec});
        Arc::new(serde_json::from_value(pool).unwrap())
    }

    fn pools(spec: Value) -> (Pools, mpsc::Receiver<Answer>) {
        let (answer, answers) = mpsc::channel(8);
        let mut pools = Pools::new(answer, Parking::default());
        pools.object(object(spec), S(0));
        (pools, answers)
    }

    fn pod(n: u8) -> Parked {
        Parked {
            id: format!("p{n}").into(),
            name: format!("p{n}"),
            pool: key(),
            ip: [10, 0, 0, n].into(),
            size: (64, 50),
            runtime: None,
            restarts: 0,
        }
    }

    fn valid(spec: Value) -> ValidFunction {
        let mut all = json!({"image": "a", "resources": {"memory": "64Mi", "cpu": "50m"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": "f", "namespace": "default"});
        let function =
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": metadata, "spec": all});
        ValidFunction::from_function(&serde_json::from_value::<Function>(function).unwrap()).unwrap()
    }

    fn next(pools: &mut Pools, now: Moment) -> Option<What> {
        let pool = pools.pools.get_mut(&key()).unwrap();
        let object = pool.object.clone().unwrap();
        let sized = pool.size(&object, now);
        pool.next(&object, sized, now, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_is_parked_is_metered_and_what_is_claimed_is_not() {
        let (mut pools, _answers) = pools(json!({"size": {"min": 2, "max": 2}}));
        let metered = |pools: &Pools| pools.parking.pods(&key());
        pools.parked(pod(1), S(1));
        pools.parked(pod(2), S(1));
        pools.parked(pod(2), S(2));
        assert_eq!(metered(&pools), 2);
        pools.claimed(&pod(1), S(3));
        assert_eq!(metered(&pools), 1);
        pools.give_back(pod(1));
        assert_eq!(metered(&pools), 2);
        pools.unparked(&pod(2).id);
        assert_eq!(metered(&pools), 1);
        pools.gone(&key(), "u");
        assert_eq!(metered(&pools), 0);
    }

    #[test]
    fn who_fits() {
        let fits = |pool: Value, function: Value| {
            let (mut pools, _answers) = pools(pool);
            pools.parked(pod(1), S(0));
            pools.fitting(&valid(function), 5).len() == 1
        };
        let small = || json!({"resources": {"memory": "64Mi", "cpu": "50m"}, "imagePullSecrets": [{"name": "pull"}]});
        assert!(fits(small(), json!({})));
        assert!(fits(small(), json!({"imagePullSecrets": [{"name": "pull"}]})));
        // A pool whose class was raised: the pod is as it was made.
        assert!(!fits(json!({"resources": {"memory": "1Gi"}}), json!({"resources": {"memory": "65Mi"}})));
        for no in [
            json!({"resources": {"memory": "65Mi", "cpu": "50m"}}),
            json!({"resources": {"memory": "64Mi", "cpu": "51m"}}),
            json!({"serviceAccountName": "a"}),
            json!({"imagePullSecrets": [{"name": "other"}]}),
        ] {
            assert!(!fits(small(), no.clone()), "{no}");
        }
        let restricted = || json!({"resources": {"memory": "64Mi", "cpu": "50m"}, "security": "Restricted"});
        assert!(fits(restricted(), json!({"securityContext": {"runAsUser": 1000}})));
        assert!(!fits(restricted(), json!({"securityContext": {"runAsUser": 0}})));
        let (mut pools, _answers) = pools(small());
        pools.parked(pod(1), S(0));
        let mut elsewhere = valid(json!({}));
        elsewhere.key.namespace = "other".into();
        assert_eq!(pools.fitting(&elsewhere, 5), []);
    }

    #[test]
    fn who_is_loaded() {
        let source = |more: Value| {
            let mut all = json!({"source": {"runtime": "python", "handler": "a.b", "inline": "x"}});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut all = Map::from_iter(all.as_object().unwrap().clone());
            all.insert("image".into(), Value::Null);
            valid(Value::Object(all))
        };
        let takes = |runtime: Option<Runtime>, function: &ValidFunction| {
            let (mut pools, _answers) = pools(json!({}));
            pools.parked(Parked { runtime, ..pod(1) }, S(0));
            pools.fitting(function, 5).len() == 1
        };
        let plain = source(json!({"env": [{"name": "A", "value": "1"}]}));
        assert!(takes(Some(Runtime::Python), &plain) && !takes(Some(Runtime::Nodejs), &plain) && takes(None, &plain));
        assert!(!takes(Some(Runtime::Python), &valid(json!({}))), "an image");
        for no in [
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            json!({"env": [{"name": "PYTHONPATH", "value": "/x"}]}),
            json!({"env": [{"name": "A", "value": "pa$$word"}]}),
            json!({"env": [{"name": "A", "value": "$(B)"}]}),
            json!({"envFrom": [{"configMapRef": {"name": "c"}}]}),
            json!({"securityContext": {"runAsUser": 5}}),
            json!({"port": 9000}),
            json!({"env": (0..4).map(|n| json!({"name": format!("E{n}"), "value": "x".repeat(30_000)})).collect::<Vec<_>>()}),
        ] {
            assert!(!takes(Some(Runtime::Python), &source(no.clone())) && takes(None, &source(no.clone())), "{no}");
        }
        for no in [json!({"port": 8081}), json!({"securityContext": {"readOnlyRootFilesystem": true}})] {
            assert!(!takes(None, &source(no.clone())), "{no}");
        }
        // Its runtime's first, however large.
        let (mut pools, _answers) = pools(json!({}));
        pools.parked(pod(1), S(0));
        pools.parked(Parked { runtime: Some(Runtime::Python), size: (1024, 1000), ..pod(2) }, S(0));
        assert_eq!(pools.fitting(&plain, 1)[0].name, "p2");
    }

    #[test]
    fn the_smallest_pod_that_fits_comes_first_and_no_more_than_asked() {
        let (mut pools, _answers) = pools(json!({}));
        for (n, size) in [(1, (1024, 1000)), (2, (64, 50)), (3, (63, 50))] {
            pools.parked(Parked { size, ..pod(n) }, S(0));
        }
        let names = |n| pools.fitting(&valid(json!({})), n).into_iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!((names(5), names(1)), (vec!["p2".to_owned(), "p1".into()], vec!["p2".to_owned()]));
    }

    /// A fleet whose pools do what they are told, or cannot be reached.
    struct Scripted(bool);

    impl Fleet for Scripted {
        fn events(&self) -> Option<mpsc::Receiver<crate::fleet::Event>> {
            None
        }
        async fn adopt(&self, _: &Arc<Function>) -> Result<(), FleetError> {
            Ok(())
        }
        async fn prepare(&self, _: &Arc<Function>, _: &crate::fleet::Target) -> Result<(), FleetError> {
            Ok(())
        }
        async fn scale(&self, _: &crate::fleet::Target, _: u32, _: &[Victim]) -> Result<(), FleetError> {
            Ok(())
        }
        async fn retire(&self, _: &crate::fleet::Target, _: &Victim, _: Duration) -> Result<(), FleetError> {
            Ok(())
        }
        async fn remove(&self, _: &crate::fleet::Target) -> Result<(), FleetError> {
            Ok(())
        }
        async fn report(
            &self,
            _: &Arc<Function>,
            _: &dormouse_core::function::FunctionStatus,
        ) -> Result<(), FleetError> {
            Ok(())
        }
        async fn note(&self, _: &Arc<Function>, _: &crate::fleet::Note) -> Result<(), FleetError> {
            Ok(())
        }
        async fn release(&self, _: &Arc<Function>) -> Result<(), FleetError> {
            Ok(())
        }
        async fn scale_pool(&self, _: &PoolKey, _: u32, victims: &[Victim]) -> Result<(), FleetError> {
            assert_eq!(victims.len(), 1);
            if self.0 { Ok(()) } else { Err(FleetError::Failed("away".into())) }
        }
    }

    #[tokio::test]
    async fn what_is_being_ended_is_claimed_by_nobody() {
        for works in [true, false] {
            let (mut pools, mut answers) = pools(json!({"size": {"min": 1, "max": 1}}));
            pools.workload(&key(), Some((2, None)));
            pools.pools.get_mut(&key()).unwrap().prepared = Some(1);
            pools.parked(pod(1), S(0));
            pools.parked(pod(2), S(0));
            pools.look(&key(), &Arc::new(Scripted(works)), S(0), Timestamp::UNIX_EPOCH);
            let free = |pools: &Pools| pools.fitting(&valid(json!({})), 5).len();
            assert_eq!(free(&pools), 1);
            // What was told before it was ended is read after that.
            pools.parked(pod(1), S(0));
            assert_eq!(free(&pools), 1);
            pools.answered(answers.recv().await.unwrap(), S(1));
            // A number that could not be written leaves all of them.
            assert_eq!(free(&pools), if works { 1 } else { 2 });
        }
    }

    #[test]
    fn a_restart_makes_no_pool_smaller() {
        let mut object = (*object(json!({"size": {"min": 1, "max": 9}}))).clone();
        object.status = Some(WarmPoolStatus { wanted: 6, ..WarmPoolStatus::default() });
        let (answer, _answers) = mpsc::channel(8);
        let mut pools = Pools::new(answer, Parking::default());
        pools.object(Arc::new(object.clone()), S(0));
        let mut wanted = |now| pools.pools.get_mut(&key()).unwrap().size(&object, now).wanted;
        assert_eq!((wanted(S(10)), wanted(S(3600))), (6, 1));
    }

    #[test]
    fn it_is_made_then_scaled_then_told() {
        let (mut pools, _answers) = pools(json!({"size": {"min": 2, "max": 2}}));
        assert_eq!(next(&mut pools, S(0)), Some(What::Prepare(1)));
        let done = |pools: &mut Pools, what| pools.answered(Answer { pool: key(), what, result: Ok(()) }, S(0));
        done(&mut pools, What::Prepare(1));
        assert_eq!(next(&mut pools, S(0)), Some(What::Scale(2)));
        done(&mut pools, What::Scale(2));
        let Some(What::Report(status)) = next(&mut pools, S(0)) else { panic!("nothing is told") };
        assert_eq!((status.wanted, status.parked, status.reason.as_deref()), (2, 0, Some("a fixed size")));
        done(&mut pools, What::Report(status));
        pools.workload(&key(), Some((2, None)));
        assert_eq!(next(&mut pools, S(1)), None);
        // Somebody else has changed it.
        pools.workload(&key(), Some((5, None)));
        assert_eq!(next(&mut pools, S(1)), Some(What::Scale(2)));
        pools.workload(&key(), None);
        assert_eq!(next(&mut pools, S(1)), Some(What::Prepare(1)));
    }

    #[test]
    fn nothing_is_done_about_its_pods_while_a_claim_is_in_it() {
        let (mut pools, _answers) = pools(json!({"size": {"min": 2, "max": 2}}));
        pools.workload(&key(), Some((1, None)));
        pools.pools.get_mut(&key()).unwrap().prepared = Some(1);
        pools.parked(pod(1), S(0));
        pools.claimed(&pod(1), S(0));
        assert_eq!(pools.in_pool(&key(), &"p1".into(), true, S(0)), None);
        assert_eq!((pools.count(&key()), pools.fitting(&valid(json!({})), 5)), (Some(0), vec![]));
        assert!(matches!(next(&mut pools, S(0)), Some(What::Report(_))));
        assert_eq!(pools.in_pool(&key(), &"p1".into(), false, S(1)), Some(key()));
        assert_eq!(next(&mut pools, S(1)), Some(What::Scale(2)));
        // What takes its place tells how long a refill takes.
        pools.parked(pod(2), S(8));
        assert_eq!(pools.pools[&key()].refill(), S(7));
    }

    #[test]
    fn what_was_refused_can_be_claimed_by_others() {
        let (mut pools, _answers) = pools(json!({}));
        pools.parked(pod(1), S(0));
        pools.claimed(&pod(1), S(0));
        pools.in_pool(&key(), &"p1".into(), true, S(0));
        pools.give_back(pod(1));
        assert_eq!(pools.count(&key()), Some(1));
        assert!(pools.pools[&key()].unowned.is_empty());
    }

    #[test]
    fn a_pool_that_is_gone_has_nothing() {
        let (mut pools, _answers) = pools(json!({}));
        pools.parked(pod(1), S(0));
        assert!(!pools.gone(&key(), "another") && pools.gone(&key(), "u"));
        assert_eq!((pools.count(&key()), pools.unparked(&"p1".into())), (None, None));
    }
}
