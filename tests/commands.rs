//! Commands as a user types them: what they print, what they return, and what bad input meets.

use std::fs;

use graylane_engine::clock::Timestamp;
use graylane_engine::id::{Digest, RunId, Seq};
use graylane_engine::journal::{DiskJournal, Journal as _};
use graylane_engine::run::{Event, Outcome, Record};

use crate::support::{Home, files_below, ran};

#[test]
fn help_teaches_and_unknown_words_are_refused() {
    let home = Home::new();
    let help = home.graylane(&["--help"]).expect(0);
    for words in [
        "graylane run workflows/release.yaml",
        "Exit codes: 0 succeeded",
        "validate",
        "rehearsal",
        "completions",
    ] {
        assert!(help.stdout.contains(words), "{words}: {}", help.stdout);
    }
    let wrong = home.graylane(&["rnu"]).expect(2);
    assert!(wrong.stderr.contains("a similar subcommand exists: 'runs'"), "{}", wrong.stderr);
    assert!(home.graylane(&["completions", "bash"]).expect(0).stdout.contains("_graylane"));
}

#[test]
fn the_published_schemas_are_the_ones_in_use() {
    let home = Home::new();
    for name in ["workflow", "environment", "settings"] {
        let printed = home.graylane(&["schema", name]).expect(0).stdout;
        let path = format!("{}/config/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            kept.trim(),
            printed.trim(),
            "write it anew: graylane schema {name} > config/schema/{name}.json"
        );
    }
}

#[test]
fn the_examples_are_valid_and_a_mistake_is_shown_as_rustc_would() {
    let home = Home::new();
    let fine = home.graylane(&["validate", "workflows"]).expect(0);
    assert_eq!(fine.stdout.trim(), "3 files: no problems");

    home.edit("workflows/release.yaml", "timeout: 2h", "timeot: 2h");
    let wrong = home.graylane(&["validate", "workflows"]).expect(1);
    let expected = "\
error: unknown key `timeot`
  --> workflows/release.yaml:15:1
   |
15 | timeot: 2h
   | ^^^^^^ did you mean `timeout`?
   |
   = hint: the workflow knows";
    assert!(wrong.stderr.contains(expected), "{}", wrong.stderr);
    assert_eq!(wrong.stdout.trim(), "3 files: 1 error, 0 warnings");

    let json = home.graylane(&["validate", "workflows", "-o", "json"]).expect(1).json();
    assert_eq!(json["errors"], 1);
    let problem = &json["problems"][0];
    assert_eq!((&problem["line"], &problem["column"]), (&15.into(), &1.into()));
    assert_eq!(problem["label"], "did you mean `timeout`?");

    let run = home.graylane(&["run", "workflows/release.yaml"]).expect(2);
    assert!(run.stderr.contains("workflows/release.yaml:15:1"), "{}", run.stderr);
    assert!(!home.path("data-rehearsal").exists(), "nothing was started");
}

#[test]
fn what_cannot_be_looked_at_is_code_2() {
    let home = Home::new();
    let missing = home.graylane(&["validate", "nowhere.yaml"]).expect(2);
    assert!(missing.stderr.contains("nowhere.yaml cannot be read"), "{}", missing.stderr);
    fs::create_dir(home.path("empty")).expect("made");
    home.graylane(&["validate", "empty"]).expect(2);
    home.graylane(&["run", "nowhere.yaml"]).expect(2);
    let none = home.graylane(&["runs", "show", "latest"]).expect(2);
    assert!(none.stderr.contains("there is no run yet"), "{}", none.stderr);
    home.write("config/graylane.yaml", "dta: x\n");
    let settings = home.graylane(&["runs", "list"]).expect(2);
    assert!(
        settings.stderr.contains("did you mean `data`?") && settings.stderr.contains("graylane.yaml:1:1"),
        "{}",
        settings.stderr
    );
}

