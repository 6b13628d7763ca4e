//! What the command line and the API show: runs told as plain data.
//!
//! Made from a run, never kept; both sides of the API share these types, so that they cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::id::{Digest, TaskName};
pub use crate::run::RunSummary;
use crate::run::{Ending, Outcome, Run, RunState, TaskRun, TaskState};
use crate::task::{Outputs, TaskError};

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The line in a list.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// The SHA-256 of the workflow file.
    pub revision: Digest,
    /// The digest of everything it was submitted with.
    pub bundle: Digest,
    /// When it was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it is as it is, where the tasks do not say it: for whom it waits, who cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its inputs.
    pub inputs: BTreeMap<String, Value>,
    /// Its tasks, each after those that it needs.
    pub tasks: Vec<TaskView>,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its name.
    pub name: TaskName,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its state, in one word.
    pub status: String,
    /// The present or last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What it does now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why it never began, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// When the next attempt starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What it put out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
    /// The digest of its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Digest>,
}

/// Tells a run; `waits` says for whom tasks and the run itself wait, which only all runs together know.
pub fn of(run: &Run, waits: &Waits) -> RunView {
    let mut reason = match &run.state {
        RunState::Queued => waits.run.clone(),
        RunState::Cancelling { ending, .. } => Some(ending_words(ending)),
        RunState::Finished { reason, .. } => reason.clone(),
        RunState::Running { .. } | RunState::Waiting { .. } => None,
    };
    if reason.is_none() && matches!(run.state, RunState::Queued) {
        reason = Some("about to start".into());
    }
    let (outcome, ended_at) = match &run.state {
        RunState::Finished { outcome, at, .. } => (Some(*outcome), Some(*at)),
        RunState::Queued
        | RunState::Running { .. }
        | RunState::Waiting { .. }
        | RunState::Cancelling { .. } => (None, None),
    };
    RunView {
        summary: RunSummary {
            id: run.id,
            workflow: run.graph.name.clone(),
            status: run.state.word().to_owned(),
            actor: run.submitted.actor.clone(),
            trigger: run.submitted.trigger.kind().to_owned(),
            environments: run.submitted.environments.clone(),
            tags: run.submitted.tags.clone(),
            submitted_at: run.submitted.at,
            ended_at,
        },
        revision: run.graph.revision.clone(),
        bundle: run.submitted.bundle.clone(),
        admitted_at: run.admitted(),
        outcome,
        reason,
        inputs: run.submitted.inputs.clone(),
        tasks: run
            .tasks()
            .map(|(node, task)| {
                task_view(&node.name, node.kind.type_name(), task, waits.tasks.get(&node.name))
            })
            .collect(),
    }
}

/// For whom a run and its tasks wait, in words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Waits {
    /// The run itself, while it is queued.
    pub run: Option<String>,
    /// Tasks whose claims are not free.
    pub tasks: BTreeMap<TaskName, String>,
}

/// Why a run ends early, in words.
pub fn ending_words(ending: &Ending) -> String {
    match ending {
        Ending::Cancelled { actor, reason: Some(reason), .. } => format!("cancelled by {actor}: {reason}"),
        Ending::Cancelled { actor, reason: None, .. } => format!("cancelled by {actor}"),
        Ending::TimedOut => "the run took longer than its timeout".into(),
    }
}

fn task_view(name: &TaskName, type_name: &str, task: &TaskRun, waits: Option<&String>) -> TaskView {
    let mut view = TaskView {
        name: name.clone(),
        type_name: type_name.to_owned(),
        status: task.state.word().to_owned(),
        attempt: None,
        phase: None,
        reason: None,
        started_at: task.started,
        ended_at: task.ended,
        retry_at: None,
        error: None,
        outputs: None,
        plan: task.plan.clone(),
    };
    match &task.state {
        TaskState::Pending => view.reason = waits.cloned(),
        TaskState::Running { attempt, phase, .. } => {
            view.attempt = Some(attempt.0);
            view.phase.clone_from(phase);
        }
        TaskState::Retrying { attempt, at, error, .. } => {
            view.attempt = Some(attempt.0);
            view.retry_at = Some(*at);
            view.error = Some(error.clone());
            view.reason = waits.cloned();
        }
        TaskState::Waiting { .. } => {}
        TaskState::Succeeded { attempt, outputs } => {
            view.attempt = Some(attempt.0);
            view.outputs = Some(outputs.clone());
        }
        TaskState::Failed { attempt, error } => {
            view.attempt = attempt.map(|attempt| attempt.0);
            view.error = Some(error.clone());
        }
        TaskState::Cancelled { error } => view.error.clone_from(error),
        TaskState::Skipped(reason) => view.reason = Some(reason.words().to_owned()),
    }
    view
}
