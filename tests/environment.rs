//! Environments: what a check finds and mends, and a baseline that is brought to the version label without a failed request.

use std::time::Duration;

use graylane_tasks::adoption::{DRAIN, Stepped, look};
use graylane_tasks::readiness::{Level, check};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::desk::{Desk, NAMESPACE, service_file, shown};
use crate::support::{GRAY, Home, Load, ask, until};

const SELECTOR: &str =
    "    matchLabels:\n      app: spring-cloud-a\n      zadigx-release-version: original\n";
const TEMPLATE: &str = "        app: spring-cloud-a\n        zadigx-release-version: original\n";
const SERVICE: &str = "  selector:\n    app: spring-cloud-a\n    zadigx-release-version: original\n";

/// Takes the version label out of spring-a, or puts it back.
pub(crate) fn label(home: &Home, on: bool) {
    let file = service_file("spring-a");
    for labelled in [SELECTOR, TEMPLATE, SERVICE] {
        let bare: String = labelled
            .lines()
            .filter(|line| !line.contains("zadigx"))
            .map(|line| format!("{line}\n"))
            .collect();
        // The shorter text is a part of the longer one: what follows it tells them apart.
        match (on, labelled) {
            (false, _) => home.edit(&file, labelled, &bare),
            (true, SERVICE) => home.edit(&file, &bare, labelled),
            (true, SELECTOR) => home.edit(&file, &bare, labelled),
            (true, _) => home.edit(&file, &format!("{bare}    spec:\n"), &format!("{labelled}    spec:\n")),
        }
    }
}

/// A cluster whose baseline of spring-a was made before anybody knew of lanes, and a manifest that knows.
async fn old_baseline() -> Desk {
    let home = Home::new();
    label(&home, false);
    let desk = Desk::with(home).await;
    label(&desk.home, true);
    desk
}

async fn steps(desk: &Desk) -> Vec<String> {
    let told = desk.told().await;
    look(&told, &desk.site(), "spring-a", desk.now()).await.expect("planned").steps
}

async fn one_step(desk: &Desk) -> Stepped {
    desk.adopt("spring-a").await.expect("done")
}

/// Every step is a call of its own that knows nothing of the one before: a crash between any two of them is this test.
#[tokio::test(start_paused = true)]
async fn an_adoption_goes_on_from_what_stands_on_the_objects() {
    let desk = old_baseline().await;
    let old: Vec<Value> = desk.cluster.objects("pods", NAMESPACE).into_iter().filter(of_a).collect();
    assert_eq!(old.len(), 1);
    let mut left = steps(&desk).await.len();
    assert_eq!(left, 7, "{:?}", steps(&desk).await);
    assert_eq!(desk.wrote(), Vec::<String>::new(), "a plan writes nothing");
    let began = tokio::time::Instant::now();
    let mut did: Vec<String> = Vec::new();
    for _ in 0..500 {
        let stepped = one_step(&desk).await;
        let still = steps(&desk).await.len();
        assert!(still <= left, "it never goes back: {did:?}");
        left = still;
        // Until the Services have switched, and requests have drained, nobody takes an old pod away.
        let pods = desk.cluster.objects("pods", NAMESPACE);
        let alive = pods.iter().any(|pod| pod["metadata"]["uid"] == old[0]["metadata"]["uid"]);
        assert!(alive || stepped.did.starts_with("removed") || stepped.done, "{}", stepped.did);
        if did.last() != Some(&stepped.did) {
            did.push(stepped.did.clone());
        }
        if stepped.done {
            break;
        }
    }
    let words: Vec<&str> = did.iter().map(|text| text.split([' ', ';']).next().unwrap_or_default()).collect();
    let mut order = vec!["marked", "let"];
    order.extend(words.iter().skip(2).copied().take_while(|word| *word == "waiting"));
    order.push("made");
    assert_eq!(&words[..order.len()], order, "{did:#?}");
    assert!(began.elapsed() >= DRAIN, "requests under way are waited for");
    assert!(
        did.iter().any(|text| text == "Service spring-cloud-a-base selects pods with the label alone"),
        "{did:#?}"
    );
    desk.settle(NAMESPACE).await;
    let live = desk.get("Deployment", "spring-cloud-a").await.expect("there");
    assert_eq!(live["spec"]["selector"]["matchLabels"]["zadigx-release-version"], "original");
    assert_eq!(live["spec"]["replicas"], 1);
    let service = desk.get("Service", "spring-cloud-a-base").await.expect("there");
    assert_eq!(service["spec"]["selector"]["zadigx-release-version"], "original");
    let sets: Vec<Value> = desk.cluster.objects("replicasets.apps", NAMESPACE);
    let sets = sets.iter().filter(|set| set["metadata"]["name"].to_string().contains("spring-cloud-a"));
    assert_eq!(sets.count(), 1, "the old ReplicaSet is gone");
    assert_eq!(steps(&desk).await, Vec::<String>::new());
    // And a lane can be deployed now.
    desk.run("mse-gray-deploy", &json!({ "tag": "gray", "images": { "spring-a": "a:2" } })).await;
}

