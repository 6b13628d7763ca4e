//! Faults of a real API server, from a seed: a release under one of them succeeds only where the cluster is as planned.
//!
//! ```text
//! graylane --HTTP--> a proxy with one fault (support/proxy.rs) --> the rehearsal, or a real API server
//! ```
//! Otherwise the reason names the fault, what is told as left is what a label scan finds, and afterwards everything can be
//! taken down and deployed as if nothing had been. `GRAYLANE_TEST_FAULTS=all` takes 100 seeds and writes the report that
//! `cargo xtask long` keeps; else a few are taken, and the seeds are said.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use graylane_engine::clock::{Clock as _, WallClock};
use graylane_engine::task::ErrorKind;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::desk::{Desk, NAMESPACE, shown};
use crate::support::proxy::{Fault, On, Proxy, Trouble};
use crate::support::{Home, Rehearsal, client, say, until};

const RELEASE: &str = r#"name: release
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 1m
    with:
      environment: production
      tag: gray
      images: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" }
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
  verify:
    type: generic-verify
    needs: [deploy]
    timeout: 1m
    with: { environment: production, tag: gray, checks: [{ name: the lane is up, rollout: {} }] }
  promote:
    type: prod-deploy
    needs: [verify]
    timeout: 1m
    with:
      environment: production
      images: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" }
      order: [spring-c, spring-a]
  offline:
    type: mse-gray-offline
    needs: [promote]
    timeout: 1m
    with: { environment: production, tag: gray, drain: 50ms }
"#;
const AGAIN: &str = r#"name: prod-workflow
tasks:
  promote:
    type: prod-deploy
    timeout: 1m
    with:
      environment: production
      images: { spring-a: "spring-cloud-a:0.2", spring-c: "spring-cloud-c:0.2" }
"#;
const DOWN: &str = r#"name: mse-gray-workflow
tasks:
  offline:
    type: mse-gray-offline
    timeout: 1m
    with: { environment: production, tag: gray, drain: 50ms, on_missing: pass }
"#;

/// What must become of a release under a fault.
#[derive(Debug, Clone, PartialEq)]
enum Expect {
    /// It passes, and so must the release.
    Succeeds,
    /// It stays: where it came to bear on anything, these words say so.
    Named(Vec<String>),
}

#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    trouble: Trouble,
    expect: Expect,
    /// Whether nobody may see anything by then, so that nothing can be told of what is left.
    blind: bool,
}

/// A sequence of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

const KINDS: usize = 14;
const FOREVER: usize = usize::MAX;
const WRITES: On = On { mutating: true, dry: false, watch: false, resource: None, method: None };
const ANY: On = On { mutating: false, dry: false, watch: false, resource: None, method: None };
const WATCHES: On = On { mutating: false, dry: false, watch: true, resource: None, method: None };

