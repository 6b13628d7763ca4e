//! What an attempt that writes brings along to each of its calls: a lease that must hold, patience, and whom to tell.
//!
//! Calls find it in a task-local, so that no task type passes it on, and none can forget to. Outside an attempt (plans,
//! looks) there is none: then a call is tried for a few seconds, and nothing is waited for.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use graylane_engine::task::{Reporter, TaskContext, TaskError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long an attempt waits for an API server that is away before its call fails.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long nothing is told: most outages are over by then.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// How long after its last renewal a lease lets writes through. Others take it over only when it has run out.
pub(crate) const TRUSTED: Duration = Duration::from_secs(20);

tokio::task_local! {
    static ATTEMPT: Attempt;
    /// What a `Retry-After` header asked for: it is in no error of the client library.
    static RETRY_AFTER: Cell<u64>;
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Attempt {
    /// When each lease was last renewed, as far as leases are held.
    pub(crate) leases: Vec<watch::Receiver<Instant>>,
    reporter: Arc<dyn Reporter>,
    cancel: CancellationToken,
    /// Whether the outage that is going on was told.
    told: Arc<AtomicBool>,
}

impl Attempt {
    pub(crate) fn of(cx: &TaskContext, leases: Vec<watch::Receiver<Instant>>) -> Attempt {
        Attempt {
            leases,
            reporter: Arc::clone(&cx.reporter),
            cancel: cx.cancel.clone(),
            told: Arc::default(),
        }
    }

    /// Carries out work whose calls are this attempt's.
    pub(crate) async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        ATTEMPT.scope(self, work).await
    }
}

/// Waits until every lease of the attempt is known to be its own. Nothing is written before.
///
/// # Errors
/// A lease could not be renewed for long.
pub(super) async fn may_write() -> Result<(), TaskError> {
    let Ok(attempt) = ATTEMPT.try_with(Attempt::clone) else { return Ok(()) };
    for mut lease in attempt.leases {
        let fresh = |renewed: &Instant| renewed.elapsed() < TRUSTED;
        match tokio::time::timeout(PATIENCE, lease.wait_for(fresh)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                return Err(TaskError::transient(
                    "its lease could not be renewed: nothing more is written, because another Graylane may have it",
                )
                .hint("see whether the API server answers, and `kubectl get leases`; then try again"));
            }
        }
    }
    Ok(())
}

/// How long to go on with a call that began then; zero outside an attempt, and once it is asked to stop.
pub(super) fn patience_left(began: Instant) -> Duration {
    let Ok(stopped) = ATTEMPT.try_with(|attempt| attempt.cancel.is_cancelled()) else {
        return Duration::ZERO;
    };
    if stopped { Duration::ZERO } else { PATIENCE.saturating_sub(began.elapsed()) }
}

/// Waits, unless the attempt is asked to stop.
pub(super) async fn pause(wait: Duration) {
    match ATTEMPT.try_with(|attempt| attempt.cancel.clone()) {
        Ok(cancel) if !cancel.is_cancelled() => {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cancel.cancelled() => {}
            }
        }
        // What is done after a cancel (a rollback) pauses as long as it means to.
        Ok(_) | Err(_) => tokio::time::sleep(wait).await,
    }
}

/// Tells, once an outage, that the API server does not answer and is waited for.
pub(super) fn tell_outage(began: Instant, error: &TaskError) {
    if began.elapsed() < TOLD_AFTER {
        return;
    }
    // Outside an attempt nobody listens.
    let _ = ATTEMPT.try_with(|attempt| {
        if !attempt.told.swap(true, Ordering::Relaxed) {
            let up_to = PATIENCE.as_secs();
            attempt.reporter.log(format!("{}; waiting for it, up to {up_to} s", error.message));
        }
    });
}

/// Tells that an outage which was told is over.
pub(super) fn tell_back(began: Instant) {
    let _ = ATTEMPT.try_with(|attempt| {
        if attempt.told.swap(false, Ordering::Relaxed) {
            attempt
                .reporter
                .log(format!("the API server answers again, after {} s", began.elapsed().as_secs()));
        }
    });
}

/// Makes a call; gives what a `Retry-After` header asked for beside its result.
pub(super) async fn noting<T>(call: impl Future<Output = T>) -> (T, Duration) {
    RETRY_AFTER
        .scope(Cell::new(0), async {
            let done = call.await;
            (done, Duration::from_secs(RETRY_AFTER.with(Cell::get)))
        })
        .await
}

/// Notes what an answer asks for; called where answers come in.
pub(super) fn note_retry_after(headers: &http::HeaderMap) {
    let seconds = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(seconds) = seconds {
        // What nobody makes again, such as a log, has no pause.
        let _ = RETRY_AFTER.try_with(|cell| cell.set(seconds));
    }
}
