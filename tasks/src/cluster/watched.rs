//! Watches that are shared: one a namespace and kind, for everybody who follows something there, until the last attempt
//! that did is over.
//!
//! A follower takes what is known, and then each change. What of it concerns the follower is not decided here. An outage of
//! a watch is told, and ends who follows only where it will not pass.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use graylane_engine::clock::show_duration;
use graylane_engine::task::{ErrorKind, TaskContext, TaskError};
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
/// The pauses after a watch broke, which grow: a rollout is watched by people, so they stay short.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A watch that works again says nothing until something changes: after so long without another error it counts as well.
/// A list is not believed so: it works when it is complete.
const OVER: Duration = Duration::from_secs(10);

/// The watches of a cluster that somebody follows.
#[derive(Default)]
pub(super) struct Watches(Mutex<HashMap<(String, String), Weak<Watched>>>);

/// Everything of a kind in a namespace, as a watch tells it.
pub(super) struct Watched {
    state: Mutex<State>,
    worker: Mutex<Option<AbortHandle>>,
}

struct State {
    /// By uid.
    objects: BTreeMap<String, Arc<Value>>,
    /// Whether the first list is complete.
    listed: bool,
    /// Whether a list is wanted and not complete.
    lists: bool,
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
        self.watched.state().lasting_trouble().cloned()
    }
}

impl Cluster {
    /// Follows every object of a kind in this cluster's own namespace.
    pub(crate) fn follow(&self, api_version: &str, kind: &str) -> Follower {
        self.follow_some(api_version, kind, "")
    }

    /// Follows the objects of a kind that a label selector selects; an empty one selects all.
    pub(crate) fn follow_some(&self, api_version: &str, kind: &str, selector: &str) -> Follower {
        let resource = known_resource(api_version, kind).unwrap_or_else(|| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
        });
        let mut open = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place =
            open.entry((self.namespace.clone(), format!("{api_version} {kind} {selector}"))).or_default();
        let watched = place.upgrade().unwrap_or_else(|| {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            // The server ends a watch when this time is over; a dead connection is noticed not much later.
            let mut config = watcher::Config::default().timeout(60);
            if !selector.is_empty() {
                config = config.labels(selector);
            }
            let events = watcher(api, config);
            let watched = Arc::new(Watched::new());
            *place = Arc::downgrade(&watched);
            watched.work(format!("{kind} objects in {}", self.namespace), events);
            watched
        });
        attempt::keep_open(&watched);
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
            lists: false,
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
            let mut failed: Option<Instant> = None;
            loop {
                let (event, asked) = attempt::noting(events.next()).await;
                let Some(event) = event else { return };
                let Some(watched) = weak.upgrade() else { return };
                let fails = event.is_err();
                watched.state().take(&what, event);
                drop(watched);
                if fails {
                    // Not what works in between: each try of a list begins with an event that says so.
                    if failed.is_some_and(|failed| failed.elapsed() >= OVER) {
                        pause = PAUSES.0;
                    }
                    tokio::time::sleep(pause.max(asked.min(LONGEST_PAUSE))).await;
                    pause = (pause * 2).min(PAUSES.1);
                    failed = Some(Instant::now());
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
        match event {
            watcher::Event::Apply(object) => {
                self.trouble = None;
                let (uid, value) = kept(object);
                self.objects.insert(uid, Arc::clone(&value));
                self.tell(Change::Put(value));
            }
            watcher::Event::Delete(object) => {
                self.trouble = None;
                let (uid, value) = kept(object);
                self.objects.remove(&uid);
                self.tell(Change::Gone(value));
            }
            // Said before every try of a list: nothing is heard yet.
            watcher::Event::Init => {
                self.listing.clear();
                self.lists = true;
            }
            watcher::Event::InitApply(object) => {
                self.listing.extend([kept(object)]);
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(&mut self.listing);
                (self.listed, self.lists) = (true, false);
                self.trouble = None;
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
        let since = self.lasting_trouble().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, last: now, error });
        self.tell(Change::Broken);
    }

    fn lasting_trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| self.lists || trouble.last.elapsed() < OVER)
    }

    fn tell(&self, change: Change) {
        // Nobody may be following in this moment.
        let _ = self.changes.send(change);
    }
}

/// How long nothing can be seen before it is told, or, where it will not pass by itself, before it is given up.
const BLIND: Duration = Duration::from_secs(5);
/// How long an API server that is away is waited for: what was begun goes on without it.
const AWAY: Duration = Duration::from_secs(600);

