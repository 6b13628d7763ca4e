//! Patches and edited manifests: what a person changes is taken, and still has to be a copy of this service in this lane.

use serde_json::{Value, json};

use super::patch::{Patch, Target};
use super::route::{Entry, Header};
use super::tests::{plain, service};
use super::*;

fn patch(kind: &str, name: &str, change: Value) -> Patch {
    let target = Target { kind: kind.into(), name: name.into() };
    Patch { target, change: serde_json::from_value(change).expect("a change") }
}

fn entry() -> Entry {
    let header = Header { name: "x-user-id".into(), value: Some("100".into()), pattern: None };
    Entry { service: "spring-a".into(), header: Some(header), cookie: None, weight: None }
}

fn with(patches: &[Patch]) -> Result<Rendered, Vec<String>> {
    let (baseline, entry) = (service("spring-a"), entry());
    render(&Copy { patches, entry: Some(&entry), ..plain("spring-a", &baseline, "gray") })
}

fn find<'r>(rendered: &'r Rendered, wanted: &str) -> &'r Value {
    rendered.objects.iter().find(|object| kind(object) == wanted).expect(wanted)
}

#[test]
fn patches_come_last_in_their_order_and_the_same_patches_give_the_same_bytes() {
    let patches = [
        patch(
            "Deployment",
            "spring-cloud-a",
            json!({ "spec": { "replicas": 3, "template": { "spec": { "containers": [
            { "name": "spring-cloud-a", "env": [{ "name": "JAVA_HOME", "value": "/other" }], "resources": { "limits": { "memory": "1Gi" } } }] } } } }),
        ),
        patch(
            "Deployment",
            "spring-cloud-a",
            json!([{ "op": "replace", "path": "/spec/replicas", "value": 4 }]),
        ),
        patch("Service", "spring-cloud-a-base", json!({ "metadata": { "annotations": { "note": "n" } } })),
        patch(
            "Ingress",
            "spring-cloud-a",
            json!([{ "op": "add", "path": "/metadata/annotations/x", "value": "y" }]),
        ),
    ];
    let rendered = with(&patches).expect("rendered");
    let deployment = find(&rendered, "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 4);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"][0], json!({ "name": "JAVA_HOME", "value": "/other" }));
    assert_eq!(container["env"][1]["name"], "GREETING_TOKEN", "what the patch does not name stays");
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(find(&rendered, "Service")["metadata"]["annotations"]["note"], "n");
    assert_eq!(find(&rendered, "Ingress")["metadata"]["annotations"]["x"], "y");
    let again = with(&patches).expect("rendered");
    assert_eq!(
        serde_json::to_vec(&rendered.objects).expect("json"),
        serde_json::to_vec(&again.objects).expect("json")
    );
}

