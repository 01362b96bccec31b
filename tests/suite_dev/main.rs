//! `dormouse dev` as a child process in a clean folder: the first command of the README, and what may go wrong.
//!
//! Counts, order and messages are asserted, never times.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod code;

use dormouse_controller::fleet::process::leftover;
use dormouse_tests::client::Target;
use dormouse_tests::env::Env;
use dormouse_tests::proc::{self, Process, Program};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Longest wait for anything; what is waited for usually takes well under a second.
const LIMIT: Duration = Duration::from_secs(60);

const HELLO: &str = "\
apiVersion: dormouse.dev/v1alpha1
kind: Function
metadata:
  name: hello
  annotations:
    dormouse.dev/local-command: '[\"dormouse\", \"sample\"]'
spec:
  image: dormouse/sample:0.1.0
  idleTimeoutSeconds: 5
  resources: {memory: 128Mi}
  env:
    - {name: GREETING, value: first}
";

/// A folder with manifests, and the programs that work in it.
struct Bench {
    program: PathBuf,
    folder: tempfile::TempDir,
    /// Commands of this bench find no other `dev` and no cluster.
    home: tempfile::TempDir,
    ports: [u16; 2],
}

impl Bench {
    fn new(manifests: &[(&str, &str)]) -> Self {
        let program = Env::read().unwrap().program("dormouse").unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (free(), free());
        let ports = [&first, &second].map(|l| l.local_addr().unwrap().port());
        let bench = Self { program, folder: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap(), ports };
        manifests.iter().for_each(|(name, text)| bench.write(name, text));
        bench
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.path().join(".dormouse")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn start(&self) -> Dev<'_> {
        let log = self.home.path().join(format!("log-{}", std::fs::read_dir(self.home.path()).unwrap().count()));
        let [port, usage_port] = self.ports.map(|p| p.to_string());
        let program = Program::new(&self.program, &log)
            .args(["dev", &self.path().display().to_string(), "--port", &port, "--usage-port", &usage_port])
            .env("XDG_RUNTIME_DIR", self.home.path().display().to_string());
        let process = program.start().unwrap();
        let dev = Dev { bench: self, process, log };
        dev.says("usage API");
        dev
    }

    /// Runs a command in the folder.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(args)
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("KUBECONFIG", self.home.path().join("no-kubeconfig"))
            .env_remove("DORMOUSE_TOKEN")
            .output()
            .unwrap()
    }

    /// Runs a command that succeeds and answers in JSON.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that fails, and gives its exit code and what it said.
    fn failure(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Processes of this folder's functions, found by their mark wherever they are.
    fn instances(&self) -> usize {
        match std::fs::read_to_string(self.state().join("mark")) {
            Ok(mark) => leftover::find(&mark).unwrap().len(),
            Err(_) => 0,
        }
    }

    fn calls_recorded(&self) -> u64 {
        let usage = self.json(&["usage", "-o", "json"]);
        usage["rows"].as_array().unwrap().iter().map(|r| r["calls"].as_u64().unwrap()).sum()
    }
}

struct Dev<'a> {
    bench: &'a Bench,
    process: Process,
    log: PathBuf,
}

impl Dev<'_> {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until something holds.
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < LIMIT, "not within {} s: {what}; the log:\n{}", LIMIT.as_secs(), self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn says(&self, text: &str) {
        self.until(&format!("it says {text:?}"), || self.said().contains(text));
    }

    /// Waits until no instance runs and the function is known as asleep.
    fn asleep(&self) {
        self.until("the function sleeps", || {
            self.bench.instances() == 0 && self.bench.json(&["list", "-o", "json"])[0]["status"]["state"] == "Idle"
        });
    }

    fn invoke(&self, args: &[&str]) -> Value {
        let answer = self.bench.json(&[&["invoke", "hello", "-o", "json"], args].concat());
        assert_eq!(answer["status"], 200, "{answer}");
        answer
    }

    fn ends(self, signal: Signal) {
        proc::signal(self.process.pid(), signal).unwrap();
        let bench = self.bench;
        let log = self.log.clone();
        let status = self.process.wait(LIMIT).unwrap();
        assert!(status.success(), "{status}; the log:\n{}", std::fs::read_to_string(log).unwrap());
        assert_eq!(bench.instances(), 0);
        assert!(!bench.state().join("dev.json").exists());
        assert!(!bench.state().join("token").exists());
    }
}

