//! Label and field selectors of lists and watches.

use serde_json::{Map, Value};

use crate::kinds::{self, Kind};
use crate::object;
use crate::query::Query;
use crate::status::Failure;

/// What a list or watch asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, bool)>,
}

const GENERAL: &[&str] = &["metadata.name", "metadata.namespace"];

fn selectable(kind: &Kind, field: &str) -> bool {
    match kind.resource {
        kinds::PODS => matches!(
            field,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "status.phase"
                | "status.podIP"
        ),
        kinds::EVENTS => {
            field.starts_with("involvedObject.")
                || matches!(field, "reason" | "reportingComponent" | "source" | "type")
        }
        kinds::NAMESPACES => field == "status.phase",
        kinds::SECRETS => field == "type",
        kinds::REPLICA_SETS => field == "status.replicas",
        kinds::JOBS => field == "status.successful",
        kinds::NODES => field == "spec.unschedulable",
        _ => false,
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Failure> {
        Ok(Self {
            labels: parse_labels(labels.unwrap_or_default())?,
            fields: parse_fields(fields.unwrap_or_default())?,
        })
    }

    /// The selectors of a request; a field that the kind cannot be selected by is an error.
    pub(crate) fn of(kind: &Kind, query: &Query) -> Result<Self, Failure> {
        let selector = Self::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
        for (field, _, _) in &selector.fields {
            if !GENERAL.contains(&field.as_str()) && !selectable(kind, field) {
                return Err(Failure::bad_request(format!(
                    "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )));
            }
        }
        Ok(selector)
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object::map(object, "/metadata/labels");
        self.labels.iter().all(|one| one.holds(labels))
            && self.fields.iter().all(|(path, value, equal)| (field(object, path) == *value) == *equal)
    }
}

impl Requirement {
    fn holds(&self, labels: Option<&Map<String, Value>>) -> bool {
        let found = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        match &self.test {
            Test::In(values) => found.is_some_and(|found| values.iter().any(|value| value == found)),
            Test::NotIn(values) => !found.is_some_and(|found| values.iter().any(|value| value == found)),
            Test::Exists => found.is_some(),
            Test::Missing => found.is_none(),
        }
    }
}

/// Whether a `LabelSelector` object (matchLabels and matchExpressions) holds for the labels.
pub(crate) fn label_selector_holds(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    let equal = object::map(selector, "/matchLabels");
    let expressions = object::list(selector, "/matchExpressions");
    if equal.is_none_or(Map::is_empty) && expressions.is_empty() {
        return false;
    }
    equal.is_none_or(|equal| equal.is_empty() || object::selects(Some(equal), labels))
        && expressions.iter().all(|expression| {
            let values = object::list(expression, "/values")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let test = match object::text(expression, "/operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                _ => Test::Missing,
            };
            Requirement { key: object::text(expression, "/key").to_owned(), test }.holds(labels)
        })
}

fn field(object: &Value, path: &str) -> String {
    let pointer = format!("/{}", path.trim_start_matches('.').replace('.', "/"));
    match object.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

fn parse_fields(text: &str) -> Result<Vec<(String, String, bool)>, Failure> {
    let parse = |part: &str| {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some((key, value)) = part.split_once(operator) {
                return Ok((key.trim().to_owned(), value.trim().to_owned(), equal));
            }
        }
        Err(Failure::bad_request(format!("invalid field selector {text:?}: can't understand {part:?}")))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse).collect()
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, Failure> {
    split_outside_parentheses(text).into_iter().map(|part| parse_requirement(part, text)).collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0i32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn parse_requirement(part: &str, whole: &str) -> Result<Requirement, Failure> {
    let requirement = |key: &str, test| Ok(Requirement { key: key.trim().to_owned(), test });
    if let Some((head, rest)) = part.split_once('(') {
        let values =
            rest.trim_end().trim_end_matches(')').split(',').map(|value| value.trim().to_owned()).collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        return match words.as_slice() {
            [key, "in"] => requirement(key, Test::In(values)),
            [key, "notin"] => requirement(key, Test::NotIn(values)),
            _ => Err(Failure::bad_request(format!("unable to parse requirement: {whole:?}"))),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return requirement(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return requirement(key, Test::In(vec![value.trim().to_owned()]));
    }
    match part.strip_prefix('!') {
        Some(key) => requirement(key, Test::Missing),
        None if part.contains(char::is_whitespace) => {
            Err(Failure::bad_request(format!("unable to parse requirement: {whole:?}")))
        }
        None => requirement(part, Test::Exists),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_say_what_kubernetes_says() {
        let object = json!({"metadata": {"name": "x", "labels": {"app": "a", "tier": "front"}}, "status": {"phase": "Running"}});
        let table = [
            ("app=a", true),
            ("app==a,tier=front", true),
            ("app!=a", false),
            ("none!=a", true),
            ("app in (a, b),tier notin (back)", true),
            ("app in (b)", false),
            ("app", true),
            ("!app", false),
            ("!none", true),
            ("", true),
        ];
        for (text, expected) in table {
            assert_eq!(Selector::parse(Some(text), None).unwrap().matches(&object), expected, "{text}");
        }
        assert!(Selector::parse(Some("a b c"), None).is_err());
        assert!(
            Selector::parse(None, Some("metadata.name=x,status.phase!=Failed")).unwrap().matches(&object)
        );
        assert!(!Selector::parse(None, Some("metadata.name=y")).unwrap().matches(&object));
    }
}
