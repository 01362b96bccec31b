//! Calls of a month, as frames that activators send.

use super::Workers;
use super::keep::Keeper;
use anyhow::{Context, Result};
use dormouse_core::record::{CallRecord, Outcome, Packer, Subject};
use dormouse_proto::v1;
use dormouse_proto::v1::ledger_client::LedgerClient;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Records in a frame: as many as an activator puts into one.
pub(super) const FRAME: u32 = 2_000;

/// Hours of the month.
pub(super) const HOURS: u32 = 720;

/// Microseconds in an hour.
pub(super) const HOUR_US: i64 = 3_600_000_000;

/// Functions in a namespace.
const NEIGHBOURS: u32 = 20;

/// Calls of this minute that are sent in one go.
const FRESH: u64 = 2_000_000;

/// What was sent, and what it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) records: u64,
    took: Duration,
    cpu: f64,
}

impl fmt::Display for Rate {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^53")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.records as f64;
        let per_cpu = records / self.cpu.max(f64::MIN_POSITIVE);
        write!(f, "{:.0} ({per_cpu:.0} per CPU-second of the store)", records / self.took.as_secs_f64())
    }
}

/// Whose calls, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Month {
    calls: u64,
    pub(super) functions: u32,
    activators: u32,
    /// Its first hour since 1970 UTC.
    pub(super) start: u32,
}

impl Month {
    /// The 30 days before this hour.
    pub(super) fn ending_now(calls: u64, functions: u32, activators: u32) -> Self {
        let now = u32::try_from(jiff::Timestamp::now().as_second() / 3600).unwrap_or_default();
        Self { calls, functions, activators, start: now - HOURS }
    }

    /// Calls of one function in one hour: all of them add up to what was asked for.
    fn calls_in(&self, hour: u32, function: u32) -> u64 {
        let (cells, cell) = (u64::from(HOURS * self.functions), u64::from(hour * self.functions + function));
        (cell + 1) * self.calls / cells - cell * self.calls / cells
    }
}

/// Namespace and name of a function.
pub(super) fn name_of(function: u32) -> (String, String) {
    (format!("team-{:03}", function / NEIGHBOURS), format!("function-{function:04}"))
}

/// A function on a day: a new instance each day.
fn subject(function: u32, day: u32) -> Subject {
    let (namespace, name) = name_of(function);
    Subject {
        function_uid: format!("7f2c6a52-0000-4000-8000-{function:012}"),
        tenant: namespace.clone(),
        namespace,
        name,
        revision: format!("r{}", day / 10),
        memory_mib: 128 << (function % 4),
        cpu_millis: 100,
        instance: format!("5b0e3c1a-0000-4000-{day:04}-{function:012}"),
    }
}

fn record(subject: u32, call: u64, at_us: i64) -> CallRecord {
    CallRecord {
        subject,
        call,
        received_at_us: at_us,
        wait_us: 20 + call % 100,
        claim_us: 0,
        start_us: 0,
        connect_us: 40,
        run_us: 1_000 + call * 7_919 % 250_000,
        request_bytes: 512,
        response_bytes: 2_048 + call % 1_000,
        status: 200,
        outcome: Outcome::Ok,
        cold: call.is_multiple_of(1_000),
        first: false,
        warm_slots: 0,
        key: 0,
        timed: None,
    }
}

/// Makes the frames of one activator.
struct Maker {
    activator: u64,
    next_seq: u64,
    packer: Packer,
    numbers: HashMap<(u32, u32), u32>,
    subjects: Vec<v1::Subject>,
    frames: Vec<v1::Frame>,
}

impl Maker {
    fn new(activator: u32) -> Self {
        Self {
            activator: u64::from(activator) + 1,
            next_seq: 1,
            packer: Packer::default(),
            numbers: HashMap::new(),
            subjects: Vec::new(),
            frames: Vec::new(),
        }
    }

