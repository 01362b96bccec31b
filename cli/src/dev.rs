//! `dormouse dev`: controller, activator and ledger in one process, from the crates that run in a cluster, with
//! instances as child processes.

mod console;
mod functions;
mod keeper;
mod port;
mod reload;
pub(crate) mod state;

use crate::args::DevArgs;
use crate::exit::{Failure, Outcome};
use crate::manifest::{self, Manifest, Reading};
use crate::say;
use crate::target::door::Door;
use console::Console;
use dormouse_activator::Activator;
use dormouse_controller::doors::Token;
use dormouse_controller::fleet::process::{self, Local, Processes};
use dormouse_controller::ledger::{Filesystem, LedgerDoor};
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::{Controller, ControllerError};
use dormouse_core::FunctionKey;
use dormouse_core::function::EnvVar;
use dormouse_core::price::PricePlan;
use dormouse_daemon::telemetry::{self, LogFormat};
use dormouse_daemon::{Health, shutdown};
use functions::Places;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Full;
use keeper::Keeper;
use port::Ports;
use reload::{Changes, Watch};
use state::{DevFile, StateDir};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Functions are called at `NAME.NAMESPACE.localhost`: browsers and curl take every name below `localhost` to be this
/// machine.
const DOMAIN: &str = "localhost";
/// The variable that changes with the files that a command names.
const CODE: &str = "DORMOUSE_CODE";
/// A function with so many variables has no room for another one.
const MAX_ENV: usize = 128;
/// Lines that wait to be printed.
const LINES: usize = 1024;
/// At the start: how long until calls are taken; usually some milliseconds.
const READY: Duration = Duration::from_secs(20);
const READY_PAUSE: Duration = Duration::from_millis(10);
/// At the end: how long running calls may take before they are broken off.
const DRAIN: Duration = Duration::from_secs(30);
/// At the end: how long instances, idle by then, may take.
const STOP: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &DevArgs) -> Outcome {
    telemetry::init(LogFormat::Text, "warn");
    let reading = first_reading(&args.folder)?;
    let plan = price_plan(args.price_plan.as_deref())?;
    let ports = Ports::new(args.port, args.usage_port);
    // Before anything is touched; taken for good a moment later.
    ports.check()?;
    let place = args.state_dir.clone().unwrap_or_else(|| home(&args.folder).join(state::NAME));
    let state = StateDir::open(&place)?;
    let ledger = open_ledger(&state, &plan).await?;
    let stop = shutdown::on_signal()?;
    on_hangup(stop.clone())?;
    Dev::start(args, reading, plan, ports, state, ledger).await?.work(stop).await
}

/// A terminal that is closed is the same as Ctrl-C.
fn on_hangup(stop: CancellationToken) -> Outcome {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        hangup.recv().await;
        stop.cancel();
    });
    Ok(())
}

/// The manifests as they are at the start: without a function, or with a fault, there is nothing to start.
fn first_reading(folder: &Path) -> Result<Reading, Failure> {
    let reading =
        manifest::read(folder).map_err(|e| Failure::not_found(format!("cannot read {}: {e}", folder.display())))?;
    reading.notes.iter().for_each(|n| say::note(format_args!("note: {n}")));
    if !reading.faults.is_empty() {
        say::note(reload::faults(&reading.faults));
        return Err(Failure::failed(format!(
            "{} in {}: nothing was started",
            counted(reading.faults.len(), "fault"),
            folder.display()
        )));
    }
    if reading.manifests.is_empty() {
        return Err(Failure::not_found(format!(
            "no Function manifest (*.yaml, *.yml, *.json; folders in it are not read) in {}: try `dormouse dev examples/hello`",
            folder.display()
        )));
    }
    Ok(reading)
}

fn price_plan(file: Option<&Path>) -> Result<PricePlan, Failure> {
    let Some(file) = file else { return Ok(PricePlan::default()) };
    let text =
        std::fs::read_to_string(file).map_err(|e| Failure::failed(format!("cannot read {}: {e}", file.display())))?;
    let value = serde_saphyr::from_str(&text).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
    PricePlan::from_value(&value).map_err(|faults| {
        let faults: Vec<String> =
            faults.0.iter().map(|f| format!("{}: {}: {}", file.display(), f.field, f.problem)).collect();
        Failure::failed(format!("the price plan has faults:\n  {}", faults.join("\n  ")))
    })
}

