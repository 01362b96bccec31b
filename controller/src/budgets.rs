//! Budgets: what tenants may spend in a month, and who may spend how much of it.
//!
//! One task, the [`Treasurer`], owns everything known of every budget: the objects, what the ledger has of the month, and
//! what activators were told and say they spent ([`dormouse_core::allowance`]). It writes to activators over a stream of its
//! own ([`door`]), to the objects' status, and tells the office whose functions are kept warm no longer.
//!
//! Waking does not depend on the ledger, but spending on a budget does, by wish: while the ledger cannot say what was spent,
//! nothing new is given, and what activators were given before goes on to hold.

mod book;
pub mod door;
mod status;
mod treasurer;

pub use status::BudgetView;
pub use treasurer::{Parts, Treasurer};

use crate::shares::Process;
use dormouse_core::Budget;
use dormouse_proto::v1;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc};

/// Letters that wait for the treasurer.
const MAX_LETTERS: usize = 1024;

/// Most budgets that are in force: each is told to every activator in some 100 bytes, and asks the ledger every 10 s.
pub const MAX_BUDGETS: usize = 1_000;

/// What a fleet sees of budgets.
#[derive(Clone, Debug)]
pub enum BudgetEvent {
    /// One as it is now.
    There(Arc<Budget>),
    /// The one of that name is gone.
    Gone(String),
    /// All that existed at the start have been told.
    Synced,
}

/// What reaches the treasurer from the doors.
#[derive(Debug)]
pub(crate) enum Letter {
    /// An activator's stream began.
    Join {
        process: Process,
        /// Number of the stream.
        stream: u64,
        /// What it knows of earlier ones.
        said: Vec<v1::Spent>,
        /// Where it is told.
        out: mpsc::Sender<v1::BudgetUpdate>,
    },
    /// What it spent.
    Report { process: Process, stream: u64, said: Vec<v1::Spent>, farewell: bool },
    /// Its stream ended.
    Leave { process: Process, stream: u64 },
}

/// The way to the treasurer, and what he lets be seen. Clones share it.
#[derive(Clone, Debug)]
pub struct Budgets {
    post: mpsc::Sender<Letter>,
    shown: Arc<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// By name.
    views: RwLock<BTreeMap<String, BudgetView>>,
    /// Names of activators whose process has ended, and that is not known to the treasurer yet.
    gone: Mutex<BTreeSet<String>>,
    any_gone: Notify,
    used: Family<OfTenant, Gauge>,
    stopped: Family<OfTenant, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTenant {
    tenant: String,
}

impl Budgets {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Letter>) {
        let (post, letters) = mpsc::channel(MAX_LETTERS);
        (Self { post, shown: Arc::default() }, letters)
    }

    /// No budgets, and nobody who looks after any.
    #[must_use]
    pub fn none() -> Self {
        Self::new().0
    }

    /// Puts what is seen of budgets into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("dormouse_budget");
        r.register(
            "used_percent",
            "What was spent of a tenant's budget in this month, in percent",
            self.shown.used.clone(),
        );
        r.register("stopped", "1 while a tenant's calls are refused by its budget", self.shown.stopped.clone());
    }

    /// Every budget as it stands.
    #[must_use]
    pub fn views(&self) -> Vec<BudgetView> {
        self.shown.views.read().values().cloned().collect()
    }

    /// A process of an activator has certainly ended.
    pub fn gone(&self, name: &str) {
        self.shown.gone.lock().insert(name.to_owned());
        self.shown.any_gone.notify_one();
    }

    /// Those that have ended since this was last asked.
    async fn any_gone(&self) -> BTreeSet<String> {
        self.shown.any_gone.notified().await;
        std::mem::take(&mut *self.shown.gone.lock())
    }

    /// Shows how one stands, or that it is gone.
    fn show(&self, name: &str, view: Option<BudgetView>) {
        let mut views = self.shown.views.write();
        let before = match &view {
            Some(view) => views.insert(name.to_owned(), view.clone()),
            None => views.remove(name),
        };
        let counts = |view: &&BudgetView| view.in_force;
        let of = |view: &BudgetView| OfTenant { tenant: view.tenant.clone() };
        let tenant = view.as_ref().filter(counts).map(of);
        if let Some(before) = before.as_ref().filter(counts).map(of).filter(|before| Some(before) != tenant.as_ref()) {
            self.shown.used.remove(&before);
            self.shown.stopped.remove(&before);
        }
        if let (Some(of), Some(view)) = (tenant, view) {
            self.shown.used.get_or_create(&of).set(view.percent.unwrap_or_default());
            self.shown.stopped.get_or_create(&of).set(i64::from(view.state == "Stopped"));
        }
    }
}

#[cfg(test)]
mod tests;