fn of_a(pod: &Value) -> bool {
    pod["metadata"]["labels"]["app"] == "spring-cloud-a"
}

/// New pods that do not come up are told, the old ones answer on, and a mended manifest lets it go on.
#[tokio::test(start_paused = true)]
async fn an_adoption_whose_pods_do_not_come_up_leaves_the_old_ones_in_place() {
    let desk = old_baseline().await;
    for _ in 0..20 {
        if one_step(&desk).await.did.starts_with("made") {
            break;
        }
    }
    let broken =
        json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "a:missing" }]);
    desk.edit("Deployment", "spring-cloud-a", broken).await;
    let mut last = String::new();
    for _ in 0..400 {
        match desk.adopt("spring-a").await {
            Ok(stepped) => last = stepped.did,
            Err(error) => {
                last = shown(&error);
                break;
            }
        }
    }
    assert!(last.contains("new pods"), "{last}");
    let service = desk.get("Service", "spring-cloud-a-base").await.expect("there");
    assert!(service["spec"]["selector"].get("zadigx-release-version").is_none(), "nothing was switched");
    assert!(steps(&desk).await[0].starts_with("wait until its pods are up"));
}

#[tokio::test(start_paused = true)]
async fn an_adoption_is_refused_where_somebody_would_fight_with_it() {
    type Change = fn(&Value) -> Value;
    let table: &[(&str, Change, &str)] = &[
        (
            "Argo CD",
            |_| json!([{ "op": "add", "path": "/metadata/annotations/argocd.argoproj.io~1tracking-id", "value": "t" }]),
            "refused: Deployment spring-cloud-a is kept by Argo CD (`argocd.argoproj.io/...`), which would put it back: pause it for this object",
        ),
        (
            "Flux",
            |_| json!([{ "op": "add", "path": "/metadata/labels", "value": { "kustomize.toolkit.fluxcd.io/name": "t" } }]),
            "refused: Deployment spring-cloud-a is kept by Flux (`kustomize.toolkit.fluxcd.io/...`), which would put it back: pause it for this object",
        ),
        (
            "a strategy that allows no second",
            |_| json!([{ "op": "replace", "path": "/spec/strategy", "value": { "type": "Recreate" } }]),
            "refused: Deployment spring-cloud-a has the strategy `Recreate`: its pods may not stand beside new ones",
        ),
        (
            "a volume for one",
            |_| json!([{ "op": "add", "path": "/spec/template/spec/volumes", "value": [{ "name": "v", "persistentVolumeClaim": { "claimName": "disk" } }] }]),
            "mounts PersistentVolumeClaim disk, which only one node may: old and new pods would wait for each other",
        ),
    ];
    for (what, change, words) in table {
        let desk = old_baseline().await;
        let live = desk.get("Deployment", "spring-cloud-a").await.expect("there");
        desk.edit("Deployment", "spring-cloud-a", change(&live)).await;
        // An unbound claim, whose pods wait, changes nothing about what is told.
        tokio::time::sleep(Duration::from_secs(20)).await;
        refused(&desk, what, words).await;
    }
    let desk = old_baseline().await;
    let owner = desk.get("Service", "spring-cloud-a-base").await.expect("there");
    let owner = json!([{ "apiVersion": "v1", "kind": "Service", "name": "spring-cloud-a-base", "uid": owner["metadata"]["uid"] }]);
    desk.edit(
        "Deployment",
        "spring-cloud-a",
        json!([{ "op": "add", "path": "/metadata/ownerReferences", "value": owner }]),
    )
    .await;
    refused(&desk, "an owner", "refused: Deployment spring-cloud-a belongs to Service spring-cloud-a-base, which would make it anew as it was: let that one write the label").await;
    let desk = old_baseline().await;
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "scales-a" },
        "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "spring-cloud-a" } },
    });
    desk.create(&scaler, "kubectl").await;
    refused(&desk, "an autoscaler", "refused: HorizontalPodAutoscaler scales-a scales Deployment spring-cloud-a: it would count old and new pods as one; remove it until this is done").await;
    let desk = old_baseline().await;
    let mut twin = desk.get("Deployment", "spring-cloud-a").await.expect("there");
    twin["metadata"] = json!({ "name": "twin" });
    twin.as_object_mut().expect("a map").remove("status");
    desk.create(&twin, "kubectl").await;
    desk.settle(NAMESPACE).await;
    refused(
        &desk,
        "another selector",
        "refused: Deployment twin would take the old pods for its own: their selectors overlap",
    )
    .await;
    let desk = old_baseline().await;
    let image =
        json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "a:missing" }]);
    desk.edit("Deployment", "spring-cloud-a", image).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    refused(
        &desk,
        "a baseline that is not up",
        "Deployment spring-cloud-a is not fully rolled out: wait until it is, or mend it first",
    )
    .await;
    // A manifest that does not know the label, a service that needs none, one that there is not.
    let desk = Desk::with({
        let home = Home::new();
        label(&home, false);
        home
    })
    .await;
    refused(&desk, "the manifest", "refused: the manifest of service `spring-a` has no `zadigx-release-version: original` in its Deployment's selector and template").await;
    let told = desk.told().await;
    for (service, words) in [
        ("nacos", "refused: service `nacos` takes no part in lanes"),
        ("spring-d", "environment `production` has no service `spring-d`; did you mean `spring-a`?"),
    ] {
        let error = look(&told, &desk.site(), service, desk.now()).await.expect_err(service);
        assert_eq!(error.message, words);
    }
    assert_eq!(desk.wrote(), Vec::<String>::new());
}

