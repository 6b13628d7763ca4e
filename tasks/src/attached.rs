//! Files that a workflow names beside itself: edited manifests and patches. Read once, when a run is submitted, and sealed with it.
//!
//! A path is plain text, relative to the workflow's file, and stays below its folder: who may write a workflow may not read the host. No
//! value of a Secret gets in.

use std::fs;
use std::path::{Component, Path};

use graylane_engine::bundle::Bundle;
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

/// Reads every file that a workflow names into a bundle; gives what is wrong with them, at the place that names them.
/// A workflow that is no YAML names none: its own check says so.
pub fn attach(bundle: &mut Bundle, shown: &str, workflow: &[u8], folder: &Path) -> Vec<Problem> {
    let Ok((document, _)) = Document::parse_to_check(shown, workflow) else { return Vec::new() };
    let mut problems = Vec::new();
    for (pointer, path, used) in named(document.value()) {
        match read_file(folder, &path, &used) {
            Ok(content) => {
                bundle.add(key(&path), serde_json::to_vec(&content).unwrap_or_default());
            }
            Err((message, label)) => {
                problems.push(document.problem(Finding::at(pointer, message).label(label)));
            }
        }
    }
    problems
}

fn key(path: &str) -> String {
    format!("attached/{path}.json")
}

type Wrong = (String, String);

fn read_file(folder: &Path, path: &str, used: &Use) -> Result<Value, Wrong> {
    if path.contains("${{") {
        return Err((
            "the name of a file holds no expression".into(),
            "it is read before the run has inputs".into(),
        ));
    }
    let below = |path: &Path| {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        plain && !path.as_os_str().is_empty()
    };
    let outside = || {
        (format!("`{path}` leads out of the workflow's folder"), "name a file in it, or below it".to_owned())
    };
    if !below(Path::new(path)) {
        return Err(outside());
    }
    let cannot = |error: std::io::Error| {
        (
            format!("`{path}` cannot be read: {error}"),
            "the path is relative to the workflow's file".to_owned(),
        )
    };
    let home = fs::canonicalize(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .map_err(cannot)?;
    let file = fs::canonicalize(home.join(path)).map_err(cannot)?;
    // A link may lead anywhere.
    if !file.starts_with(&home) {
        return Err(outside());
    }
    let text = fs::read_to_string(&file).map_err(cannot)?;
    let wrong = |message: String| (format!("`{path}`: {message}"), String::new());
    match used {
        Use::Manifest => {
            let objects = parse(path, &text).map_err(|problems| {
                let first = problems.first().map(|problem| problem.message.clone());
                wrong(first.unwrap_or_default())
            })?;
            for object in &objects {
                if kind(object) == "Secret" && !is_digested(object) {
                    return Err((
                        format!("`{path}`: {} holds values", ObjectRef::of(object)),
                        "leave its data as `graylane render` printed it: the values are the service's manifest's".into(),
                    ));
                }
            }
            Ok(Value::Array(objects))
        }
        Use::Patch(target) => {
            let change = Change::parse(&text).map_err(|why| (format!("`{path}` {why}"), String::new()))?;
            let patch = |target| Patch { target, change: change.clone() };
            let holds = target.clone().is_some_and(|target| holds_secret(&patch(target)));
            if holds {
                return Err((
                    format!("`{path}` holds data of a Secret"),
                    "it would be kept with the run: change it in the service's manifest".into(),
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
