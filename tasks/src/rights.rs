//! Every call that Graylane makes to a cluster, as a right: one table, from which Roles, access reviews and refusals come.
//!
//! A right that stands here and is not used, or the other way round, is a mistake: `tests/rbac.rs` carries out everything
//! with nothing else, compares the calls with this list, and leaves out one after the other. Nothing here writes to a cluster.

mod role;

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::task::TaskError;
use serde_json::Value;

pub use self::role::{Subject, objects, yaml};
use crate::cluster::{Cluster, Right, known_resource, rule};
use crate::environment::{GatewayKind, Site};
use crate::manifest::{ObjectRef, kind};

/// One line of the table.
struct Row {
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    /// What for, as in "needed for ...".
    why: &'static str,
    /// What whoever steals the daemon's credentials could do with it.
    stolen: &'static str,
    when: When,
    weight: Weight,
}

/// In which environments a line holds.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// Where a service's manifest has an object of this kind.
    Carried(&'static str),
    /// Where lanes are entered through Ingresses, or a manifest has one.
    ByIngress,
    /// Only where they are not.
    NotByIngress,
    /// Where lanes are entered through HTTPRoutes, or a manifest has one.
    ByHttpRoute,
    /// Only where they are not.
    NotByHttpRoute,
    /// Where it is asked for.
    Asked(Extra),
}

/// What becomes of who lacks a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Plans are refused.
    Must,
    /// Plans go on, and say that something could not be looked at, each in its place.
    Around,
    /// Something is told less well.
    Explains,
    /// A part that not everybody uses is refused.
    Part,
}

/// What is not needed for lanes and production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// `job` checks.
    Jobs,
    /// `graylane environment adopt`.
    Adopt,
    /// `graylane environment check --fix`, the namespace's label.
    Fix,
}

impl Extra {
    /// All of them.
    pub const ALL: [Extra; 3] = [Extra::Jobs, Extra::Adopt, Extra::Fix];
}

const WRITTEN: &[&str] = &["get", "list", "create", "patch", "delete"];
/// As [`WRITTEN`], of what lanes are made of: its end is waited for by watch.
const KEPT: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];
const LIST: &[&str] = &["list"];
const IMPERSONATES: &str = "run any image as any ServiceAccount of the namespace, and read every Secret and ConfigMap that a pod may mount";
const NEIGHBOURS: &str = "what gray pods mean to their neighbours";
const SEES: &str = "see how the namespace is built";

macro_rules! row {
    ($group:literal, $resource:literal, $verbs:expr, $when:expr, $weight:ident, $why:expr, $stolen:expr) => {
        Row {
            group: $group,
            resource: $resource,
            verbs: $verbs,
            why: $why,
            stolen: $stolen,
            when: $when,
            weight: Weight::$weight,
        }
    };
}

