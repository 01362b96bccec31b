//! The manifests of a folder: the same YAML that `kubectl apply` takes, read with every fault at its line.

pub(crate) mod code;
mod keys;
pub(crate) mod tree;

use dormouse_controller::fleet::process::command;
use dormouse_core::function::Function;
use dormouse_core::valid::{LOCAL_COMMAND, ValidFunction};
use dormouse_core::{Budget, Fault, FunctionKey};
use keys::Keyed;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tree::Document;

/// Largest manifest file: etcd takes objects up to 1.5 MiB, and a file may hold several small ones.
const MAX_FILE: u64 = 4 << 20;
/// Most manifest files of a folder.
pub(crate) const MAX_FILES: usize = 1000;

/// A function and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) key: FunctionKey,
    pub(crate) function: Function,
    pub(crate) command: Vec<String>,
    pub(crate) file: PathBuf,
    pub(crate) line: u64,
    /// The files that the command names, and what they looked like.
    pub(crate) code: Vec<(PathBuf, Stamp)>,
}

/// What a file looks like from outside: changed when it was written.
pub(crate) type Stamp = (u64, Option<SystemTime>);

impl Manifest {
    /// The folder that its processes run in.
    pub(crate) fn folder(&self) -> PathBuf {
        folder_of(&self.file)
    }
}

/// The folder of a manifest, where its processes run.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().unwrap_or_else(|_| folder.into())
}

/// What an image holds is here, too, if it is run here: its revision changes with it.
fn attach(function: &mut Function, folder: &Path) {
    if function.spec.image.is_some() && function.spec.source.is_some() {
        let code = code::beside(function, folder).ok().flatten().map(Arc::new);
        function.spec.source.iter_mut().for_each(|source| source.code = code.clone());
    }
}

/// The files below the manifest's folder that the words of a command name.
fn named(command: &[String], file: &Path) -> Vec<(PathBuf, Stamp)> {
    let folder = folder_of(file);
    let found =
        command.iter().map(|word| folder.join(word)).filter(|path| path.starts_with(&folder) && *path != folder);
    let stamped = found.filter_map(|path| {
        let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some((path, (meta.len(), meta.modified().ok())))
    });
    stamped.collect()
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) file: PathBuf,
    pub(crate) line: Option<u64>,
    /// Field path; empty for the whole document.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match self.path.as_str() {
            "" => write!(f, ": {}", self.message),
            path => write!(f, ": {path}: {}", self.message),
        }
    }
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// The functions without fault.
    pub(crate) manifests: Vec<Manifest>,
    /// The budgets without fault, each with its place.
    budgets: Vec<(Budget, PathBuf, u64)>,
    /// Every fault of every file; with one of them nothing of the reading is applied.
    pub(crate) faults: Vec<Finding>,
    /// What was passed over, and why.
    pub(crate) notes: Vec<String>,
}

/// Reads a folder's manifests, or one manifest file.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn read(place: &Path) -> io::Result<Reading> {
    let mut reading = Reading::default();
    let meta = std::fs::metadata(place)?;
    let files = if meta.is_dir() { files(place)? } else { vec![place.to_path_buf()] };
    if files.len() > MAX_FILES {
        reading.faults.push(Finding {
            file: place.into(),
            line: None,
            path: String::new(),
            message: format!("has {} manifest files, more than {MAX_FILES}", files.len()),
        });
        return Ok(reading);
    }
    let documents: Vec<(PathBuf, Document)> = files.iter().flat_map(|file| reading.file(file)).collect();
    // Before the functions, which may name them from any file.
    let mut keyed = Keyed::default();
    for (file, document) in &documents {
        if let Some(faults) = keyed.take(document) {
            reading.refuse(file, document, faults);
        }
    }
    for (file, document) in &documents {
        reading.document(file, document, &keyed);
    }
    reading.refuse_doubles();
    reading.faults.sort();
    Ok(reading)
}

/// The names that manifests have.
pub(crate) fn is_manifest(file: &Path) -> bool {
    let hidden = file.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    let kind = file.extension().and_then(|e| e.to_str());
    !hidden && matches!(kind, Some("yaml" | "yml" | "json"))
}

/// The manifest files of a folder, in order of their names.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
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

