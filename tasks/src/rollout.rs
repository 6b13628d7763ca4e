//! Waits until a Deployment is fully rolled out, or says why it will not be.
//!
//! Done is what `kubectl rollout status` calls done, and every pod available. What is wrong is read off
//! the pods, long before the Deployment's own deadline. Judging is a function of plain objects
//! (`rollout/judge.rs`); following is by watch. It never writes.

mod feeds;
mod judge;
mod patience;

use std::collections::BTreeMap;
use std::time::Duration;

use graylane_engine::task::{TaskContext, TaskError};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::feeds::Feeds;
pub use self::judge::{Expect, Failure, Seen, Signals, Verdict, has_agent, judge, running_images};
pub(crate) use self::judge::{PodSigns, by_digest, pod_signs, times};
pub use self::patience::{Patience, RolloutFile};
use crate::cluster::{Blind, Cluster};
use crate::manifest::{name, uid};

/// How long pods without a readiness probe must stay up: they count as ready from the moment they run, and an image
/// that ends at once would pass.
const UNPROBED_FOR: Duration = Duration::from_millis(500);
/// The same, once one of them has ended in this rollout: that it runs again says little.
const ENDED_FOR: Duration = Duration::from_secs(5);

/// How long nothing new is said before the events of the pods are asked for, and how often they are asked for then.
const EVENTS_AFTER: Duration = Duration::from_secs(5);

/// Follows a rollout to its end, or until `stop` is cancelled.
///
/// # Errors
/// Why it will not be done, with the last lines of the log; or that the attempt was stopped.
pub async fn follow(
    cx: &TaskContext,
    cluster: &Cluster,
    deployment: &Value,
    expect: Expect,
    stop: &CancellationToken,
) -> Result<Seen, RolloutError> {
    let cluster = &cluster.beside(deployment);
    let wanted = name(deployment).to_owned();
    let mut feeds = Feeds::open(cluster, deployment);
    let mut blind = Blind::over("the rollout");
    let mut seen = Seen { deployment: Some(deployment.clone()), ..Seen::default() };
    let mut signals = Signals::default();
    // Thresholds pass without an event.
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut shown = String::new();
    let probed = probed(deployment);
    let mut done_since: Option<Instant> = None;
    let mut quiet_since = Instant::now();
    loop {
        let now = Instant::now();
        blind.look(cx, feeds.trouble())?;
        let verdict = judge(&seen, expect, &mut signals, now);
        if verdict != Verdict::Done {
            done_since = None;
        }
        let settle = match (probed, signals.ended()) {
            (true, _) => Duration::ZERO,
            (false, false) => UNPROBED_FOR,
            (false, true) => ENDED_FOR,
        };
        match verdict {
            Verdict::Done if now.duration_since(*done_since.get_or_insert(now)) < settle => {}
            Verdict::Done => {
                // That it is done was heard: another watch, on which nothing changes any more, may be counted as broken still.
                blind.look(cx, None)?;
                let total = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
                cx.progress(&wanted, total, total, "");
                return Ok(seen);
            }
            Verdict::Failed(failure) => {
                let mut details = Vec::new();
                if let Some((pod, container, previous)) = &failure.log {
                    let lines = cluster.log_tail(pod, container, *previous).await;
                    if !lines.is_empty() {
                        details.push(format!("last lines of {pod}/{container}:"));
                        details.extend(lines.into_iter().map(|line| format!("  {line}")));
                    }
                }
                let mut error = TaskError::permanent(failure.message).details(details);
                error.hint = failure.hint;
                return Err(RolloutError { error, agent_missing: failure.agent_missing });
            }
            Verdict::Waiting(done, total, note) => {
                if note != shown {
                    cx.log(format!("{wanted}: {note}"));
                    shown.clone_from(&note);
                    quiet_since = now;
                }
                if now.duration_since(quiet_since) >= EVENTS_AFTER {
                    quiet_since = now;
                    seen.events = events_of(cluster, &seen).await;
                }
                cx.progress(&wanted, done, total, note);
            }
        }
        tokio::select! {
            () = stop.cancelled() => {
                let error = TaskError::transient(format!("stopped while Deployment {wanted} was rolled out: {shown}"));
                return Err(RolloutError { error, agent_missing: false });
            }
            _ = tick.tick() => {}
            () = tokio::time::sleep(settle), if done_since.is_some() => {}
            () = feeds.next(&mut seen) => {}
        }
    }
}

/// What was said of the new pods that are not ready: probes and volumes complain in events alone.
async fn events_of(cluster: &Cluster, seen: &Seen) -> BTreeMap<String, Vec<Value>> {
    let mut events = BTreeMap::new();
    let ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|found| found["type"] == "Ready" && found["status"] == "True")
    };
    // The first that waits speaks for the others.
    if let Some(pod) = seen.new_pods().into_iter().find(|pod| !ready(pod))
        && let Some(uid) = uid(pod)
    {
        events.insert(uid.to_owned(), cluster.events_of(uid).await);
    }
    events
}

/// Whether every container says by a probe when it is ready.
pub fn probed(deployment: &Value) -> bool {
    let containers = deployment.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().all(|container| container.get("readinessProbe").is_some())
}

/// Why a rollout did not get to its end.
#[derive(Debug)]
pub struct RolloutError {
    /// What to tell.
    pub error: TaskError,
    /// A pod lacks the MSE agent: the Deployment must go to 0.
    pub agent_missing: bool,
}

impl From<TaskError> for RolloutError {
    fn from(error: TaskError) -> RolloutError {
        RolloutError { error, agent_missing: false }
    }
}

impl From<RolloutError> for TaskError {
    fn from(error: RolloutError) -> TaskError {
        error.error
    }
}
