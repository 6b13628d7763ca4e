//! What happened: the events of a run, in the past tense, as they are stored.
//!
//! A stored form is never changed, only added to: a golden test holds it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::Skipped;
use crate::clock::Timestamp;
use crate::id::{Attempt, Digest, RunId, Seq, SourceName, TaskName, WorkflowName, WorkflowUid};
use crate::schedule::ScheduleKey;
use crate::task::{Ask, Outputs, TaskError};

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run was submitted; its bundle is on disk.
    RunSubmitted {
        /// The workflow.
        workflow: WorkflowName,
        /// The SHA-256 of its file, and of the files that it names.
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
        /// The run that it follows on, and how.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        /// What it takes over from that run, by task.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        kept: BTreeMap<TaskName, Kept>,
        /// The environments that its tasks name, as far as inputs say it: lists are filtered by them.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        environments: BTreeSet<String>,
        /// The lanes that its tasks name, likewise.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        tags: BTreeSet<String>,
        /// Where the workflow's file came from; none where a person brought their own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Box<Sourced>>,
        /// What whoever asked for it calls this one wish, so that it is granted once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
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
        /// The run that takes back what this one changed; it begins in the same write.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undone_by: Option<RunId>,
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
    /// An attempt did not succeed, and a person is to say how it goes on.
    TaskHeld {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
        /// Why it did not.
        error: TaskError,
        /// When the task fails without an answer.
        expires: Timestamp,
    },
    /// A person said how a held task goes on.
    HoldAnswered {
        /// The task.
        task: TaskName,
        /// What they said.
        answer: HoldAnswer,
        /// Who.
        actor: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    /// The plans that people are to agree to are on disk; now they are asked.
    ApprovalAsked {
        /// The task.
        task: TaskName,
        /// The attempt that made the plans.
        attempt: Attempt,
        /// Who must agree.
        ask: Ask,
        /// What they agree to, by task.
        plans: BTreeMap<TaskName, Digest>,
        /// When it is rejected without them.
        expires: Timestamp,
    },
    /// Somebody agreed. With the last one that is needed, the task has succeeded.
    Approved {
        /// The task.
        task: TaskName,
        /// Who, and what they said.
        consent: Consent,
    },
    /// Somebody did not agree: the task has failed.
    Rejected {
        /// The task.
        task: TaskName,
        /// Who, and what they said.
        consent: Consent,
    },
    /// Nobody answered in time: a hold has failed, an approval is rejected.
    WaitExpired {
        /// The task.
        task: TaskName,
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
    /// The task that it is about; `None` for an event of the whole run.
    pub fn task(&self) -> Option<&TaskName> {
        match self {
            Event::RunSubmitted { .. }
            | Event::RunAdmitted
            | Event::CancelRequested { .. }
            | Event::RunTimedOut
            | Event::RunFinished { .. } => None,
            Event::AttemptStarted { task, .. }
            | Event::AttemptResumed { task, .. }
            | Event::PlanMade { task, .. }
            | Event::PhaseEntered { task, .. }
            | Event::CheckpointPassed { task, .. }
            | Event::AttemptSucceeded { task, .. }
            | Event::AttemptFailed { task, .. }
            | Event::TaskHeld { task, .. }
            | Event::HoldAnswered { task, .. }
            | Event::ApprovalAsked { task, .. }
            | Event::Approved { task, .. }
            | Event::Rejected { task, .. }
            | Event::WaitExpired { task }
            | Event::TaskCancelled { task, .. }
            | Event::TaskSkipped { task, .. }
            | Event::TaskFailed { task, .. }
            | Event::AnswerIgnored { task, .. } => Some(task),
        }
    }

    /// The stored bytes that it names: a bundle, plans.
    pub fn objects(&self) -> Vec<Digest> {
        match self {
            Event::RunSubmitted { bundle, kept, .. } => {
                let plans = kept.values().filter_map(|kept| kept.plan.clone());
                std::iter::once(bundle.clone()).chain(plans).collect()
            }
            Event::PlanMade { plan, .. } => vec![plan.clone()],
            _ => Vec::new(),
        }
    }

    /// What no other run may have: the name of the wish, the slot.
    pub fn unique(&self) -> Vec<String> {
        match self {
            Event::RunSubmitted { key, trigger, workflow, .. } => {
                let slot = trigger.slot().map(|slot| slot.key(workflow).slot(slot.nominal));
                key.iter().map(Key::unique).chain(slot).collect()
            }
            _ => Vec::new(),
        }
    }

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
            Event::TaskHeld { .. } => "task-held",
            Event::HoldAnswered { .. } => "hold-answered",
            Event::ApprovalAsked { .. } => "approval-asked",
            Event::Approved { .. } => "approved",
            Event::Rejected { .. } => "rejected",
            Event::WaitExpired { .. } => "wait-expired",
            Event::AnswerIgnored { .. } => "answer-ignored",
        }
    }
}

