//! Refusals of a gray deploy, a row each: the sentence that a user sees, and that nothing was written before it. A control shows that the same
//! plan without the mistake is made. The sentences are the same on the rehearsal and on a real API server.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use graylane_engine::bundle::Bundle;
use graylane_engine::clock::WallClock;
use graylane_engine::id::RunId;
use graylane_engine::task::{Plan, Task, TaskContext, TaskError};
use graylane_rehearsal::{Cluster, Delays, Options};
use graylane_tasks::attached::attach;
use graylane_tasks::cluster::{Client, Clusters, create_all};
use graylane_tasks::environment::gather;
use graylane_tasks::manifest::{parse, yaml};
use graylane_tasks::mse_gray_deploy::MseGrayDeploy;
use graylane_tasks::secret::DigestKey;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use crate::support::agent::test_run;
use crate::support::stage::{CONFIG_MAPS, DEPLOYMENTS, INGRESSES, SECRETS, SERVICES, real, resource};
use crate::support::{client, say};

const NAMESPACE: &str = "n";

/// An environment with the example's services, on a cluster of its own, or in a namespace of its own on a real one.
struct Scene {
    folder: tempfile::TempDir,
    on: On,
    namespace: String,
}

enum On {
    Rehearsal(Cluster),
    Real(Client),
}

impl Scene {
    /// The baseline is on the cluster as `written` has it; then the manifests are changed.
    async fn new(kind: &str, class: &str) -> Scene {
        let cluster =
            Cluster::start(Options { delays: Delays::none(), ..Options::default() }).expect("started");
        Scene::on(On::Rehearsal(cluster), NAMESPACE.into(), kind, class).await
    }

    async fn on(on: On, namespace: String, kind: &str, class: &str) -> Scene {
        let scene = Scene { folder: tempfile::tempdir().expect("a folder"), on, namespace };
        let namespace = &scene.namespace;
        for folder in ["environments", "services"] {
            fs::create_dir(scene.path(folder)).expect("made");
        }
        let environment = format!(
            "name: e\ncluster: rehearsal\nnamespace: {namespace}\ngateway: {{ kind: {kind}, address: \"http://127.0.0.1:1\" }}\nmse: {{ enabled: true }}\nservices: ../services\nservice_options: {{ nacos: {{ gray: false }} }}\nallow: {{ workflows: [w] }}\n"
        );
        fs::write(scene.path("environments/e.yaml"), environment).expect("written");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/services");
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = format!("{service}.yaml");
            let text = fs::read_to_string(examples.join(&file)).expect("there");
            let text = text.replace("ingressClassName: mse", &format!("ingressClassName: {class}"));
            fs::write(scene.path("services").join(file), text).expect("written");
        }
        let namespaces: kube::Api<Namespace> = kube::Api::all(scene.client());
        let namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("valid");
        namespaces.create(&kube::api::PostParams::default(), &namespace).await.expect("created");
        scene
    }

    fn client(&self) -> Client {
        match &self.on {
            On::Rehearsal(cluster) => cluster.client(),
            On::Real(client) => client.clone(),
        }
    }

    /// The cluster in this process, with what a client cannot ask.
    fn rehearsal(&self) -> &Cluster {
        match &self.on {
            On::Rehearsal(cluster) => cluster,
            On::Real(_) => panic!("a real API server keeps no list of requests"),
        }
    }

    /// What was written since the baseline was put there: by the API server's list of requests, or by whose fields objects have.
    async fn wrote(&self) -> Vec<String> {
        let client = match &self.on {
            On::Rehearsal(cluster) => {
                return cluster.requests().iter().map(|request| format!("{request:?}")).collect();
            }
            On::Real(client) => client,
        };
        let mut found = Vec::new();
        for kind in [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS] {
            let api: kube::Api<kube::api::DynamicObject> =
                kube::Api::namespaced_with(client.clone(), &self.namespace, &resource(kind));
            for object in api.list(&kube::api::ListParams::default()).await.expect("listed") {
                let managers = object.metadata.managed_fields.unwrap_or_default();
                if managers.iter().any(|entry| entry.manager.as_deref() == Some("graylane")) {
                    found.push(format!("{} {}", kind.1, object.metadata.name.unwrap_or_default()));
                }
            }
        }
        found
    }

    async fn over(&self) {
        match &self.on {
            On::Rehearsal(cluster) => cluster.shutdown().await,
            On::Real(client) => {
                let namespaces: kube::Api<Namespace> = kube::Api::all(client.clone());
                let params = kube::api::DeleteParams::background();
                namespaces.delete(&self.namespace, &params).await.expect("deleted");
            }
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

    /// Puts the services' manifests onto the cluster.
    async fn furnish(&self) {
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = self.path(&format!("services/{service}.yaml"));
            create_all(&self.client(), &self.namespace, &file).await.expect("created");
        }
    }

    async fn put(&self, objects: &[Value]) {
        let text: Vec<String> = objects.iter().map(yaml).collect();
        let file = self.path("more.yaml");
        fs::write(&file, text.join("---\n")).expect("written");
        create_all(&self.client(), &self.namespace, &file).await.expect("created");
    }

    async fn plan(&self, spec: &Value) -> Result<Plan, TaskError> {
        let key = DigestKey::new([7; 32]);
        let gathered = gather(&self.path("environments"), &key);
        assert!(gathered.problems.is_empty(), "{:?}", gathered.problems);
        let mut bundle: Bundle = gathered.bundle;
        let workflow = json!({ "tasks": { "deploy": { "type": "mse-gray-deploy", "with": spec } } });
        let problems = attach(&mut bundle, "w.yaml", workflow.to_string().as_bytes(), self.folder.path());
        assert!(problems.is_empty(), "{problems:?}");
        let (workflow, task) = ("w".parse().expect("a name"), "deploy".parse().expect("a name"));
        let clock = Arc::new(WallClock::default());
        let cx = TaskContext::alone(RunId::new(1, 1), workflow, task, spec.clone(), Arc::new(bundle), clock);
        let clusters = Clusters::new(self.client());
        MseGrayDeploy::new(clusters, key).plan(&cx).await
    }
}

