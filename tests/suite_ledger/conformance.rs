//! What every store of a ledger must do, each with an empty one: data in, expected out.

use crate::data::{
    HOUR_US, NOVEMBER, all_hours, all_records, expected, found, frame, frame_of, open, record, subjects,
};
use dormouse_controller::ledger::reversals::{Order, RecordId, Reversed};
use dormouse_controller::ledger::statements::{State, Statement};
use dormouse_controller::ledger::transfer::TransferError;
use dormouse_controller::ledger::{
    AppendError, AppendOutcome, Appended, Filter, Frame, Granularity, GroupBy, KeptFrom, Ledger, MAX_FRAME_RECORDS,
    Place, Plans, ReadError, RecordsQuery, Retention, UsageQuery, WarmSpan,
};
use dormouse_core::price::{BilledOutcomes, PricePlan, Tiers};
use dormouse_core::record::{CallRecord, Outcome};
use dormouse_core::usage::{Class, UsageSum, Warm};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;
use rust_decimal::Decimal;

pub use crate::reversals::{
    a_record_is_found_among_many, a_record_is_taken_back_once, a_rule_that_was_not_in_use_loses_nothing,
    what_is_taken_back_costs_as_if_it_had_not_come, what_is_taken_back_of_a_closed_month_is_a_correction,
};

pub async fn a_frame_is_applied_once_and_a_gap_not_at_all(place: &Place) {
    let ledger = open(place).await;
    let told = |watermark, outcome| Ok(Appended { watermark, outcome });
    assert_eq!(ledger.append(frame(1, 1..11)).await, told(10, AppendOutcome::Applied));
    assert_eq!(ledger.append(frame(1, 1..11)).await, told(10, AppendOutcome::Duplicate));
    assert_eq!(ledger.append(frame(1, 12..20)).await, told(10, AppendOutcome::Gap));
    assert_eq!(ledger.append(frame(1, 5..21)).await, told(20, AppendOutcome::Applied));
    assert_eq!(ledger.append(frame(2, 2..3)).await, told(0, AppendOutcome::Gap));
    // One that is to be unseen is applied whole or not at all.
    let unseen = |seqs| Frame { unseen: true, ..frame(1, seqs) };
    assert_eq!(ledger.append(unseen(20..23)).await, told(20, AppendOutcome::Gap));
    assert_eq!(ledger.append(unseen(1..11)).await, told(20, AppendOutcome::Gap));
    assert_eq!(ledger.append(unseen(22..23)).await, told(20, AppendOutcome::Gap));
    assert_eq!(ledger.append(unseen(21..23)).await, told(22, AppendOutcome::Applied));
    let other_epoch = Frame { epoch: 2, ..frame(1, 1..4) };
    assert_eq!(ledger.append(other_epoch).await, told(3, AppendOutcome::Applied));
    let check = ledger.verify().await.unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!((check.by_record, check.epochs), (25, 2));
}

pub async fn a_damaged_frame_is_refused_and_changes_nothing(place: &Place) {
    let ledger = open(place).await;
    let good = frame(1, 1..5);
    let mut flipped = good.clone();
    flipped.records[7] ^= 4;
    let mut named = good.clone();
    named.subjects[0].tenant = String::new();
    let mut long = good.clone();
    long.subjects[1].revision = "r".repeat(254);
    let lying = |count| Frame { count, ..good.clone() };
    let bad = [
        (flipped, "checksum"),
        (lying(0), "0 records"),
        (lying(3), "follow the last"),
        (lying(5), "end early"),
        (lying(MAX_FRAME_RECORDS + 1), "expected 1 to"),
        (Frame { first_seq: 0, ..good.clone() }, "sequence"),
        (Frame { first_seq: u64::MAX, ..good.clone() }, "sequence"),
        (Frame { subjects: subjects()[..1].to_vec(), ..good.clone() }, "names subject"),
        (named, "1 to 253"),
        (long, "1 to 253"),
    ];
    for (frame, why) in bad {
        let error = ledger.append(frame).await.unwrap_err();
        assert!(matches!(&error, AppendError::BadFrame(text) if text.contains(why)), "{error} lacks {why:?}");
    }
    assert_eq!(ledger.append(good).await.map(|a| a.watermark), Ok(4));
    assert_eq!(ledger.verify().await.unwrap().by_record, 4);
}

pub async fn it_reopens_with_everything_and_goes_on(place: &Place) {
    let ledger = open(place).await;
    ledger.append(frame(1, 1..400)).await.unwrap();
    drop(ledger);
    let ledger = open(place).await;
    assert_eq!(found(&ledger).await, expected(1..400));
    ledger.append(frame(1, 300..2_001)).await.unwrap();
    drop(ledger);
    let ledger = open(place).await;
    assert_eq!(found(&ledger).await, expected(1..2_001));
    assert!(ledger.verify().await.unwrap().holds());
    assert_eq!(ledger.health().problem, None);
}

