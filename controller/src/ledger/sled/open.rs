//! Opening sled's folder, and everything that may stand in the way, said with the file and what to do.

use super::super::ReadError;
use super::super::retention::Bounds;
use super::key;
use parking_lot::Mutex;
use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The layout this program writes.
const FORMAT: u32 = 3;
/// Sub-folder that is sled's own.
const SLED: &str = "sled";
/// Says the format before sled touches anything.
const FORMAT_FILE: &str = "FORMAT";
/// Space that is given back when the disk is full, because sled cannot even open on a full disk.
const BALLAST_FILE: &str = "ballast";
/// Eight of sled's segments of 512 KiB.
const BALLAST: usize = 4 * 1024 * 1024;
/// Pages that sled keeps in memory.
const CACHE: u64 = 16 * 1024 * 1024;
/// File systems on which sled's way of writing was never proven.
const REFUSED: [&str; 7] = ["btrfs", "nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"];

/// What to do on a file system that the ledger is not proven on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// Refuse it.
    Checked,
    /// Warn and go on: for a ledger that may be lost.
    Any,
}

/// A ledger that cannot be opened. The messages are for people: which file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it open.
    #[error("{} is locked by {holder}: stop that one, or use another folder", file.display())]
    Locked {
        /// sled's file.
        file: PathBuf,
        /// The other process.
        holder: String,
    },
    /// An import into it did not come to its end.
    #[error("the ledger in {} is not whole: an import into it ended early; remove the folder and import again", dir.display())]
    Half {
        /// The ledger's folder.
        dir: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "the ledger in {} has format {found}, and this program knows formats up to {FORMAT}: use a newer one, or another \
         folder; nothing was changed",
        dir.display()
    )]
    Newer {
        /// The ledger's folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A program from before the first release wrote it.
    #[error(
        "the ledger in {} has format {found}, and this program reads format {FORMAT} only: keep the folder for its own \
         version, and name another one; nothing was changed",
        dir.display()
    )]
    Older {
        /// The ledger's folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There is something else.
    #[error("{} is not a ledger ({what}): name another folder; nothing was changed", path.display())]
    NotALedger {
        /// What was found.
        path: PathBuf,
        /// Why it is not one.
        what: String,
    },
    /// The file system is not one to keep a ledger on.
    #[error("{} is on {kind}, where records could be lost in a crash: use a folder on a local ext4 or xfs", dir.display())]
    Filesystem {
        /// The ledger's folder.
        dir: PathBuf,
        /// The file system's type.
        kind: String,
    },
    /// Files could not be made, read or written.
    #[error("the ledger's folder {} cannot be used: {source}: check that it exists, is writable and has space", dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sled found its files damaged.
    #[error(
        "the ledger in {} is damaged: {what}: keep a copy of the folder, then restore it from a backup or name an empty \
         one (activators send again what they still hold)",
        dir.display()
    )]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What sled says.
        what: String,
    },
    /// What was stored cannot be read.
    #[error(
        "the ledger in {} cannot be read: {source}: keep a copy of the folder, then restore it from a backup or name an \
         empty one",
        dir.display()
    )]
    Read {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: ReadError,
    },
}

/// The open folder.
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) db: sled::Db,
    /// Second handle of sled's file: sled's flush starts the write-back, this one waits for it.
    file: File,
    /// What is kept no longer, as the store says.
    pub(super) gone: Mutex<Bounds>,
}

