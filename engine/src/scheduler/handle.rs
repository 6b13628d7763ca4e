//! The engine as its users hold it: submit, cancel, look, watch, stop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::input::Input;
use super::slots::{self, SlotAnswer, SlotWork};
use super::supervise::supervise;
use super::{Parts, Scheduler, Shared, Update};
use crate::bundle::Bundle;
use crate::clock::Timestamp;
use crate::concurrency::{ActiveRuns, Blocker};
use crate::document::Problem;
use crate::expression::{self, Part};
use crate::graph::{Graph, Known};
use crate::id::{Digest, RunId, Seq, TaskName};
use crate::input::complete;
use crate::journal::{self, Journal, Page, Query};
use crate::ledger::{Deed, DeedRecord, Refused, Standing};
use crate::logs::LogLine;
use crate::retention::{self, Kept as KeptRuns, Policy, Retained};
use crate::run::{
    Event, FollowError, HoldAnswer, IllegalEvent, Kept, Key, Origin, Record, Run, Sourced, Trigger,
};
use crate::schema::nearest;
use crate::task::{Plan, Registry};
use crate::view::{self, RunSummary, RunView, Waits};
use crate::workflow::PolicyFile;

/// What a person or a trigger asks for.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The workflow and everything that it needs; no secret.
    pub bundle: Bundle,
    /// The inputs that are given.
    pub inputs: Map<String, Value>,
    /// The only tasks to carry out; empty for all.
    pub only: Vec<String>,
    /// Tasks to leave out.
    pub skip: Vec<String>,
    /// The run whose outputs stand for those of tasks that are left out.
    pub from: Option<RunId>,
    /// Who asks.
    pub actor: String,
    /// What asks.
    pub trigger: Trigger,
    /// The operator's variables.
    pub vars: BTreeMap<String, Value>,
    /// The names of the operator's secrets.
    pub secrets: BTreeSet<String>,
    /// Where the workflow's file came from; whoever brings their own says nothing here.
    pub source: Option<Sourced>,
    /// What the caller calls this wish: asked for again under the same name, also after a crash, it is the same run.
    pub key: Option<Key>,
}

/// Why a run was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The workflow file has errors.
    #[error("the workflow has errors")]
    Invalid(Vec<Problem>),
    /// Inputs, `only` or `skip` do not fit.
    #[error("{}", .0.join("; "))]
    Inputs(Vec<String>),
    /// The policy refuses it while another run is active.
    #[error("run {} is active and holds {}", .0.run, .0.holds)]
    Busy(Blocker),
    /// Something else was asked for under the same name before.
    #[error("run {0} was asked for under the same key, with another request")]
    KeyTaken(RunId),
    /// It could not be recorded.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

/// Why a deed was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeedError {
    /// It cannot be done as things stand.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be recorded.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
}

/// What became of asking a run to end.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum CancelAnswer {
    /// It is on its way to its end.
    Cancelling,
    /// It was on its way already.
    AlreadyCancelling,
    /// It is final, or not known.
    NotActive,
    /// It could not be recorded.
    Broken(journal::Error),
}

/// Somebody who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Their name.
    pub name: String,
    /// Their roles, as the operator's settings say.
    pub roles: Vec<String>,
    /// Whether they have proved that the name is theirs.
    pub authenticated: bool,
}

/// What became of a person's answer.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum PersonAnswer {
    /// It is on disk, and holds for this task.
    Taken(TaskName),
    /// Nothing waits for such an answer.
    NotWaiting,
    /// More than one task does: say which.
    Several(Vec<TaskName>),
    /// They may not answer.
    Refused(String),
    /// It could not be recorded.
    Broken(journal::Error),
}

