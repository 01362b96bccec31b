//! Closed months: what was told of them, and what came to them late.

use super::super::reversals::Entry;
use super::super::store::Closed;
use super::super::{Month, ReadError};
use super::apply::Applier;
use super::dict;
use super::key::{self, Dictionary};
use super::open::Folder;
use crate::ledger::codec::CorruptValue;
use sled::Batch;
use std::collections::HashSet;
use std::ops::Range;

/// Longest part of a document: values of sled stay at most 4 KiB.
const PART: usize = 4096;

impl Applier {
    /// Moves the bounds; durable after [`Applier::commit`].
    pub(super) fn close(&mut self, closed: Closed) -> Result<(), ReadError> {
        self.write()?;
        let now = Closed {
            before: self.closed.before.max(closed.before),
            told_before: self.closed.told_before.max(closed.told_before),
        };
        if now != self.closed {
            self.store.db.insert(key::CLOSED, encode_closed(now))?;
            self.closed = now;
            self.unsynced = true;
        }
        Ok(())
    }

    /// Keeps what says that records are taken back, of each the first; durable after [`Applier::commit`].
    pub(super) fn reverse(&mut self, entries: &[Entry]) -> Result<Vec<bool>, ReadError> {
        self.write()?;
        let (mut batch, mut kept, mut new) = (Batch::default(), HashSet::new(), Vec::with_capacity(entries.len()));
        for entry in entries {
            let key = key::reversal(entry);
            let is_new = !self.store.db.contains_key(key)? && kept.insert(key);
            if is_new {
                batch.insert(&key, &*entry.body);
                if entry.hour < self.closed.before {
                    batch.insert(&key::late(entry.function, Month::of_hour(entry.hour)), &[]);
                }
            }
            new.push(is_new);
        }
        self.store.db.apply_batch(batch)?;
        self.unsynced = true;
        Ok(new)
    }

    /// Keeps a document, if there is none; durable after [`Applier::commit`].
    pub(super) fn keep_document(&mut self, tenant: &str, month: Month, document: &[u8]) -> Result<(), ReadError> {
        let mut batch = Batch::default();
        let mut next = dict::next_number(&self.store, Dictionary::Tenant)?;
        let tenant = dict::number_of(&self.store, &mut batch, Dictionary::Tenant, tenant.as_bytes(), &mut next)?;
        if self.store.db.contains_key(key::document(tenant, month, 0))? {
            return Ok(());
        }
        put_document(&mut batch, tenant, month, document)?;
        self.store.db.apply_batch(batch)?;
        self.unsynced = true;
        Ok(())
    }
}

pub(super) fn encode_closed(Closed { before, told_before }: Closed) -> Vec<u8> {
    [before, told_before].map(u32::to_be_bytes).concat()
}

/// Adds a document in its parts.
pub(super) fn put_document(batch: &mut Batch, tenant: u32, month: Month, document: &[u8]) -> Result<(), ReadError> {
    let parts = document.chunks(PART);
    if parts.len() > usize::from(u8::MAX) {
        return Err(CorruptValue("document: it is too long").into());
    }
    (0..).zip(parts).for_each(|(number, part)| batch.insert(&key::document(tenant, month, number), part));
    Ok(())
}

/// What is closed.
pub(super) fn closed(folder: &Folder) -> Result<Closed, ReadError> {
    let Some(value) = folder.db.get(key::CLOSED)? else { return Ok(Closed::default()) };
    match (value.first_chunk(), value.last_chunk(), value.len()) {
        (Some(before), Some(told), 8) => {
            Ok(Closed { before: u32::from_be_bytes(*before), told_before: u32::from_be_bytes(*told) })
        }
        _ => Err(CorruptValue("note of what is closed").into()),
    }
}

/// What came late.
pub(super) fn late(folder: &Folder) -> Result<Vec<(u32, Month)>, ReadError> {
    let read =
        |key: Result<sled::IVec, sled::Error>| Ok(key::read_late(&key?).ok_or(CorruptValue("note of what is late"))?);
    folder.db.scan_prefix(key::LATE_ALL).keys().map(read).collect()
}

/// What was kept of functions in a period.
pub(super) fn reversals(folder: &Folder, functions: &[u32], hours: &Range<u32>) -> Result<Vec<Entry>, ReadError> {
    let mut found = Vec::new();
    for &function in functions {
        for entry in
            folder.db.range(key::reversals_from(function, hours.start)..key::reversals_from(function, hours.end))
        {
            found.push(read_reversal(entry)?);
        }
    }
    Ok(found)
}

/// All of it.
pub(super) fn all_reversals(folder: &Folder) -> impl Iterator<Item = Result<Entry, ReadError>> {
    folder.db.scan_prefix(key::REVERSALS).map(read_reversal)
}

fn read_reversal(entry: Result<(sled::IVec, sled::IVec), sled::Error>) -> Result<Entry, ReadError> {
    let (key, body) = entry?;
    Ok(key::read_reversal(&key, &body).ok_or(CorruptValue("reversal"))?)
}

/// A tenant's documents.
pub(super) fn documents(folder: &Folder, tenant: &str) -> Result<Vec<(Month, Vec<u8>)>, ReadError> {
    let mut documents: Vec<(Month, Vec<u8>)> = Vec::new();
    let Some(tenant) = dict::find(folder, Dictionary::Tenant, tenant.as_bytes())? else { return Ok(documents) };
    for entry in folder.db.scan_prefix(key::documents(tenant)) {
        let (key, part) = entry?;
        let (month, _) = key::read_document(&key).ok_or(CorruptValue("document"))?;
        match documents.last_mut().filter(|(last, _)| *last == month) {
            Some((_, document)) => document.extend_from_slice(&part),
            None => documents.push((month, part.to_vec())),
        }
    }
    Ok(documents)
}
