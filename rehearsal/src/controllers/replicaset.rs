//! ReplicaSets: as many pods as asked for, and the count of how they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::events::{Weight, emit};
use super::touched::Touched;
use super::{Memory, condition, how};
use crate::api::{delete, write};
use crate::object::{self, int, list, text};
use crate::pods::is_ready;
use crate::store::{Key, State};
use crate::{clock, kinds, selector};

/// More pods of one workload than this do not fit into memory's idea of a cluster; the rest are never created.
pub(super) const POD_LIMIT: i64 = 300;

/// When to try again after a refused pod, and what was said, by uid of the ReplicaSet.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<String, Failure>);

#[derive(Debug, Clone)]
struct Failure {
    again: Instant,
    wait: Duration,
    message: String,
}

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for set in memory.each(state, touched, kinds::REPLICA_SETS) {
        memory.about(&set, kinds::REPLICA_SETS);
        let pods = adopt(state, &set);
        if !object::is_dying(&set) {
            scale(state, memory, &set, &pods);
        }
        report(state, memory, &set);
    }
}

/// The pods that the set controls; orphans that its selector holds for become its own.
fn adopt(state: &mut State, set: &Arc<Value>) -> Vec<Arc<Value>> {
    let uid = object::uid(set).to_owned();
    for pod in state.free(kinds::PODS, object::namespace(set)) {
        let labels = object::map(&pod, "/metadata/labels");
        let orphan = !object::is_dying(&pod) && !object::is_dying(set);
        if orphan && selector::label_selector_holds(&set["spec"]["selector"], labels) {
            let mut adopted = (*pod).clone();
            let mut owners = list(&pod, "/metadata/ownerReferences").to_vec();
            owners.push(owner_reference(set));
            object::set(&mut adopted, &["metadata", "ownerReferences"], owners);
            state.put(Key::of(kinds::PODS, &pod), adopted);
        }
    }
    owned(state, kinds::PODS, &uid)
}

/// The objects of a resource that a controller owns.
pub(super) fn owned(state: &State, resource: &'static str, uid: &str) -> Vec<Arc<Value>> {
    let objects = state.dependents(uid).filter(|(key, _)| key.resource == resource);
    objects
        .filter(|(_, object)| object::controller_uid(object) == Some(uid))
        .map(|(_, object)| object.clone())
        .collect()
}

pub(super) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": object::name(owner),
        "uid": object::uid(owner), "controller": true, "blockOwnerDeletion": true,
    })
}

pub(super) fn is_active(pod: &Value) -> bool {
    !object::is_dying(pod) && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn scale(state: &mut State, memory: &mut Memory, set: &Arc<Value>, pods: &[Arc<Value>]) {
    let mut active: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = int(set, "/spec/replicas").unwrap_or(1).clamp(0, POD_LIMIT) as usize;
    if active.len() > wanted {
        // Pods that serve least go first, and of equals the newest.
        active.sort_by_key(|pod| {
            let placed = !text(pod, "/spec/nodeName").is_empty();
            let running = text(pod, "/status/phase") == "Running";
            (placed, running, is_ready(pod), std::cmp::Reverse(created(pod)))
        });
        for pod in active.iter().take(active.len() - wanted) {
            let Some(kind) = kinds::by_resource(kinds::PODS) else { return };
            emit(
                state,
                set,
                Weight::Normal,
                "SuccessfulDelete",
                &format!("Deleted pod: {}", object::name(pod)),
            );
            delete::in_background(state, kind, pod);
        }
        return;
    }
    let uid = object::uid(set).to_owned();
    if active.len() == wanted {
        memory.workloads.0.remove(&uid);
        return;
    }
    if let Some(again) =
        memory.workloads.0.get(&uid).map(|failure| failure.again).filter(|again| *again > memory.now)
    {
        memory.wake_at(again);
        return;
    }
    for _ in active.len()..wanted {
        match create_pod(state, set, &set["spec"]["template"]) {
            Ok(name) => {
                memory.workloads.0.remove(&uid);
                emit(state, set, Weight::Normal, "SuccessfulCreate", &format!("Created pod: {name}"));
            }
            Err(message) => {
                let before = memory.workloads.0.get(&uid).map(|failure| failure.wait * 2);
                let wait = before.unwrap_or(memory.delays.backoff).min(memory.delays.backoff_limit);
                emit(state, set, Weight::Warning, "FailedCreate", &format!("Error creating: {message}"));
                memory.workloads.0.insert(uid, Failure { again: memory.now + wait, wait, message });
                memory.wake_in(wait);
                return;
            }
        }
    }
}

fn created(pod: &Value) -> u64 {
    // The uid breaks ties by nothing meaningful; the creation's revision is not kept, so the timestamp must do.
    clock::parse(text(pod, "/metadata/creationTimestamp")).map_or(0, |moment| moment.timestamp() as u64)
}

/// Creates a pod from a template, owned by the workload.
pub(super) fn create_pod(state: &mut State, owner: &Value, template: &Value) -> Result<String, String> {
    let Some(kind) = kinds::by_resource(kinds::PODS) else { return Err("pods are not served".to_owned()) };
    let mut pod = json!({ "metadata": template["metadata"], "spec": template["spec"] });
    object::set(&mut pod, &["metadata", "generateName"], format!("{}-", object::name(owner)));
    object::set(&mut pod, &["metadata", "ownerReferences"], json!([owner_reference(owner)]));
    object::strip_nulls(&mut pod);
    let how = how(state);
    let made = write::create(state, kind, object::namespace(owner), pod, &how);
    made.map(|pod| object::name(&pod).to_owned()).map_err(|failure| failure.message)
}

fn report(state: &mut State, memory: &mut Memory, before: &Arc<Value>) {
    let key = Key::of(kinds::REPLICA_SETS, before);
    let Some(set) = state.get(&key).cloned() else { return };
    let pods = owned(state, kinds::PODS, object::uid(&set));
    let active: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wait = int(&set, "/spec/minReadySeconds").unwrap_or_default();
    let now = state.clock.now();
    let available = active.iter().filter(|pod| is_ready(pod)).filter(|pod| {
        let missing =
            ready_since(pod).map_or(0, |since| (clock::later(since, wait) - now).num_milliseconds());
        if wait > 0 && missing > 0 {
            memory.wake_in(Duration::from_millis(missing as u64 + 1));
        }
        wait == 0 || missing <= 0
    });
    let available = available.count();
    let mut status = json!({
        "replicas": active.len(), "observedGeneration": set["metadata"]["generation"],
    });
    for (field, count) in [
        ("fullyLabeledReplicas", active.len()),
        ("readyReplicas", active.iter().filter(|pod| is_ready(pod)).count()),
        ("availableReplicas", available),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some(failure) = memory.workloads.0.get(object::uid(&set)) {
        let old = list(&set, "/status/conditions");
        let now = state.clock.stamp();
        status["conditions"] =
            json!([condition(old, "ReplicaFailure", true, "FailedCreate", &failure.message, &now)]);
    }
    if set.get("status") != Some(&status) {
        let mut reported = (*set).clone();
        reported["status"] = status;
        state.put(key, reported);
    }
}

fn ready_since(pod: &Value) -> Option<chrono::DateTime<chrono::Utc>> {
    let ready = list(pod, "/status/conditions").iter().find(|one| one["type"] == "Ready")?;
    clock::parse(text(ready, "/lastTransitionTime"))
}
