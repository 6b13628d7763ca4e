//! Stories of a daemon with its sources: a real store, real folders, real repositories, the API as a client meets it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use graylane_engine::scheduler::Mode;
use graylane_engine::trigger::Catalogue;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::api::server::Peer;
use crate::settings::{GitAt, Given, Source, SourceAt};

mod attached;

/// A workflow that a cluster is not needed for.
fn workflow(name: &str, description: &str) -> String {
    format!(
        "name: {name}\ndescription: {description}\ntasks:\n  a:\n    type: mse-gray-offline\n    when: ${{{{ false }}}}\n    with: {{ environment: production, tag: gray }}\n"
    )
}

/// A home with the operator's files, settings, and a folder of workflows.
struct Home {
    folder: TempDir,
    settings: Settings,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().expect("made");
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config");
        for part in ["environments", "services"] {
            fs::create_dir(folder.path().join(part)).expect("made");
            for entry in fs::read_dir(here.join(part)).expect("readable").flatten() {
                fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).expect("copied");
            }
        }
        fs::create_dir(folder.path().join("flows")).expect("made");
        let file = folder.path().join("graylane.yaml");
        fs::write(&file, "data: data\nsources: [{ name: team, folder: flows }]\naudit: { key: no.key }\n")
            .expect("written");
        let given = Given::default().flag("--config", Some(file.display()));
        let settings = Settings::resolve(&given).expect("right");
        Home { folder, settings }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    async fn start(&self) -> Running {
        let tell: crate::rehearse::Tell = Arc::new(|_| {});
        let holder = Holder::open(&self.settings, Mode::Work, tell).await.expect("opened");
        let daemon = Daemon::start(&self.settings, &holder).await.expect("started");
        Running { holder, daemon }
    }
}

struct Running {
    holder: Holder,
    daemon: Daemon,
}

