//! `prod-deploy`: brings services in production to new images, one after the other, and takes it back where it fails.
//!
//! Applies each named service's whole manifest. A lane of the same service is left alone.

mod scalers;

use self::scalers::Scalers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::claim::Claim;
use graylane_engine::document::Finding;
use graylane_engine::id::Digest;
use graylane_engine::run::ROLLBACK;
use graylane_engine::task::{self, Action, Outputs, Plan, Task, TaskContext, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster::{ApplyError, Cluster, Clusters, FIELD_MANAGER, full_name};
use crate::environment::{Site, Verified, deployment};
use crate::generic_verify;
use crate::inventory;
use crate::lane::labels::{ANNOTATION_CONFIG_HASH, GRAY_TYPE, TYPE};
use crate::lane::leak::{Pods, leaks};
use crate::lane::{baseline_hash, config_hash, set_images};
use crate::lease::OnCluster;
use crate::manifest::{ObjectRef, clean, images, kind, map_at, name, namespace, sorted, texts};
use crate::mse_gray_deploy::{change, must_exist, refuse, shown_images, unprobed};
use crate::ownership;
use crate::rollout::{Expect, follow, probed, running_images};
use crate::secret::{DigestKey, redact, restore};
use crate::spec::{
    self, ServiceWith, check_environment, check_images, check_service, check_services, images_value,
};
use crate::verified::{Judged, copies, digest, judge, short};

/// The task type.
pub struct ProdDeploy {
    clusters: Arc<Clusters>,
    key: DigestKey,
}

impl ProdDeploy {
    /// The type, over these clusters.
    pub fn new(clusters: Arc<Clusters>, key: DigestKey) -> Self {
        ProdDeploy { clusters, key }
    }
}

/// `with` of a `prod-deploy` task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// The environment, by the name in its file.
    environment: String,
    /// Image by service, for services with one container; images by container for others. Short for `services`.
    #[serde(default)]
    images: Option<BTreeMap<String, Value>>,
    /// The services, with all that can be said of each.
    #[serde(default)]
    services: Option<BTreeMap<String, ServiceWith>>,
    /// The order; services that it does not name come after it, by name.
    #[serde(default)]
    order: Vec<String>,
    /// Whether a failure takes back what was written.
    #[serde(default)]
    rollback: Rollback,
    /// Field managers whose fields are taken although they conflict.
    #[serde(default)]
    force: Vec<String>,
    /// Whether only images are taken that were verified in a lane; the environment may ask for it too.
    #[serde(default)]
    verified: Verified,
}

/// Whether a failure takes back what was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Rollback {
    /// A failure, a timeout and a cancel take it back.
    #[default]
    OnFailure,
    /// What was written stays.
    Never,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Body {
    environment: String,
    rollback: Rollback,
    /// In their order.
    services: Vec<Planned>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    service: String,
    objects: Vec<Write>,
    /// The images that were verified, by container: what its pods should run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    verified: BTreeMap<String, String>,
}

/// One object to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Write {
    /// What is applied; Secrets hold digests.
    object: Value,
    /// What stood there before; none where it is new.
    before: Option<Before>,
    /// Whether fields of managers that may be taken over conflict.
    force: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Before {
    uid: String,
    /// The part that a rollback writes back, as it was.
    content: Value,
    /// The same part as it will be: what a rollback must find.
    written: Digest,
}

impl OnCluster for ProdDeploy {
    /// It removes nothing, and follows rollouts alone.
    fn uses(&self, _: Option<&Plan>, resource: &str, verb: &str) -> bool {
        match verb {
            "watch" => matches!(resource, "deployments" | "replicasets" | "pods"),
            _ => verb != "delete",
        }
    }
}

