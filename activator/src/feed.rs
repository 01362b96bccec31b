//! Routes come: a snapshot, then deltas; when the controller is silent the last ones go on to hold.

use crate::{
    func::Func,
    link::{Backoff, Link},
    route::Table,
    shared::Shared,
};
use dormouse_proto::v1::{self, routes_client::RoutesClient};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio_util::sync::CancellationToken;

/// Largest update: a snapshot of 100,000 functions of about 600 bytes.
const MAX_UPDATE: usize = 64 << 20;
/// Longest name, host or id. Kubernetes names have at most 253 characters.
const MAX_TEXT: usize = 253;
/// Most hosts of a function.
const MAX_HOSTS: usize = 32;
/// Most activators that may run calls of one function: as many as the controller hears.
const MAX_HOLDERS: usize = 64;

/// Follows the routes until the token is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, name: String, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let result = tokio::select! {
            result = follow(&shared, &link, &name, &mut backoff) => result,
            () = stop.cancelled() => return,
        };
        shared.fed.store(false, Relaxed);
        shared.metrics.controller_up.set(0);
        match result {
            Ok(()) => tracing::info!("the stream of routes ended"),
            Err(e) => tracing::debug!("routes: {}", e.message()),
        }
        backoff.wait(&stop).await;
    }
}

async fn follow(shared: &Arc<Shared>, link: &Link, name: &str, backoff: &mut Backoff) -> Result<(), tonic::Status> {
    let mut client = RoutesClient::with_interceptor(link.channel(), link.token()).max_decoding_message_size(MAX_UPDATE);
    let identity = shared.spool.identity();
    let request = v1::WatchRequest {
        activator: identity.activator,
        epoch: identity.epoch,
        name: name.to_owned(),
        peer_address: shared.peers.address().to_owned(),
    };
    let mut updates = client.watch(request).await?.into_inner();
    let mut begun = false;
    while let Some(update) = updates.message().await? {
        if !begun && !update.snapshot {
            return Err(tonic::Status::failed_precondition("a stream begins with a snapshot"));
        }
        // Nobody is called before it is known who has a budget.
        shared.purses.known.cancelled().await;
        // Before it is acted by: what it names may be dialled.
        shared.fed.store(true, Relaxed);
        apply(shared, update);
        if !std::mem::replace(&mut begun, true) {
            tracing::info!(functions = shared.routes.load().by_uid.len(), "routes are known");
            shared.metrics.controller_up.set(1);
            shared.metrics.controller_streams.inc();
            backoff.reset();
        }
    }
    Ok(())
}

/// Acts by an update, then tells its version.
pub(crate) fn apply(shared: &Arc<Shared>, update: v1::RouteUpdate) {
    if let Some(peers) = &update.peers {
        shared.peers.update(&peers.peers);
    }
    let old = shared.routes.load_full();
    let mut named: Vec<Arc<Func>> = Vec::with_capacity(update.functions.len());
    // What happens to instances is within a function: the table is made anew only when it would differ.
    let mut changed = update.snapshot || !update.removed.is_empty();
    for told in &update.functions {
        if let Err(why) = within_bounds(told) {
            tracing::warn!(function = told.name, "ignored from the routes: {why}");
            continue;
        }
        let known = old.by_uid.get(&told.uid).filter(|f| f.key.namespace == told.namespace && f.key.name == told.name);
        let func = known.cloned().unwrap_or_else(|| {
            changed = true;
            Arc::new(Func::new(told, shared.metrics.of(&told.namespace, &told.name)))
        });
        changed |= func.update(told, shared);
        named.push(func);
    }
    if changed {
        let table = next_table(&old, named, &update);
        let lives_on = |f: &Arc<Func>| table.by_uid.get(&f.uid).is_some_and(|now| Arc::ptr_eq(now, f));
        let gone: Vec<_> = old.by_uid.values().filter(|f| !lives_on(f)).cloned().collect();
        gone.iter().for_each(|f| f.metrics.retire());
        // A name that lives on under another uid keeps its series.
        gone.iter().filter(|f| !table.has(&f.key)).for_each(|f| shared.metrics.forget(&f.key));
        shared.routes.store(Arc::new(table));
        gone.iter().for_each(|func| func.close(shared));
    }
    if !shared.known.is_cancelled() && shared.routes.load().known {
        shared.known.cancel();
    }
    shared.board.applied(update.version, update.life);
}

fn next_table(old: &Table, named: Vec<Arc<Func>>, update: &v1::RouteUpdate) -> Table {
    let mut by_uid = if update.snapshot { HashMap::new() } else { old.by_uid.clone() };
    for uid in &update.removed {
        by_uid.remove(uid);
    }
    by_uid.extend(named.into_iter().map(|func| (func.uid.clone(), func)));
    Table::new(by_uid)
}

fn within_bounds(told: &v1::Function) -> Result<(), &'static str> {
    let ok = |text: &str| !text.is_empty() && text.len() <= MAX_TEXT;
    if !(ok(&told.uid) && ok(&told.namespace) && ok(&told.name) && ok(&told.tenant)) {
        return Err("a name is empty or too long");
    }
    if told.hosts.len() > MAX_HOSTS || !told.hosts.iter().all(|h| ok(h)) {
        return Err("too many or too long hosts");
    }
    if !told.instances.iter().all(|i| ok(&i.id) && ok(&i.revision)) {
        return Err("an instance's id or revision is empty or too long");
    }
    if told.holders.len() > MAX_HOLDERS {
        return Err("too many activators hold slots of it");
    }
    if told.timeout_ms == 0 {
        return Err("it has no timeout");
    }
    Ok(())
}
