//! Values of a ledger as bytes, in sled's tree and in an export: varints, texts with their length, and sums.

use super::{FunctionId, ReadError};
use dormouse_core::price::Metering;
use dormouse_core::usage::{Class, ClassSum, Time, UsageSum, Warm};

/// Version of [`encode_sum`]'s layout.
const SUM_VERSION: u8 = 1;

/// A stored value that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored {0} is damaged")]
pub(super) struct CorruptValue(pub(super) &'static str);

impl From<CorruptValue> for ReadError {
    fn from(value: CorruptValue) -> Self {
        Self::Corrupt(value.to_string())
    }
}

/// A subject as the dictionary keeps it: its function by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredSubject {
    pub(super) function: u32,
    pub(super) memory_mib: u32,
    pub(super) cpu_millis: u32,
    pub(super) revision: String,
    pub(super) instance: String,
}

pub(super) fn encode_function(function: &FunctionId) -> Vec<u8> {
    let mut out = Vec::new();
    for text in [&function.uid, &function.namespace, &function.name, &function.tenant] {
        put_text(&mut out, text);
    }
    out
}

pub(super) fn decode_function(bytes: &[u8]) -> Result<FunctionId, CorruptValue> {
    let mut reader = Reader { bytes, what: "function" };
    let [uid, namespace, name, tenant] = [reader.text()?, reader.text()?, reader.text()?, reader.text()?];
    reader.end()?;
    Ok(FunctionId { uid, namespace, name, tenant })
}

impl StoredSubject {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.function, self.memory_mib, self.cpu_millis] {
            put(&mut out, u128::from(number));
        }
        put_text(&mut out, &self.revision);
        put_text(&mut out, &self.instance);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CorruptValue> {
        let mut reader = Reader { bytes, what: "subject" };
        let [function, memory_mib, cpu_millis] = [reader.number()?, reader.number()?, reader.number()?];
        let [revision, instance] = [reader.text()?, reader.text()?];
        reader.end()?;
        Ok(Self { function, memory_mib, cpu_millis, revision, instance })
    }
}

/// A sum, layout version first. Typically 40 to 70 bytes: one or two classes by one or two rules.
pub(super) fn encode_sum(sum: &UsageSum) -> Vec<u8> {
    let UsageSum { classes, cold, wait_us, claim_us, start_us, connect_us, run_us, .. } = sum;
    let UsageSum { request_bytes, response_bytes, warm, .. } = sum;
    let mut out = vec![SUM_VERSION];
    put(&mut out, u128::from(*cold));
    for number in [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] {
        put(&mut out, *number);
    }
    let Warm { mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms } = warm;
    if *warm == Warm::default() {
        out.push(0);
    } else {
        out.push(1);
        [mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms].into_iter().for_each(|number| put(&mut out, *number));
    }
    for ClassSum { class, calls, times } in classes {
        out.push(class.number());
        put(&mut out, u128::from(*calls));
        put(&mut out, times.len() as u128);
        for (rule, time) in times {
            let Metering { step_ms, min_ms, start } = rule;
            [*step_ms, *min_ms, u32::from(*start)].into_iter().for_each(|number| put(&mut out, u128::from(number)));
            [u128::from(time.calls), time.ms, time.mib_ms, time.mcpu_ms]
                .into_iter()
                .for_each(|number| put(&mut out, number));
        }
    }
    out
}

/// Reads [`encode_sum`]'s bytes.
pub(super) fn decode_sum(bytes: &[u8]) -> Result<UsageSum, CorruptValue> {
    let mut reader = Reader { bytes, what: "sum" };
    if reader.byte()? != SUM_VERSION {
        return Err(CorruptValue("sum"));
    }
    let mut sum = UsageSum { cold: reader.number()?, ..UsageSum::default() };
    let UsageSum { wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes, .. } = &mut sum;
    for slot in [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] {
        *slot = reader.take()?;
    }
    if reader.flag()? {
        let Warm { mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms } = &mut sum.warm;
        for slot in [mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms] {
            *slot = reader.take()?;
        }
    }
    while !reader.bytes.is_empty() {
        let class = Class::from_number(reader.byte()?).ok_or(CorruptValue("sum"))?;
        let (calls, count) = (reader.number()?, reader.number::<u8>()?);
        let times = (0..count).map(|_| reader.time()).collect::<Result<_, _>>()?;
        sum.classes.push(ClassSum { class, calls, times });
    }
    let sorted = |sum: &UsageSum| sum.classes.is_sorted_by(|a, b| a.class < b.class);
    if sorted(&sum) { Ok(sum) } else { Err(CorruptValue("sum")) }
}

