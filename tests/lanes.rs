//! Lanes over time: the same tag again, parts that go, hands that reach in, other tools, age. Tables at a desk.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::desk::{Desk, NAMESPACE, changes, service_file, shown};
use crate::support::{Home, until};

const DEPLOY: &str = "mse-gray-deploy";
const OFFLINE: &str = "mse-gray-offline";
const A: &str = "spring-cloud-a-mse-gray";
const C: &str = "spring-cloud-c-mse-gray";

fn entry() -> Value {
    entry_of("gray")
}

/// The users of a lane: two lanes do not let the same ones in.
fn entry_of(tag: &str) -> Value {
    let user = if tag == "gray" { "100" } else { tag };
    json!({ "service": "spring-a", "header": { "name": "x-user-id", "value": user } })
}

/// A lane of a and c, a being its entry.
fn lane(tag: &str) -> Value {
    json!({ "tag": tag, "images": { "spring-a": "a:2", "spring-c": "c:2" }, "entry": entry_of(tag) })
}

const CONFIG: &str =
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: spring-cloud-c }\ndata: { greeting: hello }\n";

/// A home in which spring-c reads a ConfigMap.
fn configured() -> Home {
    let home = Home::new();
    let file = service_file("spring-c");
    home.edit(
        &file,
        "      - env:\n",
        "      - envFrom: [{ configMapRef: { name: spring-cloud-c } }]\n        env:\n",
    );
    let text = std::fs::read_to_string(home.path(&file)).expect("readable");
    home.write(&file, &format!("{text}{CONFIG}"));
    home
}

struct Again {
    what: &'static str,
    /// Changes files between the two deploys.
    between: fn(&Home),
    again: fn() -> Value,
    changes: &'static [&'static str],
    told: &'static [&'static str],
}

/// The same tag again: what the plan says, and that the cluster is so afterwards.
const AGAIN: &[Again] = &[
    Again {
        what: "other images",
        between: |_| {},
        again: || json!({ "tag": "gray", "images": { "spring-a": "a:3", "spring-c": "c:2" }, "entry": entry() }),
        changes: &["update Deployment spring-cloud-a-mse-gray"],
        told: &[],
    },
    Again {
        what: "a service is added, and the others are left out",
        between: |_| {},
        again: || json!({ "tag": "gray", "images": { "spring-b": "b:2" } }),
        changes: &["create Deployment spring-cloud-b-mse-gray"],
        told: &[
            "`spring-a` stays in the lane with 4 objects: it is not part of this deploy",
            "`spring-c` stays in the lane with 2 objects: it is not part of this deploy",
        ],
    },
    Again {
        what: "an object has gone from the manifest",
        between: |home| {
            let file = service_file("spring-c");
            home.edit(&file, CONFIG, "");
            home.edit(&file, "envFrom: [{ configMapRef: { name: spring-cloud-c } }]\n        env", "env");
        },
        again: || lane("gray"),
        changes: &["delete ConfigMap spring-cloud-c-mse-gray", "update Deployment spring-cloud-c-mse-gray"],
        told: &[],
    },
    Again {
        what: "only a ConfigMap has changed: its pods are rolled",
        between: |home| home.edit(&service_file("spring-c"), "greeting: hello", "greeting: good morning"),
        again: || lane("gray"),
        changes: &["update ConfigMap spring-cloud-c-mse-gray", "update Deployment spring-cloud-c-mse-gray"],
        told: &[],
    },
    Again {
        what: "a selector has changed: the route goes off, and the Deployment is made anew",
        between: |home| {
            home.edit(
                &service_file("spring-c"),
                "matchLabels:\n      app: spring-cloud-c\n",
                "matchLabels:\n      app: spring-cloud-c\n      team: c\n",
            );
            home.edit(
                &service_file("spring-c"),
                "        msePilotCreateAppName: spring-cloud-c\n",
                "        msePilotCreateAppName: spring-cloud-c\n        team: c\n",
            );
        },
        again: || lane("gray"),
        changes: &["update Deployment spring-cloud-c-mse-gray"],
        told: &[
            "Deployment mse-customer/spring-cloud-c-mse-gray is made anew, because its selector changes: the lane's route is closed until it is up",
        ],
    },
    Again {
        what: "the entry alone is removed",
        between: |_| {},
        again: || json!({ "tag": "gray", "images": { "spring-a": "a:2", "spring-c": "c:2" } }),
        changes: &["delete Ingress spring-cloud-a-mse-gray", "update Deployment spring-cloud-a-mse-gray"],
        told: &["the lane has no entry: only requests that carry its mark meet it"],
    },
    Again {
        what: "an object is added to the manifest",
        between: |home| {
            let file = service_file("spring-a");
            let text = std::fs::read_to_string(home.path(&file)).expect("readable");
            home.write(&file, &format!("{text}{}", CONFIG.replace("spring-cloud-c", "spring-cloud-a")));
        },
        again: || lane("gray"),
        changes: &["create ConfigMap spring-cloud-a-mse-gray", "update Deployment spring-cloud-a-mse-gray"],
        told: &[],
    },
];

