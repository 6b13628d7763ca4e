//! Pods: placed on the node, run container by container, and taken away after their grace.
//!
//! The status of a pod is built anew in every pass from the lives of its containers and written only when it differs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::events::{Weight, emit, was_said};
use super::life::{Container, annotated_seconds};
use super::touched::Touched;
use super::{Memory, NODE, NODE_ADDRESS, condition};
use crate::admission::AGENT_IMAGE;
use crate::object::{self, int, list, text};
use crate::store::{Key, State};
use crate::{kinds, pods};

/// The lives of all pods, by uid, and what the node has pulled.
#[derive(Debug, Default)]
pub(super) struct Lives {
    pods: HashMap<String, Life>,
    images: HashSet<String>,
}

#[derive(Debug)]
struct Life {
    containers: Vec<Container>,
    gone_at: Option<Instant>,
    volumes_missed: bool,
}

impl Lives {
    pub(super) fn has_pulled(&self, reference: &str) -> bool {
        reference == AGENT_IMAGE || self.images.contains(reference)
    }

    pub(super) fn pulled(&mut self, reference: &str) {
        self.images.insert(reference.to_owned());
    }
}

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for pod in touched.gone(kinds::PODS) {
        let uid = object::uid(pod);
        memory.pods.pods.remove(uid);
        state.logs.retain(|(owner, _), _| owner != uid);
    }
    for pod in &memory.each(state, touched, kinds::PODS) {
        memory.about(pod, kinds::PODS);
        if text(pod, "/spec/nodeName").is_empty() {
            // Another scheduler's pods are its own: nobody plays one here.
            if matches!(text(pod, "/spec/schedulerName"), "" | "default-scheduler") {
                schedule(state, memory, pod);
            }
        } else if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") && !object::is_dying(pod) {
            // Over, and kept until someone deletes it.
        } else {
            live(state, memory, pod);
        }
    }
}

fn schedule(state: &mut State, memory: &mut Memory, pod: &Arc<Value>) {
    let mut placed = (**pod).clone();
    let now = state.clock.stamp();
    let node = state.find(kinds::NODES, "", NODE).cloned();
    let wanted = object::map(pod, "/spec/nodeSelector").filter(|wanted| !wanted.is_empty());
    let labels = node.as_ref().and_then(|node| object::map(node, "/metadata/labels"));
    let fits = wanted.is_none() || object::selects(wanted, labels);
    let old = list(pod, "/status/conditions");
    let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let scheduled = if fits {
        condition(old, "PodScheduled", true, "", "", &now)
    } else {
        condition(old, "PodScheduled", false, "Unschedulable", message, &now)
    };
    if !fits && old.contains(&scheduled) {
        return;
    }
    object::set(&mut placed, &["status", "conditions"], json!([scheduled]));
    if fits {
        object::set(&mut placed, &["spec", "nodeName"], NODE);
        let said =
            format!("Successfully assigned {}/{} to {NODE}", object::namespace(pod), object::name(pod));
        emit(state, pod, Weight::Normal, "Scheduled", &said);
        memory.wake_at(memory.now);
    } else {
        emit(state, pod, Weight::Warning, "FailedScheduling", message);
    }
    state.put(Key::of(kinds::PODS, pod), placed);
}

fn live(state: &mut State, memory: &mut Memory, pod: &Arc<Value>) {
    let uid = object::uid(pod).to_owned();
    let mut life = memory.pods.pods.remove(&uid).unwrap_or_else(|| Life {
        containers: specs(pod).map(|(spec, init)| Container::new(pod, spec, init, memory)).collect(),
        gone_at: None,
        volumes_missed: false,
    });
    if object::is_dying(pod) {
        die(state, memory, pod, &mut life);
    } else {
        run(state, memory, pod, &mut life);
    }
    memory.pods.pods.insert(uid, life);
}

/// The containers of a pod with whether they are init containers, in the order in which they run.
fn specs(pod: &Value) -> impl Iterator<Item = (&Value, bool)> {
    let inits = list(pod, "/spec/initContainers").iter().map(|spec| (spec, true));
    inits.chain(list(pod, "/spec/containers").iter().map(|spec| (spec, false)))
}

fn die(state: &mut State, memory: &mut Memory, pod: &Arc<Value>, life: &mut Life) {
    let gone_at = *life.gone_at.get_or_insert_with(|| {
        let grace = int(pod, "/metadata/deletionGracePeriodSeconds").unwrap_or(30).max(0) as u64;
        let running = life.containers.iter().any(|container| container.is_running());
        let own = list(pod, "/spec/containers")
            .iter()
            .find_map(|spec| annotated_seconds(pod, "stop-seconds", text(spec, "/name")));
        let hook = pods::pre_stop(pod).mul_f64(memory.delays.probes);
        let stop = if running {
            own.unwrap_or_else(|| state.random.within(memory.delays.stop)) + hook
        } else {
            Duration::ZERO
        };
        memory.now + stop.min(Duration::from_secs(grace))
    });
    if memory.now < gone_at {
        if text(pod, "/status/phase") == "Running" {
            for container in life.containers.iter().filter(|container| container.is_running()) {
                let said = format!("Stopping container {}", container.name);
                if !was_said(state, pod, "Killing", &said) {
                    emit(state, pod, Weight::Normal, "Killing", &said);
                }
            }
        }
        memory.wake_at(gone_at);
        return;
    }
    let key = Key::of(kinds::PODS, pod);
    if list(pod, "/metadata/finalizers").is_empty() {
        state.remove(&key);
    } else if int(pod, "/metadata/deletionGracePeriodSeconds") != Some(0) {
        let mut stopped = (**pod).clone();
        object::set(&mut stopped, &["metadata", "deletionGracePeriodSeconds"], 0);
        state.put(key, stopped);
    }
}