pub async fn records_page_through_without_a_hole_or_a_double(place: &Place) {
    let ledger = open(place).await;
    for activator in 1..4 {
        ledger.append(frame(activator, 1..1_001)).await.unwrap();
    }
    let all = ledger.records(&all_records()).await.unwrap();
    assert_eq!((all.rows.len(), all.next), (3_000, None));
    assert!(all.rows.is_sorted_by(|a, b| a.key < b.key));
    let row = all.rows.iter().find(|r| r.key.activator == 2 && r.key.seq == 77).unwrap();
    assert_eq!(row.request_id.to_string(), "0000000000000002-1-9a");
    assert_eq!(row.subject, subjects()[77 % 3]);
    assert_eq!(CallRecord { subject: 77 % 3, ..row.record }, record(77));
    let mut paged = Vec::new();
    let mut query = RecordsQuery { limit: 7, ..all_records() };
    loop {
        let page = ledger.records(&query).await.unwrap();
        assert!(page.rows.len() <= 7);
        paged.extend(page.rows);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.rows);
    let filter = Filter { functions: vec!["blog/feed".into()], ..Filter::default() };
    assert_eq!(ledger.records(&RecordsQuery { filter, ..all_records() }).await.unwrap().rows.len(), 999);
    let filter = Filter { functions: vec!["nobody".into()], ..Filter::default() };
    assert_eq!(ledger.records(&RecordsQuery { filter, ..all_records() }).await.unwrap().rows, []);
    let times_us = record(10).received_at_us..record(20).received_at_us;
    let some = ledger.records(&RecordsQuery { times_us, ..all_records() }).await.unwrap();
    let mut seqs: Vec<_> = some.rows.iter().map(|r| r.key.seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs, (10..20).collect::<Vec<_>>());
}

pub async fn usage_pages_and_grains_add_up(place: &Place) {
    let ledger = open(place).await;
    ledger.append(frame(1, 1..3_001)).await.unwrap();
    let whole = ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).await.unwrap();
    for granularity in [Granularity::Hour, Granularity::Day, Granularity::Month, Granularity::Total] {
        for group_by in [GroupBy { function: true, tenant: true, ..GroupBy::default() }, GroupBy::default()] {
            let filter = Filter { tenants: vec!["shop".into()], ..Filter::default() };
            let mut query = UsageQuery { granularity, group_by, filter, limit: 3, ..all_hours() };
            let (mut sum, mut keys) = (UsageSum::default(), Vec::new());
            loop {
                let page = ledger.usage(&query).await.unwrap();
                for row in &page.rows {
                    sum.merge(&row.usage);
                    keys.push((row.group.clone(), row.time.start));
                }
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            assert_eq!(sum, whole, "{granularity:?}");
            assert!(keys.is_sorted_by(|a, b| a < b), "{granularity:?}");
            query.limit = usize::MAX;
            let (rows, groups) = (ledger.usage(&query).await.unwrap().rows, ledger.groups(&query).await.unwrap());
            for size in [1, 100_000] {
                let mut parts = Vec::new();
                for part in groups.parts(size) {
                    parts.extend(ledger.part(&groups, part).await.unwrap());
                }
                assert_eq!(parts, rows, "{granularity:?} in parts of {size}");
            }
        }
    }
    assert_eq!(whole.calls(), 2_000);
    assert!(matches!(ledger.tenant_usage("nobody", 0..1).await, Err(ReadError::UnknownTenant(_))));
}

pub async fn time_is_counted_by_the_rules_of_all_plans_that_were_there(place: &Place) {
    let (article, coarse) =
        (PricePlan::default(), PricePlan { name: "coarse".into(), step_ms: 100, ..PricePlan::default() });
    let ledger = open(place).await;
    ledger.append(frame(1, 1..7)).await.unwrap();
    drop(ledger);
    let plans = Plans::new(coarse.clone(), vec![article.clone()]);
    let ledger = Ledger::open(place.clone(), plans.clone()).await.unwrap();
    ledger.append(frame(1, 7..13)).await.unwrap();
    let mut sum = UsageSum::default();
    for seq in 1..13 {
        let rules = if seq < 7 { vec![article.metering()] } else { plans.rules() };
        sum.add(&record(seq), (512, 100), &rules);
    }
    sum.warm = sum.warm.bounded();
    let query = UsageQuery { granularity: Granularity::Total, group_by: GroupBy::default(), ..all_hours() };
    let found = ledger.usage(&query).await.unwrap().rows.remove(0).usage;
    assert_eq!(found, sum);
    let (by_article, by_coarse) = (found.billed(&article), found.billed(&coarse));
    assert_eq!((by_article.unmetered, by_coarse.calls), (0, by_article.calls));
    let before = (1..7).filter(|seq| article.bills(Class::of(&record(*seq)))).count() as u64;
    assert_eq!(by_coarse.unmetered, before, "what came before the plan was there");
}

/// Two activators may each have had a first call on an instance.
pub async fn the_start_of_an_instance_is_counted_once(place: &Place) {
    let plan = PricePlan { bill: BilledOutcomes { start: true, ..BilledOutcomes::default() }, ..PricePlan::default() };
    let ledger = Ledger::open(place.clone(), plan.clone()).await.unwrap();
    let cold = |seq| CallRecord { subject: 0, first: true, start_us: 50_000, claim_us: 0, ..record(seq) };
    let one = |activator, first_seq, seqs: &[u64]| {
        let records: Vec<_> = seqs.iter().map(|seq| cold(*seq)).collect();
        frame_of(activator, first_seq, &records, subjects())
    };
    ledger.append(one(1, 1, &[6, 12])).await.unwrap();
    drop(ledger);
    let ledger = Ledger::open(place.clone(), plan.clone()).await.unwrap();
    ledger.append(one(2, 1, &[18])).await.unwrap();
    let mut rows = ledger.records(&all_records()).await.unwrap().rows;
    rows.sort_by_key(|row| row.record.call);
    assert_eq!(rows.iter().map(|row| row.record.first).collect::<Vec<_>>(), [true, false, false]);
    let usage = ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).await.unwrap();
    let runs: u64 = [6, 12, 18].iter().map(|seq| record(*seq).run_us.div_ceil(1000)).sum();
    let billed = usage.billed(&plan);
    assert_eq!(billed.time.ms + billed.warm_time.ms, u128::from(50 + runs));
}

