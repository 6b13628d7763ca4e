//! Checks of every kind, and promotion of what they found right: on the rehearsal, with real traffic and a real HTTP server.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::{Home, Rehearsal, until};

const ENVIRONMENT: &str = "config/environments/production.yaml";

/// A lane with these checks over it; `promote` follows where an image is given.
fn workflow(home: &Home, checks: &str, more: &str) {
    let text = format!(
        "name: release\ninputs:\n  tag: {{ type: string, default: gray }}\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    with:\n      environment: production\n      tag: gray\n      images: {{ spring-c: \"c:0.2\" }}\n  verify:\n    type: generic-verify\n    needs: [deploy]\n    with:\n      environment: production\n      tag: gray\n      checks:\n{checks}{more}"
    );
    home.write("workflows/checks.yaml", &text);
}

fn operator(home: &Home, more: &str) {
    home.edit(ENVIRONMENT, "allow: {", &format!("{more}\nallow: {{"));
}

async fn left(rehearsal: &Rehearsal, group: &str, version: &str, kind: &str) -> Vec<Value> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(rehearsal.client().await, "mse-customer", &resource);
    let found = api.list(&ListParams::default()).await.expect("listed");
    found.items.iter().map(|object| serde_json::to_value(object).expect("json")).collect()
}

/// A Prometheus on loopback: every answer is a vector of this value; the credentials that it saw come back.
fn prometheus(value: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut text = String::new();
            let mut piece = [0; 4096];
            // The form is the last that comes.
            while !text.contains("query=") {
                match stream.read(&mut piece) {
                    Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&piece[..read])),
                    _ => break,
                }
            }
            let result = json!([{ "metric": { "version": "gray" }, "value": [1, value] }]);
            let body = json!({ "status": "success", "data": { "resultType": "vector", "result": result } })
                .to_string();
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_commands_and_metrics_judge_a_lane_and_leave_nothing_behind() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    let (address, seen) = prometheus("0.01");
    operator(
        &home,
        &format!(
            "checks: {{ commands: [/bin/sh] }}\nprometheus: {{ address: \"{address}\", bearer: metrics }}"
        ),
    );
    home.edit("config/graylane.yaml", "secrets: {}", "secrets: { metrics: { env: METRICS_TOKEN } }");
    let checks = r#"
        - { name: the lane stays up, interval: 100ms, rollout: { for: 300ms } }
        - name: the smoke test
          job:
            image: smoke:1
            script: |
              echo "tag is $TAG"
              exit 0
            env: { TAG: "${{ inputs.tag }} $(HOME)" }
        - name: the operators program
          command: { run: [/bin/sh, -c, 'echo "$TAG and ${HOME:-no home} and $TOKEN"'], env: { TAG: "${{ inputs.tag }}", TOKEN: "${{ secrets.metrics }}" } }
        - name: errors
          prometheus: { query: 'errors{version="gray"}', max: 0.05 }
"#;
    workflow(&home, checks, "");
    let run = home
        .command(&["run", "workflows/checks.yaml"])
        .env("METRICS_TOKEN", "token-of-metrics")
        .output()
        .expect("started");
    let stdout = String::from_utf8_lossy(&run.stdout);
    assert_eq!(run.status.code(), Some(0), "{stdout} {}", String::from_utf8_lossy(&run.stderr));
    let asked = seen.recv().expect("asked").to_lowercase();
    assert!(asked.contains("authorization: bearer token-of-metrics"), "{asked}");
    let log = home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    for line in [
        "the smoke test: tag is gray $(HOME)",
        "the smoke test: sample 1: right: exit code 0",
        "the operators program: gray and no home and [secret]",
        "errors: sample 1: right: {version=\"gray\"} = 0.01",
    ] {
        assert!(log.contains(line), "{line} is not in {log}");
    }
    assert!(!log.contains("token-of-metrics"), "{log}");
    let shown = home.graylane(&["runs", "show", "latest"]).expect(0).stdout;
    assert!(
        shown.contains("samples of verify") && shown.contains("1 x right, first in sample 1: exit code 0"),
        "{shown}"
    );
    assert_eq!(left(&rehearsal, "batch", "v1", "Job").await, Vec::<Value>::new(), "the Job was removed");
    for path in crate::support::files_below(&home.data()) {
        let bytes = std::fs::read(&path).unwrap_or_default();
        assert!(!bytes.windows(16).any(|window| window == b"token-of-metrics"), "{}", path.display());
    }
}

/// Fifty megabytes in one line, and two million lines: what is kept of them is little, and says what is not.
#[test]
fn a_program_that_prints_without_end_is_cut_short_and_that_is_told() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    operator(&home, "checks: { commands: [/bin/sh] }");
    let checks = r#"
        - name: one line
          command: { run: [/bin/sh, -c, "head -c 52428800 /dev/zero | tr '\\0' x"] }
        - name: many lines
          command: { run: [/bin/sh, -c, "seq 1 2000000"] }
