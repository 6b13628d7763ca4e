//! Rendering, judged on the seed's own services.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::labels::ANNOTATION_CREATED;
use super::route::{Entry, Header};
use super::*;
use crate::manifest::parse;

pub(super) fn service(name: &str) -> Vec<Value> {
    let path = format!("{}/../config/services/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    parse(name, &std::fs::read_to_string(path).expect("there")).expect("valid")
}

fn entry() -> Entry {
    let header = Header { name: "x-user-id".into(), value: Some("100".into()), pattern: None };
    Entry { service: "spring-a".into(), header: Some(header), cookie: None, weight: None }
}

fn rendered(
    service: &str,
    objects: &[Value],
    tag: &str,
    entry: Option<&Entry>,
) -> Result<Rendered, Vec<String>> {
    render(&Copy { entry, ..plain(service, objects, tag) })
}

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// A copy of which nothing special is said.
pub(super) fn plain<'c>(service: &'c str, baseline: &'c [Value], tag: &'c str) -> Copy<'c> {
    Copy {
        service,
        namespace: None,
        baseline,
        tag,
        images: &NONE,
        live: &NONE,
        replicas: 1,
        entry: None,
        gateway: GatewayKind::Mse,
        patches: &[],
        edited: None,
    }
}

fn find<'r>(rendered: &'r Rendered, wanted: &str) -> &'r Value {
    rendered.objects.iter().find(|object| kind(object) == wanted).expect(wanted)
}

/// The article's final YAML of spring-a, field by field, where it shows one. Names follow from the rule: it renamed
/// the Service by hand.
#[test]
fn the_lane_of_spring_a_is_the_seeds() {
    let a = rendered("spring-a", &service("spring-a"), "gray", Some(&entry())).expect("rendered");
    let labels = json!({
        "zadigx-release-service-name": "spring-a", "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray",
    });
    let ingress = find(&a, "Ingress");
    assert_eq!(ingress["metadata"]["labels"], labels);
    let mut annotations = ingress["metadata"]["annotations"].clone();
    annotations.as_object_mut().expect("a map").retain(|key, _| !key.starts_with("graylane.dev/"));
    assert_eq!(
        annotations,
        json!({
            "mse.ingress.kubernetes.io/request-header-control-update": "x-mse-tag gray",
            "nginx.ingress.kubernetes.io/canary": "true",
            "nginx.ingress.kubernetes.io/canary-by-header": "x-user-id",
            "nginx.ingress.kubernetes.io/canary-by-header-value": "100",
            "nginx.ingress.kubernetes.io/canary-weight": "0",
        })
    );
    assert_eq!(ingress["metadata"]["name"], "spring-cloud-a-mse-gray");
    assert_eq!(
        ingress["spec"],
        json!({ "ingressClassName": "mse", "rules": [{ "host": "example.com", "http": { "paths": [{
            "backend": { "service": { "name": "spring-cloud-a-base-mse-gray", "port": { "number": 20001 } } },
            "path": "/", "pathType": "Prefix" }] } }] })
    );
    let made = find(&a, "Service");
    assert_eq!(made["metadata"]["labels"], labels);
    assert_eq!(made["metadata"]["name"], "spring-cloud-a-base-mse-gray");
    assert_eq!(
        made["spec"],
        json!({ "ports": [{ "name": "http", "port": 20001, "protocol": "TCP", "targetPort": 20001 }],
            "selector": { "app": "spring-cloud-a", "zadigx-release-service-name": "spring-a",
                "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray" } })
    );
    let deployment = find(&a, "Deployment");
    assert_eq!(deployment["metadata"]["name"], "spring-cloud-a-mse-gray");
    let pods = json!({ "alicloud.service.tag": "gray", "app": "spring-cloud-a", "msePilotCreateAppName": "spring-cloud-a",
        "zadigx-release-service-name": "spring-a", "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray" });
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"], pods);
    let mut selector = pods;
    selector.as_object_mut().expect("a map").remove("msePilotCreateAppName");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector);
    let order: Vec<&str> = a.objects.iter().map(kind).collect();
    assert_eq!(order, ["Secret", "Deployment", "Service", "Ingress"], "the route comes last");
}

