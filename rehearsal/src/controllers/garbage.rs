//! The end of things: dependents whose owners are gone, the foreground and orphan finalizers, dying namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::touched::Touched;
use crate::api::delete::{FOREGROUND, ORPHAN};
use crate::api::{delete, write};
use crate::kinds::{self, TABLE};
use crate::object::{self, list};
use crate::store::{Key, State};

/// How long events are kept, as an API server keeps them.
const EVENTS_LAST: chrono::Duration = chrono::Duration::hours(1);

pub(super) fn reconcile(state: &mut State, touched: &Touched) {
    collect(state, touched);
    finish(state, touched);
    namespaces(state);
    if touched.all {
        expire_events(state);
    }
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
fn collect(state: &mut State, touched: &Touched) {
    let mut dependents: BTreeMap<Key, Arc<Value>> = BTreeMap::new();
    let mut take = |key: &Key, object: &Arc<Value>| {
        if !list(object, "/metadata/ownerReferences").is_empty() && !object::is_dying(object) {
            dependents.insert(key.clone(), object.clone());
        }
    };
    for (key, object) in present(state, touched) {
        take(key, object);
        if holds(object, FOREGROUND) {
            state.dependents(object::uid(object)).for_each(|(key, object)| take(key, object));
        }
    }
    for owner in touched.removed() {
        state.dependents(object::uid(owner)).for_each(|(key, object)| take(key, object));
    }
    for (key, dependent) in dependents {
        let owner = |uid: &str| state.place(uid).and_then(|key| state.get(key));
        let waits = |uid: &str| owner(uid).is_some_and(|owner| holds(owner, FOREGROUND));
        if object::owner_uids(&dependent).any(|uid| owner(uid).is_some() && !waits(uid)) {
            continue;
        }
        let Some(kind) = kinds::by_resource(key.resource) else { continue };
        if object::owner_uids(&dependent).any(waits) {
            delete::in_foreground(state, kind, &dependent);
        } else {
            delete::in_background(state, kind, &dependent);
        }
    }
}

fn present<'s>(state: &'s State, touched: &'s Touched) -> impl Iterator<Item = (&'s Key, &'s Arc<Value>)> {
    touched.keys().filter_map(|key| Some((key, state.get(key)?)))
}

fn holds(object: &Value, finalizer: &str) -> bool {
    object::is_dying(object) && list(object, "/metadata/finalizers").iter().any(|one| one == finalizer)
}

/// Takes the collector's own finalizers away where their work is done.
fn finish(state: &mut State, touched: &Touched) {
    let mut keys: BTreeSet<Key> = touched.keys().cloned().collect();
    let touched_now = present(state, touched).map(|(_, object)| object);
    let uids = touched_now.chain(touched.removed()).flat_map(|object| object::owner_uids(object));
    keys.extend(uids.filter_map(|uid| state.place(uid)).cloned());
    for key in keys {
        let Some(owner) = state.get(&key).cloned() else { continue };
        if !holds(&owner, FOREGROUND) && !holds(&owner, ORPHAN) {
            continue;
        }
        let uid = object::uid(&owner).to_owned();
        let dependents: Vec<(Key, Arc<Value>)> =
            state.dependents(&uid).map(|(key, object)| (key.clone(), object.clone())).collect();
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
