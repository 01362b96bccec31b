//! `dormouse dev`: controller, activator and ledger in one process, from the crates that run in a cluster, with
//! instances as child processes.

mod banner;
mod console;
mod first;
mod functions;
mod hangup;
mod keeper;
mod part;
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
use dormouse_controller::Controller;
use dormouse_controller::fleet::process::{self, Local, Processes};
use dormouse_controller::ledger::LedgerDoor;
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::usage_api::Guard;
use dormouse_core::function::EnvVar;
use dormouse_core::price::PricePlan;
use dormouse_core::{Budget, FunctionKey};
use dormouse_daemon::Token;
use dormouse_daemon::telemetry::{self, LogFormat};
use dormouse_daemon::{Health, shutdown};
use functions::Places;
use futures::FutureExt;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Full;
use keeper::Keeper;
use part::Part;
use port::Ports;
use reload::{Changes, Watch};
use state::{DevFile, StateDir};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Functions are called at `NAME.NAMESPACE.localhost`: browsers and curl take every name below `localhost` to be this
/// machine.
const DOMAIN: &str = "localhost";
/// The variable that changes with the files that a command names.
const CODE: &str = "K_LOCAL_CODE";
/// A function with so many variables has no room for another one.
const MAX_ENV: usize = 128;
/// Lines that wait to be printed.
const LINES: usize = 1024;
/// At the start: how long until calls are taken; usually some milliseconds.
const READY: Duration = Duration::from_secs(20);
const READY_PAUSE: Duration = Duration::from_millis(10);
/// At the end: after so long the activator breaks off what runs; it must know before functions change. No call has more
/// (timeoutSeconds is at most 3600), and [`Dev::patience`] usually ends sooner.
const DRAIN: Duration = Duration::from_secs(3600);
/// At the end, beyond the time that running calls have: 5 s for those that are still about to run, and 5 s in which
/// records go to the ledger.
const MARGIN: Duration = Duration::from_secs(10);
/// At the end: how long instances, idle by then, may take.
const STOP: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &DevArgs) -> Outcome {
    telemetry::init(LogFormat::Text, "warn");
    let reading = first::reading(&args.folder)?;
    let plan = first::price_plan(args.price_plan.as_deref())?;
    let ports = Ports::new(args.port, args.usage_port);
    // Before anything is touched; taken for good a moment later.
    ports.check()?;
    let place = args.state_dir.clone().unwrap_or_else(|| first::home(&args.folder).join(state::NAME));
    let state = StateDir::open(&place)?;
    let ledger = first::ledger(&state, &plan).await?;
    // Watches may be used up on this machine: told while there is nothing to end.
    let watch = Watch::begin(&args.folder)?;
    let stop = shutdown::on_signal()?;
    hangup::cancels(stop.clone())?;
    Dev::start(args, reading, plan, ports, state, ledger).await?.work(watch, stop).await
}

/// The budgets that there are at the start: calls are served once they are known.
async fn bound(fleet: Processes, budgets: Vec<Budget>) {
    fleet.set_budgets(budgets).await;
    fleet.budgets_known().await;
}

/// A running `dev`.
struct Dev {
    folder: PathBuf,
    reading: Reading,
    state: StateDir,
    fleet: Processes,
    places: Places,
    keeper: Keeper,
    controller: Part,
    activator: Part,
    console: JoinHandle<()>,
    /// Lets the console begin.
    shown: CancellationToken,
    file: DevFile,
    /// Processes of an earlier `dev` that were ended.
    left: usize,
    /// Longest time that a call of any function so far has to run.
    longest: Duration,
}

