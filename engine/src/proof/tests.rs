//! What somebody who can write to the store may try, knowing the format and recomputing every hash.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::*;
use crate::audit::Chain;
use crate::clock::Timestamp;
use crate::id::{Attempt, Digest, Seq};
use crate::journal::Together;
use crate::journal::{MemoryJournal, Page};
use crate::ledger::{Deed, DeedRecord};
use crate::run::{Outcome, Record, RunSummary, Trigger};

fn id(run: u64) -> RunId {
    RunId::new(1_000 + run, u128::from(run))
}

fn submitted(run: u64, actor: &str) -> Record {
    let event = Event::RunSubmitted {
        source: None,
        key: None,
        workflow: "release".parse().expect("a name"),
        revision: Digest::of(b"revision"),
        bundle: Digest::of(b"bundle"),
        inputs: BTreeMap::new(),
        vars: BTreeMap::new(),
        secrets: BTreeSet::new(),
        trigger: Trigger::Manual,
        actor: actor.into(),
        left_out: BTreeSet::new(),
        environments: BTreeSet::new(),
        tags: BTreeSet::new(),
        origin: None,
        kept: BTreeMap::new(),
    };
    Record { run: id(run), seq: Seq(1), at: Timestamp::from_millis(run), event }
}

fn phase(run: u64, seq: u64) -> Record {
    let task = "deploy".parse().expect("a name");
    let event = Event::PhaseEntered { task, attempt: Attempt::FIRST, phase: format!("phase {seq}") };
    Record { run: id(run), seq: Seq(seq), at: Timestamp::from_millis(run + seq), event }
}

fn ended(run: u64, seq: u64) -> Record {
    let event = Event::RunFinished { outcome: Outcome::Succeeded, reason: None, undone_by: None };
    Record { run: id(run), seq: Seq(seq), at: Timestamp::from_millis(run + seq), event }
}

/// Four runs, interleaved; the last goes on.
fn history() -> Vec<Record> {
    vec![
        submitted(1, "ann"),
        submitted(2, "bob"),
        phase(1, 2),
        phase(1, 3),
        ended(1, 4),
        phase(2, 2),
        submitted(3, "ann"),
        ended(2, 3),
        ended(3, 2),
        submitted(4, "bob"),
        phase(4, 2),
    ]
}

async fn written(records: Vec<Record>) -> MemoryJournal {
    let journal = MemoryJournal::default();
    for record in records {
        journal.append(vec![record]).await.expect("written");
    }
    journal
}

fn problems(journal: &dyn Journal, anchors: &[Head]) -> Vec<String> {
    verify(journal, anchors).expect("readable").problems
}

#[tokio::test]
async fn a_history_with_all_hashes_recomputed_is_found_by_a_head_that_was_kept() {
    type Edit = fn(&mut Vec<Record>);
    let edits: [(&str, Edit); 8] = [
        ("another actor", |records| records[0] = submitted(1, "eve")),
        ("another outcome", |records| {
            records[4].event = Event::RunFinished { outcome: Outcome::Failed, reason: None, undone_by: None }
        }),
        ("a record removed", |records| {
            records.remove(2);
            records[2].seq = Seq(2);
            records[3].seq = Seq(3);
        }),
        ("a record inserted", |records| {
            records.insert(8, phase(3, 2));
            records[9].seq = Seq(3);
        }),
        ("a run removed", |records| records.retain(|record| record.run != id(1))),
        ("a run inserted", |records| records.insert(5, submitted(9, "eve"))),
        ("two submits swapped", |records| records.swap(0, 1)),
        ("the tail cut off", |records| records.truncate(7)),
    ];
    let true_history = written(history()).await;
    let kept = true_history.head();
    let early = true_history.head_at(2).expect("read").expect("known");
    for anchors in [&[][..], &[kept], &[early], &[Head::default(), early, kept]] {
        assert_eq!(problems(&true_history, anchors), Vec::<String>::new(), "the control is unchanged");
    }
    for (what, edit) in edits {
        let mut records = history();
        edit(&mut records);
        let forged = written(records).await;
        assert_eq!(problems(&forged, &[]), Vec::<String>::new(), "{what}: it fits together");
        assert_eq!(problems(&forged, &[kept]).len(), 1, "{what}: it is not what was kept");
    }
    let mut more = history();
    more.push(ended(4, 3));
    assert_eq!(
        problems(&written(more).await, &[kept]),
        Vec::<String>::new(),
        "what was added changes nothing"
    );
}

/// A journal whose parts do not fit together any more.
struct Forged {
    inner: MemoryJournal,
    records: fn(RunId, &mut Vec<(Record, Chain)>),
    audit: fn(&mut Vec<Entry>),
    list: fn(&mut Page),
    deeds: fn(&mut Vec<(DeedRecord, Chain)>),
}

