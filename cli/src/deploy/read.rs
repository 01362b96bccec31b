//! The manifests of a folder as they are to be applied: what was written, no defaults put in, every fault at its line.

use super::code;
use crate::exit::Failure;
use crate::manifest::code::beside;
use crate::manifest::{Finding, MAX_FILES, files, folder_of, is_ours, text_of, tree};
use dormouse_core::source::{Code, PACKAGES};
use dormouse_core::valid::ValidFunction;
use dormouse_core::{Budget, Fault};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Budget,
    WarmPool,
    Function,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Budget => "Budget",
            Self::WarmPool => "WarmPool",
            Self::Function => "Function",
        }
    }
}

/// One object to apply.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// As the manifest has it.
    pub(crate) namespace: Option<String>,
    pub(crate) value: Value,
    /// The files beside a function's manifest, where these are its code.
    pub(crate) code: Option<Arc<Code>>,
    place: (PathBuf, u64),
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Those without fault: Budgets and WarmPools first, so that functions find them.
    pub(crate) documents: Vec<Document>,
    pub(crate) faults: Vec<Finding>,
    pub(crate) notes: Vec<String>,
}

/// Reads a folder's manifests, or one.
pub(crate) fn read(place: &Path, namespace: Option<&str>) -> Result<Reading, Failure> {
    let cannot = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Failure::not_found(format!("there is no {}", place.display())),
        _ => Failure::failed(format!("cannot read {}: {e}", place.display())),
    };
    let files =
        if place.metadata().map_err(cannot)?.is_dir() { files(place).map_err(cannot)? } else { vec![place.into()] };
    if files.len() > MAX_FILES {
        let count = files.len();
        return Err(Failure::usage(format!("{} has {count} manifests, more than {MAX_FILES}", place.display())));
    }
    let mut reading = Reading::default();
    for file in files {
        reading.file(&file, namespace);
    }
    reading.refuse_doubles();
    reading.documents.sort_by_key(|document| document.kind == Kind::Function);
    reading.faults.sort();
    Ok(reading)
}

impl Reading {
    fn file(&mut self, file: &Path, namespace: Option<&str>) {
        let found = |line, message: String| Finding { file: file.into(), line, path: String::new(), message };
        let text = match text_of(file) {
            Ok(text) => text,
            Err(e) => return self.faults.push(found(None, e.to_string())),
        };
        match tree::documents(&text) {
            Ok(documents) => documents.iter().for_each(|d| self.document(file, d, namespace)),
            Err(e) => self.faults.push(found(e.line, format!("not YAML: {}", e.message))),
        }
    }

    fn document(&mut self, file: &Path, document: &tree::Document, namespace: Option<&str>) {
        let Some(kind) = kind(&document.value) else {
            let text = |path| document.value.pointer(path).and_then(Value::as_str).unwrap_or("?");
            let (kind, name) = (text("/kind"), text("/metadata/name"));
            let (place, line) = (file.display(), document.line);
            return self.notes.push(format!(
                "{place}:{line}: {kind} {name} is left to `kubectl apply -f {place}`: only Functions, Budgets and WarmPools are applied here"
            ));
        };
        let (mut value, mut faults, mut code) = (document.value.clone(), Vec::new(), None);
        match kind {
            Kind::Function => match function(&mut value, &folder_of(file)) {
                Ok(found) => {
                    self.notes.extend(found.as_ref().and_then(|_| not_sent(&folder_of(file))));
                    code = found;
                }
                Err(found) => faults = found,
            },
            Kind::Budget => faults = Budget::from_value(&value).err().unwrap_or_default(),
            // Checked by the API server alone.
            Kind::WarmPool if value.pointer("/metadata/name").and_then(Value::as_str).is_none() => {
                faults.push(Fault::new("metadata.name", "is missing"));
            }
            Kind::WarmPool => {}
        }
        let text = |path| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let (name, own) = (text("/metadata/name"), text("/metadata/namespace"));
        if let (Some(own), Some(asked)) = (&own, namespace)
            && own != asked
        {
            let message = format!("is {own}, and {asked} was asked for by -n: remove one");
            faults.push(Fault::new("metadata.namespace", message));
        }
        if let (Some(name), true) = (name, faults.is_empty()) {
            let place = (file.to_path_buf(), document.line);
            return self.documents.push(Document { kind, name, namespace: own, value, code, place });
        }
        self.faults.extend(faults.into_iter().map(|Fault { path, message }| Finding {
            file: file.into(),
            line: Some(document.line_of(&path)),
            path,
            message,
        }));
    }

    fn refuse_doubles(&mut self) {
        for (n, document) in self.documents.iter().enumerate() {
            let same =
                |d: &&Document| (d.kind, &d.name, &d.namespace) == (document.kind, &document.name, &document.namespace);
            let Some(first) = self.documents[..n].iter().find(same) else { continue };
            let (file, line) = &first.place;
            self.faults.push(Finding {
                file: document.place.0.clone(),
                line: Some(document.place.1),
                path: "metadata.name".into(),
                message: format!("{} is also in {}:{line}: rename or remove one", document.name, file.display()),
            });
        }
    }
}

/// Of which kind of ours a document is.
fn kind(value: &Value) -> Option<Kind> {
    match value.get("kind").and_then(Value::as_str).filter(|_| is_ours(value))? {
        "Function" => Some(Kind::Function),
        "Budget" => Some(Kind::Budget),
        "WarmPool" => Some(Kind::WarmPool),
        _ => None,
    }
}

