//! One story, two clusters: deploy, update in place and offline on the rehearsal and on a real API server.
//!
//! The real one is named by GRAYLANE_TEST_KUBECONFIG. With CI=true its absence is a failure; elsewhere it is said.

use std::path::{Path, PathBuf};

use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::{Home, client, say, until};

const LANE: &str = r#"name: lane
inputs:
  mode: { type: choice, options: [up, down, all, prod], default: up }
  images: { type: map, of: string, default: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" } }
tasks:
  deploy:
    type: mse-gray-deploy
    when: ${{ inputs.mode == 'up' || inputs.mode == 'all' }}
    timeout: 2m
    with:
      environment: real
      tag: gray
      images: ${{ inputs.images }}
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
  promote:
    type: prod-deploy
    needs: [deploy]
    when: ${{ inputs.mode == 'all' }}
    timeout: 2m
    with: { environment: real, images: "${{ tasks.deploy.outputs.images }}" }
  production:
    type: prod-deploy
    when: ${{ inputs.mode == 'prod' }}
    timeout: 2m
    with: { environment: real, images: "${{ inputs.images }}" }
  offline:
    type: mse-gray-offline
    when: ${{ inputs.mode == 'down' }}
    timeout: 2m
    with: { environment: real, tag: gray, drain: 100ms }
"#;

struct Server {
    client: kube::Client,
    namespace: String,
}

impl Server {
    async fn new(kubeconfig: &Path, namespace: &str) -> Server {
        Server { client: client(kubeconfig).await, namespace: namespace.to_owned() }
    }

    fn api(&self, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    async fn get(&self, (api_version, kind, plural): (&str, &str, &str), name: &str) -> Option<Value> {
        let found = self.api(api_version, kind, plural).get_opt(name).await.expect("answered");
        found.map(|object| serde_json::to_value(object).expect("json"))
    }
}

const DEPLOYMENTS: (&str, &str, &str) = ("apps/v1", "Deployment", "deployments");
const SERVICES: (&str, &str, &str) = ("v1", "Service", "services");
const INGRESSES: (&str, &str, &str) = ("networking.k8s.io/v1", "Ingress", "ingresses");
const HTTP_ROUTES: (&str, &str, &str) = ("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes");
const SECRETS: (&str, &str, &str) = ("v1", "Secret", "secrets");
const PODS: (&str, &str, &str) = ("v1", "Pod", "pods");

fn home(kubeconfig: &Path, namespace: &str) -> Home {
    let home = Home::new();
    home.write("workflows/lane.yaml", LANE);
    let environment = format!(
        "name: real\ncluster: {{ kubeconfig: {} }}\nnamespace: {namespace}\ngateway: {{ kind: mse, address: \"http://127.0.0.1:1\" }}\nservices: ../services\nallow: {{ workflows: [lane] }}\n",
        kubeconfig.display()
    );
    home.write("config/environments/real.yaml", &environment);
    home
}

/// The story, on whatever answers behind the kubeconfig; gives what the lane looked like, server-set fields left out.
async fn story(kubeconfig: &Path, namespace: &str) -> Vec<Value> {
    let server = Server::new(kubeconfig, namespace).await;
    let home = home(kubeconfig, namespace);
    let run = |arguments: &[&str]| home.graylane(&[&["run", "workflows/lane.yaml"], arguments].concat());

    let nowhere = run(&[]).expect(1);
    let words = format!("refused: there is no namespace {namespace} on the cluster");
    assert!(
        nowhere.stdout.contains(&words) && nowhere.stdout.contains("hint: create it"),
        "{}",
        nowhere.stdout
    );

    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(server.client.clone());
    let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
    namespaces.create(&PostParams::default(), &made).await.expect("created");
    let absent = run(&[]).expect(1);
    let words = "its baseline, Deployment";
    assert!(absent.stdout.contains(words), "{}", absent.stdout);
    assert!(
        absent.stdout.contains("is not on the cluster: deploy it to production first"),
        "{}",
        absent.stdout
    );
    for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
        let file = home.path(&format!("config/services/{service}.yaml"));
        graylane_tasks::cluster::create_all(&server.client, namespace, &file).await.expect("created");
    }

    let plan = home.graylane(&["plan", "workflows/lane.yaml"]).expect(0);
    assert!(
        plan.stdout.contains(&format!("+ create Deployment {namespace}/spring-cloud-a-mse-gray")),
        "{}",
        plan.stdout
    );
    assert!(server.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.is_none(), "a plan changes nothing");

    run(&[]).expect(0);
    let first = server.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.expect("there");
    assert_eq!(first["status"]["availableReplicas"], 1);
    assert_eq!(first["spec"]["template"]["spec"]["containers"][0]["image"], "spring-cloud-a:0.2");
    let secret = server.get(SECRETS, "spring-cloud-a-mse-gray").await.expect("there");
    assert_eq!(secret["data"]["token"], "ZXhhbXBsZS10b2tlbi03ZjNhOWM=", "the cluster gets the value");
    let ingress = server.get(INGRESSES, "spring-cloud-a-mse-gray").await.expect("there");
    assert_eq!(
        ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header-value"],
        "100"
    );
    let mut looks = Vec::new();
    for (kind, name) in [
        (DEPLOYMENTS, "spring-cloud-a-mse-gray"),
        (DEPLOYMENTS, "spring-cloud-c-mse-gray"),
        (SERVICES, "spring-cloud-a-base-mse-gray"),
        (INGRESSES, "spring-cloud-a-mse-gray"),
    ] {
        looks.push(look(&server.get(kind, name).await.expect(name), kind.1));
    }

    run(&["-i", "images.spring-a=spring-cloud-a:0.3"]).expect(0);
    let second = server.get(DEPLOYMENTS, "spring-cloud-a-mse-gray").await.expect("there");
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"], "updated in place");
    assert_eq!(second["spec"]["template"]["spec"]["containers"][0]["image"], "spring-cloud-a:0.3");
    let created = "/metadata/annotations/graylane.dev~1created";
    assert_eq!(second.pointer(created), first.pointer(created), "the lane is as old as it was");

    run(&["-i", "mode=all", "-i", "images.spring-c=spring-cloud-c:0.4"]).expect(0);
    let production = server.get(DEPLOYMENTS, "spring-cloud-c").await.expect("there");
    let image = production["spec"]["template"]["spec"]["containers"][0]["image"]
        .as_str()
        .expect("an image")
        .to_owned();
    assert!(image.starts_with("spring-cloud-c"), "{image}");
    assert!(!image.contains("0.1-SNAPSHOT"), "{image}");
    assert_eq!(production["status"]["availableReplicas"], 1);

    let failed = run(&["-i", "mode=prod", "-i", "images.spring-c=spring-cloud-c:missing"]).expect(1);
    assert!(
        failed.stdout.contains("Deployment spring-cloud-c was rolled back to spring-cloud-c"),
        "{}",
        failed.stdout
    );
    assert!(failed.stdout.contains("still up: lane `gray`"), "{}", failed.stdout);
    run(&["-i", "mode=prod", "-i", "images.spring-c=spring-cloud-c:0.5"]).expect(0);
    let production = server.get(DEPLOYMENTS, "spring-cloud-c").await.expect("there");
    assert_eq!(production["spec"]["template"]["spec"]["containers"][0]["image"], "spring-cloud-c:0.5");

    let broken = run(&["-i", "images.spring-c=spring-cloud-c:missing"]).expect(1);
    assert!(broken.stdout.contains("ImagePull"), "{}", broken.stdout);
    assert!(broken.stdout.contains("check that image"), "{}", broken.stdout);
    assert!(
        broken.stdout.contains("left to look at: Deployment spring-cloud-c-mse-gray"),
        "{}",
        broken.stdout
    );

    run(&["-i", "mode=down"]).expect(0);
    for kind in [DEPLOYMENTS, SERVICES, INGRESSES, SECRETS, PODS] {
        let params = ListParams::default().labels("zadigx-release-type=mse-gray");
        let left = server.api(kind.0, kind.1, kind.2).list(&params).await.expect("listed").items;
        assert!(left.is_empty(), "{} {:?}", kind.1, left.first().map(|object| &object.metadata.name));
    }
    assert!(server.get(DEPLOYMENTS, "spring-cloud-a").await.is_some(), "production stays");
    home.assert_no_secret();
    looks
}

/// An object as far as a client decides over it.
fn look(object: &Value, kind: &str) -> Value {
    let mut look = graylane_tasks::manifest::clean(object);
    // The hash of the live baseline is over what a server fills in, and servers differ in that.
    for annotation in ["graylane.dev/run", "graylane.dev/created", "graylane.dev/baseline-hash"] {
        if let Some(map) = look.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            map.remove(annotation);
        }
    }
    // Each cluster has a namespace of its own.
    if let Some(metadata) = look.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("namespace");
    }
    // The hash covers keyed digests, and every data folder has a key of its own.
    if let Some(map) = look.pointer_mut("/spec/template/metadata/annotations").and_then(Value::as_object_mut)
    {
        map.remove("graylane.dev/config-hash");
    }
    if kind == "Service"
        && let Some(spec) = look.get_mut("spec").and_then(Value::as_object_mut)
    {
        // Addresses are the server's; the fields around them differ between versions.
        spec.retain(|key, _| ["ports", "selector", "type", "sessionAffinity"].contains(&key.as_str()));
    }
    graylane_tasks::manifest::sorted(&look)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_story_on_the_rehearsal_and_on_a_real_api_server() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    let rehearsed = story(&rehearsal.kubeconfig, "story").await;
    let Some(kubeconfig) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI=true, and GRAYLANE_TEST_KUBECONFIG names no cluster"
        );
        say(
            "stories: 1 on the rehearsal, 0 on a real API server (skipped: GRAYLANE_TEST_KUBECONFIG is not set)",
        );
        return;
    };
    let namespace = format!("story-{}", std::process::id());
    let real = story(&kubeconfig, &namespace).await;
    for (rehearsed, real) in rehearsed.iter().zip(&real) {
        let names = |value: &Value| value.to_string().replace(&namespace, "story");
        assert_eq!(names(rehearsed), names(real), "the rehearsal and the real API server differ");
    }
    say("stories: 1 on the rehearsal, 1 on a real API server, differences 0");
}

