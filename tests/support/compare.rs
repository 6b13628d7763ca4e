//! What is compared of the objects of two clusters, and what is left aside: [`ASIDE`] and the functions below it are all of it, with
//! the reason of each. Nothing here asks a cluster.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::stage::EXAMPLE;

/// The objects of one moment, by kind and name.
pub(crate) struct Look {
    when: String,
    objects: BTreeMap<String, Value>,
}

impl Look {
    pub(crate) fn at(when: &str) -> Look {
        Look { when: when.to_owned(), objects: BTreeMap::new() }
    }

    /// Adds an object of a namespace. Pods have made-up names: they are told apart by their Deployment, and count when they are ready.
    pub(crate) fn add(&mut self, object: &Value, namespace: &str) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let born = |(of, prefix, _): &(&str, &str, &str)| *of == kind && name.starts_with(prefix);
        if BORN_WITH_NAMESPACE.iter().any(born) {
            return;
        }
        if kind != "Pod" {
            self.objects.insert(format!("{kind} {name}"), compared(object, namespace));
            return;
        }
        if let Some(pod) = pod(object) {
            let base = name.rsplitn(3, '-').last().unwrap_or(name);
            let number = (1..).find(|number| !self.objects.contains_key(&format!("Pod {number} of {base}")));
            let number = number.unwrap_or_default();
            self.objects.insert(format!("Pod {number} of {base}"), plainly(&pod, namespace));
        }
    }
}

/// What a controller puts into every namespace, and only where it is played.
const BORN_WITH_NAMESPACE: &[(&str, &str, &str)] = &[
    (
        "Secret",
        "default-token-",
        "the token of the default account: servers before 1.24 make one, later ones do not",
    ),
    ("ConfigMap", "kube-root-ca.crt", "the server's authority: the rehearsal speaks plain HTTP and has none"),
];

/// What is not compared, and why. A place is a JSON pointer; `*` stands for every kind.
const ASIDE: &[(&str, &str, &str)] = &[
    ("*", "/metadata/uid", "made up by the server"),
    ("*", "/metadata/resourceVersion", "counts the server's writes"),
    ("*", "/metadata/creationTimestamp", "a time"),
    ("*", "/metadata/namespace", "each story on a real API server has one of its own"),
    ("*", "/metadata/annotations/graylane.dev~1run", "each run has an id of its own"),
    ("*", "/metadata/annotations/graylane.dev~1created", "a time"),
    ("*", "/metadata/annotations/graylane.dev~1expires", "a time"),
    (
        "*",
        "/metadata/annotations/graylane.dev~1verified",
        "names the digests that pods ran, and the simulated node has none",
    ),
    (
        "*",
        "/metadata/annotations/graylane.dev~1baseline-hash",
        "over the live baseline, with what its server fills in",
    ),
    ("Lease", "/spec", "who holds it, and since when: each store has a name of its own"),
    ("Job", "/status", "times"),
    ("Ingress", "/status", "older servers write an empty one, later ones none"),
    ("Service", "/status", "empty but for load balancers"),
    ("Service", "/spec/clusterIP", "given by the server"),
    ("Service", "/spec/clusterIPs", "given by the server"),
    ("Service", "/spec/ipFamilies", "of servers since 1.20 with two kinds of addresses"),
    ("Service", "/spec/ipFamilyPolicy", "of servers since 1.20 with two kinds of addresses"),
    ("Service", "/spec/internalTrafficPolicy", "of servers since 1.22"),
];

/// A pod that is ready, as it is compared: what its template, the server and the agent's webhook have made of it.
fn pod(object: &Value) -> Option<Value> {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let ready =
        list("/status/conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    if !ready || !object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let mut labels = object["metadata"]["labels"].clone();
    // A hash of the template with all that the server's version fills in.
    labels.as_object_mut()?.remove("pod-template-hash");
    // The account's token: servers before 1.22 mount a Secret, later ones project it.
    let is_token = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        name.starts_with("kube-api-access-") || name.starts_with("default-token-")
    };
    let containers = |pointer: &str| -> Vec<Value> {
        let mut all = list(pointer);
        for mounts in all.iter_mut().filter_map(|one| one.get_mut("volumeMounts")?.as_array_mut()) {
            mounts.retain(|mount| !is_token(&mount["name"]));
        }
        let empty = |container: &Value| container["volumeMounts"].as_array().is_some_and(Vec::is_empty);
        for container in all.iter_mut().filter(|container| empty(container)).filter_map(Value::as_object_mut)
        {
            container.remove("volumeMounts");
        }
        all
    };
    let mut volumes = list("/spec/volumes");
    volumes.retain(|volume| !is_token(&volume["name"]));
    let statuses = |pointer: &str| -> Vec<Value> {
        let told = |one: Value| json!([one["name"], one["ready"], one["restartCount"]]);
        let mut all: Vec<Value> = list(pointer).into_iter().map(told).collect();
        all.sort_by_key(ToString::to_string);
        all
    };
    let spec = &object["spec"];
    Some(json!({
        "labels": labels, "annotations": object["metadata"]["annotations"],
        "containers": containers("/spec/containers"), "initContainers": containers("/spec/initContainers"),
        "volumes": volumes, "restartPolicy": spec["restartPolicy"], "dnsPolicy": spec["dnsPolicy"],
        "serviceAccountName": spec["serviceAccountName"], "terminationGracePeriodSeconds": spec["terminationGracePeriodSeconds"],
        "securityContext": spec["securityContext"], "automountServiceAccountToken": spec["automountServiceAccountToken"],
        "phase": object["status"]["phase"], "statuses": statuses("/status/containerStatuses"),
        "initStatuses": statuses("/status/initContainerStatuses"),
    }))
}