#[async_trait]
impl Task for ProdDeploy {
    fn type_name(&self) -> &'static str {
        "prod-deploy"
    }

    fn summary(&self) -> &'static str {
        "brings services in production to new images, and takes it back where it fails"
    }

    fn schema(&self) -> Value {
        graylane_engine::schema::of_spec::<With>()
    }

    fn check(&self, spec: &Value, at: &task::Site<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let site = check_environment(spec, at, &mut findings);
        check_images(spec, site.as_ref(), &mut findings);
        check_services(spec, site.as_ref(), &mut findings);
        for (index, service) in spec.get("order").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            if let Some(service) = service.as_str().filter(|text| !text.contains("${{")) {
                let mut wrong = Vec::new();
                check_service(service, &format!("/order/{index}"), site.as_ref(), &mut wrong);
                findings.extend(wrong.into_iter().map(|finding| Finding { on_key: false, ..finding }));
            }
        }
        if spec.get("images").is_none() && spec.get("services").is_none() {
            findings
                .push(Finding::at("", "nothing is deployed").on_key().label("add `images` or `services`"));
        }
        findings
    }

    fn claims(&self, spec: &Value) -> Vec<Claim> {
        let Some(environment) = spec::plain(spec, "environment") else { return Vec::new() };
        let named =
            ["images", "services"].into_iter().filter_map(|key| spec.get(key)).filter_map(Value::as_object);
        named.flat_map(Map::keys).map(|service| Claim::service(environment, service)).collect()
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        &["environment"]
    }

    fn outputs(&self) -> &'static [&'static str] {
        &["images"]
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
        let wrote = Mutex::new(cx.checkpoints.clone());
        let deploy = Deploy { cx, site: &site, cluster: &cluster, key: &self.key, body: &body, wrote };
        // A plan may be older than a freeze; what has begun is finished.
        if !deploy.has_begun() && !cx.passed(ROLLBACK) {
            spec::thawed(cx, &site)?;
        }
        if cx.passed(ROLLBACK) {
            // A crash cut a rollback off: going forward again would undo the undoing.
            let told = deploy.roll_back("rolling back", &CancellationToken::new()).await.all();
            return Err(TaskError::permanent(
                "the deploy had failed or was cancelled when it was cut off; its rollback was finished",
            )
            .details(told));
        }
        match deploy.run().await {
            Ok(outputs) => Ok(outputs),
            // Production is not what was planned over: a person says how it goes on, and until then nothing moves.
            Err(error) if error.kind == task::ErrorKind::Hold => Err(error.details(deploy.written())),
            Err(error) if body.rollback == Rollback::Never => {
                let told = ["nothing was taken back: `rollback` is never".to_owned()];
                Err(error.details(told).details(deploy.lanes_left().await))
            }
            Err(error) => {
                cx.checkpoint(ROLLBACK).await?;
                // The cancel that brought us here must not stop us; the task's own time does.
                let told = deploy.roll_back("rolling back", &CancellationToken::new()).await.all();
                // Trying again is a person's decision: production has just been through a failure.
                let error = TaskError { kind: task::ErrorKind::Permanent, ..error }.details(told);
                Err(error.details(deploy.lanes_left().await))
            }
        }
    }

    async fn undo(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        let body: Body = spec::body(plan)?;
        let site = spec::site(cx, &body.environment)?;
        let cluster = self.clusters.connect(&site).await?;
        let wrote = Mutex::new(cx.checkpoints.clone());
        let deploy = Deploy { cx, site: &site, cluster: &cluster, key: &self.key, body: &body, wrote };
        let mut report = deploy.foreign().await?;
        let done = deploy.roll_back("taking production back", &cx.cancel).await;
        if done.left.is_empty() {
            report.extend(done.told);
            return Ok(Outputs { report, ..Outputs::default() });
        }
        Err(TaskError::transient("production was not taken back as a whole").details(done.all()))
    }
}

/// What became of taking production back.
#[derive(Default)]
struct TakenBack {
    told: Vec<String>,
    /// What is not as it was.
    left: Vec<String>,
}

impl TakenBack {
    fn all(self) -> Vec<String> {
        [self.told, self.left].concat()
    }
}

/// A service, and its objects with what stands there now.
type Found = (String, Vec<(Value, Option<Value>)>);

struct Planner<'p> {
    cx: &'p TaskContext,
    with: &'p With,
    site: &'p Site,
    cluster: &'p Cluster,
    key: &'p DigestKey,
}

