//! The routes: what every activator is told, versioned; a snapshot first, then what changed.
//!
//! One table; each function stands at the version at which it last changed, for all or for one activator. A watcher that
//! is slow gets less and not later: it asks for everything after the version it has, so nothing queues up for it.

use crate::fleet::FunctionUid;
use crate::shares::Process;
use dormouse_proto::v1;
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// Removed functions remembered for deltas; a watcher further behind gets a snapshot. 1024 x ~60 bytes = 60 KiB.
const MAX_REMOVED: usize = 1024;

/// The routes, shared between the office (writes) and the doors (read).
#[derive(Clone, Debug)]
pub struct Routes {
    table: Arc<RwLock<Table>>,
    version: Arc<watch::Sender<Version>>,
    /// Random, never 0: versions of another controller's life mean nothing here.
    life: u64,
}

/// What watchers wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Version {
    newest: u64,
    /// False until everything that existed at the start is in the table: nothing is told before.
    open: bool,
}

#[derive(Debug, Default)]
struct Table {
    version: u64,
    functions: HashMap<FunctionUid, Entry>,
    by_version: BTreeMap<u64, FunctionUid>,
    removed: VecDeque<(u64, FunctionUid)>,
    /// The newest version whose removals may be forgotten.
    forgotten: u64,
    /// Activators that watch and take calls over from others: where, and in how many streams.
    peers: BTreeMap<Process, (String, u32)>,
    /// Version since which the present peers are.
    peers_since: u64,
}

#[derive(Debug)]
struct Entry {
    /// When it last changed for anybody.
    version: u64,
    /// When it last changed for all.
    for_all: u64,
    function: Arc<v1::Function>,
    /// Each activator's shares, and when they last changed.
    views: BTreeMap<Process, (u64, View)>,
}

/// One activator's shares of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Of each instance's slots, in the order of the function's instances.
    pub slots: Vec<u32>,
    /// Of its limit on calls.
    pub reserved: Option<u32>,
}

/// Since when a function stands as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    /// All but shares.
    pub function: u64,
    /// With shares.
    pub whole: u64,
}

impl Default for Routes {
    fn default() -> Self {
        let life = rand::random_range(1..=u64::MAX);
        Self { table: Arc::default(), version: Arc::new(watch::Sender::new(Version::default())), life }
    }
}

impl Routes {
    /// Sets a function's routes and shares; answers since when they stand.
    pub fn publish(&self, uid: &FunctionUid, function: v1::Function, views: BTreeMap<Process, View>) -> Stands {
        let mut table = self.table.write();
        let next = table.version + 1;
        let before = table.functions.get(uid);
        let for_all = before.filter(|b| *b.function == function).map_or(next, |b| b.for_all);
        let since = |process: &Process, view: &View| {
            let known = before.and_then(|b| b.views.get(process)).filter(|(_, known)| known == view);
            known.map_or(next, |(version, _)| *version)
        };
        let views: BTreeMap<_, _> = views.into_iter().map(|(p, view)| (p.clone(), (since(&p, &view), view))).collect();
        let changed = for_all == next || views.values().any(|(version, _)| *version == next);
        let version = before.filter(|_| !changed).map_or(next, |b| b.version);
        let stands = Stands { function: for_all, whole: version };
        let entry = Entry { version, for_all, function: Arc::new(function), views };
        if let Some(before) = table.functions.insert(uid.clone(), entry) {
            table.by_version.remove(&before.version);
        }
        table.by_version.insert(version, uid.clone());
        table.version = table.version.max(version);
        drop(table);
        self.tell();
        stands
    }

    /// Removes a function.
    pub fn remove(&self, uid: &FunctionUid) {
        let mut table = self.table.write();
        let Some(before) = table.functions.remove(uid) else { return };
        table.by_version.remove(&before.version);
        let version = table.next();
        table.removed.push_back((version, uid.clone()));
        if table.removed.len() > MAX_REMOVED
            && let Some((version, _)) = table.removed.pop_front()
        {
            table.forgotten = version;
        }
        drop(table);
        self.tell();
    }

    /// Everything that existed at the start is in: watchers are told from now on.
    pub fn open(&self) {
        self.version.send_modify(|v| v.open = true);
    }