/// Why no run follows on another one.
#[derive(Debug, thiserror::Error)]
pub enum FollowUpError {
    /// There is no such run.
    #[error("there is no run {0}")]
    Unknown(RunId),
    /// What it was does not allow it.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] StartError),
    /// The new run was not taken.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// How a run shall follow on another one.
#[derive(Debug, Clone, PartialEq)]
pub enum FollowUp {
    /// Take back what it changed; `force` also where an object is not as it left it.
    Undo {
        /// Over what others changed since.
        force: bool,
    },
    /// Do what it did not get done, or this task and all that comes after it.
    Retry {
        /// The first task to do again.
        from: Option<TaskName>,
    },
    /// Do all of it once more.
    Rerun,
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Runs were cut off, and whoever starts the engine did not ask for them to go on.
    #[error("run {} ({}) was cut off and is unfinished", .0[0].id, .0[0].workflow)]
    Unfinished(Vec<RunSummary>),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The records of a run do not follow on each other.
    #[error("the store is damaged: {0}")]
    Illegal(#[from] IllegalEvent),
    /// An unfinished run whose workflow this version does not read any more.
    #[error("run {run} cannot go on: its workflow is not valid for this version: {problem}")]
    Unreadable {
        /// The run.
        run: RunId,
        /// The first problem.
        problem: String,
    },
}

/// What an engine is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Unfinished runs go on.
    Work,
    /// New runs are taken, unless one is unfinished: nothing that was cut off goes on by surprise.
    Begin,
    /// Only this run goes on, to be ended; others stay as they are.
    End(RunId),
    /// Somebody answers what a run asks, or cancels one that waits: that is recorded, and nothing goes on.
    Answer,
    /// Unfinished runs stay as they are: somebody only wants to see them.
    Look,
}

/// A running engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    parts: Parts,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Input>,
}

impl Engine {
    /// Folds the journal and starts the loop; what a stop had cut off goes on, unless it is only looked at.
    ///
    /// # Errors
    /// A journal that cannot be read to its end.
    pub async fn start(parts: Parts, mode: Mode) -> Result<Engine, StartError> {
        if mode == Mode::Begin {
            let mut unfinished = parts.journal.unfinished();
            // What waits for people was not cut off; it goes on waiting here.
            unfinished.retain(|run| run.status != "waiting");
            if !unfinished.is_empty() {
                return Err(StartError::Unfinished(unfinished));
            }
        }
        let (inbox, receiver) = mpsc::channel(1024);
        let shared = Arc::new(Shared {
            updates: broadcast::channel(16 * 1024).0,
            broken: watch::channel(None).0,
            broken_since: watch::channel(None).0,
            retaining: tokio::sync::Mutex::default(),
            standing: watch::channel(Arc::default()).0,
        });
        let scheduler = scheduler(&parts, &shared, &inbox, mode)?;
        tokio::spawn(supervise(scheduler, receiver, mode));
        Ok(Engine { parts, shared, inbox })
    }

    /// The task types.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// Checks a submission and journals it; when this returns, the run is on disk.
    ///
    /// # Errors
    /// What is wrong with it, before anything is recorded.
    pub async fn submit(&self, submission: Submission) -> Result<RunId, SubmitError> {
        let now = self.parts.clock.now();
        let id = new_id(&self.parts, now);
        let bundle = Arc::new(submission.bundle.clone());
        let parts = self.parts.clone();
        let seen = self.parts.journal.head().position;
        if let Some(run) = self.granted(submission.key.as_ref()).await? {
            return Ok(run);
        }
        // Parsing and storing are not for the threads that serve others.
        let made = tokio::task::spawn_blocking(move || {
            let supplied = supplied(&parts, submission.from)?;
            seal(&parts, submission, supplied, id, now)
        });
        let made = made.await;
        let (run, record) = made.map_err(|error| SubmitError::Inputs(vec![error.to_string()]))??;
        self.enter(run, record, bundle, PolicyFile::Latest, seen).await
    }

    /// The run that a wish was granted with before.
    ///
    /// # Errors
    /// Something else was asked for under the same name.
    pub async fn granted(&self, key: Option<&Key>) -> Result<Option<RunId>, SubmitError> {
        let Some(key) = key.cloned() else { return Ok(None) };
        let parts = self.parts.clone();
        let granted = tokio::task::spawn_blocking(move || granted(&*parts.journal, &key, 0)).await;
        granted.map_err(|error| SubmitError::Inputs(vec![error.to_string()]))?
    }

