//! Every signal with its verdict and its patience, as a table.

use super::super::RolloutFile;
use super::*;
use serde_json::json;

fn seen(status: Value, pod: Value) -> Seen {
    let deployment = json!({
        "metadata": { "name": "a", "uid": "d", "generation": 2, "annotations": { "deployment.kubernetes.io/revision": "2" } },
        "spec": { "replicas": 1 }, "status": status,
    });
    let set = json!({ "metadata": {
        "name": "a-1", "uid": "r", "annotations": { "deployment.kubernetes.io/revision": "2" }, "ownerReferences": [{ "uid": "d" }],
    } });
    let mut pod = pod;
    pod["metadata"] = json!({ "name": "a-1-x", "uid": "p", "ownerReferences": [{ "uid": "r" }] });
    Seen {
        deployment: Some(deployment),
        replica_sets: [("r".into(), set)].into(),
        pods: [("p".into(), pod)].into(),
        events: BTreeMap::new(),
    }
}

fn going() -> Value {
    json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1 })
}

/// A pod on its way whose container is in this state.
fn container(state: Value, restarts: u32, last: Value) -> Seen {
    let status = json!({
        "name": "main", "image": "i", "restartCount": restarts, "ready": false, "state": state, "lastState": last,
    });
    seen(going(), json!({ "status": { "containerStatuses": [status] } }))
}

fn waiting(reason: &str, message: &str) -> Seen {
    container(json!({ "waiting": { "reason": reason, "message": message } }), 0, json!({}))
}

fn crashing(restarts: u32, reason: &str, code: i64) -> Seen {
    let last = json!({ "terminated": { "exitCode": code, "reason": reason } });
    container(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), restarts, last)
}

fn running(restarts: u32) -> Seen {
    let last =
        if restarts == 0 { json!({}) } else { json!({ "terminated": { "exitCode": 1, "reason": "Error" } }) };
    container(json!({ "running": {} }), restarts, last)
}

fn unscheduled(reason: &str) -> Seen {
    let condition =
        json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": "0/1 nodes" });
    seen(going(), json!({ "status": { "conditions": [condition] } }))
}

fn said(mut seen: Seen, reason: &str, message: &str) -> Seen {
    let old = json!({ "reason": reason, "message": "an older one", "lastTimestamp": "2026-01-01T00:00:00Z" });
    let new = json!({ "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:09Z" });
    seen.events.insert("p".into(), vec![new, old]);
    seen
}

fn expect(patience: Patience) -> Expect {
    Expect { generation: 2, agent: false, pods: true, patience }
}

/// What is said at once, and what after so many seconds.
async fn told_with(seen: &Seen, seconds: u64, patience: Patience) -> (String, String) {
    let mut signals = Signals::default();
    let words = |verdict: Verdict| match verdict {
        Verdict::Done => "done".to_owned(),
        Verdict::Waiting(done, total, note) => format!("{done}/{total} {note}"),
        Verdict::Failed(failure) => format!("failed: {}", failure.message),
    };
    let first = words(judge(seen, expect(patience), &mut signals, Instant::now()));
    tokio::time::advance(Duration::from_secs(seconds)).await;
    (first, words(judge(seen, expect(patience), &mut signals, Instant::now())))
}

async fn told(seen: &Seen, seconds: u64) -> (String, String) {
    told_with(seen, seconds, Patience::default()).await
}

