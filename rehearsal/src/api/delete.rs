//! delete and deletecollection: the beginning of an object's end, and what has to happen before it.
//!
//! An object goes at once, or it gets a deletion timestamp and waits: a pod for its grace, an owner for its dependents,
//! anything for its finalizers. Who ends the waiting is the controllers' business.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::read::get;
use super::write::counts_generations;
use super::{Call, Done, Target};
use crate::clock;
use crate::kinds::{self, Kind};
use crate::object;
use crate::selector::Selector;
use crate::status::{self, Failure};
use crate::store::{Key, State};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// What a delete asks for besides the object.
#[derive(Debug, Default, Clone)]
struct DeleteOptions {
    uid: String,
    revision: String,
    propagation: String,
    grace: Option<i64>,
}

fn delete_options(call: &Call) -> Result<(DeleteOptions, bool), Failure> {
    let body = if call.body.is_empty() { json!({}) } else { call.json()? };
    let text = |pointer: &str| object::text(&body, pointer).to_owned();
    let propagation =
        call.query.get("propagationPolicy").map(str::to_owned).unwrap_or_else(|| text("/propagationPolicy"));
    if !matches!(propagation.as_str(), "" | "Background" | "Foreground" | "Orphan") {
        let cause = status::Cause::unsupported(
            "propagationPolicy",
            &propagation,
            &["Foreground", "Background", "Orphan", "nil"],
        );
        return Err(Failure::invalid_options("DeleteOptions", &cause));
    }
    let grace = call.query.number("gracePeriodSeconds").map(|seconds| seconds as i64);
    let options = DeleteOptions {
        uid: text("/preconditions/uid"),
        revision: text("/preconditions/resourceVersion"),
        propagation,
        grace: grace.or_else(|| object::int(&body, "/gracePeriodSeconds")),
    };
    Ok((options, object::list(&body, "/dryRun").iter().any(|said| said == "All")))
}

pub(super) fn delete_one(
    state: &mut State,
    target: &Target,
    call: &Call,
    dry_run: bool,
) -> Result<Done, Failure> {
    let (options, dry_body) = delete_options(call)?;
    let live = get(state, target)?;
    if !options.uid.is_empty() && options.uid != object::uid(&live) {
        let why = format!(
            "the UID in the precondition ({}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            options.uid,
            object::uid(&live)
        );
        return Err(Failure::precondition(target.kind, &target.name, &why));
    }
    let revision = object::text(&live, "/metadata/resourceVersion");
    if !options.revision.is_empty() && options.revision != revision {
        let why = format!(
            "the ResourceVersion in the precondition ({}) does not match the ResourceVersion in record ({revision}). The object might have been modified",
            options.revision
        );
        return Err(Failure::precondition(target.kind, &target.name, &why));
    }
    let answer = if dry_run || dry_body { None } else { delete_with(state, target.kind, &live, &options) };
    match answer {
        Some(waiting) => Ok(Done::object(StatusCode::OK, &waiting)),
        None => {
            let done = status::deleted(target.kind, &target.name, object::uid(&live));
            Ok(Done::object(StatusCode::OK, &done))
        }
    }
}

pub(super) fn delete_all(
    state: &mut State,
    target: &Target,
    call: &Call,
    dry_run: bool,
) -> Result<Done, Failure> {
    let (options, dry_body) = delete_options(call)?;
    let selector = Selector::of(target.kind, &call.query)?;
    let found: Vec<Arc<Value>> = state
        .all(target.kind.resource, &target.namespace)
        .into_iter()
        .filter(|object| selector.matches(object))
        .collect();
    if !(dry_run || dry_body) {
        for live in &found {
            delete_with(state, target.kind, live, &options);
        }
    }
    let items: Vec<Value> = found.iter().map(|object| (**object).clone()).collect();
    let list = json!({
        "kind": format!("{}List", target.kind.kind), "apiVersion": target.kind.api_version(),
        "metadata": { "resourceVersion": state.revision.to_string() }, "items": items,
    });
    Ok(Done::object(StatusCode::OK, &list))
}

/// Deletes in the background, as controllers do.
pub(crate) fn in_background(state: &mut State, kind: &'static Kind, live: &Arc<Value>) {
    delete_with(state, kind, live, &DeleteOptions::default());
}

/// Deletes after the dependents are gone.
pub(crate) fn in_foreground(state: &mut State, kind: &'static Kind, live: &Arc<Value>) {
    let options = DeleteOptions { propagation: "Foreground".to_owned(), ..DeleteOptions::default() };
    delete_with(state, kind, live, &options);
}

/// Begins or does the end of an object; the answer is the object where it still waits.
fn delete_with(
    state: &mut State,
    kind: &'static Kind,
    live: &Arc<Value>,
    options: &DeleteOptions,
) -> Option<Arc<Value>> {
    let key = Key::of(kind.resource, live);
    let mut object = (**live).clone();
    let finalizer = match options.propagation.as_str() {
        "Foreground" => Some(FOREGROUND),
        "Orphan" => Some(ORPHAN),
        _ => None,
    };
    let mut finalizers = object::list(&object, "/metadata/finalizers").to_vec();
    if let Some(name) = finalizer.filter(|name| !finalizers.iter().any(|other| other == name)) {
        finalizers.push(name.into());
        object::set(&mut object, &["metadata", "finalizers"], finalizers.clone());
    }
    let grace = match kind.resource {
        kinds::PODS => grace_of(live, options),
        _ => 0,
    };
    let dying = object::is_dying(live);
    let waits = !finalizers.is_empty() || grace > 0 || kind.resource == kinds::NAMESPACES;
    if !waits {
        state.remove(&key);
        return None;
    }
    let earlier = object::int(live, "/metadata/deletionGracePeriodSeconds").unwrap_or(i64::MAX);
    if !dying || grace < earlier {
        let at = clock::later(state.clock.now(), grace);
        object::set(&mut object, &["metadata", "deletionTimestamp"], clock::seconds(at));
        object::set(&mut object, &["metadata", "deletionGracePeriodSeconds"], grace);
        if counts_generations(kind) && !dying {
            let generation = object::int(live, "/metadata/generation").unwrap_or_default() + 1;
            object::set(&mut object, &["metadata", "generation"], generation);
        }
    }
    if kind.resource == kinds::NAMESPACES {
        object::set(&mut object, &["status", "phase"], "Terminating");
    }
    if object == **live { Some(live.clone()) } else { Some(state.put(key, object)) }
}

/// A pod that runs gets its grace; one that never started, or has ended, goes at once.
fn grace_of(pod: &Value, options: &DeleteOptions) -> i64 {
    let over = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
    let placed = !object::text(pod, "/spec/nodeName").is_empty();
    if over || !placed {
        return 0;
    }
    let own = object::int(pod, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

/// An object that waits for its end and that nobody holds any more.
pub(crate) fn is_finished(object: &Value) -> bool {
    object::is_dying(object)
        && object::list(object, "/metadata/finalizers").is_empty()
        && object::int(object, "/metadata/deletionGracePeriodSeconds").unwrap_or_default() == 0
        && object::text(object, "/kind") != "Namespace"
}
