//! What people can say to a release: yes, no, wait, take it back. Judged on the cluster and on traffic, on both clusters.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::stage::{LOADED, PLAIN, Stage, on_both};
use crate::support::{GRAY, Home, Load, Ran, ask, shape, until};

const BASELINE: &str = "A -> B -> C";
/// The tag of the images that production begins with.
const OLD: &str = "0.1-SNAPSHOT";
const LANE: &str = "Agray -> B -> Cgray";

async fn deployments(stage: &Stage) -> Api<Deployment> {
    Api::namespaced(stage.client(), &stage.namespace)
}

async fn image(stage: &Stage, name: &str) -> String {
    let found = deployments(stage).await.get(name).await.expect("there");
    let spec = found.spec.and_then(|spec| spec.template.spec).expect("a template");
    let image = spec.containers[0].image.clone().unwrap_or_default();
    image.rsplit(':').next().unwrap_or_default().to_owned()
}

async fn gray_copies(stage: &Stage) -> Vec<String> {
    let lane = ListParams::default().labels("zadigx-release-type=mse-gray");
    let found = deployments(stage).await.list(&lane).await.expect("listed");
    found.items.into_iter().filter_map(|object| object.metadata.name).collect()
}

fn shown(home: &Home, run: &str) -> Value {
    home.graylane(&["runs", "show", run, "-o", "json"]).expect(0).json()
}

fn of(list: &Value, at: usize) -> String {
    list[at]["id"].as_str().expect("an id").to_owned()
}

fn runs(home: &Home) -> Value {
    home.graylane(&["runs", "list", "-o", "json"]).expect(0).json()
}

/// As another person.
fn as_person(home: &Home, name: &str, arguments: &[&str]) -> Ran {
    let output = home.command(arguments).env("USER", name).output().expect("started");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The release of the example whose verify cannot pass: the lane was up, and users were on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_verify_fails_takes_its_lane_back_and_costs_nobody_a_request() {
    on_both(LOADED, async |stage| {
        let home = &stage.home;
        home.edit("workflows/release.yaml", "-> C${{ inputs.tag }}\\[", "-> Cnever\\[");
        until("the baseline answers", || ask(&stage.gateway, "/a", &[]).status == 200);
        let load = Load::start(&stage.gateway);
        let failed = home.graylane(&["run", "workflows/release.yaml"]).expect(1);
        assert!(failed.stderr.contains("what it changed is taken back by run"), "{failed:?}");
        assert_eq!(gray_copies(stage).await, Vec::<String>::new());
        let met = load.stop();
        for answer in met.iter().flat_map(|user| user.keys()) {
            assert!([format!("200 {BASELINE}"), format!("200 {LANE}")].contains(answer), "{met:?}");
        }

        let list = runs(home);
        assert_eq!((&list[0]["status"], &list[1]["status"]), (&"succeeded".into(), &"failed".into()));
        assert_eq!((&list[0]["trigger"], &list[0]["actor"]), (&"undo".into(), &"graylane".into()));
        let (undo, release) = (shown(home, &of(&list, 0)), shown(home, &of(&list, 1)));
        assert_eq!(release["undone_by"], undo["id"]);
        assert_eq!(undo["origin"], json!({ "kind": "undo", "of": release["id"] , "force": false }));
        let again = home.graylane(&["retry", &of(&list, 1)]).expect(2);
        assert!(again.stderr.contains("was taken back by run"), "{again:?}");
        home.assert_no_secret();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_taken_back_days_later_unless_somebody_else_wrote_since() {
    on_both(PLAIN, async |stage| {
    let home = &stage.home;
    home.graylane(&["run", "workflows/release.yaml", "-i", "keep=true"]).expect(0);
    let release = of(&runs(home), 0);
    assert_ne!(image(stage, "spring-cloud-a").await, OLD);
    stage.look("released, and the lane is up").await;

    // An operator has mended production meanwhile.
    let fix = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "spring-cloud-a", "image": "a:hotfix" }] } } } });
    let api = deployments(stage).await;
    api.patch("spring-cloud-a", &PatchParams::default(), &Patch::Strategic(fix)).await.expect("patched");
    let refused = home.graylane(&["undo", &release]).expect(1);
    assert!(
        refused.stdout.contains(
            "refused: Deployment spring-cloud-a was changed by somebody else since the run wrote it"
        ),
        "{refused:?}"
    );
    assert_eq!(image(stage, "spring-cloud-a").await, "hotfix");
    assert_ne!(image(stage, "spring-cloud-c").await, OLD, "refused before the first write");
    assert_eq!(gray_copies(stage).await, Vec::<String>::new(), "the lane is nobody else's, and goes");

    let command = format!("`graylane undo {release} --force` overwrites it");
    assert!(refused.stdout.contains(&command), "the hint can be typed as it stands: {refused:?}");
    let forced = home.graylane(&["undo", &release, "--force"]).expect(0);
    assert!(forced.stdout.contains("somebody else's change is overwritten"), "{forced:?}");
    assert!(forced.stdout.contains("a:hotfix"), "what is overwritten is shown: {forced:?}");
    for name in ["spring-cloud-a", "spring-cloud-c"] {
        assert_eq!(image(stage, name).await, OLD);
    }
    until("the baseline answers", || shape(&ask(&stage.gateway, "/a", GRAY).body) == BASELINE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_updated_in_place_goes_back_to_what_it_was() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
        let before = image(stage, "spring-cloud-a-mse-gray").await;
        let newer = "images.spring-a=registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.3-SNAPSHOT";
        let keep = "images.spring-b=registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-b:0.3-SNAPSHOT";
        let skip = ["run", "workflows/mse-gray-workflow.yaml", "--skip", "verify", "-i", newer, "-i", keep];
        home.graylane(&skip).expect(0);
        assert_eq!(image(stage, "spring-cloud-a-mse-gray").await, "0.3-SNAPSHOT");
        stage.look("updated in place").await;
        assert!(gray_copies(stage).await.contains(&"spring-cloud-b-mse-gray".to_owned()));

        home.graylane(&["undo", "latest"]).expect(0);
        assert_eq!(image(stage, "spring-cloud-a-mse-gray").await, before);
        let left = gray_copies(stage).await;
        assert!(!left.contains(&"spring-cloud-b-mse-gray".to_owned()), "what it created is gone: {left:?}");
        until("the gray user is on the lane as it was", || {
            shape(&ask(&stage.gateway, "/a", GRAY).body) == LANE
        });
    })
    .await;
}

