//! What a script in a Job and a program of the operator have in common: variables, a deadline, and exit codes that are right.
//!
//! It runs nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use graylane_engine::clock::parse_duration;
use graylane_engine::document::{Finding, step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::samples::Sample;
use crate::spec::check_duration;

/// What no schema can say of it.
pub(super) fn check(with: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in with.get("env").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys) {
        if let Err(why) = is_variable(name) {
            findings.push(Finding::at(step("/env", name), why).on_key());
        }
    }
    check_duration(with.get("deadline"), "/deadline", &mut findings);
    findings
}

/// As a workflow gives it.
pub(super) struct Given<'g> {
    pub(super) env: &'g BTreeMap<String, String>,
    pub(super) deadline: Option<&'g str>,
    pub(super) exit_codes: Option<&'g [u8]>,
}

impl Given<'_> {
    /// How it must end: within `deadline` where nothing else is said.
    pub(super) fn ends(&self, deadline: Duration) -> Result<Ends, String> {
        self.env.keys().try_for_each(|name| is_variable(name))?;
        let deadline = self.deadline.map(parse_duration).transpose()?.unwrap_or(deadline);
        let exit_codes = self.exit_codes.map_or_else(|| vec![0], <[u8]>::to_vec);
        Ok(Ends { deadline_ms: millis(deadline), exit_codes })
    }
}

/// How it must end to be right.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ends {
    pub(super) deadline_ms: u64,
    exit_codes: Vec<u8>,
}

impl Ends {
    /// The same, with a deadline within these bounds.
    pub(super) fn between(self, least: Duration, most: Duration) -> Ends {
        Ends { deadline_ms: self.deadline_ms.clamp(millis(least), millis(most)), ..self }
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// What an exit code means.
    pub(super) fn judged(&self, code: i64, said: &str) -> Sample {
        let words = format!("exit code {code}{said}");
        let right = u8::try_from(code).is_ok_and(|code| self.exit_codes.contains(&code));
        if right { Sample::right(words) } else { Sample::wrong(words) }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn is_variable(name: &str) -> Result<(), String> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let fits = first && name.len() <= 200 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits { Ok(()) } else { Err(format!("`{name}` cannot be the name of a variable")) }
}

/// The last line of what it printed, behind its exit code.
pub(super) fn tail(printed: &str) -> String {
    let last = printed.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map(|line| format!(": {}", line.chars().take(300).collect::<String>())).unwrap_or_default()
}
