//! Least rights: what `graylane rbac` prints is enough for everything that is done with an environment, and nothing in it is too much.
//!
//! The rehearsal lets nothing happen but what a test grants, and keeps which rights were asked for: that list is compared with the
//! Role. A real API server has RBAC, and an identity that has nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use graylane_engine::bundle::Bundle;
use graylane_engine::clock::{Clock as _, WallClock};
use graylane_engine::id::RunId;
use graylane_engine::task::{Registry, TaskContext, TaskError};
use graylane_tasks::adoption;
use graylane_tasks::cluster::{Clusters, create_all};
use graylane_tasks::environment::{Site, gather};
use graylane_tasks::manifest::parse;
use graylane_tasks::readiness::{Level, check};
use graylane_tasks::rights::{Extra, Rule, Weight, missing, rules};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::environment::label;
use crate::gateways;
use crate::support::agent::test_run;
use crate::support::desk::{Desk, NAMESPACE, key, shown};
use crate::support::stage::real;
use crate::support::{Home, Ran, client, routes, tally};

const DEPLOY: &str = "mse-gray-deploy";
const VERIFY: &str = "generic-verify";
const PRODUCTION: &str = "prod-deploy";
const OFFLINE: &str = "mse-gray-offline";

/// How the rehearsal names a resource.
fn whole(rule: &Rule) -> String {
    match rule.resource.split_once('/') {
        _ if rule.group.is_empty() => rule.resource.clone(),
        Some((resource, subresource)) => format!("{resource}.{}/{subresource}", rule.group),
        None => format!("{}.{}", rule.resource, rule.group),
    }
}

/// The same rights a verb at a time.
fn flat(rules: &[Rule]) -> BTreeSet<(String, String)> {
    let verbs = rules.iter().flat_map(|rule| rule.verbs.iter().map(|verb| ((*verb).to_owned(), whole(rule))));
    verbs.collect()
}

fn smoke() -> Value {
    json!({ "tag": "gray", "checks": [{ "name": "smoke", "job": { "image": "smoke:1", "script": "echo begun" } }] })
}

/// What a plan that asks for all parts tells, and what each part tells: refusals and notes, whichever comes.
async fn told_by_plans(desk: &Desk, spec: &Value) -> String {
    let mut told = Vec::new();
    for (kind, spec) in [(DEPLOY, spec.clone()), (VERIFY, smoke())] {
        match desk.plan(kind, &spec).await {
            Ok(plan) => told.extend(plan.warnings),
            Err(error) => told.push(shown(&error)),
        }
    }
    let cluster = desk.told().await;
    if let Err(error) = adoption::look(&cluster, &desk.site(), "spring-a", desk.now()).await {
        told.push(shown(&error));
    }
    told.join("\n")
}

/// Every verb of every rule: without it a plan names it, with the rule to add, and so does a check. What must be there is missed before
/// the first write; what only explains, or is looked at, is told.
#[tokio::test(start_paused = true)]
async fn a_right_that_is_left_out_is_named_by_the_plan() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
    desk.run(DEPLOY, &spec).await;
    let all = rules(&desk.site(), NAMESPACE, &Extra::ALL);
    let complete = told_by_plans(&desk, &spec).await;
    assert!(!complete.contains("may not"), "with all rights nobody misses any: {complete}");
    let mut must = 0;
    for rule in &all {
        for verb in &rule.verbs {
            desk.cluster.allow_all();
            desk.cluster.forbid(verb, &whole(rule));
            let line = format!("resources: [\"{}\"]", rule.resource);
            let names = |text: &str| text.contains(verb) && text.contains(&line);
            if rule.weight == Weight::Must {
                must += 1;
                let told = shown(&desk.refused(DEPLOY, &spec).await);
                assert!(names(&told), "{verb} {}: {told}", rule.resource);
            } else if !(rule.resource == "namespaces" && *verb == "patch") {
                // The label of a namespace is no task's: `environment check --fix` is the plan of that, below.
                desk.cluster.clear_requests();
                let told = told_by_plans(&desk, &spec).await;
                assert!(names(&told), "{verb} {}: {told}", rule.resource);
                assert_eq!(desk.wrote(), Vec::<String>::new());
            }
            let found = check(&desk.told().await, &desk.site()).await.expect("checked");
            let level = if rule.weight == Weight::Must { Level::Problem } else { Level::Warning };
            let mut findings = found.findings.iter().filter(|finding| finding.check == "rights");
            let finding = findings
                .find(|finding| finding.hint.as_ref().is_some_and(|hint| hint.contains(&rule.line())))
                .unwrap_or_else(|| panic!("{verb} {}: {:#?}", rule.resource, found.findings));
            assert!(finding.message.contains(verb), "{finding:?}");
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }
    assert!(must >= 25, "{must} rights are needed");
    tally::told("rules left out", all.len(), 0);
}

