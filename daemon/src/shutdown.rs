//! Stopping: one token that every task watches, cancelled by SIGTERM or SIGINT.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT. A second signal ends the process at once, with status 130:
/// whoever asks twice does not want to wait.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            if again {
                tracing::warn!("second signal: ending without waiting");
                #[expect(clippy::exit, reason = "the user asked twice")]
                std::process::exit(130);
            }
            tracing::info!("signal received: shutting down");
            stop.cancel();
        }
    });
    Ok(token)
}
