//! `dormouse rollback`: what a function ran before, and back to it.

use crate::args::{Format, WhereArgs};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Target;
use crate::target::cluster::{MANAGER, words};
use crate::target::revisions::{self, Kept};
use crate::view::age;
use crate::wait;
use clap::Args;
use dormouse_core::function::Function;
use dormouse_core::history;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How often a write is tried that met one of the status: those come in twos and threes.
const TRIES: u32 = 5;

#[derive(Args, Debug)]
#[command(after_help = "\
The cluster keeps what each of a function's last 10 revisions ran: image or code, command, environment, resources, timeout.
Going back writes these fields; how it scales stays as it is. Without --to it goes back to the one that still serves while a
newer one does not, else to the newest that it does not run.

Examples:
  dormouse rollback hello --list
  dormouse rollback hello
  dormouse rollback hello --to ngm5xsp4 -n shop")]
pub(crate) struct RollbackArgs {
    /// The function
    pub(crate) name: String,
    /// The revision to go back to
    #[arg(long, value_name = "REVISION", conflicts_with = "list")]
    pub(crate) to: Option<String>,
    /// List what can be gone back to, newest first
    #[arg(long)]
    pub(crate) list: bool,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Seconds until it must serve
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Output of --list
    #[arg(short, long, value_enum, default_value_t, requires = "list")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

pub(crate) async fn run(args: &RollbackArgs) -> Outcome {
    let target = Target::of_cluster(&args.target, "rollback").await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let (client, name) = (target.cluster_api()?, &args.name);
    let api: Api<Function> = Api::namespaced(client.clone(), &namespace);
    let found =
        api.get_opt(name).await.map_err(|e| Failure::failed(format!("cannot read the function: {}", words(&e))))?;
    let function = found.ok_or_else(|| Failure::not_found(format!("there is no function {namespace}/{name}")))?;
    let kept = revisions::of(&client, &function).await?;
    if args.list {
        return list(args.output, &kept);
    }
    let chosen = choose(&function, &kept, args.to.as_deref())?;
    let copy = code_of(&client, &namespace, &function, chosen).await?;
    let written = write(&api, function, chosen, copy.as_deref()).await?;
    let limit = Duration::from_secs(args.timeout);
    say::note(format_args!("{name}: going back to revision {} ({})", chosen.revision, chosen.runs()));
    let more = wait::more(name, &args.target.flags(&namespace));
    wait::until_serving(&api, name, wait::generation(&written), limit, &more).await?;
    say::out(format_args!("{namespace}/{name} serves revision {} again", chosen.revision));
    Ok(())
}

/// Writes it, unless somebody else has changed the spec meanwhile. The controller's own writes of the status only make it
/// look again.
async fn write(
    api: &Api<Function>,
    mut function: Function,
    chosen: &Kept,
    code: Option<&str>,
) -> Result<Function, Failure> {
    let (name, read) = (function.name_any(), wait::generation(&function));
    let changed = || Failure::failed(format!("{name} was changed by somebody else meanwhile: look, and try again"));
    let failed = |e| Failure::failed(format!("cannot go back to revision {}: {}", chosen.revision, words(&e)));
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    for _ in 0..TRIES {
        match api.patch(&name, &params, &Patch::Merge(change(&function, chosen, code))).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written.map_err(failed),
        }
        function = api.get(&name).await.map_err(failed)?;
        if wait::generation(&function) != read {
            break;
        }
    }
    Err(changed())
}

fn list(format: Format, kept: &[Kept]) -> Outcome {
    if format == Format::Json {
        say::out(serde_json::to_string_pretty(kept).map_err(Failure::failed)?);
    } else if kept.is_empty() {
        say::note("no revision is kept yet");
    } else {
        say::out(rows(kept, Timestamp::now()));
    }
    Ok(())
}