const APPROVAL: &str = "  approve:\n    type: approval\n    needs: [verify]\n    with: { message: promote it?, from: [bob, \"role:sre\"] }\n  promote:\n    type: prod-deploy\n    needs: [approve]\n";

fn with_approval(home: &Home) {
    home.edit("workflows/release.yaml", "  promote:\n    type: prod-deploy\n    needs: [verify]\n", APPROVAL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_until_somebody_else_has_agreed_to_its_plan() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        with_approval(home);
        let waits = home.graylane(&["run", "workflows/release.yaml"]).expect(4);
        assert!(
            waits.stderr.contains("promote it?") && waits.stderr.contains("graylane approve"),
            "{waits:?}"
        );
        assert_eq!(image(stage, "spring-cloud-a").await, OLD, "nothing is promoted yet");
        let view = shown(home, "latest");
        assert_eq!(view["status"], "waiting");
        let plan = view["tasks"].as_array().expect("tasks").iter().find(|task| task["name"] == "approve");
        let plan = plan.expect("there")["asks"]["plans"]["promote"].as_str().expect("a plan").to_owned();
        let seen = home.graylane(&["runs", "plan", &plan]).expect(0);
        assert!(
            seen.stdout.contains(&stage.named("~ update Deployment mse-customer/spring-cloud-a")),
            "{seen:?}"
        );

        for (who, words) in
            [("ann", "ann may not answer: it is up to bob, role:sre"), ("cat", "cat may not answer")]
        {
            let refused = as_person(home, who, &["approve", "latest"]).expect(2);
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
        let agreed = as_person(home, "bob", &["approve", "latest", "-c", "looks right"]).expect(0);
        assert!(agreed.stdout.contains("`graylane resume` does"), "{agreed:?}");
        let resumed = home.graylane(&["resume"]).expect(0);
        assert!(resumed.stdout.contains("release succeeded"), "{resumed:?}");
        assert_ne!(image(stage, "spring-cloud-a").await, OLD);
        let view = shown(home, "latest");
        let promote = view["tasks"].as_array().expect("tasks").iter().find(|task| task["name"] == "promote");
        assert_eq!(promote.expect("there")["plan"], plan.as_str(), "what was agreed to is what was done");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_takes_the_lane_back_and_a_protected_environment_takes_no_mere_name() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        with_approval(home);
        home.edit("config/environments/production.yaml", "allow:", "protected: true\nallow:");
        home.graylane(&["run", "workflows/release.yaml"]).expect(4);
        let refused = as_person(home, "bob", &["approve", "latest"]).expect(2);
        assert!(refused.stderr.contains("the environment `production` is protected"), "{refused:?}");
        home.edit("config/environments/production.yaml", "protected: true\n", "");
        home.graylane(&["cancel", "latest"]).expect(0);
        assert_eq!(gray_copies(stage).await, Vec::<String>::new(), "a cancel is followed by the undo too");

        home.graylane(&["run", "workflows/release.yaml"]).expect(4);
        let no = as_person(home, "bob", &["reject", "latest", "-c", "not today"]).expect(0);
        assert!(no.stdout.contains("rejected"), "{no:?}");
        home.graylane(&["resume"]).expect(0);
        assert_eq!(gray_copies(stage).await, Vec::<String>::new());
        let list = runs(home);
        assert_eq!((&list[0]["trigger"], &list[0]["status"]), (&"undo".into(), &"succeeded".into()));
        let released = shown(home, &of(&list, 1));
        assert!(released.to_string().contains("rejected by bob: not today"), "{released}");
    })
    .await;
}