/// Annotations that every deploy writes make no change worth telling.
fn without_marks(lines: Vec<String>, plan: &graylane_engine::task::Plan) -> Vec<String> {
    let only_marks = |object: &str| {
        let change = plan.changes.iter().find(|change| change.object.replace("mse-customer/", "") == object);
        change.is_some_and(|change| {
            let lines = change.diff.lines().filter(|line| {
                (line.starts_with('+') || line.starts_with('-'))
                    && !line.starts_with("+++")
                    && !line.starts_with("---")
            });
            lines.into_iter().all(|line| line.contains("graylane.dev/") && !line.contains("config-hash"))
        })
    };
    lines
        .into_iter()
        .filter(|line| {
            line.strip_prefix("update ")
                .is_none_or(|object| object.starts_with("Secret") || !only_marks(object))
        })
        .filter(|line| !line.starts_with("update Secret"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_tag_again_changes_what_it_says_and_no_more() {
    for row in AGAIN {
        let desk = Desk::with(configured()).await;
        desk.run(DEPLOY, &lane("gray")).await;
        (row.between)(&desk.home);
        let before = desk.get("Deployment", C).await.expect("there");
        let spec = (row.again)();
        let (plan, _) = desk.run(DEPLOY, &spec).await;
        assert_eq!(without_marks(changes(&plan), &plan), row.changes, "{}: {:?}", row.what, plan.changes);
        for told in row.told {
            assert!(plan.warnings.iter().any(|warning| warning == told), "{}: {:?}", row.what, plan.warnings);
        }
        // What the plan said is so, and a third time there is nothing to do.
        let third = desk.plan(DEPLOY, &spec).await.expect("planned");
        assert_eq!(
            without_marks(changes(&third), &third),
            Vec::<String>::new(),
            "{}: a third time",
            row.what
        );
        let after = desk.get("Deployment", C).await.expect("there");
        let anew = row.what.starts_with("a selector");
        assert_eq!(before["metadata"]["uid"] != after["metadata"]["uid"], anew, "{}", row.what);
        let lanes = desk.lanes().await;
        let route = row.what != "the entry alone is removed";
        assert_eq!(lanes[0].route.is_some(), route, "{}: {lanes:?}", row.what);
        assert!(
            lanes[0].services.iter().all(|service| service.words().is_empty()),
            "{}: {lanes:?}",
            row.what
        );
    }
}

/// A changed selector: the route is gone before the Deployment is, and back after it is up.
#[tokio::test(start_paused = true)]
async fn a_changed_selector_closes_the_route_first_and_opens_it_last() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    (AGAIN[4].between)(&desk.home);
    // The entry is not part of this deploy: its route comes back all the same.
    desk.cluster.clear_requests();
    let began = tokio::time::Instant::now();
    let spec = json!({ "tag": "gray", "images": { "spring-c": "c:2" } });
    let (plan, _) = desk.run(DEPLOY, &spec).await;
    assert!(began.elapsed() >= Duration::from_secs(10), "requests under way are waited for");
    let wrote = desk.wrote();
    let place = |words: &str| {
        wrote
            .iter()
            .position(|line| line.starts_with(words))
            .unwrap_or_else(|| panic!("no {words}: {wrote:#?}"))
    };
    let ingress = format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses/{A}");
    let deployment = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{C}");
    let order = [
        place(&format!("DELETE {ingress}")),
        place(&format!("DELETE {deployment}")),
        place(&format!("PATCH {deployment}")),
        place(&format!("PATCH {ingress}")),
    ];
    assert!(order.is_sorted(), "{wrote:#?}");
    let live = desk.get("Ingress", A).await.expect("the route is back");
    assert_eq!(live["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-by-header-value"], "100");
    // And the undo makes it anew once more, with the old selector.
    desk.undo(DEPLOY, &spec, &plan).await.expect("taken back");
    let back = desk.get("Deployment", C).await.expect("there");
    assert!(back["spec"]["selector"]["matchLabels"].get("team").is_none(), "{back}");
    assert!(desk.get("Ingress", A).await.is_some(), "the route is on");
}

#[tokio::test(start_paused = true)]
async fn production_that_moves_under_a_lane_is_told_and_scaling_it_is_no_move() {
    let desk = Desk::with(configured()).await;
    desk.run(DEPLOY, &lane("gray")).await;
    let moved = async |desk: &Desk| -> Vec<(String, Vec<String>)> {
        let lanes = desk.lanes().await;
        let services = lanes.into_iter().flat_map(|lane| lane.services);
        services.filter(|one| one.baseline_moved).map(|one| (one.service, one.moved)).collect()
    };
    assert_eq!(moved(&desk).await, []);
    desk.edit(
        "Deployment",
        "spring-cloud-a",
        json!([{ "op": "replace", "path": "/spec/replicas", "value": 3 }]),
    )
    .await;
    desk.edit("Deployment", "spring-cloud-a", json!([{ "op": "add", "path": "/spec/template/metadata/annotations", "value": { "kubectl.kubernetes.io/restartedAt": "now" } }])).await;
    assert_eq!(moved(&desk).await, [], "who scales or restarts production does not move it");
    // A manifest that nobody has deployed moves nothing: the cluster is what a lane falls back to.
    desk.home.edit(&service_file("spring-a"), "initialDelaySeconds: 10", "initialDelaySeconds: 11");
    assert_eq!(moved(&desk).await, []);
    let image =
        json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "a:9" }]);
    desk.edit("Deployment", "spring-cloud-a", image).await;
    desk.edit("ConfigMap", "spring-cloud-c", json!([{ "op": "add", "path": "/data/more", "value": "1" }]))
        .await;
    let expected = [
        ("spring-a".to_owned(), vec!["Deployment spring-cloud-a".to_owned()]),
        ("spring-c".to_owned(), vec!["ConfigMap spring-cloud-c".to_owned()]),
    ];
    assert_eq!(moved(&desk).await, expected);
    desk.settle(NAMESPACE).await;
    desk.run(DEPLOY, &lane("gray")).await;
    assert_eq!(moved(&desk).await, [], "a deploy is made over production as it is now");
}

