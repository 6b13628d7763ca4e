//! Finished runs that the settings do not keep: what goes, what stays, and how an auditor sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use graylane_engine::journal::{DiskJournal, Journal as _, Row, Together};

use crate::history::quick;
use crate::matrix::sentinel;
use crate::support::{Home, Ran, copy, files_below, ran};

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

/// A store of which a removal takes a sealed run, a run that is not sealed yet, and their objects.
struct Story {
    home: Home,
    /// The head of the audit log before the removal.
    head: String,
    copies: usize,
}

/// How a store ends up.
#[derive(Debug, PartialEq)]
struct End {
    runs: String,
    objects: Vec<PathBuf>,
    logs: Vec<PathBuf>,
}

impl Story {
    fn new() -> Story {
        let home = quick();
        let run = |number: usize| {
            home.write("workflows/quick.yaml", &format!("# {number}\n{}", crate::history::QUICK));
            home.graylane(&["run", "workflows/quick.yaml"]).expect(1);
        };
        (0..4).for_each(run);
        home.edit("config/graylane.yaml", "retention: {}", "retention: { runs: 3 }");
        home.graylane(&["store", "prune"]).expect(0);
        (4..7).for_each(run);
        home.edit("config/graylane.yaml", "retention: { runs: 3 }", "retention: { runs: 2 }");
        let head = home.graylane(&["audit", "head"]).expect(0).stdout.trim().to_owned();
        Story { home, head, copies: 0 }
    }

    /// The store as it was before the removal.
    fn fresh(&mut self) -> PathBuf {
        self.copies += 1;
        let data = self.home.path(&format!("copy-{}", self.copies));
        // A file that an ended process may leave behind, and that cannot be copied.
        let _ = fs::remove_file(self.home.data().join("api.sock"));
        copy(&self.home.data(), &data);
        data
    }

    fn graylane(&self, data: &Path, arguments: &[&str]) -> Ran {
        ran(self.home.command(arguments).env("GRAYLANE_DATA", data))
    }

    fn verify(&self, data: &Path) -> Ran {
        self.graylane(data, &["audit", "verify", "--head", &self.head])
    }

    /// Prunes, and kills the program as soon as so many batches are acknowledged.
    fn killed_at(&self, data: &Path, batch: u64) {
        let mut command = self.home.command(&["store", "prune"]);
        command.env("GRAYLANE_DATA", data).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("started");
        while sentinel(data) < batch && child.try_wait().expect("asked").is_none() {
            std::thread::park_timeout(Duration::from_micros(50));
        }
        // It may have ended in this moment.
        let _ = child.kill();
        child.wait().expect("waited for");
    }

    fn end(&self, data: &Path) -> End {
        let below = |folder: &str| {
            let whole = files_below(&data.join(folder)).into_iter();
            let mut files: Vec<PathBuf> =
                whole.map(|path| path.strip_prefix(data).expect("below").to_owned()).collect();
            files.sort();
            files
        };
        let runs = self.graylane(data, &["runs", "list", "-o", "json"]).expect(0).stdout;
        End { runs, objects: below("objects"), logs: below("logs") }
    }
}

/// What is begun and not done, as the store says.
fn begun(data: &Path) -> Vec<String> {
    let journal = DiskJournal::open(data).expect("it opens");
    journal.rows("retention/").into_iter().map(|(key, _)| key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_killed_in_the_middle_leaves_a_whole_store_and_the_next_one_finishes_it() {
    let mut story = Story::new();
    let undisturbed = story.fresh();
    let first = sentinel(&undisturbed) + 1;
    let said = story.graylane(&undisturbed, &["store", "prune"]).expect(0).stdout;
    assert!(said.contains("removed: 4 runs"), "{said}");
    let last = sentinel(&undisturbed);
    assert!(last > first + 1, "a deed, what is sealed anew, and that all is done: {first} to {last}");
    let end = story.end(&undisturbed);

    let mut middle = Vec::new();
    // Once more where the kill always came too late: it is another process that is fast.
    for round in 0..5 {
        if round > 0 && middle.len() > 1 {
            break;
        }
        for batch in first..=last {
            let data = story.fresh();
            story.killed_at(&data, batch);
            if !begun(&data).is_empty() {
                let kept = story.home.path(&format!("middle-{}", middle.len()));
                let _ = fs::remove_file(data.join("api.sock"));
                copy(&data, &kept);
                middle.push(kept);
            }
            let checked = story.graylane(&data, &["store", "check"]).expect(0).stdout;
            assert!(checked.starts_with("whole: "), "batch {batch}: {checked}");
            let verified = story.verify(&data).expect(0).stdout;
            assert!(verified.contains("unchanged"), "batch {batch}: {verified}");
            story.graylane(&data, &["store", "prune"]).expect(0);
            assert_eq!(story.end(&data), end, "batch {batch}");
            assert_eq!(begun(&data), Vec::<String>::new(), "batch {batch}");
            assert!(story.verify(&data).expect(0).stdout.contains("unchanged"), "batch {batch}");
        }
    }
    assert!(middle.len() > 1, "the kill never came in the middle");

    // The control: what was begun is forgotten, and the next prune has nothing to go on with. Where all runs had gone
    // already that does no harm.
    let mut noticed = 0;
    for data in middle {
        let rows = begun(&data).into_iter().map(|key| Row { key, value: None }).collect();
        let journal = DiskJournal::open(&data).expect("it opens");
        journal.write(Together { rows, ..Together::default() }).await.expect("written");
        drop(journal);
        story.graylane(&data, &["store", "prune"]).expect(0);
        let verified = story.verify(&data);
        noticed += usize::from(verified.code == 1 && verified.stdout.contains("are not the same ones"));
    }
    assert!(noticed > 0, "the checks above would notice nothing");
}
