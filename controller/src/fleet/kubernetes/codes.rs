//! Handler code that stands in ConfigMaps: what a Function names is read and attached to it before anybody is told of it,
//! and it is told anew when the ConfigMap changes.
//!
//! Of ConfigMaps that no Function names only names and versions pass through here, and nothing is kept of them.

use super::MANAGER;
use super::effects::within;
use super::watch::Port;
use crate::fleet::{Event, FleetError, FunctionUid};
use dormouse_core::function::{Function, Source};
use dormouse_core::source::{Code, file_of, path_of};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// One that could not be read is asked for again that often.
const AGAIN: Duration = Duration::from_secs(10);

/// Longest read of a ConfigMap: other Functions wait for their turn to be told.
const READ: Duration = Duration::from_secs(2);

/// Looks for a Function's code until what is known is told.
const TRIES: u32 = 3;

/// Each namespace has one of that name, with the API server's certificate; nobody's code is in it.
const NOT_CODE: &str = "metadata.name!=kube-root-ca.crt";

/// Namespace and name of a ConfigMap.
type Place = (String, String);

/// What is known of the code of Functions. A clone is the same.
#[derive(Clone)]
pub(super) struct Codes {
    client: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    users: HashMap<FunctionUid, User>,
    /// How often some code was to be read anew.
    changes: u64,
}

/// A Function whose code is in a ConfigMap.
struct User {
    /// As it was read.
    function: Arc<Function>,
    place: Place,
    found: Found,
}

/// What was found at its place.
#[derive(Clone)]
struct Found {
    /// The version that it was read in; `None`: it could not be.
    version: Option<String>,
    /// It is certainly not there, or certainly is this: asking again would not help.
    certain: bool,
    code: Result<Arc<Code>, String>,
}

impl Codes {
    pub(super) fn new(client: Client) -> Self {
        Self { client, state: Arc::default() }
    }

    /// Tells the Function with its code, as far as that is found.
    pub(super) async fn tell(&self, function: Arc<Function>, port: &Port) {
        let uid = FunctionUid::from(function.metadata.uid.clone().unwrap_or_default());
        let Some(place) = place(&function) else {
            let mut state = self.state.lock().await;
            state.users.remove(&uid);
            return port.send_as_is(Event::Function(function)).await;
        };
        for tries in 1.. {
            let (known, changes) = {
                let state = self.state.lock().await;
                let user = state.users.get(&uid).filter(|user| user.is_of(&function, &place));
                (user.map(|user| user.found.clone()), state.changes)
            };
            let found = match known {
                Some(known) if known.certain => known,
                known => self.look(&function, &place).await.or_keep(known.as_ref()),
            };
            let mut state = self.state.lock().await;
            if tries < TRIES && (state.changes != changes || !found.certain && found.code.is_err()) {
                // Some ConfigMap changed while this one was read, perhaps this one; or it could not be read.
                continue;
            }
            let told = attached(&function, &found);
            state.users.insert(uid, User { function, place, found });
            // Told while the state is held: whoever finds the code changed tells that after it.
            return port.send_as_is(Event::Function(told)).await;
        }
    }

    pub(super) async fn forget(&self, uid: &FunctionUid) {
        self.state.lock().await.users.remove(uid);
    }

    /// Follows the ConfigMaps of a namespace, or of all, until it is dropped.
    pub(super) async fn watch(self, api: Api<PartialObjectMeta<ConfigMap>>, port: Port) {
        let mut stream = std::pin::pin!(watcher(api, watcher::Config::default().fields(NOT_CODE)).default_backoff());
        let mut listing: Option<HashSet<Place>> = None;
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = again.tick() => {
                    self.look_again(&port, |user| !user.found.certain).await;
                    continue;
                }
            };
            match event {
                None => return,
                Some(Ok(watcher::Event::Init)) => listing = Some(HashSet::new()),
                Some(Ok(watcher::Event::InitApply(meta))) => {
                    if let Some(listing) = &mut listing {
                        listing.insert(place_of(&meta));
                    }
                    self.changed(&port, &meta).await;
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    let listed = listing.take().unwrap_or_default();
                    self.look_again(&port, |user| user.found.code.is_ok() && !listed.contains(&user.place)).await;
                }
                Some(Ok(watcher::Event::Apply(meta))) => self.changed(&port, &meta).await,
                Some(Ok(watcher::Event::Delete(meta))) => {
                    let gone = place_of(&meta);
                    self.look_again(&port, |user| user.place == gone).await;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of ConfigMaps broke; it begins anew");
                    port.broke::<ConfigMap>();
                }
            }
        }
    }

    async fn changed(&self, port: &Port, meta: &PartialObjectMeta<ConfigMap>) {
        let (place, version) = (place_of(meta), meta.resource_version());
        self.look_again(port, |user| user.place == place && (version.is_none() || user.found.version != version)).await;
    }

    /// Reads the code of some Functions anew, and tells those whose code is another one than before.
    async fn look_again(&self, port: &Port, which: impl Fn(&User) -> bool) {
        let some: Vec<(FunctionUid, Arc<Function>, Place)> = {
            let mut state = self.state.lock().await;
            state.changes += 1;
            let some = state.users.iter().filter(|(_, user)| which(user));
            some.map(|(uid, user)| (uid.clone(), user.function.clone(), user.place.clone())).collect()
        };
        for (uid, function, place) in some {
            let found = self.look(&function, &place).await;
            let mut state = self.state.lock().await;
            // Another state of it was told meanwhile, by a look of its own.
            let Some(user) = state.users.get_mut(&uid).filter(|user| Arc::ptr_eq(&user.function, &function)) else {
                continue;
            };
            let found = found.or_keep(Some(&user.found));
            let same = match (&user.found.code, &found.code) {
                (Ok(before), Ok(now)) => before.digest() == now.digest(),
                (Err(before), Err(now)) => before == now,
                _ => false,
            };
            user.found = found;
            if !same {
                port.send_as_is(Event::Function(attached(&user.function, &user.found))).await;
            }
        }
    }

    async fn look(&self, function: &Function, (namespace, name): &Place) -> Found {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let Some(source) = &function.spec.source else { return Found::lost("there is no source".into(), true) };
        let read = timeout(READ, within(name, api.get_opt(name))).await;
        match read.unwrap_or(Err(FleetError::TimedOut(READ))) {
            Ok(Some(map)) => {
                let version = map.resource_version();
                let code = files(source, map).and_then(|files| Code::new(files).map_err(|e| e.to_string()));
                let code = code.map(Arc::new).map_err(|why| format!("ConfigMap {name}: {why}"));
                Found { version, certain: true, code }
            }
            Ok(None) => Found::lost(format!("ConfigMap {name} does not exist in namespace {namespace}"), true),
            Err(FleetError::Refused(why)) => Found::lost(format!("ConfigMap {name} cannot be read: {why}"), false),
            Err(error) => Found::lost(format!("ConfigMap {name} cannot be read: {error}"), false),
        }
    }
}