fn case(seed: usize, namespace: &str) -> Case {
    let mut dice = Dice(seed as u64 + 1);
    // The first numbers of neighbours resemble each other.
    for _ in 0..4 {
        dice.roll(2);
    }
    let refusal = |code, reason, message: String| Fault::Answer {
        code,
        reason,
        message,
        retry_after: None,
        plain: false,
    };
    let written = dice.one(&["deployments", "services", "secrets", "ingresses"]);
    let group = match written {
        "deployments" => "apps",
        "ingresses" => "networking.k8s.io",
        _ => "",
    };
    let of_one = On { resource: Some(written), method: Some("PATCH"), ..WRITES };
    let passes = |name, fault, on, from, times| Case {
        name,
        trouble: Trouble { fault, on, from, times },
        expect: Expect::Succeeds,
        blind: false,
    };
    let stays = |name, fault, on, from, words: Vec<String>| Case {
        name,
        trouble: Trouble { fault, on, from, times: FOREVER },
        expect: Expect::Named(words),
        blind: false,
    };
    let (early, often) = (dice.roll(24), 1 + dice.roll(3));
    match seed % KINDS {
        0 => {
            let words = "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again";
            passes("a conflict", refusal(409, "Conflict", words.into()), WRITES, early, often)
        }
        1 => {
            let fault = Fault::Answer {
                code: 429,
                reason: "",
                message: "Too many requests, please try again later.".into(),
                retry_after: Some(1),
                plain: true,
            };
            passes("too many requests", fault, ANY, early * 3, often)
        }
        2 => {
            let code = dice.one(&[500, 502, 503, 504]);
            let message = "etcdserver: request timed out".into();
            let retry_after = dice.one(&[None, Some(1)]);
            let fault = Fault::Answer { code, reason: "InternalError", message, retry_after, plain: false };
            passes("an internal error", fault, ANY, early * 3, often)
        }
        3 => passes("a connection that ends before the request", Fault::ResetBefore, ANY, early * 3, often),
        4 => passes("a connection that ends before the answer", Fault::ResetAfter, WRITES, early, often),
        5 => passes("watches that end", Fault::WatchEnds, WATCHES, dice.roll(2), 2 + often),
        6 => passes("watches that fell behind", Fault::WatchGone, WATCHES, dice.roll(2), often),
        7 => {
            let away = Duration::from_millis(1000 + 500 * dice.roll(5) as u64);
            passes("an API server that is away", Fault::Away(away), WRITES, early, FOREVER)
        }
        8 => Case {
            blind: true,
            ..stays(
                "credentials that have expired",
                refusal(401, "Unauthorized", "Unauthorized".into()),
                ANY,
                10 + early * 3,
                vec![
                    "Unauthorized (401)".into(),
                    "hint: the credentials of the cluster are not accepted: renew them".into(),
                ],
            )
        },
        9 => {
            let words =
                format!("admission webhook \"policy.example.com\" denied the request: no {written} today");
            let fault = refusal(400, "BadRequest", words.clone());
            stays(
                "a webhook that denies",
                fault,
                of_one,
                dice.roll(2),
                vec![words, "hint: a policy of the cluster".into()],
            )
        }
        10 => {
            let on = On { dry: true, resource: Some("deployments"), method: Some("PATCH"), ..WRITES };
            passes("a webhook that changes objects", Fault::Mutates, on, 0, FOREVER)
        }
        11 => {
            let words = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            stays(
                "a namespace that is being deleted",
                fault,
                of_one,
                dice.roll(2),
                vec![words, "hint: the namespace is being deleted".into()],
            )
        }
        12 => {
            let words = format!(
                "exceeded quota: few, requested: count/{written}=1, used: count/{written}=4, limited: count/{written}=4"
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            stays(
                "a quota that is used up",
                fault,
                of_one,
                dice.roll(2),
                vec![words, "hint: raise the quota".into()],
            )
        }
        _ => {
            let words = format!(
                "User \"graylane\" cannot patch resource \"{written}\" in API group \"{group}\" in the namespace \"{namespace}\""
            );
            let fault = refusal(403, "Forbidden", format!("{written} is forbidden: {words}"));
            let rule = format!("{{ apiGroups: [\"{group}\"], resources: [\"{written}\"], verbs: [patch] }}");
            stays("a right that was taken away", fault, of_one, dice.roll(2), vec![words, rule])
        }
    }
}

/// A cluster with the example's baseline.
struct Stage {
    home: Home,
    upstream: PathBuf,
    namespace: String,
    _rehearsal: Option<Rehearsal>,
}

impl Stage {
    fn rehearsed() -> Stage {
        let home = Home::new();
        let rehearsal = home.rehearsal("fast");
        let upstream = rehearsal.kubeconfig.clone();
        until("the rehearsal has written its kubeconfig", || upstream.exists());
        Stage { home, upstream, namespace: NAMESPACE.into(), _rehearsal: Some(rehearsal) }
    }

    async fn real(kubeconfig: &Path, namespace: String) -> Stage {
        let home = Home::new();
        let kube = client(kubeconfig).await;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(kube.clone());
        let made = serde_json::from_value(json!({ "metadata": { "name": namespace } })).expect("a namespace");
        namespaces.create(&PostParams::default(), &made).await.expect("created");
        for service in ["nacos", "spring-a", "spring-b", "spring-c"] {
            let file = home.path(&format!("config/services/{service}.yaml"));
            graylane_tasks::cluster::create_all(&kube, &namespace, &file).await.expect("created");
        }
        let environment = "config/environments/production.yaml";
        home.edit(environment, "namespace: mse-customer", &format!("namespace: {namespace}"));
        // Nobody puts the agent into pods there.
        home.edit(environment, "mse: { enabled: true }", "mse: { enabled: false }");
        Stage { home, upstream: kubeconfig.to_owned(), namespace, _rehearsal: None }
    }

    async fn list(&self, (api_version, kind, plural): (&str, &str, &str), selector: &str) -> Vec<Value> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> =
            Api::namespaced_with(client(&self.upstream).await, &self.namespace, &resource);
        let found = api.list(&ListParams::default().labels(selector)).await.expect("listed");
        found.items.iter().map(|object| serde_json::to_value(object).expect("json")).collect()
    }

    /// What carries the labels of a lane, as Graylane names objects.
    async fn scan(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for kind in [
            ("apps/v1", "Deployment", "deployments"),
            ("v1", "Service", "services"),
            ("networking.k8s.io/v1", "Ingress", "ingresses"),
            ("v1", "ConfigMap", "configmaps"),
            ("v1", "Secret", "secrets"),
        ] {
            for object in self.list(kind, "zadigx-release-type=mse-gray").await {
                found.insert(format!("{} {}", kind.1, object["metadata"]["name"].as_str().expect("a name")));
            }
        }
        found
    }

    /// Which of the two services of the release run its images in production.
    async fn promoted(&self) -> Vec<bool> {
        let all = self.list(("apps/v1", "Deployment", "deployments"), "").await;
        let image = |name: &str| {
            let found = all.iter().find(|object| object["metadata"]["name"] == name).expect("there");
            found["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image").to_owned()
        };
        ["spring-cloud-a", "spring-cloud-c"].map(|name| image(name) == format!("{name}:0.2")).to_vec()
    }

    /// Whether a plan of the same promotion has nothing left to change.
    fn is_as_planned(&self) -> bool {
        let plan = self.home.graylane(&["plan", "workflows/again.yaml", "-o", "json"]).expect(0).json();
        let mut actions = BTreeSet::new();
        collect(&plan, &mut actions);
        actions == BTreeSet::from(["keep".to_owned()])
    }
}

