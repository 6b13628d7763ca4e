//! What a lane's end costs and what it waits for: deletions are seen by shared watches, whatever becomes of the watches.
//!
//! At a desk with paused time: what lasts a minute takes none, and every call is counted.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::desk::{Desk, NAMESPACE};

const DEPLOY: &str = "mse-gray-deploy";
const OFFLINE: &str = "mse-gray-offline";
const SERVICE: &str = "spring-cloud-a-base-mse-gray";
const DEPLOYMENT: &str = "spring-cloud-c-mse-gray";

fn lane(tag: &str) -> Value {
    json!({ "tag": tag, "images": { "spring-a": "a:2", "spring-c": "c:2" } })
}

fn down(tag: &str) -> Value {
    json!({ "tag": tag, "drain": "1s" })
}

/// A controller of somebody else keeps an object until it is done with it.
async fn keep(desk: &Desk, kind: &str, name: &str) {
    let patch = json!([{ "op": "add", "path": "/metadata/finalizers", "value": ["example.com/cleans-up"] }]);
    desk.edit(kind, name, patch).await;
}

async fn let_go(desk: &Desk, kind: &str, name: &str) {
    desk.edit(kind, name, json!([{ "op": "remove", "path": "/metadata/finalizers" }])).await;
}

async fn lane_up(desk: &Desk) -> graylane_engine::task::Plan {
    desk.run(DEPLOY, &lane("gray")).await;
    desk.plan(OFFLINE, &down("gray")).await.expect("planned")
}

/// An object that somebody keeps for minutes costs no more than one that goes at once.
#[tokio::test(start_paused = true)]
async fn the_end_of_an_object_is_waited_for_by_watch_however_long_it_takes() {
    let mut asked = Vec::new();
    for minutes in [1, 20] {
        let desk = Desk::new().await;
        let plan = lane_up(&desk).await;
        keep(&desk, "Service", SERVICE).await;
        desk.cluster.clear_requests();
        let kept = Duration::from_secs(minutes * 60);
        let later = async {
            tokio::time::sleep(kept).await;
            assert!(desk.get("Service", SERVICE).await.is_some(), "it is there, and waited for");
            let_go(&desk, "Service", SERVICE).await;
            Instant::now()
        };
        let (done, gone) = tokio::join!(
            async {
                desk.carry_out(OFFLINE, &down("gray"), &plan).await.expect("done");
                Instant::now()
            },
            later
        );
        assert!(done >= gone && done - gone < Duration::from_millis(500), "seen at once: {:?}", done - gone);
        // One is this test's own look, one has the last word.
        assert_eq!(desk.cluster.count("get", "services"), 2);
        assert_eq!(desk.cluster.count("list", "services"), 1, "the watch's own");
        asked.push(desk.cluster.count("list", "pods"));
        desk.cluster.shutdown().await;
    }
    assert_eq!(asked[0], asked[1], "calls do not grow with the time");
}

/// A watch that fell behind lists anew, and one that the server ends begins again: the end is seen all the same.
#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_or_falls_behind_misses_no_end() {
    let desk = Desk::new().await;
    let plan = lane_up(&desk).await;
    keep(&desk, "Service", SERVICE).await;
    keep(&desk, "Deployment", DEPLOYMENT).await;
    let later = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        // Nothing can be seen while both go, and what happened meanwhile is in no history any more.
        desk.cluster.set_outage(true);
        tokio::time::sleep(Duration::from_secs(70)).await;
        desk.cluster.set_outage(false);
        let_go(&desk, "Service", SERVICE).await;
        desk.cluster.compact();
        tokio::time::sleep(Duration::from_secs(70)).await;
        let_go(&desk, "Deployment", DEPLOYMENT).await;
        desk.cluster.compact();
        Instant::now()
    };
    let (done, gone) = tokio::join!(
        async {
            let done = desk.carry_out(OFFLINE, &down("gray"), &plan).await;
            done.unwrap_or_else(|error| panic!("{error:?}"));
            Instant::now()
        },
        later
    );
    assert!(done - gone < Duration::from_secs(5), "{:?}", done - gone);
    assert_eq!(desk.lanes().await, []);
}

/// What somebody makes anew under the name is another object: it is neither waited for nor touched.
#[tokio::test(start_paused = true)]
async fn an_object_made_anew_under_the_same_name_is_left_alone() {
    let desk = Desk::new().await;
    let plan = lane_up(&desk).await;
    let old = desk.get("Service", SERVICE).await.expect("there");
    keep(&desk, "Service", SERVICE).await;
    let mut anew = old.clone();
    anew["metadata"] = json!({ "name": SERVICE, "labels": old["metadata"]["labels"] });
    anew["spec"] = json!({ "ports": [{ "port": 1, "protocol": "TCP" }], "selector": { "app": "another" } });
    let later = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let_go(&desk, "Service", SERVICE).await;
        desk.create(&anew, "somebody").await;
    };
    let spec = down("gray");
    let (done, ()) = tokio::join!(desk.carry_out(OFFLINE, &spec, &plan), later);
    done.unwrap_or_else(|error| panic!("{error:?}"));
    let live = desk.get("Service", SERVICE).await.expect("the other one stays");
    assert_ne!(live["metadata"]["uid"], old["metadata"]["uid"]);
    assert_eq!(live["spec"]["selector"], json!({ "app": "another" }));
}

/// Several tasks in one namespace at once share one watch a kind, in their beginning and in their end.
#[tokio::test(start_paused = true)]
async fn tasks_of_one_environment_share_one_watch_a_kind() {
    let desk = Desk::new().await;
    let tags = ["one", "two", "three", "four", "five"];
    let mut plans = Vec::new();
    for tag in tags {
        let slow = json!({ "tag": tag, "images": { "spring-a": "a:slow5", "spring-c": "c:slow5" } });
        plans.push((slow.clone(), desk.plan(DEPLOY, &slow).await.expect("planned")));
    }
    desk.cluster.clear_requests();
    let all = plans.iter().map(|(spec, plan)| desk.carry_out(DEPLOY, spec, plan));
    for done in futures::future::join_all(all).await {
        done.unwrap_or_else(|error| panic!("{error:?}"));
    }
    let watched = |kind: &str| desk.cluster.count("watch", kind);
    let kinds = ["deployments.apps", "replicasets.apps", "pods"];
    assert_eq!(kinds.map(watched), [1, 1, 1], "five deploys");

    let mut ends = Vec::new();
    for tag in tags {
        keep(&desk, "Service", &format!("spring-cloud-a-base-mse-{tag}")).await;
        ends.push((down(tag), desk.plan(OFFLINE, &down(tag)).await.expect("planned")));
    }
    desk.cluster.clear_requests();
    let all = ends.iter().map(|(spec, plan)| desk.carry_out(OFFLINE, spec, plan));
    let later = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        for tag in tags {
            let_go(&desk, "Service", &format!("spring-cloud-a-base-mse-{tag}")).await;
        }
    };
    let (done, ()) = tokio::join!(futures::future::join_all(all), later);
    for done in done {
        done.unwrap_or_else(|error| panic!("{error:?}"));
    }
    assert_eq!((watched("services"), watched("pods"), watched("secrets")), (1, 1, 0), "five ends");
    assert!(
        desk.cluster
            .objects("services", NAMESPACE)
            .iter()
            .all(|object| { object["metadata"]["labels"]["zadigx-release-type"] != "mse-gray" })
    );
}
