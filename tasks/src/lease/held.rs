//! One lease: taken, renewed, lost or let go. The rules are those of client-go's leader election.
//!
//! Clocks of two machines are never compared to decide: whether a lease has run out is seen by watching it for as long as
//! it lasts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use graylane_engine::claim::Mode;
use graylane_engine::clock::{Timestamp, show_duration};
use graylane_engine::task::TaskError;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Holder, Place, Purpose, Taker};
use crate::cluster::Cluster;
use crate::cluster::attempt::LEASE_LASTS;
use crate::lane::labels::ANNOTATION_RUN;

const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// After a renewal that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one renewal, or letting go, may take.
const ONE_CALL: Duration = Duration::from_secs(8);
/// The longest that somebody else's lease is watched before it counts as run out.
const LONGEST_WATCH: Duration = Duration::from_secs(300);
const WORKFLOW: &str = "graylane.dev/workflow";
const HOST: &str = "graylane.dev/host";
/// The command for which a lease is held, where no run holds it.
const DEED: &str = "graylane.dev/deed";
/// How often it is looked whether somebody of this process is done.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The leases that are held in this process, and by whom.
pub(super) type InUse = Arc<Mutex<BTreeMap<Place, Vec<User>>>>;

/// Who uses a lease in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) environment: String,
    pub(super) mode: Mode,
    /// What for.
    pub(super) purpose: Purpose,
}

impl User {
    /// Whether two cannot use one lease at once. Claims keep runs of one environment apart; two environments may mean the
    /// same objects.
    fn excludes(&self, other: &User) -> bool {
        match (self.mode, other.mode) {
            (Mode::Write, Mode::Write) => true,
            (Mode::Read, Mode::Read) => false,
            (Mode::Write, Mode::Read) | (Mode::Read, Mode::Write) => self.environment != other.environment,
        }
    }
}

/// A lease that is held.
pub(super) struct Held {
    lease: Lease,
    place: Place,
    holder: Holder,
    renewed: watch::Sender<Instant>,
    reserved: Reserved,
}

/// A place among those of this process who use a lease.
struct Reserved {
    in_use: InUse,
    place: Place,
    user: User,
    left: bool,
}

