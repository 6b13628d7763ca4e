//! A cluster: its client, and the few calls that task types make, with errors for the person who can mend them.
//!
//! Every call names its object when it fails, waits a bounded time, and is tried again where the API server
//! was only busy or away: an attempt that has begun waits longer than a plan. Which objects are written, and when, is
//! not decided here.

pub(crate) mod attempt;
pub(crate) mod ending;
mod explain;
mod leases;
mod logs;
mod reviews;
mod watched;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::task::TaskError;
pub use kube::Client;
use kube::Config;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy,
};
use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::core::{GroupVersionKind, Status};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::MapResponseLayer;

pub(crate) use self::explain::lacks_right;
pub use self::explain::rule;
use self::explain::{Failed, Passes, explain};
pub use self::logs::LogPlace;
pub use self::reviews::{Granted, Right};
pub(crate) use self::watched::Blind;
use self::watched::Watches;
pub use self::watched::{Change, Follower, Trouble};
use crate::environment::{ClusterAt, Site};
use crate::manifest::{ObjectRef, kind, name, namespace};
use crate::rights::{Expected, expected};

/// The name under which Graylane owns fields (Kubernetes: Server-Side Apply, field manager).
pub const FIELD_MANAGER: &str = "graylane";

/// The name under which `kubectl apply` without `--server-side` owns fields.
const KUBECTL: &str = "kubectl-client-side-apply";

/// The groups of Istio, in the versions in which its kinds may be served.
pub(crate) const ISTIO_NETWORKING: &str = "networking.istio.io/v1";
pub(crate) const ISTIO_NETWORKING_BETA: &str = "networking.istio.io/v1beta1";
pub(crate) const ISTIO_SECURITY: &str = "security.istio.io/v1";
pub(crate) const ISTIO_SECURITY_BETA: &str = "security.istio.io/v1beta1";

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a call is tried in any case.
const TRIES: u32 = 6;
/// The longest pause between two tries, also where the API server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a connection may say nothing: longer than a watch lasts.
const SILENCE: Duration = Duration::from_secs(75);

/// Where the rehearsal cluster comes from; only the program knows.
#[async_trait]
pub trait Rehearse: Send + Sync + 'static {
    /// A client of the rehearsal cluster of this environment, and the address of its gateway.
    ///
    /// # Errors
    /// Why it cannot be had, as a sentence.
    async fn connect(&self, site: &Site) -> Result<(Client, String), String>;
}

/// A rehearsal that is there already: measurements and tests bring its client. Its gateway is where the environment says.
#[async_trait]
impl Rehearse for Client {
    async fn connect(&self, site: &Site) -> Result<(Client, String), String> {
        Ok((self.clone(), site.environment.gateway.address.clone()))
    }
}

/// The clusters of all environments; each is connected to once.
pub struct Clusters {
    rehearsal: Box<dyn Rehearse>,
    connected: Mutex<HashMap<(ClusterAt, String), Connected>>,
}

#[derive(Clone)]
struct Connected {
    client: Client,
    gateway: Option<String>,
    watches: Arc<Watches>,
}

impl Connected {
    fn new(client: Client, gateway: Option<String>) -> Connected {
        Connected { client, gateway, watches: Arc::default() }
    }
}

impl Clusters {
    /// Clusters, with where the rehearsal comes from.
    pub fn new(rehearsal: impl Rehearse) -> Arc<Clusters> {
        Arc::new(Clusters { rehearsal: Box::new(rehearsal), connected: Mutex::default() })
    }

