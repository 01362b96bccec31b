//! The command line, and what it means.

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use dormouse_controller::fleet::kubernetes::wall::Policies;
use dormouse_controller::ledger::{Place, Plans, Retention};
use dormouse_controller::load::LoadKey;
use dormouse_controller::reconcile::build::code::RuntimeImages;
use dormouse_controller::reconcile::build::network_policy::Platform;
use dormouse_controller::usage_api::Guard;
use dormouse_controller::usage_api::reviews::ApiServer;
use dormouse_core::price::PricePlan;
use dormouse_core::warm_pool::{WarmPool, WarmPoolSpec};
use dormouse_daemon::Token;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Moves a ledger: into a file, and from there into another folder or database.
    #[command(subcommand)]
    Ledger(dormouse_controller::ledger::transfer::Command),
    /// Prints a custom resource definition as YAML.
    Crd {
        /// Of which kind.
        #[arg(value_enum, default_value = "functions")]
        kind: Kind,
    },
}

/// The kinds that Dormouse defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Budgets,
    Functions,
    #[value(name = "warmpools")]
    WarmPools,
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
    /// Audiences (separated by commas) that a token of Kubernetes may be meant for, to be taken by the usage API for what
    /// its owner may see: the right to get functions/usage. Empty: only the shared token is taken.
    #[arg(long, env = "DORMOUSE_USAGE_AUDIENCES", value_delimiter = ',', default_value = "dormouse-usage")]
    usage_audiences: Vec<String>,
    /// Where /livez, /readyz, /startupz, /metrics and /loglevel are served.
    #[arg(long, env = "DORMOUSE_ADMIN", default_value = "0.0.0.0:9090")]
    pub(crate) admin: SocketAddr,
    /// Folder of the ledger.
    #[arg(long, env = "DORMOUSE_LEDGER_DIR", default_value = "/var/lib/dormouse")]
    pub(crate) ledger_dir: PathBuf,
    /// File that holds the URL of a PostgreSQL database (postgres://user:password@host/name?sslmode=require) in which the
    /// ledger is kept, instead of a folder. Without it the URL itself is read from DORMOUSE_LEDGER_URL.
    #[arg(long, env = "DORMOUSE_LEDGER_URL_FILE")]
    ledger_url_file: Option<PathBuf>,
    /// Days for which sums by the hour are kept. After them there are sums by the day, for ever.
    #[arg(long, env = "DORMOUSE_KEEP_HOURS_DAYS", default_value_t = Retention::default().hour_days)]
    keep_hours_days: u32,
    /// Days for which single records are kept.
    #[arg(long, env = "DORMOUSE_KEEP_RECORDS_DAYS", default_value_t = Retention::default().record_days)]
    keep_records_days: u32,
    /// Folder for the records that are kept no longer: a Parquet file for each day, there before they go. Without it they
    /// go for good.
    #[arg(long, env = "DORMOUSE_ARCHIVE_DIR")]
    pub(crate) archive_dir: Option<PathBuf>,
    /// Days after the end of a month until its statements are closed: what comes later is corrected by the next ones.
    #[arg(long, env = "DORMOUSE_CLOSE_AFTER_DAYS", default_value_t = Retention::default().close_after_days)]
    close_after_days: u32,
    /// File that holds the token which activators share. Without it the token itself is read from DORMOUSE_TOKEN.
    #[arg(long, env = "DORMOUSE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The price plan (YAML). Default: CNY 0.0000002 per call and 0.00003 per GB-second.
    #[arg(long, env = "DORMOUSE_PRICE_PLAN")]
    price_plan: Option<PathBuf>,
    /// Other price plans that usage can be priced by, besides those that come with Dormouse (YAML, a file each; separated
    /// by commas).
    #[arg(long, env = "DORMOUSE_OTHER_PRICE_PLANS", value_delimiter = ',')]
    other_price_plans: Vec<PathBuf>,
    /// Domain below which functions have their names: NAME.NAMESPACE.DOMAIN.
    #[arg(long, env = "DORMOUSE_DOMAIN", default_value = "dormouse.local")]
    pub(crate) domain: String,
    /// Where activators are reached.
    #[arg(long, env = "DORMOUSE_ACTIVATOR_URL", default_value = "http://dormouse-activator.dormouse-system.svc")]
    pub(crate) activator_url: String,
    /// Look at this namespace only; default: all.
    #[arg(long, env = "DORMOUSE_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Namespace that activators and controller run in. Without it neither activators' ends are seen nor NetworkPolicies
    /// made.
    #[arg(long, env = "DORMOUSE_SYSTEM_NAMESPACE", requires = "activator_labels", value_parser = namespace)]
    system_namespace: Option<String>,
    /// Labels (key=value, separated by commas) that an activator's pod has there and no other.
    #[arg(long, env = "DORMOUSE_ACTIVATOR_LABELS", value_delimiter = ',', value_parser = label, requires = "system_namespace")]
    activator_labels: Vec<(String, String)>,
    /// The same of the controller's pod: it dials functions for a start check while no activator is connected.
    #[arg(long, env = "DORMOUSE_CONTROLLER_LABELS", value_delimiter = ',', value_parser = label, requires = "system_namespace")]
    controller_labels: Vec<(String, String)>,
    /// NetworkPolicies by which only activators reach functions: made in each namespace that has some, removed, or left
    /// as they are.
    #[arg(long, env = "DORMOUSE_NETWORK_POLICIES", value_enum, default_value = "leave")]
    network_policies: NetworkPolicies,
    /// Image of the program that parks the pods of warm pools. Without it there are none: every function wakes by its
    /// Deployment.
    #[arg(long, env = "DORMOUSE_PARKER_IMAGE")]
    pub(crate) parker_image: Option<String>,
    /// File (YAML) with the warm pools to make: a list of {namespace, name, spec}. Those that were in it before and are no
    /// more are removed.
    #[arg(long, env = "DORMOUSE_WARM_POOLS", requires = "parker_image")]
    warm_pools: Option<PathBuf>,
    /// Image of the language runtime of Functions with handler code for nodejs.
    #[arg(long, env = "DORMOUSE_NODEJS_IMAGE", default_value_t = runtime_image("nodejs"))]
    nodejs_image: String,
    /// The same for python.
    #[arg(long, env = "DORMOUSE_PYTHON_IMAGE", default_value_t = runtime_image("python"))]
    python_image: String,
    /// File that holds a secret text of at least 32 characters, from which the key follows that code is signed with on its
    /// way into parked runtimes. Without it there is another key in each life: pods that keep a runtime are then
    /// replaced when the controller starts anew.
    #[arg(long, env = "DORMOUSE_LOAD_KEY_FILE")]
    load_key_file: Option<PathBuf>,
    /// Make pods that keep the restricted Pod Security level: images that run as root are refused.
    #[arg(long, env = "DORMOUSE_RESTRICTED")]
    pub(crate) restricted: bool,
}