/// Minutes add up to their hours for as long as they are kept.
pub async fn minutes_are_kept_for_a_while(place: &Place) {
    let ledger = open(place).await;
    ledger.append(frame(1, 1..1_001)).await.unwrap();
    let minutes = UsageQuery { granularity: Granularity::Minute, ..all_hours() };
    let of = async |query: &UsageQuery| {
        let rows = ledger.usage(query).await.unwrap().rows;
        rows.iter().fold((0, 0), |(rows, calls), row| (rows + 1, calls + row.usage.calls()))
    };
    let (by_hour, by_minute) = (of(&all_hours()).await, of(&minutes).await);
    assert!(by_minute.0 > by_hour.0 && by_minute.1 == 1_000 && by_hour.1 == 1_000, "{by_hour:?}, {by_minute:?}");
    // Seen from two days and ten hours after the first of November.
    ledger.tidy(Retention::default(), NOVEMBER + 48 + 10).await.unwrap();
    let late = UsageQuery { hours: NOVEMBER + 10..NOVEMBER + 720, ..minutes.clone() };
    assert_eq!(of(&minutes).await, of(&late).await, "the first ten hours are gone");
    assert!(of(&minutes).await.1 < 1_000);
    assert_eq!(of(&all_hours()).await, by_hour);
    assert!(ledger.verify().await.unwrap().holds());
}

/// After their time hours are days, and records are gone; sums stay what they are, also of what comes late.
pub async fn after_their_time_hours_are_days(place: &Place) {
    let ledger = open(place).await;
    ledger.append(frame(1, 1..2_001)).await.unwrap();
    let hour = i64::from(NOVEMBER) * HOUR_US;
    let span = WarmSpan {
        subject: subjects().swap_remove(0),
        resumes: false,
        open: false,
        from_us: hour - 5_000_000,
        to_us: hour + 30 * HOUR_US,
    };
    ledger.keep_warm(vec![span]).await.unwrap();
    let days = UsageQuery { granularity: Granularity::Day, hours: NOVEMBER - 24..NOVEMBER + 720, ..all_hours() };
    let months = UsageQuery { granularity: Granularity::Month, ..days.clone() };
    let all = async |ledger: &Ledger, query: &UsageQuery| ledger.usage(query).await.unwrap();
    let before = [all(&ledger, &days).await, all(&ledger, &months).await];
    let shop = ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).await.unwrap();
    let singles = async |ledger: &Ledger| ledger.records(&all_records()).await.unwrap().rows;
    let (hours, records) = (all(&ledger, &all_hours()).await.rows.len(), singles(&ledger).await.len());
    assert_eq!(ledger.kept_from(), KeptFrom { hours: 0, records: 0 });

    // Seen from the third day, with one kept: of hours and records the first day is gone.
    let keep = Retention { hour_days: 1, record_days: 1, ..Retention::default() };
    ledger.tidy(keep, NOVEMBER + 2 * 24 + 5).await.unwrap();
    let since = NOVEMBER + 24;
    assert_eq!(ledger.kept_from(), KeptFrom { hours: since, records: since });
    assert!(all(&ledger, &all_hours()).await.rows.iter().all(|row| row.time.start >= since));
    assert!(all(&ledger, &all_hours()).await.rows.len() < hours);
    let kept = singles(&ledger).await;
    assert!(kept.len() < records && kept.iter().all(|row| row.key.hour >= since));
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 2_000, "{check:?}");
    assert_eq!([all(&ledger, &days).await, all(&ledger, &months).await], before);
    // A page ends between two days as well as anywhere.
    let mut paged = Vec::new();
    let mut query = UsageQuery { limit: 2, ..days.clone() };
    loop {
        let page = all(&ledger, &query).await;
        paged.extend(page.rows);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(paged, before[0].rows);

    // What comes late for the first day makes its hours anew, and goes the same way. Nothing is gone less than before.
    let late = CallRecord { subject: 0, received_at_us: hour, ..record(6) };
    ledger.append(frame_of(7, 1, &[late], subjects())).await.unwrap();
    let mut with_late = shop.clone();
    with_late.add(&late, (512, 100), &[PricePlan::default().metering()]);
    let calls = |usage: UsageSum| (usage.calls(), usage.run_us);
    let expected = calls(with_late);
    for now in [NOVEMBER + 2 * 24 + 6, NOVEMBER] {
        ledger.tidy(keep, now).await.unwrap();
        assert_eq!(ledger.kept_from().hours, since);
        assert_eq!(calls(ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).await.unwrap()), expected);
    }
    drop(ledger);

    // Long after: nothing but days is left, and what instances were called is forgotten with their records.
    let ledger = open(place).await;
    let now = u32::try_from(jiff::Timestamp::now().as_second() / 3600).unwrap() + 100 * 24;
    ledger.tidy(keep, now).await.unwrap();
    assert_eq!(singles(&ledger).await, []);
    assert_eq!(all(&ledger, &all_hours()).await.rows, []);
    assert_eq!(calls(ledger.tenant_usage("shop", NOVEMBER..NOVEMBER + 720).await.unwrap()), expected);
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 2_001, "{check:?}");
    // Its epochs go on where they were, with new blocks and new names.
    ledger.append(frame(1, 1_990..2_101)).await.unwrap();
    drop(ledger);
    let ledger = open(place).await;
    let new = singles(&ledger).await;
    assert!(new.len() == 100 && new.iter().all(|row| subjects().contains(&row.subject)), "{new:?}");
    assert!(ledger.verify().await.unwrap().holds());
}

