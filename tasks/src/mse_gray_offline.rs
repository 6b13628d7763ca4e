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

use crate::cluster::ending::{Going, GoingPods, until_gone};
use crate::cluster::{Cluster, Clusters, Deleted, full_name};
use crate::environment::Site;
use crate::inventory::{
    LANE_KINDS, Standing, expires, is_ours, lanes, lanes_of, objects, service_of, unseen,
};
use crate::lane::labels::{GRAY_TYPE, SERVICE_NAME, TYPE, VERSION, selector};
use crate::lease::OnCluster;
use crate::manifest::{ObjectRef, kind, texts, uid};
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
    #[serde(default)]
    tag: Option<String>,
    /// Instead of a tag: every lane of the environment whose time is up. Only where the environment's file has a `ttl`.
    #[serde(default)]
    expired: bool,
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
    /// The lane; empty where expired ones go.
    pub(crate) tag: String,
    pub(crate) drain_ms: u64,
    /// Routes first.
    pub(crate) objects: Vec<Doomed>,
    /// The lanes whose time was up, each with its objects.
    #[serde(default)]
    pub(crate) expired: Vec<Expired>,
}

/// A lane whose time is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Expired {
    tag: String,
    objects: Vec<Doomed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Doomed {
    #[serde(flatten)]
    pub(crate) at: ObjectRef,
    pub(crate) uid: String,
}

impl OnCluster for MseGrayOffline {
    /// It makes nothing.
    fn uses(&self, _: Option<&Plan>, _: &str, verb: &str) -> bool {
        matches!(verb, "get" | "list" | "watch" | "delete")
    }
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
        check_which(spec, site.as_ref(), &mut findings);
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
        // Which lanes have expired is not known when claims are made: it needs the environment's lanes, all of them.
        match (spec.get("expired"), spec::plain(spec, "environment")) {
            (Some(Value::Bool(true)), Some(environment)) => vec![Claim::lanes(environment, Mode::Write)],
            _ => spec::lane_claim(spec, Mode::Write),
        }
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &["environment", "tag", "expired"]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["removed", "lanes"]
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let with: With = spec::read(cx)?;
        let site = spec::site(cx, &with.environment)?;
        let drain = parse_duration(with.drain.as_deref().unwrap_or(DRAIN)).map_err(TaskError::permanent)?;
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        let cluster = self.clusters.connect(&site).await?;
        let tag = match (with.expired, &with.tag) {
            (true, None) => return self.plan_expired(cx, &with, &site, &cluster, drain_ms).await,
            (false, Some(tag)) => tag.clone(),
            (true, Some(_)) => return Err(TaskError::permanent(BOTH).hint("keep `tag` or `expired`")),
            (false, None) => return Err(TaskError::permanent(NEITHER).hint(WHICH)),
        };
        crate::lane::check_tag(&tag).map_err(|why| TaskError::permanent(format!("refused: {why}")))?;
        let mut plan = Plan::default();
        let mut found = objects(&cluster, &selector(&tag)).await?;
        // What a task before this one would deploy; only where nothing is run.
        found.extend(assumed(cx, &with.environment, &tag));
        let whole = found.clone();
        if let Some(services) = &with.services {
            let services: BTreeSet<&str> = services.iter().map(String::as_str).collect();
            let held: BTreeSet<String> = whole.iter().map(service_of).collect();
            let absent: Vec<String> = services
                .iter()
                .filter(|service| !held.contains(**service))
                .map(|service| (*service).to_owned())
                .collect();
            if !absent.is_empty() && !whole.is_empty() {
                let words = format!("lane `{tag}` has no copy of {}", and_list(&absent));
                if with.on_missing == OnMissing::Fail {
                    let held: Vec<String> = held.into_iter().collect();
                    return Err(TaskError::permanent(words).hint(format!(
                        "it holds {}; `on_missing: pass` makes a missing one a success",
                        and_list(&held)
                    )));
                }
                plan.warnings.push(words);
            }
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
            let now = cx.clock.now();
            let known: Vec<String> =
                lanes(&cluster, &site, now).await?.into_iter().map(|lane| lane.tag).collect();
            let error = TaskError::permanent(format!("there is no lane `{tag}` in {}", cluster.namespace));
            return Err(match known.as_slice() {
                [] => error.hint("there is no lane at all; `on_missing: pass` makes that a success"),
                _ => error.hint(format!(
                    "there is {}; `on_missing: pass` makes a missing lane a success",
                    graylane_engine::schema::list(&known)
                )),
            });
        }
        let objects = self.doomed(&found, &cluster, &mut plan);
        plan.warnings.extend(left(&tag, &whole, &found));
        plan.warnings.extend(unseen(&cluster, &found, &whole.iter().map(ObjectRef::of).collect()).await?);
        let body = Body { environment: with.environment, tag, drain_ms, objects, expired: Vec::new() };
        plan.warnings.push(FOR_GOOD.into());
        spec::seal(plan, &body, &site)
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let mut body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let mut spared = Vec::new();
        if !body.expired.is_empty() {
            (body, spared) = still_expired(cx, &cluster, body).await?;
        }
        let mut outputs = match Offline::new(cx, &cluster, &body).run().await {
            Ok(outputs) => outputs,
            Err(error) => return Err(error.details(still_there(&cluster, &body).await)),
        };
        outputs.report.extend(spared);
        Ok(outputs)
    }

    async fn undo(&self, _cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let tags = body.tags().join(", ");
        let report = vec![format!("lane {tags} is not brought back: deploy it again")];
        Ok(Outputs { report, ..Outputs::default() })
    }
}

