//! Sets of fields: who owns what, in the form of `managedFields`.
//!
//! A path goes through structures and maps by field, through keyed lists by their keys, through sets by value.
//! What is replaced as a whole has no paths inside. Nothing here decides about ownership; `apply.rs` does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::{self, List, Shape};

/// One step of a path. `Key` and `Item` hold canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Field(String),
    Key(String),
    Item(String),
}

pub(crate) type Path = Vec<Step>;
pub(crate) type Set = BTreeSet<Path>;

/// Every owned place of a value, with what is there: leaves have their value, members of lists have none.
pub(crate) fn flatten(shape: &Shape, value: &Value) -> Result<BTreeMap<Path, Option<Value>>, String> {
    let mut out = BTreeMap::new();
    walk(shape, value, &mut Vec::new(), &mut out)?;
    Ok(out)
}

/// The places that have places inside, on the way to those of [`flatten`]: structures, maps and lists.
pub(crate) fn containers(places: &BTreeMap<Path, Option<Value>>) -> Set {
    places.keys().flat_map(|path| (1..path.len()).map(|length| path[..length].to_vec())).collect()
}

/// The set of a whole object, without what belongs to nobody.
pub(crate) fn of_object(shape: &Shape, object: &Value) -> Result<Set, String> {
    Ok(flatten(shape, object)?.into_keys().filter(|path| !belongs_to_nobody(path)).collect())
}

/// `apiVersion`, `kind` and the metadata that the server keeps are in nobody's hands.
pub(crate) fn belongs_to_nobody(path: &Path) -> bool {
    const METADATA: &[&str] = &[
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ];
    match path.as_slice() {
        [Step::Field(first)] => matches!(first.as_str(), "apiVersion" | "kind" | "metadata"),
        [Step::Field(first), Step::Field(second), ..] => {
            first == "metadata" && METADATA.contains(&second.as_str())
        }
        _ => false,
    }
}

fn walk(
    shape: &Shape,
    value: &Value,
    path: &mut Path,
    out: &mut BTreeMap<Path, Option<Value>>,
) -> Result<(), String> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Any, Value::Object(map)) if !map.is_empty() => {
            for (field, inner) in map {
                path.push(Step::Field(field.clone()));
                walk(&schema::child(shape, field), inner, path, out)?;
                path.pop();
            }
        }
        (Shape::List(list, item), Value::Array(items)) if !items.is_empty() && *list != List::Atomic => {
            for inner in items {
                path.push(step(list, inner).map_err(|why| format!("{}: {why}", display(path)))?);
                if out.insert(path.clone(), None).is_some() {
                    let last = path.pop();
                    let said = last.map(|step| display(&[step])).unwrap_or_default();
                    return Err(format!("{}: duplicate entries for key {said}", display(path)));
                }
                if matches!(list, List::Keyed { .. }) {
                    walk(item, inner, path, out)?;
                }
                path.pop();
            }
        }
        _ => {
            out.insert(path.clone(), Some(value.clone()));
        }
    }
    Ok(())
}

/// The step that leads to an item of a list.
pub(crate) fn step(list: &List, item: &Value) -> Result<Step, String> {
    match list {
        List::Atomic => Err("has no steps inside".to_owned()),
        List::Set => Ok(Step::Item(item.to_string())),
        List::Keyed { keys, .. } => {
            let mut found: Vec<(&str, Value)> = Vec::new();
            for key in keys {
                match &item[key.as_str()] {
                    Value::Null if key == "protocol" => found.push((key, Value::from("TCP"))),
                    Value::Null => {
                        let what = "associative list with keys has an element that omits key field";
                        return Err(format!("element 0: {what} {key:?}"));
                    }
                    value => found.push((key, value.clone())),
                }
            }
            found.sort_by(|a, b| a.0.cmp(b.0));
            let map: Map<String, Value> =
                found.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            Ok(Step::Key(Value::Object(map).to_string()))
        }
    }
}

/// Adds, for every path, the named fields of structures on the way to it.
pub(crate) fn with_named_fields(root: &Shape, set: &Set) -> Set {
    let mut out = set.clone();
    for path in set {
        let mut shape = root.clone();
        for (at, step) in path.iter().enumerate() {
            if matches!(shape, Shape::Struct(_)) {
                out.insert(path[..=at].to_vec());
            }
            shape = below(&shape, step);
        }
    }
    out.retain(|path| !belongs_to_nobody(path));
    out
}

fn below(shape: &Shape, step: &Step) -> Shape {
    match (shape, step) {
        (Shape::List(_, item), Step::Key(_) | Step::Item(_)) => (**item).clone(),
        (_, Step::Field(field)) => schema::child(shape, field),
        _ => Shape::Any,
    }
}

