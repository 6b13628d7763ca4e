//! Every signal of a rollout, a row each: what is changed in a manifest, what a node says, and what an operator reads then.
//!
//! Where the simulated nodes of both clusters play a signal, they do. The others are said by the test in the place of a
//! node: such a pod asks for a scheduler that nobody is, so that no node takes it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use graylane_engine::clock::{Clock as _, WallClock};
use graylane_rehearsal::{Delays, Rehearsal, RehearsalOptions};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ResourceQuota};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::home;
use crate::support::{Home, PATIENCE, client};

/// What the test does while a rollout is under way.
#[derive(Clone)]
pub(super) enum Step {
    /// The newest gray pod says this of itself.
    Status(Value),
    /// This is said of it.
    Event(&'static str, &'static str),
    /// The run has said this.
    Until(&'static str),
    /// The pod is removed.
    Gone,
    /// Somebody resumes the Deployment.
    Resume,
}

/// One signal.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) what: &'static str,
    image: &'static str,
    timeout: &'static str,
    /// What stands instead of texts of the manifest.
    edits: Vec<(&'static str, &'static str)>,
    /// A quota that the namespace has meanwhile, of a kind that no plan sees.
    quota: bool,
    steps: Vec<Step>,
    /// How the run ends.
    code: i32,
    says: Vec<&'static str>,
    /// What it must not say.
    hides: Vec<&'static str>,
}

fn row(what: &'static str) -> Row {
    Row {
        what,
        image: "spring-cloud-b:0.2",
        timeout: "40s",
        edits: Vec::new(),
        quota: false,
        steps: Vec::new(),
        code: 1,
        says: Vec::new(),
        hides: Vec::new(),
    }
}

const SPEC: &str = "    spec:\n      containers:\n";
/// The sentence of a quota that wants what pods do not say.
const QUOTA: &str = "failed quota: few: must specify requests.cpu";

/// A signal that the test says itself.
fn played(what: &'static str, steps: Vec<Step>, says: Vec<&'static str>) -> Row {
    let edit = (SPEC, "    spec:\n      schedulerName: nobody\n      containers:\n");
    Row { edits: vec![edit], steps, says, ..row(what) }
}

/// What a container waits for.
fn waits(reason: &'static str, message: &'static str, says: Vec<&'static str>) -> Row {
    let state = json!({ "waiting": { "reason": reason, "message": message } });
    let mut row = played(reason, vec![Step::Status(container(state, 0))], says);
    row.says.push(message);
    row
}

fn container(state: Value, restarts: u32) -> Value {
    let last = if restarts == 0 {
        json!({})
    } else {
        json!({ "terminated": { "exitCode": 137, "reason": "Error" } })
    };
    json!({ "containerStatuses": [{
        "name": "spring-cloud-b", "image": "spring-cloud-b:0.2", "imageID": "", "ready": false, "restartCount": restarts,
        "state": state, "lastState": last,
    }] })
}

fn runs(restarts: u32) -> Step {
    Step::Status(container(json!({ "running": {} }), restarts))
}

