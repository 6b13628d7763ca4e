//! Reading and writing places in JSON objects, so that the rest says what it means.
//!
//! Nothing here knows a kind or fails: an absent place reads as empty, and a write makes the way to its place.

use serde_json::{Map, Value};

/// The text at a JSON pointer, or "".
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a JSON pointer.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// The list at a JSON pointer, or an empty one.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn map<'a>(value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    value.pointer(pointer).and_then(Value::as_object)
}

pub(crate) fn name(value: &Value) -> &str {
    text(value, "/metadata/name")
}

pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "/metadata/namespace")
}

pub(crate) fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

pub(crate) fn label<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    map(value, "/metadata/labels")?.get(key)?.as_str()
}

pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    map(value, "/metadata/annotations")?.get(key)?.as_str()
}

/// True while the object waits for its end.
pub(crate) fn is_dying(value: &Value) -> bool {
    value.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// The uid of the controller that owns the object.
pub(crate) fn controller_uid(value: &Value) -> Option<&str> {
    list(value, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)
        .and_then(|owner| owner["uid"].as_str())
}

/// The uids of all owners of the object.
pub(crate) fn owner_uids(value: &Value) -> impl Iterator<Item = &str> {
    list(value, "/metadata/ownerReferences").iter().filter_map(|owner| owner["uid"].as_str())
}

/// Whether a selector of equal labels holds for the labels; an empty selector holds for nothing.
pub(crate) fn selects(selector: Option<&Map<String, Value>>, labels: Option<&Map<String, Value>>) -> bool {
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    let Some(labels) = labels else { return false };
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Writes a value at a path of fields, making the objects on the way.
pub(crate) fn set(value: &mut Value, path: &[&str], to: impl Into<Value>) {
    let mut place = value;
    for field in path {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(map) = place else { return };
        place = map.entry(*field).or_insert(Value::Null);
    }
    *place = to.into();
}

/// Writes a value at a path of fields where nothing is there.
pub(crate) fn set_default(value: &mut Value, path: &[&str], to: impl Into<Value>) {
    let mut here = &*value;
    for field in path {
        here = &here[*field];
    }
    if here.is_null() {
        set(value, path, to);
    }
}

/// Takes the value at a path of fields away.
pub(crate) fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    let mut place = value;
    for field in way {
        place = place.get_mut(*field)?;
    }
    place.as_object_mut()?.shift_remove(*last)
}

/// Drops every field whose value is null, at any depth: to the API server they are absent.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
