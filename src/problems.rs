//! Problems of files as people read them: the line, the mark, what was expected; or as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use graylane_engine::document::{Problem, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A problem as the API and `-o json` tell it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct WireProblem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// What stands under the mark.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl From<&Problem> for WireProblem {
    fn from(problem: &Problem) -> WireProblem {
        WireProblem {
            file: problem.file.clone(),
            line: problem.place.as_ref().map(|place| place.line),
            column: problem.place.as_ref().map(|place| place.column),
            severity: severity_word(problem.severity).into(),
            message: problem.message.clone(),
            label: problem.label.clone(),
            hints: problem.hints.clone(),
        }
    }
}

/// `error` or `warning`.
pub(crate) fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// Problems as a SARIF 2.1.0 log (OASIS: Static Analysis Results Interchange Format), as code hosts read it. Columns
/// count characters.
pub(crate) fn sarif(problems: &[Problem]) -> Value {
    let results: Vec<Value> = problems
        .iter()
        .map(|problem| {
            let mut text = problem.message.clone();
            for more in std::iter::once(&problem.label).chain(&problem.hints).filter(|more| !more.is_empty())
            {
                text.push_str(&format!("; {more}"));
            }
            let region = problem
                .place
                .as_ref()
                .map(|place| json!({ "startLine": place.line, "startColumn": place.column }));
            let mut place = json!({ "artifactLocation": { "uri": uri(&problem.file) } });
            if let (Some(place), Some(region)) = (place.as_object_mut(), region) {
                place.insert("region".into(), region);
            }
            json!({
                "ruleId": "workflow-file",
                "level": severity_word(problem.severity),
                "message": { "text": text },
                "locations": [{ "physicalLocation": place }],
            })
        })
        .collect();
    let rule = json!({ "id": "workflow-file", "shortDescription": { "text": "a file that Graylane cannot use as it stands" } });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "graylane", "version": env!("CARGO_PKG_VERSION"), "rules": [rule] } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// A path as a relative reference (RFC 3986): everything but unreserved characters and `/` is escaped.
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// The texts of files by name, for the lines that are shown.
pub(crate) type Texts = HashMap<String, Arc<str>>;

/// More problems than these help nobody on a terminal; `-o json` has all of them.
const SHOWN: usize = 200;

/// The problems, one block each.
pub(crate) fn render(problems: &[Problem], texts: &Texts, colours: bool) -> String {
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for problem in problems.iter().take(SHOWN) {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(problem.message.as_str());
        let mut group = match (&problem.place, texts.get(&problem.file)) {
            // The library panics on a range beyond its text.
            (Some(place), Some(text)) if place.bytes.end <= text.len() && !place.bytes.is_empty() => {
                // Only the marked lines: it would read the whole file again for every problem.
                let start = text[..place.bytes.start].rfind('\n').map_or(0, |newline| newline + 1);
                let end = text[place.bytes.end..]
                    .find('\n')
                    .map_or(text.len(), |newline| place.bytes.end + newline);
                let mark = AnnotationKind::Primary.span(place.bytes.start - start..place.bytes.end - start);
                let mark = if problem.label.is_empty() { mark } else { mark.label(problem.label.as_str()) };
                let lines =
                    Snippet::source(&text[start..end]).line_start(place.line).path(problem.file.as_str());
                title.element(lines.annotation(mark))
            }
            (Some(place), _) => {
                let origin = Origin::path(problem.file.as_str()).line(place.line).char_column(place.column);
                let group = title.element(origin);
                if problem.label.is_empty() {
                    group
                } else {
                    group.element(Level::NOTE.message(problem.label.as_str()))
                }
            }
            (None, _) => title.element(Origin::path(problem.file.as_str())),
        };
        for hint in &problem.hints {
            group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    if problems.len() > SHOWN {
        out.push_str(&format!("... and {} more; `-o json` has all of them\n\n", problems.len() - SHOWN));
    }
    out
}
