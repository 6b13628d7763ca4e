//! What happens when the journal cannot be written: nothing new starts, reads stay alive, and the store is opened anew
//! until it can be written again. Then everything goes on as after a restart.
//!
//! ```text
//! loop runs -> a write fails -> attempts are aborted, the loop is gone
//!           -> every 10 s: reopen (the journal compares with what was acknowledged) -> fold -> a new loop, same inbox
//! ```
//! A write that failed is never tried again: whether it reached the disk is seen when the store is read.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::handle::{CancelAnswer, DeedError, Mode, PersonAnswer, SubmitError, scheduler};
use super::input::Input;
use super::slots::SlotAnswer;
use super::{Parts, Scheduler, Shared};
use crate::journal;
use crate::task::TaskError;

/// How often the store is opened anew.
const REOPEN_EVERY: Duration = Duration::from_secs(10);
/// How often it is said that nothing starts.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Runs the loop, and runs it again after every failed write, until it is told to stop.
pub(super) async fn supervise(mut running: Scheduler, mut inbox: mpsc::Receiver<Input>, mode: Mode) {
    loop {
        let (parts, shared, sender) =
            (running.parts.clone(), std::sync::Arc::clone(&running.shared), running.sender.clone());
        let Some(attempts) = running.run(&mut inbox).await else { return };
        let Some(next) = mended(&parts, &shared, &sender, &mut inbox, attempts, mode).await else { return };
        running = next;
    }
}

/// Waits until the store can be written again, and makes the next loop; none where it is told to stop.
async fn mended(
    parts: &Parts,
    shared: &std::sync::Arc<Shared>,
    sender: &mpsc::Sender<Input>,
    inbox: &mut mpsc::Receiver<Input>,
    attempts: TaskTracker,
    mode: Mode,
) -> Option<Scheduler> {
    attempts.close();
    let mut reopen = tokio::time::interval_at(tokio::time::Instant::now() + REOPEN_EVERY, REOPEN_EVERY);
    reopen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tell = tokio::time::interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
    let mut gone = false;
    loop {
        let why = shared.broken.borrow().clone().unwrap_or(journal::Error::Broken("unknown".into()));
        tokio::select! {
            input = inbox.recv() => if refuse(input?, &why) { return None },
            // An aborted attempt that still works would write beside the one that is entered again.
            () = attempts.wait(), if !gone => gone = true,
            _ = tell.tick() => {
                tracing::error!(error = %why, "the journal cannot be written: nothing new starts");
            }
            _ = reopen.tick(), if gone => {
                let again = parts.clone();
                let (shared, sender) = (std::sync::Arc::clone(shared), sender.clone());
                let opened = tokio::task::spawn_blocking(move || {
                    again.journal.reopen().map_err(|error| error.to_string())?;
                    scheduler(&again, &shared, &sender, mode).map_err(|error| error.to_string())
                });
                match opened.await.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(next) => {
                        // What was asked of the old loop is not asked of the new one.
                        while let Ok(input) = inbox.try_recv() {
                            if refuse(input, &why) {
                                return None;
                            }
                        }
                        tracing::warn!("the journal can be written again: unfinished runs go on");
                        next.shared.broken.send_replace(None);
                        return Some(next);
                    }
                    Err(error) => tracing::debug!(error, "the store could not be opened anew"),
                }
            }
        }
    }
}

/// Answers that nothing can be recorded; tells whether to stop.
fn refuse(input: Input, why: &journal::Error) -> bool {
    // Whoever asked may be gone.
    match input {
        Input::Submit { answer, .. } => {
            let _ = answer.send(Err(SubmitError::Journal(why.clone())));
        }
        Input::Deed { answer, .. } => {
            let _ = answer.send(Err(DeedError::Journal(why.clone())));
        }
        Input::Slots { answer, .. } => {
            let _ = answer.send(SlotAnswer::Broken(why.clone()));
        }
        Input::Cancel { answer, .. } => {
            let _ = answer.send(CancelAnswer::Broken(why.clone()));
        }
        Input::Hold { reply, .. } | Input::Consent { reply, .. } => {
            let _ = reply.send(PersonAnswer::Broken(why.clone()));
        }
        Input::Report { answer, .. } => {
            let _ = answer.send(Err(TaskError::transient(why.to_string())));
        }
        // It is folded from the journal, which is readable.
        Input::View { answer, .. } => {
            let _ = answer.send(None);
        }
        // Their attempts were aborted, and are entered again.
        Input::AttemptEnded { .. } | Input::Asked { .. } => {}
        // Nothing runs.
        Input::Drain { answer } => {
            let _ = answer.send(());
        }
        Input::Shutdown { answer } => {
            let _ = answer.send(());
            return true;
        }
    }
    false
}
