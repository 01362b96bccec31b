//! Space on the disk that is kept for when there is no other: records of calls that run then find their place in it, and
//! the spool can be opened, so that what is in it leaves for the ledger. Meanwhile no further call is taken.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const FILE: &str = "reserve";
/// Some 23,000 usual records of 45 bytes: more than there are calls at once, whose connections alone are 20,000 at most.
const BYTES: u64 = 1 << 20;
/// No more than this part of what the spool may take.
const PART: u64 = 64;

/// A file that is as large as what is kept.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// That of a spool with so many bytes at most; nothing is kept yet.
    pub(super) fn of(folder: &Path, max_bytes: u64) -> Self {
        Self { path: folder.join(FILE), bytes: (max_bytes / PART).min(BYTES) }
    }

    /// Keeps it from now on, if it is not kept already.
    pub(super) fn keep(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|kept| kept.len() == self.bytes) {
            return Ok(());
        }
        let draft = self.draft();
        // What running calls were promised is not taken from them again: there must be as much beside it.
        let disk = rustix::fs::statvfs(self.path.parent().unwrap_or(Path::new(".")))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < 2 * self.bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Not zeros: a file system may keep no room for those.
        let bytes = vec![0x5a; usize::try_from(self.bytes).unwrap_or_default()];
        let mut file = File::create(&draft)?;
        let kept = file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&draft, &self.path));
        if kept.is_err() {
            // Half of it is of no use, and takes room from others.
            let _ = fs::remove_file(&draft);
        }
        kept
    }

    fn draft(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// Gives it up; false when there is none.
    pub(super) fn give_up(&self) -> bool {
        let _ = fs::remove_file(self.draft());
        let given = fs::remove_file(&self.path).is_ok();
        if given {
            tracing::warn!(path = %self.path.display(), "the spool's disk is full: its reserve is given up, make space");
        }
        given
    }
}

/// Whether there is no room on the disk, or none for us.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_once_and_given_up_once() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(folder.path(), 256 << 20);
        assert!(!reserve.give_up());
        reserve.keep().unwrap();
        reserve.keep().unwrap();
        assert_eq!(fs::metadata(folder.path().join(FILE)).unwrap().len(), BYTES);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(reserve.give_up() && !reserve.give_up());
        // One that a smaller spool left behind, or that was not written whole.
        fs::write(folder.path().join(FILE), "some").unwrap();
        reserve.keep().unwrap();
        assert_eq!(fs::metadata(folder.path().join(FILE)).unwrap().len(), BYTES);
    }
}
