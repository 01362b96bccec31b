//! Handler code in a pod: the ConfigMap that holds a revision's files, and how a runtime is told of them.
//!
//! The ConfigMap is a copy, and never changed: what a user writes into his own does not reach instances of a revision that
//! was made before.

use super::deployment::name;
use crate::fleet::Target;
use crate::labels;
use crate::load::{LoadKey, MAX_CALLS};
use dormouse_core::function::{Function, Runtime};
use dormouse_core::source::{Code, key_of};
use dormouse_core::valid::{Handler, ValidFunction};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, EmptyDirVolumeSource, EnvVar, KeyToPath, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use std::collections::BTreeMap;

/// Where the files are in a pod that boots with them.
const FOLDER: &str = "/var/lib/dormouse/code";

/// Where a runtime writes, if nothing else may be written.
const TMP: &str = "/tmp";

/// Of a pod's memory, what the heap of V8 may have: beside it are its code, its stacks and buffers. Its own default is
/// half.
const HEAP: (u32, u32) = (3, 4);

/// Images of the language runtimes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeImages {
    /// Of nodejs.
    pub nodejs: String,
    /// Of python.
    pub python: String,
}

impl RuntimeImages {
    /// The image of a runtime.
    #[must_use]
    pub fn of(&self, runtime: Runtime) -> &str {
        match runtime {
            Runtime::Nodejs => &self.nodejs,
            Runtime::Python => &self.python,
        }
    }
}

/// The copy of a revision's code; `None` when it has none of its own.
#[must_use]
pub fn config_map(function: &Function, valid: &ValidFunction, target: &Target) -> Option<ConfigMap> {
    let code = valid.source.as_ref()?.code.as_ref()?;
    let (mut data, mut binary) = (BTreeMap::new(), BTreeMap::new());
    for ((_, content), item) in code.files().zip(items(code)) {
        match std::str::from_utf8(content) {
            Ok(text) => drop(data.insert(item.key, text.to_owned())),
            Err(_) => drop(binary.insert(item.key, ByteString(content.to_vec()))),
        }
    }
    Some(ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(target)),
            namespace: Some(target.key.namespace.clone()),
            labels: Some(labels::of(target)),
            owner_references: function.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: (!data.is_empty()).then_some(data),
        binary_data: (!binary.is_empty()).then_some(binary),
        immutable: Some(true),
    })
}

/// Which key is which file: its path, or a number where no key can say the path.
fn items(code: &Code) -> Vec<KeyToPath> {
    let item = |(n, (path, _)): (usize, (&str, _))| {
        let key = key_of(path).unwrap_or_else(|| format!("file.{n}"));
        KeyToPath { key, path: path.into(), ..KeyToPath::default() }
    };
    code.files().enumerate().map(item).collect()
}

/// The volume of a revision's code, and where it is mounted.
pub(super) fn volume(code: &Code, target: &Target) -> (Volume, VolumeMount) {
    let source = ConfigMapVolumeSource { name: name(target), items: Some(items(code)), ..Default::default() };
    let mount =
        VolumeMount { name: "code".into(), mount_path: FOLDER.into(), read_only: Some(true), ..Default::default() };
    (Volume { name: "code".into(), config_map: Some(source), ..Volume::default() }, mount)
}

/// A folder that a runtime may write to.
pub(super) fn tmp() -> (Volume, VolumeMount) {
    let mount = VolumeMount { name: "tmp".into(), mount_path: TMP.into(), ..VolumeMount::default() };
    (Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }, mount)
}

pub(super) fn plain(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

/// What a runtime is told of a handler that it boots with.
pub(super) fn boot(valid: &ValidFunction, handler: &Handler) -> Vec<EnvVar> {
    let mut env = vec![
        plain("DORMOUSE_HANDLER", &*handler.name),
        plain("DORMOUSE_NAMESPACE", &*valid.key.namespace),
        plain("DORMOUSE_MEMORY_MIB", valid.memory_mib.to_string()),
        plain("DORMOUSE_TIMEOUT_MS", valid.timeout.as_millis().to_string()),
        plain("DORMOUSE_CONCURRENCY", MAX_CALLS.to_string()),
    ];
    if handler.code.is_some() {
        env.push(plain("DORMOUSE_CODE_DIR", FOLDER));
    }
    env.extend(heap(handler.runtime, valid.memory_mib));
    env
}

/// What a runtime is told that waits for its load.
pub(super) fn parked(key: &LoadKey, pod: EnvVar, runtime: Runtime, memory_mib: u32) -> Vec<EnvVar> {
    let mut env = vec![plain("DORMOUSE_LOAD_KEY", key.public()), EnvVar { name: "DORMOUSE_POD_UID".into(), ..pod }];
    env.extend(heap(runtime, memory_mib));
    env
}

fn heap(runtime: Runtime, memory_mib: u32) -> Option<EnvVar> {
    let mib = u64::from(memory_mib) * u64::from(HEAP.0) / u64::from(HEAP.1);
    (runtime == Runtime::Nodejs).then(|| plain("NODE_OPTIONS", format!("--max-old-space-size={mib}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_core::revision::Revision;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn every_file_is_in_the_copy_under_a_key_that_leads_to_it() {
        let files = [("index.py", &b"x"[..]), ("lib/a.py", b"y"), ("lib/\u{e4}.bin", &[0xff, 0]), ("a..b", b"z")];
        let code = Code::new(files.iter().map(|(path, file)| ((*path).to_owned(), file.to_vec())).collect()).unwrap();
        let mut function: Function = serde_json::from_value(json!({
            "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "hello", "namespace": "default", "uid": "u-1"},
            "spec": {"source": {"runtime": "python", "handler": "index.handler", "configMap": {"name": "code"}}}
        }))
        .unwrap();
        function.spec.source.as_mut().unwrap().code = Some(Arc::new(code));
        let valid = ValidFunction::from_function(&function).unwrap();
        let target = Target { uid: "u-1".into(), key: valid.key.clone(), revision: Revision::from("abc") };
        let made = config_map(&function, &valid, &target).unwrap();
        let (volume, _) = volume(valid.source.as_ref().unwrap().code.as_ref().unwrap(), &target);
        insta::assert_yaml_snapshot!((made, volume));
    }
}
