//! What is known of runs later: lists, one run, what is told to programs, and data folders that nobody has made.

use std::fs;

use graylane_engine::clock::Timestamp;
use serde_json::Value;

use crate::support::{Home, ran};

/// Fails at once, on its plan: a run costs nothing.
pub(crate) const QUICK: &str = "name: quick\ninputs:\n  tag: { type: string, default: Gray }\ntasks:\n  down:\n    type: mse-gray-offline\n    with: { environment: production, tag: \"${{ inputs.tag }}\" }\n";

pub(crate) fn quick() -> Home {
    let home = Home::new();
    home.write("workflows/quick.yaml", QUICK);
    home.edit("config/environments/production.yaml", "prod-workflow]", "prod-workflow, quick]");
    home
}

fn listed(home: &Home, conditions: &[&str]) -> Vec<String> {
    let arguments = [&["runs", "list", "-o", "json"], conditions].concat();
    let list = home.graylane(&arguments).expect(0).json();
    list.as_array().expect("a list").iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn lists_are_filtered_by_time_and_go_on_after_the_beginning_of_an_id() {
    let home = quick();
    for _ in 0..3 {
        home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    }
    let all = listed(&home, &[]);
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by(|a, b| a > b), "newest first: {all:?}");
    let list = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    let at = list[1]["submitted_at"].as_str().expect("RFC 3339").to_owned();
    assert!(at.parse::<Timestamp>().is_ok() && list[1]["ended_at"].is_string(), "{list}");
    for (conditions, runs) in [
        (vec!["--since", at.as_str()], &all[..2]),
        (vec!["--until", at.as_str()], &all[2..]),
        (vec!["--since", "1h"], &all[..]),
        (vec!["--until", "1h"], &all[3..]),
        (vec!["--since", "2020-01-01", "--actor", "ann", "--trigger", "manual"], &all[..]),
        (vec!["--actor", "bob"], &all[3..]),
        (
            vec!["--environment", "production", "--status", "failed", "--tag", "Gray", "--limit", "1"],
            &all[..1],
        ),
    ] {
        assert_eq!(listed(&home, &conditions), runs, "{conditions:?}");
    }
    // As little of the id as only one run has.
    let (newest, other) = (&all[0], &all[1]);
    let common = newest.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    assert_eq!(listed(&home, &["--after", &newest[..=common]]), &all[1..]);
    let several = home.graylane(&["runs", "list", "--after", &newest[..4]]).expect(2);
    assert!(several.stderr.contains("more than one run begins with"), "{several:?}");
    let wrong = home.graylane(&["runs", "list", "--since", "yesterday"]).expect(2);
    assert!(wrong.stderr.contains("`yesterday` is no time") && wrong.stderr.contains("7d"), "{wrong:?}");
}

#[test]
fn programs_are_told_in_json_also_of_nothing_and_of_mistakes() {
    let home = quick();
    home.graylane(&["run", "workflows/quick.yaml", "-o", "json"]).expect(1).json();
    assert_eq!(home.graylane(&["resume", "-o", "json"]).expect(0).json(), serde_json::json!([]));
    let ended = home.graylane(&["cancel", "latest", "-o", "json"]).expect(2).json();
    assert!(ended["detail"].as_str().expect("a text").contains("has ended already: failed"), "{ended}");
    for arguments in [&["rnu", "-o", "json"][..], &["-ojson", "runs", "list", "--limit", "none"]] {
        let wrong = home.graylane(arguments).expect(2);
        let told = wrong.json();
        assert_eq!((&told["code"], wrong.stderr.as_str()), (&"bad-arguments".into(), ""), "{told}");
    }
    home.write("config/graylane.yaml", "dta: x\n");
    let settings = home.graylane(&["runs", "list", "-o", "json"]).expect(2).json();
    assert_eq!(settings["problems"][0]["line"], 1, "{settings}");
}

#[test]
fn commands_that_only_look_make_no_data_folder() {
    let home = Home::new();
    let typo = home.path("dtaa");
    for (arguments, code) in [
        (&["runs", "list"][..], 0),
        (&["runs", "show", "latest"], 2),
        (&["plan", "workflows/mse-gray-workflow.yaml"], 0),
        (&["render", "spring-a", "--environment", "production"], 0),
        (&["lanes", "production"], 0),
        (&["status"], 0),
        (&["store", "check"], 2),
        (&["store", "backup", "b.backup"], 2),
        (&["audit", "verify"], 2),
        (&["audit", "list"], 2),
        (&["approve", "latest"], 2),
        (&["answer", "latest", "retry"], 2),
        (&["undo", "latest"], 2),
        (&["cancel", "latest"], 2),
    ] {
        let mut command = home.command(arguments);
        let told = ran(command.env("GRAYLANE_DATA", &typo)).expect(code);
        assert!(told.stderr.contains("there is no store in"), "{arguments:?}: {told:?}");
        assert!(!told.stderr.contains("was missing"), "a new folder has lost nothing: {told:?}");
        assert!(!typo.exists(), "{arguments:?} made it");
    }
    // The control: a run makes it.
    ran(home
        .command(&["run", "workflows/mse-gray-workflow.yaml", "-i", "tag=Gray"])
        .env("GRAYLANE_DATA", &typo))
    .expect(1);
    assert!(typo.join("format").exists());
}

