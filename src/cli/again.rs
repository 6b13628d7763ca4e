//! `graylane undo`, `retry` and `rerun`: runs that follow on one that is over, followed to their own end.

use std::path::PathBuf;

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_engine::view::RunView;

use super::run::carry_on;
use super::runs::{look, run_path};
use super::{Context, Failure, WorkflowArgs, actor, needs_store, submission, tell};
use crate::access::Access;
use crate::api::wire::{FollowUp, How};

/// What `undo` takes.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// Also where an object is not as that run left it; what is overwritten is shown
    #[arg(long)]
    force: bool,
}

/// What `retry` takes.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// Do this task and all that comes after it again, even where it succeeded
    #[arg(long, value_name = "TASK")]
    from: Option<String>,
}

/// What `rerun` takes.
#[derive(Debug, Args)]
pub(crate) struct RerunArgs {
    /// The run's id, the beginning of it, or `latest`
    run: String,
    /// With the workflow and the operator's files as they are now, and the inputs of that run
    #[arg(long, value_name = "FILE")]
    latest: Option<PathBuf>,
}

pub(crate) async fn undo(context: &Context, args: UndoArgs) -> Result<u8, Failure> {
    begin(context, &args.run, How::Undo { force: args.force }).await
}

pub(crate) async fn retry(context: &Context, args: RetryArgs) -> Result<u8, Failure> {
    begin(context, &args.run, How::Retry { from: args.from }).await
}

pub(crate) async fn rerun(context: &Context, args: RerunArgs) -> Result<u8, Failure> {
    let Some(file) = args.latest else { return begin(context, &args.run, How::Rerun).await };
    let old: RunView = look(context, format!("/api/v1/runs/{}", run_path(&args.run)?)).await?;
    let inputs = old.inputs.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let asked = submission(context, &WorkflowArgs::of(file, inputs), Mode::Begin)?;
    let access = Access::open(&context.settings, Mode::Begin, tell()).await?;
    let submitted = access.client.post("/api/v1/runs", &asked).await;
    carry_on(context, access, submitted).await
}

async fn begin(context: &Context, run: &str, how: How) -> Result<u8, Failure> {
    let path = format!("/api/v1/runs/{}/follow-up", run_path(run)?);
    needs_store(context)?;
    let access = Access::open(&context.settings, Mode::Begin, tell()).await?;
    let submitted = access.client.post(&path, &FollowUp { how, actor: Some(actor()) }).await;
    carry_on(context, access, submitted).await
}
