//! `graylane runs`: list, show, logs, follow.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::clock::show_duration;
use graylane_engine::id::Digest;
use graylane_engine::logs::LogLine;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::Plan;
use graylane_engine::view::{RunSummary, RunView};

use super::follow::follow;
use super::{Context, Failure, Output, json, print, tell};
use crate::access::Access;
use crate::progress::summary;

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// Every run, newest first
    List,
    /// One run: tasks, attempts, errors, what it put out
    Show(RunArg),
    /// What the tasks of a run logged
    Logs(RunArg),
    /// Follow an unfinished run to its end
    Follow(RunArg),
    /// A plan that is on disk: what people agree to, and what a task carries out
    Plan(PlanArg),
}

/// A stored plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArg {
    /// Its digest, as `runs show` gives it
    digest: String,
}

/// A run.
#[derive(Debug, Args)]
pub(crate) struct RunArg {
    /// The run's id, the beginning of it, or `latest`
    run: String,
}

pub(crate) async fn run(context: &Context, command: RunsCommand) -> Result<u8, Failure> {
    match command {
        RunsCommand::Follow(args) => {
            let access = Access::open(&context.settings, Mode::Look, tell()).await?;
            let view: Result<RunView, _> =
                access.client.get(&format!("/api/v1/runs/{}", run_path(&args.run)?)).await;
            let held = access.holder.is_none();
            match view {
                Ok(view) if view.outcome.is_none() && !held => {
                    access.close().await;
                    let words = format!("run {} was cut off, and nobody carries it on", view.summary.id);
                    Err(Failure::waits(words).hint("`graylane resume` goes on with what was cut off"))
                }
                Ok(view) => Ok(follow(context, access, &view.summary.id.to_string()).await?.code),
                Err(error) => {
                    access.close().await;
                    Err(error.into())
                }
            }
        }
        RunsCommand::Plan(args) => {
            let digest: Digest = args.digest.parse().map_err(|error| Failure::refused(format!("{error}")))?;
            let plan: Plan = look(context, format!("/api/v1/plans/{digest}")).await?;
            match context.output {
                Output::Json => print(&json(&plan)),
                Output::Text => print(&super::plan::changes(&plan, true, context.colours)),
            }
            Ok(0)
        }
        RunsCommand::List => {
            let runs: Vec<RunSummary> = look(context, "/api/v1/runs".into()).await?;
            match context.output {
                Output::Json => print(&json(&runs)),
                Output::Text if runs.is_empty() => {
                    print("no run yet; begin with `graylane run workflows/release.yaml`")
                }
                Output::Text => print(&table(&runs)),
            }
            Ok(0)
        }
        RunsCommand::Show(args) => {
            let access = Access::open(&context.settings, Mode::Look, tell()).await?;
            let answer: Result<RunView, _> =
                access.client.get(&format!("/api/v1/runs/{}", run_path(&args.run)?)).await;
            let held = access.holder.is_none();
            access.close().await;
            let view = answer?;
            match context.output {
                Output::Json => print(&json(&view)),
                Output::Text => {
                    print(&summary(&view, context.colours));
                    if view.outcome.is_none() && !held {
                        print("it was cut off, and nobody carries it on: `graylane resume` does");
                    }
                }
            }
            Ok(0)
        }
        RunsCommand::Logs(args) => {
            let lines: Vec<LogLine> =
                look(context, format!("/api/v1/runs/{}/log", run_path(&args.run)?)).await?;
            match context.output {
                Output::Json => print(&json(&lines)),
                Output::Text => {
                    for line in lines {
                        print(&format!("{}  {} {}  {}", line.at, line.task, line.attempt, line.line));
                    }
                }
            }
            Ok(0)
        }
    }
}

pub(crate) async fn look<T: serde::de::DeserializeOwned>(
    context: &Context,
    path: String,
) -> Result<T, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let answer = access.client.get(&path).await;
    access.close().await;
    Ok(answer?)
}

fn table(runs: &[RunSummary]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["RUN", "WORKFLOW", "STATUS", "BY", "SUBMITTED", "TOOK"]);
    for run in runs {
        let took =
            run.ended_at.map(|end| show_duration(end.since(run.submitted_at))).unwrap_or_else(|| "-".into());
        table.add_row([
            run.id.to_string(),
            run.workflow.to_string(),
            run.status.clone(),
            run.actor.clone(),
            run.submitted_at.to_string(),
            took,
        ]);
    }
    table.trim_fmt()
}

/// A run as it stands in an address of the API: its id, the beginning of one, or `latest`.
pub(crate) fn run_path(text: &str) -> Result<&str, Failure> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(text);
    }
    Err(Failure::refused(format!("`{text}` is not a run: give its id, the beginning of it, or `latest`")))
}
