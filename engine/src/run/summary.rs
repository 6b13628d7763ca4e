//! A run as a line in a list: what lists show and filter on.
//!
//! Folded from records alone, without the graph, so that the journal can keep lists by itself.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::{Event, HoldAnswer, Origin, Record};
use super::state::RunState;
use crate::clock::{Timestamp, rfc3339};
use crate::id::{RunId, TaskName, WorkflowName};

/// A line in a list of runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// The run that it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<RunId>,
    /// What no other run has, and it is found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<String>,
    /// When it was submitted.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub submitted_at: Timestamp,
    /// When it became final.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// What is under way; only while the run is followed.
    #[serde(skip)]
    moving: BTreeSet<TaskName>,
    /// What waits for people, and for how many of them.
    #[serde(skip)]
    asking: BTreeMap<TaskName, u32>,
}

fn undoes(origin: Option<&Origin>) -> Option<RunId> {
    match origin {
        Some(Origin::Undo { of, .. }) => Some(*of),
        Some(Origin::Retry { .. } | Origin::Rerun { .. } | Origin::From { .. }) | None => None,
    }
}

fn manual() -> String {
    "manual".into()
}

impl RunSummary {
    /// The line of a run that begins with this record; `None` for another first record.
    pub fn begin(record: &Record) -> Option<RunSummary> {
        match &record.event {
            Event::RunSubmitted { workflow, actor, trigger, environments, tags, origin, .. } => {
                Some(RunSummary {
                    undoes: undoes(origin.as_ref()),
                    id: record.run,
                    workflow: workflow.clone(),
                    status: RunState::Queued.word().to_owned(),
                    actor: actor.clone(),
                    trigger: trigger.kind().to_owned(),
                    environments: environments.clone(),
                    tags: tags.clone(),
                    unique: record.event.unique(),
                    submitted_at: record.at,
                    ended_at: None,
                    moving: BTreeSet::new(),
                    asking: BTreeMap::new(),
                })
            }
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
            Event::AttemptStarted { task, .. }
            | Event::HoldAnswered { task, answer: HoldAnswer::Retry, .. } => {
                self.asking.remove(task);
                self.moving.insert(task.clone());
            }
            Event::TaskHeld { task, .. } => self.asks(task, 1),
            Event::ApprovalAsked { task, ask, .. } => self.asks(task, ask.approvals),
            Event::Approved { task, .. } => {
                if let Some(wanted) = self.asking.get_mut(task) {
                    *wanted = wanted.saturating_sub(1);
                }
                self.asking.retain(|_, wanted| *wanted > 0);
            }
            // Another attempt follows.
            Event::AttemptFailed { retry_at: Some(_), .. } => {}
            Event::AttemptSucceeded { task, .. }
            | Event::AttemptFailed { task, retry_at: None, .. }
            | Event::HoldAnswered { task, .. }
            | Event::Rejected { task, .. }
            | Event::WaitExpired { task }
            | Event::TaskCancelled { task, .. } => {
                self.moving.remove(task);
                self.asking.remove(task);
            }
            _ => return,
        }
        if matches!(self.status.as_str(), "running" | "waiting") {
            let waits = self.moving.is_empty() && !self.asking.is_empty();
            self.status = if waits { "waiting" } else { "running" }.into();
        }
    }

    fn asks(&mut self, task: &TaskName, people: u32) {
        self.moving.remove(task);
        self.asking.insert(task.clone(), people);
    }

    /// The line of a run that is known as a whole.
    pub fn of(run: &super::Run) -> RunSummary {
        let ended_at = match &run.state {
            RunState::Finished { at, .. } => Some(*at),
            RunState::Queued | RunState::Running { .. } | RunState::Cancelling { .. } => None,
        };
        RunSummary {
            undoes: undoes(run.submitted.origin.as_ref()),
            id: run.id,
            workflow: run.graph.name.clone(),
            status: run.word().to_owned(),
            actor: run.submitted.actor.clone(),
            trigger: run.submitted.trigger.kind().to_owned(),
            environments: run.submitted.environments.clone(),
            tags: run.submitted.tags.clone(),
            unique: Vec::new(),
            submitted_at: run.submitted.at,
            ended_at,
            moving: BTreeSet::new(),
            asking: BTreeMap::new(),
        }
    }

    /// Whether the run is final.
    pub fn is_final(&self) -> bool {
        self.ended_at.is_some()
    }
}
