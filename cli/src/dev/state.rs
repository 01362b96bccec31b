//! What `dev` keeps in its state directory, and how other commands find a running one.
//!
//! `ledger/` and `spool/` belong to controller and activator; `uids.json` gives each function the uid by which the
//! ledger knows it; `schedules.json` has what is known of due times; `mark` is what instances carry; `lock` is held while a `dev` runs; `dev.json` says where it listens,
//! and `token` holds the token of its usage API alone, for programs that are no command of ours.

use crate::exit::Failure;
use dormouse_core::FunctionKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The state directory's name in the manifests' folder.
pub(crate) const NAME: &str = ".dormouse";
const DEV: &str = "dev.json";
/// The token of a `dev`'s usage API, in the state directory.
const TOKEN: &str = "token";

/// Where a running `dev` listens. Holds its token: readable by its owner only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevFile {
    pub(crate) pid: u32,
    pub(crate) folder: PathBuf,
    pub(crate) activator_url: String,
    pub(crate) usage_url: String,
    pub(crate) token: String,
}

/// A state directory that is ours until dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// The lock goes with it, also when the process is killed.
    _lock: File,
    /// Files that say where we listen.
    told: Vec<PathBuf>,
}

impl StateDir {
    /// Makes and locks the directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| {
            Failure::failed(format!(
                "cannot use the state directory {}: {e}; choose another with --state-dir",
                path.display()
            ))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock = private().write(true).create(true).truncate(false).open(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&path)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // Left by one that was killed.
        let _ = fs::remove_file(path.join(DEV));
        let _ = fs::remove_file(path.join(TOKEN));
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(failed)?;
        }
        Ok(Self { path, _lock: lock, told: Vec::new() })
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// The file that holds the token of the usage API while a `dev` runs.
    pub(crate) fn token(&self) -> PathBuf {
        self.path.join(TOKEN)
    }

    /// What is known of the due times of schedules.
    pub(crate) fn schedules(&self) -> PathBuf {
        self.path.join("schedules.json")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// Where the language runtimes are.
    pub(crate) fn runtimes(&self) -> PathBuf {
        self.path.join("runtimes")
    }

    /// The mark that this directory's instances carry, made once.
    pub(crate) fn mark(&self) -> io::Result<String> {
        let file = self.path.join("mark");
        match fs::read_to_string(&file) {
            Ok(mark) if mark.len() == 32 && mark.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(mark),
            _ => {
                let mark = random_hex();
                write_private(&file, mark.as_bytes())?;
                Ok(mark)
            }
        }
    }

    /// The uids of functions, made when first asked for; those of functions that are gone are forgotten.
    pub(crate) fn uids(&self, keys: &[FunctionKey]) -> io::Result<BTreeMap<String, String>> {
        let file = self.path.join("uids.json");
        let old: BTreeMap<String, String> =
            fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        let uid = |key: &String| old.get(key).cloned().unwrap_or_else(random_uid);
        let new: BTreeMap<String, String> =
            keys.iter().map(ToString::to_string).map(|k| (k.clone(), uid(&k))).collect();
        if new != old {
            write_private(&file, &serde_json::to_vec_pretty(&new)?)?;
        }
        Ok(new)
    }

    /// Tells other commands where we listen.
    pub(crate) fn announce(&mut self, dev: &DevFile) -> io::Result<()> {
        for (file, text) in
            [(self.token(), dev.token.clone().into_bytes()), (self.path.join(DEV), serde_json::to_vec_pretty(dev)?)]
        {
            write_private(&file, &text)?;
            self.told.push(file);
        }
        if let Some(registry) = registry() {
            let entry = registry.join(format!("{}.path", dev.pid));
            // Without it we are found by our folder only.
            if write_private(&entry, self.path.as_os_str().as_encoded_bytes()).is_ok() {
                self.told.push(entry);
            }
        }
        Ok(())
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        for file in &self.told {
            let _ = fs::remove_file(file);
        }
        // Only the last one's registry is empty.
        if let Some(registry) = self.told.get(2).and_then(|entry| entry.parent()) {
            let _ = fs::remove_dir(registry);
        }
    }
}