async fn refused(desk: &Desk, what: &str, words: &str) {
    desk.cluster.clear_requests();
    let told = desk.told().await;
    let looked = look(&told, &desk.site(), "spring-a", desk.now()).await.expect_err(what);
    assert!(shown(&looked).contains(words), "{what}: {}", shown(&looked));
    let stepped = desk.adopt("spring-a").await.expect_err(what);
    assert_eq!(stepped, looked, "{what}");
    assert_eq!(desk.wrote(), Vec::<String>::new(), "{what}: refused before the first write");
}

/// With realistic delays and steady traffic: not one request fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_is_adopted_under_traffic_and_no_request_fails() {
    let home = Home::new();
    label(&home, false);
    let rehearsal = home.rehearsal("realistic");
    until("the baseline answers", || ask(&rehearsal.gateway, "/a", &[]).status == 200);
    let refused = home.graylane(&["environment", "adopt", "spring-a", "-e", "production", "--yes"]).expect(2);
    assert!(refused.stderr.contains("add it to both in"), "{}", refused.stderr);
    label(&home, true);
    let unasked = home.graylane(&["environment", "adopt", "spring-a", "-e", "production"]).expect(2);
    assert!(unasked.stdout.contains("  7. remove the old ReplicaSets and their pods"), "{}", unasked.stdout);
    assert!(unasked.stdout.contains("+      zadigx-release-version: original"), "{}", unasked.stdout);
    assert!(unasked.stderr.contains("`--yes` goes on without a question"), "{}", unasked.stderr);
    let load = Load::with(&rehearsal.gateway, &[&[], &[], GRAY]);
    let adopted = home.graylane(&["environment", "adopt", "spring-a", "-e", "production", "--yes"]).expect(0);
    assert!(adopted.stdout.contains("nothing is left to be done"), "{}", adopted.stdout);
    // A while after the last old pod is gone, too.
    std::thread::park_timeout(Duration::from_secs(2));
    for met in load.stop() {
        assert!(met.keys().all(|answer| answer == "200 A -> B -> C"), "{met:?}");
        assert!(met["200 A -> B -> C"] > 100, "{met:?}");
    }
    home.graylane(&["environment", "adopt", "spring-a", "-e", "production"]).expect(0);
    let ran = home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    assert!(ran.stdout.contains("the gray user stays on the lane"), "{}", ran.stdout);
    let audit = home.graylane(&["audit", "list"]);
    assert!(
        audit.stdout.contains("adopted `spring-a`"),
        "every step that writes stands in the audit log: {audit:?}"
    );
}

