//! Whose pods an offline waits for: those of the Deployments that it deletes, whatever they are called.

use std::time::Duration;

use kube::api::ListParams;
use serde_json::{Value, json};

use crate::support::Home;
use crate::support::desk::{Desk, NAMESPACE, shown};

const FILE: &str = "config/services/spring-b.yaml";

/// The example, whose gray pods of service B take their time to end.
async fn slow_to_end(name: &str) -> Desk {
    let home = Home::new();
    home.edit(
        FILE,
        "  template:\n    metadata:\n",
        "  template:\n    metadata:\n      annotations: { fakenode/stop-seconds: \"20\" }\n",
    );
    home.edit(FILE, "metadata:\n  name: spring-cloud-b\n", &format!("metadata:\n  name: {name}\n"));
    Desk::with(home).await
}

async fn deployed(desk: &Desk) {
    desk.run("mse-gray-deploy", &json!({ "tag": "gray", "images": { "spring-b": "spring-cloud-b:2" } }))
        .await;
}

/// The uids of the lane's pods.
async fn pods(desk: &Desk) -> Vec<String> {
    let gray = ListParams::default().labels("zadigx-release-version=gray");
    let found = desk.api(NAMESPACE, "Pod").list(&gray).await.expect("listed");
    found.items.into_iter().filter_map(|pod| pod.metadata.uid).collect()
}

#[tokio::test(start_paused = true)]
async fn what_somebody_makes_anew_under_a_lanes_name_is_not_waited_for() {
    let desk = slow_to_end("spring-cloud-b").await;
    deployed(&desk).await;
    let before = pods(&desk).await;
    let spec = json!({ "tag": "gray", "drain": "1s" });
    let plan = desk.plan("mse-gray-offline", &spec).await.expect("planned");
    let name = "spring-cloud-b-mse-gray";
    let copy = desk.get("Deployment", name).await.expect("there");
    let anew = async {
        for _ in 0..10_000 {
            if desk.get("Deployment", name).await.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let made = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "spec": copy["spec"],
            "metadata": { "name": name, "labels": copy["metadata"]["labels"] },
        });
        desk.create(&made, "kubectl-create").await;
    };
    let down = desk.carry_out("mse-gray-offline", &spec, &plan);
    let both = async { tokio::join!(down, anew) };
    let ended = tokio::time::timeout(Duration::from_secs(600), both).await;
    let (down, ()) = ended.expect("it ends although pods of that name go on");
    down.unwrap_or_else(|error| panic!("{}", shown(&error)));
    let after = pods(&desk).await;
    assert!(before.iter().all(|uid| !after.contains(uid)), "the lane's own pods are gone: {after:?}");
    assert!(desk.get("Deployment", name).await.is_some(), "and what is somebody else's stays");
}

/// Names of pods are cut where they would be too long: after 58 characters comes what makes them unique.
#[tokio::test(start_paused = true)]
async fn pods_with_long_names_are_waited_for_too() {
    let name = format!("spring-cloud-b-{}", "x".repeat(38));
    let desk = slow_to_end(&name).await;
    deployed(&desk).await;
    let gray: Value = desk.get("Deployment", &format!("{name}-mse-gray")).await.expect("there");
    assert!(gray["metadata"]["name"].as_str().is_some_and(|name| name.len() > 58));
    assert_eq!(pods(&desk).await.len(), 1);
    let began = tokio::time::Instant::now();
    desk.run("mse-gray-offline", &json!({ "tag": "gray", "drain": "1s" })).await;
    assert_eq!(pods(&desk).await, Vec::<String>::new());
    assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
}
