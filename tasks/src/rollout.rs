//! Waits until a Deployment is fully rolled out, or says why it will not be.
//!
//! Done is what `kubectl rollout status` calls done, and every pod available. What is wrong is read off
//! the pods, long before the Deployment's own deadline. Judging is a function of plain objects; following
//! is by watch. It never writes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use graylane_engine::task::{TaskContext, TaskError};
use kube::api::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::manifest::{name, texts, uid};

/// The init container that the MSE agent's webhook adds (ack-onepilot).
const AGENT_CONTAINER: &str = "one-pilot-initcontainer";

/// How long pods without a readiness probe must stay up: they count as ready from the moment they run, and an image
/// that ends at once would pass.
const UNPROBED_FOR: Duration = Duration::from_millis(500);

/// What is asked of a rollout besides that it ends.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// The generation that was written: an older status means nothing.
    pub generation: i64,
    /// Whether every pod must carry the MSE agent.
    pub agent: bool,
    /// Whether the pods themselves must have been seen: they come by another watch than the Deployment, which may
    /// say that all is done before the first of them is known here.
    pub pods: bool,
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every pod is new and available.
    Done,
    /// Not yet: (ready, wanted, what stands in the way).
    Waiting(u64, u64, String),
    /// It will not be.
    Failed(Failure),
}

/// Why a rollout will not be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// In a sentence that names the object.
    pub message: String,
    /// The pod and container whose log says more; `true` for its run before this one.
    pub log: Option<(String, String, bool)>,
    /// What to do.
    pub hint: Option<String>,
    /// A pod lacks the MSE agent: it would be met by everybody.
    pub agent_missing: bool,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), log: None, hint: None, agent_missing: false }
    }

    fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    fn log(mut self, pod: &str, container: &str, previous: bool) -> Failure {
        self.log = Some((pod.to_owned(), container.to_owned(), previous));
        self
    }
}

/// The objects of one rollout.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The Deployment; none once it is gone.
    pub deployment: Option<Value>,
    /// ReplicaSets by uid.
    pub replica_sets: BTreeMap<String, Value>,
    /// Pods by uid.
    pub pods: BTreeMap<String, Value>,
}

/// When signals that may pass were first seen.
#[derive(Debug, Default)]
pub struct Signals {
    first: HashMap<String, Instant>,
    /// What a registry said of an image before the kubelet only says that it waits, by pod and container.
    registry: HashMap<String, String>,
}

impl Signals {
    /// Whether a signal has lasted for `limit`.
    fn lasts(&mut self, signal: String, limit: Duration, now: Instant) -> bool {
        now.duration_since(*self.first.entry(signal).or_insert(now)) >= limit
    }
}

impl Seen {
    fn new_replica_set(&self) -> Option<&Value> {
        let deployment = self.deployment.as_ref()?;
        let revision = deployment.pointer("/metadata/annotations/deployment.kubernetes.io~1revision");
        self.replica_sets.values().find(|set| {
            owned_by(set, deployment)
                && revision.is_some()
                && set.pointer("/metadata/annotations/deployment.kubernetes.io~1revision") == revision
        })
    }

    /// The pods of the newest template that are not going away.
    pub fn new_pods(&self) -> Vec<&Value> {
        let Some(set) = self.new_replica_set() else { return Vec::new() };
        let pods = self.pods.values().filter(|pod| owned_by(pod, set));
        pods.filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()).collect()
    }
}

fn owned_by(object: &Value, owner: &Value) -> bool {
    let Some(owner) = uid(owner) else { return false };
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    references.into_iter().flatten().any(|reference| reference["uid"] == owner)
}

