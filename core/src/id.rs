//! Names of things: newtypes, no bare strings where two could be swapped.

use std::fmt;

/// A function by namespace and name; displays as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl FunctionKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One call for callers and logs: the activator's id, its epoch and the number of the call in that epoch.
/// Text form `aaaaaaaaaaaaaaaa-e-n`, hexadecimal, the first part 16 digits; a record carries `call`, its block the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The activator's random id.
    pub activator: u64,
    /// Its epoch: one more at each start.
    pub epoch: u32,
    /// Number of the call within the epoch, from 1.
    pub call: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-{:x}", self.activator, self.epoch, self.call)
    }
}

/// A text that is no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a request id: expected three hexadecimal parts joined by '-', the first of 16 digits")]
pub struct BadRequestId;

impl std::str::FromStr for RequestId {
    type Err = BadRequestId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let (Some(activator), Some(epoch), Some(call), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadRequestId);
        };
        if activator.len() != 16 {
            return Err(BadRequestId);
        }
        Ok(Self {
            activator: u64::from_str_radix(activator, 16).map_err(|_| BadRequestId)?,
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| BadRequestId)?,
            call: u64::from_str_radix(call, 16).map_err(|_| BadRequestId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_reads_back() {
        let id = RequestId { activator: 0xab, epoch: 3, call: 4096 };
        assert_eq!(id.to_string(), "00000000000000ab-3-1000");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("ab-3-1000".parse::<RequestId>(), Err(BadRequestId));
    }
}
