//! The rows of `refused.rs`: a mistake, and the sentence that it is refused with.

use std::fs;

use serde_json::{Value, json};

use super::{ADOPT, DEPLOY, OFFLINE, PRODUCTION, RENEW, Scene, VERIFY};
use crate::support::stage::{DEPLOYMENTS, Kind, SERVICES};

/// A mistake, and the sentence that it is refused with.
pub(super) struct Row {
    pub(super) what: &'static str,
    /// The kind of gateway, and the class of Ingresses.
    pub(super) kind: (&'static str, &'static str),
    /// The task type that is asked.
    pub(super) task: &'static str,
    /// What else stands in the environment's file.
    pub(super) environment: &'static str,
    pub(super) spec: fn(&mut Value),
    /// Before the baseline is put onto the cluster.
    pub(super) manifests: fn(&Scene),
    /// What is there besides.
    pub(super) live: fn() -> Vec<Value>,
    /// Task types that are carried out before: a lane that stands, a verification.
    pub(super) first: fn() -> Vec<(&'static str, Value)>,
    /// What then happens to the cluster.
    pub(super) happens: &'static [Change],
    /// And to the files.
    pub(super) later: fn(&Scene),
    pub(super) refused: &'static str,
    pub(super) hint: &'static str,
}

/// What somebody does to an object.
pub(super) enum Change {
    Patch(Kind, &'static str, fn() -> Value),
    /// The first gets the second for its owner.
    Owned(Kind, &'static str, (Kind, &'static str)),
    Gone(Kind, &'static str),
    /// The mark of a Deployment says that this image was verified.
    Verified(&'static str, &'static str),
}

pub(super) const RIGHT: Row = Row {
    what: "nothing",
    kind: ("mse", "mse"),
    task: DEPLOY,
    environment: "",
    spec: |_| {},
    manifests: |_| {},
    live: Vec::new,
    first: Vec::new,
    happens: &[],
    later: |_| {},
    refused: "",
    hint: "",
};

/// A lane of a and c, a being its entry.
pub(super) fn entry_of(tag: &str) -> Value {
    json!({
        "environment": "e", "tag": tag, "images": { "spring-a": "a:2", "spring-c": "c:2" },
        "entry": { "service": "spring-a", "header": { "name": "x-user-id", "value": "100" } },
    })
}

/// One check of the lane.
fn checks(check: &Value) -> Value {
    let mut check = check.clone();
    check["name"] = "guarded".into();
    json!({ "environment": "e", "tag": "gray", "checks": [check] })
}

pub(super) fn asks_as_lane(spec: &mut Value) {
    *spec = checks(&json!({ "http": { "path": "/a", "as": "lane" } }));
}

pub(super) fn checks_by_job(spec: &mut Value) {
    *spec = checks(&json!({ "job": { "image": "smoke:1", "script": "echo begun" } }));
}

/// Production gets what a lane has of c.
fn promotes(spec: &mut Value) {
    *spec = json!({ "environment": "e", "images": { "spring-c": "c:2" } });
}

fn adopts(spec: &mut Value) {
    *spec = json!({ "service": "spring-a" });
}

fn lane_up() -> Vec<(&'static str, Value)> {
    vec![(DEPLOY, entry_of("gray"))]
}

fn without_entry() -> Vec<(&'static str, Value)> {
    vec![(DEPLOY, json!({ "environment": "e", "tag": "gray", "images": { "spring-c": "c:2" } }))]
}

fn lane_verified() -> Vec<(&'static str, Value)> {
    vec![without_entry().remove(0), (VERIFY, checks(&json!({ "rollout": {} })))]
}

/// Brings the manifest of a to the version label, or takes it away.
fn labelled(scene: &Scene, on: bool) {
    scene.change("spring-a", |o| {
        for at in [&["selector", "matchLabels"][..], &["template", "metadata", "labels"][..]] {
            let mut place = &mut o[0]["spec"];
            for key in at {
                place = &mut place[*key];
            }
            if on {
                place["zadigx-release-version"] = "original".into();
            } else {
                place.as_object_mut().expect("a map").remove("zadigx-release-version");
            }
        }
    });
}

/// The example behind a gateway of the Gateway API.
pub(super) fn http_routed(scene: &Scene) {
    scene.change("spring-a", |o| {
        o.retain(|object| object["kind"] != "Ingress");
        o.push(route());
    });
}

fn weighed(name: &str, weight: u32) -> Vec<Value> {
    let mut made = canary("mse", name, "7");
    let n = "nginx.ingress.kubernetes.io";
    made[0]["metadata"]["annotations"] =
        json!({ format!("{n}/canary"): "true", format!("{n}/canary-weight"): weight.to_string() });
    made
}

/// A Deployment as another tool leaves it in a lane.
fn zadigs() -> Vec<Value> {
    let marks = json!({ "zadigx-release-version": "gray", "zadigx-release-type": "mse-gray", "zadigx-release-service-name": "spring-c" });
    let mut pods = marks.clone();
    pods["app"] = "spring-cloud-c".into();
    vec![
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "spring-cloud-c-mse-gray", "labels": marks },
        "spec": { "selector": { "matchLabels": pods }, "template": { "metadata": { "labels": pods },
            "spec": { "containers": [{ "name": "spring-cloud-c", "image": "c:1" }] } } } }),
    ]
}

