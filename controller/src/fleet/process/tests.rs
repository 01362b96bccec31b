use super::*;
use crate::fleet::{Code, Instance};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

struct Bench {
    fleet: Processes,
    events: mpsc::Receiver<Event>,
    seen: mpsc::Receiver<Seen>,
    folder: tempfile::TempDir,
    mark: String,
}

fn function(name: &str, spec: serde_json::Value) -> Function {
    let mut function: Function = serde_json::from_value(json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": name}, "spec": spec
    }))
    .unwrap();
    function.metadata.uid = Some(format!("uid-{name}"));
    function
}

fn local(folder: &std::path::Path, script: &str) -> Local {
    let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    let spec = json!({"image": "a", "env": [{"name": "GREETING", "value": "hi there"}], "timeoutSeconds": 20});
    Local { function: function("f", spec), command, folder: folder.into() }
}

fn bench(script: &str) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (out, seen) = mpsc::channel(100);
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let config = Config {
        program: "/bin/false".into(),
        mark: mark.clone(),
        runtimes: std::env::temp_dir().join(&mark),
        schedules: None,
        seen: out,
    };
    let fleet = Processes::new(config, vec![local(folder.path(), script)]).unwrap();
    let events = fleet.events().unwrap();
    assert!(fleet.events().is_none());
    Bench { fleet, events, seen, folder, mark }
}

impl Bench {
    async fn next(&mut self) -> Event {
        tokio::time::timeout(LIMIT, self.events.recv()).await.unwrap().unwrap()
    }

    /// Takes events until one fits.
    async fn until<T>(&mut self, mut fits: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(found) = fits(event) {
                return found;
            }
        }
    }

    /// Takes lines until one fits.
    async fn line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let seen = tokio::time::timeout(LIMIT, self.seen.recv()).await.unwrap().unwrap();
            if let Seen::Line { text, .. } = seen
                && fits(&text)
            {
                return text;
            }
        }
    }

    /// The function's revision, prepared and scaled.
    async fn scaled(&mut self, replicas: u32) -> Target {
        let function = self.until(|e| if let Event::Function(f) = e { Some(f) } else { None }).await;
        let target = Target {
            uid: function.metadata.uid.clone().unwrap().into(),
            key: key(&function),
            revision: Revision::of(&function.spec),
        };
        self.fleet.prepare(&function, &target).await.unwrap();
        self.fleet.scale(&target, replicas, &[]).await.unwrap();
        target
    }

    async fn running(&mut self) -> Instance {
        self.until(|e| if let Event::Instance(i) = e { (i.phase == Phase::Running).then_some(i) } else { None }).await
    }

    async fn gone(&mut self) -> InstanceId {
        self.until(|e| if let Event::InstanceGone(id) = e { Some(id) } else { None }).await
    }

    fn left(&self) -> usize {
        leftover::find(&self.mark).unwrap().len()
    }
}

#[tokio::test]
async fn an_instance_has_its_contract_and_ends_when_told() {
    // The trap first: the signal comes as soon as the last line was seen.
    let script = "trap 'echo bye; exit 0' TERM; echo $K_SERVICE $K_REVISION $GREETING; echo port=$PORT; \
                  while :; do sleep 0.05; done";
    let mut bench = bench(script);
    let target = bench.scaled(1).await;
    let instance = bench.running().await;
    let address = instance.address.unwrap();
    assert!(address.ip().is_loopback());
    assert_eq!((instance.name.as_str(), instance.restarts, instance.memory_mib), ("f-1", 0, 256));
    let greeting = format!("f f-{} hi there", target.revision);
    bench.line(|l| l == greeting).await;
    bench.line(|l| l == format!("port={}", address.port())).await;
    bench.fleet.scale(&target, 0, &[]).await.unwrap();
    assert_eq!(bench.gone().await, instance.id);
    assert_eq!(bench.left(), 0);
    bench.line(|l| l == "bye").await;
}

