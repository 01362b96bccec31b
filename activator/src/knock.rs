//! Demand goes up: what waits and runs, told on edges. A call that waits is told at once; the rest within a tenth of a
//! second, with the exact peak in between. The first report of a stream is whole.

use crate::{
    func::Func,
    instance::Instance,
    link::{Backoff, Link},
    shared::Shared,
};
use dormouse_proto::v1::{self, demand_client::DemandClient};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Changes for which nobody waits are gathered that long.
const GATHER: Duration = Duration::from_millis(100);
/// How long the end of the stream may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Reports under way at once; behind them changes are gathered, not queued.
const UNDER_WAY: usize = 4;

/// What changed since the last report.
#[derive(Debug, Default)]
pub(crate) struct Board {
    dirty: Mutex<Vec<Arc<Func>>>,
    any: Notify,
    urgent: Notify,
    applied: Mutex<Applied>,
}

/// The routes that are acted by.
#[derive(Clone, Copy, Debug, Default)]
struct Applied {
    version: u64,
    /// The controller's life that the version is of.
    life: u64,
}

impl Board {
    /// A function's demand changed.
    pub(crate) fn note(&self, func: &Arc<Func>, at_once: bool) {
        let first = !func.dirty.load(Relaxed) && !func.dirty.swap(true, Relaxed);
        if first {
            self.dirty.lock().push(func.clone());
        }
        if at_once {
            self.urgent.notify_one();
        } else if first {
            self.any.notify_one();
        }
    }

    /// Routes of this version are acted by.
    pub(crate) fn applied(&self, version: u64, life: u64) {
        *self.applied.lock() = Applied { version, life };
        self.tell();
    }

    /// What is told with every report changed: one is sent at once.
    pub(crate) fn tell(&self) {
        self.urgent.notify_one();
    }

    /// Waits for something to tell.
    async fn changed(&self) {
        tokio::select! {
            () = self.urgent.notified() => {}
            () = self.any.notified() => {
                tokio::select! { () = self.urgent.notified() => {}, () = tokio::time::sleep(GATHER) => {} }
            }
        }
    }
}

/// Reports until the token is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, name: String, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    let mut number = 0_u32;
    while !stop.is_cancelled() {
        number = number.saturating_add(1);
        if let Err(e) = report(&shared, &link, (&name, number), &mut backoff, &stop).await {
            tracing::debug!("demand: {}", e.message());
        }
        backoff.wait(&stop).await;
    }
}

async fn report(
    shared: &Arc<Shared>,
    link: &Link,
    (name, number): (&str, u32),
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Result<(), tonic::Status> {
    // Demand before routes would be of functions that the controller cannot know to be ours.
    if stop.run_until_cancelled(shared.known.cancelled()).await.is_none() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    let mut client = DemandClient::with_interceptor(link.channel(), link.token());
    let mut stream = std::pin::pin!(async {
        client.report(ReceiverStream::new(receiver)).await?;
        Ok(())
    });
    let feed = async move {
        let mut whole = true;
        loop {
            let place = match stop.run_until_cancelled(sender.reserve()).await {
                Some(Ok(place)) => place,
                Some(Err(_)) => return,
                None => {
                    let _ = sender.try_send(farewell(shared, name));
                    return;
                }
            };
            if !whole && stop.run_until_cancelled(shared.board.changed()).await.is_none() {
                place.send(farewell(shared, name));
                return;
            }
            let report = collect(shared, name, whole);
            let stream = if whole { number } else { 0 };
            whole = false;
            place.send(v1::DemandReport { stream, ..report });
        }
    };
    let started = tokio::time::Instant::now();
    let result = tokio::select! {
        result = &mut stream => result,
        // The feed ends when we do, with a farewell, which tells the controller that nothing of ours runs any more. A
        // process that is not heard to say so is believed to go on by its last routes.
        () = feed => tokio::time::timeout(FAREWELL, stream).await.unwrap_or(Ok(())),
    };
    // A stream that lived for a while was no failure to connect.
    if started.elapsed() > Duration::from_secs(5) {
        backoff.reset();
    }
    result
}

/// The last report. After calls were broken off it is an ordinary one: instances may be working on them still.
fn farewell(shared: &Shared, name: &str) -> v1::DemandReport {
    v1::DemandReport { farewell: !shared.broken_off.load(Relaxed), ..collect(shared, name, false) }
}

fn collect(shared: &Shared, name: &str, whole: bool) -> v1::DemandReport {
    // Before the functions: what was changed by routes of this version is among them, with the calls that run since.
    let applied = *shared.board.applied.lock();
    let mut dirty = std::mem::take(&mut *shared.board.dirty.lock());
    if whole {
        // Functions that left the table while calls ran on are among the dirty ones.
        let known: HashSet<String> = dirty.iter().map(|f| f.uid.clone()).collect();
        let table = shared.routes.load();
        dirty.extend(table.by_uid.values().filter(|f| !known.contains(&f.uid)).cloned());
    }
    let mut report = v1::DemandReport {
        activator: shared.spool.identity().activator,
        epoch: shared.spool.identity().epoch,
        name: name.to_owned(),
        whole,
        applied_version: applied.version,
        applied_life: applied.life,
        stream: 0,
        farewell: false,
        leaving: shared.leaving.load(Relaxed),
        functions: Vec::new(),
        instances: Vec::new(),
    };
    for func in dirty {
        // Cleared first: what changes from here on is told next time.
        func.dirty.store(false, Relaxed);
        let mut inner = func.inner.lock();
        let (queued, running, peak) = (inner.room.queued(), inner.room.running(), inner.room.take_peak());
        let reserved = inner.room.most().filter(|_| whole);
        let room = &inner.room;
        let instances = inner.seats.iter().map(|(seat, i)| {
            let slots = whole.then(|| room.slots(*seat));
            v1::InstanceDemand { slots, ..told(&func.uid, i, room.in_flight(*seat)) }
        });
        report.instances.extend(instances.filter(|i| !whole || !is_plain(i)));
        drop(inner);
        if !whole || queued + running + peak > 0 || reserved.is_some() {
            report.functions.push(v1::FunctionDemand { uid: func.uid.clone(), queued, running, peak, reserved });
        }
    }
    report
}

fn told(function_uid: &str, instance: &Instance, in_flight: u32) -> v1::InstanceDemand {
    v1::InstanceDemand {
        function_uid: function_uid.to_owned(),
        id: instance.id.clone(),
        port_open: instance.port_open.load(Relaxed),
        first_call_sent: instance.first_call.load(Relaxed),
        in_flight,
        retired: instance.retired.load(Relaxed),
        slots: None,
    }
}

/// True when there is nothing to say that a report's silence does not say.
fn is_plain(i: &v1::InstanceDemand) -> bool {
    !i.port_open && !i.first_call_sent && i.in_flight == 0 && !i.retired && i.slots.is_none_or(|slots| slots == 0)
}