pub(super) fn put(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u128);
    out.extend_from_slice(text.as_bytes());
}

/// Reads what [`put`] and [`put_text`] wrote.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    /// What is read, for the error.
    pub(super) what: &'static str,
}

impl Reader<'_> {
    pub(super) fn byte(&mut self) -> Result<u8, CorruptValue> {
        let (&byte, rest) = self.bytes.split_first().ok_or(CorruptValue(self.what))?;
        self.bytes = rest;
        Ok(byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, CorruptValue> {
        match self.byte()? {
            byte @ (0 | 1) => Ok(byte == 1),
            _ => Err(CorruptValue(self.what)),
        }
    }

    fn time(&mut self) -> Result<(Metering, Time), CorruptValue> {
        let rule = Metering { step_ms: self.number()?, min_ms: self.number()?, start: self.flag()? };
        let calls = self.number()?;
        Ok((rule, Time { calls, ms: self.take()?, mib_ms: self.take()?, mcpu_ms: self.take()? }))
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

    pub(super) fn number<T: TryFrom<u128>>(&mut self) -> Result<T, CorruptValue> {
        T::try_from(self.take()?).map_err(|_| CorruptValue(self.what))
    }

    pub(super) fn text(&mut self) -> Result<String, CorruptValue> {
        let len: usize = self.number()?;
        let (text, rest) = self.bytes.split_at_checked(len).ok_or(CorruptValue(self.what))?;
        self.bytes = rest;
        String::from_utf8(text.to_vec()).map_err(|_| CorruptValue(self.what))
    }

    pub(super) fn end(&self) -> Result<(), CorruptValue> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CorruptValue(self.what)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_sum() -> impl Strategy<Value = UsageSum> {
        let rule = (any::<u32>(), any::<u32>(), any::<bool>());
        let rule = rule.prop_map(|(step_ms, min_ms, start)| Metering { step_ms, min_ms, start });
        let time = (any::<u64>(), any::<[u128; 3]>());
        let time = time.prop_map(|(calls, [ms, mib_ms, mcpu_ms])| Time { calls, ms, mib_ms, mcpu_ms });
        let times = prop::collection::btree_map(rule, time, 0..4).prop_map(|times| times.into_iter().collect());
        let class = (0u8..24).prop_map(|number| Class::from_number(number).unwrap());
        let classes = prop::collection::btree_map(class, (any::<u64>(), times), 0..5);
        (classes, any::<u64>(), any::<[u128; 7]>(), any::<[u64; 4]>()).prop_map(|(classes, cold, rest, warm)| {
            let [wait_us, claim_us, start_us, connect_us, run_us, request_bytes, response_bytes] = rest;
            let [mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms] = warm.map(u128::from);
            let sum = |(class, (calls, times))| ClassSum { class, calls, times };
            UsageSum {
                classes: classes.into_iter().map(sum).collect(),
                cold,
                wait_us,
                claim_us,
                start_us,
                connect_us,
                run_us,
                request_bytes,
                response_bytes,
                warm: Warm { mib_ms, mcpu_ms, used_mib_ms, used_mcpu_ms },
            }
        })
    }

    proptest! {
        #[test]
        fn values_read_back(sum in any_sum(), texts in any::<[String; 4]>(), numbers in any::<[u32; 3]>()) {
            prop_assert_eq!(decode_sum(&encode_sum(&sum)), Ok(sum));
            let [uid, namespace, name, tenant] = texts;
            let [function, memory_mib, cpu_millis] = numbers;
            let subject = StoredSubject { function, memory_mib, cpu_millis, revision: uid.clone(), instance: name.clone() };
            prop_assert_eq!(StoredSubject::decode(&subject.encode()), Ok(subject));
            let function = FunctionId { uid, namespace, name, tenant };
            prop_assert_eq!(decode_function(&encode_function(&function)), Ok(function));
        }

        #[test]
        fn any_bytes_are_refused_or_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (decode_sum(&bytes).is_ok(), decode_function(&bytes).is_ok(), StoredSubject::decode(&bytes).is_ok());
        }
    }
}
