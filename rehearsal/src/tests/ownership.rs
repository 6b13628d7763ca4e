//! Server-side apply through the API: who owns what, who may change it, and what goes when nobody wants it any more.

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::support::*;
use crate::{Cluster, Delays};

async fn ssa(cluster: &Cluster, manager: &str, force: bool, manifest: Value) -> kube::Result<Value> {
    let done: DynamicObject = apply_one(&cluster.client(), SPACE, manifest, manager, force).await?;
    Ok(serde_json::to_value(done).unwrap())
}

fn message(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("{other}"),
    }
}

/// The fields of a manager, as `managedFields` has them.
fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|entry| entry["manager"] == manager).map_or(&Value::Null, |entry| &entry["fieldsV1"])
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

#[tokio::test(start_paused = true)]
async fn what_a_manager_stops_applying_goes_unless_another_owns_it_too() {
    let cluster = cluster(Delays::none()).await;
    ssa(&cluster, "one", false, config(json!({"a": "1", "b": "1", "c": "1"}))).await.unwrap();
    // An equal value is owned together, without a conflict.
    ssa(&cluster, "two", false, config(json!({"b": "1"}))).await.unwrap();
    let after = ssa(&cluster, "one", false, config(json!({"a": "1"}))).await.unwrap();
    assert_eq!(after["data"], json!({"a": "1", "b": "1"}));
    assert_eq!(fields_of(&after, "one"), &json!({"f:data": {"f:a": {}}}));
    let after = ssa(&cluster, "two", false, config(json!({}))).await.unwrap();
    assert_eq!(after["data"], json!({"a": "1"}));
    assert_eq!(fields_of(&after, "two"), &json!({"f:data": {}}));
}

#[tokio::test(start_paused = true)]
async fn another_managers_value_is_a_conflict_and_force_takes_it() {
    let cluster = cluster(Delays::none()).await;
    let handle = deployments(&cluster.client());
    let object = serde_json::from_value(deployment("a", "", "v1")).unwrap();
    let parameters =
        PostParams { field_manager: Some("kubectl-client-side-apply".to_owned()), ..PostParams::default() };
    handle.create(&parameters, &object).await.unwrap();
    let wanted = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spring-cloud-a"}, "spec": {"replicas": 3}});
    let (code, said) = message(ssa(&cluster, "graylane", false, wanted.clone()).await.unwrap_err());
    assert_eq!(code, 409);
    assert_eq!(
        said,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let forced = ssa(&cluster, "graylane", true, wanted.clone()).await.unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert!(fields_of(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
    // Now it is an applier's: conflicts name it without a version.
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spring-cloud-a"}, "spec": {"replicas": 4}});
    let error = ssa(&cluster, "autoscaler", false, other).await.unwrap_err();
    let kube::Error::Api(status) = &error else { panic!("{error}") };
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"graylane\": .spec.replicas");
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_takes_the_fields_that_it_changes_from_their_applier() {
    let cluster = cluster(Delays::none()).await;
    ssa(&cluster, "graylane", false, deployment("a", "", "v1")).await.unwrap();
    let merge =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "spring-cloud-a", "image": "i:2"}]}}}});
    let parameters = PatchParams { field_manager: Some("kubectl-set".to_owned()), ..PatchParams::default() };
    deployments(&cluster.client())
        .patch("spring-cloud-a", &parameters, &Patch::Strategic(merge))
        .await
        .unwrap();
    let (_, said) = message(ssa(&cluster, "graylane", false, deployment("a", "", "v1")).await.unwrap_err());
    assert_eq!(
        said,
        "Apply failed with 1 conflict: conflict with \"kubectl-set\" using apps/v1: .spec.template.spec.containers[name=\"spring-cloud-a\"].image"
    );
    let after = ssa(&cluster, "graylane", true, deployment("a", "", "v1")).await.unwrap();
    assert!(after["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().ends_with(":v1"));
}

#[tokio::test(start_paused = true)]
async fn several_conflicts_are_listed_by_manager() {
    let cluster = cluster(Delays::none()).await;
    ssa(&cluster, "one", false, config(json!({"a": "1", "b": "1"}))).await.unwrap();
    let (_, said) =
        message(ssa(&cluster, "two", false, config(json!({"a": "2", "b": "2"}))).await.unwrap_err());
    assert_eq!(said, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b");
}

#[tokio::test(start_paused = true)]
async fn keyed_lists_merge_by_item_and_lose_only_what_was_applied() {
    let cluster = cluster(Delays::none()).await;
    let with_env = |names: &[&str]| {
        let mut manifest = deployment("a", "", "v1");
        let env: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "x"})).collect();
        manifest["spec"]["template"]["spec"]["containers"][0]["env"] = env.into();
        manifest
    };
    ssa(&cluster, "graylane", false, with_env(&["ONE", "TWO"])).await.unwrap();
    let only = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spring-cloud-a"},
        "spec": {"template": {"spec": {"containers": [{"name": "spring-cloud-a", "env": [{"name": "OTHER", "value": "y"}]}]}}},
    });
    ssa(&cluster, "other", false, only).await.unwrap();
    let after = ssa(&cluster, "graylane", false, with_env(&["TWO", "THREE"])).await.unwrap();
    let env = after["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let names: Vec<&str> = env.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["TWO", "OTHER", "THREE"]);
}

