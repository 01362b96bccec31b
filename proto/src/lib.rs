//! The only words spoken between Dormouse's processes: generated from `dormouse/v1/*.proto`, and the one
//! conversion between wire and [`dormouse_core`].

mod convert;

pub use convert::WireError;

/// Generated messages, clients and servers.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("dormouse.v1");
}

/// OpenTelemetry's protocol for traces (OTLP), generated from its own files: what a trace collector is told.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod otlp {
    pub mod collector {
        pub mod trace {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
            }
        }
    }
    pub mod trace {
        pub mod v1 {
            tonic::include_proto!("opentelemetry.proto.trace.v1");
        }
    }
    pub mod common {
        pub mod v1 {
            tonic::include_proto!("opentelemetry.proto.common.v1");
        }
    }
    pub mod resource {
        pub mod v1 {
            tonic::include_proto!("opentelemetry.proto.resource.v1");
        }
    }
}

/// Metadata key under which the shared token travels on every request ("Bearer TOKEN").
pub const AUTHORIZATION: &str = "authorization";
