//! Following a resource through a client: a list that stays current, with each change applied after a lag.
//!
//! Works against any API server. An error of the watch is logged and followed by another try; it never ends the following.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delays::{Random, Span};

/// Objects by namespace and name.
pub(crate) type Objects = BTreeMap<(String, String), Arc<Value>>;

/// What to follow, and how far behind.
pub(crate) struct Following {
    pub(crate) client: kube::Client,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) lag: Span,
    pub(crate) random: Random,
    pub(crate) stop: CancellationToken,
}

enum Step {
    Replace(Objects),
    Put(Arc<Value>),
    Remove(Arc<Value>),
}

/// Follows until stopped and hands every new state to `apply`.
pub(crate) async fn follow(mut following: Following, mut apply: impl FnMut(&Objects)) {
    let kind = GroupVersionKind::gvk(following.group, following.version, following.kind);
    let api: kube::Api<DynamicObject> =
        kube::Api::all_with(following.client.clone(), &ApiResource::from_gvk(&kind));
    let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
    let mut now = Objects::new();
    let mut fresh = Objects::new();
    let mut begun = false;
    let mut queue: VecDeque<(Instant, Step)> = VecDeque::new();
    loop {
        while let Some((due, _)) = queue.front() {
            if *due > Instant::now() {
                break;
            }
            let Some((_, step)) = queue.pop_front() else { break };
            match step {
                Step::Replace(objects) => now = objects,
                Step::Put(object) => {
                    now.insert(key(&object), object);
                }
                Step::Remove(object) => {
                    now.remove(&key(&object));
                }
            }
            apply(&now);
        }
        let due = queue.front().map(|(due, _)| *due);
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(due) => continue,
            () = following.stop.cancelled() => return,
        };
        let step = match event {
            Some(Ok(Event::Init)) => {
                fresh.clear();
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                let object = plain(&object);
                fresh.insert(key(&object), object);
                continue;
            }
            Some(Ok(Event::InitDone)) => Step::Replace(std::mem::take(&mut fresh)),
            Some(Ok(Event::Apply(object))) => Step::Put(plain(&object)),
            Some(Ok(Event::Delete(object))) => Step::Remove(plain(&object)),
            Some(Err(error)) => {
                tracing::debug!(%error, kind = following.kind, "a watch failed and is begun again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                    () = following.stop.cancelled() => return,
                }
            }
            None => return,
        };
        // What was there at the start is known at once; changes keep their order, whatever their lag.
        let lag = if begun { following.random.within(following.lag) } else { Duration::ZERO };
        begun = true;
        let earliest = queue.back().map_or_else(Instant::now, |(due, _)| *due);
        queue.push_back((earliest.max(Instant::now() + lag), step));
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn plain(object: &DynamicObject) -> Arc<Value> {
    Arc::new(serde_json::to_value(object).unwrap_or_default())
}

fn key(object: &Value) -> (String, String) {
    (crate::object::namespace(object).to_owned(), crate::object::name(object).to_owned())
}
