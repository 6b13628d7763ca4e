//! The crash matrix: the program is killed at every point of every story, and everything must be as if it had not been.
//!
//! ```text
//! graylane --HTTP--> a proxy that counts and kills --HTTP--> the rehearsal, a process of its own
//! ```
//! Points are every batch that the journal acknowledges and every mutating request, before its answer and after it.
//! What was done twice is judged by the API server's answers, never by our own journal. `GRAYLANE_MATRIX=all` takes
//! every point and writes the report that `cargo xtask long` keeps; else a few are taken, and the seed is said.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use graylane_engine::id::Seq;
use graylane_engine::journal::{DiskJournal, Journal as _, Query};
use graylane_engine::run::Event;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::{Home, Rehearsal, until};

/// Where the program is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    Never,
    /// So many batches are acknowledged.
    Batch(u64),
    /// The mutating request of this number was carried out, and its answer is not given.
    Before(usize),
    /// The same, and its answer is given.
    After(usize),
}

/// What the API server says that it did.
#[derive(Default)]
struct Log {
    mutating: usize,
    /// Every content that an object took on, by its kind and name: two equal ones in a row are one.
    contents: BTreeMap<String, Vec<Value>>,
}

/// What the proxy and whoever drives a run share.
struct Stage {
    point: Point,
    log: Mutex<Log>,
    child: Mutex<Option<Child>>,
    killed: AtomicUsize,
}

impl Stage {
    fn kill(&self) {
        if let Some(child) = self.child.lock().expect("a child").as_mut() {
            // It may have ended by itself in this moment.
            let _ = child.kill();
            self.killed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst) > 0
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn proxy(stage: Arc<Stage>, server: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (stage, client) = (Arc::clone(&stage), client.clone());
            let serve = hyper::service::service_fn(move |request| {
                pass(Arc::clone(&stage), client.clone(), server, request)
            });
            tokio::spawn(async move {
                // A killed program leaves its connections: that is no error here.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve)
                    .await;
            });
        }
    });
    address
}

async fn pass(
    stage: Arc<Stage>,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    server: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper_util::client::legacy::Error> {
    let (mut head, body) = request.into_parts();
    let mutates = matches!(head.method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE")
        && !head.uri.query().unwrap_or_default().contains("dryRun");
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    head.uri = format!("http://{server}{path}").parse().expect("an address");
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let deletes = head.method == hyper::Method::DELETE;
    let request = Request::from_parts(head, Full::new(body));
    if !mutates {
        return Ok(client.request(request).await?.map(|body| body.boxed()));
    }
    // In a task of its own: whoever asked may be dead by now, and the server does it all the same.
    let log = Arc::clone(&stage);
    let carried_out = tokio::spawn(async move {
        let (parts, body) = client.request(request).await?.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut log = log.log.lock().expect("a log");
        log.mutating += 1;
        if parts.status.is_success() {
            log.take(&path, &bytes, deletes);
        }
        Ok::<_, hyper_util::client::legacy::Error>((parts, bytes, log.mutating))
    });
    let (parts, bytes, number) = carried_out.await.expect("carried out")?;
    match stage.point {
        Point::Before(at) if at == number && !stage.was_killed() => {
            stage.kill();
            std::future::pending::<()>().await;
        }
        Point::After(at) if at == number && !stage.was_killed() => {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                // So long the answer may take to be read.
                tokio::time::sleep(Duration::from_millis(2)).await;
                stage.kill();
            });
        }
        _ => {}
    }
    Ok(Response::from_parts(parts, Full::new(bytes).map_err(|never| match never {}).boxed()))
}

impl Log {
    fn take(&mut self, path: &str, bytes: &[u8], deletes: bool) {
        // A lease says when it was renewed: it differs every time, and is no part of a release.
        if path.contains("/leases") {
            return;
        }
        let name =
            path.split('?').next().unwrap_or_default().rsplit("/namespaces/").next().unwrap_or_default();
        let mut content: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if deletes {
            content = json!("deleted");
        } else {
            plain(&mut content);
        }
        let seen = self.contents.entry(name.to_owned()).or_default();
        if seen.last() != Some(&content) {
            seen.push(content);
        }
    }

    /// How often each object was changed.
    fn changes(&self) -> BTreeMap<String, usize> {
        self.contents.iter().map(|(name, seen)| (name.clone(), seen.len())).collect()
    }
}

