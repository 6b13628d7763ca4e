//! The seed's story, judged on traffic, with its controls.

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::support::stage::{
    CONFIG_MAPS, DEPLOYMENTS, INGRESSES, Kind, LOADED, PLAIN, PODS, SECRETS, SERVICES, Stage, Wants, on_both,
    on_each, on_the_rehearsal,
};
use crate::support::{GRAY, Home, Load, ask, shape, until};

const BASELINE: &str = "A -> B -> C";
const LANE: &str = "Agray -> B -> Cgray";
const NEW_A: &str = "images.spring-a=registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.2-SNAPSHOT";
const NEW_C: &str = "images.spring-c=registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.2-SNAPSHOT";

const KINDS: [Kind; 6] = [DEPLOYMENTS, SERVICES, INGRESSES, CONFIG_MAPS, SECRETS, PODS];

/// Everything that carries a lane label.
async fn lane_objects(stage: &Stage) -> Vec<String> {
    let mut found = Vec::new();
    for kind in KINDS {
        let list = stage.list(kind, "zadigx-release-type=mse-gray").await;
        found.extend(list.iter().map(|object| format!("{} {}", kind.1, object["metadata"]["name"])));
    }
    found
}

fn answers(stage: &Stage, headers: &[(&str, &str)], count: usize, wanted: &str) -> usize {
    let right = |_: &usize| {
        let answer = ask(&stage.gateway, "/a", headers);
        answer.status == 200 && shape(&answer.body) == wanted
    };
    (0..count).filter(right).count()
}

/// The whole article, with realistic delays and under steady load.
#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_story_judged_on_traffic() {
    on_both(LOADED, seeds_story).await;
}

/// What the article tells, on whatever stage.
pub(crate) async fn seeds_story(stage: &Stage) {
    let home = &stage.home;
    until("the baseline answers", || ask(&stage.gateway, "/a", &[]).status == 200);
    assert_eq!(answers(stage, GRAY, 20, BASELINE), 20, "without a lane everybody meets the baseline");
    let load = Load::start(&stage.gateway);

    let up = home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", NEW_A, "-i", NEW_C]).expect(0);
    assert!(
        up.stdout.contains("the gray user stays on the lane: 20 of 20, for example Agray["),
        "{}",
        up.stdout
    );
    assert_eq!(answers(stage, &[], 200, BASELINE), 200, "nobody else meets the lane");
    assert_eq!(answers(stage, GRAY, 200, LANE), 200, "the gray user stays on it");
    assert_eq!(answers(stage, &[("x-user-id", "101")], 20, BASELINE), 20);
    let chain = ask(&stage.gateway, "/a", GRAY).chain;
    assert!(
        chain.contains("spring-cloud-a:0.2-SNAPSHOT") && chain.contains("spring-cloud-b:0.1-SNAPSHOT"),
        "{chain}"
    );

    let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
    assert_eq!(lanes[0]["tag"], "gray");
    assert_eq!(lanes[0]["services"].as_array().map(Vec::len), Some(2));
    assert_eq!(lanes[0]["route"], "x-user-id: 100 on example.com");
    assert_eq!(lanes[0]["orphans"], json!([]));

    stage.look("the lane is up").await;
    home.graylane(&["run", "workflows/prod-workflow.yaml", "-i", NEW_A, "-i", NEW_C]).expect(0);
    stage.look("promoted").await;
    // An old pod answers until its time to end is over.
    until("the new images answer everybody", || {
        let new = |_| {
            let chain = ask(&stage.gateway, "/a", &[]).chain;
            chain.contains("spring-cloud-a:0.2-SNAPSHOT") && chain.contains("spring-cloud-c:0.2-SNAPSHOT")
        };
        (0..20).all(new)
    });
    assert_eq!(answers(stage, GRAY, 20, LANE), 20, "promotion leaves the lane alone");

    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down"]).expect(0);
    assert_eq!(lane_objects(stage).await, Vec::<String>::new(), "nothing carries a lane label any more");
    assert_eq!(answers(stage, GRAY, 20, BASELINE), 20);

    let met = load.stop();
    for (user, allowed) in [(0, &[BASELINE][..]), (1, &[BASELINE, LANE][..])] {
        for (answer, count) in &met[user] {
            let fine = allowed.iter().any(|shape| *answer == format!("200 {shape}"));
            assert!(fine, "user {user} met {answer:?} {count} times: {met:?}");
        }
    }
    assert!(met[1].get(&format!("200 {LANE}")).is_some_and(|count| *count > 50), "{met:?}");
    home.assert_no_secret();
}

