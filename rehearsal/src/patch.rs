//! The three patches that are not an apply: JSON merge (RFC 7386), strategic merge, JSON patch (RFC 6902).
//!
//! Each is a function from a live value and a patch to the patched value; none knows resources or the store.

use serde_json::{Map, Value};

use crate::object;
use crate::schema::{self, List, Shape};
use crate::status::Failure;

/// JSON merge patch: objects merge, null removes, everything else replaces.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(target) = into else { return };
    for (field, value) in patch {
        if value.is_null() {
            target.shift_remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge patch, by the merge keys of the published schema.
pub(crate) fn strategic(shape: &Shape, into: &mut Value, patch: &Value) -> Result<(), Failure> {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *into = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            *into = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(target) = into else { return Ok(()) };
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|field, _| keep.iter().any(|kept| kept == field));
    }
    for (field, value) in patch {
        if let Some(listed) = field.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (target.get_mut(listed), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
        } else if field.starts_with('$') {
            // $setElementOrder only orders; $patch and $retainKeys are done.
        } else if value.is_null() || value["$patch"] == "delete" {
            target.shift_remove(field);
        } else {
            let place = target.entry(field.clone()).or_insert(Value::Null);
            strategic_field(&schema::child(shape, field), place, value)?;
        }
    }
    Ok(())
}

fn strategic_field(shape: &Shape, into: &mut Value, patch: &Value) -> Result<(), Failure> {
    match (shape, patch) {
        (Shape::List(list, item), Value::Array(patches)) => {
            let old = into.as_array().cloned().unwrap_or_default();
            *into = Value::Array(strategic_items(list, item, old, patches)?);
            Ok(())
        }
        // A strategic merge knows no atomic maps: it merges them, as it did before server-side apply.
        (Shape::Atomic(inner), _) => strategic_field(inner, into, patch),
        (_, Value::Object(_)) => strategic(shape, into, patch),
        _ => {
            *into = patch.clone();
            Ok(())
        }
    }
}

fn strategic_items(
    list: &List,
    item: &Shape,
    mut old: Vec<Value>,
    patches: &[Value],
) -> Result<Vec<Value>, Failure> {
    if patches
        .iter()
        .any(|patch| patch["$patch"] == "replace" && patch.as_object().is_some_and(|map| map.len() == 1))
    {
        return Ok(patches.iter().filter(|patch| patch["$patch"] != "replace").cloned().collect());
    }
    let key = match list {
        List::Atomic => return Ok(patches.to_vec()),
        List::Set => {
            for patch in patches {
                if !old.contains(patch) {
                    old.push(patch.clone());
                }
            }
            return Ok(old);
        }
        List::Keyed { patch_key, .. } => patch_key,
    };
    let order: Vec<Value> = old.iter().map(|item| item[key.as_str()].clone()).collect();
    for patch in patches {
        let wanted = &patch[key.as_str()];
        if wanted.is_null() {
            let message = format!("map: {patch} does not contain declared merge key: {key}");
            return Err(Failure::bad_request(message));
        }
        let found = old.iter().position(|other| &other[key.as_str()] == wanted);
        match (patch["$patch"].as_str(), found) {
            (Some("delete"), Some(_)) => old.retain(|other| &other[key.as_str()] != wanted),
            (Some("delete"), None) => {}
            (_, Some(at)) => strategic(item, &mut old[at], patch)?,
            (_, None) => {
                let mut fresh = Value::Object(Map::new());
                strategic(item, &mut fresh, patch)?;
                old.push(fresh);
            }
        }
    }
    Ok(in_order(old, patches, &order, key))
}

