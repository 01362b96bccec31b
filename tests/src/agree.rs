//! A pair under load, and what its ledger must say in the end: the client's journal held against the records.

use crate::checker::Verdict;
use crate::client::Target;
use crate::journal::{Entry, Journal};
use crate::load::{Report, open};
use crate::pair::Pair;
use crate::wait::until;
use anyhow::{Context, Result};
use dormouse_controller::ledger::{Conservation, Filter, Ledger, RecordRow, RecordsQuery};
use dormouse_core::price::PricePlan;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest time for calls to be answered again after something was done, and for the ledger to have every record.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Calls that must be answered before what was done counts as survived.
const ALIVE: usize = 5;

/// Calls at a fixed rate, all of them in a journal.
#[derive(Debug)]
pub struct Load {
    journal: Arc<Journal>,
    stop: CancellationToken,
    running: JoinHandle<Report>,
}

impl Load {
    /// Waits for the pair's first answer, by calls of the journal (so it has every call there ever was), and begins;
    /// `folder` is where the journal is kept as a file.
    ///
    /// # Errors
    /// When no call is answered.
    pub async fn begin(pair: &Pair, folder: &Path, rate: u32) -> Result<Self> {
        let journal = Arc::new(Journal::to_file(&folder.join("journal"))?);
        until("the first call is answered", LIMIT, || async {
            let began = Instant::now();
            let result = pair.target("/").call(0).await;
            let entry = Entry::of(0, Duration::ZERO, began.elapsed(), &result);
            journal.add(entry.clone());
            anyhow::ensure!(entry.status == 200, "{entry:?}");
            Ok(())
        })
        .await?;
        let stop = CancellationToken::new();
        let running = tokio::spawn(steadily(pair.target("/delay?ms=20").keyed(), rate, stop.clone(), journal.clone()));
        Ok(Self { journal, stop, running })
    }

    /// Calls that must have a record.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.journal.entries().iter().filter(|e| e.must_be_recorded()).count()
    }

    /// One more call, which must be answered by the function.
    ///
    /// # Errors
    /// When it is not.
    pub async fn call(&self, target: &Target) -> Result<()> {
        let began = Instant::now();
        let result = target.call(0).await;
        let entry = Entry::of(0, Duration::ZERO, began.elapsed(), &result);
        self.journal.add(entry.clone());
        anyhow::ensure!(entry.status == 200, "{entry:?}");
        Ok(())
    }

    /// Every call so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.journal.entries()
    }

    /// Waits until calls are answered that were not before.
    ///
    /// # Errors
    /// When they are not.
    pub async fn goes_on(&self, after: &str) -> Result<()> {
        let before = self.answered();
        until(&format!("calls are answered after {after}"), LIMIT, || async {
            let more = self.answered() - before;
            anyhow::ensure!(more >= ALIVE, "{more} of {ALIVE}");
            Ok(())
        })
        .await
    }

    /// Makes no more calls and waits for those under way.
    ///
    /// # Errors
    /// When the load failed.
    pub async fn end(self) -> Result<(Report, Vec<Entry>)> {
        self.stop.cancel();
        let report = self.running.await?;
        Ok((report, self.journal.entries()))
    }
}

async fn steadily(target: Target, rate: u32, stop: CancellationToken, journal: Arc<Journal>) -> Report {
    open(&target, rate, stop, journal).await
}

/// What client and ledger agree about.
#[derive(Debug)]
pub struct Agreed {
    /// The comparison.
    pub verdict: Verdict,
    /// What the ledger says of itself.
    pub conservation: Conservation,
    /// Every record.
    pub records: Vec<RecordRow>,
}

/// Waits until the ledger agrees with the journal, ends the pair so that everything is handed over, and looks whether the
/// ledger still does, and agrees with itself.
///
/// # Errors
/// What is wrong.
pub async fn agree(pair: &mut Pair, entries: &[Entry]) -> Result<Agreed> {
    let verdict = until("the ledger agrees with the client", LIMIT, || async {
        let verdict = Verdict::of(entries, &pair.recorded().await?);
        anyhow::ensure!(verdict.good(), "{verdict}");
        Ok(verdict)
    })
    .await?;
    let usage = pair.usage.get(&format!("/v1/usage?{}", crate::usage::lately())).await?;
    let counted: u64 = usage["rows"].as_array().context("no rows")?.iter().filter_map(|r| r["calls"].as_u64()).sum();
    anyhow::ensure!(counted >= verdict.recorded, "usage counts {counted}, recorded are {}", verdict.recorded);

    let ledger = Ledger::open(pair.end().await?, PricePlan::default()).await?;
    let conservation = ledger.verify().await?;
    anyhow::ensure!(conservation.holds(), "{conservation:?}");
    let query = RecordsQuery { times_us: 0..i64::MAX, filter: Filter::default(), after: None, limit: 1_000_000 };
    let page = ledger.records(&query).await?;
    let ids: Vec<String> = page.rows.iter().map(|r| r.request_id.to_string()).collect();
    let verdict = Verdict::of(entries, &ids);
    anyhow::ensure!(verdict.good(), "after both ended: {verdict}");
    Ok(Agreed { verdict, conservation, records: page.rows })
}