    /// Does something that belongs to no run; when this returns, it is on disk.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn deed(&self, deed: Deed) -> Result<Seq, DeedError> {
        self.deed_with(deed, Vec::new()).await
    }

    /// The finished runs that a policy does not keep, the oldest first.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub async fn due(&self, policy: Policy, kept: KeptRuns) -> Result<Vec<RunSummary>, journal::Error> {
        let parts = self.parts.clone();
        off_thread(move || retention::due(&*parts.journal, &policy, &kept, parts.clock.now())).await
    }

    /// Removes the finished runs that a policy does not keep, and ends what was begun before.
    ///
    /// # Errors
    /// What stands in the way; what is done is done, and the rest goes on the next time.
    pub async fn retain(&self, policy: Policy, kept: KeptRuns, by: String) -> Result<Retained, DeedError> {
        let _alone = self.shared.retaining.lock().await;
        let mut done = self.remove_begun().await?;
        for part in self.due(policy, kept).await?.chunks(retention::PART) {
            let (parts, part, by) = (self.parts.clone(), part.to_vec(), by.clone());
            let (deed, rows) =
                off_thread(move || retention::removal(&*parts.journal, &part, &by, &policy)).await?;
            self.deed_with(deed, rows).await?;
            let more = self.remove_begun().await?;
            done = Retained { runs: done.runs + more.runs, objects: done.objects + more.objects };
        }
        Ok(done)
    }

    /// Removes what deeds say is removed. Every step may be done again.
    async fn remove_begun(&self) -> Result<Retained, DeedError> {
        let mut done = Retained::default();
        let journal = &self.parts.journal;
        let begun = retention::begun(&**journal);
        if begun.is_empty() {
            return Ok(done);
        }
        let deeds = journal.deeds()?;
        for (digest, (runs, keys)) in begun {
            let deed = deeds.iter().find_map(|(record, _)| match &record.deed {
                Deed::RunsRemoved { digest: theirs, .. } if theirs.as_str() == digest => Some(record.seq),
                _ => None,
            });
            if let Some(deed) = deed {
                journal.prune(deed, runs.clone()).await?;
                for run in &runs {
                    // What cannot be removed is in nobody's way.
                    if let Err(error) = self.parts.logs.remove(*run) {
                        tracing::warn!(%run, %error, "the log of a removed run cannot be removed");
                    }
                }
                done.runs += runs.len() as u64;
                let parts = self.parts.clone();
                done.objects += off_thread(move || parts.journal.sweep()).await?;
            }
            let rows = keys.into_iter().map(|key| journal::Row { key, value: None }).collect();
            journal.write(journal::Together { rows, ..journal::Together::default() }).await?;
        }
        Ok(done)
    }

    async fn deed_with(&self, deed: Deed, rows: Vec<journal::Row>) -> Result<Seq, DeedError> {
        let (answer, answered) = oneshot::channel();
        let stopping = || self.broken().map_or(DeedError::Stopping, DeedError::Journal);
        self.inbox.send(Input::Deed { deed: Box::new(deed), rows, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Carries out what was decided of a schedule's slots.
    pub(crate) async fn slots(&self, work: SlotWork) -> SlotAnswer {
        let (answer, answered) = oneshot::channel();
        let input = Input::Slots { work: Box::new(work), answer };
        let broken = || {
            let why =
                self.broken().unwrap_or_else(|| journal::Error::Broken("the engine is stopping".into()));
            SlotAnswer::Broken(why)
        };
        if self.inbox.send(input).await.is_err() {
            return broken();
        }
        answered.await.unwrap_or_else(|_| broken())
    }

    /// What the engine is made of.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// How things stand: what is paused and frozen, and who has a token.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.shared.standing.borrow())
    }

    /// The same, for those who act on changes.
    pub fn standing_changes(&self) -> watch::Receiver<Arc<Standing>> {
        self.shared.standing.subscribe()
    }

    /// All deeds, in order.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn deeds(&self) -> Result<Vec<DeedRecord>, journal::Error> {
        Ok(self.parts.journal.deeds()?.into_iter().map(|(deed, _)| deed).collect())
    }

    async fn enter(
        &self,
        run: Run,
        record: Record,
        bundle: Arc<Bundle>,
        default: PolicyFile,
        seen: u64,
    ) -> Result<RunId, SubmitError> {
        let (answer, answered) = oneshot::channel();
        let (run, record) = (Box::new(run), Box::new(record));
        let input = Input::Submit { run, record, bundle, default, seen, answer };
        self.inbox.send(input).await.map_err(|_| self.stopping())?;
        answered.await.map_err(|_| self.stopping())?
    }

    /// Begins a run that follows on one that is over; when this returns, it is on disk. Asked for again under the same
    /// key it is the same run, as with a submission.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn follow_up(
        &self,
        of: RunId,
        how: FollowUp,
        actor: String,
        key: Option<Key>,
    ) -> Result<RunId, FollowUpError> {
        let now = self.parts.clock.now();
        let id = new_id(&self.parts, now);
        let seen = self.parts.journal.head().position;
        // What was taken back already would be refused now.
        if let Some(run) = self.granted(key.as_ref()).await? {
            return Ok(run);
        }
        let default = match how {
            // It waits its turn; nothing newer pushes it aside.
            FollowUp::Undo { .. } => PolicyFile::Queue,
            FollowUp::Retry { .. } | FollowUp::Rerun => PolicyFile::Latest,
        };
        let parts = self.parts.clone();
        let made = tokio::task::spawn_blocking(move || -> Result<_, FollowUpError> {
            let (old, bundle) = load(&parts, of)?.ok_or(FollowUpError::Unknown(of))?;
            if !old.state.is_final() {
                return Err(FollowError::Unfinished(of).into());
            }
            let (mut event, graph) = match how {
                FollowUp::Undo { force } => {
                    if let Some(by) = old.undone_by
                        && !force
                        && load(&parts, by)?.is_some_and(|(run, _)| run.succeeded())
                    {
                        return Err(FollowError::TakenBack(of, by).into());
                    }
                    if !force
                        && let Some(by) = undone_later(&parts, &old)?
                        && load(&parts, by)?.is_some_and(|(run, _)| run.succeeded())
                    {
                        return Err(FollowError::TakenBack(of, by).into());
                    }
                    (old.undo(Trigger::Manual, actor, force)?, Arc::new(old.graph.reversed()))
                }
                FollowUp::Retry { from } => {
                    if let Some(by) = undone_later(&parts, &old)? {
                        return Err(FollowError::Undone(of, by).into());
                    }
                    (old.retry(actor, from.as_ref())?, Arc::clone(&old.graph))
                }
                FollowUp::Rerun => (old.rerun(actor)?, Arc::clone(&old.graph)),
            };
            if let Event::RunSubmitted { key: kept, .. } = &mut event {
                *kept = key;
            }
            let record = Record { run: id, seq: Seq(1), at: now, event };
            let run = Run::begin(graph, &record).map_err(StartError::Illegal)?;
            Ok((run, record, bundle))
        });
        let made =
            made.await.map_err(|error| StartError::Journal(journal::Error::Damaged(error.to_string())));
        let (run, record, bundle) = made??;
        Ok(self.enter(run, record, bundle, default, seen).await?)
    }

    /// Says how a held task goes on; when this returns, the answer is on disk.
    pub async fn answer_hold(
        &self,
        run: RunId,
        task: Option<TaskName>,
        answer: HoldAnswer,
        actor: Actor,
        comment: Option<String>,
    ) -> PersonAnswer {
        let (reply, answered) = oneshot::channel();
        self.ask(Input::Hold { run, task, answer, actor, comment, reply }, answered).await
    }

    /// Agrees to what comes next, or does not; when this returns, that is on disk.
    pub async fn approve(
        &self,
        run: RunId,
        task: Option<TaskName>,
        agrees: bool,
        actor: Actor,
        comment: Option<String>,
    ) -> PersonAnswer {
        let (reply, answered) = oneshot::channel();
        self.ask(Input::Consent { run, task, agrees, actor, comment, reply }, answered).await
    }

    async fn ask(&self, input: Input, answered: oneshot::Receiver<PersonAnswer>) -> PersonAnswer {
        match self.inbox.send(input).await {
            Ok(()) => answered.await.unwrap_or(PersonAnswer::NotWaiting),
            Err(_) => self.broken().map_or(PersonAnswer::NotWaiting, PersonAnswer::Broken),
        }
    }

    fn stopping(&self) -> SubmitError {
        self.broken().map_or(SubmitError::Stopping, SubmitError::Journal)
    }

    /// Asks a run to end; when this returns, the wish is on disk.
    pub async fn cancel(&self, run: RunId, actor: String, reason: Option<String>, now: bool) -> CancelAnswer {
        let (answer, answered) = oneshot::channel();
        let sent = self.inbox.send(Input::Cancel { run, actor, reason, now, answer }).await;
        match sent {
            Ok(()) => answered.await.unwrap_or(CancelAnswer::NotActive),
            Err(_) => self.broken().map_or(CancelAnswer::NotActive, CancelAnswer::Broken),
        }
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn runs(&self, query: &Query) -> Result<Page, journal::Error> {
        self.parts.journal.list(query)
    }

    /// The runs that are not final, oldest first.
    pub fn unfinished(&self) -> Vec<RunSummary> {
        self.parts.journal.unfinished()
    }

    /// Everything about a run; `None` for one that is not known.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub async fn view(&self, run: RunId) -> Result<Option<RunView>, StartError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.inbox.send(Input::View { run, answer }).await;
        let active = if sent.is_ok() { answered.await.ok().flatten() } else { None };
        let parts = self.parts.clone();
        let folded = tokio::task::spawn_blocking(move || {
            let mut view = match active {
                Some(view) => view,
                None => {
                    let Some((run, _)) = load(&parts, run)? else { return Ok(None) };
                    let mut view = view::of(&run, &Waits::default());
                    // A final run cannot name what took it back later.
                    if view.outcome.is_some() && view.undone_by.is_none() {
                        view.undone_by = undone_later(&parts, &run)?;
                    }
                    view
                }
            };
            let plan = |digest: &Digest| {
                parts.journal.get(digest).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
            };
            view.tell(&parts.journal.read(run)?, plan);
            Ok(Some(view))
        });
        folded
            .await
            .unwrap_or_else(|error| Err(StartError::Journal(journal::Error::Damaged(error.to_string()))))
    }

    /// The records of a run.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn records(&self, run: RunId) -> Result<Vec<Record>, journal::Error> {
        self.parts.journal.read(run)
    }

    /// A page of them: at most so many after this one.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub async fn records_after(
        &self,
        run: RunId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, journal::Error> {
        let parts = self.parts.clone();
        off_thread(move || parts.journal.read_after(run, after, limit)).await
    }

    /// A stored plan.
    ///
    /// # Errors
    /// It is missing or unreadable.
    pub fn plan(&self, digest: &Digest) -> Result<Plan, journal::Error> {
        let bytes = self.parts.journal.get(digest)?;
        serde_json::from_slice(&bytes).map_err(|error| journal::Error::Damaged(error.to_string()))
    }

    /// The log of a run.
    ///
    /// # Errors
    /// What the system said.
    pub fn log(&self, run: RunId) -> std::io::Result<Vec<LogLine>> {
        self.parts.logs.read(run)
    }

    /// Everything that happens from now on. Who is too slow is told by the channel, and reads the journal.
    pub fn watch(&self) -> broadcast::Receiver<Update> {
        self.shared.updates.subscribe()
    }

    /// Whether the loop takes what is asked of it. Where it does not answer, neither does this.
    pub async fn answers(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        let asked = self.inbox.send(Input::View { run: RunId::LEDGER, answer }).await;
        asked.is_ok() && answered.await.is_ok()
    }

    /// Ends when the journal cannot be written any more; gives why.
    pub async fn until_broken(&self) -> journal::Error {
        let mut broken = self.shared.broken.subscribe();
        let why = broken.wait_for(Option::is_some).await.map(|why| why.clone());
        why.ok().flatten().unwrap_or_else(|| journal::Error::Broken("unknown".into()))
    }

    /// Since when the journal cannot be written, and why; `None` while it can.
    pub fn trouble(&self) -> Option<(Timestamp, journal::Error)> {
        let since = *self.shared.broken_since.borrow();
        self.broken().map(|why| (since.unwrap_or_else(|| self.parts.clock.now()), why))
    }

    /// Why nothing can be written, while that is so.
    pub fn broken(&self) -> Option<journal::Error> {
        self.shared.broken.borrow().clone()
    }

    /// Starts nothing any more; ends when no attempt runs. What runs is not disturbed, and what is asked for is still recorded.
    pub async fn drain(&self) {
        let (answer, done) = oneshot::channel();
        if self.inbox.send(Input::Drain { answer }).await.is_ok() {
            // The loop may have ended by itself meanwhile.
            let _ = done.await;
        }
    }

    /// Ends when the journal can be written again.
    pub async fn until_mended(&self) {
        let mut broken = self.shared.broken.subscribe();
        // The sender lives as long as this handle.
        let _ = broken.wait_for(Option::is_none).await;
    }

    /// Stops: nothing new starts, attempts are cut off and entered again on the next start.
    pub async fn shutdown(&self) {
        let (answer, done) = oneshot::channel();
        if self.inbox.send(Input::Shutdown { answer }).await.is_ok() {
            // The loop may have ended by itself meanwhile.
            let _ = done.await;
        }
        // It answers while it still has the journal, and lets go of its inbox last.
        self.inbox.closed().await;
    }
}

