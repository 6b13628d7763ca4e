//! What starts runs besides people: schedules, over the catalogue of what is known of workflows.
//!
//! ```text
//! sources (the program's side) --watch--> Catalogue --> here: which slots are due --> the scheduler's loop
//! ```
//! `trigger/driver.rs` decides slots when they are due, `trigger/history.rs` tells what became of them. The catalogue is
//! plain data: whoever reads files fills it and publishes it whole. Nothing here reads a file.

mod driver;
mod history;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::clock::Timestamp;
use crate::document::Problem;
use crate::graph::Graph;
use crate::id::{Digest, SourceName, WorkflowUid};
use crate::run::Sourced;

pub use self::driver::{Driver, Frozen, Options};
pub use self::history::{
    Figures, LastSlot, PendingSlot, ScheduleLine, SlotLine, SlotQuery, Undecided, figures, schedules, slots,
};

/// All that is known of workflows, from every source. A new one replaces the old one as a whole.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// The sources that the settings name.
    pub sources: BTreeMap<SourceName, Source>,
    /// Their workflows.
    pub workflows: BTreeMap<WorkflowUid, Known>,
    /// The operator's variables, which runs of triggers are given.
    pub vars: BTreeMap<String, Value>,
    /// The names of the operator's secrets.
    pub secrets: BTreeSet<String>,
    /// What is wrong with the operator's own files: an environment that is broken is not there.
    pub problems: Vec<Problem>,
}

/// Where workflow files come from: a folder, or a Git repository.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Where it is, in words: a path, or an address without anything secret.
    pub place: String,
    /// When it was read last; none before the first time. Until then nothing is said of workflows that it may hold.
    pub read_at: Option<Timestamp>,
    /// The commit that was read, where it is a repository.
    pub commit: Option<String>,
    /// Why it cannot be read now; what was read before still holds.
    pub problem: Option<String>,
    /// What is worth knowing besides, as a branch that was rewritten.
    pub note: Option<String>,
    /// Problems of files that give no workflow, as two of one name.
    pub problems: Vec<Problem>,
}

/// A workflow of a source. Where its file is wrong now, this is its last good revision, and `problems` say what is wrong.
#[derive(Debug, Clone)]
pub struct Known {
    /// The file, below its source.
    pub path: String,
    /// The last good revision, checked; none where there has been none.
    pub good: Option<Good>,
    /// What is wrong with the file as it is, and warnings.
    pub problems: Vec<Problem>,
}

/// A revision of a workflow that may run.
#[derive(Debug, Clone)]
pub struct Good {
    /// The SHA-256 of the file, and of the files that it names.
    pub revision: Digest,
    /// When it was first seen here.
    pub since: Timestamp,
    /// What a run of it says of where it came from.
    pub sourced: Sourced,
    /// The checked workflow.
    pub graph: Arc<Graph>,
    /// What a run of it is submitted with: this file, those that it names, and the operator's files as they are now. Whoever publishes the
    /// catalogue makes it anew when one of them changes.
    pub bundle: Arc<Bundle>,
}
