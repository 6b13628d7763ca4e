//! What a pod says of itself: its conditions, its containers, init containers included, and the events about it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Failure, Signals, conditions};
use crate::manifest::{name, uid};
use crate::rollout::Patience;

/// How long a registry that says that an image is not there is believed to be wrong.
const MISSING_IMAGE: Duration = Duration::from_secs(5);

/// What is said of a volume that is not there.
const UNMOUNTED: &[&str] = &["FailedMount", "FailedAttachVolume"];
/// What is said of a pod only once its volumes are mounted.
const MOUNTED: &[&str] = &[
    "FailedCreatePodSandBox",
    "Pulling",
    "Pulled",
    "Failed",
    "BackOff",
    "InspectFailed",
    "Created",
    "Started",
];

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
    let verdict = (Pod { pod, events: &[], patience }).judge(signals, now);
    signals.end_look();
    match verdict {
        PodVerdict::Fine => PodSigns::Fine,
        PodVerdict::Waits(note) => PodSigns::Waits(note),
        PodVerdict::Fails(failure) => PodSigns::Fails(*failure),
    }
}

pub(super) enum PodVerdict {
    Fine,
    Waits(String),
    Fails(Box<Failure>),
}

impl PodVerdict {
    fn fails(failure: Failure) -> PodVerdict {
        PodVerdict::Fails(Box::new(failure))
    }
}

/// A pod of the new template, and what was said of it.
pub(super) struct Pod<'p> {
    pub(super) pod: &'p Value,
    pub(super) events: &'p [Value],
    pub(super) patience: Patience,
}