/// Checks a function. Where its source does not say where the code is, the files beside the manifest are it: they are
/// answered, and the manifest names the ConfigMap that they go into.
fn function(value: &mut Value, folder: &Path) -> Result<Option<Arc<Code>>, Vec<Fault>> {
    let (function, valid) = ValidFunction::from_value_beside(value, |function| beside(function, folder))?;
    let Some(code) = function.spec.source.and_then(|source| source.code) else { return Ok(None) };
    if let Some(why) = code::fault(&code) {
        return Err(vec![Fault::new("spec.source", why)]);
    }
    if let Some(source) = value.pointer_mut("/spec/source").and_then(Value::as_object_mut) {
        source.insert("configMap".into(), json!({ "name": code::name(&valid.key.name, &code) }));
    }
    Ok(Some(code))
}

/// What `dev` finds in the folder and a cluster will not.
fn not_sent(folder: &Path) -> Option<String> {
    let installed = PACKAGES.into_iter().chain(["venv"]);
    let found = installed.map(|name| folder.join(name)).find(|path| path.is_dir())?;
    let why = "is not sent: code that needs packages is built into an image (`source.handler` with `image`)";
    Some(format!("{} {why}", found.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
apiVersion: dormouse.dev/v1alpha1
kind: Function
metadata: {name: orders}
spec: {source: {runtime: nodejs, handler: index.handler}}
";

    fn read_of(files: &[(&str, &str)], namespace: Option<&str>) -> Reading {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        read(folder.path(), namespace).unwrap()
    }

    #[test]
    fn files_beside_a_manifest_go_into_a_config_map() {
        let reading = read_of(&[("function.yaml", SOURCE), ("index.js", "x"), (".env", "y")], None);
        assert_eq!(reading.faults, []);
        let [document] = reading.documents.as_slice() else { panic!("{reading:?}") };
        let named = document.value.pointer("/spec/source/configMap/name").and_then(Value::as_str).unwrap();
        assert!(named.starts_with("orders-code-"), "{named}");
        let files: Vec<&str> = document.code.as_ref().unwrap().files().map(|(path, _)| path).collect();
        assert_eq!(files, ["index.js"]);
        assert_eq!(document.value.pointer("/spec").unwrap().as_object().unwrap().len(), 1, "no defaults are applied");
    }

    #[test]
    fn packages_that_are_not_sent_are_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("function.yaml"), SOURCE).unwrap();
        std::fs::write(folder.path().join("index.js"), "x").unwrap();
        assert_eq!(read(folder.path(), None).unwrap().notes, Vec::<String>::new());
        std::fs::create_dir(folder.path().join("node_modules")).unwrap();
        let notes = read(folder.path(), None).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("node_modules is not sent"), "{notes:?}");
    }

    #[test]
    fn code_that_is_elsewhere_is_left_there() {
        for place in ["inline: 'x'", "configMap: {name: mine}"] {
            let manifest = SOURCE.replace("handler: index.handler", &format!("handler: index.handler, {place}"));
            let reading = read_of(&[("function.yaml", &manifest), ("a b", "no key")], None);
            assert!(reading.faults.is_empty() && reading.documents[0].code.is_none(), "{reading:?}");
        }
    }

    #[test]
    fn every_fault_has_its_place_and_others_are_passed_over() {
        let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let double = "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {name: a}\nspec: {image: i}\n";
        let wrong = double.replace("name: a", "name: b, namespace: x").replace("image: i", "image: i, port: 0");
        let files = [("1.yaml", double), ("2.yaml", double), ("3.yaml", &wrong), ("4.yaml", other), ("5.yaml", "a: [")];
        let reading = read_of(&files, Some("shop"));
        let faults: Vec<(String, Option<u64>, &str)> = reading
            .faults
            .iter()
            .map(|f| (f.file.file_name().unwrap().to_string_lossy().into_owned(), f.line, f.path.as_str()))
            .collect();
        assert_eq!(faults[0], ("2.yaml".into(), Some(1), "metadata.name"));
        assert_eq!(faults[1], ("3.yaml".into(), Some(3), "metadata.namespace"));
        assert_eq!(faults[2], ("3.yaml".into(), Some(4), "spec.port"));
        assert_eq!((faults[3].0.as_str(), faults.len()), ("5.yaml", 4));
        assert!(reading.notes[0].contains("Secret s is left to `kubectl apply -f "), "{:?}", reading.notes);
    }

    #[test]
    fn functions_come_last() {
        let budget =
            "apiVersion: dormouse.dev/v1alpha1\nkind: Budget\nmetadata: {name: b}\nspec: {tenant: t, gbSeconds: '5'}\n";
        let pool = "apiVersion: dormouse.dev/v1alpha1\nkind: WarmPool\nmetadata: {name: p}\nspec: {}\n";
        let image = "apiVersion: dormouse.dev/v1alpha1\nkind: Function\nmetadata: {name: a}\nspec: {image: i}\n";
        let reading = read_of(&[("1.yaml", image), ("2.yaml", pool), ("3.yaml", budget)], None);
        let kinds: Vec<Kind> = reading.documents.iter().map(|d| d.kind).collect();
        assert_eq!((kinds.last(), kinds.len()), (Some(&Kind::Function), 3), "{:?}", reading.faults);
    }
}