/// How far a Deployment is: counts, and its conditions without their times and words, which name ReplicaSets.
fn status(object: &Value) -> Value {
    let count = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> =
        conditions.iter().map(|one| json!([one["type"], one["status"], one["reason"]])).collect();
    conditions.sort_by_key(ToString::to_string);
    let behind = object["metadata"]["generation"].as_i64().unwrap_or(0) - count("observedGeneration");
    json!({
        "behind": behind, "replicas": count("replicas"), "updated": count("updatedReplicas"), "ready": count("readyReplicas"),
        "available": count("availableReplicas"), "unavailable": count("unavailableReplicas"), "conditions": conditions,
    })
}

/// Whether a Deployment, as it is compared, is fully rolled out.
fn is_up(deployment: &Value) -> bool {
    let (status, wanted) = (&deployment["status"], deployment["spec"]["replicas"].as_i64().unwrap_or(1));
    let has = |field: &str| status[field] == wanted;
    status["behind"] == 0 && has("replicas") && has("updated") && has("available")
}

/// Two objects of one name, without what only a look at both shows to be no difference.
fn aligned(one: &Value, other: &Value) -> (Value, Value) {
    let (mut one, mut other) = (one.clone(), other.clone());
    // On its way a rollout is never at the same place twice.
    if one["kind"] == "Deployment" && !(is_up(&one) && is_up(&other)) {
        for object in [&mut one, &mut other] {
            object.as_object_mut().expect("an object").remove("status");
        }
    }
    for place in ["/spec/template/spec/containers", "/spec/template/spec/initContainers", "/containers"] {
        let images = |object: &Value| -> Vec<Value> {
            let all = object.pointer(place).and_then(Value::as_array).cloned().unwrap_or_default();
            all.into_iter().map(|container| container["image"].clone()).collect()
        };
        let here = images(&one);
        let there = other.pointer_mut(place).and_then(Value::as_array_mut).into_iter().flatten();
        for (image, container) in here.into_iter().zip(there) {
            if same_image(&image, &container["image"]) {
                container["image"] = image;
            }
        }
    }
    // A write by `scale` is recorded since 1.22 alone: the number of pods belongs to whom it belonged before.
    let scaled = |object: &Value| {
        let entries = object["metadata"]["managedFields"].as_array();
        entries.is_some_and(|entries| entries.iter().any(|entry| entry["subresource"] == "scale"))
    };
    if scaled(&one) || scaled(&other) {
        for object in [&mut one, &mut other] {
            let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
            for entry in entries.into_iter().flatten() {
                let fields = entry["fields"].as_array_mut();
                fields.into_iter().for_each(|fields| fields.retain(|field| field != "/f:spec/f:replicas"));
            }
            let entries = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
            entries.into_iter().for_each(|entries| entries.retain(|entry| entry["subresource"] != "scale"));
        }
    }
    (one, other)
}

/// Whether two references are one image: what was promoted is named by the digest that a node reported, and the simulated node has none.
fn same_image(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_str(), other.as_str()) else { return false };
    let repository = |image: &str| {
        let named = image.split_once('@').map_or(image, |(named, _)| named);
        let tag = named.rfind(':').filter(|at| !named[*at..].contains('/'));
        tag.map_or(named, |at| &named[..at]).to_owned()
    };
    one == other || (one.contains('@') != other.contains('@') && repository(one) == repository(other))
}

/// An object as it is compared.
pub(crate) fn compared(object: &Value, namespace: &str) -> Value {
    let mut object = object.clone();
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind == "Deployment" {
        object["status"] = status(&object);
    }
    for (_, pointer, _) in ASIDE.iter().filter(|(of, _, _)| *of == "*" || *of == kind) {
        let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
        let last = last.replace("~1", "/");
        if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
            map.remove(&last);
        }
    }
    if let Some(managers) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        *managers = owners(managers);
    }
    plainly(&object, namespace)
}

fn plainly(object: &Value, namespace: &str) -> Value {
    let text = graylane_tasks::manifest::sorted(object).to_string().replace(namespace, EXAMPLE);
    serde_json::from_str(&text).expect("json")
}