#[tokio::test]
async fn it_runs_in_the_manifests_folder() {
    let mut bench = bench("pwd; exec sleep 1000");
    bench.scaled(1).await;
    let folder = bench.folder.path().canonicalize().unwrap();
    bench.line(|l| std::path::Path::new(l) == folder).await;
    bench.fleet.close(LIMIT).await;
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn what_ignores_the_signal_is_killed_with_its_children() {
    let mut bench = bench("trap '' TERM; (trap '' TERM; sleep 1000) & echo up; while :; do sleep 1; done");
    let target = bench.scaled(1).await;
    let instance = bench.running().await;
    bench.line(|l| l == "up").await;
    assert!(bench.left() >= 2);
    bench.fleet.scale(&target, 0, &[]).await.unwrap();
    let victim = Victim { id: instance.id.clone(), name: instance.name };
    bench.fleet.retire(&target, &victim, Duration::from_millis(100)).await.unwrap();
    assert_eq!(bench.gone().await, instance.id);
    assert_eq!(bench.left(), 0);
    assert!(matches!(bench.fleet.retire(&target, &victim, LIMIT).await, Err(FleetError::Gone(_))));
}

#[tokio::test]
async fn a_process_that_keeps_ending_is_a_crash_loop() {
    let mut bench = bench("echo no database >&2; exit 3");
    bench.scaled(1).await;
    let trouble = bench.until(|e| if let Event::Instance(i) = e { i.trouble } else { None }).await;
    assert_eq!(trouble.code, Code::CrashLoop);
    assert!(trouble.message.contains("exit status: 3"), "{}", trouble.message);
    assert!(trouble.message.ends_with("it last wrote: no database"), "{}", trouble.message);
    bench.fleet.close(LIMIT).await;
    bench.gone().await;
}

#[tokio::test]
async fn a_command_that_is_not_there_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _seen) = mpsc::channel(100);
    let config = Config {
        program: "/bin/false".into(),
        mark: "none".into(),
        runtimes: "/nowhere".into(),
        schedules: None,
        seen: out,
    };
    let mut local = local(folder.path(), "");
    local.command = vec!["./no-such-file".into()];
    let fleet = Processes::new(config, vec![local]).unwrap();
    let events = fleet.events().unwrap();
    let mut bench = Bench { fleet, events, seen: _seen, folder, mark: "none".into() };
    bench.scaled(1).await;
    let trouble = bench.until(|e| if let Event::Instance(i) = e { i.trouble } else { None }).await;
    assert_eq!(trouble.code, Code::BadCommand);
    assert!(trouble.message.contains("./no-such-file"), "{}", trouble.message);
}

#[tokio::test]
async fn the_ones_named_are_ended() {
    let mut bench = bench("exec sleep 1000");
    let target = bench.scaled(3).await;
    let first = bench.running().await;
    let victim = Victim { id: first.id.clone(), name: first.name.clone() };
    bench.fleet.scale(&target, 2, &[victim]).await.unwrap();
    assert_eq!(bench.gone().await, first.id);
    bench.fleet.remove(&target).await.unwrap();
    let gone = bench.until(|e| if let Event::WorkloadGone(_, r) = e { Some(r) } else { None }).await;
    assert_eq!(gone, target.revision);
    assert!(matches!(bench.fleet.scale(&target, 1, &[]).await, Err(FleetError::Gone(_))));
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn manifests_that_change_are_told_once() {
    let mut bench = bench("exec sleep 1000");
    let first = bench.until(|e| if let Event::Function(f) = e { Some(f) } else { None }).await;
    assert_eq!(first.metadata.generation, Some(1));
    assert_eq!(first.spec.command[0], "/bin/sh");
    assert!(matches!(bench.next().await, Event::Synced));
    let folder = bench.folder.path().to_path_buf();
    bench.fleet.set(vec![local(&folder, "exec sleep 1000")]);
    bench.fleet.set(vec![local(&folder, "exec sleep 2000")]);
    let second = bench.until(|e| if let Event::Function(f) = e { Some(f) } else { None }).await;
    assert_eq!(second.metadata.generation, Some(2));
    assert_ne!(Revision::of(&first.spec), Revision::of(&second.spec));
    assert_eq!(second.metadata.creation_timestamp, first.metadata.creation_timestamp);
    bench.fleet.set(vec![]);
    let deleted = bench.until(|e| if let Event::Function(f) = e { Some(f) } else { None }).await;
    assert!(deleted.metadata.deletion_timestamp.is_some());
    bench.fleet.release(&deleted).await.unwrap();
    bench
        .until(|e| if let Event::FunctionGone(uid) = e { (uid.as_str() == "uid-f").then_some(()) } else { None })
        .await;
    assert!(bench.fleet.shown().is_empty());
}

#[tokio::test]
async fn leftovers_are_found_by_their_mark() {
    let mut bench = bench("setsid sleep 1000 & exec sleep 1000");
    bench.scaled(1).await;
    bench.running().await;
    // The shell needs a moment to start its child.
    for _ in 0..500 {
        if bench.left() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mark = bench.mark.clone();
    let killed = tokio::task::spawn_blocking(move || leftover::kill_all(&mark)).await.unwrap();
    assert!(killed >= 2, "{killed}");
    // Started again by the fleet, which does not know who did it.
    bench.fleet.close(Duration::from_millis(10)).await;
    let mark = bench.mark.clone();
    tokio::task::spawn_blocking(move || leftover::kill_all(&mark)).await.unwrap();
    assert_eq!(bench.left(), 0);
}
