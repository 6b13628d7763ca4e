//! Who owns which field, as one table that the rehearsal and a real API server answer alike: apply, other managers, what
//! goes when nobody wants it any more, force, dry runs, and kubectl's way of moving fields to an applier.
//!
//! A row is a list of writes to one object. What each write is answered with is compared in full, and what the row is
//! about is said beside it.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use crate::support::agent::test_run;
use crate::support::compare::{compared, differs, leaves};
use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, INGRESSES, Kind, SERVICES, make_namespace, real, resource,
};
use crate::support::{Home, client, tally};

/// A write, and by whom.
enum Write {
    Create(&'static str, Value),
    /// A strategic merge patch.
    Patch(&'static str, Value),
    Json(&'static str, Value),
    Apply(&'static str, Value),
    Force(&'static str, Value),
    DryRun(&'static str, Value),
    /// Every field of a manager becomes Graylane's, as `kubectl apply --server-side` does it for its own.
    TakeOver(&'static str),
    /// With the uid of another object.
    DeleteAnother,
    Get,
}

/// What the API server must say.
enum Says {
    /// A place of the object, and what is there.
    Is(&'static str, Value),
    /// How many fields a manager owns.
    Owns(&'static str, usize),
    /// A status code, and words of the message.
    No(u16, &'static str),
    /// The object is not there.
    Gone,
    Done,
}

struct Row {
    what: &'static str,
    kind: Kind,
    steps: Vec<(Write, Says)>,
}

fn config(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data })
}

fn labelled(labels: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "labels": labels } })
}

fn deployment(spec: Value, container: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
        "spec": { "selector": { "matchLabels": { "app": "x" } }, "template": { "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "x", "image": "x:1" }] } } },
    });
    merge(&mut object["spec"], spec);
    merge(&mut object["spec"]["template"]["spec"]["containers"][0], container);
    object
}

fn merge(into: &mut Value, from: Value) {
    if let Value::Object(from) = from {
        for (key, value) in from {
            into[key] = value;
        }
    }
}

/// A part of a Deployment.
fn part(spec: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": spec })
}

fn env(names: &[&str]) -> Value {
    let all: Vec<Value> = names.iter().map(|name| json!({ "name": name, "value": "v" })).collect();
    json!({ "env": all })
}

fn service(ports: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": { "selector": { "app": "x" }, "ports": ports } })
}

fn ingress(hosts: &[&str]) -> Value {
    let rule = |host: &&str| {
        let backend = json!({ "service": { "name": "x", "port": { "number": 80 } } });
        json!({ "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } })
    };
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {},
        "spec": { "rules": hosts.iter().map(rule).collect::<Vec<_>>() } })
}

const IMAGE: &str = "/spec/template/spec/containers/0/image";
const KUBECTL: &str = "kubectl-client-side-apply";

#[rustfmt::skip]
fn table() -> Vec<Row> {
    use Says::{Done, Gone, Is, No, Owns};
    use Write::{Apply, Create, DeleteAnother, DryRun, Force, Get, Json, Patch, TakeOver};
    vec![
        Row { what: "what a manager stops applying goes, unless another owns it too", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", config(json!({ "a": "1", "b": "1", "c": "1" }))), Owns("one", 3)),
            (Apply("two", config(json!({ "b": "1" }))), Owns("two", 1)),
            (Apply("one", config(json!({ "a": "1" }))), Is("/data", json!({ "a": "1", "b": "1" }))),
            (Apply("two", labelled(json!({ "x": "y" }))), Is("/data", json!({ "a": "1" }))),
        ] },
        Row { what: "another value is a conflict, and force takes it", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", config(json!({ "a": "1" }))), Done),
            (Apply("two", config(json!({ "a": "2" }))), No(409, "Apply failed with 1 conflict: conflict with \"one\": .data.a")),
            (Force("two", config(json!({ "a": "2" }))), Is("/data/a", "2".into())),
            (Get, Owns("one", 0)),
        ] },
        Row { what: "several conflicts are listed by manager", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", config(json!({ "a": "1", "b": "1" }))), Done),
            (Apply("three", config(json!({ "c": "1" }))), Done),
            (Apply("two", config(json!({ "a": "2", "b": "2", "c": "2" }))), No(409, "Apply failed with 3 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b\nconflicts with \"three\":\n- .data.c")),
        ] },
        Row { what: "labels are owned one by one", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", labelled(json!({ "a": "1", "b": "1" }))), Done),
            (Patch("hand", json!({ "metadata": { "labels": { "c": "1" } } })), Owns("one", 2)),
            (Apply("one", labelled(json!({ "b": "1" }))), Is("/metadata/labels", json!({ "b": "1", "c": "1" }))),
        ] },
        Row { what: "a create by kubectl conflicts where the value differs, and nowhere else", kind: DEPLOYMENTS, steps: vec![
            (Create("kubectl-create", deployment(json!({ "replicas": 1 }), json!({}))), Done),
            (Apply("graylane", part(json!({ "replicas": 1 }))), Owns("graylane", 1)),
            (Apply("graylane", part(json!({ "replicas": 2 }))), No(409, "conflict with \"kubectl-create\" using apps/v1")),
            (Force("graylane", part(json!({ "replicas": 2 }))), Is("/spec/replicas", 2.into())),
        ] },
        Row { what: "an update takes the fields that it changes from their applier", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({ "replicas": 1 }), json!({}))), Is(IMAGE, "x:1".into())),
            (Patch("kubectl-set", part(json!({ "template": { "spec": { "containers": [{ "name": "x", "image": "x:2" }] } } }))), Is(IMAGE, "x:2".into())),
            (Apply("graylane", deployment(json!({ "replicas": 1 }), json!({}))), No(409, ".spec.template.spec.containers[name=\"x\"].image")),
            (Force("graylane", deployment(json!({ "replicas": 1 }), json!({}))), Is(IMAGE, "x:1".into())),
            (Get, Owns("kubectl-set", 0)),
        ] },
        Row { what: "a field that an applier leaves out goes back to its default", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({ "replicas": 3, "minReadySeconds": 5 }), json!({ "args": ["a"], "imagePullPolicy": "Never" }))), Is("/spec/minReadySeconds", 5.into())),
            (Apply("graylane", deployment(json!({}), json!({}))), Is("/spec/replicas", 1.into())),
            (Get, Is("/spec/template/spec/containers/0/args", Value::Null)),
            // A tag of its own: the default of a tag that does not move.
            (Get, Is("/spec/template/spec/containers/0/imagePullPolicy", "IfNotPresent".into())),
            (Get, Is("/spec/minReadySeconds", Value::Null)),
        ] },
        Row { what: "a field that nobody owns stays when the applier leaves it out", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({ "replicas": 3 }), json!({}))), Done),
            (Json("graylane", json!([{ "op": "replace", "path": "/metadata/managedFields", "value": [{ "manager": "graylane", "operation": "Apply", "apiVersion": "apps/v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:selector": {} } } }] }])), Owns("graylane", 1)),
            (Apply("graylane", deployment(json!({}), json!({}))), Is("/spec/replicas", 3.into())),
        ] },
        Row { what: "items of keyed lists merge", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({}), env(&["ONE", "TWO"]))), Done),
            (Apply("other", part(json!({ "template": { "spec": { "containers": [{ "name": "x", "env": [{ "name": "OTHER", "value": "v" }] }] } } }))), Done),
            (Apply("graylane", deployment(json!({}), env(&["TWO", "THREE"]))), Is("/spec/template/spec/containers/0/env/0/name", "TWO".into())),
            (Get, Is("/spec/template/spec/containers/0/env/1/name", "OTHER".into())),
            (Get, Is("/spec/template/spec/containers/0/env/2/name", "THREE".into())),
        ] },
        Row { what: "other lists are one field", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({}), json!({ "args": ["a", "b"] }))), Done),
            (Apply("other", part(json!({ "template": { "spec": { "containers": [{ "name": "x", "args": ["a"] }] } } }))), No(409, ".spec.template.spec.containers[name=\"x\"].args")),
        ] },
        Row { what: "rules of an Ingress are one field", kind: INGRESSES, steps: vec![
            (Apply("graylane", ingress(&["a.example.com"])), Done),
            (Apply("other", ingress(&["a.example.com", "b.example.com"])), No(409, ".spec.rules")),
            (Force("other", ingress(&["a.example.com", "b.example.com"])), Is("/spec/rules/1/host", "b.example.com".into())),
            (Get, Owns("graylane", 0)),
        ] },
        Row { what: "ports of a Service are told apart by number and protocol", kind: SERVICES, steps: vec![
            (Apply("graylane", service(json!([{ "name": "a", "port": 80, "protocol": "TCP", "targetPort": 8080 }]))), Done),
            (Apply("other", json!({ "apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": { "ports": [{ "name": "b", "port": 81, "protocol": "TCP" }] } })), Is("/spec/ports/1/name", "b".into())),
            (Apply("graylane", service(json!([{ "name": "a", "port": 80, "protocol": "TCP" }]))), Is("/spec/ports/0/targetPort", 80.into())),
            (Apply("other", json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} })), Is("/spec/ports/1", Value::Null)),
        ] },
        Row { what: "a dry run goes all the way and stores nothing", kind: DEPLOYMENTS, steps: vec![
            (DryRun("graylane", deployment(json!({}), json!({}))), Is("/spec/progressDeadlineSeconds", 600.into())),
            (Get, Gone),
            (Apply("graylane", deployment(json!({ "replicas": 2 }), json!({}))), Done),
            (DryRun("other", part(json!({ "replicas": 4 }))), No(409, "conflict with \"graylane\": .spec.replicas")),
            (DryRun("graylane", deployment(json!({ "replicas": 4 }), json!({}))), Is("/spec/replicas", 4.into())),
            (Get, Is("/spec/replicas", 2.into())),
        ] },
        Row { what: "an object without bookkeeping belongs to before-first-apply", kind: DEPLOYMENTS, steps: vec![
            (Create("old", deployment(json!({ "replicas": 2 }), json!({}))), Done),
            (Json("old", json!([{ "op": "replace", "path": "/metadata/managedFields", "value": [{}] }])), Owns("old", 0)),
            (Apply("graylane", part(json!({ "replicas": 3 }))), No(409, "conflict with \"before-first-apply\" using apps/v1")),
            (Force("graylane", part(json!({ "replicas": 3 }))), Is("/spec/replicas", 3.into())),
        ] },
        Row { what: "kubectl's fields become an applier's, and go when it leaves them out", kind: DEPLOYMENTS, steps: vec![
            (Create(KUBECTL, deployment(json!({ "replicas": 2 }), env(&["ONE", "TWO"]))), Done),
            (Apply("graylane", deployment(json!({}), env(&["ONE"]))), Is("/spec/template/spec/containers/0/env/1/name", "TWO".into())),
            (TakeOver(KUBECTL), Owns(KUBECTL, 0)),
            (Apply("graylane", deployment(json!({}), env(&["ONE"]))), Is("/spec/template/spec/containers/0/env/1", Value::Null)),
        ] },
        Row { what: "finalizers are a set", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "finalizers": ["example.com/a"] } })), Done),
            (Apply("two", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "finalizers": ["example.com/b"] } })), Is("/metadata/finalizers", json!(["example.com/a", "example.com/b"]))),
            (Apply("one", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {} })), Is("/metadata/finalizers", json!(["example.com/b"]))),
            (Apply("two", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {} })), Is("/metadata/finalizers", Value::Null)),
        ] },
        Row { what: "a selector cannot be changed", kind: DEPLOYMENTS, steps: vec![
            (Apply("graylane", deployment(json!({}), json!({}))), Done),
            (Apply("graylane", deployment(json!({ "selector": { "matchLabels": { "app": "x", "b": "c" } }, "template": { "metadata": { "labels": { "app": "x", "b": "c" } }, "spec": { "containers": [{ "name": "x", "image": "x:1" }] } } }), json!({}))), No(422, "field is immutable")),
        ] },
        Row { what: "a delete that names another uid is refused", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", config(json!({ "a": "1" }))), Done),
            (DeleteAnother, No(409, "the UID in the precondition (00000000-0000-0000-0000-000000000000) does not match the UID in record")),
            (Get, Is("/data/a", "1".into())),
        ] },
        Row { what: "a patch over a version that is gone is refused", kind: CONFIG_MAPS, steps: vec![
            (Apply("one", config(json!({ "a": "1" }))), Done),
            (Json("two", json!([{ "op": "replace", "path": "/metadata/resourceVersion", "value": "1" }, { "op": "replace", "path": "/data/a", "value": "2" }])), No(409, "the object has been modified")),
            (Json("two", json!([{ "op": "test", "path": "/metadata/uid", "value": "u" }, { "op": "replace", "path": "/data/a", "value": "2" }])), No(422, "")),
            (Get, Is("/data/a", "1".into())),
        ] },
    ]
}

