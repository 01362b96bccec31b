//! Applying: the code first, then who runs it.

use super::read::{Document, Kind};
use super::{code, owners};
use crate::exit::Failure;
use crate::say;
use crate::target::cluster::{MANAGER, words};
use crate::wait;
use dormouse_core::function::Function;
use dormouse_core::{Budget, WarmPool};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// Most ConfigMaps of earlier code that are removed at once: there is one, unless a deploy was broken off.
const PAGE: u32 = 100;

/// How often a write is tried that met one of the status.
const TRIES: u32 = 5;

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
                self.code(document, namespace, before).await?;
                let written = self.object(&api, document).await?;
                // So that the code goes with the function.
                self.code(document, namespace, written.uid()).await?;
                let (namespace, name) = (namespace.to_owned(), document.name.clone());
                let code = document.code.as_ref().map(|files| code::name(&name, files));
                Ok(Some(Written { namespace, name, generation: wait::generation(&written), code }))
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

    /// What a rollback wrote is this command line's, too. Answers the function's uid, if there is one.
    async fn own(&self, api: &Api<DynamicObject>, document: &Document) -> Result<Option<String>, Failure> {
        let name = &document.name;
        let cannot = |what: &str, e: &kube::Error| Failure::failed(format!("cannot {what} {name}: {}", words(e)));
        for _ in 0..TRIES {
            let before = api.get_metadata_opt(name).await.map_err(|e| cannot("read", &e))?;
            let managed = before.as_ref().and_then(|b| owners::merged(b.managed_fields()));
            let (Some(before), Some(managed)) = (&before, managed) else { return Ok(before.and_then(|b| b.uid())) };
            let metadata = json!({"resourceVersion": before.resource_version(), "managedFields": managed});
            let body = Patch::Merge(json!({ "metadata": metadata }));
            match api.patch_metadata(name, &PatchParams::default(), &body).await {
                Ok(_) => return Ok(before.uid()),
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
        let map: Value = code::config_map(&document.name, files, function.as_deref())?;
        let name = code::name(&document.name, files);
        self.apply(&api, &name, &map).await.map(drop)
    }

    /// Removes the ConfigMaps of a function's earlier code, once it serves what was written: what was made from them has
    /// copies of its own.
    pub(crate) async fn forget(&self, written: &Written) {
        let Some(present) = &written.code else { return };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &written.namespace);
        let of_function = ListParams::default().labels(&code::selector(&written.name)).limit(PAGE);
        let found = api.list_metadata(&of_function).await.map(|list| list.items).unwrap_or_default();
        for old in found.iter().map(ResourceExt::name_any).filter(|name| name != present) {
            // They go with the function at the latest.
            if let Err(error) = api.delete(&old, &DeleteParams::default()).await {
                say::note(format_args!("the ConfigMap {old} of earlier code is left: {}", words(&error)));
            }
        }
    }
}