impl Planner<'_> {
    async fn plan(&self) -> Result<Plan, TaskError> {
        let mut plan = Plan::default();
        must_exist(self.cluster).await?;
        let mut services = Vec::new();
        let mut wrong = Vec::new();
        let mut expected = Map::new();
        let mut given = BTreeMap::new();
        for (service, with) in self.services()? {
            match self.objects(&service, &with).await? {
                Ok(objects) => {
                    given.insert(service.clone(), with.replicas);
                    services.push((service, objects));
                }
                Err(why) => wrong.extend(why),
            }
        }
        refuse(wrong)?;
        self.scaled(&services, &given, &mut plan).await?;
        let mut verified = self.verified(&mut services, &mut plan).await?;
        let all: Vec<&Value> =
            services.iter().flat_map(|(_, objects)| objects).map(|(object, _)| object).collect();
        self.leak_test(&all).await?;
        let mut planned = Vec::new();
        for (service, objects) in services {
            let mut writes = Vec::new();
            for (object, live) in objects {
                if kind(&object) == "Deployment" {
                    expected.insert(service.clone(), images_value(&images(&object)));
                }
                let (dry, force) = self.dry_run(&object, &service, live.as_ref()).await?;
                let going = live.as_ref().map(|live| ownership::going(live, &object, self.take_over()));
                plan.warnings.extend(going.into_iter().flatten().map(|field| {
                    format!(
                        "{}: {field} goes: `kubectl apply` wrote it, and the manifest no longer has it",
                        ObjectRef::of(&object)
                    )
                }));
                let shown = if kind(&object) == "Secret" { &object } else { &dry };
                plan.changes.push(change(&self.cluster.namespace, live.as_ref(), Some(shown), self.key));
                if kind(&object) == "Deployment" && !probed(&object) {
                    plan.warnings.push(unprobed(&object));
                }
                let before = live.as_ref().and_then(|live| before(live, &object, &dry, self.key));
                writes.push(Write { object, before, force });
            }
            let verified = verified.remove(&service).unwrap_or_default();
            planned.push(Planned { service, objects: writes, verified });
        }
        if plan.changes.iter().all(|change| change.action == Action::Keep) {
            plan.warnings.push("nothing changes: production is as it should be".into());
        }
        plan.expected.insert("images".into(), Value::Object(expected));
        let body = Body {
            environment: self.with.environment.clone(),
            rollback: self.with.rollback,
            services: planned,
        };
        spec::seal(plan, &body, self.site)
    }

    /// The managers whose fields become ours without being told.
    fn take_over(&self) -> &[String] {
        &self.site.environment.take_over
    }

    /// `images` and `services` as one, in the order of the deploy.
    fn services(&self) -> Result<Vec<(String, ServiceWith)>, TaskError> {
        let mut services = spec::services(self.site, self.with.images.as_ref(), self.with.services.as_ref())?;
        let mut ordered = Vec::new();
        for name in &self.with.order {
            // `order` may name services that this run leaves out.
            ordered.extend(services.remove_entry(name));
        }
        ordered.extend(services);
        Ok(ordered)
    }

    /// The objects as they will be applied, with what stands there now.
    async fn objects(
        &self,
        service: &str,
        with: &ServiceWith,
    ) -> Result<Result<Vec<(Value, Option<Value>)>, Vec<String>>, TaskError> {
        let manifest = self.site.service(service).map_err(TaskError::permanent)?;
        if let Err(why) = deployment(service, manifest) {
            return Ok(Err(vec![why]));
        }
        let mut wrong = Vec::new();
        let hash = config_hash(&manifest.iter().collect::<Vec<_>>());
        let mut objects = Vec::new();
        let mut ordered: Vec<&Value> = manifest.iter().collect();
        // What pods read is there before the pods.
        ordered.sort_by_key(|object| match kind(object) {
            "ConfigMap" | "Secret" | "ServiceAccount" => 0,
            "Deployment" => 2,
            "Ingress" | "HTTPRoute" => 3,
            _ => 1,
        });
        for written in ordered {
            let at = ObjectRef::of(written);
            if namespace(written)
                .is_some_and(|named| Some(named) != self.site.environment.namespace_of(service))
            {
                wrong.push(format!("service `{service}`: {at} names a namespace of its own; remove it: the environment's holds"));
                continue;
            }
            let live = self.cluster.get(&at).await?;
            if live.as_ref().is_some_and(|live| {
                texts(live, "/metadata/labels").get(TYPE).is_some_and(|kind| kind == GRAY_TYPE)
            }) {
                wrong.push(format!("service `{service}`: {at} belongs to a lane"));
                continue;
            }
            let mut object = sorted(&without_nulls(clean(written)));
            match kind(&object) {
                "Deployment" => prepare_deployment(&mut object, live.as_ref(), with, hash.as_deref()),
                "Service" => prepare_service(&mut object),
                _ => {}
            }
            objects.push((object, live));
        }
        Ok(if wrong.is_empty() { Ok(objects) } else { Err(wrong) })
    }

    /// Whether autoscalers and this deploy get along.
    async fn scaled(
        &self,
        services: &[Found],
        given: &BTreeMap<String, Option<u32>>,
        plan: &mut Plan,
    ) -> Result<(), TaskError> {
        let planned = services.iter().flat_map(|(_, objects)| objects).map(|(object, _)| object);
        let scalers = Scalers::look(self.cluster, planned).await?;
        let mut wrong = Vec::new();
        for (service, objects) in services {
            let manifest = self.site.service(service).map_err(TaskError::permanent)?;
            let live = objects.iter().find(|(object, _)| kind(object) == "Deployment");
            let live = live.and_then(|(_, live)| live.as_ref());
            let given = given.get(service).copied().flatten();
            let written = deployment(service, manifest).map_err(TaskError::permanent)?;
            let found = scalers.judge(written, live, given, &self.with.force);
            wrong.extend(found.wrong.into_iter().map(|why| format!("service `{service}`: {why}")));
            plan.warnings.extend(found.notes);
        }
        refuse(wrong)
    }

    /// Whether production is about to get what was verified in a lane: gives these images by service and container.
    /// Where it must be, a tag becomes the digest that was verified, and everything else is refused.
    async fn verified(
        &self,
        services: &mut [Found],
        plan: &mut Plan,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, TaskError> {
        let required = self.with.verified.max(self.site.environment.verified) == Verified::Required;
        let copies = copies(self.cluster, &format!("{TYPE}={GRAY_TYPE}")).await?;
        let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (service, objects) in services {
            let baseline =
                self.site.service(service).ok().and_then(|manifest| deployment(service, manifest).ok());
            let baseline = baseline.map(baseline_hash).unwrap_or_default();
            let in_lanes = copies.iter().any(|copy| copy.service == *service);
            for (object, live) in objects.iter_mut().filter(|(object, _)| kind(object) == "Deployment") {
                let before = live.as_ref().map(images).unwrap_or_default();
                let mut pinned = BTreeMap::new();
                for (container, image) in images(object) {
                    // What production runs already is not on its way there.
                    if before.get(&container) == Some(&image) {
                        continue;
                    }
                    match judge(service, &container, &image, &baseline, &copies) {
                        Judged::Verified { image: exact, tag } => {
                            if required && digest(&image).is_none() {
                                plan.warnings.push(format!(
                                    "{service}: `{image}` becomes {}, which was verified in lane `{tag}`",
                                    short(&exact)
                                ));
                                pinned.insert(container.clone(), exact.clone());
                            }
                            found.entry(service.clone()).or_default().insert(container, exact);
                        }
                        Judged::Not(why) => {
                            let shown = short(&image);
                            let words =
                                format!("service `{service}`: image `{shown}` was not verified: {why}");
                            if required && !self.will_be_verified() {
                                wrong.push(words);
                            } else if required || in_lanes {
                                plan.warnings.push(words);
                            }
                        }
                    }
                }
                if let Some(template) = object.pointer_mut("/spec/template") {
                    set_images(template, &pinned, &BTreeMap::new());
                }
            }
        }
        refuse(wrong).map_err(|error| {
            error.hint("deploy it to a lane, verify it there, and promote it before the lane is taken down")
        })?;
        Ok(found)
    }

    /// In a plan that is only shown: whether a task before this one would verify a lane here.
    fn will_be_verified(&self) -> bool {
        self.cx.assumed.iter().any(|plan| {
            serde_json::from_value::<generic_verify::Body>(plan.body.clone())
                .is_ok_and(|body| body.environment == self.with.environment)
        })
    }

    /// No Service, as it will be, may send production's requests to a lane, or a lane's to production.
    async fn leak_test(&self, planned: &[&Value]) -> Result<(), TaskError> {
        let services = self.cluster.list("v1", "Service", "").await?;
        let workloads = self.cluster.list("apps/v1", "Deployment", "").await?;
        let of = |wanted: &'static str| planned.iter().copied().filter(move |object| kind(object) == wanted);
        let planned_now: BTreeSet<ObjectRef> = planned.iter().copied().map(ObjectRef::of).collect();
        let others = |object: &&Value| !planned_now.contains(&ObjectRef::of(object));
        let new_services: BTreeSet<&str> = of("Service").map(name).collect();
        let new_pods: BTreeSet<&str> = of("Deployment").map(name).collect();
        let mut pods: Vec<Pods> = of("Deployment").map(Pods::of).collect();
        pods.extend(workloads.iter().filter(others).map(Pods::of));
        let live = services.iter().filter(others);
        let mut found = leaks(live.chain(of("Service")), &pods);
        found.retain(|leak| {
            new_services.contains(leak.service.as_str()) || new_pods.contains(leak.deployment.as_str())
        });
        let Some(first) = found.first() else { return Ok(()) };
        Err(TaskError::permanent(format!("refused: {first}"))
            .details(found.iter().skip(1).map(ToString::to_string))
            .hint(first.hint.clone()))
    }

    async fn dry_run(
        &self,
        object: &Value,
        service: &str,
        live: Option<&Value>,
    ) -> Result<(Value, bool), TaskError> {
        let mut shape = object.clone();
        if kind(&shape) == "Secret" {
            shape["data"] = live.and_then(|live| live.get("data")).cloned().unwrap_or_else(|| json!({}));
        }
        let shown = |mut dry: Value| {
            ownership::keep_number(&mut dry, object, live);
            dry
        };
        match self.cluster.apply(&shape, true, false).await {
            Ok(dry) => Ok((shown(dry), false)),
            Err(ApplyError::Other(error)) => Err(error),
            Err(ApplyError::Conflict(conflicts, error)) => {
                // Fields that a rollback wrote are ours too, by another kind of write.
                let may = |manager: &String| {
                    manager == FIELD_MANAGER
                        || self.take_over().contains(manager)
                        || self.with.force.contains(manager)
                };
                let foreign: Vec<&(String, String)> =
                    conflicts.iter().filter(|(manager, _)| !may(manager)).collect();
                if foreign.is_empty() {
                    let forced = TaskError::from_apply(self.cluster.apply(&shape, true, true).await)?;
                    return Ok((shown(forced), true));
                }
                let shown = full_name(&self.cluster.namespace, object);
                let named = foreign.iter().map(|(manager, field)| format!("{field} belongs to `{manager}`"));
                let managers: BTreeSet<&str> = foreign.iter().map(|(manager, _)| manager.as_str()).collect();
                let managers = managers.into_iter().collect::<Vec<_>>().join(", ");
                Err(TaskError::permanent(format!(
                    "refused: service `{service}`: {shown} has fields of other managers"
                ))
                .details(named)
                .hint(format!(
                    "leave these fields out of the manifest, or take them with `force: [{managers}]`"
                ))
                .details([error.message]))
            }
        }
    }
}

