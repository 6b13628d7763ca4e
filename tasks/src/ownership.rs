//! Whose fields a baseline's are, and how they become ours: the bookkeeping that `prod-deploy` does before it applies.
//!
//! ```text
//! kubectl apply, and whom the environment lists in `take_over`   -> ours: what the manifest no longer has goes
//! everybody else                                                 -> theirs: another value is a conflict
//! `replicas`, where no task says a number                        -> nobody's: the number stays as it is
//! ```
//! Functions of plain objects; nothing here writes to a cluster.

use serde_json::{Map, Value};

use crate::cluster::FIELD_MANAGER;

/// What `kubectl apply` wrote last, as it keeps it on the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// To whom the server gives what was there before anybody applied.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Where `managedFields` says that somebody owns the number of pods.
const REPLICAS: [&str; 2] = ["f:spec", "f:replicas"];

/// What a server or a controller gave, by kind: nobody takes it over where the manifest does not say it. To own it and leave it out
/// is to ask that it goes, and older servers refuse that (`primary clusterIP can not be unset`).
const GIVEN: [(&str, &[&str]); 2] = [
    (
        "Service",
        &["clusterIP", "clusterIPs", "ipFamily", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"],
    ),
    ("PersistentVolumeClaim", &["volumeName", "storageClassName", "volumeMode"]),
];

/// The fields of `spec` that were given to `object`, and that it does not say.
fn given(object: &Value) -> impl Iterator<Item = &'static str> + use<'_> {
    let all = GIVEN.iter().filter(|(kind, _)| object["kind"] == *kind).flat_map(|(_, fields)| fields.iter());
    all.copied().filter(|field| object["spec"].get(*field).is_none())
}

/// Whether the server keeps no record of who owns what: the object is older than that, or somebody has emptied it.
pub fn is_unkept(live: &Value) -> bool {
    live.pointer("/metadata/managedFields").and_then(Value::as_array).is_none_or(Vec::is_empty)
}

/// Whether we have applied the object.
pub(crate) fn is_applied(live: &Value) -> bool {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten().any(is_ours)
}

fn is_ours(entry: &Value) -> bool {
    entry.get("subresource").is_none() && entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply"
}

/// The record of who owns what, before `object` is applied over `live`: with the fields of `managers` among ours, as
/// kubectl's own upgrade does it, else a field that the manifest no longer has would stay for ever; and without the
/// number of pods where `object` says none, else it would fall to 1. None where nothing has to change.
pub fn taken_over<M: AsRef<str>>(live: &Value, object: &Value, managers: &[M]) -> Option<Value> {
    let entries = live.pointer("/metadata/managedFields")?.as_array()?;
    let whole = |entry: &&Value| entry.get("subresource").is_none();
    let mine = |entry: &&Value| is_ours(entry);
    let theirs = |entry: &&Value| {
        let named = |manager: &str| managers.iter().any(|other| other.as_ref() == manager);
        // What a rollback wrote is ours by another kind of write.
        let ours = entry["manager"] == FIELD_MANAGER && entry["operation"] == "Update";
        whole(entry) && !mine(entry) && (ours || entry["manager"].as_str().is_some_and(named))
    };
    let keeps_number = object["kind"] == "Deployment" && object.pointer("/spec/replicas").is_none();
    let own = entries.iter().find(mine);
    let owns_number =
        own.is_some_and(|entry| entry.pointer("/fieldsV1/f:spec/f:replicas").is_some()) && keeps_number;
    let first = entries.iter().find(theirs);
    if first.is_none() && !owns_number {
        return None;
    }
    let mut merged = own.or(first)?.clone();
    merged["manager"] = FIELD_MANAGER.into();
    merged["operation"] = "Apply".into();
    for entry in entries.iter().filter(theirs) {
        // Also of another version of the kind: what has one path in both goes, and the API server passes over paths that the
        // version does not have. Left out, they would be nobody's, and stay for ever.
        merged["fieldsV1"] = union(&merged["fieldsV1"], &entry["fieldsV1"]);
    }
    // kubectl's own copy of what it applied is among them, and goes with the rest: a later `kubectl apply` must not compare
    // with what was true before.
    if keeps_number {
        disown(&mut merged["fieldsV1"], &REPLICAS);
    }
    for field in given(object) {
        disown(&mut merged["fieldsV1"], &["f:spec", &format!("f:{field}")]);
    }
    let mut record: Vec<Value> =
        entries.iter().filter(|entry| !mine(entry) && !theirs(entry)).cloned().collect();
    record.push(merged);
    Some(Value::Array(record))
}

fn disown(fields: &mut Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = fields;
    for parent in parents {
        match at.get_mut(*parent) {
            Some(below) => at = below,
            None => return,
        }
    }
    if let Some(map) = at.as_object_mut() {
        map.remove(*last);
    }
}

fn union(one: &Value, other: &Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut both = one.clone();
            for (key, value) in other {
                let merged = both.get(key).map_or_else(|| value.clone(), |mine| union(mine, value));
                both.insert(key.clone(), merged);
            }
            Value::Object(both)
        }
        (Value::Null, other) => other.clone(),
        (one, _) => one.clone(),
    }
}