/// An environment, and what its Role must be enough for.
struct Shape {
    name: &'static str,
    gateway: (&'static str, &'static str),
    /// Whether services carry a Secret and a ConfigMap.
    values: bool,
}

const SHAPES: [Shape; 5] = [
    Shape { name: "mse", gateway: ("mse", "mse"), values: true },
    Shape { name: "plain", gateway: ("mse", "mse"), values: false },
    Shape { name: "higress", gateway: ("higress", "higress"), values: true },
    Shape { name: "nginx", gateway: ("ingress-nginx", "nginx"), values: true },
    Shape { name: "gateway-api", gateway: ("gateway-api", "mse"), values: true },
];

const CONFIG: &str =
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: spring-cloud-c }\ndata: { greeting: hello }\n";

impl Shape {
    fn entry(&self) -> Value {
        let header = match self.gateway.0 {
            "ingress-nginx" => json!({ "name": "x-mse-tag", "value": "gray" }),
            _ => json!({ "name": "x-user-id", "value": "100" }),
        };
        json!({ "service": "spring-a", "header": header })
    }

    /// A home whose example has this shape.
    fn home(&self) -> Home {
        let home = Home::new();
        if self.gateway.0 != "mse" {
            gateways::prepare(&home, self.gateway.0, self.gateway.1, "weight: 1");
        }
        if self.values {
            let file = home.path("config/services/spring-c.yaml");
            let text = std::fs::read_to_string(&file).expect("readable");
            std::fs::write(file, format!("{text}{CONFIG}")).expect("written");
        } else {
            without_values(&home);
        }
        home.edit(
            "config/environments/production.yaml",
            "services: ../services\n",
            "services: ../services\nttl: 8h\n",
        );
        home
    }
}

/// Takes the one Secret out of the example, with what reads it; ConfigMaps it has none.
fn without_values(home: &Home) {
    let file = "config/services/spring-a.yaml";
    let reads = "        - name: GREETING_TOKEN\n          valueFrom:\n            secretKeyRef:\n              name: spring-cloud-a\n              key: token\n";
    home.edit(file, reads, "");
    let text = std::fs::read_to_string(home.path(file)).expect("readable");
    let rest: Vec<&str> = text.split("---\n").filter(|document| !document.contains("kind: Secret")).collect();
    home.write(file, &rest.join("---\n"));
}

/// All that is ever done with an environment, at a desk: each of its calls is one that the Role allows, and the Role allows no other.
#[tokio::test(start_paused = true)]
async fn the_role_is_what_the_codes_own_calls_need_and_nothing_else() {
    for shape in &SHAPES {
        let home = shape.home();
        label(&home, false);
        let desk = Desk::with(home).await;
        label(&desk.home, true);
        let namespaces: Api<Namespace> = Api::all(desk.cluster.client());
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "mse-enable": null } } }));
        namespaces.patch(NAMESPACE, &PatchParams::default(), &patch).await.expect("patched");
        let claim = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "disk" } });
        let volumes = json!([{ "op": "add", "path": "/spec/template/spec/volumes", "value": [claim] }]);
        desk.edit("Deployment", "spring-cloud-a", volumes).await;

        let role = flat(&rules(&desk.site(), NAMESPACE, &Extra::ALL));
        desk.cluster.grant(role.clone());
        desk.cluster.clear_requests();
        everything(&desk, shape).await;
        let used = desk.cluster.used_rights();
        let name = shape.name;
        let too_much: Vec<_> = role.difference(&used).collect();
        assert!(too_much.is_empty(), "{name}: the Role allows what nothing calls: {too_much:?}");
        // What is not granted is only ever looked for: a lane's objects of kinds that no service carries.
        for (verb, resource) in desk.cluster.denied_rights() {
            let looks = verb == "list" && ["secrets", "configmaps"].contains(&resource.as_str());
            assert!(
                looks && !shape.values,
                "{name}: {verb} {resource} was tried, and the Role has no such rule"
            );
        }
        tally::told("Roles compared with the calls", 1, 0);
        desk.cluster.shutdown().await;
    }
}

