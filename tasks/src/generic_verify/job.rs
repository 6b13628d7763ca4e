//! `job`: an image and a script as a Kubernetes Job. Its name comes from the run, so that it is found again after a crash.
//!
//! Its pod has no service-account token and no agent, and carries no label that a Service selects. It is removed
//! whatever came of it; where nobody is left to do that, its deadline and its time to live end it.

use std::collections::BTreeMap;
use std::time::Duration;

use graylane_engine::clock::{DURATION_PATTERN, show_duration};
use graylane_engine::document::Finding;
use graylane_engine::id::Digest;
use graylane_engine::task::{TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::program::{self, Ends, Given, tail};
use super::samples::Sample;
use super::written_out;
use crate::cluster::{Cluster, Deleted, LogPlace};
use crate::environment::Checks;
use crate::lane::labels::ANNOTATION_RUN;
use crate::manifest::{ObjectRef, name, selects, texts, uid};
use crate::rollout::{Patience, PodSigns, Signals, pod_signs};

/// The label by which the Jobs of one task of one run are found. No Service selects it.
const CHECK: &str = "graylane.dev/check";
const ANNOTATION_NAME: &str = "graylane.dev/check-name";
const CONTAINER: &str = "check";
const DEADLINE: Duration = Duration::from_secs(300);
const MAX_DEADLINE: Duration = Duration::from_secs(6 * 3600);
/// How many looks a job check may have: each is a pod.
pub(super) const MAX_SAMPLES: u32 = 20;
/// How long a Job that nobody removed stays after its end.
const TIME_TO_LIVE: u64 = 3600;
/// How much of a log is kept.
const MAX_LINES: usize = 5_000;

/// Runs an image as a Kubernetes Job.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobWith {
    /// The image.
    pub image: String,
    /// A script that `/bin/sh -ec` reads. Values come in through `env` alone.
    #[serde(default)]
    pub script: Option<String>,
    /// In the place of `script`: the arguments of the image's own program.
    #[serde(default)]
    #[schemars(extend("minItems" = 1))]
    pub args: Option<Vec<String>>,
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long it may take, its start included; 5m where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    pub deadline: Option<String>,
    /// The exit codes that are right; 0 where nothing is said.
    #[serde(default)]
    #[schemars(extend("minItems" = 1))]
    pub exit_codes: Option<Vec<u8>>,
    /// The processor time that it gets, as Kubernetes writes it; `500m` where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9]+(\\.[0-9]+)?m?$"), extend("x-expected" = "processor time is written as in `500m` or `2`"))]
    pub cpu: Option<String>,
    /// The memory that it gets, as Kubernetes writes it; `256Mi` where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = "^[0-9]+(Ki|Mi|Gi|K|M|G)?$"), extend("x-expected" = "memory is written as in `256Mi` or `1Gi`"))]
    pub memory: Option<String>,
}

/// A Job, ready to be made; its name comes with the attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    image: String,
    pod: Value,
    #[serde(flatten)]
    ends: Ends,
}

/// What no schema can say.
pub(super) fn check(job: &Value, listed: Option<&Checks>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = written_out(job, "", "a job") {
        return vec![finding];
    }
    let Some(map) = job.as_object() else { return findings };
    if let Some(script) = map.get("script") {
        findings.extend(written_out(script, "/script", "a script"));
        if map.contains_key("args") {
            let finding = Finding::at("/args", "the job has a script and arguments").on_key();
            findings.push(finding.label("keep one of `script` and `args`"));
        }
    }
    if let Some(arguments) = map.get("args") {
        findings.extend(written_out(arguments, "/args", "arguments"));
        for (index, argument) in arguments.as_array().into_iter().flatten().enumerate() {
            findings.extend(written_out(argument, &format!("/args/{index}"), "arguments"));
        }
    }
    if let (Some(image), Some(checks)) = (map.get("image").and_then(Value::as_str), listed)
        && !image.contains("${{")
        && !checks.allows_image(image)
    {
        let (why, hint) = not_listed(image, checks);
        findings.push(Finding::at("/image", why).hint(hint));
    }
    findings.extend(program::check(job));
    findings
}

fn not_listed(image: &str, checks: &Checks) -> (String, String) {
    let listed = graylane_engine::schema::list(&checks.images);
    (
        format!("the environment does not let checks use the image `{image}`"),
        format!("it begins with {listed}, or the operator adds it to `checks.images`"),
    )
}