async fn scale(stage: &Stage, name: &str, replicas: u32) {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments(stage).await.patch(name, &PatchParams::default(), &patch).await.expect("patched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verify_is_held_mended_by_an_operator_and_retried() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        home.edit(
            "workflows/release.yaml",
            "    type: generic-verify\n",
            "    type: generic-verify\n    on_failure: hold\n",
        );
        until("the baseline answers", || shape(&ask(&stage.gateway, "/a", &[]).body) == BASELINE);
        scale(stage, "spring-cloud-b", 0).await;
        let held = home.graylane(&["run", "workflows/release.yaml"]).expect(4);
        assert!(
            held.stderr.contains("verify is held until") && held.stderr.contains("graylane answer"),
            "{held:?}"
        );
        scale(stage, "spring-cloud-b", 1).await;
        until("the baseline answers again", || shape(&ask(&stage.gateway, "/a", &[]).body) == BASELINE);
        home.graylane(&["answer", "latest", "retry", "-c", "b was down"]).expect(0);
        let resumed = home.graylane(&["resume"]).expect(0);
        assert!(resumed.stdout.contains("release succeeded"), "{resumed:?}");
        assert_ne!(image(stage, "spring-cloud-c").await, OLD);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_what_succeeded_and_a_rerun_does_all_of_it() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        home.edit("workflows/release.yaml", "undo: on-failure", "undo: never");
        home.edit("workflows/release.yaml", "-> C${{ inputs.tag }}\\[", "-> C${{ vars.shape }}\\[");
        home.edit("config/graylane.yaml", "vars: {}", "vars: { shape: never }");
        home.graylane(&["run", "workflows/release.yaml"]).expect(1);
        assert_eq!(gray_copies(stage).await.len(), 2, "nothing is taken back");
        let release = of(&runs(home), 0);
        let only = ["plan", "workflows/release.yaml", "--only", "promote", "--from", &release];
        let planned = home.graylane(&only).expect(0);
        assert!(
            planned.stdout.contains(&stage.named("~ update Deployment mse-customer/spring-cloud-a")),
            "{planned:?}"
        );
        let retried = home.graylane(&["retry", &release]).expect(1);
        assert!(retried.stderr.contains("kept, and not done again: deploy"), "{retried:?}");
        let list = runs(home);
        assert_eq!(shown(home, &of(&list, 0))["origin"], json!({ "kind": "retry", "of": release }));
        let latest = home.graylane(&["rerun", &release, "--latest", "workflows/release.yaml"]);
        assert_eq!(latest.code, 1, "the settings still say what cannot be: {latest:?}");
        home.edit("config/graylane.yaml", "shape: never", "shape: gray");
        home.graylane(&["rerun", &release, "--latest", "workflows/release.yaml"]).expect(0);
        assert_ne!(image(stage, "spring-cloud-a").await, OLD);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_once_lists_what_stays_and_an_undo_takes_it_back() {
    on_both(PLAIN, async |stage| {
        let home = &stage.home;
        with_approval(home);
        home.graylane(&["run", "workflows/release.yaml"]).expect(4);
        let cancelled = home.graylane(&["cancel", "latest", "--now"]).expect(0);
        let words = &stage.named("Deployment mse-customer/spring-cloud-a-mse-gray was created by deploy");
        assert!(
            cancelled.stderr.contains(words) && cancelled.stderr.contains("graylane undo"),
            "{cancelled:?}"
        );
        assert!(!cancelled.stderr.contains("safe point"), "{cancelled:?}");
        assert_eq!(gray_copies(stage).await.len(), 2, "nothing is taken back");
        let later = home.graylane(&["runs", "show", "latest"]).expect(0).stdout;
        assert!(later.contains(words) && later.contains("left as it is:"), "it is told later too: {later}");
        home.graylane(&["undo", "latest"]).expect(0);
        let taken_back = home.graylane(&["runs", "show", "latest"]).expect(0).stdout;
        assert!(!taken_back.contains("left as it is:"), "{taken_back}");
        assert_eq!(gray_copies(stage).await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_environment_holds_what_would_be_deployed() {
    on_both(PLAIN, async |stage| {
    let home = &stage.home;
    let environment = "config/environments/production.yaml";
    let freeze = "freeze: [{ from: \"2020-01-01T00:00:00Z\", until: \"2120-01-01T00:00:00+08:00\", reason: holidays }]\nallow:";
    home.edit(environment, "allow:", freeze);
    let held = home.graylane(&["run", "workflows/release.yaml"]).expect(4);
    let words = "environment `production` is frozen until 2120-01-01T00:00:00+08:00: holidays";
    assert!(held.stderr.contains(words) && held.stderr.contains("graylane answer"), "{held:?}");
    assert_eq!(gray_copies(stage).await, Vec::<String>::new(), "held before the first write");
    let planned = home.graylane(&["plan", "workflows/release.yaml"]).expect(2);
    assert!(planned.stdout.contains(words), "{planned:?}");
    home.graylane(&["answer", "latest", "fail"]).expect(0);
    // The control: outside the window nobody is stopped.
    home.edit(environment, "2120-01-01T00:00:00+08:00", "2020-01-02T00:00:00Z");
    home.graylane(&["run", "workflows/release.yaml"]).expect(0);
    })
    .await;
}