/// Items that the patch names come in its order, the others in theirs; before one that the patch names come only those that
/// are known to stand before it (apimachinery, strategicpatch: `normalizeElementOrder`). So new items come first.
fn in_order(items: Vec<Value>, patches: &[Value], order: &[Value], key: &str) -> Vec<Value> {
    let of = |item: &Value| item[key].clone();
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| patches.iter().any(|patch| of(patch) == of(item)));
    named.sort_by_key(|item| patches.iter().position(|patch| of(patch) == of(item)));
    let stood = |item: &Value| order.iter().position(|other| *other == of(item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut all = Vec::new();
    loop {
        match (named.peek(), others.peek()) {
            (Some(next), Some(other)) => {
                let before = stood(next).is_some_and(|at| stood(other).is_some_and(|stood| stood < at));
                all.extend(if before { others.next() } else { named.next() });
            }
            (Some(_), None) => all.extend(named.next()),
            (None, Some(_)) => all.extend(others.next()),
            (None, None) => return all,
        }
    }
}

fn without_directives(patch: &Map<String, Value>) -> Value {
    Value::Object(
        patch
            .iter()
            .filter(|(field, _)| !field.starts_with('$'))
            .map(|(f, v)| (f.clone(), v.clone()))
            .collect(),
    )
}

/// JSON patch: every operation in order, all or none.
pub(crate) fn json(into: &Value, operations: &Value) -> Result<Value, Failure> {
    let Value::Array(operations) = operations else {
        return Err(Failure::bad_request("a JSON patch is a list of operations"));
    };
    let mut value = into.clone();
    for operation in operations {
        operate(&mut value, operation)?;
    }
    Ok(value)
}

fn operate(value: &mut Value, operation: &Value) -> Result<(), Failure> {
    let path = object::text(operation, "/path");
    let from = object::text(operation, "/from");
    let refused = Failure::patch_does_not_apply;
    let given = operation.get("value").cloned().unwrap_or(Value::Null);
    match object::text(operation, "/op") {
        "add" => add(value, path, given).ok_or_else(refused),
        "remove" => take(value, path).map(drop).ok_or_else(refused),
        "replace" => {
            *value.pointer_mut(path).ok_or_else(refused)? = given;
            Ok(())
        }
        "test" if value.pointer(path).unwrap_or(&Value::Null) == &given => Ok(()),
        "test" => Err(refused()),
        "copy" | "move" => {
            let copied = value.pointer(from).cloned().ok_or_else(refused)?;
            if operation["op"] == "move" {
                take(value, from);
            }
            add(value, path, copied).ok_or_else(refused)
        }
        other => Err(Failure::bad_request(format!("unexpected kind of operation: {other:?}"))),
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (way, last) = path.rsplit_once('/')?;
    Some((way, last.replace("~1", "/").replace("~0", "~")))
}

fn add(value: &mut Value, path: &str, given: Value) -> Option<()> {
    if path.is_empty() {
        *value = given;
        return Some(());
    }
    let (way, last) = split(path)?;
    match value.pointer_mut(way)? {
        Value::Object(map) => {
            map.insert(last, given);
        }
        Value::Array(items) if last == "-" => items.push(given),
        Value::Array(items) => {
            let at: usize = last.parse().ok().filter(|at| *at <= items.len())?;
            items.insert(at, given);
        }
        _ => return None,
    }
    Some(())
}

fn take(value: &mut Value, path: &str) -> Option<Value> {
    let (way, last) = split(path)?;
    match value.pointer_mut(way)? {
        Value::Object(map) => map.shift_remove(&last),
        Value::Array(items) => {
            let at: usize = last.parse().ok().filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_spec() -> Shape {
        Shape::Struct("core.v1.PodSpec".to_owned())
    }

    #[test]
    fn strategic_merge_goes_by_merge_keys_and_directives() {
        let live = || json!({"containers": [{"name": "a", "image": "i:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "j:1"}]});
        let table = [
            (
                json!({"containers": [{"name": "a", "image": "i:2"}]}),
                json!({"containers": [{"name": "a", "image": "i:2", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "j:1"}]}),
            ),
            (
                json!({"containers": [{"name": "b", "$patch": "delete"}]}),
                json!({"containers": [{"name": "a", "image": "i:1", "env": [{"name": "X", "value": "1"}]}]}),
            ),
            (
                json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": "k"}]}),
                json!({"containers": [{"name": "c", "image": "k"}]}),
            ),
            (
                json!({"containers": [{"name": "a", "env": null}], "hostname": "h"}),
                json!({"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:1"}], "hostname": "h"}),
            ),
        ];
        for (patch, expected) in table {
            let mut value = live();
            strategic(&pod_spec(), &mut value, &patch).unwrap();
            assert_eq!(value, expected, "{patch}");
        }
        assert!(strategic(&pod_spec(), &mut live(), &json!({"containers": [{"image": "x"}]})).is_err());
    }

    #[test]
    fn json_patches_apply_all_or_say_what_is_missing() {
        let live = json!({"a": {"b/c": 1}, "list": [1, 2]});
        let patched = json(
            &live,
            &json!([
                {"op": "test", "path": "/a/b~1c", "value": 1},
                {"op": "add", "path": "/list/-", "value": 3},
                {"op": "add", "path": "/list/0", "value": 0},
                {"op": "replace", "path": "/a/b~1c", "value": 2},
                {"op": "move", "from": "/list/3", "path": "/moved"},
                {"op": "remove", "path": "/list/1"},
            ]),
        );
        assert_eq!(patched.unwrap(), json!({"a": {"b/c": 2}, "list": [0, 2], "moved": 3}));
        for bad in [
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "test", "path": "/a", "value": 0}]),
            json!({}),
        ] {
            assert!(json(&live, &bad).is_err());
        }
    }

    #[test]
    fn merge_patches_remove_by_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut value, &json!({"a": {"b": null}, "d": [2]}));
        assert_eq!(value, json!({"a": {"c": 2}, "d": [2]}));
    }
}