/// A text as a kubelet reads it out of `args` and `env`: it replaces `$(NAME)`, and turns `$$` into `$`. A value that
/// became a part of the script in that way would be one that nobody has quoted.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

impl JobWith {
    pub(super) fn plan(&self, checks: &Checks) -> Result<Planned, String> {
        if !checks.allows_image(&self.image) {
            let (why, hint) = not_listed(&self.image, checks);
            return Err(format!("{why}: {hint}"));
        }
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            return Err(format!("`{}` is not an image", self.image));
        }
        let given = Given {
            env: &self.env,
            deadline: self.deadline.as_deref(),
            exit_codes: self.exit_codes.as_deref(),
        };
        let ends = given.ends(DEADLINE)?.between(Duration::from_secs(1), MAX_DEADLINE);
        let env: Vec<Value> =
            self.env.iter().map(|(name, value)| json!({ "name": name, "value": literal(value) })).collect();
        let limits = json!({
            "cpu": self.cpu.as_deref().unwrap_or("500m"), "memory": self.memory.as_deref().unwrap_or("256Mi"),
        });
        let mut container = json!({
            "name": CONTAINER, "image": self.image, "env": env,
            "resources": { "requests": limits, "limits": limits },
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
        });
        match (&self.script, &self.args) {
            (Some(script), None) => {
                container["command"] = json!(["/bin/sh", "-ec"]);
                container["args"] = json!([literal(script)]);
            }
            (None, Some(args)) => {
                container["args"] = args.iter().map(|argument| Value::from(literal(argument))).collect();
            }
            (None, None) => {}
            (Some(_), Some(_)) => return Err("one of `script` and `args` is wanted".into()),
        }
        let pod = json!({
            "restartPolicy": "Never",
            // A script of a workflow must not speak to the API server, nor see the addresses of every Service.
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            "containers": [container],
        });
        Ok(Planned { image: self.image.clone(), pod, ends })
    }
}

/// The labels of its pod. Those that are `off` are read by webhooks: an agent would make it a part of the mesh, and a
/// sidecar would keep it from ending.
fn labels(owner: &str) -> BTreeMap<String, String> {
    [
        (CHECK, owner),
        ("msePilotAutoEnable", "off"),
        ("armsPilotAutoEnable", "off"),
        ("sidecar.istio.io/inject", "false"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// What the Jobs of one task of one run have in common.
pub(super) fn owner(cx: &TaskContext) -> String {
    Digest::of(format!("{} {}", cx.run, cx.task).as_bytes()).short().to_owned()
}

impl Planned {
    /// In words; values of variables are left out.
    pub(super) fn words(&self) -> String {
        format!("Job of {}, {} at most", self.image, show_duration(self.ends.deadline()))
    }

    /// The Job of one look.
    fn object(&self, cx: &TaskContext, check: &str, index: usize, number: u32) -> Value {
        let owner = owner(cx);
        let place = format!("{} {} {} {index} {number}", cx.run, cx.task, cx.attempt.0);
        let labels = labels(&owner);
        let annotations = json!({
            "msePilotAutoEnable": "off", "sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        });
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": format!("check-{}", Digest::of(place.as_bytes()).short()),
                "labels": { CHECK: owner },
                "annotations": { ANNOTATION_RUN: cx.run.to_string(), ANNOTATION_NAME: check },
            },
            "spec": {
                "backoffLimit": 0, "completions": 1, "parallelism": 1,
                "activeDeadlineSeconds": self.ends.deadline_ms.div_ceil(1000),
                "ttlSecondsAfterFinished": TIME_TO_LIVE,
                "template": { "metadata": { "labels": labels, "annotations": annotations }, "spec": self.pod },
            },
        })
    }

    /// Reads only: whether the API server takes the Job, and whether a Service would send requests to its pod.
    pub(super) async fn preflight(
        &self,
        cx: &TaskContext,
        cluster: &Cluster,
        check: &str,
    ) -> Result<(), TaskError> {
        let services = cluster.list("v1", "Service", "").await?;
        if let Some(service) = met_by(&services, &labels(&owner(cx))) {
            return Err(TaskError::permanent(format!(
                "refused: check `{check}`: Service {service} would send requests to the pod of the check"
            ))
            .hint(format!("change the selector of Service {service}: it selects labels of checks")));
        }
        cluster.apply(&self.object(cx, check, 0, 1), true, false).await?;
        Ok(())
    }
}

/// The Service that selects a pod of these labels.
fn met_by<'s>(services: &'s [Value], labels: &BTreeMap<String, String>) -> Option<&'s str> {
    services.iter().find(|service| selects(&texts(service, "/spec/selector"), labels)).map(name)
}

