//! Refusals of a gray deploy, a row each: the sentence that a user sees, and that nothing was written before it. A control shows that the same
//! plan without the mistake is made.

use std::fs;

use graylane_tasks::cluster::create_all;
use graylane_tasks::manifest::{parse, yaml};
use serde_json::{Value, json};

use crate::support::Home;
use crate::support::desk::{Desk, NAMESPACE, service_file};

const DEPLOY: &str = "mse-gray-deploy";

/// The example behind a gateway of this kind.
fn home(kind: &str, class: &str) -> Home {
    let home = Home::new();
    home.edit("config/environments/production.yaml", "kind: mse,", &format!("kind: {kind},"));
    home.edit("config/environments/production.yaml", ", ingress_class: mse", "");
    home.edit(&service_file("spring-a"), "ingressClassName: mse", &format!("ingressClassName: {class}"));
    home
}

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

/// A mistake, and the sentence that it is refused with.
struct Row {
    what: &'static str,
    kind: (&'static str, &'static str),
    spec: fn(&mut Value),
    /// Before the baseline is put onto the cluster.
    manifests: fn(&Home),
    live: fn() -> Vec<Value>,
    /// After it was.
    later: fn(&Home),
    refused: &'static str,
    hint: &'static str,
}

const RIGHT: Row = Row {
    what: "nothing",
    kind: ("mse", "mse"),
    spec: |_| {},
    manifests: |_| {},
    live: Vec::new,
    later: |_| {},
    refused: "",
    hint: "",
};

fn service(name: &str, selector: Value) -> Vec<Value> {
    vec![json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": selector, "ports": [{ "port": 80, "protocol": "TCP" }] } })]
}

fn canary(class: &str, name: &str, value: &str) -> Vec<Value> {
    let n = "nginx.ingress.kubernetes.io";
    vec![json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "annotations": { format!("{n}/canary"): "true", format!("{n}/canary-by-header"): "x-user-id", format!("{n}/canary-by-header-value"): value } },
        "spec": { "ingressClassName": class, "rules": [{ "host": "example.com", "http": { "paths": [{ "path": "/", "pathType": "Prefix",
            "backend": { "service": { "name": "other", "port": { "number": 80 } } } }] } }] } })]
}

fn route() -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": "spring-cloud-a" },
        "spec": { "parentRefs": [{ "name": "gateway" }], "hostnames": ["example.com"], "rules": [{
            "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }],
            "backendRefs": [{ "name": "spring-cloud-a-base", "port": 20001 }] }] } })
}

