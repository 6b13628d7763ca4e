//! At 3 a.m.: what stands still and the command that moves it, and environments that people have frozen.

use serde_json::Value;

use crate::history::quick;
use crate::support::{Home, ran};

/// The commands that `status` names for a run.
fn commands(status: &Value, run: &str) -> Vec<String> {
    let runs = status["unfinished"].as_array().expect("a list");
    let run = runs.iter().find(|one| one["run"]["id"] == run).unwrap_or_else(|| panic!("{status}"));
    let next = run["next"].as_array().expect("a list");
    let all = next.iter().flat_map(|next| next["commands"].as_array().into_iter().flatten());
    all.map(|command| command.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn what_people_have_frozen_holds_what_would_be_deployed_until_they_thaw_it() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    let lane = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).json();

    let typo = home.graylane(&["freeze", "prodution", "--reason", "sale"]).expect(2);
    assert!(typo.stderr.contains("did you mean `production`?"), "{typo:?}");
    home.graylane(&["freeze", "production", "--reason", " "]).expect(2);
    home.graylane(&["freeze", "production", "--reason", "x", "--until", "2020-01-01"]).expect(2);
    let frozen = home.graylane(&["freeze", "production", "--reason", "the shop is in sale", "--until", "8h"]);
    let words = "by ann, since 20";
    assert!(frozen.expect(0).stdout.contains(words));

    // Taking back goes on.
    home.graylane(&["undo", lane["id"].as_str().expect("an id")]).expect(0);
    // It holds in every process after this one.
    let held = home.graylane(&["run", "workflows/release.yaml"]).expect(4);
    assert!(
        held.stderr.contains("is frozen until 20") && held.stderr.contains("the shop is in sale"),
        "{held:?}"
    );
    let plan = home.graylane(&["plan", "workflows/release.yaml"]).expect(2);
    assert!(plan.stdout.contains("the shop is in sale"), "{plan:?}");
    let lanes = home.graylane(&["lanes", "production"]).expect(0);
    assert!(lanes.stderr.contains("production is frozen until"), "{lanes:?}");

    let status = home.graylane(&["status", "-o", "json"]).expect(4).json();
    let run = status["unfinished"][0]["run"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(status["unfinished"][0]["needs_somebody"], true);
    assert_eq!(status["frozen"][0]["reason"], "the shop is in sale");
    assert_eq!(status["journal"]["writable"], true);
    let retry = format!("graylane answer {run} retry");
    let named = commands(&status, &run);
    assert!(named.contains(&retry) && named.contains(&"graylane resume".to_owned()), "{named:?}");
    let text = home.graylane(&["status"]).expect(4).stdout;
    for words in [retry.as_str(), "graylane thaw production", "is held until"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let shown = home.graylane(&["runs", "show", "latest"]).expect(0).stdout;
    assert!(shown.contains(&retry) && shown.contains("`graylane resume` does"), "{shown}");

    home.graylane(&["thaw", "production", "--reason", "over"]).expect(0);
    let again = home.graylane(&["thaw", "production"]).expect(2);
    assert!(again.stderr.contains("production is not frozen"), "{again:?}");
    let log = home.graylane(&["audit", "list"]).expect(0).stdout;
    assert!(log.contains("froze production until") && log.contains("thawed production: over"), "{log}");
    // The command as it was named.
    let words: Vec<&str> = retry.split(' ').skip(1).collect();
    home.graylane(&words).expect(0);
    home.graylane(&["resume"]).expect(0);
    let status = home.graylane(&["status", "-o", "json"]).expect(0).json();
    assert_eq!(
        (status["frozen"].as_array().map(Vec::len), status["unfinished"].as_array().map(Vec::len)),
        (Some(0), Some(0))
    );
}

#[test]
fn failures_and_clusters_that_do_not_answer_are_lines() {
    let home = quick();
    home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    let closed = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{ name: c, cluster: { server: \"http://127.0.0.1:1\" } }]\nusers: [{ name: u, user: {} }]\ncontexts: [{ name: c, context: { cluster: c, user: u } }]\n";
    home.write("config/environments/closed", closed);
    home.edit("config/environments/production.yaml", "cluster: rehearsal", "cluster: { kubeconfig: closed }");
    let status = home.graylane(&["status", "-o", "json"]).expect(0).json();
    let failed = &status["failed"][0];
    assert_eq!((&failed["task"], &failed["run"]["workflow"]), (&"down".into(), &"quick".into()), "{status}");
    let command = failed["command"].as_str().expect("a command");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    assert!(home.graylane(&words).expect(0).stdout.contains("quick failed"));
    assert!(status["lanes"][0]["trouble"].is_string(), "{status}");
    let text = home.graylane(&["status"]).expect(0).stdout;
    assert!(text.contains("lanes of production are not known") && text.contains("failed last:"), "{text}");
    // The control: where the store cannot be opened, a script is told.
    std::fs::write(home.path("data/format"), "9\n").expect("written");
    ran(&mut home.command(&["status"])).expect(3);
}

#[test]
fn a_lane_whose_time_is_nearly_up_is_named_with_the_command_that_lets_it_live() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    let file = "config/environments/production.yaml";
    home.edit(file, "services: ../services\n", "services: ../services\nttl: 8h\n");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    let status = || home.graylane(&["status", "-o", "json"]).expect(0).json();
    let lanes = status()["lanes"][0].clone();
    assert_eq!((&lanes["lanes"][0]["tag"], &lanes["expiring"]), (&"gray".into(), &Value::Null), "{lanes}");
    home.graylane(&["lanes", "renew", "gray", "--environment", "production", "--for", "90m"]).expect(0);
    let soon = status()["lanes"][0]["expiring"][0].clone();
    assert_eq!((&soon["tag"], &soon["expired"]), (&"gray".into(), &false.into()), "{soon}");
    let command = soon["command"].as_str().expect("a command");
    let text = home.graylane(&["status"]).expect(0).stdout;
    assert!(text.contains("gray expires soon, at 20") && text.contains(command), "{text}");
    // It is over before anybody looks.
    home.graylane(&["lanes", "renew", "gray", "--environment", "production", "--for", "1ms"]).expect(0);
    assert_eq!(status()["lanes"][0]["expiring"][0]["expired"], true);
    let text = home.graylane(&["status"]).expect(0).stdout;
    assert!(text.contains("gray has expired: its time was up at 20"), "{text}");
    // The command as it was named.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    home.graylane(&words).expect(0);
    assert_eq!(status()["lanes"][0]["expiring"], Value::Null);
}

/// Whoever looks at a run that is not over is told what it waits for, and what can be done.
#[test]
fn every_view_of_an_unfinished_run_ends_with_what_it_waits_for_and_what_can_be_done() {
    let home = quick();
    home.edit(
        "workflows/quick.yaml",
        "    type: mse-gray-offline\n",
        "    type: mse-gray-offline\n    on_failure: hold\n",
    );
    // Where nobody is at the terminal, following ends as it waits.
    let ran = home.graylane(&["run", "workflows/quick.yaml"]).expect(4);
    let status = home.graylane(&["status", "-o", "json"]).expect(4).json();
    let run = status["unfinished"][0]["run"]["id"].as_str().expect("an id").to_owned();
    let answers = ["retry", "skip", "fail", "undo"].map(|answer| format!("graylane answer {run} {answer}"));
    let views = [
        ("run", format!("{}{}", ran.stdout, ran.stderr)),
        ("status", home.graylane(&["status"]).expect(4).stdout),
        ("show", home.graylane(&["runs", "show", &run]).expect(0).stdout),
        ("json", home.graylane(&["runs", "show", &run, "-o", "json"]).expect(0).stdout),
        ("list", {
            let list = home.graylane(&["runs", "list"]).expect(0);
            format!("{}{}", list.stdout, list.stderr)
        }),
    ];
    for (view, text) in &views[..4] {
        for answer in &answers {
            assert!(text.contains(answer.as_str()), "{view}: {text}");
        }
        assert!(text.contains("is held until"), "{view}: {text}");
    }
    assert!(views[4].1.contains("graylane status"), "{}", views[4].1);
    home.graylane(&["answer", &run, "fail"]).expect(0);
    let list = home.graylane(&["runs", "list"]).expect(0);
    assert!(!list.stderr.contains("graylane status"), "{list:?}");
}