/// What goes is in the files before, each record once, a file a day; what comes late has another one.
pub async fn records_that_go_are_archived(place: &Place) {
    let ledger = open(place).await;
    for activator in 1..4 {
        ledger.append(frame(activator, 1..1_001)).await.unwrap();
    }
    let (folder, keep) =
        (tempfile::tempdir().unwrap(), Retention { hour_days: 1, record_days: 1, ..Retention::default() });
    let dir = folder.path().join("archive");
    let all = ledger.records(&all_records()).await.unwrap().rows;
    let now = NOVEMBER + 2 * 24 + 5;
    let archived = ledger.archive(keep, now, &dir).await.unwrap();
    let left = ledger.records(&all_records()).await.unwrap().rows;
    let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| row.key.hour < NOVEMBER + 24);
    assert_eq!((archived, left.len()), (gone.len() as u64, kept.len()));
    assert_eq!(ledger.archive(keep, now, &dir).await.unwrap(), 0, "nothing twice");
    let late = CallRecord { subject: 2, received_at_us: i64::from(NOVEMBER) * HOUR_US, key: 77, ..record(6) };
    ledger.append(frame_of(1, 1_001, &[late], subjects())).await.unwrap();
    assert_eq!(ledger.archive(keep, now, &dir).await.unwrap(), 1);
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 3_001, "{check:?}");

    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["records-2026-11-01-2.parquet", "records-2026-11-01.parquet"]);
    let mut rows: Vec<(String, u64)> = Vec::new();
    for name in &names {
        let reader = SerializedFileReader::new(std::fs::File::open(dir.join(name)).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let of = |wanted: &str| {
                let mut fields = row.get_column_iter();
                fields.find_map(|(name, field)| (name == wanted).then(|| field.to_string())).unwrap()
            };
            let seq: u64 = of("seq").parse().unwrap();
            assert_eq!(of("idempotency_key") == "null", seq != 1_001 && !seq.is_multiple_of(9), "{row}");
            rows.push((of("activator").trim_matches('"').to_owned(), seq));
        }
    }
    let mut expected: Vec<_> = gone.iter().map(|row| (format!("{:016x}", row.key.activator), row.key.seq)).collect();
    expected.push((format!("{:016x}", 1), 1_001));
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);

    // Where nothing can be written, nothing goes.
    let error = ledger.archive(keep, now + 24, std::path::Path::new("/proc/nowhere")).await.unwrap_err();
    assert!(error.to_string().starts_with("/proc/nowhere: "), "{error}");
    assert_eq!(ledger.records(&all_records()).await.unwrap().rows, left);
}

/// One for each billed call and nothing else, so that a statement counts.
pub fn by_the_call() -> Plans {
    let per_gb_second = Tiers::flat(Decimal::ZERO);
    Plans::from(PricePlan { per_call: Tiers::flat(Decimal::ONE), per_gb_second, ..PricePlan::default() })
}

pub async fn statement_of(ledger: &Ledger, tenant: &str, month: &str) -> (Statement, Option<String>) {
    let now = "2027-06-01T00:00:00Z".parse().unwrap();
    let answer = ledger.statement(tenant, month.parse().unwrap(), &by_the_call(), None, now).await.unwrap();
    (answer.statement, answer.text)
}

/// What a month's statement takes back, bills instead and adds up to, by the months it corrects.
fn told(statement: &Statement) -> (State, Vec<(String, String)>, String) {
    let corrected = statement.corrections.iter().map(|c| (c.period.clone(), c.amount.to_string()));
    (statement.state, corrected.collect(), statement.total.to_string())
}