#[tokio::test(start_paused = true)]
async fn what_hands_changed_or_deleted_is_told_and_mended_by_the_next_deploy() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    desk.edit("Deployment", A, json!([
        { "op": "replace", "path": "/spec/replicas", "value": 2 },
        { "op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": { "name": "DEBUG", "value": "1" } },
    ])).await;
    desk.delete("Service", "spring-cloud-a-base-mse-gray").await;
    let told = desk.lanes().await.remove(0).services.remove(0);
    assert_eq!(told.missing, ["Service spring-cloud-a-base-mse-gray"]);
    assert_eq!(told.edited.len(), 1, "{told:?}");
    for words in ["Deployment spring-cloud-a-mse-gray: spec.replicas", "env[DEBUG]", "by `kubectl-edit`"] {
        assert!(told.edited[0].contains(words), "{words}: {told:?}");
    }
    let (plan, _) = desk.run(DEPLOY, &lane("gray")).await;
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("was changed by hand (spec.replicas")
            && warning.ends_with("that is taken back")),
        "{:?}",
        plan.warnings
    );
    let live = desk.get("Deployment", A).await.expect("there");
    assert_eq!(live["spec"]["replicas"], 1);
    assert!(!live["spec"]["template"].to_string().contains("DEBUG"), "what was added is gone: {live}");
    let told = desk.lanes().await.remove(0).services.remove(0);
    assert_eq!((told.missing, told.edited), (Vec::new(), Vec::<String>::new()));
    // The last Deployment of a service goes by hand: what is left of it are orphans.
    desk.delete("Deployment", A).await;
    let lane = desk.lanes().await.remove(0);
    assert_eq!(lane.orphans.len(), 3, "{lane:?}");
    assert!(
        lane.notes.iter().any(|note| note.starts_with("orphans: Ingress spring-cloud-a-mse-gray")),
        "{lane:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn two_lanes_over_the_same_services_leave_each_other_alone() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    desk.run(DEPLOY, &lane("blue")).await;
    let tags: Vec<String> = desk.lanes().await.into_iter().map(|lane| lane.tag).collect();
    assert_eq!(tags, ["blue", "gray"]);
    desk.run(OFFLINE, &json!({ "tag": "gray" })).await;
    let lanes = desk.lanes().await;
    assert_eq!((lanes.len(), lanes[0].tag.as_str(), lanes[0].services.len()), (1, "blue", 2));
    assert!(lanes[0].route.is_some() && lanes[0].services.iter().all(|service| service.words().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_lane_goes_and_the_plan_says_what_stays() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    let absent = desk.refused(OFFLINE, &json!({ "tag": "gray", "services": ["spring-b"] })).await;
    assert_eq!(
        shown(&absent),
        "lane `gray` has no copy of `spring-b`\nhint: it holds `spring-a` and `spring-c`; `on_missing: pass` makes a missing one a success"
    );
    let part = json!({ "tag": "gray", "services": ["spring-a"] });
    desk.cluster.clear_requests();
    let (plan, _) = desk.run(OFFLINE, &part).await;
    assert_eq!(
        plan.warnings,
        [
            "lane `gray` keeps `spring-c`",
            "the lane's route goes: after that only marked requests meet what stays",
            "this cannot be undone: a lane that is down is deployed again, not brought back",
        ]
    );
    let kinds: Vec<String> =
        desk.wrote().iter().filter_map(|line| line.rsplit('/').nth(1).map(str::to_owned)).collect();
    assert_eq!(kinds, ["ingresses", "services", "deployments", "secrets"], "routes first");
    let lane = desk.lanes().await.remove(0);
    assert_eq!(lane.services.iter().map(|one| one.service.as_str()).collect::<Vec<_>>(), ["spring-c"]);
    let undone = desk.undo(OFFLINE, &part, &plan).await.expect("told");
    assert_eq!(undone.report, ["lane gray is not brought back: deploy it again"]);
}

/// Objects as Zadig leaves them: its labels, none of our annotations, and a Service that a person has renamed.
async fn zadigs_lane(desk: &Desk) {
    let labels = json!({ "zadigx-release-version": "gray", "zadigx-release-type": "mse-gray", "zadigx-release-service-name": "spring-c" });
    let mut live = desk.get("Deployment", "spring-cloud-c").await.expect("there");
    let mut pods = labels.clone();
    pods["app"] = "spring-cloud-c".into();
    pods["alicloud.service.tag"] = "gray".into();
    pods["msePilotCreateAppName"] = "spring-cloud-c".into();
    let mut selector = pods.clone();
    selector.as_object_mut().expect("a map").remove("msePilotCreateAppName");
    live["metadata"] = json!({ "name": C, "labels": labels });
    live["spec"]["selector"]["matchLabels"] = selector;
    live["spec"]["template"]["metadata"]["labels"] = pods.clone();
    live["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{ "name": "JAVA_HOME", "value": "/usr/lib/jvm/java-1.8-openjdk/jre" }, { "name": "ZADIG", "value": "1" }]);
    live.as_object_mut().expect("a map").remove("status");
    desk.create(&live, "aslan").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "by-hand", "labels": labels },
        "spec": { "selector": labels, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 20003 }] },
    });
    desk.create(&service, "aslan").await;
    desk.settle(NAMESPACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_another_tool_is_foreign_and_taken_over_only_where_one_says_so() {
    let desk = Desk::new().await;
    zadigs_lane(&desk).await;
    let lane = desk.lanes().await.remove(0);
    assert!(
        lane.foreign && lane.run.is_none() && lane.notes.iter().any(|note| note == "made by another tool")
    );
    let spec = json!({ "tag": "gray", "images": { "spring-c": "c:2" } });
    assert_eq!(
        shown(&desk.refused(DEPLOY, &spec).await),
        "refused: Deployment mse-customer/spring-cloud-c-mse-gray belongs to a lane that another tool made\nhint: `adopt: true` takes that lane over; else take it down with the tool that made it, or use another tag"
    );
    let mut adopting = spec.clone();
    adopting["adopt"] = true.into();
    let (plan, _) = desk.run(DEPLOY, &adopting).await;
    assert_eq!(changes(&plan), ["delete Service by-hand", "update Deployment spring-cloud-c-mse-gray"]);
    assert!(
        plan.warnings.iter().any(|warning| warning
            == "Deployment mse-customer/spring-cloud-c-mse-gray was made by another tool, and is taken over"),
        "{:?}",
        plan.warnings
    );
    let live = desk.get("Deployment", C).await.expect("there");
    assert!(
        !live["spec"]["template"].to_string().contains("ZADIG"),
        "what only the other tool had is gone: {live}"
    );
    let lane = desk.lanes().await.remove(0);
    assert!(!lane.foreign && lane.services[0].words().is_empty(), "{lane:?}");
    desk.refused(DEPLOY, &json!({ "tag": "spring", "images": { "nacos": "n:2" } })).await;
}

#[tokio::test(start_paused = true)]
async fn offline_takes_another_tools_lane_down_and_nothing_without_the_labels() {
    let desk = Desk::new().await;
    zadigs_lane(&desk).await;
    let labels = json!({ "zadigx-release-version": "gray", "zadigx-release-type": "blue-green" });
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "not-a-lanes", "labels": labels } });
    desk.create(&other, "aslan").await;
    let (plan, _) = desk.run(OFFLINE, &json!({ "tag": "gray" })).await;
    assert_eq!(changes(&plan), ["delete Deployment spring-cloud-c-mse-gray", "delete Service by-hand"]);
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.ends_with("Service mse-customer/by-hand was made by another tool"))
    );
    assert!(desk.get("ConfigMap", "not-a-lanes").await.is_some(), "another type's object stays");
}

