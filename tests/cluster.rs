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
    for annotation in ["graylane.dev/run", "graylane.dev/created"] {
        if let Some(map) = look.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            map.remove(annotation);
        }
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