/// Takes the values at the paths away from an object.
pub(crate) fn remove(root: &Shape, object: &mut Value, paths: &Set) {
    for path in paths {
        remove_one(root, object, path);
    }
}

fn remove_one(shape: &Shape, value: &mut Value, path: &[Step]) {
    let Some((first, rest)) = path.split_first() else { return };
    match (value, first) {
        (Value::Object(map), Step::Field(field)) if rest.is_empty() => {
            map.shift_remove(field);
        }
        (Value::Object(map), Step::Field(field)) => {
            if let Some(inner) = map.get_mut(field) {
                remove_one(&schema::child(shape, field), inner, rest);
            }
        }
        (Value::Array(items), wanted) => {
            let Shape::List(list, item) = shape else { return };
            let found = items.iter().position(|item| step(list, item).as_ref() == Ok(wanted));
            match found {
                Some(at) if rest.is_empty() => {
                    items.remove(at);
                }
                Some(at) => remove_one(item, &mut items[at], rest),
                None => {}
            }
        }
        _ => {}
    }
}

/// A set as `fieldsV1` writes it.
pub(crate) fn encode(set: &Set) -> Value {
    let mut root = Map::new();
    for path in set {
        // A place with places inside says "." for itself; for a leaf its presence is enough.
        let after = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        let has_inside = set.range::<Path, _>(after).next().is_some_and(|next| next.starts_with(path));
        insert(&mut root, path, has_inside);
    }
    Value::Object(root)
}

fn insert(place: &mut Map<String, Value>, path: &[Step], has_inside: bool) {
    let Some((first, rest)) = path.split_first() else {
        if has_inside {
            place.insert(".".to_owned(), Value::Object(Map::new()));
        }
        return;
    };
    let name = match first {
        Step::Field(field) => format!("f:{field}"),
        Step::Key(keys) => format!("k:{keys}"),
        Step::Item(value) => format!("v:{value}"),
    };
    if let Value::Object(inner) = place.entry(name).or_insert_with(|| Value::Object(Map::new())) {
        insert(inner, rest, has_inside);
    }
}

/// Reads `fieldsV1`.
pub(crate) fn decode(encoded: &Value) -> Set {
    fn read(value: &Value, path: &mut Path, out: &mut Set) {
        let Some(map) = value.as_object() else { return };
        if map.is_empty() {
            if !path.is_empty() {
                out.insert(path.clone());
            }
            return;
        }
        for (name, inner) in map {
            let step = match name.split_at_checked(2) {
                _ if name == "." => {
                    out.insert(path.clone());
                    continue;
                }
                Some(("f:", field)) => Step::Field(field.to_owned()),
                Some(("k:", keys)) => Step::Key(keys.to_owned()),
                Some(("v:", value)) => Step::Item(value.to_owned()),
                _ => continue,
            };
            path.push(step);
            read(inner, path, out);
            path.pop();
        }
    }
    let mut out = Set::new();
    read(encoded, &mut Vec::new(), &mut out);
    out
}

/// A path as conflicts print it: `.spec.template.spec.containers[name="app"].image`.
pub(crate) fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(field) => {
                text.push('.');
                text.push_str(field);
            }
            Step::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let said: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                text.push_str(&format!("[{}]", said.join(",")));
            }
            Step::Item(value) => text.push_str(&format!("[={value}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_set_is_written_as_kubernetes_writes_it_and_reads_back() {
        let shape = schema::root(crate::kinds::by_resource("deployments.apps").unwrap());
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "x", "labels": {"app": "a"}, "finalizers": ["example.com/hold"]},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "a"}}, "template": {"spec": {"containers": [
                {"name": "app", "image": "i:1", "args": ["x"], "ports": [{"containerPort": 80}]}
            ]}}}
        });
        let set = of_object(&shape, &object).unwrap();
        let encoded = encode(&set);
        assert_eq!(
            encoded,
            json!({
                "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {"v:\"example.com/hold\"": {}}},
                "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:spec": {"f:containers": {
                    "k:{\"name\":\"app\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}
                    }}
                }}}}
            })
        );
        assert_eq!(decode(&encoded), set);
    }

    #[test]
    fn items_without_their_key_and_twice_the_same_key_are_refused() {
        let shape = Shape::Struct("core.v1.PodSpec".to_owned());
        assert!(
            flatten(&shape, &json!({"containers": [{"image": "x"}]}))
                .unwrap_err()
                .contains("omits key field")
        );
        let twice = json!({"containers": [{"name": "x"}, {"name": "x"}]});
        assert!(flatten(&shape, &twice).unwrap_err().contains("duplicate entries"));
    }
}
