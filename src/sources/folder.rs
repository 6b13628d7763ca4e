//! A folder of workflow files, watched by looking at it each second.
//!
//! Looking costs a `stat` a file, works on every file system (network mounts, and the symbolic links of a mounted
//! ConfigMap too), and needs no quota of the kernel: that is why no change notification is used. A change is taken when two
//! looks in a row agree, so that a file that is being written is not taken for a whole one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use graylane_engine::document::file_problem;
use graylane_tasks::attached;

use super::files::{Found, MAX_DEPTH, MAX_FILE, MAX_FILES, Trouble, is_workflow_file};

/// How often a folder is looked at; tests have no second to lose.
pub(crate) const EVERY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });

/// When a file was changed, and how long it is.
type Stamp = (Option<SystemTime>, u64);

/// What is compared from look to look.
#[derive(Debug, Clone, PartialEq)]
struct Stamps {
    /// Workflow files, below the folder.
    files: BTreeMap<String, Stamp>,
    /// Files that they name, which may be called anything; none where there is none.
    attached: BTreeMap<PathBuf, Option<Stamp>>,
}

/// A watched folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The files that workflows named when they were read last.
    attached: BTreeSet<PathBuf>,
    taken: Option<Result<Stamps, Trouble>>,
    before: Option<Result<Stamps, Trouble>>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Folder {
        Folder { path, attached: BTreeSet::new(), taken: None, before: None }
    }

    /// Looks once; `None` where nothing has changed, or where the change is too fresh. The first look always tells.
    pub(crate) fn look(&mut self) -> Option<Result<Found, Trouble>> {
        let now = self.stamps();
        let fresh = self.taken.is_some() && self.before.as_ref() != Some(&now);
        self.before = Some(now.clone());
        if fresh || self.taken.as_ref() == Some(&now) {
            return None;
        }
        self.taken = Some(now.clone());
        let found = now.map(|stamps| read(&self.path, stamps.files));
        if let Ok(found) = &found {
            // One that is named for the first time is seen as a change by the next looks: it may still be written to.
            self.attached = whole(found);
        }
        Some(found)
    }

    fn stamps(&self) -> Result<Stamps, Trouble> {
        let files = stamps(&self.path)?;
        let stamp =
            |path: &PathBuf| fs::metadata(path).ok().map(|about| (about.modified().ok(), about.len()));
        let attached = self.attached.iter().map(|path| (path.clone(), stamp(path))).collect();
        Ok(Stamps { files, attached })
    }
}

/// Where the files are that workflows name, as far as they stay below their folders.
fn whole(found: &Found) -> BTreeSet<PathBuf> {
    let beside = |file: &str, path: &str| {
        Some(Path::new(file).parent().unwrap_or(Path::new("")).join(attached::below(path).ok()?))
    };
    let named = found.attached.iter();
    named.flat_map(|(file, read)| read.keys().filter_map(move |path| beside(file, path))).collect()
}

fn stamps(folder: &Path) -> Result<BTreeMap<String, Stamp>, Trouble> {
    let shown = folder.display();
    let gone = |error: std::io::Error| {
        let trouble = match error.kind() {
            std::io::ErrorKind::NotFound => Trouble::new(format!("there is no folder {shown}")),
            _ => Trouble::new(format!("the folder {shown} cannot be read: {error}")),
        };
        trouble.hint("make it, or name another one under `sources` in the settings")
    };
    if !fs::metadata(folder).map_err(gone)?.is_dir() {
        return Err(
            Trouble::new(format!("{shown} is no folder")).hint("`sources` names folders and repositories")
        );
    }
    let mut stamps = BTreeMap::new();
    let mut open = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = open.pop() {
        let entries = match fs::read_dir(folder.join(&below)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(gone(error)),
            // It may have gone between two calls; the next look knows.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let path = below.join(entry.file_name());
            let name = path.display().to_string();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // Links are followed: a mounted ConfigMap is made of them.
            let Ok(metadata) = fs::metadata(folder.join(&path)) else { continue };
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    open.push((path, depth + 1));
                }
            } else if metadata.is_file() && is_workflow_file(&name) {
                stamps.insert(name, (metadata.modified().ok(), metadata.len()));
            }
        }
        if stamps.len() > MAX_FILES {
            return Err(Trouble::new(format!(
                "the folder {shown} holds more than {MAX_FILES} workflow files"
            ))
            .hint("name the folder that holds workflows alone"));
        }
    }
    Ok(stamps)
}

fn read(folder: &Path, stamps: BTreeMap<String, Stamp>) -> Found {
    let mut found = Found::default();
    for path in stamps.into_keys() {
        let whole = folder.join(&path);
        let shown = whole.display().to_string();
        match bounded(&whole) {
            Ok(bytes) if bytes.len() as u64 > MAX_FILE => {
                let words = format!("the file is larger than {} KiB", MAX_FILE / 1024);
                found.problems.push(file_problem(&shown, words));
            }
            Ok(bytes) => {
                let folder = whole.parent().unwrap_or(Path::new(""));
                let named = attached::read_all(&bytes, |path| attached::read(folder, path));
                if !named.is_empty() {
                    found.attached.insert(shown.clone(), named);
                }
                found.files.push((shown, bytes));
            }
            Err(error) => found.problems.push(file_problem(&shown, format!("cannot be read: {error}"))),
        }
    }
    found
}

fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_when_two_looks_agree_and_a_folder_that_vanishes_is_told_once() {
        let home = tempfile::tempdir().expect("made");
        let path = home.path().join("flows");
        fs::create_dir(&path).expect("made");
        fs::write(path.join("a.yaml"), "one").expect("written");
        fs::write(path.join(".hidden.yaml"), "no").expect("written");
        fs::write(path.join("notes.txt"), "no").expect("written");
        let mut folder = Folder::new(path.clone());
        let first = folder.look().expect("the first look tells").expect("readable");
        assert_eq!(first.files, [(path.join("a.yaml").display().to_string(), b"one".to_vec())]);
        assert_eq!(folder.look(), None, "nothing has changed");

        fs::create_dir(path.join("team")).expect("made");
        fs::write(path.join("team/b.yml"), "two").expect("written");
        assert_eq!(folder.look(), None, "it may still be written to");
        let second = folder.look().expect("it stayed as it was").expect("readable");
        assert_eq!(second.files.len(), 2);

        fs::rename(&path, home.path().join("away")).expect("moved");
        assert_eq!(folder.look(), None);
        let trouble = folder.look().expect("told").expect_err("it is gone");
        assert!(trouble.message.starts_with("there is no folder"), "{trouble}");
        assert_eq!(folder.look(), None, "told once");
        fs::rename(home.path().join("away"), &path).expect("moved");
        assert_eq!(folder.look(), None);
        assert_eq!(folder.look().expect("it is back").expect("readable"), second);
    }

    #[test]
    fn a_mounted_config_map_is_read_through_its_links() {
        let home = tempfile::tempdir().expect("made");
        let path = home.path();
        fs::create_dir(path.join("..v1")).expect("made");
        fs::write(path.join("..v1/a.yaml"), "one").expect("written");
        std::os::unix::fs::symlink("..v1", path.join("..data")).expect("linked");
        std::os::unix::fs::symlink("..data/a.yaml", path.join("a.yaml")).expect("linked");
        let mut folder = Folder::new(path.to_owned());
        assert_eq!(folder.look().expect("told").expect("readable").files.len(), 1);
        fs::create_dir(path.join("..v2")).expect("made");
        fs::write(path.join("..v2/a.yaml"), "three").expect("written");
        fs::remove_file(path.join("..data")).expect("removed");
        std::os::unix::fs::symlink("..v2", path.join("..data")).expect("linked");
        assert_eq!(folder.look(), None);
        assert_eq!(folder.look().expect("told").expect("readable").files[0].1, b"three");
    }

    #[test]
    fn a_file_that_a_workflow_names_is_watched_whatever_it_is_called() {
        let home = tempfile::tempdir().expect("made");
        let services = "services: { spring-a: { patches: [{ target: { kind: Deployment, name: a }, file: gray.txt }] } }";
        let workflow = format!("tasks: {{ deploy: {{ with: {{ {services} }} }} }}\n");
        fs::write(home.path().join("a.yaml"), workflow).expect("written");
        let mut folder = Folder::new(home.path().to_owned());
        let mut next = || {
            // Two looks agree, and the third one has nothing to tell.
            let told: Vec<_> = (0..3).filter_map(|_| folder.look()).collect();
            told.into_iter().last().map(|found| {
                let found = found.expect("readable");
                assert_eq!(found.files.len(), 1, "it is no workflow");
                found.attached.into_values().next().expect("named")["gray.txt"].clone()
            })
        };
        assert!(next().expect("told").is_err(), "it is missing");
        assert_eq!(next(), None);
        for text in ["one", "three"] {
            fs::write(home.path().join("gray.txt"), text).expect("written");
            assert_eq!(next(), Some(Ok(text.as_bytes().to_vec())));
            assert_eq!(next(), None);
        }
        fs::remove_file(home.path().join("gray.txt")).expect("removed");
        assert!(next().expect("told").is_err(), "it is missing again");
    }

    #[test]
    fn a_file_that_is_too_large_is_a_problem_of_its_own() {
        let home = tempfile::tempdir().expect("made");
        fs::write(home.path().join("a.yaml"), vec![b'#'; 1024 * 1024 + 1]).expect("written");
        fs::write(home.path().join("b.yaml"), "two").expect("written");
        let found = Folder::new(home.path().to_owned()).look().expect("told").expect("readable");
        assert_eq!((found.files.len(), found.problems.len()), (1, 1));
        assert!(found.problems[0].message.contains("larger than 1024 KiB"));
    }
}
