//! What the command line and the API show: runs told as plain data.
//!
//! Made from a run, never kept; both sides of the API share these types, so that they cannot disagree.

mod history;
mod next;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::history::History;
pub use self::history::{AttemptView, SaidView, StepView};
pub use self::next::Next;
use crate::clock::{Timestamp, rfc3339};
use crate::id::{Digest, RunId, SourceName, TaskName};
pub use crate::run::RunSummary;
use crate::run::{
    Consent, Ending, Origin, Outcome, Record, Run, RunState, Slot, Sourced, TaskRun, TaskState, Trigger,
    WaitingFor,
};
use crate::task::{Action, Outputs, Plan, TaskError};

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// The line in a list.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// The SHA-256 of the workflow file, and of the files that it names.
    pub revision: Digest,
    /// Where the workflow's file came from; none where a person brought their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Sourced>,
    /// The digest of everything it was submitted with.
    pub bundle: Digest,
    /// When it was admitted.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub admitted_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it is as it is, where the tasks do not say it: for whom it waits, who cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The run that it follows on, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The slot that it is the run of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotView>,
    /// The run that takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<RunId>,
    /// Its inputs.
    pub inputs: BTreeMap<String, Value>,
    /// What started it, with all that is known of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<Trigger>,
    /// The operator's variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
    /// Its tasks, each after those that it needs.
    pub tasks: Vec<TaskView>,
    /// What people asked for and said, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<SaidView>,
    /// What it has left on the cluster: it was ended at once, and nothing was taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// What it waits for, and what can be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<Next>,
}

impl RunView {
    /// Adds how it went, out of its records.
    pub(crate) fn tell(&mut self, records: &[Record], plan: impl Fn(&Digest) -> Option<Plan>) {
        let mut history = History::of(records);
        for task in &mut self.tasks {
            task.attempts = history.attempts.remove(&task.name).unwrap_or_default();
        }
        self.said = history.said;
        if history.ended_at_once && self.outcome.is_some() && self.undone_by.is_none() {
            self.left = self.tasks.iter().flat_map(|task| left_by(task, &plan)).collect();
        }
    }
}

/// What a task may have written: nothing of it was taken back.
fn left_by(task: &TaskView, plan: impl Fn(&Digest) -> Option<Plan>) -> Vec<String> {
    let begun = task.started_at.and(task.plan.as_ref());
    let maybe = if task.status == "succeeded" { "was" } else { "may be" };
    let changes = begun.and_then(plan).map(|plan| plan.changes).unwrap_or_default();
    let lines = changes.into_iter().filter_map(|change| {
        let word = match change.action {
            Action::Create => "created",
            Action::Update => "changed",
            Action::Delete => "removed",
            Action::Keep | Action::Check => return None,
        };
        Some(format!("{} {maybe} {word} by {}", change.object, task.name))
    });
    lines.collect()
}

/// The slot that a run is the run of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlotView {
    /// The source of the workflow.
    pub source: SourceName,
    /// The trigger's name.
    pub schedule: String,
    /// The moment that the schedule names.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub nominal: Timestamp,
    /// When the run was really submitted.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub actual: Timestamp,
    /// Whether it started late because `missed` or `defer` says so.
    pub catchup: bool,
    /// The version of the time zones that the moment follows from.
    pub tzdata: String,
}

impl SlotView {
    fn of(slot: &Slot) -> SlotView {
        let Slot { source, schedule, nominal, actual, catchup, tzdata } = slot.clone();
        SlotView { source, schedule, nominal, actual, catchup, tzdata }
    }
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Why it never began, what it waits for, or what is wrong with how it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its first attempt began.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it became final.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// When the next attempt starts.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
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
    /// Whether it was done by the run that this one follows on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// What it asks people for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<AskView>,
    /// Its attempts, with all that they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptView>,
}

/// What a task asks people for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AskView {
    /// `hold` or `approval`.
    pub kind: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// When it is decided without them: a hold has failed then, an approval is rejected.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub expires: Timestamp,
    /// For an approval: how many must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<u32>,
    /// For an approval: who may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// For an approval: what they are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For an approval: the plans that they agree to, by task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<TaskName, Digest>,
    /// For an approval: who has agreed so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<ConsentView>,
}

