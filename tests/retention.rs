//! Finished runs that the settings do not keep: what goes, what stays, and how an auditor sees it.

use std::fs;

use crate::history::quick;
use crate::support::{files_below, ran};

#[test]
fn what_is_not_kept_goes_with_its_logs_and_objects_and_the_audit_log_stays_provable() {
    let home = quick();
    for tag in ["One", "Two", "Three", "Four"] {
        if tag == "Three" {
            home.edit("workflows/quick.yaml", "name: quick", "# another revision\nname: quick");
        }
        home.graylane(&["run", "workflows/quick.yaml", "-i", &format!("tag={tag}")]).expect(1);
    }
    let list = |home: &crate::support::Home| home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    let all = list(&home);
    let head = home.graylane(&["audit", "head"]).expect(0).stdout.trim().to_owned();
    let objects = files_below(&home.path("data/objects")).len();
    let keeps = home.graylane(&["store", "prune"]).expect(2);
    assert!(keeps.stderr.contains("do not say how long runs are kept"), "{keeps:?}");

    home.edit("config/graylane.yaml", "retention: {}", "retention: { runs: 2 }");
    let dry = home.graylane(&["store", "prune", "--dry-run", "-o", "json"]).expect(0).json();
    assert_eq!((&dry["runs"], &dry["due"][0]["id"]), (&2.into(), &all[3]["id"]));
    assert_eq!(list(&home), all, "nothing was removed");
    let pruned = home.graylane(&["store", "prune"]).expect(0);
    assert!(pruned.stdout.contains("removed: 2 runs (more than the last 2), and 1 objects"), "{pruned:?}");
    assert_eq!(list(&home).as_array().map(Vec::len), Some(2));
    assert_eq!(
        files_below(&home.path("data/objects")).len(),
        objects - 1,
        "the bundle of the first revision"
    );
    home.graylane(&["runs", "show", all[3]["id"].as_str().expect("an id")]).expect(2);
    home.graylane(&["runs", "show", "latest"]).expect(0);

    let verified = home.graylane(&["audit", "verify", "--head", &head]).expect(0).stdout;
    assert!(verified.contains("deed 1 of") && verified.contains("by ann: 2 runs were removed"), "{verified}");
    assert!(verified.contains("unchanged: 9 entries, 2 runs"), "{verified}");
    let log = home.graylane(&["audit", "list"]).expect(0).stdout;
    assert!(
        log.contains("its records were removed, as deed 1 says") && log.contains("removed 2 runs"),
        "{log}"
    );
    let mine =
        home.graylane(&["audit", "list", "--actor", "ann", "--since", "1h", "-o", "json"]).expect(0).json();
    assert_eq!(mine.as_array().map(Vec::len), Some(3), "two submits and the removal: {mine}");
    let nobody = home.graylane(&["audit", "list", "--until", "1h", "-o", "json"]).expect(0).json();
    assert_eq!(nobody, serde_json::json!([]));
    assert!(home.graylane(&["store", "check"]).expect(0).stdout.starts_with("whole: 2 runs"));

    // A backup tells the same, and an export can be followed without us.
    home.graylane(&["store", "backup", "b.backup"]).expect(0);
    let new = home.path("new");
    ran(home.command(&["store", "restore", "b.backup"]).env("GRAYLANE_DATA", &new)).expect(0);
    let verify = ["audit", "verify", "--head", &head];
    let restored = ran(home.command(&verify).env("GRAYLANE_DATA", &new)).expect(0).stdout;
    assert_eq!(restored, verified);
    follow(&home.graylane(&["audit", "export"]).expect(0).stdout);
    fs::remove_file(home.path("b.backup")).expect("removed");
}

/// What an auditor does with the export alone, as its help describes it.
fn follow(export: &str) {
    use sha2::{Digest as _, Sha256};
    let bytes = |hex: &str| graylane_engine::audit::from_hex(hex).expect("hex");
    let mut before = vec![0; 32];
    for line in export.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| line[name].as_u64().expect("a number").to_be_bytes().to_vec();
        let at: graylane_engine::clock::Timestamp = text("at").parse().expect("RFC 3339");
        let run = text("run").parse::<graylane_engine::id::RunId>().map_or([0; 16], |run| run.to_bytes());
        let entry = [
            number("position"),
            at.millis().to_be_bytes().to_vec(),
            run.to_vec(),
            number("seq"),
            bytes(&text("record_hash")),
        ];
        let hash = Sha256::digest([before, entry.concat()].concat());
        before = hash.to_vec();
        let (_, said) = line["head"].as_str().expect("a head").split_once(':').expect("POSITION:HASH");
        assert_eq!(bytes(said), before, "{line}");
    }
    assert_eq!(export.lines().count(), 9);
}