async fn everything(desk: &Desk, shape: &Shape) {
    let (told, site) = (desk.told().await, desk.site());
    // The claim of one pod is looked at, and refused; then it goes.
    let refused = adoption::look(&told, &site, "spring-a", desk.now()).await.expect_err("one pod's claim");
    assert!(shown(&refused).contains("PersistentVolumeClaim disk"), "{refused:?}");
    desk.edit(
        "Deployment",
        "spring-cloud-a",
        json!([{ "op": "remove", "path": "/spec/template/spec/volumes" }]),
    )
    .await;
    desk.settle(NAMESPACE).await;
    for _ in 0..500 {
        if desk.adopt("spring-a").await.expect("adopted").done {
            break;
        }
    }
    desk.settle(NAMESPACE).await;
    let mended = desk.fix().await.expect("checked");
    assert!(
        mended.findings.iter().any(|finding| finding.check == "namespace-label" && finding.fixed),
        "{mended:#?}"
    );

    let lane = |image: &str| json!({ "tag": "gray", "images": { "spring-a": image, "spring-c": "c:2" }, "entry": shape.entry() });
    // A lease that its holder left behind is looked at for its time, and taken over.
    let stamp = "2026-01-01T00:00:00.000000Z";
    let left = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "graylane-lane-gray" },
        "spec": { "holderIdentity": "graylane-0123456789ab", "leaseDurationSeconds": 30, "acquireTime": stamp, "renewTime": stamp } });
    desk.create(&left, "graylane").await;
    desk.run(DEPLOY, &lane("a:2")).await;
    let (update, _) = desk.run(DEPLOY, &lane("a:3")).await;
    desk.run(VERIFY, &json!({ "tag": "gray", "checks": [{ "name": "up", "rollout": {} }] })).await;
    desk.run(VERIFY, &smoke()).await;
    desk.renew("gray", "9h").await.expect("renewed");
    assert_eq!(desk.lanes().await.len(), 1);

    let promote = json!({ "images": { "spring-c": "c:2" } });
    let (plan, _) = desk.run(PRODUCTION, &promote).await;
    desk.undo(PRODUCTION, &promote, &plan).await.expect("taken back");
    for image in ["c:missing", "c:crash"] {
        let broken = json!({ "images": { "spring-c": image } });
        let plan = desk.plan(PRODUCTION, &broken).await.expect("planned");
        let failed = desk.carry_out(PRODUCTION, &broken, &plan).await.expect_err("does not come up");
        assert!(
            !shown(&failed).contains("may not") && !shown(&failed).contains("cannot"),
            "{}",
            shown(&failed)
        );
    }
    desk.undo(DEPLOY, &lane("a:3"), &update).await.expect("taken back");
    // A service that only the manifests know is made by a promotion.
    let text = std::fs::read_to_string(desk.home.path("config/services/spring-c.yaml")).expect("readable");
    desk.home.write("config/services/spring-d.yaml", &text.replace("spring-cloud-c", "spring-cloud-d"));
    desk.run(PRODUCTION, &json!({ "images": { "spring-d": "d:2" } })).await;
    kept_for_a_while(desk).await;
    assert_eq!(desk.lanes().await, []);
}