pub async fn a_closed_statement_stays_and_what_comes_late_is_corrected_once(place: &Place) {
    let ledger = open(place).await;
    let plans = by_the_call();
    let november = i64::from(NOVEMBER) * HOUR_US;
    // So many billed calls of one tenant at a time.
    let calls = |activator, first_seq, subject, at_us, count: usize| {
        let record = CallRecord { subject, received_at_us: at_us, key: 0, outcome: Outcome::Ok, ..record(6) };
        frame_of(activator, first_seq, &vec![record; count], subjects())
    };
    let close = async |ledger: &Ledger, now: &str| ledger.close_months(&plans, 3, now.parse().unwrap()).await.unwrap();
    let (open_month, closed) = (State::Open, State::Closed);
    let one = |month: &str, amount: &str| vec![(month.to_owned(), amount.to_owned())];
    ledger.append(calls(1, 1, 0, november, 100)).await.unwrap();
    close(&ledger, "2026-12-03T23:59:59Z").await;
    let (statement, text) = statement_of(&ledger, "shop", "2026-11").await;
    assert_eq!((told(&statement), text), ((open_month, vec![], "100.00".to_owned()), None));

    close(&ledger, "2026-12-04T00:00:00Z").await;
    let (statement, first) = statement_of(&ledger, "shop", "2026-11").await;
    assert_eq!(told(&statement), (closed, vec![], "100.00".to_owned()));
    assert_eq!(statement.closed_at.as_deref(), Some("2026-12-04T00:00:00Z"));
    assert!(first.is_some());

    // Five come late to November, beside seven of December; of another tenant, the first two.
    ledger.append(calls(1, 101, 0, november + 5, 5)).await.unwrap();
    ledger.append(calls(2, 1, 0, november + 31 * 24 * HOUR_US, 7)).await.unwrap();
    ledger.append(calls(3, 1, 2, november, 2)).await.unwrap();
    drop(ledger);
    let ledger = open(place).await;
    assert_eq!(statement_of(&ledger, "shop", "2026-11").await.1, first, "to the byte");
    let expected = (open_month, one("2026-11", "5.00"), "12.00".to_owned());
    assert_eq!(told(&statement_of(&ledger, "shop", "2026-12").await.0), expected);
    assert_eq!(told(&statement_of(&ledger, "shop", "2027-01").await.0), (open_month, vec![], "0.00".to_owned()));
    assert_eq!(told(&statement_of(&ledger, "blog", "2026-11").await.0), (closed, vec![], "0.00".to_owned()));
    let expected = (open_month, one("2026-11", "2.00"), "2.00".to_owned());
    assert_eq!(told(&statement_of(&ledger, "blog", "2026-12").await.0), expected);
    let by = plans.in_force();
    let estimate = ledger.statement("shop", "2026-11".parse().unwrap(), &plans, Some(by), jiff::Timestamp::now()).await;
    let estimate = told(&estimate.unwrap().statement);
    assert_eq!(estimate, (State::Estimate, vec![], "105.00".to_owned()), "by everything that is known");

    // December is closed with its correction, which is then billed: only what comes later still is the next one.
    close(&ledger, "2027-01-20T10:00:00Z").await;
    let december = statement_of(&ledger, "shop", "2026-12").await;
    assert_eq!(told(&december.0), (closed, one("2026-11", "5.00"), "12.00".to_owned()));
    assert_eq!(told(&statement_of(&ledger, "shop", "2027-01").await.0), (open_month, vec![], "0.00".to_owned()));
    ledger.append(calls(1, 106, 0, november + 9, 1)).await.unwrap();
    ledger.append(calls(2, 8, 0, november + 31 * 24 * HOUR_US, 3)).await.unwrap();
    let both = [one("2026-11", "1.00"), one("2026-12", "3.00")].concat();
    let expected = (open_month, both.clone(), "4.00".to_owned());
    assert_eq!(told(&statement_of(&ledger, "shop", "2027-01").await.0), expected);

    // Away for months: what is closed is closed one after the other, and the last of them has the corrections. What is
    // priced is there for ever, also when hours are not.
    ledger.tidy(Retention { hour_days: 1, record_days: 1, ..Retention::default() }, NOVEMBER + 200 * 24).await.unwrap();
    close(&ledger, "2027-05-20T10:00:00Z").await;
    for month in ["2027-01", "2027-02", "2027-03"] {
        assert_eq!(told(&statement_of(&ledger, "shop", month).await.0), (closed, vec![], "0.00".to_owned()), "{month}");
    }
    assert_eq!(told(&statement_of(&ledger, "shop", "2027-04").await.0), (closed, both, "4.00".to_owned()));
    assert_eq!(told(&statement_of(&ledger, "shop", "2027-05").await.0), (open_month, vec![], "0.00".to_owned()));
    assert_eq!(statement_of(&ledger, "shop", "2026-11").await.1, first, "to the byte");
    assert_eq!(statement_of(&ledger, "shop", "2026-12").await, december);
    // Everything that was ever billed is what was ever used.
    let all = ["2026-11", "2026-12", "2027-01", "2027-02", "2027-03", "2027-04", "2027-05"];
    let mut billed = Decimal::ZERO;
    for month in all {
        billed += statement_of(&ledger, "shop", month).await.0.total;
    }
    assert_eq!(billed.to_string(), "116.00", "100 + 5 + 7 + 1 + 3");
}