impl Pod<'_> {
    pub(super) fn judge(&self, signals: &mut Signals, now: Instant) -> PodVerdict {
        let pod = name(self.pod);
        // The kubelet or a node took it away: its ReplicaSet makes another.
        let taken = self.pod.pointer("/status/reason").and_then(Value::as_str).unwrap_or_default();
        if taken == "NodeLost" || (self.phase() == "Failed" && !taken.is_empty()) {
            return PodVerdict::Waits(format!("pod {pod} was taken away ({taken}): another one is made"));
        }
        let mut waits = None;
        let place = self.unscheduled().map(|(words, hint)| ("schedule", words, hint)).or_else(|| {
            self.unmounted().map(|words| ("volume", words, "mend the volume, or what it is made of"))
        });
        if let Some((signal, words, hint)) = place {
            if signals.lasts(format!("{} {signal}", self.uid()), self.patience.schedule, now) {
                return PodVerdict::fails(Failure::new(words).hint(hint));
            }
            waits = Some(words);
        }
        for status in self.statuses() {
            match self.judge_container(status, signals, now) {
                PodVerdict::Fine => {}
                PodVerdict::Waits(words) => waits = Some(waits.unwrap_or(words)),
                failed @ PodVerdict::Fails(_) => return failed,
            }
        }
        waits.map_or(PodVerdict::Fine, PodVerdict::Waits)
    }

    fn uid(&self) -> &str {
        uid(self.pod).unwrap_or_default()
    }

    fn phase(&self) -> &str {
        self.pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default()
    }

    /// Containers in the order in which they start.
    fn statuses(&self) -> impl Iterator<Item = &Value> {
        let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
        let lists = lists.into_iter().filter_map(|list| self.pod.pointer(list).and_then(Value::as_array));
        lists.flatten()
    }

    /// Why no node has it, and what to do.
    fn unscheduled(&self) -> Option<(String, &'static str)> {
        let scheduled = conditions(self.pod).find(|condition| condition["type"] == "PodScheduled")?;
        let message = scheduled["message"].as_str().unwrap_or_default();
        let (how, hint) = if scheduled["reason"] == "SchedulingGated" {
            ("is held back by a scheduling gate", "see who set the gate: it is theirs to remove")
        } else {
            ("cannot be scheduled", "free or add a node that fits")
        };
        let words = format!("pod {} {how}: {message}", name(self.pod));
        (scheduled["status"] == "False").then_some((words, hint))
    }

    /// Volumes stand in events alone, and events stay when what they tell is over.
    fn unmounted(&self) -> Option<String> {
        let begun = |status: &Value| {
            status["restartCount"].as_i64() > Some(0)
                || ["/state/running", "/state/terminated"].iter().any(|state| status.pointer(state).is_some())
        };
        if self.statuses().any(begun) {
            return None;
        }
        let failed = self.last_event(UNMOUNTED)?;
        if self.last_event(MOUNTED).is_some_and(|later| said_at(later) >= said_at(failed)) {
            return None;
        }
        let message = failed["message"].as_str().unwrap_or_default();
        Some(format!("pod {}: a volume cannot be mounted: {message}", name(self.pod)))
    }

    /// The newest event with one of these reasons.
    fn last_event(&self, reasons: &[&str]) -> Option<&Value> {
        self.events
            .iter()
            .filter(|event| event["reason"].as_str().is_some_and(|reason| reasons.contains(&reason)))
            .max_by_key(|event| said_at(event))
    }

    /// What a probe complained of lately, in brackets; of one that was started anew only what may have ended it: that nobody
    /// answers its readiness probe meanwhile is no reason.
    fn probe_words(&self, restarted: bool) -> String {
        let complaints = self.events.iter().filter(|event| event["reason"] == "Unhealthy");
        let ends = |event: &&Value| {
            !restarted || !event["message"].as_str().unwrap_or_default().starts_with("Readiness ")
        };
        let last = complaints.filter(ends).max_by_key(|event| said_at(event));
        let message = last.and_then(|event| event["message"].as_str());
        message.map(|message| format!(" ({})", message.trim())).unwrap_or_default()
    }

    fn judge_container(&self, status: &Value, signals: &mut Signals, now: Instant) -> PodVerdict {
        let (pod, patience) = (name(self.pod), self.patience);
        let container = status["name"].as_str().unwrap_or_default();
        let image = status["image"].as_str().unwrap_or_default();
        let key = format!("{} {container}", self.uid());
        let restarts = signals.restarts(&key, status["restartCount"].as_i64().unwrap_or(0));
        let ready = status["ready"] == true;
        let here = format!("pod {pod}, container {container}");
        let runs = status.pointer("/state/running").is_some();
        let over = status.pointer("/state/terminated");
        let last = status.pointer("/lastState/terminated");
        let ended = over.filter(|over| over["exitCode"] != 0);
        signals.ended |= ended.is_some();
        let terminated = ended.or(last);
        let exit = terminated.map(exit_words).unwrap_or_default();
        // The run that died is the one before this one, except in the moment in which it is still shown itself.
        let previous = over.is_none() && last.is_some();
        let failed = |words: String| Failure::new(words).log(pod, container, previous);
        // How often it has ended; one that is ready now has got over it.
        let ends = restarts + i64::from(!runs);
        let why = terminated.and_then(|terminated| terminated["reason"].as_str()).unwrap_or_default();
        if why == "OOMKilled" && ends >= 2 && !ready {
            let failure = failed(format!("{here}: out of memory {ends} times"));
            return PodVerdict::fails(failure.hint("raise its memory limit"));
        }
        let crash = format!("{key} CrashLoopBackOff");
        if restarts > 0 {
            // Between two tries it runs.
            signals.lingers(&crash);
        }
        // What could not be started at all: no run that ended, and there is no log of it.
        if matches!(why, "StartError" | "ContainerCannotRun") && !runs && !ready {
            let message =
                terminated.and_then(|terminated| terminated["message"].as_str()).unwrap_or_default();
            let words = with_message(&here, why, message);
            let lasts = signals.lasts(format!("{key} start"), patience.container, now);
            if lasts || ends >= 2 {
                return PodVerdict::fails(
                    Failure::new(words).hint("see its command, its arguments and its mounts"),
                );
            }
            return PodVerdict::Waits(words);
        }
        let Some(waiting) = status.pointer("/state/waiting") else {
            if ready {
                return PodVerdict::Fine;
            }
            if restarts > 0 {
                let words = format!("{here}: restarted {}{exit}{}", times(restarts), self.probe_words(true));
                if restarts >= patience.restarts {
                    return PodVerdict::fails(failed(words));
                }
                return PodVerdict::Waits(words);
            }
            return if runs {
                PodVerdict::Waits(format!("{here}: runs, not ready yet{}", self.probe_words(false)))
            } else if ended.is_some() {
                PodVerdict::Waits(format!("{here}: ended{exit}"))
            } else {
                PodVerdict::Fine
            };
        };
        let reason = waiting["reason"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().unwrap_or_default();
        let words = with_message(&here, reason, message);
        let after = |signals: &mut Signals, limit: Duration, failure: Failure| {
            if signals.lasts(format!("{key} {reason}"), limit, now) {
                PodVerdict::fails(failure)
            } else {
                PodVerdict::Waits(words.clone())
            }
        };
        let failure = Failure::new(words.clone());
        match reason {
            "InvalidImageName" | "ErrImageNeverPull" => {
                PodVerdict::fails(failure.hint(format!("correct the image {image}, or how it is pulled")))
            }
            "ErrImagePull" => {
                // The next try of a pull that waited.
                signals.lingers(&format!("{key} ImagePullBackOff"));
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
                let failure = failed(words.clone());
                if ends >= 2 {
                    PodVerdict::fails(failure)
                } else {
                    after(signals, patience.container, failure)
                }
            }
            "CrashLoopBackOff" => {
                let failure =
                    failed(format!("{here}: crashes again and again{exit}{}", self.probe_words(true)));
                if restarts >= patience.restarts {
                    PodVerdict::fails(failure)
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

fn with_message(here: &str, reason: &str, message: &str) -> String {
    match message {
        "" => format!("{here}: {reason}"),
        _ => format!("{here}: {reason}: {message}"),
    }
}

/// When an event was last said, to the second: not all of them know it better.
fn said_at(event: &Value) -> &str {
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime"];
    let times = times.into_iter().filter_map(|time| event.pointer(time).and_then(Value::as_str));
    times.map(|time| time.get(..19).unwrap_or(time)).max().unwrap_or_default()
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

/// How often, as one says it.
pub(crate) fn times(count: i64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}
