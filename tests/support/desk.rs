//! Task types at a desk: a cluster in this process, files that a test can change, and plans and runs without a scheduler.
//!
//! Time is tokio's, which tests pause: a drain of ten seconds takes none.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use graylane_engine::bundle::Bundle;
use graylane_engine::clock::{Clock, TestClock, Timestamp};
use graylane_engine::id::RunId;
use graylane_engine::task::{Outputs, Plan, Progress, Registry, Reporter, Task, TaskContext, TaskError};
use graylane_rehearsal::{Cluster, Delays, LoggedRequest, Options};
use graylane_tasks::Leases;
use graylane_tasks::adoption::{self, Stepped};
use graylane_tasks::cluster::{Cluster as Told, Clusters, create_all};
use graylane_tasks::environment::{Site, gather};
use graylane_tasks::inventory::{Lane, lanes};
use graylane_tasks::mse_gray_deploy::MseGrayDeploy;
use graylane_tasks::readiness::{self, Readiness};
use graylane_tasks::renewal::{self, Renewed};
use graylane_tasks::secret::DigestKey;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::Home;

pub(crate) const NAMESPACE: &str = "mse-customer";

/// A cluster with the example's baseline, and the task types over it.
pub(crate) struct Desk {
    pub(crate) home: Home,
    pub(crate) cluster: Cluster,
    clusters: Arc<Clusters>,
    registry: Registry,
    leases: Leases,
    clock: Arc<dyn Clock>,
    runs: Mutex<u64>,
    said: Arc<Said>,
}

impl Desk {
    /// The example as it stands, up and ready.
    pub(crate) async fn new() -> Desk {
        Desk::with(Home::new()).await
    }

    /// A home whose files the test has changed.
    pub(crate) async fn with(home: Home) -> Desk {
        let desk = Desk::furnished(home).await;
        for namespace in desk.namespaces() {
            desk.settle(&namespace).await;
        }
        desk.cluster.clear_requests();
        desk
    }

    /// The same, and nobody waits until its pods are up: some of them may never be.
    pub(crate) async fn furnished(home: Home) -> Desk {
        // Nothing answers there: no gateway belongs to this cluster.
        let file = home.path("config/environments/production.yaml");
        let text = std::fs::read_to_string(&file).expect("readable");
        std::fs::write(&file, text.replace("127.0.0.1:8080", "127.0.0.1:9")).expect("written");
        let options = Options { delays: Delays::fast(), ..Options::default() };
        let cluster = Cluster::start(options).expect("started");
        let clusters = Clusters::new(cluster.client());
        let mut registry = Registry::default();
        let leases = graylane_tasks::register(&mut registry, &clusters, &key());
        let clock = Arc::new(TestClock::new(7));
        let (runs, said) = (Mutex::new(0), Arc::default());
        let desk = Desk { home, cluster, clusters, registry, leases, clock, runs, said };
        let site = desk.site();
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(desk.cluster.client());
        for namespace in desk.namespaces() {
            let made = json!({ "metadata": { "name": namespace, "labels": { "mse-enable": "enabled" } } });
            let made = serde_json::from_value(made).expect("a namespace");
            namespaces.create(&PostParams::default(), &made).await.expect("created");
        }
        for service in site.services.keys() {
            let home = site.environment.namespace_of(service).unwrap_or(NAMESPACE);
            let file = site.source(service).expect("a file");
            create_all(&desk.cluster.client(), home, file).await.expect("created");
        }
        desk.cluster.clear_requests();
        desk
    }

    fn namespaces(&self) -> Vec<String> {
        let site = self.site();
        std::iter::once(site.environment.namespace.clone()).chain(site.other_namespaces()).collect()
    }

    fn files(&self) -> Bundle {
        let gathered = gather(&self.home.path("config/environments"), &key());
        assert_eq!(gathered.problems, []);
        gathered.bundle
    }

    pub(crate) fn site(&self) -> Site {
        Site::load(&self.files(), "production").expect("the example")
    }

