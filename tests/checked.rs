//! A check beside other Graylanes: the lease it holds for what it writes, the rights it needs, and how long it waits.
//!
//! At a desk with paused time. What checks judge is in `checks.rs` and `guards.rs`.

use std::time::Duration;

use graylane_engine::task::ErrorKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::desk::{Desk, shown};

const VERIFY: &str = "generic-verify";
const LEASE: &str = "graylane-lane-gray";

fn stays_up(span: &str) -> Value {
    json!({ "tag": "gray", "checks": [{ "name": "up", "rollout": { "for": span } }] })
}

async fn with_a_lane() -> Desk {
    let desk = Desk::new().await;
    desk.run("mse-gray-deploy", &json!({ "tag": "gray", "images": { "spring-a": "a:2" } })).await;
    desk.cluster.clear_requests();
    desk
}

fn leases(desk: &Desk) -> Vec<String> {
    let requests = desk.cluster.requests().into_iter().filter(|request| request.path.contains("/leases"));
    requests.map(|request| request.method).collect()
}

async fn marked(desk: &Desk) -> bool {
    let copy = desk.get("Deployment", "spring-cloud-a-mse-gray").await.expect("there");
    copy["metadata"]["annotations"].get("graylane.dev/verified").is_some()
}

async fn lease_of_another(desk: &Desk) {
    let at = desk.now().to_string().replace("Z", "000Z");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": LEASE, "namespace": "mse-customer" },
        "spec": { "holderIdentity": "graylane-0123456789ab", "leaseDurationSeconds": 30, "renewTime": at },
    });
    desk.create(&lease, "graylane").await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_another_graylane_writes_is_not_verified_meanwhile() {
    let desk = with_a_lane().await;
    let spec = stays_up("5s");
    let plan = desk.plan(VERIFY, &spec).await.expect("planned");
    lease_of_another(&desk).await;
    desk.cluster.clear_requests();
    let error = desk.carry_out(VERIFY, &spec, &plan).await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.starts_with("lane `gray` is held by graylane-0123456789ab"), "{error:?}");
    assert_eq!(desk.wrote(), Vec::<String>::new());
    desk.delete("Lease", LEASE).await;
    desk.cluster.clear_requests();
    desk.carry_out(VERIFY, &spec, &plan).await.expect("the control: nobody is in the way");
    assert_eq!(leases(&desk), ["POST", "DELETE"]);
    assert!(marked(&desk).await);
}

#[tokio::test(start_paused = true)]
async fn a_check_whose_lease_is_lost_leaves_no_mark() {
    let desk = with_a_lane().await;
    let spec = stays_up("60s");
    let plan = desk.plan(VERIFY, &spec).await.expect("planned");
    let steal = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let change = json!([{ "op": "replace", "path": "/spec/holderIdentity", "value": "graylane-thief" }]);
        desk.edit("Lease", LEASE, change).await;
    };
    let (done, ()) = tokio::join!(desk.carry_out(VERIFY, &spec, &plan), steal);
    let error = done.expect_err("lost");
    assert_eq!(error.kind, ErrorKind::Hold, "{error:?}");
    assert!(
        error.message.starts_with("its lease was lost: lane `gray` is held by graylane-thief"),
        "{error:?}"
    );
    assert!(!marked(&desk).await);
}

/// Two runs may verify one lane at once, and a run may verify beside its own other tasks: the lease goes with the last.
#[tokio::test(start_paused = true)]
async fn checks_of_one_lane_at_once_share_its_lease_and_the_last_lets_it_go() {
    let desk = with_a_lane().await;
    let (short, long) = (stays_up("15s"), stays_up("60s"));
    let plans =
        (desk.plan(VERIFY, &short).await.expect("planned"), desk.plan(VERIFY, &long).await.expect("planned"));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(desk.get("Lease", LEASE).await.is_some(), "the longer one still holds it");
    };
    let (one, other, ()) = tokio::join!(
        desk.carry_out(VERIFY, &short, &plans.0),
        desk.carry_out(VERIFY, &long, &plans.1),
        meanwhile
    );
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert!(desk.get("Lease", LEASE).await.is_none());
}

/// Where there is no lane there is nothing to mark: production is looked at, whoever holds what.
#[tokio::test(start_paused = true)]
async fn checks_of_production_alone_write_nothing_and_hold_nothing() {
    let desk = Desk::new().await;
    lease_of_another(&desk).await;
    for (verb, resource) in
        [("*", "leases.coordination.k8s.io"), ("patch", "deployments.apps"), ("create", "jobs.batch")]
    {
        desk.cluster.forbid(verb, resource);
    }
    let spec =
        json!({ "tag": "gray", "checks": [{ "name": "asked", "http": { "path": "/a", "as": "baseline" } }] });
    let plan = desk.plan(VERIFY, &spec).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    desk.cluster.clear_requests();
    let error = desk.carry_out(VERIFY, &spec, &plan).await.expect_err("nobody answers there");
    assert!(error.message.starts_with("check failed: asked"), "{error:?}");
    assert_eq!((desk.wrote(), leases(&desk)), (Vec::new(), Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_right_that_only_the_end_of_a_check_would_miss_is_missed_by_its_plan() {
    let job = json!({ "tag": "gray", "checks": [{ "name": "asked", "job": { "image": "busybox:1" } }] });
    let rows = [
        (
            "delete",
            "jobs.batch",
            &job,
            "refused: this identity may not delete jobs in mse-customer: needed for `job` checks",
        ),
        (
            "patch",
            "deployments.apps",
            &stays_up("5s"),
            "refused: this identity may not patch deployments in mse-customer",
        ),
        (
            "update",
            "leases.coordination.k8s.io",
            &stays_up("5s"),
            "refused: this identity may not update leases in mse-customer",
        ),
    ];
    for (verb, resource, spec, words) in rows {
        let home = crate::support::Home::new();
        home.edit(
            "config/environments/production.yaml",
            "gateway:",
            "checks: { images: [busybox] }\ngateway:",
        );
        let desk = Desk::with(home).await;
        desk.run("mse-gray-deploy", &json!({ "tag": "gray", "images": { "spring-a": "a:2" } })).await;
        desk.plan(VERIFY, spec).await.unwrap_or_else(|error| panic!("{}", shown(&error)));
        desk.cluster.forbid(verb, resource);
        let error = desk.refused(VERIFY, spec).await;
        assert!(error.message.starts_with(words), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_minute_is_waited_out_by_a_check_too() {
    let desk = with_a_lane().await;
    let spec = stays_up("20s");
    let plan = desk.plan(VERIFY, &spec).await.expect("planned");
    let outage = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        desk.cluster.set_outage(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        desk.cluster.set_outage(false);
    };
    let began = Instant::now();
    let (done, ()) = tokio::join!(desk.carry_out(VERIFY, &spec, &plan), outage);
    done.unwrap_or_else(|error| panic!("{}", shown(&error)));
    assert!((60..100).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let said = desk.said();
    assert!(said.iter().any(|line| line.contains("waiting for it, up to 150 s")), "{said:#?}");
    assert!(marked(&desk).await);
}