/// An apply's answer as a task's.
trait FromApply: Sized {
    fn from_apply<T>(applied: Result<T, ApplyError>) -> Result<T, Self>;
}

impl FromApply for TaskError {
    fn from_apply<T>(applied: Result<T, ApplyError>) -> Result<T, TaskError> {
        applied.map_err(TaskError::from)
    }
}

/// The manifest of a Deployment with images and replicas: given, else as they are.
pub(crate) fn prepare_deployment(
    object: &mut Value,
    live: Option<&Value>,
    with: &ServiceWith,
    hash: Option<&str>,
) {
    let live_images = live.map(images).unwrap_or_default();
    if let Some(template) = object.pointer_mut("/spec/template") {
        set_images(template, &with.images, &live_images);
    }
    let spec = map_at(object, &["spec"]);
    match (with.replicas, live) {
        (Some(replicas), _) => {
            spec.insert("replicas".into(), replicas.into());
        }
        // Whoever scales it (a person, an HPA) keeps the number.
        (None, Some(_)) => {
            spec.remove("replicas");
        }
        (None, None) => {}
    }
    if let Some(hash) = hash {
        let annotations = map_at(object, &["spec", "template", "metadata", "annotations"]);
        annotations.insert(ANNOTATION_CONFIG_HASH.into(), hash.into());
    }
}

