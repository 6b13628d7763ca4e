//! Files that a workflow names beside itself: edited manifests and patches. Read once, when a run is submitted or a source is looked at, and
//! sealed with the workflow.
//!
//! ```text
//! paths -> read_all (a folder, or a commit) -> seal -> `attached/` in the bundle -> content
//! ```
//! A path is plain text, relative to the workflow's file, and stays below its folder: who may write a workflow may not read the host. No
//! value of a Secret gets in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use graylane_engine::bundle::{ATTACHED, Bundle};
use graylane_engine::document::{Document, Finding, Problem, step};
use serde_json::Value;

use crate::lane::holds_secret;
use crate::lane::patch::{Change, Patch, Target};
use crate::manifest::{ObjectRef, kind, parse};
use crate::secret::is_digested;

/// What a file is read as.
#[derive(Debug, Clone)]
enum Use {
    Manifest,
    Patch(Option<Target>),
}

/// The files that a workflow names, with the place of each.
fn named(workflow: &Value) -> Vec<(String, String, Use)> {
    let mut found = Vec::new();
    for (task, node) in workflow["tasks"].as_object().into_iter().flatten() {
        for (service, with) in node["with"]["services"].as_object().into_iter().flatten() {
            let at = step(&format!("{}/with/services", step("/tasks", task)), service);
            if let Some(path) = with["manifest"].as_str() {
                found.push((format!("{at}/manifest"), path.to_owned(), Use::Manifest));
            }
            for (index, patch) in with["patches"].as_array().into_iter().flatten().enumerate() {
                if let Some(path) = patch["file"].as_str() {
                    let target = serde_json::from_value(patch["target"].clone()).ok();
                    found.push((format!("{at}/patches/{index}/file"), path.to_owned(), Use::Patch(target)));
                }
            }
        }
    }
    found
}

/// The paths that a workflow names, as they are written: such a file is no workflow, even where it lies among them.
pub fn paths(workflow: &[u8]) -> Vec<String> {
    match Document::parse_to_check("", workflow) {
        Ok((document, _)) => named(document.value()).into_iter().map(|(_, path, _)| path).collect(),
        Err(_) => Vec::new(),
    }
}

/// The largest file that a workflow may name.
pub const MAX_FILE: u64 = 1024 * 1024;
/// The most that all files of a workflow may hold together.
const MAX_ALL: usize = 4 * 1024 * 1024;

/// Why a file that a workflow names cannot be had: what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    message: String,
    label: String,
}

impl Unread {
    /// What is wrong, with what stands beside the mark under the name.
    pub fn new(message: impl Into<String>, label: impl Into<String>) -> Unread {
        Unread { message: message.into(), label: label.into() }
    }

    /// It is too large.
    pub fn too_large(path: &str) -> Unread {
        let words = format!("`{path}` is larger than {} KiB", MAX_FILE / 1024);
        Unread::new(words, "it would be kept with every run")
    }
}

/// The bytes of each file that a workflow names, by the name as it is written, or why there are none.
pub type Read = BTreeMap<String, Result<Vec<u8>, Unread>>;

/// Reads every file that a workflow names, whatever it is read from.
pub fn read_all(workflow: &[u8], mut read: impl FnMut(&str) -> Result<Vec<u8>, Unread>) -> Read {
    let (mut files, mut bytes) = (Read::new(), 0);
    for path in paths(workflow) {
        if files.contains_key(&path) {
            continue;
        }
        let file = if bytes > MAX_ALL {
            let words = format!("the files before `{path}` hold more than {} KiB together", MAX_ALL / 1024);
            Err(Unread::new(words, "they would be kept with every run"))
        } else {
            read(&path)
        };
        bytes += file.as_ref().map_or(0, Vec::len);
        files.insert(path, file);
    }
    files
}

/// The path of a file as it is named, where it stays below the workflow's folder.
///
/// # Errors
/// It leads elsewhere.
pub fn below(path: &str) -> Result<PathBuf, Unread> {
    if path.contains("${{") {
        return Err(Unread::new(
            "the name of a file holds no expression",
            "it is read before the run has inputs",
        ));
    }
    let plain = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let parts = Path::new(path).components();
    if path.is_empty() || !parts.clone().all(|part| plain(&part)) {
        return Err(outside(path));
    }
    Ok(parts.filter(|part| matches!(part, Component::Normal(_))).collect())
}

fn outside(path: &str) -> Unread {
    Unread::new(format!("`{path}` leads out of the workflow's folder"), "name a file in it, or below it")
}

