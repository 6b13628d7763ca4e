//! What only an API server itself can say: stories told on the rehearsal, and then, word for word, on a real one.
//!
//! The real one is named by GRAYLANE_TEST_KUBECONFIG; with CI=true its absence is a failure.

use std::path::Path;

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::environment::label;
use crate::leases::lease_of_another;
use crate::support::stage::real;
use crate::support::{Home, client, tally, until};

/// An environment on some API server, and files that a test can change.
struct There {
    home: Home,
    client: kube::Client,
    namespace: String,
    is_real: bool,
}

impl There {
    async fn new(kubeconfig: &Path, namespace: &str, is_real: bool) -> There {
        let home = Home::new();
        home.real(
            kubeconfig,
            namespace,
            "service_options: { nacos: { gray: false } }\nallow: { workflows: [w] }",
        );
        let client = client(kubeconfig).await;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
        namespaces.create(&PostParams::default(), &made).await.expect("created");
        There { home, client, namespace: namespace.to_owned(), is_real }
    }

    /// The baseline, as the manifests are now.
    async fn furnish(&self) {
        for service in ["spring-a", "spring-b", "spring-c"] {
            let file = self.home.path(&format!("config/services/{service}.yaml"));
            graylane_tasks::cluster::create_all(&self.client, &self.namespace, &file).await.expect("created");
        }
        for _ in 0..600 {
            let up = |object: &Value| object["status"]["availableReplicas"] == 1;
            if self.all(DEPLOYMENTS, "").await.iter().all(up) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the baseline does not come up");
    }

    fn api(&self, (group, version, kind, plural): (&str, &str, &str, &str)) -> Api<DynamicObject> {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn all(&self, of: (&str, &str, &str, &str), selector: &str) -> Vec<Value> {
        let params = ListParams::default().labels(selector);
        let found = self.api(of).list(&params).await.expect("listed").items;
        found.iter().map(|object| serde_json::to_value(object).expect("json")).collect()
    }

    async fn get(&self, of: (&str, &str, &str, &str), name: &str) -> Value {
        serde_json::to_value(self.api(of).get(name).await.expect(name)).expect("json")
    }
}

const JOBS: (&str, &str, &str, &str) = ("batch", "v1", "Job", "jobs");
const PODS: (&str, &str, &str, &str) = ("", "v1", "Pod", "pods");
const DEPLOYMENTS: (&str, &str, &str, &str) = ("apps", "v1", "Deployment", "deployments");
const REPLICA_SETS: (&str, &str, &str, &str) = ("apps", "v1", "ReplicaSet", "replicasets");
const SERVICES: (&str, &str, &str, &str) = ("", "v1", "Service", "services");
const LEASES: (&str, &str, &str, &str) = ("coordination.k8s.io", "v1", "Lease", "leases");
const ENDPOINTS: (&str, &str, &str, &str) = ("", "v1", "Endpoints", "endpoints");

/// Tells a story on the rehearsal, and on a real API server where one is named.
async fn on_both(name: &str, story: impl AsyncFn(There)) {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    story(There::new(&rehearsal.kubeconfig, name, false).await).await;
    tally::told("stories", 1, 0);
    let Some(kubeconfig) = real() else { return };
    let namespace = format!("{name}-{}", std::process::id());
    story(There::new(&kubeconfig, &namespace, true).await).await;
    tally::told("stories", 0, 1);
}

fn checks(home: &Home, checks: &str) {
    let text = format!(
        "name: w\ntasks:\n  verify:\n    type: generic-verify\n    timeout: 3m\n    with:\n      environment: real\n      tag: gray\n      checks:\n{checks}"
    );
    home.write("workflows/w.yaml", &text);
}

/// A Job that ends well, one that ends badly, one whose image there is not, one that is late, and one that is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn job_checks_are_logged_judged_and_cleared_away() {
    on_both("jobs", async |there| {
        there.furnish().await;
        let run = || there.home.graylane(&["run", "workflows/w.yaml"]);
        checks(&there.home, "        - { name: smoke, job: { image: 'smoke:1', script: 'echo begun' } }\n");
        run().expect(0);
        let log = there.home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
        // The simulated node of the real server plays no script; what it logs instead is taken over just the same.
        let line = if there.is_real { "smoke: fakenode: " } else { "smoke: begun" };
        assert!(log.contains(line) && log.contains("smoke: sample 1: right: exit code 0"), "{log}");

        checks(&there.home, "        - { name: smoke, job: { image: 'smoke:exit3', deadline: 1m } }\n");
        let failed = run().expect(1).stdout;
        assert!(
            failed.contains("check failed: smoke: 0 of 1 were right") && failed.contains("exit code 3"),
            "{failed}"
        );
        checks(&there.home, "        - { name: smoke, job: { image: 'smoke:exit3', exit_codes: [3] } }\n");
        run().expect(0);

        checks(
            &there.home,
            "        - { name: smoke, on_no_data: pass, job: { image: 'smoke:missing', deadline: 2m } }\n",
        );
        run().expect(0);
        let view = there.home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).stdout;
        assert!(view.contains("missing"), "{view}");

        // No node has a thousand processors, so on a real server it waits; the rehearsal plays the script.
        let hangs = "image: 'smoke:1', script: \"echo begun\\nsleep 60\", cpu: '1000'";
        checks(&there.home, &format!("        - {{ name: late, job: {{ {hangs}, deadline: 4s }} }}\n"));
        let late = run().expect(1).stdout;
        assert!(late.contains("it did not end within 4.0s"), "{late}");
        assert_eq!(there.all(JOBS, "").await, Vec::<Value>::new(), "every Job was removed");

        checks(&there.home, &format!("        - {{ name: long, job: {{ {hangs} }} }}\n"));
        let mut child = there.home.command(&["run", "workflows/w.yaml"]).spawn().expect("started");
        let pod = waited_for(&there, "graylane.dev/check").await;
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        let volumes = pod["spec"]["volumes"].as_array().map_or(0, Vec::len);
        assert_eq!(volumes, 0, "no token is mounted, not by the server either: {pod}");
        assert_eq!(pod["metadata"]["labels"]["msePilotAutoEnable"], "off");
        for endpoints in there.all(ENDPOINTS, "").await {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            assert!(!endpoints.to_string().contains(name), "no Service sends requests there: {endpoints}");
        }
        there.home.graylane(&["cancel", "latest"]).expect(0);
        child.wait().expect("waited for");
        assert_eq!(there.all(JOBS, "").await, Vec::<Value>::new(), "removed on cancel");
    })
    .await;
}

