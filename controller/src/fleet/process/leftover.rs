//! No process of ours outlives us, not even a `kill -9`.
//!
//! Every instance carries a random mark of its `dev` in its environment; whatever it starts inherits it. Who finds the
//! mark in `/proc/PID/environ` has found a process of that `dev`, whatever its parent, group or session is now. Two
//! look for it: a keeper (a process of ours that sleeps until our end of its input closes, which the kernel does
//! however we end), and the next start in the same state directory.
//!
//! Without `/proc` (not Linux) nothing is found: instances then outlive a `kill -9`, and only that.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// The variable that carries the mark.
pub const MARK: &str = "DORMOUSE_DEV";

/// Looks until none is left, but not longer than 100 x 20 ms = 2 s: a killed process is gone at once or hangs in the
/// kernel, where nobody can help.
const ROUNDS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Processes that carry the mark, without this one.
///
/// # Errors
/// When there is no `/proc`.
pub fn find(mark: &str) -> io::Result<Vec<i32>> {
    let wanted = format!("{MARK}={mark}");
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()).filter(|pid| *pid != me) else { continue };
        // Other users' processes cannot be read: they are none of ours. A zombie's environment is empty.
        let Ok(environ) = std::fs::read(Path::new("/proc").join(&name).join("environ")) else { continue };
        if environ.split(|b| *b == 0).any(|var| var == wanted.as_bytes()) {
            found.extend(i32::try_from(pid).ok());
        }
    }
    Ok(found)
}

/// Kills every process that carries the mark and tells how many there were.
pub fn kill_all(mark: &str) -> usize {
    let mut killed = std::collections::HashSet::new();
    for _ in 0..ROUNDS {
        let Ok(found) = find(mark) else { break };
        if found.is_empty() {
            break;
        }
        for pid in found {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
        std::thread::sleep(PAUSE);
    }
    killed.len()
}

/// The keeper's life: sleeps until its standard input closes, then kills what is left.
pub fn keep(mark: &str) {
    let mut byte = [0; 1];
    let mut input = io::stdin().lock();
    loop {
        match input.read(&mut byte) {
            Ok(0) => break,
            Err(e) if e.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    kill_all(mark);
}