/// What is called, and what for. Kinds that only a manifest has are added to it (`carried`).
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row!("apps", "deployments", KEPT, When::Always, Must, "lanes, production", IMPERSONATES),
    row!("", "services", KEPT, When::Always, Must, "lanes, production", "send a service's requests to other pods"),
    row!("", "configmaps", KEPT, When::Carried("ConfigMap"), Must, "lanes, production", "change what pods read when they start"),
    row!("", "secrets", KEPT, When::Carried("Secret"), Must, "lanes, production", "read every Secret of the namespace, among them the tokens of ServiceAccounts that are kept as Secrets"),
    row!("networking.k8s.io", "ingresses", KEPT, When::ByIngress, Must, "routes", "take over every host and path that the gateway serves for this namespace"),
    row!("networking.k8s.io", "ingresses", LIST, When::NotByIngress, Must, "routes", "see which hosts and paths are served"),
    row!("gateway.networking.k8s.io", "httproutes", KEPT, When::ByHttpRoute, Must, "routes", "take over every host and path that the gateway serves for this namespace"),
    row!("gateway.networking.k8s.io", "httproutes", LIST, When::NotByHttpRoute, Around, "routes", "see which hosts and paths are served"),
    row!("apps", "replicasets", &["list", "watch"], When::Always, Must, "following rollouts", "read pod templates, and with them what stands in their environment"),
    row!("", "pods", &["list", "watch"], When::Always, Must, "following rollouts", "read what pods run, and with them what stands in their environment"),
    row!("coordination.k8s.io", "leases", &["get", "create", "update", "delete"], When::Always, Must, "leases, so that two Graylanes do not write the same lane", "hold up every release here, and confuse controllers that choose a leader by a Lease in this namespace"),
    row!("", "pods/log", &["get"], When::Always, Explains, "why a pod does not come up", "read what services log"),
    row!("", "events", LIST, When::Always, Explains, "why a pod does not come up", "see what happens in the namespace"),
    row!("", "namespaces", &["get"], When::Always, Explains, "whether the namespace is there, and enrolled", "read the namespace's own labels and annotations"),
    row!("apps", "statefulsets", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("apps", "daemonsets", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("", "persistentvolumeclaims", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("", "resourcequotas", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("autoscaling", "horizontalpodautoscalers", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("policy", "poddisruptionbudgets", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("networking.k8s.io", "networkpolicies", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("monitoring.coreos.com", "servicemonitors", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("monitoring.coreos.com", "podmonitors", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("keda.sh", "scaledobjects", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("networking.istio.io", "destinationrules", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("networking.istio.io", "sidecars", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("security.istio.io", "authorizationpolicies", LIST, When::Always, Around, NEIGHBOURS, SEES),
    row!("batch", "jobs", WRITTEN, When::Asked(Extra::Jobs), Part, "`job` checks", "run any image; with deployments that is nothing new"),
    row!("apps", "replicasets", &["patch", "delete"], When::Asked(Extra::Adopt), Part, "`graylane environment adopt`", "take a Deployment's pods away"),
    row!("", "persistentvolumeclaims", &["get"], When::Asked(Extra::Adopt), Part, "`graylane environment adopt`", SEES),
    row!("", "namespaces", &["patch"], When::Asked(Extra::Fix), Part, "`graylane environment check --fix`", "label the namespace, and with that switch off policies that go by its labels"),
];

/// A right that an environment needs in one of its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty for the oldest kinds.
    pub group: String,
    /// The resource, with its subresource where it is about one.
    pub resource: String,
    /// What is done.
    pub verbs: Vec<&'static str>,
    /// What for.
    pub why: String,
    /// What a thief could do with it.
    pub stolen: String,
    /// What becomes of who lacks it.
    pub weight: Weight,
}

impl Rule {
    /// The rule on one line, as a Role takes it.
    pub fn line(&self) -> String {
        rule(&self.group, &self.resource, &self.verbs)
    }

    /// Whether it is about the namespace itself, which a Role may name.
    fn is_of_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

/// What an environment needs in one of its namespaces: what always is, and what is asked for besides.
pub fn rules(site: &Site, namespace: &str, extras: &[Extra]) -> Vec<Rule> {
    let kinds: BTreeSet<&str> = objects_in(site, namespace).map(kind).collect();
    let routes = site.environment.gateway.kind == GatewayKind::GatewayApi;
    let holds = |when: When| match when {
        When::Always => true,
        When::Carried(kind) => kinds.contains(kind),
        When::ByIngress => !routes || kinds.contains("Ingress"),
        When::NotByIngress => routes && !kinds.contains("Ingress"),
        When::ByHttpRoute => routes || kinds.contains("HTTPRoute"),
        When::NotByHttpRoute => !routes && !kinds.contains("HTTPRoute"),
        When::Asked(extra) => extras.contains(&extra),
    };
    let told = |row: &Row| Rule {
        group: row.group.to_owned(),
        resource: row.resource.to_owned(),
        verbs: row.verbs.to_vec(),
        why: row.why.to_owned(),
        stolen: row.stolen.to_owned(),
        weight: row.weight,
    };
    let mut rules: Vec<Rule> = TABLE.iter().filter(|row| holds(row.when)).map(told).collect();
    rules.extend(carried(site, namespace));
    rules
}

/// Every namespace of an environment, its own first.
pub fn namespaces(site: &Site) -> Vec<String> {
    [vec![site.environment.namespace.clone()], site.other_namespaces()].concat()
}

fn objects_in<'s>(site: &'s Site, namespace: &str) -> impl Iterator<Item = &'s Value> {
    let home = |service: &str| site.environment.namespace_of(service).unwrap_or(&site.environment.namespace);
    let here = site.services.iter().filter(move |(service, _)| home(service) == namespace);
    here.flat_map(|(_, objects)| objects)
}

/// Kinds that a manifest has and lanes do not: `prod-deploy` applies whole manifests.
fn carried(site: &Site, namespace: &str) -> Vec<Rule> {
    const WRITES: [&str; 3] = ["get", "create", "patch"];
    let mut found: BTreeMap<(String, String), Rule> = BTreeMap::new();
    for object in objects_in(site, namespace) {
        let at = ObjectRef::of(object);
        let (group, resource) = resource_of(&at);
        let written =
            |row: &&Row| row.group == group && row.resource == resource && row.verbs.contains(&"patch");
        if TABLE.iter().filter(|row| !matches!(row.when, When::Asked(_))).any(|row| written(&row)) {
            continue;
        }
        let rule = Rule {
            group: group.clone(),
            resource: resource.clone(),
            verbs: WRITES.to_vec(),
            why: format!("production: a manifest has {}", at.kind),
            stolen: format!("change every {} of the namespace", at.kind),
            weight: Weight::Must,
        };
        found.entry((group, resource)).or_insert(rule);
    }
    found.into_values().collect()
}

/// The resource behind a kind; of kinds that Graylane does not know, as names are usually made.
fn resource_of(at: &ObjectRef) -> (String, String) {
    if let Some(known) = known_resource(&at.api_version, &at.kind) {
        return (known.group, known.plural);
    }
    let group = at.api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let name = at.kind.to_lowercase();
    let plural = match name.chars().last() {
        Some('y') if !name.ends_with("ay") && !name.ends_with("ey") => {
            format!("{}ies", &name[..name.len() - 1])
        }
        Some('s' | 'x' | 'h') => format!("{name}es"),
        _ => format!("{name}s"),
    };
    (group, plural)
}

/// Which resources an environment has anything to do with, namespace by namespace, and how much it needs each.
#[derive(Debug, Default)]
pub(crate) struct Expected(BTreeMap<String, BTreeMap<(String, String), Weight>>);

impl Expected {
    /// Whether it has; where nothing is known of a namespace, it may.
    pub(crate) fn includes(&self, namespace: &str, group: &str, resource: &str) -> bool {
        let wanted = (group.to_owned(), resource.to_owned());
        self.0.get(namespace).is_none_or(|known| known.contains_key(&wanted))
    }

    /// Whether no plan can be made where the resource may not be seen.
    pub(crate) fn requires(&self, group: &str, resource: &str) -> bool {
        let wanted = (group.to_owned(), resource.to_owned());
        self.0.values().any(|known| known.get(&wanted) == Some(&Weight::Must))
    }
}

/// See [`Expected`].
pub(crate) fn expected(site: &Site) -> Expected {
    let of = |namespace: String| {
        let mut known = BTreeMap::new();
        for rule in rules(site, &namespace, &Extra::ALL) {
            // What is needed in any case stands first.
            known.entry((rule.group, rule.resource)).or_insert(rule.weight);
        }
        (namespace, known)
    };
    Expected(namespaces(site).into_iter().map(of).collect())
}

/// A right that this identity lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Where.
    pub namespace: String,
    /// Verbs of the rule that are not granted.
    pub verbs: Vec<&'static str>,
    /// The whole rule.
    pub rule: Rule,
}

impl Missing {
    /// What is lacking and what for, as a sentence.
    pub fn words(&self) -> String {
        format!(
            "this identity may not {} {} in {}: needed for {}",
            self.verbs.join(", "),
            self.rule.resource,
            self.namespace,
            self.rule.why
        )
    }

    /// What to do about it.
    pub fn hint(&self, environment: &str) -> String {
        format!(
            "add this rule to its Role in {}: {}; `graylane rbac {environment}` prints all that is needed",
            self.namespace,
            self.rule.line()
        )
    }
}

/// What this identity lacks of what an environment needs: one call a namespace, and one more for each right that the
/// answer does not show.
///
/// # Errors
/// What the API server said.
pub async fn missing(cluster: &Cluster, site: &Site, extras: &[Extra]) -> Result<Vec<Missing>, TaskError> {
    let mut found = Vec::new();
    for namespace in namespaces(site) {
        let granted = cluster.granted(&namespace).await?;
        for rule in rules(site, &namespace, extras) {
            let (resource, subresource) = match rule.resource.split_once('/') {
                Some((resource, subresource)) => (resource, Some(subresource)),
                None => (rule.resource.as_str(), None),
            };
            let mut lacks = Vec::new();
            for verb in &rule.verbs {
                let name = rule.is_of_namespace().then_some(namespace.as_str());
                let (group, home) = (rule.group.as_str(), Some(namespace.as_str()));
                let right = Right { namespace: home, verb, group, resource, subresource, name };
                if !granted.covers(&right) && !cluster.may(&right).await? {
                    lacks.push(*verb);
                }
            }
            if !lacks.is_empty() {
                found.push(Missing { namespace: namespace.clone(), verbs: lacks, rule });
            }
        }
    }
    Ok(found)
}

/// Refuses a plan whose writes would be refused half-way; gives what is only told. `used` says of a namespace, a resource
/// and a verb whether it is needed at all.
///
/// # Errors
/// The first right that is lacking, with the others and the rule to add; or what the API server said.
pub(crate) async fn refuse_without(
    cluster: &Cluster,
    site: &Site,
    extras: &[Extra],
    used: impl Fn(&str, &str, &str) -> bool,
) -> Result<Vec<String>, TaskError> {
    let environment = &site.environment.name;
    let mut wrong: Vec<Missing> = Vec::new();
    let mut told = Vec::new();
    for mut lacks in missing(cluster, site, extras).await? {
        let (namespace, resource) = (lacks.namespace.clone(), lacks.rule.resource.clone());
        lacks.verbs.retain(|verb| used(&namespace, &resource, verb));
        match lacks.rule.weight {
            _ if lacks.verbs.is_empty() => {}
            // Only what is asked for besides is a part.
            Weight::Must | Weight::Part => wrong.push(lacks),
            Weight::Explains => told.push(format!("{}; {}", lacks.words(), lacks.hint(environment))),
            // The plan says it where it would have looked.
            Weight::Around => {}
        }
    }
    refuse(&wrong, environment).map(|()| told)
}

/// Refuses what needs a part that not everybody uses, where its rights are lacking: before the first write, not half-way.
///
/// # Errors
/// As [`refuse_without`].
pub(crate) async fn refuse_without_part(
    cluster: &Cluster,
    site: &Site,
    part: Extra,
) -> Result<(), TaskError> {
    let mut wrong = missing(cluster, site, &[part]).await?;
    wrong.retain(|lacks| lacks.rule.weight == Weight::Part);
    refuse(&wrong, &site.environment.name)
}

fn refuse(wrong: &[Missing], environment: &str) -> Result<(), TaskError> {
    let Some(first) = wrong.first() else { return Ok(()) };
    let more = wrong.iter().skip(1).map(|lacks| format!("{}; {}", lacks.words(), lacks.rule.line()));
    Err(TaskError::permanent(format!("refused: {}", first.words()))
        .details(more)
        .hint(first.hint(environment)))
}