#[test]
fn a_lost_key_of_digests_is_told() {
    let home = quick();
    let first = home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    assert!(!first.stderr.contains("digests"), "a new folder has lost nothing: {first:?}");
    fs::remove_file(home.path("data/digest.key")).expect("removed");
    let looked = home.graylane(&["lanes", "production"]).expect(0);
    assert!(looked.stderr.contains("digest.key") && looked.stderr.contains("was missing"), "{looked:?}");
    assert!(!home.path("data/digest.key").exists(), "who only looks makes none");
    let told = home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    assert!(told.stderr.contains("was missing: a new one was made"), "{told:?}");
    let again = home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    assert!(!again.stderr.contains("was missing"), "it is told once: {again:?}");
}

#[test]
fn latest_is_the_run_and_not_the_undo_of_it_and_a_run_is_told_whole() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    let shown = |run: &str| home.graylane(&["runs", "show", run, "-o", "json"]).expect(0).json();
    let release = shown("latest");
    let undone = home.graylane(&["undo", "latest", "-o", "json"]).expect(0).json();
    let latest = shown("latest");
    assert_eq!(latest["id"], release["id"], "the undo belongs to the run that it took back");
    assert_eq!(latest["undone_by"], undone["id"]);
    let refused = home.graylane(&["undo", "latest"]).expect(2);
    assert!(refused.stderr.contains("was taken back by run"), "{refused:?}");

    assert_eq!(latest["said"][0]["by"], "ann");
    let deploy = &latest["tasks"][0];
    let attempt = &deploy["attempts"][0];
    assert_eq!((&attempt["attempt"], &attempt["ended"]), (&1.into(), &"succeeded".into()), "{deploy}");
    assert!(attempt["started_at"].as_str().expect("RFC 3339").parse::<Timestamp>().is_ok());
    let kinds: Vec<&Value> =
        attempt["steps"].as_array().expect("steps").iter().map(|step| &step["kind"]).collect();
    assert!(kinds.contains(&&Value::from("plan")) && kinds.contains(&&Value::from("phase")), "{attempt}");

    let text = home.graylane(&["runs", "show", "latest", "--all"]).expect(0).stdout;
    for words in
        ["revision", "bundle", "tag: gray", "ann: submitted", "+ create Deployment", "attempt 1", "apply "]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let all = home.graylane(&["runs", "show", "latest", "--all", "-o", "json"]).expect(0).json();
    assert!(all["plans"]["deploy"]["changes"].is_array() && all["log"].is_array(), "{all}");
}

#[test]
fn two_runs_are_compared_in_all_that_made_them() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    let first = listed(&home, &[])[0].clone();
    home.edit(
        "workflows/mse-gray-workflow.yaml",
        "name: mse-gray-workflow",
        "# changed\nname: mse-gray-workflow",
    );
    home.edit("config/services/spring-a.yaml", "kind: Service\n", "kind: Service # here too\n");
    let image = "images.spring-a=registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.3-SNAPSHOT";
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", image]).expect(0);
    let text = home.graylane(&["runs", "diff", &first, "latest"]).expect(0).stdout;
    for words in ["+# changed", "input images", "0.3-SNAPSHOT", "plan of deploy", "took"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let diff = home.graylane(&["runs", "diff", &first, "latest", "-o", "json"]).expect(0).json();
    assert_eq!(diff["a"]["id"], first.as_str());
    assert_eq!(diff["inputs"][0]["name"], "images", "{diff}");
    assert!(
        diff["files"].as_array().expect("files").iter().any(|file| file["path"] == "workflow.yaml"),
        "{diff}"
    );
    assert!(diff["images"].to_string().contains("0.3-SNAPSHOT"), "{diff}");
    let same = home.graylane(&["runs", "diff", &first, &first]).expect(0).stdout;
    assert!(same.contains("nothing that made them differs"), "{same}");
}

#[test]
fn a_backup_with_a_hole_or_something_behind_its_end_is_refused_and_leaves_nothing() {
    let home = quick();
    home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
    home.graylane(&["store", "backup", "b.backup"]).expect(0);
    let whole = fs::read(home.path("b.backup")).expect("read");
    let new = home.path("new");
    let restore = |bytes: Vec<u8>| {
        fs::write(home.path("bad.backup"), bytes).expect("written");
        ran(home.command(&["store", "restore", "bad.backup"]).env("GRAYLANE_DATA", &new))
    };
    let mut longer = whole.clone();
    longer.push(0);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, words) in [
        (longer, "something stands after its end"),
        (whole[..whole.len() - 1].to_vec(), "cut short"),
        (flipped, "damaged"),
    ] {
        let refused = restore(bytes).expect(3);
        assert!(refused.stderr.contains(words) && refused.stderr.contains("take another one"), "{refused:?}");
        assert!(!new.exists(), "half a store is of use to nobody");
    }
    restore(whole).expect(0);

    // A store with a hole makes no backup.
    let objects = crate::support::files_below(&home.path("data/objects"));
    fs::remove_file(&objects[0]).expect("removed");
    let hole = home.graylane(&["store", "backup", "c.backup"]).expect(3);
    assert!(hole.stderr.contains("is missing") && !home.path("c.backup").exists(), "{hole:?}");
}

#[test]
fn after_an_undo_the_next_promotion_meets_no_conflict_with_ourselves() {
    let home = Home::new();
    let _cluster = home.rehearsal("fast");
    let promote = |image: &str| {
        let input = format!("images.spring-c={image}");
        home.graylane(&["run", "workflows/prod-workflow.yaml", "-i", &input])
    };
    promote("c:v2").expect(0);
    home.graylane(&["undo", "latest"]).expect(0);
    let again = promote("c:v3").expect(0);
    assert!(again.stdout.contains("production spring-c: c:v3"), "{again:?}");
}
