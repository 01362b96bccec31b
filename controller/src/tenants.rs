//! Who pays for what runs in a namespace: the namespace, or what the label [`LABEL`] on the Namespace object says.
//!
//! The label is on the Namespace and never on a Function: whoever may make Functions could let others pay for them.

use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The label by which a Namespace names its tenant. Empty or absent: the namespace is its own.
pub const LABEL: &str = "dormouse.dev/tenant";

/// The tenants of namespaces, as far as they are known. Clones share it.
#[derive(Clone, Debug)]
pub struct Tenants {
    /// `None`: every namespace is its own tenant.
    table: Option<Arc<RwLock<Table>>>,
}

#[derive(Debug, Default)]
struct Table {
    of: HashMap<String, Arc<str>>,
    /// Every namespace that there was at the start has been told.
    complete: bool,
}

impl Tenants {
    /// Every namespace is its own tenant: where there are no Namespace objects.
    #[must_use]
    pub fn of_themselves() -> Self {
        Self { table: None }
    }

    /// Nothing is known yet: it is told by [`Tenants::see`].
    #[must_use]
    pub fn labelled() -> Self {
        Self { table: Some(Arc::default()) }
    }

    /// Who pays for a namespace; `None` while it has not been seen.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<Arc<str>> {
        match &self.table {
            None => Some(namespace.into()),
            Some(table) => table.read().of.get(namespace).cloned(),
        }
    }

    /// The namespaces that a tenant pays for now; `None` while not all of them can be named.
    #[must_use]
    pub fn namespaces_of(&self, tenant: &str) -> Option<BTreeSet<String>> {
        let Some(table) = &self.table else { return Some([tenant.to_owned()].into()) };
        let table = table.read();
        let of = table.of.iter().filter(|(_, payer)| ***payer == *tenant);
        table.complete.then(|| of.map(|(namespace, _)| namespace.clone()).collect())
    }

    /// A namespace has these labels. True when somebody else pays for it than was known.
    pub fn see(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let Some(table) = &self.table else { return false };
        let said = labels.and_then(|labels| labels.get(LABEL)).filter(|tenant| !tenant.is_empty());
        let tenant = said.map_or(namespace, String::as_str);
        let mut table = table.write();
        if table.of.get(namespace).is_some_and(|known| **known == *tenant) {
            return false;
        }
        table.of.insert(namespace.to_owned(), tenant.into());
        true
    }

    /// A namespace is gone.
    pub fn forget(&self, namespace: &str) {
        if let Some(table) = &self.table {
            table.write().of.remove(namespace);
        }
    }

    /// Every namespace that there is has been seen.
    pub fn complete(&self) {
        if let Some(table) = &self.table {
            table.write().complete = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_who_pays_and_without_one_the_namespace_does() {
        let tenants = Tenants::labelled();
        let label = |value: &str| [(LABEL.to_owned(), value.to_owned())].into();
        assert_eq!((tenants.of("a"), tenants.namespaces_of("a")), (None, None), "nothing is known");
        assert!(tenants.see("a", Some(&label("b"))) && tenants.see("b", None) && tenants.see("c", Some(&label(""))));
        assert_eq!(tenants.namespaces_of("b"), None, "there may be more");
        tenants.complete();
        let of = |tenant: &str| tenants.namespaces_of(tenant).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!((of("b"), of("a"), of("c")), (vec!["a".to_owned(), "b".to_owned()], vec![], vec!["c".to_owned()]));
        assert!(!tenants.see("a", Some(&label("b"))), "nothing new");
        assert!(tenants.see("a", Some(&[("other".to_owned(), "b".to_owned())].into())), "the label is gone");
        assert_eq!(tenants.of("a").as_deref(), Some("a"));
        tenants.forget("a");
        assert_eq!(tenants.of("a"), None);
    }

    #[test]
    fn without_namespace_objects_each_is_its_own() {
        let tenants = Tenants::of_themselves();
        assert!(!tenants.see("a", Some(&[(LABEL.to_owned(), "b".to_owned())].into())));
        assert_eq!(tenants.of("a").as_deref(), Some("a"));
        assert_eq!(tenants.namespaces_of("a"), Some(["a".to_owned()].into()));
    }
}
