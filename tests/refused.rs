//! Refusals of every task type, a row each: the sentence that a user sees, and that nothing was written before it. A control shows that
//! the same plans without the mistake are made. The sentences are the same on the rehearsal and on a real API server.
//!
//! What is refused by a file alone, whatever the cluster is, has tests of its own (`guards.rs`, unit tests); here is what a cluster says.

mod rows;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt as _;
use graylane_engine::bundle::Bundle;
use graylane_engine::clock::{Clock as _, WallClock};
use graylane_engine::id::RunId;
use graylane_engine::task::{Plan, Registry, TaskContext, TaskError};
use graylane_rehearsal::{Cluster, Delays, Options};
use graylane_tasks::attached::attach;
use graylane_tasks::cluster::{Client, Clusters, create_all};
use graylane_tasks::environment::{Site, gather};
use graylane_tasks::manifest::{parse, yaml};
use graylane_tasks::{adoption, renewal};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use self::rows::{Change, RIGHT, Row, entry_of, http_routed, rows};
use crate::support::agent::{self, test_run};
use crate::support::desk::key;
use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, HTTP_ROUTES, INGRESSES, JOBS, SECRETS, SERVICES, make_namespace, real, resource,
};
use crate::support::{client, routes, tally};

const NAMESPACE: &str = "n";
const DEPLOY: &str = "mse-gray-deploy";
const VERIFY: &str = "generic-verify";
const PRODUCTION: &str = "prod-deploy";
const OFFLINE: &str = "mse-gray-offline";
/// `graylane lanes renew` and `graylane environment adopt`: no task types, and refused as they are.
const RENEW: &str = "renew";
const ADOPT: &str = "adopt";

/// An environment with the example's services, on a cluster of its own, or in a namespace of its own on a real one.
struct Scene {
    folder: tempfile::TempDir,
    on: On,
    namespace: String,
    clusters: Arc<Clusters>,
    registry: Registry,
    runs: AtomicU32,
}

/// Where a scene is.
enum On {
    Rehearsal(Cluster),
    Real(Client),
}

