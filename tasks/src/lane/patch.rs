//! Changes to the copy of one object: a strategic merge patch, or a JSON patch (RFC 6902).
//!
//! Pure: a value and a patch give a value, or a sentence that says why not. Whether the result may be a lane's object is
//! judged afterwards, in `lane.rs`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::references::{self, Names};
use crate::manifest::{kind, name};

/// A change to the copy of one baseline object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchWith {
    /// The baseline object whose copy is changed.
    pub target: Target,
    /// The change: a map is merged as `kubectl patch` does it by default (strategic merge), a list is a JSON patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Change>,
    /// The file that holds the change, relative to the workflow's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// The baseline object that a patch is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its kind.
    pub kind: String,
    /// Its name in the service's manifest.
    pub name: String,
}

/// A strategic merge patch, or the operations of a JSON patch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Change {
    /// Merged into the object; lists of Kubernetes' own kinds merge by their keys.
    Merge(Map<String, Value>),
    /// Carried out one after the other, all or none.
    Operations(Vec<Value>),
}

impl Change {
    /// Reads the text of a patch file.
    ///
    /// # Errors
    /// A fragment of a sentence.
    pub fn parse(text: &str) -> Result<Change, String> {
        let value: Value = serde_yaml::from_str(text).map_err(|error| {
            let words = error.to_string();
            format!("is not valid YAML: {}", words.lines().next().unwrap_or_default())
        })?;
        serde_json::from_value(value)
            .map_err(|_| "is no patch: expected a map (strategic merge) or a list (JSON patch)".into())
    }
}

/// A patch whose change is at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The baseline object.
    pub target: Target,
    /// The change.
    pub change: Change,
}

impl Patch {
    /// Whether it is for this object.
    pub fn is_for(&self, object: &Value) -> bool {
        kind(object) == self.target.kind && name(object) == self.target.name
    }

    /// Changes a copy. Names in the patch are the baseline's; they follow to what is renamed with the service.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn apply(&self, copy: &mut Value, tag: &str, names: &Names) -> Result<(), String> {
        let changed = match &self.change {
            Change::Merge(patch) => {
                let mut patch = Value::Object(patch.clone());
                references::follow(&self.target.kind, &mut patch, tag, names);
                if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
                    // It may name the object that it is for.
                    if metadata.get("name").and_then(Value::as_str) == Some(&self.target.name) {
                        metadata.remove("name");
                    }
                }
                let mut changed = copy.clone();
                merge(Keys::of(&self.target.kind), &mut changed, &patch)?;
                changed
            }
            Change::Operations(operations) => {
                let mut changed = copy.clone();
                for (index, operation) in operations.iter().enumerate() {
                    operate(&mut changed, operation)
                        .map_err(|why| format!("operation {}: {why}", index + 1))?;
                }
                references::follow(&self.target.kind, &mut changed, tag, names);
                changed
            }
        };
        *copy = changed;
        super::strip::without_nulls(copy);
        Ok(())
    }

    /// The patch in messages.
    pub fn shown(&self) -> String {
        format!("the patch of {} {}", self.target.kind, self.target.name)
    }
}

/// Which lists merge item by item, by what key (Kubernetes API: `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, Copy)]
struct Keys(&'static [(&'static str, &'static str)]);

const POD_KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("volumes", "name"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
];
const SERVICE_KEYS: &[(&str, &str)] = &[("ports", "port")];

impl Keys {
    fn of(kind: &str) -> Keys {
        match kind {
            "Deployment" => Keys(POD_KEYS),
            "Service" => Keys(SERVICE_KEYS),
            // The lists of an Ingress and of an HTTPRoute are replaced as a whole.
            _ => Keys(&[]),
        }
    }

    fn key(self, field: &str) -> Option<&'static str> {
        self.0.iter().find(|(list, _)| *list == field).map(|(_, key)| *key)
    }
}

/// Fields of which one form excludes the others: what a patch gives replaces what was there (`retainKeys`).
const ONE_FORM: [&str; 1] = ["strategy"];