fn spec() -> Value {
    json!({
        "environment": "e", "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" },
        "entry": { "service": "spring-a", "header": { "name": "x-user-id", "value": "100" } },
    })
}

/// A mistake, and the sentence that it is refused with.
struct Row {
    what: &'static str,
    kind: (&'static str, &'static str),
    spec: fn(&mut Value),
    /// Before the baseline is put onto the cluster.
    manifests: fn(&Scene),
    live: fn() -> Vec<Value>,
    /// After it was.
    later: fn(&Scene),
    refused: &'static str,
    hint: &'static str,
}

const RIGHT: Row = Row {
    what: "nothing",
    kind: ("mse", "mse"),
    spec: |_| {},
    manifests: |_| {},
    live: Vec::new,
    later: |_| {},
    refused: "",
    hint: "",
};

fn service(name: &str, selector: Value) -> Vec<Value> {
    vec![json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": selector, "ports": [{ "port": 80, "protocol": "TCP" }] } })]
}

fn canary(class: &str, name: &str, value: &str) -> Vec<Value> {
    let n = "nginx.ingress.kubernetes.io";
    vec![json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "annotations": { format!("{n}/canary"): "true", format!("{n}/canary-by-header"): "x-user-id", format!("{n}/canary-by-header-value"): value } },
        "spec": { "ingressClassName": class, "rules": [{ "host": "example.com", "http": { "paths": [{ "path": "/", "pathType": "Prefix",
            "backend": { "service": { "name": "other", "port": { "number": 80 } } } }] } }] } })]
}

fn route() -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "spring-cloud-a" },
        "spec": { "parentRefs": [{ "name": "gateway" }], "hostnames": ["example.com"], "rules": [{
            "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }],
            "backendRefs": [{ "name": "spring-cloud-a-base", "port": 20001 }] }] } })
}