/// An object without what differs from one cluster, or one run, to the next.
fn plain(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    map.remove("status");
    if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|key, _| !matches!(key.as_str(), "clusterIP" | "clusterIPs"));
    }
    // Of configuration the hash of the baseline is over its uid and version, which each cluster gives anew.
    let configuration = map.contains_key("data");
    if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .retain(|key, _| matches!(key.as_str(), "name" | "labels" | "annotations" | "ownerReferences"));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| {
                !matches!(key.as_str(), "graylane.dev/run" | "graylane.dev/created" | "graylane.dev/verified")
                    && !key.starts_with("deployment.kubernetes.io/")
                    && (!configuration || key != "graylane.dev/baseline-hash")
            });
        }
    }
}

/// A story: how the example release is changed, and what is said when it waits.
struct Story {
    name: &'static str,
    workflow: &'static str,
    /// What is changed in manifests once the baseline is on the cluster.
    manifests: &'static [(&'static str, &'static str, &'static str)],
    edits: &'static [(&'static str, &'static str)],
    /// What somebody says when the run waits for people.
    says: &'static [&'static str],
}

const FAILS: (&str, &str) = ("-> C${{ inputs.tag }}\\[", "-> Cnever\\[");
const KEEPS: (&str, &str) = ("undo: on-failure", "undo: never");

const STORIES: &[Story] = &[
    Story { name: "the seed's story", workflow: RELEASE, manifests: &[], edits: &[], says: &[] },
    Story { name: "a failing verify", workflow: RELEASE, manifests: &[], edits: &[FAILS, KEEPS], says: &[] },
    Story {
        name: "a rollback",
        workflow: RELEASE,
        manifests: &[],
        edits: &[
            KEEPS,
            (
                "    needs: [verify]\n    with:\n      environment: production\n      images: ${{ tasks.deploy.outputs.images }}",
                "    needs: [verify]\n    with:\n      environment: production\n      images: { spring-c: \"spring-cloud-c:0.2\", spring-a: \"spring-cloud-a:missing\" }",
            ),
        ],
        says: &[],
    },
    Story { name: "an undo", workflow: RELEASE, manifests: &[], edits: &[FAILS], says: &[] },
    Story {
        name: "an approval",
        workflow: RELEASE,
        manifests: &[],
        edits: &[(
            "  promote:\n    type: prod-deploy\n    needs: [verify]\n",
            "  approve:\n    type: approval\n    needs: [verify]\n  promote:\n    type: prod-deploy\n    needs: [approve]\n",
        )],
        says: &["approve", "latest"],
    },
    Story {
        name: "a hold",
        workflow: RELEASE,
        manifests: &[],
        edits: &[
            FAILS,
            KEEPS,
            ("    type: generic-verify\n", "    type: generic-verify\n    on_failure: hold\n"),
        ],
        says: &["answer", "latest", "skip"],
    },
    TAKES_OVER,
];

const RELEASE: &str = "workflows/release.yaml";

/// What `kubectl apply` wrote becomes ours, and what the manifest no longer has goes: the apply makes something else of the
/// object than the plan's dry run, which came before. And an object is new.
const TAKES_OVER: Story = Story {
    name: "a take-over",
    workflow: "workflows/prod-workflow.yaml",
    manifests: &[
        (
            "config/services/spring-c.yaml",
            "      - env:\n        - name: JAVA_HOME\n          value: /usr/lib/jvm/java-1.8-openjdk/jre\n        image:",
            "      - image:",
        ),
        (
            "config/services/spring-c.yaml",
            "apiVersion: apps/v1\nkind: Deployment\n",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c-settings }\ndata: { a: b }\n---\napiVersion: apps/v1\nkind: Deployment\n",
        ),
    ],
    edits: &[("required: true", "default: { spring-c: \"spring-cloud-c:0.2\" }")],
    says: &[],
};

/// What a story left.
#[derive(Debug, PartialEq)]
struct End {
    runs: Vec<Value>,
    objects: BTreeMap<String, Value>,
    audit: Vec<Value>,
    changes: BTreeMap<String, usize>,
}

struct Told {
    end: End,
    batches: u64,
    mutating: usize,
    /// Whether the point was reached.
    killed: bool,
}

const KINDS: [(&str, &str, &str); 5] = [
    ("apps/v1", "Deployment", "deployments"),
    ("v1", "Service", "services"),
    ("networking.k8s.io/v1", "Ingress", "ingresses"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Secret", "secrets"),
];

async fn objects(rehearsal: &Rehearsal) -> BTreeMap<String, Value> {
    let client = rehearsal.client().await;
    let mut found = BTreeMap::new();
    for (api_version, kind, plural) in KINDS {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "mse-customer", &resource);
        for object in api.list(&ListParams::default()).await.expect("listed") {
            let mut value = serde_json::to_value(&object).expect("json");
            plain(&mut value);
            found.insert(format!("{kind} {}", object.metadata.name.unwrap_or_default()), value);
        }
    }
    found
}

