//! Deployments: one ReplicaSet per template, and the way from the old ones to the new one.
//!
//! The counting rules are Kubernetes' own: a rolling update never has more than `replicas + maxSurge` pods, nor fewer
//! than `replicas - maxUnavailable` available ones as long as the old ones are. One step a pass; the loop does the rest.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::events::{Weight, emit};
use super::replicaset::{owned, owner_reference};
use super::touched::Touched;
use super::{Memory, condition, how};
use crate::api::{delete, write};
use crate::delays::ALPHABET;
use crate::object::{self, int, list, text};
use crate::store::{Key, State};
use crate::{clock, kinds};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

/// What a pass did that the Progressing condition tells.
enum Progress {
    Created(String),
    Found,
    None,
}

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for deployment in memory.each(state, touched, kinds::DEPLOYMENTS) {
        memory.about(&deployment, kinds::DEPLOYMENTS);
        let mut progress = Progress::None;
        if !object::is_dying(&deployment) {
            progress = roll(state, &deployment);
        }
        report(state, memory, &deployment, &progress);
    }
}

fn roll(state: &mut State, deployment: &Arc<Value>) -> Progress {
    adopt(state, deployment);
    let sets = sets_of(state, deployment);
    let wanted = replicas(deployment);
    if deployment["spec"]["paused"] == true {
        // A paused Deployment still scales, but does not move to a new template.
        if let Some(set) = sets.iter().filter(|set| replicas(set) > 0).max_by_key(|set| revision(set)) {
            let others: i64 =
                sets.iter().filter(|other| !Arc::ptr_eq(other, set)).map(|other| replicas(other)).sum();
            scale(state, deployment, set, (wanted - others).max(0));
        }
        return Progress::None;
    }
    let new = sets.iter().find(|set| same_template(deployment, set)).cloned();
    let latest = sets.iter().map(|set| revision(set)).max().unwrap_or_default();
    let Some(new) = new else { return create_set(state, deployment, &sets, latest + 1) };
    let mut progress = Progress::None;
    if revision(&new) < latest {
        annotate(state, kinds::REPLICA_SETS, &new, latest + 1);
        progress = Progress::Found;
    }
    let current = if revision(&new) < latest { latest + 1 } else { revision(&new) };
    if object::annotation(deployment, REVISION) != Some(current.to_string().as_str()) {
        annotate(state, kinds::DEPLOYMENTS, deployment, current);
    }
    let sets = sets_of(state, deployment);
    let (new, old): (Vec<_>, Vec<_>) =
        sets.into_iter().partition(|set| object::uid(set) == object::uid(&new));
    let Some(new) = new.first() else { return progress };
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        recreate(state, deployment, new, &old);
    } else {
        rolling_update(state, deployment, new, &old);
    }
    clean_up(state, deployment, &old);
    progress
}

fn rolling_update(state: &mut State, deployment: &Arc<Value>, new: &Arc<Value>, old: &[Arc<Value>]) {
    let wanted = replicas(deployment);
    let (surge, unavailable) = limits(deployment);
    let total: i64 = replicas(new) + old.iter().map(|set| replicas(set)).sum::<i64>();
    if replicas(new) > wanted {
        scale(state, deployment, new, wanted);
        return;
    }
    let room = (wanted + surge - total).min(wanted - replicas(new));
    if room > 0 {
        scale(state, deployment, new, replicas(new) + room);
        return;
    }
    let floor = wanted - unavailable;
    let new_unavailable = replicas(new) - available(new);
    let mut spare = total - floor - new_unavailable;
    // First the old pods that do not serve anyway, then as many of the others as the floor allows.
    for set in old {
        let broken = (replicas(set) - available(set)).max(0).min(spare);
        if broken > 0 {
            scale(state, deployment, set, replicas(set) - broken);
            return;
        }
    }
    let serving = available(new) + old.iter().map(|set| available(set)).sum::<i64>();
    spare = spare.min(serving - floor);
    for set in old {
        let fewer = replicas(set).min(spare);
        if fewer > 0 {
            scale(state, deployment, set, replicas(set) - fewer);
            return;
        }
    }
}

fn recreate(state: &mut State, deployment: &Arc<Value>, new: &Arc<Value>, old: &[Arc<Value>]) {
    for set in old {
        scale(state, deployment, set, 0);
    }
    let left = old.iter().any(|set| !owned(state, kinds::PODS, object::uid(set)).is_empty());
    if !left {
        scale(state, deployment, new, replicas(deployment));
    }
}

