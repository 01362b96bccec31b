//! One instance: a child in a process group of its own, started again when it ends unasked, ended when told.

use super::command;
use super::leftover::MARK;
use super::runtimes::{self, ParkedProcess};
use super::{Seen, Shared};
use crate::fleet::{Code, Event, FunctionUid, Instance, InstanceId, Phase, Target, Trouble};
use crate::load::{self, Load};
use dormouse_core::FunctionKey;
use dormouse_core::function::Runtime;
use dormouse_core::revision::Revision;
use dormouse_core::valid::ValidFunction;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Most bytes of an output line that are passed on in one piece; a longer line comes in several.
const MAX_LINE: usize = 4096;

/// A process that ran this long before it ended is not one that fails at its start: counting begins anew.
const SETTLED: Duration = Duration::from_secs(10);

/// Longest pause before the next start: 1, 2, 4, 8, 16, then 30 s.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Code that cannot be imported is tried again so seldom: it is mended by another revision, or what it needs comes up.
const BROKEN: Duration = Duration::from_secs(10);

/// How long output is still read after the process ended: what it wrote is in the pipe already.
const OUTPUT_REST: Duration = Duration::from_millis(200);

/// What an instance of a revision runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Runnable {
    /// Words; the first one as written in the annotation.
    pub(super) command: Vec<String>,
    /// Handler code, in place of a command.
    pub(super) handler: Option<Handler>,
    /// The manifest's folder.
    pub(super) folder: PathBuf,
    /// Variables of the manifest.
    pub(super) env: Vec<(String, String)>,
    /// How long a process told to end may take.
    pub(super) grace: Duration,
    /// Configured memory: not enforced here, but billed.
    pub(super) memory_mib: u32,
    /// Configured cpu: not enforced here.
    pub(super) cpu_millis: u32,
    /// It speaks HTTP/2 without TLS.
    pub(super) h2c: bool,
}

/// Handler code.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Handler {
    /// The function: its handler is there.
    pub(super) valid: Arc<ValidFunction>,
    /// It boots in the manifest's folder; else it is loaded into a parked process.
    pub(super) boots: bool,
}

impl Handler {
    pub(super) fn runtime(&self) -> Runtime {
        self.valid.source.as_ref().map(|source| source.runtime).unwrap_or_default()
    }
}

/// The office's end of an instance.
pub(super) struct Handle {
    pub(super) state: Instance,
    /// `None` while it is to run; then how long it may take to end. It only gets shorter.
    pub(super) stop: watch::Sender<Option<Duration>>,
    /// The process group that runs now.
    pub(super) pid: Option<u32>,
}

/// The instance's own end.
pub(super) struct Life {
    pub(super) id: InstanceId,
    pub(super) name: String,
    pub(super) key: FunctionKey,
    pub(super) function: FunctionUid,
    pub(super) revision: Revision,
    pub(super) run: Arc<Runnable>,
    pub(super) stop: watch::Receiver<Option<Duration>>,
    pub(super) shared: Arc<Shared>,
}

/// Why one run of the process is over.
enum End {
    /// It could not be started.
    NotStarted(io::Error),
    /// Its handler's module cannot be imported.
    Broken(String),
    /// It ended unasked.
    Exited(ExitStatus, Duration),
    /// It was told to end, and did.
    Stopped,
}

impl Life {
    pub(super) fn new(target: &Target, run: Arc<Runnable>, number: u64, shared: Arc<Shared>) -> (Handle, Self) {
        let id = InstanceId::from(uuid::Uuid::new_v4().to_string());
        let name = format!("{}-{number}", target.key.name);
        let (stop, stopped) = watch::channel(None);
        let state = Instance {
            id: id.clone(),
            name: name.clone(),
            namespace: target.key.namespace.clone(),
            function: target.uid.clone(),
            revision: target.revision.clone(),
            address: None,
            phase: Phase::Starting,
            trouble: None,
            restarts: 0,
            image_digest: None,
            memory_mib: run.memory_mib,
            cpu_millis: run.cpu_millis,
            h2c: run.h2c,
            claim: None,
            started_at_us: None,
        };
        let life = Self {
            id,
            name,
            key: target.key.clone(),
            function: target.uid.clone(),
            revision: target.revision.clone(),
            run,
            stop: stopped,
            shared,
        };
        (Handle { state, stop, pid: None }, life)
    }

