//! Kubernetes objects, one kind per file: pure, held by golden tests.

pub mod deployment;
pub mod network_policy;
