//! Corners of a rendered copy that stand in nobody's way to being rendered, but in the way of its pods: refused or told, by name.
//!
//! Looks at the copy and its baseline alone; what else stands on the cluster is looked at in `lane/around.rs`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::labels::{APP_NAME, SERVICE_TAG, VERSION};
use super::route::Judgement;
use super::{Copy, gray_name};
use crate::manifest::{ObjectRef, containers, kind, name, namespace, selects, texts};

/// Judges the objects of a copy, patches included.
pub(super) fn look(copy: &Copy<'_>, objects: &[Value]) -> Judgement {
    let mut found = Judgement::default();
    for object in objects {
        let at = ObjectRef::of(object);
        found.wrong.extend(check_name(object, copy.tag));
        match kind(object) {
            "Deployment" => {
                deployment(copy, object, &at, &mut found);
                ports(objects, object, &mut found);
            }
            "Service" => {
                let pods = objects.iter().filter(|other| kind(other) == "Deployment");
                let selector = texts(object, "/spec/selector");
                if !pods
                    .map(|pods| texts(pods, "/spec/template/metadata/labels"))
                    .any(|labels| selects(&selector, &labels))
                {
                    found.wrong.push(format!(
                        "{at} would select no pod of the lane: its selector and the pods' labels do not fit"
                    ));
                }
            }
            _ => {}
        }
    }
    for object in copy.baseline {
        if let Some(owner) = object.pointer("/metadata/ownerReferences/0") {
            let text = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
            found.notes.push(format!(
                "{} is owned by {} {}: the copy is not, and an operator may take back what is written to the baseline",
                ObjectRef::of(object),
                text("kind"),
                text("name")
            ));
        }
    }
    found
}

/// Why an object's name cannot be one: Service names are DNS labels that begin with a letter, all others DNS subdomains.
pub(super) fn check_name(object: &Value, tag: &str) -> Option<String> {
    let gray = name(object);
    let at = ObjectRef::of(object);
    let limit = if kind(object) == "Service" { 63 } else { 253 };
    if gray.len() > limit {
        let shorter = gray.len() - limit;
        let most = tag.len().saturating_sub(shorter);
        let advice = if most > 0 {
            format!("use a tag of at most {most} characters")
        } else {
            "no tag is short enough: give the baseline's object a shorter name".into()
        };
        return Some(format!("{at}: the gray copy's name is longer than {limit} characters; {advice}"));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && !part.ends_with('-')
    };
    let fits = if kind(object) == "Service" {
        gray.chars().all(plain) && ends(gray) && gray.starts_with(|c: char| c.is_ascii_lowercase())
    } else {
        gray.split('.').all(|part| part.chars().all(plain) && ends(part))
    };
    (!fits).then(|| {
        let allowed = match kind(object) {
            "Service" => "small letters, digits and `-`, a letter first",
            _ => "small letters, digits, `-` and `.`",
        };
        format!("{at}: this is no name for a {}: {allowed}", kind(object))
    })
}

fn deployment(copy: &Copy<'_>, object: &Value, at: &ObjectRef, found: &mut Judgement) {
    // The controller adds `-` and up to ten characters of a hash; the server cuts at 58 before it adds five more.
    if name(object).len() > 46 {
        found
            .notes
            .push(format!("{at}: names of its pods are cut after 58 characters and may not show the tag"));
    }
    let labels = texts(object, "/spec/template/metadata/labels");
    for (key, value) in &labels {
        if !is_label_value(value) {
            let why = if key == APP_NAME {
                "; set the label in the baseline's template to a shorter name".into()
            } else {
                String::new()
            };
            found.wrong.push(format!(
                "{at}: `{key}: {value}` is no label: a value has up to 63 letters, digits, `-`, `_` and `.`{why}"
            ));
        }
    }
    let Some(spec) = object.pointer("/spec/template/spec") else {
        found.wrong.push(format!("{at}: its template has no `spec`"));
        return;
    };
    if spec["hostNetwork"] == true {
        found.wrong.push(format!(
            "{at}: its pods use the node's network (`hostNetwork`), and two versions cannot bind the same ports; take it away by a patch"
        ));
    }
    let pinned =
        spec["nodeName"].as_str().or_else(|| spec["nodeSelector"]["kubernetes.io/hostname"].as_str());
    if let Some(node) = pinned {
        found.notes.push(format!(
            "{at}: gray pods go to node {node} alone, as the baseline's do: it must have room for both"
        ));
    }
    if containers(object.pointer("/spec/template").unwrap_or(&Value::Null)).next().is_none() {
        found.wrong.push(format!("{at}: its template has no container"));
    }
    let baseline = copy.baseline.iter().find(|object| kind(object) == "Deployment");
    if let Some(tag) = baseline.and_then(|b| texts(b, "/spec/template/metadata/labels").remove(SERVICE_TAG)) {
        found.notes.push(format!(
            "the baseline of service `{}` carries `{SERVICE_TAG}: {tag}`: MSE takes only pods without it for the baseline",
            copy.service
        ));
    }
}