/// The control: the way that comes to mind first costs requests.
#[tokio::test(flavor = "multi_thread")]
async fn control_a_baseline_that_is_deleted_and_made_anew_costs_requests() {
    let home = Home::new();
    label(&home, false);
    let rehearsal = home.rehearsal("realistic");
    until("the baseline answers", || ask(&rehearsal.gateway, "/a", &[]).status == 200);
    let load = Load::with(&rehearsal.gateway, &[&[], &[]]);
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "deployments");
    let api: Api<DynamicObject> = Api::namespaced_with(rehearsal.client().await, NAMESPACE, &resource);
    let live = api.get("spring-cloud-a").await.expect("there");
    api.delete("spring-cloud-a", &DeleteParams::background()).await.expect("deleted");
    // As `kubectl replace --force` does it: what is there goes first.
    let pods = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Pod"), "pods");
    let pods: Api<DynamicObject> = Api::namespaced_with(rehearsal.client().await, NAMESPACE, &pods);
    let old = ListParams::default().labels("app=spring-cloud-a");
    for _ in 0..600 {
        if pods.list(&old).await.expect("listed").items.is_empty() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let mut anew = serde_json::to_value(live).expect("json");
    anew["metadata"] = json!({ "name": "spring-cloud-a" });
    anew.as_object_mut().expect("a map").remove("status");
    for pointer in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        anew.pointer_mut(pointer).expect("there")["zadigx-release-version"] = "original".into();
    }
    api.patch("spring-cloud-a", &PatchParams::apply("by-hand"), &Patch::Apply(&anew)).await.expect("applied");
    until("the new pods answer", || ask(&rehearsal.gateway, "/a", &[]).status == 200);
    let failed: u64 =
        load.stop().iter().flatten().filter(|(answer, _)| !answer.starts_with("200 ")).map(|(_, n)| n).sum();
    assert!(failed > 0, "a Deployment that is gone before the new one is up must cost requests");
}

/// A patch of an object: its kind, its name, what is done to it.
type OnCluster = (&'static str, &'static str, fn() -> Value);

struct Found {
    what: &'static str,
    /// Makes the example wrong.
    wrong: fn(&Home),
    on_cluster: Option<OnCluster>,
    check: &'static str,
    level: Level,
    message: &'static str,
    hint: &'static str,
    /// Whether `fix` mends it.
    fixed: bool,
}

