//! Deeds, rows, and what one run alone has: the same promises of every journal, and what the one on disk must stand.

use super::*;
use crate::ledger::{Deed, DeedRecord};
use crate::run::Key;

fn deed(seq: u64) -> DeedRecord {
    let workflow = "team/release".parse().expect("a workflow");
    let (by, reason) = ("ann".to_owned(), Some(format!("reason {seq}")));
    let deed = if seq.is_multiple_of(2) {
        Deed::WorkflowUnpaused { workflow, by, reason }
    } else {
        Deed::WorkflowPaused { workflow, by, reason }
    };
    DeedRecord { seq: Seq(seq), at: Timestamp::from_millis(5_000 + seq), deed }
}

fn row(key: &str, value: Option<&str>) -> Row {
    Row { key: key.into(), value: value.map(|value| value.as_bytes().to_vec()) }
}

/// The first record of a run that somebody wished for under a name.
fn wished(run: u128, name: &str) -> Record {
    let mut record = record(run, 1);
    if let Event::RunSubmitted { key, .. } = &mut record.event {
        *key = Some(Key { name: Digest::of(name.as_bytes()), request: Digest::of(b"request") });
    }
    record
}

fn named(name: &str) -> String {
    format!("key:{}", Digest::of(name.as_bytes()))
}

async fn deeds_and_rows(journal: &dyn Journal) {
    let together = Together {
        records: vec![record(1, 1)],
        deeds: vec![deed(1), deed(2)],
        rows: vec![row("a/1", Some("one")), row("a/2", Some("two")), row("b/1", Some("three"))],
    };
    journal.write(together).await.expect("written");
    let refused =
        Together { records: vec![record(2, 1)], deeds: vec![deed(4)], rows: vec![row("a/1", None)] };
    assert_eq!(journal.write(refused).await, Err(Error::DeedOutOfOrder(4)));
    let refused =
        Together { records: vec![record(1, 5)], deeds: vec![deed(3)], rows: vec![row("a/1", None)] };
    assert_eq!(journal.write(refused).await, Err(Error::OutOfOrder(id(1))), "all of it or nothing");
    assert_eq!(journal.read(id(2)).expect("read"), []);
    let rows = |prefix: &str| -> Vec<(String, String)> {
        let rows = journal.rows(prefix).into_iter();
        rows.map(|(key, value)| (key, String::from_utf8(value).expect("text"))).collect()
    };
    let told = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(rows("a/"), [told("a/1", "one"), told("a/2", "two")]);
    let rows_alone = vec![row("a/1", Some("again")), row("a/2", None)];
    journal.write(Together { rows: rows_alone, ..Together::default() }).await.expect("written");
    journal.write(Together { deeds: vec![deed(3)], ..Together::default() }).await.expect("written");
    assert_eq!(rows(""), [told("a/1", "again"), told("b/1", "three")]);

    let deeds = journal.deeds().expect("read");
    assert_eq!(deeds.iter().map(|(deed, _)| deed.clone()).collect::<Vec<_>>(), [deed(1), deed(2), deed(3)]);
    let entries = journal.audit(0, 9).expect("read");
    let logged: Vec<_> = entries.iter().map(|entry| (entry.run, entry.seq.0)).collect();
    assert_eq!(logged, [(id(1), 1), (RunId::LEDGER, 1), (RunId::LEDGER, 2), (RunId::LEDGER, 3)]);
    for (entry, (_, chain)) in entries[1..].iter().zip(&deeds) {
        assert_eq!(entry.chain, *chain, "an entry names the hash of its deed");
    }
    proven(journal, 3);
}

