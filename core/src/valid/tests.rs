use super::*;
use crate::function::{Overlap, Protocol, Queue, Resources, Schedule, Source, SourceFile, WarmWindow};
use kube::CustomResourceExt;
use proptest::prelude::*;
use serde_json::json;

fn manifest(spec: Value) -> Value {
    json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "hello", "namespace": "shop"}, "spec": spec})
}

fn faults(spec: Value) -> Vec<String> {
    ValidFunction::from_value(&manifest(spec)).map_or_else(|f| f.iter().map(ToString::to_string).collect(), |_| vec![])
}

#[test]
fn the_smallest_manifest_has_every_default() {
    let (_, f) = ValidFunction::from_value(&manifest(json!({"image": "a"}))).unwrap();
    assert_eq!(f.key.to_string(), "shop/hello");
    assert_eq!((f.port, f.memory_mib, f.cpu_millis, f.concurrency), (8080, 256, 100, 80));
    assert_eq!((f.idle_timeout.as_secs(), f.timeout.as_secs()), (60, 30));
    assert_eq!((f.queue_max_calls, f.queue_max_wait.as_secs()), (1000, 30));
    assert_eq!(f.start_check, StartCheck::Always);
    assert_eq!(f.reserved_concurrency, None);
}

#[test]
fn a_limit_on_all_calls_is_at_least_one() {
    let (_, f) = ValidFunction::from_value(&manifest(json!({"image": "a", "reservedConcurrency": 3}))).unwrap();
    assert_eq!(f.reserved_concurrency, Some(3));
    assert_eq!(faults(json!({"image": "a", "reservedConcurrency": 0})).len(), 1);
}

#[test]
fn what_an_instance_speaks_is_taken_as_written() {
    for (spec, protocol) in [
        (json!({"image": "a"}), Protocol::Http1),
        (json!({"image": "a", "protocol": "http1"}), Protocol::Http1),
        (json!({"image": "a", "protocol": "h2c"}), Protocol::H2c),
    ] {
        assert_eq!(ValidFunction::from_value(&manifest(spec)).unwrap().1.protocol, protocol);
    }
    assert_eq!(faults(json!({"image": "a", "protocol": "h2"})).len(), 1);
}

#[test]
fn every_fault_is_told_at_once_with_its_path() {
    let told = faults(json!({
        "image": "a", "prot": 1, "concurency": 5, "port": 70000, "resources": {"memory": "1Mi", "cpu": "x"},
        "env": [{"name": "PORT", "value": "1"}, {"name": "A", "value": 3}, {"value": "b"}], "startCheck": "Maybe",
        "timeoutSeconds": "30", "schedules": [{"name": "n", "cron": "* * * * *"}]
    }));
    insta::assert_yaml_snapshot!(told);
    let told = faults(json!({
        "env": [{"name": "A", "value": "x", "valueFrom": {}}, {"name": "A"}], "envFrom": [{}], "protocol": "h2c",
        "reservedConcurrency": 2, "warmUpConcurrency": 3, "resources": {"memory": "2Ti"}
    }));
    insta::assert_yaml_snapshot!(told);
}

#[test]
fn a_thing_that_is_no_function_is_told_as_such() {
    let told =
        |v: Value| ValidFunction::from_value(&v).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
    insta::assert_yaml_snapshot!([
        told(json!([])),
        told(json!({"kind": "Funktion"})),
        told(
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "Bad.Name"}, "spec": {"image": ""}, "sepc": {}})
        ),
    ]);
}