/// The fields that `kubectl apply` wrote last, that `object` no longer has, and that therefore go when what is kubectl's
/// becomes ours. A dry run cannot show them: it comes before the take-over.
pub fn going<M: AsRef<str>>(live: &Value, object: &Value, managers: &[M]) -> Vec<String> {
    let annotations = live.pointer("/metadata/annotations").and_then(Value::as_object);
    let applied = annotations
        .and_then(|annotations| annotations.get(LAST_APPLIED)?.as_str())
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (Some(applied), Some(_)) = (applied, taken_over(live, object, managers)) else { return Vec::new() };
    let mut found = Vec::new();
    missing(&applied, live, object, "", &mut found);
    const ASIDE: [&str; 6] = [
        ".apiVersion",
        ".status",
        ".spec.replicas",
        ".metadata.namespace",
        ".metadata.creationTimestamp",
        ".metadata.annotations",
    ];
    let given: Vec<String> = given(object).map(|field| format!(".spec.{field}")).collect();
    found.retain(|field| !ASIDE.iter().any(|aside| field == aside) && !given.contains(field));
    found
}

fn missing(applied: &Value, live: &Value, object: &Value, at: &str, found: &mut Vec<String>) {
    match (applied, live, object) {
        (Value::Object(applied), Value::Object(live), Value::Object(object)) => {
            for (key, value) in applied.iter().filter(|(_, value)| !value.is_null()) {
                let Some(there) = live.get(key) else { continue };
                match object.get(key) {
                    Some(said) => missing(value, there, said, &format!("{at}.{key}"), found),
                    None => found.push(format!("{at}.{key}")),
                }
            }
        }
        (Value::Array(applied), Value::Array(live), Value::Array(object)) => {
            for item in applied {
                let Some(name) = item.get("name").and_then(Value::as_str) else { continue };
                let named = |all: &[Value]| all.iter().find(|other| other["name"] == name).cloned();
                let at = format!("{at}[name=\"{name}\"]");
                match (named(live), named(object)) {
                    (Some(there), Some(said)) => missing(item, &there, &said, &at, found),
                    (Some(_), None) => found.push(at),
                    (None, _) => {}
                }
            }
        }
        _ => {}
    }
}

/// The number of pods as it stays, where a task says none: a dry run comes before the take-over and would show another.
pub fn keep_number(dry: &mut Value, object: &Value, live: Option<&Value>) {
    let Some(number) = live.and_then(|live| live.pointer("/spec/replicas")).cloned() else { return };
    if object["kind"] == "Deployment"
        && object.pointer("/spec/replicas").is_none()
        && let Some(spec) = dry.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("replicas".into(), number);
    }
}

