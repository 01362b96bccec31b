//! The ledger in a process of its own, behind the doors that a controller has: frames over gRPC, questions over HTTP.

use anyhow::{Context, Result};
use clap::Args;
use dormouse_controller::budgets::Budgets;
use dormouse_controller::ledger::{self, LedgerDoor, Place, Retention};
use dormouse_controller::tenants::Tenants;
use dormouse_controller::usage_api::{self, Guard};
use dormouse_core::price::PricePlan;
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::Process;
use dormouse_tests::usage::Usage;
use dormouse_tests::wait::until;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

/// How long it may take to open, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The hidden program.
#[derive(Args)]
pub(crate) struct Keep {
    /// Where frames come
    #[arg(long)]
    grpc: SocketAddr,
    /// Where questions come
    #[arg(long)]
    usage: SocketAddr,
    /// Folder of the ledger
    #[arg(long)]
    folder: PathBuf,
    /// URL of a database in its place
    #[arg(long)]
    database: Option<String>,
}

/// `bench keep`: serves until it is told to end, and forgets minutes when it is asked to: see [`Keeper::forget`].
pub(crate) async fn keep(args: Keep) -> Result<()> {
    let stop = dormouse_daemon::shutdown::on_signal()?;
    let place = match &args.database {
        Some(url) => Place::postgres(url)?,
        None => Place::folder(&args.folder),
    };
    let door = LedgerDoor::new(place, PricePlan::default());
    let ledger = door.open().await?;
    let incoming = TcpIncoming::bind(args.grpc).map_err(|e| anyhow::anyhow!("{e}"))?.with_nodelay(Some(true));
    let frames = tonic::transport::Server::builder().add_service(ledger::service(door.clone()));
    let frames = tokio::spawn(frames.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
    let forgetting = axum::Router::new().route(
        "/forget/{hour}",
        axum::routing::post(async move |axum::extract::Path(hour): axum::extract::Path<u32>| {
            ledger.tidy(Retention::default(), hour).await.map_err(|e| e.to_string())
        }),
    );
    let questions = usage_api::with(
        usage_api::router(door.clone(), Budgets::none(), Guard::open(), Tenants::of_themselves()),
        Some(forgetting),
        Guard::open(),
    );
    let listener = TcpListener::bind(args.usage).await?;
    axum::serve(listener, questions).with_graceful_shutdown(stop.cancelled_owned()).await?;
    frames.await??;
    door.close("the bench is over");
    Ok(())
}

/// A running one.
pub(crate) struct Keeper {
    process: Process,
    /// Where frames go.
    pub(crate) grpc: SocketAddr,
    /// Where questions go.
    pub(crate) usage: SocketAddr,
}

impl Keeper {
    /// Starts one on a folder or a database, and waits until it answers.
    pub(crate) async fn start(folder: &Path, database: Option<&str>) -> Result<Self> {
        let [grpc, usage] = free_ports()?;
        let kept = folder.join("ledger");
        let program = super::program(folder)?
            .args(["keep".to_owned(), format!("--grpc={grpc}"), format!("--usage={usage}")])
            .args([format!("--folder={}", kept.to_str().context("a path that is no text")?)])
            .args(database.map(|url| format!("--database={url}")));
        let mut process = program.start()?;
        let asked = Usage::at(usage, None);
        until("the ledger is open", PATIENCE, || {
            let alive = process.check();
            let asked = &asked;
            async move {
                alive?;
                asked.get("/v1/prices").await
            }
        })
        .await?;
        Ok(Self { process, grpc, usage })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has it forget the minutes that are not kept any longer, as seen from an hour: what a controller does each hour.
    pub(crate) async fn forget(&self, hour: u32) -> Result<()> {
        let target = dormouse_tests::client::Target::new(self.usage, "usage", format!("/forget/{hour}"));
        let answer = target.send(target.post(0, "")).await?;
        anyhow::ensure!(answer.status == 200, "{answer}");
        Ok(())
    }

    /// Ends it, once everything is closed.
    pub(crate) fn end(self) -> Result<()> {
        let status = self.process.end(PATIENCE)?;
        anyhow::ensure!(status.success(), "the ledger's process ended with {status}");
        Ok(())
    }
}
