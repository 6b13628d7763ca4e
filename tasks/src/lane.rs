//! A lane: rendering the gray copy of a service from its baseline manifest.
//!
//! ```text
//! baseline --strip--> --rename, follow--> --label--> --images, route--> --patches--> checked again --> the copy
//! ```
//! Same input, same bytes. Nothing here talks to a cluster; what a copy may be applied beside is judged in
//! `lane/leak.rs` and `lane/around.rs`, and how requests get in is written by `lane/route.rs`.
//! Rules and corner cases: Zadig's algorithm and where it breaks, as docs/ARCHITECTURE.md tells under "Lanes".

pub mod around;
mod corners;
pub mod labels;
pub mod leak;
pub mod patch;
mod references;
pub mod route;
pub mod selector;
mod strip;

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::id::Digest;
use graylane_engine::schema::{list, nearest};
use serde_json::{Map, Value, json};

use self::labels::{
    ANNOTATION_CONFIG_HASH, ANNOTATION_MANIFEST_HASH, ANNOTATION_ORIGIN, APP_NAME, GRAY_TYPE, ORIGINAL,
    SERVICE_NAME, SERVICE_TAG, TYPE, VERSION,
};
use self::patch::{Change, Patch};
use self::references::{Names, each_at, names};
use self::route::{Entry, is_route};
use self::strip::strip;
use crate::environment::{GatewayKind, deployment};
use crate::manifest::{ObjectRef, clean, containers, kind, map_at, name, namespace, selects, sorted, texts};
use crate::secret::fingerprint;

/// What a copy is made with.
#[derive(Debug, Clone, Copy)]
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
    /// How routes are written.
    pub gateway: GatewayKind,
    /// Changes that come last.
    pub patches: &'c [Patch],
    /// The copy as a person edited it, in place of all of the above but `entry`.
    pub edited: Option<&'c [Value]>,
}

/// A gray copy.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The objects, in the order in which they are applied.
    pub objects: Vec<Value>,
    /// Baseline objects that are not copied, with the reason.
    pub shared: Vec<String>,
    /// What is worth knowing of the copy.
    pub notes: Vec<String>,
}

/// What is wrong, and what is worth knowing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Why it is refused.
    pub wrong: Vec<String>,
    /// What it does that nobody may expect.
    pub notes: Vec<String>,
}

/// The kinds that are copied, in the order in which they are applied: the route comes last.
const COPIED: [&str; 6] = ["ConfigMap", "Secret", "Deployment", "Service", "Ingress", "HTTPRoute"];

/// Where an object stands in the order of a deploy.
pub fn rank(object: &Value) -> usize {
    COPIED.iter().position(|known| *known == kind(object)).unwrap_or(COPIED.len())
}

