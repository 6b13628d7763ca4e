//! create, update, patch and apply: from a request to one change of the store, or to a refusal.
//!
//! Every write goes one way: decode, default, admit, validate, note who owns what, put. `dryRun` goes the whole way
//! but the last step. The functions on `State` here are also what controllers create pods with.

use std::sync::Arc;

use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::read::{self, get};
use super::{Call, Done, Target, delete};
use crate::apply::{self, Writer};
use crate::cluster::Cluster;
use crate::controllers::quota;
use crate::kinds::{self, Kind};
use crate::object;
use crate::status::{self, Failure};
use crate::store::{Key, State};
use crate::{admission, defaults, patch, schema, validation};

const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// How a write is to be done.
#[derive(Debug, Clone)]
pub(crate) struct How {
    pub(crate) writer: Writer,
    pub(crate) dry_run: bool,
}

pub(crate) fn write(cluster: &Cluster, verb: &str, target: &Target, call: &Call) -> Result<Done, Failure> {
    cluster.with(|state| {
        let how = how(state, target, call)?;
        match verb {
            "create" => {
                let mut body = call.json()?;
                let warnings = strictness(target.kind, &mut body, call)?;
                check_type(target.kind, &body)?;
                let made = create(state, target.kind, &target.namespace, body, &how)?;
                Ok(warned(Done::object(StatusCode::CREATED, &made), &warnings))
            }
            "update" => {
                let live = get(state, target)?;
                let mut body = call.json()?;
                if target.subresource == "scale" {
                    return rescale(state, target, &live, &body, &how);
                }
                let warnings = strictness(target.kind, &mut body, call)?;
                check_type(target.kind, &body)?;
                let made = update(state, target, &live, body, &how, false)?;
                Ok(warned(Done::object(StatusCode::OK, &made), &warnings))
            }
            "patch" => patched(state, target, call, how),
            "delete" => delete::delete_one(state, target, call, how.dry_run),
            _ => delete::delete_all(state, target, call, how.dry_run),
        }
    })
}

fn how(state: &State, target: &Target, call: &Call) -> Result<How, Failure> {
    let dry_run = match call.query.get("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => {
            let cause = status::Cause::unsupported("dryRun", other, &["All"]);
            return Err(Failure::invalid_options(options_of(call), &cause));
        }
    };
    let writer = Writer {
        manager: call.manager(),
        subresource: Some(target.subresource.clone()).filter(|name| !name.is_empty()),
        force: call.query.is_true("force"),
        time: state.clock.stamp(),
    };
    Ok(How { writer, dry_run })
}

fn options_of(call: &Call) -> &'static str {
    match call.method {
        http::Method::POST => "CreateOptions",
        http::Method::PUT => "UpdateOptions",
        http::Method::DELETE => "DeleteOptions",
        _ => "PatchOptions",
    }
}

/// Unknown fields: an error when asked to be strict, else dropped with a warning.
fn strictness(kind: &Kind, body: &mut Value, call: &Call) -> Result<Vec<String>, Failure> {
    object::strip_nulls(body);
    let unknown = validation::unknown_fields(kind, body);
    let said: Vec<String> = unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
    match call.query.get("fieldValidation").unwrap_or("Warn") {
        "Strict" if !said.is_empty() => {
            let (version, name) = (kind.version, kind.kind);
            let list = said.join(", ");
            Err(Failure::bad_request(format!(
                "{name} in version {version:?} cannot be handled as a {name}: strict decoding error: {list}"
            )))
        }
        "Ignore" => {
            validation::prune_unknown(kind, body);
            Ok(Vec::new())
        }
        _ => {
            validation::prune_unknown(kind, body);
            Ok(said)
        }
    }
}

fn warned(mut done: Done, warnings: &[String]) -> Done {
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('"', "\\\""));
        if let Ok(value) = header::HeaderValue::from_str(&text) {
            done.response.headers_mut().append(header::WARNING, value);
        }
    }
    done
}