    /// Runs until told to end.
    pub(super) async fn live(mut self) {
        let mut failures = 0_u32;
        loop {
            let mut least = Duration::ZERO;
            let last_words = Arc::new(Mutex::new(String::new()));
            let trouble = match self.run_once(&last_words).await {
                End::Stopped => break,
                End::NotStarted(e) => {
                    failures += 1;
                    let words = match &self.run.handler {
                        Some(_) => format!("its runtime cannot be started: {e}"),
                        None => format!("cannot run {:?}: {e}", self.run.command.join(" ")),
                    };
                    Some(Trouble::new(Code::BadCommand, words))
                }
                End::Broken(why) => {
                    failures += 1;
                    least = BROKEN;
                    let (key, name, how) = (self.key.clone(), self.name.clone(), why.clone());
                    self.shared.see(Seen::Died { key, name, how });
                    Some(Trouble::new(Code::HandlerFailed, why))
                }
                End::Exited(status, ran) => {
                    failures = if ran >= SETTLED { 1 } else { failures + 1 };
                    let said = std::mem::take(&mut *last_words.lock());
                    let message = ended(status, ran, &said);
                    self.shared.see(Seen::Died {
                        key: self.key.clone(),
                        name: self.name.clone(),
                        how: message.clone(),
                    });
                    (failures > 1).then(|| Trouble::new(Code::CrashLoop, message))
                }
            };
            self.set(|handle| {
                handle.pid = None;
                handle.state.phase = Phase::Starting;
                handle.state.address = None;
                handle.state.restarts += 1;
                handle.state.trouble = trouble;
            });
            tokio::select! {
                () = sleep(pause(failures).max(least)) => {}
                _ = self.stop.wait_for(Option::is_some) => break,
            }
        }
        self.shared.instance_ended(&self.function, &self.revision, &self.id);
    }

    async fn run_once(&mut self, last_words: &Arc<Mutex<String>>) -> End {
        if self.stop.borrow().is_some() {
            return End::Stopped;
        }
        let Started { mut child, address, pod } = match self.start() {
            Ok(started) => started,
            Err(e) => return End::NotStarted(e),
        };
        let pid = child.id();
        let group = pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let readers = [
            tokio::spawn(self.output().pass(child.stdout.take(), last_words.clone())),
            tokio::spawn(self.output().pass(child.stderr.take(), last_words.clone())),
        ];
        let started = Instant::now();
        if let (Some((pod, door)), Some(handler)) = (&pod, &self.run.handler) {
            self.set(|handle| handle.pid = pid);
            let runtime = handler.runtime();
            let loaded = self.load(handler, pod, *door).await;
            self.shared.give_ports_back([door.port()]);
            self.shared.refill(runtime);
            if let Err(end) = loaded {
                self.terminate(&mut child, group).await;
                self.clean_up(group, readers, address).await;
                return end;
            }
        }
        self.set(|handle| {
            handle.pid = pid;
            handle.state.phase = Phase::Running;
            handle.state.address = Some(address);
        });
        self.shared.see(Seen::Started {
            key: self.key.clone(),
            name: self.name.clone(),
            pid: pid.unwrap_or(0),
            address,
        });
        let exited = tokio::select! {
            status = child.wait() => Some(status),
            _ = self.stop.wait_for(Option::is_some) => None,
        };
        let end = match exited {
            Some(Ok(status)) => End::Exited(status, started.elapsed()),
            Some(Err(e)) => End::NotStarted(e),
            None => {
                self.terminate(&mut child, group).await;
                End::Stopped
            }
        };
        self.clean_up(group, readers, address).await;
        match (end, &self.run.handler) {
            // A boot that failed says so in its last line.
            (End::Exited(..), Some(_)) if let Some(why) = load::failure_in(&last_words.lock()) => End::Broken(why),
            (end, _) => end,
        }
    }

    /// Nothing of the process is left, and what it wrote is passed on.
    async fn clean_up(&self, group: Option<Pid>, readers: [JoinHandle<()>; 2], address: SocketAddr) {
        clear(group).await;
        for reader in readers {
            let abort = reader.abort_handle();
            if timeout(OUTPUT_REST, reader).await.is_err() {
                abort.abort();
            }
        }
        self.shared.ports.lock().remove(&address.port());
    }