impl Folder {
    pub(super) fn open(dir: &Path, filesystem: Filesystem) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io { dir: dir.to_owned(), source };
        let fresh = !dir.join(SLED).exists();
        check_format_file(dir)?;
        fs::create_dir_all(dir).map_err(io)?;
        check_filesystem(dir, filesystem)?;
        let (db, room_made) = open_or_make_room(dir)?;
        let file = File::open(dir.join(SLED).join("db")).map_err(io)?;
        write_through(dir, &file);
        let store = Self { dir: dir.to_owned(), db, file, gone: Mutex::default() };
        store.check_format_key()?;
        if store.db.contains_key(key::HALF).map_err(|e| damaged(dir, e))? {
            return Err(FolderError::Half { dir: dir.to_owned() });
        }
        // Also what recovery read from the page cache of a process that died before its fdatasync: a frame that is sent
        // again is acknowledged as a duplicate without another one.
        store.commit().map_err(|e| damaged(dir, e))?;
        write_once(dir, FORMAT_FILE, format!("dormouse-ledger {FORMAT}\n").as_bytes()).map_err(io)?;
        // A full disk keeps the space until the next start.
        if !room_made && write_once(dir, BALLAST_FILE, &vec![0x5a; BALLAST]).is_err() {
            tracing::warn!(dir = %dir.display(), "no space for the ledger's ballast file");
        }
        if fresh {
            sync_folders(dir).map_err(io)?;
        }
        Ok(store)
    }

    /// Makes everything applied so far durable.
    pub(super) fn commit(&self) -> Result<(), sled::Error> {
        self.db.flush()?;
        self.file.sync_data()?;
        Ok(())
    }

    /// Why the folder cannot be relied on, if so.
    pub(super) fn problem(&self) -> Option<String> {
        let blobs = self.dir.join(SLED).join("blobs");
        match fs::read_dir(&blobs).map(|mut entries| entries.next().is_some()) {
            Ok(false) => None,
            Ok(true) => Some(format!("{} is not empty: values outside sled's log are never synced", blobs.display())),
            Err(e) => Some(format!("{} cannot be read: {e}", blobs.display())),
        }
    }

    pub(super) fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or_default()
    }

    /// The number at the end of the highest key with a prefix.
    pub(super) fn last_number(&self, prefix: &[u8]) -> Result<Option<u32>, ReadError> {
        let last = self.db.scan_prefix(prefix).next_back().transpose()?;
        Ok(last.and_then(|(key, _)| key::trailing_number(&key)))
    }

    fn check_format_key(&self) -> Result<(), FolderError> {
        let not_one = |what: &str| FolderError::NotALedger { path: self.dir.clone(), what: what.to_owned() };
        match self.db.get(key::FORMAT).map_err(|e| damaged(&self.dir, e))? {
            Some(value) => match <[u8; 4]>::try_from(&*value).map(u32::from_be_bytes) {
                Ok(found) => check_format(&self.dir, found),
                Err(_) => Err(not_one("its format is no number")),
            },
            None if self.db.is_empty() => {
                self.db.insert(key::FORMAT, &FORMAT.to_be_bytes()).map_err(|e| damaged(&self.dir, e)).map(drop)
            }
            None => Err(not_one("a sled database of something else")),
        }
    }
}

fn check_format(dir: &Path, found: u32) -> Result<(), FolderError> {
    let dir = || dir.to_owned();
    match found.cmp(&FORMAT) {
        Ordering::Greater => Err(FolderError::Newer { dir: dir(), found }),
        Ordering::Less => Err(FolderError::Older { dir: dir(), found }),
        Ordering::Equal => Ok(()),
    }
}

fn check_format_file(dir: &Path) -> Result<(), FolderError> {
    let path = dir.join(FORMAT_FILE);
    let not_one = |what: &str| FolderError::NotALedger { path: path.clone(), what: what.to_owned() };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return check_stray(dir),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(not_one("it is below a file")),
        Err(source) => return Err(FolderError::Io { dir: dir.to_owned(), source }),
    };
    let number = text.trim().strip_prefix("dormouse-ledger ").and_then(|n| n.parse::<u32>().ok());
    match number {
        Some(found) => check_format(dir, found),
        None => Err(not_one("it does not say a format")),
    }
}

/// A folder that is a plain sled database of someone else must not become a ledger.
fn check_stray(dir: &Path) -> Result<(), FolderError> {
    if dir.join("db").exists() && dir.join("conf").exists() {
        let what = "a sled database of something else".to_owned();
        return Err(FolderError::NotALedger { path: dir.to_owned(), what });
    }
    Ok(())
}

/// Who closed the ledger a moment ago lets go of its file within this: its threads end one after another.
const LET_GO: Duration = Duration::from_millis(1000);

