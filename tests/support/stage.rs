//! One story, two clusters: a story is told on the rehearsal and, unchanged, on a real API server, and the objects that
//! come out are compared.
//!
//! ```text
//! graylane ── HTTP ── rehearsal: API, controllers, gateway, stand-ins            (a process of its own)
//! graylane ── TLS ─── a real API server with its controllers and a simulated node
//!                        └── the rehearsal's gateway and stand-ins, as clients of that API (in this process)
//! ```
//! The real one is named by GRAYLANE_TEST_KUBECONFIG; every story has a namespace of its own there. With CI=true its
//! absence is a failure; elsewhere it is said. `compare.rs` says what is left aside, with the reason of each.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use graylane_rehearsal::{Delays, Gateway, GatewayOptions, Network, StandIns};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::compare::{Look, differences};
use super::{Home, Rehearsal, agent, client, node, routes, tally};

/// A kind: its version, its name, and its name in paths.
pub(crate) type Kind = (&'static str, &'static str, &'static str);

pub(crate) const DEPLOYMENTS: Kind = ("apps/v1", "Deployment", "deployments");
pub(crate) const SERVICES: Kind = ("v1", "Service", "services");
pub(crate) const INGRESSES: Kind = ("networking.k8s.io/v1", "Ingress", "ingresses");
pub(crate) const HTTP_ROUTES: Kind = ("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes");
pub(crate) const CONFIG_MAPS: Kind = ("v1", "ConfigMap", "configmaps");
pub(crate) const SECRETS: Kind = ("v1", "Secret", "secrets");
pub(crate) const JOBS: Kind = ("batch/v1", "Job", "jobs");
pub(crate) const PODS: Kind = ("v1", "Pod", "pods");
pub(crate) const LEASES: Kind = ("coordination.k8s.io/v1", "Lease", "leases");

/// The kinds of a namespace that are compared.
const LOOKED_AT: [Kind; 8] = [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS, PODS, JOBS, LEASES];

/// The namespace of the example; each story on a real API server has one of its own.
pub(crate) const EXAMPLE: &str = "mse-customer";

const ENVIRONMENT: &str = "config/environments/production.yaml";

/// Where a story is told.
pub(crate) struct Stage {
    pub(crate) home: Home,
    /// Where the gateway answers, as `127.0.0.1:PORT`.
    pub(crate) gateway: String,
    pub(crate) namespace: String,
    pub(crate) real: bool,
    /// With which kubectl reaches the same cluster.
    pub(crate) kubeconfig: PathBuf,
    http_routes: bool,
    client: kube::Client,
    looks: Mutex<Vec<Look>>,
    plays: Plays,
}

/// What keeps the cluster, or its traffic, going.
enum Plays {
    Rehearsal {
        _process: Rehearsal,
    },
    /// Where pods really run, nobody stands in for them.
    Traffic {
        gateway: Gateway,
        stand_ins: Option<StandIns>,
    },
}

/// What a story asks of its stage.
#[derive(Clone, Copy)]
pub(crate) struct Wants<'w> {
    /// How long things take on the rehearsal.
    pub(crate) delays: &'w str,
    /// What is changed in the example before its baseline is put onto the cluster.
    pub(crate) prepare: &'w (dyn Fn(&Home) + Sync),
    /// Whether the example's services are up when the story begins; else the namespace is empty.
    pub(crate) baseline: bool,
    /// Whether HTTPRoutes are served.
    pub(crate) http_routes: bool,
}

/// The example as it stands.
pub(crate) const PLAIN: Wants<'static> =
    Wants { delays: "fast", prepare: &|_| {}, baseline: true, http_routes: false };

/// The example under load: nobody may meet a pod that is gone while it still has its time to end.
pub(crate) const LOADED: Wants<'static> = Wants { delays: "realistic", prepare: &ends_slowly, ..PLAIN };

/// The simulated node ends containers at once, whatever their preStop hook is; a real one does not.
fn ends_slowly(home: &Home) {
    for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
        home.edit(
            &format!("config/services/{service}.yaml"),
            "  template:\n    metadata:\n",
            "  template:\n    metadata:\n      annotations: { fakenode/stop-seconds: \"1\" }\n",
        );
    }
}

/// Tells a story on the rehearsal alone: controls, which need its delays.
pub(crate) async fn on_the_rehearsal(wants: Wants<'_>, story: impl AsyncFn(&Stage)) {
    let stage = Stage::rehearsal(wants).await;
    story(&stage).await;
}

