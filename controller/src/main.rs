//! The controller's process in a cluster.

mod args;

use anyhow::Context;
use args::{Cli, Command, Kind, Run};
use clap::Parser;
use dormouse_controller::fleet::kubernetes::{Kubernetes, Options};
use dormouse_controller::ledger::LedgerDoor;
use dormouse_controller::reconcile::build::deployment::PodRules;
use dormouse_controller::reconcile::plan::Urls;
use dormouse_controller::{Config, Controller};
use dormouse_core::function::Function;
use dormouse_core::{Budget, WarmPool};
use dormouse_daemon::admin::Admin;
use dormouse_daemon::telemetry::{self, LogFilter, LogFormat};
use dormouse_daemon::{Health, shutdown, version};
use kube::CustomResourceExt;
use prometheus_client::registry::Registry;
use std::io::Write;
use std::sync::Arc;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd { kind } => {
            let crd = match kind {
                Kind::Budgets => Budget::crd(),
                Kind::Functions => Function::crd(),
                Kind::WarmPools => WarmPool::crd(),
            };
            let yaml = serde_saphyr::to_string(&crd).context("the CRD cannot be written as YAML")?;
            std::io::stdout().write_all(yaml.as_bytes()).context("cannot write to standard output")
        }
        Command::Ledger(command) => {
            dormouse_daemon::install_tls_provider();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let moved = runtime.block_on(dormouse_controller::ledger::transfer::run(&command))?;
            writeln!(std::io::stderr(), "{moved}").context("cannot write to standard error")
        }
        Command::Run(args) => {
            dormouse_daemon::install_tls_provider();
            let logs = telemetry::init(LogFormat::Json, "info");
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(*args, logs))
        }
    }
}

async fn run(args: Run, logs: LogFilter) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let (token, plans, health) = (args.token()?, args.price_plans()?, Health::default());
    let client = kube::Client::try_default().await.context("no cluster: not in a pod, and KUBECONFIG names none")?;
    let reporter = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    let options = Options {
        namespace: args.namespace.clone(),
        rules: PodRules { restricted: args.restricted, runtimes: args.runtimes() },
        load_key: args.load_key()?,
        reporter: reporter.unwrap_or_else(|_| "dormouse-controller".to_owned()),
        platform: args.platform(),
        parker: args.parker_image.clone().filter(|image| !image.is_empty()),
        pools: args.warm_pools()?,
        policies: args.policies()?,
    };
    let mut registry = Registry::default();
    let config = Config {
        grpc: args.grpc,
        usage: args.usage,
        token: token.clone(),
        usage_guard: args.usage_guard(token, &client)?,
        beside_usage: None,
        ledger: LedgerDoor::keeping(args.ledger()?, plans, args.retention()?, args.archive_dir.clone()),
        urls: Urls { domain: args.domain.clone(), activator: args.activator_url()? },
        health: health.clone(),
    };
    let admin_port =
        TcpListener::bind(args.admin).await.with_context(|| format!("cannot listen on {} for health", args.admin))?;
    let fleet = Kubernetes::start(client, options);
    fleet.register(&mut registry);
    version::register(&mut registry, "dormouse-controller", env!("CARGO_PKG_VERSION"));
    let controller = Controller::bind(config, Arc::new(fleet), &mut registry).await?;
    tracing::info!(grpc = %controller.grpc_addr()?, usage = %controller.usage_addr()?, "the controller runs");
    let admin = tokio::spawn(Admin { health, registry: registry.into(), logs }.serve(admin_port, stop.clone()));
    controller.run(stop.clone()).await?;
    stop.cancel();
    admin.await?.context("the admin port broke")
}
