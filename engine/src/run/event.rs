//! What happened: the events of a run, in the past tense, as they are stored.
//!
//! A stored form is never changed, only added to: a golden test holds it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::Skipped;
use crate::clock::Timestamp;
use crate::id::{Attempt, Digest, RunId, Seq, TaskName, WorkflowName};
use crate::task::{Outputs, TaskError};

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The run.
    pub run: RunId,
    /// Its place among the run's records.
    pub seq: Seq,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run was submitted; its bundle is on disk.
    RunSubmitted {
        /// The workflow.
        workflow: WorkflowName,
        /// The SHA-256 of its file.
        revision: Digest,
        /// The digest of everything it was submitted with.
        bundle: Digest,
        /// The inputs, complete.
        inputs: BTreeMap<String, Value>,
        /// The operator's variables.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        vars: BTreeMap<String, Value>,
        /// The names, never the values, of the operator's secrets.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        secrets: BTreeSet<String>,
        /// What started it.
        trigger: Trigger,
        /// Who started it.
        actor: String,
        /// Tasks that were not selected.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        left_out: BTreeSet<TaskName>,
        /// The environments that its tasks name, as far as inputs say it: lists are filtered by them.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        environments: BTreeSet<String>,
        /// The lanes that its tasks name, likewise.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        tags: BTreeSet<String>,
    },
    /// The run has its claims and may start tasks.
    RunAdmitted,
    /// Somebody wants the run to end.
    CancelRequested {
        /// Who.
        actor: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Without rollback and clean-up.
        #[serde(default)]
        now: bool,
    },
    /// The run's own time is up.
    RunTimedOut,
    /// The run is final.
    RunFinished {
        /// How it ended.
        outcome: Outcome,
        /// Why, where the tasks do not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An attempt begins.
    AttemptStarted {
        /// The task.
        task: TaskName,
        /// Which try.
        attempt: Attempt,
        /// When its time is up.
        deadline: Timestamp,
    },
    /// An attempt that a stop of the daemon cut off is entered again.
    AttemptResumed {
        /// The task.
        task: TaskName,
        /// The same try.
        attempt: Attempt,
        /// When its time is up now.
        deadline: Timestamp,
    },
    /// The plan that every attempt carries out is on disk.
    PlanMade {
        /// The task.
        task: TaskName,
        /// The attempt that made it.
        attempt: Attempt,
        /// The digest of its bytes.
        plan: Digest,
    },
    /// What the attempt does now.
    PhaseEntered {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// In words.
        phase: String,
    },
    /// A point that later attempts must know of.
    CheckpointPassed {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// The point.
        name: String,
    },
    /// The task did what it should.
    AttemptSucceeded {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// What it put out.
        outputs: Outputs,
    },
    /// The attempt did not.
    AttemptFailed {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// Why.
        error: TaskError,
        /// When the next one starts; none where the task has failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The task was stopped because the run ends.
    TaskCancelled {
        /// The task.
        task: TaskName,
        /// What it said of that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<TaskError>,
    },
    /// The task never begins.
    TaskSkipped {
        /// The task.
        task: TaskName,
        /// Why.
        reason: Skipped,
    },
    /// The task failed before its first attempt.
    TaskFailed {
        /// The task.
        task: TaskName,
        /// Why.
        error: TaskError,
    },
    /// An answer came from an attempt that does not count any more.
    AnswerIgnored {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// What it said.
        answer: String,
    },
}

impl Event {
    /// The event's name, as it is stored.
    pub fn name(&self) -> &'static str {
        match self {
            Event::RunSubmitted { .. } => "run-submitted",
            Event::RunAdmitted => "run-admitted",
            Event::CancelRequested { .. } => "cancel-requested",
            Event::RunTimedOut => "run-timed-out",
            Event::RunFinished { .. } => "run-finished",
            Event::AttemptStarted { .. } => "attempt-started",
            Event::AttemptResumed { .. } => "attempt-resumed",
            Event::PlanMade { .. } => "plan-made",
            Event::PhaseEntered { .. } => "phase-entered",
            Event::CheckpointPassed { .. } => "checkpoint-passed",
            Event::AttemptSucceeded { .. } => "attempt-succeeded",
            Event::AttemptFailed { .. } => "attempt-failed",
            Event::TaskCancelled { .. } => "task-cancelled",
            Event::TaskSkipped { .. } => "task-skipped",
            Event::TaskFailed { .. } => "task-failed",
            Event::AnswerIgnored { .. } => "answer-ignored",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every task succeeded or counts as passed.
    Succeeded,
    /// A task failed, or the time was up.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl Outcome {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// What started a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trigger {
    /// A person.
    Manual,
}

impl Trigger {
    /// One word.
    pub fn kind(&self) -> &'static str {
        match self {
            Trigger::Manual => "manual",
        }
    }
}
