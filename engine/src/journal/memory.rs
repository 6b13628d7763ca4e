//! A journal in memory: for tests and for `graylane plan`, which runs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::history::{Index, list};
use super::query::{Page, Query};
use super::record::Stored;
use super::{Error, Journal, Removed, Together};
use crate::audit::{Chain, Entry, Head, is_audited};
use crate::id::{Digest, RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::{Record, RunSummary};

/// Keeps records while the process lives.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    index: Index,
    bytes: BTreeMap<Digest, Vec<u8>>,
    fails: bool,
}

impl MemoryJournal {
    /// From now on every write fails, as on a full disk.
    pub fn fail_writes(&self) {
        self.inner().fails = true;
    }

    /// Writes work again.
    pub fn mend(&self) {
        self.inner().fails = false;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn write(&self, together: Together) -> Result<(), Error> {
        let Together { records, deeds, rows } = together;
        let mut inner = self.inner();
        if inner.fails {
            return Err(Error::Broken("the disk is full".into()));
        }
        let mut last: BTreeMap<RunId, (u64, bool)> = BTreeMap::new();
        for record in &records {
            let before = last.entry(record.run).or_insert_with(|| {
                let line = inner.index.live.get(&record.run);
                line.map_or((0, false), |line| (line.last(), line.summary.is_final()))
            });
            if record.seq.0 != before.0 + 1 || before.1 {
                return Err(Error::OutOfOrder(record.run));
            }
            *before = (record.seq.0, matches!(record.event, crate::run::Event::RunFinished { .. }));
        }
        for (seq, deed) in (inner.index.deeds.len() as u64 + 1..).zip(&deeds) {
            if deed.seq.0 != seq {
                return Err(Error::DeedOutOfOrder(deed.seq.0));
            }
        }
        for record in records {
            let before = inner.index.live.get(&record.run).and_then(|line| line.records.last());
            let before = before.map(|last| last.chain).unwrap_or_default();
            let stored = Stored::of(&before, &record).map_err(Error::Broken)?;
            let chain = stored.chain;
            if is_audited(&record.event) {
                let position = inner.index.head.position + 1;
                let entry = Entry { position, at: record.at, run: record.run, seq: record.seq, chain };
                inner.index.head = inner.index.head.after(&entry);
                inner.index.audit.push_back(entry);
            }
            inner.index.follow(&record, Arc::new(stored));
        }
        for deed in deeds {
            let before = inner.index.deeds.last().map(|last| last.chain).unwrap_or_default();
            let stored = Stored::of_deed(&before, &deed).map_err(Error::Broken)?;
            let position = inner.index.head.position + 1;
            let entry =
                Entry { position, at: deed.at, run: RunId::LEDGER, seq: deed.seq, chain: stored.chain };
            inner.index.head = inner.index.head.after(&entry);
            inner.index.audit.push_back(entry);
            inner.index.deeds.push(Arc::new(stored));
        }
        inner.index.change(rows);
        Ok(())
    }

    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error> {
        self.inner().index.deeds().map_err(Error::Damaged)
    }

    fn deed(&self, seq: Seq) -> Result<Option<DeedRecord>, Error> {
        self.inner().index.deed(seq).map_err(Error::Damaged)
    }

    fn rows(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.inner().index.rows_below(prefix)
    }

    fn unique(&self, name: &str, seen: u64) -> Result<Option<RunId>, Error> {
        Ok(self.inner().index.unique(name, seen).ok())
    }

    fn read_chained(&self, run: RunId) -> Result<Vec<(Record, Chain)>, Error> {
        let inner = self.inner();
        let records = inner.index.live.get(&run).map(|line| line.records.as_slice()).unwrap_or_default();
        let decoded = records.iter().map(|stored| stored.record().map(|record| (record, stored.chain)));
        decoded.collect::<Result<_, _>>().map_err(Error::Damaged)
    }

    fn list(&self, query: &Query) -> Result<Page, Error> {
        list(self.inner().index.live(query), &[], query).map_err(Error::Damaged)
    }

    fn unfinished(&self) -> Vec<RunSummary> {
        self.inner().index.unfinished()
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        Ok(self.inner().index.audit_after(after, limit))
    }

    fn head(&self) -> Head {
        self.inner().index.head
    }

    fn head_at(&self, position: u64) -> Result<Option<Head>, Error> {
        let inner = self.inner();
        let entries = inner.index.audit.iter().take_while(|entry| entry.position <= position);
        let head = entries.fold(Head::default(), |head, entry| head.after(entry));
        Ok((head.position == position).then_some(head))
    }

    async fn prune(&self, _: Seq, _: Vec<RunId>) -> Result<(), Error> {
        Err(Error::Broken("a journal in memory removes nothing".into()))
    }

    fn removed(&self) -> Result<Vec<Removed>, Error> {
        Ok(Vec::new())
    }

    fn sweep(&self) -> Result<u64, Error> {
        Ok(0)
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        self.inner().bytes.insert(digest.clone(), bytes.to_vec());
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let bytes = self.inner().bytes.get(digest).cloned();
        bytes.ok_or_else(|| Error::Damaged(format!("the bytes of {} are missing", digest.short())))
    }

    fn reopen(&self) -> Result<(), Error> {
        if self.inner().fails { Err(Error::Broken("the disk is full".into())) } else { Ok(()) }
    }
}
