//! Following a run to its end: shared by `run`, `resume`, `cancel` and `runs follow`.

use std::io::IsTerminal as _;

use graylane_engine::journal::Page;
use graylane_engine::run::{Event, Outcome};
use graylane_engine::scheduler::Mode;
use graylane_engine::view::{RunSummary, RunView};

use super::{Context, EXIT_FAILED, EXIT_SURROUNDINGS, EXIT_WAITS, Failure, Output, actor, note, print, tell};
use crate::access::Access;
use crate::api::wire::{Cancel, Cancelled, Update};
use crate::client::Client;
use crate::progress::{Progress, asked as asked_of};

/// How following ended.
pub(crate) struct Ended {
    pub(crate) code: u8,
    /// The run at its end, or as it waits; none where it was left unfinished.
    pub(crate) view: Option<RunView>,
    /// It waits for people, and others may go on.
    pub(crate) waits: bool,
}

impl Ended {
    fn left() -> Ended {
        Ended { code: EXIT_WAITS, view: None, waits: false }
    }
}

/// Follows a run; Ctrl-C cancels it, a second one leaves it to be resumed. Closes the store at the end.
pub(crate) async fn follow(context: &Context, access: Access, run: &str) -> Result<Ended, Failure> {
    let ended = follow_with_undo(context, &access, run).await;
    if let Ok(Ended { view: Some(_), .. } | Ended { waits: true, .. }) = &ended {
        // Others may have submitted to us meanwhile.
        stay_for_others(&access).await;
    }
    access.close().await;
    ended
}

/// Follows a run, and what takes it back: that belongs to it.
async fn follow_with_undo(context: &Context, access: &Access, run: &str) -> Result<Ended, Failure> {
    let ended = follow_open(context, access, run).await?;
    let Some(undo) = ended.view.as_ref().and_then(|view| view.undone_by) else { return Ok(ended) };
    note(&format!("what it changed is taken back by run {undo}"));
    let taken_back = follow_open(context, access, &undo.to_string()).await?;
    // The run has failed, however well it was taken back; where it was not, that is what counts.
    let code = ended.code.max(taken_back.code);
    match taken_back.view {
        Some(view) if taken_back.code != 0 => Ok(Ended { code, view: Some(view), waits: taken_back.waits }),
        Some(_) => Ok(Ended { code, ..ended }),
        None => Ok(Ended { code, view: None, waits: taken_back.waits }),
    }
}

/// Follows a run without closing the store.
pub(crate) async fn follow_open(context: &Context, access: &Access, run: &str) -> Result<Ended, Failure> {
    let client = &access.client;
    let quiet = context.output == Output::Json;
    let mut progress = Progress::new(quiet, context.colours);
    let mut ctrl_c = CtrlC::watch();
    let mut updates = client.follow(run).await?;
    let mut interrupts = 0;
    let mut asked = false;
    let view = loop {
        tokio::select! {
            update = updates.next() => match update {
                Ok(Some(Update::Ended(view))) => break view,
                Ok(Some(update)) => {
                    progress.show(&update);
                    asked |= asks(&update);
                    if asked && matches!(update, Update::Record(_)) {
                        let view: RunView = client.get(&format!("/api/v1/runs/{run}")).await?;
                        if view.summary.status == "waiting" {
                            asked = false;
                            for line in asked_of(&view) {
                                progress.note(&line);
                            }
                            if !std::io::stdin().is_terminal() {
                                progress.end();
                                return Ok(Ended { waits: true, view: Some(view), ..Ended::left() });
                            }
                        }
                    }
                }
                Ok(None) => {
                    progress.end();
                    note(&format!("the process that held the store has ended before run {run}; `graylane resume` goes on with it"));
                    return Ok(Ended::left());
                }
                Err(error) => {
                    progress.end();
                    note(&format!("{error}; run {run} is unfinished, and `graylane resume` goes on with it"));
                    return Ok(Ended::left());
                }
            },
            () = ctrl_c.pressed() => {
                interrupts += 1;
                if interrupts > 1 {
                    progress.end();
                    note(&format!("run {run} is left as it is; `graylane resume` goes on with it"));
                    return Ok(Ended::left());
                }
                progress.note("cancelling; Ctrl-C again leaves the run to be resumed");
                let asked = Cancel { actor: Some(actor()), reason: Some("interrupted".into()), now: false };
                let answer: Result<Cancelled, _> = client.post(&format!("/api/v1/runs/{run}/cancel"), &asked).await;
                if let Err(error) = answer {
                    progress.note(&format!("the run could not be cancelled: {error}"));
                }
            }
            () = broken(access) => {
                progress.end();
                return Err(Failure::surroundings("the journal cannot be written: nothing new starts")
                    .hint("mend the disk, then `graylane resume` goes on from the last recorded step"));
            }
        }
    };
    progress.end();
    if !quiet {
        print(&crate::progress::summary(&view, context.colours));
    }
    Ok(Ended { code: code_of(&view), view: Some(*view), waits: false })
}

