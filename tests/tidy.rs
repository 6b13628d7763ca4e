//! The three sentences with 'only', and which way imports point. docs/ARCHITECTURE.md says them in words.

use std::fs;
use std::path::Path;

use crate::support::files_below;

/// Every Rust file below a folder of the repository, as (path from its root, lines of code without comments).
fn sources(folder: &str) -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for path in files_below(&root.join(folder)) {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let text = fs::read_to_string(&path).expect("readable");
            let code =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect();
            files.push((name, code));
        }
    }
    assert!(!files.is_empty(), "{folder} has sources");
    files
}

/// Lines of code that name one of these crates.
fn naming(folder: &str, crates: &[&str], except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, lines) in sources(folder) {
        if except.iter().any(|allowed| file.starts_with(allowed)) {
            continue;
        }
        for line in lines {
            let names = |name: &&str| {
                line.contains(&format!("{name}::"))
                    || line.contains(&format!("use {name};"))
                    || line.contains(&format!("{name}!("))
            };
            if crates.iter().any(names) {
                found.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    found
}

const NONE: Vec<String> = Vec::new();

#[test]
fn only_tasks_and_the_rehearsal_know_a_cluster() {
    let cluster = ["kube", "k8s_openapi"];
    assert_eq!(naming("engine/src", &cluster, &[]), NONE);
    assert_eq!(naming("src", &cluster, &[]), NONE);
}

#[test]
fn only_the_rim_serves_http_and_talks_to_a_terminal() {
    let rim =
        ["axum", "clap", "indicatif", "comfy_table", "annotate_snippets", "println", "eprintln", "print"];
    assert_eq!(naming("engine/src", &rim, &[]), NONE);
    assert_eq!(naming("tasks/src", &rim, &[]), NONE);
    // It plays a cluster and its gateway, and these serve; no page and no terminal.
    assert_eq!(naming("rehearsal/src", &rim, &[]), NONE);
}

#[test]
fn only_the_journal_on_disk_names_sled() {
    for folder in ["engine/src", "tasks/src", "rehearsal/src", "src"] {
        assert_eq!(naming(folder, &["sled"], &["engine/src/journal/disk.rs"]), NONE);
    }
}

/// What changes a cluster by the client library's names.
const WRITES: [&str; 8] = [
    "PatchParams",
    "PostParams",
    "DeleteParams",
    "Patch::",
    ".delete_collection(",
    ".replace_status(",
    ".patch_status(",
    "Preconditions",
];

/// The functions of a file, each with its lines: a new one begins with a line that holds ` fn `.
fn functions(lines: &[String]) -> Vec<(String, Vec<&String>)> {
    let mut all: Vec<(String, Vec<&String>)> = Vec::new();
    for line in lines {
        if let Some((_, rest)) = format!(" {}", line.trim_start()).split_once(" fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
            all.push((name, Vec::new()));
        }
        if let Some((_, body)) = all.last_mut() {
            body.push(line);
        }
    }
    all
}

/// Leases are asked for by the calls themselves, so there may be no call beside these.
#[test]
fn whatever_changes_a_cluster_asks_for_its_lease_first() {
    // Lease objects themselves, reviews that change nothing, and the baseline that a rehearsal, or a test, begins with.
    let files = ["tasks/src/cluster/leases.rs", "tasks/src/cluster/reviews.rs"];
    let functions_aside = ["create_all"];
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (file, lines) in sources("tasks/src") {
        if files.contains(&file.as_str()) {
            continue;
        }
        let code: Vec<String> = lines.into_iter().take_while(|line| !line.contains("#[cfg(test)]")).collect();
        for (name, body) in functions(&code) {
            let writes = body.iter().any(|line| WRITES.iter().any(|word| line.contains(word)));
            if !writes || functions_aside.contains(&name.as_str()) {
                continue;
            }
            let asks = ["self.write_call(", "Purpose::Write("];
            if body.iter().any(|line| asks.iter().any(|word| line.contains(word))) {
                right += 1
            } else {
                wrong.push(format!("{file}: {name}"))
            }
        }
    }
    assert_eq!(wrong, NONE);
    assert_eq!(right, 4, "apply, patch, delete and the label of a namespace; a new one is a new line here");
    // Nobody else enters the scope in which writes go through.
    let scopes = naming("tasks/src", &["Attempt"], &["tasks/src/lease.rs", "tasks/src/cluster/attempt.rs"]);
    assert_eq!(scopes, NONE);
}

#[test]
fn crates_point_down_only() {
    let ours = ["graylane_engine", "graylane_tasks", "graylane_rehearsal"];
    assert_eq!(naming("engine/src", &ours, &[]), NONE);
    assert_eq!(naming("rehearsal/src", &ours, &[]), NONE);
    assert_eq!(naming("tasks/src", &["graylane_rehearsal"], &[]), NONE);
}

#[test]
fn a_module_of_the_engine_imports_only_from_modules_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lib = fs::read_to_string(root.join("engine/src/lib.rs")).expect("readable");
    let order: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(|name| name.trim_end_matches(';'))
        .collect();
    let place = |name: &str| order.iter().position(|module| *module == name);
    let mut wrong = Vec::new();
    for (file, lines) in sources("engine/src") {
        let module =
            file.trim_start_matches("engine/src/").split(['/', '.']).next().unwrap_or_default().to_owned();
        // Tests may look at what is below.
        if module == "lib" || file.ends_with("tests.rs") || file.contains("/tests/") {
            continue;
        }
        let code = lines.iter().take_while(|line| !line.contains("#[cfg(test)]"));
        for line in code {
            for imported in line.split("crate::").skip(1) {
                let name =
                    imported.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if let (Some(mine), Some(theirs)) = (place(&module), place(name))
                    && theirs > mine
                {
                    wrong.push(format!("{file}: {}", line.trim()));
                }
            }
        }
    }
    assert_eq!(wrong, NONE);
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["engine/src", "tasks/src", "rehearsal/src", "src", "tests", "xtask/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for path in files_below(&root.join(folder)) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                assert!(text.starts_with("//!"), "{} does not begin with `//!`", path.display());
            }
        }
    }
}
