//! A journal that measures how long its writes take, and does nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use graylane_engine::audit::{Chain, Entry, Head};
use graylane_engine::id::{Digest, RunId, Seq};
use graylane_engine::journal::{Error, Journal, Page, Query, Removed, Together};
use graylane_engine::ledger::DeedRecord;
use graylane_engine::run::{Record, RunSummary};
use tokio::time::Instant;

use super::Metrics;

/// A journal, measured.
pub(crate) struct Timed<J> {
    inner: Arc<J>,
    metrics: Arc<Metrics>,
}

impl<J> Timed<J> {
    pub(crate) fn new(inner: Arc<J>, metrics: Arc<Metrics>) -> Timed<J> {
        Timed { inner, metrics }
    }
}

#[async_trait]
impl<J: Journal> Journal for Timed<J> {
    async fn write(&self, together: Together) -> Result<(), Error> {
        let began = Instant::now();
        let written = self.inner.write(together).await;
        self.metrics.append(began.elapsed(), written.is_ok());
        written
    }

    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error> {
        self.inner.deeds()
    }

    fn deed(&self, seq: Seq) -> Result<Option<DeedRecord>, Error> {
        self.inner.deed(seq)
    }

    fn read_after(&self, run: RunId, after: Seq, limit: usize) -> Result<Vec<Record>, Error> {
        self.inner.read_after(run, after, limit)
    }

    fn rows(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.inner.rows(prefix)
    }

    fn unique(&self, name: &str, seen: u64) -> Result<Option<RunId>, Error> {
        self.inner.unique(name, seen)
    }

    fn read_chained(&self, run: RunId) -> Result<Vec<(Record, Chain)>, Error> {
        self.inner.read_chained(run)
    }

    fn read(&self, run: RunId) -> Result<Vec<Record>, Error> {
        self.inner.read(run)
    }

    fn list(&self, query: &Query) -> Result<Page, Error> {
        self.inner.list(query)
    }

    fn unfinished(&self) -> Vec<RunSummary> {
        self.inner.unfinished()
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        self.inner.audit(after, limit)
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

    fn removed(&self) -> Result<Vec<Removed>, Error> {
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

    fn reopen(&self) -> Result<(), Error> {
        self.inner.reopen()
    }
}
