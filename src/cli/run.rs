//! `graylane run`: submits a workflow and follows it.

use clap::Args;
use graylane_engine::scheduler::Mode;

use super::follow::follow;
use super::{Context, Failure, Output, WorkflowArgs, json, print, submission, tell};
use crate::access::Access;
use crate::api::wire::Submitted;

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    workflow: WorkflowArgs,
}

pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let asked = submission(context, &args.workflow)?;
    let access = Access::open(&context.settings, Mode::Begin, tell()).await?;
    let submitted: Result<Submitted, _> = access.client.post("/api/v1/runs", &asked).await;
    let run = match submitted {
        Ok(submitted) => submitted.id,
        Err(error) => {
            access.close().await;
            return Err(error.into());
        }
    };
    if context.output == Output::Text {
        print(&format!("run {run}"));
    }
    let ended = follow(context, access, &run).await?;
    if context.output == Output::Json
        && let Some(view) = &ended.view
    {
        print(&json(view));
    }
    Ok(ended.code)
}
