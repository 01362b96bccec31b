//! The command line's inner loop: write, deploy, see, go back.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_core::history::KEPT;
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::wait::until;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};

/// Runs the command line on a case's namespace.
fn dormouse(space: &Space, args: &[&str]) -> Result<String> {
    space.cluster.dormouse(&[args, &["--namespace", &space.name]].concat())
}

/// A command that must fail, by what it said.
fn fails(space: &Space, args: &[&str]) -> Result<String> {
    match dormouse(space, args) {
        Ok(said) => anyhow::bail!("{args:?} went through: {said}"),
        Err(error) => Ok(error.to_string()),
    }
}

async fn says(world: &World, space: &Space, name: &str, words: &str) -> Result<()> {
    let answer = ok(&world.by_host(space, name, "/")).await?;
    anyhow::ensure!(answer.text().contains(words), "not {words:?}: {answer}");
    Ok(())
}

fn replace(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    anyhow::ensure!(text.contains(from), "{text}");
    Ok(fs::write(file, text.replace(from, to))?)
}

fn listed(space: &Space, name: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&dormouse(space, &["rollback", name, "--list", "-o", "json"])?)?)
}

/// What `init` writes, through every command; then nothing of it is left.
pub(crate) async fn a_folder_is_deployed_changed_and_gone_back_from(world: World) -> Result<()> {
    world
        .alone("folder", |world, space| async move {
            let folder = tempfile::tempdir()?;
            let (name, index) = ("orders", folder.path().join("index.mjs"));
            let place = folder.path().to_str().context("no UTF-8")?;
            space.cluster.dormouse(&["init", "nodejs", name, "--dir", place])?;
            let said = dormouse(&space, &["deploy", place])?;
            let lines: Vec<&str> = said.lines().collect();
            let url = format!("http://{name}.{}.dormouse.local", space.name);
            let curl = format!("curl http://127.0.0.1:8080/fn/{}/{name}/", space.name);
            anyhow::ensure!(lines == [url, curl], "{said}");
            says(&world, &space, name, "Hello, world").await?;
            let logged = dormouse(&space, &["logs", name, "--since", "1h"])?;
            anyhow::ensure!(logged.contains("INFO  greets") && logged.starts_with(name), "{logged}");

            replace(&index, "Hello", "Welcome")?;
            dormouse(&space, &["deploy", place])?;
            says(&world, &space, name, "Welcome, world").await?;
            let own = ListParams::default().labels(&format!("dormouse.dev/code-of={name}"));
            let maps = space.api::<ConfigMap>().list(&own).await?.items.len();
            anyhow::ensure!(maps == 1, "{maps} ConfigMaps of deployed code");
            fs::write(&index, "export const handler = (")?;
            let broken = fails(&space, &["deploy", place])?;
            anyhow::ensure!(broken.contains("HandlerFailed") && broken.contains("index.mjs:1"), "{broken}");
            says(&world, &space, name, "Welcome, world").await?;
            dormouse(&space, &["rollback", name])?;
            says(&world, &space, name, "Welcome, world").await?;

            let kept = listed(&space, name)?;
            anyhow::ensure!(kept.len() == 3, "{kept:?}");
            let serving: Vec<&Value> = kept.iter().filter(|k| k["serves"] == true).collect();
            anyhow::ensure!(serving.len() == 1 && serving[0]["number"] == 2, "{kept:?}");
            let first = kept.last().and_then(|k| k["revision"].as_str()).context("no revision")?;
            dormouse(&space, &["rollback", name, "--to", first])?;
            says(&world, &space, name, "Hello, world").await?;
            space.cluster.kubectl(&["delete", "fn", name, "-n", &space.name, "--timeout=60s"])?;
            until("nothing of it is left", LIMIT, || nothing_left(&space)).await
        })
        .await
}

async fn nothing_left(space: &Space) -> Result<()> {
    let revisions = space.api::<ControllerRevision>().list(&ListParams::default()).await?.items.len();
    let maps = space.api::<ConfigMap>().list(&ListParams::default()).await?.items;
    let maps: Vec<String> = maps.into_iter().filter_map(|m| m.metadata.name).filter(|n| n.contains("orders")).collect();
    anyhow::ensure!(revisions == 0 && maps.is_empty(), "{revisions} revisions, {maps:?}");
    Ok(())
}

