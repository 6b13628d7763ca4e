//! What stands around everything that writes: rights that are looked at before the first write, and leases that keep two
//! Graylanes from writing the same lane or the same production service at once.
//!
//! ```text
//! plan -> are all rights there?     run, undo, a deed -> take the leases -> the writes, while they are renewed -> let go
//! ```
//! A lease is a Lease of coordination.k8s.io, one a lane and one a production service, held while an attempt runs, or
//! while a deed outside of runs writes; tasks of this process that may run at once share it, and a check that only looks
//! has none. Its holder is the store, so that a store which died takes its leases back at once; another store waits until
//! they ran out, as client-go's leader election does. Writes wait while a lease is not fresh, and nothing is written without
//! one (`cluster/attempt.rs`); a lease that is lost ends the work where it is. Of all this a type says only what it uses and
//! whether it writes (`OnCluster`).

mod held;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use graylane_engine::claim::Claim;
use graylane_engine::clock::Clock;
use graylane_engine::document::Finding;
use graylane_engine::task::{
    Ask, Outputs, Plan, Progress, Reporter, Site as Given, Task, TaskContext, TaskError,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::held::{Held, InUse, User};
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
        Leases { clusters: Arc::clone(clusters), holder, in_use: InUse::default() }
    }

    /// The cluster of an environment.
    ///
    /// # Errors
    /// As [`Clusters::connect`].
    pub(crate) async fn connect(&self, site: &Site) -> Result<Cluster, TaskError> {
        self.clusters.connect(site).await
    }

    /// The type, with its rights and leases around it.
    pub(crate) fn over<T: OnCluster>(&self, inner: T) -> impl Task + use<T> {
        Leased { inner, leases: self.clone() }
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
        let taker = Taker::deed(command, clock);
        let places = places(site, &Plan::default(), claims, &taker.purpose);
        self.hold(&taker, cluster, places, work, keeps).await
    }

    /// Carries out work while leases are held.
    async fn hold<T, E: From<TaskError>>(
        &self,
        taker: &Taker,
        cluster: &Cluster,
        places: Vec<(Place, User)>,
        work: impl Future<Output = Result<T, E>>,
        keeps: impl Fn(&T) -> bool,
    ) -> Result<T, E> {
        let attempt = |leases| Attempt::new(&taker.reporter, &taker.cancel, leases);
        let mut held = Vec::new();
        for wanted in places {
            let taking = Held::take(taker, cluster, &self.holder, &self.in_use, wanted);
            let taking = attempt(Vec::new()).scope(taking);
            // Somebody else's is watched for as long as it lasts: those that are held already are renewed meanwhile.
            let taken = tokio::select! {
                biased;
                taken = taking => taken,
                lost = lost(taker, cluster, &mut held) => Err(lost),
            };
            match taken {
                Ok(one) => held.push(one),
                Err(error) => {
                    release(taker, cluster, held).await;
                    return Err(error.into());
                }
            }
        }
        let work = attempt(held.iter().map(Held::renewals).collect()).scope(work);
        let done = tokio::select! {
            biased;
            done = work => done,
            // The work is dropped where it stands: not even a rollback may write over what somebody else does now.
            lost = lost(taker, cluster, &mut held) => Err(lost.into()),
        };
        if !done.as_ref().is_ok_and(keeps) {
            release(taker, cluster, held).await;
        }
        done
    }
}

