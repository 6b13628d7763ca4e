//! A journal in memory: for tests and for `graylane plan`, which runs nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Error, Journal};
use crate::id::{Digest, RunId};
use crate::run::Record;

/// Keeps records while the process lives.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<RunId, Vec<Record>>,
    bytes: BTreeMap<Digest, Vec<u8>>,
    fails: bool,
}

impl MemoryJournal {
    /// From now on every write fails, as on a full disk.
    pub fn fail_writes(&self) {
        self.inner().fails = true;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn append(&self, records: Vec<Record>) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.fails {
            return Err(Error::Broken("the disk is full".into()));
        }
        let mut last: BTreeMap<RunId, u64> = BTreeMap::new();
        for record in &records {
            let before = last
                .entry(record.run)
                .or_insert_with(|| inner.records.get(&record.run).map_or(0, |records| records.len() as u64));
            if record.seq.0 != *before + 1 {
                return Err(Error::OutOfOrder(record.run));
            }
            *before += 1;
        }
        for record in records {
            inner.records.entry(record.run).or_default().push(record);
        }
        Ok(())
    }

    fn read(&self, run: RunId) -> Result<Vec<Record>, Error> {
        Ok(self.inner().records.get(&run).cloned().unwrap_or_default())
    }

    fn scan(&self, each: &mut dyn FnMut(Record)) -> Result<(), Error> {
        let records = self.inner().records.clone();
        records.into_values().flatten().for_each(each);
        Ok(())
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
}
