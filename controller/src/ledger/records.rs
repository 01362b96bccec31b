//! Questions for single records.

use super::store::{Scan, Store};
use super::usage::Filter;
use super::{Page, ReadError};
use dormouse_core::RequestId;
use dormouse_core::record::{CallRecord, Subject};
use std::ops::Range;

/// A question for single records.
#[derive(Clone, Debug)]
pub struct RecordsQuery {
    /// By the time of the first byte, microseconds since 1970 UTC, the end not included.
    pub times_us: Range<i64>,
    /// Which functions' records.
    pub filter: Filter,
    /// Only records after this one.
    pub after: Option<RecordKey>,
    /// Most rows.
    pub limit: usize,
}

/// Records are in this order: by the hour they are billed in, then as each activator's epoch wrote them. A record that
/// comes late is behind those of its epoch that came before: no page ever shows a record twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// Hours since 1970 UTC.
    pub hour: u32,
    /// The activator's id.
    pub activator: u64,
    /// Its epoch.
    pub epoch: u32,
    /// First sequence of the block that holds the record; 0 in a store without blocks.
    pub block: u64,
    /// The record's own sequence.
    pub seq: u64,
}

/// One record with everything it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// Its place.
    pub key: RecordKey,
    /// The id the caller was given.
    pub request_id: RequestId,
    /// What ran.
    pub subject: Subject,
    /// What it used; its `subject` is the ledger's number. Its `first` is taken back when another call was billed the
    /// instance's start.
    pub record: CallRecord,
}

/// Answers a question. A page may be short, even empty, and yet have a next one: the work for one page is bounded.
pub(super) async fn query(store: &dyn Store, query: &RecordsQuery) -> Result<Page<RecordRow, RecordKey>, ReadError> {
    let nothing = Ok(Page { rows: Vec::new(), next: None });
    if query.times_us.is_empty() || query.limit == 0 {
        return nothing;
    }
    let mut functions = None;
    if !query.filter.is_empty() {
        let all = store.functions().await?;
        functions = Some(all.into_iter().filter(|(_, id)| query.filter.takes(id)).map(|(number, _)| number).collect());
    }
    if functions.as_ref().is_some_and(std::collections::HashSet::is_empty) {
        return nothing;
    }
    let RecordsQuery { times_us, after, limit, .. } = query.clone();
    store.records(Scan { times_us, functions, after, limit }).await
}
