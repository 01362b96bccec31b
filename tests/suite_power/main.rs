//! Disks that fail as disks do: the power goes, or there is no room. Spool and ledger are on file systems of their own.
//!
//! What is asserted is what the caller's journal, the ledger and the readiness checks say; never times. The seed is
//! printed; `DORMOUSE_TEST_SEED` runs the same moments again. Needs root.

#![expect(clippy::print_stdout, reason = "a suite tells its seed and what it counted")]

mod cut;
mod full;

use anyhow::Result;
use dormouse_tests::env::Env;
use dormouse_tests::pair::Programs;
use dormouse_tests::volume::Volume;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::path::Path;

/// MiB of a volume with a spool or a ledger that has room enough.
const ROOMY: u64 = 256;

/// A random generator whose seed is told.
fn seeded(what: &str) -> StdRng {
    let seed = std::env::var("DORMOUSE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("{what}: seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// Runs in a folder whose logs and journal are kept when it fails. What was on a volume is in its image.
async fn in_folder(run: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let result = run(folder.path()).await;
    if result.is_err() {
        println!("logs, journal and images of the volumes are kept in {}", folder.keep().display());
    }
    result
}

fn programs(env: &Env) -> Result<Programs> {
    Ok(Programs {
        house: env!("CARGO_BIN_EXE_house").into(),
        activator: env.program("dormouse-activator")?,
        dormouse: env.program("dormouse")?,
    })
}

/// A function whose calls wait for whatever comes back.
fn patient() -> Value {
    json!({"idleTimeoutSeconds": 60, "timeoutSeconds": 30, "queue": {"maxCalls": 10_000, "maxWaitSeconds": 60}})
}

/// The suite's own instrument: a cut takes what was not synced, and nothing else.
#[tokio::test]
async fn a_cut_takes_what_was_not_synced() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::make(folder.path(), "volume", 16).unwrap();
    let [kept, lost] = ["kept", "lost"].map(|name| volume.path().join(name));
    let file = std::fs::File::create(&kept).unwrap();
    std::io::Write::write_all(&mut &file, b"kept").unwrap();
    file.sync_all().unwrap();
    std::fs::File::open(volume.path()).unwrap().sync_all().unwrap();
    std::fs::write(&lost, "lost").unwrap();
    volume.cut(&[]).await.unwrap();
    assert!(std::io::Write::write_all(&mut &file, b"more").is_err(), "nothing is written without power");
    drop(file);
    volume.restore().await.unwrap();
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
    assert!(!lost.exists());
    volume.replace().await.unwrap();
    assert!(!kept.exists());
}
