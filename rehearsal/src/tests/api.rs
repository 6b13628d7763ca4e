//! Refusals in Kubernetes' own words, and requests that no client would send.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::support::*;
use crate::{Cluster, Delays};

async fn send(cluster: &Cluster, method: Method, uri: &str, kind: &str, body: &str) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", kind)
        .header("user-agent", "kubectl/v1.33");
    let response = cluster.api().answer(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
    )
}

async fn create(cluster: &Cluster, plural: &str, object: Value) -> (u16, Value) {
    let group = match plural {
        "deployments" => "apis/apps/v1",
        "ingresses" => "apis/networking.k8s.io/v1",
        _ => "api/v1",
    };
    let uri = format!("/{group}/namespaces/{SPACE}/{plural}?fieldValidation=Strict");
    send(cluster, Method::POST, &uri, "application/json", &object.to_string()).await
}

fn changed(mut object: Value, pointer: &str, to: Value) -> Value {
    *object.pointer_mut(pointer).unwrap() = to;
    object
}

#[tokio::test(start_paused = true)]
async fn objects_that_kubernetes_refuses_are_refused_in_its_words() {
    let cluster = cluster(Delays::none()).await;
    let web = || service("web", json!({"app": "a"}));
    let app = || deployment("a", "", "v1");
    let path = || ingress("x", "web", json!({}));
    let containers = "/spec/template/spec/containers";
    let table: Vec<(&str, Value, u16, &str)> = vec![
        (
            "services",
            changed(web(), "/metadata/name", json!("1web")),
            422,
            "Service \"1web\" is invalid: metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of",
        ),
        (
            "services",
            changed(web(), "/metadata/name", json!("a".repeat(64))),
            422,
            "must be no more than 63 characters",
        ),
        ("services", changed(web(), "/spec/ports", json!([])), 422, "spec.ports: Required value"),
        (
            "deployments",
            changed(app(), "/metadata/name", json!("Bad_Name")),
            422,
            "a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "deployments",
            changed(app(), containers, json!([])),
            422,
            "Deployment.apps \"spring-cloud-a\" is invalid: spec.template.spec.containers: Required value",
        ),
        (
            "deployments",
            changed(app(), containers, json!([{"name": "x"}])),
            422,
            "spec.template.spec.containers[0].image: Required value",
        ),
        (
            "deployments",
            changed(app(), "/spec/template/metadata/labels", json!({"app": "other"})),
            422,
            "`selector` does not match template `labels`",
        ),
        (
            "deployments",
            changed(app(), "/spec/replicas", json!("two")),
            400,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: ",
        ),
        (
            "deployments",
            changed(app(), "/spec/replicas", json!(-1)),
            422,
            "must be greater than or equal to 0",
        ),
        (
            "deployments",
            {
                let mut bad = app();
                bad["spec"]["replica"] = json!(1);
                bad
            },
            400,
            "strict decoding error: unknown field \"spec.replica\"",
        ),
        (
            "deployments",
            {
                let mut bad = app();
                bad["metadata"]["labels"] = json!({"x": "not ok!"});
                bad
            },
            422,
            "metadata.labels: Invalid value: \"not ok!\": a valid label must be",
        ),
        (
            "deployments",
            {
                let mut bad = app();
                bad["metadata"]["namespace"] = json!("other");
                bad
            },
            400,
            "the namespace of the provided object does not match",
        ),
        (
            "ingresses",
            changed(path(), "/spec/rules/0/http/paths/0/pathType", Value::Null),
            422,
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            "ingresses",
            changed(path(), "/spec/rules/0/http/paths/0/path", json!("a")),
            422,
            "must be an absolute path",
        ),
        (
            "ingresses",
            changed(path(), "/spec/rules", json!([])),
            422,
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            "configmaps",
            json!({"metadata": {"name": "x"}, "data": {"a b": "1"}}),
            422,
            "a valid config key must consist of",
        ),
        ("configmaps", json!({"metadata": {}}), 422, "name or generateName is required"),
        ("pods", json!({"kind": "Service", "metadata": {"name": "x"}}), 400, "cannot be handled as a Pod"),
    ];
    for (plural, object, code, message) in table {
        let (got, status) = create(&cluster, plural, object).await;
        assert_eq!(got, code, "{status}");
        assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(code.into())));
        assert!(status["message"].as_str().unwrap().contains(message), "{message}\n{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_usual_refusals_have_their_codes_reasons_and_sentences() {
    let cluster = cluster(Delays::none()).await;
    create(&cluster, "deployments", deployment("a", "", "v1")).await;
    let one = format!("/apis/apps/v1/namespaces/{SPACE}/deployments/spring-cloud-a");
    let none = format!("/apis/apps/v1/namespaces/{SPACE}/deployments/x");
    let json_type = "application/json";
    let stale = {
        let mut object = cluster.object("deployments.apps", SPACE, "spring-cloud-a").unwrap();
        object["metadata"]["resourceVersion"] = "1".into();
        object.to_string()
    };
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "other"}}, "template": {"metadata": {"labels": {"app": "other"}}}}});
    let selector = selector.to_string();
    let create_uri = format!("/apis/apps/v1/namespaces/{SPACE}/deployments");
    let again = deployment("a", "", "v1").to_string();
    let table: Vec<(Method, &str, &str, &str, u16, &str, &str)> = vec![
        (Method::GET, &none, json_type, "", 404, "NotFound", "deployments.apps \"x\" not found"),
        (Method::DELETE, &none, json_type, "", 404, "NotFound", "deployments.apps \"x\" not found"),
        (
            Method::POST,
            &create_uri,
            json_type,
            &again,
            409,
            "AlreadyExists",
            "deployments.apps \"spring-cloud-a\" already exists",
        ),
        (
            Method::PUT,
            &one,
            json_type,
            &stale,
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"spring-cloud-a\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (
            Method::PATCH,
            &one,
            "application/strategic-merge-patch+json",
            &selector,
            422,
            "Invalid",
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\",\"zadigx-release-version\":\"original\"}}: field is immutable",
        ),
        (
            Method::PATCH,
            &one,
            "text/plain",
            "{}",
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format",
        ),
        (
            Method::PATCH,
            &one,
            "application/apply-patch+yaml",
            "{}",
            422,
            "Invalid",
            "fieldManager: Required value: is required for apply patch",
        ),
        (
            Method::PUT,
            &create_uri,
            json_type,
            "{}",
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        (Method::POST, &create_uri, json_type, "{", 400, "BadRequest", "could not be read"),
        (
            Method::GET,
            "/apis/nothing/v1/things",
            json_type,
            "",
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            Method::GET,
            "/",
            json_type,
            "",
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            Method::GET,
            "/api/v1/pods?labelSelector=a%20b",
            json_type,
            "",
            400,
            "BadRequest",
            "unable to parse requirement",
        ),
        (
            Method::GET,
            "/api/v1/pods?continue=zzz",
            json_type,
            "",
            400,
            "BadRequest",
            "continue key is not valid",
        ),
        (
            Method::DELETE,
            "/api/v1/pods",
            json_type,
            "",
            405,
            "MethodNotAllowed",
            "does not allow this method",
        ),
    ];
    for (method, uri, kind, body, code, reason, message) in table {
        let (got, status) = send(&cluster, method.clone(), uri, kind, body).await;
        assert_eq!((got, status["reason"].as_str()), (code, Some(reason)), "{method} {uri}: {status}");
        assert!(status["message"].as_str().unwrap().contains(message), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_verb_is_refused_as_rbac_refuses() {
    let cluster = cluster(Delays::none()).await;
    cluster.forbid("patch", "deployments.apps");
    let error =
        apply_one(&cluster.client(), SPACE, deployment("a", "", "v1"), "graylane", true).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!(status.code, 403);
    assert_eq!(
        status.message,
        "deployments.apps \"spring-cloud-a\" is forbidden: User \"rehearsal\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"mse-customer\""
    );
    cluster.allow_all();
    apply_one(&cluster.client(), SPACE, deployment("a", "", "v1"), "graylane", true).await.unwrap();
    cluster.set_outage(true);
    let error =
        apply_one(&cluster.client(), SPACE, deployment("a", "", "v1"), "graylane", true).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 503));
}

#[tokio::test(start_paused = true)]
async fn writes_are_logged_with_who_what_and_which_object() {
    let cluster = cluster(Delays::none()).await;
    cluster.clear_requests();
    let handle = deployments(&cluster.client());
    let made = handle
        .patch("spring-cloud-a", &PatchParams::apply("graylane"), &Patch::Apply(deployment("a", "", "v1")))
        .await
        .unwrap();
    handle.get("spring-cloud-a").await.unwrap();
    handle.delete("spring-cloud-a", &Default::default()).await.unwrap();
    let log = cluster.requests();
    assert_eq!(log.len(), 2);
    assert_eq!((log[0].method.as_str(), log[0].manager.as_str(), log[0].code), ("PATCH", "graylane", 201));
    assert_eq!((log[1].method.as_str(), &log[1].uid), ("DELETE", &made.metadata.uid));
    assert_eq!(
        (cluster.count("patch", "deployments.apps"), cluster.count("get", "deployments.apps")),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn defaults_are_those_of_an_api_server() {
    let cluster = cluster(Delays::none()).await;
    let object = serde_json::from_value(deployment("a", "", "v1")).unwrap();
    let made = deployments(&cluster.client()).create(&PostParams::default(), &object).await.unwrap();
    let made = serde_json::to_value(made).unwrap();
    for (pointer, expected) in [
        (
            "/spec/strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
        ),
        ("/spec/revisionHistoryLimit", json!(10)),
        ("/spec/template/spec/restartPolicy", json!("Always")),
        ("/spec/template/spec/containers/0/imagePullPolicy", json!("IfNotPresent")),
        ("/spec/template/spec/containers/0/ports/0/protocol", json!("TCP")),
        ("/metadata/generation", json!(1)),
    ] {
        assert_eq!(made.pointer(pointer), Some(&expected), "{pointer}");
    }
    let (_, web) =
        create(&cluster, "services", json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}))
            .await;
    assert!(web["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."));
    assert_eq!(web["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let (_, secret) =
        create(&cluster, "secrets", json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}})).await;
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"k": "dg=="}), &json!("Opaque")));
    assert!(secret.get("stringData").is_none());
}

#[tokio::test(start_paused = true)]
async fn status_and_scale_are_places_of_their_own() {
    let cluster = cluster(Delays::none()).await;
    create(&cluster, "deployments", deployment("a", "", "v1")).await;
    let handle = deployments(&cluster.client());
    let scale = handle
        .patch_scale(
            "spring-cloud-a",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 3}})),
        )
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    let live = handle.get("spring-cloud-a").await.unwrap();
    assert_eq!((live.spec.unwrap().replicas, live.metadata.generation), (Some(3), Some(2)));
    let uri = "/api/v1/namespaces/mse-customer/services/web/status";
    create(&cluster, "services", service("web", json!({"app": "a"}))).await;
    let body =
        json!({"spec": {"type": "NodePort"}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}})
            .to_string();
    let (code, web) = send(&cluster, Method::PATCH, uri, "application/merge-patch+json", &body).await;
    assert_eq!((code, &web["spec"]["type"]), (200, &json!("ClusterIP")));
    assert_eq!(web["status"]["loadBalancer"]["ingress"][0]["ip"], "1.2.3.4");
}
