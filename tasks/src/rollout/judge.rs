//! Is it rolled out, or why will it not be: a function of plain objects.
//!
//! The tests are those of `kubectl rollout status`; what the pods, their containers and their events say comes on top.
//! Signals and thresholds: the table in docs/operations.md; a pod's own are in `judge/pod.rs`. Nothing here talks to a cluster.

mod pod;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use self::pod::{Pod, PodVerdict};
pub(crate) use self::pod::{PodSigns, pod_signs, times};
use super::Patience;
use crate::manifest::{name, uid};

/// The init container that the MSE agent's webhook adds (ack-onepilot).
const AGENT_CONTAINER: &str = "one-pilot-initcontainer";

/// The reason of the condition that says that a Deployment stands still.
const MISSED: &str = "ProgressDeadlineExceeded";
/// When a Deployment that says nothing of it misses its deadline.
const DEADLINE: u64 = 600;

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
    /// How long what may pass is waited for.
    pub patience: Patience,
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
    /// Events by the uid of their pod, of pods that have waited for long.
    pub events: BTreeMap<String, Vec<Value>>,
}

/// What is remembered of a rollout from one look to the next.
#[derive(Debug, Default)]
pub struct Signals {
    /// When each signal that may pass was first seen, and in which look it was last seen.
    seen: HashMap<String, (Instant, u64)>,
    look: u64,
    /// What a registry said of an image before the kubelet only says that it waits, by pod and container.
    registry: HashMap<String, String>,
    /// How often each container had restarted when it was first seen, by pod and container.
    restarts: HashMap<String, i64>,
    /// Whether a container has ended that should not have.
    ended: bool,
    /// When a deadline was missed that was still another generation's.
    missed: Option<String>,
}

impl Signals {
    /// Whether a signal has lasted for `limit`.
    fn lasts(&mut self, signal: String, limit: Duration, now: Instant) -> bool {
        let look = self.look;
        let (first, last) = self.seen.entry(signal).or_insert((now, look));
        *last = look;
        now.duration_since(*first) >= limit
    }

    /// A signal that comes and goes while something is tried again has not passed.
    fn lingers(&mut self, signal: &str) {
        if let Some((_, last)) = self.seen.get_mut(signal) {
            *last = self.look;
        }
    }

    /// What was not seen in this look has passed: if it comes again, its time begins anew.
    fn end_look(&mut self) {
        let look = self.look;
        self.seen.retain(|_, (_, last)| *last == look);
        self.look += 1;
    }

    /// How often a container restarted since it was first seen: pods that stay bring restarts of long ago.
    fn restarts(&mut self, container: &str, count: i64) -> i64 {
        let restarts = count - *self.restarts.entry(container.to_owned()).or_insert(count);
        self.ended |= restarts > 0;
        restarts
    }

    /// Whether a container has ended since it was first seen.
    pub(super) fn ended(&self) -> bool {
        self.ended
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
    let patience = expect.patience;
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let (replicas, updated, available) =
        (number("/status/replicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"));
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let waiting = |note: String| Verdict::Waiting(count(available.min(updated)), count(wanted), note);
    let missed = conditions(deployment)
        .find(|condition| condition["type"] == "Progressing" && condition["reason"] == MISSED)
        .and_then(|condition| condition["lastUpdateTime"].as_str());
    if number("/status/observedGeneration") < expect.generation {
        signals.missed = missed.map(str::to_owned);
        return waiting("the controller has not seen the change yet".into());
    }
    let name = name(deployment);
    if deployment.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        signals.end_look();
        return waiting(format!("Deployment {name} is paused: `kubectl rollout resume` lets it go on"));
    }
    for condition in conditions(deployment) {
        let reason = condition["reason"].as_str().unwrap_or_default();
        let message = condition["message"].as_str().unwrap_or_default();
        if condition["type"] == "ReplicaFailure" && condition["status"] == "True" {
            // Every try says it of a pod with another name.
            if signals.lasts("replica failure".into(), patience.create, now) {
                let failure = Failure::new(format!("Deployment {name}: pods cannot be created: {message}"));
                return Verdict::Failed(failure.hint("raise the quota, or mend what the webhook refuses"));
            }
            let why = message.split_once("\" is ").map_or(message, |(_, why)| why);
            return waiting(format!("pods cannot be created: {why}"));
        }
        if condition["type"] == "Progressing" && reason == MISSED {
            // An old ReplicaSet that is found again brings no new condition: the old one stays until something moves, and
            // is true again only where nothing has moved for all of that time.
            let old = missed.is_some() && missed == signals.missed.as_deref();
            let deadline = deployment.pointer("/spec/progressDeadlineSeconds").and_then(Value::as_u64);
            let limit = if old { Duration::from_secs(deadline.unwrap_or(DEADLINE)) } else { Duration::ZERO };
            if signals.lasts("deadline".into(), limit, now) {
                return Verdict::Failed(Failure::new(format!("Deployment {name}: {message}")));
            }
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
        let events = seen.events.get(uid(pod).unwrap_or_default()).map(Vec::as_slice).unwrap_or_default();
        match (Pod { pod, events, patience }).judge(signals, now) {
            PodVerdict::Fine => {}
            PodVerdict::Waits(words) => note = words,
            PodVerdict::Fails(failure) => return Verdict::Failed(*failure),
        }
    }
    signals.end_look();
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
pub(crate) fn by_digest(written: &str, id: &str) -> String {
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
mod tests;
