//! Baselines as they are found: made by `kubectl apply`, by `kubectl create`, as Helm and Argo CD make them, without any record
//! of who owns what, and by `prod-deploy` itself; with a number of pods that was changed by `scale`, and with a real autoscaler
//! that goes on changing it. Told on both clusters.
//!
//! A row is how production came to be; what `prod-deploy` takes over, respects or refuses is said beside it. Every baseline
//! has an environment variable, an annotation, the port of a Service and the key of a ConfigMap that the manifest no longer has,
//! a number of pods that an autoscaler has changed, and something that somebody else added and the manifest does not speak of.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};

use crate::support::stage::{CONFIG_MAPS, DEPLOYMENTS, Kind, PLAIN, SERVICES, Stage, Wants, on_both};
use crate::support::{PATIENCE, Ran, ran};

const ENVIRONMENT: &str = "config/environments/production.yaml";

/// Who made a baseline, and how.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// `kubectl apply`: an update, and what was applied in an annotation.
    KubectlApply,
    /// The same by the program itself, where it is installed.
    Kubectl,
    /// A plain create under this name: `kubectl create`, or Helm.
    Create(&'static str),
    /// Server-side apply under this name, as Argo CD.
    Apply(&'static str),
    /// An object whose record was lost.
    Nobody,
    /// `prod-deploy`, from nothing.
    ProdDeploy,
}

struct Row {
    service: &'static str,
    by: By,
    /// Whose name a refusal says; none where everything is taken over at once.
    refused: Option<&'static str>,
}

const TABLE: [Row; 7] = [
    Row { service: "applied", by: By::KubectlApply, refused: None },
    Row { service: "kubectl", by: By::Kubectl, refused: None },
    Row { service: "created", by: By::Create("kubectl-create"), refused: Some("kubectl-create") },
    Row { service: "helmed", by: By::Create("helm"), refused: Some("helm") },
    Row { service: "synced", by: By::Apply("argocd-controller"), refused: Some("argocd-controller") },
    Row { service: "unkept", by: By::Nobody, refused: None },
    Row { service: "ours", by: By::ProdDeploy, refused: None },
];

/// A Deployment with these environment variables, a Service with a port for each, and a ConfigMap with a key for each.
fn manifest(service: &str, names: &[&str]) -> Vec<Value> {
    let env: Vec<Value> = names.iter().map(|name| json!({ "name": name, "value": "v" })).collect();
    let labels = json!({ "app": service, "zadigx-release-version": "original" });
    let marks: Map<String, Value> =
        names.iter().map(|name| (format!("example.com/{}", name.to_lowercase()), "m".into())).collect();
    let ports: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(number, name)| json!({ "name": name.to_lowercase(), "port": 80 + number, "targetPort": 8080, "protocol": "TCP" }))
        .collect();
    let data: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), "v".into())).collect();
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": service, "labels": { "team": "a" }, "annotations": marks },
            "spec": { "replicas": 2, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "app", "image": format!("{service}:1"), "env": env }] } } },
        }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": service }, "spec": { "selector": labels, "ports": ports } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": service }, "data": data }),
    ]
}

/// The manifest as the repository has it from now on.
fn write(stage: &Stage, service: &str, names: &[&str]) {
    let text: Vec<String> = manifest(service, names).iter().map(graylane_tasks::manifest::yaml).collect();
    stage.home.write(&format!("config/services/{service}.yaml"), &text.join("---\n"));
}

fn deploy(stage: &Stage, command: &str, service: &str, image: &str, more: &str) -> Ran {
    let text = format!(
        "name: prod-workflow\ntasks:\n  promote:\n    type: prod-deploy\n    timeout: 1m\n    with: {{ environment: production, images: {{ {service}: \"{image}\" }}{more} }}\n"
    );
    stage.home.write("workflows/prod.yaml", &text);
    stage.home.graylane(&[command, "workflows/prod.yaml"])
}

fn by(manager: &str) -> PatchParams {
    PatchParams { field_manager: Some(manager.into()), ..PatchParams::default() }
}

