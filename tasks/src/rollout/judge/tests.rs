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

fn start_error() -> Value {
    json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "no such file" } })
}

/// A container whose process could not be started, as the kubelet reports it.
fn unstarted(restarts: u32) -> Seen {
    container(start_error(), restarts, json!({}))
}

/// The same, of an init container: what comes after it waits for it.
fn in_init(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    for pod in seen.pods.values_mut().filter(|pod| pod.pointer("/status/containerStatuses").is_some()) {
        pod["status"]["initContainerStatuses"] = pod["status"]["containerStatuses"].take();
        let later = json!({ "name": "later", "image": "i", "restartCount": 0, "ready": false,
            "state": { "waiting": { "reason": "PodInitializing" } } });
        pod["status"]["containerStatuses"] = json!([later]);
    }
    seen
}

fn unscheduled(reason: &str) -> Seen {
    let condition =
        json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": "0/1 nodes" });
    seen(going(), json!({ "status": { "conditions": [condition] } }))
}

fn said(mut seen: Seen, reason: &str, message: &str) -> Seen {
    let old = json!({ "reason": reason, "message": "Readiness probe failed: before", "lastTimestamp": "2026-01-01T00:00:00Z" });
    let new = json!({ "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:09Z" });
    seen.events.insert("p".into(), vec![new, old]);
    seen
}

fn expect(patience: Patience) -> Expect {
    Expect { generation: 2, agent: false, pods: true, patience }
}

/// One rollout that is looked at again and again.
#[derive(Default)]
struct Looks {
    signals: Signals,
    patience: Patience,
}

impl Looks {
    /// One whose pods were seen before anything happened to them.
    fn from_the_start() -> Looks {
        let mut looks = Looks::default();
        for list in ["initContainerStatuses", "containerStatuses"] {
            let status = json!({ "name": "main", "restartCount": 0, "state": { "waiting": {} } });
            looks.at(&seen(going(), json!({ "status": { list: [status] } })));
        }
        looks
    }

    fn judge(&mut self, seen: &Seen) -> Verdict {
        judge(seen, expect(self.patience), &mut self.signals, Instant::now())
    }

    fn at(&mut self, seen: &Seen) -> String {
        match self.judge(seen) {
            Verdict::Done => "done".to_owned(),
            Verdict::Waiting(done, total, note) => format!("{done}/{total} {note}"),
            Verdict::Failed(failure) => format!("failed: {}", failure.message),
        }
    }

    async fn after(&mut self, seconds: u64, seen: &Seen) -> String {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.at(seen)
    }
}

