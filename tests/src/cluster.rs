//! A test's view of a Kubernetes cluster: kubectl and helm as people use them, and a client for what is watched.

use crate::env::Env;
use crate::proc::{blocking, run};
use crate::wait::until;
use anyhow::{Context, Result};
use dormouse_core::function::Function;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the release stands.
pub const SYSTEM: &str = "dormouse-system";

/// Longest time for anything that Kubernetes does by itself in a suite (deleting a namespace takes longest).
pub const LIMIT: Duration = Duration::from_secs(60);

/// Label that carries a function's name on everything made for it.
pub const FUNCTION_LABEL: &str = "dormouse.dev/function";

/// Label that carries the revision on its Deployment and pods.
pub const REVISION_LABEL: &str = "dormouse.dev/revision";

/// A cluster, by the environment that `./test` hands out.
#[derive(Clone)]
pub struct Cluster {
    /// Its API.
    pub client: kube::Client,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
}

impl Cluster {
    /// Connects, and checks that pods are reachable from here.
    ///
    /// # Errors
    /// When `DORMOUSE_TEST_KUBECONFIG` is not set or the cluster does not answer.
    pub async fn connect() -> Result<Self> {
        let path = |name: &str, default: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| default.into()));
        let kubeconfig = std::env::var_os("DORMOUSE_TEST_KUBECONFIG")
            .context("DORMOUSE_TEST_KUBECONFIG is not set: run ./test, or name the kubeconfig of a test cluster")?;
        dormouse_daemon::install_tls_provider();
        let config = Kubeconfig::read_from(&kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let version = tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await;
        version.context("the API server does not answer: outside the cluster's network namespace?")??;
        let (kubectl, helm) = (path("DORMOUSE_KUBECTL", "kubectl"), path("DORMOUSE_HELM", "helm"));
        Ok(Self { client, kubeconfig: kubeconfig.into(), kubectl, helm })
    }

    /// Runs kubectl and gives what it prints.
    ///
    /// # Errors
    /// When it fails, with both its streams.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        run(self.command(&self.kubectl).args(args))
    }

    /// Runs helm and gives what it prints.
    ///
    /// # Errors
    /// When it fails, with both its streams.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        run(self.command(&self.helm).args(args))
    }

    /// Runs `dormouse` against the cluster and gives what it prints.
    ///
    /// # Errors
    /// When it fails, with both its streams.
    pub fn dormouse(&self, args: &[&str]) -> Result<String> {
        run(&mut self.dormouse_command(args)?)
    }

    /// What a person's shell has: our programs and kubectl in its PATH, and the kubeconfig.
    ///
    /// # Errors
    /// When it is not known where our programs are.
    pub fn envs(&self) -> Result<Vec<(String, String)>> {
        let programs = Env::read()?.bin_dir.canonicalize()?;
        let kubectl = self.kubectl.parent().unwrap_or(Path::new("")).display();
        let path = format!("{}:{kubectl}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        Ok(vec![("PATH".into(), path), ("KUBECONFIG".into(), self.kubeconfig.display().to_string())])
    }

    /// `dormouse` against the cluster, to be started.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn dormouse_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.command(&Env::read()?.program("dormouse")?);
        command.args(args);
        Ok(command)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl apply -f -` in a namespace: what a user does, so that the API server's words are seen as users see them.
    ///
    /// # Errors
    /// When it is refused: what kubectl said.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<String> {
        let mut child = self
            .command(&self.kubectl)
            .args(["apply", "--namespace", namespace, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(yaml.as_bytes())?;
        let output = blocking(|| child.wait_with_output())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}", said.trim());
        Ok(said)
    }

    /// Runs a test in a namespace of its own, which is removed whatever comes.
    ///
    /// # Errors
    /// What the test says, or when the namespace cannot be made.
    pub async fn in_namespace<F, Fut>(&self, name: &str, test: F) -> Result<()>
    where
        F: FnOnce(Space) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let metadata = ObjectMeta { generate_name: Some(format!("t-{name}-")), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = Namespace { metadata, ..Namespace::default() };
        let made = namespaces.create(&PostParams::default(), &namespace).await?;
        let name = made.metadata.name.context("a namespace without a name")?;
        let result = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(test(Space {
            cluster: self.clone(),
            name: name.clone(),
        })))
        .await;
        // Functions first: their finalizers need the controller, which may be broken: said, not waited for long.
        let removed = namespaces.delete(&name, &DeleteParams::background()).await;
        removed.with_context(|| format!("removing namespace {name}"))?;
        result.unwrap_or_else(|_| anyhow::bail!("panicked"))
    }

    /// Address and port of a Service.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn service(&self, namespace: &str, name: &str) -> Result<SocketAddr> {
        let service = Api::<Service>::namespaced(self.client.clone(), namespace).get(name).await?;
        let spec = service.spec.context("a service without spec")?;
        let ip: IpAddr = spec.cluster_ip.context("no cluster address")?.parse()?;
        let port = spec.ports.and_then(|p| p.first().map(|p| p.port)).context("no port")?;
        Ok(SocketAddr::new(ip, u16::try_from(port)?))
    }

    /// One key of a Secret.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String> {
        let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await?;
        let value = secret.data.and_then(|mut d| d.remove(key)).with_context(|| format!("no key {key}"))?;
        Ok(String::from_utf8(value.0)?)
    }

    /// Pods of a namespace by label selector (empty: all).
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = ListParams::default().labels(selector);
        Ok(Api::<Pod>::namespaced(self.client.clone(), namespace).list(&list).await?.items)
    }

    /// Waits until every Deployment of the release is up.
    ///
    /// # Errors
    /// When that takes longer than [`LIMIT`].
    pub async fn system_ready(&self) -> Result<()> {
        until("the release's Deployments are available", LIMIT, || async {
            let api = Api::<Deployment>::namespaced(self.client.clone(), SYSTEM);
            for deployment in api.list(&ListParams::default()).await?.items {
                let wanted = deployment.spec.replicas.unwrap_or(1);
                let status = deployment.status.clone().unwrap_or_default();
                let fresh = status.observed_generation == deployment.metadata.generation;
                anyhow::ensure!(
                    fresh
                        && status.ready_replicas.unwrap_or(0) == wanted
                        && status.updated_replicas.unwrap_or(0) == wanted,
                    "{}: {status:?}",
                    deployment.metadata.name.unwrap_or_default()
                );
            }
            Ok(())
        })
        .await
    }
}

/// One namespace of a test.
#[derive(Clone)]
pub struct Space {
    /// The cluster.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Space {
    /// Objects of one kind in it.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client.clone(), &self.name)
    }

    /// Applies a Function manifest as a user does.
    ///
    /// # Errors
    /// When it is refused: what kubectl said.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.cluster.apply(&self.name, yaml)
    }

    /// Changes a Function by a JSON merge patch.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn patch(&self, function: &str, patch: &Value) -> Result<Function> {
        let api: Api<Function> = self.api();
        Ok(api.patch(function, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// A function as it is now.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn function(&self, name: &str) -> Result<Function> {
        Ok(self.api::<Function>().get(name).await?)
    }

    /// Waits until a function's own state is told and `Ready` has `status` (`True`, `False`, `Unknown`).
    ///
    /// # Errors
    /// When that takes longer than [`LIMIT`].
    pub async fn ready(&self, name: &str, status: &str) -> Result<Function> {
        until(&format!("Ready={status} of {name}"), LIMIT, || async {
            let function = self.function(name).await?;
            let told = function.status.clone().unwrap_or_default();
            let ready = told.conditions.iter().find(|c| c.type_ == "Ready");
            let fresh = told.observed_generation == function.metadata.generation;
            anyhow::ensure!(fresh && ready.is_some_and(|c| c.status == status), "{told:?}");
            Ok(function)
        })
        .await
    }

    /// Pods of a function that are not ending.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, function: &str) -> Result<Vec<Pod>> {
        self.cluster.pods(&self.name, &format!("{FUNCTION_LABEL}={function}")).await
    }

    /// Deployments of a function.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn deployments(&self, function: &str) -> Result<Vec<Deployment>> {
        let list = ListParams::default().labels(&format!("{FUNCTION_LABEL}={function}"));
        Ok(self.api::<Deployment>().list(&list).await?.items)
    }

    /// Waits until a function has exactly `n` pods, ending ones included.
    ///
    /// # Errors
    /// When that takes longer than [`LIMIT`].
    pub async fn pods_are(&self, function: &str, n: usize) -> Result<Vec<Pod>> {
        until(&format!("{n} pods of {function}"), LIMIT, || async {
            let pods = self.pods(function).await?;
            let names: Vec<_> = pods.iter().filter_map(|p| p.metadata.name.clone()).collect();
            anyhow::ensure!(pods.len() == n, "there are {names:?}");
            Ok(pods)
        })
        .await
    }

    /// Reasons of the events about a function.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn events(&self, function: &str) -> Result<Vec<String>> {
        let api: Api<k8s_openapi::api::events::v1::Event> = self.api();
        let about = |e: &k8s_openapi::api::events::v1::Event| {
            e.regarding
                .as_ref()
                .is_some_and(|o| o.kind.as_deref() == Some("Function") && o.name.as_deref() == Some(function))
        };
        let events = api.list(&ListParams::default()).await?;
        Ok(events.items.into_iter().filter(about).filter_map(|e| e.reason).collect())
    }
}

/// True when an error says that the object is not there.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What is gone already is as good as deleted.
///
/// # Errors
/// Any other error.
pub fn unless_gone<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Err(error) if !is_gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// A pod's own name.
#[must_use]
pub fn pod_name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}