const BOTH: &str = "`tag` and `expired` say two things";
const NEITHER: &str = "the lane is not named";
const WHICH: &str = "add `tag`, or `expired: true` for every lane whose time is up";
const FOR_GOOD: &str = "this cannot be undone: a lane that is down is deployed again, not brought back";

/// Checks that the spec says which lanes go: one by its tag, or those whose time is up.
fn check_which(spec: &Value, site: Option<&Site>, findings: &mut Vec<Finding>) {
    let expired = spec.get("expired") == Some(&Value::Bool(true));
    let is_expression = spec.get("expired").and_then(Value::as_str).is_some();
    match (spec.get("tag").is_some(), expired) {
        (true, true) => {
            findings.push(Finding::at("/expired", BOTH).on_key().label("keep `tag` or `expired`"))
        }
        (false, false) if !is_expression => findings.push(Finding::at("", NEITHER).on_key().label(WHICH)),
        _ => {}
    }
    if !expired {
        return;
    }
    if spec.get("services").is_some() {
        let message = "expired lanes go as a whole";
        findings.push(Finding::at("/services", message).on_key().label("leave `services` out"));
    }
    if let Some(site) = site.filter(|site| site.environment.ttl.is_none()) {
        findings.push(
            Finding::at("/expired", format!("lanes of environment `{}` never expire", site.environment.name))
                .on_key()
                .label("write `ttl` in its file: without it nothing is taken down for its age"),
        );
    }
}

/// What stays of a lane of which only a part goes.
fn left(tag: &str, whole: &[Value], going: &[Value]) -> Vec<String> {
    let going: BTreeSet<ObjectRef> = going.iter().map(ObjectRef::of).collect();
    let (gone, stays): (Vec<&Value>, Vec<&Value>) =
        whole.iter().partition(|object| going.contains(&ObjectRef::of(object)));
    if stays.is_empty() {
        return Vec::new();
    }
    let services: BTreeSet<String> = stays.iter().map(|object| service_of(object)).collect();
    let services: Vec<String> = services.into_iter().collect();
    let mut told = vec![format!("lane `{tag}` keeps {}", and_list(&services))];
    let routes = |objects: &[&Value]| objects.iter().any(|object| ROUTES.contains(&kind(object)));
    if routes(&gone) && !routes(&stays) {
        told.push("the lane's route goes: after that only marked requests meet what stays".into());
    }
    told
}

fn and_list(names: &[String]) -> String {
    graylane_engine::schema::list(names)
}

