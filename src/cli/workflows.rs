//! `graylane workflows`: what sources hold, what is wrong with it, and what is paused.

use std::sync::Arc;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use graylane_engine::clock::WallClock;
use graylane_engine::id::WorkflowUid;
use graylane_engine::ledger::Standing;
use graylane_engine::scheduler::Mode;

use super::{Context, EXIT_FAILED, Failure, Output, actor, json, note, print, tell, types};
use crate::access::Access;
use crate::api::workflows::{PauseRequest, PauseView, WorkflowDeed, WorkflowView, Workflows, shown};
use crate::problems::WireProblem;
use crate::sources::survey;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkflowsCommand {
    /// Every workflow of every source, with what is wrong; without a daemon, as the sources are now
    List,
    /// One workflow: revision, commit, schedules, problems
    Show(WorkflowArg),
    /// Which revisions it had, with their commits, and who paused it
    History(WorkflowArg),
    /// Let its schedules start nothing, until it is unpaused
    Pause(PauseArgs),
    /// Let its schedules start runs again, from now on
    Unpause(PauseArgs),
}

/// A workflow.
#[derive(Debug, Args)]
pub(crate) struct WorkflowArg {
    /// The workflow's name, or SOURCE/NAME where two sources have one of this name
    workflow: String,
}

/// A workflow, and why.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    workflow: WorkflowArg,
    /// Why: it is shown in lists, and stands in the audit log
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn run(context: &Context, command: WorkflowsCommand) -> Result<u8, Failure> {
    match command {
        WorkflowsCommand::List => list(context).await,
        WorkflowsCommand::Show(args) => show(context, &args.workflow).await,
        WorkflowsCommand::History(args) => history(context, &args.workflow).await,
        WorkflowsCommand::Pause(args) => {
            let workflow = named(context, &args.workflow.workflow).await?;
            let asked = PauseRequest { actor: Some(actor()), reason: args.reason };
            let pause: PauseView = say(context, &format!("{}/pause", path(&workflow)), &asked).await?;
            match context.output {
                Output::Json => print(&json(&pause)),
                Output::Text => print(&format!("{workflow} is paused: its schedules start nothing")),
            }
            Ok(0)
        }
        WorkflowsCommand::Unpause(args) => {
            let workflow = named(context, &args.workflow.workflow).await?;
            let asked = PauseRequest { actor: Some(actor()), reason: args.reason };
            let done: WorkflowDeed = say(context, &format!("{}/unpause", path(&workflow)), &asked).await?;
            match context.output {
                Output::Json => print(&json(&done)),
                Output::Text => print(&format!("{workflow} goes on: its schedules start runs from now on")),
            }
            Ok(0)
        }
    }
}

/// What the daemon knows; where none is there, what the sources of the settings hold now.
pub(crate) async fn known(context: &Context) -> Result<(Workflows, bool), Failure> {
    if let Some(client) = Access::daemon(&context.settings).await? {
        let known: Workflows = client.get("/api/v1/workflows").await?;
        // A command that holds the store for a moment reads no sources.
        if !known.sources.is_empty() || context.settings.sources.is_empty() {
            return Ok((known, true));
        }
    }
    let catalogue = survey(&context.settings, Arc::new(types()), Arc::new(WallClock::default())).await;
    Ok((shown(&catalogue, &Standing::default()), false))
}

/// The one workflow that is meant.
pub(crate) fn one<'w>(known: &'w Workflows, text: &str) -> Result<&'w WorkflowView, Failure> {
    let fits = |workflow: &&WorkflowView| {
        workflow.name == text || format!("{}/{}", workflow.source, workflow.name) == text
    };
    let found: Vec<&WorkflowView> = known.workflows.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let names = known.workflows.iter().map(|workflow| workflow.name.as_str());
            let near = graylane_engine::schema::nearest(text, names);
            let failure = Failure::refused(format!("there is no workflow `{text}`"));
            Err(match near {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("`graylane workflows list` shows what there is"),
            })
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|workflow| format!("{}/{}", workflow.source, workflow.name)).collect();
            Err(Failure::refused(format!("`{text}` is the name of {}", names.join(" and ")))
                .hint("give it as SOURCE/NAME"))
        }
    }
}

/// A workflow by its whole name. One that is written as SOURCE/NAME may be gone from its source.
async fn named(context: &Context, text: &str) -> Result<WorkflowUid, Failure> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let (known, _) = known(context).await?;
    let workflow = one(&known, text)?;
    format!("{}/{}", workflow.source, workflow.name)
        .parse()
        .map_err(|error| Failure::refused(format!("{error}")))
}

/// A workflow as it stands in an address of the API.
pub(crate) fn path(uid: &WorkflowUid) -> String {
    format!("/api/v1/workflows/{uid}")
}

async fn say<T: serde::de::DeserializeOwned>(
    context: &Context,
    path: &str,
    asked: &PauseRequest,
) -> Result<T, Failure> {
    let access = Access::open(&context.settings, Mode::Answer, tell()).await?;
    let answer = access.client.post(path, asked).await;
    access.close().await;
    Ok(answer?)
}