#[test]
fn references_follow_what_is_renamed_and_leave_what_is_shared() {
    let a = rendered("spring-a", &service("spring-a"), "gray", None).expect("rendered");
    let env = &find(&a, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env[1]["valueFrom"]["secretKeyRef"]["name"], "spring-cloud-a-mse-gray");
    assert!(
        find(&a, "Deployment")["spec"]["template"]["metadata"]["annotations"]["graylane.dev/config-hash"]
            .is_string()
    );
    assert_eq!(a.shared, ["Ingress spring-cloud-a stays shared: the service is not the lane's entry"]);

    let mut objects = service("spring-c");
    objects[0]["spec"]["template"]["spec"]["volumes"] = json!([
        { "name": "one", "configMap": { "name": "mine" } },
        { "name": "two", "configMap": { "name": "theirs" } },
        { "name": "three", "projected": { "sources": [{ "configMap": { "name": "mine" } }, { "secret": { "name": "theirs" } }] } },
    ]);
    objects[0]["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{ "configMapRef": { "name": "mine" } }]);
    objects.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "mine" }, "data": { "k": "v" } }));
    let c = rendered("spring-c", &objects, "gray", None).expect("rendered");
    let spec = &find(&c, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(spec["volumes"][0]["configMap"]["name"], "mine-mse-gray");
    assert_eq!(spec["volumes"][1]["configMap"]["name"], "theirs");
    assert_eq!(spec["volumes"][2]["projected"]["sources"][0]["configMap"]["name"], "mine-mse-gray");
    assert_eq!(spec["volumes"][2]["projected"]["sources"][1]["secret"]["name"], "theirs");
    assert_eq!(spec["containers"][0]["envFrom"][0]["configMapRef"]["name"], "mine-mse-gray");
}

#[test]
fn what_cannot_have_a_copy_is_refused_with_a_sentence() {
    type Change = fn(&mut Vec<Value>);
    let table: [(&str, Change, &str); 9] = [
        (
            "no version label on the selector",
            |o| {
                o[0]["spec"]["selector"]["matchLabels"].as_object_mut().expect("a map").remove(VERSION);
            },
            "spec.selector.matchLabels of its Deployment lacks `zadigx-release-version: original`",
        ),
        (
            "another version on the template",
            |o| {
                o[0]["spec"]["template"]["metadata"]["labels"][VERSION] = "v1".into();
            },
            "has `zadigx-release-version: v1`; the baseline's is `original`",
        ),
        (
            "two Deployments",
            |o| {
                let copy = o[0].clone();
                o.push(copy);
            },
            "has 2 Deployments: its manifest needs exactly one",
        ),
        (
            "no Deployment",
            |o| {
                o.remove(0);
            },
            "has no Deployment",
        ),
        (
            "a StatefulSet",
            |o| o.push(json!({ "kind": "StatefulSet", "metadata": { "name": "s" } })),
            "StatefulSet s: a lane cannot hold a copy",
        ),
        (
            "a custom kind",
            |o| o.push(json!({ "kind": "Rocket", "metadata": { "name": "s" } })),
            "Rocket s: a lane cannot hold a copy",
        ),
        (
            "a foreign namespace",
            |o| o[0]["metadata"]["namespace"] = "other".into(),
            "names a namespace of its own",
        ),
        (
            "a long name",
            |o| {
                o[1]["metadata"]["name"] = "x".repeat(56).into();
                o[2]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] =
                    "x".repeat(56).into();
            },
            "longer than 63 characters; use a tag of at most 2 characters",
        ),
        (
            "no Ingress at the entry",
            |o| o.retain(|object| kind(object) != "Ingress"),
            "cannot be the entry: its manifest has no Ingress",
        ),
    ];
    for (what, change, words) in table {
        let mut objects = service("spring-a");
        change(&mut objects);
        let wrong = rendered("spring-a", &objects, "gray", Some(&entry())).expect_err(what);
        assert!(wrong.iter().any(|sentence| sentence.contains(words)), "{what}: {wrong:?}");
    }
}

#[test]
fn tags_that_mean_something_else_are_refused() {
    for tag in ["original", "base", "", "Gray", "灰", "🚦", "-a", "a-", "a.b", &"a".repeat(60)] {
        assert!(check_tag(tag).is_err(), "{tag}");
        assert!(rendered("spring-c", &service("spring-c"), tag, None).is_err(), "{tag}");
    }
    for tag in ["gray", "a", "007", "x-1", &"a".repeat(20)] {
        assert_eq!(check_tag(tag), Ok(()), "{tag}");
    }
}