async fn open_ledger(state: &StateDir, plan: &PricePlan) -> Result<LedgerDoor, Failure> {
    // A developer's ledger may be lost: any file system will do.
    let door = LedgerDoor::new(&state.ledger(), plan.clone(), Filesystem::Any);
    let opening = door.clone();
    let opened = tokio::task::spawn_blocking(move || opening.open().map(drop)).await.map_err(Failure::failed)?;
    opened.map_err(|e| {
        Failure::failed(format!(
            "{e}\nhint: to begin with an empty ledger beside it, name another folder with --state-dir"
        ))
    })?;
    Ok(door)
}

/// The folder itself, or that of the one manifest.
fn home(folder: &Path) -> PathBuf {
    if folder.is_dir() { folder.to_path_buf() } else { manifest::folder_of(folder) }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A running `dev`.
struct Dev {
    folder: PathBuf,
    reading: Reading,
    state: StateDir,
    fleet: Processes,
    places: Places,
    keeper: Keeper,
    controller: Part<Result<(), ControllerError>>,
    activator: Part<()>,
    console: JoinHandle<()>,
}

/// A part that runs until told to stop.
struct Part<T> {
    task: JoinHandle<T>,
    stop: CancellationToken,
}

impl Dev {
    async fn start(
        args: &DevArgs,
        reading: Reading,
        plan: PricePlan,
        ports: Ports,
        mut state: StateDir,
        ledger: LedgerDoor,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let console = Console::new(plan, &ledger);
        let mark = state.mark()?;
        let (keeper, left) = Keeper::start(&program, &mark).await?;
        let (seen, lines) = mpsc::channel(LINES);
        let (seen_calls, calls) = mpsc::channel(LINES);
        let fleet = Processes::new(process::Config { program, mark, seen }, locals(&state, &reading)?);
        let places = Places::default();
        *places.lock() = places_of(&reading);
        let secret = state::random_hex();
        let token = Token::new(&secret).ok_or_else(|| Failure::failed("no token could be made"))?;
        // Activator first: the addresses of functions have its port in them.
        let grpc = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr())?;
        let mut config =
            dormouse_activator::Config::new(ports.traffic, format!("http://{grpc}"), secret.clone(), state.spool());
        config.name = "dev".into();
        config.drain_limit = DRAIN;
        config.seen = Some(seen_calls);
        let activator = Activator::bind(config).await.map_err(|e| ports.activator_failure(e))?;
        let address = activator.traffic_addr();
        let config = dormouse_controller::Config {
            grpc,
            usage: ports.usage,
            token: token.clone(),
            usage_token: Some(token),
            beside_usage: Some(functions::router(fleet.clone(), places.clone())),
            ledger,
            urls: Urls { domain: DOMAIN.into(), activator: format!("http://{address}") },
            health: Health::default(),
        };
        let controller =
            Controller::bind(config, Arc::new(fleet.clone()), &mut prometheus_client::registry::Registry::default())
                .await
                .map_err(|e| ports.controller_failure(e))?;
        let dev = DevFile {
            pid: std::process::id(),
            folder: home(&args.folder).canonicalize()?,
            activator_url: format!("http://{address}"),
            usage_url: format!("http://{}", controller.usage_addr()?),
            token: secret,
        };
        let controller = Part::start(|stop| controller.run(stop));
        let activator = Part::start(|stop| activator.run(stop));
        serves(&dev.activator_url).await?;
        state.announce(&dev)?;
        if left > 0 {
            say::note(format_args!(
                "note: {} of an earlier `dormouse dev` still ran and {} ended",
                counted(left, "process"),
                if left == 1 { "was" } else { "were" }
            ));
        }
        banner(&dev, &reading, &state);
        let console = tokio::spawn(console.run(lines, calls));
        Ok(Self { folder: args.folder.clone(), reading, state, fleet, places, keeper, controller, activator, console })
    }

    /// Until a signal comes, or the controller breaks.
    async fn work(mut self, stop: CancellationToken) -> Outcome {
        let mut watch = Watch::begin(&self.folder)?;
        // What changed while everything was started.
        self.reload();
        watch.follow(&self.reading);
        let broken = loop {
            tokio::select! {
                () = stop.cancelled() => break None,
                ended = &mut self.controller.task => break Some(format!("{ended:?}")),
                () = watch.changed() => {
                    self.reload();
                    watch.follow(&self.reading);
                }
            }
        };
        drop(watch);
        say::note("ending: running calls end, records go to the ledger, instances stop (Ctrl-C again ends at once)");
        self.end(broken.is_none()).await;
        match broken {
            None => Ok(()),
            Some(why) => Err(Failure::failed(format!("the controller ended: {why}"))),
        }
    }

    /// Applies what changed in the folder; with a fault nothing, and what ran keeps running.
    fn reload(&mut self) {
        let reading = match manifest::read(&self.folder) {
            Ok(reading) => reading,
            Err(e) => return say::note(format_args!("cannot read {}: {e}; nothing is changed", self.folder.display())),
        };
        if !reading.faults.is_empty() {
            let what = counted(reading.faults.len(), "fault");
            say::note(format_args!("{what}; nothing is changed, the last good version keeps serving:"));
            return say::note(reload::faults(&reading.faults));
        }
        let changes = Changes::between(&self.reading, &reading);
        let locals = match locals(&self.state, &reading) {
            Ok(locals) => locals,
            Err(e) => return say::note(format_args!("{}; nothing is changed", e.message())),
        };
        *self.places.lock() = places_of(&reading);
        self.fleet.set(locals);
        if let Some(line) = changes.line() {
            say::note(format_args!("manifests: {line}"));
        }
        self.reading = reading;
    }

    /// In order: calls end and their records are shipped, the controller and its ledger close, instances stop.
    async fn end(self, controller_runs: bool) {
        let Self { state, fleet, keeper, controller, activator, console, .. } = self;
        activator.end().await;
        controller.stop.cancel();
        if controller_runs {
            let _ = controller.task.await;
        }
        fleet.close(STOP).await;
        keeper.end().await;
        drop(fleet);
        // Whatever was said last is printed; a sender that is still held somewhere does not hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(1), console).await;
        drop(state);
    }
}