/// A lane goes whose objects others keep for a while: their end is waited for.
fn kept_for_a_while(desk: &Desk) -> BoxFuture<'_, ()> {
    // As the desk's deeds are: on the heap, because so many of them are made in one test.
    Box::pin(kept(desk))
}

async fn kept(desk: &Desk) {
    const KINDS: [&str; 5] = [
        "services",
        "configmaps",
        "secrets",
        "ingresses.networking.k8s.io",
        "httproutes.gateway.networking.k8s.io",
    ];
    let gray = || {
        KINDS.into_iter().flat_map(|kind| {
            let of = desk.cluster.objects(kind, NAMESPACE);
            of.into_iter().filter(|object| object["metadata"]["labels"]["zadigx-release-type"] == "mse-gray")
        })
    };
    let change = async |object: &Value, patch: Value| {
        let (kind, name) = (object["kind"].as_str().expect("a kind"), object["metadata"]["name"].as_str());
        desk.edit(kind, name.expect("a name"), patch).await;
    };
    for object in gray() {
        let kept =
            json!([{ "op": "add", "path": "/metadata/finalizers", "value": ["example.com/cleans-up"] }]);
        change(&object, kept).await;
    }
    let spec = json!({ "tag": "gray" });
    let plan = desk.plan(OFFLINE, &spec).await.expect("planned");
    let later = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        for object in gray() {
            change(&object, json!([{ "op": "remove", "path": "/metadata/finalizers" }])).await;
        }
    };
    let (done, ()) = tokio::join!(desk.carry_out(OFFLINE, &spec, &plan), later);
    done.unwrap_or_else(|error| panic!("{}", shown(&error)));
}

#[test]
fn the_printed_roles_are_what_kubectl_takes_and_hold_no_rule_that_nothing_needs() {
    let home = Home::new();
    let text = home.graylane(&["rbac", "production"]).expect(0).stdout;
    let objects = parse("roles", &text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let list = home.graylane(&["rbac", "production", "-o", "json"]).expect(0).json();
    assert_eq!(Value::from(objects.clone()), list["items"], "both say the same");
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Role", "RoleBinding"], "nothing is asked of the whole cluster");
    assert_eq!(objects[1]["subjects"][0]["name"], "graylane");
    let resources = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("resources: "));
        lines.map(|line| line.trim_matches(['[', ']', '"']).to_owned()).collect()
    };
    assert!(text.contains("# For: lanes, production.") && text.contains("# Stolen: "), "{text}");
    assert!(resources(&text).contains(&"secrets".to_owned()), "spring-a has a Secret: {text}");
    assert!(!resources(&text).contains(&"jobs".to_owned()), "{text}");
    let jobs =
        home.graylane(&["rbac", "production", "--with", "jobs,adopt", "--user", "ann"]).expect(0).stdout;
    assert!(resources(&jobs).contains(&"jobs".to_owned()) && jobs.contains("name: ann"), "{jobs}");

    // Without a Secret and a ConfigMap in any manifest nobody needs to see one.
    without_values(&home);
    let less = home.graylane(&["rbac", "production"]).expect(0).stdout;
    assert!(!resources(&less).iter().any(|one| one == "secrets" || one == "configmaps"), "{less}");
    let wrong = home.graylane(&["rbac", "producton"]).expect(2);
    assert!(wrong.stderr.contains("did you mean `production`?"), "{wrong:?}");
}

/// Up, verified by a Job, promoted; a second time that changes it in place; and down. `fresh` is the image of the entry.
const LANE: &str = r#"name: lane
inputs:
  fresh: { type: string, default: "spring-cloud-a:0.2" }
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 2m
    with:
      environment: real
      tag: gray
      images: { spring-a: "${{ inputs.fresh }}", spring-c: "spring-cloud-c:0.2" }
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
  verify:
    type: generic-verify
    needs: [deploy]
    timeout: 2m
    with: { environment: real, tag: gray, checks: [{ name: up, rollout: {} }, { name: smoke, job: { image: "smoke:1" } }] }
  promote:
    type: prod-deploy
    needs: [verify]
    timeout: 2m
    with: { environment: real, images: "${{ tasks.deploy.outputs.images }}" }
