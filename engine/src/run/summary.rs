//! A run as a line in a list: what lists show and filter on.
//!
//! Folded from records alone, without the graph, so that the journal can keep lists by itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::{Event, Record};
use super::state::RunState;
use crate::clock::Timestamp;
use crate::id::{RunId, WorkflowName};

/// A line in a list of runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run.
    pub id: RunId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// Its state, in one word.
    pub status: String,
    /// Who submitted it.
    pub actor: String,
    /// What kind of trigger started it, in one word.
    #[serde(default = "manual")]
    pub trigger: String,
    /// The environments that its tasks name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub environments: BTreeSet<String>,
    /// The lanes that its tasks name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

fn manual() -> String {
    "manual".into()
}

impl RunSummary {
    /// The line of a run that begins with this record; `None` for another first record.
    pub fn begin(record: &Record) -> Option<RunSummary> {
        match &record.event {
            Event::RunSubmitted { workflow, actor, trigger, environments, tags, .. } => Some(RunSummary {
                id: record.run,
                workflow: workflow.clone(),
                status: RunState::Queued.word().to_owned(),
                actor: actor.clone(),
                trigger: trigger.kind().to_owned(),
                environments: environments.clone(),
                tags: tags.clone(),
                submitted_at: record.at,
                ended_at: None,
            }),
            _ => None,
        }
    }

    /// Follows the run by one more record.
    pub fn follow(&mut self, record: &Record) {
        match &record.event {
            Event::RunAdmitted => self.status = "running".into(),
            Event::CancelRequested { .. } | Event::RunTimedOut => self.status = "cancelling".into(),
            Event::RunFinished { outcome, .. } => {
                self.status = outcome.word().to_owned();
                self.ended_at = Some(record.at);
            }
            _ => {}
        }
    }

    /// Whether the run is final.
    pub fn is_final(&self) -> bool {
        self.ended_at.is_some()
    }
}
