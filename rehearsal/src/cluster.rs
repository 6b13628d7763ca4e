//! One cluster: its state behind a lock, the tasks that drive it, and what a test may ask or turn.
//!
//! ```text
//! Api ──┐                        ┌── controllers (one loop)
//!       ├── lock ── State ── wake┤
//! tests ┘                        └── persister, watches
//! ```
//! The lock is held for single steps only and never across an await.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Asked};
use crate::delays::Delays;
use crate::error::Error;
use crate::status::Failure;
use crate::store::{Key, State};
use crate::{controllers, defaults, kinds, object, persist};

const REQUESTS_KEPT: usize = 10_000;

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where all randomness begins.
    pub seed: u64,
    /// How long things take.
    pub delays: Delays,
    /// Where the cluster is kept; `None` keeps it in memory only.
    pub file: Option<PathBuf>,
    /// Whether a write is answered only when the file holds it, so that a killed process forgets nothing that it
    /// acknowledged. Without it the file follows a moment behind.
    pub durable: bool,
    /// Whether the agent's webhook adds the agent to pods of enrolled namespaces.
    pub agent: bool,
    /// How many changes watches can go back.
    pub history: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, delays: Delays::realistic(), file: None, durable: true, agent: true, history: 4096 }
    }
}

/// A request that wanted to change something, as the API server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, as it came.
    pub query: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// The field manager: as given, or taken from the user agent.
    pub manager: String,
    /// Whether it asked for a dry run.
    pub dry_run: bool,
    /// The status code of the answer.
    pub code: u16,
    /// The uid of the object in the answer.
    pub uid: Option<String>,
}

/// An in-memory cluster; clones are the same cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    wake: watch::Sender<u64>,
    saved: watch::Sender<u64>,
    ledger: Mutex<Ledger>,
    outage: AtomicBool,
    options: Options,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What tests read and set.
#[derive(Debug, Default)]
struct Ledger {
    requests: VecDeque<LoggedRequest>,
    counts: BTreeMap<(String, String), u64>,
    forbidden: Vec<(String, String)>,
    /// All that is allowed, where a test says so.
    granted: Option<BTreeSet<(String, String)>>,
    used: BTreeSet<(String, String)>,
    denied: BTreeSet<(String, String)>,
}

impl Cluster {
    /// Starts a cluster with its controllers on the present tokio runtime, going on from the file where there is one.
    pub fn start(options: Options) -> Result<Self, Error> {
        let (wake, _) = watch::channel(0);
        let mut state = State::new(options.seed, options.history, wake.clone());
        state.agent = options.agent;
        if let Some(file) = &options.file {
            persist::load(file, &mut state)?;
        }
        furnish(&mut state);
        let inner = Inner {
            state: Mutex::new(state),
            wake,
            saved: watch::Sender::new(0),
            ledger: Mutex::default(),
            outage: AtomicBool::new(false),
            options,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let cluster = Self { inner: Arc::new(inner) };
        cluster.inner.tasks.spawn(controllers::run(cluster.clone()));
        if let Some(file) = cluster.inner.options.file.clone() {
            cluster.inner.tasks.spawn(persist::run(cluster.clone(), file, cluster.inner.options.durable));
        }
        Ok(cluster)
    }

    /// The API server of the cluster.
    pub fn api(&self) -> Api {
        Api::new(self.clone())
    }

    /// A client of the API, in process. Needs a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.api(), "default")
    }

