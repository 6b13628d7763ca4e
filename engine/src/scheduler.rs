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
mod slots;
mod supervise;
mod threads;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::attempt::{Guarded, Reports, Work};
pub use self::handle::{
    Actor, CancelAnswer, DeedError, Engine, FollowUp, FollowUpError, Mode, PersonAnswer, StartError,
    Submission, SubmitError,
};
pub(crate) use self::handle::{seal, supplied};
use self::input::{Input, Report};
pub use self::slots::SlotNews;
pub(crate) use self::slots::{Fire, SlotAnswer, SlotWork};
use self::threads::{Steps, Watched};
use crate::approval::ROLE;
use crate::bundle::Bundle;
use crate::clock::{Clock, Timestamp, show_duration};
use crate::concurrency::{ActiveRuns, Arrival, Blocker, admit, arrive, holder, waits_for};
use crate::graph::{Graphs, OnFailure, TaskNode};
use crate::id::{Attempt, Digest, RunId, Seq, TaskName};
use crate::journal::{self, Journal, Row, Together};
use crate::ledger::{Deed, DeedRecord, Standing};
use crate::logs::{LogLine, Logs, bounded};
use crate::run::{
    Command, Consent, Event, HoldAnswer, LOOK_AGAIN, Origin, Outcome, Record, Run, RunState, TaskState,
    Trigger, WaitingFor, decide,
};
use crate::schedule::{ScheduleKey, Skip, State};
use crate::task::{Ask, ErrorKind, Outputs, Progress, Registry, SecretSource, TaskContext, TaskError};
use crate::view::{self, RunView, Waits};
use crate::workflow::PolicyFile;

/// The longest the loop sleeps: the wall clock may have been set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How long a held task waits for an answer.
pub const HOLD_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// The longest comment of a person.
const COMMENT_BYTES: usize = 4 * 1024;
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
    /// What was checked lately.
    pub graphs: Graphs,
    /// Where attempts run: a task that blocks its thread must not stop those who answer people. Here where none is named.
    pub threads: Option<tokio::runtime::Handle>,
}

/// What happens, for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A record that is on disk.
    Record(Arc<Record>),
    /// How far something is; never journalled.
    Progress {
        /// The run.
        run: RunId,
        /// The task.
        task: TaskName,
        /// How far.
        progress: Progress,
    },
    /// A deed that is on disk.
    Deed(Arc<DeedRecord>),
    /// Slots that were skipped.
    Slot(Arc<SlotNews>),
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
    /// Why nothing can be written, while that is so.
    broken: watch::Sender<Option<journal::Error>>,
    /// Since when.
    broken_since: watch::Sender<Option<Timestamp>>,
    /// Held by whoever removes runs: one at a time.
    retaining: tokio::sync::Mutex<()>,
    /// How things stand on disk.
    standing: watch::Sender<Arc<Standing>>,
}

struct Live {
    cancel: CancellationToken,
    attempt: Attempt,
    abort: tokio::task::AbortHandle,
    watched: Watched,
}

struct Scheduler {
    parts: Parts,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Input>,
    standing: Standing,
    schedules: BTreeMap<ScheduleKey, State>,
    runs: ActiveRuns,
    bundles: HashMap<RunId, Arc<Bundle>>,
    live: HashMap<(RunId, TaskName), Live>,
    /// When they were looked at last.
    looked: tokio::time::Instant,
    attempts: TaskTracker,
    /// Runs to decide on.
    changed: BTreeSet<RunId>,
    /// Runs that could not start a task because of a claim.
    blocked: BTreeMap<RunId, BTreeMap<TaskName, Blocker>>,
    wakes: BTreeMap<RunId, Timestamp>,
    stopping: bool,
    /// Who waits until no attempt runs.
    drained: Vec<oneshot::Sender<()>>,
}

/// Answers somebody once it is known whether the turn is on disk.
type Answer = Box<dyn FnOnce(Result<(), &journal::Error>) + Send>;

