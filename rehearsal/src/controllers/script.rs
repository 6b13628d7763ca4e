//! A stand-in for scripts: nothing is executed. Of `/bin/sh -ec SCRIPT` the lines `echo`, `sleep` and `exit` are played.
//!
//! Arguments and variables are expanded first, as a kubelet does it. Any other line is named in the log as not played.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::object::{list, text};

/// What a container will do: lines of its log with the time after its start, and its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    pub(super) lines: Vec<(Duration, String)>,
    pub(super) ends: Duration,
    pub(super) code: i64,
}

/// The script of a container, where it has one.
pub(super) fn of(spec: &Value) -> Option<Script> {
    let words: Vec<&str> =
        ["/command", "/args"].iter().flat_map(|at| list(spec, at)).filter_map(Value::as_str).collect();
    let ["/bin/sh" | "sh", "-ec" | "-c", script] = words.as_slice() else { return None };
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for variable in list(spec, "/env") {
        let value = expanded(text(variable, "/value"), &env);
        env.insert(text(variable, "/name").to_owned(), value);
    }
    Some(played(&expanded(script, &env), &env))
}

/// `$(NAME)` becomes a value, `$$` becomes `$` (Kubernetes, "Define Dependent Environment Variables").
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let named = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        rest = match (after.strip_prefix('$'), named) {
            (Some(after), _) => {
                out.push('$');
                after
            }
            (None, Some((name, after))) => {
                out.push_str(&env.get(name).cloned().unwrap_or_else(|| format!("$({name})")));
                after
            }
            (None, None) => {
                out.push('$');
                after
            }
        };
    }
    out + rest
}

fn played(script: &str, env: &BTreeMap<String, String>) -> Script {
    let mut lines = Vec::new();
    let mut at = Duration::ZERO;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("echo", words) => lines.push((at, substituted(words, env))),
            ("sleep", seconds) => {
                let span = substituted(seconds, env).trim().parse().ok();
                at += span.and_then(|span| Duration::try_from_secs_f64(span).ok()).unwrap_or_default();
            }
            ("exit", code) => {
                return Script { lines, ends: at, code: substituted(code, env).trim().parse().unwrap_or(2) };
            }
            _ => lines.push((at, format!("rehearsal: not played: {line}"))),
        }
    }
    Script { lines, ends: at, code: 0 }
}

/// `$NAME` and `${NAME}` become values, quotes go: as much of a shell as a log line needs.
fn substituted(words: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let plain = words.replace(['"', '\''], "");
    let mut rest = plain.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, after) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some(both) => both,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            }
        };
        if name.is_empty() {
            out.push('$');
        }
        out.push_str(env.get(name).map(String::as_str).unwrap_or_default());
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn echo_sleep_and_exit_are_played_and_the_rest_is_named() {
        let spec = json!({
            "command": ["/bin/sh", "-ec"],
            "args": ["# a comment\necho \"tag $$TAG\"\nsleep 0.5\ncurl http://a\necho ${BASE}/a $(TAG)\nexit 3\necho never"],
            "env": [{ "name": "TAG", "value": "gray" }, { "name": "BASE", "value": "x" }],
        });
        let half = Duration::from_millis(500);
        let script = of(&spec).expect("a script");
        let lines: Vec<(Duration, &str)> =
            script.lines.iter().map(|(at, line)| (*at, line.as_str())).collect();
        assert_eq!(
            lines,
            [
                (Duration::ZERO, "tag gray"),
                (half, "rehearsal: not played: curl http://a"),
                (half, "x/a gray"),
            ]
        );
        assert_eq!((script.ends, script.code), (half, 3));
        assert_eq!(of(&json!({ "args": ["a"] })), None);
    }
}