fn scaler(of: &str) -> Vec<Value> {
    vec![
        json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "scales" },
        "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": of } } }),
    ]
}

fn mounts(scene: &Scene, service: &str, claim: &str) {
    scene.change(service, |o| {
        pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }])
    });
}

pub(super) fn service(name: &str, selector: Value) -> Vec<Value> {
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

/// Every row.
#[rustfmt::skip]
pub(super) fn rows() -> Vec<Row> {
    vec![
        Row { what: "a reserved tag", spec: |s| s["tag"] = "base".into(), refused: "refused: `base` means the baseline and cannot be a lane's tag", ..RIGHT },
        Row { what: "a baseline that is not there", manifests: |s| s.change("spring-b", |_| {}), spec: |s| s["images"] = json!({ "new": "n:1" }),
            refused: "environment `e` has no service `new`: it has `nacos`, `spring-a`, `spring-b` and `spring-c`", ..RIGHT },
        Row { what: "a baseline that was never deployed", later: |s| {
                let text = fs::read_to_string(s.path("services/spring-c.yaml")).expect("there");
                fs::write(s.path("services/spring-d.yaml"), text.replace("spring-cloud-c", "spring-cloud-d")).expect("written");
            },
            spec: |s| s["images"]["spring-d"] = "d:2".into(),
            refused: "refused: service `spring-d`: its baseline, Deployment n/spring-cloud-d, is not on the cluster: deploy it to production first", ..RIGHT },
        Row { what: "a claim that both versions would write to", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |s| s.change("spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store as the baseline does: two versions write to one store; confirm it by `shared_claims: [store]` at the service, or give the copy another volume by a patch", ..RIGHT },
        Row { what: "no base on gateway-api", kind: ("gateway-api", "mse"), later: |s| s.change("spring-a", |o| o.push(route())),
            refused: "refused: HTTPRoute spring-cloud-a, the baseline of the route, is not on the cluster: production was not brought up to its manifest", ..RIGHT },
        Row { what: "nacos", spec: |s| s["images"]["nacos"] = "nacos:2".into(), refused: "refused: service `nacos` takes no part in lanes: its `gray` is false in environment `e`", ..RIGHT },
        Row { what: "production without the label", manifests: |s| labelled(s, false), later: |s| labelled(s, true),
            refused: "refused: service `spring-a`: the selector of the live Deployment spring-cloud-a lacks `zadigx-release-version`: the manifest has it, production was not brought up to it", ..RIGHT },
        Row { what: "a leak", live: || service("metrics", json!({ "app": "spring-cloud-c" })),
            refused: "refused: Service metrics would send its requests to the pods of Deployment spring-cloud-c-mse-gray",
            hint: "add `zadigx-release-version: original` to the selector of Service metrics, once the baseline's pods carry the label", ..RIGHT },
        Row { what: "a foreign object under the lane's name", live: || service("spring-cloud-a-base-mse-gray", json!({ "app": "x" })),
            refused: "refused: Service n/spring-cloud-a-base-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a foreign Secret under the lane's name", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray" } })],
            refused: "refused: Secret n/spring-cloud-a-mse-gray exists and does not belong to lane `gray`", hint: "use another tag, or remove the object", ..RIGHT },
        Row { what: "a lane of another tool", live: || vec![json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "spring-cloud-a-mse-gray",
                "labels": { "zadigx-release-type": "mse-gray", "zadigx-release-version": "gray" } } })],
            refused: "refused: Secret n/spring-cloud-a-mse-gray belongs to a lane that another tool made", ..RIGHT },
        Row { what: "an overlapping selector", live: || vec![json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "store" }, "spec": { "serviceName": "s",
                "selector": { "matchLabels": { "app": "spring-cloud-c" } }, "template": { "metadata": { "labels": { "app": "spring-cloud-c" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })],
            refused: "refused: the selector of StatefulSet store takes the pods of Deployment spring-cloud-c-mse-gray for its own: give its selector and template `zadigx-release-version: original`; a selector cannot be changed, so it is made anew", ..RIGHT },
        Row { what: "a claim for one writer", live: || vec![json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "store" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })],
            manifests: |s| s.change("spring-c", |o| pods(o)["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "store" } }])),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store, which is ReadWriteOnce: it is the baseline's, and a second version cannot have it; give the copy another volume by a patch", ..RIGHT },
        Row { what: "the node's network", manifests: |s| s.change("spring-c", |o| pods(o)["hostNetwork"] = true.into()),
            refused: "refused: Deployment spring-cloud-c-mse-gray: its pods use the node's network (`hostNetwork`), and two versions cannot bind the same ports; take it away by a patch", ..RIGHT },
        Row { what: "one ConfigMap in two manifests", manifests: |s| for service in ["spring-a", "spring-c"] {
                s.change(service, |o| o.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "common" }, "data": {} })));
            },
            refused: "refused: ConfigMap common-mse-gray would be written by the services `spring-a` and `spring-c`: an object stands in one manifest", ..RIGHT },
        Row { what: "no base for the canary", later: |s| s.change("spring-a", |o| o[2]["spec"]["rules"][0]["host"] = "new.example.com".into()),
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

        Row { what: "a lane of another tool, by its Deployment", live: zadigs,
            refused: "refused: Deployment n/spring-cloud-c-mse-gray belongs to a lane that another tool made",
            hint: "`adopt: true` takes that lane over; else take it down with the tool that made it, or use another tag", ..RIGHT },
        Row { what: "a lane more than there may be", environment: "max_lanes: 1", first: lane_up, spec: |s| *s = entry_of("blue"),
            refused: "refused: e has 1 lane already, and `max_lanes` is 1",
            hint: "take one of them down with mse-gray-offline, or raise `max_lanes` in the environment's file", ..RIGHT },
        Row { what: "a namespace that is not there", later: |s| s.edit(&format!("namespace: {}\n", s.namespace), "namespace: nowhere\n"),
            refused: "refused: there is no namespace nowhere on the cluster", ..RIGHT },
        Row { what: "a Service that is wired to the lane", live: || service("preview", json!({ "zadigx-release-version": "gray" })),
            refused: "refused: Service preview would send its requests to the pods of Deployment spring-cloud-a-mse-gray",
            hint: "Service preview asks for `zadigx-release-version: gray` itself: remove it, the lane has Services of its own", ..RIGHT },
        Row { what: "an autoscaler of the gray copy", live: || scaler("spring-cloud-c-mse-gray"),
            refused: "refused: HorizontalPodAutoscaler scales scales Deployment spring-cloud-c-mse-gray itself: it and this deploy would each set the number of pods; remove it", ..RIGHT },
        Row { what: "a quota without room", live: || vec![json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } })],
            refused: "refused: ResourceQuota q leaves room for 0 pods, and the lane needs 2 more: its pods would never be made", ..RIGHT },
        Row { what: "a claim that is not there", manifests: |s| mounts(s, "spring-c", "store"),
            refused: "refused: Deployment spring-cloud-c-mse-gray mounts PersistentVolumeClaim store, which is not on the cluster: its pods would never start", ..RIGHT },
        Row { what: "weights of more than all", live: || weighed("theirs", 60), spec: |s| s["entry"] = json!({ "service": "spring-a", "weight": 50 }),
            refused: "refused: weights add up to 110 %: Ingress theirs with 60 % enters at the same place", ..RIGHT },
        Row { what: "a normal Ingress to the gray Service on ingress-nginx", kind: ("ingress-nginx", "nginx"),
            live: || {
                let mut direct = canary("nginx", "direct", "");
                direct[0]["metadata"] = json!({ "name": "direct" });
                direct[0]["spec"]["rules"][0]["host"] = "direct.example.com".into();
                direct[0]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "spring-cloud-a-base-mse-gray".into();
                direct
            },
            spec: |s| s["entry"]["header"] = json!({ "name": "x-mse-tag", "value": "gray" }),
            refused: "refused: Ingress direct leads to spring-cloud-a-base-mse-gray as to any Service: ingress-nginx then takes no canary to it", ..RIGHT },
        Row { what: "two equal routes on gateway-api", kind: ("gateway-api", "mse"), manifests: http_routed,
            live: || {
                let mut theirs = route();
                theirs["metadata"]["name"] = "theirs".into();
                theirs["spec"]["rules"][0]["matches"][0]["headers"] = json!([{ "type": "Exact", "name": "x-user-id", "value": "100" }]);
                vec![theirs]
            },
            refused: "refused: HTTPRoute theirs lets the same requests in: of two equal matches the gateway takes the older route, and this lane would never be met", ..RIGHT },

        Row { what: "production that nobody verified", task: PRODUCTION, environment: "verified: required", spec: promotes,
            refused: "refused: service `spring-c`: image `c:2` was not verified: no lane that is up runs it",
            hint: "deploy it to a lane, verify it there, and promote it before the lane is taken down", ..RIGHT },
        Row { what: "a lane that was not verified", task: PRODUCTION, environment: "verified: required", first: without_entry, spec: promotes,
            refused: "refused: service `spring-c`: image `c:2` was not verified: lane `gray` runs it, and was not verified", ..RIGHT },
        Row { what: "a lane that was changed since", task: PRODUCTION, environment: "verified: required", first: lane_verified, spec: promotes,
            happens: &[Change::Patch(DEPLOYMENTS, "spring-cloud-c-mse-gray", || json!([{ "op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": { "name": "DEBUG", "value": "1" } }]))],
            refused: "refused: service `spring-c`: image `c:2` was not verified: lane `gray` was changed since it was verified", ..RIGHT },
        Row { what: "a tag that was pushed again", task: PRODUCTION, environment: "verified: required", first: lane_verified, spec: promotes,
            happens: &[Change::Verified("spring-cloud-c-mse-gray", "c@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")],
            refused: "refused: service `spring-c`: image `c:2` was not verified: it was pushed again since lane `gray` was verified: its pods run c...", ..RIGHT },
        Row { what: "a promotion that would send production's requests to a lane", task: PRODUCTION, first: without_entry, spec: promotes,
            later: |s| s.change("spring-c", |o| o.extend(service("metrics", json!({ "app": "spring-cloud-c" })))),
            refused: "refused: Service metrics would send its requests to the pods of Deployment spring-cloud-c-mse-gray",
            hint: "add `zadigx-release-version: original` to the selector of Service metrics, once the baseline's pods carry the label", ..RIGHT },
        Row { what: "production under a lane's labels", task: PRODUCTION, spec: promotes,
            manifests: |s| s.change("spring-c", |o| o[0]["metadata"]["labels"] = json!({ "zadigx-release-type": "mse-gray" })),
            later: |s| s.change("spring-c", |o| { o[0]["metadata"].as_object_mut().expect("a map").remove("labels"); }),
            refused: "refused: service `spring-c`: Deployment spring-cloud-c belongs to a lane", ..RIGHT },
        Row { what: "production in a namespace that is not there", task: PRODUCTION, spec: promotes,
            later: |s| s.edit(&format!("namespace: {}\n", s.namespace), "namespace: nowhere\n"),
            refused: "refused: there is no namespace nowhere on the cluster", ..RIGHT },

        Row { what: "a lane without a route", task: VERIFY, first: without_entry, spec: asks_as_lane,
            refused: "refused: check `guarded`: lane `gray` has no route: nobody can enter it", ..RIGHT },
        Row { what: "a lane that nobody is sure to enter", task: VERIFY, spec: asks_as_lane,
            first: || {
                let mut lane = entry_of("gray");
                lane["entry"] = json!({ "service": "spring-a", "weight": 10 });
                vec![(DEPLOY, lane)]
            },
            refused: "refused: check `guarded`: no single request is sure to enter the lane: the route lets in 10 %...", ..RIGHT },
        Row { what: "a Service that meets the pod of a check", task: VERIFY, live: || service("hungry", json!({ "msePilotAutoEnable": "off" })), spec: checks_by_job,
            refused: "refused: check `guarded`: Service hungry would send requests to the pod of the check",
            hint: "change the selector of Service hungry: it selects labels of checks", ..RIGHT },

        Row { what: "no such lane to take down", task: OFFLINE, first: without_entry, spec: |s| *s = json!({ "environment": "e", "tag": "gary" }),
            refused: "there is no lane `gary` in n", hint: "there is `gray`; `on_missing: pass` makes a missing lane a success", ..RIGHT },
        Row { what: "no such part of a lane", task: OFFLINE, first: without_entry, spec: |s| *s = json!({ "environment": "e", "tag": "gray", "services": ["spring-b"] }),
            refused: "lane `gray` has no copy of `spring-b`", hint: "it holds `spring-c`; `on_missing: pass` makes a missing one a success", ..RIGHT },

        Row { what: "no such lane to renew", task: RENEW, environment: "ttl: 8h", first: without_entry, spec: |s| s["tag"] = "gary".into(),
            refused: "e has no lane `gary`; did you mean `gray`?", ..RIGHT },
        Row { what: "another tool's lane to renew", task: RENEW, environment: "ttl: 8h", live: zadigs,
            refused: "refused: Deployment n/spring-cloud-c-mse-gray was made by another tool", hint: "take the lane over with a deploy that says `adopt: true`", ..RIGHT },
        Row { what: "what is left of a lane to renew", task: RENEW, environment: "ttl: 8h", first: lane_up,
            happens: &[Change::Gone(DEPLOYMENTS, "spring-cloud-a-mse-gray"), Change::Gone(DEPLOYMENTS, "spring-cloud-c-mse-gray")],
            refused: "refused: lane `gray` has no Deployment any more", hint: "mse-gray-offline takes what is left of it down", ..RIGHT },

        Row { what: "Argo CD", task: ADOPT, spec: adopts, later: |s| labelled(s, true),
            manifests: |s| { labelled(s, false); s.change("spring-a", |o| o[0]["metadata"]["annotations"] = json!({ "argocd.argoproj.io/tracking-id": "t" })) },
            refused: "refused: Deployment spring-cloud-a is kept by Argo CD (`argocd.argoproj.io/...`), which would put it back: pause it for this object", ..RIGHT },
        Row { what: "Flux", task: ADOPT, spec: adopts, later: |s| labelled(s, true),
            manifests: |s| { labelled(s, false); s.change("spring-a", |o| o[0]["metadata"]["labels"] = json!({ "kustomize.toolkit.fluxcd.io/name": "t" })) },
            refused: "refused: Deployment spring-cloud-a is kept by Flux (`kustomize.toolkit.fluxcd.io/...`), which would put it back: pause it for this object", ..RIGHT },
        Row { what: "an owner", task: ADOPT, spec: adopts, manifests: |s| labelled(s, false), later: |s| labelled(s, true),
            happens: &[Change::Owned(DEPLOYMENTS, "spring-cloud-a", (SERVICES, "spring-cloud-a-base"))],
            refused: "refused: Deployment spring-cloud-a belongs to Service spring-cloud-a-base, which would make it anew as it was: let that one write the label", ..RIGHT },
        Row { what: "an autoscaler of production", task: ADOPT, spec: adopts, manifests: |s| labelled(s, false), later: |s| labelled(s, true), live: || scaler("spring-cloud-a"),
            refused: "refused: HorizontalPodAutoscaler scales scales Deployment spring-cloud-a: it would count old and new pods as one; remove it until this is done", ..RIGHT },
        Row { what: "a strategy that allows no second", task: ADOPT, spec: adopts, later: |s| labelled(s, true),
            manifests: |s| { labelled(s, false); s.change("spring-a", |o| o[0]["spec"]["strategy"] = json!({ "type": "Recreate" })) },
            refused: "refused: Deployment spring-cloud-a has the strategy `Recreate`: its pods may not stand beside new ones", ..RIGHT },
        Row { what: "a volume for one", task: ADOPT, spec: adopts, later: |s| labelled(s, true),
            manifests: |s| { labelled(s, false); mounts(s, "spring-a", "disk") },
            refused: "refused: Deployment spring-cloud-a mounts PersistentVolumeClaim disk, which only one node may: old and new pods would wait for each other", ..RIGHT },
        Row { what: "another selector", task: ADOPT, spec: adopts, manifests: |s| labelled(s, false), later: |s| labelled(s, true),
            live: || vec![json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "twin" }, "spec": { "selector": { "matchLabels": { "app": "spring-cloud-a" } },
                "template": { "metadata": { "labels": { "app": "spring-cloud-a" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })],
            refused: "refused: Deployment twin would take the old pods for its own: their selectors overlap", ..RIGHT },
        Row { what: "a baseline that is not up", task: ADOPT, spec: adopts, later: |s| labelled(s, true),
            manifests: |s| { labelled(s, false); s.change("spring-a", |o| pods(o)["containers"][0]["image"] = "a:missing".into()) },
            refused: "refused: Deployment spring-cloud-a is not fully rolled out: wait until it is, or mend it first", ..RIGHT },
        Row { what: "a service that was never deployed", task: ADOPT, spec: adopts, happens: &[Change::Gone(DEPLOYMENTS, "spring-cloud-a")],
            refused: "refused: Deployment n/spring-cloud-a is not on the cluster", hint: "deploy it to production: what is made from the manifest carries the label", ..RIGHT },
    ]
}
