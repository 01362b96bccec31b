//! Where functions come from and where their instances live: one trait, two ways ([`kubernetes`], [`process`]).
//!
//! Events come in through one bounded channel; effects go out through async methods. Every effect is idempotent and
//! carries its own time limit: asking twice is the same as asking once, and an error is told, not retried, because the
//! office plans again. An effect's outcome is never read from its answer alone: it comes back as events.

pub mod kubernetes;
pub mod process;

use crate::budgets::BudgetEvent;
use crate::tenants::Tenants;
use dormouse_core::FunctionKey;
use dormouse_core::function::{Function, FunctionStatus, Runtime};
use dormouse_core::revision::Revision;
use dormouse_core::{Budget, BudgetStatus, WarmPool, WarmPoolStatus};
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait for the office; a fleet that is faster waits (its watchers hold back).
pub const MAX_EVENTS: usize = 1024;

/// The finalizer with which a deleted function waits until its calls have ended.
pub const FINALIZER: &str = "dormouse.dev/drain";

/// Most bytes of one trouble's message, cut at a character: what a condition can show on one screen.
pub const MAX_MESSAGE: usize = 1024;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// `metadata.uid` of a Function: never reused, not even by one of the same name.
    FunctionUid
}
name! {
    /// One instance for its whole life: the pod's uid, or an id that the process fleet makes; never reused.
    InstanceId
}

/// What the fleet saw.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Function as it is now. With `metadata.deletionTimestamp` it is being deleted and waits for our finalizer.
    /// `metadata.uid`, `name`, `namespace` and `generation` are set (the process fleet makes them).
    Function(Arc<Function>),
    /// The Function object is gone.
    FunctionGone(FunctionUid),
    /// An instance as it is now.
    Instance(Instance),
    /// An instance and all its processes are gone; sent once, after its last `Instance`.
    InstanceGone(InstanceId),
    /// What carries a revision's instances, as it is now (a Deployment; locally, the prepared revision).
    Workload(Workload),
    /// It is gone.
    WorkloadGone(FunctionUid, Revision),
    /// A warm pool as it is now.
    Pool(Arc<WarmPool>),
    /// The one of that uid is gone.
    PoolGone(PoolKey, String),
    /// What carries its pods, as it is now.
    PoolWorkload {
        /// The pool.
        pool: PoolKey,
        /// How many pods it was last told to have.
        replicas: u32,
        /// Why it cannot make pods, as far as is known.
        trouble: Option<Trouble>,
    },
    /// That is gone.
    PoolWorkloadGone(PoolKey),
    /// A pod of a pool that can be claimed now.
    Parked(Parked),
    /// One that cannot be: it is not up yet, is ending, or somebody else spoiled it. `InstanceGone` follows in the end.
    Unparked(InstanceId),
    /// Somebody else pays for a namespace than before, or it is known now who does: [`Fleet::tenants`] says who.
    Tenant {
        /// The namespace.
        namespace: String,
    },
    /// A process of an activator has certainly ended: its pod is gone or over, or its container does not run or was
    /// started anew. A fleet that cannot see activators never tells this.
    ActivatorGone {
        /// What the activator calls itself: its pod's name.
        name: String,
        /// Its spool is gone with it: the place is gone, and nothing of it is kept.
        lost: bool,
    },
    /// Everything that existed when the fleet began has been told: nothing is routed or changed before this.
    Synced,
}

/// A warm pool by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod of a warm pool that belongs to no function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its uid: what it is known by as an instance, too.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: PoolKey,
    /// Where it is reached.
    pub ip: IpAddr,
    /// Its memory in MiB and cpu in thousandths: the most that a function has which fits into it.
    pub size: (u32, u32),
    /// The language runtime that it keeps, if any: then it is claimed by load.
    pub runtime: Option<Runtime>,
    /// How often that was started anew.
    pub restarts: u32,
}

/// How a pod of a warm pool belongs to a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The pool that it came from.
    pub pool: PoolKey,
    /// Its node has begun with it.
    pub taken: bool,
    /// The pool has let it go, and the Function owns it.
    pub owned: bool,
    /// It is no larger than its revision.
    pub shrunk: bool,
    /// It was loaded, when its runtime had been started anew so often; `None`: it was grafted.
    pub loaded: Option<u32>,
    /// It was grafted, and its code is sent to it once its container runs.
    pub sent: bool,
}