/// The first pod that carries a label.
async fn waited_for(there: &There, label: &str) -> Value {
    for _ in 0..600 {
        if let Some(pod) = there.all(PODS, label).await.into_iter().next() {
            return pod;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no pod carries {label}");
}

/// Whose fields are whose is kept by the server: what a person changed is read off it, told, and taken back by the next deploy.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_changed_in_a_lane_is_read_off_the_servers_own_record() {
    on_both("edited", async |there| {
        there.furnish().await;
        there.home.write(
            "workflows/w.yaml",
            "name: w\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    timeout: 2m\n    with: { environment: real, tag: gray, images: { spring-c: \"c:2\" } }\n",
        );
        let run = || there.home.graylane(&["run", "workflows/w.yaml"]).expect(0).stdout;
        let edited = || {
            let lanes = there.home.graylane(&["lanes", "real", "-o", "json"]).expect(0).json();
            lanes[0]["services"][0]["edited"].clone()
        };
        run();
        assert_eq!(edited(), json!([]), "controllers edit nothing");
        let patch = json!([
            { "op": "replace", "path": "/spec/replicas", "value": 2 },
            { "op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": { "name": "DEBUG", "value": "1" } },
        ]);
        let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
        let params = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        let name = "spring-cloud-c-mse-gray";
        there.api(DEPLOYMENTS).patch(name, &params, &patch).await.expect("patched");
        let told = edited().to_string();
        for words in ["Deployment spring-cloud-c-mse-gray: spec.replicas", "env[DEBUG]", "by `kubectl-edit`"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        let plan = there.home.graylane(&["plan", "workflows/w.yaml"]).expect(0).stdout;
        assert!(plan.contains("was changed by hand (spec.replicas"), "{plan}");
        run();
        let live = there.get(DEPLOYMENTS, name).await;
        assert_eq!(live["spec"]["replicas"], 1);
        assert!(!live["spec"]["template"].to_string().contains("DEBUG"), "what was added is gone: {live}");
        assert_eq!(edited(), json!([]));
    })
    .await;
}

/// A baseline from before anybody knew of lanes is brought to the version label; and then a lane can be deployed over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_adopted() {
    on_both("adopted", async |there| {
        label(&there.home, false);
        there.furnish().await;
        label(&there.home, true);
        let adopt = || there.home.graylane(&["environment", "adopt", "spring-a", "-e", "real", "--yes"]);
        let before = there.get(DEPLOYMENTS, "spring-cloud-a").await;
        // Another Graylane writes that service: nothing begins.
        let held = lease_of_another("graylane-production-spring-cloud-a");
        there.api(LEASES).create(&PostParams::default(), &held).await.expect("created");
        let refused = adopt();
        let words = "production `spring-a` is held by graylane-elsewhere, since ";
        assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
        assert_eq!(there.get(DEPLOYMENTS, "spring-cloud-a").await["spec"], before["spec"]);
        let held = "graylane-production-spring-cloud-a";
        there.api(LEASES).delete(held, &DeleteParams::default()).await.expect("deleted");
        let adopted = adopt().expect(0).stdout;
        assert!(adopted.contains("nothing is left to be done"), "{adopted}");
        assert_eq!(there.all(LEASES, "").await, Vec::<Value>::new(), "its lease is given back");
        let after = there.get(DEPLOYMENTS, "spring-cloud-a").await;
        assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"], "made anew");
        assert_eq!(after["spec"]["selector"]["matchLabels"]["zadigx-release-version"], "original");
        assert_eq!(after["status"]["availableReplicas"], 1);
        let service = there.get(SERVICES, "spring-cloud-a-base").await;
        assert_eq!(service["spec"]["selector"]["zadigx-release-version"], "original");
        let sets = there.all(REPLICA_SETS, "app=spring-cloud-a").await;
        assert_eq!(sets.len(), 1, "the old ReplicaSet is gone: {sets:?}");
        // The garbage collector takes what belonged to it in its own time.
        let mut pods = Vec::new();
        for _ in 0..600 {
            pods = there.all(PODS, "app=spring-cloud-a").await;
            if pods.len() == 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(pods.len(), 1, "and so are its pods: {pods:?}");
        assert_eq!(pods[0]["metadata"]["labels"]["zadigx-release-version"], "original");
        there.home.write(
            "workflows/w.yaml",
            "name: w\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    timeout: 2m\n    with: { environment: real, tag: gray, images: { spring-a: \"a:2\" } }\n",
        );
        there.home.graylane(&["run", "workflows/w.yaml"]).expect(0);
        adopt().expect(0);
    })
    .await;
}