/// The control of "not one request fails": the same lane, its pods deleted while the route is on.
#[tokio::test(flavor = "multi_thread")]
async fn control_without_a_drain_requests_fail() {
    on_the_rehearsal(Wants { delays: "realistic", ..PLAIN }, async |stage| {
        let home = &stage.home;
        home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
        assert_eq!(answers(stage, GRAY, 20, LANE), 20);
        let load = Load::with(&stage.gateway, &[GRAY, GRAY, GRAY]);
        // The pods go at once, as with no drain and no time to end: the route still leads to them.
        let deployments = stage.api(DEPLOYMENTS);
        deployments.delete("spring-cloud-a-mse-gray", &DeleteParams::background()).await.expect("deleted");
        let pods = stage.api(PODS);
        let gray = ListParams::default().labels("zadigx-release-type=mse-gray");
        pods.delete_collection(&DeleteParams::default().grace_period(0), &gray).await.expect("deleted");
        until("the gateway has noticed", || {
            let answer = ask(&stage.gateway, "/a", GRAY);
            answer.status == 200 && !answer.body.starts_with("Agray")
        });
        let failed: u64 = load
            .stop()
            .iter()
            .flatten()
            .filter(|(answer, _)| !answer.starts_with("200 "))
            .map(|(_, n)| n)
            .sum();
        assert!(failed > 0, "a pod that goes while the route is on must cost requests");
    })
    .await;
}

/// The control of the leak test: what it refuses does leak, and over a tenth of the baseline's answers are gray.
#[tokio::test(flavor = "multi_thread")]
async fn control_without_the_leak_test_the_baseline_answers_gray() {
    // Whose a selector is after somebody has narrowed it differs between versions of the server.
    on_each(PLAIN, async |stage| {
    let home = &stage.home;
    // As the vendor's own chart has it: the Service selects by `app` alone.
    let services = stage.api(SERVICES);
    let patch = json!([{ "op": "replace", "path": "/spec/selector", "value": { "app": "spring-cloud-a" } }]);
    let patch: Patch<serde_json::Value> = Patch::Json(serde_json::from_value(patch).expect("a patch"));
    services.patch("spring-cloud-a-base", &PatchParams::default(), &patch).await.expect("patched");

    let refused = home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(1);
    let words = "Service spring-cloud-a-base would send its requests to the pods of Deployment spring-cloud-a-mse-gray";
    assert!(refused.stdout.contains(words), "{}", refused.stdout);
    assert!(
        refused.stdout.contains("add `zadigx-release-version: original` to the selector"),
        "{}",
        refused.stdout
    );
    assert_eq!(lane_objects(stage).await, Vec::<String>::new(), "refused before anything was written");
    let planned = home.graylane(&["plan", "workflows/mse-gray-workflow.yaml"]).expect(2);
    assert!(planned.stdout.contains(words), "{}", planned.stdout);

    // The guard off: the same objects, applied by hand.
    let rendered = home.graylane(&["render", "spring-a", "-e", "production", "-o", "json"]).expect(0).json();
    for object in rendered.as_array().expect("a list") {
        let kind = object["kind"].as_str().expect("a kind");
        let kind = KINDS.into_iter().find(|known| known.1 == kind).expect("known");
        let name = object["metadata"]["name"].as_str().expect("a name");
        let mut object = object.clone();
        if kind == SECRETS {
            object["data"] = json!({ "token": "eA==" });
        }
        let target = stage.api(kind);
        target.patch(name, &PatchParams::apply("by-hand"), &Patch::Apply(&object)).await.expect("applied");
    }
    until("the gray pod answers the baseline's users", || {
        let gray = (0..10).filter(|_| ask(&stage.gateway, "/a", &[]).body.starts_with("Agray")).count();
        gray > 0
    });
    let gray = (0..200).filter(|_| ask(&stage.gateway, "/a", &[]).body.starts_with("Agray")).count();
    assert!(gray > 20, "over a tenth of the baseline's answers are gray, not {gray} of 200");
    })
    .await;
}