    /// The cluster of an environment.
    ///
    /// # Errors
    /// A kubeconfig that cannot be read is permanent; what may pass is transient.
    pub async fn connect(&self, site: &Site) -> Result<Cluster, TaskError> {
        let at = &site.environment.cluster;
        let key = (at.clone(), site.path("").display().to_string());
        let mut connected = self.connected.lock().await;
        let found = match connected.get(&key) {
            Some(found) => found.clone(),
            None => {
                let made = self.open(site).await?;
                connected.insert(key, made.clone());
                made
            }
        };
        Ok(Cluster {
            client: found.client,
            namespace: site.environment.namespace.clone(),
            others: site.other_namespaces(),
            gateway: found.gateway.unwrap_or_else(|| site.environment.gateway.address.clone()),
            expected: Arc::new(expected(site)),
            watches: found.watches,
        })
    }

    async fn open(&self, site: &Site) -> Result<Connected, TaskError> {
        let config = match &site.environment.cluster {
            ClusterAt::Rehearsal => {
                let (client, gateway) = self.rehearsal.connect(site).await.map_err(TaskError::transient)?;
                return Ok(Connected::new(client, Some(gateway)));
            }
            ClusterAt::InCluster => Config::incluster().map_err(|error| {
                TaskError::permanent(format!("cluster `in-cluster` cannot be used: {error}"))
                    .hint("this works only in a pod; elsewhere name a kubeconfig")
            })?,
            ClusterAt::Kubeconfig(at) => {
                let client = client_of(&site.path(&at.kubeconfig), at.context.as_deref()).await?;
                return Ok(Connected::new(client, None));
            }
        };
        Ok(Connected::new(client(config)?, None))
    }
}

/// A client of the cluster that a kubeconfig file names.
///
/// # Errors
/// A file that cannot be used; the cluster itself is not asked yet.
pub async fn client_of(path: &Path, context: Option<&str>) -> Result<Client, TaskError> {
    let wrong = |error: &dyn std::fmt::Display| {
        TaskError::permanent(format!("kubeconfig {} cannot be used: {error}", path.display()))
    };
    let file = kube::config::Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    client(Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(&error))?)
}

fn client(mut config: Config) -> Result<Client, TaskError> {
    // The library's own retries can take minutes inside one call; ours are bounded and told.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    let builder = ClientBuilder::try_from(config)
        .map_err(|error| TaskError::permanent(format!("the cluster's address cannot be used: {error}")))?;
    let note = |response: http::Response<_>| {
        attempt::note_retry_after(response.headers());
        response
    };
    Ok(builder.with_layer(&MapResponseLayer::new(note)).build())
}

/// Creates the objects of a manifest file as `kubectl apply` would have: a baseline is found, not made, by Graylane.
/// Objects that exist stay as they are.
///
/// # Errors
/// What the API server said, or a file that is no manifest.
pub async fn create_all(client: &Client, namespace: &str, file: &Path) -> Result<(), String> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let objects = crate::manifest::parse(&shown, &text)
        .map_err(|problems| problems.first().map(ToString::to_string).unwrap_or_default())?;
    let cluster = Cluster::over(client.clone(), namespace);
    for object in objects {
        let at = ObjectRef::of(&object);
        let wrong = |words: String| format!("{shown}: {words}");
        let resource =
            cluster.resource(&at.api_version, &at.kind).await.map_err(|error| wrong(error.message))?;
        let params = PostParams { field_manager: Some(KUBECTL.into()), ..PostParams::default() };
        let object: DynamicObject =
            serde_json::from_value(object).map_err(|error| wrong(format!("{at}: {error}")))?;
        let api = cluster.api(&resource, &at);
        match cluster.raw_call(&cluster.named(&at), || api.create(&params, &object)).await {
            Ok(_) => {}
            Err(Failed::Api(status, _)) if status.code == 409 => {}
            Err(failed) => return Err(wrong(failed.error().message)),
        }
    }
    Ok(())
}

