//! The one thread that writes: takes what waits, applies it, makes it durable, then answers everyone.

use super::super::frame::Checked;
use super::super::retention::Bounds;
use super::super::reversals::Entry;
use super::super::store::{Closed, Marks};
use super::super::{Appended, Conservation, Month, ReadError, WarmSpan};
use super::Failure;
use super::apply::Applier;
use super::open::panic_text;
use super::verify;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Records of one group, that is of one fdatasync.
const MAX_GROUP: usize = 65_536;
/// How long a small group waits for more: frames that are under way join it, and sled writes less.
const GATHER: Duration = Duration::from_millis(1);
/// A group of this size waits for nobody.
const SMALL_GROUP: usize = 2_048;

/// What the writer is asked for.
pub(super) enum Command {
    /// Apply a frame.
    Append { frame: Checked, done: oneshot::Sender<Appended> },
    /// Count warm time.
    Warm { spans: Vec<WarmSpan>, done: oneshot::Sender<()> },
    /// Take a step in giving up what is kept no longer; answers whether there is more of it.
    Tidy { bounds: Bounds, marks: Option<Arc<Marks>>, done: oneshot::Sender<Result<bool, String>> },
    /// Say how far epochs were applied; what comes later goes into blocks of its own.
    Mark { done: oneshot::Sender<Marks> },
    /// Close months.
    Close { closed: Closed, done: oneshot::Sender<()> },
    /// Keep a tenant's document of a month.
    Document { tenant: String, month: Month, document: Vec<u8>, done: oneshot::Sender<Result<(), String>> },
    /// Keep what says that records are taken back.
    Reverse { entries: Vec<Entry>, done: oneshot::Sender<Vec<bool>> },
    /// Compare everything, with no write in between.
    Verify { done: oneshot::Sender<Result<Conservation, ReadError>> },
}

/// Until the queue closes or a write fails. After a failed write sled's memory and file may differ: nothing more is
/// acknowledged, and who waits is told by the closed channel.
pub(super) fn run(mut commands: mpsc::Receiver<Command>, mut applier: Applier, failure: &Failure) {
    while let Some(first) = commands.blocking_recv() {
        let group = gather(first, &mut commands);
        let result = catch_unwind(AssertUnwindSafe(|| write_group(group, &mut applier)));
        let why = match result {
            Ok(Ok(())) => continue,
            Ok(Err(e)) => describe(&e),
            Err(panic) => format!("the store panicked: {}", panic_text(&*panic)),
        };
        failure.set(&format!("a write failed: {why}"));
        tracing::error!(dir = %applier.store.dir.display(), why, "the ledger failed and takes no more records");
        return;
    }
}

fn describe(error: &ReadError) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// An old value that is damaged is told to who asked for it to be touched, and changes nothing: it ends no writer.
fn damage<T>(result: Result<T, ReadError>) -> Result<Result<T, String>, ReadError> {
    match result {
        Err(ReadError::Corrupt(what)) => {
            tracing::error!(what, "the ledger has a damaged value");
            Ok(Err(what))
        }
        other => other.map(Ok),
    }
}

fn gather(first: Command, commands: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut group = vec![first];
    let size = |c: &Command| match c {
        Command::Append { frame, .. } => frame.records.len(),
        Command::Warm { spans, .. } => spans.len(),
        _ => MAX_GROUP,
    };
    let mut records = size(&group[0]);
    let mut waited = false;
    while records < MAX_GROUP {
        match commands.try_recv() {
            Ok(command) => {
                records += size(&command);
                group.push(command);
            }
            Err(_) if records < SMALL_GROUP && !waited => {
                waited = true;
                std::thread::sleep(GATHER);
            }
            Err(_) => break,
        }
    }
    group
}

fn write_group(group: Vec<Command>, applier: &mut Applier) -> Result<(), ReadError> {
    let mut answers = Vec::with_capacity(group.len());
    let (mut checks, mut kept, mut tidied, mut marked, mut documents, mut reversed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for command in group {
        match command {
            Command::Append { frame, done } => answers.push((applier.apply(&frame)?, done, frame)),
            Command::Warm { spans, done } => {
                applier.keep_warm(&spans)?;
                kept.push(done);
            }
            Command::Close { closed, done } => {
                applier.close(closed)?;
                kept.push(done);
            }
            Command::Document { tenant, month, document, done } => {
                documents.push((damage(applier.keep_document(&tenant, month, &document))?, done));
            }
            Command::Tidy { bounds, marks, done } => {
                tidied.push((damage(applier.tidy(bounds, marks.as_deref()))?, done))
            }
            Command::Reverse { entries, done } => reversed.push((applier.reverse(&entries)?, done)),
            Command::Mark { done } => marked.push((applier.mark()?, done)),
            Command::Verify { done } => checks.push(done),
        }
    }
    applier.commit()?;
    // With its frame goes the room that it held.
    for (appended, done, _frame) in answers {
        // Who no longer waits will send the frame again and be told of a duplicate.
        let _ = done.send(appended);
    }
    for done in kept {
        let _ = done.send(());
    }
    for (told, done) in documents {
        let _ = done.send(told);
    }
    for (new, done) in reversed {
        let _ = done.send(new);
    }
    for (marks, done) in marked {
        let _ = done.send(marks);
    }
    for (more, done) in tidied {
        let _ = done.send(more);
    }
    for done in checks {
        let _ = done.send(verify::whole(&applier.store));
    }
    Ok(())
}
