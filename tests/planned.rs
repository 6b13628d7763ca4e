//! What a plan tells, and what it asks the cluster for: notes about what is legal and seldom meant, and calls that do not grow with the lane.

use std::fs;

use graylane_tasks::cluster::create_all;
use graylane_tasks::manifest::{parse, yaml};
use serde_json::{Value, json};

use crate::support::Home;
use crate::support::desk::{Desk, NAMESPACE, changes, service_file};

const DEPLOY: &str = "mse-gray-deploy";

/// Changes the manifest of a service.
fn change(home: &Home, service: &str, change: impl Fn(&mut Vec<Value>)) {
    let path = home.path(&service_file(service));
    let mut objects = parse(service, &fs::read_to_string(&path).expect("there")).expect("valid");
    change(&mut objects);
    let text: Vec<String> = objects.iter().map(yaml).collect();
    fs::write(path, text.join("---\n")).expect("written");
}

/// Puts more onto the cluster.
async fn put(desk: &Desk, objects: &[Value]) {
    let text: Vec<String> = objects.iter().map(yaml).collect();
    desk.home.write("more.yaml", &text.join("---\n"));
    create_all(&desk.cluster.client(), NAMESPACE, &desk.home.path("more.yaml")).await.expect("created");
}

fn spec() -> Value {
    json!({
        "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" },
        "entry": { "service": "spring-a", "header": { "name": "x-user-id", "value": "100" } },
    })
}

fn pods(objects: &mut [Value]) -> &mut Value {
    &mut objects[0]["spec"]["template"]["spec"]
}

/// A claim that both versions write to is a person's decision: said, it is told and made.
#[tokio::test(start_paused = true)]
async fn a_claim_that_a_person_confirms_is_told_and_the_plan_is_made() {
    let home = Home::new();
    change(&home, "spring-c", |o| {
        pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }]);
    });
    let desk = Desk::furnished(home).await;
    put(
        &desk,
        &[json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
        "spec": { "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } } })],
    )
    .await;
    let confirmed =
        json!({ "spring-c": { "images": { "spring-cloud-c": "c:2" }, "shared_claims": ["store"] } });
    let plan = desk.plan(DEPLOY, &json!({ "tag": "gray", "services": confirmed })).await.expect("planned");
    let told = "Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store";
    assert!(plan.warnings.iter().any(|note| note == told), "{:?}", plan.warnings);
}

/// What is legal and seldom meant: the sentence in the plan, and that a plan without it does not say so.
#[tokio::test(start_paused = true)]
async fn what_is_legal_and_seldom_meant_is_told_in_the_plan() {
    type Told = (&'static str, fn(&Home), fn(&Desk), fn(&mut Value), &'static str);
    let table: [Told; 4] = [
        (
            "a baseline that nobody runs",
            |h| change(h, "spring-c", |o| o[0]["spec"]["replicas"] = 0.into()),
            |_| {},
            |_| {},
            "Deployment spring-cloud-c is scaled to 0: while service `spring-c` has no baseline pod, whoever calls it meets the lane",
        ),
        (
            "an Ingress of a class that the gateway does not read",
            |h| change(h, "spring-a", |o| o[2]["spec"]["ingressClassName"] = "other".into()),
            |_| {},
            |_| {},
            "Ingress spring-cloud-a-mse-gray is of class other, and the environment's gateway reads mse: nobody may enter",
        ),
        (
            "kinds that this identity may not see",
            |_| {},
            |desk| desk.cluster.forbid("list", "networkpolicies.networking.k8s.io"),
            |_| {},
            "this identity may not list NetworkPolicy: what gray pods mean to them could not be looked at; add to its Role: { apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: [list] }",
        ),
        (
            "an Ingress that a patch copies to a host of its own",
            |_| {},
            |_| {},
            |s| {
                s.as_object_mut().expect("a map").remove("entry");
                let host =
                    json!([{ "op": "replace", "path": "/spec/rules/0/host", "value": "gray.example.com" }]);
                let target = json!({ "kind": "Ingress", "name": "spring-cloud-a" });
                s["images"] = json!({ "spring-c": "c:2" });
                s["services"] = json!({ "spring-a": { "patches": [{ "target": target, "patch": host }] } });
            },
            "Ingress spring-cloud-a-mse-gray is a route of its own, on gray.example.com: nothing puts the lane's tag on its requests unless its patch does",
        ),
    ];
    for (what, manifests, later, with, words) in table {
        let home = Home::new();
        manifests(&home);
        let desk = Desk::furnished(home).await;
        later(&desk);
        let mut asked = spec();
        with(&mut asked);
        let plan = desk.plan(DEPLOY, &asked).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(plan.warnings.iter().any(|note| note == words), "{what}: {:?}", plan.warnings);
        let plainly = Desk::furnished(Home::new()).await;
        let plan = plainly.plan(DEPLOY, &spec()).await.expect("planned");
        assert!(!plan.warnings.iter().any(|note| note == words), "{what}: said of every plan");
    }
    // The example's pods say when they live, and not when they are ready.
    let probed = Home::new();
    change(&probed, "spring-c", |o| {
        let probe = pods(o)["containers"][0]["livenessProbe"].clone();
        pods(o)["containers"][0]["readinessProbe"] = probe;
    });
    let words =
        "Deployment spring-cloud-c-mse-gray has no readiness probe: its pods count as up as soon as they run";
    for (home, told) in [(Home::new(), true), (probed, false)] {
        let desk = Desk::furnished(home).await;
        let plan = desk.plan(DEPLOY, &spec()).await.expect("planned");
        assert_eq!(plan.warnings.iter().any(|note| note == words), told, "{:?}", plan.warnings);
    }
    // Who owns the baseline on the cluster may take back what a promotion writes.
    let desk = Desk::furnished(Home::new()).await;
    let owner = desk.get("Service", "spring-cloud-a-base").await.expect("there");
    let owner = json!([{ "apiVersion": "v1", "kind": "Service", "name": "spring-cloud-a-base", "uid": owner["metadata"]["uid"] }]);
    let patch = json!([{ "op": "add", "path": "/metadata/ownerReferences", "value": owner }]);
    desk.edit("Deployment", "spring-cloud-a", patch).await;
    let plan = desk.plan(DEPLOY, &spec()).await.expect("planned");
    let words = "Deployment spring-cloud-a is managed by Service spring-cloud-a-base: it may take back what a promotion writes";
    assert!(plan.warnings.iter().any(|note| note == words), "{:?}", plan.warnings);
}

/// A home with so many services more, of ten objects each, and the lane that holds a copy of each.
fn crowd(count: usize) -> (Home, Value) {
    let home = Home::new();
    let template = fs::read_to_string(home.path(&service_file("spring-c"))).expect("there");
    let mut images = serde_json::Map::new();
    for number in 0..count {
        let name = format!("svc-{number}");
        let mut text = template.replace("spring-cloud-c", &name);
        for extra in 0..9 {
            text.push_str(&format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}-{extra} }}\ndata: {{ k: v }}\n"));
        }
        home.write(&service_file(&name), &text);
        images.insert(name, "i:2".into());
    }
    (home, json!({ "tag": "gray", "images": images }))
}