"#;

/// Each part of the Role that is asked for.
const ALL: [&str; 3] = ["jobs", "adopt", "fix"];

const BROKEN: &str = "name: broken\ntasks:\n  promote:\n    type: prod-deploy\n    timeout: 2m\n    with: { environment: real, images: { spring-c: \"spring-cloud-c:crash\" } }\n";

const DOWN: &str = "name: down\ntasks:\n  offline:\n    type: mse-gray-offline\n    timeout: 2m\n    with: { environment: real, tag: gray, drain: 100ms }\n";

/// A namespace of its own on a real API server, and a home whose identity there has nothing but what it is given.
struct Rbac {
    admin: kube::Client,
    home: Home,
    namespace: String,
}

impl Rbac {
    async fn new(kubeconfig: &Path, shape: &Shape) -> Rbac {
        let namespace = format!("rbac-{}-{}", shape.name, test_run());
        let rbac = Rbac { admin: client(kubeconfig).await, home: shape.home(), namespace };
        let namespaces: Api<Namespace> = Api::all(rbac.admin.clone());
        let made = json!({ "metadata": { "name": rbac.namespace } });
        let made = serde_json::from_value(made).expect("a namespace");
        namespaces.create(&PostParams::default(), &made).await.expect("created");
        if shape.gateway.0 == "gateway-api" {
            routes::define(&rbac.admin).await;
        }
        let own = rbac.home.path("kubeconfig");
        rbac.identity(kubeconfig, &own).await;
        for (name, text) in [("lane", LANE), ("broken", BROKEN), ("down", DOWN)] {
            rbac.home.write(&format!("workflows/{name}.yaml"), text);
        }
        let more = "mse: { enabled: false }\nttl: 8h\nservice_options: { nacos: { gray: false } }\nallow: { workflows: [lane, broken, down] }";
        rbac.home.real(&own, &rbac.namespace, more);
        let kind = format!("kind: {}", shape.gateway.0);
        rbac.home.edit("config/environments/real.yaml", "kind: mse", &kind);
        rbac
    }

    async fn furnish(&self) {
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = self.home.path(&format!("config/services/{service}.yaml"));
            create_all(&self.admin, &self.namespace, &file).await.expect("created");
        }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let kind = object["kind"].as_str().expect("a kind");
        let gvk = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", kind.to_lowercase()));
        Api::namespaced_with(self.admin.clone(), &self.namespace, &resource)
    }

    async fn put(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams::apply("test").force();
        self.api(object).patch(name, &params, &Patch::Apply(object)).await.expect("applied");
    }

    /// Gives the identity what `graylane rbac` prints; the Role, once the API server's authorizer knows of it.
    async fn grant(&self, with: &[&str]) -> Value {
        let account = format!("{}/graylane", self.namespace);
        let mut words = vec!["rbac", "real", "--service-account", &account, "-o", "json"];
        words.extend(with.iter().flat_map(|part| ["--with", part]));
        let printed = self.home.graylane(&words).expect(0).json();
        for object in printed["items"].as_array().expect("a list") {
            self.put(object).await;
        }
        let inside = self.inside();
        for _ in 0..100 {
            let told = inside.clusters.connect(&inside.site).await.expect("connected");
            if missing(&told, &inside.site, &[]).await.is_ok_and(|lacks| lacks.is_empty()) {
                return printed["items"][0].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: the Role is not known", self.namespace);
    }

    /// A kubeconfig of a ServiceAccount that has nothing but what it is given.
    async fn identity(&self, admin: &Path, to: &Path) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), &self.namespace);
        let made = serde_json::from_value(json!({ "metadata": { "name": "graylane" } })).expect("an account");
        accounts.create(&PostParams::default(), &made).await.expect("created");
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request("graylane", &PostParams::default(), &request).await;
        let token = answer.expect("a token").status.expect("answered").token;
        let file = kube::config::Kubeconfig::read_from(admin).expect("a kubeconfig");
        let mut file = serde_json::to_value(file).expect("json");
        let name = file["users"][0]["name"].clone();
        file["users"] = json!([{ "name": name, "user": { "token": token } }]);
        std::fs::write(to, file.to_string()).expect("written");
    }

    /// Runs the program; what it misses is told with everything that it said.
    fn does(&self, words: &[&str]) -> Ran {
        let ran = self.home.graylane(words);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            !said.contains("may not") && !said.contains(" resource \""),
            "{}: {words:?}: {said}",
            self.namespace
        );
        ran
    }

    async fn lane_objects(&self) -> usize {
        let mut count = 0;
        for (group, kind, plural) in [
            ("apps", "Deployment", "deployments"),
            ("", "Service", "services"),
            ("", "Secret", "secrets"),
            ("batch", "Job", "jobs"),
            ("coordination.k8s.io", "Lease", "leases"),
        ] {
            let gvk = GroupVersionKind::gvk(group, "v1", kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.admin.clone(), &self.namespace, &resource);
            let lanes = ListParams::default().labels("zadigx-release-type=mse-gray");
            let params = if matches!(kind, "Lease" | "Job") { ListParams::default() } else { lanes };
            count += api.list(&params).await.expect("listed").items.len();
        }
        count
    }

    /// The same identity in this process, for many looks in a row.
    fn inside(&self) -> Inside {
        let gathered = gather(&self.home.path("config/environments"), &key());
        let site = Site::load(&gathered.bundle, "real").expect("a site");
        let clusters = Clusters::new(self.admin.clone());
        let mut registry = Registry::default();
        graylane_tasks::register(&mut registry, &clusters, &key());
        Inside { clusters, registry, bundle: Arc::new(gathered.bundle), site }
    }
}

