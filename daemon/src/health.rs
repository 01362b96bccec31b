//! Named readiness checks. A process is ready when each of its checks is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The checks of one process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

impl Health {
    /// Adds a check that is not ready yet.
    pub fn expect(&self, check: &'static str) {
        self.lock().insert(check, Err("not yet".into()));
    }

    /// The check is ready.
    pub fn pass(&self, check: &'static str) {
        self.lock().insert(check, Ok(()));
    }

    /// The check is not ready, with the reason.
    pub fn fail(&self, check: &'static str, reason: impl Into<String>) {
        self.lock().insert(check, Err(reason.into()));
    }

    /// True when every check is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    /// One line per check: `[+]name ok` or `[-]name reason`.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |(name, state): (&&str, &Result<(), String>)| match state {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => format!("[-]{name} {reason}\n"),
        };
        self.lock().iter().map(line).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
