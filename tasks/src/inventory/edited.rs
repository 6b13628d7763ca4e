//! What other field managers have done to a lane's object, read off `metadata.managedFields`.
//!
//! A field that somebody changes by hand is theirs from then on, and no longer ours: the server itself keeps the record.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::is_ours;
use crate::cluster::FIELD_MANAGER;

/// Whose writes are part of an object's life: controllers, which write status and revisions.
const CONTROLLERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Fields that controllers of every sort write, and that nobody edits by hand.
const THEIRS: [&str; 4] = [
    "status",
    "metadata.finalizers",
    "metadata.annotations.deployment.kubernetes.io/revision",
    "metadata.resourceVersion",
];

/// What one manager has changed in an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The manager, as `kubectl-edit`.
    pub manager: String,
    /// The fields, as `spec.replicas`.
    pub fields: Vec<String>,
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let shown: Vec<&str> = self.fields.iter().take(SHOWN).map(String::as_str).collect();
        write!(f, "{} by `{}`", shown.join(", "), self.manager)?;
        match self.fields.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more fields"),
        }
    }
}

/// What others have changed in an object of ours. An object of another tool has no edits: all of it is that tool's.
pub fn edits(object: &Value) -> Vec<Edit> {
    if !is_ours(object) {
        return Vec::new();
    }
    let ours: BTreeSet<String> =
        entries(object).filter(|entry| entry["manager"] == FIELD_MANAGER).flat_map(fields).collect();
    let theirs = entries(object).filter(|entry| is_foreign(entry));
    theirs
        .filter_map(|entry| {
            let fields: Vec<String> =
                fields(entry).into_iter().filter(|field| !ours.contains(field)).collect();
            let manager = entry["manager"].as_str().unwrap_or("unknown").to_owned();
            (!fields.is_empty()).then_some(Edit { manager, fields })
        })
        .collect()
}

/// The managed fields with those of everybody else made ours, so that the next apply takes back what they added; none
/// where nobody else has a field.
pub fn mended(object: &Value) -> Option<Value> {
    let first = entries(object).find(|entry| is_foreign(entry) && !fields(entry).is_empty())?;
    let is_mine = |entry: &&Value| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == "Apply"
            && entry.get("subresource").is_none()
    };
    let mut merged = entries(object).find(is_mine).unwrap_or(first).clone();
    merged["manager"] = FIELD_MANAGER.into();
    merged["operation"] = "Apply".into();
    let taken = |entry: &&Value| {
        is_foreign(entry) || (entry["manager"] == FIELD_MANAGER && entry["operation"] == "Update")
    };
    for entry in entries(object).filter(taken) {
        let mut theirs = entry["fieldsV1"].clone();
        if let Some(map) = theirs.as_object_mut() {
            map.remove("f:status");
        }
        merge(&mut merged["fieldsV1"], &theirs);
    }
    if let Some(map) = merged.as_object_mut() {
        map.remove("subresource");
    }
    let mut all: Vec<Value> =
        entries(object).filter(|entry| !taken(entry) && !is_mine(entry)).cloned().collect();
    all.push(merged);
    Some(Value::Array(all))
}

fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten()
}

fn is_foreign(entry: &Value) -> bool {
    let manager = entry["manager"].as_str().unwrap_or_default();
    let scales = entry["subresource"] == "scale";
    manager != FIELD_MANAGER
        && !CONTROLLERS.contains(&manager)
        && (entry.get("subresource").is_none() || scales)
}

/// The fields of an entry as people write them, without those that controllers write.
fn fields(entry: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(map) = entry["fieldsV1"].as_object() {
        collect(map, "", &mut found);
    }
    found.retain(|field| {
        let within = |prefix: &&str| field == *prefix || field.starts_with(&format!("{prefix}."));
        !THEIRS.iter().any(within)
    });
    found
}

/// Fields of a set (Kubernetes: structured-merge-diff, FieldsV1): `f:` a field, `k:` an item by its keys, `v:` a value.
fn collect(map: &Map<String, Value>, at: &str, found: &mut Vec<String>) {
    for (key, below) in map {
        let Some((sort, rest)) = key.split_once(':') else { continue };
        let at = match sort {
            "f" if at.is_empty() => rest.to_owned(),
            "f" => format!("{at}.{rest}"),
            "k" => format!("{at}[{}]", item(rest)),
            _ => format!("{at}[{}]", rest.trim_matches('"')),
        };
        match below.as_object().filter(|below| below.keys().any(|key| key != ".")) {
            Some(below) => collect(below, &at, found),
            None => found.push(at),
        }
    }
}

fn item(keys: &str) -> String {
    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
    let words = keys.values().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    words.collect::<Vec<_>>().join("/")
}

fn merge(one: &mut Value, other: &Value) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in other {
                match one.get_mut(key) {
                    Some(mine) => merge(mine, value),
                    None => {
                        one.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (one, other) if one.is_null() => *one = other.clone(),
        _ => {}
    }
}