/// How many batches the store in a data folder has acknowledged.
pub(crate) fn sentinel(data: &Path) -> u64 {
    let mut bytes = [0; 8];
    let file = std::fs::File::open(data.join("sentinel"));
    // Not there yet: nothing is acknowledged.
    file.and_then(|file| file.read_exact_at(&mut bytes, 0)).map_or(0, |()| u64::from_be_bytes(bytes))
}

fn prepare(story: &Story) -> (Home, Rehearsal) {
    let home = Home::new();
    // Digests of Secrets stand in annotations: with one key they can be compared.
    std::fs::create_dir_all(home.data()).expect("made");
    std::fs::write(home.data().join("digest.key"), [7; 32]).expect("written");
    let rehearsal = home.rehearsal("fast");
    for (file, from, to) in story.manifests {
        home.edit(file, from, to);
    }
    for (from, to) in story.edits {
        home.edit(story.workflow, from, to);
    }
    if story.workflow == RELEASE {
        home.edit(RELEASE, "drain: 3500ms", "drain: 50ms");
        home.edit(RELEASE, "samples: 20", "samples: 2");
        home.edit(RELEASE, "          http: {", "          settle: 1s\n          http: {");
    }
    (home, rehearsal)
}

/// Tells a story, killed at a point; `forget` leaves the checkpoints out of the journal before it goes on.
async fn tell(story: &Story, point: Point, forget: bool) -> Told {
    let (home, rehearsal) = prepare(story);
    let stage = Arc::new(Stage {
        point,
        log: Mutex::default(),
        child: Mutex::default(),
        killed: AtomicUsize::new(0),
    });
    let kubeconfig = std::fs::read_to_string(&rehearsal.kubeconfig).expect("readable");
    let server =
        kubeconfig.split("server: http://").nth(1).and_then(|rest| rest.lines().next()).expect("an address");
    let address = proxy(Arc::clone(&stage), server.parse().expect("an address")).await;
    let file: PathBuf = home.path("kubeconfig");
    std::fs::write(&file, kubeconfig.replace(server, &address.to_string())).expect("written");
    let environment = "config/environments/production.yaml";
    home.edit(
        environment,
        "cluster: rehearsal\n",
        &format!("cluster: {{ kubeconfig: {} }}\n", file.display()),
    );
    home.edit(environment, "127.0.0.1:8080", &rehearsal.gateway);

    let arguments = vec!["run", story.workflow];
    let mut next: Vec<&str> = arguments.clone();
    let mut said = false;
    for _ in 0..8 {
        let mut command = home.command(&next);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        *stage.child.lock().expect("a child") = Some(child);
        let code = wait(&home, &stage, point).await;
        let cut_off = code.is_none();
        if cut_off && forget {
            forget_checkpoints(&home).await;
        }
        let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
        let newest = runs[0]["status"].as_str().unwrap_or("none").to_owned();
        match newest.as_str() {
            // It was killed before anything was recorded: whoever wanted it asks again.
            "none" => next.clone_from(&arguments),
            "waiting" if story.says.is_empty() => break,
            "waiting" if !said => {
                said = true;
                let words: Vec<&str> = story.says.to_vec();
                let output = home.command(&words).env("USER", "bob").output().expect("started");
                assert!(output.status.success(), "{} {point:?}: {output:?}", story.name);
                next = vec!["resume"];
            }
            "succeeded" | "failed" | "cancelled" => break,
            _ => next = vec!["resume"],
        }
        assert!(cut_off || said || code.is_some(), "{} {point:?}", story.name);
    }
    note(&format!("{}, {point:?}: runs are over", story.name));
    let end = end(&home, &rehearsal, &stage).await;
    note(&format!("{}, {point:?}: told", story.name));
    let mutating = stage.log.lock().expect("a log").mutating;
    Told { end, batches: sentinel(&home.data()), mutating, killed: stage.was_killed() }
}