/// Judges a rollout: the tests of `kubectl rollout status` (kubectl, polymorphichelpers), and the pods' own words.
pub fn judge(seen: &Seen, expect: Expect, signals: &mut Signals, now: Instant) -> Verdict {
    let Some(deployment) = &seen.deployment else {
        return Verdict::Failed(Failure::new("the Deployment was deleted while it was rolled out"));
    };
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let (replicas, updated, available) =
        (number("/status/replicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"));
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let waiting = |note: String| Verdict::Waiting(count(available.min(updated)), count(wanted), note);
    if number("/status/observedGeneration") < expect.generation {
        return waiting("the controller has not seen the change yet".into());
    }
    let name = name(deployment);
    if deployment.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        return waiting(format!("Deployment {name} is paused: `kubectl rollout resume` lets it go on"));
    }
    for condition in conditions(deployment) {
        let reason = condition["reason"].as_str().unwrap_or_default();
        let message = condition["message"].as_str().unwrap_or_default();
        if condition["type"] == "ReplicaFailure" && condition["status"] == "True" {
            if signals.lasts(format!("replica failure {message}"), Duration::from_secs(10), now) {
                let failure = Failure::new(format!("Deployment {name}: pods cannot be created: {message}"));
                return Verdict::Failed(failure.hint("raise the quota, or mend what the webhook refuses"));
            }
            return waiting(message.to_owned());
        }
        if condition["type"] == "Progressing" && reason == "ProgressDeadlineExceeded" {
            return Verdict::Failed(Failure::new(format!("Deployment {name}: {message}")));
        }
    }
    let pods = seen.new_pods();
    if expect.agent
        && let Some(pod) = pods.iter().find(|pod| !has_agent(pod))
    {
        let mut failure = Failure::new(format!(
            "pod {} carries no MSE agent: requests without the lane's mark would meet it",
            crate::manifest::name(pod)
        ))
        .hint("label the namespace `mse-enable=enabled`, and see that ack-onepilot runs");
        failure.agent_missing = true;
        return Verdict::Failed(failure);
    }
    let mut note = String::new();
    for pod in &pods {
        match judge_pod(pod, signals, now) {
            PodVerdict::Fine => {}
            PodVerdict::Waits(words) => note = words,
            PodVerdict::Fails(failure) => return Verdict::Failed(*failure),
        }
    }
    // The order of kubectl's tests.
    if updated < wanted {
        return waiting(if note.is_empty() { format!("{updated} of {wanted} pods are new") } else { note });
    }
    if replicas > updated {
        let old = replicas - updated;
        return waiting(format!("{old} old pod{} still to go", if old == 1 { " is" } else { "s are" }));
    }
    if available < updated || available < wanted {
        return waiting(if note.is_empty() { "pods are not available yet".into() } else { note });
    }
    if expect.pods && count(wanted) > pods.len() as u64 {
        return waiting("the pods are not seen yet".into());
    }
    Verdict::Done
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

/// Whether the agent's webhook has changed this pod. The Deployment never shows it: only the pod does.
pub fn has_agent(pod: &Value) -> bool {
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let init = list("/spec/initContainers")
        .any(|container| container["name"].as_str().is_some_and(|name| name.contains(AGENT_CONTAINER)));
    let mut variables =
        list("/spec/containers").filter_map(|container| container["env"].as_array()).flatten();
    init && variables.any(|variable| {
        variable["name"] == "JAVA_TOOL_OPTIONS"
            && variable["value"].as_str().is_some_and(|value| value.contains("-javaagent:"))
    })
}

enum PodVerdict {
    Fine,
    Waits(String),
    Fails(Box<Failure>),
}

fn judge_pod(pod: &Value, signals: &mut Signals, now: Instant) -> PodVerdict {
    let pod_name = name(pod);
    let pod_uid = uid(pod).unwrap_or_default();
    let mut waits = None;
    for condition in conditions(pod) {
        let message = condition["message"].as_str().unwrap_or_default();
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            let words = format!("pod {pod_name} cannot be scheduled: {message}");
            if signals.lasts(format!("{pod_uid} unschedulable"), Duration::from_secs(120), now) {
                return PodVerdict::Fails(Box::new(Failure::new(words).hint("free or add a node that fits")));
            }
            waits = Some(words);
        }
    }
    for list in ["/status/initContainerStatuses", "/status/containerStatuses"] {
        for status in pod.pointer(list).and_then(Value::as_array).into_iter().flatten() {
            match judge_container(pod_name, pod_uid, status, signals, now) {
                PodVerdict::Fine => {}
                PodVerdict::Waits(words) => waits = Some(words),
                failed @ PodVerdict::Fails(_) => return failed,
            }
        }
    }
    waits.map_or(PodVerdict::Fine, PodVerdict::Waits)
}