/// A cluster as one environment sees it.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The environment's namespace: that of every object which names no other.
    pub namespace: String,
    /// The other namespaces in which services of the environment live.
    pub others: Vec<String>,
    /// Where the gateway answers.
    pub gateway: String,
    /// What the environment needs to be allowed: what is refused beside it is nothing of ours.
    expected: Arc<Expected>,
    watches: Arc<Watches>,
}

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Deleted {
    /// It is gone with the answer.
    Now,
    /// The API server took it; a finalizer, or its grace, keeps it for a while.
    Going,
    /// It was not there.
    Gone,
    /// Another object has its name by now; it was left alone.
    Replaced,
}

/// What became of a list of a kind that may not be there.
#[derive(Debug)]
pub enum Listed {
    /// All objects.
    All(Vec<Value>),
    /// The API server does not serve the kind in this version.
    NotServed,
    /// This identity may not list it.
    Forbidden(TaskError),
}

/// Why an apply was not taken.
#[derive(Debug)]
pub enum ApplyError {
    /// Other field managers own fields that would change: (manager, field).
    Conflict(Vec<(String, String)>, TaskError),
    /// Anything else.
    Other(TaskError),
}

impl From<ApplyError> for TaskError {
    fn from(error: ApplyError) -> TaskError {
        match error {
            ApplyError::Conflict(_, error) | ApplyError::Other(error) => error,
        }
    }
}

impl Cluster {
    /// A namespace of a cluster that belongs to no environment.
    pub fn over(client: Client, namespace: &str) -> Cluster {
        Cluster {
            client,
            namespace: namespace.to_owned(),
            others: Vec::new(),
            gateway: String::new(),
            expected: Arc::default(),
            watches: Arc::default(),
        }
    }

    fn api(&self, resource: &ApiResource, at: &ObjectRef) -> Api<DynamicObject> {
        let namespace = at.namespace.as_deref().unwrap_or(&self.namespace);
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// Every namespace of the environment, its own first.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.namespace.as_str()).chain(self.others.iter().map(String::as_str))
    }

    /// The same cluster as whoever lives beside an object sees it.
    pub fn beside(&self, object: &Value) -> Cluster {
        self.within(namespace(object))
    }

    /// The same cluster as one namespace of it; its own where none is named.
    pub(crate) fn within(&self, namespace: Option<&str>) -> Cluster {
        let namespace = namespace.unwrap_or(&self.namespace).to_owned();
        Cluster { namespace, others: Vec::new(), ..self.clone() }
    }

