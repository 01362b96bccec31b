//! What only this store can do wrong.

use super::super::{Ledger, LedgerDoor, OpenError, Place};
use super::*;
use dormouse_core::price::PricePlan;
use dormouse_core::record::{CallRecord, Outcome, Subject};

async fn open_folder(dir: &Path) -> Result<Ledger, FolderError> {
    match Ledger::open(Place::folder(dir), PricePlan::default()).await {
        Ok(ledger) => Ok(ledger),
        Err(OpenError::Folder(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

async fn open(dir: &Path) -> Ledger {
    open_folder(dir).await.unwrap()
}

#[tokio::test]
async fn a_second_opener_is_told_the_file_and_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    let error = open_folder(dir.path()).await.unwrap_err().to_string();
    let file = dir.path().join("sled").join("db");
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(ledger);
    open(dir.path()).await;
}

#[tokio::test]
async fn a_former_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    std::fs::write(
        dir.path().join("FORMAT"),
        "dormouse-ledger 2
",
    )
    .unwrap();
    let error = open_folder(dir.path()).await.unwrap_err();
    assert!(matches!(error, FolderError::Older { found: 2, .. }), "{error}");
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    drop(open(dir.path()).await);
}

/// As a full disk leaves it.
#[tokio::test]
async fn a_snapshot_that_was_not_finished_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    let draft = dir.path().join("sled/snap.00000000FFFFFFFF.generating");
    for content in ["", "half of a snapshot"] {
        std::fs::write(&draft, content).unwrap();
        let ledger = open(dir.path()).await;
        assert!(ledger.verify().await.unwrap().holds() && !draft.exists());
    }
}

#[tokio::test]
async fn a_newer_format_and_strange_folders_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    std::fs::write(dir.path().join("FORMAT"), "dormouse-ledger 4\n").unwrap();
    let before = std::fs::metadata(dir.path().join("sled/db")).unwrap().modified().unwrap();
    let error = open_folder(dir.path()).await.unwrap_err();
    assert!(matches!(error, FolderError::Newer { found: 4, .. }), "{error}");
    assert_eq!(std::fs::metadata(dir.path().join("sled/db")).unwrap().modified().unwrap(), before);

    // The key inside counts as well, in case the file was replaced.
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    let db = sled::open(dir.path().join("sled")).unwrap();
    db.insert(key::FORMAT, &7u32.to_be_bytes()).unwrap();
    drop(db);
    let error = open_folder(dir.path()).await.unwrap_err();
    assert!(matches!(error, FolderError::Newer { found: 7, .. }), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    drop(sled::open(foreign.path()).unwrap());
    let error = open_folder(foreign.path()).await.unwrap_err();
    assert!(matches!(error, FolderError::NotALedger { .. }), "{error}");
    let file = foreign.path().join("conf").join("x");
    let error = open_folder(&file).await.unwrap_err().to_string();
    assert!(error.contains("conf"), "{error}");
}

#[tokio::test]
async fn damage_becomes_an_error_that_names_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    let conf = dir.path().join("sled").join("conf");
    std::fs::write(&conf, [0xff; 64]).unwrap();
    let error = open_folder(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains(&dir.path().display().to_string()) && error.contains("copy"), "{error}");
}

#[tokio::test]
async fn a_file_outside_the_log_makes_it_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    std::fs::write(dir.path().join("sled/blobs/1"), "x").unwrap();
    assert!(ledger.health().problem.unwrap().contains("blobs"));
}

/// One record of an activator.
fn frame(activator: u64, first_seq: u64) -> Checked {
    let text = |text: &str| text.to_owned();
    let subject = Subject {
        function_uid: text("uid"),
        namespace: text("shop"),
        name: text("cart"),
        revision: text("r1"),
        tenant: text("shop"),
        memory_mib: 512,
        cpu_millis: 100,
        instance: text("i1"),
    };
    let record = CallRecord {
        subject: 0,
        call: first_seq,
        received_at_us: 1_793_000_000_000_000,
        wait_us: 10,
        claim_us: 0,
        start_us: 0,
        connect_us: 3,
        run_us: 900,
        request_bytes: 100,
        response_bytes: 1000,
        status: 200,
        outcome: Outcome::Ok,
        cold: false,
        first: false,
        warm_slots: 0,
        key: 0,
        timed: None,
    };
    Checked {
        activator,
        epoch: 1,
        first_seq,
        subjects: vec![subject],
        records: vec![record],
        unseen: false,
        room: None,
    }
}

fn store(dir: &Path) -> SledStore {
    SledStore::open(dir, Filesystem::Checked, Vec::new()).unwrap()
}

#[tokio::test]
async fn a_failed_store_takes_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    // A stored watermark that is no number makes the writer stop, as a failed write would.
    let epoch = key::EpochId { activator: 9, epoch: 1 };
    store.folder.db.insert(epoch.watermark(), b"x").unwrap();
    let error = store.append(frame(9, 1)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Closed(_)), "{error}");
    store.failed().await;
    assert!(store.append(frame(1, 1)).await.is_err());
    assert!(store.health().problem.unwrap().contains("damaged"));
}

#[tokio::test]
async fn small_frames_share_blocks_and_names_are_numbered_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    for seq in 1..201 {
        first.append(frame(1, seq)).await.unwrap();
    }
    drop(first);
    let store = store(dir.path());
    store.append(frame(1, 201)).await.unwrap();
    let blocks = store.folder.db.scan_prefix(key::EpochId { activator: 1, epoch: 1 }.blocks()).count();
    assert!(blocks < 10, "{blocks} blocks");
    assert_eq!(store.functions().await.unwrap().len(), 1);
    assert_eq!(store.folder.last_number(&key::Dictionary::Subject.all()).unwrap(), Some(0));
}

#[test]
fn a_door_that_was_never_opened_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let door = LedgerDoor::new(Place::folder(dir.path()), PricePlan::default());
    assert!(door.ledger().unwrap_err().contains("not open"));
    assert!(door.problem().is_some());
}