"#;
    workflow(&home, checks, "");
    home.graylane(&["run", "workflows/checks.yaml"]).expect(0);
    let log = home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    assert!(log.contains("one line: xxxx") && log.contains(" more bytes are left out)"), "{}", log.len());
    assert!(log.contains("many lines: 500") && log.contains("more lines are left out)"), "{}", log.len());
    assert!(!log.contains("many lines: 501"), "{}", log.len());
    let shown = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).stdout;
    assert!(log.len() < 100_000 && shown.len() < 100_000, "{} {}", log.len(), shown.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_fails_says_which_sample_said_what_and_its_job_is_gone() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    let checks = "        - { name: smoke, samples: 2, job: { image: 'smoke:1', script: \"echo no luck\\nexit 3\" } }\n        - { name: image, on_no_data: pass, job: { image: 'smoke:missing' } }\n";
    workflow(&home, checks, "");
    let failed = home.graylane(&["run", "workflows/checks.yaml"]).expect(1).stdout;
    assert!(failed.contains("check failed: smoke: 0 of 2 were right"), "{failed}");
    assert!(failed.contains("2 samples, the first is 1: exit code 3"), "{failed}");
    let view = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).json();
    let checks = view.pointer("/tasks/1/error/values/checks").expect("kept");
    assert_eq!(checks[0]["wrong"][0]["count"], 2, "{checks}");
    assert_eq!(checks[1]["no_data"]["samples"], 1, "{checks}");
    assert_eq!(left(&rehearsal, "batch", "v1", "Job").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_found_again_after_kill_9_and_removed_on_cancel() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    workflow(
        &home,
        "        - { name: long, job: { image: 'smoke:1', script: \"echo begun\\nsleep 4\" } }\n",
        "",
    );
    let kill = |home: &Home| home.command(&["run", "workflows/checks.yaml"]).spawn().expect("started");
    let mut child = kill(&home);
    until("the script has begun", || {
        home.graylane(&["runs", "logs", "latest"]).stdout.contains("long: begun")
    });
    let before = left(&rehearsal, "batch", "v1", "Job").await;
    child.kill().expect("killed");
    child.wait().expect("waited for");
    assert_eq!(before.len(), 1);
    let pod = &before[0]["spec"]["template"];
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    assert_eq!(pod["metadata"]["labels"]["msePilotAutoEnable"], "off");
    home.graylane(&["resume"]).expect(0);
    let log = home.graylane(&["runs", "logs", "latest"]).expect(0).stdout;
    assert!(log.contains("is found again"), "{log}");
    assert_eq!(left(&rehearsal, "batch", "v1", "Job").await, Vec::<Value>::new());

    let mut child = kill(&home);
    until("the second script has begun", || left_jobs(&rehearsal) == 1);
    home.graylane(&["cancel", "latest"]);
    child.wait().expect("waited for");
    assert_eq!(left(&rehearsal, "batch", "v1", "Job").await, Vec::<Value>::new(), "removed on cancel");
}

fn left_jobs(rehearsal: &Rehearsal) -> usize {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(left(rehearsal, "batch", "v1", "Job")).len()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_may_not_do_is_refused_before_anything_is_written() {
    let home = Home::new();
    let _rehearsal = home.rehearsal("fast");
    for (check, words) in [
        ("http: { url: 'http://169.254.169.254/latest' }", "is a link-local address, and is never asked"),
        ("http: { url: 'http://elsewhere.example.com/' }", "does not let checks ask `elsewhere.example.com`"),
        ("command: { run: [/bin/sh] }", "lists no program for command checks"),
        ("job: { image: 'a:1', script: 'echo ${{ inputs.tag }}' }", "an expression cannot stand in a script"),
        ("prometheus: { query: up, min: 1 }", "does not say where Prometheus is"),
    ] {
        workflow(&home, &format!("        - {{ name: refused, {check} }}\n"), "");
        let refused = home.graylane(&["run", "workflows/checks.yaml"]).expect(2);
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    let lanes = home.graylane(&["lanes", "production", "-o", "json"]).expect(0).json();
    assert_eq!(lanes, json!([]), "no run began");
}

#[tokio::test(flavor = "multi_thread")]
async fn production_takes_only_what_was_verified_and_a_tag_becomes_its_digest() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    workflow(&home, "        - { name: up, rollout: {} }\n", "");
    let promote = |verified: &str| {
        let text = format!(
            "name: prod-workflow\ninputs:\n  image: {{ type: string, required: true }}\ntasks:\n  promote:\n    type: prod-deploy\n    with: {{ environment: production, images: {{ spring-c: \"${{{{ inputs.image }}}}\" }}{verified} }}\n"
        );
        home.write("workflows/promote.yaml", &text);
    };
    let image = async || {
        let all = left(&rehearsal, "apps", "v1", "Deployment").await;
        let found = all.iter().find(|one| one["metadata"]["name"] == "spring-cloud-c").expect("there");
        found["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image").to_owned()
    };
    let run =
        |wanted: &str| home.graylane(&["run", "workflows/promote.yaml", "-i", &format!("image={wanted}")]);
    promote(", verified: required");
    let before = image().await;
    let refused = run("c:0.2").expect(1).stdout;
    assert!(
        refused.contains(
            "refused: service `spring-c`: image `c:0.2` was not verified: no lane that is up runs it"
        ),
        "{refused}"
    );
    assert_eq!(image().await, before, "nothing was written");

    home.graylane(&["run", "workflows/checks.yaml"]).expect(0);
    let other = run("c:0.3").expect(1).stdout;
    assert!(other.contains("image `c:0.3` was not verified: no lane that is up runs it"), "{other}");
    run("c:0.2").expect(0);
    assert!(image().await.starts_with("c@sha256:"), "{}", image().await);

    // A verification that fails takes the mark away.
    workflow(&home, "        - { name: smoke, job: { image: 'smoke:exit1' } }\n", "");
    home.graylane(&["run", "workflows/checks.yaml"]).expect(1);
    promote(", verified: told");
    run("c:0.1").expect(0);
    promote(", verified: required");
    let withdrawn = run("c:0.2").expect(1).stdout;
    assert!(withdrawn.contains("lane `gray` runs it, and was not verified"), "{withdrawn}");
    // The control: without the rule it goes through.
    promote("");
    run("c:0.2").expect(0);
    assert_eq!(image().await, "c:0.2");
}
