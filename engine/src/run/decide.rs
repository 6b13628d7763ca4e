//! What comes next: a pure function of a run and the time.
//!
//! The scheduler turns commands into records and effects; the same run and the same moment always give the
//! same list. Whether claims are free is asked in `concurrency.rs`, over all runs.

use std::time::Duration;

use super::event::Outcome;
use super::state::{Ending, RunState, Skipped, TaskState, WaitingFor};
use super::{ROLLBACK, Run, TaskRun};
use crate::clock::Timestamp;
use crate::graph::{OnFailure, TaskNode, Undo};
use crate::id::{Attempt, TaskName};
use crate::task::TaskError;

/// How long an attempt has to reach a safe point before it is abandoned.
pub const ABANDON_AFTER: Duration = Duration::from_secs(30);

/// How long an attempt whose time passed while the daemon was down may look at what is done.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start an attempt, if its claims are free.
    StartAttempt {
        /// The task.
        task: TaskName,
        /// Which try.
        attempt: Attempt,
    },
    /// Tell a running attempt to go to a safe point. May come again; saying it twice changes nothing.
    StopAttempt {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
    },
    /// Wait no longer for a running attempt.
    AbandonAttempt {
        /// The task.
        task: TaskName,
        /// The attempt.
        attempt: Attempt,
    },
    /// A task that waits, for its next attempt or for people, ends here.
    CancelTask {
        /// The task.
        task: TaskName,
        /// Why its last attempt failed, if it did.
        error: Option<TaskError>,
    },
    /// Nobody answered in time.
    ExpireWait {
        /// The task.
        task: TaskName,
    },
    /// A task never begins.
    SkipTask {
        /// The task.
        task: TaskName,
        /// Why.
        reason: Skipped,
    },
    /// A task fails without an attempt.
    FailTask {
        /// The task.
        task: TaskName,
        /// Why.
        error: TaskError,
    },
    /// The run's own time is up.
    TimeOutRun,
    /// Every task is final.
    FinishRun {
        /// How it ended.
        outcome: Outcome,
        /// Why, where the tasks do not say it.
        reason: Option<String>,
        /// Whether another run begins that takes back what this one changed.
        undo: bool,
    },
    /// Decide again at this moment.
    WakeAt(Timestamp),
}

/// What follows on the state of a run.
pub fn decide(run: &Run, now: Timestamp) -> Vec<Command> {
    let mut commands = Vec::new();
    match &run.state {
        RunState::Queued | RunState::Finished { .. } => return commands,
        RunState::Running { .. } => {
            if let Some(end) = run.time_is_up_at() {
                if now >= end {
                    return vec![Command::TimeOutRun];
                }
                commands.push(Command::WakeAt(end));
            }
        }
        RunState::Cancelling { .. } => {}
    }
    if run.tally.open == 0 {
        return vec![finish(run)];
    }
    let failed = run.tally.failed > 0 || run.tally.undo_wanted;
    if failed || matches!(run.state, RunState::Cancelling { .. }) {
        // What has not begun may end here, whatever it waits for.
        for (node, task) in run.tasks().filter(|(_, task)| !task.state.is_final()) {
            one(run, node, task, failed, now, &mut commands);
        }
    } else {
        for (node, task) in run.ready() {
            one(run, node, task, failed, now, &mut commands);
        }
    }
    commands
}

/// What follows for one task that is not final.
fn one(
    run: &Run,
    node: &TaskNode,
    task: &TaskRun,
    failed: bool,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let name = &node.name;
    match &task.state {
        TaskState::Pending => pending(run, node, failed, commands),
        TaskState::Running { .. } => running(run, node, task, now, commands),
        TaskState::Retrying { attempt, at, error, cleans_up } => {
            if stops(&run.state, *cleans_up) {
                commands.push(Command::CancelTask { task: name.clone(), error: Some(error.clone()) });
            } else if now >= *at {
                commands.push(Command::StartAttempt { task: name.clone(), attempt: attempt.next() });
            } else {
                commands.push(Command::WakeAt(*at));
            }
        }
        TaskState::Waiting { on, expires, .. } => {
            // After a failure there is nothing left to agree to.
            let moot = failed && matches!(on, WaitingFor::Approval { .. });
            if moot || matches!(run.state, RunState::Cancelling { .. }) {
                let error = match on {
                    WaitingFor::Hold { error } => Some(error.clone()),
                    WaitingFor::Approval { .. } => None,
                };
                commands.push(Command::CancelTask { task: name.clone(), error });
            } else if now >= *expires {
                commands.push(Command::ExpireWait { task: name.clone() });
            } else {
                commands.push(Command::WakeAt(*expires));
            }
        }
        TaskState::Succeeded { .. }
        | TaskState::Failed { .. }
        | TaskState::Cancelled { .. }
        | TaskState::Skipped(_) => {}
    }
}

