//! What the status of functions says of their schedules, in a file: a restart forgets no claim. In a cluster the API server
//! keeps it.

use crate::fleet::{FleetError, FunctionUid};
use dormouse_core::function::ScheduleStatus;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// By uid.
type All = BTreeMap<String, Vec<ScheduleStatus>>;

/// The file and what it says; without a place nothing is kept.
#[derive(Clone, Default)]
pub(super) struct Kept {
    place: Option<PathBuf>,
    all: Arc<Mutex<All>>,
}

impl Kept {
    /// Reads the file. One that cannot be read is said so, and begun anew: due times are then those after now.
    pub(super) fn open(place: Option<PathBuf>) -> Self {
        let read = |place: &PathBuf| match fs::read(place) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(All::new()),
            Err(e) => Err(e.to_string()),
        };
        let all = place.as_ref().map(|place| (place, read(place)));
        let all = match all {
            Some((place, Err(why))) => {
                tracing::warn!("{} cannot be read ({why}): what was due before is forgotten", place.display());
                All::new()
            }
            Some((_, Ok(all))) => all,
            None => All::new(),
        };
        Self { place, all: Arc::new(Mutex::new(all)) }
    }

    /// What is known of a function's schedules; asked before anything is kept anew.
    pub(super) fn of(&self, uid: &FunctionUid) -> Vec<ScheduleStatus> {
        self.all.try_lock().ok().and_then(|all| all.get(uid.as_str()).cloned()).unwrap_or_default()
    }

    /// Keeps it; answers when it is on the disk.
    pub(super) async fn keep(&self, uid: &FunctionUid, schedules: &[ScheduleStatus]) -> Result<(), FleetError> {
        let Some(place) = self.place.clone() else { return Ok(()) };
        let mut all = self.all.lock().await;
        if all.get(uid.as_str()).map_or(&[][..], Vec::as_slice) == schedules {
            return Ok(());
        }
        let mut now = all.clone();
        match schedules {
            [] => drop(now.remove(uid.as_str())),
            some => drop(now.insert(uid.to_string(), some.to_vec())),
        }
        let bytes = serde_json::to_vec_pretty(&now).map_err(|e| FleetError::Failed(e.to_string()))?;
        let written = tokio::task::spawn_blocking({
            let place = place.clone();
            move || write(&place, &bytes)
        });
        let failed = |e: io::Error| FleetError::Failed(format!("cannot write {}: {e}", place.display()));
        written.await.map_err(io::Error::other).flatten().map_err(failed)?;
        // Only what is written is known.
        *all = now;
        Ok(())
    }
}

/// Written beside and moved over: a reader never sees half of it.
fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = place.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> ScheduleStatus {
        let (name, rule) = (name.into(), "* * * * * UTC".into());
        ScheduleStatus { name, rule, next_due: None, last: None, open: Vec::new() }
    }

    #[tokio::test]
    async fn what_is_kept_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("schedules.json");
        let open = || Kept::open(Some(place.clone()));
        let (a, b) = (FunctionUid::from("a"), FunctionUid::from("b"));
        let kept = open();
        kept.keep(&a, &[status("x")]).await.unwrap();
        kept.keep(&b, &[status("y"), status("z")]).await.unwrap();
        assert_eq!((open().of(&a), open().of(&b)), (vec![status("x")], vec![status("y"), status("z")]));
        kept.keep(&a, &[]).await.unwrap();
        assert_eq!(open().of(&a), []);
        fs::write(&place, "nonsense").unwrap();
        assert_eq!(open().of(&b), []);
        let nowhere = Kept::open(Some(folder.path().join("no/such/folder")));
        let error = nowhere.keep(&a, &[status("x")]).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
    }
}
