//! `generic-verify`: judges a lane by checks, a file a kind, and marks what it found right, so that production gets that.
//!
//! It changes no lane: it writes the mark, while it holds the lane's lease, and the Jobs of its `job` checks, which it
//! removes again.

mod command;
mod http;
mod job;
mod json_path;
mod program;
mod prometheus;
mod reach;
mod rollout;
mod samples;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::{DURATION_PATTERN, parse_duration};
use graylane_engine::document::Finding;
use graylane_engine::task::{self, Action, Change, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use self::command::CommandWith;
use self::http::{AsWhom, Expectation, HttpWith, Request};
use self::job::JobWith;
use self::prometheus::PrometheusWith;
use self::reach::HttpClient;
use self::rollout::{RolloutWith, Watched};
use self::samples::{Bounds, Looked, OnNoData, Said, Sample, Verdict};
use crate::cluster::{Cluster, Clusters};
use crate::environment::Site;
use crate::inventory::objects;
use crate::lane::labels::{SERVICE_NAME, selector};
use crate::lane::route::{self, Way, is_route};
use crate::lease::OnCluster;
use crate::manifest::{images, kind, texts};
use crate::mse_gray_deploy;
use crate::rights::{Extra, refuse_without_part};
use crate::spec::{self, check_duration, check_environment, check_lane_tag, images_value};
use crate::verified::{GrayCopy, copies};

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

/// One check: `http`, `job`, `prometheus`, `rollout` or `command`.
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
    /// What it means that there was nothing to judge; `fail` where nothing is said. For `prometheus` and `job`.
    #[serde(default)]
    on_no_data: Option<OnNoData>,
    /// Asks the gateway.
    #[serde(default)]
    http: Option<HttpWith>,
    /// Runs an image as a Kubernetes Job.
    #[serde(default)]
    job: Option<JobWith>,
    /// Asks Prometheus.
    #[serde(default)]
    prometheus: Option<PrometheusWith>,
    /// Looks whether every Deployment of the lane is up.
    #[serde(default)]
    rollout: Option<RolloutWith>,
    /// Runs a program that the environment lists.
    #[serde(default)]
    command: Option<CommandWith>,
}

/// The kinds of checks, by the key that says what one looks at.
const KINDS: [&str; 5] = ["http", "job", "prometheus", "rollout", "command"];

impl CheckWith {
    /// How long wrong answers at the beginning do not count, where nothing is said.
    fn settles(&self) -> &'static str {
        let lane = self.http.as_ref().is_some_and(|http| http.as_whom == AsWhom::Lane);
        if lane || self.rollout.is_some() { "10s" } else { "0s" }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The environment.
    pub(crate) environment: String,
    /// The lane.
    pub(crate) tag: String,
    checks: Vec<Check>,
    /// Whether there is a lane, whose copies are marked; plans of before were all carried out so.
    #[serde(default = "yes")]
    marks: bool,
}

fn yes() -> bool {
    true
}

/// Whether carrying a plan out writes in the lane; production alone is only looked at.
fn marks(plan: &Plan) -> bool {
    spec::body::<Body>(plan).is_ok_and(|body| body.marks)
}

/// Whether carrying a plan out makes Jobs.
fn has_jobs(plan: &Plan) -> bool {
    spec::body::<Body>(plan).is_ok_and(|body| body.has_jobs())
}