/// A warm pool to make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedPool {
    namespace: String,
    name: String,
    #[serde(default)]
    spec: WarmPoolSpec,
}

/// What to do about NetworkPolicies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkPolicies {
    Make,
    Remove,
    Leave,
}

impl Run {
    /// How long what is kept.
    pub(crate) fn retention(&self) -> anyhow::Result<Retention> {
        let (hour_days, record_days) = (self.keep_hours_days, self.keep_records_days);
        Ok(Retention { hour_days, record_days, close_after_days: self.close_after_days }.checked()?)
    }

    /// Where activators run as pods.
    pub(crate) fn platform(&self) -> Option<Platform> {
        Some(Platform {
            namespace: self.system_namespace.clone()?,
            activators: self.activator_labels.iter().cloned().collect(),
            controller: self.controller_labels.iter().cloned().collect(),
        })
    }

    /// What is to become of NetworkPolicies.
    pub(crate) fn policies(&self) -> anyhow::Result<Policies> {
        Ok(match self.network_policies {
            NetworkPolicies::Leave => Policies::Leave,
            NetworkPolicies::Remove => Policies::Remove,
            NetworkPolicies::Make => Policies::Make(
                self.platform().context("--network-policies=make needs --system-namespace and --activator-labels")?,
            ),
        })
    }

