//! A busy namespace: many lanes over many services, beside things that are nobody's business; and somebody who makes an object
//! anew under a lane's name while the lane is taken down. On the rehearsal, and smaller on a real API server;
//! `GRAYLANE_TEST_BUSY=all` takes 20 lanes of 10 services on both, as `cargo xtask long` does.
//!
//! ```text
//! graylane ── HTTP ── a proxy that counts ── the rehearsal, or a real API server
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use graylane_engine::clock::{Clock as _, WallClock};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::support::proxy::Proxy;
use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, INGRESSES, PLAIN, SECRETS, SERVICES, Stage, Wants, on_each,
};
use crate::support::{say, until};

const ENVIRONMENT: &str = "config/environments/production.yaml";

/// What a service of the namespace has; `who` is the service.
fn objects(who: &str) -> Vec<Value> {
    let labels = json!({ "app": who, "zadigx-release-version": "original" });
    let container = json!({ "name": "app", "image": format!("{who}:1"), "envFrom": [{ "configMapRef": { "name": who } }] });
    vec![
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": who },
            "spec": { "replicas": 1, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } } } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": who },
            "spec": { "selector": labels, "ports": [{ "port": 80, "protocol": "TCP" }] } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": who }, "data": { "who": who } }),
        json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": who },
            "spec": { "ingressClassName": "mse", "rules": [{ "host": format!("{who}.example.com"), "http": { "paths": [{ "path": "/", "pathType": "Prefix",
                "backend": { "service": { "name": who, "port": { "number": 80 } } } }] } }] } }),
    ]
}

fn text(objects: &[Value]) -> String {
    objects.iter().map(graylane_tasks::manifest::yaml).collect::<Vec<_>>().join("---\n")
}

fn service(number: usize) -> String {
    format!("svc-{number}")
}

fn tag(number: usize) -> String {
    format!("l{number}")
}

/// One task a lane, none of which waits for another.
fn workflow(lanes: &[usize], services: usize, down: bool) -> String {
    let mut text = String::from("name: release\ntasks:\n");
    for lane in lanes {
        let tag = tag(*lane);
        if down {
            writeln!(text, "  {tag}: {{ type: mse-gray-offline, timeout: 15m, with: {{ environment: production, tag: {tag}, drain: 50ms }} }}").expect("written");
            continue;
        }
        let images: Vec<String> =
            (0..services).map(|number| format!("{0}: \"{0}:{tag}\"", service(number))).collect();
        let entry = format!("{{ service: {}, header: {{ name: x-lane, value: {tag} }} }}", service(0));
        let images = images.join(", ");
        writeln!(text, "  {tag}: {{ type: mse-gray-deploy, timeout: 15m, with: {{ environment: production, tag: {tag}, images: {{ {images} }}, entry: {entry} }} }}").expect("written");
    }
    text
}

/// Every object of the namespace, by kind and name; without what a controller writes when it pleases.
async fn all(stage: &Stage) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for kind in [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS] {
        for object in stage.list(kind, "").await {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let mut object = object;
            if kind == DEPLOYMENTS {
                object["status"] = Value::Null;
                object["metadata"]["resourceVersion"] = Value::Null;
                if let Some(record) = object["metadata"]["managedFields"].as_array_mut() {
                    record.retain(|entry| entry["manager"] != "kube-controller-manager");
                }
            }
            found.insert(format!("{} {name}", kind.1), object);
        }
    }
    found
}

fn of_lane(object: &Value) -> Option<&str> {
    let labels = &object["metadata"]["labels"];
    (labels["zadigx-release-type"] == "mse-gray").then(|| labels["zadigx-release-version"].as_str())?
}

/// Lets the environment lead to its cluster through a proxy that counts what is asked.
async fn counted(stage: &Stage) -> Proxy {
    let text = std::fs::read_to_string(stage.home.path(ENVIRONMENT)).expect("readable");
    let path = text.lines().find_map(|line| line.strip_prefix("cluster: { kubeconfig: "));
    let direct = PathBuf::from(path.expect("a kubeconfig").trim_end_matches(" }"));
    let proxy = Proxy::counting(&direct, &stage.home.path("counted.kubeconfig")).await;
    let path = |path: &PathBuf| path.display().to_string();
    stage.home.edit(ENVIRONMENT, &path(&direct), &path(&proxy.kubeconfig));
    proxy
}