fn job_at(name: &str) -> ObjectRef {
    ObjectRef { api_version: "batch/v1".into(), kind: "Job".into(), name: name.to_owned(), namespace: None }
}

/// Removes every Job of this task but those of the present attempt: what an attempt that was abandoned has left.
pub(super) async fn sweep(cx: &TaskContext, cluster: &Cluster, keep: &[String]) -> Result<(), TaskError> {
    for job in cluster.list("batch/v1", "Job", &format!("{CHECK}={}", owner(cx))).await? {
        if !keep.iter().any(|kept| kept == name(&job)) {
            remove(cx, cluster, &job).await?;
        }
    }
    Ok(())
}

/// The name of the Job of one look.
pub(super) fn name_of(cx: &TaskContext, planned: &Planned, check: &str, index: usize, number: u32) -> String {
    name(&planned.object(cx, check, index, number)).to_owned()
}

async fn remove(cx: &TaskContext, cluster: &Cluster, job: &Value) -> Result<(), TaskError> {
    let at = job_at(name(job));
    match cluster.delete(&at, uid(job).unwrap_or_default()).await? {
        Deleted::Now | Deleted::Going => cx.log(format!("removed Job {}", at.name)),
        Deleted::Gone | Deleted::Replaced => {}
    }
    Ok(())
}

/// Runs it once: makes it or finds it again, follows it to its end, and removes it.
pub(super) async fn look(
    cx: &TaskContext,
    cluster: &Cluster,
    check: &str,
    index: usize,
    number: u32,
    planned: &Planned,
    patience: Patience,
) -> Result<Sample, TaskError> {
    let object = planned.object(cx, check, index, number);
    let job_name = name(&object).to_owned();
    // It ended before a crash, and may be gone: what it said is on disk.
    if let Some(code) = ended_before(cx, &job_name) {
        if let Some(job) = cluster.get(&job_at(&job_name)).await? {
            remove(cx, cluster, &job).await?;
        }
        return Ok(planned.ends.judged(code, ""));
    }
    let job = match cluster.get(&job_at(&job_name)).await? {
        Some(job) if texts(&job, "/metadata/labels").get(CHECK) == Some(&owner(cx)) => {
            cx.log(format!("{check}: Job {job_name} is found again"));
            job
        }
        Some(_) => {
            return Err(TaskError::permanent(format!("Job {job_name} exists and is not this check's"))
                .hint("remove it, and start a new run"));
        }
        None => {
            cx.log(format!("{check}: Job {job_name} of {}", planned.image));
            cluster.apply(&object, false, false).await?
        }
    };
    let followed = follow(cx, cluster, check, planned, patience, &job).await;
    if let Ok((_, Some(code))) = &followed {
        // Before it is removed: after a crash nobody could say what came of it.
        cx.checkpoint(&format!("job {job_name} ended {code}")).await?;
    }
    let removed = remove_until_gone(cx, cluster, &job).await;
    let (sample, _) = followed?;
    removed?;
    Ok(sample)
}

fn ended_before(cx: &TaskContext, job: &str) -> Option<i64> {
    let start = format!("job {job} ended ");
    cx.checkpoints.iter().find_map(|mark| mark.strip_prefix(&start)?.parse().ok())
}