/// What a write was answered with, as it is compared: an object, or a status.
type Answer = Result<Value, (u16, String)>;

struct Server {
    what: &'static str,
    client: kube::Client,
    namespace: String,
}

impl Server {
    async fn answer(&self, row: &Row, name: &str, write: &Write) -> Answer {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(row.kind));
        let by =
            |manager: &str| PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() };
        let named = |object: &Value| {
            let mut object = object.clone();
            object["metadata"]["name"] = name.into();
            object
        };
        let json_patch = |patch: &Value| -> Patch<Value> {
            Patch::Json(serde_json::from_value(patch.clone()).expect("a patch"))
        };
        let answered = match write {
            Write::Create(manager, object) => {
                let params = PostParams { field_manager: Some((*manager).into()), ..PostParams::default() };
                api.create(&params, &serde_json::from_value(named(object)).expect("an object")).await
            }
            Write::Patch(manager, patch) => api.patch(name, &by(manager), &Patch::Strategic(patch)).await,
            Write::Json(manager, patch) => api.patch(name, &by(manager), &json_patch(patch)).await,
            Write::Apply(manager, object) => {
                api.patch(name, &PatchParams::apply(manager), &Patch::Apply(named(object))).await
            }
            Write::Force(manager, object) => {
                api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(named(object))).await
            }
            Write::DryRun(manager, object) => {
                let params = PatchParams { dry_run: true, ..PatchParams::apply(manager) };
                api.patch(name, &params, &Patch::Apply(named(object))).await
            }
            Write::TakeOver(manager) => {
                let live = api.get(name).await.expect("there");
                let live = serde_json::to_value(live).expect("json");
                let record = graylane_tasks::ownership::taken_over(&live, &live, &[manager]);
                let patch = json!([{ "op": "replace", "path": "/metadata/managedFields", "value": record }]);
                api.patch(name, &by("graylane"), &json_patch(&patch)).await
            }
            Write::DeleteAnother => {
                let uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
                let preconditions = Some(Preconditions { uid, resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::default() };
                match api.delete(name, &params).await {
                    Ok(_) => api.get(name).await,
                    Err(error) => Err(error),
                }
            }
            Write::Get => api.get(name).await,
        };
        match answered {
            Ok(object) => Ok(serde_json::to_value(object).expect("json")),
            Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
            Err(error) => panic!("{}: {error}", row.what),
        }
    }

    /// Carries a row out and judges what it says; gives every answer.
    async fn tell(&self, row: &Row, name: &str, wrong: &mut Vec<String>) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (number, (write, says)) in row.steps.iter().enumerate() {
            let answer = self.answer(row, name, write).await;
            let right = match (says, &answer) {
                (Says::Done, Ok(_)) | (Says::Gone, Err((404, _))) => true,
                (Says::Is(place, value), Ok(object)) => {
                    object.pointer(place).unwrap_or(&Value::Null) == value
                }
                (Says::Owns(manager, count), Ok(object)) => owned(object, manager) == *count,
                (Says::No(code, words), Err((status, message))) => {
                    status == code && without_times(message).contains(words)
                }
                _ => false,
            };
            if !right {
                wrong.push(format!("{} on {}, step {}: {answer:?}", row.what, self.what, number + 1));
            }
            answers.push(answer);
        }
        answers
    }
}

