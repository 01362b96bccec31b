//! Puts a plan into effect: routes at once, then what is asked of the fleet, each in its own lane and task.

use super::claims::CALM;
use super::observe::{Lane, LaneOpen, LaneState, Moment, Object, Observed, Published};
use super::plan::{Effects, Plan, Scale};
use crate::demand::Demand;
use crate::fleet::{Fit, Fleet, FleetError, FunctionUid, InstanceId, Note, Target, Victim};
use crate::routes::Routes;
use crate::shares::{Shares, Table};
use dormouse_core::FunctionKey;
use dormouse_core::function::{Function, FunctionStatus};
use dormouse_core::revision::Revision;
use dormouse_core::scale::Why;
use dormouse_proto::v1;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

/// Grace of an instance that is ending and idle: enough to close its sockets.
pub const SHORT_GRACE: Duration = Duration::from_secs(1);

/// Longest dial of a probe; the next one follows after a pause.
const PROBE: Duration = Duration::from_millis(500);

/// Status and event writes at once: they give way to starting and stopping, which are not held back.
const MAX_REPORTS: usize = 16;

/// How long status and events give way to a claimed pod that starts: a graft takes 0.12 s, and the API server's work on
/// them is on the same machine as its own where there is only one. Who looks learns of what takes longer.
const WAKES: Duration = Duration::from_secs(1);

/// How long the end waits for effects that are under way.
const FINISH: Duration = Duration::from_secs(2);

/// An event of the same kind for the same function is told at most this often.
const NOTE_PAUSE: Duration = Duration::from_secs(60);

/// Who asks the fleet.
pub struct Hands<F> {
    /// The fleet.
    pub fleet: Arc<F>,
    answer: mpsc::Sender<Answer>,
    reports: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Which were told when, by what they are about: a schedule, or the function itself.
    noted: HashMap<(FunctionUid, &'static str, String), Moment>,
}

/// The outcome of an effect.
#[derive(Debug)]
pub struct Answer {
    /// Whose.
    pub uid: FunctionUid,
    /// Which.
    pub lane: Lane,
    /// The outcome.
    pub result: Result<Done, FleetError>,
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// As asked.
    Plain,
    /// So many instances were set.
    Scaled {
        /// How many.
        replicas: u32,
        /// Those that are to end.
        victims: Vec<InstanceId>,
    },
    /// A claimed pod is the function's, and is bounded by this.
    Owned(Fit),
    /// This status was written.
    Reported(Box<FunctionStatus>),
}

/// What applying a plan leaves to remember.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    /// When to plan again.
    pub look_again_at: Option<Moment>,
    /// Some activator has to act by these routes before the next step.
    pub unacknowledged: bool,
    /// Why as many instances are wanted.
    pub why: Why,
    /// Numbers of instances set now.
    pub scaled: u32,
}

impl<F: Fleet> Hands<F> {
    /// Hands that answer into a channel.
    pub fn new(fleet: Arc<F>, answer: mpsc::Sender<Answer>) -> Self {
        let reports = Arc::new(Semaphore::new(MAX_REPORTS));
        Self { fleet, answer, reports, tasks: TaskTracker::new(), noted: HashMap::new() }
    }

    /// Waits until everything asked is answered, for a moment at most.
    pub async fn finish(self) {
        self.tasks.close();
        if tokio::time::timeout(FINISH, self.tasks.wait()).await.is_err() {
            tracing::warn!("some effects were not answered before the end; they are asked for again after a restart");
        }
    }

    fn ask<W>(&self, observed: &mut Observed, lane: Lane, work: W)
    where
        W: Future<Output = Result<Done, FleetError>> + Send + 'static,
    {
        let failures = match observed.lanes.get(&lane) {
            Some(LaneState::Paused { failures, .. } | LaneState::Busy { failures }) => *failures,
            Some(LaneState::Done) | None => 0,
        };
        observed.lanes.insert(lane.clone(), LaneState::Busy { failures });
        let (answer, uid) = (self.answer.clone(), observed.uid.clone());
        self.tasks.spawn(async move {
            let result = work.await;
            // Nobody listens only when the office has closed.
            let _ = answer.send(Answer { uid, lane, result }).await;
        });
    }