/// Reading much is not for the threads that serve others.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, journal::Error> + Send + 'static,
) -> Result<T, journal::Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(journal::Error::Damaged(error.to_string())))
}

/// A loop over the runs that are unfinished, as far as they go on in this mode.
pub(super) fn scheduler(
    parts: &Parts,
    shared: &Arc<Shared>,
    sender: &mpsc::Sender<Input>,
    mode: Mode,
) -> Result<Scheduler, StartError> {
    let mut unfinished = parts.journal.unfinished();
    match mode {
        Mode::Work | Mode::Answer | Mode::Begin => {}
        Mode::Look => unfinished.clear(),
        Mode::End(run) => unfinished.retain(|summary| summary.id == run),
    }
    let mut runs = ActiveRuns::new();
    let mut bundles = HashMap::new();
    for summary in unfinished {
        let (run, bundle) = fold(parts, &parts.journal.read(summary.id)?)?;
        bundles.insert(run.id, bundle);
        runs.insert(run.id, run);
    }
    let deeds = parts.journal.deeds()?;
    let standing = Standing::fold(deeds.iter().map(|(deed, _)| deed))
        .map_err(|why| journal::Error::Damaged(format!("the ledger: {why}")))?;
    let schedules = slots::states(&*parts.journal)?;
    shared.standing.send_replace(Arc::new(standing.clone()));
    Ok(Scheduler {
        parts: parts.clone(),
        standing,
        schedules,
        shared: Arc::clone(shared),
        sender: sender.clone(),
        runs,
        bundles,
        live: HashMap::new(),
        looked: tokio::time::Instant::now(),
        attempts: TaskTracker::new(),
        changed: BTreeSet::new(),
        blocked: BTreeMap::new(),
        wakes: BTreeMap::new(),
        stopping: mode == Mode::Answer,
        drained: Vec::new(),
    })
}

