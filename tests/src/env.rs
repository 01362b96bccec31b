//! What `./test` hands to a suite.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// Where things are, from the environment.
#[derive(Clone, Debug)]
pub struct Env {
    /// Folder of the release programs `dormouse`, `dormouse-controller`, `dormouse-activator`.
    pub bin_dir: PathBuf,
    /// The long form of each suite.
    pub long: bool,
}

impl Env {
    /// Reads it.
    ///
    /// # Errors
    /// When `DORMOUSE_BIN_DIR` is not set.
    pub fn read() -> Result<Self> {
        Ok(Self { bin_dir: bin_dir()?, long: long() })
    }

    /// Path of one of our programs.
    ///
    /// # Errors
    /// When it is not there.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.bin_dir.join(name);
        anyhow::ensure!(path.is_file(), "{} is missing: ./test builds it", path.display());
        Ok(path)
    }
}

fn bin_dir() -> Result<PathBuf> {
    let dir = std::env::var_os("DORMOUSE_BIN_DIR");
    Ok(dir.context("DORMOUSE_BIN_DIR is not set: run ./test, or set it to the folder of the release programs")?.into())
}

/// Whether the long form is asked for.
#[must_use]
pub fn long() -> bool {
    std::env::var("DORMOUSE_LONG").is_ok_and(|v| !v.is_empty() && v != "0")
}
