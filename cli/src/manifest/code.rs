//! The files of handler code that stand beside its manifest.

use super::tree;
use dormouse_core::Fault;
use dormouse_core::function::Function;
use dormouse_core::source::{Code, MAX_BYTES, MAX_FILES, PACKAGES};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Folders that hold what is made of code, or a whole interpreter: with packages, none of it is sent anywhere.
const LEFT_OUT: [&str; 2] = ["__pycache__", "venv"];

/// Files that surely do not run: what is said of the code, what an image is made by, and a call to try.
const NOT_RUN: [&str; 3] = ["README.md", "Dockerfile", "request.txt"];

/// Largest file that is looked into for a manifest: larger than code may be, and than an object of Kubernetes (etcd takes
/// 1.5 MiB).
const MAX_MANIFEST: u64 = 4 << 20;

/// Deepest folder below the manifest's that is looked into.
const MAX_DEPTH: usize = 16;

/// A file of code: its path below the folder, and what it looks like from outside.
struct Found {
    path: PathBuf,
    name: String,
    bytes: u64,
    written: Option<SystemTime>,
}

/// The code of a manifest that does not say where it is: every file in its folder and below, but for manifests of any kind
/// (a Secret must not come to stand in a ConfigMap), hidden files and what is left out.
pub(crate) fn beside(function: &Function, folder: &Path) -> Result<Option<Code>, Fault> {
    let fault = |message: String| Fault::new("spec.source", message);
    let unread = |e: io::Error| fault(format!("the files in {} cannot be read: {e}", folder.display()));
    let found = found(folder).map_err(unread)?;
    // A folder that is by far too large is not read to say so.
    let bytes: u64 = found.iter().map(|f| f.bytes).sum();
    if function.spec.image.is_some() {
        // An image holds the code: what is here is run by `dev`, from where it is.
        let stamps: String = found.iter().map(|f| format!("{} {} {:?}\n", f.name, f.bytes, f.written)).collect();
        let stamps = BTreeMap::from([("files".to_owned(), stamps.into_bytes())]);
        return Ok(Code::new(stamps).ok());
    }
    if found.len() > MAX_FILES * 2 || bytes > 64 * MAX_BYTES as u64 {
        return Err(fault(format!(
            "{} files of {bytes} bytes in {} are too many for handler code ({MAX_BYTES} bytes): give the function a folder of its own",
            found.len(),
            folder.display()
        )));
    }
    let read = |f: Found| std::fs::read(&f.path).map(|content| (f.name, content));
    let files: BTreeMap<String, Vec<u8>> = found.into_iter().map(read).collect::<io::Result<_>>().map_err(unread)?;
    Code::new(files).map(Some).map_err(|e| fault(format!("{}: {e}", folder.display())))
}

/// Every folder that holds code, to be watched.
pub(crate) fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_path_buf()];
    let mut at = 0;
    while at < all.len() && all.len() < MAX_FILES {
        let below = std::fs::read_dir(&all[at]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below.map(|e| e.path()).filter(|p| p.is_dir() && !is_left_out(p)).collect();
        all.extend(below);
        at += 1;
    }
    all
}

/// Whether a change of a file is one of code: that is not hidden, left out, or what an editor keeps beside it.
pub(crate) fn is_code(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    !is_left_out(path) && !name.ends_with('~') && !NOT_RUN.contains(&name) && !has(path, &["log"])
}

fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.starts_with('.') || PACKAGES.contains(&name) || LEFT_OUT.contains(&name)
}