    pub(crate) async fn told(&self) -> Told {
        self.clusters.connect(&self.site()).await.expect("connected")
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn lanes(&self) -> Vec<Lane> {
        lanes(&self.told().await, &self.site(), self.now()).await.expect("told")
    }

    /// The context of a new run's attempt.
    pub(crate) fn context(&self, spec: &Value) -> TaskContext {
        let mut runs = self.runs.lock().expect("not poisoned");
        *runs += 1;
        let run = RunId::new(self.clock.now().millis(), u128::from(*runs));
        let workflow = "release".parse().expect("a name");
        let task = "task".parse().expect("a name");
        let (bundle, clock) = (Arc::new(self.files()), Arc::clone(&self.clock));
        TaskContext {
            reporter: Arc::clone(&self.said) as Arc<dyn Reporter>,
            ..TaskContext::alone(run, workflow, task, with_environment(spec), bundle, clock)
        }
    }

    /// What attempts have logged, line by line.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lines().clone()
    }

    /// A task type.
    pub(crate) fn task(&self, kind: &str) -> Arc<dyn Task> {
        Arc::clone(self.registry.get(kind).expect("a type"))
    }

    pub(crate) async fn plan(&self, kind: &str, spec: &Value) -> Result<Plan, TaskError> {
        self.task(kind).plan(&self.context(spec)).await
    }

    /// Carries a plan out.
    pub(crate) async fn carry_out(
        &self,
        kind: &str,
        spec: &Value,
        plan: &Plan,
    ) -> Result<Outputs, TaskError> {
        self.task(kind).run(&self.context(spec), plan).await
    }

    /// Takes back what a plan did.
    pub(crate) async fn undo(&self, kind: &str, spec: &Value, plan: &Plan) -> Result<Outputs, TaskError> {
        self.task(kind).undo(&self.context(spec), plan).await
    }

    /// Plans and carries out, by one run.
    pub(crate) async fn run(&self, kind: &str, spec: &Value) -> (Plan, Outputs) {
        let (task, context) = (self.task(kind), self.context(spec));
        let plan = task.plan(&context).await.unwrap_or_else(|error| panic!("{error:?}"));
        let outputs = task.run(&context, &plan).await.unwrap_or_else(|error| panic!("{error:?}"));
        (plan, outputs)
    }

    /// A plan that is refused; nothing was written before.
    pub(crate) async fn refused(&self, kind: &str, spec: &Value) -> TaskError {
        self.cluster.clear_requests();
        let error = self.plan(kind, spec).await.expect_err("refused");
        assert_eq!(self.wrote(), Vec::<String>::new(), "refused before the first write: {error:?}");
        error
    }

