//! What stands on a cluster under lane labels, told without our store: lanes are true even when Graylane is dead.

mod chain;
mod edited;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graylane_engine::clock::{Timestamp, show_duration};
use graylane_engine::id::Digest;
use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::chain::{Chain, Hop, Version, chain};
pub use self::edited::{Edit, edits, mended};
use crate::cluster::{Cluster, Listed, lacks_right};
use crate::environment::{Site, deployment};
use crate::lane::around::Around;
use crate::lane::labels::{
    ANNOTATION_BASELINE_HASH, ANNOTATION_CREATED, ANNOTATION_EXPIRES, ANNOTATION_OBJECTS, ANNOTATION_ORIGIN,
    ANNOTATION_RUN, GRAY_TYPE, SERVICE_NAME, TYPE, VERSION,
};
use crate::lane::route::{self, is_route};
use crate::manifest::{ObjectRef, clean, images, kind, name, namespace, sorted, texts};

/// The kinds that lanes are made of, in the order in which they are taken down: the route first.
pub const LANE_KINDS: [(&str, &str); 6] = [
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
];

/// What pods read.
const CONFIG: [&str; 2] = ["ConfigMap", "Secret"];

/// How old a lane may grow before it is named, in an environment without a `ttl`.
pub const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Every object that a selector of lane labels selects, the route first.
///
/// # Errors
/// What the API server said.
pub async fn objects(cluster: &Cluster, selector: &str) -> Result<Vec<Value>, TaskError> {
    let mut found = Vec::new();
    for (api_version, kind) in LANE_KINDS {
        let mut objects = match (kind, cluster.list_if_served(api_version, kind, selector).await?) {
            (_, Listed::All(objects)) => objects,
            // A cluster without Gateway API has no such route; nor has one where nobody may see or write them.
            ("HTTPRoute", Listed::NotServed | Listed::Forbidden(_)) => Vec::new(),
            (_, Listed::Forbidden(error)) => return Err(error),
            (_, Listed::NotServed) => cluster.list(api_version, kind, selector).await?,
        };
        objects.sort_by(|a, b| name(a).cmp(name(b)));
        found.extend(objects);
    }
    Ok(found)
}

