//! `graylane run`: submits a workflow and follows it.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_engine::view::RunView;

use super::follow::follow;
use super::{Context, Failure, Output, WorkflowArgs, json, note, print, submission, tell};
use crate::access::Access;
use crate::api::wire::Submitted;

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    workflow: WorkflowArgs,
}

pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    if let Some(name) = args.workflow.by_name() {
        return by_name(context, &name, &args.workflow).await;
    }
    let asked = submission(context, &args.workflow, Mode::Begin)?;
    let access = Access::open(&context.settings, Mode::Begin, tell()).await?;
    let submitted = access.client.post("/api/v1/runs", &asked).await;
    carry_on(context, access, submitted).await
}

/// A workflow of the daemon's sources: its last good revision, as the daemon has it.
async fn by_name(context: &Context, name: &str, args: &WorkflowArgs) -> Result<u8, Failure> {
    let (known, daemon) = super::workflows::known(context).await?;
    let workflow = super::workflows::one(&known, name)?;
    if !daemon {
        return Err(Failure::refused(format!(
            "`{name}` is no file, and no daemon answers that knows workflows by name"
        ))
        .hint(format!("start `graylane serve`, or name the file: {}", workflow.path)));
    }
    let path = format!("/api/v1/workflows/{}/{}/runs", workflow.source, workflow.name);
    let asked = args.request();
    let access = Access::open(&context.settings, Mode::Begin, tell()).await?;
    let submitted = access.client.post(&path, &asked).await;
    carry_on(context, access, submitted).await
}

/// Follows a run that was just taken to its end, and shows it.
pub(super) async fn carry_on(
    context: &Context,
    access: Access,
    submitted: Result<Submitted, crate::client::CallError>,
) -> Result<u8, Failure> {
    let run = match submitted {
        Ok(submitted) => submitted.id,
        Err(error) => {
            access.close().await;
            return Err(error.into());
        }
    };
    let text = context.output == Output::Text;
    if text {
        print(&format!("run {run}"));
        let view: Result<RunView, _> = access.client.get(&format!("/api/v1/runs/{run}")).await;
        let kept: Vec<String> = view
            .iter()
            .flat_map(|view| &view.tasks)
            .filter(|task| task.kept)
            .map(|task| task.name.to_string())
            .collect();
        if !kept.is_empty() {
            note(&format!("kept, and not done again: {}", kept.join(", ")));
        }
    }
    let ended = follow(context, access, &run).await?;
    if !text && let Some(view) = &ended.view {
        print(&json(view));
    }
    Ok(ended.code)
}
