//! Following a resource through a client: a list that stays current, with each change applied after a lag.
//!
//! Works against any API server. An error of the watch is logged and followed by another try, after a pause that grows while
//! they go on (a kind that is not served yet); it never ends the following.

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

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What to follow, and how far behind.
pub(crate) struct Following {
    pub(crate) client: kube::Client,
    /// The one namespace that is followed; `None` follows all.
    pub(crate) namespace: Option<String>,
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

/// Follows until stopped and hands new states to `apply`, the last of a burst.
pub(crate) async fn follow(mut following: Following, mut apply: impl FnMut(&Objects)) {
    let kind = GroupVersionKind::gvk(following.group, following.version, following.kind);
    let resource = ApiResource::from_gvk(&kind);
    let api: kube::Api<DynamicObject> = match &following.namespace {
        Some(namespace) => kube::Api::namespaced_with(following.client.clone(), namespace, &resource),
        None => kube::Api::all_with(following.client.clone(), &resource),
    };
    let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
    let mut now = Objects::new();
    let mut fresh = Objects::new();
    let mut begun = false;
    let mut pause = FIRST_PAUSE;
    let mut queue: VecDeque<(Instant, Step)> = VecDeque::new();
    let mut moved = false;
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
            moved = true;
        }
        let due = queue.front().map(|(due, _)| *due);
        let event = tokio::select! {
            biased;
            () = following.stop.cancelled() => return,
            event = events.next() => event,
            // Changes that come in a burst are handed over together.
            () = std::future::ready(()), if moved => {
                moved = false;
                apply(&now);
                continue;
            }
            () = sleep_until(due) => continue,
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
            Some(Ok(Event::InitDone)) => {
                pause = FIRST_PAUSE;
                Step::Replace(std::mem::take(&mut fresh))
            }
            Some(Ok(Event::Apply(object))) => Step::Put(plain(&object)),
            Some(Ok(Event::Delete(object))) => Step::Remove(plain(&object)),
            Some(Err(error)) => {
                tracing::debug!(%error, kind = following.kind, "a watch failed and is begun again");
                let wait = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                tokio::select! {
                    () = tokio::time::sleep(wait) => continue,
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
