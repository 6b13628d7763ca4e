//! What a pass looks at: what changed since the pass before, and whom that concerns.
//!
//! ```text
//! a pod ──> its owner, and the owner's owner; Services that select it      a ReplicaSet ──> its Deployment
//! a ConfigMap or Secret ──> pods that may wait for it                      Endpoints ──> their Service
//! what is scaled ──> its autoscaler
//! ```
//! A cluster with many pods is looked at in the places where something happens, never as a whole because one of them
//! moved. Now and then all of it is, as informers do.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::autoscaler;
use crate::kinds;
use crate::object;
use crate::pods::is_ready;
use crate::store::{self, Change, Key, State};

/// How many owners above each other are looked at: a pod's ReplicaSet, and its Deployment.
const OWNERS: usize = 2;

/// Objects to look at, by key: also those that are gone.
#[derive(Debug, Default)]
pub(super) struct Touched {
    keys: BTreeSet<Key>,
    /// What was removed since the pass before, as it was last.
    gone: Vec<Arc<Value>>,
    /// Whether everything is looked at.
    pub(super) all: bool,
}

impl Touched {
    /// What a pass looks at that went over everything up to a revision; everything where history does not reach so far back.
    pub(super) fn since(state: &State, seen: u64, due: BTreeSet<Key>, all: bool) -> Touched {
        let mut touched = Touched { keys: due, gone: Vec::new(), all };
        let mut pods: Vec<&Arc<Value>> = Vec::new();
        match state.changes_since(seen) {
            Ok(changes) => {
                for change in changes {
                    if change.removed {
                        touched.gone.push(change.new.clone());
                    }
                    if !touched.all {
                        touched.concern(state, change, &mut pods);
                    }
                }
            }
            Err(_) => touched.all = true,
        }
        if touched.all {
            touched.keys.extend(state.objects.keys().cloned());
        } else {
            touched.services_of(state, &pods);
        }
        touched
    }

    /// The keys of a resource.
    pub(super) fn of(&self, resource: &'static str) -> impl Iterator<Item = &Key> {
        store::of(&self.keys, resource, "")
    }

    /// Every key.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The last states of what was removed.
    pub(super) fn removed(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.gone.iter()
    }

    fn concern<'c>(&mut self, state: &State, change: &'c Change, pods: &mut Vec<&'c Arc<Value>>) {
        let key = &change.key;
        let states = [change.old.as_ref(), Some(&change.new)];
        for object in states.into_iter().flatten() {
            self.owners(state, key, object);
            if key.resource == kinds::PODS && pods.last().is_none_or(|last| !same_labels(last, object)) {
                pods.push(object);
            }
        }
        match key.resource {
            kinds::ENDPOINTS => {
                self.keys.insert(Key { resource: kinds::SERVICES, ..key.clone() });
            }
            kinds::CONFIG_MAPS | kinds::SECRETS => {
                let waiting = state.list(kinds::PODS, &key.namespace).filter(|(_, pod)| !is_ready(pod));
                self.keys.extend(waiting.map(|(key, _)| key.clone()));
            }
            kinds::DEPLOYMENTS | kinds::REPLICA_SETS | kinds::STATEFUL_SETS => {
                let scalers = state.list(kinds::AUTOSCALERS, &key.namespace);
                let of_this = scalers.filter(|(_, scaler)| autoscaler::scales(scaler, key));
                self.keys.extend(of_this.map(|(key, _)| key.clone()));
            }
            kinds::NODES => self.keys.extend(state.list(kinds::PODS, "").map(|(key, _)| key.clone())),
            _ => {}
        }
        self.keys.insert(key.clone());
    }

    /// A pod counts for its ReplicaSet and for that one's Deployment; what nobody owns, for everybody who might adopt it.
    fn owners(&mut self, state: &State, key: &Key, object: &Value) {
        let mut above = object::controller_uid(object);
        if above.is_none() {
            let adopters = match key.resource {
                kinds::PODS => kinds::REPLICA_SETS,
                kinds::REPLICA_SETS => kinds::DEPLOYMENTS,
                _ => return,
            };
            self.keys.extend(state.list(adopters, &key.namespace).map(|(key, _)| key.clone()));
        }
        for _ in 0..OWNERS {
            let Some(place) = above.and_then(|uid| state.place(uid)) else { return };
            self.keys.insert(place.clone());
            above = state.get(place).and_then(|owner| object::controller_uid(owner));
        }
    }

    fn services_of(&mut self, state: &State, pods: &[&Arc<Value>]) {
        for pod in pods {
            let labels = object::map(pod, "/metadata/labels");
            let services = state.list(kinds::SERVICES, object::namespace(pod));
            let selecting = services
                .filter(|(_, service)| object::selects(object::map(service, "/spec/selector"), labels));
            self.keys.extend(selecting.map(|(key, _)| key.clone()));
        }
    }

    /// What was removed of a resource.
    pub(super) fn gone(&self, resource: &'static str) -> impl Iterator<Item = &Arc<Value>> {
        let kind = kinds::by_resource(resource);
        self.gone
            .iter()
            .filter(move |object| kind.is_some_and(|kind| object::text(object, "/kind") == kind.kind))
    }
}

fn same_labels(one: &Value, other: &Value) -> bool {
    object::namespace(one) == object::namespace(other)
        && object::map(one, "/metadata/labels") == object::map(other, "/metadata/labels")
}