/// Reads a file that a workflow of this folder names.
///
/// # Errors
/// It leads out of the folder, is too large, or cannot be read.
pub fn read(folder: &Path, path: &str) -> Result<Vec<u8>, Unread> {
    let below = below(path)?;
    let cannot = |error: std::io::Error| {
        Unread::new(
            format!("`{path}` cannot be read: {error}"),
            "the path is relative to the workflow's file",
        )
    };
    let home = fs::canonicalize(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .map_err(cannot)?;
    let file = fs::canonicalize(home.join(below)).map_err(cannot)?;
    // A link may lead anywhere.
    if !file.starts_with(&home) {
        return Err(outside(path));
    }
    // A pipe would never end.
    if !fs::metadata(&file).map_err(cannot)?.is_file() {
        return Err(Unread::new(format!("`{path}` is no file"), "name a file of YAML"));
    }
    let mut bytes = Vec::new();
    let opened = fs::File::open(&file).map_err(cannot)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE { Err(Unread::too_large(path)) } else { Ok(bytes) }
}

/// Reads every file that a workflow of this folder names, and seals them into a bundle.
pub fn attach(bundle: &mut Bundle, shown: &str, workflow: &[u8], folder: &Path) -> Vec<Problem> {
    seal(bundle, shown, workflow, &read_all(workflow, |path| read(folder, path)))
}

/// Seals the files that a workflow names into a bundle; gives what is wrong with them, at the place that names them.
/// A workflow that is no YAML names none: its own check says so.
pub fn seal(bundle: &mut Bundle, shown: &str, workflow: &[u8], read: &Read) -> Vec<Problem> {
    let Ok((document, _)) = Document::parse_to_check(shown, workflow) else { return Vec::new() };
    let mut problems = Vec::new();
    for (pointer, path, used) in named(document.value()) {
        let unread = || Unread::new(format!("`{path}` was not read"), "");
        let bytes = read.get(&path).cloned().unwrap_or_else(|| Err(unread()));
        match bytes.and_then(|bytes| understood(&path, &bytes, &used)) {
            Ok(content) => {
                bundle.add(key(&path), serde_json::to_vec(&content).unwrap_or_default());
            }
            Err(Unread { message, label }) => {
                problems.push(document.problem(Finding::at(pointer, message).label(label)));
            }
        }
    }
    problems
}

fn key(path: &str) -> String {
    format!("{ATTACHED}{path}.json")
}

/// The files that were sealed into a bundle, as the workflow names them.
pub fn names(bundle: &Bundle) -> Vec<String> {
    let names =
        bundle.below(ATTACHED).filter_map(|(name, _)| name.strip_prefix(ATTACHED)?.strip_suffix(".json"));
    names.map(str::to_owned).collect()
}

/// What a file says, as it is sealed.
fn understood(path: &str, bytes: &[u8], used: &Use) -> Result<Value, Unread> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Unread::new(format!("`{path}` is not UTF-8 text"), "name a file of YAML"))?;
    let wrong = |message: String| Unread::new(format!("`{path}`: {message}"), "");
    match used {
        Use::Manifest => {
            let objects = parse(path, text).map_err(|problems| {
                let first = problems.first().map(|problem| problem.message.clone());
                wrong(first.unwrap_or_default())
            })?;
            for object in &objects {
                if kind(object) == "Secret" && !is_digested(object) {
                    return Err(Unread::new(
                        format!("`{path}`: {} holds values", ObjectRef::of(object)),
                        "leave its data as `graylane render` printed it: the values are the service's manifest's",
                    ));
                }
            }
            Ok(Value::Array(objects))
        }
        Use::Patch(target) => {
            let change = Change::parse(text).map_err(|why| Unread::new(format!("`{path}` {why}"), ""))?;
            let patch = |target| Patch { target, change: change.clone() };
            let holds = target.clone().is_some_and(|target| holds_secret(&patch(target)));
            if holds {
                return Err(Unread::new(
                    format!("`{path}` holds data of a Secret"),
                    "it would be kept with the run: change it in the service's manifest",
                ));
            }
            serde_json::to_value(&change).map_err(|error| wrong(error.to_string()))
        }
    }
}

