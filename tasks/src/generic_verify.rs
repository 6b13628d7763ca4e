//! `generic-verify`: judges a lane by real requests and by the health of its pods. Only reads.

mod http;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::{DURATION_PATTERN, parse_duration};
use graylane_engine::document::Finding;
use graylane_engine::task::{self, Action, Change, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::http::{AsWhom, Expectation, HttpWith, Request, sample};
use crate::cluster::{Cluster, Clusters};
use crate::environment::Site;
use crate::inventory::objects;
use crate::lane::labels::selector;
use crate::lane::route::{self, Way, is_route};
use crate::manifest::{kind, name};
use crate::mse_gray_deploy;
use crate::rollout::{Expect, Signals, Verdict, judge};
use crate::spec::{self, check_duration, check_environment, check_lane_tag};

/// The task type.
pub struct GenericVerify {
    clusters: Arc<Clusters>,
}

impl GenericVerify {
    /// The type, over these clusters.
    pub fn new(clusters: Arc<Clusters>) -> Self {
        GenericVerify { clusters }
    }
}

/// `with` of a `generic-verify` task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The environment, by the name in its file.
    environment: String,
    /// The lane's tag.
    tag: String,
    /// What is looked at, one after the other.
    #[schemars(extend("minItems" = 1))]
    checks: Vec<CheckWith>,
}

/// One check: `http` or `rollout`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CheckWith {
    /// What it shows, in words.
    name: String,
    /// How often it looks; once where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    samples: Option<u32>,
    /// The pause between two looks.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    interval: Option<String>,
    /// The share of looks that must be right, from 0 to 1; all where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    success_rate: Option<f64>,
    /// How long the gateway is given to learn the route: answers before the first right one do not count. 10s for the
    /// lane, and nothing for the baseline, where nothing is said: a first wrong answer may be the leak that is looked for.
    #[serde(default)]
    #[schemars(regex(pattern = DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    settle: Option<String>,
    /// Asks the gateway.
    #[serde(default)]
    http: Option<HttpWith>,
    /// Looks whether every Deployment of the lane is up.
    #[serde(default)]
    rollout: Option<RolloutWith>,
}

impl CheckWith {
    /// Whether it asks as everybody else.
    fn meets_baseline(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.as_whom == AsWhom::Baseline)
    }
}

/// Looks whether every Deployment of the lane is up.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RolloutWith {}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Body {
    environment: String,
    tag: String,
    checks: Vec<Check>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Check {
    name: String,
    samples: u32,
    interval_ms: u64,
    success_rate: f64,
    settle_ms: u64,
    look: Look,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Look {
    Http { request: Request, expect: Expectation },
    Rollout,
}

#[async_trait]
impl Task for GenericVerify {
    fn type_name(&self) -> &'static str {
        "generic-verify"
    }

    fn summary(&self) -> &'static str {
        "judges a lane by real requests through the gateway, and by the health of its pods"
    }

    fn schema(&self) -> Value {
        graylane_engine::schema::of_spec::<With>()
    }

    fn check(&self, spec: &Value, at: &task::Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        check_environment(spec, at, &mut findings);
        check_lane_tag(spec, &mut findings);
        for (index, check) in spec.get("checks").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let Some(map) = check.as_object() else { continue };
            let at = format!("/checks/{index}");
            let kinds = ["http", "rollout"].into_iter().filter(|kind| map.contains_key(*kind)).count();
            match kinds {
                1 => {}
                0 => findings.push(
                    Finding::at(format!("{at}/name"), "the check does not say what it looks at")
                        .label("add `http` or `rollout`"),
                ),
                _ => findings.push(
                    Finding::at(format!("{at}/name"), "the check looks at two things")
                        .label("keep one of `http` and `rollout`"),
                ),
            }
            for key in ["interval", "settle"] {
                check_duration(map.get(key), &format!("{at}/{key}"), &mut findings);
            }
            if let Some(http) = map.get("http") {
                findings.extend(
                    http::check(http).into_iter().map(|finding| finding.below(&format!("{at}/http"))),
                );
            }
        }
        findings
    }

    fn claims(&self, spec: &Value) -> Vec<Claim> {
        spec::lane_claim(spec, Mode::Read)
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &["environment", "tag"]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["checks"]
    }

    fn takes_secret(&self, pointer: &str) -> bool {
        let mut parts = pointer.split('/').skip(1);
        parts.next() == Some("checks") && parts.nth(1) == Some("http") && parts.next() == Some("headers")
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let with: With = spec::read(cx)?;
        crate::lane::check_tag(&with.tag).map_err(|why| TaskError::permanent(format!("refused: {why}")))?;
        let site = spec::site(cx, &with.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let route = lane_route(cx, &cluster, &with).await?;
        let baseline = baseline_host(&site);
        let mut plan = Plan::default();
        let mut checks = Vec::new();
        for check in &with.checks {
            let planned = plan_check(check, route.as_ref(), baseline.as_deref(), &cluster, &with.tag)?;
            let object = match &planned.look {
                Look::Http { request, .. } => {
                    format!("{} (`{}`, {} samples)", planned.name, request.words(), planned.samples)
                }
                Look::Rollout => format!("{} (rollout of lane {})", planned.name, with.tag),
            };
            plan.changes.push(Change { action: Action::Check, object, diff: String::new() });
            checks.push(planned);
        }
        let body = Body { environment: with.environment, tag: with.tag, checks };
        plan.body = serde_json::to_value(body).map_err(|error| TaskError::permanent(error.to_string()))?;
        Ok(plan)
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let mut outputs = Outputs::default();
        let mut told = Vec::new();
        let mut failed = Vec::new();
        for check in &body.checks {
            cx.phase(format!("checking: {}", check.name)).await?;
            let result = carry_out(cx, &cluster, &body.tag, check).await?;
            let words = format!("{}: {} of {}", check.name, result.right, check.samples);
            match (result.passes(check), result.answers.first()) {
                (true, Some((answer, _))) => outputs.report.push(format!("{words}, for example {answer}")),
                (true, None) => outputs.report.push(words),
                (false, _) => {
                    let wrong = result.wrong.iter().take(5);
                    failed.push((
                        words,
                        wrong.map(|(answer, count)| format!("  {count} x {answer}")).collect::<Vec<_>>(),
                    ));
                }
            }
            told.push(result.value(check));
        }
        outputs.values.insert("checks".into(), Value::Array(told));
        let Some((first, details)) = failed.first().cloned() else { return Ok(outputs) };
        let mut error = TaskError::transient(format!("check failed: {first}")).details(details);
        for (words, details) in failed.into_iter().skip(1) {
            error = error.details([format!("check failed: {words}")]).details(details);
        }
        Err(error.hint(format!("`graylane lanes {}` shows whether the lane is still up", body.environment)))
    }
}