/// Older ones go; the newest stay, and any of them can be gone back to; how it scales stays as it is.
pub(crate) async fn the_last_revisions_are_kept(world: World) -> Result<()> {
    world
        .alone("kept", |world, space| async move {
            let name = "kept";
            space.apply(&function(name, &["startCheck: Never", "idleTimeoutSeconds: 5"]))?;
            space.ready(name, "True").await?;
            let mut all = Vec::new();
            for n in 0..KEPT + 2 {
                let env = json!([{"name": "GREETING", "value": n.to_string()}]);
                space.patch(name, &json!({"spec": {"env": env}})).await?;
                let function = space.ready(name, "True").await?;
                all.push(function.status.and_then(|s| s.revision).context("no revision")?);
            }
            let kept = until("the last revisions are kept", LIMIT, || async {
                let kept = listed(&space, name)?;
                anyhow::ensure!(kept.len() == KEPT, "{} are kept", kept.len());
                Ok(kept)
            })
            .await?;
            let names: Vec<&str> = kept.iter().filter_map(|k| k["revision"].as_str()).collect();
            let wanted: Vec<&str> = all.iter().rev().take(KEPT).map(String::as_str).collect();
            anyhow::ensure!(names == wanted, "{names:?} are kept of {all:?}");
            let gone = fails(&space, &["rollback", name, "--to", &all[0]])?;
            anyhow::ensure!(gone.contains("is kept of kept"), "{gone}");
            space.patch(name, &json!({"spec": {"idleTimeoutSeconds": 9}})).await?;
            dormouse(&space, &["rollback", name, "--to", &all[2]])?;
            let function = space.function(name).await?;
            anyhow::ensure!(function.spec.idle_timeout_seconds == 9, "a scaling field changed");
            let answer = ok(&world.by_host(&space, name, "/env")).await?;
            anyhow::ensure!(answer.text().contains("GREETING=2\n"), "{answer}");
            let status = space.ready(name, "True").await?.status.unwrap_or_default();
            anyhow::ensure!(status.revision.as_ref() == Some(&all[2]), "another revision than before: {status:?}");
            Ok(())
        })
        .await
}

/// Ends with the case.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What every instance said, before and from now on, in Deployments and in claimed pods.
pub(crate) async fn logs_are_those_of_all_instances(world: World) -> Result<()> {
    world
        .alone("logs", |world, space| async move {
            let name = "talks";
            space.apply(&function(name, &["concurrency: 1", "idleTimeoutSeconds: 5", "startCheck: Never"]))?;
            space.ready(name, "True").await?;
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("log");
            let mut command = space.cluster.dormouse_command(&["logs", name, "-f", "-n", &space.name])?;
            command.stdin(Stdio::null()).stdout(File::create(&file)?).stderr(Stdio::inherit());
            let _following = Following(command.spawn()?);
            let slow = world.by_host(&space, name, "/delay?ms=2000");
            let (one, two) = tokio::join!(ok(&slow), ok(&slow));
            one?;
            two?;
            let pods: Vec<String> =
                space.pods_are(name, 2).await?.into_iter().filter_map(|p| p.metadata.name).collect();
            let logged = dormouse(&space, &["logs", name])?;
            let only = dormouse(&space, &["logs", name, "--instance", &pods[0], "-o", "json"])?;
            let line = |pod: &String| format!("{pod} | sample: serving on");
            anyhow::ensure!(pods.iter().all(|pod| logged.contains(&line(pod))), "{pods:?}: {logged}");
            anyhow::ensure!(only.starts_with("sample: serving on") && only.lines().count() == 1, "{only}");
            space.pods_are(name, 0).await?;

            crate::warm::full_pool(&space, 1).await?;
            ok(&world.by_host(&space, name, "/")).await?;
            until("three instances are followed", LIMIT, || async {
                let followed = fs::read_to_string(&file)?;
                let serving = followed.lines().filter(|l| l.contains(" | sample: serving on")).count();
                let ended = followed.lines().filter(|l| l.ends_with(" | sample: ended")).count();
                anyhow::ensure!(serving == 3 && ended >= 2, "{followed}");
                anyhow::ensure!(!followed.contains('\x1b'), "colours in a file: {followed}");
                Ok(())
            })
            .await
        })
        .await
}

/// Fields of others are told by field and owner, and taken over only when asked to.
pub(crate) async fn what_others_wrote_is_not_taken_over(world: World) -> Result<()> {
    world
        .alone("owners", |_, space| async move {
            let folder = tempfile::tempdir()?;
            let place = folder.path().to_str().context("no UTF-8")?;
            fs::write(
                folder.path().join("function.yaml"),
                function("mine", &["timeoutSeconds: 20", "startCheck: Never"]),
            )?;
            dormouse(&space, &["deploy", place])?;
            space.patch("mine", &json!({"spec": {"timeoutSeconds": 21}})).await?;
            let told = fails(&space, &["deploy", place])?;
            anyhow::ensure!(
                told.contains("spec.timeoutSeconds is owned by") && told.contains("--force-conflicts"),
                "{told}"
            );
            anyhow::ensure!(space.function("mine").await?.spec.timeout_seconds == 21, "it was taken over");
            dormouse(&space, &["deploy", place, "--force-conflicts"])?;
            anyhow::ensure!(space.function("mine").await?.spec.timeout_seconds == 20, "it was not taken over");
            // What a rollback writes is no other's.
            replace(&folder.path().join("function.yaml"), "timeoutSeconds: 20", "timeoutSeconds: 22")?;
            dormouse(&space, &["deploy", place])?;
            dormouse(&space, &["rollback", "mine"])?;
            anyhow::ensure!(space.function("mine").await?.spec.timeout_seconds == 20, "it did not go back");
            dormouse(&space, &["deploy", place])?;
            anyhow::ensure!(space.function("mine").await?.spec.timeout_seconds == 22, "it was not deployed again");
            let missing =
                function("bad", &["image: 'registry.invalid/no/such:image'"]).replacen("  image: dormouse", "  #", 1);
            fs::write(folder.path().join("function.yaml"), missing)?;
            let told = fails(&space, &["deploy", place])?;
            anyhow::ensure!(told.contains("bad: ImagePullFailed: "), "{told}");
            Ok(())
        })
        .await
}
