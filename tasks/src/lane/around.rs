//! What else stands in the namespace, and what gray pods would mean to it: selectors that meet them, claims that they would share.
//!
//! Looked at once for a whole plan, a list a kind, however many objects the lane has. The judgements are functions of these lists; leaks
//! by Services are in `lane/leak.rs`.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use graylane_engine::task::TaskError;
use serde_json::Value;

use super::labels::{APP_NAME, GRAY_TYPE, TYPE};
use super::{Judgement, selector};
use crate::cluster::{
    Cluster, ISTIO_NETWORKING, ISTIO_NETWORKING_BETA, ISTIO_SECURITY, ISTIO_SECURITY_BETA, known_resource,
    rule,
};
use crate::manifest::{ObjectRef, containers, kind, name, namespace, selects, texts};

/// The objects of a namespace that a lane may meet, by kind.
#[derive(Debug, Clone, Default)]
pub struct Around {
    objects: BTreeMap<&'static str, Vec<Value>>,
    /// Kinds that this identity may not list.
    pub unseen: Vec<&'static str>,
    /// The namespace that it is about, where that is not the environment's.
    pub namespace: Option<String>,
}

/// The kinds, with the versions in which they may be served: the first that is, counts.
const KINDS: [(&str, &[&str]); 17] = [
    ("Service", &["v1"]),
    ("Deployment", &["apps/v1"]),
    ("Ingress", &["networking.k8s.io/v1"]),
    ("ReplicaSet", &["apps/v1"]),
    ("StatefulSet", &["apps/v1"]),
    ("DaemonSet", &["apps/v1"]),
    ("PersistentVolumeClaim", &["v1"]),
    ("ResourceQuota", &["v1"]),
    ("HorizontalPodAutoscaler", &["autoscaling/v2", "autoscaling/v1"]),
    ("PodDisruptionBudget", &["policy/v1", "policy/v1beta1"]),
    ("NetworkPolicy", &["networking.k8s.io/v1"]),
    ("ServiceMonitor", &["monitoring.coreos.com/v1"]),
    ("PodMonitor", &["monitoring.coreos.com/v1"]),
    ("ScaledObject", &["keda.sh/v1alpha1"]),
    ("DestinationRule", &[ISTIO_NETWORKING, ISTIO_NETWORKING_BETA]),
    ("Sidecar", &[ISTIO_NETWORKING, ISTIO_NETWORKING_BETA]),
    ("AuthorizationPolicy", &[ISTIO_SECURITY, ISTIO_SECURITY_BETA]),
];
const HTTP_ROUTE: (&str, &[&str]) =
    ("HTTPRoute", &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]);
/// Without these nothing can be said of a lane, nor without what the environment's Role must have (`rights.rs`).
const NEEDED: [&str; 2] = ["Service", "Deployment"];

impl Around {
    /// Looks.
    ///
    /// # Errors
    /// What the API server said; a kind that is not served, or that this identity may not list, is none.
    pub async fn look(cluster: &Cluster) -> Result<Around, TaskError> {
        let mut around = Around::default();
        let kinds = KINDS.into_iter().chain([HTTP_ROUTE]);
        let lists = kinds.map(|(kind, versions)| async move {
            let objects = cluster.list_any_version(kind, versions, NEEDED.contains(&kind)).await?;
            Ok::<_, TaskError>((kind, objects))
        });
        for (kind, objects) in try_join_all(lists).await? {
            match objects {
                Some(objects) => {
                    around.objects.insert(kind, objects);
                }
                None => around.unseen.push(kind),
            }
        }
        Ok(around)
    }

