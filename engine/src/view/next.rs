//! What an unfinished run waits for, and what can be done about it: each with the exact command.
//!
//! Every view of an unfinished run ends with this. Nothing here decides what happens next; `run/decide.rs` does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RunView, TaskView};

/// Something that a run waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Next {
    /// What it is.
    pub what: String,
    /// Whether a person must decide.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// What moves it on, or shows more, ready to be typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl Next {
    fn of(what: String, commands: Vec<String>) -> Next {
        Next { what, asks: false, commands }
    }

    /// Nobody carries the run on: it was cut off, or waited while its process ended.
    pub fn nobody(view: &RunView) -> Next {
        let what = if view.summary.status == "waiting" {
            "nobody carries it on meanwhile: answer, then `graylane resume` does"
        } else {
            "it was cut off, and nobody carries it on: `graylane resume` does"
        };
        Next::of(what.into(), vec!["graylane resume".into()])
    }
}

/// What a run waits for, what asks people first; nothing of a final run.
pub(super) fn of(view: &RunView) -> Vec<Next> {
    if view.outcome.is_some() {
        return Vec::new();
    }
    let id = view.summary.id;
    let asking: Vec<&TaskView> = view.tasks.iter().filter(|task| task.asks.is_some()).collect();
    let several = asking.len() > 1;
    let mut next: Vec<Next> = asking.iter().filter_map(|task| ask(view, task, several)).collect();
    if view.summary.status == "queued" {
        let why = view.reason.as_deref().unwrap_or("it is queued");
        next.push(Next::of(why.to_owned(), Vec::new()));
    }
    for task in &view.tasks {
        let name = &task.name;
        let what = match task.status.as_str() {
            "running" => {
                let phase = task.phase.as_ref().map(|phase| format!(": {phase}")).unwrap_or_default();
                let wrong = task.reason.as_ref().map(|wrong| format!("; {wrong}")).unwrap_or_default();
                format!("{name} is under way{phase}{wrong}")
            }
            "retrying" => match task.retry_at {
                Some(at) => format!("{name} failed and is tried again at {at}"),
                None => format!("{name} failed and is tried again"),
            },
            "pending" => match &task.reason {
                Some(why) => format!("{name}: {why}"),
                None => continue,
            },
            _ => continue,
        };
        next.push(Next::of(what, Vec::new()));
    }
    let end = if view.summary.status == "cancelling" {
        Next::of(
            "it is on its way to its end".into(),
            vec![format!("graylane runs follow {id}"), format!("graylane cancel {id} --now")],
        )
    } else {
        Next::of(
            "follow it, or end it".into(),
            vec![format!("graylane runs follow {id}"), format!("graylane cancel {id}")],
        )
    };
    next.push(end);
    next
}

fn ask(view: &RunView, task: &TaskView, several: bool) -> Option<Next> {
    let asks = task.asks.as_ref()?;
    let (id, name) = (view.summary.id, &task.name);
    let which = if several { format!(" --task {name}") } else { String::new() };
    if asks.kind == "hold" {
        let commands = ["retry", "skip", "fail", "undo"];
        let commands = commands.iter().map(|answer| format!("graylane answer {id} {answer}{which}"));
        let why = task.error.as_ref().map(|error| format!(" ({})", error.message)).unwrap_or_default();
        let what = format!("{name} is held until {}, then it has failed{why}", asks.expires);
        return Some(Next { what, asks: true, commands: commands.collect() });
    }
    let needed = asks.approvals.unwrap_or(1) as usize;
    let left = needed.saturating_sub(asks.given.len());
    let who = if asks.from.is_empty() { String::new() } else { format!(" from {}", asks.from.join(", ")) };
    let message = asks.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    let plans = asks.plans.values().map(|plan| format!("graylane runs plan {plan}"));
    let answers = ["approve", "reject"].map(|answer| format!("graylane {answer} {id}{which}"));
    Some(Next {
        what: format!("{name} waits until {} for {left} of {needed} approvals{who}{message}", asks.expires),
        asks: true,
        commands: plans.chain(answers).collect(),
    })
}
