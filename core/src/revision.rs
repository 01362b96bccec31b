//! The name of a revision: a hash over the fields that say what runs, and over nothing else.
//!
//! In it: image, command, args, port, protocol, env, envFrom, resources, imagePullSecrets, serviceAccountName,
//! securityContext, source, and timeoutSeconds. The last one is no field of the program, but a pod's grace period and
//! its `preStop.sleep` are made from it, and a pod cannot change them while it runs.
//! Not in it: concurrency, reservedConcurrency, warm capacity, idleTimeoutSeconds, queue, startCheck, schedules. These
//! change how many instances there are and who may call them: they never roll pods.

use crate::function::{EnvFrom, EnvVar, FunctionSpec, LocalName, Protocol, Runtime, SecurityContext, Source};
use crate::quantity;
use crate::source::Code;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;

/// The shape of the pods that the controller builds. A release that builds them differently raises it: that makes a
/// new revision of every function, rolled by the ordinary rule, where a changed template would restart busy pods.
const TEMPLATE: u32 = 1;

/// Characters of a revision's name. 27^8 = 2.8e11 names: two of one function's last 1000 specs share one with a
/// probability of 1000^2 / 2 / 2.8e11, about 2 in a million.
const LENGTH: usize = 8;

/// Letters and digits that Kubernetes itself uses in made-up names: no vowels and so no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name of a revision, unique within its function.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(Arc<str>);