/// The kind of an object of the manifest, as the stage asks for it.
fn kind_of(object: &Value) -> Kind {
    match object["kind"].as_str() {
        Some("Deployment") => DEPLOYMENTS,
        Some("Service") => SERVICES,
        _ => CONFIG_MAPS,
    }
}

/// Whether the row can be told here: with CI=true its program must be there.
fn is_here(row: &Row) -> bool {
    let here = row.by != By::Kubectl || kubectl().is_some();
    assert!(here || std::env::var("CI").as_deref() != Ok("true"), "CI has no kubectl");
    here
}

fn kubectl() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("GRAYLANE_TEST_KUBECTL") {
        return std::env::split_paths(&named).next();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file())
}

fn kubectl_apply(stage: &Stage, service: &str) {
    let mut command = Command::new(kubectl().expect("it is there"));
    let file = stage.home.path(&format!("config/services/{service}.yaml"));
    command
        .arg("--kubeconfig")
        .arg(&stage.kubeconfig)
        .args(["-n", &stage.namespace, "apply", "-f"])
        .arg(file);
    ran(&mut command).expect(0);
}

async fn found(stage: &Stage, row: &Row) {
    let api = stage.api(DEPLOYMENTS);
    let before = ["ONE", "TWO"];
    match row.by {
        By::ProdDeploy => {
            write(stage, row.service, &before);
            deploy(stage, "run", row.service, &format!("{}:1", row.service), "").expect(0);
        }
        By::Kubectl => {
            write(stage, row.service, &before);
            kubectl_apply(stage, row.service);
        }
        _ => {
            for object in manifest(row.service, &before) {
                made(stage, row, object).await;
            }
        }
    }
    stage.settle().await;
    if row.by != By::ProdDeploy {
        // An autoscaler writes the number of pods by another path than everybody else.
        let scale = Patch::Merge(json!({ "spec": { "replicas": 4 } }));
        api.patch_scale(row.service, &by("kube-controller-manager"), &scale).await.expect("scaled");
    }
    let other = json!({ "metadata": { "annotations": { "example.com/seen": "yes" } },
        "spec": { "template": { "spec": { "containers": [{ "name": "app", "env": [{ "name": "OTHER", "value": "o" }] }] } } } });
    api.patch(row.service, &by("somebody"), &Patch::Strategic(other)).await.expect("patched");
    let other = Patch::Merge(json!({ "data": { "OTHER": "o" } }));
    stage.api(CONFIG_MAPS).patch(row.service, &by("somebody"), &other).await.expect("patched");
    if row.by == By::Nobody {
        for kind in [DEPLOYMENTS, SERVICES, CONFIG_MAPS] {
            lose_record(&stage.api(kind), row.service).await;
        }
    }
    write(stage, row.service, &["ONE"]);
    stage.settle().await;
}

/// An object as somebody made it.
async fn made(stage: &Stage, row: &Row, mut object: Value) {
    let api = stage.api(kind_of(&object));
    match row.by {
        By::KubectlApply => {
            let applied = object.to_string();
            object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
                applied.into();
            create(&api, "kubectl-client-side-apply", object).await;
        }
        By::Create(manager) => create(&api, manager, object).await,
        By::Apply(manager) => {
            let params = PatchParams::apply(manager);
            api.patch(row.service, &params, &Patch::Apply(object)).await.expect("applied");
        }
        By::Nobody => create(&api, "old", object).await,
        By::Kubectl | By::ProdDeploy => panic!("these make objects by themselves"),
    }
}

async fn create(api: &Api<DynamicObject>, manager: &str, object: Value) {
    let params = PostParams { field_manager: Some(manager.into()), ..PostParams::default() };
    api.create(&params, &serde_json::from_value(object).expect("an object")).await.expect("created");
}

async fn lose_record(api: &Api<DynamicObject>, name: &str) {
    let patch = json!([{ "op": "replace", "path": "/metadata/managedFields", "value": [{}] }]);
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
    api.patch(name, &by("old"), &patch).await.expect("patched");
}