fn pods(objects: &mut [Value]) -> &mut Value {
    &mut objects[0]["spec"]["template"]["spec"]
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        Row { what: "a reserved tag", spec: |s| s["tag"] = "base".into(), refused: "refused: `base` means the baseline and cannot be a lane's tag", ..RIGHT },
        Row { what: "a baseline that is not there", manifests: |h| change(h, "spring-b", |_| {}), spec: |s| s["images"] = json!({ "new": "n:1" }),
            refused: "environment `production` has no service `new`: it has `nacos`, `spring-a`, `spring-b` and `spring-c`", ..RIGHT },
        Row { what: "a baseline that was never deployed", later: |h| {
                let text = fs::read_to_string(h.path(&service_file("spring-c"))).expect("there");
                h.write(&service_file("spring-d"), &text.replace("spring-cloud-c", "spring-cloud-d"));
            },
            spec: |s| s["images"]["spring-d"] = "d:2".into(),
            refused: "refused: service `spring-d`: its baseline, Deployment mse-customer/spring-cloud-d, is not on the cluster: deploy it to production first", ..RIGHT },
        Row { what: "a claim that both versions would write to", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |h| change(h, "spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store; confirm it by `shared_claims: [store]` at the service, or give the copy another volume by a patch", ..RIGHT },
        Row { what: "no base on gateway-api", kind: ("gateway-api", "mse"), later: |h| change(h, "spring-a", |o| o.push(route())),
            refused: "refused: HTTPRoute spring-cloud-a, the baseline of the route, is not on the cluster: production was not brought up to its manifest", ..RIGHT },
        Row { what: "nacos", spec: |s| s["images"]["nacos"] = "nacos:2".into(), refused: "refused: service `nacos` takes no part in lanes: its `gray` is false in environment `production`", ..RIGHT },
        Row { what: "production without the label", manifests: |h| change(h, "spring-a", |o| {
                for at in [&["selector", "matchLabels"][..], &["template", "metadata", "labels"][..]] {
                    let mut place = &mut o[0]["spec"];
                    for key in at { place = &mut place[*key]; }
                    place.as_object_mut().expect("a map").remove("zadigx-release-version");
                }
            }),
            later: |h| change(h, "spring-a", |o| {
                o[0]["spec"]["selector"]["matchLabels"]["zadigx-release-version"] = "original".into();
                o[0]["spec"]["template"]["metadata"]["labels"]["zadigx-release-version"] = "original".into();
            }),
            refused: "refused: service `spring-a`: the selector of the live Deployment spring-cloud-a lacks `zadigx-release-version`: the manifest has it, production was not brought up to it", ..RIGHT },
        Row { what: "a leak", live: || service("metrics", json!({ "app": "spring-cloud-c" })),
            refused: "refused: Service metrics would send its requests to the pods of Deployment spring-cloud-c-mse-gray",
            hint: "add `zadigx-release-version: original` to the selector of Service metrics, once the baseline's pods carry the label", ..RIGHT },
        Row { what: "a foreign object under the lane's name", live: || service("spring-cloud-a-base-mse-gray", json!({ "app": "x" })),
            refused: "refused: Service mse-customer/spring-cloud-a-base-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a foreign Secret under the lane's name", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray" } })],
            refused: "refused: Secret mse-customer/spring-cloud-a-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a lane of another tool", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray",
                "labels": { "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray" } } })],
            refused: "refused: Secret mse-customer/spring-cloud-a-mse-gray belongs to a lane that another tool made", ..RIGHT },
        Row { what: "an overlapping selector", live: || vec![json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "store" }, "spec": { "serviceName": "s",
                "selector": { "matchLabels": { "app": "spring-cloud-c" } }, "template": { "metadata": { "labels": { "app": "spring-cloud-c" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })],
            refused: "refused: the selector of StatefulSet store takes the pods of Deployment spring-cloud-c-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew", ..RIGHT },
        Row { what: "a claim for one writer", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |h| change(h, "spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store, which is ReadWriteOnce: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch", ..RIGHT },
        Row { what: "the node's network", manifests: |h| change(h, "spring-c", |o| pods(o)["hostNetwork"] = true.into()),
            refused: "refused: Deployment spring-cloud-c-mse-gray: its pods use the node's network (`hostNetwork`), and two versions cannot bind the same ports; take it away by a patch", ..RIGHT },
        Row { what: "one ConfigMap in two manifests", manifests: |h| for service in ["spring-a", "spring-c"] {
                change(h, service, |o| o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "common" }, "data": {} })));
            },
            refused: "refused: ConfigMap common-mse-gray would be written by the services `spring-a` and `spring-c`: an object stands in one manifest", ..RIGHT },
        Row { what: "no base for the canary", later: |h| change(h, "spring-a", |o| o[2]["spec"]["rules"][0]["host"] = "new.example.com".into()),
            refused: "refused: Ingress spring-cloud-a-mse-gray has no base on the cluster for new.example.com/, so the gateway would leave it out: production was not brought up to its manifest", ..RIGHT },
        Row { what: "two lanes for one user", live: || canary("mse", "theirs", "100"),
            refused: "refused: Ingress theirs lets the same requests in at example.com/: of two the gateway asks the older one, and this lane would never be met", ..RIGHT },
        Row { what: "a cookie's value on higress", kind: ("higress", "higress"), spec: |s| s["entry"] = json!({ "service": "spring-a", "cookie": { "name": "c", "value": "x" } }),
            refused: "refused: a higress gateway cannot compare a cookie with `x`: it lets in the value `always` only; leave `value` out, or use `header`", ..RIGHT },
        Row { what: "a business header on ingress-nginx", kind: ("ingress-nginx", "nginx"),
            refused: "refused: ingress-nginx cannot put `x-mse-tag` on requests, so behind the entry nobody would meet the lane's other services: enter by `header: { name: x-mse-tag, value: gray }`, which the client sends, or deploy the entry alone", ..RIGHT },
        Row { what: "a second canary on ingress-nginx", kind: ("ingress-nginx", "nginx"), live: || canary("nginx", "theirs", "7"),
            spec: |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" }),
            refused: "refused: ingress-nginx takes one canary for a host and path, and Ingress theirs is the one for example.com/: take it down first", ..RIGHT },
        Row { what: "no HTTPRoute on gateway-api", kind: ("gateway-api", "mse"),
            refused: "refused: service `spring-a` cannot be the entry: its manifest has no HTTPRoute", ..RIGHT },
        Row { what: "a weight on gateway-api", kind: ("gateway-api", "mse"), spec: |s| s["entry"] = json!({ "service": "spring-a", "weight": 5 }),
            refused: "refused: a gateway-api gateway shares requests out by weights in the baseline's own HTTPRoute: a lane leaves that alone; use `header` or `cookie`", ..RIGHT },
        Row { what: "a patch that leaves the lane", spec: |s| {
                s["images"] = json!({ "spring-a": "a:2" });
                s["services"] = json!({ "spring-c": { "patches": [{ "target": { "kind": "Deployment", "name": "spring-cloud-c" }, "patch": { "spec": { "selector": { "matchLabels": { "zadigx-release-version": "original" } } } } }] } });
            },
            refused: "refused: service `spring-c`: the patch of Deployment spring-cloud-c: spec.selector.matchLabels of Deployment spring-cloud-c-mse-gray must have `zadigx-release-version: gray`, and has `original`", ..RIGHT },
        Row { what: "an Ingress that a patch copies", spec: |s| {
                s.as_object_mut().expect("a map").remove("entry");
                s["images"] = json!({ "spring-c": "c:2" });
                s["services"] = json!({ "spring-a": { "patches": [{ "target": { "kind": "Ingress", "name": "spring-cloud-a" }, "patch": { "metadata": { "annotations": { "a": "b" } } } }] } });
            },
            refused: "refused: Ingress spring-cloud-a-mse-gray would take the requests of Ingress spring-cloud-a: give it another host or path by its patch, or make the service the `entry`", ..RIGHT },
    ]
}

