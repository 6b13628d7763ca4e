//! What the files of a source mean, given what was good before: pure.
//!
//! A bad file never takes a good one down: the last good revision stays, beside what is wrong. Only a file that is gone takes
//! its workflow along. Two files of one name are wrong both, and what was good of that name stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graylane_engine::bundle::{Bundle, WORKFLOW_FILE};
use graylane_engine::clock::Timestamp;
use graylane_engine::document::Problem;
use graylane_engine::graph::{Checked, Graph, check_names};
use graylane_engine::id::{Digest, WorkflowName};
use graylane_tasks::attached::{Read, paths, seal};

use super::files::Found;

/// A revision that was good when it was taken.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The file, below its source.
    pub(crate) path: String,
    pub(crate) revision: Digest,
    pub(crate) commit: Option<String>,
    pub(crate) since: Timestamp,
    /// The file, and those that it names.
    pub(crate) sealed: Arc<Bundle>,
    pub(crate) graph: Arc<Graph>,
}

/// A revision that is good, and was not taken yet or is the one that was.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) path: String,
    pub(crate) sealed: Arc<Bundle>,
    pub(crate) graph: Arc<Graph>,
}

/// What the files mean.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The good ones.
    pub(crate) good: BTreeMap<WorkflowName, Fresh>,
    /// Workflows whose file is gone, or gives another one now.
    pub(crate) gone: BTreeSet<WorkflowName>,
    /// What is wrong, and warnings, by the workflow that it concerns.
    pub(crate) problems: BTreeMap<WorkflowName, Vec<Problem>>,
    /// The same by file, for workflows that never were.
    pub(crate) paths: BTreeMap<WorkflowName, String>,
    /// What concerns no workflow that could be named.
    pub(crate) nameless: Vec<Problem>,
}

/// Judges the files of a source; `check` is given each file with those that it names. A file that names one which cannot be had is
/// wrong.
pub(crate) fn judge(
    found: &Found,
    taken: &BTreeMap<WorkflowName, Taken>,
    check: impl Fn(&str, &[u8], &Bundle) -> Checked,
) -> Verdict {
    let attached = attached(found);
    let files: Vec<&(String, Vec<u8>)> =
        found.files.iter().filter(|(path, _)| !attached.contains(path)).collect();
    let (mut checked, mut sealed) = (Vec::new(), Vec::new());
    for (path, bytes) in files {
        let mut whole = Bundle::default();
        let unread = seal(&mut whole, path, bytes, found.attached.get(path).unwrap_or(&Read::new()));
        let mut one = check(path, bytes, &whole);
        if !unread.is_empty() {
            one.graph = None;
            one.problems.extend(unread);
            one.problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.line));
        }
        whole.add(WORKFLOW_FILE, bytes.as_slice());
        checked.push((path.clone(), one));
        sealed.push(whole);
    }
    check_names(&mut checked);
    let mut verdict = Verdict::default();
    let mut stay = BTreeSet::new();
    let of_path =
        |path: &str| taken.iter().find(|(_, known)| known.path == path).map(|(name, _)| name.clone());
    for ((path, checked), sealed) in checked.into_iter().zip(sealed) {
        if let Some(graph) = checked.graph {
            let name = graph.name.clone();
            verdict.problems.entry(name.clone()).or_default().extend(checked.problems);
            verdict.good.insert(name, Fresh { path, sealed: Arc::new(sealed), graph: Arc::new(graph) });
            continue;
        }
        let before = of_path(&path);
        let named: Option<WorkflowName> = checked.name.and_then(|name| name.parse().ok());
        stay.extend(before.clone());
        stay.extend(named.clone());
        match named.or(before) {
            Some(name) => {
                verdict.problems.entry(name.clone()).or_default().extend(checked.problems);
                verdict.paths.insert(name, path);
            }
            None => verdict.nameless.extend(checked.problems),
        }
    }
    for problem in &found.problems {
        match of_path(&problem.file) {
            Some(name) => {
                stay.insert(name.clone());
                verdict.problems.entry(name).or_default().push(problem.clone());
            }
            None => verdict.nameless.push(problem.clone()),
        }
    }
    let gone = taken.keys().filter(|name| !verdict.good.contains_key(*name) && !stay.contains(*name));
    verdict.gone = gone.cloned().collect();
    verdict.problems.retain(|_, problems| !problems.is_empty());
    verdict
}

