//! A branch of a Git repository, fetched by the program `git` into a bare repository of the data folder.
//!
//! Nothing of it is ever checked out: files are read as objects, so no hook, filter or symbolic link of the repository means
//! anything here. Git gets no terminal, asks nobody, speaks five protocols, and is cut off with all its helpers when its
//! time is up. Only what `git` needs of the environment reaches it, and no secret is in an address or in an error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use graylane_engine::document::file_problem;
use graylane_tasks::attached::{self, Unread};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::files::{Found, MAX_FILE, MAX_FILES, Trouble, is_workflow_file};
use crate::settings::{GitAt, public_url};

/// How many commits of the branch are fetched: enough to see whether it was rewritten, and never a whole history.
const DEPTH: usize = 50;
/// The most that is read of what Git puts out.
const MAX_OUTPUT: u64 = 64 * 1024 * 1024;
/// The most that is read of all files together that workflows name.
const MAX_ATTACHED: u64 = MAX_OUTPUT / 2;
/// The most that is read of what Git says about an error.
const MAX_WORDS: u64 = 64 * 1024;

/// What Git may see of the environment: where programs, keys, helpers and proxies are.
const PASSED_ON: [&str; 24] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_SSL_CAINFO",
    "GIT_SSL_NO_VERIFY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "GIT_EXEC_PATH",
];

/// A file as a commit lists it.
struct Blob {
    object: String,
    size: u64,
    is_link: bool,
}

impl Blob {
    fn is_large(&self) -> bool {
        self.size > MAX_FILE
    }
}

/// A branch of a repository, and where its objects are kept.
#[derive(Debug)]
pub(crate) struct Git {
    at: GitAt,
    objects: PathBuf,
    /// The commit whose files were told last.
    told: Option<String>,
}

impl Git {
    /// `objects` is a folder for this repository alone. The first look always tells.
    pub(crate) fn new(at: GitAt, objects: PathBuf) -> Git {
        Git { at, objects, told: None }
    }

    /// Asks the remote for news; `None` where the branch is where it was.
    pub(crate) async fn look(&mut self) -> Result<Option<Found>, Trouble> {
        let limit = self.at.timeout;
        let looked = tokio::time::timeout(limit, self.fetch_and_read()).await;
        // What is dropped here ends with everything that it started.
        let found = looked.map_err(|_| {
            let limit = graylane_engine::clock::show_duration(limit);
            Trouble::new(format!("{} did not answer within {limit} and was cut off", self.whom()))
                .hint("check the network; `timeout` of the source gives it more time")
        })??;
        if let Some(found) = &found {
            self.told.clone_from(&found.commit);
        }
        Ok(found)
    }

    fn whom(&self) -> String {
        public_url(&self.at.url)
    }

    async fn fetch_and_read(&self) -> Result<Option<Found>, Trouble> {
        if !self.objects.join("HEAD").exists() {
            std::fs::create_dir_all(&self.objects).map_err(|error| {
                Trouble::new(format!("the folder {} cannot be made: {error}", self.objects.display()))
            })?;
            self.git(&["init", "--quiet", "--bare", "."], &[]).await?;
        }
        let branch = &self.at.branch;
        let kept = "refs/graylane/branch";
        // Before the first look of this process: where the last one left the branch.
        let before = self.git(&["rev-parse", "--verify", "--quiet", kept], &[]).await.ok().map(text);
        let reference = format!("+refs/heads/{branch}:{kept}");
        let depth = format!("--depth={DEPTH}");
        let fetch = [
            "fetch",
            "--quiet",
            "--force",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            &depth,
            "--",
            &self.at.url,
            &reference,
        ];
        self.git(&fetch, &[]).await?;
        let commit = text(self.git(&["rev-parse", "--verify", "--quiet", kept], &[]).await?);
        if self.told.as_ref() == Some(&commit) {
            return Ok(None);
        }
        let mut found = self.read(&commit).await?;
        if let Some(before) = self.told.as_ref().or(before.as_ref())
            && *before != commit
            && self.git(&["merge-base", "--is-ancestor", before, &commit], &[]).await.is_err()
        {
            found.note = Some(format!(
                "the branch {branch} was rewritten: {} is not among the last {DEPTH} commits before {}",
                short(before),
                short(&commit)
            ));
        }
        found.commit = Some(commit);
        Ok(Some(found))
    }