    fn call(&mut self, function: u32, day: u32, at_us: i64) {
        let known = u32::try_from(self.subjects.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry((function, day)).or_insert_with(|| {
            self.subjects.push((&subject(function, day)).into());
            known
        });
        let call = self.next_seq + u64::from(self.packer.count());
        self.packer.push(&record(number, call, at_us));
        if self.packer.count() == FRAME {
            self.close();
        }
    }

    fn close(&mut self) {
        let packer = std::mem::take(&mut self.packer);
        let (count, records) = (packer.count(), bytes::Bytes::from(packer.finish()));
        if count == 0 {
            return;
        }
        self.numbers.clear();
        let subjects = std::mem::take(&mut self.subjects);
        let (crc32c, first_seq) = (crc32c::crc32c(&records), self.next_seq);
        self.next_seq += u64::from(count);
        self.frames.push(v1::Frame {
            activator: self.activator,
            epoch: 1,
            first_seq,
            count,
            subjects,
            records,
            crc32c,
            unseen: false,
        });
    }

    fn take(&mut self) -> Vec<v1::Frame> {
        self.close();
        std::mem::take(&mut self.frames)
    }
}

/// Sends the month day by day, as it went: minutes that are not kept any longer are forgotten. Making the frames, and
/// forgetting, are no part of the time.
pub(super) async fn month(month: &Month, keeper: &mut Keeper, workers: &Workers<'_>) -> Result<Rate> {
    let mut makers: Vec<_> = (0..month.activators).map(Maker::new).collect();
    let mut rate = Rate::default();
    for day in 0..HOURS / 24 {
        for hour in day * 24..(day + 1) * 24 {
            for function in 0..month.functions {
                // One after the other within the hour, each function's calls 10 ms apart.
                let begins = i64::from(month.start + hour) * HOUR_US
                    + HOUR_US / i64::from(month.functions) * i64::from(function);
                let maker = makers.get_mut((function % month.activators) as usize).context("no maker")?;
                for call in 0..month.calls_in(hour, function) {
                    maker.call(
                        function,
                        day,
                        begins + i64::try_from(call)? * 10_000 % (HOUR_US / i64::from(month.functions)),
                    );
                }
            }
        }
        send(makers.iter_mut().map(Maker::take).collect(), keeper, workers, &mut rate).await?;
        keeper.forget(month.start + (day + 1) * 24).await?;
    }
    anyhow::ensure!(rate.records == month.calls, "{} of {} calls were sent", rate.records, month.calls);
    Ok(rate)
}

/// Calls that end now, over all functions: what a ledger has to do while calls run.
pub(super) async fn fresh(month: &Month, keeper: &Keeper, workers: &Workers<'_>) -> Result<Rate> {
    let mut rate = Rate::default();
    let mut makers: Vec<_> = (0..month.activators).map(|n| Maker::new(month.activators + n)).collect();
    let now = jiff::Timestamp::now().as_microsecond();
    for call in 0..FRESH {
        let function = u32::try_from(call % u64::from(month.functions))?;
        let maker = makers.get_mut((call % u64::from(month.activators)) as usize).context("no maker")?;
        maker.call(function, HOURS / 24, now + i64::try_from(call)? / 1_000);
    }
    send(makers.iter_mut().map(Maker::take).collect(), keeper, workers, &mut rate).await?;
    Ok(rate)
}

/// One call of a function that ends now, as the only one of its activator's frames.
pub(super) fn one(function: u32, activator: u32) -> Result<v1::Frame> {
    let mut maker = Maker::new(activator);
    maker.call(function, HOURS / 24, jiff::Timestamp::now().as_microsecond());
    maker.take().pop().context("no frame")
}

/// Sends what each activator has, one frame after the other, all activators at once.
async fn send(all: Vec<Vec<v1::Frame>>, keeper: &Keeper, workers: &Workers<'_>, rate: &mut Rate) -> Result<()> {
    let mut clients = Vec::new();
    for frames in all {
        clients.push((LedgerClient::connect(format!("http://{}", keeper.grpc)).await?, frames));
    }
    let (began, before) = (Instant::now(), workers.cpu()?);
    let senders = clients.into_iter().map(|(mut client, frames)| {
        tokio::spawn(async move {
            let mut sent = 0;
            for frame in frames {
                let (count, last) = (u64::from(frame.count), frame.first_seq + u64::from(frame.count) - 1);
                let answer = client.append(frame).await?.into_inner();
                anyhow::ensure!(answer.watermark == last, "acknowledged up to {}, not {last}", answer.watermark);
                sent += count;
            }
            anyhow::Ok(sent)
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        rate.records += sender.await??;
    }
    rate.took += began.elapsed();
    rate.cpu += workers.cpu()? - before;
    Ok(())
}
