//! Records leave: spool to ledger, in order, each until it is acknowledged. Calls never wait for it.

use crate::{
    link::{Backoff, Link},
    shared::Shared,
    spool::{Batch, Cursor, Home},
};
use dormouse_core::record::{CallRecord, Packer};
use dormouse_proto::v1::{self, appended, ledger_client::LedgerClient};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Records are gathered that long after the first one: a frame costs the ledger its batch and a sync of its disk (1 to 4
/// ms of work) however few records are in it. With 10 frames a second that is a hundredth to a thirtieth of a core, and
/// nobody who reads a bill sees the tenth of a second. Not when the end of a response waits for the ledger: then what came
/// while the last frame was on its way is the next one. A stop ends the gathering.
const GATHER: Duration = Duration::from_millis(100);
/// The ledger's answer is awaited that long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A frame that the ledger calls invalid that many times in a row (over about a second) will never be taken.
const REFUSED_TRIES: u32 = 5;
/// Pause before the next try while everything else has ended already: whoever stops us bounds the tries by time.
const LAST_TRIES: Duration = Duration::from_millis(100);

/// Ships until the token is cancelled, then until the spool is empty. A ledger that fails is tried again all the same:
/// whoever cancels gives that a limit, and drops this when it is over.
pub(crate) async fn run(shared: Arc<Shared>, link: Link, stop: CancellationToken) {
    let mut client = LedgerClient::with_interceptor(link.channel(), link.token());
    let mut cursor = Cursor::default();
    let mut backoff = Backoff::default();
    let mut refused = 0;
    loop {
        let stopping = stop.is_cancelled();
        let (back, read) = next(cursor, &shared).await;
        cursor = back;
        shared.metrics.records_lost.inc_by(shared.spool.take_lost());
        match &read {
            Read::Batch(batch) => shared.metrics.unshipped_since(batch.records.first().map(CallRecord::ended_at_us)),
            Read::Empty => shared.metrics.unshipped_since(None),
            Read::Failed => {}
        }
        match read {
            Read::Batch(batch) => match send(&mut client, &batch, &mut cursor, &shared).await {
                Ok(()) => {
                    refused = 0;
                    backoff.reset();
                }
                Err(e) => {
                    refused = if e.is_about_the_frame() { refused + 1 } else { 0 };
                    let mut from = batch.first_seq;
                    if refused >= REFUSED_TRIES && pass_over(&batch, &e, &shared) {
                        (refused, from) = (0, batch.last_seq() + 1);
                    }
                    tracing::debug!("ledger: {e}");
                    cursor.seek(batch.activator, batch.epoch, from);
                    pause(&mut backoff, &stop).await;
                }
            },
            Read::Failed => pause(&mut backoff, &stop).await,
            Read::Empty if stopping => return,
            Read::Empty => {
                tokio::select! { () = shared.spool.written() => {}, () = stop.cancelled() => {} }
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = shared.spool.awaited() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

/// Waits after a failure. A stop ends a pause, and the ones after it are short.
async fn pause(backoff: &mut Backoff, stop: &CancellationToken) {
    if stop.is_cancelled() {
        tokio::time::sleep(LAST_TRIES).await;
    } else {
        backoff.wait(stop).await;
    }
}

/// Leaves a batch behind that the ledger will never take; false when that could not be noted.
fn pass_over(batch: &Batch, why: &ShipError, shared: &Arc<Shared>) -> bool {
    let (first_seq, records) = (batch.first_seq, batch.records.len());
    match shared.spool.pass_over(batch) {
        Ok(()) => {
            tracing::error!(
                first_seq,
                records,
                "the ledger refuses records for good: a copy of them is set aside: {why}"
            );
            true
        }
        Err(e) => {
            tracing::error!(first_seq, records, "records that the ledger refuses cannot be set aside: {e}");
            false
        }
    }
}

/// What reading the spool gave.
enum Read {
    Batch(Batch),
    /// All there is was read.
    Empty,
    /// There may be more, but the disk did not give it.
    Failed,
}

/// The next batch, read where blocking is allowed.
async fn next(mut cursor: Cursor, shared: &Arc<Shared>) -> (Cursor, Read) {
    let reader = shared.clone();
    let read = tokio::task::spawn_blocking(move || {
        let result = cursor.next(&reader.spool);
        (cursor, result)
    });
    match read.await {
        Ok((cursor, Ok(Some(batch)))) => (cursor, Read::Batch(batch)),
        Ok((cursor, Ok(None))) => (cursor, Read::Empty),
        Ok((cursor, Err(e))) => {
            tracing::error!("spool cannot be read: {e}");
            (cursor, Read::Failed)
        }
        // The runtime is ending, or reading panicked: from the beginning then.
        Err(_) => (Cursor::default(), Read::Failed),
    }
}

type Client =
    LedgerClient<tonic::service::interceptor::InterceptedService<tonic::transport::Channel, crate::link::Shown>>;

async fn send(client: &mut Client, batch: &Batch, cursor: &mut Cursor, shared: &Shared) -> Result<(), ShipError> {
    let home = shared.spool.home(batch);
    let request = tokio::time::timeout(ANSWER_TIMEOUT, client.append(frame(batch, home)));
    let answer = request.await.map_err(|_| ShipError::Silent)??.into_inner();
    let watermark = answer.watermark + home.offset;
    let next = watermark + 1;
    let refused = answer.outcome() == appended::Outcome::Gap;
    let tail_is_gone = shared.spool.judge_tail(batch, watermark, refused);
    shared.spool.trim(batch.activator, batch.epoch, watermark);
    match answer.outcome() {
        appended::Outcome::Applied | appended::Outcome::Duplicate if next > batch.last_seq() => {
            shared.metrics.records_shipped.inc_by(batch.records.len() as u64);
        }
        // It has some of them, or less than we thought: it says where to go on.
        appended::Outcome::Applied | appended::Outcome::Duplicate => cursor.seek(batch.activator, batch.epoch, next),
        appended::Outcome::Gap if tail_is_gone || cursor.holds(&shared.spool, batch, next) => {
            cursor.seek(batch.activator, batch.epoch, next);
        }
        appended::Outcome::Gap => {
            let first = batch.first_seq;
            tracing::error!(
                watermark,
                first,
                "the ledger has lost acknowledged records: what follows gets a new identity"
            );
            shared.spool.move_home(batch)?;
            cursor.seek(batch.activator, batch.epoch, first);
        }
        appended::Outcome::Unspecified => return Err(ShipError::Unclear),
    }
    Ok(())
}

fn frame(batch: &Batch, home: Home) -> v1::Frame {
    let mut packer = Packer::default();
    batch.records.iter().for_each(|r| packer.push(r));
    let count = packer.count();
    let records = bytes::Bytes::from(packer.finish());
    v1::Frame {
        activator: home.activator,
        epoch: home.epoch,
        first_seq: batch.first_seq - home.offset,
        count,
        subjects: batch.subjects.iter().map(|s| s.as_ref().into()).collect(),
        crc32c: crc32c::crc32c(&records),
        records,
        unseen: batch.aborted,
    }
}

#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error("no answer in time")]
    Silent,
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("spool: {0}")]
    Spool(#[from] std::io::Error),
    #[error("an answer without outcome")]
    Unclear,
}

impl ShipError {
    /// The ledger says that what it got is no frame: the same will be so again.
    fn is_about_the_frame(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == tonic::Code::InvalidArgument)
    }
}
