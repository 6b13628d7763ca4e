//! How long a large lane takes to be rendered and planned: 200 services of 20 objects, on the rehearsal's API.
//!
//! `cargo run --release --package graylane-bench --bin graylane-lanes -- --write docs/reports/large-lane.md`. Nothing here is part of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use graylane_engine::clock::WallClock;
use graylane_engine::id::{Attempt, RunId};
use graylane_engine::task::{Progress, Reporter, SecretSource, Task as _, TaskContext, TaskError};
use graylane_rehearsal::{Delays, Rehearsal, RehearsalOptions};
use graylane_tasks::cluster::{Client, Clusters, Rehearse, create_all};
use graylane_tasks::environment::{GatewayKind, Site, gather};
use graylane_tasks::lane::{Copy, render};
use graylane_tasks::mse_gray_deploy::MseGrayDeploy;
use graylane_tasks::secret::DigestKey;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

const SERVICES: usize = 200;
const OBJECTS: usize = 20;
const ROUNDS: usize = 5;

struct There(Client);

#[async_trait]
impl Rehearse for There {
    async fn connect(&self, _site: &Site) -> Result<(Client, String), String> {
        Ok((self.0.clone(), "http://127.0.0.1:1".into()))
    }
}

struct Nobody;

#[async_trait]
impl Reporter for Nobody {
    async fn phase(&self, _text: String) -> Result<(), TaskError> {
        Ok(())
    }
    async fn checkpoint(&self, _name: String) -> Result<(), TaskError> {
        Ok(())
    }
    fn log(&self, _line: String) {}
    fn progress(&self, _progress: Progress) {}
}

impl SecretSource for Nobody {
    fn read(&self, name: &str) -> Result<String, String> {
        Err(format!("there is no secret `{name}`"))
    }
}

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
    let page = measured.and_then(|runtime| runtime.block_on(measure()));
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

async fn measure() -> Result<String, String> {
    let folder = std::env::temp_dir().join(format!("graylane-lanes-{}", std::process::id()));
    let done = measure_in(&folder).await;
    std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    done
}

async fn measure_in(folder: &Path) -> Result<String, String> {
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
    let mut rendering = Vec::new();
    let mut planning = Vec::new();
    let mut calls = (0, 0);
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
        rendering.push(begin.elapsed().as_secs_f64());
        assert_eq!(objects, SERVICES * OBJECTS, "every object is copied");

        cluster.clear_requests();
        let cx = context(&spec, &bundle)?;
        let clusters = Clusters::new(There(cluster.client()));
        let begin = Instant::now();
        let plan =
            MseGrayDeploy::new(clusters, key.clone()).plan(&cx).await.map_err(|error| error.message)?;
        planning.push(begin.elapsed().as_secs_f64());
        assert_eq!(plan.changes.len(), SERVICES * OBJECTS, "every object is planned");
        let tries = cluster.requests().len() as u64;
        calls = (cluster.counted() - tries, tries);
    }
    rehearsal.shutdown().await;
    Ok(page(&mut rendering, &mut planning, calls))
}

fn context(spec: &Value, bundle: &Arc<graylane_engine::bundle::Bundle>) -> Result<TaskContext, String> {
    Ok(TaskContext {
        run: RunId::new(1, 1),
        workflow: "w".parse().map_err(|_| "a name")?,
        source: None,
        task: "deploy".parse().map_err(|_| "a name")?,
        attempt: Attempt::FIRST,
        spec: spec.clone(),
        bundle: Arc::clone(bundle),
        clock: Arc::new(WallClock::default()),
        cancel: tokio_util::sync::CancellationToken::new(),
        checkpoints: BTreeSet::new(),
        force: false,
        undoes: None,
        standing: tokio::sync::watch::channel(Arc::default()).1,
        assumed: Vec::new(),
        reporter: Arc::new(Nobody),
        secrets: Arc::new(Nobody),
    })
}

fn page(rendering: &mut [f64], planning: &mut [f64], (reads, tries): (u64, u64)) -> String {
    let middle = |times: &mut [f64]| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let build = if cfg!(debug_assertions) { "a debug build" } else { "a release build" };
    let mut page = format!(
        "# A large lane\n\nWritten by `graylane-lanes` (`bench/`): {SERVICES} services of {OBJECTS} objects, on the rehearsal's API in the same process, {build},\nthe middle of {ROUNDS} rounds.\n\n"
    );
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "| measure | goal | measured |\n|---|---|---|\n| render all {} objects | | {:.2} s |\n| plan the lane: read the cluster, render, judge, try, compare | < 2 s | {:.2} s |\n| the same: reads of the cluster | not one per object | {reads} |\n| the same: dry runs | one a service | {tries} |\n",
        SERVICES * OBJECTS,
        middle(rendering),
        middle(planning),
    );
    page
}

fn say(text: &str) {
    // Whoever closed the stream does not want to know.
    let _ = writeln!(std::io::stdout(), "{text}");
}