impl Body {
    fn has_jobs(&self) -> bool {
        self.checks.iter().any(|check| matches!(check.look, Look::Job(_)))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Check {
    name: String,
    samples: u32,
    interval_ms: u64,
    success_rate: f64,
    settle_ms: u64,
    #[serde(default)]
    on_no_data: OnNoData,
    look: Look,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Look {
    Http { request: Request, expect: Expectation },
    Job(job::Planned),
    Prometheus(prometheus::Planned),
    Rollout(rollout::Planned),
    Command(command::Planned),
}

impl Look {
    fn kind(&self) -> &'static str {
        match self {
            Look::Http { .. } => "http",
            Look::Job(_) => "job",
            Look::Prometheus(_) => "prometheus",
            Look::Rollout(_) => "rollout",
            Look::Command(_) => "command",
        }
    }

    /// In words, without any value that was given for a header or a variable.
    fn words(&self, tag: &str) -> String {
        match self {
            Look::Http { request, .. } => request.words(),
            Look::Job(planned) => planned.words(),
            Look::Prometheus(planned) => planned.words(),
            Look::Rollout(planned) => match planned.span_ms {
                Some(ms) => {
                    let span = graylane_engine::clock::show_duration(Duration::from_millis(ms));
                    format!("lane {tag} is up for {span}")
                }
                None => format!("lane {tag} is up"),
            },
            Look::Command(planned) => planned.words(),
        }
    }
}

impl Check {
    fn bounds(&self) -> Bounds<'_> {
        let (min_samples, latency) = match &self.look {
            Look::Http { expect, .. } => (1, Some(&expect.latency)),
            Look::Prometheus(planned) => (planned.min_samples, None),
            Look::Job(_) | Look::Rollout(_) | Look::Command(_) => (1, None),
        };
        Bounds { success_rate: self.success_rate, on_no_data: self.on_no_data, min_samples, latency }
    }
}

impl OnCluster for GenericVerify {
    /// It marks what it looked at, where its plan says so.
    fn uses(&self, plan: Option<&Plan>, resource: &str, verb: &str) -> bool {
        match resource {
            "deployments" if verb == "patch" => plan.is_none_or(marks),
            "pods/log" => plan.is_some_and(has_jobs),
            // What a plan looks at, it has looked at when it is there.
            _ => plan.is_none() && verb == "list",
        }
    }

    fn writes(&self, plan: &Plan) -> bool {
        marks(plan)
    }

    /// Nothing of what a check wrote.
    fn takes_back(&self) -> bool {
        false
    }
}

#[async_trait]
impl Task for GenericVerify {
    fn type_name(&self) -> &'static str {
        "generic-verify"
    }

    fn summary(&self) -> &'static str {
        "judges a lane by requests, Jobs, metrics, the health of its pods and the operator's programs"
    }

    fn schema(&self) -> Value {
        graylane_engine::schema::of_spec::<With>()
    }

    fn check(&self, spec: &Value, at: &task::Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let site = check_environment(spec, at, &mut findings);
        check_lane_tag(spec, &mut findings);
        if let Some(finding) =
            spec.get("checks").and_then(|checks| written_out(checks, "/checks", "`checks`"))
        {
            findings.push(finding);
        }
        for (index, check) in spec.get("checks").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let at = format!("/checks/{index}");
            findings.extend(written_out(check, &at, "a check"));
            findings.extend(check_one(check, site.as_ref()).into_iter().map(|finding| finding.below(&at)));
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
        &["checks", "images", "verified"]
    }

    fn takes_secret(&self, pointer: &str) -> bool {
        let parts: Vec<&str> = pointer.split('/').skip(1).collect();
        matches!(parts.as_slice(), ["checks", _, "http", "headers", ..] | ["checks", _, "command", "env", ..])
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let with: With = spec::read(cx)?;
        crate::lane::check_tag(&with.tag).map_err(|why| TaskError::permanent(format!("refused: {why}")))?;
        let site = spec::site(cx, &with.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        if with.checks.iter().any(|check| check.job.is_some()) {
            refuse_without_part(&cluster, &site, Extra::Jobs).await?;
        }
        let lane = lane_objects(cx, &cluster, &with).await?;
        let route = lane.iter().find(|object| is_route(object)).map(route::way);
        let baseline = baseline_host(&site);
        let doors = Doors { route: route.as_ref(), baseline: baseline.as_deref() };
        let mut plan = Plan::default();
        let mut checks = Vec::new();
        for check in &with.checks {
            let planned = plan_check(check, &doors, &site, &cluster, &with.tag)?;
            match &planned.look {
                Look::Job(job) => job.preflight(cx, &cluster, &planned.name).await?,
                Look::Http { request, .. } => {
                    plan.warnings.extend(request.changes(&planned.name, planned.samples));
                }
                Look::Prometheus(_) | Look::Rollout(_) | Look::Command(_) => {}
            }
            let times =
                if planned.samples == 1 { "1 sample" } else { &format!("{} samples", planned.samples) };
            let object = format!(
                "{} ({}: `{}`, {times})",
                planned.name,
                planned.look.kind(),
                planned.look.words(&with.tag)
            );
            plan.changes.push(Change { action: Action::Check, object, diff: String::new() });
            checks.push(planned);
        }
        let deployments = lane.iter().filter(|object| kind(object) == "Deployment");
        let marks = deployments.clone().next().is_some();
        let expected: Map<String, Value> = deployments
            .map(|object| {
                let service = texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
                (service, images_value(&images(object)))
            })
            .collect();
        plan.expected.insert("images".into(), Value::Object(expected));
        let body = Body { environment: with.environment, tag: with.tag, checks, marks };
        plan.body = serde_json::to_value(body).map_err(|error| TaskError::permanent(error.to_string()))?;
        Ok(plan)
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        Verify { cx, site: &site, cluster: &cluster, body: &body, client: reach::client() }.run().await
    }
}