/// What a run cost.
struct Cost {
    took: Duration,
    calls: usize,
}

impl Cost {
    fn seconds(&self) -> String {
        format!("{:.1} s", self.took.as_secs_f64())
    }
}

/// Runs a task a lane to its end.
fn ran(stage: &Stage, proxy: &Proxy, lanes: &[usize], services: usize, down: bool) -> Cost {
    stage.home.write("workflows/busy.yaml", &workflow(lanes, services, down));
    let clock = WallClock::default();
    let (began, before) = (clock.now(), proxy.requests());
    stage.home.graylane(&["run", "workflows/busy.yaml"]).expect(0);
    Cost { took: clock.now().since(began), calls: proxy.requests() - before }
}

/// Objects that are compared with what they should be.
#[derive(Default)]
struct Compared {
    objects: usize,
    differences: Vec<String>,
}

impl Compared {
    fn look(&mut self, name: &str, found: Option<&Value>, expected: Option<&Value>) {
        self.objects += 1;
        if found != expected {
            self.differences.push(format!("{name}: found {found:?}, expected {expected:?}"));
        }
    }

    fn hold(&self) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lanes_over_many_services_leave_each_other_and_their_neighbours_alone() {
    let rows = Mutex::new(String::new());
    on_each(Wants { baseline: false, ..PLAIN }, async |stage| {
        let row = tell(stage).await;
        rows.lock().expect("not poisoned").push_str(&row);
    })
    .await;
    let Some(report) = std::env::var_os("GRAYLANE_TEST_BUSY_REPORT") else { return };
    let rows = rows.into_inner().expect("not poisoned");
    let build = if cfg!(debug_assertions) { "a debug" } else { "a release" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!(
        "# A busy namespace\n\nWritten by `cargo xtask long`: one run deploys all lanes at once, a task a lane; one takes half of them down, and one the rest.\nCalls are those of Graylane to the API server, watches among them. Neighbours are what was in the namespace before the lanes\n(baselines, and objects of other teams); each is compared in full after the deploy, after the first half and at the end, and\nso is every object of a lane that stays while others go. All of it runs on one machine: {build} build, {cores} cores.\n\n| cluster | lanes x services | objects of lanes | deploy | take-down of half | take-down of the rest | calls a lane: deploy | take-down | neighbours | compared | differences |\n|---|---|---|---|---|---|---|---|---|---|---|\n{rows}"
    );
    std::fs::write(report, text).expect("written");
}

/// The whole story; gives its row of the report.
async fn tell(stage: &Stage) -> String {
    let many = std::env::var("GRAYLANE_TEST_BUSY").as_deref() == Ok("all");
    let (lanes, services) = match (many, stage.real) {
        (true, _) => (20, 10),
        (false, true) => (4, 3),
        (false, false) => (6, 4),
    };
    for number in 0..services {
        let who = service(number);
        stage.home.write(&format!("config/services/{who}.yaml"), &text(&objects(&who)));
    }
    for example in ["nacos", "spring-a", "spring-b", "spring-c"] {
        std::fs::remove_file(stage.home.path(&format!("config/services/{example}.yaml"))).expect("removed");
    }
    stage.home.edit(
        ENVIRONMENT,
        "service_options:\n  nacos: { gray: false }             # the registry is shared: a lane has none of its own\n",
        "",
    );
    stage.furnish().await;
    // Nobody's business: other teams' services, one of which looks much like a lane's.
    for who in ["other", "svc-1-mse", "svc-1-mse-l1-x"] {
        let file = stage.home.path("neighbour.yaml");
        std::fs::write(&file, text(&objects(who))).expect("written");
        graylane_tasks::cluster::create_all(&stage.client(), &stage.namespace, &file).await.expect("created");
    }
    stage.settle().await;
    let proxy = counted(stage).await;
    let neighbours = all(stage).await;
    let mut compared = Compared::default();

    let every: Vec<usize> = (0..lanes).collect();
    let deployed = ran(stage, &proxy, &every, services, false);
    stage.settle().await;
    let shown = stage.home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
    let shown = shown.as_array().expect("a list");
    assert_eq!(shown.len(), lanes);
    for lane in shown {
        assert_eq!(lane["services"].as_array().map(Vec::len), Some(services), "{lane}");
        assert_eq!(lane["orphans"], json!([]), "{lane}");
    }
    let busy = all(stage).await;
    // Deployment, Service and ConfigMap of each service, and the entry's Ingress.
    let made = busy.len() - neighbours.len();
    assert_eq!(made, lanes * (3 * services + 1));
    for (name, object) in &neighbours {
        compared.look(name, busy.get(name), Some(object));
    }
    compared.hold();

    let (odd, even): (Vec<usize>, Vec<usize>) = every.iter().partition(|lane| *lane % 2 == 1);
    let halved = ran(stage, &proxy, &odd, services, true);
    let half = all(stage).await;
    let kept: Vec<String> = even.iter().map(|lane| tag(*lane)).collect();
    for (name, object) in &busy {
        let stays = of_lane(object).is_none_or(|lane| kept.iter().any(|tag| tag == lane));
        compared.look(name, half.get(name), stays.then_some(object));
    }
    compared.hold();

    replaced_under_a_lanes_name(stage, services).await;

    let ended = ran(stage, &proxy, &even[1..], services, true);
    let mut end = all(stage).await;
    assert!(end.remove("Deployment svc-1-mse-l0").is_some(), "somebody else's object survives everything");
    for (name, object) in &neighbours {
        compared.look(name, end.remove(name).as_ref(), Some(object));
    }
    compared.hold();
    assert!(end.is_empty(), "what was there before the lanes is all there is: {:?}", end.keys());

    let cluster = if stage.real { "a real API server" } else { "the rehearsal" };
    let (up, down) = (deployed.calls / lanes, (halved.calls + ended.calls) / (lanes - 1));
    say(&format!(
        "a busy namespace on {cluster}: {lanes} lanes x {services} services up in {}, half of them down in {}, the rest in {}; {up} and {down} calls a lane; {} neighbours untouched",
        deployed.seconds(),
        halved.seconds(),
        ended.seconds(),
        neighbours.len()
    ));
    format!(
        "| {cluster} | {lanes} x {services} | {made} | {} | {} | {} | {up} | {down} | {} | {} | {} |\n",
        deployed.seconds(),
        halved.seconds(),
        ended.seconds(),
        neighbours.len(),
        compared.objects,
        compared.differences.len()
    )
}

/// While lane l0 drains, somebody deletes one of its Deployments and makes another one of that name.
async fn replaced_under_a_lanes_name(stage: &Stage, services: usize) {
    let text = workflow(&[0], services, true).replace("drain: 50ms", "drain: 4s");
    stage.home.write("workflows/busy.yaml", &text);
    let mut command = stage.home.command(&["run", "workflows/busy.yaml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let closed = async || stage.get(INGRESSES, "svc-0-mse-l0").await.is_none();
    for _ in 0..600 {
        if closed().await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(closed().await, "the route is closed first");
    let api = stage.api(DEPLOYMENTS);
    api.delete("svc-1-mse-l0", &DeleteParams::foreground()).await.expect("deleted");
    let mut object = objects("svc-1-mse-l0").remove(0);
    object["spec"]["template"]["spec"]["containers"][0]["envFrom"] = Value::Null;
    let object = serde_json::from_value(object).expect("an object");
    let mut made = None;
    for _ in 0..100 {
        match api.create(&PostParams::default(), &object).await {
            Ok(object) => {
                made = object.metadata.uid;
                break;
            }
            // The one of the lane is still going.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
    let made = made.expect("made anew");
    until("the lane is down", || child.try_wait().expect("asked").is_some());
    assert!(child.wait().expect("ended").success(), "the lane is down");
    let left = stage.get(DEPLOYMENTS, "svc-1-mse-l0").await.expect("it stays");
    assert_eq!(left["metadata"]["uid"], made.as_str(), "and is the one that somebody made");
    let log = stage.home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    assert!(log.contains("Deployment svc-1-mse-l0 is another object by now and stays"), "{log}");
    let lanes = stage.home.graylane(&["lanes", "production", "-o", "json"]).expect(0).stdout;
    assert!(!lanes.contains("\"l0\""), "{lanes}");
}