#[test]
fn a_changed_config_map_rolls_the_pods() {
    let mut baseline = service("spring-c");
    baseline.push(
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": { "k": "1" } }),
    );
    let hash = |patches: &[Patch]| {
        let rendered = render(&Copy { patches, ..plain("spring-c", &baseline, "gray") }).expect("rendered");
        find(&rendered, "Deployment")["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG_HASH]
            .clone()
    };
    assert_ne!(hash(&[]), hash(&[patch("ConfigMap", "c", json!({ "data": { "k": "2" } }))]));
}

#[test]
fn a_patch_takes_away_what_would_be_refused() {
    let mut baseline = service("spring-a");
    baseline[0]["spec"]["template"]["spec"]["hostNetwork"] = true.into();
    assert!(render(&plain("spring-a", &baseline, "gray")).is_err());
    let patches = [patch(
        "Deployment",
        "spring-cloud-a",
        json!({ "spec": { "template": { "spec": { "hostNetwork": null } } } }),
    )];
    assert!(render(&Copy { patches: &patches, ..plain("spring-a", &baseline, "gray") }).is_ok());
}

#[test]
fn an_ingress_is_copied_where_a_patch_names_it() {
    let baseline = service("spring-a");
    let plainly = render(&plain("spring-a", &baseline, "gray")).expect("rendered");
    assert!(!plainly.objects.iter().any(|object| kind(object) == "Ingress"));
    let host = json!([{ "op": "replace", "path": "/spec/rules/0/host", "value": "gray.example.com" }]);
    let patches = [patch("Ingress", "spring-cloud-a", host)];
    let rendered =
        render(&Copy { patches: &patches, ..plain("spring-a", &baseline, "gray") }).expect("rendered");
    let ingress = find(&rendered, "Ingress");
    assert_eq!(ingress["spec"]["rules"][0]["host"], "gray.example.com");
    assert_eq!(ingress["metadata"]["labels"][VERSION], "gray");
    assert_eq!(
        ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"],
        "spring-cloud-a-base-mse-gray"
    );
}

#[test]
fn a_patch_that_takes_the_copy_out_of_its_lane_is_refused() {
    let table: [(&str, Value, &str); 9] = [
        (
            "Deployment",
            json!({ "spec": { "selector": { "matchLabels": { VERSION: "original" } } } }),
            "spec.selector.matchLabels of Deployment spring-cloud-a-mse-gray must have `zadigx-release-version: gray`, and has `original`",
        ),
        (
            "Deployment",
            json!({ "spec": { "template": { "metadata": { "labels": { SERVICE_TAG: null } } } } }),
            "spec.template.metadata.labels of Deployment spring-cloud-a-mse-gray must have `alicloud.service.tag: gray`, and lacks it",
        ),
        (
            "Deployment",
            json!({ "spec": { "template": { "metadata": { "labels": { APP_NAME: null } } } } }),
            "the template of Deployment spring-cloud-a-mse-gray must have `msePilotCreateAppName`: without it the copy registers as another application, and joins no lane",
        ),
        (
            "Deployment",
            json!({ "spec": { "selector": { "matchLabels": { "extra": "x" } } } }),
            "the selector of Deployment spring-cloud-a-mse-gray asks for `extra: x`, which its pods do not carry",
        ),
        (
            "Deployment",
            json!({ "metadata": { "name": "other" } }),
            " would make it Deployment other of apps/v1: kind, name and version stay as they are",
        ),
        (
            "Deployment",
            json!({ "metadata": { "namespace": "other" } }),
            "Deployment spring-cloud-a-mse-gray names a namespace of its own; remove it: the environment's holds",
        ),
        (
            "Deployment",
            json!([{ "op": "test", "path": "/spec/replicas", "value": 7 }]),
            "operation 1: `/spec/replicas` is 1, not 7",
        ),
        (
            "Secret",
            json!({ "stringData": { "token": "x" } }),
            " holds data of a Secret, which would be kept with the run: change it in the service's manifest",
        ),
        (
            "Deploment",
            json!({}),
            " fits to nothing that the lane copies; did you mean Deployment spring-cloud-a?",
        ),
    ];
    for (kind, change, expected) in table {
        let wrong = with(&[patch(kind, "spring-cloud-a", change.clone())]).expect_err(expected);
        assert!(wrong.iter().any(|sentence| sentence.ends_with(expected)), "{change}: {wrong:#?}");
    }
    let selector =
        [patch("Service", "spring-cloud-a-base", json!({ "spec": { "selector": { "app": "b" } } }))];
    let wrong = with(&selector).expect_err("leads nowhere");
    assert_eq!(
        wrong,
        [
            "Service spring-cloud-a-base-mse-gray would select no pod of the lane: its selector and the pods' labels do not fit"
        ]
    );
}

/// What `graylane render` prints, edited.
fn edited(change: fn(&mut Vec<Value>), entry: Option<&Entry>) -> Result<Rendered, Vec<String>> {
    let baseline = service("spring-a");
    let mut file = render(&Copy { entry, ..plain("spring-a", &baseline, "gray") }).expect("rendered").objects;
    change(&mut file);
    render(&Copy { edited: Some(&file), entry, ..plain("spring-a", &baseline, "gray") })
}

#[test]
fn a_manifest_that_nobody_edited_gives_the_same_bytes_as_the_rules() {
    let baseline = service("spring-a");
    let entry = entry();
    let ruled =
        render(&Copy { entry: Some(&entry), ..plain("spring-a", &baseline, "gray") }).expect("rendered");
    let same = edited(|_| {}, Some(&entry)).expect("rendered");
    assert_eq!(same.objects, ruled.objects);
    assert_eq!(same.notes, ruled.notes);
}

#[test]
fn an_edited_manifest_is_taken_as_it_is_where_it_is_still_a_copy() {
    let rendered = edited(
        |o| {
            let at = o.iter().position(|one| kind(one) == "Deployment").expect("there");
            o[at]["spec"]["replicas"] = 5.into();
            o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "new-mse-gray",
                "labels": { VERSION: "gray", TYPE: GRAY_TYPE, SERVICE_NAME: "spring-a" } }, "data": { "k": "v" } }));
        },
        Some(&entry()),
    )
    .expect("rendered");
    assert_eq!(find(&rendered, "Deployment")["spec"]["replicas"], 5);
    assert_eq!(find(&rendered, "ConfigMap")["metadata"]["annotations"][ANNOTATION_ORIGIN], "new");
    let less = edited(|o| o.retain(|one| kind(one) != "Secret"), Some(&entry())).expect("rendered");
    assert_eq!(
        less.notes,
        ["Secret spring-cloud-a-mse-gray is left out: the edited manifest does not have it"]
    );
    let moved =
        edited(|o| o[1]["metadata"]["annotations"][ANNOTATION_MANIFEST_HASH] = "old".into(), Some(&entry()));
    let note = "Deployment spring-cloud-a-mse-gray was edited over a baseline that has changed since: render it anew";
    assert_eq!(moved.expect("rendered").notes, [note]);
}