    async fn read(&self, commit: &str) -> Result<Found, Trouble> {
        let folder = self.at.folder.trim_start_matches("./");
        let mut list = vec!["ls-tree", "-r", "-z", "--long", "--full-tree", commit];
        if folder != "." {
            list.extend(["--", folder]);
        }
        let listed = self.git(&list, &[]).await?;
        let mut found = Found::default();
        let mut blobs = BTreeMap::new();
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let entry = String::from_utf8_lossy(entry);
            let Some((about, path)) = entry.split_once('\t') else { continue };
            let about: Vec<&str> = about.split_whitespace().collect();
            let [mode, "blob", object, size] = about[..] else { continue };
            let size = size.parse().unwrap_or(u64::MAX);
            let blob = Blob { object: object.to_owned(), size, is_link: mode == "120000" };
            blobs.insert(path.to_owned(), blob);
        }
        let mut wanted = Vec::new();
        for (path, blob) in &blobs {
            let below = if folder == "." { path } else { path.strip_prefix(folder).unwrap_or(path) };
            if !is_workflow_file(below.trim_start_matches('/')) {
                continue;
            }
            if blob.is_link {
                found
                    .problems
                    .push(file_problem(path, "is a symbolic link, which is not followed in a repository"));
            } else if blob.is_large() {
                let words = format!("the file is larger than {} KiB", MAX_FILE / 1024);
                found.problems.push(file_problem(path, words));
            } else {
                wanted.push((path.clone(), blob.object.clone()));
            }
        }
        if listed.is_empty() {
            return Err(Trouble::new(format!("commit {} has no folder `{folder}`", short(commit)))
                .hint("`folder` of the source names the folder of workflow files in the repository"));
        }
        if wanted.len() > MAX_FILES {
            return Err(Trouble::new(format!(
                "commit {} has more than {MAX_FILES} workflow files",
                short(commit)
            ))
            .hint("`folder` of the source names the folder that holds workflows alone"));
        }
        found.files = self.contents(commit, wanted).await?;
        self.read_attached(commit, &blobs, &mut found).await?;
        Ok(found)
    }

    /// Reads the files that workflows name, out of the same commit.
    async fn read_attached(
        &self,
        commit: &str,
        blobs: &BTreeMap<String, Blob>,
        found: &mut Found,
    ) -> Result<(), Trouble> {
        let whole = |file: &str, path: &str| {
            let folder = Path::new(file).parent().unwrap_or(Path::new(""));
            attached::below(path).map(|path| folder.join(path).display().to_string())
        };
        let (mut wanted, mut bytes) = (BTreeMap::new(), 0);
        for (file, text) in &found.files {
            for path in attached::paths(text) {
                let Ok(path) = whole(file, &path) else { continue };
                let Some(blob) = blobs.get(&path) else { continue };
                if !blob.is_link && !blob.is_large() && !wanted.contains_key(&path) && bytes <= MAX_ATTACHED {
                    bytes += blob.size;
                    wanted.insert(path, blob.object.clone());
                }
            }
        }
        let contents: BTreeMap<String, Vec<u8>> =
            self.contents(commit, wanted.into_iter().collect()).await?.into_iter().collect();
        for (file, text) in &found.files {
            let named = attached::read_all(text, |path| {
                let whole = whole(file, path)?;
                match (blobs.get(&whole), contents.get(&whole)) {
                    (_, Some(bytes)) => Ok(bytes.clone()),
                    (None, None) => Err(Unread::new(
                        format!("`{path}` is not in commit {}", short(commit)),
                        "the path is relative to the workflow's file",
                    )),
                    (Some(blob), None) if blob.is_link => Err(Unread::new(
                        format!("`{path}` is a symbolic link, which is not followed in a repository"),
                        "name the file itself",
                    )),
                    (Some(blob), None) if blob.is_large() => Err(Unread::too_large(path)),
                    (Some(_), None) => Err(Unread::new(
                        format!(
                            "`{path}` is not read: all files that workflows name hold more than {} MiB",
                            MAX_ATTACHED >> 20
                        ),
                        "",
                    )),
                }
            });
            if !named.is_empty() {
                found.attached.insert(file.clone(), named);
            }
        }
        Ok(())
    }

    /// The bytes of objects, each with its path.
    async fn contents(
        &self,
        commit: &str,
        wanted: Vec<(String, String)>,
    ) -> Result<Vec<(String, Vec<u8>)>, Trouble> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let asked: String = wanted.iter().map(|(_, object)| format!("{object}\n")).collect();
        let answered = self.git(&["cat-file", "--batch"], asked.as_bytes()).await?;
        let (mut rest, mut contents) = (answered.as_slice(), Vec::new());
        for (path, _) in wanted {
            let (bytes, after) = object(rest)
                .ok_or_else(|| Trouble::new(format!("commit {}: {path} cannot be read", short(commit))))?;
            contents.push((path, bytes.to_vec()));
            rest = after;
        }
        Ok(contents)
    }

    /// Runs `git` in the folder of objects; gives what it put out.
    async fn git(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Trouble> {
        let mut command = Command::new("git");
        command
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "gc.autoDetach=false",
                "-c",
                "maintenance.autoDetach=false",
            ])
            .args(["-c", "protocol.ext.allow=never", "-c", "core.fsmonitor=false", "-c", "core.askPass="])
            .args(arguments)
            .current_dir(&self.objects)
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
            .env("GIT_DIR", &self.objects)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Trouble::new("the program `git` is not there").hint("install Git")
            }
            _ => Trouble::new(format!("`git` cannot be started: {error}")),
        })?;
        // Helpers as git-remote-https outlive a killed git.
        let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let broken = |error: std::io::Error| Trouble::new(format!("`git` broke off: {error}"));
        let (mut to, out, words) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut to) = to.take() {
                // It may have ended before it read everything; its exit code says why.
                let _ = to.write_all(input).await;
            }
        };
        let (_, out, words) = tokio::join!(feed, bounded(out, MAX_OUTPUT), bounded(words, MAX_WORDS));
        let status = child.wait().await.map_err(broken)?;
        if status.success() {
            return out.map_err(broken);
        }
        Err(self.trouble(&String::from_utf8_lossy(&words.unwrap_or_default())))
    }

    /// Git's own words, made short, and clean of what a remote may have put into them.
    fn trouble(&self, words: &str) -> Trouble {
        let clean: String =
            words.chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect();
        if clean.contains("couldn't find remote ref") {
            let words = format!("{} has no branch `{}`", self.whom(), self.at.branch);
            return Trouble::new(words).hint("`branch` of the source names it");
        }
        let lines = clean.lines().map(str::trim).filter(|line| !line.is_empty());
        let said: Vec<String> = lines.map(|line| line.replace(&self.at.url, &self.whom())).collect();
        let cause = said.iter().find_map(|line| {
            line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: ")).map(without_users)
        });
        let cause = cause.or_else(|| said.last().map(|line| without_users(line))).unwrap_or_default();
        let short: String = cause.chars().take(300).collect();
        let trouble = Trouble::new(format!("{}: {short}", self.whom()));
        let asks = [
            "could not read Username",
            "could not read Password",
            "Authentication failed",
            "Permission denied",
        ];
        if asks.iter().any(|words| clean.contains(words)) {
            return trouble.hint("give Git a credential helper, or ssh a key; Graylane asks nobody");
        }
        trouble
    }
}

