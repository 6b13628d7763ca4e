//! Rollouts that go wrong, on the rehearsal and on a real API server: what an operator reads for each signal.
//!
//! A row is a change of one service's manifest, and the words that the failed run says. The judging itself has a table of
//! its own beside the code; here the signals come from controllers and (simulated) nodes.

use std::path::{Path, PathBuf};

use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

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
    /// A quota that the namespace has meanwhile; the rehearsal has none.
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
            says: &["pods cannot be created: ", "exceeded quota", "hint: raise the quota"],
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
            let quota = json!({ "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } } });
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
    let environment = format!(
        "name: real\ncluster: {{ kubeconfig: {} }}\nnamespace: {namespace}\ngateway: {{ kind: mse, address: \"http://127.0.0.1:1\" }}\nservices: ../services\nallow: {{ workflows: [lane, down] }}\nrollout: {{ image: 1s, crash: 2s, restarts: 2, schedule: 1s, create: 1s }}\n",
        kubeconfig.display()
    );
    home.write("config/environments/real.yaml", &environment);
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signal_of_a_rollout_is_told_on_the_rehearsal_and_on_a_real_api_server() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    let rehearsed = tell(&rehearsal.kubeconfig, "rollouts", false).await;
    let Some(kubeconfig) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) else {
        say(&format!("rollout signals: {rehearsed} on the rehearsal, 0 on a real API server (skipped)"));
        return;
    };
    let real = tell(&kubeconfig, &format!("rollouts-{}", std::process::id()), true).await;
    say(&format!("rollout signals: {rehearsed} on the rehearsal, {real} on a real API server"));
}