/// Opens sled, waiting for who is just letting go of it.
fn open_soon(dir: &Path) -> Result<sled::Db, FolderError> {
    let began = Instant::now();
    loop {
        match open_sled(dir) {
            Err(FolderError::Locked { .. }) if began.elapsed() < LET_GO => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Opens sled; on a full disk once more after giving the ballast back, and once more without the snapshot that a full disk
/// left half written: sled takes it for one of its snapshots, which are there to open sooner, and says that all is damaged.
fn open_or_make_room(dir: &Path) -> Result<(sled::Db, bool), FolderError> {
    match open_soon(dir) {
        Err(FolderError::Damaged { .. }) if has_removed_drafts(&dir.join(SLED)) => {
            tracing::warn!(dir = %dir.display(), "a snapshot of the ledger that was half written is removed: nothing is lost by it");
            open_sled(dir).map(|db| (db, false))
        }
        Err(FolderError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                && fs::remove_file(dir.join(BALLAST_FILE)).is_ok() =>
        {
            tracing::warn!(dir = %dir.display(), "the ledger's disk is full: its ballast file was given up, make space");
            open_sled(dir).map(|db| (db, true))
        }
        result => result.map(|db| (db, false)),
    }
}

/// Removes what sled had not finished to write beside its file; false when there is nothing.
fn has_removed_drafts(sled: &Path) -> bool {
    let is_draft = |name: &str| name.starts_with("snap.") && name.ends_with(".generating");
    let files = fs::read_dir(sled).into_iter().flatten().flatten();
    let drafts = files.filter(|file| file.file_name().to_str().is_some_and(is_draft));
    drafts.filter(|file| fs::remove_file(file.path()).is_ok()).count() > 0
}

fn open_sled(dir: &Path) -> Result<sled::Db, FolderError> {
    let path = dir.join(SLED);
    let config = sled::Config::new().path(&path).cache_capacity(CACHE);
    // sled's recovery panics on some damaged files instead of returning an error.
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
            let file = path.join("db");
            let holder = lock_holder(&file).unwrap_or_else(|| "another process".to_owned());
            Err(FolderError::Locked { file, holder })
        }
        Ok(Err(e)) => Err(damaged(dir, e)),
        Err(panic) => Err(FolderError::Damaged { dir: dir.to_owned(), what: panic_text(&*panic) }),
    }
}

/// The words of a panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "sled panicked".to_owned())
}

fn damaged(dir: &Path, error: sled::Error) -> FolderError {
    match error {
        sled::Error::Io(source) => FolderError::Io { dir: dir.to_owned(), source },
        other => FolderError::Damaged { dir: dir.to_owned(), what: other.to_string() },
    }
}

/// Who holds the lock of a file, from /proc/locks: lines such as `1: FLOCK ADVISORY WRITE 4242 fe:00:131 0 EOF`.
fn lock_holder(file: &Path) -> Option<String> {
    let inode = format!(":{}", fs::metadata(file).ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| *w != "WRITE");
        let (pid, at) = (words.nth(1)?, words.next()?);
        at.ends_with(&inode).then(|| pid.to_owned())
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

fn check_filesystem(dir: &Path, filesystem: Filesystem) -> Result<(), FolderError> {
    let Some(kind) = filesystem_of(dir).filter(|kind| REFUSED.contains(&kind.as_str())) else { return Ok(()) };
    if filesystem == Filesystem::Checked {
        return Err(FolderError::Filesystem { dir: dir.to_owned(), kind });
    }
    tracing::warn!(dir = %dir.display(), kind, "the ledger is not proven on this file system");
    Ok(())
}

/// Type of the file system a folder is on, from the mount with the longest matching path. `None` when /proc tells
/// nothing.
fn filesystem_of(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let at = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = PathBuf::from(left.split(' ').nth(4)?.replace("\\040", " "));
        dir.starts_with(&point).then(|| (point.components().count(), right.split(' ').next().unwrap_or_default()))
    });
    // The last of equals: a later mount hides an earlier one on the same path.
    at.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind.to_owned())
}

/// Writes a file that is not there yet, whole or not at all, and syncs it.
fn write_once(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    if dir.join(name).exists() { Ok(()) } else { write(dir, name, content) }
}

/// Writes a file whole or not at all.
fn write(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a file is of no use and holds space.
        let _ = fs::remove_file(&draft);
    }
    written.and_then(|()| fs::rename(&draft, dir.join(name)))
}

/// Has every write to sled's file synced by the kernel (the inode's `S` attribute, kept with the file). sled frees and
/// overwrites a segment once it takes what replaces it for stable, that is written back: where the file grew since the
/// last sync that is not durable yet. With this, sled's order is the disk's order.
fn write_through(dir: &Path, file: &File) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let set = ioctl_getflags(file).and_then(|flags| ioctl_setflags(file, flags | IFlags::SYNC));
    if let Err(error) = set {
        let dir = dir.display();
        tracing::warn!(%dir, %error, "the file system cannot write through: a power cut under load may damage the ledger");
    }
}

/// A new file is only there after a crash if its folder was synced, and so up to what existed before.
fn sync_folders(dir: &Path) -> io::Result<()> {
    File::open(dir.join(SLED).join("conf"))?.sync_all()?;
    let parent = dir.canonicalize()?.parent().map(Path::to_owned);
    let own = [dir.join(SLED).join("blobs"), dir.join(SLED), dir.to_owned()];
    for folder in own.into_iter().chain(parent) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
