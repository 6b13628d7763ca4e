//! The journal: the durable, append-only, hash-chained record of every run.
//!
//! This file is the contract; `disk.rs` keeps it on disk and `memory.rs` in memory, under one suite of
//! tests. `record.rs` owns the stored form. Nothing here knows what a record means.

mod disk;
mod memory;
mod record;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use async_trait::async_trait;

pub use self::disk::{DiskJournal, OpenError};
pub use self::memory::MemoryJournal;
pub use self::record::FORMAT;
use crate::id::{Digest, RunId};
use crate::run::Record;

/// Why the journal could not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
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
}

/// Where records and the bytes that they name are kept.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Writes records, all or none; returns when they are on disk. Records of one run stand in their order.
    async fn append(&self, records: Vec<Record>) -> Result<(), Error>;

    /// The records of a run, in order; none for a run that is not known.
    fn read(&self, run: RunId) -> Result<Vec<Record>, Error>;

    /// Hands every record to `each`, run after run in the order of their ids, and in order inside a run.
    fn scan(&self, each: &mut dyn FnMut(Record)) -> Result<(), Error>;

    /// Keeps bytes under their digest; returns when they are on disk.
    fn put(&self, bytes: &[u8]) -> Result<Digest, Error>;

    /// The bytes of this digest, checked against it.
    fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error>;
}