/// maxSurge rounded up and maxUnavailable rounded down; never both nothing.
fn limits(deployment: &Value) -> (i64, i64) {
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let wanted = replicas(deployment);
    let surge = resolve(&rolling["maxSurge"], wanted, true);
    let unavailable = resolve(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted)) }
}

fn resolve(value: &Value, of: i64, up: bool) -> i64 {
    let percent =
        value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    match percent {
        Some(percent) if up => (percent.saturating_mul(of) + 99) / 100,
        Some(percent) => percent.saturating_mul(of) / 100,
        None => value.as_i64().unwrap_or_default(),
    }
}

fn replicas(object: &Value) -> i64 {
    int(object, "/spec/replicas").unwrap_or(1).max(0)
}

fn available(set: &Value) -> i64 {
    int(set, "/status/availableReplicas").unwrap_or_default()
}

fn revision(set: &Value) -> i64 {
    object::annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The ReplicaSets of a Deployment, oldest first.
fn sets_of(state: &State, deployment: &Value) -> Vec<Arc<Value>> {
    let mut sets = owned(state, kinds::REPLICA_SETS, object::uid(deployment));
    sets.sort_by_key(|set| (revision(set), text(set, "/metadata/creationTimestamp").to_owned()));
    sets
}

/// ReplicaSets that an orphaning delete left behind become the Deployment's again, where its selector holds.
fn adopt(state: &mut State, deployment: &Value) {
    for set in state.free(kinds::REPLICA_SETS, object::namespace(deployment)) {
        let labels = object::map(&set, "/metadata/labels");
        if !object::is_dying(&set)
            && crate::selector::label_selector_holds(&deployment["spec"]["selector"], labels)
        {
            let mut adopted = (*set).clone();
            let mut owners = list(&set, "/metadata/ownerReferences").to_vec();
            owners.push(owner_reference(deployment));
            object::set(&mut adopted, &["metadata", "ownerReferences"], owners);
            state.put(Key::of(kinds::REPLICA_SETS, &set), adopted);
        }
    }
}

fn same_template(deployment: &Value, set: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    object::remove(&mut template, &["metadata", "labels", HASH]);
    let empty = |template: &mut Value| {
        if template["metadata"].as_object().is_some_and(serde_json::Map::is_empty) {
            object::remove(template, &["metadata"]);
        }
    };
    let mut wanted = deployment["spec"]["template"].clone();
    empty(&mut wanted);
    empty(&mut template);
    wanted == template
}

/// The hash in pod names: from the template's content, whatever the order of its fields.
fn template_hash(template: &Value, collisions: i64) -> String {
    let digest = Sha256::digest(format!("{}{collisions}", canonical(template)).as_bytes());
    digest.iter().take(10).map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()] as char).collect()
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(field, _)| *field);
            let fields: Vec<String> =
                fields.iter().map(|(field, value)| format!("{field:?}:{}", canonical(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

fn create_set(state: &mut State, deployment: &Arc<Value>, old: &[Arc<Value>], revision: i64) -> Progress {
    let Some(kind) = kinds::by_resource(kinds::REPLICA_SETS) else { return Progress::None };
    let wanted = replicas(deployment);
    let (surge, _) = limits(deployment);
    let others: i64 = old.iter().map(|set| replicas(set)).sum();
    let first = match text(deployment, "/spec/strategy/type") {
        "Recreate" if others == 0 => wanted,
        "Recreate" => 0,
        _ => (wanted + surge - others).clamp(0, wanted),
    };
    let mut template = deployment["spec"]["template"].clone();
    let hash = template_hash(&template, old.len() as i64);
    object::set(&mut template, &["metadata", "labels", HASH], hash.clone());
    let mut selector = deployment["spec"]["selector"].clone();
    object::set(&mut selector, &["matchLabels", HASH], hash.clone());
    let mut annotations = crate::defaults::labels_of(deployment, "/metadata/annotations");
    annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.to_owned(), revision.to_string().into());
    annotations.insert("deployment.kubernetes.io/desired-replicas".to_owned(), wanted.to_string().into());
    annotations
        .insert("deployment.kubernetes.io/max-replicas".to_owned(), (wanted + surge).to_string().into());
    let name = format!("{}-{hash}", object::name(deployment));
    let set = json!({
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": first, "selector": selector, "template": template,
            "minReadySeconds": int(deployment, "/spec/minReadySeconds").unwrap_or_default(),
        },
    });
    let how = how(state);
    match write::create(state, kind, object::namespace(deployment), set, &how) {
        Ok(_) => {
            annotate(state, kinds::DEPLOYMENTS, deployment, revision);
            if first > 0 {
                let said = format!("Scaled up replica set {name} from 0 to {first}");
                emit(state, deployment, Weight::Normal, "ScalingReplicaSet", &said);
            }
            Progress::Created(name)
        }
        Err(failure) => {
            tracing::debug!(name, why = failure.message, "a ReplicaSet was refused");
            Progress::None
        }
    }
}

fn annotate(state: &mut State, resource: &'static str, object: &Arc<Value>, revision: i64) {
    let key = Key::of(resource, object);
    let Some(live) = state.get(&key).cloned() else { return };
    let mut noted = (*live).clone();
    object::set(&mut noted, &["metadata", "annotations", REVISION], revision.to_string());
    if noted != *live {
        state.put(key, noted);
    }
}

fn scale(state: &mut State, deployment: &Value, set: &Arc<Value>, to: i64) {
    let key = Key::of(kinds::REPLICA_SETS, set);
    let Some(live) = state.get(&key).cloned() else { return };
    let from = replicas(&live);
    if from == to {
        return;
    }
    let mut scaled = (*live).clone();
    object::set(&mut scaled, &["spec", "replicas"], to);
    let generation = int(&live, "/metadata/generation").unwrap_or_default() + 1;
    object::set(&mut scaled, &["metadata", "generation"], generation);
    state.put(key, scaled);
    let way = if to > from { "up" } else { "down" };
    let said = format!("Scaled {way} replica set {} from {from} to {to}", object::name(set));
    emit(state, deployment, Weight::Normal, "ScalingReplicaSet", &said);
}

/// Empty ReplicaSets beyond the history limit go, once the rollout is over.
fn clean_up(state: &mut State, deployment: &Value, old: &[Arc<Value>]) {
    let limit = int(deployment, "/spec/revisionHistoryLimit").unwrap_or(10).max(0) as usize;
    let empty: Vec<&Arc<Value>> = old
        .iter()
        .filter(|set| replicas(set) == 0 && int(set, "/status/replicas") == Some(0) && !object::is_dying(set))
        .collect();
    let Some(kind) = kinds::by_resource(kinds::REPLICA_SETS) else { return };
    for set in empty.iter().take(empty.len().saturating_sub(limit)) {
        delete::in_background(state, kind, set);
    }
}

fn report(state: &mut State, memory: &mut Memory, before: &Arc<Value>, progress: &Progress) {
    let key = Key::of(kinds::DEPLOYMENTS, before);
    let Some(deployment) = state.get(&key).cloned() else { return };
    let sets = sets_of(state, &deployment);
    let new = sets.iter().find(|set| same_template(&deployment, set));
    let sum = |field: &str| -> i64 { sets.iter().map(|set| int(set, field).unwrap_or_default()).sum() };
    let total = sum("/status/replicas");
    let (ready, serving) = (sum("/status/readyReplicas"), sum("/status/availableReplicas"));
    let updated = new.and_then(|set| int(set, "/status/replicas")).unwrap_or_default();
    let mut status = json!({ "observedGeneration": deployment["metadata"]["generation"] });
    let unavailable = (replicas(&deployment).max(total) - serving).max(0);
    for (field, count) in [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", serving),
        ("unavailableReplicas", unavailable),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    let conditions = conditions(state, memory, &deployment, &sets, &status, progress);
    status["conditions"] = conditions.into();
    if deployment.get("status") != Some(&status) {
        let mut reported = (*deployment).clone();
        reported["status"] = status;
        state.put(key, reported);
    }
}

fn conditions(
    state: &State,
    memory: &mut Memory,
    deployment: &Value,
    sets: &[Arc<Value>],
    status: &Value,
    progress: &Progress,
) -> Vec<Value> {
    let now = state.clock.stamp();
    let new = sets.iter().find(|set| same_template(deployment, set));
    let old = list(deployment, "/status/conditions");
    let count = |field: &str| int(status, field).unwrap_or_default();
    let wanted = replicas(deployment);
    let (_, unavailable) = limits(deployment);
    let is_available = count("/availableReplicas") >= wanted - unavailable;
    let available = if is_available {
        condition(
            old,
            "Available",
            true,
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            &now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(old, "Available", false, "MinimumReplicasUnavailable", message, &now)
    };
    let mut conditions = vec![dated(old, available, &now)];
    conditions.extend(progressing(state, memory, deployment, new, status, progress, &now));
    // The new ReplicaSet's first, else that of any other.
    let failure = |set: &Arc<Value>| {
        list(set, "/status/conditions").iter().find(|one| one["type"] == "ReplicaFailure").cloned()
    };
    let failure = new.and_then(failure).or_else(|| sets.iter().find_map(failure));
    if let Some(failure) = failure {
        conditions.push(dated(old, failure, &now));
    }
    conditions
}

/// A Deployment's conditions also say when they were last updated.
fn dated(old: &[Value], mut condition: Value, now: &str) -> Value {
    let before = old.iter().find(|one| one["type"] == condition["type"]);
    let same = before
        .filter(|before| before["status"] == condition["status"] && before["reason"] == condition["reason"]);
    condition["lastUpdateTime"] = same.map_or_else(|| now.into(), |before| before["lastUpdateTime"].clone());
    condition
}

fn progressing(
    state: &State,
    memory: &mut Memory,
    deployment: &Value,
    new: Option<&Arc<Value>>,
    status: &Value,
    progress: &Progress,
    now: &str,
) -> Option<Value> {
    let old = list(deployment, "/status/conditions");
    let before = old.iter().find(|one| one["type"] == "Progressing");
    let say = |is: bool, reason: &str, message: &str| {
        let mut said = condition(old, "Progressing", is, reason, message, now);
        said["lastUpdateTime"] = now.into();
        Some(said)
    };
    match progress {
        Progress::Created(name) => {
            return say(true, "NewReplicaSetCreated", &format!("Created new replica set {name:?}"));
        }
        // A condition that is there already stays until something moves: that of a deadline too, which was missed before.
        Progress::Found if before.is_some() => {}
        Progress::Found => {
            let name = new.map(|set| object::name(set)).unwrap_or_default();
            return say(true, "FoundNewReplicaSet", &format!("Found new replica set {name:?}"));
        }
        Progress::None => {}
    }
    if deployment["spec"]["paused"] == true {
        if before.is_some_and(|before| before["reason"] == "DeploymentPaused") {
            return before.cloned();
        }
        let mut said = say(false, "DeploymentPaused", "Deployment is paused")?;
        said["status"] = "Unknown".into();
        return Some(said);
    }
    let name = new.map(|set| object::name(set)).unwrap_or_default();
    let count = |field: &str| int(status, field).unwrap_or_default();
    let was = |field: &str| int(deployment, &format!("/status{field}")).unwrap_or_default();
    let wanted = replicas(deployment);
    let complete = new.is_some()
        && count("/updatedReplicas") == wanted
        && count("/replicas") == wanted
        && count("/availableReplicas") == wanted;
    if complete {
        if before.is_some_and(|before| before["reason"] == "NewReplicaSetAvailable") {
            return before.cloned();
        }
        return say(
            true,
            "NewReplicaSetAvailable",
            &format!("ReplicaSet {name:?} has successfully progressed."),
        );
    }
    let old_pods = |replicas: i64, updated: i64| replicas - updated;
    let moved = count("/updatedReplicas") > was("/updatedReplicas")
        || old_pods(count("/replicas"), count("/updatedReplicas"))
            < old_pods(was("/replicas"), was("/updatedReplicas"))
        || count("/readyReplicas") > was("/readyReplicas")
        || count("/availableReplicas") > was("/availableReplicas");
    if moved {
        return say(true, "ReplicaSetUpdated", &format!("ReplicaSet {name:?} is progressing."));
    }
    let Some(before) = before else {
        return say(true, "ReplicaSetUpdated", &format!("ReplicaSet {name:?} is progressing."));
    };
    if before["reason"] == "DeploymentPaused" {
        return say(true, "DeploymentResumed", "Deployment is resumed");
    }
    // Only a rollout under way can miss its deadline; one that was complete waits for the next template.
    if matches!(text(before, "/reason"), "ProgressDeadlineExceeded" | "NewReplicaSetAvailable") {
        return Some(before.clone());
    }
    let deadline = int(deployment, "/spec/progressDeadlineSeconds").unwrap_or(600);
    let since = clock::parse(text(before, "/lastUpdateTime"))?;
    let left = (clock::later(since, deadline) - state.clock.now()).num_milliseconds();
    if left < 0 {
        return say(
            false,
            "ProgressDeadlineExceeded",
            &format!("ReplicaSet {name:?} has timed out progressing."),
        );
    }
    memory.wake_in(Duration::from_millis(left as u64 + 10));
    Some(before.clone())
}
