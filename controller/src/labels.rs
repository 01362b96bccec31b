//! The labels on everything that Dormouse makes.

use crate::fleet::{FunctionUid, Target};
use dormouse_core::revision::Revision;
use std::collections::BTreeMap;

/// Selects everything that Dormouse made.
pub const OURS: &str = "app.kubernetes.io/managed-by=dormouse";

const NAME: &str = "app.kubernetes.io/name";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const PART_OF: &str = "app.kubernetes.io/part-of";
const FUNCTION: &str = "dormouse.dev/function";
/// On everything that belongs to one function: its uid.
pub const FUNCTION_UID: &str = "dormouse.dev/function-uid";
const REVISION: &str = "dormouse.dev/revision";

/// On what belongs to a warm pool and to no function: the pool's name.
pub const POOL: &str = "dormouse.dev/pool";
/// On a parked pod that keeps a language runtime: which.
pub const RUNTIME: &str = "dormouse.dev/runtime";
/// On a pod that was claimed: the pool that it came from.
pub const CLAIMED_FROM: &str = "dormouse.dev/claimed-from";

/// All labels of a warm pool's objects.
#[must_use]
pub fn of_pool(name: &str) -> BTreeMap<String, String> {
    let mut labels = of_platform(name);
    labels.extend(pool_selector(name));
    labels
}

/// The one that tells a pool's parked pods from all others.
#[must_use]
pub fn pool_selector(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(POOL.to_owned(), name.to_owned())])
}

/// The pool that a parked pod, or what carries such pods, belongs to.
#[must_use]
pub fn pool(labels: Option<&BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(POOL).map(String::as_str)
}

/// All labels of a revision's objects.
#[must_use]
pub fn of(target: &Target) -> BTreeMap<String, String> {
    let mut labels = selector(target);
    for (key, value) in [
        (NAME, target.key.name.as_str()),
        (MANAGED_BY, "dormouse"),
        (PART_OF, "dormouse"),
        (FUNCTION, target.key.name.as_str()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// The labels of an object that belongs to no one function.
#[must_use]
pub fn of_platform(name: &str) -> BTreeMap<String, String> {
    [(NAME, name), (MANAGED_BY, "dormouse"), (PART_OF, "dormouse")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The label on everything that Dormouse made.
#[must_use]
pub fn ours() -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED_BY.to_owned(), "dormouse".to_owned())])
}

/// Selects warm pools that were made by the operator's list.
pub const NAMED: &str = "dormouse.dev/named=true";

/// The labels of such a pool.
#[must_use]
pub fn of_named() -> BTreeMap<String, String> {
    BTreeMap::from([("dormouse.dev/named".to_owned(), "true".to_owned())])
}

/// Whether labels are of something that Dormouse made.
#[must_use]
pub fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    labels.get(MANAGED_BY).is_some_and(|by| by == "dormouse")
}

/// The two that tell one revision's pods from all others: never changed once a Deployment has them.
#[must_use]
pub fn selector(target: &Target) -> BTreeMap<String, String> {
    BTreeMap::from([
        (FUNCTION_UID.to_owned(), target.uid.to_string()),
        (REVISION.to_owned(), target.revision.to_string()),
    ])
}

/// The function and revision that an object of ours belongs to.
#[must_use]
pub fn owner(labels: Option<&BTreeMap<String, String>>) -> Option<(FunctionUid, Revision)> {
    let labels = labels?;
    Some((FunctionUid::from(labels.get(FUNCTION_UID)?.as_str()), Revision::from(labels.get(REVISION)?.as_str())))
}