async fn list(context: &Context) -> Result<u8, Failure> {
    let (known, daemon) = known(context).await?;
    match context.output {
        Output::Json => print(&json(&known)),
        Output::Text => {
            if !daemon {
                note("no daemon answers: these are the sources as they are now");
            }
            print(&table(&known));
            for source in &known.sources {
                let name = &source.name;
                if let Some(problem) = &source.problem {
                    note(&format!("source {name} cannot be read now; what was good stays: {problem}"));
                }
                if let Some(text) = &source.note {
                    note(&format!("source {name}: {text}"));
                }
            }
            let nameless = known.sources.iter().flat_map(|source| &source.problems);
            let named = known.workflows.iter().flat_map(|workflow| &workflow.problems);
            for problem in nameless.chain(named).chain(&known.problems) {
                note(&line(problem));
            }
        }
    }
    let wrong = known.workflows.iter().any(|workflow| workflow.revision.is_none());
    Ok(if wrong && !daemon { EXIT_FAILED } else { 0 })
}

fn table(known: &Workflows) -> String {
    if known.workflows.is_empty() {
        let places: Vec<&str> = known.sources.iter().map(|source| source.place.as_str()).collect();
        return match places.as_slice() {
            [] => "the settings name no source".into(),
            places => format!("no workflow in {}", places.join(", ")),
        };
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "WORKFLOW",
        "SOURCE",
        "REVISION",
        "COMMIT",
        "SCHEDULES",
        "STATE",
    ]);
    for workflow in &known.workflows {
        table.add_row([
            workflow.name.clone(),
            workflow.source.clone(),
            short(workflow.revision.as_deref()),
            short(workflow.commit.as_deref()),
            workflow.triggers.len().to_string(),
            state(workflow),
        ]);
    }
    table.trim_fmt()
}

/// What there is to know in a few words.
fn state(workflow: &WorkflowView) -> String {
    let errors = workflow.problems.iter().filter(|problem| problem.severity == "error").count();
    let mut words = Vec::new();
    if let Some(pause) = &workflow.paused {
        let reason = pause.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        words.push(format!("paused by {}{reason}", pause.by));
    }
    match (&workflow.revision, errors) {
        (None, _) => words.push("cannot run".into()),
        (Some(_), 0) => {}
        (Some(_), _) => words.push("the file is wrong now; the last good revision stays".into()),
    }
    if words.is_empty() { "ok".into() } else { words.join("; ") }
}

fn short(text: Option<&str>) -> String {
    text.map_or_else(|| "-".into(), |text| text.chars().take(12).collect())
}

fn line(problem: &WireProblem) -> String {
    let place = match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", problem.file),
        _ => problem.file.clone(),
    };
    let label = if problem.label.is_empty() { String::new() } else { format!(" ({})", problem.label) };
    format!("{}: {place}: {}{label}", problem.severity, problem.message)
}

async fn show(context: &Context, text: &str) -> Result<u8, Failure> {
    let (known, _) = known(context).await?;
    let workflow = one(&known, text)?;
    match context.output {
        Output::Json => print(&json(workflow)),
        Output::Text => {
            print(&format!("{}/{}: {}", workflow.source, workflow.name, state(workflow)));
            if let Some(description) = &workflow.description {
                print(&format!("  {description}"));
            }
            print(&format!("  file      {}", workflow.path));
            if let Some(revision) = &workflow.revision {
                print(&format!("  revision  {revision}"));
            }
            if let Some(commit) = &workflow.commit {
                print(&format!("  commit    {commit}"));
            }
            if let Some(since) = &workflow.since {
                print(&format!("  since     {since}"));
            }
            if let Some(pause) = &workflow.paused {
                let reason = pause.reason.as_deref().unwrap_or("no reason was given");
                print(&format!("  paused    by {} since {}: {reason}", pause.by, pause.since));
            }
            for trigger in &workflow.triggers {
                print(&format!("  schedule  {} `{}` {}", trigger.name, trigger.cron, trigger.timezone));
            }
            for problem in &workflow.problems {
                note(&line(problem));
            }
        }
    }
    Ok(0)
}

async fn history(context: &Context, text: &str) -> Result<u8, Failure> {
    let workflow = named(context, text).await?;
    let deeds: Vec<WorkflowDeed> = super::runs::look(context, format!("{}/history", path(&workflow))).await?;
    match context.output {
        Output::Json => print(&json(&deeds)),
        Output::Text if deeds.is_empty() => {
            print("nothing yet: a daemon records the revisions that it takes")
        }
        Output::Text => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["WHEN", "WHO", "WHAT"]);
            for deed in &deeds {
                let who = deed.by.as_deref().unwrap_or("-");
                table.add_row([&deed.at.to_string(), who, &deed.what]);
            }
            print(&table.trim_fmt());
        }
    }
    Ok(0)
}
