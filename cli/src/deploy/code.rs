//! A function's code: the files beside its manifest, and the ConfigMap that they become.

use crate::exit::Failure;
use crate::manifest::{is_manifest, tree};
use dormouse_core::source::{Code, CodeError, MAX_BYTES, MAX_FILES, key_of};
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most entries that are looked at, those that are left out included: below folders that a function may have, a thousand
/// files and as many folders.
const MAX_ENTRIES: usize = 2 * MAX_FILES;

/// Most files named as the largest.
const SHOWN: usize = 3;

/// Folders of what is installed or made by itself.
const LEFT_OUT: [&str; 2] = ["node_modules", "__pycache__"];

/// The ConfigMap of a function's code.
pub(crate) fn name(function: &str) -> String {
    format!("{function}-code")
}

/// The files of a folder that are code: all but manifests and Markdown at its top, hidden ones, and what is installed or
/// made by itself.
pub(crate) fn read(folder: &Path) -> Result<Code, String> {
    let found = list(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let found = found.ok_or_else(|| CodeError::TooMany(MAX_ENTRIES).to_string())?;
    let bytes = found.iter().map(|file| file.size).fold(0_u64, u64::saturating_add);
    // Before they are read.
    if bytes > MAX_BYTES as u64 {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        return Err(CodeError::TooLarge { bytes, largest: largest(&found) }.to_string());
    }
    let mut files = BTreeMap::new();
    for file in &found {
        let content = fs::read(&file.path).map_err(|e| format!("cannot read {}: {e}", file.path.display()))?;
        if key_of(&file.name).is_none() {
            return Err(format!(
                "{:?} cannot be a key of a ConfigMap, which has letters, digits, '-', '_' and '.' only, and '..' for a folder's '/': rename it",
                file.name
            ));
        }
        files.insert(file.name.clone(), content);
    }
    Code::new(files).map_err(|e| e.to_string())
}

/// One file of a folder.
struct Found {
    path: PathBuf,
    /// Relative to the folder.
    name: String,
    size: u64,
}

/// `None`: there are too many.
fn list(folder: &Path) -> io::Result<Option<Vec<Found>>> {
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, above)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            seen += 1;
            if seen > MAX_ENTRIES {
                return Ok(None);
            }
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.starts_with('.') || LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let whole = format!("{above}{name}");
            // A link to a folder may lead back to where it is.
            if entry.file_type()?.is_dir() {
                folders.push((path, format!("{whole}/")));
                continue;
            }
            let meta = fs::metadata(&path)?;
            if meta.is_file() && !(above.is_empty() && is_beside(&path)) {
                found.push(Found { path, name: whole, size: meta.len() });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(found))
}

/// Whether a file is no code but stands beside it: a manifest, or words for people.
fn is_beside(file: &Path) -> bool {
    if file.extension().is_some_and(|e| e == "md") {
        return true;
    }
    let is_object = |d: &tree::Document| d.value.get("apiVersion").is_some() && d.value.get("kind").is_some();
    let text = || fs::read_to_string(file).ok();
    is_manifest(file) && text().and_then(|t| tree::documents(&t).ok()).is_some_and(|found| found.iter().any(is_object))
}

fn largest(found: &[Found]) -> String {
    let mut by_size: Vec<&Found> = found.iter().collect();
    by_size.sort_by_key(|file| std::cmp::Reverse(file.size));
    let shown: Vec<String> = by_size.iter().take(SHOWN).map(|file| format!("{} {}", file.name, file.size)).collect();
    shown.join(", ")
}

/// The ConfigMap; with the function's uid it goes with the function.
pub(crate) fn config_map(function: &str, code: &Code, uid: Option<&str>) -> Result<Value, Failure> {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (path, content) in code.files() {
        let key = key_of(path).ok_or_else(|| Failure::usage(format!("{path:?} cannot be a key of a ConfigMap")))?;
        match std::str::from_utf8(content) {
            Ok(text) => data.insert(key, text.into()),
            Err(_) => {
                let bytes = serde_json::to_value(ByteString(content.to_vec())).map_err(Failure::failed)?;
                binary.insert(key, bytes)
            }
        };
    }
    let labels = json!({
        "app.kubernetes.io/name": function, "app.kubernetes.io/part-of": "dormouse",
        "app.kubernetes.io/managed-by": "dormouse-cli", "dormouse.dev/function": function,
    });
    let owner =
        uid.map(|uid| json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "name": function, "uid": uid}));
    let owners: Vec<Value> = owner.into_iter().collect();
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(function), "labels": labels, "ownerReferences": owners},
        "data": data, "binaryData": binary,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn names(code: &Code) -> Vec<&str> {
        code.files().map(|(path, _)| path).collect()
    }

    #[test]
    fn what_stands_beside_the_code_is_left_out() {
        let folder = folder(&[
            ("index.js", b"x"),
            ("package.json", b"{\"type\": \"module\"}"),
            ("settings.yaml", b"a: 1"),
            ("function.yaml", b"apiVersion: dormouse.dev/v1alpha1\nkind: Function\n"),
            ("README.md", b"#"),
            (".env", b"SECRET=1"),
            (".git/config", b"x"),
            ("node_modules/a/index.js", b"x"),
            ("lib/__pycache__/a.pyc", b"x"),
            ("lib/text.js", b"x"),
            ("lib/deep/data.bin", b"\xff\x00"),
            ("lib/notes.md", b"read by the code"),
        ]);
        let code = read(folder.path()).unwrap();
        let wanted = ["index.js", "lib/deep/data.bin", "lib/notes.md", "lib/text.js", "package.json", "settings.yaml"];
        assert_eq!(names(&code), wanted);
        let map = config_map("hello", &code, Some("u-1")).unwrap();
        assert_eq!(map["data"]["lib..text.js"], "x");
        assert_eq!(map["binaryData"], json!({"lib..deep..data.bin": "/wA="}));
        assert_eq!(map["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(config_map("hello", &code, None).unwrap()["metadata"]["ownerReferences"], json!([]));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_leads_nowhere() {
        let folder = folder(&[("index.js", b"x")]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("index.js"), folder.path().join("same.js")).unwrap();
        assert_eq!(names(&read(folder.path()).unwrap()), ["index.js", "same.js"]);
    }

    #[test]
    fn what_is_too_much_is_told() {
        let large = vec![b'x'; MAX_BYTES];
        let said = read(folder(&[("a.js", b"x"), ("lib/large.bin", &large)]).path()).unwrap_err();
        assert!(said.contains("lib/large.bin 262144, a.js 1") && said.contains("build an image"), "{said}");
        let said = read(folder(&[]).path()).unwrap_err();
        assert!(said.contains("there is no file"), "{said}");
        let said = read(folder(&[("a b.js", b"x")]).path()).unwrap_err();
        assert!(said.contains("\"a b.js\" cannot be a key"), "{said}");
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("f{n}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(read(folder(&many).path()).unwrap_err().contains("files are more than"));
    }
}