    /// A namespace that holds these objects, for judgements without a cluster.
    pub fn of(objects: impl IntoIterator<Item = Value>) -> Around {
        let mut around = Around::default();
        let known = KINDS.iter().map(|(kind, _)| *kind).chain([HTTP_ROUTE.0]);
        let known: Vec<&'static str> = known.collect();
        for object in objects {
            if let Some(kind) = known.iter().find(|known| **known == kind(&object)) {
                around.objects.entry(*kind).or_default().push(object);
            }
        }
        around
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> &[Value] {
        self.objects.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// An object by all that names it.
    pub fn get(&self, at: &ObjectRef) -> Option<&Value> {
        self.all(&at.kind)
            .iter()
            .find(|object| name(object) == at.name && namespace(object) == at.namespace.as_deref())
    }

    /// The same, a namespace at a time: pods and selectors of different ones do not meet. The environment's own is first.
    pub fn by_namespace(&self, others: &[String]) -> Vec<Around> {
        if others.is_empty() {
            return vec![self.clone()];
        }
        let all = std::iter::once(None).chain(others.iter().cloned().map(Some));
        let of = |home: Option<String>| {
            let mine = |object: &&Value| namespace(object) == home.as_deref();
            let objects = self
                .objects
                .iter()
                .map(|(kind, objects)| (*kind, objects.iter().filter(mine).cloned().collect::<Vec<_>>()));
            Around { objects: objects.collect(), unseen: self.unseen.clone(), namespace: home.clone() }
        };
        all.map(of).collect()
    }

    /// An object by kind and name.
    pub fn find(&self, kind: &str, wanted: &str) -> Option<&Value> {
        self.all(kind).iter().find(|object| name(object) == wanted)
    }

    /// Judges the pods of a lane's Deployments beside all of it. `baselines` are the manifests of the same services, and
    /// `shared` the claims that each service's copy may write to beside its baseline.
    pub fn judge(&self, lane: &[Value], baselines: &[&Value], shared: &SharedClaims) -> Judgement {
        let mut found = Judgement::default();
        let claims = |name: &str| {
            let written = baselines.iter().copied().filter(|o| kind(o) == "PersistentVolumeClaim");
            self.find("PersistentVolumeClaim", name)
                .or_else(|| written.into_iter().find(|claim| self::name(claim) == name))
                .cloned()
        };
        let deployments: BTreeMap<&str, &Value> = baselines
            .iter()
            .copied()
            .filter(|o| kind(o) == "Deployment")
            .map(|o| (self::name(o), o))
            .collect();
        let mut new_pods = 0;
        for gray in lane.iter().filter(|object| kind(object) == "Deployment") {
            let origin = texts(gray, "/metadata/annotations")
                .remove(super::labels::ANNOTATION_ORIGIN)
                .unwrap_or_default();
            let baseline = deployments.get(origin.as_str()).copied();
            let pods = Pods {
                at: ObjectRef::of(gray),
                gray: texts(gray, "/spec/template/metadata/labels"),
                base: baseline.map(|b| texts(b, "/spec/template/metadata/labels")).unwrap_or_default(),
                origin,
            };
            self.workloads(&pods, &mut found);
            self.budgets(&pods, &mut found);
            self.policies(&pods, &mut found);
            self.scalers(&pods, &mut found);
            self.monitors(&pods, lane, &mut found);
            self.anti_affinity(&pods, &mut found);
            self.mesh(&pods, &mut found);
            let service = texts(gray, "/metadata/labels").remove(super::labels::SERVICE_NAME);
            let shared = shared.get(&service.unwrap_or_default());
            volumes(gray, &pods.at, claims, shared, &mut found);
            let live = self.find("Deployment", name(gray));
            let replicas =
                |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            new_pods += replicas(gray) - live.map_or(0, replicas);
        }
        self.quotas(new_pods, &mut found);
        if !self.unseen.is_empty() {
            let rules: Vec<String> = self.unseen.iter().filter_map(|kind| list_rule(kind)).collect();
            found.notes.push(format!(
                "this identity may not list {}: what gray pods mean to them could not be looked at; add to its Role: {}",
                self.unseen.join(", "),
                rules.join(", ")
            ));
        }
        found
    }

    /// Controllers whose selectors would take gray pods for theirs.
    fn workloads(&self, pods: &Pods, found: &mut Judgement) {
        for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
            for object in self.all(kind) {
                let ours = kind == "Deployment" && name(object) == pods.at.name;
                if !ours && selector::matches(&object["spec"]["selector"], &pods.gray) {
                    found.wrong.push(format!(
                        "the selector of {} takes the pods of {} for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew",
                        ObjectRef::of(object),
                        pods.at
                    ));
                }
            }
        }
    }

    fn budgets(&self, pods: &Pods, found: &mut Judgement) {
        for budget in self.all("PodDisruptionBudget") {
            let asked = &budget["spec"]["selector"];
            if selector::matches(asked, &pods.gray) && !selector::is_empty(asked) {
                found.notes.push(format!(
                    "{} counts the pods of {} too: unhealthy gray pods can block a node's drain, healthy ones hide that the baseline's are missing; add `zadigx-release-version: original` to its selector",
                    ObjectRef::of(budget),
                    pods.at
                ));
            }
        }
    }

    /// Rules of the network are compared on both sides: whom they hold for, and whom they let in.
    fn policies(&self, pods: &Pods, found: &mut Judgement) {
        for policy in self.all("NetworkPolicy") {
            let at = ObjectRef::of(policy);
            let holds = |labels| selector::matches(&policy["spec"]["podSelector"], labels);
            found.notes.extend(one_sided(&at, pods, holds(&pods.base), holds(&pods.gray)));
            let egress = policy["spec"]["policyTypes"]
                .as_array()
                .is_some_and(|types| types.contains(&"Egress".into()))
                || policy["spec"]["egress"].is_array();
            if holds(&pods.gray) && egress {
                found.notes.push(format!(
                    "{at} limits where the pods of {} connect to: the MSE agent and the registry must be among it",
                    pods.at
                ));
            }
            for (side, peers) in [("ingress", "from"), ("egress", "to")] {
                let rules = policy["spec"][side].as_array().into_iter().flatten();
                for peer in rules.filter_map(|rule| rule[peers].as_array()).flatten() {
                    if !peer["namespaceSelector"].is_null() {
                        continue;
                    }
                    let lets = |labels| selector::matches(&peer["podSelector"], labels);
                    if lets(&pods.base) && !lets(&pods.gray) {
                        let what = if side == "ingress" { "come from" } else { "go to" };
                        found.notes.push(format!(
                            "{at} lets requests {what} the baseline's pods and not those of {}",
                            pods.at
                        ));
                    }
                }
            }
        }
    }

    /// Istio's selectors are compared on both sides, as those of policies are: a copy that a rule leaves out, or takes alone,
    /// is reached and reaches others differently.
    fn mesh(&self, pods: &Pods, found: &mut Judgement) {
        for (kind, pointer) in [
            ("AuthorizationPolicy", "/spec/selector/matchLabels"),
            ("Sidecar", "/spec/workloadSelector/labels"),
        ] {
            for object in self.all(kind) {
                let asked = texts(object, pointer);
                // Without a selector it holds for the whole namespace: for both.
                let holds =
                    |labels: &BTreeMap<String, String>| asked.iter().all(|(k, v)| labels.get(k) == Some(v));
                let at = ObjectRef::of(object);
                found.notes.extend(one_sided(&at, pods, holds(&pods.base), holds(&pods.gray)));
            }
        }
        for rule in self.all("DestinationRule") {
            for subset in rule["spec"]["subsets"].as_array().into_iter().flatten() {
                let asked = texts(subset, "/labels");
                if !selects(&asked, &pods.gray) {
                    continue;
                }
                let subset = subset["name"].as_str().unwrap_or_default();
                let (rule, at) = (ObjectRef::of(rule), &pods.at);
                found.notes.push(if selects(&asked, &pods.base) {
                    format!("subset `{subset}` of {rule} asks for labels that the pods of {at} carry too: add `zadigx-release-version: original` to it, or requests for it may meet the lane")
                } else {
                    format!("subset `{subset}` of {rule} asks for labels that the pods of {at} carry and the baseline's do not: somebody wired it to the lane by hand")
                });
            }
        }
    }

    /// Autoscalers scale the baseline alone; those that measure by labels may count gray pods.
    fn scalers(&self, pods: &Pods, found: &mut Judgement) {
        for kind in ["HorizontalPodAutoscaler", "ScaledObject"] {
            for scaler in self.all(kind) {
                let target = &scaler["spec"]["scaleTargetRef"];
                let deployment = target["kind"].as_str().is_none_or(|kind| kind == "Deployment");
                let at = ObjectRef::of(scaler);
                match target["name"].as_str() {
                    Some(name) if deployment && name == pods.origin => {
                        found.notes.push(format!("{at} scales the baseline only: {} keeps its number of pods", pods.at));
                        let metrics = scaler["spec"]["metrics"].as_array().into_iter().flatten();
                        let by_labels = metrics.filter_map(|metric| {
                            ["pods", "object", "external"]
                                .iter()
                                .map(|source| &metric[*source]["metric"]["selector"])
                                .find(|asked| asked.is_object())
                        });
                        if by_labels.into_iter().any(|asked| selector::matches(asked, &pods.gray)) {
                            found.notes.push(format!("{at} measures by labels that the pods of {} carry too", pods.at));
                        }
                    }
                    Some(name) if deployment && name == pods.at.name => found.wrong.push(format!(
                        "{at} scales {} itself: it and this deploy would each set the number of pods; remove it",
                        pods.at
                    )),
                    _ => {}
                }
            }
        }
    }

    fn monitors(&self, pods: &Pods, lane: &[Value], found: &mut Judgement) {
        for monitor in self.all("PodMonitor") {
            if selector::matches(&monitor["spec"]["selector"], &pods.gray) {
                found.notes.push(format!(
                    "{} scrapes the pods of {} too: tell them apart by the label `zadigx-release-version`, or alerts mix both versions",
                    ObjectRef::of(monitor),
                    pods.at
                ));
            }
        }
        for service in lane.iter().filter(|object| kind(object) == "Service") {
            let selector = texts(service, "/spec/selector");
            if !selects(&selector, &pods.gray) {
                continue;
            }
            let labels = texts(service, "/metadata/labels");
            for monitor in self.all("ServiceMonitor") {
                if selector::matches(&monitor["spec"]["selector"], &labels) {
                    found.notes.push(format!(
                        "{} scrapes {} too, as a job of its own: tell them apart by the label `zadigx-release-version`, or alerts mix both versions",
                        ObjectRef::of(monitor),
                        ObjectRef::of(service)
                    ));
                }
            }
        }
    }

    /// Pods that keep others off their node keep gray ones off as well: the rule holds both ways.
    fn anti_affinity(&self, pods: &Pods, found: &mut Judgement) {
        for object in self.all("Deployment") {
            if name(object) == pods.at.name {
                continue;
            }
            let spec = object.pointer("/spec/template/spec").unwrap_or(&Value::Null);
            let required =
                spec.pointer("/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution");
            let terms = required.and_then(Value::as_array).into_iter().flatten();
            if terms.into_iter().any(|term| selector::matches(&term["labelSelector"], &pods.gray)) {
                found.notes.push(format!(
                    "pods of {} keep those of {} off their nodes (required anti-affinity by labels that both carry): as many nodes must be free",
                    ObjectRef::of(object),
                    pods.at
                ));
            }
            let spread = spec["topologySpreadConstraints"].as_array().into_iter().flatten();
            if spread.into_iter().any(|rule| selector::matches(&rule["labelSelector"], &pods.gray)) {
                found.notes.push(format!(
                    "{} spreads its pods by labels that those of {} carry too: they are counted with them",
                    ObjectRef::of(object),
                    pods.at
                ));
            }
        }
    }

    fn quotas(&self, new_pods: i64, found: &mut Judgement) {
        for quota in self.all("ResourceQuota") {
            let number = |pointer: &str| {
                let value = quota.pointer(pointer)?;
                value.as_str().map_or_else(|| value.as_i64(), |text| text.parse().ok())
            };
            for key in ["pods", "count~1pods"] {
                let hard: Option<i64> = number(&format!("/spec/hard/{key}"));
                let used = number(&format!("/status/used/{key}")).unwrap_or(0);
                if let Some(hard) = hard
                    && used + new_pods > hard
                {
                    found.wrong.push(format!(
                        "{} leaves room for {} pods, and the lane needs {new_pods} more: its pods would never be made",
                        ObjectRef::of(quota),
                        (hard - used).max(0)
                    ));
                }
            }
        }
    }
}

/// The rule that lets a kind be listed.
fn list_rule(wanted: &str) -> Option<String> {
    let (_, versions) = KINDS.into_iter().chain([HTTP_ROUTE]).find(|(kind, _)| *kind == wanted)?;
    let resource = known_resource(versions.first()?, wanted)?;
    Some(rule(&resource.group, &resource.plural, &["list"]))
}

/// The pods of a gray Deployment, and those of its baseline.
struct Pods {
    at: ObjectRef,
    gray: BTreeMap<String, String>,
    base: BTreeMap<String, String>,
    origin: String,
}

/// What is told of a selector that takes the pods of one side only.
fn one_sided(at: &ObjectRef, pods: &Pods, base: bool, gray: bool) -> Option<String> {
    match (base, gray) {
        (true, false) => Some(format!("{at} holds for the baseline's pods and not for those of {}", pods.at)),
        (false, true) => Some(format!("{at} holds for the pods of {} and not for the baseline's", pods.at)),
        (true, true) | (false, false) => None,
    }
}

/// By service: the claims that its copy may write to beside the baseline, because a person has said so.
pub type SharedClaims = BTreeMap<String, BTreeSet<String>>;

/// Whether no container may write to a volume.
fn is_only_read(gray: &Value, volume: &Value) -> bool {
    let template = gray.pointer("/spec/template").unwrap_or(&Value::Null);
    let mounts = containers(template).filter_map(|container| container["volumeMounts"].as_array()).flatten();
    let mut mine = mounts.filter(|mount| mount["name"] == volume["name"]).peekable();
    volume["persistentVolumeClaim"]["readOnly"] == true
        || (mine.peek().is_some() && mine.all(|mount| mount["readOnly"] == true))
}

/// Volumes that a second version cannot have, or would write to as well.
fn volumes(
    gray: &Value,
    at: &ObjectRef,
    claims: impl Fn(&str) -> Option<Value>,
    shared: Option<&BTreeSet<String>>,
    found: &mut Judgement,
) {
    let volumes = gray.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let claim = &volume["persistentVolumeClaim"];
        let Some(claim_name) = claim["claimName"].as_str() else { continue };
        let Some(object) = claims(claim_name) else {
            found.wrong.push(format!(
                "{at} mounts PersistentVolumeClaim {claim_name}, which is not on the cluster: its pods would never start"
            ));
            continue;
        };
        let modes: Vec<&str> = object["spec"]["accessModes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if modes.contains(&"ReadWriteMany") {
            if is_only_read(gray, volume) {
                continue;
            }
            let both = format!(
                "{at} mounts PersistentVolumeClaim {claim_name} as the baseline does: two versions write to one store"
            );
            if shared.is_some_and(|shared| shared.contains(claim_name)) {
                found.notes.push(both);
            } else {
                found.wrong.push(format!(
                    "{both}; confirm it by `shared_claims: [{claim_name}]` at the service, or give the copy another volume by a patch"
                ));
            }
        } else if !modes.contains(&"ReadOnlyMany") {
            let mode = modes.first().copied().unwrap_or("ReadWriteOnce");
            found.wrong.push(format!(
                "{at} mounts PersistentVolumeClaim {claim_name}, which is {mode}: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch"
            ));
        }
    }
}

