//! Applying: the code first, then who runs it.

use super::read::{Document, Kind};
use super::{code, owners};
use crate::exit::Failure;
use crate::say;
use crate::target::cluster::{MANAGER, words};
use crate::wait;
use dormouse_core::function::Function;
use dormouse_core::{Budget, WarmPool};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// Most ConfigMaps of earlier code that are removed at once: there is one, unless a deploy was broken off.
const PAGE: u32 = 100;

/// How often a write is tried that met one of the status.
const TRIES: u32 = 5;

/// On a ConfigMap of code: when it was last sent.
const DEPLOYED_AT: &str = "dormouse.dev/deployed-at";

/// Where documents go.
pub(crate) struct Writer {
    pub(crate) client: Client,
    /// Of documents that name none.
    pub(crate) namespace: String,
    /// Take fields over.
    pub(crate) force: bool,
}

/// A function that was applied.
pub(crate) struct Written {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of its spec as it is now.
    pub(crate) generation: i64,
    /// It is another one than before.
    pub(crate) changed: bool,
    /// The ConfigMap of its code, where that was sent.
    pub(crate) code: Option<String>,
}

impl Writer {
    /// Applies one; a function is answered.
    pub(crate) async fn write(&self, document: &Document) -> Result<Option<Written>, Failure> {
        let namespace = document.namespace.as_deref().unwrap_or(&self.namespace);
        let of = |kind: ApiResource| Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &kind);
        match document.kind {
            Kind::Budget => {
                let api = Api::all_with(self.client.clone(), &ApiResource::erase::<Budget>(&()));
                self.object(&api, document).await.map(|_| None)
            }
            Kind::WarmPool => self.object(&of(ApiResource::erase::<WarmPool>(&())), document).await.map(|_| None),
            Kind::Function => {
                let api = of(ApiResource::erase::<Function>(&()));
                let before = self.own(&api, document).await?;
                let found = before.as_ref().map(wait::generation);
                self.code(document, namespace, before.and_then(|before| before.uid())).await?;
                let written = self.object(&api, document).await?;
                // So that the code goes with the function.
                self.code(document, namespace, written.uid()).await?;
                let (namespace, name) = (namespace.to_owned(), document.name.clone());
                let code = document.code.as_ref().map(|files| code::name(&name, files));
                let generation = wait::generation(&written);
                Ok(Some(Written { namespace, name, generation, changed: found != Some(generation), code }))
            }
        }
    }

    async fn object(&self, api: &Api<DynamicObject>, document: &Document) -> Result<DynamicObject, Failure> {
        let applied = self.apply(api, &document.name, &document.value).await?;
        say::note(format_args!("{} {} applied", document.kind.name(), document.name));
        Ok(applied)
    }

    async fn apply<K>(&self, api: &Api<K>, name: &str, value: &Value) -> Result<K, Failure>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut params = PatchParams::apply(MANAGER);
        params.force = self.force;
        api.patch(name, &params, &Patch::Apply(value)).await.map_err(|e| match e {
            kube::Error::Api(status) if status.code == 409 => Failure::failed(format!(
                "{name} is not applied: others have written what the manifest says otherwise:\n{}\ntake these fields over with --force-conflicts, or leave them out of the manifest",
                owners::conflicts(&status)
            )),
            e => Failure::failed(format!("{name} is not applied: {}", words(&e))),
        })
    }

    /// What a rollback wrote is this command line's, too. Answers the function as it was found, if there is one.
    async fn own(
        &self,
        api: &Api<DynamicObject>,
        document: &Document,
    ) -> Result<Option<PartialObjectMeta<DynamicObject>>, Failure> {
        let name = &document.name;
        let cannot = |what: &str, e: &kube::Error| Failure::failed(format!("cannot {what} {name}: {}", words(e)));
        for _ in 0..TRIES {
            let before = api.get_metadata_opt(name).await.map_err(|e| cannot("read", &e))?;
            let managed = before.as_ref().and_then(|b| owners::merged(b.managed_fields()));
            let (Some(found), Some(managed)) = (&before, managed) else { return Ok(before) };
            let metadata = json!({"resourceVersion": found.resource_version(), "managedFields": managed});
            let body = Patch::Merge(json!({ "metadata": metadata }));
            match api.patch_metadata(name, &PatchParams::default(), &body).await {
                Ok(_) => return Ok(before),
                // The controller has written its status.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(e) => return Err(cannot("take over what a rollback wrote in", &e)),
            }
        }
        Err(Failure::failed(format!("{name} is changed all the time: try again")))
    }

    /// The ConfigMap of a function's files, if those are its code.
    async fn code(&self, document: &Document, namespace: &str, function: Option<String>) -> Result<(), Failure> {
        let Some(files) = &document.code else { return Ok(()) };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let mut map: Value = code::config_map(&document.name, files, function.as_deref())?;
        // Another version each time: a deploy that wants to remove it as earlier code sees that it is in use again.
        map["metadata"]["annotations"] = json!({ DEPLOYED_AT: Timestamp::now().to_string() });
        let name = code::name(&document.name, files);
        self.apply(&api, &name, &map).await.map(drop)
    }

    /// Removes the ConfigMaps of a function's earlier code, once it serves what was written: what was made from them has
    /// copies of its own. `serving` is the function as it was seen to serve: when somebody else has written meanwhile, it
    /// is theirs to say which code is an earlier one.
    pub(crate) async fn forget(&self, written: &Written, serving: &Function) {
        let Some(present) = written.code.as_deref().filter(|code| is_still_said(serving, written.generation, code))
        else {
            return;
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &written.namespace);
        let of_function = ListParams::default().labels(&code::selector(&written.name)).limit(PAGE);
        let found = api.list_metadata(&of_function).await.map(|list| list.items).unwrap_or_default();
        for old in earlier(&found, present) {
            let preconditions = Preconditions { uid: old.uid(), resource_version: old.resource_version() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match api.delete(&old.name_any(), &params).await {
                Ok(_) => {}
                // Removed by another deploy, or sent again by one.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                // They go with the function at the latest.
                Err(error) => {
                    let name = old.name_any();
                    say::note(format_args!("the ConfigMap {name} of earlier code is left: {}", words(&error)));
                }
            }
        }
    }
}