impl<T: Send + 'static> Part<T> {
    fn start<F: Future<Output = T> + Send + 'static>(begin: impl FnOnce(CancellationToken) -> F) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(begin(stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Waits until the activator has its routes: it then knows that nobody answers to a name that cannot be.
async fn serves(url: &str) -> Outcome {
    let door = Door::at(url, None)?;
    let begun = Instant::now();
    loop {
        let request =
            Request::get("/").header(HOST, "nobody.invalid").body(Full::default()).map_err(Failure::failed)?;
        let answer = door.send(request).await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(()),
            _ if begun.elapsed() > READY => {
                return Err(Failure::timed_out(format!("nothing serves on {url} after {} s", READY.as_secs())));
            }
            _ => tokio::time::sleep(READY_PAUSE).await,
        }
    }
}

/// Manifests as the fleet takes them, with the uids by which the ledger knows them.
fn locals(state: &StateDir, reading: &Reading) -> Result<Vec<Local>, Failure> {
    let keys: Vec<FunctionKey> = reading.manifests.iter().map(|m| m.key.clone()).collect();
    let uids = state.uids(&keys).map_err(|e| Failure::failed(format!("cannot write to the state directory: {e}")))?;
    let local = |manifest: &Manifest| {
        let mut function = manifest.function.clone();
        function.metadata.uid = uids.get(&manifest.key.to_string()).cloned();
        if !manifest.code.is_empty() && function.spec.env.len() < MAX_ENV {
            // Part of the environment and so of the revision: changed code rolls like a changed image.
            let mut hasher = DefaultHasher::new();
            manifest.code.hash(&mut hasher);
            let value = Some(format!("{:016x}", hasher.finish()));
            function.spec.env.push(EnvVar { name: CODE.into(), value, value_from: None });
        }
        Local { function, command: manifest.command.clone(), folder: manifest.folder() }
    };
    Ok(reading.manifests.iter().map(local).collect())
}

fn places_of(reading: &Reading) -> BTreeMap<String, String> {
    reading.manifests.iter().map(|m| (m.key.to_string(), format!("{}:{}", m.file.display(), m.line))).collect()
}

fn banner(dev: &DevFile, reading: &Reading, state: &StateDir) {
    let count = counted(reading.manifests.len(), "function");
    say::out(format_args!("dormouse dev: {count} from {}", dev.folder.display()));
    let port = dev.activator_url.rsplit(':').next().unwrap_or_default();
    for manifest in &reading.manifests {
        let FunctionKey { namespace, name } = &manifest.key;
        say::out(format_args!("  {name:<14} http://{name}.{namespace}.{DOMAIN}:{port}/"));
        say::out(format_args!("  {:<14} curl {}/fn/{namespace}/{name}/", "", dev.activator_url));
    }
    say::out(format_args!("  {:<14} {}", "ledger", state.ledger().display()));
    say::out(format_args!(
        "  {:<14} {}   (`dormouse usage`, `dormouse bill`, `dormouse list` in another terminal)",
        "usage API", dev.usage_url
    ));
    say::out(
        "A new function is started once to see that it opens its port (startCheck), then sleeps until it is called. Ctrl-C ends.",
    );
}
