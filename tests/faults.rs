//! Faults of a real API server, from a seed: a story under one of them succeeds only where the cluster is as it must be.
//!
//! ```text
//! graylane --HTTP--> a proxy with one fault (support/proxy.rs) --> the rehearsal, or a real API server <-- the judge
//! ```
//! Otherwise the reason names the fault, what is told as left is what a label scan finds, and afterwards everything can be
//! taken down and deployed as if nothing had been. `GRAYLANE_TEST_FAULTS=all` takes 100 seeds and writes the report that
//! `cargo xtask long` keeps; else a few are taken, and the seeds are said.

mod cases;
mod ground;
mod judge;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use graylane_engine::clock::{Clock as _, WallClock};
use graylane_engine::task::ErrorKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::cases::{Expect, KINDS, Story, WEBHOOK, case};
use self::ground::{ENVIRONMENT, Ground, READY_LATE, READY_SOON};
use self::judge::{Before, Failed, parted};
use crate::support::desk::{Desk, NAMESPACE, shown};
use crate::support::proxy::{Again, Fault, On, Proxy, Trouble};
use crate::support::{Ran, agent, say, stage, tally};

const LANE: &str = r#"name: release
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 1m
    with:
      environment: production
      tag: gray
      images: { spring-a: "spring-cloud-a:0.2", spring-b: "spring-cloud-b:0.2", spring-c: "spring-cloud-c:0.2" }
      entry: { service: spring-a, header: { name: x-user-id, value: "100" } }
"#;
const RELEASE: &str = r#"name: release
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 3m
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
const UPDATE: &str = r#"name: release
tasks:
  deploy:
    type: mse-gray-deploy
    timeout: 1m
    with:
      environment: production
      tag: gray
      images: { spring-a: "spring-cloud-a:0.3", spring-c: "spring-cloud-c:0.3" }
"#;
const PROMOTION: &str = r#"name: release
tasks:
  promote:
    type: prod-deploy
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

impl Ground {
    /// Graylane asks this API server from now on.
    fn ask(&self, proxy: &Proxy) {
        let file = std::fs::read_to_string(self.home.path(ENVIRONMENT)).expect("readable");
        let cluster = file.lines().find(|line| line.starts_with("cluster: ")).expect("a cluster").to_owned();
        let there = format!("cluster: {{ kubeconfig: {} }}", proxy.kubeconfig.display());
        self.home.edit(ENVIRONMENT, &cluster, &there);
    }

    /// Runs a workflow; other seeds go on meanwhile.
    fn run(&self, text: &str) -> Ran {
        self.home.write("workflows/told.yaml", text);
        tokio::task::block_in_place(|| self.home.graylane(&["run", "workflows/told.yaml"]))
    }

