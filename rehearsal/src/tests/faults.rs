//! Faults: what image tags, missing configuration and refusals look like to someone who watches pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{ListParams, LogParams};
use serde_json::{Value, json};

use super::support::*;
use crate::object::{list, text};
use crate::{Cluster, Delays};

async fn with_image(tag: &str) -> Cluster {
    let cluster = cluster(Delays::realistic()).await;
    apply(&cluster.client(), SPACE, vec![deployment("a", "", tag)]).await;
    cluster
}

fn pod(cluster: &Cluster) -> Option<Value> {
    cluster.objects("pods", SPACE).into_iter().next()
}

fn state(pod: &Value, pointer: &str) -> String {
    text(pod, &format!("/status/containerStatuses/0{pointer}")).to_owned()
}

async fn waiting(cluster: &Cluster, reason: &str) -> Value {
    eventually_in(cluster, reason, |cluster| {
        pod(cluster).filter(|pod| state(pod, "/state/waiting/reason") == reason)
    })
    .await
}

async fn reasons(cluster: &Cluster) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(cluster.client(), SPACE);
    let list = events.list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|event| event.reason).collect()
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_an_error_first_and_a_back_off_then() {
    let cluster = with_image("missing").await;
    let failed = waiting(&cluster, "ErrImagePull").await;
    assert!(state(&failed, "/state/waiting/message").ends_with(":missing: not found"), "{failed}");
    let backing_off = waiting(&cluster, "ImagePullBackOff").await;
    assert_eq!(text(&backing_off, "/status/phase"), "Pending");
    let reasons = reasons(&cluster).await;
    for reason in ["Scheduled", "Pulling", "Failed", "BackOff", "SuccessfulCreate", "ScalingReplicaSet"] {
        assert!(reasons.iter().any(|one| one == reason), "{reason} in {reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_tried_again_keeps_saying_what_it_waits_for() {
    let cluster = with_image("missing").await;
    waiting(&cluster, "ImagePullBackOff").await;
    let from = cluster.revision();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let said: std::collections::BTreeSet<String> = cluster.with(|state| {
        let pods =
            state.changes_since(from).unwrap().filter(|change| change.key.resource == crate::kinds::PODS);
        pods.map(|change| self::state(&change.new, "/state/waiting/reason")).collect()
    });
    assert_eq!(said.into_iter().collect::<Vec<_>>(), ["ErrImagePull", "ImagePullBackOff"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_backs_off_shows_the_run_that_died_as_its_previous_one() {
    let manifest = deployment("a", "", "v2-exit3");
    let cluster = cluster(Delays::realistic()).await;
    apply(&cluster.client(), SPACE, vec![manifest]).await;
    let backing_off = waiting(&cluster, "CrashLoopBackOff").await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(cluster.client(), SPACE);
    for previous in [true, false] {
        let parameters = LogParams { previous, ..LogParams::default() };
        let log = pods.logs(text(&backing_off, "/metadata/name"), &parameters).await.unwrap();
        assert!(log.starts_with("spring-cloud-a started, run 2\n"), "{previous}: {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_another_scheduler_is_left_to_it() {
    let cluster = cluster(Delays::realistic()).await;
    let mut manifest = deployment("a", "", "v1");
    manifest["spec"]["template"]["spec"]["schedulerName"] = "elsewhere".into();
    apply(&cluster.client(), SPACE, vec![manifest]).await;
    eventually_in(&cluster, "there", pod).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let left = pod(&cluster).unwrap();
    assert_eq!((text(&left, "/spec/nodeName"), text(&left, "/status/phase")), ("", "Pending"));
    assert!(list(&left, "/status/conditions").is_empty(), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_counts_its_restarts_and_keeps_the_last_words() {
    let cluster = with_image("v2-exit3").await;
    let crashed = eventually_in(&cluster, "three restarts", |cluster| {
        pod(cluster).filter(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(3))
    })
    .await;
    let crashed = if state(&crashed, "/state/waiting/reason").is_empty() {
        waiting(&cluster, "CrashLoopBackOff").await
    } else {
        crashed
    };
    let last = &crashed["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), last["reason"].as_str()), (Some(3), Some("Error")));
    let name = crate::object::name(&crashed).to_owned();
    let parameters = LogParams { previous: true, tail_lines: Some(1), ..LogParams::default() };
    let said = pods(&cluster.client()).logs(&name, &parameters).await.unwrap();
    assert_eq!(said, "spring-cloud-a ends with exit code 3\n");
    let deployment = cluster.object("deployments.apps", SPACE, "spring-cloud-a").unwrap();
    assert_eq!(deployment["status"]["unavailableReplicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_gets_ready_runs_and_says_so() {
    let cluster = with_image("neverready").await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let pod = pod(&cluster).unwrap();
    assert_eq!(text(&pod, "/status/phase"), "Running");
    let ready = list(&pod, "/status/conditions").iter().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!((text(ready, "/status"), text(ready, "/reason")), ("False", "ContainersNotReady"));
    assert!(reasons(&cluster).await.iter().any(|reason| reason == "Unhealthy"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_takes_its_seconds() {
    let cluster = with_image("slow20").await;
    let start = tokio::time::Instant::now();
    eventually_in(&cluster, "ready", |cluster| pod(cluster).filter(crate::pods::is_ready)).await;
    assert!(
        start.elapsed() > Duration::from_secs(20) && start.elapsed() < Duration::from_secs(24),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn missing_configuration_holds_the_container_until_it_is_there() {
    let cluster = cluster(Delays::realistic()).await;
    let mut manifest = deployment("a", "", "v1");
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}]);
    apply(&cluster.client(), SPACE, vec![manifest]).await;
    let held = waiting(&cluster, "CreateContainerConfigError").await;
    assert_eq!(state(&held, "/state/waiting/message"), "configmap \"late\" not found");
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"x": "1"}});
    apply(&cluster.client(), SPACE, vec![config]).await;
    eventually_in(&cluster, "ready", |cluster| pod(cluster).filter(crate::pods::is_ready)).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_a_replica_failure_and_ends_when_pods_are_allowed_again() {
    let cluster = cluster(Delays::realistic()).await;
    cluster.deny_pods(Some("exceeded quota: compute, requested: pods=1, used: pods=10, limited: pods=10"));
    apply(&cluster.client(), SPACE, vec![deployment("a", "", "v1")]).await;
    let failed = eventually_in(&cluster, "ReplicaFailure", |cluster| {
        let object = cluster.object("deployments.apps", SPACE, "spring-cloud-a")?;
        list(&object, "/status/conditions").iter().find(|one| one["type"] == "ReplicaFailure").cloned()
    })
    .await;
    assert_eq!(text(&failed, "/reason"), "FailedCreate");
    assert!(text(&failed, "/message").contains("is forbidden: exceeded quota"), "{failed}");
    assert!(pod(&cluster).is_none());
    cluster.deny_pods(None);
    eventually_in(&cluster, "ready", |cluster| pod(cluster).filter(crate::pods::is_ready)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_digest_is_no_image() {
    let cluster = cluster(Delays::realistic()).await;
    let mut manifest = deployment("a", "", "v1");
    let image = format!("{REGISTRY}/spring-cloud-a@sha256:{}", "0".repeat(64));
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    apply(&cluster.client(), SPACE, vec![manifest]).await;
    let failed = waiting(&cluster, "ErrImagePull").await;
    assert!(state(&failed, "/state/waiting/message").contains("manifest unknown"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn the_agent_comes_by_namespace_or_label_and_not_when_it_is_off() {
    let cluster = cluster(Delays::realistic()).await;
    let with_label = |letter: &str, value: Option<&str>| {
        let mut manifest = deployment(letter, "", "v1");
        if let Some(value) = value {
            manifest["spec"]["template"]["metadata"]["labels"]["msePilotAutoEnable"] = value.into();
        }
        manifest
    };
    apply(&cluster.client(), SPACE, vec![with_label("a", None), with_label("b", Some("off"))]).await;
    apply(&cluster.client(), "default", vec![with_label("a", None), with_label("c", Some("on"))]).await;
    let ready = |cluster: &Cluster| {
        let pods = cluster.objects("pods", "");
        (pods.len() == 4 && pods.iter().all(crate::pods::is_ready)).then_some(pods)
    };
    let pods = eventually_in(&cluster, "four pods", ready).await;
    let carries = |namespace: &str, app: &str| {
        let found = pods.iter().find(|pod| {
            crate::object::namespace(pod) == namespace && crate::object::label(pod, "app") == Some(app)
        });
        crate::pods::carries_agent(found.unwrap())
    };
    assert!(carries(SPACE, "spring-cloud-a") && carries("default", "spring-cloud-c"));
    assert!(!carries(SPACE, "spring-cloud-b") && !carries("default", "spring-cloud-a"));
    let pod = pods.iter().find(|pod| crate::pods::carries_agent(pod)).unwrap();
    let env = list(pod, "/spec/containers/0/env");
    assert!(
        env.iter()
            .any(|one| one["name"] == "JAVA_TOOL_OPTIONS" && text(one, "/value").contains("-javaagent:"))
    );
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    let template = cluster.object("deployments.apps", SPACE, "spring-cloud-a").unwrap();
    assert!(
        template["spec"]["template"]["spec"].get("initContainers").is_none(),
        "the Deployment never shows the agent"
    );
}

#[tokio::test(start_paused = true)]
async fn jobs_end_by_success_or_by_their_limit_of_retries() {
    let cluster = cluster(Delays::realistic()).await;
    let job = |name: &str, tag: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 1, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "check", "image": format!("checks:{tag}")}]}}},
        })
    };
    apply(&cluster.client(), SPACE, vec![job("good", "v1"), job("bad", "exit3")]).await;
    for (name, expected, reason) in
        [("good", "Complete", "CompletionsReached"), ("bad", "Failed", "BackoffLimitExceeded")]
    {
        let condition = eventually_in(&cluster, name, |cluster| {
            list(&cluster.object("jobs.batch", SPACE, name)?, "/status/conditions").first().cloned()
        })
        .await;
        assert_eq!((text(&condition, "/type"), text(&condition, "/reason")), (expected, reason));
    }
    let bad = cluster.object("jobs.batch", SPACE, "bad").unwrap();
    assert_eq!(bad["status"]["failed"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_quota_counts_the_pods_of_its_namespace_and_lets_no_more_be_made() {
    let cluster = cluster(Delays::realistic()).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}});
    let mut manifest = deployment("a", "", "v1");
    manifest["spec"]["replicas"] = 2.into();
    apply(&cluster.client(), SPACE, vec![quota, manifest]).await;
    let failed = eventually_in(&cluster, "ReplicaFailure", |cluster| {
        let object = cluster.object("deployments.apps", SPACE, "spring-cloud-a")?;
        list(&object, "/status/conditions").iter().find(|one| one["type"] == "ReplicaFailure").cloned()
    })
    .await;
    let words = "is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1";
    assert!(text(&failed, "/message").ends_with(words), "{failed}");
    let used = |cluster: &crate::Cluster| {
        cluster.object("resourcequotas", SPACE, "few").map(|quota| quota["status"]["used"]["pods"].clone())
    };
    eventually_in(&cluster, "counted", |cluster| used(cluster).filter(|used| used == "1")).await;
}