fn leaky() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "leaky" },
        "spec": { "selector": { "app": "spring-cloud-c" }, "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

/// How many pods of a lane the cluster's own controller lists behind a Service.
async fn gray_behind(desk: &Desk, service: &str) -> usize {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let endpoints = desk.cluster.objects("endpoints", NAMESPACE);
    let found = endpoints.iter().find(|one| one["metadata"]["name"] == service).expect("there");
    let addresses =
        found.pointer("/subsets/0/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    addresses.iter().filter(|address| address["targetRef"]["name"].to_string().contains("-mse-gray")).count()
}

/// A Service that was not there when the lane was planned: what leaks is taken away again, and nobody gets a route to it.
#[tokio::test(start_paused = true)]
async fn a_leak_that_comes_after_the_plan_takes_the_pods_away_before_the_route_opens() {
    let desk = Desk::new().await;
    let plan = desk.plan(DEPLOY, &lane("gray")).await.expect("planned");
    desk.create(&leaky(), "kubectl").await;
    let met = desk.carry_out(DEPLOY, &lane("gray"), &plan).await.expect_err("met");
    let told = shown(&met);
    assert!(
        told.starts_with("Service leaky sends its requests to pods of Deployment spring-cloud-c-mse-gray, and did not when this was planned\n"),
        "{told}"
    );
    assert!(
        told.contains("  Deployment spring-cloud-c-mse-gray was scaled to 0, so that nobody meets it"),
        "{told}"
    );
    assert!(
        told.contains("hint: add `zadigx-release-version: original` to the selector of Service leaky"),
        "{told}"
    );
    assert!(desk.get("Ingress", A).await.is_none(), "no route was opened");
    assert_eq!(gray_behind(&desk, "leaky").await, 0, "nobody of the lane is met");
    // The control: where nobody looks any more, it leaks.
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    desk.create(&leaky(), "kubectl").await;
    assert_eq!(gray_behind(&desk, "leaky").await, 1);
}

fn aging(settings: &str) -> Home {
    let home = Home::new();
    home.edit(
        "config/environments/production.yaml",
        "services: ../services\n",
        &format!("services: ../services\n{settings}\n"),
    );
    home
}

#[tokio::test(start_paused = true)]
async fn a_lane_more_than_there_may_be_is_refused_and_the_others_are_named() {
    let desk = Desk::with(aging("max_lanes: 1\nttl: 8h")).await;
    desk.run(DEPLOY, &lane("gray")).await;
    let refused = desk.refused(DEPLOY, &lane("blue")).await;
    let lane_told = desk.lanes().await.remove(0);
    let (since, expires) = (lane_told.since.expect("known"), lane_told.expires.expect("known"));
    assert_eq!(
        shown(&refused),
        format!(
            "refused: production has 1 lane already, and `max_lanes` is 1\n  lane gray: since {since}, expires {expires}\nhint: take one of them down with mse-gray-offline, or raise `max_lanes` in the environment's file"
        )
    );
    desk.run(DEPLOY, &lane("gray")).await;
    // The control: without the setting the same deploy is made.
    desk.home.edit("config/environments/production.yaml", "max_lanes: 1\n", "");
    desk.run(DEPLOY, &lane("blue")).await;
}

/// Two new lanes that were planned at the same moment, and room for one: the second one is refused before its first write.
#[tokio::test(start_paused = true)]
async fn of_two_new_lanes_planned_at_one_moment_only_as_many_enter_as_there_may_be() {
    let desk = Desk::with(aging("max_lanes: 1")).await;
    let plans = [
        desk.plan(DEPLOY, &lane("gray")).await.expect("planned"),
        desk.plan(DEPLOY, &lane("blue")).await.expect("planned"),
    ];
    let (gray, blue) = (lane("gray"), lane("blue"));
    let (one, other) =
        tokio::join!(desk.carry_out(DEPLOY, &gray, &plans[0]), desk.carry_out(DEPLOY, &blue, &plans[1]));
    let (entered, refused) = match (one, other) {
        (Ok(_), Err(refused)) => ("gray", refused),
        (Err(refused), Ok(_)) => ("blue", refused),
        both => panic!("one enters, one does not: {both:?}"),
    };
    assert_eq!(refused.message, "refused: production has 1 lane already, and `max_lanes` is 1");
    assert!(!refused.details.iter().any(|detail| detail.contains("left to look at")), "{refused:?}");
    let lanes = desk.lanes().await;
    assert_eq!(lanes.iter().map(|lane| lane.tag.as_str()).collect::<Vec<_>>(), [entered]);
    let other = if entered == "gray" { "blue" } else { "gray" };
    assert!(!desk.wrote().iter().any(|line| line.contains(&format!("-mse-{other}"))), "{:?}", desk.wrote());
    // A lane that stands is no new one, however full it is.
    desk.run(DEPLOY, &lane(entered)).await;
    // The control: where the file says no number, both enter.
    let desk = Desk::with(aging("ttl: 8h")).await;
    let plans = [
        desk.plan(DEPLOY, &lane("gray")).await.expect("planned"),
        desk.plan(DEPLOY, &lane("blue")).await.expect("planned"),
    ];
    let (one, other) =
        tokio::join!(desk.carry_out(DEPLOY, &gray, &plans[0]), desk.carry_out(DEPLOY, &blue, &plans[1]));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!(desk.lanes().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn expired_lanes_go_together_and_those_that_were_renewed_stay() {
    let desk = Desk::with(aging("ttl: 8h")).await;
    let sweep = json!({ "expired": true });
    for tag in ["gray", "blue", "green"] {
        desk.run(DEPLOY, &lane(tag)).await;
    }
    let (nothing, outputs) = desk.run(OFFLINE, &sweep).await;
    assert_eq!(nothing.warnings, ["no lane of production has expired"]);
    assert_eq!(outputs.report, ["no lane had expired"]);
    tokio::time::advance(Duration::from_secs(7 * 3600)).await;
    let told = desk.renew("blue", "8h").await.expect("renewed");
    assert_eq!(told.objects.len(), 2);
    tokio::time::advance(Duration::from_secs(2 * 3600)).await;
    let notes: Vec<Vec<String>> = desk.lanes().await.into_iter().map(|lane| lane.notes).collect();
    assert!(
        notes[0].is_empty() && notes[1][0].starts_with("expired ") && notes[2][0].starts_with("expired "),
        "{notes:?}"
    );
    let plan = desk.plan(OFFLINE, &sweep).await.expect("planned");
    let named: Vec<&String> = plan.warnings.iter().filter(|warning| warning.starts_with("lane ")).collect();
    assert!(
        named.len() == 2 && named[0].starts_with("lane gray goes") && named[1].starts_with("lane green goes"),
        "{named:?}"
    );
    // One of them is renewed between the plan and its carrying out.
    desk.renew("green", "1h").await.expect("renewed");
    let outputs = desk.carry_out(OFFLINE, &sweep, &plan).await.expect("done");
    assert_eq!(outputs.values["lanes"], json!(["gray"]));
    assert!(outputs.report[1].starts_with("lane green was renewed meanwhile"), "{:?}", outputs.report);
    let tags: Vec<String> = desk.lanes().await.into_iter().map(|lane| lane.tag).collect();
    assert_eq!(tags, ["blue", "green"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_ttl_an_old_lane_is_named_and_never_taken_down() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    tokio::time::advance(Duration::from_secs(23 * 3600)).await;
    assert_eq!(desk.lanes().await[0].notes, Vec::<String>::new());
    tokio::time::advance(Duration::from_secs(2 * 3600)).await;
    let lane = desk.lanes().await.remove(0);
    assert_eq!(lane.expires, None);
    assert!(
        lane.notes[0].starts_with("up for 25h") && lane.notes[0].ends_with("longer than 24h00m"),
        "{lane:?}"
    );
    assert_eq!(
        shown(&desk.refused(OFFLINE, &json!({ "expired": true })).await),
        "refused: lanes of environment `production` never expire\nhint: write `ttl` in its file: without it nothing is taken down for its age"
    );
    desk.cluster.clear_requests();
    let refused = desk.renew("gray", "8h").await.expect_err("refused");
    assert_eq!(refused.message, "refused: lanes of environment `production` never expire");
    // A lane from before the setting has no end, and the sweep leaves it.
    desk.home.edit(
        "config/environments/production.yaml",
        "services: ../services\n",
        "services: ../services\nttl: 1h\n",
    );
    let lane = desk.lanes().await.remove(0);
    assert!(
        lane.notes.iter().any(|note| note == "never expires: it was made before `ttl` was written"),
        "{lane:?}"
    );
    assert_eq!(desk.plan(OFFLINE, &json!({ "expired": true })).await.expect("planned").changes, []);
    for (tag, length, words) in [
        ("gary", "8h", "production has no lane `gary`; did you mean `gray`?"),
        ("gray", "soon", "`soon` is no time to live"),
        ("gray", "0s", "`0s` is no time to live"),
    ] {
        let refused = desk.renew(tag, length).await.expect_err(tag);
        assert_eq!(refused.message, words);
    }
    assert_eq!(desk.wrote(), [] as [String; 0], "refused before the first write");
}

/// A service of the environment that lives in another namespace: its copy beside it, and everything else over both.
#[tokio::test(start_paused = true)]
async fn a_lane_spans_the_namespaces_of_its_services() {
    const OTHER: &str = "mse-other";
    let home = Home::new();
    home.edit(
        "config/environments/production.yaml",
        "  nacos: { gray: false }",
        "  spring-c: { namespace: mse-other }\n  nacos: { gray: false }",
    );
    let desk = Desk::with(home).await;
    let (plan, _) = desk.run(DEPLOY, &lane("gray")).await;
    assert!(
        plan.changes.iter().any(|change| change.object == format!("Deployment {OTHER}/{C}")),
        "{:?}",
        plan.changes
    );
    assert!(desk.api(OTHER, "Deployment").get_opt(C).await.expect("answered").is_some());
    assert!(
        desk.get("Deployment", C).await.is_none(),
        "nothing of it stands in the environment's own namespace"
    );
    let lane_told = desk.lanes().await.remove(0);
    let homes: Vec<Option<String>> =
        lane_told.services.iter().map(|service| service.namespace.clone()).collect();
    assert_eq!(homes, [None, Some(OTHER.to_owned())]);
    assert!(
        lane_told.orphans.is_empty() && lane_told.services.iter().all(|service| service.words().is_empty()),
        "{lane_told:?}"
    );
    let third = desk.plan(DEPLOY, &lane("gray")).await.expect("planned");
    assert_eq!(without_marks(changes(&third), &third), Vec::<String>::new());
    // A Service selects pods of its own namespace alone, and is judged so.
    let leaky = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "leaky", "namespace": namespace },
            "spec": { "selector": { "app": "spring-cloud-c" }, "ports": [{ "port": 80, "protocol": "TCP" }] },
        })
    };
    for (namespace, leaks) in [(NAMESPACE, false), (OTHER, true)] {
        let made = serde_json::from_value(leaky(namespace)).expect("an object");
        desk.api(namespace, "Service")
            .create(&kube::api::PostParams::default(), &made)
            .await
            .expect("created");
        let planned = desk.plan(DEPLOY, &lane("gray")).await;
        assert_eq!(planned.is_err(), leaks, "{namespace}: {planned:?}");
        desk.api(namespace, "Service")
            .delete("leaky", &kube::api::DeleteParams::default())
            .await
            .expect("deleted");
    }
    let (production, _) = desk.run("prod-deploy", &json!({ "images": { "spring-c": "c:9" } })).await;
    assert!(
        production.changes.iter().any(|change| change.object == format!("Deployment {OTHER}/spring-cloud-c"))
    );
    assert!(desk.get("Deployment", "spring-cloud-c").await.is_none());
    let moved: Vec<bool> = desk.lanes().await[0].services.iter().map(|one| one.baseline_moved).collect();
    assert_eq!(moved, [false, true]);
    desk.run(OFFLINE, &json!({ "tag": "gray" })).await;
    assert_eq!(desk.lanes().await, []);
    assert!(desk.api(OTHER, "Deployment").get_opt(C).await.expect("answered").is_none());
}

/// Each refusal, and what a user sees of it. Nothing was written before.
#[tokio::test(start_paused = true)]
async fn refusals_of_lanes_are_made_before_the_first_write() {
    let desk = Desk::new().await;
    desk.run(DEPLOY, &lane("gray")).await;
    let foreign = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "spring-cloud-a-base-mse-blue" },
        "spec": { "ports": [{ "port": 1, "protocol": "TCP" }], "selector": { "app": "nobody" } } });
    desk.create(&foreign, "kubectl").await;
    let table: &[(&str, &str, Value, &str)] = &[
        (
            "a service that takes no part",
            DEPLOY,
            json!({ "tag": "gray", "images": { "nacos": "nacos:2" } }),
            "refused: service `nacos` takes no part in lanes: its `gray` is false in environment `production`",
        ),
        (
            "somebody else's object under a lane's name",
            DEPLOY,
            lane("blue"),
            "refused: Service mse-customer/spring-cloud-a-base-mse-blue exists and does not belong to lane `blue`\nhint: use another tag, or remove the object",
        ),
        (
            "no such lane",
            OFFLINE,
            json!({ "tag": "gary" }),
            "there is no lane `gary` in mse-customer\nhint: there is `gray`; `on_missing: pass` makes a missing lane a success",
        ),
        (
            "the baseline as a lane",
            OFFLINE,
            json!({ "tag": "original" }),
            "refused: `original` means the baseline and cannot be a lane's tag",
        ),
        (
            "neither a tag nor an age",
            OFFLINE,
            json!({}),
            "the lane is not named\nhint: add `tag`, or `expired: true` for every lane whose time is up",
        ),
        (
            "both",
            OFFLINE,
            json!({ "tag": "gray", "expired": true }),
            "`tag` and `expired` say two things\nhint: keep `tag` or `expired`",
        ),
    ];
    for (what, kind, spec, words) in table {
        assert_eq!(shown(&desk.refused(kind, spec).await), *words, "{what}");
    }
}

