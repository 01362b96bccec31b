//! The activator's process: flags, logs, admin port, signals; everything else is in the library.

mod args;

use anyhow::Context;
use clap::Parser;
use dormouse_activator::{Activator, raise_file_limit};
use dormouse_daemon::{admin::Admin, shutdown, telemetry};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    let logs = telemetry::init(telemetry::LogFormat::Json, "info");
    let files = raise_file_limit();
    let stop = shutdown::on_signal()?;
    let admin_addr = args.admin;
    let activator = Activator::bind(args.config()?).await?;
    let mut registry = Registry::default();
    activator.register(&mut registry);
    let listener = tokio::net::TcpListener::bind(admin_addr)
        .await
        .with_context(|| format!("cannot listen on {admin_addr} (--admin)"))?;
    // The admin port outlives the traffic: "not ready" must be seen while calls drain.
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(
        Admin { health: activator.health(), registry: registry.into(), logs }.serve(listener, admin_stop.clone()),
    );
    tracing::info!(traffic = %activator.traffic_addr(), admin = %admin_addr, files, "serving");
    activator.run(stop).await;
    admin_stop.cancel();
    admin.await?.context("admin port")?;
    tracing::info!("ended");
    Ok(())
}