/// The body must say the type of the path, or nothing.
fn check_type(kind: &Kind, body: &Value) -> Result<(), Failure> {
    if !body.is_object() {
        return Err(Failure::bad_request("the body of the request is not an object"));
    }
    let (version, name) = (object::text(body, "/apiVersion"), object::text(body, "/kind"));
    let fits =
        (version.is_empty() || version == kind.api_version()) && (name.is_empty() || name == kind.kind);
    if !fits {
        return Err(Failure::bad_request(format!(
            "{name} in version {version:?} cannot be handled as a {}: no kind {name:?} is registered for version {version:?}",
            kind.kind
        )));
    }
    validation::decodes(kind, body)
}

// --- create

/// Creates an object from what a client or controller says.
pub(crate) fn create(
    state: &mut State,
    kind: &'static Kind,
    namespace: &str,
    mut object: Value,
    how: &How,
) -> Result<Arc<Value>, Failure> {
    place(state, kind, namespace, &mut object)?;
    if kind.has("status") && kind.resource != kinds::PODS {
        object::remove(&mut object, &["status"]);
    }
    prepare_new(state, kind, &mut object);
    defaults::apply(kind, &mut object);
    apply::note_update(kind, None, &mut object, &how.writer);
    complete(state, kind, &mut object)?;
    validation::check(kind, &object, None)?;
    let key = Key::of(kind.resource, &object);
    if state.get(&key).is_some() {
        return Err(Failure::already_exists(kind, object::name(&object)));
    }
    Ok(store(state, key, object, how.dry_run))
}

/// Name and namespace of a new object, and whether the namespace takes it.
fn place(state: &mut State, kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), Failure> {
    object::set(object, &["apiVersion"], kind.api_version());
    object::set(object, &["kind"], kind.kind);
    let said = object::namespace(object).to_owned();
    if kind.namespaced {
        if !said.is_empty() && said != namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        object::set(object, &["metadata", "namespace"], namespace);
    } else {
        object::remove(object, &["metadata", "namespace"]);
    }
    if object::name(object).is_empty() {
        let base = object::text(object, "/metadata/generateName").to_owned();
        if base.is_empty() {
            let cause = status::Cause::required("metadata.name", "name or generateName is required");
            return Err(Failure::invalid(kind, "", &[cause]));
        }
        let base: String = base.chars().take(58).collect();
        let name = format!("{base}{}", state.random.suffix(5));
        object::set(object, &["metadata", "name"], name);
    }
    if kind.namespaced {
        check_namespace(state, kind, namespace, object::name(object))?;
    }
    Ok(())
}

fn check_namespace(state: &State, kind: &Kind, namespace: &str, name: &str) -> Result<(), Failure> {
    let Some(home) = state.find(kinds::NAMESPACES, "", namespace) else {
        return Err(match kinds::by_resource(kinds::NAMESPACES) {
            Some(namespaces) => Failure::not_found(namespaces, namespace),
            None => Failure::no_such_path(),
        });
    };
    if object::is_dying(home) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut failure = Failure::forbidden(kind, name, &why);
        if let Some(details) = &mut failure.details {
            let message = format!("namespace {namespace} is being terminated");
            details["causes"] = json!([{ "reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace" }]);
        }
        return Err(failure);
    }
    Ok(())
}

fn prepare_new(state: &mut State, kind: &Kind, object: &mut Value) {
    for field in
        ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"]
    {
        object::remove(object, &["metadata", field]);
    }
    let uid = state.random.uid();
    object::set(object, &["metadata", "uid"], uid);
    object::set(object, &["metadata", "creationTimestamp"], state.clock.stamp());
    if counts_generations(kind) {
        object::set(object, &["metadata", "generation"], 1);
    }
}