/// Kinds that stay with the baseline and serve both.
const SHARED: [&str; 16] = [
    "HorizontalPodAutoscaler",
    "VerticalPodAutoscaler",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "NetworkPolicy",
    "ServiceMonitor",
    "PodMonitor",
    "PrometheusRule",
    "PersistentVolumeClaim",
    "Namespace",
    "ScaledObject",
    "TriggerAuthentication",
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
    if !corners::is_label_value(copy.service) {
        wrong.push(format!(
            "service `{}`: its name must do as the value of a label: up to 63 characters, a letter or digit at the end; rename its manifest file",
            copy.service
        ));
    }
    match deployment(copy.service, copy.baseline) {
        Ok(found) => {
            wrong.extend(check_baseline(copy.service, found));
            wrong.extend(check_containers(copy, found));
        }
        Err(why) => wrong.push(why),
    }
    if let Some(entry) = copy.entry {
        wrong.extend(route::check_resolved(entry, copy.gateway, copy.tag));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut rendered = match copy.edited {
        Some(objects) => edited(copy, objects)?,
        None => copied(copy)?,
    };
    let judgement = corners::look(copy, &rendered.objects);
    if !judgement.wrong.is_empty() {
        return Err(judgement.wrong);
    }
    rendered.notes.extend(judgement.notes);
    Ok(rendered)
}

/// The copy as the rules make it.
fn copied(copy: &Copy<'_>) -> Result<Rendered, Vec<String>> {
    let mut wrong = Vec::new();
    let mut shared = Vec::new();
    let mut notes = Vec::new();
    let mut copied: Vec<&Value> = Vec::new();
    for object in copy.baseline {
        match place_of(object, copy) {
            Place::Copied => copied.push(object),
            Place::Shared(why) => shared.push(format!("{} stays shared: {why}", ObjectRef::of(object))),
            Place::Refused(why) => {
                wrong.push(format!("service `{}`: {}: {why}", copy.service, ObjectRef::of(object)));
            }
        }
    }
    let door = copy.gateway.rules().object();
    if copy.entry.is_some() && !copied.iter().any(|object| kind(object) == door) {
        wrong.push(format!("service `{}` cannot be the entry: its manifest has no {door}", copy.service));
    }
    wrong.extend(check_patches(copy, &copied));
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let names = names(copied.iter().copied());
    copied.sort_by_key(|object| rank(object));
    let mut objects: Vec<Value> = Vec::new();
    for object in copied {
        let mut gray = strip(object);
        map_at(&mut gray, &["metadata"]).insert("name".into(), gray_name(name(object), copy.tag).into());
        references::follow(kind(object), &mut gray, copy.tag, &names);
        label(&mut gray, copy);
        match kind(object) {
            "Deployment" => {
                let dropped = deployment_copy(&mut gray, object, copy);
                notes.extend(dropped.into_iter().map(|port| {
                    format!(
                        "{}: port {port} of the node is left out: it is the baseline's",
                        ObjectRef::of(&gray)
                    )
                }));
            }
            "Service" => strip::service(&mut gray),
            other if other == door => {
                if let Some(entry) = copy.entry
                    && let Err(why) = copy.gateway.rules().write(&mut gray, entry, copy.tag)
                {
                    wrong.extend(why);
                }
            }
            _ => {}
        }
        for patch in copy.patches.iter().filter(|patch| patch.is_for(object)) {
            wrong.extend(patched(&mut gray, patch, copy, &names));
        }
        if kind(object) == "Deployment"
            && let Some(hash) = config_hash(&objects.iter().collect::<Vec<_>>())
        {
            map_at(&mut gray, &["spec", "template", "metadata", "annotations"])
                .insert(ANNOTATION_CONFIG_HASH.into(), hash.into());
        }
        let annotations = map_at(&mut gray, &["metadata", "annotations"]);
        annotations.insert(ANNOTATION_ORIGIN.into(), name(object).into());
        annotations.insert(ANNOTATION_MANIFEST_HASH.into(), baseline_hash(object).into());
        objects.push(sorted(&gray));
    }
    if wrong.is_empty() { Ok(Rendered { objects, shared, notes }) } else { Err(wrong) }
}

/// Applies a patch, and sees that the object is still the lane's.
fn patched(gray: &mut Value, patch: &Patch, copy: &Copy<'_>, names: &Names) -> Vec<String> {
    let who = format!("service `{}`: {}", copy.service, patch.shown());
    let before = ObjectRef::of(gray);
    if let Err(why) = patch.apply(gray, copy.tag, names) {
        return vec![format!("{who}: {why}")];
    }
    // Where it lives is judged with everything else.
    let after = ObjectRef { namespace: before.namespace.clone(), ..ObjectRef::of(gray) };
    if before != after {
        return vec![format!(
            "{who} would make it {} {} of {}: kind, name and version stay as they are",
            after.kind, after.name, after.api_version
        )];
    }
    corners::check_labels(gray, copy, &who)
}

/// Patches that fit to nothing, or hold what may not stand in a workflow.
fn check_patches(copy: &Copy<'_>, copied: &[&Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    for patch in copy.patches {
        let who = format!("service `{}`: {}", copy.service, patch.shown());
        if !copied.iter().any(|object| patch.is_for(object)) {
            let known: Vec<String> = copied.iter().map(|object| ObjectRef::of(object).to_string()).collect();
            let wanted = format!("{} {}", patch.target.kind, patch.target.name);
            wrong.push(match nearest(&wanted, known.iter().map(String::as_str)) {
                Some(near) => format!("{who} fits to nothing that the lane copies; did you mean {near}?"),
                None => format!("{who} fits to nothing that the lane copies: there is {}", list(&known)),
            });
        }
        if holds_secret(patch) {
            wrong.push(format!(
                "{who} holds data of a Secret, which would be kept with the run: change it in the service's manifest"
            ));
        }
    }
    wrong
}

