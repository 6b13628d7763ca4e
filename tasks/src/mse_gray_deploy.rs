//! `mse-gray-deploy`: a gray lane beside production. Config, then pods until they are ready, then Services, the route last.
//!
//! No user enters a lane that is not up. A lane task writes only objects that carry the lane's labels.

mod render;
mod undo;
mod update;

use self::render::{GrayServiceWith, Wanted};
pub use self::render::{RenderRequest, rendered};
use self::update::{Copies, Door, Doors, Update, by_uid, room, selector_changes};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::{parse_duration, show_duration};
use graylane_engine::document::{Finding, step};
use graylane_engine::task::{self, Action, Change, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cluster::ending::until_gone;
use crate::cluster::{Cluster, Clusters, Deleted, full_name};
use crate::environment::Site;
use crate::inventory::{self, LANE_KINDS, Standing, is_gray, is_ours, mended, tag_of};
use crate::lane::around::Around;
use crate::lane::labels::{ANNOTATION_ORIGIN, SERVICE_NAME, selector};
use crate::lane::leak::{Leak, Pods, leaks};
use crate::lane::route::{self, Entry, is_route};
use crate::lane::{Judgement, rank};
use crate::lease::OnCluster;
use crate::manifest::{ObjectRef, clean, diff, kind, name, namespace, texts, uid};
use crate::mse_gray_offline;
use crate::rollout::{Expect, follow, probed, running_images};
use crate::secret::{DigestKey, redact, restore};
use crate::spec::{
    self, ServiceWith, check_environment, check_images, check_lane_tag, check_service, check_services,
    images_value,
};

/// The task type.
pub struct MseGrayDeploy {
    clusters: Arc<Clusters>,
    key: DigestKey,
    doors: Doors,
}

impl MseGrayDeploy {
    /// The type, over these clusters.
    pub fn new(clusters: Arc<Clusters>, key: DigestKey) -> Self {
        MseGrayDeploy { clusters, key, doors: Doors::default() }
    }
}

/// `with` of a `mse-gray-deploy` task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The environment, by the name in its file.
    environment: String,
    /// The lane's tag: up to 20 small letters, digits and `-`.
    tag: String,
    /// Image by service, for services with one container; images by container for others. Short for `services`.
    #[serde(default)]
    images: Option<BTreeMap<String, Value>>,
    /// The services of the lane, with all that can be said of each.
    #[serde(default)]
    services: Option<BTreeMap<String, GrayServiceWith>>,
    /// Which requests enter the lane. Without it the lane is up, and only marked requests meet it.
    #[serde(default)]
    entry: Option<Entry>,
    /// Whether a lane of this tag that another tool made is taken over, object by object.
    #[serde(default)]
    adopt: bool,
}

/// Services that the operator keeps out of lanes.
fn check_gray(spec: &Value, site: &Site, findings: &mut Vec<Finding>) {
    for key in ["images", "services"] {
        for service in spec.get(key).and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if site.services.contains_key(service) && !site.environment.allows_gray(service) {
                let message = format!("service `{service}` takes no part in lanes");
                findings.push(
                    Finding::at(step(&format!("/{key}"), service), message)
                        .on_key()
                        .label(format!("its `gray` is false in environment `{}`", site.environment.name)),
                );
            }
        }
    }
}

/// What `run` carries out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The environment.
    pub(crate) environment: String,
    /// The lane.
    pub(crate) tag: String,
    /// Objects in the order of their application; Secrets hold digests.
    pub(crate) objects: Vec<Value>,
    /// Objects of earlier deploys that the render no longer has.
    removed: Vec<Removed>,
    /// Routes that are closed before anything else, because Deployments behind them are made anew.
    #[serde(default)]
    closed: Vec<Removed>,
    /// Deployments whose selector changes, which the server allows only by making them anew.
    #[serde(default)]
    renewed: Vec<Removed>,
    /// Objects that others have written to: their fields become ours, so that the apply takes them back.
    #[serde(default)]
    mended: Vec<ObjectRef>,
    /// The routes that are new with this deploy: a failure takes these back, and no other.
    new_routes: Vec<ObjectRef>,
    /// The lane's objects as they were, of those that are changed or removed: what an undo goes back to.
    #[serde(default)]
    before: Vec<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Removed {
    #[serde(flatten)]
    at: ObjectRef,
    uid: String,
}

impl OnCluster for MseGrayDeploy {}