const KEPT: &str = r#"name: release
inputs:
  tag: { type: string, default: gray }
  hold: { type: string, default: "0" }
tasks:
  deploy:
    type: mse-gray-deploy
    with: { environment: production, tag: "${{ inputs.tag }}", images: { spring-c: "c:2" } }
  verify:
    type: generic-verify
    needs: [deploy]
    with:
      environment: production
      tag: "${{ inputs.tag }}"
      checks:
        - name: soak
          job: { image: "soak:1", script: "echo begun\nsleep $SECONDS", env: { SECONDS: "${{ inputs.hold }}" } }
"#;

const SWEEP: &str = "name: mse-gray-workflow\ntasks:\n  sweep:\n    type: mse-gray-offline\n    with: { environment: production, expired: true, drain: 3s }\n";

/// A sweep takes every lane whose time is up, so it waits until no run holds one; and while it is at it, a run that needs one waits.
#[test]
fn a_sweep_of_expired_lanes_waits_for_the_runs_that_hold_lanes_and_they_for_it() {
    let home = aging("ttl: 8h");
    let _rehearsal = home.rehearsal("fast");
    home.write("workflows/kept.yaml", KEPT);
    home.write("workflows/sweep.yaml", SWEEP);
    let _daemon = home.serve(&[]);
    let tags = || {
        let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
        let tag = |lane: &Value| lane["tag"].as_str().expect("a tag").to_owned();
        lanes.as_array().expect("a list").iter().map(tag).collect::<Vec<_>>()
    };
    let newest = || home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).json();
    let begin = |arguments: &[&str]| {
        home.command(&[&["run"], arguments].concat()).stdout(Stdio::null()).spawn().expect("started")
    };
    home.graylane(&["run", "workflows/kept.yaml", "-i", "tag=old"]).expect(0);
    home.graylane(&["lanes", "renew", "old", "-e", "production", "--for", "1s"]).expect(0);
    until("the lane is old enough", || {
        home.graylane(&["lanes", "production"]).expect(0).stdout.contains("expired ")
    });

    let mut holds = begin(&["workflows/kept.yaml", "-i", "hold=4"]);
    until("the lane is being verified", || {
        newest()["inputs"]["hold"] == "4"
            && home.graylane(&["runs", "logs", "latest"]).stdout.contains("soak: begun")
    });
    let held = newest()["id"].as_str().expect("an id").to_owned();
    let mut sweeps = begin(&["workflows/sweep.yaml"]);
    until("the sweep waits for it", || {
        let sweep = newest();
        sweep["workflow"] == "mse-gray-workflow" && sweep.to_string().contains(&held)
    });
    assert_eq!(newest()["tasks"][0]["started_at"], Value::Null, "it has not begun");
    assert_eq!(tags(), ["gray", "old"], "nobody was taken down beside a run that holds a lane");
    assert!(holds.wait().expect("waited for").success());

    until("the sweep is at it", || newest()["tasks"][0]["started_at"] != Value::Null);
    let sweep = newest()["id"].as_str().expect("an id").to_owned();
    let mut waits = begin(&["workflows/kept.yaml", "-i", "tag=blue"]);
    until("the next lane waits for the sweep, or the sweep is over", || {
        let next = newest();
        next["workflow"] == "release" && (next.to_string().contains(&sweep) || tags() != ["gray", "old"])
    });
    assert!(sweeps.wait().expect("waited for").success());
    assert!(waits.wait().expect("waited for").success());
    assert_eq!(tags(), ["blue", "gray"], "what was old is gone, and nothing else");
}