/// Folds a run from its records and the bundle that the first one names.
fn fold(parts: &Parts, records: &[Record]) -> Result<(Run, Arc<Bundle>), StartError> {
    let Some(Record { run, event: Event::RunSubmitted { bundle, vars, secrets, .. }, .. }) = records.first()
    else {
        return Err(StartError::Journal(journal::Error::Damaged("a run without its first record".into())));
    };
    let known = Known { vars: vars.keys().cloned().collect(), secrets: secrets.clone() };
    let mut unread = None;
    let found = parts.graphs.of(bundle, &parts.registry, &known, || {
        let read = parts.journal.get(bundle);
        let read = read.and_then(|bytes| Bundle::from_bytes(&bytes).map_err(journal::Error::Damaged));
        read.map_err(|error| {
            unread = Some(error);
            Vec::new()
        })
    });
    let (bundle, graph) = match (found, unread) {
        (Ok(found), _) => found,
        (Err(_), Some(error)) => return Err(error.into()),
        (Err(problems), None) => {
            let problem = problems.first().map(ToString::to_string).unwrap_or_default();
            return Err(StartError::Unreadable { run: *run, problem });
        }
    };
    let undo = matches!(&records[0].event, Event::RunSubmitted { origin: Some(Origin::Undo { .. }), .. });
    let graph = if undo { Arc::new(graph.reversed()) } else { graph };
    Ok((Run::fold(graph, records)?, bundle))
}