/// How a run ends whose tasks are all final.
fn finish(run: &Run) -> Command {
    // What could not be taken back held up nothing, but it is no success.
    let failed = run.tally.failed > 0 || run.tally.undo_wanted || (run.is_undo() && run.tally.failed_any);
    let (outcome, reason) = match &run.state {
        RunState::Cancelling { ending: Ending::Cancelled { .. }, .. } => (Outcome::Cancelled, None),
        RunState::Cancelling { ending: Ending::TimedOut, .. } => {
            (Outcome::Failed, Some("the run took longer than its timeout".into()))
        }
        _ if failed => (Outcome::Failed, None),
        _ => (Outcome::Succeeded, None),
    };
    Command::FinishRun { outcome, reason, undo: is_taken_back(run, outcome) }
}

/// Whether the end of a run begins an undo: where its workflow or an answer says so, and something may have been
/// written. Never after `cancel --now`, and never where a hold expired because nobody looked.
fn is_taken_back(run: &Run, outcome: Outcome) -> bool {
    let at_once =
        matches!(run.state, RunState::Cancelling { ending: Ending::Cancelled { now: true, .. }, .. });
    outcome != Outcome::Succeeded
        && (run.graph.undo == Undo::OnFailure || run.tally.undo_wanted)
        && !at_once
        && !run.tally.hold_expired
        && !run.is_undo()
        && !run.to_take_back().is_empty()
}

fn pending(run: &Run, node: &TaskNode, failed: bool, commands: &mut Vec<Command>) {
    let task = node.name.clone();
    let skip = |reason| Command::SkipTask { task: node.name.clone(), reason };
    let cleans_up = node.when.as_ref().is_some_and(|when| when.cleans_up);
    if let RunState::Cancelling { ending, .. } = &run.state {
        let now = matches!(ending, Ending::Cancelled { now: true, .. });
        // A run that was never admitted has nothing to clean up.
        if !cleans_up || now || run.admitted().is_none() {
            return commands.push(skip(Skipped::Ending));
        }
    }
    if failed && !cleans_up {
        let upstream = run.graph.ancestors(&node.name).into_iter().any(|before| {
            let failed = matches!(run.task_state(&before.name), TaskState::Failed { .. });
            failed && before.on_failure != OnFailure::Continue
        });
        return commands.push(skip(if upstream { Skipped::Upstream } else { Skipped::Ending }));
    }
    if !run.is_ready(&node.name) {
        return;
    }
    let ancestors = run.ancestors_of(&node.name);
    let looks = node.when.as_ref().is_some_and(|when| when.looks_at_ancestors);
    if !looks && !ancestors.success {
        return commands.push(skip(Skipped::Upstream));
    }
    commands.push(match run.when_holds(node, ancestors) {
        Ok(true) => Command::StartAttempt { task, attempt: Attempt::FIRST },
        Ok(false) => skip(Skipped::When),
        Err(error) => Command::FailTask { task, error },
    });
}

/// Whether the end of the run is the end of a task: of clean-up only where nobody is waited for.
fn stops(state: &RunState, cleans_up: bool) -> bool {
    match state {
        RunState::Cancelling { ending, .. } => {
            !cleans_up || matches!(ending, Ending::Cancelled { now: true, .. })
        }
        RunState::Queued | RunState::Running { .. } | RunState::Finished { .. } => false,
    }
}

fn running(run: &Run, node: &TaskNode, task: &TaskRun, now: Timestamp, commands: &mut Vec<Command>) {
    let TaskState::Running { attempt, deadline, entered, cleans_up, .. } = &task.state else { return };
    let (attempt, deadline) = (*attempt, *deadline);
    let stopped = match &run.state {
        // A clean-up task that started after the cancel lives by its own timeout.
        RunState::Cancelling { since, ending, .. } if stops(&run.state, *cleans_up) => {
            if matches!(ending, Ending::Cancelled { now: true, .. }) {
                return commands.push(Command::AbandonAttempt { task: node.name.clone(), attempt });
            }
            // An attempt that was entered again after a stop has not had its time yet.
            deadline.min((*since).max(*entered))
        }
        _ => deadline,
    };
    if now < stopped {
        return commands.push(Command::WakeAt(stopped));
    }
    // What takes back what it did may use the task's whole timeout for it.
    let grace = if task.checkpoints.contains(ROLLBACK) { node.timeout } else { ABANDON_AFTER };
    let abandoned = stopped.plus(grace);
    if now >= abandoned {
        commands.push(Command::AbandonAttempt { task: node.name.clone(), attempt });
    } else {
        commands.push(Command::StopAttempt { task: node.name.clone(), attempt });
        commands.push(Command::WakeAt(abandoned));
    }
}
