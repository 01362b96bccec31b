//! In a folder.

use crate::conformance::conformance;
use dormouse_controller::ledger::Place;

struct Home(tempfile::TempDir);

impl Home {
    fn place(&self) -> Place {
        Place::folder(self.0.path())
    }
}

async fn home() -> Home {
    Home(tempfile::tempdir().unwrap())
}

conformance!(home());
