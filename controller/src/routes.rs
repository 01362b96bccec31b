//! The routes: what every activator is told, versioned; a snapshot first, then what changed.
//!
//! One table; each function stands at the version at which it last changed. A watcher that is slow gets less and not
//! later: it asks for everything after the version it has, so nothing queues up for it.

use crate::fleet::FunctionUid;
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
    /// Names of activators that watch, each with how many streams; slots are shared out among them.
    members: BTreeMap<String, u32>,
    /// Version since which the present members are.
    members_since: u64,
}

#[derive(Debug)]
struct Entry {
    version: u64,
    function: Arc<v1::Function>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { table: Arc::default(), version: Arc::new(watch::Sender::new(Version::default())) }
    }
}

impl Routes {
    /// Sets a function's routes; answers the version at which they stand (an older one when nothing changed).
    pub fn publish(&self, uid: &FunctionUid, function: v1::Function) -> u64 {
        let mut table = self.table.write();
        if let Some(entry) = table.functions.get(uid)
            && *entry.function == function
        {
            return entry.version;
        }
        let version = table.next();
        let entry = Entry { version, function: Arc::new(function) };
        if let Some(before) = table.functions.insert(uid.clone(), entry) {
            table.by_version.remove(&before.version);
        }
        table.by_version.insert(version, uid.clone());
        drop(table);
        self.tell();
        version
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

    /// A function's routes as they stand.
    #[must_use]
    pub fn get(&self, uid: &FunctionUid) -> Option<Arc<v1::Function>> {
        self.table.read().functions.get(uid).map(|e| e.function.clone())
    }

    /// Begins to watch, as an activator of that name.
    #[must_use]
    pub fn watch(&self, name: &str) -> Watcher {
        let mut table = self.table.write();
        let streams = table.members.entry(name.to_owned()).or_default();
        *streams += 1;
        if *streams == 1 {
            table.members_since = table.next();
        }
        drop(table);
        self.tell();
        Watcher { routes: self.clone(), version: self.version.subscribe(), name: name.to_owned(), told: None }
    }

    fn leave(&self, name: &str) {
        let mut table = self.table.write();
        if let Some(streams) = table.members.get_mut(name) {
            *streams -= 1;
            if *streams == 0 {
                table.members.remove(name);
                table.members_since = table.next();
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
    fn since(&self, told: Option<u64>, name: &str) -> Option<v1::RouteUpdate> {
        let whole = told.is_none_or(|told| told < self.forgotten || told < self.members_since);
        let from = if whole { 0 } else { told.unwrap_or(0) };
        let functions: Vec<v1::Function> = self
            .by_version
            .range(from + 1..)
            .filter_map(|(_, uid)| self.functions.get(uid))
            .map(|entry| self.shared_out(&entry.function, name))
            .collect();
        let gone = self.removed.iter().rev().take_while(|(version, _)| *version > from && !whole);
        let removed: Vec<String> = gone.map(|(_, uid)| uid.to_string()).collect();
        let nothing = !whole && functions.is_empty() && removed.is_empty();
        (!nothing).then_some(v1::RouteUpdate { version: self.version, snapshot: whole, functions, removed })
    }

    fn shared_out(&self, function: &v1::Function, name: &str) -> v1::Function {
        let mut function = function.clone();
        for instance in &mut function.instances {
            instance.slots = share(instance.slots, self.members.keys(), name, &instance.id);
        }
        function
    }
}

/// An activator's share of an instance's slots: as even as whole slots allow; who gets the odd ones turns with the
/// instance, so that none is left without any.
fn share<'a>(slots: u32, members: impl ExactSizeIterator<Item = &'a String>, name: &str, instance: &str) -> u32 {
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let Some(place) = members.enumerate().find(|(_, member)| *member == name).map(|(place, _)| place) else { return 0 };
    let turn = instance.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % count;
    let place = (u32::try_from(place).unwrap_or(0) + turn) % count;
    slots / count + u32::from(place < slots % count)
}

/// One activator's view: a snapshot, then deltas.
#[derive(Debug)]
pub struct Watcher {
    routes: Routes,
    version: watch::Receiver<Version>,
    name: String,
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
            let update = table.since(self.told, &self.name);
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
        self.routes.leave(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn function(uid: &str, concurrency: u32) -> v1::Function {
        let instance = v1::Instance { id: "i".into(), slots: concurrency, ..Default::default() };
        v1::Function { uid: uid.into(), concurrency, instances: vec![instance], ..Default::default() }
    }

    #[tokio::test]
    async fn a_snapshot_then_what_changed() {
        let routes = Routes::default();
        let (a, b) = (FunctionUid::from("a"), FunctionUid::from("b"));
        routes.publish(&a, function("a", 1));
        let mut watcher = routes.watch("one");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), watcher.next()).await.is_err(), "not open");
        routes.open();
        let first = watcher.next().await.unwrap();
        assert!(first.snapshot && first.functions.len() == 1 && first.functions[0].instances[0].slots == 1);
        let version = routes.publish(&b, function("b", 2));
        assert_eq!(routes.publish(&b, function("b", 2)), version, "the same again is no change");
        routes.remove(&a);
        let second = watcher.next().await.unwrap();
        assert!(!second.snapshot && second.version > version);
        assert_eq!((second.functions[0].uid.as_str(), second.removed), ("b", vec!["a".to_owned()]));
    }

    #[tokio::test]
    async fn far_behind_is_told_all() {
        let routes = Routes::default();
        routes.open();
        let mut watcher = routes.watch("one");
        watcher.next().await.unwrap();
        for n in 0..=MAX_REMOVED + 1 {
            let uid = FunctionUid::from(n.to_string());
            routes.publish(&uid, function("x", 1));
            routes.remove(&uid);
        }
        let update = watcher.next().await.unwrap();
        assert!(update.snapshot && update.functions.is_empty() && update.removed.is_empty());
    }

    #[tokio::test]
    async fn slots_are_shared_out_again_when_one_comes_or_goes() {
        let routes = Routes::default();
        routes.open();
        routes.publish(&"a".into(), function("a", 5));
        let mut one = routes.watch("one");
        assert_eq!(one.next().await.unwrap().functions[0].instances[0].slots, 5);
        let mut two = routes.watch("two");
        let slots = one.next().await.unwrap().functions[0].instances[0].slots;
        assert_eq!(slots + two.next().await.unwrap().functions[0].instances[0].slots, 5);
        drop(two);
        assert_eq!(one.next().await.unwrap().functions[0].instances[0].slots, 5);
    }

    proptest! {
        #[test]
        fn shares_add_up(slots in 1_u32..1001, members in 1_usize..9, id in "[a-z0-9]{1,12}") {
            let names: Vec<String> = (0..members).map(|n| n.to_string()).collect();
            let shares: Vec<u32> = names.iter().map(|n| share(slots, names.iter(), n, &id)).collect();
            prop_assert_eq!(shares.iter().sum::<u32>(), slots);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
