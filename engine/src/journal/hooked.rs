//! For tests: a journal in memory whose writes somebody watches or refuses. All else is passed through.

use async_trait::async_trait;

use super::{Error, Journal, MemoryJournal, Page, Query, Removed, Together};
use crate::audit::{Chain, Entry, Head};
use crate::id::{Digest, RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::{Record, RunSummary};

/// Who watches.
pub(crate) trait Hook: Send + Sync + 'static {
    /// Whether this may be written.
    fn admit(&self, _together: &Together) -> Result<(), Error> {
        Ok(())
    }

    /// It was written.
    fn written(&self, _together: &Together) {}

    /// Whether the journal may be opened anew.
    fn reopen(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A journal with somebody who watches.
#[derive(Default)]
pub(crate) struct Hooked<H> {
    inner: MemoryJournal,
    pub(crate) hook: H,
}

impl<H> Hooked<H> {
    pub(crate) fn new(hook: H) -> Hooked<H> {
        Hooked { inner: MemoryJournal::default(), hook }
    }
}

#[async_trait]
impl<H: Hook> Journal for Hooked<H> {
    async fn write(&self, together: Together) -> Result<(), Error> {
        self.hook.admit(&together)?;
        self.inner.write(together.clone()).await?;
        self.hook.written(&together);
        Ok(())
    }

    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error> {
        self.inner.deeds()
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
        self.hook.reopen()?;
        self.inner.reopen()
    }
}