fn owned(object: &Value, manager: &str) -> usize {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let of = entries.iter().filter(|entry| entry["manager"] == manager);
    of.map(|entry| values(&entry["fieldsV1"])).sum()
}

/// How many values a set has: what only says that there is something inside is none.
fn values(fields: &Value) -> usize {
    leaves(fields, "").iter().filter(|line| !line.ends_with('.')).count()
}

/// Servers before 1.22 name the time of the other manager's write.
fn without_times(message: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in message.split(' ') {
        let time = word.starts_with("20") && word.contains('T') && word.contains('Z');
        match (time, words.last()) {
            (true, Some(&"at")) => {
                words.pop();
                // What follows the time in the same word: a colon, and lines of fields.
                let rest = word.split_once('Z').map_or("", |(_, rest)| rest);
                if let Some(last) = words.pop() {
                    return without_times(&message.replacen(
                        &format!("{last} at {word}"),
                        &format!("{last}{rest}"),
                        1,
                    ));
                }
            }
            _ => words.push(word),
        }
    }
    message.to_owned()
}

fn same(row: &Row, rehearsed: &[Answer], real: &[Answer], namespace: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, (one, other)) in rehearsed.iter().zip(real).enumerate() {
        let at = format!("{}, step {}", row.what, number + 1);
        match (one, other) {
            (Ok(one), Ok(other)) => {
                let found = differs(&plain(one, "owners"), &plain(other, namespace));
                lines.extend(found.into_iter().map(|line| format!("{at}:{line}")));
            }
            (Err((one_code, one)), Err((other_code, other))) => {
                let without_uid = |text: &str| text.split(" in record").next().unwrap_or_default().to_owned();
                let other = without_times(other).replace(namespace, "owners");
                let (one, other) = (without_uid(&without_times(one)), without_uid(&other));
                // Words of a failed test differ between versions; the code does not.
                if one_code != other_code || one != other && *one_code != 422 {
                    lines.push(format!("{at}: rehearsal {one_code} {one}, real {other_code} {other}"));
                }
            }
            (one, other) => lines.push(format!("{at}: rehearsal {one:?}, real {other:?}")),
        }
    }
    lines
}

/// An answer without what a controller may have written before it.
fn plain(object: &Value, namespace: &str) -> Value {
    let mut object = compared(object, namespace);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("generation");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_belong_to_the_same_managers_on_the_rehearsal_and_on_a_real_api_server() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    let rehearsed =
        Server { what: "the rehearsal", client: rehearsal.client().await, namespace: "owners".into() };
    make_namespace(&rehearsed.client, &rehearsed.namespace).await;
    let kubeconfig = real();
    let real = match &kubeconfig {
        Some(kubeconfig) => {
            let namespace = format!("owners-{}", test_run());
            let server = Server { what: "a real API server", client: client(kubeconfig).await, namespace };
            make_namespace(&server.client, &server.namespace).await;
            Some(server)
        }
        None => None,
    };
    let rows = table();
    let (mut wrong, mut differences) = (Vec::new(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        let name = format!("row-{number}");
        let here = rehearsed.tell(row, &name, &mut wrong).await;
        if let Some(real) = &real {
            let there = real.tell(row, &name, &mut wrong).await;
            differences.extend(same(row, &here, &there, &real.namespace));
        }
    }
    tally::told("rows of field ownership", rows.len(), if real.is_some() { rows.len() } else { 0 });
    tally::differed(differences.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