    /// Gives a parked process its code; it serves then.
    async fn load(&self, handler: &Handler, pod: &str, door: SocketAddr) -> Result<(), End> {
        let valid = &handler.valid;
        let Some(source) = &valid.source else { return Err(End::Broken("there is no handler".into())) };
        let revision = self.revision_name();
        let load = Load { valid, handler: source, revision: &revision, pod, grafted: false };
        let key = self.shared.load_key.clone();
        let mut stop = self.stop.clone();
        tokio::select! {
            loaded = load::send(&key, load, door) => loaded.map_err(|error| match runtimes::why(&error) {
                (true, why) => End::Broken(why),
                (false, why) => End::NotStarted(io::Error::other(why)),
            }),
            _ = stop.wait_for(Option::is_some) => Err(End::Stopped),
        }
    }

    fn revision_name(&self) -> String {
        format!("{}-{}", self.key.name, self.revision)
    }

    fn start(&self) -> io::Result<Started> {
        if let Some(handler) = &self.run.handler {
            return if handler.boots { self.boot(handler) } else { self.claim(handler) };
        }
        let port = self.shared.free_port()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [first, rest @ ..] = self.run.command.as_slice() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let mut command = Command::new(command::program(first, &self.run.folder, &self.shared.config.program));
        // Our own settings, the token among them, are not the function's to see.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        command
            .args(rest)
            .current_dir(&self.run.folder)
            .env("HOST", Ipv4Addr::LOCALHOST.to_string())
            .envs(self.run.env.iter().map(|(name, value)| (name, value)))
            .env("PORT", port.to_string())
            .env("K_SERVICE", &self.key.name)
            .env("K_CONFIGURATION", &self.key.name)
            .env("K_REVISION", self.revision_name())
            .env(MARK, &self.shared.config.mark)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        match command.spawn() {
            Ok(child) => Ok(Started { child, address, pod: None }),
            Err(e) => {
                self.shared.ports.lock().remove(&port);
                Err(e)
            }
        }
    }

    /// A parked process, to be loaded.
    fn claim(&self, handler: &Handler) -> io::Result<Started> {
        let ParkedProcess { child, pod, door, calls } = self.shared.claim(handler.runtime())?;
        Ok(Started { child, address: calls, pod: Some((pod, door)) })
    }

    /// A process of its own that boots in the manifest's folder.
    fn boot(&self, handler: &Handler) -> io::Result<Started> {
        let Handler { valid, .. } = handler;
        let mut command = self.shared.runtime_command(handler.runtime())?;
        let port = self.shared.free_port()?;
        command
            .current_dir(&self.run.folder)
            .envs(self.run.env.iter().map(|(name, value)| (name, value)))
            .env("PORT", port.to_string())
            .env("K_SERVICE", &self.key.name)
            .env("K_CONFIGURATION", &self.key.name)
            .env("K_REVISION", self.revision_name())
            .env("DORMOUSE_HANDLER", valid.source.as_ref().map_or("", |source| &source.name))
            .env("DORMOUSE_CODE_DIR", &self.run.folder)
            .env("DORMOUSE_NAMESPACE", &self.key.namespace)
            .env("DORMOUSE_MEMORY_MIB", valid.memory_mib.to_string())
            .env("DORMOUSE_TIMEOUT_MS", valid.timeout.as_millis().to_string())
            .env("DORMOUSE_CONCURRENCY", load::MAX_CALLS.to_string());
        match command.spawn() {
            Ok(child) => Ok(Started { child, address: (Ipv4Addr::LOCALHOST, port).into(), pod: None }),
            Err(e) => {
                self.shared.give_ports_back([port]);
                Err(e)
            }
        }
    }

    /// SIGTERM to the group, SIGKILL when the grace is over; a shorter grace may come meanwhile.
    async fn terminate(&mut self, child: &mut Child, group: Option<Pid>) {
        signal(group, Signal::SIGTERM);
        let told = Instant::now();
        loop {
            let grace = self.stop.borrow_and_update().unwrap_or_default();
            tokio::select! {
                _ = child.wait() => return,
                () = tokio::time::sleep_until(told + grace) => break,
                changed = self.stop.changed() => if changed.is_err() { break },
            }
        }
        signal(group, Signal::SIGKILL);
        let _ = child.wait().await;
    }

    fn set(&self, change: impl FnOnce(&mut Handle)) {
        self.shared.change_instance(&self.function, &self.revision, &self.id, change);
    }

    fn output(&self) -> Output {
        Output { key: self.key.clone(), name: self.name.clone(), shared: self.shared.clone() }
    }
}

