//! `graylane cancel`: asks a run to end, and follows it there.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_engine::view::RunView;

use super::follow::follow;
use super::runs::{look, run_path};
use super::{Context, EXIT_FAILED, Failure, Output, actor, json, note, print, tell};
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
        return Err(ended(&view));
    }
    // Others that were cut off stay as they are.
    let access = Access::open(&context.settings, Mode::End(view.summary.id), tell()).await?;
    let run = view.summary.id;
    let id = run.to_string();
    let answer: Cancelled = access.client.post(&format!("/api/v1/runs/{id}/cancel"), &asked).await?;
    if answer.answer == "not-active" {
        access.close().await;
        let view: RunView = look(context, format!("/api/v1/runs/{id}")).await?;
        return Err(self::ended(&view));
    }
    let now = asked.now;
    let ended = follow(context, access, &id).await?;
    if now && let Some(view) = ended.view.as_ref().filter(|view| !view.left.is_empty()) {
        note("left as it is:");
        view.left.iter().for_each(|line| note(&format!("  {line}")));
        note(&format!("`graylane undo {}` takes it back", view.summary.id));
    }
    if context.output == Output::Json {
        ended.view.iter().for_each(|view| print(&json(view)));
    }
    // A cancel did what it should when the run is cancelled; an undo of it that failed is shown in its place.
    let cancelled = ended.view.as_ref().is_some_and(|view| view.summary.id == run);
    Ok(if ended.code == EXIT_FAILED && cancelled { 0 } else { ended.code })
}

fn ended(view: &RunView) -> Failure {
    let words = format!("run {} has ended already: {}", view.summary.id, view.summary.status);
    Failure::refused(words).hint(format!("`graylane undo {}` takes back what it changed", view.summary.id))
}