/// Whether a person may be needed now.
fn asks(update: &Update) -> bool {
    let Update::Record(record) = update else { return false };
    matches!(record.event, Event::TaskHeld { .. } | Event::ApprovalAsked { .. })
}

/// Ends when our own journal has; never where another process holds it.
async fn broken(access: &Access) {
    match &access.holder {
        Some(holder) => {
            holder.engine.until_broken().await;
        }
        None => std::future::pending().await,
    }
}

/// Ctrl-C, listened for from one moment on: one that comes while something else is looked at is not lost.
struct CtrlC(Option<tokio::signal::unix::Signal>);

impl CtrlC {
    fn watch() -> CtrlC {
        let interrupt = tokio::signal::unix::SignalKind::interrupt();
        CtrlC(tokio::signal::unix::signal(interrupt).ok())
    }

    async fn pressed(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            // Without a listener the system's own way holds: the process ends.
            None => std::future::pending().await,
        }
    }
}

fn code_of(view: &RunView) -> u8 {
    match view.outcome {
        Some(Outcome::Succeeded) => 0,
        Some(Outcome::Failed | Outcome::Cancelled) => EXIT_FAILED,
        None => EXIT_SURROUNDINGS,
    }
}

async fn stay_for_others(access: &Access) {
    let Some(holder) = &access.holder else { return };
    let mut ctrl_c = CtrlC::watch();
    let mut updates = holder.engine.watch();
    let mut told = false;
    loop {
        // What waits for people may wait for long: whoever is asked knows how to go on.
        let mut active = holder.engine.unfinished();
        active.retain(|run| run.status != "waiting");
        if active.is_empty() {
            return;
        }
        if !told {
            let names: Vec<String> =
                active.iter().map(|run| format!("{} ({})", run.id, run.workflow)).collect();
            note(&format!("staying for {}; Ctrl-C leaves it to be resumed", names.join(", ")));
            told = true;
        }
        tokio::select! {
            _ = updates.recv() => {}
            () = ctrl_c.pressed() => {
                note("left as it is; `graylane resume` goes on with it");
                return;
            }
        }
    }
}

/// Everything that is unfinished.
pub(crate) async fn unfinished(client: &Client) -> Result<Vec<RunSummary>, Failure> {
    let mut page: Page = client.get("/api/v1/runs?unfinished=true").await?;
    page.runs.reverse();
    Ok(page.runs)
}

/// `graylane resume`: holds the store until every unfinished run has ended.
pub(crate) async fn resume(context: &Context) -> Result<u8, Failure> {
    let access = Access::open(&context.settings, Mode::Work, tell()).await?;
    let runs = unfinished(&access.client).await?;
    if runs.is_empty() {
        access.close().await;
        print(if context.output == Output::Json { "[]" } else { "no run is unfinished" });
        return Ok(0);
    }
    let mut code = 0;
    let (mut views, mut left) = (Vec::new(), false);
    for run in runs {
        if context.output == Output::Text {
            print(&format!("run {} of {}", run.id, run.workflow));
        }
        let ended = follow_with_undo(context, &access, &run.id.to_string()).await?;
        code = code.max(ended.code);
        let Some(view) = ended.view else {
            // Somebody has left it as it is, and the others with it.
            left = true;
            break;
        };
        views.push(view);
    }
    if !left {
        stay_for_others(&access).await;
    }
    access.close().await;
    if context.output == Output::Json {
        print(&super::json(&views));
    }
    Ok(code)
}
