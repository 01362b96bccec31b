//! Named readiness checks. A process is ready when each of its checks is, and has started once each was.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The checks of one process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    inner: Arc<Mutex<Checks>>,
}

#[derive(Debug, Default)]
struct Checks {
    now: BTreeMap<&'static str, Result<(), String>>,
    /// Those that never passed.
    pending: BTreeSet<&'static str>,
}

impl Health {
    /// Adds a check that is not ready yet.
    pub fn expect(&self, check: &'static str) {
        let mut checks = self.inner.lock();
        checks.now.insert(check, Err("not yet".into()));
        checks.pending.insert(check);
    }

    /// The check is ready.
    pub fn pass(&self, check: &'static str) {
        let mut checks = self.inner.lock();
        checks.now.insert(check, Ok(()));
        checks.pending.remove(check);
    }

    /// The check is not ready, with the reason.
    pub fn fail(&self, check: &'static str, reason: impl Into<String>) {
        self.inner.lock().now.insert(check, Err(reason.into()));
    }

    /// True when every check is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.lock().now.values().all(Result::is_ok)
    }

    /// True once every check has been ready, be it for a moment: what fails later is no matter of starting.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.inner.lock().pending.is_empty()
    }

    /// Names of the checks that are not ready.
    #[must_use]
    pub fn failing(&self) -> Vec<&'static str> {
        self.inner.lock().now.iter().filter(|(_, state)| state.is_err()).map(|(name, _)| *name).collect()
    }

    /// One line per check: `[+]name ok` or `[-]name reason`.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |(name, state): (&&str, &Result<(), String>)| match state {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => format!("[-]{name} {reason}\n"),
        };
        self.inner.lock().now.iter().map(line).collect()
    }
}
