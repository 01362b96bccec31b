//! Which Dormouse a command asks: a `dev` on this machine, or a cluster.

pub(crate) mod cluster;
pub(crate) mod details;
pub(crate) mod door;
pub(crate) mod revisions;

use crate::args::WhereArgs;
use crate::dev::state::{self, DevFile};
use crate::exit::Failure;
use crate::view::View;
use details::Details;
pub(crate) use door::Door;
use http::Method;
use std::path::{Path, PathBuf};

/// Ports of the pods behind the Services.
const USAGE_PORT: u16 = 8081;
const ACTIVATOR_PORT: u16 = 8080;

/// The doors of one Dormouse.
pub(crate) struct Target {
    place: Place,
    args: WhereArgs,
}

enum Place {
    Dev(DevFile),
    Cluster(Box<kube::Config>),
    /// Nothing but the addresses given.
    Addresses,
}

impl Target {
    /// Finds it: as told, else the `dev` of this folder or one above it, else the only `dev` that runs, else the
    /// kubeconfig's cluster.
    pub(crate) async fn find(args: &WhereArgs) -> Result<Self, Failure> {
        let place = find(args).await?;
        Ok(Self { place, args: args.clone() })
    }

    /// The cluster, for a command that makes no sense elsewhere, also where a `dev` runs.
    pub(crate) async fn of_cluster(args: &WhereArgs, command: &str) -> Result<Self, Failure> {
        if args.dev.is_some() {
            let why = format!("`dormouse {command}` is for a cluster: a `dormouse dev` takes what its folder holds");
            return Err(Failure::usage(why));
        }
        Self::find(&WhereArgs { cluster: true, ..args.clone() }).await
    }

    /// The cluster's API; `None` where there is none.
    pub(crate) fn api(&self) -> Result<Option<kube::Client>, Failure> {
        match &self.place {
            Place::Cluster(config) => client(config).map(Some),
            Place::Dev(_) | Place::Addresses => Ok(None),
        }
    }

    /// The cluster's API, where it is that of [`Target::of_cluster`].
    pub(crate) fn cluster_api(&self) -> Result<kube::Client, Failure> {
        self.api()?.ok_or_else(|| nothing_found(""))
    }

    /// The usage API.
    pub(crate) async fn usage(&self) -> Result<Door, Failure> {
        let token = given(&self.args)?;
        match (&self.args.usage_url, &self.place) {
            (Some(url), Place::Cluster(config)) if token.is_none() => self.usage_of(url, config).await,
            (Some(url), _) => Door::usage(url, token),
            (None, Place::Dev(dev)) => Door::usage(&dev.usage_url, Some(token.unwrap_or_else(|| dev.token.clone()))),
            (None, Place::Cluster(config)) => {
                let client = client(config)?;
                let token = match token {
                    Some(token) => token,
                    None => cluster::token(&client, &self.args.system_namespace).await?,
                };
                Ok(Door::service(client, &self.args.system_namespace, "dormouse-usage", USAGE_PORT, Some(token)))
            }
            (None, Place::Addresses) => Err(nothing_found("")),
        }
    }

    /// The usage API of a cluster by its address, with no token given: the operator's, for who may read its Secret, else
    /// what the kubeconfig shows to the API server, where nobody can read it on the way.
    async fn usage_of(&self, url: &str, config: &kube::Config) -> Result<Door, Failure> {
        let refusal = match cluster::token(&client(config)?, &self.args.system_namespace).await {
            Ok(token) => return Door::usage(url, Some(token)),
            Err(refusal) => refusal,
        };
        let why = match cluster::bearer(&config.auth_info) {
            Some(shown) if door::is_private(url)? => return Door::showing(url, shown),
            Some(_) => "the kubeconfig's token opens more than the usage API, and is not sent over http",
            None => "the kubeconfig has no token",
        };
        Err(Failure::failed(format!(
            "no token for {url}: {why}; {}. Give one with --token-file or DORMOUSE_TOKEN: {}",
            refusal.message(),
            door::A_TOKEN
        )))
    }

    /// Where functions are called.
    pub(crate) fn activator(&self) -> Result<Door, Failure> {
        match (&self.args.activator_url, &self.place) {
            (Some(url), _) => Door::at(url, None),
            (None, Place::Dev(dev)) => Door::at(&dev.activator_url, None),
            (None, Place::Cluster(config)) => {
                let namespace = &self.args.system_namespace;
                Ok(Door::service(client(config)?, namespace, "dormouse-activator", ACTIVATOR_PORT, None))
            }
            (None, Place::Addresses) => Err(nothing_found("")),
        }
    }

    /// The namespace meant when none is named.
    pub(crate) fn default_namespace(&self) -> String {
        match &self.place {
            Place::Cluster(config) => config.default_namespace.clone(),
            Place::Dev(_) | Place::Addresses => "default".into(),
        }
    }

    /// True for a `dev`, whose functions are few: all namespaces are listed.
    pub(crate) fn is_dev(&self) -> bool {
        matches!(self.place, Place::Dev(_))
    }