struct Inside {
    clusters: Arc<Clusters>,
    registry: Registry,
    bundle: Arc<Bundle>,
    site: Site,
}

impl Inside {
    /// What the plan says that meets a rule: its refusal, or its notes.
    async fn plan(&self, rule: &Rule) -> String {
        let told = self.clusters.connect(&self.site).await.expect("connected");
        let now = WallClock::default().now();
        if rule.weight == Weight::Part && rule.why.contains("adopt") {
            return told_by(
                adoption::look(&told, &self.site, "spring-a", now).await.map(|plan| plan.warnings),
            );
        }
        if rule.weight == Weight::Part && rule.why.contains("fix") {
            let found = check(&told, &self.site).await.expect("checked");
            let lines = found.findings.into_iter().filter_map(|finding| finding.hint);
            return lines.collect::<Vec<_>>().join("\n");
        }
        let (kind, mut spec) = match rule.weight {
            Weight::Part => (VERIFY, smoke()),
            _ => (DEPLOY, json!({ "tag": "blue", "images": { "spring-c": "c:2" } })),
        };
        spec["environment"] = "real".into();
        let (workflow, task) = ("lane".parse().expect("a name"), "it".parse().expect("a name"));
        let (bundle, clock) = (Arc::clone(&self.bundle), Arc::new(WallClock::default()));
        let context = TaskContext::alone(RunId::new(1, 1), workflow, task, spec, bundle, clock);
        told_by(self.registry.get(kind).expect("a type").plan(&context).await.map(|plan| plan.warnings))
    }
}

fn told_by(planned: Result<Vec<String>, TaskError>) -> String {
    planned.map_or_else(|error| shown(&error), |warnings| warnings.join("\n"))
}

