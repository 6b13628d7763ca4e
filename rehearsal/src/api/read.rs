//! get, list, logs and scale. Reading changes nothing.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::table::Table;
use super::{Body, Call, Target, json_response, text_response};
use crate::cluster::Cluster;
use crate::kinds::Kind;
use crate::object;
use crate::selector::Selector;
use crate::status::Failure;
use crate::store::{Key, State};

pub(crate) fn read(cluster: &Cluster, target: &Target, call: &Call) -> Result<Response<Body>, Failure> {
    cluster.with(|state| {
        if target.name.is_empty() {
            return list(state, target, call).map(|found| json_response(StatusCode::OK, &found));
        }
        let object = get(state, target)?;
        match target.subresource.as_str() {
            "log" => log(state, &object, call).map(text_response),
            "scale" => Ok(json_response(StatusCode::OK, &scale(&object))),
            _ => {
                let shown =
                    Table::asked(call, target.kind).map(|table| table.of_one(&object, state.clock.now()));
                Ok(json_response(StatusCode::OK, shown.as_ref().unwrap_or(&object)))
            }
        }
    })
}

/// The object that a target names.
pub(crate) fn get(state: &State, target: &Target) -> Result<std::sync::Arc<Value>, Failure> {
    let key = Key::new(target.kind.resource, &target.namespace, &target.name);
    state.get(&key).cloned().ok_or_else(|| Failure::not_found(target.kind, &target.name))
}

fn list(state: &State, target: &Target, call: &Call) -> Result<Value, Failure> {
    let selector = Selector::of(target.kind, &call.query)?;
    let limit =
        call.query.number("limit").filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
    let after = call.query.get("continue").map(decode_continue).transpose()?;
    let revision = after.as_ref().map_or(state.revision, |token| token.0);
    if after.is_some() && state.changes_since(revision).is_err() {
        return Err(Failure::continue_expired());
    }
    let mut matching = state
        .list(target.kind.resource, &target.namespace)
        .filter(|(key, _)| {
            after.as_ref().is_none_or(|(_, space, name)| (&key.namespace, &key.name) > (space, name))
        })
        .filter(|(_, object)| selector.matches(object))
        .peekable();
    let mut items: Vec<&Value> = Vec::new();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    while let Some((key, object)) = matching.next() {
        items.push(object);
        if items.len() == limit && matching.peek().is_some() {
            metadata["continue"] = encode_continue(revision, key).into();
            metadata["remainingItemCount"] = matching.count().into();
            break;
        }
    }
    Ok(match Table::asked(call, target.kind) {
        Some(table) => table.of(&metadata, items.into_iter(), state.clock.now()),
        None => list_of(target.kind, metadata, items.into_iter().map(without_type).collect()),
    })
}

fn list_of(kind: &Kind, metadata: Value, items: Vec<Value>) -> Value {
    json!({ "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items })
}

/// Items of a typed list do not repeat their type.
fn without_type(object: &Value) -> Value {
    let mut object = object.clone();
    object::remove(&mut object, &["apiVersion"]);
    object::remove(&mut object, &["kind"]);
    object
}

fn encode_continue(revision: u64, key: &Key) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(json!([revision, key.namespace, key.name]).to_string())
}

fn decode_continue(token: &str) -> Result<(u64, String, String), Failure> {
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok();
    raw.and_then(|raw| serde_json::from_slice(&raw).ok()).ok_or_else(|| {
        Failure::bad_request("continue key is not valid: encoded key is not a token of this server")
    })
}

fn log(state: &State, pod: &Value, call: &Call) -> Result<String, Failure> {
    let name = object::name(pod);
    let groups = ["/spec/containers", "/spec/initContainers"];
    let names: Vec<&str> = groups
        .iter()
        .flat_map(|group| object::list(pod, group))
        .map(|container| object::text(container, "/name"))
        .collect();
    let mains = object::list(pod, "/spec/containers").len();
    let container = match call.query.get("container") {
        Some(asked) if names.contains(&asked) => asked,
        Some(asked) => {
            return Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")));
        }
        None if mains == 1 => names[0],
        None => {
            let message =
                format!("a container name must be specified for pod {name}, choose one of: {names:?}");
            return Err(Failure::bad_request(message));
        }
    };
    // While a container waits to be started again, the run that died is the previous one, and the only one there is.
    let waits = status_of(pod, container).is_some_and(|status| {
        status.pointer("/state/waiting").is_some() && status.pointer("/lastState/terminated").is_some()
    });
    let previous = call.query.is_true("previous") && !waits;
    let log = state.logs.get(&(object::uid(pod).to_owned(), container.to_owned()));
    let lines = log.map(|log| if previous { &log.previous } else { &log.current });
    let Some(lines) = lines.filter(|lines| !lines.is_empty()) else {
        let message = if previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            format!(
                "container {container:?} in pod {name:?} is waiting to start: {}",
                waiting_reason(pod, container)
            )
        };
        return Err(Failure::bad_request(message));
    };
    let tail = call.query.number("tailLines").map_or(lines.len(), |count| (count as usize).min(lines.len()));
    let stamps = call.query.is_true("timestamps");
    let shown = lines[lines.len() - tail..].iter().map(|line| {
        if stamps { line.as_str() } else { line.split_once(' ').map_or(line.as_str(), |(_, text)| text) }
    });
    Ok(shown.map(|line| format!("{line}\n")).collect())
}

fn waiting_reason<'a>(pod: &'a Value, container: &str) -> &'a str {
    let reason = status_of(pod, container)
        .map(|status| object::text(status, "/state/waiting/reason"))
        .unwrap_or_default();
    if reason.is_empty() { "ContainerCreating" } else { reason }
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let groups = ["/status/containerStatuses", "/status/initContainerStatuses"];
    groups.into_iter().flat_map(|group| object::list(pod, group)).find(|status| status["name"] == container)
}

/// The `Scale` of a workload.
pub(crate) fn scale(object: &Value) -> Value {
    let labels = object::map(object, "/spec/selector/matchLabels");
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object::name(object), "namespace": object::namespace(object), "uid": object::uid(object),
            "resourceVersion": object["metadata"]["resourceVersion"],
            "creationTimestamp": object["metadata"]["creationTimestamp"],
        },
        "spec": {},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or_default(),
            "selector": selector.join(","),
        },
    });
    if let Some(replicas) = object::int(object, "/spec/replicas").filter(|count| *count != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    scale
}
