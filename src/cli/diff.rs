//! `graylane runs diff`: what made two runs differ, and how they ended.

use clap::Args;
use graylane_engine::clock::show_duration;
use graylane_engine::view::RunSummary;

use super::runs::{look, run_path};
use super::{Context, Failure, Output, json, print};
use crate::api::wire::RunDiff;

/// Which runs.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The run to compare with: its id, the beginning of it, or `latest`
    before: String,
    /// The other one
    after: String,
}

pub(crate) async fn run(context: &Context, args: DiffArgs) -> Result<u8, Failure> {
    let (before, after) = (run_path(&args.before)?, run_path(&args.after)?);
    let diff: RunDiff = look(context, format!("/api/v1/runs/{before}/diff/{after}")).await?;
    match context.output {
        Output::Json => print(&json(&diff)),
        Output::Text => print(told(&diff, context.colours).trim_end()),
    }
    Ok(0)
}

fn told(diff: &RunDiff, colours: bool) -> String {
    let paint = |line: &str| {
        let code = match line.as_bytes().first() {
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => return line.to_owned(),
        };
        if colours { format!("\x1b[{code}m{line}\x1b[0m") } else { line.to_owned() }
    };
    let mut out = String::new();
    for (sign, run) in [("-", &diff.a), ("+", &diff.b)] {
        out.push_str(&format!("{}\n", paint(&format!("{sign} {}", line(run)))));
    }
    for changed in &diff.inputs {
        out.push_str(&format!("\ninput {}\n", changed.name));
        for (sign, value) in [("-", &changed.a), ("+", &changed.b)] {
            if let Some(value) = value {
                out.push_str(&format!("{}\n", paint(&format!("{sign} {value}"))));
            }
        }
    }
    let texts = diff.files.iter().map(|file| (file.path.clone(), &file.diff));
    let plans = diff.plans.iter().map(|plan| (format!("plan of {}", plan.path), &plan.diff));
    for (title, text) in texts.chain(plans) {
        out.push_str(&format!("\n{title}\n"));
        text.lines().for_each(|line| out.push_str(&format!("{}\n", paint(line))));
    }
    if !diff.images.is_empty() {
        out.push_str("\nimages\n");
        diff.images.iter().for_each(|image| out.push_str(&format!("{}\n", paint(image))));
    }
    if diff.inputs.is_empty() && diff.files.is_empty() && diff.plans.is_empty() {
        out.push_str("\nnothing that made them differs\n");
    }
    out.push_str("\ntasks\n");
    for task in &diff.tasks {
        let side = |status: &Option<String>, took: Option<u64>| {
            let took = took.map(|ms| format!(" in {}", show_duration(std::time::Duration::from_millis(ms))));
            status.as_ref().map_or_else(
                || "not there".to_owned(),
                |status| format!("{status}{}", took.unwrap_or_default()),
            )
        };
        let (a, b) = (side(&task.a, task.a_ms), side(&task.b, task.b_ms));
        out.push_str(&format!("  {}: {a}, then {b}\n", task.name));
    }
    out
}

fn line(run: &RunSummary) -> String {
    let took = run.ended_at.map(|end| format!(", took {}", show_duration(end.since(run.submitted_at))));
    format!(
        "{} {} {} by {} at {}{}",
        run.id,
        run.workflow,
        run.status,
        run.actor,
        run.submitted_at,
        took.unwrap_or_default()
    )
}
