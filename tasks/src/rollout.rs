//! Waits until a Deployment is fully rolled out, or says why it will not be.
//!
//! Done is what `kubectl rollout status` calls done, and every pod available. What is wrong is read off
//! the pods, long before the Deployment's own deadline. Judging is a function of plain objects
//! (`rollout/judge.rs`); following is by watch. It never writes.

mod judge;
mod patience;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use graylane_engine::task::{TaskContext, TaskError};
use kube::api::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::judge::{Expect, Failure, Seen, Signals, Verdict, has_agent, judge, running_images};
pub(crate) use self::judge::{PodSigns, by_digest, pod_signs};
pub use self::patience::{Patience, RolloutFile};
use crate::cluster::Cluster;
use crate::manifest::{name, texts, uid};

/// How long pods without a readiness probe must stay up: they count as ready from the moment they run, and an image
/// that ends at once would pass.
const UNPROBED_FOR: Duration = Duration::from_millis(500);

/// How long nothing new is said before the events of the pods are asked for, and how often they are asked for then.
const EVENTS_AFTER: Duration = Duration::from_secs(5);

type Watch = BoxStream<'static, (Kind, watcher::Result<watcher::Event<DynamicObject>>)>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Deployment,
    ReplicaSet,
    Pod,
}

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
    let labels = texts(deployment, "/spec/selector/matchLabels");
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let selector = selector.join(",");
    let mut events = watches(cluster, &selector);
    let mut seen = Seen { deployment: Some(deployment.clone()), ..Seen::default() };
    let mut signals = Signals::default();
    // Thresholds pass without an event.
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut listed: BTreeMap<String, Value> = BTreeMap::new();
    let mut shown = String::new();
    let settle = if probed(deployment) { Duration::ZERO } else { UNPROBED_FOR };
    let mut done_since: Option<Instant> = None;
    let mut quiet_since = Instant::now();
    loop {
        let now = Instant::now();
        let verdict = judge(&seen, expect, &mut signals, now);
        if verdict != Verdict::Done {
            done_since = None;
        }
        match verdict {
            Verdict::Done if now.duration_since(*done_since.get_or_insert(now)) < settle => {}
            Verdict::Done => {
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
            event = events.next() => match event {
                Some((kind, Ok(event))) => take(&mut seen, &mut listed, kind, event, &wanted),
                // A broken watch begins again by itself.
                Some((_, Err(error))) => tracing::debug!(%error, "a watch was interrupted"),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            },
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

impl From<RolloutError> for TaskError {
    fn from(error: RolloutError) -> TaskError {
        error.error
    }
}

fn watches(cluster: &Cluster, selector: &str) -> Watch {
    let one = |api_version: &str, kind_name: &str, selector: &str, kind: Kind| -> Watch {
        match cluster.watch(api_version, kind_name, selector) {
            // The library's own pauses grow to 30 s: too long for somebody who watches a rollout.
            Some(stream) => watcher_with_pauses(stream).map(move |event| (kind, event)).boxed(),
            None => futures::stream::empty().boxed(),
        }
    };
    // A Deployment may carry other labels than its pods: all of the namespace are watched, one is looked at.
    let all = vec![
        one("apps/v1", "Deployment", "", Kind::Deployment),
        one("apps/v1", "ReplicaSet", selector, Kind::ReplicaSet),
        one("v1", "Pod", selector, Kind::Pod),
    ];
    futures::stream::select_all(all).boxed()
}

fn watcher_with_pauses<T: Send + 'static>(
    stream: impl futures::Stream<Item = watcher::Result<T>> + Send + 'static,
) -> BoxStream<'static, watcher::Result<T>> {
    stream
        .then(|event| async move {
            if event.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            event
        })
        .boxed()
}

/// Takes one event of a watch into what is seen. A list that begins anew replaces what was seen of its kind.
fn take(
    seen: &mut Seen,
    listed: &mut BTreeMap<String, Value>,
    kind: Kind,
    event: watcher::Event<DynamicObject>,
    wanted: &str,
) {
    let value = |object: DynamicObject| serde_json::to_value(object).unwrap_or(Value::Null);
    let put = |seen: &mut Seen, value: Value| match kind {
        Kind::Deployment if name(&value) == wanted => seen.deployment = Some(value),
        Kind::Deployment => {}
        Kind::ReplicaSet => {
            seen.replica_sets.insert(uid(&value).unwrap_or_default().to_owned(), value);
        }
        Kind::Pod => {
            seen.pods.insert(uid(&value).unwrap_or_default().to_owned(), value);
        }
    };
    match event {
        watcher::Event::Apply(object) => put(seen, value(object)),
        watcher::Event::Delete(object) => {
            let value = value(object);
            let uid = uid(&value).unwrap_or_default();
            match kind {
                Kind::Deployment if name(&value) == wanted => seen.deployment = None,
                Kind::Deployment => {}
                Kind::ReplicaSet => {
                    seen.replica_sets.remove(uid);
                }
                Kind::Pod => {
                    seen.pods.remove(uid);
                }
            }
        }
        watcher::Event::Init => {
            let keep: fn(&str) -> String = |tag| tag.to_owned();
            let tag = keep(kind_tag(kind));
            listed.retain(|key, _| !key.starts_with(&tag));
        }
        watcher::Event::InitApply(object) => {
            let value = value(object);
            listed.insert(format!("{}{}", kind_tag(kind), uid(&value).unwrap_or_default()), value);
        }
        watcher::Event::InitDone => {
            let mine: Vec<Value> = listed
                .iter()
                .filter(|(key, _)| key.starts_with(kind_tag(kind)))
                .map(|(_, v)| v.clone())
                .collect();
            match kind {
                Kind::Deployment => seen.deployment = None,
                Kind::ReplicaSet => seen.replica_sets.clear(),
                Kind::Pod => seen.pods.clear(),
            }
            for value in mine {
                put(seen, value);
            }
        }
    }
}

fn kind_tag(kind: Kind) -> &'static str {
    match kind {
        Kind::Deployment => "d/",
        Kind::ReplicaSet => "r/",
        Kind::Pod => "p/",
    }
}
