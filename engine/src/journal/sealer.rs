//! Seals finished runs: writes them from sled into a segment, and small segments into a larger one, on a thread of its own.
//!
//! It only makes files. Whether a file is part of the store is said by the manifest, which the writer alone changes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::disk::Tree;
use super::record::{Stored, parse_key, run_prefix};
use super::segment::{Builder, Doomed, Segment, file_name};
use super::writer::{AUDIT, Job, audit_key};
use crate::audit::{Chain, ENTRY_BYTES, Entry, Head};
use crate::run::RunSummary;

/// What to make.
pub(super) enum Order {
    /// A segment of these runs, which ended in this order; its slice of the audit log goes on to `to`.
    Seal {
        number: u64,
        tree: Tree,
        from: Head,
        to: u64,
        runs: Vec<RunSummary>,
        /// Of these only that they were there.
        doomed: Option<Arc<Doomed>>,
    },
    /// A segment anew, without some of its runs.
    Prune { number: u64, segment: Arc<Segment>, doomed: Arc<Doomed> },
    /// One segment of several that follow on each other.
    Merge { number: u64, segments: Vec<Arc<Segment>> },
}

/// What was made.
pub(super) enum Made {
    Sealed {
        segment: Segment,
        runs: Vec<RunSummary>,
    },
    Merged {
        segment: Segment,
        old: Vec<u64>,
    },
    /// It could not be made, and is tried again later: nothing is lost by that.
    Failed(String),
}

pub(super) fn run(
    folder: &Path,
    stop: &AtomicBool,
    orders: &mpsc::Receiver<Order>,
    done: &mpsc::Sender<Job>,
) {
    while let Ok(order) = orders.recv() {
        let number = match &order {
            Order::Seal { number, .. } | Order::Prune { number, .. } | Order::Merge { number, .. } => *number,
        };
        let made = catch_unwind(AssertUnwindSafe(|| make(folder, stop, order)))
            .unwrap_or_else(|_| Err("the store panicked".into()));
        let made = made.unwrap_or_else(|why| {
            // What a full disk left of it.
            let _ = std::fs::remove_file(draft(folder, number));
            Made::Failed(why)
        });
        if stop.load(Ordering::Relaxed) || done.send(Job::Made(Box::new(made))).is_err() {
            return;
        }
    }
}

fn draft(folder: &Path, number: u64) -> PathBuf {
    folder.join(file_name(number)).with_extension("draft")
}

fn make(folder: &Path, stop: &AtomicBool, order: Order) -> Result<Made, String> {
    let go_on = || if stop.load(Ordering::Relaxed) { Err("the store is closing".to_owned()) } else { Ok(()) };
    match order {
        Order::Seal { number, tree, from, to, runs, doomed } => {
            let mut builder = Builder::new(folder, number, from)?;
            for run in &runs {
                go_on()?;
                let stored = stored(&tree, run)?;
                match doomed.as_ref().filter(|doomed| doomed.runs.contains(&run.id)) {
                    Some(doomed) => builder.removed(doomed.removed(run.id, stored.len() as u64)),
                    None => builder.run(run, &stored)?,
                }
            }
            for entry in entries(&tree, from.position, to)? {
                builder.entry(&entry);
            }
            Ok(Made::Sealed { segment: builder.finish(number)?, runs })
        }
        Order::Prune { number, segment, doomed } => {
            let (from, _) = segment.about.heads()?;
            let mut builder = Builder::new(folder, number, from)?;
            builder.segment_without(&segment, &doomed)?;
            let old = vec![segment.listed.number];
            Ok(Made::Merged { segment: builder.finish(number)?, old })
        }
        Order::Merge { number, segments } => {
            let from = segments
                .first()
                .map_or(Ok(Head::default()), |first| first.about.heads().map(|(from, _)| from))?;
            let mut builder = Builder::new(folder, number, from)?;
            for segment in &segments {
                go_on()?;
                builder.segment(segment)?;
            }
            let segment = builder.finish(number)?;
            Ok(Made::Merged { segment, old: segments.iter().map(|old| old.listed.number).collect() })
        }
    }
}

fn stored(tree: &Tree, run: &RunSummary) -> Result<Vec<Stored>, String> {
    let mut records = Vec::new();
    let mut chain = Chain::default();
    tree.scan(&run_prefix(run.id), |key, value| {
        let record =
            Stored::from_value(&chain, key, value).map_err(|why| format!("run {}: {why}", run.id))?;
        if parse_key(key).map(|(_, seq)| seq.0) != Some(records.len() as u64 + 1) {
            return Err(format!("run {}: a record is missing", run.id));
        }
        chain = record.chain;
        records.push(record);
        Ok(())
    })?;
    if records.is_empty() { Err(format!("run {}: its records are missing", run.id)) } else { Ok(records) }
}

/// The entries after one position, up to another.
fn entries(tree: &Tree, after: u64, to: u64) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for position in after + 1..=to {
        let value = tree.get(&audit_key(position))?.ok_or("an entry of the audit log is missing")?;
        let entry = value.get(..ENTRY_BYTES).and_then(Entry::from_bytes);
        entries.push(entry.ok_or_else(|| format!("an entry below `{}` is unreadable", char::from(AUDIT)))?);
    }
    Ok(entries)
}