    /// An object as the server gave it; it names its namespace only where that is not the environment's.
    fn typed(&self, object: DynamicObject, at: &ObjectRef) -> Result<Value, TaskError> {
        let mut value = typed(object, at)?;
        if namespace(&value) == Some(self.namespace.as_str())
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("namespace");
        }
        Ok(value)
    }

    async fn resource(&self, api_version: &str, kind: &str) -> Result<ApiResource, TaskError> {
        if let Some(known) = known_resource(api_version, kind) {
            return Ok(known);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let what = format!("{api_version} {kind}");
        let found = self.call(&what, || kube::discovery::pinned_kind(&self.client, &gvk)).await?;
        Ok(found.0)
    }

    /// The object, or none.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn get(&self, at: &ObjectRef) -> Result<Option<Value>, TaskError> {
        let api = self.api(&self.resource(&at.api_version, &at.kind).await?, at);
        let found = self.call(&self.named(at), || api.get_opt(&at.name)).await?;
        found.map(|object| self.typed(object, at)).transpose()
    }

    /// The first of the environment's namespaces that is not there; where this identity may not ask, it is believed.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn missing_namespace(&self) -> Result<Option<&str>, TaskError> {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        for namespace in self.namespaces() {
            let what = format!("Namespace {namespace}");
            match self.raw_call(&what, || namespaces.get_opt(namespace)).await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Some(namespace)),
                Err(Failed::Api(status, _)) if status.code == 403 => {}
                Err(failed) => return Err(failed.error()),
            }
        }
        Ok(None)
    }

    /// The labels of a namespace; none where it is not there.
    ///
    /// # Errors
    /// What the API server said; among it that this identity may not ask.
    pub async fn namespace_labels(
        &self,
        namespace: &str,
    ) -> Result<Option<BTreeMap<String, String>>, TaskError> {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let found = self.call(&format!("Namespace {namespace}"), || namespaces.get_opt(namespace)).await?;
        Ok(found.map(|found| found.metadata.labels.unwrap_or_default()))
    }

    /// Writes a label of a namespace.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn label_namespace(&self, namespace: &str, key: &str, value: &str) -> Result<(), TaskError> {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(serde_json::json!({ "metadata": { "labels": { key: value } } }));
        let what = format!("Namespace {namespace}");
        let patched =
            self.write_call("Namespace", &what, || namespaces.patch(namespace, &params, &patch)).await;
        patched.map(drop).map_err(Failed::error)
    }

    /// All objects of a kind that a label selector selects, in every namespace of the environment; an empty one selects all.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn list(&self, api_version: &str, kind: &str, selector: &str) -> Result<Vec<Value>, TaskError> {
        let resource = self.resource(api_version, kind).await?;
        self.list_of(&resource, &some_of(api_version, kind), selector).await.map_err(Failed::error)
    }

    async fn list_of(
        &self,
        resource: &ApiResource,
        at: &ObjectRef,
        selector: &str,
    ) -> Result<Vec<Value>, Failed> {
        let params = ListParams {
            label_selector: Some(selector.to_owned()).filter(|s| !s.is_empty()),
            ..ListParams::default()
        };
        let mut objects = Vec::new();
        for namespace in self.namespaces() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
            let what = format!("{} objects in {namespace}", at.kind);
            match self.raw_call(&what, || api.list(&params)).await {
                Ok(found) => {
                    for object in found.items {
                        objects.push(self.typed(object, at).map_err(Failed::Other)?);
                    }
                }
                Err(failed) if self.is_none_of_ours(&failed, namespace, resource) => {}
                Err(failed) => return Err(failed),
            }
        }
        Ok(objects)
    }

    /// Whether no plan can be made here where a kind may not be seen.
    pub(crate) fn requires(&self, api_version: &str, kind: &str) -> bool {
        let resource = known_resource(api_version, kind);
        resource.is_some_and(|resource| self.expected.requires(&resource.group, &resource.plural))
    }

    /// Whether a list was refused of a kind that no service here carries: then there is nothing of ours to be seen.
    fn is_none_of_ours(&self, failed: &Failed, namespace: &str, resource: &ApiResource) -> bool {
        let refused = matches!(failed, Failed::Api(status, _) if status.code == 403);
        refused && !self.expected.includes(namespace, &resource.group, &resource.plural)
    }

    /// As [`Cluster::list`], where a kind that is not served, or may not be listed, is an answer.
    ///
    /// # Errors
    /// Anything else that the API server said.
    pub async fn list_if_served(
        &self,
        api_version: &str,
        kind: &str,
        selector: &str,
    ) -> Result<Listed, TaskError> {
        let Some(resource) = known_resource(api_version, kind) else { return Ok(Listed::NotServed) };
        match self.list_of(&resource, &some_of(api_version, kind), selector).await {
            Ok(objects) => Ok(Listed::All(objects)),
            Err(Failed::Api(status, _)) if status.code == 404 => Ok(Listed::NotServed),
            Err(Failed::Api(status, error)) if status.code == 403 => Ok(Listed::Forbidden(error)),
            Err(failed) => Err(failed.error()),
        }
    }

    /// All objects of a kind, in the first of these versions that is served; none where none of them is. `None` where this
    /// identity may not list them, and nobody needs them.
    ///
    /// # Errors
    /// What the API server said; that they are `needed` and may not be listed.
    pub(crate) async fn list_any_version(
        &self,
        kind: &str,
        versions: &[&str],
        needed: bool,
    ) -> Result<Option<Vec<Value>>, TaskError> {
        for version in versions {
            match self.list_if_served(version, kind, "").await? {
                Listed::All(objects) => return Ok(Some(objects)),
                Listed::NotServed => {}
                Listed::Forbidden(error) if needed || self.requires(version, kind) => return Err(error),
                Listed::Forbidden(_) => return Ok(None),
            }
        }
        Ok(Some(Vec::new()))
    }

    /// Labels and annotations of all objects of a kind, without what they hold.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn list_metadata(&self, api_version: &str, kind: &str) -> Result<Vec<Value>, TaskError> {
        let resource = self.resource(api_version, kind).await?;
        let params = ListParams::default();
        let mut objects = Vec::new();
        for namespace in self.namespaces() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
            let what = format!("{kind} objects in {namespace}");
            let found = match self.raw_call(&what, || api.list_metadata(&params)).await {
                Ok(found) => found,
                Err(failed) if self.is_none_of_ours(&failed, namespace, &resource) => continue,
                Err(failed) => return Err(failed.error()),
            };
            for item in found.items {
                let mut metadata = serde_json::to_value(&item.metadata)
                    .map_err(|error| TaskError::permanent(format!("{what}: {error}")))?;
                if namespace == self.namespace
                    && let Some(metadata) = metadata.as_object_mut()
                {
                    metadata.remove("namespace");
                }
                objects.push(
                    serde_json::json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }),
                );
            }
        }
        Ok(objects)
    }

    /// Applies an object, server-side.
    ///
    /// # Errors
    /// A conflict names managers and fields.
    pub async fn apply(&self, object: &Value, dry_run: bool, force: bool) -> Result<Value, ApplyError> {
        let at = ObjectRef::of(object);
        let resource = self.resource(&at.api_version, &at.kind).await.map_err(ApplyError::Other)?;
        let api = self.api(&resource, &at);
        let mut params = PatchParams::apply(FIELD_MANAGER);
        params.dry_run = dry_run;
        params.force = force;
        let patch = Patch::Apply(object);
        let purpose = if dry_run { Purpose::Look } else { Purpose::Write(&at.kind) };
        for last in (0..TRIES).map(|number| number + 1 == TRIES) {
            let make = || api.patch(&at.name, &params, &patch);
            match self.tried(&self.named(&at), purpose, make).await {
                Ok(applied) => return self.typed(applied, &at).map_err(ApplyError::Other),
                Err(Failed::Api(status, error)) => {
                    let conflicts = conflicts(&status);
                    if !conflicts.is_empty() {
                        return Err(ApplyError::Conflict(conflicts, error));
                    }
                    // Somebody wrote in between, and the server gave up: an apply says nothing of a version.
                    if status.code != 409 || last {
                        return Err(ApplyError::Other(error));
                    }
                    attempt::pause(Duration::from_millis(200)).await;
                }
                Err(Failed::Other(error)) => return Err(ApplyError::Other(error)),
            }
        }
        unreachable!("the last try returns")
    }

    /// Changes an object by a JSON patch (RFC 6902).
    ///
    /// # Errors
    /// What the API server said; a failed `test` among it.
    pub async fn patch(&self, at: &ObjectRef, patch: &Value) -> Result<Value, TaskError> {
        let api = self.api(&self.resource(&at.api_version, &at.kind).await?, at);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch: Patch<Value> = Patch::Json(
            serde_json::from_value(patch.clone())
                .map_err(|error| TaskError::permanent(format!("{at}: {error}")))?,
        );
        let patched =
            self.write_call(&at.kind, &self.named(at), || api.patch(&at.name, &params, &patch)).await;
        self.typed(patched.map_err(Failed::error)?, at)
    }

    /// Deletes the object that has this uid, and what it owns.
    ///
    /// # Errors
    /// What the API server said; an object that is gone or replaced is no error.
    pub async fn delete(&self, at: &ObjectRef, uid: &str) -> Result<Deleted, TaskError> {
        self.delete_as(at, uid, PropagationPolicy::Background).await
    }

    /// Deletes the object that has this uid, and leaves what it owns to itself.
    ///
    /// # Errors
    /// As [`Cluster::delete`].
    pub async fn orphan(&self, at: &ObjectRef, uid: &str) -> Result<Deleted, TaskError> {
        self.delete_as(at, uid, PropagationPolicy::Orphan).await
    }

    async fn delete_as(
        &self,
        at: &ObjectRef,
        uid: &str,
        propagation: PropagationPolicy,
    ) -> Result<Deleted, TaskError> {
        let api = self.api(&self.resource(&at.api_version, &at.kind).await?, at);
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        for last in (0..TRIES).map(|number| number + 1 == TRIES) {
            match self.write_call(&at.kind, &self.named(at), || api.delete(&at.name, &params)).await {
                // The object, where something keeps it; else only that it is done.
                Ok(answer) if answer.is_left() => return Ok(Deleted::Going),
                Ok(_) => return Ok(Deleted::Now),
                Err(Failed::Api(status, _)) if status.code == 404 => return Ok(Deleted::Gone),
                // Another uid, or only a write in between: the object tells.
                Err(Failed::Api(status, error)) if status.code == 409 => match self.get(at).await? {
                    None => return Ok(Deleted::Gone),
                    Some(live) if crate::manifest::uid(&live) != Some(uid) => return Ok(Deleted::Replaced),
                    Some(_) if last => return Err(error),
                    Some(_) => attempt::pause(Duration::from_millis(200)).await,
                },
                Err(failed) => return Err(failed.error()),
            }
        }
        unreachable!("the last try returns")
    }

    fn named(&self, at: &ObjectRef) -> String {
        let namespace = at.namespace.as_deref().unwrap_or(&self.namespace);
        format!("{} {namespace}/{}", at.kind, at.name)
    }

    async fn call<T, F>(&self, what: &str, make: impl Fn() -> F) -> Result<T, TaskError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        self.raw_call(what, make).await.map_err(Failed::error)
    }

    /// A call that changes nothing, or a lease; with what the API server said where it failed.
    async fn raw_call<T, F>(&self, what: &str, make: impl Fn() -> F) -> Result<T, Failed>
    where
        F: Future<Output = kube::Result<T>>,
    {
        self.tried(what, Purpose::Look, make).await
    }

    /// A call that changes what the attempt's leases are about.
    async fn write_call<T, F>(&self, kind: &str, what: &str, make: impl Fn() -> F) -> Result<T, Failed>
    where
        F: Future<Output = kube::Result<T>>,
    {
        self.tried(what, Purpose::Write(kind), make).await
    }

    /// A call within its time, tried again while the server is only busy or away. Each try of a write asks for the leases
    /// anew: while a server was away for long, somebody else may have taken them over.
    async fn tried<T, F>(&self, what: &str, purpose: Purpose<'_>, make: impl Fn() -> F) -> Result<T, Failed>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let began = Instant::now();
        let mut wait = Duration::from_millis(200);
        let mut tries = 0;
        let mut said = None;
        loop {
            tries += 1;
            let within = match purpose {
                Purpose::Look => CALL_TIMEOUT,
                Purpose::Write(kind) => match attempt::may_write(kind, what).await {
                    Ok(left) => left.min(CALL_TIMEOUT),
                    Err(error) => return Err(Failed::Other(error.details(said))),
                },
            };
            let (answer, asked) = attempt::noting(tokio::time::timeout(within, make())).await;
            let failed = match answer {
                Ok(Ok(done)) => {
                    attempt::tell_back(began);
                    return Ok(done);
                }
                Ok(Err(error)) => explain(what, error),
                Err(_) => Failed::Other(TaskError::transient(format!(
                    "{what}: the API server did not answer within {} s",
                    within.as_secs()
                ))),
            };
            let again = match failed.passes() {
                Passes::Never => false,
                Passes::Soon => tries < TRIES,
                Passes::WhenItIsBack => tries < TRIES || !attempt::patience_left(began).is_zero(),
            };
            if !again {
                return Err(failed);
            }
            let asked = asked.max(failed.told_to_wait());
            let error = failed.error();
            attempt::tell_outage(began, &error);
            said = Some(error.message);
            attempt::pause(wait.max(asked).min(LONGEST_PAUSE)).await;
            wait = (wait * 2).min(Duration::from_secs(3));
        }
    }
}

