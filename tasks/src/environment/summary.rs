//! The environments that there are, a line each: what an operator compares, and nothing that only a cluster knows.

use graylane_engine::bundle::Bundle;
use graylane_engine::clock::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterAt, Site, Verified, frozen, names};

/// An environment, as its file says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// The cluster: `rehearsal`, `in-cluster`, or a kubeconfig.
    pub cluster: String,
    /// Its namespaces, its own first.
    pub namespaces: Vec<String>,
    /// The kind of its gateway.
    pub gateway: String,
    /// The services that lanes may hold.
    pub services: Vec<String>,
    /// The services that take no part in lanes.
    pub shared: Vec<String>,
    /// The workflows that may use it.
    pub workflows: Vec<String>,
    /// How long a lane lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// The most lanes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lanes: Option<u32>,
    /// Whether an approval counts only from somebody who has proved who they are.
    pub protected: bool,
    /// Whether production takes only what was verified.
    pub verified: Verified,
    /// The freeze of its file at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
}

/// Every environment of a bundle, by name. One that cannot be read is left out: whoever names it is told why.
pub fn summaries(bundle: &Bundle, now: Timestamp) -> Vec<Summary> {
    let sites = names(bundle).into_iter().filter_map(|name| Site::load(bundle, &name).ok());
    let mut all: Vec<Summary> = sites.map(|site| summary(&site, bundle, now)).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn summary(site: &Site, bundle: &Bundle, now: Timestamp) -> Summary {
    let environment = &site.environment;
    let (services, shared) =
        site.services.keys().cloned().partition(|service| environment.allows_gray(service));
    Summary {
        name: environment.name.clone(),
        cluster: match &environment.cluster {
            ClusterAt::Rehearsal => "rehearsal".into(),
            ClusterAt::InCluster => "in-cluster".into(),
            ClusterAt::Kubeconfig(at) => match &at.context {
                Some(context) => format!("{} ({context})", at.kubeconfig),
                None => at.kubeconfig.clone(),
            },
        },
        namespaces: std::iter::once(environment.namespace.clone()).chain(site.other_namespaces()).collect(),
        gateway: environment.gateway.kind.words().into(),
        services,
        shared,
        workflows: environment.allow.workflows.clone(),
        ttl: environment.ttl.clone(),
        max_lanes: environment.max_lanes,
        protected: environment.protected,
        verified: environment.verified,
        frozen: frozen(bundle, &environment.name, now),
    }
}