const FOUND: &[Found] = &[
    Found {
        what: "a Service that names no version",
        wrong: |_| {},
        on_cluster: Some((
            "Service",
            "spring-cloud-a-base",
            || json!([{ "op": "remove", "path": "/spec/selector/zadigx-release-version" }]),
        )),
        check: "service-selector",
        level: Level::Problem,
        message: "Service mse-customer/spring-cloud-a-base selects the pods of Deployment spring-cloud-a without `zadigx-release-version`: it would send normal requests to a lane's pods too",
        hint: "add `zadigx-release-version: original` to its selector, and to its manifest",
        fixed: true,
    },
    Found {
        what: "a client's own mark",
        wrong: |_| {},
        on_cluster: None,
        check: "tag-header",
        level: Level::Warning,
        message: "Ingress mse-customer/spring-cloud-a lets a client's own `x-mse-tag` through: whoever knows a tag meets its lane, whatever the route says",
        hint: "annotate it `mse.ingress.kubernetes.io/request-header-control-remove: x-mse-tag`, and its manifest too",
        fixed: true,
    },
    Found {
        what: "a baseline without the label",
        wrong: |home| label(home, false),
        on_cluster: None,
        check: "version-label",
        level: Level::Problem,
        message: "service `spring-a`: its manifest has no `zadigx-release-version: original` in the Deployment's selector and template",
        hint: "then `graylane environment adopt spring-a -e production`",
        fixed: false,
    },
    Found {
        what: "a service that opts out",
        wrong: |home| {
            home.edit(
                &service_file("spring-c"),
                "        app: spring-cloud-c\n",
                "        app: spring-cloud-c\n        msePilotAutoEnable: \"off\"\n",
            )
        },
        on_cluster: None,
        check: "agent",
        level: Level::Problem,
        message: "service `spring-c` opts out of MSE: its template carries `msePilotAutoEnable: off`",
        hint: "take the label out, or keep the service out of lanes with `gray: false`",
        fixed: false,
    },
    Found {
        what: "a service without a Deployment",
        wrong: |home| {
            home.write(
                "config/services/web.yaml",
                "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: web }\n",
            )
        },
        on_cluster: None,
        check: "version-label",
        level: Level::Problem,
        message: "service `web` has no Deployment: its manifest needs exactly one",
        hint: "say `service_options: { web: { gray: false } }` in the environment's file, or mend the manifest",
        fixed: false,
    },
    Found {
        what: "a gateway of another class",
        wrong: |home| {
            home.edit("config/environments/production.yaml", "ingress_class: mse", "ingress_class: other")
        },
        on_cluster: None,
        check: "tag-header",
        level: Level::Warning,
        message: "no Ingress of class other is there: no service can be a lane's entry",
        hint: "give the entry's Ingress that class, or correct `ingress_class` in the environment's file",
        fixed: false,
    },
    Found {
        what: "a gateway that is not there",
        wrong: |_| {},
        on_cluster: None,
        check: "gateway",
        level: Level::Problem,
        message: "the gateway cannot be reached at http://127.0.0.1:9:",
        hint: "correct `gateway.address` in the environment's file: http checks go there",
        fixed: false,
    },
];

