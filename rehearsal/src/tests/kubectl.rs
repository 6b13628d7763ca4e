//! kubectl, unchanged, on the rehearsal: what an operator types, and what stands on the screen.
//!
//! GRAYLANE_TEST_KUBECTL names the programs (several with `:` between); `kubectl` on the path is taken otherwise. With
//! CI=true it is a failure that there is none; elsewhere it is said.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use super::support::*;
use crate::{Rehearsal, kubeconfig, serve};

/// A kubectl and the cluster that it talks to.
struct Kubectl {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Kubectl {
    fn command(&self, line: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, line: &str) -> Output {
        let run = tokio::time::timeout(Duration::from_secs(60), self.command(line).output());
        run.await.unwrap_or_else(|_| panic!("kubectl {line}: no end")).unwrap()
    }

    /// What a command prints; it must succeed.
    async fn says(&self, line: &str) -> String {
        let output = self.run(line).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {line}\n{out}{err}");
        out.into_owned()
    }

    /// The complaint of a command that must fail.
    async fn complains(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(!output.status.success(), "kubectl {line} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn write(&self, name: &str, manifest: &Value) {
        std::fs::write(self.folder.path().join(name), manifest.to_string()).unwrap();
    }
}

fn programs() -> Vec<PathBuf> {
    let named = std::env::var_os("GRAYLANE_TEST_KUBECTL");
    if let Some(named) = &named {
        return std::env::split_paths(named).collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("kubectl"))
        .filter(|file| file.is_file())
        .take(1)
        .collect()
}

async fn cluster_for(program: &Path) -> (Rehearsal, Kubectl, CancellationToken) {
    let rehearsal = fast().await;
    assert!(rehearsal.seed(SPACE, &enrolled(), baseline(), "platform").await.unwrap());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = kubeconfig(listener.local_addr().unwrap())
        .replace("namespace: default", &format!("namespace: {SPACE}"));
    std::fs::write(folder.path().join("kubeconfig"), config).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, rehearsal.cluster().api(), stop.clone()));
    (rehearsal, Kubectl { program: program.to_owned(), folder }, stop)
}

