//! The task types of Graylane: the only code that knows Kubernetes and MSE.
//!
//! ```text
//!   manifest, secret, environment      files, without a cluster
//!   attached                           files that a workflow names: patches, edited manifests
//!   lane (route, patch, leak, around)  a gray copy, rendered from its baseline; what it may stand beside
//!   rights, cluster, rollout,          what a cluster is asked and told, and what that needs to be allowed
//!   inventory
//!   verified                           what was verified in a lane, and whether production gets that
//!   ownership                          whose fields a baseline's are, and how they become ours
//!   mse_gray_deploy, generic_verify,   the types: a new one is a new file, and a line in `register`
//!   prod_deploy, mse_gray_offline
//!   lease                              what stands around everything that writes: its rights and its leases
//!   renewal, readiness, adoption       deeds: what is written outside of runs, under the same leases
//! ```
//! Nothing here reads a workflow file, keeps state or serves HTTP.

pub mod adoption;
pub mod attached;
pub mod cluster;
pub mod environment;
pub mod generic_verify;
pub mod inventory;
pub mod lane;
mod lease;
pub mod manifest;
pub mod mse_gray_deploy;
pub mod mse_gray_offline;
pub mod ownership;
pub mod prod_deploy;
pub mod readiness;
pub mod renewal;
pub mod rights;
pub mod rollout;
pub mod secret;
pub mod spec;
pub mod verified;

use std::sync::Arc;

use graylane_engine::task::Registry;

use self::cluster::Clusters;
pub use self::lease::Leases;
use self::secret::DigestKey;

/// Adds every task type to a registry; gives the leases that they take, for who writes outside of runs.
pub fn register(registry: &mut Registry, clusters: &Arc<Clusters>, key: &DigestKey) -> Leases {
    registry.add(graylane_engine::approval::Approval);
    let leases = Leases::new(clusters, key);
    registry.add(leases.over(mse_gray_deploy::MseGrayDeploy::new(Arc::clone(clusters), key.clone())));
    registry.add(leases.over(generic_verify::GenericVerify::new(Arc::clone(clusters))));
    registry.add(leases.over(prod_deploy::ProdDeploy::new(Arc::clone(clusters), key.clone())));
    registry.add(leases.over(mse_gray_offline::MseGrayOffline::new(Arc::clone(clusters), key.clone())));
    leases
}

#[cfg(test)]
mod validation_tests;
