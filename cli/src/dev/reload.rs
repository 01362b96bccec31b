//! Changes in the manifests' folder become changes of the functions, while everything runs.

use super::first;
use crate::exit::Failure;
use crate::manifest::{self, Finding, Reading, code};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// An editor writes a file in several steps: read once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);
/// Most folders that are watched for the files that commands name.
const MAX_FOLDERS: usize = 1000;

/// Tells when manifests, or files that their commands name, may have changed.
pub(crate) struct Watch {
    /// Ends when dropped.
    watcher: RecommendedWatcher,
    changed: mpsc::Receiver<()>,
    /// Files besides manifests that matter, and folders of code.
    code: Arc<Mutex<HashSet<PathBuf>>>,
    folders: HashSet<PathBuf>,
}

impl Watch {
    /// Watches a folder, or the folder of one manifest.
    pub(crate) fn begin(place: &Path) -> Result<Self, Failure> {
        let folder = first::home(place);
        let failed = |e: notify::Error| Failure::failed(format!("cannot watch {} for changes: {e}", folder.display()));
        // One mark is enough: it says "look again", not what changed.
        let (tell, changed) = mpsc::channel(1);
        let code = Arc::new(Mutex::new(HashSet::new()));
        let files = code.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = match event {
                Ok(event) => {
                    let named = |p: &PathBuf| {
                        let files = files.lock();
                        files.contains(p) || p.parent().is_some_and(|f| files.contains(f)) && code::is_code(p)
                    };
                    let matters = |p: &PathBuf| manifest::is_manifest(p) || named(p);
                    !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(matters)
                }
                // Events may be lost: look.
                Err(_) => true,
            };
            if relevant {
                let _ = tell.try_send(());
            }
        })
        .map_err(failed)?;
        // Events then name files as the manifests' code is named.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(failed)?;
        Ok(Self { watcher, changed, code, folders: HashSet::from([folder.clone()]) })
    }

    /// From now on these are the files that commands name.
    pub(crate) fn follow(&mut self, reading: &Reading) {
        let named: HashSet<PathBuf> = reading.manifests.iter().flat_map(|m| &m.code).map(|(p, _)| p.clone()).collect();
        let sources = reading.manifests.iter().filter(|m| m.function.spec.source.is_some());
        let code: HashSet<PathBuf> = sources.flat_map(|m| code::folders(&m.folder())).collect();
        let parents = named.iter().filter_map(|f| f.parent());
        for folder in parents.chain(code.iter().map(PathBuf::as_path)) {
            if self.folders.len() < MAX_FOLDERS && self.folders.insert(folder.into()) {
                // A folder that cannot be watched only means that a change in it is not seen.
                let _ = self.watcher.watch(folder, RecursiveMode::NonRecursive);
            }
        }
        *self.code.lock() = named.into_iter().chain(code).collect();
    }

    /// Waits for a change, and then until it is quiet.
    pub(crate) async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watcher is gone: nothing will be told any more.
            std::future::pending::<()>().await;
        }
        while let Ok(Some(())) = timeout(QUIET, self.changed.recv()).await {}
    }
}

/// What a reading differs in from the one before, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Changes {
    pub(crate) fn between(old: &Reading, new: &Reading) -> Self {
        let mut changes = Self::default();
        for manifest in &new.manifests {
            match old.manifests.iter().find(|m| m.key == manifest.key) {
                None => changes.added.push(manifest.key.to_string()),
                Some(before) if before.function != manifest.function || before.code != manifest.code => {
                    changes.changed.push(manifest.key.to_string());
                }
                Some(_) => {}
            }
        }
        let gone = old.manifests.iter().filter(|m| new.manifests.iter().all(|n| n.key != m.key));
        changes.removed = gone.map(|m| m.key.to_string()).collect();
        changes
    }

    /// `None` when nothing differs.
    pub(crate) fn line(&self) -> Option<String> {
        let parts = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let parts: Vec<String> =
            parts.iter().filter(|(_, k)| !k.is_empty()).map(|(w, k)| format!("{w} {}", k.join(", "))).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Every fault, one per line, with paths as the user named the folder.
pub(crate) fn faults(faults: &[Finding]) -> String {
    let lines: Vec<String> = faults.iter().map(|f| format!("  {f}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_manifest_is_watched_by_its_folder() {
        // As it is written in that folder, without a folder's name.
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let watch = Watch::begin(Path::new("Cargo.toml")).unwrap();
        assert_eq!(watch.folders, HashSet::from([here]));
    }
}
