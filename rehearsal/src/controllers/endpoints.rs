//! Endpoints and EndpointSlices: which pods a Service reaches, a moment after the pods know it.
//!
//! Both objects of a Service are written together; a change is noticed at once and written when its lag has passed.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::touched::Touched;
use super::{Memory, NODE};
use crate::delays::ALPHABET;
use crate::kinds;
use crate::object::{self, int, list, text};
use crate::pods::is_ready;
use crate::store::{Key, State};

/// When the noticed changes are due, by uid of the Service.
#[derive(Debug, Default)]
pub(super) struct Pending(HashMap<String, Instant>);

pub(super) fn reconcile(state: &mut State, memory: &mut Memory, touched: &Touched) {
    for service in memory.each(state, touched, kinds::SERVICES) {
        memory.about(&service, kinds::SERVICES);
        let has_selector =
            object::map(&service, "/spec/selector").is_some_and(|selector| !selector.is_empty());
        if !has_selector || service["spec"]["type"] == "ExternalName" {
            continue;
        }
        let pods = pods_of(state, &service);
        let slice = slice(&service, &pods);
        let endpoints = endpoints(&service, &pods);
        let same = is_written(state, kinds::ENDPOINT_SLICES, &slice)
            && is_written(state, kinds::ENDPOINTS, &endpoints);
        let uid = object::uid(&service).to_owned();
        if same {
            memory.endpoints.0.remove(&uid);
            continue;
        }
        let lag = state.random.within(memory.delays.endpoints);
        let due = *memory.endpoints.0.entry(uid.clone()).or_insert(memory.now + lag);
        if memory.now < due {
            memory.wake_at(due);
            continue;
        }
        memory.endpoints.0.remove(&uid);
        write(state, kinds::ENDPOINT_SLICES, slice);
        write(state, kinds::ENDPOINTS, endpoints);
    }
    drop_orphans(state, touched);
}

/// Endpoints share their Service's name and go with it; slices go as its dependents.
fn drop_orphans(state: &mut State, touched: &Touched) {
    let of_services =
        touched.of(kinds::SERVICES).map(|key| Key { resource: kinds::ENDPOINTS, ..key.clone() });
    let keys: Vec<Key> = touched.of(kinds::ENDPOINTS).cloned().chain(of_services).collect();
    for key in keys {
        let managed = state.get(&key).is_some_and(|object| {
            object::annotation(object, "endpoints.kubernetes.io/last-change-trigger-time").is_some()
        });
        if managed && state.find(kinds::SERVICES, &key.namespace, &key.name).is_none() {
            state.remove(&key);
        }
    }
}

fn pods_of(state: &State, service: &Value) -> Vec<Arc<Value>> {
    let selector = object::map(service, "/spec/selector");
    let chosen = |pod: &&Arc<Value>| {
        object::selects(selector, object::map(pod, "/metadata/labels"))
            && !text(pod, "/status/podIP").is_empty()
            && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
    };
    state.list(kinds::PODS, object::namespace(service)).map(|(_, pod)| pod).filter(chosen).cloned().collect()
}