/// What no schema can say of one check.
fn check_one(check: &Value, site: Option<&Site>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(map) = check.as_object() else { return findings };
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| map.contains_key(*kind)).collect();
    let at = if map.contains_key("name") { "/name" } else { "" };
    match kinds.as_slice() {
        [_] => {}
        [] => findings.push(
            Finding::at(at, "the check does not say what it looks at")
                .label("add one of `http`, `job`, `prometheus`, `rollout` and `command`"),
        ),
        several => {
            let words = match several.len() {
                2 => "two".to_owned(),
                count => count.to_string(),
            };
            let names: Vec<String> = several.iter().map(|name| (*name).to_owned()).collect();
            findings.push(
                Finding::at(at, format!("the check looks at {words} things"))
                    .label(format!("keep one of {}", graylane_engine::schema::list(&names))),
            );
        }
    }
    for key in ["interval", "settle"] {
        check_duration(map.get(key), &format!("/{key}"), &mut findings);
    }
    let refused = |key: &str, why: &str| {
        Finding::at(format!("/{key}"), format!("`{key}` means nothing here")).on_key().label(why)
    };
    if let [one] = kinds.as_slice() {
        if map.contains_key("on_no_data") && !matches!(*one, "prometheus" | "job") {
            findings.push(refused("on_no_data", "only `prometheus` and `job` can be without an answer"));
        }
        if map.contains_key("settle") && matches!(*one, "job" | "command") {
            findings.push(refused("settle", "each look is made once"));
        }
        if *one == "job"
            && map.get("samples").and_then(Value::as_u64).is_some_and(|n| n > job::MAX_SAMPLES.into())
        {
            let finding =
                Finding::at("/samples", format!("`samples` of a job is at most {}", job::MAX_SAMPLES));
            findings.push(finding.label("each sample is a pod"));
        }
        if check.pointer("/rollout/for").is_some() && map.contains_key("samples") {
            findings.push(refused("samples", "`for` and `interval` say how often it looks"));
        }
    }
    let checks = site.map(|site| &site.environment.checks);
    let below = |key: &str, found: Vec<Finding>| {
        let at = format!("/{key}");
        found.into_iter().map(move |finding| finding.below(&at)).collect::<Vec<_>>()
    };
    if let Some(http) = map.get("http") {
        let listed = site.map(|site| (&site.environment.checks, site.environment.gateway.address.as_str()));
        findings.extend(below("http", http::check(http, listed)));
    }
    if let Some(job) = map.get("job") {
        findings.extend(below("job", job::check(job, checks)));
    }
    if let Some(prometheus) = map.get("prometheus") {
        findings.extend(below("prometheus", prometheus::check(prometheus, site)));
    }
    if let Some(command) = map.get("command") {
        findings.extend(below("command", command::check(command, checks)));
    }
    check_duration(check.pointer("/rollout/for"), "/rollout/for", &mut findings);
    findings
}

/// A finding where an expression stands for something that is carried out: a value in it would be read as its text.
fn written_out(value: &Value, at: &str, what: &str) -> Option<Finding> {
    value.as_str().filter(|text| text.replace("$${{", "").contains("${{"))?;
    let hint = match what {
        "`checks`" | "a check" => "values go into its keys, one by one",
        _ => "give its value through `env`",
    };
    Some(Finding::at(at, format!("an expression cannot stand in {what}")).label("write it out").hint(hint))
}