    /// Lets a lane live longer, as the API does it.
    pub(crate) fn renew<'d>(
        &'d self,
        tag: &'d str,
        length: &'d str,
    ) -> BoxFuture<'d, Result<Renewed, TaskError>> {
        Box::pin(async move {
            renewal::renew(&self.leases, &self.clock, &self.site(), (tag, length), |_| nothing()).await
        })
    }

    /// Mends what a check finds, as the API does it.
    pub(crate) fn fix(&self) -> BoxFuture<'_, Result<Readiness, TaskError>> {
        Box::pin(async move { readiness::fix(&self.leases, &self.clock, &self.site(), |_| nothing()).await })
    }

    /// Makes the next step of an adoption, as the API does it.
    pub(crate) fn adopt<'d>(&'d self, service: &'d str) -> BoxFuture<'d, Result<Stepped, TaskError>> {
        self.adopt_with(&self.leases, service)
    }

    /// The leases of another data folder, over the same cluster.
    pub(crate) fn stranger(&self) -> Leases {
        graylane_tasks::register(&mut Registry::default(), &self.clusters, &DigestKey::new([9; 32]))
    }

    /// Makes the next step of an adoption with the leases of another data folder.
    pub(crate) fn adopt_with<'d>(
        &'d self,
        leases: &'d Leases,
        service: &'d str,
    ) -> BoxFuture<'d, Result<Stepped, TaskError>> {
        Box::pin(
            async move { adoption::step(leases, &self.clock, &self.site(), service, |_| nothing()).await },
        )
    }

    /// Carries a plan out by the type alone, without what stands around it: the control of tests about that.
    pub(crate) async fn carry_out_bare(
        &self,
        kind: &impl Task,
        spec: &Value,
        plan: &Plan,
    ) -> Result<Outputs, TaskError> {
        kind.run(&self.context(spec), plan).await
    }

    /// The gray deploy as it is without what stands around it.
    pub(crate) fn bare_deploy(&self) -> MseGrayDeploy {
        MseGrayDeploy::new(Arc::clone(&self.clusters), key())
    }

    /// The requests that changed something, dry runs left out.
    pub(crate) fn wrote(&self) -> Vec<String> {
        // Leases come and go around every attempt: they are no writes of a release.
        let changed = |request: &LoggedRequest| !request.dry_run && !request.path.contains("/leases");
        let requests = self.cluster.requests().into_iter().filter(changed);
        requests.map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    pub(crate) fn api(&self, namespace: &str, kind: &str) -> Api<DynamicObject> {
        let (group, version, plural) = match kind {
            "Deployment" => ("apps", "v1", "deployments"),
            "ReplicaSet" => ("apps", "v1", "replicasets"),
            "Service" => ("", "v1", "services"),
            "ConfigMap" => ("", "v1", "configmaps"),
            "Secret" => ("", "v1", "secrets"),
            "Pod" => ("", "v1", "pods"),
            "Ingress" => ("networking.k8s.io", "v1", "ingresses"),
            "HTTPRoute" => ("gateway.networking.k8s.io", "v1", "httproutes"),
            "Lease" => ("coordination.k8s.io", "v1", "leases"),
            "HorizontalPodAutoscaler" => ("autoscaling", "v2", "horizontalpodautoscalers"),
            "Job" => ("batch", "v1", "jobs"),
            "StatefulSet" => ("apps", "v1", "statefulsets"),
            "PersistentVolumeClaim" => ("", "v1", "persistentvolumeclaims"),
            other => panic!("no such kind here: {other}"),
        };
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Api::namespaced_with(self.cluster.client(), namespace, &resource)
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let found = self.api(NAMESPACE, kind).get_opt(name).await.expect("answered");
        found.map(|object| serde_json::to_value(object).expect("json"))
    }

    /// Changes an object as `kubectl edit` does.
    pub(crate) async fn edit(&self, kind: &str, name: &str, patch: Value) {
        let params = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
        self.api(NAMESPACE, kind).patch(name, &params, &patch).await.expect("patched");
    }

    pub(crate) async fn create(&self, object: &Value, manager: &str) {
        let params = PostParams { field_manager: Some(manager.into()), ..PostParams::default() };
        let kind = object["kind"].as_str().expect("a kind");
        let made: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        self.api(NAMESPACE, kind).create(&params, &made).await.expect("created");
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        self.api(NAMESPACE, kind)
            .delete(name, &kube::api::DeleteParams::background())
            .await
            .expect("deleted");
    }

    /// Waits until every Deployment of a namespace is up.
    pub(crate) async fn settle(&self, namespace: &str) {
        for _ in 0..600 {
            let all = self.cluster.objects("deployments.apps", namespace);
            let count =
                |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            let up = |object: &Value| {
                let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
                count(object, "/status/observedGeneration") >= count(object, "/metadata/generation")
                    && count(object, "/status/availableReplicas") == wanted
                    && count(object, "/status/updatedReplicas") == wanted
                    && count(object, "/status/replicas") == wanted
            };
            if all.iter().all(up) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{namespace} does not settle");
    }
}

/// What the desk records of a deed.
async fn nothing() -> Result<(), TaskError> {
    Ok(())
}

/// The key of the desk's data folder.
pub(crate) fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn with_environment(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["environment"] = "production".into();
    spec
}

/// What a plan would do, a line a change, and what it warns of.
pub(crate) fn changes(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = plan
        .changes
        .iter()
        .map(|change| {
            let action = serde_json::to_value(change.action).expect("json");
            format!(
                "{} {}",
                action.as_str().expect("a word"),
                change.object.replace(&format!("{NAMESPACE}/"), "")
            )
        })
        .filter(|line| !line.starts_with("keep "))
        .collect();
    lines.sort();
    lines
}

/// An error with everything that a user sees of it.
pub(crate) fn shown(error: &TaskError) -> String {
    let mut lines = vec![error.message.clone()];
    lines.extend(error.details.iter().map(|detail| format!("  {detail}")));
    lines.extend(error.hint.iter().map(|hint| format!("hint: {hint}")));
    lines.join("\n")
}

/// A file below the home.
pub(crate) fn service_file(service: &str) -> String {
    PathBuf::from("config/services").join(format!("{service}.yaml")).display().to_string()
}

/// Keeps what attempts log.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Said {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("not poisoned")
    }
}

#[async_trait]
impl Reporter for Said {
    async fn phase(&self, _: String) -> Result<(), TaskError> {
        Ok(())
    }

    async fn checkpoint(&self, _: String) -> Result<(), TaskError> {
        Ok(())
    }

    fn log(&self, line: String) {
        self.lines().push(line);
    }

    fn progress(&self, _: Progress) {}
}
