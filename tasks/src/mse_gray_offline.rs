//! `mse-gray-offline`: takes a lane down. Routes first, then a pause in which requests under way end, then the rest.
//!
//! Deletes by uid what carries the lane's labels, and nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::{parse_duration, show_duration};
use graylane_engine::document::Finding;
use graylane_engine::task::{self, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::{Cluster, Clusters, Deleted, full_name};
use crate::inventory::{LANE_KINDS, is_ours, lanes, objects};
use crate::lane::labels::{SERVICE_NAME, selector};
use crate::manifest::{ObjectRef, texts, uid};
use crate::mse_gray_deploy::{self, change};
use crate::secret::DigestKey;
use crate::spec::{self, check_duration, check_environment, check_lane_tag, check_service};

/// The task type.
pub struct MseGrayOffline {
    clusters: Arc<Clusters>,
    key: DigestKey,
}

impl MseGrayOffline {
    /// The type, over these clusters.
    pub fn new(clusters: Arc<Clusters>, key: DigestKey) -> Self {
        MseGrayOffline { clusters, key }
    }
}

/// How long requests under way are waited for where nothing is said.
pub(crate) const DRAIN: &str = "10s";

/// `with` of a `mse-gray-offline` task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The environment, by the name in its file.
    environment: String,
    /// The lane's tag.
    tag: String,
    /// The only services to take down; all of the lane where none are named.
    #[serde(default)]
    services: Option<Vec<String>>,
    /// How long requests under way are waited for after the route is gone; 10s where nothing is said.
    #[serde(default)]
    #[schemars(regex(pattern = graylane_engine::clock::DURATION_PATTERN), extend("x-expected" = "a duration is a number and a unit, as in `90s`, `10m` or `1h30m`"))]
    drain: Option<String>,
    /// What it means that there is no such lane.
    #[serde(default)]
    on_missing: OnMissing,
}

/// What it means that there is no such lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnMissing {
    /// A mistake: a mistyped tag is not a success.
    #[default]
    Fail,
    /// Nothing to do.
    Pass,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) environment: String,
    pub(crate) tag: String,
    pub(crate) drain_ms: u64,
    /// Routes first.
    pub(crate) objects: Vec<Doomed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Doomed {
    #[serde(flatten)]
    pub(crate) at: ObjectRef,
    pub(crate) uid: String,
}