#[async_trait]
impl Task for MseGrayDeploy {
    fn type_name(&self) -> &'static str {
        "mse-gray-deploy"
    }

    fn summary(&self) -> &'static str {
        "deploys gray copies of services beside production, and lets chosen requests in"
    }

    fn schema(&self) -> Value {
        graylane_engine::schema::of_spec::<With>()
    }

    fn check(&self, spec: &Value, at: &task::Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let site = check_environment(spec, at, &mut findings);
        check_lane_tag(spec, &mut findings);
        check_images(spec, site.as_ref(), &mut findings);
        check_services(spec, site.as_ref(), &mut findings);
        render::check(spec, &mut findings);
        if let Some(site) = &site {
            check_gray(spec, site, &mut findings);
        }
        if spec.get("images").is_none() && spec.get("services").is_none() {
            findings.push(
                Finding::at("", "the lane has no service").on_key().label("add `images` or `services`"),
            );
        }
        if let Some(entry) = spec.get("entry") {
            let gateway = site.as_ref().map(|site| site.environment.gateway.kind);
            let found = route::check(entry, gateway, spec::plain(spec, "tag"));
            findings.extend(found.into_iter().map(|finding| finding.below("/entry")));
            let door = gateway.map_or("Ingress", |gateway| gateway.rules().object());
            if let Some(service) = spec::plain(entry, "service")
                && let Some(site) = &site
            {
                match site.service(service) {
                    Err(_) => {
                        let mut wrong = Vec::new();
                        check_service(service, "/entry/service", Some(site), &mut wrong);
                        findings
                            .extend(wrong.into_iter().map(|finding| Finding { on_key: false, ..finding }));
                    }
                    Ok(objects) if !objects.iter().any(|object| kind(object) == door) => findings.push(
                        Finding::at("/entry/service", format!("service `{service}` has no {door}"))
                            .label(format!("the entry is the service whose {door} lets requests in")),
                    ),
                    Ok(_) => {}
                }
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
        &["tag", "objects", "images", "route"]
    }

    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        let with: With = spec::read(cx)?;
        let site = spec::site(cx, &with.environment)?;
        spec::thawed(cx, &site)?;
        let cluster = self.clusters.connect(&site).await?;
        Planner { cx, with: &with, site: &site, cluster: &cluster, key: &self.key }.plan().await
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let deploy = Deploy { cx, site: &site, cluster: &cluster, key: &self.key, body: &body };
        // Refused here, nothing was written: nothing is taken back.
        let door = self.doors.enter(&site, &cluster, &body.tag, cx.clock.now()).await?;
        match deploy.run(door).await {
            Ok(outputs) => Ok(outputs),
            Err(error) => Err(deploy.after_failure(error).await),
        }
    }

    async fn undo(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let deploy = Deploy { cx, site: &site, cluster: &cluster, key: &self.key, body: &body };
        undo::take_back(&deploy).await
    }
}

struct Planner<'p> {
    cx: &'p TaskContext,
    with: &'p With,
    site: &'p Site,
    cluster: &'p Cluster,
    key: &'p DigestKey,
}

/// Up to so many objects are tried on the API server one by one. Of a larger lane only what the server may refuse for reasons that
/// cannot be seen in a file: Deployments, routes, and what was patched or edited.
const TRIED_EACH: usize = 100;
/// How many are tried at a time.
const TRIES_AT_A_TIME: usize = 8;