/// What MSE would not enrol: pods that opt out of the agent would be met by everybody.
pub fn agent(gray: &[Value], service: &str) -> Judgement {
    let mut found = Judgement::default();
    for object in gray.iter().filter(|object| kind(object) == "Deployment") {
        let labels = texts(object, "/spec/template/metadata/labels");
        if labels.get("msePilotAutoEnable").is_some_and(|value| value == "off") {
            found.wrong.push(format!(
                "service `{service}`: its template opts out of the MSE agent (`msePilotAutoEnable: off`), and a gray pod without it would be met by everybody; remove the label, or keep the service out of lanes with `gray: false`"
            ));
        }
        if labels.get("disableJavaToolOptionsInjection").is_some_and(|value| value == "true") {
            found.notes.push(format!(
                "service `{service}`: `disableJavaToolOptionsInjection` is set: its image must load the MSE agent itself"
            ));
        }
        let metadata = texts(object, "/metadata/labels");
        if metadata.contains_key("msePilotAutoEnable") && !labels.contains_key("msePilotAutoEnable") {
            found.notes.push(format!(
                "service `{service}`: `msePilotAutoEnable` stands on the Deployment, where nobody reads it: it belongs into its template"
            ));
        }
        if labels.get(TYPE).is_some_and(|kind| kind == GRAY_TYPE) && !labels.contains_key(APP_NAME) {
            found.wrong.push(format!("service `{service}`: its template lacks `{APP_NAME}`"));
        }
    }
    found
}