fn is_ready() -> Step {
    let mut status = container(json!({ "running": {} }), 0);
    status["containerStatuses"][0]["ready"] = true.into();
    status["phase"] = "Running".into();
    status["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
    Step::Status(status)
}

/// A pod that is taken away is nobody's failure: another one is made, and gets ready.
fn taken(reason: &'static str, words: &'static str, first: Vec<Step>) -> Row {
    let steps = first.into_iter().chain([Step::Until(words), is_ready()]).collect();
    Row { code: 0, ..played(reason, steps, vec![words]) }
}

fn failed(reason: &str) -> Step {
    Step::Status(json!({ "phase": "Failed", "reason": reason }))
}

/// The signals of images, containers, places and Deployments that the simulated nodes and the controllers play.
fn from_the_cluster() -> Vec<Row> {
    let prepared = |rest: &'static str| vec![(SPEC, rest)];
    vec![
        Row {
            image: "spring-cloud-b:missing",
            says: vec![
                "container spring-cloud-b: ImagePullBackOff: ",
                ":missing: not found",
                "hint: check that image",
            ],
            ..row("an image that is not there")
        },
        Row {
            edits: prepared(
                "    spec:\n      initContainers: [{ name: prepare, image: \"prepare:missing\" }]\n      containers:\n",
            ),
            says: vec!["container prepare: ImagePullBackOff: ", "hint: check that image prepare:missing"],
            ..row("an image of an init container that is not there")
        },
        Row {
            image: "spring-cloud-b:crash",
            edits: vec![(
                "  template:\n    metadata:\n",
                "  template:\n    metadata:\n      annotations: { fakenode/log: \"no port 20002 for me\" }\n",
            )],
            says: vec![
                "container spring-cloud-b: ",
                "(exit code 1)",
                "last lines of spring-cloud-b-mse-gray",
                "/spring-cloud-b:",
                "  no port 20002 for me",
            ],
            ..row("a container that crashes")
        },
        Row { image: "spring-cloud-b:exit3", says: vec!["(exit code 3)"], ..row("a container that ends") },
        Row {
            image: "spring-cloud-b:exit137",
            says: vec!["container spring-cloud-b: out of memory 2 times", "hint: raise its memory limit"],
            ..row("a container that is out of memory")
        },
        Row {
            edits: prepared(concat!(
                "      annotations: { fakenode/init-exit-code: \"7\", fakenode/log.prepare: no schema yet, fakenode/log.spring-cloud-b: another }\n",
                "    spec:\n      initContainers: [{ name: prepare, image: \"prepare:1\" }]\n      containers:\n",
            )),
            says: vec!["container prepare: ", "(exit code 7)", "/prepare:", "  no schema yet"],
            hides: vec!["  another"],
            ..row("an init container that ends")
        },
        Row {
            edits: vec![("      containers:\n", "      nodeSelector: { disk: ssd }\n      containers:\n")],
            says: vec!["cannot be scheduled: ", "hint: free or add a node"],
            ..row("no node that fits")
        },
        Row {
            image: "spring-cloud-b:neverready",
            timeout: "15s",
            says: vec![
                "stopped while Deployment spring-cloud-b-mse-gray was rolled out",
                "runs, not ready yet",
            ],
            ..row("a pod that never gets ready")
        },
        Row {
            image: "spring-cloud-b:neverready",
            edits: vec![("  strategy:\n", "  progressDeadlineSeconds: 2\n  strategy:\n")],
            says: vec!["Deployment spring-cloud-b-mse-gray: ReplicaSet ", "has timed out progressing"],
            ..row("a deadline that is missed")
        },
        Row {
            quota: true,
            says: vec!["pods cannot be created: ", QUOTA, "hint: raise the quota"],
            ..row("a quota")
        },
        Row {
            timeout: "15s",
            edits: vec![("  strategy:\n", "  paused: true\n  strategy:\n")],
            says: vec![
                "stopped while Deployment spring-cloud-b-mse-gray was rolled out: Deployment spring-cloud-b-mse-gray is paused",
            ],
            ..row("a Deployment that is paused, and stays so")
        },
        Row {
            edits: vec![("  strategy:\n", "  paused: true\n  strategy:\n")],
            steps: vec![Step::Until("Deployment spring-cloud-b-mse-gray is paused"), Step::Resume],
            code: 0,
            says: vec!["`kubectl rollout resume` lets it go on"],
            ..row("a Deployment that is paused, and resumed")
        },
    ]
}

/// The signals that no simulated node plays.
fn from_the_test() -> Vec<Row> {
    let here = "container spring-cloud-b: ";
    let creating = || Step::Status(container(json!({ "waiting": { "reason": "ContainerCreating" } }), 0));
    let start_error =
        json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "exec: no such file" } });
    let gated = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "held" }] });
    let missed = "Liveness probe failed: connection refused";
    let mut init =
        container(json!({ "waiting": { "reason": "CreateContainerConfigError", "message": "no key" } }), 0);
    init["initContainerStatuses"] = init["containerStatuses"].take();
    init["initContainerStatuses"][0]["name"] = "prepare".into();
    let volume = |reason, words| {
        let says = vec!["a volume cannot be mounted: ", words, "hint: mend the volume"];
        played(reason, vec![creating(), Step::Event(reason, words)], says)
    };
    vec![
        waits("InvalidImageName", "couldn't parse image name", vec![here, "hint: correct the image"]),
        waits(
            "ErrImageNeverPull",
            "not present with pull policy of Never",
            vec![here, "hint: correct the image"],
        ),
        waits("ImagePullBackOff", "401 Unauthorized", vec![here, "hint: check that image"]),
        waits("ImageInspectError", "disk", vec![here, "hint: check that image"]),
        waits("RegistryUnavailable", "503", vec![here, "hint: check that image"]),
        waits("SignatureValidationFailed", "not signed", vec![here, "hint: check that image"]),
        waits(
            "CreateContainerConfigError",
            "secret \"s\" not found",
            vec![here, "hint: a ConfigMap, a Secret"],
        ),
        waits("CreateContainerError", "name is taken", vec![here]),
        waits("RunContainerError", "exec: permission denied", vec![here]),
        waits("PostStartHookError", "exit 1", vec![here]),
        played(
            "StartError",
            vec![Step::Status(container(start_error, 0))],
            vec!["container spring-cloud-b: StartError: exec: no such file", "hint: see its command"],
        ),
        Row {
            edits: vec![(
                SPEC,
                "    spec:\n      schedulerName: nobody\n      initContainers: [{ name: prepare, image: \"prepare:1\" }]\n      containers:\n",
            )],
            ..played(
                "CreateContainerConfigError of an init container",
                vec![Step::Status(init)],
                vec!["container prepare: CreateContainerConfigError: no key"],
            )
        },
        played("SchedulingGated", vec![Step::Status(gated)], vec!["is held back by a scheduling gate: held"]),
        volume("FailedMount", "MountVolume.SetUp failed"),
        volume("FailedAttachVolume", "Multi-Attach error"),
        played(
            "liveness",
            vec![runs(0), Step::Event("Unhealthy", missed), Step::Until(missed), runs(1), runs(2)],
            vec!["restarted 2 times (exit code 137) (Liveness probe failed: connection refused)"],
        ),
        Row {
            timeout: "15s",
            ..played(
                "readiness",
                vec![runs(0), Step::Event("Unhealthy", "Readiness probe failed: HTTP 503")],
                vec!["stopped while Deployment", "runs, not ready yet (Readiness probe failed: HTTP 503)"],
            )
        },
        taken("Evicted", "was taken away (Evicted): another one is made", vec![failed("Evicted")]),
        taken("Preempting", "was taken away (Preempting): another one is made", vec![failed("Preempting")]),
        {
            // The control plane removes a pod whose node is gone.
            let words = "was taken away (NodeLost): another one is made";
            let lost = Step::Status(json!({ "reason": "NodeLost" }));
            taken("NodeLost", words, vec![lost, Step::Until(words), Step::Gone])
        },
        Row {
            code: 0,
            ..played(
                "restarts of long ago",
                vec![runs(5), Step::Until("runs, not ready yet"), is_ready()],
                vec![],
            )
        },
    ]
}