/// Ends a process group when it goes.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It has ended already where all went well.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn bounded(from: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(from) = from else { return Ok(bytes) };
    let mut from = from.take(limit);
    from.read_to_end(&mut bytes).await?;
    // What is more is read and forgotten, so that git can end.
    tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// An address that Git names may carry a user or worse.
fn without_users(line: &str) -> String {
    line.split(' ')
        .map(
            |word| {
                if word.contains("://") && word.contains('@') { public_url(word) } else { word.to_owned() }
            },
        )
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first object of what `cat-file --batch` put out, and what follows it.
fn object(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let about = std::str::from_utf8(&bytes[..end]).ok()?;
    let size: usize =
        about.strip_suffix(char::is_whitespace).unwrap_or(about).split(' ').nth(2)?.parse().ok()?;
    let rest = bytes.get(end + 1..)?;
    Some((rest.get(..size)?, rest.get(size + 1..)?))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The beginning of a commit's id, as people say it.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// How long to wait before the next look after so many that failed: at least the interval, at most ten minutes.
pub(crate) fn pause(interval: Duration, failed: u32) -> Duration {
    let longest = Duration::from_secs(600).max(interval);
    interval.saturating_mul(1 << failed.min(8)).min(longest)
}

#[cfg(test)]
mod tests;
