//! Watches that are shared: one a namespace and kind, for everybody who follows something there, while somebody does.
//!
//! A follower takes what is known, and then each change. What of it concerns the follower is not decided here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use graylane_engine::task::TaskError;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::explain::explain;
use super::{Cluster, LONGEST_PAUSE, attempt, known_resource};
use crate::manifest::uid;

/// Changes that a follower may lag behind before it looks at everything anew.
const ROOM: usize = 1024;
/// The pauses after a watch broke: a rollout is watched by people, so they stay short.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A watch that works again says nothing until something changes: after so long without another error it counts as well.
const OVER: Duration = Duration::from_secs(10);

/// The watches of a cluster that somebody follows.
#[derive(Default)]
pub(super) struct Watches(Mutex<HashMap<(String, String), Weak<Watched>>>);

/// Everything of a kind in a namespace, as a watch tells it.
struct Watched {
    state: Mutex<State>,
    worker: Mutex<Option<AbortHandle>>,
}

struct State {
    /// By uid.
    objects: BTreeMap<String, Arc<Value>>,
    /// Whether the first list is complete.
    listed: bool,
    /// What a list that is under way has given so far.
    listing: BTreeMap<String, Arc<Value>>,
    trouble: Option<Trouble>,
    changes: broadcast::Sender<Change>,
}

/// Why nothing is heard of changes at the moment.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// When it was last so.
    last: Instant,
    /// What was said.
    pub error: TaskError,
}

/// Something changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is so now.
    Put(Arc<Value>),
    /// The object is gone.
    Gone(Arc<Value>),
    /// Everything was listed anew: look at all of it.
    Anew,
    /// A watch broke, and begins again by itself.
    Broken,
}

/// Somebody who follows.
pub struct Follower {
    watched: Arc<Watched>,
    changes: broadcast::Receiver<Change>,
}

impl Follower {
    /// All objects; none before the first list is complete.
    pub fn all(&self) -> Option<Vec<Arc<Value>>> {
        let state = self.watched.state();
        state.listed.then(|| state.objects.values().cloned().collect())
    }

    /// The next change.
    pub async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::Anew,
            // The sender lives in what is followed.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Why nothing is heard, where that is so.
    pub fn trouble(&self) -> Option<Trouble> {
        self.watched.state().trouble.clone().filter(|trouble| trouble.last.elapsed() < OVER)
    }
}

impl Cluster {
    /// Follows every object of a kind in this cluster's own namespace.
    pub(crate) fn follow(&self, api_version: &str, kind: &str) -> Follower {
        let resource = known_resource(api_version, kind).unwrap_or_else(|| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
        });
        let mut open = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = open.entry((self.namespace.clone(), format!("{api_version} {kind}"))).or_default();
        let watched = place.upgrade().unwrap_or_else(|| {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            // The server ends a watch when this time is over; a dead connection is noticed not much later.
            let events = watcher(api, watcher::Config::default().timeout(60));
            let watched = Arc::new(Watched::new());
            *place = Arc::downgrade(&watched);
            watched.work(format!("{kind} objects in {}", self.namespace), events);
            watched
        });
        let changes = watched.state().changes.subscribe();
        open.retain(|_, watched| watched.strong_count() > 0);
        Follower { watched, changes }
    }
}

impl Watched {
    fn new() -> Watched {
        let state = State {
            objects: BTreeMap::new(),
            listed: false,
            listing: BTreeMap::new(),
            trouble: None,
            changes: broadcast::channel(ROOM).0,
        };
        Watched { state: Mutex::new(state), worker: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events in until nobody follows any more.
    fn work(
        self: &Arc<Watched>,
        what: String,
        events: impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send + 'static,
    ) {
        let weak = Arc::downgrade(self);
        let worker = tokio::spawn(async move {
            let mut events = std::pin::pin!(events);
            let mut pause = PAUSES.0;
            loop {
                let (event, asked) = attempt::noting(events.next()).await;
                let Some(event) = event else { return };
                let Some(watched) = weak.upgrade() else { return };
                let failed = event.is_err();
                watched.state().take(&what, event);
                drop(watched);
                if failed {
                    tokio::time::sleep(pause.max(asked.min(LONGEST_PAUSE))).await;
                    pause = (pause * 2).min(PAUSES.1);
                } else {
                    pause = PAUSES.0;
                }
            }
        });
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker.abort_handle());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            worker.abort();
        }
    }
}

impl State {
    fn take(&mut self, what: &str, event: watcher::Result<watcher::Event<DynamicObject>>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(%error, "a watch was interrupted");
                self.broke(what, error);
                return;
            }
        };
        self.trouble = None;
        match event {
            watcher::Event::Apply(object) => {
                let (uid, value) = kept(object);
                self.objects.insert(uid, Arc::clone(&value));
                self.tell(Change::Put(value));
            }
            watcher::Event::Delete(object) => {
                let (uid, value) = kept(object);
                self.objects.remove(&uid);
                self.tell(Change::Gone(value));
            }
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => {
                self.listing.extend([kept(object)]);
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                self.listed = true;
                self.tell(Change::Anew);
            }
        }
    }

    fn broke(&mut self, what: &str, error: watcher::Error) {
        let error = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => explain(what, error).error(),
            // A watch that fell behind (410) lists anew: that is no trouble.
            watcher::Error::WatchError(status) if status.code == 410 => return,
            watcher::Error::WatchError(status) => explain(what, kube::Error::Api(status)).error(),
            watcher::Error::NoResourceVersion => TaskError::transient(format!("{what}: {error}")),
        };
        let now = Instant::now();
        let since = self.trouble.as_ref().filter(|trouble| trouble.last.elapsed() < OVER);
        let since = since.map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, last: now, error });
        self.tell(Change::Broken);
    }

    fn tell(&self, change: Change) {
        // Nobody may be following in this moment.
        let _ = self.changes.send(change);
    }
}

/// An object as followers need it: who owns which field is not among it, and may be most of it.
fn kept(object: DynamicObject) -> (String, Arc<Value>) {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    (uid(&value).unwrap_or_default().to_owned(), Arc::new(value))
}
