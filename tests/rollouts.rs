//! Rollouts that go wrong, on the rehearsal and on a real API server: what an operator reads for each signal.
//!
//! A row is a change of one service's manifest, and the words that the failed run says. The judging itself has a table of
//! its own beside the code; here the signals come from controllers and (simulated) nodes.

use std::fmt::Write as _;
use std::path::Path;

use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::agent::test_run;
use crate::support::stage::{make_namespace, real};
use crate::support::{Home, client, say, until};

const WORKFLOW: &str = r#"name: lane
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 6s
    with: { environment: real, tag: gray, images: { spring-b: "${{ inputs.image }}" } }
"#;

/// One signal.
struct Row {
    what: &'static str,
    image: &'static str,
    /// What stands instead of a text of the manifest.
    edit: (&'static str, &'static str),
    /// A quota that the namespace has meanwhile, of a kind that no plan sees; the rehearsal has none.
    quota: bool,
    says: &'static [&'static str],
}

const PLAIN: Row = Row { what: "", image: "spring-cloud-b:0.2", edit: ("", ""), quota: false, says: &[] };

fn table() -> Vec<Row> {
    vec![
        Row {
            what: "an image that is not there",
            image: "spring-cloud-b:missing",
            says: &["container spring-cloud-b: ImagePullBackOff", "hint: check that image"],
            ..PLAIN
        },
        Row {
            what: "a container that crashes",
            image: "spring-cloud-b:crash",
            says: &["container spring-cloud-b: ", "(exit code 1)", "last lines of spring-cloud-b-mse-gray"],
            ..PLAIN
        },
        Row {
            what: "a container that ends",
            image: "spring-cloud-b:exit3",
            says: &["(exit code 3)"],
            ..PLAIN
        },
        Row {
            what: "an init container that ends",
            edit: (
                "    spec:\n      containers:\n",
                "      annotations: { fakenode/init-exit-code: \"7\" }\n    spec:\n      initContainers: [{ name: prepare, image: \"prepare:1\" }]\n      containers:\n",
            ),
            says: &["container prepare: ", "(exit code 7)"],
            ..PLAIN
        },
        Row {
            what: "no node that fits",
            edit: ("      containers:\n", "      nodeSelector: { disk: ssd }\n      containers:\n"),
            says: &["cannot be scheduled: ", "hint: free or add a node"],
            ..PLAIN
        },
        Row {
            what: "a Deployment that is paused",
            edit: ("  strategy:\n", "  paused: true\n  strategy:\n"),
            says: &[
                "stopped while Deployment spring-cloud-b-mse-gray was rolled out: Deployment spring-cloud-b-mse-gray is paused",
            ],
            ..PLAIN
        },
        Row {
            what: "a pod that never gets ready",
            image: "spring-cloud-b:neverready",
            says: &["stopped while Deployment spring-cloud-b-mse-gray was rolled out", "runs, not ready yet"],
            ..PLAIN
        },
        Row {
            what: "a quota",
            quota: true,
            says: &["pods cannot be created: ", "must specify requests.cpu", "hint: raise the quota"],
            ..PLAIN
        },
    ]
}

async fn tell(kubeconfig: &Path, namespace: &str, real: bool) -> usize {
    let kube = client(kubeconfig).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(kube.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let quotas: Api<k8s_openapi::api::core::v1::ResourceQuota> = Api::namespaced(kube.clone(), namespace);
    let mut told = 0;
    for row in table() {
        if row.quota && !real {
            continue;
        }
        let home = home(kubeconfig, namespace);
        if told == 0 {
            let file = home.path("config/services/spring-b.yaml");
            graylane_tasks::cluster::create_all(&kube, namespace, &file).await.expect("created");
        }
        if row.quota {
            let quota = json!({ "metadata": { "name": "few" }, "spec": { "hard": { "requests.cpu": "1" } } });
            let quota = serde_json::from_value(quota).expect("a quota");
            quotas.create(&PostParams::default(), &quota).await.expect("created");
        }
        if !row.edit.0.is_empty() {
            home.edit("config/services/spring-b.yaml", row.edit.0, row.edit.1);
        }
        let image = format!("image={}", row.image);
        let ran = home.graylane(&["run", "workflows/lane.yaml", "-i", &image]).expect(1);
        for words in row.says {
            assert!(ran.stdout.contains(words), "{}: {words:?} is not in\n{}", row.what, ran.stdout);
        }
        home.graylane(&["run", "workflows/down.yaml"]).expect(0);
        if row.quota {
            quotas.delete("few", &DeleteParams::default()).await.expect("deleted");
        }
        told += 1;
    }
    told
}

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", WORKFLOW);
    let down = "name: down\ntasks:\n  offline: { type: mse-gray-offline, with: { environment: real, tag: gray, drain: 100ms } }\n";
    home.write("workflows/down.yaml", down);
    // What may pass is not waited for as long as at night.
    home.real(kubeconfig, namespace, "allow: { workflows: [lane, down] }\nrollout: { image: 1s, crash: 2s, restarts: 2, schedule: 1s, create: 1s }");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_of_a_rollout_is_told_on_the_rehearsal_and_on_a_real_api_server() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    let rehearsed = tell(&rehearsal.kubeconfig, "rollouts", false).await;
    let Some(kubeconfig) = real() else {
        say(&format!("rollout signals: {rehearsed} on the rehearsal, 0 on a real API server (skipped)"));
        return;
    };
    let real = tell(&kubeconfig, &format!("rollouts-{}", test_run()), true).await;
    say(&format!("rollout signals: {rehearsed} on the rehearsal, {real} on a real API server"));
}

