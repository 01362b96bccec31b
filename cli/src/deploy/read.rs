//! The manifests of a folder as they are to be applied: what was written, no defaults put in, every fault at its line.

use super::code;
use crate::exit::Failure;
use crate::manifest::tree;
use crate::manifest::{Finding, folder_of, is_manifest};
use dormouse_core::source::Code;
use dormouse_core::valid::ValidFunction;
use dormouse_core::{Budget, Fault};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest manifest file, as in `dev`: etcd takes objects up to 1.5 MiB, and a file may hold several small ones.
const MAX_FILE: u64 = 4 << 20;
/// Most manifest files of a folder.
const MAX_FILES: usize = 1000;

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

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if is_manifest(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn text_of(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
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
            let why = "is passed over: only Functions, Budgets and WarmPools are applied";
            return self.notes.push(format!("{}:{}: {kind} {name} {why}", file.display(), document.line));
        };
        let (mut value, mut faults) = (document.value.clone(), Vec::new());
        let code = if kind == Kind::Function { files_beside(file, &mut value, &mut faults) } else { None };
        faults.extend(faults_of(kind, &value));
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
    let ours = match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) => version.starts_with("dormouse.dev/"),
        None => value.get("kind").and_then(Value::as_str) == Some("Function"),
    };
    match value.get("kind").and_then(Value::as_str).filter(|_| ours)? {
        "Function" => Some(Kind::Function),
        "Budget" => Some(Kind::Budget),
        "WarmPool" => Some(Kind::WarmPool),
        _ => None,
    }
}

/// A warm pool is checked by the API server alone.
fn faults_of(kind: Kind, value: &Value) -> Vec<Fault> {
    match kind {
        Kind::Function => ValidFunction::from_value(value).err().unwrap_or_default(),
        Kind::Budget => Budget::from_value(value).err().unwrap_or_default(),
        Kind::WarmPool => match value.pointer("/metadata/name").and_then(Value::as_str) {
            Some(_) => Vec::new(),
            None => vec![Fault::new("metadata.name", "is missing")],
        },
    }
}

/// Where a function has a source that names no code, the files beside its manifest are it; the manifest then names the
/// ConfigMap that they go into.
fn files_beside(file: &Path, value: &mut Value, faults: &mut Vec<Fault>) -> Option<Arc<Code>> {
    let name = value.pointer("/metadata/name").and_then(Value::as_str)?.to_owned();
    let named = |value: &Value, path| value.pointer(path).is_some_and(|v| !v.is_null());
    if ["/spec/image", "/spec/source/inline", "/spec/source/configMap"].into_iter().any(|path| named(value, path)) {
        return None;
    }
    let source = value.pointer_mut("/spec/source").and_then(Value::as_object_mut)?;
    source.insert("configMap".into(), json!({ "name": code::name(&name) }));
    match code::read(&folder_of(file)) {
        Ok(code) => Some(Arc::new(code)),
        Err(why) => {
            faults.push(Fault::new("spec.source", why));
            None
        }
    }
}