impl Dev {
    async fn start(
        args: &DevArgs,
        reading: Reading,
        plan: PricePlan,
        ports: Ports,
        state: StateDir,
        ledger: LedgerDoor,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let console = Console::new(plan, &ledger).await;
        let mark = state.mark()?;
        let (keeper, left) = Keeper::start(&program, &mark).await?;
        let (seen, lines) = mpsc::channel(LINES);
        let (seen_calls, calls) = mpsc::channel(LINES);
        let config =
            process::Config { program, mark, runtimes: state.runtimes(), schedules: Some(state.schedules()), seen };
        let fleet = Processes::new(config, locals(&state, &reading)?).map_err(Failure::failed)?;
        tokio::spawn(bound(fleet.clone(), reading.budgets()));
        let places = Places::default();
        *places.lock() = places_of(&reading);
        let secret = state::random_hex();
        let token = Token::new(&secret).ok_or_else(|| Failure::failed("no token could be made"))?;
        // Activator first: the addresses of functions have its port in them.
        let grpc = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr())?;
        let mut config =
            dormouse_activator::Config::new(ports.traffic, format!("http://{grpc}"), token.clone(), state.spool());
        config.name = "dev".into();
        config.drain_limit = DRAIN;
        config.seen = Some(seen_calls);
        let activator = Activator::bind(config).await.map_err(|e| ports.activator_failure(e))?;
        let address = activator.traffic_addr();
        let config = dormouse_controller::Config {
            grpc,
            usage: ports.usage,
            token: token.clone(),
            usage_guard: Guard::token(token),
            beside_usage: Some(functions::router(fleet.clone(), places.clone())),
            ledger,
            urls: Urls { domain: DOMAIN.into(), activator: format!("http://{address}") },
            health: Health::default(),
        };
        let controller =
            Controller::bind(config, Arc::new(fleet.clone()), &mut prometheus_client::registry::Registry::default())
                .await
                .map_err(|e| ports.controller_failure(e))?;
        let file = DevFile {
            pid: std::process::id(),
            folder: first::home(&args.folder).canonicalize()?,
            activator_url: format!("http://{address}"),
            usage_url: format!("http://{}", controller.usage_addr()?),
            token: secret,
        };
        let controller = Part::start("controller", |stop| controller.run(stop));
        let activator = Part::start("activator", |stop| activator.run(stop).map(Ok::<(), Infallible>));
        // From here on something runs: whoever has this ends it, whatever fails.
        let shown = CancellationToken::new();
        let show = shown.clone();
        let console = tokio::spawn(async move {
            show.cancelled().await;
            console.run(lines, calls).await;
        });
        let (folder, longest) = (args.folder.clone(), longest(&reading));
        Ok(Self {
            folder,
            reading,
            state,
            fleet,
            places,
            keeper,
            controller,
            activator,
            console,
            shown,
            file,
            left,
            longest,
        })
    }

    /// Until a signal comes, or something breaks; either way everything is ended.
    async fn work(mut self, watch: Watch, stop: CancellationToken) -> Outcome {
        let outcome = self.serve(watch, &stop).await;
        let patience = self.patience(&outcome);
        if let Err(failure) = &outcome {
            say::note(format_args!("ending, because {}", failure.message()));
        }
        say::note(format_args!(
            "ending: running calls end, records go to the ledger, instances stop; at most {} s (Ctrl-C {} ends at once)",
            (patience + STOP).as_secs(),
            if stop.is_cancelled() { "again" } else { "twice" },
        ));
        self.end(patience).await;
        outcome
    }

    async fn serve(&mut self, mut watch: Watch, stop: &CancellationToken) -> Outcome {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            failure = self.controller.broke() => return Err(failure),
            failure = self.activator.broke() => return Err(failure),
            served = serves(&self.file.activator_url) => served?,
        }
        self.state
            .announce(&self.file)
            .map_err(|e| Failure::failed(format!("cannot write to the state directory: {e}")))?;
        banner::show(&self.file, &self.reading, &self.state, self.left);
        self.shown.cancel();
        // What changed while everything was started.
        self.reload().await;
        watch.follow(&self.reading);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                failure = self.controller.broke() => return Err(failure),
                failure = self.activator.broke() => return Err(failure),
                () = watch.changed() => {
                    self.reload().await;
                    watch.follow(&self.reading);
                }
            }
        }
    }

    /// How long the activator may take to end: as long as a running call may, if calls can still end well.
    fn patience(&self, outcome: &Outcome) -> Duration {
        if outcome.is_ok() { self.longest + MARGIN } else { MARGIN }
    }

    /// Applies what changed in the folder; with a fault nothing, and what ran keeps running.
    async fn reload(&mut self) {
        let reading = match manifest::read(&self.folder) {
            Ok(reading) => reading,
            Err(e) => return say::note(format_args!("cannot read {}: {e}; nothing is changed", self.folder.display())),
        };
        if !reading.faults.is_empty() {
            let what = first::counted(reading.faults.len(), "fault");
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
        self.fleet.set_budgets(reading.budgets()).await;
        if let Some(line) = changes.line() {
            say::note(format_args!("manifests: {line}"));
        }
        // Calls of the functions before may still run.
        self.longest = self.longest.max(longest(&reading));
        self.reading = reading;
    }

    /// In order: calls end and their records are shipped, the controller and its ledger close, instances stop.
    async fn end(self, patience: Duration) {
        let Self { state, fleet, keeper, controller, activator, console, shown, .. } = self;
        // Also when it was never ready: what functions said may tell why.
        shown.cancel();
        // What is left after that breaks off with its instance; its record stays in the spool for the next start.
        let _ = timeout(patience, activator.end()).await;
        controller.end().await;
        fleet.close(STOP).await;
        keeper.end().await;
        drop(fleet);
        // Whatever was said last is printed; a sender that is still held somewhere does not hold us up.
        let _ = timeout(Duration::from_secs(1), console).await;
        drop(state);
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

/// The longest time that a call of these functions has to run.
fn longest(reading: &Reading) -> Duration {
    let seconds = reading.manifests.iter().filter_map(|m| u64::try_from(m.function.spec.timeout_seconds).ok());
    Duration::from_secs(seconds.max().unwrap_or(0))
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