impl Reserved {
    /// Waits a little for whoever uses the lease.
    ///
    /// # Errors
    /// Who uses it still.
    async fn take(taker: &Taker, in_use: &InUse, place: &Place, user: User) -> Result<Reserved, TaskError> {
        let until = Instant::now() + taker.patience;
        loop {
            let other = match Reserved::new(in_use, place, user.clone()) {
                Ok(reserved) => return Ok(reserved),
                Err(other) => other,
            };
            if Instant::now() >= until || taker.cancel.is_cancelled() {
                return Err(TaskError::transient(format!(
                    "{} is being written by this Graylane, for {}",
                    place.what,
                    other.words()
                ))
                .hint("let that end first; two environments that mean the same objects take turns too"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Reserves it, where nobody uses it who may not beside this one; says who does.
    fn new(in_use: &InUse, place: &Place, user: User) -> Result<Reserved, Purpose> {
        let mut all = in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let users = all.entry(place.clone()).or_default();
        if let Some(other) = users.iter().find(|other| other.excludes(&user)) {
            return Err(other.purpose.clone());
        }
        users.push(user.clone());
        Ok(Reserved { in_use: Arc::clone(in_use), place: place.clone(), user, left: false })
    }

    /// Gives the place up; says whether nobody else of this process uses the lease.
    fn leave(&mut self) -> bool {
        let mut all = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(users) = all.get_mut(&self.place) else { return false };
        if let Some(at) = users.iter().position(|other| *other == self.user).filter(|_| !self.left) {
            users.swap_remove(at);
        }
        self.left = true;
        let last = users.is_empty();
        if last {
            all.remove(&self.place);
        }
        last
    }
}

impl Purpose {
    fn words(&self) -> String {
        match self {
            Purpose::Run { run, workflow } => format!("its run {run} of {workflow}"),
            Purpose::Deed(command) => format!("`{command}`"),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.left {
            self.leave();
        }
    }
}

/// What somebody else's lease, or our own, means to who wants it.
enum Found {
    /// Nobody's, or ours from before a crash.
    Free,
    /// Somebody shows signs of life.
    Theirs,
    /// By the clock it has run out, or says nothing of a time: it is watched for so long.
    Silent(Duration),
}

impl Held {
    /// Takes a lease.
    ///
    /// # Errors
    /// Somebody else holds it, who is named; or what the API server said.
    pub(super) async fn take(
        taker: &Taker,
        cluster: &Cluster,
        holder: &Holder,
        in_use: &InUse,
        (place, user): (Place, User),
    ) -> Result<Held, TaskError> {
        let reserved = Reserved::take(taker, in_use, &place, user).await?;
        let mut began = Instant::now();
        let mut lease = cluster.create_lease(&made(taker, holder, &place)).await?;
        // Each turn that does not end was overtaken by somebody else.
        for _ in 0..5 {
            if let Some(lease) = lease {
                let renewed = watch::Sender::new(began);
                return Ok(Held { lease, place, holder: holder.clone(), renewed, reserved });
            }
            began = Instant::now();
            lease = match cluster.lease(&place.namespace, &place.name).await? {
                None => cluster.create_lease(&made(taker, holder, &place)).await?,
                Some(found) => match judge(&found, holder, taker.clock.now()) {
                    Found::Free => cluster.replace_lease(&taken(taker, holder, found)).await?,
                    Found::Theirs => return Err(foreign(&found, &place, taker.clock.now())),
                    Found::Silent(lasts) => {
                        taker.reporter.log(format!(
                            "{}; waiting {} to see whether it is still there",
                            told(&found, &place),
                            show_duration(lasts)
                        ));
                        let found = silent(taker, cluster, &place, found, lasts).await?;
                        began = Instant::now();
                        taker
                            .reporter
                            .log(format!("{} was given up by its holder, and is taken over", place.name));
                        cluster.replace_lease(&taken(taker, holder, found)).await?
                    }
                },
            };
        }
        Err(TaskError::transient(format!(
            "Lease {}/{} changes hands all the time",
            place.namespace, place.name
        )))
    }

    /// When it was renewed last.
    pub(super) fn renewals(&self) -> watch::Receiver<Instant> {
        self.renewed.subscribe()
    }

    /// Renews it for as long as it can be.
    ///
    /// # Errors
    /// It is somebody else's.
    pub(super) async fn renew(&mut self, taker: &Taker, cluster: &Cluster) -> Result<Infallible, TaskError> {
        // Whoever waits for this may begin anew at any moment: what counts is when it was renewed last.
        let mut next = *self.renewed.borrow() + RENEWED_EVERY;
        loop {
            tokio::time::sleep_until(next).await;
            let began = Instant::now();
            next = match tokio::time::timeout(ONE_CALL, self.renew_once(taker, cluster)).await {
                Ok(Ok(true)) => {
                    self.renewed.send_replace(began);
                    began + RENEWED_EVERY
                }
                Ok(Ok(false)) => began,
                Ok(Err(error)) if error.kind == graylane_engine::task::ErrorKind::Hold => return Err(error),
                // Writes wait until it works again, or fail.
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.place.name, %error, "a lease was not renewed");
                    Instant::now() + AGAIN
                }
                Err(_) => Instant::now() + AGAIN,
            }
        }
    }

    /// Whether it was renewed; where not, the version to try again with is known now.
    async fn renew_once(&mut self, taker: &Taker, cluster: &Cluster) -> Result<bool, TaskError> {
        let mut next = self.lease.clone();
        next.spec.get_or_insert_default().renew_time = Some(micro(taker.clock.now()));
        if let Some(lease) = cluster.replace_lease(&next).await? {
            self.lease = lease;
            return Ok(true);
        }
        match cluster.lease(&self.place.namespace, &self.place.name).await? {
            // An answer was lost, or somebody touched it.
            Some(found) if holder_of(&found) == Some(self.holder.identity.as_str()) => {
                self.lease = found;
                Ok(false)
            }
            Some(found) => Err(lost(&told(&found, &self.place))),
            // Somebody removed it by hand.
            None => match cluster.create_lease(&made(taker, &self.holder, &self.place)).await? {
                Some(lease) => {
                    self.lease = lease;
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }

    /// Lets it go, where nobody else of this process uses it.
    pub(super) async fn release(mut self, taker: &Taker, cluster: &Cluster) {
        if !self.reserved.leave() {
            return;
        }
        let why = match tokio::time::timeout(ONE_CALL, cluster.delete_lease(&self.lease)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.message,
            Err(_) => "the API server does not answer".to_owned(),
        };
        taker.reporter.log(format!(
            "{} could not be let go, and runs out in {}: {why}",
            self.place.name,
            show_duration(LEASE_LASTS)
        ));
    }
}

/// Watches a lease for as long as it lasts; gives it where nobody renewed it.
async fn silent(
    taker: &Taker,
    cluster: &Cluster,
    place: &Place,
    found: Lease,
    lasts: Duration,
) -> Result<Lease, TaskError> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        tokio::select! {
            () = tokio::time::sleep((lasts / 4).min(AGAIN)) => {}
            () = taker.cancel.cancelled() => {
                return Err(TaskError::transient(format!("stopped while waiting for {}", place.name)));
            }
        }
        match cluster.lease(&place.namespace, &place.name).await? {
            Some(now) if now.metadata.resource_version == found.metadata.resource_version => {}
            Some(now) => return Err(foreign(&now, place, taker.clock.now())),
            // It was let go: the version that was read is not there, and replacing it says so.
            None => return Ok(found),
        }
    }
    Ok(found)
}

fn judge(found: &Lease, holder: &Holder, now: Timestamp) -> Found {
    let other = holder_of(found).filter(|other| *other != holder.identity);
    if other.is_none() {
        return Found::Free;
    }
    let lasts = lasts(found);
    match renewed_at(found) {
        // One that was renewed in the future was renewed by another clock.
        Some(renewed) if now.since(renewed) < lasts && renewed.since(now) <= lasts => Found::Theirs,
        Some(_) | None => Found::Silent(lasts),
    }
}

fn holder_of(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn lasts(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0).max(1);
    Duration::from_secs(seconds).min(LONGEST_WATCH)
}

fn renewed_at(lease: &Lease) -> Option<Timestamp> {
    moment(lease.spec.as_ref()?.renew_time.as_ref()?)
}

fn moment(time: &MicroTime) -> Option<Timestamp> {
    u64::try_from(time.0.as_millisecond()).ok().map(Timestamp::from_millis)
}

fn micro(at: Timestamp) -> MicroTime {
    let millis = i64::try_from(at.millis()).unwrap_or(i64::MAX);
    MicroTime(jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX))
}

fn annotations(taker: &Taker, holder: &Holder) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([(HOST.to_owned(), holder.host.clone())]);
    match &taker.purpose {
        Purpose::Run { run, workflow } => {
            all.insert(ANNOTATION_RUN.to_owned(), run.clone());
            all.insert(WORKFLOW.to_owned(), workflow.clone());
        }
        Purpose::Deed(command) => {
            all.insert(DEED.to_owned(), (*command).to_owned());
        }
    }
    all
}

/// A new lease of ours.
fn made(taker: &Taker, holder: &Holder, place: &Place) -> Lease {
    let now = micro(taker.clock.now());
    Lease {
        metadata: ObjectMeta {
            name: Some(place.name.clone()),
            namespace: Some(place.namespace.clone()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "graylane".to_owned(),
            )])),
            annotations: Some(annotations(taker, holder)),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_LASTS.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    }
}

/// A lease that was read, as ours.
fn taken(taker: &Taker, holder: &Holder, mut lease: Lease) -> Lease {
    let marks = lease.metadata.annotations.get_or_insert_default();
    // What it was held for before says nothing any more.
    marks.retain(|key, _| ![ANNOTATION_RUN, WORKFLOW, DEED].contains(&key.as_str()));
    marks.extend(annotations(taker, holder));
    let now = micro(taker.clock.now());
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_ref() != Some(&holder.identity) {
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.holder_identity = Some(holder.identity.clone());
    spec.lease_duration_seconds = i32::try_from(LEASE_LASTS.as_secs()).ok();
    spec.acquire_time = Some(now.clone());
    spec.renew_time = Some(now);
    lease
}

/// Who holds a lease, and since when.
fn told(lease: &Lease, place: &Place) -> String {
    let annotation = |key: &str| {
        let value = lease.metadata.annotations.as_ref().and_then(|map| map.get(key));
        value.filter(|value| !value.is_empty()).cloned()
    };
    let mut words = format!("{} is held by {}", place.what, holder_of(lease).unwrap_or("nobody"));
    if let Some(host) = annotation(HOST) {
        words.push_str(&format!(" on {host}"));
    }
    if let (Some(run), Some(workflow)) = (annotation(ANNOTATION_RUN), annotation(WORKFLOW)) {
        words.push_str(&format!(" for its run {run} of {workflow}"));
    } else if let Some(command) = annotation(DEED) {
        words.push_str(&format!(" for `{command}`"));
    }
    let since = lease.spec.as_ref().and_then(|spec| moment(spec.acquire_time.as_ref()?));
    if let Some(since) = since {
        words.push_str(&format!(", since {since}"));
    }
    words
}

fn foreign(lease: &Lease, place: &Place, now: Timestamp) -> TaskError {
    let seen = renewed_at(lease).map(|renewed| format!(", seen {} ago", show_duration(now.since(renewed))));
    TaskError::transient(format!("{}{}", told(lease, place), seen.unwrap_or_default())).hint(format!(
        "wait until that has ended, or let one Graylane alone write here; `kubectl get lease {} -n {} -o yaml` shows it, and one that nobody renews is taken over after {}",
        place.name,
        place.namespace,
        show_duration(lasts(lease))
    ))
}

fn lost(words: &str) -> TaskError {
    TaskError::hold(format!("its lease was lost: {words}; nothing more was written"))
        .hint("see what the other Graylane does with it; then answer `retry` to go on, or `fail`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, renewed: Option<u64>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            renew_time: renewed.map(|at| micro(Timestamp::from_millis(at))),
            lease_duration_seconds: Some(30),
            ..LeaseSpec::default()
        };
        Lease { metadata: ObjectMeta::default(), spec: Some(spec) }
    }

    #[test]
    fn a_lease_is_let_go_by_the_last_of_this_process_who_uses_it() {
        let in_use = InUse::default();
        let (cluster, namespace) = ("c".to_owned(), "n".to_owned());
        let place = Place { cluster, namespace, name: "l".into(), what: "lane `gray`".into() };
        let user = |environment: &str, mode| User {
            environment: environment.into(),
            mode,
            purpose: Purpose::Deed("graylane lanes renew"),
        };
        let take = |environment, mode| Reserved::new(&in_use, &place, user(environment, mode));
        let mut deploys = take("production", Mode::Write).expect("free");
        let mut verifies = take("production", Mode::Read).expect("of the same run, as claims say");
        let mut verifies_too = take("production", Mode::Read).expect("readers share");
        assert!(take("production", Mode::Write).is_err() && take("twin", Mode::Read).is_err());
        assert!(!deploys.leave() && !verifies.leave());
        drop(deploys);
        let other = take("twin", Mode::Read).expect("readers share");
        assert!(!verifies_too.leave(), "somebody else still uses it");
        drop(other);
        assert_eq!(*in_use.lock().expect("not poisoned"), BTreeMap::new());
        assert!(take("twin", Mode::Write).expect("free").leave());
    }

    #[test]
    fn a_lease_is_free_theirs_or_watched_before_it_counts_as_given_up() {
        let me = Holder { identity: "me".into(), host: String::new() };
        let now = Timestamp::from_millis(1_000_000);
        let table = [
            (Some("me"), Some(0), "free"),
            (Some(""), Some(999_000), "free"),
            (None, None, "free"),
            (Some("other"), Some(999_000), "theirs"),
            (Some("other"), Some(970_001), "theirs"),
            (Some("other"), Some(970_000), "silent"),
            (Some("other"), None, "silent"),
            // Its clock is a little ahead of ours; or so much that nothing can be told by it.
            (Some("other"), Some(1_020_000), "theirs"),
            (Some("other"), Some(2_000_000), "silent"),
        ];
        for (holder, renewed, expected) in table {
            let found = match judge(&lease(holder, renewed), &me, now) {
                Found::Free => "free",
                Found::Theirs => "theirs",
                Found::Silent(lasts) => {
                    assert_eq!(lasts, Duration::from_secs(30));
                    "silent"
                }
            };
            assert_eq!(found, expected, "{holder:?} {renewed:?}");
        }
    }
}
