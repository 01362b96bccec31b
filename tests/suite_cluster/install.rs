//! `helm install`, what the release may do, `helm test`, `helm uninstall`.

use crate::world::World;
use anyhow::{Context, Result};
use dormouse_tests::cluster::{Cluster, LIMIT, SYSTEM};
use dormouse_tests::wait::until;
use std::path::Path;

pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/dormouse");

/// Installs the chart and waits until it is up.
pub(crate) async fn install(cluster: Cluster) -> Result<()> {
    anyhow::ensure!(Path::new(CHART).is_dir(), "{CHART} is missing");
    let said = cluster.helm(&["install", "dormouse", CHART, "-n", SYSTEM, "--create-namespace"])?;
    for line in ["kubectl apply -f -", "curl -i http://127.0.0.1:8080/fn/default/hello/"] {
        anyhow::ensure!(said.contains(line), "the notes do not say `{line}`:\n{said}");
    }
    cluster.system_ready().await
}

/// The activator's service account can do what anybody can, and nothing else.
pub(crate) async fn the_activator_has_no_rights(world: World) -> Result<()> {
    let account = format!("--as=system:serviceaccount:{SYSTEM}:dormouse-activator");
    let rights = world.cluster.kubectl(&["auth", "can-i", "--list", "--no-headers", "-n", SYSTEM, &account])?;
    for line in rights.lines() {
        let resource = line.split_whitespace().next().unwrap_or_default();
        let everybodys = resource.starts_with("selfsubject") || resource.starts_with('[');
        anyhow::ensure!(everybodys, "the activator may do more than anybody: {line}");
    }
    for (verb, what) in
        [("list", "pods"), ("get", "secrets"), ("list", "functions.dormouse.dev"), ("patch", "deployments")]
    {
        let answer = world.cluster.kubectl(&["auth", "can-i", verb, what, "-A", &account]);
        anyhow::ensure!(answer.is_err(), "the activator can {verb} {what}");
    }
    let pods = world.cluster.pods(SYSTEM, "app.kubernetes.io/component=activator").await?;
    let spec = pods.first().and_then(|p| p.spec.as_ref()).context("no activator pod")?;
    anyhow::ensure!(spec.automount_service_account_token == Some(false), "it is given a token");
    Ok(())
}

/// `helm test` calls a function from zero and finds its record.
pub(crate) async fn helm_test_passes(world: World) -> Result<()> {
    world.cluster.helm(&["test", "dormouse", "-n", SYSTEM, "--logs", "--timeout", "4m"]).map(drop)
}

/// What a release may leave: the CRD, and the ledger's claim with its volume.
pub(crate) async fn uninstall(cluster: Cluster) -> Result<()> {
    let kinds = "deployments,replicasets,pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,ingresses,networkpolicies";
    // Functions end before the one who ends them: nobody takes their finalizers off afterwards.
    until("every Function of the suite is gone", LIMIT, || async {
        let functions = cluster.kubectl(&["get", "fn", "-A", "-o", "name"])?;
        let walls = cluster.kubectl(&[
            "get",
            "networkpolicies",
            "-A",
            "-l",
            "app.kubernetes.io/managed-by=dormouse",
            "-o",
            "name",
        ])?;
        anyhow::ensure!(functions.is_empty() && walls.is_empty(), "{functions}{walls}");
        Ok(())
    })
    .await?;
    cluster.helm(&["uninstall", "dormouse", "-n", SYSTEM, "--wait"])?;
    let left = |args: &[&str]| cluster.kubectl(&[&["get", "-o", "name", "--ignore-not-found"], args].concat());
    until("nothing of the release is left", LIMIT, || async {
        let in_namespaces = left(&[kinds, "-A", "-l", "app.kubernetes.io/part-of=dormouse"])?;
        let of_cluster = left(&["clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=dormouse"])?;
        anyhow::ensure!(in_namespaces.is_empty() && of_cluster.is_empty(), "left:\n{in_namespaces}{of_cluster}");
        Ok(())
    })
    .await?;
    let crd = left(&["crd", "functions.dormouse.dev"])?;
    anyhow::ensure!(!crd.is_empty(), "the CRD is gone: every Function would go with it");
    let claim = left(&["pvc", "dormouse-ledger", "-n", SYSTEM])?;
    anyhow::ensure!(!claim.is_empty(), "the ledger's claim is gone although the chart says that it is kept");
    // What the chart keeps on purpose, a test cluster need not.
    cluster.kubectl(&["delete", "namespace", SYSTEM, "--wait=true", "--timeout=90s"])?;
    for crd in ["budgets.dormouse.dev", "functions.dormouse.dev", "warmpools.dormouse.dev"] {
        cluster.kubectl(&["delete", "crd", crd, "--wait=true", "--timeout=60s"])?;
    }
    Ok(())
}

/// What the release's processes logged last, for a failed run.
pub(crate) fn logs(cluster: &Cluster) -> String {
    let mut text = String::new();
    for part in ["controller", "activator"] {
        let label = format!("app.kubernetes.io/component={part}");
        for previous in ["--previous=false", "--previous=true"] {
            let lines = cluster.kubectl(&["logs", "-n", SYSTEM, "-l", &label, "--tail=40", previous]);
            if let Ok(lines) = lines {
                text += &format!("--- {part} {previous}\n{lines}");
            }
        }
    }
    text
}
