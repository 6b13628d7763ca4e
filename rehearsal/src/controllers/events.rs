//! Events: what happened to an object, in a sentence; a repetition raises the count of the first.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kinds;
use crate::object;
use crate::store::{Key, State};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Normal,
    Warning,
}

/// Where an event about an object is: the same sentence has one place.
fn place(about: &Value, reason: &str, message: &str) -> Key {
    let namespace = if object::namespace(about).is_empty() { "default" } else { object::namespace(about) };
    let hash = Sha256::digest(format!("{} {reason} {message}", object::uid(about)).as_bytes());
    let print: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Key::new(kinds::EVENTS, namespace, &format!("{}.{print}", object::name(about)))
}

/// Whether an event was noted.
pub(super) fn was_said(state: &State, about: &Value, reason: &str, message: &str) -> bool {
    state.get(&place(about, reason, message)).is_some()
}

/// Notes an event about an object.
pub(super) fn emit(state: &mut State, about: &Value, weight: Weight, reason: &str, message: &str) {
    let component = match object::text(about, "/kind") {
        "Pod" if reason == "Scheduled" || reason == "FailedScheduling" => "default-scheduler",
        "Pod" => "kubelet",
        "Deployment" => "deployment-controller",
        "ReplicaSet" => "replicaset-controller",
        "Job" => "job-controller",
        "HorizontalPodAutoscaler" => "horizontal-pod-autoscaler",
        _ => "controller-manager",
    };
    let key = place(about, reason, message);
    let (namespace, name) = (&key.namespace, &key.name);
    let now = state.clock.stamp();
    if let Some(before) = state.get(&key) {
        let mut event = (**before).clone();
        event["count"] = (object::int(&event, "/count").unwrap_or(1) + 1).into();
        event["lastTimestamp"] = now.into();
        state.put(key, event);
        return;
    }
    let uid = state.random.uid();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": name, "namespace": namespace, "uid": uid, "creationTimestamp": now },
        "involvedObject": {
            "apiVersion": about["apiVersion"], "kind": about["kind"], "name": object::name(about),
            "namespace": object::namespace(about), "uid": object::uid(about),
            "resourceVersion": about["metadata"]["resourceVersion"],
        },
        "type": if weight == Weight::Normal { "Normal" } else { "Warning" },
        "reason": reason, "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": { "component": component }, "reportingComponent": component, "reportingInstance": "",
    });
    state.put(key, event);
}