/// What a lane's Deployments say that their copies were made of, that is not among `known`, and that this identity may not
/// look at: a manifest that lost its Secret takes the rule for Secrets out of the Role, and the copy stays behind. In words.
///
/// # Errors
/// What the API server said.
pub async fn unseen(
    cluster: &Cluster,
    lane: &[Value],
    known: &BTreeSet<ObjectRef>,
) -> Result<Vec<String>, TaskError> {
    let mut told = Vec::new();
    for deployment in lane.iter().filter(|object| kind(object) == "Deployment") {
        let made = annotation(deployment, ANNOTATION_OBJECTS).unwrap_or_default();
        for at in made.split(", ").filter_map(named).filter(|at| !known.contains(at)) {
            match cluster.get(&at).await {
                // What is gone was removed by somebody, and what is there without its labels is nobody's any more.
                Ok(_) => {}
                Err(error) if lacks_right(&error) => told.push(format!(
                    "{at} was made with the lane, and stays: this identity may not see it; {}, or remove it by hand",
                    error.hint.unwrap_or_default()
                )),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(told)
}

/// An object of a lane by how it is shown.
fn named(shown: &str) -> Option<ObjectRef> {
    let (kind, place) = shown.split_once(' ')?;
    let (api_version, kind) = LANE_KINDS.into_iter().find(|(_, known)| *known == kind)?;
    let (namespace, name) = match place.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, place),
    };
    Some(ObjectRef { api_version: api_version.into(), kind: kind.into(), name: name.to_owned(), namespace })
}

/// Whether an object was written by Graylane. Zadig uses the same labels, and leaves no such mark.
pub fn is_ours(object: &Value) -> bool {
    texts(object, "/metadata/annotations").contains_key(ANNOTATION_RUN)
}

/// Whether an object carries the labels of a lane.
pub fn is_gray(object: &Value) -> bool {
    texts(object, "/metadata/labels").get(TYPE).is_some_and(|kind| kind == GRAY_TYPE)
}

/// The tag of the lane that an object carries.
pub fn tag_of(object: &Value) -> String {
    texts(object, "/metadata/labels").remove(VERSION).unwrap_or_default()
}

/// The service that an object is a copy of.
pub fn service_of(object: &Value) -> String {
    texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default()
}

/// Everything of the kinds that lanes are made of, read once: no plan asks for objects one by one. Of configuration that
/// is no lane's only labels and versions are read: namespaces are full of it, and it may be large.
#[derive(Debug, Default)]
pub struct Standing {
    objects: BTreeMap<ObjectRef, Value>,
}

impl Standing {
    /// Reads every namespace of an environment.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn look(cluster: &Cluster) -> Result<Standing, TaskError> {
        let mut standing = Standing::default();
        for (api_version, kind) in LANE_KINDS {
            if !CONFIG.contains(&kind) {
                let found = match (kind, cluster.list_if_served(api_version, kind, "").await?) {
                    (_, Listed::All(objects)) => objects,
                    ("HTTPRoute", Listed::NotServed | Listed::Forbidden(_)) => Vec::new(),
                    (_, Listed::Forbidden(error)) => return Err(error),
                    (_, Listed::NotServed) => cluster.list(api_version, kind, "").await?,
                };
                standing.extend(found);
            }
        }
        standing.config(cluster).await?;
        Ok(standing)
    }

    /// The same, where most of it was read already.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn beside(cluster: &Cluster, around: &Around) -> Result<Standing, TaskError> {
        let mut standing = Standing::default();
        for (_, kind) in LANE_KINDS.into_iter().filter(|(_, kind)| !CONFIG.contains(kind)) {
            standing.extend(around.all(kind).to_vec());
        }
        standing.config(cluster).await?;
        Ok(standing)
    }

    async fn config(&mut self, cluster: &Cluster) -> Result<(), TaskError> {
        for kind in CONFIG {
            self.extend(cluster.list_metadata("v1", kind).await?);
            self.extend(cluster.list("v1", kind, &format!("{TYPE}={GRAY_TYPE}")).await?);
        }
        Ok(())
    }

    fn extend(&mut self, objects: Vec<Value>) {
        self.objects.extend(objects.into_iter().map(|object| (ObjectRef::of(&object), object)));
    }

    /// An object, where it is there.
    pub fn get(&self, at: &ObjectRef) -> Option<&Value> {
        self.objects.get(at)
    }

    /// All objects of a kind.
    pub fn of(&self, wanted: &'static str) -> impl Iterator<Item = &Value> {
        self.objects.values().filter(move |object| kind(object) == wanted)
    }

    /// Every object that carries the labels of a lane, the route first.
    pub fn lane(&self, tag: &str) -> Vec<Value> {
        let mut found: Vec<Value> = self.gray().filter(|object| tag_of(object) == tag).cloned().collect();
        found.sort_by_key(|object| LANE_KINDS.iter().position(|(_, known)| *known == kind(object)));
        found
    }

    /// Every object of every lane.
    pub fn gray(&self) -> impl Iterator<Item = &Value> {
        self.objects.values().filter(|object| is_gray(object))
    }

    /// The live baseline object that a lane object was made from.
    pub fn baseline(&self, gray: &Value) -> Option<&Value> {
        let origin = texts(gray, "/metadata/annotations").remove(ANNOTATION_ORIGIN)?;
        self.get(&ObjectRef { name: origin, ..ObjectRef::of(gray) })
    }
}

/// The hash of what a baseline object is on the cluster: what a lane's copy was made over. Who scales or restarts the
/// baseline does not move it. Configuration moves with every write, by its version: no value of a Secret is hashed into an
/// annotation that others may read.
pub fn live_hash(live: &Value) -> String {
    let at = |pointer: &str| live.pointer(pointer).cloned().unwrap_or_default();
    let content = match kind(live) {
        "Deployment" => {
            let mut template = at("/spec/template");
            if let Some(annotations) =
                template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
            {
                annotations.retain(|key, _| !key.starts_with("kubectl.kubernetes.io/"));
            }
            if template.pointer("/metadata/annotations").is_some_and(|map| *map == json!({}))
                && let Some(metadata) = template.pointer_mut("/metadata").and_then(Value::as_object_mut)
            {
                metadata.remove("annotations");
            }
            template
        }
        "Service" => json!([at("/spec/ports"), at("/spec/selector"), at("/spec/type")]),
        "ConfigMap" | "Secret" => json!([at("/metadata/uid"), at("/metadata/resourceVersion")]),
        _ => {
            let object = clean(live);
            json!([object.pointer("/spec"), object.pointer("/metadata/annotations")])
        }
    };
    Digest::of(sorted(&content).to_string().as_bytes()).short().to_owned()
}

