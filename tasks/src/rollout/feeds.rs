//! What a rollout is judged by, as it comes in: its Deployment, and what that owns, off the watches of the namespace.
//!
//! It only keeps what is seen. Judging is in `judge.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::judge::Seen;
use crate::cluster::{Change, Cluster, Follower, Trouble};
use crate::manifest::{name, texts, uid};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Deployment,
    ReplicaSet,
    Pod,
}

/// The three watches; they are shared with every other rollout of the namespace.
pub(super) struct Feeds {
    deployments: Follower,
    replica_sets: Follower,
    pods: Follower,
    /// Whether what was listed before this rollout was followed is taken in.
    begun: bool,
    wanted: String,
    /// The Deployment that was written. Watches are a moment behind: one of its name that was there before is another.
    uid: String,
    /// Whether the watch has shown it: until then, that it is not among what is listed means nothing.
    met: bool,
    selector: BTreeMap<String, String>,
}

impl Feeds {
    pub(super) fn open(cluster: &Cluster, deployment: &Value) -> Feeds {
        Feeds {
            deployments: cluster.follow("apps/v1", "Deployment"),
            replica_sets: cluster.follow("apps/v1", "ReplicaSet"),
            pods: cluster.follow("v1", "Pod"),
            begun: false,
            wanted: name(deployment).to_owned(),
            uid: uid(deployment).unwrap_or_default().to_owned(),
            met: false,
            selector: texts(deployment, "/spec/selector/matchLabels"),
        }
    }

    /// Waits for the next thing that concerns this rollout, and takes it in. What others do in the namespace wakes nobody: with many
    /// rollouts at once each would judge what all of them see.
    pub(super) async fn next(&mut self, seen: &mut Seen) {
        if !self.begun {
            self.begun = true;
            for kind in [Kind::Deployment, Kind::ReplicaSet, Kind::Pod] {
                self.anew(kind, seen);
            }
            return;
        }
        loop {
            let (kind, change) = tokio::select! {
                change = self.deployments.next() => (Kind::Deployment, change),
                change = self.replica_sets.next() => (Kind::ReplicaSet, change),
                change = self.pods.next() => (Kind::Pod, change),
            };
            let concerned = match change {
                Change::Put(object) if self.concerns(kind, &object) => {
                    self.put(seen, kind, &object);
                    true
                }
                // A label that was taken away takes a pod out of the rollout.
                Change::Put(object) | Change::Gone(object) => gone(seen, kind, &object),
                Change::Anew => {
                    self.anew(kind, seen);
                    true
                }
                Change::Broken => true,
            };
            if concerned {
                return;
            }
        }
    }

    /// Why nothing can be seen, where that is so.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let all = [&self.deployments, &self.replica_sets, &self.pods];
        all.into_iter().filter_map(Follower::trouble).min_by_key(|trouble| trouble.since)
    }

    fn concerns(&self, kind: Kind, object: &Value) -> bool {
        match kind {
            // A Deployment may carry other labels than its pods.
            Kind::Deployment => name(object) == self.wanted,
            Kind::ReplicaSet | Kind::Pod => {
                let labels = object.pointer("/metadata/labels").unwrap_or(&Value::Null);
                self.selector.iter().all(|(key, value)| labels[key.as_str()] == value.as_str())
            }
        }
    }

    fn put(&mut self, seen: &mut Seen, kind: Kind, object: &Arc<Value>) {
        let value = (**object).clone();
        let uid = uid(object).unwrap_or_default().to_owned();
        match kind {
            Kind::Deployment => {
                self.met |= uid == self.uid;
                if self.met {
                    seen.deployment = Some(value);
                }
            }
            Kind::ReplicaSet => {
                seen.replica_sets.insert(uid, value);
            }
            Kind::Pod => {
                seen.pods.insert(uid, value);
            }
        }
    }

    /// Takes everything of a kind as it is known now. Before its first list nothing is.
    fn anew(&mut self, kind: Kind, seen: &mut Seen) {
        let feed = match kind {
            Kind::Deployment => &self.deployments,
            Kind::ReplicaSet => &self.replica_sets,
            Kind::Pod => &self.pods,
        };
        let Some(all) = feed.all() else { return };
        match kind {
            Kind::Deployment if self.met => seen.deployment = None,
            Kind::Deployment => {}
            Kind::ReplicaSet => seen.replica_sets.clear(),
            Kind::Pod => seen.pods.clear(),
        }
        for object in &all {
            if self.concerns(kind, object) {
                self.put(seen, kind, object);
            }
        }
    }
}

/// Forgets an object; whether it was known.
fn gone(seen: &mut Seen, kind: Kind, object: &Value) -> bool {
    let uid = uid(object).unwrap_or_default();
    match kind {
        // The one that is looked at, not one that had its name before.
        Kind::Deployment => {
            let this = seen.deployment.as_ref().and_then(self::uid) == Some(uid);
            if this {
                seen.deployment = None;
            }
            this
        }
        Kind::ReplicaSet => seen.replica_sets.remove(uid).is_some(),
        Kind::Pod => seen.pods.remove(uid).is_some(),
    }
}
