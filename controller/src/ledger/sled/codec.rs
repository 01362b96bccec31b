//! Values of the ledger's tree as bytes: varints, texts with their length, and sums.

use super::CorruptValue;
use dormouse_core::price::Metering;
use dormouse_core::record::{Outcome, Subject};
use dormouse_core::usage::{OutcomeSum, UsageSum};

/// Version of [`encode_sum`]'s layout.
const SUM_VERSION: u8 = 2;
/// The one before, without the last two of the times.
const SUM_BEFORE: u8 = 1;

/// What rollups are kept by: a subject without what changes from revision to revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId {
    /// The Function's uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who pays.
    pub tenant: String,
}

/// A subject as the dictionary keeps it: its function by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredSubject {
    pub(super) function: u32,
    pub(super) memory_mib: u32,
    pub(super) cpu_millis: u32,
    pub(super) revision: String,
}

impl FunctionId {
    /// The function of a subject.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        Self {
            uid: subject.function_uid.clone(),
            namespace: subject.namespace.clone(),
            name: subject.name.clone(),
            tenant: subject.tenant.clone(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for text in [&self.uid, &self.namespace, &self.name, &self.tenant] {
            put_text(&mut out, text);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CorruptValue> {
        let mut reader = Reader { bytes, what: "function" };
        let [uid, namespace, name, tenant] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
        reader.end()?;
        Ok(Self { uid, namespace, name, tenant })
    }
}

impl StoredSubject {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.function, self.memory_mib, self.cpu_millis] {
            put(&mut out, u128::from(number));
        }
        put_text(&mut out, &self.revision);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CorruptValue> {
        let mut reader = Reader { bytes, what: "subject" };
        let [function, memory_mib, cpu_millis] = [reader.number()?, reader.number()?, reader.number()?];
        let revision = reader.text()?;
        reader.end()?;
        Ok(Self { function, memory_mib, cpu_millis, revision })
    }
}

/// A sum: outcomes without calls take no bytes. Typically 27 to 52 bytes.
pub(super) fn encode_sum(sum: &UsageSum) -> Vec<u8> {
    let UsageSum { by_outcome, cold, wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes } =
        sum;
    let mut out = vec![SUM_VERSION];
    put(&mut out, u128::from(*cold));
    for number in [wait_us, start_us, run_us, request_bytes, response_bytes, claim_us, connect_us] {
        put(&mut out, *number);
    }
    for (number, outcome) in by_outcome.iter().enumerate().filter(|(_, o)| o.calls > 0) {
        out.push(number as u8);
        for number in [u128::from(outcome.calls), outcome.billed_ms, outcome.mib_ms] {
            put(&mut out, number);
        }
    }
    out
}

/// Reads [`encode_sum`]'s bytes.
pub(super) fn decode_sum(bytes: &[u8]) -> Result<UsageSum, CorruptValue> {
    let mut reader = Reader { bytes, what: "rollup" };
    let times = match reader.byte()? {
        SUM_VERSION => 7,
        SUM_BEFORE => 5,
        _ => return Err(CorruptValue("rollup")),
    };
    let mut sum = UsageSum { cold: reader.number()?, ..UsageSum::default() };
    let UsageSum { wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes, .. } = &mut sum;
    let slots = [wait_us, start_us, run_us, request_bytes, response_bytes, claim_us, connect_us];
    for slot in slots.into_iter().take(times) {
        *slot = reader.take()?;
    }
    while !reader.bytes.is_empty() {
        let number = usize::from(reader.byte()?);
        let slot = sum.by_outcome.get_mut(number).filter(|_| number < Outcome::ALL.len());
        *slot.ok_or(CorruptValue("rollup"))? =
            OutcomeSum { calls: reader.number()?, billed_ms: reader.take()?, mib_ms: reader.take()? };
    }
    Ok(sum)
}

/// A metering rule: nine bytes.
pub(super) fn encode_rule(rule: &Metering) -> Vec<u8> {
    [&rule.step_ms.to_be_bytes()[..], &rule.min_ms.to_be_bytes(), &[u8::from(rule.start)]].concat()
}

/// Reads [`encode_rule`]'s bytes.
pub(super) fn decode_rule(bytes: &[u8]) -> Result<Metering, CorruptValue> {
    match bytes.split_first_chunk::<4>().map(|(step, rest)| (step, rest.split_first_chunk::<4>())) {
        Some((step, Some((min, &[start @ (0 | 1)])))) => {
            Ok(Metering { step_ms: u32::from_be_bytes(*step), min_ms: u32::from_be_bytes(*min), start: start == 1 })
        }
        _ => Err(CorruptValue("metering rule")),
    }
}

fn put(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u128);
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, CorruptValue> {
        let (&byte, rest) = self.bytes.split_first().ok_or(CorruptValue(self.what))?;
        self.bytes = rest;
        Ok(byte)
    }

