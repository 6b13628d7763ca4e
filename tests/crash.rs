//! The daemon dies in the middle, and comes back.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Output, Stdio};

use serde_json::Value;

use crate::support::{GRAY, Home, ask, shape, until};

/// What a lane is, without what differs from run to run.
fn lane(home: &Home) -> Value {
    let mut lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
    for lane in lanes.as_array_mut().expect("a list") {
        lane["run"] = Value::Null;
        lane["since"] = Value::Null;
    }
    lanes
}

/// A run in a process of its own, seen until a line of its progress holds these words.
struct Started {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Started {
    fn until(home: &Home, words: &str) -> Started {
        Started::with(home, &["run", "workflows/mse-gray-workflow.yaml"], words)
    }

    fn with(home: &Home, arguments: &[&str], words: &str) -> Started {
        let mut child =
            home.command(arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let seen = lines.by_ref().map_while(Result::ok).any(|line| line.contains(words));
        assert!(seen, "{words:?} was never seen");
        Started { child, lines }
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    /// What it still told, and how it ended.
    fn end(self) -> (Vec<String>, Output) {
        let told = self.lines.map_while(Result::ok).collect();
        (told, self.child.wait_with_output().expect("ended"))
    }
}

#[test]
fn kill_9_in_mid_rollout_and_the_same_end() {
    let undisturbed = Home::new();
    let _cluster = undisturbed.rehearsal("fast");
    undisturbed.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);

    let home = Home::new();
    let rehearsal = home.rehearsal("realistic");
    // The pods were just asked for, and are not up.
    Started::until(&home, "spring-cloud-c-mse-gray 0/1").kill();

    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(runs[0]["status"], "running", "looking does not make it go on");
    let resumed = home.graylane(&["resume"]).expect(0);
    assert!(resumed.stdout.contains("mse-gray-workflow succeeded"), "{}", resumed.stdout);
    assert_eq!(lane(&home), lane(&undisturbed));
    until("the gray user is on the lane", || {
        shape(&ask(&rehearsal.gateway, "/a", GRAY).body) == "Agray -> B -> Cgray"
    });

    let run = runs[0]["id"].as_str().expect("an id");
    let shown = home.graylane(&["runs", "show", run, "-o", "json"]).expect(0).json();
    assert_eq!(shown["tasks"][0]["attempt"], 1, "the attempt was entered again, not made anew: {shown}");
    let again = home.graylane(&["resume"]).expect(0);
    assert_eq!(again.stdout.trim(), "no run is unfinished");
    home.assert_no_secret();
}

#[test]
fn a_second_run_submits_to_the_first_and_both_are_seen() {
    let home = Home::new();
    let _cluster = home.rehearsal("realistic");
    let first = Started::until(&home, "starting gray pods");
    // The same lane: it waits for the first, and is told so.
    let second = home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down"]).expect(0);
    assert!(second.stdout.contains("mse-gray-workflow succeeded"), "{}", second.stdout);
    let (told, output) = first.end();
    assert_eq!(output.status.code(), Some(0), "{told:?}");
    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(runs.as_array().map(Vec::len), Some(2));
}

#[test]
fn ctrl_c_cancels_and_the_run_says_what_is_left() {
    let home = Home::new();
    let _cluster = home.rehearsal("realistic");
    let run = Started::until(&home, "starting gray pods");
    let pid = run.child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("sent");
    assert!(sent.success());
    let (told, output) = run.end();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told:?} {stdout}");
    assert!(told.iter().any(|line| line.contains("Ctrl-C again leaves the run to be resumed")), "{told:?}");
    assert!(stdout.contains("mse-gray-workflow cancelled"), "{stdout}");
    // What is told is what the cluster has: how far it came by then differs.
    assert!(stdout.contains("left to look at: "), "{stdout}");
}

#[test]
fn cancel_reaches_a_run_that_was_killed() {
    let home = Home::new();
    let _cluster = home.rehearsal("realistic");
    Started::until(&home, "starting gray pods").kill();
    let surprise = home
        .graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "mode=down", "-i", "tag=x"])
        .expect(4);
    assert!(surprise.stderr.contains("was cut off and is unfinished"), "{}", surprise.stderr);
    assert!(
        surprise.stderr.contains("`graylane resume` goes on with it, `graylane cancel"),
        "{}",
        surprise.stderr
    );
    let watched = home.graylane(&["runs", "follow", "latest"]).expect(4);
    assert!(watched.stderr.contains("nobody carries it on"), "{}", watched.stderr);
    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(
        (runs.as_array().map(Vec::len), &runs[0]["status"]),
        (Some(1), &"running".into()),
        "nothing moved"
    );
    let cancelled = home.graylane(&["cancel", "latest", "--reason", "wrong tag"]).expect(0);
    assert!(cancelled.stdout.contains("cancelled by ann: wrong tag"), "{}", cancelled.stdout);
    let again = home.graylane(&["cancel", "latest"]).expect(2);
    assert!(again.stderr.contains("has ended already: cancelled"), "{}", again.stderr);
}

