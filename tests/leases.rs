//! Two Graylanes over one cluster: a lease a lane and a production service, held while it is written.
//!
//! At a desk with paused time for the rules; as programs, on the rehearsal and on a real API server, for the story.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use graylane_engine::clock::Clock as _;
use graylane_engine::task::{ErrorKind, Plan, TaskError};
use graylane_rehearsal::LoggedRequest;
use graylane_tasks::manifest::ObjectRef;
use graylane_tasks::readiness::Level;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::environment::label;
use crate::support::desk::{Desk, NAMESPACE, key, shown};
use crate::support::line::{Asked, over_a_line};
use crate::support::stage::real;
use crate::support::{Home, client, tally, until};

const DEPLOY: &str = "mse-gray-deploy";
const LEASE: &str = "graylane-lane-gray";

fn lane() -> Value {
    json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" } })
}

/// A lease of somebody, last renewed so many seconds before the desk's clock.
async fn leased(desk: &Desk, holder: &str, renewed: u64) {
    lease_of(desk, LEASE, holder, (renewed, 30)).await;
}

/// The same for any lease, and with how long it lasts.
async fn lease_of(desk: &Desk, name: &str, holder: &str, (renewed, lasts): (u64, u64)) {
    let renewed = desk.now().millis() / 1000 - renewed;
    let at = graylane_engine::clock::Timestamp::from_millis(renewed * 1000).to_string();
    let at = at.replace(".000Z", ".000000Z");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": NAMESPACE, "annotations": {
            "graylane.dev/run": "01J0000000000000000000000A", "graylane.dev/workflow": "release", "graylane.dev/host": "build-7",
        } },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": lasts, "acquireTime": at, "renewTime": at, "leaseTransitions": 0 },
    });
    desk.create(&lease, "graylane").await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_another_graylane_writes_is_refused_and_the_other_one_is_named() {
    let desk = Desk::new().await;
    let plan = desk.plan(DEPLOY, &lane()).await.expect("planned");
    leased(&desk, "graylane-0123456789ab", 4).await;
    desk.cluster.clear_requests();
    let error = desk.carry_out(DEPLOY, &lane(), &plan).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Transient, "it may pass: {error:?}");
    let told = shown(&error);
    for words in [
        "lane `gray` is held by graylane-0123456789ab on build-7 for its run 01J0000000000000000000000A of release, since 2026-01-02T03:04:",
        ", seen 4",
        "hint: wait until that has ended",
        "`kubectl get lease graylane-lane-gray -n mse-customer -o yaml`",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(desk.wrote(), Vec::<String>::new());
    // The control: without that lease nothing refuses it.
    desk.delete("Lease", LEASE).await;
    desk.carry_out(DEPLOY, &lane(), &plan).await.expect("done");
    assert!(!desk.wrote().is_empty());
}

