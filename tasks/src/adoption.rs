//! Brings a baseline without the version label to one that carries it, without a failed request.
//!
//! ```text
//! mark the old ReplicaSets -> let the Deployment go, its pods go on -> make it anew with the label -> wait until it is up
//!   -> Services select the new pods alone -> drain -> remove the old ReplicaSets
//! ```
//! A selector cannot be changed, so the Deployment is made anew; its old pods answer until the new ones do. Where it is
//! stands on the objects alone: every step recognizes what is done, and whoever was cut off calls it again. Nothing is
//! written before everything that could fight with it was looked for. A step holds the lease of the production service, and
//! leaves it to the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use graylane_engine::claim::Claim;
use graylane_engine::clock::{Clock, Timestamp, show_duration};
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, full_name};
use crate::environment::{Site, deployment};
use crate::inventory::is_gray;
use crate::lane::config_hash;
use crate::lane::labels::{ORIGINAL, VERSION};
use crate::lease::Leases;
use crate::manifest::{ObjectRef, clean, diff, images, name, selects, sorted, texts, uid};
use crate::mse_gray_deploy::refuse;
use crate::prod_deploy::{prepare_deployment, without_nulls};
use crate::rights::{Extra, refuse_without};
use crate::rollout::{Expect, Seen, Signals, Verdict, judge};
use crate::spec::ServiceWith;

/// On the ReplicaSets of the old baseline: the Deployment that they belonged to.
const MARK: &str = "graylane.dev/adopting";
/// On the same: when the Services began to select the new pods alone.
const SWITCHED: &str = "graylane.dev/adopt-switched";

/// How long requests under way to old pods are waited for.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long one step waits before it says how far the pods are.
const WAIT: Duration = Duration::from_millis(500);

/// Where an adoption is, and what is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Adoption {
    /// The service.
    pub service: String,
    /// What is to be done, in order; empty once everything is.
    pub steps: Vec<String>,
    /// Whether the first of them writes; else it waits.
    pub writes: bool,
    /// What changes in the Deployment, besides the label, because the manifest says so.
    pub diff: String,
    /// What is worth knowing.
    pub warnings: Vec<String>,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stepped {
    /// In words.
    pub did: String,
    /// Whether nothing is left to be done.
    pub done: bool,
}

/// What is to be done for a service.
///
/// # Errors
/// A refusal: the manifest is not ready, or somebody would fight with it.
pub async fn look(
    cluster: &Cluster,
    site: &Site,
    service: &str,
    now: Timestamp,
) -> Result<Adoption, TaskError> {
    has_rights(cluster, site, service).await?;
    let place = Place::look(cluster, site, service, now).await?;
    let stage = place.stage()?;
    let mut adoption = Adoption {
        service: service.to_owned(),
        steps: place.steps(&stage),
        writes: stage.writes(),
        diff: String::new(),
        warnings: place.others.clone(),
    };
    if let Stage::Begin(live) = &stage {
        let dry = place.may_begin(live).await?;
        adoption.diff = diff(Some(live), Some(&dry));
    }
    Ok(adoption)
}

/// Makes the next step. `record` is called before anything is written, with what is done first.
///
/// # Errors
/// As [`look`]; new pods that do not come up, while the old ones go on; somebody else who writes the service; or what
/// `record` said.
pub async fn step<E, F, R>(
    leases: &Leases,
    clock: &Arc<dyn Clock>,
    site: &Site,
    service: &str,
    record: R,
) -> Result<Stepped, E>
where
    E: From<TaskError>,
    F: Future<Output = Result<(), E>>,
    R: FnOnce(String) -> F,
{
    let cluster = &leases.connect(site).await?;
    let production = [Claim::service(&site.environment.name, service)];
    // On the heap: it is handed on by value.
    let stepping = Box::pin(async {
        let place = Place::look(cluster, site, service, clock.now()).await?;
        let stage = place.stage()?;
        if let Stage::Begin(live) = &stage {
            has_rights(cluster, site, service).await?;
            place.may_begin(live).await?;
        }
        if stage.writes()
            && let Some(first) = place.steps(&stage).into_iter().next()
        {
            record(first).await?;
        }
        Ok(place.carry_out(stage).await?)
    });
    // Between two steps nobody else gets in between: the lease is left to the next one.
    let keeps = |stepped: &Stepped| !stepped.done;
    leases.deed(("graylane environment adopt", clock), (cluster, site), &production, stepping, keeps).await
}