/// Ports that lead nowhere are legal, and seldom meant.
fn ports(objects: &[Value], deployment: &Value, found: &mut Judgement) {
    let template = deployment.pointer("/spec/template").unwrap_or(&Value::Null);
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for port in containers(template).filter_map(|c| c["ports"].as_array()).flatten() {
        numbers.extend(port["containerPort"].as_i64());
        names.extend(port["name"].as_str().map(str::to_owned));
    }
    let declared = |port: &Value| match port {
        Value::Number(_) => port.as_i64().is_some_and(|number| numbers.contains(&number)),
        Value::String(name) => names.contains(name),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => true,
    };
    let shown = |port: &Value| port.as_str().map_or_else(|| port.to_string(), |name| format!("`{name}`"));
    for service in objects.iter().filter(|object| kind(object) == "Service") {
        for port in service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten() {
            let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
            // Containers need not say which ports they open; a name that nobody says leads nowhere.
            if !declared(target) && (target.is_string() || !numbers.is_empty()) {
                found.notes.push(format!(
                    "{} sends requests to port {}, which no container of {} declares",
                    ObjectRef::of(service),
                    shown(target),
                    ObjectRef::of(deployment)
                ));
            }
        }
    }
    for container in containers(template) {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for handler in ["httpGet", "tcpSocket"] {
                let port = &container[probe][handler]["port"];
                if !port.is_null() && !declared(port) && (port.is_string() || !numbers.is_empty()) {
                    found.notes.push(format!(
                        "{}: the {probe} of container `{}` asks port {}, which no container declares",
                        ObjectRef::of(deployment),
                        container["name"].as_str().unwrap_or_default(),
                        shown(port)
                    ));
                }
            }
        }
    }
}

/// Whether a text may be the value of a label.
pub(super) fn is_label_value(value: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63
            && value.starts_with(ends)
            && value.ends_with(ends)
            && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
}

/// Whether an object of the lane is what the labels of the lane say, whatever a patch or a person changed.
pub(super) fn check_labels(object: &Value, copy: &Copy<'_>, who: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let at = ObjectRef::of(object);
    let mut places = vec!["/metadata/labels"];
    match kind(object) {
        "Service" => places.push("/spec/selector"),
        "Deployment" => places.extend(["/spec/selector/matchLabels", "/spec/template/metadata/labels"]),
        _ => {}
    }
    for place in places {
        let labels = texts(object, place);
        let mut wanted: Vec<(&str, String)> = super::lane_labels(copy).to_vec();
        if place.starts_with("/spec/selector/") || place.starts_with("/spec/template/") {
            wanted.push((SERVICE_TAG, copy.tag.to_owned()));
        }
        for (key, value) in wanted {
            if labels.get(key) != Some(&value) {
                let place = place.trim_start_matches('/').replace('/', ".");
                let has = labels.get(key).map_or("lacks it".to_owned(), |other| format!("has `{other}`"));
                wrong.push(format!("{who}: {place} of {at} must have `{key}: {value}`, and {has}"));
            }
        }
    }
    if kind(object) == "Deployment" {
        let labels = texts(object, "/spec/template/metadata/labels");
        let selector = texts(object, "/spec/selector/matchLabels");
        if let Some((key, value)) = selector.iter().find(|(key, value)| labels.get(*key) != Some(value)) {
            wrong.push(format!(
                "{who}: the selector of {at} asks for `{key}: {value}`, which its pods do not carry"
            ));
        }
        if labels.contains_key(VERSION) && !labels.contains_key(APP_NAME) {
            wrong.push(format!(
                "{who}: the template of {at} must have `{APP_NAME}`: without it the copy registers as another application, and joins no lane"
            ));
        }
    }
    if namespace(object) != copy.namespace {
        let at = ObjectRef { namespace: None, ..at };
        wrong.push(match copy.namespace {
            None => format!("{who}: {at} names a namespace of its own; remove it: the environment's holds"),
            Some(home) => format!("{who}: {at} must name the namespace of its service, {home}"),
        });
    }
    wrong
}

/// The baseline's name behind a gray one.
pub(super) fn origin(gray: &str, tag: &str) -> Option<String> {
    let suffix = gray_name("", tag);
    gray.strip_suffix(&suffix).filter(|origin| !origin.is_empty()).map(str::to_owned)
}
