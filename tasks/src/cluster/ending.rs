//! Waits until objects that were deleted are gone, and the pods behind them, by the shared watches.
//!
//! An object is one uid: what somebody makes anew under its name is another one, and is not waited for. The watches say
//! when to look, and one read at the end says that it is so. Nothing is deleted here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::task::{TaskContext, TaskError};
use serde_json::Value;

use super::{Blind, Cluster, Follower};
use crate::lane::labels::{GRAY_TYPE, TYPE};
use crate::manifest::{ObjectRef, uid};

/// How long nothing may be heard before it is looked at again all the same.
const TICK: Duration = Duration::from_secs(1);

/// An object that goes: where it is, and which one.
pub(crate) type Going<'g> = (&'g ObjectRef, &'g str);

/// Pods that go with what made them.
pub(crate) struct GoingPods<'g> {
    /// The namespaces that they live in; none is the cluster's own.
    pub(crate) namespaces: Vec<Option<&'g str>>,
    /// The label selectors that find them.
    pub(crate) selectors: Vec<String>,
    /// Whether a pod may be one of them.
    pub(crate) mine: &'g (dyn Fn(&Value) -> bool + Sync),
    /// The Deployments that made them, by uid.
    pub(crate) deployments: BTreeSet<&'g str>,
}

impl GoingPods<'_> {
    /// How many of these pods go, by the ReplicaSets that are there. A name says nothing: long ones are cut, and somebody may
    /// have made a Deployment of that name anew. One whose ReplicaSet is gone goes too: nobody else holds it.
    fn count<'o>(
        &self,
        pods: impl Iterator<Item = &'o Value>,
        sets: impl Iterator<Item = &'o Value>,
    ) -> usize {
        let others: BTreeSet<&str> = sets
            .filter(|set| owner(set, "Deployment").is_some_and(|uid| !self.deployments.contains(uid)))
            .filter_map(uid)
            .collect();
        let goes = |pod: &&Value| owner(pod, "ReplicaSet").is_some_and(|uid| !others.contains(uid));
        pods.filter(|pod| (self.mine)(pod)).filter(goes).count()
    }
}

/// The uid of what made an object, where that is of this kind.
fn owner<'o>(object: &'o Value, kind: &str) -> Option<&'o str> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().find(|owner| owner["kind"] == kind).and_then(|owner| owner["uid"].as_str())
}

/// Waits until all of it is gone. `tell` hears how many objects are left, and for what is waited.
///
/// # Errors
/// What the API server said; that it cannot be seen for long; that the attempt was stopped.
pub(crate) async fn until_gone(
    cx: &TaskContext,
    cluster: &Cluster,
    going: &[Going<'_>],
    pods: Option<&GoingPods<'_>>,
    mut tell: impl FnMut(usize, &str),
) -> Result<(), TaskError> {
    if going.is_empty() && pods.is_none() {
        return Ok(());
    }
    let mut feeds = Feeds::open(cluster, going, pods);
    let mut blind = Blind::over("the end of what was deleted");
    loop {
        blind.look(cx, feeds.trouble())?;
        let mut left = feeds.left(going, pods);
        if left.is_empty() {
            // A watch is a moment behind, and may never have shown what came and went: a read has the last word.
            left = Left::read(cluster, going, pods).await?;
        }
        if left.is_empty() {
            return Ok(());
        }
        let note = left.words();
        tell(left.objects.len(), &note);
        tokio::select! {
            () = feeds.changed() => {}
            () = tokio::time::sleep(TICK) => {}
            () = cx.cancel.cancelled() => {
                return Err(TaskError::transient(format!("stopped while waiting for the end of {note}")));
            }
        }
    }
}

/// What is not gone yet.
struct Left {
    objects: Vec<String>,
    /// None while it is not known.
    pods: Option<usize>,
}

impl Left {
    async fn read(
        cluster: &Cluster,
        going: &[Going<'_>],
        pods: Option<&GoingPods<'_>>,
    ) -> Result<Left, TaskError> {
        let mut objects = Vec::new();
        for (at, wanted) in going {
            if cluster.get(at).await?.as_ref().and_then(uid) == Some(wanted) {
                objects.push(at.to_string());
            }
        }
        let mut count = 0;
        if let Some(pods) = pods {
            for selector in &pods.selectors {
                let found = cluster.list("v1", "Pod", selector).await?;
                // After the pods: the ReplicaSet of each is there by then, or gone.
                let sets = match found.as_slice() {
                    [] => Vec::new(),
                    _ => cluster.list("apps/v1", "ReplicaSet", selector).await?,
                };
                count += pods.count(found.iter(), sets.iter());
            }
        }
        Ok(Left { objects, pods: Some(count) })
    }

    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.pods == Some(0)
    }

    fn words(&self) -> String {
        match (self.objects.first(), self.pods) {
            (Some(first), _) => first.clone(),
            (None, None) => "pods".to_owned(),
            (None, Some(1)) => "1 pod is ending".to_owned(),
            (None, Some(count)) => format!("{count} pods are ending"),
        }
    }
}

/// The watches that show it.
struct Feeds<'f> {
    /// By namespace and kind.
    objects: BTreeMap<(Option<&'f str>, &'f str), Follower>,
    pods: Vec<Follower>,
    replica_sets: Vec<Follower>,
}

