//! `graylane runs show`: one run, whole: what made it, what it did, who said what; with plans and log where asked for.

use std::collections::BTreeMap;

use clap::Args;
use graylane_engine::clock::show_duration;
use graylane_engine::logs::LogLine;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::Plan;
use graylane_engine::view::{AttemptView, RunView};
use serde_json::Value;

use super::runs::run_path;
use super::{Context, Failure, Output, json, print, tell};
use crate::access::Access;
use crate::progress::summary;
use crate::samples;

/// Which run, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The run's id, the beginning of it, or `latest`: the newest one; an undo that is over belongs to its run
    run: String,
    /// With the plan of each task, and what it changes
    #[arg(long)]
    plans: bool,
    /// With what its tasks logged
    #[arg(long)]
    log: bool,
    /// With plans and log
    #[arg(long)]
    all: bool,
}

/// What is read beside the run itself.
#[derive(Default)]
struct More {
    plans: BTreeMap<String, Plan>,
    log: Option<Vec<LogLine>>,
}

pub(crate) async fn run(context: &Context, args: ShowArgs) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let read = read(&access, &args).await;
    access.close().await;
    let (view, more) = read?;
    match context.output {
        Output::Json => {
            let mut value = serde_json::to_value(&view).unwrap_or_default();
            if let Value::Object(map) = &mut value {
                if args.plans || args.all {
                    map.insert("plans".into(), serde_json::to_value(&more.plans).unwrap_or_default());
                }
                map.extend(more.log.map(|log| ("log".into(), serde_json::to_value(log).unwrap_or_default())));
            }
            print(&json(&value));
        }
        Output::Text => {
            print(&facts(&view));
            if args.all {
                print(&attempts(&view));
            }
            for (task, plan) in &more.plans {
                print(&format!("\nplan of {task}:"));
                print(super::plan::changes(plan, true, context.colours).trim_end());
            }
            if let Some(log) = &more.log {
                print("\nlog:");
                log.iter().for_each(|line| print(&super::runs::log_line(line)));
            }
            let samples = samples::tables(&view);
            let samples = (!samples.is_empty()).then_some(samples);
            let (before, after) = if view.outcome.is_none() { (samples, None) } else { (None, samples) };
            // What an unfinished run waits for, and what can be done, stands last.
            before.iter().for_each(|samples| print(samples));
            print(&summary(&view, context.colours));
            after.iter().for_each(|samples| print(samples));
        }
    }
    Ok(0)
}

async fn read(access: &Access, args: &ShowArgs) -> Result<(RunView, More), Failure> {
    let view: RunView = access.client.get(&format!("/api/v1/runs/{}", run_path(&args.run)?)).await?;
    let mut more = More::default();
    if args.plans || args.all {
        for task in &view.tasks {
            let Some(digest) = &task.plan else { continue };
            let plan: Plan = access.client.get(&format!("/api/v1/plans/{digest}")).await?;
            more.plans.insert(task.name.to_string(), plan);
        }
    }
    if args.log || args.all {
        more.log = Some(access.client.get(&format!("/api/v1/runs/{}/log", view.summary.id)).await?);
    }
    Ok((view, more))
}

/// What made the run, and what people said.
fn facts(view: &RunView) -> String {
    let summary = &view.summary;
    let mut lines = vec![
        format!("run         {}", summary.id),
        format!("submitted   {} by {} ({})", summary.submitted_at, summary.actor, summary.trigger),
    ];
    if let Some(slot) = &view.slot {
        let how = if slot.catchup { ", made up for" } else { "" };
        lines.push(format!("schedule    {}/{}/{}", slot.source, summary.workflow, slot.schedule));
        lines.push(format!("slot        {} (begun at {}{how})", slot.nominal, slot.actual));
    } else if let Some(Value::Object(trigger)) =
        view.started_by.as_ref().and_then(|by| serde_json::to_value(by).ok())
    {
        let known = trigger.iter().filter(|(name, _)| *name != "kind");
        lines.extend(known.map(|(name, value)| format!("{name:<11} {}", plain(value))));
    }
    if let Some(source) = &view.source {
        let commit = source.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
        lines.push(format!("source      {}: {}{commit}", source.name, source.path));
    }
    lines.push(format!("revision    {}", view.revision));
    lines.push(format!("bundle      {}", view.bundle));
    let names =
        |list: &std::collections::BTreeSet<String>| list.iter().cloned().collect::<Vec<_>>().join(", ");
    if !summary.environments.is_empty() {
        lines.push(format!("environment {}", names(&summary.environments)));
    }
    if !summary.tags.is_empty() {
        lines.push(format!("lane        {}", names(&summary.tags)));
    }
    for (what, values) in [("inputs", &view.inputs), ("vars", &view.vars)] {
        if !values.is_empty() {
            lines.push(format!("{what}:"));
            lines.extend(values.iter().map(|(name, value)| format!("  {name}: {}", plain(value))));
        }
    }
    lines.push("who did what:".into());
    lines.extend(view.said.iter().map(|said| format!("  {}  {}: {}", said.at, said.by, said.what)));
    lines.join("\n")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Every attempt, step by step.
fn attempts(view: &RunView) -> String {
    let mut lines = Vec::new();
    for task in &view.tasks {
        for attempt in &task.attempts {
            lines.push(format!("\n{} attempt {}: {}", task.name, attempt.attempt, how(attempt)));
            for step in &attempt.steps {
                lines.push(format!("  {}  {:<10} {}", step.at, step.kind, step.what));
            }
            lines.extend(attempt.error.iter().map(|error| format!("  {}", error.message)));
        }
    }
    lines.join("\n")
}

fn how(attempt: &AttemptView) -> String {
    match (&attempt.ended, attempt.ended_at) {
        (Some(ended), Some(at)) => format!("{ended} after {}", show_duration(at.since(attempt.started_at))),
        _ => format!("since {}", attempt.started_at),
    }
}
