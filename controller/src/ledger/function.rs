//! What sums are kept by.

use dormouse_core::record::Subject;

/// A subject without what changes from revision to revision and from instance to instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId {
    /// The Function's uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who pays.
    pub tenant: String,
}

impl FunctionId {
    /// The function of a subject.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        Self {
            uid: subject.function_uid.clone(),
            namespace: subject.namespace.clone(),
            name: subject.name.clone(),
            tenant: subject.tenant.clone(),
        }
    }

    /// The whole subject, with what a function does not have.
    pub(super) fn subject(&self, (memory_mib, cpu_millis): (u32, u32), revision: String, instance: String) -> Subject {
        let Self { uid, namespace, name, tenant } = self.clone();
        Subject { function_uid: uid, namespace, name, revision, tenant, memory_mib, cpu_millis, instance }
    }
}
