//! Secrets and ConfigMaps in the folder of manifests: on a cluster the kubelet resolves what a function names of them, here
//! this does, from the same files.

use super::tree::Document;
use base64::{Engine, engine::general_purpose::STANDARD};
use dormouse_core::Fault;
use dormouse_core::function::{EnvFrom, EnvVar, EnvVarSource, Function};
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest value: the limit of `env[].value`, for here it becomes one.
const MAX_VALUE: usize = 32_768;
/// Most variables of a function, as many as `env` takes: what `envFrom` names is bounded with it.
const MAX_ENV: usize = 128;

/// Kind, namespace and name.
type Place = (&'static str, String, String);

/// The objects of a folder that hold keys. A file has at most 4 MiB and a folder 1,000 of them, so this is bounded, too.
#[derive(Debug, Default)]
pub(super) struct Keyed(BTreeMap<Place, BTreeMap<String, String>>);

impl Keyed {
    /// Takes a document if it is a Secret or a ConfigMap; the faults are its own.
    pub(super) fn take(&mut self, document: &Document) -> Option<Vec<Fault>> {
        let text = |pointer| document.value.pointer(pointer).and_then(Value::as_str);
        let kind = holds_keys(&document.value)?;
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        if name.is_empty() {
            return Some(vec![Fault::new("metadata.name", "is missing")]);
        }
        let namespace = text("/metadata/namespace").unwrap_or("default").to_owned();
        let (mut keys, mut faults) = (BTreeMap::new(), Vec::new());
        // What is in stringData goes before data, as on a cluster.
        let parts: &[(&str, bool)] =
            if kind == "Secret" { &[("data", true), ("stringData", false)] } else { &[("data", false)] };
        for (part, encoded) in parts {
            for (key, value) in document.value.get(part).and_then(Value::as_object).into_iter().flatten() {
                match read(value, *encoded) {
                    Ok(value) => drop(keys.insert(key.clone(), value)),
                    Err(why) => faults.push(Fault::new(format!("{part}.{key}"), why)),
                }
            }
        }
        if self.0.insert((kind, namespace, name.clone()), keys).is_some() {
            faults.push(Fault::new("metadata.name", format!("the {kind} {name} is here twice: rename or remove one")));
        }
        Some(faults)
    }

    /// Puts values in the place of references.
    pub(super) fn resolve(&self, function: &mut Function) -> Vec<Fault> {
        let namespace = function.metadata.namespace.clone().unwrap_or_else(|| "default".into());
        let mut faults = Vec::new();
        let mut env = Vec::with_capacity(function.spec.env.len());
        for (i, var) in std::mem::take(&mut function.spec.env).into_iter().enumerate() {
            match &var.value_from {
                None => env.push(var),
                Some(from) => match self.value(&namespace, from) {
                    Ok(Some(value)) => env.push(EnvVar { name: var.name, value: Some(value), value_from: None }),
                    Ok(None) => {}
                    Err(why) => faults.push(Fault::new(format!("spec.env[{i}].valueFrom"), why)),
                },
            }
        }
        for (i, from) in std::mem::take(&mut function.spec.env_from).into_iter().enumerate() {
            match self.all(&namespace, &from) {
                Ok(more) => {
                    let prefix = from.prefix.unwrap_or_default();
                    for (key, value) in more {
                        let name = format!("{prefix}{key}");
                        // A variable that is named goes before one that comes with others.
                        if is_name(&name) && env.iter().all(|var| var.name != name) {
                            env.push(EnvVar { name, value: Some(value.clone()), value_from: None });
                        }
                    }
                }
                Err(why) => faults.push(Fault::new(format!("spec.envFrom[{i}]"), why)),
            }
        }
        if env.len() > MAX_ENV {
            faults.push(Fault::new("spec.envFrom", format!("{} variables in all are more than {MAX_ENV}", env.len())));
        }
        function.spec.env = env;
        faults
    }

    fn value(&self, namespace: &str, from: &EnvVarSource) -> Result<Option<String>, String> {
        let (kind, at) = match (&from.secret_key_ref, &from.config_map_key_ref) {
            (Some(at), _) => ("Secret", at),
            (None, Some(at)) => ("ConfigMap", at),
            // Told by the rules of the manifest.
            (None, None) => return Ok(None),
        };
        let object = self.0.get(&(kind, namespace.to_owned(), at.name.clone()));
        match object.map(|keys| keys.get(&at.key)) {
            Some(Some(value)) => Ok(Some(value.clone())),
            _ if at.optional == Some(true) => Ok(None),
            Some(None) => Err(format!("the {kind} {} has no key {}", at.name, at.key)),
            None => Err(missing(kind, namespace, &at.name)),
        }
    }

    fn all(&self, namespace: &str, from: &EnvFrom) -> Result<&BTreeMap<String, String>, String> {
        let (kind, at) = match (&from.secret_ref, &from.config_map_ref) {
            (Some(at), _) => ("Secret", at),
            (None, Some(at)) => ("ConfigMap", at),
            (None, None) => return Err("names neither a Secret nor a ConfigMap".into()),
        };
        let object = self.0.get(&(kind, namespace.to_owned(), at.name.clone()));
        object.ok_or_else(|| missing(kind, namespace, &at.name))
    }
}

/// The kind of an object that holds keys.
pub(super) fn holds_keys(value: &Value) -> Option<&'static str> {
    match (value.get("apiVersion")?.as_str()?, value.get("kind")?.as_str()?) {
        ("v1", "Secret") => Some("Secret"),
        ("v1", "ConfigMap") => Some("ConfigMap"),
        _ => None,
    }
}

