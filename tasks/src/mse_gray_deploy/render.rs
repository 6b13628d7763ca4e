//! The gray copies of a deploy, rendered over what lives: what `plan` writes down and `graylane render` prints.

use std::collections::BTreeMap;

use graylane_engine::bundle::Bundle;
use graylane_engine::document::{Finding, step};
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::refuse;
use super::update::over_baseline;
use crate::attached;
use crate::cluster::Clusters;
use crate::environment::{Site, deployment};
use crate::inventory::Standing;
use crate::lane::around::{Around, agent};
use crate::lane::labels::{ORIGINAL, VERSION};
use crate::lane::patch::{Change, Patch, PatchWith};
use crate::lane::route::{Asked, Entry, is_route, way};
use crate::lane::{Copy, Judgement, holds_secret, render};
use crate::manifest::{ObjectRef, images, kind, texts};
use crate::spec::{ServiceWith, images_for};

/// One service of a lane, with all that can be said of it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrayServiceWith {
    /// Image by container; what is not named keeps the image that production runs.
    #[serde(default)]
    images: BTreeMap<String, String>,
    /// How many pods; one where nothing is said.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    replicas: Option<u32>,
    /// Changes to the copies of its objects, applied last, in this order.
    #[serde(default)]
    patches: Vec<PatchWith>,
    /// The copy as a person edited it: a file that `graylane render` printed, relative to the workflow's file. It says all by itself.
    #[serde(default)]
    manifest: Option<String>,
    /// Claims that several pods may write to (ReadWriteMany) and that the copy mounts as the baseline does: by naming them here a
    /// person confirms that both versions may write to the same store.
    #[serde(default)]
    pub(super) shared_claims: Vec<String>,
}

impl GrayServiceWith {
    /// Whether a person changed what the rules would make.
    pub(super) fn is_changed(&self) -> bool {
        !self.patches.is_empty() || self.manifest.is_some()
    }

    /// What gray and production services have in common.
    pub(super) fn plain(&self) -> ServiceWith {
        ServiceWith { images: self.images.clone(), replicas: self.replicas }
    }
}

/// What no schema can say of `services`.
pub(super) fn check(spec: &Value, findings: &mut Vec<Finding>) {
    for (service, with) in spec.get("services").and_then(Value::as_object).into_iter().flatten() {
        let at = step("/services", service);
        let Some(with) = with.as_object() else { continue };
        if let Some(manifest) = with.get("manifest") {
            if let Some(other) =
                ["images", "replicas", "patches"].into_iter().find(|key| with.contains_key(*key))
            {
                findings.push(
                    Finding::at(format!("{at}/{other}"), format!("`{other}` beside `manifest`"))
                        .on_key()
                        .label("an edited manifest says all by itself: keep one of the two"),
                );
            }
            if manifest.as_str().is_some_and(|path| path.contains("${{")) {
                findings.push(
                    Finding::at(format!("{at}/manifest"), "the name of a file holds no expression")
                        .label("it is read before the run has inputs"),
                );
            }
        }
        for (index, patch) in with.get("patches").and_then(Value::as_array).into_iter().flatten().enumerate()
        {
            let at = format!("{at}/patches/{index}");
            match (patch.get("patch"), patch.get("file")) {
                (Some(_), None) | (None, Some(_)) => {}
                (None, None) => findings.push(
                    Finding::at(&at, "the patch changes nothing")
                        .label("add `patch`, or the `file` that holds it"),
                ),
                (Some(_), Some(_)) => findings.push(
                    Finding::at(format!("{at}/file"), "`file` beside `patch`")
                        .on_key()
                        .label("keep one of the two"),
                ),
            }
            let given = || serde_json::from_value::<PatchWith>(patch.clone()).ok();
            let secret = given().and_then(|given| Some(Patch { target: given.target, change: given.patch? }));
            if secret.as_ref().is_some_and(holds_secret) {
                findings.push(
                    Finding::at(format!("{at}/patch"), "the patch holds data of a Secret")
                        .label("it would be kept with the run: change it in the service's manifest"),
                );
            }
        }
    }
}

/// Everything that a copy is made with, files read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) with: ServiceWith,
    patches: Vec<Patch>,
    edited: Option<Vec<Value>>,
}