#[test]
fn inputs_are_checked_before_anything_starts() {
    let home = Home::new();
    for (arguments, words) in [
        (&["-i", "tga=x"][..], "no input `tga`; did you mean `tag`?"),
        (&["-i", "keep=maybe"][..], "input `keep` is of type boolean: `maybe` is not"),
        (&["-i", "tag"][..], "write `-i name=value`"),
        (&["--only", "promote"][..], "task `promote` reads the outputs of `deploy`, which is left out"),
        (&["--skip", "verfy"][..], "no task `verfy`; did you mean `verify`?"),
    ] {
        let ran = home.graylane(&[&["run", "workflows/release.yaml"], arguments].concat()).expect(2);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let required = home.graylane(&["run", "workflows/prod-workflow.yaml"]).expect(2);
    assert!(required.stderr.contains("give it with `-i images.KEY=VALUE`"), "{}", required.stderr);
    let runs = home.graylane(&["runs", "list", "-o", "json"]).expect(0).json();
    assert_eq!(runs.as_array().map(Vec::len), Some(0));
}

#[test]
fn a_refused_release_says_what_where_and_what_next() {
    let refused = |change: &dyn Fn(&Home), arguments: &[&str], words: &[&str]| {
        let home = Home::new();
        change(&home);
        let ran =
            home.graylane(&[&["run", "workflows/mse-gray-workflow.yaml"], arguments].concat()).expect(1);
        for words in words {
            assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
        }
        home.assert_no_secret();
    };
    let label = "\n      zadigx-release-version: original";
    refused(
        &|home| {
            home.edit(
                "config/services/spring-c.yaml",
                &format!("app: spring-cloud-c{label}"),
                "app: spring-cloud-c",
            )
        },
        &[],
        &[
            "service `spring-c`: spec.selector.matchLabels of its Deployment lacks `zadigx-release-version: original`",
        ],
    );
    refused(&|_| {}, &["-i", "tag=Gray"], &["`Gray` cannot be a lane's tag"]);
    refused(&|_| {}, &["-i", "tag=original"], &["`original` means the baseline"]);
    refused(&|_| {}, &["-i", "tag=🚦"], &["`🚦` cannot be a lane's tag"]);
    refused(&|_| {}, &["-i", "images.nacos=nacos:v3"], &["service `nacos` takes no part in lanes"]);
    refused(&|_| {}, &["-i", "images.sprong-a=x"], &["has no service `sprong-a`; did you mean `spring-a`?"]);
    refused(
        &|_| {},
        &["-i", "images.spring-a=a:v2", "-i", "images.spring-c=registry.example/c:missing"],
        &[
            "ImagePullBackOff",
            "check that image registry.example/c:missing exists",
            "left to look at: Deployment spring-cloud-a-mse-gray, Deployment spring-cloud-c-mse-gray, Secret spring-cloud-a-mse-gray in mse-customer",
        ],
    );
    refused(
        &|_| {},
        &["-i", "images.spring-a=a:v2", "-i", "images.spring-c=registry.example/c:crash"],
        &["(exit code 1)", "last lines of spring-cloud-c-mse-gray"],
    );
    refused(
        &|home| {
            home.edit(
                "config/environments/production.yaml",
                "cluster: rehearsal",
                "cluster: { kubeconfig: nowhere }",
            )
        },
        &[],
        &["kubeconfig", "nowhere cannot be used"],
    );
    let closed = "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{ name: c, cluster: { server: \"http://127.0.0.1:1\" } }]\nusers: [{ name: u, user: {} }]\ncontexts: [{ name: c, context: { cluster: c, user: u } }]\n";
    refused(
        &|home| {
            home.write("config/environments/closed", closed);
            home.edit(
                "config/environments/production.yaml",
                "cluster: rehearsal",
                "cluster: { kubeconfig: closed }",
            );
        },
        &[],
        &["Namespace mse-customer: the cluster cannot be reached", "check the address in the kubeconfig"],
    );
}

#[test]
fn without_environments_a_run_is_refused_and_a_check_says_what_it_left_out() {
    let home = Home::new();
    let run = home.graylane(&["run", "workflows/release.yaml", "--environments", "nowhere"]).expect(2);
    assert!(run.stderr.contains("there is no valid environment file in nowhere"), "{}", run.stderr);
    let checked = home.graylane(&["validate", "workflows", "--environments", "nowhere"]).expect(0);
    assert!(
        checked.stderr.contains("names of environments and services are not checked"),
        "{}",
        checked.stderr
    );
}

#[test]
fn a_failed_promotion_says_that_the_lane_is_still_up() {
    let home = Home::new();
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(0);
    let arguments = ["run", "workflows/prod-workflow.yaml", "-i", "images.spring-c=c:missing"];
    let ran = home.graylane(&arguments).expect(1);
    assert!(
        ran.stdout.contains("still up: lane `gray`; `graylane lanes production` shows it"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_failed_promotion_takes_production_back() {
    let home = Home::new();
    // Production as `kubectl apply` left it has a variable that the manifest no longer has.
    home.graylane(&["lanes", "production"]).expect(0);
    let java = "\n      - env:\n        - name: JAVA_HOME\n          value: /usr/lib/jvm/java-1.8-openjdk/jre\n        image:";
    home.edit("config/services/spring-c.yaml", java, "\n      - image:");
    let ran = home
        .graylane(&[
            "run",
            "workflows/prod-workflow.yaml",
            "-i",
            "images.spring-a=a:v2",
            "-i",
            "images.spring-c=c:missing",
        ])
        .expect(1);
    for words in [
        "ImagePull",
        "Deployment spring-cloud-c was rolled back to registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-c:0.1-SNAPSHOT",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let plan =
        home.graylane(&["plan", "workflows/prod-workflow.yaml", "-i", "images.spring-a=a:v2"]).expect(0);
    assert!(
        plan.stdout.contains("image: registry.cn-shanghai.aliyuncs.com/yizhan/spring-cloud-a:0.1-SNAPSHOT"),
        "{}",
        plan.stdout
    );

    let arguments = ["run", "workflows/prod-workflow.yaml", "-i", "images.spring-c=c:v3"];
    let corrected = home.graylane(&arguments).expect(0);
    assert!(corrected.stdout.contains("production spring-c: c:v3"), "{}", corrected.stdout);
    let nothing =
        home.graylane(&["plan", "workflows/prod-workflow.yaml", "-i", "images.spring-c=c:v3"]).expect(0);
    assert!(nothing.stdout.contains("nothing changes: production is as it should be"), "{}", nothing.stdout);
}

#[test]
fn an_environment_that_does_not_allow_the_workflow_and_a_broken_one_beside_it() {
    let home = Home::new();
    home.edit(
        "config/environments/production.yaml",
        "allow: { workflows: [release, ",
        "allow: { workflows: [",
    );
    let wrong = home.graylane(&["validate", "workflows/release.yaml"]).expect(1);
    assert!(
        wrong.stderr.contains("environment `production` does not allow the workflow `release`"),
        "{}",
        wrong.stderr
    );
    assert!(wrong.stderr.contains("add it to `allow.workflows`"), "{}", wrong.stderr);

    let home = Home::new();
    home.write("config/environments/broken.yaml", "name: broken\ncluser: rehearsal\n");
    let told = home.graylane(&["validate", "workflows"]).expect(1);
    assert!(
        told.stderr.contains("broken.yaml:2:1") && told.stderr.contains("did you mean `cluster`?"),
        "{}",
        told.stderr
    );
    home.graylane(&["run", "workflows/release.yaml", "--only", "deploy"]).expect(0);
}

#[test]
fn a_store_that_is_held_damaged_or_newer_is_code_3() {
    let home = Home::new();
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "tag=Gray"]).expect(1);
    for (condition, runs) in
        [("--tag=Gray", 1), ("--tag=gray", 0), ("--environment=production", 1), ("--status=succeeded", 0)]
    {
        let listed = home.graylane(&["runs", "list", condition, "-o", "json"]).expect(0).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(runs), "{condition}");
    }
    let lock = fs::File::open(home.path("data/lock")).expect("there");
    lock.lock().expect("locked");
    let held = home.graylane(&["runs", "list"]).expect(3);
    assert!(held.stderr.contains("is in use by process") && held.stderr.contains("hint:"), "{}", held.stderr);
    drop(lock);

    fs::write(home.path("data/format"), "9\n").expect("written");
    let newer = home.graylane(&["runs", "list"]).expect(3);
    assert!(newer.stderr.contains("has format 9"), "{}", newer.stderr);
    fs::write(home.path("data/format"), "2\n").expect("written");
    fs::write(home.path("data/store/1/db"), b"").expect("written");
    let damaged = home.graylane(&["runs", "list"]).expect(3);
    assert!(damaged.stderr.contains("damaged") && damaged.stderr.contains("restore"), "{}", damaged.stderr);
}

#[test]
fn a_store_is_checked_backed_up_and_restored_and_every_refusal_is_a_sentence() {
    let home = Home::new();
    home.graylane(&["run", "workflows/mse-gray-workflow.yaml", "-i", "tag=Gray"]).expect(1);
    let checked = home.graylane(&["store", "check"]).expect(0);
    assert!(checked.stdout.starts_with("whole: 1 runs"), "{}", checked.stdout);
    home.graylane(&["store", "compact"]).expect(0);
    let backed = home.graylane(&["store", "backup", "b.backup", "-o", "json"]).expect(0).json();
    assert_eq!((&backed["runs"], &backed["entries"]), (&1.into(), &2.into()));
    home.graylane(&["store", "backup", "b.backup"]).expect(2);
    home.graylane(&["store", "restore", "b.backup"]).expect(2);
    let elsewhere = |arguments: &[&str]| ran(home.command(arguments).env("GRAYLANE_DATA", home.path("new")));
    elsewhere(&["store", "import", "b.backup"]).expect(0);
    let shown = home.graylane(&["runs", "show", "latest", "-o", "json"]).expect(0).stdout;
    let restored = elsewhere(&["runs", "show", "latest", "-o", "json"]).expect(0);
    assert_eq!(restored.stdout, shown);
    // A backup holds no key: who works on with the restored store is told.
    assert!(restored.stderr.contains("digest.key, was missing"), "{}", restored.stderr);

    // What stands in the way of a store, and the words for it.
    let file = home.path("file");
    fs::write(&file, "x").expect("written");
    let foreign = home.path("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("letter.txt"), "dear").expect("written");
    for (data, words) in [
        (&file, "cannot be used"),
        (&foreign, "it holds `letter.txt`, and no store of graylane"),
        (&home.path("file/below"), "cannot be used"),
    ] {
        for command in [&["runs", "list"][..], &["store", "check"], &["audit", "verify"]] {
            let output = home.command(command).env("GRAYLANE_DATA", data).output().expect("ran");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
            assert!(said.contains(words) && said.contains("hint:") && !said.contains("panicked"), "{said}");
        }
    }
    fs::write(home.data().join("sentinel"), 999_u64.to_be_bytes()).expect("written");
    let short = home.graylane(&["runs", "list"]).expect(3);
    assert!(
        short.stderr.contains("acknowledged writes are missing") && short.stderr.contains("--accept-loss"),
        "{}",
        short.stderr
    );
    let accepted = home.graylane(&["store", "check", "--accept-loss"]).expect(0);
    assert!(accepted.stderr.contains("acknowledged writes are lost"), "{}", accepted.stderr);
    home.graylane(&["runs", "list"]).expect(0);
}

/// A damage in the middle of sled's file can make reading it go round in a circle: that ends too, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_page_is_told_in_time_and_never_a_shorter_history() {
    let home = Home::new();
    let runs = 1_500;
    {
        let journal = DiskJournal::open(&home.data()).expect("opened");
        for run in 0..runs {
            let at = Timestamp::from_millis(1_000 + run);
            let record = |seq, event| Record { run: RunId::new(at.millis(), 7), seq: Seq(seq), at, event };
            let submitted = serde_json::from_value(serde_json::json!({
                "event": "run-submitted", "workflow": "w", "revision": Digest::of(b"r"), "bundle": Digest::of(b"b"),
                "inputs": { "padding": "x".repeat(200) }, "trigger": { "kind": "manual" }, "actor": "ann",
            }));
            let ended = Event::RunFinished { outcome: Outcome::Succeeded, reason: None, undone_by: None };
            let records = vec![
                record(1, submitted.expect("an event")),
                record(2, Event::RunAdmitted),
                record(3, ended),
            ];
            journal.append(records).await.expect("written");
        }
    }
    let whole = fs::read(home.path("data/store/1/db")).expect("read");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("not empty");
    let mut told = 0;
    for part in [1, 2, 3] {
        let mut damaged = whole.clone();
        let at = used * part / 4;
        damaged[at..at + 4096].iter_mut().for_each(|byte| *byte ^= 0xff);
        fs::write(home.path("data/store/1/db"), damaged).expect("written");
        let listed = home.graylane(&["runs", "list", "--limit", "1000", "-o", "json"]);
        if listed.code == 0 {
            assert_eq!(listed.json().as_array().map(Vec::len), Some(1_000), "part {part}");
            home.graylane(&["audit", "verify"]).expect(0);
            continue;
        }
        assert_eq!(listed.code, 3, "part {part}: {listed:?}");
        assert!(
            listed.stdout.contains("damaged") && !listed.stderr.contains("panicked"),
            "part {part}: {listed:?}"
        );
        told += 1;
    }
    assert!(told > 0, "one of them hit what is in use");
}

#[test]
fn a_foreign_object_under_a_lanes_name_is_left_alone() {
    let home = Home::new();
    let rehearsal = home.rehearsal("fast");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = rehearsal.client().await;
        let maps: kube::Api<k8s_openapi::api::core::v1::Service> = kube::Api::namespaced(client, "mse-customer");
        let foreign = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "spring-cloud-a-base-mse-gray" }, "spec": { "ports": [{ "port": 1 }], "selector": { "app": "x" } }
        }));
        maps.create(&kube::api::PostParams::default(), &foreign.expect("a Service")).await.expect("created");
    });
    let ran = home.graylane(&["run", "workflows/mse-gray-workflow.yaml"]).expect(1);
    let words = "refused: Service mse-customer/spring-cloud-a-base-mse-gray exists and does not belong to lane `gray`";
    assert!(ran.stdout.contains(words), "{}", ran.stdout);
    assert!(ran.stdout.contains("use another tag, or remove the object"), "{}", ran.stdout);
}