/// Prices that change bill nothing twice, and another currency corrects nothing.
pub async fn a_new_plan_bills_nothing_twice(place: &Place) {
    let ledger = open(place).await;
    let plan = |price: i64, currency: &str| {
        let per_call = Tiers::flat(Decimal::from(price));
        Plans::from(PricePlan { per_call, currency: currency.to_owned(), ..by_the_call().in_force().clone() })
    };
    let close = async |plans: &Plans, now: &str| ledger.close_months(plans, 3, now.parse().unwrap()).await.unwrap();
    let one = CallRecord { subject: 2, key: 0, outcome: Outcome::Ok, ..record(6) };
    let at = |hour: u32| CallRecord { received_at_us: i64::from(hour) * HOUR_US, ..one };
    close(&plan(1, "CNY"), "2026-12-04T00:00:00Z").await;
    // A tenant that nobody knew, with two calls in a month that is closed.
    ledger.append(frame_of(1, 1, &[at(NOVEMBER), at(NOVEMBER)], subjects())).await.unwrap();
    close(&plan(1, "CNY"), "2027-01-04T00:00:00Z").await;
    let answer = async |plans: &Plans, month: &str| {
        let now = "2027-06-01T00:00:00Z".parse().unwrap();
        told(&ledger.statement("blog", month.parse().unwrap(), plans, None, now).await.unwrap().statement)
    };
    let november = (State::Closed, vec![], "0.00".to_owned());
    let december = (State::Closed, vec![("2026-11".to_owned(), "2.00".to_owned())], "2.00".to_owned());
    for (price, currency) in [(1, "CNY"), (2, "CNY"), (2, "USD")] {
        let plans = plan(price, currency);
        assert_eq!(answer(&plans, "2026-11").await, november);
        assert_eq!(answer(&plans, "2026-12").await, december);
        assert_eq!(answer(&plans, "2027-01").await, (State::Open, vec![], "0.00".to_owned()), "{price} {currency}");
    }
    close(&plan(2, "CNY"), "2027-02-04T00:00:00Z").await;
    ledger.append(frame_of(1, 3, &[at(NOVEMBER)], subjects())).await.unwrap();
    let corrected = vec![("2026-11".to_owned(), "1.00".to_owned())];
    assert_eq!(
        answer(&plan(2, "CNY"), "2027-02").await,
        (State::Open, corrected, "1.00".to_owned()),
        "by its own plan"
    );
    assert_eq!(answer(&plan(2, "USD"), "2027-02").await, (State::Open, vec![], "0.00".to_owned()));
}

/// What a ledger holds, as it is asked: a line for each thing.
async fn everything(ledger: &Ledger) -> Vec<String> {
    let days = UsageQuery { granularity: Granularity::Day, ..all_hours() };
    let minutes = UsageQuery { granularity: Granularity::Minute, ..all_hours() };
    let mut rows = Vec::new();
    for query in [&all_hours(), &days, &minutes] {
        rows.extend(ledger.usage(query).await.unwrap().rows);
    }
    let records = ledger.records(&all_records()).await.unwrap().rows.into_iter();
    let mut records: Vec<_> = records.map(|row| (row.request_id, row.subject, row.record)).collect();
    records.sort_by_key(|(id, ..)| *id);
    let lines = rows.iter().map(|row| format!("{row:?}")).chain(records.iter().map(|record| format!("{record:?}")));
    let reversals = ledger.reversals(&Filter::default(), &(0..i64::MAX), (None, 1_000)).await.unwrap();
    let lines = lines.chain([format!("{reversals:?}")]);
    let last = [format!("{:?}", statement_of(ledger, "shop", "2026-11").await), format!("{:?}", ledger.kept_from())];
    lines.chain(last).collect()
}

fn same(found: &[String], expected: &[String]) {
    let differ = found.iter().zip(expected).find(|(found, expected)| found != expected);
    assert!(differ.is_none() && found.len() == expected.len(), "{differ:#?}, {} of {}", found.len(), expected.len());
}

/// Takes a record of the first activator back.
async fn take_back(ledger: &Ledger, seq: u64) -> Reversed {
    let id = RecordId { activator: 1, epoch: 1, seq, received_at_us: record(seq).received_at_us };
    let at = "2026-12-20T00:00:00Z".parse().unwrap();
    ledger.reverse(&[id], Order { by: "alice", reason: "ours", at }).await.unwrap()[0]
}

