//! The end of things: dependents whose owners are gone, the foreground and orphan finalizers, dying namespaces.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::delete::{FOREGROUND, ORPHAN};
use crate::api::{delete, write};
use crate::kinds::{self, TABLE};
use crate::object::{self, list};
use crate::store::{Key, State};

/// How long events are kept, as an API server keeps them.
const EVENTS_LAST: chrono::Duration = chrono::Duration::hours(1);

pub(super) fn reconcile(state: &mut State) {
    collect(state);
    finish(state);
    namespaces(state);
    expire_events(state);
}

fn expire_events(state: &mut State) {
    let oldest = crate::clock::seconds(state.clock.now() - EVENTS_LAST);
    // Timestamps of one form sort as text.
    let is_old = |event: &Value| object::text(event, "/lastTimestamp") < oldest.as_str();
    let old: Vec<Key> = state
        .list(kinds::EVENTS, "")
        .filter(|(_, event)| is_old(event))
        .map(|(key, _)| key.clone())
        .collect();
    for key in old {
        state.remove(&key);
    }
}

/// Deletes dependents of which no owner is left; those of an owner that waits for them too.
fn collect(state: &mut State) {
    let uids: HashSet<String> = state.objects.values().map(|object| object::uid(object).to_owned()).collect();
    let waiting: HashSet<String> = state
        .objects
        .values()
        .filter(|object| holds(object, FOREGROUND))
        .map(|object| object::uid(object).to_owned())
        .collect();
    let dependents: Vec<(Key, Arc<Value>)> = state
        .objects
        .iter()
        .filter(|(_, object)| {
            !list(object, "/metadata/ownerReferences").is_empty() && !object::is_dying(object)
        })
        .map(|(key, object)| (key.clone(), object.clone()))
        .collect();
    for (key, dependent) in dependents {
        let owners = list(&dependent, "/metadata/ownerReferences");
        let uid = |owner: &Value| owner["uid"].as_str().unwrap_or_default().to_owned();
        let is_left = |owner: &Value| uids.contains(&uid(owner)) && !waiting.contains(&uid(owner));
        if owners.iter().any(is_left) {
            continue;
        }
        let Some(kind) = kinds::by_resource(key.resource) else { continue };
        if owners.iter().any(|owner| waiting.contains(&uid(owner))) {
            delete::in_foreground(state, kind, &dependent);
        } else {
            delete::in_background(state, kind, &dependent);
        }
    }
}

fn holds(object: &Value, finalizer: &str) -> bool {
    object::is_dying(object) && list(object, "/metadata/finalizers").iter().any(|one| one == finalizer)
}

/// Takes the collector's own finalizers away where their work is done.
fn finish(state: &mut State) {
    let dying: Vec<(Key, Arc<Value>)> = state
        .objects
        .iter()
        .filter(|(_, object)| holds(object, FOREGROUND) || holds(object, ORPHAN))
        .map(|(key, object)| (key.clone(), object.clone()))
        .collect();
    for (key, owner) in dying {
        let uid = object::uid(&owner).to_owned();
        let dependents: Vec<(Key, Arc<Value>)> = state
            .objects
            .iter()
            .filter(|(_, object)| {
                list(object, "/metadata/ownerReferences").iter().any(|one| one["uid"] == *uid)
            })
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        if holds(&owner, ORPHAN) {
            for (key, dependent) in &dependents {
                release(state, key, dependent, &uid);
            }
            drop_finalizer(state, &key, ORPHAN);
        } else if !dependents.iter().any(|(_, dependent)| blocks(dependent, &uid)) {
            drop_finalizer(state, &key, FOREGROUND);
        }
    }
}

fn blocks(dependent: &Value, uid: &str) -> bool {
    list(dependent, "/metadata/ownerReferences")
        .iter()
        .any(|one| one["uid"] == *uid && one["blockOwnerDeletion"] == true)
}

fn release(state: &mut State, key: &Key, dependent: &Value, uid: &str) {
    let mut freed = dependent.clone();
    let owners: Vec<Value> = list(dependent, "/metadata/ownerReferences")
        .iter()
        .filter(|one| one["uid"] != *uid)
        .cloned()
        .collect();
    if owners.is_empty() {
        object::remove(&mut freed, &["metadata", "ownerReferences"]);
    } else {
        object::set(&mut freed, &["metadata", "ownerReferences"], owners);
    }
    state.put(key.clone(), freed);
}

fn drop_finalizer(state: &mut State, key: &Key, name: &str) {
    let Some(live) = state.get(key).cloned() else { return };
    let mut object = (*live).clone();
    let left: Vec<Value> =
        list(&object, "/metadata/finalizers").iter().filter(|one| *one != name).cloned().collect();
    if left.is_empty() {
        object::remove(&mut object, &["metadata", "finalizers"]);
    } else {
        object::set(&mut object, &["metadata", "finalizers"], left);
    }
    if delete::is_finished(&object) {
        state.put(key.clone(), object);
        state.remove(key);
    } else {
        state.put(key.clone(), object);
    }
}

/// Every namespace has its account and root certificate; a dying one is emptied and then gone.
fn namespaces(state: &mut State) {
    for namespace in state.all(kinds::NAMESPACES, "") {
        let name = object::name(&namespace).to_owned();
        if !object::is_dying(&namespace) {
            furnish(state, &name);
            continue;
        }
        let mut left = 0;
        for kind in TABLE.iter().filter(|kind| kind.namespaced) {
            for object in state.all(kind.resource, &name) {
                left += 1;
                if !object::is_dying(&object) {
                    delete::in_background(state, kind, &object);
                }
            }
        }
        if left == 0 && list(&namespace, "/metadata/finalizers").is_empty() {
            state.remove(&Key::new(kinds::NAMESPACES, "", &name));
        }
    }
}

fn furnish(state: &mut State, namespace: &str) {
    let wanted = [
        (kinds::SERVICE_ACCOUNTS, json!({ "metadata": { "name": "default", "namespace": namespace } })),
        (
            kinds::CONFIG_MAPS,
            json!({
                "metadata": { "name": "kube-root-ca.crt", "namespace": namespace },
                "data": { "ca.crt": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" },
            }),
        ),
    ];
    for (resource, object) in wanted {
        let Some(kind) = kinds::by_resource(resource) else { continue };
        if state.get(&Key::of(resource, &object)).is_none() {
            let how = super::how(state);
            let made = write::create(state, kind, namespace, object, &how);
            if let Err(failure) = made {
                tracing::debug!(namespace, why = failure.message, "a namespace could not be furnished");
            }
        }
    }
}
