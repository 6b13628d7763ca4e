//! One attempt: make the plan where there is none, put it on disk, carry it out, report how it ended.
//!
//! It never decides what a result means: that is the scheduler's.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::Update;
use super::input::{Input, Report};
use super::threads::Steps;
use crate::clock::Clock;
use crate::id::{Attempt, Digest, RunId, TaskName};
use crate::journal::Journal;
use crate::logs::{LogLine, Logs, bounded};
use crate::task::{Ask, Outputs, Plan, Progress, Reporter, Task, TaskContext, TaskError, plan_digest};

/// What an attempt does.
pub(super) enum Work {
    /// Carries out the plan.
    Run,
    /// Takes back what was done with it.
    Undo,
    /// Makes the plans of these tasks, so that people can agree to them.
    Ask(Vec<Guarded>),
}

/// A task whose plan people are to agree to.
pub(super) struct Guarded {
    pub(super) kind: Arc<dyn Task>,
    pub(super) task: TaskName,
    pub(super) context: Result<TaskContext, TaskError>,
    pub(super) plan: Option<Digest>,
}

pub(super) async fn carry_out(
    kind: Arc<dyn Task>,
    context: Result<TaskContext, TaskError>,
    plan: Option<Digest>,
    work: Work,
    journal: Arc<dyn Journal>,
    reports: Reports,
    steps: Steps,
) {
    let inner = {
        let reports = reports.clone();
        async move {
            let context = context?;
            match work {
                Work::Ask(guarded) => {
                    let mut ask = kind
                        .ask(&context.spec)
                        .ok_or_else(|| TaskError::permanent("nobody is to be asked here"))?;
                    named_well(&context.spec)?;
                    let plans = plans_of(guarded, journal, &reports, &mut ask.protected).await?;
                    return Ok(Done::Asks(Box::new(ask), plans));
                }
                Work::Undo => {
                    let plan = match plan {
                        Some(digest) => stored_plan(journal, digest).await?,
                        None => Plan::default(),
                    };
                    return kind.undo(&context, &plan).await.map(Done::Outputs);
                }
                Work::Run => {}
            }
            let plan = match plan {
                Some(digest) => stored_plan(journal, digest).await?,
                None => make_plan(kind.as_ref(), &context, journal, &reports).await?,
            };
            kind.run(&context, &plan).await.map(Done::Outputs)
        }
    };
    // A panic is an answer: what the task held is dropped with it.
    let result = match caught(inner, &steps).await {
        Ok(result) => result,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words =
                words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            Err(TaskError::transient(format!("the task panicked: {words}"))
                .hint("this is a bug of Graylane: please report it"))
        }
    };
    let Reports { run, task, attempt, inbox, .. } = reports;
    let result = match result {
        Ok(Done::Asks(ask, plans)) => {
            let _ = inbox.send(Input::Asked { run, task, attempt, ask: *ask, plans }).await;
            return;
        }
        Ok(Done::Outputs(outputs)) => within_bounds(outputs),
        Err(error) => Err(error),
    }
    .map_err(told_briefly);
    // The loop is gone only when the daemon stops: the attempt is entered again on the next start.
    let _ = inbox.send(Input::AttemptEnded { run, task, attempt, result }).await;
}

