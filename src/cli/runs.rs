//! `graylane runs`: list, show, logs, follow.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::clock::show_duration;
use graylane_engine::id::Digest;
use graylane_engine::journal::Page;
use graylane_engine::logs::LogLine;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::Plan;
use graylane_engine::view::{RunSummary, RunView};

use super::follow::follow;
use super::{Context, Failure, Output, json, note, print, tell};
use crate::access::Access;
use crate::progress::summary;
use crate::samples;

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// Runs, newest first; every condition must hold
    List(ListArgs),
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

/// Which runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  graylane runs list --workflow release --status failed\n  graylane runs list --environment production --limit 10\n  graylane runs list --after 01JAB3...        the page after this run"
)]
pub(crate) struct ListArgs {
    /// Of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Whose tasks name this environment
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// In this state: queued, running, waiting, cancelling, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE", value_parser = ["queued", "running", "waiting", "cancelling", "succeeded", "failed", "cancelled"])]
    status: Option<String>,
    /// Whose tasks name this lane
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Submitted by
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Started by this kind of trigger
    #[arg(long, value_name = "KIND", value_parser = ["manual", "undo"])]
    trigger: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Only runs before this one: the last of the page before
    #[arg(long, value_name = "RUN")]
    after: Option<String>,
}

impl ListArgs {
    /// The address of the list.
    fn path(self) -> Result<String, Failure> {
        let after = self.after.as_deref().map(run_path).transpose()?.map(str::to_owned);
        let conditions = [
            ("workflow", self.workflow),
            ("environment", self.environment),
            ("status", self.status),
            ("tag", self.tag),
            ("actor", self.actor),
            ("trigger", self.trigger),
            ("after", after),
        ];
        let mut path = format!("/api/v1/runs?limit={}", self.limit);
        for (name, value) in conditions {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escaped(&value)));
            }
        }
        Ok(path)
    }
}

/// A value as it stands in an address.
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
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
        RunsCommand::List(args) => {
            let path = args.path()?;
            let all = !path.contains('&');
            let page: Page = look(context, path).await?;
            match context.output {
                Output::Json => print(&json(&page.runs)),
                Output::Text if page.runs.is_empty() && all => {
                    print("no run yet; begin with `graylane run workflows/release.yaml`")
                }
                Output::Text if page.runs.is_empty() => print("no run is like that"),
                Output::Text => {
                    print(&table(&page.runs));
                    if let Some(last) = page.runs.last().filter(|_| page.more) {
                        note(&format!("there are more: add --after {}", last.id));
                    }
                }
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
                    let samples = samples::tables(&view);
                    if !samples.is_empty() {
                        print(&samples);
                    }
                    if view.summary.status == "waiting" && !held {
                        print("nobody carries it on meanwhile: answer, then `graylane resume` does");
                    } else if view.outcome.is_none() && !held {
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
            if run.undoes.is_some() { format!("{} (undo)", run.workflow) } else { run.workflow.to_string() },
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
