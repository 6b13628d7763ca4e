//! What a rollout hears of its cluster: watches that are shared, and lists that keep failing.
//!
//! At a desk with paused time. Outages as a whole are in `faults.rs`.

use std::time::Duration;

use graylane_engine::task::ErrorKind;
use serde_json::json;
use tokio::time::Instant;

use crate::support::desk::{Desk, shown};
use crate::support::line::over_a_line;

const DEPLOY: &str = "mse-gray-deploy";
const FOLLOWED: [&str; 3] = ["deployments.apps", "replicasets.apps", "pods"];

fn counted(desk: &Desk, verb: &str) -> [u64; 3] {
    FOLLOWED.map(|kind| desk.cluster.count(verb, kind))
}

/// A right that is taken away between the plan and the rollout: nobody sees a pod any more.
#[tokio::test(start_paused = true)]
async fn a_rollout_whose_pods_may_not_be_listed_is_given_up_and_says_why() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
    let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
    desk.cluster.clear_requests();
    desk.cluster.forbid("list", "pods");
    let began = Instant::now();
    let done = tokio::time::timeout(Duration::from_secs(60), desk.carry_out(DEPLOY, &spec, &plan)).await;
    let error = done.expect("it is given up").expect_err("blind");
    assert_eq!(error.kind, ErrorKind::Permanent, "{error:?}");
    assert!(error.message.contains("cannot list resource \"pods\""), "{error:?}");
    assert!(
        shown(&error).contains("left to look at: Deployment spring-cloud-a-mse-gray"),
        "{}",
        shown(&error)
    );
    assert!((5..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let tries = desk.cluster.count("list", "pods");
    assert!((3..12).contains(&tries), "with growing pauses: {tries}");
}

#[tokio::test(start_paused = true)]
async fn lists_that_fail_for_a_while_are_told_and_waited_for() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
    let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
    let began = Instant::now();
    let task = over_a_line(&desk, DEPLOY, move |asked| {
        asked.path.ends_with("/pods") && !asked.watches && began.elapsed() < Duration::from_secs(30)
    });
    let context = desk.context(&spec);
    let done = tokio::time::timeout(Duration::from_secs(120), task.run(&context, &plan)).await;
    done.expect("it goes on").unwrap_or_else(|error| panic!("{}", shown(&error)));
    let said = desk.said();
    let told = |words: &str| assert!(said.iter().any(|line| line.contains(words)), "{words}: {said:#?}");
    told("the rollout goes on without us, and is waited for, up to 10m");
    told("the API server answers again, after ");
}

#[tokio::test(start_paused = true)]
async fn two_deploys_at_once_share_one_watch_a_kind() {
    let desk = Desk::new().await;
    let of = |tag: &str| json!({ "tag": tag, "images": { "spring-a": "a:2", "spring-c": "c:2" } });
    let (gray, blue) = (of("gray"), of("blue"));
    let plans =
        (desk.plan(DEPLOY, &gray).await.expect("planned"), desk.plan(DEPLOY, &blue).await.expect("planned"));
    desk.cluster.clear_requests();
    let (one, other) =
        tokio::join!(desk.carry_out(DEPLOY, &gray, &plans.0), desk.carry_out(DEPLOY, &blue, &plans.1));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!(counted(&desk, "watch"), [1, 1, 1]);
    // The control: one after the other, each opens its own.
    desk.cluster.clear_requests();
    for (spec, plan) in [(&gray, &plans.0), (&blue, &plans.1)] {
        desk.carry_out(DEPLOY, spec, plan).await.expect("done");
    }
    assert_eq!(counted(&desk, "watch"), [2, 2, 2]);
}

/// Services go up one after the other: the watches of the first are still there for the last.
#[tokio::test(start_paused = true)]
async fn production_opens_one_watch_a_kind_for_all_its_services() {
    let desk = Desk::new().await;
    let spec = json!({ "images": { "spring-a": "a:2", "spring-b": "b:2", "spring-c": "c:2" } });
    let plan = desk.plan("prod-deploy", &spec).await.expect("planned");
    desk.cluster.clear_requests();
    desk.carry_out("prod-deploy", &spec, &plan).await.expect("done");
    assert_eq!((counted(&desk, "watch"), counted(&desk, "list")), ([1, 1, 1], [1, 1, 1]));
}