    /// Those of the notes that were not told just before.
    fn fresh(&mut self, uid: &FunctionUid, notes: Vec<(String, Note)>, now: Moment) -> Vec<Note> {
        self.noted.retain(|_, at| now < *at + NOTE_PAUSE);
        let new =
            |(about, n): &(String, Note)| self.noted.insert((uid.clone(), n.reason, about.clone()), now).is_none();
        notes.into_iter().filter(new).map(|(_, note)| note).collect()
    }

    /// Writes events behind what is written of statuses: nothing waits for them.
    fn tell(&self, function: Arc<Function>, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let (fleet, reports) = (self.fleet.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let _permit = reports.acquire_owned().await;
            for note in &notes {
                if let Err(error) = fleet.note(&function, note).await {
                    tracing::debug!(reason = note.reason, %error, "an event was not written");
                }
            }
        });
    }
}

/// Where routes and shares are written.
pub struct Desk<'a> {
    /// What activators are told.
    pub routes: &'a Routes,
    /// Who may use which slots.
    pub shares: &'a mut Shares,
    /// The calls by which they are dealt out.
    pub demand: &'a Demand,
    /// Until then, nothing is granted on instances that were found at the start.
    pub hold_until: Moment,
}

/// Applies a plan.
pub fn apply<F: Fleet>(
    plan: Plan,
    observed: &mut Observed,
    desk: Desk<'_>,
    hands: &mut Hands<F>,
    now: Moment,
) -> Applied {
    // Whole, so that a new part of the plan fails to compile here instead of never being applied.
    let Plan { serving, checking, effects, route, status, notes, look_again_at, why } = plan;
    observed.serving = serving;
    observed.checking = checking;
    let (unacknowledged, deal_at) = publish(observed, desk, route, now);
    let scaled = u32::try_from(effects.scale.len()).unwrap_or(u32::MAX);
    ask(effects, observed, hands);
    let report_at = report(status, notes, observed, hands, now);
    let look_again_at = [look_again_at, report_at, deal_at].into_iter().flatten().min();
    Applied { look_again_at, unacknowledged, why, scaled }
}

/// Tells activators, each with its shares, and remembers since which version they are told what of each instance.
/// Answers whether something drains, and when shares have to be looked at again.
pub(super) fn publish(
    observed: &mut Observed,
    desk: Desk<'_>,
    route: Option<v1::Function>,
    now: Moment,
) -> (bool, Option<Moment>) {
    let Desk { routes, shares, demand, hold_until } = desk;
    let Some(mut route) = route else {
        routes.remove(&observed.uid);
        shares.function_gone(&observed.uid);
        return (false, None);
    };
    let told: HashMap<InstanceId, bool> = route
        .instances
        .iter()
        .map(|i| (InstanceId::from(i.id.as_str()), i.state() == v1::InstanceState::Draining))
        .collect();
    let dealt = shares.deal(&Table { observed, route: &route, demand, now, hold_until });
    route.holders = dealt.holders;
    let stands = routes.publish(&observed.uid, route, dealt.views);
    shares.sent(&observed.uid, stands.whole);
    let mut draining_somewhere = false;
    for (id, instance) in &mut observed.instances {
        // One that is no longer named takes no calls either.
        let Some(draining) = told.get(id).copied().or(instance.published.map(|_| true)) else { continue };
        draining_somewhere |= draining;
        if instance.published.is_none_or(|p| p.draining != draining) {
            instance.published = Some(Published { draining, since: stands.function });
        }
    }
    (draining_somewhere, dealt.look_again_at)
}