const HTTP_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: spring-cloud-a }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [example.com]
  rules:
    - matches: [{ path: { type: PathPrefix, value: / } }]
      backendRefs: [{ name: spring-cloud-a-base, port: 20001 }]
";

/// HTTPRoutes are a custom kind: what the published definition says of the fields that lanes write, with its bounds.
#[rustfmt::skip]
fn http_route_definition() -> Value {
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

/// A route by each kind of gateway is taken as it was rendered, and goes with its lane; gives the routes as the server has them.
async fn routes(kubeconfig: &Path, prefix: &str) -> Vec<Value> {
    let table = [
        ("mse", "mse", "cookie: { name: lane, value: \"a.b\" }", INGRESSES),
        ("higress", "higress", "header: { name: x-version, value: \"1.0\" }", INGRESSES),
        ("ingress-nginx", "nginx", "header: { name: x-mse-tag, value: gray }", INGRESSES),
        ("gateway-api", "mse", "header: { name: x-user-id, value: \"100\" }", HTTP_ROUTES),
    ];
    let mut seen = Vec::new();
    for (kind, class, entry, door) in table {
        let namespace = format!("{prefix}-{kind}");
        let server = Server::new(kubeconfig, &namespace).await;
        let home = home(kubeconfig, &namespace);
        home.edit("config/environments/real.yaml", "kind: mse", &format!("kind: {kind}"));
        home.edit("workflows/lane.yaml", "header: { name: x-user-id, value: \"100\" }", entry);
        let text = std::fs::read_to_string(home.path("config/services/spring-a.yaml")).expect("there");
        let documents = text.split("---\n").map(|document| match document.contains("kind: Ingress") {
            true if kind == "gateway-api" => HTTP_ROUTE.to_owned(),
            _ => document.replace("ingressClassName: mse", &format!("ingressClassName: {class}")),
        });
        home.write("config/services/spring-a.yaml", &documents.collect::<Vec<_>>().join("---\n"));
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(server.client.clone());
        let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
        namespaces.create(&PostParams::default(), &made).await.expect("created");
        for service in ["spring-a", "spring-b", "spring-c"] {
            let file = home.path(&format!("config/services/{service}.yaml"));
            graylane_tasks::cluster::create_all(&server.client, &namespace, &file).await.expect("created");
        }
        home.graylane(&["run", "workflows/lane.yaml"]).expect(0);
        let route = server.get(door, "spring-cloud-a-mse-gray").await.expect("the route is there");
        let mut look = look(&route, door.1);
        // Older servers write the status of an Ingress, newer ones do not.
        if let Some(map) = look.as_object_mut() {
            map.retain(|key, _| matches!(key.as_str(), "metadata" | "spec"));
        }
        seen.push(look);
        home.graylane(&["run", "workflows/lane.yaml", "-i", "mode=down"]).expect(0);
        assert!(server.get(door, "spring-cloud-a-mse-gray").await.is_none(), "{kind}: the route is gone");
        assert!(server.get(door, "spring-cloud-a").await.is_some(), "{kind}: production's stays");
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_by_each_kind_of_gateway_is_taken_by_the_rehearsal_and_by_a_real_api_server() {
    let stage = Home::new();
    let rehearsal = stage.rehearsal("fast");
    until("the rehearsal has written its kubeconfig", || rehearsal.kubeconfig.exists());
    let rehearsed = routes(&rehearsal.kubeconfig, "routes").await;
    // Where no cluster is named, the story above says so, and fails in CI.
    let Some(kubeconfig) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) else { return };
    let prefix = format!("routes-{}", std::process::id());
    let client = client(&kubeconfig).await;
    let definitions = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ));
    let definitions: Api<DynamicObject> = Api::all_with(client, &definitions);
    let definition: DynamicObject = serde_json::from_value(http_route_definition()).expect("valid");
    match definitions.create(&PostParams::default(), &definition).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        made => drop(made.expect("HTTPRoutes are defined")),
    }
    let mut served = false;
    for _ in 0..100 {
        let server = Server { client: definitions.clone().into_client(), namespace: "default".into() };
        served = server
            .api(HTTP_ROUTES.0, HTTP_ROUTES.1, HTTP_ROUTES.2)
            .list(&ListParams::default())
            .await
            .is_ok();
        if served {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(served, "HTTPRoutes are served");
    let real = routes(&kubeconfig, &prefix).await;
    assert_eq!(rehearsed.len(), real.len());
    for (rehearsed, real) in rehearsed.iter().zip(&real) {
        assert_eq!(rehearsed.to_string(), real.to_string(), "the rehearsal and the real API server differ");
    }
}