fn found(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((at, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            if !is_code(&path) {
                continue;
            }
            // Follows links, as the interpreter would.
            let meta = std::fs::metadata(&path)?;
            if meta.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if meta.is_file() && !(depth == 0 && has(&path, &YAML)) && !is_object(&path, meta.len())? {
                let below = path.strip_prefix(folder).unwrap_or(&path);
                let Some(name) = below.to_str().map(str::to_owned) else {
                    return Err(io::Error::other(format!("{} is no UTF-8", path.display())));
                };
                found.push(Found { name, bytes: meta.len(), written: meta.modified().ok(), path });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

const YAML: [&str; 2] = ["yaml", "yml"];

fn has(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|wanted| e.eq_ignore_ascii_case(wanted)))
}

/// Whether a file is a manifest of any kind of object. Other YAML and JSON may be code's own, but for YAML beside the
/// function's.
fn is_object(path: &Path, bytes: u64) -> io::Result<bool> {
    if !(has(path, &YAML) || has(path, &["json"])) || bytes > MAX_MANIFEST {
        return Ok(false);
    }
    let content = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&content);
    let marks = ["apiVersion", "kind"];
    if !marks.iter().all(|mark| text.contains(mark)) {
        return Ok(false);
    }
    let is_object = |value: &Value| marks.iter().all(|mark| value.get(mark).is_some());
    // One that cannot be read, as a template of one, is taken for what it looks like.
    Ok(tree::documents(&text).map_or(true, |documents| documents.iter().any(|d| is_object(&d.value))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn function(spec: serde_json::Value) -> Function {
        let spec =
            json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "metadata": {"name": "f"}, "spec": spec});
        serde_json::from_value(spec).unwrap()
    }

    fn source() -> Function {
        function(json!({"source": {"runtime": "nodejs", "handler": "index.handler"}}))
    }

    fn write(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
    }

    #[test]
    fn what_runs_is_taken_and_the_rest_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[
                "function.yaml",
                "index.js",
                "lib/a.js",
                "lib/data.json",
                "lib/list.yaml",
                ".git/x",
                "node_modules/m/i.js",
                "index.js~",
                "__pycache__/a.pyc",
                ".env",
            ],
        );
        let code = beside(&source(), folder.path()).unwrap().unwrap();
        let names: Vec<&str> = code.files().map(|(name, _)| name).collect();
        assert_eq!(names, ["index.js", "lib/a.js", "lib/data.json", "lib/list.yaml"]);
        assert_eq!(folders(folder.path()).len(), 2);
    }

    /// Whoever may read ConfigMaps may not read Secrets for that.
    #[test]
    fn manifests_are_no_code_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: x}\n";
        let json = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}"#;
        let template = "apiVersion: v1\nkind: Secret\n{{- if .Values.x }}\n";
        write(
            folder.path(),
            &["function.yaml", "index.js", "k8s/deep/a", "data/b", "a.log", "README.md", "Dockerfile", "request.txt"],
        );
        for (name, content) in [
            ("secret.json", json),
            ("secret.yaml", secret),
            ("k8s/secret.yaml", secret),
            ("k8s/secret.YML", secret),
            ("k8s/deep/secret.json", json),
            ("k8s/second.yaml", &format!("a: 1\n---\n{secret}")),
            ("k8s/template.yaml", template),
            ("data/kinds.json", r#"{"kind": "a", "of": {"apiVersion": 1}}"#),
            ("kinds.json", r#"["apiVersion", "kind"]"#),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let code = beside(&source(), folder.path()).unwrap().unwrap();
        let names: Vec<&str> = code.files().map(|(name, _)| name).collect();
        assert_eq!(names, ["data/b", "data/kinds.json", "index.js", "k8s/deep/a", "kinds.json"]);
    }

    #[test]
    fn an_image_with_code_changes_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["index.js"]);
        let image = function(json!({"image": "i", "source": {"runtime": "nodejs", "handler": "index.handler"}}));
        let before = beside(&image, folder.path()).unwrap();
        assert_eq!(beside(&image, folder.path()).unwrap(), before);
        std::fs::write(folder.path().join("index.js"), "longer than before").unwrap();
        assert_ne!(beside(&image, folder.path()).unwrap(), before);
    }

    #[test]
    fn what_is_no_code_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |folder: &Path| beside(&source(), folder).unwrap_err().to_string();
        assert!(told(folder.path()).contains("there is no file"), "{}", told(folder.path()));
        std::fs::write(folder.path().join("big.bin"), vec![0; MAX_BYTES + 1]).unwrap();
        assert!(told(folder.path()).contains("big.bin 262145"), "{}", told(folder.path()));
    }
}