impl Wanted {
    /// A service as `images` names it, or as `services` does.
    pub(super) fn of(
        bundle: &Bundle,
        with: ServiceWith,
        gray: Option<&GrayServiceWith>,
    ) -> Result<Wanted, String> {
        let mut wanted = Wanted { with, ..Wanted::default() };
        let Some(gray) = gray else { return Ok(wanted) };
        for patch in &gray.patches {
            let change = match (&patch.patch, &patch.file) {
                (Some(change), _) => change.clone(),
                (None, Some(file)) => serde_json::from_value::<Change>(attached::content(bundle, file)?)
                    .map_err(|_| format!("`{file}` is no patch"))?,
                (None, None) => continue,
            };
            wanted.patches.push(Patch { target: patch.target.clone(), change });
        }
        if let Some(file) = &gray.manifest {
            let content = attached::content(bundle, file)?;
            wanted.edited =
                Some(serde_json::from_value(content).map_err(|_| format!("`{file}` is no manifest"))?);
        }
        Ok(wanted)
    }
}

/// What `graylane render` asks for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RenderRequest {
    /// The environment.
    pub environment: String,
    /// The service.
    pub service: String,
    /// The lane's tag.
    pub tag: String,
    /// The image, for a service with one container; images by container for others.
    pub image: Option<Value>,
    /// How many pods.
    pub replicas: Option<u32>,
    /// The route, where the service is the entry.
    pub entry: Option<Entry>,
    /// Changes that come last.
    #[serde(default)]
    pub patches: Vec<PatchWith>,
}

/// The objects that a deploy of one service would apply, with the images that production runs where none are given;
/// without the marks of a run.
///
/// # Errors
/// As the plan of a deploy.
pub async fn rendered(
    clusters: &Clusters,
    site: &Site,
    request: &RenderRequest,
) -> Result<Vec<Value>, TaskError> {
    let cluster = clusters.connect(site).await?;
    let baseline = site.service(&request.service).map_err(TaskError::permanent)?;
    let images =
        images_for(&request.service, request.image.as_ref(), baseline).map_err(TaskError::permanent)?;
    let gray = GrayServiceWith {
        images,
        replicas: request.replicas,
        patches: request.patches.clone(),
        ..GrayServiceWith::default()
    };
    let wanted = Wanted::of(&Bundle::default(), gray.plain(), Some(&gray)).map_err(TaskError::permanent)?;
    let around = Around::look(&cluster).await?;
    let made = service(site, &around, &request.service, &wanted, &request.tag, request.entry.as_ref());
    let mut objects = made.map(|made| made.objects).or_else(|wrong| refuse(wrong).map(|()| Vec::new()))?;
    let standing = Standing::beside(&cluster, &around).await?;
    objects.iter_mut().for_each(|object| over_baseline(object, &standing));
    Ok(objects)
}

/// The gray copy of a service.
pub(super) struct Made {
    pub(super) objects: Vec<Value>,
    pub(super) notes: Vec<String>,
}

/// The gray copy of one service: its objects, and what is worth knowing. The baseline must live.
pub(super) fn service(
    site: &Site,
    around: &Around,
    service: &str,
    wanted: &Wanted,
    tag: &str,
    entry: Option<&Entry>,
) -> Result<Made, Vec<String>> {
    let baseline = site.service(service).map_err(|why| vec![why])?;
    let environment = &site.environment;
    if !environment.allows_gray(service) {
        return Err(vec![format!(
            "service `{service}` takes no part in lanes: its `gray` is false in environment `{}`",
            environment.name
        )]);
    }
    let at = ObjectRef::of(deployment(service, baseline).map_err(|why| vec![why])?);
    // A service that only exists in a lane would be met by everybody who calls it.
    let home = at.namespace.as_deref().unwrap_or(&environment.namespace);
    let live = around.get(&at).ok_or_else(|| {
        vec![format!(
            "service `{service}`: its baseline, Deployment {}/{}, is not on the cluster: deploy it to production first",
            home, at.name
        )]
    })?;
    let rendered = render(&Copy {
        service,
        namespace: environment.namespace_of(service),
        baseline,
        tag,
        images: &wanted.with.images,
        live: &images(live),
        replicas: wanted.with.replicas.unwrap_or(1),
        entry: entry.filter(|entry| entry.service == service),
        gateway: environment.gateway.kind,
        patches: &wanted.patches,
        edited: wanted.edited.as_deref(),
    })?;
    let mut wrong = Vec::new();
    for (what, pointer) in
        [("selector", "/spec/selector/matchLabels"), ("template", "/spec/template/metadata/labels")]
    {
        match texts(live, pointer).get(VERSION) {
            Some(version) if version == ORIGINAL => {}
            Some(other) => wrong.push(format!(
                "service `{service}`: the {what} of the live Deployment {} has `{VERSION}: {other}`; the baseline's is `{ORIGINAL}`",
                at.name
            )),
            None => wrong.push(format!(
                "service `{service}`: the {what} of the live Deployment {} lacks `{VERSION}`: the manifest has it, production was not brought up to it",
                at.name
            )),
        }
    }
    let mut notes = [rendered.shared, rendered.notes].concat();
    if live.pointer("/spec/replicas").and_then(Value::as_i64) == Some(0) {
        notes.push(format!(
            "Deployment {} is scaled to 0: while service `{service}` has no baseline pod, whoever calls it meets the lane",
            at.name
        ));
    }
    if let Some(owner) = live.pointer("/metadata/ownerReferences/0") {
        notes.push(format!(
            "Deployment {} is managed by {} {}: it may take back what a promotion writes",
            at.name,
            owner["kind"].as_str().unwrap_or_default(),
            owner["name"].as_str().unwrap_or_default()
        ));
    }
    if environment.mse.enabled {
        let judged = agent(&rendered.objects, service);
        wrong.extend(judged.wrong);
        notes.extend(judged.notes);
    }
    if wrong.is_empty() { Ok(Made { objects: rendered.objects, notes }) } else { Err(wrong) }
}