#[tokio::test(start_paused = true)]
async fn every_signal_of_the_deployment_has_its_verdict_and_its_patience() {
    let status = |observed: i64, replicas: i64, updated: i64, available: i64| json!({ "observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available });
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({ "observedGeneration": 2, "conditions": [{ "type": kind, "status": status, "reason": reason, "message": message }] });
    let mut paused = seen(status(2, 1, 0, 0), json!({}));
    if let Some(deployment) = &mut paused.deployment {
        deployment["spec"]["paused"] = true.into();
    }
    let late = condition("Progressing", "False", "ProgressDeadlineExceeded", "timed out progressing");
    let quota = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota");
    let table = [
        ("done", seen(status(2, 1, 1, 1), json!({})), 1, "done", "done"),
        (
            "a status of before the write",
            seen(status(1, 1, 1, 1), json!({})),
            999,
            "1/1 the controller has not seen the change yet",
            "1/1 the controller has not seen the change yet",
        ),
        (
            "old pods",
            seen(status(2, 2, 1, 2), json!({})),
            999,
            "1/1 1 old pod is still to go",
            "1/1 1 old pod is still to go",
        ),
        (
            "its own deadline",
            seen(late, json!({})),
            0,
            "failed: Deployment a: timed out progressing",
            "failed: Deployment a: timed out progressing",
        ),
        (
            "a quota",
            seen(quota, json!({})),
            10,
            "0/1 exceeded quota",
            "failed: Deployment a: pods cannot be created: exceeded quota",
        ),
        (
            "paused waits for a person",
            paused,
            9_999,
            "0/1 Deployment a is paused: `kubectl rollout resume` lets it go on",
            "0/1 Deployment a is paused: `kubectl rollout resume` lets it go on",
        ),
        (
            "deleted",
            Seen::default(),
            0,
            "failed: the Deployment was deleted while it was rolled out",
            "failed: the Deployment was deleted while it was rolled out",
        ),
    ];
    for (what, seen, seconds, first, then) in table {
        assert_eq!(told(&seen, seconds).await, (first.to_owned(), then.to_owned()), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_signal_of_a_pod_has_its_verdict_and_its_patience() {
    let evicted = seen(going(), json!({ "status": { "phase": "Failed", "reason": "Evicted" } }));
    // (what, seen, lasts below, seconds, then): before its time is up it waits with the same words.
    let patient = [
        ("unschedulable", unscheduled("Unschedulable"), 120, "pod a-1-x cannot be scheduled: 0/1 nodes"),
        (
            "a gate",
            unscheduled("SchedulingGated"),
            120,
            "pod a-1-x is held back by a scheduling gate: 0/1 nodes",
        ),
        (
            "a volume",
            said(waiting("ContainerCreating", ""), "FailedMount", "MountVolume.SetUp failed"),
            120,
            "pod a-1-x: a volume cannot be mounted: MountVolume.SetUp failed",
        ),
        (
            "a volume of another node",
            said(waiting("ContainerCreating", ""), "FailedAttachVolume", "Multi-Attach error"),
            120,
            "pod a-1-x: a volume cannot be mounted: Multi-Attach error",
        ),
        (
            "a pull",
            waiting("ImagePullBackOff", "back-off"),
            30,
            "pod a-1-x, container main: ImagePullBackOff: back-off",
        ),
        (
            "an image that is not there",
            waiting("ImagePullBackOff", "manifest unknown"),
            5,
            "pod a-1-x, container main: ImagePullBackOff: manifest unknown",
        ),
        (
            "a registry",
            waiting("RegistryUnavailable", "503"),
            30,
            "pod a-1-x, container main: RegistryUnavailable: 503",
        ),
        (
            "a signature",
            waiting("SignatureValidationFailed", "no"),
            30,
            "pod a-1-x, container main: SignatureValidationFailed: no",
        ),
        (
            "a missing key",
            waiting("CreateContainerConfigError", "no key"),
            15,
            "pod a-1-x, container main: CreateContainerConfigError: no key",
        ),
        (
            "a container",
            waiting("CreateContainerError", "name"),
            30,
            "pod a-1-x, container main: CreateContainerError: name",
        ),
        (
            "a start",
            waiting("RunContainerError", "exec"),
            30,
            "pod a-1-x, container main: RunContainerError: exec",
        ),
        (
            "a hook",
            waiting("PostStartHookError", "exit 1"),
            30,
            "pod a-1-x, container main: PostStartHookError: exit 1",
        ),
    ];
    for (what, seen, seconds, words) in patient {
        assert_eq!(told(&seen, seconds - 1).await.1, format!("0/1 {words}"), "{what}, before");
        assert_eq!(told(&seen, seconds).await.1, format!("failed: {words}"), "{what}, then");
    }
    let crash = crashing(1, "Error", 3);
    let (first, then) = told(&crash, 60).await;
    assert_eq!(first, "0/1 pod a-1-x, container main: CrashLoopBackOff");
    assert_eq!(then, "failed: pod a-1-x, container main: crashes again and again (exit code 3)");
    let at_once = [
        (
            "a bad name",
            waiting("InvalidImageName", "bad"),
            "pod a-1-x, container main: InvalidImageName: bad",
        ),
        (
            "never pulled",
            waiting("ErrImageNeverPull", "x"),
            "pod a-1-x, container main: ErrImageNeverPull: x",
        ),
        (
            "a third restart",
            crashing(3, "Error", 1),
            "pod a-1-x, container main: crashes again and again (exit code 1)",
        ),
        (
            "a third restart that runs",
            running(3),
            "pod a-1-x, container main: restarted 3 times (exit code 1)",
        ),
        (
            "out of memory twice",
            crashing(1, "OOMKilled", 137),
            "pod a-1-x, container main: out of memory 2 times",
        ),
        (
            "a start that failed twice",
            container(json!({ "waiting": { "reason": "StartError", "message": "x" } }), 2, json!({})),
            "pod a-1-x, container main: StartError: x",
        ),
    ];
    for (what, seen, words) in at_once {
        assert_eq!(told(&seen, 0).await.0, format!("failed: {words}"), "{what}");
    }
    let never = [
        (
            "the first failed pull",
            waiting("ErrImagePull", "blip"),
            "pod a-1-x, container main: ErrImagePull: blip",
        ),
        ("out of memory once", running(0), "pod a-1-x, container main: runs, not ready yet"),
        (
            "a probe that says no",
            said(running(0), "Unhealthy", "Readiness probe failed: HTTP 503"),
            "pod a-1-x, container main: runs, not ready yet (Readiness probe failed: HTTP 503)",
        ),
        (
            "restarted by liveness",
            said(running(1), "Unhealthy", "Liveness probe failed: connection refused"),
            "pod a-1-x, container main: restarted 1 times (exit code 1) (Liveness probe failed: connection refused)",
        ),
        ("evicted", evicted, "pod a-1-x was taken away (Evicted): another one is made"),
    ];
    for (what, seen, words) in never {
        let words = format!("0/1 {words}");
        assert_eq!(told(&seen, 99_999).await, (words.clone(), words), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_container_is_judged_as_any_other() {
    let waiting = json!({ "name": "one-pilot-initcontainer", "image": "i", "restartCount": 0, "ready": false,
        "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } } });
    let ended = json!({ "name": "init", "image": "i", "restartCount": 3, "ready": false,
        "state": { "terminated": { "exitCode": 7, "reason": "Error" } } });
    for (status, words) in [
        (waiting, "pod a-1-x, container one-pilot-initcontainer: ImagePullBackOff: not found"),
        (ended, "pod a-1-x, container init: restarted 3 times (exit code 7)"),
    ] {
        let seen = seen(going(), json!({ "status": { "initContainerStatuses": [status] } }));
        assert_eq!(told(&seen, 30).await.1, format!("failed: {words}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_environment_says_how_patient_its_rollouts_are() {
    let file = RolloutFile { schedule: Some("10m".into()), restarts: Some(5), ..RolloutFile::default() };
    let patience = Patience::of(&file);
    let nodes = unscheduled("Unschedulable");
    assert!(told_with(&nodes, 599, patience).await.1.starts_with("0/1"));
    assert!(told_with(&nodes, 600, patience).await.1.starts_with("failed"));
    assert!(told_with(&crashing(4, "Error", 1), 0, patience).await.0.starts_with("0/1"));
    assert!(told_with(&crashing(5, "Error", 1), 0, patience).await.0.starts_with("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_done_before_its_pods_are_known_is_waited_for() {
    let done =
        json!({ "observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1 });
    let mut seen = seen(done, json!({ "status": {} }));
    let pods = std::mem::take(&mut seen.pods);
    assert_eq!(told(&seen, 1).await.1, "1/1 the pods are not seen yet");
    seen.pods = pods;
    assert_eq!(told(&seen, 1).await.1, "done");
}

#[test]
fn images_by_digest_keep_their_repository() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (written, id, expected) in [
        (
            "r.example:5000/x/a:v2",
            format!("docker-pullable://r.example:5000/x/a@{digest}"),
            format!("r.example:5000/x/a@{digest}"),
        ),
        ("a:v2", format!("docker.io/library/a@{digest}"), format!("a@{digest}")),
        ("a:v2", "sha256:abc".into(), "a:v2".into()),
        ("a:v2", String::new(), "a:v2".into()),
    ] {
        assert_eq!(by_digest(written, &id), expected, "{written} {id}");
    }
}
