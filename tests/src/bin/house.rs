//! A controller in a process of its own whose instances are local processes: the product's crates on one machine, split
//! as in a cluster, so that a suite can kill its parts one by one and a bench can measure the activator alone.
//!
//! `dormouse dev` is the same in one process. What a killed house left behind its successor ends, as `dev` does.

use anyhow::{Context, Result};
use clap::Parser;
use dormouse_controller::fleet::process::{Config as Fleet, Local, Processes, command, leftover};
use dormouse_controller::ledger::{LedgerDoor, Place};
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::usage_api::Guard;
use dormouse_controller::{Config, Controller};
use dormouse_core::Budget;
use dormouse_core::function::Function;
use dormouse_core::price::{Durability, PricePlan};
use dormouse_core::valid::LOCAL_COMMAND;
use dormouse_daemon::Token;
use dormouse_daemon::admin::Admin;
use dormouse_daemon::telemetry::{self, LogFormat};
use dormouse_daemon::{Health, shutdown};
use dormouse_tests::ground;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How long instances may take to end when the house is told to.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Args {
    /// Where the activator calls.
    #[arg(long)]
    grpc: SocketAddr,
    /// Where usage is read.
    #[arg(long)]
    usage: SocketAddr,
    /// URL of a PostgreSQL database in which the ledger is kept, instead of the folder; empty for none.
    #[arg(long, env = "DORMOUSE_LEDGER_URL", default_value = "")]
    ledger_url: String,
    /// Folder of the ledger.
    #[arg(long)]
    ledger_dir: PathBuf,
    /// The shared token.
    #[arg(long)]
    token: String,
    /// Where /readyz and the like are served.
    #[arg(long)]
    admin: SocketAddr,
    /// How safe a record is when its response ends: process, disk or ledger.
    #[arg(long, default_value = "process", value_parser = ground::durability)]
    durability: Durability,
    /// A Budget, as JSON. All of them are replaced by what is put to `/budgets` beside the usage API, as a JSON list.
    #[arg(long = "budget")]
    budgets: Vec<PathBuf>,
    /// The mark of its instances.
    #[arg(long)]
    mark: String,
    /// A function, as JSON with `metadata.uid`; its annotation `dormouse.dev/local-command` says what its instances run.
    #[arg(long = "function", required = true)]
    functions: Vec<PathBuf>,
}

/// A function from its file; its instances run in the folder of that.
fn local(file: &Path) -> Result<Local> {
    let folder = file.parent().context("no folder")?;
    let function: Function = serde_json::from_slice(&std::fs::read(file)?).context("no function")?;
    let annotations = function.metadata.annotations.as_ref();
    let text = annotations.and_then(|a| a.get(LOCAL_COMMAND)).context("no command")?;
    let command = command::words(text)?;
    Ok(Local { function, command, folder: folder.to_owned() })
}

#[tokio::main]
async fn main() -> Result<()> {
    let logs = telemetry::init(LogFormat::Text, "info");
    let (args, stop) = (Args::parse(), shutdown::on_signal()?);
    let left = leftover::kill_all(&args.mark);
    tracing::info!(left, "instances of a killed house were ended");
    let functions = args.functions.iter().map(|file| local(file).with_context(|| format!("{}", file.display())));
    let functions: Vec<Local> = functions.collect::<Result<_>>()?;
    let (seen, mut lines) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(seen) = lines.recv().await {
            tracing::info!(?seen, "fleet");
        }
    });
    let runtimes = std::env::temp_dir().join(format!("dormouse-runtimes-{}", args.mark));
    let fleet = Fleet { program: std::env::current_exe()?, mark: args.mark, runtimes, schedules: None, seen };
    let fleet = Arc::new(Processes::new(fleet, functions)?);
    let budgets = args.budgets.iter().map(|file| Ok(serde_json::from_slice(&std::fs::read(file)?)?));
    fleet.set_budgets(budgets.collect::<Result<_>>()?).await;
    fleet.budgets_known().await;
    let household = fleet.clone();
    let replacing = axum::Router::new().route(
        "/budgets",
        axum::routing::put(async move |axum::Json(budgets): axum::Json<Vec<Budget>>| {
            household.set_budgets(budgets).await
        }),
    );
    let token = Token::new(&args.token).context("no token")?;
    let place = match args.ledger_url.as_str() {
        "" => Place::folder(&args.ledger_dir),
        url => Place::postgres(url)?,
    };
    let plan = PricePlan { durability: args.durability, ..PricePlan::default() };
    let health = Health::default();
    let config = Config {
        grpc: args.grpc,
        usage: args.usage,
        token: token.clone(),
        usage_guard: Guard::token(token),
        beside_usage: Some(replacing),
        ledger: LedgerDoor::new(place, plan),
        urls: Urls { domain: "localhost".into(), activator: "http://localhost".into() },
        health: health.clone(),
    };
    let (admin, mut registry) = (TcpListener::bind(args.admin).await?, Registry::default());
    let controller = Controller::bind(config, fleet.clone(), &mut registry).await?;
    tokio::spawn(Admin { health, registry: registry.into(), logs }.serve(admin, stop.clone()));
    let result = controller.run(stop).await;
    fleet.close(GRACE).await;
    Ok(result?)
}