/// From the moment in which a pod's status says that it cannot start, to the end of the task on disk: milliseconds. The test
/// says the status itself, as a node would, in the place of the node's.
async fn reaction(kubeconfig: &Path, namespace: &str) -> u128 {
    let kube = client(kubeconfig).await;
    make_namespace(&kube, namespace).await;
    let home = home(kubeconfig, namespace);
    let file = home.path("config/services/spring-b.yaml");
    graylane_tasks::cluster::create_all(&kube, namespace, &file).await.expect("created");
    home.edit("workflows/lane.yaml", "timeout: 6s", "timeout: 1m");
    let mut child = home
        .command(&["run", "workflows/lane.yaml", "-i", "image=spring-cloud-b:neverready"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let pods: Api<Pod> = Api::namespaced(kube, namespace);
    let gray = ListParams::default().labels("zadigx-release-type=mse-gray");
    let mut found = None;
    for _ in 0..400 {
        let all = pods.list(&gray).await.expect("listed");
        let runs =
            |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        found = all.items.into_iter().find(runs).and_then(|pod| pod.metadata.name);
        if found.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let pod = found.expect("a gray pod runs");
    // The watch has told what the node said last.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let status = json!({ "status": { "containerStatuses": [{ "name": "spring-cloud-b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "InvalidImageName", "message": "couldn't parse image name" }, "running": null } }] } });
    let clock = WallClock::default();
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
    let changed = clock.now();
    until("the run has ended", || child.try_wait().expect("asked").is_some());
    let shown = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).json();
    assert!(shown.to_string().contains("InvalidImageName"), "{shown}");
    let ended = shown["tasks"][0]["ended_at"].as_str().expect("ended");
    let ended: Timestamp = ended.parse().expect("a time");
    ended.since(changed).as_millis()
}

/// A figure, not a limit: machines differ. `GRAYLANE_TEST_REACTION_REPORT` names the report that `cargo xtask long` keeps.
#[tokio::test(flavor = "multi_thread")]
async fn the_reaction_to_a_status_change_is_measured() {
    let rounds = if std::env::var_os("GRAYLANE_TEST_REACTION_REPORT").is_some() { 9 } else { 1 };
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    let mut clusters = vec![("the rehearsal", rehearsal.kubeconfig.clone())];
    clusters.extend(real().map(|kubeconfig| ("a real API server", kubeconfig)));
    let mut lines = String::new();
    for (cluster, kubeconfig) in clusters {
        let mut times = Vec::new();
        for round in 0..rounds {
            times.push(reaction(&kubeconfig, &format!("reaction-{}-{round}", test_run())).await);
        }
        times.sort_unstable();
        let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
        say(&format!(
            "reaction to a pod's status on {cluster}: {middle} ms, the longest of {rounds}: {longest} ms"
        ));
        writeln!(lines, "| {cluster} | {rounds} | {middle} ms | {longest} ms |").expect("written");
    }
    let Some(report) = std::env::var_os("GRAYLANE_TEST_REACTION_REPORT") else { return };
    let text = format!(
        "# Reaction to a pod's status\n\nWritten by `cargo xtask long`: from a status that says that a pod cannot start to the failed task on disk, with the last\nlines of the log and the events read in between. The goal is 100 ms, by watch.\n\n| cluster | rounds | middle | longest |\n|---|---|---|---|\n{lines}"
    );
    std::fs::write(report, text).expect("written");
}