/// What a call is for.
#[derive(Debug, Clone, Copy)]
enum Purpose<'p> {
    /// It changes nothing, or a lease.
    Look,
    /// It changes an object of this kind, which leases are about.
    Write(&'p str),
}

/// The kinds that task types write and read; any other is looked up in the cluster.
pub(crate) fn known_resource(api_version: &str, kind: &str) -> Option<ApiResource> {
    let plural = match (api_version, kind) {
        ("apps/v1", "Deployment") => "deployments",
        ("apps/v1", "ReplicaSet") => "replicasets",
        ("v1", "Service") => "services",
        ("v1", "ConfigMap") => "configmaps",
        ("v1", "Secret") => "secrets",
        ("v1", "Pod") => "pods",
        ("batch/v1", "Job") => "jobs",
        ("networking.k8s.io/v1", "Ingress") => "ingresses",
        ("networking.k8s.io/v1", "NetworkPolicy") => "networkpolicies",
        ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "HTTPRoute") => "httproutes",
        ("apps/v1", "StatefulSet") => "statefulsets",
        ("apps/v1", "DaemonSet") => "daemonsets",
        ("v1", "PersistentVolumeClaim") => "persistentvolumeclaims",
        ("v1", "ResourceQuota") => "resourcequotas",
        ("autoscaling/v2" | "autoscaling/v1", "HorizontalPodAutoscaler") => "horizontalpodautoscalers",
        ("policy/v1" | "policy/v1beta1", "PodDisruptionBudget") => "poddisruptionbudgets",
        ("monitoring.coreos.com/v1", "ServiceMonitor") => "servicemonitors",
        ("monitoring.coreos.com/v1", "PodMonitor") => "podmonitors",
        ("keda.sh/v1alpha1", "ScaledObject") => "scaledobjects",
        (ISTIO_NETWORKING | ISTIO_NETWORKING_BETA, "DestinationRule") => "destinationrules",
        (ISTIO_NETWORKING | ISTIO_NETWORKING_BETA, "Sidecar") => "sidecars",
        (ISTIO_SECURITY | ISTIO_SECURITY_BETA, "AuthorizationPolicy") => "authorizationpolicies",
        _ => return None,
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
}

fn typed(object: DynamicObject, at: &ObjectRef) -> Result<Value, TaskError> {
    let mut value =
        serde_json::to_value(object).map_err(|error| TaskError::permanent(format!("{at}: {error}")))?;
    // Items of a list carry neither.
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), at.api_version.clone().into());
        map.insert("kind".into(), at.kind.clone().into());
    }
    Ok(value)
}

fn conflicts(status: &Status) -> Vec<(String, String)> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| {
            let manager = cause.message.split('"').nth(1).unwrap_or("unknown").to_owned();
            (manager, cause.field.clone())
        })
        .collect()
}

/// Objects of a kind, none by name.
fn some_of(api_version: &str, kind: &str) -> ObjectRef {
    ObjectRef { api_version: api_version.into(), kind: kind.into(), name: String::new(), namespace: None }
}

/// How messages name an object; it is in `default` where it names no namespace.
pub fn full_name(default: &str, object: &Value) -> String {
    format!("{} {}/{}", kind(object), namespace(object).unwrap_or(default), name(object))
}
