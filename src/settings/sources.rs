//! Where workflows come from, as the settings name it: folders and Git repositories. Nothing here reads one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use graylane_engine::clock::parse_duration;
use graylane_engine::document::Problem;
use graylane_engine::id::is_name;

use super::file::{SettingsFile, SourceFile};
use super::origin::Layers;

/// Where workflows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// What it is called: in runs, lists and `allow.sources`.
    pub name: String,
    /// Where it is.
    pub at: SourceAt,
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceAt {
    /// A folder of this machine, watched.
    Folder(PathBuf),
    /// A branch of a Git repository.
    Git(GitAt),
}

/// A branch of a Git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitAt {
    /// The repository; it holds no password.
    pub url: String,
    /// The branch.
    pub branch: String,
    /// The folder of workflow files in it; `.` for all of it.
    pub folder: String,
    /// How often it is asked for news.
    pub interval: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
}

/// How often a repository is asked where nothing is said.
const INTERVAL: Duration = Duration::from_secs(60);
/// A repository is not asked more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);
/// How long a repository may take to answer where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Source {
    /// Where it is, in words, without anything secret.
    pub(crate) fn place(&self) -> String {
        match &self.at {
            SourceAt::Folder(folder) => folder.display().to_string(),
            SourceAt::Git(git) => format!("{} of {} in {}", git.folder, git.branch, public_url(&git.url)),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.place())?;
        if let SourceAt::Git(git) = &self.at {
            write!(f, ", each {}", graylane_engine::clock::show_duration(git.interval))?;
        }
        Ok(())
    }
}

/// A URL without what may be a secret in it: user names, passwords, queries. For words that people see.
pub(crate) fn public_url(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit('@').next().unwrap_or_default();
            match path {
                Some(path) => format!("{scheme}://{host}/{path}"),
                None => format!("{scheme}://{host}"),
            }
        }
        None => bare.to_owned(),
    }
}

/// The sources that the file names, or the usual folder. What is wrong is told at its line.
pub(super) fn resolve(
    file: &SettingsFile,
    folder: &Path,
    layers: &Layers,
    problems: &mut Vec<Problem>,
) -> Vec<Source> {
    let Some(written) = &file.sources else {
        return vec![Source { name: "workflows".into(), at: SourceAt::Folder(PathBuf::from("workflows")) }];
    };
    let mut names = BTreeSet::new();
    let mut sources = Vec::new();
    for (at, source) in written.iter().enumerate() {
        let pointer = format!("/sources/{at}");
        match one(source, folder) {
            Ok(source) => {
                if !names.insert(source.name.clone()) {
                    let message = format!("is called `{}`, as another one is", source.name);
                    problems.push(layers.wrong(&pointer, &message, "give it a `name` of its own"));
                }
                sources.push(source);
            }
            Err((key, message, label)) => {
                let place = if key.is_empty() { pointer } else { format!("{pointer}/{key}") };
                problems.push(layers.wrong(&place, &message, &label));
            }
        }
    }
    sources
}

type Wrong = (&'static str, String, String);

fn one(written: &SourceFile, settings_folder: &Path) -> Result<Source, Wrong> {
    let Some(url) = &written.url else {
        let Some(folder) = &written.folder else {
            let label = "`folder: PATH`, or `url: REPOSITORY`";
            return Err(("", "names neither a folder nor a repository".into(), label.into()));
        };
        for (key, set) in [
            ("branch", written.branch.is_some()),
            ("interval", written.interval.is_some()),
            ("timeout", written.timeout.is_some()),
        ] {
            if set {
                return Err((
                    key,
                    "is for repositories".into(),
                    "a folder is watched; add `url` for Git".into(),
                ));
            }
        }
        let folder = settings_folder.join(folder);
        let name = name(written, folder.file_name().and_then(|name| name.to_str()).unwrap_or_default())?;
        return Ok(Source { name, at: SourceAt::Folder(folder) });
    };
    check_url(url).map_err(|(message, label)| ("url", message, label))?;
    let branch = written.branch.clone().unwrap_or_else(|| "main".into());
    if !is_branch(&branch) {
        return Err(("branch", "is no name of a branch".into(), "as in `main` or `release/2026`".into()));
    }
    let folder = written.folder.clone().unwrap_or_else(|| "workflows".into());
    let folder = folder.trim_matches('/').trim_start_matches("./").to_owned();
    if folder.split('/').any(|part| part == "..") || folder.starts_with(':') {
        return Err((
            "folder",
            "leaves the repository".into(),
            "a folder in it, as in `workflows`, or `.`".into(),
        ));
    }
    let duration = |key: &'static str, text: &Option<String>, usual: Duration| match text {
        None => Ok(usual),
        Some(text) => parse_duration(text).map_err(|wrong| (key, "is wrong".to_owned(), wrong)),
    };
    let interval = duration("interval", &written.interval, INTERVAL)?;
    if interval < SHORTEST_INTERVAL {
        return Err(("interval", "is too short".into(), "at least `5s`".into()));
    }
    let timeout = duration("timeout", &written.timeout, TIMEOUT)?;
    if timeout.is_zero() {
        return Err(("timeout", "leaves no time".into(), "as in `60s`".into()));
    }
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let name = name(written, last.trim_end_matches(".git"))?;
    let folder = if folder.is_empty() { ".".into() } else { folder };
    Ok(Source { name, at: SourceAt::Git(GitAt { url: url.clone(), branch, folder, interval, timeout }) })
}

fn name(written: &SourceFile, usual: &str) -> Result<String, Wrong> {
    match &written.name {
        Some(name) => Ok(name.clone()),
        None if is_name(usual) => Ok(usual.to_owned()),
        None => Err(("", format!("has no name, and `{usual}` can be none"), "give it a `name`".into())),
    }
}

/// What Git is asked to speak: nothing that runs a program, and nothing that carries a secret.
fn check_url(url: &str) -> Result<(), (String, String)> {
    const EXPECTED: &str = "`https://HOST/PATH`, `ssh://USER@HOST/PATH`, `USER@HOST:PATH`, `git://HOST/PATH`, `file:///PATH` or an absolute path";
    let unknown = || Err(("is no repository's address".to_owned(), EXPECTED.to_owned()));
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) || url.starts_with('-') {
        return unknown();
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        let secret = match (scheme, user) {
            ("ssh", Some(user)) => user.contains(':'),
            (_, user) => user.is_some(),
        };
        if secret || rest.contains(['?', '#']) {
            return Err((
                "holds credentials".into(),
                "take them out: Git asks its credential helpers, and ssh its agent or key files".into(),
            ));
        }
        return match scheme {
            "https" | "http" | "ssh" | "git" if !authority.is_empty() => Ok(()),
            "file" if rest.starts_with('/') => Ok(()),
            _ => unknown(),
        };
    }
    if url.contains("::") {
        return unknown();
    }
    if url.starts_with('/') {
        return Ok(());
    }
    // As scp writes it: the colon comes before the first slash.
    match url.split_once(':') {
        Some((host, path)) if !host.is_empty() && !host.contains('/') && !path.is_empty() => Ok(()),
        _ => unknown(),
    }
}

/// The part of git-check-ref-format(1) that people use.
fn is_branch(name: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+' | '#' | '=' | '@');
    !name.is_empty()
        && name.chars().all(fits)
        && !name.starts_with(['-', '/', '.'])
        && !name.ends_with(['/', '.'])
        && !["..", "//", "@{", "/."].iter().any(|bad| name.contains(bad))
        && !name.ends_with(".lock")
        && name != "@"
}
