//! Autoscalers: what they do without metrics, and who then owns the number of pods.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::support::*;
use crate::object::{int, list, text};
use crate::{Cluster, Delays};

fn scaler(target: &str, least: i64, most: i64) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "scaler" },
        "spec": { "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target }, "minReplicas": least, "maxReplicas": most },
    })
}

fn of(cluster: &Cluster, resource: &str, name: &str) -> Value {
    cluster.object(resource, SPACE, name).unwrap_or_default()
}

fn replicas(cluster: &Cluster) -> i64 {
    int(&of(cluster, "deployments.apps", "spring-cloud-a"), "/spec/replicas").unwrap_or(-1)
}

/// Type, status and reason of each condition.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let scaler = of(cluster, "horizontalpodautoscalers.autoscaling", "scaler");
    let words =
        |one: &Value| format!("{} {} {}", text(one, "/type"), text(one, "/status"), text(one, "/reason"));
    list(&scaler, "/status/conditions").iter().map(words).collect()
}

async fn said(cluster: &Cluster, conditions_are: &[&str]) {
    eventually_in(cluster, "the autoscaler has looked", |cluster| {
        (conditions(cluster) == conditions_are).then_some(())
    })
    .await;
}

const WITHIN: [&str; 2] =
    ["AbleToScale True SucceededGetScale", "ScalingActive False FailedGetResourceMetric"];

#[tokio::test(start_paused = true)]
async fn the_number_of_pods_is_brought_between_the_bounds_and_stays_there() {
    // The number before, the bounds, the number after, and why.
    let table = [
        (1, 3, 5, 3, "New size: 3; reason: Current number of replicas below Spec.MinReplicas"),
        (9, 3, 5, 5, "New size: 5; reason: Current number of replicas above Spec.MaxReplicas"),
        (4, 3, 5, 4, ""),
        (3, 3, 3, 3, ""),
    ];
    for (before, least, most, after, why) in table {
        let cluster = cluster(Delays::none()).await;
        let mut object = deployment("a", "", "v1");
        object["spec"]["replicas"] = before.into();
        apply(&cluster.client(), SPACE, vec![object, scaler("spring-cloud-a", least, most)]).await;
        said(&cluster, &WITHIN).await;
        assert_eq!(replicas(&cluster), after, "{before} between {least} and {most}");
        let events = cluster.objects("events", SPACE);
        let resized: Vec<&str> = events
            .iter()
            .filter(|event| event["reason"] == "SuccessfulRescale")
            .map(|event| text(event, "/message"))
            .collect();
        assert_eq!(resized.join("|"), why);
        let status = of(&cluster, "horizontalpodautoscalers.autoscaling", "scaler")["status"].clone();
        assert_eq!(status["currentReplicas"], after);
        let desired = if why.is_empty() { 0 } else { after };
        assert_eq!(status["desiredReplicas"], desired, "without metrics it only knows what it has set");
        // Quiet again: nothing is written over and over.
        let revision = cluster.revision();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(cluster.revision(), revision);
    }
}

#[tokio::test(start_paused = true)]
async fn it_writes_by_scale_and_owns_the_number() {
    let cluster = cluster(Delays::none()).await;
    let client = cluster.client();
    let mut object = deployment("a", "", "v1");
    object["spec"].as_object_mut().unwrap().remove("replicas");
    apply(&client, SPACE, vec![object, scaler("spring-cloud-a", 3, 5)]).await;
    said(&cluster, &WITHIN).await;
    let found = of(&cluster, "deployments.apps", "spring-cloud-a");
    let scaled = list(&found, "/metadata/managedFields").iter().find(|entry| entry["subresource"] == "scale");
    let scaled = scaled.expect("a record of the write");
    assert_eq!(scaled["manager"], "kube-controller-manager");
    assert_eq!(scaled["operation"], "Update");
    assert_eq!(scaled["fieldsV1"], json!({ "f:spec": { "f:replicas": {} } }));
    let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spring-cloud-a"}, "spec": {"replicas": 7}});
    let refused = apply_one(&client, SPACE, wanted, "graylane", false).await.unwrap_err();
    assert!(refused.to_string().contains("conflict with \"kube-controller-manager\""), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_is_off_or_missing_is_left_alone_and_said() {
    let cluster = cluster(Delays::none()).await;
    let client = cluster.client();
    apply(&client, SPACE, vec![scaler("spring-cloud-a", 3, 5)]).await;
    said(&cluster, &["AbleToScale False FailedGetScale"]).await;
    let mut object = deployment("a", "", "v1");
    object["spec"]["replicas"] = 0.into();
    apply(&client, SPACE, vec![object]).await;
    said(&cluster, &["AbleToScale True SucceededGetScale", "ScalingActive False ScalingDisabled"]).await;
    assert_eq!(replicas(&cluster), 0);
    let scale = |count: i64| Patch::Merge(json!({ "spec": { "replicas": count } }));
    deployments(&client).patch_scale("spring-cloud-a", &PatchParams::default(), &scale(1)).await.unwrap();
    eventually_in(&cluster, "raised", |cluster| (replicas(cluster) == 3).then_some(())).await;
    // Without the autoscaler nobody minds.
    let all: kube::Api<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler> =
        kube::Api::namespaced(client.clone(), SPACE);
    all.delete("scaler", &Default::default()).await.unwrap();
    deployments(&client).patch_scale("spring-cloud-a", &PatchParams::default(), &scale(1)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(replicas(&cluster), 1);
}

#[tokio::test(start_paused = true)]
async fn bounds_that_cross_are_refused() {
    let cluster = cluster(Delays::none()).await;
    for (least, most, why) in [
        (3, 2, "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"),
        (1, 0, "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
        (0, 2, "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
    ] {
        let made = apply_one(&cluster.client(), SPACE, scaler("a", least, most), "t", true).await;
        let said = made.unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
}