fn missing(kind: &str, namespace: &str, name: &str) -> String {
    format!(
        "there is no {kind} {name} of namespace {namespace} in this folder, and `dormouse dev` asks no cluster: write one in a manifest beside this one"
    )
}

fn read(value: &Value, encoded: bool) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a string: put quotes around it")?;
    let text = if encoded {
        let bytes =
            STANDARD.decode(text.trim()).map_err(|e| format!("is not base64 ({e}): stringData takes plain text"))?;
        String::from_utf8(bytes).map_err(|_| "is not UTF-8, and a variable of the environment is text")?
    } else {
        text.to_owned()
    };
    match text.len() {
        len if len > MAX_VALUE => Err(format!("{len} bytes are more than {MAX_VALUE}, which a variable may have")),
        _ if text.contains('\0') => Err("holds a NUL, which no variable may".into()),
        _ => Ok(text),
    }
}

/// What may name a variable: other keys are passed over, as the kubelet does.
fn is_name(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit() || b"-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::super::tree::documents;
    use super::*;
    use serde_json::json;

    const OBJECTS: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: shop}
data: {URL: cG9zdGdyZXM6Ly9h, plain: b2xk}
stringData: {plain: new}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop, namespace: other}
data: {MODE: fast, URL: no, 1st: no}
";

    fn keyed(text: &str) -> (Keyed, Vec<Fault>) {
        let mut keyed = Keyed::default();
        let faults = documents(text).unwrap().iter().filter_map(|d| keyed.take(d)).flatten().collect();
        (keyed, faults)
    }

    fn resolved(namespace: &str, spec: Value) -> (Vec<(String, String)>, Vec<String>) {
        let mut function: Function = serde_json::from_value(json!({"apiVersion": "dormouse.dev/v1alpha1",
            "kind": "Function", "metadata": {"name": "f", "namespace": namespace}, "spec": spec}))
        .unwrap();
        let faults = keyed(OBJECTS).0.resolve(&mut function);
        assert!(function.spec.env_from.is_empty() && function.spec.env.iter().all(|e| e.value_from.is_none()));
        let env = function.spec.env.into_iter().map(|e| (e.name, e.value.unwrap_or_default())).collect();
        (env, faults.iter().map(ToString::to_string).collect())
    }

    fn key(name: &str, key: &str) -> Value {
        json!({"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    }

    #[test]
    fn values_stand_where_keys_were_named() {
        let env = json!({"image": "i", "env": [key("shop", "plain"), {"name": "A", "value": "1"}]});
        let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(resolved("default", env), (vec![one("V", "new"), one("A", "1")], vec![]));
        let map = json!([{"name": "M", "valueFrom": {"configMapKeyRef": {"name": "shop", "key": "MODE"}}}]);
        assert_eq!(resolved("other", json!({"image": "i", "env": map})), (vec![one("M", "fast")], vec![]));
        // One that is named stays; a key that can be no variable is passed over.
        let from = json!({"image": "i", "env": [{"name": "URL", "value": "mine"}],
            "envFrom": [{"configMapRef": {"name": "shop"}}]});
        assert_eq!(resolved("other", from), (vec![one("URL", "mine"), one("MODE", "fast")], vec![]));
        let from = json!({"image": "i", "envFrom": [{"prefix": "DB_", "secretRef": {"name": "shop"}}]});
        let all = vec![one("DB_URL", "postgres://a"), one("DB_plain", "new")];
        assert_eq!(resolved("default", from), (all, vec![]));
    }

    #[test]
    fn what_is_not_there_is_told_unless_it_is_optional() {
        let optional =
            json!({"name": "V", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}});
        assert_eq!(resolved("default", json!({"image": "i", "env": [optional]})), (vec![], vec![]));
        let both = json!({"image": "i", "env": [key("shop", "no"), key("no", "k")], "envFrom": [{"secretRef": {"name": "no"}}]});
        let (env, told) = resolved("default", both);
        assert_eq!(env, []);
        assert_eq!(told[0], "spec.env[0].valueFrom: the Secret shop has no key no");
        assert!(
            told[1].starts_with("spec.env[1].valueFrom: there is no Secret no of namespace default in this folder")
        );
        assert!(told[2].starts_with("spec.envFrom[0]: there is no Secret no of namespace default"), "{told:?}");
        // Those of another namespace are not its own.
        let (_, told) = resolved("other", json!({"image": "i", "env": [key("shop", "plain")]}));
        assert!(told[0].contains("there is no Secret shop of namespace other"), "{told:?}");
    }

    #[test]
    fn objects_that_hold_no_text_are_faults() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let told = |text: &str| keyed(text).1.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(told(&format!("{secret}data: {{a: '%'}}"))[0].starts_with("data.a: is not base64"));
        assert!(told(&format!("{secret}data: {{a: /w==}}"))[0].starts_with("data.a: is not UTF-8"));
        assert!(told(&format!("{secret}stringData: {{a: 1}}"))[0].starts_with("stringData.a: must be a string"));
        let long = "x".repeat(MAX_VALUE + 1);
        assert!(told(&format!("{secret}stringData: {{a: {long}}}"))[0].contains("32769 bytes are more than 32768"));
        assert_eq!(
            told(&format!("{secret}---\n{secret}")),
            ["metadata.name: the Secret s is here twice: rename or remove one"]
        );
        assert_eq!(told("apiVersion: v1\nkind: Secret\n"), ["metadata.name: is missing"]);
    }
}