/// Refuses where a right is lacking: without it the adoption would stop half-way.
async fn has_rights(cluster: &Cluster, site: &Site, service: &str) -> Result<(), TaskError> {
    let home = site.environment.namespace_of(service).unwrap_or(&site.environment.namespace);
    let used = |namespace: &str, resource: &str, verb: &str| {
        namespace == home
            && match resource {
                "deployments" | "replicasets" => verb != "watch",
                "services" => matches!(verb, "list" | "patch"),
                "pods" => verb == "list",
                "persistentvolumeclaims" => verb == "get",
                "leases" => true,
                _ => false,
            }
    };
    refuse_without(cluster, site, &[Extra::Adopt], used).await.map(drop)
}

/// Where an adoption is.
#[derive(Debug)]
enum Stage {
    /// The live Deployment has no label, and nothing is marked yet.
    Begin(Value),
    /// Its ReplicaSets are marked.
    LetGo(Value),
    /// It is being let go.
    Going,
    /// It is gone, its pods answer.
    Make,
    /// The new one is not up.
    Wait(Value),
    /// It is up, and Services still select old pods.
    Switch,
    /// Services select the new pods, and nobody has said since when.
    Note,
    /// Requests to old pods end.
    Drain(Duration),
    /// Nobody needs the old pods.
    Remove,
    Done,
}

impl Stage {
    /// Whether what is done next writes; else it waits.
    fn writes(&self) -> bool {
        !matches!(self, Stage::Going | Stage::Wait(_) | Stage::Drain(_) | Stage::Done)
    }
}

struct Place<'p> {
    cluster: Cluster,
    site: &'p Site,
    service: &'p str,
    now: Timestamp,
    at: ObjectRef,
    manifest: &'p Value,
    live: Option<Value>,
    /// The ReplicaSets of the old baseline.
    old: Vec<Value>,
    sets: Vec<Value>,
    deployments: Vec<Value>,
    pods: Vec<Value>,
    /// Services that would still meet old pods, or a lane's.
    switches: Vec<Value>,
    others: Vec<String>,
}