/// A removal must not be lost to an API server that is away for a moment, nor to a cancel.
async fn remove_until_gone(cx: &TaskContext, cluster: &Cluster, job: &Value) -> Result<(), TaskError> {
    let mut last = Ok(());
    for _ in 0..3 {
        last = remove(cx, cluster, job).await;
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    last.map_err(|error| {
        let left = format!("Job {} is left: it ends by its deadline, and goes an hour after that", name(job));
        let message = format!("a Job could not be removed: {}", error.message);
        TaskError { message, ..error }.details([left])
    })
}

/// Follows a Job to its end: what it means, and the exit code where its container ran.
async fn follow(
    cx: &TaskContext,
    cluster: &Cluster,
    check: &str,
    planned: &Planned,
    patience: Patience,
    job: &Value,
) -> Result<(Sample, Option<i64>), TaskError> {
    let deadline = planned.ends.deadline();
    // The cluster counts too, from the first pod; a few seconds let it say so itself.
    let until = Instant::now() + deadline + Duration::from_secs(5);
    let selector = format!("{CHECK}={}", owner(cx));
    let mut log = Streamed::default();
    let mut signals = Signals::default();
    let mut wait = Duration::from_millis(100);
    let mut shown = String::new();
    let mut met = false;
    let mut given_up = 0;
    let late = |log: &Streamed| {
        Sample::wrong(format!("it did not end within {}{}", show_duration(deadline), tail(&log.last)))
    };
    loop {
        if cx.cancel.is_cancelled() {
            return Err(super::stopped(check));
        }
        let pods = cluster.list("v1", "Pod", &selector).await?;
        let pod = pods.iter().find(|pod| owned(pod, job));
        if let Some(pod) = pod {
            if !met {
                met = true;
                not_met(cluster, check, pod).await?;
            }
            log.take(cx, cluster, check, pod).await;
            if let Some(code) = exit_code(pod) {
                // The last lines may have come between the log and the status.
                log.take(cx, cluster, check, pod).await;
                return Ok((planned.ends.judged(code, &tail(&log.last)), Some(code)));
            }
            match pod_signs(pod, patience, &mut signals, Instant::now()) {
                PodSigns::Fine => {}
                PodSigns::Waits(note) if note != shown => {
                    cx.log(format!("{check}: {note}"));
                    shown = note;
                }
                PodSigns::Waits(_) => {}
                PodSigns::Fails(failure) => return Ok((Sample::nothing(failure.message), None)),
            }
            if let Some(words) = lost(pod) {
                return Ok((Sample::nothing(words), None));
            }
        }
        let live = cluster.get(&job_at(name(job))).await?;
        let Some(live) = live.filter(|live| uid(live) == uid(job)) else {
            return Ok((Sample::nothing("its Job was removed by somebody else"), None));
        };
        match failed(&live) {
            Some((reason, _)) if reason == "DeadlineExceeded" => return Ok((late(&log), None)),
            Some((reason, message)) => {
                // The pod's own words may come a moment later.
                given_up += 1;
                if given_up > 3 {
                    return Ok((Sample::nothing(format!("its Job failed: {reason}: {message}")), None));
                }
            }
            None => {}
        }
        if Instant::now() >= until {
            return Ok((late(&log), None));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cx.cancel.cancelled() => {}
        }
        wait = (wait * 3 / 2).min(Duration::from_secs(1));
    }
}

/// A webhook may have given the pod labels that nobody planned.
async fn not_met(cluster: &Cluster, check: &str, pod: &Value) -> Result<(), TaskError> {
    let services = cluster.list("v1", "Service", "").await?;
    match met_by(&services, &texts(pod, "/metadata/labels")) {
        None => Ok(()),
        Some(service) => Err(TaskError::permanent(format!(
            "check `{check}`: Service {service} sends requests to the pod of the check, which was removed"
        ))
        .hint("a webhook of the cluster gave the pod labels that the Service selects")),
    }
}

fn owned(pod: &Value, job: &Value) -> bool {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner["uid"].as_str() == uid(job))
}

fn exit_code(pod: &Value) -> Option<i64> {
    let statuses = pod.pointer("/status/containerStatuses")?.as_array()?;
    let status = statuses.iter().find(|status| status["name"] == CONTAINER)?;
    status.pointer("/state/terminated/exitCode")?.as_i64()
}

/// A pod that ended without its container: evicted, or its node went away.
fn lost(pod: &Value) -> Option<String> {
    (pod.pointer("/status/phase")? == "Failed").then(|| {
        let of = |key: &str| pod["status"][key].as_str().unwrap_or_default().to_owned();
        format!("pod {} was lost: {} {}", name(pod), of("reason"), of("message")).trim_end().to_owned()
    })
}

/// Why the Job controller gave up.
fn failed(job: &Value) -> Option<(String, String)> {
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    let failed = conditions.iter().find(|one| one["type"] == "Failed" && one["status"] == "True")?;
    let of = |key: &str| failed[key].as_str().unwrap_or_default().to_owned();
    Some((of("reason"), of("message")))
}

/// The log of a pod, as far as it was taken into the run's.
#[derive(Debug, Default)]
struct Streamed {
    place: LogPlace,
    lines: usize,
    /// The last lines, for the sample.
    last: String,
}

