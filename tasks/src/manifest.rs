//! Kubernetes objects as plain values: reading multi-document manifests, names, labels, cleaning.
//!
//! Nothing here talks to a cluster, and nothing knows what a lane is.

use std::collections::BTreeMap;
use std::fmt;

use graylane_engine::document::{Place, Problem, Severity};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An object's kind and name, as people and messages name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// As in `apps/v1`.
    pub api_version: String,
    /// As in `Deployment`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace, where it is another one than the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ObjectRef {
    /// The reference of an object; empty parts where the object lacks them.
    pub fn of(object: &Value) -> ObjectRef {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        ObjectRef {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            name: text("/metadata/name"),
            namespace: namespace(object).map(str::to_owned),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The object's kind.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// The namespace that an object names: inside an environment only where it is another one than the environment's.
pub fn namespace(object: &Value) -> Option<&str> {
    object.pointer("/metadata/namespace").and_then(Value::as_str)
}

/// The object's uid; only live objects have one.
pub fn uid(object: &Value) -> Option<&str> {
    object.pointer("/metadata/uid").and_then(Value::as_str)
}

/// A map of texts at a pointer; other values are left out.
pub fn texts(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    let texts =
        map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    texts.collect()
}

/// The map at a path, made where it is missing; whatever else stands there is replaced.
pub fn map_at<'v>(object: &'v mut Value, path: &[&str]) -> &'v mut Map<String, Value> {
    let mut at = object;
    for key in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = match at {
            Value::Object(map) => map.entry(*key).or_insert_with(|| json!({})),
            _ => unreachable!("made a map above"),
        };
    }
    if !at.is_object() {
        *at = json!({});
    }
    match at {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// Whether `labels` carry everything that an equality selector asks for. An empty selector selects nothing here.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Every container of a pod template, init containers last.
pub fn containers(template: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"]
        .into_iter()
        .filter_map(move |key| template.pointer(&format!("/spec/{key}")).and_then(Value::as_array))
        .flatten()
}

/// The images of a Deployment's template by container name, init containers included.
pub fn images(deployment: &Value) -> BTreeMap<String, String> {
    let Some(template) = deployment.pointer("/spec/template") else { return BTreeMap::new() };
    containers(template)
        .filter_map(|container| {
            Some((container["name"].as_str()?.to_owned(), container["image"].as_str()?.to_owned()))
        })
        .collect()
}

/// Reads a manifest of several documents; empty ones are left out.
///
/// # Errors
/// The syntax error with its place, or documents that are no Kubernetes objects.
pub fn parse(file: &str, text: &str) -> Result<Vec<Value>, Vec<Problem>> {
    let options = serde_yaml::options! {
        with_snippet: false,
        budget: serde_yaml::budget! { max_depth: 64, max_nodes: 2_000_000, max_events: 8_000_000, max_total_scalar_bytes: 64 * 1024 * 1024 },
    };
    let documents: Vec<Value> = serde_yaml::from_multiple_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map(|at| Place {
            bytes: 0..0,
            line: usize::try_from(at.line()).unwrap_or(1),
            column: usize::try_from(at.column()).unwrap_or(1),
        });
        let words = error.to_string();
        let words = words.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        vec![problem(file, place, format!("this is not valid YAML: {words}"))]
    })?;
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        if document.is_null() {
            continue;
        }
        let at = ObjectRef::of(&document);
        if at.api_version.is_empty() || at.kind.is_empty() || at.name.is_empty() {
            let lacks = [("apiVersion", &at.api_version), ("kind", &at.kind), ("metadata.name", &at.name)];
            let lacks: Vec<&str> =
                lacks.iter().filter(|(_, value)| value.is_empty()).map(|(key, _)| *key).collect();
            problems.push(problem(
                file,
                None,
                format!("document {} is no Kubernetes object: it lacks {}", index + 1, lacks.join(", ")),
            ));
            continue;
        }
        objects.push(document);
    }
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