    /// The newest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.table.read().version
    }

    /// The controller's life, of which the versions are.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// A function's routes as they stand, with all slots of each instance.
    #[must_use]
    pub fn get(&self, uid: &FunctionUid) -> Option<Arc<v1::Function>> {
        self.table.read().functions.get(uid).map(|e| e.function.clone())
    }

    /// Begins to watch, as that process. `peer_address`: where it takes calls over from others, if it does.
    #[must_use]
    pub fn watch(&self, process: Process, peer_address: &str) -> Watcher {
        if !peer_address.is_empty() {
            let mut table = self.table.write();
            let since = table.version + 1;
            let peer = table.peers.entry(process.clone()).or_default();
            peer.1 += 1;
            if peer.0 != peer_address {
                peer_address.clone_into(&mut peer.0);
                (table.version, table.peers_since) = (since, since);
            }
            drop(table);
            self.tell();
        }
        let is_peer = !peer_address.is_empty();
        Watcher { routes: self.clone(), version: self.version.subscribe(), process, is_peer, told: None }
    }

    fn leave(&self, process: &Process) {
        let mut table = self.table.write();
        if let Some(peer) = table.peers.get_mut(process) {
            peer.1 -= 1;
            if peer.1 == 0 {
                table.peers.remove(process);
                table.peers_since = table.next();
            }
        }
        drop(table);
        self.tell();
    }

    fn tell(&self) {
        let newest = self.table.read().version;
        self.version.send_if_modified(|v| {
            let newer = newest > v.newest;
            v.newest = v.newest.max(newest);
            newer
        });
    }
}

impl Table {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// What an activator has to be told that was told everything up to `told`; `None` when nothing.
    fn since(&self, told: Option<u64>, process: &Process, life: u64) -> Option<v1::RouteUpdate> {
        let whole = told.is_none_or(|told| told < self.forgotten);
        let from = if whole { 0 } else { told.unwrap_or(0) };
        let functions: Vec<v1::Function> = self
            .by_version
            .range(from + 1..)
            .filter_map(|(_, uid)| self.functions.get(uid))
            .filter(|entry| entry.for_all.max(entry.views.get(process).map_or(0, |(version, _)| *version)) > from)
            .map(|entry| entry.seen_by(process))
            .collect();
        let gone = self.removed.iter().rev().take_while(|(version, _)| *version > from && !whole);
        let removed: Vec<String> = gone.map(|(_, uid)| uid.to_string()).collect();
        let peers = (whole || self.peers_since > from).then(|| self.peers());
        let nothing = !whole && functions.is_empty() && removed.is_empty() && peers.is_none();
        (!nothing).then_some(v1::RouteUpdate {
            version: self.version,
            snapshot: whole,
            functions,
            removed,
            life,
            peers,
        })
    }

    fn peers(&self) -> v1::PeerList {
        let peer = |(process, (address, _)): (&Process, &(String, u32))| v1::Peer {
            activator: process.activator,
            name: process.name.to_string(),
            address: address.clone(),
        };
        v1::PeerList { peers: self.peers.iter().map(peer).collect() }
    }
}

impl Entry {
    /// The function with one activator's shares. One that is not known yet keeps what it holds.
    fn seen_by(&self, process: &Process) -> v1::Function {
        let mut function = (*self.function).clone();
        let view = self.views.get(process).map(|(_, view)| view);
        function.keep_shares = view.is_none() && (!function.instances.is_empty() || function.reserved.is_some());
        function.reserved = function.reserved.map(|_| view.and_then(|v| v.reserved).unwrap_or(0));
        for (n, instance) in function.instances.iter_mut().enumerate() {
            instance.slots = view.and_then(|v| v.slots.get(n)).copied().unwrap_or(0);
        }
        function
    }
}

/// One activator's view: a snapshot, then deltas.
#[derive(Debug)]
pub struct Watcher {
    routes: Routes,
    version: watch::Receiver<Version>,
    process: Process,
    is_peer: bool,
    told: Option<u64>,
}

