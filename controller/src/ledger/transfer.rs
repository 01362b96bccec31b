//! A whole ledger as a file: to move it between stores, to keep a copy, to look at it elsewhere.
//!
//! The file begins with [`MAGIC`]. Items follow, each as its kind (a byte), its length (4 bytes, little-endian), its bytes
//! and their CRC-32C (4 bytes, little-endian); the last one says how many there were. Numbers in it are those of the ledger
//! that it is from, which the one that takes it keeps.

mod check;
mod command;
mod item;

pub use command::{Command, run};
pub(super) use item::{Item, RECORDS, SubjectItem};

use super::codec::{CorruptValue, encode_sum};
use super::{AppendError, Conservation, Ledger, OpenError, Place, ReadError};
use check::Names;
use dormouse_core::price::PricePlan;
use std::io::{self, Read, Write};
use std::thread;
use tokio::sync::mpsc;

/// What the file begins with: the last digit is the version of what follows.
const MAGIC: &[u8; 8] = b"DMLEDGE1";
/// Items that wait between a store and a file: of the largest, 8 x 4 MiB.
pub(super) const QUEUE: usize = 8;
/// Longest item: a closed month's statement, in 255 parts of 4 KiB.
const MAX_ITEM: usize = 4 << 20;

/// What a ledger holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Functions that were ever recorded.
    pub functions: u64,
    /// Instances that records are about.
    pub subjects: u64,
    /// Single records.
    pub records: u64,
    /// Rows of sums.
    pub sums: u64,
    /// CRC-32C of all rows of sums in the order of level, function and time.
    pub sums_crc32c: u32,
    /// Statements of closed months.
    pub statements: u64,
    /// Records that are taken back.
    pub reversals: u64,
}

