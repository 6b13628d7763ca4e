//! JSONPath (RFC 9535) over the body of an answer. The library recurses, so a path is bounded before it is parsed.

use graylane_engine::schema::value_words;
use jsonpath_rust::JsonPath as _;
use jsonpath_rust::parser::parse_json_path;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const MAX_PATH: usize = 200;
const MAX_DEPTH: usize = 8;
const MAX_DESCENTS: usize = 2;

/// What a JSONPath must find.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JsonWith {
    /// The path, as RFC 9535 writes it.
    pub path: String,
    /// Every value that it finds is this one, and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// Every value that it finds is a text in which this regular expression matches, and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// Every value that it finds is a number of at least this, and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Every value that it finds is a number of at most this, and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Whether it finds anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// How many values it finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Why a path is not taken.
pub(super) fn refusal(path: &str) -> Option<String> {
    if path.len() > MAX_PATH {
        return Some(format!("a path has at most {MAX_PATH} bytes"));
    }
    let mut depth = 0_usize;
    for letter in path.chars() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(format!("brackets stand at most {MAX_DEPTH} deep"));
        }
    }
    // Each `!` and each comparison in a filter is a level of the library's grammar too.
    if path.matches('!').count() > MAX_DEPTH {
        return Some(format!("`!` stands at most {MAX_DEPTH} times"));
    }
    if path.matches("..").count() > MAX_DESCENTS {
        return Some(format!("`..` stands at most {MAX_DESCENTS} times"));
    }
    if !path.starts_with('$') {
        return Some("a path begins with `$`".into());
    }
    parse_json_path(path).err().map(|_| "expected a JSONPath as in `$.items[0].status`".into())
}

