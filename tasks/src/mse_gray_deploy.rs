//! `mse-gray-deploy`: a gray lane beside production. Config, then pods until they are ready, then Services, the route last.
//!
//! No user enters a lane that is not up. A lane task writes only objects that carry the lane's labels.

mod render;
mod undo;

use self::render::{GrayServiceWith, Wanted};
pub use self::render::{RenderRequest, rendered};

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::document::{Finding, step};
use graylane_engine::task::{self, Action, Change, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, Clusters, Deleted, full_name};
use crate::environment::Site;
use crate::inventory::{LANE_KINDS, is_ours, objects};
use crate::lane::around::Around;
use crate::lane::labels::{
    ANNOTATION_CREATED, ANNOTATION_ORIGIN, ANNOTATION_RUN, GRAY_TYPE, SERVICE_NAME, TYPE, VERSION, selector,
};
use crate::lane::leak::{Pods, leaks};
use crate::lane::rank;
use crate::lane::route::{self, Entry, is_route};
use crate::manifest::{ObjectRef, clean, diff, kind, map_at, name, texts, uid};
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
}

impl MseGrayDeploy {
    /// The type, over these clusters.
    pub fn new(clusters: Arc<Clusters>, key: DigestKey) -> Self {
        MseGrayDeploy { clusters, key }
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
        match deploy.run().await {
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
        let lane = objects(self.cluster, &selector(&self.with.tag)).await?;
        let around = Around::look(self.cluster).await?;
        let rendered = self.render(&around, &lane, &mut plan)?;
        self.judge(&around, &rendered, &lane, &mut plan)?;
        leak_test(&around, &rendered, &lane)?;
        let known = Known::look(self.cluster, &around, &lane, &rendered).await?;
        let mut expected_images = Map::new();
        let mut new_routes = Vec::new();
        let mut stamped = Vec::new();
        let mut before = Vec::new();
        for object in rendered {
            let live = self.live(&object, &known)?;
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
            stamped.push(self.stamp(object, live));
        }
        let tried = self.try_all(&stamped, &mut plan).await?;
        for (object, dry) in stamped.iter().zip(tried) {
            let shown = dry.filter(|_| kind(object) != "Secret");
            let live = known.find(object);
            plan.changes.push(change(
                &self.cluster.namespace,
                live,
                Some(shown.as_ref().unwrap_or(object)),
                self.key,
            ));
            if kind(object) == "Deployment" && !probed(object) {
                plan.warnings.push(unprobed(object));
            }
        }
        let removed = self.removed(&stamped, &lane, &mut plan);
        let goes = |object: &&Value| removed.iter().any(|removed| removed.at == ObjectRef::of(object));
        before.extend(lane.iter().filter(goes).map(|object| clean(&redact(object, self.key))));
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
        let pods = around.judge(rendered, &baselines);
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

    /// The live object under a lane name; a foreign one is refused.
    fn live<'k>(&self, object: &Value, known: &'k Known<'_>) -> Result<Option<&'k Value>, TaskError> {
        let Some(live) = known.find(object) else { return Ok(None) };
        let labels = texts(live, "/metadata/labels");
        let mine = labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE)
            && labels.get(VERSION) == Some(&self.with.tag);
        let shown = full_name(&self.cluster.namespace, live);
        if !mine {
            return Err(TaskError::permanent(format!(
                "refused: {shown} exists and does not belong to lane `{}`",
                self.with.tag
            ))
            .hint("use another tag, or remove the object"));
        }
        if !is_ours(live) {
            return Err(TaskError::permanent(format!(
                "refused: {shown} belongs to a lane that another tool made"
            ))
            .hint("take that lane down with the tool that made it, or use another tag"));
        }
        if kind(object) == "Deployment" && live.pointer("/spec/selector") != object.pointer("/spec/selector")
        {
            return Err(TaskError::permanent(format!(
                "refused: {shown} has another selector, which cannot be changed"
            ))
            .hint("take the lane down first, then deploy it again"));
        }
        Ok(Some(live))
    }

    /// Tries objects on the API server without writing them; nothing for those that are not tried.
    async fn try_all(&self, objects: &[Value], plan: &mut Plan) -> Result<Vec<Option<Value>>, TaskError> {
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
        let tries: Vec<_> = objects.iter().map(|object| self.try_one(object, tried(object))).collect();
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

    fn stamp(&self, mut object: Value, live: Option<&Value>) -> Value {
        let created = live.and_then(|live| texts(live, "/metadata/annotations").remove(ANNOTATION_CREATED));
        let created = created.unwrap_or_else(|| self.cx.clock.now().to_string());
        let annotations = map_at(&mut object, &["metadata", "annotations"]);
        annotations.insert(ANNOTATION_CREATED.into(), created.into());
        annotations.insert(ANNOTATION_RUN.into(), self.cx.run.to_string().into());
        object
    }

    async fn try_one(&self, object: &Value, tried: bool) -> Result<Option<Value>, TaskError> {
        if tried { self.dry_run(object).await.map(Some) } else { Ok(None) }
    }

    async fn dry_run(&self, object: &Value) -> Result<Value, TaskError> {
        // A digest is no base64, and the server would say so: the shape is tried without the values.
        let mut object = object.clone();
        if kind(&object) == "Secret" {
            object["data"] = json!({});
        }
        let dry = self.cluster.apply(&object, true, true).await?;
        Ok(dry)
    }

    fn removed(&self, rendered: &[Value], lane: &[Value], plan: &mut Plan) -> Vec<Removed> {
        let services: BTreeSet<String> =
            rendered.iter().filter_map(|o| texts(o, "/metadata/labels").remove(SERVICE_NAME)).collect();
        let kept: BTreeSet<ObjectRef> = rendered.iter().map(ObjectRef::of).collect();
        let mut removed = Vec::new();
        for object in lane {
            let service = texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
            let at = ObjectRef::of(object);
            if kept.contains(&at) {
                continue;
            }
            if !services.contains(&service) || !is_ours(object) {
                plan.warnings.push(format!(
                    "{} stays in the lane: it is not part of this deploy",
                    full_name(&self.cluster.namespace, object)
                ));
                continue;
            }
            let Some(uid) = uid(object) else { continue };
            plan.changes.push(change(&self.cluster.namespace, Some(object), None, self.key));
            removed.push(Removed { at, uid: uid.to_owned() });
        }
        removed
    }
}

/// The leak test over Services and pods as they will be.
fn leak_test(around: &Around, rendered: &[Value], lane: &[Value]) -> Result<(), TaskError> {
    let ours: BTreeSet<&str> = rendered.iter().filter(|o| kind(o) == "Service").map(name).collect();
    let gone: BTreeSet<&str> = lane.iter().filter(|o| kind(o) == "Service").map(name).collect();
    let services = around
        .all("Service")
        .iter()
        .filter(|service| !ours.contains(name(service)) && !gone.contains(name(service)));
    let new: BTreeSet<&str> = rendered.iter().filter(|o| kind(o) == "Deployment").map(name).collect();
    let mut pods: Vec<Pods> = rendered.iter().filter(|o| kind(o) == "Deployment").map(Pods::of).collect();
    let workloads = around.all("Deployment").iter().filter(|workload| !new.contains(name(workload)));
    pods.extend(workloads.map(Pods::of));
    let rendered_services = rendered.iter().filter(|object| kind(object) == "Service");
    let mut found = leaks(services.chain(rendered_services), &pods);
    // What leaks already without this lane is not this lane's doing, and must not stop a release.
    found.retain(|leak| new.contains(leak.deployment.as_str()) || ours.contains(leak.service.as_str()));
    let Some(first) = found.first() else { return Ok(()) };
    let hint = first.hint.clone();
    Err(TaskError::permanent(format!("refused: {first}"))
        .details(found.iter().skip(1).map(ToString::to_string))
        .hint(hint))
}

/// What lives under the names of a lane: read by lists, not one by one.
struct Known<'k> {
    by_name: HashMap<(&'static str, String), Cow<'k, Value>>,
}

impl<'k> Known<'k> {
    async fn look(
        cluster: &Cluster,
        around: &'k Around,
        lane: &'k [Value],
        rendered: &[Value],
    ) -> Result<Known<'k>, TaskError> {
        let mut by_name: HashMap<(&'static str, String), Cow<'k, Value>> = HashMap::new();
        for (_, kind) in LANE_KINDS {
            // What pods read may be large, and what is foreign among it is only to be recognized.
            let large = matches!(kind, "ConfigMap" | "Secret");
            if large && rendered.iter().any(|object| self::kind(object) == kind) {
                for object in cluster.list_metadata("v1", kind).await? {
                    by_name.insert((kind, name(&object).to_owned()), Cow::Owned(object));
                }
            }
            for object in around.all(kind).iter().chain(lane.iter().filter(|o| self::kind(o) == kind)) {
                by_name.insert((kind, name(object).to_owned()), Cow::Borrowed(object));
            }
        }
        Ok(Known { by_name })
    }

    fn find(&self, object: &Value) -> Option<&Value> {
        let (_, kind) = LANE_KINDS.into_iter().find(|(_, known)| *known == kind(object))?;
        self.by_name.get(&(kind, name(object).to_owned())).map(|object| &**object)
    }
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
    if cluster.has_namespace().await? {
        return Ok(());
    }
    Err(TaskError::permanent(format!("refused: there is no namespace {} on the cluster", cluster.namespace))
        .hint("create it, or correct `namespace` in the environment's file"))
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

struct Deploy<'d> {
    cx: &'d TaskContext,
    site: &'d Site,
    cluster: &'d Cluster,
    key: &'d DigestKey,
    body: &'d Body,
}

impl Deploy<'_> {
    async fn run(&self) -> Result<Outputs, TaskError> {
        let of = |kinds: &'static [&'static str]| {
            self.body.objects.iter().filter(move |o| kinds.contains(&kind(o)))
        };
        if of(&["ConfigMap", "Secret"]).next().is_some() {
            self.cx.phase("writing configuration").await?;
            for object in of(&["ConfigMap", "Secret"]) {
                self.apply(object).await?;
            }
        }
        self.cx.phase("starting gray pods").await?;
        let mut started = Vec::new();
        for object in of(&["Deployment"]) {
            started.push(self.apply(object).await?);
        }
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
        self.cx.phase("writing Services").await?;
        for object in of(&["Service"]) {
            self.apply(object).await?;
        }
        for removed in &self.body.removed {
            self.remove(removed).await?;
        }
        let route = of(&["Ingress", "HTTPRoute"]).next();
        if route.is_some() {
            self.cx.phase("opening the route").await?;
        }
        for one in of(&["Ingress", "HTTPRoute"]) {
            self.apply(one).await?;
            report.push(format!("route: {}", route::words(one)));
        }
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
        let service = texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
        let origin = texts(object, "/metadata/annotations").remove(ANNOTATION_ORIGIN).unwrap_or_default();
        let object = match self.site.source(&service) {
            Some(source) => restore(object, &origin, source, self.key).map_err(TaskError::permanent)?,
            None => object.clone(),
        };
        self.cx.log(format!("apply {}", full_name(&self.cluster.namespace, &object)));
        // The plan has looked at foreign owners; what a person changed by hand since is taken back.
        Ok(self.cluster.apply(&object, false, true).await?)
    }

