//! Kubernetes objects, one kind per file: pure, held by golden tests.

pub mod code;
pub mod deployment;
pub mod graft;
pub mod network_policy;
pub mod pool;
pub mod revision;