fn pods(objects: &mut [Value]) -> &mut Value {
    &mut objects[0]["spec"]["template"]["spec"]
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        Row { what: "a reserved tag", spec: |s| s["tag"] = "base".into(), refused: "refused: `base` means the baseline and cannot be a lane's tag", ..RIGHT },
        Row { what: "a baseline that is not there", manifests: |s| s.change("spring-b", |_| {}), spec: |s| s["images"] = json!({ "new": "n:1" }),
            refused: "environment `e` has no service `new`: it has `nacos`, `spring-a`, `spring-b` and `spring-c`", ..RIGHT },
        Row { what: "a baseline that was never deployed", later: |s| {
                let text = fs::read_to_string(s.path("services/spring-c.yaml")).expect("there");
                fs::write(s.path("services/spring-d.yaml"), text.replace("spring-cloud-c", "spring-cloud-d")).expect("written");
            },
            spec: |s| s["images"]["spring-d"] = "d:2".into(),
            refused: "refused: service `spring-d`: its baseline, Deployment n/spring-cloud-d, is not on the cluster: deploy it to production first", ..RIGHT },
        Row { what: "a claim that both versions would write to", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |s| s.change("spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store; confirm it by `shared_claims: [store]` at the service, or give the copy another volume by a patch", ..RIGHT },
        Row { what: "no base on gateway-api", kind: ("gateway-api", "mse"), later: |s| s.change("spring-a", |o| o.push(route())),
            refused: "refused: HTTPRoute spring-cloud-a, the baseline of the route, is not on the cluster: production was not brought up to its manifest", ..RIGHT },
        Row { what: "nacos", spec: |s| s["images"]["nacos"] = "nacos:2".into(), refused: "refused: service `nacos` takes no part in lanes: its `gray` is false in environment `e`", ..RIGHT },
        Row { what: "production without the label", manifests: |s| s.change("spring-a", |o| {
                for at in [&["selector", "matchLabels"][..], &["template", "metadata", "labels"][..]] {
                    let mut place = &mut o[0]["spec"];
                    for key in at { place = &mut place[*key]; }
                    place.as_object_mut().expect("a map").remove("zadigx-release-version");
                }
            }),
            later: |s| s.change("spring-a", |o| {
                o[0]["spec"]["selector"]["matchLabels"]["zadigx-release-version"] = "original".into();
                o[0]["spec"]["template"]["metadata"]["labels"]["zadigx-release-version"] = "original".into();
            }),
            refused: "refused: service `spring-a`: the selector of the live Deployment spring-cloud-a lacks `zadigx-release-version`: the manifest has it, production was not brought up to it", ..RIGHT },
        Row { what: "a leak", live: || service("metrics", json!({ "app": "spring-cloud-c" })),
            refused: "refused: Service metrics would send its requests to the pods of Deployment spring-cloud-c-mse-gray",
            hint: "add `zadigx-release-version: original` to the selector of Service metrics, once the baseline's pods carry the label", ..RIGHT },
        Row { what: "a foreign object under the lane's name", live: || service("spring-cloud-a-base-mse-gray", json!({ "app": "x" })),
            refused: "refused: Service n/spring-cloud-a-base-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a foreign Secret under the lane's name", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray" } })],
            refused: "refused: Secret n/spring-cloud-a-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a lane of another tool", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray",
                "labels": { "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray" } } })],
            refused: "refused: Secret n/spring-cloud-a-mse-gray belongs to a lane that another tool made", ..RIGHT },
        Row { what: "an overlapping selector", live: || vec![json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "store" }, "spec": { "serviceName": "s",
                "selector": { "matchLabels": { "app": "spring-cloud-c" } }, "template": { "metadata": { "labels": { "app": "spring-cloud-c" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })],
            refused: "refused: the selector of StatefulSet store takes the pods of Deployment spring-cloud-c-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew", ..RIGHT },
        Row { what: "a claim for one writer", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |s| s.change("spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store, which is ReadWriteOnce: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch", ..RIGHT },
        Row { what: "the node's network", manifests: |s| s.change("spring-c", |o| pods(o)["hostNetwork"] = true.into()),
            refused: "refused: Deployment spring-cloud-c-mse-gray: its pods use the node's network (`hostNetwork`), and two versions cannot bind the same ports; take it away by a patch", ..RIGHT },
        Row { what: "one ConfigMap in two manifests", manifests: |s| for service in ["spring-a", "spring-c"] {
                s.change(service, |o| o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "common" }, "data": {} })));
            },
            refused: "refused: ConfigMap common-mse-gray would be written by the services `spring-a` and `spring-c`: an object stands in one manifest", ..RIGHT },
        Row { what: "no base for the canary", later: |s| s.change("spring-a", |o| o[2]["spec"]["rules"][0]["host"] = "new.example.com".into()),
            refused: "refused: Ingress spring-cloud-a-mse-gray has no base on the cluster for new.example.com/, so the gateway would leave it out: production was not brought up to its manifest", ..RIGHT },
        Row { what: "two lanes for one user", live: || canary("mse", "theirs", "100"),
            refused: "refused: Ingress theirs lets the same requests in at example.com/: of two the gateway asks the older one, and this lane would never be met", ..RIGHT },
        Row { what: "a cookie's value on higress", kind: ("higress", "higress"), spec: |s| s["entry"] = json!({ "service": "spring-a", "cookie": { "name": "c", "value": "x" } }),
            refused: "refused: a higress gateway cannot compare a cookie with `x`: it lets in the value `always` only; leave `value` out, or use `header`", ..RIGHT },
        Row { what: "a business header on ingress-nginx", kind: ("ingress-nginx", "nginx"),
            refused: "refused: ingress-nginx cannot put `x-mse-tag` on requests, so behind the entry nobody would meet the lane's other services: enter by `header: { name: x-mse-tag, value: gray }`, which the client sends, or deploy the entry alone", ..RIGHT },
        Row { what: "a second canary on ingress-nginx", kind: ("ingress-nginx", "nginx"), live: || canary("nginx", "theirs", "7"),
            spec: |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" }),
            refused: "refused: ingress-nginx takes one canary for a host and path, and Ingress theirs is the one for example.com/: take it down first", ..RIGHT },
        Row { what: "no HTTPRoute on gateway-api", kind: ("gateway-api", "mse"),
            refused: "refused: service `spring-a` cannot be the entry: its manifest has no HTTPRoute", ..RIGHT },
        Row { what: "a weight on gateway-api", kind: ("gateway-api", "mse"), spec: |s| s["entry"] = json!({ "service": "spring-a", "weight": 5 }),
            refused: "refused: a gateway-api gateway shares requests out by weights in the baseline's own HTTPRoute: a lane leaves that alone; use `header` or `cookie`", ..RIGHT },
        Row { what: "a patch that leaves the lane", spec: |s| {
                s["images"] = json!({ "spring-a": "a:2" });
                s["services"] = json!({ "spring-c": { "patches": [{ "target": { "kind": "Deployment", "name": "spring-cloud-c" }, "patch": { "spec": { "selector": { "matchLabels": { "zadigx-release-version": "original" } } } } }] } });
            },
            refused: "refused: service `spring-c`: the patch of Deployment spring-cloud-c: spec.selector.matchLabels of Deployment spring-cloud-c-mse-gray must have `zadigx-release-version: gray`, and has `original`", ..RIGHT },
        Row { what: "an Ingress that a patch copies", spec: |s| {
                s.as_object_mut().expect("a map").remove("entry");
                s["images"] = json!({ "spring-c": "c:2" });
                s["services"] = json!({ "spring-a": { "patches": [{ "target": { "kind": "Ingress", "name": "spring-cloud-a" }, "patch": { "metadata": { "annotations": { "a": "b" } } } }] } });
            },
            refused: "refused: Ingress spring-cloud-a-mse-gray would take the requests of Ingress spring-cloud-a: give it another host or path by its patch, or make the service the `entry`", ..RIGHT },
    ]
}