fn prepare_service(object: &mut Value) {
    let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.entry("protocol").or_insert_with(|| "TCP".into());
    }
}

pub(crate) fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            for value in map.values_mut() {
                *value = without_nulls(value.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_nulls(item.take());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

/// What production runs in the place of what was verified: a tag that was pushed again in between.
fn pushed_again(planned: &Planned, running: &BTreeMap<String, String>) -> Vec<String> {
    let other = planned.verified.iter().filter_map(|(container, verified)| {
        let runs = running.get(container)?;
        (digest(runs).is_some() && digest(runs) != digest(verified)).then(|| {
            format!(
                "production {}: its image was pushed again since it was verified: it runs {}, and {} was verified",
                planned.service,
                short(runs),
                short(verified)
            )
        })
    });
    other.collect()
}

/// The part of an object that a rollback writes back: a pod template, or the content.
fn part(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" => Some("/spec/template"),
        "ConfigMap" => Some("/data"),
        "Service" | "Ingress" | "HTTPRoute" => Some("/spec"),
        // A Secret's values are nowhere kept: they cannot be brought back.
        _ => None,
    }
}

fn digest_of(part: &Value) -> Digest {
    Digest::of(sorted(part).to_string().as_bytes())
}

/// What tells whether an object is as it was, or as we write it: the part that a rollback writes back, and of a Secret
/// its digests. `object` is redacted. None for kinds that are applied and not compared.
fn content(object: &Value) -> Option<&Value> {
    static NOTHING: Value = Value::Null;
    let pointer = if kind(object) == "Secret" { "/data" } else { part(kind(object))? };
    Some(object.pointer(pointer).unwrap_or(&NOTHING))
}

/// What stands there before `planned` is written; `dry` is what the server makes of it.
fn before(live: &Value, planned: &Value, dry: &Value, key: &DigestKey) -> Option<Before> {
    let uid = crate::manifest::uid(live)?.to_owned();
    let was = content(&redact(live, key)).cloned().unwrap_or_default();
    // Digests of a Secret stand in the plan alone.
    let will = if kind(live) == "Secret" { planned } else { dry };
    let written = digest_of(content(will).unwrap_or(&Value::Null));
    Some(Before { uid, content: was, written })
}

/// The checkpoint before an object is written.
fn writes(at: &ObjectRef) -> String {
    format!("writes {at}")
}

struct Deploy<'d> {
    cx: &'d TaskContext,
    site: &'d Site,
    cluster: &'d Cluster,
    key: &'d DigestKey,
    body: &'d Body,
    /// What this attempt has written, beside what the checkpoints say of earlier ones.
    wrote: Mutex<BTreeSet<String>>,
}

