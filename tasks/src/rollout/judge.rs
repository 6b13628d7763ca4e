//! Is it rolled out, or why will it not be: a function of plain objects.
//!
//! The tests are those of `kubectl rollout status`; what the pods, their containers and their events say comes on top.
//! Signals and thresholds: the table in docs/operations.md. Nothing here talks to a cluster.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::Patience;
use crate::manifest::{name, uid};

/// The init container that the MSE agent's webhook adds (ack-onepilot).
const AGENT_CONTAINER: &str = "one-pilot-initcontainer";

/// How long a registry that says that an image is not there is believed to be wrong.
const MISSING_IMAGE: Duration = Duration::from_secs(5);

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
    let patience = expect.patience;
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
            if signals.lasts(format!("replica failure {message}"), patience.create, now) {
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
        let events = seen.events.get(uid(pod).unwrap_or_default()).map(Vec::as_slice).unwrap_or_default();
        match (Pod { pod, events, patience }).judge(signals, now) {
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

/// What a pod that belongs to no Deployment says of itself.
pub(crate) enum PodSigns {
    /// Nothing stands in its way.
    Fine,
    /// Something does, and may pass.
    Waits(String),
    /// It will not run.
    Fails(Failure),
}

/// What a pod says of itself; signals that may pass are remembered from one look to the next.
pub(crate) fn pod_signs(pod: &Value, patience: Patience, signals: &mut Signals, now: Instant) -> PodSigns {
    match (Pod { pod, events: &[], patience }).judge(signals, now) {
        PodVerdict::Fine => PodSigns::Fine,
        PodVerdict::Waits(note) => PodSigns::Waits(note),
        PodVerdict::Fails(failure) => PodSigns::Fails(*failure),
    }
}

enum PodVerdict {
    Fine,
    Waits(String),
    Fails(Box<Failure>),
}

/// A pod of the new template, and what was said of it.
struct Pod<'p> {
    pod: &'p Value,
    events: &'p [Value],
    patience: Patience,
}

impl Pod<'_> {
    fn judge(&self, signals: &mut Signals, now: Instant) -> PodVerdict {
        let pod = name(self.pod);
        // The kubelet or a node took it away: its ReplicaSet makes another.
        let taken = self.pod.pointer("/status/reason").and_then(Value::as_str).unwrap_or_default();
        if self.pod.pointer("/status/phase").and_then(Value::as_str) == Some("Failed") && !taken.is_empty() {
            return PodVerdict::Waits(format!("pod {pod} was taken away ({taken}): another one is made"));
        }
        let mut waits = None;
        if let Some(words) = self.unscheduled().or_else(|| self.unmounted()) {
            if signals.lasts(format!("{} schedule", self.uid()), self.patience.schedule, now) {
                let failure = Failure::new(words).hint("free or add a node that fits, or mend the volume");
                return PodVerdict::Fails(Box::new(failure));
            }
            waits = Some(words);
        }
        for list in ["/status/initContainerStatuses", "/status/containerStatuses"] {
            for status in self.pod.pointer(list).and_then(Value::as_array).into_iter().flatten() {
                match self.judge_container(status, signals, now) {
                    PodVerdict::Fine => {}
                    PodVerdict::Waits(words) => waits = Some(waits.unwrap_or(words)),
                    failed @ PodVerdict::Fails(_) => return failed,
                }
            }
        }
        waits.map_or(PodVerdict::Fine, PodVerdict::Waits)
    }

    fn uid(&self) -> &str {
        uid(self.pod).unwrap_or_default()
    }

    fn unscheduled(&self) -> Option<String> {
        let scheduled = conditions(self.pod).find(|condition| condition["type"] == "PodScheduled")?;
        let message = scheduled["message"].as_str().unwrap_or_default();
        let how = if scheduled["reason"] == "SchedulingGated" {
            "is held back by a scheduling gate"
        } else {
            "cannot be scheduled"
        };
        (scheduled["status"] == "False").then(|| format!("pod {} {how}: {message}", name(self.pod)))
    }

    /// Volumes stand in events alone.
    fn unmounted(&self) -> Option<String> {
        let running = |status: &Value| status.pointer("/state/running").is_some();
        let statuses = self.pod.pointer("/status/containerStatuses").and_then(Value::as_array);
        if statuses.into_iter().flatten().any(running) {
            return None;
        }
        let message = self.last_event(&["FailedMount", "FailedAttachVolume"])?;
        Some(format!("pod {}: a volume cannot be mounted: {message}", name(self.pod)))
    }

    /// The newest message of an event with one of these reasons.
    fn last_event(&self, reasons: &[&str]) -> Option<&str> {
        let at = |event: &Value| {
            let times = ["lastTimestamp", "eventTime"].iter().filter_map(|key| event[*key].as_str());
            times.max().unwrap_or_default().to_owned()
        };
        self.events
            .iter()
            .filter(|event| event["reason"].as_str().is_some_and(|reason| reasons.contains(&reason)))
            .max_by_key(|event| at(event))
            .and_then(|event| event["message"].as_str())
    }

    /// What a probe complained of, in brackets.
    fn probe_words(&self) -> String {
        self.last_event(&["Unhealthy"]).map(|message| format!(" ({})", message.trim())).unwrap_or_default()
    }

    fn judge_container(&self, status: &Value, signals: &mut Signals, now: Instant) -> PodVerdict {
        let (pod, patience) = (name(self.pod), self.patience);
        let container = status["name"].as_str().unwrap_or_default();
        let image = status["image"].as_str().unwrap_or_default();
        let restarts = status["restartCount"].as_i64().unwrap_or(0);
        let last = status.pointer("/lastState/terminated");
        let here = format!("pod {pod}, container {container}");
        let ended = status.pointer("/state/terminated").filter(|ended| ended["exitCode"] != 0);
        let terminated = ended.or(last);
        let exit = terminated.map(exit_words).unwrap_or_default();
        let runs = status.pointer("/state/running").is_some();
        // How often it has ended; one that is ready now has got over it.
        let ends = restarts + i64::from(!runs);
        if terminated.is_some_and(|t| t["reason"] == "OOMKilled") && ends >= 2 && status["ready"] != true {
            let failure =
                Failure::new(format!("{here}: out of memory {ends} times")).hint("raise its memory limit");
            return PodVerdict::Fails(Box::new(failure.log(pod, container, true)));
        }
        let Some(waiting) = status.pointer("/state/waiting") else {
            if restarts > 0 && status["ready"] != true {
                let words = format!("{here}: restarted {restarts} times{exit}{}", self.probe_words());
                if restarts >= patience.restarts {
                    return PodVerdict::Fails(Box::new(Failure::new(words).log(pod, container, true)));
                }
                return PodVerdict::Waits(words);
            }
            return if status["ready"] == true || !runs {
                PodVerdict::Fine
            } else {
                PodVerdict::Waits(format!("{here}: runs, not ready yet{}", self.probe_words()))
            };
        };
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        let words = match message {
            "" => format!("{here}: {reason}"),
            _ => format!("{here}: {reason}: {message}"),
        };
        let key = format!("{} {container}", self.uid());
        let after = |signals: &mut Signals, limit: Duration, failure: Failure| {
            if signals.lasts(format!("{key} {reason}"), limit, now) {
                PodVerdict::Fails(Box::new(failure))
            } else {
                PodVerdict::Waits(words.clone())
            }
        };
        let failure = Failure::new(words.clone());
        match reason {
            "InvalidImageName" | "ErrImageNeverPull" => {
                let hint = format!("correct the image {image}, or how it is pulled");
                PodVerdict::Fails(Box::new(failure.hint(hint)))
            }
            "ErrImagePull" => {
                signals.registry.insert(key, message.to_owned());
                PodVerdict::Waits(words)
            }
            "ImagePullBackOff"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => {
                let hint = format!("check that image {image} exists and that the cluster may pull it");
                let said = signals.registry.get(&key).cloned().unwrap_or_default();
                // A registry that is away may come back; an image that is not there will not.
                let missing = says_missing(&said) || says_missing(message);
                let limit = if missing { MISSING_IMAGE.min(patience.image) } else { patience.image };
                let mut failure = failure.hint(hint);
                if !said.is_empty() {
                    failure.message = format!("{here}: {reason}: {said}");
                }
                after(signals, limit, failure)
            }
            "CreateContainerConfigError" => {
                let failure = failure.hint("a ConfigMap, a Secret or a key of one is missing");
                after(signals, patience.config, failure)
            }
            "CreateContainerError" | "RunContainerError" | "StartError" | "PostStartHookError" => {
                let failure = failure.log(pod, container, restarts > 0);
                if restarts >= 2 {
                    PodVerdict::Fails(Box::new(failure))
                } else {
                    after(signals, patience.container, failure)
                }
            }
            "CrashLoopBackOff" => {
                let probe = self.probe_words();
                let failure = Failure::new(format!("{here}: crashes again and again{exit}{probe}"))
                    .log(pod, container, true);
                if restarts >= patience.restarts {
                    PodVerdict::Fails(Box::new(failure))
                } else {
                    after(signals, patience.crash, failure)
                }
            }
            "" => PodVerdict::Fine,
            // ContainerCreating, PodInitializing: the beginning of something else.
            _ => PodVerdict::Waits(words),
        }
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
