//! Files that a workflow names beside itself, through sources: taken with it, told with it, and kept without their source.

use graylane_engine::bundle::Bundle;
use graylane_engine::id::Digest;
use graylane_engine::journal::Journal as _;

use super::*;

/// A workflow that names a file; nothing of it runs.
fn names(file: &str) -> String {
    workflow("release", "one").replace(
        "type: mse-gray-offline\n    when: ${{ false }}\n    with: { environment: production, tag: gray }\n",
        &format!(
            "type: mse-gray-deploy\n    when: ${{{{ false }}}}\n    with:\n      environment: production\n      tag: gray\n      services:\n        spring-a:\n          patches:\n            - {{ target: {{ kind: Deployment, name: spring-cloud-a }}, file: {file} }}\n"
        ),
    )
}

/// The line of the file that it names.
const LINE: u64 = 13;

fn replicas(count: u32) -> String {
    format!("spec: {{ replicas: {count} }}\n")
}

/// The revision that holds, and whether the file is wrong now.
fn holds(catalogue: &Catalogue) -> Option<(String, bool)> {
    let known = catalogue.workflows.values().next()?;
    Some((known.good.as_ref()?.revision.to_string(), !known.problems.is_empty()))
}

impl Running {
    async fn until_revision(&self, what: &str, other_than: &str) -> String {
        let right = |now: &Catalogue| holds(now).filter(|(found, wrong)| !wrong && found != other_than);
        let now = self.until(what, |now| right(now).is_some()).await;
        right(&now).expect("it holds").0
    }

    /// The problem of the workflow's file, at the line that names the other file; what was good stays.
    async fn refuses(&self, good: &str, words: &str) {
        let told = |now: &Catalogue| {
            let known = now.workflows.values().next()?;
            let found = known.problems.iter().find(|problem| problem.message.contains(words))?;
            Some((found.place.as_ref()?.line as u64, known.good.as_ref()?.revision.to_string()))
        };
        let now = self.until(words, |now| told(now).is_some()).await;
        assert_eq!(told(&now), Some((LINE, good.to_owned())), "{words}");
    }

    /// Runs it; gives the revision that ran and how often its patch wants the service.
    async fn ran(&self) -> (String, Value) {
        let run = self.run("team/release").await;
        assert_eq!(run["outcome"], "succeeded", "{run}");
        let digest: Digest = run["bundle"].as_str().and_then(|text| text.parse().ok()).expect("a digest");
        let bundle =
            Bundle::from_bytes(&self.holder.state.journal.get(&digest).expect("kept")).expect("a bundle");
        let (_, patch) = bundle.below("attached/").next().expect("the file is sealed with the run");
        let patch: Value = serde_json::from_slice(patch).expect("JSON");
        (run["revision"].as_str().expect("a digest").to_owned(), patch["spec"]["replicas"].clone())
    }