fn run(state: &mut State, memory: &mut Memory, pod: &Arc<Value>, life: &mut Life) {
    if let Some(why) = missing_volume(state, pod).filter(|_| !life.containers.iter().any(Container::has_run))
    {
        if !life.volumes_missed {
            life.volumes_missed = true;
            emit(state, pod, Weight::Warning, "FailedMount", &why);
        }
        report(state, pod, life);
        return;
    }
    let specs: Vec<(&Value, bool)> = specs(pod).collect();
    let mut initialized = true;
    for (container, (spec, init)) in life.containers.iter_mut().zip(&specs) {
        if *init {
            if initialized {
                container.advance(state, memory, pod, spec);
                initialized = container.exit_code() == Some(0);
            }
        } else if initialized {
            container.advance(state, memory, pod, spec);
        }
    }
    report(state, pod, life);
}

/// A volume whose ConfigMap or Secret is not there.
fn missing_volume(state: &State, pod: &Value) -> Option<String> {
    let namespace = object::namespace(pod);
    list(pod, "/spec/volumes").iter().find_map(|volume| {
        let name = text(volume, "/name");
        let absent = |source: &str, resource: &'static str, word: &str, field: &str| {
            let source = volume.get(source).filter(|source| source["optional"] != true)?;
            let wanted = text(source, field);
            let missing = state.find(resource, namespace, wanted).is_none();
            missing.then(|| {
                format!("MountVolume.SetUp failed for volume {name:?} : {word} {wanted:?} not found")
            })
        };
        absent("configMap", kinds::CONFIG_MAPS, "configmap", "/name")
            .or_else(|| absent("secret", kinds::SECRETS, "secret", "/secretName"))
    })
}

/// Writes the pod's status, where it differs.
fn report(state: &mut State, pod: &Arc<Value>, life: &Life) {
    let now = state.clock.stamp();
    let old = list(pod, "/status/conditions");
    let inits: Vec<&Container> = life.containers.iter().filter(|container| container.init).collect();
    let mains: Vec<&Container> = life.containers.iter().filter(|container| !container.init).collect();
    let initialized = inits.iter().all(|container| container.exit_code() == Some(0));
    let init_failed = inits.iter().any(|container| container.exit_code().is_some_and(|code| code != 0));
    let phase = phase(&mains, init_failed);
    let unready: Vec<&str> =
        mains.iter().filter(|container| !container.ready).map(|one| one.name.as_str()).collect();
    let ready = unready.is_empty();
    let (reason, message) = match phase {
        _ if ready => ("", String::new()),
        "Succeeded" => ("PodCompleted", String::new()),
        _ => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    };
    let gates = list(pod, "/spec/readinessGates");
    let passed =
        |gate: &&Value| old.iter().any(|one| one["type"] == gate["conditionType"] && one["status"] == "True");
    let gated = ready && gates.iter().filter(passed).count() == gates.len();
    let mut conditions = vec![
        if initialized {
            condition(old, "Initialized", true, "", "", &now)
        } else {
            let waiting: Vec<&str> =
                inits.iter().filter(|one| one.exit_code() != Some(0)).map(|one| one.name.as_str()).collect();
            let said = format!("containers with incomplete status: [{}]", waiting.join(" "));
            condition(old, "Initialized", false, "ContainersNotInitialized", &said, &now)
        },
        condition(
            old,
            "Ready",
            gated,
            if ready && !gated { "ReadinessGatesNotReady" } else { reason },
            &message,
            &now,
        ),
        condition(old, "ContainersReady", ready, reason, &message, &now),
        condition(old, "PodScheduled", true, "", "", &now),
    ];
    let ours = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    conditions.extend(old.iter().filter(|one| !ours.contains(&text(one, "/type"))).cloned());
    let mut status = pod["status"].clone();
    if text(pod, "/status/podIP").is_empty() {
        let address = state.pod_address();
        object::set(&mut status, &["podIP"], address.clone());
        object::set(&mut status, &["podIPs"], json!([{ "ip": address }]));
        object::set(&mut status, &["startTime"], now.clone());
        object::set(&mut status, &["hostIP"], NODE_ADDRESS);
        object::set(&mut status, &["qosClass"], "BestEffort");
    }
    object::set(&mut status, &["phase"], phase);
    object::set(&mut status, &["conditions"], conditions);
    let statuses = |init: bool| -> Vec<Value> {
        let pairs = life.containers.iter().zip(specs(pod)).filter(|(container, _)| container.init == init);
        pairs.map(|(container, (spec, _))| container.status(pod, spec, initialized)).collect()
    };
    object::set(&mut status, &["containerStatuses"], statuses(false));
    if !inits.is_empty() {
        object::set(&mut status, &["initContainerStatuses"], statuses(true));
    }
    if status != pod["status"] {
        let mut reported = (**pod).clone();
        reported["status"] = status;
        state.put(Key::of(kinds::PODS, pod), reported);
    }
}

fn phase(mains: &[&Container], init_failed: bool) -> &'static str {
    let codes: Vec<i64> = mains.iter().filter_map(|container| container.exit_code()).collect();
    if init_failed {
        "Failed"
    } else if codes.len() == mains.len() {
        if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" }
    } else if mains.iter().any(|container| container.has_run()) {
        "Running"
    } else {
        "Pending"
    }
}
