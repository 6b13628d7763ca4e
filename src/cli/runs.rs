//! `graylane runs`: list, show, logs, follow.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::clock::{Clock as _, Timestamp, WallClock, parse_duration, show_duration};
use graylane_engine::id::Digest;
use graylane_engine::journal::Page;
use graylane_engine::logs::LogLine;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::Plan;
use graylane_engine::view::{RunSummary, RunView};

use super::follow::follow;
use super::{Context, Failure, Output, json, note, print, tell};
use crate::access::Access;

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// Runs, newest first; every condition must hold
    List(ListArgs),
    /// One run: what made it, tasks, attempts, errors, what it put out, who said what
    Show(super::show::ShowArgs),
    /// What made two runs differ: inputs, files, plans, images; and how both ended
    Diff(super::diff::DiffArgs),
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
    after_help = "Examples:\n  graylane runs list --workflow release --status failed\n  graylane runs list --environment production --limit 10\n  graylane runs list --since 24h --actor ann\n  graylane runs list --after 01JAB3...        the page after this run"
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
    /// Started by this kind of trigger; `catchup` is a slot that was made up for
    #[arg(long, value_name = "KIND", value_parser = ["manual", "undo", "schedule", "catchup"])]
    trigger: Option<String>,
    /// Submitted at this time or later: RFC 3339, a day as 2026-12-24, or how long ago as 90m, 24h or 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Submitted before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Only runs before this one: the last of the page before, or the beginning of its id
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
            ("since", self.since.as_deref().map(moment).transpose()?),
            ("until", self.until.as_deref().map(moment).transpose()?),
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

/// A time in the past as people write it, as RFC 3339.
pub(super) fn moment(text: &str) -> Result<String, Failure> {
    let now = WallClock::default().now().millis();
    time(text, "how long ago", |length| now.saturating_sub(length))
}

/// A time to come as people write it.
pub(super) fn later(text: &str) -> Result<String, Failure> {
    let now = WallClock::default().now().millis();
    time(text, "how long from now", |length| now.saturating_add(length))
}

fn time(text: &str, words: &str, relative: impl Fn(u64) -> u64) -> Result<String, Failure> {
    let day = || format!("{text}T00:00:00Z").parse::<Timestamp>().ok();
    let length = || {
        let length = parse_duration(text).ok()?;
        Some(Timestamp::from_millis(relative(u64::try_from(length.as_millis()).ok()?)))
    };
    let found = text.parse::<Timestamp>().ok().or_else(day).or_else(length);
    found.map(|at| at.to_string()).ok_or_else(|| {
        Failure::refused(format!("`{text}` is no time")).hint(format!(
            "write it as 2026-12-24T18:00:00+08:00, as 2026-12-24, or {words} as 90m, 24h or 7d"
        ))
    })
}

/// A value as it stands in an address.
pub(super) fn escaped(value: &str) -> String {
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
                Ok(view) => {
                    let ended = follow(context, access, &view.summary.id.to_string()).await?;
                    if context.output == Output::Json {
                        ended.view.iter().for_each(|view| print(&json(view)));
                    }
                    Ok(ended.code)
                }
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
                    match page.runs.iter().filter(|run| !run.is_final()).count() {
                        0 => {}
                        1 => note("1 is unfinished: `graylane status` says what it waits for"),
                        count => note(&format!(
                            "{count} are unfinished: `graylane status` says what they wait for"
                        )),
                    }
                }
            }
            Ok(0)
        }
        RunsCommand::Show(args) => super::show::run(context, args).await,
        RunsCommand::Diff(args) => super::diff::run(context, args).await,
        RunsCommand::Logs(args) => {
            let lines: Vec<LogLine> =
                look(context, format!("/api/v1/runs/{}/log", run_path(&args.run)?)).await?;
            match context.output {
                Output::Json => print(&json(&lines)),
                Output::Text => {
                    lines.iter().for_each(|line| print(&log_line(line)));
                }
            }
            Ok(0)
        }
    }
}

pub(super) fn log_line(line: &LogLine) -> String {
    format!("{}  {} {}  {}", line.at, line.task, line.attempt, line.line)
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