fn problem(file: &str, place: Option<Place>, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.to_owned(),
        place,
        message,
        label: String::new(),
        hints: Vec::new(),
    }
}

const SERVER_METADATA: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "generateName",
];

const SERVER_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];

/// An object without what the server sets: what a person would have written.
pub fn clean(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    let metadata = map_at(&mut object, &["metadata"]);
    metadata.retain(|key, value| !SERVER_METADATA.contains(&key.as_str()) && !value.is_null());
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|key, _| !SERVER_ANNOTATIONS.contains(&key.as_str()));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if let Some(template) = object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
        template.retain(|key, value| !(key == "creationTimestamp" && value.is_null()));
    }
    object
}

/// The same object with the keys of every map in order, so that the same content is the same text.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> =
                map.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// An object as YAML for people.
pub fn yaml(object: &Value) -> String {
    // An object came from JSON or YAML: writing it cannot fail.
    serde_yaml::to_string(object).unwrap_or_default()
}

/// What differs between two objects, as a unified diff of their YAML; empty where nothing does.
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> String {
    let text =
        |object: Option<&Value>| object.map(|object| yaml(&sorted(&clean(object)))).unwrap_or_default();
    let (before, after) = (text(before), text(after));
    if before == after {
        return String::new();
    }
    // A large lane is thousands of new objects: nothing needs to be compared there.
    match (before.is_empty(), after.is_empty()) {
        (true, _) => return all_of(&after, '+'),
        (_, true) => return all_of(&before, '-'),
        (false, false) => {}
    }
    similar::TextDiff::from_lines(&before, &after).unified_diff().context_radius(2).to_string()
}

/// The unified diff of a text that is wholly new, or wholly gone.
fn all_of(text: &str, sign: char) -> String {
    let count = text.lines().count();
    let range = if count == 1 { "1".to_owned() } else { format!("1,{count}") };
    let mut out = match sign {
        '+' => format!("@@ -0,0 +{range} @@\n"),
        _ => format!("@@ -{range} +0,0 @@\n"),
    };
    for line in text.lines() {
        out.push(sign);
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wholly_new_or_gone_is_shown_as_any_difference_is() {
        for text in ["a: 1\n", "a: 1\nb:\n  c: 2\n"] {
            for (before, after, sign) in [("", text, '+'), (text, "", '-')] {
                let compared = similar::TextDiff::from_lines(before, after);
                assert_eq!(all_of(text, sign), compared.unified_diff().context_radius(2).to_string());
            }
        }
    }

    #[test]
    fn manifests_are_read_with_their_oddities() {
        let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  strategy:\n---\n---\n# only a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: c }\n";
        let objects = parse("a.yaml", text).expect("valid");
        assert_eq!(
            objects.iter().map(|o| ObjectRef::of(o).to_string()).collect::<Vec<_>>(),
            ["Service a", "ConfigMap c"]
        );
        let wrong = parse("a.yaml", "kind: Service\n---\n- 1\n").expect_err("no objects");
        assert_eq!(
            wrong[0].message,
            "document 1 is no Kubernetes object: it lacks apiVersion, metadata.name"
        );
        let wrong = parse("a.yaml", "a: [1\nb: 2\n").expect_err("no YAML");
        assert!(
            wrong[0].place.is_some() && wrong[0].message.starts_with("this is not valid YAML"),
            "{wrong:?}"
        );
    }

    #[test]
    fn cleaning_leaves_what_a_person_would_have_written() {
        let live = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "c", "uid": "u", "resourceVersion": "7", "creationTimestamp": null, "managedFields": [],
                "annotations": { "deployment.kubernetes.io/revision": "2" }, "labels": { "a": "b" } },
            "status": {},
        });
        assert_eq!(
            clean(&live),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "labels": { "a": "b" } } })
        );
        assert_eq!(diff(Some(&live), Some(&clean(&live))), "");
    }
}