    /// Whether a plan of the promotion has nothing left to change.
    fn is_as_planned(&self) -> bool {
        self.home.write("workflows/told.yaml", AGAIN);
        let plan = || self.home.graylane(&["plan", "workflows/told.yaml", "-o", "json"]).expect(0).json();
        let mut actions = BTreeSet::new();
        collect(&tokio::task::block_in_place(plan), &mut actions);
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

/// What came of a seed: a row of the report, and how often the fault struck.
struct Told {
    row: String,
    injected: usize,
}

/// Tells a story under a fault, and judges the cluster.
async fn tell(seed: usize, ground: &Ground) -> Result<Told, String> {
    let case = case(seed, &ground.namespace);
    let mut wrong = Vec::new();
    let home = &ground.home;

    // Without a fault: the lane that the story finds.
    let proxy = Proxy::before(&ground.upstream, &home.path("kubeconfig")).await;
    ground.ask(&proxy);
    let (_, baseline) = parted(ground.snapshot().await);
    if case.story != Story::Release {
        ground.run(LANE).expect(0);
    }
    let (first_lane, _) = parted(ground.snapshot().await);
    let mut undone = String::new();
    if case.story == Story::Undo {
        ground.run(UPDATE).expect(0);
        let run = home.graylane(&["runs", "show", "latest", "-o", "json"]).json();
        run["id"].as_str().expect("an id").clone_into(&mut undone);
    }
    let (lane, _) = parted(ground.snapshot().await);
    let before = Before { baseline, lane, first_lane };

    // Under the fault.
    let webhook = matches!(case.trouble.fault, Fault::Webhook);
    if webhook {
        ground.change_deployments().await;
    }
    proxy.begin(case.trouble.clone());
    let ran = match case.story {
        Story::Release => ground.run(RELEASE),
        Story::Update => ground.run(UPDATE),
        Story::Promotion => ground.run(PROMOTION),
        Story::Undo => tokio::task::block_in_place(|| home.graylane(&["undo", &undone])),
    };
    proxy.lift();
    let (said, mut injected) = (ran.stdout.clone(), proxy.injected());
    let run = home.graylane(&["runs", "show", "latest", "-o", "json"]).json();
    let id = run["id"].as_str().unwrap_or_default().to_owned();
    let status = |name: &str| {
        let task = run["tasks"].as_array().into_iter().flatten().find(|task| task["name"] == name);
        task.and_then(|task| task["status"].as_str()).unwrap_or("none").to_owned()
    };

    match (&case.expect, ran.code) {
        (Expect::Succeeds, 0) => {
            wrong.extend(judge::after_success(ground, case.story, &before).await);
            wrong.extend(judge::waited(case.story, &proxy.witnessed()));
            if webhook {
                let (met, more) = judge::webhook(ground, case.story).await;
                injected = met;
                wrong.extend(more);
            }
        }
        (Expect::Named(words), 1) => {
            let missing = words.iter().filter(|words| !said.contains(words.as_str()));
            wrong.extend(missing.map(|words| format!("the reason does not say {words:?}")));
            let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
            let log = home.graylane(&["runs", "logs", &id]).expect(0).stdout;
            let began = |task: &str| {
                let mut of = log
                    .lines()
                    .filter_map(|line| line.split_once(&format!("  {task} 1  "))?.1.split(' ').next());
                of.any(|word| ["apply", "deleted"].contains(&word))
            };
            let failed =
                Failed { said: &said, status: &status, began: &began, lanes: &lanes, blind: case.blind };
            wrong.extend(judge::after_failure(ground, case.story, &before, failed).await);
        }
        (_, code) => wrong.push(format!("it ended with code {code}")),
    }
    if injected == 0 {
        wrong.push(format!(
            "the fault never struck, in {} requests, {} of them writes",
            proxy.requests(),
            proxy.writes()
        ));
    }
    wrong.extend(turned_away(&proxy, ran.code == 0));

    // Whatever it was, it can be brought to an end.
    for again in [DOWN, AGAIN] {
        let ran = ground.run(again);
        if ran.code != 0 {
            wrong.push(format!("afterwards this does not go well: {again}{}", ran.stdout));
        }
    }
    let (lane, rest) = parted(ground.snapshot().await);
    wrong.extend(judge::differences("in the end", &rest, &judge::promoted(&before.baseline, &rest)));
    wrong
        .extend(ground.not_rolled_out().await.into_iter().map(|name| format!("in the end {name} is not up")));
    let held = ground.held().await;
    if !lane.is_empty() || !ground.is_as_planned() || !held.is_empty() {
        let left: Vec<&String> = lane.keys().collect();
        wrong.push(format!("in the end there is a lane {left:?}, a lease {held:?}, or something to change"));
    }
    if !wrong.is_empty() {
        let log = home.graylane(&["runs", "logs", &id]).stdout;
        return Err(format!("seed {seed}, {case:?}:\n  {}\n{said}\n{log}", wrong.join("\n  ")));
    }
    let outcome = if ran.code == 0 { "succeeded" } else { "failed, and said why" };
    let (story, name, times) = (case.story.name(), case.name, injected.min(999));
    Ok(Told { row: format!("| {seed} | {story} | {name} | {times} | {outcome} |"), injected })
}

/// Whoever is turned away comes again, and not before the time that it was told.
fn turned_away(proxy: &Proxy, succeeded: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for Again { asked, told, after } in proxy.turned_away() {
        // Without a word about when, it is our own pause.
        let at_least = told.map_or(Duration::from_millis(90), |told| Duration::from_secs(told.into()));
        match after {
            Some(after) if after < at_least => {
                wrong.push(format!("turned away for {at_least:?}, it asked again after {after:?}: {asked}"))
            }
            None if succeeded => wrong.push(format!("it was never asked again: {asked}")),
            Some(_) | None => {}
        }
    }
    wrong
}

/// Tells seeds, a few at a time; gives what was wrong, and what was told.
async fn tell_all(
    seeds: &[usize],
    at_once: usize,
    ground: impl AsyncFn(usize) -> Ground,
) -> (Vec<String>, Vec<Told>) {
    let (mut wrong, mut all) = (Vec::new(), Vec::new());
    for some in seeds.chunks(at_once) {
        let mut telling = Vec::new();
        for seed in some {
            let (seed, ground) = (*seed, ground(*seed).await);
            telling.push(tokio::spawn(async move {
                let told = tell(seed, &ground).await;
                ground.over().await;
                told
            }));
        }
        for told in telling {
            match told.await.expect("told") {
                Ok(told) => all.push(told),
                Err(words) => wrong.push(words),
            }
        }
    }
    (wrong, all)
}

/// How many seeds the long run takes. Others take some of these.
const ALL: usize = 100;

fn injected_by(told: &[Told]) -> usize {
    told.iter().map(|told| told.injected).sum()
}

fn all_seeds() -> bool {
    std::env::var("GRAYLANE_TEST_FAULTS").as_deref() == Ok("all")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn under_every_fault_a_story_succeeds_as_planned_or_says_why_and_what_is_left() {
    let all = all_seeds();
    let minutes = WallClock::default().now().millis() / 60_000;
    let first = usize::try_from(minutes).expect("small") * 5 % ALL;
    let written = std::env::var("GRAYLANE_TEST_FAULTS_SEED").ok();
    let written: Option<Vec<usize>> = written.map(|seeds| seeds.split(',').flat_map(str::parse).collect());
    let seeds: Vec<usize> = match written {
        Some(seeds) => seeds,
        None if all => (0..ALL).collect(),
        None => (first..first + 5).collect(),
    };
    let (mut wrong, told) =
        tell_all(&seeds, if all { 4 } else { 3 }, async |_| Ground::rehearsed(READY_SOON).await).await;
    let (mut real, mut injected) = (0, injected_by(&told));
    tally::told("stories under faults", seeds.len(), 0);
    tally::told("faults injected", injected, 0);
    if let Some(kubeconfig) = stage::real() {
        let some: Vec<usize> = match seeds.as_slice() {
            _ if all => (0..2 * KINDS).chain([WEBHOOK]).collect(),
            // The webhook is a real one there alone.
            [one, two, ..] => vec![*one, *two, WEBHOOK],
            few => few.to_vec(),
        };
        let ground = async |seed: usize| {
            Ground::real(&kubeconfig, format!("faults-{}-{seed}", std::process::id()), READY_SOON).await
        };
        let (more, told) = tell_all(&some, 3, ground).await;
        real = some.len();
        wrong.extend(more);
        tally::told("stories under faults", 0, real);
        tally::told("faults injected", 0, injected_by(&told));
        injected += injected_by(&told);
    }
    let words = format!(
        "faults: {} seeds on the rehearsal (from {}), {real} on a real API server, {injected} injected, {} wrong",
        seeds.len(),
        seeds[0],
        wrong.len()
    );
    say(&words);
    // In the same run, so that its report tells of both.
    let (clusters, unanswered) = if all { away_on_both().await } else { (0, 0) };
    if let Ok(path) = std::env::var("GRAYLANE_TEST_FAULTS_REPORT") {
        let rows: Vec<&str> = told.iter().map(|told| told.row.as_str()).collect();
        let mut report = String::from("# Faults of an API server\n\n");
        // Writing into a String cannot fail.
        let _ = write!(
            report,
            "Written by `cargo xtask long`. One story under one fault a seed: a release (deploy, verify, promote, offline), an update of a\n\
             lane in place, the undo of one, or a promotion with a lane beside it; the fault is played by a proxy before the rehearsal, or is\n\
             the API server's own webhook. A story may succeed only where every object of the namespace is as it must be and every\n\
             Deployment up, nothing went on before what it needs was up, and the fault struck. Else its reason names the fault, and what it\n\
             tells as left, or as not taken back, is what a label scan finds. Whoever is turned away stays away for as long as it is told.\n\
             Afterwards the lane can be taken down and production deployed.\n\n{words}.\n\n\
             away for 60 s in mid-rollout, right after a gray pod was seen, with open watches cut off: waited for, told with its end, and the\n\
             release succeeds as planned, on {clusters} clusters, {unanswered} requests unanswered.\n\n\
             | Seed | Story | Fault | Times | Outcome |\n|---|---|---|---|---|\n{}\n",
            rows.join("\n")
        );
        std::fs::write(path, report).expect("written");
    }
    assert!(wrong.is_empty(), "{words}\n{}", wrong.join("\n\n"));
}

/// The control of the judge: what it says of a cluster on which something is not as it must be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn control_a_cluster_that_is_not_as_it_must_be_does_not_pass_for_one_that_is() {
    let ground = Ground::rehearsed(READY_SOON).await;
    let (_, baseline) = parted(ground.snapshot().await);
    let before = Before { baseline, lane: judge::none(), first_lane: judge::none() };
    let clear = Proxy::before(&ground.upstream, &ground.home.path("clear")).await;
    ground.ask(&clear);
    let wrong = judge::after_success(&ground, Story::Release, &before).await;
    assert_eq!(wrong.len(), 2, "nothing was promoted yet: {wrong:?}");
    assert!(!ground.is_as_planned());
    ground.run(AGAIN).expect(0);
    assert_eq!(judge::after_success(&ground, Story::Release, &before).await, [""; 0]);
    assert!(ground.is_as_planned() && clear.writes() > 0);
    let release = judge::waited(Story::Release, &clear.witnessed());
    // There a goes before c.
    assert_eq!(
        release.len(),
        3,
        "written too soon, twice, and two more things to wait for not met: {release:?}"
    );

    ground.run(LANE).expect(0);
    let wrong = judge::after_success(&ground, Story::Release, &before).await;
    assert!(wrong.iter().any(|line| line.starts_with("lane: Ingress spring-cloud-a-mse-gray")), "{wrong:?}");
    ground.run(DOWN).expect(0);
    ground.run(&AGAIN.replace("a:0.2", "a:0.2-neverready").replace("timeout: 1m", "timeout: 2s")).expect(1);
    assert_eq!(judge::after_success(&ground, Story::Release, &before).await, [""; 0], "it was rolled back");
    ground.break_baseline().await;
    let wrong = judge::after_success(&ground, Story::Release, &before).await;
    assert!(wrong.iter().any(|line| line == "spring-cloud-b is not rolled out"), "{wrong:?}");
    assert!(
        wrong.iter().any(|line| line.starts_with("production: Deployment spring-cloud-b /spec")),
        "{wrong:?}"
    );
    assert_eq!(
        judge::told_left("  left to look at: Deployment a, Secret b in n; x"),
        Some(BTreeSet::from(["Deployment a".into(), "Secret b".into()]))
    );
    ground.over().await;
}

/// An API server that goes away in mid-rollout, right after a gray pod was seen, and cuts off who listens: the rollout is
/// waited for, that is told, and so is the end. A minute in the long run.
async fn away_in_mid_rollout(ground: &Ground) -> usize {
    let lasts = Duration::from_secs(if all_seeds() { 60 } else { 8 });
    let on = On::default();
    let fault = Fault::AwayOnceTold("\"zadigx-release-type\":\"mse-gray\",", lasts);
    let trouble = Trouble { fault, on, from: 0, times: usize::MAX };
    let (_, baseline) = parted(ground.snapshot().await);
    let before = Before { baseline, lane: judge::none(), first_lane: judge::none() };
    let proxy = Proxy::before(&ground.upstream, &ground.home.path("kubeconfig")).await;
    ground.ask(&proxy);
    proxy.begin(trouble);
    let began = Instant::now();
    let ran = ground.run(RELEASE).expect(0);
    assert!(proxy.injected() > 0 && began.elapsed() >= lasts, "{ran:?}");
    assert_eq!(judge::after_success(ground, Story::Release, &before).await, [""; 0]);
    assert_eq!(judge::waited(Story::Release, &proxy.witnessed()), [""; 0]);
    let log = ground.home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert!(told("; the rollout goes on without us, and is waited for, up to 10m") > 0, "{log}");
    let back = log
        .lines()
        .filter_map(|line| line.split_once("the API server answers again, after ")?.1.split(' ').next());
    let seconds: Vec<u64> = back.map(|seconds| seconds.parse().expect("a number")).collect();
    assert!(
        seconds.iter().any(|seconds| (lasts.as_secs() - 2..lasts.as_secs() + 10).contains(seconds)),
        "{log}"
    );
    proxy.injected()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_api_server_that_goes_away_in_mid_rollout_is_waited_for_and_told() {
    // The long run tells of it with its seeds.
    if !all_seeds() {
        away_on_both().await;
    }
}

/// Gives on how many clusters it was told, and how many requests found nobody.
async fn away_on_both() -> (usize, usize) {
    let rehearsed = async {
        let ground = Ground::rehearsed(READY_LATE).await;
        let injected = away_in_mid_rollout(&ground).await;
        tally::told("stories under faults", 1, 0);
        tally::told("faults injected", injected, 0);
        ground.over().await;
        injected
    };
    let real = async {
        let kubeconfig = stage::real()?;
        let ground = Ground::real(&kubeconfig, format!("away-{}", agent::test_run()), READY_LATE).await;
        let injected = away_in_mid_rollout(&ground).await;
        tally::told("stories under faults", 0, 1);
        tally::told("faults injected", 0, injected);
        ground.over().await;
        Some(injected)
    };
    let (rehearsed, real) = tokio::join!(rehearsed, real);
    (1 + usize::from(real.is_some()), rehearsed + real.unwrap_or(0))
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