/// The plan's lanes without those that were renewed, or deployed anew, since it was made.
async fn still_expired(
    cx: &TaskContext,
    cluster: &Cluster,
    body: Body,
) -> Result<(Body, Vec<String>), TaskError> {
    let mut kept = Vec::new();
    let mut told = Vec::new();
    for lane in body.expired {
        let live = objects(cluster, &selector(&lane.tag)).await?;
        match expires(&live) {
            Some(end) if end > cx.clock.now() => {
                told.push(format!("lane {} was renewed meanwhile, until {end}: it stays", lane.tag));
            }
            // What is left of a lane that an attempt before this one began to take down may say nothing.
            Some(_) | None => kept.push(lane),
        }
    }
    let mut all: Vec<Doomed> = kept.iter().flat_map(|lane| lane.objects.iter().cloned()).collect();
    all.sort_by_key(|doomed| LANE_KINDS.iter().position(|(_, kind)| *kind == doomed.at.kind));
    Ok((Body { objects: all, expired: kept, ..body }, told))
}

/// What of a plan is still there after it could not be carried out, as the cluster has it.
async fn still_there(cluster: &Cluster, body: &Body) -> Vec<String> {
    let doomed = body.expired.iter().flat_map(|lane| &lane.objects).chain(&body.objects);
    let doomed: BTreeSet<&str> = doomed.map(|doomed| doomed.uid.as_str()).collect();
    let mut left = Vec::new();
    for tag in body.tags() {
        match objects(cluster, &selector(&tag)).await {
            Ok(found) => {
                let mine = found.iter().filter(|object| uid(object).is_some_and(|uid| doomed.contains(uid)));
                left.extend(mine.map(|object| ObjectRef::of(object).to_string()));
            }
            Err(why) => return vec![format!("what is still there could not be seen: {why}")],
        }
    }
    if left.is_empty() { Vec::new() } else { vec![format!("still there: {}", left.join(", "))] }
}

/// The tags of the lanes that a plan takes down.
pub(crate) fn tags_of(plan: &Plan) -> Vec<String> {
    spec::body::<Body>(plan).map(|body| body.tags()).unwrap_or_default()
}

impl Body {
    fn tags(&self) -> Vec<String> {
        if self.expired.is_empty() {
            return Vec::from_iter((!self.tag.is_empty()).then(|| self.tag.clone()));
        }
        self.expired.iter().map(|lane| lane.tag.clone()).collect()
    }
}

impl MseGrayOffline {
    /// The objects that go, told in the plan.
    fn doomed(&self, found: &[Value], cluster: &Cluster, plan: &mut Plan) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        for object in found {
            plan.changes.push(change(&cluster.namespace, Some(object), None, &self.key));
            if !is_ours(object) {
                let shown = full_name(&cluster.namespace, object);
                plan.warnings.push(format!("{shown} was made by another tool"));
            }
            let uid = uid(object).unwrap_or_default().to_owned();
            doomed.push(Doomed { at: ObjectRef::of(object), uid });
        }
        doomed
    }

    /// Every lane whose time is up. That there is none is what one hopes for.
    async fn plan_expired(
        &self,
        cx: &TaskContext,
        with: &With,
        site: &Site,
        cluster: &Cluster,
        drain_ms: u64,
    ) -> Result<Plan, TaskError> {
        let environment = &site.environment.name;
        if site.environment.ttl.is_none() {
            return Err(TaskError::permanent(format!(
                "refused: lanes of environment `{environment}` never expire"
            ))
            .hint("write `ttl` in its file: without it nothing is taken down for its age"));
        }
        if with.services.is_some() {
            return Err(
                TaskError::permanent("refused: expired lanes go as a whole").hint("leave `services` out")
            );
        }
        let now = cx.clock.now();
        let mut plan = Plan::default();
        let standing = Standing::look(cluster).await?;
        let mut expired = Vec::new();
        for lane in lanes_of(&standing, site, now) {
            let objects = standing.lane(&lane.tag);
            let Some(end) = expires(&objects) else { continue };
            if end > now {
                continue;
            }
            plan.warnings.push(format!("lane {} goes: its time was up at {end}", lane.tag));
            let known = objects.iter().map(ObjectRef::of).collect();
            plan.warnings.extend(unseen(cluster, &objects, &known).await?);
            let objects = self.doomed(&objects, cluster, &mut plan);
            expired.push(Expired { tag: lane.tag, objects });
        }
        if expired.is_empty() {
            plan.warnings.push(format!("no lane of {environment} has expired"));
        } else {
            plan.warnings.push(FOR_GOOD.into());
        }
        let body = Body {
            environment: with.environment.clone(),
            tag: String::new(),
            drain_ms,
            objects: Vec::new(),
            expired,
        };
        spec::seal(plan, &body, site)
    }
}

