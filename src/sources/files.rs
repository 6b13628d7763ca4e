//! What a look at a source finds: workflow files and those that they name, as bytes of one moment, or why there is nothing to see. No file
//! is understood here.

use std::collections::BTreeMap;

use graylane_engine::document::Problem;
use graylane_tasks::attached::{MAX_FILE as MAX_ATTACHED, Read};

/// The largest workflow file of a source, and the largest file that one names.
pub(crate) const MAX_FILE: u64 = MAX_ATTACHED;
/// The most workflow files of a source.
pub(crate) const MAX_FILES: usize = 1_000;
/// How deep folders may lie in each other.
pub(crate) const MAX_DEPTH: usize = 8;

/// The workflow files of a source at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// Path and bytes of each file, in the order of their paths.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The files that each of them names beside itself.
    pub(crate) attached: BTreeMap<String, Read>,
    /// Files that could not be read: what was good of them stays.
    pub(crate) problems: Vec<Problem>,
    /// The commit, where the source is a repository.
    pub(crate) commit: Option<String>,
    /// What is worth knowing besides, as a branch that was rewritten.
    pub(crate) note: Option<String>,
}

/// Why a source cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// In words, without anything secret.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Trouble {
    pub(crate) fn new(message: impl Into<String>) -> Trouble {
        Trouble { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Trouble {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Whether a path is one of a workflow file: YAML, and nothing on it is hidden.
pub(crate) fn is_workflow_file(path: &str) -> bool {
    let hidden = path.split('/').any(|part| part.starts_with('.') && part != ".");
    !hidden && (path.ends_with(".yaml") || path.ends_with(".yml"))
}
