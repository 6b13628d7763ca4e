//! Two Graylanes over one cluster: a lease a lane and a production service, held while it is written.
//!
//! At a desk with paused time for the rules; as programs, on the rehearsal and on a real API server, for the story.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use graylane_engine::task::ErrorKind;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::desk::{Desk, NAMESPACE, key, shown};
use crate::support::stage::real;
use crate::support::{Home, client, tally, until};

const DEPLOY: &str = "mse-gray-deploy";
const LEASE: &str = "graylane-lane-gray";

fn lane() -> Value {
    json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" } })
}

/// A lease of somebody, last renewed so many seconds before the desk's clock.
async fn leased(desk: &Desk, holder: &str, renewed: u64) {
    let renewed = desk.now().millis() / 1000 - renewed;
    let at = graylane_engine::clock::Timestamp::from_millis(renewed * 1000).to_string();
    let at = at.replace(".000Z", ".000000Z");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": LEASE, "namespace": NAMESPACE, "annotations": {
            "graylane.dev/run": "01J0000000000000000000000A", "graylane.dev/workflow": "release", "graylane.dev/host": "build-7",
        } },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 30, "acquireTime": at, "renewTime": at, "leaseTransitions": 0 },
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

const WORKFLOW: &str = r#"name: lane
inputs:
  image: { type: string, default: "spring-cloud-b:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 6s
    with: { environment: real, tag: gray, images: { spring-b: "${{ inputs.image }}" } }
"#;

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", WORKFLOW);
    home.real(kubeconfig, namespace, "allow: { workflows: [lane] }");
    home
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
    let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "leases");
    let leases: Api<DynamicObject> = Api::namespaced_with(kube.clone(), namespace, &resource);
    let slow = ["run", "workflows/lane.yaml", "-i", "image=spring-cloud-b:neverready"];
    let mut first = one.command(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let mut held = None;
    for _ in 0..600 {
        held = leases.get_opt(LEASE).await.expect("answered");
        if held.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = held.expect("the first one takes its lease");
    let holder = held.data["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
    let refused = other.graylane(&["run", "workflows/lane.yaml"]).expect(1);
    assert!(refused.stdout.contains(&format!("lane `gray` is held by {holder}")), "{}", refused.stdout);
    assert!(refused.stdout.contains("hint: wait until that run has ended"), "{}", refused.stdout);
    // It gives up by its own timeout.
    first.wait().expect("ended");
    let left = leases.list(&ListParams::default()).await.expect("listed").items;
    assert!(left.is_empty(), "let go: {left:?}");
    other.graylane(&["run", "workflows/lane.yaml"]).expect(0);
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
