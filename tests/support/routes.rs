//! HTTPRoutes on a real API server: a part of the Gateway API's published definition, enough for what lanes write.

use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::stage::{HTTP_ROUTES, resource};

/// Lets the API server serve HTTPRoutes, and waits until it does.
pub(crate) async fn define(client: &kube::Client) {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let made: DynamicObject = serde_json::from_value(definition()).expect("valid");
    match definitions.create(&PostParams::default(), &made).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        made => drop(made.expect("HTTPRoutes are defined")),
    }
    let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource(HTTP_ROUTES));
    for _ in 0..100 {
        if routes.list(&ListParams::default()).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("HTTPRoutes are not served");
}

/// HTTPRoutes are a custom kind: what the published definition says of the fields that lanes write, with its bounds.
#[rustfmt::skip]
fn definition() -> Value {
    let text = || json!({ "type": "string" });
    let list = |items: &Value, most: u32| json!({ "type": "array", "maxItems": most, "items": items });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "properties": properties });
    let header = object(&["name", "value"], json!({ "type": { "type": "string", "enum": ["Exact", "RegularExpression"] }, "name": text(),
        "value": { "type": "string", "minLength": 1, "maxLength": 4096 } }));
    let pair = object(&["name", "value"], json!({ "name": text(), "value": text() }));
    let modifier = object(&[], json!({ "set": list(&pair, 16), "add": list(&pair, 16), "remove": list(&text(), 16) }));
    let path = object(&[], json!({ "type": { "type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"] }, "value": text() }));
    let one = object(&[], json!({ "headers": list(&header, 16), "method": text(), "path": path }));
    let filter = object(&["type"], json!({ "type": { "type": "string", "enum": ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite"] },
        "requestHeaderModifier": modifier }));
    let backend = object(&["name"], json!({ "name": text(), "port": { "type": "integer" }, "weight": { "type": "integer" } }));
    let rule = object(&[], json!({ "matches": list(&one, 64), "filters": list(&filter, 16), "backendRefs": list(&backend, 16) }));
    let parent = object(&["name"], json!({ "name": text() }));
    let spec = object(&[], json!({ "parentRefs": list(&parent, 32), "hostnames": list(&text(), 16), "rules": list(&rule, 16) }));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "httproutes.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "unapproved, a part of it for a test" } },
        "spec": { "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": object(&[], json!({ "spec": spec })) } }] },
    })
}
