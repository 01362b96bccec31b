//! `Fires.Take` over gRPC. Who may call it is checked by an interceptor in front.

use super::{Letter, MAX_ORDERS};
use crate::doors::{FIRST_WORD, named, shutting_down};
use crate::office::Mail;
use crate::shares::Process;
use dormouse_proto::v1;
use dormouse_proto::v1::fires_server::{Fires as Service, FiresServer};
use futures::Stream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Largest report: an activator knows 8,448 orders at most, of about 250 bytes each, and some room.
const MAX_REPORT: usize = 4 << 20;

/// Takes reports to the office, and orders from it.
#[derive(Debug)]
pub struct FiresDoor {
    post: mpsc::Sender<Mail>,
    /// Number of the newest stream.
    streams: AtomicU64,
    stop: CancellationToken,
}

/// The gRPC service of calls by the clock.
#[must_use]
pub fn service(post: mpsc::Sender<Mail>, stop: CancellationToken) -> FiresServer<FiresDoor> {
    FiresServer::new(FiresDoor { post, streams: AtomicU64::new(0), stop }).max_decoding_message_size(MAX_REPORT)
}

#[tonic::async_trait]
impl Service for FiresDoor {
    type TakeStream = Pin<Box<dyn Stream<Item = Result<v1::FireOrder, Status>> + Send>>;

    async fn take(&self, request: Request<Streaming<v1::FireReport>>) -> Result<Response<Self::TakeStream>, Status> {
        let mut reports = request.into_inner();
        let report = tokio::time::timeout(FIRST_WORD, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first report did not come"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first report"))?;
        let process = Process { name: named(&report.name)?.into(), activator: report.activator, epoch: report.epoch };
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let (out, orders) = mpsc::channel(MAX_ORDERS);
        let post = self.post.clone();
        let letter = Letter::Join { process: process.clone(), stream, report, out };
        post.send(Mail::Fires(letter)).await.map_err(|_| shutting_down())?;
        let stop = self.stop.clone();
        tokio::spawn(async move {
            while let Some(Ok(Some(report))) = stop.run_until_cancelled(reports.message()).await {
                let letter = Letter::Report { process: process.clone(), stream, report };
                if post.send(Mail::Fires(letter)).await.is_err() {
                    return;
                }
            }
            let _ = post.send(Mail::Fires(Letter::Leave { process, stream })).await;
        });
        let orders = futures::StreamExt::take_until(ReceiverStream::new(orders), self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(orders.map(Ok))))
    }
}