fn merge(keys: Keys, into: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *into = Value::Object(plain(patch));
            return Ok(());
        }
        Some("delete") => {
            *into = Value::Null;
            return Ok(());
        }
        Some(other) => return Err(format!("`$patch: {other}` is none of `merge`, `replace` and `delete`")),
    }
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(target) = into else { return Ok(()) };
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|field, _| kept.iter().any(|one| one.as_str() == Some(field)));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Some(gone)) = (target.get_mut(list), value.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if field.starts_with('$') {
            // `$setElementOrder/...` says only an order.
            continue;
        }
        if value.is_null() {
            target.remove(field);
            continue;
        }
        let place = target.entry(field.clone()).or_insert(Value::Null);
        match (keys.key(field), value) {
            (Some(key), Value::Array(items)) => merge_list(keys, field, key, place, items)?,
            (None, Value::Object(map)) if ONE_FORM.contains(&field.as_str()) && map.contains_key("type") => {
                *place = Value::Object(plain(map));
            }
            (_, Value::Object(_)) => merge(keys, place, value)?,
            (_, Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                *place = value.clone();
            }
        }
        if place.is_null() {
            target.remove(field);
        }
    }
    Ok(())
}

fn merge_list(keys: Keys, field: &str, key: &str, into: &mut Value, patches: &[Value]) -> Result<(), String> {
    let mut items = into.as_array().cloned().unwrap_or_default();
    let alone = |patch: &Value| patch.as_object().is_some_and(|map| map.len() == 1);
    if patches.iter().any(|patch| patch["$patch"] == "replace" && alone(patch)) {
        *into = patches.iter().filter(|patch| patch["$patch"] != "replace").cloned().collect();
        return Ok(());
    }
    for patch in patches {
        let wanted = &patch[key];
        if wanted.is_null() {
            return Err(format!("an item of `{field}` does not say which one it means: it lacks `{key}`"));
        }
        let found = items.iter().position(|item| &item[key] == wanted);
        match (patch["$patch"].as_str(), found) {
            (Some("delete"), Some(at)) => {
                items.remove(at);
            }
            (Some("delete"), None) => {}
            (_, Some(at)) => {
                // A volume is of one type: what a patch gives replaces what it was.
                if field == "volumes"
                    && patch["$patch"].is_null()
                    && patch.as_object().is_some_and(|m| m.len() > 1)
                {
                    items[at] = patch.clone();
                } else {
                    merge(keys, &mut items[at], patch)?;
                }
            }
            (_, None) => {
                let mut fresh = Value::Null;
                merge(keys, &mut fresh, patch)?;
                items.push(fresh);
            }
        }
    }
    *into = Value::Array(items);
    Ok(())
}

/// A patch without its directives, as a value.
fn plain(patch: &Map<String, Value>) -> Map<String, Value> {
    patch.iter().filter(|(field, _)| !field.starts_with('$')).map(|(f, v)| (f.clone(), v.clone())).collect()
}

fn operate(value: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let op = text("op").ok_or("it lacks `op`")?;
    let path = text("path").ok_or("it lacks `path`")?;
    let given = || operation.get("value").cloned().ok_or_else(|| format!("`{op}` lacks `value`"));
    let from = || text("from").ok_or_else(|| format!("`{op}` lacks `from`"));
    let there = |value: &Value, pointer: &str| {
        value.pointer(pointer).cloned().ok_or_else(|| format!("there is nothing at `{pointer}`"))
    };
    match op {
        "add" => add(value, path, given()?),
        "remove" => remove(value, path).map(drop),
        "replace" => {
            let new = given()?;
            let place = value.pointer_mut(path).ok_or_else(|| format!("there is nothing at `{path}`"))?;
            *place = new;
            Ok(())
        }
        "move" => {
            let from = from()?;
            if path.starts_with(&format!("{from}/")) {
                return Err(format!("`{from}` cannot be moved into itself"));
            }
            let moved = remove(value, from)?;
            add(value, path, moved)
        }
        "copy" => {
            let copied = there(value, from()?)?;
            add(value, path, copied)
        }
        "test" => {
            let (is, wanted) = (there(value, path)?, given()?);
            if is == wanted { Ok(()) } else { Err(format!("`{path}` is {is}, not {wanted}")) }
        }
        other => Err(format!("`{other}` is no operation: use add, remove, replace, move, copy or test")),
    }
}