/// The webhook, and what the server assigns.
fn complete(state: &mut State, kind: &Kind, object: &mut Value) -> Result<(), Failure> {
    match kind.resource {
        kinds::PODS => {
            if let Some(why) = &state.deny_pods {
                return Err(Failure::forbidden(kind, object::name(object), why));
            }
            if let Some(why) = quota::exceeded(state, object::namespace(object)) {
                return Err(Failure::forbidden(kind, object::name(object), &why));
            }
            if state.agent {
                admission::inject_agent(state, object);
            }
            let suffix = state.random.suffix(5);
            admission::assign_account(object, &suffix);
            defaults::requests(object);
            object::set_default(object, &["status", "phase"], "Pending");
        }
        kinds::SERVICES => assign_service(state, object),
        kinds::DEPLOYMENTS => mutate(state, object),
        _ => {}
    }
    Ok(())
}

/// A webhook comes after whoever writes has been noted: what it changes is nobody's.
fn mutate(state: &State, object: &mut Value) {
    if let Some(merges) = &state.webhook {
        patch::merge(object, merges);
    }
}

fn assign_service(state: &mut State, service: &mut Value) {
    if service["spec"]["type"] == "ExternalName" {
        return;
    }
    if object::text(service, "/spec/clusterIP").is_empty() {
        let taken = |address: &str| {
            state
                .list(kinds::SERVICES, "")
                .any(|(_, other)| object::text(other, "/spec/clusterIP") == address)
        };
        let free =
            (10..65_000u32).map(|host| format!("10.96.{}.{}", host >> 8, host & 255)).find(|ip| !taken(ip));
        object::set(service, &["spec", "clusterIP"], free.unwrap_or_default());
    }
    let address = service["spec"]["clusterIP"].clone();
    object::set(service, &["spec", "clusterIPs"], json!([address]));
    if matches!(object::text(service, "/spec/type"), "NodePort" | "LoadBalancer") {
        for port in service["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let number = 30_000 + state.random.below(2768);
            object::set_default(port, &["nodePort"], number);
        }
    }
}

pub(super) fn counts_generations(kind: &Kind) -> bool {
    matches!(
        kind.group,
        "apps" | "batch" | "networking.k8s.io" | "gateway.networking.k8s.io" | "policy" | "discovery.k8s.io"
    )
}

fn store(state: &mut State, key: Key, object: Value, dry_run: bool) -> Arc<Value> {
    if dry_run { Arc::new(object) } else { state.put(key, object) }
}

// --- update

/// Puts the desired object in place of the live one. `applied` says that the field managers are written already.
pub(crate) fn update(
    state: &mut State,
    target: &Target,
    live: &Arc<Value>,
    desired: Value,
    how: &How,
    applied: bool,
) -> Result<Arc<Value>, Failure> {
    let kind = target.kind;
    check_preconditions(target, live, &desired)?;
    let mut object = with_only_the_subresource(kind, live, desired, &target.subresource);
    keep_identity(kind, live, &mut object);
    if target.subresource.is_empty() {
        keep_assigned(kind, live, &mut object);
        defaults::apply(kind, &mut object);
        if kind.resource == kinds::SERVICES {
            assign_service(state, &mut object);
        }
    }
    if !applied {
        apply::note_update(kind, Some(live), &mut object, &how.writer);
    }
    if kind.resource == kinds::DEPLOYMENTS && target.subresource.is_empty() {
        mutate(state, &mut object);
    }
    validation::check(kind, &object, Some(live))?;
    let annotated = object.pointer("/metadata/annotations") != live.pointer("/metadata/annotations");
    let counts = object.get("spec") != live.get("spec") || annotated && kind.resource == kinds::DEPLOYMENTS;
    if counts_generations(kind) && counts {
        let generation = object::int(live, "/metadata/generation").unwrap_or_default() + 1;
        object::set(&mut object, &["metadata", "generation"], generation);
    }
    let key = Key::of(kind.resource, &object);
    if object == **live {
        return Ok(live.clone());
    }
    if delete::is_finished(&object) && !how.dry_run {
        state.put(key.clone(), object);
        return Ok(state.remove(&key).unwrap_or_else(|| live.clone()));
    }
    Ok(store(state, key, object, how.dry_run))
}

