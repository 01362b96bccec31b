//! Calls that the platform makes: orders come, what became of them goes, on one stream.
//!
//! An ordered call takes the way of any call: it goes through a connection of this process to itself ([`call`]), and so
//! through the waiting room, a slot, the meter and the spool. What is known of orders ([`book`]) outlives the stream, and is
//! told whole when the next one begins: a new life of the controller learns by it what was made of what it had ordered.

mod book;
mod call;

pub(crate) use book::Book;

use crate::{
    link::{Backoff, Link},
    shared::Shared,
};
use book::{Fate, Key};
use dormouse_proto::v1::{self, fires_client::FiresClient};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Reports under way at once; behind them changes are gathered, not queued.
const UNDER_WAY: usize = 4;
/// Pause before a controller that orders no calls is asked again.
const WITHOUT: Duration = Duration::from_secs(30);
/// Largest order: a body of 65,536 characters, which is 256 KiB at most, and names.
const MAX_ORDER: usize = 512 << 10;

/// Takes orders until the token is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, name: String, stop: CancellationToken) {
    // Who knows no functions yet cannot call any.
    if stop.run_until_cancelled(shared.known.cancelled()).await.is_none() {
        return;
    }
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        match follow(&shared, &link, &name, &mut backoff, &stop).await {
            Ok(()) => tracing::debug!("the stream of orders ended"),
            // One from before there were schedules, as while a cluster is updated.
            Err(e) if e.code() == tonic::Code::Unimplemented => {
                let _ = stop.run_until_cancelled(tokio::time::sleep(WITHOUT)).await;
            }
            Err(e) => tracing::debug!("orders: {}", e.message()),
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
    let mut client = FiresClient::with_interceptor(link.channel(), link.token()).max_decoding_message_size(MAX_ORDER);
    let (fates, forgot_through_us) = shared.fires.whole(shared.clock.now());
    // On its way before the answer begins.
    let _ = sender.try_send(v1::FireReport { forgot_through_us, ..report(shared, name, fates) });
    let begun = client.take(ReceiverStream::new(receiver));
    let Some(begun) = stop.run_until_cancelled(begun).await else { return Ok(()) };
    let mut orders = begun?.into_inner();
    backoff.reset();
    let listen = async {
        while let Some(order) = orders.message().await? {
            take(shared, &order);
        }
        Ok(())
    };
    tokio::select! {
        result = listen => result,
        () = tell(shared, name, sender) => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

/// Tells what becomes of orders, for as long as somebody listens.
async fn tell(shared: &Arc<Shared>, name: &str, sender: mpsc::Sender<v1::FireReport>) {
    loop {
        shared.fires.news().await;
        let Ok(place) = sender.reserve().await else { return };
        place.send(report(shared, name, shared.fires.changed(shared.clock.now())));
    }
}

fn report(shared: &Shared, name: &str, fates: Vec<v1::Fate>) -> v1::FireReport {
    let identity = shared.spool.identity();
    v1::FireReport {
        activator: identity.activator,
        epoch: identity.epoch,
        name: name.to_owned(),
        fates,
        forgot_through_us: 0,
        leaving: shared.leaving.load(std::sync::atomic::Ordering::Relaxed),
    }
}

/// Does what an order says.
fn take(shared: &Arc<Shared>, order: &v1::FireOrder) {
    let key = Key::of(order);
    if order.end {
        return shared.fires.end(&key, shared.clock.now());
    }
    let request = match call::request(shared, order) {
        Ok(request) => request,
        Err(why) => {
            tracing::warn!(function = order.function_uid, event = order.event, "an order that is none: {why}");
            let fate = Fate::Refused { reason: "BadOrder".into(), again: false };
            return shared.fires.set(&key, fate, shared.clock.now());
        }
    };
    let Some(end) = shared.fires.begin(&key, shared) else { return };
    let making = shared.clone();
    shared.tracker.spawn(async move {
        let fate = match request {
            Some(request) => call::make(&making, request, end).await,
            None => Fate::Refused { reason: "UnknownFunction".into(), again: true },
        };
        making.fires.set(&key, fate, making.clock.now());
    });
}