/// What is said at once, and what after so many seconds.
async fn told_with(seen: &Seen, seconds: u64, patience: Patience) -> (String, String) {
    let mut looks = Looks { patience, ..Looks::from_the_start() };
    let first = looks.at(seen);
    (first, looks.after(seconds, seen).await)
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
            "0/1 pods cannot be created: exceeded quota",
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
    let gone = |reason: &str| seen(going(), json!({ "status": { "phase": "Failed", "reason": reason } }));
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
            "an image that cannot be looked at",
            waiting("ImageInspectError", "disk"),
            30,
            "pod a-1-x, container main: ImageInspectError: disk",
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
            "a run",
            waiting("RunContainerError", "exec"),
            30,
            "pod a-1-x, container main: RunContainerError: exec",
        ),
        ("a start", unstarted(0), 30, "pod a-1-x, container main: StartError: no such file"),
        (
            "a hook",
            waiting("PostStartHookError", "exit 1"),
            30,
            "pod a-1-x, container main: PostStartHookError: exit 1",
        ),
    ];
    for (what, seen, seconds, words) in patient {
        for seen in [in_init(&seen), seen] {
            assert_eq!(told(&seen, seconds - 1).await.1, format!("0/1 {words}"), "{what}, before");
            assert_eq!(told(&seen, seconds).await.1, format!("failed: {words}"), "{what}, then");
        }
    }
    for crash in [crashing(1, "Error", 3), in_init(&crashing(1, "Error", 3))] {
        let (first, then) = told(&crash, 60).await;
        assert_eq!(first, "0/1 pod a-1-x, container main: CrashLoopBackOff");
        assert_eq!(then, "failed: pod a-1-x, container main: crashes again and again (exit code 3)");
    }
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
            "a run that failed twice",
            container(json!({ "waiting": { "reason": "RunContainerError", "message": "x" } }), 1, json!({})),
            "pod a-1-x, container main: RunContainerError: x",
        ),
        ("a start that failed twice", unstarted(1), "pod a-1-x, container main: StartError: no such file"),
        (
            "a start that failed twice, backing off",
            container(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), 1, start_error()),
            "pod a-1-x, container main: StartError: no such file",
        ),
    ];
    for (what, seen, words) in at_once {
        for seen in [in_init(&seen), seen] {
            assert_eq!(told(&seen, 0).await.0, format!("failed: {words}"), "{what}");
        }
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
            "pod a-1-x, container main: restarted once (exit code 1) (Liveness probe failed: connection refused)",
        ),
        (
            "ended by itself, and not ready since",
            said(running(1), "Unhealthy", "Readiness probe failed: connection refused"),
            "pod a-1-x, container main: restarted once (exit code 1)",
        ),
        ("evicted", gone("Evicted"), "pod a-1-x was taken away (Evicted): another one is made"),
        ("preempted", gone("Preempting"), "pod a-1-x was taken away (Preempting): another one is made"),
        ("lost", gone("NodeLost"), "pod a-1-x was taken away (NodeLost): another one is made"),
    ];
    for (what, seen, words) in never {
        let words = format!("0/1 {words}");
        for seen in [in_init(&seen), seen] {
            assert_eq!(told(&seen, 99_999).await, (words.clone(), words.clone()), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_environment_says_how_patient_its_rollouts_are() {
    let of = |change: fn(&mut RolloutFile, String)| {
        let mut file = RolloutFile::default();
        change(&mut file, "7m".into());
        Patience::of(&file)
    };
    let quota = json!({ "observedGeneration": 2, "conditions": [{ "type": "ReplicaFailure", "status": "True", "message": "quota" }] });
    // Each with the one setting that it goes by, far from its default.
    let table = [
        (waiting("ImagePullBackOff", "503"), of(|file, time| file.image = Some(time))),
        (waiting("CreateContainerConfigError", "no key"), of(|file, time| file.config = Some(time))),
        (waiting("CreateContainerError", "name"), of(|file, time| file.container = Some(time))),
        (unstarted(0), of(|file, time| file.container = Some(time))),
        (crashing(1, "Error", 1), of(|file, time| file.crash = Some(time))),
        (unscheduled("Unschedulable"), of(|file, time| file.schedule = Some(time))),
        (
            said(waiting("ContainerCreating", ""), "FailedMount", "no"),
            of(|file, time| file.schedule = Some(time)),
        ),
        (seen(quota, json!({})), of(|file, time| file.create = Some(time))),
    ];
    for (seen, patience) in table {
        assert!(told_with(&seen, 419, patience).await.1.starts_with("0/1"), "{patience:?}");
        assert!(told_with(&seen, 420, patience).await.1.starts_with("failed"), "{patience:?}");
    }
    let missing = waiting("ImagePullBackOff", "manifest unknown");
    let patience = Patience::of(&RolloutFile { image: Some("2s".into()), ..RolloutFile::default() });
    assert!(
        told_with(&missing, 1, patience).await.1.starts_with("0/1"),
        "less than the five seconds holds too"
    );
    assert!(told_with(&missing, 2, patience).await.1.starts_with("failed"));
    let patience = Patience::of(&RolloutFile { restarts: Some(5), ..RolloutFile::default() });
    assert!(told_with(&crashing(4, "Error", 1), 0, patience).await.0.starts_with("0/1"));
    assert!(told_with(&crashing(5, "Error", 1), 0, patience).await.0.starts_with("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_was_late_once_is_no_volume_that_cannot_be_mounted() {
    let mount =
        |at: &str| json!({ "reason": "FailedMount", "message": "configmap cache", "lastTimestamp": at });
    let pulling = |at: &str| json!({ "reason": "Pulling", "message": "Pulling image", "lastTimestamp": at });
    let with = |events: Vec<Value>| {
        let mut seen = waiting("ContainerCreating", "");
        seen.events.insert("p".into(), events);
        seen
    };
    // A pull that takes long, after the volumes are there.
    for (first, then) in
        [("2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z"), ("2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z")]
    {
        let words = "0/1 pod a-1-x, container main: ContainerCreating";
        assert_eq!(told(&with(vec![mount(first), pulling(then)]), 9_999).await.1, words);
    }
    let again = with(vec![pulling("2026-01-01T00:00:01Z"), mount("2026-01-01T00:00:09Z")]);
    assert!(told(&again, 120).await.1.starts_with("failed"), "the newest word counts");
    // An init container runs, or has run: the volumes of its pod are mounted.
    for state in [json!({ "running": {} }), json!({ "terminated": { "exitCode": 0 } })] {
        let mut seen = with(vec![mount("2026-01-01T00:00:09Z")]);
        let init = json!({ "name": "init", "restartCount": 0, "ready": true, "state": state });
        seen.pods.get_mut("p").expect("there")["status"]["initContainerStatuses"] = json!([init]);
        assert_eq!(told(&seen, 9_999).await.1, "0/1 pod a-1-x, container main: ContainerCreating");
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_passed_begins_anew_when_it_comes_again() {
    let volume = said(waiting("ContainerCreating", ""), "FailedMount", "no");
    let mut looks = Looks::default();
    assert!(looks.at(&unscheduled("Unschedulable")).contains("cannot be scheduled"));
    // An autoscaler's node came late, and its first mount fails: that has patience of its own.
    assert!(looks.after(110, &volume).await.starts_with("0/1 pod a-1-x: a volume"));
    assert!(looks.after(119, &volume).await.starts_with("0/1"));
    assert!(looks.after(1, &volume).await.starts_with("failed"));
    let mut looks = Looks::default();
    looks.at(&volume);
    assert!(looks.after(110, &running(0)).await.contains("runs"));
    assert!(looks.after(110, &volume).await.starts_with("0/1"), "it had passed");
    // What is tried again and again has not passed between two tries.
    let mut looks = Looks::from_the_start();
    looks.at(&waiting("ImagePullBackOff", "503"));
    assert!(looks.after(20, &waiting("ErrImagePull", "503")).await.starts_with("0/1"));
    assert!(looks.after(10, &waiting("ImagePullBackOff", "503")).await.starts_with("failed"));
    let mut looks = Looks::from_the_start();
    looks.at(&crashing(1, "Error", 1));
    assert!(looks.after(30, &running(2)).await.starts_with("0/1"));
    assert!(looks.after(30, &crashing(2, "Error", 1)).await.starts_with("failed"));
    // A pause is somebody's will: what waited before it has its whole time after it.
    let mut looks = Looks::default();
    looks.at(&volume);
    let mut paused = volume.clone();
    paused.deployment.as_mut().expect("there")["spec"]["paused"] = true.into();
    assert!(looks.after(9_999, &paused).await.contains("is paused"));
    assert!(looks.at(&volume).starts_with("0/1"));
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_refused_one_after_the_other_are_one_signal() {
    let refused = |pod: &str| {
        let message = format!("pods \"{pod}\" is forbidden: exceeded quota");
        let condition = json!({ "type": "ReplicaFailure", "status": "True", "message": message });
        seen(json!({ "observedGeneration": 2, "conditions": [condition] }), json!({}))
    };
    let mut looks = Looks::default();
    let words = "0/1 pods cannot be created: forbidden: exceeded quota";
    assert_eq!(looks.at(&refused("a-1-x")), words);
    assert_eq!(looks.after(9, &refused("a-1-y")).await, words, "and nothing new is told");
    let ends = looks.after(1, &refused("a-1-z")).await;
    assert_eq!(
        ends,
        "failed: Deployment a: pods cannot be created: pods \"a-1-z\" is forbidden: exceeded quota"
    );
}

#[tokio::test(start_paused = true)]
async fn restarts_of_before_a_rollout_do_not_fail_it() {
    let month = running(5);
    let mut looks = Looks::default();
    assert_eq!(looks.at(&month), "0/1 pod a-1-x, container main: runs, not ready yet");
    assert_eq!(looks.after(9_999, &month).await, "0/1 pod a-1-x, container main: runs, not ready yet");
    assert!(looks.at(&running(7)).ends_with("restarted 2 times (exit code 1)"));
    assert_eq!(looks.at(&running(8)), "failed: pod a-1-x, container main: restarted 3 times (exit code 1)");
    let last = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let once = |restarts| container(json!({ "running": {} }), restarts, last.clone());
    let mut looks = Looks::default();
    for restarts in [5, 6] {
        assert!(looks.at(&once(restarts)).starts_with("0/1"), "{restarts}");
        assert_eq!(looks.signals.ended(), restarts == 6, "from then on running again proves less");
    }
    assert_eq!(looks.at(&once(7)), "failed: pod a-1-x, container main: out of memory 2 times");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_was_missed_before_the_write_is_not_this_rollouts() {
    let status = |observed: i64, at: &str| {
        json!({ "observedGeneration": observed, "replicas": 2, "updatedReplicas": 1, "conditions": [
        { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out", "lastUpdateTime": at },
    ] })
    };
    let with = |observed, at| {
        let mut seen = seen(status(observed, at), json!({}));
        seen.deployment.as_mut().expect("there")["spec"]["progressDeadlineSeconds"] = 90.into();
        seen
    };
    let (old, new) = (with(2, "2026-01-01T00:00:00Z"), with(2, "2026-01-01T00:02:00Z"));
    let mut looks = Looks::default();
    looks.at(&with(1, "2026-01-01T00:00:00Z"));
    assert_eq!(looks.at(&old), "0/1 1 old pod is still to go");
    assert!(looks.after(89, &old).await.starts_with("0/1"));
    assert_eq!(
        looks.after(1, &old).await,
        "failed: Deployment a: timed out",
        "nothing has moved in all its time"
    );
    let mut looks = Looks::default();
    looks.at(&with(1, "2026-01-01T00:00:00Z"));
    looks.at(&old);
    assert_eq!(looks.at(&new), "failed: Deployment a: timed out");
}

#[tokio::test(start_paused = true)]
async fn the_log_that_is_quoted_is_of_the_run_that_died() {
    let log = |seen: &Seen| match Looks::from_the_start().judge(seen) {
        Verdict::Failed(failure) => failure.log,
        other => panic!("{other:?}"),
    };
    let died = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
    let table = [
        ("it has just ended", container(died.clone(), 3, died.clone()), false),
        ("it backs off", crashing(3, "Error", 1), true),
        ("it runs again", running(3), true),
        (
            "out of memory, just now",
            container(json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } }), 1, died),
            false,
        ),
        ("out of memory, backing off", crashing(1, "OOMKilled", 137), true),
    ];
    for (what, seen, previous) in table {
        for seen in [in_init(&seen), seen] {
            assert_eq!(log(&seen), Some(("a-1-x".into(), "main".into(), previous)), "{what}");
        }
    }
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
