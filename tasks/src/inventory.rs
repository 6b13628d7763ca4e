//! What stands on a cluster under lane labels, told without our store: lanes are true even when Graylane is dead.

use std::collections::{BTreeMap, BTreeSet};

use graylane_engine::task::TaskError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cluster::{Cluster, Listed};
use crate::environment::Site;
use crate::lane::baseline_hash;
use crate::lane::labels::{
    ANNOTATION_BASELINE_HASH, ANNOTATION_CREATED, ANNOTATION_ORIGIN, ANNOTATION_RUN, GRAY_TYPE, SERVICE_NAME,
    TYPE, VERSION,
};
use crate::lane::route::{self, is_route};
use crate::manifest::{ObjectRef, images, kind, name, texts};

/// The kinds that lanes are made of, in the order in which they are taken down: the route first.
pub const LANE_KINDS: [(&str, &str); 6] = [
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
];

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

/// Whether an object was written by Graylane. Zadig uses the same labels, and leaves no such mark.
pub fn is_ours(object: &Value) -> bool {
    texts(object, "/metadata/annotations").contains_key(ANNOTATION_RUN)
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
    /// Objects that carry its labels, but belong to no Deployment of it.
    pub orphans: Vec<String>,
}

/// A gray copy on a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LaneService {
    /// The service.
    pub service: String,
    /// Its images by container.
    pub images: BTreeMap<String, String>,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods that are wanted.
    pub replicas: i64,
    /// Whether the baseline's manifest is another one than when the copy was made.
    pub baseline_moved: bool,
}

/// Every lane of an environment.
///
/// # Errors
/// What the API server said.
pub async fn lanes(cluster: &Cluster, site: &Site) -> Result<Vec<Lane>, TaskError> {
    let mut by_tag: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in objects(cluster, &format!("{TYPE}={GRAY_TYPE}")).await? {
        let tag = texts(&object, "/metadata/labels").remove(VERSION).unwrap_or_default();
        by_tag.entry(tag).or_default().push(object);
    }
    Ok(by_tag.into_iter().map(|(tag, objects)| lane(tag, &objects, site)).collect())
}

fn lane(tag: String, objects: &[Value], site: &Site) -> Lane {
    let service_of =
        |object: &Value| texts(object, "/metadata/labels").remove(SERVICE_NAME).unwrap_or_default();
    let deployments = || objects.iter().filter(|object| kind(object) == "Deployment");
    let held: BTreeSet<String> = deployments().map(service_of).collect();
    let annotation = |object: &Value, key: &str| texts(object, "/metadata/annotations").remove(key);
    let services = deployments()
        .map(|object| {
            let service = service_of(object);
            let origin = annotation(object, ANNOTATION_ORIGIN);
            let hash = annotation(object, ANNOTATION_BASELINE_HASH);
            let baseline =
                site.services.get(&service).into_iter().flatten().find(|baseline| {
                    kind(baseline) == "Deployment" && Some(name(baseline)) == origin.as_deref()
                });
            LaneService {
                service,
                images: images(object),
                ready: object.pointer("/status/readyReplicas").and_then(Value::as_i64).unwrap_or(0),
                replicas: object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0),
                baseline_moved: hash.is_some() && baseline.is_some_and(|b| Some(baseline_hash(b)) != hash),
            }
        })
        .collect();
    let created = |object: &Value| {
        annotation(object, ANNOTATION_CREATED).or_else(|| {
            object.pointer("/metadata/creationTimestamp").and_then(Value::as_str).map(str::to_owned)
        })
    };
    Lane {
        services,
        route: objects.iter().find(|object| is_route(object)).map(route::words),
        since: objects.iter().filter_map(created).min(),
        run: objects.iter().filter_map(|object| annotation(object, ANNOTATION_RUN)).max(),
        orphans: objects
            .iter()
            .filter(|object| !held.contains(&service_of(object)))
            .map(|object| ObjectRef::of(object).to_string())
            .collect(),
        tag,
    }
}