/// A run from its records; `None` for one that is not known.
pub(super) fn load(parts: &Parts, run: RunId) -> Result<Option<(Run, Arc<Bundle>)>, StartError> {
    let records = parts.journal.read(run)?;
    if records.is_empty() { Ok(None) } else { fold(parts, &records).map(Some) }
}

/// The run that took this one back days later: a final run cannot name it.
fn undone_later(parts: &Parts, old: &Run) -> Result<Option<RunId>, StartError> {
    let newest = RunId::from_bytes([0xff; 16]);
    let mut query = Query {
        workflow: Some(old.graph.name.to_string()),
        ids: Some((old.id, newest)),
        limit: 500,
        ..Query::default()
    };
    loop {
        let page = parts.journal.list(&query)?;
        if let Some(found) = page.runs.iter().find(|run| run.undoes == Some(old.id)) {
            return Ok(Some(found.id));
        }
        match page.runs.last() {
            Some(last) if page.more => query.after = Some(last.id),
            Some(_) | None => return Ok(None),
        }
    }
}

/// The run of a wish that was granted before. Runs sealed when the audit log ended at `seen` were looked at already.
///
/// # Errors
/// Something else was asked for under the same name.
pub(super) fn granted(journal: &dyn Journal, key: &Key, seen: u64) -> Result<Option<RunId>, SubmitError> {
    let Some(run) = journal.unique(&key.unique(), seen)? else { return Ok(None) };
    match journal.read(run)?.first().map(|record| &record.event) {
        Some(Event::RunSubmitted { key: Some(before), .. }) if before.request == key.request => Ok(Some(run)),
        _ => Err(SubmitError::KeyTaken(run)),
    }
}