impl Streamed {
    async fn take(&mut self, cx: &TaskContext, cluster: &Cluster, check: &str, pod: &Value) {
        for line in cluster.log_since(name(pod), CONTAINER, &mut self.place).await {
            self.lines += 1;
            if self.lines <= MAX_LINES {
                cx.log(format!("{check}: {line}"));
            } else if self.lines == MAX_LINES + 1 {
                cx.log(format!("{check}: (more than {MAX_LINES} lines: the rest is left out)"));
            }
            self.last.push_str(&line);
            self.last.push('\n');
            if self.last.len() > 4096 {
                let cut = (self.last.len() - 2048..).find(|at| self.last.is_char_boundary(*at)).unwrap_or(0);
                self.last.drain(..cut);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: Value) -> JobWith {
        serde_json::from_value(value).expect("valid")
    }

    #[test]
    fn a_kubelet_reads_a_script_as_it_was_written_and_no_value_becomes_a_part_of_it() {
        // What a kubelet makes of it (Kubernetes, third_party/forked/golang/expansion).
        fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
            let mut out = String::new();
            let mut rest = text;
            while let Some((before, after)) = rest.split_once('$') {
                out.push_str(before);
                if let Some(after) = after.strip_prefix('$') {
                    out.push('$');
                    rest = after;
                } else if let Some((name, after)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
                    out.push_str(&env.get(name).cloned().unwrap_or_else(|| format!("$({name})")));
                    rest = after;
                } else {
                    out.push('$');
                    rest = after;
                }
            }
            out + rest
        }
        let env = BTreeMap::from([("TAG".to_owned(), "gray; rm -rf /".to_owned())]);
        for script in ["echo $(TAG)", "echo \"$TAG\" $$ $(date)", "a$", "$$(TAG)", "$", "no dollar"] {
            assert_eq!(expanded(&literal(script), &env), script);
        }
        // The control: without it, a value would become a command.
        assert_eq!(expanded("echo $(TAG)", &env), "echo gray; rm -rf /");
    }

    #[test]
    fn the_pod_of_a_check_has_no_token_no_agent_and_no_label_of_a_service() {
        let job = with(json!({ "image": "smoke:1", "script": "exit 0", "env": { "TAG": "a$(B)" } }));
        let planned = job.plan(&Checks::default()).expect("planned");
        assert_eq!(planned.pod["automountServiceAccountToken"], false);
        assert_eq!(planned.pod["restartPolicy"], "Never");
        assert_eq!(planned.pod["containers"][0]["env"][0]["value"], "a$$(B)");
        assert_eq!(planned.pod["containers"][0]["args"], json!(["exit 0"]));
        let labels = labels("abc");
        assert_eq!(labels.get("msePilotAutoEnable").map(String::as_str), Some("off"));
        let service =
            |selector: Value| json!({ "metadata": { "name": "s" }, "spec": { "selector": selector } });
        for (selector, met) in [
            (json!({ "app": "a" }), None),
            (json!({}), None),
            (json!({ "graylane.dev/check": "abc" }), Some("s")),
            (json!({ "msePilotAutoEnable": "off" }), Some("s")),
        ] {
            assert_eq!(met_by(&[service(selector.clone())], &labels), met, "{selector}");
        }
    }

    #[test]
    fn mistakes_are_found_in_the_file() {
        let checks = Checks { images: vec!["registry.example.com/qa/".into()], ..Checks::default() };
        for (job, expected) in [
            (
                json!({ "image": "registry.example.com/qa/a:1", "script": "echo $TAG", "env": { "TAG": "${{ inputs.tag }}" } }),
                vec![],
            ),
            (
                json!({ "image": "registry.example.com/qa/a:1", "script": "echo ${{ inputs.tag }}" }),
                vec!["/script: an expression cannot stand in a script (write it out)"],
            ),
            (json!("${{ inputs.job }}"), vec![": an expression cannot stand in a job (write it out)"]),
            (
                json!({ "image": "registry.example.com/qa/a:1", "args": ["${{ inputs.tag }}"] }),
                vec!["/args/0: an expression cannot stand in arguments (write it out)"],
            ),
            (
                json!({ "image": "registry.example.com/qa/a:1", "script": "true", "args": ["a"] }),
                vec!["/args: the job has a script and arguments (keep one of `script` and `args`)"],
            ),
            (
                json!({ "image": "evil.test/a:1", "env": { "A B": "x" } }),
                vec![
                    "/image: the environment does not let checks use the image `evil.test/a:1` ()",
                    "/env/A B: `A B` cannot be the name of a variable ()",
                ],
            ),
        ] {
            let found: Vec<String> = check(&job, Some(&checks))
                .into_iter()
                .map(|finding| format!("{}: {} ({})", finding.pointer, finding.message, finding.label))
                .collect();
            assert_eq!(found, expected, "{job}");
        }
    }
}