#[test]
fn a_function_sleeps_wakes_is_answered_and_billed() {
    let bench = Bench::new(&[("function.yaml", HELLO)]);
    let dev = bench.start();
    dev.says("sample: serving on");
    dev.asleep();

    let first = dev.invoke(&[]);
    assert!(first["body"].as_str().unwrap().starts_with("Hello from hello"), "{first}");
    assert_eq!(first["timing"]["cold"], true, "{first}");
    assert_eq!(bench.instances(), 1);
    let second = dev.invoke(&["/echo", "-d", "ping"]);
    assert_eq!((&second["timing"]["cold"], &second["body"]), (&Value::Bool(false), &Value::from("ping")));
    dev.says(" 200 cold ");
    dev.says(" 200 warm ");
    dev.asleep();

    dev.until("two calls are in the ledger", || bench.calls_recorded() == 2);
    let bill = bench.json(&["bill", "-o", "json", "--fixed-server", "350"]);
    assert_eq!((&bill["calls"], &bill["billed_calls"]), (&2.into(), &2.into()), "{bill}");
    let bill = bench.run(&["bill", "--fixed-server", "350"]);
    assert!(String::from_utf8_lossy(&bill.stdout).contains("100.0 % less"), "{bill:?}");
    assert_eq!(bench.run(&["bill", "-o", "csv"]).stdout.iter().filter(|b| **b == b'\n').count(), 4);

    dev.ends(Signal::SIGINT);
    let mut left: Vec<String> =
        std::fs::read_dir(bench.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".dormouse", "function.yaml"]);

    let dev = bench.start();
    assert_eq!(bench.calls_recorded(), 2);
    dev.invoke(&[]);
    dev.until("the third call joins them", || bench.calls_recorded() == 3);
    dev.ends(Signal::SIGTERM);
}

/// A function that is due every second second: each due time is one call that says so, a killed `dev` makes none of them
/// twice, and what was missed is missed.
#[test]
fn a_schedule_calls_when_it_is_due_and_never_twice() {
    let schedules = "  schedules:\n    - {name: tick, cron: \"*/2 * * * * *\", body: '{\"a\": 1}'}\n";
    let bench = Bench::new(&[("function.yaml", &format!("{HELLO}{schedules}"))]);
    let timed = || {
        let list = bench.run(&["bill", "--explain", "calls", "-o", "csv"]).stdout;
        let rows: Vec<String> = String::from_utf8(list).unwrap().lines().skip(1).map(str::to_owned).collect();
        rows.iter().map(|row| row.split(',').skip(4).take(3).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    for life in 1..=3 {
        let dev = bench.start();
        if life == 1 {
            let told = bench.json(&["invoke", "hello", "--event", "warm-up", "-d", "[1]", "-o", "json"]);
            assert_eq!((&told["outcome"], &told["reason"]), (&"Ran".into(), &"Status200".into()), "{told}");
            let (code, said) = bench.failure(&["invoke", "nobody", "--event", "x"]);
            assert!(code != 0 && said.contains("there is no function default/nobody"), "{said}");
        }
        dev.until("three more calls were made", || timed().len() >= life * 3);
        if life == 3 {
            let described = bench.json(&["describe", "hello", "-o", "json"]);
            let schedule = &described["function"]["status"]["schedules"][0];
            assert_eq!(
                (&schedule["name"], &schedule["rule"]),
                (&"tick".into(), &"*/2 * * * * * UTC".into()),
                "{schedule}"
            );
            assert_eq!(schedule["last"]["outcome"], "Ran", "{schedule}");
            let next = described["function"]["status"]["nextSchedule"].as_str().unwrap();
            assert_eq!(next.parse::<jiff::Timestamp>().unwrap().as_second() % 2, 0, "{next}");
            dev.ends(Signal::SIGTERM);
        } else {
            dev.process.kill().unwrap();
        }
    }
    let dev = bench.start();
    let timed = timed();
    dev.ends(Signal::SIGTERM);
    let (events, mut timed): (Vec<_>, Vec<_>) = timed.into_iter().partition(|row| row.starts_with("event  2"));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(timed.iter().all(|row| row.starts_with("schedule tick 2")), "{timed:?}");
    let all = timed.len();
    timed.sort();
    timed.dedup();
    assert_eq!(timed.len(), all, "a due time was called twice: {timed:?}");
}

/// A function that would idle for long is put to sleep first, though it is called all the time; the parts of the call's
/// time are no more than its caller measured.
#[test]
fn a_cold_call_is_had_by_asking_for_it() {
    let bench = Bench::new(&[("function.yaml", &HELLO.replace("idleTimeoutSeconds: 5", "idleTimeoutSeconds: 600"))]);
    let dev = bench.start();
    dev.says("sample: serving on");
    for _ in 0..3 {
        dev.invoke(&[]);
        let cold = dev.invoke(&["--cold"]);
        assert_eq!(cold["timing"]["cold"], true, "{cold}");
        let part = |name: &str| cold["timing"][format!("{name}Ms")].as_f64().unwrap();
        let sum: f64 = ["wait", "claim", "start", "connect", "run"].map(part).iter().sum();
        assert!(part("claim") + part("start") > 0.0 && sum <= part("total"), "{cold}");
    }
    dev.until("every call is in the ledger", || bench.calls_recorded() == 6);
    bench.write("function.yaml", &HELLO.replace("idleTimeoutSeconds: 5", "warmUpConcurrency: 1"));
    dev.says("changed default/hello");
    let (code, said) = bench.failure(&["invoke", "hello", "--cold"]);
    assert!(code == 1 && said.contains("is kept warm"), "{code}: {said}");
    dev.ends(Signal::SIGINT);
}

/// Callers that come within half a second of the instant at which their function is let go of, each with one of its
/// own: all are answered, some by an instance that was just to go, some by a new one.
#[test]
fn calls_around_the_idle_deadline_are_all_answered() {
    const FUNCTIONS: u64 = 100;
    let each = if dormouse_tests::env::long() { 200 } else { 20 };
    let one = |n: u64| HELLO.replace("name: hello", &format!("name: edge{n}"));
    let quick = |yaml: String| yaml.replace("idleTimeoutSeconds: 5", "idleTimeoutSeconds: 1\n  startCheck: Never");
    let manifests: Vec<String> = (0..FUNCTIONS).map(|n| quick(one(n))).collect();
    let bench = Bench::new(&[("functions.yaml", &manifests.join("---\n"))]);
    let dev = bench.start();
    dev.says(&format!("edge{}", FUNCTIONS - 1));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], bench.ports[0]));
    let seed = jiff::Timestamp::now().as_nanosecond().unsigned_abs() as u64;
    let cold = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..FUNCTIONS {
            let target = Target::new(address, "any.example", format!("/fn/default/edge{n}/"));
            callers.spawn(async move {
                let (mut rng, mut cold) = (StdRng::seed_from_u64(seed + n), 0);
                for number in 0..each {
                    let answer = target.call(number).await;
                    let good = answer.as_ref().ok().filter(|answer| answer.status == 200);
                    let Some(answer) = good else { panic!("seed {seed}: call {number} of edge{n}: {answer:?}") };
                    cold += u64::from(answer.cold());
                    tokio::time::sleep(Duration::from_millis(rng.random_range(500..1500))).await;
                }
                cold
            });
        }
        callers.join_all().await.into_iter().sum::<u64>()
    });
    let calls = FUNCTIONS * each;
    // The first of each is cold whatever comes.
    assert!(cold > FUNCTIONS && cold < calls * 9 / 10, "the edge was not met: {cold} of {calls} cold, seed {seed}");
    dev.until("every call is in the ledger", || bench.calls_recorded() == calls);
    dev.until("all sleep", || bench.instances() == 0);
    dev.ends(Signal::SIGINT);
}