impl Revision {
    /// The revision of a spec. Needs nothing of the spec to be valid.
    #[must_use]
    pub fn of(spec: &FunctionSpec) -> Self {
        let mut hasher = Sha256::new();
        hash_into(&mut hasher, &serde_json::to_value(Runs::of(spec)).unwrap_or(Value::Null));
        let digest = hasher.finalize();
        let mut number = digest.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let mut name = String::with_capacity(LENGTH);
        for _ in 0..LENGTH {
            let (rest, digit) = (number / 27, number % 27);
            name.push(char::from(ALPHABET[usize::try_from(digit).unwrap_or(0)]));
            number = rest;
        }
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Revision {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The fields that make a revision. Fields that are unset are left out, so that a field added in a later version does
/// not rename the revisions of functions that do not use it.
#[derive(Serialize)]
struct Runs<'a> {
    template: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: &'a Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    command: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    args: &'a [String],
    port: i32,
    protocol: Protocol,
    #[serde(skip_serializing_if = "<[LocalName]>::is_empty")]
    image_pull_secrets: &'a [LocalName],
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_name: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security_context: &'a Option<SecurityContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Handler<'a>>,
    #[serde(skip_serializing_if = "<[EnvVar]>::is_empty")]
    env: &'a [EnvVar],
    #[serde(skip_serializing_if = "<[EnvFrom]>::is_empty")]
    env_from: &'a [EnvFrom],
    memory: Size<'a>,
    cpu: Size<'a>,
    timeout_seconds: i32,
}

/// Handler code by what it is: where it was read from does not matter.
#[derive(Serialize)]
struct Handler<'a> {
    runtime: Runtime,
    handler: &'a str,
    /// Digest of the code; unset while it is not known, and for that of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

impl<'a> Handler<'a> {
    fn of(source: &'a Source) -> Self {
        let code = match &source.inline {
            Some(text) => Code::inline(source, text).ok().map(|code| code.digest().to_owned()),
            None => source.code.as_ref().map(|code| code.digest().to_owned()),
        };
        Self { runtime: source.runtime, handler: &source.handler, code }
    }
}

/// A quantity by what it means (1Gi and 1024Mi are one size), or as written when it means nothing.
#[derive(Serialize)]
#[serde(untagged)]
enum Size<'a> {
    Number(u32),
    Text(&'a str),
}

impl<'a> Runs<'a> {
    fn of(spec: &'a FunctionSpec) -> Self {
        let FunctionSpec {
            image,
            command,
            args,
            port,
            protocol,
            image_pull_secrets,
            service_account_name,
            security_context,
            source,
            env,
            env_from,
            resources,
            timeout_seconds,
            concurrency: _,
            reserved_concurrency: _,
            warm_up_concurrency: _,
            idle_timeout_seconds: _,
            queue: _,
            start_check: _,
            warm_up: _,
            schedules: _,
        } = spec;
        Self {
            template: TEMPLATE,
            image,
            command,
            args,
            port: *port,
            protocol: *protocol,
            image_pull_secrets,
            service_account_name,
            security_context,
            source: source.as_ref().map(Handler::of),
            env,
            env_from,
            memory: quantity::memory_mib(&resources.memory).map_or(Size::Text(&resources.memory), Size::Number),
            cpu: quantity::cpu_millis(&resources.cpu).map_or(Size::Text(&resources.cpu), Size::Number),
            timeout_seconds: *timeout_seconds,
        }
    }
}

/// Hashes a value so that the order of keys in objects does not matter and no two different values look alike: every
/// part is preceded by its kind and its length.
fn hash_into(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hasher.update(b"n"),
        Value::Bool(b) => hasher.update(if *b { b"t" } else { b"f" }),
        Value::Number(n) => part(hasher, b'#', n.to_string().as_bytes()),
        Value::String(s) => part(hasher, b'"', s.as_bytes()),
        Value::Array(items) => {
            part(hasher, b'[', &items.len().to_be_bytes());
            items.iter().for_each(|item| hash_into(hasher, item));
        }
        Value::Object(fields) => {
            part(hasher, b'{', &fields.len().to_be_bytes());
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            for key in keys {
                part(hasher, b'"', key.as_bytes());
                hash_into(hasher, &fields[key.as_str()]);
            }
        }
    }
}

fn part(hasher: &mut Sha256, kind: u8, bytes: &[u8]) {
    hasher.update([kind]);
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> FunctionSpec {
        serde_json::from_value(json).unwrap()
    }

    /// A changed value here restarts every function of every user on upgrade: see [`TEMPLATE`].
    #[test]
    fn golden() {
        let small = spec(serde_json::json!({"image": "registry/hello:1"}));
        assert_eq!(Revision::of(&small).as_str(), "fllfrss8");
        let large = spec(serde_json::json!({
            "image": "registry/hello@sha256:00", "command": ["/hello"], "args": ["-v"], "port": 9000,
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}], "resources": {"memory": "1Gi", "cpu": "2"},
            "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "runner",
            "securityContext": {"runAsNonRoot": true}, "timeoutSeconds": 5
        }));
        assert_eq!(Revision::of(&large).as_str(), "s2wxhwfq");
    }

    #[test]
    fn sizes_are_compared_by_what_they_mean() {
        let of = |memory: &str| Revision::of(&spec(serde_json::json!({"image": "a", "resources": {"memory": memory}})));
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert_ne!(of("1Gi"), of("1025Mi"));
        assert_ne!(of("nonsense"), of("other"));
    }

    #[test]
    fn scaling_fields_are_not_in_it() {
        let one = spec(serde_json::json!({"image": "a"}));
        let other = spec(serde_json::json!({
            "image": "a", "concurrency": 5, "idleTimeoutSeconds": 1, "queue": {"maxCalls": 2}, "startCheck": "Never"
        }));
        assert_eq!(Revision::of(&one), Revision::of(&other));
    }

    #[test]
    fn each_field_that_runs_is_in_it() {
        let base = serde_json::json!({"image": "a"});
        let changes = serde_json::json!({
            "image": "b", "command": ["x"], "args": ["x"], "port": 1, "protocol": "h2c",
            "imagePullSecrets": [{"name": "x"}], "serviceAccountName": "x", "securityContext": {"runAsUser": 1},
            "source": {"runtime": "nodejs", "handler": "a.b"}, "env": [{"name": "x", "value": "1"}],
            "envFrom": [{"secretRef": {"name": "x"}}], "resources": {"memory": "1Gi"}, "timeoutSeconds": 1
        });
        let mut seen = vec![Revision::of(&spec(base.clone()))];
        for (field, value) in changes.as_object().unwrap() {
            let mut changed = base.clone();
            changed[field] = value.clone();
            let revision = Revision::of(&spec(changed));
            assert!(!seen.contains(&revision), "{field} does not change the revision");
            seen.push(revision);
        }
    }

    #[test]
    fn key_order_does_not_matter_and_list_order_does() {
        let hash = |text: &str| {
            let mut hasher = Sha256::new();
            hash_into(&mut hasher, &serde_json::from_str(text).unwrap());
            hasher.finalize().to_vec()
        };
        assert_eq!(hash(r#"{"a":1,"b":{"c":2,"d":3}}"#), hash(r#"{"b":{"d":3,"c":2},"a":1}"#));
        assert_ne!(hash(r#"["a","b"]"#), hash(r#"["b","a"]"#));
        assert_ne!(hash(r#"["ab"]"#), hash(r#"["a","b"]"#));
        assert_ne!(hash(r#"{"a":"b"}"#), hash(r#"["a","b"]"#));
    }
}