/// The lane's live route; in a plan that is only shown, the one that a task before this one would write.
async fn lane_route(cx: &TaskContext, cluster: &Cluster, with: &With) -> Result<Option<Way>, TaskError> {
    let live = objects(cluster, &selector(&with.tag)).await?;
    let assumed = cx
        .assumed
        .iter()
        .filter_map(|plan| serde_json::from_value::<mse_gray_deploy::Body>(plan.body.clone()).ok());
    let assumed = assumed
        .filter(|body| body.environment == with.environment && body.tag == with.tag)
        .flat_map(|body| body.objects);
    Ok(live.into_iter().chain(assumed).find(is_route).map(|route| route::way(&route)))
}

/// The host of the first baseline route: where everybody else asks.
fn baseline_host(site: &Site) -> Option<String> {
    let door = site.environment.gateway.kind.rules().object();
    let route = site.services.values().flatten().find(|object| kind(object) == door)?;
    route::way(route).host
}

fn plan_check(
    check: &CheckWith,
    route: Option<&Way>,
    baseline: Option<&str>,
    cluster: &Cluster,
    tag: &str,
) -> Result<Check, TaskError> {
    let millis = |text: Option<&str>, default: &str| {
        let duration = parse_duration(text.unwrap_or(default)).map_err(TaskError::permanent)?;
        Ok::<u64, TaskError>(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let look = match (&check.http, &check.rollout) {
        (Some(http), None) => {
            let request = http
                .request(route, baseline, &cluster.gateway, tag)
                .map_err(|why| TaskError::permanent(format!("refused: check `{}`: {why}", check.name)))?;
            Look::Http { request, expect: http.expectation() }
        }
        (None, Some(_)) => Look::Rollout,
        _ => {
            return Err(TaskError::permanent(format!(
                "check `{}`: one of `http` and `rollout` is wanted",
                check.name
            )));
        }
    };
    Ok(Check {
        name: check.name.clone(),
        samples: check.samples.unwrap_or(1),
        interval_ms: millis(check.interval.as_deref(), "0s")?,
        success_rate: check.success_rate.unwrap_or(1.0),
        settle_ms: millis(check.settle.as_deref(), if check.meets_baseline() { "0s" } else { "10s" })?,
        look,
    })
}

/// What came of a check.
#[derive(Debug, Default)]
struct Looked {
    right: u32,
    taken: u32,
    /// Right answers and how often they came, the first first.
    answers: Vec<(String, u32)>,
    /// Wrong ones.
    wrong: Vec<(String, u32)>,
    latencies_ms: Vec<u64>,
}

/// How many different answers are kept.
const KEPT: usize = 10;

impl Looked {
    fn passes(&self, check: &Check) -> bool {
        self.taken > 0 && f64::from(self.right) / f64::from(self.taken) >= check.success_rate
    }

    fn add(&mut self, answer: Result<String, String>, latency: Duration) {
        self.taken += 1;
        self.latencies_ms.push(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
        let (list, text) = match answer {
            Ok(text) => {
                self.right += 1;
                (&mut self.answers, text)
            }
            Err(text) => (&mut self.wrong, text),
        };
        match list.iter().position(|(known, _)| *known == text) {
            Some(at) => list[at].1 += 1,
            None if list.len() < KEPT => list.push((text, 1)),
            None => {}
        }
    }

    fn value(&self, check: &Check) -> Value {
        let list = |answers: &[(String, u32)]| -> Vec<Value> {
            answers.iter().map(|(answer, count)| json!({ "answer": answer, "count": count })).collect()
        };
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied()
        };
        json!({
            "name": check.name, "samples": self.taken, "right": self.right, "passed": self.passes(check),
            "p50_ms": at(0.5), "p99_ms": at(0.99), "answers": list(&self.answers), "wrong": list(&self.wrong),
        })
    }
}

async fn carry_out(
    cx: &TaskContext,
    cluster: &Cluster,
    tag: &str,
    check: &Check,
) -> Result<Looked, TaskError> {
    let mut looked = Looked::default();
    let settled_at = Instant::now() + Duration::from_millis(check.settle_ms);
    let mut settled = false;
    let client = http::client();
    while looked.taken < check.samples {
        if cx.cancel.is_cancelled() {
            let hint = "`graylane lanes` shows whether the lane is still up";
            return Err(TaskError::transient(format!("stopped while checking: {}", check.name)).hint(hint));
        }
        let begun = Instant::now();
        let answer = match &check.look {
            Look::Http { request, expect } => sample(cx, &client, request, expect).await?,
            Look::Rollout => rollout(cluster, tag).await?,
        };
        // A gateway learns of a route a moment after the API server: until the first right answer nothing is counted.
        if !settled && answer.is_err() && Instant::now() < settled_at {
            cx.progress(&check.name, 0, check.samples.into(), "waiting for the first right answer");
            pause(cx, Duration::from_millis(100)).await;
            continue;
        }
        settled = true;
        looked.add(answer, begun.elapsed());
        cx.progress(&check.name, looked.taken.into(), check.samples.into(), "");
        if looked.taken < check.samples && check.interval_ms > 0 {
            pause(cx, Duration::from_millis(check.interval_ms)).await;
        }
    }
    for (answer, count) in
        looked.answers.iter().map(|a| (&a.0, a.1)).chain(looked.wrong.iter().map(|a| (&a.0, a.1)))
    {
        cx.log(format!("{}: {count} x {answer}", check.name));
    }
    Ok(looked)
}

async fn pause(cx: &TaskContext, span: Duration) {
    tokio::select! {
        () = tokio::time::sleep(span) => {}
        () = cx.cancel.cancelled() => {}
    }
}

/// Whether every Deployment of the lane is up; with what it says where one is not.
async fn rollout(cluster: &Cluster, tag: &str) -> Result<Result<String, String>, TaskError> {
    let deployments = cluster.list("apps/v1", "Deployment", &selector(tag)).await?;
    let mut up = BTreeMap::new();
    for deployment in &deployments {
        let generation = deployment.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let seen =
            crate::rollout::Seen { deployment: Some(deployment.clone()), ..crate::rollout::Seen::default() };
        let verdict = judge(
            &seen,
            Expect { generation, agent: false, pods: false, patience: crate::rollout::Patience::default() },
            &mut Signals::default(),
            Instant::now(),
        );
        match verdict {
            Verdict::Done => up.insert(name(deployment).to_owned(), "up"),
            Verdict::Waiting(ready, wanted, note) => {
                return Ok(Err(format!("{}: {ready} of {wanted} ready: {note}", name(deployment))));
            }
            Verdict::Failed(failure) => return Ok(Err(failure.message)),
        };
    }
    if up.is_empty() {
        return Ok(Err(format!("lane {tag} has no Deployment")));
    }
    Ok(Ok(format!("{} up", up.into_keys().collect::<Vec<_>>().join(", "))))
}