fn check_preconditions(target: &Target, live: &Value, desired: &Value) -> Result<(), Failure> {
    let kind = target.kind;
    let (name, space) = (object::name(desired), object::namespace(desired));
    if !name.is_empty() && name != target.name {
        let message =
            format!("the name of the object ({name}) does not match the name on the URL ({})", target.name);
        return Err(Failure::bad_request(message));
    }
    if kind.namespaced && !space.is_empty() && space != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let uid = object::uid(desired);
    if !uid.is_empty() && uid != object::uid(live) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(live)
        );
        return Err(Failure::conflict(kind, &target.name, &why));
    }
    let revision = object::text(desired, "/metadata/resourceVersion");
    if !revision.is_empty() && revision != object::text(live, "/metadata/resourceVersion") {
        return Err(Failure::modified(kind, &target.name));
    }
    Ok(())
}

/// A write to an object leaves its status alone, a write to the status everything else.
fn with_only_the_subresource(kind: &Kind, live: &Value, desired: Value, subresource: &str) -> Value {
    if subresource == "status" {
        let mut object = live.clone();
        match desired.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => {
                object::remove(&mut object, &["status"]);
            }
        }
        if let Some(owners) = desired.pointer("/metadata/managedFields") {
            object::set(&mut object, &["metadata", "managedFields"], owners.clone());
        }
        return object;
    }
    let mut object = desired;
    if kind.has("status") {
        match live.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => {
                object::remove(&mut object, &["status"]);
            }
        }
    }
    object
}

fn keep_identity(kind: &Kind, live: &Value, object: &mut Value) {
    object::set(object, &["apiVersion"], kind.api_version());
    object::set(object, &["kind"], kind.kind);
    const KEPT: &[&str] = &[
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
    ];
    for field in KEPT {
        match live["metadata"].get(*field) {
            Some(value) => object::set(object, &["metadata", field], value.clone()),
            None => {
                object::remove(object, &["metadata", field]);
            }
        }
    }
}

/// What the server assigned stays where an update leaves it out.
fn keep_assigned(kind: &Kind, live: &Value, object: &mut Value) {
    if kind.resource == kinds::SERVICES && object["spec"]["type"] != "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            object::set_default(object, &["spec", field], live["spec"][field].clone());
        }
        object::strip_nulls(object);
    }
}

fn rescale(
    state: &mut State,
    target: &Target,
    live: &Arc<Value>,
    scale: &Value,
    how: &How,
) -> Result<Done, Failure> {
    let replicas = object::int(scale, "/spec/replicas").unwrap_or_default();
    let made = scale_to(state, target.kind, live, replicas, how)?;
    Ok(Done::object(StatusCode::OK, &read::scale(&made)))
}

/// Writes the number of pods, as `scale` does: for clients and autoscalers.
pub(crate) fn scale_to(
    state: &mut State,
    kind: &'static Kind,
    live: &Arc<Value>,
    replicas: i64,
    how: &How,
) -> Result<Arc<Value>, Failure> {
    let mut desired = (**live).clone();
    object::set(&mut desired, &["spec", "replicas"], replicas);
    let whole = Target {
        kind,
        namespace: object::namespace(live).to_owned(),
        name: object::name(live).to_owned(),
        subresource: String::new(),
    };
    update(state, &whole, live, desired, how, false)
}

// --- patch and apply

fn patched(state: &mut State, target: &Target, call: &Call, how: How) -> Result<Done, Failure> {
    let kind = target.kind;
    let content = call.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if call.is_apply() {
        return applied(state, target, call, &how);
    }
    let live = get(state, target)?;
    let body = call.json()?;
    let scaled = target.subresource == "scale";
    let from = if scaled { read::scale(&live) } else { (*live).clone() };
    let mut desired = match content {
        "application/merge-patch+json" => {
            let mut value = from;
            patch::merge(&mut value, &body);
            value
        }
        "application/strategic-merge-patch+json" => {
            let mut value = from;
            patch::strategic(&schema::root(kind), &mut value, &body)?;
            value
        }
        "application/json-patch+json" => patch::json(&from, &body)?,
        _ => return Err(Failure::unsupported_media_type(PATCHES)),
    };
    if scaled {
        return rescale(state, target, &live, &desired, &how);
    }
    let warnings = strictness(kind, &mut desired, call)?;
    check_type(kind, &desired)?;
    let made = update(state, target, &live, desired, &how, false)?;
    Ok(warned(Done::object(StatusCode::OK, &made), &warnings))
}