/// Waits for the end of the program; kills it when its batch is there. None where it was killed.
async fn wait(home: &Home, stage: &Arc<Stage>, point: Point) -> Option<i32> {
    loop {
        if let Point::Batch(at) = point
            && !stage.was_killed()
            && sentinel(&home.data()) >= at
        {
            stage.kill();
        }
        let ended =
            stage.child.lock().expect("a child").as_mut().and_then(|child| child.try_wait().expect("asked"));
        if let Some(status) = ended {
            *stage.child.lock().expect("a child") = None;
            return status.code();
        }
        tokio::time::sleep(Duration::from_micros(if matches!(point, Point::Batch(_)) { 100 } else { 5_000 }))
            .await;
    }
}

async fn end(home: &Home, rehearsal: &Rehearsal, stage: &Stage) -> End {
    let list = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    let mut runs = Vec::new();
    for run in list.as_array().expect("a list").iter().rev() {
        let id = run["id"].as_str().expect("an id");
        let view = home.graylane(&["runs", "show", id, "-o", "json"]).expect(0).json();
        let tasks: Vec<Value> = view["tasks"]
            .as_array()
            .expect("tasks")
            .iter()
            .map(|task| json!([task["name"], task["status"], task["attempt"]]))
            .collect();
        runs.push(json!({ "status": view["status"], "trigger": view["trigger"], "tasks": tasks }));
    }
    home.graylane(&["audit", "verify"]).expect(0);
    let audit = home.graylane(&["audit", "list", "--limit", "1000", "-o", "json"]).expect(0).json();
    let ids: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|run| run["id"].as_str().map(str::to_owned))
        .collect();
    let audit = audit.as_array().cloned().unwrap_or_default();
    let audit = audit.iter().map(|entry| {
        let mut words = json!([entry["actor"], entry["what"]]).to_string();
        for id in &ids {
            words = words.replace(id.as_str(), "RUN");
        }
        Value::from(words)
    });
    let audit = audit.collect();
    // What is going away is gone.
    let mut seen = objects(rehearsal).await;
    until("nothing changes any more", || {
        let now =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(objects(rehearsal)));
        let still = now == seen;
        seen = now;
        still
    });
    let changes = stage.log.lock().expect("a log").changes();
    End { runs, objects: seen, audit, changes }
}

/// The control: the same journal without its checkpoints, all hashes made anew.
async fn forget_checkpoints(home: &Home) {
    let old = home.path("data-old");
    std::fs::rename(home.data(), &old).expect("moved");
    let from = DiskJournal::open(&old).expect("opened");
    let to = DiskJournal::open(&home.data()).expect("made");
    let page = from.list(&Query { limit: 1_000, ..Query::default() }).expect("listed");
    let runs: Vec<Vec<graylane_engine::run::Record>> = page
        .runs
        .iter()
        .rev()
        .map(|run| {
            let mut records = from.read(run.id).expect("read");
            records.retain(|record| !matches!(record.event, Event::CheckpointPassed { .. }));
            records
        })
        .collect();
    for run in runs {
        let numbered = run.into_iter().zip(1..).map(|(mut record, seq)| {
            record.seq = Seq(seq);
            record
        });
        to.append(numbered.collect()).await.expect("written");
    }
    drop((from, to));
    for name in ["objects", "digest.key", "logs"] {
        // What a run was submitted with, and its plans, stay as they are.
        if old.join(name).exists() {
            let _ = std::fs::remove_dir_all(home.data().join(name));
            std::fs::rename(old.join(name), home.data().join(name)).expect("moved");
        }
    }
}

fn differences(undisturbed: &End, end: &End) -> Vec<String> {
    let mut found = Vec::new();
    if undisturbed.runs != end.runs {
        found.push(format!("runs: {} instead of {}", json!(end.runs), json!(undisturbed.runs)));
    }
    if undisturbed.audit != end.audit {
        found.push(format!("audit: {} instead of {}", json!(end.audit), json!(undisturbed.audit)));
    }
    let names = undisturbed.objects.keys().chain(end.objects.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (one, other) = (undisturbed.objects.get(name), end.objects.get(name));
        if one != other {
            found.push(format!("{name}: {} instead of {}", json!(other), json!(one)));
        }
    }
    let names = undisturbed.changes.keys().chain(end.changes.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (one, other) = (undisturbed.changes.get(name), end.changes.get(name));
        if one != other {
            found.push(format!("{name} was changed {other:?} times instead of {one:?}"));
        }
    }
    found
}

fn note(words: &str) {
    if std::env::var_os("GRAYLANE_MATRIX").is_some() {
        // Whoever asked for all of it wants to see how far it is.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{words}\n").as_bytes());
    }
}

fn points(batches: u64, mutating: usize) -> Vec<Point> {
    let batches = (1..=batches).map(Point::Batch);
    let requests = (1..=mutating).flat_map(|number| [Point::Before(number), Point::After(number)]);
    batches.chain(requests).collect()
}