/// How many calls read the cluster since it was cleared, and how many tried something without writing it.
fn calls(desk: &Desk) -> (u64, usize) {
    let tries = desk.cluster.requests().len();
    assert_eq!(desk.wrote(), Vec::<String>::new(), "a look writes nothing");
    (desk.cluster.counted() - tries as u64, tries)
}

/// Many services with many objects: the cluster is asked by lists, and once a service whether it takes its Deployment.
#[tokio::test(start_paused = true)]
async fn a_large_lane_is_planned_without_a_call_per_object() {
    let mut asked = Vec::new();
    for count in [11, 22] {
        let (home, spec) = crowd(count);
        let desk = Desk::furnished(home).await;
        let plan = desk.plan(DEPLOY, &spec).await.expect("planned");
        assert_eq!(plan.changes.len(), count * 10);
        let told = format!(
            "{count} of {} objects were tried on the API server: Deployments, routes, and what was patched or edited",
            count * 10
        );
        assert!(plan.warnings.contains(&told), "{:?}", plan.warnings);
        let (reads, tries) = calls(&desk);
        assert_eq!(tries, count, "one dry run a service");
        asked.push(reads);
        desk.cluster.shutdown().await;
    }
    assert_eq!(asked[0], asked[1], "reads do not grow with the lane");
    assert!(asked[0] < 40, "{asked:?}");
}

/// The same of a lane that stands: deployed again, listed, and taken down.
#[tokio::test(start_paused = true)]
async fn a_large_lane_that_stands_is_looked_at_without_a_call_per_object() {
    let mut asked = Vec::new();
    for count in [3, 6] {
        let (home, spec) = crowd(count);
        let desk = Desk::with(home).await;
        desk.run(DEPLOY, &spec).await;
        let mut reads = Vec::new();
        desk.cluster.clear_requests();
        let again = desk.plan(DEPLOY, &spec).await.expect("planned");
        assert!(again.changes.len() >= count * 10);
        reads.push(calls(&desk).0);
        desk.cluster.clear_requests();
        assert_eq!(desk.lanes().await[0].services.len(), count);
        reads.push(calls(&desk).0);
        desk.cluster.clear_requests();
        let down = desk.plan("mse-gray-offline", &json!({ "tag": "gray" })).await.expect("planned");
        assert_eq!(down.changes.len(), count * 10);
        reads.push(calls(&desk).0);
        asked.push(reads);
        desk.cluster.shutdown().await;
    }
    assert_eq!(asked[0], asked[1], "reads do not grow with the lane: deployed again, listed, taken down");
}

/// The Role has a rule for Secrets only where a manifest has one: when that goes, a copy that was made before is out of sight.
#[tokio::test(start_paused = true)]
async fn a_copy_of_a_secret_that_nobody_may_see_any_more_is_named_and_not_passed_over() {
    for hidden in [true, false] {
        let desk = Desk::new().await;
        let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
        desk.run("mse-gray-deploy", &spec).await;
        let file = service_file("spring-a");
        let text = std::fs::read_to_string(desk.home.path(&file)).expect("readable");
        let (rest, _) = text.split_once("---\n# An example of a Secret").expect("the example");
        let variable = "        - name: GREETING_TOKEN\n          valueFrom:\n            secretKeyRef:\n              name: spring-cloud-a\n              key: token\n";
        assert!(rest.contains(variable), "{rest}");
        desk.home.write(&file, &rest.replace(variable, ""));
        if hidden {
            desk.cluster.forbid("*", "secrets");
        }
        for (kind, spec) in [("mse-gray-offline", json!({ "tag": "gray" })), ("mse-gray-deploy", spec)] {
            let plan = desk.plan(kind, &spec).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
            let goes = changes(&plan).iter().any(|change| change == "delete Secret spring-cloud-a-mse-gray");
            let words = "Secret spring-cloud-a-mse-gray was made with the lane, and stays: this identity may not see it; add this rule to the Role";
            let told = plan.warnings.iter().any(|warning| warning.starts_with(words));
            assert_eq!((goes, told), (!hidden, hidden), "{kind}: {:?} {:?}", changes(&plan), plan.warnings);
        }
    }
}