impl Reading {
    /// The documents of a file.
    fn file(&mut self, file: &Path) -> Vec<(PathBuf, Document)> {
        let found = |line, message: String| Finding { file: file.into(), line, path: String::new(), message };
        let text = match text_of(file) {
            Ok(text) => text,
            // An editor has just moved it away: the next reading sees what took its place.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                self.faults.push(found(None, e.to_string()));
                return Vec::new();
            }
        };
        match tree::documents(&text) {
            Ok(documents) => documents.into_iter().map(|document| (file.to_path_buf(), document)).collect(),
            Err(e) => {
                self.faults.push(found(e.line, format!("not YAML: {}", e.message)));
                Vec::new()
            }
        }
    }

    /// Faults of a document, each at its line.
    fn refuse(&mut self, file: &Path, document: &Document, faults: impl IntoIterator<Item = Fault>) {
        self.faults.extend(faults.into_iter().map(|Fault { path, message }| Finding {
            file: file.into(),
            line: Some(document.line_of(&path)),
            path,
            message,
        }));
    }

    fn document(&mut self, file: &Path, document: &Document, keyed: &Keyed) {
        if keys::holds_keys(&document.value).is_some() {
            return;
        }
        if !is_ours(&document.value) {
            self.notes.push(format!("{}:{}: {}", file.display(), document.line, passed_over(&document.value)));
            return;
        }
        if document.value.get("kind").and_then(Value::as_str) == Some("Budget") {
            return self.budget(file, document);
        }
        let mut faults = local_faults(&document.value);
        let folder = folder_of(file);
        match ValidFunction::from_value_beside(&document.value, |function| code::beside(function, &folder)) {
            Ok((mut function, valid)) => {
                faults.extend(keyed.resolve(&mut function));
                if !faults.is_empty() {
                    return self.refuse(file, document, faults);
                }
                attach(&mut function, &folder);
                let command = valid.local_command.as_deref().and_then(|c| command::words(c).ok()).unwrap_or_default();
                let code = named(&command, file);
                let (file, line) = (file.to_path_buf(), document.line);
                self.manifests.push(Manifest { key: valid.key, function, command, file, line, code });
            }
            Err(more) => self.refuse(file, document, more.into_iter().chain(faults)),
        }
    }

    fn budget(&mut self, file: &Path, document: &Document) {
        match Budget::from_value(&document.value) {
            Ok(budget) => {
                let name = &budget.metadata.name;
                let first = self.budgets.iter().find(|(other, ..)| other.metadata.name == *name);
                if let Some((_, first, line)) = first {
                    let message =
                        format!("the same budget is also in {}:{line}: rename or remove one", first.display());
                    let (file, path) = (file.to_path_buf(), "metadata.name".to_owned());
                    self.faults.push(Finding { file, line: Some(document.line), path, message });
                } else {
                    self.budgets.push((budget, file.to_path_buf(), document.line));
                }
            }
            Err(faults) => self.refuse(file, document, faults),
        }
    }

    /// The budgets.
    pub(crate) fn budgets(&self) -> Vec<Budget> {
        self.budgets.iter().map(|(budget, ..)| budget.clone()).collect()
    }

    /// Two manifests of one name: which one counts would be chance.
    fn refuse_doubles(&mut self) {
        let mut seen: BTreeMap<&FunctionKey, &Manifest> = BTreeMap::new();
        for manifest in &self.manifests {
            if let Some(first) = seen.get(&manifest.key) {
                self.faults.push(Finding {
                    file: manifest.file.clone(),
                    line: Some(manifest.line),
                    path: "metadata.name".into(),
                    message: format!(
                        "{} is also in {}:{}: rename or remove one",
                        manifest.key,
                        first.file.display(),
                        first.line
                    ),
                });
            } else {
                seen.insert(&manifest.key, manifest);
            }
        }
    }
}

/// What a manifest file holds.
pub(crate) fn text_of(file: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
}

/// Ours by group; or by kind alone where the group was forgotten.
pub(crate) fn is_ours(value: &Value) -> bool {
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) => version.starts_with("dormouse.dev/"),
        None => value.get("kind").and_then(Value::as_str) == Some("Function"),
    }
}

fn passed_over(value: &Value) -> String {
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name");
    match value.get("kind").and_then(Value::as_str) {
        Some(kind) => {
            format!("{kind} {name} is passed over: only Functions, Budgets, Secrets and ConfigMaps count here")
        }
        None => "not a Kubernetes object: passed over".into(),
    }
}

/// What only matters on a machine without Kubernetes.
fn local_faults(value: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let annotation = value.pointer("/metadata/annotations").and_then(|a| a.get(LOCAL_COMMAND));
    let path = format!("metadata.annotations.{LOCAL_COMMAND}");
    let source = value.pointer("/spec/source").filter(|source| !source.is_null());
    if source.and_then(|source| source.get("configMap")).is_some_and(|map| !map.is_null()) {
        let message = "there are no ConfigMaps here: put the files beside the manifest and leave this out (`dormouse deploy` sends them)";
        faults.push(Fault::new("spec.source.configMap", message));
    }
    match annotation {
        None if source.is_some() => {}
        Some(_) if source.is_some() => {
            faults.push(Fault::new(path, "is not for handler code, which its runtime runs: remove it, or spec.source"));
        }
        None => faults.push(Fault::new(
            path,
            "is missing: here an instance is a process, and this says what to run, for example '[\"python3\", \"server.py\"]' (or write handler code: spec.source)",
        )),
        Some(Value::String(text)) => {
            if let Err(e) = command::words(text) {
                faults.push(Fault::new(path, e.to_string()));
            }
        }
        Some(other) => faults.push(Fault::new(path, format!("must be a string, is {other}: put quotes around it"))),
    }
    faults
}

#[cfg(test)]
mod tests;
