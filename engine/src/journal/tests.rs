//! One suite for every journal, and what only the one on disk must stand.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::id::Seq;
use crate::run::{Event, Outcome};

fn record(run: u128, seq: u64) -> Record {
    let event = match seq {
        1 => Event::RunAdmitted,
        2 => Event::RunTimedOut,
        _ => Event::RunFinished {
            outcome: Outcome::Succeeded,
            reason: Some(format!("{run}/{seq}")),
            undone_by: None,
        },
    };
    Record { run: RunId::new(1_000, run), seq: Seq(seq), at: Timestamp::from_millis(seq), event }
}

/// What every journal promises.
async fn keeps_the_contract(journal: &dyn Journal) {
    journal.append(vec![record(2, 1), record(1, 1), record(2, 2)]).await.expect("written");
    journal.append(vec![record(1, 2)]).await.expect("written");
    let one = RunId::new(1_000, 1);
    assert_eq!(journal.read(one).expect("read"), [record(1, 1), record(1, 2)]);
    assert_eq!(journal.read(RunId::new(9, 9)).expect("read"), []);

    let refused = journal.append(vec![record(3, 1), record(1, 4)]).await;
    assert!(matches!(refused, Err(Error::OutOfOrder(run)) if run == one), "{refused:?}");
    assert_eq!(journal.read(RunId::new(1_000, 3)).expect("read"), [], "all records of a write, or none");
    journal.append(vec![record(1, 3)]).await.expect("a refused write changes nothing");

    let mut all = Vec::new();
    journal.scan(&mut |record| all.push((record.run, record.seq.0))).expect("scanned");
    let two = RunId::new(1_000, 2);
    assert_eq!(all, [(one, 1), (one, 2), (one, 3), (two, 1), (two, 2)]);

    let digest = journal.put(b"bytes").expect("kept");
    assert_eq!(journal.put(b"bytes").expect("kept twice"), digest);
    assert_eq!(journal.get(&digest).expect("there"), b"bytes");
    assert!(matches!(journal.get(&Digest::of(b"other")), Err(Error::Damaged(_))));
}

#[tokio::test]
async fn the_journal_in_memory_keeps_the_contract() {
    keeps_the_contract(&MemoryJournal::default()).await;
}

#[tokio::test]
async fn the_journal_on_disk_keeps_the_contract_and_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = DiskJournal::open(folder.path()).expect("opened");
    keeps_the_contract(&journal).await;
    drop(journal);
    let journal = DiskJournal::open(folder.path()).expect("opened again");
    assert_eq!(journal.read(RunId::new(1_000, 1)).expect("read").len(), 3);
    journal.append(vec![record(2, 3)]).await.expect("the chain goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_flushes_and_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Arc::new(DiskJournal::open(folder.path()).expect("opened"));
    let writers: Vec<_> = (0..16)
        .map(|run| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                for seq in 1..=20 {
                    journal.append(vec![record(run, seq)]).await.expect("written");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    drop(journal);
    let journal = DiskJournal::open(folder.path()).expect("opened again");
    for run in 0..16 {
        assert_eq!(journal.read(RunId::new(1_000, run)).expect("read").len(), 20);
    }
}

#[tokio::test]
async fn a_second_holder_is_told_who_has_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let _journal = DiskJournal::open(folder.path()).expect("opened");
    match DiskJournal::open(folder.path()) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
}

async fn filled(folder: &Path, runs: u128) {
    let journal = DiskJournal::open(folder).expect("opened");
    for run in 0..runs {
        journal.append((1..=9).map(|seq| record(run, seq)).collect()).await.expect("written");
    }
}

#[tokio::test]
async fn damage_is_told_and_never_a_shorter_history() {
    type Damage = fn(&Path);
    let table: [(&str, Damage); 7] = [
        ("the tail is cut off", |store| cut(&store.join("db"), 2)),
        ("the file is emptied", |store| fs::write(store.join("db"), b"").expect("written")),
        ("the file is missing", |store| fs::remove_file(store.join("db")).expect("removed")),
        ("the tail is zeroed", |store| zero(&store.join("db"), 2, 2)),
        ("the middle is zeroed", |store| zero(&store.join("db"), 3, 1)),
        ("the format is a later one", |store| {
            fs::write(store.parent().expect("a parent").join("format"), b"9\n").expect("written");
        }),
        ("the format is gone", |store| {
            fs::remove_file(store.parent().expect("a parent").join("format")).expect("removed")
        }),
    ];
    for (what, damage) in table {
        let folder = tempfile::tempdir().expect("a folder");
        filled(folder.path(), 400).await;
        damage(&folder.path().join("store"));
        let opened = DiskJournal::open(folder.path());
        let error = opened.err().unwrap_or_else(|| panic!("{what}: opened"));
        assert!(
            matches!(error, OpenError::Damaged { .. } | OpenError::Newer { .. } | OpenError::Io { .. }),
            "{what}: {error}"
        );
    }
}

/// Cuts a file to `1 / part` of its length.
fn cut(path: &Path, part: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
    let length = file.metadata().expect("known").len();
    file.set_len(length / part).expect("cut");
}

/// Zeroes a file from `from / 4` of its length, `quarters` long.
fn zero(path: &Path, from: usize, quarters: usize) {
    let mut bytes = fs::read(path).expect("read");
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let start = used * from / 4;
    let end = (used * (from + quarters) / 4).min(used);
    bytes[start..end].fill(0);
    fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn changed_bytes_of_an_object_are_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = DiskJournal::open(folder.path()).expect("opened");
    let digest = journal.put(b"a plan").expect("kept");
    let (start, rest) = digest.as_str().split_at(2);
    fs::write(folder.path().join("objects").join(start).join(rest), b"another plan").expect("written");
    assert!(matches!(journal.get(&digest), Err(Error::Damaged(_))));
}

#[test]
fn the_stored_form_stays_readable() {
    // Written by format 1; a later version must still read it.
    let stored = r#"{"run":"01ARZ3NDEKTSV4RRFFQ69G5FAV","seq":7,"at":1767323045000,"event":"attempt-failed","task":"deploy","attempt":2,"error":{"kind":"transient","message":"no","details":[],"hint":null},"retry_at":1767323046000}"#;
    let record: Record = serde_json::from_str(stored).expect("readable");
    assert_eq!(serde_json::to_string(&record).expect("writable"), stored);
}