    /// The requests that wanted to change something, in order; dry runs and refused ones too. The last 10,000 are kept.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.ledger().requests.iter().cloned().collect()
    }

    /// Forgets the logged requests and counts.
    pub fn clear_requests(&self) {
        let mut ledger = self.ledger();
        ledger.requests.clear();
        ledger.counts.clear();
        ledger.used.clear();
        ledger.denied.clear();
    }

    /// How many requests came by verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`) and resource (`pods`, `deployments.apps`, `pods/log`).
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        self.ledger().counts.get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or_default()
    }

    /// How many requests of any kind came in since the last `clear_requests`.
    pub fn counted(&self) -> u64 {
        self.ledger().counts.values().sum()
    }

    /// Refuses a verb on a resource from now on, as RBAC would; `*` stands for every one.
    pub fn forbid(&self, verb: &str, resource: &str) {
        self.ledger().forbidden.push((verb.to_owned(), resource.to_owned()));
    }

    /// Refuses everything but these verbs on these resources from now on, as RBAC does for whoever has one Role.
    pub fn grant(&self, rights: impl IntoIterator<Item = (String, String)>) {
        self.ledger().granted = Some(rights.into_iter().collect());
    }

    /// Takes back every `forbid` and `grant`.
    pub fn allow_all(&self) {
        let mut ledger = self.ledger();
        ledger.forbidden.clear();
        ledger.granted = None;
    }

    /// The rights that were asked for and there, by verb and resource, since the last `clear_requests`. An apply that makes an
    /// object needs `create` beside `patch`; kinds that are not served are among it.
    pub fn used_rights(&self) -> BTreeSet<(String, String)> {
        self.ledger().used.clone()
    }

    /// The rights that were asked for and not there.
    pub fn denied_rights(&self) -> BTreeSet<(String, String)> {
        self.ledger().denied.clone()
    }

    /// Refuses to create pods with the sentence given, as a quota would; `None` allows them again.
    pub fn deny_pods(&self, why: Option<&str>) {
        self.with(|state| state.deny_pods = why.map(str::to_owned));
        self.poke();
    }

    /// Lets a mutating webhook merge this into every Deployment that is written, dry runs too (RFC 7396); `None` takes it
    /// away. As on a real API server, nobody owns what it adds.
    pub fn set_webhook(&self, merges: Option<Value>) {
        self.with(|state| state.webhook = merges);
    }

    /// Switches the agent's webhook on or off; pods that exist stay as they are.
    pub fn set_agent(&self, on: bool) {
        self.with(|state| state.agent = on);
    }

    /// Makes every request answer 503 until it is taken back. Controllers go on.
    pub fn set_outage(&self, on: bool) {
        self.inner.outage.store(on, Ordering::Relaxed);
    }

    /// Forgets the history of changes: watches that ask for an older revision get 410.
    pub fn compact(&self) {
        self.with(State::compact);
    }

    /// The object as it is stored, by resource (`deployments.apps`), namespace ("" for none) and name.
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = kinds::by_resource(resource)?;
        self.with(|state| state.find(kind.resource, namespace, name).map(|object| (**object).clone()))
    }

    /// The objects of a resource in a namespace, by name; "" takes every namespace.
    pub fn objects(&self, resource: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = kinds::by_resource(resource) else { return Vec::new() };
        self.with(|state| {
            state.list(kind.resource, namespace).map(|(_, object)| (**object).clone()).collect()
        })
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.with(|state| state.revision)
    }

    /// The reference with a tag behind a reference by digest, where a pod has run that image.
    pub fn tag_of(&self, image: &str) -> Option<String> {
        let (_, digest) = image.split_once('@')?;
        self.with(|state| state.images.get(digest).cloned())
    }

    /// Ends controllers, watches and servers, and writes the file a last time.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    pub(crate) fn with<T>(&self, step: impl FnOnce(&mut State) -> T) -> T {
        step(&mut self.inner.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn delays(&self) -> Delays {
        self.inner.options.delays
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.wake.subscribe()
    }

    /// Tells those who wait for it what the file holds.
    pub(crate) fn set_saved(&self, revision: u64) {
        self.inner.saved.send_replace(revision);
    }

    /// Waits until the file holds everything up to now, where that is asked for.
    pub(crate) async fn saved(&self) {
        if self.inner.options.file.is_none() || !self.inner.options.durable {
            return;
        }
        let revision = self.revision();
        let mut saved = self.inner.saved.subscribe();
        tokio::select! {
            _ = saved.wait_for(|saved| *saved >= revision) => {}
            () = self.stopped() => {}
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    pub(crate) async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    pub(crate) fn is_out(&self) -> bool {
        self.inner.outage.load(Ordering::Relaxed)
    }

    pub(crate) fn count_request(&self, verb: &str, resource: &str) {
        *self.ledger().counts.entry((verb.to_owned(), resource.to_owned())).or_default() += 1;
    }

    pub(crate) fn log_request(&self, request: LoggedRequest) {
        let mut ledger = self.ledger();
        if ledger.requests.len() == REQUESTS_KEPT {
            ledger.requests.pop_front();
        }
        ledger.requests.push_back(request);
    }

    /// RBAC's answer, where a test forbade the verb, and note of it.
    pub(crate) fn authorize(&self, verb: &str, asked: &Asked<'_>, user: &str) -> Result<(), Failure> {
        let right = (verb.to_owned(), asked.whole());
        let refused = self.is_forbidden(verb, &asked.resource(), &right.1);
        let mut ledger = self.ledger();
        if refused {
            ledger.denied.insert(right);
            return Err(Failure::denied(asked, user, verb));
        }
        ledger.used.insert(right);
        Ok(())
    }

    /// Whether a test forbade the verb on a resource; `whole` has its subresource.
    pub(crate) fn is_forbidden(&self, verb: &str, resource: &str, whole: &str) -> bool {
        let hit = |rule: &(String, String)| {
            (rule.0 == "*" || rule.0 == verb) && (rule.1 == "*" || rule.1 == whole || rule.1 == resource)
        };
        let ledger = self.ledger();
        let granted = |all: &BTreeSet<(String, String)>| all.contains(&(verb.to_owned(), whole.to_owned()));
        ledger.forbidden.iter().any(hit) || !ledger.granted.as_ref().is_none_or(granted)
    }

    /// Whether a test forbade anything.
    pub(crate) fn forbids_something(&self) -> bool {
        let ledger = self.ledger();
        !ledger.forbidden.is_empty() || ledger.granted.is_some()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the controllers without a change.
    fn poke(&self) {
        self.inner.wake.send_modify(|_| ());
    }
}

/// What every cluster has from its first moment.
fn furnish(state: &mut State) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        add(state, kinds::NAMESPACES, json!({ "metadata": { "name": name } }));
    }
    add(
        state,
        kinds::NODES,
        json!({
            "metadata": { "name": controllers::NODE, "labels": { "kubernetes.io/hostname": controllers::NODE, "kubernetes.io/os": "linux" } },
            "spec": {},
            "status": {
                "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status" }],
                "addresses": [{ "type": "InternalIP", "address": controllers::NODE_ADDRESS }, { "type": "Hostname", "address": controllers::NODE }],
                "nodeInfo": { "kubeletVersion": "v1.33.0-rehearsal", "operatingSystem": "linux", "architecture": "amd64" },
            },
        }),
    );
    for (name, controller) in [
        ("mse", "mse.alibabacloud.com/ingress"),
        ("nginx", "k8s.io/ingress-nginx"),
        ("higress", "higress.io/higress-controller"),
    ] {
        add(
            state,
            kinds::INGRESS_CLASSES,
            json!({ "metadata": { "name": name }, "spec": { "controller": controller } }),
        );
    }
    let service = json!({
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{ "name": "https", "port": 443, "targetPort": 6443 }] },
    });
    add(state, kinds::SERVICES, service);
}

/// Puts an object of the cluster's own, where it is missing.
fn add(state: &mut State, resource: &'static str, mut object: Value) {
    let Some(kind) = kinds::by_resource(resource) else { return };
    let key = Key::of(resource, &object);
    if state.get(&key).is_some() {
        return;
    }
    object::set(&mut object, &["apiVersion"], kind.api_version());
    object::set(&mut object, &["kind"], kind.kind);
    let uid = state.random.uid();
    object::set(&mut object, &["metadata", "uid"], uid);
    object::set(&mut object, &["metadata", "creationTimestamp"], state.clock.stamp());
    defaults::apply(kind, &mut object);
    state.put(key, object);
}
