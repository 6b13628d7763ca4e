//! `graylane plan`: what a run would do, object by object; changes nothing.

use clap::Args;
use graylane_engine::scheduler::Mode;
use graylane_engine::task::{Action, Plan};

use super::{Context, EXIT_REFUSED, Failure, Output, WorkflowArgs, json, print, submission, tell};
use crate::access::Access;
use crate::api::wire::Preview;

/// What `plan` takes.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    workflow: WorkflowArgs,
    /// Name the objects, without what changes in them
    #[arg(long)]
    no_diff: bool,
}

pub(crate) async fn run(context: &Context, args: PlanArgs) -> Result<u8, Failure> {
    let asked = submission(context, &args.workflow, Mode::Look)?;
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let previews: Result<Vec<Preview>, _> = access.client.post("/api/v1/preview", &asked).await;
    access.close().await;
    let previews = previews?;
    let refused = previews.iter().any(|preview| preview.verdict == "refused");
    match context.output {
        Output::Json => print(&json(&previews)),
        Output::Text => {
            for preview in &previews {
                print(&shown(preview, !args.no_diff, context.colours));
            }
            print(if refused {
                "a run would be refused; nothing was changed"
            } else {
                "nothing was changed"
            });
        }
    }
    Ok(if refused { EXIT_REFUSED } else { 0 })
}

fn shown(preview: &Preview, diffs: bool, colours: bool) -> String {
    let paint = |code: &'static str, text: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let mut out = paint("1", &format!("{} ({})", preview.task, preview.type_name));
    if let Some(reason) = &preview.reason {
        out.push_str(&format!(": {} ({reason})", preview.verdict));
    }
    out.push('\n');
    if let Some(error) = &preview.error {
        out.push_str(&format!(
            "  {} {}\n",
            paint("1;31", "refused:"),
            error.message.trim_start_matches("refused: ")
        ));
        for detail in &error.details {
            out.push_str(&format!("    {detail}\n"));
        }
        if let Some(hint) = &error.hint {
            out.push_str(&format!("    hint: {hint}\n"));
        }
    }
    if let Some(plan) = &preview.plan {
        out.push_str(&changes(plan, diffs, colours));
    }
    out
}

/// What a plan changes, and what is worth knowing of it.
pub(crate) fn changes(plan: &Plan, diffs: bool, colours: bool) -> String {
    let paint = |code: &'static str, text: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let mut out = String::new();
    for change in &plan.changes {
        let (sign, colour) = match change.action {
            Action::Create => ("+ create", "32"),
            Action::Update => ("~ update", "33"),
            Action::Keep => ("  keep  ", "0"),
            Action::Delete => ("- delete", "31"),
            Action::Check => ("? check ", "36"),
        };
        out.push_str(&format!("  {} {}\n", paint(colour, sign), change.object));
        if diffs && change.action != Action::Delete {
            out.push_str(&coloured(&change.diff, colours));
        }
    }
    for warning in &plan.warnings {
        out.push_str(&format!("  {} {warning}\n", paint("33", "note:")));
    }
    out
}

/// A unified diff below what it belongs to.
pub(crate) fn coloured(diff: &str, colours: bool) -> String {
    let mut out = String::new();
    for line in diff.lines().filter(|line| !line.starts_with("---") && !line.starts_with("+++")) {
        let colour = match line.as_bytes().first() {
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => "0",
        };
        let line = if colours { format!("\x1b[{colour}m{line}\x1b[0m") } else { line.to_owned() };
        out.push_str(&format!("      {line}\n"));
    }
    out
}