#[test]
fn a_data_folder_with_a_long_path_works_too() {
    let home = Home::new();
    let long = home.path(&"long-".repeat(30));
    let run = ["run", "workflows/mse-gray-workflow.yaml", "-i", "tag=Gray"];
    let failed = home.command(&run).env("GRAYLANE_DATA", &long).output().expect("ran");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&long).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o700, "what runs were given is their owner's alone");
    assert!(!files_below(&long).is_empty());
}

#[test]
fn a_code_host_gets_problems_as_sarif() {
    let home = Home::new();
    home.write(
        "workflows/灰 度.yaml",
        "name: w\ntimeot: 2h\ntasks:\n  a: { type: approval, with: { approvals: 2, from: [bob] } }\n",
    );
    let log = home.graylane(&["validate", "./workflows", "-o", "sarif"]).expect(1).json();
    assert_eq!(log["version"], "2.1.0");
    let results = log["runs"][0]["results"].as_array().expect("results");
    let told: Vec<String> = results
        .iter()
        .map(|result| {
            let place = &result["locations"][0]["physicalLocation"];
            format!(
                "{} {}:{}: {}",
                result["level"].as_str().expect("a level"),
                place["artifactLocation"]["uri"].as_str().expect("a place"),
                place["region"]["startLine"],
                result["message"]["text"].as_str().expect("a text")
            )
        })
        .collect();
    let file = "workflows/%E7%81%B0%20%E5%BA%A6.yaml";
    assert!(told[0].starts_with(&format!("error {file}:2: unknown key `timeot`")), "{told:?}");
    assert_eq!(told[1], format!("error {file}:4: 2 must agree, but `from` names only 1"));
    let clean = home.graylane(&["validate", "workflows/release.yaml", "-o", "sarif"]).expect(0).json();
    assert_eq!(clean["runs"][0]["results"].as_array().map(Vec::len), Some(0));
    let refused = home.graylane(&["runs", "list", "-o", "sarif"]).expect(2);
    assert!(refused.stderr.contains("`-o sarif` is for `graylane validate` alone"), "{refused:?}");
}