/// The parent of a place, and the last step to it.
fn parent<'v>(value: &'v mut Value, path: &str) -> Result<(&'v mut Value, String), String> {
    let (above, last) =
        path.rsplit_once('/').ok_or_else(|| format!("`{path}` is no pointer: it begins with `/`"))?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let found = value.pointer_mut(above).ok_or_else(|| format!("there is nothing at `{above}`"))?;
    Ok((found, last))
}

fn add(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let (above, last) = parent(value, path)?;
    match above {
        Value::Object(map) => {
            map.insert(last, new);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" { items.len() } else { index(&last, path)? };
            if at > items.len() {
                return Err(format!("the list of `{path}` has {} items", items.len()));
            }
            items.insert(at, new);
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(format!("`{path}` leads into a value that holds nothing"))
        }
    }
}

fn remove(value: &mut Value, path: &str) -> Result<Value, String> {
    let nothing = || format!("there is nothing at `{path}`");
    let (above, last) = parent(value, path)?;
    match above {
        Value::Object(map) => map.remove(&last).ok_or_else(nothing),
        Value::Array(items) => {
            let at = index(&last, path)?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(nothing()) }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(nothing()),
    }
}

fn index(step: &str, path: &str) -> Result<usize, String> {
    step.parse().map_err(|_| format!("`{path}` leads into a list, and `{step}` is no place in one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(kind: &str, object: Value, change: Value) -> Result<Value, String> {
        let mut object = object;
        let target = Target { kind: kind.into(), name: "x".into() };
        let patch = Patch { target, change: serde_json::from_value(change).expect("a change") };
        patch.apply(&mut object, "gray", &Names::from([("ConfigMap".into(), "mine".into())]))?;
        Ok(object)
    }

    fn pods(containers: Value) -> Value {
        json!({ "spec": { "template": { "spec": { "containers": containers } } } })
    }

    #[test]
    fn a_strategic_merge_patch_merges_lists_by_their_keys() {
        let two = || json!([{ "name": "a", "image": "a:1", "env": [{ "name": "X", "value": "1" }], "args": ["one"] }, { "name": "b" }]);
        let table = [
            (
                "an item with the same key is merged, a new one is added",
                json!([{ "name": "a", "env": [{ "name": "X", "value": "2" }, { "name": "Y", "value": "3" }] }, { "name": "c" }]),
                json!([{ "name": "a", "image": "a:1", "env": [{ "name": "X", "value": "2" }, { "name": "Y", "value": "3" }], "args": ["one"] }, { "name": "b" }, { "name": "c" }]),
            ),
            (
                "a list without a key is replaced",
                json!([{ "name": "a", "args": ["two"] }]),
                json!([{ "name": "a", "image": "a:1", "env": [{ "name": "X", "value": "1" }], "args": ["two"] }, { "name": "b" }]),
            ),
            (
                "null removes a field",
                json!([{ "name": "a", "env": null, "args": null }]),
                json!([{ "name": "a", "image": "a:1" }, { "name": "b" }]),
            ),
            (
                "$patch: delete removes an item",
                json!([{ "name": "a", "$patch": "delete" }]),
                json!([{ "name": "b" }]),
            ),
            (
                "$patch: replace replaces the list",
                json!([{ "$patch": "replace" }, { "name": "only" }]),
                json!([{ "name": "only" }]),
            ),
        ];
        for (what, patch, expected) in table {
            let got = patched("Deployment", pods(two()), pods(patch)).expect(what);
            assert_eq!(got, pods(expected), "{what}");
        }
        let wrong = patched("Deployment", pods(two()), pods(json!([{ "image": "x" }]))).expect_err("no key");
        assert_eq!(wrong, "an item of `containers` does not say which one it means: it lacks `name`");
    }

    #[test]
    fn ports_merge_by_another_key_in_a_service_and_not_at_all_in_an_ingress() {
        let service = json!({ "spec": { "ports": [{ "port": 80, "targetPort": 1 }] } });
        let got = patched(
            "Service",
            service,
            json!({ "spec": { "ports": [{ "port": 80, "targetPort": 2 }, { "port": 81 }] } }),
        );
        assert_eq!(
            got,
            Ok(json!({ "spec": { "ports": [{ "port": 80, "targetPort": 2 }, { "port": 81 }] } }))
        );
        let ingress = json!({ "spec": { "rules": [{ "host": "a" }, { "host": "b" }] } });
        let got = patched("Ingress", ingress, json!({ "spec": { "rules": [{ "host": "c" }] } }));
        assert_eq!(got, Ok(json!({ "spec": { "rules": [{ "host": "c" }] } })));
    }

    #[test]
    fn a_volume_and_a_strategy_are_of_one_form() {
        let spec = json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1 } },
            "template": { "spec": { "volumes": [{ "name": "v", "emptyDir": {} }] } } } });
        let patch = json!({ "spec": { "strategy": { "type": "Recreate" },
            "template": { "spec": { "volumes": [{ "name": "v", "configMap": { "name": "mine" } }] } } } });
        let got = patched("Deployment", spec, patch).expect("patched");
        assert_eq!(got["spec"]["strategy"], json!({ "type": "Recreate" }));
        let volume = json!([{ "name": "v", "configMap": { "name": "mine-mse-gray" } }]);
        assert_eq!(got["spec"]["template"]["spec"]["volumes"], volume, "names in a patch are the baseline's");
    }

    #[test]
    fn a_json_patch_is_carried_out_as_the_rfc_says_or_not_at_all() {
        let object = || json!({ "a": { "b": [1, 2] }, "c~/d": 1 });
        let table: [(&str, Value, Result<Value, &str>); 14] = [
            (
                "add to a map",
                json!([{ "op": "add", "path": "/x", "value": 1 }]),
                Ok(json!({ "a": { "b": [1, 2] }, "c~/d": 1, "x": 1 })),
            ),
            (
                "add to the end",
                json!([{ "op": "add", "path": "/a/b/-", "value": 3 }]),
                Ok(json!({ "a": { "b": [1, 2, 3] }, "c~/d": 1 })),
            ),
            (
                "add in the middle",
                json!([{ "op": "add", "path": "/a/b/1", "value": 9 }]),
                Ok(json!({ "a": { "b": [1, 9, 2] }, "c~/d": 1 })),
            ),
            (
                "remove",
                json!([{ "op": "remove", "path": "/a/b/0" }]),
                Ok(json!({ "a": { "b": [2] }, "c~/d": 1 })),
            ),
            (
                "an escaped name",
                json!([{ "op": "replace", "path": "/c~0~1d", "value": 2 }]),
                Ok(json!({ "a": { "b": [1, 2] }, "c~/d": 2 })),
            ),
            (
                "move",
                json!([{ "op": "move", "from": "/a/b", "path": "/b" }]),
                Ok(json!({ "a": {}, "b": [1, 2], "c~/d": 1 })),
            ),
            (
                "copy",
                json!([{ "op": "copy", "from": "/a/b/0", "path": "/z" }]),
                Ok(json!({ "a": { "b": [1, 2] }, "c~/d": 1, "z": 1 })),
            ),
            ("a test that holds", json!([{ "op": "test", "path": "/a/b/0", "value": 1 }]), Ok(object())),
            (
                "a test that fails",
                json!([{ "op": "test", "path": "/a/b/0", "value": 7 }]),
                Err("operation 1: `/a/b/0` is 1, not 7"),
            ),
            (
                "the second fails",
                json!([{ "op": "remove", "path": "/a" }, { "op": "remove", "path": "/a" }]),
                Err("operation 2: there is nothing at `/a`"),
            ),
            (
                "replace what is not there",
                json!([{ "op": "replace", "path": "/q", "value": 1 }]),
                Err("operation 1: there is nothing at `/q`"),
            ),
            (
                "a place past the end",
                json!([{ "op": "add", "path": "/a/b/9", "value": 1 }]),
                Err("operation 1: the list of `/a/b/9` has 2 items"),
            ),
            (
                "an unknown operation",
                json!([{ "op": "frobnicate", "path": "/a" }]),
                Err(
                    "operation 1: `frobnicate` is no operation: use add, remove, replace, move, copy or test",
                ),
            ),
            ("no value", json!([{ "op": "add", "path": "/a" }]), Err("operation 1: `add` lacks `value`")),
        ];
        for (what, operations, expected) in table {
            let got = patched("Deployment", object(), operations);
            assert_eq!(got, expected.map_err(str::to_owned), "{what}");
        }
    }
}