/// What an attempt that was told to stop says.
fn stopped(check: &str) -> TaskError {
    TaskError::transient(format!("stopped while checking: {check}"))
        .hint("`graylane lanes` shows whether the lane is still up")
}

/// The lane's live objects; in a plan that is only shown, also those that a task before this one would write.
async fn lane_objects(cx: &TaskContext, cluster: &Cluster, with: &With) -> Result<Vec<Value>, TaskError> {
    let live = objects(cluster, &selector(&with.tag)).await?;
    let assumed = cx
        .assumed
        .iter()
        .filter_map(|plan| serde_json::from_value::<mse_gray_deploy::Body>(plan.body.clone()).ok());
    let assumed = assumed
        .filter(|body| body.environment == with.environment && body.tag == with.tag)
        .flat_map(|body| body.objects);
    Ok(live.into_iter().chain(assumed).collect())
}

/// The host of the first baseline route: where everybody else asks.
fn baseline_host(site: &Site) -> Option<String> {
    let door = site.environment.gateway.kind.rules().object();
    let route = site.services.values().flatten().find(|object| kind(object) == door)?;
    route::way(route).host
}

/// The ways in.
struct Doors<'d> {
    route: Option<&'d Way>,
    baseline: Option<&'d str>,
}

fn plan_check(
    check: &CheckWith,
    doors: &Doors<'_>,
    site: &Site,
    cluster: &Cluster,
    tag: &str,
) -> Result<Check, TaskError> {
    let millis = |text: Option<&str>, default: &str| {
        let duration = parse_duration(text.unwrap_or(default)).map_err(TaskError::permanent)?;
        Ok::<u64, TaskError>(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let refused = |why: String| TaskError::permanent(format!("refused: check `{}`: {why}", check.name));
    let listed = &site.environment.checks;
    let mut samples = check.samples.unwrap_or(1);
    let mut interval_ms = millis(check.interval.as_deref(), "0s")?;
    let look = match (&check.http, &check.job, &check.prometheus, &check.rollout, &check.command) {
        (Some(http), None, None, None, None) => {
            let made = http.request(doors.route, doors.baseline, &cluster.gateway, listed, tag);
            Look::Http { request: made.map_err(refused)?, expect: http.expectation().map_err(refused)? }
        }
        (None, Some(job), None, None, None) => {
            if samples > job::MAX_SAMPLES {
                return Err(refused(format!("`samples` of a job is at most {}", job::MAX_SAMPLES)));
            }
            Look::Job(job.plan(listed).map_err(refused)?)
        }
        (None, None, Some(prometheus), None, None) => {
            Look::Prometheus(prometheus.plan(site).map_err(refused)?)
        }
        (None, None, None, Some(with), None) => {
            let span = with.span.as_deref().map(parse_duration).transpose().map_err(refused)?;
            if let Some(span) = span {
                interval_ms = millis(check.interval.as_deref(), "1s")?.max(100);
                samples = rollout::looks(span, Duration::from_millis(interval_ms));
            }
            let span_ms = span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            Look::Rollout(rollout::Planned { span_ms })
        }
        (None, None, None, None, Some(command)) => Look::Command(command.plan(listed).map_err(refused)?),
        _ => return Err(refused("it looks at one thing".into())),
    };
    Ok(Check {
        name: check.name.clone(),
        samples,
        interval_ms,
        success_rate: check.success_rate.unwrap_or(1.0),
        settle_ms: millis(check.settle.as_deref(), check.settles())?,
        on_no_data: check.on_no_data.unwrap_or_default(),
        look,
    })
}

/// One attempt.
struct Verify<'v> {
    cx: &'v TaskContext,
    site: &'v Site,
    cluster: &'v Cluster,
    body: &'v Body,
    client: HttpClient,
}

/// What came of one check.
struct Done<'c> {
    check: &'c Check,
    looked: Looked,
    verdict: Verdict,
}

