//! The open streams of a connection of HTTP/2: each is a task of its own, and is ended when its time is long over.

use super::OVERDUE;
use crate::shared::Shared;
use hyper::rt::Executor;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::task::{self, AbortHandle};

/// The open streams of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    by_task: HashMap<task::Id, Stream>,
    /// A stream was opened once.
    any: bool,
    /// When the number of open streams last became zero.
    quiet_since: Duration,
}

#[derive(Debug)]
struct Stream {
    task: AbortHandle,
    /// When its call must be over; none while it is not dispatched.
    until: Option<Duration>,
}

/// How a connection without open streams stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// No request ever came, for so long.
    Fresh(Duration),
    /// Nothing is open, for so long.
    Idle(Duration),
}

impl Streams {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let open = Open { by_task: HashMap::new(), any: false, quiet_since: shared.clock.now() };
        Arc::new(Self { shared: shared.clone(), open: Mutex::new(open) })
    }

    /// The call of the task that asks must be over by then.
    pub(crate) fn set_deadline(&self, at: Duration) {
        self.set(Some(at));
    }

    /// Nothing says when the call of the task that asks must be over.
    pub(crate) fn clear_deadline(&self) {
        self.set(None);
    }

    fn set(&self, until: Option<Duration>) {
        let Some(id) = task::try_id() else { return };
        if let Some(stream) = self.open.lock().by_task.get_mut(&id) {
            stream.until = until;
        }
    }

    /// Ends streams whose client has not read the response though the call's time is over: they are reset, and what they
    /// hold is given back. Says how many.
    pub(super) fn end_overdue(&self) -> usize {
        let now = self.shared.clock.now();
        let is_overdue = |s: &&Stream| s.until.is_some_and(|until| now > until + OVERDUE);
        let overdue: Vec<_> = self.open.lock().by_task.values().filter(is_overdue).map(|s| s.task.clone()).collect();
        overdue.iter().for_each(AbortHandle::abort);
        overdue.len()
    }

    /// `None` while streams are open: such a connection is never idle.
    pub(super) fn quiet(&self) -> Option<Quiet> {
        let open = self.open.lock();
        let lasts = self.shared.clock.now().saturating_sub(open.quiet_since);
        open.by_task.is_empty().then_some(if open.any { Quiet::Idle(lasts) } else { Quiet::Fresh(lasts) })
    }
}

/// Runs the streams of a connection for hyper.
#[derive(Clone, Debug)]
pub(super) struct Runner(pub(super) Arc<Streams>);

impl<F> Executor<F> for Runner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let streams = self.0.clone();
        // Locked before it runs: it finds itself in the list.
        let mut open = self.0.open.lock();
        let task = self.0.shared.tracker.spawn(async move {
            // Made here: a task that is dropped at once, with the runtime, must not ask for the lock.
            streams.shared.metrics.streams.inc();
            let _ended = Ended(streams);
            stream.await;
        });
        open.any = true;
        open.by_task.insert(task.id(), Stream { task: task.abort_handle(), until: None });
    }
}

/// Takes the stream of the task that drops it off the list.
struct Ended(Arc<Streams>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.shared.metrics.streams.dec();
        let Some(id) = task::try_id() else { return };
        let mut open = self.0.open.lock();
        open.by_task.remove(&id);
        if open.by_task.is_empty() {
            open.quiet_since = self.0.shared.clock.now();
        }
    }
}