/// A new run's id: it sorts by the time of the submission.
pub(super) fn new_id(parts: &Parts, now: crate::clock::Timestamp) -> RunId {
    let random = u128::from(parts.clock.random()) << 64 | u128::from(parts.clock.random());
    RunId::new(now.millis(), random)
}

/// The most that a run may be given: inputs become part of the journal. Manifests do not, and may be larger.
const INPUT_BYTES: usize = 256 * 1024;

/// Checks a submission, puts its bundle on disk, and makes the run and its first record.
pub(crate) fn seal(
    parts: &Parts,
    submission: Submission,
    supplied: BTreeMap<TaskName, Kept>,
    id: RunId,
    now: crate::clock::Timestamp,
) -> Result<(Run, Record), SubmitError> {
    let known =
        Known { vars: submission.vars.keys().cloned().collect(), secrets: submission.secrets.clone() };
    let bytes = submission.bundle.to_bytes();
    let digest = Digest::of(&bytes);
    let bundle = submission.bundle;
    let (_, graph) =
        parts.graphs.of(&digest, &parts.registry, &known, || Ok(bundle)).map_err(SubmitError::Invalid)?;
    let inputs = complete(&graph.inputs, submission.inputs).map_err(SubmitError::Inputs)?;
    let left_out =
        select(&graph, &submission.only, &submission.skip, &supplied).map_err(SubmitError::Inputs)?;
    let kept = supplied.into_iter().filter(|(name, _)| left_out.contains(name)).collect();
    let given = serde_json::to_string(&inputs).map_or(0, |text| text.len());
    if given > INPUT_BYTES {
        let words = format!("the inputs are {given} bytes, and {INPUT_BYTES} are taken");
        return Err(SubmitError::Inputs(vec![words]));
    }
    let bundle = parts.journal.put(&bytes)?;
    let event = Event::RunSubmitted {
        workflow: graph.name.clone(),
        revision: graph.revision.clone(),
        bundle,
        inputs,
        vars: submission.vars,
        secrets: submission.secrets,
        trigger: submission.trigger,
        actor: submission.actor,
        left_out,
        origin: submission.from.map(|of| Origin::From { of }),
        kept,
        source: submission.source.map(Box::new),
        key: submission.key,
        environments: BTreeSet::new(),
        tags: BTreeSet::new(),
    };
    let mut record = Record { run: id, seq: Seq(1), at: now, event };
    let mut run = Run::begin(graph, &record).map_err(|error| SubmitError::Inputs(vec![error.to_string()]))?;
    run.run_claims().map_err(|why| SubmitError::Inputs(vec![why]))?;
    // Where the run goes follows from the run itself: the record learns it before anybody reads it.
    let (in_environments, on_lanes) = run.places().map_err(|why| SubmitError::Inputs(vec![why]))?;
    if let Event::RunSubmitted { environments, tags, .. } = &mut record.event {
        environments.clone_from(&in_environments);
        tags.clone_from(&on_lanes);
    }
    run.submitted.environments = in_environments;
    run.submitted.tags = on_lanes;
    Ok((run, record))
}

