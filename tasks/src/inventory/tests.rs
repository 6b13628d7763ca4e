//! What is read off single objects: whose fields they are, and what a baseline was.

use serde_json::{Value, json};

use super::{edits, live_hash, mended};

fn object(entries: &Value) -> Value {
    json!({
        "kind": "Deployment",
        "metadata": { "name": "a", "annotations": { "graylane.dev/run": "r" }, "managedFields": entries },
    })
}

fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
    json!({ "manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields })
}

#[test]
fn an_edit_is_a_field_that_only_somebody_else_has() {
    let ours = entry("graylane", "Apply", &json!({ "f:spec": { "f:paused": {} } }));
    let item = json!({ "f:spec": { "f:containers": { "k:{\"name\":\"c\"}": { ".": {}, "f:image": {} } } } });
    let scale = {
        let mut entry = entry("hpa", "Update", &json!({ "f:spec": { "f:replicas": {} } }));
        entry["subresource"] = "scale".into();
        entry
    };
    let status = {
        let mut entry = entry("x", "Update", &json!({ "f:status": { "f:replicas": {} } }));
        entry["subresource"] = "status".into();
        entry
    };
    let revision =
        json!({ "f:metadata": { "f:annotations": { "f:deployment.kubernetes.io/revision": {} } } });
    let table: Vec<(&str, Value, Vec<&str>)> = vec![
        ("ours alone", json!([ours]), vec![]),
        (
            "a field of an item",
            json!([ours, entry("kubectl-edit", "Update", &item)]),
            vec!["spec.containers[c].image by `kubectl-edit`"],
        ),
        ("scaled by hand", json!([ours, scale]), vec!["spec.replicas by `hpa`"]),
        (
            "both have it",
            json!([ours, entry("x", "Apply", &json!({ "f:spec": { "f:paused": {} } }))]),
            vec![],
        ),
        ("a controller", json!([ours, entry("kube-controller-manager", "Update", &item)]), vec![]),
        ("a controller's annotation", json!([ours, entry("other", "Update", &revision)]), vec![]),
        ("status", json!([ours, status]), vec![]),
        ("our own patch", json!([ours, entry("graylane", "Update", &item)]), vec![]),
        ("no record at all", json!([]), vec![]),
    ];
    for (what, entries, expected) in table {
        let told: Vec<String> = edits(&object(&entries)).iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{what}");
    }
    let foreign = json!({ "metadata": { "managedFields": [entry("aslan", "Update", &item)] } });
    assert_eq!(edits(&foreign), [], "all of another tool's object is that tool's");
}

#[test]
fn mended_fields_are_ours_and_a_controllers_stay() {
    let item = json!({ "f:spec": { "f:a": {} } });
    let live = object(&json!([
        entry("graylane", "Apply", &json!({ "f:spec": { "f:b": {} } })),
        entry("graylane", "Update", &json!({ "f:spec": { "f:c": {} } })),
        entry("kubectl-edit", "Update", &item),
        entry("kube-controller-manager", "Update", &json!({ "f:status": {} })),
    ]));
    let all = mended(&live).expect("somebody else's");
    assert_eq!(
        all,
        json!([
            entry("kube-controller-manager", "Update", &json!({ "f:status": {} })),
            entry("graylane", "Apply", &json!({ "f:spec": { "f:a": {}, "f:b": {}, "f:c": {} } })),
        ])
    );
    assert_eq!(mended(&object(&json!([entry("graylane", "Apply", &item)]))), None);
}

#[test]
fn a_baseline_moves_by_what_it_runs_and_not_by_who_scales_or_restarts_it() {
    let live = json!({ "kind": "Deployment", "metadata": { "name": "a", "resourceVersion": "1" },
        "spec": { "replicas": 1, "template": { "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "image": "a:1" }] } } } });
    let hash = live_hash(&live);
    let changed = |pointer: &str, value: Value| {
        let mut live = live.clone();
        *live.pointer_mut(pointer).expect("there") = value;
        live_hash(&live)
    };
    assert_eq!(changed("/spec/replicas", json!(9)), hash);
    assert_eq!(changed("/metadata/resourceVersion", json!("2")), hash);
    let restarted =
        json!({ "labels": { "app": "a" }, "annotations": { "kubectl.kubernetes.io/restartedAt": "now" } });
    assert_eq!(changed("/spec/template/metadata", restarted), hash);
    assert_ne!(changed("/spec/template/spec/containers/0/image", json!("a:2")), hash);
    let secret = |version: &str, data: &str| {
        live_hash(
            &json!({ "kind": "Secret", "metadata": { "uid": "u", "resourceVersion": version }, "data": { "a": data } }),
        )
    };
    assert_eq!(secret("1", "b"), secret("1", "c"), "no value is hashed");
    assert_ne!(secret("1", "b"), secret("2", "b"));
}