    /// What was taken, in words, oldest first.
    async fn taken(&self) -> Vec<String> {
        let history = self.get("/api/v1/workflows/team/release/history").await;
        let deeds = history.as_array().expect("a list").iter();
        deeds.map(|deed| deed["what"].as_str().expect("words").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_gives_a_workflow_whole_and_a_restart_without_it_still_has_all() {
    let home = Home::new();
    fs::create_dir(home.path("flows/patches")).expect("made");
    let (file, patch) = ("flows/release.yaml", "flows/patches/more.txt");
    home.write(patch, &replicas(2));
    home.write(file, &names("patches/more.txt"));
    let daemon = home.start().await;
    let first = daemon.until_revision("taken", "").await;
    assert_eq!(daemon.ran().await, (first.clone(), 2.into()));

    home.write(patch, &replicas(10));
    let second = daemon.until_revision("the patch alone has changed", &first).await;
    assert_eq!(daemon.ran().await, (second.clone(), 10.into()));
    let taken = daemon.taken().await;
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken.iter().all(|words| words.ends_with("release.yaml, with patches/more.txt")), "{taken:?}");

    // What cannot be had is told at its line, and what was good stays.
    fs::remove_file(home.path(patch)).expect("removed");
    daemon.refuses(&second, "`patches/more.txt` cannot be read").await;
    home.write(patch, &"#".repeat(1024 * 1024 + 1));
    daemon.refuses(&second, "`patches/more.txt` is larger than 1024 KiB").await;
    home.write(patch, "only words\n");
    daemon.refuses(&second, "`patches/more.txt` is no patch").await;
    fs::remove_file(home.path(patch)).expect("removed");
    home.write("outside.yaml", &replicas(100));
    std::os::unix::fs::symlink(home.path("outside.yaml"), home.path(patch)).expect("linked");
    daemon.refuses(&second, "`patches/more.txt` leads out of the workflow's folder").await;
    home.write(file, &names("../outside.yaml"));
    daemon.refuses(&second, "`../outside.yaml` leads out of the workflow's folder").await;
    assert_eq!(daemon.ran().await, (second.clone(), 10.into()), "the last good one runs");
    daemon.stop().await;

    fs::rename(home.path("flows"), home.path("away")).expect("moved");
    let daemon = home.start().await;
    let problem = |now: &Catalogue| now.sources.values().any(|source| source.problem.is_some());
    daemon.until("the folder is away", problem).await;
    assert_eq!(daemon.ran().await, (second, 10.into()));
    assert!(daemon.holder.state.journal.check().problems.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_gives_a_workflow_whole_and_a_remote_that_is_away_takes_nothing_back() {
    let mut home = Home::new();
    let repository = home.path("repository");
    fs::create_dir_all(repository.join("workflows/patches")).expect("made");
    git(&repository, &["init", "--quiet", "--initial-branch=main", "."]);
    let commit = || {
        git(&repository, &["add", "--all"]);
        git(&repository, &["commit", "--quiet", "-m", "change"]);
    };
    let patch = repository.join("workflows/patches/more.txt");
    fs::write(repository.join("workflows/release.yaml"), names("./patches/more.txt")).expect("written");
    fs::write(&patch, replicas(2)).expect("written");
    commit();
    home.settings.sources = vec![team(&repository)];
    let daemon = home.start().await;
    let first = daemon.until_revision("fetched", "").await;
    fs::write(&patch, replicas(10)).expect("written");
    commit();
    let second = daemon.until_revision("the patch alone has changed", &first).await;
    assert_eq!(daemon.ran().await, (second.clone(), 10.into()));
    assert_eq!(daemon.taken().await.len(), 2);

    fs::remove_file(&patch).expect("removed");
    commit();
    daemon.refuses(&second, "`./patches/more.txt` is not in commit ").await;
    std::os::unix::fs::symlink("/etc/passwd", &patch).expect("linked");
    commit();
    daemon.refuses(&second, "`./patches/more.txt` is a symbolic link").await;
    fs::remove_file(&patch).expect("removed");
    fs::write(&patch, "#".repeat(1024 * 1024 + 1)).expect("written");
    commit();
    daemon.refuses(&second, "`./patches/more.txt` is larger than 1024 KiB").await;
    fs::write(repository.join("outside.txt"), replicas(100)).expect("written");
    fs::write(repository.join("workflows/release.yaml"), names("../outside.txt")).expect("written");
    commit();
    daemon.refuses(&second, "`../outside.txt` leads out of the workflow's folder").await;
    daemon.stop().await;

    // Neither the remote nor what was fetched from it.
    fs::rename(&repository, home.path("away")).expect("moved");
    fs::remove_dir_all(home.path("data/sources")).expect("removed");
    let daemon = home.start().await;
    daemon.until("away", |now| now.sources.values().any(|source| source.problem.is_some())).await;
    assert_eq!(daemon.ran().await, (second, 10.into()));
    daemon.stop().await;
}