pub(super) fn table() -> Vec<Row> {
    [from_the_cluster(), from_the_test()].concat()
}

/// A rehearsal in this process, with its API over HTTP; what a client cannot do is done to it directly.
pub(super) async fn rehearsed(home: &Home, name: &str) -> (Rehearsal, PathBuf) {
    let options = RehearsalOptions {
        delays: Delays::fast(),
        api_listen: Some(([127, 0, 0, 1], 0).into()),
        ..RehearsalOptions::default()
    };
    let rehearsal = Rehearsal::start(options).await.expect("started");
    let kubeconfig = home.path(name);
    let address = rehearsal.api_addr().expect("served");
    std::fs::write(&kubeconfig, graylane_rehearsal::kubeconfig(address)).expect("written");
    (rehearsal, kubeconfig)
}

/// Tells a row in a namespace of its own; the rehearsal's quota is a cluster of its own.
pub(super) async fn tell(row: &Row, kubeconfig: &Path, namespace: &str, real: bool) {
    let stage = Home::new();
    if row.quota && !real {
        let (rehearsal, kubeconfig) = rehearsed(&stage, "hungry").await;
        in_namespace(row, &kubeconfig, namespace, Some(&rehearsal)).await;
        rehearsal.shutdown().await;
    } else {
        in_namespace(row, kubeconfig, namespace, None).await;
    }
}

