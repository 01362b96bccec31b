//! The command line, and what it means.

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use dormouse_controller::doors::Token;
use dormouse_core::price::PricePlan;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Functions become instances, instances become routes, records become statements.
#[derive(Debug, Parser)]
#[command(name = "dormouse-controller", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the controller against the cluster that it is in, or that KUBECONFIG names.
    Run(Box<Run>),
    /// Prints the custom resource definitions as YAML.
    Crd,
}

/// How the controller runs.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where activators call.
    #[arg(long, env = "DORMOUSE_GRPC", default_value = "0.0.0.0:7070")]
    pub(crate) grpc: SocketAddr,
    /// Where the usage API is.
    #[arg(long, env = "DORMOUSE_USAGE", default_value = "0.0.0.0:8081")]
    pub(crate) usage: SocketAddr,
    /// Where /livez, /readyz, /startupz, /metrics and /loglevel are served.
    #[arg(long, env = "DORMOUSE_ADMIN", default_value = "0.0.0.0:9090")]
    pub(crate) admin: SocketAddr,
    /// Folder of the ledger.
    #[arg(long, env = "DORMOUSE_LEDGER_DIR", default_value = "/var/lib/dormouse")]
    pub(crate) ledger_dir: PathBuf,
    /// File that holds the token which activators share. Without it the token itself is read from DORMOUSE_TOKEN.
    #[arg(long, env = "DORMOUSE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The price plan (YAML). Default: CNY 0.0000002 per call and 0.00003 per GB-second.
    #[arg(long, env = "DORMOUSE_PRICE_PLAN")]
    price_plan: Option<PathBuf>,
    /// Domain below which functions have their names: NAME.NAMESPACE.DOMAIN.
    #[arg(long, env = "DORMOUSE_DOMAIN", default_value = "dormouse.local")]
    pub(crate) domain: String,
    /// Where activators are reached.
    #[arg(long, env = "DORMOUSE_ACTIVATOR_URL", default_value = "http://dormouse-activator.dormouse-system.svc")]
    pub(crate) activator_url: String,
    /// Look at this namespace only; default: all.
    #[arg(long, env = "DORMOUSE_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Make pods that keep the restricted Pod Security level: images that run as root are refused.
    #[arg(long, env = "DORMOUSE_RESTRICTED")]
    pub(crate) restricted: bool,
}

impl Run {
    /// The token.
    pub(crate) fn token(&self) -> anyhow::Result<Token> {
        let text = match &self.token_file {
            Some(file) => read(file)?,
            None => std::env::var("DORMOUSE_TOKEN")
                .context("no token: name its file with --token-file, or set DORMOUSE_TOKEN")?,
        };
        Token::new(&text).context("the token is empty")
    }

    /// The price plan.
    pub(crate) fn price_plan(&self) -> anyhow::Result<PricePlan> {
        let Some(file) = &self.price_plan else { return Ok(PricePlan::default()) };
        let value: serde_json::Value =
            serde_saphyr::from_str(&read(file)?).with_context(|| format!("{} is no YAML", file.display()))?;
        PricePlan::from_value(&value).with_context(|| format!("price plan {}", file.display()))
    }

    /// Where activators are reached, without a slash at the end.
    pub(crate) fn activator_url(&self) -> anyhow::Result<String> {
        let url = self.activator_url.trim_end_matches('/');
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            bail!("--activator-url {url:?} is no http URL");
        }
        Ok(url.to_owned())
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