/// There and back again: every grain, whole and gone records, counted warm time, closed months, and what goes on from them.
pub async fn a_ledger_moves_whole(place: &Place) {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = [here.path().join("first"), here.path().join("second")];
    let [first, last] = [here.path().join("ledger"), there.path().join("ledger")].map(Place::folder);
    let ledger = open(&first).await;
    ledger.append(frame(1, 1..2_001)).await.unwrap();
    ledger.append(frame(9, 1..501)).await.unwrap();
    let hour = i64::from(NOVEMBER) * HOUR_US;
    let span = |from_h: i64, to_h: i64| WarmSpan {
        subject: subjects().swap_remove(0),
        resumes: true,
        open: true,
        from_us: hour + from_h * HOUR_US,
        to_us: hour + to_h * HOUR_US,
    };
    ledger.keep_warm(vec![span(0, 30)]).await.unwrap();
    assert_eq!(take_back(&ledger, 6).await, Reversed::Now);
    ledger.close_months(&by_the_call(), 3, "2026-12-04T00:00:00Z".parse().unwrap()).await.unwrap();
    ledger.append(frame(9, 501..521)).await.unwrap();
    assert_eq!(take_back(&ledger, 1_992).await, Reversed::Now);
    let keep = Retention { hour_days: 1, record_days: 1, ..Retention::default() };
    ledger.tidy(keep, NOVEMBER + 2 * 24 + 5).await.unwrap();
    let before = everything(&ledger).await;
    let export = async |ledger: &Ledger, file: &std::path::Path| {
        ledger.export(std::fs::File::create_new(file).unwrap()).await.unwrap()
    };
    let import = async |place: &Place, file: &std::path::Path| {
        Ledger::import(place.clone(), std::fs::File::open(file).unwrap()).await
    };
    let summary = export(&ledger, &files[0]).await;
    assert_eq!((summary.functions, summary.statements, summary.reversals), (2, 2, 2));
    assert_eq!(import(place, &files[0]).await.unwrap(), summary);
    let moved = open(place).await;
    same(&everything(&moved).await, &before);
    assert_eq!(export(&moved, &files[1]).await, summary);
    drop(moved);
    let again = import(place, &files[0]).await.unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty(_)), "{again}");
    assert_eq!(import(&last, &files[1]).await.unwrap(), summary);

    // All three go on alike: duplicates are known, warm time is counted once, what is late is corrected.
    drop(ledger);
    let mut after = Vec::new();
    for place in [&first, place, &last] {
        let ledger = open(place).await;
        let appended = ledger.append(frame(1, 1_990..2_011)).await.unwrap();
        assert_eq!((appended.watermark, appended.outcome), (2_010, AppendOutcome::Applied));
        assert_eq!(ledger.append(frame(9, 1..521)).await.unwrap().outcome, AppendOutcome::Duplicate);
        ledger.keep_warm(vec![span(20, 31)]).await.unwrap();
        assert_eq!(take_back(&ledger, 1_992).await, Reversed::Before);
        assert!(ledger.verify().await.unwrap().holds());
        let next = statement_of(&ledger, "shop", "2026-12").await.0;
        assert_eq!(next.corrections.len(), 1, "{next:?}");
        after.push([everything(&ledger).await, vec![format!("{next:?}")]].concat());
    }
    same(&after[1], &after[0]);
    same(&after[2], &after[0]);

    // A file that is not whole leaves nothing that could be taken for a ledger.
    let whole = std::fs::read(&files[0]).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bad in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &whole[1..], &flipped, &[]] {
        let home = tempfile::tempdir().unwrap();
        let place = Place::folder(home.path().join("ledger"));
        let error = Ledger::import(place.clone(), std::io::Cursor::new(bad.to_vec())).await.unwrap_err();
        assert!(matches!(error, TransferError::BadFile(_)), "{error}");
        assert!(Ledger::open(place, PricePlan::default()).await.is_err(), "{error}");
    }
}

/// A clock that is far off holds up nothing: its calls are counted in the first or the last hour that there is.
pub async fn any_time_is_taken(place: &Place) {
    let ledger = open(place).await;
    let times = [i64::MIN, -1, 0, i64::MAX - 200_000_000, i64::MAX - 100_000_000, i64::MAX];
    let far = |at| CallRecord { received_at_us: at, ..record(6) };
    let records: Vec<_> = times.into_iter().map(far).collect();
    ledger.append(frame_of(1, 1, &records, subjects())).await.unwrap();
    let mut found: Vec<_> =
        ledger.records(&RecordsQuery { times_us: i64::MIN..i64::MAX, ..all_records() }).await.unwrap().rows;
    found.sort_by_key(|row| row.key.seq);
    assert_eq!(found.iter().map(|row| row.record.received_at_us).collect::<Vec<_>>(), times[..5]);
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 6, "{check:?}");
}

/// What is told again, or overlaps what was told, is counted once; also after the ledger was opened again.
pub async fn warm_time_is_counted_once(place: &Place) {
    let hour = i64::from(NOVEMBER) * HOUR_US;
    let span = |at: usize, from_s: i64, to_s: i64| {
        let (from_us, to_us) = (hour + from_s * 1_000_000, hour + to_s * 1_000_000);
        WarmSpan { subject: subjects().swap_remove(at), resumes: false, open: true, from_us, to_us }
    };
    let ledger = open(place).await;
    ledger.keep_warm(vec![span(0, 3_590, 3_600), span(2, 0, 30)]).await.unwrap();
    ledger.keep_warm(vec![span(0, 3_590, 3_605), span(0, 3_590, 3_605)]).await.unwrap();
    drop(ledger);
    let ledger = open(place).await;
    // The first goes on from where it was counted to, 3,605; the second was never counted.
    let resumed = |span: WarmSpan| WarmSpan { resumes: true, ..span };
    ledger.keep_warm(vec![resumed(span(0, 3_615, 3_620)), resumed(span(1, 3_600, 3_660))]).await.unwrap();
    let one = CallRecord { subject: 0, warm_slots: 4, run_us: 20_000_000, received_at_us: hour, ..record(6) };
    ledger.append(frame_of(1, 1, &[one], subjects())).await.unwrap();
    let found: Vec<_> = ledger
        .usage(&all_hours())
        .await
        .unwrap()
        .rows
        .into_iter()
        .map(|row| (row.group.function.clone().unwrap(), row.time.start - NOVEMBER, row.usage.warm))
        .collect();
    let warm = |seconds: u128, used: u128| Warm {
        mib_ms: seconds * 1000 * 512,
        mcpu_ms: seconds * 1000 * 100,
        used_mib_ms: used * 1000 * 512,
        used_mcpu_ms: used * 1000 * 100,
    };
    let expected = [
        ("feed".to_owned(), 0, warm(30, 0)),
        ("cart".to_owned(), 0, warm(10, 5)),
        ("cart".to_owned(), 1, warm(20 + 60, 0)),
    ];
    assert_eq!(found, expected, "of one slot in four, a quarter is used");
    assert!(ledger.verify().await.unwrap().holds());
}