/// Image, number of pods, and environment variables, as production has them.
async fn live(stage: &Stage, service: &str) -> (String, i64, Vec<String>) {
    let object = stage.get(DEPLOYMENTS, service).await.expect("there");
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        variables.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    let image = container["image"].as_str().expect("an image").to_owned();
    (image, object["spec"]["replicas"].as_i64().expect("a number"), names)
}

/// The rest of it: keys of the ConfigMap, and ports of the Service and annotations of the Deployment without what nobody here wrote.
async fn beside(stage: &Stage, service: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let keys = |value: &Value| {
        value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let config = stage.get(CONFIG_MAPS, service).await.expect("there");
    let ports = stage.get(SERVICES, service).await.expect("there")["spec"]["ports"].clone();
    let ports = ports.as_array().cloned().unwrap_or_default();
    let deployment = stage.get(DEPLOYMENTS, service).await.expect("there");
    let mut marks = keys(&deployment["metadata"]["annotations"]);
    marks.retain(|key| ["example.com/one", "example.com/two"].contains(&key.as_str()));
    let mut data = keys(&config["data"]);
    data.sort();
    marks.sort();
    (data, ports.iter().map(|port| port["name"].as_str().unwrap_or_default().to_owned()).collect(), marks)
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn baselines_are_taken_over_respected_or_refused_as_they_are_found() {
    on_both(Wants { baseline: false, ..PLAIN }, async |stage| {
        for row in TABLE.iter().filter(|row| is_here(row)) {
            tell(stage, row).await;
        }
    })
    .await;
}

async fn tell(stage: &Stage, row: &Row) {
    let service = row.service;
    found(stage, row).await;
    let replicas = if row.by == By::ProdDeploy { 2 } else { 4 };
    let all = ["ONE", "OTHER", "TWO"].map(str::to_owned).to_vec();
    // Nobody knows that somebody else added it: what has no record goes as one.
    let without: Vec<String> =
        if row.by == By::Nobody { vec!["ONE".into()] } else { vec!["ONE".into(), "OTHER".into()] };
    let before = live(stage, service).await;
    assert_eq!(before, (format!("{service}:1"), replicas, all.clone()), "{service}: as it is found");
    let (old_ports, old_marks) = (texts(&["one", "two"]), texts(&["example.com/one", "example.com/two"]));
    let whole = (all.clone(), old_ports, old_marks);
    assert_eq!(beside(stage, service).await, whole, "{service}: as it is found");

    let image = format!("{service}:2");
    if let Some(manager) = row.refused {
        for command in ["plan", "run"] {
            let refused = deploy(stage, command, service, &image, "");
            assert_ne!(refused.code, 0, "{service}: {refused:?}");
            let field = ".spec.template.spec.containers[name=\"app\"].image belongs to";
            for words in [
                "has fields of other managers",
                &format!("{field} `{manager}`"),
                &format!("take them with `force: [{manager}]`"),
            ] {
                assert!(refused.stdout.contains(words), "{service}: {words:?} is not in\n{}", refused.stdout);
            }
        }
        assert_eq!(live(stage, service).await, before, "{service}: refused before the first write");
        // By force the value is taken, and everything else stays whose it was.
        deploy(stage, "run", service, &image, &format!(", force: [{manager}]")).expect(0);
        assert_eq!(live(stage, service).await, (image, replicas, all), "{service}: forced");
        assert_eq!(beside(stage, service).await, whole, "{service}: forced");
        stage.look(&format!("{service}: forced")).await;
        let list = format!("take_over: [{manager}]\nallow:");
        stage.home.edit(ENVIRONMENT, "allow:", &list);
        let image = format!("{service}:3");
        deploy(stage, "run", service, &image, "").expect(0);
        stage.home.edit(ENVIRONMENT, &list, "allow:");
        assert_eq!(live(stage, service).await, (image, replicas, without), "{service}: taken over");
    } else {
        let plan = deploy(stage, "plan", service, &image, "").expect(0).stdout;
        assert!(!plan.contains("replicas: "), "{service}: the number of pods is left: {plan}");
        let note = format!(
            "Deployment {service}: .spec.template.spec.containers[name=\"app\"].env[name=\"TWO\"] goes: `kubectl apply` wrote it, and the manifest no longer has it"
        );
        let by_kubectl = matches!(row.by, By::KubectlApply | By::Kubectl);
        assert_eq!(plan.contains(&note), by_kubectl, "{service}: {plan}");
        deploy(stage, "run", service, &image, "").expect(0);
        assert_eq!(live(stage, service).await, (image, replicas, without), "{service}: taken over");
    }
    let left = (
        texts(&if row.by == By::Nobody { vec!["ONE"] } else { vec!["ONE", "OTHER"] }),
        texts(&["one"]),
        texts(&["example.com/one"]),
    );
    assert_eq!(beside(stage, service).await, left, "{service}: what the manifest no longer has is gone");
    stage.look(&format!("{service}: taken over")).await;
    let object = stage.get(DEPLOYMENTS, service).await.expect("there");
    let managers: Vec<&str> = object["metadata"]["managedFields"]
        .as_array()
        .expect("a record")
        .iter()
        .filter_map(|entry| entry["manager"].as_str())
        .filter(|manager| *manager != "kube-controller-manager")
        .collect();
    let mut expected = vec!["graylane", "somebody"];
    let last = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(last.is_null(), "{service}: kubectl's copy goes with what it says");
    let seen = object["metadata"]["annotations"]["example.com/seen"] == "yes";
    assert_eq!(seen, row.by != By::Nobody, "{service}: what somebody else added stays where that is known");
    if row.by == By::Nobody {
        expected.pop();
    }
    let mut managers = managers;
    managers.sort_unstable();
    managers.dedup();
    assert_eq!(managers, expected, "{service}: whose it is now");
}

/// Replicas that a person gives in the manifest of a service without an autoscaler are left too: once a deploy has made the
/// object, the number is whoever's who scales it.
#[tokio::test(flavor = "multi_thread")]
async fn control_a_number_that_the_task_gives_is_written() {
    on_both(Wants { baseline: false, ..PLAIN }, async |stage| {
        write(stage, "ours", &["ONE"]);
        deploy(stage, "run", "ours", "ours:1", "").expect(0);
        let replicas = async || {
            let object = stage.get(DEPLOYMENTS, "ours").await.expect("there");
            object["spec"]["replicas"].as_i64().expect("a number")
        };
        assert_eq!(replicas().await, 2, "a new object has the manifest's");
        deploy(stage, "run", "ours", "ours:2", "").expect(0);
        assert_eq!(replicas().await, 2, "and keeps it");
        let text = "name: prod-workflow\ntasks:\n  promote:\n    type: prod-deploy\n    timeout: 1m\n    with: { environment: production, services: { ours: { images: { app: \"ours:3\" }, replicas: 3 } } }\n";
        stage.home.write("workflows/prod.yaml", text);
        stage.home.graylane(&["run", "workflows/prod.yaml"]).expect(0);
        assert_eq!(replicas().await, 3, "a number that the task gives is written");
        deploy(stage, "run", "ours", "ours:4", "").expect(0);
        assert_eq!(replicas().await, 3, "and kept by a task that gives none");
    })
    .await;
}

/// A service whose manifest brings an autoscaler along. A real one looks every 15 s, and without metrics it keeps to its bounds.
fn autoscaled(stage: &Stage) -> Kind {
    // The oldest server that is supported has no v2 yet.
    let version = if stage.real { "autoscaling/v1" } else { "autoscaling/v2" };
    let scaler = json!({
        "apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": { "name": "web" },
        "spec": { "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" }, "minReplicas": 3, "maxReplicas": 5 },
    });
    let text =
        [manifest("web", &["ONE"]).remove(0), scaler].map(|object| graylane_tasks::manifest::yaml(&object));
    stage.home.write("config/services/web.yaml", &text.join("---\n"));
    (version, "HorizontalPodAutoscaler", "horizontalpodautoscalers")
}

/// Waits until the autoscaler has brought the number of pods to this.
async fn brought_to(stage: &Stage, number: i64) {
    for _ in 0..PATIENCE.as_millis() / 100 {
        if live(stage, "web").await.1 == number {
            stage.settle().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the autoscaler does not bring the number of pods to {number}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_keeps_its_number_through_deploys_rollbacks_and_lanes() {
    let prepare = |home: &crate::support::Home| {
        home.edit(ENVIRONMENT, "allow:", "rollout: { crash: 1s, restarts: 1 }\nallow:");
    };
    on_both(Wants { baseline: false, prepare: &prepare, ..PLAIN }, async |stage| {
        let kind = autoscaled(stage);
        let what = "HorizontalPodAutoscaler web scales Deployment web between 3 and 5: ";
        let first = deploy(stage, "plan", "web", "web:1", "").expect(0).stdout;
        let will = "HorizontalPodAutoscaler web will scale Deployment web between 3 and 5";
        assert!(first.contains(will), "{first}");
        deploy(stage, "run", "web", "web:1", "").expect(0);
        brought_to(stage, 3).await;

        let plan = deploy(stage, "plan", "web", "web:2", "").expect(0).stdout;
        let stays = format!("{what}its number of pods stays at 3; the manifest's 2 counts for a new one alone");
        assert!(plan.contains(&stays), "{plan}");
        assert!(!plan.contains("replicas: "), "the number of pods is left: {plan}");
        deploy(stage, "run", "web", "web:2", "").expect(0);
        let (image, number, _) = live(stage, "web").await;
        assert_eq!((image.as_str(), number), ("web:2", 3), "a new image, and as many pods as before");

        // A number in the task would be a fight: neither a plan nor a run begins it.
        let given = "name: prod-workflow\ntasks:\n  promote:\n    type: prod-deploy\n    timeout: 1m\n    with: { environment: production, services: { web: { images: { app: \"web:3\" }, replicas: 7 } } }\n";
        stage.home.write("workflows/prod.yaml", given);
        for command in ["plan", "run"] {
            let refused = stage.home.graylane(&[command, "workflows/prod.yaml"]);
            assert_ne!(refused.code, 0, "{refused:?}");
            let fight = format!("refused: service `web`: {what}it and this deploy would each set the number of pods; leave `replicas` out");
            assert!(refused.stdout.contains(&fight), "{refused:?}");
        }
        assert_eq!(live(stage, "web").await.1, 3);

        // Somebody asks for more than the autoscaler allows.
        let more = Patch::Merge(json!({ "spec": { "replicas": 9 } }));
        stage.api(DEPLOYMENTS).patch_scale("web", &by("somebody"), &more).await.expect("scaled");
        brought_to(stage, 5).await;
        let scaler = stage.get(kind, "web").await.expect("there");
        assert_eq!(scaler["status"]["desiredReplicas"], 5, "{scaler}");

        // What fails is taken back, and the number is not part of it.
        let failed = deploy(stage, "run", "web", "web:crash", "").expect(1);
        assert!(failed.stdout.contains("Deployment web was rolled back to web:2"), "{failed:?}");
        let (image, number, _) = live(stage, "web").await;
        assert_eq!((image.as_str(), number), ("web:2", 5), "the image of before, and the autoscaler's number");

        // A copy has its own number: the autoscaler is not copied, and does not mean it.
        let lane = "name: release\ntasks:\n  up:\n    type: mse-gray-deploy\n    timeout: 1m\n    with: { environment: production, tag: gray, images: { web: \"web:4\" } }\n";
        stage.home.write("workflows/lane.yaml", lane);
        let plan = stage.home.graylane(&["plan", "workflows/lane.yaml"]).expect(0).stdout;
        let fixed = "HorizontalPodAutoscaler web scales the baseline only: Deployment web-mse-gray keeps its number of pods";
        assert!(plan.contains(fixed), "{plan}");
        stage.home.graylane(&["run", "workflows/lane.yaml"]).expect(0);
        let copy = stage.get(DEPLOYMENTS, "web-mse-gray").await.expect("there");
        assert_eq!(copy["spec"]["replicas"], 1, "{copy}");
        assert_eq!(stage.list(kind, "").await.len(), 1, "the autoscaler has no copy");
    })
    .await;
}