#[tokio::test(start_paused = true)]
async fn a_structure_that_is_no_longer_applied_goes_with_its_defaults() {
    let cluster = cluster(Delays::none()).await;
    let mut probed = deployment("a", "", "v1");
    probed["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] =
        json!({"tcpSocket": {"port": 20001}});
    let before = ssa(&cluster, "graylane", false, probed).await.unwrap();
    assert_eq!(before["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["periodSeconds"], 10);
    let after = ssa(&cluster, "graylane", false, deployment("a", "", "v1")).await.unwrap();
    assert!(after["spec"]["template"]["spec"]["containers"][0].get("livenessProbe").is_none());
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[tokio::test(start_paused = true)]
async fn the_same_apply_twice_changes_nothing() {
    let cluster = cluster(Delays::none()).await;
    for manifest in baseline().into_iter().chain(gray_lane()) {
        let first = ssa(&cluster, "graylane", false, manifest.clone()).await.unwrap();
        let name = first["metadata"]["name"].as_str().unwrap().to_owned();
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        let live = ssa(&cluster, "graylane", false, manifest.clone()).await.unwrap();
        let again = ssa(&cluster, "graylane", false, manifest).await.unwrap();
        assert_eq!(live["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"], "{name}");
        assert_eq!(first["metadata"]["generation"], again["metadata"]["generation"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_goes_all_the_way_and_stores_nothing() {
    let cluster = cluster(Delays::none()).await;
    let handle = deployments(&cluster.client());
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("graylane") };
    let shown = handle.patch("spring-cloud-a", &dry, &Patch::Apply(deployment("a", "", "v1"))).await.unwrap();
    assert_eq!(shown.spec.unwrap().progress_deadline_seconds, Some(600));
    assert!(handle.get_opt("spring-cloud-a").await.unwrap().is_none());
    let mut broken = deployment("a", "", "v1");
    broken["spec"]["selector"]["matchLabels"]["app"] = "other".into();
    let (code, said) =
        message(handle.patch("spring-cloud-a", &dry, &Patch::Apply(broken)).await.unwrap_err());
    assert_eq!(code, 422);
    assert!(said.contains("`selector` does not match template `labels`"), "{said}");
    let requests = cluster.requests();
    assert!(requests.iter().filter(|one| one.dry_run).count() == 2 && requests.last().unwrap().code == 422);
}

#[tokio::test(start_paused = true)]
async fn an_apply_says_the_whole_truth_about_its_mistakes() {
    let cluster = cluster(Delays::none()).await;
    let unknown = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replica": 1}});
    let (code, said) = message(ssa(&cluster, "graylane", false, unknown).await.unwrap_err());
    assert_eq!(code, 500);
    assert_eq!(
        said,
        "failed to create typed patch object (mse-customer/x; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema"
    );
    let twice = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}, {"port": 1}]}});
    let (code, said) = message(ssa(&cluster, "graylane", false, twice).await.unwrap_err());
    assert!(code >= 400 && said.contains("duplicate entries for key"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_a_webhook_changes_is_nobodys_and_stays_when_a_manager_applies_again() {
    let cluster = cluster(Delays::none()).await;
    let mark = json!({ "spec": { "template": { "metadata": { "annotations": { "policy.example.com/seen": "yes" } } } } });
    cluster.set_webhook(Some(mark));
    for image in ["v1", "v2"] {
        let made = ssa(&cluster, "one", true, deployment("a", "", image)).await.unwrap();
        assert_eq!(
            made["spec"]["template"]["metadata"]["annotations"],
            json!({"policy.example.com/seen": "yes"})
        );
        let owners = made["metadata"]["managedFields"].to_string();
        assert!(owners.contains("f:image") && !owners.contains("policy.example.com"), "{owners}");
    }
    // A write of the status does not come to it.
    cluster.set_webhook(Some(json!({ "spec": { "replicas": 7 } })));
    let live = ssa(
        &cluster,
        "two",
        false,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spring-cloud-a"}}),
    );
    assert_eq!(live.await.unwrap()["spec"]["replicas"], 7);
    cluster.set_webhook(None);
    let back = ssa(&cluster, "one", true, deployment("a", "", "v2")).await.unwrap();
    assert_eq!(back["spec"]["replicas"], 1, "an applier who has the field wins it back");
}