impl Verify<'_> {
    async fn run(&self) -> Result<Outputs, TaskError> {
        let cx = self.cx;
        if self.body.has_jobs() {
            job::sweep(cx, self.cluster, &self.job_names()).await?;
        }
        let before = self.lane().await?;
        let mut unmarked = Vec::new();
        for copy in before.iter().filter(|_| self.body.marks) {
            if let Err(error) = copy.clear_mark(cx, self.cluster).await {
                unmarked.push(format!("the mark of {} could not be taken away: {error}", copy.at));
            }
        }
        let mut done = Vec::new();
        for (index, check) in self.body.checks.iter().enumerate() {
            cx.phase(format!("checking: {}", check.name)).await?;
            let looked = self.carry_out(index, check).await?;
            let verdict = looked.verdict(&check.bounds());
            done.push(Done { check, looked, verdict });
        }
        let values = samples::values(|keep| {
            done.iter()
                .map(|one| one.looked.value(&one.check.name, one.check.look.kind(), &one.verdict, keep))
                .collect()
        });
        let values: Map<String, Value> = [("checks".to_owned(), Value::Array(values))].into_iter().collect();
        if let Some(error) = self.failure(&done) {
            return Err(error.details(unmarked).values(values));
        }
        self.succeed(&before, &done, values, unmarked).await
    }

    /// The lane's copies as they stand.
    async fn lane(&self) -> Result<Vec<GrayCopy>, TaskError> {
        copies(self.cluster, &selector(&self.body.tag)).await
    }

    /// The Jobs of this attempt, which may be there from before a crash.
    fn job_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (index, check) in self.body.checks.iter().enumerate() {
            if let Look::Job(planned) = &check.look {
                names.extend(
                    (1..=check.samples).map(|n| job::name_of(self.cx, planned, &check.name, index, n)),
                );
            }
        }
        names
    }

    /// Everything that failed, as one error; a person is asked only where nothing else is wrong.
    fn failure(&self, done: &[Done<'_>]) -> Option<TaskError> {
        let mut error: Option<TaskError> = None;
        let failed = done.iter().filter(|one| matches!(one.verdict, Verdict::Failed(_)));
        let held = done.iter().filter(|one| matches!(one.verdict, Verdict::Held(_)));
        for one in failed.chain(held) {
            let name = &one.check.name;
            let (words, make): (String, fn(String) -> TaskError) = match &one.verdict {
                Verdict::Passed => continue,
                Verdict::Failed(why) => (format!("check failed: {name}: {why}"), TaskError::transient),
                Verdict::Held(why) => (format!("check without data: {name}: {why}"), TaskError::hold),
            };
            let complaints = one.looked.complaints();
            let said = complaints.iter().take(5).map(|said| match said.count {
                1 => format!("  sample {}: {}", said.first, said.text),
                count => format!("  {count} samples, the first is {}: {}", said.first, said.text),
            });
            let said: Vec<String> = said.collect();
            error = Some(match error {
                None => make(words).details(said),
                Some(error) => error.details([words]).details(said),
            });
        }
        let hint = format!("`graylane lanes {}` shows whether the lane is still up", self.body.environment);
        error.map(|error| error.hint(hint))
    }

    /// What was found right becomes the mark that promote asks for.
    async fn succeed(
        &self,
        before: &[GrayCopy],
        done: &[Done<'_>],
        values: Map<String, Value>,
        mut unmarked: Vec<String>,
    ) -> Result<Outputs, TaskError> {
        let after = self.lane().await?;
        let mut verified = Map::new();
        let mut by_digest = Map::new();
        for copy in &after {
            let same = before.iter().any(|was| was.at == copy.at && was.template == copy.template);
            if !same {
                let words = format!("{} was changed while it was verified", copy.at);
                return Err(TaskError::transient(words)
                    .hint("what was seen may be of either")
                    .values(values));
            }
            let images = copy.images().map_err(|why| TaskError::transient(why).values(values.clone()))?;
            verified.insert(
                copy.service.clone(),
                json!({ "object": copy.at.to_string(), "template": copy.template, "images": images }),
            );
            by_digest.insert(copy.service.clone(), images_value(&images));
            if !self.body.marks {
                unmarked.push(format!("{} came after the plan, and is not marked as verified", copy.at));
            } else if let Err(error) = copy.write_mark(self.cx, self.cluster, images).await {
                unmarked.push(format!("{} could not be marked as verified: {error}", copy.at));
            }
        }
        let mut outputs = Outputs { values, report: unmarked };
        outputs.values.insert("images".into(), Value::Object(by_digest));
        outputs.values.insert("verified".into(), Value::Object(verified));
        for one in done {
            let words = format!("{}: {}", one.check.name, one.looked.words());
            outputs.report.push(match one.looked.example() {
                Some(answer) => format!("{words}, for example {answer}"),
                None => words,
            });
        }
        Ok(outputs)
    }

    async fn carry_out(&self, index: usize, check: &Check) -> Result<Looked, TaskError> {
        let mut looked = Looked::default();
        let mut watched = Watched::default();
        let settled_at = Instant::now() + Duration::from_millis(check.settle_ms);
        // A gateway learns of a route a moment after the API server: until the first right answer nothing is counted.
        let first = loop {
            let sample = self.look(index, check, 1, &mut watched).await?;
            if sample.is_right() || Instant::now() >= settled_at {
                break sample;
            }
            self.cx.progress(&check.name, 0, check.samples.into(), "waiting for the first right answer");
            self.pause(Duration::from_millis(100)).await;
        };
        self.take(check, &mut looked, 1, first);
        let interval = Duration::from_millis(check.interval_ms);
        match &check.look {
            Look::Http { request, expect } if request.concurrency > 1 => {
                let ask = |number: u32| async move {
                    self.pause(interval).await;
                    self.going_on(check)?;
                    Ok::<_, TaskError>((number, http::look(self.cx, &self.client, request, expect).await?))
                };
                let at_once = request.concurrency as usize;
                let mut answers = futures::stream::iter(2..=check.samples).map(ask).buffer_unordered(at_once);
                while let Some(answer) = answers.next().await {
                    let (number, sample) = answer?;
                    self.take(check, &mut looked, number, sample);
                }
            }
            _ => {
                for number in 2..=check.samples {
                    self.pause(interval).await;
                    let sample = self.look(index, check, number, &mut watched).await?;
                    self.take(check, &mut looked, number, sample);
                }
            }
        }
        if let Look::Http { .. } = check.look
            && let Some(example) = looked.example()
        {
            self.cx.log(format!("{}: {} right, for example {example}", check.name, looked.words()));
        }
        Ok(looked)
    }

    fn going_on(&self, check: &Check) -> Result<(), TaskError> {
        if self.cx.cancel.is_cancelled() { Err(stopped(&check.name)) } else { Ok(()) }
    }

    async fn look(
        &self,
        index: usize,
        check: &Check,
        number: u32,
        watched: &mut Watched,
    ) -> Result<Sample, TaskError> {
        self.going_on(check)?;
        let (cx, name) = (self.cx, check.name.as_str());
        match &check.look {
            Look::Http { request, expect } => http::look(cx, &self.client, request, expect).await,
            Look::Job(planned) => {
                let patience = self.site.environment.patience();
                job::look(cx, self.cluster, name, index, number, planned, patience).await
            }
            Look::Prometheus(planned) => prometheus::look(cx, &self.client, self.site, name, planned).await,
            Look::Rollout(_) => rollout::look(self.cluster, &self.body.tag, watched).await,
            Look::Command(planned) => command::look(cx, name, planned).await,
        }
    }

    /// Counts a look, tells it, and logs what is not the same every time.
    fn take(&self, check: &Check, looked: &mut Looked, number: u32, sample: Sample) {
        /// So many looks of one check are logged one by one.
        const LOGGED: u32 = 200;
        let (word, text) = match &sample.said {
            Said::Right(text) => ("right", text),
            Said::Wrong(text) => ("wrong", text),
            Said::Nothing(text) => ("no data", text),
        };
        let told = word != "right" || !matches!(check.look, Look::Http { .. });
        if told && looked.taken < LOGGED {
            self.cx.log(format!("{}: sample {number}: {word}: {text}", check.name));
        }
        looked.add(number, sample);
        self.cx.progress(&check.name, looked.taken.into(), check.samples.into(), "");
    }

    async fn pause(&self, span: Duration) {
        if span.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = self.cx.cancel.cancelled() => {}
        }
    }
}