    fn take(&mut self) -> Result<u128, CorruptValue> {
        let mut value = 0u128;
        // 19 groups of 7 bits hold 133: the last may carry 2 of them.
        for group in 0..19 {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if group == 18 && part > 3 {
                break;
            }
            value |= part << (7 * group);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CorruptValue(self.what))
    }

    fn number<T: TryFrom<u128>>(&mut self) -> Result<T, CorruptValue> {
        T::try_from(self.take()?).map_err(|_| CorruptValue(self.what))
    }

    fn text(&mut self) -> Result<String, CorruptValue> {
        let len: usize = self.number()?;
        let (text, rest) = self.bytes.split_at_checked(len).ok_or(CorruptValue(self.what))?;
        self.bytes = rest;
        String::from_utf8(text.to_vec()).map_err(|_| CorruptValue(self.what))
    }

    fn end(&self) -> Result<(), CorruptValue> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CorruptValue(self.what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_sum() -> impl Strategy<Value = UsageSum> {
        let outcome = (1u64.., any::<u128>(), any::<u128>());
        let outcome = outcome.prop_map(|(calls, billed_ms, mib_ms)| OutcomeSum { calls, billed_ms, mib_ms });
        let outcomes = prop::collection::vec(prop::option::of(outcome), 6);
        (outcomes, any::<u64>(), any::<[u128; 7]>()).prop_map(|(outcomes, cold, rest)| {
            let [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] = rest;
            let times = UsageSum { wait_us, claim_us, start_us, connect_us, run_us, ..UsageSum::default() };
            let mut sum = UsageSum { cold, request_bytes, response_bytes, ..times };
            for (slot, outcome) in sum.by_outcome.iter_mut().zip(outcomes) {
                *slot = outcome.unwrap_or_default();
            }
            sum
        })
    }

    #[test]
    fn sums_of_the_version_before_are_read() {
        let times = UsageSum { wait_us: 1, start_us: 2, run_us: 3, ..UsageSum::default() };
        let mut sum = UsageSum { cold: 7, request_bytes: 4, response_bytes: 5, ..times };
        sum.by_outcome[0] = OutcomeSum { calls: 6, billed_ms: 8, mib_ms: 9 };
        assert_eq!(decode_sum(&[SUM_BEFORE, 7, 1, 2, 3, 4, 5, 0, 6, 8, 9]), Ok(sum));
    }

    proptest! {
        #[test]
        fn values_read_back(sum in any_sum(), texts in any::<[String; 4]>(), numbers in any::<[u32; 3]>(), start in any::<bool>()) {
            prop_assert_eq!(decode_sum(&encode_sum(&sum)), Ok(sum));
            let [uid, namespace, name, tenant] = texts;
            let subject = StoredSubject { function: numbers[0], memory_mib: numbers[1], cpu_millis: numbers[2], revision: uid.clone() };
            prop_assert_eq!(StoredSubject::decode(&subject.encode()), Ok(subject));
            let function = FunctionId { uid, namespace, name, tenant };
            prop_assert_eq!(FunctionId::decode(&function.encode()), Ok(function));
            let rule = Metering { step_ms: numbers[0], min_ms: numbers[1], start };
            prop_assert_eq!(decode_rule(&encode_rule(&rule)), Ok(rule));
        }

        #[test]
        fn any_bytes_are_refused_or_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (decode_sum(&bytes).is_ok(), FunctionId::decode(&bytes).is_ok(), StoredSubject::decode(&bytes).is_ok(), decode_rule(&bytes).is_ok());
        }
    }
}