/// What another run's tasks have put out, for tasks that are left out here.
pub(crate) fn supplied(parts: &Parts, from: Option<RunId>) -> Result<BTreeMap<TaskName, Kept>, SubmitError> {
    let Some(from) = from else { return Ok(BTreeMap::new()) };
    let unreadable = |error: StartError| SubmitError::Inputs(vec![format!("run {from}: {error}")]);
    let found = load(parts, from).map_err(unreadable)?;
    let (run, _) = found.ok_or_else(|| SubmitError::Inputs(vec![format!("there is no run {from}")]))?;
    let mut supplied = run.submitted.kept.clone();
    // Of some it took over a plan alone.
    supplied.retain(|_, kept| kept.done || !kept.outputs.values.is_empty());
    for (node, task) in run.tasks() {
        if let Some(outputs) = task.outputs() {
            let outputs = outputs.clone();
            supplied.insert(node.name.clone(), Kept { outputs, ..Kept::default() });
        }
    }
    Ok(supplied)
}

/// The tasks that are left out by `only` and `skip`; `supplied` are those whose outputs another run has.
///
/// # Errors
/// Names that are not in the graph; a selected task that reads what a left-out one would put out.
fn select(
    graph: &Graph,
    only: &[String],
    skip: &[String],
    supplied: &BTreeMap<TaskName, Kept>,
) -> Result<BTreeSet<TaskName>, Vec<String>> {
    let mut wrong = Vec::new();
    for name in only.iter().chain(skip) {
        if !graph.tasks().any(|node| node.name.as_str() == name) {
            let near = nearest(name, graph.tasks().map(|node| node.name.as_str()));
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            wrong.push(format!("the workflow has no task `{name}`{near}"));
        }
    }
    let left_out: BTreeSet<TaskName> = graph
        .tasks()
        .map(|node| &node.name)
        .filter(|name| {
            let named = |names: &[String]| names.iter().any(|other| other == name.as_str());
            (!only.is_empty() && !named(only)) || named(skip)
        })
        .cloned()
        .collect();
    if left_out.len() == graph.len() && wrong.is_empty() {
        wrong.push("no task is left to carry out".into());
    }
    for node in graph.tasks().filter(|node| !left_out.contains(&node.name)) {
        for name in outputs_read(&node.with) {
            let known = supplied.keys().any(|task| task.as_str() == name);
            if !known && left_out.iter().any(|left| *left.as_str() == name) {
                wrong.push(format!(
                    "task `{}` reads the outputs of `{name}`, which is left out: select both, leave both out, or take its outputs from another run with --from",
                    node.name
                ));
            }
        }
    }
    if wrong.is_empty() { Ok(left_out) } else { Err(wrong) }
}

/// The tasks whose outputs a spec reads.
fn outputs_read(with: &Value) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for (_, text) in expression::texts(with) {
        for part in expression::split(text).unwrap_or_default() {
            let Part::Expression { source, .. } = part else { continue };
            for reference in expression::inspect(&source).unwrap_or_default().references {
                if reference.root == "tasks" && reference.path.get(1).is_some_and(|key| key == "outputs") {
                    read.extend(reference.path.first().cloned());
                }
            }
        }
    }
    read
}
