//! A lane: rendering the gray copy of a service from its baseline manifest.
//!
//! Same input, same bytes. Nothing here talks to a cluster; what a copy may be applied beside is judged in
//! `lane/leak.rs`, and how requests get in is written by `lane/route.rs`.
//! Rules and corner cases: Zadig's algorithm and where it breaks, as docs/ARCHITECTURE.md tells under "Lanes".

pub mod labels;
pub mod leak;
pub mod route;

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::id::Digest;
use serde_json::{Map, Value, json};

use self::labels::{
    ANNOTATION_BASELINE_HASH, ANNOTATION_CONFIG_HASH, ANNOTATION_ORIGIN, APP_NAME, GRAY_TYPE, ORIGINAL,
    SERVICE_NAME, SERVICE_TAG, TYPE, VERSION,
};
use self::route::Entry;
use crate::environment::deployment;
use crate::manifest::{ObjectRef, clean, containers, kind, map_at, name, namespace, sorted, texts};
use crate::secret::fingerprint;

/// What a copy is made with.
#[derive(Debug, Clone)]
pub struct Copy<'c> {
    /// The service.
    pub service: &'c str,
    /// The namespace that it lives in, where that is not the environment's.
    pub namespace: Option<&'c str>,
    /// Its baseline objects.
    pub baseline: &'c [Value],
    /// The lane's tag.
    pub tag: &'c str,
    /// Images by container; containers that are not named keep the image of `live`, else of the manifest.
    pub images: &'c BTreeMap<String, String>,
    /// The images that the live baseline runs, by container.
    pub live: &'c BTreeMap<String, String>,
    /// How many pods.
    pub replicas: u32,
    /// The route, where this service is the lane's entry.
    pub entry: Option<&'c Entry>,
}

/// A gray copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The objects, in the order in which they are applied.
    pub objects: Vec<Value>,
    /// Baseline objects that are not copied, with the reason.
    pub shared: Vec<String>,
}

/// The kinds that are copied, in the order in which they are applied: the route comes last.
const COPIED: [&str; 5] = ["ConfigMap", "Secret", "Deployment", "Service", "Ingress"];

/// Kinds that stay with the baseline and serve both.
const SHARED: [&str; 14] = [
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "NetworkPolicy",
    "ServiceMonitor",
    "PodMonitor",
    "PersistentVolumeClaim",
    "Namespace",
    "HTTPRoute",
    "ScaledObject",
];

/// The longest tag.
pub const MAX_TAG: usize = 20;

