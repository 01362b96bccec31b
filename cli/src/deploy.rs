//! `dormouse deploy`: a folder's functions onto a cluster, and their code with them.
//!
//! [`read`] reads manifests, [`code`] the files beside them, [`write`] applies both, [`owners`] says who owns which field.

mod code;
mod owners;
mod read;
mod write;

use crate::args::WhereArgs;
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::target::Target;
use crate::wait;
use clap::Args;
use dormouse_core::function::Function;
use futures::future::try_join_all;
use kube::Api;
use read::Document;
use std::path::PathBuf;
use std::time::Duration;
use write::Writer;

#[derive(Args, Debug)]
#[command(after_help = "\
Applies Functions, Budgets and WarmPools of a folder (*.yaml, *.yml and *.json, not of folders in it) or of one file, by
server-side apply as dormouse-cli. Every fault is told before anything is written. The files beside a manifest whose source
names no code become a ConfigMap NAME-code-...: all but manifests of any kind (a Secret's, too, at any depth), hidden ones,
what is installed (node_modules, venv), *.log, README.md, Dockerfile and request.txt.
Then it waits until each function serves; progress is on standard error, addresses on standard output.

Examples:
  dormouse deploy .
  dormouse deploy hello -n shop --timeout 300
  dormouse deploy hello/function.yaml --force-conflicts")]
pub(crate) struct DeployArgs {
    /// Folder with manifests, or one manifest
    #[arg(default_value = ".")]
    pub(crate) place: PathBuf,
    /// Namespace of manifests that name none
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Seconds until all functions must serve
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Take over fields that others have written
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Do not wait until they serve
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

pub(crate) async fn run(args: &DeployArgs) -> Outcome {
    let documents = documents(args)?;
    let target = Target::of_cluster(&args.target, "deploy").await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let writer = Writer { client: target.cluster_api()?, namespace, force: args.force_conflicts };
    let mut written = Vec::new();
    for document in &documents {
        if let Some(function) = writer.write(document).await? {
            written.push(function);
        }
    }
    if args.no_wait {
        return Ok(());
    }
    let limit = Duration::from_secs(args.timeout);
    let serving = try_join_all(written.iter().map(|w| {
        let api: Api<Function> = Api::namespaced(writer.client.clone(), &w.namespace);
        let flags = args.target.flags(&w.namespace);
        async move {
            let mut more = wait::more(&w.name, &flags);
            if !w.changed {
                more = format!("{UNCHANGED} (`dormouse invoke {} {flags}`); {more}", w.name);
            }
            let serving = wait::until_serving(&api, &w.name, w.generation, limit, &more).await;
            serving.map(|function| (w, function))
        }
    }))
    .await?;
    if !serving.is_empty() && args.target.activator_url.is_none() {
        say::note(
            "where the cluster gives functions no address of their own, this leads to them (end it with Ctrl-C):",
        );
        say::note(format_args!("  {}", forward(&args.target)));
    }
    for (written, function) in serving {
        writer.forget(written, &function).await;
        let url = function.status.and_then(|s| s.url).unwrap_or_default();
        let (namespace, name) = (&written.namespace, &written.name);
        say::note(format_args!(
            "{namespace}/{name} serves; `dormouse invoke {name} {}` calls it from anywhere",
            args.target.flags(namespace)
        ));
        say::out(&url);
        say::out(curl(&args.target, namespace, name));
    }
    Ok(())
}

/// What mended the cause of a failure may be elsewhere: a Secret, a quota.
const UNCHANGED: &str = "the manifest is as it was, so this may be of an earlier start: a call tries it again";

/// Where [`forward`] listens on this machine.
const FORWARDED: &str = "http://127.0.0.1:8080";

/// What calls it from a shell: by its path, which needs no name that is known to this machine.
fn curl(target: &WhereArgs, namespace: &str, name: &str) -> String {
    let activator = target.activator_url.as_deref().unwrap_or(FORWARDED);
    format!("curl {}/fn/{namespace}/{name}/", activator.trim_end_matches('/'))
}

/// What brings the activators to this machine: the chart gives them a Service that only the cluster reaches.
fn forward(target: &WhereArgs) -> String {
    let place = target.kubectl().iter().fold(String::new(), |all, flag| format!("{all} {flag}"));
    format!("kubectl{place} -n {} port-forward svc/dormouse-activator 8080:80", target.system_namespace)
}

/// What is to be applied; every fault is told, and there is none.
fn documents(args: &DeployArgs) -> Result<Vec<Document>, Failure> {
    let reading = read::read(&args.place, args.namespace.as_deref())?;
    for note in &reading.notes {
        say::note(note);
    }
    for fault in &reading.faults {
        say::note(fault);
    }
    match (reading.faults.len(), reading.documents.is_empty()) {
        (0, false) => Ok(reading.documents),
        (0, true) => Err(Failure::not_found(format!(
            "no Function in {}: `dormouse init nodejs NAME` writes one",
            args.place.display()
        ))),
        (1, _) => Err(Failure::usage("nothing was applied: a fault")),
        (n, _) => Err(Failure::usage(format!("nothing was applied: {n} faults"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{curl, forward};
    use crate::args::WhereArgs;

    #[test]
    fn lines_to_paste() {
        let mut target = WhereArgs { system_namespace: "dormouse-system".into(), ..WhereArgs::default() };
        assert_eq!(curl(&target, "b", "a"), "curl http://127.0.0.1:8080/fn/b/a/");
        let line = "kubectl -n dormouse-system port-forward svc/dormouse-activator 8080:80";
        assert_eq!(forward(&target), line);
        target.context = Some("kind".into());
        assert_eq!(forward(&target), line.replacen("kubectl", "kubectl --context kind", 1));
        target.activator_url = Some("http://10.0.0.1:80/".into());
        assert_eq!(curl(&target, "b", "a"), "curl http://10.0.0.1:80/fn/b/a/");
    }
}
