//! The scheduler: one loop, one inbox, one list of active runs.
//!
//! ```text
//! inputs -> events -> apply -> decide -> events -> ... -> append (one fsync for all) -> effects and answers
//! ```
//! Nothing takes effect, and nobody is answered, before the records are on disk. A failed append ends
//! the loop: what cannot be recorded must not happen. What comes next is decided in `run/decide.rs`
//! and `concurrency.rs`; here it is only carried out.

mod attempt;
mod handle;
mod input;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::attempt::Reports;
pub(crate) use self::handle::seal;
pub use self::handle::{CancelAnswer, Engine, Mode, StartError, Submission, SubmitError};
use self::input::{Input, Report};
use crate::bundle::Bundle;
use crate::clock::{Clock, Timestamp, show_duration};
use crate::concurrency::{ActiveRuns, Arrival, Blocker, admit, arrive, holder, waits_for};
use crate::graph::TaskNode;
use crate::id::{Attempt, RunId, Seq, TaskName};
use crate::journal::{self, Journal};
use crate::logs::{LogLine, Logs};
use crate::run::{Command, Event, LOOK_AGAIN, Outcome, Record, Run, RunState, TaskState, decide};
use crate::task::{ErrorKind, Outputs, Progress, Registry, SecretSource, TaskContext, TaskError};
use crate::view::{self, RunView, Waits};
use crate::workflow::PolicyFile;

/// The longest the loop sleeps: the wall clock may have been set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How many inputs one write may carry.
const BATCH_INPUTS: usize = 256;

/// The target of the one line that a run leaves in the log when it ends.
pub const RUN_LOG: &str = "graylane::run";

/// What the engine is made of.
#[derive(Clone)]
pub struct Parts {
    /// Where records go.
    pub journal: Arc<dyn Journal>,
    /// The task types.
    pub registry: Arc<Registry>,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
    /// Where secrets come from.
    pub secrets: Arc<dyn SecretSource>,
    /// Where logs go.
    pub logs: Logs,
}

/// What happens, for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A record that is on disk.
    Record(Record),
    /// How far something is; never journalled.
    Progress {
        /// The run.
        run: RunId,
        /// The task.
        task: TaskName,
        /// How far.
        progress: Progress,
    },
    /// A line of a run's log.
    Log {
        /// The run.
        run: RunId,
        /// The line.
        line: LogLine,
    },
}

/// What both the loop and its handles see.
struct Shared {
    updates: broadcast::Sender<Update>,
    /// Cancelled when the loop has ended because it could not write.
    broken: CancellationToken,
    why_broken: Mutex<Option<journal::Error>>,
}

struct Live {
    cancel: CancellationToken,
    attempt: Attempt,
    abort: tokio::task::AbortHandle,
}

struct Scheduler {
    parts: Parts,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Input>,
    runs: ActiveRuns,
    bundles: HashMap<RunId, Arc<Bundle>>,
    live: HashMap<(RunId, TaskName), Live>,
    attempts: TaskTracker,
    /// Runs to decide on.
    changed: BTreeSet<RunId>,
    /// Runs that could not start a task because of a claim.
    blocked: BTreeMap<RunId, BTreeMap<TaskName, Blocker>>,
    wakes: BTreeMap<RunId, Timestamp>,
    stopping: bool,
}

/// Answers somebody once it is known whether the turn is on disk.
type Answer = Box<dyn FnOnce(Result<(), &journal::Error>) + Send>;

/// What one turn of the loop has decided but not yet done.
#[derive(Default)]
struct Turn {
    records: Vec<Record>,
    effects: Vec<Effect>,
    answers: Vec<Answer>,
}

enum Effect {
    Start { run: RunId, task: TaskName, attempt: Attempt },
    Stop { run: RunId, task: TaskName },
    Abort { run: RunId, task: TaskName },
    Forget { run: RunId },
}

