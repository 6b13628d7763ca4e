//! Retention as the settings say it: clusters are asked which lanes are up, and the engine removes what is not kept.
//!
//! Nothing here decides what is removed beyond that; `engine/src/retention.rs` does.

use std::sync::Arc;
use std::time::Duration;

use graylane_engine::id::RunId;
use graylane_engine::retention::{Kept, Policy, Retained};
use graylane_engine::scheduler::Engine;
use graylane_tasks::cluster::Clusters;
use graylane_tasks::environment::{ClusterAt, Site, gather, names};
use graylane_tasks::inventory;
use graylane_tasks::secret::DigestKey;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// How long one cluster may take.
const CLUSTER_WITHIN: Duration = Duration::from_secs(10);
/// When the first pass comes after the store was opened: short commands are not for this.
const FIRST_AFTER: Duration = Duration::from_secs(30);
/// How often there is one.
const EVERY: Duration = Duration::from_secs(3600);

/// What a pass works with.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) engine: Engine,
    pub(crate) clusters: Arc<Clusters>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) digests: DigestKey,
}

impl Keeper {
    /// What the settings say.
    pub(crate) fn policy(&self) -> Policy {
        Policy { age: self.settings.retention.age, runs: self.settings.retention.runs }
    }

    /// What is kept whatever they say: a lane that may be up needs its run.
    pub(crate) async fn kept(&self) -> Kept {
        let (settings, key) = (Arc::clone(&self.settings), self.digests.clone());
        let gathered = tokio::task::spawn_blocking(move || gather(&settings.environments, &key)).await;
        let Ok(gathered) = gathered else { return Kept::default() };
        let mut kept = Kept::default();
        for name in names(&gathered.bundle) {
            let site = Site::load(&gathered.bundle, &name);
            match site {
                // Where it was never played there is no lane.
                Ok(site)
                    if site.environment.cluster == ClusterAt::Rehearsal
                        && !self.settings.rehearsal_folder().exists() => {}
                Ok(site) => match self.lanes(&site).await {
                    Some(lanes) => {
                        let runs = lanes.iter().filter_map(|lane| lane.run.as_ref()?.parse::<RunId>().ok());
                        kept.runs.extend(runs);
                    }
                    None => {
                        kept.unknown.insert(name);
                    }
                },
                Err(_) => {
                    kept.unknown.insert(name);
                }
            }
        }
        kept
    }

    async fn lanes(&self, site: &Site) -> Option<Vec<inventory::Lane>> {
        let looked = async {
            let cluster = self.clusters.connect(site).await.ok()?;
            // How old they are is not asked here: a lane that stands keeps its runs.
            inventory::lanes(&cluster, site, graylane_engine::clock::Timestamp::from_millis(0)).await.ok()
        };
        tokio::time::timeout(CLUSTER_WITHIN, looked).await.ok().flatten()
    }

    /// One pass.
    ///
    /// # Errors
    /// What stands in the way, as a sentence; the rest goes on with the next pass.
    pub(crate) async fn pass(&self, by: String) -> Result<Retained, String> {
        let policy = self.policy();
        let due = self.engine.due(policy, Kept::default()).await.map_err(|error| error.to_string())?;
        // Clusters are asked only where something hangs on the answer.
        let kept = if due.is_empty() { Kept::default() } else { self.kept().await };
        self.engine.retain(policy, kept, by).await.map_err(|error| error.to_string())
    }

    /// Passes until told to stop.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut wait = FIRST_AFTER;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = EVERY;
            match self.pass("graylane".into()).await {
                Ok(done) if done.runs > 0 => {
                    tracing::info!(
                        runs = done.runs,
                        objects = done.objects,
                        "runs were removed, as the settings say"
                    );
                }
                Ok(_) => {}
                Err(why) => tracing::warn!(why, "runs that are to be removed stay for now"),
            }
        }
    }
}
