//! What `graylane render` prints is what a deploy applies; what a person changed of it is applied, under the same checks.

use std::fs;

use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use crate::support::{Home, Rehearsal, ask, until};

const NAMESPACE: &str = "mse-customer";

fn workflow(services: &str, entry: &str) -> String {
    format!(
        "name: release\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    with:\n      environment: production\n      tag: gray\n      services:\n{services}{entry}"
    )
}

const ENTRY: &str = "      entry: { service: spring-a, header: { name: x-user-id, value: \"100\" } }\n";

async fn live(rehearsal: &Rehearsal, object: &Value) -> Value {
    let text = |key: &str| object[key].as_str().expect("a text").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let api: Api<DynamicObject> = Api::namespaced_with(rehearsal.client().await, NAMESPACE, &resource);
    let name = object["metadata"]["name"].as_str().expect("a name");
    serde_json::to_value(api.get(name).await.expect(name)).expect("json")
}

/// Everything of `part` is in `whole`; the server adds its defaults.
fn holds(whole: &Value, part: &Value, at: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                holds(whole.get(key).unwrap_or(&Value::Null), value, &format!("{at}/{key}"));
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{at}");
            for (index, (whole, part)) in whole.iter().zip(part).enumerate() {
                holds(whole, part, &format!("{at}/{index}"));
            }
        }
        _ => assert_eq!(whole, part, "{at}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn render_prints_what_a_deploy_applies_and_what_differs_from_the_baseline() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    until("the baseline answers", || ask(&rehearsal.gateway, "/a", &[]).status == 200);
    home.write("more.yaml", "spec: { template: { spec: { terminationGracePeriodSeconds: 7 } } }\n");
    let arguments = ["render", "spring-a", "-e", "production", "-t", "gray", "--header", "x-user-id=100"];
    let patched = ["--patch", "Deployment/spring-cloud-a=more.yaml"];
    let rendered = home.graylane(&[&arguments[..], &patched, &["-o", "json"]].concat()).expect(0).json();
    let again = home.graylane(&[&arguments[..], &patched, &["-o", "json"]].concat()).expect(0);
    assert_eq!(again.json(), rendered, "the same input gives the same bytes");

    let patch = "        spring-a: { patches: [{ target: { kind: Deployment, name: spring-cloud-a }, file: ../more.yaml }] }\n";
    home.write("workflows/release.yaml", &workflow(patch, ENTRY));
    let outside = home.graylane(&["run", "workflows/release.yaml"]).expect(2);
    assert!(
        outside.stderr.contains("`../more.yaml` leads out of the workflow's folder"),
        "{}",
        outside.stderr
    );
    fs::rename(home.path("more.yaml"), home.path("workflows/more.yaml")).expect("moved");
    home.write("workflows/release.yaml", &workflow(&patch.replace("../", ""), ENTRY));
    home.graylane(&["validate", "workflows/"]).expect(0);
    let run = home.graylane(&["run", "workflows/release.yaml"]);
    assert_eq!(run.code, 0, "{run:?}");
    for object in rendered.as_array().expect("a list") {
        let mut part = object.clone();
        if part["kind"] == "Secret" {
            assert!(part["data"]["token"].as_str().is_some_and(|text| text.starts_with("digest:")));
            part.as_object_mut().expect("a map").remove("data");
        }
        if let Some(annotations) = part.pointer_mut("/spec/template/metadata/annotations") {
            assert!(annotations["graylane.dev/config-hash"].is_string());
        }
        holds(&live(&rehearsal, object).await, &part, part["kind"].as_str().expect("a kind"));
    }

    let diff = home.graylane(&[&arguments[..], &["--diff"]].concat()).expect(0).stdout;
    for line in [
        "Deployment spring-cloud-a-mse-gray (a copy of spring-cloud-a)",
        "-  name: spring-cloud-a-base",
        "+  name: spring-cloud-a-base-mse-gray",
        "+    nginx.ingress.kubernetes.io/canary-by-header: x-user-id",
    ] {
        assert!(diff.contains(line), "{line}\n{diff}");
    }
    home.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_manifest_is_sealed_with_the_run_and_applied() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    until("the baseline answers", || ask(&rehearsal.gateway, "/a", &[]).status == 200);
    let printed =
        home.graylane(&["render", "spring-a", "-e", "production", "--header", "x-user-id=100"]).expect(0);
    let edited = printed.stdout.replace("replicas: 1", "replicas: 2");
    assert_ne!(edited, printed.stdout);
    fs::create_dir(home.path("workflows/gray")).expect("made");
    home.write("workflows/gray/spring-a.yaml", &edited);
    home.write(
        "workflows/release.yaml",
        &workflow("        spring-a: { manifest: gray/spring-a.yaml }\n", ENTRY),
    );
    home.graylane(&["run", "workflows/release.yaml"]).expect(0);
    let deployment: Value = serde_json::json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "spring-cloud-a-mse-gray" } });
    assert_eq!(live(&rehearsal, &deployment).await["spec"]["replicas"], 2);
    let secret: Value = serde_json::json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray" } });
    assert_eq!(
        live(&rehearsal, &secret).await["data"]["token"],
        "ZXhhbXBsZS10b2tlbi03ZjNhOWM=",
        "the cluster gets the value"
    );

    // What leaves the lane is refused, and a value of a Secret never gets into a run.
    home.write(
        "workflows/gray/spring-a.yaml",
        &edited.replacen("zadigx-release-version: gray", "zadigx-release-version: original", 1),
    );
    let refused = home.graylane(&["run", "workflows/release.yaml"]).expect(1);
    assert!(
        refused.stdout.contains("must have `zadigx-release-version: gray`, and has `original`"),
        "{}",
        refused.stdout
    );
    let value =
        edited.lines().map(|line| if line.contains("token: ") { "  token: aHVudGVyMg==" } else { line });
    home.write("workflows/gray/spring-a.yaml", &value.collect::<Vec<_>>().join("\n"));
    let refused = home.graylane(&["run", "workflows/release.yaml"]).expect(2);
    assert!(refused.stderr.contains("Secret spring-cloud-a-mse-gray holds values"), "{}", refused.stderr);
    home.assert_no_secret();
}
