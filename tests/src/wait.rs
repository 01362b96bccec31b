//! Waiting until something holds, with a deadline and the last thing seen.

use std::future::Future;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until `look` gives a value; its `Err` says what was seen instead.
///
/// # Errors
/// When the deadline passed: what was waited for and the last thing seen.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let began = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(seen) if began.elapsed() >= limit => {
                return Err(seen.context(format!("not within {} s: {what}", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
