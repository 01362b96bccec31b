//! Handler code: its files, whole, and what tells one version of them from another.
//!
//! Bounds and paths are those of a runtime's load (`runtimes/README.md`): what is refused there is refused here first.

use crate::function::{Function, Runtime, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Most bytes of all files together. As base64 in a load they are a third more, and a ConfigMap takes 1 MiB.
pub const MAX_BYTES: usize = 256 * 1024;

/// Most files.
pub const MAX_FILES: usize = 1000;

/// Longest path in bytes: what file systems take as one name.
pub const MAX_PATH: usize = 255;

/// Folders of the packages that code needs, as npm and Python name them: larger than code may be.
pub const PACKAGES: [&str; 2] = ["node_modules", "site-packages"];

/// Stands for `/` in a ConfigMap's key, which may hold letters, digits, `-`, `_` and `.` only.
const STEP: &str = "..";

/// The files of a function's code. Files are named relative to the folder that the handler is looked for in.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    files: BTreeMap<String, Vec<u8>>,
    digest: String,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("files", &self.files.len()).field("digest", &self.digest).finish()
    }
}

/// Files that are no code of a function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// There is none.
    #[error("there is no file: put the handler's file there")]
    Empty,
    /// They are too large together.
    #[error(
        "{bytes} bytes of files are more than {MAX_BYTES} (largest: {largest}): leave out what does not run, or build an image from the runtime's and name it in spec.image"
    )]
    TooLarge {
        /// Of all files.
        bytes: usize,
        /// Name and size of the largest few.
        largest: String,
    },
    /// There are too many.
    #[error("{0} files are more than {MAX_FILES}: build an image from the runtime's and name it in spec.image")]
    TooMany(usize),
    /// A file that is a folder as well.
    #[error("{0:?} is a file and a folder: rename one")]
    Both(String),
    /// A name that no file of a load may have.
    #[error("{0:?} must be a relative path of at most {MAX_PATH} bytes, without empty names, . or ..")]
    Path(String),
}

impl Code {
    /// Code of these files.
    ///
    /// # Errors
    /// When they exceed a bound, or a path is none.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Result<Self, CodeError> {
        if files.is_empty() {
            return Err(CodeError::Empty);
        }
        if files.len() > MAX_FILES {
            return Err(CodeError::TooMany(files.len()));
        }
        if let Some(bad) = files.keys().find(|path| !is_path(path)) {
            return Err(CodeError::Path(bad.chars().take(MAX_PATH).collect()));
        }
        let folder = |path: &&String| {
            files.range(format!("{path}/")..).next().is_some_and(|(next, _)| next.starts_with(&format!("{path}/")))
        };
        if let Some(both) = files.keys().find(folder) {
            return Err(CodeError::Both(both.clone()));
        }
        let bytes = files.values().map(Vec::len).sum();
        if bytes > MAX_BYTES {
            return Err(CodeError::TooLarge { bytes, largest: largest(&files) });
        }
        let digest = digest(&files);
        Ok(Self { files, digest })
    }

    /// The one file of code that stands in the manifest, under the name that the handler asks for.
    ///
    /// # Errors
    /// See [`Code::new`].
    pub fn inline(source: &Source, text: &str) -> Result<Self, CodeError> {
        Self::new(BTreeMap::from([(file_of(source.runtime, &source.handler), text.as_bytes().to_vec())]))
    }

    /// Path and content of each file, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, content)| (path.as_str(), content.as_slice()))
    }

    /// SHA-256 of everything, as hexadecimal digits: two that are the same are the same code.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The file that a handler is looked for in: `index.handler` is the export `handler` of `index.js` or `index.py`.
#[must_use]
pub fn file_of(runtime: Runtime, handler: &str) -> String {
    let module = handler.rsplit_once('.').map_or(handler, |(module, _)| module);
    let extension = match runtime {
        Runtime::Nodejs => "js",
        Runtime::Python => "py",
    };
    format!("{module}.{extension}")
}