/// Lines with their columns parted by one space, so that widths do not matter.
fn rows(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_looks_changes_and_removes_with_kubectl() {
    let programs = programs();
    let _ = writeln!(
        std::io::stderr(),
        "kubectl stories: {} (GRAYLANE_TEST_KUBECTL or the path)",
        programs.len()
    );
    assert!(!programs.is_empty() || std::env::var("CI").as_deref() != Ok("true"), "CI has no kubectl");
    for program in programs {
        let (rehearsal, kubectl, stop) = cluster_for(&program).await;
        looks(&kubectl).await;
        pages(&kubectl, &rehearsal).await;
        applies(&kubectl).await;
        watches(&kubectl).await;
        removes(&kubectl).await;
        stop.cancel();
        rehearsal.shutdown().await;
    }
}

async fn looks(kubectl: &Kubectl) {
    let said = kubectl.says("rollout status deployment/spring-cloud-a --timeout=30s").await;
    assert!(said.contains("successfully rolled out"), "{said}");
    let deployments = rows(&kubectl.says("get deployments").await);
    assert_eq!(deployments[0], "NAME READY UP-TO-DATE AVAILABLE AGE");
    assert!(deployments[2].starts_with("spring-cloud-a 1/1 1 1 "), "{deployments:?}");
    let pods = rows(&kubectl.says("get pods -l app=spring-cloud-a -o wide").await);
    assert!(pods[0].starts_with("NAME READY STATUS RESTARTS AGE IP NODE"), "{pods:?}");
    assert!(pods[1].contains(" 1/1 Running 0 ") && pods[1].contains(" 10.244."), "{pods:?}");
    assert_eq!(pods.len(), 2, "a selector leaves the others out: {pods:?}");
    let services = rows(&kubectl.says("get services").await);
    assert_eq!(services[0], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE");
    assert!(
        services[1].starts_with("spring-cloud-a-base ClusterIP 10.")
            && services[1].contains("<none> 20001/TCP")
    );
    let ingresses = rows(&kubectl.says("get ingress").await);
    assert_eq!(ingresses[0], "NAME CLASS HOSTS ADDRESS PORTS AGE");
    assert!(ingresses[1].starts_with("spring-cloud-a mse example.com 80 "), "{ingresses:?}");
    let all = kubectl.says("get all").await;
    for part in [
        "pod/spring-cloud-b-",
        "service/spring-cloud-a-base",
        "deployment.apps/spring-cloud-c",
        "replicaset.apps/",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    let yaml = kubectl.says("get deployment spring-cloud-a -o yaml").await;
    assert!(yaml.starts_with("apiVersion: apps/v1\n") && yaml.contains("kind: Deployment"), "{yaml}");
    let described = kubectl.says("describe deployment spring-cloud-a").await;
    for part in ["1 desired | 1 updated | 1 total | 1 available", "NewReplicaSet:", "ScalingReplicaSet"] {
        assert!(described.contains(part), "{part} is not in\n{described}");
    }
    let described = kubectl.says("describe pods -l app=spring-cloud-a").await;
    assert!(described.contains("Controlled By:") && described.contains("Ready:"), "{described}");
    let logs = kubectl.says("logs deployment/spring-cloud-a").await;
    assert!(logs.contains("spring-cloud-a started"), "{logs}");
    let nothing = kubectl.complains("get deployment no-such").await;
    assert!(
        nothing.contains("Error from server (NotFound): deployments.apps \"no-such\" not found"),
        "{nothing}"
    );
}

/// A list in pages is asked for page by page, and put together again; one that was begun too long ago cannot go on.
async fn pages(kubectl: &Kubectl, rehearsal: &Rehearsal) {
    let cluster = rehearsal.cluster();
    for (size, requests) in [(2, 2), (1, 4), (3, 2), (500, 1)] {
        let before = cluster.count("list", "pods");
        let paged = rows(&kubectl.says(&format!("get pods --chunk-size={size}")).await);
        assert_eq!(paged.len(), 5, "a head and four pods: {paged:?}");
        assert_eq!(cluster.count("list", "pods") - before, requests, "pages of {size}");
    }
    let first = |next: &str| format!("get --raw /api/v1/namespaces/{SPACE}/pods?limit=3{next}");
    let page: Value = serde_json::from_str(&kubectl.says(&first("")).await).unwrap();
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|pod| pod["metadata"]["name"].to_string()).collect()
    };
    assert_eq!((names(&page).len(), &page["metadata"]["remainingItemCount"]), (3, &json!(1)));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let next = format!("&continue={token}");
    let rest: Value = serde_json::from_str(&kubectl.says(&first(&next)).await).unwrap();
    assert_eq!(names(&rest).len(), 1);
    assert!(!names(&page).contains(&names(&rest)[0]), "no pod is told twice");
    assert_eq!(rest["metadata"]["continue"], Value::Null, "that was the last page");
    // Something is written, and what was before is forgotten.
    kubectl.says("annotate deployment spring-cloud-a seen=yes").await;
    cluster.compact();
    let gone = kubectl.complains(&first(&next)).await;
    assert!(gone.contains("The provided continue parameter is too old"), "{gone}");
}

async fn applies(kubectl: &Kubectl) {
    let held = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "held", "finalizers": ["example.com/hold"] }, "data": { "a": value },
        })
    };
    kubectl.write("held.json", &held("1"));
    assert_eq!(kubectl.says("apply --server-side -f held.json").await, "configmap/held serverside-applied\n");
    kubectl.write("held.json", &held("2"));
    let refused = kubectl.complains("apply --server-side -f held.json --field-manager=somebody").await;
    assert!(refused.contains("conflict with \"kubectl\": .data.a"), "{refused}");
    kubectl.says("apply --server-side -f held.json --field-manager=somebody --force-conflicts").await;
    // A client-side apply, with its annotation, beside it.
    kubectl.write(
        "plain.json",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}, "data": {"a": "1"}}),
    );
    assert_eq!(kubectl.says("apply -f plain.json").await, "configmap/plain created\n");
    assert_eq!(kubectl.says("apply -f plain.json").await, "configmap/plain unchanged\n");
    let maps = rows(&kubectl.says("get configmaps held plain").await);
    assert_eq!(maps[0], "NAME DATA AGE");
    assert!(maps[1].starts_with("held 1 ") && maps[2].starts_with("plain 1 "), "{maps:?}");
    kubectl.says("scale deployment/spring-cloud-b --replicas=2").await;
    kubectl.says("rollout status deployment/spring-cloud-b --timeout=30s").await;
    let scaled = rows(&kubectl.says("get deployment spring-cloud-b").await);
    assert!(scaled[1].starts_with("spring-cloud-b 2/2 2 2 "), "{scaled:?}");
}

/// A watch prints what is there, then what changes, as rows.
async fn watches(kubectl: &Kubectl) {
    let mut child = kubectl
        .command("get configmaps -w --output-watch-events -l watched=yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = String::new();
    kubectl.write("watched.json", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched", "labels": {"watched": "yes"}}}));
    kubectl.says("apply -f watched.json").await;
    for (change, expected) in [
        (None, "ADDED watched 0 "),
        (Some("patch configmap watched -p {\"data\":{\"a\":\"1\"}}"), "MODIFIED watched 1 "),
        (Some("delete configmap watched"), "DELETED watched 1 "),
    ] {
        if let Some(change) = change {
            kubectl.says(change).await;
        }
        let told = async {
            let mut buffer = [0; 4096];
            while !rows(&seen).iter().any(|row| row.starts_with(expected)) {
                let read = out.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the watch ended: {seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .unwrap_or_else(|_| panic!("{expected} is not in\n{seen}"));
    }
    child.kill().await.unwrap();
}

async fn removes(kubectl: &Kubectl) {
    // A finalizer keeps an object until it is taken away.
    kubectl.says("delete configmap held --wait=false").await;
    let dying = kubectl.says("get configmap held -o jsonpath={.metadata.deletionTimestamp}").await;
    assert!(dying.starts_with("20"), "{dying}");
    kubectl
        .says(r#"patch configmap held --type=json -p [{"op":"remove","path":"/metadata/finalizers"}]"#)
        .await;
    assert!(kubectl.complains("get configmap held").await.contains("NotFound"));
    // A deletion waits until what depends on it is gone.
    let said = kubectl.says("delete deployment spring-cloud-b --cascade=foreground --timeout=30s").await;
    assert!(said.contains("deployment.apps \"spring-cloud-b\" deleted"), "{said}");
    let left = kubectl.says("get pods -l app=spring-cloud-b -o name").await;
    assert_eq!(left, "", "pods of a deleted Deployment");
}