/// What is applied to an object whose record is not kept: nothing, so that the server begins to keep one, with all that is
/// there as `before-first-apply`'s.
pub fn nothing_of(live: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["name", "namespace"] {
        if let Some(value) = live.pointer(&format!("/metadata/{key}")) {
            metadata.insert(key.into(), value.clone());
        }
    }
    serde_json::json!({ "apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({ "manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsV1": fields })
    }

    fn live(entries: &[Value]) -> Value {
        json!({ "kind": "Deployment", "metadata": { "managedFields": entries }, "spec": { "replicas": 5 } })
    }

    const KUBECTL: [&str; 1] = ["kubectl-client-side-apply"];

    #[test]
    fn fields_of_kubectl_become_ours_and_those_of_others_stay() {
        let mut scaled = entry("hpa", "Update", json!({ "f:spec": {} }));
        scaled["subresource"] = "scale".into();
        let found = [
            entry(KUBECTL[0], "Update", json!({ "f:spec": { "f:replicas": {}, "f:strategy": {} } })),
            entry("graylane", "Apply", json!({ "f:spec": { "f:paused": {} } })),
            entry("argocd-controller", "Apply", json!({ "f:spec": { "f:paused": {} } })),
            scaled.clone(),
        ];
        let live = live(&found);
        let one = json!({ "kind": "Deployment", "spec": { "replicas": 1 } });
        let all = json!({ "f:spec": { "f:paused": {}, "f:replicas": {}, "f:strategy": {} } });
        assert_eq!(
            taken_over(&live, &one, &KUBECTL),
            Some(json!([found[2], scaled, entry("graylane", "Apply", all)]))
        );
        // Without a number in the manifest nobody owns it.
        let none = json!({ "kind": "Deployment", "spec": {} });
        let but_the_number = json!({ "f:spec": { "f:paused": {}, "f:strategy": {} } });
        assert_eq!(
            taken_over(&live, &none, &KUBECTL),
            Some(json!([found[2], scaled, entry("graylane", "Apply", but_the_number)]))
        );
        // An applier is taken over as a whole too, where the environment says so.
        let merged = taken_over(&live, &one, &["argocd-controller"]).expect("taken over");
        let managers: Vec<&Value> =
            merged.as_array().expect("a list").iter().map(|entry| &entry["manager"]).collect();
        assert_eq!(managers, [KUBECTL[0], "hpa", "graylane"]);
        assert_eq!(taken_over(&live, &one, &["helm"]), None);
    }

    #[test]
    fn our_own_number_of_pods_is_given_up_where_the_task_says_none() {
        let ours = |fields: Value| live(&[entry("graylane", "Apply", json!({ "f:spec": fields }))]);
        let none = json!({ "kind": "Deployment", "spec": {} });
        let given_up = taken_over(&ours(json!({ "f:replicas": {}, "f:paused": {} })), &none, &KUBECTL);
        assert_eq!(
            given_up,
            Some(json!([entry("graylane", "Apply", json!({ "f:spec": { "f:paused": {} } }))]))
        );
        assert_eq!(taken_over(&ours(json!({ "f:paused": {} })), &none, &KUBECTL), None);
        let three = json!({ "kind": "Deployment", "spec": { "replicas": 3 } });
        assert_eq!(taken_over(&ours(json!({ "f:replicas": {} })), &three, &KUBECTL), None);
        let mut dry = json!({ "spec": { "replicas": 1 } });
        keep_number(&mut dry, &none, Some(&ours(json!({}))));
        assert_eq!(dry["spec"]["replicas"], 5);
    }

    #[test]
    fn what_a_server_gave_is_nobodys_unless_the_manifest_says_it() {
        let found = entry(
            BEFORE_FIRST_APPLY,
            "Update",
            json!({ "f:spec": { "f:clusterIP": {}, "f:clusterIPs": {}, "f:ports": {}, "f:selector": {} } }),
        );
        let live = json!({ "kind": "Service", "metadata": { "managedFields": [found] } });
        let owned = |spec: Value| {
            let object = json!({ "kind": "Service", "spec": spec });
            taken_over(&live, &object, &[BEFORE_FIRST_APPLY]).expect("taken over")[0]["fieldsV1"]["f:spec"]
                .clone()
        };
        assert_eq!(owned(json!({ "ports": [] })), json!({ "f:ports": {}, "f:selector": {} }));
        let headless = json!({ "clusterIP": "None", "ports": [] });
        assert_eq!(owned(headless), json!({ "f:clusterIP": {}, "f:ports": {}, "f:selector": {} }));
    }

    #[test]
    fn what_kubectl_wrote_and_the_manifest_no_longer_has_is_named() {
        let spec = |container: Value, more: Value| {
            let mut object = json!({ "kind": "Deployment", "metadata": { "name": "a" },
                "spec": { "template": { "spec": { "containers": [container] } } } });
            for (key, value) in more.as_object().into_iter().flatten() {
                object["spec"][key] = value.clone();
            }
            object
        };
        let with_both = json!({ "name": "a", "env": [{ "name": "ONE" }, { "name": "TWO" }], "tty": true });
        let applied = spec(with_both, json!({ "minReadySeconds": 5, "replicas": 2 }));
        let mut live = applied.clone();
        live["metadata"]["annotations"] = json!({ LAST_APPLIED: applied.to_string() });
        live["metadata"]["managedFields"] = json!([entry(KUBECTL[0], "Update", json!({ "f:spec": {} }))]);
        let wanted = spec(json!({ "name": "a", "env": [{ "name": "ONE" }], "tty": true }), json!({}));
        assert_eq!(
            going(&live, &wanted, &KUBECTL),
            [".spec.template.spec.containers[name=\"a\"].env[name=\"TWO\"]", ".spec.minReadySeconds"]
        );
        assert_eq!(going(&live, &wanted, &["helm"]), Vec::<String>::new(), "nothing is taken over");
        assert_eq!(going(&live, &applied, &KUBECTL), Vec::<String>::new());
    }
}