/// Whether a path may name a file of code.
#[must_use]
pub fn is_path(path: &str) -> bool {
    let plain = |step: &str| !step.is_empty() && step != "." && step != "..";
    path.len() <= MAX_PATH && !path.contains('\0') && path.split('/').all(plain)
}

/// The key of a ConfigMap that a file's path becomes: `lib/text.js` is `lib..text.js`. `None` when none comes back as
/// this path, or it has other characters than a key may have.
#[must_use]
pub fn key_of(path: &str) -> Option<String> {
    let key = path.replace('/', STEP);
    let fits = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (fits && key.len() <= 253 && path_of(&key) == path).then_some(key)
}

/// The path of a file that is a key of a ConfigMap: the reverse of [`key_of`].
#[must_use]
pub fn path_of(key: &str) -> String {
    key.replace(STEP, "/")
}

/// What code a function has, where it is known without asking anybody: in its manifest, or attached to it.
#[must_use]
pub fn code_of(function: &Function) -> Option<Arc<Code>> {
    let source = function.spec.source.as_ref()?;
    match &source.inline {
        Some(text) => Code::inline(source, text).ok().map(Arc::new),
        None => source.code.clone(),
    }
}

fn largest(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut by_size: Vec<(usize, &String)> = files.iter().map(|(path, content)| (content.len(), path)).collect();
    by_size.sort_unstable_by(|a, b| b.cmp(a));
    let shown: Vec<String> = by_size.iter().take(3).map(|(size, path)| format!("{path} {size}")).collect();
    shown.join(", ")
}

/// Each part is preceded by its length: no two different sets of files look alike.
fn digest(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hasher = Sha256::new();
    for (path, content) in files {
        for part in [path.as_bytes(), content] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(list: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
        list.iter().map(|(path, size)| ((*path).to_owned(), vec![b'x'; *size])).collect()
    }

    #[test]
    fn bounds() {
        assert_eq!(Code::new(BTreeMap::new()), Err(CodeError::Empty));
        assert!(Code::new(files(&[("a.js", MAX_BYTES)])).is_ok());
        let error = Code::new(files(&[("a.js", MAX_BYTES), ("lib/b.js", 1)])).unwrap_err().to_string();
        assert!(error.contains("262145 bytes") && error.contains("a.js 262144, lib/b.js 1"), "{error}");
        let many = (0..=MAX_FILES).map(|n| (format!("f{n}"), Vec::new())).collect();
        assert_eq!(Code::new(many), Err(CodeError::TooMany(1001)));
        let both = Code::new(files(&[("lib", 1), ("lib.js", 1), ("lib/a.js", 1)]));
        assert_eq!(both, Err(CodeError::Both("lib".into())));
        for bad in ["/a", "a//b", "../a", "a/./b", "", "a\0"] {
            assert_eq!(Code::new(files(&[(bad, 1)])), Err(CodeError::Path(bad.into())), "{bad:?}");
        }
    }

    #[test]
    fn a_handler_names_its_file() {
        assert_eq!(file_of(Runtime::Nodejs, "index.handler"), "index.js");
        assert_eq!(file_of(Runtime::Python, "lib/report.nightly.run"), "lib/report.nightly.py");
    }

    #[test]
    fn what_no_key_can_say_has_none() {
        assert_eq!(key_of("lib/text.js").as_deref(), Some("lib..text.js"));
        assert_eq!(key_of("pkg/__init__.py").as_deref(), Some("pkg..__init__.py"));
        for bad in ["a..b.js", "lib./x", "ä.js", "a b.js"] {
            assert_eq!(key_of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn keys_lead_back(path in "[a-z._-]{1,6}(/[a-z._-]{1,6}){0,3}") {
            if let Some(key) = key_of(&path) {
                prop_assert_eq!(path_of(&key), path);
            }
        }

        #[test]
        fn different_files_differ(a in prop::collection::btree_map("[ab/]{1,3}", prop::collection::vec(0_u8..2, 0..3), 1..4),
            b in prop::collection::btree_map("[ab/]{1,3}", prop::collection::vec(0_u8..2, 0..3), 1..4)) {
            prop_assert_eq!(digest(&a) == digest(&b), a == b);
        }
    }
}
