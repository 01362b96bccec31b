//! Child processes: logs to a file, killed hard or asked to end, never left behind.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};

/// How to start a program, again and again.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    log: PathBuf,
}

impl Program {
    /// A program whose output (both streams) is appended to `log`.
    pub fn new(path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), envs: Vec::new(), log: log.into() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Starts it pinned to the given cores (`taskset`'s list form), so that it sees no others: a runtime that makes a
    /// thread per core makes as many as these.
    #[must_use]
    pub fn on_cores(mut self, cores: &str) -> Self {
        let path = std::mem::replace(&mut self.path, "taskset".into());
        self.args.splice(0..0, ["-c".into(), cores.into(), path.display().to_string()]);
        self
    }

    /// Starts it at the lowest priority: it gets what others leave.
    #[must_use]
    pub fn yielding(mut self) -> Self {
        let path = std::mem::replace(&mut self.path, "nice".into());
        self.args.splice(0..0, ["-n".into(), "19".into(), path.display().to_string()]);
        self
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.path)
            .args(&self.args)
            .envs(self.envs.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))?;
        Ok(Process { child, name: self.name(), log: self.log.clone() })
    }

    fn name(&self) -> String {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or("program").into()
    }
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// When it has not ended within `limit` (then it is killed).
    pub fn end(self, limit: Duration) -> Result<ExitStatus> {
        signal(self.pid(), Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it has not within `limit` (then it is killed).
    pub fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("{} did not end within {} s; its log ends:\n{}", self.name, limit.as_secs(), self.tail())
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// Its status and the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended with {status}; its log ends:\n{}", self.name, self.tail()),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log, 20)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process of ours.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), signal).with_context(|| format!("{signal} to {pid}"))
}

/// The last `lines` lines of a file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Does what waits where it stands. The other tasks of this thread go on meanwhile, where there are several threads: the
/// one that was woken last is stolen by none of them, and would wait as long (a client's own, for example, that others use).
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// When it cannot be run or fails: both its streams.
pub fn run(command: &mut Command) -> Result<String> {
    let output = blocking(|| command.stdin(Stdio::null()).output());
    let output = output.with_context(|| format!("running {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    anyhow::ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// CPU seconds that a process and its children have used so far (children count once they are waited for or, with
/// `tree`, while they run).
///
/// # Errors
/// When /proc does not tell.
pub fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    // USER_HZ is 100 on every Linux that Rust's std runs on: the kernel's ABI.
    const TICKS: f64 = 100.0;
    let mut ticks = 0_u32;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses and may hold anything; utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        for field in fields.get(11..13).context("short /proc stat")? {
            ticks += field.parse::<u32>()?;
        }
    }
    Ok(f64::from(ticks) / TICKS)
}

/// How often the threads of processes were taken off a core so far, by their own will (they waited) or not; a thread
/// that has ended is not counted any more.
///
/// # Errors
/// When /proc does not tell.
pub fn switches(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the reading.
            let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            let counts = status.lines().filter_map(|l| l.split_once("ctxt_switches:"));
            sum += counts.filter_map(|(_, n)| n.trim().parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(sum)
}

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What it holds of the machine's memory now, the pages of its program included.
    pub resident: u64,
    /// The most that it ever held.
    pub peak: u64,
}

/// What a process holds.
///
/// # Errors
/// When /proc does not tell.
pub fn memory(pid: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |field: &str| -> Result<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Memory { resident: kib("VmRSS:")?, peak: kib("VmHWM:")? })
}

/// Process ids of the children of a process.
///
/// # Errors
/// When /proc does not tell.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    text.split_whitespace().map(|p| Ok(p.parse()?)).collect()
}

/// Process id of a program in a pod of a node that runs on this machine.
///
/// # Errors
/// When there is none.
pub fn find_in_pod(pod_uid: &str, program: &str) -> Result<u32> {
    // The cgroup of a pod is named after its uid, by the systemd driver with '_' for '-'.
    let names = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let argv0 = command.split('\0').next().unwrap_or_default();
        if names.iter().any(|n| cgroup.contains(n.as_str())) && argv0.rsplit('/').next() == Some(program) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no process {program} of pod {pod_uid}")
}

/// Process id of a program of the cluster whose network namespace this process is in. Such a program may be one of
/// several that share a binary: its name is the first or the second word of its command line.
///
/// # Errors
/// When there is none.
pub fn find_beside(program: &str) -> Result<u32> {
    let home = std::fs::read_link("/proc/self/ns/net")?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let is_here = std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|net| net == home);
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split('\0').take(2).map(|word| word.rsplit('/').next().unwrap_or_default());
        if is_here && words.any(|word| word == program) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no process {program} in this network namespace")
}

/// Pins every thread of a process to the given cores (`taskset`'s list form).
///
/// # Errors
/// When `taskset` fails.
pub fn pin(pid: u32, cores: &str) -> Result<()> {
    run(Command::new("taskset").args(["-acp", cores, &pid.to_string()])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_process_is_killed_and_its_log_kept() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new("/bin/sh", folder.path().join("log")).args(["-c", "echo up; exec sleep 60"]);
        let mut process = program.start().unwrap();
        process.check().unwrap();
        while process.tail().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(process.tail(), "up");
        assert_eq!(process.kill().unwrap().signal(), Some(9));
        let process = program.start().unwrap();
        assert_eq!(process.end(Duration::from_secs(10)).unwrap().signal(), Some(15));
        assert!(cpu_seconds(&[std::process::id()]).unwrap() >= 0.0);
    }

    #[test]
    fn proc_tells_of_this_process() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident, "{memory:?}");
    }

    #[test]
    fn a_process_that_waits_is_switched() {
        let folder = tempfile::tempdir().unwrap();
        // One thread: those of this process come and go with its tests, and take their counts with them.
        let program = Program::new("sh", folder.path().join("log")).args(["-c", "while sleep 0.01; do :; done"]);
        let mut process = program.start().unwrap();
        let before = switches(&[process.pid()]).unwrap();
        while switches(&[process.pid()]).unwrap() == before {
            process.check().unwrap();
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_pinned_program_sees_its_core_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cores = run(Command::new("sh").args(["-c", "taskset -cp $$"])).unwrap();
        let core = cores.trim().rsplit([' ', ',', '-']).next().unwrap().to_owned();
        let program = Program::new("nproc", folder.path().join("log")).on_cores(&core);
        let process = program.start().unwrap();
        assert!(process.wait(Duration::from_secs(10)).unwrap().success());
        assert_eq!(tail(program.log(), 1), "1");
    }
}