impl User {
    fn is_of(&self, function: &Function, place: &Place) -> bool {
        self.place == *place && self.function.spec.source == function.spec.source
    }
}

impl Found {
    /// A read that failed says nothing of code that was there before.
    fn or_keep(self, known: Option<&Self>) -> Self {
        match known.filter(|known| !self.certain && known.code.is_ok()) {
            Some(known) => Self { certain: false, ..known.clone() },
            None => self,
        }
    }

    fn lost(why: String, certain: bool) -> Self {
        tracing::info!(manager = MANAGER, why, "a function's code is not there");
        Self { version: None, certain, code: Err(why) }
    }
}

fn place_of(meta: &PartialObjectMeta<ConfigMap>) -> Place {
    (meta.namespace().unwrap_or_default(), meta.name_any())
}

/// Where a Function's code is, when that is a ConfigMap.
fn place(function: &Function) -> Option<Place> {
    let named = function.spec.source.as_ref()?.config_map.as_ref()?;
    Some((function.namespace()?, named.name.clone()))
}

fn attached(function: &Arc<Function>, found: &Found) -> Arc<Function> {
    let mut function = Function::clone(function);
    if let Some(source) = &mut function.spec.source {
        (source.code, source.missing) = match &found.code {
            Ok(code) => (Some(code.clone()), None),
            Err(why) => (None, Some(why.clone())),
        };
    }
    Arc::new(function)
}

/// The files that a ConfigMap holds for a source: all its keys, or the one that is named, as the handler's module.
fn files(source: &Source, map: ConfigMap) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    let mut all: BTreeMap<String, Vec<u8>> = text.chain(bytes).collect();
    let Some(key) = source.config_map.as_ref().and_then(|named| named.key.as_ref()) else {
        return Ok(all.into_iter().map(|(key, content)| (path_of(&key), content)).collect());
    };
    let Some(content) = all.remove(key) else { return Err(format!("has no key {key}")) };
    let module = file_of(source.runtime, &source.handler);
    // A module's kind may stand in its extension (.mjs).
    let named = module.rsplit_once('.').zip(key.rsplit_once('.'));
    let path = named.map_or(module.clone(), |((module, _), (_, extension))| format!("{module}.{extension}"));
    Ok(BTreeMap::from([(path, content)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::function::SourceFile;
    use serde_json::json;

    fn source(key: Option<&str>) -> Source {
        let config_map = Some(SourceFile { name: "c".into(), key: key.map(str::to_owned) });
        Source { handler: "lib/main.run".into(), config_map, ..Source::default() }
    }

    fn names(key: Option<&str>, map: serde_json::Value) -> Result<Vec<String>, String> {
        files(&source(key), serde_json::from_value(map).unwrap()).map(|files| files.into_keys().collect())
    }

    #[test]
    fn keys_are_files() {
        let map = json!({"data": {"main.js": "x", "lib..a.js": "y"}, "binaryData": {"logo.png": "/w=="}});
        assert_eq!(names(None, map.clone()).unwrap(), ["lib/a.js", "logo.png", "main.js"]);
        assert_eq!(names(Some("main.js"), map.clone()).unwrap(), ["lib/main.js"]);
        assert_eq!(names(Some("nothing"), map).unwrap_err(), "has no key nothing");
        assert_eq!(names(Some("code.mjs"), json!({"data": {"code.mjs": "x"}})).unwrap(), ["lib/main.mjs"]);
        assert_eq!(names(Some("code"), json!({"data": {"code": "x"}})).unwrap(), ["lib/main.js"]);
    }
}