/// Every `action` of a plan.
fn collect(value: &Value, actions: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(action) = map.get("action").and_then(Value::as_str) {
                actions.insert(action.to_owned());
            }
            map.values().for_each(|value| collect(value, actions));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, actions)),
        _ => {}
    }
}

/// What the failed task said that it leaves, where it said it.
fn told_left(said: &str) -> Option<BTreeSet<String>> {
    let list = |text: &str| text.split(", ").map(|one| one.trim().to_owned()).collect::<BTreeSet<_>>();
    for line in said.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("left to look at: ") {
            let (objects, _) = rest.split_once(" in ").expect("it says where");
            return Some(list(objects));
        }
        if let Some((_, rest)) = line.split_once("still there: ") {
            return Some(list(rest));
        }
        if line.contains("nothing of lane `gray` is left") {
            return Some(BTreeSet::new());
        }
    }
    None
}

/// Carries the release out under a fault; gives a row of the report.
async fn tell(seed: usize, stage: &Stage) -> Result<String, String> {
    let case = case(seed, &stage.namespace);
    let wrong = |words: &str, said: &str| Err(format!("seed {seed}, {case:?}: {words}\n{said}"));
    let home = &stage.home;
    let proxy = Proxy::before(&stage.upstream, &home.path("kubeconfig"), Some(case.trouble.clone())).await;
    let environment = "config/environments/production.yaml";
    home.edit(
        environment,
        "cluster: rehearsal\n",
        &format!("cluster: {{ kubeconfig: {} }}\n", proxy.kubeconfig.display()),
    );
    home.write("workflows/release.yaml", RELEASE);
    home.write("workflows/again.yaml", AGAIN);
    home.write("workflows/down.yaml", DOWN);
    let began = Instant::now();
    let run = || home.graylane(&["run", "workflows/release.yaml"]);
    let ran = tokio::task::block_in_place(run);
    let took = began.elapsed();
    let (said, injected) = (ran.stdout.clone(), proxy.injected());
    let tasks = match home.graylane(&["runs", "show", "latest", "-o", "json"]).json()["tasks"].clone() {
        Value::Array(tasks) => tasks,
        other => return wrong("no tasks", &other.to_string()),
    };
    let status = |name: &str| {
        let task = tasks.iter().find(|task| task["name"] == name);
        task.and_then(|task| task["status"].as_str()).unwrap_or("none").to_owned()
    };
    let mutates = matches!(case.trouble.fault, Fault::Mutates);
    if !mutates {
        proxy.lift();
    }
    if ran.code == 0 {
        if !stage.scan().await.is_empty() || !stage.is_as_planned() {
            return wrong("it succeeded, and the cluster is not as planned", &said);
        }
        if let Fault::Answer { code: 429, .. } = case.trouble.fault
            && injected > 0
            && took < Duration::from_secs(1)
        {
            return wrong("it did not wait as long as it was told to", &format!("{took:?}"));
        }
    } else {
        let Expect::Named(words) = &case.expect else { return wrong("it should have passed", &said) };
        if ran.code != 1 {
            return wrong("the run did not fail in an orderly way", &format!("{ran:?}"));
        }
        if let Some(missing) = words.iter().find(|words| !said.contains(words.as_str())) {
            return wrong(&format!("the reason does not say {missing:?}"), &said);
        }
        let unseen = case.blind && said.contains("could not be seen");
        if (status("deploy") == "failed" || status("offline") == "failed") && !unseen {
            // A plan that was refused has made nothing, and says nothing of leftovers.
            let (left, found) = (told_left(&said).unwrap_or_default(), stage.scan().await);
            if left != found {
                return wrong(&format!("told as left: {left:?}; found: {found:?}"), &said);
            }
        }
        let promoted = stage.promoted().await;
        let halves = said.contains("was not rolled back");
        let expected = if status("promote") == "succeeded" { [true, true] } else { [false, false] };
        if promoted != expected && !halves {
            return wrong(&format!("production is half-way: {promoted:?}"), &said);
        }
    }
    proxy.lift();
    for again in ["workflows/down.yaml", "workflows/again.yaml"] {
        let ran = home.graylane(&["run", again]);
        if ran.code != 0 {
            return wrong(&format!("{again} does not go well afterwards"), &ran.stdout);
        }
    }
    let leases = stage.list(("coordination.k8s.io/v1", "Lease", "leases"), "").await;
    let held: Vec<&Value> = leases.iter().filter(|lease| lease["spec"]["holderIdentity"] != "").collect();
    if !stage.scan().await.is_empty() || !stage.is_as_planned() || !held.is_empty() {
        return wrong(&format!("it cannot be brought to an end afterwards; leases: {held:?}"), &said);
    }
    if injected == 0 && ran.code != 0 {
        return wrong("it failed, and not by the fault", &said);
    }
    let outcome = if ran.code == 0 { "succeeded" } else { "failed, and said why" };
    Ok(format!("| {seed} | {} | {} | {outcome} |", case.name, injected.min(999)))
}

