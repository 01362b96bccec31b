//! What commands print and how they end, without anything to ask.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn dormouse(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(args)
        .current_dir(folder)
        .env("XDG_RUNTIME_DIR", folder)
        .env("HOME", folder)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code_and_words(args: &[&str], folder: &Path) -> (Option<i32>, String, String) {
    let output = dormouse(args, folder);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs a shell where there is one; the script must be whole.
fn parses(shell: &str, script: &str, folder: &Path) {
    let file = folder.join("script");
    std::fs::write(&file, script).unwrap();
    let Ok(output) = Command::new(shell).arg("-n").arg(&file).output() else { return };
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn completion_knows_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let (_, help, _) = code_and_words(&["--help"], folder.path());
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    assert!(commands.len() > 10, "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = code_and_words(&["completion", shell], folder.path());
        assert_eq!(code, Some(0));
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(!script.contains("__keep"), "{shell}: what is hidden is not offered");
        parses(shell, &script, folder.path());
    }
    assert_eq!(code_and_words(&["completion", "tcsh"], folder.path()).0, Some(2));
}

/// The three lines that are printed are what comes next.
#[test]
fn init_writes_a_folder_once() {
    let folder = tempfile::tempdir().unwrap();
    for (runtime, handler) in [("nodejs", "index.mjs"), ("python", "index.py")] {
        let (code, next, said) = code_and_words(&["init", runtime, runtime], folder.path());
        assert_eq!(code, Some(0), "{said}");
        let lines: Vec<&str> = next.lines().collect();
        let invoke = format!("dormouse invoke {runtime} -d @{runtime}/request.txt");
        assert_eq!(lines, [&format!("dormouse dev {runtime}"), &invoke, &format!("dormouse deploy {runtime}")]);
        for file in ["function.yaml", handler, "request.txt", "README.md"] {
            assert!(folder.path().join(runtime).join(file).is_file(), "{file}");
        }
        let (code, _, said) = code_and_words(&["init", runtime, runtime], folder.path());
        assert_eq!(code, Some(2));
        assert!(said.contains("nothing is overwritten"), "{said}");
    }
    let (code, _, said) = code_and_words(&["init", "python", "Wrong_Name"], folder.path());
    assert_eq!((code, said.contains("lower-case letters")), (Some(2), true), "{said}");
    let (code, ..) = code_and_words(&["init", "python", "a", "--dir", "deep/er"], folder.path());
    assert_eq!((code, folder.path().join("deep/er/index.py").is_file()), (Some(0), true));
}

/// Every fault is told with its place, before anything is asked for.
#[test]
fn deploy_tells_faults_before_it_asks_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, said) = code_and_words(&["deploy"], folder.path());
    assert_eq!((code, said.contains("no Function in .")), (Some(3), true), "{said}");
    assert_eq!(code_and_words(&["deploy", "nowhere"], folder.path()).0, Some(3));
    let manifest = "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {name: a, namespace: b}\nspec:\n  image: x\n  port: 0\n";
    std::fs::write(folder.path().join("a.yaml"), manifest).unwrap();
    let (code, out, said) = code_and_words(&["deploy", "-n", "c"], folder.path());
    assert_eq!((code, out.as_str()), (Some(2), ""));
    for part in [
        "a.yaml:6: spec.port:",
        "a.yaml:3: metadata.namespace: is b, and c was asked for",
        "nothing was applied: 2 faults",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    std::fs::write(folder.path().join("a.yaml"), manifest.replace("port: 0", "port: 1")).unwrap();
    let (code, out, said) = code_and_words(&["deploy"], folder.path());
    assert_eq!((code, out.as_str(), said.contains("no cluster")), (Some(1), "", true), "{said}");
}

/// Nothing of a command that failed stands on standard output.
#[test]
fn a_command_that_finds_nobody_says_so_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["logs", "a"][..], &["rollback", "a"], &["open", "a"], &["describe", "a"], &["list"]] {
        let (code, out, said) = code_and_words(args, folder.path());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{args:?}");
        assert!(said.starts_with("error: ") && said.contains("no cluster"), "{args:?}: {said}");
    }
    let (code, _, said) = code_and_words(&["logs", "a", "--since", "soon"], folder.path());
    assert_eq!((code, said.contains("write for example 90s")), (Some(2), true), "{said}");
}
