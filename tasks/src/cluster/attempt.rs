//! What whoever writes brings along to each of their calls: leases that must hold, patience, whom to tell, and the watches
//! that were opened.
//!
//! Calls find it in a task-local, so that nobody passes it on, and nobody can forget to. Only `lease.rs` makes one. Outside
//! of it (plans, looks) a call is tried for a few seconds, nothing is waited for, and nothing can be written.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use graylane_engine::task::{Reporter, TaskError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watched::Watched;

/// How long an attempt waits for an API server that is away before its call fails.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long nothing is told: most outages are over by then.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// How long a lease lasts without a renewal: nobody else takes it over sooner.
pub(crate) const LEASE_LASTS: Duration = Duration::from_secs(30);
/// How long after its last renewal a lease lets a write begin.
const TRUSTED: Duration = Duration::from_secs(20);

tokio::task_local! {
    static ATTEMPT: Attempt;
    /// What a `Retry-After` header asked for: it is in no error of the client library.
    static RETRY_AFTER: Cell<u64>;
}

/// The kind that is written without a lease: the Jobs of checks are named after their run, so nobody else has them.
const NOBODY_ELSES: &str = "Job";

/// See the module.
#[derive(Clone)]
pub(crate) struct Attempt {
    /// When each lease that is held was last renewed.
    leases: Vec<watch::Receiver<Instant>>,
    reporter: Arc<dyn Reporter>,
    cancel: CancellationToken,
    /// Whether the outage that is going on was told.
    told: Arc<AtomicBool>,
    /// The watches that it has opened: what it follows next is likely to need them too.
    watches: Arc<Mutex<Vec<Arc<Watched>>>>,
}

impl Attempt {
    pub(crate) fn new(
        reporter: &Arc<dyn Reporter>,
        cancel: &CancellationToken,
        leases: Vec<watch::Receiver<Instant>>,
    ) -> Attempt {
        Attempt {
            leases,
            reporter: Arc::clone(reporter),
            cancel: cancel.clone(),
            told: Arc::default(),
            watches: Arc::default(),
        }
    }

    /// Carries out work whose calls are this attempt's.
    pub(crate) async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        ATTEMPT.scope(self, work).await
    }
}

/// Waits until every lease that is held is known to be ours: no try of a write begins before, and none without a lease.
/// Gives for how long nobody else can have taken one: a try that lasts longer is given up.
///
/// # Errors
/// No lease is held; one could not be renewed for long; or the attempt is asked to stop meanwhile. What is done after a cancel (a
/// rollback) waits as long as anything else.
pub(super) async fn may_write(kind: &str, what: &str) -> Result<Duration, TaskError> {
    let attempt = ATTEMPT.try_with(Attempt::clone).ok();
    let attempt = attempt.filter(|attempt| !attempt.leases.is_empty() || kind == NOBODY_ELSES);
    let Some(attempt) = attempt else {
        return Err(TaskError::permanent(format!("{what} is not written: no lease is held for it"))
            .hint("this is a mistake in Graylane, not in what you asked for: please report it"));
    };
    let asked_to_stop = async {
        if attempt.cancel.is_cancelled() {
            std::future::pending::<()>().await;
        }
        attempt.cancel.cancelled().await;
    };
    tokio::select! {
        biased;
        fresh = fresh(attempt.leases) => fresh,
        () = asked_to_stop => Err(TaskError::transient("stopped while its lease was not fresh: nothing more is written")),
    }
}

async fn fresh(leases: Vec<watch::Receiver<Instant>>) -> Result<Duration, TaskError> {
    let mut left = LEASE_LASTS;
    for mut lease in leases {
        let fresh = |renewed: &Instant| renewed.elapsed() < TRUSTED;
        match tokio::time::timeout(PATIENCE, lease.wait_for(fresh)).await {
            Ok(Ok(renewed)) => left = left.min(LEASE_LASTS.saturating_sub(renewed.elapsed())),
            Ok(Err(_)) | Err(_) => {
                return Err(TaskError::transient(
                    "its lease could not be renewed: nothing more is written, because another Graylane may have it",
                )
                .hint("see whether the API server answers, and `kubectl get leases`; then try again"));
            }
        }
    }
    Ok(left)
}

/// Keeps a watch open until the attempt is over. Outside an attempt it ends with its last follower.
pub(super) fn keep_open(watched: &Arc<Watched>) {
    // Outside an attempt nobody keeps it.
    let _ = ATTEMPT.try_with(|attempt| {
        let mut watches = attempt.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if !watches.iter().any(|other| Arc::ptr_eq(other, watched)) {
            watches.push(Arc::clone(watched));
        }
    });
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
