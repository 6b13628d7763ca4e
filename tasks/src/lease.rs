//! What stands around everything that writes: rights that are looked at before the first write, and leases that keep two
//! Graylanes from writing the same lane or the same production service at once.
//!
//! ```text
//! plan -> are all rights there?     run, undo, a deed -> take the leases -> the writes, while they are renewed -> let go
//! ```
//! A lease is a Lease of coordination.k8s.io, one a lane and one a production service, held while an attempt runs, or
//! while a deed outside of runs writes. Its holder is the store, so that a store which died takes its leases back at once;
//! another store waits until they ran out, as client-go's leader election does. Writes wait while a lease is not fresh, and
//! nothing is written without one (`cluster/attempt.rs`); a lease that is lost ends the work where it is. No type knows of
//! any of this, but for the check that marks a lane.

mod held;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::claim::{Claim, Mode};
use graylane_engine::clock::Clock;
use graylane_engine::document::Finding;
use graylane_engine::task::{
    Ask, Outputs, Plan, Progress, Reporter, Site as Given, Task, TaskContext, TaskError,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::held::{Held, InUse};
use crate::cluster::attempt::Attempt;
use crate::cluster::{Cluster, Clusters, lacks_right};
use crate::environment::{Site, deployment};
use crate::manifest::name;
use crate::mse_gray_offline::tags_of;
use crate::rights;
use crate::secret::DigestKey;

/// Who this store is to others, and which leases it holds in this process.
#[derive(Clone)]
pub struct Leases {
    clusters: Arc<Clusters>,
    holder: Holder,
    in_use: InUse,
}

/// The holder of a lease, as others read it.
#[derive(Debug, Clone)]
struct Holder {
    /// The same as long as the data folder is.
    identity: String,
    /// The machine, for people.
    host: String,
}

/// Who of this store takes leases, and for what.
pub(crate) struct Taker {
    purpose: Purpose,
    /// How long somebody else of this process is waited for.
    patience: Duration,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    reporter: Arc<dyn Reporter>,
}

/// What a lease is taken for; it stands on the lease, for others to read.
#[derive(Debug, Clone)]
enum Purpose {
    Run {
        run: String,
        workflow: String,
    },
    /// The command that wrote outside of runs.
    Deed(&'static str),
}

impl Taker {
    /// An attempt. Deeds of the same process are over in a moment: they are waited for.
    fn of(cx: &TaskContext) -> Taker {
        Taker {
            purpose: Purpose::Run { run: cx.run.to_string(), workflow: cx.workflow.to_string() },
            patience: Duration::from_secs(10),
            clock: Arc::clone(&cx.clock),
            cancel: cx.cancel.clone(),
            reporter: Arc::clone(&cx.reporter),
        }
    }

    /// A deed. Somebody waits for its answer, and runs take minutes.
    fn deed(command: &'static str, clock: &Arc<dyn Clock>) -> Taker {
        Taker {
            purpose: Purpose::Deed(command),
            patience: Duration::from_secs(2),
            clock: Arc::clone(clock),
            cancel: CancellationToken::new(),
            reporter: Arc::new(ToTheLog),
        }
    }
}

/// What deeds have to say on their way is for the daemon's log.
struct ToTheLog;

#[async_trait]
impl Reporter for ToTheLog {
    async fn phase(&self, _: String) -> Result<(), TaskError> {
        Ok(())
    }

    async fn checkpoint(&self, _: String) -> Result<(), TaskError> {
        Ok(())
    }

    fn log(&self, line: String) {
        tracing::info!("{line}");
    }

    fn progress(&self, _: Progress) {}
}

impl Leases {
    pub(crate) fn new(clusters: &Arc<Clusters>, key: &DigestKey) -> Leases {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = Holder { identity: key.holder(), host: host.trim().to_owned() };
        Leases { clusters: Arc::clone(clusters), holder, in_use: Arc::new(Mutex::new(BTreeMap::new())) }
    }

    /// The cluster of an environment.
    ///
    /// # Errors
    /// As [`Clusters::connect`].
    pub(crate) async fn connect(&self, site: &Site) -> Result<Cluster, TaskError> {
        self.clusters.connect(site).await
    }

    /// The type, with its rights and leases around it.
    pub(crate) fn over<T: Task>(&self, inner: T) -> impl Task + use<T> {
        Leased { inner, leases: self.clone() }
    }

    /// Carries out an attempt that writes no lane and no production: nothing but Jobs can be written.
    pub(crate) async fn without<T>(&self, cx: &TaskContext, work: impl Future<Output = T>) -> T {
        Attempt::new(&cx.reporter, &cx.cancel, Vec::new()).scope(work).await
    }

    /// Carries out a part of an attempt that writes what these claims mean, while their leases are held.
    pub(crate) async fn part<T>(
        &self,
        cx: &TaskContext,
        (cluster, site): (&Cluster, &Site),
        claims: &[Claim],
        work: impl Future<Output = Result<T, TaskError>>,
    ) -> Result<T, TaskError> {
        self.hold(&Taker::of(cx), cluster, places(site, &Plan::default(), claims), work, |_| false).await
    }

    /// Carries out a deed that writes what these claims mean, while their leases are held. Where `keeps` says so, they are
    /// left to the next deed, and run out where none comes.
    pub(crate) async fn deed<T, E: From<TaskError>>(
        &self,
        (command, clock): (&'static str, &Arc<dyn Clock>),
        (cluster, site): (&Cluster, &Site),
        claims: &[Claim],
        work: impl Future<Output = Result<T, E>>,
        keeps: impl Fn(&T) -> bool,
    ) -> Result<T, E> {
        let places = places(site, &Plan::default(), claims);
        self.hold(&Taker::deed(command, clock), cluster, places, work, keeps).await
    }

    /// Carries out work while leases are held.
    async fn hold<T, E: From<TaskError>>(
        &self,
        taker: &Taker,
        cluster: &Cluster,
        places: Vec<Place>,
        work: impl Future<Output = Result<T, E>>,
        keeps: impl Fn(&T) -> bool,
    ) -> Result<T, E> {
        let attempt = |leases| Attempt::new(&taker.reporter, &taker.cancel, leases);
        let mut held = Vec::new();
        for place in places {
            let taking = Held::take(taker, cluster, &self.holder, &self.in_use, place);
            match attempt(Vec::new()).scope(taking).await {
                Ok(one) => held.push(one),
                Err(error) => {
                    release(taker, cluster, held).await;
                    return Err(error.into());
                }
            }
        }
        let work = attempt(held.iter().map(Held::renewals).collect()).scope(work);
        let renewals = held.iter_mut().map(|one| one.renew(taker, cluster));
        let lost = async {
            match futures::future::try_join_all(renewals).await {
                Err(lost) => lost,
                // There is none to be lost.
                Ok(_) => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            done = work => done,
            // The work is dropped where it stands: not even a rollback may write over what somebody else does now.
            lost = lost => Err(lost.into()),
        };
        if !done.as_ref().is_ok_and(keeps) {
            release(taker, cluster, held).await;
        }
        done
    }
}

async fn release(taker: &Taker, cluster: &Cluster, held: Vec<Held>) {
    for one in held {
        one.release(taker, cluster).await;
    }
}

/// Where a lease is, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The cluster, as the environment names it.
    cluster: String,
    namespace: String,
    name: String,
    /// In words: lane `gray`.
    what: String,
}

/// The leases that claims mean; in one order, whoever takes them.
fn places(site: &Site, plan: &Plan, claims: &[Claim]) -> Vec<Place> {
    let environment = &site.environment;
    let cluster = format!("{:?} {}", environment.cluster, site.path("").display());
    let lane = |tag: &str| Place {
        cluster: cluster.clone(),
        namespace: environment.namespace.clone(),
        name: format!("graylane-lane-{tag}"),
        what: format!("lane `{tag}`"),
    };
    let mut places = Vec::new();
    for claim in claims.iter().filter(|claim| claim.mode == Mode::Write) {
        if claim.every_lane_of().is_some() {
            places.extend(tags_of(plan).iter().map(|tag| lane(tag)));
        } else if let Some(tag) = claim.tag() {
            places.push(lane(tag));
        } else if let Some(service) = claim.resource.rsplit('/').next()
            && let Ok(workload) = deployment(service, site.service(service).unwrap_or_default())
        {
            // Stores may call a service by different names; its Deployment has one.
            places.push(Place {
                cluster: cluster.clone(),
                namespace: environment.namespace_of(service).unwrap_or(&environment.namespace).to_owned(),
                name: format!("graylane-production-{}", name(workload)),
                what: format!("production `{service}`"),
            });
        }
    }
    places.sort();
    places.dedup();
    places
}

/// See [`Leases::over`].
struct Leased<T> {
    inner: T,
    leases: Leases,
}

impl<T: Task> Leased<T> {
    /// Refuses where a right is lacking that the type uses; gives what is only told.
    async fn rights(&self, cx: &TaskContext) -> Result<Vec<String>, TaskError> {
        let claims = self.inner.claims(&cx.spec);
        let environment = claims.iter().find_map(Claim::environment);
        let site = environment.and_then(|environment| Site::load(&cx.bundle, environment).ok());
        let Some(site) = site else { return Ok(Vec::new()) };
        let cluster = self.leases.connect(&site).await?;
        rights::refuse_without(&cluster, &site, &[], |_, resource, verb| self.uses(resource, verb)).await
    }

    /// Whether the type uses a verb on a resource: production removes nothing, and taking down makes nothing.
    fn uses(&self, resource: &str, verb: &str) -> bool {
        let own = match self.inner.type_name() {
            "prod-deploy" if verb == "watch" => matches!(resource, "deployments" | "replicasets" | "pods"),
            "prod-deploy" => verb != "delete",
            "mse-gray-offline" => matches!(verb, "get" | "list" | "watch" | "delete"),
            _ => true,
        };
        own || resource == "leases"
    }

    /// Carries out an attempt while the leases that its claims mean are held.
    async fn during(
        &self,
        cx: &TaskContext,
        plan: &Plan,
        work: impl Future<Output = Result<Outputs, TaskError>> + Send,
    ) -> Result<Outputs, TaskError> {
        let claims = self.inner.claims(&cx.spec);
        let environment = claims.iter().find_map(Claim::environment);
        let site = environment.and_then(|environment| Site::load(&cx.bundle, environment).ok());
        // A site that cannot be read is the type's to tell.
        let Some(site) = site else { return work.await };
        let cluster = self.leases.connect(&site).await?;
        let places = places(&site, plan, &claims);
        self.leases.hold(&Taker::of(cx), &cluster, places, work, |_| false).await
    }
}

#[async_trait]
impl<T: Task> Task for Leased<T> {
    fn type_name(&self) -> &'static str {
        self.inner.type_name()
    }

    fn summary(&self) -> &'static str {
        self.inner.summary()
    }

    fn schema(&self) -> Value {
        self.inner.schema()
    }

    fn check(&self, spec: &Value, site: &Given<'_>) -> Vec<Finding> {
        self.inner.check(spec, site)
    }

    fn claims(&self, spec: &Value) -> Vec<Claim> {
        self.inner.claims(spec)
    }

    fn sealed_keys(&self) -> &'static [&'static str] {
        self.inner.sealed_keys()
    }

    fn outputs(&self) -> &'static [&'static str] {
        self.inner.outputs()
    }

    fn takes_secret(&self, pointer: &str) -> bool {
        self.inner.takes_secret(pointer)
    }

    fn ask(&self, spec: &Value) -> Option<Ask> {
        self.inner.ask(spec)
    }

    /// A right that only a later write would miss is missed here, before the first one.
    async fn plan(&self, cx: &TaskContext) -> Result<Plan, TaskError> {
        match self.inner.plan(cx).await {
            Ok(mut plan) => {
                plan.warnings.extend(self.rights(cx).await?);
                Ok(plan)
            }
            // What the first call missed is seldom all that is missing.
            Err(error) if lacks_right(&error) => Err(self.rights(cx).await.err().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        self.during(cx, plan, self.inner.run(cx, plan)).await
    }

    async fn undo(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        self.during(cx, plan, self.inner.undo(cx, plan)).await
    }
}