#[tokio::test]
async fn a_check_finds_each_thing_says_what_to_do_and_mends_what_it_says() {
    for row in FOUND {
        let home = Home::new();
        (row.wrong)(&home);
        let desk = Desk::with(home).await;
        if let Some((kind, name, patch)) = row.on_cluster {
            desk.edit(kind, name, patch()).await;
        }
        desk.cluster.clear_requests();
        let told = desk.told().await;
        let found = check(&told, &desk.site()).await.expect("checked");
        let of = |findings: &[graylane_tasks::readiness::Finding]| {
            findings
                .iter()
                .find(|finding| finding.check == row.check && finding.message.starts_with(row.message))
                .cloned()
        };
        let finding = of(&found.findings).unwrap_or_else(|| panic!("{}: {:#?}", row.what, found.findings));
        assert_eq!((finding.level, finding.fixable), (row.level, row.fixed), "{}", row.what);
        assert!(
            finding.hint.as_ref().is_some_and(|hint| hint.ends_with(row.hint)),
            "{}: {finding:?}",
            row.what
        );
        assert_eq!(desk.wrote(), Vec::<String>::new(), "{}: a check writes nothing", row.what);
        let mended = desk.fix().await.expect("checked");
        let mended = of(&mended.findings).expect("still told");
        assert_eq!(mended.fixed, row.fixed, "{}: {mended:?}", row.what);
        let after = check(&told, &desk.site()).await.expect("checked");
        assert_eq!(of(&after.findings).is_none(), row.fixed, "{}: {:?}", row.what, after.findings);
        // Everything but this one thing is as the example always was.
        if row.check != "gateway" && row.level == Level::Warning {
            let others = found
                .findings
                .iter()
                .filter(|other| other.level == Level::Problem && other.check != "gateway");
            assert_eq!(others.count(), 0, "{}: {:#?}", row.what, found.findings);
        }
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_enrolled_its_pods_and_missing_rights_are_found() {
    let desk = Desk::new().await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(desk.cluster.client());
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "mse-enable": null } } }));
    namespaces.patch(NAMESPACE, &PatchParams::default(), &patch).await.expect("patched");
    let pods = desk.api(NAMESPACE, "Pod");
    let of_c = ListParams::default().labels("app=spring-cloud-c");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &of_c).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(1)).await;
    desk.settle(NAMESPACE).await;
    desk.cluster.forbid("patch", "deployments.apps");
    desk.cluster.forbid("get", "pods/log");
    let told = desk.told().await;
    let found = desk.fix().await.expect("checked");
    let messages: Vec<String> = found
        .findings
        .iter()
        .filter(|finding| finding.level != Level::Fine || finding.fixed)
        .map(|finding| finding.message.clone())
        .collect();
    for words in [
        "this identity may not patch deployments in mse-customer: needed for lanes, production",
        "this identity may not get pods/log in mse-customer: needed for why a pod does not come up",
        "namespace mse-customer lacks the label `mse-enable=enabled`: its pods get no MSE agent",
        "1 of 1 pods of service `spring-c` carry no MSE agent (pod spring-cloud-c-",
    ] {
        assert!(messages.iter().any(|message| message.starts_with(words)), "{words}: {messages:#?}");
    }
    let labels = told.namespace_labels(NAMESPACE).await.expect("told").expect("there");
    assert_eq!(labels.get("mse-enable").map(String::as_str), Some("enabled"), "mended");
    assert!(!found.is_ready(), "pods are not made anew by a fix");
}

/// The command: its words, its exit codes, and JSON for programs.
#[test]
fn the_check_is_a_command_with_an_exit_code() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    let fixed = home.graylane(&["environment", "check", "production", "--fix"]).expect(0);
    assert!(fixed.stdout.contains("mended  tag-header"), "{}", fixed.stdout);
    assert!(fixed.stdout.contains("production is ready for gray releases"), "{}", fixed.stdout);
    let quiet = home.graylane(&["environment", "check", "production", "--quiet"]).expect(0);
    assert_eq!(quiet.stdout.lines().count(), 1, "{}", quiet.stdout);
    drop(rehearsal);
    home.edit(&service_file("spring-b"), "        zadigx-release-version: original\n", "");
    let wrong = home.graylane(&["environment", "check", "production", "-o", "json"]).expect(1).json();
    let problems =
        wrong["findings"].as_array().expect("a list").iter().filter(|finding| finding["level"] == "problem");
    let checks: Vec<&str> = problems.filter_map(|finding| finding["check"].as_str()).collect();
    assert_eq!(checks, ["version-label"], "{wrong}");
    home.graylane(&["environment", "check", "producton"]).expect(2);
}
