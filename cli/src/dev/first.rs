//! What is read and opened before anything is started: with a fault in it, nothing is.

use super::reload;
use super::state::StateDir;
use crate::exit::Failure;
use crate::manifest::{self, Reading};
use crate::say;
use dormouse_controller::ledger::{Filesystem, LedgerDoor, Place, Plans};
use dormouse_core::price::PricePlan;
use std::path::{Path, PathBuf};

/// The manifests as they are at the start: without a function, or with a fault, there is nothing to start.
pub(crate) fn reading(folder: &Path) -> Result<Reading, Failure> {
    let reading =
        manifest::read(folder).map_err(|e| Failure::not_found(format!("cannot read {}: {e}", folder.display())))?;
    reading.notes.iter().for_each(|n| say::note(format_args!("note: {n}")));
    if !reading.faults.is_empty() {
        say::note(reload::faults(&reading.faults));
        return Err(Failure::failed(format!(
            "{} in {}: nothing was started",
            counted(reading.faults.len(), "fault"),
            folder.display()
        )));
    }
    if reading.manifests.is_empty() {
        return Err(Failure::not_found(format!(
            "no Function manifest (*.yaml, *.yml, *.json; folders in it are not read) in {}: try `dormouse dev examples/hello`",
            folder.display()
        )));
    }
    Ok(reading)
}

pub(crate) fn price_plan(file: Option<&Path>) -> Result<PricePlan, Failure> {
    let Some(file) = file else { return Ok(PricePlan::default()) };
    let text =
        std::fs::read_to_string(file).map_err(|e| Failure::failed(format!("cannot read {}: {e}", file.display())))?;
    let value = serde_saphyr::from_str(&text).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
    PricePlan::from_value(&value).map_err(|faults| {
        let faults: Vec<String> =
            faults.0.iter().map(|f| format!("{}: {}: {}", file.display(), f.field, f.problem)).collect();
        Failure::failed(format!("the price plan has faults:\n  {}", faults.join("\n  ")))
    })
}

pub(crate) async fn ledger(state: &StateDir, plan: &PricePlan) -> Result<LedgerDoor, Failure> {
    // A developer's ledger may be lost: any file system will do.
    let plans = Plans::new(plan.clone(), PricePlan::shipped());
    let door = LedgerDoor::new(Place::Folder { dir: state.ledger(), filesystem: Filesystem::Any }, plans);
    door.open().await.map_err(|e| {
        Failure::failed(format!(
            "{e}\nhint: to begin with an empty ledger beside it, name another folder with --state-dir"
        ))
    })?;
    Ok(door)
}

/// The folder itself, or that of the one manifest.
pub(crate) fn home(folder: &Path) -> PathBuf {
    if folder.is_dir() { folder.to_path_buf() } else { manifest::folder_of(folder) }
}

/// A number and what it counts, which stands for one of them.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