pub async fn many_at_once_are_all_applied(place: &Place) {
    let ledger = open(place).await;
    let tasks: Vec<_> = (0..8u64)
        .map(|activator| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for part in 0..20 {
                    let first = 1 + part * 100;
                    let appended = ledger.append(frame(activator, first..first + 100)).await.unwrap();
                    assert_eq!(appended, Appended { watermark: first + 99, outcome: AppendOutcome::Applied });
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let check = ledger.verify().await.unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!(check.by_record, 16_000);
}

pub async fn small_frames_share_blocks_and_no_page_loses_one(place: &Place) {
    let ledger = open(place).await;
    let mut query = RecordsQuery { limit: 5, ..all_records() };
    let mut seen = Vec::new();
    for seq in 1..201 {
        ledger.append(frame(1, seq..seq + 1)).await.unwrap();
        if seq % 3 == 0 {
            // Paging goes on while blocks grow.
            let page = ledger.records(&query).await.unwrap();
            seen.extend(page.rows.iter().map(|r| r.key.seq));
            query.after = page.rows.last().map(|r| r.key).or(query.after);
        }
    }
    while let Some(last) = ledger.records(&query).await.unwrap().rows.last().map(|r| r.key) {
        seen.extend(ledger.records(&query).await.unwrap().rows.iter().map(|r| r.key.seq));
        query.after = Some(last);
    }
    assert_eq!(seen, (1..201).collect::<Vec<_>>());
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 200, "{check:?}");
    drop(ledger);
    assert_eq!(found(&open(place).await).await, expected(1..201));
}

/// Frames as a broken network delivers them: any cut, order and repetition, then everything once from the start.
pub fn deliveries() -> impl Strategy<Value = (Vec<(u64, u64)>, Vec<u64>)> {
    let any_frames = prop::collection::vec((1u64..300, 1u64..80), 0..25);
    let cuts = prop::collection::btree_set(2u64..300, 0..6);
    (any_frames, cuts.prop_map(|cuts| cuts.into_iter().chain([301]).collect()))
}

/// Whatever way frames come, the state is the same.
pub async fn any_split_resend_and_order_gives_the_same_state(
    place: &Place,
    (wild, cuts): (Vec<(u64, u64)>, Vec<u64>),
    reopen: bool,
) {
    let mut ledger = open(place).await;
    for (first, len) in wild {
        ledger.append(frame(1, first..(first + len).min(301))).await.unwrap();
    }
    if reopen {
        drop(ledger);
        ledger = open(place).await;
    }
    let mut first = 1;
    for cut in cuts {
        let appended = ledger.append(frame(1, first..cut)).await.unwrap();
        assert!(appended.watermark >= cut - 1);
        first = cut;
    }
    assert_eq!(found(&ledger).await, expected(1..301));
    let mut records = ledger.records(&all_records()).await.unwrap().rows;
    records.sort_unstable_by_key(|r| r.key.seq);
    let plain: Vec<_> = records.iter().map(|r| CallRecord { subject: (r.key.seq % 3) as u32, ..r.record }).collect();
    assert_eq!(plain, (1..301).map(record).collect::<Vec<_>>());
    let check = ledger.verify().await.unwrap();
    assert!(check.holds() && check.by_record == 300, "{check:?}");
}

/// Declares every test for a store: `$home` makes an empty place, and keeps it until it is dropped.
macro_rules! conformance {
    ($home:expr) => {
        $crate::conformance::conformance! { $home =>
            a_frame_is_applied_once_and_a_gap_not_at_all
            a_damaged_frame_is_refused_and_changes_nothing
            it_reopens_with_everything_and_goes_on
            records_page_through_without_a_hole_or_a_double
            usage_pages_and_grains_add_up
            time_is_counted_by_the_rules_of_all_plans_that_were_there
            the_start_of_an_instance_is_counted_once
            minutes_are_kept_for_a_while
            after_their_time_hours_are_days
            records_that_go_are_archived
            a_closed_statement_stays_and_what_comes_late_is_corrected_once
            a_new_plan_bills_nothing_twice
            a_ledger_moves_whole
            any_time_is_taken
            warm_time_is_counted_once
            many_at_once_are_all_applied
            small_frames_share_blocks_and_no_page_loses_one
            a_record_is_taken_back_once
            what_is_taken_back_of_a_closed_month_is_a_correction
            what_is_taken_back_costs_as_if_it_had_not_come
            a_rule_that_was_not_in_use_loses_nothing
            a_record_is_found_among_many
        }

        proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]
            #[test]
            fn any_split_resend_and_order_gives_the_same_state(
                deliveries in $crate::conformance::deliveries(),
                reopen in proptest::prelude::any::<bool>(),
            ) {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                runtime.block_on(async {
                    let home = $home.await;
                    let place = home.place();
                    $crate::conformance::any_split_resend_and_order_gives_the_same_state(&place, deliveries, reopen).await;
                });
            }
        }
    };
    ($home:expr => $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                let home = $home.await;
                $crate::conformance::$name(&home.place()).await;
            }
        )*
    };
}
pub(crate) use conformance;
