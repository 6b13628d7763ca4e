//! The journal: the durable, append-only, hash-chained record of every run, and of the deeds that belong to none.
//!
//! This file is the contract; `store.rs` keeps it on disk and `memory.rs` in memory, under one suite of
//! tests. Nothing here knows what a record means beyond the line that a run has in a list.
//!
//! ```text
//! append -> writer.rs (one thread, group commit) -> disk.rs (sled): unfinished runs, and those that ended lately
//!                 `-> sealer.rs (another thread) -> segment.rs: finished runs, sealed in immutable files
//! read, list <- history.rs: where each run is <- both;   objects.rs: bundles and plans by digest
//! ```

mod check;
mod disk;
mod export;
mod history;
#[cfg(test)]
pub(crate) mod hooked;
mod memory;
mod objects;
mod query;
mod record;
mod sealer;
mod segment;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;

use async_trait::async_trait;

pub use self::check::Checked;
pub use self::export::Counted;
pub use self::memory::MemoryJournal;
pub use self::query::{PAGE, Page, Query};
pub use self::record::FORMAT;
pub use self::store::{DiskJournal, Limits, OpenError, Statistics};
use crate::audit::{Chain, Entry, Head};
use crate::id::{Digest, RunId, Seq};
use crate::ledger::DeedRecord;
use crate::run::{Record, RunSummary};

/// Why the journal could not do what it was asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A write failed. The handle is of no more use: nothing may start, since nothing can be recorded.
    #[error("the journal cannot be written: {0}")]
    Broken(String),
    /// What is stored is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The disk would not do it.
    #[error("{path}: {why}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A record that does not follow on the one before it: a bug of the caller.
    #[error("run {0}: a record out of order")]
    OutOfOrder(RunId),
    /// The same of a deed.
    #[error("deed {0} is out of order")]
    DeedOutOfOrder(u64),
}

/// What is written together: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Together {
    /// Records of runs. Those of one run stand in their order, and none follows on the end of its run.
    pub records: Vec<Record>,
    /// Deeds, in their order.
    pub deeds: Vec<DeedRecord>,
    /// What is kept beside, and may change.
    pub rows: Vec<Row>,
}

impl Together {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.deeds.is_empty() && self.rows.is_empty()
    }
}

/// Something small that is kept under a name and changes with what is written beside it: up to when a schedule's slots
/// are decided, and which were skipped. It is no history: whoever writes one sees to it that there are few.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub key: String,
    /// What it says now; nothing removes it.
    pub value: Option<Vec<u8>>,
}

/// A run whose records retention has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// The run.
    pub run: RunId,
    /// The deed that says so.
    pub deed: Seq,
    /// How many records it had.
    pub records: u64,
}

/// Where records and the bytes that they name are kept.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Writes all of it or nothing; returns when it is on disk. What the audit log holds of it is written with it.
    async fn write(&self, together: Together) -> Result<(), Error>;

    /// Writes records alone.
    async fn append(&self, records: Vec<Record>) -> Result<(), Error> {
        self.write(Together { records, ..Together::default() }).await
    }

    /// All deeds, in order, each with its hash over those before it.
    fn deeds(&self) -> Result<Vec<(DeedRecord, Chain)>, Error>;

    /// One deed; `None` where there are not so many.
    fn deed(&self, seq: Seq) -> Result<Option<DeedRecord>, Error> {
        Ok(self.deeds()?.into_iter().map(|(deed, _)| deed).find(|deed| deed.seq == seq))
    }

    /// The rows whose names begin so, in the order of their names.
    fn rows(&self, prefix: &str) -> Vec<(String, Vec<u8>)>;

    /// The run that has this of what no other run may have ([`crate::run::Event::unique`]). Runs that were sealed when
    /// the audit log ended at `seen` are passed over: 0 asks of all.
    fn unique(&self, name: &str, seen: u64) -> Result<Option<RunId>, Error>;

    /// The records of a run, in order, each with its hash over everything before it; none for a run that is not known.
    fn read_chained(&self, run: RunId) -> Result<Vec<(Record, Chain)>, Error>;

    /// The records of a run, in order; none for a run that is not known.
    fn read(&self, run: RunId) -> Result<Vec<Record>, Error> {
        Ok(self.read_chained(run)?.into_iter().map(|(record, _)| record).collect())
    }

    /// A page of the records of a run: at most so many after this one, in order.
    fn read_after(&self, run: RunId, after: Seq, limit: usize) -> Result<Vec<Record>, Error> {
        let records = self.read(run)?.into_iter();
        Ok(records.filter(|record| record.seq > after).take(limit).collect())
    }

    /// A page of runs, newest first. It costs the same wherever the page is and however many runs there are.
    fn list(&self, query: &Query) -> Result<Page, Error>;

    /// The runs that are not final, in the order of their ids.
    fn unfinished(&self) -> Vec<RunSummary>;

    /// Entries of the audit log after this position, in order, at most so many.
    fn audit(&self, after: u64, limit: usize) -> Result<Vec<Entry>, Error>;

    /// The end of the audit log.
    fn head(&self) -> Head;

    /// The head that the audit log had at this position; `None` where it does not reach so far.
    fn head_at(&self, position: u64) -> Result<Option<Head>, Error>;

    /// Removes the records of finished runs, as a deed that is on disk says; entries of the audit log stay. Runs that are
    /// gone already are passed over.
    async fn prune(&self, deed: Seq, runs: Vec<RunId>) -> Result<(), Error>;

    /// The runs that were removed so.
    fn removed(&self) -> Result<Vec<Removed>, Error>;

    /// Removes bytes that no record and no deed names; tells how many.
    fn sweep(&self) -> Result<u64, Error>;

    /// Keeps bytes under their digest; returns when they are on disk.
    fn put(&self, bytes: &[u8]) -> Result<Digest, Error>;

    /// The bytes of this digest, checked against it.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error>;

    /// After a failed write: drops the handle and opens the store anew, as after a restart. Reads are served meanwhile.
    ///
    /// # Errors
    /// It still cannot be written, or it does not hold what was acknowledged.
    fn reopen(&self) -> Result<(), Error> {
        Ok(())
    }
}
