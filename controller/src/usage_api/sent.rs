//! Answers that are sent while they are made: however long one is, little of it is held.

use super::error::ApiError;
use crate::table::WriteError;
use axum::body::{Body, Bytes};
use futures::Stream;
use std::io;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Such answers under way at once. Each holds three parts as bytes (one is made, one waits, one is sent); of statements in the
/// form of FOCUS a part is 1,000 functions' hours x 4 lines x 1 KB, 12 MB in all; beside them a Parquet group's 16 MB, or
/// what the parts of sums are made of (see [`super::all`]).
pub(super) const AT_ONCE: usize = 2;
/// How long an asker may take for a part.
const STALL: Duration = Duration::from_secs(60);
/// How long for all of it: who reads slowly holds what others wait for, and rights are those of the beginning. 3 GB, a
/// month of a thousand busy functions, at 5 MB/s.
const LONGEST: Duration = Duration::from_secs(600);

/// Takes the parts of an answer; nothing stands for its end.
pub(super) struct Sender(mpsc::Sender<Option<Bytes>>);

/// The body that `make` makes, for as long as somebody reads it, holding its room.
pub(super) fn body<F>(room: OwnedSemaphorePermit, make: impl FnOnce(Sender) -> F) -> Body
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let making = make(Sender(sender));
    tokio::spawn(async move {
        let _room = room;
        match tokio::time::timeout(LONGEST, making).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::error!(error = ?why, "an answer broke off"),
            Err(_) => tracing::warn!("an answer broke off: it was not read within {} s", LONGEST.as_secs()),
        }
    });
    Body::from_stream(whole(receiver))
}

/// What is sent, up to its end. Where that does not come, who reads is told that it broke off: half an answer is none to
/// anybody.
fn whole(parts: mpsc::Receiver<Option<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::unfold(Some(parts), |parts| async {
        let mut parts = parts?;
        match parts.recv().await {
            Some(Some(bytes)) => Some((Ok(bytes), Some(parts))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the answer broke off: see the controller's log")), None)),
        }
    })
}

impl Sender {
    /// A part that a sheet makes of rows; answers the sheet, or nothing when nobody reads any longer. Thousands of rows are a
    /// moment's work: not on a thread that others wait for.
    pub(super) async fn made<S: Send + 'static>(
        &self,
        mut sheet: S,
        make: impl FnOnce(&mut S) -> Result<Vec<u8>, WriteError> + Send + 'static,
    ) -> Result<Option<S>, ApiError> {
        let made = tokio::task::spawn_blocking(move || {
            let bytes = make(&mut sheet);
            (sheet, bytes)
        });
        let (sheet, bytes) = made.await.map_err(|_| ApiError::Internal)?;
        Ok(self.part(bytes?).await.then_some(sheet))
    }

    /// False when nobody reads any longer.
    async fn part(&self, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() {
            return !self.0.is_closed();
        }
        let sent = tokio::time::timeout(STALL, self.0.send(Some(bytes.into())));
        let sent = sent.await;
        if sent.is_err() {
            tracing::warn!("an answer broke off: a part of it was not read within {} s", STALL.as_secs());
        }
        matches!(sent, Ok(Ok(())))
    }

    /// The last part, and that it is the last one.
    pub(super) async fn end(self, bytes: Vec<u8>) {
        if self.part(bytes).await {
            let _ = tokio::time::timeout(STALL, self.0.send(None)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn an_answer_whose_end_does_not_come_has_failed() {
        for whole_one in [true, false] {
            let (sender, receiver) = mpsc::channel(4);
            sender.send(Some(Bytes::from_static(b"a row\r\n"))).await.unwrap();
            if whole_one {
                sender.send(None).await.unwrap();
            }
            drop(sender);
            let read: io::Result<Vec<Bytes>> = whole(receiver).try_collect().await;
            assert_eq!(read.is_ok(), whole_one);
        }
    }
}
