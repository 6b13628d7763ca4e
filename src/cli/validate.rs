//! `graylane validate`: checks workflow files, every problem at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use graylane_engine::bundle::Bundle;
use graylane_engine::document::{Problem, Severity};
use graylane_engine::graph::{Checked, Graph, Known, check, check_names};
use graylane_engine::task::Site;
use graylane_tasks::attached;
use serde::Serialize;

use super::{
    Context, EXIT_FAILED, Failure, Output, json, no_key, note, operator_files, plural, print, types,
};
use crate::problems::{self, Texts, WireProblem};

/// What `validate` takes.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Workflow files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Report {
    files: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<WireProblem>,
}

pub(crate) fn run(context: &Context, args: &ValidateArgs) -> Result<u8, Failure> {
    let mut files = Vec::new();
    for path in &args.paths {
        collect(path, &mut files)?;
    }
    if files.is_empty() {
        return Err(Failure::refused("there is no .yaml file to check"));
    }
    let registry = types();
    let (bundle, mut found) = operator_files(context, &no_key());
    if graylane_tasks::environment::names(&bundle).is_empty() {
        let folder = context.settings.environments.display();
        note(&format!(
            "there is no environment file in {folder}: names of environments and services are not checked"
        ));
    }
    let mut texts = Texts::new();
    let mut checked: Vec<(String, Checked)> = Vec::new();
    let mut read = Vec::new();
    for path in &files {
        let shown = path.display().to_string();
        let bytes =
            fs::read(path).map_err(|error| Failure::refused(format!("{shown} cannot be read: {error}")))?;
        read.push((path, shown, bytes));
    }
    // Patches and edited manifests may lie among the workflows that name them.
    let beside = |path: &PathBuf, named: String| path.parent().unwrap_or(Path::new("")).join(named);
    let named: BTreeSet<PathBuf> = read
        .iter()
        .flat_map(|(path, _, bytes)| attached::paths(bytes).into_iter().map(|named| beside(path, named)))
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    read.retain(|(path, _, _)| !fs::canonicalize(path).is_ok_and(|path| named.contains(&path)));
    for (path, shown, bytes) in &read {
        remember(&mut texts, shown, bytes);
        let mut one = check(shown, bytes, &registry, &known(context), site(&bundle));
        let folder = path.parent().unwrap_or(Path::new(""));
        one.problems.extend(attached::attach(&mut Bundle::default(), shown, bytes, folder));
        checked.push((shown.clone(), one));
    }
    check_names(&mut checked);
    for (_, one) in checked {
        found.extend(one.problems);
    }
    let count = |severity: Severity| found.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match context.output {
        Output::Json if context.sarif => print(&json(&problems::sarif(&found))),
        Output::Json => {
            let problems = found.iter().map(WireProblem::from).collect();
            print(&json(&Report { files: read.len(), errors, warnings, problems }));
        }
        Output::Text => {
            let rendered = problems::render(&found, &texts, context.colours);
            if !rendered.is_empty() {
                note(rendered.trim_end());
                note("");
            }
            let files = plural(read.len(), "file");
            match (errors, warnings) {
                (0, 0) => print(&format!("{files}: no problems")),
                _ => print(&format!("{files}: {}, {}", plural(errors, "error"), plural(warnings, "warning"))),
            }
        }
    }
    Ok(if errors > 0 { EXIT_FAILED } else { 0 })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::refused(format!("{} cannot be read: {error}", path.display()));
    if fs::metadata(path).map_err(cannot)?.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path).map_err(cannot)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        let yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && (yaml || entry.is_dir()) {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

fn known(context: &Context) -> Known {
    Known { vars: context.settings.vars.keys().cloned().collect(), secrets: context.settings.secret_names() }
}

fn site(bundle: &Bundle) -> Site<'_> {
    Site { workflow: None, files: bundle }
}

fn remember(texts: &mut Texts, file: &str, bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        texts.insert(file.to_owned(), Arc::from(text.strip_prefix('\u{feff}').unwrap_or(text)));
    }
}

/// Checks one file before it is submitted.
pub(crate) fn check_one(
    context: &Context,
    file: &str,
    bytes: &[u8],
    bundle: &Bundle,
) -> (Option<Graph>, Vec<Problem>, Texts) {
    let registry = types();
    let checked = check(file, bytes, &registry, &known(context), site(bundle));
    let mut texts = Texts::new();
    remember(&mut texts, file, bytes);
    (checked.graph, checked.problems, texts)
}
