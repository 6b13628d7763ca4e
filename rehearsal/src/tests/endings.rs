//! Endings: graces, owners and dependents, finalizers, whole namespaces.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;

use super::support::*;
use crate::{Cluster, Delays};

async fn with_one() -> Cluster {
    let cluster = cluster(Delays::fast()).await;
    apply(&cluster.client(), SPACE, vec![deployment("a", "", "v1")]).await;
    eventually_in(&cluster, "ready", |cluster| {
        let pods = cluster.objects("pods", SPACE);
        pods.first().filter(|pod| crate::pods::is_ready(pod)).map(|_| ())
    })
    .await;
    cluster
}

fn count(cluster: &Cluster, resource: &str) -> usize {
    cluster.objects(resource, SPACE).len()
}

async fn delete(cluster: &Cluster, policy: PropagationPolicy) {
    let parameters = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    deployments(&cluster.client()).delete("spring-cloud-a", &parameters).await.unwrap();
}

#[tokio::test]
async fn in_the_background_the_owner_goes_first() {
    let cluster = with_one().await;
    delete(&cluster, PropagationPolicy::Background).await;
    assert_eq!(count(&cluster, "deployments.apps"), 0);
    eventually_in(&cluster, "no pods", |cluster| {
        (count(cluster, "pods") + count(cluster, "replicasets.apps") == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn in_the_foreground_the_owner_goes_last() {
    let cluster = with_one().await;
    let from = cluster.revision();
    delete(&cluster, PropagationPolicy::Foreground).await;
    eventually_in(&cluster, "gone", |cluster| (count(cluster, "deployments.apps") == 0).then_some(())).await;
    assert_eq!(count(&cluster, "pods") + count(&cluster, "replicasets.apps"), 0);
    let order: Vec<&str> = cluster.with(|state| {
        let wanted = ["pods", "replicasets.apps", "deployments.apps"];
        let gone = state
            .changes_since(from)
            .unwrap()
            .filter(|change| change.removed)
            .map(|change| change.key.resource);
        gone.filter(|resource| wanted.contains(resource)).collect()
    });
    assert_eq!(order, ["pods", "replicasets.apps", "deployments.apps"]);
}

#[tokio::test]
async fn orphans_live_on_and_are_adopted_by_a_namesake() {
    let cluster = with_one().await;
    delete(&cluster, PropagationPolicy::Orphan).await;
    eventually_in(&cluster, "gone", |cluster| (count(cluster, "deployments.apps") == 0).then_some(())).await;
    let before = cluster.objects("pods", SPACE);
    assert_eq!((before.len(), count(&cluster, "replicasets.apps")), (1, 1));
    apply(&cluster.client(), SPACE, vec![deployment("a", "", "v1")]).await;
    eventually_in(&cluster, "adopted", |cluster| {
        let object = cluster.object("deployments.apps", SPACE, "spring-cloud-a")?;
        (object["status"]["availableReplicas"] == 1).then_some(())
    })
    .await;
    let after = cluster.objects("pods", SPACE);
    assert_eq!(crate::object::uid(&after[0]), crate::object::uid(&before[0]));
}

#[tokio::test]
async fn a_pod_has_its_grace_and_is_replaced_meanwhile() {
    let cluster = with_one().await;
    let name = crate::object::name(&cluster.objects("pods", SPACE)[0]).to_owned();
    let dying =
        pods(&cluster.client()).delete(&name, &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(dying.metadata.deletion_timestamp.is_some());
    assert_eq!(dying.metadata.deletion_grace_period_seconds, Some(30));
    eventually_in(&cluster, "replaced", |cluster| {
        let pods = cluster.objects("pods", SPACE);
        (pods.len() == 1 && crate::object::name(&pods[0]) != name && crate::pods::is_ready(&pods[0]))
            .then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn preconditions_protect_a_namesake() {
    let cluster = cluster(Delays::none()).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), SPACE);
    apply(
        &cluster.client(),
        SPACE,
        vec![json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})],
    )
    .await;
    let by_uid = |uid: &str| DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let kube::Error::Api(status) = maps.delete("c", &by_uid("another")).await.unwrap_err() else { panic!() };
    assert_eq!(status.code, 409);
    assert!(
        status.message.contains("the UID in the precondition (another) does not match the UID in record"),
        "{}",
        status.message
    );
    let uid = maps.get("c").await.unwrap().metadata.uid.unwrap();
    maps.delete("c", &DeleteParams { dry_run: true, ..by_uid(&uid) }).await.unwrap();
    let done = maps.delete("c", &by_uid(&uid)).await.unwrap().right().unwrap();
    assert!(done.is_success());
    let kube::Error::Api(status) = maps.delete("c", &by_uid(&uid)).await.unwrap_err() else { panic!() };
    assert_eq!((status.code, status.message.as_str()), (404, "configmaps \"c\" not found"));
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_the_last_is_taken_away() {
    let cluster = cluster(Delays::none()).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), SPACE);
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": ["example.com/hold"]}});
    apply(&cluster.client(), SPACE, vec![held]).await;
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    assert!(maps.get("c").await.unwrap().metadata.deletion_timestamp.is_some());
    maps.patch("c", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    assert!(maps.get_opt("c").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_takes_everything_with_it_and_nothing_new_meanwhile() {
    let cluster = with_one().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    namespaces.delete(SPACE, &DeleteParams::default()).await.unwrap();
    let late = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    let refused = apply_one(&cluster.client(), SPACE, late.clone(), "t", true).await;
    if let Err(kube::Error::Api(status)) = refused {
        let because_terminating = status.code == 403 && status.message.contains("is being terminated");
        assert!(because_terminating || status.code == 404, "{}", status.message);
    }
    eventually("gone", || async { namespaces.get_opt(SPACE).await.unwrap().is_none().then_some(()) }).await;
    for resource in ["pods", "deployments.apps", "replicasets.apps", "configmaps", "events", "endpoints"] {
        assert_eq!(count(&cluster, resource), 0, "{resource}");
    }
    let kube::Error::Api(status) = apply_one(&cluster.client(), SPACE, late, "t", true).await.unwrap_err()
    else {
        panic!()
    };
    assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"mse-customer\" not found"));
}

#[tokio::test]
async fn a_collection_goes_by_label() {
    let cluster = cluster(Delays::fast()).await;
    apply(&cluster.client(), SPACE, gray_lane()).await;
    apply(&cluster.client(), SPACE, baseline()).await;
    deployments(&cluster.client())
        .delete_collection(
            &DeleteParams::default(),
            &ListParams::default().labels("zadigx-release-version=gray"),
        )
        .await
        .unwrap();
    let left: Vec<String> = cluster
        .objects("deployments.apps", SPACE)
        .iter()
        .map(|object| crate::object::name(object).to_owned())
        .collect();
    assert_eq!(left, ["nacos-server", "spring-cloud-a", "spring-cloud-b", "spring-cloud-c"]);
}
