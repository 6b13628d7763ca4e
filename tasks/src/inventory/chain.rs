//! The chain of services as a lane's requests meet it: which hop is gray, which falls back to the baseline.
//!
//! Who calls whom stands on no cluster. The order is the operator's (`chain` in the environment's file), and where there
//! is none, only the entry's place is known.

use std::collections::BTreeMap;

use graylane_engine::clock::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Lane, LaneService, Standing, grayable, lanes_of, service_of};
use crate::environment::{Site, deployment};
use crate::lane::route::is_route;
use crate::manifest::{ObjectRef, images};

/// A lane, hop by hop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Chain {
    /// The lane.
    pub lane: Lane,
    /// The services that requests of the lane can meet.
    pub hops: Vec<Hop>,
    /// Whether the order of the hops is that of the calls; else only the first one's place is known.
    pub ordered: bool,
}

/// One service as the lane's requests meet it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hop {
    /// The service.
    pub service: String,
    /// Which version answers.
    pub version: Version,
    /// Its images by container.
    pub images: BTreeMap<String, String>,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods that are wanted.
    pub replicas: i64,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Which version answers the lane's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Version {
    /// The lane's copy.
    Gray,
    /// The baseline: the lane has no copy, or none that is up.
    Baseline,
    /// Nobody: neither is there.
    Nobody,
}

/// The chain of a lane; none where there is no such lane.
pub fn chain(standing: &Standing, site: &Site, tag: &str, now: Timestamp) -> Option<Chain> {
    let lane = lanes_of(standing, site, now).into_iter().find(|lane| lane.tag == tag)?;
    let routes = standing.lane(tag);
    let entry = routes.iter().find(|object| is_route(object)).map(service_of);
    let order = &site.environment.chain;
    let mut names: Vec<&String> = order.iter().collect();
    let mut rest: Vec<&String> = grayable(site).map(|(name, _)| name).collect();
    rest.extend(lane.services.iter().map(|service| &service.service));
    rest.retain(|name| !order.contains(name));
    rest.sort();
    rest.dedup();
    rest.sort_by_key(|name| Some(*name) != entry.as_ref());
    names.extend(rest);
    let hops = names.into_iter().map(|name| hop(name, &lane, standing, site)).collect();
    let ordered = !order.is_empty();
    Some(Chain { hops, ordered, lane })
}

fn hop(name: &str, lane: &Lane, standing: &Standing, site: &Site) -> Hop {
    let count = |object: Option<&Value>, pointer: &str| {
        object.and_then(|object| object.pointer(pointer)).and_then(Value::as_i64).unwrap_or(0)
    };
    let manifest = site.service(name).ok().and_then(|objects| deployment(name, objects).ok());
    let baseline = manifest.and_then(|manifest| standing.get(&ObjectRef::of(manifest)));
    let gray = lane.services.iter().find(|service| service.service == name);
    let mut notes = gray.map(LaneService::words).unwrap_or_default();
    if let Some(gray) = gray.filter(|gray| gray.ready > 0) {
        return Hop {
            service: name.to_owned(),
            version: Version::Gray,
            images: gray.images.clone(),
            ready: gray.ready,
            replicas: gray.replicas,
            notes,
        };
    }
    if gray.is_some() {
        notes.insert(0, "its gray copy is not up".into());
    }
    let ready = count(baseline, "/status/readyReplicas");
    Hop {
        service: name.to_owned(),
        version: if ready > 0 { Version::Baseline } else { Version::Nobody },
        images: baseline.map(images).unwrap_or_default(),
        ready,
        replicas: count(baseline, "/spec/replicas"),
        notes,
    }
}

impl LaneService {
    /// What is worth knowing of a copy.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if !self.moved.is_empty() {
            words.push(format!("baseline moved: {}", self.moved.join(", ")));
        }
        if !self.edited.is_empty() {
            words.push(format!("edited: {}", self.edited.join(", ")));
        }
        if !self.missing.is_empty() {
            words.push(format!("deleted: {}", self.missing.join(", ")));
        }
        words
    }
}