impl Scene {
    /// In the rehearsal, or in this namespace of a real API server.
    async fn new(row: &Row, real: Option<(&Client, String)>) -> Scene {
        let (on, namespace) = match real {
            Some((client, namespace)) => (On::Real(client.clone()), namespace),
            None => {
                let options = Options { delays: Delays::none(), ..Options::default() };
                (On::Rehearsal(Cluster::start(options).expect("started")), NAMESPACE.to_owned())
            }
        };
        let client = match &on {
            On::Rehearsal(cluster) => cluster.client(),
            On::Real(client) => client.clone(),
        };
        let clusters = Clusters::new(client);
        let mut registry = Registry::default();
        graylane_tasks::register(&mut registry, &clusters, &key());
        let folder = tempfile::tempdir().expect("a folder");
        let scene = Scene { folder, on, namespace, clusters, registry, runs: AtomicU32::new(0) };
        let namespace = &scene.namespace;
        for folder in ["environments", "services"] {
            fs::create_dir(scene.path(folder)).expect("made");
        }
        let (kind, class) = row.kind;
        let environment = format!(
            "name: e\ncluster: rehearsal\nnamespace: {namespace}\ngateway: {{ kind: {kind}, address: \"http://127.0.0.1:1\" }}\nmse: {{ enabled: true }}\nservices: ../services\nservice_options: {{ nacos: {{ gray: false }} }}\nallow: {{ workflows: [w] }}\n{}\n",
            row.environment
        );
        fs::write(scene.path("environments/e.yaml"), environment).expect("written");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/services");
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = format!("{service}.yaml");
            let text = fs::read_to_string(examples.join(&file)).expect("there");
            let text = text.replace("ingressClassName: mse", &format!("ingressClassName: {class}"));
            fs::write(scene.path("services").join(file), text).expect("written");
        }
        make_namespace(&scene.client(), namespace).await;
        scene
    }

    fn client(&self) -> Client {
        match &self.on {
            On::Rehearsal(cluster) => cluster.client(),
            On::Real(client) => client.clone(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn change(&self, service: &str, change: impl Fn(&mut Vec<Value>)) {
        let path = self.path(&format!("services/{service}.yaml"));
        let mut objects = parse(service, &fs::read_to_string(&path).expect("there")).expect("valid");
        change(&mut objects);
        let text: Vec<String> = objects.iter().map(yaml).collect();
        fs::write(path, text.join("---\n")).expect("written");
    }

    /// Changes the environment's file by replacing a text that must be there.
    fn edit(&self, from: &str, to: &str) {
        let path = self.path("environments/e.yaml");
        let text = fs::read_to_string(&path).expect("there");
        assert!(text.contains(from), "{from:?} is not in {text}");
        fs::write(path, text.replace(from, to)).expect("written");
    }

    fn api(&self, kind: crate::support::stage::Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), &self.namespace, &resource(kind))
    }

    /// Puts the services' manifests onto the cluster.
    async fn furnish(&self) {
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = self.path(&format!("services/{service}.yaml"));
            create_all(&self.client(), &self.namespace, &file).await.expect("created");
        }
    }

    async fn put(&self, mut objects: Vec<Value>) {
        for object in &mut objects {
            // The oldest servers do not know the newer version; of what is said here both say the same.
            let newer = object["apiVersion"] == "autoscaling/v2";
            if newer && self.client().list_api_group_resources("autoscaling/v2").await.is_err() {
                object["apiVersion"] = "autoscaling/v1".into();
            }
        }
        let text: Vec<String> = objects.iter().map(yaml).collect();
        let file = self.path("more.yaml");
        fs::write(&file, text.join("---\n")).expect("written");
        create_all(&self.client(), &self.namespace, &file).await.expect("created");
    }

    /// Reaches in, as a person or another tool does.
    async fn happens(&self, change: &Change) {
        let by = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        let patched =
            |patch: Value| -> Patch<Value> { Patch::Json(serde_json::from_value(patch).expect("a patch")) };
        match change {
            Change::Patch(kind, name, patch) => {
                self.api(*kind).patch(name, &by, &patched(patch())).await.expect("patched");
            }
            Change::Owned(kind, name, (owner_kind, owner)) => {
                let live = self.api(*owner_kind).get(owner).await.expect("there");
                let owner = json!([{ "apiVersion": owner_kind.0, "kind": owner_kind.1, "name": owner, "uid": live.metadata.uid }]);
                let patch = json!([{ "op": "add", "path": "/metadata/ownerReferences", "value": owner }]);
                self.api(*kind).patch(name, &by, &patched(patch)).await.expect("patched");
            }
            Change::Verified(name, image) => {
                let mark = "graylane.dev/verified";
                let live = self.api(DEPLOYMENTS).get(name).await.expect("there");
                let text =
                    live.metadata.annotations.unwrap_or_default().remove(mark).expect("it was verified");
                let mut said: Value = serde_json::from_str(&text).expect("json");
                for (_, one) in said["images"].as_object_mut().expect("images") {
                    *one = (*image).into();
                }
                let path = format!("/metadata/annotations/{}", mark.replace('/', "~1"));
                let patch = json!([{ "op": "replace", "path": path, "value": said.to_string() }]);
                self.api(DEPLOYMENTS).patch(name, &by, &patched(patch)).await.expect("patched");
            }
            Change::Gone(kind, name) => {
                self.api(*kind).delete(name, &DeleteParams::background()).await.expect("deleted");
                for _ in 0..200 {
                    if self.api(*kind).get_opt(name).await.expect("answered").is_none() {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                panic!("{name} stays");
            }
        }
    }

    /// What Graylane has written, as the objects' own record has it: who is asked later, and gets the same answer, wrote nothing.
    async fn written(&self) -> Vec<String> {
        let mut found = Vec::new();
        let routes = matches!(self.on, On::Rehearsal(_)).then_some(HTTP_ROUTES);
        for kind in [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS, JOBS].into_iter().chain(routes) {
            for object in self.api(kind).list(&ListParams::default()).await.expect("listed") {
                let metadata = object.metadata;
                let managers = metadata.managed_fields.unwrap_or_default();
                let ours = managers.iter().filter(|entry| entry.manager.as_deref() == Some("graylane"));
                let ours: Vec<String> = ours.map(|entry| format!("{entry:?}")).collect();
                if !ours.is_empty() {
                    let (name, uid) = (metadata.name.unwrap_or_default(), metadata.uid.unwrap_or_default());
                    found.push(format!("{} {name} {uid} {}", kind.1, ours.join(" ")));
                }
            }
        }
        found
    }

    async fn over(&self) {
        match &self.on {
            On::Rehearsal(cluster) => cluster.shutdown().await,
            On::Real(client) => {
                let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
                namespaces.delete(&self.namespace, &DeleteParams::background()).await.expect("deleted");
            }
        }
    }

    fn context(&self, kind: &str, spec: &Value) -> TaskContext {
        let gathered = gather(&self.path("environments"), &key());
        assert!(gathered.problems.is_empty(), "{:?}", gathered.problems);
        let mut bundle: Bundle = gathered.bundle;
        let workflow = json!({ "tasks": { "it": { "type": kind, "with": spec } } });
        let problems = attach(&mut bundle, "w.yaml", workflow.to_string().as_bytes(), self.folder.path());
        assert!(problems.is_empty(), "{problems:?}");
        let (workflow, task) = ("w".parse().expect("a name"), "it".parse().expect("a name"));
        let run = RunId::new(1, u128::from(self.runs.fetch_add(1, Ordering::SeqCst)) + 1);
        TaskContext::alone(
            run,
            workflow,
            task,
            spec.clone(),
            Arc::new(bundle),
            Arc::new(WallClock::default()),
        )
    }

    async fn plan(&self, kind: &str, spec: &Value) -> Result<Plan, TaskError> {
        self.registry.get(kind).expect("a type").plan(&self.context(kind, spec)).await
    }

    /// Plans, and lets something happen before it is carried out.
    async fn run(&self, kind: &str, spec: &Value, meanwhile: &[Value]) -> Result<(), TaskError> {
        let (task, context) = (self.registry.get(kind).expect("a type"), self.context(kind, spec));
        let plan = task.plan(&context).await.expect("planned");
        if !meanwhile.is_empty() {
            self.put(meanwhile.to_vec()).await;
        }
        task.run(&context, &plan).await.map(drop)
    }

    /// A plan of a task type, or of what is no task.
    async fn ask(&self, kind: &str, spec: &Value) -> Result<(), TaskError> {
        if ![RENEW, ADOPT].contains(&kind) {
            return self.plan(kind, spec).await.map(drop);
        }
        let gathered = gather(&self.path("environments"), &key());
        let site = Site::load(&gathered.bundle, "e").expect("a site");
        let told = self.clusters.connect(&site).await.expect("connected");
        let now = WallClock::default().now();
        let word = |name: &str| spec[name].as_str().unwrap_or_default().to_owned();
        if kind == RENEW {
            return renewal::prepare(&told, &site, &word("tag"), "8h", now).await.map(drop);
        }
        adoption::look(&told, &site, &word("service"), now).await.map(drop)
    }

    /// Brings the scene to the moment at which a row asks.
    async fn set(&self, row: &Row) {
        (row.manifests)(self);
        self.furnish().await;
        self.put((row.live)()).await;
        for (kind, spec) in (row.first)() {
            self.run(kind, &spec, &[])
                .await
                .unwrap_or_else(|error| panic!("{}: {kind}: {error:?}", row.what));
        }
        for change in row.happens {
            self.happens(change).await;
        }
        (row.later)(self);
    }
}

/// What is wrong with the answer to a row.
async fn refuse(row: &Row, scene: Scene) -> Vec<String> {
    scene.set(row).await;
    let mut spec = entry_of("gray");
    (row.spec)(&mut spec);
    let before = scene.written().await;
    if let On::Rehearsal(cluster) = &scene.on {
        cluster.clear_requests();
    }
    let answer = scene.ask(row.task, &spec).await;
    let plain = |text: &str| text.replace(&scene.namespace, NAMESPACE);
    let mut wrong = Vec::new();
    match answer {
        Ok(()) => wrong.push("not refused".to_owned()),
        Err(error) => {
            let said = plain(&error.message);
            let right = match row.refused.strip_suffix("...") {
                // What follows is the cluster's: a digest.
                Some(begins) => said.starts_with(begins),
                None => said == row.refused,
            };
            if !right {
                wrong.push(format!("it says `{said}`"));
            }
            let hint = plain(error.hint.as_deref().unwrap_or_default());
            if !row.hint.is_empty() && hint != row.hint {
                wrong.push(format!("its hint is `{hint}`"));
            }
        }
    }
    if scene.written().await != before {
        wrong.push("something was written".to_owned());
    }
    if let On::Rehearsal(cluster) = &scene.on {
        let asked = cluster.requests().into_iter().filter(|request| !request.dry_run);
        wrong.extend(
            asked.map(|request| format!("the API server was asked to change something: {request:?}")),
        );
    }
    scene.over().await;
    wrong.into_iter().map(|wrong| format!("{}, in {}: {wrong}", row.what, scene.namespace)).collect()
}

/// Carries out something in a scene of every row: on the rehearsal, and on a real API server where there is one.
async fn on_both(
    name: &str,
    what: &'static str,
    rows: &[Row],
    tell: impl AsyncFn(&Row, Scene) -> Vec<String>,
) -> Vec<String> {
    let tell = &tell;
    let told = futures::stream::iter(rows);
    let told = told.map(|row| async move { tell(row, Scene::new(row, None).await).await });
    let mut wrong = told.buffer_unordered(4).collect::<Vec<_>>().await.concat();
    tally::told(what, rows.len(), 0);
    let Some(kubeconfig) = real() else { return wrong };
    let client = &client(&kubeconfig).await;
    agent::stand(&kubeconfig).await;
    routes::define(client).await;
    let told = futures::stream::iter(rows.iter().enumerate()).map(|(number, row)| async move {
        let namespace = format!("{name}-{}-{number}", test_run());
        tell(row, Scene::new(row, Some((client, namespace))).await).await
    });
    wrong.extend(told.buffer_unordered(8).collect::<Vec<_>>().await.concat());
    tally::told(what, 0, rows.len());
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_comes_before_the_first_write_and_says_what_to_do() {
    let wrong = on_both("refused", "refusals", &rows(), refuse).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The control: the same plans without a mistake are made, and ask for nothing but dry runs.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_mistake_a_plan_is_made_by_reading_only() {
    let up = || vec![(DEPLOY, entry_of("gray"))];
    let table = [
        RIGHT,
        Row { kind: ("higress", "higress"), ..RIGHT },
        Row {
            kind: ("ingress-nginx", "nginx"),
            spec: |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" }),
            ..RIGHT
        },
        Row { kind: ("gateway-api", "mse"), manifests: http_routed, ..RIGHT },
        Row {
            task: PRODUCTION,
            first: up,
            spec: |s| *s = json!({ "environment": "e", "images": { "spring-c": "c:2" } }),
            ..RIGHT
        },
        Row { task: VERIFY, first: up, spec: rows::asks_as_lane, ..RIGHT },
        Row {
            task: OFFLINE,
            first: up,
            spec: |s| *s = json!({ "environment": "e", "tag": "gray" }),
            ..RIGHT
        },
        Row { task: RENEW, environment: "ttl: 8h", first: up, ..RIGHT },
        Row { task: ADOPT, spec: |s| *s = json!({ "service": "spring-a" }), ..RIGHT },
    ];
    on_both("right", "plans without a mistake", &table, async |row, scene| {
        scene.set(row).await;
        let mut spec = entry_of("gray");
        (row.spec)(&mut spec);
        let before = scene.written().await;
        if let On::Rehearsal(cluster) = &scene.on {
            cluster.clear_requests();
        }
        if row.task == DEPLOY {
            let plan =
                scene.plan(DEPLOY, &spec).await.unwrap_or_else(|error| panic!("{:?}: {error:?}", row.kind));
            assert_eq!(plan.changes.len(), 5, "{:?}: {:?}", row.kind, plan.changes);
        } else {
            scene.ask(row.task, &spec).await.unwrap_or_else(|error| panic!("{}: {error:?}", row.task));
        }
        assert_eq!(scene.written().await, before, "{} {:?}: only looked at", row.task, row.kind);
        if let On::Rehearsal(cluster) = &scene.on {
            assert!(cluster.requests().iter().all(|request| request.dry_run), "{}", row.task);
        }
        scene.over().await;
        Vec::new()
    })
    .await;
}

/// What comes after the plan: it is met when it is there, taken back, and told.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_between_a_plan_and_its_pods_is_met_and_taken_back() {
    let table = [
        Row {
            what: "a Service that leaks",
            live: || rows::service("metrics", json!({ "app": "spring-cloud-c" })),
            refused: "Service metrics sends its requests to pods of Deployment spring-cloud-c-mse-gray, and did not when this was planned",
            ..RIGHT
        },
        Row {
            what: "a Service for the pod of a check",
            task: VERIFY,
            live: || rows::service("hungry", json!({ "msePilotAutoEnable": "off" })),
            first: || vec![(DEPLOY, entry_of("gray"))],
            spec: rows::checks_by_job,
            refused: "check `guarded`: Service hungry sends requests to the pod of the check, which was removed",
            ..RIGHT
        },
    ];
    on_both("met", "refusals", &table, async |row, scene| {
        scene.set(&Row { live: Vec::new, ..*row }).await;
        let mut spec = entry_of("gray");
        (row.spec)(&mut spec);
        let met = scene.run(row.task, &spec, &(row.live)()).await.expect_err(row.what);
        assert_eq!(met.message, row.refused, "{}", row.what);
        let jobs = scene.api(JOBS).list(&ListParams::default()).await.expect("listed").items;
        assert!(jobs.is_empty(), "{}: {jobs:?}", row.what);
        if row.task == DEPLOY {
            let gray = scene.api(DEPLOYMENTS).get("spring-cloud-c-mse-gray").await.expect("there");
            assert_eq!(gray.data["spec"]["replicas"], 0, "nobody is met any more");
            let route = scene.api(INGRESSES).get_opt("spring-cloud-a-mse-gray").await.expect("answered");
            assert!(route.is_none(), "no route was opened");
        }
        scene.over().await;
        Vec::new()
    })
    .await;
}