/// Whether what is followed can be seen at all, and what was told of it.
pub(crate) struct Blind {
    /// What goes on meanwhile.
    what: &'static str,
    /// Since when it cannot, where that was told.
    told: Option<Instant>,
}

impl Blind {
    pub(crate) fn over(what: &'static str) -> Blind {
        Blind { what, told: None }
    }

    /// Tells an outage and its end.
    ///
    /// # Errors
    /// What will not pass by itself, or has lasted too long.
    pub(crate) fn look(&mut self, cx: &TaskContext, trouble: Option<Trouble>) -> Result<(), TaskError> {
        let Some(trouble) = trouble else {
            if let Some(since) = self.told.take() {
                cx.log(format!("the API server answers again, after {} s", since.elapsed().as_secs()));
            }
            return Ok(());
        };
        let lasts = trouble.since.elapsed();
        if lasts < BLIND {
            return Ok(());
        }
        if trouble.error.kind == ErrorKind::Permanent || lasts >= AWAY {
            return Err(trouble.error);
        }
        if self.told.is_none() {
            self.told = Some(trouble.since);
            let (what, up_to) = (self.what, show_duration(AWAY));
            cx.log(format!("{}; {what} goes on without us, and is waited for, up to {up_to}", trouble.error));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::stream;
    use graylane_engine::task::ErrorKind;
    use kube::core::Status;

    use super::*;

    type Told = watcher::Result<watcher::Event<DynamicObject>>;

    fn refused(code: u16) -> kube::Error {
        let status =
            serde_json::json!({ "status": "Failure", "code": code, "reason": "Told", "message": "no" });
        kube::Error::Api(serde_json::from_value::<Box<Status>>(status).expect("a status"))
    }

    /// As the watcher does it: it says that it begins, and then fails.
    fn lists_that_fail(code: u16, tries: &Arc<AtomicU32>) -> impl Stream<Item = Told> + Send + 'static {
        let tries = Arc::clone(tries);
        let begins = std::iter::repeat_with(move || {
            tries.fetch_add(1, Ordering::SeqCst);
            [Ok(watcher::Event::Init), Err(watcher::Error::InitialListFailed(refused(code)))]
        });
        stream::iter(begins.flatten())
    }

    fn follower(events: impl Stream<Item = Told> + Send + 'static) -> Follower {
        let watched = Arc::new(Watched::new());
        watched.work("Pod objects in shop".into(), events);
        let changes = watched.state().changes.subscribe();
        Follower { watched, changes }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_keeps_failing_is_one_trouble_and_is_tried_ever_less_often() {
        for (code, kind) in
            [(503, ErrorKind::Transient), (403, ErrorKind::Permanent), (401, ErrorKind::Permanent)]
        {
            let tries = Arc::default();
            let began = Instant::now();
            let follower = follower(lists_that_fail(code, &tries));
            tokio::time::sleep(Duration::from_secs(5)).await;
            let trouble = follower.trouble().expect("trouble");
            assert!(trouble.since.duration_since(began) < Duration::from_millis(100), "{code}");
            assert_eq!(trouble.error.kind, kind, "{code}");
            assert!((4..9).contains(&tries.load(Ordering::SeqCst)), "{code}: {tries:?}");
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(follower.trouble().expect("still").since, trouble.since, "{code}");
            assert!(tries.load(Ordering::SeqCst) < 40, "{code}: {tries:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_over_with_a_whole_list_a_change_or_silence_after_a_watch_began_again() {
        let broken = || Err(watcher::Error::WatchFailed(refused(503)));
        let object = || DynamicObject::new("a", &ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()));
        let failed = || Err(watcher::Error::InitialListFailed(refused(503)));
        let table: [(Vec<Told>, u64, bool); 6] = [
            (vec![broken()], 1, true),
            (vec![broken()], 11, false),
            (vec![broken(), Ok(watcher::Event::Apply(object()))], 1, false),
            (vec![broken(), Ok(watcher::Event::Delete(object()))], 1, false),
            (vec![failed(), Ok(watcher::Event::Init), Ok(watcher::Event::InitDone)], 1, false),
            // It lists, and has not answered since.
            (vec![failed(), Ok(watcher::Event::Init), Ok(watcher::Event::InitApply(object()))], 60, true),
        ];
        for (index, (events, seconds, lasts)) in table.into_iter().enumerate() {
            let follower = follower(stream::iter(events).chain(stream::pending()));
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(follower.trouble().is_some(), lasts, "row {index}");
        }
    }
}