impl Running {
    /// Waits until the catalogue is like that; the limit is for a broken test.
    async fn until(&self, what: &str, like: impl Fn(&Catalogue) -> bool) -> Arc<Catalogue> {
        let mut catalogue = self.holder.state.catalogue.clone();
        let found = tokio::time::timeout(Duration::from_secs(60), catalogue.wait_for(|now| like(now))).await;
        let found = found.map(|found| Arc::clone(&found.expect("published")));
        found.unwrap_or_else(|_| panic!("{what}: {:?}", self.holder.state.catalogue.borrow()))
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", "application/json");
        request = request.extension(Peer::Socket);
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let router = crate::api::router(self.holder.state.clone());
        let answer = router.oneshot(request.body(body).expect("made")).await.expect("answered");
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("read");
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.call("POST", path, Some(body)).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Runs a workflow by its name, and gives the run when it is final.
    async fn run(&self, workflow: &str) -> Value {
        let submitted = self.post(&format!("/api/v1/workflows/{workflow}/runs"), serde_json::json!({})).await;
        let path = format!("/api/v1/runs/{}", submitted["id"].as_str().expect("an id"));
        let mut updates = self.holder.engine.watch();
        loop {
            let run = self.get(&path).await;
            if !run["outcome"].is_null() {
                return run;
            }
            // Something happens, or it was too much to be told of.
            let _ = updates.recv().await;
        }
    }

    async fn stop(self) {
        self.daemon.close().await;
        self.holder.close().await;
    }
}

/// The revision of a workflow, and how many errors its file has now.
fn of(catalogue: &Catalogue, workflow: &str) -> Option<(String, usize)> {
    let known = catalogue.workflows.get(&workflow.parse().expect("SOURCE/NAME"))?;
    let good = known.good.as_ref()?;
    Some((good.graph.description.clone().unwrap_or_default(), known.problems.len()))
}

fn is(catalogue: &Catalogue, workflow: &str, description: &str, problems: bool) -> bool {
    of(catalogue, workflow).is_some_and(|(found, count)| found == description && (count > 0) == problems)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_last_good_revision_over_a_restart_too() {
    let home = Home::new();
    home.write("flows/release.yaml", &workflow("release", "one"));
    let daemon = home.start().await;
    daemon.until("taken", |now| is(now, "team/release", "one", false)).await;
    let first = daemon.get("/api/v1/workflows/team/release").await["revision"].clone();

    home.write("flows/release.yaml", "name: release\ntsks: {}\n");
    daemon.until("broken", |now| is(now, "team/release", "one", true)).await;
    let shown = daemon.get("/api/v1/workflows/team/release").await;
    assert_eq!(shown["revision"], first);
    let line = shown["problems"].as_array().and_then(|all| all.iter().find(|problem| problem["line"] == 2));
    assert!(line.is_some_and(|problem| problem["message"] == "unknown key `tsks`"), "{shown}");
    let (_, metrics) = daemon.call("GET", "/metrics", None).await;
    assert!(metrics.contains("graylane_source_problems{source=\"team\",severity=\"error\"} "), "{metrics}");
    assert!(!metrics.contains("graylane_source_problems{source=\"team\",severity=\"error\"} 0"), "{metrics}");
    daemon.stop().await;

    // Nobody can tell the file's bytes any more but the store.
    let daemon = home.start().await;
    assert!(of(&daemon.holder.state.catalogue.borrow(), "team/release").is_some(), "it is there at once");
    daemon.until("read", |now| is(now, "team/release", "one", true)).await;
    let run = daemon.run("team/release").await;
    assert_eq!((&run["outcome"], &run["revision"]), (&"succeeded".into(), &first));
    assert_eq!(run["source"]["name"], "team");
    assert!(run["source"]["path"].as_str().is_some_and(|path| path.ends_with("flows/release.yaml")), "{run}");

    home.write("flows/release.yaml", &workflow("release", "two"));
    daemon.until("mended", |now| is(now, "team/release", "two", false)).await;
    fs::remove_file(home.path("flows/release.yaml")).expect("removed");
    daemon.until("gone", |now| now.workflows.is_empty()).await;
    let history = daemon.get("/api/v1/workflows/team/release/history").await;
    let deeds: Vec<&str> =
        history.as_array().expect("a list").iter().filter_map(|deed| deed["deed"].as_str()).collect();
    assert_eq!(deeds, ["workflow-taken", "workflow-taken", "workflow-gone"], "{history}");
    assert_eq!(history[0]["revision"], first);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_vanishes_takes_nothing_down_and_the_operators_files_are_followed() {
    let home = Home::new();
    home.write("flows/release.yaml", &workflow("release", "one"));
    let daemon = home.start().await;
    daemon.until("taken", |now| is(now, "team/release", "one", false)).await;
    fs::rename(home.path("flows"), home.path("away")).expect("moved");
    let source = |now: &Catalogue| now.sources.values().next().expect("a source").problem.clone();
    let now = daemon.until("told", |now| source(now).is_some()).await;
    assert!(source(&now).is_some_and(|words| words.starts_with("there is no folder ")), "{:?}", source(&now));
    assert!(is(&now, "team/release", "one", false), "what was good stays");
    fs::rename(home.path("away"), home.path("flows")).expect("moved");
    daemon.until("back", |now| source(now).is_none()).await;

    // Environments are the operator's: without this one the file cannot be taken, and what was taken stays.
    let production = fs::read_to_string(home.path("environments/production.yaml")).expect("readable");
    home.write("environments/production.yaml", &production.replace("name: production", "name: staging"));
    let now = daemon.until("noticed", |now| is(now, "team/release", "one", true)).await;
    let good = now.workflows.values().next().and_then(|known| known.good.clone()).expect("good");
    assert!(good.bundle.get("environments/production.json").is_none(), "no older environment is used");
    daemon.stop().await;
}

/// The source `team`: a repository that is looked at often.
fn team(repository: &std::path::Path) -> Source {
    Source {
        name: "team".into(),
        at: SourceAt::Git(GitAt {
            url: format!("file://{}", repository.display()),
            branch: "main".into(),
            folder: "workflows".into(),
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(60),
        }),
    }
}

fn git(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_followed_through_bad_commits_a_rewritten_branch_and_its_absence() {
    let mut home = Home::new();
    let repository = home.path("repository");
    fs::create_dir_all(repository.join("workflows")).expect("made");
    git(&repository, &["init", "--quiet", "--initial-branch=main", "."]);
    let commit = |text: &str, arguments: &[&str]| {
        fs::write(repository.join("workflows/release.yaml"), text).expect("written");
        git(&repository, &["add", "--all"]);
        git(&repository, &[&["commit", "--quiet", "-m", "change"], arguments].concat());
        git(&repository, &["rev-parse", "HEAD"])
    };
    let first = commit(&workflow("release", "one"), &[]);
    home.settings.sources = vec![team(&repository)];
    let daemon = home.start().await;
    daemon.until("fetched", |now| is(now, "team/release", "one", false)).await;
    let run = daemon.run("team/release").await;
    assert_eq!(
        run["source"],
        serde_json::json!({ "name": "team", "path": "workflows/release.yaml", "commit": first })
    );

    let bad = commit("name: release\ntsks: {}\n", &[]);
    let source = |now: &Catalogue| now.sources.values().next().expect("a source").clone();
    let now = daemon.until("told", |now| is(now, "team/release", "one", true)).await;
    assert_eq!(source(&now).commit.as_deref(), Some(bad.as_str()));
    assert_eq!(daemon.run("team/release").await["source"]["commit"], first, "the last good one runs");

    // The branch forgets the bad commit and the first one: the bytes are the same, their commit is another.
    git(&repository, &["checkout", "--quiet", "--orphan", "new"]);
    let orphan = commit(&workflow("release", "one"), &[]);
    git(&repository, &["branch", "-M", "new", "main"]);
    let now = daemon
        .until("rewritten", |now| {
            source(now).commit.as_deref() == Some(orphan.as_str()) && is(now, "team/release", "one", false)
        })
        .await;
    assert!(source(&now).note.is_some_and(|note| note.contains("was rewritten")), "told");
    assert_eq!(daemon.run("team/release").await["source"]["commit"], orphan);

    git(&repository, &["branch", "-m", "main", "trunk"]);
    let now = daemon.until("no branch", |now| source(now).problem.is_some()).await;
    assert!(source(&now).problem.is_some_and(|words| words.contains("has no branch `main`")));
    assert!(is(&now, "team/release", "one", false));
    daemon.stop().await;

    // After a restart beside a remote that is away.
    fs::rename(&repository, home.path("away")).expect("moved");
    let daemon = home.start().await;
    daemon.until("away", |now| source(now).problem.is_some()).await;
    let run = daemon.run("team/release").await;
    assert_eq!((&run["outcome"], &run["source"]["commit"]), (&"succeeded".into(), &orphan.into()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_says_who_and_why_and_is_in_the_history() {
    let home = Home::new();
    home.write("flows/release.yaml", &workflow("release", "one"));
    let daemon = home.start().await;
    daemon.until("taken", |now| is(now, "team/release", "one", false)).await;
    let asked = serde_json::json!({ "actor": "ann", "reason": "sale" });
    daemon.post("/api/v1/workflows/team/release/pause", asked.clone()).await;
    let listed = daemon.get("/api/v1/workflows").await;
    let paused = &listed["workflows"][0]["paused"];
    assert_eq!((&paused["by"], &paused["reason"]), (&"ann".into(), &"sale".into()));
    let (status, body) =
        daemon.call("POST", "/api/v1/workflows/team/release/pause", Some(asked.clone())).await;
    assert!(status == 409 && body.contains("is paused already: by ann"), "{status} {body}");
    let (status, _) = daemon.call("POST", "/api/v1/workflows/team/relaese/pause", Some(asked)).await;
    assert_eq!(status, 404);
    daemon.post("/api/v1/workflows/team/release/unpause", serde_json::json!({ "actor": "bob" })).await;
    assert!(daemon.get("/api/v1/workflows/team/release").await["paused"].is_null());
    let history = daemon.get("/api/v1/workflows/team/release/history").await;
    let told: Vec<String> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|deed| format!("{} {}", deed["by"], deed["what"]))
        .collect();
    assert_eq!(told[1..], ["\"ann\" \"paused team/release: sale\"", "\"bob\" \"unpaused team/release\""]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_bound_to_the_sources_that_it_allows() {
    let refused = "does not allow workflows of the source `team`";
    // What comes next in a plan, and fails too: nothing is asked of a cluster.
    let passed = "`soon`";
    // The last is the control: the same without the rule.
    for (rule, says) in [("sources: [team],", passed), ("sources: [other],", refused), ("", passed)] {
        let home = Home::new();
        let production = fs::read_to_string(home.path("environments/production.yaml")).expect("readable");
        assert!(production.contains("allow: {"), "{production}");
        home.write(
            "environments/production.yaml",
            &production.replace("allow: {", &format!("allow: {{ {rule}")),
        );
        let text = workflow("release", "one")
            .replace("    when: ${{ false }}\n", "")
            .replace("tag: gray }", "tag: gray, drain: \"${{ inputs.drain }}\" }")
            + "inputs: { drain: { type: string, default: soon } }\n";
        home.write("flows/release.yaml", &text);
        let daemon = home.start().await;
        daemon.until("taken", |now| is(now, "team/release", "one", false)).await;
        let run = daemon.run("team/release").await;
        assert_eq!(run["outcome"], "failed", "{run}");
        let said = run["tasks"][0]["error"]["message"].as_str().expect("why");
        assert!(said.contains(says), "{rule}: {said}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_life_are_told_part_by_part_and_each_can_fail() {
    let home = Home::new();
    home.write("flows/release.yaml", &workflow("release", "one"));
    let daemon = home.start().await;
    daemon.until("taken", |now| is(now, "team/release", "one", false)).await;
    let parts = async |daemon: &Running, path: &str| {
        let (status, body) = daemon.call("GET", path, None).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let failed = body["parts"].as_array().expect("parts").iter().filter(|part| part["ok"] == false);
        (status, failed.map(|part| part["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(parts(&daemon, "/readyz").await, (200, none.clone()));
    assert_eq!(parts(&daemon, "/healthz").await, (200, none.clone()));

    fs::rename(home.path("data"), home.path("lost")).expect("moved");
    assert_eq!(parts(&daemon, "/readyz").await, (503, vec!["store".into()]));
    assert_eq!(parts(&daemon, "/healthz").await, (200, none.clone()), "a new process would not help");
    fs::rename(home.path("lost"), home.path("data")).expect("moved");
    assert_eq!(parts(&daemon, "/readyz").await, (200, none.clone()));

    daemon.holder.catalogue.send_modify(|now| {
        let mut unread = Catalogue::clone(now);
        unread.sources.values_mut().for_each(|source| source.read_at = None);
        *now = Arc::new(unread);
    });
    assert_eq!(parts(&daemon, "/readyz").await, (503, vec!["sources".into()]));

    daemon.daemon.stopping(Duration::from_secs(1));
    let (status, failed) = parts(&daemon, "/readyz").await;
    assert!(status == 503 && failed.contains(&"draining".to_owned()), "{failed:?}");
    assert_eq!(parts(&daemon, "/healthz").await.0, 200);

    daemon.holder.engine.shutdown().await;
    assert_eq!(parts(&daemon, "/healthz").await, (503, vec!["engine".into()]));
    daemon.stop().await;
}
