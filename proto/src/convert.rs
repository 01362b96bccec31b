//! Wire to core and back: the only place that does it.

use crate::v1;
use dormouse_core::{budget::Measure, price::Durability, record::Subject};

/// A message that says what it must not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A text is longer than its limit in bytes.
    #[error("{field} has {len} bytes, more than {max}")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// Its limit.
        max: usize,
    },
    /// A field that must be set is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
}

/// Longest name on the wire in bytes: Kubernetes names have at most 253.
const MAX_NAME: usize = 253;

impl From<&Subject> for v1::Subject {
    fn from(s: &Subject) -> Self {
        Self {
            function_uid: s.function_uid.clone(),
            namespace: s.namespace.clone(),
            name: s.name.clone(),
            revision: s.revision.clone(),
            tenant: s.tenant.clone(),
            memory_mib: s.memory_mib,
            cpu_millis: s.cpu_millis,
            instance: s.instance.clone(),
        }
    }
}

impl TryFrom<v1::Subject> for Subject {
    type Error = WireError;

    fn try_from(s: v1::Subject) -> Result<Self, WireError> {
        Ok(Self {
            function_uid: named("function_uid", s.function_uid)?,
            namespace: named("namespace", s.namespace)?,
            name: named("name", s.name)?,
            revision: named("revision", s.revision)?,
            tenant: named("tenant", s.tenant)?,
            memory_mib: s.memory_mib,
            cpu_millis: s.cpu_millis,
            instance: named("instance", s.instance)?,
        })
    }
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Process => Self::Process,
            Durability::Disk => Self::Disk,
            Durability::Ledger => Self::Ledger,
        }
    }
}

impl From<v1::Durability> for Durability {
    fn from(durability: v1::Durability) -> Self {
        match durability {
            v1::Durability::Unspecified | v1::Durability::Process => Self::Process,
            v1::Durability::Disk => Self::Disk,
            v1::Durability::Ledger => Self::Ledger,
        }
    }
}

impl From<u128> for v1::Amount {
    fn from(amount: u128) -> Self {
        Self { high: (amount >> 64) as u64, low: amount as u64 }
    }
}

impl From<v1::Amount> for u128 {
    fn from(amount: v1::Amount) -> Self {
        Self::from(amount.high) << 64 | Self::from(amount.low)
    }
}

impl From<Measure> for v1::Measure {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Money => Self::Money,
            Measure::Memory => Self::Memory,
        }
    }
}

impl TryFrom<v1::Measure> for Measure {
    type Error = WireError;

    fn try_from(measure: v1::Measure) -> Result<Self, WireError> {
        match measure {
            v1::Measure::Unspecified => Err(WireError::Empty("measure")),
            v1::Measure::Money => Ok(Self::Money),
            v1::Measure::Memory => Ok(Self::Memory),
        }
    }
}

fn named(field: &'static str, text: String) -> Result<String, WireError> {
    match text.len() {
        0 => Err(WireError::Empty(field)),
        len if len > MAX_NAME => Err(WireError::TooLong { field, len, max: MAX_NAME }),
        _ => Ok(text),
    }
}
