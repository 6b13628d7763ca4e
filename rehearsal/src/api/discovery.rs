//! What the server says about itself: versions, groups, resources, health, and who may do what (everyone, everything that no test forbade).

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Map, Value, json};

use super::{Body, Call, json_response, text_response};
use crate::cluster::Cluster;
use crate::kinds::{self, Kind, TABLE};
use crate::status::Failure;

/// The version whose behaviour this API follows.
const VERSION: (&str, &str) = ("1", "33");

/// What `kubectl get all` lists.
const IN_ALL: [&str; 8] = [
    kinds::PODS,
    kinds::SERVICES,
    kinds::DEPLOYMENTS,
    kinds::REPLICA_SETS,
    kinds::JOBS,
    "statefulsets.apps",
    "daemonsets.apps",
    "horizontalpodautoscalers.autoscaling",
];

/// Answers a request about the server; `None` where the path is about objects.
pub(crate) fn answer(call: &Call, cluster: &Cluster) -> Option<Result<Response<Body>, Failure>> {
    let parts: Vec<&str> = call.path.split('/').filter(|part| !part.is_empty()).collect();
    let found = match parts.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => return Some(Ok(text_response("ok".to_owned()))),
        ["version"] => version(),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups() }),
        ["api", "v1"] => resources("", "v1")?,
        ["openapi", "v2"] => return Some(Ok(openapi_v2())),
        ["openapi", "v3"] => openapi_index(),
        ["openapi", "v3", "api", "v1"] => openapi("", "v1"),
        ["openapi", "v3", "apis", group, version] => openapi(group, version),
        ["apis", group] => match groups().into_iter().find(|found| found["name"] == *group) {
            Some(mut found) => {
                found["kind"] = "APIGroup".into();
                found["apiVersion"] = "v1".into();
                found
            }
            None => return Some(Err(Failure::no_such_path())),
        },
        ["apis", group, version] => match resources(group, version) {
            Some(found) => found,
            None => return Some(Err(Failure::no_such_path())),
        },
        ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] if call.method == Method::POST => {
            let mut review = call.json().unwrap_or_else(|_| json!({}));
            let status = if is_forbidden(&review, cluster) {
                json!({ "allowed": false, "reason": "a test forbade it" })
            } else {
                json!({ "allowed": true, "reason": "the rehearsal allows everything" })
            };
            crate::object::set(&mut review, &["status"], status);
            return Some(Ok(json_response(StatusCode::CREATED, &review)));
        }
        ["apis", "authorization.k8s.io", "v1", "selfsubjectrulesreviews"] if call.method == Method::POST => {
            let mut review = call.json().unwrap_or_else(|_| json!({}));
            let all = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] });
            // What a test forbade cannot be said in rules, which only ever allow: then each right is asked for.
            let partly = cluster.forbids_something();
            let rules = if partly { json!([]) } else { json!([all]) };
            let status = json!({ "resourceRules": rules, "nonResourceRules": [], "incomplete": partly });
            crate::object::set(&mut review, &["status"], status);
            return Some(Ok(json_response(StatusCode::CREATED, &review)));
        }
        _ => return None,
    };
    Some(if call.method == Method::GET {
        Ok(json_response(StatusCode::OK, &found))
    } else {
        Err(Failure::method_not_allowed())
    })
}

/// OpenAPI 2 in the one form that older versions of kubectl read: a protobuf `Document` (gnostic's openapi.v2). It has no
/// definitions, so kubectl leaves validation to the server, which does it.
fn openapi_v2() -> Response<Body> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        // Wire type 2; every part here is shorter than 128 bytes.
        let length = u8::try_from(bytes.len()).unwrap_or_default();
        [&[number << 3 | 2, length], bytes].concat()
    }
    let info =
        [field(1, b"Kubernetes"), field(2, format!("v{}.{}.0", VERSION.0, VERSION.1).as_bytes())].concat();
    let document = [field(1, b"2.0"), field(2, &info), field(8, &[]), field(9, &[])].concat();
    let mut response = Response::new(Full::new(Bytes::from(document)).boxed_unsync());
    // Clients ask with `@v1.0`, which is no valid media type: servers answer with a dot.
    let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Whether what a review asks for would be refused.
fn is_forbidden(review: &Value, cluster: &Cluster) -> bool {
    let asked = |field: &str| {
        let field = review.pointer(&format!("/spec/resourceAttributes/{field}"));
        field.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (group, resource, subresource) = (asked("group"), asked("resource"), asked("subresource"));
    let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
    let whole = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    cluster.is_forbidden(&asked("verb"), &resource, &whole)
}

/// The OpenAPI documents that there are: one a group and version.
fn openapi_index() -> Value {
    let mut paths = Map::new();
    for kind in TABLE {
        let root = if kind.group.is_empty() { "api" } else { "apis" };
        let path = format!("{root}/{}", kind.api_version());
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// As much OpenAPI as kubectl needs to see that the server validates fields itself; no schemas.
fn openapi(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for kind in TABLE.iter().filter(|kind| kind.group == group && kind.version == version) {
        let root = if group.is_empty() { "api" } else { "apis" };
        let place = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{root}/{}/{place}{}/{{name}}", kind.api_version(), kind.plural);
        let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" } });
        let patch = json!({
            "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
            "responses": { "200": { "description": "OK" } },
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
        });
        paths.insert(path, json!({ "patch": patch }));
    }
    json!({ "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": version }, "paths": paths })
}

fn version() -> Value {
    json!({
        "major": VERSION.0, "minor": VERSION.1, "gitVersion": format!("v{}.{}.0-rehearsal", VERSION.0, VERSION.1),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "", "platform": "",
    })
}

fn groups() -> Vec<Value> {
    let names: BTreeSet<(&str, &str)> =
        TABLE.iter().filter(|kind| !kind.group.is_empty()).map(|kind| (kind.group, kind.version)).collect();
    let entry = |group: &str, version: &str| {
        let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
        json!({ "name": group, "versions": [version], "preferredVersion": version })
    };
    names.into_iter().map(|(group, version)| entry(group, version)).collect()
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Kind> =
        TABLE.iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let first = rows.first()?;
    let list: Vec<Value> = rows.iter().flat_map(|kind| entries(kind)).collect();
    Some(
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": list }),
    )
}

fn entries(kind: &Kind) -> Vec<Value> {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut entries = vec![json!({
        "name": kind.plural, "singularName": kind.kind.to_lowercase(), "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": verbs, "shortNames": kind.short,
        "categories": if IN_ALL.contains(&kind.resource) { &["all"][..] } else { &[] },
    })];
    entries.extend(kind.subresources.iter().map(|subresource| {
        let kind_name = if *subresource == "scale" { "Scale" } else { kind.kind };
        let verbs: &[&str] = if *subresource == "log" { &["get"] } else { &["get", "patch", "update"] };
        json!({
            "name": format!("{}/{subresource}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": kind_name, "verbs": verbs,
        })
    }));
    entries
}
