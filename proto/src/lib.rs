//! The only words spoken between Dormouse's processes: generated from `dormouse/v1/*.proto`, and the one
//! conversion between wire and [`dormouse_core`].

mod convert;

pub use convert::WireError;

/// Generated messages, clients and servers.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("dormouse.v1");
}

/// Metadata key under which the shared token travels on every request ("Bearer TOKEN").
pub const AUTHORIZATION: &str = "authorization";