/// Whether a function's spec is the one that was written, and names this ConfigMap.
fn is_still_said(function: &Function, generation: i64, code: &str) -> bool {
    let named = function.spec.source.as_ref().and_then(|source| source.config_map.as_ref());
    function.metadata.generation == Some(generation) && named.is_some_and(|named| named.name == code)
}

/// Those that were made before the present one. Of the same second there may be a later one.
fn earlier<'a>(
    found: &'a [PartialObjectMeta<ConfigMap>],
    present: &str,
) -> impl Iterator<Item = &'a PartialObjectMeta<ConfigMap>> {
    let made = |of: &PartialObjectMeta<ConfigMap>| of.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let now = found.iter().find(|map| map.name_any() == present).and_then(made);
    found.iter().filter(move |map| matches!((made(map), now), (Some(made), Some(now)) if made < now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, made: &str) -> PartialObjectMeta<ConfigMap> {
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "creationTimestamp": made}
        }))
        .unwrap()
    }

    #[test]
    fn only_earlier_code_is_forgotten() {
        let times = [
            ("a", "2026-11-24T10:00:00Z"),
            ("b", "2026-11-24T10:00:05Z"),
            ("c", "2026-11-24T10:00:05Z"),
            ("d", "2026-11-24T10:00:06Z"),
        ];
        let found = times.map(|(name, made)| map(name, made));
        let of = |present: &str| earlier(&found, present).map(ResourceExt::name_any).collect::<Vec<_>>();
        assert_eq!(of("b"), ["a"], "not another deploy's of the same second or later");
        assert_eq!(of("a"), Vec::<String>::new());
        assert_eq!(of("gone"), Vec::<String>::new(), "somebody else has removed it: nothing is known");
    }

    #[test]
    fn nothing_is_forgotten_when_somebody_else_has_written() {
        let function = |generation: i64, source: Value| -> Function {
            serde_json::from_value(json!({
                "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": "a", "generation": generation}, "spec": {"source": source}
            }))
            .unwrap()
        };
        let source = |map: &str| json!({"runtime": "nodejs", "handler": "a.b", "configMap": {"name": map}});
        assert!(is_still_said(&function(3, source("one")), 3, "one"));
        assert!(!is_still_said(&function(4, source("one")), 3, "one"));
        assert!(!is_still_said(&function(3, source("two")), 3, "one"));
        let inline = json!({"runtime": "nodejs", "handler": "a.b", "inline": "x"});
        assert!(!is_still_said(&function(3, inline), 3, "one"));
    }
}