    /// Functions of a namespace, or of all.
    pub(crate) async fn functions(&self, namespace: Option<&str>) -> Result<Vec<View>, Failure> {
        match &self.place {
            Place::Cluster(config) => cluster::functions(&client(config)?, namespace).await,
            Place::Dev(_) | Place::Addresses => {
                let body = self.usage().await?.get("/v1/functions").await?;
                let mut views: Vec<View> = serde_json::from_slice(&body)
                    .map_err(|e| Failure::failed(format!("the answer is of another version: {e}")))?;
                views.retain(|v| namespace.is_none_or(|n| v.namespace() == n));
                Ok(views)
            }
        }
    }

    /// Lets go of a function's instances that nothing needs now.
    pub(crate) async fn put_to_sleep(&self, namespace: &str, name: &str) -> Result<(), Failure> {
        match &self.place {
            Place::Cluster(config) => cluster::put_to_sleep(&client(config)?, namespace, name).await,
            Place::Dev(_) | Place::Addresses => {
                let path = format!("/v1/functions/{namespace}/{name}/sleep");
                self.usage().await?.ask(Method::POST, &path).await.map(drop)
            }
        }
    }

    /// What is known of a function beyond its object; nothing more of that of a `dev`.
    pub(crate) async fn details(&self, view: &View) -> Result<Details, Failure> {
        match self.api()? {
            Some(client) => Ok(details::of(&client, &view.function).await),
            None => Ok(Details::default()),
        }
    }

    /// One function with its instances and events.
    pub(crate) async fn function(&self, namespace: &str, name: &str) -> Result<View, Failure> {
        let missing = || Failure::not_found(format!("there is no function {namespace}/{name}"));
        match &self.place {
            Place::Cluster(config) => cluster::function(&client(config)?, namespace, name).await?.ok_or_else(missing),
            Place::Dev(_) | Place::Addresses => {
                let views = self.functions(Some(namespace)).await?;
                views.into_iter().find(|v| v.name() == name).ok_or_else(missing)
            }
        }
    }
}

/// The token that was given, by file or as it is.
fn given(args: &WhereArgs) -> Result<Option<String>, Failure> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::failed(format!("cannot read the token in {}: {e}", file.display())))?;
    match text.trim() {
        "" => Err(Failure::failed(format!("the token file {} is empty", file.display()))),
        token => Ok(Some(token.to_owned())),
    }
}

fn client(config: &kube::Config) -> Result<kube::Client, Failure> {
    dormouse_daemon::install_tls_provider();
    kube::Client::try_from(config.clone()).map_err(|e| Failure::failed(format!("the kubeconfig cannot be used: {e}")))
}

async fn find(args: &WhereArgs) -> Result<Place, Failure> {
    if let Some(folder) = &args.dev {
        return told(folder);
    }
    let to_cluster = args.cluster || args.context.is_some() || args.kubeconfig.is_some();
    if !to_cluster {
        if args.usage_url.is_some() || args.activator_url.is_some() {
            // A cluster is only asked for what the addresses do not give.
            return Ok(cluster::config(args).await.map_or(Place::Addresses, |c| Place::Cluster(Box::new(c))));
        }
        if let Some(dev) = near()? {
            return Ok(Place::Dev(dev));
        }
    }
    match cluster::config(args).await {
        Ok(config) => Ok(Place::Cluster(Box::new(config))),
        Err(e) if to_cluster => Err(Failure::failed(format!("no cluster: {e}"))),
        Err(e) => Err(nothing_found(&e.to_string())),
    }
}

fn nothing_found(cluster: &str) -> Failure {
    let why = if cluster.is_empty() { String::new() } else { format!(" ({cluster})") };
    Failure::failed(format!(
        "no `dormouse dev` runs here and no cluster is configured{why}: start one with `dormouse dev FOLDER`, or name a cluster with --context or --kubeconfig"
    ))
}

/// The `dev` of a folder that was named: the manifests' folder, a manifest, or the state directory itself.
fn told(folder: &Path) -> Result<Place, Failure> {
    let places = [folder.join(state::NAME), folder.to_path_buf(), folder.with_file_name(state::NAME)];
    match places.iter().find(|p| p.join("lock").is_file()) {
        Some(path) => Ok(Place::Dev(alive(path)?)),
        None => Err(Failure::not_found(format!("no `dormouse dev` was ever started in {}", folder.display()))),
    }
}

/// What a state directory says, if its `dev` still runs: the lock is the proof, whatever the file says.
fn alive(path: &Path) -> Result<DevFile, Failure> {
    if !state::is_held(path) {
        return Err(Failure::failed(format!("no `dormouse dev` runs with {}: start it again", path.display())));
    }
    state::read(path).ok_or_else(|| {
        Failure::failed(format!(
            "the `dormouse dev` with {} does not say yet where it listens: try again",
            path.display()
        ))
    })
}

/// The `dev` of this folder or one above, else the only one that runs.
fn near() -> Result<Option<DevFile>, Failure> {
    let here = std::env::current_dir()?;
    if let Some(path) = here.ancestors().map(|a| a.join(state::NAME)).find(|p| state::is_held(p)) {
        return alive(&path).map(Some);
    }
    match state::running().as_slice() {
        [] => Ok(None),
        [one] => alive(one).map(Some),
        several => {
            let folders: Vec<String> = several.iter().map(|p: &PathBuf| format!("  --dev {}", p.display())).collect();
            Err(Failure::usage(format!("several `dormouse dev` run; say which one:\n{}", folders.join("\n"))))
        }
    }
}