/// Today's deploy and tomorrow's offline meet one cluster, also without a process between them.
#[test]
fn the_whole_release_in_one_command_and_a_lane_that_waits_for_tomorrow() {
    let home = Home::new();
    let ran = home.graylane(&["run", "workflows/release.yaml"]).expect(0);
    for words in [
        "release succeeded in",
        "the gray user stays on the lane: 20 of 20, for example Agray[",
        "everyone else never meets it: 20 of 20, for example A[",
        "production spring-a: registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a@sha256:",
        "lane gray: 5 objects removed",
        "look again: graylane runs show",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert!(ran.stderr.contains("rehearsal cluster: starting the baseline of production"), "{}", ran.stderr);

    home.graylane(&["run", "workflows/release.yaml", "-i", "keep=true", "-i", "tag=007"]).expect(0);
    let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
    assert_eq!(lanes[0]["tag"], "007", "a tag is a text");
    let missing = home
        .graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down", "-i", "tag=gary"])
        .expect(1);
    assert!(
        missing.stdout.contains("there is no lane `gary`") && missing.stdout.contains("there is `007`"),
        "{}",
        missing.stdout
    );
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down", "-i", "tag=007"]).expect(0);
    let text = home.graylane(&["lanes", "production"]).expect(0);
    assert_eq!(text.stdout.trim(), "production has no lanes");

    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(runs.as_array().map(Vec::len), Some(4));
    let shown = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).json();
    assert_eq!(shown["status"], "succeeded");
    let logs = home.graylane(&["runs", "logs", "latest"]).expect(0);
    assert!(logs.stdout.contains("deleted Ingress spring-cloud-a-mse-007"), "{}", logs.stdout);
    home.assert_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_lane_again_is_updated_in_place_and_the_plan_says_so() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
        let first = stage.get(DEPLOYMENTS, "spring-cloud-c-mse-gray").await.expect("there");
        let image = ["workflows/mse-gray-workflow.yaml", "-i", "images.spring-c=c:v9"];
        let plan = home.graylane(&[&["plan"], &image[..]].concat()).expect(0).stdout;
        for words in [
            &stage.named("~ update Deployment mse-customer/spring-cloud-c-mse-gray"),
            "image: c:v9",
            "`spring-a` stays in the lane with 4 objects: it is not part of this deploy",
            "nothing was changed",
        ] {
            assert!(plan.contains(words), "{words}: {plan}");
        }
        home.graylane(&[&["run"], &image[..]].concat()).expect(0);
        let second = stage.get(DEPLOYMENTS, "spring-cloud-c-mse-gray").await.expect("there");
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"], "updated in place");
        let created = "/metadata/annotations/graylane.dev~1created";
        assert_eq!(second.pointer(created), first.pointer(created), "the lane is as old as it was");
        let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
        assert_eq!(lanes[0]["services"][1]["images"]["spring-cloud-c"], "c:v9");
        assert_eq!(lanes[0]["services"][0]["service"], "spring-a");
    })
    .await;
}

/// A gray pod without the agent is in the registry without its mark: everybody would meet it.
#[tokio::test(flavor = "multi_thread")]
async fn gray_pods_without_the_agent_are_scaled_to_0_and_never_met() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(stage.client());
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "mse-enable": null } } }));
        namespaces.patch(&stage.namespace, &PatchParams::default(), &patch).await.expect("patched");

        let ran = home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(1);
        for words in [
            "carries no MSE agent",
            "was scaled to 0, so that nobody meets it",
            "label the namespace `mse-enable=enabled`",
        ] {
            assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
        }
        let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
        assert_eq!(lanes[0]["route"], json!(null), "the route was never opened: {lanes}");
        let scaled =
            lanes[0]["services"].as_array().expect("a list").iter().all(|service| service["replicas"] == 0);
        assert!(scaled, "{lanes}");
    })
    .await;
}