/// Tells a story on both clusters and compares what it left, and what it had looked at on its way.
pub(crate) async fn on_both(wants: Wants<'_>, story: impl AsyncFn(&Stage)) {
    let (rehearsed, real) = told(wants, story).await;
    let differences = real.map(|real| differences(&rehearsed, &real)).unwrap_or_default();
    tally::differed(differences.len());
    assert!(
        differences.is_empty(),
        "the rehearsal and the real API server differ:\n{}",
        differences.join("\n")
    );
}

/// Tells a story on a cluster whose pods really run; whoever calls it stands on the node.
pub(crate) async fn on_a_node(kubeconfig: &Path, wants: Wants<'_>, story: impl AsyncFn(&Stage)) {
    let stage = Stage::real(kubeconfig, wants, Pods::Run).await;
    story(&stage).await;
    stage.over().await;
}

/// Tells a story on both clusters, where it is not as large on both.
pub(crate) async fn on_each(wants: Wants<'_>, story: impl AsyncFn(&Stage)) {
    told(wants, story).await;
}

async fn told(wants: Wants<'_>, story: impl AsyncFn(&Stage)) -> (Vec<Look>, Option<Vec<Look>>) {
    let stage = Stage::rehearsal(wants).await;
    story(&stage).await;
    let rehearsed = stage.over().await;
    tally::told("stories", 1, 0);
    let Some(kubeconfig) = real() else { return (rehearsed, None) };
    let stage = Stage::real(&kubeconfig, wants, Pods::Simulated).await;
    story(&stage).await;
    let real = stage.over().await;
    tally::told("stories", 0, 1);
    (rehearsed, Some(real))
}

/// The kubeconfig of the real API server. With CI=true there must be one; elsewhere its absence is said.
pub(crate) fn real() -> Option<PathBuf> {
    let found = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from);
    let ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(found.is_some() || !ci, "CI=true, and GRAYLANE_TEST_KUBECONFIG names no cluster");
    found
}

/// What becomes of pods on a real API server.
#[derive(Clone, Copy, PartialEq)]
enum Pods {
    /// A simulated node reports them, and stand-ins of this process answer for them.
    Simulated,
    /// A node runs them.
    Run,
}

impl Stage {
    async fn rehearsal(wants: Wants<'_>) -> Stage {
        let home = prepared(wants);
        let process = home.rehearsal(wants.delays);
        let client = process.client().await;
        let namespace = if wants.baseline { EXAMPLE } else { "bare" };
        if !wants.baseline {
            // The rehearsal furnishes the namespace of the example alone.
            make_namespace(&client, namespace).await;
            lead(&home, &process.kubeconfig, namespace, &process.gateway);
        }
        Stage {
            gateway: process.gateway.clone(),
            namespace: namespace.to_owned(),
            kubeconfig: process.kubeconfig.clone(),
            real: false,
            http_routes: wants.http_routes,
            client,
            looks: Mutex::default(),
            plays: Plays::Rehearsal { _process: process },
            home,
        }
    }