fn applied(state: &mut State, target: &Target, call: &Call, how: &How) -> Result<Done, Failure> {
    let kind = target.kind;
    if call.query.get("fieldManager").is_none() {
        let cause = status::Cause::required("fieldManager", "is required for apply patch");
        return Err(Failure::invalid_options("PatchOptions", &cause));
    }
    let mut body = call.json()?;
    object::strip_nulls(&mut body);
    if !object::list(&body, "/metadata/managedFields").is_empty() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    if object::text(&body, "/apiVersion") != kind.api_version() || object::text(&body, "/kind") != kind.kind {
        return Err(Failure::bad_request("apiVersion and kind of an apply must be those of the resource"));
    }
    if let Some(field) = validation::unknown_fields(kind, &body).first() {
        return Err(Failure::untyped(
            kind,
            &target.namespace,
            &target.name,
            &format!(".{field}: field not declared in schema"),
        ));
    }
    let untyped = |failure: Failure| {
        let why = failure.message.rsplit(": json: ").next().unwrap_or_default().to_owned();
        Failure::untyped(kind, &target.namespace, &target.name, &why)
    };
    check_type(kind, &body).map_err(untyped)?;
    reset_fields(target, &mut body);
    if kind.namespaced && object::namespace(&body).is_empty() {
        object::set(&mut body, &["metadata", "namespace"], target.namespace.clone());
    }
    let key = Key::new(kind.resource, &target.namespace, &target.name);
    match state.get(&key).cloned() {
        Some(live) => {
            check_preconditions(target, &live, &body)?;
            object::remove(&mut body, &["metadata", "resourceVersion"]);
            let desired = apply::apply(kind, &live, &body, &how.writer)?;
            let made = update(state, target, &live, desired, how, true)?;
            Ok(Done::object(StatusCode::OK, &made))
        }
        None if !target.subresource.is_empty() => Err(Failure::not_found(kind, &target.name)),
        None => create_by_apply(state, target, body, how),
    }
}

fn create_by_apply(state: &mut State, target: &Target, body: Value, how: &How) -> Result<Done, Failure> {
    let kind = target.kind;
    if !object::uid(&body).is_empty() {
        return Err(Failure::conflict(
            kind,
            &target.name,
            "uid mismatch: the provided object specified uid and no existing object was found",
        ));
    }
    let mut object = apply::apply(kind, &Value::Object(Map::new()), &body, &how.writer)?;
    object::set(&mut object, &["metadata", "name"], target.name.clone());
    if !object::name(&body).is_empty() && object::name(&body) != target.name {
        let message = format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object::name(&body),
            target.name
        );
        return Err(Failure::bad_request(message));
    }
    place(state, kind, &target.namespace, &mut object)?;
    let owners = object["metadata"]["managedFields"].clone();
    prepare_new(state, kind, &mut object);
    defaults::apply(kind, &mut object);
    complete(state, kind, &mut object)?;
    validation::check(kind, &object, None)?;
    object::set(&mut object, &["metadata", "managedFields"], owners);
    let made = store(state, Key::of(kind.resource, &object), object, how.dry_run);
    Ok(Done::object(StatusCode::CREATED, &made))
}

/// An apply to the object says nothing about status, an apply to the status nothing else.
fn reset_fields(target: &Target, body: &mut Value) {
    if target.subresource == "status" {
        object::remove(body, &["spec"]);
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            object::remove(body, &["metadata", field]);
        }
    } else if target.kind.has("status") {
        object::remove(body, &["status"]);
    }
    for field in ["creationTimestamp", "generation", "selfLink", "managedFields"] {
        object::remove(body, &["metadata", field]);
    }
}