/// Somebody who has agreed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConsentView {
    /// Who.
    pub actor: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether they proved who they are.
    pub authenticated: bool,
    /// When.
    #[serde(with = "rfc3339")]
    #[schemars(with = "String")]
    pub at: Timestamp,
}

impl From<&Consent> for ConsentView {
    fn from(consent: &Consent) -> ConsentView {
        let Consent { actor, comment, authenticated, at } = consent.clone();
        ConsentView { actor, comment, authenticated, at }
    }
}

/// Tells a run; `waits` says for whom tasks and the run itself wait, which only all runs together know.
pub fn of(run: &Run, waits: &Waits) -> RunView {
    let mut reason = match &run.state {
        RunState::Queued => waits.run.clone(),
        RunState::Cancelling { ending, .. } => Some(ending_words(ending)),
        RunState::Finished { reason, .. } => reason.clone(),
        RunState::Running { .. } => None,
    };
    if reason.is_none() && matches!(run.state, RunState::Queued) {
        reason = Some("about to start".into());
    }
    let outcome = match &run.state {
        RunState::Finished { outcome, .. } => Some(*outcome),
        RunState::Queued | RunState::Running { .. } | RunState::Cancelling { .. } => None,
    };
    let mut view = RunView {
        summary: RunSummary::of(run),
        revision: run.graph.revision.clone(),
        source: run.submitted.source.clone(),
        bundle: run.submitted.bundle.clone(),
        admitted_at: run.admitted(),
        outcome,
        reason,
        origin: run.submitted.origin.clone(),
        slot: run.submitted.trigger.slot().map(SlotView::of),
        undone_by: run.undone_by,
        inputs: run.submitted.inputs.clone(),
        tasks: run
            .tasks()
            .map(|(node, task)| {
                task_view(&node.name, node.kind.type_name(), task, waits.tasks.get(&node.name))
            })
            .collect(),
        started_by: Some(run.submitted.trigger.clone()),
        vars: run.submitted.vars.clone(),
        said: Vec::new(),
        left: Vec::new(),
        next: Vec::new(),
    };
    view.next = next::of(&view);
    view
}

/// For whom a run and its tasks wait, in words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Waits {
    /// The run itself, while it is queued.
    pub run: Option<String>,
    /// Tasks whose claims are not free, and those that block their threads.
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
        kept: task.kept,
        asks: None,
        attempts: Vec::new(),
    };
    match &task.state {
        TaskState::Pending => view.reason = waits.cloned(),
        TaskState::Running { attempt, phase, .. } => {
            view.attempt = Some(attempt.0);
            view.phase.clone_from(phase);
            view.reason = waits.cloned();
        }
        TaskState::Retrying { attempt, at, error, .. } => {
            view.attempt = Some(attempt.0);
            view.retry_at = Some(*at);
            view.error = Some(error.clone());
            view.reason = waits.cloned();
        }
        TaskState::Waiting { on, attempt, since, expires } => {
            view.attempt = Some(attempt.0);
            let mut asks = AskView {
                kind: "hold".into(),
                since: *since,
                expires: *expires,
                approvals: None,
                from: Vec::new(),
                message: None,
                plans: BTreeMap::new(),
                given: Vec::new(),
            };
            match on {
                WaitingFor::Hold { error } => view.error = Some(error.clone()),
                WaitingFor::Approval { ask, plans, given } => {
                    asks.kind = "approval".into();
                    asks.approvals = Some(ask.approvals);
                    asks.from.clone_from(&ask.from);
                    asks.message.clone_from(&ask.message);
                    asks.plans.clone_from(plans);
                    asks.given = given.iter().map(ConsentView::from).collect();
                }
            }
            view.asks = Some(asks);
        }
        TaskState::Succeeded { attempt, outputs } => {
            view.attempt = (!task.kept).then_some(attempt.0);
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