#[test]
fn an_edited_manifest_under_the_same_checks() {
    type Change = fn(&mut Vec<Value>);
    let table: [(Change, &str); 9] = [
        (
            |o| o[1]["metadata"]["name"] = "spring-cloud-a".into(),
            "Deployment spring-cloud-a must have a name that ends with `-mse-gray`",
        ),
        (
            |o| {
                map_at(&mut o[1], &["metadata", "labels"]).remove(TYPE);
            },
            "metadata.labels of Deployment spring-cloud-a-mse-gray must have `zadigx-release-type: mse-gray`, and lacks it",
        ),
        (
            |o| {
                map_at(&mut o[2], &["spec", "selector"]).remove(VERSION);
            },
            "spec.selector of Service spring-cloud-a-base-mse-gray must have `zadigx-release-version: gray`, and lacks it",
        ),
        (
            |o| {
                o.push(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "s-mse-gray" } }))
            },
            "StatefulSet s-mse-gray: a lane cannot hold this kind",
        ),
        (
            |o| {
                o.remove(1);
            },
            "service `spring-a` has no Deployment: its manifest needs exactly one",
        ),
        (
            |o| {
                let twice = o[2].clone();
                o.push(twice);
            },
            " has Service spring-cloud-a-base-mse-gray twice",
        ),
        (
            |o| {
                o.pop();
            },
            " has no Ingress, and the service is the entry",
        ),
        (
            |o| {
                o[3]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header-value"] =
                    "7".into()
            },
            "Ingress spring-cloud-a-mse-gray lets in x-user-id: 7 on example.com, and `entry` says x-user-id: 100 on example.com: make them the same",
        ),
        (
            |o| o[0]["metadata"]["name"] = "other-mse-gray".into(),
            "Secret other-mse-gray has no baseline whose values it could have: values of Secrets stand in the service's manifest only",
        ),
    ];
    for (change, expected) in table {
        let wrong = edited(change, Some(&entry())).expect_err(expected);
        assert!(wrong.iter().any(|sentence| sentence.ends_with(expected)), "{expected}: {wrong:#?}");
    }
    let baseline = service("spring-a");
    let entry = entry();
    let file = render(&Copy { entry: Some(&entry), ..plain("spring-a", &baseline, "gray") })
        .expect("rendered")
        .objects;
    let wrong =
        render(&Copy { edited: Some(&file), ..plain("spring-a", &baseline, "gray") }).expect_err("no entry");
    assert!(wrong[0].contains("and the task no `entry` that names the service"), "{wrong:?}");
}