/// What writes is refused by the call itself where no lease is held: whoever forgets one learns it from the first test.
#[tokio::test(start_paused = true)]
async fn nothing_can_be_written_without_a_lease() {
    let desk = Desk::new().await;
    let plan = desk.plan(DEPLOY, &lane()).await.expect("planned");
    let error = desk.carry_out_bare(&desk.bare_deploy(), &lane(), &plan).await.expect_err("refused");
    assert!(error.message.ends_with("is not written: no lease is held for it"), "{error:?}");
    let told = desk.told().await;
    let live = desk.get("Deployment", "spring-cloud-a").await.expect("there");
    let (at, uid) = (ObjectRef::of(&live), live["metadata"]["uid"].as_str().expect("a uid"));
    let new = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "new" } });
    let refused = [
        told.apply(&new, false, true).await.map(drop).map_err(TaskError::from),
        told.patch(&at, &json!([])).await.map(drop),
        told.delete(&at, uid).await.map(drop),
        told.orphan(&at, uid).await.map(drop),
        told.label_namespace(NAMESPACE, "a", "b").await,
    ];
    for refused in refused {
        let error = refused.expect_err("refused");
        assert!(error.message.ends_with("is not written: no lease is held for it"), "{error:?}");
    }
    assert_eq!(desk.wrote(), Vec::<String>::new());
    // A dry run writes nothing, and needs none.
    told.apply(&new, true, true).await.expect("tried");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_renews_is_watched_for_its_time_and_then_taken_over() {
    let desk = Desk::new().await;
    leased(&desk, "graylane-0123456789ab", 3600).await;
    let began = Instant::now();
    desk.run(DEPLOY, &lane()).await;
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(desk.said().iter().any(|line| line.ends_with("is taken over")), "{:?}", desk.said());
    assert!(desk.get("Lease", LEASE).await.is_none(), "it is let go at the end");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_while_it_is_watched_stays_with_its_holder() {
    let desk = Desk::new().await;
    let plan = desk.plan(DEPLOY, &lane()).await.expect("planned");
    leased(&desk, "graylane-0123456789ab", 3600).await;
    let spec = lane();
    let renew = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let change =
            json!([{ "op": "replace", "path": "/spec/renewTime", "value": "2026-01-02T03:04:00.000000Z" }]);
        desk.edit("Lease", LEASE, change).await;
    };
    let (done, ()) = tokio::join!(desk.carry_out(DEPLOY, &spec, &plan), renew);
    let error = done.expect_err("refused");
    assert!(error.message.starts_with("lane `gray` is held by graylane-0123456789ab"), "{error:?}");
    assert!(desk.get("Deployment", "spring-cloud-a-mse-gray").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_died_takes_its_own_lease_back_at_once() {
    let desk = Desk::new().await;
    leased(&desk, &key().holder(), 1).await;
    let began = Instant::now();
    desk.run(DEPLOY, &lane()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(desk.get("Lease", LEASE).await.is_none());
}

/// Whoever lost the lease stops where it is: no rollback, no closing of routes, nothing.
#[tokio::test(start_paused = true)]
async fn an_attempt_whose_lease_is_lost_writes_nothing_more_and_asks() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:neverready" } });
    let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
    let steal = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let held = desk.get("Lease", LEASE).await.expect("held");
        assert_eq!(held["spec"]["holderIdentity"], key().holder().as_str());
        assert_ne!(held["spec"]["renewTime"], held["spec"]["acquireTime"], "it is renewed meanwhile");
        desk.edit(
            "Lease",
            LEASE,
            json!([{ "op": "replace", "path": "/spec/holderIdentity", "value": "graylane-thief" }]),
        )
        .await;
        desk.cluster.clear_requests();
    };
    let (done, ()) = tokio::join!(desk.carry_out(DEPLOY, &spec, &plan), steal);
    let error = done.expect_err("lost");
    assert_eq!(error.kind, ErrorKind::Hold, "{error:?}");
    assert!(
        error.message.starts_with("its lease was lost: lane `gray` is held by graylane-thief"),
        "{error:?}"
    );
    assert_eq!(desk.wrote(), Vec::<String>::new(), "nothing was written after that");
    let lease = desk.get("Lease", LEASE).await.expect("there");
    assert_eq!(lease["spec"]["holderIdentity"], "graylane-thief", "it is not let go: it is not ours");
}

#[tokio::test(start_paused = true)]
async fn production_has_a_lease_for_each_service_while_it_is_written() {
    let desk = Desk::new().await;
    let spec = json!({ "images": { "spring-a": "a:2", "spring-c": "c:2" } });
    let plan = desk.plan("prod-deploy", &spec).await.expect("planned");
    desk.cluster.clear_requests();
    desk.carry_out("prod-deploy", &spec, &plan).await.expect("done");
    let leases = desk.cluster.requests().into_iter().filter(|request| request.path.contains("/leases"));
    let leases: Vec<(String, String)> = leases
        .map(|request| (request.method, request.path.rsplit('/').next().unwrap_or_default().to_owned()))
        .collect();
    let expected = [
        ("POST", "leases"),
        ("POST", "leases"),
        ("DELETE", "graylane-production-spring-cloud-a"),
        ("DELETE", "graylane-production-spring-cloud-c"),
    ];
    assert_eq!(leases, expected.map(|(method, name)| (method.to_owned(), name.to_owned())));
}

/// What is wrong with the line of one Graylane.
#[derive(Default)]
struct Line {
    /// From its first write of this Deployment on, it reaches nothing.
    until_it_writes: Option<&'static str>,
    away: bool,
    no_renewals: bool,
}

#[derive(Clone, Default)]
struct Cut(Arc<Mutex<Line>>);

impl Cut {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().expect("not poisoned")
    }

    fn is_cut(&self, asked: &Asked) -> bool {
        let mut line = self.line();
        if line.until_it_writes.is_some_and(|name| asked.writes() && asked.path.ends_with(name)) {
            *line = Line { away: true, ..Line::default() };
        }
        line.away || line.no_renewals && asked.is_of_lease() && asked.method == "PUT"
    }

    async fn until_away(&self) {
        for _ in 0..10_000 {
            if self.line().away {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never wrote that");
    }
}

async fn steal(desk: &Desk, name: &str) {
    let change = json!([{ "op": "replace", "path": "/spec/holderIdentity", "value": "graylane-thief" }]);
    desk.edit("Lease", name, change).await;
}

/// A partition in mid-apply, for longer than a lease lasts: the write that is tried again must not land when the network
/// is back before it is known whose the lane is now. That it does land where the lease is still its own is the control.
#[tokio::test(start_paused = true)]
async fn a_write_that_is_tried_again_after_an_outage_asks_for_the_lease_anew() {
    const WRITTEN: &str = "/deployments/spring-cloud-a-mse-gray";
    for stolen in [true, false] {
        let desk = Desk::new().await;
        let spec = lane();
        let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
        let cut = Cut(Arc::new(Mutex::new(Line { until_it_writes: Some(WRITTEN), ..Line::default() })));
        let (one, context) = (cut.clone(), desk.context(&spec));
        let task = over_a_line(&desk, DEPLOY, move |asked| one.is_cut(asked));
        let outage = async {
            cut.until_away().await;
            tokio::time::sleep(Duration::from_secs(65)).await;
            if stolen {
                steal(&desk, LEASE).await;
            }
            desk.cluster.clear_requests();
            // The network is back; that the lease is somebody else's is seen a little later.
            *cut.line() = Line { no_renewals: true, ..Line::default() };
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(
                desk.wrote(),
                Vec::<String>::new(),
                "stolen: {stolen}: before it knows whose the lane is"
            );
            *cut.line() = Line::default();
        };
        let (done, ()) = tokio::join!(task.run(&context, &plan), outage);
        if stolen {
            let error = done.expect_err("lost");
            assert_eq!(error.kind, ErrorKind::Hold, "{error:?}");
            assert!(error.message.starts_with("its lease was lost: lane `gray` is held by graylane-thief"));
            assert_eq!(desk.wrote(), Vec::<String>::new(), "nothing is written after the theft");
        } else {
            done.unwrap_or_else(|error| panic!("{}", shown(&error)));
            let wrote = desk.wrote();
            assert!(wrote.iter().any(|request| request.ends_with(WRITTEN)), "{wrote:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_fresh_lease_hears_a_cancel() {
    let desk = Desk::new().await;
    let spec = lane();
    let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
    let written = Some("/deployments/spring-cloud-a-mse-gray");
    let cut = Cut(Arc::new(Mutex::new(Line { until_it_writes: written, ..Line::default() })));
    let (one, context) = (cut.clone(), desk.context(&spec));
    let task = over_a_line(&desk, DEPLOY, move |asked| one.is_cut(asked));
    let cancelled = async {
        cut.until_away().await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        *cut.line() = Line { no_renewals: true, ..Line::default() };
        tokio::time::sleep(Duration::from_secs(5)).await;
        desk.cluster.clear_requests();
        context.cancel.cancel();
        Instant::now()
    };
    let (done, since) = tokio::join!(task.run(&context, &plan), cancelled);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let error = done.expect_err("stopped");
    assert_eq!(error.kind, ErrorKind::Transient, "{error:?}");
    assert!(error.message.starts_with("stopped while its lease was not fresh"), "{error:?}");
    assert_eq!(desk.wrote(), Vec::<String>::new());
}

/// Somebody else's lease is watched for as long as it lasts: what is held already must not run out meanwhile.
#[tokio::test(start_paused = true)]
async fn leases_that_are_held_are_renewed_while_another_one_is_waited_for() {
    const FIRST: &str = "graylane-production-spring-cloud-a";
    const SECOND: &str = "graylane-production-spring-cloud-c";
    for stolen in [false, true] {
        let desk = Desk::new().await;
        let spec = json!({ "images": { "spring-a": "a:2", "spring-c": "c:2" } });
        let plan = desk.plan("prod-deploy", &spec).await.expect("planned");
        lease_of(&desk, SECOND, "graylane-0123456789ab", (3600, 120)).await;
        desk.cluster.clear_requests();
        let meanwhile = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            let held = desk.get("Lease", FIRST).await.expect("held");
            let at = |field: &str| held["spec"][field].as_str().expect("a time").to_owned();
            assert!(at("renewTime") > at("acquireTime"), "{held}");
            let second = desk.get("Lease", SECOND).await.expect("there");
            assert_eq!(second["spec"]["holderIdentity"], "graylane-0123456789ab", "it is watched still");
            if stolen {
                steal(&desk, FIRST).await;
            }
        };
        let (done, ()) = tokio::join!(desk.carry_out("prod-deploy", &spec, &plan), meanwhile);
        if stolen {
            let error = done.expect_err("lost");
            let words = "its lease was lost: production `spring-a` is held by graylane-thief";
            assert!(error.message.starts_with(words), "{error:?}");
            assert_eq!(desk.wrote(), Vec::<String>::new());
        } else {
            done.unwrap_or_else(|error| panic!("{}", shown(&error)));
            assert!(desk.get("Lease", FIRST).await.is_none() && desk.get("Lease", SECOND).await.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_production_service_that_another_graylane_writes_is_refused_and_the_other_one_is_named() {
    let desk = Desk::new().await;
    let spec = json!({ "images": { "spring-a": "a:2", "spring-c": "c:2" } });
    let plan = desk.plan("prod-deploy", &spec).await.expect("planned");
    lease_of(&desk, "graylane-production-spring-cloud-c", "graylane-0123456789ab", (4, 30)).await;
    let error = desk.carry_out("prod-deploy", &spec, &plan).await.expect_err("refused");
    let told = shown(&error);
    for words in [
        "production `spring-c` is held by graylane-0123456789ab on build-7 for its run 01J0000000000000000000000A of release, since 2026-01-02T03:04:",
        "`kubectl get lease graylane-production-spring-cloud-c -n mse-customer -o yaml`",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(desk.wrote(), Vec::<String>::new(), "not even the service that is free");
    assert!(desk.get("Lease", "graylane-production-spring-cloud-a").await.is_none(), "that one is let go");
}

/// What is written outside of runs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    Renew,
    Fix,
    Adopt,
}

impl Deed {
    const ALL: [Deed; 3] = [Deed::Renew, Deed::Fix, Deed::Adopt];

    /// The lease that it takes.
    fn lease(self) -> &'static str {
        match self {
            Deed::Renew => LEASE,
            Deed::Fix | Deed::Adopt => "graylane-production-spring-cloud-a",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Deed::Renew => "lane `gray`",
            Deed::Fix | Deed::Adopt => "production `spring-a`",
        }
    }

    /// A cluster on which there is something to do.
    async fn desk(self) -> Desk {
        let home = Home::new();
        match self {
            Deed::Renew => {
                home.edit(
                    "config/environments/production.yaml",
                    "services: ../services\n",
                    "services: ../services\nttl: 8h\n",
                );
                let desk = Desk::with(home).await;
                desk.run(DEPLOY, &lane()).await;
                desk
            }
            // An Ingress of the example lets a client's own mark through.
            Deed::Fix => Desk::with(home).await,
            Deed::Adopt => {
                label(&home, false);
                let desk = Desk::with(home).await;
                label(&desk.home, true);
                desk
            }
        }
    }

    /// Does it, or its next step; whether it is done.
    async fn once(self, desk: &Desk) -> Result<bool, TaskError> {
        match self {
            Deed::Renew => desk.renew("gray", "3d").await.map(|_| true),
            Deed::Fix => desk.fix().await.map(|found| {
                let mended = found.findings.iter().filter(|finding| finding.fixed).count();
                assert_eq!(mended, 1, "{found:#?}");
                true
            }),
            Deed::Adopt => desk.adopt("spring-a").await.map(|stepped| stepped.done),
        }
    }

    async fn to_its_end(self, desk: &Desk) -> Result<(), TaskError> {
        for _ in 0..500 {
            if self.once(desk).await? {
                return Ok(());
            }
        }
        panic!("{self:?} comes to no end");
    }
}

/// Every request that changed something, leases too.
fn all_writes(desk: &Desk) -> Vec<String> {
    let requests = desk.cluster.requests().into_iter();
    let written = requests.filter(|request| !request.dry_run && !request.path.contains("reviews"));
    written
        .map(|request| {
            let last = request.path.rsplit('/').next().unwrap_or_default().to_owned();
            format!("{} {last}", request.method)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_deed_takes_the_lease_of_what_it_writes_and_refuses_while_another_graylane_has_it() {
    for deed in Deed::ALL {
        let desk = deed.desk().await;
        lease_of(&desk, deed.lease(), "graylane-0123456789ab", (4, 30)).await;
        let held = desk.get("Lease", deed.lease()).await;
        desk.cluster.clear_requests();
        let error = deed.once(&desk).await.expect_err("refused");
        assert_eq!(error.kind, ErrorKind::Transient, "it may pass: {error:?}");
        let told = shown(&error);
        for words in [
            &format!(
                "{} is held by graylane-0123456789ab on build-7 for its run 01J0000000000000000000000A of release, since 2026-",
                deed.what()
            ),
            "hint: wait until that has ended, or let one Graylane alone write here;",
            &format!("`kubectl get lease {} -n mse-customer -o yaml` shows it", deed.lease()),
            "one that nobody renews is taken over after 30s",
        ] {
            assert!(told.contains(words), "{deed:?}: {words}: {told}");
        }
        assert_eq!(desk.wrote(), Vec::<String>::new(), "{deed:?}");
        assert_eq!(
            desk.get("Lease", deed.lease()).await,
            held,
            "{deed:?}: the other one's lease is as it was"
        );

        // The control: without that lease the same deed is done, under a lease of its own.
        desk.delete("Lease", deed.lease()).await;
        desk.cluster.clear_requests();
        deed.to_its_end(&desk).await.unwrap_or_else(|error| panic!("{deed:?}: {}", shown(&error)));
        assert!(!desk.wrote().is_empty(), "{deed:?}");
        let writes = all_writes(&desk);
        let last = format!("DELETE {}", deed.lease());
        assert_eq!(writes.first().map(String::as_str), Some("POST leases"), "{deed:?}: {writes:?}");
        assert_eq!(writes.last(), Some(&last), "{deed:?}: it is given back: {writes:?}");
        assert!(desk.get("Lease", deed.lease()).await.is_none(), "{deed:?}");
    }
}

/// What a killed Graylane held runs out, and is watched for as long; its own store has it back at once.
#[tokio::test(start_paused = true)]
async fn a_deed_takes_over_what_nobody_renews_and_its_own_at_once() {
    for deed in Deed::ALL {
        for (holder, at_least) in [("graylane-0123456789ab".to_owned(), 30), (key().holder(), 0)] {
            let desk = deed.desk().await;
            lease_of(&desk, deed.lease(), &holder, (3600, 30)).await;
            let began = Instant::now();
            deed.once(&desk).await.unwrap_or_else(|error| panic!("{deed:?}: {}", shown(&error)));
            let took = began.elapsed().as_secs();
            assert!((at_least..at_least + 20).contains(&took), "{deed:?} of {holder}: {took} s");
            assert!(!desk.wrote().is_empty(), "{deed:?}");
        }
    }
}

/// Between two steps of an adoption nobody else gets in between, and others read what is going on.
#[tokio::test(start_paused = true)]
async fn an_adoption_keeps_its_lease_from_step_to_step() {
    let desk = Deed::Adopt.desk().await;
    let name = Deed::Adopt.lease();
    assert!(!desk.adopt("spring-a").await.expect("a step").done);
    let lease = desk.get("Lease", name).await.expect("left to the next step");
    assert_eq!(lease["spec"]["holderIdentity"], key().holder().as_str());
    let marks = &lease["metadata"]["annotations"];
    assert_eq!(marks["graylane.dev/deed"], "graylane environment adopt", "{marks}");
    assert!(marks.get("graylane.dev/run").is_none(), "{marks}");
    let stranger = desk.stranger();
    desk.cluster.clear_requests();
    let refused = desk.adopt_with(&stranger, "spring-a").await.expect_err("refused");
    let words = format!("production `spring-a` is held by {}", key().holder());
    assert!(refused.message.starts_with(&words), "{refused:?}");
    assert!(refused.message.contains(" for `graylane environment adopt`, since "), "{refused:?}");
    assert_eq!(desk.wrote(), Vec::<String>::new());
    // Whoever began it is gone: after its time another one goes on from there, and gives it back at the end.
    tokio::time::advance(Duration::from_secs(31)).await;
    for _ in 0..500 {
        if desk
            .adopt_with(&stranger, "spring-a")
            .await
            .unwrap_or_else(|error| panic!("{}", shown(&error)))
            .done
        {
            break;
        }
    }
    assert!(desk.get("Lease", name).await.is_none());
    let live = desk.get("Deployment", "spring-cloud-a").await.expect("there");
    assert_eq!(live["spec"]["selector"]["matchLabels"]["zadigx-release-version"], "original");
}

/// Of one data folder too: a deed does not write into what a run writes, and a run waits for a deed.
#[tokio::test(start_paused = true)]
async fn runs_and_deeds_of_one_store_take_turns() {
    let desk = Deed::Renew.desk().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:slow5" } });
    let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        desk.renew("gray", "3d").await
    };
    let (done, refused) = tokio::join!(desk.carry_out(DEPLOY, &spec, &plan), meanwhile);
    done.expect("done");
    let told = shown(&refused.expect_err("refused"));
    assert!(told.starts_with("lane `gray` is being written by this Graylane, for its run 0"), "{told}");
    assert!(told.contains(" of release\nhint: let that end first"), "{told}");
    // The control: afterwards it is done.
    desk.renew("gray", "3d").await.expect("renewed");

    let desk = Deed::Adopt.desk().await;
    let spec = json!({ "images": { "spring-a": "a:2" } });
    let empty = Plan::default();
    let verdicts = tokio::join!(desk.adopt("spring-a"), desk.carry_out("prod-deploy", &spec, &empty));
    assert!(verdicts.0.is_ok(), "{verdicts:?}");
    let other = verdicts.1.expect_err("an empty plan");
    assert!(!other.message.contains("is being written"), "it waited: {other:?}");
}

/// A sweep holds the lease of every lane that it takes down, and takes none down while it cannot have one.
#[tokio::test(start_paused = true)]
async fn a_sweep_of_expired_lanes_takes_a_lease_a_lane() {
    let desk = Deed::Renew.desk().await;
    desk.run(DEPLOY, &json!({ "tag": "blue", "images": { "spring-c": "c:2" } })).await;
    tokio::time::advance(Duration::from_secs(9 * 3600)).await;
    let sweep = json!({ "expired": true, "drain": "1s" });
    let plan = desk.plan("mse-gray-offline", &sweep).await.expect("planned");
    leased(&desk, "graylane-0123456789ab", 4).await;
    desk.cluster.clear_requests();
    let refused = desk.carry_out("mse-gray-offline", &sweep, &plan).await.expect_err("refused");
    assert!(refused.message.starts_with("lane `gray` is held by graylane-0123456789ab"), "{refused:?}");
    assert_eq!(desk.wrote(), Vec::<String>::new());
    assert!(desk.get("Lease", "graylane-lane-blue").await.is_none(), "what was taken is given back");
    desk.delete("Lease", LEASE).await;
    let outputs = desk.carry_out("mse-gray-offline", &sweep, &plan).await.expect("done");
    assert_eq!(outputs.values["lanes"], json!(["blue", "gray"]));
}

/// A right that a deed misses: the verb, the resource and the rule to add.
#[tokio::test(start_paused = true)]
async fn a_right_that_a_deed_misses_is_named_with_the_rule_to_add() {
    let table = [
        (Deed::Renew, "create", "leases.coordination.k8s.io"),
        (Deed::Renew, "list", "deployments.apps"),
        (Deed::Renew, "patch", "deployments.apps"),
        (Deed::Fix, "create", "leases.coordination.k8s.io"),
        (Deed::Adopt, "create", "leases.coordination.k8s.io"),
        (Deed::Adopt, "delete", "replicasets.apps"),
        (Deed::Adopt, "patch", "services"),
        (Deed::Adopt, "create", "deployments.apps"),
        (Deed::Adopt, "delete", "leases.coordination.k8s.io"),
    ];
    for (deed, verb, resource) in table {
        let desk = deed.desk().await;
        desk.cluster.clear_requests();
        desk.cluster.forbid(verb, resource);
        let told = shown(&deed.once(&desk).await.expect_err("refused"));
        let short = resource.split('.').next().unwrap_or_default();
        let rule = format!("resources: [\"{short}\"], verbs: [");
        for words in [verb, short, "add this rule to ", &rule] {
            assert!(told.contains(words), "{deed:?}, {verb} {resource}: {words}: {told}");
        }
        let taken = |request: &LoggedRequest| request.code < 400 && !request.dry_run;
        let written = desk.cluster.requests().into_iter().filter(taken);
        let written: Vec<String> = written
            .map(|request| request.path)
            .filter(|path| !path.contains("/leases") && !path.contains("reviews"))
            .collect();
        assert_eq!(written, Vec::<String>::new(), "{deed:?}, {verb} {resource}: before the first write");
        desk.cluster.allow_all();
        deed.to_its_end(&desk).await.expect("with it, it is done");
    }
    // What a fix cannot mend stays a finding, with the same words.
    let desk = Deed::Fix.desk().await;
    desk.cluster.forbid("patch", "ingresses.networking.k8s.io");
    let found = desk.fix().await.expect("looked at");
    let header = found.findings.iter().find(|finding| finding.check == "tag-header").expect("there");
    let hint = header.hint.as_deref().unwrap_or_default();
    assert_eq!((header.fixed, header.level), (false, Level::Warning));
    for words in
        ["it could not be mended: ", "cannot patch resource", "resources: [\"ingresses\"], verbs: [patch]"]
    {
        assert!(hint.contains(words), "{words}: {hint}");
    }
}

const WORKFLOW: &str = r#"name: lane
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 1m
    with: { environment: real, tag: gray, images: { spring-b: "${{ inputs.image }}" } }
"#;

const PRODUCTION: &str = r#"name: production
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  promote:
    type: prod-deploy
    timeout: 1m
    with: { environment: real, images: { spring-b: "${{ inputs.image }}" } }
"#;

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", WORKFLOW);
    home.write("workflows/production.yaml", PRODUCTION);
    home.real(kubeconfig, namespace, "allow: { workflows: [lane, production] }\nttl: 8h");
    home
}

fn kind(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
}

/// A lease of a Graylane elsewhere, as it stands on a cluster while that one writes.
pub(crate) fn lease_of_another(name: &str) -> DynamicObject {
    let now = graylane_engine::clock::WallClock::default().now().to_string();
    let (seconds, _) = now.split_once('.').expect("a time with its milliseconds");
    let at = format!("{seconds}.000000Z");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
        "spec": { "holderIdentity": "graylane-elsewhere", "leaseDurationSeconds": 30, "acquireTime": at, "renewTime": at },
    });
    serde_json::from_value(lease).expect("a lease")
}

/// Two data folders, one cluster, one tag: the second is told who writes, and gets its turn afterwards.
async fn two_stores(kubeconfig: &Path, namespace: &str) {
    let kube = client(kubeconfig).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(kube.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let (one, other) = (home(kubeconfig, namespace), home(kubeconfig, namespace));
    let file = one.path("config/services/spring-b.yaml");
    graylane_tasks::cluster::create_all(&kube, namespace, &file).await.expect("created");
    let leases = kind("coordination.k8s.io", "Lease", "leases");
    let leases: Api<DynamicObject> = Api::namespaced_with(kube.clone(), namespace, &leases);
    let deployments = kind("apps", "Deployment", "deployments");
    let deployments: Api<DynamicObject> = Api::namespaced_with(kube.clone(), namespace, &deployments);
    let slow = ["run", "workflows/lane.yaml", "-i", "image=spring-cloud-b:neverready"];
    let begin = || one.command(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let held = async |written: bool| {
        for _ in 0..600 {
            let found = leases.get_opt(LEASE).await.expect("answered");
            let there = deployments.get_opt("spring-cloud-b-mse-gray").await.expect("answered");
            if let Some(found) = found.filter(|_| there.is_some() || !written) {
                return found.data["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the first one takes its lease");
    };
    let renew = |home: &Home| home.graylane(&["lanes", "renew", "gray", "-e", "real", "--for", "3d"]);

    let mut first = begin();
    let words = format!("lane `gray` is held by {}", held(true).await);
    let refused = other.graylane(&["run", "workflows/lane.yaml"]).expect(1);
    assert!(refused.stdout.contains(&words), "{}", refused.stdout);
    assert!(refused.stdout.contains("hint: wait until that has ended"), "{}", refused.stdout);
    let refused = renew(&other);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains(&words) && refused.stderr.contains(" of lane, since "), "{refused:?}");
    assert!(refused.stderr.contains("hint: wait until that has ended"), "{refused:?}");
    one.graylane(&["cancel", "latest"]).expect(0);
    first.wait().expect("ended");
    let left = async || leases.list(&ListParams::default()).await.expect("listed").items;
    assert!(left().await.is_empty(), "let go: {:?}", left().await);
    // The control: as soon as nobody holds it, the same deed is done.
    let renewed = renew(&other).expect(0).stdout;
    assert!(renewed.starts_with("lane gray lives until "), "{renewed}");
    other.graylane(&["run", "workflows/lane.yaml"]).expect(0);
    assert!(left().await.is_empty(), "{:?}", left().await);

    // The same of a production service.
    let slow = ["run", "workflows/production.yaml", "-i", "image=spring-cloud-b:neverready"];
    let mut first = one.command(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    for _ in 0..600 {
        if !left().await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = other.graylane(&["run", "workflows/production.yaml"]).expect(1).stdout;
    assert!(refused.contains("production `spring-b` is held by graylane-"), "{refused}");
    one.graylane(&["cancel", "latest"]).expect(0);
    first.wait().expect("ended");
    assert!(left().await.is_empty(), "let go: {:?}", left().await);
    other.graylane(&["run", "workflows/production.yaml"]).expect(0);

    // What `kill -9` leaves behind stands there until its time is over; its own store has it back at once.
    let mut killed = begin();
    held(false).await;
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    assert_eq!(left().await.len(), 1);
    renew(&one).expect(0);
    assert!(left().await.is_empty(), "{:?}", left().await);

    let file = one.path("config/services/spring-a.yaml");
    graylane_tasks::cluster::create_all(&kube, namespace, &file).await.expect("created");
    let services: Api<DynamicObject> =
        Api::namespaced_with(kube.clone(), namespace, &kind("", "Service", "services"));
    let unmarked = json!([{ "op": "remove", "path": "/spec/selector/zadigx-release-version" }]);
    let unmarked: Patch<Value> = Patch::Json(serde_json::from_value(unmarked).expect("a patch"));
    services.patch("spring-cloud-a-base", &PatchParams::default(), &unmarked).await.expect("patched");
    let fix = || other.graylane(&["environment", "check", "real", "--fix"]);
    let production = "graylane-production-spring-cloud-a";
    leases.create(&PostParams::default(), &lease_of_another(production)).await.expect("created");
    let refused = fix();
    let words = "production `spring-a` is held by graylane-elsewhere, since ";
    assert!(refused.code != 0 && refused.stderr.contains(words), "{refused:?}");
    assert!(!refused.stdout.contains("mended"), "{refused:?}");
    leases.delete(production, &DeleteParams::default()).await.expect("deleted");
    // Other things are not as they should be here, and no gateway answers.
    let fixed = fix().expect(1).stdout;
    assert!(fixed.contains("mended  service-selector"), "{fixed}");
    assert!(left().await.is_empty(), "{:?}", left().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_cluster_do_not_fight() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    two_stores(&rehearsal.kubeconfig, "leases").await;
    tally::told("stories of two stores", 1, 0);
    let Some(kubeconfig) = real() else { return };
    two_stores(&kubeconfig, &format!("leases-{}", std::process::id())).await;
    tally::told("stories of two stores", 0, 1);
}
