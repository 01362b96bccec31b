//! Connections that are tried from inside pods, by the program `dormouse` in the sample's image: what the network lets
//! through, not what a policy says.

use crate::world::World;
use crate::world::{DOMAIN, SAMPLE, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space, pod_name};
use dormouse_tests::wait::until;
use k8s_openapi::api::core::v1::Pod;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one try, in seconds: above the 5 s in which `dormouse invoke` must have its connection, so that it tells which of
/// the two it waited for.
const TRY: &str = "--timeout=10";

/// The port of sample pods, which functions have too unless they say otherwise.
const PORT: u16 = 8080;

/// A pod from which connections are tried.
pub(crate) struct Inside {
    cluster: Cluster,
    namespace: String,
    pod: String,
    /// Where it listens itself.
    pub(crate) address: SocketAddr,
}

impl Inside {
    /// A new pod that is nobody's function and listens as they do. It wears the labels of an activator, which is of no
    /// use outside the release's namespace.
    pub(crate) async fn stranger(space: &Space) -> Result<Self> {
        space.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: stranger\n  labels:\n    app.kubernetes.io/name: dormouse\n    \
             app.kubernetes.io/instance: dormouse\n    app.kubernetes.io/component: activator\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n    - {{name: main, image: {SAMPLE}}}\n"
        ))?;
        space.cluster.kubectl(&[
            "wait",
            "pod/stranger",
            "-n",
            &space.name,
            "--for=condition=Ready",
            "--timeout=60s",
        ])?;
        Self::of(space, &space.api::<Pod>().get("stranger").await?)
    }

    /// A function's pod, awake after one call.
    pub(crate) async fn function(world: &World, space: &Space, name: &str) -> Result<Self> {
        space.apply(&function(name, &["idleTimeoutSeconds: 300"]))?;
        space.ready(name, "True").await?;
        ok(&world.by_host(space, name, "/")).await?;
        let pods = space.pods(name).await?;
        let [pod] = pods.as_slice() else { anyhow::bail!("{} pods of {name}", pods.len()) };
        Self::of(space, pod)
    }

    fn of(space: &Space, pod: &Pod) -> Result<Self> {
        let address = SocketAddr::new(ip(pod)?, PORT);
        Ok(Self { cluster: space.cluster.clone(), namespace: space.name.clone(), pod: pod_name(pod), address })
    }

    /// Waits until connections to an address are let through.
    pub(crate) async fn reaches(&self, what: &str, to: SocketAddr) -> Result<()> {
        until(&format!("{} reaches {what}", self.pod), LIMIT, || async {
            anyhow::ensure!(self.connects(to)?, "no connection to {to}");
            Ok(())
        })
        .await
    }

    /// Waits until connections to an address are refused on the way. That somebody listens there shows in a connection
    /// from the node, which Kubernetes always lets through.
    pub(crate) async fn is_kept_from(&self, what: &str, to: SocketAddr) -> Result<()> {
        until(&format!("{} is kept from {what}", self.pod), LIMIT, || async {
            anyhow::ensure!(
                !self.connects(to)?,
                "a connection to {to} was opened: does this network enforce policies?"
            );
            Ok(())
        })
        .await?;
        let listens = timeout(Duration::from_secs(5), TcpStream::connect(to)).await;
        listens
            .map_err(anyhow::Error::from)
            .and_then(|c| Ok(c?))
            .with_context(|| format!("nobody is {what} at {to}"))?;
        Ok(())
    }

    /// Calls a function as functions do that know nothing of the cluster but names.
    pub(crate) fn calls(&self, space: &Space, name: &str) -> Result<()> {
        let activator = format!("http://dormouse-activator.{SYSTEM}.svc.cluster.local");
        let answer = self.invoke(name, &space.name, &activator)?;
        anyhow::ensure!(answer.contains(name), "{name}.{}.{DOMAIN} answered {answer:?}", space.name);
        Ok(())
    }

    /// Whether one connection comes about. What is said over it does not matter: gRPC ports do not speak HTTP/1.1.
    fn connects(&self, to: SocketAddr) -> Result<bool> {
        let Err(error) = self.invoke("probe", "probe", &format!("http://{to}")) else { return Ok(true) };
        let said = format!("{error:#}");
        if said.contains(&format!("cannot reach {to}: ")) || said.contains(&format!("no connection to {to} within")) {
            return Ok(false);
        }
        // Else kubectl itself failed, which tells nothing.
        if said.contains("command terminated with exit code") { Ok(true) } else { Err(error) }
    }

    fn invoke(&self, name: &str, namespace: &str, activator: &str) -> Result<String> {
        let command = ["/dormouse", "invoke", name, "-n", namespace, TRY, "--activator-url", activator];
        self.cluster.kubectl(&[&["exec", "-n", &self.namespace, &self.pod, "--"], command.as_slice()].concat())
    }
}

/// A port of the platform.
pub(crate) struct Door {
    /// What it is.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) at: SocketAddr,
    /// Whether it is for everybody.
    pub(crate) public: bool,
}

/// All ports of the platform's pods that serve now, and those of its Services.
pub(crate) async fn doors(world: &World) -> Result<Vec<Door>> {
    let mut doors = Vec::new();
    for component in ["activator", "controller"] {
        let pods = world.cluster.pods(SYSTEM, &format!("app.kubernetes.io/component={component}")).await?;
        let pod = pods.iter().find(|pod| pod.metadata.deletion_timestamp.is_none()).context("no pod")?;
        for port in pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten()) {
            let name = format!("the {component}'s port {}", port.name.as_deref().unwrap_or_default());
            let public = name == "the activator's port http";
            doors.push(Door { name, at: SocketAddr::new(ip(pod)?, u16::try_from(port.container_port)?), public });
        }
    }
    anyhow::ensure!(doors.len() == 6 && doors.iter().filter(|d| d.public).count() == 1, "{} ports", doors.len());
    for name in ["dormouse-activator", "dormouse-controller", "dormouse-usage"] {
        let at = world.cluster.service(SYSTEM, name).await?;
        doors.push(Door { name: format!("the Service {name}"), at, public: name == "dormouse-activator" });
    }
    Ok(doors)
}

fn ip(pod: &Pod) -> Result<IpAddr> {
    Ok(pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).context("a pod without address")?.parse()?)
}
