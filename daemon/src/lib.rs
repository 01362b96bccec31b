//! What every Dormouse process shares: logs, the admin port, the order of shutting down, the TLS provider.

pub mod admin;

pub mod health;
pub mod histogram;
mod json;
pub mod shutdown;
pub mod telemetry;
pub mod token;
pub mod version;

pub use health::Health;
pub use histogram::Histogram;
pub use token::Token;

/// Makes ring the process's one TLS provider. Call first in `main`: with two providers compiled in, rustls would panic
/// at the first client; a second call does nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
