//! Everything that wakes the scheduler. To know what can happen, read this enum; time is the only other cause.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::{CancelAnswer, SubmitError};
use crate::bundle::Bundle;
use crate::id::{Attempt, Digest, RunId, TaskName};
use crate::run::{Record, Run};
use crate::task::{Outputs, TaskError};
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
        answer: oneshot::Sender<Result<RunId, SubmitError>>,
    },
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
    /// Somebody wants to see an active run.
    View { run: RunId, answer: oneshot::Sender<Option<RunView>> },
    /// The daemon stops: what runs is cut off, and entered again on the next start.
    Shutdown { answer: oneshot::Sender<()> },
}

pub(super) enum Report {
    Phase(String),
    Checkpoint(String),
    Plan(Digest),
}
