//! What a run would do, task by task: plans made and shown, nothing recorded and nothing written.
//!
//! The run is folded from records that are thrown away; what a task would put out is what its plan expects.

use std::sync::Arc;

use tokio::sync::watch;

use crate::id::{Attempt, RunId, Seq, TaskName};
use crate::journal::MemoryJournal;
use crate::ledger::Standing;
use crate::run::{Event, Record, Run, Skipped, TaskState};
use crate::scheduler::{Parts, Submission, SubmitError, seal, supplied};
use crate::task::{Outputs, Plan, TaskContext, TaskError};

/// What one task would do.
#[derive(Debug)]
pub struct TaskPreview {
    /// The task.
    pub task: TaskName,
    /// Its type.
    pub type_name: String,
    /// What would become of it.
    pub verdict: Verdict,
}

/// What would become of a task.
#[derive(Debug)]
pub enum Verdict {
    /// It would carry out this plan.
    Plan(Plan),
    /// It would not begin.
    Skipped(&'static str),
    /// It would be refused, or fail.
    Refused(TaskError),
    /// It cannot be told: something before it would not succeed.
    Unknown,
}

/// Plans every task of a submission in order. `parts` names what the plans may read; its journal is not touched.
///
/// # Errors
/// As a submit.
pub async fn preview(
    parts: &Parts,
    standing: &watch::Receiver<Arc<Standing>>,
    submission: Submission,
) -> Result<Vec<TaskPreview>, SubmitError> {
    let supplied = supplied(parts, submission.from)?;
    let parts = Parts { journal: Arc::new(MemoryJournal::default()), ..parts.clone() };
    let now = parts.clock.now();
    let bundle = Arc::new(submission.bundle.clone());
    let (mut run, _) = seal(&parts, submission, supplied, RunId::new(now.millis(), 0), now)?;
    record(&mut run, &parts, Event::RunAdmitted);
    let mut previews = Vec::new();
    let mut assumed = Vec::new();
    let order: Vec<TaskName> = run.graph.tasks().map(|node| node.name.clone()).collect();
    for name in order {
        let graph = Arc::clone(&run.graph);
        let Some(node) = graph.task(&name) else { continue };
        let verdict = verdict(&run, &name, &parts, standing, &bundle, &assumed).await;
        match &verdict {
            Verdict::Plan(plan) => {
                let attempt = Attempt::FIRST;
                let deadline = now.plus(node.timeout);
                record(&mut run, &parts, Event::AttemptStarted { task: name.clone(), attempt, deadline });
                let outputs = Outputs { values: plan.expected.clone(), report: Vec::new() };
                record(&mut run, &parts, Event::AttemptSucceeded { task: name.clone(), attempt, outputs });
                assumed.push(plan.clone());
            }
            Verdict::Skipped(_) if matches!(run.task_state(&name), TaskState::Pending) => {
                record(&mut run, &parts, Event::TaskSkipped { task: name.clone(), reason: Skipped::When });
            }
            Verdict::Refused(error) => {
                record(&mut run, &parts, Event::TaskFailed { task: name.clone(), error: error.clone() });
            }
            Verdict::Skipped(_) | Verdict::Unknown => {}
        }
        previews.push(TaskPreview { task: name, type_name: node.kind.type_name().to_owned(), verdict });
    }
    Ok(previews)
}

async fn verdict(
    run: &Run,
    name: &TaskName,
    parts: &Parts,
    standing: &watch::Receiver<Arc<Standing>>,
    bundle: &Arc<crate::bundle::Bundle>,
    assumed: &[Plan],
) -> Verdict {
    let Some(node) = run.graph.task(name) else { return Verdict::Unknown };
    if let TaskState::Skipped(reason) = run.task_state(name) {
        return Verdict::Skipped(reason.words());
    }
    let ancestors = run.ancestors_of(name);
    let looks = node.when.as_ref().is_some_and(|when| when.looks_at_ancestors);
    if !looks && !ancestors.success {
        return Verdict::Unknown;
    }
    match run.when_holds(node, ancestors) {
        Ok(true) => {}
        Ok(false) => return Verdict::Skipped(Skipped::When.words()),
        Err(error) => return Verdict::Refused(error),
    }
    let spec = match run.resolved(node) {
        Ok(spec) => spec,
        Err(error) => return Verdict::Refused(error),
    };
    let (workflow, clock) = (run.graph.name.clone(), Arc::clone(&parts.clock));
    let context = TaskContext {
        source: run.submitted.source.as_ref().map(|source| source.name.clone()),
        standing: standing.clone(),
        assumed: assumed.to_vec(),
        secrets: Arc::clone(&parts.secrets),
        ..TaskContext::alone(run.id, workflow, name.clone(), spec, Arc::clone(bundle), clock)
    };
    match node.kind.plan(&context).await {
        Ok(plan) => Verdict::Plan(plan),
        Err(error) => Verdict::Refused(error),
    }
}

fn record(run: &mut Run, parts: &Parts, event: Event) {
    let record = Record { run: run.id, seq: Seq(run.seq.0 + 1), at: parts.clock.now(), event };
    if let Err(illegal) = run.apply(&record) {
        tracing::error!(%illegal, "a preview made an event that does not fit");
    }
}