impl<'f> Feeds<'f> {
    fn open(cluster: &Cluster, going: &[Going<'f>], pods: Option<&GoingPods<'f>>) -> Feeds<'f> {
        let mut objects = BTreeMap::new();
        for (at, _) in going {
            let place = (at.namespace.as_deref(), at.kind.as_str());
            objects.entry(place).or_insert_with(|| {
                let cluster = cluster.within(at.namespace.as_deref());
                // Rollouts follow Deployments too; of what a namespace is full of, only lanes' objects are watched.
                match at.kind.as_str() {
                    "Deployment" => cluster.follow(&at.api_version, &at.kind),
                    _ => cluster.follow_some(&at.api_version, &at.kind, &format!("{TYPE}={GRAY_TYPE}")),
                }
            });
        }
        let namespaces = pods.map(|pods| pods.namespaces.as_slice()).unwrap_or_default();
        let pods = namespaces.iter().map(|namespace| cluster.within(*namespace).follow("v1", "Pod"));
        let lanes = format!("{TYPE}={GRAY_TYPE}");
        let replica_sets = namespaces
            .iter()
            .map(|namespace| cluster.within(*namespace).follow_some("apps/v1", "ReplicaSet", &lanes));
        Feeds { objects, pods: pods.collect(), replica_sets: replica_sets.collect() }
    }

    /// What is not gone, as the watches have it; before its first list nothing is.
    fn left(&self, going: &[Going<'_>], pods: Option<&GoingPods<'_>>) -> Left {
        let there = |(at, wanted): &&Going<'_>| {
            let all = self.objects.get(&(at.namespace.as_deref(), at.kind.as_str())).and_then(Follower::all);
            all.is_none_or(|all| all.iter().any(|object| uid(object) == Some(*wanted)))
        };
        let objects = going.iter().filter(there).map(|(at, _)| at.to_string()).collect();
        let Some(pods) = pods else { return Left { objects, pods: Some(0) } };
        let all = |feeds: &[Follower]| -> Option<Vec<Vec<Arc<Value>>>> {
            feeds.iter().map(Follower::all).collect()
        };
        let count = all(&self.pods).zip(all(&self.replica_sets)).map(|(all, sets)| {
            pods.count(all.iter().flatten().map(|pod| &**pod), sets.iter().flatten().map(|set| &**set))
        });
        Left { objects, pods: count }
    }

    /// Waits for the next thing that changes; it may concern somebody else.
    async fn changed(&mut self) {
        let all = self.objects.values_mut().chain(&mut self.pods).chain(&mut self.replica_sets);
        let next = all.map(|feed| Box::pin(feed.next()));
        futures::future::select_all(next).await;
    }

    fn trouble(&self) -> Option<super::Trouble> {
        let all = self.objects.values().chain(&self.pods).chain(&self.replica_sets);
        all.filter_map(Follower::trouble).min_by_key(|trouble| trouble.since)
    }
}
