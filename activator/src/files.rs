//! The limit of open files: each call takes two, one to its client and one to its instance.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the process's soft limit of open files to its hard one. Best effort: returns the limit that holds.
pub fn raise_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(e) => {
            tracing::warn!("the limit of open files stays at {soft}: {e}");
            soft
        }
    }
}