/// Newest first.
pub(crate) fn rows(kept: &[Kept], now: Timestamp) -> String {
    let mut rows = table(&["REVISION", ">NUMBER", ">MADE", "RUNS", "SERVES"]);
    for kept in kept {
        let made = kept.made.map_or_else(|| "-".into(), |t| age(now.duration_since(t).as_secs()));
        let serves = if kept.serves { "yes" } else { "-" };
        rows.add_row([&kept.revision, &kept.number.to_string(), &made, &kept.runs(), serves]);
    }
    text(&rows)
}

/// The revision that was named; else the one that serves while that of the spec does not; else the newest but the one that the
/// spec says now, so that twice leads back, as with `kubectl rollout undo`. Several are said by the same spec when a ConfigMap that it names had other code: only the newest
/// of them is what runs now.
fn choose<'a>(function: &Function, kept: &'a [Kept], to: Option<&str>) -> Result<&'a Kept, Failure> {
    let known = || kept.iter().map(|k| k.revision.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(to) = to {
        return kept.iter().find(|k| k.revision == to).ok_or_else(|| {
            Failure::not_found(format!("no revision {to} is kept of {}; there are: {}", function.name_any(), known()))
        });
    }
    let said = kept.iter().position(|kept| is_said(function, kept));
    let others = || kept.iter().enumerate().filter(|(n, _)| Some(*n) != said).map(|(_, kept)| kept);
    others().find(|kept| kept.serves).or_else(|| others().next()).ok_or_else(|| {
        let name = function.name_any();
        Failure::not_found(format!("nothing is kept that {name} ran before: there is nothing to go back to"))
    })
}

/// Whether the spec says what a revision runs: as it was made, or as it was gone back to, with the copy of its code.
fn is_said(function: &Function, kept: &Kept) -> bool {
    let said = history::running(&function.spec);
    said == kept.spec || said == with_code(kept, &copy_of(function, kept))
}

/// The ConfigMap in which the cluster keeps the code of a revision.
fn copy_of(function: &Function, kept: &Kept) -> String {
    format!("{}-{}", function.name_any(), kept.revision)
}

/// What a revision runs, with its code from this ConfigMap where it is from any.
fn with_code(kept: &Kept, copy: &str) -> Map<String, Value> {
    let mut spec = kept.spec.clone();
    let source = spec.get_mut("source").and_then(Value::as_object_mut);
    if let Some(named) = source.and_then(|source| source.get_mut("configMap")) {
        *named = json!({ "name": copy });
    }
    spec
}

/// The name of the ConfigMap that holds the revision's own files, where they came from a ConfigMap: the one that its
/// manifest names holds newer ones by now.
async fn code_of(
    client: &Client,
    namespace: &str,
    function: &Function,
    chosen: &Kept,
) -> Result<Option<String>, Failure> {
    if chosen.spec.get("source").and_then(|s| s.get("configMap")).is_none() {
        return Ok(None);
    }
    let copy = copy_of(function, chosen);
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_metadata_opt(&copy).await;
    match found.map_err(|e| Failure::failed(format!("cannot read the ConfigMap {copy}: {}", words(&e))))? {
        Some(_) => Ok(Some(copy)),
        None => Err(Failure::failed(format!(
            "the code of revision {} is not kept any more: deploy it again from its folder",
            chosen.revision
        ))),
    }
}

