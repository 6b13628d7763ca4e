//! Two Graylanes over one cluster: a lease a lane and a production service, held while it is written.
//!
//! At a desk with paused time for the rules; as programs, on the rehearsal and on a real API server, for the story.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use graylane_engine::task::ErrorKind;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::desk::{Desk, NAMESPACE, key, shown};
use crate::support::line::{Asked, over_a_line};
use crate::support::{Home, client, say, until};

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
        "hint: wait until that run has ended",
        "`kubectl get lease graylane-lane-gray -n mse-customer -o yaml`",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(desk.wrote(), Vec::<String>::new());
    let control = desk.carry_out_bare(&desk.bare_deploy(), &lane(), &plan).await;
    assert!(control.is_ok() && !desk.wrote().is_empty(), "without the leases nobody would have refused it");
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

const WORKFLOW: &str = r#"name: lane
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 6s
    with: { environment: real, tag: gray, images: { spring-b: "${{ inputs.image }}" } }
"#;

const PRODUCTION: &str = r#"name: production
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  promote:
    type: prod-deploy
    timeout: 6s
    with: { environment: real, images: { spring-b: "${{ inputs.image }}" } }
"#;

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", WORKFLOW);
    home.write("workflows/production.yaml", PRODUCTION);
    home.real(kubeconfig, namespace, "allow: { workflows: [lane, production] }");
    home
}

/// Two data folders, one cluster, one tag or one service: the second is told who writes, and gets its turn afterwards.
async fn two_stores(kubeconfig: &Path, namespace: &str) {
    let kube = client(kubeconfig).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(kube.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let (one, other) = (home(kubeconfig, namespace), home(kubeconfig, namespace));
    let file = one.path("config/services/spring-b.yaml");
    graylane_tasks::cluster::create_all(&kube, namespace, &file).await.expect("created");
    let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "leases");
    let leases: Api<DynamicObject> = Api::namespaced_with(kube.clone(), namespace, &resource);
    for (workflow, lease, what) in [
        ("workflows/lane.yaml", LEASE, "lane `gray`"),
        ("workflows/production.yaml", "graylane-production-spring-cloud-b", "production `spring-b`"),
    ] {
        let slow = ["run", workflow, "-i", "image=spring-cloud-b:neverready"];
        let mut first =
            one.command(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let mut held = None;
        for _ in 0..600 {
            held = leases.get_opt(lease).await.expect("answered");
            if held.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let held = held.unwrap_or_else(|| panic!("the first one takes {lease}"));
        let holder = held.data["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
        let refused = other.graylane(&["run", workflow]).expect(1);
        assert!(refused.stdout.contains(&format!("{what} is held by {holder}")), "{}", refused.stdout);
        assert!(refused.stdout.contains("hint: wait until that run has ended"), "{}", refused.stdout);
        // It gives up by its own timeout.
        first.wait().expect("ended");
        let left = leases.list(&ListParams::default()).await.expect("listed").items;
        assert!(left.is_empty(), "let go: {left:?}");
        other.graylane(&["run", workflow]).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_on_one_cluster_do_not_fight() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    two_stores(&rehearsal.kubeconfig, "leases").await;
    let Some(kubeconfig) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) else {
        say("two stores: on the rehearsal, not on a real API server (GRAYLANE_TEST_KUBECONFIG is not set)");
        return;
    };
    two_stores(&kubeconfig, &format!("leases-{}", std::process::id())).await;
    say("two stores: on the rehearsal and on a real API server");
}
