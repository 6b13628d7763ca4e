//! What the documents promise: their snippets run, and every refusal that a page lists is one that a test names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Home, Ran, ran};

pub(crate) fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The first block of YAML below a line of a page.
fn snippet<'p>(page: &'p str, below: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("\n{below}\n")).expect(below);
    let (_, block) = rest.split_once("```yaml\n").expect("a block");
    block.split_once("```").expect("it ends").0
}

/// The lines of shell behind `- run: `, or below `script:`.
fn shell(snippet: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_script = false;
    for line in snippet.lines() {
        let text = line.trim();
        if let Some(run) = text.strip_prefix("- run: ") {
            lines.push(run.to_owned());
        } else if in_script && let Some(item) = text.strip_prefix("- ") {
            lines.push(item.to_owned());
        } else {
            in_script = text == "script:";
        }
    }
    lines
}

/// Runs the lines as a runner does: one shell, which ends at the first line that fails.
fn carried_out(home: &Home, lines: &[String]) -> Ran {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_graylane"));
    let folder = program.parent().expect("a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-ec", &lines.join("\n")]).current_dir(home.path(""));
    command.env_clear().env("PATH", path).env("HOME", home.path("nobody"));
    ran(&mut command)
}

const SARIF: &str = "graylane.sarif";

/// The snippets for pipelines do what their page says: with a good folder, and with one that has a mistake.
#[test]
fn snippets_for_pipelines_pass_a_good_folder_and_stop_at_a_bad_one() {
    let page = page("docs/workflow-reference.md");
    for below in ["GitHub Actions:", "GitLab CI:"] {
        let snippet = snippet(&page, below);
        let lines = shell(snippet);
        assert_eq!(lines.len(), 1, "{below} {lines:?}");
        assert!(snippet.contains(SARIF), "{below} the file that is written is the one that is handed on");
        let home = Home::new();
        let good = carried_out(&home, &lines).expect(0);
        if below.starts_with("GitHub") {
            let log = sarif(&home);
            assert_eq!(log["runs"][0]["results"].as_array().map(Vec::len), Some(0), "{log}");
        } else {
            assert!(good.stdout.contains("no problems"), "{good:?}");
            assert!(!home.path(SARIF).exists(), "the artifact is for a failure");
        }
        let file = "workflows/prod-workflow.yaml";
        home.edit(file, "type: prod-deploy", "type: prod-deplyo");
        let bad = carried_out(&home, &lines).expect(1);
        let log = sarif(&home);
        let results = log["runs"][0]["results"].as_array().expect("results");
        assert_eq!(results.len(), 1, "{log}");
        let place = &results[0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], file);
        assert!(place["region"]["startLine"].as_u64().is_some_and(|line| line > 1), "{log}");
        let words = results[0]["message"]["text"].as_str().expect("a text");
        assert!(words.contains("prod-deplyo") && words.contains("did you mean `prod-deploy`?"), "{words}");
        if below.starts_with("GitLab") {
            assert!(bad.stderr.contains("did you mean `prod-deploy`?"), "the job's log has it too: {bad:?}");
        }
    }
}

fn sarif(home: &Home) -> serde_json::Value {
    let text = fs::read_to_string(home.path(SARIF)).expect("written");
    let log: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(log["version"], "2.1.0");
    log
}

/// The code spans of a table's cell, those in parentheses left out.
pub(crate) fn spans(cell: &str) -> Vec<String> {
    let mut spans = Vec::new();
    let mut rest = cell;
    let mut depth = 0;
    while let Some(at) = rest.find(['`', '(', ')']) {
        let (mark, after) = (&rest[at..=at], &rest[at + 1..]);
        rest = after;
        match mark {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {
                let fence = if rest.starts_with('`') { "``" } else { "`" };
                let inner = &rest[fence.len() - 1..];
                let Some((span, after)) = inner.split_once(fence) else { break };
                if depth == 0 {
                    spans.push(span.replace('`', "").trim().to_owned());
                }
                rest = after;
            }
        }
    }
    spans
}

