//! What a cluster keeps of a function's revisions: `ControllerRevision`s that the function owns.

use super::cluster::words;
use crate::exit::Failure;
use dormouse_controller::reconcile::build::revision;
use dormouse_core::function::Function;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most that are read: the controller keeps ten, and the live ones.
const PAGE: u32 = 100;

/// One revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) revision: String,
    /// The larger, the later it came into use.
    pub(crate) number: i64,
    /// When it was first made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<jiff::Timestamp>,
    /// It takes the calls.
    pub(crate) serves: bool,
    /// The fields of the spec that run.
    pub(crate) spec: Map<String, Value>,
}

impl Kept {
    /// What it runs, in a few words.
    pub(crate) fn runs(&self) -> String {
        let of = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let image = self.spec.get("image").and_then(Value::as_str);
        let source = self.spec.get("source").map(|source| {
            let [runtime, handler] = ["runtime", "handler"].map(|name| of(source, name).unwrap_or_default());
            format!("{runtime} {handler}")
        });
        match (image, source) {
            (Some(image), Some(source)) => format!("{source} in {image}"),
            (Some(image), None) => image.to_owned(),
            (None, source) => source.unwrap_or_else(|| "-".into()),
        }
    }

    fn read(found: &ControllerRevision, serving: Option<&str>) -> Option<Self> {
        let entry = revision::entry(found)?;
        let spec = found.data.0.get("spec")?.as_object()?.clone();
        let serves = serving == Some(&entry.revision);
        let made = found.metadata.creation_timestamp.as_ref().map(|t| t.0);
        Some(Self { revision: entry.revision, number: entry.number, made, serves, spec })
    }
}

/// Those of a function, newest first.
pub(crate) async fn of(client: &Client, function: &Function) -> Result<Vec<Kept>, Failure> {
    let (namespace, uid) = (function.namespace().unwrap_or_default(), function.uid().unwrap_or_default());
    let api = Api::<ControllerRevision>::namespaced(client.clone(), &namespace);
    let ours = ListParams::default().labels(&format!("dormouse.dev/function-uid={uid}")).limit(PAGE);
    let found = api.list(&ours).await;
    let found = found.map_err(|e| Failure::failed(format!("cannot list what it ran before: {}", words(&e))))?;
    let serving = function.status.as_ref().and_then(|s| s.revision.as_deref());
    let mut kept: Vec<Kept> = found.items.iter().filter_map(|found| Kept::read(found, serving)).collect();
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.number));
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(spec: Value) -> Option<Kept> {
        let found = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 3, "data": {"spec": spec},
            "metadata": {"name": "hello-abc", "creationTimestamp": "2026-11-24T10:00:00Z", "labels":
                {"dormouse.dev/function-uid": "u", "dormouse.dev/revision": "abc"}}
        });
        Kept::read(&serde_json::from_value(found).unwrap(), Some("abc"))
    }

    #[test]
    fn what_it_runs_is_said_in_a_few_words() {
        let image = kept(json!({"image": "registry/hello:1"})).unwrap();
        assert_eq!((image.revision.as_str(), image.number, image.serves), ("abc", 3, true));
        assert_eq!(image.runs(), "registry/hello:1");
        let source = json!({"runtime": "nodejs", "handler": "index.handler"});
        assert_eq!(kept(json!({ "source": source })).unwrap().runs(), "nodejs index.handler");
        assert_eq!(kept(json!({"source": source, "image": "a"})).unwrap().runs(), "nodejs index.handler in a");
        assert_eq!(kept(json!("no spec")), None);
    }
}
