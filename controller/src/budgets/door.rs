//! `Budgets.Spend` over gRPC. Who may call it is checked by an interceptor in front.

use super::{Budgets, Letter};
use crate::doors::MAX_NAME;
use crate::shares::Process;
use dormouse_proto::v1;
use dormouse_proto::v1::budgets_server::{Budgets as Service, BudgetsServer};
use futures::Stream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Largest report: [`super::MAX_BUDGETS`] entries of about 150 bytes, 150 KB, and room for names.
const MAX_REPORT: usize = 1 << 20;
/// Updates that wait to be read by one activator.
const MAX_UPDATES: usize = 256;
/// How soon a stream must begin to speak.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Answers `Budgets.Spend` from the treasurer.
#[derive(Debug)]
pub struct BudgetsDoor {
    budgets: Budgets,
    /// Number of the newest stream.
    streams: AtomicU64,
    stop: CancellationToken,
}

/// The gRPC service of the treasurer.
#[must_use]
pub fn service(budgets: Budgets, stop: CancellationToken) -> BudgetsServer<BudgetsDoor> {
    BudgetsServer::new(BudgetsDoor { budgets, streams: AtomicU64::new(0), stop }).max_decoding_message_size(MAX_REPORT)
}

#[tonic::async_trait]
impl Service for BudgetsDoor {
    type SpendStream = Pin<Box<dyn Stream<Item = Result<v1::BudgetUpdate, Status>> + Send>>;

    async fn spend(&self, request: Request<Streaming<v1::SpendReport>>) -> Result<Response<Self::SpendStream>, Status> {
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(FIRST_WORD, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first report did not come"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first report"))?;
        if !(1..=MAX_NAME).contains(&first.name.len()) {
            return Err(Status::invalid_argument("an activator has a name of 1 to 253 bytes"));
        }
        let process = Process { name: first.name.into(), activator: first.activator, epoch: first.epoch };
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let (out, updates) = mpsc::channel(MAX_UPDATES);
        let post = self.budgets.post.clone();
        let letter = Letter::Join { process: process.clone(), stream, said: first.budgets, out };
        post.send(letter).await.map_err(|_| Status::unavailable("the controller is shutting down"))?;
        let stop = self.stop.clone();
        tokio::spawn(async move {
            // A break is an end without a farewell.
            while let Some(Ok(Some(report))) = stop.run_until_cancelled(reports.message()).await {
                let v1::SpendReport { budgets: said, farewell, .. } = report;
                let letter = Letter::Report { process: process.clone(), stream, said, farewell };
                if post.send(letter).await.is_err() {
                    return;
                }
            }
            let _ = post.send(Letter::Leave { process, stream }).await;
        });
        let stop = self.stop.clone();
        let updates = futures::StreamExt::take_until(ReceiverStream::new(updates), stop.cancelled_owned());
        Ok(Response::new(Box::pin(updates.map(Ok))))
    }
}
