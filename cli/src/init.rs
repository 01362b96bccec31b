//! `dormouse init`: a new function's folder, which runs as it is.

use crate::exit::{Failure, Outcome};
use crate::say;
use clap::{Args, ValueEnum};
use dormouse_core::function::rules;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
#[command(after_help = "\
Writes NAME/function.yaml, the handler, request.txt (a body to try) and README.md, and overwrites nothing.

Examples:
  dormouse init nodejs hello
  dormouse init python report --dir functions/report")]
pub(crate) struct InitArgs {
    /// The language
    #[arg(value_enum)]
    pub(crate) runtime: Runtime,
    /// The function's name
    pub(crate) name: String,
    /// Where it is written [default: NAME]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtime {
    /// Node.js
    Nodejs,
    /// Python
    Python,
}

/// Name and text of each file.
type Files = [(&'static str, &'static str); 4];

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("../templates/", $file))
    };
}

const REQUEST: (&str, &str) = ("request.txt", template!("request.txt"));
const README: (&str, &str) = ("README.md", template!("README.md"));
const NODEJS: Files = [
    ("function.yaml", template!("nodejs/function.yaml")),
    ("index.mjs", template!("nodejs/index.mjs")),
    REQUEST,
    README,
];
const PYTHON: Files =
    [("function.yaml", template!("python/function.yaml")), ("index.py", template!("python/index.py")), REQUEST, README];

/// Stand for the name and the handler's file in a template.
const NAME: &str = "{{name}}";
const HANDLER: &str = "{{handler}}";

pub(crate) fn run(args: &InitArgs) -> Outcome {
    let name = &args.name;
    if !rules::name_is_valid(name) {
        return Err(Failure::usage(format!("{name:?}: {}", rules::NAME_MESSAGE)));
    }
    let folder = args.dir.clone().unwrap_or_else(|| name.into());
    let files = match args.runtime {
        Runtime::Nodejs => &NODEJS,
        Runtime::Python => &PYTHON,
    };
    write(&folder, name, files)?;
    let shown = folder.display();
    say::note(format_args!("{shown} has a function now. Next:"));
    say::out(format_args!("dormouse dev {shown}"));
    say::out(format_args!("dormouse invoke {name} -d @{}", folder.join(REQUEST.0).display()));
    say::out(format_args!("dormouse deploy {shown}"));
    Ok(())
}

/// All files, or none.
fn write(folder: &Path, name: &str, files: &Files) -> Outcome {
    let there: Vec<&str> = files.iter().map(|(file, _)| *file).filter(|file| exists(&folder.join(file))).collect();
    if !there.is_empty() {
        let (folder, there) = (folder.display(), there.join(", "));
        return Err(Failure::usage(format!(
            "{folder} has {there} already, and nothing is overwritten: choose another folder with --dir"
        )));
    }
    let failed = |path: &Path, e: &io::Error| Failure::failed(format!("cannot write {}: {e}", path.display()));
    DirBuilder::new().recursive(true).create(folder).map_err(|e| failed(folder, &e))?;
    let handler = files[1].0;
    let mut written = Vec::new();
    for (file, text) in files {
        let path = folder.join(file);
        let text = text.replace(NAME, name).replace(HANDLER, handler);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        if let Err(e) = made.and_then(|mut file| file.write_all(text.as_bytes())) {
            for path in &written {
                // What was written a moment ago; nothing better can be done with what cannot be removed.
                let _ = fs::remove_file(path);
            }
            return Err(failed(&path, &e));
        }
        written.push(path);
    }
    Ok(())
}

/// Links that lead nowhere are there, too.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tree;
    use serde_json::Value;

    #[test]
    fn names_are_put_in_everywhere() {
        for (files, handler) in [(&NODEJS, "index.mjs"), (&PYTHON, "index.py")] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "orders", files).unwrap();
            for (file, _) in files {
                let text = fs::read_to_string(folder.path().join(file)).unwrap();
                assert!(!text.contains("{{") && !text.is_empty(), "{file}: {text}");
            }
            let text = fs::read_to_string(folder.path().join("function.yaml")).unwrap();
            let documents = tree::documents(&text).unwrap();
            assert_eq!(documents.len(), 1);
            let value = &documents[0].value;
            assert_eq!(value.pointer("/metadata/name").and_then(Value::as_str), Some("orders"));
            assert_eq!(files[1].0, handler);
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("README.md"), "mine").unwrap();
        let said = write(folder.path(), "orders", &PYTHON).unwrap_err();
        assert!(said.message().contains("has README.md already"), "{}", said.message());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
