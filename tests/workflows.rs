//! Workflows by name: what the daemon's sources hold, as the command line shows it; and what the log says of a run.

use std::fs;

use crate::support::daemon::QUICK;
use crate::support::{Home, until};

#[test]
fn workflows_are_listed_paused_and_run_by_name_and_a_broken_file_is_shown_with_its_line() {
    let home = Home::new();
    home.write("workflows/quick.yaml", &QUICK.replace("name: release", "name: quick"));
    // Without a daemon: the sources as they are.
    let listed = home.graylane(&["workflows", "list"]).expect(0);
    assert!(listed.stdout.contains("quick") && listed.stderr.contains("no daemon answers"), "{listed:?}");
    let refused = home.graylane(&["run", "quick"]).expect(2);
    assert!(refused.stderr.contains("no daemon answers that knows workflows by name"), "{}", refused.stderr);

    let mut daemon = home.serve(&[]);
    let shown = || home.graylane(&["workflows", "show", "quick", "-o", "json"]);
    until("the sources were read", || shown().code == 0);
    let revision = shown().json()["revision"].clone();
    let run = home.graylane(&["run", "quick", "-o", "json"]).expect(0).json();
    assert_eq!((&run["outcome"], &run["revision"]), (&"succeeded".into(), &revision));
    assert_eq!(run["source"]["name"], "workflows");
    let typo = home.graylane(&["run", "quik"]).expect(2);
    assert!(typo.stderr.contains("did you mean `quick`?"), "{}", typo.stderr);

    home.write("workflows/quick.yaml", "name: quick\ntsks: {}\n");
    until("the file is wrong", || !shown().json()["problems"].as_array().is_none_or(Vec::is_empty));
    let listed = home.graylane(&["workflows", "list"]).expect(0);
    assert!(listed.stdout.contains("the last good revision stays"), "{}", listed.stdout);
    assert!(listed.stderr.contains("workflows/quick.yaml:2:1: unknown key `tsks`"), "{}", listed.stderr);
    assert_eq!(home.graylane(&["run", "quick", "-o", "json"]).expect(0).json()["revision"], revision);

    home.graylane(&["workflows", "pause", "quick", "--reason", "sale"]).expect(0);
    let listed = home.graylane(&["workflows", "list"]).expect(0);
    assert!(listed.stdout.contains("paused by ann: sale"), "{}", listed.stdout);
    let again = home.graylane(&["workflows", "pause", "quick"]).expect(2);
    assert!(again.stderr.contains("is paused already: by ann"), "{}", again.stderr);
    home.graylane(&["workflows", "unpause", "quick"]).expect(0);
    let history = home.graylane(&["workflows", "history", "quick"]).expect(0).stdout;
    for words in ["took revision", "paused workflows/quick: sale", "unpaused workflows/quick"] {
        assert!(history.contains(words), "{words}: {history}");
    }

    daemon.signal("TERM");
    let (code, log) = daemon.ended();
    assert_eq!(code, 0, "{log}");
    assert!(
        log.contains("run succeeded") && log.contains("workflow=\"quick\""),
        "the daemon says how runs end: {log}"
    );
    assert!(log.contains("a revision was taken"), "{log}");
}

/// A deploy with a patch beside it, which no other file tells of.
const PATCHED: &str = "name: release\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    with:\n      environment: production\n      tag: gray\n      services:\n        spring-c: { patches: [{ target: { kind: Deployment, name: spring-cloud-c }, file: patches/night.txt }] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_a_source_had_is_deployed_after_kill_9_and_with_the_source_gone() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    fs::remove_dir_all(home.path("workflows")).expect("removed");
    fs::create_dir_all(home.path("workflows/patches")).expect("made");
    home.write("workflows/release.yaml", PATCHED);
    home.write("workflows/patches/night.txt", "metadata: { annotations: { team: night } }\n");
    let mut daemon = home.serve(&[]);
    let shown = || home.graylane(&["workflows", "show", "release", "-o", "json"]);
    until("the source was read", || shown().code == 0);
    let revision = shown().json()["revision"].clone();
    daemon.signal("KILL");
    daemon.ended();
    fs::remove_dir_all(home.path("workflows")).expect("removed");

    let _daemon = home.serve(&[]);
    let run = home.graylane(&["run", "release", "-o", "json"]).expect(0).json();
    assert_eq!((&run["outcome"], &run["revision"]), (&"succeeded".into(), &revision));
    let deployments: kube::Api<k8s_openapi::api::apps::v1::Deployment> =
        kube::Api::namespaced(rehearsal.client().await, "mse-customer");
    let copy = deployments.get("spring-cloud-c-mse-gray").await.expect("deployed");
    let team = copy.metadata.annotations.and_then(|all| all.get("team").cloned());
    assert_eq!(team.as_deref(), Some("night"));
    let history = home.graylane(&["workflows", "history", "release"]).expect(0).stdout;
    assert!(history.contains(", with patches/night.txt"), "{history}");
}