impl Planner<'_> {
    async fn plan(&self) -> Result<Plan, TaskError> {
        let mut plan = Plan::default();
        must_exist(self.cluster).await?;
        let around = Around::look(self.cluster).await?;
        let standing = Standing::beside(self.cluster, &around).await?;
        let update = Update {
            site: self.site,
            standing: &standing,
            tag: &self.with.tag,
            adopt: self.with.adopt,
            run: self.cx.run,
            now: self.cx.clock.now(),
        };
        room(self.site, &standing, &self.with.tag, update.now)?;
        let lane = standing.lane(&self.with.tag);
        let mut rendered = self.render(&around, &lane, &mut plan)?;
        self.judge(&around, &rendered, &lane, &mut plan)?;
        let leftovers = update.leftovers(&rendered, &mut plan.warnings);
        let known = lane.iter().chain(&rendered).map(ObjectRef::of).collect();
        plan.warnings.extend(inventory::unseen(self.cluster, &lane, &known).await?);
        let (closed, renewed) = self.make_room(&update, &mut rendered, &leftovers, &mut plan)?;
        leak_test(&standing, &rendered, &self.with.tag)?;
        let copies = Copies::new(&rendered);
        let mut expected_images = Map::new();
        let mut new_routes = Vec::new();
        let mut mended = Vec::new();
        let mut stamped = Vec::new();
        let mut before = Vec::new();
        for object in rendered {
            let live = standing.get(&ObjectRef::of(&object));
            if is_route(&object) && live.is_none() {
                new_routes.push(ObjectRef::of(&object));
            }
            if kind(&object) == "Deployment" {
                let service = texts(&object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
                expected_images.insert(service, images_value(&main_images(&object)));
            }
            if let Some(live) = live {
                before.push(clean(&redact(live, self.key)));
            }
            if let Some(told) = live.and_then(|live| update.mends(live)) {
                mended.push(ObjectRef::of(&object));
                plan.warnings.push(told);
            }
            stamped.push(update.stamp(object, live, &copies)?);
        }
        let tried = self.try_all(&stamped, &standing, &mut plan).await?;
        for (object, dry) in stamped.iter().zip(tried) {
            let shown = dry.filter(|_| kind(object) != "Secret");
            plan.changes.push(change(
                &self.cluster.namespace,
                standing.get(&ObjectRef::of(object)),
                Some(shown.as_ref().unwrap_or(object)),
                self.key,
            ));
            if kind(object) == "Deployment" && !probed(object) {
                plan.warnings.push(unprobed(object));
            }
        }
        for object in &leftovers {
            plan.changes.push(change(&self.cluster.namespace, Some(object), None, self.key));
            before.push(clean(&redact(object, self.key)));
        }
        let removed = leftovers.iter().filter_map(by_uid).collect();
        let route = self.entry_route(&stamped).map(route::words);
        if self.with.entry.is_none() {
            plan.warnings.push("the lane has no entry: only requests that carry its mark meet it".into());
        }
        plan.expected.insert("tag".into(), self.with.tag.clone().into());
        plan.expected.insert("images".into(), Value::Object(expected_images));
        plan.expected.insert("route".into(), route.into());
        plan.expected.insert("objects".into(), names(&stamped));
        let body = Body {
            environment: self.with.environment.clone(),
            tag: self.with.tag.clone(),
            objects: stamped,
            removed,
            closed,
            renewed,
            mended,
            new_routes,
            before,
        };
        spec::seal(plan, &body, self.site)
    }

    /// Every copy, in the order over all services: every pod is up before any Service, every Service before the route.
    fn render(&self, around: &Around, lane: &[Value], plan: &mut Plan) -> Result<Vec<Value>, TaskError> {
        let mut rendered = Vec::new();
        let mut wrong = Vec::new();
        let services = self.services()?;
        for (service, with) in &services {
            let gray = self.with.services.as_ref().and_then(|services| services.get(service));
            let made = Wanted::of(&self.cx.bundle, with.clone(), gray)
                .map_err(|why| vec![format!("service `{service}`: {why}")])
                .and_then(|wanted| {
                    let entry = self.with.entry.as_ref();
                    render::service(self.site, around, service, &wanted, &self.with.tag, entry)
                });
            match made {
                Ok(made) => {
                    rendered.extend(made.objects);
                    plan.warnings.extend(made.notes);
                }
                Err(why) => wrong.extend(why),
            }
        }
        if let Some(entry) = &self.with.entry
            && !services.contains_key(&entry.service)
        {
            let holds = lane.iter().any(|object| {
                kind(object) == "Deployment"
                    && texts(object, "/metadata/labels").get(SERVICE_NAME) == Some(&entry.service)
            });
            if holds {
                plan.warnings.push(format!(
                    "the route stays as it is: `{}` is not part of this deploy",
                    entry.service
                ));
            } else {
                wrong.push(format!("the entry `{}` is not one of the lane's services", entry.service));
            }
        }
        wrong.extend(render::doubles(&rendered));
        refuse(wrong)?;
        rendered.sort_by_key(rank);
        Ok(rendered)
    }

    /// Routes and selectors beside what else is on the cluster.
    fn judge(
        &self,
        around: &Around,
        rendered: &[Value],
        lane: &[Value],
        plan: &mut Plan,
    ) -> Result<(), TaskError> {
        let service_of = |object: &Value| texts(object, "/metadata/labels").remove(SERVICE_NAME);
        let services: BTreeSet<String> = rendered
            .iter()
            .chain(lane)
            .filter(|object| kind(object) == "Deployment")
            .filter_map(service_of)
            .collect();
        let (entry, tag) = (self.with.entry.as_ref(), self.with.tag.as_str());
        let routes = render::routes(self.site, around, rendered, entry, tag, services.len());
        let baselines: Vec<&Value> =
            services.iter().filter_map(|service| self.site.services.get(service)).flatten().collect();
        let confirmed = self.with.services.iter().flatten();
        let shared = confirmed
            .map(|(service, with)| (service.clone(), with.shared_claims.iter().cloned().collect()))
            .collect();
        let mut pods = Judgement::default();
        for here in around.by_namespace(&self.cluster.others) {
            let mine = |object: &&Value| namespace(object) == here.namespace.as_deref();
            let lane: Vec<Value> = rendered.iter().filter(mine).cloned().collect();
            let baselines: Vec<&Value> = baselines.iter().copied().filter(|object| mine(object)).collect();
            let judged = here.judge(&lane, &baselines, &shared);
            pods.wrong.extend(judged.wrong);
            pods.notes.extend(judged.notes);
        }
        refuse([routes.wrong, pods.wrong].concat())?;
        plan.warnings.extend(routes.notes.into_iter().chain(pods.notes));
        Ok(())
    }

    fn entry_route<'o>(&self, objects: &'o [Value]) -> Option<&'o Value> {
        let entry = self.with.entry.as_ref()?;
        let mut routes = objects.iter().filter(|object| is_route(object));
        routes.find(|route| texts(route, "/metadata/labels").get(SERVICE_NAME) == Some(&entry.service))
    }

    fn services(&self) -> Result<BTreeMap<String, ServiceWith>, TaskError> {
        let plain: Option<BTreeMap<String, ServiceWith>> = self
            .with
            .services
            .as_ref()
            .map(|services| services.iter().map(|(name, with)| (name.clone(), with.plain())).collect());
        spec::services(self.site, self.with.images.as_ref(), plain.as_ref())
    }

    /// The lane's routes that must be closed, and the Deployments that are made anew, because their selector changes. A
    /// route that this deploy does not write itself comes back as it was.
    fn make_room(
        &self,
        update: &Update<'_>,
        rendered: &mut Vec<Value>,
        leftovers: &[Value],
        plan: &mut Plan,
    ) -> Result<(Vec<Removed>, Vec<Removed>), TaskError> {
        let mut renewed = Vec::new();
        for object in rendered.iter() {
            let Some(live) = update.standing.get(&ObjectRef::of(object)) else { continue };
            update.may_write(live)?;
            if selector_changes(live, object) {
                plan.warnings.push(format!(
                    "{} is made anew, because its selector changes: the lane's route is closed until it is up",
                    full_name(&self.cluster.namespace, live)
                ));
                renewed.extend(by_uid(live));
            }
        }
        let routes = if renewed.is_empty() { Vec::new() } else { update.routes() };
        let closed = routes.iter().filter_map(by_uid).collect();
        for route in routes.iter().map(clean) {
            let is = |object: &Value| ObjectRef::of(object) == ObjectRef::of(&route);
            if !rendered.iter().any(is) && !leftovers.iter().any(is) {
                rendered.push(route);
            }
        }
        rendered.sort_by_key(rank);
        Ok((closed, renewed))
    }

    /// Tries objects on the API server without writing them; nothing for those that are not tried.
    async fn try_all(
        &self,
        objects: &[Value],
        standing: &Standing,
        plan: &mut Plan,
    ) -> Result<Vec<Option<Value>>, TaskError> {
        let all = objects.len() <= TRIED_EACH;
        let changed: BTreeSet<&str> = self
            .with
            .services
            .iter()
            .flatten()
            .filter(|(_, with)| with.is_changed())
            .map(|(service, _)| service.as_str())
            .collect();
        let tried = |object: &Value| {
            let service = texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
            all || kind(object) == "Deployment" || is_route(object) || changed.contains(service.as_str())
        };
        let tries: Vec<_> = objects
            .iter()
            .map(|object| {
                let live = standing.get(&ObjectRef::of(object));
                let anew = live.is_some_and(|live| selector_changes(live, object));
                self.try_one(object, tried(object), anew)
            })
            .collect();
        let done: Vec<Option<Value>> =
            futures::stream::iter(tries).buffered(TRIES_AT_A_TIME).try_collect().await?;
        let count = done.iter().filter(|dry| dry.is_some()).count();
        if count < objects.len() {
            plan.warnings.push(format!(
                "{count} of {} objects were tried on the API server: Deployments, routes, and what was patched or edited",
                objects.len()
            ));
        }
        Ok(done)
    }

    async fn try_one(&self, object: &Value, tried: bool, anew: bool) -> Result<Option<Value>, TaskError> {
        if tried { self.dry_run(object, anew).await.map(Some) } else { Ok(None) }
    }

    /// What the server would make of an object; of one that is made anew, under a name that is free.
    async fn dry_run(&self, object: &Value, anew: bool) -> Result<Value, TaskError> {
        // A digest is no base64, and the server would say so: the shape is tried without the values.
        let mut object = object.clone();
        if kind(&object) == "Secret" {
            object["data"] = json!({});
        }
        let name = name(&object).to_owned();
        if anew {
            object["metadata"]["name"] = format!("{name}-anew").into();
        }
        let mut dry = self.cluster.apply(&object, true, true).await?;
        dry["metadata"]["name"] = name.into();
        Ok(dry)
    }
}

