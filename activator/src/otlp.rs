//! Traces leave: calls that are over become spans, in batches, to a collector that speaks OTLP over gRPC.
//!
//! No span exists while a call runs: everything is made from the instants that were taken anyway. A full queue or a
//! collector that is away costs traces, which are counted, and never holds a call up.

mod spans;

use crate::{link::Backoff, metrics::Metrics, trail::Facts};
use dormouse_proto::otlp::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

/// Calls that wait to leave: 2,048 with 1.6 KiB of text at most (see [`crate::trail`]) and 0.4 KiB besides are 4 MiB.
const QUEUE: usize = 2_048;
/// Calls of one batch. Each has at most seven spans: 3 KiB with the longest texts, so a batch stays below 1 MiB, where
/// collectors take 4.
const BATCH: usize = 256;
/// Calls are gathered that long after the first one.
const GATHER: Duration = Duration::from_millis(500);
/// The collector's answer is awaited that long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connect is given up after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries for one batch; the pauses between them are those of [`Backoff`].
const TRIES: u32 = 4;

/// A collector's address that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("trace collector {0:?}: write for example http://collector:4317 (OTLP over gRPC, without TLS)")]
pub struct BadEndpoint(String);

/// Calls on their way out. Boxed as they come from their trails: they are handed on, not copied.
type Calls = Vec<Box<Facts>>;

/// Where calls leave what is known of them.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Box<Facts>>,
    metrics: Metrics,
}

impl Sender {
    /// Takes a call that is over; never waits.
    pub(crate) fn tell(&self, facts: Box<Facts>) {
        if self.queue.try_send(facts).is_err() {
            self.metrics.traces_dropped("queue_full", 1);
        }
    }
}

/// Sends what is told until it is stopped.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: Receiver<Box<Facts>>,
    channel: Channel,
    resource: Resource,
    metrics: Metrics,
}

impl Exporter {
    /// Checks the address; connects when first used. `name` is that of this activator.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn new(endpoint: &str, name: &str, metrics: &Metrics) -> Result<(Sender, Self), BadEndpoint> {
        let bad = || BadEndpoint(endpoint.to_owned());
        let address = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| bad())?;
        if address.uri().scheme_str() != Some("http") || address.uri().host().is_none() {
            return Err(bad());
        }
        let channel = address.connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT).connect_lazy();
        let (sender, queue) = mpsc::channel(QUEUE);
        let exporter = Self { queue, channel, resource: spans::resource(name), metrics: metrics.clone() };
        Ok((Sender { queue: sender, metrics: metrics.clone() }, exporter))
    }

    /// Exports until the token is cancelled, then once more what is left: each batch has one try then.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut client = TraceServiceClient::new(self.channel.clone());
        let mut calls = Calls::with_capacity(BATCH);
        loop {
            let first = tokio::select! {
                biased;
                got = self.queue.recv_many(&mut calls, BATCH) => got > 0,
                () = stop.cancelled() => false,
            };
            if !first {
                break;
            }
            if calls.len() < BATCH {
                // Whoever tells meanwhile wakes nobody.
                let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
                self.take_more(&mut calls);
            }
            self.export(&mut client, std::mem::take(&mut calls), &stop).await;
        }
        self.queue.close();
        loop {
            self.take_more(&mut calls);
            if calls.is_empty() {
                return;
            }
            self.export(&mut client, std::mem::take(&mut calls), &stop).await;
        }
    }

    fn take_more(&mut self, calls: &mut Calls) {
        while calls.len() < BATCH {
            let Ok(facts) = self.queue.try_recv() else { return };
            calls.push(facts);
        }
    }

    async fn export(&self, client: &mut TraceServiceClient<Channel>, calls: Calls, stop: &CancellationToken) {
        let count = calls.len() as u64;
        let request = self.request(&calls);
        drop(calls);
        let mut backoff = Backoff::default();
        for tried in 1..=TRIES {
            match client.export(request.clone()).await {
                Ok(answer) => {
                    self.metrics.traces_exported.inc_by(count);
                    let partial = answer.into_inner().partial_success;
                    if let Some(partial) = partial.filter(|p| p.rejected_spans > 0) {
                        tracing::warn!(spans = partial.rejected_spans, "spans refused: {}", partial.error_message);
                    }
                    return;
                }
                Err(e) if tried < TRIES && may_pass(e.code()) && !stop.is_cancelled() => {
                    tracing::debug!("trace collector: {}", e.message());
                    backoff.wait(stop).await;
                }
                Err(e) => {
                    tracing::warn!(calls = count, "traces are lost: the collector says: {}", e.message());
                    self.metrics.traces_dropped("export_failed", count);
                    return;
                }
            }
        }
    }

    fn request(&self, calls: &[Box<Facts>]) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "dormouse".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let spans = calls.iter().flat_map(|facts| spans::of(facts)).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: String::new() }],
        }
    }
}

/// Codes after which OTLP says to try again.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

#[cfg(test)]
mod tests;