/// Tells seeds, a few at a time; gives what was wrong, and the rows.
async fn tell_all(
    seeds: &[usize],
    at_once: usize,
    stage: impl AsyncFn(usize) -> Stage,
) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut rows) = (Vec::new(), Vec::new());
    for some in seeds.chunks(at_once) {
        let mut telling = Vec::new();
        for seed in some {
            let (seed, stage) = (*seed, stage(*seed).await);
            telling.push(tokio::spawn(async move { tell(seed, &stage).await }));
        }
        for told in telling {
            match told.await.expect("told") {
                Ok(row) => rows.push(row),
                Err(words) => wrong.push(words),
            }
        }
    }
    (wrong, rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn under_every_fault_a_release_succeeds_as_planned_or_says_why_and_what_is_left() {
    let all = std::env::var("GRAYLANE_TEST_FAULTS").as_deref() == Ok("all");
    let minutes = WallClock::default().now().millis() / 60_000;
    let first = usize::try_from(minutes).expect("small") * 5 % 10_000;
    let written = std::env::var("GRAYLANE_TEST_FAULTS_SEED").ok().and_then(|seed| seed.parse::<usize>().ok());
    let seeds: Vec<usize> = match written {
        Some(seed) => vec![seed],
        None if all => (0..100).collect(),
        None => (first..first + 5).collect(),
    };
    let (mut wrong, rows) = tell_all(&seeds, if all { 4 } else { 3 }, async |_| Stage::rehearsed()).await;
    let mut real = 0;
    if let Some(kubeconfig) = std::env::var_os("GRAYLANE_TEST_KUBECONFIG").map(PathBuf::from) {
        let some: Vec<usize> =
            if all { (0..KINDS).collect() } else { seeds.iter().copied().take(2).collect() };
        let stage = async |seed: usize| {
            Stage::real(&kubeconfig, format!("faults-{}-{seed}", std::process::id())).await
        };
        let (more, _) = tell_all(&some, 2, stage).await;
        real = some.len();
        wrong.extend(more);
    }
    let words = format!(
        "faults: {} seeds on the rehearsal (from {}), {real} on a real API server, {} wrong",
        seeds.len(),
        seeds[0],
        wrong.len()
    );
    say(&words);
    if let Ok(path) = std::env::var("GRAYLANE_TEST_FAULTS_REPORT") {
        let mut report = String::from("# Faults of an API server\n\n");
        // Writing into a String cannot fail.
        let _ = write!(
            report,
            "Written by `cargo xtask long`. A release (deploy, verify, promote, offline) under one fault a seed, played by a proxy before the\n\
             rehearsal. It may succeed only where a plan has nothing left to change; else its reason names the fault, what it tells as left is\n\
             what a label scan finds, and afterwards the lane can be taken down and the release deployed.\n\n{words}.\n\n\
             | Seed | Fault | Times | Release |\n|---|---|---|---|\n{}\n",
            rows.join("\n")
        );
        std::fs::write(path, report).expect("written");
    }
    assert!(wrong.is_empty(), "{words}\n{}", wrong.join("\n\n"));
}

/// The control: without a fault the same release succeeds, and a fault that nobody notices would be noticed here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn control_a_cluster_that_is_not_as_planned_does_not_pass_for_one_that_is() {
    let stage = Stage::rehearsed();
    let proxy = Proxy::before(&stage.upstream, &stage.home.path("kubeconfig"), None).await;
    let environment = "config/environments/production.yaml";
    let there = format!("cluster: {{ kubeconfig: {} }}\n", proxy.kubeconfig.display());
    stage.home.edit(environment, "cluster: rehearsal\n", &there);
    stage.home.write("workflows/again.yaml", AGAIN);
    assert!(!stage.is_as_planned(), "nothing was promoted yet");
    assert_eq!(stage.promoted().await, [false, false]);
    stage.home.graylane(&["run", "workflows/again.yaml"]).expect(0);
    assert!(stage.is_as_planned() && proxy.requests() > 0);
    assert_eq!(stage.promoted().await, [true, true]);
    assert_eq!(
        told_left("  left to look at: Deployment a, Secret b in n; x"),
        Some(BTreeSet::from(["Deployment a".into(), "Secret b".into()]))
    );
}