#[test]
fn what_the_server_or_a_deployer_wrote_is_left_behind() {
    let mut objects = service("spring-a");
    objects[0]["metadata"]["labels"] = json!({ "app.kubernetes.io/managed-by": "Helm", "team": "a" });
    objects[0]["metadata"]["annotations"] =
        json!({ "meta.helm.sh/release-name": "r", "argocd.argoproj.io/tracking-id": "t", "note": "n" });
    objects[0]["metadata"]["ownerReferences"] = json!([{ "uid": "u" }]);
    objects[0]["metadata"]["uid"] = "u".into();
    objects[0]["status"] = json!({ "replicas": 1 });
    objects[1]["spec"]["type"] = "LoadBalancer".into();
    objects[1]["spec"]["clusterIP"] = "10.0.0.1".into();
    objects[1]["spec"]["ports"][0]["nodePort"] = 30000.into();
    let a = rendered("spring-a", &objects, "gray", None).expect("rendered");
    let deployment = find(&a, "Deployment");
    assert_eq!(deployment["metadata"]["labels"]["team"], "a");
    assert_eq!(deployment["metadata"]["labels"]["app.kubernetes.io/managed-by"], "graylane");
    let annotations: Vec<&String> =
        deployment["metadata"]["annotations"].as_object().expect("a map").keys().collect();
    assert_eq!(annotations, ["graylane.dev/manifest-hash", "graylane.dev/origin", "note"]);
    assert!(
        deployment["metadata"].get("uid").is_none()
            && deployment["metadata"].get("ownerReferences").is_none()
    );
    assert!(deployment.get("status").is_none() && deployment["metadata"].get(ANNOTATION_CREATED).is_none());
    let made = &find(&a, "Service")["spec"];
    assert_eq!(made["type"], "ClusterIP");
    assert!(made.get("clusterIP").is_none() && made["ports"][0].get("nodePort").is_none());
}

#[test]
fn images_are_the_given_ones_else_the_live_ones() {
    let given = BTreeMap::from([("spring-cloud-c".to_owned(), "given:1".to_owned())]);
    let live = BTreeMap::from([("spring-cloud-c".to_owned(), "live:1".to_owned())]);
    let none = BTreeMap::new();
    for (given, live, expected) in [
        (&given, &live, "given:1"),
        (&none, &live, "live:1"),
        (&none, &none, "registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.1-SNAPSHOT"),
    ] {
        let objects = service("spring-c");
        let copy = Copy { images: given, live, replicas: 3, ..plain("spring-c", &objects, "gray") };
        let c = render(&copy).expect("rendered");
        assert_eq!(find(&c, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"], expected);
        assert_eq!(find(&c, "Deployment")["spec"]["replicas"], 3);
    }
}

proptest! {
    #[test]
    fn rendering_is_deterministic_and_tags_replace_each_other(tag in "[a-z]([-a-z0-9]{0,17}[a-z0-9])?", other in "[a-z]([-a-z0-9]{0,17}[a-z0-9])?") {
        prop_assume!(check_tag(&tag).is_ok() && check_tag(&other).is_ok());
        for name in ["spring-a", "spring-b", "spring-c"] {
            let entry = (name == "spring-a").then(entry);
            let one = rendered(name, &service(name), &tag, entry.as_ref()).expect("rendered");
            let two = rendered(name, &service(name), &tag, entry.as_ref()).expect("rendered");
            prop_assert_eq!(serde_json::to_vec(&one.objects).expect("json"), serde_json::to_vec(&two.objects).expect("json"));
            // The order of keys in the manifest does not matter.
            let shuffled: Vec<Value> = service(name).iter().rev().map(sorted).collect();
            let three = rendered(name, &shuffled, &tag, entry.as_ref()).expect("rendered");
            prop_assert_eq!(&one.objects, &three.objects);
            if tag != other {
                let four = rendered(name, &service(name), &other, entry.as_ref()).expect("rendered");
                for object in &four.objects {
                    prop_assert!(!one.objects.iter().any(|o| ObjectRef::of(o) == ObjectRef::of(object)));
                }
            }
        }
    }
}