impl JsonWith {
    /// What is wrong with a body; nothing where it is as expected.
    pub(super) fn complaint(&self, body: &Value) -> Option<String> {
        let path = &self.path;
        if let Some(why) = refusal(path) {
            return Some(format!("`{path}` is not a path: {why}"));
        }
        let found = match body.query(path) {
            Ok(found) => found,
            Err(error) => return Some(format!("`{path}` cannot be looked up: {error}")),
        };
        if let Some(exists) = self.exists {
            match (exists, found.first()) {
                (true, None) => return Some(format!("`{path}` finds nothing")),
                (false, Some(value)) => {
                    return Some(format!("`{path}` is {}, and was expected not to be there", shown(value)));
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        if let Some(count) = self.count
            && found.len() as u64 != count
        {
            return Some(format!("`{path}` finds {} values, {count} were expected", found.len()));
        }
        let judges =
            self.equals.is_some() || self.matches.is_some() || self.min.is_some() || self.max.is_some();
        if judges && found.is_empty() {
            return Some(format!("`{path}` finds nothing"));
        }
        found.into_iter().find_map(|value| self.of_one(value))
    }

    fn of_one(&self, value: &Value) -> Option<String> {
        let path = &self.path;
        if let Some(wanted) = &self.equals
            && !same(value, wanted)
        {
            return Some(format!("`{path}` is {}, {} was expected", shown(value), shown(wanted)));
        }
        if let Some(pattern) = &self.matches {
            let matches = match (value.as_str(), Regex::new(pattern)) {
                (Some(text), Ok(pattern)) => pattern.is_match(text),
                (_, Err(_)) => return Some(format!("`{pattern}` is not a regular expression")),
                (None, Ok(_)) => false,
            };
            if !matches {
                return Some(format!("`{path}` is {}, which `{pattern}` does not match", shown(value)));
            }
        }
        if self.min.is_some() || self.max.is_some() {
            let Some(number) = value.as_f64() else {
                return Some(format!("`{path}` is {}, a number was expected", value_words(value)));
            };
            if let Some(min) = self.min.filter(|min| number < *min) {
                return Some(format!("`{path}` is {number}, {min} at least was expected"));
            }
            if let Some(max) = self.max.filter(|max| number > *max) {
                return Some(format!("`{path}` is {number}, {max} at most was expected"));
            }
        }
        None
    }
}

/// Whether two values are the same; 1 and 1.0 are.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_says_what_it_found_in_the_place_of_what_was_expected() {
        let body = json!({
            "status": "UP", "queue": 3, "ready": true,
            "components": { "db": { "status": "UP" }, "cache": { "status": "DOWN" } },
            "items": [{ "id": 1, "price": 2.5 }, { "id": 2, "price": 10 }],
        });
        for (expect, complaint) in [
            (json!({ "path": "$.status", "equals": "UP" }), None),
            (
                json!({ "path": "$.status", "equals": "DOWN" }),
                Some(r#"`$.status` is "UP", "DOWN" was expected"#),
            ),
            (json!({ "path": "$.queue", "equals": 3.0 }), None),
            (json!({ "path": "$.queue", "max": 2 }), Some("`$.queue` is 3, 2 at most was expected")),
            (json!({ "path": "$.queue", "min": 4 }), Some("`$.queue` is 3, 4 at least was expected")),
            (json!({ "path": "$.status", "max": 2 }), Some("`$.status` is a text, a number was expected")),
            (json!({ "path": "$.ready", "equals": true }), None),
            (json!({ "path": "$.nothing", "equals": "UP" }), Some("`$.nothing` finds nothing")),
            (json!({ "path": "$.nothing", "exists": false }), None),
            (json!({ "path": "$.nothing", "exists": true }), Some("`$.nothing` finds nothing")),
            (
                json!({ "path": "$.queue", "exists": false }),
                Some("`$.queue` is 3, and was expected not to be there"),
            ),
            (
                json!({ "path": "$.components.*.status", "equals": "UP" }),
                Some(r#"`$.components.*.status` is "DOWN", "UP" was expected"#),
            ),
            (json!({ "path": "$..price", "max": 10 }), None),
            (json!({ "path": "$.items[?@.price > 5].id", "equals": 2 }), None),
            (
                json!({ "path": "$.items[*]", "count": 3 }),
                Some("`$.items[*]` finds 2 values, 3 were expected"),
            ),
            (json!({ "path": "$.status", "matches": "^U" }), None),
            (
                json!({ "path": "$.status", "matches": "^D" }),
                Some(r#"`$.status` is "UP", which `^D` does not match"#),
            ),
            (
                json!({ "path": "status", "exists": true }),
                Some("`status` is not a path: a path begins with `$`"),
            ),
            (
                json!({ "path": "$.[", "exists": true }),
                Some("`$.[` is not a path: expected a JSONPath as in `$.items[0].status`"),
            ),
            (
                json!({ "path": "$..a..b..c", "exists": true }),
                Some("`$..a..b..c` is not a path: `..` stands at most 2 times"),
            ),
        ] {
            let with: JsonWith = serde_json::from_value(expect.clone()).expect("valid");
            assert_eq!(with.complaint(&body).as_deref(), complaint, "{expect}");
        }
    }

    #[test]
    fn a_path_without_end_is_refused_before_it_is_read() {
        for path in ["$".to_owned() + &"[?(".repeat(60), "$[?".to_owned() + &"!".repeat(150), "$".repeat(300)]
        {
            assert!(refusal(&path).is_some(), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_path_ends_the_process(parts in proptest::collection::vec(
            prop_oneof![
                Just("$"), Just("."), Just(".."), Just("*"), Just("["), Just("]"), Just("?"), Just("@"), Just("("),
                Just(")"), Just("'a'"), Just("a"), Just("0"), Just("-1"), Just(":"), Just("=="), Just("&&"),
                Just("!"), Just(" "), Just("length"), Just("match"), Just(","), Just("9999999999999999999"),
                Just("\u{7070}"), Just("\""), Just("1e400"), Just("search("), Just("count("), Just("value("),
            ],
            0..24,
        )) {
            let path = format!("${}", parts.concat());
            let body = json!({ "a": [1, { "a": "x", "length": [] }, null], "\u{7070}": { "a": -1.5 } });
            let with = JsonWith {
                path, equals: None, matches: Some("x".into()), min: Some(0.0), max: None, exists: Some(true), count: None,
            };
            let _ = with.complaint(&body);
        }
    }
}
