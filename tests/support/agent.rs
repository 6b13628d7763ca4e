//! The agent's webhook before a real API server: what ack-onepilot does there, done by the code that the rehearsal uses. Beside
//! it a policy that changes Deployments, where a namespace asks for one.
//!
//! It answers for the namespaces of this test run alone, from a thread of its own, because every test has another runtime.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The label by which namespaces of this run are known to the webhook.
pub(crate) const LABEL: &str = "graylane.dev/test-run";

/// The label of namespaces in which the policy changes Deployments.
pub(crate) const POLICY_LABEL: &str = "graylane.dev/test-policy";
/// The annotation that the policy leaves in every pod template.
pub(crate) const POLICY_MARK: &str = "policy.example.com/seen";

/// What the policy merges into every Deployment: a field that nobody has, and one that the server would have defaulted.
pub(crate) fn policy() -> Value {
    json!({ "spec": { "revisionHistoryLimit": 3, "template": { "metadata": { "annotations": { POLICY_MARK: "yes" } } } } })
}

/// The value of the labels, and what makes names of this run its own.
pub(crate) fn test_run() -> String {
    format!("r{}", std::process::id())
}

/// Lets the webhook stand before the API server; once, whoever asks first.
pub(crate) async fn stand(kubeconfig: &Path) {
    static STANDS: OnceCell<()> = OnceCell::const_new();
    STANDS.get_or_init(|| begin(kubeconfig)).await;
}

async fn begin(kubeconfig: &Path) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("an address");
    let kubeconfig = kubeconfig.to_owned();
    let file = kubeconfig.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(listener, file));
    });
    let authority = std::fs::read(tls("authority.pem")).expect("there");
    let name = format!("graylane-test-{}", test_run());
    let webhook = |name: &str, label: &str, rule: Value| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 10,
            // A run that was killed leaves it behind: nobody else's objects must wait for it.
            "failurePolicy": "Ignore",
            "namespaceSelector": { "matchLabels": { label: test_run() } },
            "rules": [rule],
            "clientConfig": { "url": format!("https://{address}/"), "caBundle": base64::prelude::BASE64_STANDARD.encode(&authority) },
        })
    };
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [
            webhook(
                "agent.graylane.dev",
                LABEL,
                json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }),
            ),
            webhook(
                "policy.graylane.dev",
                POLICY_LABEL,
                json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"] }),
            ),
        ],
    });
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration");
    let api: Api<DynamicObject> =
        Api::all_with(super::client(&kubeconfig).await, &ApiResource::from_gvk(&kind));
    let configuration = serde_json::from_value(configuration).expect("valid");
    api.create(&PostParams::default(), &configuration).await.expect("registered");
}

fn tls(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(file)
}

async fn serve(listener: std::net::TcpListener, kubeconfig: std::path::PathBuf) {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(tls("one.pem")).expect("readable").collect();
    let key = PrivateKeyDer::from_pem_file(tls("one.key.pem")).expect("a key");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain.expect("valid"), key))
            .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let namespaces: Api<Namespace> = Api::all(super::client(&kubeconfig).await);
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, namespaces) = (acceptor.clone(), namespaces.clone());
        tokio::spawn(async move {
            // Whoever does not speak TLS gets no answer.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let handler = hyper::service::service_fn(move |request| answer(namespaces.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), handler)
                .await;
        });
    }
}

async fn answer(
    namespaces: Api<Namespace>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = &review["request"];
    let mut object = asked["object"].clone();
    if asked["resource"]["resource"] == "deployments" {
        merge(&mut object, &policy());
    } else {
        let namespace = asked["namespace"].as_str().unwrap_or_default();
        let labels =
            namespaces.get_opt(namespace).await.ok().flatten().and_then(|found| found.metadata.labels);
        let enrolled =
            labels.is_some_and(|labels| labels.get("mse-enable").is_some_and(|value| value == "enabled"));
        graylane_rehearsal::give_agent(&mut object, enrolled);
    }
    let mut response = json!({ "uid": asked["uid"], "allowed": true });
    if object["spec"] != asked["object"]["spec"] {
        let patch = json!([{ "op": "replace", "path": "/spec", "value": object["spec"] }]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = base64::prelude::BASE64_STANDARD.encode(patch.to_string()).into();
    }
    let review =
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    let mut answer = Response::new(Full::new(Bytes::from(review.to_string())));
    answer
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// Lays objects over objects.
fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key).or_insert_with(|| json!({})), value);
            }
        }
        (into, over) => *into = over.clone(),
    }
}