/// Yesterday's plan is not written over what an operator mended in the night.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_promotion_leaves_a_hot_fix_alone() {
    let home = Home::new();
    let rehearsal = home.rehearsal("realistic");
    let arguments = ["run", "workflows/prod-workflow.yaml", "-i", "images.spring-c=c:v2"];
    Started::with(&home, &arguments, "spring-cloud-c 1/1").kill();

    let client = rehearsal.client().await;
    let deployments: kube::Api<k8s_openapi::api::apps::v1::Deployment> =
        kube::Api::namespaced(client, "mse-customer");
    let patch = serde_json::json!({ "spec": { "template": { "spec": { "containers": [{ "name": "spring-cloud-c", "image": "c:hotfix" }] } } } });
    let patch = kube::api::Patch::Strategic(patch);
    deployments.patch("spring-cloud-c", &kube::api::PatchParams::default(), &patch).await.expect("patched");

    let held = home.graylane(&["resume"]).expect(4);
    let words = "Deployment spring-cloud-c was changed by somebody else since it was planned";
    assert!(held.stderr.contains(words), "{held:?}");
    assert!(held.stderr.contains("graylane answer") && held.stderr.contains("retry"), "{held:?}");
    home.graylane(&["answer", "latest", "fail", "--comment", "the hot fix stays"]).expect(0);
    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(runs[0]["status"], "failed");
    let live = deployments.get("spring-cloud-c").await.expect("there");
    let image =
        live.spec.and_then(|spec| spec.template.spec).and_then(|spec| spec.containers[0].image.clone());
    assert_eq!(image.as_deref(), Some("c:hotfix"));
}

#[test]
fn an_undo_that_died_while_draining_drains_again_before_pods_go() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    // The route is closed, and requests that it let in may be under way.
    Started::with(&home, &["undo", "latest"], "draining for").kill();
    let (told, output) = Started::with(&home, &["resume"], "draining for").end();
    assert!(output.status.success(), "{told:?} {output:?}");
    let undo = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json()[0]["id"].clone();
    let undo = home.graylane(&["runs", "show", undo.as_str().expect("an id"), "-o", "json"]).expect(0).json();
    let steps = undo["tasks"].as_array().expect("tasks").iter().find(|task| task["name"] == "deploy");
    let steps = &steps.expect("there")["attempts"][0]["steps"];
    let told: Vec<String> = steps
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| step["what"].as_str().expect("a text").to_owned())
        .collect();
    let at = |words: &str| {
        told.iter().rposition(|step| step.contains(words)).unwrap_or_else(|| panic!("{told:?}"))
    };
    assert!(at("entered again") < at("draining for") && at("draining for") < at("drained"), "{told:?}");
    assert_eq!(told.iter().filter(|step| *step == "drained").count(), 1, "{told:?}");
}