    /// The token.
    pub(crate) fn token(&self) -> anyhow::Result<Token> {
        let text = match &self.token_file {
            Some(file) => read(file)?,
            None => std::env::var("DORMOUSE_TOKEN")
                .context("no token: name its file with --token-file, or set DORMOUSE_TOKEN")?,
        };
        Token::new(&text).context("the token is empty")
    }

    /// Where the ledger is.
    pub(crate) fn ledger(&self) -> anyhow::Result<Place> {
        let (url, from) = match &self.ledger_url_file {
            Some(file) => (read(file)?, file.display().to_string()),
            None => match std::env::var("DORMOUSE_LEDGER_URL") {
                Ok(url) if !url.is_empty() => (url, "DORMOUSE_LEDGER_URL".to_owned()),
                _ => return Ok(Place::folder(&self.ledger_dir)),
            },
        };
        Place::postgres(&url).with_context(|| format!("what {from} holds"))
    }

    /// What handler code runs on.
    pub(crate) fn runtimes(&self) -> RuntimeImages {
        RuntimeImages { nodejs: self.nodejs_image.clone(), python: self.python_image.clone() }
    }

    /// What loads are signed with.
    pub(crate) fn load_key(&self) -> anyhow::Result<LoadKey> {
        match &self.load_key_file {
            Some(file) => LoadKey::from_secret(&read(file)?).with_context(|| format!("{}", file.display())),
            None => Ok(LoadKey::random()?),
        }
    }

    /// The price plan in force, those that are named beside it, and those that come with Dormouse.
    pub(crate) fn price_plans(&self) -> anyhow::Result<Plans> {
        let in_force = self.price_plan.as_deref().map_or_else(|| Ok(PricePlan::default()), price_plan)?;
        let mut others = self.other_price_plans.iter().map(|file| price_plan(file)).collect::<Result<Vec<_>, _>>()?;
        others.extend(PricePlan::shipped());
        Ok(Plans::new(in_force, others).checked()?)
    }

    /// The warm pools to make.
    pub(crate) fn warm_pools(&self) -> anyhow::Result<Vec<WarmPool>> {
        let Some(file) = &self.warm_pools else { return Ok(Vec::new()) };
        let text = read(file)?;
        let named: Vec<NamedPool> =
            serde_saphyr::from_str(&text).with_context(|| format!("warm pools {}", file.display()))?;
        let pool = |NamedPool { namespace, name, spec }| {
            let mut pool = WarmPool::new(&name, spec);
            pool.metadata.namespace = Some(namespace);
            pool
        };
        Ok(named.into_iter().map(pool).collect())
    }

    /// Where activators are reached, without a slash at the end.
    pub(crate) fn activator_url(&self) -> anyhow::Result<String> {
        let url = self.activator_url.trim_end_matches('/');
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            bail!("--activator-url {url:?} is no http URL");
        }
        Ok(url.to_owned())
    }

    /// Who may ask the usage API what.
    pub(crate) fn usage_guard(&self, operator: Token, client: &kube::Client) -> anyhow::Result<Guard> {
        let guard = Guard::token(operator);
        Ok(match self.audiences()? {
            audiences if audiences.is_empty() => guard,
            audiences => guard.reviewed_by(Arc::new(ApiServer::new(client.clone(), audiences))),
        })
    }

    /// The audiences that are named, at most [`MAX_AUDIENCES`].
    fn audiences(&self) -> anyhow::Result<Vec<String>> {
        let named: Vec<String> = self.usage_audiences.iter().filter(|name| !name.is_empty()).cloned().collect();
        let good = |name: &String| name.len() <= MAX_AUDIENCE && name.bytes().all(|b| b.is_ascii_graphic());
        if named.len() > MAX_AUDIENCES || !named.iter().all(good) {
            bail!(
                "--usage-audiences takes at most {MAX_AUDIENCES} names of at most {MAX_AUDIENCE} characters without space"
            );
        }
        Ok(named)
    }
}

