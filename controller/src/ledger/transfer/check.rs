//! What an item of an export may say: no more than a ledger would have taken from an activator.

use super::Item;
use super::item::SubjectItem;
use crate::ledger::FunctionId;
use crate::ledger::codec::{CorruptValue, encode_sum};
use dormouse_core::usage::UsageSum;
use std::collections::HashSet;

/// Longest text, as in a frame.
const MAX_TEXT: usize = 253;
/// Longest sum, or reversal, as bytes: sled's values are no longer.
const MAX_SUM: usize = 4096;

/// The numbers that items before have said the meaning of.
#[derive(Debug, Default)]
pub(super) struct Names {
    functions: HashSet<u32>,
    subjects: HashSet<u32>,
}

impl Names {
    /// Fails for what no ledger would have given.
    pub(super) fn check(&mut self, item: &Item) -> Result<(), CorruptValue> {
        let good = match item {
            Item::Function(number, FunctionId { uid, namespace, name, tenant }) => {
                texts([uid, namespace, name, tenant]) && self.functions.insert(*number)
            }
            Item::Subject(SubjectItem { number, subject, .. }) => {
                texts([&subject.revision, &subject.instance])
                    && self.functions.contains(&subject.function)
                    && self.subjects.insert(*number)
            }
            Item::Records { first_seq, records, .. } => {
                *first_seq > 0
                    && first_seq.checked_add(records.len() as u64).is_some()
                    && records.iter().all(|record| self.subjects.contains(&record.subject))
            }
            Item::Sum { function, sum, .. } => self.functions.contains(function) && is_sum(sum),
            Item::Late { function, .. } => self.functions.contains(function),
            Item::Reversal(entry) => {
                self.functions.contains(&entry.function) && entry.is_good() && entry.body.len() <= MAX_SUM
            }
            Item::Document { tenant, .. } => texts([tenant]),
            Item::Epoch { watermark, forgotten, .. } => forgotten <= watermark && *watermark < u64::MAX / 2,
            Item::State { .. } | Item::End => true,
        };
        good.then_some(()).ok_or(CorruptValue("item"))
    }
}

fn texts<const N: usize>(texts: [&String; N]) -> bool {
    texts.iter().all(|text| !text.is_empty() && text.len() <= MAX_TEXT)
}

fn is_sum(sum: &UsageSum) -> bool {
    let steps = sum.classes.iter().flat_map(|class| class.times.iter().map(|(rule, _)| rule.step_ms));
    steps.into_iter().all(|step_ms| step_ms > 0) && encode_sum(sum).len() <= MAX_SUM
}