#[test]
fn manifests_are_applied_while_it_runs() {
    let bench = Bench::new(&[("function.yaml", HELLO)]);
    let dev = bench.start();
    let greets = |text: &str| dev.invoke(&["/env"])["body"].as_str().unwrap().contains(&format!("GREETING={text}\n"));
    dev.until("the first version serves", || greets("first"));

    bench.write("function.yaml", &HELLO.replace("first", "second"));
    dev.says("manifests: changed default/hello");
    dev.until("the second version serves", || greets("second"));

    let broken = HELLO.replace("first", "third").replace("  resources: {memory: 128Mi}", "  port: 70000\n  prot: 1");
    bench.write("function.yaml", &broken);
    dev.says("function.yaml:10: spec.port: must be 1 to 65535, is 70000");
    dev.says("function.yaml:11: spec.prot: ");
    dev.says("2 faults; nothing is changed, the last good version keeps serving");
    assert!(greets("second"));
    bench.write("function.yaml", "kind: [\n");
    dev.says("not YAML");
    assert!(greets("second"));
    bench.write("function.yaml", &HELLO.replace("first", "fourth"));
    dev.until("the mended version serves", || greets("fourth"));

    bench.write("more.yaml", HELLO);
    dev.says("default/hello is also in");
    bench.write("more.yaml", &HELLO.replace("name: hello", "name: more"));
    dev.says("manifests: added default/more");
    dev.until("the new function answers", || bench.run(&["invoke", "more"]).status.success());
    std::fs::remove_file(bench.path().join("more.yaml")).unwrap();
    dev.says("manifests: removed default/more");
    dev.until("it is gone", || bench.run(&["invoke", "more"]).status.code() == Some(3));
    assert_eq!(bench.json(&["list", "-o", "json"]).as_array().map(Vec::len), Some(1));
    dev.ends(Signal::SIGINT);
}

