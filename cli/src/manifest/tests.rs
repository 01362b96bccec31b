use super::*;

const GOOD: &str = "\
apiVersion: dormouse.dev/v1alpha1
kind: Function
metadata:
  name: hello
  annotations:
    dormouse.dev/local-command: '[\"dormouse\", \"sample\"]'
spec:
  image: dormouse/sample:0.1.0
";

fn reading(files: &[(&str, &str)]) -> (Reading, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    (read(folder.path()).unwrap(), folder)
}

fn told(files: &[(&str, &str)]) -> Vec<String> {
    let (reading, folder) = reading(files);
    let place = format!("{}/", folder.path().display());
    reading.faults.iter().map(|f| f.to_string().replace(&place, "")).collect()
}

#[test]
fn a_good_folder_has_functions_and_notes() {
    let other = "kind: Service\napiVersion: v1\nmetadata: {name: c}\n---\nversion: '3'\n";
    let two = format!("{GOOD}---\n{}", GOOD.replace("name: hello", "name: other\n  namespace: shop"));
    let (reading, _folder) = reading(&[("a.yaml", &two), ("b.yml", other), ("c.txt", "{"), (".d.yaml", "{")]);
    assert_eq!(reading.faults, []);
    let keys: Vec<String> = reading.manifests.iter().map(|m| format!("{}:{}", m.key, m.line)).collect();
    assert_eq!(keys, ["default/hello:1", "shop/other:10"]);
    assert_eq!(reading.manifests[0].command, ["dormouse", "sample"]);
    let notes: Vec<&str> = reading.notes.iter().map(|n| n.rsplit('/').next().unwrap()).collect();
    assert_eq!(
        notes,
        [
            "b.yml:1: Service c is passed over: only Functions, Budgets, Secrets and ConfigMaps count here",
            "b.yml:5: not a Kubernetes object: passed over"
        ]
    );
}

#[test]
fn every_fault_of_every_file_is_told_with_its_line() {
    let bad = GOOD
        .replace("  image: dormouse/sample:0.1.0", "  image: x\n  prot: 1\n  port: 70000\n  resources: {memory: 1Mi}");
    let worse =
        GOOD.replace("'[\"dormouse\", \"sample\"]'", "'[1]'").replace("  image: dormouse/sample:0.1.0", "  port: 1");
    let told = told(&[("a.yaml", &bad), ("b.yaml", &worse), ("c.yaml", "a: [\n")]);
    let starts = [
        "a.yaml:9: spec.prot: is not a field here",
        "a.yaml:10: spec.port: must be 1 to 65535, is 70000",
        "a.yaml:11: spec.resources.memory: 1Mi is outside 16Mi to 1Ti",
        "b.yaml:6: metadata.annotations.dormouse.dev/local-command: is not a JSON array of strings",
        "b.yaml:7: spec.image: image is missing",
        "c.yaml:",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told} / {start}");
    }
}

#[test]
fn keys_of_secrets_are_read_from_any_file_of_the_folder() {
    let spec = "  env:\n    - name: A\n      valueFrom: {secretKeyRef: {name: s, key: k}}\n";
    let function = format!("{GOOD}{spec}");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n";
    let (read, _folder) = reading(&[("a.yaml", &function), ("b.yaml", secret)]);
    assert_eq!((read.faults.len(), read.notes.len()), (0, 0), "{read:?}");
    assert_eq!(read.manifests[0].function.spec.env[0].value.as_deref(), Some("v"));
    let told = told(&[("a.yaml", &function), ("b.yaml", &secret.replace("{k: v}", "{k: 1}"))]);
    assert_eq!(told[0], "a.yaml:11: spec.env[0].valueFrom: the Secret s has no key k");
    assert_eq!(told[1], "b.yaml:4: stringData.k: must be a string: put quotes around it");
}

#[test]
fn a_forgotten_group_and_a_wrong_version_are_faults() {
    let no_group = GOOD.replace("apiVersion: dormouse.dev/v1alpha1\n", "");
    assert!(told(&[("a.yaml", &no_group)])[0].starts_with("a.yaml:1: apiVersion: is missing"));
    let old = GOOD.replace("v1alpha1", "v9");
    assert!(told(&[("a.yaml", &old)])[0].starts_with("a.yaml:1: apiVersion: must be"));
    let knative = GOOD.replace("dormouse.dev/v1alpha1", "example.com/v1");
    assert!(told(&[("a.yaml", &knative)]).is_empty());
}

#[test]
fn one_name_in_two_files_is_refused() {
    let told = told(&[("a.yaml", GOOD), ("b.yaml", GOOD)]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("b.yaml:1: metadata.name: default/hello is also in "), "{told:?}");
    assert!(told[0].ends_with("a.yaml:1: rename or remove one"), "{told:?}");
}

#[test]
fn a_missing_command_says_what_to_write() {
    let bare = GOOD.replace("  annotations:\n    dormouse.dev/local-command: '[\"dormouse\", \"sample\"]'\n", "");
    let told = told(&[("a.yaml", &bare)]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("a.yaml:3: metadata.annotations.dormouse.dev/local-command: is missing"), "{told:?}");
}

#[test]
fn budgets_are_read_beside_functions() {
    let budget = "apiVersion: dormouse.dev/v1alpha1\nkind: Budget\nmetadata: {name: shop}\nspec: {amount: \"2.50\"}\n";
    let (read, _folder) = reading(&[("a.yaml", GOOD), ("b.yaml", budget)]);
    assert_eq!((read.faults.len(), read.manifests.len(), read.budgets().len()), (0, 1, 1));
    assert_eq!(read.budgets()[0].spec.amount.as_deref(), Some("2.50"));
    let bad = budget.replace("amount: \"2.50\"", "amount: \"x\", warnPercent: 0");
    let both = budget.replace("amount", "gbSeconds: \"1\", amount");
    let told = told(&[("a.yaml", budget), ("b.yaml", &bad), ("c.yaml", budget), ("d.yaml", &both)]);
    let starts = [
        "b.yaml:4: spec.amount: \"x\" does not match",
        "b.yaml:4: spec.warnPercent: must be 1 to 1000, is 0",
        "c.yaml:1: metadata.name: the same budget is also in a.yaml:1",
        "d.yaml:4: spec: say what is bounded: either amount or gbSeconds",
    ];
    for start in starts {
        assert!(told.iter().any(|line| line.starts_with(start)), "{start} is not in {told:#?}");
    }
    assert_eq!(told.len(), starts.len(), "{told:#?}");
}
