//! Which function a call is for: by Host, else by `/fn/NAMESPACE/NAME/rest`. Two hash lookups, whatever the number of
//! functions; the table is replaced whole, readers never wait.

use crate::{answer::Refusal, check, func::Func};
use dormouse_core::FunctionKey;
use foldhash::fast::RandomState;
use http::Uri;
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// Where calls go. Changed only when functions or their hosts change: what happens to instances is within [`Func`].
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) by_uid: HashMap<String, Arc<Func>>,
    by_host: HashMap<String, Arc<Func>, RandomState>,
    by_key: HashMap<String, HashMap<String, Arc<Func>, RandomState>, RandomState>,
    /// False until the first snapshot.
    pub(crate) known: bool,
}

/// A function found, and how much of the path named it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) func: Arc<Func>,
    /// Bytes of the path to strip.
    pub(crate) prefix: usize,
}

impl Table {
    /// The table of these functions. A host or name that two of them claim belongs to the first by uid.
    pub(crate) fn new(by_uid: HashMap<String, Arc<Func>>) -> Self {
        let mut table = Self { known: true, ..Self::default() };
        let mut ordered: Vec<_> = by_uid.values().collect();
        ordered.sort_by(|a, b| a.uid.cmp(&b.uid));
        for func in ordered {
            for host in &func.plan().hosts {
                table.by_host.entry(host.clone()).or_insert_with(|| func.clone());
            }
            let FunctionKey { namespace, name } = func.key.clone();
            table.by_key.entry(namespace).or_default().entry(name).or_insert_with(|| func.clone());
        }
        table.by_uid = by_uid;
        table
    }

    /// True when some function has this name.
    pub(crate) fn has(&self, key: &FunctionKey) -> bool {
        self.by_key.get(&key.namespace).is_some_and(|names| names.contains_key(&key.name))
    }

    /// Finds the function that another activator means.
    pub(crate) fn by_uid(&self, uid: &str) -> Result<Found, Refusal> {
        if !self.known {
            return Err(Refusal::not_ready());
        }
        let func = self.by_uid.get(uid).cloned();
        func.map(|func| Found { func, prefix: 0 })
            .ok_or_else(|| Refusal::unknown("the uid of a handed-over call".into()))
    }

    /// Finds the function that a checked host and a path mean.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Result<Found, Refusal> {
        if !self.known {
            return Err(Refusal::not_ready());
        }
        if let Some(func) = host.and_then(|h| self.by_host.get(&*plain(h))) {
            return Ok(Found { func: func.clone(), prefix: 0 });
        }
        if let Some((namespace, name, prefix)) = split_path(path) {
            let func = self.by_key.get(namespace).and_then(|names| names.get(name));
            let Some(func) = func else { return Err(Refusal::unknown(format!("/fn/{namespace}/{name}"))) };
            return Ok(Found { func: func.clone(), prefix });
        }
        Err(Refusal::unknown(host.map_or_else(|| "without Host".into(), |h| format!("host {h}"))))
    }
}

/// The name without port and final dot, in lower case.
fn plain(host: &str) -> Cow<'_, str> {
    let name = check::split_port(host).0;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// Namespace, name and length of `/fn/NAMESPACE/NAME`.
fn split_path(path: &str) -> Option<(&str, &str, usize)> {
    let rest = path.strip_prefix("/fn/")?;
    let (namespace, rest) = rest.split_once('/')?;
    let name = rest.split('/').next()?;
    let prefix = "/fn/".len() + namespace.len() + 1 + name.len();
    (!namespace.is_empty() && !name.is_empty()).then_some((namespace, name, prefix))
}

/// The target in origin form without the first `prefix` bytes; every other byte as it came.
pub(crate) fn target(uri: &Uri, prefix: usize) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    if prefix == 0 && uri.authority().is_none() {
        return Some(uri.clone());
    }
    let rest = whole.get(prefix..)?;
    let text = if rest.starts_with('/') || rest == "*" { Cow::from(rest) } else { format!("/{rest}").into() };
    let path_and_query = text.parse().ok()?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_name_functions() {
        assert_eq!(split_path("/fn/ns/hello/a//b"), Some(("ns", "hello", 12)));
        assert_eq!(split_path("/fn/ns/hello"), Some(("ns", "hello", 12)));
        for none in ["/fn/ns", "/fn//hello", "/fn/ns/", "/fnx/ns/hello", "/", "*", ""] {
            assert_eq!(split_path(none), None, "{none}");
        }
    }

    #[test]
    fn the_rest_of_the_target_is_kept_byte_for_byte() {
        let cases = [
            ("/fn/ns/hello/a//b%2f?x=1&&", 12, "/a//b%2f?x=1&&"),
            ("/fn/ns/hello?q", 12, "/?q"),
            ("/fn/ns/hello", 12, "/"),
            ("//a?", 0, "//a?"),
            ("http://host/p?q", 0, "/p?q"),
            ("http://host", 0, "/"),
            ("*", 0, "*"),
        ];
        for (uri, prefix, expected) in cases {
            assert_eq!(target(&uri.parse().unwrap(), prefix).unwrap().to_string(), expected, "{uri}");
        }
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_final_dot() {
        assert_eq!(plain("Hello.Default.Example.COM.:8080"), "hello.default.example.com");
        assert_eq!(plain("[::1]:80"), "[::1]");
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[/a-z%*.]{0,40}") {
            if let (Some((_, _, prefix)), Ok(uri)) = (split_path(&path), path.parse::<Uri>()) {
                let rest = target(&uri, prefix).unwrap().to_string();
                prop_assert!(path.ends_with(&rest) || rest == "/");
            }
        }
    }
}
