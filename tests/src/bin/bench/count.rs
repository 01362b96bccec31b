//! What the kernel counts of a process while calls run through it: by `perf stat`, in runs of their own, since counting
//! costs time.

use anyhow::Result;
use dormouse_tests::proc::{Process, Program, signal};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Events, as perf names them; a machine without one of them (virtual ones have no hardware counters) goes without.
const EVENTS: [&str; 3] = ["raw_syscalls:sys_enter", "instructions", "cycles"];

/// Time that perf has to attach.
const ATTACH: Duration = Duration::from_millis(400);

/// Counts, in the order of [`EVENTS`]; `None` where this machine cannot count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) syscalls: Option<u64>,
    pub(crate) instructions: Option<u64>,
    pub(crate) cycles: Option<u64>,
}

/// A running count.
pub(crate) struct Counter {
    perf: Option<Process>,
    output: PathBuf,
}

impl Counter {
    /// Begins to count; counts nothing where perf is missing or may not.
    pub(crate) async fn begin(folder: &Path, pids: &[u32]) -> Result<Self> {
        let output = folder.join("perf.csv");
        let _ = std::fs::remove_file(&output);
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let file = output.display().to_string();
        let args = ["stat", "-x,", "-o", &file, "-e", &EVENTS.join(","), "-p", &list];
        let perf = Program::new("perf", folder.join("perf.log")).args(args).start();
        tokio::time::sleep(ATTACH).await;
        let perf = perf.ok().and_then(|mut perf| perf.check().is_ok().then_some(perf));
        Ok(Self { perf, output })
    }

    /// What was counted.
    pub(crate) fn end(self) -> Result<Counts> {
        let Some(perf) = self.perf else { return Ok(Counts::default()) };
        signal(perf.pid(), Signal::SIGINT)?;
        perf.wait(Duration::from_secs(10))?;
        Ok(read(&std::fs::read_to_string(&self.output).unwrap_or_default()))
    }
}

/// Lines of `perf stat -x,`: count, unit, event.
fn read(text: &str) -> Counts {
    let count = |event: &str| {
        let mut fields = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let found = fields.find(|f| f.get(2).is_some_and(|e| *e == event));
        found.and_then(|f| f.first()?.parse().ok())
    };
    let [syscalls, instructions, cycles] = EVENTS.map(count);
    Counts { syscalls, instructions, cycles }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_missing_ones_are_none() {
        let text =
            "# started\n\n109,,raw_syscalls:sys_enter,925766,100.00,,\n<not supported>,,instructions,0,100.00,,\n";
        let counts = read(text);
        assert_eq!((counts.syscalls, counts.instructions, counts.cycles), (Some(109), None, None));
    }
}