fn ask<F: Fleet>(effects: Effects, observed: &mut Observed, hands: &mut Hands<F>) {
    // Claims have been reserved before.
    let Effects { adopt, prepare, mend, claim: _, graft, look_into, own, scale, retire, probe, remove, release } =
        effects;
    let Some(object) = observed.object.clone() else { return discard(retire, observed, hands) };
    let meta = &object.function.metadata;
    let key = FunctionKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let target = |uid: &FunctionUid, revision: &Revision| target(uid, &key, revision);
    // First: it is what callers wait for.
    ask_claims((graft, own), &key, &object, observed, hands);
    for Scale { revision, replicas, victims } in scale {
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, &revision));
        let named: Vec<Victim> = victims.iter().filter_map(|id| victim(observed, id)).collect();
        tracing::debug!(function = %key, %revision, replicas, victims = victims.len(), "scale");
        for id in &victims {
            if let Some(instance) = observed.instances.get_mut(id) {
                instance.asked = true;
            }
        }
        hands.ask(observed, Lane::Scale(revision), async move {
            fleet.scale(&target, replicas, &named).await.map(|()| Done::Scaled { replicas, victims })
        });
    }
    for id in retire {
        let Some((victim, revision)) =
            victim(observed, &id).zip(observed.instances.get(&id).map(|i| i.seen.revision.clone()))
        else {
            continue;
        };
        if let Some(claimed) = observed.instances.get_mut(&id).and_then(|i| i.claimed.as_mut()) {
            // It is being deleted from now on, whoever calls meanwhile.
            claimed.given_up = true;
        }
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, &revision));
        hands.ask(observed, Lane::Retire(id), async move {
            fleet.retire(&target, &victim, SHORT_GRACE).await.map(|()| Done::Plain)
        });
    }
    if adopt {
        let (fleet, function) = (hands.fleet.clone(), object.function.clone());
        hands.ask(observed, Lane::Adopt, async move { fleet.adopt(&function).await.map(|()| Done::Plain) });
    }
    for revision in prepare {
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, &revision));
        let function: Arc<Function> = object.valid_function.clone();
        hands.ask(observed, Lane::Prepare(revision), async move {
            fleet.prepare(&function, &target).await.map(|()| Done::Plain)
        });
    }
    let mend = mend.map(|revision| target(&observed.uid, &revision));
    ask_repairs((mend, look_into), &object, observed, hands);
    for (id, address) in probe {
        hands.ask(observed, Lane::Probe(id), dial(address));
    }
    for revision in remove {
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, &revision));
        hands.ask(observed, Lane::Remove(revision), async move { fleet.remove(&target).await.map(|()| Done::Plain) });
    }
    if release {
        let (fleet, function) = (hands.fleet.clone(), object.function.clone());
        hands.ask(observed, Lane::Release, async move { fleet.release(&function).await.map(|()| Done::Plain) });
    }
}

fn target(uid: &FunctionUid, key: &FunctionKey, revision: &Revision) -> Target {
    Target { uid: uid.clone(), key: key.clone(), revision: revision.clone() }
}

/// The two steps of claims.
fn ask_claims<F: Fleet>(
    (graft, own): (Vec<InstanceId>, Vec<InstanceId>),
    key: &FunctionKey,
    object: &Object,
    observed: &mut Observed,
    hands: &Hands<F>,
) {
    for id in graft {
        let claimed = observed.instances.get(&id).and_then(|i| i.claimed.as_ref().map(|c| (i, c)));
        let Some((instance, claimed)) = claimed else { continue };
        let Some(parked) = claimed.parked.clone() else { continue };
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, key, &instance.seen.revision));
        let (function, number) = (object.valid_function.clone(), claimed.number);
        hands.ask(observed, Lane::Graft(id), async move {
            fleet.graft(&function, &target, &parked, number).await.map(|()| Done::Plain)
        });
    }
    for id in own {
        let instance = observed.instances.get(&id).map(|i| &i.seen);
        let Some((seen, claim)) = instance.and_then(|seen| Some((seen, seen.claim.clone()?))) else { continue };
        let victim = Victim { id: id.clone(), name: seen.name.clone() };
        let (fleet, target) = (hands.fleet.clone(), target(&observed.uid, key, &seen.revision));
        // Of its own revision, whatever the spec says by now.
        let size = (seen.memory_mib, seen.cpu_millis);
        let function = object.valid_function.clone();
        hands.ask(observed, Lane::Own(id), async move {
            fleet.own(&function, &target, &victim, (&claim, size)).await.map(Done::Owned)
        });
    }
}