/// The leak test over Services and pods as they will be.
fn leak_test(standing: &Standing, rendered: &[Value], tag: &str) -> Result<(), TaskError> {
    let planned: BTreeSet<ObjectRef> = rendered.iter().map(ObjectRef::of).collect();
    let others = |object: &&Value| !planned.contains(&ObjectRef::of(object));
    // What the lane has of another deploy is judged as it will be: it goes, or it is written again.
    let services = standing.of("Service").filter(others);
    let services = services.filter(|object| !is_gray(object) || tag_of(object) != tag);
    let ours = |wanted: &'static str| rendered.iter().filter(move |object| kind(object) == wanted);
    let mut pods: Vec<Pods> = ours("Deployment").map(Pods::of).collect();
    pods.extend(standing.of("Deployment").filter(others).map(Pods::of));
    let mut found = leaks(services.chain(ours("Service")), &pods);
    let new: BTreeSet<&str> = ours("Deployment").map(name).collect();
    let new_services: BTreeSet<&str> = ours("Service").map(name).collect();
    // What leaks already without this lane is not this lane's doing, and must not stop a release.
    found.retain(|leak| {
        new.contains(leak.deployment.as_str()) || new_services.contains(leak.service.as_str())
    });
    let Some(first) = found.first() else { return Ok(()) };
    let hint = first.hint.clone();
    Err(TaskError::permanent(format!("refused: {first}"))
        .details(found.iter().skip(1).map(ToString::to_string))
        .hint(hint))
}