/// Renews leases for as long as it can be done; says which one was lost.
async fn lost(taker: &Taker, cluster: &Cluster, held: &mut [Held]) -> TaskError {
    let renewals = held.iter_mut().map(|one| one.renew(taker, cluster));
    match futures::future::try_join_all(renewals).await {
        Err(lost) => lost,
        // There is none to be lost.
        Ok(_) => std::future::pending().await,
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
fn places(site: &Site, plan: &Plan, claims: &[Claim], purpose: &Purpose) -> Vec<(Place, User)> {
    let environment = &site.environment;
    let cluster = format!("{:?} {}", environment.cluster, site.path("").display());
    let lane = |tag: &str| Place {
        cluster: cluster.clone(),
        namespace: environment.namespace.clone(),
        name: format!("graylane-lane-{tag}"),
        what: format!("lane `{tag}`"),
    };
    let mut places = Vec::new();
    for claim in claims {
        let user = User { environment: environment.name.clone(), mode: claim.mode, purpose: purpose.clone() };
        if claim.every_lane_of().is_some() {
            places.extend(tags_of(plan).iter().map(|tag| (lane(tag), user.clone())));
        } else if let Some(tag) = claim.tag() {
            places.push((lane(tag), user));
        } else if let Some(service) = claim.resource.rsplit('/').next()
            && let Ok(workload) = deployment(service, site.service(service).unwrap_or_default())
        {
            // Stores may call a service by different names; its Deployment has one.
            let place = Place {
                cluster: cluster.clone(),
                namespace: environment.namespace_of(service).unwrap_or(&environment.namespace).to_owned(),
                name: format!("graylane-production-{}", name(workload)),
                what: format!("production `{service}`"),
            };
            places.push((place, user));
        }
    }
    places.sort_by(|(one, _), (other, _)| one.cmp(other));
    places.dedup_by(|(one, _), (other, _)| one == other);
    places
}

/// A type that is carried out on a cluster, as far as its rights and leases are concerned.
pub(crate) trait OnCluster: Task {
    /// Whether the type uses a verb on a resource, for a plan where there is one.
    fn uses(&self, _plan: Option<&Plan>, _resource: &str, _verb: &str) -> bool {
        true
    }

    /// Whether carrying out a plan writes what the claims mean; else no lease is held for it.
    fn writes(&self, _plan: &Plan) -> bool {
        true
    }

    /// Whether an undo writes too.
    fn takes_back(&self) -> bool {
        true
    }
}

/// See [`Leases::over`].
struct Leased<T> {
    inner: T,
    leases: Leases,
}

impl<T: OnCluster> Leased<T> {
    /// Refuses where a right is lacking that the type uses, for a plan where there is one; gives what is only told.
    async fn rights(&self, cx: &TaskContext, plan: Option<&Plan>) -> Result<Vec<String>, TaskError> {
        let claims = self.inner.claims(&cx.spec);
        let environment = claims.iter().find_map(Claim::environment);
        let site = environment.and_then(|environment| Site::load(&cx.bundle, environment).ok());
        let Some(site) = site else { return Ok(Vec::new()) };
        let cluster = self.leases.connect(&site).await?;
        let used = |_: &str, resource: &str, verb: &str| match resource {
            "leases" => plan.is_none_or(|plan| self.inner.writes(plan)),
            _ => self.inner.uses(plan, resource, verb),
        };
        rights::refuse_without(&cluster, &site, &[], used).await
    }

    /// Carries out work of the type while its leases are held.
    async fn during(
        &self,
        cx: &TaskContext,
        plan: &Plan,
        work: impl Future<Output = Result<Outputs, TaskError>> + Send,
    ) -> Result<Outputs, TaskError> {
        let mut claims = self.inner.claims(&cx.spec);
        let environment = claims.iter().find_map(Claim::environment).map(str::to_owned);
        if !self.inner.writes(plan) {
            claims.clear();
        }
        let site = environment.and_then(|environment| Site::load(&cx.bundle, &environment).ok());
        // A site that cannot be read is the type's to tell.
        let Some(site) = site else { return work.await };
        let cluster = self.leases.connect(&site).await?;
        let taker = Taker::of(cx);
        let places = places(&site, plan, &claims, &taker.purpose);
        self.leases.hold(&taker, &cluster, places, work, |_| false).await
    }
}

#[async_trait]
impl<T: OnCluster> Task for Leased<T> {
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
                plan.warnings.extend(self.rights(cx, Some(&plan)).await?);
                Ok(plan)
            }
            // What the first call missed is seldom all that is missing.
            Err(error) if lacks_right(&error) => Err(self.rights(cx, None).await.err().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        self.during(cx, plan, self.inner.run(cx, plan)).await
    }

    async fn undo(&self, cx: &TaskContext, plan: &Plan) -> Result<Outputs, TaskError> {
        if !self.inner.takes_back() {
            return self.inner.undo(cx, plan).await;
        }
        self.during(cx, plan, self.inner.undo(cx, plan)).await
    }
}
