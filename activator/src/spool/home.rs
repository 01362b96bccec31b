//! Under which identity an epoch's records are shipped.
//!
//! Usually their own. A ledger that has lost what it acknowledged (a volume that was replaced) wants records that are
//! trimmed already, and would refuse everything after them for ever. What is left then moves to a new random id, where
//! it begins with 1. Nothing is counted twice: the ledger has just said that it has none of it. The move is durable
//! before the first record is sent by it.

use super::segment::sync_folder;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

const FILE: &str = "moved";

/// Where an epoch's records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) activator: u64,
    pub(crate) epoch: u32,
    /// What is taken from a record's number.
    pub(crate) offset: u64,
}

#[derive(Debug)]
pub(super) struct Homes {
    folder: PathBuf,
    moved: Mutex<HashMap<(u64, u32), Home>>,
}

impl Homes {
    /// Reads what was moved in former lives.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let moved = match fs::read_to_string(folder.join(FILE)) {
            Ok(text) => parse(&text).ok_or_else(|| io::Error::other("the file `moved` in the spool is harmed"))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(e) => return Err(e),
        };
        Ok(Self { folder: folder.to_owned(), moved: Mutex::new(moved) })
    }

    pub(super) fn of(&self, of: (u64, u32)) -> Home {
        let own = Home { activator: of.0, epoch: of.1, offset: 0 };
        self.moved.lock().get(&of).copied().unwrap_or(own)
    }

    /// Moves what an epoch has from `first_seq` on; forgets the moves of epochs that are not among `living`.
    pub(super) fn move_on(&self, of: (u64, u32), first_seq: u64, living: &[(u64, u32)]) -> io::Result<Home> {
        let home = Home { activator: rand::random::<u64>().max(1), epoch: 1, offset: first_seq - 1 };
        let mut moved = self.moved.lock();
        let mut next: HashMap<_, _> =
            moved.iter().filter(|(epoch, _)| living.contains(epoch)).map(|(epoch, home)| (*epoch, *home)).collect();
        next.insert(of, home);
        let temporary = self.folder.join("moved.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text(&next).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(FILE))?;
        sync_folder(&self.folder)?;
        // Only now: nothing may be sent by a home that the next life does not know.
        *moved = next;
        Ok(home)
    }
}

fn text(moved: &HashMap<(u64, u32), Home>) -> String {
    let lines = moved.iter().map(|((activator, epoch), home)| {
        format!("{activator:016x} {epoch} {:016x} {} {}\n", home.activator, home.epoch, home.offset)
    });
    let lines: String = lines.collect();
    format!("{lines}{:08x}\n", crc32c::crc32c(lines.as_bytes()))
}

fn parse(text: &str) -> Option<HashMap<(u64, u32), Home>> {
    let end = text.len().checked_sub(9)?;
    let (lines, sum) = (text.get(..end)?, text.get(end..)?);
    if u32::from_str_radix(sum.trim_end(), 16).ok()? != crc32c::crc32c(lines.as_bytes()) {
        return None;
    }
    let line = |line: &str| {
        let mut words = line.split(' ');
        let of = (u64::from_str_radix(words.next()?, 16).ok()?, words.next()?.parse().ok()?);
        let activator = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((of, Home { activator, epoch: words.next()?.parse().ok()?, offset: words.next()?.parse().ok()? }))
    };
    lines.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_cannot_be_written_did_not_happen() {
        let folder = tempfile::tempdir().unwrap();
        let homes = Homes::open(folder.path()).unwrap();
        let before = homes.move_on((7, 1), 11, &[(7, 1)]).unwrap();
        fs::create_dir(folder.path().join("moved.new")).unwrap();
        assert!(homes.move_on((7, 1), 21, &[(7, 1)]).is_err());
        assert!(homes.move_on((7, 2), 2, &[]).is_err());
        assert_eq!((homes.of((7, 1)), homes.of((7, 2)).activator), (before, 7));
    }

    #[test]
    fn moves_are_remembered_and_forgotten_with_their_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let homes = Homes::open(folder.path()).unwrap();
        assert_eq!(homes.of((7, 1)), Home { activator: 7, epoch: 1, offset: 0 });
        let first = homes.move_on((7, 1), 11, &[(7, 1), (7, 2)]).unwrap();
        let second = homes.move_on((7, 2), 5, &[(7, 1), (7, 2)]).unwrap();
        assert_eq!((first.offset, second.offset, first.epoch), (10, 4, 1));
        let again = Homes::open(folder.path()).unwrap();
        assert_eq!((again.of((7, 1)), again.of((7, 2))), (first, second));
        again.move_on((7, 3), 2, &[(7, 2), (7, 3)]).unwrap();
        assert_eq!((again.of((7, 1)).offset, again.of((7, 2))), (0, second));
        fs::write(folder.path().join(FILE), "harmed").unwrap();
        assert!(Homes::open(folder.path()).is_err());
    }
}