impl Forged {
    async fn new() -> Forged {
        let inner = written(history()).await;
        for (seq, environment) in [(1, "production"), (2, "staging")] {
            let deed = Deed::EnvironmentFrozen {
                environment: environment.into(),
                by: "ann".into(),
                reason: "sale".into(),
                until: None,
            };
            let deed = DeedRecord { seq: Seq(seq), at: Timestamp::from_millis(90), deed };
            inner.write(Together { deeds: vec![deed], ..Together::default() }).await.expect("written");
        }
        Forged { inner, records: |_, _| {}, audit: |_| {}, list: |_| {}, deeds: |_| {} }
    }
}

#[async_trait]
impl Journal for Forged {
    async fn write(&self, _together: Together) -> Result<(), Error> {
        Ok(())
    }

    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error> {
        let mut deeds = self.inner.deeds()?;
        (self.deeds)(&mut deeds);
        Ok(deeds)
    }

    fn rows(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.inner.rows(prefix)
    }

    fn unique(&self, name: &str, seen: u64) -> Result<Option<RunId>, Error> {
        self.inner.unique(name, seen)
    }

    fn read_chained(&self, run: RunId) -> Result<Vec<(Record, Chain)>, Error> {
        let mut records = self.inner.read_chained(run)?;
        (self.records)(run, &mut records);
        Ok(records)
    }

    fn list(&self, query: &Query) -> Result<Page, Error> {
        let mut page = self.inner.list(query)?;
        (self.list)(&mut page);
        Ok(page)
    }

    fn unfinished(&self) -> Vec<RunSummary> {
        self.inner.unfinished()
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        let mut entries = self.inner.audit(0, 100)?;
        (self.audit)(&mut entries);
        Ok(entries.into_iter().filter(|entry| entry.position > after).take(limit).collect())
    }

    fn head(&self) -> Head {
        self.inner.head()
    }

    fn head_at(&self, position: u64) -> Result<Option<Head>, Error> {
        self.inner.head_at(position)
    }

    async fn prune(&self, deed: Seq, runs: Vec<RunId>) -> Result<(), Error> {
        self.inner.prune(deed, runs).await
    }

    fn removed(&self) -> Result<Vec<crate::journal::Removed>, Error> {
        self.inner.removed()
    }

    fn sweep(&self) -> Result<u64, Error> {
        self.inner.sweep()
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.inner.put(bytes)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.inner.get(digest)
    }
}

#[tokio::test]
async fn parts_that_do_not_fit_each_other_are_found_without_any_head() {
    let table: [(&str, Forged, &str); 11] = [
        (
            "a deed with its hash recomputed",
            Forged { deeds: |deeds| deeds[0].1[0] ^= 1, ..Forged::new().await },
            "deed 1 is not what it was",
        ),
        (
            "a deed removed",
            Forged {
                deeds: |deeds| {
                    deeds.pop();
                },
                ..Forged::new().await
            },
            "deed 2 is missing",
        ),
        (
            "a deed that nobody did",
            Forged { deeds: |deeds| deeds.push(deeds[0].clone()), ..Forged::new().await },
            "deed 3 is not in the audit log",
        ),
        (
            "a run with its hashes recomputed",
            Forged {
                records: |_, records| records.iter_mut().for_each(|(_, chain)| chain[0] ^= 1),
                ..Forged::new().await
            },
            "is not what it was",
        ),
        (
            "a run removed",
            Forged { records: |run, records| records.retain(|_| run != id(4)), ..Forged::new().await },
            "is missing",
        ),
        (
            "the end of a run removed",
            Forged {
                records: |run, records| records.truncate(if run == id(1) { 3 } else { 9 }),
                ..Forged::new().await
            },
            "record 4 of run",
        ),
        (
            "a record after the end",
            Forged {
                records: |run, records| {
                    if run == id(3) {
                        records.push((phase(3, 3), [0; 32]));
                    }
                },
                ..Forged::new().await
            },
            "follow on its end",
        ),
        (
            "an entry removed",
            Forged {
                audit: |entries| {
                    entries.remove(2);
                },
                ..Forged::new().await
            },
            "entry 3 of the audit log is missing",
        ),
        (
            "an entry removed, and the others counted anew",
            Forged {
                audit: |entries| {
                    entries.remove(1);
                    (1..).zip(entries).for_each(|(position, entry)| entry.position = position);
                },
                ..Forged::new().await
            },
            "do not tell the same",
        ),
        (
            "entries swapped",
            Forged { audit: |entries| entries.swap(0, 1), ..Forged::new().await },
            "is missing",
        ),
        (
            "a run that nobody submitted",
            Forged {
                list: |page| {
                    let mut stranger = page.runs[0].clone();
                    stranger.id = id(77);
                    page.runs.push(stranger);
                },
                ..Forged::new().await
            },
            "is not in the audit log",
        ),
    ];
    assert_eq!(problems(&Forged::new().await, &[]), Vec::<String>::new(), "the control fits");
    for (what, forged, words) in table {
        let found = problems(&forged, &[]);
        assert!(found.iter().any(|problem| problem.contains(words)), "{what}: {found:?}");
    }
}
