//! Who writes a spool: a random id made with the folder and stored in it, and an epoch that grows by one at each start.
//! A lost folder is a new id: sequence numbers are never used twice.

use super::segment::{self, Header};
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// The writer of a spool in one life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random, made with the folder.
    pub activator: u64,
    /// One more at each start, from 1.
    pub epoch: u32,
}

const FILE: &str = "identity";

impl Identity {
    /// The identity of the life that begins now, durably noted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn next<'a>(folder: &Path, segments: impl Iterator<Item = &'a Header>) -> io::Result<Self> {
        let before = match fs::read_to_string(folder.join(FILE)) {
            Ok(text) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let next = match before {
            Some(Self { activator, epoch }) if epoch < u32::MAX => {
                // A segment of a later epoch than noted cannot be, but must not be written over.
                let latest = segments.filter(|h| h.activator == activator).map(|h| h.epoch).max().unwrap_or(0);
                Self { activator, epoch: epoch.max(latest) + 1 }
            }
            _ => Self { activator: fresh_id(), epoch: 1 },
        };
        let temporary = folder.join("identity.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(next.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(FILE))?;
        segment::sync_folder(folder)?;
        Ok(next)
    }

    fn text(self) -> String {
        let words = format!("{:016x} {}", self.activator, self.epoch);
        let sum = crc32c::crc32c(words.as_bytes());
        format!("{words} {sum:08x}\n")
    }
}

fn fresh_id() -> u64 {
    // 0 is what an unset field reads as on the wire.
    rand::random::<u64>().max(1)
}

fn parse(text: &str) -> Option<Identity> {
    let mut words = text.split_whitespace();
    let activator = u64::from_str_radix(words.next()?, 16).ok()?;
    let epoch = words.next()?.parse().ok()?;
    let identity = Identity { activator, epoch };
    (identity.text() == text).then_some(identity)
}