/// Why a ledger was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file cannot be read or written.
    #[error("the file cannot be read or written: {0}")]
    File(#[from] io::Error),
    /// It is no export, or not whole.
    #[error("the file is no whole export of a ledger: {0}")]
    BadFile(String),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger took it not, or not whole.
    #[error(transparent)]
    Write(#[from] AppendError),
    /// There is something in it.
    #[error("the ledger in {0} is not empty: import into a new one; nothing was changed")]
    NotEmpty(String),
    /// What is there afterwards is not what was in the file.
    #[error("what was imported is not what is in the file: {0}")]
    Different(String),
}

impl From<CorruptValue> for TransferError {
    fn from(value: CorruptValue) -> Self {
        Self::BadFile(value.to_string())
    }
}

impl Summary {
    pub(super) fn count(&mut self, item: &Item) {
        match item {
            Item::Function(..) => self.functions += 1,
            Item::Subject(_) => self.subjects += 1,
            Item::Records { records, .. } => self.records += records.len() as u64,
            Item::Sum { level, function, time, sum } => {
                self.sums += 1;
                let key = [u32::from(*level as u8), *function, *time].map(u32::to_be_bytes).concat();
                let with_key = crc32c::crc32c_append(self.sums_crc32c, &key);
                self.sums_crc32c = crc32c::crc32c_append(with_key, &encode_sum(sum));
            }
            Item::Document { .. } => self.statements += 1,
            Item::Reversal(_) => self.reversals += 1,
            Item::State { .. } | Item::Epoch { .. } | Item::Late { .. } | Item::End => {}
        }
    }
}

impl Ledger {
    /// Writes everything to a file. Nothing may be added to the ledger meanwhile.
    ///
    /// # Errors
    /// When the ledger cannot be read or the file not be written.
    pub async fn export(&self, mut out: impl Write + Send + 'static) -> Result<Summary, TransferError> {
        let (items, mut written) = mpsc::channel::<Item>(QUEUE);
        let writer = thread::spawn(move || {
            let (mut summary, mut count) = (Summary::default(), 0u64);
            out.write_all(MAGIC)?;
            while let Some(item) = written.blocking_recv() {
                summary.count(&item);
                count += 1;
                write(&mut out, item.kind(), &item.encode())?;
            }
            write(&mut out, item::END, &count.to_le_bytes())?;
            out.flush()?;
            Ok::<_, io::Error>(summary)
        });
        // Who no longer takes items has failed: that is told below.
        let dumped = self.store.dump(items).await;
        let written = tokio::task::spawn_blocking(move || writer.join()).await;
        let summary = written.map_err(io::Error::other)?.map_err(|_| io::Error::other("the writer panicked"))??;
        dumped?;
        Ok(summary)
    }

    /// Reads a file that [`Ledger::export`] wrote into the ledger of a place, which must be empty, and looks whether
    /// everything arrived.
    ///
    /// # Errors
    /// When the file is not whole, the ledger is not empty, or not all of it arrived: it is then of no use.
    pub async fn import(place: Place, input: impl Read + Send + 'static) -> Result<Summary, TransferError> {
        let ledger = Self::open(place.clone(), PricePlan::default()).await?;
        if !ledger.store.functions().await?.is_empty() || ledger.verify().await? != Conservation::default() {
            return Err(TransferError::NotEmpty(place.to_string()));
        }
        let (items, taken) = mpsc::channel::<Item>(QUEUE);
        let reader = thread::spawn(move || read(input, &items));
        let restored = ledger.store.restore(taken).await;
        let read = tokio::task::spawn_blocking(move || reader.join()).await;
        let expected = read.map_err(io::Error::other)?.map_err(|_| io::Error::other("the reader panicked"))?;
        let expected = match (expected, restored) {
            (Ok(summary), Ok(())) => summary,
            // Who takes no more items stops the reader, and a reader that stops ends what is taken.
            (Err(TransferError::File(e)), Err(why)) if e.kind() == io::ErrorKind::BrokenPipe => return Err(why.into()),
            (Err(why), _) => return Err(why),
            (Ok(_), Err(why)) => return Err(why.into()),
        };
        drop(ledger);
        // What counts is what is there when it is opened again.
        let ledger = Self::open(place, PricePlan::default()).await?;
        let (found, check) = (ledger.export(io::sink()).await?, ledger.verify().await?);
        if found != expected || !check.holds() {
            return Err(TransferError::Different(format!("{found}, not {expected}; {check:?}")));
        }
        Ok(found)
    }
}

fn write(out: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&[kind])?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(bytes)?;
    out.write_all(&crc32c::crc32c(bytes).to_le_bytes())
}

/// Reads items to the last one. Without it nothing is restored: who takes them sees the channel close after [`Item::End`]
/// only.
fn read(mut input: impl Read, items: &mpsc::Sender<Item>) -> Result<Summary, TransferError> {
    let bad = |why: &str| TransferError::BadFile(why.to_owned());
    let whole = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => bad("it ends early"),
        _ => e.into(),
    };
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(whole)?;
    if magic != *MAGIC {
        return Err(bad("it begins with something else"));
    }
    let (mut summary, mut count, mut names) = (Summary::default(), 0u64, Names::default());
    loop {
        let (mut kind, mut len, mut sum) = ([0], [0; 4], [0; 4]);
        input.read_exact(&mut kind).and_then(|()| input.read_exact(&mut len)).map_err(whole)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_ITEM {
            return Err(bad("an item is too long"));
        }
        let mut bytes = vec![0; len];
        input.read_exact(&mut bytes).and_then(|()| input.read_exact(&mut sum)).map_err(whole)?;
        if crc32c::crc32c(&bytes) != u32::from_le_bytes(sum) {
            return Err(bad("the checksum of an item does not match"));
        }
        if kind[0] == item::END {
            let said = bytes.try_into().map(u64::from_le_bytes).map_err(|_| bad("its end is damaged"))?;
            if said != count {
                return Err(bad("items are missing"));
            }
            // Only now is it known to be whole: what was taken may be kept.
            let last = items.blocking_send(Item::End);
            return last.map(|()| summary).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        let item = Item::decode(kind[0], &bytes)?;
        names.check(&item)?;
        summary.count(&item);
        count += 1;
        items.blocking_send(item).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}