/// Tells a story, or says where it got stuck.
async fn within(story: &'static Story, point: Point) -> Told {
    match tokio::time::timeout(Duration::from_secs(180), tell(story, point, false)).await {
        Ok(told) => told,
        Err(_) => panic!("{}, {point:?}: it does not end", story.name),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn killed_anywhere_everything_ends_as_if_it_had_not_been() {
    let all = std::env::var("GRAYLANE_MATRIX").is_ok_and(|value| value == "all");
    let seed: u64 = std::env::var("GRAYLANE_MATRIX_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    let mut random = seed;
    let mut report = String::from(
        "| story | batches | mutating requests | points | killed | differences |\n|---|---|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    let mut total = 0;
    for story in STORIES {
        let undisturbed = tell(story, Point::Never, false).await;
        assert!(undisturbed.mutating > 4, "{}: it does not get far: {:?}", story.name, undisturbed.end.runs);
        let mut points = points(undisturbed.batches, undisturbed.mutating);
        if !all {
            // A few of each story, from the seed.
            let count = if story.name == "the seed's story" { 3 } else { 1 };
            points = (0..count)
                .map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    points[(random >> 33) as usize % points.len()]
                })
                .collect();
        }
        let (mut killed, mut different) = (0, 0);
        let at_once = if all { 6 } else { 2 };
        for some in points.chunks(at_once) {
            // A task each, since much of it waits for processes.
            let telling: Vec<_> = some.iter().map(|point| tokio::spawn(within(story, *point))).collect();
            for (point, told) in some.iter().zip(telling) {
                let told = told.await.expect("told");
                killed += usize::from(told.killed);
                let found = differences(&undisturbed.end, &told.end);
                if !found.is_empty() {
                    different += 1;
                    wrong.push(format!("{}, {point:?}: {}", story.name, found.join("\n  ")));
                }
            }
        }
        total += points.len();
        // Writing into a String cannot fail.
        let _ = writeln!(
            report,
            "| {} | {} | {} | {} | {killed} | {different} |",
            story.name,
            undisturbed.batches,
            undisturbed.mutating,
            points.len()
        );
    }
    let words = format!("crash matrix: {total} points, seed {seed}, {} differences", wrong.len());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{words}\n").as_bytes());
    if let Ok(path) = std::env::var("GRAYLANE_MATRIX_REPORT") {
        let about = "Written by `cargo xtask long`. The program is killed (SIGKILL) at every batch that its journal acknowledges, and at every\n\
            mutating request of the API server's log, before its answer and after it; then somebody resumes it. Compared with an\n\
            undisturbed run: how runs and tasks ended, every object, the audit log, and how often the API server changed each object.";
        std::fs::write(path, format!("# Crash matrix\n\n{about}\n\n{words}.\n\n{report}")).expect("written");
    }
    assert!(wrong.is_empty(), "{words}\n{}", wrong.join("\n"));
}

/// Between an apply and its record nobody has written down what the apply made: what goes on must know it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_between_an_apply_and_its_record_a_take_over_goes_on() {
    let undisturbed = tell(&TAKES_OVER, Point::Never, false).await;
    assert_eq!(undisturbed.end.runs[0]["status"], "succeeded");
    let taken_over = &undisturbed.end.objects["Deployment spring-cloud-c"];
    assert!(!taken_over.to_string().contains("JAVA_HOME"), "the take-over removes something: {taken_over}");
    let mut wrong = Vec::new();
    for number in 1..=undisturbed.mutating {
        let told = within(&TAKES_OVER, Point::Before(number)).await;
        assert!(told.killed);
        let found = differences(&undisturbed.end, &told.end);
        wrong.extend(found.into_iter().map(|words| format!("request {number}: {words}")));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The control: without its checkpoints a rollback that was cut off goes forward again, and the matrix must see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn control_with_checkpoints_ignored_the_matrix_finds_differences() {
    let story = STORIES.iter().find(|story| story.name == "a rollback").expect("there");
    let undisturbed = tell(story, Point::Never, false).await;
    // The last request of the story is the rollback's own: after it, the journal alone knows where it was.
    let last = undisturbed.mutating;
    let mut found = Vec::new();
    for point in [Point::Before(last), Point::After(last)] {
        let told = tell(story, point, true).await;
        found.extend(differences(&undisturbed.end, &told.end));
    }
    assert!(!found.is_empty(), "a matrix that finds nothing here would find nothing anywhere");
}
