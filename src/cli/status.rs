//! `graylane status`: what stands still, what failed, what is frozen, and the exact command for each.

use graylane_engine::scheduler::Mode;

use super::{Context, EXIT_SURROUNDINGS, EXIT_WAITS, Failure, Output, json, print, tell};
use crate::access::Access;
use crate::api::wire::{LanesOf, Schedules, Status};

pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Look, tell()).await?;
    let answer: Result<Status, _> = access.client.get("/api/v1/status").await;
    access.close().await;
    let status = answer?;
    match context.output {
        Output::Json => print(&json(&status)),
        Output::Text => print(told(&status).trim_end()),
    }
    Ok(if !status.journal.writable {
        EXIT_SURROUNDINGS
    } else if status.unfinished.iter().any(|run| run.needs_somebody) {
        EXIT_WAITS
    } else {
        0
    })
}

fn told(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    match (&status.journal.since, &status.journal.why) {
        (Some(since), Some(why)) => {
            line(format!("the journal cannot be written since {since}, and nothing new starts: {why}"));
            line("  mend the disk; it is tried again every 10 s".into());
        }
        _ => line("the journal can be written".into()),
    }
    for run in &status.unfinished {
        line(format!("\nrun {} of {} is {}", run.run.id, run.run.workflow, run.run.status));
        for next in &run.next {
            line(format!("  {}", next.what));
            next.commands.iter().for_each(|command| line(format!("    {command}")));
        }
    }
    if status.unfinished.is_empty() {
        line("no run is unfinished".into());
    }
    if !status.failed.is_empty() {
        line("\nfailed last:".into());
    }
    for failed in &status.failed {
        let at = failed.run.ended_at.map(|at| at.to_string()).unwrap_or_default();
        let task = failed.task.as_ref().map(|task| format!("{task}: ")).unwrap_or_default();
        let undone = failed.undone_by.map(|_| " (taken back)").unwrap_or_default();
        line(format!("  {at}  {}{undone}: {task}{}", failed.run.workflow, failed.why));
        line(format!("    {}", failed.command));
    }
    for frozen in &status.frozen {
        line(format!("\n{}", frozen.words()));
        line(format!("    graylane thaw {}", frozen.environment));
    }
    for paused in &status.paused {
        let why = paused.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        line(format!("\n{} is paused by {}, since {}{why}", paused.workflow, paused.by, paused.since));
        line(format!("    graylane workflows unpause {}", paused.workflow));
    }
    schedules(&status.schedules).into_iter().for_each(&mut line);
    for at in &status.lanes {
        lanes(at).into_iter().for_each(&mut line);
    }
    out
}

fn schedules(schedules: &Schedules) -> Vec<String> {
    if schedules.known == 0 && schedules.undecided.is_none() {
        return Vec::new();
    }
    let what =
        if schedules.known == 1 { "1 schedule".to_owned() } else { format!("{} schedules", schedules.known) };
    let outcomes = schedules.outcomes.iter().filter(|(_, count)| **count > 0);
    let outcomes: Vec<String> = outcomes.map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let outcomes = if outcomes.is_empty() { "no slot was decided yet".into() } else { outcomes.join(", ") };
    let mut lines = vec![format!("\n{what}; slots: {outcomes}")];
    match &schedules.undecided {
        None => lines.push("  every slot that is due is decided".into()),
        Some(slot) => {
            lines.push(format!(
                "  the oldest undecided slot: {} of {}: {}",
                slot.slot, slot.schedule, slot.why
            ));
            lines.push(format!("    {}", slot.command));
        }
    }
    lines
}

fn lanes(at: &LanesOf) -> Vec<String> {
    let environment = &at.environment;
    if let Some(why) = &at.trouble {
        return vec![format!(
            "\nlanes of {environment} are not known: {}",
            why.lines().next().unwrap_or_default()
        )];
    }
    if at.lanes.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("\nlanes of {environment}:")];
    for lane in &at.lanes {
        let since = lane.since.as_ref().map(|since| format!(", since {since}")).unwrap_or_default();
        let run = lane.run.as_ref().map(|run| format!(", by run {run}")).unwrap_or_default();
        lines.push(format!("  {} ({} services{since}{run})", lane.tag, lane.services.len()));
    }
    lines.push(format!("    graylane lanes {environment}"));
    for lane in &at.expiring {
        let words = if lane.expired { "has expired: its time was up at" } else { "expires soon, at" };
        lines.push(format!("  {} {words} {}", lane.tag, lane.expires));
        lines.push(format!("    {}", lane.command));
    }
    lines
}