#[tokio::test]
async fn deeds_and_rows_are_written_with_records_or_not_at_all() {
    deeds_and_rows(&MemoryJournal::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let journal = DiskJournal::open(folder.path()).expect("opened");
    deeds_and_rows(&journal).await;
    drop(journal);
    let journal = DiskJournal::open(folder.path()).expect("opened again");
    assert_eq!(journal.deeds().expect("read").len(), 3);
    assert_eq!(journal.rows("").len(), 2);
    journal.put(b"bundle").expect("kept");
    journal.write(Together { deeds: vec![deed(4)], ..Together::default() }).await.expect("the chain goes on");
    proven(&journal, 4);
    let statistics = journal.statistics();
    assert_eq!((statistics.deeds, statistics.rows), (4, 2));
    assert_eq!((journal.check().ledger, journal.check().problems), (6, Vec::new()));
}

/// A store with everything in it: runs in segments and in sled, deeds among them, rows that changed often.
async fn full(data: &Path) -> DiskJournal {
    let journal = DiskJournal::open_with(data, TINY).expect("opened");
    journal.put(b"bundle").expect("kept");
    for run in 0..100_u64 {
        let rows =
            vec![row("state", Some(&format!("after {run}"))), row(&format!("slot/{}", run % 7), Some("x"))];
        let mut records = whole(run.into());
        records[0] = wished(run.into(), &format!("wish {run}"));
        let deeds = if run.is_multiple_of(5) { vec![deed(run / 5 + 1)] } else { Vec::new() };
        journal.write(Together { records, deeds, rows }).await.expect("written");
    }
    settled(&journal);
    journal
}

fn is_full(journal: &DiskJournal) {
    proven(journal, 20);
    let rows = journal.rows("");
    assert_eq!(rows.len(), 8);
    assert_eq!(rows.last().expect("a row").1, b"after 99");
    for run in 0..100_u64 {
        let found = journal.unique(&named(&format!("wish {run}")), 0).expect("read");
        assert_eq!(found, Some(id(run.into())), "wish {run}");
    }
    assert_eq!(journal.unique(&named("wish 100"), 0).expect("read"), None);
}

#[tokio::test]
async fn the_ledger_outlives_sealing_a_move_of_the_store_a_restart_and_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let journal = full(&data).await;
    is_full(&journal);
    let sealed = journal.statistics().sealed;
    assert!(sealed > 80, "most wishes are found in segments");
    let head = journal.head().position;
    assert_eq!(
        journal.unique(&named("wish 3"), head).expect("read"),
        None,
        "what was looked through is passed over"
    );
    journal.compact().await.expect("moved");
    is_full(&journal);
    let backup = folder.path().join("backup");
    let counted = journal.export(&backup).expect("written");
    assert_eq!((counted.deeds, counted.rows), (20, 8));
    drop(journal);
    is_full(&DiskJournal::open_with(&data, TINY).expect("opened again"));
    let restored = folder.path().join("restored");
    assert_eq!(DiskJournal::import(&restored, &backup).expect("restored"), counted);
    is_full(&DiskJournal::open_with(&restored, TINY).expect("opened"));
}

#[tokio::test]
async fn a_deed_that_was_changed_or_removed_is_told_when_the_store_is_opened() {
    type Forge = fn(&crate::journal::disk::Tree);
    let table: [(&str, Forge, &str); 4] = [
        ("nothing", |_| {}, ""),
        (
            "a deed changed, its own hash recomputed",
            |tree| {
                let mut last = deed(3);
                last.deed = Deed::WorkflowPaused {
                    workflow: "team/release".parse().expect("a workflow"),
                    by: "somebody else".into(),
                    reason: None,
                };
                let second =
                    tree.get(&crate::journal::record::deed_key(Seq(2))).expect("read").expect("there");
                let before: Chain = second[1..33].try_into().expect("a hash");
                let stored = crate::journal::record::Stored::of_deed(&before, &last).expect("made");
                let value = crate::journal::record::value(&stored.chain, &stored.json);
                put(tree, 3, Some(&value));
            },
            "deed 3, which the audit log names, is missing or was changed",
        ),
        ("a deed of the middle removed", |tree| put(tree, 2, None), "deed 2: it is missing"),
        ("the last deed removed", |tree| put(tree, 3, None), "deed 3, which the audit log names"),
    ];
    for (what, forge, words) in table {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = DiskJournal::open(folder.path()).expect("opened");
        deeds_and_rows(&journal).await;
        drop(journal);
        let tree = crate::journal::store::tree_of(folder.path()).expect("opened");
        forge(&tree);
        drop(tree);
        match DiskJournal::open(folder.path()) {
            Ok(_) => assert_eq!(words, "", "{what} goes unnoticed"),
            Err(error) => assert!(!words.is_empty() && error.to_string().contains(words), "{what}: {error}"),
        }
    }
}

fn put(tree: &crate::journal::disk::Tree, seq: u64, value: Option<&[u8]>) {
    let mut batch = crate::journal::disk::Batch::default();
    let key = crate::journal::record::deed_key(Seq(seq));
    match value {
        Some(value) => batch.insert(&key, value),
        None => batch.remove(&key),
    }
    tree.commit(batch).expect("written");
}