/// Everything that is done with an environment, by an identity that has the printed Role alone.
async fn lane_in(rbac: Rbac, everything: bool) -> Rbac {
    rbac.furnish().await;
    let nothing = rbac.home.graylane(&["run", "workflows/lane.yaml"]).expect(1).stdout;
    let first = "this identity may not get, list, watch, create, patch, delete deployments";
    assert!(nothing.contains(first), "an identity without any right: {nothing}");
    rbac.grant(if everything { &ALL } else { &["jobs"] }).await;
    rbac.does(&["run", "workflows/lane.yaml"]).expect(0);
    if everything {
        rbac.does(&["run", "workflows/lane.yaml", "-i", "fresh=spring-cloud-a:0.3"]).expect(0);
        rbac.does(&["lanes", "renew", "gray", "-e", "real", "--for", "9h"]).expect(0);
        rbac.does(&["undo", "latest"]).expect(0);
        let broken = rbac.does(&["run", "workflows/broken.yaml"]).expect(1).stdout;
        assert!(broken.contains("last lines of"), "pods are read, and their logs: {broken}");
        // Exit code 1 in any case: there is no gateway.
        let mended = rbac.does(&["environment", "check", "real", "--fix"]).stdout;
        assert!(mended.contains("real"), "{mended}");
    }
    rbac.does(&["run", "workflows/down.yaml"]).expect(0);
    assert_eq!(rbac.lane_objects().await, 0, "{}: the story took everything down", rbac.namespace);
    tally::told("stories with the printed Role alone", 0, 1);
    rbac
}

/// A baseline from before anybody knew of lanes, brought to the version label; and the namespace's own label.
async fn adopted(rbac: Rbac) {
    label(&rbac.home, false);
    rbac.furnish().await;
    label(&rbac.home, true);
    rbac.home.edit("config/environments/real.yaml", "mse: { enabled: false }", "mse: { enabled: true }");
    rbac.grant(&ALL).await;
    let mended = rbac.does(&["environment", "check", "real", "--fix"]).stdout;
    assert!(mended.contains("mended  namespace-label"), "{mended}");
    // A baseline that is not up yet is refused, and asked again.
    let adopt = ["environment", "adopt", "spring-a", "-e", "real", "--yes"];
    let mut done = rbac.does(&adopt);
    for _ in 0..100 {
        if done.code == 0 || !done.stderr.contains("is not fully rolled out") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        done = rbac.does(&adopt);
    }
    assert!(done.expect(0).stdout.contains("nothing is left to be done"));
    tally::told("stories with the printed Role alone", 0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_a_real_api_server_the_printed_role_is_enough_and_none_of_it_can_be_left_out() {
    let Some(kubeconfig) = real() else { return };
    let of = |name: &str| SHAPES.iter().find(|shape| shape.name == name).expect("a shape");
    let before = Shape { name: "before", gateway: ("mse", "mse"), values: true };
    let (mse, plain, routes) = tokio::join!(
        Rbac::new(&kubeconfig, of("mse")),
        Rbac::new(&kubeconfig, of("plain")),
        Rbac::new(&kubeconfig, of("gateway-api")),
    );
    let others = [
        tokio::spawn(async move { drop(lane_in(plain, false).await) }),
        tokio::spawn(async move { drop(lane_in(routes, false).await) }),
        tokio::spawn(adopted(Rbac::new(&kubeconfig, &before).await)),
    ];
    let rbac = lane_in(mse, true).await;
    let role = rbac.grant(&ALL).await;
    let inside = rbac.inside();
    let rules = rules(&inside.site, &rbac.namespace, &Extra::ALL);
    assert_eq!(role["rules"].as_array().map(Vec::len), Some(rules.len()));
    for (at, rule) in rules.iter().enumerate() {
        let mut less = role.clone();
        less["rules"].as_array_mut().expect("rules").remove(at);
        rbac.put(&less).await;
        let line = format!("resources: [\"{}\"]", rule.resource);
        let mut said = String::new();
        // The API server's authorizer learns of a Role a moment later.
        for _ in 0..50 {
            said = inside.plan(rule).await;
            if said.contains(&line) && rule.verbs.iter().all(|verb| said.contains(verb)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(said.contains(&line), "the rule to add, {}: {said}", rule.line());
        assert!(rule.verbs.iter().all(|verb| said.contains(verb)), "{}: {said}", rule.line());
    }
    assert_eq!(rbac.lane_objects().await, 0, "nothing was written without a right");
    tally::told("rules left out", 0, rules.len());
    for other in others {
        other.await.expect("told");
    }
}
