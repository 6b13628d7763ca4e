//! Removed runs: what is left of them, whatever comes between, and what is noticed.

use super::*;
use crate::ledger::DeedRecord;
use crate::retention::{Kept, Policy, begun, due, removal};

fn history(journal: &DiskJournal, anchors: &[Head], removed: u64) {
    let verified = crate::proof::verify(journal, anchors).expect("readable");
    assert_eq!((verified.problems, verified.removed), (Vec::new(), removed));
    assert_eq!(journal.check().problems, Vec::<String>::new());
}

#[tokio::test]
async fn removed_runs_leave_a_history_that_is_proven_whatever_crash_comes_between() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || DiskJournal::open_with(folder.path(), TINY).expect("opened");
    let mut journal = open();
    journal.put(b"bundle").expect("kept");
    for run in 0..40 {
        journal.append(whole(run)).await.expect("written");
    }
    journal.append(vec![record(40, 1)]).await.expect("an unfinished one");
    let anchor = [journal.head()];
    let policy = Policy { age: None, runs: Some(10) };
    let now = Timestamp::from_millis(9_000_000);
    let runs = due(&journal, &policy, &Kept::default(), now).expect("read");
    let gone: Vec<RunId> = runs.iter().map(|run| run.id).collect();
    assert_eq!(gone, (0..30).map(id).collect::<Vec<_>>(), "the oldest first, and nothing unfinished");
    let young = Policy { age: Some(std::time::Duration::from_secs(9_000)), runs: None };
    assert_eq!(due(&journal, &young, &Kept::default(), now), Ok(Vec::new()));

    let (deed, rows) = removal(&journal, &runs, "ann", &policy).expect("read");
    let deeds = vec![DeedRecord { seq: Seq(1), at: now, deed }];
    journal.write(Together { deeds, rows, ..Together::default() }).await.expect("written");
    history(&journal, &anchor, 0);
    drop(journal);
    journal = open();
    history(&journal, &anchor, 0);
    let (left, keys) = begun(&journal).into_values().next().expect("it is known what is to be done");
    assert_eq!(left.iter().collect::<BTreeSet<_>>(), gone.iter().collect());

    // A part of it, then a stop: what is gone and what is still there fit together.
    for part in left.chunks(11) {
        journal.prune(Seq(1), part.to_vec()).await.expect("removed");
        let done = 30.min(11 * (left.chunks(11).position(|other| other == part).expect("there") as u64 + 1));
        history(&journal, &anchor, done);
        drop(journal);
        journal = open();
        history(&journal, &anchor, done);
    }
    journal.prune(Seq(1), left).await.expect("once more changes nothing");
    let rows = keys.into_iter().map(|key| Row { key, value: None }).collect();
    journal.write(Together { rows, ..Together::default() }).await.expect("written");
    history(&journal, &anchor, 30);
    assert_eq!(journal.read(id(3)).expect("read"), []);
    let page = journal.list(&Query { limit: 100, ..Query::default() }).expect("read");
    assert_eq!(ids(&page), (30..=40).rev().map(id).collect::<Vec<_>>());

    // Life goes on, and a backup tells the same.
    for run in 41..80 {
        journal.append(whole(run)).await.expect("written");
    }
    settled(&journal);
    history(&journal, &anchor, 30);
    let (file, copy) = (folder.path().join("b.backup"), tempfile::tempdir().expect("a folder"));
    let written = journal.export(&file).expect("written");
    let restored = DiskJournal::import(&copy.path().join("new"), &file).expect("restored");
    assert_eq!(written, restored);
    let restored = DiskJournal::open_with(&copy.path().join("new"), TINY).expect("opened");
    history(&restored, &anchor, 30);

    // The control: one run more than the deed says.
    journal.prune(Seq(1), vec![id(35)]).await.expect("removed");
    let verified = crate::proof::verify(&journal, &anchor).expect("readable");
    assert!(verified.problems[0].contains("are not the same ones"), "{verified:?}");
}

#[tokio::test]
async fn runs_that_an_unfinished_one_follows_on_or_a_lane_names_stay() {
    let journal = MemoryJournal::default();
    for run in 0..6 {
        journal.append(whole(run)).await.expect("written");
    }
    let mut retry = record(6, 1);
    if let Event::RunSubmitted { origin, .. } = &mut retry.event {
        *origin = Some(crate::run::Origin::Retry { of: id(2) });
    }
    journal.append(vec![retry]).await.expect("written");
    let policy = Policy { age: Some(std::time::Duration::from_secs(1)), runs: None };
    let due = |kept: Kept| {
        let runs = due(&journal, &policy, &kept, Timestamp::from_millis(9_000_000)).expect("read");
        runs.iter().map(|run| run.id).collect::<Vec<_>>()
    };
    assert_eq!(due(Kept::default()), [0, 1, 3, 4, 5].map(id));
    let lane = Kept { runs: BTreeSet::from([id(4)]), unknown: BTreeSet::new() };
    assert_eq!(due(lane), [0, 1, 3, 5].map(id));
    let unknown = Kept { runs: BTreeSet::new(), unknown: BTreeSet::from(["production".to_owned()]) };
    assert_eq!(due(unknown), [3].map(id), "those that name a lane there");
}