/// A minute without an API server, in mid-rollout: it is waited out, and told.
#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_minute_is_waited_out_and_told() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" } });
    let plan = desk.plan("mse-gray-deploy", &spec).await.expect("planned");
    let outage = async {
        for _ in 0..10_000 {
            if desk.cluster.objects("deployments.apps", NAMESPACE).len() > 5 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        desk.cluster.set_outage(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        desk.cluster.set_outage(false);
    };
    let began = Instant::now();
    let (done, ()) = tokio::join!(desk.carry_out("mse-gray-deploy", &spec, &plan), outage);
    done.unwrap_or_else(|error| panic!("{}\n{:#?}", shown(&error), desk.said()));
    assert!(began.elapsed() >= Duration::from_secs(60));
    assert!(began.elapsed() < Duration::from_secs(90), "it goes on soon after: {:?}", began.elapsed());
    let said = desk.said();
    assert!(said.iter().any(|line| line.contains("waiting for it, up to 150 s")), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("the API server answers again, after ")), "{said:#?}");
    let lane = desk.lanes().await.remove(0);
    assert!(lane.services.iter().all(|copy| copy.ready == 1 && copy.missing.is_empty()), "{lane:?}");
}

/// A plan does not wait: nothing has begun, and whoever asked is told soon.
#[tokio::test(start_paused = true)]
async fn a_plan_does_not_wait_for_an_api_server_that_is_away_and_an_attempt_not_for_ever() {
    let desk = Desk::new().await;
    let spec = json!({ "tag": "gray", "images": { "spring-a": "a:2" } });
    let plan = desk.plan("mse-gray-deploy", &spec).await.expect("planned");
    desk.cluster.set_outage(true);
    let began = Instant::now();
    let error = desk.plan("mse-gray-deploy", &spec).await.expect_err("away");
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let began = Instant::now();
    let error = desk.carry_out("mse-gray-deploy", &spec, &plan).await.expect_err("away");
    assert_eq!(error.kind, ErrorKind::Transient, "{error:?}");
    let waited = began.elapsed();
    assert!((Duration::from_secs(100)..Duration::from_secs(900)).contains(&waited), "{waited:?}");
}

