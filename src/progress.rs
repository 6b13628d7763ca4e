//! A run as it goes, and as it ended, on a terminal or in plain lines.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use graylane_engine::clock::{Timestamp, show_duration};
use graylane_engine::run::{Event, HoldAnswer, Record};
use graylane_engine::task::TaskError;
use graylane_engine::view::{Next, RunView, TaskView};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::api::wire::Update;

/// Shows updates: bars on a terminal, else a line for each step.
pub(crate) struct Progress {
    quiet: bool,
    colours: bool,
    bars: Option<MultiProgress>,
    tasks: HashMap<String, Shown>,
    width: usize,
}

#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    since: Option<Timestamp>,
    /// What was told last of each thing that is counted.
    notes: HashMap<String, String>,
}

impl Progress {
    pub(crate) fn new(quiet: bool, colours: bool) -> Progress {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&bars);
        Progress { quiet, colours, bars, tasks: HashMap::new(), width: 8 }
    }

    pub(crate) fn show(&mut self, update: &Update) {
        match update {
            Update::Record(record) => self.record(record),
            Update::Progress { task, progress } => {
                let Some(shown) = self.tasks.get_mut(task) else { return };
                let words = format!("{} {}/{}", progress.what, progress.done, progress.total);
                let words =
                    if progress.note.is_empty() { words } else { format!("{words}  {}", progress.note) };
                match &shown.bar {
                    Some(bar) => {
                        bar.set_length(progress.total);
                        bar.set_position(progress.done);
                        bar.set_message(words);
                    }
                    // In plain lines only what is new is worth one; counts alone are not.
                    None if !progress.note.is_empty()
                        && shown.notes.get(&progress.what) != Some(&progress.note) =>
                    {
                        shown.notes.insert(progress.what.clone(), progress.note.clone());
                        self.line(task, &words);
                    }
                    None => {}
                }
            }
            Update::Log(_) | Update::Ended(_) => {}
        }
    }

    fn record(&mut self, record: &Record) {
        match &record.event {
            Event::RunSubmitted { workflow, .. } => self.note(&format!("{workflow}: submitted")),
            Event::AttemptStarted { task, attempt, .. } | Event::AttemptResumed { task, attempt, .. } => {
                let task = task.to_string();
                self.width = self.width.max(task.len());
                let bar = self.bars.as_ref().map(|bars| bar(bars, &task, self.width));
                let resumed = matches!(record.event, Event::AttemptResumed { .. });
                let words = match (attempt.0, resumed) {
                    (1, false) => "planning".to_owned(),
                    (number, false) => format!("attempt {number}"),
                    (_, true) => "goes on after a stop".to_owned(),
                };
                if let Some(bar) = &bar {
                    bar.set_message(words.clone());
                }
                let shown = self.tasks.entry(task.clone()).or_default();
                shown.bar = bar;
                shown.since.get_or_insert(record.at);
                if self.bars.is_none() {
                    self.line(&task, &words);
                }
            }
            Event::PhaseEntered { task, phase, .. } => {
                let task = task.to_string();
                match self.tasks.get(&task).and_then(|shown| shown.bar.as_ref()) {
                    Some(bar) => {
                        bar.set_length(1);
                        bar.set_position(0);
                        bar.set_message(phase.clone());
                    }
                    None => self.line(&task, phase),
                }
            }
            Event::AttemptSucceeded { task, .. } => {
                self.ended(task.as_str(), record.at, "succeeded", "32", None)
            }
            Event::AttemptFailed { task, error, retry_at, .. } => {
                let word = match retry_at {
                    Some(at) => format!("failed, tries again in {}", show_duration(at.since(record.at))),
                    None => "failed".to_owned(),
                };
                self.ended(task.as_str(), record.at, &word, "31", Some(error));
            }
            Event::TaskFailed { task, error } => {
                self.ended(task.as_str(), record.at, "failed", "31", Some(error))
            }
            Event::TaskCancelled { task, error } => {
                self.ended(task.as_str(), record.at, "cancelled", "33", error.as_ref());
            }
            Event::TaskSkipped { task, reason } => {
                self.ended(task.as_str(), record.at, &format!("skipped: {}", reason.words()), "2", None);
            }
            Event::TaskHeld { task, error, .. } => {
                self.ended(task.as_str(), record.at, "held", "33", Some(error));
            }
            Event::ApprovalAsked { task, ask, .. } => {
                let words = match ask.approvals {
                    1 => "waits for approval".to_owned(),
                    many => format!("waits for {many} approvals"),
                };
                self.ended(task.as_str(), record.at, &words, "33", None);
            }
            Event::HoldAnswered { task, answer, actor, .. } => {
                let words = match answer {
                    HoldAnswer::Retry => "one more attempt",
                    HoldAnswer::Skip => "skipped",
                    HoldAnswer::Fail => "failed",
                    HoldAnswer::Undo => "failed, and taken back",
                };
                self.line(task.as_str(), &format!("{words}, says {actor}"));
            }
            Event::Approved { task, consent } => {
                self.line(task.as_str(), &format!("approved by {}", consent.actor));
            }
            Event::Rejected { task, consent } => {
                self.line(task.as_str(), &format!("rejected by {}", consent.actor));
            }
            Event::WaitExpired { task } => self.line(task.as_str(), "nobody answered in time"),
            Event::CancelRequested { actor, now: true, .. } => {
                self.note(&format!("cancelled at once by {actor}: nothing is rolled back or cleaned up"))
            }
            Event::CancelRequested { actor, .. } => {
                self.note(&format!("cancelled by {actor}: attempts go to a safe point"))
            }
            Event::RunTimedOut => {
                self.note("the run took longer than its timeout: attempts go to a safe point")
            }
            Event::RunAdmitted
            | Event::RunFinished { .. }
            | Event::PlanMade { .. }
            | Event::CheckpointPassed { .. }
            | Event::AnswerIgnored { .. } => {}
        }
    }

    fn ended(
        &mut self,
        task: &str,
        at: Timestamp,
        word: &str,
        colour: &'static str,
        error: Option<&TaskError>,
    ) {
        let shown = self.tasks.remove(task).unwrap_or_default();
        if let Some(bar) = shown.bar {
            bar.finish_and_clear();
        }
        let took =
            shown.since.map(|since| format!("  {}", show_duration(at.since(since)))).unwrap_or_default();
        let mut words = format!("{}{took}", paint(self.colours, colour, word));
        if let Some(error) = error {
            words.push_str(&format!("  {}", error.message));
        }
        self.line(task, &words);
    }

    fn line(&self, task: &str, words: &str) {
        self.note(&format!("  {task:<width$}  {words}", width = self.width));
    }

    /// A line above the bars.
    pub(crate) fn note(&self, words: &str) {
        if self.quiet {
            return;
        }
        crate::cli::note(words);
    }

    /// Takes the bars away.
    pub(crate) fn end(&mut self) {
        for (_, shown) in self.tasks.drain() {
            if let Some(bar) = shown.bar {
                bar.finish_and_clear();
            }
        }
        *ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A bar for a task; drawn only once it has its place among the others.
fn bar(bars: &MultiProgress, task: &str, width: usize) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(1));
    let template = format!("  {{prefix:<{width}}}  {{spinner}} {{bar:12}} {{elapsed:>4}}  {{wide_msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("█▌ "));
    }
    bar.set_prefix(task.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// The bars that are on the terminal now: whatever else is printed must stand above them.
static ON_SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Prints a line above the bars; `false` where there are none.
pub(crate) fn print_above(text: &str) -> bool {
    let bars = ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    bars.as_ref().is_some_and(|bars| bars.println(text).is_ok())
}

fn paint(colours: bool, code: &str, text: &str) -> String {
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Everything about a run, for people.
pub(crate) fn summary(view: &RunView, colours: bool) -> String {
    let summary = &view.summary;
    let colour = match summary.status.as_str() {
        "succeeded" => "1;32",
        "failed" => "1;31",
        "cancelled" => "1;33",
        _ => "1",
    };
    let took = summary.ended_at.map(|end| format!(" in {}", show_duration(end.since(summary.submitted_at))));
    let undo = if summary.undoes.is_some() { "undo of " } else { "" };
    let mut out = format!(
        "\n{undo}{} {}{}\n",
        summary.workflow,
        paint(colours, colour, &summary.status),
        took.unwrap_or_default()
    );
    if let Some(reason) = &view.reason {
        out.push_str(&format!("  {reason}\n"));
    }
    let width = view.tasks.iter().map(|task| task.name.as_str().len()).max().unwrap_or(0);
    for task in &view.tasks {
        out.push_str(&task_lines(task, width, colours));
    }
    if !view.left.is_empty() {
        out.push_str("\nleft as it is:");
        view.left.iter().for_each(|line| out.push_str(&format!("\n  {line}")));
        out.push_str(&format!("\n`graylane undo {}` takes it back\n", summary.id));
    }
    for line in next_steps(view) {
        out.push_str(&format!("\n{line}"));
    }
    if summary.ended_at.is_some() {
        out.push_str(&format!(
            "\nlook again: graylane runs show {0}\nits log:    graylane runs logs {0}",
            summary.id
        ));
    }
    out
}

/// What an unfinished run waits for and the commands for it, and how the run hangs together with others.
pub(crate) fn next_steps(view: &RunView) -> Vec<String> {
    let mut lines: Vec<String> = view.next.iter().flat_map(step).collect();
    if let Some(undo) = view.undone_by {
        lines.push(format!("taken back by: graylane runs show {undo}"));
    }
    if let Some(origin) = &view.origin {
        lines.push(format!("{} run {}", origin.words(), origin.of()));
    }
    lines
}

/// What a run asks people for, and the commands that answer.
pub(crate) fn asked(view: &RunView) -> Vec<String> {
    view.next.iter().filter(|next| next.asks).flat_map(step).collect()
}

fn step(next: &Next) -> Vec<String> {
    let colon = if next.commands.is_empty() { "" } else { ":" };
    let first = format!("{}{colon}", next.what);
    std::iter::once(first).chain(next.commands.iter().map(|command| format!("  {command}"))).collect()
}

fn task_lines(task: &TaskView, width: usize, colours: bool) -> String {
    let colour = match task.status.as_str() {
        "succeeded" => "32",
        "failed" => "31",
        "cancelled" | "retrying" => "33",
        "skipped" | "pending" => "2",
        _ => "36",
    };
    let took = match (task.started_at, task.ended_at) {
        (Some(start), Some(end)) => format!("  {}", show_duration(end.since(start))),
        _ => String::new(),
    };
    let attempt =
        task.attempt.filter(|attempt| *attempt > 1).map(|n| format!("  attempt {n}")).unwrap_or_default();
    let mut out =
        format!("  {:<width$}  {}{took}{attempt}", task.name.as_str(), paint(colours, colour, &task.status));
    if task.kept {
        out.push_str("  kept");
    }
    for words in [&task.phase, &task.reason].into_iter().flatten() {
        out.push_str(&format!("  {words}"));
    }
    out.push('\n');
    let indent = " ".repeat(width + 4);
    if let Some(error) = &task.error {
        out.push_str(&format!("{indent}{}\n", error.message));
        for detail in &error.details {
            out.push_str(&format!("{indent}  {detail}\n"));
        }
        if let Some(hint) = &error.hint {
            out.push_str(&format!("{indent}hint: {hint}\n"));
        }
    }
    for line in task.outputs.iter().flat_map(|outputs| &outputs.report) {
        out.push_str(&format!("{indent}{line}\n"));
    }
    out
}