async fn in_namespace(row: &Row, kubeconfig: &Path, namespace: &str, hungry: Option<&Rehearsal>) {
    let kube = client(kubeconfig).await;
    let namespaces: Api<Namespace> = Api::all(kube.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let home = home(kubeconfig, namespace);
    home.edit("workflows/lane.yaml", "timeout: 6s", &format!("timeout: {}", row.timeout));
    let file = "config/services/spring-b.yaml";
    graylane_tasks::cluster::create_all(&kube, namespace, &home.path(file)).await.expect("created");
    let play = Play { row, kube, namespace, said: home.path("said") };
    // From then on the namespace's account may have pods, too.
    play.pod("msePilotCreateAppName=spring-cloud-b").await;
    if let Some(rehearsal) = hungry {
        rehearsal.cluster().deny_pods(Some(QUOTA));
    } else if row.quota {
        let quotas: Api<ResourceQuota> = Api::namespaced(play.kube.clone(), namespace);
        let quota = json!({ "metadata": { "name": "few" }, "spec": { "hard": { "requests.cpu": "1" } } });
        let quota = serde_json::from_value(quota).expect("a quota");
        quotas.create(&PostParams::default(), &quota).await.expect("created");
    }
    for (from, to) in &row.edits {
        home.edit(file, from, to);
    }
    let said = std::fs::File::create(&play.said).expect("made");
    let mut child = home
        .command(&["run", "workflows/lane.yaml", "-i", &format!("image={}", row.image)])
        .stdout(Stdio::from(said.try_clone().expect("another")))
        .stderr(Stdio::from(said))
        .spawn()
        .expect("started");
    let code = play.to_the_end(&mut child).await;
    let said = play.said();
    assert_eq!(code, Some(row.code), "{}: {said}", row.what);
    for words in &row.says {
        assert!(said.contains(words), "{}: {words:?} is not in\n{said}", row.what);
    }
    for words in &row.hides {
        assert!(!said.contains(words), "{}: {words:?} is in\n{said}", row.what);
    }
    namespaces.delete(namespace, &DeleteParams::background()).await.expect("deleted");
}

/// A row that is being told.
struct Play<'p> {
    row: &'p Row,
    kube: kube::Client,
    namespace: &'p str,
    said: PathBuf,
}

const GRAY: &str = "zadigx-release-type=mse-gray";

impl Play<'_> {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("readable")
    }

    /// Takes the steps, and waits for the run's exit code.
    async fn to_the_end(&self, child: &mut Child) -> Option<i32> {
        for step in &self.row.steps {
            self.take(step).await;
        }
        let mut code = None;
        self.until("the run has ended", || {
            code = child.try_wait().expect("asked");
            code.is_some()
        })
        .await;
        code.and_then(|code| code.code())
    }

    async fn take(&self, step: &Step) {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), self.namespace);
        match step {
            Step::Status(status) => {
                let (name, _) = self.pod(GRAY).await;
                let status = Patch::Merge(json!({ "status": status }));
                pods.patch_status(&name, &PatchParams::default(), &status).await.expect("patched");
            }
            Step::Event(reason, message) => {
                let (name, uid) = self.pod(GRAY).await;
                let now = WallClock::default().now().to_string();
                let event = json!({
                    "metadata": { "name": format!("{name}.{}", reason.to_lowercase()), "namespace": self.namespace },
                    "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": self.namespace, "name": name, "uid": uid },
                    "type": "Warning", "reason": reason, "message": message, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
                });
                let events: Api<Event> = Api::namespaced(self.kube.clone(), self.namespace);
                let event = serde_json::from_value(event).expect("an event");
                events.create(&PostParams::default(), &event).await.expect("created");
            }
            Step::Until(words) => self.until(words, || self.said().contains(words)).await,
            Step::Gone => {
                let (name, _) = self.pod(GRAY).await;
                pods.delete(&name, &DeleteParams::default().grace_period(0)).await.expect("deleted");
            }
            Step::Resume => {
                let deployments: Api<Deployment> = Api::namespaced(self.kube.clone(), self.namespace);
                let resumed = Patch::Merge(json!({ "spec": { "paused": false } }));
                let name = "spring-cloud-b-mse-gray";
                deployments.patch(name, &PatchParams::default(), &resumed).await.expect("resumed");
            }
        }
    }

    /// Name and uid of a pod with these labels that is not over.
    async fn pod(&self, labels: &str) -> (String, String) {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), self.namespace);
        for _ in 0..PATIENCE.as_millis() / 50 {
            let all = pods.list(&ListParams::default().labels(labels)).await.expect("listed");
            let over =
                |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
            let found =
                all.items.into_iter().find(|pod| !over(pod) && pod.metadata.deletion_timestamp.is_none());
            if let Some(pod) = found {
                return (pod.metadata.name.expect("named"), pod.metadata.uid.expect("stored"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}: no pod has {labels}\n{}", self.row.what, self.said());
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..PATIENCE.as_millis() / 50 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}: gave up waiting until {what}\n{}", self.row.what, self.said());
    }
}
