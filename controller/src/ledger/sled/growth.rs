//! Watches that sled still cleans its file: the thread that does so ends for good at its first error and only logs it.

/// Bytes of one record in the file: about 32 with its index, eightfold when little of each segment is live.
const RECORD: u64 = 8 * 32;
/// Growth that is never too much: dictionaries, sums, and segments of 512 KiB that are not cleaned yet.
const SLACK: u64 = 256 * 1024 * 1024;
/// Records between two looks at the file's size.
const LOOK: u64 = 1_000_000;

/// What was put in since the file was opened.
pub(super) struct Growth {
    at_open: u64,
    records: u64,
    unseen: u64,
}

impl Growth {
    pub(super) fn new(size: u64) -> Self {
        Self { at_open: size, records: 0, unseen: 0 }
    }

    pub(super) fn wrote(&mut self, records: usize) {
        self.records += records as u64;
        self.unseen += records as u64;
    }

    /// Whether it is time for a look.
    pub(super) fn must_look(&mut self) -> bool {
        let due = self.unseen >= LOOK;
        if due {
            self.unseen = 0;
        }
        due
    }

    /// Whether the file grew far more than what was put in: opening it again starts the cleaning anew.
    pub(super) fn is_too_much(&self, size: u64) -> bool {
        size.saturating_sub(self.at_open) > SLACK + self.records * RECORD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_grow_with_what_is_put_in() {
        let mut growth = Growth::new(1_000_000);
        assert!(!growth.must_look());
        assert!(!growth.is_too_much(SLACK + 1_000_000));
        assert!(growth.is_too_much(SLACK + 1_000_001));
        growth.wrote(LOOK as usize);
        assert!(growth.must_look() && !growth.must_look());
        assert!(!growth.is_too_much(SLACK + 200_000_000));
    }
}
