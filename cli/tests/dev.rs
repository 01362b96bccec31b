//! `dormouse dev` as a process: which signals end it, and that nothing is left when its start fails.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Nothing of it is started until it is called.
const HELLO: &str = "\
apiVersion: dormouse.dev/v1alpha1
kind: Function
metadata:
  name: hello
  annotations:
    dormouse.dev/local-command: '[\"dormouse\", \"sample\"]'
spec:
  image: dormouse/sample:0.1.0
  resources: {memory: 128Mi}
  startCheck: Never
  timeoutSeconds: 7
";

/// A `dev` in a folder of its own, with its output in a file.
struct Dev {
    child: Child,
    folder: tempfile::TempDir,
}

impl Dev {
    /// Starts it with these words before its own.
    fn start(before: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), before)
    }

    fn start_in(folder: tempfile::TempDir, before: &[&str]) -> Self {
        fs::write(folder.path().join("hello.yaml"), HELLO).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let program = env!("CARGO_BIN_EXE_dormouse");
        let words: Vec<&str> = before.iter().copied().chain([program, "dev"]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(folder.path())
            .args(["--port", "0", "--usage-port", "0"])
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn says(&mut self, text: &str) {
        let began = Instant::now();
        while !self.said().contains(text) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended:\n{}", self.said());
            assert!(began.elapsed() < LIMIT, "it does not say {text:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A mask of signals from the process's status; bit 0 is SIGHUP.
    fn mask(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn ends(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < LIMIT, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn announced(&self) -> PathBuf {
        self.folder.path().join(".dormouse/dev.json")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_closed_terminal_ends_it() {
    // Whatever the tests themselves were started with, `nohup` for one, would be handed down.
    let mut dev = Dev::start(&["env", "--default-signal=HUP"]);
    dev.says("usage API");
    assert_eq!((dev.mask("SigCgt") & 1, dev.mask("SigIgn") & 1), (1, 0));
    assert!(dev.announced().exists());
    dev.signal(Signal::SIGHUP);
    assert!(dev.ends().success(), "{}", dev.said());
    // 7 s for calls, 10 s beyond them, 5 s for instances.
    assert!(dev.said().contains("at most 22 s (Ctrl-C again"), "{}", dev.said());
    assert!(!dev.announced().exists());
}

#[test]
fn with_nohup_it_outlives_its_terminal() {
    let mut dev = Dev::start(&["nohup"]);
    dev.says("usage API");
    assert_eq!((dev.mask("SigCgt") & 1, dev.mask("SigIgn") & 1), (0, 1));
    dev.signal(Signal::SIGHUP);
    dev.signal(Signal::SIGTERM);
    assert!(dev.ends().success(), "{}", dev.said());
}

#[test]
fn a_start_that_fails_late_ends_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    // A folder is in the way of the file that says where it listens: found out when everything runs.
    fs::create_dir_all(folder.path().join(".dormouse/dev.json/in-the-way")).unwrap();
    let mut dev = Dev::start_in(folder, &[]);
    assert_eq!(dev.ends().code(), Some(1));
    let said = dev.said();
    let told =
        ["ending, because cannot write to the state directory", "ending: running calls end", "error: cannot write"];
    told.iter().for_each(|text| assert!(said.contains(text), "{text:?} is not in:\n{said}"));
    assert!(!said.contains("usage API"), "{said}");
}