    async fn follow(&self, applied: &Value) -> Result<crate::rollout::Seen, TaskError> {
        let generation = applied.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let environment = &self.site.environment;
        let (agent, patience) = (environment.mse.enabled, environment.patience());
        let expect = Expect { generation, agent, pods: true, patience };
        match follow(self.cx, self.cluster, applied, expect, &self.cx.cancel).await {
            Ok(seen) => Ok(seen),
            Err(failed) if failed.agent_missing => Err(failed.error.details(self.scale_to_0().await)),
            Err(failed) => Err(failed.error),
        }
    }

    /// Takes every gray pod of this deploy away: where one lacks the agent, the others most likely do too. Tells what
    /// became of each.
    async fn scale_to_0(&self) -> Vec<String> {
        let mut told = Vec::new();
        // A route that an earlier deploy opened would lead to nobody.
        for ingress in self.body.objects.iter().filter(|object| is_route(object)) {
            told.extend(self.close_route(&ObjectRef::of(ingress)).await);
        }
        for object in self.body.objects.iter().filter(|object| kind(object) == "Deployment") {
            let at = ObjectRef::of(object);
            self.cx.log(format!("scaling {at} to 0: its pods carry no MSE agent"));
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

    async fn remove(&self, removed: &Removed) -> Result<(), TaskError> {
        match self.cluster.delete(&removed.at, &removed.uid).await? {
            Deleted::Accepted => self.cx.log(format!("deleted {}: the lane no longer has it", removed.at)),
            Deleted::Gone => {}
            Deleted::Replaced => self.cx.log(format!("{} is another object by now and stays", removed.at)),
        }
        Ok(())
    }

    /// Takes back a route that this deploy put, and says what is left to look at.
    async fn after_failure(&self, error: TaskError) -> TaskError {
        let mut told = Vec::new();
        for at in &self.body.new_routes {
            told.extend(self.close_route(at).await);
        }
        let left: Vec<String> = self
            .body
            .objects
            .iter()
            .filter(|o| kind(o) == "Deployment")
            .map(|o| ObjectRef::of(o).to_string())
            .collect();
        told.push(format!(
            "left to look at: {} in {}; mse-gray-offline with tag `{}` takes everything down",
            left.join(", "),
            self.cluster.namespace,
            self.body.tag
        ));
        error.details(told)
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