/// `kubectl explain` shows descriptions; the API server refuses rules over unbounded fields; unsigned formats make
/// `kubectl apply` warn; a default with null in it is refused.
#[test]
fn the_schema_is_bounded_described_and_signed() {
    fn walk(node: &Value, path: &str, bad: &mut Vec<String>) {
        if node.get("default").is_some_and(|d| d.to_string().contains("null")) {
            bad.push(format!("{path}: null in a default"));
        }
        match node["type"].as_str() {
            Some("string")
                if node.get("maxLength").is_none() && node.get("enum").is_none() && node.get("format").is_none() =>
            {
                bad.push(format!("{path}: text without maxLength"));
            }
            Some("array") if node.get("maxItems").is_none() => bad.push(format!("{path}: list without maxItems")),
            Some("integer") if node["format"].as_str().is_some_and(|f| f.starts_with('u')) => {
                bad.push(format!("{path}: unsigned"))
            }
            Some("integer") if node.get("minimum").is_none() => bad.push(format!("{path}: integer without minimum")),
            Some("number") => bad.push(format!("{path}: floating point")),
            _ => {}
        }
        for (name, child) in node["properties"].as_object().into_iter().flatten() {
            if child.get("description").is_none() {
                bad.push(format!("{path}.{name}: no description"));
            }
            walk(child, &format!("{path}.{name}"), bad);
        }
        if let Some(items) = node.get("items") {
            walk(items, &format!("{path}[]"), bad);
        }
    }
    let crd = serde_json::to_value(Function::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut bad = Vec::new();
    for part in ["spec", "status"] {
        walk(&schema["properties"][part], part, &mut bad);
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(schema["description"].as_str().is_some_and(|d| d.starts_with("A function:")));
}

fn any_spec() -> impl Strategy<Value = FunctionSpec> {
    let env = prop::collection::vec(prop::sample::select(vec!["A", "PORT", "K_SERVICE", "DORMOUSE_X", "B"]), 0..3);
    let optional = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0_u8..8);
    (env, optional, prop::option::of(1i32..5), 0i32..5, any::<bool>()).prop_map(|(env, o, reserved, warm, h2c)| {
        FunctionSpec {
            image: o.0.then(|| "image".into()),
            source: o.1.then(|| Source {
                handler: "a.b".into(),
                inline: (o.4 & 1 != 0).then(|| "code".into()),
                config_map: (o.4 & 2 != 0).then(|| SourceFile { name: "c".into(), key: None }),
                ..Default::default()
            }),
            command: if o.4 & 4 != 0 { vec!["c".into()] } else { vec![] },
            env: env.into_iter().map(|n| EnvVar { name: n.into(), ..Default::default() }).collect(),
            warm_up: if o.2 {
                vec![WarmWindow {
                    name: "w".into(),
                    cron: "* * * * *".into(),
                    duration_seconds: 1,
                    concurrency: 1,
                    ..Default::default()
                }]
            } else {
                vec![]
            },
            schedules: if o.3 {
                vec![Schedule {
                    name: "s".into(),
                    cron: "* * * * *".into(),
                    overlap: Overlap::Allow,
                    ..Default::default()
                }]
            } else {
                vec![]
            },
            reserved_concurrency: reserved,
            warm_up_concurrency: warm,
            protocol: if h2c { Protocol::H2c } else { Protocol::Http1 },
            resources: Resources::default(),
            queue: Queue::default(),
            port: 8080,
            idle_timeout_seconds: 60,
            timeout_seconds: 30,
            ..Default::default()
        }
    })
}

/// What the API server's rules say, evaluated here.
fn by_cel(name: &str, spec: FunctionSpec) -> Vec<String> {
    match kube::core::cel::validate_cel(&Function::new(name, spec)) {
        Ok(()) => vec![],
        Err(errors) => errors
            .as_slice()
            .iter()
            .map(|e| e.message.clone())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect(),
    }
}

proptest! {
    /// CEL and Rust say the same of each spec, to the message.
    #[test]
    fn cel_and_rust_agree(spec in any_spec()) {
        let by_rust: std::collections::BTreeSet<&str> = rules::ALL.iter().filter(|r| !(r.keeps)(&spec)).map(|r| r.message).collect();
        prop_assert_eq!(by_rust.into_iter().map(String::from).collect::<Vec<_>>(), by_cel("hello", spec));
    }

    #[test]
    fn the_name_rule_is_one_rule(name in "[a-zA-Z0-9.-]{0,60}") {
        let spec = FunctionSpec { image: Some("a".into()), ..Default::default() };
        prop_assert_eq!(rules::name_is_valid(&name), by_cel(&name, spec).is_empty());
    }

    /// Whatever is written, the answer is a list of faults or a function: never a panic.
    #[test]
    fn any_value_is_read_or_refused(n in any::<i64>(), text in ".{0,40}", key in "[a-zA-Z]{1,12}") {
        for value in [json!(n), json!(text), json!([n]), json!({"a": n}), Value::Null] {
            let _ = ValidFunction::from_value(&manifest(json!({"image": text, key.as_str(): value})));
        }
    }
}