async fn refuse(row: &Row, scene: Scene) {
    (row.manifests)(&scene);
    scene.furnish().await;
    scene.put(&(row.live)()).await;
    (row.later)(&scene);
    if let On::Rehearsal(cluster) = &scene.on {
        cluster.clear_requests();
    }
    let mut spec = spec();
    (row.spec)(&mut spec);
    let error = scene.plan(&spec).await.err().unwrap_or_else(|| panic!("{}: not refused", row.what));
    let plain = |text: &str| text.replace(&scene.namespace, NAMESPACE);
    assert_eq!(plain(&error.message), row.refused, "{}", row.what);
    if !row.hint.is_empty() {
        assert_eq!(error.hint.as_deref().map(plain).as_deref(), Some(row.hint), "{}", row.what);
    }
    let wrote = scene.wrote().await;
    assert_eq!(wrote, Vec::<String>::new(), "{}: the API server was asked to change something", row.what);
    scene.over().await;
}

#[tokio::test]
async fn every_refusal_comes_before_the_first_write_and_says_what_to_do() {
    let rows = rows();
    for row in &rows {
        refuse(row, Scene::new(row.kind.0, row.kind.1).await).await;
    }
    let Some(kubeconfig) = real() else {
        say(&format!("refusals: {} on the rehearsal, 0 on a real API server (skipped)", rows.len()));
        return;
    };
    let client = &client(&kubeconfig).await;
    futures::stream::iter(rows.iter().enumerate())
        .for_each_concurrent(4, |(number, row)| async move {
            let namespace = format!("refused-{}-{number}", test_run());
            let scene = Scene::on(On::Real(client.clone()), namespace, row.kind.0, row.kind.1).await;
            refuse(row, scene).await;
        })
        .await;
    say(&format!("refusals: {0} on the rehearsal, {0} on a real API server, differences 0", rows.len()));
}

/// The control: the same plans without a mistake are made, and ask for nothing but dry runs.
#[tokio::test]
async fn without_a_mistake_a_plan_is_made_by_reading_only() {
    let tag: fn(&mut Value) = |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" });
    for (kind, class, change) in
        [("mse", "mse", RIGHT.spec), ("higress", "higress", RIGHT.spec), ("ingress-nginx", "nginx", tag)]
    {
        let scene = Scene::new(kind, class).await;
        scene.furnish().await;
        scene.rehearsal().clear_requests();
        let mut spec = spec();
        change(&mut spec);
        let plan = scene.plan(&spec).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(plan.changes.len(), 5, "{kind}");
        assert!(scene.rehearsal().requests().iter().all(|request| request.dry_run), "{kind}");
        scene.rehearsal().shutdown().await;
    }
}
