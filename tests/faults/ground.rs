//! The ground that stories under faults are told on: a cluster with the example's baseline, the rehearsal or a real API
//! server, and what stands on it, read past the proxy and without Graylane.
//!
//! What must stand there is the judge's to say (`judge.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graylane_rehearsal::{Cluster, Delays, Options};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, INGRESSES, Kind, SECRETS, SERVICES, make_namespace, resource,
};
use crate::support::{Home, agent, client, desk};

pub(super) const ENVIRONMENT: &str = "config/environments/production.yaml";
const SERVICE_NAMES: [&str; 4] = ["nacos", "spring-a", "spring-b", "spring-c"];
/// How many seconds pods take until they are ready: long enough that whoever does not wait for them is seen not to.
pub(super) const READY_SOON: &str = "0.4";
/// So long that they are seen before they are ready, however busy the machine is.
pub(super) const READY_LATE: &str = "3";

/// See the module.
pub(super) struct Ground {
    pub(super) home: Home,
    /// How the API server is reached past the proxy.
    pub(super) upstream: PathBuf,
    pub(super) namespace: String,
    client: kube::Client,
    rehearsal: Option<(Cluster, DropGuard)>,
}

/// Objects by kind and name, without what servers and controllers write.
pub(super) type Snapshot = BTreeMap<String, Value>;

impl Ground {
    pub(super) async fn rehearsed(ready_after: &str) -> Ground {
        let home = prepared(ready_after);
        let options = Options { delays: Delays::fast(), ..Options::default() };
        let cluster = Cluster::start(options).expect("started");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let upstream = home.path("upstream");
        let address = listener.local_addr().expect("an address");
        std::fs::write(&upstream, graylane_rehearsal::kubeconfig(address)).expect("written");
        let stop = CancellationToken::new();
        tokio::spawn(graylane_rehearsal::serve(listener, cluster.api(), stop.clone()));
        let rehearsal = Some((cluster, stop.drop_guard()));
        Ground::furnished(home, upstream, desk::NAMESPACE.into(), rehearsal).await
    }

    pub(super) async fn real(kubeconfig: &Path, namespace: String, ready_after: &str) -> Ground {
        agent::stand(kubeconfig).await;
        Ground::furnished(prepared(ready_after), kubeconfig.to_owned(), namespace, None).await
    }

    async fn furnished(
        home: Home,
        upstream: PathBuf,
        namespace: String,
        rehearsal: Option<(Cluster, DropGuard)>,
    ) -> Ground {
        let client = client(&upstream).await;
        make_namespace(&client, &namespace).await;
        for service in SERVICE_NAMES {
            let file = home.path(&format!("config/services/{service}.yaml"));
            graylane_tasks::cluster::create_all(&client, &namespace, &file).await.expect("created");
        }
        home.edit(ENVIRONMENT, "namespace: mse-customer\n", &format!("namespace: {namespace}\n"));
        let ground = Ground { home, upstream, namespace, client, rehearsal };
        ground.settle().await;
        ground
    }

    async fn settle(&self) {
        for _ in 0..600 {
            if self.not_rolled_out().await.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} does not settle", self.namespace);
    }

    /// Lets a webhook change every Deployment that is written from now on.
    pub(super) async fn change_deployments(&self) {
        if let Some((cluster, _)) = &self.rehearsal {
            cluster.set_webhook(Some(agent::policy()));
            return;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let label = json!({ "metadata": { "labels": { agent::POLICY_LABEL: agent::test_run() } } });
        let merge = Patch::Merge(&label);
        namespaces.patch(&self.namespace, &PatchParams::default(), &merge).await.expect("labelled");
        // API servers learn of it by a watch: until then a try comes back as it was sent.
        let mut probe = self.raw(DEPLOYMENTS, "").await.into_iter().next().expect("a baseline");
        probe["metadata"] = json!({ "name": "probe" });
        probe["status"] = json!({});
        let probe: DynamicObject = serde_json::from_value(probe).expect("an object");
        let tried = PostParams { dry_run: true, ..PostParams::default() };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(DEPLOYMENTS));
        for _ in 0..600 {
            let made = api.create(&tried, &probe).await.expect("tried");
            if is_marked(&serde_json::to_value(made).expect("json")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the webhook is not called");
    }

    pub(super) async fn raw(&self, kind: Kind, labels: &str) -> Vec<Value> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(kind));
        let found = api.list(&ListParams::default().labels(labels)).await.expect("listed");
        let typed = |object| {
            let mut value = serde_json::to_value(object).expect("json");
            value["apiVersion"] = kind.0.into();
            value["kind"] = kind.1.into();
            value
        };
        found.items.into_iter().map(typed).collect()
    }