/// A lane on a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lane {
    /// Its tag.
    pub tag: String,
    /// The gray copies.
    pub services: Vec<LaneService>,
    /// Who enters it; none while no route is on.
    pub route: Option<String>,
    /// When its first object was made, as the cluster says.
    pub since: Option<String>,
    /// The run that wrote it last; none where another tool did.
    pub run: Option<String>,
    /// When it may be taken down for its age; none where it never is.
    #[serde(default)]
    pub expires: Option<String>,
    /// Whether objects of it were made by another tool.
    #[serde(default)]
    pub foreign: bool,
    /// Objects that carry its labels, but belong to no Deployment of it.
    pub orphans: Vec<String>,
    /// What is worth knowing of it, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A gray copy on a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LaneService {
    /// The service.
    pub service: String,
    /// Its namespace, where that is not the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its images by container.
    pub images: BTreeMap<String, String>,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods that are wanted.
    pub replicas: i64,
    /// Whether the baseline on the cluster is another one than when the copy was made.
    pub baseline_moved: bool,
    /// The baseline's objects that are other ones by now.
    #[serde(default)]
    pub moved: Vec<String>,
    /// What somebody else has changed by hand; the next deploy takes it back.
    #[serde(default)]
    pub edited: Vec<String>,
    /// What somebody has deleted; the next deploy makes it again.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// Every lane of an environment.
///
/// # Errors
/// What the API server said.
pub async fn lanes(cluster: &Cluster, site: &Site, now: Timestamp) -> Result<Vec<Lane>, TaskError> {
    Ok(lanes_of(&Standing::look(cluster).await?, site, now))
}

/// Every lane among what stands.
pub fn lanes_of(standing: &Standing, site: &Site, now: Timestamp) -> Vec<Lane> {
    let tags: BTreeSet<String> = standing.gray().map(tag_of).collect();
    tags.into_iter().map(|tag| lane(tag, standing, site, now)).collect()
}

fn annotation(object: &Value, key: &str) -> Option<String> {
    texts(object, "/metadata/annotations").remove(key)
}

fn lane(tag: String, standing: &Standing, site: &Site, now: Timestamp) -> Lane {
    let objects = standing.lane(&tag);
    let place = |object: &Value| (service_of(object), namespace(object).map(str::to_owned));
    let mut places: BTreeMap<_, Vec<&Value>> = BTreeMap::new();
    for object in &objects {
        places.entry(place(object)).or_default().push(object);
    }
    let is_deployment = |object: &&Value| kind(object) == "Deployment";
    let services = objects
        .iter()
        .filter(is_deployment)
        .map(|gray| copy(gray, places.get(&place(gray)).map(Vec::as_slice).unwrap_or_default(), standing))
        .collect();
    let held: BTreeSet<_> = objects.iter().filter(is_deployment).map(place).collect();
    let created = |object: &Value| {
        annotation(object, ANNOTATION_CREATED).or_else(|| {
            object.pointer("/metadata/creationTimestamp").and_then(Value::as_str).map(str::to_owned)
        })
    };
    let mut lane = Lane {
        services,
        route: objects.iter().find(|object| is_route(object)).map(route::words),
        since: objects.iter().filter_map(created).min(),
        run: objects.iter().filter_map(|object| annotation(object, ANNOTATION_RUN)).max(),
        expires: expires(&objects).map(|at| at.to_string()),
        foreign: objects.iter().any(|object| !is_ours(object)),
        orphans: objects
            .iter()
            .filter(|object| !held.contains(&place(object)))
            .map(|object| ObjectRef::of(object).to_string())
            .collect(),
        notes: Vec::new(),
        tag,
    };
    lane.notes = notes(&lane, site, now);
    lane
}