/// The images of the containers, init containers left out: what promote takes.
fn main_images(deployment: &Value) -> BTreeMap<String, String> {
    let containers = deployment.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let named = containers.into_iter().flatten();
    named.filter_map(|c| Some((c["name"].as_str()?.to_owned(), c["image"].as_str()?.to_owned()))).collect()
}

fn names(objects: &[Value]) -> Value {
    objects.iter().map(|object| Value::from(ObjectRef::of(object).to_string())).collect()
}

/// A change for people; Secrets on both sides as digests.
pub(crate) fn change(
    namespace: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    key: &DigestKey,
) -> Change {
    let shown = before.or(after).map(|object| full_name(namespace, object)).unwrap_or_default();
    let secret = before.or(after).is_some_and(|object| kind(object) == "Secret");
    // What is planned holds digests already, and is not digested again.
    let (before, after) =
        (before.map(|b| redact(b, key)), after.map(|a| if secret { a.clone() } else { redact(a, key) }));
    let difference = if secret { String::new() } else { diff(before.as_ref(), after.as_ref()) };
    let action = match (&before, &after) {
        (None, _) => Action::Create,
        (Some(_), None) => Action::Delete,
        (Some(before), Some(after)) if secret && before.get("data") == after.get("data") => Action::Keep,
        (Some(_), Some(_)) if secret => Action::Update,
        (Some(_), Some(_)) if difference.is_empty() => Action::Keep,
        (Some(_), Some(_)) => Action::Update,
    };
    Change { action, object: shown, diff: difference }
}

/// Refuses where the namespace of the environment is not there: every later answer would only say "not found".
pub(crate) async fn must_exist(cluster: &Cluster) -> Result<(), TaskError> {
    match cluster.missing_namespace().await? {
        None => Ok(()),
        Some(missing) => {
            Err(TaskError::permanent(format!("refused: there is no namespace {missing} on the cluster"))
                .hint("create it, or correct `namespace` in the environment's file"))
        }
    }
}

/// What to know of a Deployment whose pods do not say when they are ready.
pub(crate) fn unprobed(deployment: &Value) -> String {
    format!("{} has no readiness probe: its pods count as up as soon as they run", ObjectRef::of(deployment))
}