/// The content of a file that was attached.
///
/// # Errors
/// A sentence: it was not.
pub fn content(bundle: &Bundle, path: &str) -> Result<Value, String> {
    let bytes = bundle
        .get(&key(path))
        .ok_or_else(|| format!("the file `{path}` was not submitted with the workflow"))?;
    serde_json::from_slice(bytes).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow(with: &str) -> String {
        format!(
            "name: w\ntasks:\n  deploy:\n    type: mse-gray-deploy\n    with:\n      environment: e\n      tag: gray\n      services:\n        spring-a: {with}\n"
        )
    }

    #[test]
    fn files_are_sealed_with_the_workflow_that_names_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        std::fs::create_dir(folder.path().join("patches")).expect("made");
        write("patches/more.yaml", "spec: { replicas: 3 }\n");
        write("gray.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c-mse-gray }\n");
        let text = workflow(
            "{ manifest: gray.yaml, patches: [{ target: { kind: Deployment, name: a }, file: patches/more.yaml }] }",
        );
        let mut bundle = Bundle::default();
        assert!(attach(&mut bundle, "w.yaml", text.as_bytes(), folder.path()).is_empty());
        let patch = content(&bundle, "patches/more.yaml").expect("sealed");
        assert_eq!(patch["spec"]["replicas"], 3);
        assert_eq!(content(&bundle, "gray.yaml").expect("sealed")[0]["kind"], "ConfigMap");
        assert_eq!(
            content(&bundle, "other.yaml"),
            Err("the file `other.yaml` was not submitted with the workflow".into())
        );
    }

    #[test]
    fn all_files_together_are_bounded_and_each_is_read_once() {
        let patch =
            |number: usize| format!("{{ target: {{ kind: Deployment, name: a }}, file: {number}.yaml }}");
        let patches: Vec<String> = (0..8).chain([0]).map(patch).collect();
        let text = workflow(&format!("{{ patches: [{}] }}", patches.join(", ")));
        let mut asked = Vec::new();
        let read = read_all(text.as_bytes(), |path| {
            asked.push(path.to_owned());
            Ok(vec![b'#'; MAX_FILE as usize])
        });
        assert_eq!(asked, ["0.yaml", "1.yaml", "2.yaml", "3.yaml", "4.yaml"]);
        let problems = seal(&mut Bundle::default(), "w.yaml", text.as_bytes(), &read);
        let last = problems.last().expect("not all are taken");
        assert!(
            problems.iter().any(|problem| problem.message.contains("hold more than 4096 KiB together")),
            "{last:?}"
        );
    }

    #[test]
    fn what_may_not_be_sealed_is_a_problem_at_its_place() {
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("x.yaml"), "a: 1\n").expect("written");
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        write(
            "secret.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: { name: s-mse-gray }\nstringData: { token: hunter2 }\n",
        );
        write("data.yaml", "stringData: { token: hunter2 }\n");
        write("text.yaml", "only words\n");
        write("broken.yaml", "a: [1\n");
        write("large.yaml", &"#".repeat(1024 * 1024 + 1));
        std::fs::write(folder.path().join("bytes.yaml"), [b'a', b':', 0xff]).expect("written");
        std::fs::create_dir(folder.path().join("folder.yaml")).expect("made");
        std::os::unix::fs::symlink(outside.path().join("x.yaml"), folder.path().join("link.yaml"))
            .expect("linked");
        let patch = |kind: &str, file: &str| {
            format!("{{ patches: [{{ target: {{ kind: {kind}, name: a }}, file: \"{file}\" }}] }}")
        };
        for (with, words) in [
            ("{ manifest: nowhere.yaml }".to_owned(), "`nowhere.yaml` cannot be read"),
            ("{ manifest: ../x.yaml }".to_owned(), "leads out of the workflow's folder"),
            ("{ manifest: /etc/passwd }".to_owned(), "leads out of the workflow's folder"),
            ("{ manifest: link.yaml }".to_owned(), "leads out of the workflow's folder"),
            ("{ manifest: \"${{ inputs.file }}\" }".to_owned(), "the name of a file holds no expression"),
            ("{ manifest: large.yaml }".to_owned(), "`large.yaml` is larger than 1024 KiB"),
            ("{ manifest: bytes.yaml }".to_owned(), "`bytes.yaml` is not UTF-8 text"),
            ("{ manifest: folder.yaml }".to_owned(), "`folder.yaml` is no file"),
            ("{ manifest: secret.yaml }".to_owned(), "Secret s-mse-gray holds values"),
            (patch("Secret", "data.yaml"), "holds data of a Secret"),
            (patch("Deployment", "text.yaml"), "`text.yaml` is no patch"),
            (patch("Deployment", "broken.yaml"), "`broken.yaml` is not valid YAML"),
        ] {
            let mut bundle = Bundle::default();
            let problems = attach(&mut bundle, "w.yaml", workflow(&with).as_bytes(), folder.path());
            let found = problems.first().unwrap_or_else(|| panic!("{with} is taken"));
            assert!(found.message.contains(words), "{with}: {}", found.message);
            assert_eq!(found.place.as_ref().map(|place| place.line), Some(9), "{with}");
            assert!(!String::from_utf8_lossy(&bundle.to_bytes()).contains("hunter2"));
        }
    }
}