/// The files that others name as patches or manifests: they are no workflows, even where they lie among them.
fn attached(found: &Found) -> BTreeSet<String> {
    let named = found.files.iter().flat_map(|(path, bytes)| {
        let folder = Path::new(path).parent().unwrap_or(Path::new("")).to_owned();
        paths(bytes).into_iter().map(move |named| folder.join(named))
    });
    named.map(|path| path.components().collect::<PathBuf>().display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use graylane_engine::graph::{Known, check};
    use graylane_engine::task::Site;

    use super::*;

    const GOOD: &str =
        "tasks: { a: { type: mse-gray-offline, with: { environment: production, tag: gray } } }\n";

    fn file(name: &str) -> String {
        format!("name: {name}\n{GOOD}")
    }

    fn look(path: &str, bytes: &[u8], files: &Bundle) -> Checked {
        let registry = crate::cli::types();
        check(path, bytes, &registry, &Known::default(), Site { workflow: None, files })
    }

    fn found(files: &[(&str, &str)]) -> Found {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        Found { files: files.collect(), ..Found::default() }
    }

    /// Takes what is good, as the daemon does.
    fn step(taken: &mut BTreeMap<WorkflowName, Taken>, files: &[(&str, &str)]) -> Verdict {
        let verdict = judge(&found(files), taken, look);
        taken.retain(|name, _| !verdict.gone.contains(name));
        for (name, fresh) in &verdict.good {
            let fresh = fresh.clone();
            let (revision, since) = (fresh.graph.revision.clone(), Timestamp::from_millis(0));
            let Fresh { path, sealed, graph } = fresh;
            taken.insert(name.clone(), Taken { path, revision, commit: None, since, sealed, graph });
        }
        verdict
    }

    fn names<'n>(names: impl IntoIterator<Item = &'n WorkflowName>) -> Vec<String> {
        names.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_file_never_takes_a_good_one_down_and_is_told_with_its_line() {
        let mut taken = BTreeMap::new();
        step(&mut taken, &[("a.yaml", &file("a")), ("b.yaml", &file("b"))]);
        let good = taken["a".parse::<WorkflowName>().as_ref().expect("name")].revision.clone();
        for bad in ["name: a\ntsks: {}\n", "name: [\n", "", "\u{0}"] {
            let verdict = step(&mut taken, &[("a.yaml", bad), ("b.yaml", &file("b"))]);
            assert_eq!(names(&verdict.gone), Vec::<String>::new(), "{bad:?}");
            assert_eq!(names(taken.keys()), ["a", "b"], "{bad:?}");
            assert_eq!(taken.values().next().expect("a").revision, good, "{bad:?}");
            let problems = verdict.problems.values().next().expect("told");
            assert_eq!(names(verdict.problems.keys()), ["a"], "{bad:?}: {problems:?}");
        }
        let verdict = step(&mut taken, &[("a.yaml", "name: a\ntsks: {}\n"), ("b.yaml", &file("b"))]);
        let problems: Vec<String> = verdict.problems.into_values().flatten().map(|p| p.to_string()).collect();
        assert!(
            problems.iter().any(|text| text.starts_with("a.yaml:2:1: unknown key `tsks`")),
            "{problems:?}"
        );
    }

    #[test]
    fn a_file_that_is_gone_takes_its_workflow_along_and_a_rename_does_not() {
        let mut taken = BTreeMap::new();
        step(&mut taken, &[("a.yaml", &file("a")), ("b.yaml", &file("b"))]);
        let verdict = step(&mut taken, &[("moved/a.yaml", &file("a"))]);
        assert_eq!((names(&verdict.gone), names(taken.keys())), (vec!["b".to_owned()], vec!["a".to_owned()]));
        // The same file gives another workflow now.
        let verdict = step(&mut taken, &[("moved/a.yaml", &file("c"))]);
        assert_eq!((names(&verdict.gone), names(taken.keys())), (vec!["a".to_owned()], vec!["c".to_owned()]));
        // Moved and broken at once: the name is enough to know it by.
        let verdict = step(&mut taken, &[("elsewhere.yaml", "name: c\ntsks: {}\n")]);
        assert_eq!((names(&verdict.gone), names(taken.keys())), (Vec::new(), vec!["c".to_owned()]));
    }

    #[test]
    fn two_files_of_one_name_are_wrong_both_and_the_last_good_one_stays() {
        let mut taken = BTreeMap::new();
        step(&mut taken, &[("a.yaml", &file("a"))]);
        let other = format!("description: another\n{}", file("a"));
        let verdict = step(&mut taken, &[("a.yaml", &file("a")), ("copy.yaml", &other)]);
        assert!(verdict.good.is_empty() && verdict.gone.is_empty(), "{verdict:?}");
        let problems: Vec<&str> = verdict.problems.values().flatten().map(|p| p.file.as_str()).collect();
        assert_eq!(problems, ["a.yaml", "copy.yaml"], "told in both");
        assert_eq!(taken.values().next().expect("a").path, "a.yaml");
    }

    #[test]
    fn a_new_file_that_is_bad_is_told_and_nothing_else_changes() {
        let mut taken = BTreeMap::new();
        let verdict = step(&mut taken, &[("a.yaml", "name: a\ntsks: {}\n"), ("b.yaml", "[")]);
        assert_eq!(names(verdict.problems.keys()), ["a"]);
        assert_eq!(verdict.nameless.len(), 1, "{:?}", verdict.nameless);
        assert!(taken.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_what_was_good_of_it() {
        let mut taken = BTreeMap::new();
        step(&mut taken, &[("a.yaml", &file("a"))]);
        let unread = graylane_engine::document::file_problem("a.yaml", "cannot be read");
        let verdict = judge(&Found { problems: vec![unread], ..Found::default() }, &taken, look);
        assert!(verdict.gone.is_empty());
        assert_eq!(names(verdict.problems.keys()), ["a"]);
    }
}
