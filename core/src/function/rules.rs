//! Rules across fields. Each one stands here once, as CEL for the API server and as Rust for the command line and the
//! controller; a property test holds the two against each other.

use super::FunctionSpec;
use kube::core::cel::Rule;

/// A rule over the spec.
pub struct SpecRule {
    /// Its CEL form; true when the rule is kept. `self` is the spec.
    pub cel: &'static str,
    /// What is wrong and what to do.
    pub message: &'static str,
    /// The field that a fault is told at, below `spec`.
    pub path: &'static str,
    /// Its Rust form; true when the rule is kept.
    pub keeps: fn(&FunctionSpec) -> bool,
}

impl SpecRule {
    /// The rule as the CRD carries it.
    #[must_use]
    pub fn cel(&self) -> Rule {
        Rule::new(self.cel).message(self.message)
    }
}

/// Longest function name in bytes: with `-` and a revision of 8 it stays within the 63 of a DNS label, as a pod's host
/// name must (63 - 9 = 54; 52 is what CronJobs allow, a number that people know).
pub const MAX_NAME: usize = 52;

/// What a function may be called: the first label of its host name.
pub const NAME_MESSAGE: &str = "a function's name is at most 52 lower-case letters, digits and '-', begins with a letter and ends with a letter or digit: it is the first label of its host name";

/// The rule on `metadata.name`, which is visible to CEL at the root only.
#[must_use]
pub fn name_rule() -> Rule {
    Rule::new("self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message(NAME_MESSAGE)
}

/// The Rust form of [`name_rule`].
#[must_use]
pub fn name_is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    bytes.len() <= MAX_NAME
        && inner
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|b| *b != b'-')
}

/// Every rule over the spec, in the order in which faults are told.
pub const ALL: [&SpecRule; 6] =
    [&IMAGE_OR_SOURCE, &ENV_RESERVED, &WARM_WITHIN_RESERVED, &WINDOWS_WITHIN_RESERVED, &SOURCE_CODE, &SOURCE_RUNS];

/// Something must run.
pub const IMAGE_OR_SOURCE: SpecRule = SpecRule {
    cel: "has(self.image) || has(self.source)",
    message: "image is missing: name a container image that speaks HTTP on $PORT, or handler code in source",
    path: "image",
    keeps: |spec| spec.image.is_some() || spec.source.is_some(),
};

/// Names that the platform sets, and the beginning of all others of its own.
const RESERVED_ENV: [&str; 4] = ["PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"];
const OWN_ENV: &str = "DORMOUSE_";

/// The contract's own variables are not the user's to set.
pub const ENV_RESERVED: SpecRule = SpecRule {
    cel: "!has(self.env) || !self.env.exists(e, e.name in ['PORT', 'K_SERVICE', 'K_REVISION', 'K_CONFIGURATION'] || e.name.startsWith('DORMOUSE_'))",
    message: "PORT, K_SERVICE, K_REVISION, K_CONFIGURATION and names that begin with DORMOUSE_ are set by the platform: remove them (the port is spec.port)",
    path: "env",
    keeps: |spec| !spec.env.iter().any(|e| RESERVED_ENV.contains(&e.name.as_str()) || e.name.starts_with(OWN_ENV)),
};

/// Warm capacity is part of the reserved one.
pub const WARM_WITHIN_RESERVED: SpecRule = SpecRule {
    cel: "!has(self.reservedConcurrency) || !has(self.warmUpConcurrency) || self.warmUpConcurrency <= self.reservedConcurrency",
    message: "warmUpConcurrency is more than reservedConcurrency: raise the one or lower the other",
    path: "warmUpConcurrency",
    keeps: |spec| spec.reserved_concurrency.is_none_or(|reserved| spec.warm_up_concurrency <= reserved),
};

/// And so is what a window keeps warm.
pub const WINDOWS_WITHIN_RESERVED: SpecRule = SpecRule {
    cel: "!has(self.reservedConcurrency) || !has(self.warmUp) || self.warmUp.all(w, w.concurrency <= self.reservedConcurrency)",
    message: "a warmUp window's concurrency is more than reservedConcurrency: raise the one or lower the other",
    path: "warmUp",
    keeps: |spec| {
        spec.reserved_concurrency.is_none_or(|reserved| spec.warm_up.iter().all(|w| w.concurrency <= reserved))
    },
};

/// Code comes from one place.
pub const SOURCE_CODE: SpecRule = SpecRule {
    cel: "!has(self.source) || [has(self.source.inline), has(self.source.configMap), has(self.image)].filter(x, x).size() == 1",
    message: "say once where the code is: in source.inline, in source.configMap, or in an image built from the runtime's (image); a folder's files are sent by `dormouse deploy FOLDER`",
    path: "source",
    keeps: |spec| {
        spec.source.as_ref().is_none_or(|source| {
            let places = [source.inline.is_some(), source.config_map.is_some(), spec.image.is_some()];
            match places.iter().filter(|named| **named).count() {
                // Files that stand beside the manifest and were read with it.
                0 => source.code.is_some(),
                n => n == 1,
            }
        })
    },
};

/// The runtime is what runs.
pub const SOURCE_RUNS: SpecRule = SpecRule {
    cel: "!has(self.source) || ((!has(self.command) || self.command.size() == 0) && (!has(self.args) || self.args.size() == 0) && (!has(self.protocol) || self.protocol == 'http1'))",
    message: "command, args and protocol are the runtime's where there is a source: remove them",
    path: "source",
    keeps: |spec| {
        spec.source.is_none()
            || spec.command.is_empty() && spec.args.is_empty() && spec.protocol == super::Protocol::Http1
    },
};
