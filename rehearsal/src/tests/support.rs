//! What the stories share: manifests like the demo's, typed handles, patience, and an HTTP client for the gateway.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::{Cluster, Delays, Options, Rehearsal, RehearsalOptions};

pub(super) const SPACE: &str = "mse-customer";
pub(super) const REGISTRY: &str = "registry.cn-shanghai.aliyuncs.com/yizhan";

pub(super) async fn fast() -> Rehearsal {
    let options = RehearsalOptions { delays: Delays::fast(), ..RehearsalOptions::default() };
    Rehearsal::start(options).await.unwrap()
}

/// A cluster alone, without traffic, with a namespace; for tests that pause the clock.
pub(super) async fn cluster(delays: Delays) -> Cluster {
    let cluster = Cluster::start(Options { delays, ..Options::default() }).unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(cluster.client());
    let namespace =
        serde_json::from_value(json!({"metadata": {"name": SPACE, "labels": {"mse-enable": "enabled"}}}));
    namespaces.create(&Default::default(), &namespace.unwrap()).await.unwrap();
    cluster
}

pub(super) fn enrolled() -> BTreeMap<String, String> {
    BTreeMap::from([("mse-enable".to_owned(), "enabled".to_owned())])
}

/// A Deployment of the demo: `tag` "" is the baseline.
pub(super) fn deployment(letter: &str, tag: &str, image_tag: &str) -> Value {
    let app = format!("spring-cloud-{letter}");
    let name = if tag.is_empty() { app.clone() } else { format!("{app}-mse-{tag}") };
    let version = if tag.is_empty() { "original" } else { tag };
    let mut labels = json!({ "app": app, "zadigx-release-version": version });
    if !tag.is_empty() {
        labels["alicloud.service.tag"] = tag.into();
        labels["zadigx-release-type"] = "mse-gray".into();
        labels["zadigx-release-service-name"] = format!("spring-{letter}").into();
    }
    let mut template_labels = labels.clone();
    template_labels["msePilotCreateAppName"] = app.clone().into();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels }, "strategy": null,
            "template": {
                "metadata": { "labels": template_labels },
                "spec": { "containers": [{
                    "name": app, "image": format!("{REGISTRY}/{app}:{image_tag}"),
                    "env": [{ "name": "JAVA_HOME", "value": "/usr/lib/jvm/java-1.8-openjdk/jre" }],
                    "ports": [{ "containerPort": 8080 }],
                }] },
            },
        },
    })
}

pub(super) fn service(name: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "ports": [{ "name": "http", "port": 20001, "protocol": "TCP", "targetPort": 20001 }], "selector": selector },
    })
}

pub(super) fn ingress(name: &str, service: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name, "annotations": annotations },
        "spec": { "ingressClassName": "mse", "rules": [{ "host": "example.com", "http": { "paths": [{
            "backend": { "service": { "name": service, "port": { "number": 20001 } } }, "path": "/", "pathType": "Prefix",
        }] } }] },
    })
}

/// The four services of the demo, as production runs them.
pub(super) fn baseline() -> Vec<Value> {
    let nacos = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "nacos-server" },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": { "app": "nacos-server" } },
            "template": {
                "metadata": { "labels": { "app": "nacos-server" } },
                "spec": { "containers": [{ "name": "nacos-server", "image": "nacos/nacos-server:v2.2.0", "imagePullPolicy": "Always" }] },
            },
        },
    });
    vec![
        nacos,
        deployment("a", "", "0.1-SNAPSHOT"),
        deployment("b", "", "0.1-SNAPSHOT"),
        deployment("c", "", "0.1-SNAPSHOT"),
        service(
            "spring-cloud-a-base",
            json!({ "app": "spring-cloud-a", "zadigx-release-version": "original" }),
        ),
        ingress("spring-cloud-a", "spring-cloud-a-base", json!({})),
    ]
}

/// A gray lane for A and C, route and all.
pub(super) fn gray_lane() -> Vec<Value> {
    let annotations = json!({
        "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag gray",
        "nginx.ingress.kubernetes.io/canary": "true",
        "nginx.ingress.kubernetes.io/canary-by-header": "x-user-id",
        "nginx.ingress.kubernetes.io/canary-by-header-value": "100",
        "nginx.ingress.kubernetes.io/canary-weight": "0",
    });
    vec![
        deployment("a", "gray", "v2"),
        deployment("c", "gray", "v2"),
        service(
            "spring-cloud-a-mse-gray",
            json!({ "app": "spring-cloud-a", "zadigx-release-version": "gray" }),
        ),
        ingress("spring-cloud-a-mse-gray", "spring-cloud-a-mse-gray", annotations),
    ]
}

/// Applies manifests as a client would, one after the other.
pub(super) async fn apply(client: &kube::Client, namespace: &str, manifests: Vec<Value>) {
    for manifest in manifests {
        apply_one(client, namespace, manifest, "tests", true).await.unwrap();
    }
}

pub(super) async fn apply_one(
    client: &kube::Client,
    namespace: &str,
    manifest: Value,
    manager: &str,
    force: bool,
) -> kube::Result<kube::api::DynamicObject> {
    let kind =
        crate::kinds::by_kind(manifest["apiVersion"].as_str().unwrap(), manifest["kind"].as_str().unwrap())
            .unwrap();
    let gvk = kube::api::GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    let resource = kube::api::ApiResource::from_gvk_with_plural(&gvk, kind.plural);
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut parameters = kube::api::PatchParams::apply(manager);
    parameters.force = force;
    api.patch(
        manifest["metadata"]["name"].as_str().unwrap(),
        &parameters,
        &kube::api::Patch::Apply(&manifest),
    )
    .await
}

pub(super) fn deployments(client: &kube::Client) -> Api<Deployment> {
    Api::namespaced(client.clone(), SPACE)
}

pub(super) fn pods(client: &kube::Client) -> Api<Pod> {
    Api::namespaced(client.clone(), SPACE)
}

/// Asks again until there is an answer, or panics when the time is over.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let until = tokio::time::Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Like `eventually`, over the cluster's own objects.
pub(super) async fn eventually_in<T>(
    cluster: &Cluster,
    what: &str,
    mut look: impl FnMut(&Cluster) -> Option<T>,
) -> T {
    eventually(what, || std::future::ready(look(cluster))).await
}

/// An answer of the gateway.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) chain: String,
    pub(super) route: String,
}

pub(super) async fn get(gateway: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    get_from(gateway, "example.com", path, headers).await
}

pub(super) async fn get_from(
    gateway: SocketAddr,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::get(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (status, chain, route) =
        (response.status().as_u16(), header("x-rehearsal-chain"), header("x-rehearsal-route"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, body: String::from_utf8_lossy(&body).into_owned(), chain, route }
}

/// The answer without the addresses: `Agray[config=base] -> B -> Cgray`.
pub(super) fn shape(body: &str) -> String {
    let mut out = String::new();
    for (at, part) in body.split('[').enumerate() {
        match part.split_once(']') {
            Some((inside, rest)) if at > 0 => {
                if inside.contains('=') {
                    out.push_str(&format!("[{inside}]"));
                }
                out.push_str(rest);
            }
            _ => out.push_str(part),
        }
    }
    out
}