/// One running copy of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name for people: the pod's name, or the process's number.
    pub name: String,
    /// Its namespace: one that says it is of a function elsewhere is none of it.
    pub namespace: String,
    /// The function that it belongs to.
    pub function: FunctionUid,
    /// The revision that it runs.
    pub revision: Revision,
    /// Where calls go, once known.
    pub address: Option<SocketAddr>,
    /// How far it is.
    pub phase: Phase,
    /// Why it does not run, as far as is known.
    pub trouble: Option<Trouble>,
    /// How often its process was started anew; a larger number means that an open port has to be seen again.
    pub restarts: u32,
    /// Digest of the image it runs, once known.
    pub image_digest: Option<String>,
    /// Memory in MiB that its revision was made with: what its calls are priced by.
    pub memory_mib: u32,
    /// Cpu in thousandths that its revision was made with.
    pub cpu_millis: u32,
    /// Its revision speaks HTTP/2 without TLS, else HTTP/1.1.
    pub h2c: bool,
    /// It was claimed from a warm pool; `None`: its revision's workload carries it.
    pub claim: Option<Claim>,
    /// When its process last started, microseconds since 1970 UTC, where the fleet knows.
    pub started_at_us: Option<i64>,
}

/// How far an instance is. Whether its port is open is not the fleet's to say: activators dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its process does not run yet, or not at the moment.
    Starting,
    /// Its process runs.
    Running,
    /// It was told to end, or ended and is not restarted: it takes no new calls.
    Ending,
}

/// Why something does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The code that callers get.
    pub code: Code,
    /// For people: status and events only, at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

impl Trouble {
    /// A trouble with its message cut to [`MAX_MESSAGE`] bytes.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        cut(&mut message, MAX_MESSAGE);
        Self { code, message }
    }
}

/// Cuts a text to at most `max` bytes, at a character.
pub(crate) fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}

/// Every reason for which an instance does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The image cannot be pulled: wrong name, no credentials, no registry.
    ImagePullFailed,
    /// A Secret or ConfigMap that it names is missing.
    ConfigMissing,
    /// Its command cannot be run.
    BadCommand,
    /// Its process ended more than once.
    CrashLoop,
    /// Its process used more memory than the function's.
    OutOfMemory,
    /// Its handler's module cannot be imported, or has no such handler.
    HandlerFailed,
    /// No node has room.
    Unschedulable,
    /// A quota of the namespace is used up.
    QuotaExceeded,
    /// An admission rule of the cluster refuses its pods.
    AdmissionRefused,
}

impl Code {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ConfigMissing => "ConfigMissing",
            Self::BadCommand => "BadCommand",
            Self::CrashLoop => "CrashLoop",
            Self::OutOfMemory => "OutOfMemory",
            Self::HandlerFailed => "HandlerFailed",
            Self::Unschedulable => "Unschedulable",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::AdmissionRefused => "AdmissionRefused",
        }
    }

    /// True when waiting does not help: somebody has to mend the function or what it names. The others are how nodes
    /// get added and quotas freed: callers wait and are told the reason when their time is over.
    #[must_use]
    pub fn terminal(self) -> bool {
        match self {
            Self::ImagePullFailed | Self::ConfigMissing | Self::BadCommand => true,
            Self::CrashLoop | Self::OutOfMemory | Self::HandlerFailed => true,
            Self::Unschedulable | Self::QuotaExceeded | Self::AdmissionRefused => false,
        }
    }
}

/// What carries a revision's instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The function that it belongs to.
    pub function: FunctionUid,
    /// The revision whose instances it carries.
    pub revision: Revision,
    /// How many instances it was last told to have.
    pub replicas: u32,
    /// Why it cannot make instances, as far as is known.
    pub trouble: Option<Trouble>,
}

/// One revision of one function, as effects name it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The function's uid.
    pub uid: FunctionUid,
    /// Its namespace and name.
    pub key: FunctionKey,
    /// The revision.
    pub revision: Revision,
}

/// An instance that an effect is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Its id.
    pub id: InstanceId,
    /// Its name (the pod's name).
    pub name: String,
}

/// Whether an event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What bounds a claimed instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The function's own memory and cpu.
    Own,
    /// The pool's: the cluster does not shrink pods, and why.
    Pools(String),
}

/// Something to tell the function's owner (a Kubernetes Event; locally, a log line).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it tells of trouble.
    pub kind: NoteKind,
    /// One stable CamelCase word.
    pub reason: &'static str,
    /// What was done, as one CamelCase word.
    pub action: &'static str,
    /// For people; at most [`MAX_MESSAGE`] bytes.
    pub message: String,
}

/// An effect that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// What it is about is gone: nothing is left to do, or it has to be made anew.
    #[error("{0} is gone")]
    Gone(String),
    /// Somebody else changed it meanwhile: look again, then try again.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Refused for good: trying the same again does not help.
    #[error("refused: {0}")]
    Refused(String),
    /// What the function names or holds does not work: its owner has to mend it.
    #[error("{}: {}", .0.code.name(), .0.message)]
    Broken(Trouble),
    /// Anything else; trying again may help.
    #[error("{0}")]
    Failed(String),
}

