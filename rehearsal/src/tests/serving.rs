//! The API over a URL: the same client, another transport.

use kube::api::{ListParams, PostParams};
use kube::{Client, Config};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::support::*;
use crate::Delays;

#[tokio::test]
async fn a_client_by_url_sees_what_a_client_in_process_sees() {
    let cluster = cluster(Delays::fast()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(crate::serve(listener, cluster.api(), stop.clone()));
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&crate::kubeconfig(address)).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");
    let object = serde_json::from_value(deployment("a", "", "v1")).unwrap();
    deployments(&client).create(&PostParams::default(), &object).await.unwrap();
    let pod = eventually("a ready pod", || async {
        let pods = pods(&client).list(&ListParams::default()).await.unwrap();
        let pod = serde_json::to_value(pods.items.into_iter().next()?).unwrap();
        crate::pods::is_ready(&pod).then_some(pod)
    })
    .await;
    let events = kube::runtime::watcher::watcher(pods(&client), Default::default());
    let first = futures::TryStreamExt::try_next(&mut std::pin::pin!(events)).await.unwrap();
    assert!(matches!(first, Some(kube::runtime::watcher::Event::Init)));
    let logs = pods(&client).logs(crate::object::name(&pod), &Default::default()).await.unwrap();
    assert!(logs.contains("started"), "{logs}");
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(5), server).await.unwrap().unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn discovery_names_every_resource() {
    let cluster = cluster(Delays::none()).await;
    let discovery = kube::Discovery::new(cluster.client()).run().await.unwrap();
    let mut kinds: Vec<String> = discovery
        .groups()
        .flat_map(|group| group.recommended_resources())
        .map(|(resource, _)| resource.kind)
        .collect();
    kinds.sort();
    for kind in [
        "Deployment",
        "Ingress",
        "EndpointSlice",
        "Pod",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    ] {
        assert!(kinds.iter().any(|one| one == kind), "{kind} in {kinds:?}");
    }
    let review: k8s_openapi::api::authorization::v1::SelfSubjectAccessReview =
        serde_json::from_value(json!({
            "spec": {"resourceAttributes": {"verb": "delete", "resource": "deployments", "group": "apps"}}
        }))
        .unwrap();
    let reviews: kube::Api<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview> =
        kube::Api::all(cluster.client());
    assert!(reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed);
}