fn judge_container(
    pod: &str,
    pod_uid: &str,
    status: &Value,
    signals: &mut Signals,
    now: Instant,
) -> PodVerdict {
    let container = status["name"].as_str().unwrap_or_default();
    let image = status["image"].as_str().unwrap_or_default();
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let last = status.pointer("/lastState/terminated");
    let here = format!("pod {pod}, container {container}");
    let terminated = last.or_else(|| status.pointer("/state/terminated"));
    let exit = terminated.map(exit_words).unwrap_or_default();
    // One that is ready now has got over it.
    if terminated.is_some_and(|t| t["reason"] == "OOMKilled") && restarts >= 2 && status["ready"] != true {
        let failure =
            Failure::new(format!("{here}: out of memory {restarts} times")).hint("raise its memory limit");
        return PodVerdict::Fails(Box::new(failure.log(pod, container, true)));
    }
    let Some(waiting) = status.pointer("/state/waiting") else {
        if restarts > 0 && status["ready"] != true {
            let words = format!("{here}: restarted {restarts} times{exit}");
            if restarts >= 3 {
                return PodVerdict::Fails(Box::new(Failure::new(words).log(pod, container, true)));
            }
            return PodVerdict::Waits(words);
        }
        return if status["ready"] == true || status.pointer("/state/running").is_none() {
            PodVerdict::Fine
        } else {
            PodVerdict::Waits(format!("{here}: runs, not ready yet"))
        };
    };
    let reason = waiting["reason"].as_str().unwrap_or_default();
    let message = waiting["message"].as_str().unwrap_or_default();
    let words = match message {
        "" => format!("{here}: {reason}"),
        _ => format!("{here}: {reason}: {message}"),
    };
    let key = format!("{pod_uid} {container} {reason}");
    let after = |signals: &mut Signals, seconds: u64, failure: Failure| {
        if signals.lasts(key.clone(), Duration::from_secs(seconds), now) {
            PodVerdict::Fails(Box::new(failure))
        } else {
            PodVerdict::Waits(words.clone())
        }
    };
    let failure = Failure::new(words.clone());
    match reason {
        "InvalidImageName" | "ErrImageNeverPull" => PodVerdict::Fails(Box::new(failure)),
        "ErrImagePull" => {
            signals.registry.insert(format!("{pod_uid} {container}"), message.to_owned());
            PodVerdict::Waits(words)
        }
        "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" | "SignatureValidationFailed" => {
            let hint = format!("check that image {image} exists and that the cluster may pull it");
            let said = signals.registry.get(&format!("{pod_uid} {container}")).cloned().unwrap_or_default();
            // A registry that is away may come back; an image that is not there will not.
            let patience = if says_missing(&said) || says_missing(message) { 5 } else { 30 };
            let mut failure = failure.hint(hint);
            if !said.is_empty() {
                failure.message = format!("{here}: {reason}: {said}");
            }
            after(signals, patience, failure)
        }
        "CreateContainerConfigError" => {
            after(signals, 15, failure.hint("a ConfigMap, a Secret or a key of one is missing"))
        }
        "CreateContainerError" | "RunContainerError" | "StartError" | "PostStartHookError" => {
            after(signals, 30, failure)
        }
        "CrashLoopBackOff" => {
            let failure =
                Failure::new(format!("{here}: crashes again and again{exit}")).log(pod, container, true);
            if restarts >= 3 { PodVerdict::Fails(Box::new(failure)) } else { after(signals, 60, failure) }
        }
        "" => PodVerdict::Fine,
        // ContainerCreating, PodInitializing: the beginning of something else.
        _ => PodVerdict::Waits(words),
    }
}

