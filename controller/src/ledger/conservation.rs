//! What the watermarks say was applied, what is found as records, and what the sums count are one number.

/// Three ways to count the same records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conservation {
    /// By the epochs' watermarks.
    pub by_watermark: u64,
    /// Records found, read and checked one by one, and those that were counted before they were given up.
    pub by_record: u64,
    /// By the sums of hours and days.
    pub by_sum: u64,
    /// Epochs seen.
    pub epochs: u64,
    /// The first missing or doubled sequence, as text.
    pub fault: Option<String>,
}

impl Conservation {
    /// Whether nothing is missing and nothing is double.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.fault.is_none() && self.by_watermark == self.by_record && self.by_record == self.by_sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_does_not_hold() {
        let good = Conservation { by_watermark: 3, by_record: 3, by_sum: 3, epochs: 1, fault: None };
        assert!(good.holds());
        assert!(!Conservation { by_sum: 4, ..good.clone() }.holds());
        assert!(!Conservation { by_record: 2, ..good.clone() }.holds());
        assert!(!Conservation { fault: Some(String::new()), ..good }.holds());
    }
}
