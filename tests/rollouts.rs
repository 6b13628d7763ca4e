//! Rollouts that go wrong, on the rehearsal and on a real API server: what an operator reads for each signal.
//!
//! `rollouts/signals.rs` has the rows. The judging itself has a table of its own beside the code; here the signals come from
//! controllers, from (simulated) nodes, and, where these play none, from the test in the place of a node.

mod signals;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use graylane_engine::clock::{Clock as _, Timestamp, WallClock};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::agent::test_run;
use crate::support::stage::{make_namespace, real};
use crate::support::{Home, client, say, tally, until};

const WORKFLOW: &str = r#"name: lane
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 6s
    with: { environment: real, tag: gray, images: { spring-b: "${{ inputs.image }}" } }
"#;

/// Rows of a cluster that are told at once: each waits most of its time.
const SIDE_BY_SIDE: usize = 6;

/// Tells every row in a namespace of its own; gives their number.
async fn tell(kubeconfig: &Path, prefix: String, real: bool) -> usize {
    let turns = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut told = JoinSet::new();
    for (number, row) in signals::table().into_iter().enumerate() {
        let (turns, kubeconfig) = (Arc::clone(&turns), kubeconfig.to_owned());
        let namespace = format!("{prefix}-{number}");
        told.spawn(async move {
            let _turn = turns.acquire().await.expect("open");
            signals::tell(&row, &kubeconfig, &namespace, real).await;
        });
    }
    let (mut good, mut bad) = (0, 0);
    while let Some(ended) = told.join_next().await {
        *(if ended.is_ok() { &mut good } else { &mut bad }) += 1;
    }
    assert_eq!(bad, 0, "rows that failed, of {}", good + bad);
    good
}

const RELEASE: &str = r#"name: promote
tasks:
  promote:
    type: prod-deploy
    timeout: 1m
    with: { environment: real, images: { spring-b: "spring-cloud-b:neverready" } }
"#;

/// Production that misses its own deadline is rolled back, and is up: the controller still says then that a deadline was
/// missed, of the release that is gone.
async fn missed(kubeconfig: &Path, namespace: &str) {
    let kube = client(kubeconfig).await;
    make_namespace(&kube, namespace).await;
    let home = home(kubeconfig, namespace);
    home.edit("config/environments/real.yaml", "[lane, down]", "[promote]");
    home.write("workflows/promote.yaml", RELEASE);
    let file = "config/services/spring-b.yaml";
    home.edit(file, "  strategy:\n", "  progressDeadlineSeconds: 2\n  strategy:\n");
    graylane_tasks::cluster::create_all(&kube, namespace, &home.path(file)).await.expect("created");
    let deployments: Api<Deployment> = Api::namespaced(kube.clone(), namespace);
    let up = |found: &Deployment| {
        found
            .status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(1) && status.replicas == Some(1))
    };
    let mut before = None;
    for _ in 0..400 {
        before = Some(deployments.get("spring-cloud-b").await.expect("there")).filter(up);
        if before.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let image = |found: &Deployment| {
        let spec = found.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        spec.and_then(|spec| spec.containers.first()).and_then(|container| container.image.clone())
    };
    let before = before.expect("production is up");
    let ran = home.graylane(&["run", "workflows/promote.yaml"]).expect(1);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("has timed out progressing"), "{said}");
    assert!(said.contains("Deployment spring-cloud-b was rolled back to "), "{said}");
    assert!(!said.contains("is not up"), "{said}");
    let after = deployments.get("spring-cloud-b").await.expect("there");
    assert!(up(&after) && image(&after) == image(&before), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn production_that_missed_its_deadline_is_rolled_back_and_up_on_both_clusters() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    missed(&rehearsal.kubeconfig, "missed").await;
    let Some(kubeconfig) = real() else {
        tally::told("stories", 1, 0);
        return;
    };
    missed(&kubeconfig, &format!("missed-{}", test_run())).await;
    tally::told("stories", 1, 1);
}

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", WORKFLOW);
    let down = "name: down\ntasks:\n  offline: { type: mse-gray-offline, with: { environment: real, tag: gray, drain: 100ms } }\n";
    home.write("workflows/down.yaml", down);
    // What may pass is not waited for as long as at night.
    home.real(kubeconfig, namespace, "allow: { workflows: [lane, down] }\nrollout: { image: 1s, config: 1s, container: 1s, crash: 2s, restarts: 2, schedule: 1s, create: 1s }");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_of_a_rollout_is_told_on_the_rehearsal_and_on_a_real_api_server() {
    let stage = Home::new();
    let (rehearsal, kubeconfig) = signals::rehearsed(&stage, "kubeconfig").await;
    let here = tell(&kubeconfig, "rollouts".into(), false);
    let there = async {
        let Some(kubeconfig) = real() else { return 0 };
        tell(&kubeconfig, format!("rollouts-{}", test_run()), true).await
    };
    let (here, there) = tokio::join!(here, there);
    rehearsal.shutdown().await;
    tally::told("rollout signals", here, there);
}

/// From the moment in which somebody begins to write that a pod cannot start into its status, to the end of the task on disk:
/// milliseconds. The test says the status itself, as a node would, in the place of the node's.
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
    // Watches may tell it before the answer is here: the time of the write itself counts too.
    let changed = clock.now();
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
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
            "reaction to a pod's status on {cluster}: {middle} ms in the median, the longest of {rounds}: {longest} ms"
        ));
        writeln!(lines, "| {cluster} | {rounds} | {middle} ms | {longest} ms |").expect("written");
    }
    let Some(report) = std::env::var_os("GRAYLANE_TEST_REACTION_REPORT") else { return };
    let text = format!(
        "# Reaction to a pod's status\n\nWritten by `cargo xtask long`: from the moment in which a node begins to write that a pod cannot start, to the failed task on disk.\nIn between are the API server's write, the watch, the verdict, what is asked of the pod for the message, a look at what the failed\ndeploy leaves, and the lease that is let go. The goal is 100 ms, by watch.\n\n| cluster | rounds | median | longest |\n|---|---|---|---|\n{lines}"
    );
    std::fs::write(report, text).expect("written");
}