impl Scheduler {
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        self.resume().await;
        let mut inputs = Vec::new();
        loop {
            let now = self.parts.clock.now();
            let wake = self.wakes.values().min().map_or(LONGEST_SLEEP, |at| at.since(now).min(LONGEST_SLEEP));
            inputs.clear();
            tokio::select! {
                received = inbox.recv_many(&mut inputs, BATCH_INPUTS) => if received == 0 { break },
                () = tokio::time::sleep(wake) => {}
            }
            let stop = inputs.iter().any(|input| matches!(input, Input::Shutdown { .. }));
            let mut turn = Turn::default();
            let mut done = None;
            for input in inputs.drain(..) {
                if let Some(answer) = self.take(input, &mut turn) {
                    done = Some(answer);
                }
            }
            self.wake_due();
            self.settle(&mut turn);
            if !self.finish(turn).await {
                break;
            }
            if stop {
                self.stop_attempts().await;
                if let Some(done) = done {
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }
                break;
            }
        }
        self.abort_attempts();
    }

    /// Enters again what a stop of the daemon cut off.
    async fn resume(&mut self) {
        let now = self.parts.clock.now();
        let mut turn = Turn::default();
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        for id in runs {
            self.changed.insert(id);
            let running: Vec<(TaskName, Attempt, Timestamp)> = self.runs[&id]
                .tasks()
                .filter_map(|(node, task)| match &task.state {
                    TaskState::Running { attempt, deadline, .. } => {
                        Some((node.name.clone(), *attempt, *deadline))
                    }
                    _ => None,
                })
                .collect();
            for (task, attempt, deadline) in running {
                // Past its deadline it may still look: what is done counts.
                let deadline = if deadline <= now { now.plus(LOOK_AGAIN) } else { deadline };
                self.record(id, Event::AttemptResumed { task: task.clone(), attempt, deadline }, &mut turn);
                turn.effects.push(Effect::Start { run: id, task, attempt });
            }
        }
        self.settle(&mut turn);
        self.finish(turn).await;
    }

    fn wake_due(&mut self) {
        let now = self.parts.clock.now();
        let due: Vec<RunId> = self.wakes.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.wakes.remove(&id);
            self.changed.insert(id);
        }
    }

    /// Turns an input into records. A shutdown gives back whom to answer when everything has stopped.
    fn take(&mut self, input: Input, turn: &mut Turn) -> Option<oneshot::Sender<()>> {
        match input {
            Input::Submit { run, record, bundle, default, answer } => {
                self.submit(*run, *record, bundle, default, answer, turn);
            }
            Input::AttemptEnded { run, task, attempt, result } => {
                self.attempt_ended(run, &task, attempt, result, turn)
            }
            Input::Report { run, task, attempt, report, answer } => {
                if !self.runs.get(&run).is_some_and(|run| run.is_current(&task, attempt)) {
                    let _ = answer.send(Err(TaskError::permanent("this attempt does not count any more")));
                    return None;
                }
                let event = match report {
                    Report::Phase(phase) => Event::PhaseEntered { task, attempt, phase },
                    Report::Checkpoint(name) => Event::CheckpointPassed { task, attempt, name },
                    Report::Plan(plan) => Event::PlanMade { task, attempt, plan },
                };
                self.record(run, event, turn);
                turn.answers.push(Box::new(move |written| {
                    let answered = written.map_err(|error| TaskError::transient(error.to_string()));
                    // The attempt may have been aborted meanwhile.
                    let _ = answer.send(answered);
                }));
            }
            Input::Cancel { run, actor, reason, now, answer } => {
                self.cancel(run, actor, reason, now, answer, turn)
            }
            Input::View { run, answer } => {
                let _ = answer.send(self.runs.get(&run).map(|run| self.view(run)));
            }
            Input::Shutdown { answer } => {
                self.stopping = true;
                return Some(answer);
            }
        }
        None
    }

    fn submit(
        &mut self,
        run: Run,
        record: Record,
        bundle: Arc<Bundle>,
        default: PolicyFile,
        answer: oneshot::Sender<Result<RunId, SubmitError>>,
        turn: &mut Turn,
    ) {
        let id = run.id;
        let (supersedes, replaces) = match arrive(&self.runs, &run, default) {
            Arrival::Refused(blocker) => {
                let _ = answer.send(Err(SubmitError::Busy(blocker)));
                return;
            }
            Arrival::Enter { supersedes, replaces } => (supersedes, replaces),
        };
        for old in supersedes {
            let reason = Some(format!("superseded by run {id}"));
            self.record(old, Event::CancelRequested { actor: "graylane".into(), reason, now: true }, turn);
        }
        for old in replaces {
            if self.runs.get(&old).is_some_and(|run| !matches!(run.state, RunState::Cancelling { .. })) {
                let reason = Some(format!("replaced by run {id}"));
                self.record(
                    old,
                    Event::CancelRequested { actor: "graylane".into(), reason, now: false },
                    turn,
                );
            }
        }
        self.bundles.insert(id, bundle);
        self.runs.insert(id, run);
        self.changed.insert(id);
        turn.records.push(record);
        turn.answers.push(Box::new(move |written| {
            let answered = written.map(|()| id).map_err(|error| SubmitError::Journal(error.clone()));
            let _ = answer.send(answered);
        }));
    }

    fn cancel(
        &mut self,
        id: RunId,
        actor: String,
        reason: Option<String>,
        now: bool,
        answer: oneshot::Sender<CancelAnswer>,
        turn: &mut Turn,
    ) {
        let verdict = match self.runs.get(&id).map(|run| &run.state) {
            None => CancelAnswer::NotActive,
            Some(RunState::Cancelling {
                ending: crate::run::Ending::Cancelled { now: true, .. }, ..
            }) => CancelAnswer::AlreadyCancelling,
            Some(RunState::Cancelling { .. }) if !now => CancelAnswer::AlreadyCancelling,
            Some(_) => CancelAnswer::Cancelling,
        };
        if verdict == CancelAnswer::Cancelling {
            self.record(id, Event::CancelRequested { actor, reason, now }, turn);
        }
        turn.answers.push(Box::new(move |written| {
            let answered = match written {
                Ok(()) => verdict,
                Err(error) => CancelAnswer::Broken(error.clone()),
            };
            let _ = answer.send(answered);
        }));
    }

    fn attempt_ended(
        &mut self,
        id: RunId,
        task: &TaskName,
        attempt: Attempt,
        result: Result<Outputs, TaskError>,
        turn: &mut Turn,
    ) {
        let key = (id, task.clone());
        if self.live.get(&key).is_some_and(|live| live.attempt == attempt) {
            self.live.remove(&key);
        }
        let Some(run) = self.runs.get(&id) else {
            tracing::warn!(run = %id, %task, %attempt, "an answer came after the run had ended; it is left out");
            return;
        };
        if !run.is_current(task, attempt) {
            let answer = match &result {
                Ok(_) => "succeeded".to_owned(),
                Err(error) => format!("failed: {error}"),
            };
            return self.record(id, Event::AnswerIgnored { task: task.clone(), attempt, answer }, turn);
        }
        let event = match result {
            Ok(outputs) => Event::AttemptSucceeded { task: task.clone(), attempt, outputs },
            Err(error) => self.failure(run, task, attempt, error),
        };
        self.record(id, event, turn);
    }

    /// What a failed attempt means: another one, a failed task, or a task that was stopped.
    fn failure(&self, run: &Run, task: &TaskName, attempt: Attempt, error: TaskError) -> Event {
        let now = self.parts.clock.now();
        let (Some(node), TaskState::Running { since, deadline, cleans_up, .. }) =
            (run.graph.task(task), run.task_state(task))
        else {
            return Event::TaskCancelled { task: task.clone(), error: Some(error) };
        };
        let timed_out = now >= *deadline;
        let cancelled = matches!(run.state, RunState::Cancelling { .. }) && !cleans_up;
        if cancelled && !timed_out {
            return Event::TaskCancelled { task: task.clone(), error: Some(error) };
        }
        let error = if timed_out { timed_out_error(node, deadline.since(*since), error) } else { error };
        let again = error.kind == ErrorKind::Transient && node.retry.allows_after(attempt) && !cancelled;
        let retry_at = again.then(|| now.plus(node.retry.delay_after(attempt, self.parts.clock.random())));
        Event::AttemptFailed { task: task.clone(), attempt, error, retry_at }
    }

    /// Decides until nothing follows any more.
    fn settle(&mut self, turn: &mut Turn) {
        loop {
            while let Some(id) = self.changed.pop_first() {
                self.decide(id, turn);
            }
            let admitted = if self.stopping { Vec::new() } else { admit(&self.runs) };
            if admitted.is_empty() && self.changed.is_empty() {
                break;
            }
            for id in admitted {
                self.record(id, Event::RunAdmitted, turn);
            }
        }
    }

    fn decide(&mut self, id: RunId, turn: &mut Turn) {
        self.wakes.remove(&id);
        self.blocked.remove(&id);
        let now = self.parts.clock.now();
        let Some(run) = self.runs.get(&id) else { return };
        for command in decide(run, now) {
            match command {
                Command::StartAttempt { task, attempt } => self.start(id, task, attempt, now, turn),
                Command::StopAttempt { task, .. } => turn.effects.push(Effect::Stop { run: id, task }),
                Command::AbandonAttempt { task, attempt } => self.abandon(id, task, attempt, turn),
                Command::CancelTask { task, error } => {
                    self.record(id, Event::TaskCancelled { task, error: Some(error) }, turn);
                }

                Command::SkipTask { task, reason } => {
                    self.record(id, Event::TaskSkipped { task, reason }, turn)
                }
                Command::FailTask { task, error } => self.record(id, Event::TaskFailed { task, error }, turn),
                Command::TimeOutRun => self.record(id, Event::RunTimedOut, turn),
                Command::FinishRun { outcome, reason } => self.finish_run(id, outcome, reason, turn),
                Command::WakeAt(at) => {
                    let wake = self.wakes.entry(id).or_insert(at);
                    *wake = (*wake).min(at);
                }
            }
        }
    }

    fn start(&mut self, id: RunId, task: TaskName, attempt: Attempt, now: Timestamp, turn: &mut Turn) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(node) = run.graph.task(&task) else { return };
        if self.stopping {
            return;
        }
        if let Some(blocker) = holder(&self.runs, run, run.task_claims(node)) {
            self.blocked.entry(id).or_default().insert(task, blocker);
            return;
        }
        let deadline = now.plus(node.timeout);
        self.record(id, Event::AttemptStarted { task: task.clone(), attempt, deadline }, turn);
        turn.effects.push(Effect::Start { run: id, task, attempt });
    }

    fn abandon(&mut self, id: RunId, task: TaskName, attempt: Attempt, turn: &mut Turn) {
        let Some(run) = self.runs.get(&id) else { return };
        let phase = match run.task_state(&task) {
            TaskState::Running { phase: Some(phase), .. } => format!(" while: {phase}"),
            _ => String::new(),
        };
        let error = TaskError::transient(format!("the attempt did not stop and was abandoned{phase}"))
            .hint("what it had written stays as it is");
        let event = self.failure(run, &task, attempt, error);
        self.record(id, event, turn);
        turn.effects.push(Effect::Abort { run: id, task });
    }

    fn finish_run(&mut self, id: RunId, outcome: Outcome, reason: Option<String>, turn: &mut Turn) {
        let Some(run) = self.runs.get(&id) else { return };
        let reason = reason.or_else(|| match &run.state {
            RunState::Cancelling { ending, .. } => Some(view::ending_words(ending)),
            _ => None,
        });
        self.record(id, Event::RunFinished { outcome, reason }, turn);
        turn.effects.push(Effect::Forget { run: id });
    }

    /// Adds one event: the run changes now, and everybody learns of it when it is on disk.
    fn record(&mut self, id: RunId, event: Event, turn: &mut Turn) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let record = Record { run: id, seq: Seq(run.seq.0 + 1), at: self.parts.clock.now(), event };
        if let Err(illegal) = run.apply(&record) {
            // `decide` and `take` only make events that fit; anything else is a bug, told and not written.
            tracing::error!(%illegal, "an event that does not fit was left out");
            return;
        }
        let frees = match &record.event {
            Event::RunFinished { .. }
            | Event::AttemptSucceeded { .. }
            | Event::AttemptFailed { .. }
            | Event::TaskCancelled { .. } => true,
            Event::RunSubmitted { .. }
            | Event::RunAdmitted
            | Event::CancelRequested { .. }
            | Event::RunTimedOut
            | Event::AttemptStarted { .. }
            | Event::AttemptResumed { .. }
            | Event::PlanMade { .. }
            | Event::PhaseEntered { .. }
            | Event::CheckpointPassed { .. }
            | Event::TaskSkipped { .. }
            | Event::TaskFailed { .. }
            | Event::AnswerIgnored { .. } => false,
        };
        if frees {
            self.changed.extend(self.blocked.keys());
        }
        let reports = matches!(
            record.event,
            Event::PhaseEntered { .. } | Event::PlanMade { .. } | Event::AnswerIgnored { .. }
        );
        if !reports {
            self.changed.insert(id);
        }
        turn.records.push(record);
    }

    /// Writes what the turn decided, then does it. `false` when it could not be written.
    async fn finish(&mut self, turn: Turn) -> bool {
        let Turn { records, effects, answers } = turn;
        let written =
            if records.is_empty() { Ok(()) } else { self.parts.journal.append(records.clone()).await };
        if let Err(error) = written {
            tracing::error!(%error, "the journal cannot be written: nothing new starts");
            for answer in answers {
                answer(Err(&error));
            }
            *self.shared.why_broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.shared.broken.cancel();
            return false;
        }
        self.publish(&records);
        for answer in answers {
            answer(Ok(()));
        }
        for effect in effects {
            self.act(effect);
        }
        true
    }

    fn publish(&self, records: &[Record]) {
        for record in records {
            if let Event::RunFinished { outcome, reason } = &record.event {
                let workflow = self.runs.get(&record.run).map(|run| run.graph.name.as_str());
                let reason = reason.as_deref().unwrap_or("");
                match outcome {
                    Outcome::Succeeded => {
                        tracing::info!(target: RUN_LOG, run = %record.run, workflow, reason, "run succeeded")
                    }
                    Outcome::Failed => {
                        tracing::error!(target: RUN_LOG, run = %record.run, workflow, reason, "run failed")
                    }
                    Outcome::Cancelled => {
                        tracing::warn!(target: RUN_LOG, run = %record.run, workflow, reason, "run cancelled")
                    }
                }
            }
        }
        for record in records {
            // Nobody may be watching.
            let _ = self.shared.updates.send(Update::Record(record.clone()));
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Start { run, task, attempt } => self.spawn(run, task, attempt),
            Effect::Stop { run, task } => {
                if let Some(live) = self.live.get(&(run, task)) {
                    live.cancel.cancel();
                }
            }
            Effect::Abort { run, task } => {
                if let Some(live) = self.live.remove(&(run, task)) {
                    live.cancel.cancel();
                    live.abort.abort();
                }
            }
            Effect::Forget { run } => {
                self.runs.remove(&run);
                self.bundles.remove(&run);
                self.wakes.remove(&run);
                self.blocked.remove(&run);
            }
        }
    }

    fn spawn(&mut self, id: RunId, task: TaskName, attempt: Attempt) {
        let Some(run) = self.runs.get(&id) else { return };
        let (Some(node), Some(entry), Some(bundle)) =
            (run.graph.task(&task), run.task(&task), self.bundles.get(&id))
        else {
            return;
        };
        let cancel = CancellationToken::new();
        let reports = Reports {
            run: id,
            task: task.clone(),
            attempt,
            inbox: self.sender.clone(),
            clock: Arc::clone(&self.parts.clock),
            logs: self.parts.logs.clone(),
            updates: self.shared.updates.clone(),
        };
        let spec = run.resolved(node);
        let context = spec.map(|spec| TaskContext {
            run: id,
            workflow: run.graph.name.clone(),
            task: task.clone(),
            attempt,
            spec,
            bundle: Arc::clone(bundle),
            clock: Arc::clone(&self.parts.clock),
            cancel: cancel.clone(),
            checkpoints: entry.checkpoints.clone(),
            assumed: Vec::new(),
            reporter: Arc::new(reports.clone()),
            secrets: Arc::clone(&self.parts.secrets),
        });
        let kind = (*node.kind).clone();
        let plan = entry.plan.clone();
        let journal = Arc::clone(&self.parts.journal);
        let span = tracing::info_span!("attempt", run = %id, %task, %attempt);
        let work = attempt::carry_out(kind, context, plan, journal, reports);
        let handle = self.attempts.spawn(tracing::Instrument::instrument(work, span));
        self.live.insert((id, task), Live { cancel, attempt, abort: handle.abort_handle() });
    }

    /// Gives running attempts a moment to get to the end of what they write; they are entered again on the next start.
    async fn stop_attempts(&mut self) {
        self.attempts.close();
        self.abort_attempts();
        self.attempts.wait().await;
    }

    fn abort_attempts(&mut self) {
        for live in self.live.values() {
            live.abort.abort();
        }
        self.live.clear();
    }

    fn view(&self, run: &Run) -> RunView {
        let words = |blocker: &Blocker| {
            format!("waits for run {} ({}), which holds {}", blocker.run, blocker.workflow, blocker.holds)
        };
        let tasks = self.blocked.get(&run.id).into_iter().flatten();
        let waits = Waits {
            run: waits_for(&self.runs, run).as_ref().map(words),
            tasks: tasks.map(|(task, blocker)| (task.clone(), words(blocker))).collect(),
        };
        view::of(run, &waits)
    }
}

fn timed_out_error(node: &TaskNode, after: Duration, inner: TaskError) -> TaskError {
    let limit = if after == node.timeout { node.timeout } else { after };
    let mut error =
        TaskError::transient(format!("timed out after {}: {}", show_duration(limit), inner.message));
    // What the task says is for good stays so: a deploy that was rolled back is not tried again because it was also late.
    error.kind = inner.kind;
    error.details = inner.details;
    error.hint = inner
        .hint
        .or_else(|| Some(format!("the timeout of `{}` can be raised in the workflow file", node.name)));
    error
}

#[cfg(test)]
mod tests;