impl<'p> Place<'p> {
    async fn look(
        cluster: &Cluster,
        site: &'p Site,
        service: &'p str,
        now: Timestamp,
    ) -> Result<Place<'p>, TaskError> {
        let objects = site.service(service).map_err(TaskError::permanent)?;
        let environment = &site.environment;
        if !environment.allows_gray(service) {
            return Err(TaskError::permanent(format!("refused: service `{service}` takes no part in lanes"))
                .hint(format!(
                    "its `gray` is false in environment `{}`: it needs no version label",
                    environment.name
                )));
        }
        if let Some(freeze) = environment.frozen(now).map_err(TaskError::permanent)? {
            return Err(TaskError::permanent(format!(
                "refused: environment `{}` is frozen until {}: {}",
                environment.name, freeze.until, freeze.reason
            )));
        }
        let manifest = deployment(service, objects).map_err(TaskError::permanent)?;
        let file = site.source(service).map(|path| path.display().to_string()).unwrap_or_default();
        if !is_labelled(manifest) {
            return Err(TaskError::permanent(format!(
                "refused: the manifest of service `{service}` has no `{VERSION}: {ORIGINAL}` in its Deployment's selector and template"
            ))
            .hint(format!("add it to both in {file}: adopt brings the cluster to what the manifest says")));
        }
        let cluster = cluster.beside(manifest);
        // Inside its own namespace the service's objects name none.
        let mut at = ObjectRef::of(manifest);
        at.namespace = None;
        let live = cluster.get(&at).await?;
        let sets = cluster.list("apps/v1", "ReplicaSet", "").await?;
        let deployments = cluster.list("apps/v1", "Deployment", "").await?;
        let services = cluster.list("v1", "Service", "").await?;
        let marked = |set: &&Value| texts(set, "/metadata/labels").get(MARK).is_some_and(|of| *of == at.name);
        let old = sets.iter().filter(marked).cloned().collect();
        let pods = cluster.list("v1", "Pod", "").await?;
        let mut place = Place {
            cluster,
            site,
            service,
            now,
            at,
            manifest,
            live,
            old,
            sets,
            deployments,
            pods,
            switches: Vec::new(),
            others: Vec::new(),
        };
        place.judge_services(&services);
        Ok(place)
    }

    /// Which Services get the label in their selector: those that select this service's new pods, and nobody without it.
    fn judge_services(&mut self, services: &[Value]) {
        let labels = texts(self.manifest, "/spec/template/metadata/labels");
        for service in services.iter().filter(|service| !is_gray(service)) {
            let selector = texts(service, "/spec/selector");
            if selector.contains_key(VERSION) || !selects(&selector, &labels) {
                continue;
            }
            let lacks = self.deployments.iter().find(|other| {
                name(other) != self.at.name
                    && !is_gray(other)
                    && selects(&selector, &texts(other, "/spec/template/metadata/labels"))
                    && !is_labelled(other)
            });
            match lacks {
                None => self.switches.push(service.clone()),
                Some(other) => self.others.push(format!(
                    "Service {} also selects the pods of Deployment {}, which lacks the label: it stays as it is, and lanes are refused until that one is adopted too",
                    name(service),
                    name(other)
                )),
            }
        }
    }

    fn stage(&self) -> Result<Stage, TaskError> {
        let Some(live) = &self.live else {
            if self.orphans().next().is_some() {
                return Ok(Stage::Make);
            }
            let shown = full_name(&self.cluster.namespace, self.manifest);
            return Err(TaskError::permanent(format!("refused: {shown} is not on the cluster"))
                .hint("deploy it to production: what is made from the manifest carries the label"));
        };
        if live.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(Stage::Going);
        }
        if !is_labelled(live) {
            let mut own = self.sets.iter().filter(|set| owned_by(set, live)).peekable();
            let all = own.peek().is_some()
                && own.all(|set| texts(set, "/metadata/labels").get(MARK) == Some(&self.at.name));
            return Ok(if all { Stage::LetGo(live.clone()) } else { Stage::Begin(live.clone()) });
        }
        let begun = !self.old.is_empty();
        if begun && !matches!(self.verdict(live), Verdict::Done) {
            return Ok(Stage::Wait(live.clone()));
        }
        if !self.switches.is_empty() {
            return Ok(Stage::Switch);
        }
        if !begun {
            return Ok(Stage::Done);
        }
        let since = self.old.iter().map(|set| texts(set, "/metadata/annotations").remove(SWITCHED));
        let since: Option<Vec<Timestamp>> = since.map(|at| at?.parse().ok()).collect();
        Ok(match since.and_then(|all| all.into_iter().max()) {
            None => Stage::Note,
            Some(at) if self.now.since(at) < DRAIN => Stage::Drain(DRAIN.saturating_sub(self.now.since(at))),
            Some(_) => Stage::Remove,
        })
    }

    /// The old ReplicaSets that belong to nobody.
    fn orphans(&self) -> impl Iterator<Item = &Value> {
        self.old.iter().filter(|set| is_free(set))
    }

    fn verdict(&self, live: &Value) -> Verdict {
        let by_uid = |objects: &[Value]| -> BTreeMap<String, Value> {
            objects.iter().filter_map(|object| Some((uid(object)?.to_owned(), object.clone()))).collect()
        };
        let seen = Seen {
            deployment: Some(live.clone()),
            replica_sets: by_uid(&self.sets),
            pods: by_uid(&self.pods),
            events: BTreeMap::new(),
        };
        let generation = live.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let expect =
            Expect { generation, agent: false, pods: true, patience: self.site.environment.patience() };
        judge(&seen, expect, &mut Signals::default(), Instant::now())
    }

    fn steps(&self, stage: &Stage) -> Vec<String> {
        let at = &self.at;
        let switch: Vec<String> = self.switches.iter().map(|service| name(service).to_owned()).collect();
        let switch = (!switch.is_empty())
            .then(|| format!("add `{VERSION}: {ORIGINAL}` to the selector of Service {}", switch.join(", ")));
        let all = [
            Some(format!("mark the ReplicaSets of {at} as the old baseline")),
            Some(format!("let {at} go and keep its pods: they answer on")),
            Some(format!(
                "make {at} anew, with the label in selector and template, and the images and replicas that run now"
            )),
            Some("wait until its pods are up".to_owned()),
            switch,
            Some(format!("wait {} for requests under way to old pods", show_duration(DRAIN))),
            Some("remove the old ReplicaSets and their pods".to_owned()),
        ];
        let from = match stage {
            Stage::Begin(_) => 0,
            Stage::LetGo(_) | Stage::Going => 1,
            Stage::Make => 2,
            Stage::Wait(_) => 3,
            Stage::Switch if self.old.is_empty() => {
                return all.into_iter().nth(4).flatten().into_iter().collect();
            }
            Stage::Switch => 4,
            Stage::Note | Stage::Drain(_) => 5,
            Stage::Remove => 6,
            Stage::Done => 7,
        };
        all.into_iter().skip(from).flatten().collect()
    }

    /// The Deployment as it will be: the manifest's, with what runs now.
    fn planned(&self, runs: &Value) -> Value {
        let replicas = runs.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        let with = ServiceWith { images: BTreeMap::new(), replicas: u32::try_from(replicas).ok() };
        let mut object = sorted(&without_nulls(clean(self.manifest)));
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("namespace");
        }
        let objects: Vec<&Value> = self.site.service(self.service).unwrap_or_default().iter().collect();
        prepare_deployment(&mut object, Some(runs), &with, config_hash(&objects).as_deref());
        object
    }

    /// Refuses where something would stop it half-way; gives the new Deployment as the API server would have it.
    async fn may_begin(&self, live: &Value) -> Result<Value, TaskError> {
        self.nobody_fights(live).await?;
        self.dry_run(&self.planned(live)).await
    }

    async fn dry_run(&self, planned: &Value) -> Result<Value, TaskError> {
        let mut object = planned.clone();
        object["metadata"]["name"] = format!("{}-anew", self.at.name).into();
        let mut dry = self.cluster.apply(&object, true, false).await?;
        dry["metadata"]["name"] = self.at.name.clone().into();
        Ok(dry)
    }

    /// Refuses where somebody would fight with what is done here, or two versions cannot stand beside each other.
    async fn nobody_fights(&self, live: &Value) -> Result<(), TaskError> {
        let at = &self.at;
        let mut wrong = Vec::new();
        for owner in live.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
        {
            wrong.push(format!(
                "{at} belongs to {} {}, which would make it anew as it was: let that one write the label",
                owner["kind"].as_str().unwrap_or_default(),
                owner["name"].as_str().unwrap_or_default()
            ));
        }
        const OPERATORS: [(&str, &str); 3] = [
            ("argocd.argoproj.io/", "Argo CD"),
            ("kustomize.toolkit.fluxcd.io/", "Flux"),
            ("helm.toolkit.fluxcd.io/", "Flux"),
        ];
        let marks = [texts(live, "/metadata/labels"), texts(live, "/metadata/annotations")];
        for (prefix, tool) in OPERATORS {
            if marks.iter().flat_map(BTreeMap::keys).any(|key| key.starts_with(prefix)) {
                wrong.push(format!("{at} is kept by {tool} (`{prefix}...`), which would put it back: pause it for this object"));
            }
        }
        for scaler in self.scalers().await? {
            let target = &scaler["spec"]["scaleTargetRef"];
            if target["kind"] == "Deployment" && target["name"] == at.name.as_str() {
                wrong.push(format!(
                    "HorizontalPodAutoscaler {} scales {at}: it would count old and new pods as one; remove it until this is done",
                    name(&scaler)
                ));
            }
        }
        if live.pointer("/spec/strategy/type").and_then(Value::as_str) == Some("Recreate") {
            wrong.push(format!("{at} has the strategy `Recreate`: its pods may not stand beside new ones"));
        }
        let volumes = live.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
        for volume in volumes.into_iter().flatten() {
            let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str)
            else {
                continue;
            };
            if !self.is_shared(claim).await? {
                wrong.push(format!(
                    "{at} mounts PersistentVolumeClaim {claim}, which only one node may: old and new pods would wait for each other"
                ));
            }
        }
        let labels = texts(live, "/spec/template/metadata/labels");
        for other in &self.deployments {
            let selector = texts(other, "/spec/selector/matchLabels");
            if name(other) != at.name && selects(&selector, &labels) {
                wrong.push(format!(
                    "Deployment {} would take the old pods for its own: their selectors overlap",
                    name(other)
                ));
            }
        }
        if !matches!(self.verdict(live), Verdict::Done) {
            wrong.push(format!("{at} is not fully rolled out: wait until it is, or mend it first"));
        }
        refuse(wrong)
    }

    async fn scalers(&self) -> Result<Vec<Value>, TaskError> {
        // Older servers do not know v2, and newer ones may leave v1 out.
        match self.cluster.list("autoscaling/v2", "HorizontalPodAutoscaler", "").await {
            Ok(found) => Ok(found),
            Err(_) => self.cluster.list("autoscaling/v1", "HorizontalPodAutoscaler", "").await,
        }
    }

    async fn is_shared(&self, claim: &str) -> Result<bool, TaskError> {
        let at = ObjectRef {
            api_version: "v1".into(),
            kind: "PersistentVolumeClaim".into(),
            name: claim.to_owned(),
            namespace: None,
        };
        let found = self.cluster.get(&at).await?.unwrap_or_default();
        let modes = found.pointer("/spec/accessModes").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"))
    }

    async fn carry_out(&self, stage: Stage) -> Result<Stepped, TaskError> {
        let did = match stage {
            Stage::Done => {
                let did = format!("{} carries `{VERSION}: {ORIGINAL}`: nothing is left to be done", self.at);
                return Ok(Stepped { did, done: true });
            }
            Stage::Begin(live) => {
                let own: Vec<&Value> = self.sets.iter().filter(|set| owned_by(set, &live)).collect();
                for set in &own {
                    self.write(set, "labels", MARK, &self.at.name).await?;
                }
                format!("marked {} ReplicaSets of {} as the old baseline", own.len(), self.at)
            }
            Stage::LetGo(live) => {
                let _ = self.cluster.orphan(&self.at, uid(&live).unwrap_or_default()).await?;
                format!("let {} go; its pods answer on", self.at)
            }
            Stage::Going => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                format!("waiting until {} is let go", self.at)
            }
            Stage::Make => {
                let runs =
                    self.orphans().max_by_key(|set| set.pointer("/spec/replicas").and_then(Value::as_u64));
                let planned = self.planned(runs.unwrap_or(&Value::Null));
                self.cluster.apply(&planned, false, false).await?;
                let images: Vec<String> = images(&planned).into_values().collect();
                format!("made {} anew with the label: {}", self.at, images.join(", "))
            }
            Stage::Wait(live) => return self.wait(&live).await,
            Stage::Switch => {
                for service in &self.switches {
                    let path = format!("/spec/selector/{VERSION}");
                    let patch = json!([
                        { "op": "test", "path": "/metadata/uid", "value": uid(service) },
                        { "op": "add", "path": path, "value": ORIGINAL },
                    ]);
                    self.cluster.patch(&ObjectRef::of(service), &patch).await?;
                }
                let names: Vec<&str> = self.switches.iter().map(name).collect();
                format!("Service {} selects pods with the label alone", names.join(", "))
            }
            Stage::Note => {
                for set in &self.old {
                    self.write(set, "annotations", SWITCHED, &self.now.to_string()).await?;
                }
                format!("draining for {}", show_duration(DRAIN))
            }
            Stage::Drain(left) => {
                tokio::time::sleep(left.min(Duration::from_secs(2))).await;
                format!("draining for {}", show_duration(DRAIN))
            }
            Stage::Remove => {
                for set in &self.old {
                    let at = ObjectRef::of(set);
                    if is_free(set) {
                        let _ = self.cluster.delete(&at, uid(set).unwrap_or_default()).await?;
                    } else {
                        // The new Deployment has taken it over: its template was the same already.
                        let path = format!("/metadata/labels/{}", MARK.replace('/', "~1"));
                        self.cluster.patch(&at, &json!([{ "op": "remove", "path": path }])).await?;
                    }
                }
                "removed the old ReplicaSets and their pods".to_owned()
            }
        };
        Ok(Stepped { did, done: false })
    }

    /// Waits a little for the new pods. What is wrong with them is told; the old ones answer on.
    async fn wait(&self, live: &Value) -> Result<Stepped, TaskError> {
        match self.verdict(live) {
            Verdict::Done => Ok(Stepped { did: format!("{} is up", self.at), done: false }),
            Verdict::Failed(failure) => {
                let error = TaskError::permanent(format!("the new pods do not come up: {}", failure.message));
                let old = format!("the old pods of {} answer on; nothing was switched", self.at);
                let hint = failure.hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
                Err(error.details([old]).hint(format!(
                    "{hint}then call `graylane environment adopt` again: it goes on from here"
                )))
            }
            Verdict::Waiting(ready, wanted, note) => {
                tokio::time::sleep(WAIT).await;
                Ok(Stepped { did: format!("{ready} of {wanted} new pods are up: {note}"), done: false })
            }
        }
    }

    /// Writes a label or an annotation of an object.
    async fn write(&self, object: &Value, map: &str, key: &str, value: &str) -> Result<(), TaskError> {
        let path = format!("/metadata/{map}");
        let mut patch = vec![json!({ "op": "test", "path": "/metadata/uid", "value": uid(object) })];
        if object.pointer(&path).is_none() {
            patch.push(json!({ "op": "add", "path": path, "value": {} }));
        }
        patch.push(
            json!({ "op": "add", "path": format!("{path}/{}", key.replace('/', "~1")), "value": value }),
        );
        self.cluster.patch(&ObjectRef::of(object), &Value::Array(patch)).await?;
        Ok(())
    }
}

/// Whether a Deployment's selector and template carry the baseline's label.
pub fn is_labelled(deployment: &Value) -> bool {
    ["/spec/selector/matchLabels", "/spec/template/metadata/labels"]
        .iter()
        .all(|pointer| texts(deployment, pointer).get(VERSION).is_some_and(|value| value == ORIGINAL))
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
}

fn owned_by(object: &Value, owner: &Value) -> bool {
    uid(owner).is_some_and(|uid| owners(object).any(|reference| reference["uid"] == uid))
}

fn is_free(object: &Value) -> bool {
    owners(object).next().is_none()
}