/// Whether a patch would put values of a Secret where everybody reads them.
pub fn holds_secret(patch: &Patch) -> bool {
    let touches =
        |path: &str| path.starts_with("/data") || path.starts_with("/stringData") || path.is_empty();
    patch.target.kind == "Secret"
        && match &patch.change {
            Change::Merge(map) => map.contains_key("data") || map.contains_key("stringData"),
            Change::Operations(operations) => {
                operations.iter().any(|one| one["path"].as_str().is_some_and(touches))
            }
        }
}

/// The copy as a person edited it: taken as it is, where it is still a copy of this service in this lane.
fn edited(copy: &Copy<'_>, file: &[Value]) -> Result<Rendered, Vec<String>> {
    let who = format!("service `{}`: its edited manifest", copy.service);
    let mut wrong = Vec::new();
    let mut notes = Vec::new();
    let mut objects = Vec::new();
    let mut seen = BTreeSet::new();
    if let Err(why) = deployment(copy.service, file) {
        wrong.push(format!("{who}: {why}"));
    }
    let mut file: Vec<&Value> = file.iter().collect();
    file.sort_by_key(|object| rank(object));
    for object in file {
        let at = ObjectRef::of(object);
        if !COPIED.contains(&kind(object)) {
            wrong.push(format!("{who}: {at}: a lane cannot hold this kind"));
            continue;
        }
        if !seen.insert(at.clone()) {
            wrong.push(format!("{who} has {at} twice"));
        }
        let Some(origin) = corners::origin(name(object), copy.tag) else {
            wrong.push(format!("{who}: {at} must have a name that ends with `{}`", gray_name("", copy.tag)));
            continue;
        };
        wrong.extend(corners::check_labels(object, copy, &who));
        let baseline =
            copy.baseline.iter().find(|other| kind(other) == kind(object) && name(other) == origin);
        let mut gray = strip(object);
        match (kind(object), baseline) {
            ("Secret", Some(baseline)) => {
                let map = map_at(&mut gray, &[]);
                map.retain(|key, _| !matches!(key.as_str(), "data" | "stringData"));
                for key in ["data", "stringData"] {
                    map.extend(baseline.get(key).map(|values| (key.to_owned(), values.clone())));
                }
            }
            ("Secret", None) => wrong.push(format!(
                "{who}: {at} has no baseline whose values it could have: values of Secrets stand in the service's manifest only"
            )),
            ("Service", _) => strip::service(&mut gray),
            _ => {}
        }
        if is_route(object) {
            wrong.extend(edited_route(copy, object, &who));
        }
        if kind(object) == "Deployment"
            && let Some(hash) = config_hash(&objects.iter().collect::<Vec<_>>())
        {
            map_at(&mut gray, &["spec", "template", "metadata", "annotations"])
                .insert(ANNOTATION_CONFIG_HASH.into(), hash.into());
        }
        let annotations = map_at(&mut gray, &["metadata", "annotations"]);
        if let Some(baseline) = baseline {
            let now = baseline_hash(baseline);
            let then = annotations.entry(ANNOTATION_MANIFEST_HASH).or_insert_with(|| now.clone().into());
            if then.as_str() != Some(&now) {
                notes.push(format!("{at} was edited over a baseline that has changed since: render it anew"));
            }
        }
        annotations.insert(ANNOTATION_ORIGIN.into(), origin.into());
        objects.push(sorted(&gray));
    }
    let door = copy.gateway.rules().object();
    if copy.entry.is_some() && !objects.iter().any(|object| kind(object) == door) {
        wrong.push(format!("{who} has no {door}, and the service is the entry"));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let plain = copied(&Copy { edited: None, ..*copy })?;
    let missing = plain.objects.iter().map(ObjectRef::of).filter(|at| !seen.contains(at));
    notes.extend(missing.map(|at| format!("{at} is left out: the edited manifest does not have it")));
    Ok(Rendered { objects, shared: plain.shared, notes })
}

/// An edited route lets in whom the workflow says, or a reader of the workflow would be deceived.
fn edited_route(copy: &Copy<'_>, object: &Value, who: &str) -> Vec<String> {
    let at = ObjectRef::of(object);
    let Some(entry) = copy.entry else {
        return vec![format!(
            "{who} has {at}, and the task no `entry` that names the service: add it, or remove the route"
        )];
    };
    let ours = copied(&Copy { edited: None, ..*copy });
    let ours = ours.iter().flat_map(|rendered| &rendered.objects).find(|one| ObjectRef::of(one) == at);
    let (theirs, wanted) = (route::words(object), ours.map(route::words));
    match wanted {
        Some(wanted) if wanted != theirs => {
            vec![format!("{who}: {at} lets in {theirs}, and `entry` says {wanted}: make them the same")]
        }
        None => vec![format!("{who}: {at} is no route of service `{}`", entry.service)],
        Some(_) => Vec::new(),
    }
}

enum Place {
    Copied,
    Shared(&'static str),
    Refused(&'static str),
}

fn place_of(object: &Value, copy: &Copy<'_>) -> Place {
    let spec = |pointer: &str| object.pointer(pointer);
    if namespace(object).is_some_and(|named| Some(named) != copy.namespace) {
        return Place::Refused("it names a namespace of its own; remove it: the environment's holds");
    }
    let patched = copy.patches.iter().any(|patch| patch.is_for(object));
    match kind(object) {
        "ConfigMap" | "Secret" | "Deployment" => Place::Copied,
        "Service" if spec("/spec/type").and_then(Value::as_str) == Some("ExternalName") => {
            Place::Shared("it only names another host")
        }
        "Service" if texts(object, "/spec/selector").is_empty() => Place::Shared("it selects no pods"),
        "Service" if !selects_own(object, copy) => Place::Shared("it selects no pods of this service"),
        "Service" => Place::Copied,
        "Ingress" | "HTTPRoute" if patched => Place::Copied,
        door @ ("Ingress" | "HTTPRoute") => match copy.entry {
            None => Place::Shared("the service is not the lane's entry"),
            Some(_) if door == copy.gateway.rules().object() => Place::Copied,
            Some(_) => Place::Shared("the environment's gateway does not read this kind"),
        },
        "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => {
            Place::Refused("a lane cannot hold a copy of this kind")
        }
        other if SHARED.contains(&other) => Place::Shared("baseline and lane use the same one"),
        _ => Place::Refused("a lane cannot hold a copy of this kind"),
    }
}

fn selects_own(service: &Value, copy: &Copy<'_>) -> bool {
    let pods = copy.baseline.iter().filter(|object| kind(object) == "Deployment");
    let selector = texts(service, "/spec/selector");
    pods.map(|pods| texts(pods, "/spec/template/metadata/labels")).any(|labels| selects(&selector, &labels))
}

fn check_containers(copy: &Copy<'_>, baseline: &Value) -> Vec<String> {
    let known: Vec<String> = baseline
        .pointer("/spec/template")
        .into_iter()
        .flat_map(containers)
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect();
    let unknown = copy.images.keys().filter(|container| !known.contains(container));
    unknown
        .map(|container| {
            format!("service `{}` has no container `{container}`: it has {}", copy.service, list(&known))
        })
        .collect()
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

/// Gives the ports of the node that the copy leaves out.
fn deployment_copy(gray: &mut Value, baseline: &Value, copy: &Copy<'_>) -> Vec<i64> {
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
    if let Some(template) = gray.pointer_mut("/spec/template") {
        set_images(template, copy.images, copy.live);
    }
    strip::spreads(gray, (VERSION, copy.tag));
    strip::host_ports(gray)
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
mod change_tests;
#[cfg(test)]
mod corner_tests;
#[cfg(test)]
mod tests;
