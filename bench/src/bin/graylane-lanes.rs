//! How long a large lane takes to be rendered and planned: 200 services of 20 objects, on the rehearsal's API.
//!
//! `cargo run --release --package graylane-bench --bin graylane-lanes -- --write docs/reports/large-lane.md`. Nothing here is part of the product.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use graylane_engine::clock::WallClock;
use graylane_engine::id::RunId;
use graylane_engine::task::{Task as _, TaskContext, TaskError};
use graylane_rehearsal::{Delays, Rehearsal, RehearsalOptions};
use graylane_tasks::cluster::{Cluster, Clusters, create_all};
use graylane_tasks::environment::{GatewayKind, Site, gather};
use graylane_tasks::inventory::Standing;
use graylane_tasks::lane::around::Around;
use graylane_tasks::lane::{Copy, render};
use graylane_tasks::manifest::kind;
use graylane_tasks::mse_gray_deploy::MseGrayDeploy;
use graylane_tasks::secret::DigestKey;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

#[path = "../machine.rs"]
mod machine;

const SERVICES: usize = 200;
const OBJECTS: usize = 20;
const ROUNDS: usize = 9;
/// So many dry runs are under way at once in a plan.
const TRIES_AT_A_TIME: usize = 8;

/// One service: a Deployment, a Service, and configuration.
fn service(name: &str) -> Vec<Value> {
    let labels = json!({ "app": name, "zadigx-release-version": "original" });
    let mut objects = vec![
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name }, "spec": { "replicas": 0,
            "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": { "containers": [{
                "name": "app", "image": format!("registry.example.com/{name}:1"), "ports": [{ "containerPort": 8080 }],
                "envFrom": [{ "configMapRef": { "name": format!("{name}-2") } }] }] } } } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "selector": labels,
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }] } }),
    ];
    for number in objects.len()..OBJECTS {
        let data: Map<String, Value> =
            (0..10).map(|key| (format!("key-{key}"), "some value".into())).collect();
        objects.push(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{name}-{number}") }, "data": data }));
    }
    objects
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let write = match (arguments.next().as_deref(), arguments.next()) {
        (None, None) => None,
        (Some("--write"), Some(file)) => Some(file),
        _ => {
            say("graylane-lanes [--write FILE]");
            return ExitCode::from(2);
        }
    };
    let measured = tokio::runtime::Runtime::new().map_err(|error| error.to_string());
    let measured = measured.and_then(|runtime| runtime.block_on(measure()));
    let page = measured.map(|measured| page(&measured, &machine::machine(&std::env::temp_dir())));
    let done = page.and_then(|page| match &write {
        Some(file) => std::fs::write(file, page).map_err(|error| format!("{file}: {error}")),
        None => {
            say(&page);
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("graylane-lanes: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Seconds of each round, and calls of the last one.
#[derive(Default)]
struct Measured {
    render: Vec<f64>,
    plan: Vec<f64>,
    /// Render and plan, one after the other.
    both: Vec<f64>,
    /// The plan's lists of the cluster, alone.
    reads: Vec<f64>,
    /// The plan's dry runs, alone.
    tries: Vec<f64>,
    read_calls: u64,
    try_calls: u64,
}

async fn measure() -> Result<Measured, String> {
    let folder = std::env::temp_dir().join(format!("graylane-lanes-{}", std::process::id()));
    let done = measure_in(&folder).await;
    std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    done
}

async fn measure_in(folder: &Path) -> Result<Measured, String> {
    let wrong = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(folder.join("environments")).map_err(wrong)?;
    std::fs::create_dir_all(folder.join("services")).map_err(wrong)?;
    let environment = "name: e\ncluster: rehearsal\nnamespace: n\ngateway: { kind: mse, address: \"http://127.0.0.1:1\" }\nservices: ../services\nallow: { workflows: [w] }\n";
    std::fs::write(folder.join("environments/e.yaml"), environment).map_err(wrong)?;
    let names: Vec<String> = (0..SERVICES).map(|number| format!("service-{number}")).collect();
    let manifests: Vec<Vec<Value>> = names.iter().map(|name| service(name)).collect();
    for (name, objects) in names.iter().zip(&manifests) {
        let text: Vec<String> = objects.iter().map(graylane_tasks::manifest::yaml).collect();
        std::fs::write(folder.join(format!("services/{name}.yaml")), text.join("---\n")).map_err(wrong)?;
    }
    let options = RehearsalOptions { delays: Delays::none(), ..RehearsalOptions::default() };
    let rehearsal = Rehearsal::start(options).await.map_err(|error| error.to_string())?;
    rehearsal.seed("n", &BTreeMap::new(), Vec::new(), "kubectl").await.map_err(|error| error.to_string())?;
    // As `kubectl create` would have: an apply of so many objects takes minutes.
    for name in &names {
        create_all(&rehearsal.client(), "n", &folder.join(format!("services/{name}.yaml"))).await?;
    }
    let cluster = rehearsal.cluster();
    let key = DigestKey::new([7; 32]);
    let bundle = Arc::new(gather(&folder.join("environments"), &key).bundle);
    let images: Map<String, Value> = names.iter().map(|name| (name.clone(), "i:2".into())).collect();
    let spec = json!({ "environment": "e", "tag": "gray", "images": images });

    let none = BTreeMap::new();
    let mut measured = Measured::default();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut objects = 0;
        for (name, baseline) in names.iter().zip(&manifests) {
            let copy = Copy {
                namespace: None,
                service: name,
                baseline,
                tag: "gray",
                images: &none,
                live: &none,
                replicas: 1,
                entry: None,
                gateway: GatewayKind::Mse,
                patches: &[],
                edited: None,
            };
            objects += render(&copy).map_err(|why| why.join("; "))?.objects.len();
        }
        measured.render.push(begin.elapsed().as_secs_f64());
        assert_eq!(objects, SERVICES * OBJECTS, "every object is copied");

        cluster.clear_requests();
        let workflow = "w".parse().map_err(|_| "a name")?;
        let task = "deploy".parse().map_err(|_| "a name")?;
        let clock = Arc::new(WallClock::default());
        let cx =
            TaskContext::alone(RunId::new(1, 1), workflow, task, spec.clone(), Arc::clone(&bundle), clock);
        let clusters = Clusters::new(cluster.client());
        let plan = MseGrayDeploy::new(Arc::clone(&clusters), key.clone()).plan(&cx).await.map_err(said)?;
        let both = begin.elapsed().as_secs_f64();
        measured.plan.push(both - measured.render.last().copied().unwrap_or_default());
        measured.both.push(both);
        assert_eq!(plan.changes.len(), SERVICES * OBJECTS, "every object is planned");
        measured.try_calls = cluster.requests().len() as u64;
        measured.read_calls = cluster.counted() - measured.try_calls;

        let site = Site::load(&bundle, "e")?;
        let told = clusters.connect(&site).await.map_err(said)?;
        parts(&told, &plan.body, &mut measured).await.map_err(said)?;
    }
    rehearsal.shutdown().await;
    Ok(measured)
}

fn said(error: TaskError) -> String {
    error.message
}

/// Where a plan waits for the API server: its lists, and its dry runs.
async fn parts(told: &Cluster, body: &Value, measured: &mut Measured) -> Result<(), TaskError> {
    let begin = Instant::now();
    let around = Around::look(told).await?;
    Standing::beside(told, &around).await?;
    measured.reads.push(begin.elapsed().as_secs_f64());
    let objects = body["objects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let deployments = objects.iter().filter(|object| kind(object) == "Deployment");
    let begin = Instant::now();
    let tries: Vec<_> = deployments
        .map(|object| async move { Ok::<_, TaskError>(told.apply(object, true, true).await?) })
        .collect();
    let tried: Vec<Value> = futures::stream::iter(tries).buffered(TRIES_AT_A_TIME).try_collect().await?;
    measured.tries.push(begin.elapsed().as_secs_f64());
    assert_eq!(tried.len(), SERVICES, "a dry run a service");
    Ok(())
}

fn page(measured: &Measured, machine: &str) -> String {
    let spread = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        let (least, most) = (times.first().copied(), times.last().copied());
        (middle, format!("{:.2} to {:.2} s", least.unwrap_or_default(), most.unwrap_or_default()))
    };
    let build = if cfg!(debug_assertions) { "a debug build" } else { "a release build" };
    let mut page = format!(
        "# A large lane\n\nWritten by `graylane-lanes` (`bench/`): {SERVICES} services of {OBJECTS} objects, on the rehearsal's API in the same process, {build}.\n{ROUNDS} rounds on {machine}.\n\n| measure | goal | median | rounds |\n|---|---|---|---|\n"
    );
    let all = SERVICES * OBJECTS;
    let rows = [
        (format!("render and plan {all} objects"), "< 2 s", &measured.both),
        ("render them, without a cluster".to_owned(), "", &measured.render),
        ("plan the lane: read the cluster, render, judge, try, compare".to_owned(), "", &measured.plan),
        ("of that: the lists of the cluster".to_owned(), "", &measured.reads),
        ("of that: the dry runs".to_owned(), "", &measured.tries),
    ];
    // Writing into a String cannot fail.
    for (what, goal, times) in rows {
        let (middle, between) = spread(times);
        let _ = writeln!(page, "| {what} | {goal} | {middle:.2} s | {between} |");
    }
    let (reads, tries) = (measured.read_calls, measured.try_calls);
    let _ = write!(
        page,
        "\n| calls of one plan | goal | made |\n|---|---|---|\n| reads, each a list | not one per object | {reads} |\n| dry runs | one a service | {tries} |\n"
    );
    page
}

fn say(text: &str) {
    // Whoever closed the stream does not want to know.
    let _ = writeln!(std::io::stdout(), "{text}");
}