impl Deploy<'_> {
    async fn run(&self) -> Result<Outputs, TaskError> {
        let mut values = Map::new();
        let mut report = Vec::new();
        for planned in &self.body.services {
            self.cx.phase(format!("updating {}", planned.service)).await?;
            let mut deployment = None;
            for write in &planned.objects {
                if self.cx.cancel.is_cancelled() {
                    return Err(TaskError::transient("stopped between two objects"));
                }
                let applied = self.write(&planned.service, write).await?;
                if kind(&applied) == "Deployment" {
                    deployment = Some(applied);
                }
            }
            let Some(deployment) = deployment else { continue };
            let seen = self.follow(&deployment, &self.cx.cancel).await?;
            report.push(format!("production {}: {}", planned.service, shown_images(&images(&deployment))));
            let running = running_images(&seen);
            report.extend(pushed_again(planned, &running));
            values.insert(planned.service.clone(), images_value(&running));
        }
        let mut outputs = Outputs { values: Map::new(), report };
        outputs.values.insert("images".into(), Value::Object(values));
        Ok(outputs)
    }

    async fn write(&self, service: &str, write: &Write) -> Result<Value, TaskError> {
        let at = ObjectRef::of(&write.object);
        let object = match self.site.source(service) {
            Some(source) => {
                restore(&write.object, &at.name, source, self.key).map_err(TaskError::permanent)?
            }
            None => write.object.clone(),
        };
        let live = self.still_as_planned(&at, write.before.as_ref()).await?;
        // Before it may be there: a rollback and an undo look at nothing else.
        let again = !self.note(writes(&at)).await?;
        let taken_over = match &write.before {
            Some(before) => self.take_over(&at, &write.object, before, live).await?,
            None => false,
        };
        // What becomes of it is no longer what the plan's dry run said, which came before. After a crash that has to be known:
        // it is written down before, and not only after.
        if again || taken_over {
            let dry = self.apply(&object, write.force, true).await?;
            self.note(format!("writes {}", self.mark(&at, &dry))).await?;
        }
        self.cx.log(format!("apply {}", full_name(&self.cluster.namespace, &object)));
        let applied = self.apply(&object, write.force, false).await?;
        // For this attempt and those after a crash.
        self.note(format!("wrote {}", self.mark(&at, &applied))).await?;
        Ok(applied)
    }

    async fn apply(&self, object: &Value, force: bool, dry_run: bool) -> Result<Value, ApplyError> {
        match self.cluster.apply(object, dry_run, force).await {
            // A rollback and an undo wrote these fields under our name by another kind of write.
            Err(ApplyError::Conflict(owners, _))
                if owners.iter().all(|(manager, _)| manager == FIELD_MANAGER) =>
            {
                self.cluster.apply(object, dry_run, true).await
            }
            applied => applied,
        }
    }

    /// Passes a checkpoint; says whether that is new.
    async fn note(&self, mark: String) -> Result<bool, TaskError> {
        let new = self.wrote.lock().unwrap_or_else(PoisonError::into_inner).insert(mark.clone());
        if new {
            self.cx.checkpoint(&mark).await?;
        }
        Ok(new)
    }

    /// Refuses where production is neither what was planned over nor what this task wrote: somebody mended it
    /// meanwhile, and yesterday's plan must not be written over that. Gives what stands there.
    async fn still_as_planned(
        &self,
        at: &ObjectRef,
        before: Option<&Before>,
    ) -> Result<Option<Value>, TaskError> {
        let changed = |words: &str| {
            Err(TaskError::hold(format!("{at} {words}"))
                .hint("mend it and retry, or fail this task and start a new run"))
        };
        match (self.cluster.get(at).await?, before) {
            (None, None) => Ok(None),
            (None, Some(_)) => changed("was removed since it was planned"),
            (Some(live), None) if self.wrote(at, &live) => Ok(Some(live)),
            // It was not there, we were about to make it, and it is ours: a crash came before that could be written down.
            (Some(live), None) if self.reached(at) && ownership::is_applied(&live) => Ok(Some(live)),
            (Some(_), None) => changed("was made by somebody else since it was planned"),
            (Some(live), Some(before)) => {
                if crate::manifest::uid(&live) != Some(before.uid.as_str()) {
                    return changed("is another object than the one that was planned for");
                }
                if self.known(at, &redact(&live, self.key), before) {
                    return Ok(Some(live));
                }
                changed("was changed by somebody else since it was planned")
            }
        }
    }

    fn mark(&self, at: &ObjectRef, object: &Value) -> String {
        let object = redact(object, self.key);
        // Kinds that are not compared leave a mark all the same: that they are ours.
        let content =
            content(&object).map(|content| digest_of(content).short().to_owned()).unwrap_or_default();
        format!("{at} {content}")
    }

    /// Whether an object is as this task wrote it, or as it was about to.
    fn wrote(&self, at: &ObjectRef, live: &Value) -> bool {
        let mark = self.mark(at, live);
        let wrote = self.wrote.lock().unwrap_or_else(PoisonError::into_inner);
        ["wrote", "writes"].iter().any(|word| wrote.contains(&format!("{word} {mark}")))
    }

    /// Whether an object is as the plan found it, or as this task wrote it. Kinds that are not compared always are.
    fn known(&self, at: &ObjectRef, live: &Value, before: &Before) -> bool {
        let Some(now) = content(live).map(digest_of) else { return true };
        now == digest_of(&before.content) || now == before.written || self.wrote(at, live)
    }

    /// Moves the fields of managers that may be taken over to ours, and leaves the number of pods to nobody.
    /// Says whether anything was.
    async fn take_over(
        &self,
        at: &ObjectRef,
        object: &Value,
        before: &Before,
        mut looked: Option<Value>,
    ) -> Result<bool, TaskError> {
        let managers = &self.site.environment.take_over;
        for last in [false, false, false, false, true] {
            let live = match looked.take() {
                Some(live) => Some(live),
                None => self.cluster.get(at).await?,
            };
            let Some(live) = live else { return Ok(false) };
            if crate::manifest::uid(&live) != Some(before.uid.as_str()) {
                return Ok(false);
            }
            if ownership::is_unkept(&live) {
                if !managers.iter().any(|manager| manager == ownership::BEFORE_FIRST_APPLY) || last {
                    return Ok(false);
                }
                self.cluster.apply(&ownership::nothing_of(&live), false, false).await?;
                continue;
            }
            let Some(record) = ownership::taken_over(&live, object, managers) else { return Ok(false) };
            let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let patch = json!([
                { "op": "replace", "path": "/metadata/managedFields", "value": record },
                { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
            ]);
            match self.cluster.patch(at, &patch).await {
                Ok(_) => {
                    self.cx.log(format!("{at}: its fields were taken over"));
                    return Ok(true);
                }
                // A controller wrote in between: look again.
                Err(error) if error.kind == task::ErrorKind::Transient && !last => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn follow(
        &self,
        deployment: &Value,
        stop: &CancellationToken,
    ) -> Result<crate::rollout::Seen, TaskError> {
        let generation = deployment.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        // The baseline may live without the agent; that is told by `environment`, not by a failed release.
        let patience = self.site.environment.patience();
        let expect = Expect { generation, agent: false, pods: true, patience };
        Ok(follow(self.cx, self.cluster, deployment, expect, stop).await?)
    }

    /// Whether this task had come to the object: what it never wrote is not its to take back.
    fn reached(&self, at: &ObjectRef) -> bool {
        self.wrote.lock().unwrap_or_else(PoisonError::into_inner).contains(&writes(at))
    }

    /// Whether the task had come to any object.
    fn has_begun(&self) -> bool {
        let wrote = self.wrote.lock().unwrap_or_else(PoisonError::into_inner);
        wrote.iter().any(|mark| mark.starts_with("writes "))
    }

    /// What the task has written so far.
    fn written(&self) -> Option<String> {
        let wrote = self.wrote.lock().unwrap_or_else(PoisonError::into_inner);
        let objects: BTreeSet<&str> = wrote
            .iter()
            .filter_map(|mark| mark.strip_prefix("wrote ")?.rsplit_once(' '))
            .map(|(object, _)| object)
            .collect();
        let objects: Vec<&str> = objects.into_iter().collect();
        (!objects.is_empty())
            .then(|| format!("written before that, and not taken back: {}", objects.join(", ")))
    }

    /// What somebody else has written since: refused, and with `force` told with what is overwritten.
    async fn foreign(&self) -> Result<Vec<String>, TaskError> {
        let mut found = Vec::new();
        let mut told = Vec::new();
        for write in self.body.services.iter().flat_map(|planned| &planned.objects) {
            let at = ObjectRef::of(&write.object);
            if !self.reached(&at) {
                continue;
            }
            let (Some(live), Some(before)) = (self.cluster.get(&at).await?, &write.before) else { continue };
            let live = redact(&live, self.key);
            let Some(content) = content(&live) else { continue };
            if self.known(&at, &live, before) || part(&at.kind).is_none() {
                continue;
            }
            found.push(format!("{at} was changed by somebody else since the run wrote it"));
            told.push(format!("{at}: somebody else's change is overwritten"));
            let change = crate::manifest::diff(Some(content), Some(&before.content));
            told.extend(change.lines().map(|line| format!("  {line}")));
        }
        if self.cx.force || found.is_empty() {
            return Ok(told);
        }
        let first = found.remove(0);
        Err(TaskError::permanent(format!("refused: {first}")).details(found).hint(format!(
            "`graylane undo {} --force` overwrites it, and shows what it overwrites",
            self.cx.taken_back()
        )))
    }

    /// Writes back what was recorded, last first; tells what became of it.
    async fn roll_back(&self, phase: &str, stop: &CancellationToken) -> TakenBack {
        let mut done = TakenBack::default();
        if let Err(error) = self.cx.phase(phase).await {
            done.told.push(format!("the phase could not be recorded: {error}"));
        }
        for planned in self.body.services.iter().rev() {
            let mut rolled = Vec::new();
            for write in planned.objects.iter().rev() {
                let at = ObjectRef::of(&write.object);
                if !self.reached(&at) {
                    continue;
                }
                if stop.is_cancelled() {
                    done.left.push(format!("{at} was not looked at any more: it was stopped before"));
                    continue;
                }
                match self.roll_back_until(write, &mut done.told, stop).await {
                    Ok(Some(object)) if kind(&object) == "Deployment" => rolled.push(object),
                    Ok(_) => {}
                    Err(error) => done.left.push(format!("{at} was not rolled back: {error}")),
                }
            }
            for deployment in rolled {
                let at = ObjectRef::of(&deployment);
                match self.follow(&deployment, stop).await {
                    Ok(_) => {
                        let images = shown_images(&images(&deployment));
                        done.told.push(format!("{at} was rolled back to {images}"));
                    }
                    Err(error) => done.left.push(format!("{at} was rolled back, but is not up: {error}")),
                }
            }
        }
        done
    }

    /// Lanes that are still up: a release that ends here must not leave one behind untold.
    async fn lanes_left(&self) -> Option<String> {
        let environment = &self.body.environment;
        let lanes = match inventory::lanes(self.cluster, self.site, self.cx.clock.now()).await {
            Ok(lanes) => lanes,
            Err(why) => {
                let shows = format!("`graylane lanes {environment}` shows it");
                return Some(format!("whether a lane is still up could not be seen ({why}); {shows}"));
            }
        };
        let tags: Vec<String> = lanes.into_iter().map(|lane| lane.tag).collect();
        (!tags.is_empty()).then(|| {
            let tags = graylane_engine::schema::list(&tags);
            format!("still up: lane {tags}; `graylane lanes {environment}` shows it, mse-gray-offline takes it down")
        })
    }

    /// Rolls one object back, again and again while the API server is away or somebody writes in between: nobody else
    /// will, and the task's own time ends it.
    async fn roll_back_until(
        &self,
        write: &Write,
        told: &mut Vec<String>,
        stop: &CancellationToken,
    ) -> Result<Option<Value>, TaskError> {
        loop {
            match self.roll_back_object(write, told).await {
                Err(error) if error.kind == task::ErrorKind::Transient && !stop.is_cancelled() => {
                    self.cx.log(format!("rolling back again: {error}"));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                done => return done,
            }
        }
    }

    async fn roll_back_object(
        &self,
        write: &Write,
        told: &mut Vec<String>,
    ) -> Result<Option<Value>, TaskError> {
        let at = ObjectRef::of(&write.object);
        let Some(live) = self.cluster.get(&at).await? else { return Ok(None) };
        let Some(before) = &write.before else {
            told.push(format!("{at} is new, and stays"));
            return Ok(None);
        };
        let live = redact(&live, self.key);
        let Some(now) = content(&live).map(digest_of) else { return Ok(None) };
        if now == digest_of(&before.content) {
            // An attempt before this one may have written it back: that it is there does not mean that it is up.
            return Ok((at.kind == "Deployment").then_some(live));
        }
        let Some(pointer) = part(&at.kind) else {
            told.push(format!("{at} is not brought back: the values of Secrets are not kept"));
            return Ok(None);
        };
        if now != before.written && !self.wrote(&at, &live) && !self.cx.force {
            told.push(format!("{at} was changed by somebody else meanwhile, and is left as it is"));
            return Ok(None);
        }
        let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        // With the version that was read, a write in between is a conflict, and everything is looked at again.
        let patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": before.uid },
            { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
            { "op": "replace", "path": pointer, "value": before.content },
        ]);
        self.cx.log(format!("rolling back {at}"));
        self.cluster.patch(&at, &patch).await.map(Some)
    }
}