/// What an earlier life or somebody else left undone.
fn ask_repairs<F: Fleet>(
    (mend, look_into): (Option<Target>, Vec<InstanceId>),
    object: &Object,
    observed: &mut Observed,
    hands: &Hands<F>,
) {
    if let Some(target) = mend {
        let (fleet, function) = (hands.fleet.clone(), object.valid_function.clone());
        hands.ask(observed, Lane::Mend(target.revision.clone()), async move {
            fleet.mend(&function, &target).await.map(|()| Done::Plain)
        });
    }
    for id in look_into {
        let Some(seen) = observed.instances.get(&id).map(|i| i.seen.clone()) else { continue };
        let fleet = hands.fleet.clone();
        hands.ask(
            observed,
            Lane::LookInto(id),
            async move { fleet.look_into_claim(&seen).await.map(|()| Done::Plain) },
        );
    }
}

/// Ends instances of a function whose object is gone.
fn discard<F: Fleet>(retire: Vec<InstanceId>, observed: &mut Observed, hands: &Hands<F>) {
    for id in retire {
        let Some(seen) = observed.instances.get(&id).map(|i| &i.seen) else { continue };
        let victim = Victim { id: id.clone(), name: seen.name.clone() };
        let key = FunctionKey::new(seen.namespace.clone(), String::new());
        let target = Target { uid: observed.uid.clone(), key, revision: seen.revision.clone() };
        let fleet = hands.fleet.clone();
        hands.ask(observed, Lane::Retire(id), async move {
            fleet.retire(&target, &victim, SHORT_GRACE).await.map(|()| Done::Plain)
        });
    }
}

fn victim(observed: &Observed, id: &InstanceId) -> Option<Victim> {
    observed.instances.get(id).map(|i| Victim { id: id.clone(), name: i.seen.name.clone() })
}

/// Writes the status when it changed, once nothing more urgent of this function is under way; events after it. It is
/// what makes the claim of a due time last, too: the call follows its answer.
/// Answers when to try again, if that is by the clock.
fn report<F: Fleet>(
    status: FunctionStatus,
    notes: Vec<Note>,
    observed: &mut Observed,
    hands: &mut Hands<F>,
    now: Moment,
) -> Option<Moment> {
    let function = observed.object.as_ref()?.function.clone();
    let urgent = observed.lanes.iter().any(|(l, s)| matches!((l, s), (Lane::Scale(_), LaneState::Busy { .. })));
    // A call waits for it, and nothing of that is done before. After a write that failed it is written again, though it is
    // the status of before: the other one may have been done.
    let claims = observed.schedules.is_to_be_written(observed.schedules_written());
    if (status == observed.status || urgent) && !claims {
        return None;
    }
    if let Some(until) = waking_until(observed, now).filter(|_| !claims) {
        return Some(until);
    }
    if let LaneOpen::Later(at) = observed.lane(&Lane::Report, now) {
        return at;
    }
    let (fleet, reports) = (hands.fleet.clone(), hands.reports.clone());
    let all = notes.into_iter().map(|note| (String::new(), note)).chain(observed.schedules.notes()).collect();
    let notes = hands.fresh(&observed.uid, all, now);
    let about = function.clone();
    hands.ask(observed, Lane::Report, async move {
        let _permit = reports.acquire_owned().await;
        fleet.report(&function, &status).await?;
        Ok(Done::Reported(Box::new(status)))
    });
    hands.tell(about, notes);
    None
}

/// Until when a claimed pod is given time to start before anything else is written.
fn waking_until(observed: &Observed, now: Moment) -> Option<Moment> {
    let claims = observed.instances.values().filter(|i| i.is_live()).filter_map(|i| i.claimed.as_ref().zip(Some(i)));
    let claims = claims.filter(|(claim, _)| !claim.given_up);
    let until = claims.map(|(claim, i)| claim.at + if i.is_open() { CALM } else { WAKES });
    until.filter(|until| now < *until).min()
}

/// Sees whether a port is open.
async fn dial(address: SocketAddr) -> Result<Done, FleetError> {
    match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(Done::Plain),
        Ok(Err(error)) => Err(FleetError::Failed(format!("{address} does not answer: {error}"))),
        Err(_) => Err(FleetError::TimedOut(PROBE)),
    }
}