/// Where a workflow's file came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sourced {
    /// The source, as the operator's settings name it.
    pub name: SourceName,
    /// The file, below it.
    pub path: String,
    /// The commit, where it is a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a caller calls one wish, so that asking twice gives one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// The digest of the name, and of whose name it is; the name itself is the caller's.
    pub name: Digest,
    /// The digest of the wish: another one under the same name is a mistake of the caller.
    pub request: Digest,
}

impl Key {
    /// What no other run may have.
    pub fn unique(&self) -> String {
        format!("key:{}", self.name)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trigger {
    /// A person.
    Manual,
    /// The end of a run whose workflow says that a failure is taken back, or an answer that says so.
    Undo,
    /// A slot of a schedule.
    Schedule(Box<Slot>),
}

/// A slot of a schedule, and how its run came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Slot {
    /// The source of the workflow.
    pub source: SourceName,
    /// The trigger's name.
    pub schedule: String,
    /// The moment that the schedule names.
    pub nominal: Timestamp,
    /// When the run was really submitted.
    pub actual: Timestamp,
    /// Whether it starts late because `missed` or `defer` says so.
    #[serde(default)]
    pub catchup: bool,
    /// The version of the time zones that the moment follows from.
    pub tzdata: String,
}

impl Slot {
    /// The schedule that it is of.
    pub fn key(&self, workflow: &WorkflowName) -> ScheduleKey {
        let workflow = WorkflowUid { source: self.source.clone(), name: workflow.clone() };
        ScheduleKey { workflow, schedule: self.schedule.clone() }
    }
}

/// How a run follows on another one, which is final.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// It does what the other one did not get done.
    Retry {
        /// The other run.
        of: RunId,
    },
    /// It does the same once more.
    Rerun {
        /// The other run.
        of: RunId,
    },
    /// It takes the outputs of tasks that it leaves out from the other one.
    From {
        /// The other run.
        of: RunId,
    },
    /// It takes back what the other one changed, in the reverse order.
    Undo {
        /// The other run.
        of: RunId,
        /// Also where an object is not as that run left it.
        #[serde(default)]
        force: bool,
    },
}

impl Origin {
    /// The other run.
    pub fn of(&self) -> RunId {
        match self {
            Origin::Retry { of } | Origin::Rerun { of } | Origin::From { of } | Origin::Undo { of, .. } => {
                *of
            }
        }
    }

    /// In words, before the run's id.
    pub fn words(&self) -> &'static str {
        match self {
            Origin::Retry { .. } => "retry of",
            Origin::Rerun { .. } => "rerun of",
            Origin::From { .. } => "with outputs of",
            Origin::Undo { .. } => "undo of",
        }
    }
}

/// What a run takes over for a task from the run that it follows on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The task is done and is not done again.
    #[serde(default)]
    pub done: bool,
    /// What it put out.
    #[serde(default)]
    pub outputs: Outputs,
    /// Its plan: what was to be written, over what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Digest>,
    /// Points that it had passed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checkpoints: BTreeSet<String>,
}

/// How a held task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HoldAnswer {
    /// One more attempt, with the same plan.
    Retry,
    /// It is left out and counts as passed.
    Skip,
    /// It has failed.
    Fail,
    /// It has failed, and the run is taken back.
    Undo,
}

/// Somebody's word on an approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Consent {
    /// Who.
    pub actor: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether they proved who they are; without it the name is only what they said.
    #[serde(default)]
    pub authenticated: bool,
    /// When.
    pub at: Timestamp,
}

impl Trigger {
    /// The slot, where it is one.
    pub fn slot(&self) -> Option<&Slot> {
        match self {
            Trigger::Schedule(slot) => Some(slot),
            Trigger::Manual | Trigger::Undo => None,
        }
    }

    /// One word.
    pub fn kind(&self) -> &'static str {
        match self {
            Trigger::Manual => "manual",
            Trigger::Undo => "undo",
            Trigger::Schedule(slot) if slot.catchup => "catchup",
            Trigger::Schedule(_) => "schedule",
        }
    }
}
