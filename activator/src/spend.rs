//! Budgets: allowances come, what was spent goes, on one stream. While the controller is silent the last allowances go on
//! to hold.

use crate::{
    link::{Backoff, Link},
    shared::Shared,
};
use dormouse_proto::v1::{self, budgets_client::BudgetsClient};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// How often it is told how far the ledger has what was spent, while there is something to tell: as often as frames leave.
const TELL: Duration = Duration::from_millis(100);
/// Least time between two reports: a busy budget that is nearly used up has each of its calls told.
const LEAST: Duration = Duration::from_millis(2);
/// Reports under way at once; behind them changes are gathered, not queued.
const UNDER_WAY: usize = 4;
/// How long the end of the stream may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause before a controller that knows no budgets is asked again.
const WITHOUT: Duration = Duration::from_secs(30);
/// Largest update: 10,000 allowances of about 150 bytes, and room for more.
const MAX_UPDATE: usize = 16 << 20;

/// Follows the budgets until the token is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, name: String, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        match follow(&shared, &link, &name, &mut backoff, &stop).await {
            Ok(()) => tracing::debug!("the stream of budgets ended"),
            // One from before there were budgets, as while a cluster is updated.
            Err(e) if e.code() == tonic::Code::Unimplemented => {
                shared.purses.known.cancel();
                let _ = stop.run_until_cancelled(tokio::time::sleep(WITHOUT)).await;
            }
            Err(e) => tracing::debug!("budgets: {}", e.message()),
        }
        backoff.wait(&stop).await;
    }
}

async fn follow(
    shared: &Arc<Shared>,
    link: &Link,
    name: &str,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Result<(), tonic::Status> {
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    let mut client =
        BudgetsClient::with_interceptor(link.channel(), link.token()).max_decoding_message_size(MAX_UPDATE);
    shared.purses.begin();
    // The first report is on its way before the answer begins.
    let _ = sender.try_send(report(shared, name));
    let begun = client.spend(ReceiverStream::new(receiver));
    let Some(begun) = stop.run_until_cancelled(begun).await else { return Ok(()) };
    let mut updates = begun?.into_inner();
    let mut listen = std::pin::pin!(async {
        let mut begun = false;
        while let Some(update) = updates.message().await? {
            if !begun && !update.snapshot {
                return Err(tonic::Status::failed_precondition("a stream begins with a snapshot"));
            }
            begun = true;
            shared.purses.update(update, shared).map_err(tonic::Status::invalid_argument)?;
            backoff.reset();
        }
        Ok(())
    });
    tokio::select! {
        result = &mut listen => result,
        // It ends when we do, with a farewell: what is left here is others' to spend.
        () = tell(shared, name, sender, stop) => tokio::time::timeout(FAREWELL, listen).await.unwrap_or(Ok(())),
    }
}

/// Tells what changed, for as long as somebody listens and the token is not cancelled.
async fn tell(shared: &Arc<Shared>, name: &str, sender: mpsc::Sender<v1::SpendReport>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = shared.purses.urgent() => {}
            // Without a budget there is nothing to tell: the first one comes by an update.
            () = tokio::time::sleep(TELL), if shared.purses.any() => {}
            () = stop.cancelled() => {
                // Calls that were broken off cost nothing.
                let _ = sender.try_send(v1::SpendReport { farewell: true, ..report(shared, name) });
                return;
            }
        }
        // One that is not read is made anew when there is room.
        let Some(place) = stop.run_until_cancelled(sender.reserve()).await else { continue };
        let Ok(place) = place else { return };
        let report = report(shared, name);
        if !report.budgets.is_empty() {
            place.send(report);
            tokio::time::sleep(LEAST).await;
        }
    }
}

fn report(shared: &Shared, name: &str) -> v1::SpendReport {
    let identity = shared.spool.identity();
    v1::SpendReport {
        activator: identity.activator,
        epoch: identity.epoch,
        name: name.to_owned(),
        budgets: shared.purses.changed(&shared.spool),
        farewell: false,
    }
}