/// Who owns which fields: all but controllers, which write what is theirs (`status`, the revision) at times of their own.
fn owners(managers: &[Value]) -> Vec<Value> {
    let mut owners: Vec<Value> = managers
        .iter()
        .filter(|entry| entry["manager"] != "kube-controller-manager" || entry["subresource"] == "scale")
        .map(|entry| {
            json!({ "manager": entry["manager"], "operation": entry["operation"], "subresource": entry["subresource"],
                "fields": fields(&entry["fieldsV1"]) })
        })
        .collect();
    owners.sort_by_key(ToString::to_string);
    owners
}

/// Fields that only newer servers have, and maps that they own as one field (`x-kubernetes-map-type: atomic`, since 1.22).
const NEWER: [&str; 3] =
    ["/f:spec/f:internalTrafficPolicy", "/f:spec/f:ipFamilies", "/f:spec/f:ipFamilyPolicy"];
const WHOLE: [&str; 5] =
    ["/f:secretKeyRef", "/f:configMapKeyRef", "/f:fieldRef", "/f:resourceFieldRef", "/f:spec/f:selector"];

/// What else differs in records between versions, or by who comes first: whether an applier owns a structure that is empty;
/// and annotations and status, which a controller writes when it pleases.
const UNSURE: [&str; 4] = [
    "/f:resources",
    "/f:securityContext",
    "/f:metadata/f:annotations.",
    "f:deployment.kubernetes.io/revision",
];

/// The fields of a set as every version of the server has them.
fn fields(set: &Value) -> Vec<String> {
    let whole = |line: String| {
        let place = WHOLE.iter().find_map(|mark| line.find(mark).map(|at| at + mark.len()));
        place.map_or_else(|| line.clone(), |end| line[..end].to_owned())
    };
    let mut lines: Vec<String> = leaves(set, "").into_iter().map(whole).collect();
    lines.retain(|line| !NEWER.iter().any(|field| line.trim_end_matches('.') == *field));
    lines.retain(|line| !line.starts_with("/f:status") && !UNSURE.iter().any(|field| line.ends_with(field)));
    lines.sort();
    lines.dedup();
    lines
}

/// The fields of a set, a line each, in the order of their names.
pub(crate) fn leaves(fields: &Value, at: &str) -> Vec<String> {
    let Some(map) = fields.as_object() else { return Vec::new() };
    let mut lines: Vec<String> = map
        .iter()
        .flat_map(|(key, below)| match key.as_str() {
            "." => vec![format!("{at}.")],
            key if below.as_object().is_some_and(Map::is_empty) => vec![format!("{at}/{key}")],
            key => leaves(below, &format!("{at}/{key}")),
        })
        .collect();
    lines.sort();
    lines
}

pub(crate) fn differences(rehearsed: &[Look], real: &[Look]) -> Vec<String> {
    let mut found = Vec::new();
    let moments = |looks: &[Look]| looks.iter().map(|look| look.when.clone()).collect::<Vec<_>>();
    if moments(rehearsed) != moments(real) {
        found.push(format!("moments: {:?} and {:?}", moments(rehearsed), moments(real)));
    }
    for (one, other) in rehearsed.iter().zip(real) {
        let names: BTreeSet<&String> = one.objects.keys().chain(other.objects.keys()).collect();
        for name in names {
            match (one.objects.get(name), other.objects.get(name)) {
                (Some(here), Some(there)) => {
                    let lines = differs(here, there);
                    found.extend(lines.iter().map(|line| format!("{}: {name}{line}", one.when)));
                }
                (Some(_), None) => found.push(format!("{}: {name} is on the rehearsal only", one.when)),
                (None, _) => found.push(format!("{}: {name} is on the real API server only", one.when)),
            }
        }
    }
    found
}

/// Where two objects of one name differ, a line a place.
pub(crate) fn differs(here: &Value, there: &Value) -> Vec<String> {
    let (here, there) = aligned(here, there);
    let mut lines = Vec::new();
    diff(&here, &there, "", &mut lines);
    lines
}

/// Where two values differ, a line a place.
pub(crate) fn diff(here: &Value, there: &Value, at: &str, lines: &mut Vec<String>) {
    match (here, there) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                diff(&of(one), &of(other), &format!("{at}/{key}"), lines);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (number, (one, other)) in one.iter().zip(other).enumerate() {
                diff(one, other, &format!("{at}/{number}"), lines);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            let only = |all: &[Value], others: &[Value]| {
                let alone = all.iter().filter(|value| !others.contains(value));
                alone.map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            lines.push(format!(
                " {at}: rehearsal only [{}], real only [{}]",
                only(one, other),
                only(other, one)
            ));
        }
        (one, other) if one == other => {}
        (one, other) => lines.push(format!(" {at}: rehearsal {one}, real {other}")),
    }
}