#[test]
fn failures_have_reasons() {
    let crashing = HELLO
        .replace("name: hello", "name: crash")
        .replace("'[\"dormouse\", \"sample\"]'", "sh -c 'echo no database >&2; exit 3'");
    let missing =
        HELLO.replace("name: hello", "name: missing").replace("'[\"dormouse\", \"sample\"]'", "./no-such-file");
    let bench = Bench::new(&[("a.yaml", &crashing), ("b.yaml", &missing), ("c.yaml", HELLO)]);
    let dev = bench.start();
    for (name, reason) in [("crash", "CrashLoop"), ("missing", "BadCommand")] {
        let (code, said) = bench.failure(&["invoke", name]);
        assert!(code == 1 && said.contains(reason), "{name}: {code} {said}");
        let described = bench.json(&["describe", name, "-o", "json"]);
        assert!(described.to_string().contains(reason), "{described}");
    }
    dev.says("ended with exit status: 3");
    dev.says("no database");
    // Its own fault, billed as the plan says, and the next call is served by a new process.
    let (code, said) = bench.failure(&["invoke", "hello", "/crash"]);
    assert!(code == 1 && said.contains("InstanceDied"), "{code} {said}");
    dev.until("the next process serves", || bench.run(&["invoke", "hello"]).status.success());
    let (code, said) = bench.failure(&["invoke", "nobody"]);
    assert!(code == 3 && said.contains("no such function"), "{code} {said}");
    assert_eq!(bench.failure(&["describe", "nobody"]).0, 3);
    dev.ends(Signal::SIGTERM);
}

#[test]
fn nothing_outlives_a_kill() {
    let bench = Bench::new(&[("function.yaml", HELLO)]);
    let dev = bench.start();
    dev.says("sample: serving on");
    dev.invoke(&[]);
    assert_eq!(bench.instances(), 1);
    dev.process.kill().unwrap();
    let began = Instant::now();
    while bench.instances() > 0 {
        assert!(began.elapsed() < LIMIT, "an instance outlived its dev");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, said) = bench.failure(&["usage", "--dev", "."]);
    assert!(code == 1 && said.contains("no `dormouse dev` runs"), "{code} {said}");
    // What was answered is in the spool and reaches the ledger at the next start.
    let dev = bench.start();
    dev.until("the call is in the ledger", || bench.calls_recorded() == 1);
    dev.ends(Signal::SIGTERM);
}

#[test]
fn what_is_taken_is_said_with_the_way_out() {
    let bench = Bench::new(&[("function.yaml", HELLO)]);
    let dev = bench.start();
    let [port, usage_port] = bench.ports.map(|p| p.to_string());
    let pid = format!("(process {})", dev.process.pid());
    let other = Bench::new(&[("function.yaml", HELLO)]);
    let (code, said) = other.failure(&["dev", ".", "--port", &port, "--usage-port", "0"]);
    assert!(code == 1 && said.contains(&format!("port {port} is taken by dormouse {pid}")), "{said}");
    assert!(said.contains("--port"), "{said}");
    let (_, said) = other.failure(&["dev", ".", "--port", "0", "--usage-port", &usage_port]);
    assert!(said.contains(&pid) && said.contains("--usage-port"), "{said}");
    assert!(!other.state().exists());
    let (code, said) = bench.failure(&["dev", ".", "--port", "0", "--usage-port", "0"]);
    assert!(code == 1 && said.contains("another `dormouse dev` (process") && said.contains("--state-dir"), "{said}");
    dev.ends(Signal::SIGTERM);
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn a_ledger_that_cannot_be_opened_is_left_alone() {
    let bench = Bench::new(&[("function.yaml", HELLO)]);
    let ledger = bench.state().join("ledger");
    std::fs::create_dir_all(&ledger).unwrap();
    std::fs::write(ledger.join("FORMAT"), "dormouse-ledger 99\n").unwrap();
    let before = files(&ledger);
    let (code, said) = bench.failure(&["dev", ".", "--port", "0", "--usage-port", "0"]);
    let named = ledger.canonicalize().unwrap().display().to_string();
    assert!(code == 1 && said.contains(&named) && said.contains("--state-dir"), "{said}");
    assert_eq!(files(&ledger), before);
    assert!(!bench.state().join("spool").exists());
}

#[test]
fn a_broken_folder_starts_nothing() {
    let bench = Bench::new(&[("function.yaml", &HELLO.replace("  image: dormouse/sample:0.1.0\n", ""))]);
    let (code, said) = bench.failure(&["dev", "."]);
    assert!(code == 1 && said.contains("function.yaml:7: spec.image: "), "{said}");
    assert!(!bench.state().exists());
    let empty = Bench::new(&[("notes.txt", "")]);
    let (code, said) = empty.failure(&["dev", "."]);
    assert!(code == 3 && said.contains("no Function manifest"), "{said}");
    let (code, said) = empty.failure(&["list"]);
    assert!(code == 1 && said.contains("dormouse dev FOLDER"), "{said}");
}
