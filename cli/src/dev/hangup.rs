//! A terminal that is closed ends `dev` as Ctrl-C does, unless it was started with `nohup`.

use nix::sys::signal::Signal;
use std::fs;
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token when the terminal is closed. Whoever ignored that on our behalf (`nohup`) keeps his way: a handler
/// would take the place of it.
pub(crate) fn cancels(stop: CancellationToken) -> io::Result<()> {
    if fs::read_to_string("/proc/self/status").is_ok_and(|status| ignored(&status)) {
        return Ok(());
    }
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        hangup.recv().await;
        stop.cancel();
    });
    Ok(())
}

/// Whether a process ignores SIGHUP: `SigIgn` of its status is a hexadecimal mask, with bit N - 1 for signal N.
fn ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (Signal::SIGHUP as i32 - 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ignored_hangup_counts() {
        let status = |mask: &str| format!("Name:\tdormouse\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t01\n");
        assert!(ignored(&status("0000000000000001")));
        assert!(ignored(&status("0000000000001001")));
        assert!(!ignored(&status("0000000000001000")));
        assert!(!ignored("Name:\tdormouse\n"));
        assert!(!ignored(&status("?")));
    }
}
