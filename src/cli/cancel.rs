//! `graylane cancel`: asks a run to end, and follows it there.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::{Action, Plan};
use graylane_engine::view::RunView;

use super::follow::follow;
use super::runs::{look, run_path};
use super::{Context, EXIT_FAILED, EXIT_REFUSED, Failure, actor, note, tell};
use crate::access::Access;
use crate::api::wire::{Cancel, Cancelled};

/// What `cancel` takes.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// Without rollback and clean-up: what was written stays, and is listed
    #[arg(long)]
    now: bool,
    /// Why, for those who read it later
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(context: &Context, args: CancelArgs) -> Result<u8, Failure> {
    let asked = Cancel { actor: Some(actor()), reason: args.reason, now: args.now };
    let view: RunView = look(context, format!("/api/v1/runs/{}", run_path(&args.run)?)).await?;
    if view.outcome.is_some() {
        note(&format!("run {} has ended already: {}", view.summary.id, view.summary.status));
        return Ok(EXIT_REFUSED);
    }
    // Others that were cut off stay as they are.
    let access = Access::open(&context.settings, Mode::End(view.summary.id), tell()).await?;
    let run = view.summary.id;
    let id = run.to_string();
    let answer: Cancelled = access.client.post(&format!("/api/v1/runs/{id}/cancel"), &asked).await?;
    if answer.answer == "not-active" {
        access.close().await;
        note(&format!("run {id} has ended already: {}", view.summary.status));
        return Ok(EXIT_REFUSED);
    }
    let now = asked.now;
    let ended = follow(context, access, &id).await?;
    if now && let Some(view) = &ended.view {
        left(context, view).await?;
    }
    // A cancel did what it should when the run is cancelled; an undo of it that failed is shown in its place.
    let cancelled = ended.view.as_ref().is_some_and(|view| view.summary.id == run);
    Ok(if ended.code == EXIT_FAILED && cancelled { 0 } else { ended.code })
}

/// What a run that was ended at once may have written: nothing of it was taken back.
async fn left(context: &Context, view: &RunView) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for task in view.tasks.iter().filter(|task| task.started_at.is_some()) {
        let Some(digest) = &task.plan else { continue };
        let plan: Plan = look(context, format!("/api/v1/plans/{digest}")).await?;
        for change in plan.changes {
            let word = match change.action {
                Action::Create => "created",
                Action::Update => "changed",
                Action::Delete => "removed",
                Action::Keep | Action::Check => continue,
            };
            let maybe = if task.status == "succeeded" { "was" } else { "may be" };
            lines.push(format!("  {} {maybe} {word} by {}", change.object, task.name));
        }
    }
    if !lines.is_empty() {
        note("left as it is:");
        lines.iter().for_each(|line| note(line));
        note(&format!("`graylane undo {}` takes it back", view.summary.id));
    }
    Ok(())
}
