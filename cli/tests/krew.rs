//! The plugin's archives and manifest, as krew reads them.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, args: &[&str], folder: &Path) -> Output {
    Command::new(program).args(args).current_dir(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A small program in place of the large one: what is packed is not run here.
fn packed(out: &Path, pairs: &[String], version: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/krew.sh");
    let mut args = vec![script, out.to_str().unwrap(), version];
    args.extend(pairs.iter().map(String::as_str));
    run("bash", &args, Path::new("/"))
}

#[test]
fn archives_hold_the_plugin_and_the_manifest_their_sums() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("dormouse");
    std::fs::write(&program, "#!/bin/sh\necho plugin\n").unwrap();
    let pairs: Vec<String> =
        ["linux/amd64", "darwin/arm64"].iter().map(|p| format!("{p}={}", program.display())).collect();
    let [first, again] = ["first", "again"].map(|name| folder.path().join(name));
    text(&packed(&first, &pairs, "1.2.3"));
    text(&packed(&again, &pairs, "1.2.3"));
    let manifest = std::fs::read_to_string(first.join("dormouse.yaml")).unwrap();
    assert_eq!(manifest, std::fs::read_to_string(again.join("dormouse.yaml")).unwrap(), "the same every time");
    assert!(!manifest.contains('%'), "{manifest}");
    let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!((&manifest["kind"], &manifest["metadata"]["name"]), (&"Plugin".into(), &"dormouse".into()));
    assert_eq!(manifest["spec"]["version"], "v1.2.3");
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 2);
    for (platform, (os, arch)) in platforms.iter().zip([("linux", "amd64"), ("darwin", "arm64")]) {
        let archive = format!("kubectl-dormouse_v1.2.3_{os}_{arch}.tar.gz");
        assert!(platform["uri"].as_str().unwrap().ends_with(&format!("/v1.2.3/{archive}")));
        let labels = &platform["selector"]["matchLabels"];
        assert_eq!((labels["os"].as_str(), labels["arch"].as_str()), (Some(os), Some(arch)));
        let sum = text(&run("sha256sum", &[&archive], &first));
        assert_eq!(platform["sha256"].as_str(), sum.split_whitespace().next());
        let listed = text(&run("tar", &["-tzf", &archive], &first));
        let named: Vec<&str> =
            platform["files"].as_array().unwrap().iter().map(|f| f["from"].as_str().unwrap()).collect();
        assert_eq!(platform["bin"], "kubectl-dormouse");
        let mut inside: Vec<&str> = listed.lines().collect();
        inside.sort_by_key(|name| named.iter().position(|n| n == name));
        assert_eq!(inside, named, "what krew takes out is what is in it");
    }
    let archive = "kubectl-dormouse_v1.2.3_linux_amd64.tar.gz";
    text(&run("tar", &["-xzf", archive], &first));
    assert_eq!(text(&run("./kubectl-dormouse", &[], &first)), "plugin\n");
}

#[test]
fn what_is_no_platform_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (pair, version) in [
        ("plan9/amd64=/bin/sh", "1.2.3"),
        ("linux/amd64=/no/such", "1.2.3"),
        ("linux/amd64", "1.2.3"),
        ("linux/amd64=/bin/sh", "latest"),
    ] {
        let output = packed(folder.path(), &[pair.to_owned()], version);
        assert_eq!(output.status.code(), Some(2), "{pair} {version}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("krew: "), "{output:?}");
    }
}
