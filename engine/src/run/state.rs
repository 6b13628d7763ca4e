//! The states of runs and tasks. Variants own their data: nothing is "only set when".

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::id::{Attempt, Digest, TaskName};
use crate::task::{Ask, Outputs, TaskError};

use super::event::{Consent, Outcome};

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub enum RunState {
    /// It waits for claims or for its turn; for whom follows from the other runs.
    Queued,
    /// It is admitted.
    Running {
        /// When it was admitted.
        since: Timestamp,
    },
    /// It ends early: attempts go to a safe point, then clean-up runs.
    Cancelling {
        /// Since when.
        since: Timestamp,
        /// Why.
        ending: Ending,
        /// When it was admitted, if it was.
        admitted: Option<Timestamp>,
    },
    /// It is final: no record is ever added.
    Finished {
        /// Since when.
        at: Timestamp,
        /// How it ended.
        outcome: Outcome,
        /// Why, where the tasks do not say it.
        reason: Option<String>,
        /// When it was admitted, if it was.
        admitted: Option<Timestamp>,
    },
}

impl RunState {
    /// Whether nothing follows any more.
    pub fn is_final(&self) -> bool {
        matches!(self, RunState::Finished { .. })
    }

    /// One word for lists.
    pub fn word(&self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running { .. } => "running",
            RunState::Cancelling { .. } => "cancelling",
            RunState::Finished { outcome, .. } => outcome.word(),
        }
    }
}

/// Why a run ends early.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Somebody asked for it.
    Cancelled {
        /// Who.
        actor: String,
        /// Why, where they said it.
        reason: Option<String>,
        /// Without rollback and clean-up.
        now: bool,
    },
    /// Its time was up.
    TimedOut,
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum TaskState {
    /// Something before it has not ended, or a claim is not free.
    #[default]
    Pending,
    /// An attempt is under way.
    Running {
        /// Which.
        attempt: Attempt,
        /// Since when.
        since: Timestamp,
        /// When its time is up.
        deadline: Timestamp,
        /// When it was entered last: here, or after a restart. Its time to stop is counted from then.
        entered: Timestamp,
        /// It began after the run was told to end: a cancel does not stop it.
        cleans_up: bool,
        /// What it does now.
        phase: Option<String>,
    },
    /// An attempt failed, and another one follows.
    Retrying {
        /// The one that failed.
        attempt: Attempt,
        /// When the next one starts.
        at: Timestamp,
        /// Why it failed.
        error: TaskError,
        /// It began after the run was told to end: a cancel does not stop it.
        cleans_up: bool,
    },
    /// Only people can move it on.
    Waiting {
        /// For what.
        on: WaitingFor,
        /// The attempt that led here.
        attempt: Attempt,
        /// Since when.
        since: Timestamp,
        /// When it is decided without them.
        expires: Timestamp,
    },
    /// Final: it did what it should.
    Succeeded {
        /// The attempt that did.
        attempt: Attempt,
        /// What it put out.
        outputs: Outputs,
    },
    /// Final: it did not.
    Failed {
        /// The last attempt; none where it failed before the first.
        attempt: Option<Attempt>,
        /// Why.
        error: TaskError,
    },
    /// Final: it was stopped.
    Cancelled {
        /// What it said of that, and what it left behind.
        error: Option<TaskError>,
    },
    /// Final: it never began.
    Skipped(Skipped),
}

/// What people are asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum WaitingFor {
    /// That they agree.
    Approval {
        /// Who must agree, and to what.
        ask: Ask,
        /// The plans that they agree to, by task.
        plans: BTreeMap<TaskName, Digest>,
        /// Who has agreed so far.
        given: Vec<Consent>,
    },
    /// How it goes on.
    Hold {
        /// Why the attempt did not succeed.
        error: TaskError,
    },
}

/// Why a task never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Skipped {
    /// It was left out at submit; counts as passed.
    NotSelected,
    /// Its own `when` said so; counts as passed.
    When,
    /// Something before it did not succeed.
    Upstream,
    /// The run was ending.
    Ending,
    /// A person said so when it was held; counts as passed.
    Answered,
}

impl TaskState {
    /// Whether nothing follows any more.
    pub fn is_final(&self) -> bool {
        match self {
            TaskState::Pending
            | TaskState::Running { .. }
            | TaskState::Retrying { .. }
            | TaskState::Waiting { .. } => false,
            TaskState::Succeeded { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. }
            | TaskState::Skipped(_) => true,
        }
    }

    /// One word, for lists and for `tasks.NAME.status`.
    pub fn word(&self) -> &'static str {
        match self {
            TaskState::Pending => "pending",
            TaskState::Running { .. } => "running",
            TaskState::Retrying { .. } => "retrying",
            TaskState::Waiting { .. } => "waiting",
            TaskState::Succeeded { .. } => "succeeded",
            TaskState::Failed { .. } => "failed",
            TaskState::Cancelled { .. } => "cancelled",
            TaskState::Skipped(_) => "skipped",
        }
    }

    /// What it put out, where it succeeded.
    pub fn outputs(&self) -> Option<&Outputs> {
        match self {
            TaskState::Succeeded { outputs, .. } => Some(outputs),
            TaskState::Pending
            | TaskState::Running { .. }
            | TaskState::Retrying { .. }
            | TaskState::Waiting { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. }
            | TaskState::Skipped(_) => None,
        }
    }
}

impl Skipped {
    /// In words, after "skipped:".
    pub fn words(self) -> &'static str {
        match self {
            Skipped::NotSelected => "not selected",
            Skipped::When => "its `when` did not hold",
            Skipped::Upstream => "something before it did not succeed",
            Skipped::Ending => "the run was ending",
            Skipped::Answered => "a person skipped it",
        }
    }
}
