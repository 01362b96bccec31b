//! Several activators in front of the same instances, as processes of their own: they join, leave, are killed and
//! paused, and the controller goes away under them.
//!
//! What is asserted is what callers, instances and the ledger say: calls answered, calls at once, records; never times.
//! The seed is printed; `DORMOUSE_TEST_SEED` runs the same moments again.

#![expect(clippy::print_stdout, reason = "a suite tells its seed and what it counted")]

mod away;
mod budget;
mod crew;
mod loss;
mod overlap;
mod restart;

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::Path;
use std::time::Duration;

/// Longest wait for something that is bound to come.
const LIMIT: Duration = Duration::from_secs(60);

/// A random generator whose seed is told.
fn seeded(what: &str) -> StdRng {
    let seed = std::env::var("DORMOUSE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("{what}: seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// Runs in a folder that is kept when it fails.
async fn in_folder(run: impl AsyncFnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let result = run(folder.path()).await;
    if result.is_err() {
        println!("logs, spools, calls and ledger are kept in {}", folder.keep().display());
    }
    result
}