#[tokio::test(start_paused = true)]
async fn every_refusal_comes_before_the_first_write_and_says_what_to_do() {
    for row in rows() {
        let home = home(row.kind.0, row.kind.1);
        (row.manifests)(&home);
        let desk = Desk::furnished(home).await;
        put(&desk, &(row.live)()).await;
        (row.later)(&desk.home);
        desk.cluster.clear_requests();
        let mut spec = spec();
        (row.spec)(&mut spec);
        let planned = desk.plan(DEPLOY, &spec).await;
        let error = planned.err().unwrap_or_else(|| panic!("{}: not refused", row.what));
        assert_eq!(error.message, row.refused, "{}", row.what);
        if !row.hint.is_empty() {
            assert_eq!(error.hint.as_deref(), Some(row.hint), "{}", row.what);
        }
        assert_eq!(desk.cluster.requests(), [], "{}: the API server was asked to change something", row.what);
        desk.cluster.shutdown().await;
    }
}

/// The control: the same plans without a mistake are made, and ask for nothing but dry runs.
#[tokio::test(start_paused = true)]
async fn without_a_mistake_a_plan_is_made_by_reading_only() {
    let tag: fn(&mut Value) = |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" });
    for (kind, class, change) in
        [("mse", "mse", RIGHT.spec), ("higress", "higress", RIGHT.spec), ("ingress-nginx", "nginx", tag)]
    {
        let desk = Desk::furnished(home(kind, class)).await;
        let mut spec = spec();
        change(&mut spec);
        let plan = desk.plan(DEPLOY, &spec).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(plan.changes.len(), 5, "{kind}");
        assert!(desk.cluster.requests().iter().all(|request| request.dry_run), "{kind}");
        desk.cluster.shutdown().await;
    }
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
            "this identity may not list NetworkPolicy: what gray pods mean to them could not be looked at",
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
