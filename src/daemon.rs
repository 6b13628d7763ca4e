//! What runs beside the engine in a daemon: sources, metrics, and what systemd is told. A command that holds the store for a
//! moment has none of it.
//!
//! Started after the engine, and ended before it.

use std::sync::Arc;
use std::time::Duration;

use graylane_engine::trigger::{Driver, Options};
use graylane_tasks::environment::frozen;
use graylane_tasks::environment::{ClusterAt, Site, gather, names};
use graylane_tasks::inventory;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::State;
use crate::holder::Holder;
use crate::settings::Settings;
use crate::sources;
use crate::systemd::Systemd;

/// How often clusters and disk are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// How long a cluster may take to tell its lanes.
const LANES_WITHIN: Duration = Duration::from_secs(30);
/// How often the line of `systemctl status` is written anew.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// What runs beside the engine.
pub(crate) struct Daemon {
    systemd: Systemd,
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Daemon {
    /// Starts it. The catalogue holds what was taken before when this returns.
    pub(crate) async fn start(settings: &Settings, holder: &Holder) -> Result<Daemon, String> {
        let state = holder.state.clone();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(stoppable(Arc::clone(&state.metrics).follow(state.engine.clone()), &stop));
        let daemon = sources::Daemon {
            engine: state.engine.clone(),
            journal: Arc::clone(&state.parts.journal),
            registry: Arc::clone(&state.parts.registry),
            clock: Arc::clone(&state.parts.clock),
            key: crate::holder::digest_key(settings)?,
        };
        let reader = sources::start(settings, daemon, holder.catalogue.clone(), stop.clone()).await;
        tasks.spawn(async move {
            // A panic in it is told by the runtime.
            let _ = reader.await;
        });
        let options = Options { frozen: Arc::new(frozen), ..Options::default() };
        let driver = Driver::start(state.engine.clone(), state.catalogue.clone(), options);
        let draining = state.draining.clone();
        // Nothing new starts once the end has begun: what is due then is decided at the next start.
        tasks.spawn(async move {
            draining.cancelled().await;
            driver.stop().await;
        });
        tasks.spawn(stoppable(measure(state.clone(), holder.stage.clone()), &stop));
        let systemd = Systemd::of_process();
        let alive = {
            let state = state.clone();
            move || {
                let state = state.clone();
                async move { state.alive().await }
            }
        };
        tasks.spawn(systemd.clone().watch(alive, stop.clone()));
        systemd.ready(&format!("process {}", std::process::id()));
        tasks.spawn(stoppable(tell(systemd.clone(), state.clone()), &stop));
        Ok(Daemon { systemd, draining: state.draining, stop, tasks })
    }

    /// The end has begun: nobody should be sent here any more.
    pub(crate) fn stopping(&self, within: Duration) {
        self.draining.cancel();
        self.systemd.stopping(within);
    }

    /// Ends it.
    pub(crate) async fn close(self) {
        self.stopping(Duration::from_secs(10));
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn stoppable<F: Future<Output = ()>>(work: F, stop: &CancellationToken) -> impl Future<Output = ()> + use<F> {
    let stop = stop.clone();
    async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }
}

/// A line of what goes on, for `systemctl status`.
async fn tell(systemd: Systemd, state: State) {
    loop {
        let unfinished = state.engine.unfinished();
        let waiting = unfinished.iter().filter(|run| run.status == "waiting").count();
        let workflows =
            state.catalogue.borrow().workflows.values().filter(|known| known.good.is_some()).count();
        systemd.status(&format!(
            "{workflows} workflows, {} runs unfinished, {waiting} wait for people",
            unfinished.len()
        ));
        tokio::time::sleep(STATUS_EVERY).await;
    }
}

/// Looks at what costs something to look at: the disk, and the lanes on the clusters.
async fn measure(state: State, stage: crate::rehearse::Stage) {
    loop {
        let (metrics, data) = (Arc::clone(&state.metrics), state.settings.data.clone());
        let environments = state.settings.environments.clone();
        let measured = tokio::task::spawn_blocking(move || {
            metrics.measure(&data);
            gather(&environments, &crate::cli::no_key()).bundle
        });
        if let Ok(bundle) = measured.await {
            for name in names(&bundle) {
                let Ok(site) = Site::load(&bundle, &name) else { continue };
                // Looking must not start a cluster that nobody uses yet.
                if site.environment.cluster == ClusterAt::Rehearsal && !stage.is_played().await {
                    continue;
                }
                let look = async {
                    let cluster = state.clusters.connect(&site).await.ok()?;
                    inventory::lanes(&cluster, &site, state.parts.clock.now()).await.ok()
                };
                let lanes = tokio::time::timeout(LANES_WITHIN, look).await.ok().flatten();
                state.metrics.lanes(&name, lanes.map(|lanes| lanes.len()));
            }
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