    /// Everything that releases write, and everything beside it.
    pub(super) async fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        for kind in [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS] {
            for object in self.raw(kind, "").await {
                let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
                // Born with the namespace, at a time of their own.
                if !name.starts_with("default-token-") && name != "kube-root-ca.crt" {
                    all.insert(format!("{} {name}", kind.1), essence(object));
                }
            }
        }
        all
    }

    /// The Deployments that are not rolled out.
    pub(super) async fn not_rolled_out(&self) -> BTreeSet<String> {
        let all = self.raw(DEPLOYMENTS, "").await;
        let waiting = all.iter().filter(|object| !is_rolled_out(object));
        waiting.map(|object| object["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Gives a Deployment of the baseline, which no story writes, an image that is not there.
    pub(super) async fn break_baseline(&self) {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource(DEPLOYMENTS));
        let place = "/spec/template/spec/containers/0/image";
        let change = json!([{ "op": "replace", "path": place, "value": "spring-cloud-b:missing" }]);
        let change = Patch::<Value>::Json(serde_json::from_value(change).expect("a patch"));
        api.patch("spring-cloud-b", &PatchParams::default(), &change).await.expect("patched");
    }

    /// The leases that somebody holds.
    pub(super) async fn held(&self) -> Vec<Value> {
        let leases = self.raw(("coordination.k8s.io/v1", "Lease", "leases"), "").await;
        leases.into_iter().filter(|lease| lease["spec"]["holderIdentity"] != "").collect()
    }

    /// Nothing is left behind.
    pub(super) async fn over(self) {
        match self.rehearsal {
            Some((cluster, stop)) => {
                drop(stop);
                cluster.shutdown().await;
            }
            None => {
                let namespaces: Api<Namespace> = Api::all(self.client);
                namespaces.delete(&self.namespace, &DeleteParams::background()).await.expect("deleted");
            }
        }
    }
}

fn prepared(ready_after: &str) -> Home {
    let home = Home::new();
    for service in ["spring-a", "spring-b", "spring-c"] {
        home.edit(
            &format!("config/services/{service}.yaml"),
            "  template:\n    metadata:\n",
            &format!(
                "  template:\n    metadata:\n      annotations: {{ fakenode/start-seconds: \"{ready_after}\" }}\n"
            ),
        );
    }
    home
}

/// What `kubectl rollout status` calls done, and every pod available.
pub(super) fn is_rolled_out(deployment: &Value) -> bool {
    let count = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    count("/status/observedGeneration") >= count("/metadata/generation")
        && ["updatedReplicas", "replicas", "availableReplicas"]
            .iter()
            .all(|field| count(&format!("/status/{field}")) == wanted)
}

pub(super) fn is_gray(object: &Value) -> bool {
    object["metadata"]["labels"]["zadigx-release-type"] == "mse-gray"
}

/// Whether the webhook has changed a Deployment.
pub(super) fn is_marked(deployment: &Value) -> bool {
    deployment["spec"]["template"]["metadata"]["annotations"][agent::POLICY_MARK] == "yes"
        && deployment["spec"]["revisionHistoryLimit"] == 3
}

/// An object without what the server, controllers and the webhook write. Production keeps its uid: it is never made anew.
fn essence(mut object: Value) -> Value {
    let gray = is_gray(&object);
    if object["kind"] == "Deployment" && is_marked(&object) {
        object["spec"]["revisionHistoryLimit"] = 10.into();
    }
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    for field in ["resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"] {
        metadata.remove(field);
    }
    if gray {
        metadata.remove("uid");
    }
    for pointer in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = object.pointer_mut(pointer).and_then(Value::as_object_mut) else { continue };
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("deployment.kubernetes.io/revision");
            annotations.remove(agent::POLICY_MARK);
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object.as_object_mut().expect("an object").remove("status");
    object
}
