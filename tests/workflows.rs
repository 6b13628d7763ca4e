//! Workflows by name: what the daemon's sources hold, as the command line shows it; and what the log says of a run.

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