#[async_trait]
impl Task for MseGrayOffline {
    fn type_name(&self) -> &'static str {
        "mse-gray-offline"
    }

    fn summary(&self) -> &'static str {
        "takes a gray lane down: the route, then what it led to"
    }

    fn schema(&self) -> Value {
        graylane_engine::schema::of_spec::<With>()
    }

    fn check(&self, spec: &Value, at: &task::Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let site = check_environment(spec, at, &mut findings);
        check_lane_tag(spec, &mut findings);
        check_duration(spec.get("drain"), "/drain", &mut findings);
        for (index, service) in
            spec.get("services").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            if let Some(service) = service.as_str().filter(|text| !text.contains("${{")) {
                let mut wrong = Vec::new();
                check_service(service, &format!("/services/{index}"), site.as_ref(), &mut wrong);
                findings.extend(wrong.into_iter().map(|finding| Finding { on_key: false, ..finding }));
            }
        }
        findings
    }

    fn claims(&self, spec: &Value) -> Vec<Claim> {
        spec::lane_claim(spec, Mode::Write)
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &["environment", "tag"]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["removed"]
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let with: With = spec::read(cx)?;
        crate::lane::check_tag(&with.tag).map_err(|why| TaskError::permanent(format!("refused: {why}")))?;
        let site = spec::site(cx, &with.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let drain = parse_duration(with.drain.as_deref().unwrap_or(DRAIN)).map_err(TaskError::permanent)?;
        let mut plan = Plan::default();
        let mut found = objects(&cluster, &selector(&with.tag)).await?;
        // What a task before this one would deploy; only where nothing is run.
        found.extend(assumed(cx, &with));
        if let Some(services) = &with.services {
            let services: BTreeSet<&str> = services.iter().map(String::as_str).collect();
            found.retain(|object| {
                texts(object, "/metadata/labels")
                    .get(SERVICE_NAME)
                    .is_some_and(|name| services.contains(name.as_str()))
            });
        }
        found.sort_by_key(|object| {
            LANE_KINDS.iter().position(|(_, kind)| *kind == crate::manifest::kind(object))
        });
        if found.is_empty() && with.on_missing == OnMissing::Fail {
            let known: Vec<String> = lanes(&cluster, &site).await?.into_iter().map(|lane| lane.tag).collect();
            let error =
                TaskError::permanent(format!("there is no lane `{}` in {}", with.tag, cluster.namespace));
            return Err(match known.as_slice() {
                [] => error.hint("there is no lane at all; `on_missing: pass` makes that a success"),
                _ => error.hint(format!(
                    "there is {}; `on_missing: pass` makes a missing lane a success",
                    graylane_engine::schema::list(&known)
                )),
            });
        }
        let mut doomed = Vec::new();
        for object in &found {
            plan.changes.push(change(&cluster.namespace, Some(object), None, &self.key));
            if !is_ours(object) {
                plan.warnings
                    .push(format!("{} was made by another tool", full_name(&cluster.namespace, object)));
            }
            doomed
                .push(Doomed { at: ObjectRef::of(object), uid: uid(object).unwrap_or_default().to_owned() });
        }
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let body = Body { environment: with.environment, tag: with.tag, drain_ms, objects: doomed };
        plan.warnings
            .push("this cannot be undone: a lane that is down is deployed again, not brought back".into());
        spec::seal(plan, &body, &site)
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        Offline::new(cx, &cluster, &body).run().await
    }

    async fn undo(&self, _cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let report = vec![format!("lane {} is not brought back: deploy it again", body.tag)];
        Ok(Outputs { report, ..Outputs::default() })
    }
}

fn assumed(cx: &TaskContext, with: &With) -> Vec<Value> {
    let bodies = cx
        .assumed
        .iter()
        .filter_map(|plan| serde_json::from_value::<mse_gray_deploy::Body>(plan.body.clone()).ok());
    let mine = bodies.filter(|body| body.environment == with.environment && body.tag == with.tag);
    mine.flat_map(|body| body.objects).collect()
}

/// The kinds by which requests enter: they go first.
const ROUTES: [&str; 2] = ["Ingress", "HTTPRoute"];

/// Takes objects of a lane down.
pub(crate) struct Offline<'o> {
    cx: &'o TaskContext,
    cluster: &'o Cluster,
    body: &'o Body,
    /// Names that other objects have by now.
    replaced: Mutex<BTreeSet<String>>,
}

impl<'o> Offline<'o> {
    pub(crate) fn new(cx: &'o TaskContext, cluster: &'o Cluster, body: &'o Body) -> Offline<'o> {
        Offline { cx, cluster, body, replaced: Mutex::default() }
    }
}

impl Offline<'_> {
    pub(crate) async fn run(&self) -> Result<Outputs, TaskError> {
        let of = |kind: &'static str| self.body.objects.iter().filter(move |doomed| doomed.at.kind == kind);
        let mut removed = Vec::new();
        let routes: Vec<&Doomed> =
            self.body.objects.iter().filter(|doomed| ROUTES.contains(&doomed.at.kind.as_str())).collect();
        if !routes.is_empty() {
            self.cx.phase("closing the route").await?;
            let mut closed = false;
            for doomed in routes {
                closed |= self.delete(doomed, &mut removed).await?;
            }
            // An attempt after a crash may not know whether the pause was over: it is made again.
            if closed || !self.cx.passed("drained") {
                self.drain().await?;
                self.cx.checkpoint("drained").await?;
            }
        }
        self.cx.phase("taking the lane down").await?;
        for (_, kind) in LANE_KINDS.into_iter().filter(|(_, kind)| !ROUTES.contains(kind)) {
            for doomed in of(kind) {
                self.delete(doomed, &mut removed).await?;
            }
        }
        self.until_gone().await?;
        let report = vec![format!("lane {}: {} objects removed", self.body.tag, self.body.objects.len())];
        let mut values = Map::new();
        values.insert(
            "removed".into(),
            self.body.objects.iter().map(|doomed| Value::from(doomed.at.to_string())).collect(),
        );
        Ok(Outputs { values, report })
    }

