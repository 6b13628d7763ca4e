//! Everything that wakes the scheduler. To know what can happen, read this enum; time is the only other cause.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::{Actor, CancelAnswer, DeedError, PersonAnswer, SubmitError};
use super::slots::{SlotAnswer, SlotWork};
use crate::bundle::Bundle;
use crate::id::{Attempt, Digest, RunId, Seq, TaskName};
use crate::journal::Row;
use crate::ledger::Deed;
use crate::run::{HoldAnswer, Record, Run};
use crate::task::{Ask, Outputs, TaskError};
use crate::view::RunView;
use crate::workflow::PolicyFile;

pub(super) enum Input {
    /// A checked run whose bundle is on disk.
    Submit {
        run: Box<Run>,
        record: Box<Record>,
        bundle: Arc<Bundle>,
        /// The policy where the file writes none.
        default: PolicyFile,
        /// Up to where the audit log was looked through for a run of the same wish.
        seen: u64,
        answer: oneshot::Sender<Result<RunId, SubmitError>>,
    },
    /// Something is done that belongs to no run.
    Deed { deed: Box<Deed>, rows: Vec<Row>, answer: oneshot::Sender<Result<Seq, DeedError>> },
    /// What was decided of a schedule's slots.
    Slots { work: Box<SlotWork>, answer: oneshot::Sender<SlotAnswer> },
    /// An attempt is over.
    AttemptEnded { run: RunId, task: TaskName, attempt: Attempt, result: Result<Outputs, TaskError> },
    /// A running attempt wants something on disk.
    Report {
        run: RunId,
        task: TaskName,
        attempt: Attempt,
        report: Report,
        answer: oneshot::Sender<Result<(), TaskError>>,
    },
    /// Somebody wants a run to end.
    Cancel {
        run: RunId,
        actor: String,
        reason: Option<String>,
        now: bool,
        answer: oneshot::Sender<CancelAnswer>,
    },
    /// The plans that people are to agree to are made.
    Asked { run: RunId, task: TaskName, attempt: Attempt, ask: Ask, plans: BTreeMap<TaskName, Digest> },
    /// Somebody says how a held task goes on.
    Hold {
        run: RunId,
        task: Option<TaskName>,
        answer: HoldAnswer,
        actor: Actor,
        comment: Option<String>,
        reply: oneshot::Sender<PersonAnswer>,
    },
    /// Somebody agrees to what comes next, or does not.
    Consent {
        run: RunId,
        task: Option<TaskName>,
        agrees: bool,
        actor: Actor,
        comment: Option<String>,
        reply: oneshot::Sender<PersonAnswer>,
    },
    /// Somebody wants to see an active run.
    View { run: RunId, answer: oneshot::Sender<Option<RunView>> },
    /// The daemon is about to stop: nothing new starts, and whoever asked learns when nothing runs any more.
    Drain { answer: oneshot::Sender<()> },
    /// The daemon stops: what runs is cut off, and entered again on the next start.
    Shutdown { answer: oneshot::Sender<()> },
}

pub(super) enum Report {
    Phase(String),
    Checkpoint(String),
    Plan(Digest),
    /// The plan of a task that has not begun, for those who are to agree to it.
    EarlyPlan(TaskName, Digest),
}