/// A process.
struct Started {
    child: Child,
    /// Where it takes calls.
    address: SocketAddr,
    /// Of one that is to be loaded: who it is, and where it takes its load.
    pod: Option<(String, SocketAddr)>,
}

struct Output {
    key: FunctionKey,
    name: String,
    shared: Arc<Shared>,
}

impl Output {
    /// Passes a stream on, line by line, and keeps the last one.
    async fn pass(self, stream: Option<impl AsyncRead + Unpin>, last: Arc<Mutex<String>>) {
        let Some(stream) = stream else { return };
        let mut reader = BufReader::with_capacity(MAX_LINE, stream);
        let mut line = Vec::new();
        while let Ok(chunk) = reader.fill_buf().await {
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let room = MAX_LINE - line.len();
            let taken = end.unwrap_or(chunk.len()).min(room);
            line.extend_from_slice(&chunk[..taken]);
            let whole = end == Some(taken);
            reader.consume(taken + usize::from(whole));
            if whole || line.len() == MAX_LINE {
                self.tell(&mut line, &last).await;
            }
        }
        if !line.is_empty() {
            self.tell(&mut line, &last).await;
        }
    }

    async fn tell(&self, line: &mut Vec<u8>, last: &Mutex<String>) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if !text.is_empty() {
            last.lock().clone_from(&text);
        }
        let seen = Seen::Line { key: self.key.clone(), name: self.name.clone(), text };
        // A console that is held up holds the function's output up, as a pipe does.
        let _ = self.shared.config.seen.send(seen).await;
    }
}

/// `exit status: 3 after 0.2 s; it last wrote: ...`
fn ended(status: ExitStatus, ran: Duration, said: &str) -> String {
    let mut message = format!("ended with {status} after {:.1} s", ran.as_secs_f64());
    if !said.is_empty() {
        message.push_str("; it last wrote: ");
        message.push_str(said);
    }
    message
}

/// The first restart at once, as the kubelet does.
fn pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 2).min(5)).min(MAX_PAUSE),
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Gone already is as good.
        let _ = killpg(group, signal);
    }
}

/// Kills what the process left behind in its group, and waits (at most 50 x 10 ms) until the group is empty.
async fn clear(group: Option<Pid>) {
    let Some(group) = group else { return };
    for _ in 0..50 {
        if killpg(group, Signal::SIGKILL) == Err(Errno::ESRCH) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Where ports of instances are picked. Below those that Linux gives to outgoing connections and to port 0 (32768 and
/// more): between the pick and the moment when the process listens nobody gets it by chance.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// Picks before it is given up: one in two taken is far more than a machine has.
const TRIES: usize = 64;

/// Fails where somebody listens. It is bound and not listened on: an instance of somebody else that is just starting
/// there would else lose its first call to us.
fn is_free(port: u16) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())
}

impl Shared {
    /// A loopback port that is free now and given to no other instance.
    pub(super) fn free_port(&self) -> io::Result<u16> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let port = rand::random_range(PORTS);
            if !self.ports.lock().insert(port) {
                continue;
            }
            match is_free(port) {
                Ok(()) => return Ok(port),
                Err(e) => {
                    self.ports.lock().remove(&port);
                    last = e;
                }
            }
        }
        Err(last)
    }

    fn change_instance(
        &self,
        function: &FunctionUid,
        revision: &Revision,
        id: &InstanceId,
        change: impl FnOnce(&mut Handle),
    ) {
        let mut state = self.state.lock();
        let Some(carried) = state.workloads.get_mut(&(function.clone(), revision.clone())) else { return };
        let Some(handle) = carried.instances.get_mut(id) else { return };
        let before = handle.state.clone();
        change(handle);
        if handle.stop.borrow().is_some() {
            handle.state.phase = Phase::Ending;
        }
        if handle.state != before {
            self.queue.push(Event::Instance(handle.state.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_where_nobody_listens() {
        let free = (0..64).map(|_| rand::random_range(PORTS)).find(|port| is_free(*port).is_ok()).unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, free)).unwrap();
        assert_eq!(is_free(free).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        // A look does not keep anybody from listening, nor does who looks take a call.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, free).into()).unwrap();
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, free)).is_err());
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, free)).unwrap();
    }

    #[test]
    fn restarts_come_at_once_and_then_slower() {
        let seconds: Vec<u64> = (0..9).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8, 16, 30, 30]);
    }
}