/// Carries out work; a panic ends it, and is given back.
async fn caught<T>(work: impl Future<Output = T>, steps: &Steps) -> Result<T, Box<dyn Any + Send>> {
    let mut work = Box::pin(work);
    poll_fn(|cx| {
        let step = || catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        match steps.take(step) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// The most that a task may put out: it becomes part of the journal.
const OUTPUT_BYTES: usize = 64 * 1024;
/// The longest line of an error or a report, and how many there may be.
const LINE_BYTES: usize = 4 * 1024;
const LINES: usize = 100;

fn within_bounds(outputs: Outputs) -> Result<Outputs, TaskError> {
    let bytes = serde_json::to_string(&outputs.values).map_or(0, |text| text.len());
    if bytes > OUTPUT_BYTES {
        return Err(TaskError::permanent(format!(
            "the task put out {bytes} bytes, and {OUTPUT_BYTES} are kept"
        ))
        .hint("large results belong where they are read from: put out a name or an address"));
    }
    Ok(Outputs { report: few(outputs.report), ..outputs })
}

fn told_briefly(error: TaskError) -> TaskError {
    let fits = |values: &Box<_>| serde_json::to_string(values).is_ok_and(|text| text.len() <= OUTPUT_BYTES);
    TaskError {
        values: error.values.filter(fits),
        message: bounded(error.message, LINE_BYTES),
        details: few(error.details),
        hint: error.hint.map(|hint| bounded(hint, LINE_BYTES)),
        kind: error.kind,
    }
}

fn few(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    let mut lines: Vec<String> = lines.into_iter().map(|line| bounded(line, LINE_BYTES)).collect();
    if more > 0 {
        lines.push(format!("... and {more} more"));
    }
    lines
}

/// How an attempt ended that did not fail.
enum Done {
    Outputs(Outputs),
    Asks(Box<Ask>, BTreeMap<TaskName, Digest>),
}

/// An expression may have put something else in the place of names: then it must not mean everybody.
fn named_well(spec: &Value) -> Result<(), TaskError> {
    for key in ["from", "guards"] {
        let Some(value) = spec.get(key) else { continue };
        let names = value.as_array().is_some_and(|items| {
            items.iter().all(|item| item.as_str().is_some_and(|name| !name.trim().is_empty()))
        });
        if !names {
            return Err(TaskError::permanent(format!("`with.{key}` must be a list of names")));
        }
    }
    Ok(())
}

/// Makes the plans of guarded tasks; those that were made before a crash stay.
async fn plans_of(
    guarded: Vec<Guarded>,
    journal: Arc<dyn Journal>,
    reports: &Reports,
    protected: &mut Option<String>,
) -> Result<BTreeMap<TaskName, Digest>, TaskError> {
    let mut plans = BTreeMap::new();
    for Guarded { kind, task, context, plan } in guarded {
        let of = |mut error: TaskError| {
            error.message = format!("the plan of `{task}` cannot be made: {}", error.message);
            error
        };
        let (plan, digest) = match plan {
            Some(digest) => (stored_plan(Arc::clone(&journal), digest.clone()).await?, digest),
            None => {
                let context = context.map_err(of)?;
                let plan = planned(kind.as_ref(), &context).await.map_err(of)?;
                if plan.is_empty() {
                    continue;
                }
                let digest = keep(&plan, Arc::clone(&journal)).await?;
                reports.send(Report::EarlyPlan(task.clone(), digest.clone())).await?;
                (plan, digest)
            }
        };
        if plan.protected.is_some() {
            protected.clone_from(&plan.protected);
        }
        for warning in &plan.warnings {
            reports.log(format!("warning: {task}: {warning}"));
        }
        plans.insert(task, digest);
    }
    Ok(plans)
}

async fn stored_plan(journal: Arc<dyn Journal>, digest: Digest) -> Result<Plan, TaskError> {
    let read = tokio::task::spawn_blocking(move || journal.get(&digest)).await;
    let bytes = read
        .map_err(|error| TaskError::transient(error.to_string()))?
        .map_err(|error| TaskError::permanent(format!("the plan cannot be read: {error}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| TaskError::permanent(format!("the plan cannot be read: {error}")))
}

/// The plan is on disk, and known to the run, before anything is written with it. An empty one seals nothing.
async fn make_plan(
    kind: &dyn Task,
    context: &TaskContext,
    journal: Arc<dyn Journal>,
    reports: &Reports,
) -> Result<Plan, TaskError> {
    let plan = planned(kind, context).await?;
    if plan.is_empty() {
        return Ok(plan);
    }
    let digest = keep(&plan, journal).await?;
    reports.send(Report::Plan(digest)).await?;
    for warning in &plan.warnings {
        reports.log(format!("warning: {warning}"));
    }
    Ok(plan)
}

async fn planned(kind: &dyn Task, context: &TaskContext) -> Result<Plan, TaskError> {
    tokio::select! {
        plan = kind.plan(context) => plan,
        () = context.cancel.cancelled() => Err(TaskError::transient("stopped before anything was written")),
    }
}

async fn keep(plan: &Plan, journal: Arc<dyn Journal>) -> Result<Digest, TaskError> {
    let (digest, bytes) = plan_digest(plan);
    let stored = tokio::task::spawn_blocking(move || journal.put(&bytes)).await;
    stored
        .map_err(|error| TaskError::transient(error.to_string()))?
        .map_err(|error| TaskError::transient(format!("the plan cannot be stored: {error}")))?;
    Ok(digest)
}

/// Where an attempt's reports go.
#[derive(Clone)]
pub(super) struct Reports {
    pub(super) run: RunId,
    pub(super) task: TaskName,
    pub(super) attempt: Attempt,
    pub(super) inbox: mpsc::Sender<Input>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) logs: Logs,
    pub(super) updates: broadcast::Sender<Update>,
}

impl Reports {
    async fn send(&self, report: Report) -> Result<(), TaskError> {
        let stopped = || TaskError::transient("the daemon is stopping");
        let (answer, written) = oneshot::channel();
        let input =
            Input::Report { run: self.run, task: self.task.clone(), attempt: self.attempt, report, answer };
        self.inbox.send(input).await.map_err(|_| stopped())?;
        written.await.map_err(|_| stopped())?
    }
}

#[async_trait]
impl Reporter for Reports {
    async fn phase(&self, text: String) -> Result<(), TaskError> {
        self.send(Report::Phase(bounded(text, LINE_BYTES))).await
    }

    async fn checkpoint(&self, name: String) -> Result<(), TaskError> {
        self.send(Report::Checkpoint(name)).await
    }

    fn log(&self, line: String) {
        let line = LogLine::new(self.clock.now(), self.task.clone(), self.attempt.0, line);
        self.logs.add(self.run, &line);
        let _ = self.updates.send(Update::Log { run: self.run, line });
    }

    fn progress(&self, progress: Progress) {
        let _ = self.updates.send(Update::Progress { run: self.run, task: self.task.clone(), progress });
    }
}