impl Watcher {
    /// The next update, once there is one. `None` when the routes have ended.
    pub async fn next(&mut self) -> Option<v1::RouteUpdate> {
        loop {
            let told = self.told;
            let due = |v: &Version| v.open && told.is_none_or(|told| v.newest > told);
            self.version.wait_for(due).await.ok()?;
            let table = self.routes.table.read();
            let update = table.since(self.told, &self.process, self.routes.life);
            self.told = Some(table.version);
            drop(table);
            if update.is_some() {
                return update;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.is_peer {
            self.routes.leave(&self.process);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(uid: &str, concurrency: u32) -> v1::Function {
        let instance = v1::Instance { id: "i".into(), slots: concurrency, ..Default::default() };
        v1::Function { uid: uid.into(), concurrency, instances: vec![instance], ..Default::default() }
    }

    fn process(name: &str) -> Process {
        Process { name: name.into(), activator: 1, epoch: 1 }
    }

    fn shares<const N: usize>(list: [(&str, u32); N]) -> BTreeMap<Process, View> {
        list.map(|(name, slots)| (process(name), View { slots: vec![slots], reserved: None })).into()
    }

    #[tokio::test]
    async fn a_snapshot_then_what_changed() {
        let routes = Routes::default();
        let (a, b) = (FunctionUid::from("a"), FunctionUid::from("b"));
        routes.publish(&a, function("a", 1), shares([("one", 1)]));
        let mut watcher = routes.watch(process("one"), "");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), watcher.next()).await.is_err(), "not open");
        routes.open();
        let first = watcher.next().await.unwrap();
        assert!(first.snapshot && first.functions.len() == 1 && first.functions[0].instances[0].slots == 1);
        assert_eq!(first.life, routes.life());
        let stands = routes.publish(&b, function("b", 2), shares([]));
        assert_eq!(routes.publish(&b, function("b", 2), shares([])), stands, "the same again is no change");
        routes.remove(&a);
        let second = watcher.next().await.unwrap();
        assert!(!second.snapshot && second.version > stands.whole);
        assert_eq!((second.functions[0].uid.as_str(), second.removed), ("b", vec!["a".to_owned()]));
    }

    #[tokio::test]
    async fn far_behind_is_told_all() {
        let routes = Routes::default();
        routes.open();
        let mut watcher = routes.watch(process("one"), "");
        watcher.next().await.unwrap();
        for n in 0..=MAX_REMOVED + 1 {
            let uid = FunctionUid::from(n.to_string());
            routes.publish(&uid, function("x", 1), shares([]));
            routes.remove(&uid);
        }
        let update = watcher.next().await.unwrap();
        assert!(update.snapshot && update.functions.is_empty() && update.removed.is_empty());
    }

    #[tokio::test]
    async fn a_share_is_told_to_its_owner_alone_and_one_not_dealt_yet_is_kept() {
        let routes = Routes::default();
        routes.open();
        let a = FunctionUid::from("a");
        let stands = routes.publish(&a, function("a", 5), shares([("one", 5)]));
        let (mut one, mut two) = (routes.watch(process("one"), ""), routes.watch(process("two"), ""));
        let told = |update: &v1::RouteUpdate| {
            let f = &update.functions[0];
            (f.instances[0].slots, f.keep_shares)
        };
        assert_eq!(told(&one.next().await.unwrap()), (5, false));
        assert_eq!(told(&two.next().await.unwrap()), (0, true), "nothing was dealt to it");
        let again = routes.publish(&a, function("a", 5), shares([("one", 5), ("two", 0)]));
        assert_eq!(again.function, stands.function, "for all it stands as it was");
        assert_eq!(told(&two.next().await.unwrap()), (0, false));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(1), one.next()).await;
        assert!(quiet.is_err(), "nothing changed for the first one: {quiet:?}");
    }

    #[tokio::test]
    async fn peers_are_told_when_they_come_and_go() {
        let routes = Routes::default();
        routes.open();
        let mut one = routes.watch(process("one"), "");
        assert_eq!(one.next().await.unwrap().peers, Some(v1::PeerList::default()));
        let two = routes.watch(process("two"), "10.0.0.2:8082");
        let peers =
            |update: v1::RouteUpdate| update.peers.unwrap().peers.into_iter().map(|p| p.address).collect::<Vec<_>>();
        let update = one.next().await.unwrap();
        assert!(!update.snapshot && update.functions.is_empty());
        assert_eq!(peers(update), ["10.0.0.2:8082"]);
        drop(two);
        assert_eq!(peers(one.next().await.unwrap()), Vec::<String>::new());
    }
}