/// The merge patch. The version makes it fail when somebody else has written meanwhile.
fn change(function: &Function, chosen: &Kept, code: Option<&str>) -> Value {
    let wanted = code.map_or_else(|| chosen.spec.clone(), |copy| with_code(chosen, copy));
    let version = function.metadata.resource_version.clone();
    json!({"metadata": {"resourceVersion": version}, "spec": history::restored(&function.spec, &wanted)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(spec: Value) -> Function {
        serde_json::from_value(json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "shop", "resourceVersion": "7"}, "spec": spec
        }))
        .unwrap()
    }

    fn kept(revision: &str, number: i64, spec: &Value) -> Kept {
        let spec = history::running(&function(spec.clone()).spec);
        Kept {
            revision: revision.into(),
            number,
            made: Some("2026-11-24T10:00:00Z".parse().unwrap()),
            serves: false,
            spec,
        }
    }

    #[test]
    fn the_newest_that_does_not_run_is_meant() {
        let (a, b, c) = (json!({"image": "a"}), json!({"image": "b"}), json!({"image": "c"}));
        let list = [kept("rb", 2, &b), kept("ra", 1, &a)];
        let of = |spec: &Value, to| choose(&function(spec.clone()), &list, to).map(|k| k.revision.clone());
        assert_eq!(of(&b, None).unwrap(), "ra");
        assert_eq!(of(&b, Some("rb")).unwrap(), "rb");
        assert_eq!(of(&c, None).unwrap(), "rb", "what the spec says never came to be");
        assert_eq!(of(&a, None).unwrap(), "rb", "twice leads back");
        let broken = [kept("rc", 3, &c), kept("rb", 2, &b), Kept { serves: true, ..kept("ra", 1, &a) }];
        assert_eq!(choose(&function(c.clone()), &broken, None).unwrap().revision, "ra", "the one that still serves");
        let unknown = of(&b, Some("rx")).unwrap_err();
        assert!(unknown.message().contains("rb, ra"), "{}", unknown.message());
        assert!(choose(&function(a.clone()), &[kept("ra", 1, &a)], None).is_err());
        assert!(choose(&function(a), &[], None).is_err());
    }

    #[test]
    fn only_what_runs_is_written() {
        let now = function(json!({"image": "b", "env": [{"name": "A", "value": "1"}], "idleTimeoutSeconds": 9}));
        let before = kept("ra", 1, &json!({"image": "a", "idleTimeoutSeconds": 60}));
        let wanted = json!({"metadata": {"resourceVersion": "7"}, "spec": {"image": "a", "env": null}});
        assert_eq!(change(&now, &before, None), wanted);
    }

    /// What the spec named has other files by now, or is gone: the copy is named in its place.
    #[test]
    fn code_comes_from_the_copy() {
        let source = |map: &str, key: &str| {
            let map = if key.is_empty() { json!({"name": map}) } else { json!({"name": map, "key": key}) };
            json!({"source": {"runtime": "python", "handler": "a.b", "configMap": map}})
        };
        let (old, new) = (kept("ra", 1, &source("one", "a.py")), kept("rb", 2, &source("two", "")));
        let list = [new, old];
        let now = function(source("two", ""));
        let chosen = choose(&now, &list, None).unwrap();
        assert_eq!(chosen.revision, "ra");
        let wanted = json!({"source": {"configMap": {"name": "hello-ra"}}});
        assert_eq!(change(&now, chosen, Some("hello-ra"))["spec"], wanted);
        let back = function(source("hello-ra", ""));
        assert_eq!(choose(&back, &list, None).unwrap().revision, "rb");
    }

    /// The ConfigMap is the user's own, and its files were changed: the specs are the same, the revisions are not.
    #[test]
    fn code_alone_is_gone_back_to() {
        let mine = json!({"source": {"runtime": "python", "handler": "a.b", "configMap": {"name": "mine"}}});
        let list = [kept("rb", 2, &mine), kept("ra", 1, &mine)];
        let now = function(mine.clone());
        assert_eq!(choose(&now, &list, None).unwrap().revision, "ra");
        assert!(choose(&now, &list[..1], None).is_err());
    }

    #[test]
    fn a_list_for_people() {
        let mut list = [kept("rb", 2, &json!({"image": "i:2"})), kept("ra", 1, &json!({"image": "i:1"}))];
        list[1].serves = true;
        let shown = rows(&list, "2026-11-24T10:01:00Z".parse().unwrap());
        let wanted = "REVISION   NUMBER   MADE   RUNS   SERVES\n\
                      rb              2    60s   i:2    -\n\
                      ra              1    60s   i:1    yes";
        assert_eq!(shown, wanted);
    }
}