/// Where functions come from and where their instances live.
pub trait Fleet: Send + Sync + 'static {
    /// The events, in order per object; taken once, before any effect is asked for. `None` when taken already.
    fn events(&self) -> Option<mpsc::Receiver<Event>>;

    /// The revision that a function's spec has here.
    fn revision(&self, function: &Function) -> Revision {
        Revision::of(&function.spec)
    }

    /// Who pays for what runs in which namespace.
    fn tenants(&self) -> Tenants {
        Tenants::of_themselves()
    }

    /// What is seen of budgets; taken once. `None`: there are none here.
    fn budgets(&self) -> Option<mpsc::Receiver<BudgetEvent>> {
        None
    }

    /// Writes a budget's status.
    fn report_budget(
        &self,
        _budget: &Arc<Budget>,
        _status: &BudgetStatus,
    ) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Tells a budget's owner something.
    fn note_budget(&self, _budget: &Arc<Budget>, _note: &Note) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Marks the function as ours to drain before it goes (the finalizer). Locally nothing.
    fn adopt(&self, function: &Arc<Function>) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Makes what carries the revision's instances, with none of them yet: a Deployment with `replicas: 0`. Locally
    /// the revision's command and environment are remembered. What exists already keeps its number of instances.
    /// `function` is the object whose spec has this revision. Comes back as [`Event::Workload`].
    fn prepare(&self, function: &Arc<Function>, target: &Target)
    -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Makes again what the revision's instances need beside what carries them, where somebody removed it. What is there stays
    /// as it is.
    fn mend(&self, _function: &Arc<Function>, _target: &Target) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Sets how many instances the revision has. When that is fewer than now, `victims` are the ones to end (each
    /// idle, taken out of routing and acknowledged so); a fleet that cannot choose prefers them. Those that end are
    /// told as [`Phase::Ending`] and may take their whole grace: [`Fleet::retire`] follows.
    fn scale(
        &self,
        target: &Target,
        replicas: u32,
        victims: &[Victim],
    ) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Ends an instance that is [`Phase::Ending`] and idle within `grace`, in place of its own longer one.
    fn retire(
        &self,
        target: &Target,
        instance: &Victim,
        grace: Duration,
    ) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Makes a parked pod an instance of the function: its image is started there, or its code loaded. Only one claim of a
    /// pod ever succeeds.
    /// `claim` tells this claim from any other. A fleet without warm pools tells of none.
    fn graft(
        &self,
        _function: &Arc<Function>,
        _target: &Target,
        parked: &Parked,
        _claim: u64,
    ) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Err(FleetError::Refused(format!("{} cannot be claimed here", parked.name))))
    }

    /// Looks whether a parked runtime was given to somebody in an earlier life of the controller, which ended before it could
    /// say so: nobody else takes it, so it is let go, with all the time that its calls may need; and it is told as gone.
    fn look_into(&self, _parked: &Parked) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Looks whether a claimed pod has the code that is sent to it: an earlier life of the controller may have ended between
    /// the two steps of its claim. When it has none, the claim did not work out.
    fn look_into_claim(&self, _instance: &Instance) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Takes a claimed pod out of its pool and makes it the function's; then it gets this size (memory in MiB, cpu in
    /// thousandths), which is never more than it has.
    fn own(
        &self,
        _function: &Arc<Function>,
        _target: &Target,
        _instance: &Victim,
        _claim: (&Claim, (u32, u32)),
    ) -> impl Future<Output = Result<Fit, FleetError>> + Send {
        std::future::ready(Ok(Fit::Own))
    }

    /// Makes what carries a pool's pods, with none of them yet, or brings it to what the pool says now.
    fn prepare_pool(&self, _pool: &Arc<WarmPool>) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Sets how many pods a pool has. When that is fewer than now, `victims` are those to end.
    fn scale_pool(
        &self,
        _pool: &PoolKey,
        _replicas: u32,
        _victims: &[Victim],
    ) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Writes a pool's status.
    fn report_pool(
        &self,
        _pool: &Arc<WarmPool>,
        _status: &WarmPoolStatus,
    ) -> impl Future<Output = Result<(), FleetError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Removes what carries the revision's instances, and what is left of them. Comes back as [`Event::WorkloadGone`].
    fn remove(&self, target: &Target) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Writes the function's status (whole: what is `None` is removed).
    fn report(
        &self,
        function: &Arc<Function>,
        status: &FunctionStatus,
    ) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Tells the function's owner something.
    fn note(&self, function: &Arc<Function>, note: &Note) -> impl Future<Output = Result<(), FleetError>> + Send;

    /// Lets a function go that is being deleted and has nothing left (takes the finalizer off). Locally the fleet then
    /// sends [`Event::FunctionGone`] itself.
    fn release(&self, function: &Arc<Function>) -> impl Future<Output = Result<(), FleetError>> + Send;
}
