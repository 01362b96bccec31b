//! The way to the controller: one channel for all three streams, the token on every request, pauses after failures.

use dormouse_daemon::Token;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint},
};

/// A connect is given up after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that is silent is asked after it, and given up after as long again.
const PING: Duration = Duration::from_secs(5);

/// Why the controller's address or token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address is no URL.
    #[error("controller address {0:?}: write for example http://dormouse-controller:7070")]
    Address(String),
    /// The token has characters that no header may have.
    #[error("the token has characters other than printable ASCII")]
    Token,
}

/// Puts the shared token on a request.
#[derive(Clone, Debug)]
pub(crate) struct Shown(MetadataValue<Ascii>);

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(dormouse_proto::AUTHORIZATION, self.0.clone());
        Ok(request)
    }
}

/// The way to the controller.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    channel: Channel,
    token: Shown,
}

impl Link {
    /// Checks address and token; connects when first used.
    pub(crate) fn new(controller: &str, token: &Token) -> Result<Self, LinkError> {
        let bad = || LinkError::Address(controller.to_owned());
        let endpoint = Endpoint::from_shared(controller.to_owned()).map_err(|_| bad())?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(bad());
        }
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let mut token: MetadataValue<Ascii> =
            format!("Bearer {}", token.as_str()).parse().map_err(|_| LinkError::Token)?;
        token.set_sensitive(true);
        Ok(Self { channel, token: Shown(token) })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn token(&self) -> Shown {
        self.token.clone()
    }
}

/// Pauses after failures: 50 ms, doubled up to 2 s, each between half and all of it, so that many activators do not
/// come back at the same instant.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

const FIRST_PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 2_000;

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    fn next(&mut self) -> Duration {
        let most = (FIRST_PAUSE_MS << self.failures.min(10)).min(LONGEST_PAUSE_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(rand::random_range(most / 2..=most))
    }

    /// Pauses, or returns when the token is cancelled.
    pub(crate) async fn wait(&mut self, stop: &CancellationToken) {
        let pause = self.next();
        tokio::select! { () = tokio::time::sleep(pause) => {}, () = stop.cancelled() => {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut backoff = Backoff::default();
        assert!((25..=50).contains(&backoff.next().as_millis()));
        (0..100).for_each(|_| assert!(backoff.next() <= Duration::from_secs(2)));
        assert!(backoff.next() >= Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn only_plain_http_addresses_and_printable_tokens_are_taken() {
        let token = |text| Token::new(text).unwrap();
        assert!(Link::new("http://127.0.0.1:7070", &token("t")).is_ok());
        for bad in ["", "127.0.0.1:7070", "https://x:1", "ftp://x"] {
            assert!(matches!(Link::new(bad, &token("t")), Err(LinkError::Address(_))), "{bad}");
        }
        assert!(matches!(Link::new("http://x:1", &token("a\nb")), Err(LinkError::Token)));
    }
}