fn assumed(cx: &TaskContext, environment: &str, tag: &str) -> Vec<Value> {
    let bodies = cx
        .assumed
        .iter()
        .filter_map(|plan| serde_json::from_value::<mse_gray_deploy::Body>(plan.body.clone()).ok());
    let mine = bodies.filter(|body| body.environment == environment && body.tag == tag);
    mine.flat_map(|body| body.objects).collect()
}

/// The kinds by which requests enter: they go first.
const ROUTES: [&str; 2] = ["Ingress", "HTTPRoute"];

/// Takes objects of a lane down.
pub(crate) struct Offline<'o> {
    cx: &'o TaskContext,
    cluster: &'o Cluster,
    body: &'o Body,
    /// What was not gone with the answer to its delete.
    kept: Mutex<BTreeSet<ObjectRef>>,
}

impl<'o> Offline<'o> {
    pub(crate) fn new(cx: &'o TaskContext, cluster: &'o Cluster, body: &'o Body) -> Offline<'o> {
        Offline { cx, cluster, body, kept: Mutex::default() }
    }
}

impl Offline<'_> {
    pub(crate) async fn run(&self) -> Result<Outputs, TaskError> {
        let of = |kind: &'static str| self.body.objects.iter().filter(move |doomed| doomed.at.kind == kind);
        let mut removed = Vec::new();
        if self.body.objects.is_empty() {
            return Ok(self.outputs());
        }
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
        Ok(self.outputs())
    }

    fn outputs(&self) -> Outputs {
        let (tags, count) = (self.body.tags(), self.body.objects.len());
        let report = match tags.as_slice() {
            [] => "no lane had expired".to_owned(),
            tags => format!("lane {}: {count} objects removed", tags.join(", ")),
        };
        let removed = self.body.objects.iter().map(|doomed| Value::from(doomed.at.to_string()));
        let mut values = Map::new();
        values.insert("removed".into(), removed.collect());
        values.insert("lanes".into(), tags.into());
        Outputs { values, report: vec![report] }
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
            deleted @ (Deleted::Now | Deleted::Going) => {
                self.cx.log(format!("deleted {}", doomed.at));
                removed.push(doomed.at.clone());
                if deleted == Deleted::Going {
                    let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.insert(doomed.at.clone());
                }
                Ok(true)
            }
            Deleted::Gone => Ok(false),
            Deleted::Replaced => {
                self.cx.log(format!("{} is another object by now and stays", doomed.at));
                Ok(false)
            }
        }
    }

    /// Waits until every object, and every pod of the lane, is gone.
    async fn until_gone(&self) -> Result<(), TaskError> {
        self.cx.phase("waiting until everything is gone").await?;
        let total = self.body.objects.len() as u64;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let going: Vec<Going<'_>> = self
            .body
            .objects
            .iter()
            .filter(|doomed| kept.contains(&doomed.at))
            .map(|doomed| (&doomed.at, doomed.uid.as_str()))
            .collect();
        let workloads: Vec<&Doomed> =
            self.body.objects.iter().filter(|doomed| doomed.at.kind == "Deployment").collect();
        let tags = self.body.tags();
        let mine = |pod: &Value| {
            let labels = texts(pod, "/metadata/labels");
            labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE)
                && labels.get(VERSION).is_some_and(|tag| tags.contains(tag))
        };
        let namespaces: BTreeSet<Option<&str>> =
            workloads.iter().map(|doomed| doomed.at.namespace.as_deref()).collect();
        let pods = GoingPods {
            namespaces: namespaces.into_iter().collect(),
            selectors: tags.iter().map(|tag| selector(tag)).collect(),
            mine: &mine,
            // By uid: what somebody made anew under such a name is not this lane's any more.
            deployments: workloads.iter().map(|doomed| doomed.uid.as_str()).collect(),
        };
        let pods = (!workloads.is_empty()).then_some(&pods);
        until_gone(self.cx, self.cluster, &going, pods, |left, note| {
            self.cx.progress("gone", total - left as u64, total, note);
        })
        .await
    }
}