/// Whether a text may be a lane's tag.
///
/// # Errors
/// A sentence that says why not.
pub fn check_tag(tag: &str) -> Result<(), String> {
    if matches!(tag, ORIGINAL | "base" | "") {
        let shown = if tag.is_empty() { "an empty tag".to_owned() } else { format!("`{tag}`") };
        return Err(format!("{shown} means the baseline and cannot be a lane's tag"));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if tag.len() > MAX_TAG || !tag.chars().all(fits) || tag.starts_with('-') || tag.ends_with('-') {
        return Err(format!(
            "`{tag}` cannot be a lane's tag: use up to {MAX_TAG} small letters, digits and `-`, with a letter or digit at both ends"
        ));
    }
    Ok(())
}

/// The name of the gray copy of an object.
pub fn gray_name(name: &str, tag: &str) -> String {
    format!("{name}-mse-{tag}")
}

/// Renders the gray copy of a service.
///
/// # Errors
/// Every reason why there cannot be one, as sentences.
pub fn render(copy: &Copy<'_>) -> Result<Rendered, Vec<String>> {
    let mut wrong = Vec::new();
    wrong.extend(check_tag(copy.tag).err());
    let baseline_deployment = match deployment(copy.service, copy.baseline) {
        Ok(found) => Some(found),
        Err(why) => {
            wrong.push(why);
            None
        }
    };
    if let Some(found) = baseline_deployment {
        wrong.extend(check_baseline(copy.service, found));
        let known: BTreeSet<&str> = found
            .pointer("/spec/template")
            .into_iter()
            .flat_map(containers)
            .filter_map(|c| c["name"].as_str())
            .collect();
        for container in copy.images.keys().filter(|container| !known.contains(container.as_str())) {
            let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            wrong.push(format!(
                "service `{}` has no container `{container}`: it has {}",
                copy.service,
                graylane_engine::schema::list(&known)
            ));
        }
    }
    let mut shared = Vec::new();
    let mut copied: Vec<&Value> = Vec::new();
    for object in copy.baseline {
        match place_of(object, copy) {
            Place::Copied => copied.push(object),
            Place::Shared(why) => shared.push(format!("{} stays shared: {why}", ObjectRef::of(object))),
            Place::Refused(why) => {
                wrong.push(format!("service `{}`: {}: {why}", copy.service, ObjectRef::of(object)))
            }
        }
    }
    if copy.entry.is_some() && !copied.iter().any(|object| kind(object) == "Ingress") {
        wrong.push(format!("service `{}` cannot be the entry: its manifest has no Ingress", copy.service));
    }
    let names: Names = copied.iter().map(|object| (kind(object), name(object))).collect();
    for object in &copied {
        wrong.extend(check_name(object, copy.tag));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    copied.sort_by_key(|object| COPIED.iter().position(|known| *known == kind(object)));
    let hash = config_hash(&copied);
    let objects = copied
        .into_iter()
        .map(|object| {
            let mut gray = strip(object);
            rename(&mut gray, copy.tag, &names);
            label(&mut gray, copy);
            match kind(object) {
                "Deployment" => deployment_copy(&mut gray, object, copy, hash.as_deref()),
                "Service" => service_copy(&mut gray),
                "Ingress" => {
                    if let Some(entry) = copy.entry {
                        route::write(&mut gray, entry, copy.tag);
                    }
                }
                _ => {}
            }
            let annotations = map_at(&mut gray, &["metadata", "annotations"]);
            annotations.insert(ANNOTATION_ORIGIN.into(), name(object).into());
            annotations.insert(ANNOTATION_BASELINE_HASH.into(), baseline_hash(object).into());
            sorted(&gray)
        })
        .collect();
    Ok(Rendered { objects, shared })
}

type Names<'n> = BTreeSet<(&'n str, &'n str)>;

enum Place {
    Copied,
    Shared(&'static str),
    Refused(&'static str),
}

fn place_of(object: &Value, copy: &Copy<'_>) -> Place {
    let entry = copy.entry.is_some();
    let spec = |pointer: &str| object.pointer(pointer);
    if namespace(object).is_some_and(|named| Some(named) != copy.namespace) {
        return Place::Refused("it names a namespace of its own; remove it: the environment's holds");
    }
    match kind(object) {
        "ConfigMap" | "Secret" | "Deployment" => Place::Copied,
        "Service" if spec("/spec/type").and_then(Value::as_str) == Some("ExternalName") => {
            Place::Shared("it only names another host")
        }
        "Service" if texts(object, "/spec/selector").is_empty() => Place::Shared("it selects no pods"),
        "Service" => Place::Copied,
        "Ingress" if entry => Place::Copied,
        "Ingress" => Place::Shared("the service is not the lane's entry"),
        "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => {
            Place::Refused("a lane cannot hold a copy of this kind")
        }
        other if SHARED.contains(&other) => Place::Shared("baseline and lane use the same one"),
        _ => Place::Refused("a lane cannot hold a copy of this kind"),
    }
}

/// What a baseline must carry, so that it and a lane can be told apart.
fn check_baseline(service: &str, deployment: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for (where_, pointer) in [
        ("spec.selector.matchLabels", "/spec/selector/matchLabels"),
        ("spec.template.metadata.labels", "/spec/template/metadata/labels"),
    ] {
        match texts(deployment, pointer).get(VERSION) {
            Some(value) if value == ORIGINAL => {}
            Some(other) => wrong.push(format!(
                "service `{service}`: {where_} of its Deployment has `{VERSION}: {other}`; the baseline's is `{ORIGINAL}`"
            )),
            None => wrong.push(format!(
                "service `{service}`: {where_} of its Deployment lacks `{VERSION}: {ORIGINAL}`; without it baseline and lane cannot be told apart"
            )),
        }
    }
    wrong
}

fn check_name(object: &Value, tag: &str) -> Option<String> {
    let gray = gray_name(name(object), tag);
    // Service names are DNS labels; the others may be longer, but their pods' names and labels may not.
    let limit = if matches!(kind(object), "Service" | "Deployment") { 63 } else { 253 };
    (gray.len() > limit).then(|| {
        format!(
            "{}: the gray copy's name `{gray}` is longer than {limit} characters; use a shorter tag",
            ObjectRef::of(object)
        )
    })
}

const MARKS: [&str; 8] = [
    "argocd.argoproj.io/",
    "meta.helm.sh/",
    "helm.sh/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "cert-manager.io/",
    "external-dns.alpha.kubernetes.io/",
    "kubectl.kubernetes.io/",
];

const OWNED_LABELS: [&str; 2] = ["app.kubernetes.io/managed-by", "app.kubernetes.io/instance"];

/// A baseline object without what belongs to the server, or to whoever deployed it.
fn strip(object: &Value) -> Value {
    let mut gray = clean(object);
    let metadata = map_at(&mut gray, &["metadata"]);
    metadata.remove("ownerReferences");
    metadata.remove("finalizers");
    for key in ["labels", "annotations"] {
        if let Some(Value::Object(map)) = metadata.get_mut(key) {
            map.retain(|key, _| {
                !MARKS.iter().any(|mark| key.starts_with(mark)) && !OWNED_LABELS.contains(&key.as_str())
            });
            if map.is_empty() {
                metadata.remove(key);
            }
        }
    }
    if let Some(Value::Object(annotations)) = gray.pointer_mut("/spec/template/metadata/annotations") {
        annotations.retain(|key, _| !key.starts_with("kubectl.kubernetes.io/"));
    }
    without_nulls(&mut gray);
    gray
}

/// `strategy:` with nothing behind it means the default; the API server takes no null from an apply.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Renames the object, and follows references to what is renamed with it; what stays shared keeps its name.
fn rename(object: &mut Value, tag: &str, names: &Names<'_>) {
    let renamed = gray_name(name(object), tag);
    map_at(object, &["metadata"]).insert("name".into(), renamed.into());
    let follow = |kind: &str, value: &mut Value| {
        if let Some(old) = value.as_str()
            && names.contains(&(kind, old))
        {
            *value = gray_name(old, tag).into();
        }
    };
    match kind(object) {
        "Deployment" => {
            if let Some(spec) = object.pointer_mut("/spec/template/spec") {
                pod_references(spec, &follow);
            }
        }
        "Ingress" => {
            if let Some(spec) = object.get_mut("spec") {
                if let Some(backend) = spec.pointer_mut("/defaultBackend/service/name") {
                    follow("Service", backend);
                }
                for path in each(spec, "rules").flat_map(|rule| each_at(rule, "/http/paths")) {
                    if let Some(backend) = path.pointer_mut("/backend/service/name") {
                        follow("Service", backend);
                    }
                }
            }
        }
        _ => {}
    }
}

fn each<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn each_at<'v>(value: &'v mut Value, pointer: &str) -> impl Iterator<Item = &'v mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Every place in a pod spec that names a ConfigMap or a Secret (Kubernetes API reference, PodSpec v1).
fn pod_references(spec: &mut Value, follow: &impl Fn(&str, &mut Value)) {
    let at = |value: &mut Value, pointer: &str, kind: &str| {
        if let Some(found) = value.pointer_mut(pointer) {
            follow(kind, found);
        }
    };
    for secret in each(spec, "imagePullSecrets") {
        at(secret, "/name", "Secret");
    }
    for volume in each(spec, "volumes") {
        at(volume, "/configMap/name", "ConfigMap");
        at(volume, "/secret/secretName", "Secret");
        at(volume, "/csi/nodePublishSecretRef/name", "Secret");
        for source in each_at(volume, "/projected/sources") {
            at(source, "/configMap/name", "ConfigMap");
            at(source, "/secret/name", "Secret");
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, list) {
            for source in each(container, "envFrom") {
                at(source, "/configMapRef/name", "ConfigMap");
                at(source, "/secretRef/name", "Secret");
            }
            for variable in each(container, "env") {
                at(variable, "/valueFrom/configMapKeyRef/name", "ConfigMap");
                at(variable, "/valueFrom/secretKeyRef/name", "Secret");
            }
        }
    }
}

fn lane_labels(copy: &Copy<'_>) -> [(&'static str, String); 3] {
    [(VERSION, copy.tag.to_owned()), (TYPE, GRAY_TYPE.to_owned()), (SERVICE_NAME, copy.service.to_owned())]
}

fn label(object: &mut Value, copy: &Copy<'_>) {
    let labels = map_at(object, &["metadata", "labels"]);
    for (key, value) in lane_labels(copy) {
        labels.insert(key.into(), value.into());
    }
    if kind(object) == "Service" {
        let selector = map_at(object, &["spec", "selector"]);
        for (key, value) in lane_labels(copy) {
            selector.insert(key.into(), value.into());
        }
    }
}

fn deployment_copy(gray: &mut Value, baseline: &Value, copy: &Copy<'_>, hash: Option<&str>) {
    map_at(gray, &["spec"]).insert("replicas".into(), copy.replicas.into());
    for path in [&["spec", "selector", "matchLabels"][..], &["spec", "template", "metadata", "labels"][..]] {
        let labels = map_at(gray, path);
        for (key, value) in lane_labels(copy) {
            labels.insert(key.into(), value.into());
        }
        labels.insert(SERVICE_TAG.into(), copy.tag.into());
    }
    let labels = map_at(gray, &["spec", "template", "metadata", "labels"]);
    // Without it the copy would register under its own name, as another application, and join no lane.
    labels.entry(APP_NAME).or_insert_with(|| name(baseline).into());
    if let Some(hash) = hash {
        map_at(gray, &["spec", "template", "metadata", "annotations"])
            .insert(ANNOTATION_CONFIG_HASH.into(), hash.into());
    }
    if let Some(template) = gray.pointer_mut("/spec/template") {
        set_images(template, copy.images, copy.live);
    }
}

/// Images: given, else live, else as the manifest has them.
pub fn set_images(template: &mut Value, given: &BTreeMap<String, String>, live: &BTreeMap<String, String>) {
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in each_at(template, list) {
            let image =
                container["name"].as_str().and_then(|name| given.get(name).or_else(|| live.get(name)));
            if let Some(image) = image {
                container["image"] = image.clone().into();
            }
        }
    }
}