/// Two services that would each write an object of the same kind and name.
pub(super) fn doubles(objects: &[Value]) -> Vec<String> {
    let mut seen: BTreeMap<ObjectRef, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for object in objects {
        let service =
            texts(object, "/metadata/labels").remove(crate::lane::labels::SERVICE_NAME).unwrap_or_default();
        let at = ObjectRef::of(object);
        if let Some(other) = seen.insert(at.clone(), service.clone()) {
            wrong.push(format!(
                "{at} would be written by the services `{other}` and `{service}`: an object stands in one manifest"
            ));
        }
    }
    wrong
}

/// Judges the lane's routes beside what else is routed.
pub(super) fn routes(
    site: &Site,
    around: &Around,
    rendered: &[Value],
    entry: Option<&Entry>,
    tag: &str,
    services: usize,
) -> Judgement {
    let mut judgement = Judgement::default();
    let rules = site.environment.gateway.kind.rules();
    let service_of =
        |object: &Value| texts(object, "/metadata/labels").remove(crate::lane::labels::SERVICE_NAME);
    for route in rendered.iter().filter(|object| is_route(object)) {
        let others: Vec<&Value> = around
            .all(kind(route))
            .iter()
            .filter(|other| ObjectRef::of(other) != ObjectRef::of(route))
            .collect();
        match entry.filter(|entry| service_of(route).as_ref() == Some(&entry.service)) {
            Some(entry) if kind(route) == rules.object() => {
                rules.judge(&Asked { route, entry, tag, services, others: &others }, &mut judgement);
            }
            _ => own_route(route, &others, &mut judgement),
        }
        if kind(route) == "Ingress" {
            let wanted = site.environment.gateway.class();
            let class = route.pointer("/spec/ingressClassName").and_then(Value::as_str);
            let class = class
                .map(str::to_owned)
                .or_else(|| texts(route, "/metadata/annotations").remove("kubernetes.io/ingress.class"));
            let class = class.as_deref().unwrap_or("none");
            if class != wanted {
                judgement.notes.push(format!(
                    "{} is of class {class}, and the environment's gateway reads {wanted}: nobody may enter",
                    ObjectRef::of(route)
                ));
            }
        }
    }
    judgement
}

/// A route that is copied because a patch names it: it must not take what is production's.
fn own_route(route: &Value, others: &[&Value], judgement: &mut Judgement) {
    let at = ObjectRef::of(route);
    for other in others {
        if crate::lane::route::claims_same(route, other) {
            judgement.wrong.push(format!(
                "{at} would take the requests of {}: give it another host or path by its patch, or make the service the `entry`",
                ObjectRef::of(other)
            ));
        }
    }
    let host = way(route).host.unwrap_or_else(|| "every host".into());
    judgement.notes.push(format!(
        "{at} is a route of its own, on {host}: nothing puts the lane's tag on its requests unless its patch does"
    ));
}