    async fn real(kubeconfig: &Path, wants: Wants<'_>, pods: Pods) -> Stage {
        static STORIES: AtomicUsize = AtomicUsize::new(0);
        let number = STORIES.fetch_add(1, Ordering::SeqCst);
        let namespace = format!("{EXAMPLE}-{}-{number}", agent::test_run());
        let home = prepared(wants);
        let client = client(kubeconfig).await;
        agent::stand(kubeconfig).await;
        if wants.http_routes {
            routes::define(&client).await;
        }
        make_namespace(&client, &namespace).await;
        let network = match pods {
            Pods::Simulated => Network::new(),
            Pods::Run => {
                node::let_pods_look(&client, &namespace).await;
                Network::of_a_node()
            }
        };
        let options = GatewayOptions {
            delays: Delays::fast(),
            namespace: Some(namespace.clone()),
            // As the program's rehearsal does.
            retry_connect: true,
            ..GatewayOptions::default()
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let gateway =
            Gateway::start(client.clone(), network.clone(), listen, options).await.expect("listens");
        let stand_ins = (pods == Pods::Simulated)
            .then(|| StandIns::start(client.clone(), network, vec![namespace.clone()]));
        let address = gateway.addr().to_string();
        lead(&home, kubeconfig, &namespace, &address);
        let stage = Stage {
            home,
            gateway: address,
            namespace,
            kubeconfig: kubeconfig.to_owned(),
            real: true,
            http_routes: wants.http_routes,
            client,
            looks: Mutex::default(),
            plays: Plays::Traffic { gateway, stand_ins },
        };
        if wants.baseline {
            stage.furnish().await;
        }
        stage
    }

    /// Puts the example's services onto the cluster as `kubectl apply` does, and waits until they are up.
    pub(crate) async fn furnish(&self) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.home.path("config/services"))
            .expect("readable")
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        for file in files {
            graylane_tasks::cluster::create_all(&self.client, &self.namespace, &file).await.expect("created");
        }
        self.settle().await;
    }

    /// Waits until every Deployment is rolled out.
    pub(crate) async fn settle(&self) {
        let api = self.api(DEPLOYMENTS);
        let count = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let up = |object: &Value| {
            let wanted = count(object, "/spec/replicas").unwrap_or(1);
            let has = |field: &str| count(object, &format!("/status/{field}")).unwrap_or(0);
            has("observedGeneration") >= count(object, "/metadata/generation").unwrap_or(0)
                && has("availableReplicas") == wanted
                && has("updatedReplicas") == wanted
                && has("replicas") == wanted
        };
        for _ in 0..900 {
            let all = api.list(&ListParams::default()).await.expect("listed");
            if all.items.iter().all(|object| up(&serde_json::to_value(object).expect("json"))) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("{} does not settle", self.namespace);
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub(crate) fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind))
    }

    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let found = self.api(kind).get_opt(name).await.expect("answered");
        found.map(|object| serde_json::to_value(object).expect("json"))
    }

    pub(crate) async fn list(&self, kind: Kind, labels: &str) -> Vec<Value> {
        let found = self.api(kind).list(&ListParams::default().labels(labels)).await.expect("listed");
        let typed = |object: DynamicObject| {
            let mut value = serde_json::to_value(object).expect("json");
            value["kind"] = kind.1.into();
            value["apiVersion"] = kind.0.into();
            value
        };
        found.items.into_iter().map(typed).collect()
    }

    /// Names in `text` as the example has them, in this story's namespace.
    pub(crate) fn named(&self, text: &str) -> String {
        text.replace(&format!("{EXAMPLE}/"), &format!("{}/", self.namespace))
    }

    /// Keeps every object of the namespace as it is now, for the comparison.
    pub(crate) async fn look(&self, when: &str) {
        let mut look = Look::at(when);
        let more = self.http_routes.then_some(HTTP_ROUTES);
        for kind in LOOKED_AT.into_iter().chain(more) {
            for object in self.list(kind, "").await {
                look.add(&object, &self.namespace);
            }
        }
        self.looks.lock().expect("not poisoned").push(look);
    }

    /// The end of the story: a last look, and nothing is left behind.
    async fn over(self) -> Vec<Look> {
        self.look("at its end").await;
        if let Plays::Traffic { gateway, stand_ins } = &self.plays {
            gateway.shutdown().await;
            if let Some(stand_ins) = stand_ins {
                stand_ins.shutdown().await;
            }
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            namespaces.delete(&self.namespace, &DeleteParams::background()).await.expect("deleted");
        }
        self.looks.into_inner().expect("not poisoned")
    }
}

/// A kind as the client asks for it.
pub(crate) fn resource((api_version, kind, plural): Kind) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// A namespace that is enrolled, and that the agent's webhook knows.
pub(crate) async fn make_namespace(client: &kube::Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let labels = json!({ "mse-enable": "enabled", agent::LABEL: agent::test_run() });
    let made = json!({ "metadata": { "name": name, "labels": labels } });
    let made = serde_json::from_value(made).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
}

fn prepared(wants: Wants<'_>) -> Home {
    let home = Home::new();
    // Digests of Secrets stand in annotations: with one key they can be compared.
    std::fs::create_dir_all(home.data()).expect("made");
    std::fs::write(home.data().join("digest.key"), [7; 32]).expect("written");
    (wants.prepare)(&home);
    home
}

/// Lets the example's environment lead to another cluster and namespace.
fn lead(home: &Home, kubeconfig: &Path, namespace: &str, gateway: &str) {
    let cluster = format!("cluster: {{ kubeconfig: {} }}\n", kubeconfig.display());
    home.edit(ENVIRONMENT, "cluster: rehearsal\n", &cluster);
    home.edit(ENVIRONMENT, &format!("namespace: {EXAMPLE}\n"), &format!("namespace: {namespace}\n"));
    home.edit(ENVIRONMENT, "http://127.0.0.1:8080", &format!("http://{gateway}"));
}