/// Words of registries for an image that is not there: waiting longer will not bring it.
fn says_missing(message: &str) -> bool {
    let message = message.to_lowercase();
    ["not found", "notfound", "manifest unknown", "does not exist"]
        .iter()
        .any(|words| message.contains(words))
}

fn exit_words(terminated: &Value) -> String {
    let code = terminated["exitCode"].as_i64().unwrap_or(0);
    match terminated["reason"].as_str() {
        Some(reason @ ("OOMKilled" | "StartError")) => format!(" ({reason}, exit code {code})"),
        _ => format!(" (exit code {code})"),
    }
}

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

/// The images of a rolled-out Deployment as its pods run them: by digest where the cluster tells one.
pub fn running_images(seen: &Seen) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for pod in seen.new_pods() {
        for status in pod.pointer("/status/containerStatuses").and_then(Value::as_array).into_iter().flatten()
        {
            let Some(container) = status["name"].as_str() else { continue };
            let spec = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
            let written =
                spec.filter(|c| c["name"] == container).find_map(|c| c["image"].as_str()).unwrap_or_default();
            let id = status["imageID"].as_str().unwrap_or_default();
            images.insert(container.to_owned(), by_digest(written, id));
        }
    }
    images
}

/// `repo:tag` as written, and the image id that the kubelet reports, give `repo@sha256:...`.
fn by_digest(written: &str, id: &str) -> String {
    let Some((_, digest)) = id.rsplit_once("@sha256:") else { return written.to_owned() };
    if digest.len() != 64 || written.contains("@sha256:") {
        return written.to_owned();
    }
    // A colon after the last slash is a tag; one before it is a port.
    let slash = written.rfind('/').map_or(0, |at| at + 1);
    let repository = written[slash..].find(':').map_or(written, |at| &written[..slash + at]);
    format!("{repository}@sha256:{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(status: Value, pod: Value) -> Seen {
        let deployment = json!({ "metadata": { "name": "a", "uid": "d", "generation": 2, "annotations": { "deployment.kubernetes.io/revision": "2" } },
            "spec": { "replicas": 1 }, "status": status });
        let set = json!({ "metadata": { "name": "a-1", "uid": "r", "annotations": { "deployment.kubernetes.io/revision": "2" }, "ownerReferences": [{ "uid": "d" }] } });
        let mut pod = pod;
        pod["metadata"] = json!({ "name": "a-1-x", "uid": "p", "ownerReferences": [{ "uid": "r" }] });
        Seen {
            deployment: Some(deployment),
            replica_sets: [("r".into(), set)].into(),
            pods: [("p".into(), pod)].into(),
        }
    }

    fn container(state: Value, restarts: u32) -> Value {
        json!({ "status": { "containerStatuses": [{ "name": "main", "image": "i", "restartCount": restarts, "ready": false, "state": state,
            "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] } })
    }

    fn waiting(reason: &str, message: &str) -> Value {
        container(json!({ "waiting": { "reason": reason, "message": message } }), 0)
    }

    /// What is said at once, and what after so many seconds.
    async fn told(seen: &Seen, seconds: u64) -> (String, String) {
        let mut signals = Signals::default();
        let expect = Expect { generation: 2, agent: false, pods: true };
        let words = |verdict: Verdict| match verdict {
            Verdict::Done => "done".to_owned(),
            Verdict::Waiting(done, total, note) => format!("{done}/{total} {note}"),
            Verdict::Failed(failure) => format!("failed: {}", failure.message),
        };
        let first = words(judge(seen, expect, &mut signals, Instant::now()));
        tokio::time::advance(Duration::from_secs(seconds)).await;
        (first, words(judge(seen, expect, &mut signals, Instant::now())))
    }

    #[tokio::test(start_paused = true)]
    async fn every_signal_has_its_verdict_and_its_patience() {
        let going = json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1 });
        let done =
            json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
        let old =
            json!({ "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
        let two =
            json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 2 });
        let late = json!({ "observedGeneration": 2, "conditions": [{ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out progressing" }] });
        let quota = json!({ "observedGeneration": 2, "conditions": [{ "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota" }] });
        let fine = json!({ "status": {} });
        let unschedulable = json!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" }] } });
        for (what, seen, seconds, first, then) in [
            ("done", seen(done, fine.clone()), 1, "done", "done"),
            (
                "old status",
                seen(old, fine.clone()),
                999,
                "1/1 the controller has not seen the change yet",
                "1/1 the controller has not seen the change yet",
            ),
            (
                "old pods",
                seen(two, fine.clone()),
                999,
                "1/1 1 old pod is still to go",
                "1/1 1 old pod is still to go",
            ),
            (
                "deadline",
                seen(late, fine.clone()),
                0,
                "failed: Deployment a: timed out progressing",
                "failed: Deployment a: timed out progressing",
            ),
            (
                "quota",
                seen(quota, fine),
                10,
                "0/1 exceeded quota",
                "failed: Deployment a: pods cannot be created: exceeded quota",
            ),
            (
                "unschedulable",
                seen(going.clone(), unschedulable),
                120,
                "0/1 pod a-1-x cannot be scheduled: 0/1 nodes",
                "failed: pod a-1-x cannot be scheduled: 0/1 nodes",
            ),
            (
                "pull",
                seen(going.clone(), waiting("ImagePullBackOff", "back-off")),
                30,
                "0/1 pod a-1-x, container main: ImagePullBackOff: back-off",
                "failed: pod a-1-x, container main: ImagePullBackOff: back-off",
            ),
            (
                "first pull",
                seen(going.clone(), waiting("ErrImagePull", "blip")),
                999,
                "0/1 pod a-1-x, container main: ErrImagePull: blip",
                "0/1 pod a-1-x, container main: ErrImagePull: blip",
            ),
            (
                "name",
                seen(going.clone(), waiting("InvalidImageName", "bad")),
                0,
                "failed: pod a-1-x, container main: InvalidImageName: bad",
                "failed: pod a-1-x, container main: InvalidImageName: bad",
            ),
            (
                "config",
                seen(going.clone(), waiting("CreateContainerConfigError", "no key")),
                15,
                "0/1 pod a-1-x, container main: CreateContainerConfigError: no key",
                "failed: pod a-1-x, container main: CreateContainerConfigError: no key",
            ),
            (
                "crash",
                seen(going.clone(), container(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), 3)),
                0,
                "failed: pod a-1-x, container main: out of memory 3 times",
                "failed: pod a-1-x, container main: out of memory 3 times",
            ),
            (
                "not ready",
                seen(going, container(json!({ "running": {} }), 0)),
                999,
                "0/1 pod a-1-x, container main: runs, not ready yet",
                "0/1 pod a-1-x, container main: runs, not ready yet",
            ),
        ] {
            assert_eq!(told(&seen, seconds).await, (first.to_owned(), then.to_owned()), "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deployment_that_is_done_before_its_pods_are_known_is_waited_for() {
        let done =
            json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
        let mut seen = seen(done, json!({ "status": {} }));
        let pods = std::mem::take(&mut seen.pods);
        assert_eq!(told(&seen, 1).await.1, "1/1 the pods are not seen yet");
        seen.pods = pods;
        assert_eq!(told(&seen, 1).await.1, "done");
    }

    #[test]
    fn images_by_digest_keep_their_repository() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (written, id, expected) in [
            (
                "r.example:5000/x/a:v2",
                format!("docker-pullable://r.example:5000/x/a@{digest}"),
                format!("r.example:5000/x/a@{digest}"),
            ),
            ("a:v2", format!("docker.io/library/a@{digest}"), format!("a@{digest}")),
            ("a:v2", "sha256:abc".into(), "a:v2".into()),
            ("a:v2", String::new(), "a:v2".into()),
        ] {
            assert_eq!(by_digest(written, &id), expected, "{written} {id}");
        }
    }
}