/// What one turn of the loop has decided but not yet done.
#[derive(Default)]
struct Turn {
    records: Vec<Record>,
    deeds: Vec<DeedRecord>,
    rows: Vec<Row>,
    /// Schedules whose state has changed.
    touched: BTreeSet<ScheduleKey>,
    news: Vec<SlotNews>,
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
    /// Runs until it is told to stop, or until a write fails: then it gives back the attempts, which were aborted.
    async fn run(mut self, inbox: &mut mpsc::Receiver<Input>) -> Option<TaskTracker> {
        // Where somebody only answers a question, nothing that was cut off is entered again.
        if !self.stopping && !self.resume().await {
            self.abort_attempts();
            return Some(self.attempts);
        }
        let mut inputs = Vec::new();
        loop {
            let now = self.parts.clock.now();
            let longest = if self.live.is_empty() { LONGEST_SLEEP } else { threads::LOOK };
            let wake = self.wakes.values().min().map_or(longest, |at| at.since(now).min(longest));
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
                self.abort_attempts();
                return Some(self.attempts);
            }
            self.look_at_threads();
            if self.live.is_empty() {
                for answer in self.drained.drain(..) {
                    // Whoever asked may be gone.
                    let _ = answer.send(());
                }
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
        None
    }

    /// Enters again what a stop of the daemon cut off.
    async fn resume(&mut self) -> bool {
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
        self.finish(turn).await
    }

    /// Tells which attempts block their threads.
    fn look_at_threads(&mut self) {
        let now = tokio::time::Instant::now();
        if now.duration_since(self.looked) < threads::LOOK {
            return;
        }
        self.looked = now;
        let blocking = self.live.iter_mut().filter_map(|((run, task), live)| {
            live.watched.look(now).then(|| (*run, task.clone(), live.attempt))
        });
        let blocking: Vec<(RunId, TaskName, Attempt)> = blocking.collect();
        for (run, task, attempt) in blocking {
            let words = format!(
                "it has blocked its thread for more than {} s: until it lets go it hears neither a cancel nor its timeout",
                threads::LONG.as_secs()
            );
            tracing::warn!(%run, %task, %attempt, words, "a task blocks its thread");
            let line = LogLine::new(self.parts.clock.now(), task, attempt.0, words);
            self.parts.logs.add(run, &line);
            // Nobody may be watching.
            let _ = self.shared.updates.send(Update::Log { run, line });
        }
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
            Input::Submit { run, record, bundle, default, seen, answer } => {
                if let Some(known) = self.known(&record, seen, turn) {
                    turn.answers.push(Box::new(move |written| {
                        let answered = written.map_err(|error| SubmitError::Journal(error.clone()));
                        let _ = answer.send(answered.and(known));
                    }));
                    return None;
                }
                self.submit(*run, *record, bundle, default, answer, turn);
            }
            Input::Deed { deed, rows, answer } => self.deed(*deed, rows, answer, turn),
            Input::Slots { work, answer } => self.slots(*work, answer, turn),
            Input::AttemptEnded { run, task, attempt, result } => {
                self.attempt_ended(run, &task, attempt, result, turn)
            }
            Input::Report { run, task, attempt, report, answer } => {
                if !self.runs.get(&run).is_some_and(|run| run.is_current(&task, attempt)) {
                    let _ = answer.send(Err(TaskError::permanent("this attempt does not count any more")));
                    return None;
                }
                if let Report::EarlyPlan(task, _) = &report
                    && self
                        .runs
                        .get(&run)
                        .and_then(|run| run.task(task))
                        .is_none_or(|task| task.plan.is_some())
                {
                    // Another approval was first: its plan is the one.
                    let _ = answer.send(Ok(()));
                    return None;
                }
                let event = match report {
                    Report::Phase(phase) => Event::PhaseEntered { task, attempt, phase },
                    Report::Checkpoint(name) => Event::CheckpointPassed { task, attempt, name },
                    Report::Plan(plan) => Event::PlanMade { task, attempt, plan },
                    Report::EarlyPlan(task, plan) => Event::PlanMade { task, attempt: Attempt::FIRST, plan },
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
            Input::Asked { run, task, attempt, ask, plans } => {
                self.asked(run, task, attempt, ask, plans, turn);
            }
            Input::Hold { run, task, answer, actor, comment, reply } => {
                let event = self.hold_answer(run, task, answer, &actor, comment);
                self.answer_person(run, event, reply, turn);
            }
            Input::Consent { run, task, agrees, actor, comment, reply } => {
                let event = self.consent(run, task, agrees, actor, comment);
                self.answer_person(run, event, reply, turn);
            }
            Input::View { run, answer } => {
                let _ = answer.send(self.runs.get(&run).map(|run| self.view(run)));
            }
            Input::Drain { answer } => {
                self.stopping = true;
                self.drained.push(answer);
            }
            Input::Shutdown { answer } => {
                self.stopping = true;
                return Some(answer);
            }
        }
        None
    }

    /// The run that a wish was granted with before, in this turn too; `None` for a new one.
    fn known(&self, record: &Record, seen: u64, turn: &Turn) -> Option<Result<RunId, SubmitError>> {
        let Event::RunSubmitted { key: Some(key), .. } = &record.event else { return None };
        let in_turn = turn.records.iter().find_map(|other| match &other.event {
            Event::RunSubmitted { key: Some(theirs), .. } if theirs.name == key.name => {
                Some(if theirs.request == key.request {
                    Ok(other.run)
                } else {
                    Err(SubmitError::KeyTaken(other.run))
                })
            }
            _ => None,
        });
        in_turn.or_else(|| handle::granted(&*self.parts.journal, key, seen).transpose())
    }

    fn deed(
        &mut self,
        deed: Deed,
        rows: Vec<journal::Row>,
        answer: oneshot::Sender<Result<Seq, DeedError>>,
        turn: &mut Turn,
    ) {
        let now = self.parts.clock.now();
        if let Some(why) = self.standing.refuses(&deed, now) {
            let _ = answer.send(Err(why.into()));
            return;
        }
        let record = DeedRecord { seq: Seq(self.standing.seq + 1), at: now, deed };
        if let Err(why) = self.standing.apply(&record) {
            let _ = answer.send(Err(why.into()));
            return;
        }
        let seq = record.seq;
        turn.rows.extend(rows);
        turn.deeds.push(record);
        turn.answers.push(Box::new(move |written| {
            let answered = written.map(|()| seq).map_err(|error| DeedError::Journal(error.clone()));
            let _ = answer.send(answered);
        }));
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
        let arrival = arrive(&self.runs, &run, None, default);
        if let Arrival::Refused(blocker) = arrival {
            let _ = answer.send(Err(SubmitError::Busy(blocker)));
            return;
        }
        self.place(run, record, bundle, arrival, turn);
        turn.answers.push(Box::new(move |written| {
            let answered = written.map(|()| id).map_err(|error| SubmitError::Journal(error.clone()));
            let _ = answer.send(answered);
        }));
    }

    /// Gives a new run its place: others make way as it was said.
    fn place(&mut self, run: Run, record: Record, bundle: Arc<Bundle>, arrival: Arrival, turn: &mut Turn) {
        let id = run.id;
        let Arrival::Enter { policy, supersedes, replaces } = arrival else { return };
        for old in supersedes {
            let (skip, words) = match policy {
                PolicyFile::Replace => (Skip::Replaced, "replaced"),
                _ => (Skip::Superseded, "superseded"),
            };
            let reason = Some(format!("{words} by run {id}"));
            if self.slot_is_open(old) {
                self.count_slot(old, Some(skip), turn);
            }
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
        let reason = reason.map(|reason| bounded(reason, COMMENT_BYTES));
        let verdict = match self.runs.get(&id).map(|run| &run.state) {
            None => CancelAnswer::NotActive,
            Some(RunState::Cancelling {
                ending: crate::run::Ending::Cancelled { now: true, .. }, ..
            }) => CancelAnswer::AlreadyCancelling,
            Some(RunState::Cancelling { .. }) if !now => CancelAnswer::AlreadyCancelling,
            Some(_) => CancelAnswer::Cancelling,
        };
        if verdict == CancelAnswer::Cancelling {
            if self.slot_is_open(id) {
                // It had its run, and a person ended it.
                self.count_slot(id, None, turn);
            }
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

    /// The plans are on disk: from now on people decide.
    fn asked(
        &mut self,
        id: RunId,
        task: TaskName,
        attempt: Attempt,
        ask: Ask,
        plans: BTreeMap<TaskName, Digest>,
        turn: &mut Turn,
    ) {
        self.live.remove(&(id, task.clone()));
        let Some(run) = self.runs.get(&id) else { return };
        if !run.is_current(&task, attempt) {
            let answer = "people could be asked".to_owned();
            return self.record(id, Event::AnswerIgnored { task, attempt, answer }, turn);
        }
        // Where two approvals guard one task, its plan was made by the first.
        let plans = plans
            .into_iter()
            .map(|(task, made)| {
                let stored = run.task(&task).and_then(|task| task.plan.clone());
                (task, stored.unwrap_or(made))
            })
            .collect();
        let expires = self.parts.clock.now().plus(ask.expires);
        self.record(id, Event::ApprovalAsked { task, attempt, ask, plans, expires }, turn);
    }

    /// Tells somebody what became of their answer, once it is on disk.
    fn answer_person(
        &mut self,
        id: RunId,
        event: Result<Event, PersonAnswer>,
        reply: oneshot::Sender<PersonAnswer>,
        turn: &mut Turn,
    ) {
        match event {
            Err(refused) => {
                // It may have expired, and nobody has said so yet.
                if self.runs.contains_key(&id) {
                    self.changed.insert(id);
                }
                let _ = reply.send(refused);
            }
            Ok(event) => {
                let task = event.task().cloned();
                self.record(id, event, turn);
                turn.answers.push(Box::new(move |written| {
                    let answered = match (written, task) {
                        (Err(error), _) => PersonAnswer::Broken(error.clone()),
                        (Ok(()), Some(task)) => PersonAnswer::Taken(task),
                        (Ok(()), None) => PersonAnswer::NotWaiting,
                    };
                    let _ = reply.send(answered);
                }));
            }
        }
    }

    /// The task of a run that waits for people in the way that is asked for: the named one, or the only one.
    fn waiting(
        &self,
        id: RunId,
        task: Option<TaskName>,
        fits: impl Fn(&WaitingFor) -> bool,
    ) -> Result<(&Run, TaskName, &WaitingFor), PersonAnswer> {
        let now = self.parts.clock.now();
        let run = self.runs.get(&id).ok_or(PersonAnswer::NotWaiting)?;
        if matches!(run.state, RunState::Cancelling { .. }) {
            return Err(PersonAnswer::NotWaiting);
        }
        let mut found = run.tasks().filter_map(|(node, entry)| match &entry.state {
            // Nobody answers what has expired, also where it was not told yet.
            TaskState::Waiting { on, expires, .. }
                if fits(on) && now < *expires && task.as_ref().is_none_or(|task| *task == node.name) =>
            {
                Some((node.name.clone(), on))
            }
            _ => None,
        });
        let (name, on) = found.next().ok_or(PersonAnswer::NotWaiting)?;
        let others: Vec<TaskName> = found.map(|(name, _)| name).collect();
        if others.is_empty() {
            return Ok((run, name, on));
        }
        Err(PersonAnswer::Several([vec![name], others].concat()))
    }

    fn hold_answer(
        &self,
        id: RunId,
        task: Option<TaskName>,
        answer: HoldAnswer,
        actor: &Actor,
        comment: Option<String>,
    ) -> Result<Event, PersonAnswer> {
        let (_, task, _) = self.waiting(id, task, |on| matches!(on, WaitingFor::Hold { .. }))?;
        let comment = comment.map(|comment| bounded(comment, COMMENT_BYTES));
        Ok(Event::HoldAnswered { task, answer, actor: actor.name.clone(), comment })
    }

    fn consent(
        &self,
        id: RunId,
        task: Option<TaskName>,
        agrees: bool,
        actor: Actor,
        comment: Option<String>,
    ) -> Result<Event, PersonAnswer> {
        let (run, task, on) = self.waiting(id, task, |on| matches!(on, WaitingFor::Approval { .. }))?;
        let WaitingFor::Approval { ask, given, .. } = on else { return Err(PersonAnswer::NotWaiting) };
        if let Some(why) = refusal(run, ask, given, &actor, agrees) {
            return Err(PersonAnswer::Refused(why));
        }
        let at = self.parts.clock.now();
        let comment = comment.map(|comment| bounded(comment, COMMENT_BYTES));
        let consent = Consent { actor: actor.name, comment, authenticated: actor.authenticated, at };
        Ok(if agrees { Event::Approved { task, consent } } else { Event::Rejected { task, consent } })
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
        // Nobody is asked while the run ends, or while it is taken back.
        let asks = !matches!(run.state, RunState::Cancelling { .. }) && !run.is_undo();
        if !again && asks && (error.kind == ErrorKind::Hold || node.on_failure == OnFailure::Hold) {
            let expires = now.plus(HOLD_EXPIRES);
            return Event::TaskHeld { task: task.clone(), attempt, error, expires };
        }
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
                if self.slot_is_open(id) {
                    self.count_slot(id, None, turn);
                }
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
                // What was cut off is looked at by who resumes it; until then its time says nothing.
                Command::StopAttempt { .. } | Command::AbandonAttempt { .. } | Command::TimeOutRun
                    if self.stopping => {}
                Command::StartAttempt { task, attempt } => self.start(id, task, attempt, now, turn),
                Command::StopAttempt { task, .. } => turn.effects.push(Effect::Stop { run: id, task }),
                Command::AbandonAttempt { task, attempt } => self.abandon(id, task, attempt, turn),
                Command::CancelTask { task, error } => {
                    self.record(id, Event::TaskCancelled { task, error }, turn);
                }
                Command::ExpireWait { task } => self.record(id, Event::WaitExpired { task }, turn),
                Command::SkipTask { task, reason } => {
                    self.record(id, Event::TaskSkipped { task, reason }, turn)
                }
                Command::FailTask { task, error } => self.record(id, Event::TaskFailed { task, error }, turn),
                Command::TimeOutRun => self.record(id, Event::RunTimedOut, turn),
                Command::FinishRun { outcome, reason, undo } => {
                    self.finish_run(id, outcome, reason, undo, now, turn);
                }
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

    fn finish_run(
        &mut self,
        id: RunId,
        outcome: Outcome,
        reason: Option<String>,
        undo: bool,
        now: Timestamp,
        turn: &mut Turn,
    ) {
        let Some(run) = self.runs.get(&id) else { return };
        let reason = reason.or_else(|| match &run.state {
            RunState::Cancelling { ending, .. } => Some(view::ending_words(ending)),
            _ => None,
        });
        let undo = if undo { self.begin_undo(run, now) } else { None };
        let undone_by = undo.as_ref().map(|(run, _)| run.id);
        self.record(id, Event::RunFinished { outcome, reason, undone_by }, turn);
        turn.effects.push(Effect::Forget { run: id });
        if let Some((run, record)) = undo {
            // In the same write, and admitted at once: nobody comes between the run and what takes it back.
            let undo = run.id;
            if let Some(bundle) = self.bundles.get(&id) {
                self.bundles.insert(undo, Arc::clone(bundle));
            }
            self.runs.insert(undo, run);
            turn.records.push(record);
            self.record(undo, Event::RunAdmitted, turn);
        }
    }

    fn begin_undo(&self, run: &Run, now: Timestamp) -> Option<(Run, Record)> {
        let event = run.undo(Trigger::Undo, "graylane".into(), false).ok()?;
        let record = Record { run: handle::new_id(&self.parts, now), seq: Seq(1), at: now, event };
        match Run::begin(Arc::new(run.graph.reversed()), &record) {
            Ok(undo) => Some((undo, record)),
            Err(illegal) => {
                tracing::error!(%illegal, "the run that takes another one back cannot begin");
                None
            }
        }
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
            | Event::TaskHeld { .. }
            | Event::ApprovalAsked { .. }
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
            | Event::HoldAnswered { .. }
            | Event::Approved { .. }
            | Event::Rejected { .. }
            | Event::WaitExpired { .. }
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
    async fn finish(&mut self, mut turn: Turn) -> bool {
        self.touched_rows(&mut turn);
        let Turn { records, deeds, rows, news, effects, answers, .. } = turn;
        let together = Together { records: records.clone(), deeds: deeds.clone(), rows };
        let written = if together.is_empty() { Ok(()) } else { self.parts.journal.write(together).await };
        if let Err(error) = written {
            tracing::error!(%error, "the journal cannot be written: nothing new starts");
            for answer in answers {
                answer(Err(&error));
            }
            self.shared.broken_since.send_replace(Some(self.parts.clock.now()));
            self.shared.broken.send_replace(Some(error));
            return false;
        }
        if !deeds.is_empty() {
            self.shared.standing.send_replace(Arc::new(self.standing.clone()));
        }
        self.publish(&records);
        for deed in deeds {
            // Nobody may be watching.
            let _ = self.shared.updates.send(Update::Deed(Arc::new(deed)));
        }
        self.tell_slots(news);
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
            if let Event::RunFinished { outcome, reason, .. } = &record.event {
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
        if self.shared.updates.receiver_count() == 0 {
            return;
        }
        for record in records {
            // Nobody may be watching.
            let _ = self.shared.updates.send(Update::Record(Arc::new(record.clone())));
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
        let context_of = |node: &TaskNode, attempt: Attempt| {
            let checkpoints = run.task(&node.name).map(|entry| entry.checkpoints.clone()).unwrap_or_default();
            run.resolved(node).map(|spec| TaskContext {
                run: id,
                workflow: run.graph.name.clone(),
                source: run.submitted.source.as_ref().map(|source| source.name.clone()),
                task: node.name.clone(),
                attempt,
                spec,
                bundle: Arc::clone(bundle),
                clock: Arc::clone(&self.parts.clock),
                cancel: cancel.clone(),
                checkpoints,
                force: matches!(run.submitted.origin, Some(Origin::Undo { force: true, .. })),
                undoes: run.submitted.origin.as_ref().filter(|_| run.is_undo()).map(Origin::of),
                standing: self.shared.standing.subscribe(),
                assumed: Vec::new(),
                reporter: Arc::new(reports.clone()),
                secrets: Arc::clone(&self.parts.secrets),
            })
        };
        let work = if run.is_undo() {
            Work::Undo
        } else if node.is_approval() {
            Work::Ask(self.guarded(run, node, &context_of))
        } else {
            Work::Run
        };
        let context = context_of(node, attempt);
        let kind = (*node.kind).clone();
        let plan = entry.plan.clone();
        let journal = Arc::clone(&self.parts.journal);
        // The journal's own names, each inside the other: what a task says is found by any of them.
        let of_run = tracing::info_span!("run", run = %id, workflow = %run.graph.name);
        let of_task = tracing::info_span!(parent: &of_run, "task", %task, "type" = node.kind.type_name());
        let span = tracing::info_span!(parent: &of_task, "attempt", %attempt);
        let steps = Steps::default();
        // In a box: a future that waits for another one has room for it twice, and there may be 10,000.
        let work = Box::pin(attempt::carry_out(kind, context, plan, work, journal, reports, steps.clone()));
        let work = async move {
            tracing::debug!(target: RUN_LOG, "an attempt begins");
            work.await;
            tracing::debug!(target: RUN_LOG, "an attempt ends");
        };
        let work = tracing::Instrument::instrument(work, span);
        let handle = match &self.parts.threads {
            Some(threads) => self.attempts.spawn_on(work, threads),
            None => self.attempts.spawn(work),
        };
        let (abort, watched) = (handle.abort_handle(), Watched::new(steps));
        self.live.insert((id, task), Live { cancel, attempt, abort, watched });
    }

    /// The tasks whose plans an approval guards, as far as they may still begin.
    fn guarded(
        &self,
        run: &Run,
        approval: &TaskNode,
        context_of: &dyn Fn(&TaskNode, Attempt) -> Result<TaskContext, TaskError>,
    ) -> Vec<Guarded> {
        let names = run.guarded_by(approval);
        let nodes = names.iter().filter_map(|name| run.graph.task(name));
        nodes
            .filter(|node| matches!(run.task_state(&node.name), TaskState::Pending) && !node.is_approval())
            .map(|node| Guarded {
                kind: (*node.kind).clone(),
                task: node.name.clone(),
                context: context_of(node, Attempt::FIRST),
                plan: run.task(&node.name).and_then(|task| task.plan.clone()),
            })
            .collect()
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
        let now = tokio::time::Instant::now();
        let stuck = run.tasks().filter_map(|(node, _)| {
            let live = self.live.get(&(run.id, node.name.clone()))?;
            Some((node.name.clone(), live.watched.words(now)?))
        });
        let waits = Waits {
            run: waits_for(&self.runs, run).as_ref().map(words),
            tasks: tasks.map(|(task, blocker)| (task.clone(), words(blocker))).chain(stuck).collect(),
        };
        view::of(run, &waits)
    }
}

/// Why somebody may not answer an approval; `None` where they may.
fn refusal(run: &Run, ask: &Ask, given: &[Consent], actor: &Actor, agrees: bool) -> Option<String> {
    let named = |name: &String| match name.strip_prefix(ROLE) {
        Some(role) => actor.roles.iter().any(|own| own == role),
        None => *name == actor.name,
    };
    if !ask.from.is_empty() && !ask.from.iter().any(named) {
        return Some(format!("{} may not answer: it is up to {}", actor.name, ask.from.join(", ")));
    }
    if let Some(environment) = &ask.protected
        && !actor.authenticated
    {
        return Some(format!(
            "the environment `{environment}` is protected: only who has proved who they are may answer, and `{}` is only a name here",
            actor.name
        ));
    }
    // Whoever started a run may always say no to it.
    if !agrees {
        return None;
    }
    if !ask.allow_initiator && run.submitted.actor == actor.name {
        return Some(format!("{} started the run: somebody else must agree", actor.name));
    }
    given
        .iter()
        .any(|consent| consent.actor == actor.name)
        .then(|| format!("{} has agreed already", actor.name))
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