    /// The pause alone, where no route is left to be closed first.
    pub(crate) async fn drain_unless_route(&self) -> Result<(), TaskError> {
        if self.body.objects.iter().any(|doomed| ROUTES.contains(&doomed.at.kind.as_str())) {
            return Ok(());
        }
        self.drain().await?;
        self.cx.checkpoint("drained").await
    }

    async fn drain(&self) -> Result<(), TaskError> {
        let drain = Duration::from_millis(self.body.drain_ms);
        if drain.is_zero() {
            return Ok(());
        }
        self.cx.phase(format!("draining for {}", show_duration(drain))).await?;
        tokio::select! {
            () = tokio::time::sleep(drain) => Ok(()),
            () = self.cx.cancel.cancelled() => {
                Err(TaskError::transient("stopped while draining: the route is closed, the pods still run"))
            }
        }
    }

    /// Whether the object was still there.
    async fn delete(&self, doomed: &Doomed, removed: &mut Vec<ObjectRef>) -> Result<bool, TaskError> {
        if self.cx.cancel.is_cancelled() {
            return Err(TaskError::transient(format!(
                "stopped before {}: it and what follows are still there",
                doomed.at
            )));
        }
        match self.cluster.delete(&doomed.at, &doomed.uid).await? {
            Deleted::Accepted => {
                self.cx.log(format!("deleted {}", doomed.at));
                removed.push(doomed.at.clone());
                Ok(true)
            }
            Deleted::Gone => Ok(false),
            Deleted::Replaced => {
                self.cx.log(format!("{} is another object by now and stays", doomed.at));
                self.replaced.lock().unwrap_or_else(PoisonError::into_inner).insert(doomed.at.name.clone());
                Ok(false)
            }
        }
    }

    /// Waits until every object, and every pod of the lane, is gone.
    async fn until_gone(&self) -> Result<(), TaskError> {
        let mut left: Vec<&Doomed> = self.body.objects.iter().collect();
        let total = left.len() as u64;
        self.cx.phase("waiting until everything is gone").await?;
        loop {
            let mut still = Vec::new();
            for doomed in left {
                let live = self.cluster.get(&doomed.at).await?;
                if live.as_ref().and_then(uid) == Some(doomed.uid.as_str()) {
                    still.push(doomed);
                }
            }
            let pods = self.cluster.list("v1", "Pod", &selector(&self.body.tag)).await?;
            // The pods of a Deployment that somebody made anew are not this lane's any more.
            let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let lane = self.body.objects.iter().filter(|doomed| doomed.at.kind == "Deployment");
            let lane = lane.filter(|doomed| !replaced.contains(&doomed.at.name));
            let names: Vec<String> = lane.map(|doomed| format!("{}-", doomed.at.name)).collect();
            let pods = pods
                .iter()
                .filter(|pod| names.iter().any(|name| crate::manifest::name(pod).starts_with(name)));
            let pods = pods.count();
            if still.is_empty() && pods == 0 {
                return Ok(());
            }
            let note = match still.first() {
                Some(first) => first.at.to_string(),
                None if pods == 1 => "1 pod is ending".to_owned(),
                None => format!("{pods} pods are ending"),
            };
            self.cx.progress("gone", total - still.len() as u64, total, note.clone());
            left = still;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
                () = self.cx.cancel.cancelled() => {
                    return Err(TaskError::transient(format!("stopped while waiting for the end of {note}")));
                }
            }
        }
    }
}