/// The image that goes with this version.
fn runtime_image(name: &str) -> String {
    format!("dormouse/runtime-{name}:{}", env!("CARGO_PKG_VERSION"))
}

fn price_plan(file: &Path) -> anyhow::Result<PricePlan> {
    let value: serde_json::Value =
        serde_saphyr::from_str(&read(file)?).with_context(|| format!("{} is no YAML", file.display()))?;
    PricePlan::from_value(&value).with_context(|| format!("price plan {}", file.display()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A namespace's name: what Kubernetes calls a DNS label, at most 63 characters.
fn namespace(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(good) {
        return Err("write the name of a namespace".to_owned());
    }
    Ok(text.to_owned())
}

/// Most audiences, and most characters of one: a URL, as identity providers name theirs.
const MAX_AUDIENCES: usize = 16;
const MAX_AUDIENCE: usize = 512;

/// Most bytes of a label's key (a prefix of 253, a slash, a name of 63) and of its value.
const MAX_LABEL: (usize, usize) = (317, 63);

/// A label that is not empty: an empty one would stand for pods that nobody meant.
fn label(text: &str) -> Result<(String, String), String> {
    let good = |text: &str, max: usize, more: &[u8]| {
        let known = |b: u8| b.is_ascii_alphanumeric() || more.contains(&b);
        !text.is_empty() && text.len() <= max && text.bytes().all(known)
    };
    match text.split_once('=') {
        Some((key, value)) if good(key, MAX_LABEL.0, b"-_./") && good(value, MAX_LABEL.1, b"-_.") => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("write a label as key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(more: &[&str]) -> Result<Run, String> {
        match Cli::try_parse_from(["dormouse-controller", "run"].iter().chain(more)) {
            Ok(Cli { command: Command::Run(run) }) => Ok(*run),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_platform_is_told_whole_or_not_at_all() {
        let where_ = ["--system-namespace=system", "--activator-labels=a/b=c,d=e"];
        let told = run(&[&where_[..], &["--controller-labels=d=f", "--network-policies=make"]].concat()).unwrap();
        let platform = told.platform().unwrap();
        assert_eq!(platform.activators, [("a/b".to_owned(), "c".to_owned()), ("d".to_owned(), "e".to_owned())].into());
        assert_eq!(told.policies().unwrap(), Policies::Make(platform));
        assert_eq!(run(&[]).unwrap().policies().unwrap(), Policies::Leave);
        assert_eq!(run(&["--network-policies=remove"]).unwrap().policies().unwrap(), Policies::Remove);
        let why = run(&["--network-policies=make"]).unwrap().policies().unwrap_err().to_string();
        assert!(why.contains("needs --system-namespace"), "{why}");
    }

    #[test]
    fn audiences_are_a_short_list_of_words() {
        let named = |flag: &str| run(&[flag]).unwrap().audiences();
        assert_eq!(run(&[]).unwrap().audiences().unwrap(), ["dormouse-usage"]);
        assert_eq!(named("--usage-audiences=a,https://b.example").unwrap(), ["a", "https://b.example"]);
        assert!(named("--usage-audiences=").unwrap().is_empty());
        for bad in ["a b".to_owned(), "x".repeat(MAX_AUDIENCE + 1), vec!["x"; MAX_AUDIENCES + 1].join(",")] {
            let why = named(&format!("--usage-audiences={bad}")).unwrap_err().to_string();
            assert!(why.contains("--usage-audiences"), "{why}");
        }
    }

    #[test]
    fn what_would_select_every_pod_is_refused() {
        for bad in [
            &["--system-namespace=system"][..],
            &["--activator-labels=a=b"],
            &["--system-namespace=system", "--activator-labels="],
            &["--system-namespace=system", "--activator-labels=a"],
            &["--system-namespace=system", "--activator-labels=a=b,"],
            &["--system-namespace=system", "--activator-labels=a=b c"],
            &["--system-namespace=A", "--activator-labels=a=b"],
            &["--network-policies=maybe"],
        ] {
            let said = run(bad).map(|_| ()).unwrap_err();
            assert!(said.contains("error:"), "{bad:?}: {said}");
        }
    }
}