/// Refuses with everything that is wrong.
pub(crate) fn refuse(mut wrong: Vec<String>) -> Result<(), TaskError> {
    // Services often share one mistake.
    let mut seen = BTreeSet::new();
    wrong.retain(|sentence| seen.insert(sentence.clone()));
    if wrong.is_empty() {
        return Ok(());
    }
    let first = wrong.remove(0);
    Err(TaskError::permanent(format!("refused: {first}")).details(wrong))
}

/// The checkpoint after which nobody is on the way to what is made anew.
const CLOSED: &str = "drained before making anew";
/// The checkpoint after which nobody is on the way to what is removed.
const LET_GO: &str = "drained before removing";

struct Deploy<'d> {
    cx: &'d TaskContext,
    site: &'d Site,
    cluster: &'d Cluster,
    key: &'d DigestKey,
    body: &'d Body,
}

impl Deploy<'_> {
    async fn run(&self, mut door: Door) -> Result<Outputs, TaskError> {
        let of = |kinds: &'static [&'static str]| {
            self.body.objects.iter().filter(move |o| kinds.contains(&kind(o)))
        };
        self.make_room().await?;
        if of(&["ConfigMap", "Secret"]).next().is_some() {
            self.cx.phase("writing configuration").await?;
            for object in of(&["ConfigMap", "Secret"]) {
                self.apply(object).await?;
                door = None;
            }
        }
        self.cx.phase("starting gray pods").await?;
        let mut started = Vec::new();
        for object in of(&["Deployment"]) {
            started.push(self.apply(object).await?);
            door = None;
        }
        drop(door);
        let mut images = Map::new();
        let mut report = Vec::new();
        // All at once: a lane is as slow as its slowest service, not as all of them.
        let follows = started.iter().map(|applied| self.follow(applied));
        for (applied, seen) in started.iter().zip(futures::future::try_join_all(follows).await?) {
            let service = texts(applied, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
            let running = running_images(&seen);
            report.push(format!("gray {service}: {}", shown_images(&main_images(applied))));
            images.insert(service, images_value(&running));
        }
        self.not_met().await?;
        self.cx.phase("writing Services").await?;
        for object in of(&["Service"]) {
            self.apply(object).await?;
        }
        let route = of(&["Ingress", "HTTPRoute"]).next();
        if route.is_some() {
            self.cx.phase("opening the route").await?;
        }
        for one in of(&["Ingress", "HTTPRoute"]) {
            self.apply(one).await?;
            report.push(format!("route: {}", route::words(one)));
        }
        self.clear_away().await?;
        let mut values = Map::new();
        values.insert("tag".into(), self.body.tag.clone().into());
        values.insert("objects".into(), names(&self.body.objects));
        values.insert("images".into(), Value::Object(images));
        values.insert("route".into(), route.map(route::words).into());
        Ok(Outputs { values, report })
    }

    async fn apply(&self, object: &Value) -> Result<Value, TaskError> {
        if self.cx.cancel.is_cancelled() {
            return Err(TaskError::transient("stopped between two objects"));
        }
        let object = self.with_values(object)?;
        let at = ObjectRef::of(&object);
        if self.body.mended.contains(&at) {
            self.mend(&at).await?;
        }
        self.cx.log(format!("apply {}", full_name(&self.cluster.namespace, &object)));
        // The plan has looked at foreign owners; what a person changed by hand since is taken back.
        Ok(self.cluster.apply(&object, false, true).await?)
    }

    /// An object as it is written: a Secret with the values of its file, where they are those that were planned.
    fn with_values(&self, object: &Value) -> Result<Value, TaskError> {
        let service = texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
        let origin = texts(object, "/metadata/annotations").remove(ANNOTATION_ORIGIN).unwrap_or_default();
        match self.site.source(&service) {
            Some(source) => restore(object, &origin, source, self.key).map_err(TaskError::permanent),
            None => Ok(object.clone()),
        }
    }

    async fn follow(&self, applied: &Value) -> Result<crate::rollout::Seen, TaskError> {
        let generation = applied.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let environment = &self.site.environment;
        let (agent, patience) = (environment.mse.enabled, environment.patience());
        let expect = Expect { generation, agent, pods: true, patience };
        match follow(self.cx, self.cluster, applied, expect, &self.cx.cancel).await {
            Ok(seen) => Ok(seen),
            Err(failed) if failed.agent_missing => {
                Err(failed.error.details(self.scale_to_0("its pods carry no MSE agent").await))
            }
            Err(failed) => Err(failed.error),
        }
    }

    /// The leak test once more, over pods as they are: a webhook may have given them labels, and somebody may have made a
    /// Service since the plan.
    async fn not_met(&self) -> Result<(), TaskError> {
        let services = self.cluster.list("v1", "Service", "").await?;
        let pods = self.cluster.list("v1", "Pod", &selector(&self.body.tag)).await?;
        let of = |pod: &Value| {
            let service = texts(pod, "/metadata/labels").remove(SERVICE_NAME);
            let mut mine = self
                .body
                .objects
                .iter()
                .filter(|object| kind(object) == "Deployment" && namespace(object) == namespace(pod));
            let mine =
                mine.find(|object| texts(object, "/metadata/labels").get(SERVICE_NAME) == service.as_ref())?;
            let labels = texts(pod, "/metadata/labels");
            Some(Pods {
                deployment: name(mine).to_owned(),
                namespace: namespace(pod).map(str::to_owned),
                labels,
            })
        };
        let pods: Vec<Pods> = pods.iter().filter_map(of).collect();
        let mut found: Vec<Leak> = leaks(&services, &pods);
        found.dedup();
        let Some(first) = found.first() else { return Ok(()) };
        let message = format!(
            "Service {} sends its requests to pods of Deployment {}, and did not when this was planned",
            first.service, first.deployment
        );
        let more = found.iter().skip(1).map(ToString::to_string);
        Err(TaskError::permanent(message)
            .details(more)
            .hint(first.hint.clone())
            .details(self.scale_to_0("a Service outside of the lane sends requests to its pods").await))
    }

    /// Takes every gray pod of this deploy away: where one lacks the agent, the others most likely do too. Tells what
    /// became of each.
    async fn scale_to_0(&self, why: &str) -> Vec<String> {
        let mut told = Vec::new();
        // A route that an earlier deploy opened would lead to nobody.
        for ingress in self.body.objects.iter().filter(|object| is_route(object)) {
            told.extend(self.close_route(&ObjectRef::of(ingress)).await);
        }
        for object in self.body.objects.iter().filter(|object| kind(object) == "Deployment") {
            let at = ObjectRef::of(object);
            self.cx.log(format!("scaling {at} to 0: {why}"));
            let patch = json!([{ "op": "replace", "path": "/spec/replicas", "value": 0 }]);
            told.push(match self.cluster.patch(&at, &patch).await {
                Ok(_) => format!("{at} was scaled to 0, so that nobody meets it"),
                Err(error) => format!("{at} could not be scaled to 0: {error}"),
            });
        }
        told
    }

    /// Deletes a route of this lane; tells what became of it, where there was one.
    async fn close_route(&self, at: &ObjectRef) -> Option<String> {
        match self.cluster.get(at).await {
            Ok(Some(live)) if is_ours(&live) => {
                Some(match self.cluster.delete(at, uid(&live).unwrap_or_default()).await {
                    Ok(_) => format!("the route {at} was taken back"),
                    Err(why) => format!("the route {at} could not be taken back: {why}"),
                })
            }
            Ok(_) => None,
            Err(why) => Some(format!("whether the route {at} is on could not be seen: {why}")),
        }
    }

    async fn remove(&self, removed: &Removed) -> Result<Deleted, TaskError> {
        let deleted = self.cluster.delete(&removed.at, &removed.uid).await?;
        match deleted {
            Deleted::Now | Deleted::Going => {
                self.cx.log(format!("deleted {}: the lane no longer has it", removed.at));
            }
            Deleted::Gone => {}
            Deleted::Replaced => self.cx.log(format!("{} is another object by now and stays", removed.at)),
        }
        Ok(deleted)
    }

    /// Closes the route and removes the Deployments that are made anew; nobody is on the way to them then.
    async fn make_room(&self) -> Result<(), TaskError> {
        if self.body.renewed.is_empty() {
            return Ok(());
        }
        self.cx.phase("closing the route").await?;
        for route in &self.body.closed {
            let _ = self.remove(route).await?;
        }
        if !self.body.closed.is_empty() && !self.cx.passed(CLOSED) {
            self.drain().await?;
            self.cx.checkpoint(CLOSED).await?;
        }
        for old in &self.body.renewed {
            self.remove_for_good(old).await?;
        }
        Ok(())
    }

    /// Removes what the lane no longer has. Routes are let go first, and whoever is on the way through one is waited for.
    async fn clear_away(&self) -> Result<(), TaskError> {
        if self.body.removed.is_empty() {
            return Ok(());
        }
        self.cx.phase("removing what the lane no longer has").await?;
        let (routes, rest): (Vec<_>, Vec<_>) = self
            .body
            .removed
            .iter()
            .partition(|removed| matches!(removed.at.kind.as_str(), "Ingress" | "HTTPRoute"));
        for removed in routes {
            let _ = self.remove(removed).await?;
        }
        let serves = |removed: &&Removed| matches!(removed.at.kind.as_str(), "Service" | "Deployment");
        if rest.iter().any(serves) && !self.cx.passed(LET_GO) {
            self.drain().await?;
            self.cx.checkpoint(LET_GO).await?;
        }
        let mut rest = rest;
        rest.sort_by_key(|removed| LANE_KINDS.iter().position(|(_, kind)| *kind == removed.at.kind));
        for removed in rest {
            let _ = self.remove(removed).await?;
        }
        Ok(())
    }

    async fn drain(&self) -> Result<(), TaskError> {
        let drain = parse_duration(mse_gray_offline::DRAIN).map_err(TaskError::permanent)?;
        self.cx.phase(format!("draining for {}", show_duration(drain))).await?;
        tokio::select! {
            () = tokio::time::sleep(drain) => Ok(()),
            () = self.cx.cancel.cancelled() => Err(TaskError::transient("stopped while draining")),
        }
    }

    /// Deletes what is made anew, and waits for its end.
    async fn remove_for_good(&self, old: &Removed) -> Result<(), TaskError> {
        if self.remove(old).await? != Deleted::Going {
            return Ok(());
        }
        let going = [(&old.at, old.uid.as_str())];
        until_gone(self.cx, self.cluster, &going, None, |_, note| {
            self.cx.progress("gone", 0, 1, note);
        })
        .await
    }

    /// Makes the fields of others ours: what they changed, the apply takes back, and what they added goes with it.
    async fn mend(&self, at: &ObjectRef) -> Result<(), TaskError> {
        for last in [false, false, false, false, true] {
            let Some(live) = self.cluster.get(at).await? else { return Ok(()) };
            let Some(managed) = mended(&live) else { return Ok(()) };
            let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let patch = json!([
                { "op": "replace", "path": "/metadata/managedFields", "value": managed },
                { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
            ]);
            match self.cluster.patch(at, &patch).await {
                Ok(_) => return Ok(()),
                // A controller wrote in between: look again.
                Err(error) if error.kind == task::ErrorKind::Transient && !last => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes back a route that this deploy put, and says what is left to look at.
    async fn after_failure(&self, error: TaskError) -> TaskError {
        let mut told = Vec::new();
        for at in &self.body.new_routes {
            told.extend(self.close_route(at).await);
        }
        if !self.body.renewed.is_empty() && self.body.new_routes.is_empty() && !self.body.closed.is_empty() {
            told.push(
                "the lane's route was closed before its Deployments are made anew; it opens when they are up"
                    .into(),
            );
        }
        told.push(self.left().await);
        error.details(told)
    }
}

impl Deploy<'_> {
    /// The lane as the cluster has it: what this deploy has made, what it meant to remove, and what it found.
    async fn left(&self) -> String {
        let (namespace, tag) = (&self.cluster.namespace, &self.body.tag);
        let found = match inventory::objects(self.cluster, &selector(tag)).await {
            Ok(found) => found,
            Err(why) => {
                return format!(
                    "what is left could not be seen ({why}); `graylane lanes {}` shows it, and mse-gray-offline with tag `{tag}` takes everything down",
                    self.body.environment
                );
            }
        };
        let mut left: Vec<ObjectRef> = found.iter().map(ObjectRef::of).collect();
        // What people look at first.
        left.sort_by_key(|at| at.kind != "Deployment");
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        if left.is_empty() {
            return format!("nothing of lane `{tag}` is left in {namespace}");
        }
        format!(
            "left to look at: {} in {namespace}; mse-gray-offline with tag `{tag}` takes everything down",
            left.join(", ")
        )
    }
}

/// Images as one text for people; a digest is shortened to what tells two apart.
pub(crate) fn shown_images(images: &BTreeMap<String, String>) -> String {
    let short = |image: &String| match image.split_once("@sha256:") {
        Some((repository, digest)) if digest.len() > 12 => format!("{repository}@sha256:{}", &digest[..12]),
        _ => image.clone(),
    };
    images.values().map(short).collect::<Vec<_>>().join(", ")
}