fn in_use(path: &Path) -> Failure {
    let who = read(path).map_or_else(String::new, |dev| format!(" (process {})", dev.pid));
    Failure::failed(format!(
        "another `dormouse dev`{who} uses {}: stop it, or give this one its own with --state-dir",
        path.display()
    ))
}

/// What a state directory says of a `dev` that runs or ran.
pub(crate) fn read(path: &Path) -> Option<DevFile> {
    serde_json::from_slice(&fs::read(path.join(DEV)).ok()?).ok()
}

/// Whether a `dev` holds the directory now.
pub(crate) fn is_held(path: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).open(path.join("lock")) else { return false };
    // A shared lock that could be taken is given back at once, when the file is closed.
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// State directories of every `dev` of this user that runs now.
pub(crate) fn running() -> Vec<PathBuf> {
    let Some(entries) = registry().and_then(|r| fs::read_dir(r).ok()) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter_map(|entry| {
            let path = PathBuf::from(fs::read_to_string(entry.path()).ok()?);
            if is_held(&path) {
                return Some(path);
            }
            // Left by one that was killed.
            let _ = fs::remove_file(entry.path());
            None
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The user's own folder for what runs now: `$XDG_RUNTIME_DIR/dormouse`, or one in the temporary folder that nobody
/// else may write. `None` when there is no such place; then a `dev` is found by its folder only.
fn registry() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute() && p.is_dir());
    let user = nix::unistd::geteuid().as_raw();
    let path = runtime.map_or_else(|| std::env::temp_dir().join(format!("dormouse-{user}")), |r| r.join("dormouse"));
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(_) => return None,
    }
    let meta = fs::symlink_metadata(&path).ok()?;
    (meta.is_dir() && meta.uid() == user && meta.mode() & 0o022 == 0).then_some(path)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Written beside and moved over: a reader never sees half of it.
fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut out = private().write(true).create_new(true).open(&new)?;
    out.write_all(bytes)?;
    fs::rename(new, file)
}

/// 128 random bits.
pub(crate) fn random_hex() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A version 4 UUID, as the API server gives its objects.
fn random_uid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_devs_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let first = StateDir::open(&path).unwrap();
        assert!(is_held(&path));
        let second = StateDir::open(&path).unwrap_err();
        assert!(second.message().contains("another `dormouse dev`"), "{}", second.message());
        assert!(second.message().contains("--state-dir"));
        drop(first);
        assert!(!is_held(&path));
        StateDir::open(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join(".gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn uids_stay_while_the_function_does() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let keys = [FunctionKey::new("a", "x"), FunctionKey::new("a", "y")];
        let first = state.uids(&keys).unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(state.uids(&keys).unwrap(), first);
        assert_eq!(state.uids(&keys[..1]).unwrap()["a/x"], first["a/x"]);
        assert_ne!(state.uids(&keys).unwrap()["a/y"], first["a/y"]);
        let uid = &first["a/x"];
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
        assert_eq!(state.mark().unwrap(), state.mark().unwrap());
    }

    #[test]
    fn the_announcement_is_private_and_goes_with_the_dev() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = StateDir::open(folder.path()).unwrap();
        let dev = DevFile {
            pid: std::process::id(),
            folder: folder.path().into(),
            activator_url: "http://127.0.0.1:1".into(),
            usage_url: "http://127.0.0.1:2".into(),
            token: "t".into(),
        };
        state.announce(&dev).unwrap();
        assert_eq!(fs::metadata(folder.path().join(DEV)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(state.token()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(state.token()).unwrap(), "t");
        assert_eq!(read(folder.path()), Some(dev));
        assert!(running().contains(&folder.path().canonicalize().unwrap()));
        drop(state);
        assert_eq!(read(folder.path()), None);
        assert!(!folder.path().join(TOKEN).exists());
        assert!(!running().contains(&folder.path().canonicalize().unwrap()));
    }
}