#[test]
fn output_that_cannot_be_written_is_told_and_is_code_3() {
    let home = Home::new();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("opened");
    let output = home.command(&["schema", "workflow"]).stdout(full).output().expect("started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("the output cannot be written"), "{told}");
}

#[test]
fn settings_show_what_holds_where_it_came_from_and_no_secret() {
    let home = Home::new();
    home.write(
        "graylane.yaml",
        "drain: 1m\nvars: { team: shop }\nsecrets: { registry: { env: REGISTRY } }\nnotify: [{ url: \"https://hooks.example.com/T0/hunter2\" }]\n",
    );
    let mut command = home.command(&["--config", "graylane.yaml", "settings", "-o", "json"]);
    let shown = crate::support::ran(command.env("REGISTRY", "hunter3").env("GRAYLANE_LISTEN", "[::1]:9"));
    let rows = shown.expect(0).json();
    let row = |name: &str| {
        let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["setting"] == name));
        found.unwrap_or_else(|| panic!("no {name} in {rows}")).clone()
    };
    let told = |name: &str| {
        let row = row(name);
        format!("{} {} {}", row["value"], row["origin"], row["from"])
    };
    assert_eq!(told("drain"), r#""1m00s" "file" "graylane.yaml:1""#);
    assert_eq!(told("listen"), r#""[::1]:9" "variable" "GRAYLANE_LISTEN""#);
    assert_eq!(told("allow_insecure"), r#"false "default" null"#);
    assert_eq!(told("vars.team"), r#""shop" "file" "graylane.yaml:2""#);
    assert_eq!(told("secrets.registry"), r#""read from the variable REGISTRY" "file" "graylane.yaml:3""#);
    assert_eq!(told("notify[0]"), r#""https://hooks.example.com/..." "file" "graylane.yaml:4""#);
    assert!(!rows.to_string().contains("hunter"), "{rows}");

    let text = home.graylane(&["settings"]).expect(0).stdout;
    assert!(text.contains("GRAYLANE_DATA") && text.contains("config/graylane.yaml:"), "{text}");

    let mut typo = home.command(&["settings"]);
    let refused = crate::support::ran(typo.env("GRAYLANE_DTAA", "x")).expect(2);
    assert!(refused.stderr.contains("did you mean `GRAYLANE_DATA`?"), "{}", refused.stderr);
}
