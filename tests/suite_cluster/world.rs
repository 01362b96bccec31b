//! What every case is given, and the manifests that cases are made of.

use anyhow::{Context, Result};
use dormouse_tests::client::{Answer, Target};
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM, Space};
use dormouse_tests::usage::{Usage, lately};
use dormouse_tests::wait::until;
use std::future::Future;
use std::net::SocketAddr;

/// The domain of functions: the chart's default.
pub(crate) const DOMAIN: &str = "dormouse.local";

/// The sample function's image, imported into the cluster beforehand.
pub(crate) const SAMPLE: &str = "dormouse/sample:0.1.0";

/// An installed release and how to reach it.
#[derive(Clone)]
pub(crate) struct World {
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// Where calls go.
    pub(crate) activator: SocketAddr,
    /// Where usage is read.
    pub(crate) usage: Usage,
    /// The long form.
    pub(crate) long: bool,
}

impl World {
    /// Finds the release's addresses and its token.
    pub(crate) async fn of(cluster: Cluster) -> Result<Self> {
        cluster.system_ready().await?;
        let activator = cluster.service(SYSTEM, "dormouse-activator").await?;
        let usage = cluster.service(SYSTEM, "dormouse-usage").await?;
        let token = cluster.secret(SYSTEM, "dormouse-token", "token").await?;
        let usage = Usage::at(usage, Some(token));
        Ok(Self { cluster, activator, usage, long: dormouse_tests::env::long() })
    }

    /// Runs a case in a namespace of its own.
    pub(crate) async fn alone<F, Fut>(&self, name: &str, case: F) -> Result<()>
    where
        F: FnOnce(Self, Space) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        self.cluster.in_namespace(name, |space| case(self.clone(), space)).await
    }

    /// A function by its Host header.
    pub(crate) fn by_host(&self, space: &Space, function: &str, path: &str) -> Target {
        Target::new(self.activator, format!("{function}.{}.{DOMAIN}", space.name), path)
    }

    /// A function by its path.
    pub(crate) fn by_path(&self, space: &Space, function: &str, path: &str) -> Target {
        Target::new(self.activator, "any.example", format!("/fn/{}/{function}{path}", space.name))
    }

    /// Waits until the ledger has exactly `n` records of a namespace, and gives their request ids.
    pub(crate) async fn recorded(&self, namespace: &str, n: usize) -> Result<Vec<String>> {
        until(&format!("{n} records of {namespace}"), LIMIT, || async {
            let ids = self.usage.request_ids(&format!("{}&namespace={namespace}", lately())).await?;
            anyhow::ensure!(ids.len() == n, "there are {}", ids.len());
            Ok(ids)
        })
        .await
    }
}

/// A function of the sample image, small so that many fit a small node; `spec` is further YAML lines of its spec.
pub(crate) fn function(name: &str, spec: &[&str]) -> String {
    let mut yaml = format!(
        "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  image: {SAMPLE}\n  \
         resources: {{memory: 32Mi, cpu: 10m}}\n"
    );
    for line in spec {
        yaml += &format!("  {line}\n");
    }
    yaml
}

/// A call that must be answered with 200.
pub(crate) async fn ok(target: &Target) -> Result<Answer> {
    let answer = target.call(0).await.with_context(|| format!("{} {}", target.host, target.path))?;
    anyhow::ensure!(answer.status == 200, "{} {}: {answer}", target.host, target.path);
    anyhow::ensure!(!answer.request_id().is_empty(), "no request id: {:?}", answer.headers);
    Ok(answer)
}
