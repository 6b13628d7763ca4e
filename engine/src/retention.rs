//! How long finished runs are kept, and how those that are not are removed without breaking the audit chain.
//!
//! ```text
//! due -> a deed that says how many, and a digest of which; with it rows that name them      (one write)
//!     -> segments are written anew without them, with a tombstone for each                  (one write a segment)
//!     -> logs, then bundles and plans that nobody names any more, then the rows             (entered again after a crash)
//! ```
//! Entries of the audit log and heads stay as they are. What was removed can be told from what was taken away: the digest in
//! the deed is of the runs and of the hashes of their ends, which the audit log still has (`proof.rs` compares them).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Chain;
use crate::clock::{Timestamp, rfc3339, show_duration};
use crate::id::{Digest, RunId, Seq};
use crate::journal::{Error, Journal, Query, Row};
use crate::ledger::Deed;
use crate::run::{Event, RunSummary};

/// How many runs one deed removes.
pub const PART: usize = 2_048;
/// How many runs one row names.
const IN_A_ROW: usize = 128;
const ROWS: &str = "retention/";

/// Which finished runs are kept; all, as far as nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Those that ended longer ago are removed.
    pub age: Option<Duration>,
    /// At most so many are kept.
    pub runs: Option<u64>,
}

impl Policy {
    /// Whether it keeps everything.
    pub fn keeps_all(&self) -> bool {
        self.age.is_none() && self.runs.is_none()
    }

    /// In words.
    pub fn words(&self) -> String {
        let age = self.age.map(|age| format!("ended more than {} ago", show_duration(age)));
        let runs = self.runs.map(|runs| format!("more than the last {runs}"));
        age.into_iter().chain(runs).collect::<Vec<_>>().join(", or ")
    }
}

/// What is kept whatever the policy says: runs whose lane is still up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Runs that a lane names.
    pub runs: BTreeSet<RunId>,
    /// Environments whose lanes are not known: runs that name a lane there stay.
    pub unknown: BTreeSet<String>,
}

impl Kept {
    fn keeps(&self, run: &RunSummary) -> bool {
        let unknown = || run.environments.iter().any(|environment| self.unknown.contains(environment));
        self.runs.contains(&run.id) || (!run.tags.is_empty() && unknown())
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retained {
    /// Runs.
    pub runs: u64,
    /// Bundles, plans and workflow files that nobody names any more.
    pub objects: u64,
}

/// A deed of retention, as `audit verify` tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedRuns {
    /// The deed.
    pub deed: Seq,
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Which runs it was for.
    pub rule: String,
    /// How many runs.
    pub runs: u64,
    /// When the first of them had ended.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub ended_from: Timestamp,
    /// When the last of them had ended.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub ended_to: Timestamp,
}

/// The runs that are to be removed, the oldest first. Unfinished runs and those that one of them follows on are never.
///
/// # Errors
/// A journal that cannot be read.
pub fn due(
    journal: &dyn Journal,
    policy: &Policy,
    kept: &Kept,
    now: Timestamp,
) -> Result<Vec<RunSummary>, Error> {
    if policy.keeps_all() {
        return Ok(Vec::new());
    }
    let mut needed = BTreeSet::new();
    for run in journal.unfinished() {
        if let Some(Event::RunSubmitted { origin: Some(origin), .. }) =
            journal.read(run.id)?.first().map(|record| &record.event)
        {
            needed.insert(origin.of());
        }
    }
    let mut query = Query { limit: 1_000, ..Query::default() };
    let (mut finished, mut found) = (0, Vec::new());
    loop {
        let page = journal.list(&query)?;
        query.after = page.runs.last().map(|run| run.id);
        for run in page.runs {
            let Some(ended) = run.ended_at else { continue };
            finished += 1;
            let over = policy.runs.is_some_and(|runs| finished > runs);
            let old = policy.age.is_some_and(|age| ended.plus(age) <= now);
            if (over || old) && !needed.contains(&run.id) && !kept.keeps(&run) {
                found.push(run);
            }
        }
        if !page.more {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// What says that these runs are removed: the deed, and the rows that go with it.
///
/// # Errors
/// A journal that cannot be read.
pub fn removal(
    journal: &dyn Journal,
    runs: &[RunSummary],
    by: &str,
    policy: &Policy,
) -> Result<(Deed, Vec<Row>), Error> {
    let mut ends = BTreeMap::new();
    for run in runs {
        if let Some((_, chain)) = journal.read_chained(run.id)?.last() {
            ends.insert(run.id, *chain);
        }
    }
    let digest = digest(&ends);
    let ended = || runs.iter().filter_map(|run| run.ended_at);
    let rows = runs.chunks(IN_A_ROW).enumerate().map(|(number, part)| Row {
        key: format!("{ROWS}{digest}/{number:04}"),
        value: Some(part.iter().flat_map(|run| run.id.to_bytes()).collect()),
    });
    let rows = rows.collect();
    let deed = Deed::RunsRemoved {
        by: by.to_owned(),
        rule: policy.words(),
        runs: ends.len() as u64,
        ended_from: ended().min().unwrap_or(Timestamp::from_millis(0)),
        ended_to: ended().max().unwrap_or(Timestamp::from_millis(0)),
        digest,
    };
    Ok((deed, rows))
}

/// The digest of runs and of the hashes of their ends.
pub fn digest(ends: &BTreeMap<RunId, Chain>) -> Digest {
    let bytes: Vec<u8> = ends.iter().flat_map(|(run, chain)| [&run.to_bytes()[..], chain].concat()).collect();
    Digest::of(&bytes)
}

/// Removals that were begun and are not done, each with its rows.
pub fn begun(journal: &dyn Journal) -> BTreeMap<String, (Vec<RunId>, Vec<String>)> {
    let mut found: BTreeMap<String, (Vec<RunId>, Vec<String>)> = BTreeMap::new();
    for (key, value) in journal.rows(ROWS) {
        let digest = key.trim_start_matches(ROWS).split('/').next().unwrap_or_default().to_owned();
        let (runs, keys) = found.entry(digest).or_default();
        runs.extend(value.chunks_exact(16).filter_map(|id| id.try_into().ok().map(RunId::from_bytes)));
        keys.push(key);
    }
    found
}