/// A text without what differs with every run: its id, its times, and the widths of columns that follow from them.
fn settled(text: &str) -> String {
    let shown = |word: &str| {
        let is_time = word.len() >= 20 && word.starts_with("20") && word.ends_with('Z') && word.contains('T');
        let is_run = word.len() == 26 && word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
        if is_time {
            "TIME".to_owned()
        } else if is_run {
            "RUN".to_owned()
        } else {
            word.to_owned()
        }
    };
    let line = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        let cells = cells.map(|cell| cell.split(' ').map(shown).collect::<Vec<_>>().join(" "));
        cells.collect::<Vec<_>>().join(" | ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What a person sees of lanes, as it is printed.
#[test]
fn lanes_are_listed_and_drawn_as_a_person_reads_them() {
    let home = aging("ttl: 8h\nchain: [spring-a, spring-b, spring-c]");
    let _rehearsal = home.rehearsal("fast");
    let lane = "name: release\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    with:\n      environment: production\n      tag: gray\n      images: { spring-a: \"registry.example.com/shop/a:2\", spring-c: \"c:2\" }\n      entry: { service: spring-a, header: { name: x-user-id, value: \"100\" } }\n";
    home.write("workflows/lane.yaml", lane);
    home.graylane(&["run", "workflows/lane.yaml"]).expect(0);
    let shown = |arguments: &[&str]| settled(&home.graylane(arguments).expect(0).stdout);
    assert_eq!(shown(&["lanes", "production"]), LISTED);
    assert_eq!(shown(&["lanes", "production", "-o", "wide"]), LISTED_WIDE);
    assert_eq!(shown(&["lanes", "show", "gray", "-e", "production"]), DRAWN);
    home.edit("config/environments/production.yaml", "chain: [spring-a, spring-b, spring-c]\n", "");
    assert_eq!(shown(&["lanes", "show", "gray", "-e", "production"]), DRAWN_WITHOUT_ORDER);
    assert_eq!(shown(&["environment", "list"]), ENVIRONMENTS);
    assert_eq!(shown(&["environment", "list", "-o", "wide"]), ENVIRONMENTS_WIDE);
    let listed = home.graylane(&["environment", "list", "-o", "json"]).expect(0).json();
    assert_eq!(listed[0]["services"], json!(["spring-a", "spring-b", "spring-c"]));
    // One that is broken is in no list, and is told.
    home.edit("config/environments/production.yaml", "nacos: {", "nacso: {");
    let broken = home.graylane(&["environment", "list"]).expect(0);
    assert!(broken.stdout.contains("there is no environment"), "{broken:?}");
    let words = "environment `production` has no service `nacso` (did you mean `nacos`?)";
    assert!(broken.stderr.contains(words), "{broken:?}");
}

const LISTED: &str = "\
TAG | SERVICE | READY | IMAGE | ROUTE | SINCE | RUN | EXPIRES | NOTES
gray | spring-a | 1/1 | a:2 | x-user-id: 100 on example.com | TIME | RUN | TIME
spring-c | 1/1 | c:2";

const LISTED_WIDE: &str = "\
TAG | SERVICE | NAMESPACE | READY | IMAGE | ROUTE | SINCE | RUN | EXPIRES | NOTES
gray | spring-a | - | 1/1 | registry.example.com/shop/a:2 | x-user-id: 100 on example.com | TIME | RUN | TIME
spring-c | - | 1/1 | c:2";

const DRAWN: &str = "\
lane gray
since: TIME
run: RUN
expires: TIME

x-user-id: 100 on example.com
--> spring-a | gray | 1/1 ready, a:2
--> spring-b | baseline | 1/1 ready, spring-cloud-b:0.1-SNAPSHOT
--> spring-c | gray | 1/1 ready, c:2";

const DRAWN_WITHOUT_ORDER: &str = "\
lane gray
since: TIME
run: RUN
expires: TIME

x-user-id: 100 on example.com
--> spring-a | gray | 1/1 ready, a:2
spring-b | baseline | 1/1 ready, spring-cloud-b:0.1-SNAPSHOT
spring-c | gray | 1/1 ready, c:2

in which order the others are called is not known: `chain` in the environment's file says it";

const ENVIRONMENTS: &str = "\
NAME | CLUSTER | NAMESPACES | GATEWAY | SERVICES | TTL | MAX LANES | NOTES
production | rehearsal | mse-customer | mse | 3 and 1 shared | 8h | -";

const ENVIRONMENTS_WIDE: &str = "\
NAME | CLUSTER | NAMESPACES | GATEWAY | SERVICES | TTL | MAX LANES | WORKFLOWS | NOTES
production | rehearsal | mse-customer | mse | spring-a, spring-b, spring-c, nacos (shared) | 8h | - | release, mse-gray-workflow, prod-workflow";