/// The words of a sentence between its placeholders: `NAME`, `N`, `HOST/PATH`, `...`.
pub(crate) fn fragments(sentence: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut word = String::new();
    // A space at the end closes the last word.
    for c in sentence.replace("...", " N ").chars().chain([' ']) {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        if !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase()) {
            all.push(String::new());
            word.clear();
        }
        if let Some(last) = all.last_mut() {
            last.push_str(&word);
            last.push(c);
        }
        word.clear();
    }
    let trimmed = all.iter().map(|fragment| fragment.trim_matches([' ', '/', '-', ':', ';', ',']).to_owned());
    trimmed.filter(|fragment| !fragment.is_empty()).collect()
}

/// Every line of every test.
fn lines_of_tests() -> Vec<String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lines = Vec::new();
    for folder in ["tests", "tasks/src", "engine/src"] {
        for file in crate::support::files_below(&repository.join(folder)) {
            let shown = file.display().to_string();
            if !shown.ends_with(".rs") || shown.ends_with("tests/pages.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("readable");
            let is_test = folder == "tests" || shown.contains("tests/") || shown.ends_with("tests.rs");
            let text = match (is_test, text.find("#[cfg(test)]")) {
                (true, _) => text.as_str(),
                (false, Some(at)) => &text[at..],
                (false, None) => "",
            };
            lines.extend(text.lines().map(|line| line.replace('`', "").replace("\\\"", "\"")));
        }
    }
    lines
}

fn is_named(sentence: &str, lines: &[String]) -> bool {
    let fragments = fragments(sentence);
    !fragments.is_empty()
        && lines.iter().any(|line| {
            let mut rest = line.as_str();
            fragments.iter().all(|fragment| match rest.split_once(fragment.as_str()) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        })
}

/// A blank line within a table makes text of the rows below it.
#[test]
fn every_row_of_a_table_stands_below_its_heading() {
    let without_heading = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let mut in_code = false;
        let mut found = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            let first =
                line.starts_with('|') && !index.checked_sub(1).is_some_and(|at| lines[at].starts_with('|'));
            if first && !in_code && !lines.get(index + 1).is_some_and(|next| next.starts_with("|--")) {
                found.push((*line).to_owned());
            }
        }
        found
    };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec!["README.md".into(), "README.zh-CN.md".into(), "CONTRIBUTING.md".into()];
    pages.extend(crate::support::files_below(&repository.join("docs")));
    let mut looked = 0;
    for page in pages.iter().filter(|page: &&PathBuf| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(repository.join(page)).expect("readable");
        looked += text.matches("\n|--").count();
        assert_eq!(without_heading(&text), Vec::<String>::new(), "{}", page.display());
    }
    assert!(looked > 30, "tables were seen: {looked}");
    assert_eq!(without_heading("| a |\n|---|\n| b |\n\n| c |\n"), ["| c |"]);
}

#[test]
fn every_refusal_and_note_of_the_page_is_named_by_a_test() {
    let (page, lines) = (page("docs/refusals.md"), lines_of_tests());
    let mut in_table = false;
    let mut looked = 0;
    let mut missing = Vec::new();
    for line in page.lines() {
        let heads = line.starts_with("| Refusal") || line.starts_with("| Note");
        assert!(in_table || heads || !line.starts_with('|'), "a row that belongs to no table: {line}");
        in_table = line.starts_with('|');
        if !in_table
            || line.starts_with("|---")
            || line.starts_with("| Refusal")
            || line.starts_with("| Note")
        {
            continue;
        }
        let cell = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        for sentence in spans(cell) {
            looked += 1;
            if !is_named(&sentence, &lines) {
                missing.push(sentence);
            }
        }
    }
    assert!(looked > 130, "the page was read: {looked}");
    assert_eq!(missing, Vec::<String>::new(), "no test names these");
    // The control: what nobody says is named by nobody.
    assert!(!is_named("this refusal NAME was never written", &lines));
}