/// Paused is what a person did, and a person undoes it: it is waited for, however long that takes.
#[tokio::test(start_paused = true)]
async fn a_paused_deployment_waits_and_goes_on_when_it_is_resumed() {
    let desk = Desk::new().await;
    let patch = json!({ "target": { "kind": "Deployment", "name": "spring-cloud-b" }, "patch": { "spec": { "paused": true } } });
    let service = json!({ "images": { "spring-cloud-b": "b:2" }, "patches": [patch] });
    let spec = json!({ "tag": "gray", "services": { "spring-b": service } });
    let plan = desk.plan("mse-gray-deploy", &spec).await.expect("planned");
    let resume = async {
        tokio::time::sleep(Duration::from_secs(1200)).await;
        let change = json!([{ "op": "replace", "path": "/spec/paused", "value": false }]);
        desk.edit("Deployment", "spring-cloud-b-mse-gray", change).await;
    };
    let began = Instant::now();
    let (done, ()) = tokio::join!(desk.carry_out("mse-gray-deploy", &spec, &plan), resume);
    done.unwrap_or_else(|error| panic!("{}", shown(&error)));
    assert!(began.elapsed() >= Duration::from_secs(1200));
    let said = desk.said();
    assert!(
        said.iter().any(|line| line.contains("Deployment spring-cloud-b-mse-gray is paused")),
        "{said:#?}"
    );
}

/// What tasks of three services ask of an API server; docs/operations.md has the numbers.
#[tokio::test(start_paused = true)]
async fn tasks_of_three_services_ask_the_api_server_for_little() {
    let desk = Desk::new().await;
    let images = json!({ "spring-a": "a:2", "spring-b": "b:2", "spring-c": "c:2" });
    let tasks = [
        ("mse-gray-deploy", json!({ "tag": "gray", "images": images })),
        ("generic-verify", json!({ "tag": "gray", "checks": [{ "name": "up", "rollout": {} }] })),
        ("prod-deploy", json!({ "images": images })),
        ("mse-gray-offline", json!({ "tag": "gray", "drain": "1s" })),
    ];
    let text = include_str!("../docs/operations.md");
    let mut other = Vec::new();
    for (kind, spec) in tasks {
        desk.cluster.clear_requests();
        let plan = desk.plan(kind, &spec).await.expect("planned");
        let planned = desk.cluster.counted();
        desk.cluster.clear_requests();
        desk.carry_out(kind, &spec, &plan).await.expect("done");
        let done = desk.cluster.counted();
        if kind == "mse-gray-deploy" {
            let count = |verb: &str, kind: &str| desk.cluster.count(verb, kind);
            let followed = ["deployments.apps", "replicasets.apps", "pods"];
            let of = |verb: &str| followed.map(|kind| count(verb, kind));
            assert_eq!(of("watch"), [1, 1, 1], "one watch a kind, shared by all three services");
            // The leak test looks once more at pods and Services as they are.
            assert_eq!(of("list"), [1, 1, 2], "no list where nothing is looked for");
            assert_eq!((count("list", "services"), count("list", "secrets")), (1, 0));
        }
        if kind == "mse-gray-offline" {
            let count = |verb: &str, kind: &str| desk.cluster.count(verb, kind);
            let read =
                ["deployments.apps", "services", "configmaps", "secrets", "ingresses.networking.k8s.io"];
            assert_eq!(
                read.map(|kind| count("get", kind)),
                [0; 5],
                "the answer to a delete says that it is gone"
            );
            // The watch's own, and the last word.
            assert_eq!((count("watch", "pods"), count("list", "pods")), (1, 2));
        }
        let what = if kind == "generic-verify" { " (`rollout`)" } else { "" };
        let row = format!("| `{kind}`{what} | {planned} | {done} |");
        if !text.contains(&row) {
            other.push(row);
        }
    }
    assert!(other.is_empty(), "docs/operations.md has other numbers than\n{}", other.join("\n"));
}
