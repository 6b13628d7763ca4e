//! A branch of real repositories: on disk, and behind listeners that misbehave.

use std::path::Path;
use std::process::Command as Process;

use tempfile::TempDir;

use super::*;

/// A repository with one workflow, a bare clone of nothing yet, and Git without the machine's own configuration.
struct Story {
    home: TempDir,
}

impl Story {
    fn new() -> Story {
        let story = Story { home: tempfile::tempdir().expect("made") };
        std::fs::create_dir(story.repository()).expect("made");
        story.git(&["init", "--quiet", "--initial-branch=main", "."]);
        story.write("workflows/release.yaml", "one");
        story.commit("first");
        story
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("repository")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Process::new("git")
            .args(["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(self.repository())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.repository().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn source(&self) -> Git {
        self.source_at(format!("file://{}", self.repository().display()), Duration::from_secs(60))
    }

    fn source_at(&self, url: String, timeout: Duration) -> Git {
        let interval = Duration::from_secs(60);
        let at = GitAt { url, branch: "main".into(), folder: "workflows".into(), interval, timeout };
        Git::new(at, self.objects())
    }

    fn objects(&self) -> PathBuf {
        self.home.path().join("objects")
    }
}

fn files(found: &Found) -> Vec<(&str, &str)> {
    let text = |bytes: &'_ [u8]| std::str::from_utf8(bytes).expect("text").to_owned().leak() as &str;
    found.files.iter().map(|(path, bytes)| (path.as_str(), text(bytes))).collect()
}

#[tokio::test]
async fn a_first_fetch_tells_files_and_commit_and_the_next_one_only_what_is_new() {
    let story = Story::new();
    story.write("workflows/team/hotfix.yml", "two");
    story.write("workflows/.draft.yaml", "hidden");
    story.write("workflows/README.md", "no workflow");
    story.write("elsewhere/other.yaml", "not in the folder");
    let commit = story.commit("more");
    let mut source = story.source();
    let found = source.look().await.expect("reachable").expect("something new");
    assert_eq!(files(&found), [("workflows/release.yaml", "one"), ("workflows/team/hotfix.yml", "two")]);
    assert_eq!(found.commit.as_deref(), Some(commit.as_str()));
    assert_eq!(source.look().await, Ok(None), "nothing is new");

    story.write("workflows/release.yaml", "three");
    let commit = story.commit("change");
    let found = source.look().await.expect("reachable").expect("something new");
    assert_eq!(files(&found)[0], ("workflows/release.yaml", "three"));
    assert_eq!((found.commit, found.note), (Some(commit.clone()), None));
    assert!(!story.objects().join("workflows").exists(), "nothing is checked out");

    // After a restart it tells once more, and knows where the branch was.
    let found = story.source().look().await.expect("reachable").expect("told");
    assert_eq!((found.commit, found.note), (Some(commit), None));
    story.git(&["commit", "--quiet", "--amend", "-m", "another past"]);
    let found = story.source().look().await.expect("reachable").expect("told");
    assert!(found.note.is_some(), "rewritten while nobody looked");
}

#[tokio::test]
async fn a_branch_that_was_rewritten_is_taken_and_told() {
    let story = Story::new();
    let mut source = story.source();
    source.look().await.expect("reachable").expect("new");
    story.write("workflows/release.yaml", "rewritten");
    story.git(&["add", "--all"]);
    story.git(&["commit", "--quiet", "--amend", "-m", "another past"]);
    let found = source.look().await.expect("reachable").expect("new");
    assert_eq!(files(&found), [("workflows/release.yaml", "rewritten")]);
    let note = found.note.expect("told");
    assert!(note.starts_with("the branch main was rewritten: "), "{note}");
}

#[tokio::test]
async fn what_is_not_there_is_told_and_comes_back() {
    let story = Story::new();
    let mut source = story.source();
    source.look().await.expect("reachable").expect("new");

    story.git(&["branch", "-m", "main", "trunk"]);
    let trouble = source.look().await.expect_err("no branch");
    assert!(trouble.message.ends_with("has no branch `main`"), "{trouble}");
    story.git(&["branch", "-m", "trunk", "main"]);
    assert_eq!(source.look().await, Ok(None), "it is where it was");

    story.git(&["mv", "workflows", "flows"]);
    story.commit("moved");
    let trouble = source.look().await.expect_err("no folder");
    assert!(trouble.message.contains("has no folder `workflows`"), "{trouble}");

    std::fs::rename(story.repository(), story.home.path().join("away")).expect("moved");
    let trouble = source.look().await.expect_err("no repository");
    assert!(trouble.message.contains("does not appear to be a git repository"), "{trouble}");
}

#[tokio::test]
async fn a_deleted_file_is_not_found_and_a_link_is_a_problem() {
    let story = Story::new();
    story.write("workflows/b.yaml", "b");
    story.commit("two");
    let mut source = story.source();
    assert_eq!(source.look().await.expect("reachable").expect("new").files.len(), 2);
    story.git(&["rm", "--quiet", "workflows/b.yaml"]);
    std::os::unix::fs::symlink("/etc/passwd", story.repository().join("workflows/c.yaml")).expect("linked");
    story.commit("one gone, one link");
    let found = source.look().await.expect("reachable").expect("new");
    assert_eq!(files(&found), [("workflows/release.yaml", "one")]);
    assert_eq!(found.problems.len(), 1);
    assert!(found.problems[0].message.contains("symbolic link"), "{:?}", found.problems);
}

#[tokio::test]
async fn a_remote_that_never_answers_is_cut_off_with_its_helpers() {
    let story = Story::new();
    // It accepts in the kernel's queue, and nobody ever reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = silent.local_addr().expect("bound").port();
    for scheme in ["git", "http"] {
        let url = format!("{scheme}://127.0.0.1:{port}/team/shop.git");
        let mut source = story.source_at(url.clone(), Duration::from_millis(700));
        let trouble = source.look().await.expect_err("cut off");
        assert!(trouble.message.contains("did not answer within 700ms and was cut off"), "{trouble}");
        assert_eq!(processes_that_name(&url), Vec::<String>::new(), "no helper is left");
    }
}

/// Processes whose command line has this text, zombies aside.
fn processes_that_name(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // A killed process needs a moment to be gone; the bound is for a broken test.
    for _ in 0..200 {
        found.clear();
        for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if entry.path() != Path::new("/proc/self") && line.contains(text) {
                found.push(line);
            }
        }
        if found.is_empty() {
            break;
        }
        std::thread::yield_now();
    }
    found
}

#[tokio::test]
async fn a_remote_that_asks_for_a_password_gets_none_and_no_word_has_one() {
    let story = Story::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let asked = tokio::spawn(async move {
        let mut asked = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            asked += 1;
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        asked
    });
    let url = format!("http://127.0.0.1:{port}/shop.git");
    let mut source = story.source_at(url, Duration::from_secs(60));
    let trouble = source.look().await.expect_err("refused");
    assert!(trouble.message.contains("could not read Username"), "{trouble}");
    assert!(trouble.hint.as_deref().is_some_and(|hint| hint.contains("credential helper")), "{trouble:?}");
    asked.abort();

    let words = "remote: hi\u{1b}[31m\nfatal: unable to access 'https://ann:hunter2@h/r/': nope\n";
    let shown = source.trouble(words).to_string();
    assert!(!shown.contains("hunter2") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_remote_that_fails_is_asked_less_and_less() {
    let minute = Duration::from_secs(60);
    let waits: Vec<u64> = (0..6).map(|failed| pause(minute, failed).as_secs()).collect();
    assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    assert_eq!(pause(Duration::from_secs(3600), 9).as_secs(), 3600);
}