/// Fields that would clash with the baseline's Service, or cost another load balancer.
const SERVICE_FIELDS: [&str; 11] = [
    "clusterIPs",
    "healthCheckNodePort",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "externalIPs",
    "externalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "allocateLoadBalancerNodePorts",
    "internalTrafficPolicy",
];

fn service_copy(gray: &mut Value) {
    if let Some(Value::Object(annotations)) = gray.pointer_mut("/metadata/annotations") {
        annotations.retain(|key, _| !key.starts_with("service.beta.kubernetes.io/"));
    }
    let spec = map_at(gray, &["spec"]);
    spec.retain(|key, _| !SERVICE_FIELDS.contains(&key.as_str()));
    if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
        spec.remove("clusterIP");
    }
    if matches!(spec.get("type").and_then(Value::as_str), Some("LoadBalancer" | "NodePort")) {
        spec.insert("type".into(), "ClusterIP".into());
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
            // Server-side apply merges ports by number and protocol: without it older servers refuse.
            port.entry("protocol").or_insert_with(|| "TCP".into());
        }
    }
}

/// The hash of a baseline object, to tell later whether the baseline has moved on.
pub fn baseline_hash(object: &Value) -> String {
    let text = serde_json::to_vec(&sorted(&clean(object))).unwrap_or_default();
    Digest::of(&text).short().to_owned()
}

/// The hash of all ConfigMaps and Secrets of a copy: pods are rolled when it changes.
pub fn config_hash(objects: &[&Value]) -> Option<String> {
    let config: BTreeMap<String, String> = objects
        .iter()
        .filter(|object| matches!(kind(object), "ConfigMap" | "Secret"))
        .map(|object| (ObjectRef::of(object).to_string(), fingerprint(object)))
        .collect();
    let text: Map<String, Value> = config.into_iter().map(|(key, value)| (key, json!(value))).collect();
    (!text.is_empty()).then(|| Digest::of(Value::Object(text).to_string().as_bytes()).short().to_owned())
}

#[cfg(test)]
mod tests;