/// When a lane may be taken down for its age: when its last copy may. A copy that was made without an end has none, and
/// then the lane has none.
pub fn expires(lane: &[Value]) -> Option<Timestamp> {
    let mut deployments = lane.iter().filter(|object| kind(object) == "Deployment").peekable();
    let ends = |object: &Value| annotation(object, ANNOTATION_EXPIRES)?.parse::<Timestamp>().ok();
    let all: Option<Vec<Timestamp>> = if deployments.peek().is_some() {
        deployments.map(ends).collect()
    } else {
        lane.iter().map(ends).collect()
    };
    all?.into_iter().max()
}

fn copy(gray: &Value, mine: &[&Value], standing: &Standing) -> LaneService {
    let moved: Vec<String> = mine.iter().filter_map(|object| moved(object, standing)).collect();
    let there: BTreeSet<String> = mine.iter().map(|object| ObjectRef::of(object).to_string()).collect();
    let made = annotation(gray, ANNOTATION_OBJECTS).unwrap_or_default();
    let made = made.split(", ").filter(|object| !object.is_empty());
    let edited = mine.iter().flat_map(|object| {
        edits(object).into_iter().map(|edit| format!("{}: {edit}", ObjectRef::of(object)))
    });
    LaneService {
        service: service_of(gray),
        namespace: namespace(gray).map(str::to_owned),
        images: images(gray),
        ready: gray.pointer("/status/readyReplicas").and_then(Value::as_i64).unwrap_or(0),
        replicas: gray.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0),
        baseline_moved: !moved.is_empty(),
        moved,
        edited: edited.collect(),
        missing: made.filter(|object| !there.contains(*object)).map(str::to_owned).collect(),
    }
}

/// The baseline object that is another one, or gone, since a lane object was made from it.
fn moved(gray: &Value, standing: &Standing) -> Option<String> {
    let hash = annotation(gray, ANNOTATION_BASELINE_HASH)?;
    let origin = annotation(gray, ANNOTATION_ORIGIN)?;
    let at = ObjectRef { name: origin, ..ObjectRef::of(gray) };
    match standing.get(&at) {
        Some(live) => (live_hash(live) != hash).then(|| at.to_string()),
        // A copy of what production does not have yet was made over nothing.
        None => (hash != NOTHING).then(|| format!("{at} (gone)")),
    }
}

/// The hash of a baseline object that is not on the cluster.
pub const NOTHING: &str = "none";

fn notes(lane: &Lane, site: &Site, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    let ttl = site.environment.ttl.is_some();
    match lane.expires.as_deref().map(str::parse::<Timestamp>) {
        Some(Ok(end)) if end <= now => {
            notes.push(format!("expired {} ago", show_duration(now.since(end))));
        }
        Some(_) => {}
        None => {
            let since = lane.since.as_deref().and_then(|since| since.parse::<Timestamp>().ok());
            if let Some(age) = since.map(|since| now.since(since)).filter(|age| *age > OLD) {
                let limit = show_duration(OLD);
                notes.push(format!("up for {}, longer than {limit}", show_duration(age)));
            }
            if ttl {
                notes.push("never expires: it was made before `ttl` was written".into());
            }
        }
    }
    if lane.foreign {
        notes.push("made by another tool".into());
    }
    if !lane.orphans.is_empty() {
        notes.push(format!("orphans: {}", lane.orphans.join(", ")));
    }
    if lane.route.is_none() && !lane.services.is_empty() {
        notes.push("no route: only marked requests meet it".into());
    }
    let unknown = lane.services.iter().filter(|service| site.service(&service.service).is_err());
    for service in unknown {
        notes.push(format!("`{}` is no service of the environment any more", service.service));
    }
    notes
}

/// The services of an environment that lanes may hold, the way a person lists them.
pub(crate) fn grayable(site: &Site) -> impl Iterator<Item = (&String, &Vec<Value>)> {
    site.services
        .iter()
        .filter(|(name, objects)| site.environment.allows_gray(name) && deployment(name, objects).is_ok())
}

#[cfg(test)]
mod tests;