/// The port of a pod behind a Service's port; a name is looked up in the pod.
fn target_port(pod: &Value, port: &Value) -> Option<i64> {
    match &port["targetPort"] {
        Value::String(name) => {
            let mut ports =
                list(pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports"));
            ports.find(|candidate| candidate["name"] == *name).and_then(|found| int(found, "/containerPort"))
        }
        Value::Number(number) => number.as_i64(),
        _ => int(port, "/port"),
    }
}

fn published_ports(service: &Value, pods: &[Arc<Value>]) -> Vec<Value> {
    let resolved = list(service, "/spec/ports").iter().filter_map(|port| {
        let number = match pods.first() {
            Some(pod) => target_port(pod, port),
            None => int(port, "/targetPort").or_else(|| int(port, "/port")),
        };
        let name = text(port, "/name");
        Some(json!({ "name": name, "port": number?, "protocol": port["protocol"] }))
    });
    resolved.collect()
}

fn slice(service: &Value, pods: &[Arc<Value>]) -> Value {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let (ready, dying) = (is_ready(pod), object::is_dying(pod));
            json!({
                "addresses": [text(pod, "/status/podIP")],
                "conditions": { "ready": publish || ready && !dying, "serving": ready, "terminating": dying },
                "nodeName": NODE,
                "targetRef": { "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod) },
            })
        })
        .collect();
    let mut labels = crate::defaults::labels_of(service, "/metadata/labels");
    labels.insert("kubernetes.io/service-name".to_owned(), object::name(service).into());
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".to_owned(),
        "endpointslice-controller.k8s.io".into(),
    );
    let mut owner = super::replicaset::owner_reference(service);
    owner["apiVersion"] = "v1".into();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": slice_name(service), "namespace": object::namespace(service), "labels": labels,
            "generateName": format!("{}-", object::name(service)), "ownerReferences": [owner],
        },
        "endpoints": endpoints, "ports": published_ports(service, pods),
    })
}

/// One slice a Service, whose name is the same in every run.
fn slice_name(service: &Value) -> String {
    let digest = Sha256::digest(object::uid(service).as_bytes());
    let suffix: String =
        digest.iter().take(5).map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()] as char).collect();
    format!("{}-{suffix}", object::name(service))
}

fn endpoints(service: &Value, pods: &[Arc<Value>]) -> Value {
    let address = |pod: &Arc<Value>| {
        json!({
            "ip": text(pod, "/status/podIP"), "nodeName": NODE,
            "targetRef": { "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod) },
        })
    };
    let living: Vec<&Arc<Value>> = pods.iter().filter(|pod| !object::is_dying(pod)).collect();
    let (ready, waiting): (Vec<&Arc<Value>>, Vec<&Arc<Value>>) =
        living.into_iter().partition(|pod| is_ready(pod));
    let mut subset = json!({ "ports": published_ports(service, pods) });
    for (field, pods) in [("addresses", ready), ("notReadyAddresses", waiting)] {
        if !pods.is_empty() {
            subset[field] = pods.into_iter().map(address).collect::<Vec<_>>().into();
        }
    }
    let some = subset.get("addresses").is_some() || subset.get("notReadyAddresses").is_some();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": object::name(service), "namespace": object::namespace(service), "labels": crate::defaults::labels_of(service, "/metadata/labels") },
    });
    if some {
        object["subsets"] = json!([subset]);
    }
    object
}

/// Whether what is stored says the same; what the server added does not count.
fn is_written(state: &State, resource: &'static str, wanted: &Value) -> bool {
    let Some(stored) = state.get(&Key::of(resource, wanted)) else { return false };
    let fields = ["endpoints", "ports", "subsets"];
    fields.iter().all(|field| stored.get(*field) == wanted.get(*field))
        && stored["metadata"]["labels"] == wanted["metadata"]["labels"]
}

fn write(state: &mut State, resource: &'static str, mut object: Value) {
    let key = Key::of(resource, &object);
    let now = state.clock.stamp();
    let before = state.get(&key).cloned();
    for (field, fresh) in [("uid", state.random.uid()), ("creationTimestamp", now.clone())] {
        let kept = before.as_ref().map(|before| before["metadata"][field].clone());
        object::set(&mut object, &["metadata", field], kept.unwrap_or_else(|| fresh.into()));
    }
    if resource == kinds::ENDPOINTS {
        object::set(
            &mut object,
            &["metadata", "annotations", "endpoints.kubernetes.io/last-change-trigger-time"],
            now,
        );
    } else {
        let generation =
            before.as_ref().and_then(|before| int(before, "/metadata/generation")).unwrap_or_default() + 1;
        object::set(&mut object, &["metadata", "generation"], generation);
    }
    state.put(key, object);
}
